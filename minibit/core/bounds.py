"""Lower bounds of the time in which a file can reach every leecher: what no client can beat.

Rates are bytes per second; ``None`` is a link without a limit; a free rider uploads at 0.0. All leechers start empty
at time 0. Both bounds are None where they say nothing: an empty file, nobody to serve, or no finite term.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

Rate = float | None


@dataclass(frozen=True, slots=True)
class Bound:
    """A lower bound of the makespan, and the term that makes it: ``seed``, ``downlink`` or ``aggregate``."""

    seconds: float
    binding_term: str


def fluid_bound_s(file_bytes: int, seed_rates: Sequence[Rate], leechers: Sequence[tuple[Rate, Rate]]) -> Bound | None:
    """Return the fluid bound for leechers given as (upload rate, download rate), or None if no term is finite.

    T = max(F/u_S, F/min d_i, N F/(u_S + sum u_i)): the seeds push one copy, the slowest downlink takes one, and all
    uplinks together carry N copies (Kumar & Ross 2006). It binds every client, whatever its blocks and its protocol.
    Of equal terms the first of seed, downlink, aggregate is named. Raise ValueError for a negative or NaN rate or size.
    """
    uploads = [up for up, _ in leechers]
    downloads = [down for _, down in leechers if down is not None]
    _check(file_bytes, [*seed_rates, *uploads, *downloads])
    if not leechers:
        return None
    terms = {
        "seed": _seconds(file_bytes, _total(seed_rates)),
        "downlink": _seconds(file_bytes, min(downloads, default=None)),
        "aggregate": _seconds(len(leechers) * file_bytes, _total([*seed_rates, *uploads])),
    }
    finite = {term: seconds for term, seconds in terms.items() if 0 < seconds < math.inf}
    if not finite:
        return None
    binding_term = max(finite, key=finite.__getitem__)
    return Bound(finite[binding_term], binding_term)


def store_and_forward_bound_s(
    file_bytes: int, block_size_bytes: int, seed_rates: Sequence[Rate], leecher_up_rates: Sequence[Rate]
) -> float | None:
    """Return the bound for clients that pass on whole blocks only, or None unless one seed and every uplink is capped.

    T >= max(F/u_S + L s/u_max, (M-1) P/u_S + L P/u_max) with M = ceil(F/P) blocks of P bytes, s the size of the last
    one, L = floor(log2 N), u_max over everyone including the seed (after Mundinger, Weber & Weiss 2008): the block that
    the seed gives out last is then held by two, and the holders at most double in the time that one copy takes; either
    any block may be that last one, or only the M-1 that are surely whole. Raise ValueError for a negative or NaN rate
    or size, or a block size that is not positive.
    """
    _check(file_bytes, [*seed_rates, *leecher_up_rates])
    if block_size_bytes <= 0:
        raise ValueError(f"a block must have a size, not {block_size_bytes} bytes")
    rates = [rate for rate in [*seed_rates, *leecher_up_rates] if rate is not None]
    is_capped = len(rates) == len(seed_rates) + len(leecher_up_rates)
    if not (file_bytes and leecher_up_rates and is_capped and len(seed_rates) == 1 and rates[0] > 0):
        return None
    whole_before_last = -(-file_bytes // block_size_bytes) - 1
    last_block_bytes = file_bytes - whole_before_last * block_size_bytes
    doublings = len(leecher_up_rates).bit_length() - 1
    seed_rate, fastest = rates[0], max(rates)
    any_block_last = file_bytes / seed_rate + doublings * last_block_bytes / fastest
    whole_block_last = whole_before_last * block_size_bytes / seed_rate
    if whole_before_last:
        whole_block_last += doublings * block_size_bytes / fastest
    return max(any_block_last, whole_block_last)


def _check(file_bytes: int, rates: Sequence[Rate]) -> None:
    if file_bytes < 0:
        raise ValueError(f"a file cannot have {file_bytes} bytes")
    for rate in rates:
        if rate is not None and not rate >= 0:
            raise ValueError(f"a rate cannot be {rate} bytes/s")


def _total(rates: Sequence[Rate]) -> Rate:
    total = 0.0
    for rate in rates:
        if rate is None:
            return None
        total += rate
    return total


def _seconds(n_bytes: int, rate: Rate) -> float:
    """Return how long the bytes take: nothing on a link without a limit, for ever on a link of rate 0."""
    if rate is None:
        return 0.0
    return n_bytes / rate if rate else math.inf
