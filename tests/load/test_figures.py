"""Latencies, schedules, windows and thresholds of load tests."""

import itertools
import math
import random
import time

import pytest
from made_up import result_of, seen_of

from minibit.errors import RecordError, UsageError
from minibit.load import screen
from minibit.load.latency import Latency
from minibit.load.measurement import Measurement, decoded, merged, plain, together
from minibit.load.result import Threshold, failures, read, write
from minibit.load.schedule import Crowd, Schedule


def test_a_histogram_reads_back_to_a_thousandth():
    """It must not round to milliseconds, as locust's own figures do."""
    rng = random.Random(1)
    values = sorted(rng.lognormvariate(-7, 1) for _ in range(20_000))
    latency = Latency()
    for value in values:
        latency.record(value)
    for percentile in (50, 90, 99, 99.9):
        exact = values[math.ceil(len(values) * percentile / 100) - 1]
        assert latency.at(percentile) == pytest.approx(exact, rel=2e-3, abs=1.1e-6)
    assert latency.mean == pytest.approx(sum(values) / len(values), rel=5e-3)


def test_histograms_of_several_processes_merge_exactly():
    """Percentiles cannot be averaged; counts can be added."""
    halves, whole = [Latency(), Latency()], Latency()
    for number in range(1, 10_001):
        halves[number % 2].record(number * 1e-5)
        whole.record(number * 1e-5)
    joined = Latency()
    joined.add(halves[0])
    joined.add(halves[1].encoded())
    assert joined.percentiles() == whole.percentiles()
    assert len(joined) == 10_000


def test_extremes_are_kept_and_nothing_is_lost():
    """A stall of hours is a figure too."""
    latency = Latency()
    latency.record(0.0)
    latency.record(1e9)
    assert len(latency) == 2
    assert latency.at(0) == 1e-6
    assert latency.at(100) == pytest.approx(3600, rel=1e-3)
    assert Latency().at(99) == Latency().mean == 0.0


def test_a_schedule_does_not_depend_on_when_it_is_asked():
    """That is what makes a loop open."""
    schedule = Schedule(100.0)
    assert [schedule.take() for _ in range(3)] == pytest.approx([0.0, 0.01, 0.02])
    assert schedule.next_s == pytest.approx(0.03)


def test_poisson_arrivals_have_the_rate_and_the_spread():
    """Independent users: the gaps have mean and deviation of 1/rate; the same seed gives the same ones."""
    schedule = Schedule(1000.0, arrivals="poisson", seed=3)
    times = [schedule.take() for _ in range(20_000)]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    mean = sum(gaps) / len(gaps)
    deviation = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps))
    assert mean == pytest.approx(1e-3, rel=0.05)
    assert deviation == pytest.approx(1e-3, rel=0.05)
    again = Schedule(1000.0, arrivals="poisson", seed=3)
    assert times[:100] == [again.take() for _ in range(100)]


def test_a_crowd_multiplies_the_arrivals_while_it_is_there():
    """Ten seconds at 10/s and, from the fourth to the sixth, at 100/s."""
    schedule = Schedule(10.0, factor_at=Crowd(factor=10, at_s=4, for_s=2).factor_at)
    times = []
    while schedule.next_s < 10:
        times.append(schedule.take())
    assert sum(4 <= at < 6 for at in times) == pytest.approx(200, abs=2)
    assert len(times) == pytest.approx(280, abs=3)


def test_only_what_was_to_begin_in_the_window_counts():
    """Neither the warm-up nor what came after the end; latency runs from the intended beginning."""
    measured = Measurement(10.0, 20.0, open_loop=True)
    measured.answered("a", 9.9, 9.9, 10.5)
    measured.answered("a", 10.0, 10.4, 10.5)
    measured.answered("a", 20.0, 20.0, 20.1)
    measured.failed("a", 12.0, "no answer", "refused")
    measured.failed("a", 5.0, "no answer")
    for number in (9, 11, 12, 21):
        measured.sent(float(number))
        measured.missed(float(number))
    measured.end(30.0)
    seen = measured.seen()
    counted = seen.requests["a"]
    assert (counted.answered, counted.errors) == (1, {"no answer": 1})
    assert decoded(counted.latency).at(50) == pytest.approx(0.5, rel=1e-3)
    assert decoded(counted.service).at(50) == pytest.approx(0.1, rel=1e-3)
    assert (seen.generators[0].sent, seen.generators[0].missed) == (2, 2)
    assert seen.duration_s == 10.0
    assert seen.examples == {"no answer": "a: refused"}


def test_an_early_end_shortens_the_window():
    """Ctrl-C: rates are per second that was measured."""
    measured = Measurement(10.0)
    measured.answered("a", 11.0, 11.0, 11.1)
    measured.end(15.0)
    measured.end(99.0)
    assert measured.seen().duration_s == 5.0
    never = Measurement(10.0)
    never.end(3.0)
    assert never.seen().duration_s == 0.0


def test_the_generator_knows_its_own_processor_time():
    """Else its own limit would pass for the target's."""
    begins_s = time.perf_counter()
    measured = Measurement(begins_s)
    measured.sent(begins_s)
    while time.perf_counter() < begins_s + 0.2:
        pass
    measured.end(time.perf_counter())
    assert 0.05 < measured.seen().generators[0].cpu_s < 0.4


@pytest.mark.parametrize(
    ("text", "fails"),
    [
        ("p50>9ms", True),
        ("p50>11ms", False),
        ("p99>0.05s", True),
        ("p99.9>200ms", False),
        ("max>=100000us", True),
        ("mean<9ms", False),
        ("errors>0", True),
        ("errors > 1%", False),
        ("errors>0.5%", True),
        ("missed>9", True),
        ("missed>10%", False),
        ("rate<100", True),
        ("rate<5", False),
    ],
)
def test_thresholds_decide(text, fails):
    """90 requests of 10 ms, 9 of 100 ms, one refused, ten never sent, in ten seconds."""
    result = result_of(seen_of([0.01] * 90 + [0.1] * 9, errors=1, missed=10))
    failed = failures(result, [Threshold.parse(text)])
    assert bool(failed) is fails
    if fails:
        assert failed[0].startswith(text)


@pytest.mark.parametrize(
    "text", ["", "p99", "p98>1ms", "p99>20", "p99>1%", "errors>1ms", "rate<5%", "p99=5ms", "errors>-1"]
)
def test_a_threshold_that_makes_no_sense_is_refused(text):
    """A threshold that never fires is a check that cannot fail."""
    with pytest.raises(UsageError, match="is not a threshold"):
        Threshold.parse(text)


def test_a_test_without_answers_fails_whatever_the_thresholds():
    """Zero requests have zero errors."""
    assert failures(result_of(seen_of([])), []) == ["nothing was answered"]


def test_processes_merge_into_one_result(tmp_path):
    """Counts add, the worst generator is the one that counts, and the file reads back."""
    busy = seen_of([0.3] * 10, errors=2, missed=1, cpu=True, delay_s=0.05)
    result = result_of(seen_of([0.1] * 30), busy)
    assert (result.answered, result.errors, result.missed, result.planned) == (40, 2, 1, 43)
    assert result.latency().at(50) == pytest.approx(0.1, rel=1e-3)
    assert result.latency().at(99) == pytest.approx(0.3, rel=1e-3)
    assert len(result.generator_was_the_bound) == 2
    assert result_of(seen_of([0.1])).generator_was_the_bound == []
    write(result, tmp_path / "deep" / "result.json")
    assert read(tmp_path / "deep" / "result.json") == result
    text = "\n".join(screen.remarks(result))
    assert "THE GENERATOR WAS THE BOUND" in text
    assert "1 of them never sent" in text


def test_results_cross_process_borders_as_plain_types():
    """Locust's messages know nothing of our structs."""
    seen = seen_of([0.1])
    assert isinstance(plain(seen)["requests"]["/x"]["latency"], str)
    assert together(*seen.requests.values()).answered == 1
    with pytest.raises(ValueError, match="no process"):
        merged([])


@pytest.mark.parametrize("text", ["", "{}", '{"kind": "swarm"}', "[1]"])
def test_a_file_that_is_no_result_is_refused_in_one_line(tmp_path, text):
    """It names the file."""
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(RecordError, match=r"x\.json is not a result"):
        read(tmp_path / "x.json")
