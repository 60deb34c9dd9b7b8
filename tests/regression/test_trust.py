"""What stands around comparisons: changes that still fit the code, the recipe for CI, the door of the benchmarks."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.trust import changes
from minibit.regression.metrics import METRICS

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(("name", "change"), changes(0.0002, 0.0002).items(), ids=list(changes()))
def test_each_change_for_the_worse_fits_the_code(name, change):
    """A change that applies nowhere would show that compare finds nothing, or be skipped."""
    text = (ROOT / change.path).read_text()
    assert text.count(change.old) == 1
    ast.parse(text.replace(change.old, change.new))
    assert set(change.shown_by) <= METRICS.keys()


def test_the_recipe_is_a_shell_script():
    """People copy it."""
    recipe = ROOT / "docs" / "ci" / "compare.sh"
    assert os.access(recipe, os.X_OK)
    subprocess.run(["sh", "-n", recipe], check=True)
    assert "docs/ci/compare.sh" in (ROOT / "docs" / "ci" / "compare.yml").read_text()


def test_the_benchmarks_pass_a_comparison_on(tmp_path):
    """``tox -e bench -- --compare``: the same exit codes, and no empty session where there was nothing to compare."""
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--compare", "nowhere", "--only", "swarm"],
        cwd=ROOT, env={**os.environ, "MINIBIT_RESULTS": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert done.stderr.strip().startswith("minibit: nowhere is no revision of")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["machine.json"]
    assert len([path for path in tmp_path.rglob("*") if path.is_dir()]) == 1
