"""One peer as a process of its own: joins a swarm between real machines, leaves it properly."""

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from minibit import metainfo
from minibit.errors import MiniBitError, UsageError
from minibit.peers.peer import Peer
from minibit.peers.storage import Progress

WATCH_EVERY_S = 0.5
Watch = Callable[[Peer], None]


def run_peer(
    torrent: Path,
    directory: Path,
    *,
    tracker_url: str | None = None,
    peer_id: str | None = None,
    seed: bool = False,
    exit_when_complete: bool = False,
    verifying: Progress | None = None,
    watch: Watch | None = None,
    **options: Any,
) -> int:
    """Run a peer until SIGTERM or SIGINT, or (``exit_when_complete``) until it has the file; return the exit code.

    ``watch(peer)`` is called twice a second. ``options`` are those of ``Peer``. Raises UsageError, StorageError, and
    TrackerError if the tracker never answered and the peer was stopped without having the file.
    """
    described = metainfo.read(torrent)
    url = tracker_url or described.announce
    if url is None:
        raise UsageError(f"{torrent} names no tracker: give one with --tracker URL")
    if not url.startswith("http://"):
        raise UsageError(f"the tracker must be an http:// address, not {url!r}")
    peer = Peer.for_file(
        described,
        directory,
        peer_id=peer_id or default_peer_id(),
        seed=seed,
        tracker_url=url,
        progress=verifying,
        **options,
    )
    leave = threading.Event()
    _on_signals(leave)
    peer.join()
    try:
        while not leave.is_set() and peer.error is None and not (peer.file_complete and exit_when_complete):
            if watch:
                watch(peer)
            leave.wait(WATCH_EVERY_S) if peer.file_complete else peer.wait_complete(WATCH_EVERY_S)
        if watch:
            watch(peer)
    finally:
        peer.stop()
    return _verdict(peer)


def default_peer_id() -> str:
    """Return a name that differs between machines and processes."""
    return f"{socket.gethostname()}-{os.getpid()}"


def _on_signals(leave: threading.Event) -> None:
    def handler(_signal: int, _frame: FrameType | None) -> None:
        leave.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handler)


def _verdict(peer: Peer) -> int:
    if peer.error:
        raise peer.error
    if peer.file_complete:
        return 0
    if peer.tracker_error and not peer.session.neighbours:
        raise peer.tracker_error
    return 1


def plain_watch() -> Watch:
    """Return a watch that prints a line whenever another tenth of the file is there."""
    told = -1

    def watch(peer: Peer) -> None:
        nonlocal told
        tenth = 10 * peer.session.owned.count // max(1, peer.total_blocks) if peer.total_blocks else 10
        if tenth != told:
            told = tenth
            known = len(peer.session.neighbours)
            print(f"{peer.file_name}: {10 * tenth} % ({known} peers known)", file=sys.stderr, flush=True)

    return watch


def complain(error: MiniBitError) -> int:
    """Print a mistake as one line; return its exit code."""
    print(f"minibit: {error}", file=sys.stderr)
    return error.exit_code
