"""One kept-alive HTTP/1.1 connection to a peer, for the exchange that a swarm repeats for every block.

A request leaves in one write; an answer's head is parsed here and its body is read by the kernel straight into the
caller's buffer. ``http.client`` does more, and took a third of a downloading peer's time for it (its headers pass
through the parser of e-mail). What MiniBit never asks for is refused in a word: an answer in chunks.
"""

import socket
import struct

CONNECT_TIMEOUT_S = 5.0
HEAD_MAX_BYTES = 256 * 1024  # the news of 16,384 blocks in one header
_FIRST_READ_BYTES = 2048  # a head and little more: what comes with it is copied once more
_UNTIL_CLOSED = -1


class AnswerError(Exception):
    """What came is no HTTP answer that this client can read."""


class Connection:
    """A connection to ``host:port``; one exchange at a time: ``ask``, then the body to its end."""

    def __init__(self, key: str, *, source: tuple[str, int] | None, timeout_s: float) -> None:
        host, _, port = key.rpartition(":")
        self._address = (host.strip("[]"), int(port))
        self._source = source
        self._timeout_s = timeout_s
        self._host_line = f"Host: {key}\r\n"
        self._sock: socket.socket | None = None
        self._early = b""  # of the body, come with the head
        self._left = 0  # of the body, still to be read; or _UNTIL_CLOSED
        self._keep = False
        self.broken_off = False
        self.status = 0
        self.headers = b""  # lower case
        self.length = 0  # of the body; -1 where only its end will tell

    @property
    def reusable(self) -> bool:
        """Whether the last answer was read to its end and the other side keeps the connection."""
        return self._keep and self._left == 0

    def connect(self) -> None:
        """Open the connection. Raise OSError."""
        self.close()
        sock = socket.create_connection(self._address, CONNECT_TIMEOUT_S, self._source)
        # Time-outs kept by the kernel: with its own, Python polls before every read.
        sock.settimeout(None)
        timeout = struct.pack("ll", int(self._timeout_s), int(self._timeout_s % 1 * 1e6))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeout)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock = sock

    def close(self) -> None:
        """Close it."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def break_off(self) -> None:
        """End it from another thread: the one that reads or writes sees the end."""
        self.broken_off = True
        sock = self._sock
        if sock is not None:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                return  # the other side was faster

    def ask(self, method: str, path: str, body: bytes, headers: str) -> None:
        """Send a request and read the head of the answer into ``status``, ``headers`` and ``length``.

        ``headers`` are whole lines. Raise OSError, AnswerError; ConnectionError before a byte of an answer came.
        """
        sock = self._connected()
        self._keep = False
        sock.sendall(
            f"{method} {path} HTTP/1.1\r\n{self._host_line}{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body
        )
        head, self._early = self._read_head(sock)
        self._parse(head)

    def read_into(self, view: memoryview) -> int:
        """Fill ``view`` with the next bytes of the body; return how many came, fewer only at the end."""
        wanted = len(view) if self._left == _UNTIL_CLOSED else min(len(view), self._left)
        filled = 0
        if self._early:
            part, self._early = self._early[:wanted], self._early[wanted:]
            filled = len(part)
            view[:filled] = part
        sock = self._connected()
        while filled < wanted:
            try:
                count = sock.recv_into(view[filled:wanted], 0, socket.MSG_WAITALL)
            except BlockingIOError:
                raise self._too_late() from None
            if not count:
                break
            filled += count
        if self._left != _UNTIL_CLOSED:
            self._left -= filled
        return filled

    def read(self, at_most: int) -> bytes:
        """Return the rest of a small body. Raise AnswerError if it is longer than ``at_most`` or cut short."""
        buffer = bytearray(at_most + 1 if self._left == _UNTIL_CLOSED else self._left)
        if len(buffer) > at_most + 1:
            raise AnswerError(f"an answer of {self._left} bytes")
        count = self.read_into(memoryview(buffer))
        if count > at_most or self._left > 0:
            raise AnswerError(
                f"an answer of more than {at_most} bytes" if count > at_most else "the answer is cut short"
            )
        return bytes(buffer[:count])

    def _connected(self) -> socket.socket:
        if self._sock is None:
            raise ConnectionAbortedError("not connected")
        return self._sock

    def _read_head(self, sock: socket.socket) -> tuple[bytes, bytes]:
        data = self._read_some(sock)
        while True:
            head, end, rest = data.partition(b"\r\n\r\n")
            if end and head.startswith(b"HTTP/1.1 1"):  # 100 Continue and its like: the answer follows
                data = rest
                continue
            if end:
                return head, rest
            if len(data) > HEAD_MAX_BYTES:
                raise AnswerError("an answer without an end of its head")
            data += self._read_some(sock)

    def _read_some(self, sock: socket.socket) -> bytes:
        try:
            data = sock.recv(_FIRST_READ_BYTES)
        except BlockingIOError:
            raise self._too_late() from None
        if not data:
            raise ConnectionResetError("the other side closed the connection")
        return data

    def _too_late(self) -> TimeoutError:
        return TimeoutError(f"nothing came for {self._timeout_s:g} s")

    def _parse(self, head: bytes) -> None:
        version, _, rest = head.partition(b" ")
        if not version.startswith(b"HTTP/1.") or not rest[:3].isdigit():
            raise AnswerError(f"no HTTP answer: {head[:40]!r}")
        self.status = int(rest[:3])
        self.headers = head.lower() + b"\r\n"
        if self.header(b"transfer-encoding"):
            raise AnswerError("an answer in chunks")
        length, connection = self.header(b"content-length"), self.header(b"connection")
        if length and not length.isdigit():
            raise AnswerError(f"an answer of {length[:40]!r} bytes")
        self.length = self._left = int(length) if length else _UNTIL_CLOSED
        persistent = connection != b"close" if version == b"HTTP/1.1" else connection == b"keep-alive"
        self._keep = persistent and bool(length)

    def header(self, name: bytes) -> bytes:
        """Return the value of a header, its name and value in lower case; empty if there is none."""
        start = self.headers.find(b"\r\n" + name + b":")
        if start < 0:
            return b""
        start += len(name) + 3
        return self.headers[start : self.headers.index(b"\r\n", start)].strip()
