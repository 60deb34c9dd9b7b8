"""The numbers behind a report's figures: completion, blocks over time, availability, who gave to whom, growth. Pure.

Times of one swarm are seconds from the common start signal; a peer's own times are moved by its ``start_delay_s``.
"""

import math
import random
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

import msgspec

from minibit.analysis.stats import median
from minibit.record import PeerRecord, Record, quantile

RESAMPLES = 2000
CONFIDENCE = 0.95
MATRIX_MAX = 64  # leechers with a row of their own each
GRID_POINTS = 120

Point = tuple[float, float]
_T = TypeVar("_T")


class ToldFile(msgspec.Struct, frozen=True):
    """What was shared."""

    size_bytes: Annotated[int, msgspec.Meta(ge=0)] = 0
    path: str | None = None


class ToldGroup(msgspec.Struct, frozen=True):
    """A group of a stored scenario; unlike ``scenario.Group`` nothing is checked: the run is over."""

    name: str
    count: int
    role: str = "leecher"
    upload_rate_bytes_per_s: float | None = None
    download_rate_bytes_per_s: float | None = None
    start_delay_s: float = 0.0
    start_spread_s: float = 0.0
    on_complete: str = "seed"
    free_rider: bool = False


class Told(msgspec.Struct, frozen=True):
    """What a stored scenario says of itself; keys that are not shown are ignored."""

    name: str
    file: ToldFile
    groups: list[ToldGroup]
    block_size_bytes: Annotated[int, msgspec.Meta(ge=1)]
    picker: str = ""
    choker: str = ""
    isolation: str = ""
    rng_seed: int = 0
    timeout_s: float | None = None
    max_neighbours: int | None = None


def told(scenario: Mapping[str, Any]) -> Told:
    """Return a record's scenario as it can be shown. Raise msgspec.ValidationError if it is none."""
    return msgspec.convert(scenario, Told)


def leechers_of(record: Record) -> list[PeerRecord]:
    """Return the peers that had to download."""
    return [peer for peer in record.peers if peer.role != "seed"]


def blocks_of(record: Record) -> int:
    """Return how many blocks the file has."""
    scenario = told(record.scenario)
    return -(-scenario.file.size_bytes // scenario.block_size_bytes)


# -- one swarm ---------------------------------------------------------------------------------------------------------


def completion_steps(peers: Sequence[PeerRecord]) -> list[Point]:
    """Return stairs (own time in s, share of ``peers`` that had the file by then), from (0, 0)."""
    times = sorted(peer.completion_time_s for peer in peers if peer.completion_time_s is not None)
    return [(0.0, 0.0), *((time_s, (rank + 1) / len(peers)) for rank, time_s in enumerate(times))]


def blocks_over_time(peer: PeerRecord) -> list[Point]:
    """Return stairs (time in s, blocks owned), from the peer's start with none."""
    begins_s = peer.start_delay_s
    return [(begins_s, 0.0), *((begins_s + at_s, float(owned)) for at_s, owned in peer.timeline)]


def owned_at(stairs: Sequence[Point], time_s: float) -> float:
    """Return how high stairs are at a time; 0 before they begin."""
    index = bisect_right(stairs, (time_s, math.inf))
    return stairs[index - 1][1] if index else 0.0


def quantiles_over_time(curves: Sequence[Sequence[Point]], fractions: Sequence[float]) -> list[tuple[float, ...]]:
    """Return (time, quantile, quantile, …) over all stairs at evenly spaced times until the last one's end."""
    end_s = max((curve[-1][0] for curve in curves), default=0.0)
    rows = []
    for step in range(GRID_POINTS + 1):
        time_s = end_s * step / GRID_POINTS
        heights = [owned_at(curve, time_s) for curve in curves]
        rows.append((time_s, *(quantile(heights, fraction) for fraction in fractions)))
    return rows


def thinned(points: Sequence[_T], most: int) -> list[_T]:
    """Return at most so many of the points, evenly chosen, the first and the last among them."""
    if len(points) <= most:
        return list(points)
    return [points[round(index * (len(points) - 1) / (most - 1))] for index in range(most)]


@dataclass(slots=True)
class _Copies:
    """How many copies there are of each block, and of how many blocks there are so many."""

    counts: list[int]
    rarest: int
    _having: Counter[int] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._having = Counter(self.counts)

    def change(self, block: int, by: int) -> None:
        """Count one copy more or less."""
        before = self.counts[block]
        self.counts[block] = before + by
        self._having[before] -= 1
        self._having[before + by] += 1
        self.rarest = min(self.rarest, before + by)
        while not self._having[self.rarest]:
            self.rarest += 1


def availability(record: Record) -> list[tuple[float, int, float]] | None:
    """Return stairs (time in s, copies of the rarest block, copies of a block on average), seeds included.

    Seeds own everything from 0. A peer whose group leaves on completion takes its copies with it. None if the record
    does not say which blocks its peers acquired when, or there are no blocks.
    """
    total = blocks_of(record)
    leechers = leechers_of(record)
    if not total or any(len(peer.order) != len(peer.timeline) for peer in leechers):
        return None
    seeds = len(record.peers) - len(leechers)
    copies = _Copies([seeds] * total, seeds)
    stairs: list[tuple[float, int, float]] = [(0.0, seeds, float(seeds))]
    held = seeds * total
    for time_s, block, by in _changes(record, leechers):
        copies.change(block, by)
        held += by
        if stairs[-1][0] == time_s:
            stairs.pop()
        stairs.append((time_s, copies.rarest, held / total))
    return stairs


def _changes(record: Record, leechers: Sequence[PeerRecord]) -> list[tuple[float, int, int]]:
    leaving = {group.name for group in told(record.scenario).groups if group.on_complete == "leave"}
    total = blocks_of(record)
    changes = []
    for peer in leechers:
        times = [peer.start_delay_s + at_s for at_s, _ in peer.timeline]
        acquired = [(time_s, block) for time_s, block in zip(times, peer.order, strict=True) if 0 <= block < total]
        changes += [(time_s, block, 1) for time_s, block in acquired]
        if peer.group in leaving and peer.completed and acquired:
            changes += [(times[-1], block, -1) for _, block in acquired]
    return sorted(changes, key=lambda change: (change[0], -change[2]))


@dataclass(frozen=True, slots=True)
class Given:
    """Bytes from row to column; a row is a peer, or several neighbours in the record's order, seeds first."""

    names: Sequence[str]
    rows: Sequence[Sequence[float]]
    peers_a_row: int

    @property
    def largest(self) -> float:
        """What the strongest cell gave."""
        return max((value for row in self.rows for value in row), default=0.0)

    @property
    def full(self) -> float:
        """What is drawn as strong as can be: all but the strongest 2 % of the cells that gave are weaker, or equal."""
        values = [value for row in self.rows for value in row if value]
        return quantile(values, 0.98) if values else 0.0

    def levels(self) -> list[list[int]]:
        """Return each cell's strength in eighths of ``full``, rounded up, 8 at most: 0 only if nothing was given."""
        full = self.full or 1.0
        return [[min(8, math.ceil(8 * value / full)) for value in row] for row in self.rows]


def given(record: Record) -> Given:
    """Return who gave to whom, as bytes a pair; many peers are put together, seeds never with leechers."""
    ordered = sorted(record.peers, key=lambda peer: peer.role != "seed")
    each = max(1, -(-len(leechers_of(record)) // MATRIX_MAX))
    classes = [
        part
        for members in ([p for p in ordered if p.role == "seed"], [p for p in ordered if p.role != "seed"])
        for part in (members[begin : begin + each] for begin in range(0, len(members), each))
    ]
    place = {peer.peer_id: index for index, part in enumerate(classes) for peer in part}
    sums = [[0.0] * len(classes) for _ in classes]
    for peer in ordered:
        for other, sent_bytes in peer.sent_to.items():
            if other in place:
                sums[place[peer.peer_id]][place[other]] += sent_bytes
    for row, givers in zip(sums, classes, strict=True):
        for index, takers in enumerate(classes):
            pairs = len(givers) * (len(takers) - (givers is takers))  # nobody gives to itself
            row[index] /= pairs or 1
    names = [part[0].peer_id if len(part) == 1 else f"{part[0].peer_id} … {part[-1].peer_id}" for part in classes]
    return Given(names, sums, each)


# -- growth ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Growth:
    """Time grows with N to the power of ``exponent``; ``low`` and ``high`` are its interval, None without repeats."""

    exponent: float
    low: float | None
    high: float | None
    sizes: Sequence[int]


def growth(times_s: Mapping[int, Sequence[float]], *, seed: int = 0) -> Growth | None:
    """Fit log(median time) = a + exponent * log N by least squares; None with fewer than two sizes.

    The interval is the percentile bootstrap: the runs of each N are drawn again with replacement, ``RESAMPLES`` times.
    """
    known = {size: values for size, values in sorted(times_s.items()) if values and min(values) > 0}
    if len(known) < 2:
        return None
    exponent = _slope({size: median(values) for size, values in known.items()})
    if all(len(values) == 1 for values in known.values()):
        return Growth(exponent, None, None, list(known))
    rng = random.Random(seed)
    drawn = [
        _slope({size: median(rng.choices(values, k=len(values))) for size, values in known.items()})
        for _ in range(RESAMPLES)
    ]
    tail = (1 - CONFIDENCE) / 2
    return Growth(exponent, quantile(drawn, tail), quantile(drawn, 1 - tail), list(known))


def _slope(medians_s: Mapping[int, float]) -> float:
    xs, ys = [math.log(size) for size in medians_s], [math.log(time_s) for time_s in medians_s.values()]
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / sum((x - mean_x) ** 2 for x in xs)
