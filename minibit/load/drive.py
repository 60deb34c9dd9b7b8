"""Load made by processes: MiniBit's own generators, or locust; either gives back the same ``LoadResult``."""

import contextlib
import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from minibit import metainfo
from minibit.errors import MiniBitError, UsageError
from minibit.load.generator import Plan
from minibit.load.measurement import Seen, merged
from minibit.load.result import LoadResult, read
from minibit.provenance import PACKAGE, code_version, describe_machine
from minibit.units import format_size

STOPPING_S = 0.25  # that the locustfiles stop counting before locust, which knows whole seconds only, ends a test
TURN_S = (0.008, 0.020)  # shorter: mostly what was in flight at its end; longer: as different as the machine's moods
SPARE_S = 60.0  # beyond what a test should take, before its processes are given up
LOCUSTFILES = PACKAGE.parent / "locustfiles"


def drive(
    plan: Plan, *, processes: int = 1, title: str = "", when_begun: Callable[[], None] = lambda: None
) -> LoadResult:
    """Carry out the plan with so many generators side by side. Raise MiniBitError if one of them fails.

    ``when_begun`` is called when they have been told to begin.
    """
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    with _started([_part(plan, part, processes) for part in range(processes)]) as generators:
        for generator in generators:
            _say(generator, b"go\n")
        when_begun()
        seen = [_seen(generator, plan.warm_up_s + plan.seconds + SPARE_S) for generator in generators]
    return _result(plan, merged(seen), processes, started_at, title)


def drive_in_turn(plans: Sequence[Plan], *, turn_s: tuple[float, float] = TURN_S) -> list[LoadResult]:
    """Carry out closed-loop plans of equal length on several targets at once, but only one sends at any moment.

    They take turns in rounds, and each rests (its process is stopped) while others have theirs: what slows the machine
    for longer than that slows all alike. A round's turns are of one length between the two of ``turn_s``, and their
    order is drawn too: with even ones, whatever is periodic would hit one plan always. ``duration_s`` of a result is
    the time that it had. Its figures are for comparing with the others': what is in flight at the end of a turn is
    answered beyond it, so that a rate is a little too high, and the latency of those requests holds the rest. Raise
    ValueError for plans of another kind, MiniBitError if a generator fails.
    """
    if any(plan.rate_per_s is not None or plan.seconds != plans[0].seconds for plan in plans):
        raise ValueError("only closed loops of one length can take turns")
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    with _started(plans) as generators:
        turns = [_Turns(generator, plan) for generator, plan in zip(generators, plans, strict=True)]
        rng = random.Random(plans[0].seed)
        while not all(each.over for each in turns):
            length_s = rng.uniform(*turn_s)
            for each in rng.sample(turns, len(turns)):
                each.take(length_s)
        for each in turns:
            each.generator.send_signal(signal.SIGCONT)
        seen = [_seen(generator, SPARE_S) for generator in generators]
    for each, had in zip(turns, seen, strict=True):
        had.duration_s = each.active_s
    return [_result(plan, had, 1, started_at, "") for plan, had in zip(plans, seen, strict=True)]


class _Turns:
    """A generator that sends now and then: how long it did so within the window that it counts."""

    def __init__(self, generator: subprocess.Popen[bytes], plan: Plan) -> None:
        self.generator = generator
        self.active_s = 0.0
        self._plan = plan
        self._begins_s = math.inf
        self._ends_s = math.inf

    @property
    def over(self) -> bool:
        """Whether its window has passed."""
        return time.monotonic() >= self._ends_s

    def take(self, length_s: float) -> None:
        """Let it send for so long."""
        begin_s = time.monotonic()
        if self._begins_s == math.inf:
            self._begins_s = begin_s + self._plan.warm_up_s
            self._ends_s = self._begins_s + self._plan.seconds
            _say(self.generator, b"go\n")
        else:
            self.generator.send_signal(signal.SIGCONT)
        time.sleep(length_s)
        self.generator.send_signal(signal.SIGSTOP)
        self.active_s += max(0.0, min(time.monotonic(), self._ends_s) - max(begin_s, self._begins_s))


def drive_locust(
    plan: Plan, *, processes: int = 1, title: str = "", when_begun: Callable[[], None] = lambda: None
) -> LoadResult:
    """Carry out the plan with locust and the locustfiles of the source tree. Raise UsageError if they are not there."""
    locustfile = LOCUSTFILES / f"{plan.kind}.py"
    if not locustfile.exists():
        raise UsageError(f"{locustfile} is missing: locustfiles are part of the source tree, not of the package")
    with tempfile.TemporaryDirectory(prefix="minibit-load-") as name:
        saved = Path(name) / "result.json"
        command = [sys.executable, "-m", "locust", "-f", str(locustfile), "--headless", "--only-summary"]
        command += ["--save", str(saved), "--host", plan.url, "--fail-if", "errors>100%", "--seed", str(plan.seed)]
        command += ["-u", str(plan.connections), "-r", str(plan.connections), "--warm-up", str(plan.warm_up_s)]
        command += ["-t", f"{math.ceil(plan.warm_up_s + plan.seconds + STOPPING_S)}s", "--arrivals", plan.arrivals]
        command += ["--arrival-rate", str(plan.rate_per_s)] if plan.rate_per_s else []
        command += ["--processes", str(processes)] if processes > 1 else []
        if plan.kind == "tracker":
            command += ["--protocol", plan.protocol, "--peers", str(plan.peers), "--swarms", str(plan.swarms)]
            command += [part for fault in plan.allow for part in ("--allow", fault)]
        else:
            command += ["--torrent", plan.torrent, "--leechers", str(plan.leechers)]
            command += ["--choked-share", str(plan.choked_share), "--json-share", str(plan.json_share)]
        when_begun()  # more or less: locust takes a second to start
        errors = _run(command, plan.warm_up_s + plan.seconds + SPARE_S)
        if not saved.exists():
            raise MiniBitError(f"locust failed: {(errors.strip().splitlines() or ['it said nothing'])[-1]}")
        result = read(saved)
    result.title = title or result.title
    return result


DRIVERS = {"minibit": drive, "locust": drive_locust}


@contextlib.contextmanager
def _started(plans: Sequence[Plan]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Give a generator for each plan, ready to be told to go."""
    generators = [
        subprocess.Popen(
            [sys.executable, "-m", "minibit.load.generator"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in plans
    ]
    try:
        for generator, plan in zip(generators, plans, strict=True):
            _say(generator, msgspec.json.encode(plan) + b"\n")
        for generator in generators:
            _line(generator)  # ready
        yield generators
    finally:
        for generator in generators:
            generator.kill()
            generator.communicate()


def _run(command: list[str], within_s: float) -> str:
    """Run locust with its workers, and return what it said on stderr; end them all if it takes too long."""
    locust = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        return locust.communicate(timeout=within_s)[1]
    except subprocess.TimeoutExpired:
        raise MiniBitError(f"locust did not end within {within_s:.0f} s") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(locust.pid, signal.SIGKILL)
        locust.communicate()


def _part(plan: Plan, part: int, parts: int) -> Plan:
    rate_per_s = None if plan.rate_per_s is None else plan.rate_per_s / parts
    return msgspec.structs.replace(
        plan,
        part=part,
        parts=parts,
        rate_per_s=rate_per_s,
        connections=-(-plan.connections // parts),
        leechers=-(-plan.leechers // parts),
        ports=plan.ports[part::parts],
    )


def _say(generator: subprocess.Popen[bytes], line: bytes) -> None:
    if generator.stdin is None:
        raise ValueError("its input is no pipe")
    try:
        generator.stdin.write(line)
        generator.stdin.flush()
    except BrokenPipeError:
        raise MiniBitError(_why(generator)) from None


def _line(generator: subprocess.Popen[bytes]) -> bytes:
    line = generator.stdout.readline() if generator.stdout else b""
    if not line:
        raise MiniBitError(_why(generator))
    return line


def _seen(generator: subprocess.Popen[bytes], within_s: float) -> Seen:
    try:
        output, _ = generator.communicate(timeout=within_s)
    except subprocess.TimeoutExpired:
        raise MiniBitError(f"a load generator did not end within {within_s:.0f} s") from None
    try:
        return msgspec.json.decode(output, type=Seen)
    except msgspec.DecodeError:
        raise MiniBitError(_why(generator)) from None


def _why(generator: subprocess.Popen[bytes]) -> str:
    _, errors = generator.communicate()
    last = (errors or b"").decode(errors="replace").strip().splitlines()
    return f"a load generator failed: {last[-1] if last else 'it said nothing'}"


def _title(plan: Plan) -> str:
    if plan.kind == "tracker":
        return f"tracker, {plan.protocol}"
    return f"peer, blocks of {format_size(metainfo.read(Path(plan.torrent)).block_size_bytes)}"


def _result(plan: Plan, seen: Seen, processes: int, started_at: str, title: str) -> LoadResult:
    kept = json.loads(msgspec.json.encode(plan))
    names = {"tracker": ("peers", "swarms", "zipf", "vanish"), "peer": ("leechers", "json_share", "choked_share")}
    return LoadResult(
        title=title or _title(plan),
        target=plan.url,
        protocol=plan.protocol,
        arrival_rate_per_s=plan.rate_per_s,
        arrivals=plan.arrivals if plan.rate_per_s else None,
        users=plan.connections,
        processes=processes,
        seed=plan.seed,
        warm_up_s=plan.warm_up_s,
        started_at=started_at,
        machine=describe_machine(),
        commit=code_version(),
        options={name: kept[name] for name in (*names[plan.kind], "close")},
        seen=seen,
    )
