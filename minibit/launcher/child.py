"""What runs in a child: a tracker or a peer that obeys the launcher's channel. A process of its own, or a thread."""

import logging
import resource
import threading
import time
from pathlib import Path

from minibit import metainfo
from minibit.errors import MiniBitError
from minibit.launcher.channel import (
    AskReport,
    Channel,
    Complete,
    Failed,
    Go,
    Measure,
    Measured,
    PeerSpecMessage,
    Progress,
    Ready,
    Report,
    Stop,
    TrackerSpec,
)
from minibit.peers import Peer
from minibit.tracker import TrackerApp

log = logging.getLogger(__name__)


def run_child(spec: TrackerSpec | PeerSpecMessage, channel: Channel, *, own_process: bool) -> None:
    """Be that child until the launcher says Stop or is gone."""
    try:
        child = _TrackerChild(spec) if isinstance(spec, TrackerSpec) else _PeerChild(spec, channel)
    except MiniBitError as error:
        channel.send(Failed(str(error)))
        channel.close()
        return
    try:
        _obey(child, channel, own_process=own_process)
    finally:
        child.stop()
        channel.close()


def _obey(child: "_TrackerChild | _PeerChild", channel: Channel, *, own_process: bool) -> None:
    channel.send(Ready(child.port))
    cpu_at_go_s = 0.0
    progress_every_s: float | None = None
    told = -1
    while not channel.ended:
        for message in channel.receive(progress_every_s):
            match message:
                case Go():
                    cpu_at_go_s = _cpu_s()
                    progress_every_s = message.progress_every_s
                    child.go(message.at_s)
                case Measure():
                    channel.send(Measured(_cpu_s() - cpu_at_go_s if own_process else None))
                case AskReport():
                    channel.send(child.report())
                    progress_every_s = None
                case Stop():
                    return
        if progress_every_s is not None and (owned := child.blocks_owned) != told:
            told = owned
            channel.send(Progress(owned))


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class _TrackerChild:
    """A tracker under waitress."""

    blocks_owned = -1

    def __init__(self, spec: TrackerSpec) -> None:
        self._tracker = TrackerApp("127.0.0.1", 0, initial_blocks="none", rng_seed=spec.rng_seed)
        self._tracker.start()
        self.port = self._tracker.port

    def go(self, at_s: float) -> None:
        """Nothing to begin: it answers already."""

    def report(self) -> Report:
        """Return the empty account: a tracker carries no payload."""
        return Report(None)

    def stop(self) -> None:
        """Stop serving."""
        self._tracker.stop()


class _PeerChild:
    """A peer of a real file."""

    def __init__(self, spec: PeerSpecMessage, channel: Channel) -> None:
        self._spec = spec
        self._channel = channel
        self._peer = Peer.for_file(
            metainfo.read(Path(spec.torrent_path)),
            Path(spec.directory),
            peer_id=spec.peer_id,
            seed=spec.seed,
            fsync=False,
            tracker_url=spec.tracker_url,
            port=0,
            picker=spec.picker,
            choker=spec.choker,
            free_rider=spec.free_rider,
            upload_rate_bytes_per_s=spec.upload_rate_bytes_per_s,
            download_rate_bytes_per_s=spec.download_rate_bytes_per_s,
            max_neighbours=spec.max_neighbours,
            rng_seed=spec.rng_seed,
        )
        self._peer.start_listening_for_peers()
        self._thread: threading.Thread | None = None
        self._leaving = threading.Event()
        self.port = self._peer.listen_port

    @property
    def blocks_owned(self) -> int:
        """How many blocks are on disk."""
        return self._peer.session.owned.count

    def go(self, at_s: float) -> None:
        """Join the swarm at the given time plus the peer's own delay, from a thread: the channel is to be read on."""
        self._thread = threading.Thread(target=self._live, args=(at_s + self._spec.start_delay_s,), daemon=True)
        self._thread.start()

    def _live(self, start_at_s: float) -> None:
        if self._leaving.wait(max(0.0, start_at_s - time.monotonic())):
            return
        self._peer.join()
        if self._peer.wait_complete():
            self._channel.send(Complete(self._peer.completed_at_s or time.monotonic()))
            if self._spec.leaves_when_complete:
                self._peer.settle()
                self._peer.stop()
        elif self._peer.error:
            self._channel.send(Failed(str(self._peer.error)))

    def report(self) -> Report:
        """Return the peer's account, once no block is on its way."""
        self._peer.settle()
        return Report(self._peer.report())

    def stop(self) -> None:
        """Leave the swarm and end."""
        self._leaving.set()
        self._peer.stop()
        if self._thread:
            self._thread.join()
