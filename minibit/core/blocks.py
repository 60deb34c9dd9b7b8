"""The geometry of a file in blocks, and sets of blocks.

A *block* is BitTorrent's piece: the unit that is hashed, chosen, stored and announced. A set of blocks is a Python
integer, bit ``i`` standing for block ``i``: union, difference and counting cost a few machine words however the blocks
lie, which keeps choosing cheap for files of hundreds of thousands of blocks too.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from random import Random

KIB = 1024
MIB = 1024 * KIB
MIN_BLOCK_SIZE_BYTES = 16 * KIB  # BEP 52: the leaf size of its hash tree
MAX_BLOCK_SIZE_BYTES = 4 * MIB
AUTO_BLOCKS_MAX = 128  # enough that rarest first has a choice, few enough that messages per block do not matter


def auto_block_size_bytes(length_bytes: int) -> int:
    """Return the smallest power of two of at least 16 KiB that cuts the file into at most 128 blocks, 4 MiB at most."""
    size = MIN_BLOCK_SIZE_BYTES
    while size < MAX_BLOCK_SIZE_BYTES and size * AUTO_BLOCKS_MAX < length_bytes:
        size *= 2
    return size


def check_block_size(block_size_bytes: int) -> int:
    """Return the block size; raise ValueError unless it is a power of two from 16 KiB to 4 MiB."""
    is_power_of_two = block_size_bytes > 0 and block_size_bytes & (block_size_bytes - 1) == 0
    if not is_power_of_two or not MIN_BLOCK_SIZE_BYTES <= block_size_bytes <= MAX_BLOCK_SIZE_BYTES:
        raise ValueError(f"block size must be a power of two from 16 KiB to 4 MiB, not {block_size_bytes} bytes")
    return block_size_bytes


@dataclass(frozen=True, slots=True)
class Geometry:
    """A file of ``length_bytes`` cut into blocks of ``block_size_bytes``; the last block may be short."""

    length_bytes: int
    block_size_bytes: int

    @property
    def num_blocks(self) -> int:
        """How many blocks the file has; an empty file has none."""
        return -(-self.length_bytes // self.block_size_bytes)

    def offset_bytes(self, index: int) -> int:
        """Where block ``index`` starts in the file."""
        return self._checked(index) * self.block_size_bytes

    def block_length_bytes(self, index: int) -> int:
        """How long block ``index`` is: the block size, or what is left for the last one."""
        return min(self.block_size_bytes, self.length_bytes - self.offset_bytes(index))

    def _checked(self, index: int) -> int:
        if not 0 <= index < self.num_blocks:
            raise IndexError(f"block {index} of {self.num_blocks}")
        return index


def mask_of(indices: Iterable[int]) -> int:
    """Return the set of these block indices as an integer; linear in the number and the largest of them."""
    members = tuple(indices)
    bits = bytearray(max(members, default=-1) // 8 + 1)
    for index in members:
        bits[index >> 3] |= 1 << (index & 7)
    return int.from_bytes(bits, "little")


def bools_of(mask: int, size: int) -> list[bool]:
    """Return the set as a list of ``size`` booleans, the form that the specification's messages use."""
    return [digit == "1" for digit in reversed(format(mask, f"0{size}b"))] if size else []


def indices_of(mask: int) -> Iterator[int]:
    """Yield the block indices of a set in rising order."""
    for position, byte in enumerate(mask.to_bytes((mask.bit_length() + 7) // 8, "little")):
        for bit in range(8) if byte else ():
            if byte >> bit & 1:
                yield 8 * position + bit


def full_mask(size: int) -> int:
    """Return the set of all ``size`` blocks."""
    return (1 << size) - 1


def random_index(mask: int, rng: Random) -> int:
    """Return a uniformly random member of a non-empty set, by halving: O(log size) operations on big integers."""
    rank = rng.randrange(mask.bit_count())
    base = 0
    width = mask.bit_length()
    while width > 1:
        half = width // 2
        low = mask & ((1 << half) - 1)
        below = low.bit_count()
        if rank < below:
            mask, width = low, half
        else:
            rank -= below
            base += half
            mask >>= half
            width -= half
    return base


class Bitfield:
    """A mutable set of the blocks 0 … ``size`` - 1."""

    __slots__ = ("mask", "size")

    def __init__(self, size: int, mask: int = 0) -> None:
        self.size = size
        self.mask = mask & full_mask(size)

    def add(self, index: int) -> bool:
        """Put a block in; return whether it was new. Raise IndexError if there is no such block."""
        if not 0 <= index < self.size:
            raise IndexError(f"block {index} of {self.size}")
        before = self.mask
        self.mask |= 1 << index
        return self.mask != before

    def discard(self, index: int) -> None:
        """Take a block out, if it is in."""
        self.mask &= ~(1 << index)

    def __contains__(self, index: int) -> bool:
        return 0 <= index < self.size and bool(self.mask >> index & 1)

    def __iter__(self) -> Iterator[int]:
        return indices_of(self.mask)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Bitfield):
            return NotImplemented
        return self.size == other.size and self.mask == other.mask

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __repr__(self) -> str:
        return f"Bitfield({self.count}/{self.size})"

    @property
    def count(self) -> int:
        """How many blocks are in."""
        return self.mask.bit_count()

    @property
    def missing(self) -> int:
        """The set of blocks that are not in."""
        return self.mask ^ full_mask(self.size)

    @property
    def complete(self) -> bool:
        """Whether every block is in; true of a file without blocks."""
        return self.mask == full_mask(self.size)
