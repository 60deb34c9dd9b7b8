"""``python -m minibit.load.served tracker|peer``: what a load test loads when no address is given, as one process.

A tracker may have peers registered before it serves, or make a given number of them expire at once; a peer is a seed of
made-up content. Either writes its port to ``--ready-fd`` and leaves at the end of ``--stop-fd``, or at SIGTERM.
"""

import argparse
import ipaddress
import logging
import os
import random
import resource
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

from minibit import metainfo
from minibit.errors import MiniBitError
from minibit.peers import Peer
from minibit.tracker import TrackerApp
from minibit.tracker.command import SERVERS, serve, spare_the_old
from minibit.tracker.registry import Announcement
from minibit.units import parse_size

NEVER_S = 86_400.0
FIRST_ADDRESS = int(ipaddress.IPv4Address("10.0.0.1"))
FILLER_HASH = "0102030405060708091011121314151617181920"
NOWHERE = "http://127.0.0.1:9"  # the discard port: a peer without a tracker
CONTENT_SEED = 0
FILE_NAME = "load.bin"


def content(size_bytes: int) -> bytes:
    """Return what the embedded peer shares."""
    return random.Random(CONTENT_SEED).randbytes(size_bytes)


def serve_tracker(options: argparse.Namespace) -> int:
    """Fill and serve; print the resident bytes that each registered peer takes, and when they were registered."""
    filled_s: list[float] = []  # while it is filled, one moment is all the time there is: they expire at once

    def clock() -> float:
        return filled_s[0] if len(filled_s) == 1 else time.monotonic()

    def fill(tracker: TrackerApp) -> None:
        before = psutil.Process().memory_info().rss
        spare_the_old()
        filled_s.append(time.monotonic())
        for number in range(options.registered):
            ip = str(ipaddress.IPv4Address(FIRST_ADDRESS + number))
            port = 1024 + number % 60_000
            peer_id = f"-XX0002-{number:012d}"
            announcement = Announcement(peer_id, ip, ip, port, seed=False, ttl_s=options.registered_ttl)
            tracker.registry.announce(options.info_hash, announcement, count=0)
        grown = psutil.Process().memory_info().rss - before
        print(grown // options.registered if options.registered else 0, filled_s[0], flush=True)
        filled_s.append(time.monotonic())

    return serve(
        options.host,
        options.port,
        options.ready_fd,
        stop_fd=options.stop_fd,
        server=options.server,
        prepare=fill,
        threads=options.threads,
        announce_interval_s=options.announce_interval,
        clock=clock,
    )


def serve_peer(options: argparse.Namespace) -> int:
    """Seed made-up content without a tracker until told to stop; print where its torrent is."""
    size_bytes, block_bytes = parse_size(options.size), parse_size(options.block_size)
    with tempfile.TemporaryDirectory(prefix="minibit-load-") as name:
        folder = Path(name)
        (folder / FILE_NAME).write_bytes(content(size_bytes))
        torrent = metainfo.create(folder / FILE_NAME, block_size_bytes=block_bytes)
        metainfo.write(torrent, folder / f"{FILE_NAME}.torrent")
        print(folder / f"{FILE_NAME}.torrent", flush=True)
        peer = Peer.for_file(
            torrent,
            folder,
            peer_id="loaded",
            seed=True,
            host=options.host,
            port=options.port,
            tracker_url=NOWHERE,
            choker=options.choker,
            max_neighbours=options.max_neighbours,
        )
        logging.getLogger("minibit.peers").setLevel(logging.ERROR)  # it has no tracker, and says so again and again
        stopped = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _signal, _frame: stopped.set())
        if options.stop_fd is not None:
            threading.Thread(target=_set_at_end_of, args=(options.stop_fd, stopped), daemon=True).start()
        peer.join()
        if options.ready_fd is not None:
            os.write(options.ready_fd, f"{peer.listen_port}\n".encode())
            os.close(options.ready_fd)
        stopped.wait()
        peer.stop()
    return 0


def main() -> int:
    """Parse, serve, return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m minibit.load.served", description=__doc__)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--host", default="127.0.0.1")
    common.add_argument("--port", type=int, default=0)
    common.add_argument("--ready-fd", type=int)
    common.add_argument("--stop-fd", type=int)
    common.add_argument("--open-files", type=int, help="limit itself to so many")
    kinds = parser.add_subparsers(required=True)
    tracker = kinds.add_parser("tracker", parents=[common])
    tracker.add_argument("--server", choices=SERVERS, default="waitress")
    tracker.add_argument("--threads", type=int, default=4)
    tracker.add_argument("--registered", type=int, default=0, help="peers in the swarm before it serves")
    tracker.add_argument("--registered-ttl", type=float, default=NEVER_S, help="seconds until they expire")
    tracker.add_argument("--info-hash", default=FILLER_HASH, help="of the swarm they are in")
    tracker.add_argument("--announce-interval", type=float, default=300.0)
    tracker.set_defaults(serve=serve_tracker)
    peer = kinds.add_parser("peer", parents=[common])
    peer.add_argument("--size", default="16MiB")
    peer.add_argument("--block-size", default="256KiB")
    peer.add_argument("--choker", default="tit-for-tat")
    peer.add_argument("--max-neighbours", type=int, default=1000)
    peer.set_defaults(serve=serve_peer)
    options = parser.parse_args()
    if options.open_files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (options.open_files, options.open_files))
    try:
        return int(options.serve(options))
    except MiniBitError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def _set_at_end_of(stop_fd: int, stopped: threading.Event) -> None:
    while os.read(stop_fd, 1024):
        pass
    stopped.set()


if __name__ == "__main__":
    sys.exit(main())
