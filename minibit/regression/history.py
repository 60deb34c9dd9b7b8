"""The history of a machine's results: series of sessions in the order of their commits, and where their level shifted.

A *series* is one metric of one benchmark on one machine; figures of two machines are never mixed. A *point* is one
session: the median over its runs that count. What is missing is said, in ``remarks`` and ``missing``, not passed over.
Pure but for the questions to git that ``Commits`` asks.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median

import msgspec

from minibit.record import CodeVersion
from minibit.regression.changes import AT_LEAST, MIN_POINTS, Shift, find_shifts
from minibit.regression.commits import Commits
from minibit.regression.comparison import EXIT_COULD_NOT_RUN
from minibit.regression.evidence import ratio_of
from minibit.regression.metrics import Metric
from minibit.regression.readings import Found, Reading
from minibit.regression.sessions import ID_LENGTH, Session

WITHIN = 10
EXIT_REGRESSED = 1
EXIT_NOTHING_TO_JUDGE = EXIT_COULD_NOT_RUN


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One session: median, smallest and largest value of the ``counted`` among its ``runs``."""

    session: str
    time: datetime
    commit: CodeVersion | None
    environment: str
    value: float
    min: float
    max: float
    runs: int
    counted: int

    @property
    def label(self) -> str:
        """The commit, short, with a star if there were changes beyond it."""
        return f"{self.commit.id[:ID_LENGTH]}{'*' if self.commit.dirty else ''}" if self.commit else "?"


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A shift between two neighbouring points; ``at`` is the index of the second.

    ``commits_between`` have no result; None where git does not know. ``ratio`` is the level after over the one before.
    """

    at: int
    before_session: str
    after_session: str
    before_commit: str | None
    after_commit: str | None
    commits_between: int | None
    before: float
    after: float
    ratio: float
    direction: str  # worse | better
    p: float
    remarks: list[str] = []


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """One metric of one benchmark. ``missing``: sessions since the first point without a value.

    ``remarks`` read after its name. ``current``: the last session has it; ``absent``: nor has it any other version.
    """

    machine: str
    benchmark: str
    metric: str
    title: str
    unit: str
    larger_is_better: bool
    points: list[Point]
    missing: list[str] = []
    changes: list[Change] = []
    remarks: list[str] = []
    current: bool = True
    absent: bool = False

    @property
    def judged(self) -> bool:
        """Whether there are enough sessions to look for shifts."""
        return len(self.points) >= MIN_POINTS


class History(msgspec.Struct, frozen=True, kw_only=True):
    """All series of a source, and its sessions in order. ``left_out``: files that could not be read, and why."""

    source: str
    metrics: list[str]
    at_least: float
    sessions: list[str]
    series: list[Series]
    left_out: list[str] = []


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """What a scheduled job is told. ``unknown``: why it cannot be said that nothing became worse."""

    regressions: list[str]
    unknown: list[str]

    @property
    def exit_code(self) -> int:
        """1 if something became worse, 4 if that cannot be told, else 0."""
        if self.regressions:
            return EXIT_REGRESSED
        return EXIT_NOTHING_TO_JUDGE if self.unknown else 0


def make_history(
    found: Found, metrics: Sequence[Metric], commits: Commits, *, source: str, at_least: float = AT_LEAST
) -> History:
    """Make the series of all readings and find their shifts. Raise UsageError if a library for that is missing."""
    scopes = {machine: _Scope.of(found, machine, commits, at_least) for machine in found.sessions}
    groups: dict[tuple[str, str], list[Reading]] = {}
    for reading in found.readings:
        groups.setdefault((reading.machine, reading.benchmark), []).append(reading)
    series = [
        _series(readings, metric, scopes[machine])
        for (machine, _), readings in sorted(groups.items(), key=lambda group: list(map(_natural, group[0])))
        for metric in metrics
        if any(metric.key in reading.figures for reading in readings)
    ]
    sessions: set[Session] = set().union(*found.sessions.values())
    return History(
        source=source,
        metrics=[metric.key for metric in metrics],
        at_least=at_least,
        sessions=[session.name for session in commits.ordered(sessions)],
        series=series,
        left_out=found.left_out,
    )


def judge(history: History, *, within: int = WITHIN) -> Judgement:
    """Say whether any series became worse within its last ``within`` sessions.

    It did if the newest shift there is for the worse, or if all shifts there together are: a small step back up does
    not make good for a fall. Fails closed: it is unknown if no series that is measured today has enough sessions, and
    of one that had enough and was there within the last ``within`` sessions if the last session lacks it.
    """
    judged = [series for series in history.series if series.judged]
    regressions, unknown = [], []
    recent = set(history.sessions[-within:])
    for series in judged:
        name = f"{series.metric} of {series.benchmark}"
        regressions += [f"{name}: {told}" for told in _became_worse(series, within, history.at_least)]
        if series.absent and series.points[-1].session in recent:
            unknown += [f"{name} {remark}" for remark in series.remarks[:1]]
    if not any(series.current for series in judged):
        most = max((len(series.points) for series in history.series if series.current), default=0)
        unknown.append(f"nothing to judge: {MIN_POINTS} sessions of a series are needed, the longest has {most}")
    return Judgement(regressions=regressions, unknown=unknown)


def _became_worse(series: Series, within: int, at_least: float) -> list[str]:
    """Return, in one line or none, by how much and where a series became worse within its last sessions."""
    shifts = [change for change in series.changes if change.at >= len(series.points) - within]
    if not shifts:
        return []
    newest, before, after = shifts[-1], shifts[0].before, shifts[-1].after
    if newest.direction == "worse":
        return [f"{newest.ratio - 1:+.1%} at {newest.after_commit or newest.after_session}"]
    if ratio_of(before, after, larger_is_better=series.larger_is_better) < 1 + at_least:
        return []
    places = ", ".join(each.after_commit or each.after_session for each in shifts if each.direction == "worse")
    return [f"{after / before - 1:+.1%} over its last {len(shifts)} shifts, worse at {places}"]


# -- one series --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Scope:
    """What all series of a machine have in common: its sessions in order, and the benchmarks that ran in the last."""

    sessions: Sequence[Session]
    ran_last: frozenset[str]
    commits: Commits
    at_least: float

    @classmethod
    def of(cls, found: Found, machine: str, commits: Commits, at_least: float) -> "_Scope":
        sessions = commits.ordered(found.sessions[machine])
        ran = [each.benchmark for each in found.readings if each.machine == machine and each.session == sessions[-1]]
        return cls(sessions, frozenset(ran), commits, at_least)

    def other_version(self, benchmark: str) -> str | None:
        """Return another version of the benchmark that ran in the last session, if it did not run itself."""
        if benchmark in self.ran_last:
            return None
        name = benchmark.partition("@")[0]
        return next((each for each in sorted(self.ran_last) if each.partition("@")[0] == name), None)


def _series(readings: Sequence[Reading], metric: Metric, scope: _Scope) -> Series:
    name, sessions = readings[0].benchmark, scope.sessions
    runs: dict[Session, list[Reading]] = {session: [] for session in sessions}
    for reading in readings:
        runs[reading.session].append(reading)
    by_session = {session: point for session in sessions if (point := _point(session, runs[session], metric))}
    measured, points = list(by_session), list(by_session.values())
    since = sessions[sessions.index(measured[0]) :] if measured else sessions
    shifts = find_shifts([point.value for point in points], at_least=scope.at_least)
    other = scope.other_version(name)
    return Series(
        machine=readings[0].machine,
        benchmark=name,
        metric=metric.key,
        title=metric.title,
        unit=metric.unit,
        larger_is_better=metric.larger_is_better,
        points=points,
        missing=[session.name for session in since if session not in by_session],
        changes=[_change(shift, measured, points, metric, scope.commits) for shift in shifts],
        remarks=_remarks(runs, by_session, metric, other),
        current=sessions[-1] in by_session,
        absent=sessions[-1] not in by_session and other is None,
    )


def _point(session: Session, runs: Sequence[Reading], metric: Metric) -> Point | None:
    values = [value for run in runs if run.valid and (value := run.figures.get(metric.key)) is not None]
    if not values:
        return None
    return Point(
        session=session.name,
        time=session.time,
        commit=session.commit,
        environment=runs[0].environment,
        value=median(values),
        min=min(values),
        max=max(values),
        runs=len(runs),
        counted=len(values),
    )


def _remarks(
    runs: Mapping[Session, Sequence[Reading]], points: Mapping[Session, Point], metric: Metric, other: str | None
) -> list[str]:
    remarks = []
    last = list(runs)[-1]
    if last not in points:
        remarks.append(f"is missing in the last session ({last.name}): {_why(runs[last], metric, other)}")
    everything = [run for group in runs.values() for run in group]
    invalid = sum(not run.valid for run in everything)
    if invalid:
        remarks.append(f"leaves out what is not valid: {len(everything) - invalid} of {len(everything)} runs count")
    without = sum(run.valid and run.figures.get(metric.key) is None for run in everything)
    if without:
        remarks.append(f"is unknown in {without} of {len(everything)} runs")
    return remarks


def _why(runs: Sequence[Reading], metric: Metric, other: str | None) -> str:
    if not runs:
        return f"its scenario is another one there, {other}" if other else "it did not run"
    valid = sum(run.valid for run in runs)
    if not valid:
        return f"0 of {len(runs)} runs count"
    return f"its runs have no {metric.title}"


def _change(
    shift: Shift, sessions: Sequence[Session], points: Sequence[Point], metric: Metric, commits: Commits
) -> Change:
    before, after = points[shift.at - 1], points[shift.at]
    return Change(
        at=shift.at,
        before_session=before.session,
        after_session=after.session,
        before_commit=before.commit.id if before.commit else None,
        after_commit=after.commit.id if after.commit else None,
        commits_between=commits.between(sessions[shift.at - 1], sessions[shift.at]),
        before=shift.before,
        after=shift.after,
        ratio=shift.ratio,
        direction="better" if (shift.ratio > 1) == metric.larger_is_better else "worse",
        p=shift.p,
        remarks=_beside(before, after),
    )


def _beside(before: Point, after: Point) -> list[str]:
    """Return what else may be behind a shift than the commits."""
    remarks = []
    if before.commit and after.commit and before.commit.id == after.commit.id:
        changed = before.commit.dirty or after.commit.dirty
        remarks.append("one commit on both sides" + (", with changes" if changed else ": not the code's doing"))
    if before.environment != after.environment:
        remarks.append(f"the environment changed too: {before.environment} -> {after.environment}")
    return remarks


def _natural(text: str) -> list[str | int]:
    """Return a key by which swarm-2 comes before swarm-16: words and numbers in turn."""
    return [int(part) if place % 2 else part for place, part in enumerate(re.split(r"(\d+)", text))]
