"""One peer's HTTP connections to others: pooled, kept alive, read straight into a buffer.

``http.client`` is what requests and urllib3 stand on; here it is used directly because its response reads into a
caller's buffer (one copy fewer for every block) and because messages between peers are many and small. Every failure
leaves as ``RemotePeerError``.
"""

import http.client
import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from minibit.errors import RemotePeerError
from minibit.wire import HAVES_HEADER, JSON, RAW

CONNECT_TIMEOUT_S = 5.0
IDLE_PER_NEIGHBOUR = 4  # connections kept open to one neighbour: a block, an offer, haves, one more
READ_BYTES = 256 * 1024  # hashed while still in the cache
_HEADERS = {"Content-Type": JSON}
_RAW_HEADERS = {"Content-Type": JSON, "Accept": RAW}
_FAILURES = (OSError, http.client.HTTPException, ValueError)


class Answer(NamedTuple):
    """Status and body of a small answer."""

    status: int
    body: bytes


class BlockStream:
    """A block on its way: its length, the sender's news, and the reading of it."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self._response = response
        self.status = response.status
        self.length = response.length if response.length is not None else -1
        self.haves = response.getheader(HAVES_HEADER, "")

    def read_into(
        self, view: memoryview, on_read: Callable[[int, memoryview], None], *, read_bytes: int | None = None
    ) -> int:
        """Fill ``view``, calling ``on_read(n_bytes, part)`` after each part; return the bytes read."""
        filled = 0
        while filled < len(view):
            part = view[filled : filled + (read_bytes or READ_BYTES)]
            count = self._response.readinto(part)
            if not count:
                break
            on_read(count, part[:count])
            filled += count
        return filled

    def body(self) -> bytes:
        """Read the whole of a small answer."""
        return self._response.read(64 * 1024)


class PeerClient:
    """Connections to other peers; safe to use from many threads, each exchange on a connection of its own."""

    def __init__(self, *, source_host: str | None = None, timeout_s: float = 30.0) -> None:
        self._source = (source_host, 0) if source_host else None
        self._timeout_s = timeout_s
        self._idle: dict[str, list[http.client.HTTPConnection]] = {}
        self._busy: dict[http.client.HTTPConnection, str] = {}  # connection -> the block it fetches, or ""
        self._lock = threading.Lock()
        self._closed = False

    def post(self, key: str, path: str, body: bytes) -> Answer:
        """Post JSON to the peer at ``key`` ("ip:port"). Raise RemotePeerError if no answer comes."""
        with self._exchange(key, path, body, _HEADERS) as response:
            return Answer(response.status, response.read())

    @contextmanager
    def fetch(self, key: str, path: str, body: bytes, *, ticket: str) -> Any:
        """Ask for a raw block; the context gives a BlockStream. A body left unread closes the connection."""
        with self._exchange(key, path, body, _RAW_HEADERS, ticket) as response:
            yield BlockStream(response)

    def abort(self, ticket: str) -> None:
        """Break off the fetch with this ticket, wherever it waits; its thread sees RemotePeerError."""
        with self._lock:
            _break_off([connection for connection, holder in self._busy.items() if holder == ticket])

    def close(self) -> None:
        """Close every connection; exchanges under way see RemotePeerError."""
        with self._lock:
            self._closed = True
            idle = [connection for connections in self._idle.values() for connection in connections]
            self._idle.clear()
            _break_off(self._busy)
        for connection in idle:
            connection.close()

    @contextmanager
    def _exchange(self, key: str, path: str, body: bytes, headers: dict[str, str], ticket: str = "") -> Any:
        connection, used = self._take(key, ticket)
        whole = False
        try:
            response = self._ask(connection, used, path, body, headers)
            yield response
            whole = response.isclosed() and not response.will_close
        except _FAILURES as error:
            raise RemotePeerError(f"{key}: {error or type(error).__name__}") from error
        finally:
            self._give_back(key, connection, whole=whole)

    def _ask(
        self, connection: http.client.HTTPConnection, used: bool, path: str, body: bytes, headers: dict[str, str]
    ) -> http.client.HTTPResponse:
        """Send; where the other side has closed a used connection meanwhile, connect again and send once more."""
        if used:
            try:
                connection.request("POST", path, body, headers)
                return connection.getresponse()
            except ConnectionError:
                connection.close()
        connection.timeout = CONNECT_TIMEOUT_S
        connection.connect()
        with self._lock:
            if self._closed:
                raise ConnectionAbortedError("this peer is leaving")
        connection.sock.settimeout(self._timeout_s)
        connection.request("POST", path, body, headers)
        return connection.getresponse()

    def _take(self, key: str, ticket: str) -> tuple[http.client.HTTPConnection, bool]:
        """Return an idle connection, or a new one that is not connected yet."""
        with self._lock:
            idle = self._idle.get(key)
            if idle:
                connection, used = idle.pop(), True
            else:
                host, _, port = key.rpartition(":")
                connection, used = http.client.HTTPConnection(host, int(port), source_address=self._source), False
            self._busy[connection] = ticket
            return connection, used

    def _give_back(self, key: str, connection: http.client.HTTPConnection, *, whole: bool) -> None:
        with self._lock:
            del self._busy[connection]
            idle = self._idle.setdefault(key, [])
            if whole and not self._closed and len(idle) < IDLE_PER_NEIGHBOUR:
                idle.append(connection)
                return
        connection.close()


def _break_off(connections: Iterable[http.client.HTTPConnection]) -> None:
    for connection in connections:
        if connection.sock is not None:
            with suppress(OSError):  # the other side was faster
                connection.sock.shutdown(socket.SHUT_RDWR)
