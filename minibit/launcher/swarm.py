"""``run_swarm(scenario) -> Record``: the one door to a swarm, for the command line, benchmarks, sweeps and tests."""

import filecmp
import random
import shutil
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import psutil

from minibit import metainfo, record
from minibit.core.blocks import MIB
from minibit.errors import StorageError, SwarmError
from minibit.launcher.channel import (
    AskReport,
    Complete,
    Failed,
    Go,
    Measure,
    Measured,
    PeerSpecMessage,
    Progress,
    Report,
    TrackerSpec,
)
from minibit.launcher.memory import ReadyMemory
from minibit.launcher.processes import Child, Fleet, ProcessFleet, ThreadFleet
from minibit.peers.meters import PeerReport
from minibit.provenance import code_version, describe_machine
from minibit.record import PeerRecord, Record, Requests
from minibit.scenario import PeerSpec, Scenario

TRACKER = "tracker"
CONTENT_NAME = "content.bin"
START_LEAD_S = 0.02  # between the start signal and the start, and so much more for each child that must hear it
START_LEAD_PER_CHILD_S = 50e-6
PROGRESS_EVERY_S = 0.25
PROGRESS_PER_CHILD_S = 0.004  # a thousand peers tell every four seconds: the launcher must not load the host
REPORT_TIMEOUT_S = 30.0
POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Snapshot:
    """How far a run is, for whoever watches: ``done`` of ``total`` in one of its phases.

    These are prepare, spawn, memory, run and verify. What is done in the phase run are blocks over all leechers, and
    ``complete`` of ``leechers`` have them all.
    """

    phase: str
    done: int
    total: int
    complete: int = 0
    leechers: int = 0
    elapsed_s: float = 0.0
    bytes_per_s: float = 0.0


Watch = Callable[[Snapshot], None]


@dataclass(slots=True)
class _Run:
    """What is learned while a swarm runs."""

    scenario: Scenario
    specs: dict[str, PeerSpec]
    num_blocks: int
    watch: Watch
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    start_s: float = 0.0
    end_s: float = 0.0
    spawn_time_s: float = 0.0
    completed_at_s: dict[str, float] = field(default_factory=dict)
    owned: dict[str, int] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    reports: dict[str, PeerReport] = field(default_factory=dict)
    cpu_s: dict[str, float] = field(default_factory=dict)
    total_cpu_s: float | None = None
    busy_fraction: float | None = None
    pss_bytes: dict[str, int] = field(default_factory=dict)
    verified: dict[str, bool] = field(default_factory=dict)
    leftovers: list[str] = field(default_factory=list)

    @property
    def leechers(self) -> list[str]:
        return [name for name, spec in self.specs.items() if spec.role == "leecher"]

    def waiting(self) -> list[str]:
        return [name for name in self.leechers if name not in self.completed_at_s and name not in self.failures]


def run_swarm(scenario: Scenario, *, watch: Watch | None = None, keep: Path | None = None) -> Record:
    """Run the swarm; return its record, judged.

    Every leecher's file is compared with the source, byte for byte. A run in which peers fail or time out returns a
    record too: those peers are not ``completed``, and ``waiting_for`` says what each was stuck on. ``keep`` is a folder
    for the files (it must not exist or be empty); without it they are removed. ``watch`` is told how far the run is.

    Raises SwarmError if the swarm could not be started, StorageError if the disk refuses.
    """
    with _folder(keep) as folder:
        watcher = watch or (lambda _snapshot: None)
        _check_room(scenario, folder)
        source, torrent = _prepare(scenario, folder, watcher)
        specs = {spec.peer_id: spec for spec in scenario.peers()}
        run = _Run(scenario, specs, torrent.num_blocks, watcher)
        fleet: Fleet = ThreadFleet() if scenario.isolation == "thread" else ProcessFleet(len(specs) + 1)
        with fleet:
            _spawn(run, fleet, folder, source)
            with _ready_memory(run, folder):
                _race(run, fleet)
            _collect(run, fleet)
        run.leftovers = fleet.leftovers() + _open_ports(fleet)
        _verify(run, folder, source)
        return record.judged(_recorded(run))


# -- before ------------------------------------------------------------------------------------------------------------


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        try:
            keep.mkdir(parents=True, exist_ok=True)
            if any(keep.iterdir()):
                raise StorageError(f"{keep} is not empty: the files of a run need a folder of their own")
        except OSError as error:
            raise StorageError(f"cannot keep files in {keep}: {error.strerror}") from error
        yield keep.resolve()
        return
    folder = Path(tempfile.mkdtemp(prefix="minibit-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check_room(scenario: Scenario, folder: Path) -> None:
    """Raise StorageError if the disk cannot hold a file for each leecher: the files are sparse, it would show late."""
    copies = sum(spec.role == "leecher" for spec in scenario.peers()) + (not scenario.file.path)
    wanted_mib, free_mib = (size / MIB for size in (copies * scenario.file.size_bytes, shutil.disk_usage(folder).free))
    if wanted_mib > free_mib:
        raise StorageError(
            f"{folder} has room for {free_mib:,.0f} MiB, the files of this swarm take {wanted_mib:,.0f} MiB: "
            "free some, or let TMPDIR name another folder"
        )


def _prepare(scenario: Scenario, folder: Path, watch: Watch) -> tuple[Path, metainfo.Metainfo]:
    if scenario.file.path:
        source = Path(scenario.file.path)
    else:
        source = folder / "source" / CONTENT_NAME
        source.parent.mkdir()
        _write_content(source, scenario.file.size_bytes, scenario.file.content_seed)
    torrent = metainfo.create(
        source,
        block_size_bytes=scenario.effective_block_size_bytes,
        progress=lambda done, total: watch(Snapshot("prepare", done, total)),
    )
    metainfo.write(torrent, _torrent_path(folder))
    return source, torrent


def _write_content(path: Path, size_bytes: int, content_seed: int) -> None:
    """Write reproducible noise: the same size and seed give the same file."""
    rng = random.Random(content_seed)
    try:
        with path.open("wb") as file:
            for start in range(0, size_bytes, MIB):
                file.write(rng.randbytes(min(MIB, size_bytes - start)))
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error


def _torrent_path(folder: Path) -> Path:
    return folder / "swarm.torrent"


def _spawn(run: _Run, fleet: Fleet, folder: Path, source: Path) -> None:
    scenario = run.scenario
    begin_s = time.monotonic()
    tracker = fleet.spawn(TrackerSpec(TRACKER, scenario.rng_seed))
    fleet.wait_ready([TRACKER])
    total = len(run.specs)
    for done, spec in enumerate(run.specs.values()):
        seed = spec.role == "seed"
        fleet.spawn(
            PeerSpecMessage(
                peer_id=spec.peer_id,
                torrent_path=str(_torrent_path(folder)),
                directory=str(source.parent if seed else folder / "peers" / spec.peer_id),
                seed=seed,
                tracker_url=f"http://127.0.0.1:{tracker.port}",
                upload_rate_bytes_per_s=spec.upload_rate_bytes_per_s,
                download_rate_bytes_per_s=spec.download_rate_bytes_per_s,
                start_delay_s=spec.start_delay_s,
                leaves_when_complete=spec.on_complete == "leave",
                free_rider=spec.free_rider,
                picker=scenario.picker,
                choker=scenario.choker,
                max_neighbours=scenario.max_neighbours,
                rng_seed=scenario.rng_seed,
            )
        )
        run.watch(Snapshot("spawn", done, total))
    fleet.wait_ready(run.specs)
    run.spawn_time_s = time.monotonic() - begin_s
    run.watch(Snapshot("spawn", total, total))


def _ready_memory(run: _Run, folder: Path) -> ReadyMemory:
    size = 2 * run.scenario.file.size_bytes * len(run.leechers)  # the files, and blocks under way
    try:
        return ReadyMemory(size, folder, lambda done, total: run.watch(Snapshot("memory", done, total)))
    except OSError as error:
        raise StorageError(f"cannot write to {folder}: {error.strerror}") from error


# -- the run -----------------------------------------------------------------------------------------------------------


def _race(run: _Run, fleet: Fleet) -> None:
    """Give the start signal; wait until every leecher is complete or failed, or the time is up."""
    count = len(fleet.children)
    run.started_at = datetime.now(UTC)
    cpu_before_s, host_before = time.process_time(), psutil.cpu_times()
    run.start_s = time.monotonic() + START_LEAD_S + START_LEAD_PER_CHILD_S * count
    fleet.broadcast(Go(run.start_s, max(PROGRESS_EVERY_S, PROGRESS_PER_CHILD_S * count)))
    deadline_s = run.start_s + run.scenario.effective_timeout_s
    while run.waiting() and time.monotonic() < deadline_s:
        for child, message in fleet.messages(POLL_S):
            _note(run, child, message)
        _tell(run)
    run.end_s = max((run.completed_at_s[name] for name in run.leechers if name in run.completed_at_s), default=0.0)
    _measure_cpu(run, fleet, time.process_time() - cpu_before_s)
    run.busy_fraction = _busy_fraction(host_before, psutil.cpu_times())


def _note(run: _Run, child: Child, message: object) -> None:
    match message:
        case Progress():
            run.owned[child.name] = message.blocks_owned
        case Complete():
            run.completed_at_s[child.name] = message.at_s
            run.owned[child.name] = run.num_blocks
        case Failed():
            run.failures[child.name] = message.error
        case Report(report=PeerReport() as report):
            run.reports[child.name] = report
        case Measured(cpu_s=float() as cpu_s):
            run.cpu_s[child.name] = cpu_s
        case None if child.name == TRACKER:
            raise SwarmError("the tracker ended during the run")
        case None:
            run.failures.setdefault(child.name, "its process ended")


def _tell(run: _Run) -> None:
    elapsed_s = max(0.0, time.monotonic() - run.start_s)
    blocks = sum(run.owned.get(name, 0) for name in run.leechers)
    block_size = run.scenario.effective_block_size_bytes
    run.watch(
        Snapshot(
            "run",
            blocks,
            run.num_blocks * len(run.leechers),
            complete=sum(name in run.completed_at_s for name in run.leechers),
            leechers=len(run.leechers),
            elapsed_s=elapsed_s,
            bytes_per_s=blocks * block_size / elapsed_s if elapsed_s else 0.0,
        )
    )


def _measure_cpu(run: _Run, fleet: Fleet, own_cpu_s: float) -> None:
    """Add up what launcher, tracker and peers used; threads share one process, whose clock is the launcher's."""
    names = _present(run, fleet)
    fleet.broadcast(Measure(), names)
    if run.scenario.isolation == "thread":
        run.total_cpu_s = own_cpu_s
        return
    _await(run, fleet, lambda: all(name in run.cpu_s or name in run.failures for name in names))
    run.total_cpu_s = own_cpu_s + sum(run.cpu_s.values())


def _busy_fraction(before: object, after: object) -> float | None:
    spent = {name: getattr(after, name) - getattr(before, name) for name in after._fields}  # type: ignore[attr-defined]
    # The kernel counts guest time within user time too.
    total = sum(spent.values()) - spent.get("guest", 0.0) - spent.get("guest_nice", 0.0)
    return 1 - (spent["idle"] + spent.get("iowait", 0.0)) / total if total > 0 else None


def _present(run: _Run, fleet: Fleet) -> list[str]:
    return [name for name in fleet.children if not fleet.children[name].channel.ended and name not in run.failures]


def _await(run: _Run, fleet: Fleet, done: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + REPORT_TIMEOUT_S
    while not done() and time.monotonic() < deadline_s:
        for child, message in fleet.messages(deadline_s - time.monotonic()):
            _note(run, child, message)


def _collect(run: _Run, fleet: Fleet) -> None:
    """Read the memory of every peer while it waits, then have each account for the run."""
    for name in run.specs:
        pid = fleet.children[name].pid
        if pid and (pss := _pss_bytes(pid)):
            run.pss_bytes[name] = pss
    peers = [name for name in _present(run, fleet) if name != TRACKER]
    fleet.broadcast(AskReport(), peers)
    _await(run, fleet, lambda: all(name in run.reports or name in run.failures for name in peers))


def _pss_bytes(pid: int) -> int | None:
    """Return the proportional set size: private memory, and a fair share of what forks have in common."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), None)


def _open_ports(fleet: Fleet) -> list[str]:
    """Name the ports of children on which somebody still listens."""
    return [
        f"port {child.port} of {child.name}" for child in fleet.children.values() if child.port and _listens(child.port)
    ]


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _verify(run: _Run, folder: Path, source: Path) -> None:
    for done, name in enumerate(run.leechers):
        run.watch(Snapshot("verify", done, len(run.leechers)))
        path = folder / "peers" / name / source.name
        run.verified[name] = path.exists() and filecmp.cmp(path, source, shallow=False)


# -- the record --------------------------------------------------------------------------------------------------------


def _recorded(run: _Run) -> Record:
    peers = [_peer_record(run, spec) for spec in run.specs.values()]
    leechers = [peer for peer in peers if peer.role == "leecher"]
    times_s = [peer.completion_time_s for peer in leechers if peer.completion_time_s is not None]
    first_s = [peer.time_to_first_block_s for peer in leechers if peer.time_to_first_block_s is not None]
    complete = len(times_s) == len(leechers)
    makespan_s = run.end_s - run.start_s if complete else None
    ledger = record.total_ledger(peers)
    bound = run.scenario.fluid_bound() if run.scenario.starts_together else None
    pss = list(run.pss_bytes.values())
    return Record(
        scenario=run.scenario.to_record(),
        rng_seed=run.scenario.rng_seed,
        commit=code_version(),
        machine=describe_machine(),
        started_at=run.started_at,
        completion_time_s=record.completion_time(times_s),
        makespan_s=makespan_s,
        time_to_first_block_s=statistics.median(first_s) if first_s else None,
        spawn_time_s=run.spawn_time_s,
        bound_s=bound.seconds if bound else None,
        bound_binding_term=bound.binding_term if bound else None,
        bound_ratio=makespan_s / bound.seconds if bound and makespan_s is not None else None,
        store_and_forward_bound_s=run.scenario.store_and_forward_bound_s() if run.scenario.starts_together else None,
        goodput_bytes_per_s=ledger.useful_bytes / makespan_s if makespan_s else None,
        cpu_s=run.total_cpu_s,
        cpu_s_per_gib=run.total_cpu_s / (ledger.useful_bytes / 2**30)
        if run.total_cpu_s is not None and ledger.useful_bytes
        else None,
        cpu_busy_fraction=run.busy_fraction,
        pss_bytes_max=max(pss, default=None),
        pss_bytes_mean=statistics.mean(pss) if pss else None,
        ledger=ledger,
        requests=_requests(run),
        fairness_jain=record.fairness_jain(peers),
        leftovers=run.leftovers,
        peers=peers,
    )


def _requests(run: _Run) -> Requests:
    kinds = Requests.__struct_fields__
    return Requests(**{kind: sum(report.requests.get(kind, 0) for report in run.reports.values()) for kind in kinds})


def _peer_record(run: _Run, spec: PeerSpec) -> PeerRecord:
    name = spec.peer_id
    began_s = run.start_s + spec.start_delay_s
    completed_at_s = run.completed_at_s.get(name)
    plain = PeerRecord(
        peer_id=name,
        role=spec.role,
        group=spec.group,
        completed=spec.role == "seed" or completed_at_s is not None,
        verified=run.verified.get(name),
        reported=False,
        start_delay_s=spec.start_delay_s,
        completion_time_s=completed_at_s - began_s if completed_at_s and spec.role == "leecher" else None,
        upload_rate_bytes_per_s=spec.upload_rate_bytes_per_s,
        download_rate_bytes_per_s=spec.download_rate_bytes_per_s,
        cpu_s=run.cpu_s.get(name),
        pss_bytes=run.pss_bytes.get(name),
        failure=run.failures.get(name),
    )
    report = run.reports.get(name)
    return _with_report(run, plain, report, began_s) if report else plain


def _with_report(run: _Run, plain: PeerRecord, report: PeerReport, began_s: float) -> PeerRecord:
    sent_bytes = sum(report.sent_to.values())
    elapsed_s = run.end_s - began_s
    rate = plain.upload_rate_bytes_per_s
    return msgspec.structs.replace(
        plain,
        reported=True,
        time_to_first_block_s=max(0.0, report.first_block_at_s - began_s) if report.first_block_at_s else None,
        sent_bytes=sent_bytes,
        received_bytes=sum(report.received_from.values()),
        useful_bytes=report.useful_bytes,
        duplicate_bytes=report.duplicate_bytes,
        corrupt_bytes=report.corrupt_bytes,
        aborted_bytes=report.aborted_bytes,
        external_bytes=sum(count for other, count in report.sent_to.items() if other not in run.specs),
        upload_peak_bytes_per_s=report.upload_peak_bytes_per_s,
        download_peak_bytes_per_s=report.download_peak_bytes_per_s,
        upload_duration_s=report.upload_duration_s,
        download_duration_s=report.download_duration_s,
        uplink_use=sent_bytes / (rate * elapsed_s) if rate and elapsed_s > 0 else None,
        sent_to=report.sent_to,
        received_from=report.received_from,
        aborts=report.aborts,
        timeline=[(max(0.0, at_s - began_s), owned) for at_s, owned in report.timeline],
        order=report.order,
        waiting_for=None if plain.completed else report.waiting_for,
    )
