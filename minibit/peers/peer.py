"""The specification's ``Peer``: client and server in one, over a real file or simulated content."""

import errno
import os
import random
import socket
import threading
import time
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from flask import Flask, Response, request

from minibit import wire
from minibit.core import events as ev
from minibit.core.blocks import Bitfield
from minibit.core.choker import CHOKERS, FreeRider
from minibit.core.picker import PICKERS
from minibit.core.session import Session
from minibit.errors import MiniBitError, StorageError, TrackerError, UsageError
from minibit.metainfo import Metainfo
from minibit.peers.announcer import Announcer
from minibit.peers.client import PeerClient
from minibit.peers.downloader import Downloader
from minibit.peers.driver import Driver
from minibit.peers.meters import Meters, PeerReport
from minibit.peers.pacer import Pacer
from minibit.peers.server import Routes, lean
from minibit.peers.storage import FileStorage, Progress, SimulatedStorage, Storage
from minibit.peers.views import BlockData, KnownPeers, OwnedBlocks
from minibit.serving import Server, bind
from minibit.wsgi import in_front_of

PORT_RANGE_START = 50000
PORT_RANGE_END = 60000
PORT_MAX = 65535
SERVER_THREADS = 12  # eight uploads at most hold one each (see core.session); the rest answers messages at once
CONNECTIONS_MAX = 1000
BIND_TRIES = 100


def default_tracker_url() -> str:
    """Return the tracker that the environment names (TRACKER_HOST, TRACKER_PORT)."""
    return f"http://{os.environ.get('TRACKER_HOST', '127.0.0.1')}:{os.environ.get('TRACKER_PORT', '9000')}"


def port_range() -> tuple[int, int]:
    """Return the ports that the environment allows: PEER_LISTEN_PORT_START … PEER_LISTEN_PORT (or …_END)."""
    environment = os.environ
    texts = (
        environment.get("PEER_LISTEN_PORT_START", str(PORT_RANGE_START)),
        environment.get("PEER_LISTEN_PORT", environment.get("PEER_LISTEN_PORT_END", str(PORT_RANGE_END))),
    )
    if all(text.isascii() and text.isdigit() for text in texts):
        first, last = map(int, texts)
        if 1 <= first <= last <= PORT_MAX:
            return first, last
    raise UsageError(
        f"PEER_LISTEN_PORT_START and PEER_LISTEN_PORT must be ports, the first not above the second: {texts}"
    )


class Peer:
    """One peer of a swarm.

    ``Peer(peer_id, total_blocks, file_name)`` simulates content, which follows from ``file_name`` and the index; its
    attributes may be changed at will. ``Peer.for_file(metainfo, directory)`` rebuilds a real file; ``blocks_owned`` and
    ``block_data`` are read-only then.

    ``tracker_url`` None means the environment's tracker. ``port`` None takes a free port of PEER_LISTEN_PORT_START …
    PEER_LISTEN_PORT_END, 0 any. Rates are bytes per second of payload, None for no limit. ``advertise`` is the address
    that the tracker is to hand out (honoured from loopback only). ``linger_s`` is how long ``run`` serves on after the
    file is complete; None: until ``stop()``.

    Raises UsageError if no port can be had, StorageError if the directory cannot be used.
    """

    def __init__(
        self,
        peer_id: str,
        total_blocks: int,
        file_name: str = "shared_file.txt",
        *,
        tracker_url: str | None = None,
        host: str = "127.0.0.1",
        port: int | None = None,
        advertise: str | None = None,
        picker: str = "rarest-first",
        choker: str = "tit-for-tat",
        free_rider: bool = False,
        upload_rate_bytes_per_s: float | None = None,
        download_rate_bytes_per_s: float | None = None,
        max_neighbours: int = 50,
        rng_seed: int | None = None,
        linger_s: float | None = None,
        log_events: bool = False,
        metainfo: Metainfo | None = None,
        storage: Storage | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.peer_id = peer_id
        self.total_blocks = total_blocks
        self.file_name = file_name
        self.storage = storage or SimulatedStorage(total_blocks, file_name)
        self.tracker_error: MiniBitError | None = None
        self.error: MiniBitError | None = None
        self.meters = Meters()
        self.up = Pacer(upload_rate_bytes_per_s)
        self.down = Pacer(download_rate_bytes_per_s)
        self.link = threading.Lock()  # held by the upload that a limited uplink is sending
        self.clock = time.monotonic
        self._host = host
        self._advertise = advertise
        self._linger_s = linger_s
        self._metainfo = metainfo
        # Random(str) is the same in every process: one stream a peer, from the run's seed and its name.
        self._rng = random.Random(f"{rng_seed}/{peer_id}") if rng_seed is not None else random.Random()
        self.session = Session(
            self.storage.geometry,
            rng=self._rng,
            picker=PICKERS[picker](),
            choker=FreeRider() if free_rider else CHOKERS[choker](),
            upload_rate_bytes_per_s=upload_rate_bytes_per_s,
            download_rate_bytes_per_s=download_rate_bytes_per_s,
            max_neighbours=max_neighbours,
        )
        self.driver = Driver(self.session, Downloader(self).carry_out, log_events=log_events)
        self._key_of: dict[tuple[str, str], str] = {}  # (ip, peer_id) -> key
        self._claimed: set[int] = set()  # blocks that a thread is about to write, or has
        self._on_disk = Bitfield(total_blocks)  # may be ahead of the session, which hears of a block afterwards
        self._complete = threading.Event()
        self._stopped = threading.Event()
        self._started = False
        self._registered = False
        self.completed_at_s: float | None = None
        self.known_peers = KnownPeers(self)
        simulated = isinstance(self.storage, SimulatedStorage)
        self._blocks_owned = OwnedBlocks([False] * total_blocks, self._set_owned if simulated else None)
        self.block_data: Any = (
            self.storage.blocks
            if isinstance(self.storage, SimulatedStorage)
            else BlockData(lambda: iter(self.session.owned), self.storage)
        )
        self._sock = self._find_available_port() if port is None else bind(host, port)
        try:
            self._take_stock(progress)
        except BaseException:
            self._sock.close()
            raise
        self.listen_port: int = self._sock.getsockname()[1]
        source_host = None if host in {"0.0.0.0", "::", "127.0.0.1"} else host
        self.peer_url = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{self.listen_port}"
        self.client = PeerClient(source_host=source_host)
        self._announcer = Announcer(tracker_url or default_tracker_url(), source_host=source_host)
        self.app = Flask("minibit.peer")
        self._routes = Routes(self)
        self._setup_peer_api_routes()
        self._server = Server(
            self.app, sock=self._sock, threads=SERVER_THREADS, connection_limit=CONNECTIONS_MAX,
            max_body_bytes=max(wire_body_limit(total_blocks), 64 * 1024),
        )  # fmt: skip
        weakref.finalize(self, self._sock.close)

    @classmethod
    def for_file(
        cls,
        metainfo: Metainfo,
        directory: Path,
        *,
        peer_id: str,
        seed: bool = False,
        fsync: bool = True,
        **options: Any,
    ) -> Self:
        """Return a peer of a real file in ``directory``; it starts from what is on disk and sound.

        ``seed`` asserts that the file is there already; ``fsync`` flushes it to disk once when complete. The other
        ``options`` are those of the constructor.
        """
        storage = FileStorage(metainfo, directory, seed=seed, fsync_when_complete=fsync)
        return cls(peer_id, metainfo.num_blocks, metainfo.name, metainfo=metainfo, storage=storage, **options)

    # ------------------------------------------------------------------ the specification's face

    @property
    def file_complete(self) -> bool:
        """Whether every block is owned."""
        return self.session.owned.complete

    @property
    def blocks_owned(self) -> OwnedBlocks:
        """Which blocks are owned, as a list of booleans; of simulated content it may be changed or replaced."""
        return self._blocks_owned

    @blocks_owned.setter
    def blocks_owned(self, flags: Iterable[bool]) -> None:
        self._blocks_owned[:] = flags

    @property
    def unchoked_peers(self) -> set[str]:
        """The keys of the neighbours that may ask me for blocks."""
        return self.session.unchoked

    @unchoked_peers.setter
    def unchoked_peers(self, keys: Iterable[str]) -> None:
        _refill(self.session.unchoked, keys)

    @property
    def choked_peers(self) -> set[str]:
        """The keys of the neighbours that may not."""
        return self.session.choked

    @choked_peers.setter
    def choked_peers(self, keys: Iterable[str]) -> None:
        _refill(self.session.choked, keys)

    @property
    def optimistic_unchoke(self) -> str | None:
        """The key of the neighbour that is unchoked optimistically, if one is."""
        return self.session.optimistic

    @property
    def last_unchoke_time(self) -> float:
        """When tit-for-tat was last applied (seconds since the epoch); 0.0 if never."""
        last_s = self.session.last_rechoke_s
        return 0.0 if last_s == float("-inf") else time.time() - (time.monotonic() - last_s)

    @property
    def public_port(self) -> int:
        """The port that others are told."""
        return self.listen_port

    def _find_available_port(self) -> socket.socket:
        """Bind a free port of the range and keep the socket: the range lies within the ephemeral ports."""
        first, last = port_range()
        chooser = random.Random()  # not the session's: which port is free differs from run to run
        for port in chooser.sample(range(first, last + 1), min(BIND_TRIES, last + 1 - first)):
            try:
                return bind(self._host, port)
            except UsageError as error:
                cause = error.__cause__
                if not isinstance(cause, OSError) or cause.errno != errno.EADDRINUSE:
                    raise
        raise UsageError(f"no free port from {first} to {last} on {self._host}")

    def _setup_peer_api_routes(self) -> None:
        """Bind the routes; what peers ask of each other most is answered in front of Flask."""
        add = self.app.add_url_rule
        add(wire.REQUEST_BLOCK, view_func=self.request_block_handler, methods=["POST"])
        add(wire.HAVE_BLOCKS_INFO, view_func=self.have_blocks_info_handler, methods=["POST"])
        add(wire.ANNOUNCE_BLOCK, view_func=self.announce_block_handler, methods=["POST"])
        # Flask's own way to put middleware before it; its type is that of the method.
        self.app.wsgi_app = in_front_of(self.app.wsgi_app, lean(self._routes))  # type: ignore[method-assign,assignment]

    def request_block_handler(self) -> Response:
        """POST /request_block: the block named, or why not (400, 403, 404, 503)."""
        raw = request.accept_mimetypes.best_match([wire.JSON, wire.RAW], wire.JSON) == wire.RAW
        reply = self._routes.request_block(
            request.remote_addr or "", request.get_data(), raw=raw, file_slice=request.environ.get("minibit.file_slice")
        )
        return reply.as_flask()

    def have_blocks_info_handler(self) -> Response:
        """POST /have_blocks_info: replaces what is known of the sender; answers with my own blocks."""
        return self._routes.have_blocks_info(request.remote_addr or "", request.get_data()).as_flask()

    def announce_block_handler(self) -> Response:
        """POST /announce_block: marks blocks as the sender's."""
        return self._routes.announce_block(request.remote_addr or "", request.get_data()).as_flask()

    def connect_to_tracker(self) -> wire.RegisterAnswer:
        """Register with the tracker; take in the initial blocks and the peers it answers with.

        Raises TrackerError.
        """
        answer = self._connect()
        self._meet_all(answer.peers)
        return answer

    def _connect(self) -> wire.RegisterAnswer:
        answer = self._register("started")
        self._registered = True
        if answer.initial_blocks and isinstance(self.storage, SimulatedStorage):
            for index in answer.initial_blocks:
                self.blocks_owned[index] = True
        return answer

    def request_peer_list_from_tracker(self) -> list[wire.PeerEntry]:
        """Ask the tracker for more peers and take them in. Raises TrackerError."""
        entries = self._announcer.peers(self.peer_id, info_hash=self._info_hash).peers
        self._meet_all(entries)
        return entries

    def start_listening_for_peers(self) -> None:
        """Serve other peers from background threads, and begin to trade."""
        if not self._started:
            self._started = True
            self._server.start()
            self.driver.start()

    def _initialize_partial_blocks(self) -> None:
        """Own a random subset of the simulated blocks, at most a quarter."""
        count = self._rng.randint(0, self.total_blocks // 4)
        for index in self._rng.sample(range(self.total_blocks), count):
            self.blocks_owned[index] = True

    def run(self) -> None:
        """Join the swarm, trade until the file is complete, serve on for ``linger_s``. Raises what ended it early."""
        self.join()
        self.wait_complete()
        if self.error is None:
            self._stopped.wait(self._linger_s)
        self.stop()
        if self.error:
            raise self.error

    # ------------------------------------------------------------------ life

    def join(self) -> None:
        """Serve, announce and trade in the background."""
        self.start_listening_for_peers()
        self.driver.feed(ev.Started(tuple(self.session.owned)))

    def wait_complete(self, timeout_s: float | None = None) -> bool:
        """Wait until the file is complete, ``stop()`` is called or an error ends it; return whether it is complete."""
        self._complete.wait(timeout_s)
        return self.file_complete and self.error is None

    def stop(self) -> None:
        """Leave the swarm: tell the tracker, end what is under way, close everything. Idempotent."""
        if self._stopped.is_set() and not self._started:
            return
        self._started = False
        self._stopped.set()
        self._complete.set()
        self.driver.stop()
        self._server.stop()
        self.client.close()
        if self._registered:
            self._tell_tracker("stopped")
        self.driver.join()
        self._announcer.close()
        self.storage.close()

    def fail(self, error: MiniBitError) -> None:
        """Stop trading because of an error that no other peer can mend (the disk is full)."""
        self.error = error
        self._complete.set()

    def finished(self) -> None:
        """Every block is in: give the file its name, tell the tracker."""
        try:
            self.storage.complete()
        except StorageError as error:
            self.fail(error)
            return
        self.completed_at_s = self.meters.timeline[-1][0] if self.meters.timeline else self.clock()
        self._complete.set()
        if self._registered and self.meters.timeline:
            self._tell_tracker("completed")

    def _tell_tracker(self, event: str) -> None:
        """Tell the tracker something it can do without: it would notice by itself, only later."""
        try:
            self._register(event)
        except TrackerError as error:
            self.tracker_error = error

    # ------------------------------------------------------------------ what the rest of the package asks of a peer

    @property
    def _info_hash(self) -> str | None:
        return self._metainfo.info_hash if self._metainfo else None

    def _take_stock(self, progress: Progress | None) -> None:
        """Own what is on disk; of simulated content, a random part."""
        for index in self.storage.open(progress):
            self._own(index)
        if isinstance(self.storage, SimulatedStorage):
            self._initialize_partial_blocks()

    def announce(self) -> None:
        """Announce to the tracker and take in what it answers. Raises TrackerError."""
        again = "completed" if self.file_complete else None
        answer = self._register(again) if self._registered else self._connect()
        self._meet_all(answer.peers, ev.TrackerAnswered(len(answer.peers), answer.interval_s))

    def _register(self, event: str | None) -> wire.RegisterAnswer:
        self.meters.counted("tracker")
        return self._announcer.register(
            wire.RegisterRequest(
                self.peer_id, self.public_port, self._info_hash, seed=self.file_complete and self._metainfo is not None,
                event=event, ip=self._advertise,
            )
        )  # fmt: skip

    def _meet_all(self, entries: list[wire.PeerEntry], *then: ev.Event) -> None:
        """Learn of the peers that the tracker named, as one moment."""
        news: list[ev.Event] = []
        for entry in entries:
            key = f"{entry.ip}:{entry.port}"
            if entry.peer_id != self.peer_id:
                news.append(ev.PeerSeen(key, entry.peer_id, entry.seed))
            if known := tuple(index for index in entry.blocks_owned if index < self.total_blocks):
                news.append(ev.HavesReceived(key, known))
        with self.driver.lock:
            self.driver.feed(*news, *then)
            for entry in entries:
                self._enter(f"{entry.ip}:{entry.port}", entry.peer_id)

    def _enter(self, key: str, peer_id: str) -> None:
        if key in self.session.neighbours:
            self._key_of[key.rpartition(":")[0], peer_id] = key

    def meet(self, key: str, peer_id: str, *, seed: bool = False, inbound: bool = False) -> None:
        """Learn of a peer at this address."""
        if peer_id == self.peer_id:
            return
        with self.driver.lock:
            self.driver.feed(ev.PeerSeen(key, peer_id, seed, inbound))
            self._enter(key, peer_id)

    def forget(self, key: str) -> None:
        """Drop a peer from the known ones; raise KeyError if it is not known."""
        with self.driver.lock:
            self.session.forget(key)

    def resolve(self, sender_id: str, remote_ip: str, listen_port: int | None) -> str | None:
        """Return the key of the sender of a message, None if unknown; with its port an unknown sender becomes known."""
        key = self._key_of.get((remote_ip, sender_id))
        if key is None and sender_id.startswith(f"{remote_ip}:"):
            key = sender_id
        if listen_port is not None and key != f"{remote_ip}:{listen_port}":
            key = f"{remote_ip}:{listen_port}"
            self.meet(key, sender_id, inbound=True)
        return key if key in self.session.neighbours else None

    def name_of(self, key: str) -> str:
        """Return the peer_id of a neighbour, or its key if it is no longer known."""
        neighbour = self.session.neighbours.get(key)
        return neighbour.peer_id if neighbour else key

    def news_for(self, key: str) -> tuple[int, ...]:
        """Return the blocks this neighbour has not heard of."""
        answers = self.driver.feed(ev.NewsAsked(key))
        return next((answer.haves for answer in answers if isinstance(answer, ev.TellNews)), ())

    def may_ask(self, key: str) -> bool:
        """Whether this neighbour is served if it asks now."""
        return self.session.lets_ask(key, self.clock())

    def retry_after_s(self, key: str) -> float:
        """Return when it makes sense for this neighbour to ask again."""
        return self.session.retry_after_s(key, self.clock())

    def claim(self, index: int) -> bool:
        """Whether the caller is the first to bring this block: it alone writes it."""
        with self.driver.lock:
            if index in self.session.owned or index in self._claimed:
                return False
            self._claimed.add(index)
            return True

    def stored(self, index: int) -> None:
        """A block is on disk."""
        with self.driver.lock:
            self.blocks_owned.mark(index)
            self._on_disk.add(index)
            self.meters.block_owned(self.clock(), index, self._on_disk.count)

    def _own(self, index: int) -> None:
        self.session.owned.add(index)
        self.blocks_owned.mark(index)
        self._on_disk.add(index)

    def _set_owned(self, index: int, owned: bool) -> None:
        with self.driver.lock:
            if owned:
                self.storage.write(index, memoryview(self.storage.read(index)))
                self._on_disk.add(index)
                self.driver.feed(ev.BlocksGranted((index,)))
            else:
                self.block_data.pop(index, None)
                self.session.disown(index)
                self._claimed.discard(index)
                self._on_disk.discard(index)
                self._complete.clear()
                self.driver.feed(ev.Tick())  # there is something to ask for again

    def settle(self, timeout_s: float = 2.0) -> None:
        """Wait until no block is on its way to or from this peer, so that both ends have counted the same."""
        deadline_s = self.clock() + timeout_s
        while self.clock() < deadline_s:
            with self.driver.lock:
                if not self.session.uplink.active and not len(self.session.ledger):
                    return
            time.sleep(0.005)

    def report(self) -> PeerReport:
        """Return this peer's account of the run so far."""
        meters = self.meters
        with self.driver.lock:
            return PeerReport(
                peer_id=self.peer_id,
                completed_at_s=self.completed_at_s,
                first_block_at_s=meters.timeline[0][0] if meters.timeline else None,
                blocks_owned=self.session.owned.count,
                sent_to=dict(meters.sent_to),
                received_from=dict(meters.received_from),
                useful_bytes=meters.verdicts["useful"],
                duplicate_bytes=meters.verdicts["duplicate"],
                corrupt_bytes=meters.verdicts["corrupt"],
                aborted_bytes=meters.verdicts["aborted"],
                aborts=dict(meters.aborts),
                requests=dict(meters.requests),
                upload_peak_bytes_per_s=self.up.peak_bytes_per_s,
                download_peak_bytes_per_s=self.down.peak_bytes_per_s,
                upload_duration_s=self.up.duration_s,
                download_duration_s=self.down.duration_s,
                timeline=list(meters.timeline),
                order=list(meters.order),
                waiting_for=self.session.describe(),
            )


def wire_body_limit(total_blocks: int) -> int:
    """Return how long a message may be: a complete bitfield as JSON booleans, and some."""
    return 8 * total_blocks + 64 * 1024


def _refill(live: set[str], keys: Iterable[str]) -> None:
    wanted = set(keys)
    live.clear()
    live.update(wanted)
