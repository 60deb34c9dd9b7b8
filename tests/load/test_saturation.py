"""The search for the highest rate that is borne, against targets whose saturation is known; and the real command."""

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import psutil
import pytest
from made_up import LIMITS, Target

from minibit.errors import MiniBitError, UsageError
from minibit.load.drive import drive, drive_in_turn, drive_locust
from minibit.load.embedded import Embedded
from minibit.load.generator import Plan
from minibit.load.sampler import Sampler
from minibit.load.saturate import Subject, read, saturate, summary, write
from minibit.load.saturation import search


@pytest.mark.parametrize("capacity", [400, 3000, 26_000])
def test_the_saturation_is_found_within_the_precision(capacity):
    """Whatever the closed loop said."""
    target = Target(capacity)
    found = search(target, precision=0.05)
    assert capacity / 1.06 <= found.borne_per_s <= capacity
    assert capacity < found.broke_per_s <= capacity * 1.06
    assert found.bound_by == "target"
    assert found.closed_loop.rate_per_s == pytest.approx(capacity, rel=0.01)
    assert len(target.asked) < 35


def test_noise_moves_the_result_no_further_than_itself():
    """Each rate is decided by a majority: one slow minute of the machine must not halve the figure."""
    found = [search(Target(3000, noise=0.08), repeats=3, curve=False).borne_per_s for _ in range(10)]
    assert all(0.8 * 3000 < borne < 1.2 * 3000 for borne in found)


def test_a_majority_decides_and_no_more_trials_are_made_than_it_needs():
    """Two of three; a rate that holds twice is not tried again."""
    target = Target(3000)
    found = search(target, repeats=3, curve=False)
    tries = [sum(trial.rate_per_s == rate for trial in found.trials) for rate in {t.rate_per_s for t in found.trials}]
    assert set(tries) == {2}
    assert {sum(r == rate for r in target.asked) for rate in target.asked if rate} == {2}


def test_the_curve_goes_below_and_beyond_the_saturation():
    """What happens at 120 % is why one measures."""
    found = search(Target(3000))
    rates = [trial.rate_per_s / found.borne_per_s for trial in found.trials]
    assert min(rates) == pytest.approx(0.25, rel=0.06)
    assert max(rates) >= 1.2 * 0.94
    assert rates == sorted(rates)


def test_a_generator_at_its_end_is_not_taken_for_the_target():
    """It says so, and that the target may bear more."""
    found = search(Target(3000, generator_bears=2000), curve=False)
    assert found.bound_by == "generator"
    assert "THE GENERATOR WAS THE BOUND" in summary(found)
    assert "THE GENERATOR" not in summary(search(Target(3000), curve=False))


def test_a_target_that_answers_nothing_is_said_so():
    """An empty plot and exit code 0 would be a lie."""
    with pytest.raises(MiniBitError, match="nothing was answered"):
        search(Target(0))


def test_errors_break_a_rate_too():
    """Fast refusals are no service."""
    found = search(Target(3000, errors=0.01), curve=False)
    assert found.borne_per_s is None
    assert all("errors" in trial.broke[0] for trial in found.trials if trial.rate_per_s > 100)
    assert summary(found).startswith("no rate was borne")


def test_a_failing_generator_is_one_line(tmp_path):
    """Its own traceback is nobody's business."""
    with pytest.raises(MiniBitError, match=r"a load generator failed: .*torrent"):
        drive(Plan(url="http://127.0.0.1:1", kind="peer", seed=1, torrent=str(tmp_path / "no.torrent")))
    with pytest.raises(MiniBitError, match="address"):
        drive(Plan(url="ftp://x", kind="tracker", seed=1))


def test_two_generators_share_the_rate_and_play_different_swarms():
    """One result, as if it were one."""
    with Embedded("tracker") as target:
        result = drive(
            Plan(url=target.url, kind="tracker", seed=1, rate_per_s=300, seconds=2, warm_up_s=0.5), processes=2
        )
    assert result.processes == len(result.seen.generators) == 2
    assert result.errors == 0
    assert result.answered == pytest.approx(600, abs=3)


def test_the_sampler_sees_what_a_process_uses():
    """A child that computes for half a second, beside one that sleeps."""
    code = (
        "import time; end = time.monotonic() + 0.7\n"
        "while time.monotonic() < end: pass\n"
        "files = [open('/dev/null') for _ in range(50)]; time.sleep(5)"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        with Sampler(process.pid) as sampler:
            deadline = psutil.Process(process.pid)
            while deadline.num_fds() < 50:
                pass
            sampler._stop.wait(0.5)
    finally:
        process.kill()
        process.wait()
    assert 0.1 < sampler.use.cpu_cores < 1.1
    assert sampler.use.open_files >= 50
    assert sampler.use.threads == 1
    assert sampler.use.rss_bytes > 1_000_000
    assert sampler.use.queue_depth is None


@pytest.mark.parametrize(
    ("subject", "options"),
    [
        (Subject(url="http://127.0.0.1:1"), {"registered": [10]}),
        (Subject(what="peer"), {"threads": [1]}),
        (Subject(what="peer", url="http://127.0.0.1:1"), {}),
        (Subject(url="http://127.0.0.1:1", pid=2**22 + 1), {}),
        (Subject(pid=1), {}),
        (Subject(), {"repeats": 2}),
    ],
)
def test_what_does_not_fit_together_is_refused(subject, options):
    """Before anything is started."""
    with pytest.raises(UsageError):
        saturate(subject, Plan(url="", kind=subject.what, seed=1), LIMITS, **options)


def saturate_command(tmp_path, *arguments):
    return subprocess.run(
        [str(Path(sys.executable).with_name("minibit")), "saturate", "-o", str(tmp_path / "out"), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
        env={**os.environ, "COLUMNS": "150"},
    )


def test_the_command_ends_in_a_figure_a_record_and_a_plot(tmp_path):
    """A limit that the lowest rates break ends the search soon; the record reads back."""
    done = saturate_command(tmp_path, "--seconds", "0.4", "--warm-up", "0.1", "--repeats", "1", "--p99", "1s")
    assert done.returncode == 0, done.stderr
    assert "is borne" in done.stdout
    assert "open files" in done.stdout
    record = read(tmp_path / "out" / "saturation.json")
    assert record.found[0].borne_per_s > 300
    assert record.found[0].trials[0].server.threads >= 2
    assert record.limits.latency_s == 1.0
    assert (tmp_path / "out" / "saturation.png").stat().st_size > 10_000
    write(record, tmp_path / "again.json")
    assert json.loads((tmp_path / "again.json").read_text()) == json.loads(
        (tmp_path / "out" / "saturation.json").read_text()
    )
    assert not [child for child in psutil.Process().children(recursive=True) if child.is_running()]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--p99", "5"), "is not a duration"),
        (("--errors", "5"), "is not a share"),
        (("--allow", "everything"), "--allow everything: there are caller"),
        (("--host", "http://127.0.0.1:1", "--registered", "5"), "leave out --host"),
        (("peer", "--threads", "5"), "are of a tracker"),
        (("peer", "--protocol", "bep3"), "are of a tracker"),
        (("--repeats", "2"), "must be odd"),
        (("peer", "--block-size", "3KiB"), "power of two"),
        (("peer", "--size", "x"), "is not a size"),
        (("--host", "ftp://x"), "must be an http:// address"),
        (("--host", "http://x:99999"), "is no address"),
        (("--host", "http://no.such.host.invalid:1"), "no.such.host.invalid: "),
    ],
)
def test_a_mistake_is_one_line(tmp_path, arguments, said):
    """And exit code 2."""
    done = saturate_command(tmp_path, *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_each_state_of_the_tracker_is_searched_by_itself(tmp_path):
    """More peers registered take more memory, and the threads asked for are there."""
    options = (
        "--seconds",
        "0.3",
        "--warm-up",
        "0.1",
        "--repeats",
        "1",
        "--p99",
        "1s",
        "--close",
        "--arrivals",
        "poisson",
    )
    done = saturate_command(tmp_path, *options, "--registered", "1,20000", "--threads", "1,6")
    assert done.returncode == 0, done.stderr
    found = read(tmp_path / "out" / "saturation.json").found
    assert [(each.registered, each.threads) for each in found] == [(1, 1), (1, 6), (20_000, 1), (20_000, 6)]
    resident = [max(trial.server.rss_bytes for trial in each.trials) for each in found]
    assert min(resident[2:]) > max(resident[:2]) + 5_000_000
    tested = found[0].trials[0].result
    assert tested.arrivals == "poisson"
    assert tested.options["close"] is True
    assert "20,000" in done.stdout


def test_locust_may_drive_the_search():
    """The same result as from the generator, with locust's name for its users."""
    with Embedded("tracker") as target:
        plan = Plan(url=target.url, kind="tracker", seed=5, rate_per_s=100, seconds=2, warm_up_s=0.5, connections=10)
        result = drive_locust(plan)
    assert result.errors == 0
    assert result.seen.duration_s >= 1.5  # two seconds, but for what a busy machine takes to end it
    assert result.planned == pytest.approx(100 * result.seen.duration_s, abs=5)
    assert result.answered + result.missed == pytest.approx(result.planned, abs=5)
    assert result.answered > 0
    assert (result.users, result.seed, result.arrival_rate_per_s) == (10, 5, 100)


def test_two_targets_take_turns():
    """Only one sends at any moment, so that each gets the whole machine: half of the time, at its own full rate."""
    with Embedded("tracker") as one, Embedded("tracker") as other:
        plans = [
            Plan(url=target.url, kind="tracker", seed=5, seconds=1.6, warm_up_s=0.4, connections=8, tidy_up=False)
            for target in (one, other)
        ]
        results = drive_in_turn(plans)
    for result in results:
        assert result.errors == 0
        assert result.answered > 100
        assert 0.4 <= result.seen.duration_s <= 1.3
    assert sum(result.seen.duration_s for result in results) <= 1.8
    slow, fast = sorted(result.rate_per_s for result in results)
    assert fast < 2 * slow


def test_only_closed_loops_of_one_length_take_turns():
    """A schedule does not wait for its turn, and who has longer would be alone at the end."""
    plan = Plan(url="http://127.0.0.1:1", kind="tracker", seed=5)
    for other in (
        msgspec.structs.replace(plan, rate_per_s=10.0),
        msgspec.structs.replace(plan, seconds=plan.seconds + 1),
    ):
        with pytest.raises(ValueError, match="only closed loops of one length"):
            drive_in_turn([plan, other])
