"""The completion curves of a benchmark run, drawn from its records."""

import math
import statistics
from collections import defaultdict
from pathlib import Path

from minibit import record as records
from minibit.analysis.screen import print_sweep
from minibit.analysis.sweep import SweepResult, draw
from minibit.units import format_rate, format_size


def draw_curves(folder: Path) -> list[Path]:
    """Draw one curve for each kind of swarm under ``folder``/records; return the files written."""
    written = []
    for kind, result in _curves(folder).items():
        written += draw(result, folder, _subtitle(result), stem=f"completion-{kind}")
    return written


def print_curves(folder: Path) -> None:
    """Print makespans and bounds for each kind of swarm under ``folder``/records."""
    for kind, result in _curves(folder).items():
        print(f"\nswarm completion, {kind}: {_subtitle(result)}")
        print_sweep(result)


def print_bounds(folder: Path) -> None:
    """Print, for each scenario under ``folder``/bounds, the makespan over the larger of its bounds."""
    ratios: defaultdict[str, list[float]] = defaultdict(list)
    invalid: set[str] = set()
    for path in sorted((folder / "bounds").glob("*.json")):
        record = records.read(path)
        ratios[record.scenario["name"]].append(record.ratio_to_bound or math.inf)
        invalid |= set() if record.valid else {record.scenario["name"]}
    for name, values in ratios.items():
        each = ", ".join(f"{value:.3f}" for value in values)
        print(f"{name:10} makespan ÷ bound: median {statistics.median(values):.3f} of {each}"
              + (" (not valid)" if name in invalid else ""))  # fmt: skip


def _curves(folder: Path) -> dict[str, SweepResult]:
    kinds: defaultdict[str, dict[int, list[records.Record]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted((folder / "records").glob("*.json")):
        record = records.read(path)
        leechers = sum(peer.role == "leecher" for peer in record.peers)
        kinds[path.name.partition("-")[0]][leechers].append(record)
    return {kind: SweepResult(dict(by_leechers)) for kind, by_leechers in kinds.items()}


def _subtitle(result: SweepResult) -> str:
    scenario = result.records[0].scenario
    leecher = next(group for group in scenario["groups"] if group["role"] == "leecher")
    size, block = format_size(scenario["file"]["size_bytes"]), format_size(scenario["block_size_bytes"])
    return f"{size} in {block} blocks, uplink {format_rate(leecher['upload_rate_bytes_per_s'])}"
