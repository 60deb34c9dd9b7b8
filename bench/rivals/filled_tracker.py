"""MiniBit's tracker with so many peers registered before it serves: ``python -m bench.rivals.filled_tracker``.

Arguments: port, server (waitress or granian), number of peers, info-hash. Prints the bytes of memory each peer took
(resident), then serves until SIGTERM.
"""

import ipaddress
import signal
import sys

import psutil

from minibit.tracker import TrackerApp
from minibit.tracker.command import spare_the_old
from minibit.tracker.registry import Announcement
from minibit.tracker.under_granian import serve_under_granian

NEVER_S = 86_400.0
FIRST_ADDRESS = int(ipaddress.IPv4Address("10.0.0.1"))


def main() -> None:
    """Fill and serve."""
    port, server, peers, info_hash = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
    tracker = TrackerApp("127.0.0.1", port)
    before = psutil.Process().memory_info().rss
    spare_the_old()
    for number in range(peers):
        ip = str(ipaddress.IPv4Address(FIRST_ADDRESS + number))
        announcement = Announcement(f"-XX0002-{number:012d}", ip, ip, 1024 + number % 60_000, seed=False, ttl_s=NEVER_S)
        tracker.registry.announce(info_hash, announcement, count=0)
    grown = psutil.Process().memory_info().rss - before
    print(grown // peers if peers else 0, flush=True)
    if server == "granian":
        serve_under_granian(tracker, lambda _port: None)
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    tracker.start()
    signal.sigwait({signal.SIGTERM})
    tracker.stop()


if __name__ == "__main__":
    main()
