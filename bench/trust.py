"""Does the verdict of ``minibit compare`` deserve trust? Identical code must pass, code made worse must be found.

\b
    python -m bench.trust identical --comparisons 40 -o /tmp/trust
    python -m bench.trust worse -o /tmp/trust
    python -m bench.trust worse --only +10%-cpu -o /tmp/trust

``identical`` compares the last commit with itself, again and again. ``worse`` clones this checkout into a scratch
folder, makes the clone worse in one way, commits that and compares: each way must be found, by the metric it is about.
Every comparison is kept in the folder; what is there already is not made again, so that a long run may be broken off.
"""

import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from minibit import scenario as scenarios
from minibit.analysis import compare_screen
from minibit.cli import run as run_command
from minibit.launcher.swarm import run_swarm
from minibit.regression import comparison as comparisons
from minibit.regression.compare import BUDGET_S, compare
from minibit.regression.comparison import Comparison
from minibit.regression.evidence import Verdict
from minibit.regression.sides import make_sides
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


TAKE = "wait_s = self._bucket.take(num_bytes, now_s)"
COMPLETION = ("completion_p50", "completion_p95", "completion_max")
STORED = '        """A block is on disk."""\n'
HAVE = 'answer = self._exchange("have", action.key, wire.ANNOUNCE_BLOCK, message, _announce_answer)'
LISTEN = "        self._peer.start_listening_for_peers()\n"


def changes(cpu_s_per_block: float) -> dict[str, Change]:
    """Return every way to be worse; a tenth more processor time is a tenth of what a block takes here."""
    burn = BURN.format(seconds=cpu_s_per_block / 10)

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
    ways = changes(_cpu_s_per_block())
    if unknown := sorted(set(names) - set(ways)):
        raise click.UsageError(f"no way {unknown[0]!r}; there are {', '.join(ways)}")
    table = Table(title="made worse on purpose, and what compare said of it", title_justify="left")
    for name in ("change", "verdict", "by", "time"):
        table.add_column(name)
    missed = []
    for name in names or ways:
        path = output / "worse" / f"{name}-{workload}.json"
        if not path.exists():
            with _clone_with(ways[name], name):
                began_s = time.monotonic()
                sides = make_sides("HEAD~1", "HEAD")
                told = compare(*sides, _runs(workload), budget_s=BUDGET_S)
                click.echo(f"{name}: {told.verdict} in {format_duration(time.monotonic() - began_s)}", err=True)
            comparisons.write(told, path)
        told = comparisons.read(path)
        by = {metric.key: compare_screen.change(metric.decisive.ratio) for metric in told.regressed}
        if not set(ways[name].shown_by) & set(by):
            missed.append(name)
        shown = ", ".join(f"{key} {change}" for key, change in by.items())
        table.add_row(name, str(told.verdict), shown, format_duration(told.elapsed_s))
    Console(highlight=False, width=120).print(table)
    if missed:
        click.echo(f"not found: {', '.join(missed)}", err=True)
        raise SystemExit(1)


def _cpu_s_per_block() -> float:
    """Return what one block of the default swarm takes of a processor, over everybody who has to do with it."""
    plan = scenarios.load(DEFAULT_SCENARIO)
    record = run_swarm(plan)
    leechers = sum(peer.role == "leecher" for peer in record.peers)
    return (record.cpu_s or 0.0) / (leechers * plan.file.size_bytes / plan.effective_block_size_bytes)


@contextmanager
def _clone_with(change: Change, name: str) -> Iterator[None]:
    """Work in a scratch clone whose last commit is the change."""
    with tempfile.TemporaryDirectory(prefix="minibit-trust-") as folder:
        clone = Path(folder) / "clone"
        _git(ROOT, "clone", "--quiet", "--shared", str(ROOT), str(clone))
        path = clone / change.path
        text = path.read_text()
        if text.count(change.old) != 1:
            raise click.ClickException(f"{name} does not fit {change.path} any more: bring bench/trust.py up to date")
        path.write_text(text.replace(change.old, change.new))
        _git(clone, "-c", "user.name=trust", "-c", "user.email=trust@localhost", "commit", "--quiet", "-am", name)
        with chdir(clone):
            yield


def _git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", "-C", str(folder), *arguments], check=True)


if __name__ == "__main__":
    run_command(cli, "python -m bench.trust")
