"""What a registration and a question cost the tracker, with 10, 1,000 and 100,000 peers registered.

In process: the WSGI application called directly with an environ, so the tracker's own code and its web framework. Over
HTTP: one keep-alive connection to waitress in the same process, so the round trip as a peer sees it, less the network.
Every answer is checked inside the timed target, at a cost of a few microseconds.
"""

import http.client
import io
import json
from contextlib import contextmanager

import pytest

from minibit.tracker import TrackerApp
from minibit.tracker.registry import Announcement

SIZES = [10, 1_000, 100_000]
INFO_HASH = "be9c" * 10
RNG_SEED = 1
CALLER = "peer-7"
REGISTER_BODY = json.dumps({"peer_id": CALLER, "listen_port": 50007, "info_hash": INFO_HASH}).encode()
PEERS_QUERY = f"peer_id={CALLER}&info_hash={INFO_HASH}"
TIMEOUT_S = 30.0
IN_PROCESS_ROUNDS = {"rounds": 300, "warmup_rounds": 20}
HTTP_ROUNDS = {"rounds": 300, "warmup_rounds": 20}


@pytest.fixture(scope="module", params=SIZES, ids=lambda size: f"{size}_peers")
def filled(request):
    """Return a tracker with that many live peers in one swarm, the caller among them, and the number."""
    tracker = TrackerApp("127.0.0.1", 0, rng_seed=RNG_SEED, peer_ttl_s=3600.0)
    for number in range(request.param):
        announcement = Announcement(f"peer-{number}", "127.0.0.1", "127.0.0.1", 1024 + number % 60_000)
        tracker.registry.register(INFO_HASH, announcement, count=0)
    return tracker, request.param


def check_hand_out(status, body, wanted):
    """Assert that an answer hands out exactly as many as it should, each once, and never the caller."""
    assert status == 200
    names = {peer["peer_id"] for peer in json.loads(body)["peers"]}
    assert len(names) == wanted
    assert CALLER not in names


def call_wsgi(app, method, path, query, body):
    """Call a WSGI application; return status and body."""
    environ = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "CONTENT_LENGTH": str(len(body)),
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "9000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    statuses = []
    chunks = app(environ, lambda status, _headers: statuses.append(int(status.split()[0])))
    return statuses[0], b"".join(chunks)


@contextmanager
def connection_to(tracker):
    """Serve the tracker under waitress; yield a keep-alive connection to it."""
    tracker.start()
    connection = http.client.HTTPConnection("127.0.0.1", tracker.port, timeout=TIMEOUT_S)
    try:
        yield connection
    finally:
        connection.close()
        tracker.stop()


def call_http(connection, method, path, query, body):
    """Send one request over a connection that stays open; return status and body."""
    connection.request(method, f"{path}?{query}" if query else path, body or None)
    answer = connection.getresponse()
    return answer.status, answer.read()


def describe(benchmark, size, layer):
    """Say beside the figures what was measured."""
    benchmark.group = f"tracker, {layer}"
    benchmark.extra_info.update(peers_registered=size, layer=layer, rng_seed=RNG_SEED)


def bench_register_in_process(benchmark, filled):
    """Measure a registration with its hand-out of 50, without a server."""
    tracker, size = filled

    def target():
        check_hand_out(*call_wsgi(tracker.app, "POST", "/register", "", REGISTER_BODY), min(50, size - 1))

    benchmark.pedantic(target, **IN_PROCESS_ROUNDS)
    describe(benchmark, size, "in process")


def bench_peers_in_process(benchmark, filled):
    """Measure a question with its hand-out of 5, without a server."""
    tracker, size = filled

    def target():
        check_hand_out(*call_wsgi(tracker.app, "GET", "/peers", PEERS_QUERY, b""), 5)

    benchmark.pedantic(target, **IN_PROCESS_ROUNDS)
    describe(benchmark, size, "in process")


def bench_register_over_http(benchmark, filled):
    """Measure a registration with its hand-out of 50 as a peer waits for it."""
    tracker, size = filled
    with connection_to(tracker) as connection:

        def target():
            check_hand_out(*call_http(connection, "POST", "/register", "", REGISTER_BODY), min(50, size - 1))

        benchmark.pedantic(target, **HTTP_ROUNDS)
    describe(benchmark, size, "over HTTP")


def bench_peers_over_http(benchmark, filled):
    """Measure a question with its hand-out of 5 as a peer waits for it."""
    tracker, size = filled
    with connection_to(tracker) as connection:

        def target():
            check_hand_out(*call_http(connection, "GET", "/peers", PEERS_QUERY, b""), 5)

        benchmark.pedantic(target, **HTTP_ROUNDS)
    describe(benchmark, size, "over HTTP")
