"""What one peer measures about itself: a ledger of bytes, counts of messages, and when which block came.

Counted where it happens: sent bytes when the kernel took them, received bytes when they were read.
"""

import threading
from collections import Counter
from dataclasses import dataclass, field

import msgspec


class PeerReport(msgspec.Struct, frozen=True):
    """One peer's account of a run; times are CLOCK_MONOTONIC seconds, comparable between processes of one machine."""

    peer_id: str
    completed_at_s: float | None
    first_block_at_s: float | None
    blocks_owned: int
    sent_to: dict[str, int]  # payload bytes by the receiver's peer_id
    received_from: dict[str, int]  # payload bytes by the sender's peer_id, parts of blocks included
    useful_bytes: int
    duplicate_bytes: int
    corrupt_bytes: int
    aborted_bytes: int
    aborts: dict[str, int]  # transfers cut short, either way, by the other's peer_id
    requests: dict[str, int]
    upload_peak_bytes_per_s: float | None
    download_peak_bytes_per_s: float | None
    upload_duration_s: float | None  # of a limited link: from the first byte asked for to the last that passed
    download_duration_s: float | None
    timeline: list[tuple[float, int]]
    order: list[int]
    waiting_for: str


@dataclass(slots=True)
class Meters:
    """The counters of one peer; every method may be called from any thread."""

    sent_to: Counter[str] = field(default_factory=Counter)
    received_from: Counter[str] = field(default_factory=Counter)
    verdicts: Counter[str] = field(default_factory=Counter)  # useful, duplicate, corrupt, aborted: bytes
    requests: Counter[str] = field(default_factory=Counter)
    aborts: Counter[str] = field(default_factory=Counter)
    timeline: list[tuple[float, int]] = field(default_factory=list)
    order: list[int] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def sent(self, peer_id: str, num_bytes: int) -> None:
        """The kernel took so many bytes of payload for this peer."""
        with self._lock:
            self.sent_to[peer_id] += num_bytes

    def aborted(self, peer_id: str) -> None:
        """A block to or from this peer was cut short."""
        with self._lock:
            self.aborts[peer_id] += 1

    def received(self, peer_id: str, num_bytes: int, verdict: str) -> None:
        """So many bytes came from this peer, and this is what they were worth."""
        with self._lock:
            self.received_from[peer_id] += num_bytes
            self.verdicts[verdict] += num_bytes
            if verdict == "aborted":
                self.aborts[peer_id] += 1

    def counted(self, kind: str) -> None:
        """One message of this kind left."""
        with self._lock:
            self.requests[kind] += 1

    def block_owned(self, now_s: float, index: int, owned: int) -> None:
        """This block was written; so many are owned now."""
        with self._lock:
            self.timeline.append((now_s, owned))
            self.order.append(index)
