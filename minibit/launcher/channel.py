"""What the launcher and its children say to each other: one JSON message a line over a socket pair.

The end of the channel is a message too: a child whose launcher is gone leaves, however the launcher died.
"""

import select
import socket
from collections.abc import Iterator

import msgspec

from minibit.peers.meters import PeerReport

_RECV_BYTES = 256 * 1024


class Message(msgspec.Struct, frozen=True, tag=True):
    """Something said over a channel."""


class TrackerSpec(Message, frozen=True):
    """What a tracker child is to be."""

    name: str
    rng_seed: int


class PeerSpecMessage(Message, frozen=True):
    """What a peer child is to be; ``directory`` holds its file."""

    peer_id: str
    torrent_path: str
    directory: str
    seed: bool
    tracker_url: str
    upload_rate_bytes_per_s: float | None
    download_rate_bytes_per_s: float | None
    start_delay_s: float
    leaves_when_complete: bool
    free_rider: bool
    picker: str
    choker: str
    max_neighbours: int
    rng_seed: int


class Ready(Message, frozen=True):
    """Child: bound, listening, file verified."""

    port: int


class Go(Message, frozen=True):
    """Launcher: start at this CLOCK_MONOTONIC time (each child after its own delay); tell progress so often."""

    at_s: float
    progress_every_s: float


class Progress(Message, frozen=True):
    """Child: so many blocks are owned."""

    blocks_owned: int


class Complete(Message, frozen=True):
    """Child: the last block was on disk at this time."""

    at_s: float


class Failed(Message, frozen=True):
    """Child: this ended it early."""

    error: str


class Measure(Message, frozen=True):
    """Launcher: tell how much CPU time you took since the start signal."""


class Measured(Message, frozen=True):
    """Child: so much; None where a process is shared (threads)."""

    cpu_s: float | None


class AskReport(Message, frozen=True):
    """Launcher: settle, then account for the run."""


class Report(Message, frozen=True):
    """Child: its account."""

    report: PeerReport | None


class Stop(Message, frozen=True):
    """Launcher: leave the swarm and end."""


Anything = (
    TrackerSpec
    | PeerSpecMessage
    | Ready
    | Go
    | Progress
    | Complete
    | Failed
    | Measure
    | Measured
    | AskReport
    | Report
    | Stop
)
_decode = msgspec.json.Decoder(Anything).decode
_encode = msgspec.json.Encoder().encode


class Channel:
    """One end of a socket pair. ``receive`` returns whole messages only; ``ended`` once the other end is gone."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.ended = False
        self._rest = b""

    def send(self, message: Message) -> None:
        """Send a message; to an end that is gone, note that and send nothing."""
        try:
            self.sock.sendall(_encode(message) + b"\n")
        except OSError:
            self.ended = True

    def receive(self, timeout_s: float | None = None) -> list[Anything]:
        """Return the messages that are there, waiting for the first up to ``timeout_s`` (None: for ever)."""
        if not _readable(self.sock, timeout_s):
            return []
        return list(self._take())

    def _take(self) -> Iterator[Anything]:
        try:
            data = self.sock.recv(_RECV_BYTES)
        except OSError:
            data = b""
        if not data:
            self.ended = True
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            yield _decode(line)

    def close(self) -> None:
        """Close this end."""
        self.ended = True
        self.sock.close()


def _readable(sock: socket.socket, timeout_s: float | None) -> bool:
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    return bool(poller.poll(None if timeout_s is None else max(0.0, timeout_s) * 1000))
