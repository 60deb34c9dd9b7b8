"""The highest arrival rate that a target bears: a search over open-loop tests, each rate decided by a majority.

The search is pure: it asks ``measure(rate)`` for a trial and sees only whether that held.
"""

import math
from collections.abc import Callable, Sequence

import msgspec

from minibit.errors import MiniBitError
from minibit.load.latency import PERCENTILES
from minibit.load.result import LoadResult
from minibit.load.sampler import ServerUse
from minibit.record import CodeVersion, Machine

SCHEMA_VERSION = 1
FIRST_SHARE = 0.7  # of what the closed loop reached: below the knee, most likely
STEP = 1.25  # while nothing has failed, or nothing has held
SERVED_SHARE = 0.98  # of the rate must have been answered: a rate that is not reached is not borne
GIVE_UP_BELOW_PER_S = 1.0
CURVE_SHARES = (0.25, 0.5, 0.8, 0.9, 1.1, 1.2)  # of the saturation, for the curve


class Limits(msgspec.Struct, kw_only=True, frozen=True):
    """When a rate counts as borne. ``percentile``: one of p50, p90, p99, p99.9."""

    percentile: str = "p99"
    latency_s: float = 0.05
    error_share: float = 0.001


class Trial(msgspec.Struct, kw_only=True):
    """One open-loop test at one rate. ``broke``: which limits it broke; ``generator``: why it may not count."""

    rate_per_s: float
    result: LoadResult
    server: ServerUse | None
    broke: list[str]
    generator: list[str]


class Saturation(msgspec.Struct, kw_only=True):
    """What a search found for one state of the target.

    ``borne_per_s``: the highest rate at which most trials held; None if none did. ``broke_per_s``: the lowest at which
    most did not. ``bound_by``: target | generator.
    """

    registered: int | None = None
    threads: int | None = None
    borne_per_s: float | None
    broke_per_s: float
    bound_by: str
    closed_loop: Trial
    trials: list[Trial]


class SaturationRecord(msgspec.Struct, kw_only=True):
    """Everything that ``minibit saturate`` found."""

    kind: str = "saturation"
    schema_version: int = SCHEMA_VERSION
    what: str
    driver: str
    limits: Limits
    started_at: str
    machine: Machine
    commit: CodeVersion | None
    found: list[Saturation]


def judged(rate_per_s: float, result: LoadResult, server: ServerUse | None, limits: Limits) -> Trial:
    """Return the trial with what it broke. A closed loop has rate ``inf``: it is held against no rate."""
    latency_s = result.latency().at(PERCENTILES[limits.percentile])
    broke = []
    if latency_s > limits.latency_s:
        broke.append(f"{limits.percentile} {latency_s * 1e3:.1f} ms")
    if result.error_share > limits.error_share:
        broke.append(f"errors {result.error_share:.2%} ({result.commonest_error[0]})")
    if result.answered < SERVED_SHARE * result.planned * (1 - result.error_share):
        broke.append(f"answered {result.rate_per_s:,.0f}/s")
    if not result.useful:
        broke.append("nothing but refusals")
    return Trial(
        rate_per_s=rate_per_s if math.isfinite(rate_per_s) else result.rate_per_s,
        result=result,
        server=server,
        broke=broke,
        generator=result.generator_was_the_bound,
    )


def search(
    measure: Callable[[float | None], Trial], *, repeats: int = 3, precision: float = 0.05, curve: bool = True
) -> Saturation:
    """Find the saturation: ``measure(rate)`` is one trial, ``measure(None)`` the closed loop.

    Rates are tried up to ``repeats`` times, until most of these agree; the search ends when the lowest broken rate is
    within ``precision`` of the highest borne one. With ``curve`` a few rates more are measured, once each. Raise
    MiniBitError if the closed loop gets no answer at all.
    """
    closed_loop = measure(None)
    if not closed_loop.result.answered:
        raise MiniBitError(f"nothing was answered: {' '.join(closed_loop.result.commonest_error)}")
    trials: list[Trial] = []

    def bears(rate_per_s: float) -> bool:
        outcomes: list[Trial] = []
        while not _decided(outcomes, repeats):
            outcomes.append(measure(rate_per_s))
            trials.append(outcomes[-1])
        return 2 * sum(not trial.broke for trial in outcomes) > len(outcomes)

    borne, broken = _bracket(bears, FIRST_SHARE * max(closed_loop.rate_per_s, GIVE_UP_BELOW_PER_S))
    while borne and broken / borne > 1 + precision:
        middle = math.sqrt(borne * broken)
        borne, broken = (middle, broken) if bears(middle) else (borne, middle)
    if curve and borne:
        tried = [trial.rate_per_s / borne for trial in trials]
        missing = [share for share in CURVE_SHARES if all(abs(math.log(share / at)) > 0.05 for at in tried)]
        trials += [measure(share * borne) for share in missing]
    return Saturation(
        borne_per_s=borne,
        broke_per_s=broken,
        bound_by="generator" if _generator_broke(trials, broken) else "target",
        closed_loop=closed_loop,
        trials=sorted(trials, key=lambda trial: trial.rate_per_s),
    )


def _bracket(bears: Callable[[float], bool], rate_per_s: float) -> tuple[float | None, float]:
    """Return a rate that is borne and a higher one that is not."""
    if bears(rate_per_s):
        borne = rate_per_s
        while bears(borne * STEP):
            borne *= STEP
        return borne, borne * STEP
    broken = rate_per_s
    while broken > GIVE_UP_BELOW_PER_S:
        if bears(broken / STEP):
            return broken / STEP, broken
        broken /= STEP
    return None, broken


def _decided(outcomes: Sequence[Trial], repeats: int) -> bool:
    held = sum(not trial.broke for trial in outcomes)
    return max(held, len(outcomes) - held) > repeats // 2


def _generator_broke(trials: Sequence[Trial], broken_per_s: float) -> bool:
    """Whether the trials at the lowest broken rate were, most of them, the generator's own fault."""
    at_limit = [trial for trial in trials if trial.rate_per_s == broken_per_s and trial.broke]
    return 2 * sum(bool(trial.generator) for trial in at_limit) > len(at_limit)
