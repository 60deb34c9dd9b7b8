"""Which blocks the tracker gives a newcomer of the default swarm.

Pure: sets in, set out; the caller owns the randomness. A set of blocks is an integer, bit ``i`` is block ``i``.
"""

from random import Random
from typing import Literal, get_args

from minibit.core.blocks import full_mask, indices_of, mask_of

Policy = Literal["cover", "random", "none"]
POLICIES: tuple[str, ...] = get_args(Policy)


def cover(total_blocks: int, unowned: int, rng: Random) -> int:
    """Return ⌈T/3⌉ to ⌈T/2⌉ of the T blocks, unowned ones first: three peers always own everything together."""
    if total_blocks == 0:
        return 0
    count = rng.randint(-(-total_blocks // 3), -(-total_blocks // 2))
    first = list(indices_of(unowned))
    if len(first) >= count:
        return mask_of(rng.sample(first, count))
    rest = list(indices_of(full_mask(total_blocks) & ~unowned))
    return unowned | mask_of(rng.sample(rest, count - len(first)))


def random_subset(total_blocks: int, rng: Random) -> int:
    """Return 1 to ⌈T/2⌉ of the T blocks at random, whoever owns them: the file may stay incomplete for ever."""
    if total_blocks == 0:
        return 0
    return mask_of(rng.sample(range(total_blocks), rng.randint(1, -(-total_blocks // 2))))


def choose(policy: Policy, total_blocks: int, unowned: int, rng: Random) -> int:
    """Return the blocks that a newcomer gets under a policy; ``unowned`` is the set of blocks nobody owns."""
    if policy == "cover":
        return cover(total_blocks, unowned, rng)
    if policy == "random":
        return random_subset(total_blocks, rng)
    return 0
