"""Waitress, with every setting chosen on purpose and its reason beside it, and file bytes sent by the kernel.

A ``Server`` owns a bound socket from the moment it is built (so its port is known and kept), answers once it is
started, and stops in an orderly way: requests under way are finished, then connections are closed.

A WSGI application that finds ``environ["minibit.file_slice"]`` may yield one such ``FileSlice`` as its body: those
bytes go from the file to the socket by ``os.sendfile``, paced as the slice says, in the thread that serves the request.
The body of an application that yields bytes is served by waitress unchanged.
"""

import contextlib
import errno
import logging
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

import msgspec
from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.channel import ClientDisconnected, HTTPChannel
from waitress.server import TcpWSGIServer
from waitress.task import ErrorTask, ThreadedTaskDispatcher, WSGITask

from minibit.errors import UsageError

WSGIApplication = Callable[[dict[str, Any], Any], Iterable[Any]]

FILE_SLICE_KEY = "minibit.file_slice"
MAX_BODY_BYTES = 1024 * 1024  # CONTRACT: a larger request is answered 413
BACKLOG = 1024  # a flash crowd connects within one scheduling slice; the kernel caps this at somaxconn
IDLE_CONNECTION_S = 120  # waitress's own default; longer than any interval between two messages of a live swarm
LISTEN_LOOP_S = 1.0  # upper bound of the loop's sleep; wake-ups come through the sockets and the trigger
RECV_BYTES = 64 * 1024  # a bitfield of a large file in one read; waitress's 8 KiB would take several
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
    """A waitress channel whose serving thread writes: a ``FileSlice`` by ``os.sendfile``, the rest at the task's end.

    Waitress's loop keeps out of it while a request is served. Its own rule (write whenever something is buffered)
    makes it spin: until the task ends there is too little to send, or the buffer is locked, and it looks again at once,
    taking the interpreter lock from the thread it waits for, for 5 ms each time (measured, 16 connections and 2
    threads: 105-200 small answers a second so, 2,000 without).
    """

    task_class = _PromptTask
    error_task_class = _JsonErrorTask
    _serving = False
    _more_follows = False

    def add_channel(self, map: Any = None) -> None:  # noqa: A002  wasyncore's name
        """Wait for the first request."""
        super().add_channel(map)
        self.server.epoll.register(self._fileno, select.EPOLLIN | select.EPOLLONESHOT)

    def service(self) -> None:
        """Answer one request."""
        self._serving = True
        _thread.channel = self
        try:
            super().service()
        finally:
            _thread.channel = None
            self._serving = False
            if self.writable():  # a slow reader, or a connection to be closed: the loop's work now
                self.watch()

    def watch(self) -> None:
        """Have the loop told of the next thing that this channel can do, once; from any thread."""
        flags = (select.EPOLLIN | select.EPOLLPRI if self.readable() else 0) | (
            select.EPOLLOUT if self.writable() else 0
        )
        if flags and self._fileno is not None:
            with contextlib.suppress(OSError, ValueError):  # closed meanwhile: there is nothing to wait for
                self.server.epoll.modify(self._fileno, flags | select.EPOLLONESHOT)

    def writable(self) -> bool:
        """Tell waitress's loop whether it has to write or close."""
        return bool(not self._serving and (self.total_outbufs_len or self.will_close or self.close_when_flushed))

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
                self._flush_headers()
            finally:
                self._more_follows = False
            self._send_slice(data)
            return data.count
        return int(super().write_soon(data))

    def _flush_outbufs_below_high_watermark(self) -> None:
        """Wait for the loop to send, which it must be allowed to then: the body is larger than may be buffered."""
        self._serving = False
        super()._flush_outbufs_below_high_watermark()
        self._serving = True

    def _flush_headers(self) -> None:
        with self.outbuf_lock:
            while self.total_outbufs_len:
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
        self.server.pull_trigger()
        raise ClientDisconnected from error


_thread = threading.local()  # .channel: what this thread serves


class _Server(TcpWSGIServer):
    """Waitress's server around epoll instead of its poll loop.

    Waitress asks every channel what it waits for at each turn of its loop, and takes two turns for a request: one for
    its arrival, one after a serving thread pulled the trigger. Here a channel is watched for one event at a time, and
    the thread that answered has it watched again itself.
    """

    channel_class = SendfileChannel

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.epoll = select.epoll()
        super().__init__(*arguments, **options)

    def run(self) -> None:
        """Serve until the map of sockets is empty."""
        try:
            self.epoll.register(self.trigger.socket.fileno(), select.EPOLLIN)
            self.epoll.register(self.socket.fileno(), 0)
            accepts = False
            while self._map:
                if self.readable() != accepts:
                    accepts = not accepts
                    self.epoll.modify(self.socket.fileno(), select.EPOLLIN if accepts else 0)
                for descriptor, flags in self.epoll.poll(self.adj.asyncore_loop_timeout):
                    self._attend(self._map.get(descriptor), flags)
        finally:
            self.epoll.close()

    def _attend(self, happened: Any, flags: int) -> None:
        if happened is None:
            return
        wasyncore.readwrite(happened, flags)
        if happened is self.trigger:
            self._watch(self.active_channels.values())
        elif happened is not self:
            happened.watch()

    def pull_trigger(self) -> None:
        """Have the loop look again: at the channel this thread serves, or from elsewhere at all of them."""
        channel = getattr(_thread, "channel", None)
        if channel is None:
            super().pull_trigger()
        else:
            channel.watch()

    def maintenance(self, now: float) -> None:
        """Close the connections that were idle for too long."""
        super().maintenance(now)
        self._watch(channel for channel in self.active_channels.values() if channel.will_close)

    def _watch(self, channels: Iterable[SendfileChannel]) -> None:
        for channel in list(channels):
            channel.watch()


def bind(host: str, port: int) -> socket.socket:
    """Return a TCP socket bound to the address (port 0: any free one). Raise UsageError in one line if it cannot be."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    except socket.gaierror as error:
        raise UsageError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
        sock.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        sock.close()
        reason = "the port is in use" if getattr(error, "errno", None) == errno.EADDRINUSE else str(error)
        raise UsageError(f"cannot listen on {host}:{port}: {reason}") from error
    return sock


class Server:
    """One WSGI application under waitress on one socket.

    ``threads`` is how many requests may be in a handler at once, ``connection_limit`` how many connections may be open.
    ``port`` is the real one, also when 0 was asked for.
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
    ) -> None:
        self.sock = sock or bind(host, port)
        self.host, self.port = self.sock.getsockname()[:2]
        self._app = app
        self._threads = threads
        self._adjustments = Adjustments(
            sockets=[self.sock],
            threads=threads,
            connection_limit=connection_limit,  # waitress's 100 would stop accepting in a swarm of that size
            backlog=BACKLOG,
            channel_timeout=IDLE_CONNECTION_S,
            max_request_body_size=max_body_bytes + 1,  # the first size refused; its 1 GiB would let one fill the disk
            max_request_header_size=64 * 1024,  # messages carry their lists in the body
            asyncore_loop_timeout=LISTEN_LOOP_S,
            recv_bytes=RECV_BYTES,
            log_socket_errors=False,  # in a swarm peers vanish; that is counted, not logged
            clear_untrusted_proxy_headers=False,  # nothing here reads them
            ident="minibit",
        )
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()
        self._lock = threading.Lock()

    def start(self) -> None:
        """Serve from a background thread; return at once."""
        self._open()
        self._thread = threading.Thread(target=self._loop, name="waitress", daemon=True)
        self._thread.start()

    def run(self) -> None:
        """Serve in this thread until ``stop()`` is called from another, or KeyboardInterrupt."""
        self._open()
        self._loop()

    def stop(self, grace_s: float = 5.0) -> None:
        """Finish the requests under way (for ``grace_s`` at most), then close every connection. Idempotent."""
        with self._lock:
            server, self._server = self._server, None
        if server is None:
            self.sock.close()
            return
        deadline = time.monotonic() + grace_s
        server.trigger.pull_trigger(lambda: setattr(server, "accepting", False))
        _cancel_queued(server.task_dispatcher)
        server.task_dispatcher.shutdown(cancel_pending=False, timeout=grace_s)
        while any(channel.total_outbufs_len for channel in list(server.active_channels.values())):
            if time.monotonic() > deadline:
                break
            server.pull_trigger()
            time.sleep(0.01)
        sockets = server._map  # noqa: SLF001  waitress has no public door to its sockets
        if not self._stopped.is_set():
            # An empty map ends the loop. The sockets are closed afterwards: the trigger must not be while it is pulled.
            everything = dict(sockets)
            server.trigger.pull_trigger(sockets.clear)
            self._stopped.wait(grace_s)
            sockets.update(everything)
        server.asyncore.close_all(sockets)

    def queue_depth(self) -> int:
        """How many requests wait for a thread."""
        return len(self._server.task_dispatcher.queue) if self._server else 0

    def _open(self) -> None:
        # One line per request once every thread is busy would drown a load test; the depth is a metric instead.
        logging.getLogger("waitress.queue").setLevel(logging.ERROR)
        dispatcher = ThreadedTaskDispatcher()
        dispatcher.set_thread_count(self._threads)
        family = self.sock.family
        self._server = _Server(
            self._with_file_slice,
            map={},
            _sock=self.sock,
            dispatcher=dispatcher,
            adj=self._adjustments,
            sockinfo=(family, socket.SOCK_STREAM, 0, self.sock.getsockname()),
            bind_socket=False,
        )

    def _loop(self) -> None:
        server = self._server
        if server is None:
            return
        try:
            server.run()
        finally:
            self._stopped.set()

    def _with_file_slice(self, environ: dict[str, Any], start_response: Any) -> Iterable[Any]:
        environ[FILE_SLICE_KEY] = FileSlice
        return self._app(environ, start_response)


def _cancel_queued(dispatcher: ThreadedTaskDispatcher) -> None:
    """Drop the requests no handler has begun (waitress's own way of doing so logs a warning for each server)."""
    with dispatcher.lock:
        queued = list(dispatcher.queue)
        dispatcher.queue.clear()
    for channel in queued:
        channel.cancel()
