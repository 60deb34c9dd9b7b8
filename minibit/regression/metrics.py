"""What is compared: each figure with its name, its unit, and the gate that it is held to.

All are costs per unit of work (more is worse), but for rates.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from minibit.record import Record, Requests
from minibit.regression.evidence import GATE

STEADY_GATE = 0.03  # memory, and bytes and requests that hardly vary
WIDE_GATE = 0.10  # of a swarm: what follows the processor's speed of the moment, or how it happens to unfold


@dataclass(frozen=True, slots=True)
class Metric:
    """``key`` names it on the command line and in files, ``title`` to people; of rates more is better."""

    key: str
    title: str
    unit: str
    gate: float = GATE
    larger_is_better: bool = False


ALL_REQUESTS = frozenset(Requests.__struct_fields__)
SWARM = (
    Metric("completion_p50", "completion time, p50", "s"),
    Metric("completion_p95", "completion time, p95", "s"),
    Metric("completion_max", "completion time, last", "s"),
    Metric("cpu_per_gib", "CPU per GiB", "CPU-s/GiB", WIDE_GATE),
    Metric("pss", "memory per peer (PSS)", "B", STEADY_GATE),
    Metric("received_per_useful", "bytes received per useful byte", "", STEADY_GATE),
    Metric("block_requests", "block requests per block", "", STEADY_GATE),
    Metric(
        "have_messages", "have messages per block", "", 0.75
    ),  # ten in a run of a second: most news rides on other messages
    Metric("messages", "messages per block", "", WIDE_GATE),
    Metric("tracker_requests", "tracker requests per peer", ""),
)
SERVING = (
    Metric("tracker_rate", "tracker requests", "1/s", larger_is_better=True),
    Metric("tracker_cpu", "CPU per tracker request", "s"),
    Metric("block_latency_p50", "block request, p50", "s"),
)
WORKLOADS: Mapping[str, tuple[Metric, ...]] = {"swarm": SWARM, "serving": SERVING}
METRICS: Mapping[str, Metric] = {metric.key: metric for group in WORKLOADS.values() for metric in group}


def requests_counted(record: bytes) -> frozenset[str]:
    """Return the kinds of requests that the writer of a valid record counted."""
    told: dict[str, dict[str, object]] = msgspec.json.decode(record)
    return frozenset(told.get("requests", {}))


def swarm_figures(record: Record, counted: frozenset[str] = ALL_REQUESTS) -> dict[str, float | None]:
    """Return the swarm metrics of a record, None where it has none.

    ``counted`` are the kinds of requests that its writer knew: what nobody counted is unknown, and not 0.
    """
    leechers = [peer for peer in record.peers if peer.role == "leecher"]
    blocks = sum(peer.timeline[-1][1] if peer.timeline else 0 for peer in leechers)
    requests, ledger, times = record.requests, record.ledger, record.completion_time_s

    def per_block(*kinds: str) -> float | None:
        known = blocks and counted.issuperset(kinds)
        return sum(getattr(requests, kind) for kind in kinds) / blocks if known else None

    return {
        "completion_p50": times.p50 if times else None,
        "completion_p95": times.p95 if times else None,
        "completion_max": times.max if times else None,
        "cpu_per_gib": record.cpu_s_per_gib,
        "pss": record.pss_bytes_mean,
        "received_per_useful": ledger.received_bytes / ledger.useful_bytes if ledger.useful_bytes else None,
        "block_requests": per_block("block", "block_refused"),
        "have_messages": per_block("have"),
        "messages": per_block("block", "block_refused", "have", "offer", "handshake"),
        "tracker_requests": requests.tracker / len(record.peers) if record.peers and "tracker" in counted else None,
    }
