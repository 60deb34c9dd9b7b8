"""Comparisons of real processes: what a run tells, what makes it not count, and the command's exit codes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import psutil
import pytest

from minibit import scenario
from minibit.cli import run as run_command
from minibit.cli.options import EXIT_BUG
from minibit.regression import trials
from minibit.regression.metrics import SERVING, SWARM, swarm_figures
from minibit.regression.sides import CouldNotCompare, Side
from minibit.regression.trials import DEFAULT_SCENARIO, ServingRuns, SwarmRuns

HERE = Side("head", "this MiniBit", Path(sys.executable))
MINIBIT = [sys.executable, "-c", "from minibit.cli import main; main()"]
TOML = """
block_size = "16KiB"
[file]
size = "{size}"
[[groups]]
name = "seed"
role = "seed"
count = 1
[[groups]]
name = "leecher"
count = 2
"""
CHANGED = """
real(*sys.argv[1:])
import json, pathlib
path = pathlib.Path(sys.argv[-1])
told = json.loads(path.read_text())
{change}
path.write_text(json.dumps(told))
"""
NOT_VALID = CHANGED.format(change="told |= {'valid': False, 'invalid_reasons': ['it leaked']}")
TOMORROW = CHANGED.format(change="told['schema_version'] = 99")
ELSEWHERE = "subprocess.Popen(['sleep', '60'], start_new_session=True)"


def minibit(*arguments, cwd, **variables):
    """Run the command line to its end."""
    return subprocess.run(
        [*MINIBIT, *map(str, arguments)],
        cwd=cwd, env={**os.environ, **variables}, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip


@pytest.fixture
def quick(tmp_path):
    """Return a scenario of a moment, without limits: with them it would not count on a busy machine."""
    path = tmp_path / "quick.toml"
    path.write_text(TOML.format(size="128KiB"))
    return path


def test_a_swarm_tells_every_figure(quick):
    """Of a real run, through the side's own command line."""
    trial = SwarmRuns(quick).run(HERE, seed=3)
    assert trial.record.rng_seed == 3
    assert trial.figures == swarm_figures(trial.record)
    assert trial.figures.keys() == {metric.key for metric in SWARM}
    assert all(value is not None and value >= 0 for value in trial.figures.values())
    assert trial.figures["block_requests"] >= 1
    assert trial.figures["received_per_useful"] >= 1


def test_serving_tells_every_figure():
    """The tracker's rate and cost, and the time a block takes, measured from outside."""
    trials = ServingRuns().pair((HERE, Side("base", "this MiniBit too", Path(sys.executable))), seed=3)
    assert list(trials) == ["head", "base"]
    for trial in trials.values():
        assert trial.figures.keys() == {metric.key for metric in SERVING}
        assert trial.figures["tracker_rate"] > 100
        assert 1e-6 < trial.figures["tracker_cpu"] < 0.01
        assert 1e-5 < trial.figures["block_latency_p50"] < 0.1


def side_that(tmp_path, code):
    """Return a side whose ``minibit`` is this Python code; ``real`` in it runs the real one."""
    package = tmp_path / "other" / "minibit"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    command = f"[{sys.executable!r}, '-c', {MINIBIT[2]!r}, *a]"
    real = f"import subprocess, sys\ndef real(*a):\n    subprocess.run({command}, env={{}})\n"
    (package / "cli.py").write_text(f"{real}def main():\n" + "".join(f"    {line}\n" for line in code.splitlines()))
    return Side("head", "other", Path(sys.executable), code=tmp_path / "other")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("sys.exit('no such option')", "head could not run quick: no such option"),
        ("pass", "head could not run quick: it said nothing"),
        (NOT_VALID, r"a run of head does not count \(quick, seed 3\): it leaked"),
        (TOMORROW, "the record that head wrote is of no use here: .*schema_version is 99"),
        ("real(*sys.argv[1:])\nsubprocess.Popen(['sleep', '60'])", r"left processes behind: sleep \(pid \d+\)"),
        (f"real(*sys.argv[1:])\n{ELSEWHERE}", r"left processes behind: sleep \(pid \d+\)"),
        (f"{ELSEWHERE}\nimport time\ntime.sleep(50)", "head did not end within 3 s: swarm"),
    ],
    ids=["fails", "writes nothing", "not valid", "other schema", "left behind", "left in its own session", "hangs"],
)  # fmt: skip
def test_a_run_that_does_not_count_is_named(tmp_path, quick, code, said, monkeypatch):
    """Whatever went wrong, there is no figure then; and nothing is left running."""
    if "hangs" in os.environ["PYTEST_CURRENT_TEST"]:
        monkeypatch.setattr(trials, "_timeout_s", lambda _scenario: 3.0)
    with pytest.raises(CouldNotCompare, match=said):
        SwarmRuns(quick).run(side_that(tmp_path, code), seed=3)
    assert not [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", "60"]]


def test_what_a_side_does_not_count_is_unknown(tmp_path, quick):
    """A counter that is gone must not look like no messages at all."""
    without = CHANGED.format(change="del told['requests']['have']")
    figures = SwarmRuns(quick).run(side_that(tmp_path, without), seed=3).figures
    assert {key for key, value in figures.items() if value is None} == {"have_messages", "messages"}


def test_another_commit_than_meant_is_named(quick):
    """Of a revision it is certain which code ran."""
    from minibit.record import CodeVersion

    meant = Side("head", "that", Path(sys.executable), commit=CodeVersion(id="0" * 40, dirty=False))
    with pytest.raises(CouldNotCompare, match="head was to run commit 000000000, but"):
        SwarmRuns(quick).run(meant, seed=3)


@pytest.mark.parametrize(
    ("code", "said"),
    [("sys.exit('port taken')", "the tracker of head did not start: port taken")],
)
def test_a_tracker_that_does_not_start_is_named(tmp_path, code, said):
    """With what it said."""
    with pytest.raises(CouldNotCompare, match=said):
        ServingRuns().pair([side_that(tmp_path, code)], seed=3)


def test_a_slower_scenario_is_found(tmp_path, quick):
    """End to end, in threads for speed: exit code 1, the metric named, the evidence written."""
    slow = tmp_path / "slow.toml"
    for path, size in ((quick, "128KiB"), (slow, "8MiB")):
        path.write_text('isolation = "thread"\n' + TOML.format(size=size))
    done = minibit("compare", quick, slow, "--json", "c.json", "--results", tmp_path, cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    last = next(line for line in done.stdout.splitlines() if line.startswith("REGRESSED"))
    assert "completion time, last +" in last
    told = json.loads((tmp_path / "c.json").read_text())
    worse = {m["key"]: m["confirmation"]["ratio"] for m in told["metrics"] if m["confirmation"]}
    assert worse["completion_max"] > 1.5
    assert "nobody knows how noisy this machine is" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nowhere"], 2, "nowhere is no revision"),
        (["HEAD", "--gate", "speed=5%"], 2, "there is no metric speed"),
        (["HEAD", "--gate", "5"], 2, "is not a share"),
        (["HEAD", "HEAD", "--uncommitted"], 2, "--uncommitted is the head"),
        (["a.toml", "b.toml"], 2, "a.toml is no revision"),
        ([sys.executable, "HEAD"], 2, "only two of a kind"),
        (["/bin/true", "/bin/true"], 4, "does not run MiniBit"),
        (["./no-program", "/bin/true"], 4, "does not run MiniBit: [Errno 8] Exec format error"),
    ],
)
def test_mistakes_are_one_line(tmp_path, arguments, code, said):
    """And nothing was run for them."""
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    (tmp_path / "no-program").write_text("neither a script nor a binary")
    (tmp_path / "no-program").chmod(0o755)
    done = minibit("compare", *arguments, "--results", tmp_path, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_evidence_that_cannot_be_kept_is_no_regression(tmp_path, quick):
    """Exit code 1 is a verdict: no error may look like it; what was found is on the screen."""
    quick.write_text('isolation = "thread"\n' + TOML.format(size="128KiB"))
    (tmp_path / "file").write_text("")
    options = ("--json", tmp_path / "file" / "c.json", "--results", tmp_path, "--budget", "1s")
    done = minibit("compare", quick, quick, *options, cwd=tmp_path)
    assert done.returncode == 4, done.stdout + done.stderr
    assert "completion time, last" in done.stdout
    assert "cannot write result" in done.stderr


def test_a_bug_is_no_verdict(capsys, monkeypatch):
    """Python's own exit code for a traceback is 1, which would read as regressed."""

    @click.command()
    def faulty():
        raise ZeroDivisionError

    monkeypatch.setattr(sys, "argv", ["faulty"])
    with pytest.raises(SystemExit) as ended:
        run_command(faulty, "faulty")
    assert ended.value.code == EXIT_BUG
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_the_default_scenario_takes_about_a_second():
    """Shorter ones are noise, longer ones cost pairs; and its uplinks are limited, so that its bounds are known."""
    plan = scenario.load(DEFAULT_SCENARIO)
    assert 0.7 <= plan.store_and_forward_bound_s() <= 1.5


def test_a_selftest_is_kept_and_bounds_the_gates(tmp_path, quick):
    """What it found lies with this machine's results, and a finer gate is refused before anything runs."""
    quick.write_text('isolation = "thread"\n' + TOML.format(size="128KiB"))
    options = ("--results", tmp_path / "results")
    done = minibit("selftest", "--pairs", "7", "--only", "swarm", "--scenario", quick, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (kept,) = (tmp_path / "results").glob("*/selftest.json")
    told = json.loads(kept.read_text())
    assert told["pairs"] == 7
    assert {"completion_max", "cpu_per_gib", "messages"} <= {noise["key"] for noise in told["noise"]}
    refused = minibit("compare", quick, quick, "--gate", "completion_max=0.1%", *options, cwd=tmp_path)
    assert refused.returncode == 2
    assert "completion_max is finer than this machine can see" in refused.stderr
