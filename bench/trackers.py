"""Announces per second of MiniBit's tracker and others, driven by the same wrk, in turn, on this machine.

\b
    python -m bench.trackers
    python -m bench.trackers --close --trackers minibit,opentracker
    python -m bench.trackers --registered 10,1000,100000,1000000
    python -m bench.trackers --url http://127.0.0.1:9000/     a tracker that runs already

Needs wrk (Debian's package); a tracker that is not installed is named as missing. ``--close`` asks for one connection
an announce, as opentracker always does.
"""

import json
import re
import shutil
import statistics
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import requests
from rich.console import Console
from rich.table import Table

from bench.rivals.clients import MissingError
from bench.rivals.trackers import INFO_HASH, filled, trackers
from minibit.cli import run
from minibit.cli.options import COUNTS
from minibit.errors import UsageError

FIRST_PORT = 6970
WARM_UP_S = 1
ONE = f"info_hash={'%'.join(['', *re.findall('..', INFO_HASH)])}&peer_id=-XX0003-000000000001&port=1&left=1&compact=1"
ENOUGH_TO_WEIGH = 10_000  # peers: fewer drown in what else a process allocates
# 2,000 leechers of one swarm, each of whom asks for 50 others in compact form.
_ANNOUNCES = """
local count = 0
request = function()
  count = count + 1
  local id = count % 2000
  return wrk.format("GET", "/announce?info_hash=%01%02%03%04%05%06%07%08%09%10%11%12%13%14%15%16%17%18%19%20"
    .. string.format("&peer_id=-XX0001-%012d&port=%d", id, 20000 + id)
    .. "&uploaded=0&downloaded=0&left=100&compact=1&numwant=50")
end
"""


@dataclass(frozen=True, slots=True)
class Rate:
    """One run of wrk: requests per second, latency as wrk writes it, answers that were no 200."""

    requests_per_s: float
    p50: str
    p99: str
    errors: int


def measure(url: str, *, seconds: int, connections: int, close: bool) -> Rate:
    """Let wrk announce for so long, after a second that does not count. Raise RuntimeError if nobody is handed out."""
    try:
        body = requests.get(f"{url}/announce?{ONE}", timeout=10).content
    except requests.RequestException as error:
        raise UsageError(f"nothing answers at {url}") from error
    if b"5:peers" not in body:
        raise RuntimeError(f"{url} hands out no peers: {body[:200]!r}")
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(_ANNOUNCES)
        script.flush()
        command = ["wrk", "-t1", f"-c{connections}", "--latency", "-s", script.name]
        command += ["-H", "Connection: close"] if close else []
        for duration in (WARM_UP_S, seconds):
            timed = [*command, f"-d{duration}", url]
            text = subprocess.run(timed, capture_output=True, text=True, check=True).stdout
    errors = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    return Rate(
        float(_found(r"Requests/sec:\s+([\d.]+)", text)),
        _found(r"^\s+50%\s+(\S+)", text),
        _found(r"^\s+99%\s+(\S+)", text),
        int(errors[1]) if errors else 0,
    )


def _found(pattern: str, text: str) -> str:
    found = re.search(pattern, text, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"wrk said something else: {text[:300]}")
    return found[1]


def growth_table(rates: dict[tuple[int, str], list[Rate]], bytes_per_peer: dict[tuple[int, str], int]) -> Table:
    """Return how the rate depends on the number of peers that are registered."""
    shown = Table(title="announces per second, by peers registered", title_justify="left")
    for name in ("peers", "server", "runs", "per second", "÷ fewest", "p50", "p99", "bytes a peer"):
        shown.add_column(name, justify="left" if name == "server" else "right")
    first: dict[str, float] = {}
    for (peers, server), runs in rates.items():
        median = statistics.median(run.requests_per_s for run in runs)
        ratio = median / first.setdefault(server, median)
        size = f"{bytes_per_peer[peers, server]:,}" if peers >= ENOUGH_TO_WEIGH else "-"
        cells = (f"{peers:,}", server, str(len(runs)), f"{median:,.0f}", f"{ratio:.2f}", runs[-1].p50, runs[-1].p99)
        shown.add_row(*cells, size)
    return shown


def table(rates: dict[str, list[Rate]], missing: dict[str, str], *, close: bool) -> Table:
    """Return medians, and ratios to the bare server of the same kind."""
    medians = {name: statistics.median(run.requests_per_s for run in runs) for name, runs in rates.items() if runs}
    title = "announces per second, " + ("a connection each" if close else "16 connections kept alive")
    shown = Table(title=title, title_justify="left")
    for name in ("tracker", "runs", "per second", "÷ bare", "p50", "p99", "errors"):
        shown.add_column(name, justify="left" if name == "tracker" else "right")
    for name, runs in rates.items():
        if not runs:
            shown.add_row(name, "0", "missing", missing[name], "", "", "")
            continue
        bare = medians.get("bare waitress")
        shown.add_row(
            name,
            str(len(runs)),
            f"{medians[name]:,.0f}",
            f"{medians[name] / bare:.2f}" if bare else "-",
            runs[-1].p50,
            runs[-1].p99,
            str(sum(run.errors for run in runs)),
        )
    return shown


@click.command(help=__doc__)
@click.option("--trackers", "names", default="", help="Names, separated by commas.  [default: all]")
@click.option("--url", help="Measure a tracker that runs already, and nothing else.")
@click.option(
    "--registered", type=COUNTS, help="Measure MiniBit's with so many peers registered: 10,1000,…; and nothing else."
)
@click.option("--seconds", type=click.IntRange(1), default=4, show_default=True)
@click.option("--connections", type=click.IntRange(1), default=16, show_default=True)
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True)
@click.option("--close", is_flag=True, help="One connection for each announce.")
@click.option("--node-folder", type=click.Path(path_type=Path), default=Path(), help="Where bittorrent-tracker is.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write every run here.")
def main(  # noqa: PLR0917  click passes them by name
    names: str,
    url: str | None,
    registered: list[int] | None,
    seconds: int,
    connections: int,
    repeats: int,
    close: bool,
    node_folder: Path,
    json_path: Path | None,
) -> None:
    """Parse, measure in turn, print."""
    if not shutil.which("wrk"):
        raise click.UsageError("wrk is not installed: apt-get install wrk")
    options = {"seconds": seconds, "connections": connections, "close": close}
    if url:
        rates = {url: [measure(url, **options) for _ in range(repeats)]}
        Console(highlight=False, width=110).print(table(rates, {}, close=close))
        return
    if registered:
        _print_growth(registered, repeats, options)
        return
    known = trackers(node_folder)
    wanted = [name.strip() for name in names.split(",")] if names else list(known)
    if unknown := sorted(set(wanted) - set(known)):
        raise click.UsageError(f"no tracker {unknown[0]!r}; there are {', '.join(known)}")
    rates = {name: [] for name in wanted}
    missing: dict[str, str] = {}
    for number in range(repeats):
        for place, name in enumerate(wanted if number % 2 == 0 else reversed(wanted)):
            if name in missing:
                continue
            try:
                with known[name](FIRST_PORT + place) as address:
                    rates[name].append(measure(address, **options))
            except MissingError as error:
                missing[name] = str(error)
    Console(highlight=False, width=110).print(table(rates, missing, close=close))
    if json_path:
        runs = {name: [asdict(run) for run in done] for name, done in rates.items()}
        json_path.write_text(json.dumps({"close": close, "runs": runs, "missing": missing}, indent=1) + "\n")


def _print_growth(counts: list[int], repeats: int, options: dict[str, Any]) -> None:
    rates: dict[tuple[int, str], list[Rate]] = {}
    sizes: dict[tuple[int, str], int] = {}
    for number in range(repeats):
        for place, peers in enumerate(counts if number % 2 == 0 else reversed(counts)):
            for server in ("waitress", "granian"):
                with filled(FIRST_PORT + place, server=server, peers=peers) as (address, sizes[peers, server]):
                    rates.setdefault((peers, server), []).append(measure(address, **options))
    Console(highlight=False, width=110).print(growth_table(dict(sorted(rates.items())), sizes))


if __name__ == "__main__":
    run(main, "bench.trackers")
