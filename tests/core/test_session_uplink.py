"""One peer's brain as a sender: whom it answers what, whose turn it offers, and when."""

from itertools import groupby, pairwise

import pytest
from driven import ALL, BLOCKS, NONE, SERVICE_S, Driven, of

from minibit.core import events as ev
from minibit.core.choker import CHOKERS, OPTIMISTIC_ROUNDS
from minibit.core.neighbours import INTERESTED_AFTER_REFUSAL_S, STRIKES_MAX
from minibit.core.session import EARLY_RECHOKE_S, OFFER_LAPSES_S, OFFER_LEAD_S, OPEN_OFFER_LAPSES_S

# ---------------------------------------------------------------------- requests


def test_a_request_is_checked_for_choke_then_block_then_capacity():
    """The contract's order 403, 404, 503: a choked client must not learn from the answer what else is the matter."""
    driven = Driven("11110000")
    driven.meet(*"abcdefgh")
    driven.rechoke()
    served = driven.offered
    choked = min(driven.session.choked)
    other = min(driven.session.unchoked - {served})
    assert isinstance(driven.request(served, 0), ev.Serve)
    assert driven.request(choked, 7).reason == "choked"
    assert driven.request(other, 7).reason == "missing"
    assert driven.request(other, 1).reason == "busy"


def test_a_block_is_given_again_to_who_asks_again():
    """A receiver may have lost it: exactly the block named, however often it was given before."""
    driven = Driven(ALL)
    driven.meet("a", "b")
    for _ in range(3):
        assert driven.request("a", 4) == ev.Serve("a", 4)
        driven.now_s += SERVICE_S
        driven.sent("a", 4)
        driven.tell(ev.HandshakeReceived("a", ()))


def test_a_banned_neighbour_is_refused():
    """Who sends wrong blocks gets nothing either."""
    driven = Driven(ALL)
    driven.meet("a")
    driven.tell(*[ev.RequestFailed("a", 0, "corrupt")] * STRIKES_MAX)
    assert driven.request("a", 0).reason == "choked"


# ---------------------------------------------------------------------- turns


def test_the_next_turn_is_offered_shortly_before_the_link_falls_free():
    """Too early, and the choice of block rests on old news; too late, and the link idles for an exchange."""
    driven = Driven(ALL)
    driven.meet("a", "b")
    first = driven.offers()[0][1]
    driven.request(first, 0)
    driven.sleep(SERVICE_S)
    second = ({"a", "b"} - {first}).pop()
    assert driven.offers()[1:] == [(pytest.approx(SERVICE_S - OFFER_LEAD_S), second)]


def test_one_turn_is_offered_at_a_time_and_none_to_who_is_being_served():
    """Two open offers would put two blocks on the link at once, and make each take twice as long."""
    driven = Driven(ALL)
    driven.meet("a", "b", "c")
    assert len(driven.offers()) == 1
    key = driven.offers()[0][1]
    driven.request(key, 0)
    driven.sleep(SERVICE_S - OFFER_LEAD_S)
    assert len(driven.offers()) == 2
    assert driven.offers()[1][1] != key


def test_turns_go_round():
    """First come, first served would reward whoever asks most; everybody unchoked gets the same share of the link."""
    driven = Driven(ALL)
    driven.meet(*"abcde")
    served = []
    for index in [0, 1, 2, 3] * 5:
        ((key, _),) = driven.session.uplink.offers.items()
        driven.request(key, index)
        served.append(key)
        driven.sleep(driven.now_s + SERVICE_S)
        driven.sent(key, index)
        driven.tell(ev.HandshakeReceived(key, ()))
    assert [sorted(served[i : i + 5]) for i in range(0, 20, 5)] == [list("abcde")] * 4


def test_an_unused_offer_goes_to_the_next():
    """A neighbour that hangs must not hold the link for longer than the moment it was given."""
    driven = Driven(ALL)
    driven.meet("a", "b")
    (_, first), *_ = driven.offers()
    driven.sleep(OFFER_LAPSES_S)
    assert driven.offers()[1] == (OFFER_LAPSES_S, ({"a", "b"} - {first}).pop())


def test_a_declined_turn_goes_to_the_next_at_once_and_the_decliner_cools():
    """It has no use for a block now; asking it again and again would be polling, longer each time it declines."""
    driven = Driven(ALL)
    driven.meet("a")
    declined_s = []
    while len(declined_s) < 5:
        while not driven.session.uplink.offers:
            driven.sleep(driven.session.next_wakeup_s(driven.now_s))
        declined_s.append(driven.now_s)
        driven.tell(ev.OfferAnswered("a", accepted=False))
    gaps = [later - sooner for sooner, later in pairwise(declined_s)]
    assert gaps == pytest.approx([SERVICE_S, 2 * SERVICE_S, 4 * SERVICE_S, 4 * SERVICE_S], abs=0.02)


def test_a_decline_frees_the_link_for_another():
    """The link must not idle because the one whose turn it was wants nothing."""
    driven = Driven(ALL)
    driven.meet("a", "b")
    driven.sleep(EARLY_RECHOKE_S)
    first = driven.offered
    actions = driven.tell(ev.OfferAnswered(first, accepted=False))
    assert [a.key for a in of(ev.OfferTurn, actions)] == list({"a", "b"} - {first})


def test_a_stalled_receiver_does_not_hold_up_the_link():
    """One slow downlink would otherwise slow the whole swarm down to its own speed."""
    driven = Driven(ALL)
    driven.meet("a", "b")
    first = driven.offers()[0][1]
    driven.request(first, 0)
    driven.now_s = 0.02
    actions = driven.tell(ev.UploadStalled(first, 0))
    assert [a.key for a in of(ev.OfferTurn, actions)] == list({"a", "b"} - {first})


def test_a_seed_suggests_every_block_once_before_any_twice():
    """A second copy from the seed before the first of another block is time the whole swarm waits for that other."""
    driven = Driven(ALL)
    driven.meet("a", "b", "c")
    suggested = []
    for _ in range(BLOCKS):
        (offer,) = of(ev.OfferTurn, [driven.asked[-1][1]])
        suggested.append(offer.suggest)
        driven.request(offer.key, offer.suggest)
        driven.sleep(driven.now_s + SERVICE_S)
        driven.sent(offer.key, offer.suggest)
    assert sorted(suggested) == list(range(BLOCKS))


def test_a_seed_remembers_what_it_gave_to_those_who_left():
    """A copy that left with its owner may have been passed on: what was never given at all comes first."""
    driven = Driven(ALL)
    driven.meet("a")
    for index in range(BLOCKS - 1):
        driven.request("a", index)
        driven.sleep(driven.now_s + SERVICE_S)
        driven.sent("a", index)
    driven.session.forget("a")
    driven.sleep(driven.now_s + 1.0)
    (offer,) = of(ev.OfferTurn, driven.meet("b"))
    assert offer.suggest == BLOCKS - 1


def test_a_block_that_was_sent_is_owned_by_its_receiver():
    """It will not announce it to me: without this I would offer it turns for blocks I gave it myself."""
    driven = Driven(ALL)
    driven.meet("a")
    driven.request("a", 3)
    driven.sent("a", 3)
    assert list(driven.session.neighbours["a"].have) == [3]


def test_the_optimistic_unchoke_moves_on_at_every_third_rechoke():
    """Those who give keep their slots; the fifth goes round, so that everybody may show what it has."""
    driven = Driven("11110000", rate=None)
    driven.meet(*"abcdefgh")
    holders = []
    for _ in range(6 * OPTIMISTIC_ROUNDS):
        for key in "abcd":
            driven.arrived(key, 0)
        driven.rechoke()
        assert set("abcd") < driven.session.unchoked
        holders.append(driven.session.optimistic)
    terms = [len(list(group)) for _, group in groupby(holders)]
    assert terms[1:-1] == [OPTIMISTIC_ROUNDS] * len(terms[1:-1])
    assert len(terms) >= 5


def test_what_a_neighbour_gave_long_ago_weighs_less():
    """Who gave much once and nothing since must make room for who gives now."""
    driven = Driven("11110000", rate=None)
    driven.meet("a", "b")
    driven.tell(*[ev.BlockArrived("a", 0, 1000)] * 3)
    for _ in range(3):
        driven.rechoke()
    driven.tell(ev.BlockArrived("b", 0, 1000))
    a, b = (driven.session.neighbours[key] for key in "ab")
    assert a.received_bytes > b.received_bytes
    assert a.received_lately_bytes < b.received_lately_bytes


def test_an_upload_that_breaks_off_says_nothing_against_the_receiver():
    """In end game it had the block from elsewhere; if it has gone, the next offer will tell."""
    driven = Driven(ALL)
    driven.meet("a")
    driven.request("a", 0)
    (offer,) = of(ev.OfferTurn, driven.sent("a", 0, complete=False))
    assert offer.haves == tuple(range(8)), "what it was told before may be lost with the answer"


def test_an_unlimited_uplink_gives_standing_turns_to_whom_it_unchokes():
    """Without a limit a turn a block would be a message a block for nothing: five may ask whenever they like."""
    driven = Driven(ALL, rate=None)
    driven.meet(*"abcdefgh")
    for _ in range(5):
        driven.sleep(driven.now_s + 0.1)
        driven.tell(ev.OfferAnswered(driven.offered, accepted=True))
    offers = of(ev.OfferTurn, [action for _, action in driven.asked])
    assert all(offer.standing for offer in offers)
    assert len(driven.session.unchoked) == 5
    assert driven.session.unchoked <= {offer.key for offer in offers}
    assert {type(driven.request(key, 0)) for key in driven.session.unchoked} == {ev.Serve}


def test_one_standing_offer_at_a_time_waits_for_its_answer():
    """In a crowd answers take seconds; more offers would only make them take longer."""
    driven = Driven(ALL, rate=None)
    driven.meet(*"abcdefgh")
    driven.sleep(OPEN_OFFER_LAPSES_S - 0.1)
    assert len(driven.offers()) == 1
    driven.sleep(OPEN_OFFER_LAPSES_S + 1.0)
    assert len(driven.offers()) == 2, "one that nobody answers must not hold up the others for ever"


def test_offers_in_vain_become_rare():
    """Most likely everybody has everything, and has not said so yet."""
    driven = Driven(ALL, rate=None)
    driven.meet(*"abcdefghijklmnop")
    while driven.now_s < 60.0:
        driven.sleep(driven.now_s + 0.01)
        for key in list(driven.session.uplink.offers):
            driven.tell(ev.OfferAnswered(key, accepted=False))
    times_s = [at_s for at_s, _ in driven.offers()]
    assert len(times_s) <= 30
    assert sum(at_s > 30.0 for at_s in times_s) <= 10


def test_a_starving_neighbour_is_given_a_free_slot_at_once():
    """The answer to its handshake says so; an offer would be one message more."""
    driven = Driven(ALL, rate=None)
    actions = driven.tell(ev.PeerSeen("a", "id-a"), ev.HandshakeReceived("a", ()))
    assert driven.session.unchoked == {"a"}
    assert of(ev.OfferTurn, actions) == []
    assert type(driven.request("a", 0)) is ev.Serve


def test_a_free_rider_gives_no_slot_to_a_starving_neighbour_either():
    """It takes and does not give."""
    driven = Driven(ALL, rate=None, choker="free-rider")
    driven.tell(ev.PeerSeen("a", "id-a"), ev.HandshakeReceived("a", ()))
    assert driven.session.unchoked == set()


def test_complete_by_download_it_offers_to_those_who_asked_lately():
    """Its neighbours are most likely complete too: in a crowd every such offer was in vain."""
    driven = Driven("01111111", rate=None)
    driven.meet("a", owns=NONE)
    driven.meet("s", owns=ALL)
    driven.sleep(OPEN_OFFER_LAPSES_S + 1.0)
    driven.arrived("s", 0)
    before = len(driven.offers())
    driven.sleep(driven.now_s + 60.0)
    assert len(driven.offers()) == before
    driven.tell(ev.HandshakeReceived("a", ()))
    assert driven.session.unchoked == {"a"}


@pytest.mark.parametrize(("duration_s", "slots"), [(0.01, 5), (2.0, 1)])
def test_where_blocks_take_long_an_unlimited_leecher_serves_one(duration_s, slots):
    """Blocks side by side only make each other later; a small sum of work at a time is done sooner."""
    driven = Driven("11110000", rate=None)
    driven.meet("s", owns=ALL)
    driven.tell(ev.BlockArrived("s", 4, 16, duration_s))
    driven.meet(*"abcdefgh")
    driven.rechoke()
    assert len(driven.session.unchoked) == slots


def test_where_blocks_take_long_a_complete_peer_serves_five():
    """It holds many blocks that a neighbour lacks: few messages for each."""
    driven = Driven("11111110", rate=None)
    driven.meet("s", owns=ALL)
    driven.tell(ev.BlockArrived("s", 7, 16, 2.0))
    for key in "abcdefgh":
        driven.tell(ev.PeerSeen(key, key), ev.HandshakeReceived(key, ()))
    assert len(driven.session.unchoked) == 5


def test_a_standing_turn_is_not_offered_twice():
    """It stands until it is refused; repeating it would be polling."""
    driven = Driven(ALL, rate=None)
    driven.meet("a")
    driven.tell(ev.OfferAnswered("a", accepted=True))
    driven.sleep(5.0)
    assert len(driven.offers()) == 1


# ---------------------------------------------------------------------- clients without turns


def basic(driven, *keys):
    """Let clients without a server of their own be known: what they are offered does not reach them."""
    driven.meet(*keys)
    driven.tell(*[ev.ContactFailed(key, reachable=True) for key in keys])


def test_a_client_without_turns_is_offered_none():
    """It would answer 404 for ever."""
    driven = Driven(ALL)
    basic(driven, "a")
    before = len(driven.offers())
    driven.sleep(5.0)
    assert len(driven.offers()) == before


def test_a_refused_client_is_interested_for_ten_seconds():
    """The contract's promise to curl: it has no other way to say that it wants something."""
    driven = Driven(ALL)
    basic(driven, "a")
    neighbour = driven.session.neighbours["a"]
    assert not neighbour.interested(driven.session.owned.mask, driven.now_s)
    driven.request("a", 0)
    assert neighbour.interested(driven.session.owned.mask, INTERESTED_AFTER_REFUSAL_S - 0.01)
    assert not neighbour.interested(driven.session.owned.mask, INTERESTED_AFTER_REFUSAL_S)


@pytest.mark.parametrize("choker", CHOKERS)
@pytest.mark.parametrize("others", ["", "bcde"])
@pytest.mark.parametrize("owned", [ALL, "11110000"])
def test_a_refused_client_is_served_within_two_optimistic_intervals(choker, others, owned):
    """With at most five interested nobody may be left out; it asks again when it was told to, as curl in a loop."""
    driven = Driven(owned, choker=choker)
    driven.meet(*others)
    basic(driven, "a")
    deadline_s = 2 * OPTIMISTIC_ROUNDS * driven.session.rechoke_interval_s()
    answer = driven.request("a", 0)
    while isinstance(answer, ev.Refuse):
        assert driven.now_s + answer.retry_after_s <= deadline_s
        driven.sleep(driven.now_s + answer.retry_after_s)
        answer = driven.request("a", 0)
    assert (answer.key, answer.index) == ("a", 0)


def test_the_turn_of_a_client_is_kept_until_it_comes_back():
    """503 says when to come back; whoever does must find its turn, not another queue."""
    driven = Driven(ALL)
    basic(driven, "a", "b")
    driven.request("a", 0)
    driven.request("b", 1)
    driven.rechoke()
    assert isinstance(driven.request("a", 0), ev.Serve)
    busy = driven.request("b", 1)
    assert busy.reason == "busy"
    assert 0 < busy.retry_after_s <= 2 * SERVICE_S
    driven.sleep(driven.now_s + SERVICE_S)
    driven.sent("a", 0)
    driven.sleep(driven.now_s + busy.retry_after_s)
    assert isinstance(driven.request("b", 1), ev.Serve)
