"""``minibit compare`` and ``minibit selftest``: did a change make it worse, and what can be seen on this machine."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from minibit.cli.options import DURATION, FILE, Parsed, fails_closed
from minibit.errors import UsageError
from minibit.units import parse_share

if TYPE_CHECKING:
    from minibit.regression.trials import Runs

RESULTS = click.Path(file_okay=False, path_type=Path)


def _parse_gate(text: str) -> tuple[str, float]:
    metric, _, share = text.rpartition("=")
    return metric, parse_share(share)


GATE = Parsed("metric=share", _parse_gate)


def results_folder(given: Path | None) -> Path:
    """Return where results are kept: as given, MINIBIT_RESULTS, or ./results."""
    return given or Path(os.environ.get("MINIBIT_RESULTS") or "results")


def _workloads(scenarios: tuple[Path, ...], only: str | None) -> "list[Runs]":
    from minibit.regression.trials import ServingRuns, SwarmRuns  # noqa: PLC0415

    swarms: list[Runs] = [SwarmRuns(path) for path in scenarios] if scenarios else [SwarmRuns()]
    names = [runs.name for runs in swarms]
    if len(set(names)) < len(names):
        raise UsageError(f"two scenarios of the same name: {', '.join(names)}")
    serving: list[Runs] = [ServingRuns()]
    return {"swarm": swarms, "serving": serving, None: swarms + serving}[only]


def _gates(
    given: tuple[tuple[str, float], ...], workloads: "Sequence[Runs]", results: Path
) -> tuple[dict[str, float], list[str]]:
    from minibit.provenance import describe_machine  # noqa: PLC0415
    from minibit.regression import selftest  # noqa: PLC0415
    from minibit.regression.metrics import WORKLOADS  # noqa: PLC0415

    judged = [metric for kind in dict.fromkeys(runs.kind for runs in workloads) for metric in WORKLOADS[kind]]
    named = {metric: share for metric, share in given if metric}
    general = next((share for metric, share in reversed(given) if not metric), None)
    known = selftest.known(results, describe_machine())
    detectable = known.detectable() if known else None
    gates, remarks = selftest.gates_of(judged, detectable, named=named, general=general)
    unknown = [metric.title for metric in judged if metric.key not in (detectable or {})]
    if known is None:
        remarks.append("nobody knows how noisy this machine is: run minibit selftest once")
    elif unknown:
        remarks.append(f"nobody knows how noisy this is here, minibit selftest tells: {', '.join(unknown)}")
    return gates, remarks


@click.command()
@click.argument("base")
@click.argument("head", required=False)
@click.option("--uncommitted", is_flag=True, help="Compare the working tree as it is now, new files included.")
@click.option("--scenario", "scenarios", type=FILE, multiple=True, help="Swarms to run.  [default: one of a second]")
@click.option("--only", type=click.Choice(["swarm", "serving"]), help="One kind of workload.  [default: both]")
@click.option("--gate", "gates", type=GATE, multiple=True, help="How much worse may pass: 5%, cpu_per_gib=10%.")
@click.option("--budget", "budget_s", type=DURATION, default="5min", show_default=True, help="Time for pairs.")
@click.option("--rng-seed", type=int, help="Of the first pair.  [default: drawn]")
@click.option("--results", type=RESULTS, help="Where the selftest lies.  [default: MINIBIT_RESULTS or ./results]")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write the evidence here.")
@fails_closed()
def compare(
    base: str,
    head: str | None,
    *,
    uncommitted: bool,
    scenarios: tuple[Path, ...],
    only: str | None,
    gates: tuple[tuple[str, float], ...],
    results: Path | None,
    json_path: Path | None,
    **options: Any,
) -> None:
    """Say whether HEAD is worse than BASE: two git revisions, two Python interpreters, or two scenario files.

    Both sides run in turn, pair by pair, until every metric is decided or the budget is spent; an alarm is confirmed
    by fresh pairs. Revisions run in worktrees and environments of their own, kept in ~/.cache/minibit (MINIBIT_CACHE).

    Exit codes: 0 not regressed; 1 regressed; 3 inconclusive; 4 it could not be compared, and why; 2 a usage error.

    \b
    Examples:
      minibit compare main                             the last commit against main
      minibit compare HEAD --uncommitted               what is in the editor against the last commit
      minibit compare v1.0 v1.1 --scenario scenarios/thirds.toml --budget 15min
      minibit compare old/bin/python new/bin/python --only serving
      minibit compare HEAD~1 --gate 10% --gate pss=3% --json comparison.json
    """
    from minibit.analysis import compare_screen  # noqa: PLC0415
    from minibit.regression import comparison as comparisons  # noqa: PLC0415
    from minibit.regression.compare import compare as run  # noqa: PLC0415
    from minibit.regression.sides import SCENARIO, Repository, kind_of, make_sides  # noqa: PLC0415

    if uncommitted and head:
        raise click.UsageError("--uncommitted is the head: leave HEAD out")
    two_scenarios = kind_of(base) == SCENARIO
    if two_scenarios and (scenarios or only):
        raise click.UsageError("two scenarios are compared: leave --scenario and --only out")
    workloads = _workloads((Path(base),), "swarm") if two_scenarios else _workloads(scenarios, only)
    chosen, remarks = _gates(gates, workloads, results_folder(results))
    sides = make_sides(base, head or "HEAD", uncommitted=uncommitted, tell=lambda text: click.echo(text, err=True))
    if sides[1].code and head is None and not uncommitted and Repository.here().differs_from_head():
        remarks.append("the working tree has changes that are not compared (--uncommitted compares them)")
    with compare_screen.progress() as watch:
        made = run(*sides, workloads, gates=chosen, watch=watch, **options)
    made.remarks = remarks + made.remarks
    compare_screen.print_comparison(made)
    if json_path:
        comparisons.write(made, json_path)
        click.echo(f"evidence: {json_path}  (minibit report {json_path} draws it)")
    sys.exit(comparisons.EXIT_CODES[made.verdict])


@click.command()
@click.option("--pairs", type=click.IntRange(7, 500), default=15, show_default=True, help="Of identical code.")
@click.option("--scenario", "scenarios", type=FILE, multiple=True, help="Swarms to run.  [default: one of a second]")
@click.option("--only", type=click.Choice(["swarm", "serving"]), help="One kind of workload.  [default: both]")
@click.option("--results", type=RESULTS, help="Where it is kept.  [default: MINIBIT_RESULTS or ./results]")
def selftest(pairs: int, scenarios: tuple[Path, ...], only: str | None, results: Path | None) -> None:
    """Find out how small a change can be seen on this machine: identical code on both sides.

    What is found is kept beside this machine's results, and minibit compare refuses gates that are finer. Metrics that
    were not measured now keep what an earlier selftest found.

    \b
    Examples:
      minibit selftest
      minibit selftest --pairs 40 --only swarm
    """
    from minibit.analysis import compare_screen  # noqa: PLC0415
    from minibit.provenance import describe_machine  # noqa: PLC0415
    from minibit.regression import selftest as selftests  # noqa: PLC0415
    from minibit.regression.compare import compare as run  # noqa: PLC0415
    from minibit.regression.sides import Side  # noqa: PLC0415

    kept = results_folder(results)
    older = selftests.known(kept, describe_machine())
    base, head = (Side(name, "this MiniBit", Path(sys.executable)) for name in ("base", "head"))
    with compare_screen.progress() as watch:
        made = run(base, head, _workloads(scenarios, only), pairs=pairs, watch=watch)
    found = selftests.analysed(made)
    compare_screen.print_selftest(found)
    path = selftests.path_in(kept, found.machine)
    selftests.write(found.with_older(older), path)
    click.echo(f"kept: {path}")
