"""The bounds against hand-made figures, and against the best schedules that exist, found by trying them all."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibit.core.bounds import Bound, fluid_bound_s, store_and_forward_bound_s

MB = 1_000_000


def optimal_ticks(upload_ticks, block_units):
    """Return the fewest ticks in which every leecher can own every block, by breadth-first search over all schedules.

    Node 0 is the seed. Node ``i`` needs ``upload_ticks[i] * block_units[b]`` ticks to pass on block ``b``, one block at
    a time; a leecher takes from any number at once. A state is what each node owns, and for each node the block that it
    is sending, as (block, receiver, ticks left).
    """
    everything = (1 << len(block_units)) - 1
    nodes = len(upload_ticks)
    states = {((everything, *[0] * (nodes - 1)), (None,) * nodes)}
    for ticks in itertools.count():
        if any(set(owned) == {everything} for owned, _ in states):
            return ticks
        begun = (start for state in states for start in starts(state, upload_ticks, block_units))
        states = {after_one_tick(*start, alike=len(set(upload_ticks)) == 1) for start in begun}
    return None


def starts(state, upload_ticks, block_units):
    """Every way in which the idle nodes can begin useful uploads; where all are alike, waiting gains nothing."""
    owned, flights = state
    may_wait = len(set(upload_ticks)) > 1 or len(set(block_units)) > 1
    choices = {flights}
    for node in [node for node, flight in enumerate(flights) if flight is None]:
        grown = set()
        for begun in choices:
            coming = {flight[:2] for flight in begun if flight}
            options = [
                (*begun[:node], (block, target, upload_ticks[node] * units), *begun[node + 1 :])
                for target in range(1, len(owned))
                for block, units in enumerate(block_units)
                if owned[node] >> block & 1 and not owned[target] >> block & 1 and (block, target) not in coming
            ]
            grown.update([begun, *options] if may_wait or not options else options)
        choices = grown
    return ((owned, begun) for begun in choices)


def after_one_tick(owned, flights, *, alike):
    """Return the state one tick later; where all are alike, leechers that trade places make the same state."""
    owned = list(owned)
    left = []
    for flight in flights:
        if flight and flight[2] == 1:
            owned[flight[1]] |= 1 << flight[0]
        left.append((*flight[:2], flight[2] - 1) if flight and flight[2] > 1 else None)
    if alike and not any(left):
        owned[1:] = sorted(owned[1:])
    return tuple(owned), tuple(left)


def bounds_in_ticks(upload_ticks, block_units):
    """Both bounds for the same swarm, with a block unit of one byte and a tick of one second."""
    rates = [1 / ticks for ticks in upload_ticks]
    file_bytes = sum(block_units)
    fluid = fluid_bound_s(file_bytes, rates[:1], [(rate, None) for rate in rates[1:]])
    return fluid.seconds, store_and_forward_bound_s(file_bytes, block_units[0], rates[:1], rates[1:])


@pytest.mark.parametrize("leechers", [1, 2, 3, 4])
@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_equal_rates_reach_the_store_and_forward_bound(leechers, blocks):
    """Mundinger, Weber & Weiss: with equal uplinks the optimum is M + floor(log2 N) slots, for every N and M."""
    optimum = optimal_ticks([1] * (leechers + 1), [1] * blocks)
    fluid, store_and_forward = bounds_in_ticks([1] * (leechers + 1), [1] * blocks)
    assert optimum == blocks + leechers.bit_length() - 1
    assert store_and_forward == pytest.approx(optimum)
    assert fluid <= optimum


@pytest.mark.parametrize("leechers", [5, 7, 8])
def test_one_block_doubles_its_holders(leechers):
    """With one block the bound is broadcasting by doubling, also past the powers of two."""
    optimum = optimal_ticks([1] * (leechers + 1), [1])
    assert bounds_in_ticks([1] * (leechers + 1), [1])[1] == pytest.approx(optimum)


@pytest.mark.parametrize(
    ("upload_ticks", "block_units", "optimum", "bound"),
    [
        ([2, 1, 1], [1, 1], 5, 5),  # a slow seed
        ([2, 1, 1, 1], [1, 1, 1], 8, 7),
        ([3, 1, 1, 1], [1, 1], 8, 7),
        ([1, 2, 2], [1, 1], 3, 3),  # a fast seed
        ([1, 2, 2, 2], [1, 1], 4, 3),
        ([1, 1, 3], [1, 1], 3, 3),  # a slow leecher
        ([1, 1, 2, 3], [1, 1], 4, 3),
        ([1, 1, 1], [2, 1], 4, 4),  # a short last block
        ([1, 1, 1], [2, 2, 1], 6, 6),
        ([1, 1, 1, 1], [3, 1], 7, 6),
        ([2, 1, 1], [2, 1], 7, 7),
        ([1, 1, 1, 1], [2], 4, 4),  # a file of one block
    ],
)
def test_no_schedule_beats_a_bound(upload_ticks, block_units, optimum, bound):
    """A bound above the optimum would call an honest run a bug; how far below it lies is pinned."""
    fluid, store_and_forward = bounds_in_ticks(upload_ticks, block_units)
    assert optimal_ticks(upload_ticks, block_units) == optimum
    assert max(fluid, store_and_forward) == pytest.approx(bound)
    assert bound <= optimum


def test_a_file_shorter_than_a_block_is_bounded_by_its_own_size():
    """One byte in a block of 256 KiB must not be held against the time a whole block would take."""
    assert store_and_forward_bound_s(1, 256 * 1024, [1.0], [1.0] * 16) == pytest.approx(5.0)


def test_a_last_block_of_one_byte_costs_the_doublings_of_the_block_before():
    """The scenario ``odd``: its one extra byte doubles in no time, but the last whole block does not."""
    block, rate = 256 * 1024, 4.0 * MB
    even = store_and_forward_bound_s(128 * block, block, [rate], [rate] * 16)
    odd = store_and_forward_bound_s(128 * block + 1, block, [rate], [rate] * 16)
    assert even == pytest.approx((128 + 4) * block / rate)
    assert odd == pytest.approx(even)


@pytest.mark.parametrize(
    ("seeds", "leechers", "expected"),
    [
        ([2.0], [(4.0, None)] * 16, Bound(50.0, "seed")),
        ([2.0], [(2.0, 1.5), (2.0, 4.0)], Bound(100 / 1.5, "downlink")),
        ([4.0], [(0.5, None), (1.0, None), (4.0, None)] * 5, Bound(15 * 100 / 31.5, "aggregate")),
        ([2.0, 2.0], [(4.0, None)], Bound(25.0, "seed")),
        ([4.0], [(0.0, None)] * 2, Bound(50.0, "aggregate")),
        ([None], [(1.0, 5.0)], Bound(20.0, "downlink")),
        ([4.0], [(None, None)] * 9, Bound(25.0, "seed")),
    ],
)
def test_the_scarcest_link_makes_the_fluid_bound(seeds, leechers, expected):
    """Each term of Kumar & Ross is the answer to another question, and the record names which one it was."""
    bound = fluid_bound_s(100, seeds, leechers)
    assert bound.seconds == pytest.approx(expected.seconds)
    assert bound.binding_term == expected.binding_term


@pytest.mark.parametrize(
    ("file_bytes", "seeds", "leechers"),
    [
        (0, [1.0], [(1.0, 1.0)]),
        (100, [None], [(None, None)]),
        (100, [None], [(1.0, None)]),
        (100, [1.0], []),
        (100, [0.0], [(0.0, None)]),
    ],
)
def test_where_nothing_is_limited_there_is_no_fluid_bound(file_bytes, seeds, leechers):
    """A bound of zero or infinity would turn into a ratio that means nothing."""
    assert fluid_bound_s(file_bytes, seeds, leechers) is None


@pytest.mark.parametrize(
    ("file_bytes", "seeds", "uploads"),
    [
        (0, [1.0], [1.0]),
        (9, [1.0, 1.0], [1.0]),
        (9, [None], [1.0]),
        (9, [1.0], [None]),
        (9, [1.0], []),
        (9, [0.0], [1.0]),
    ],
)
def test_outside_its_assumptions_there_is_no_store_and_forward_bound(file_bytes, seeds, uploads):
    """The proof is for one seed and capped uplinks; elsewhere the record says null rather than a guess."""
    assert store_and_forward_bound_s(file_bytes, 4, seeds, uploads) is None


@pytest.mark.parametrize("rate", [-1.0, float("nan")])
def test_rates_that_cannot_be_are_refused(rate):
    """A NaN would compare false everywhere and pass as a run that respects its bound."""
    with pytest.raises(ValueError, match="a rate cannot be"):
        fluid_bound_s(1, [1.0], [(rate, None)])
    with pytest.raises(ValueError, match="a rate cannot be"):
        store_and_forward_bound_s(1, 1, [rate], [1.0])


def test_sizes_that_cannot_be_are_refused():
    """The same for sizes."""
    with pytest.raises(ValueError, match="-1 bytes"):
        fluid_bound_s(-1, [1.0], [])
    with pytest.raises(ValueError, match="a block must have a size"):
        store_and_forward_bound_s(1, 0, [1.0], [1.0])


rates = st.floats(min_value=1.0, max_value=1e9)


@given(st.integers(1, 10**10), rates, st.lists(st.tuples(rates, rates), min_size=1, max_size=20), st.floats(1.1, 10))
def test_faster_links_lower_both_bounds_in_proportion(file_bytes, seed, leechers, factor):
    """Time is bytes over rate: multiplying every rate divides each bound, whichever term binds."""
    faster = [(up * factor, down * factor) for up, down in leechers]
    slow, fast = fluid_bound_s(file_bytes, [seed], leechers), fluid_bound_s(file_bytes, [seed * factor], faster)
    assert fast.seconds == pytest.approx(slow.seconds / factor)
    uploads = [up for up, _ in leechers]
    slow_whole = store_and_forward_bound_s(file_bytes, 2**18, [seed], uploads)
    fast_whole = store_and_forward_bound_s(file_bytes, 2**18, [seed * factor], [up * factor for up in uploads])
    assert fast_whole == pytest.approx(slow_whole / factor)


@given(st.integers(1, 10**10), st.sampled_from([2**14, 2**18, 2**22]), rates, st.lists(rates, min_size=1, max_size=40))
def test_whole_blocks_never_beat_the_seed_pushing_one_copy(file_bytes, block_size_bytes, seed, uploads):
    """Passing on whole blocks is a restriction, so its bound lies at or above the fluid term of the seed."""
    bound = store_and_forward_bound_s(file_bytes, block_size_bytes, [seed], uploads)
    assert bound >= file_bytes / seed
