"""The history of results: which sessions make a series, in which order, and what is said of what is missing."""

import datetime as dt
import json
import os
import random
import subprocess
import sys
from itertools import count
from pathlib import Path

import msgspec
import pytest

from minibit import record as records
from minibit.analysis.history_plot import draw_history
from minibit.analysis.history_screen import print_history
from minibit.errors import UsageError
from minibit.provenance import folder_name
from minibit.record import CodeVersion
from minibit.regression.commits import Commits
from minibit.regression.history import judge, make_history
from minibit.regression.metrics import Metric
from minibit.regression.readings import (
    TIME,
    Found,
    Reading,
    metrics_named,
    read_benchmarks,
    read_sessions,
    scenario_version,
)
from minibit.regression.sessions import Session, session_name, session_named

OLD = Path(__file__).parent / "old_records" / "20261122-810af212e-capped-0002.json"  # the first ever committed
RECORD = records.read(OLD)
MACHINE = folder_name(RECORD.machine)
MONDAY = dt.datetime(2026, 3, 2, 4, 0, tzinfo=dt.UTC)
ROOT = Path(__file__).resolve().parents[2]
GIT = ("git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
LAST = metrics_named("completion_max")


def changed(seconds, *, seed=0, valid=True, commit=None, **scenario):
    """Return the small record with another last completion."""
    times = msgspec.structs.replace(RECORD.completion_time_s, max=seconds)
    return msgspec.structs.replace(
        RECORD, completion_time_s=times, rng_seed=seed, valid=valid, commit=commit,
        scenario=RECORD.scenario | {"rng_seed": seed} | scenario,
    )  # fmt: skip


def session(results, day, commit_id, seconds, *, dirty=False, **changes):
    """Write a session with a record for each of ``seconds``; return its folder."""
    commit = CodeVersion(id=commit_id, dirty=dirty)
    folder = results / MACHINE / session_name(MONDAY + dt.timedelta(days=day), commit)
    (folder / "records").mkdir(parents=True)
    for seed, value in enumerate(seconds):
        record = changed(value, seed=seed, commit=commit, **changes)
        (folder / "records" / f"capped-r{seed}.json").write_bytes(records.encode(record))
    return folder


def history_of(results, repository=Path("/"), metrics=LAST):
    return make_history(read_sessions(results, MACHINE), metrics, Commits.of(repository), source="test")


def git(repository, *arguments):
    done = subprocess.run(
        [*GIT, "-C", str(repository), *arguments], check=True, capture_output=True, text=True, timeout=20
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path):
    """Return a repository, and a function that commits nothing to it and returns the id."""
    folder = tmp_path / "code"
    folder.mkdir()
    git(folder, "init", "-q")
    numbers = count()

    def commit():
        git(folder, "commit", "-q", "--allow-empty", "-m", str(next(numbers)))
        return git(folder, "rev-parse", "HEAD")

    return folder, commit


# -- series ------------------------------------------------------------------------------------------------------------


def test_a_step_at_a_known_commit_is_told_as_that_commit(repository, tmp_path, capsys):
    """Thirty sessions, one of them an outlier; every second commit has a result."""
    folder, commit = repository
    rng = random.Random(7)
    ids = [commit() for _ in range(60)]
    for number in range(30):
        level = 2.0 * (1.05 if number >= 18 else 1.0) * (1.2 if number == 9 else 1.0)
        seconds = [level * rng.gauss(1, 0.01) for _ in range(3)]
        session(tmp_path / "results", number, ids[2 * number], seconds)
    made = history_of(tmp_path / "results", folder)
    (series,) = made.series
    assert len(series.points) == 30
    (change,) = series.changes
    assert (change.before_commit, change.after_commit) == (ids[34], ids[36])
    assert change.commits_between == 1
    assert change.direction == "worse"
    assert change.ratio == pytest.approx(1.05, abs=0.015)
    assert judge(made, within=12).exit_code == 1
    assert judge(made, within=11).exit_code == 0
    print_history(made)
    shown = capsys.readouterr().out
    assert f"worse at {ids[36][:9]}" in shown
    assert "1 commit between" in shown


def test_a_sessions_value_is_the_median_of_the_runs_that_count(tmp_path):
    """A run that kept the host busy measured the host; that it is left out must be said."""
    folder = session(tmp_path, 0, "a" * 40, [2.0, 2.2, 2.1])
    (folder / "records" / "invalid.json").write_bytes(records.encode(changed(9.0, seed=3, valid=False)))
    (series,) = history_of(tmp_path).series
    (point,) = series.points
    assert (point.value, point.min, point.max) == (2.1, 2.0, 2.2)
    assert (point.counted, point.runs) == (3, 4)
    assert any("3 of 4 runs count" in remark for remark in series.remarks)


def test_sessions_follow_the_commits_not_the_clock(repository, tmp_path):
    """Who measures an old commit today adds to the past; what git does not know comes after what was older."""
    folder, commit = repository
    ids = [commit() for _ in range(3)]
    session(tmp_path / "results", 0, ids[2], [3.0])
    session(tmp_path / "results", 1, "f" * 40, [4.0])
    session(tmp_path / "results", 2, ids[0], [1.0])
    session(tmp_path / "results", 3, ids[1], [2.0])
    session(tmp_path / "results", 4, ids[1], [2.5], dirty=True)
    (series,) = history_of(tmp_path / "results", folder).series
    assert [point.value for point in series.points] == [1.0, 2.0, 2.5, 3.0, 4.0]
    assert [point.label for point in series.points][1:3] == [ids[1][:9], ids[1][:9] + "*"]
    (series,) = history_of(tmp_path / "results", tmp_path).series
    assert [point.value for point in series.points] == [3.0, 4.0, 1.0, 2.0, 2.5]


def test_a_changed_scenario_is_another_series(tmp_path):
    """Twice the file takes twice the time and is no regression; another seed or time-out is the same work."""
    assert scenario_version(RECORD.scenario) == scenario_version(RECORD.scenario | {"rng_seed": 9, "timeout_s": 1.0})
    assert scenario_version(RECORD.scenario) == scenario_version(
        {key: value for key, value in RECORD.scenario.items() if key != "max_neighbours"}
    )
    session(tmp_path, 0, "a" * 40, [2.0])
    session(tmp_path, 1, "b" * 40, [4.0], file={"size_bytes": 16777216})
    made = history_of(tmp_path)
    old, new = sorted(made.series, key=lambda series: series.points[0].value)
    assert old.benchmark.partition("@")[0] == new.benchmark.partition("@")[0] == "capped-0002"
    assert f"its scenario is another one there, {new.benchmark}" in old.remarks[0]
    assert not old.absent
    assert new.remarks == []


def test_machines_are_never_mixed(tmp_path):
    """A record of another machine in the folder is a series of its own; of an unknown one those there are get named."""
    folder = session(tmp_path, 0, "a" * 40, [2.0])
    other = msgspec.structs.replace(RECORD, machine=msgspec.structs.replace(RECORD.machine, id="ffffffff"))
    (folder / "records" / "other.json").write_bytes(records.encode(other))
    assert len({series.machine for series in history_of(tmp_path).series}) == 2
    with pytest.raises(UsageError, match=f"there are {MACHINE}"):
        read_sessions(tmp_path, "pdp-11")


def test_every_metric_of_a_swarm_has_a_series_and_unknown_ones_are_named(tmp_path):
    """What cannot be asked for must not look as if there were nothing."""
    session(tmp_path, 0, "a" * 40, [2.0])
    made = history_of(tmp_path, metrics=metrics_named("all"))
    assert {series.metric for series in made.series} == set(made.metrics) - {TIME.key}
    with pytest.raises(UsageError, match=r"there is no metric speed; there are completion_p50, .*, and all"):
        metrics_named("speed")


def test_of_rates_less_is_worse():
    """A tracker that answers a tenth less has become worse."""
    sessions = [Session(str(day), MONDAY + dt.timedelta(days=day)) for day in range(12)]
    rates = [1000.0] * 6 + [900.0] * 6
    found = Found()
    found.add([Reading(s, "m", "b", "e", {"rate": rate}) for s, rate in zip(sessions, rates, strict=True)])
    rate = Metric("rate", "requests", "1/s", larger_is_better=True)
    (series,) = make_history(found, (rate,), Commits(Path("/")), source="test").series
    assert [(change.at, change.direction) for change in series.changes] == [(6, "worse")]


def test_what_else_changed_stands_beside_a_shift():
    """A new kernel, or two sessions of one commit: the code need not be what made it slower."""
    commit = CodeVersion(id="a" * 40, dirty=False)
    sessions = [Session(str(day), MONDAY + dt.timedelta(days=day), commit) for day in range(12)]
    found = Found()
    for number, each in enumerate(sessions):
        new = number >= 6
        found.add([Reading(each, "m", "b", "Linux 7" if new else "Linux 6", {"time": 1.1 if new else 1.0})])
    (series,) = make_history(found, (TIME,), Commits(Path("/")), source="test").series
    (change,) = series.changes
    assert "one commit on both sides: not the code's doing" in change.remarks
    assert "the environment changed too: Linux 6 -> Linux 7" in change.remarks


# -- what is missing ---------------------------------------------------------------------------------------------------


def test_a_series_that_the_last_session_lacks_is_named(tmp_path):
    """A benchmark that crashes must not look as if it had not become slower."""
    for day in range(9):
        session(tmp_path, day, f"{day:040x}", [2.0])
    session(tmp_path, 9, "9" * 40, [5.0], name="other")
    made = history_of(tmp_path)
    series = next(series for series in made.series if series.benchmark.startswith("capped"))
    assert series.remarks == [f"is missing in the last session ({made.sessions[-1]}): it did not run"]
    assert series.missing == [made.sessions[-1]]
    judgement = judge(made)
    assert judgement.exit_code == 4
    assert "completion_max of capped-0002" in judgement.unknown[0]


def test_a_last_session_without_a_valid_run_or_without_any_is_missing_too(tmp_path):
    """An empty folder is a suite that died."""
    for day in range(9):
        session(tmp_path, day, f"{day:040x}", [2.0])
    session(tmp_path, 9, "9" * 40, [2.0, 2.0], valid=False)
    assert "0 of 2 runs count" in history_of(tmp_path).series[0].remarks[0]
    session(tmp_path, 10, "a" * 40, [])
    made = history_of(tmp_path)
    assert "it did not run" in made.series[0].remarks[0]
    assert judge(made).exit_code == 4
    (tmp_path / MACHINE / made.sessions[-1] / "load.json").write_text('{"kind": "load"}')
    assert len(history_of(tmp_path).sessions) == 10, "a session of load tests alone is none of swarms"


def test_the_first_records_are_read_and_newer_ones_are_left_out_by_name(tmp_path, capsys):
    """A history is as long as its oldest file can be read, and one file of tomorrow must not end it."""
    assert RECORD.peers[1].order == [], "a key of later records"
    folder = session(tmp_path, 0, "a" * 40, [2.0])
    (folder / "records" / "old.json").write_bytes(OLD.read_bytes())
    (folder / "records" / "newer.json").write_text('{"schema_version": 99, "scenario": {"name": "x"}}')
    (folder / "records" / "torn.json").write_text('{"schema_version": 1, "scen')
    (folder / "records" / ".half.json.7.partial").write_text("{")
    (folder / "notes.json").write_text("[1, 2]")
    made = history_of(tmp_path)
    (series,) = [series for series in made.series if series.points[0].runs == 2 or len(made.series) == 1]
    assert sum(point.counted for point in series.points) == 2
    assert len(made.left_out) == 2
    print_history(made)
    shown = capsys.readouterr().out
    assert "2 files were left out:" in shown
    assert "newer.json: schema_version is 99" in shown
    assert "torn.json" in shown


def test_too_few_sessions_are_nothing_to_judge(tmp_path):
    """A scheduled job that never had data must not be green."""
    for day in range(7):
        session(tmp_path, day, f"{day:040x}", [2.0])
    judgement = judge(history_of(tmp_path))
    assert judgement.exit_code == 4
    assert "8 sessions" in judgement.unknown[0]


def test_a_series_that_ended_long_ago_is_no_answer(tmp_path):
    """The scenario changed, and its new version has too few sessions: nothing is judged, however slow it became."""
    for day in range(10):
        session(tmp_path, day, f"{day:040x}", [2.0])
    for day in range(10, 17):
        session(tmp_path, day, f"{day:040x}", [9.0], max_neighbours=7)
    judgement = judge(history_of(tmp_path))
    assert judgement.exit_code == 4
    assert judgement.unknown == ["nothing to judge: 8 sessions of a series are needed, the longest has 7"]


def test_a_small_step_back_does_not_make_good_for_a_fall(tmp_path):
    """The newest shift is for the better; the level is still a third worse than before both."""
    for day in range(24):
        session(tmp_path, day, f"{day:040x}", [2.0 if day < 12 else 3.0 if day < 18 else 2.7])
    made = history_of(tmp_path)
    assert [change.direction for change in made.series[0].changes] == ["worse", "better"]
    (told,) = judge(made, within=12).regressions
    assert told.endswith(f"+35.0% over its last 2 shifts, worse at {12:040x}")
    assert judge(made, within=11).exit_code == 0, "of the last eleven only the shift for the better is one"


# -- pytest-benchmark --------------------------------------------------------------------------------------------------


def benchmark_file(path, day, commit_id, **medians):
    path.parent.mkdir(parents=True, exist_ok=True)
    told = {
        "machine_info": {"node": "vm", "cpu": {"brand_raw": "AMD EPYC", "count": 2}, "system": "Linux", "release": "6"},
        "commit_info": {"id": commit_id, "dirty": False},
        "datetime": (MONDAY + dt.timedelta(days=day)).isoformat(),
        "benchmarks": [
            {"fullname": f"bench.py::{name}", "stats": {"median": value}, "extra_info": {"makespan_s": [1]}}
            for name, value in medians.items()
        ],
    }
    path.write_text(json.dumps(told))


def test_a_sessions_benchmarks_have_a_history_of_their_medians(tmp_path):
    """The small things too: what a picker's decision costs, under the commit of the folder's other results."""
    folder = session(tmp_path, 0, "a" * 40, [2.0], dirty=True)
    benchmark_file(folder / "benchmark.json", 0, "a" * 40, bench_pick=0.001)
    made = history_of(tmp_path, metrics=(*LAST, TIME))
    swarm, timing = sorted(made.series, key=lambda series: series.metric)
    assert (timing.benchmark, timing.metric, timing.points[0].value) == ("bench.py::bench_pick", "time", 0.001)
    assert timing.points[0].commit == swarm.points[0].commit == CodeVersion(id="a" * 40, dirty=True)


def test_names_are_shown_as_they_are(tmp_path, capsys):
    """Parameters of tests stand in brackets, which a terminal's markup would swallow, or choke on."""
    names = ("test_a[rarest]", "test_a[/tmp/x]", "test_a[bold]")
    for number in range(12):
        times = dict.fromkeys(names, 0.5 if number < 6 else 0.7)
        benchmark_file(tmp_path / f"{number:04d}_x.json", number, f"{number:040x}", **times)
    print_history(make_history(read_benchmarks([tmp_path]), (TIME,), Commits(Path("/")), source="[/x]"))
    shown = capsys.readouterr().out
    assert "[/x]: time" in shown
    for name in names:
        assert shown.count(f"bench.py::{name}") == 2, "in the table, and where its shift is told"


def test_the_storage_of_pytest_benchmark_is_read_where_it_lies(tmp_path):
    """Projects that have years of it need not measure again; each file is a session."""
    storage = tmp_path / ".benchmarks" / "Linux-CPython-3.11-64bit"
    for number in range(12):
        slower = 1.2 if number >= 8 else 1.0
        benchmark_file(storage / f"{number:04d}_x.json", number, f"{number:040x}", a=0.5 * slower, b=0.25)
    (storage / "torn.json").write_text("{")
    found = read_benchmarks([storage])
    made = make_history(found, (TIME,), Commits(Path("/")), source="storage")
    slow, same = made.series
    assert [(change.at, change.direction) for change in slow.changes] == [(8, "worse")]
    assert same.changes == []
    assert len(made.left_out) == 1
    assert slow.machine == "amd-epyc-2c-vm"
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no files"):
        read_benchmarks([tmp_path / "empty"])


# -- session folders ---------------------------------------------------------------------------------------------------


def test_processes_that_start_at_once_get_folders_of_their_own(tmp_path):
    """Two suites in one folder would be one session with twice the runs, half of them overwritten."""
    code = (
        "import sys, pathlib; from minibit.regression.sessions import new_session;"
        "sys.stdin.readline(); print(*[new_session(pathlib.Path(sys.argv[1])).name for _ in range(5)])"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]  # fmt: skip
    for process in started:
        process.stdin.write("go\n")
        process.stdin.flush()
    told = [process.communicate(timeout=60)[0].split() for process in started]
    assert all(process.returncode == 0 for process in started)
    names = [name for names in told for name in names]
    assert len(set(names)) == len(names) == 20
    (machine,) = tmp_path.iterdir()
    assert {path.name for path in machine.iterdir()} == {*names, "machine.json"}
    assert all(session_named(name) for name in names)
    assert (
        folder_name(msgspec.json.decode((machine / "machine.json").read_bytes(), type=records.Machine)) == machine.name
    )


@pytest.mark.parametrize(
    ("name", "commit"),
    [
        ("20261123T160407Z-338f60a32", CodeVersion(id="338f60a32", dirty=False)),
        ("20261123T160407Z-338f60a32-dirty-2", CodeVersion(id="338f60a32", dirty=True)),
        ("20261123T160407Z-eb40ff6aa-load", CodeVersion(id="eb40ff6aa", dirty=False)),
        ("20261123T160407Z-unknown", None),
    ],
)
def test_a_folders_name_tells_time_and_commit(name, commit):
    """Results that hold no commit are put in their place by it."""
    found = session_named(name)
    assert found.commit == commit
    assert found.time == dt.datetime(2026, 11, 23, 16, 4, 7, tzinfo=dt.UTC)


@pytest.mark.parametrize("name", ["notes", "20261323T160407Z-338f60a32", "20261123T160407Z"])
def test_other_folders_are_no_sessions(name):
    """A folder of notes beside the sessions is not a session without results."""
    assert session_named(name) is None


# -- the command -------------------------------------------------------------------------------------------------------


def minibit_history(folder, *arguments):
    environment = {key: value for key, value in os.environ.items() if key != "MINIBIT_RESULTS"}
    command = [str(Path(sys.executable).with_name("minibit")), "history", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, check=False, capture_output=True, text=True, timeout=60
    )  # fmt: skip


def test_the_command_prints_draws_and_decides(tmp_path):
    """What a scheduled job sees: the shift, the pictures, exit code 1; and 4 where there is nothing to judge."""
    for day in range(12):
        session(tmp_path / "results", day, f"{day:040x}", [2.2 if day >= 7 else 2.0])
    chosen = ["--machine", MACHINE]
    done = minibit_history(tmp_path, *chosen, "-o", "plots", "--fail-on-regression")
    assert done.returncode == 1, done.stderr
    assert "+10.0% worse at 000000000" in done.stdout
    assert "worse: completion_max of capped-0002" in done.stderr
    assert (tmp_path / "plots" / "history.png").stat().st_size > 5000
    assert (tmp_path / "plots" / "history.svg").stat().st_size > 5000
    told = json.loads(minibit_history(tmp_path, *chosen, "--json").stdout)
    assert told["series"][0]["changes"][0]["at"] == 7
    assert told["judgement"]["exit_code"] == 1
    assert minibit_history(tmp_path, *chosen, "--fail-on-regression", "--at-least", "20%").returncode == 0
    done = minibit_history(tmp_path, *chosen, "speed")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    done = minibit_history(tmp_path, "--results", "nowhere", "--fail-on-regression")
    assert done.returncode == 4
    assert "nowhere has no sessions" in done.stderr
    assert minibit_history(tmp_path, "--results", "nowhere").returncode == 2


def test_a_picture_says_what_it_leaves_out(tmp_path):
    """Twelve panels are legible; a thirteenth series must not vanish in silence."""
    for day in range(3):
        folder = session(tmp_path / "results", day, f"{day:040x}", [])
        for number in range(14):
            record = changed(2.0 + number, name=f"swarm-{number}")
            (folder / "records" / f"{number}.json").write_bytes(records.encode(record))
    made = history_of(tmp_path / "results")
    assert [series.benchmark.partition("@")[0] for series in made.series] == [f"swarm-{number}" for number in range(14)]
    files = draw_history(made, tmp_path / "history")
    assert all(path.stat().st_size > 5000 for path in files)
    empty = msgspec.structs.replace(made, series=[])
    with pytest.raises(UsageError, match="nothing to draw"):
        draw_history(empty, tmp_path / "none")
