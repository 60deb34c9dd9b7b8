"""Waitress as MiniBit sets it up: file bytes by sendfile, everything else as waitress itself does it."""

import contextlib
import http.client
import json
import os
import random
import re
import select
import socket
import struct
import threading
import time

import pytest
import waitress

from minibit import serving
from minibit.errors import UsageError
from minibit.serving import FILE_SLICE_KEY, Server

TIMEOUT_S = 10.0
SIZE_BYTES = 6 * 1024 * 1024
CONTENT = random.Random(3).randbytes(SIZE_BYTES)


@contextlib.contextmanager
def served(app, **options):
    server = Server(app, **options)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def descriptor(tmp_path):
    path = tmp_path / "content"
    path.write_bytes(CONTENT)
    fd = os.open(path, os.O_RDONLY)
    yield fd
    os.close(fd)


class Body:
    """A WSGI body of one part that notes that it was closed."""

    def __init__(self, part):
        self.part = part
        self.closed = threading.Event()

    def __iter__(self):
        yield self.part

    def close(self):
        self.closed.set()


class FileApp:
    """Answers every request with the same slice of a file; /plain with a few bytes."""

    def __init__(self, descriptor, offset=0, count=SIZE_BYTES, *, length=None, **slice_options):
        self.bodies = []
        self._slice = (descriptor, offset, count)
        self._length = count if length is None else length
        self._options = slice_options

    def __call__(self, environ, start_response):
        if environ["PATH_INFO"] == "/plain":
            start_response("200 OK", [("Content-Length", "5")])
            return [b"plain"]
        body = Body(environ[FILE_SLICE_KEY](*self._slice, **self._options))
        self.bodies.append(body)
        start_response("200 OK", [("Content-Length", str(self._length))])
        return body


def connect(port, *, receive_buffer_bytes=None):
    client = socket.socket()
    client.settimeout(TIMEOUT_S)
    if receive_buffer_bytes:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
    client.connect(("127.0.0.1", port))
    return client


def read_to_end(client):
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := client.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)


def exchange(port, request):
    with connect(port) as client:
        client.sendall(request)
        return read_to_end(client)


def get(port, path="/plain"):
    return exchange(port, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())


def body_of(answer):
    return answer.partition(b"\r\n\r\n")[2]


# -- file slices -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("offset", "count"), [(0, len(CONTENT)), (12_345, 100_000), (len(CONTENT) - 1, 1), (7, 0)])
def test_slices_arrive_whole_and_the_connection_serves_on(descriptor, offset, count):
    """A peer fetches hundreds of blocks over one connection: a byte too many would shift all that follow."""
    with served(FileApp(descriptor, offset, count)) as server:
        client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=TIMEOUT_S)
        for path, expected in [("/", CONTENT[offset : offset + count]), ("/plain", b"plain")] * 2:
            client.request("GET", path)
            response = client.getresponse()
            assert response.getheader("Content-Length") == str(len(expected))
            assert response.read() == expected
            assert not response.will_close
        client.close()


def test_pipelined_requests_are_answered_whole_and_in_order(descriptor):
    """The serving thread writes past waitress's buffers: an answer behind the slice must not overtake it."""
    first, last = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /plain HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with served(FileApp(descriptor, 5, 2_000_000)) as server:
        answer = exchange(server.port, first + first.replace(b"/ ", b"/plain ") + first + last)
    slice_bytes = CONTENT[5:2_000_005]
    bodies = re.split(rb"HTTP/1\.1 200 OK\r\n(?:[^\r\n]+\r\n)+\r\n", answer)
    assert bodies == [b"", slice_bytes, b"plain", slice_bytes, b"plain"]


def test_a_slice_is_paced_and_counted_in_chunks(descriptor):
    """Rate limits and the ledger hang on these two calls: no byte may leave without its turn or go uncounted."""
    turns, sent = [], []
    app = FileApp(descriptor, 0, 100_500, chunk_bytes=1000, take_turn=turns.append, on_sent=sent.append)
    with served(app) as server:
        assert body_of(get(server.port, "/")) == CONTENT[:100_500]
    assert turns == [1000] * 100 + [500]
    assert sum(sent) == 100_500
    assert app.bodies[0].closed.is_set()


def test_a_slow_reader_is_reported_once_and_gets_every_byte(descriptor):
    """One slow receiver must not hold the uplink for the others, nor lose its block."""
    stalled = threading.Semaphore(0)
    app = FileApp(descriptor, on_stalled=stalled.release, stall_after_s=0.05)
    with served(app) as server, connect(server.port, receive_buffer_bytes=4096) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert stalled.acquire(timeout=TIMEOUT_S)
        assert body_of(read_to_end(client)) == CONTENT
        assert app.bodies[0].closed.wait(TIMEOUT_S)
        assert not stalled.acquire(blocking=False)


def test_a_reader_that_takes_nothing_is_dropped(descriptor, monkeypatch, wait_until):
    """A client that hangs would keep a thread and a slot of the uplink for ever."""
    monkeypatch.setattr(serving, "SLOW_READER_S", 0.2)
    app = FileApp(descriptor, stall_after_s=0.05)
    with served(app, threads=1) as server, connect(server.port, receive_buffer_bytes=4096) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_until(lambda: app.bodies, "the request to be served")
        assert app.bodies[0].closed.wait(TIMEOUT_S)
        assert body_of(get(server.port)) == b"plain"
        assert len(read_to_end(client)) < len(CONTENT)


@pytest.mark.parametrize("abrupt", [False, True], ids=["closed", "reset"])
def test_a_reader_that_leaves_mid_body_ends_the_upload_and_nothing_else(descriptor, wait_until, abrupt):
    """Peers are killed in mid-transfer all the time: the upload must be closed and its thread come back."""
    app = FileApp(descriptor)
    with served(app, threads=1) as server:
        client = connect(server.port, receive_buffer_bytes=4096)
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(1000)
        if abrupt:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        wait_until(lambda: app.bodies and app.bodies[0].closed.is_set(), "close() of the body")
        assert body_of(get(server.port)) == b"plain"


def test_a_file_that_became_shorter_ends_the_answer_early(descriptor):
    """Somebody truncates a seed's file: the receiver must see the end at once instead of waiting."""
    app = FileApp(descriptor, len(CONTENT) - 1000, 5000)
    with served(app, threads=1) as server:
        assert body_of(get(server.port, "/")) == CONTENT[-1000:]
        assert app.bodies[0].closed.wait(TIMEOUT_S)
        assert body_of(get(server.port)) == b"plain"


@pytest.mark.parametrize("length", [999, 1001])
def test_a_slice_that_contradicts_content_length_sends_no_body(descriptor, length):
    """Better no block than one that runs into the next answer on the same connection."""
    app = FileApp(descriptor, 0, 1000, length=length)
    with served(app, threads=1) as server:
        assert body_of(get(server.port, "/")) == b""
        assert app.bodies[0].closed.is_set()
        assert body_of(get(server.port)) == b"plain"


def test_an_error_while_waiting_for_a_turn_closes_the_connection(descriptor):
    """A bug in a callback must cost one connection, not a thread."""

    def refuse(_num_bytes):
        raise ArithmeticError

    app = FileApp(descriptor, take_turn=refuse)
    with served(app, threads=1) as server:
        assert body_of(get(server.port, "/")) == b""
        assert app.bodies[0].closed.is_set()
        assert body_of(get(server.port)) == b"plain"


def test_a_descriptor_beyond_1024_is_served(descriptor):
    """A launcher or seed of a big swarm holds thousands of descriptors; select() would fail here."""
    held = [os.dup(descriptor) for _ in range(1100)]
    try:
        with served(FileApp(descriptor, 0, 1000)) as server:
            assert server.sock.fileno() > 1024
            assert body_of(get(server.port, "/")) == CONTENT[:1000]
    finally:
        for fd in held:
            os.close(fd)


def test_more_connections_than_waitress_would_take(descriptor):
    """With waitress's default of 100 the hundred and first peer of a swarm would wait for ever."""
    with served(FileApp(descriptor, 0, 1000), threads=2) as server, contextlib.ExitStack() as idle:
        for _ in range(150):
            idle.enter_context(connect(server.port))
        assert body_of(get(server.port)) == b"plain"


# -- everything else is waitress's own ---------------------------------------------------------------------------------


def _bytes_app(environ, start_response):  # noqa: C901, PLR0911  a table of behaviours
    match environ["PATH_INFO"]:
        case "/empty":
            start_response("200 OK", [])
            return []
        case "/one":
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [b"x" * 100_000]
        case "/known-length":
            start_response("200 OK", [("Content-Length", "6")])
            return [b"abc", b"def"]
        case "/chunked":
            start_response("200 OK", [])
            return (b"%d" % number for number in range(50))
        case "/too-long":
            start_response("200 OK", [("Content-Length", "4")])
            return [b"abc", b"def"]
        case "/no-content":
            start_response("204 No Content", [])
            return [b"ignored"]
        case "/write":
            start_response("200 OK", [("Content-Length", "4")])(b"ab")
            return [b"cd"]
        case "/file-wrapper":
            start_response("200 OK", [("Content-Length", "7")])
            return environ["wsgi.file_wrapper"](_SevenBytes())
        case "/head":
            start_response("200 OK", [("Content-Length", "1234")])
            return []
        case "/echo":
            body = environ["wsgi.input"].read()
            start_response("200 OK", [("Content-Length", str(len(body)))])
            return [body]
        case "/error-before-header":
            raise ArithmeticError
        case _:
            return _fails_late(start_response)


def _fails_late(start_response):
    start_response("200 OK", [("Content-Length", "100")])
    yield b"some"
    raise ArithmeticError


class _SevenBytes:
    """A file that waitress cannot seek: it is read in parts."""

    def __init__(self):
        self._left = b"sevenby"

    def read(self, size):
        part, self._left = self._left[:size], self._left[size:]
        return part


@contextlib.contextmanager
def stock_waitress(app):
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sockets = {}
    server = waitress.create_server(
        app, sockets=[sock], ident="minibit", map=sockets, clear_untrusted_proxy_headers=False
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield sock.getsockname()[1]
    finally:
        server.trigger.pull_trigger(lambda: server.asyncore.close_all(sockets))
        thread.join(TIMEOUT_S)
        server.task_dispatcher.shutdown()


def without_date(answer):
    return re.sub(rb"Date: [^\r]+", b"Date:", answer)


CASES = "empty one known-length chunked too-long no-content write file-wrapper error-after-header"


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_bodies_of_bytes_are_answered_exactly_as_stock_waitress_does(version):
    """The channel is extended for one type of body only: for all others every byte on the wire stays waitress's."""
    requests = [
        f"GET /{case} HTTP/{version}\r\nHost: x\r\nConnection: close\r\n\r\n".encode() for case in CASES.split()
    ]
    requests.append(f"HEAD /head HTTP/{version}\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    requests.append(
        f"POST /echo HTTP/{version}\r\nHost: x\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc".encode()
    )
    with served(_bytes_app) as ours, stock_waitress(_bytes_app) as stock_port:
        for request in requests:
            expected = without_date(exchange(stock_port, request))
            assert expected
            assert without_date(exchange(ours.port, request)) == expected


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /error-before-header HTTP/1.1\r\nHost: x\r\n\r\n", 500),
        (b"nonsense\r\n\r\n", 400),
        (b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n" + b"x" * 1001, 413),
    ],
)
def test_what_waitress_itself_refuses_is_json_too(request_bytes, status):
    """Every error of a tracker is JSON, also one that never reaches the application; one message fills no memory."""
    with served(_bytes_app, max_body_bytes=1000) as server:
        head, _, body = exchange(server.port, request_bytes).partition(b"\r\n\r\n")
    assert head.split()[1] == b"%d" % status
    assert b"Content-Type: application/json" in head
    answer = json.loads(body)
    assert answer["status"] == "error"
    assert answer["message"]


def test_a_request_of_exactly_the_limit_is_taken():
    """The limit is the largest size allowed, not the first one refused."""
    with served(_bytes_app, max_body_bytes=1000) as server:
        request = b"POST /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 1000\r\n\r\n"
        assert body_of(exchange(server.port, request + b"x" * 1000)) == b"x" * 1000


def test_a_connection_that_is_to_close_closes_at_once(monkeypatch):
    """Whoever reads to the end must not wait for the clock of the thread that looks for idle connections."""
    monkeypatch.setattr(serving, "LOOK_EVERY_S", TIMEOUT_S)
    with served(_bytes_app) as server:
        begin_s = time.monotonic()
        assert body_of(get(server.port, "/known-length")) == b"abcdef"
        assert time.monotonic() - begin_s < TIMEOUT_S / 4


def test_an_event_without_bytes_closes_nothing():
    """A descriptor is used again at once; an event of the connection before may still be on its way to a thread."""
    with served(_bytes_app, threads=2) as server, connect(server.port) as client:
        client.sendall(b"GET /known-length HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(1000)
        channel = next(iter(server._server.active_channels.values()))
        channel.attend(select.EPOLLIN)
        client.sendall(b"GET /known-length HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(1000)


def test_idle_connections_are_closed(monkeypatch):
    """Descriptors are finite; a connection that says nothing for long is not worth one."""
    monkeypatch.setattr(serving, "LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(serving, "IDLE_CONNECTION_S", 0)
    with served(_bytes_app) as server, connect(server.port) as client:
        server._server.adj.cleanup_interval = 0.05
        server._server.next_channel_cleanup = 0
        assert client.recv(1000) == b""


def test_idle_connections_make_room_for_those_who_ask(wait_until, monkeypatch):
    """Whoever opens as many as there may be must not lock the others out; who is served stays."""
    monkeypatch.setattr(serving, "JUST_SERVED_S", 0.2)
    with served(_bytes_app, connection_limit=12) as server, contextlib.ExitStack() as clients:
        good = http.client.HTTPConnection("127.0.0.1", server.port, timeout=TIMEOUT_S)
        clients.callback(good.close)
        for _ in range(40):
            clients.enter_context(connect(server.port))
            time.sleep(0.02)
            good.request("GET", "/known-length")
            assert good.getresponse().read() == b"abcdef"
        before = good.sock
        assert body_of(get(server.port, "/known-length")) == b"abcdef"
        assert good.sock is before  # never closed meanwhile
        assert len(server._server.active_channels) <= 12


def test_hundreds_that_send_a_byte_now_and_then_hold_nobody_up():
    """Slow-loris: a request that never ends takes a connection, but no thread."""
    with served(_bytes_app, threads=4, connection_limit=2000) as server, contextlib.ExitStack() as clients:
        dripping = [clients.enter_context(connect(server.port)) for _ in range(300)]
        for client in dripping:
            client.sendall(b"GET /known-length HTTP/1.1\r\nX-A: ")
        waited_s = []
        good = http.client.HTTPConnection("127.0.0.1", server.port, timeout=TIMEOUT_S)
        clients.callback(good.close)
        for number in range(30):
            for client in dripping[number::30]:
                client.sendall(b"a")
            begun_s = time.perf_counter()
            good.request("GET", "/known-length")
            assert good.getresponse().read() == b"abcdef"
            waited_s.append(time.perf_counter() - begun_s)
        assert sorted(waited_s)[15] < 0.1


def test_a_request_that_takes_too_long_to_come_is_given_up(monkeypatch):
    """A byte a second keeps a connection from being idle, not from being closed."""
    monkeypatch.setattr(serving, "REQUEST_WITHIN_S", 0.3)
    with served(_bytes_app) as server, connect(server.port) as client, connect(server.port) as idle:
        for _ in range(8):
            client.sendall(b"G")
            time.sleep(0.05)
        server._server.maintenance(time.time())
        assert client.recv(1000) == b""
        idle.sendall(b"GET /known-length HTTP/1.1\r\nHost: x\r\n\r\n")
        assert idle.recv(1000).startswith(b"HTTP/1.1 200")


def test_head_tells_the_length_and_sends_no_body():
    """A client may ask for a length first."""
    with served(_bytes_app) as server:
        client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=TIMEOUT_S)
        for _ in range(2):
            client.request("HEAD", "/head")
            response = client.getresponse()
            assert (response.status, response.getheader("Content-Length"), response.read()) == (200, "1234", b"")
        client.close()


# -- ports -------------------------------------------------------------------------------------------------------------


def test_a_port_in_use_is_said_in_one_line():
    """The most frequent mistake of an operator: the old process still runs."""
    with served(_bytes_app) as server:
        with pytest.raises(UsageError) as caught:
            Server(_bytes_app, port=server.port)
        assert str(caught.value) == f"cannot listen on 127.0.0.1:{server.port}: the port is in use"


@pytest.mark.parametrize(("host", "port"), [("203.0.113.7", 0), ("no such host", 0), ("127.0.0.1", 70000)])
def test_an_address_that_cannot_be_had_is_said_in_one_line(host, port):
    """A mistyped address is the user's to mend: no traceback."""
    with pytest.raises(UsageError, match=f"^cannot listen on {host}:{port}: .+") as caught:
        Server(_bytes_app, host=host, port=port)
    assert "\n" not in str(caught.value)


def test_a_server_that_never_started_gives_its_port_back():
    """A peer that fails while it is being built must not leave a port behind."""
    server = Server(_bytes_app)
    port = server.port
    server.stop()
    server.stop()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


# -- stopping ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pause_in_body", [False, True], ids=["in the handler", "in the body"])
def test_stop_lets_requests_under_way_finish(wait_until, pause_in_body):
    """A peer that leaves must not cut the block it is just giving."""
    arrived, go_on = threading.Event(), threading.Event()

    def app(_environ, start_response):
        def pause():
            arrived.set()
            assert go_on.wait(TIMEOUT_S)

        def parts():
            yield b"first"
            pause()
            yield b"-last"

        start_response("200 OK", [("Content-Length", "10")])
        if pause_in_body:
            return parts()
        pause()
        return [b"first-last"]

    with served(app) as server:
        answers = []
        asking = threading.Thread(target=lambda: answers.append(get(server.port, "/")))
        asking.start()
        assert arrived.wait(TIMEOUT_S)
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        wait_until(lambda: server._server is None, "stop to begin")
        assert stopping.is_alive()
        go_on.set()
        asking.join(TIMEOUT_S)
        stopping.join(TIMEOUT_S)
        assert [body_of(answer) for answer in answers] == [b"first-last"]
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", server.port)) != 0


def test_stop_flushes_an_answer_that_a_slow_client_still_reads(wait_until):
    """The handler has ended, the kernel's buffer is full: what is buffered belongs to the request too."""
    text = b"x" * (8 * 1024 * 1024)

    def app(_environ, start_response):
        start_response("200 OK", [("Content-Length", str(len(text)))])
        return [text]

    server = Server(app)
    server._adjustments.outbuf_overflow = 2 * len(text)  # in memory: waitress forgets to close its temporary files
    server.start()
    with connect(server.port, receive_buffer_bytes=4096) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert client.recv(100)
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        wait_until(lambda: server._server is None, "stop to begin")
        received = read_to_end(client)
        stopping.join(TIMEOUT_S)
    assert received.endswith(text[-100:])


def test_stop_does_not_wait_for_idle_connections():
    """Neighbours keep connections open; leaving must take no longer for that."""
    server = Server(_bytes_app)
    server.start()
    with connect(server.port) as client:
        client.sendall(b"GET /known-length HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(1000)
        stopping = threading.Thread(target=server.stop, kwargs={"grace_s": 3600.0})
        stopping.start()
        stopping.join(TIMEOUT_S)
        assert not stopping.is_alive()
        assert read_to_end(client) in {b"", b"abcdef", b"def"}


def test_run_serves_in_the_calling_thread_until_stopped(wait_until):
    """A program that is a server and nothing else calls run()."""
    server = Server(_bytes_app)
    running = threading.Thread(target=server.run)
    running.start()
    wait_until(lambda: server._server is not None, "the server to open")
    assert body_of(get(server.port, "/known-length")) == b"abcdef"
    server.stop()
    running.join(TIMEOUT_S)
    assert not running.is_alive()


class SlowApp:
    """Answers /slow with a body that waits, and everything else at once."""

    def __init__(self):
        self.go_on = threading.Event()

    def __call__(self, environ, start_response):
        start_response("200 OK", [("Content-Length", "2")])
        return self.slowly() if environ["PATH_INFO"] == "/slow" else [b"ok"]

    def slowly(self):
        self.go_on.wait(TIMEOUT_S)
        yield b"ok"


def test_long_bodies_get_threads_of_their_own_and_stop_leaves_none_behind(wait_until):
    """Messages are answered beside eight uploads; and one wake-up must reach all threads, also those that sleep."""
    app = SlowApp()
    with served(app, threads=12) as server, contextlib.ExitStack() as clients:
        assert len(server._crew) == serving.PROMPT_THREADS
        slow = []
        for _ in range(8):
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=TIMEOUT_S)
            clients.callback(connection.close)
            connection.request("GET", "/slow")
            slow.append(connection)
        wait_until(lambda: len(server._crew) == 8 + serving.PROMPT_THREADS, "threads for the long bodies")
        assert body_of(get(server.port, "/fast")) == b"ok"
        app.go_on.set()
        assert [connection.getresponse().read() for connection in slow] == [b"ok"] * 8
        wait_until(lambda: server._streaming == 0, "the bodies to be closed")
    assert len(server._crew) == 8 + serving.PROMPT_THREADS
    assert not [thread for thread in server._crew if thread.is_alive()]


def test_no_more_threads_than_allowed_answer_however_many_wait(wait_until):
    """``threads`` bounds what a server may take."""
    app = SlowApp()
    with served(app, threads=3) as server, contextlib.ExitStack() as clients:
        slow = []
        for _ in range(5):
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=TIMEOUT_S)
            clients.callback(connection.close)
            connection.request("GET", "/slow")
            slow.append(connection)
        wait_until(lambda: server._streaming == 3, "all threads to wait")
        app.go_on.set()
        assert [connection.getresponse().read() for connection in slow] == [b"ok"] * 5
        assert len(server._crew) == 3


def test_the_queue_is_what_nobody_attends_to_yet(wait_until):
    """Connections to be accepted, and requests on open ones: what a load test watches beside the latency."""
    app = SlowApp()
    with served(app, threads=1) as server, contextlib.ExitStack() as clients:

        def connect():
            return clients.enter_context(socket.create_connection(("127.0.0.1", server.port), TIMEOUT_S))

        early = [connect() for _ in range(2)]
        wait_until(lambda: len(server._server.active_channels) == 2, "the connections to be accepted")
        assert server.queue_depth() == 0
        connect().sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_until(lambda: server._streaming == 1, "the only thread to wait")
        for client in early:
            client.sendall(b"GET /fast HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_until(lambda: server.queue_depth() == 2, "requests on open connections")
        late = [connect() for _ in range(3)]
        wait_until(lambda: server.queue_depth() == 5, "connections to be accepted")
        app.go_on.set()
        assert [client.recv(12) for client in early] == [b"HTTP/1.1 200"] * 2
        wait_until(lambda: server.queue_depth() == 0, "the queue to be served")
        assert len(late) == 3
    assert server.queue_depth() == 0


def test_who_waited_too_long_is_refused_and_who_comes_now_is_answered(wait_until):
    """A queue without end makes everybody wait for answers that nobody wants any more."""
    app = SlowApp()
    with served(app, threads=1, shed_after_s=0.2) as server, contextlib.ExitStack() as clients:

        def ask(path):
            client = clients.enter_context(connect(server.port))
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            return client

        ask("/slow")
        wait_until(lambda: server._streaming == 1, "the only thread to wait")
        late = [ask("/fast") for _ in range(3)]
        time.sleep(0.5)
        app.go_on.set()
        for client in late:
            answer = read_to_end(client)
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"Retry-After: " in answer
        assert server.shed == 3
        again = ask("/fast")
        assert again.recv(12) == b"HTTP/1.1 200"
        time.sleep(0.5)  # an idle connection has not waited
        again.recv(1000)
        again.sendall(b"GET /fast HTTP/1.1\r\nHost: x\r\n\r\n")
        assert again.recv(12) == b"HTTP/1.1 200"
        assert server.shed == 3


def test_a_system_without_threads_left_is_served_by_those_there_are(monkeypatch, caplog):
    """Thousands of peers on one machine: one thread fewer must not end a peer."""
    app = SlowApp()
    app.go_on.set()
    with served(app, threads=12) as server:

        def refuse(_thread):
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(threading.Thread, "start", refuse)
        assert [body_of(get(server.port, "/slow")) for _ in range(3)] == [b"ok"] * 3
        assert len(server._crew) == serving.PROMPT_THREADS
    assert "2 threads must do to serve: can't start new thread" in caplog.text
