"""Faults that reviews found in the policy, one test each, so that they stay gone."""

import pytest
import virtual_swarm
from driven import ALL, Driven, asked_for, of, turn
from test_swarm_policy import run
from virtual_swarm import MB

from minibit.core import events as ev


def test_a_complete_swarm_falls_silent():
    """Seeds must learn what leechers got from each other, or they offer turns for ever."""
    swarm, _ = run([2 * MB] * 8)
    before = swarm.messages["OfferTurn"]
    swarm.run_for(10.0)
    assert swarm.messages["OfferTurn"] - before <= 9 * 8


def test_a_neighbour_dead_for_a_night_breaks_nothing():
    """A back-off that doubles for hours must not overflow."""
    driven = Driven(ALL)
    driven.meet("a")
    driven.tell(*[ev.ContactFailed("a")] * 1100)
    driven.tell(*[ev.RequestFailed("a", 0, "lost")] * 1100)
    assert driven.session.neighbours["a"].retry_at_s <= driven.now_s + 30.0


@pytest.mark.parametrize("reason", ["lost", "refused", "unknown"])
def test_a_standing_turn_that_was_lost_is_given_again(reason):
    """The receiver forgot it, the seed thinks it stands: asking what there is must renew it."""
    seed, leecher = Driven(ALL, rate=None), Driven(rate=None)
    seed.meet("l")
    leecher.meet("s", owns=ALL)
    seed.tell(ev.OfferAnswered("l", accepted=True))
    ((_, index),) = asked_for(leecher.tell(turn("s", standing=True)))
    leecher.tell(ev.RequestFailed("s", index, reason))
    renewed = False
    while not renewed and leecher.now_s < 20:
        for _ in of(ev.Handshake, leecher.sleep(leecher.now_s + 1.0)):
            seed.now_s = leecher.now_s
            seed.tell(ev.HandshakeReceived("l", ()))
            renewed = renewed or "l" in seed.session.unchoked  # which the answer says
    assert renewed


def test_a_late_joiner_of_a_large_swarm_completes(monkeypatch):
    """Every table is full when it comes; somebody must make room, or it waits for ever."""
    monkeypatch.setattr(virtual_swarm, "HORIZON_S", 60.0)
    _, makespan_s = run([2 * MB] * 55, size_mib=1, start_delays_s=[0.0] * 54 + [3.0])
    assert makespan_s > 3.0


def test_complete_peers_make_room_for_others():
    """Two that have everything are of no use to each other."""
    driven = Driven(ALL, max_neighbours=2)
    driven.meet("a", "b", owns=ALL)
    driven.meet("c")
    assert "c" in driven.session.neighbours


def test_a_turn_offered_while_the_last_block_still_comes_in_is_used():
    """The sender's part is done when the kernel has the bytes; declining would idle its link for a block's time."""
    driven = Driven()
    driven.meet("s", owns=ALL)
    ((_, first),) = asked_for(driven.tell(turn("s")))
    actions = driven.tell(turn("s"))
    assert driven.session.takes_turn("s", actions)
    assert not asked_for(actions)
    ((_, second),) = asked_for(driven.arrived("s", first))
    assert second != first
