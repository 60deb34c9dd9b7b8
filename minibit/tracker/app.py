"""The tracker as the seed describes it: ``TrackerApp``, a Flask application and the waitress server under it."""

import logging
import os
import resource
import socket
import sys
import threading
import time
from collections.abc import Callable, MutableMapping
from functools import partial
from logging.handlers import WatchedFileHandler
from random import Random
from typing import Any

from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException

from minibit.errors import UsageError
from minibit.serving import MAX_BODY_BYTES, Server
from minibit.tracker import bep3, initial
from minibit.tracker.connected import ConnectedPeers
from minibit.tracker.metrics import exposition
from minibit.tracker.registry import Registry
from minibit.tracker.service import RefusedError, TrackerService
from minibit.wire import ANNOUNCE, JSON, METRICS, PEERS, REGISTER, SCRAPE, STATS, ErrorAnswer, encode
from minibit.wsgi import Handler, Reply, access_logged, body_of, in_front_of, is_too_long

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 9000
DEFAULT_TOTAL_FILE_BLOCKS = 50
DEFAULT_PEER_TTL_S = 120.0
DEFAULT_ANNOUNCE_INTERVAL_S = 300.0  # libtorrent announces no more often, whatever a tracker says
REGISTRATIONS_PER_TTL = 4  # a peer may lose three in a row and is still listed
LOOPBACK = "127.0.0.1"
ROUTES = (REGISTER, PEERS, STATS, ANNOUNCE, SCRAPE, METRICS)
OTHER_ROUTES = "other"
FAILURE = "failure"  # instead of a status: BEP 3 answers 200 with a failure reason
# A handler computes and never waits, so more threads bring no parallelism (1, 2, 4, 8 threads with 16 connections
# asking for peers: 2,135, 2,056, 2,144, 2,066 requests/s); a few keep one long answer from holding up the short ones.
DEFAULT_THREADS = 4
SHED_AFTER_S = 2.0  # who has waited so long is about to give up; answering it would make the next one wait as long
SPARE_DESCRIPTORS = 64  # beside the connections: the listening socket, the trigger pipe, logs, modules being read
MAX_CONNECTIONS = 16384


class TrackerApp:
    """A tracker: it knows who is in the swarm and tells each peer whom to talk to.

    ``host`` and ``port`` left out take ``TRACKER_HOST`` and ``TRACKER_PORT`` from the environment when the object is
    built, then 127.0.0.1 and 9000; port 0 means any free one, and ``port`` is the real one once it is bound.
    ``sock``: a bound TCP socket to serve on instead. ``total_file_blocks``: T of the default swarm's file.
    ``initial_blocks``: what a newcomer of the default swarm is given: ``"cover"`` (⌈T/3⌉ to ⌈T/2⌉ blocks, those nobody
    owns first: three peers always own everything together), ``"random"`` (1 to ⌈T/2⌉ blocks; the peers together may
    stay incomplete: eight of them own all of 50 blocks in 4 % of runs), ``"none"``.
    ``peer_ttl_s``: how long a peer is listed after it registered last. ``interval_s``: how often peers are told to
    register again (default: a quarter of that). ``announce_interval_s``: how often BitTorrent clients are told to
    announce, give or take a tenth; they are listed for 2.5 times that. ``rng_seed`` makes hand-outs and initial blocks
    repeatable. ``access_log``: a file that gets a line of JSON for each request (``minibit.wsgi.access_logged``), or
    ``-`` for stdout; it may be rotated. ``clock`` returns seconds and never goes back.

    Raise UsageError for values that cannot be.
    """

    def __init__(
        self,
        host: str | None = None,
        port: int | None = None,
        total_file_blocks: int = DEFAULT_TOTAL_FILE_BLOCKS,
        *,
        initial_blocks: initial.Policy = "cover",
        peer_ttl_s: float = DEFAULT_PEER_TTL_S,
        interval_s: float | None = None,
        announce_interval_s: float = DEFAULT_ANNOUNCE_INTERVAL_S,
        rng_seed: int | None = None,
        threads: int = DEFAULT_THREADS,
        sock: socket.socket | None = None,
        access_log: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        _check_options(
            total_file_blocks,
            initial_blocks,
            threads,
            peer_ttl_s=peer_ttl_s,
            interval_s=interval_s,
            announce_interval_s=announce_interval_s,
        )
        self.host = os.environ.get("TRACKER_HOST", DEFAULT_HOST) if host is None else host
        self.port = _port_of_environment() if port is None else port
        if sock is not None:
            self.host, self.port = sock.getsockname()[:2]
        self.total_file_blocks = total_file_blocks
        rng = Random(rng_seed)
        self.registry = Registry(rng=rng, clock=clock, peer_ttl_s=peer_ttl_s, total_blocks=total_file_blocks)
        self.service = TrackerService(
            self.registry,
            total_blocks=total_file_blocks,
            initial_blocks=initial_blocks,
            interval_s=peer_ttl_s / REGISTRATIONS_PER_TTL if interval_s is None else interval_s,
            announce_interval_s=announce_interval_s,
            rng=rng,
        )
        self.connected_peers: MutableMapping[str, dict[str, Any]] = ConnectedPeers(self.registry)
        self.app = Flask("minibit.tracker", static_folder=None)
        self.app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
        self._threads = threads
        self._sock = sock
        self._server: Server | None = None
        self._stopped = threading.Event()
        self._setup_routes()
        self._access_log = _open_access_log(access_log) if access_log else None
        if self._access_log:
            self.app.wsgi_app = access_logged(  # type: ignore[method-assign,assignment]
                self.app.wsgi_app, partial(_write_line, self._access_log)
            )

    def _setup_routes(self) -> None:
        """Tie each URL and method to what answers it; every error becomes JSON, or bencoded where BEP 3 is spoken."""
        self.app.add_url_rule(REGISTER, view_func=self.register_peer, methods=["POST"])
        self.app.add_url_rule(PEERS, view_func=self.get_peers, methods=["GET"])
        self.app.add_url_rule(STATS, view_func=self.get_stats, methods=["GET"])
        self.app.add_url_rule(ANNOUNCE, view_func=self.announce, methods=["GET"])
        self.app.add_url_rule(SCRAPE, view_func=self.scrape, methods=["GET"])
        self.app.add_url_rule(METRICS, view_func=self.get_metrics, methods=["GET"])
        self.app.register_error_handler(HTTPException, _http_error)
        self.app.before_request(_note_begin)
        self.app.after_request(self._count_response)
        handlers = {("POST", REGISTER): self._register, ("GET", PEERS): self._peers, ("GET", ANNOUNCE): self._announce}
        counted = {request: self._counted(request[1], handler) for request, handler in handlers.items()}
        self.app.wsgi_app = in_front_of(self.app.wsgi_app, counted)  # type: ignore[method-assign,assignment]

    def register_peer(self) -> Response:
        """Answer POST /register: enter or refresh the caller, tell it its initial blocks and up to 50 other peers."""
        return self._rest(self.service.register, request.get_data(), _connection_ip()).as_flask()

    def get_peers(self) -> Response:
        """Answer GET /peers: at most 5 (or ``numwant``) peers other than the caller, uniformly at random."""
        return self._rest(self.service.peers, _query()).as_flask()

    def get_stats(self) -> Response:
        """Answer GET /stats: the counters."""
        return Reply.of(self.service.stats()).as_flask()

    def get_metrics(self) -> Response:
        """Answer GET /metrics: the counters and more, as Prometheus reads them."""
        text, content_type = exposition(self.service.tally, self.service.registry, self._server)
        return Reply.whole(text, content_type).as_flask()

    def announce(self) -> Response:
        """Answer GET /announce of a BitTorrent client (BEP 3)."""
        return self._bep3(self.service.announce, _query(), _connection_ip()).as_flask()

    def scrape(self) -> Response:
        """Answer GET /scrape of a BitTorrent client (BEP 48)."""
        return self._bep3(self.service.scrape, _query()).as_flask()

    # The same in front of Flask, for what is asked often.

    def _register(self, environ: dict[str, Any]) -> Reply | None:
        if is_too_long(environ):
            return None
        return self._rest(self.service.register, body_of(environ), environ.get("REMOTE_ADDR") or LOOPBACK)

    def _peers(self, environ: dict[str, Any]) -> Reply:
        return self._rest(self.service.peers, environ.get("QUERY_STRING", ""))

    def _announce(self, environ: dict[str, Any]) -> Reply:
        query, ip = environ.get("QUERY_STRING", ""), environ.get("REMOTE_ADDR") or LOOPBACK
        return self._bep3(self.service.announce, query, ip)

    def _rest(self, carry_out: Callable[..., Any], *arguments: Any) -> Reply:
        try:
            return Reply.of(carry_out(*arguments))
        except RefusedError as error:
            return Reply.of(ErrorAnswer(message=str(error)), error.status)

    def _bep3(self, carry_out: Callable[..., bytes], *arguments: str) -> Reply:
        """Return a bencoded answer: BEP 3 knows no status but 200, a failure stands in the body."""
        try:
            return Reply.whole(carry_out(*arguments), bep3.CONTENT_TYPE)
        except RefusedError as error:
            return Reply.whole(bep3.failure(str(error)), bep3.CONTENT_TYPE)

    def _counted(self, route: str, handler: Handler) -> Handler:
        """Return the handler with what it answers counted, and timed."""
        count = self.service.tally.count

        def counted(environ: dict[str, Any]) -> Reply | None:
            begun_s = time.perf_counter()
            status: int | str = 500
            try:
                reply = handler(environ)
                if reply is None:
                    return None
                failed = route == ANNOUNCE and isinstance(reply.body, bytes) and bep3.is_failure(reply.body)
                status = FAILURE if failed else reply.status
            except BaseException:
                count(route, status, time.perf_counter() - begun_s)
                raise
            count(route, status, time.perf_counter() - begun_s)
            return reply

        return counted

    @property
    def url(self) -> str:
        """The address a client on this machine uses; the port is the real one once the tracker is started."""
        host = self.local_host
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    @property
    def local_host(self) -> str:
        """Where a client on this machine finds it."""
        return {"0.0.0.0": LOOPBACK, "::": "::1"}.get(self.host, self.host)

    def run(self, host: str = "0.0.0.0") -> None:
        """Serve until ``stop()`` is called from another thread, or Ctrl-C.

        Binds every address of the machine unless ``host`` says otherwise, as the seed's ``run`` does. Raise UsageError
        if the port cannot be had.
        """
        self.start(host)
        try:
            self._stopped.wait()
        finally:
            self.stop()

    def start(self, host: str | None = None) -> None:
        """Serve from background threads, on ``self.host`` unless ``host`` is given; return once requests are answered.

        Raise UsageError if the port cannot be had, RuntimeError if the tracker is already serving.
        """
        if self._server is not None:
            raise RuntimeError(f"the tracker is already serving on port {self.port}")
        sock, self._sock = self._sock, None
        self._stopped.clear()
        server = Server(
            self.app,
            host=self.host if host is None else host,
            port=self.port,
            sock=sock,
            threads=self._threads,
            connection_limit=connection_limit(),
            shed_after_s=SHED_AFTER_S,
        )
        self.port = server.port
        server.start()
        self._server = server

    def stop(self) -> None:
        """Answer the requests under way, then close every connection. May be called at any time, also twice."""
        server, self._server = self._server, None
        if server is not None:
            server.stop()
        if self._sock is not None:
            self._sock.close()
        if self._access_log:
            self._access_log.close()  # a file opens again at the next line
        self._stopped.set()

    def _count_response(self, response: Response) -> Response:
        route = request.path if request.path in ROUTES else OTHER_ROUTES
        failed = route in {ANNOUNCE, SCRAPE} and bep3.is_failure(response.get_data())
        status = FAILURE if failed else response.status_code
        self.service.tally.count(route, status, time.perf_counter() - g.begun_s)
        return response


def _note_begin() -> None:
    g.begun_s = time.perf_counter()


def _query() -> str:
    return request.query_string.decode("latin-1")


def _http_error(error: HTTPException) -> Response:
    """Turn what Flask and werkzeug refuse (404, 405, 413, 500 …) into JSON; their headers (Allow) stay."""
    response = Response(status=error.code, headers=error.get_headers())
    response.data = encode(ErrorAnswer(message=f"{request.method} {request.path:.100}: {error.description}"))
    response.content_type = JSON
    return response


def _connection_ip() -> str:
    return request.remote_addr or LOOPBACK  # a call within the process, or over a Unix socket, has no address


def _open_access_log(path: str) -> logging.Handler:
    try:
        handler = logging.StreamHandler(sys.stdout) if path == "-" else WatchedFileHandler(path, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write the access log {path}: {error.strerror}") from error
    handler.setFormatter(logging.Formatter("%(message)s"))
    return handler


def _write_line(handler: logging.Handler, line: str) -> None:
    handler.handle(logging.makeLogRecord({"msg": line}))


def _port_of_environment() -> int:
    text = os.environ.get("TRACKER_PORT", str(DEFAULT_PORT))
    if not (text.isascii() and text.isdigit() and int(text) <= 65535):
        raise UsageError(f"TRACKER_PORT must be a number from 0 to 65535, not {text!r:.40}")
    return int(text)


def connection_limit() -> int:
    """As many connections as there are file descriptors: waitress spins when it accepts one it has none left for."""
    soft_limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft_limit == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return max(1, min(MAX_CONNECTIONS, soft_limit - SPARE_DESCRIPTORS))


def _check_options(total_file_blocks: int, initial_blocks: str, threads: int, **seconds: float | None) -> None:
    if total_file_blocks < 0:
        raise UsageError(f"total_file_blocks must not be negative: {total_file_blocks}")
    if initial_blocks not in initial.POLICIES:
        raise UsageError(f"initial_blocks must be one of {', '.join(initial.POLICIES)}, not {initial_blocks!r}")
    if threads < 1:
        raise UsageError(f"threads must be at least 1: {threads}")
    for name, value_s in seconds.items():
        if value_s is not None and not value_s > 0:
            raise UsageError(f"{name} must be positive: {value_s}")
    peer_ttl_s, interval_s = seconds["peer_ttl_s"], seconds["interval_s"]
    if peer_ttl_s is not None and interval_s is not None and interval_s >= peer_ttl_s:
        raise UsageError(f"interval_s must be positive and below peer_ttl_s ({peer_ttl_s}): {interval_s}")
