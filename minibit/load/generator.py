"""MiniBit's own load generator: one process, one thread, many kept-alive connections, a schedule that waits for nobody.

``python -m minibit.load.generator`` reads a ``Plan`` as JSON from stdin, says ``ready``, begins when a line comes, and
writes what it saw. It takes less of a processor than locust does, and waits to the microsecond.
"""

import errno
import math
import os
import re
import select
import socket
import sys
import time
from collections import deque
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from minibit import metainfo
from minibit.errors import UsageError
from minibit.load.blocks import BlockSource
from minibit.load.measurement import Measurement, Seen
from minibit.load.population import FAULTS, VANISH_SHARE, Population
from minibit.load.schedule import Schedule
from minibit.load.source import NO_ANSWER, Job, Problem, Source, TrackerSource

RECV_BYTES = 256 * 1024
LOOK_EVERY_S = 0.1  # for answers that do not come
AFTERWARDS_S = 1.0  # answers still count that come so long after the end
TIDY_UP_S = 10.0
HEAD_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:", re.IGNORECASE)
NEVER = math.inf


class Plan(msgspec.Struct, kw_only=True):
    """What one of ``parts`` generators is to do. ``rate_per_s`` is its own share; None is a closed loop."""

    url: str
    kind: str  # tracker | peer
    seed: int
    part: int = 0
    parts: int = 1
    rate_per_s: float | None = None
    arrivals: str = "constant"
    connections: int = 64
    close: bool = False  # a connection for each request
    warm_up_s: float = 1.0
    seconds: float = 5.0
    timeout_s: float = 10.0
    tidy_up: bool = True
    slice_s: float | None = None
    protocol: str = "rest"
    peers: int = 500
    swarms: int = 100
    zipf: float = 1.0
    vanish: float = VANISH_SHARE
    allow: list[str] = []
    torrent: str = ""
    leechers: int = 8
    ports: list[int] = []  # of the leechers; else any
    json_share: float = 0.0
    choked_share: float = 0.0


def source_of(plan: Plan) -> Source:
    """Return what the plan wants to be sent."""
    if plan.kind == "peer":
        return BlockSource(
            plan.seed,
            metainfo.read(Path(plan.torrent)),
            leechers=plan.leechers,
            ports=plan.ports,
            part=plan.part,
            json_share=plan.json_share,
            choked_share=plan.choked_share,
        )
    population = Population(
        plan.seed,
        size=max(1, plan.peers // plan.parts),
        swarms=plan.swarms,
        zipf=plan.zipf,
        part=plan.part,
        parts=plan.parts,
        vanish_share=plan.vanish,
        allowed=[FAULTS[name] for name in plan.allow],
    )
    return TrackerSource(population, plan.protocol)


def address_of(url: str) -> tuple[str, tuple[str, int], int]:
    """Return what the Host header says, (host, port) and the address family. Raise UsageError if it cannot be had."""
    try:
        parts = urlsplit(url)
        port = parts.port or 80
    except ValueError as error:
        raise UsageError(f"{url!r} is no address: {error}") from error
    if parts.scheme != "http" or not parts.hostname:
        raise UsageError(f"the target must be an http:// address, not {url!r}")
    try:
        family = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)[0][0]
    except OSError as error:
        raise UsageError(f"{parts.hostname}: {error.strerror}") from error
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{host}:{port}", (parts.hostname, port), family


class _Connection:
    """One connection and the request that is out on it, if any."""

    __slots__ = ("buffer", "expected", "intended_s", "job", "reused", "sent_s", "since_s", "sock", "unsent", "watched")

    def __init__(self) -> None:
        self.sock: socket.socket | None = None
        self.job: Job | None = None
        self.unsent = b""
        self.buffer = bytearray()
        self.watched = False  # for being writable
        self.reused = False  # by the request that is out: the other side may just have closed it
        self.expected: float | None = None  # bytes of the whole answer, once its head is there
        self.intended_s = self.sent_s = 0.0
        self.since_s = 0.0  # idle since then


class Generator:
    """Sends what a source gives, over at most ``connections`` connections, and measures."""

    def __init__(
        self, url: str, source: Source, *, connections: int, close: bool = False, timeout_s: float = 10
    ) -> None:
        self._host, self._address, self._family = address_of(url)
        self._source = source
        self._close = close
        self._timeout_s = timeout_s
        self._epoll = select.epoll()
        self._idle = deque(_Connection() for _ in range(connections))
        self._open: dict[int, _Connection] = {}  # by descriptor
        self._busy: set[_Connection] = set()
        self._measurement = Measurement(NEVER)
        self._looked_s = 0.0

    def run(
        self, schedule: Schedule | None, *, warm_up_s: float, seconds: float, slice_s: float | None = None
    ) -> Measurement:
        """Load the target for so long, wait for the last answers, and return what was seen."""
        begins_s = time.perf_counter()
        ends_s = begins_s + warm_up_s + seconds
        measured = Measurement(begins_s + warm_up_s, ends_s, open_loop=schedule is not None, slice_s=slice_s)
        self._measurement = measured
        while True:
            now_s = time.perf_counter()
            if schedule is None:
                while self._idle and now_s < ends_s:
                    self._send(self._source.next(now_s), now_s)
                    now_s = time.perf_counter()
                wait_s = ends_s - now_s
            else:
                while self._idle and (intended_s := begins_s + schedule.next_s) <= now_s and intended_s < ends_s:
                    schedule.take()
                    measured.sent(intended_s)
                    measured.delayed(intended_s, max(0.0, now_s - max(intended_s, self._idle[0].since_s)))
                    self._send(self._source.next(now_s), intended_s)
                    now_s = time.perf_counter()
                wait_s = (begins_s + schedule.next_s if self._idle else ends_s) - now_s
            if now_s >= ends_s:
                break
            self._attend(min(wait_s, ends_s - now_s, LOOK_EVERY_S))
        measured.end(ends_s)
        while schedule is not None and (intended_s := begins_s + schedule.take()) < ends_s:
            measured.missed(intended_s)
        self._wait_for_answers(min(AFTERWARDS_S, self._timeout_s + 2 * LOOK_EVERY_S))
        return measured

    def tidy_up(self) -> None:
        """Send what leaves the target as it was, as far as that goes in a few seconds; it is not measured."""
        ends_s = time.perf_counter() + TIDY_UP_S
        while (now_s := time.perf_counter()) < ends_s:
            while self._idle and (job := self._source.leave(now_s)) is not None:
                self._send(job, -NEVER)
            if not self._busy:
                return
            self._attend(LOOK_EVERY_S)

    def shut(self) -> None:
        """Close every connection."""
        for connection in list(self._open.values()):
            self._disconnect(connection)
        self._epoll.close()

    def _wait_for_answers(self, at_most_s: float) -> None:
        ends_s = time.perf_counter() + at_most_s
        while self._busy and (left_s := ends_s - time.perf_counter()) > 0:
            self._attend(min(left_s, LOOK_EVERY_S))
        for connection in list(self._busy):
            self._fail(connection, f"none within {at_most_s:g} s after the end of the test")

    def _attend(self, wait_s: float) -> None:
        """Wait for something to happen, for so long at most, and do what it asks for."""
        # select, whose time-out is exact; that of epoll is a whole number of milliseconds.
        if wait_s > 0:
            select.select([self._epoll], [], [], wait_s)
        for descriptor, flags in self._epoll.poll(0):
            connection = self._open.get(descriptor)
            if connection is None:
                continue  # closed a moment ago
            if connection.job is None:
                self._disconnect(connection)  # the other side did so, or says what nobody asked for
            elif connection.unsent and flags & select.EPOLLOUT:
                self._write(connection)
            elif flags & ~select.EPOLLOUT:
                self._read(connection)
        now_s = time.perf_counter()
        if now_s - self._looked_s > LOOK_EVERY_S:
            self._looked_s = now_s
            for connection in [each for each in self._busy if now_s - each.sent_s > self._timeout_s]:
                self._fail(connection, f"timed out after {self._timeout_s:g} s")

    def _send(self, job: Job, intended_s: float) -> None:
        connection = self._idle.popleft()
        connection.job = job
        connection.intended_s = intended_s
        connection.unsent = self._written(job)
        connection.sent_s = time.perf_counter()
        self._busy.add(connection)
        connection.reused = connection.sock is not None
        if connection.sock is None:
            self._connect(connection)
        if connection.job is not None:  # the connection was not refused at once
            self._write(connection)

    def _written(self, job: Job) -> bytes:
        request = job.request
        headers = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
        if request.body:
            headers += f"Content-Length: {len(request.body)}\r\n"
        if self._close:
            headers += "Connection: close\r\n"
        return (
            f"{request.method} {request.target} HTTP/1.1\r\nHost: {self._host}\r\n{headers}\r\n".encode() + request.body
        )

    def _connect(self, connection: _Connection) -> None:
        sock = socket.socket(self._family, socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sock = sock
        self._open[sock.fileno()] = connection
        self._epoll.register(sock.fileno(), select.EPOLLIN | select.EPOLLOUT)
        connection.watched = True
        failed = sock.connect_ex(self._address)
        if failed not in {0, errno.EINPROGRESS}:
            self._fail(connection, os.strerror(failed))

    def _write(self, connection: _Connection) -> None:
        sock = _socket_of(connection)
        try:
            connection.unsent = connection.unsent[sock.send(connection.unsent) :]
        except (BlockingIOError, InterruptedError):
            pass  # the socket is full: it is watched below, and the rest is sent when there is room
        except OSError as error:
            if error.errno != errno.ENOTCONN:  # that is: still connecting
                self._broken(connection, str(error))
                return
        if bool(connection.unsent) != connection.watched:
            connection.watched = bool(connection.unsent)
            self._epoll.modify(sock.fileno(), select.EPOLLIN | (select.EPOLLOUT if connection.watched else 0))

    def _read(self, connection: _Connection) -> None:
        try:
            data = _socket_of(connection).recv(RECV_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._broken(connection, str(error))
            return
        buffer = connection.buffer
        buffer += data
        if connection.expected is None:
            head = buffer.find(HEAD_END)
            if head >= 0:
                connection.expected = self._length_of(bytes(buffer[: head + 2]), head + len(HEAD_END))
        if connection.expected is not None and len(buffer) >= connection.expected:
            self._answered(connection)
        elif not data:
            if connection.expected == NEVER:  # an answer without a length ends with its connection
                self._answered(connection)
            else:
                self._broken(connection, "the connection was closed")

    @staticmethod
    def _length_of(head: bytes, head_bytes: int) -> float:
        if _CHUNKED.search(head):
            return head_bytes  # enough to say that this is not understood
        length = _LENGTH.search(head)
        return head_bytes + int(length[1]) if length else NEVER

    def _answered(self, connection: _Connection) -> None:
        done_s = time.perf_counter()
        buffer, job = bytes(connection.buffer), _job_of(connection)
        head, _, body = buffer.partition(HEAD_END)
        closed = connection.expected == NEVER or self._close or _closes(head)
        name, problem = self._judged(job, head, body)
        if problem is None:
            self._measurement.answered(name, connection.intended_s, connection.sent_s, done_s)
        else:
            self._measurement.failed(name, connection.intended_s, problem.kind, problem.detail)
        if closed:
            self._reset(connection)
        else:
            self._rest(connection)

    def _judged(self, job: Job, head: bytes, body: bytes) -> tuple[str, Problem | None]:
        if not head[9:12].isdigit() or _CHUNKED.search(head):
            self._source.lose(job)
            return job.request.name, Problem("no HTTP/1 answer with a length", head[:100].decode("latin-1"))
        return self._source.judge(job, int(head[9:12]), body)

    def _broken(self, connection: _Connection, why: str) -> None:
        """Try again where a kept-alive connection turns out to be closed, as every client does; else it is an error."""
        if not connection.reused or connection.buffer:
            self._fail(connection, why)
            return
        self._disconnect(connection)
        connection.reused = False
        connection.unsent = self._written(_job_of(connection))
        self._connect(connection)
        if connection.job is not None:
            self._write(connection)

    def _fail(self, connection: _Connection, why: str) -> None:
        job = _job_of(connection)
        self._measurement.failed(job.request.name, connection.intended_s, NO_ANSWER, why)
        self._source.lose(job)
        self._reset(connection)

    def _reset(self, connection: _Connection) -> None:
        """Close it; the next request opens it again."""
        self._disconnect(connection)
        self._rest(connection)

    def _disconnect(self, connection: _Connection) -> None:
        sock, connection.sock = _socket_of(connection), None
        self._open.pop(sock.fileno(), None)
        sock.close()

    def _rest(self, connection: _Connection) -> None:
        self._busy.discard(connection)
        connection.job = None
        connection.unsent = b""
        connection.buffer.clear()
        connection.expected = None
        connection.since_s = time.perf_counter()
        self._idle.append(connection)


def run_plan(plan: Plan) -> Seen:
    """Carry out a plan in this process."""
    source = source_of(plan)
    generator = Generator(plan.url, source, connections=plan.connections, close=plan.close, timeout_s=plan.timeout_s)
    schedule = schedule_of(plan)
    measured = generator.run(schedule, warm_up_s=plan.warm_up_s, seconds=plan.seconds, slice_s=plan.slice_s)
    if plan.tidy_up:
        generator.tidy_up()
    generator.shut()
    source.close()
    return measured.seen(notes=source.remarks())


def schedule_of(plan: Plan) -> Schedule | None:
    """Return when its requests are to begin; None in a closed loop."""
    if plan.rate_per_s is None:
        return None
    return Schedule(plan.rate_per_s, arrivals=plan.arrivals, seed=plan.seed * plan.parts + plan.part)


def _closes(head: bytes) -> bool:
    """Whether this answer is the last one on its connection; HTTP/1.0 closes unless it says otherwise."""
    return _CLOSE.search(head) is not None or (head.startswith(b"HTTP/1.0") and b"keep-alive" not in head.lower())


def _job_of(connection: _Connection) -> Job:
    if connection.job is None:
        raise ValueError("no request is out on this connection")
    return connection.job


def _socket_of(connection: _Connection) -> socket.socket:
    if connection.sock is None:
        raise ValueError("this connection is closed")
    return connection.sock


def main() -> None:
    """Read the plan, wait for the word, carry it out, write what was seen."""
    plan = msgspec.json.decode(sys.stdin.buffer.readline(), type=Plan)
    print("ready", flush=True)
    if sys.stdin.buffer.readline():
        sys.stdout.buffer.write(msgspec.json.encode(run_plan(plan)) + b"\n")


if __name__ == "__main__":
    main()
