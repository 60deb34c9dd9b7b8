"""One peer's HTTP connections to others: pooled, kept alive, read straight into a buffer.

``http.client`` is what requests and urllib3 stand on; here it is used directly because its response reads into a
caller's buffer (one copy fewer for every block) and because messages between peers are many and small. Every failure
leaves as ``RemotePeerError``.
"""

import http.client
import threading
from collections.abc import Callable
from contextlib import contextmanager
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
        self._lock = threading.Lock()
        self._closed = False

    def post(self, key: str, path: str, body: bytes) -> Answer:
        """Post JSON to the peer at ``key`` ("ip:port"). Raise RemotePeerError if no answer comes."""
        with self._exchange(key, path, body, _HEADERS) as response:
            return Answer(response.status, response.read())

    @contextmanager
    def fetch(self, key: str, path: str, body: bytes) -> Any:
        """Ask for a raw block; the context gives a BlockStream. A body left unread closes the connection."""
        with self._exchange(key, path, body, _RAW_HEADERS) as response:
            yield BlockStream(response)

    def close(self) -> None:
        """Close every idle connection; connections in use close when their exchange ends."""
        with self._lock:
            self._closed = True
            idle = [connection for connections in self._idle.values() for connection in connections]
            self._idle.clear()
        for connection in idle:
            connection.close()

    @contextmanager
    def _exchange(self, key: str, path: str, body: bytes, headers: dict[str, str]) -> Any:
        connection = None
        try:
            connection, response = self._send(key, path, body, headers)
            yield response
            finished = response.isclosed() and not response.will_close
        except _FAILURES as error:
            if connection:
                connection.close()
            raise RemotePeerError(f"{key}: {error or type(error).__name__}") from error
        except BaseException:
            if connection:
                connection.close()
            raise
        if finished:
            self._give_back(key, connection)
        else:
            connection.close()

    def _send(
        self, key: str, path: str, body: bytes, headers: dict[str, str]
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """Send on an idle connection, or on a new one if the other side has closed the idle one meanwhile."""
        connection = self._take_idle(key)
        if connection:
            try:
                connection.request("POST", path, body, headers)
                return connection, connection.getresponse()
            except (ConnectionError, http.client.RemoteDisconnected):
                connection.close()
        host, _, port = key.rpartition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=CONNECT_TIMEOUT_S, source_address=self._source)
        try:
            connection.connect()
            connection.sock.settimeout(self._timeout_s)
            connection.request("POST", path, body, headers)
            return connection, connection.getresponse()
        except BaseException:
            connection.close()
            raise

    def _take_idle(self, key: str) -> http.client.HTTPConnection | None:
        with self._lock:
            connections = self._idle.get(key)
            return connections.pop() if connections else None

    def _give_back(self, key: str, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            connections = self._idle.setdefault(key, [])
            if not self._closed and len(connections) < IDLE_PER_NEIGHBOUR:
                connections.append(connection)
                return
        connection.close()
