"""What stored results say to a history: one reading for each run of each benchmark in each session. Only reads.

A benchmark is a swarm's scenario in one version of it, or one of pytest-benchmark's under its full name. A file that
should be readable and is not is left out by name; results of other kinds (load tests, comparisons) are no readings.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec

from minibit import record as records
from minibit.errors import MiniBitError, RecordError, UsageError
from minibit.provenance import folder_name
from minibit.record import CodeVersion, Machine
from minibit.regression.metrics import SWARM, Metric, requests_counted, swarm_figures
from minibit.regression.sessions import Session, machines, session_named
from minibit.scenario import FileSpec, Scenario

TIME = Metric("time", "median time", "s")
ALL = "all"
VERSION_DIGITS = 6
_ID = re.compile("[0-9a-f]{7,40}")
# What may differ between runs of one version: the seed, how it is called, where the file lies, how long is waited.
NO_VERSION: Mapping[type, tuple[str, ...]] = {Scenario: ("name", "rng_seed", "timeout_s"), FileSpec: ("path",)}


@dataclass(frozen=True, slots=True)
class Reading:
    """One run: its figures by metric, None where it has none, and whether they count."""

    session: Session
    machine: str
    benchmark: str
    environment: str
    figures: Mapping[str, float | None]
    valid: bool = True


@dataclass(slots=True)
class Found:
    """All readings of some files; ``sessions`` names, by machine, those without any too; ``left_out``: file and why."""

    readings: list[Reading] = field(default_factory=list)
    sessions: dict[str, set[Session]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def add(self, readings: Sequence[Reading]) -> None:
        """Take readings over."""
        self.readings += readings
        for reading in readings:
            self.sessions.setdefault(reading.machine, set()).add(reading.session)


def metrics_named(name: str) -> tuple[Metric, ...]:
    """Return the metric of this name, or every one for ``all``. Raise UsageError that names those there are."""
    known = {metric.key: metric for metric in (*SWARM, TIME)}
    if name == ALL:
        return tuple(known.values())
    if name not in known:
        raise UsageError(f"there is no metric {name}; there are {', '.join(known)}, and {ALL}")
    return (known[name],)


def scenario_version(scenario: Mapping[str, Any]) -> str:
    """Return a short hash of all that decides what a swarm does; a default reads like a key that is not there yet."""
    try:
        told: Any = _without_defaults(msgspec.convert(scenario, Scenario))
    except (msgspec.ValidationError, MiniBitError):  # of another MiniBit, with keys that this one does not know
        told = {key: value for key, value in scenario.items() if key not in NO_VERSION[Scenario]}
    return hashlib.sha256(msgspec.json.encode(told, order="sorted")).hexdigest()[:VERSION_DIGITS]


def read_sessions(results: Path, machine: str) -> Found:
    """Read every session of a machine. Raise UsageError that names the machines there are if it has none."""
    there_are = machines(results)
    if machine not in there_are:
        others = f"; there are {', '.join(there_are)}" if there_are else ""
        raise UsageError(f"{results} has no sessions of {machine}{others}")
    found = Found(sessions={machine: set()})
    for folder in sorted(path for path in (results / machine).iterdir() if path.is_dir()):
        if session := session_named(folder.name):
            _read_session(session, folder, machine, found)
    return found


def read_benchmarks(paths: Sequence[Path]) -> Found:
    """Read files of pytest-benchmark, and folders of them (its own storage). Raise UsageError if there are none."""
    files = [file for path in paths for file in (_json_files(path) if path.is_dir() else [path])]
    found = Found()
    for file in files:
        try:
            told = _benchmarks_in(file)
        except RecordError as error:
            found.left_out.append(str(error))
            continue
        found.add(_timings(told, told.session(file.stem), told.machine()))
    if not files:
        raise UsageError(f"no files of pytest-benchmark in {', '.join(map(str, paths))}")
    return found


# -- sessions ----------------------------------------------------------------------------------------------------------


def _read_session(session: Session, folder: Path, machine: str, found: Found) -> None:
    readings: list[Reading] = []
    others = 0
    for file in _json_files(folder):
        try:
            kind = _kind_of(file)
            if kind == "swarm":
                readings.append(_swarm(file, session))
            elif kind == "benchmarks":
                told = _benchmarks_in(file)
                readings += _timings(told, told.within(session), machine)
            others += kind == "other"
        except RecordError as error:
            found.left_out.append(str(error))
    found.add(_settled(readings))
    if not readings and not others:
        found.sessions[machine].add(session)  # it measured nothing: that must not look as if it had never been


def _settled(readings: Sequence[Reading]) -> list[Reading]:
    """Give all readings of one commit the same session: its full id, dirty if any of them says so."""
    told = {commit for reading in readings if (commit := reading.session.commit)}
    ids = {commit.id: max((c.id for c in told if c.id.startswith(commit.id)), key=len) for commit in told}
    dirty = {ids[commit.id] for commit in told if commit.dirty}
    settled = []
    for reading in readings:
        commit = reading.session.commit
        if commit:
            commit = CodeVersion(id=ids[commit.id], dirty=ids[commit.id] in dirty)
        settled.append(replace(reading, session=replace(reading.session, commit=commit)))
    return settled


def _swarm(file: Path, session: Session) -> Reading:
    record = records.read(file)
    return Reading(
        session=replace(session, commit=record.commit or session.commit),
        machine=folder_name(record.machine),
        benchmark=f"{record.scenario.get('name', file.stem)}@{scenario_version(record.scenario)}",
        environment=f"{record.machine.kernel}, {record.machine.python}",
        figures=swarm_figures(record, requests_counted(file.read_bytes())),
        valid=record.valid,
    )


def _without_defaults(struct: msgspec.Struct) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for known in msgspec.structs.fields(struct):
        value = getattr(struct, known.name)
        if known.name in NO_VERSION.get(type(struct), ()):
            continue
        if isinstance(value, msgspec.Struct):
            told[known.name] = _without_defaults(value)
        elif isinstance(value, tuple):
            told[known.name] = [_without_defaults(each) for each in value]
        elif value != known.default:
            told[known.name] = value
    return told


class _Head(msgspec.Struct):
    """What tells the kinds of files apart."""

    kind: str = ""
    schema_version: int | None = None
    scenario: Any = None
    benchmarks: Any = None
    commit_info: Any = None


def _kind_of(file: Path) -> str:
    """Return swarm, benchmarks, other (a result that is neither) or an empty string. Raise RecordError."""
    try:
        head = msgspec.json.decode(file.read_bytes(), type=_Head)
    except msgspec.ValidationError:
        return ""  # JSON, but nothing of ours
    except OSError as error:
        raise RecordError(f"cannot read {file}: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RecordError(f"{file} is not JSON: {error}") from error
    if head.benchmarks is not None and head.commit_info is not None:
        return "benchmarks"
    if head.kind not in {"", "swarm"}:
        return "other"
    return "swarm" if head.scenario is not None and head.schema_version is not None else ""


def _json_files(folder: Path) -> Iterator[Path]:
    """Yield the JSON files below a folder, in order, without hidden ones (what is being written, other storages)."""
    for path in sorted(folder.rglob("*.json")):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path


# -- pytest-benchmark --------------------------------------------------------------------------------------------------


class _Stats(msgspec.Struct):
    median: Annotated[float, msgspec.Meta(ge=0)]


class _Benchmark(msgspec.Struct):
    fullname: str
    stats: _Stats


class _CommitInfo(msgspec.Struct):
    id: str | None = None
    dirty: bool | None = None


class _BenchmarkFile(msgspec.Struct):
    """The part of pytest-benchmark's JSON that a history needs."""

    benchmarks: list[_Benchmark]
    commit_info: _CommitInfo
    datetime: str
    machine_info: dict[str, Any] = {}

    def commit(self) -> CodeVersion | None:
        """Return the commit; None where there was no repository ("unversioned")."""
        told = self.commit_info.id or ""
        return CodeVersion(id=told, dirty=bool(self.commit_info.dirty)) if _ID.fullmatch(told) else None

    def session(self, name: str) -> Session:
        """Return the session that the file is by itself."""
        time = datetime.fromisoformat(self.datetime)
        return Session(name, time if time.tzinfo else time.replace(tzinfo=UTC), self.commit())

    def within(self, session: Session) -> Session:
        """Return the session with the full id; the folder knows better whether the package's files were changed."""
        commit, given = self.commit(), session.commit
        if commit is None or (given and not commit.id.startswith(given.id)):
            return session
        return replace(session, commit=CodeVersion(id=commit.id, dirty=bool(given and given.dirty)))

    def machine(self) -> str:
        """Return a name for the machine, as those of our own folders; the host's name tells two of one model apart."""
        cpu = self.machine_info.get("cpu") or {}
        name = str(cpu.get("brand_raw") or self.machine_info.get("machine") or "")
        node = str(self.machine_info.get("node") or "unknown")
        host = Machine(cpu=name, cores=int(cpu.get("count") or 0), memory_bytes=0, kernel="", python="", id=node)
        return folder_name(host)

    def environment(self) -> str:
        """Return kernel and Python as a record tells them."""
        names = (("system", "release"), ("python_implementation", "python_version"))
        return ", ".join(" ".join(str(self.machine_info.get(name, "?")) for name in pair) for pair in names)


def _benchmarks_in(file: Path) -> _BenchmarkFile:
    try:
        told = msgspec.json.decode(file.read_bytes(), type=_BenchmarkFile)
        told.session("")  # its time can be read
        return told
    except OSError as error:
        raise RecordError(f"cannot read {file}: {error.strerror}") from error
    except (msgspec.DecodeError, ValueError) as error:
        raise RecordError(f"{file} is no file of pytest-benchmark: {error}") from error


def _timings(told: _BenchmarkFile, session: Session, machine: str) -> list[Reading]:
    return [
        Reading(session, machine, each.fullname, told.environment(), {TIME.key: each.stats.median})
        for each in told.benchmarks
    ]
