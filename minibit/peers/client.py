"""One peer's HTTP connections to others: pooled, kept alive. Every failure leaves as ``RemotePeerError``."""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from minibit.errors import RemotePeerError
from minibit.peers.connection import AnswerError, Connection
from minibit.wire import HAVES_HEADER, JSON, RAW

IDLE_PER_NEIGHBOUR = 4  # connections kept open to one neighbour: a block, an offer, haves, one more
READ_BYTES = 256 * 1024  # hashed while still in the cache
SMALL_ANSWER_MAX_BYTES = 4 * 1024 * 1024  # a complete bitfield as JSON booleans
_HEADERS = f"Content-Type: {JSON}\r\n"
_RAW_HEADERS = f"Content-Type: {JSON}\r\nAccept: {RAW}\r\n"
_HAVES = HAVES_HEADER.lower().encode()
_FAILURES = (OSError, AnswerError, ValueError)


class Request(NamedTuple):
    """What is sent; ``headers`` are whole lines."""

    method: str
    path: str
    body: bytes = b""
    headers: str = ""


class Answer(NamedTuple):
    """Status and body of a small answer."""

    status: int
    body: bytes


class BlockStream:
    """A block on its way: its length, the sender's news, and the reading of it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.status = connection.status
        self.length = connection.length

    @property
    def haves(self) -> str:
        """The sender's news, as its header has them."""
        return self._connection.header(_HAVES).decode("ascii", "replace")

    def read_into(
        self, view: memoryview, on_read: Callable[[int, memoryview], None], *, read_bytes: int | None = None
    ) -> int:
        """Fill ``view``, calling ``on_read(n_bytes, part)`` after each part; return the bytes read."""
        filled = 0
        while filled < len(view):
            part = view[filled : filled + (read_bytes or READ_BYTES)]
            count = self._connection.read_into(part)
            if not count:
                break
            on_read(count, part[:count])
            filled += count
        return filled

    def body(self) -> bytes:
        """Read the whole of a small answer."""
        return self._connection.read(SMALL_ANSWER_MAX_BYTES)


class PeerClient:
    """Connections to other peers; safe to use from many threads, each exchange on a connection of its own."""

    def __init__(self, *, source_host: str | None = None, timeout_s: float = 30.0) -> None:
        self._source = (source_host, 0) if source_host else None
        self._timeout_s = timeout_s
        self._idle: dict[str, list[Connection]] = {}
        self._busy: dict[Connection, str] = {}  # connection -> the block it fetches, or ""
        self._lock = threading.Lock()
        self._closed = False

    def post(self, key: str, path: str, body: bytes) -> Answer:
        """Post JSON to the peer at ``key`` ("ip:port"). Raise RemotePeerError if no answer comes."""
        with self._exchange(key, Request("POST", path, body, _HEADERS)) as connection:
            return Answer(connection.status, connection.read(SMALL_ANSWER_MAX_BYTES))

    def get(self, key: str, path: str) -> Answer:
        """Get a small answer. Raise RemotePeerError if none comes."""
        with self._exchange(key, Request("GET", path)) as connection:
            return Answer(connection.status, connection.read(SMALL_ANSWER_MAX_BYTES))

    @contextmanager
    def fetch(self, key: str, path: str, body: bytes, *, ticket: str) -> Iterator[BlockStream]:
        """Ask for a raw block; the context gives a BlockStream. A body left unread closes the connection."""
        with self._exchange(key, Request("POST", path, body, _RAW_HEADERS), ticket) as connection:
            yield BlockStream(connection)

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
    def _exchange(self, key: str, request: Request, ticket: str = "") -> Iterator[Connection]:
        connection, used = self._take(key, ticket)
        try:
            self._ask(connection, used, request)
            yield connection
        except _FAILURES as error:
            raise RemotePeerError(f"{key}: {error or type(error).__name__}") from error
        finally:
            self._give_back(key, connection)

    def _ask(self, connection: Connection, used: bool, request: Request) -> None:
        """Send; where the other side has closed a used connection meanwhile, connect again and send once more."""
        if used:
            try:
                connection.ask(*request)
                return
            except ConnectionError:
                if connection.broken_off:
                    raise
        connection.connect()
        with self._lock:
            if self._closed:
                raise ConnectionAbortedError("this peer is leaving")
        connection.ask(*request)

    def _take(self, key: str, ticket: str) -> tuple[Connection, bool]:
        """Return an idle connection, or a new one that is not connected yet."""
        with self._lock:
            idle = self._idle.get(key)
            if idle:
                connection, used = idle.pop(), True
            else:
                connection, used = Connection(key, source=self._source, timeout_s=self._timeout_s), False
            self._busy[connection] = ticket
            return connection, used

    def _give_back(self, key: str, connection: Connection) -> None:
        with self._lock:
            del self._busy[connection]
            idle = self._idle.setdefault(key, [])
            if connection.reusable and not self._closed and len(idle) < IDLE_PER_NEIGHBOUR:
                idle.append(connection)
                return
        connection.close()


def _break_off(connections: Iterable[Connection]) -> None:
    for connection in connections:
        connection.break_off()
