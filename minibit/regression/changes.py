"""Change points of a history: where the level of a series of sessions shifts. Pure, and without randomness.

A history is short, noisy and autocorrelated, and has outliers: a session on a busy machine. So

1. the logarithms of the values are taken: a shift is a ratio;
2. what is further than ``CUT`` times the noise from the median of the five values around it gives way to the median of
   the other four (a level holds for ``MIN_SEGMENT`` sessions at least, a majority there; an outlier does not);
3. the exact segmentation by least squares proposes shifts, with so small a penalty that none is overlooked;
4. each proposal is put to a test of its own, Student's t between its two neighbouring segments, with the variance that
   the mean of autocorrelated values has (lag-1 at least ``AUTOCORRELATION``, more if the residuals show more), and p
   times the number of positions searched (Bonferroni). The least certain goes first, then all are tested anew;
5. those that stay are moved to where the two levels fit best, and go if they are smaller than asked for.

How often that finds what is not there, or misses what is, tests/regression/test_changes.py shows by simulation.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from minibit.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Values: TypeAlias = NDArray[np.float64]

MIN_SEGMENT = 3
MIN_POINTS = 8
AT_LEAST = 0.03  # of a shift: smaller ones are not worth a person's time
LEVEL = 0.01  # of a false shift in one history, after correction
CUT = 4.0  # times the noise: beyond it a value is an outlier if its neighbours are not there too
WINDOW = 2  # neighbours on each side
AUTOCORRELATION = 0.3  # of neighbouring sessions, at least
AUTOCORRELATION_MAX = 0.8  # beyond it nothing is known of a level anyway
NOISE_SHARE_MIN = 0.1  # of the least shift: counts that never vary have a scale too
PENALTY = 2.0  # variances that a proposal must explain
RATIO_MAX = 1e6  # what is 0 counts as so much less than the largest value
MAD_TO_SD = 1.4826  # of normal values


class Shift(msgspec.Struct, frozen=True, kw_only=True):
    """A new level. ``at``: index of its first value; ``before`` and ``after``: medians of the segments beside it."""

    at: int
    before: float
    after: float
    ratio: float
    p: float


def find_shifts(values: Sequence[float], *, at_least: float = AT_LEAST) -> list[Shift]:
    """Return the shifts of at least so much (0.03: 3 %), in order; none among fewer than MIN_POINTS values.

    Raise ValueError for a negative or infinite value, UsageError if numpy, scipy or ruptures are missing.
    """
    if not all(0 <= value < math.inf for value in values):
        raise ValueError("values of a history are finite and not negative")
    if len(values) < MIN_POINTS or not any(values):
        return []
    np = _tools()[0]
    smallest = max(values) / RATIO_MAX
    logs = np.log([max(value, smallest) for value in values])
    least = math.log1p(at_least)
    smooth = _without_outliers(logs, NOISE_SHARE_MIN * least)
    return _decided(logs, smooth, least)


def _decided(logs: "Values", smooth: "Values", least: float) -> list[Shift]:
    """Take proposals away until all that are left are certain, well placed and large enough."""
    bounds = _proposals(smooth, NOISE_SHARE_MIN * least)
    while len(bounds) > 2:
        chances = _p_values(smooth, bounds, NOISE_SHARE_MIN * least)
        steps = _steps(logs, bounds)
        if max(chances) > LEVEL:
            del bounds[1 + chances.index(max(chances))]
        elif (moved := _moved(smooth, bounds)) != bounds:
            bounds = moved  # each move lowers the sum of squares, so that this ends
        elif min(map(abs, steps)) < least:
            sizes = [abs(step) for step in steps]
            del bounds[1 + sizes.index(min(sizes))]
        else:
            return [_shift(logs, bounds, index, p) for index, p in enumerate(chances)]
    return []


def _shift(logs: "Values", bounds: Sequence[int], index: int, p: float) -> Shift:
    np = _tools()[0]
    left, at, right = bounds[index : index + 3]
    before, after = (math.exp(np.median(part)) for part in (logs[left:at], logs[at:right]))
    return Shift(at=at, before=before, after=after, ratio=after / before, p=p)


def _steps(logs: "Values", bounds: Sequence[int]) -> list[float]:
    np = _tools()[0]
    levels = [float(np.median(logs[begin:end])) for begin, end in _segments(bounds)]
    return [after - before for before, after in pairwise(levels)]


def _without_outliers(logs: "Values", floor: float) -> "Values":
    """Replace each value that is far from the median of the five around it by the median of the other four.

    The furthest goes first: beside an outlier the last value before a step looks like another one.
    """
    limit, smooth = CUT * _noise(logs, floor), logs.copy()
    distances = [abs(float(logs[at]) - _around(logs, at)) for at in range(len(logs))]
    for at in sorted(range(len(logs)), key=lambda place: -distances[place]):
        if abs(smooth[at] - _around(smooth, at)) > limit:
            smooth[at] = _around(smooth, at, itself=False)  # by itself it would lean to its own side
    return smooth


def _around(values: "Values", at: int, *, itself: bool = True) -> float:
    """Return the median of a value and its neighbours, or of these alone."""
    begin = max(0, at - WINDOW)
    near: list[float] = values[begin : at + WINDOW + 1].tolist()
    return median(near if itself else near[: at - begin] + near[at - begin + 1 :])


def _noise(values: "Values", floor: float) -> float:
    """Return the standard deviation, judged by neighbours' differences: steps and outliers are few among them."""
    np = _tools()[0]
    return max(floor, MAD_TO_SD * float(np.median(np.abs(np.diff(values)))) / math.sqrt(2))


def _proposals(smooth: "Values", floor: float) -> list[int]:
    """Return the ends of the best segments, 0 first, by the sum of squares and a penalty for each."""
    ruptures = _tools()[2]
    penalty = PENALTY * _noise(smooth, floor) ** 2
    search = ruptures.KernelCPD(kernel="linear", min_size=MIN_SEGMENT).fit(smooth.reshape(-1, 1))
    return [0, *(int(end) for end in search.predict(pen=penalty))]


def _p_values(smooth: "Values", bounds: Sequence[int], floor: float) -> list[float]:
    """Return for each inner bound how likely such a step would be anywhere in a history without one."""
    student = _tools()[1].t
    segments = _segments(bounds)
    noise, correlation = _residuals(smooth, segments, floor)
    freedom, positions = len(smooth) - len(segments), len(smooth) - 2 * MIN_SEGMENT + 1
    means = [float(smooth[begin:end].mean()) for begin, end in segments]
    variances = [_variance_of_mean(end - begin, correlation) for begin, end in segments]
    chances = []
    for index in range(len(segments) - 1):
        error = noise * math.sqrt(variances[index] + variances[index + 1])
        t = abs(means[index + 1] - means[index]) / error
        chances.append(min(1.0, 2 * float(student.sf(t, freedom)) * positions))
    return chances


def _residuals(smooth: "Values", segments: Sequence[tuple[int, int]], floor: float) -> tuple[float, float]:
    """Return the standard deviation about the segments' means, and the lag-1 autocorrelation to reckon with."""
    rest = smooth.copy()
    for begin, end in segments:
        rest[begin:end] -= smooth[begin:end].mean()
    squares = float(rest @ rest)
    if not squares:
        return floor, AUTOCORRELATION
    found = float(rest[1:] @ rest[:-1]) / squares + len(segments) / len(rest)  # fitted means lower it by about so much
    noise = max(floor, math.sqrt(squares / (len(rest) - len(segments))))
    return noise, min(AUTOCORRELATION_MAX, max(AUTOCORRELATION, found))


def _variance_of_mean(count: int, correlation: float) -> float:
    """Return the variance of the mean of ``count`` values of variance 1 whose correlation falls off exponentially."""
    lags = range(1, count)
    return (1 + 2 * sum((1 - lag / count) * correlation**lag for lag in lags)) / count


def _moved(smooth: "Values", bounds: Sequence[int]) -> list[int]:
    """Move each inner bound to where the two segments beside it fit best."""
    moved = list(bounds)
    for index in range(1, len(moved) - 1):
        left, right = moved[index - 1], moved[index + 1]
        places = range(left + MIN_SEGMENT, right - MIN_SEGMENT + 1)
        fits = {place: _squares(smooth[left:place]) + _squares(smooth[place:right]) for place in places}
        best = min(places, key=fits.__getitem__)
        if fits[best] < fits[moved[index]]:
            moved[index] = best
    return moved


def _squares(part: "Values") -> float:
    return float(((part - part.mean()) ** 2).sum())


def _segments(bounds: Sequence[int]) -> list[tuple[int, int]]:
    return list(pairwise(bounds))


def _tools() -> tuple[Any, Any, Any]:
    """Return numpy, scipy.stats and ruptures, which are an extra and take long to import."""
    try:
        import numpy as np  # noqa: PLC0415
        import ruptures  # noqa: PLC0415
        from scipy import stats  # noqa: PLC0415
    except ImportError as error:
        raise UsageError("a history needs numpy, scipy and ruptures: pip install 'minibit[compare]'") from error
    return np, stats, ruptures
