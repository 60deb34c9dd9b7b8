"""``minibit saturate``: starts a target (or takes a running one), searches its saturation, writes what was found."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import psutil

from minibit.errors import UsageError
from minibit.load import stored
from minibit.load.blocks import reserve
from minibit.load.drive import DRIVERS
from minibit.load.embedded import Embedded, check_content
from minibit.load.generator import Plan, address_of
from minibit.load.result import LoadResult
from minibit.load.sampler import Sampler
from minibit.load.saturation import SCHEMA_VERSION, Limits, Saturation, SaturationRecord, Trial, judged, search
from minibit.provenance import code_version, describe_machine
from minibit.wire import METRICS

CLOSED_LOOP_PER_S = float("inf")
Watch = Callable[[Trial, str], None]


class Subject(msgspec.Struct, kw_only=True):
    """What is to be saturated. ``url``: one that runs already, with ``pid`` if it is to be watched."""

    what: str = "tracker"  # tracker | peer
    url: str | None = None
    pid: int | None = None
    torrent: str = ""
    server: str = "waitress"
    size: str = "16MiB"
    block_size: str = "256KiB"


def saturate(
    subject: Subject,
    plan: Plan,
    limits: Limits,
    *,
    driver: str = "minibit",
    processes: int = 1,
    repeats: int = 3,
    registered: Sequence[int] = (),
    threads: Sequence[int] = (),
    watch: Watch = lambda _trial, _name: None,
) -> SaturationRecord:
    """Search the saturation of the subject, for each number of registered peers and each number of threads given.

    ``plan`` says what is sent, but for address and rate. ``watch`` is told each trial and which loop it was. Raise
    UsageError for what does not fit together.
    """
    if subject.url and (registered or threads):
        raise UsageError("--registered and --threads are of an embedded tracker: leave out --host")
    if subject.what == "peer" and (registered or threads):
        raise UsageError("--registered and --threads are of a tracker")
    if not subject.url and (subject.pid is not None or subject.torrent):
        raise UsageError("--pid and --torrent are of one that runs already: name it with --host")
    if repeats % 2 == 0:
        raise UsageError(f"--repeats must be odd, for a majority: not {repeats}")
    if subject.what == "peer" and subject.url and not subject.torrent:
        raise UsageError("--host of a peer needs --torrent: the torrent of the file that the peer has")
    if subject.url:
        address_of(subject.url)
    check_content(subject.size, subject.block_size)
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    found = []
    peer_counts: Sequence[int | None] = registered or [None]
    crews: Sequence[int | None] = threads or [None]
    states = list(itertools.product(peer_counts, crews))
    for peers, crew in states:
        with _target(subject, peers, crew) as (url, pid, torrent), _ports(plan.leechers) as ports:
            aimed = msgspec.structs.replace(plan, url=url, kind=subject.what, torrent=torrent, ports=ports)
            measure = _measuring(aimed, limits, pid, Driven(DRIVERS[driver], processes, watch))
            saturation = search(measure, repeats=repeats, curve=len(states) == 1)
        saturation.registered, saturation.threads = peers, crew
        found.append(saturation)
    return SaturationRecord(
        what=f"tracker {plan.protocol}" if subject.what == "tracker" else found[0].closed_loop.result.title,
        driver=driver,
        limits=limits,
        started_at=started_at,
        machine=describe_machine(),
        commit=code_version(),
        found=found,
    )


def write(result: SaturationRecord, path: Path) -> None:
    """Write it as JSON. Raise StorageError."""
    stored.write(result, path)


def read(path: Path) -> SaturationRecord:
    """Read what ``write`` wrote. Raise RecordError, naming the file."""
    return stored.read(path, SaturationRecord, kind="saturation", schema_version=SCHEMA_VERSION)


@dataclass(frozen=True, slots=True)
class Driven:
    """How a trial is carried out, and who is told of it."""

    drive: Callable[..., LoadResult]
    processes: int
    watch: Watch


def _measuring(plan: Plan, limits: Limits, pid: int | None, driven: Driven) -> Callable[[float | None], Trial]:
    numbers = itertools.count(plan.seed)

    def measure(rate_per_s: float | None) -> Trial:
        # Another seed each time: other swarms, so that those who vanished in the last trial are in nobody's way.
        trial_plan = msgspec.structs.replace(plan, rate_per_s=rate_per_s, seed=next(numbers))
        if pid is None:
            sampler, result = None, driven.drive(trial_plan, processes=driven.processes)
        else:
            metrics = f"{plan.url}{METRICS}" if plan.kind == "tracker" else None
            with Sampler(pid, metrics, from_s=plan.warm_up_s, to_s=plan.warm_up_s + plan.seconds) as sampler:
                result = driven.drive(trial_plan, processes=driven.processes, when_begun=sampler.begin)
        trial = judged(rate_per_s or CLOSED_LOOP_PER_S, result, sampler.use if sampler else None, limits)
        driven.watch(trial, "closed loop" if rate_per_s is None else "open loop")
        return trial

    return measure


@contextmanager
def _ports(count: int) -> Iterator[list[int]]:
    """Keep ports for leechers: the same in every trial, else the peer would wait in vain for those of the last one."""
    with ExitStack() as kept:
        yield [kept.enter_context(reserve()).getsockname()[1] for _ in range(count)]


@contextmanager
def _target(subject: Subject, peers: int | None, crew: int | None) -> Iterator[tuple[str, int | None, str]]:
    """Give address, process and torrent of what is to be loaded."""
    if subject.url:
        if subject.pid is not None and not psutil.pid_exists(subject.pid):
            raise UsageError(f"--pid {subject.pid}: there is no such process")
        yield subject.url, subject.pid, subject.torrent
        return
    if subject.what == "tracker":
        arguments = ["tracker", "--server", subject.server, "--registered", str(peers or 0)]
        arguments += ["--threads", str(crew)] if crew else []
    else:
        arguments = ["peer", "--size", subject.size, "--block-size", subject.block_size]
    with Embedded(*arguments) as target:
        yield target.url, target.pid, target.output.readline().strip() if subject.what == "peer" else ""


def summary(saturation: Saturation) -> str:
    """Return what was found in one line."""
    if saturation.borne_per_s is None:
        return "no rate was borne: even the lowest broke the limits"
    at_most = f", not {saturation.broke_per_s:,.0f}/s"
    bound = " (THE GENERATOR WAS THE BOUND: the target may bear more)" if saturation.bound_by == "generator" else ""
    return f"{saturation.borne_per_s:,.0f}/s is borne{at_most}{bound}"
