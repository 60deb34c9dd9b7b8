"""``compare(base, head) -> Comparison``: pairs of runs in turn until every metric is decided or the budget is spent.

Pair 0 runs base first, pair 1 head first, and so on (A B B A …); both runs of a pair have the same seed. A workload
whose metrics are all decided runs no more. An alarm is confirmed by fresh pairs before it is given. Whatever makes the
two sides incomparable raises CouldNotCompare: there is no verdict then.
"""

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import msgspec

from minibit.provenance import describe_machine
from minibit.record import CodeVersion, Machine, Record
from minibit.regression import host
from minibit.regression.comparison import Compared, Comparison, SideRecord, Workload
from minibit.regression.evidence import (
    CONFIRMING_PAIRS_MIN,
    LOOKS,
    Evidence,
    Verdict,
    confirming_level,
    first_decision,
    judge,
    next_look,
    overall,
    ratio_of,
)
from minibit.regression.metrics import WORKLOADS, Metric
from minibit.regression.sides import CouldNotCompare, DoesNotCount, Side
from minibit.regression.trials import Runs, Trial, differences

BUDGET_S = 300.0
PACKAGES_SHOWN = 5
REPEATED_MAX = 3  # pairs of a workload, because a run did not count: a busy moment is none of the code's doing
_MACHINE_FIELDS = ("id", "cpu", "cores", "memory_bytes", "kernel")


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """How far a comparison is, for whoever watches: ``pairs`` of ``until`` of a workload, in one of its phases.

    The phases are warm-up, pairs and confirm; ``undecided`` names the metrics that are open.
    """

    phase: str
    workload: str
    pairs: int = 0
    until: int = 0
    undecided: Sequence[str] = ()
    elapsed_s: float = 0.0


Watch = Callable[[Step], None]


@dataclass(slots=True)
class _Series:
    """One metric of one workload."""

    metric: Metric
    gate: float
    base: list[float] = field(default_factory=list)
    head: list[float] = field(default_factory=list)
    fresh_base: list[float] = field(default_factory=list)
    fresh_head: list[float] = field(default_factory=list)
    confirmation: Evidence | None = None

    def add(self, base: float, head: float, *, fresh: bool) -> None:
        (self.fresh_base if fresh else self.base).append(base)
        (self.fresh_head if fresh else self.head).append(head)

    def ratios(self, *, fresh: bool = False) -> list[float]:
        values = zip(self.fresh_base, self.fresh_head, strict=True) if fresh else zip(self.base, self.head, strict=True)
        better_larger = self.metric.larger_is_better
        return [ratio_of(base, head, larger_is_better=better_larger) for base, head in values]

    @property
    def evidence(self) -> Evidence:
        return first_decision(self.ratios(), gate=self.gate)

    @property
    def alarm(self) -> bool:
        """Whether it looks regressed and no fresh pairs were asked yet."""
        return self.confirmation is None and self.evidence.verdict == Verdict.REGRESSED

    @property
    def regressed(self) -> bool:
        return self.confirmation is not None and self.confirmation.verdict == Verdict.REGRESSED

    @property
    def open(self) -> bool:
        return self.confirmation is None and self.evidence.verdict == Verdict.INCONCLUSIVE

    def told(self, workload: str) -> Compared:
        return Compared(
            workload=workload,
            key=self.metric.key,
            title=self.metric.title,
            unit=self.metric.unit,
            larger_is_better=self.metric.larger_is_better,
            base=self.base,
            head=self.head,
            evidence=self.evidence,
            fresh_base=self.fresh_base,
            fresh_head=self.fresh_head,
            confirmation=self.confirmation,
        )


@dataclass(slots=True)
class _Course:
    """One workload: its pairs so far, and what its metrics say."""

    runs: Runs
    series: list[_Series]
    scenario: dict[str, object] = field(default_factory=dict)
    pairs: int = 0
    fresh_pairs: int = 0
    seconds: float = 0.0
    repeated: int = 0

    @property
    def target(self) -> int | None:
        """The number of pairs at which it is looked next; None if it is decided, or there are no more looks."""
        return next_look(self.pairs) if not self.pairs or any(series.open for series in self.series) else None

    @property
    def pair_s(self) -> float:
        return self.seconds / max(1, self.pairs + self.fresh_pairs)


@dataclass(slots=True)
class _Comparing:
    """A comparison under way."""

    base: Side
    head: Side
    courses: list[_Course]
    rng_seed: int
    deadline_s: float
    watch: Watch
    began_s: float
    machine: Machine
    remarks: list[str] = field(default_factory=list)
    commits: dict[str, CodeVersion] = field(default_factory=dict)

    # -- one pair

    def pair(self, course: _Course, *, fresh: bool = False) -> None:
        """Run both sides once, in the order that is due, and keep their figures."""
        began_s = time.monotonic()
        number = course.fresh_pairs if fresh else course.pairs
        seed = self.rng_seed + course.pairs + course.fresh_pairs
        order = (self.base, self.head) if number % 2 == 0 else (self.head, self.base)
        trials = self._trials(course, order, seed)
        self._check_alike(course, trials)
        for series in course.series:
            base, head = (trials[name].figures[series.metric.key] for name in ("base", "head"))
            if base is None or head is None:
                missing = "base" if base is None else "head"
                raise CouldNotCompare(f"{series.metric.title} of {course.runs.name} is missing in a run of {missing}")
            series.add(base, head, fresh=fresh)
        if fresh:
            course.fresh_pairs += 1
        else:
            course.pairs += 1
        course.seconds += time.monotonic() - began_s

    def _trials(self, course: _Course, order: Sequence[Side], seed: int) -> dict[str, Trial]:
        """Run the sides in order; all of them again if one does not count, which is told; not for ever."""
        while True:
            try:
                return course.runs.pair(order, seed)
            except DoesNotCount as error:
                course.repeated += 1
                if course.repeated > REPEATED_MAX:
                    raise
                self.remark(f"run again, {course.repeated} of at most {REPEATED_MAX}: {error}")

    def _check_alike(self, course: _Course, trials: Mapping[str, Trial]) -> None:
        """Refuse runs on different machines, and different scenarios unless they are what is compared."""
        base, head = trials["base"].record, trials["head"].record
        if base is None or head is None:
            return
        for record in (base, head):
            for name in _MACHINE_FIELDS:
                here, there = getattr(self.machine, name), getattr(record.machine, name)
                if here != there:
                    raise CouldNotCompare(f"the runs are of different machines: {name} is {here} and {there}")
        self._note(base, head)
        course.scenario = course.scenario or base.scenario
        if self.base.scenario:
            return
        changed, one_sided = differences(base.scenario, head.scenario)
        if changed:
            raise CouldNotCompare(
                f"the scenario {course.runs.name} is not the same on both sides: {'; '.join(changed[:3])}"
            )
        for key in one_sided:
            self.remark(f"only one side knows the scenario's {key}")

    def _note(self, base: Record, head: Record) -> None:
        for side, record in ((self.base, base), (self.head, head)):
            if record.commit:
                self.commits[side.name] = record.commit

    def remark(self, text: str) -> None:
        """Keep what a reader must know, once."""
        if text not in self.remarks:
            self.remarks.append(text)

    # -- the whole

    def warm_up(self, course: _Course) -> None:
        """Run each side once, uncounted: files are read from disk and compiled then; settle what can be compared."""
        self._tell("warm-up", course)
        trials = self._trials(course, (self.base, self.head), self.rng_seed)
        figures = {name: trial.figures for name, trial in trials.items()}
        for series in list(course.series):
            lacking = [name for name, told in figures.items() if told.get(series.metric.key) is None]
            if len(lacking) == 1:
                raise CouldNotCompare(
                    f"{series.metric.title} of {course.runs.name} is missing on one side: {lacking[0]}"
                )
            if lacking:
                course.series.remove(series)
                self.remark(f"{series.metric.title} of {course.runs.name} is measured on neither side")

    def settle(self) -> None:
        """Add pairs, look by look, until all is decided, something regressed, or the budget is spent.

        Every workload has its first look, also if one before it regressed: what else became worse is to be told too.
        """
        while courses := [course for course in self.courses if self._affords(course)]:
            for course in courses:
                until = course.target or course.pairs
                while course.pairs < until:
                    self._tell("pairs", course, until)
                    self.pair(course)
                self.confirm(course)
            if any(series.regressed for course in courses for series in course.series):
                return

    def run_all(self, pairs: int) -> None:
        """Run so many pairs of every workload, whatever they say."""
        for course in self.courses:
            while course.pairs < pairs:
                self._tell("pairs", course, pairs)
                self.pair(course)

    def _affords(self, course: _Course) -> bool:
        """Whether the next look, if there is one, can be had in time; the first one is always taken."""
        if course.target is None:
            return False
        cost_s = (course.target - course.pairs) * course.pair_s
        return course.target == LOOKS[0] or time.monotonic() + cost_s <= self.deadline_s

    def confirm(self, course: _Course) -> None:
        """Ask fresh pairs about every alarm, whatever is left of the budget: an alarm alone is no verdict."""
        alarmed = [series for series in course.series if series.alarm]
        if not alarmed:
            return
        until = course.fresh_pairs + max(CONFIRMING_PAIRS_MIN, *(series.evidence.pairs for series in alarmed))
        asked_from = course.fresh_pairs
        while course.fresh_pairs < until:
            self._tell("confirm", course, until)
            self.pair(course, fresh=True)
        level = confirming_level(sum(len(each.series) for each in self.courses))
        for series in alarmed:
            series.confirmation = judge(series.ratios(fresh=True)[asked_from:], gate=series.gate, level=level)

    def _tell(self, phase: str, course: _Course, until: int = 0) -> None:
        self.watch(
            Step(
                phase=phase,
                workload=course.runs.name,
                pairs=course.fresh_pairs if phase == "confirm" else course.pairs,
                until=until,
                undecided=[series.metric.key for series in course.series if not course.pairs or series.open],
                elapsed_s=time.monotonic() - self.began_s,
            )
        )


def compare(
    base: Side,
    head: Side,
    workloads: Sequence[Runs],
    *,
    gates: Mapping[str, float] | None = None,
    budget_s: float = BUDGET_S,
    pairs: int | None = None,
    rng_seed: int | None = None,
    watch: Watch = lambda _step: None,
) -> Comparison:
    """Compare the two sides; return the verdict with its evidence.

    ``gates`` are shares by metric, where they are not the metric's own: 0.05 lets 5 % pass, infinity leaves a metric
    out. A confirmation may take longer than ``budget_s``. ``pairs`` runs so many of every workload instead, and
    confirms nothing. Raise CouldNotCompare, naming what is in the way, if there can be no verdict.
    """
    began_s, started_at = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
    before = host.look()
    seed = random.SystemRandom().randrange(1 << 30) if rng_seed is None else rng_seed
    told = (base.look(), head.look())
    comparing = _Comparing(
        base,
        head,
        [_Course(runs, series) for runs in workloads if (series := _series(runs.kind, gates or {}))],
        seed,
        began_s + budget_s,
        watch,
        began_s,
        describe_machine(),
        _remarks_on(*told),
    )
    for course in comparing.courses:
        comparing.warm_up(course)
    comparing.courses = [course for course in comparing.courses if course.series]
    if not comparing.courses:
        raise CouldNotCompare("there is nothing to judge: of no metric can a change be seen here")
    if pairs:
        comparing.run_all(pairs)
    else:
        comparing.settle()
    return _comparison(comparing, told, started_at, budget_s, host.doubts(before, host.look()))


def _series(kind: str, gates: Mapping[str, float]) -> list[_Series]:
    judged = ((metric, gates.get(metric.key, metric.gate)) for metric in WORKLOADS[kind])
    return [_Series(metric, gate) for metric, gate in judged if gate < math.inf]


def _comparison(
    comparing: _Comparing, sides: tuple[SideRecord, SideRecord], started_at: str, budget_s: float, doubts: list[str]
) -> Comparison:
    metrics = [series.told(course.runs.name) for course in comparing.courses for series in course.series]
    for side in sides:
        side.commit = side.commit or comparing.commits.get("base" if side is sides[0] else "head")
    for metric in metrics:
        if metric.confirmation and metric.verdict != Verdict.REGRESSED:
            comparing.remark(f"{metric.title} looked regressed, but fresh pairs did not confirm it")
    return Comparison(
        started_at=started_at,
        machine=comparing.machine,
        base=sides[0],
        head=sides[1],
        rng_seed=comparing.rng_seed,
        budget_s=budget_s,
        elapsed_s=time.monotonic() - comparing.began_s,
        workloads=[
            Workload(
                name=course.runs.name,
                kind=course.runs.kind,
                scenario=course.scenario,
                pairs=course.pairs + course.fresh_pairs,
                seconds=course.seconds,
            )
            for course in comparing.courses
        ],
        metrics=metrics,
        verdict=overall([metric.verdict for metric in metrics]),
        remarks=comparing.remarks + doubts,
    )


def _remarks_on(base: SideRecord, head: SideRecord) -> list[str]:
    """Return in what the two interpreters differ."""
    remarks = [f"Python differs: {base.python} and {head.python}"] if base.python != head.python else []
    names = sorted(base.packages.keys() | head.packages.keys())
    changed = [
        f"{name} {base.packages.get(name, 'none')} and {head.packages.get(name, 'none')}"
        for name in names
        if base.packages.get(name) != head.packages.get(name)
    ]
    if changed:
        more = f" and {len(changed) - PACKAGES_SHOWN} more" if len(changed) > PACKAGES_SHOWN else ""
        remarks.append(f"libraries differ: {', '.join(changed[:PACKAGES_SHOWN])}{more}")
    return remarks
