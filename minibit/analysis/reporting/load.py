"""Load tests, saturations and abuse as small tables of a report: the essentials, as ``minibit show`` prints them."""

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from minibit.analysis.reporting.page import (
    NOTHING,
    Cell,
    Column,
    Names,
    Section,
    Table,
    cell,
    number_cell,
    seconds_cell,
    within_their_folder,
)
from minibit.analysis.reporting.read import Found
from minibit.load.abuse import AbuseRecord
from minibit.load.result import LoadResult
from minibit.load.saturation import SaturationRecord
from minibit.load.screen import PERCENTILES, loop_of


def load_section(found: Found, names: Names) -> list[Section]:
    """Return one section with a table for each kind that there is, none if there is nothing."""
    tables = [
        *([_loads(found.loads)] if found.loads else []),
        *([_saturations(found.saturations)] if found.saturations else []),
        *(_abuse(name, record) for name, record in found.abuses),
    ]
    if not tables:
        return []
    lead = "Latencies in milliseconds, from the moment a request was due. minibit show prints each result in full."
    return [Section(ident=names.new("s"), title="Load tests", lead=lead, tables=tables)]


def _columns(words: Sequence[str], numbers: Sequence[str]) -> list[Column]:
    return [*(Column(word, number=False) for word in words), *(Column(name) for name in numbers)]


def _loads(results: Sequence[tuple[str, LoadResult]]) -> Table:
    columns = _columns(
        ("result", "of", "loop"), ("per s", "errors", "missed", *(f"{name} ms" for name in PERCENTILES), "generator")
    )
    names = within_their_folder([name for name, _ in results])
    rows = [_load_row(name, result) for name, (_, result) in zip(names, results, strict=True)]
    return Table("Load tests", columns, rows)


def _load_row(name: str, result: LoadResult) -> list[Cell]:
    latency = result.latency()
    values = latency.percentiles() if len(latency) else {}
    bound = result.generator_was_the_bound
    return [
        Cell(name),
        Cell(result.title),
        Cell(loop_of(result)),
        number_cell(result.rate_per_s, ",.0f"),
        cell(f"{result.error_share:.2%}", result.error_share, "bad" if result.errors else ""),
        number_cell(result.missed, ","),
        *(_milliseconds(values.get(percentile)) for percentile in PERCENTILES),
        cell(f"{result.generator_cpu:.0%}{' (bound)' if bound else ''}", result.generator_cpu, "open" if bound else ""),
    ]


def _milliseconds(value_s: float | None) -> Cell:
    return cell(NOTHING if value_s is None else f"{value_s * 1e3:.2f}", value_s)


def _saturations(records: Sequence[tuple[str, SaturationRecord]]) -> Table:
    columns = _columns(("result", "of", "limits"), ("registered", "threads", "borne per s", "not borne per s"))
    columns.append(Column("bound by", number=False))
    names = within_their_folder([name for name, _ in records])
    rows = [
        _saturation_row(name, record, found)
        for name, (_, record) in zip(names, records, strict=True)
        for found in record.found
    ]
    return Table("Saturation: the highest rate that keeps the limits", columns, rows)


def _saturation_row(name: str, record: SaturationRecord, found: Any) -> list[Cell]:
    limits = record.limits
    return [
        Cell(name),
        Cell(record.what),
        Cell(f"{limits.percentile} {limits.latency_s * 1e3:g} ms, errors {limits.error_share:.1%}"),
        number_cell(found.registered, ","),
        number_cell(found.threads, ","),
        number_cell(found.borne_per_s, ",.0f"),
        number_cell(found.broke_per_s, ",.0f"),
        cell(found.bound_by, mark="open" if found.bound_by == "generator" else ""),
    ]


def _abuse(name: str, record: AbuseRecord) -> Table:
    columns = _columns(("abuse", "what"), ("p99 before, ms", "during", "after", "errors", "well again after"))
    rows = [
        [
            Cell(abuse.name),
            Cell(abuse.what),
            *(_milliseconds(phase.p99_s) for phase in (abuse.before, abuse.during, abuse.after)),
            number_cell(sum(abuse.errors.values()), ","),
            cell("never", float("inf"), "bad") if abuse.recovery_s is None else seconds_cell(abuse.recovery_s),
        ]
        for abuse in record.found
    ]
    where = f"{PurePath(name).name}: {record.server}, {record.protocol}"
    return Table(f"Good clients amid bad ones ({where})", columns, rows)
