"""The tracker's WSGI application under granian instead of waitress: HTTP in Rust, Python for nothing but the answers.

One worker process with one Python thread: the registry lives there. Granian is an extra (``pip install
'minibit[granian]'``).
"""

import socket
import threading
import time
from collections.abc import Callable

from flask import Flask

from minibit.errors import UsageError
from minibit.serving import BACKLOG, bind
from minibit.tracker.app import TrackerApp, connection_limit

ANSWERS_WITHIN_S = 30.0
LOOK_EVERY_S = 0.02
# For the next request to begin and its head to come. Granian makes no room for newcomers when all connections are taken
# (waitress here does), so those that idle have to leave soon; clients announce once in minutes.
HEAD_WITHIN_S = 3.0


def serve_under_granian(
    tracker: TrackerApp, when_ready: Callable[[int], None], in_worker: Callable[[], None] = lambda: None
) -> None:
    """Serve ``tracker.app`` until SIGTERM or SIGINT; call ``when_ready(port)`` once connections are accepted.

    ``in_worker`` is called in the worker process before it serves: it has inherited every open descriptor. Call this
    from the main thread. Raise UsageError if granian is not installed or the port cannot be had.
    """
    try:
        from granian import Granian  # noqa: PLC0415  an extra
        from granian.constants import HTTPModes, Interfaces  # noqa: PLC0415
        from granian.http import HTTP1Settings  # noqa: PLC0415
    except ImportError:
        raise UsageError("--server granian needs granian: pip install 'minibit[granian]'") from None

    def load() -> Flask:
        in_worker()
        return tracker.app

    # Bound, not listening: it keeps the port that granian's worker binds too, by SO_REUSEPORT.
    with bind(tracker.host, tracker.port, listen=False) as reserved:
        tracker.port = reserved.getsockname()[1]
        server = Granian(
            "minibit.tracker",
            address=tracker.host,
            port=tracker.port,
            interface=Interfaces.WSGI,
            workers=1,
            blocking_threads=1,
            http=HTTPModes.http1,
            backlog=BACKLOG,
            backpressure=connection_limit(),  # its default, the backlog, is the number of connections it serves at all
            http1_settings=HTTP1Settings(header_read_timeout=round(HEAD_WITHIN_S * 1000)),
            log_enabled=False,
            process_name="minibit tracker",
        )
        threading.Thread(target=_wait_and_call, args=(tracker, when_ready), name="ready", daemon=True).start()
        server.serve(target_loader=load, wrap_loader=False)  # the worker is forked: it has the application


def _wait_and_call(tracker: TrackerApp, when_ready: Callable[[int], None]) -> None:
    deadline_s = time.monotonic() + ANSWERS_WITHIN_S
    while time.monotonic() < deadline_s:
        try:
            socket.create_connection((tracker.local_host, tracker.port), timeout=1.0).close()
        except OSError:
            time.sleep(LOOK_EVERY_S)
        else:
            when_ready(tracker.port)
            return
