"""``minibit show``: every kind of stored result on the terminal again."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from made_up import Target, result_of, seen_of

from minibit.analysis.show import show_results
from minibit.cli.results import show
from minibit.errors import RecordError, UsageError
from minibit.load import abuse, result, saturate
from minibit.load.measurement import Slice
from minibit.load.saturation import Limits, SaturationRecord, search
from minibit.provenance import describe_machine
from minibit.regression import comparison
from minibit.regression.comparison import Compared, Comparison, SideRecord, Workload
from minibit.regression.evidence import judge


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


# -- for other programs ------------------------------------------------------------------------------------------------

OLD_RECORD = Path(__file__).resolve().parents[1] / "regression" / "old_records" / "20261122-810af212e-capped-0002.json"


def csv_of(capsys):
    return list(csv.DictReader(capsys.readouterr().out.splitlines()))


def a_comparison():
    """Make two metrics of seven pairs each; the one that raised an alarm has fresh pairs."""
    base, head = [1.0] * 7, [1.1] * 7
    evidence = judge([1.1] * 7)
    plain = Compared(
        workload="swarm", key="completion_max", title="completion time, last", unit="s", larger_is_better=False,
        base=base, head=head, evidence=evidence, fresh_base=[2.0] * 7, fresh_head=[2.2] * 7, confirmation=evidence,
    )  # fmt: skip
    side = SideRecord(given="HEAD~1", python="CPython 3.11")
    return Comparison(
        started_at="2026-01-01T00:00:00+00:00", machine=describe_machine(), base=side, head=side, rng_seed=1,
        budget_s=60.0, elapsed_s=50.0, workloads=[Workload(name="swarm", kind="swarm", pairs=14)],
        metrics=[plain, msgspec.structs.replace(plain, key="pss", confirmation=None, head=[0.9] * 7)],
        verdict=evidence.verdict,
    )  # fmt: skip


def test_a_swarm_is_one_object_and_one_row(capsys):
    """A spreadsheet and a script get the figures without knowing the record; the record's peers stay where they are."""
    show_results([OLD_RECORD], "json")
    told = json.loads(capsys.readouterr().out)
    assert (told["kind"], told["leechers"], told["seeds"], told["valid"]) == ("swarm", 2, 1, True)
    assert told["makespan_over_larger_bound"] == pytest.approx(told["makespan_s"] / told["store_and_forward_bound_s"])
    assert "peers" not in told
    show_results([OLD_RECORD, OLD_RECORD], "json")
    assert len(json.loads(capsys.readouterr().out)) == 2
    show_results([OLD_RECORD, OLD_RECORD], "csv")
    rows = csv_of(capsys)
    assert len(rows) == 2
    assert float(rows[0]["completion_max_s"]) == told["completion_max_s"]
    assert rows[0]["received_bytes"] == rows[0]["useful_bytes"]
    assert rows[0]["size_bytes"] == "8388608"


def test_load_tests_are_rows_of_their_table(tmp_path, capsys):
    """What stands side by side on the screen stands so in a file, in seconds instead of milliseconds."""
    result.write(result_of(seen_of([0.01] * 100, errors=1)), tmp_path / "ours.json")
    show_results([tmp_path / "ours.json"], "csv")
    (row,) = csv_of(capsys)
    assert float(row["p99_s"]) == pytest.approx(0.01, rel=0.01)
    assert row["errors"] == "1"
    assert row["loop"].startswith("open loop")
    with pytest.raises(UsageError, match="load and swarm"):
        show_results([tmp_path / "ours.json", OLD_RECORD], "csv")
    show_results([tmp_path / "ours.json", OLD_RECORD], "json")
    assert [each["kind"] for each in json.loads(capsys.readouterr().out)] == ["load", "swarm"]


def test_a_comparison_is_shown_and_has_a_row_for_each_metric(tmp_path, capsys):
    """Its rows say on what the verdict rests: the fresh pairs where there are some."""
    comparison.write(a_comparison(), tmp_path / "comparison.json")
    show_results([tmp_path / "comparison.json"])
    assert "completion time, last" in capsys.readouterr().out
    show_results([tmp_path / "comparison.json"], "csv")
    confirmed, plain = csv_of(capsys)
    assert (confirmed["metric"], float(confirmed["base_median"]), float(confirmed["head_median"])) == (
        "completion_max", 2.0, 2.2
    )  # fmt: skip
    assert (plain["metric"], float(plain["base_median"]), float(plain["head_median"])) == ("pss", 1.0, 0.9)
    assert confirmed["verdict"] in {"regressed", "inconclusive"}
    show_results([tmp_path / "comparison.json"], "json")
    told = json.loads(capsys.readouterr().out)
    assert told["base"]["given"] == "HEAD~1"
    assert [metric["metric"] for metric in told["metrics"]] == ["completion_max", "pss"]


def test_of_a_folder_all_results_are_shown(tmp_path, capsys):
    """A session also holds what is no result, which is passed over; what is torn is not."""
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "a.json").write_bytes(OLD_RECORD.read_bytes())
    (tmp_path / "machine.json").write_text('{"cpu": "x"}')
    (tmp_path / "benchmark.json").write_text('{"benchmarks": [], "commit_info": {}}')
    (tmp_path / ".hidden.json").write_text("{")
    show_results([tmp_path], "csv")
    assert len(csv_of(capsys)) == 1
    (tmp_path / "torn.json").write_text('{"schema')
    with pytest.raises(RecordError, match=r"torn\.json"):
        show_results([tmp_path])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no results"):
        show_results([tmp_path / "empty"])


def test_one_form_at_a_time():
    """Of two contradicting wishes neither is granted in silence."""
    done = CliRunner().invoke(show, [str(OLD_RECORD), "--json", "--csv"])
    assert done.exit_code == 2
    assert "one of them" in done.output
