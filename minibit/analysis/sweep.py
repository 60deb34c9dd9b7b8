"""A scale experiment: the same scenario with growing numbers of leechers, in random order, with repeats."""

import csv
import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minibit import record as records
from minibit.analysis.plots import CurvePoint, completion_curve
from minibit.analysis.stats import median
from minibit.errors import StorageError
from minibit.launcher.swarm import Snapshot, run_swarm
from minibit.record import Record
from minibit.scenario import Scenario, override
from minibit.units import format_rate, format_size

Watching = Callable[[Scenario], AbstractContextManager[Callable[[Snapshot], None]]]


@dataclass(frozen=True, slots=True)
class SweepRow:
    """All runs of one size; times in seconds, medians over the completed runs; None where nothing completed."""

    leechers: int
    runs: int
    valid: int
    median_s: float | None
    min_s: float | None
    max_s: float | None
    bound_s: float | None
    store_and_forward_bound_s: float | None
    larger_bound_s: float | None
    goodput_bytes_per_s: float | None
    cpu_s_per_gib: float | None
    busy_fraction: float | None

    @property
    def ratio(self) -> float | None:
        """Median over the larger bound."""
        bound_s = self.larger_bound_s
        return self.median_s / bound_s if bound_s and self.median_s is not None else None


@dataclass(slots=True)
class SweepResult:
    """The records of a sweep, by number of leechers, and the files that were written."""

    by_leechers: dict[int, list[Record]]
    files: list[Path] = field(default_factory=list)

    @property
    def records(self) -> list[Record]:
        """Every record."""
        return [record for group in self.by_leechers.values() for record in group]

    def rows(self) -> list[SweepRow]:
        """One row for each size, rising."""
        return [_row(leechers, group) for leechers, group in sorted(self.by_leechers.items())]


def run_sweep(
    scenario: Scenario, counts: Sequence[int], *, repeats: int, folder: Path, watching: Watching | None = None
) -> SweepResult:
    """Run the scenario ``repeats`` times with each number of leechers; write records, table and plot into ``folder``.

    The order is random (from the scenario's seed), so that a slow quarter of an hour of the machine does not fall on
    one size. Repeat ``r`` of every size runs with seed ``rng_seed + r``. A record is written as soon as its run ends.
    """
    order = [(leechers, repeat) for leechers in counts for repeat in range(repeats)]
    random.Random(scenario.rng_seed).shuffle(order)
    result = SweepResult({leechers: [] for leechers in counts})
    for leechers, repeat in order:
        name = f"{scenario.name}-{leechers}"
        one = override(scenario, peers=leechers, rng_seed=scenario.rng_seed + repeat, name=name)
        record = _run(one, watching)
        path = folder / f"n{leechers:04d}-r{repeat}.json"
        records.write(record, path)
        result.by_leechers[leechers].append(record)
    result.files = [_write_csv(result, folder / "sweep.csv"), *draw(result, folder, _subtitle(scenario, repeats))]
    return result


def _run(scenario: Scenario, watching: Watching | None) -> Record:
    if watching is None:
        return run_swarm(scenario)
    with watching(scenario) as watch:
        return run_swarm(scenario, watch=watch)


def draw(result: SweepResult, folder: Path, subtitle: str, *, stem: str = "completion") -> list[Path]:
    """Draw completion time against the number of leechers; return the pictures' paths."""
    points = [
        CurvePoint(
            row.leechers,
            [record.makespan_s for record in result.by_leechers[row.leechers] if record.makespan_s is not None],
            row.bound_s,
            row.store_and_forward_bound_s,
        )
        for row in result.rows()
    ]
    if not any(point.times_s for point in points):
        return []
    return completion_curve(points, folder / stem, title="Until everyone has the file", subtitle=subtitle)


def _subtitle(scenario: Scenario, repeats: int) -> str:
    leecher = next(group for group in scenario.groups if group.role == "leecher")
    size, block = format_size(scenario.file.size_bytes), format_size(scenario.effective_block_size_bytes)
    return f"{size} in {block} blocks, uplink {format_rate(leecher.upload_rate_bytes_per_s)}, {repeats} runs each"


def _row(leechers: int, group: Sequence[Record]) -> SweepRow:
    times_s = [record.makespan_s for record in group if record.makespan_s is not None]
    return SweepRow(
        leechers=leechers,
        runs=len(group),
        valid=sum(record.valid for record in group),
        median_s=median(times_s) if times_s else None,
        min_s=min(times_s, default=None),
        max_s=max(times_s, default=None),
        bound_s=group[0].bound_s,
        store_and_forward_bound_s=group[0].store_and_forward_bound_s,
        larger_bound_s=group[0].larger_bound_s,
        goodput_bytes_per_s=_median_of(group, "goodput_bytes_per_s"),
        cpu_s_per_gib=_median_of(group, "cpu_s_per_gib"),
        busy_fraction=_median_of(group, "cpu_busy_fraction"),
    )


def _median_of(group: Sequence[Record], name: str) -> float | None:
    values: list[Any] = [value for record in group if (value := getattr(record, name)) is not None]
    return median(values) if values else None


def _write_csv(result: SweepResult, path: Path) -> Path:
    names = list(SweepRow.__dataclass_fields__)
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(names)
            writer.writerows([getattr(row, name) for name in names] for row in result.rows())
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error
    return path
