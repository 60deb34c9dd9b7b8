"""``minibit show``: every kind of stored result on the terminal again."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from made_up import Target, result_of, seen_of

from minibit.analysis.show import show_results
from minibit.errors import RecordError
from minibit.load import abuse, result, saturate
from minibit.load.measurement import Slice
from minibit.load.saturation import Limits, SaturationRecord, search
from minibit.provenance import describe_machine


def test_load_tests_are_shown_alone_or_side_by_side(tmp_path, capsys):
    """One with its requests, several in a row each."""
    paths = [tmp_path / "ours.json", tmp_path / "theirs.json"]
    for path in paths:
        result.write(result_of(seen_of([0.01] * 100, errors=1)), path)
    show_results(paths[:1])
    assert "status 503" in (alone := capsys.readouterr().out)
    assert "100" in alone
    show_results(paths)
    together = capsys.readouterr().out
    assert "ours" in together
    assert "theirs" in together


def test_saturations_and_abuses_are_shown(tmp_path, capsys):
    """As they were when they were found."""
    limits = Limits(latency_s=0.05)
    found = search(Target(3000), curve=False)
    record = SaturationRecord(
        what="tracker rest", driver="minibit", limits=limits, started_at="", machine=describe_machine(), commit=None,
        found=[found],
    )  # fmt: skip
    saturate.write(record, tmp_path / "saturation.json")
    show_results([tmp_path / "saturation.json"])
    assert "is borne" in capsys.readouterr().out
    phase = abuse.Phase(100, 0, 0.001, 0.0042, 0.01)
    one = abuse.Abuse(
        name="idle", what="5 sockets", begins_s=1, ends_s=2, before=phase, during=phase, after=phase, recovery_s=None,
        errors={}, timeline=[Slice(0.0, [1])],
    )  # fmt: skip
    abused = abuse.AbuseRecord(
        server="waitress",
        protocol="rest",
        course=abuse.Course(),
        started_at="",
        machine=describe_machine(),
        commit=None,
        found=[one],
    )
    abuse.write(abused, tmp_path / "abuse.json")
    show_results([tmp_path / "abuse.json"])
    shown = capsys.readouterr().out
    assert "4.2" in shown
    assert "never" in shown


@pytest.mark.parametrize("text", ["", "[]", '{"kind": "poem"}', '{"kind": "load"}', "\xff", '{"kind": "abuse"}', "{}"])
def test_what_is_no_result_is_refused_by_name(tmp_path, text):
    """A folder full of JSON has all sorts."""
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(RecordError, match=r"x\.json"):
        show_results([path])


def test_the_command_shows_a_swarms_record(tmp_path):
    """The record of ``minibit swarm --json`` as its summary."""
    minibit = str(Path(sys.executable).with_name("minibit"))
    arguments = ["swarm", "--peers", "1", "--size", "100kB", "--json", "run.json"]
    subprocess.run([minibit, *arguments], cwd=tmp_path, check=True, capture_output=True, timeout=60)
    environment = {**os.environ, "COLUMNS": "120"}
    done = subprocess.run(
        [minibit, "show", "run.json"],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert "makespan" in done.stdout
    done = subprocess.run([minibit, "show", "none.json"], cwd=tmp_path, check=False, capture_output=True, timeout=60)
    assert done.returncode == 2
