"""Waitress, with every setting chosen on purpose and its reason beside it, and file bytes sent by the kernel.

A ``Server`` owns a bound socket from the moment it is built (so its port is known and kept), answers once it is
started, and stops in an orderly way: requests under way are finished, then connections are closed.

A WSGI application that finds ``environ["minibit.file_slice"]`` may yield one such ``FileSlice`` as its body: those
bytes go from the file to the socket by ``os.sendfile``, paced as the slice says, in the thread that serves the request.
The body of an application that yields bytes is served by waitress unchanged.
"""

import contextlib
import errno
import fcntl
import heapq
import logging
import os
import select
import socket
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn

import msgspec
from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.channel import ClientDisconnected, HTTPChannel
from waitress.server import TcpWSGIServer
from waitress.task import ErrorTask, ThreadedTaskDispatcher, WSGITask

from minibit.errors import UsageError

log = logging.getLogger(__name__)
WSGIApplication = Callable[[dict[str, Any], Any], Iterable[Any]]

FILE_SLICE_KEY = "minibit.file_slice"
MAX_BODY_BYTES = 1024 * 1024  # CONTRACT: a larger request is answered 413
BACKLOG = 1024  # a flash crowd connects within one scheduling slice; the kernel caps this at somaxconn
IDLE_CONNECTION_S = 120  # waitress's own default; longer than any interval between two messages of a live swarm
REQUEST_WITHIN_S = 60.0  # from its first byte to its last: a mebibyte at 140 kbit/s
JUST_SERVED_S = 0.25  # a connection served so lately is in use
LOOK_FOR_ROOM_S = 0.1  # while all are taken and nothing happens
LOOK_THROUGH_S = 1e-5  # at most a tenth of the time goes into looking for room: a microsecond for each connection
ROOM_SHARE = 20  # of the connections allowed, one in so many is closed when they are all taken
SAY_AGAIN_AFTER_S = 60.0
LOOK_EVERY_S = 5.0  # for connections that idle for too long
RECV_BYTES = 64 * 1024  # a bitfield of a large file in one read; waitress's 8 KiB would take several
# Threads that answer what is short. More are started for bodies that take their time, up to the number given: of twelve
# each, 2,000 peers would need more than many a kernel allows (kernel.pid_max is 32,768 on small machines).
PROMPT_THREADS = 2
# In what the kernel tells of a socket (struct tcp_info, linux/tcp.h):
TCP_INFO_BYTES = 56
TCP_INFO_UNACKED = slice(24, 28)  # of one that listens: how many wait to be accepted
TCP_INFO_LAST_DATA_RECV = slice(52, 56)  # milliseconds since the last data came
SHED = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
SLOW_READER_S = 60.0  # a receiver that takes not one byte for so long has gone


class FileSlice:
    """``count`` bytes of an open file from ``offset``, to be sent by the kernel.

    ``take_turn(n_bytes)`` blocks until so many bytes may leave (a rate limit); ``on_sent(n_bytes)`` is told what the
    kernel accepted; ``on_stalled()`` is called once if the receiver does not keep up for ``stall_after_s``.
    It quacks like bytes as far as waitress's task looks: it has a length and can be sliced.
    """

    def __init__(
        self,
        descriptor: int,
        offset: int,
        count: int,
        *,
        chunk_bytes: int | None = None,
        take_turn: Callable[[int], None] | None = None,
        on_sent: Callable[[int], None] | None = None,
        on_stalled: Callable[[], None] | None = None,
        stall_after_s: float = 0.25,
    ) -> None:
        self.descriptor = descriptor
        self.offset = offset
        self.count = count
        self.chunk_bytes = chunk_bytes or count
        self.take_turn = take_turn
        self.on_sent = on_sent
        self.on_stalled = on_stalled
        self.stall_after_s = stall_after_s

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, part: slice) -> "FileSlice":
        """Return the same slice: waitress's task cuts what exceeds Content-Length, and here they must be equal."""
        if part.start or part.step or (part.stop is not None and part.stop != self.count):
            raise ValueError("a FileSlice is sent whole: Content-Length must be its length")
        return self


class _PromptTask(WSGITask):
    """A request whose answer leaves from the thread that made it, header and body together."""

    def finish(self) -> None:
        """End the answer and send what is buffered of it."""
        super().finish()
        self.channel.flush_now()


class _JsonErrorTask(ErrorTask):
    """What waitress itself refuses (too large, malformed), as JSON like every other error."""

    def execute(self) -> None:
        """Write the error as ``{"status": "error", "message": …}`` and close the connection."""
        error = self.request.error
        body = msgspec.json.encode({"status": "error", "message": f"{error.reason}: {error.body}"})
        self.status = f"{error.code} {error.reason}"
        self.response_headers.append(("Content-Type", "application/json"))
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)


class SendfileChannel(HTTPChannel):
    """A waitress channel that one thread at a time reads, serves and writes; a ``FileSlice`` leaves by ``os.sendfile``.

    Waitress reads and writes in its loop and serves in other threads. Its rule for the loop (write whenever something
    is buffered) makes that spin while a request is served, and each request costs two changes of thread.
    """

    task_class = _PromptTask
    error_task_class = _JsonErrorTask
    _more_follows = False

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._attended = threading.Lock()
        self.served_s = time.monotonic()  # when its last request was answered, or it came
        self.unfinished_since_s: float | None = None  # a request of which the rest is yet to come
        super().__init__(*arguments, **options)
        self.server.epoll.register(self._fileno, select.EPOLLIN | select.EPOLLONESHOT)

    def del_channel(self, map: Any = None) -> None:  # noqa: A002  wasyncore's name
        """Make room for another connection."""
        super().del_channel(map)
        if self.server.in_connection_overflow:
            self.server.listen_again()

    @property
    def at_rest(self) -> bool:
        """Whether nobody serves it, and it is not on its way out."""
        return not (self.requests or self._attended.locked() or self.will_close)

    def leave(self) -> None:
        """Close it, from any thread, once what it still has to say is sent."""
        self.will_close = True
        self.watch()

    def waits(self) -> bool:
        """Whether something came that nobody attends to yet."""
        sock = self.socket  # which a thread that closes it sets to None
        if sock is None or self._attended.locked():
            return False
        try:
            waiting = fcntl.ioctl(sock.fileno(), termios.FIONREAD, bytes(4))
        except (OSError, ValueError):  # closed meanwhile
            return False
        return any(waiting)

    def attend(self, flags: int) -> None:
        """Do what these events ask for: read, serve what came, write; then wait for the next."""
        if not self._attended.acquire(blocking=False):
            return  # whoever attends to it waits for the next event afterwards
        try:
            wasyncore.readwrite(self, flags)
            while self.requests:
                self.service()
                self.served_s = time.monotonic()
            if self.writable():  # a connection to be closed, or a slow reader
                self.handle_write()
        finally:
            self._attended.release()
        self.watch()

    def watch(self) -> None:
        """Wait for the next thing that this channel can do, once; from any thread."""
        flags = (select.EPOLLIN | select.EPOLLPRI if self.readable() else 0) | (
            select.EPOLLOUT if self.writable() else 0
        )
        if flags and self._fileno is not None:
            with contextlib.suppress(OSError, ValueError):  # closed meanwhile: there is nothing to wait for
                self.server.epoll.modify(self._fileno, flags | select.EPOLLONESHOT)

    def handle_read(self) -> None:
        """Take in what came; an event that outlived its connection (descriptors are used again) brings nothing."""
        try:
            data = self.socket.recv(self.adj.recv_bytes)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self.last_activity = time.time()
            if self._came_too_long_ago():
                self._shed()
                return
            self.received(data)
            if self.request is None:
                self.unfinished_since_s = None
            elif self.unfinished_since_s is None:
                self.unfinished_since_s = time.monotonic()
        else:
            self.handle_close()

    def _came_too_long_ago(self) -> bool:
        """Whether what was just read has waited longer than this server lets anybody wait."""
        limit_s = self.server.shed_after_s
        if limit_s is None:
            return False
        info = self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_BYTES)
        waited_ms = int.from_bytes(info[TCP_INFO_LAST_DATA_RECV], sys.byteorder)
        return bool(waited_ms > 1000 * limit_s)

    def _shed(self) -> None:
        """Refuse without looking at the request, which would take most of the time that answering it takes."""
        self.server.count_shed()
        with contextlib.suppress(OSError):  # a socket that has just been read takes so little
            self.socket.send(SHED)
        self.handle_close()

    def flush_now(self) -> None:
        """Send what the socket takes of what is buffered."""
        with self.outbuf_lock:
            self._flush_exception(self._flush_some, do_close=False)

    def send(self, data: bytes, do_close: bool = True) -> int:
        """Send what the socket takes; a header together with the first bytes of the slice that follows."""
        if not self._more_follows:
            return int(super().send(data, do_close=do_close))
        try:
            return int(self.socket.send(data, socket.MSG_MORE))
        except BlockingIOError:
            return 0

    def write_soon(self, data: Any) -> int:
        """Send the slice and return its length; hand everything else to waitress."""
        if isinstance(data, FileSlice):
            self._more_follows = bool(data)
            try:
                self._flush_down_to(0)
            finally:
                self._more_follows = False
            self._send_slice(data)
            return data.count
        return int(super().write_soon(data))

    def _flush_outbufs_below_high_watermark(self) -> None:
        """Write until no more is buffered than may be; the writer is this thread, not a loop elsewhere."""
        self._flush_down_to(self.adj.outbuf_high_watermark)

    def _flush_down_to(self, at_most_bytes: int) -> None:
        with self.outbuf_lock:
            while self.total_outbufs_len > at_most_bytes:
                if not self.connected:
                    raise ClientDisconnected
                try:
                    if not self._flush_some(do_close=False):
                        self._wait_writable(SLOW_READER_S)
                except OSError as error:
                    self._give_up(error)

    def _send_slice(self, part: FileSlice) -> None:
        offset, left = part.offset, part.count
        allowed = 0
        stalled = False
        while left:
            if not allowed:
                allowed = min(part.chunk_bytes, left)
                if part.take_turn:
                    part.take_turn(allowed)
            try:
                sent = os.sendfile(self.socket.fileno(), part.descriptor, offset, allowed)
            except BlockingIOError:
                if self._wait_writable(part.stall_after_s if not stalled else SLOW_READER_S, patient=not stalled):
                    continue
                stalled = True
                if part.on_stalled:
                    part.on_stalled()
                continue
            except OSError as error:
                self._give_up(error)
            if sent == 0:
                self._give_up(OSError(errno.EIO, "the file is shorter than the slice"))
            offset, left, allowed = offset + sent, left - sent, allowed - sent
            if part.on_sent:
                part.on_sent(sent)
        self.last_activity = time.time()

    def _wait_writable(self, timeout_s: float, *, patient: bool = False) -> bool:
        """Wait until the socket takes bytes; on time-out return False if ``patient``, else raise."""
        poller = select.poll()
        poller.register(self.socket.fileno(), select.POLLOUT)
        if poller.poll(timeout_s * 1000):
            return True
        if not patient:
            raise ClientDisconnected
        return False

    def _give_up(self, error: OSError) -> NoReturn:
        self.connected = False
        self.will_close = True
        raise ClientDisconnected from error


class _Seldom(logging.Filter):
    """Lets each message pass once a minute: under attack the same one comes ten times a second."""

    def __init__(self) -> None:
        super().__init__()
        self._passes_at_s: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the last one like it is a minute ago."""
        passes = record.created >= self._passes_at_s.get(record.msg, 0.0)
        if passes:
            self._passes_at_s[record.msg] = record.created + SAY_AGAIN_AFTER_S
        return passes


class _Server(TcpWSGIServer):
    """Waitress's server with as many loops as threads, all waiting on one epoll instance.

    Waitress has one loop that reads and several threads that serve, and asks every channel what it waits for at each
    turn. Here a channel waits for one event at a time (EPOLLONESHOT); the thread that gets it reads the request, serves
    it and answers, so that a request costs one change of thread.
    """

    channel_class = SendfileChannel
    logger = logging.getLogger(f"{__name__}.connections")
    logger.addFilter(_Seldom())

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.epoll = select.epoll()
        self._leaving = False
        self._overflow = threading.Lock()
        self._looked_for_room_s = 0.0
        self.shed_after_s: float | None = None
        self.shed = 0
        super().__init__(*arguments, **options)
        self.epoll.register(self.trigger.socket.fileno(), select.EPOLLIN)
        self.epoll.register(self.socket.fileno(), 0)

    def attend(self, look_every_s: float | None) -> None:
        """Be one of the threads that serve, until ``leave()``; with a time, be the one that closes idle connections."""
        self.listen_again()
        while not self._leaving:
            happened = self.epoll.poll(LOOK_FOR_ROOM_S if self._is_full else look_every_s, 1)
            for descriptor, flags in happened:
                attended = self._map.get(descriptor)
                if isinstance(attended, SendfileChannel):
                    attended.attend(flags)
                elif attended is self:
                    self.handle_accept()
                    self.listen_again()
            if self._is_full or not happened:
                self.listen_again()

    @property
    def _is_full(self) -> bool:
        return bool(len(self._map) >= self.adj.connection_limit)

    def leave(self) -> None:
        """Let every thread leave once it has answered what it is serving; from any thread."""
        self._leaving = True
        self.accepting = False
        self.trigger.pull_trigger()  # stays readable: one thread after the other wakes up

    def listen_again(self) -> None:
        """Wait for the next connection, if there may be one more."""
        with self._overflow, contextlib.suppress(OSError, ValueError):  # closed meanwhile
            rests_s = LOOK_THROUGH_S * self.adj.connection_limit
            if self._is_full and self._looked_for_room_s + rests_s <= time.monotonic():
                self._looked_for_room_s = time.monotonic()
                self._make_room()
            flags = select.EPOLLIN if self.readable() else 0
            self.epoll.modify(self.socket.fileno(), flags | select.EPOLLONESHOT)

    def count_shed(self) -> None:
        """Count a request that was refused for having waited too long."""
        with self._overflow:
            self.shed += 1

    def add_task(self, task: SendfileChannel) -> None:
        """Nothing: the thread that took in the request serves it."""

    def pull_trigger(self) -> None:
        """Nothing: the thread that served the channel writes, and waits for it again."""

    def maintenance(self, now: float) -> None:
        """Close the connections that were idle for too long, and those whose request takes too long to come.

        As waitress does the first, but while others open and close some.
        """
        begun_before_s = time.monotonic() - REQUEST_WITHIN_S
        for channel in list(self.active_channels.values()):
            idle = channel.last_activity < now - self.adj.channel_timeout
            drips = channel.unfinished_since_s is not None and channel.unfinished_since_s < begun_before_s
            if channel.at_rest and (idle or drips):
                channel.leave()

    def _make_room(self) -> None:
        """Close some of the connections that have had nothing answered for longest; none that was served just now.

        Else whoever opens as many as there may be, and says nothing or a byte now and then, locks everybody out.
        """
        before_s = time.monotonic() - JUST_SERVED_S
        resting = (channel for channel in list(self.active_channels.values()) if channel.at_rest)
        idle = (channel for channel in resting if channel.served_s < before_s)
        count = max(1, self.adj.connection_limit // ROOM_SHARE)
        for channel in heapq.nsmallest(count, idle, key=lambda channel: channel.served_s):
            channel.leave()

    def flush(self, deadline_s: float) -> None:
        """Send what is still buffered."""
        while (late := [channel for channel in list(self.active_channels.values()) if channel.total_outbufs_len]) and (
            time.monotonic() < deadline_s
        ):
            for channel in late:
                channel.flush_now()
            time.sleep(0.01)


def bind(host: str, port: int, *, listen: bool = True) -> socket.socket:
    """Return a TCP socket bound to the address (port 0: any free one). Raise UsageError in one line if it cannot be.

    With ``listen=False`` it only keeps the port, which others may bind too if they say so (SO_REUSEPORT).
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    except socket.gaierror as error:
        raise UsageError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if not listen:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        sock.bind((host, port))
        if listen:
            sock.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        sock.close()
        reason = "the port is in use" if getattr(error, "errno", None) == errno.EADDRINUSE else str(error)
        raise UsageError(f"cannot listen on {host}:{port}: {reason}") from error
    return sock


class Server:
    """One WSGI application under waitress on one socket.

    ``threads`` is how many requests may be in a handler at once, ``connection_limit`` how many connections may be open.
    ``port`` is the real one, also when 0 was asked for. A request that waited longer than ``shed_after_s`` before
    anybody read it is refused (503) and its connection closed: so the queue stays short under any load.
    """

    def __init__(
        self,
        app: WSGIApplication,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        sock: socket.socket | None = None,
        threads: int = 8,
        connection_limit: int = 1000,
        max_body_bytes: int = MAX_BODY_BYTES,
        shed_after_s: float | None = None,
    ) -> None:
        self.sock = sock or bind(host, port)
        self.host, self.port = self.sock.getsockname()[:2]
        self._app = app
        self._threads = threads
        self._shed_after_s = shed_after_s
        self._adjustments = Adjustments(
            sockets=[self.sock],
            threads=threads,
            connection_limit=connection_limit,  # waitress's 100 would stop accepting in a swarm of that size
            backlog=BACKLOG,
            channel_timeout=IDLE_CONNECTION_S,
            max_request_body_size=max_body_bytes + 1,  # the first size refused; its 1 GiB would let one fill the disk
            max_request_header_size=64 * 1024,  # messages carry their lists in the body
            recv_bytes=RECV_BYTES,
            log_socket_errors=False,  # in a swarm peers vanish; that is counted, not logged
            clear_untrusted_proxy_headers=False,  # nothing here reads them
            ident="minibit",
        )
        self._server: _Server | None = None
        self._crew: list[threading.Thread] = []
        self._streaming = 0  # threads that send a body part by part
        self._stopped = threading.Event()
        self._lock = threading.Lock()

    def start(self) -> None:
        """Serve from background threads; return at once."""
        self._server = self._open()
        with self._lock:
            self._complete_crew()
            if not self._crew:
                raise RuntimeError("the system has no thread left to serve with")

    def run(self) -> None:
        """Serve until ``stop()`` is called from another thread, or KeyboardInterrupt."""
        self.start()
        self._stopped.wait()

    def stop(self, grace_s: float = 5.0) -> None:
        """Finish the requests under way (for ``grace_s`` at most), then close every connection. Idempotent."""
        with self._lock:
            server, self._server = self._server, None
            crew = list(self._crew)
        if server is None:
            self.sock.close()
            return
        deadline_s = time.monotonic() + grace_s
        server.leave()
        for thread in crew:
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline_s - time.monotonic()))
        server.flush(deadline_s)
        server.asyncore.close_all(server._map)  # noqa: SLF001  waitress has no public door to its sockets
        server.epoll.close()
        self._stopped.set()

    def _open(self) -> _Server:
        family = self.sock.family
        server = _Server(
            self._answer,
            map={},
            _sock=self.sock,
            dispatcher=ThreadedTaskDispatcher(),  # without threads: nothing is handed to it
            adj=self._adjustments,
            sockinfo=(family, socket.SOCK_STREAM, 0, self.sock.getsockname()),
            bind_socket=False,
        )
        server.shed_after_s = self._shed_after_s
        return server

    def queue_depth(self) -> int:
        """Return how many wait: connections to be accepted, and open ones with a request that nobody reads yet.

        It looks at every connection: for those who watch a server, not for every request. Linux only.
        """
        server = self._server
        if server is None:
            return 0
        info = self.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_BYTES)
        to_be_accepted = int.from_bytes(info[TCP_INFO_UNACKED], sys.byteorder)
        return to_be_accepted + sum(1 for channel in list(server.active_channels.values()) if channel.waits())

    @property
    def shed(self) -> int:
        """How many requests were refused because they had waited too long."""
        return int(self._server.shed) if self._server else 0

    def _complete_crew(self) -> None:
        """Start threads until enough are there for what is short; none beyond the number given, or if none is left."""
        while self._server and len(self._crew) < min(self._threads, self._streaming + PROMPT_THREADS):
            number = len(self._crew)
            look_every_s = None if number else LOOK_EVERY_S
            thread = threading.Thread(
                target=self._server.attend, args=(look_every_s,), name=f"waitress-{number}", daemon=True
            )
            try:
                thread.start()
            except RuntimeError as error:
                log.warning("%d threads must do to serve: %s", number, error)
                return
            self._crew.append(thread)

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[Any]:
        environ[FILE_SLICE_KEY] = FileSlice
        body = self._app(environ, start_response)
        return body if isinstance(body, list) else _Streamed(body, self._count_streaming)

    def _count_streaming(self, change: int) -> None:
        with self._lock:
            self._streaming += change
            self._complete_crew()


class _Streamed:
    """A body that may take its time: while it is sent, its thread does not count among those that answer."""

    def __init__(self, body: Iterable[Any], count: Callable[[int], None]) -> None:
        self._body = body
        self._count = count
        self._closed = False
        count(1)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._body)

    def close(self) -> None:
        """End it; waitress calls this whatever happened."""
        if not self._closed:
            self._closed = True
            self._count(-1)
        close = getattr(self._body, "close", None)
        if close:
            close()
