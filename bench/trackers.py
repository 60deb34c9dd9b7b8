"""Announces per second of MiniBit's tracker and others, driven by the same wrk, in turn, on this machine.

\b
    python -m bench.trackers
    python -m bench.trackers --close --trackers minibit,opentracker
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

import click
from rich.console import Console
from rich.table import Table

from bench.rivals.clients import MissingError
from bench.rivals.trackers import trackers

FIRST_PORT = 6970
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
    """Let wrk announce for so long."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(_ANNOUNCES)
        script.flush()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}", "--latency", "-s", script.name]
        command += ["-H", "Connection: close"] if close else []
        text = subprocess.run([*command, url], capture_output=True, text=True, check=True).stdout
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


def table(rates: dict[str, list[Rate]], missing: dict[str, str], *, close: bool) -> Table:
    """Return medians, and ratios to the bare server of the same kind."""
    medians = {name: statistics.median(run.requests_per_s for run in runs) for name, runs in rates.items() if runs}
    title = "announces per second, " + ("a connection each" if close else "16 connections kept alive")
    shown = Table(title=title, title_justify="left")
    for name in ("tracker", "runs", "per second", "÷ bare waitress", "p50", "p99", "errors"):
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
@click.option("--seconds", type=click.IntRange(1), default=4, show_default=True)
@click.option("--connections", type=click.IntRange(1), default=16, show_default=True)
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True)
@click.option("--close", is_flag=True, help="One connection for each announce.")
@click.option("--node-folder", type=click.Path(path_type=Path), default=Path(), help="Where bittorrent-tracker is.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write every run here.")
def main(  # noqa: PLR0917  click passes them by name
    names: str,
    url: str | None,
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
        Console(highlight=False).print(table(rates, {}, close=close))
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
    Console(highlight=False).print(table(rates, missing, close=close))
    if json_path:
        runs = {name: [asdict(run) for run in done] for name, done in rates.items()}
        json_path.write_text(json.dumps({"close": close, "runs": runs, "missing": missing}, indent=1) + "\n")


if __name__ == "__main__":
    main()
