"""Comparisons and selftests as a person sees them: progress on stderr, tables and the verdict on stdout."""

import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from minibit.regression.compare import Step, Watch
from minibit.regression.comparison import Compared, Comparison, SideRecord
from minibit.regression.evidence import Verdict
from minibit.regression.selftest import Selftest
from minibit.units import format_duration, format_size

PLAIN_EVERY_S = 10.0
PLAIN_WIDTH = 150  # columns of a table that goes to a file
_COLOURS = {Verdict.REGRESSED: "red", Verdict.NOT_REGRESSED: "green", Verdict.INCONCLUSIVE: "yellow"}
_PHASES = {"warm-up": "warming up", "pairs": "comparing", "confirm": "confirming"}


def _stdout() -> Console:
    return Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else PLAIN_WIDTH)


@contextmanager
def progress() -> Iterator[Watch]:
    """Show how far a comparison is; the context gives the function that it is told to."""
    if not sys.stderr.isatty():
        yield _plain_lines()
        return
    columns = (
        TextColumn("{task.description:<22}"),
        BarColumn(),
        TextColumn("{task.fields[news]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True, highlight=False), transient=True) as bars:
        task = bars.add_task("starting", total=None, news="")

        def watch(step: Step) -> None:
            bars.update(
                task,
                description=escape(f"{_PHASES[step.phase]} {step.workload}"),
                completed=step.pairs,
                total=step.until or None,
                news=_news(step),
            )

        yield watch


def _news(step: Step) -> str:
    if step.phase == "warm-up":
        return ""
    return f"pair {step.pairs + 1} of {step.until}, {len(step.undecided)} metrics open"


def _plain_lines() -> Watch:
    told_at_s, told = float("-inf"), ("", "")

    def watch(step: Step) -> None:
        nonlocal told_at_s, told
        if (step.phase, step.workload) == told and time.monotonic() < told_at_s + PLAIN_EVERY_S:
            return
        told_at_s, told = time.monotonic(), (step.phase, step.workload)
        print(f"{_PHASES[step.phase]} {step.workload} {_news(step)}".rstrip(), file=sys.stderr, flush=True)

    return watch


def print_comparison(comparison: Comparison) -> None:
    """Print the evidence, what must be known of it, and the verdict."""
    console = _stdout()
    for name, side in (("base", comparison.base), ("head", comparison.head)):
        console.print(f"{name}  {_told(side)}", markup=False)
    table = Table(box=None, padding=(0, 2, 0, 0), title_justify="left")
    for name in ("", "base", "head", "worse by", "interval", "p", "pairs", "gate", ""):
        table.add_column(name, justify="left" if name == "" else "right", no_wrap=True)
    several = len(comparison.workloads) > 1
    for metric in comparison.metrics:
        table.add_row(*_row(metric, several=several))
    console.print(table)
    for remark in comparison.remarks:
        console.print(f"note: {remark}", markup=False)
    console.print(_conclusion(comparison))


def _told(side: SideRecord) -> str:
    commit = f" {side.commit.id[:9]}{' with changes' if side.commit.dirty else ''}" if side.commit else ""
    return f"{side.given}{commit}  {side.subject}".rstrip()


def _row(metric: Compared, *, several: bool) -> list[str]:
    evidence = metric.decisive
    base, head = (metric.fresh_base, metric.fresh_head) if metric.confirmation else (metric.base, metric.head)
    verdict = f"{metric.verdict}{' (confirmed)' if metric.confirmation and metric.verdict == 'regressed' else ''}"
    return [
        escape(f"{metric.workload}: {metric.title}" if several else metric.title),
        value(statistics.median(base), metric.unit),
        value(statistics.median(head), metric.unit),
        change(evidence.ratio),
        f"{change(evidence.low)} … {change(evidence.high)}",
        f"{evidence.p_worse:.3f}",
        str(evidence.pairs),
        f"{evidence.gate:.0%}",
        f"[{_COLOURS[metric.verdict]}]{verdict}[/]",
    ]


def value(number: float, unit: str) -> str:
    """Return a figure with its unit, as people read it."""
    if unit == "s":
        return format_duration(number)
    if unit == "B":
        return format_size(number)
    shown = f"{number:,.0f}" if number >= 1000 else f"{number:.3g}"
    return f"{shown}/s" if unit == "1/s" else f"{shown} {unit}".rstrip()


def change(ratio: float) -> str:
    """Return a ratio as a change: +3.1 %; beyond a hundredfold as a factor."""
    return f"{ratio - 1:+.1%}" if 0.01 <= ratio <= 100 else f"x{ratio:.2g}"


def _conclusion(comparison: Comparison) -> str:
    took = f"{sum(each.pairs for each in comparison.workloads)} pairs in {format_duration(comparison.elapsed_s)}"
    colour, verdict = _COLOURS[comparison.verdict], comparison.verdict.upper()
    if comparison.verdict == Verdict.REGRESSED:
        why = "; ".join(f"{metric.title} {change(metric.decisive.ratio)}" for metric in comparison.regressed)
    elif comparison.verdict == Verdict.NOT_REGRESSED:
        why = f"all {len(comparison.metrics)} metrics within their gates"
    else:
        why = "undecided: " + ", ".join(m.title for m in comparison.metrics if m.verdict == Verdict.INCONCLUSIVE)
    return f"[bold {colour}]{verdict}[/]  {escape(why)}  ({took})"


def print_selftest(selftest: Selftest) -> None:
    """Print how noisy each metric is here, how often identical code would be blamed, and what can be seen."""
    console = _stdout()
    table = Table(title=f"identical code on both sides, {selftest.pairs} pairs", title_justify="left", box=None)
    for name in ("", "single runs vary by", "pairs by", "false alarms", "passed", "finest gate"):
        table.add_column(name, justify="left" if name == "" else "right", no_wrap=True)
    for noise in selftest.noise:
        finest = f"{noise.detectable:.1%}" if noise.detectable is not None else "none"
        table.add_row(
            noise.title, f"{noise.variation:.1%}", f"{noise.spread:.1%}", f"{noise.false_alarms:.1%}",
            f"{noise.passed:.0%} of {noise.gate:.0%}", finest,
        )  # fmt: skip
    console.print(table)
    console.print("false alarms and passed: simulated comparisons; finest gate: a slowdown found four times in five")
    for remark in selftest.remarks:
        console.print(f"note: {remark}", markup=False)
