"""Figures of a sample, pure. No tests of significance here: rounds of a benchmark are no independent draws."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from minibit.record import quantile


@dataclass(frozen=True, slots=True)
class Spread:
    """A sample of ``count`` values by its order statistics; ``q1`` and ``q3`` are the quartiles, interpolated."""

    count: int
    minimum: float
    q1: float
    median: float
    q3: float
    maximum: float

    @property
    def iqr(self) -> float:
        """The interquartile range: how wide the middle half lies."""
        return self.q3 - self.q1


def spread(values: Sequence[float]) -> Spread:
    """Summarise a sample. Raise ValueError if it is empty or holds a NaN, which has no place in an order."""
    if any(math.isnan(value) for value in values):
        raise ValueError("a sample with NaN has no order")
    return Spread(
        count=len(values),
        minimum=quantile(values, 0.0),
        q1=quantile(values, 0.25),
        median=quantile(values, 0.5),
        q3=quantile(values, 0.75),
        maximum=quantile(values, 1.0),
    )


def median(values: Sequence[float]) -> float:
    """Return the median. Raise ValueError if there are no values."""
    return quantile(values, 0.5)
