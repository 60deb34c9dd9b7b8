"""Summaries of samples against figures made by hand."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibit.analysis.stats import median, spread

finite = st.floats(-1e9, 1e9)


def test_a_spread_is_the_order_statistics_with_interpolated_quartiles():
    """Pinned to the definition that numpy and R's type 7 share, so that anybody can recompute a table."""
    sample = spread([4.0, 1.0, 3.0, 2.0])
    assert (sample.count, sample.minimum, sample.median, sample.maximum) == (4, 1.0, 2.5, 4.0)
    assert (sample.q1, sample.q3, sample.iqr) == (1.75, 3.25, 1.5)


def test_one_run_has_no_spread():
    """A single repeat is shown, and shown as not spreading rather than as an error."""
    sample = spread([2.0])
    assert sample.iqr == 0.0
    assert median([2.0]) == 2.0


@pytest.mark.parametrize("values", [[], [1.0, float("nan")]])
def test_samples_without_an_order_are_refused(values):
    """A NaN sorts anywhere, and the median would depend on where."""
    with pytest.raises(ValueError):
        spread(values)


@given(st.lists(finite, min_size=1, max_size=50))
def test_the_figures_of_a_spread_are_in_order(values):
    """Bands of a plot that cross would be drawn without complaint."""
    sample = spread(values)
    figures = [sample.minimum, sample.q1, sample.median, sample.q3, sample.maximum]
    assert all(low <= high + 1e-6 for low, high in itertools.pairwise(figures))
    assert sample.median == median(values)
