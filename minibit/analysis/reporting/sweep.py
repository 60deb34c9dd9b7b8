"""Runs of one scenario as a section of a report: how completion grows with the number of leechers, and every record.

Runs belong together if machine, commit and scenario are the same but for the number of leechers, names, random seed and
time-out. Only valid runs that completed are averaged; the others are drawn as crosses and named.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec

from minibit.analysis.reporting import numbers
from minibit.analysis.reporting.growth import Run, Size, curve, growth_facts, sizes_of
from minibit.analysis.reporting.page import (
    Cell,
    Column,
    Names,
    Notice,
    Section,
    Table,
    cell,
    number,
    number_cell,
    plural,
    seconds_cell,
    size_cell,
    within_their_folder,
)
from minibit.analysis.reporting.swarm import swarm_section
from minibit.analysis.stats import median
from minibit.record import BUSY_MAX, Record
from minibit.units import format_rate, format_size

DETAILED_MAX = 8  # of more runs only two are shown in detail


def families(runs: Sequence[Run]) -> list[list[Run]]:
    """Return the runs that belong together, in the order in which each family appears.

    Of one family all runs with equally many leechers have the same groups: another mixture is another experiment.
    """
    found: dict[tuple[bytes, int], list[Run]] = {}
    mixtures: dict[tuple[bytes, int], list[list[int]]] = {}
    for run in runs:
        likeness, mixture = _likeness(run[1]), [group.count for group in numbers.told(run[1].scenario).groups]
        known = mixtures.setdefault((likeness, len(numbers.leechers_of(run[1]))), [])
        if mixture not in known:
            known.append(mixture)
        found.setdefault((likeness, known.index(mixture)), []).append(run)
    return list(found.values())


def _likeness(record: Record) -> bytes:
    scenario: dict[str, Any] = dict(record.scenario)
    for key in ("name", "rng_seed", "timeout_s"):
        scenario.pop(key, None)
    scenario["groups"] = [
        {**group, "count": 0} if group.get("role", "leecher") != "seed" else group for group in scenario["groups"]
    ]
    return msgspec.json.encode((scenario, record.machine, record.commit), order="sorted")


def family_section(runs: Sequence[Run], names: Names) -> Section:
    """Return the runs of one scenario: a single one in full, several with their table, a sweep with its curve."""
    if len(runs) == 1:
        name, record = runs[0]
        section = swarm_section(name, record, names)
        return replace(section, title=f"{name}: {plural(len(numbers.leechers_of(record)), 'leecher')}")
    shorter = within_their_folder([name for name, _ in runs])
    folder = runs[0][0].removesuffix(shorter[0]).rstrip("/")
    runs = [(name, record) for name, (_, record) in zip(shorter, runs, strict=True)]
    sizes = sizes_of(runs)
    swept = len(sizes) > 1
    figures, facts = [], []
    if swept and (figure := curve(sizes, names.new("f"))):
        figures, facts = [figure], growth_facts(sizes)
    return Section(
        ident=names.new("s"),
        title=_title(sizes, runs[0][1]),
        lead=_lead(runs[0][1], len(runs), folder),
        notices=[*_invalid(runs), *_saturated(sizes)],
        facts=facts,
        figures=figures,
        tables=[*([_sizes_table(sizes)] if swept else []), _runs_table(runs)],
        parts=_details(sizes, runs, names),
    )


def _title(sizes: Sequence[Size], record: Record) -> str:
    name = numbers.told(record.scenario).name
    if len(sizes) == 1:
        return f"{name}: {plural(sizes[0].leechers, 'leecher')}"
    name = re.sub(rf"-0*{len(numbers.leechers_of(record))}$", "", name)
    return f"{name}: {sizes[0].leechers} to {plural(sizes[-1].leechers, 'leecher')}"


def _lead(record: Record, runs: int, folder: str) -> str:
    scenario = numbers.told(record.scenario)
    rates = {group.upload_rate_bytes_per_s for group in scenario.groups if not group.free_rider}
    uplink = f"uplink {format_rate(rates.pop())}" if len(rates) == 1 else "several uplink rates"
    file, block = format_size(scenario.file.size_bytes), format_size(scenario.block_size_bytes)
    dirty = " with changes" if record.commit and record.commit.dirty else ""
    commit = f", commit {record.commit.id[:9]}{dirty}" if record.commit else ""
    where = f" In {folder}." if folder else ""
    shared = f"{file} in blocks of {block}, {uplink}, {scenario.picker}"
    return f"{plural(runs, 'run')} of one scenario: {shared}{commit}.{where}"


def _invalid(runs: Sequence[Run]) -> list[Notice]:
    lines = [f"{name}: {'; '.join(record.invalid_reasons)}" for name, record in runs if not record.valid]
    title = f"{len(lines)} of {plural(len(runs), 'run')} not valid, and left out of every average"
    return [Notice("bad", title, lines)] if lines else []


def _saturated(sizes: Sequence[Size]) -> list[Notice]:
    busy = [size for size in sizes if size.saturated]
    if not busy:
        return []
    which = ", ".join(str(size.leechers) for size in busy)
    line = (
        f"the host was more than {BUSY_MAX:.0%} busy: with so many leechers on this machine its processors set the pace"
    )
    return [Notice("open", f"The host saturates at N = {which}", [line])]


def _sizes_table(sizes: Sequence[Size]) -> Table:
    titles = ("N", "valid", "min", "median", "max", "fluid", "store-and-forward", "÷ bound", "goodput", "CPU-s/GiB",
              "busy", "PSS")  # fmt: skip
    return Table("By number of leechers: makespan of the valid runs", [Column(title) for title in titles],
                 [_size_row(size) for size in sizes])  # fmt: skip


def _size_row(size: Size) -> list[Cell]:
    times, first = size.times_s, size.runs[0][1]
    valid = sum(record.valid for _, record in size.runs)
    middle = median(times) if times else None
    bound_s = size.larger_bound_s
    return [
        cell(str(size.leechers), size.leechers),
        cell(f"{valid}/{len(size.runs)}", valid / len(size.runs), "" if valid == len(size.runs) else "bad"),
        seconds_cell(min(times, default=None)),
        seconds_cell(middle),
        seconds_cell(max(times, default=None)),
        seconds_cell(first.bound_s),
        seconds_cell(first.store_and_forward_bound_s),
        number_cell(middle / bound_s if bound_s and middle is not None else None, ".3f"),
        size_cell(size.middle("goodput_bytes_per_s"), "/s"),
        number_cell(size.middle("cpu_s_per_gib"), ".2f"),
        cell(number(size.busy, ".0%"), size.busy, "open" if size.saturated else ""),
        size_cell(size.middle("pss_bytes_mean")),
    ]


def _runs_table(runs: Sequence[Run]) -> Table:
    columns = [Column("record", number=False), Column("N"), Column("random seed"), Column("valid", number=False),
               Column("p50"), Column("p95"), Column("max"), Column("makespan"), Column("÷ bound"), Column("busy"),
               Column("fairness")]  # fmt: skip
    return Table("Every run: completion times of its leechers, and its makespan", columns,
                 [_run_row(name, record) for name, record in runs])  # fmt: skip


def _run_row(name: str, record: Record) -> list[Cell]:
    times, leechers = record.completion_time_s, len(numbers.leechers_of(record))
    return [
        Cell(name),
        cell(str(leechers), leechers),
        cell(str(record.rng_seed), record.rng_seed),
        Cell("valid", mark="good") if record.valid else Cell("not valid", mark="bad"),
        seconds_cell(times.p50 if times else None),
        seconds_cell(times.p95 if times else None),
        seconds_cell(times.max if times else None),
        seconds_cell(record.makespan_s),
        number_cell(record.ratio_to_bound, ".3f"),
        number_cell(record.cpu_busy_fraction, ".0%"),
        number_cell(record.fairness_jain, ".3f"),
    ]


def _details(sizes: Sequence[Size], runs: Sequence[Run], names: Names) -> list[Section]:
    """Return the median runs of the largest and the smallest N in full; of few runs also the others, closed."""
    ends = [(sizes[-1], "largest"), (sizes[0], "smallest")] if len(sizes) > 1 else [(sizes[0], "")]
    chosen = [(size.median_run(), f"The median run of the {which} N." if which else "The median run.")
              for size, which in ends]  # fmt: skip
    sections = [swarm_section(*run, names, why=why) for run, why in chosen]
    if len(runs) <= DETAILED_MAX:
        shown = {name for (name, _), _ in chosen}
        sections += [swarm_section(*run, names, closed=True) for run in runs if run[0] not in shown]
    return sections
