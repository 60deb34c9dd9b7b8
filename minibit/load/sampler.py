"""What a server uses while it is loaded: processor time, memory, threads, open files, requests that wait."""

import contextlib
import math
import re
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Self

import msgspec
import psutil
import requests

EVERY_S = 0.25
METRICS_WITHIN_S = 1.0
_QUEUE_DEPTH = re.compile(rb"^minibit_tracker_queue_depth ([\d.e+]+)$", re.MULTILINE)


class ServerUse(msgspec.Struct, kw_only=True):
    """Over one test, of a process and its children; maxima but for the processor time. Queue depth: waitress's."""

    cpu_cores: float
    rss_bytes: int
    threads: int
    open_files: int
    queue_depth: float | None = None


class Sampler:
    """Looks at a process every quarter of a second, in a thread of its own, while the context lasts.

    Processor time is taken between ``from_s`` and ``to_s`` after ``begin`` was called, the rest over the whole.
    """

    def __init__(
        self, pid: int, metrics_url: str | None = None, *, from_s: float = 0.0, to_s: float = math.inf
    ) -> None:
        self._process = psutil.Process(pid)
        self._metrics_url = metrics_url
        self._window_s = (from_s, to_s)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="sampler", daemon=True)
        self._rss_bytes = self._threads = self._open_files = 0
        self._queue_depth: float | None = None
        self._begun_s = time.monotonic()
        self._cpu: list[tuple[float, float]] = []  # (time, processor time up to then)
        self.use: ServerUse | None = None

    def begin(self) -> None:
        """The load begins now."""
        self._begun_s = time.monotonic()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._look()
        self.use = ServerUse(
            cpu_cores=self._cores(),
            rss_bytes=self._rss_bytes,
            threads=self._threads,
            open_files=self._open_files,
            queue_depth=self._queue_depth,
        )

    def _watch(self) -> None:
        while True:
            self._look()
            if self._stop.wait(EVERY_S):
                return

    def _cores(self) -> float:
        from_s, to_s = (self._begun_s + offset_s for offset_s in self._window_s)
        inside = [sample for sample in self._cpu if from_s <= sample[0] <= to_s]
        if len(inside) < 2:
            inside = self._cpu
        (first_s, before_s), (last_s, after_s) = inside[0], inside[-1]
        return (after_s - before_s) / max(last_s - first_s, 1e-9)

    def _look(self) -> None:
        rss_bytes = threads = open_files = 0
        self._cpu.append((time.monotonic(), self._cpu_s()))
        for process in self._tree():
            with contextlib.suppress(psutil.Error):
                rss_bytes += process.memory_info().rss
                threads += process.num_threads()
                open_files += process.num_fds()
        self._rss_bytes = max(self._rss_bytes, rss_bytes)
        self._threads = max(self._threads, threads)
        self._open_files = max(self._open_files, open_files)
        depth = self._ask_for_queue_depth()
        if depth is not None:
            self._queue_depth = max(self._queue_depth or 0.0, depth)

    def _cpu_s(self) -> float:
        total_s = 0.0
        for process in self._tree():
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                total_s += times.user + times.system
        return total_s

    def _tree(self) -> Iterator[psutil.Process]:
        with contextlib.suppress(psutil.Error):
            yield self._process
            yield from self._process.children(recursive=True)

    def _ask_for_queue_depth(self) -> float | None:
        if self._metrics_url is None:
            return None
        try:
            found = _QUEUE_DEPTH.search(requests.get(self._metrics_url, timeout=METRICS_WITHIN_S).content)
        except requests.RequestException:
            return None  # it is busy: that is what is being measured
        return float(found[1]) if found else None
