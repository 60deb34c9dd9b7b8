"""Sets of blocks against Python's own sets, and the geometry of a file against its bytes."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibit.core.blocks import (
    KIB,
    MAX_BLOCK_SIZE_BYTES,
    MIB,
    MIN_BLOCK_SIZE_BYTES,
    Bitfield,
    Geometry,
    auto_block_size_bytes,
    bools_of,
    check_block_size,
    full_mask,
    indices_of,
    mask_of,
    random_index,
)

SIZE = 70  # more than one machine word
index_sets = st.sets(st.integers(0, SIZE - 1))
lengths = st.integers(0, 600 * MIB)
exponents = st.integers(14, 22)


@pytest.mark.parametrize(
    ("length_bytes", "block_size_bytes"),
    [
        (0, 16 * KIB),
        (1, 16 * KIB),
        (2 * MIB, 16 * KIB),
        (2 * MIB + 1, 32 * KIB),
        (64 * MIB, 512 * KIB),
        (512 * MIB, 4 * MIB),
        (512 * MIB + 1, 4 * MIB),
        (1024 * 1024 * MIB, 4 * MIB),
    ],
)
def test_the_automatic_block_size_is_the_smallest_that_gives_128_blocks(length_bytes, block_size_bytes):
    """The contract fixes it, and two peers that disagreed would compute two info-hashes."""
    assert auto_block_size_bytes(length_bytes) == block_size_bytes


@given(lengths)
def test_the_automatic_block_size_is_always_a_valid_one(length_bytes):
    """A size that the check refuses would make some files impossible to share."""
    size = auto_block_size_bytes(length_bytes)
    assert check_block_size(size) == size
    assert size == MAX_BLOCK_SIZE_BYTES or Geometry(length_bytes, size).num_blocks <= 128


@pytest.mark.parametrize("size", [-16384, 0, 1, 16 * KIB - 1, 8 * KIB, 48 * KIB, 8 * MIB])
def test_a_block_size_that_is_no_power_of_two_in_range_is_refused(size):
    """BEP 52 allows no other, so a client would refuse the .torrent later and less clearly."""
    with pytest.raises(ValueError, match="power of two from 16 KiB to 4 MiB"):
        check_block_size(size)


@given(lengths, exponents)
def test_the_blocks_of_a_file_cover_it_without_gap_or_overlap(length_bytes, exponent):
    """A gap would leave a hole in every copy, an overlap would corrupt it."""
    geometry = Geometry(length_bytes, 2**exponent)
    ends = 0
    for index in range(0, geometry.num_blocks, max(1, geometry.num_blocks // 50)):
        assert geometry.offset_bytes(index) == index * 2**exponent
        assert 0 < geometry.block_length_bytes(index) <= 2**exponent
    if geometry.num_blocks:
        last = geometry.num_blocks - 1
        ends = geometry.offset_bytes(last) + geometry.block_length_bytes(last)
    assert ends == length_bytes


@pytest.mark.parametrize("index", [-1, 3, 10**9])
def test_a_block_outside_the_file_has_no_place(index):
    """An index comes from the network; an offset computed from a wrong one would read other bytes."""
    with pytest.raises(IndexError, match="of 3"):
        Geometry(3 * MIN_BLOCK_SIZE_BYTES, MIN_BLOCK_SIZE_BYTES).offset_bytes(index)


@given(index_sets)
def test_a_mask_holds_exactly_its_indices_in_rising_order(indices):
    """Every set operation of the swarm rests on this correspondence."""
    mask = mask_of(indices)
    assert list(indices_of(mask)) == sorted(indices)
    assert mask & ~full_mask(SIZE) == 0


@given(st.lists(st.booleans(), max_size=200))
def test_booleans_survive_the_way_through_a_mask(flags):
    """The specification's messages carry booleans; a bit that moves would announce a block nobody has."""
    assert bools_of(mask_of(index for index, flag in enumerate(flags) if flag), len(flags)) == flags


@given(st.sets(st.integers(0, 5000), min_size=1), st.randoms(use_true_random=False))
def test_a_random_index_is_a_member(indices, rng):
    """The halving must end on a set bit wherever the bits lie."""
    assert random_index(mask_of(indices), rng) in indices


@pytest.mark.parametrize("indices", [(0,), (0, 1, 2), (3, 64, 65, 200), tuple(range(0, 90, 7))])
def test_a_random_index_is_uniform(indices):
    """A bias would make some blocks rarer in every swarm; each count lies within five standard deviations."""
    rng, draws = Random(1), 4000
    counts = Counter(random_index(mask_of(indices), rng) for _ in range(draws))
    share = 1 / len(indices)
    tolerance = 5 * (draws * share * (1 - share)) ** 0.5
    assert set(counts) == set(indices)
    assert all(abs(count - draws * share) <= tolerance for count in counts.values())


@given(st.lists(st.tuples(st.booleans(), st.integers(0, SIZE - 1)), max_size=60))
def test_a_bitfield_behaves_like_a_set(steps):
    """Python's own set is the model: whatever is put in and taken out, both tell the same."""
    field, model = Bitfield(SIZE), set()
    for puts, index in steps:
        if puts:
            assert field.add(index) == (index not in model)
            model.add(index)
        else:
            field.discard(index)
            model.discard(index)
        assert (index in field) == (index in model)
    assert list(field) == sorted(model)
    assert field.count == len(model)
    assert set(indices_of(field.missing)) == set(range(SIZE)) - model
    assert field.complete == (len(model) == SIZE)
    assert field == Bitfield(SIZE, mask_of(model))


@pytest.mark.parametrize("index", [-1, SIZE])
def test_a_bitfield_takes_no_block_that_does_not_exist(index):
    """A neighbour that announces block 10**9 must not make the set a gigabit long."""
    field = Bitfield(SIZE)
    with pytest.raises(IndexError):
        field.add(index)
    assert index not in field
    assert field.count == 0


def test_a_bitfield_drops_bits_beyond_its_size():
    """A mask from elsewhere may be longer; the excess would count as blocks owned."""
    assert Bitfield(3, 0b11111) == Bitfield(3, 0b111)


def test_a_bitfield_of_no_blocks_is_complete():
    """An empty file is a valid swarm, complete at once."""
    assert Bitfield(0).complete
    assert list(Bitfield(0)) == []


def test_bitfields_compare_by_content_and_are_not_hashable():
    """They change, so as keys of a dictionary they would get lost."""
    assert Bitfield(3, 1) != Bitfield(4, 1)
    assert Bitfield(3) != 0
    assert repr(Bitfield(3, 0b101)) == "Bitfield(2/3)"
    with pytest.raises(TypeError):
        hash(Bitfield(3))
