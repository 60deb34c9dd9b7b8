"""Chokers over snapshots of neighbours: who is served, and how often over many rounds."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibit.core.choker import (
    CHOKERS,
    OPTIMISTIC_ROUNDS,
    Candidate,
    Choice,
    FreeRider,
    NoChoker,
    SeedChoker,
    TitForTat,
    rechoke_interval_s,
)

ALL = [TitForTat, SeedChoker, NoChoker, FreeRider]
candidates = st.lists(
    st.builds(
        Candidate,
        key=st.text("abcdefgh", min_size=1, max_size=3),
        interested=st.booleans(),
        received_lately_bytes=st.floats(0, 1e9),
        given_bytes=st.integers(0, 10**12),
    ),
    max_size=20,
    unique_by=lambda candidate: candidate.key,
)


def neighbours(received, *, given="", interested=""):
    """Return candidates a, b, c …: the digits say what each gave me and what I gave it, ``.`` who is not interested."""
    return [
        Candidate(chr(ord("a") + i), interested[i : i + 1] != ".", float(digit), int(given[i : i + 1] or 0))
        for i, digit in enumerate(received)
    ]


@pytest.mark.parametrize("kind", ALL)
@given(candidates, st.integers(0, 99), st.lists(st.booleans(), min_size=1, max_size=6))
def test_only_interested_neighbours_are_chosen_and_each_once(kind, shown, seed, rotations):
    """A slot for somebody who wants nothing is uplink lost; a double entry would count as two."""
    choker, rng = kind(), Random(seed)
    for rotate in rotations:
        choice = choker.choose(shown, rng, rotate=rotate)
        assert len(set(choice.unchoked)) == len(choice.unchoked)
        assert set(choice.unchoked) <= {candidate.key for candidate in shown if candidate.interested}
        assert choice.optimistic is None or choice.optimistic in choice.unchoked


@given(candidates, st.integers(0, 99))
def test_tit_for_tat_fills_four_regular_slots_and_one_optimistic(shown, seed):
    """Five slots, all in use while somebody wants them: fewer would waste the uplink, more would thin it out."""
    choice = TitForTat().choose(shown, Random(seed), rotate=True)
    wanting = sum(candidate.interested for candidate in shown)
    assert len(choice.unchoked) == min(wanting, 5)
    assert (choice.optimistic is not None) == (wanting > 4)


@given(candidates, st.integers(0, 99))
def test_tit_for_tat_prefers_those_who_gave_most(shown, seed):
    """No regular slot goes to a neighbour that gave less than one left out: that is what makes giving pay."""
    choice = TitForTat().choose(shown, Random(seed), rotate=False)
    regular = [c.received_lately_bytes for c in shown if c.key in choice.unchoked[:4]]
    left_out = [c.received_lately_bytes for c in shown if c.interested and c.key not in choice.unchoked[:4]]
    assert not left_out or min(regular) >= max(left_out)


def test_a_contributor_who_wants_nothing_takes_no_slot():
    """Rank is among the interested: the best giver of all is skipped while it wants nothing."""
    choice = TitForTat().choose(neighbours("98765", interested=".xxxx"), Random(0), rotate=True)
    assert choice.unchoked == ("b", "c", "d", "e")
    assert choice.optimistic is None


def test_those_who_gave_equally_share_the_slots_at_random():
    """At the start nobody has given anything; a fixed order would serve the same four in every swarm."""
    rng = Random(3)
    counts = Counter(
        key for _ in range(500) for key in TitForTat().choose(neighbours("00000000"), rng, rotate=True).unchoked
    )
    assert all(count == pytest.approx(500 * 5 / 8, rel=0.2) for count in counts.values())


def test_the_optimistic_unchoke_stays_until_it_is_told_to_rotate():
    """A newcomer needs a while to prove itself: a slot that moved each round would be of no use to it."""
    choker, rng = TitForTat(), Random(1)
    shown = neighbours("9999" + "0" * 6)
    first = choker.choose(shown, rng, rotate=True).optimistic
    assert {choker.choose(shown, rng, rotate=False).optimistic for _ in range(20)} == {first}
    assert choker.choose(shown, rng, rotate=True).optimistic != first


def test_the_optimistic_unchoke_moves_on_when_its_holder_leaves_or_is_promoted():
    """The slot must not stand empty until the next rotation."""
    choker, rng = TitForTat(), Random(1)
    first = choker.choose(neighbours("9999000"), rng, rotate=True).optimistic
    promoted = neighbours("".join("9" if chr(ord("a") + i) == first else digit for i, digit in enumerate("8888000")))
    choice = choker.choose(promoted, rng, rotate=False)
    assert first in choice.unchoked[:4]
    assert choice.optimistic not in {None, first}


def test_the_optimistic_unchoke_is_fair_over_time():
    """Everybody left out gets its turn: over many rotations no newcomer has a third more than another."""
    choker, rng = TitForTat(), Random(5)
    shown = neighbours("9999" + "0" * 6)
    counts = Counter(choker.choose(shown, rng, rotate=True).optimistic for _ in range(1200))
    assert set(counts) == set("efghij")
    assert max(counts.values()) < 4 / 3 * min(counts.values())


def test_a_free_rider_gets_only_optimistic_turns():
    """Who never gives anything holds no regular slot while four others give, and only its share of the optimistic."""
    choker, rng = TitForTat(), Random(2)
    shown = neighbours("1230454")  # d gives nothing; a, b, c, e, f, g do
    rounds = 3000
    choices = [choker.choose(shown, rng, rotate=r % OPTIMISTIC_ROUNDS == 0) for r in range(rounds)]
    assert not any("d" in choice.unchoked[:4] for choice in choices)
    served = sum("d" in choice.unchoked for choice in choices) / rounds
    assert served == pytest.approx(1 / 3, abs=0.07)


def test_a_seed_serves_those_whom_it_gave_least():
    """A seed gets nothing back: ranking by what it gave spreads its uplink evenly."""
    choice = SeedChoker().choose(neighbours("0000000", given="5193728"), Random(0), rotate=True)
    assert choice.unchoked == ("b", "f", "d", "a", "e")
    assert choice.optimistic is None


def test_a_seed_that_gives_to_whom_it_chose_ends_up_even():
    """Over many rounds nobody is more than one round ahead of anybody else."""
    choker, rng, given = SeedChoker(), Random(4), Counter(dict.fromkeys("abcdefghijk", 0))
    for _ in range(200):
        shown = [Candidate(key, interested=True, received_lately_bytes=0.0, given_bytes=n) for key, n in given.items()]
        given.update(choker.choose(shown, rng, rotate=False).unchoked)
    assert max(given.values()) - min(given.values()) <= 1


def test_without_a_choker_everybody_interested_is_served():
    """It is what tit-for-tat is compared with."""
    choice = NoChoker().choose(neighbours("123456789", interested="xx.xxxxxx"), Random(0), rotate=True)
    assert set(choice.unchoked) == set("abdefghi")


def test_a_free_rider_serves_nobody():
    """It stands in scenarios for the peer that tit-for-tat is there to discourage."""
    assert FreeRider().choose(neighbours("999"), Random(0), rotate=True).unchoked == ()


def test_a_complete_tit_for_tat_peer_turns_into_a_seed_and_the_others_stay():
    """Once the file is complete nobody can give anything back, so rank by giving would freeze the slots."""
    assert isinstance(TitForTat().as_seed(), SeedChoker)
    assert [type(kind().as_seed()) for kind in ALL[1:]] == ALL[1:]
    assert set(CHOKERS) == {"tit-for-tat", "none"}


@pytest.mark.parametrize(
    ("service_s", "interval_s"), [(0.0, 0.25), (0.01, 0.25), (0.125, 1.0), (1.0, 8.0), (5.0, 10.0)]
)
def test_the_rechoke_interval_follows_the_time_a_block_takes(service_s, interval_s):
    """Ten seconds is longer than many a swarm lives; less than some blocks would only rank noise."""
    assert rechoke_interval_s(service_s) == pytest.approx(interval_s)


def test_a_choice_that_keeps_some_fills_the_rest_in_order():
    """An early rechoke fills empty slots: who uses a standing turn must not lose it to a draw of lots."""
    choice = Choice(("a", "b", "c"), optimistic="c")
    assert choice.keeping(["x"]) == Choice(("x", "a", "b"))
    assert choice.keeping(["c", "a"]) == Choice(("c", "a", "b"), optimistic="c")
    assert choice.keeping(["w", "x", "y", "z"]).unchoked == ("w", "x", "y", "z")


def test_the_first_of_a_choice_are_those_of_highest_rank():
    """An optimistic unchoke that falls out is none any more."""
    choice = Choice(("a", "b", "c"), optimistic="c")
    assert choice.first(1) == Choice(("a",))
    assert choice.first(3) == choice.first(9) == choice
