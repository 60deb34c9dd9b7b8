"""Pickers over swarms written as strings, and the two tables they look at against naive models."""

import math
from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibit.core.blocks import full_mask, indices_of, mask_of
from minibit.core.picker import PICKERS, Availability, OpenRequest, RandomOrder, RarestFirst, RequestLedger, Sequential

SIZE = 12
INF = float("inf")
index_sets = st.frozensets(st.integers(0, SIZE - 1))


def availability(counts):
    """Return the availability in which block ``i`` is owned by as many neighbours as digit ``i`` says."""
    table = Availability(len(counts))
    for level in range(1, max(map(int, counts)) + 1):
        table.add(mask_of(index for index, count in enumerate(counts) if int(count) >= level))
    return table


def blocks(flags):
    """Return the set of blocks marked ``x``."""
    return mask_of(index for index, flag in enumerate(flags) if flag == "x")


def picks(picker, counts, candidates, draws=300):
    """Return how often each block is picked."""
    rng = Random(7)
    return Counter(picker.pick(blocks(candidates), availability(counts), rng) for _ in range(draws))


def ask(key, index, due_at_s=1.0):
    return OpenRequest(index, key, 0.0, due_at_s)


@pytest.mark.parametrize(
    ("counts", "candidates", "chosen"),
    [
        ("1231", "xxxx", {0, 3}),
        ("1231", ".xxx", {3}),
        ("1231", ".xx.", {1}),
        ("0231", "xxxx", {0}),
        ("2222", "xxxx", {0, 1, 2, 3}),
        ("9128", "x..x", {3}),
    ],
)
def test_rarest_first_picks_among_the_rarest_candidates(counts, candidates, chosen):
    """The rarest block is the one a departing peer could take away for good; ties spread the leechers."""
    assert set(picks(RarestFirst(), counts, candidates)) == chosen


def test_rarest_first_breaks_ties_evenly():
    """If everybody took the first of the rarest, all leechers would fetch the same block at once."""
    counts = picks(RarestFirst(), "31113", "xxxxx", draws=3000)
    assert all(count == pytest.approx(1000, abs=130) for count in counts.values())


def test_random_order_takes_every_candidate_alike():
    """It is the control that rarest first is compared with: availability must not matter to it."""
    counts = picks(RandomOrder(), "1239", "x.xx", draws=3000)
    assert set(counts) == {0, 2, 3}
    assert all(count == pytest.approx(1000, abs=130) for count in counts.values())


@pytest.mark.parametrize(("candidates", "chosen"), [("xxxx", 0), ("..xx", 2), ("...x", 3)])
def test_sequential_takes_the_lowest(candidates, chosen):
    """A player of a stream needs the beginning first."""
    assert picks(Sequential(), "1119", candidates) == {chosen: 300}


@pytest.mark.parametrize("name", PICKERS)
@given(counts=st.text("0123", min_size=1, max_size=20), data=st.data())
def test_every_picker_stays_within_the_candidates(name, counts, data):
    """A block outside the candidates is owned already, under way, or not on offer."""
    candidates = data.draw(st.sets(st.integers(0, len(counts) - 1), min_size=1))
    assert PICKERS[name]().pick(mask_of(candidates), availability(counts), Random(0)) in candidates


@given(st.lists(st.tuples(st.booleans(), index_sets), max_size=30), index_sets.filter(bool))
def test_availability_counts_like_a_counter(steps, candidates):
    """Owners come and go in any order; a count that drifts would call a common block rare."""
    table, model, present = Availability(SIZE), Counter(), []
    for joins, owned in steps:
        if joins or not present:
            table.add(mask_of(owned))
            model.update(owned)
            present.append(owned)
        else:
            gone = present.pop()
            table.remove(mask_of(gone))
            model.subtract(gone)
    assert [table.count(index) for index in range(SIZE)] == [model[index] for index in range(SIZE)]
    fewest = min(model[index] for index in candidates)
    assert set(indices_of(table.rarest(mask_of(candidates)))) == {i for i in candidates if model[i] == fewest}


class NaiveLedger:
    """The open requests as a plain dictionary, each question answered by looking at all of them."""

    def __init__(self):
        self.open = {}

    def in_flight(self):
        return {request.index for request in self.open.values()}

    def overdue(self, now_s):
        asked = Counter(request.index for request in self.open.values())
        return {r.index for r in self.open.values() if r.due_at_s <= now_s and asked[r.index] == 1}

    def others(self, index, key):
        return [r for r in self.open.values() if r.index == index and r.key != key]


@given(
    st.lists(st.tuples(st.sampled_from("abcde"), st.none() | st.integers(0, 3), st.floats(0, 9)), max_size=40),
    st.floats(0, 10),
)
def test_the_ledger_answers_like_a_plain_list_of_requests(steps, now_s):
    """A block that stays 'under way' for ever is never asked for again, and the file never completes."""
    ledger, naive = RequestLedger(), NaiveLedger()
    for key, index, due_at_s in steps:
        if index is None or key in naive.open:
            assert ledger.close(key) == naive.open.pop(key, None)
        else:
            naive.open[key] = ask(key, index, due_at_s)
            ledger.open(naive.open[key])
        assert set(indices_of(ledger.in_flight)) == naive.in_flight()
    assert len(ledger) == len(naive.open)
    assert set(indices_of(ledger.overdue(now_s))) == naive.overdue(now_s)
    assert ledger.next_due_s(now_s) == min((r.due_at_s for r in naive.open.values() if r.due_at_s > now_s), default=INF)
    for key in "abcde":
        assert (key in ledger) == (key in naive.open)
        assert ledger.get(key) == naive.open.get(key)
        assert [ledger.others(i, key) for i in range(4)] == [naive.others(i, key) for i in range(4)]


def test_a_neighbour_has_at_most_one_open_request():
    """A second request would wait behind the first at the sender while another neighbour's uplink idles."""
    ledger = RequestLedger()
    ledger.open(ask("a", 3))
    with pytest.raises(ValueError, match="a was already asked for block 3"):
        ledger.open(ask("a", 4))
    assert ledger.in_flight == 1 << 3


def test_a_block_is_under_way_until_the_last_of_its_requests_is_closed():
    """End game asks two neighbours for one block: the first failure must not make it look free."""
    ledger = RequestLedger()
    ledger.open(ask("a", 3))
    ledger.open(ask("b", 3))
    ledger.close("a")
    assert ledger.in_flight == 1 << 3
    ledger.close("b")
    assert ledger.in_flight == 0


def test_a_block_asked_twice_is_overdue_no_more():
    """End game asks a second neighbour, never a third: duplicates cost what the slow sender lost."""
    ledger = RequestLedger()
    ledger.open(ask("a", 3, due_at_s=1.0))
    assert ledger.overdue(0.9) == 0
    assert ledger.overdue(1.0) == 1 << 3
    ledger.open(ask("b", 3, due_at_s=1.0))
    assert ledger.overdue(9.0) == 0


def test_nothing_is_rarer_than_what_nobody_owns():
    """Before the first neighbour is known every block has availability nought, and all are candidates alike."""
    assert Availability(SIZE).rarest(full_mask(SIZE)) == full_mask(SIZE)
    assert math.isclose(sum(Availability(SIZE).count(index) for index in range(SIZE)), 0)
