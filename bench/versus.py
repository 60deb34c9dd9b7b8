"""MiniBit beside real clients and the physical limit, in turn, on this machine.

\b
    python -m bench.versus --peers 8 --size 128MiB
    python -m bench.versus --peers 32 --size 64MiB --clients minibit,"libtorrent fast"
    python -m bench.versus --peers 8 --size 16MiB --upload-rate 2MB/s --clients minibit,"libtorrent tuned"

Every client runs once in each round, in an order that alternates (A B C, C B A, …), so that a slow minute of the
machine does not fall on one of them; the table shows medians. A client that is not installed is named as missing.
"""

import json
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from bench.rivals.clients import MIB, RUNNERS, MissingError, Outcome, Work
from minibit.cli import run
from minibit.cli.options import BLOCK_SIZE, RATE, SIZE
from minibit.units import format_duration

DEFAULT_CLIENTS = ("minibit", "libtorrent", "libtorrent fast", "aria2", "limit")


def compare(work: Work, clients: tuple[str, ...], repeats: int) -> tuple[dict[str, list[Outcome]], dict[str, str]]:
    """Run every client ``repeats`` times, in turn; return the outcomes and why others are missing."""
    outcomes: dict[str, list[Outcome]] = {name: [] for name in clients}
    missing: dict[str, str] = {}
    for number in range(repeats):
        for name in clients if number % 2 == 0 else reversed(clients):
            if name in missing:
                continue
            try:
                outcomes[name].append(RUNNERS[name](work))
            except MissingError as error:
                missing[name] = str(error)
    return outcomes, missing


def goodput_mib_per_s(work: Work, outcomes: list[Outcome]) -> float:
    """Return the median goodput."""
    return statistics.median(work.peers * work.size_bytes / MIB / outcome.seconds for outcome in outcomes)


def table(work: Work, outcomes: dict[str, list[Outcome]], missing: dict[str, str]) -> Table:
    """Return medians, and ratios to MiniBit."""
    ours = goodput_mib_per_s(work, outcomes["minibit"]) if outcomes.get("minibit") else None
    notes = sorted({f"{name}: {run.note}" for name, runs in outcomes.items() for run in runs if run.note})
    shown = Table(
        title=f"{work.peers} leechers x {work.size_bytes / MIB:g} MiB",
        title_justify="left",
        caption="\n".join(notes) or None,
        caption_justify="left",
    )
    for name in ("client", "runs", "time", "MiB/s", "CPU-s per GiB", "MiniBit ÷ it"):
        shown.add_column(name, justify="left" if name == "client" else "right")
    for name, runs in outcomes.items():
        if name in missing:
            shown.add_row(name, "0", "missing", missing[name], "", "")
            continue
        goodput = goodput_mib_per_s(work, runs)
        shown.add_row(
            name,
            str(len(runs)),
            format_duration(statistics.median(run.seconds for run in runs)),
            f"{goodput:.0f}",
            f"{statistics.median(run.cpu_s for run in runs) / work.delivered_gib:.2f}",
            f"{ours / goodput:.2f}" if ours else "-",
        )
    return shown


def write(path: Path, work: Work, outcomes: dict[str, list[Outcome]], missing: dict[str, str]) -> None:
    """Write every run as JSON."""
    runs = {name: [asdict(run) for run in done] for name, done in outcomes.items()}
    path.write_text(json.dumps({"work": asdict(work), "runs": runs, "missing": missing}, indent=1) + "\n")


def print_written(path: Path) -> None:
    """Print the table of what ``write`` wrote."""
    told = json.loads(path.read_text())
    outcomes = {name: [Outcome(**run) for run in runs] for name, runs in told["runs"].items()}
    Console(highlight=False).print(table(Work(**told["work"]), outcomes, told["missing"]))


@click.command(help=__doc__)
@click.option("--peers", type=click.IntRange(1), default=8, show_default=True, help="Leechers.")
@click.option("--size", "size_bytes", type=SIZE, default="128MiB", show_default=True, help="Size of the file.")
@click.option("--block-size", "block_size_bytes", type=BLOCK_SIZE, default="auto", show_default=True)
@click.option("--upload-rate", "upload_rate_bytes_per_s", type=RATE, default="unlimited", show_default=True)
@click.option("--clients", default=",".join(DEFAULT_CLIENTS), show_default=True, help="Any of: " + ", ".join(RUNNERS))
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True, help="Runs of each client.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write every run here.")
def main(clients: str, repeats: int, json_path: Path | None, **work_options: Any) -> None:
    """Parse, compare, print."""
    work = Work(**work_options)
    names = tuple(name.strip() for name in clients.split(","))
    unknown = sorted(set(names) - set(RUNNERS))
    if unknown:
        raise click.UsageError(f"no client {unknown[0]!r}; there are {', '.join(RUNNERS)}")
    outcomes, missing = compare(work, names, repeats)
    Console(highlight=False).print(table(work, outcomes, missing))
    if json_path:
        write(json_path, work, outcomes, missing)


if __name__ == "__main__":
    run(main, "bench.versus")
