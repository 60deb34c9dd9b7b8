"""The essentials of stored results, for other programs: flat rows, of which CSV and JSON are made; SI units in names.

A result is one object in JSON, with its rows where it has several; rows alone are CSV.
"""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from minibit.errors import UsageError
from minibit.load.abuse import AbuseRecord
from minibit.load.result import LoadResult
from minibit.load.saturation import SaturationRecord
from minibit.load.screen import PERCENTILES, loop_of
from minibit.record import Record
from minibit.regression.comparison import Comparison
from minibit.regression.selftest import Noise, Selftest

Row = dict[str, Any]
Result = Record | LoadResult | SaturationRecord | AbuseRecord | Comparison | Selftest


def as_json(results: Sequence[tuple[Path, Result]]) -> str:
    """Return the essentials of each result: one object, or a list of several."""
    told = [_essentials(path, result) for path, result in results]
    return msgspec.json.format(msgspec.json.encode(told[0] if len(told) == 1 else told)).decode()


def as_csv(results: Sequence[tuple[Path, Result]]) -> str:
    """Return a header and the rows of all results. Raise UsageError if they are of several kinds."""
    kinds = sorted({_kind(result) for _, result in results})
    if len(kinds) > 1:
        raise UsageError(f"--csv makes one table of one kind of results; these are {' and '.join(kinds)}")
    rows = [row for path, result in results for row in _rows(path, result)]
    text = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _kind(result: Result) -> str:
    return "swarm" if isinstance(result, Record) else result.kind


def _rows(path: Path, result: Result) -> list[Row]:
    makers: Mapping[str, Callable[[Any], list[Row]]] = {
        "swarm": _of_swarm,
        "load": _of_load,
        "saturation": _of_saturation,
        "abuse": _of_abuse,
        "comparison": _of_comparison,
        "selftest": _of_selftest,
    }
    return [{"file": str(path)} | row for row in makers[_kind(result)](result)]


def _essentials(path: Path, result: Result) -> Row:
    """Return kind, origin and figures; of a swarm and a load test the one row is part of the object."""
    started = result.started_at if isinstance(result.started_at, str) else result.started_at.isoformat()
    commit = None if isinstance(result, Comparison) else msgspec.to_builtins(result.commit)
    origin = {"file": str(path), "kind": _kind(result), "started_at": started, "machine": result.machine.cpu}
    rows = _rows(path, result)
    if isinstance(result, Record):
        return origin | {"commit": commit} | rows[0] | {"invalid_reasons": result.invalid_reasons}
    if isinstance(result, LoadResult):
        return origin | {"commit": commit} | rows[0] | {"generator_was_the_bound": result.generator_was_the_bound}
    plain = [{name: value for name, value in row.items() if name != "file"} for row in rows]
    if isinstance(result, Comparison):
        sides = {name: _side(getattr(result, name)) for name in ("base", "head")}
        return origin | sides | {"verdict": result.verdict, "remarks": result.remarks, "metrics": plain}
    return origin | {"commit": commit, "found": plain}


def _side(side: Any) -> Row:
    return {"given": side.given, "commit": side.commit.id if side.commit else None, "subject": side.subject}


def _of_swarm(record: Record) -> list[Row]:
    scenario, times, ledger = record.scenario, record.completion_time_s, record.ledger
    makespan_s = record.makespan_s
    row = {
        "scenario": scenario.get("name"),
        "leechers": sum(peer.role == "leecher" for peer in record.peers),
        "seeds": sum(peer.role == "seed" for peer in record.peers),
        "size_bytes": scenario.get("file", {}).get("size_bytes"),
        "block_size_bytes": scenario.get("block_size_bytes"),
        "rng_seed": record.rng_seed,
        "valid": record.valid,
        "makespan_s": makespan_s,
        "completion_p50_s": times.p50 if times else None,
        "completion_p95_s": times.p95 if times else None,
        "completion_max_s": times.max if times else None,
        "fluid_bound_s": record.bound_s,
        "store_and_forward_bound_s": record.store_and_forward_bound_s,
        "makespan_over_larger_bound": record.ratio_to_bound,
        "goodput_bytes_per_s": record.goodput_bytes_per_s,
        "cpu_s": record.cpu_s,
        "cpu_s_per_gib": record.cpu_s_per_gib,
        "cpu_busy_fraction": record.cpu_busy_fraction,
        "pss_bytes_mean": record.pss_bytes_mean,
        "pss_bytes_max": record.pss_bytes_max,
    }
    ledgers = {name: getattr(ledger, name) for name in ledger.__struct_fields__}
    requests = {f"{name}_requests": getattr(record.requests, name) for name in record.requests.__struct_fields__}
    return [row | ledgers | requests | {"fairness_jain": record.fairness_jain}]


def _of_load(result: LoadResult) -> list[Row]:
    latency = result.latency()
    values = latency.percentiles() if len(latency) else {}
    row = {
        "title": result.title,
        "target": result.target,
        "loop": loop_of(result),
        "rate_per_s": result.rate_per_s,
        "errors": result.errors,
        "error_share": result.error_share,
        "missed": result.missed,
    }
    latencies = {f"{name.replace('.', '_')}_s": values.get(name) for name in PERCENTILES}
    return [row | latencies | {"generator_cpu": result.generator_cpu}]


def _of_saturation(record: SaturationRecord) -> list[Row]:
    return [
        {
            "what": record.what,
            "driver": record.driver,
            "limit": record.limits.percentile,
            "limit_s": record.limits.latency_s,
            "registered": found.registered,
            "threads": found.threads,
            "borne_per_s": found.borne_per_s,
            "broke_per_s": found.broke_per_s,
            "closed_loop_per_s": found.closed_loop.result.rate_per_s,
            "bound_by": found.bound_by,
        }
        for found in record.found
    ]


def _of_abuse(record: AbuseRecord) -> list[Row]:
    rows = []
    for found in record.found:
        row: Row = {"server": record.server, "protocol": record.protocol, "abuse": found.name}
        for name in ("before", "during", "after"):
            phase = getattr(found, name)
            row |= {f"{name}_{key}": getattr(phase, key) for key in phase.__struct_fields__}
        rows.append(row | {"recovery_s": found.recovery_s})
    return rows


def _of_comparison(comparison: Comparison) -> list[Row]:
    rows = []
    for metric in comparison.metrics:
        fresh = metric.confirmation is not None
        evidence = metric.decisive
        rows.append(
            {
                "metric": metric.key,
                "workload": metric.workload,
                "unit": metric.unit,
                "base_median": _median(metric.fresh_base if fresh else metric.base),
                "head_median": _median(metric.fresh_head if fresh else metric.head),
                "ratio": evidence.ratio,
                "low": evidence.low,
                "high": evidence.high,
                "p": evidence.p_worse,
                "pairs": evidence.pairs,
                "gate": evidence.gate,
                "verdict": str(metric.verdict),
            }
        )
    return rows


def _of_selftest(selftest: Selftest) -> list[Row]:
    kept = [name for name in Noise.__struct_fields__ if name not in {"ratios", "title"}]
    return [{name: getattr(noise, name) for name in kept} for noise in selftest.noise]


def _median(values: Sequence[float]) -> float | None:
    return median(values) if values else None
