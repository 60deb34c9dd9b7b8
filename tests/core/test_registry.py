"""The registry of swarms: nobody lost, nobody favoured, nobody kept too long, at any size."""

import socket
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from minibit.core.blocks import full_mask, indices_of, mask_of
from minibit.tracker import initial
from minibit.tracker.connected import ConnectedPeers
from minibit.tracker.registry import DEFAULT_SWARM, AddressConflictError, Announcement, Registry, Totals

TTL_S = 120.0
OTHER_SWARM = "a" * 40


class Clock:
    """A clock that moves when told to."""

    def __init__(self):
        self.now_s = 1000.0
        self.lock = threading.Lock()

    def __call__(self):
        return self.now_s

    def advance(self, seconds):
        with self.lock:  # an update lost between threads would turn the time back
            self.now_s += seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def registry(clock):
    return make_registry(clock)


def make_registry(clock, total_blocks=50, rng_seed=1):
    return Registry(rng=Random(rng_seed), clock=clock, peer_ttl_s=TTL_S, total_blocks=total_blocks)


def enter(registry, peer_id, swarm_key=OTHER_SWARM, *, source_ip="10.0.0.1", count=50, grant=None, **fields):
    announcement = Announcement(peer_id, source_ip, fields.pop("ip", source_ip), fields.pop("port", 6881), **fields)
    return registry.register(swarm_key, announcement, count=count, grant=grant)


def names(entries):
    return [entry.peer_id for entry in entries]


def test_a_newcomer_is_told_of_the_others_and_never_of_itself(registry):
    """The whole purpose of a tracker: peers find each other."""
    assert enter(registry, "a").peers == []
    assert names(enter(registry, "b").peers) == ["a"]
    assert sorted(names(enter(registry, "c").peers)) == ["a", "b"]


def test_swarms_are_kept_apart(registry):
    """A peer of another file is of no use to anybody."""
    enter(registry, "a", OTHER_SWARM)
    enter(registry, "b", DEFAULT_SWARM)
    assert names(registry.sample(OTHER_SWARM, count=5)) == ["a"]
    assert names(registry.sample(DEFAULT_SWARM, count=5)) == ["b"]


def test_asking_about_an_unknown_swarm_stores_nothing(registry):
    """Anyone can ask: questions must not fill the memory."""
    assert registry.sample(OTHER_SWARM, count=5, without="a") == []
    assert registry.totals() == Totals(peers=0, seeds=0, swarms=0)


def test_the_last_peer_takes_its_swarm_along(registry):
    """A tracker that runs for months sees many swarms end."""
    enter(registry, "a")
    assert registry.totals().swarms == 1
    assert registry.remove(OTHER_SWARM, "a", "10.0.0.1")
    assert registry.totals() == Totals(peers=0, seeds=0, swarms=0)
    assert not registry.remove(OTHER_SWARM, "a", "10.0.0.1")


def test_another_address_cannot_take_over_or_remove_a_live_name(registry):
    """Otherwise one message from anywhere redirects or silences a peer."""
    enter(registry, "a", port=1)
    with pytest.raises(AddressConflictError, match="'a'"):
        enter(registry, "a", source_ip="10.0.0.2", port=2)
    with pytest.raises(AddressConflictError):
        registry.remove(OTHER_SWARM, "a", "10.0.0.2")
    assert [(entry.ip, entry.port) for entry in registry.sample(OTHER_SWARM, count=5)] == [("10.0.0.1", 1)]


def test_a_name_is_free_again_once_its_peer_is_gone(registry, clock):
    """A laptop that came back with another address must get in."""
    enter(registry, "a")
    clock.advance(TTL_S)
    enter(registry, "a", source_ip="10.0.0.2")
    assert registry.sample(OTHER_SWARM, count=5)[0].ip == "10.0.0.2"


def test_a_peer_is_listed_until_its_time_to_live_is_over_and_not_longer(registry, clock):
    """Too short loses live peers, too long hands out dead ones."""
    enter(registry, "a")
    clock.advance(TTL_S - 0.001)
    assert names(registry.sample(OTHER_SWARM, count=5)) == ["a"]
    clock.advance(0.001)
    assert registry.sample(OTHER_SWARM, count=5) == []


def test_registering_again_renews_and_asking_does_not(registry, clock):
    """Anyone can ask in another's name: that must not keep the dead alive."""
    enter(registry, "renewed")
    enter(registry, "asking")
    clock.advance(TTL_S / 2)
    enter(registry, "renewed")
    registry.sample(OTHER_SWARM, count=5, without="asking")
    clock.advance(TTL_S / 2)
    assert names(registry.sample(OTHER_SWARM, count=5)) == ["renewed"]


def test_peers_of_forgotten_swarms_expire_through_traffic_elsewhere(registry, clock):
    """A swarm nobody asks about any more must not stay in memory."""
    enter(registry, "forgotten", OTHER_SWARM)
    clock.advance(TTL_S)
    enter(registry, "fresh", "b" * 40)
    assert registry.totals() == Totals(peers=1, seeds=0, swarms=1)


def test_seeds_are_counted_while_they_live(registry, clock):
    """An operator reads from the seeds whether a swarm can end."""
    enter(registry, "s", seed=True)
    enter(registry, "l", seed=False)
    assert registry.totals() == Totals(peers=2, seeds=1, swarms=1)
    assert {entry.peer_id: entry.seed for entry in registry.sample(OTHER_SWARM, count=5)} == {"s": True, "l": False}
    enter(registry, "s")  # says nothing of being a seed: stays one
    enter(registry, "l", seed=True)
    assert registry.totals().seeds == 2
    clock.advance(TTL_S)
    assert registry.totals().seeds == 0


def test_registering_again_replaces_what_is_known_and_keeps_the_initial_blocks(registry):
    """An answer may get lost: asking again must not hand out different blocks."""
    first = enter(registry, "a", DEFAULT_SWARM, grant=lambda unowned: 0b101, blocks=0b10, port=1)
    again = enter(registry, "a", DEFAULT_SWARM, grant=lambda unowned: pytest.fail("not a newcomer"), port=2)
    assert first.initial_blocks == again.initial_blocks == 0b101
    entry = registry.sample(DEFAULT_SWARM, count=1)[0]
    assert (entry.port, entry.blocks_owned) == (2, [0, 1, 2])
    enter(registry, "a", DEFAULT_SWARM, blocks=0b1000)
    assert registry.sample(DEFAULT_SWARM, count=1)[0].blocks_owned == [3]


def test_the_grant_is_told_which_blocks_nobody_owns(registry):
    """The cover policy rests on it, also after peers have left."""
    told = []

    def grant(unowned):
        told.append(unowned)
        return 0

    enter(registry, "a", DEFAULT_SWARM, blocks=0b0011, grant=grant)
    enter(registry, "b", DEFAULT_SWARM, blocks=0b0110, grant=grant)
    registry.remove(DEFAULT_SWARM, "a", "10.0.0.1")
    enter(registry, "c", DEFAULT_SWARM, grant=grant)
    everything = full_mask(50)
    assert told == [everything & ~0b0011, everything & ~0b0111, everything & ~0b0110]


def chi_square(observed, expected):
    return sum((count - expected) ** 2 / expected for count in observed)


@pytest.mark.parametrize("size", [6, 40, 400])
def test_every_peer_is_handed_out_equally_often(clock, size):
    """A favoured peer is an overloaded peer; ``random.sample`` works differently below and above some size."""
    registry = make_registry(clock)
    for number in range(size):
        enter(registry, str(number), count=0)
    for number in range(0, size, 3):  # holes filled by the last: the dense list is no longer in order of arrival
        registry.remove(OTHER_SWARM, str(number), "10.0.0.1")
        enter(registry, str(number), count=0)
    draws = 400 * size // 5
    seen = dict.fromkeys(map(str, range(1, size)), 0)
    for _ in range(draws):
        handed_out = names(registry.sample(OTHER_SWARM, count=5, without="0"))
        assert len(set(handed_out)) == 5
        for name in handed_out:
            seen[name] += 1  # KeyError: the caller was handed out
    expected = draws * 5 / (size - 1)
    # mean size - 2, standard deviation sqrt(2 (size - 2)); drawing without replacement only makes it smaller
    assert chi_square(seen.values(), expected) < (size - 2) + 4 * (2 * (size - 2)) ** 0.5


def test_every_pair_is_handed_out_equally_often(clock):
    """Equal shares alone would also come from handing out neighbours together: cliques that never mix."""
    registry = make_registry(clock)
    for number in range(7):
        enter(registry, str(number), count=0)
    seen = dict.fromkeys(combinations("123456", 2), 0)
    draws = 3000
    for _ in range(draws):
        seen[tuple(sorted(names(registry.sample(OTHER_SWARM, count=2, without="0"))))] += 1
    freedom = len(seen) - 1
    assert chi_square(seen.values(), draws / len(seen)) < freedom + 4 * (2 * freedom) ** 0.5


def hand_out_cost_s(registry, rounds=300):
    started_s = time.perf_counter()
    for _ in range(rounds):
        registry.sample(OTHER_SWARM, count=50, without="7")
    return time.perf_counter() - started_s


def test_a_hand_out_costs_the_same_among_a_thousand_and_a_hundred_thousand(clock):
    """A tracker that slows down with its swarm fails exactly when it is needed."""
    small, large = make_registry(clock), make_registry(clock)
    for registry, size in ((small, 1_000), (large, 100_000)):
        for number in range(size):
            enter(registry, str(number), count=0)
    ratios = sorted(hand_out_cost_s(large) / hand_out_cost_s(small) for _ in range(5))
    assert ratios[0] < 10  # a scan would cost 100 times as much; the smallest is the least disturbed


def test_sixteen_threads_registering_reading_and_expiring_lose_nobody_and_never_raise(clock):
    """The tracker answers from several threads; a lost peer is a peer that nobody finds."""
    registry = make_registry(clock)
    view = ConnectedPeers(registry)
    rounds, threads = 60, 16
    start = threading.Barrier(threads)

    def work(thread_number):
        start.wait()
        for round_number in range(rounds):
            name = f"{thread_number}-{round_number}"
            assert name not in names(enter(registry, name, DEFAULT_SWARM, blocks=0b11).peers)
            enter(registry, f"leaver-{name}", DEFAULT_SWARM)
            assert len(registry.sample(DEFAULT_SWARM, count=5, without=name)) <= 5
            assert all(entry["port"] == 6881 for entry in view.values())
            assert registry.remove(DEFAULT_SWARM, f"leaver-{name}", "10.0.0.1")
            clock.advance(TTL_S / 2 / (rounds * threads))

    for number in range(2000):
        enter(registry, f"doomed-{number}", count=0)
    clock.advance(TTL_S * 0.75)  # the doomed expire in the middle of the turmoil, the others live to its end
    with ThreadPoolExecutor(threads) as pool:
        assert list(pool.map(work, range(threads))) == [None] * threads
    expected = {f"{thread}-{round_number}" for thread in range(threads) for round_number in range(rounds)}
    assert set(view) == expected
    clock.advance(TTL_S / 4)
    assert registry.totals().peers == len(expected)
    clock.advance(TTL_S)
    assert registry.totals().peers == 0


def test_what_is_written_into_connected_peers_is_handed_out(registry):
    """The seed's programs and teachers' exercises write into it as into a dict."""
    view = ConnectedPeers(registry)
    entry = {"ip": "192.168.1.10", "port": 50001, "blocks_owned": [0, 5, 12]}
    view["p"] = entry
    assert view == {"p": entry}
    handed_out = registry.sample(DEFAULT_SWARM, count=5)[0]
    assert (handed_out.ip, handed_out.port, handed_out.blocks_owned) == ("192.168.1.10", 50001, [0, 5, 12])
    view["p"]["blocks_owned"].append(7)
    entry["port"] = 50002
    handed_out = registry.sample(DEFAULT_SWARM, count=5)[0]
    assert (handed_out.port, handed_out.blocks_owned) == (50002, [0, 5, 7, 12])
    del view["p"]
    assert registry.sample(DEFAULT_SWARM, count=5) == []


def test_an_entry_read_once_shows_a_later_registration(registry):
    """Always current: also the inner dict that someone holds."""
    view = ConnectedPeers(registry)
    enter(registry, "p", DEFAULT_SWARM, blocks=0b1, port=1)
    entry = view["p"]
    enter(registry, "p", DEFAULT_SWARM, blocks=0b11, port=2)
    assert entry == {"ip": "10.0.0.1", "port": 2, "blocks_owned": [0, 1]}
    assert dict(view.items()) == {"p": entry}
    assert "ConnectedPeers({'p':" in repr(view)


def test_connected_peers_forgets_the_expired_and_can_be_cleared(registry, clock):
    """It shows who is there, not who was."""
    view = ConnectedPeers(registry)
    enter(registry, "old", DEFAULT_SWARM)
    clock.advance(TTL_S)
    enter(registry, "new", DEFAULT_SWARM)
    assert list(view) == ["new"]
    assert "old" not in view
    view.clear()
    assert len(view) == 0
    assert registry.totals().peers == 0


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ({"ip": "10.0.0.1", "port": 1}, "needs ip, port and blocks_owned"),
        ({"ip": "10.0.0.1", "port": 0, "blocks_owned": []}, "port 1..65535"),
        ({"ip": None, "port": 1, "blocks_owned": []}, "ip must be a string"),
        ({"ip": "10.0.0.1", "port": 1, "blocks_owned": [50]}, "no block 50, indices run from 0 to 49"),
        ({"ip": "10.0.0.1", "port": 1, "blocks_owned": [-1]}, "no block -1"),
    ],
)
def test_a_malformed_entry_is_refused_when_it_is_written(registry, entry, complaint):
    """Otherwise a routes' answer fails much later, in front of somebody else."""
    view = ConnectedPeers(registry)
    with pytest.raises(ValueError, match=complaint):
        view["p"] = entry
    assert len(view) == 0


@given(total_blocks=st.integers(0, 200), rng_seed=st.integers())
def test_cover_gives_three_peers_everything_together(total_blocks, rng_seed):
    """The promise of the default policy: a simulated swarm of three can always be completed."""
    rng = Random(rng_seed)
    owned = 0
    for _ in range(3):
        given_blocks = initial.choose("cover", total_blocks, full_mask(total_blocks) & ~owned, rng)
        assert -(-total_blocks // 3) <= given_blocks.bit_count() <= -(-total_blocks // 2)
        owned |= given_blocks
    assert owned == full_mask(total_blocks)


@given(total_blocks=st.integers(1, 200), rng_seed=st.integers())
def test_random_gives_some_blocks_of_the_file_and_none_gives_none(total_blocks, rng_seed):
    """Their documented ranges."""
    some = initial.choose("random", total_blocks, 0, Random(rng_seed))
    assert 1 <= some.bit_count() <= -(-total_blocks // 2)
    assert some & ~full_mask(total_blocks) == 0
    assert initial.choose("none", total_blocks, full_mask(total_blocks), Random(rng_seed)) == 0


def test_random_completes_eight_peers_in_about_four_percent_of_runs():
    """The figure in the documentation, which is the reason why cover is the default."""
    rng = Random(5)
    runs = 2000
    complete = 0
    for _ in range(runs):
        owned = 0
        for _ in range(8):
            owned |= initial.choose("random", 50, 0, rng)
        complete += owned == full_mask(50)
    assert 0.02 < complete / runs < 0.06


class RegistryMachine(RuleBasedStateMachine):
    """The registry against a dict and a list comprehension."""

    swarm_keys = st.sampled_from([DEFAULT_SWARM, OTHER_SWARM, "b" * 40])
    peer_ids = st.sampled_from("abcdefgh")
    masks = st.none() | st.integers(0, full_mask(8))

    def __init__(self):
        super().__init__()
        self.clock = Clock()
        self.registry = make_registry(self.clock, total_blocks=8)
        self.model = {}  # (swarm key, peer id) -> [heard at, source ip, blocks, seed]

    def live(self, swarm_key=None):
        return {
            peer: known
            for peer, known in self.model.items()
            if self.clock.now_s - known[0] < TTL_S and swarm_key in (None, peer[0])
        }

    @rule(
        swarm_key=swarm_keys,
        peer_id=peer_ids,
        ip=st.sampled_from(["10.0.0.1", "10.0.0.2"]),
        blocks=masks,
        seed=st.none() | st.booleans(),
        count=st.integers(0, 9),
    )
    def register(self, *, swarm_key, peer_id, ip, blocks, seed, count):
        self.model = self.live()
        known = self.model.get((swarm_key, peer_id))
        if known is not None and known[1] != ip:
            with pytest.raises(AddressConflictError):
                enter(self.registry, peer_id, swarm_key, source_ip=ip, blocks=blocks, seed=seed)
            return
        answer = enter(self.registry, peer_id, swarm_key, source_ip=ip, blocks=blocks, seed=seed, count=count)
        _, _, old_blocks, old_seed = known or (0, ip, 0, False)
        self.model[swarm_key, peer_id] = [
            self.clock.now_s,
            ip,
            old_blocks if blocks is None else blocks,
            old_seed if seed is None else seed,
        ]
        others = {other for _, other in self.live(swarm_key)} - {peer_id}
        assert set(names(answer.peers)) <= others
        assert len(set(names(answer.peers))) == len(answer.peers) == min(count, len(others))

    @rule(swarm_key=swarm_keys, peer_id=peer_ids)
    def remove(self, swarm_key, peer_id):
        known = self.live().get((swarm_key, peer_id))
        assert self.registry.remove(swarm_key, peer_id, known[1] if known else "10.0.0.1") == (known is not None)
        self.model.pop((swarm_key, peer_id), None)

    @rule(seconds=st.sampled_from([1.0, TTL_S / 2, TTL_S]))
    def wait(self, seconds):
        self.clock.advance(seconds)

    @rule(peer_id=peer_ids, blocks=st.sets(st.integers(0, 7)))
    def write(self, peer_id, blocks):
        ConnectedPeers(self.registry)[peer_id] = {"ip": "10.0.0.1", "port": 6881, "blocks_owned": sorted(blocks)}
        seed = self.live().get((DEFAULT_SWARM, peer_id), [0, "", 0, False])[3]
        self.model[DEFAULT_SWARM, peer_id] = [self.clock.now_s, "10.0.0.1", mask_of(blocks), seed]

    @invariant()
    def everything_agrees_with_the_model(self):
        live = self.live()
        seeds = sum(known[3] for known in live.values())
        assert self.registry.totals() == Totals(len(live), seeds, len({swarm_key for swarm_key, _ in live}))
        for swarm_key in (DEFAULT_SWARM, OTHER_SWARM):
            shown = {
                entry.peer_id: (entry.ip, mask_of(entry.blocks_owned), entry.seed)
                for entry in self.registry.sample(swarm_key, count=99)
            }
            assert shown == {name: tuple(known[1:]) for (_, name), known in self.live(swarm_key).items()}
        owned = 0
        for known in self.live(DEFAULT_SWARM).values():
            owned |= known[2]
        assert list(indices_of(self.registry._default.unowned)) == list(indices_of(full_mask(8) & ~owned))


TestRegistryAgainstAModel = RegistryMachine.TestCase
TestRegistryAgainstAModel.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


# -- windows of a ring: what BitTorrent clients are answered -----------------------------------------------------------


def announce(registry, number, *, count=50, ip=None, **options):
    ip = ip or f"10.0.{number // 250}.{number % 250 + 1}"
    return registry.announce(OTHER_SWARM, Announcement(str(number), ip, ip, 6881), count=count, **options)


def numbers(compact):
    """Return the peers of a compact answer by what ``announce`` called them."""
    parts = [compact[start : start + 6] for start in range(0, len(compact), 6)]
    assert all(int.from_bytes(part[4:], "big") == 6881 for part in parts)
    found = [part[2] * 250 + part[3] - 1 for part in parts]
    assert len(set(found)) == len(found)
    return found


@pytest.mark.parametrize("size", [2, 5, 41, 400])
def test_every_peer_is_in_a_window_equally_often(clock, size):
    """Wherever it stands in the ring, beside the caller too."""
    registry = make_registry(clock)
    for number in range(size):
        announce(registry, number, count=0)
    seen = dict.fromkeys(range(1, size), 0)
    draws, wanted = 60 * size, min(10, size - 1)
    for _ in range(draws):
        handed_out = numbers(announce(registry, 0, count=10).ipv4)
        assert len(handed_out) == wanted
        for number in handed_out:
            seen[number] += 1  # KeyError: the caller was handed out
    # Of one window the members are not independent, of several they are: the variance is at most ``wanted`` times that.
    expected = draws * wanted / (size - 1)
    freedom = size - 2
    assert chi_square(seen.values(), expected) <= wanted * (freedom + 4 * (2 * freedom) ** 0.5)


def kept_company(registry, *, rounds, announcing):
    """Return how much more often than by chance ring neighbours share a window an interval later."""
    size, wanted, draws = 60, 10, 20
    rng = Random(1)
    for number in range(size):
        announce(registry, number, count=0)
    swarm = registry._swarms[OTHER_SWARM]
    caller = swarm.by_name["0"]
    together = pairs_seen = 0
    for _ in range(rounds):
        ring = list(swarm.ipv4.peers)
        pairs = [
            {ring[place - 1], ring[place]} for place in range(size) if caller not in (ring[place - 1], ring[place])
        ]
        for number in range(size) if announcing else ():
            announce(registry, number, count=0)
        for _ in range(draws):
            window = {p for part, start, stop in swarm.window(wanted, rng, caller) for p in part.peers[start:stop]}
            together += sum(pair <= window for pair in pairs)
            pairs_seen += len(pairs)
    return together / pairs_seen / (wanted * (wanted - 1) / ((size - 1) * (size - 2)))


def test_who_stands_together_is_scattered_within_an_interval(registry):
    """Each announce swaps its peer with a random one. Without, a swarm would fall apart into cliques."""
    assert 0.8 < kept_company(registry, rounds=100, announcing=True) < 1.3


def test_without_announces_neighbours_of_a_ring_keep_company(registry):
    """So the measure above can fail."""
    assert kept_company(registry, rounds=20, announcing=False) > 4


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_rings_hold_each_address_once_and_where_its_peer_stands(data):
    """Announces, moves between families, departures, swaps: the bytes follow the peers."""
    registry = make_registry(Clock())
    addresses = [f"10.0.0.{n}" for n in range(1, 7)] + [f"2001:db8::{n}" for n in range(1, 7)] + ["no address"]
    for _ in range(data.draw(st.integers(1, 40))):
        name = data.draw(st.sampled_from("abcdefgh"))
        ip, port = data.draw(st.sampled_from(addresses)), data.draw(st.integers(1, 65535))
        if data.draw(st.booleans()):
            registry.announce(OTHER_SWARM, Announcement(name, "source", ip, port), count=data.draw(st.integers(0, 9)))
        else:
            registry.remove(OTHER_SWARM, name, "source")
        swarm = registry._swarms.get(OTHER_SWARM)
        if swarm is None:
            continue
        for ring, family in ((swarm.ipv4, socket.AF_INET), (swarm.ipv6, socket.AF_INET6)):
            written = b"".join(socket.inet_pton(family, p.ip) + p.port.to_bytes(2, "big") for p in ring.peers)
            assert bytes(ring.addresses) == written
            assert all(peer.ring is ring and ring.peers[peer.place] is peer for peer in ring.peers)
        assert len(swarm.ipv4.peers) + len(swarm.ipv6.peers) == sum(peer.ip != "no address" for peer in swarm.dense)
        caller = data.draw(st.sampled_from([None, *swarm.dense]))
        count = data.draw(st.integers(0, 12))
        found = [
            peer for ring, start, stop in swarm.window(count, Random(1), caller) for peer in ring.peers[start:stop]
        ]
        others = {id(peer) for peer in swarm.dense if peer.ring and peer is not caller}
        assert len(found) == len({id(peer) for peer in found} & others) == min(count, len(others))


def test_a_storm_of_expiries_does_not_hold_up_a_request(clock):
    """100,000 peers whose time is up at once leave beside the requests, in some four seconds, not in one go."""
    registry = make_registry(clock)
    for number in range(100_000):
        enter(registry, str(number), count=0)
    clock.advance(TTL_S)
    begun_s, pauses_s = clock(), []
    while registry.totals().peers > 0:
        started_s = time.perf_counter()
        enter(registry, "fresh", "c" * 40, count=0)
        registry.remove("c" * 40, "fresh", "10.0.0.1")
        pauses_s.append(time.perf_counter() - started_s)
        clock.advance(0.002)
    assert 3 < clock() - begun_s < 5
    assert statistics.median(pauses_s) < 0.005
    assert registry.expired == 100_000


def test_after_a_pause_most_of_a_storm_is_worked_off_at_once(clock):
    """A tracker that is hardly asked must not hand out the dead for long."""
    registry = make_registry(clock)
    for number in range(8000):
        enter(registry, str(number), count=0)
    clock.advance(TTL_S + 60)
    assert registry.totals().peers == 0
