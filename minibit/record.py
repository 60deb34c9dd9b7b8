"""The result record: one JSON file a swarm, and the checks that decide whether its figures count.

SI units stand in the names; sums of bytes are block payload. A record is written whole or not at all, and validated on
reading; unknown keys (a later addition) are ignored, another ``schema_version`` is refused. ``validity`` is pure: it
sees the record only, so that a stored record can be judged again.
"""

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from minibit.core.limiter import peak_limit_bytes, total_limit_bytes
from minibit.errors import RecordError, StorageError

SCHEMA_VERSION = 1
BUSY_MAX = 0.90  # above it a rate-capped run measured the scheduler of the host
BOUND_TOLERANCE = 0.99  # clocks and counters may disagree by so much; a makespan below is a bug
REASONS_SHOWN = 3  # of one kind; a thousand peers with the same defect are one defect

Bytes = Annotated[int, Meta(ge=0)]
Seconds = Annotated[float, Meta(ge=0)]


class CompletionTime(msgspec.Struct, frozen=True, kw_only=True):
    """Over leechers, each from its own start to its last verified block on disk."""

    min: Seconds
    p50: Seconds
    p95: Seconds
    max: Seconds


class Ledger(msgspec.Struct, frozen=True, kw_only=True):
    """Where the payload went: received = useful + duplicate + corrupt + aborted.

    ``sent_bytes`` is what kernels accepted, ``external_bytes`` among it what clients from outside took.
    """

    sent_bytes: Bytes = 0
    received_bytes: Bytes = 0
    useful_bytes: Bytes = 0
    duplicate_bytes: Bytes = 0
    corrupt_bytes: Bytes = 0
    aborted_bytes: Bytes = 0
    external_bytes: Bytes = 0


class Requests(msgspec.Struct, frozen=True, kw_only=True):
    """Messages of the whole swarm.

    Block requests and those refused, news of blocks, offers of turns, exchanges of whole bitfields, announces.
    """

    block: int = 0
    block_refused: int = 0
    have: int = 0
    offer: int = 0
    handshake: int = 0
    tracker: int = 0


class CodeVersion(msgspec.Struct, frozen=True, kw_only=True):
    """The git commit of the code that ran; ``dirty`` if its files differed from it."""

    id: str
    dirty: bool


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """The host. ``cores`` are those this process may use; ``id`` tells two hosts of one model apart."""

    cpu: str
    cores: int
    memory_bytes: int
    kernel: str
    python: str
    id: str


class PeerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One peer. ``reported`` is false if it never told its figures, ``removed`` if the scenario took it away.

    ``completion_time_s`` and ``timeline`` [(t_s, blocks owned)] start at the peer's own start, ``order`` names the
    block of each of its entries (empty in records of before there was one); ``verified`` is whether its file equals
    the source, null if nobody looked. ``upload_peak_bytes_per_s`` is the busiest sliding second and
    ``upload_duration_s`` the time from the first byte taken from the rate limit to the last one sent, likewise for
    downloads. ``failure`` is what ended the peer early, ``waiting_for`` what one that never completed was stuck on.
    ``uplink_use`` is bytes sent over what the cap allowed until the makespan. ``sent_to`` and
    ``received_from`` are bytes by peer id, ``aborts`` counts transfers with that peer, either way, that were cut short.
    """

    peer_id: str
    role: str
    group: str
    completed: bool
    verified: bool | None = None
    reported: bool = True
    removed: bool = False
    start_delay_s: Seconds = 0.0
    completion_time_s: Seconds | None = None
    time_to_first_block_s: Seconds | None = None
    sent_bytes: Bytes = 0
    received_bytes: Bytes = 0
    useful_bytes: Bytes = 0
    duplicate_bytes: Bytes = 0
    corrupt_bytes: Bytes = 0
    aborted_bytes: Bytes = 0
    external_bytes: Bytes = 0
    upload_rate_bytes_per_s: float | None = None
    download_rate_bytes_per_s: float | None = None
    upload_peak_bytes_per_s: float | None = None
    download_peak_bytes_per_s: float | None = None
    upload_duration_s: Seconds | None = None
    download_duration_s: Seconds | None = None
    uplink_use: float | None = None
    cpu_s: float | None = None
    pss_bytes: int | None = None
    sent_to: dict[str, int] = {}
    received_from: dict[str, int] = {}
    aborts: dict[str, int] = {}
    timeline: list[tuple[float, int]] = []
    order: list[int] = []
    failure: str | None = None
    waiting_for: str | None = None


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One swarm. ``scenario`` is resolved, enough to run it again; ``ledger`` is the sum over the peers.

    ``makespan_s`` runs from the common start signal to the last completion; bounds are null where their assumptions
    fail; ``spawn_time_s`` is from the first fork to the last "ready"; ``cpu_s`` is user + system of launcher, tracker
    and peers until completion, ``cpu_busy_fraction`` the whole host's; ``leftovers`` names processes and ports that
    outlived the run.
    """

    schema_version: int = SCHEMA_VERSION
    scenario: dict[str, Any]
    rng_seed: int
    commit: CodeVersion | None
    machine: Machine
    started_at: Annotated[datetime, Meta(tz=True)]
    valid: bool = True
    invalid_reasons: list[str] = []
    completion_time_s: CompletionTime | None
    makespan_s: Seconds | None
    time_to_first_block_s: Seconds | None
    spawn_time_s: Seconds | None
    bound_s: Seconds | None
    bound_binding_term: str | None
    bound_ratio: float | None
    store_and_forward_bound_s: Seconds | None
    goodput_bytes_per_s: float | None
    cpu_s: float | None
    cpu_s_per_gib: float | None
    cpu_busy_fraction: float | None
    pss_bytes_max: int | None = None
    pss_bytes_mean: float | None = None
    ledger: Ledger
    requests: Requests
    fairness_jain: float | None
    leftovers: list[str] = []
    peers: list[PeerRecord]

    @property
    def larger_bound_s(self) -> float | None:
        """The larger of the two bounds, the one to be held against; None if there is none."""
        return max((bound for bound in (self.bound_s, self.store_and_forward_bound_s) if bound), default=None)

    @property
    def ratio_to_bound(self) -> float | None:
        """The makespan over the larger bound."""
        bound_s = self.larger_bound_s
        return self.makespan_s / bound_s if bound_s and self.makespan_s is not None else None


# -- figures -----------------------------------------------------------------------------------------------------------


def quantile(values: Iterable[float], fraction: float) -> float:
    """Return the quantile by linear interpolation between order statistics; raise ValueError for no values."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no values, no quantile")
    position = fraction * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def completion_time(times_s: Sequence[float]) -> CompletionTime | None:
    """Summarise completion times; None if nobody completed."""
    if not times_s:
        return None
    return CompletionTime(min=min(times_s), p50=quantile(times_s, 0.5), p95=quantile(times_s, 0.95), max=max(times_s))


def jain(values: Sequence[float]) -> float | None:
    """Return Jain's fairness index, (sum x)^2 / (n sum x^2): 1 if all are equal, 1/n if one has everything.

    None where it is undefined: no values, or all zero (Jain, Chiu & Hawe 1984).
    """
    largest = max(values, default=0.0)
    if not largest > 0:
        return None
    shares = [value / largest for value in values]  # their squares neither overflow nor vanish
    return sum(shares) ** 2 / (len(shares) * sum(share * share for share in shares))


def fairness_jain(peers: Iterable[PeerRecord]) -> float | None:
    """Return Jain's index over the leechers' bytes given / bytes taken; None if one took nothing, or nobody gave."""
    leechers = [peer for peer in peers if peer.role == "leecher"]
    if not all(peer.received_bytes for peer in leechers):
        return None
    return jain([peer.sent_bytes / peer.received_bytes for peer in leechers])


def total_ledger(peers: Iterable[PeerRecord]) -> Ledger:
    """Return the sums over all peers."""
    sums: Counter[str] = Counter()
    for peer in peers:
        sums.update({field: getattr(peer, field) for field in Ledger.__struct_fields__})
    return Ledger(**sums)


class _ToldGroup(msgspec.Struct, frozen=True):
    name: str
    count: int


class _Told(msgspec.Struct, frozen=True):
    """What judging a record needs of its scenario."""

    block_size_bytes: int
    groups: list[_ToldGroup]


# -- validity ----------------------------------------------------------------------------------------------------------


def judged(record: Record) -> Record:
    """Return the record with ``valid`` and ``invalid_reasons`` filled in."""
    reasons = validity(record)
    return msgspec.structs.replace(record, valid=not reasons, invalid_reasons=reasons)


def validity(record: Record) -> list[str]:
    """Return why the run's figures do not count, one short sentence each; empty if they do."""
    checks: tuple[Callable[[Record], list[str]], ...] = (
        _missing_peers,
        _unfinished_peers,
        _different_files,
        _leftovers,
        _busy_host,
        _leaking_caps,
        _impossible_makespan,
        _open_ledger,
        _unequal_pairs,
    )
    return [reason for check in checks for reason in _shortened(check(record))]


def _missing_peers(record: Record) -> list[str]:
    reasons = [f"{peer.peer_id} did not report" for peer in record.peers if not (peer.reported or peer.removed)]
    found = Counter(peer.group for peer in record.peers)
    return reasons + [
        f"group {group.name} has {found[group.name]} of {group.count} peers in the report"
        for group in _told_by_scenario(record).groups
        if found[group.name] < group.count
    ]


def _unfinished_peers(record: Record) -> list[str]:
    return [f"{peer.peer_id} did not complete" for peer in record.peers if not (peer.completed or peer.removed)]


def _different_files(record: Record) -> list[str]:
    return [f"the file of {peer.peer_id} differs from the source" for peer in record.peers if peer.verified is False]


def _leftovers(record: Record) -> list[str]:
    return [f"{what} was left behind" for what in record.leftovers]


def _busy_host(record: Record) -> list[str]:
    rates = [rate for peer in record.peers for rate in (peer.upload_rate_bytes_per_s, peer.download_rate_bytes_per_s)]
    busy = record.cpu_busy_fraction
    if busy is None or busy <= BUSY_MAX or not any(rates):
        return []
    return [f"the host was {busy:.1%} busy during a rate-capped run (limit {BUSY_MAX:.0%})"]


def _leaking_caps(record: Record) -> list[str]:
    reasons = []
    for peer in record.peers:
        upload = (peer.upload_rate_bytes_per_s, peer.upload_peak_bytes_per_s, peer.sent_bytes, peer.upload_duration_s)
        download = (
            peer.download_rate_bytes_per_s,
            peer.download_peak_bytes_per_s,
            peer.received_bytes,
            peer.download_duration_s,
        )
        for way, (cap, peak, total, duration_s) in (("upload", upload), ("download", download)):
            leak = f"{peer.peer_id} leaked its {way} cap of {cap:.0f} bytes/s" if cap else ""
            if cap and peak is not None and peak > peak_limit_bytes(cap):
                reasons.append(f"{leak}: {peak:.0f} bytes in one second (limit {peak_limit_bytes(cap):.0f})")
            if cap and duration_s is not None and total > total_limit_bytes(cap, duration_s):
                limit = total_limit_bytes(cap, duration_s)
                reasons.append(f"{leak}: {total} bytes in {duration_s:.3f} s (limit {limit:.0f})")
    return reasons


def _impossible_makespan(record: Record) -> list[str]:
    bounds = (("fluid", record.bound_s), ("store-and-forward", record.store_and_forward_bound_s))
    return [
        f"the makespan of {record.makespan_s:.4g} s is below the {name} bound of {bound_s:.4g} s"
        for name, bound_s in bounds
        if bound_s is not None and record.makespan_s is not None and record.makespan_s < BOUND_TOLERANCE * bound_s
    ]


def _open_ledger(record: Record) -> list[str]:
    reasons = []
    for peer in record.peers:
        accounted = peer.useful_bytes + peer.duplicate_bytes + peer.corrupt_bytes + peer.aborted_bytes
        if accounted != peer.received_bytes:
            reasons.append(
                f"the ledger of {peer.peer_id} is open: {peer.received_bytes} bytes in, {accounted} accounted for"
            )
    if record.ledger != total_ledger(record.peers):
        reasons.append("the ledger is not the sum over the peers")
    if all(peer.reported for peer in record.peers):
        lost = record.ledger.sent_bytes - record.ledger.external_bytes - record.ledger.received_bytes
        in_flight = sum(sum(peer.aborts.values()) for peer in record.peers) * _told_by_scenario(record).block_size_bytes
        if not 0 <= lost <= in_flight:
            reasons.append(
                f"the ledger is open: {lost} bytes sent but not received, {in_flight} can have been in flight"
            )
    return reasons


def _unequal_pairs(record: Record) -> list[str]:
    """Hold what each peer sent against what the other received, where both told; an abort may lose a block."""
    told = {peer.peer_id: peer for peer in record.peers if peer.reported}
    if not any(peer.sent_to or peer.received_from for peer in told.values()):
        return []
    pairs = {(peer.peer_id, other) for peer in told.values() for other in peer.sent_to}
    pairs |= {(other, peer.peer_id) for peer in told.values() for other in peer.received_from}
    block_size_bytes = _told_by_scenario(record).block_size_bytes
    reasons = []
    for giver, taker in sorted(pair for pair in pairs if set(pair) <= told.keys()):
        sent = told[giver].sent_to.get(taker, 0)
        received = told[taker].received_from.get(giver, 0)
        aborts = told[giver].aborts.get(taker, 0) + told[taker].aborts.get(giver, 0)
        if not 0 <= sent - received <= aborts * block_size_bytes:
            reasons.append(f"{giver} sent {sent} bytes to {taker}, which received {received}, with {aborts} aborts")
    return reasons


def _told_by_scenario(record: Record) -> "_Told":
    return msgspec.convert(record.scenario, _Told)


def _shortened(reasons: list[str]) -> list[str]:
    if len(reasons) <= REASONS_SHOWN + 1:
        return reasons
    return [*reasons[:REASONS_SHOWN], f"… and {len(reasons) - REASONS_SHOWN} more of this kind"]


# -- files -------------------------------------------------------------------------------------------------------------


class _Version(msgspec.Struct, frozen=True):
    schema_version: int


def encode(record: Record) -> bytes:
    """Return the record as JSON with one key and one peer a line: a person can read it and git can compare it."""
    lines = [f"{_json(field)}: {_json_of_field(record, field)}" for field in record.__struct_fields__]
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def write(record: Record, path: str | Path) -> None:
    """Write the record; see ``write_whole``."""
    write_whole(Path(path), encode(record), "record")


def write_whole(path: Path, data: bytes, what: str) -> None:
    """Write a file atomically: a reader sees the old one or the whole new one, also after a crash.

    Makes the folder if it is missing. Raise StorageError in one line that says ``what`` if the disk refuses.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):  # the disk that refused the file may refuse this too
            partial.unlink(missing_ok=True)
        raise StorageError(f"cannot write {what} {path}: {error.strerror}") from error


def read(path: str | Path) -> Record:
    """Read and validate a record. Raise RecordError in one line that names the file and the key."""
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise RecordError(f"cannot read record {path}: {error.strerror}") from error
    try:
        version = msgspec.json.decode(raw, type=_Version).schema_version
        if version != SCHEMA_VERSION:
            raise RecordError(f"record {path}: schema_version is {version}; this MiniBit reads {SCHEMA_VERSION}")
        record = msgspec.json.decode(raw, type=Record)
        _told_by_scenario(record)
        return record
    except msgspec.DecodeError as error:
        raise RecordError(f"record {path}: {str(error).replace('`', chr(34))}") from error


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _json_of_field(record: Record, field: str) -> str:
    value = getattr(record, field)
    if field != "peers" or not value:
        return _json(value)
    return "[\n" + ",\n".join(_json(peer) for peer in value) + "\n]"
