"""The same locustfile against MiniBit's tracker (both protocols) and others, in turn: results, and one table.

\b
    python -m bench.load
    python -m bench.load --arrival-rate 500 --seconds 10 --node-folder ~/node -o load

Every answer is checked. Opentracker and bittorrent-tracker hand out the caller, which BEP 3 does not forbid; that is
allowed here. A tracker that is not installed is named as missing.
"""

from contextlib import AbstractContextManager
from pathlib import Path

import click
import msgspec
from rich.console import Console

from bench.rivals.clients import MissingError
from bench.rivals.trackers import bittorrent_tracker, minibit, opentracker
from minibit.analysis.load_screen import width
from minibit.cli import run
from minibit.load import result
from minibit.load.drive import drive_locust
from minibit.load.generator import Plan
from minibit.load.population import info_hash_of
from minibit.load.screen import comparison, remarks

FIRST_PORT = 6950
SEED, SWARMS = 1, 100


@click.command(help=__doc__)
@click.option("--users", type=click.IntRange(1), default=50, show_default=True, help="Connections.")
@click.option("--seconds", type=click.IntRange(1), default=10, show_default=True, help="After three of warm-up.")
@click.option("--arrival-rate", type=click.FloatRange(min=0, min_open=True), help="Open loop.  [default: closed loop]")
@click.option("--node-folder", type=click.Path(path_type=Path), default=Path(), help="Where bittorrent-tracker is.")
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), default=Path("load"))
def main(users: int, seconds: int, arrival_rate: float | None, node_folder: Path, output: Path) -> None:
    """Load one after the other; write ``<name>.json`` for each."""
    hashes = [info_hash_of(SEED, rank).hex() for rank in range(SWARMS)]
    plan = Plan(
        url="",
        kind="tracker",
        seed=SEED,
        swarms=SWARMS,
        rate_per_s=arrival_rate,
        connections=users,
        warm_up_s=3.0,
        seconds=seconds,
    )
    targets: dict[str, tuple[str, list[str], AbstractContextManager[str]]] = {
        "minibit-rest": ("rest", [], minibit(FIRST_PORT, server="waitress")),
        "minibit-bep3": ("bep3", [], minibit(FIRST_PORT + 1, server="waitress")),
        "opentracker": ("bep3", ["caller"], opentracker(FIRST_PORT + 2, hashes=hashes)),
        "bittorrent-tracker": ("bep3", ["caller"], bittorrent_tracker(FIRST_PORT + 3, node_folder=node_folder)),
    }
    console = Console(highlight=False, soft_wrap=True, width=width())
    found = []
    for name, (protocol, allow, target) in targets.items():
        try:
            with target as url:
                aimed = msgspec.structs.replace(plan, url=url, protocol=protocol, allow=allow)
                found.append((name, drive_locust(aimed)))
        except MissingError as error:
            console.print(f"{name}: missing: {error}", markup=False)
            continue
        result.write(found[-1][1], output / f"{name}.json")
    console.print(comparison(found))
    for name, each in found:
        for line in remarks(each):
            console.print(f"{name}: {line}", markup=False)


if __name__ == "__main__":
    run(main, "bench.load")
