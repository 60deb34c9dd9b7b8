"""What a server uses while it is loaded: processor time, memory, threads, open files, requests that wait."""

import contextlib
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
    """Looks at a process every quarter of a second, in a thread of its own, while the context lasts."""

    def __init__(self, pid: int, metrics_url: str | None = None) -> None:
        self._process = psutil.Process(pid)
        self._metrics_url = metrics_url
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="sampler", daemon=True)
        self._rss_bytes = self._threads = self._open_files = 0
        self._queue_depth: float | None = None
        self._begun_s = self._cpu_before_s = 0.0
        self.use: ServerUse | None = None

    def __enter__(self) -> Self:
        self._begun_s, self._cpu_before_s = time.monotonic(), self._cpu_s()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        elapsed_s = time.monotonic() - self._begun_s
        cpu_s = self._cpu_s() - self._cpu_before_s
        self._stop.set()
        self._thread.join()
        self.use = ServerUse(
            cpu_cores=cpu_s / elapsed_s,
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

    def _look(self) -> None:
        rss_bytes = threads = open_files = 0
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
