"""MiniBit's own load generator against real sockets that behave and misbehave."""

import socket
import threading
import time
from contextlib import contextmanager

import pytest

from minibit.load.dialects import Request
from minibit.load.embedded import Embedded
from minibit.load.generator import Generator, Plan, run_plan
from minibit.load.measurement import decoded, together
from minibit.load.schedule import Schedule
from minibit.load.source import NO_ANSWER, Job, Problem

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Questions:
    """Always the same question."""

    def __init__(self):
        self.lost = 0

    def next(self, now_s):
        return Job(Request("/x", "POST", "/x", b"body", {"X-A": "b"}))

    def judge(self, job, status, body):
        return "/x", None if (status, body) == (200, b"ok") else Problem(f"status {status}", repr(body))

    def lose(self, job):
        self.lost += 1

    def leave(self, now_s):
        return None

    def remarks(self):
        return []


@contextmanager
def server(serve):
    """Run ``serve(connection)`` for each connection in a thread of its own; yield the URL."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=64)
    ends = threading.Event()

    def attend(connection):
        with connection:
            try:
                while not ends.is_set() and serve(connection):
                    pass
            except OSError:
                pass

    def accept():
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            if ends.is_set():
                connection.close()
                return
            threading.Thread(target=attend, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        ends.set()
        socket.create_connection(listening.getsockname()).close()
        thread.join()
        listening.close()


def asked(connection):
    """Whether a whole question came."""
    received = b""
    while not received.endswith(b"\r\n\r\nbody"):
        data = connection.recv(4096)
        if not data:
            return False
        received += data
    return True


def load(url, *, rate=None, seconds=1.0, warm_up_s=0.0, connections=4, source=None, slice_s=None, **options):
    source = source or Questions()
    generator = Generator(url, source, connections=connections, **options)
    schedule = Schedule(rate) if rate else None
    seen = generator.run(schedule, warm_up_s=warm_up_s, seconds=seconds, slice_s=slice_s).seen()
    generator.shut()
    return seen


def of(seen):
    return together(*seen.requests.values())


def answering(connection):
    return asked(connection) and (connection.sendall(OK) or True)


def test_an_open_loop_sends_what_the_schedule_says():
    """No more, no less, and each answer is counted once."""
    with server(answering) as url:
        seen = load(url, rate=200, seconds=1.5, warm_up_s=0.5)
    assert of(seen).errors == {}
    assert of(seen).answered == seen.generators[0].sent == 300
    assert seen.generators[0].missed == 0


def test_a_closed_loop_keeps_every_connection_busy():
    """One connection at 10 ms an answer gives a hundred a second, four of them four hundred."""

    def slow(connection):
        if not asked(connection):
            return False
        time.sleep(0.01)
        connection.sendall(OK)
        return True

    with server(slow) as url:
        one, four = (of(load(url, connections=number)).answered for number in (1, 4))
    assert 50 < one <= 101
    assert 2.5 < four / one < 4.5


def test_latency_counts_from_the_intended_beginning():
    """The server stops for half a second: every request due meanwhile waited, though only one was out."""
    halted = threading.Event()

    def halting(connection):
        if not asked(connection):
            return False
        if not halted.is_set():
            halted.set()
            time.sleep(0.5)
        connection.sendall(OK)
        return True

    with server(halting) as url:
        seen = load(url, rate=200, connections=1, seconds=1.5)
    counted = of(seen)
    assert counted.answered == 300
    assert decoded(counted.latency).at(75) > 0.05  # about a third of them had to wait
    assert decoded(counted.service).at(75) < 0.05  # which a closed loop, measuring from the sending, hides


def test_what_could_not_be_sent_is_missed_not_forgotten():
    """A server that answers forty a second, asked for four hundred."""

    def slow(connection):
        if not asked(connection):
            return False
        time.sleep(0.05)
        connection.sendall(OK)
        return True

    with server(slow) as url:
        seen = load(url, rate=400, connections=2, seconds=1.0)
    generated = seen.generators[0]
    assert generated.sent + generated.missed == 400
    assert generated.missed > 300


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        OK,  # without a word of it
    ],
)
def test_a_server_that_closes_after_each_answer_is_connected_to_again(head):
    """Opentracker does, whatever is asked for."""

    def once(connection):
        if asked(connection):
            connection.sendall(head)
        return False

    with server(once) as url:
        seen, closed = load(url, rate=100), load(url, connections=1, seconds=0.3)
    assert (of(seen).answered, of(seen).errors) == (100, {})
    assert of(closed).errors == {}
    assert of(closed).answered > 5


def test_an_answer_may_come_in_pieces():
    """TCP is a stream."""

    def dripping(connection):
        if not asked(connection):
            return False
        for place in range(0, len(OK), 7):
            connection.sendall(OK[place : place + 7])
            time.sleep(0.001)
        return True

    with server(dripping) as url:
        assert of(load(url, rate=50)).answered == 50


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", "status 503"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad", "status 200"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "no HTTP/1 answer with a length"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            "no HTTP/1 answer with a length",
        ),
        (b"", NO_ANSWER),
        (b"HTTP/1.1 200 OK\r\nContent-Le", NO_ANSWER),
    ],
)
def test_what_is_no_proper_answer_is_an_error_with_a_name(reply, kind):
    """And the test goes on."""

    def wrong(connection):
        if asked(connection):
            connection.sendall(reply)
        return False

    with server(wrong) as url:
        counted = of(load(url, rate=50, seconds=0.5))
    assert counted.answered == 0
    assert counted.errors == {kind: 25}


def test_who_hangs_until_the_end_of_the_test_is_an_error():
    """A tracker that swallows requests must not look better than one that refuses them."""
    with server(lambda connection: asked(connection) and (time.sleep(4) or False)) as url:
        seen = load(url, rate=20, seconds=0.5, connections=4, slice_s=0.1)
    assert of(seen).errors == {NO_ANSWER: 4}
    assert seen.generators[0].missed == 6
    assert sum(part.errors for part in seen.timeline) == 10


def test_a_closed_loop_ends_when_nothing_can_be_connected():
    """Not a minute later, with a core on fire."""
    begun_s = time.monotonic()
    counted = of(load("http://127.0.0.1:1", seconds=0.5))
    assert time.monotonic() - begun_s < 5
    assert set(counted.errors) == {NO_ANSWER}


def test_a_server_that_is_not_there_is_an_error_for_each_request():
    """It must not be a traceback, nor a silent zero."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    source = Questions()
    counted = of(load(f"http://127.0.0.1:{port}", rate=50, seconds=0.5, source=source))
    assert counted.errors == {NO_ANSWER: 25}
    assert source.lost == 25


def test_an_answer_that_never_comes_times_out():
    """Its connection is given up, and others go on."""
    with server(lambda connection: asked(connection) and (time.sleep(5) or False)) as url:
        counted = of(load(url, rate=20, seconds=0.6, timeout_s=0.2, connections=20))
    assert counted.errors == {NO_ANSWER: 12}


@pytest.mark.parametrize("kind", ["tracker", "peer"])
def test_the_embedded_targets_answer_without_a_fault(kind):
    """The whole way: a tracker or peer in a process of its own, a plan, a figure; and nothing is left behind."""
    arguments = ("tracker",) if kind == "tracker" else ("peer", "--size", "1MiB", "--block-size", "64KiB")
    with Embedded(*arguments) as target:
        torrent = target.output.readline().strip()
        plan = Plan(
            url=target.url,
            kind=kind,
            seed=1,
            rate_per_s=200,
            seconds=1.5,
            torrent=torrent,
            choked_share=0.3,
            json_share=0.3,
        )
        seen = run_plan(plan)
    assert of(seen).errors == {}, seen.examples
    assert of(seen).answered == 300
    if kind == "peer":
        assert set(seen.requests) > {"/request_block raw 64 KiB", "/request_block JSON 64 KiB"}
