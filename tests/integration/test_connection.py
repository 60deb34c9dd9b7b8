"""The peers' own HTTP connection against servers that answer in every shape, and some that do not."""

import socket
import threading
import time

import pytest

from minibit.errors import RemotePeerError
from minibit.peers.client import PeerClient
from minibit.peers.connection import AnswerError, Connection

DEADLINE_S = 10.0


@pytest.fixture
def answering():
    """Return start(*answers) -> key: a server that gives these bytes, one answer a request, then closes."""
    sockets = []

    def start(*answers, pause_s=0.0):
        listener = socket.create_server(("127.0.0.1", 0))
        sockets.append(listener)

        def serve():
            try:
                accepted, _ = listener.accept()
            except OSError:
                return
            with accepted:
                accepted.settimeout(DEADLINE_S)
                for answer in answers:
                    if not accepted.recv(65536):
                        return
                    for part in answer if isinstance(answer, list) else [answer]:
                        accepted.sendall(part)
                        threading.Event().wait(pause_s)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        sockets.append(thread)
        return f"127.0.0.1:{listener.getsockname()[1]}"

    yield start
    for item in sockets:
        item.close() if isinstance(item, socket.socket) else item.join(DEADLINE_S)


@pytest.fixture
def connected(answering):
    """Return connect(*answers) -> a Connection to such a server."""
    connections = []

    def connect(*answers, timeout_s=DEADLINE_S, **options):
        connection = Connection(answering(*answers, **options), source=None, timeout_s=timeout_s)
        connections.append(connection)
        connection.connect()
        return connection

    yield connect
    for connection in connections:
        connection.close()


def test_an_answer_is_read_whole_and_the_connection_goes_on(connected):
    """Every block of a swarm travels this way; one connection carries many."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-News: A,B\r\n\r\nhello"
    connection = connected(answer, answer.replace(b"hello", b"again"))
    connection.ask("POST", "/x", b"{}", "")
    assert (connection.status, connection.length, connection.header(b"x-news")) == (200, 5, b"a,b")
    assert not connection.reusable
    assert connection.read(100) == b"hello"
    assert connection.reusable
    connection.ask("POST", "/x", b"{}", "")
    assert connection.read(100) == b"again"


def test_a_head_in_pieces_and_a_body_behind_it_are_put_together(connected):
    """The kernel cuts where it likes, also between the two halves of an end of line."""
    connection = connected([b"HTTP/1.1 20", b"0 OK\r\nContent-Le", b"ngth: 6\r\n\r", b"\nab", b"cdef"], pause_s=0.02)
    connection.ask("POST", "/x", b"{}", "")
    target = bytearray(6)
    assert connection.read_into(memoryview(target)) == 6
    assert target == b"abcdef"


def test_a_provisional_answer_is_passed_over(connected):
    """100 Continue is no answer to a request."""
    connection = connected(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
    connection.ask("POST", "/x", b"{}", "")
    assert connection.status == 404
    assert connection.reusable


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\n\r\nok",
    ],
    ids=["HTTP/1.0", "close", "no length"],
)
def test_a_connection_that_the_other_side_ends_is_not_used_again(connected, answer):
    """A second request on it would be lost and counted as a failure of the peer."""
    connection = connected(answer)
    connection.ask("POST", "/x", b"{}", "")
    assert connection.read(100) == b"ok"
    assert not connection.reusable


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "no HTTP answer"),
        (b"HTTP/1.1 OK\r\n\r\n", "no HTTP answer"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "in chunks"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -4\r\n\r\n", "-4"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 300_000, "without an end"),
    ],
    ids=["another protocol", "no status", "chunks", "negative length", "endless head"],
)
def test_what_is_no_readable_answer_is_named(connected, answer, complaint):
    """A neighbour that talks nonsense is left alone with a reason that its log shows."""
    connection = connected(answer)
    with pytest.raises(AnswerError, match=complaint):
        connection.ask("POST", "/x", b"{}", "")
    assert not connection.reusable


def test_a_body_cut_short_is_no_whole_body(connected):
    """Half a message must not be decoded as if it were one."""
    connection = connected(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
    connection.ask("POST", "/x", b"{}", "")
    with pytest.raises(AnswerError, match="cut short"):
        connection.read(100)


@pytest.mark.parametrize("length", [b"Content-Length: 101\r\n", b""])
def test_an_answer_longer_than_expected_is_refused(connected, length):
    """A hostile neighbour must not fill the memory with an 'answer'."""
    connection = connected(b"HTTP/1.1 200 OK\r\n" + length + b"\r\n" + b"x" * 101)
    connection.ask("POST", "/x", b"{}", "")
    with pytest.raises(AnswerError):
        connection.read(99)


def test_silence_ends_after_the_timeout(connected):
    """A neighbour that hangs holds a download thread only for so long."""
    connection = connected([b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nx", b""], pause_s=1.0, timeout_s=0.2)
    connection.ask("POST", "/x", b"{}", "")
    begun_s = time.monotonic()
    target = memoryview(bytearray(4))
    with pytest.raises(TimeoutError, match=r"0\.2 s"):
        connection.read_into(target)
    assert time.monotonic() - begun_s < 2.0


def test_a_fetch_that_is_broken_off_is_not_asked_again(answering):
    """End game: the block came from elsewhere, and the slow sender must not be asked for it a second time."""
    ok = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    key = answering([ok], [b""], pause_s=0.5)
    client = PeerClient(timeout_s=DEADLINE_S)
    assert client.post(key, "/x", b"{}").body == b"ok"
    failures = []

    def fetch():
        try:
            with client.fetch(key, "/x", b"{}", ticket="block 1"):
                pass
        except RemotePeerError as error:
            failures.append(error)

    thread = threading.Thread(target=fetch)
    thread.start()
    deadline_s = time.monotonic() + DEADLINE_S
    while thread.is_alive() and time.monotonic() < deadline_s:
        client.abort("block 1")
        thread.join(0.05)
    assert len(failures) == 1
    client.close()
