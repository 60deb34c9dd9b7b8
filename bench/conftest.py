"""Tiers, and the folder where a run's records go."""

import os
from collections import Counter
from pathlib import Path

import pytest

TIERS = ("quick", "default", "full")


def pytest_addoption(parser):
    """Add --tier."""
    parser.addoption("--tier", choices=TIERS, default="default", help="which benchmarks: quick, default or full")


def pytest_configure(config):
    """Register the marker."""
    config.addinivalue_line("markers", "tier(name): the smallest tier that runs this benchmark (default: quick)")


def pytest_collection_modifyitems(config, items):
    """Keep what belongs to the tier; remember what is left out."""
    chosen = TIERS.index(config.getoption("--tier"))
    kept, left_out = [], []
    for item in items:
        marker = item.get_closest_marker("tier")
        (kept if TIERS.index(marker.args[0] if marker else "quick") <= chosen else left_out).append(item)
    items[:] = kept
    config.left_out = left_out
    config.hook.pytest_deselected(items=left_out)


def pytest_terminal_summary(terminalreporter, config):
    """Say what the tier left out: a benchmark that did not run must not look as if there were none."""
    counts = Counter(item.originalname for item in getattr(config, "left_out", []))
    for name, count in sorted(counts.items()):
        terminalreporter.write_line(f"left out by --tier {config.getoption('--tier')}: {name} ({count} cases)")


@pytest.fixture(scope="session")
def bench_folder(tmp_path_factory) -> Path:
    """Return where the records of this run go."""
    folder = os.environ.get("MINIBIT_BENCH_FOLDER")
    return Path(folder) if folder else tmp_path_factory.mktemp("bench")


@pytest.fixture
def quick(request) -> bool:
    """Whether the quick tier runs: one round each."""
    return request.config.getoption("--tier") == "quick"
