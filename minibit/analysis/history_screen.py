"""A history as a person sees it: a row for each series, a line for each shift, and what is missing; or as JSON."""

import sys

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from minibit.analysis.compare_screen import change, value
from minibit.regression.changes import MIN_POINTS
from minibit.regression.history import Change, History, Judgement, Series
from minibit.regression.sessions import ID_LENGTH

WIDE = 150  # columns of a table that goes to a file
MILLISECOND_S = 0.001
P_MIN = 0.0001  # smaller ones say the same
_COLOURS = {"worse": "red", "better": "green"}


def print_history(history: History) -> None:
    """Print the table, every shift, and what must be known of them."""
    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else WIDE)
    console.print(_table(history))
    if not history.series:
        console.print(f"no series: nothing there has {' or '.join(history.metrics)}", markup=False)
    for series in history.series:
        for each in series.changes:
            line = f"{_named(history, series)}: {_told(each, series.unit)}"
            console.print(line, style=_COLOURS[each.direction], markup=False)
    for line in _remarks(history):
        console.print(line, markup=False)
    if history.left_out:
        console.print(f"{len(history.left_out)} files were left out:", markup=False)
        for line in history.left_out:
            console.print(f"  {line}", markup=False)


def print_judgement(judgement: Judgement) -> None:
    """Say on stderr why the exit code is not 0."""
    for line in judgement.regressions:
        print(f"minibit history: worse: {line}", file=sys.stderr)
    for line in judgement.unknown:
        print(f"minibit history: unknown: {line}", file=sys.stderr)


def print_json(history: History, judgement: Judgement) -> None:
    """Print all of it as one JSON object."""
    told = msgspec.to_builtins(history) | {
        "judgement": msgspec.to_builtins(judgement) | {"exit_code": judgement.exit_code}
    }
    print(msgspec.json.format(msgspec.json.encode(told)).decode())


def _table(history: History) -> Table:
    metrics = " and ".join(history.metrics) if len(history.metrics) < 3 else f"{len(history.metrics)} metrics"
    title = f"{history.source}: {metrics}, {len(history.sessions)} sessions"
    table = Table(title=escape(title), title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column("benchmark", overflow="fold")
    several = len(history.metrics) > 1
    if several:
        table.add_column("metric", no_wrap=True)
    for name in ("last", "at", "runs", "sessions"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("shifts", no_wrap=True)
    for series in history.series:
        table.add_row(escape(series.benchmark), *([series.metric] if several else []), *_cells(series))
    return table


def _cells(series: Series) -> list[str]:
    if not series.points:
        return ["-", "-", "-", f"0 of {len(series.missing)}", "no run counts"]
    last = series.points[-1]
    of = f" of {len(series.points) + len(series.missing)}" if series.missing else ""
    return [
        _value(last.value, series.unit),
        last.label,
        f"{last.counted}/{last.runs}",
        f"{len(series.points)}{of}",
        _summary(series),
    ]


def _summary(series: Series) -> str:
    if not series.judged:
        return f"too few sessions ({len(series.points)} of {MIN_POINTS})"
    if not series.changes:
        return "none"
    newest = series.changes[-1]
    return f"{len(series.changes)}: [{_COLOURS[newest.direction]}]{change(newest.ratio)} {newest.direction}[/]"


def _named(history: History, series: Series) -> str:
    return f"{series.metric} of {series.benchmark}" if len(history.metrics) > 1 else series.benchmark


def _told(each: Change, unit: str) -> str:
    """Return a shift in one line: how much, where, how sure."""
    before, after = (_short(commit, "?") for commit in (each.before_commit, each.after_commit))
    between = {None: "", 0: ", the next commit", 1: ", 1 commit between without a result"}.get(
        each.commits_between, f", {each.commits_between} commits between without a result"
    )
    if each.before_commit == each.after_commit:
        between = ""
    p = f"p < {P_MIN}" if each.p < P_MIN else f"p {each.p:.4f}"
    levels = f"{_value(each.before, unit)} -> {_value(each.after, unit)}"
    where = f"at {after} ({each.after_session}), after {before}{between}"
    return "; ".join([f"{change(each.ratio)} {each.direction} {where}; {levels}; {p}", *each.remarks])


def _value(number: float, unit: str) -> str:
    """Return a figure as elsewhere, but with times of microseconds: benchmarks of one decision have them."""
    if unit == "s" and 0 < number < MILLISECOND_S:
        return f"{number * 1e6:.3g} µs"
    return value(number, unit)


def _short(commit: str | None, unknown: str) -> str:
    return commit[:ID_LENGTH] if commit else unknown


def _remarks(history: History) -> list[str]:
    """Return every series' remarks; those that read the same of several benchmarks in one line."""
    alike: dict[tuple[str, str], list[str]] = {}
    for series in history.series:
        for remark in series.remarks:
            alike.setdefault((series.metric, remark), []).append(series.benchmark)
    return [f"{metric} of {', '.join(benchmarks)} {remark}" for (metric, remark), benchmarks in alike.items()]
