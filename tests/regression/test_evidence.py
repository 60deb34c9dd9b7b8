"""The rule that gives verdicts: its interval, its looks, and how often it errs."""

import itertools
import math
import random
import statistics

import pytest

from minibit.regression.evidence import (
    ALPHA,
    CONFIRMING_PAIRS_MIN,
    GATE,
    LOOK_LEVEL,
    LOOKS,
    RATIO_MAX,
    Verdict,
    confirming_level,
    deciding_look,
    first_decision,
    judge,
    median_interval,
    next_look,
    overall,
    ratio_of,
    verdict_on,
)

REGRESSED, PASSED, OPEN = Verdict.REGRESSED, Verdict.NOT_REGRESSED, Verdict.INCONCLUSIVE


@pytest.mark.parametrize(
    ("base", "head", "larger_is_better", "worse"),
    [
        (2.0, 3.0, False, 1.5),
        (2.0, 3.0, True, 2 / 3),
        (0.0, 0.0, False, 1.0),
        (0.0, 4.0, False, RATIO_MAX),
        (4.0, 0.0, False, 1 / RATIO_MAX),
        (4.0, 0.0, True, RATIO_MAX),
    ],
)
def test_a_ratio_above_one_is_worse(base, head, larger_is_better, worse):
    """Times and rates read the same way, and something out of nothing is no division by zero."""
    assert ratio_of(base, head, larger_is_better=larger_is_better) == pytest.approx(worse)


def test_the_interval_holds_that_of_the_bootstrap():
    """The closed form is what drawing with replacement gives; where that is too short, the interval is wider."""
    rng = random.Random(1)
    for count in (7, 15, 51):
        ratios = sorted(rng.lognormvariate(0, 0.1) for _ in range(count))
        medians = sorted(statistics.median(rng.choices(ratios, k=count)) for _ in range(5000))
        low, high = median_interval(ratios, 0.05)
        assert low <= medians[int(0.05 * len(medians))]
        assert high >= medians[int(0.95 * len(medians)) - 1]
        assert high - low <= 2.5 * (medians[int(0.95 * len(medians))] - medians[int(0.05 * len(medians))])


@pytest.mark.parametrize("count", LOOKS)
def test_the_interval_keeps_its_level(count):
    """Each end misses the true median as rarely as it says, also of lopsided noise; the bootstrap alone does not."""
    rng = random.Random(count)
    runs, missed = 4000, 0
    for _ in range(runs):
        low, _ = median_interval(sorted(rng.expovariate(math.log(2)) for _ in range(count)), 0.05)
        missed += low > 1
    assert missed / runs <= 0.05 + 0.01


@pytest.mark.parametrize("count", [1, 2, 7, 8, 51])
def test_the_interval_holds_the_median(count):
    """Also of even numbers, and of one pair, whose interval is a point."""
    ordered = [1 + number / 100 for number in range(count)]
    low, high = median_interval(ordered, LOOK_LEVEL)
    assert low <= statistics.median(ordered) <= high
    with pytest.raises(ValueError, match="no pairs"):
        median_interval([], LOOK_LEVEL)


def test_seven_pairs_can_decide_either_way():
    """The first look is no dead one: seven clear pairs are enough, as many as the bounds of both tests need."""
    assert LOOKS[0] == 7
    assert judge([1.10 + number / 1000 for number in range(7)]).verdict == REGRESSED
    assert judge([0.99 + number / 1000 for number in range(7)]).verdict == PASSED
    assert judge([0.99, 1.0, 1.01, 1.02, 1.0, 1.01, 1.06]).verdict == OPEN


@pytest.mark.parametrize(
    ("centre", "verdict"),
    [(1.00, PASSED), (1.02, PASSED), (1.029, PASSED), (1.035, REGRESSED), (1.06, REGRESSED), (0.7, PASSED)],
)
def test_the_gate_and_the_median(centre, verdict):
    """Five per cent may not pass and three must be exceeded, so that nothing lies between two chairs."""
    ratios = [centre + (number - 7) / 10_000 for number in range(15)]
    assert judge(ratios, gate=0.05).verdict == verdict


def test_a_finer_gate_is_stricter():
    """Counts are held to less than times."""
    ratios = [1.022 + (number - 7) / 10_000 for number in range(15)]
    assert judge(ratios, gate=0.05).verdict == PASSED
    assert judge(ratios, gate=0.03).verdict == REGRESSED


def test_equal_counts_are_no_evidence_of_anything_worse():
    """Ratios of exactly 1 have no ranks; they pass."""
    evidence = judge([1.0] * 7)
    assert (evidence.verdict, evidence.p_worse, evidence.low, evidence.high) == (PASSED, 1.0, 1.0, 1.0)


def test_the_first_look_that_decides_decides():
    """What comes later changes nothing: else looking often would find something at last."""
    clear, later = [0.99, 1.0, 1.01, 1.0, 1.0, 0.99, 1.01], [1.5] * 60
    assert deciding_look(clear + later) == (7, PASSED)
    assert first_decision(clear + later).pairs == 7
    assert deciding_look(clear[:6]) == (6, OPEN)
    assert first_decision(clear[:6]).verdict == OPEN


def test_looks_come_to_an_end():
    """The number of looks is fixed beforehand: the chance of error is shared out among them."""
    assert [next_look(count) for count in (0, 6, 7, 50, 51)] == [7, 7, 11, 51, None]
    assert len(LOOKS) * LOOK_LEVEL == pytest.approx(ALPHA)


@pytest.mark.parametrize(
    ("verdicts", "together"),
    [
        ([PASSED, PASSED], PASSED),
        ([PASSED, OPEN], OPEN),
        ([OPEN, REGRESSED, PASSED], REGRESSED),
    ],
)
def test_one_metric_is_enough(verdicts, together):
    """One that regressed decides; one that is open leaves all open."""
    assert overall(verdicts) == together


def test_nothing_measured_is_no_verdict():
    """An empty comparison must not look like a good one."""
    with pytest.raises(ValueError, match="no metric"):
        overall([])


# -- how often it errs, by simulation ----------------------------------------------------------------------------------

RUNS = 600


def noise(rng, spread, autocorrelation=0.0, tail=0.0):
    """Yield ratios around 1: lognormal, as autocorrelated as asked, some of them stragglers."""
    last = 0.0
    while True:
        last = autocorrelation * last + math.sqrt(1 - autocorrelation**2) * rng.gauss(0, spread)
        straggler = rng.gauss(0, 8 * spread) if rng.random() < tail else 0.0
        yield math.exp(last + straggler)


def simulated(effect, spread, *, metrics=1, runs=RUNS, seed=7, gate=GATE, **kind):
    """Return the verdicts of whole comparisons of one metric, confirmation included."""
    rng = random.Random(seed)
    level = confirming_level(metrics)
    verdicts = []
    for _ in range(runs):
        source = noise(rng, spread, **kind)
        pairs = [effect * ratio for ratio in itertools.islice(source, LOOKS[-1])]
        count, verdict = deciding_look(pairs, gate=gate)
        if verdict == REGRESSED:
            fresh = [effect * ratio for ratio in itertools.islice(source, max(count, CONFIRMING_PAIRS_MIN))]
            verdict = verdict_on(fresh, gate=gate, level=level)
        verdicts.append(verdict)
    return {verdict: verdicts.count(verdict) / runs for verdict in Verdict}


@pytest.mark.parametrize("spread", [0.01, 0.05, 0.15])
@pytest.mark.parametrize(
    "kind", [{}, {"tail": 0.05}, {"autocorrelation": 0.3}], ids=["plain", "stragglers", "drifting"]
)
def test_identical_code_is_hardly_ever_blamed(spread, kind):
    """However noisy the machine: one metric in a thousand comparisons or so, thirteen together below ALPHA."""
    assert simulated(1.0, spread, metrics=13, **kind)[REGRESSED] <= ALPHA / 5


@pytest.mark.parametrize("spread", [0.01, 0.03, 0.10])
def test_a_change_of_the_whole_gate_is_hardly_ever_passed(spread):
    """Stopping early must not make the rule lenient: the levels of its looks add up to ALPHA."""
    assert simulated(1 + GATE, spread)[PASSED] <= ALPHA


@pytest.mark.parametrize(("spread", "effect"), [(0.01, 1.05), (0.02, 1.10), (0.05, 1.15)])
def test_what_is_clearly_worse_is_found(spread, effect):
    """A rule that never blames anybody would pass the tests above."""
    assert simulated(effect, spread)[REGRESSED] >= 0.9


@pytest.mark.parametrize("spread", [0.01, 0.03, 0.05])
def test_identical_code_is_passed(spread):
    """And one that never decides would, too."""
    assert simulated(1.0, spread)[PASSED] >= 0.9


def test_looking_at_every_pair_without_a_share_of_the_level_errs_more():
    """The simulation can fail: a naive rule, five per cent at each of fifty looks, passes a true 5 % too often."""
    rng = random.Random(3)
    passed = 0
    for _ in range(RUNS):
        pairs = [1.05 * ratio for ratio in itertools.islice(noise(rng, 0.05), LOOKS[-1])]
        passed += any(verdict_on(pairs[:count], level=0.05) == PASSED for count in range(5, LOOKS[-1], 3))
    assert passed / RUNS > 1.5 * ALPHA
