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

import click
from rich.console import Console
from rich.table import Table

from bench.rivals.clients import MIB, RUNNERS, MissingError, Outcome, Work
from minibit.units import format_duration, parse_rate, parse_size

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
    shown = Table(title=f"{work.peers} leechers x {work.size_bytes / MIB:g} MiB", title_justify="left")
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


@click.command(help=__doc__)
@click.option("--peers", type=int, default=8, show_default=True)
@click.option("--size", default="128MiB", show_default=True)
@click.option("--block-size", default=None, help="[default: auto]")
@click.option("--upload-rate", default="unlimited", show_default=True)
@click.option("--clients", default=",".join(DEFAULT_CLIENTS), show_default=True)
@click.option("--repeats", type=int, default=5, show_default=True)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write every run here.")
def main(  # noqa: PLR0917  click passes them by name
    peers: int, size: str, block_size: str | None, upload_rate: str, clients: str, repeats: int, json_path: Path | None
) -> None:
    """Parse, compare, print."""
    work = Work(peers, parse_size(size), parse_size(block_size) if block_size else None, parse_rate(upload_rate))
    names = tuple(name.strip() for name in clients.split(","))
    unknown = sorted(set(names) - set(RUNNERS))
    if unknown:
        raise click.UsageError(f"no client {unknown[0]!r}; there are {', '.join(RUNNERS)}")
    outcomes, missing = compare(work, names, repeats)
    Console(highlight=False).print(table(work, outcomes, missing))
    if json_path:
        runs = {name: [asdict(run) for run in done] for name, done in outcomes.items()}
        json_path.write_text(json.dumps({"work": asdict(work), "runs": runs, "missing": missing}, indent=1) + "\n")


if __name__ == "__main__":
    main()
