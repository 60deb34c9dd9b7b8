"""What badly behaved clients do: ``python -m minibit.load.attacks NAME HOST PORT SOCKETS``, until stdin ends.

One thread, non-blocking sockets; whatever the server closes is opened again a second later.
"""

import contextlib
import errno
import random
import resource
import select
import socket
import sys
import time
from collections import deque
from collections.abc import Callable

STEP_S = 0.05
OPEN_AGAIN_S = 1.0
DRIP_EVERY_S = 1.0  # slow-loris: a byte a second on each socket
MALFORMED_PER_S = 200
MALFORMED = (
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),  # TLS to a port without it
    b"GET\r\n\r\n",
    b"GET /announce HTTP/9.9\r\n\r\n",
    b"POST /register HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
    b"POST /register HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n",
    b"POST /register HTTP/1.1\r\nHost: x\r\nContent-Length: 2097152\r\n\r\n" + b"[" * 65536,
    b"POST /register HTTP/1.1\r\nHost: x\r\nContent-Length: 40000\r\n\r\n" + b"[" * 40000,
    b"POST /register HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"GET /announce?info_hash=" + b"%00" * 30_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /peers?numwant=-1&peer_id=" + b"a" * 5000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"X-Long: " + b"a" * 100_000 + b"\r\n\r\n",
    b"\r\n" * 1000,
    b"\x00" * 1000,
)


class _Crowd:
    """Sockets of one attack; ``greet`` is what each sends when it is connected."""

    def __init__(self, address: tuple[str, int], count: int, greet: bytes) -> None:
        self._address = address
        self._greet = greet
        self.poller = select.poll()
        self.sockets: dict[int, socket.socket] = {}
        self.opened = self.most = 0
        self._due_s = deque([0.0] * count)  # when each of those that are not there is to be opened

    def refill(self, at_most: int = 200) -> None:
        """Open those that are due, a few at a time."""
        for _ in range(at_most):
            if not self._due_s or self._due_s[0] > time.monotonic():
                return
            sock = socket.socket()
            sock.setblocking(False)
            if sock.connect_ex(self._address) not in {0, errno.EINPROGRESS}:
                sock.close()
                return
            self._due_s.popleft()
            self.sockets[sock.fileno()] = sock
            self.opened += 1
            self.most = max(self.most, len(self.sockets))
            self.poller.register(sock.fileno(), select.POLLOUT | select.POLLIN)

    def attend(self) -> None:
        """Greet where a connection came about; drop what was closed or answered with a close."""
        for descriptor, flags in self.poller.poll(0):
            sock = self.sockets[descriptor]
            try:
                if flags & (select.POLLERR | select.POLLHUP) or (flags & select.POLLIN and not sock.recv(65536)):
                    self.drop(descriptor)
                elif flags & select.POLLOUT:
                    self.poller.modify(descriptor, select.POLLIN)
                    sock.send(self._greet)
            except OSError:
                self.drop(descriptor)

    def told(self) -> str:
        """Return what was done."""
        return f"up to {self.most:,} sockets at once, {self.opened:,} opened"

    def drop(self, descriptor: int) -> None:
        """Close one."""
        self.poller.unregister(descriptor)
        self.sockets.pop(descriptor).close()
        self._due_s.append(time.monotonic() + OPEN_AGAIN_S)


def slow_loris(address: tuple[str, int], count: int, goes_on: Callable[[], bool]) -> str:
    """Hold ``count`` connections with a request that never ends: a byte a second on each."""
    crowd = _Crowd(address, count, b"POST /register HTTP/1.1\r\nHost: x\r\nX-Slow: ")
    next_s = time.monotonic()
    while goes_on():
        crowd.refill()
        crowd.attend()
        if time.monotonic() >= next_s:
            next_s += DRIP_EVERY_S
            for descriptor, sock in list(crowd.sockets.items()):
                try:
                    sock.send(b"a")
                except BlockingIOError:
                    continue
                except OSError as error:
                    if error.errno != errno.ENOTCONN:
                        crowd.drop(descriptor)
        time.sleep(STEP_S)
    return crowd.told()


def idle(address: tuple[str, int], count: int, goes_on: Callable[[], bool]) -> str:
    """Hold ``count`` kept-alive connections that have asked once, and say nothing more."""
    crowd = _Crowd(address, count, b"GET /stats HTTP/1.1\r\nHost: x\r\n\r\n")
    while goes_on():
        crowd.refill()
        crowd.attend()
        time.sleep(STEP_S)
    return crowd.told()


def malformed(address: tuple[str, int], count: int, goes_on: Callable[[], bool]) -> str:
    """Send what is no request, or one too large, two hundred times a second."""
    rng = random.Random(0)
    pending: list[tuple[float, socket.socket]] = []
    begun_s, sent = time.monotonic(), 0
    while goes_on():
        while sent < (time.monotonic() - begun_s) * MALFORMED_PER_S and len(pending) < count:
            sock = socket.socket()
            sock.settimeout(0.02)
            with contextlib.suppress(OSError):
                sock.connect(address)
                sock.send(rng.choice(MALFORMED))
                sent += 1
            pending.append((time.monotonic() + 0.5, sock))
        while pending and pending[0][0] < time.monotonic():
            pending.pop(0)[1].close()
        time.sleep(STEP_S)
    return f"{sent / (time.monotonic() - begun_s):.0f} a second"


ATTACKS = {"slow-loris": slow_loris, "idle": idle, "malformed": malformed}


def main() -> None:
    """Attack until stdin ends."""
    name, host, port, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count + 64:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(count + 64, hard), hard))

    def goes_on() -> bool:
        readable, _, _ = select.select([sys.stdin], [], [], 0)
        return not readable

    print(ATTACKS[name]((host, port), count, goes_on))


if __name__ == "__main__":
    main()
