"""Run the benchmarks: ``python -m bench [--quick | --full] [FILE …] [pytest arguments]`` (or ``tox -e bench -- …``).

``--compare BASE`` says whether this checkout is worse than a revision instead; the rest goes to ``minibit compare``.

Every run gets a folder of its own, results/<machine>/<time>-<commit>/: pytest-benchmark's JSON, one record a swarm, the
table and the picture of completion time against the number of leechers. machine.json describes the machine, once.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from bench.summary import draw_curves, print_bounds, print_curves
from bench.versus import print_written
from minibit.errors import MiniBitError
from minibit.regression.sessions import new_session
from minibit.regression.sides import MAIN

ROOT = Path(__file__).resolve().parent.parent
TIMINGS_MAX = 1000
TIERS = ("quick", "default", "full")


def main() -> int:
    """Run the tier; return pytest's exit code, or 3 if a swarm's figures do not count."""
    options, rest = _parse()
    results = Path(os.environ.get("MINIBIT_RESULTS", ROOT / "results")).absolute()
    if options.compare:
        return _compare(options.compare, rest, results)
    folder = new_session(results)
    os.environ["MINIBIT_BENCH_FOLDER"] = str(folder)
    chosen = [argument for argument in rest if Path(argument.partition("::")[0]).exists()]
    code = int(
        pytest.main([*([] if chosen else [str(ROOT / "bench")]), *_pytest_arguments(options.tier, folder), *rest])
    )
    slim(folder / "benchmark.json")
    try:
        written = draw_curves(folder)
    except MiniBitError as error:
        print(f"bench: {error}", file=sys.stderr)
        return code or error.exit_code
    print_curves(folder)
    print_bounds(folder)
    for path in sorted(folder.glob("versus-*.json")):
        print_written(path)
    print(f"\nresults: {folder}")
    for path in written:
        print(f"  {path.relative_to(folder)}")
    return code


def _compare(base: str, rest: list[str], results: Path) -> int:
    """Have ``minibit compare`` do it; keep the evidence and its picture with the results. Return its exit code."""
    folder = new_session(results)
    evidence = folder / "comparison.json"
    minibit = [sys.executable, "-c", MAIN]
    keeping = ["--results", str(results), "--json", str(evidence)]
    try:
        code = subprocess.run([*minibit, "compare", base, *rest, *keeping], cwd=ROOT, check=False).returncode
        if evidence.exists():
            report = str(folder / "comparison.html")
            subprocess.run([*minibit, "report", str(evidence), "-o", report], cwd=ROOT, check=False)
    finally:
        if not any(folder.iterdir()):
            folder.rmdir()  # there was nothing to compare, and why has been said
    return code


def slim(path: Path, at_most: int = TIMINGS_MAX) -> None:
    """Take out the single timings of benchmarks that have more than so many: their statistics stay.

    A benchmark of a microsecond has a million of them, and 26 MB a run are more than results are worth.
    """
    if not path.exists() or not path.stat().st_size:
        return  # pytest ended before it measured anything
    told = msgspec.json.decode(path.read_bytes())
    for benchmark in told["benchmarks"]:
        if len(benchmark["stats"].get("data", ())) > at_most:
            benchmark["stats"]["data"] = []
    path.write_bytes(msgspec.json.format(msgspec.json.encode(told)) + b"\n")


def _parse() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(prog="tox -e bench --", description=__doc__, add_help=True)
    tier = parser.add_mutually_exclusive_group()
    tier.add_argument("--quick", dest="tier", action="store_const", const="quick", help="under a minute")
    tier.add_argument("--full", dest="tier", action="store_const", const="full", help="the long ones too")
    parser.add_argument("--compare", metavar="BASE", help="is this checkout worse than that revision?")
    parser.set_defaults(tier="default")
    return parser.parse_known_args()


def _pytest_arguments(tier: str, folder: Path) -> list[str]:
    return [
        f"--rootdir={ROOT}",
        f"--config-file={ROOT / 'bench' / 'pytest.ini'}",
        f"--tier={tier}",
        f"--benchmark-json={folder / 'benchmark.json'}",
        "--benchmark-sort=name",
        "--benchmark-group-by=group",
        "--benchmark-columns=min,median,max,stddev,ops,rounds",
        "--benchmark-storage=file://" + str(folder / ".benchmarks"),
        "-p",
        "no:cacheprovider",
        "-q",
    ]


if __name__ == "__main__":
    sys.exit(main())
