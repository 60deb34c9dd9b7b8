"""Shifts of a level: found where they are, and nowhere else, by simulation with fixed seeds."""

import math
import random

import pytest

from minibit.regression.changes import MIN_POINTS, find_shifts

HISTORIES = 300
SESSIONS = 30


def noise(rng, count, sd, correlation=0.0):
    """Return values about 1 whose logarithms are normal, each correlated with the one before."""
    value, values = rng.gauss(0, 1), []
    for _ in range(count):
        values.append(math.exp(sd * value))
        value = correlation * value + math.sqrt(1 - correlation**2) * rng.gauss(0, 1)
    return values


def stepped(rng, at, step, sd, *, outliers=1):
    """Return a history with a step, and with outliers of +20 % anywhere."""
    values = [value * (step if place >= at else 1) for place, value in enumerate(noise(rng, SESSIONS, sd))]
    for place in rng.sample(range(SESSIONS), outliers):
        values[place] *= 1.2
    return values


def test_a_step_of_five_percent_is_found_where_it_is_and_nothing_else():
    """The one promise of a history: this commit, and no other."""
    values = stepped(random.Random(5), 17, 1.05, 0.01)
    shifts = find_shifts(values)
    assert [shift.at for shift in shifts] == [17]
    assert shifts[0].ratio == pytest.approx(1.05, abs=0.01)
    assert shifts[0].after / shifts[0].before == pytest.approx(shifts[0].ratio)
    assert shifts[0].p < 0.001


@pytest.mark.parametrize(("sd", "correlation"), [(0.01, 0.0), (0.01, 0.3), (0.02, 0.3), (0.03, 0.3)])
def test_noise_alone_has_no_shift(sd, correlation):
    """Whoever is called in vain stops coming: one false alarm in twenty histories at most, autocorrelated or not."""
    rng = random.Random(1)
    false = sum(bool(find_shifts(noise(rng, SESSIONS, sd, correlation))) for _ in range(HISTORIES)) / HISTORIES
    print(f"noise {sd:.0%}, lag-1 {correlation}: {false:.1%} of {HISTORIES} histories have a false shift")
    assert false <= 0.05


@pytest.mark.parametrize("step", [1.05, 1 / 1.05])
def test_steps_amid_noise_and_an_outlier_are_found_nearly_always(step):
    """Wherever three sessions stand on each side of it, within one session of where it is."""
    rng = random.Random(2)
    found = exact = near = more = 0
    for _ in range(HISTORIES):
        at = rng.randrange(3, SESSIONS - 2)
        shifts = find_shifts(stepped(rng, at, step, 0.01))
        found += bool(shifts)
        exact += any(shift.at == at for shift in shifts)
        near += any(abs(shift.at - at) <= 1 for shift in shifts)
        more += len(shifts) > 1
    print(f"{step - 1:+.1%} at 1 % noise with an outlier, of {HISTORIES}: found {found / HISTORIES:.1%},"
          f" exactly there {exact / HISTORIES:.1%}, at most one off {near / HISTORIES:.1%},"
          f" something else too {more / HISTORIES:.1%}")  # fmt: skip
    assert found >= 0.95 * HISTORIES
    assert near >= 0.95 * HISTORIES
    assert more <= 0.05 * HISTORIES


def test_a_regression_and_its_repair_are_two_shifts():
    """A bump has no step if only its two sides are looked at."""
    values = noise(random.Random(3), SESSIONS, 0.01, 0.3)
    values[10:20] = [1.06 * value for value in values[10:20]]
    shifts = find_shifts(values)
    assert [shift.at for shift in shifts] == pytest.approx([10, 20], abs=1)
    assert shifts[0].ratio > 1 > shifts[1].ratio


def test_outliers_are_no_levels():
    """One busy evening is not the new normal; two are not either."""
    values = noise(random.Random(4), SESSIONS, 0.01)
    values[12] *= 1.3
    values[13] *= 1.3
    values[-1] *= 1.3
    assert find_shifts(values) == []


def test_counts_that_never_vary_have_shifts_too():
    """Without noise there is no scale; a message more per block must still be found, and a rounding error must not."""
    assert [shift.at for shift in find_shifts([2.0] * 10 + [2.1] * 5)] == [10]
    assert find_shifts([2.0] * 10 + [2.0 + 1e-9] * 5) == []
    assert find_shifts([2.0] * 15) == []


def test_from_nothing_to_something_is_a_shift():
    """Zero has no logarithm."""
    (shift,) = find_shifts([0.0] * 10 + [0.5] * 5)
    assert shift.at == 10
    assert shift.ratio > 1000
    assert find_shifts([0.0] * 15) == []


def test_the_least_shift_is_the_users():
    """Four percent are nothing to who asked for ten."""
    values = [1.0] * 10 + [1.04] * 10
    assert [shift.at for shift in find_shifts(values)] == [10]
    assert find_shifts(values, at_least=0.1) == []


def test_few_sessions_decide_nothing():
    """Seven values have no two levels that could be told from noise."""
    assert find_shifts([1.0] * 3 + [2.0] * (MIN_POINTS - 4)) == []
    assert find_shifts([]) == []


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_what_is_no_measurement_is_refused(value):
    """A NaN would go through every comparison unseen."""
    with pytest.raises(ValueError, match="finite"):
        find_shifts([1.0] * 20 + [value])
