"""One tracker as a process: bind, report the port, serve until told to stop."""

import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

from minibit.errors import UsageError
from minibit.tracker.app import TrackerApp
from minibit.tracker.under_granian import serve_under_granian

SERVERS = ("waitress", "granian")
# A full collection of a million peers stops every request for a second and finds nothing: peers leave by being removed,
# no cycle is left behind. Young objects are still collected (what Flask leaves after an error); the old ones never.
YOUNG, OLDER, OLDEST = 50_000, 5, 1_000_000
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def serve(
    host: str | None = None,
    port: int | None = None,
    ready_fd: int | None = None,
    *,
    stop_fd: int | None = None,
    server: str = "waitress",
    prepare: Callable[[TrackerApp], None] = lambda _tracker: None,
    **options: Any,
) -> int:
    """Serve a tracker until SIGTERM or SIGINT; requests under way are answered. Return the exit code, 0.

    Call it from the main thread of a process that is a tracker and nothing else. ``host`` and ``port`` left out come
    from the environment; ``options`` are TrackerApp's keyword arguments. ``ready_fd``: a descriptor that gets the real
    port and a newline and is closed then. ``stop_fd``: the tracker also stops when this descriptor is at its end, so
    it does not outlive a parent that holds the other end of a pipe. ``server`` is one of ``SERVERS``. ``prepare`` is
    called with the tracker before it serves. Raise UsageError if the port cannot be had.
    """
    tracker = TrackerApp(host, port, **options)
    prepare(tracker)
    if server == "granian":
        _stop_at_end_of(stop_fd)
        lives_read, lives_write = os.pipe()  # held open by this process alone: the worker sees its end
        serve_under_granian(
            tracker,
            when_ready=lambda port: _announce_ready(tracker, ready_fd, port),
            in_worker=lambda: _begin_worker(lives_read, (lives_write, ready_fd)),
        )
        return 0
    # Blocked before the threads start, which inherit it: the signal waits for sigwait, wherever it comes in.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        tracker.start()
        spare_the_old()
        _announce_ready(tracker, ready_fd, tracker.port)
        _stop_at_end_of(stop_fd)
        signal.sigwait(STOP_SIGNALS)
        return 0
    finally:
        tracker.stop()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin_worker(stop_fd: int, inherited: Iterable[int | None]) -> None:
    """Let go of what others wait for the end of; leave when the parent is gone."""
    for descriptor in inherited:
        if descriptor is not None:
            os.close(descriptor)
    _stop_at_end_of(stop_fd)
    spare_the_old()


def spare_the_old() -> None:
    """Have the garbage collector leave alone what has lived for long."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, OLDER, OLDEST)


def _announce_ready(tracker: TrackerApp, ready_fd: int | None, port: int) -> None:
    print(f"tracker listening on {tracker.url}", file=sys.stderr, flush=True)
    _report_port(ready_fd, port)


def _report_port(ready_fd: int | None, port: int) -> None:
    if ready_fd is None:
        return
    try:
        os.write(ready_fd, f"{port}\n".encode())
        os.close(ready_fd)
    except OSError as error:
        raise UsageError(f"--ready-fd {ready_fd}: cannot report the port: {error.strerror}") from error


def _stop_at_end_of(stop_fd: int | None) -> None:
    if stop_fd is None:
        return
    try:
        os.fstat(stop_fd)
    except OSError as error:
        raise UsageError(f"--stop-fd {stop_fd}: {error.strerror}") from error
    threading.Thread(target=_signal_at_end_of, args=(stop_fd,), name="stop-fd", daemon=True).start()


def _signal_at_end_of(stop_fd: int) -> None:
    while os.read(stop_fd, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
