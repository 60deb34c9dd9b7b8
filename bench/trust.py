"""Does the verdict of ``minibit compare`` deserve trust? Identical code must pass, code made worse must be found.

\b
    python -m bench.trust identical --comparisons 40 -o /tmp/trust
    python -m bench.trust worse -o /tmp/trust
    python -m bench.trust worse --only +10%-cpu -o /tmp/trust
    python -m bench.trust history -o /tmp/trust

``identical`` compares the last commit with itself, again and again. ``worse`` clones this checkout into a scratch
folder, makes the clone worse in one way, commits that and compares: each way must be found, by the metric it is about.
``history`` makes thirty commits in such a clone, one of them worse, and runs swarms at each: ``minibit history`` must
find that commit and no other.
Every comparison is kept in the folder; what is there already is not made again, so that a long run may be broken off.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from minibit import scenario as scenarios
from minibit.analysis import compare_screen
from minibit.cli import run as run_command
from minibit.cli.options import EXIT_INVALID
from minibit.launcher.swarm import run_swarm
from minibit.provenance import describe_machine, folder_name
from minibit.record import CodeVersion
from minibit.regression import comparison as comparisons
from minibit.regression.compare import BUDGET_S, compare
from minibit.regression.comparison import Comparison
from minibit.regression.evidence import Verdict
from minibit.regression.sessions import session_name
from minibit.regression.sides import MAIN, Side, make_sides
from minibit.regression.trials import DEFAULT_SCENARIO, Runs, ServingRuns, SwarmRuns
from minibit.units import format_duration

ROOT = Path(__file__).resolve().parent.parent
BURN = """        burnt_s = time.thread_time() + {seconds:.6f}
        while time.thread_time() < burnt_s:
            pass
"""


@dataclass(frozen=True, slots=True)
class Change:
    """One way to be worse: what replaces what in one file, and the metrics of which one at least must show it."""

    path: str
    old: str
    new: str
    shown_by: tuple[str, ...]
    workload: str = "swarm"


TAKE = "wait_s = self._bucket.take(num_bytes, now_s)"
COMPLETION = ("completion_p50", "completion_p95", "completion_max")
STORED = '        """A block is on disk."""\n'
HAVE = 'answer = self._exchange("have", action.key, wire.ANNOUNCE_BLOCK, message, _announce_answer)'
REQUEST = "        count = NUMWANT_MAX if request.numwant is None else request.numwant\n"
LISTEN = "        self._peer.start_listening_for_peers()\n"


def changes(cpu_s_per_block: float = 0.0, cpu_s_per_request: float = 0.0) -> dict[str, Change]:
    """Return every way to be worse; shares of processor time are of what a block, or a request, takes here."""
    burn = BURN.format(seconds=cpu_s_per_block / 10)
    burn_a_request = BURN.format(seconds=cpu_s_per_request / 5)

    def idle(share: float) -> str:
        return TAKE.replace("num_bytes", f"num_bytes + round({share} * num_bytes)")

    return {
        "+5%-time": Change("minibit/peers/pacer.py", TAKE, idle(0.05), COMPLETION),
        "+10%-time": Change("minibit/peers/pacer.py", TAKE, idle(0.10), COMPLETION),
        "+10%-cpu": Change("minibit/peers/peer.py", STORED, STORED + burn, ("cpu_per_gib",)),
        "double-haves": Change(
            "minibit/peers/downloader.py", HAVE, f"{HAVE}\n        {HAVE}", ("have_messages", "messages")
        ),
        "5MiB-leak": Change(
            "minibit/launcher/child.py", LISTEN, LISTEN + '        self._leak = b"x" * (5 << 20)\n', ("pss",)
        ),
        "+20%-request": Change(
            "minibit/tracker/service.py", REQUEST, burn_a_request + REQUEST, ("tracker_cpu", "tracker_rate"), "serving"
        ),
    }


@click.group(help=__doc__)
def cli() -> None:
    """Parse."""


OUTPUT = click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), default=Path("trust"))
WORKLOAD = click.option(
    "--workload", type=click.Choice(["swarm", "serving", "both"]), default="both", show_default=True
)


def _runs(workload: str) -> list[Runs]:
    swarms: list[Runs] = [SwarmRuns()] if workload != "serving" else []
    return swarms + ([ServingRuns()] if workload != "swarm" else [])


@cli.command()
@click.option("--comparisons", "count", type=click.IntRange(1), default=40, show_default=True)
@WORKLOAD
@OUTPUT
def identical(count: int, workload: str, output: Path) -> None:
    """Compare the last commit with itself: at most one in twenty may say regressed, four in five must pass."""
    base, head = make_sides("HEAD", "HEAD", tell=lambda text: click.echo(text, err=True))
    runs = _runs(workload)
    made = []
    for number in range(count):
        path = output / "identical" / f"{workload}-{number:03d}.json"
        if not path.exists():
            comparisons.write(compare(base, head, runs), path)
        made.append(comparisons.read(path))
        told = made[-1]
        click.echo(f"{number + 1:3d}  {told.verdict:14}  {format_duration(told.elapsed_s):>12}  {_open(told)}")
    verdicts = Counter(str(told.verdict) for told in made)
    took_s = sum(told.elapsed_s for told in made)
    commits = {told.head.commit.id[:9] for told in made if told.head.commit}
    click.echo(
        f"{count} comparisons of {', '.join(sorted(commits))} with itself in {format_duration(took_s)}: "
        + ", ".join(f"{verdicts[verdict]} {verdict}" for verdict in Verdict)
    )
    if verdicts[Verdict.REGRESSED] > count / 20 or verdicts[Verdict.NOT_REGRESSED] < 0.8 * count:
        raise SystemExit(1)


def _open(told: Comparison) -> str:
    return ", ".join(f"{m.key} {m.verdict}" for m in told.metrics if m.verdict != Verdict.NOT_REGRESSED)


@cli.command()
@click.option("--only", "names", multiple=True, help="Of the ways to be worse.")
@WORKLOAD
@OUTPUT
def worse(names: tuple[str, ...], workload: str, output: Path) -> None:
    """Compare the last commit with the same made worse, in each way."""
    known = [name for name, change in changes().items() if workload in ("both", change.workload)]
    if unknown := sorted(set(names) - set(known)):
        raise click.UsageError(f"no way {unknown[0]!r} for this workload; there are {', '.join(known)}")
    names = names or tuple(known)
    of_serving = any(changes()[name].workload == "serving" for name in names)
    ways = changes(_cpu_s_per_block(), _cpu_s_per_request() if of_serving else 0.0)
    here = _git(ROOT, "rev-parse", "HEAD")
    table = Table(title="made worse on purpose, and what compare said of it", title_justify="left")
    for name in ("change", "verdict", "by", "time"):
        table.add_column(name)
    missed = []
    for name in names:
        path = output / "worse" / f"{name}-{workload}.json"
        if not path.exists():
            with _clone_with(ways[name], name):
                began_s = time.monotonic()
                sides = make_sides("HEAD~1", "HEAD")
                told = compare(*sides, _runs(workload), budget_s=BUDGET_S)
                click.echo(f"{name}: {told.verdict} in {format_duration(time.monotonic() - began_s)}", err=True)
            comparisons.write(told, path)
        told = comparisons.read(path)
        if told.base.commit and told.base.commit.id != here:
            raise click.ClickException(f"{path} is of commit {told.base.commit.id[:9]}: remove it, or name another -o")
        by = {metric.key: compare_screen.change(metric.decisive.ratio) for metric in told.regressed}
        if not set(ways[name].shown_by) & set(by):
            missed.append(name)
        shown = ", ".join(f"{key} {change}" for key, change in by.items())
        table.add_row(name, str(told.verdict), shown, format_duration(told.elapsed_s))
    Console(highlight=False, width=120).print(table)
    if missed:
        click.echo(f"not found: {', '.join(missed)}", err=True)
        raise SystemExit(1)


@cli.command()
@click.option("--commits", "count", type=click.IntRange(10), default=30, show_default=True)
@click.option("--at", type=click.IntRange(4), default=18, show_default=True, help="The commit that is worse, from 1.")
@click.option("--change", "name", default="+5%-time", show_default=True, help="In which way.")
@click.option("--runs", type=click.IntRange(1), default=3, show_default=True, help="Swarms at each commit.")
@OUTPUT
def history(count: int, at: int, name: str, runs: int, output: Path) -> None:
    """Make a history of commits, one of them worse, and have minibit history find it."""
    known = [each for each, change in changes().items() if change.workload == "swarm"]
    if name not in known:
        raise click.UsageError(f"no way {name!r} of a swarm; there are {', '.join(known)}")
    if at > count - 3:
        raise click.UsageError(f"--at {at} leaves fewer than three commits after it")
    results = output.absolute() / "history"
    if results.exists():
        raise click.UsageError(f"{results} is there already: a history is made from its first commit on")
    ways = changes(_cpu_s_per_block())
    with tempfile.TemporaryDirectory(prefix="minibit-trust-") as folder:
        clone = _clone(Path(folder))
        worse_commit = ""
        with click.progressbar(range(1, count + 1), label="commits", file=sys.stderr) as numbers:
            for number in numbers:
                if number == at:
                    _apply(ways[name], name, clone)
                (clone / "number.txt").write_text(f"{number}\n")
                commit = _commit(clone, f"commit {number}")
                worse_commit = commit if number == at else worse_commit
                _session(clone, commit, results, runs)
        told = _history_of(clone, results, ways[name].shown_by[-1])
    found = [change["after_commit"] for series in told["series"] for change in series["changes"]]
    click.echo(f"worse from {worse_commit[:9]} on (commit {at} of {count}); found: {[each[:9] for each in found]}")
    if found != [worse_commit]:
        raise SystemExit(1)


def _session(clone: Path, commit: str, results: Path, runs: int) -> None:
    """Run the default swarm at this commit, as ``tox -e bench`` leaves its records."""
    name = session_name(datetime.now(UTC), CodeVersion(id=commit, dirty=False))
    folder = results / folder_name(describe_machine()) / name / "records"
    for run in range(runs):
        arguments = ["swarm", str(DEFAULT_SCENARIO), "--rng-seed", str(run), "--json", str(folder / f"r{run}.json")]
        environment = {**os.environ, "PYTHONPATH": str(clone), "PYTHONSAFEPATH": "1"}
        done = subprocess.run(
            [sys.executable, "-c", MAIN, *arguments], env=environment, capture_output=True, check=False
        )
        if done.returncode not in (0, EXIT_INVALID):
            raise click.ClickException(done.stderr.decode(errors="replace"))


def _history_of(clone: Path, results: Path, metric: str) -> Any:
    """Print the history, and return it as JSON has it."""
    command = [sys.executable, "-c", MAIN, "history", metric, "--results", str(results)]
    subprocess.run([*command, "-o", str(results)], cwd=clone, check=True)
    return json.loads(subprocess.run([*command, "--json"], cwd=clone, check=True, capture_output=True).stdout)


def _cpu_s_per_block() -> float:
    """Return what one block of the default swarm takes of a processor, over everybody who has to do with it."""
    plan = scenarios.load(DEFAULT_SCENARIO)
    record = run_swarm(plan)
    leechers = sum(peer.role == "leecher" for peer in record.peers)
    return (record.cpu_s or 0.0) / (leechers * plan.file.size_bytes / plan.effective_block_size_bytes)


def _cpu_s_per_request() -> float:
    """Return what one request to the tracker takes of a processor."""
    here = Side("head", "this MiniBit", Path(sys.executable))
    return ServingRuns().pair((here, replace(here, name="base")), 1)["head"].figures["tracker_cpu"] or 0.0


@contextmanager
def _clone_with(change: Change, name: str) -> Iterator[None]:
    """Work in a scratch clone whose last commit is the change."""
    with tempfile.TemporaryDirectory(prefix="minibit-trust-") as folder:
        clone = _clone(Path(folder))
        _apply(change, name, clone)
        _commit(clone, name)
        with chdir(clone):
            yield


def _clone(folder: Path) -> Path:
    clone = folder / "clone"
    _git(ROOT, "clone", "--quiet", "--shared", str(ROOT), str(clone))
    return clone


def _apply(change: Change, name: str, clone: Path) -> None:
    path = clone / change.path
    text = path.read_text()
    if text.count(change.old) != 1:
        raise click.ClickException(f"{name} does not fit {change.path} any more: bring bench/trust.py up to date")
    path.write_text(text.replace(change.old, change.new))


def _commit(clone: Path, message: str) -> str:
    _git(clone, "add", "--all")
    _git(clone, "-c", "user.name=trust", "-c", "user.email=trust@localhost", "commit", "--quiet", "-m", message)
    return _git(clone, "rev-parse", "HEAD")


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


if __name__ == "__main__":
    run_command(cli, "python -m bench.trust")
