"""What pairs of measurements say about a change: regressed, not regressed, or inconclusive. Pure.

A pair is one run of each side, made one right after the other with the same seed; its *ratio* is turned so that more
than 1 is worse for the changed side. Whatever slows the machine for a minute slows both runs of a pair, so ratios are
far steadier than the runs themselves, and the pair is the unit of evidence.

The rule is sequential: pairs are judged at ``LOOKS``, numbers of pairs fixed beforehand, and the first look that
decides ends it. Each look may err with ``LOOK_LEVEL``, so that all together err with ``ALPHA`` at most (Bonferroni):
that bounds both the chance that one unchanged metric raises an alarm, and the chance that the looks pass one which is
worse by the whole gate. An alarm is no verdict yet: fresh pairs must repeat it at ``confirming_level``, which is what
keeps the chance of a false verdict over all metrics below ``ALPHA``. Fresh pairs that say the opposite pass the metric.

The interval is the percentile bootstrap of the median, exact: that distribution is known in closed form (Efron 1982,
*The Jackknife, the Bootstrap and Other Resampling Plans*, §10.2), so nothing is drawn and the same pairs always say the
same. With few pairs it is too short, so it is widened to the distribution-free interval between order statistics,
which keeps its level whatever the noise looks like. The test is Wilcoxon's signed-rank test, one-sided.
"""

import math
import statistics
from collections.abc import Sequence
from enum import StrEnum
from functools import cache

import msgspec

from minibit.errors import UsageError

GATE = 0.05  # not regressed: at most so much worse
SHARE_OF_GATE = 0.6  # a median must be beyond so much of the gate to count as regressed: 1.03 for a gate of 5 %
LOOKS = (7, 11, 15, 23, 35, 51)
ALPHA = 0.05
LOOK_LEVEL = ALPHA / len(LOOKS)
CONFIRMING_PAIRS_MIN = 11  # as many as raised the alarm, but no fewer
RATIO_MAX = 1e6  # stands for "from nothing to something", which has no ratio


class Verdict(StrEnum):
    """What is said of a metric, or of a whole comparison."""

    REGRESSED = "regressed"
    NOT_REGRESSED = "not regressed"
    INCONCLUSIVE = "inconclusive"


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """Of ``pairs`` ratios: their median, its interval, and how likely so many would be above 1 if nothing had changed.

    ``low`` and ``high`` are one-sided bounds, each wrong with probability ``level``. ``p_worse`` is Wilcoxon's.
    """

    pairs: int
    ratio: float
    low: float
    high: float
    p_worse: float
    level: float
    gate: float
    verdict: Verdict


def ratio_of(base: float, head: float, *, larger_is_better: bool = False) -> float:
    """Return how many times worse ``head`` is than ``base``, between 1 / RATIO_MAX and RATIO_MAX; 1 if both are 0."""
    worse, better = (base, head) if larger_is_better else (head, base)
    if worse == better:
        return 1.0
    return min(RATIO_MAX, max(1 / RATIO_MAX, worse / better if better else math.inf))


def judge(ratios: Sequence[float], *, gate: float = GATE, level: float = LOOK_LEVEL) -> Evidence:
    """Judge the ratios of all pairs, once. Raise ValueError if there are none."""
    ordered = sorted(ratios)
    low, high = median_interval(ordered, level)
    return Evidence(
        pairs=len(ordered),
        ratio=statistics.median(ordered),
        low=low,
        high=high,
        p_worse=_signed_rank(ratios),
        level=level,
        gate=gate,
        verdict=verdict_on(ratios, gate=gate, level=level),
    )


def verdict_on(ratios: Sequence[float], *, gate: float = GATE, level: float = LOOK_LEVEL) -> Verdict:
    """Return the verdict alone, for simulations: the test is made only where it decides."""
    ordered = sorted(ratios)
    low, high = median_interval(ordered, level)
    slower = low > 1 and statistics.median(ordered) > 1 + SHARE_OF_GATE * gate
    if slower and _signed_rank(ratios) <= level:
        return Verdict.REGRESSED
    return Verdict.NOT_REGRESSED if high < 1 + gate else Verdict.INCONCLUSIVE


def deciding_look(ratios: Sequence[float], *, gate: float = GATE) -> tuple[int, Verdict]:
    """Return the first look that decides, as a number of pairs, and its verdict; else the last that was reached.

    With fewer pairs than the first look takes nothing is decided.
    """
    looks = [count for count in LOOKS if count <= len(ratios)]
    for count in looks:
        verdict = verdict_on(ratios[:count], gate=gate)
        if verdict != Verdict.INCONCLUSIVE:
            return count, verdict
    return (looks[-1] if looks else len(ratios)), Verdict.INCONCLUSIVE


def first_decision(ratios: Sequence[float], *, gate: float = GATE) -> Evidence:
    """Return the evidence at the look that decides, or at the last one reached. Raise ValueError without pairs."""
    count, verdict = deciding_look(ratios, gate=gate)
    return msgspec.structs.replace(judge(ratios[:count], gate=gate), verdict=verdict)


def next_look(pairs: int) -> int | None:
    """Return the number of pairs at which is looked next; None after the last look."""
    return next((count for count in LOOKS if count > pairs), None)


def confirming_level(metrics: int) -> float:
    """Return how likely the fresh pairs of one unchanged metric may repeat a false alarm.

    Of ``metrics`` unchanged ones each raises an alarm with ALPHA and repeats it with this: together ALPHA at most.
    """
    return min(ALPHA, 1 / max(1, metrics))


def overall(verdicts: Sequence[Verdict]) -> Verdict:
    """Return the verdict on all metrics: one that regressed decides, one that is open leaves all open.

    Raise ValueError if there are none: nothing measured is nothing known.
    """
    if not verdicts:
        raise ValueError("no metric, no verdict")
    if Verdict.REGRESSED in verdicts:
        return Verdict.REGRESSED
    return Verdict.INCONCLUSIVE if Verdict.INCONCLUSIVE in verdicts else Verdict.NOT_REGRESSED


def median_interval(ordered: Sequence[float], level: float) -> tuple[float, float]:
    """Return the ``level`` and 1 - ``level`` quantiles of the median's bootstrap, or the order statistics beyond.

    ``ordered`` rises. Of an even number the lower of the two middle values decides the lower end, and the upper one
    the upper end. Too few pairs for the level give all there is.
    """
    if not ordered:
        raise ValueError("no pairs, no interval")
    low, high = _interval_ranks(len(ordered), level)
    return ordered[low], ordered[high]


@cache
def _interval_ranks(count: int, level: float) -> tuple[int, int]:
    """Return which order statistics, from 0, are the ends.

    P(bootstrapped median <= x[k]) is a binomial tail; so is P(median < x[k]), of fair coins, whatever is drawn from.
    """
    lower_median, upper_median = (count + 1) // 2, count // 2 + 1
    low = next(rank for rank in range(count) if _tail(count, (rank + 1) / count, lower_median) > level)
    high = next(rank for rank in range(count) if _tail(count, (rank + 1) / count, upper_median) >= 1 - level)
    beyond = max((rank for rank in range(count // 2 + 1) if 1 - _tail(count, 0.5, rank) <= level), default=0)
    free = max(0, beyond - 1)
    return min(low, free), max(high, count - 1 - free)


def _tail(trials: int, chance: float, at_least: int) -> float:
    """Return P(X >= at_least) of a binomial X."""
    return sum(
        math.comb(trials, hits) * chance**hits * (1 - chance) ** (trials - hits) for hits in range(at_least, trials + 1)
    )


def _signed_rank(ratios: Sequence[float]) -> float:
    if min(ratios) > 1:
        return 0.5 ** len(ratios)  # of all patterns of signs, the one furthest out
    logs = [math.log(ratio) for ratio in ratios]
    if not any(logs):
        return 1.0
    try:
        from scipy.stats import wilcoxon  # noqa: PLC0415  takes half a second to import
    except ImportError as error:
        raise UsageError("comparisons need scipy: pip install 'minibit[compare]'") from error
    return float(wilcoxon(logs, alternative="greater", zero_method="zsplit").pvalue)
