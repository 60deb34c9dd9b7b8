"""``minibit history``: how figures went over all sessions of a machine, and at which commits their level shifted."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from minibit.cli.options import FOLDER, SHARE, fails_closed
from minibit.errors import UsageError

if TYPE_CHECKING:
    from minibit.regression.readings import Found

SOURCE = click.Path(exists=True, readable=True, path_type=Path)
NAMED_SOURCES = 2  # as many are named; of more the number


@click.command()
@click.argument("metric", required=False)
@click.option("--results", type=FOLDER, envvar="MINIBIT_RESULTS", default=Path("results"), help="[default: ./results]")
@click.option("--machine", metavar="NAME", help="A folder of the results.  [default: this machine's]")
@click.option("--benchmarks", type=SOURCE, multiple=True, help="pytest-benchmark's own files, instead of the results.")
@click.option("--at-least", type=SHARE, default="3%", show_default=True, help="Smaller shifts are not told.")
@click.option("--fail-on-regression", is_flag=True, help="Exit with 1 or 4 (see below).")
@click.option("--within", type=click.IntRange(1), default=10, show_default=True, help="Sessions that count as new.")
@click.option("-o", "--output", type=FOLDER, help="Draw history.png and .svg there.  [default: none]")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@fails_closed()
def history(
    metric: str | None,
    *,
    results: Path,
    machine: str | None,
    benchmarks: tuple[Path, ...],
    at_least: float,
    fail_on_regression: bool,
    within: int,
    output: Path | None,
    as_json: bool,
) -> None:
    """Show how a metric went over all sessions of a machine, and where its level shifted.

    METRIC is completion_max if not given, or any other of a swarm (cpu_per_gib, pss, messages, ...), time for the
    medians of pytest-benchmark, or all. A session's value is the median of its valid runs; sessions are in the order
    of their commits in the git history around the working directory, those of commits that it does not know by time.
    A shift is told if a test finds it certain (p at most 1 % after correction for all places searched), from 8
    sessions on; three sessions make a level.

    \b
    With --fail-on-regression the command exits with
      1  if the newest shift of a series is for the worse and among its last 10 (--within) sessions, or if all its
         shifts there together are
      4  if that cannot be told: no results, too few sessions of every series that the last session has, or a series
         with enough of them was there within the last 10 sessions but not in the last one (unless its scenario is
         another one there: that begins a series of its own, judged from 8 sessions on); or it ended by an error
      0  otherwise

    \b
    Examples:
      minibit history
      minibit history cpu_per_gib -o plots
      minibit history all --fail-on-regression
      minibit history --benchmarks .benchmarks/Linux-CPython-3.11-64bit
    """
    from minibit.analysis import history_plot, history_screen  # noqa: PLC0415
    from minibit.regression.commits import Commits  # noqa: PLC0415
    from minibit.regression.history import Judgement, judge, make_history  # noqa: PLC0415
    from minibit.regression.readings import metrics_named  # noqa: PLC0415

    metrics = metrics_named(metric or ("time" if benchmarks else "completion_max"))
    try:
        found, source = _found(results, machine, benchmarks)
    except UsageError as error:
        if not fail_on_regression or machine or benchmarks:
            raise
        nothing = Judgement(regressions=[], unknown=[str(error)])
        history_screen.print_judgement(nothing)
        sys.exit(nothing.exit_code)
    made = make_history(found, metrics, Commits.of(Path.cwd()), source=source, at_least=at_least)
    judgement = judge(made, within=within)
    if as_json:
        history_screen.print_json(made, judgement)
    else:
        history_screen.print_history(made)
    if output is not None:
        files = history_plot.draw_history(made, output / "history")
        click.echo(f"wrote {', '.join(map(str, files))}", err=as_json)
    if fail_on_regression:
        history_screen.print_judgement(judgement)
        sys.exit(judgement.exit_code)


def _found(results: Path, machine: str | None, benchmarks: tuple[Path, ...]) -> "tuple[Found, str]":
    """Return the readings, and what they were read from."""
    from minibit.provenance import describe_machine, folder_name  # noqa: PLC0415
    from minibit.regression.readings import read_benchmarks, read_sessions  # noqa: PLC0415

    if benchmarks:
        named = len(benchmarks) <= NAMED_SOURCES
        source = ", ".join(map(str, benchmarks)) if named else f"{len(benchmarks)} files of pytest-benchmark"
        return read_benchmarks(benchmarks), source
    machine = machine or folder_name(describe_machine())
    return read_sessions(results, machine), machine
