"""One peer's brain: how it starts, whom it knows, what it fetches from whom, and when it wants to be woken."""

import pytest
from driven import ALL, NONE, RATE, Driven, asked_for, of, turn
from hypothesis import given
from hypothesis import strategies as st

from minibit.core import events as ev
from minibit.core.choker import CHOKERS
from minibit.core.neighbours import CONTACT_RETRY_MAX_S, STRIKES_MAX
from minibit.core.picker import PICKERS
from minibit.core.session import NUMWANT, OFFER_LAPSES_S, STARVED_AT_START_S, STARVED_MAX_S

# ---------------------------------------------------------------------- start, tracker, neighbours


def test_a_session_that_has_not_started_decides_nothing():
    """Peers are built long before the start signal; a turn offered before it would be time stolen from the run."""
    driven = Driven(start=False)
    assert driven.meet("a", owns=ALL) == []
    assert driven.request("a", 0).reason == "choked"


@pytest.mark.parametrize(("owned", "ends"), [(ALL, 1), (NONE, 0), ("", 1)])
def test_a_session_starts_with_the_tracker_and_finishes_once_when_it_has_everything(owned, ends):
    """A seed, a leecher and the owner of an empty file: only who lacks nothing is complete."""
    driven = Driven(owned)
    actions = [action for _, action in driven.asked] + driven.tell(ev.Tick())
    assert of(ev.AskTracker, actions) == [ev.AskTracker()]
    assert len(of(ev.Finish, actions)) == ends


def test_a_leecher_introduces_itself_to_the_seed_and_three_others():
    """Those who registered before it do not know it; a message to each of fifty would be a flood at every start."""
    driven = Driven()
    driven.tell(ev.PeerSeen("s", "seed", seed=True), *[ev.PeerSeen(key, key) for key in "abcdef"])
    greeted = [action.key for action in of(ev.Handshake, driven.tell(ev.TrackerAnswered(7, 30.0)))]
    assert "s" in greeted
    assert len(greeted) == len(set(greeted)) == 4
    assert of(ev.Handshake, driven.tell(ev.TrackerAnswered(7, 30.0))) == []


def test_in_a_crowd_a_leecher_introduces_itself_to_one_other():
    """A thousand greetings at once would keep the seed from giving anything to anybody."""
    driven = Driven()
    driven.tell(ev.PeerSeen("s", "seed", seed=True), *[ev.PeerSeen(key, key) for key in "abcdef"])
    greeted = [action.key for action in of(ev.Handshake, driven.tell(ev.TrackerAnswered(NUMWANT, 30.0)))]
    assert len(greeted) == 1
    assert greeted[0] in "abcdef"


def test_a_full_table_is_reason_enough_not_to_ask_the_tracker_again_soon():
    """The first answer may be all that a peer of a crowd needs."""
    driven = Driven(max_neighbours=3)
    driven.meet(*"abc")
    driven.tell(ev.TrackerAnswered(NUMWANT, 30.0))
    assert of(ev.AskTracker, driven.sleep(29.0)) == []
    assert len(of(ev.AskTracker, driven.sleep(31.0))) == 1


def test_a_seed_waits_to_be_found():
    """It needs nothing from anybody: its greetings would be messages for nothing."""
    driven = Driven(ALL)
    driven.meet(*"abc")
    assert of(ev.Handshake, driven.tell(ev.TrackerAnswered(3, 30.0))) == []


def tracker_waits(driven, answer, rounds):
    waits = []
    for _ in range(rounds):
        asked_s = driven.now_s
        driven.tell(answer)
        while not of(ev.AskTracker, driven.sleep(driven.session.next_wakeup_s(driven.now_s))):
            assert driven.now_s < 1000
        waits.append(driven.now_s - asked_s)
    return waits


def test_a_silent_tracker_is_asked_less_and_less():
    """A tracker that is down must not be met by the whole swarm at full speed when it comes back."""
    waits = tracker_waits(Driven(ALL), ev.TrackerFailed(), 12)
    assert waits[:4] == pytest.approx([0.15, 0.3, 0.6, 1.2])
    assert waits[-3:] == pytest.approx([30.0] * 3)


def test_a_tracker_that_told_the_whole_swarm_is_asked_again_at_its_interval():
    """The first to register is told of nobody, so it asks again soon; after that the tracker's own interval counts."""
    driven = Driven()
    driven.meet("a")
    waits = tracker_waits(driven, ev.TrackerAnswered(1, 30.0), 3)
    assert waits == pytest.approx([0.15, 30.0, 30.0])


def test_a_new_neighbour_is_choked_and_one_too_many_is_not_taken():
    """The number of neighbours bounds messages and memory whatever the swarm's size."""
    driven = Driven(max_neighbours=2)
    driven.meet(*"abc")
    assert set(driven.session.neighbours) == driven.session.choked == {"a", "b"}


@pytest.mark.parametrize("trouble", [[ev.ContactFailed("a")], [ev.RequestFailed("a", 0, "corrupt")] * STRIKES_MAX])
def test_a_neighbour_that_is_gone_or_banned_makes_room(trouble):
    """Otherwise a table full of the dead would shut a living newcomer out."""
    driven = Driven(max_neighbours=2)
    driven.meet("a", "b", owns="10000000")
    driven.tell(*trouble)
    driven.meet("c")
    assert set(driven.session.neighbours) == {"b", "c"}
    assert driven.session.availability.count(0) == 1


def test_forgetting_a_neighbour_forgets_what_it_owns():
    """A block that only departed peers owned must look rare again."""
    driven = Driven()
    driven.meet("a", owns=ALL)
    driven.session.forget("a")
    assert driven.session.availability.count(3) == 0
    assert "a" not in driven.session.choked | driven.session.unchoked


def test_another_peer_at_a_known_address_starts_from_nothing():
    """Ports are used again: the newcomer does not own what the one before it owned."""
    driven = Driven()
    driven.meet("a", owns=ALL)
    driven.tell(ev.PeerSeen("a", "somebody else"))
    assert driven.session.neighbours["a"].have.count == 0
    assert driven.session.neighbours["a"].peer_id == "somebody else"


def test_haves_add_and_a_bitfield_replaces():
    """A have is news, a bitfield is the whole truth: a peer that lost its disk owns less than before."""
    driven = Driven()
    driven.meet("a", owns="1100")
    driven.tell(ev.HavesReceived("a", (2,)))
    assert list(driven.session.neighbours["a"].have) == [0, 1, 2]
    driven.tell(ev.BitfieldReceived("a", (5,)))
    assert list(driven.session.neighbours["a"].have) == [5]
    assert [driven.session.availability.count(index) for index in (0, 5)] == [0, 1]


def test_granted_blocks_count_without_a_transfer():
    """The tracker of a simulation hands out blocks; with the last of them the file is complete, once."""
    driven = Driven("1" * 7 + "0")
    assert of(ev.Finish, driven.tell(ev.BlocksGranted((0, 7)))) == [ev.Finish()]
    assert of(ev.Finish, driven.tell(ev.BlocksGranted((7,)))) == []


def test_a_session_says_what_it_waits_for():
    """A swarm that times out prints these lines: they must name the block and the neighbour."""
    driven = Driven("10000000")
    driven.meet("a", owns=ALL)
    driven.tell(turn("a", suggest=5))
    assert driven.session.describe() == (
        "has 1 of 8 blocks; knows 1 neighbours, 1 with blocks it lacks, 0 let it ask; waits for block 5 from a"
    )
    assert driven.session.unchokes_me("a")


# ---------------------------------------------------------------------- downloads


def test_the_block_is_chosen_when_the_turn_comes():
    """What is rarest is known best at the last moment: news between offer and request must count."""
    driven = Driven()
    driven.meet("a", owns=ALL)
    driven.meet("b", owns="11110111")
    assert asked_for(driven.tell(turn("a"))) == [("a", 4)]


def test_a_suggested_block_is_taken_if_it_is_wanted():
    """The seed alone knows which block it has given to nobody; one that is already here is not fetched again."""
    driven = Driven("10000000")
    driven.meet("a", "b", owns=ALL)
    assert asked_for(driven.tell(turn("a", suggest=6))) == [("a", 6)]
    assert asked_for(driven.tell(turn("b", suggest=0))) != [("b", 0)]


@pytest.mark.parametrize("owns", [NONE, "10000000"])
def test_a_turn_without_use_is_not_taken(owns):
    """A request for a block that is owned already would waste the sender's uplink."""
    driven = Driven("10000000")
    driven.meet("a", owns=owns)
    actions = driven.tell(turn("a"))
    assert of(ev.RequestBlock, actions) == []
    assert not driven.session.takes_turn("a", actions)


def test_a_block_under_way_is_not_asked_for_twice():
    """Two copies of one block is one of another block less."""
    driven = Driven("11111110")
    driven.meet("a", "b", owns=ALL)
    assert asked_for(driven.tell(turn("a"))) == [("a", 7)]
    assert asked_for(driven.tell(turn("b"))) == []


def test_an_overdue_block_is_asked_of_another_and_the_loser_is_cancelled():
    """End game: one slow sender must not hold up the end of the file, nor its copy be read to the end for nothing."""
    driven = Driven("11111110")
    driven.meet("a", "b", "c", owns=ALL)
    driven.tell(turn("a", rate_bytes_per_s=RATE))
    driven.sleep(2 * 0.1 + OFFER_LAPSES_S + 0.01)
    assert asked_for(driven.tell(turn("b"))) == [("b", 7)]
    assert asked_for(driven.tell(turn("c"))) == []
    actions = driven.arrived("b", 7)
    assert of(ev.CancelRequest, actions) == [ev.CancelRequest("a", 7)]
    assert of(ev.Finish, actions) == [ev.Finish()]
    assert driven.tell(ev.RequestFailed("a", 7, "cancelled")) == []
    assert len(driven.session.ledger) == 0


def test_a_duplicate_block_counts_once():
    """A copy that could not be cancelled in time must not finish the file a second time."""
    driven = Driven("11111110")
    driven.meet("a", "b", owns=ALL)
    assert of(ev.Finish, driven.arrived("a", 7)) == [ev.Finish()]
    assert of(ev.Finish, driven.arrived("b", 7)) == []


@pytest.mark.parametrize(("down", "taken"), [(None, 3), (RATE, 1), (2 * RATE, 2), (0.5 * RATE, 1)])
def test_turns_are_taken_as_far_as_the_downlink_carries(down, taken):
    """A full downlink would make every sender slower than its link, and hold up those behind it."""
    driven = Driven(download_rate_bytes_per_s=down)
    driven.meet("a", "b", "c", owns=ALL)
    assert len(asked_for(driven.tell(turn("a"), turn("b"), turn("c")))) == taken


def test_standing_turns_are_used_a_few_at_a_time_without_being_asked_again():
    """On links without a limit more side by side only compete; each block that comes makes room for the next."""
    driven = Driven(rate=None)
    driven.meet(*"abcde", owns=ALL)
    asked = asked_for(driven.tell(*[turn(key, standing=True, rate_bytes_per_s=None) for key in "abcde"]))
    assert len(asked) == 3
    assert len(asked_for(driven.arrived(*asked[0]))) == 1


def test_a_refusal_ends_a_standing_turn():
    """It stands until it is refused; asking on would be polling."""
    driven = Driven(rate=None)
    driven.meet("a", owns=ALL)
    ((key, index),) = asked_for(driven.tell(turn("a", standing=True)))
    assert driven.session.unchokes_me("a")
    driven.tell(ev.RequestFailed(key, index, "refused"))
    assert asked_for(driven.sleep(3.0)) == []
    assert not driven.session.unchokes_me("a")


def test_a_busy_neighbour_is_asked_again_when_it_said():
    """503 names the time; sooner is another refusal, later is uplink lost."""
    driven = Driven(rate=None)
    driven.meet("a", owns=ALL)
    ((_, index),) = asked_for(driven.tell(turn("a", standing=True)))
    driven.tell(ev.RequestFailed("a", index, "busy", 0.7))
    assert asked_for(driven.sleep(0.69)) == []
    assert len(asked_for(driven.sleep(0.71))) == 1


def test_a_block_that_is_missing_there_is_asked_elsewhere():
    """What was known of the neighbour was wrong; without correcting it the same request would follow for ever."""
    driven = Driven("11111110")
    driven.meet("a", "b", owns=ALL)
    driven.tell(turn("a"))
    driven.tell(ev.RequestFailed("a", 7, "missing"))
    assert asked_for(driven.tell(turn("a"), turn("b"))) == [("b", 7)]


def test_a_sender_of_wrong_blocks_is_asked_no_more():
    """A few may be accidents of a bad disk; after that every block of it is time lost."""
    driven = Driven()
    driven.meet("a", owns=ALL)
    for _ in range(STRIKES_MAX):
        ((key, index),) = asked_for(driven.tell(turn("a")))
        driven.tell(ev.RequestFailed(key, index, "corrupt"))
    assert driven.session.neighbours["a"].banned
    assert asked_for(driven.tell(turn("a"), turn("a", standing=True))) == []


def test_failed_contacts_space_out_and_a_sign_of_life_ends_that():
    """Every try at a dead peer costs a time-out; the living must not pay for what they were."""
    driven = Driven()
    driven.meet("a", owns=ALL)
    neighbour = driven.session.neighbours["a"]
    waits_s = []
    for _ in range(9):
        driven.tell(ev.ContactFailed("a"))
        waits_s.append(neighbour.retry_at_s - driven.now_s)
    assert waits_s[:4] == pytest.approx([0.5, 1.0, 2.0, 4.0])
    assert waits_s[-1] == CONTACT_RETRY_MAX_S
    driven.tell(ev.HavesDelivered("a"))
    assert neighbour.retry_at_s <= driven.now_s


def test_a_lost_request_frees_its_block_for_others():
    """A killed sender must not keep a block to itself."""
    driven = Driven("11111110")
    driven.meet("a", "b", owns=ALL)
    driven.tell(turn("a"))
    driven.tell(ev.RequestFailed("a", 7, "lost"))
    assert asked_for(driven.tell(turn("b"))) == [("b", 7)]


def test_who_broke_off_a_block_is_not_asked_again_at_once():
    """A sender whose disk or link fails in mid-block goes on offering turns: each would cost the same again."""
    driven = Driven()
    driven.meet("a", owns=ALL)
    for avoided_s in (0.5, 1.0, 2.0):
        ((_, index),) = asked_for(driven.tell(turn("a")))
        driven.tell(ev.RequestFailed("a", index, "lost"))
        driven.sleep(driven.now_s + avoided_s - 0.01)
        assert asked_for(driven.tell(turn("a"))) == []
        driven.sleep(driven.now_s + 0.01)


def test_a_starved_leecher_asks_a_neighbour_for_its_state():
    """An offer or a have may have got lost; without a look around the peer would wait for ever."""
    driven = Driven()
    driven.meet("a", "b", owns=ALL)
    driven.tell(ev.TrackerAnswered(2, 30.0))
    assert of(ev.Handshake, driven.sleep(STARVED_AT_START_S - 0.01)) == []
    asked = of(ev.Handshake, driven.sleep(20 * STARVED_MAX_S))
    assert 10 <= len(asked) <= 30
    assert {handshake.key for handshake in asked} == {"a", "b"}


def test_a_starved_leecher_prefers_those_who_have_something():
    """In a swarm where most have nothing, asking at random finds it late."""
    driven = Driven()
    driven.meet(*"abcdefg")
    driven.meet("h", owns=ALL)
    driven.tell(ev.TrackerAnswered(8, 30.0))
    assert {handshake.key for handshake in of(ev.Handshake, driven.sleep(30.0))} == {"h"}


def test_an_answer_to_a_handshake_may_give_a_standing_turn():
    """It is as good as an offer, and a message fewer."""
    driven = Driven()
    driven.meet("a", owns=ALL)
    refused = driven.tell(ev.HandshakeAnswered("a", unchoked=True, turns=True))
    assert asked_for(refused) == [], "an uplink with turns offers them one by one"
    ((key, _),) = asked_for(driven.tell(ev.HandshakeAnswered("a", unchoked=True, turns=True, standing=True)))
    assert key == "a"


def test_a_complete_peer_looks_around_no_more():
    """It lacks nothing; a seed that lingers for days must cost nothing."""
    driven = Driven(ALL)
    driven.meet("a", "b", owns=ALL)
    assert of(ev.Handshake, driven.sleep(60.0)) == []


# ---------------------------------------------------------------------- news of my blocks


def test_news_rides_on_a_request_and_is_told_once():
    """A have for every block and neighbour would be more messages than blocks."""
    driven = Driven("11000000", choker="free-rider")
    driven.meet("a", owns="00111111")
    (request,) = of(ev.RequestBlock, driven.tell(turn("a")))
    assert request.haves == (0, 1)
    driven.arrived("a", request.index)
    (again,) = of(ev.RequestBlock, driven.tell(turn("a")))
    assert again.haves == ()
    assert driven.news_for("a") == ()


def test_news_that_did_not_get_through_is_told_again():
    """A neighbour that never hears of a block would never ask for it."""
    driven = Driven("11000000", choker="free-rider")
    driven.meet("a")
    assert driven.news_for("a") == (0, 1)
    driven.tell(ev.ContactFailed("a"))
    assert driven.news_for("a") == (0, 1)


def test_news_that_a_stranger_dropped_is_told_again():
    """A peer that does not know me dropped what I told it."""
    driven = Driven("11000000", choker="free-rider")
    driven.meet("a", owns="00111111")
    (request,) = of(ev.RequestBlock, driven.tell(turn("a")))
    driven.tell(ev.RequestFailed("a", request.index, "unknown"))
    assert driven.news_for("a") == (0, 1)


def test_a_block_that_came_is_news_for_the_one_who_heard_least():
    """Leechers that trade with others must still hear of my blocks; one message for each block is the price."""
    driven = Driven()
    driven.meet("a", "b", owns="11110000")
    driven.meet("c", owns=ALL)
    driven.sleep(5.0)
    ((_, index),) = asked_for(driven.tell(turn("c", suggest=7)))
    told = of(ev.SendHaves, driven.arrived("c", index))
    assert len(told) == 1
    assert told[0].key in {"a", "b"}
    assert told[0].haves == (7,)


def test_a_block_that_is_disowned_is_news_no_more():
    """A simulated peer may lose a block: announcing it would draw requests that are refused."""
    driven = Driven("11000000", choker="free-rider")
    driven.meet("a")
    driven.session.disown(0)
    assert driven.news_for("a") == (1,)
    assert driven.session.owned.count == 1


# ---------------------------------------------------------------------- whatever happens

KEYS = st.sampled_from("abc")
INDEX = st.integers(0, len(ALL) - 1)
REASONS = st.sampled_from(["refused", "busy", "missing", "corrupt", "cancelled", "lost"])
SETS = st.lists(INDEX, max_size=4).map(tuple)
EVENTS = st.one_of(
    st.builds(ev.PeerSeen, KEYS, st.sampled_from(["x", "y"]), st.booleans()),
    st.builds(ev.TrackerAnswered, st.integers(0, 60), st.floats(0.1, 60)),
    st.just(ev.TrackerFailed()),
    st.builds(ev.BlocksGranted, SETS),
    st.builds(ev.HavesReceived, KEYS, SETS),
    st.builds(ev.BitfieldReceived, KEYS, SETS),
    st.builds(ev.HandshakeReceived, KEYS, SETS),
    st.builds(ev.HandshakeAnswered, KEYS, st.booleans(), st.booleans()),
    st.builds(ev.TurnOffered, KEYS, st.booleans(), st.none() | INDEX, st.none() | st.just(RATE)),
    st.builds(ev.OfferAnswered, KEYS, st.booleans()),
    st.builds(ev.ContactFailed, KEYS, st.booleans()),
    st.builds(ev.HavesDelivered, KEYS),
    st.builds(ev.UploadStalled, KEYS, INDEX),
    st.builds(ev.UploadEnded, KEYS, INDEX, st.integers(0, 1000), st.booleans()),
    st.builds(ev.BlockArrived, KEYS, INDEX, st.just(1000), st.floats(0, 1)),
    st.builds(ev.RequestFailed, KEYS, INDEX, REASONS, st.floats(0, 5)),
    st.builds(ev.RequestReceived, st.just("always"), INDEX),
    st.builds(ev.NewsAsked, KEYS),
    st.just(ev.Tick()),
)


@given(
    st.lists(st.tuples(EVENTS, st.floats(0, 2)), max_size=60),
    st.sampled_from([RATE, None]),
    st.sampled_from(sorted(CHOKERS)),
    st.sampled_from(sorted(PICKERS)),
    st.sampled_from([ALL, "10100000", NONE]),
)
def test_no_sequence_of_events_breaks_the_rules(steps, rate, choker, picker, owned):
    """Messages come late, twice and out of order: the session must neither fail nor spin nor ask for nonsense."""
    driven = Driven(owned, rate=rate, choker=choker, picker=picker)
    driven.meet("always", owns="11110000")
    session = driven.session
    for event, pause_s in steps:
        missing, open_keys = session.owned.missing, {key for key in "abc" if key in session.ledger}
        actions = driven.tell(event)
        assert session.next_wakeup_s(driven.now_s) > driven.now_s
        assert session.unchoked.isdisjoint(session.choked)
        assert session.unchoked | session.choked <= set(session.neighbours)
        for key, index in asked_for(actions):
            assert missing >> index & 1
            assert index in session.neighbours[key].have
            assert key not in open_keys or isinstance(event, ev.BlockArrived | ev.RequestFailed)
        driven.now_s += pause_s
    finishes = [action for _, action in driven.asked if isinstance(action, ev.Finish)]
    assert len(finishes) == session.owned.complete


@given(
    st.lists(st.tuples(EVENTS, st.floats(0, 2)), max_size=40),
    st.sampled_from([RATE, None]),
    st.sampled_from([ALL, "10100000", NONE]),
)
def test_the_same_events_give_the_same_actions(steps, rate, owned):
    """A real run's log can be replayed only if nothing but events, times and the seed decides."""
    runs = [Driven(owned, rate=rate), Driven(owned, rate=rate)]
    for driven in runs:
        driven.meet("always", owns="11110000")
        for event, pause_s in steps:
            driven.tell(event)
            driven.now_s += pause_s
    assert runs[0].asked == runs[1].asked


def test_an_idle_session_sleeps():
    """The driver ticks when the session says so: a session with nothing to do must not keep a core busy."""
    driven = Driven(ALL)
    driven.meet("a", "b", owns=ALL)
    ticks = 0
    while driven.now_s < 60.0:
        driven.now_s = driven.session.next_wakeup_s(driven.now_s)
        driven.tell(ev.Tick())
        ticks += 1
    assert ticks <= 3 * 60 / driven.session.rechoke_interval_s()
