"""Good clients while others misbehave: their latency before, during and after, and how soon all is well again."""

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import requests

from minibit.errors import MiniBitError, UsageError
from minibit.load import stored
from minibit.load.attacks import ATTACKS
from minibit.load.drive import drive
from minibit.load.embedded import Embedded
from minibit.load.generator import Plan
from minibit.load.measurement import Slice
from minibit.load.population import FAULTS
from minibit.provenance import code_version, describe_machine
from minibit.record import CodeVersion, Machine, quantile
from minibit.wire import STATS

SCHEMA_VERSION = 1
SLICE_S = 0.5
OPEN_FILES = 1088  # of the tracker under attack: 1,024 connections, which the idle ones exceed
IDLE_SOCKETS = 1500
STORM_PEERS = 100_000
WELL_FACTOR, WELL_S = 2.0, 0.02  # all is well when p99 is below twice what it was, or 20 ms
WARM_UP_S = 1.0
FILL_S = 8.0  # within which a tracker with the hundred thousand is up
ANNOUNCES_SHARE = 0.75  # of the requests; the others are questions, farewells, second tries
REBUILT_SHARE = 0.95
NAMES = (*ATTACKS, "expiry", "restart")


class Phase(msgspec.Struct):
    """The good clients' figures in one phase; seconds."""

    answered: int
    errors: int
    p50_s: float
    p99_s: float
    max_s: float


class Abuse(msgspec.Struct, kw_only=True):
    """One kind of abuse. ``recovery_s``: after its end, until all stayed well; None if it did not."""

    name: str
    what: str
    begins_s: float
    ends_s: float
    before: Phase
    during: Phase
    after: Phase
    recovery_s: float | None
    errors: dict[str, int]
    generator: list[str] = []  # why the good clients' figures may be their generator's own
    timeline: list[Slice]


class Course(msgspec.Struct, kw_only=True):
    """How long each phase lasts, how many good requests come, on how many sockets the abuse comes."""

    before_s: float = 5.0
    during_s: float = 10.0
    after_s: float = 10.0
    rate_per_s: float = 500.0
    sockets: int = 500


class AbuseRecord(msgspec.Struct, kw_only=True):
    """Everything that ``minibit abuse`` found."""

    kind: str = "abuse"
    schema_version: int = SCHEMA_VERSION
    server: str
    protocol: str
    course: Course
    started_at: str
    machine: Machine
    commit: CodeVersion | None
    found: list[Abuse]


def abuse(
    names: Sequence[str],
    course: Course,
    *,
    server: str = "waitress",
    protocol: str = "rest",
    watch: Callable[[Abuse], None] = lambda _abuse: None,
) -> AbuseRecord:
    """Start a tracker for each kind of abuse and abuse it amid good traffic. Raise UsageError for unknown names."""
    unknown = sorted(set(names) - set(NAMES))
    if unknown:
        raise UsageError(f"{unknown[0]!r} is no abuse; there are {', '.join(NAMES)}")
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    found = []
    for name in names or NAMES:
        found.append(_abused(name, course, server, protocol))
        watch(found[-1])
    return AbuseRecord(
        server=server,
        protocol=protocol,
        course=course,
        started_at=started_at,
        machine=describe_machine(),
        commit=code_version(),
        found=found,
    )


def write(result: AbuseRecord, path: Path) -> None:
    """Write it as JSON. Raise StorageError."""
    stored.write(result, path)


def read(path: Path) -> AbuseRecord:
    """Read what ``write`` wrote. Raise RecordError, naming the file."""
    return stored.read(path, AbuseRecord, kind="abuse", schema_version=SCHEMA_VERSION)


def recovery_s(timeline: Sequence[Slice], ends_s: float, before_p99_s: float) -> float | None:
    """Return how long after ``ends_s`` all was well and stayed so; None if the last slice was not. Pure."""
    limit_us = max(WELL_FACTOR * before_p99_s, WELL_S) * 1e6
    afterwards = [part for part in timeline if part.begins_s >= ends_s]
    if not afterwards:
        return None
    ill = [part for part in afterwards if part.errors or quantile(part.latencies_us or [limit_us + 1], 0.99) > limit_us]
    if not ill:
        return 0.0
    return None if ill[-1] is afterwards[-1] else ill[-1].begins_s + SLICE_S - ends_s


def phase_of(parts: Sequence[Slice]) -> Phase:
    """Return the figures of some slices together. Pure."""
    latencies_s = [latency / 1e6 for part in parts for latency in part.latencies_us]
    errors = sum(part.errors for part in parts)
    if not latencies_s:
        return Phase(0, errors, 0.0, 0.0, 0.0)
    return Phase(len(latencies_s), errors, quantile(latencies_s, 0.5), quantile(latencies_s, 0.99), max(latencies_s))


def _abused(name: str, course: Course, server: str, protocol: str) -> Abuse:
    stage = STAGES.get(name, _Attack)(name, course, server)
    try:
        plan = Plan(
            url=stage.url,
            kind="tracker",
            seed=1,
            protocol=protocol,
            rate_per_s=course.rate_per_s,
            warm_up_s=WARM_UP_S,
            seconds=course.before_s + course.during_s + course.after_s,
            slice_s=SLICE_S,
            tidy_up=False,
            # Those who open a connection for each request are the first whom a crowd of bad ones locks out.
            close=name in ATTACKS,
            peers=stage.peers,
            allow=[*FAULTS] if name == "restart" else [],  # a tracker that begins anew knows nobody at first
        )
        with ThreadPoolExecutor(1) as crew:
            acting: list[Future[None]] = []
            result = drive(plan, when_begun=lambda: acting.append(stage.begin(crew)))
            for act in acting:
                act.result()
    finally:
        stage.close()
    timeline, begins_s, ends_s = result.seen.timeline, stage.begins_s, stage.ends_s
    before = phase_of([part for part in timeline if part.begins_s + SLICE_S <= begins_s])
    return Abuse(
        name=name,
        what=stage.what,
        begins_s=begins_s,
        ends_s=ends_s,
        before=before,
        during=phase_of([part for part in timeline if begins_s - SLICE_S < part.begins_s < ends_s]),
        after=phase_of([part for part in timeline if part.begins_s >= ends_s]),
        recovery_s=recovery_s(timeline, ends_s, before.p99_s),
        errors=result.all.errors,
        generator=result.generator_was_the_bound,
        timeline=timeline,
    )


class _Attack:
    """A tracker, and those who misbehave towards it for a while. Times count from the end of the warm-up."""

    peers = 500

    def __init__(self, name: str, course: Course, server: str) -> None:
        self.name = name
        self.course = course
        self.server = server
        self.begins_s, self.ends_s = course.before_s, course.before_s + course.during_s
        self.what = f"{course.sockets} sockets"
        self.zero_s = 0.0
        self.target = self.start()
        self.url = self.target.url

    def start(self, *more: str) -> Embedded:
        """Start the tracker."""
        return Embedded("tracker", "--server", self.server, "--open-files", str(OPEN_FILES), *more)

    def begin(self, crew: Executor) -> "Future[None]":
        """Take the time: the good clients begin now."""
        self.zero_s = time.monotonic() + WARM_UP_S
        return crew.submit(self.act)

    def act(self) -> None:
        """Misbehave from ``begins_s`` to ``ends_s``."""
        count = max(self.course.sockets, IDLE_SOCKETS) if self.name == "idle" else self.course.sockets
        address = urlsplit(self.url)
        self.wait_until(self.begins_s)
        command = [sys.executable, "-m", "minibit.load.attacks", self.name, str(address.hostname), str(address.port)]
        attacker = subprocess.Popen([*command, str(count)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.wait_until(self.ends_s)
        told, _ = attacker.communicate()
        self.ends_s = self.now_s()
        if attacker.returncode:
            raise MiniBitError(f"the attack {self.name} failed: {told.strip() or 'see above'}")
        self.what = told.strip()

    def now_s(self) -> float:
        """Return the time."""
        return time.monotonic() - self.zero_s

    def wait_until(self, at_s: float) -> None:
        """Sleep."""
        time.sleep(max(0.0, at_s - self.now_s()))

    def close(self) -> None:
        """End the tracker."""
        self.target.stop()


class _Expiry(_Attack):
    """A hundred thousand peers, registered at one moment, expire at one moment."""

    def start(self, *more: str) -> Embedded:
        """Start the tracker so that they expire when the time has come; wait until it is near."""
        ttl_s = FILL_S + WARM_UP_S + self.course.before_s
        target = super().start("--registered", str(STORM_PEERS), "--registered-ttl", str(ttl_s), *more)
        self.expire_s = float(target.output.readline().split()[1]) + ttl_s
        if time.monotonic() > self.expire_s - WARM_UP_S - self.course.before_s:
            target.stop()
            raise MiniBitError(f"this machine is too slow: {STORM_PEERS:,} peers took longer than {FILL_S:g} s")
        time.sleep(max(0.0, self.expire_s - WARM_UP_S - self.course.before_s - time.monotonic()))
        return target

    def act(self) -> None:
        """Nothing: time does it."""
        self.begins_s = self.expire_s - self.zero_s
        self.ends_s = self.begins_s + self.course.during_s
        self.what = f"{STORM_PEERS:,} peers at once"


class _Restart(_Attack):
    """The tracker is stopped and started again, and has forgotten everybody."""

    def __init__(self, name: str, course: Course, server: str) -> None:
        super().__init__(name, course, server)
        self.peers = round(ANNOUNCES_SHARE * course.before_s * course.rate_per_s)  # each announces once in that time

    def act(self) -> None:
        """Restart, and see how soon the peers are known again."""
        self.wait_until(self.begins_s)
        self.begins_s = self.now_s()
        self.target.stop()
        self.target = self.start("--port", str(urlsplit(self.url).port))
        self.ends_s = self.now_s()
        known_s = None
        while known_s is None and self.now_s() < self.ends_s + self.course.after_s:
            time.sleep(SLICE_S / 2)
            if self._known() >= REBUILT_SHARE * self.peers:
                known_s = self.now_s() - self.ends_s
        known = (
            f"{REBUILT_SHARE:.0%} of {self.peers:,} peers known again after {known_s:.1f} s"
            if known_s
            else "not rebuilt"
        )
        self.what = (
            f"away for {self.ends_s - self.begins_s:.1f} s, {known} (each announces every {self.course.before_s:g} s)"
        )

    def _known(self) -> int:
        try:
            return int(requests.get(f"{self.url}{STATS}", timeout=1).json()["peers"])
        except (requests.RequestException, KeyError, ValueError):
            return 0


STAGES: dict[str, type[_Attack]] = {"expiry": _Expiry, "restart": _Restart}
