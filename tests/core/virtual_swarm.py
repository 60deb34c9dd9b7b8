"""A swarm of real sessions in virtual time: the same brain that drives a peer, driven from a heap of events.

Uplinks send one block after another at their rate; every message takes ``latency_s``. A receiver with a limited
downlink takes longer: what it has not taken when the link has sent the block waits in a buffer and holds nobody up.
Nothing is random but the seeded choices of the sessions and of the tracker, so a run repeats exactly. Its figures are
simulated: they test policy, they are no result.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from minibit.core import events as ev
from minibit.core.blocks import Geometry
from minibit.core.bounds import fluid_bound_s, store_and_forward_bound_s
from minibit.core.choker import CHOKERS, FreeRider
from minibit.core.picker import PICKERS
from minibit.core.session import Session

HORIZON_S = 10_000.0
TRACKER_INTERVAL_S = 30.0
NUMWANT = 50
WIRE_BYTES_PER_S = 200e6  # how fast a block leaves an uplink without a limit, whatever else it sends
MB = 1e6
KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True)
class Logged:
    """An event as a session saw it, and what it did."""

    now_s: float
    event: ev.Event
    actions: tuple[ev.Action, ...]


@dataclass
class VirtualPeer:
    """A session, its links, and what became of it."""

    key: str
    session: Session
    rate_bytes_per_s: float | None
    download_rate_bytes_per_s: float | None
    start_s: float = 0.0
    alive: bool = True
    link_free_s: float = 0.0
    downlink_free_s: float = 0.0
    completed_s: float | None = None
    given_bytes: int = 0
    taken_bytes: int = 0
    given: list[tuple[str, int]] = field(default_factory=list)
    log: list[Logged] = field(default_factory=list)
    tick_at_s: float = float("inf")
    ticks: int = 0


@dataclass(eq=False)
class Transfer:
    """A block under way."""

    sender: VirtualPeer
    receiver: VirtualPeer
    index: int
    size_bytes: int
    begun_s: float
    haves: tuple[int, ...]


class VirtualSwarm:
    """One seed (peer 0) and leechers 1, 2, …; ``run`` returns when every leecher that lives is complete.

    A rate of None is a link without a limit. ``free_riders`` holds indices of peers; ``owned`` says which blocks the
    peers start with, by index (all for peer 0 and none for the others, if not given).
    """

    def __init__(
        self,
        *,
        seed_rate: float | None,
        leecher_rates: Sequence[float | None],
        geometry: Geometry,
        download_rates: Sequence[float | None] | None = None,
        start_delays_s: Sequence[float] | None = None,
        latency_s: float = 0.004,
        rng_seed: int = 0,
        free_riders: Sequence[int] = (),
        owned: Mapping[int, Sequence[int]] | None = None,
        choker: str = "tit-for-tat",
        picker: str = "rarest-first",
    ) -> None:
        self.geometry = geometry
        self.latency_s = latency_s
        self.now_s = 0.0
        self.messages: Counter[str] = Counter()
        self.registered: list[str] = []
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._transfers: list[Transfer] = []
        self._rng = Random(f"{rng_seed}/tracker")
        downloads = [None, *(download_rates or [None] * len(leecher_rates))]
        delays = [0.0, *(start_delays_s or [0.0] * len(leecher_rates))]
        self._owned = {0: range(geometry.num_blocks)} if owned is None else owned
        self.peers: dict[str, VirtualPeer] = {}
        for i, rate in enumerate([seed_rate, *leecher_rates]):
            key = f"127.0.0.1:{40000 + i}"
            session = Session(
                geometry,
                rng=Random(f"{rng_seed}/{key}"),
                picker=PICKERS[picker](),
                choker=FreeRider() if i in free_riders else CHOKERS[choker](),
                upload_rate_bytes_per_s=rate,
                download_rate_bytes_per_s=downloads[i],
            )
            self.peers[key] = VirtualPeer(key, session, rate, downloads[i], delays[i])

    @property
    def seed(self) -> VirtualPeer:
        return next(iter(self.peers.values()))

    @property
    def leechers(self) -> list[VirtualPeer]:
        return list(self.peers.values())[1:]

    # ------------------------------------------------------------------ time

    def at(self, time_s: float, call: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._heap, (time_s, self._count, call))

    def later(self, call: Callable[[], None]) -> None:
        self.at(self.now_s + self.latency_s, call)

    def run(self) -> float:
        """Return the makespan in virtual seconds, from the start of the swarm."""
        for i, peer in enumerate(self.peers.values()):
            owned = tuple(self._owned.get(i, ()))
            self.at(peer.start_s, lambda peer=peer, owned=owned: self.feed(peer, ev.Started(owned)))
        while any(peer.alive and peer.completed_s is None for peer in self.leechers):
            self.now_s, _, call = heapq.heappop(self._heap)
            if self.now_s > HORIZON_S:
                raise TimeoutError("\n".join(peer.session.describe() for peer in self.leechers))
            call()
        return max(peer.completed_s for peer in self.leechers if peer.completed_s is not None)

    def run_for(self, duration_s: float) -> None:
        """Let time pass after the run, as seeds that linger do."""
        end_s = self.now_s + duration_s
        while self._heap and self._heap[0][0] <= end_s:
            self.now_s, _, call = heapq.heappop(self._heap)
            call()
        self.now_s = end_s

    def kill(self, peer: VirtualPeer, at_s: float) -> None:
        """Let a peer vanish at that time, in the middle of whatever it does."""
        self.at(at_s, lambda: self._die(peer))

    def _die(self, peer: VirtualPeer) -> None:
        peer.alive = False
        for transfer in [t for t in self._transfers if peer in (t.sender, t.receiver)]:
            self._transfers.remove(transfer)
            self.later(lambda transfer=transfer: self._break_off(transfer, "lost"))

    # ------------------------------------------------------------------ one peer

    def feed(self, peer: VirtualPeer, *events: ev.Event) -> list[ev.Action]:
        """Tell a session what happened, as one moment, and set in motion what it asks for."""
        if not peer.alive:
            return []
        done = []
        for event in events:
            actions = peer.session.handle(event, self.now_s)
            peer.log.append(Logged(self.now_s, event, tuple(actions)))
            for action in actions:
                self._carry_out(peer, action)
            done += actions
        self._schedule_tick(peer)
        return done

    def _schedule_tick(self, peer: VirtualPeer) -> None:
        tick_at_s = peer.session.next_wakeup_s(self.now_s)
        if tick_at_s <= self.now_s:
            raise AssertionError(f"{peer.key} would spin: woken at {self.now_s}, wants to be woken at {tick_at_s}")
        if tick_at_s != peer.tick_at_s:
            peer.tick_at_s = tick_at_s
            self.at(tick_at_s, lambda: self._tick(peer, tick_at_s))

    def _tick(self, peer: VirtualPeer, due_s: float) -> None:
        if due_s == peer.tick_at_s:
            peer.ticks += 1
            peer.tick_at_s = float("inf")
            self.feed(peer, ev.Tick())

    # ------------------------------------------------------------------ messages

    def _carry_out(self, peer: VirtualPeer, action: ev.Action) -> None:
        self.messages[type(action).__name__] += 1
        match action:
            case ev.Finish():
                peer.completed_s = self.now_s
            case ev.AskTracker():
                self.later(lambda: self._answer_as_tracker(peer))
            case ev.CancelRequest():
                self._cancel(peer, action)
            case ev.Handshake() | ev.SendHaves() | ev.OfferTurn() | ev.RequestBlock():
                self.later(lambda: self._deliver(peer, self.peers[action.key], action))

    def _deliver(self, peer: VirtualPeer, other: VirtualPeer, action: ev.Action) -> None:
        self.feed(other, ev.PeerSeen(peer.key, peer.key, inbound=True))
        if not other.alive or peer.key not in other.session.neighbours:  # gone, or full and will not know the sender
            self.later(lambda: self.feed(peer, _undelivered(action, reachable=other.alive)))
            return
        match action:
            case ev.Handshake():
                self._shake(peer, other)
            case ev.SendHaves(_, haves):
                self.feed(other, ev.HavesReceived(peer.key, haves))
                self.later(lambda: self.feed(peer, ev.HavesDelivered(other.key)))
            case ev.OfferTurn():
                self._offer(peer, other, action)
            case ev.RequestBlock():
                self._request(peer, other, action)

    def _answer_as_tracker(self, peer: VirtualPeer) -> None:
        others = [key for key in self.registered if key != peer.key]
        others = self._rng.sample(others, min(NUMWANT, len(others)))
        if peer.key not in self.registered:
            self.registered.append(peer.key)
        seeds = {key for i, key in enumerate(self.peers) if len(self._owned.get(i, ())) == self.geometry.num_blocks}
        seen = [ev.PeerSeen(key, key, seed=key in seeds) for key in others]
        self.later(lambda: self.feed(peer, *seen, ev.TrackerAnswered(len(seen), TRACKER_INTERVAL_S)))

    def _shake(self, peer: VirtualPeer, other: VirtualPeer) -> None:
        mine = tuple(peer.session.owned)
        self.feed(other, ev.HandshakeReceived(peer.key, mine))
        bitfield = ev.BitfieldReceived(other.key, tuple(other.session.owned))
        unchoked = peer.key in other.session.unchoked
        standing = unchoked and not other.session.uplink.takes_turns
        answer = ev.HandshakeAnswered(other.key, unchoked, turns=True, standing=standing, told=len(mine))
        self.later(lambda: self.feed(peer, bitfield, answer))

    def _offer(self, sender: VirtualPeer, receiver: VirtualPeer, offer: ev.OfferTurn) -> None:
        turn = ev.TurnOffered(sender.key, offer.standing, offer.suggest, offer.rate_bytes_per_s)
        actions = self.feed(receiver, ev.HavesReceived(sender.key, offer.haves), turn)
        accepted = receiver.session.takes_turn(sender.key, actions)
        news = [] if accepted else self.feed(receiver, ev.NewsAsked(sender.key))
        haves = next((action.haves for action in news if isinstance(action, ev.TellNews)), ())
        answers = [ev.HavesReceived(receiver.key, haves)] if haves else []
        self.later(lambda: self.feed(sender, *answers, ev.OfferAnswered(receiver.key, accepted)))

    # ------------------------------------------------------------------ blocks

    def _request(self, receiver: VirtualPeer, sender: VirtualPeer, request: ev.RequestBlock) -> None:
        news = [ev.HavesReceived(receiver.key, request.haves)] if request.haves else []
        actions = self.feed(sender, *news, ev.RequestReceived(receiver.key, request.index))
        answer = next(a for a in actions if isinstance(a, ev.Serve | ev.Refuse))
        if isinstance(answer, ev.Refuse):
            reason = {"choked": "refused"}.get(answer.reason, answer.reason)
            self.messages["refused"] += 1
            failed = ev.RequestFailed(sender.key, request.index, reason, answer.retry_after_s)
            self.later(lambda: self.feed(receiver, failed))
            return
        size = self.geometry.block_length_bytes(request.index)
        begun_s = self.now_s if sender.rate_bytes_per_s is None else max(self.now_s, sender.link_free_s)
        self._begin(Transfer(sender, receiver, request.index, size, begun_s, answer.haves))

    def _begin(self, transfer: Transfer) -> None:
        sender, receiver = transfer.sender, transfer.receiver
        sent_s = transfer.begun_s + transfer.size_bytes / (sender.rate_bytes_per_s or WIRE_BYTES_PER_S)
        sender.link_free_s = sent_s
        taken_s = sent_s
        if receiver.download_rate_bytes_per_s is not None:
            free_s = max(receiver.downlink_free_s, transfer.begun_s)
            taken_s = max(sent_s, free_s + transfer.size_bytes / receiver.download_rate_bytes_per_s)
            receiver.downlink_free_s = taken_s
        self._transfers.append(transfer)
        if taken_s > sent_s:
            self.at(sent_s, lambda: self._stall(transfer))
        self.at(taken_s, lambda: self._end(transfer))

    def _stall(self, transfer: Transfer) -> None:
        if transfer in self._transfers:
            self.messages["stalled"] += 1
            self.feed(transfer.sender, ev.UploadStalled(transfer.receiver.key, transfer.index))

    def _end(self, transfer: Transfer) -> None:
        if transfer not in self._transfers:
            return
        self._transfers.remove(transfer)
        sender, receiver, index, size = transfer.sender, transfer.receiver, transfer.index, transfer.size_bytes
        sender.given_bytes += size
        sender.given.append((receiver.key, index))
        receiver.taken_bytes += size
        duration_s = self.now_s - transfer.begun_s
        self.feed(sender, ev.UploadEnded(receiver.key, index, size, complete=True))
        news = [ev.HavesReceived(sender.key, transfer.haves)] if transfer.haves else []
        self.later(lambda: self.feed(receiver, *news, ev.BlockArrived(sender.key, index, size, duration_s)))

    def _cancel(self, receiver: VirtualPeer, action: ev.CancelRequest) -> None:
        """Break off a block that is no longer wanted; one that was not begun comes all the same."""
        wanted = (receiver, action.key, action.index)
        transfer = next((t for t in self._transfers if (t.receiver, t.sender.key, t.index) == wanted), None)
        if transfer:
            self._transfers.remove(transfer)
            self.later(lambda: self._break_off(transfer, "cancelled"))

    def _break_off(self, transfer: Transfer, reason: str) -> None:
        ended = ev.UploadEnded(transfer.receiver.key, transfer.index, 0, complete=False)
        self.feed(transfer.sender, ended)
        self.feed(transfer.receiver, ev.RequestFailed(transfer.sender.key, transfer.index, reason))


def _undelivered(action: ev.Action, *, reachable: bool) -> ev.Event:
    if isinstance(action, ev.RequestBlock):
        return ev.RequestFailed(action.key, action.index, "refused" if reachable else "lost")
    return ev.ContactFailed(action.key, reachable=reachable)


def larger_bound_s(swarm: VirtualSwarm) -> float:
    """Return the larger of the two bounds (minibit.core.bounds) for a swarm whose leechers all start at 0."""
    size = swarm.geometry.length_bytes
    links = [(peer.rate_bytes_per_s, peer.download_rate_bytes_per_s) for peer in swarm.leechers]
    seed_rates = [swarm.seed.rate_bytes_per_s]
    fluid = fluid_bound_s(size, seed_rates, links)
    whole = store_and_forward_bound_s(size, swarm.geometry.block_size_bytes, seed_rates, [up for up, _ in links])
    return max(fluid.seconds if fluid else 0.0, whole or 0.0)


def geometry(size_mib: float, block_kib: int) -> Geometry:
    return Geometry(int(size_mib * MIB), block_kib * KIB)
