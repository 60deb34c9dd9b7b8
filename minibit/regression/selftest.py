"""A/A on this machine: how noisy its figures are, how often identical code would be blamed, and what can be seen.

Identical code is run in pairs, as ``compare`` would. The pairs' ratios are then drawn again and again, with
replacement and with a slowdown put on top, and judged by the rule of ``compare``: the share of verdicts is what that
rule does on this machine, and the smallest slowdown that it finds four times in five is the finest gate there.
"""

import math
import random
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from minibit.errors import UsageError
from minibit.load import stored
from minibit.provenance import folder_name
from minibit.record import CodeVersion, Machine
from minibit.regression.comparison import Compared, Comparison
from minibit.regression.evidence import (
    CONFIRMING_PAIRS_MIN,
    LOOKS,
    Verdict,
    confirming_level,
    deciding_look,
    ratio_of,
    verdict_on,
)
from minibit.regression.metrics import METRICS, Metric

SCHEMA_VERSION = 1
FILE_NAME = "selftest.json"
PAIRS = 15
DRAWS = 300
POWER = 0.8
TIE_BREAK = 1e-7
SLOWDOWNS = (0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.07, 0.10, 0.15, 0.20, 0.30, 0.50, 1.0)


class Noise(msgspec.Struct, kw_only=True):
    """One metric on this machine. ``ratios`` are those of the pairs, shares those of simulated comparisons.

    ``gate`` is what the shares were simulated with, ``variation`` the coefficient of variation of single runs,
    ``spread`` the standard deviation of the ratios. ``detectable`` is the smallest slowdown found with POWER, None if
    not even a doubling is.
    """

    key: str
    title: str
    ratios: list[float]
    gate: float
    variation: float
    spread: float
    false_alarms: float
    passed: float
    detectable: float | None


class Selftest(msgspec.Struct, kw_only=True):
    """What ``minibit selftest`` found; kept beside the machine's results."""

    kind: str = "selftest"
    schema_version: int = SCHEMA_VERSION
    started_at: str
    machine: Machine
    commit: CodeVersion | None
    pairs: int
    noise: list[Noise]
    remarks: list[str]

    def detectable(self) -> dict[str, float | None]:
        """Return the finest gate of each metric: the coarsest, if several workloads have it."""
        found: dict[str, list[float | None]] = {}
        for each in self.noise:
            found.setdefault(each.key, []).append(each.detectable)
        return {key: max(seen, key=lambda gate: math.inf if gate is None else gate) for key, seen in found.items()}

    def with_older(self, older: "Selftest | None") -> "Selftest":
        """Return this one, with what an older one knows of metrics that were not measured now."""
        measured = {each.key for each in self.noise}
        kept = [each for each in older.noise if each.key not in measured] if older else []
        return msgspec.structs.replace(self, noise=self.noise + kept)


def analysed(comparison: Comparison, *, rng_seed: int = 0) -> Selftest:
    """Return what an A/A comparison says about this machine; pure but for the draws, which are seeded."""
    return Selftest(
        started_at=comparison.started_at,
        machine=comparison.machine,
        commit=comparison.head.commit,
        pairs=max((len(metric.base) for metric in comparison.metrics), default=0),
        noise=[_noise(metric, len(comparison.metrics), random.Random(rng_seed)) for metric in comparison.metrics],
        remarks=comparison.remarks,
    )


def gates_of(
    judged: Sequence[Metric],
    detectable: Mapping[str, float | None] | None,
    *,
    named: Mapping[str, float] | None = None,
    general: float | None = None,
) -> tuple[dict[str, float], list[str]]:
    """Return the gate of every judged metric, and remarks on those that are wider here than they were to be.

    ``named`` are gates that a user gave one metric each, ``general`` one for all others; ``detectable`` is the
    selftest's, None if there was none. Raise UsageError for a metric nobody knows, for a named gate finer than this
    machine can see, and for a general one that is too fine for every metric.
    """
    named, detectable = named or {}, detectable or {}
    for key, gate in named.items():
        if key not in METRICS:
            raise UsageError(f"there is no metric {key}; there are {', '.join(METRICS)}")
        if gate < (finest := _finest(key, detectable)):
            raise UsageError(_too_fine(gate, key, finest))
    finest_of_all = min((_finest(metric.key, detectable) for metric in judged), default=0.0)
    if general is not None and general < finest_of_all:
        raise UsageError(_too_fine(general, "any metric", finest_of_all))
    gates, remarks = {}, []
    for metric in judged:
        wanted = metric.gate if general is None else general
        finest = _finest(metric.key, detectable)
        gates[metric.key] = named.get(metric.key, max(wanted, finest))
        if metric.key in named:
            continue
        if math.isinf(finest):
            remarks.append(f"{metric.title} is not judged: not even a doubling can be seen here")
        elif finest > wanted:
            remarks.append(f"{metric.title} is held to {finest:.1%} instead of {wanted:.1%}: no less can be seen here")
    return gates, remarks


def _too_fine(gate: float, on: str, finest: float) -> str:
    seen = "nothing below a doubling" if math.isinf(finest) else f"nothing below {finest:.1%}"
    return f"a gate of {gate:.1%} on {on} is finer than this machine can see: the selftest found {seen}"


def _finest(key: str, detectable: Mapping[str, float | None]) -> float:
    found = detectable.get(key, 0.0)
    return math.inf if found is None else found


def _noise(metric: Compared, metrics: int, rng: random.Random) -> Noise:
    ratios = [
        ratio_of(base, head, larger_is_better=metric.larger_is_better)
        for base, head in zip(metric.base, metric.head, strict=True)
    ]
    middle = statistics.median(ratios)
    centred = [ratio / middle for ratio in ratios]  # identical code: what is left of a difference is chance
    gate = METRICS[metric.key].gate
    level = confirming_level(metrics)
    alike = _simulated(centred, 0.0, gate, level, rng)
    values = metric.base + metric.head
    mean = statistics.fmean(values)
    return Noise(
        key=metric.key,
        title=metric.title,
        ratios=ratios,
        gate=gate,
        variation=statistics.stdev(values) / mean if mean else 0.0,
        spread=statistics.stdev(ratios),
        false_alarms=alike.count(Verdict.REGRESSED) / DRAWS,
        passed=alike.count(Verdict.NOT_REGRESSED) / DRAWS,
        detectable=_detectable(centred, level, rng),
    )


def _detectable(ratios: Sequence[float], level: float, rng: random.Random) -> float | None:
    """Return the smallest slowdown that is found, or passed if it is not there, with POWER; by bisection."""
    low, high = 0, len(SLOWDOWNS)
    while low < high:
        middle = (low + high) // 2
        slowdown = SLOWDOWNS[middle]
        found = _simulated(ratios, slowdown, slowdown, level, rng).count(Verdict.REGRESSED)
        passed = _simulated(ratios, 0.0, slowdown, level, rng).count(Verdict.NOT_REGRESSED)
        if min(found, passed) >= POWER * DRAWS:
            high = middle
        else:
            low = middle + 1
    return SLOWDOWNS[low] if low < len(SLOWDOWNS) else None


def _simulated(
    ratios: Sequence[float], slowdown: float, gate: float, level: float, rng: random.Random
) -> list[Verdict]:
    """Return the verdicts of DRAWS comparisons, each with pairs drawn from the ratios, alarms confirmed."""
    verdicts = []
    for _ in range(DRAWS):
        pairs = _drawn(ratios, slowdown, LOOKS[-1], rng)
        count, verdict = deciding_look(pairs, gate=gate)
        if verdict == Verdict.REGRESSED:
            fresh = _drawn(ratios, slowdown, max(count, CONFIRMING_PAIRS_MIN), rng)
            verdict = verdict_on(fresh, gate=gate, level=level)
        verdicts.append(verdict)
    return verdicts


def _drawn(ratios: Sequence[float], slowdown: float, count: int, rng: random.Random) -> list[float]:
    """Draw with replacement; no two are quite the same, as ties would be an artefact of the drawing."""
    return [ratio * (1 + slowdown) * (1 + TIE_BREAK * rng.random()) for ratio in rng.choices(ratios, k=count)]


def path_in(results: Path, machine: Machine) -> Path:
    """Return where the selftest of this machine is kept."""
    return results / folder_name(machine) / FILE_NAME


def write(selftest: Selftest, path: Path) -> None:
    """Write it as JSON. Raise StorageError."""
    stored.write(selftest, path)


def read(path: Path) -> Selftest:
    """Read what ``write`` wrote. Raise RecordError, naming the file."""
    return stored.read(path, Selftest, kind="selftest", schema_version=SCHEMA_VERSION)


def known(results: Path, machine: Machine) -> Selftest | None:
    """Return the selftest of this machine; None if there was none. Raise RecordError if it cannot be read."""
    path = path_in(results, machine)
    return read(path) if path.exists() else None
