"""Results of load tests as tables for a terminal."""

from collections.abc import Mapping, Sequence

from rich.table import Table

from minibit.load.latency import Latency
from minibit.load.measurement import Counted, decoded
from minibit.load.result import LoadResult

PERCENTILES = ("p50", "p90", "p99", "p99.9", "max")
SHOWN_ERRORS = 8


def table(result: LoadResult) -> Table:
    """Return each kind of request with its rate, errors and latencies in milliseconds."""
    title = (
        f"{result.title}: {loop_of(result)}, {result.seen.duration_s:.1f} s after {result.warm_up_s:g} s of warm-up,"
        f" seed {result.seed}, {result.target}"
    )
    shown = Table(title=title, title_justify="left")
    shown.add_column("request")
    for name in ("answered", "per s", "errors", *(f"{name} ms" for name in PERCENTILES)):
        shown.add_column(name, justify="right")
    for name, counted in result.seen.requests.items():
        shown.add_row(*_cells(name, counted, result.seen.duration_s))
    shown.add_section()
    everything = result.all
    shown.add_row(*_cells("all", everything, result.seen.duration_s))
    if everything.service:
        shown.add_row("all, from the sending", "", "", "", *_latencies(decoded(everything.service)))
    return shown


def remarks(result: LoadResult) -> list[str]:
    """Return what must be known beside the table, a line each."""
    lines = [f"{number:,} x {kind}   ({result.seen.examples[kind]})" for kind, number in _largest(result.all.errors)]
    if result.arrival_rate_per_s is not None:
        share = result.missed / max(1, result.planned)
        cut_off = result.planned - result.missed - result.answered - result.errors
        lines.append(
            f"schedule: {result.planned:,} requests, {result.missed:,} of them never sent ({share:.2%}),"
            f" {cut_off:,} without an answer when the test ended"
        )
    delays = f", woke up late by p99 {result.generator_delay_s * 1e3:.1f} ms" if result.arrival_rate_per_s else ""
    lines.append(f"generator: {result.generator_cpu:.0%} of a core{delays} ({result.processes} process(es))")
    lines += [f"THE GENERATOR WAS THE BOUND: {why}" for why in result.generator_was_the_bound]
    return [*lines, *result.seen.notes]


def comparison(results: Sequence[tuple[str, LoadResult]]) -> Table:
    """Return several results under their names, a row each."""
    shown = Table(title="load tests", title_justify="left")
    for name in (
        "result",
        "target",
        "loop",
        "per s",
        "errors",
        "missed",
        *(f"{name} ms" for name in PERCENTILES),
        "generator",
    ):
        shown.add_column(name, justify="left" if name in {"result", "target", "loop"} else "right")
    for name, result in results:
        bound = " (bound)" if result.generator_was_the_bound else ""
        shown.add_row(
            name,
            f"{result.title} {result.target.removeprefix('http://')}",
            loop_of(result),
            f"{result.rate_per_s:,.0f}",
            f"{result.error_share:.2%}",
            f"{result.missed:,}",
            *_latencies(result.latency()),
            f"{result.generator_cpu:.0%}{bound}",
        )
    return shown


def loop_of(result: LoadResult) -> str:
    """Return how the load was made, in words."""
    if result.arrival_rate_per_s is None:
        return f"closed loop of {result.users} users"
    return f"open loop, {result.arrival_rate_per_s:,.0f}/s {result.arrivals}"


def _cells(name: str, counted: Counted, duration_s: float) -> tuple[str, ...]:
    rate = counted.answered / duration_s if duration_s else 0.0
    errors = sum(counted.errors.values())
    return (name, f"{counted.answered:,}", f"{rate:,.0f}", f"{errors:,}", *_latencies(decoded(counted.latency)))


def _latencies(latency: Latency) -> list[str]:
    if not len(latency):
        return ["-"] * len(PERCENTILES)
    values = latency.percentiles()
    return [f"{values[name] * 1e3:.3f}" for name in PERCENTILES]


def _largest(errors: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(errors.items(), key=lambda item: -item[1])[:SHOWN_ERRORS]
