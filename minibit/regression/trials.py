"""One run of one side: what it did, as figures by metric. Whatever makes a run not count is raised, never passed over.

Only the command line of a side is used, so that old revisions and other interpreters can be compared; what measures a
tracker or a peer from outside is this MiniBit's own load generator, for both sides alike. Each run has a session of
its own and a mark in its environment, by which a process that outlives it is found.
"""

import contextlib
import os
import select
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil
import requests

from minibit import metainfo
from minibit import record as records
from minibit import scenario as scenarios
from minibit.core.blocks import KIB, MIB
from minibit.errors import RecordError
from minibit.load.drive import drive_in_turn
from minibit.load.generator import Plan
from minibit.load.result import LoadResult
from minibit.record import Record
from minibit.regression.metrics import requests_counted, swarm_figures
from minibit.regression.sides import CouldNotCompare, DoesNotCount, Side, last_line
from minibit.scenario import Scenario
from minibit.wire import PEERS

DEFAULT_SCENARIO = Path(__file__).with_name("default.toml")
STOP_WITHIN_S = 30.0
SPARE_S = 60.0  # beyond the scenario's own time-out
UP_WITHIN_S = 30.0
GONE_WITHIN_S = 1.0  # what was killed or is about to exit
LOOK_EVERY_S = 0.02
MARK = "MINIBIT_COMPARED_RUN"
WARM_UP_S, TRACKER_S, BLOCK_S = 0.4, 1.8, 1.6  # shared by two sides
TRACKER_CONNECTIONS, BLOCK_SIZE, FILE_SIZE = 8, 64 * KIB, 4 * MIB
_VARYING = {"rng_seed", "name"}  # of a resolved scenario: no change of what is measured


@dataclass(frozen=True, slots=True)
class Trial:
    """The figures of one run by metric, None where it has none; and the record behind them, if it was a swarm."""

    figures: Mapping[str, float | None]
    record: Record | None = None


class Runs(Protocol):
    """A workload: something that either side can do."""

    name: str
    kind: str

    def pair(self, order: Sequence[Side], seed: int) -> dict[str, Trial]:
        """Have the sides do it once each, in this order; return their trials by name.

        Raise DoesNotCount or CouldNotCompare.
        """


class SwarmRuns:
    """A swarm of the scenario file (of the side's own, where two scenarios are compared)."""

    kind = "swarm"

    def __init__(self, path: Path = DEFAULT_SCENARIO) -> None:
        self.path = path
        self.scenario = scenarios.load(path)
        self.name = self.scenario.name

    def pair(self, order: Sequence[Side], seed: int) -> dict[str, Trial]:
        """Run one after the other: two swarms at once would measure each other."""
        return {side.name: self.run(side, seed) for side in order}

    def run(self, side: Side, seed: int) -> Trial:
        """Run the swarm with this seed. Raise DoesNotCount or CouldNotCompare."""
        record, counted = self._record(side, seed)
        if not record.valid:
            reasons = "; ".join(record.invalid_reasons) or "the record does not say why"
            raise DoesNotCount(f"a run of {side.name} does not count ({self.name}, seed {seed}): {reasons}")
        ran = record.commit
        if side.commit and ran != side.commit:
            raise CouldNotCompare(f"{side.name} was to run commit {side.commit.id[:9]}, but {_told(ran)} ran")
        return Trial(swarm_figures(record, counted), record)

    def _record(self, side: Side, seed: int) -> tuple[Record, frozenset[str]]:
        """Return what the run wrote, and the kinds of messages that it counted: a side may know fewer or more."""
        path = side.scenario or self.path
        wanted = scenarios.load(path)
        with tempfile.TemporaryDirectory(prefix="minibit-compare-") as name:
            written = Path(name) / "record.json"
            arguments = ["swarm", str(path.resolve()), "--rng-seed", str(seed), "--json", str(written)]
            said = _finished(side, arguments, Path(name), _timeout_s(wanted))
            if not written.exists():
                raise CouldNotCompare(f"{side.name} could not run {wanted.name}: {last_line(said)}")
            try:
                return records.read(written), requests_counted(written.read_bytes())
            except RecordError as error:
                raise CouldNotCompare(f"the record that {side.name} wrote is of no use here: {error}") from error


def _timeout_s(scenario: Scenario) -> float:
    return scenario.effective_timeout_s + SPARE_S


def _told(commit: records.CodeVersion | None) -> str:
    if commit is None:
        return "code of no commit"
    return f"{commit.id[:9]}{' with changes' if commit.dirty else ''}"


def differences(base: Mapping[str, Any], head: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Return what two resolved scenarios say differently, and what only one of them says."""
    ours, theirs = _flat(base), _flat(head)
    changed = [
        f"{key} is {ours[key]!r} and {theirs[key]!r}" for key in ours if key in theirs and ours[key] != theirs[key]
    ]
    return changed, sorted(ours.keys() ^ theirs.keys())


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        pairs = [(str(key), part) for key, part in value.items() if prefix or key not in _VARYING]
    elif isinstance(value, list):
        pairs = [(str(number), part) for number, part in enumerate(value)]
    else:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, part in pairs:
        flat |= _flat(part, f"{prefix}.{key}" if prefix else key)
    return flat


# -- a tracker and a peer, from outside --------------------------------------------------------------------------------


class ServingRuns:
    """The sides' trackers under a closed loop, then their seeds asked for one block after another.

    Both sides are up at once and take turns of a hundredth of a second, as a virtual machine's speed changes by a tenth
    within one. Trackers are held to one processor and what drives them to the others, a seed and its client, of whom
    only one has work at any moment, to the same: where the scheduler happens to put them, and how long a processor
    takes to wake, makes a tenth too. Each would hide what is looked for.
    """

    name = kind = "serving"

    def pair(self, order: Sequence[Side], seed: int) -> dict[str, Trial]:
        """Load the trackers in turn, then the seeds."""
        driving, serving = _split(sorted(os.sched_getaffinity(0)))  # processors
        with ExitStack() as stack:
            folders = [Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="minibit-compare-"))) for _ in order]
            places = list(zip(order, folders, strict=True))
            with _held_to(serving):
                trackers = [stack.enter_context(_tracker(side, folder)) for side, folder in places]
            with _held_to(driving):
                figures = _tracker_figures(order, trackers, seed)
            with _held_to(serving):
                urls = [url for url, _ in trackers]
                seeds = [stack.enter_context(_seed_peer(*place, url)) for place, url in zip(places, urls, strict=True)]
                latencies = _block_figures(order, seeds, seed)
        return {side.name: Trial(figures[side.name] | latencies[side.name]) for side in order}


def _split(processors: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
    """Return those for the load generators and the one for what serves; one alone is for both."""
    return processors[:-1] or processors, processors[-1:]


@contextmanager
def _held_to(processors: Sequence[int]) -> Iterator[None]:
    """Let this thread, and all processes that it starts meanwhile, run on these processors only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, processors)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _tracker_figures(
    sides: Sequence[Side], trackers: Sequence[tuple[str, psutil.Process]], seed: int
) -> dict[str, dict[str, float]]:
    plans = [
        Plan(
            url=url,
            kind="tracker",
            seed=seed,
            connections=TRACKER_CONNECTIONS,
            warm_up_s=WARM_UP_S,
            seconds=TRACKER_S,
            tidy_up=False,
        )
        for url, _ in trackers
    ]
    before_s = [_cpu_s(process) for _, process in trackers]
    results = drive_in_turn(plans)
    spent_s = [_cpu_s(process) - before for (_, process), before in zip(trackers, before_s, strict=True)]
    share = TRACKER_S / (TRACKER_S + WARM_UP_S)  # of the requests, the warm-up's are not counted
    return {
        side.name: {
            "tracker_rate": _without_error(side, "tracker", result).rate_per_s,
            "tracker_cpu": spent * share / result.answered,
        }
        for side, result, spent in zip(sides, results, spent_s, strict=True)
    }


def _block_figures(sides: Sequence[Side], seeds: Sequence[tuple[str, Path]], seed: int) -> dict[str, dict[str, float]]:
    plans = [
        Plan(
            url=url,
            kind="peer",
            seed=seed,
            connections=1,
            warm_up_s=WARM_UP_S,
            seconds=BLOCK_S,
            torrent=str(torrent),
            leechers=1,
        )
        for url, torrent in seeds
    ]
    results = [_without_error(side, "seed", result) for side, result in zip(sides, drive_in_turn(plans), strict=True)]
    return {
        side.name: {"block_latency_p50": result.latency().at(50.0)} for side, result in zip(sides, results, strict=True)
    }


def _without_error(side: Side, what: str, result: LoadResult) -> LoadResult:
    if result.errors:
        kind, example = result.commonest_error
        raise CouldNotCompare(
            f"the {what} of {side.name} answered {result.errors} requests wrongly: {kind} ({example})"
        )
    if not result.useful:
        raise CouldNotCompare(f"the {what} of {side.name} answered nothing")
    return result


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


@contextmanager
def _tracker(side: Side, folder: Path) -> Iterator[tuple[str, psutil.Process]]:
    ready_read, ready_write = os.pipe()
    arguments = ["tracker", "--host", "127.0.0.1", "--port", "0", "--ready-fd", str(ready_write)]
    with (
        os.fdopen(ready_read) as ready,
        _running(side, arguments, folder / "tracker.txt", None, ready_write) as process,
    ):
        os.close(ready_write)
        told = ready.readline().strip() if select.select([ready], [], [], UP_WITHIN_S)[0] else ""
        if not told:
            raise CouldNotCompare(
                f"the tracker of {side.name} did not start: {last_line((folder / 'tracker.txt').read_text())}"
            )
        yield f"http://127.0.0.1:{int(told)}", psutil.Process(process.pid)


@contextmanager
def _seed_peer(side: Side, folder: Path, tracker_url: str) -> Iterator[tuple[str, Path]]:
    """Give a seed's address and its torrent; the tracker says when it is there."""
    content = folder / "content.bin"
    content.write_bytes(os.urandom(FILE_SIZE))
    torrent = metainfo.create(content, block_size_bytes=BLOCK_SIZE)
    metainfo.write(torrent, folder / "content.torrent")
    arguments = ["peer", str(folder / "content.torrent"), "--seed", "--dir", str(folder), "--tracker", tracker_url]
    arguments += ["--host", "127.0.0.1", "--port", "0"]
    with _running(side, arguments, folder / "peer.txt") as process:
        deadline_s = time.monotonic() + UP_WITHIN_S
        query = f"{tracker_url}{PEERS}?peer_id=compare&info_hash={torrent.info_hash}"
        while not (found := _peers(query)):
            if process.poll() is not None or time.monotonic() > deadline_s:
                said = last_line((folder / "peer.txt").read_text())
                raise CouldNotCompare(f"the seed of {side.name} did not start: {said}")
            time.sleep(LOOK_EVERY_S)
        yield f"http://127.0.0.1:{found[0]['port']}", folder / "content.torrent"


def _peers(query: str) -> list[dict[str, Any]]:
    try:
        told: list[dict[str, Any]] = requests.get(query, timeout=UP_WITHIN_S).json()["peers"]
    except (requests.RequestException, KeyError):
        return []  # not yet: a swarm that nobody is in may be refused
    return told


# -- processes ---------------------------------------------------------------------------------------------------------


def _finished(side: Side, arguments: list[str], folder: Path, timeout_s: float) -> str:
    """Run the side's command to its end; return what it said on stderr."""
    output = folder / "stderr.txt"
    with _running(side, arguments, output, subprocess.DEVNULL) as process:
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise CouldNotCompare(f"{side.name} did not end within {timeout_s:.0f} s: {arguments[0]}") from None
    return output.read_text(errors="replace")


@contextmanager
def _running(
    side: Side, arguments: list[str], output: Path, stdout: int | None = None, ready_fd: int | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run the side's command in a session of its own; at the end, whatever ended it, no process of it is left.

    Raise CouldNotCompare, naming them, if it came to its end and left processes behind.
    """
    mark = uuid.uuid4().hex
    with output.open("wb") as said:
        process = subprocess.Popen(
            side.command(*arguments),
            cwd=output.parent,
            env=side.environment() | {MARK: mark},
            stdin=subprocess.DEVNULL,
            stdout=said if stdout is None else stdout,
            stderr=said,
            pass_fds=[ready_fd] if ready_fd is not None else [],
            start_new_session=True,
        )
    try:
        yield process
    finally:
        _end(process)
        left = _end_marked(mark)
    if left:
        raise CouldNotCompare(f"a run of {side.name} left processes behind: {', '.join(left)}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Have it leave properly, as Ctrl-C would; kill it only if it does not."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _end_marked(mark: str) -> list[str]:
    """End every process that still bears the mark after a moment, whatever session it is in; return their names.

    What a process starts inherits its environment: the mark is found where pids and sessions would not lead.
    """
    deadline_s = time.monotonic() + GONE_WITHIN_S
    while (left := [process for process in psutil.process_iter() if _bears(process, mark)]) and (
        time.monotonic() < deadline_s
    ):
        time.sleep(LOOK_EVERY_S)
    names = []
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            names.append(f"{process.name()} (pid {process.pid})")
            process.kill()
    return names


def _bears(process: psutil.Process, mark: str) -> bool:
    try:
        return bool(process.environ().get(MARK) == mark)
    except psutil.Error:
        return False  # gone, or of another user, and then none of ours
