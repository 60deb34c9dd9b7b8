"""Memory made ready before a run and handed out during it, so that the run does not pay for the hypervisor.

A virtual machine often gives its free pages back to the host (virtio-balloon's free page reporting does, every two
seconds). Who touches such a page next pays for getting it back: 2.2 s for each GiB where this was measured, more than
everything else a swarm costs, and it falls on whoever happens to run after a pause.
"""

import mmap
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import RawIOBase
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

CHUNK_BYTES = 32 << 20
AHEAD_BYTES = 4 * CHUNK_BYTES
SHARE_OF_AVAILABLE = 0.85
LOOK_EVERY_S = 0.01
Progress = Callable[[int, int], None]


class ReadyMemory:
    """Holds ``num_bytes`` of touched memory (within reason); inside ``with``, lets it go as fast as it is used up."""

    def __init__(self, num_bytes: int, progress: Progress | None = None) -> None:
        size = min(num_bytes, int(psutil.virtual_memory().available * SHARE_OF_AVAILABLE))
        total = -(-size // CHUNK_BYTES)
        self._chunks: list[mmap.mmap] = []
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for memory in pool.map(_touched, [CHUNK_BYTES] * total):
                self._chunks.append(memory)
                if progress:
                    progress(len(self._chunks) * CHUNK_BYTES, total * CHUNK_BYTES)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._hand_out, name="memory", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._chunks.clear()

    def _hand_out(self) -> None:
        with Path("/proc/meminfo").open("rb", buffering=0) as meminfo:
            floor_bytes = _free_bytes(meminfo) + min(AHEAD_BYTES, CHUNK_BYTES * len(self._chunks))
            while self._chunks:
                while self._chunks and _free_bytes(meminfo) < floor_bytes:
                    self._chunks.pop().close()
                if self._ended.wait(LOOK_EVERY_S):
                    return


def _free_bytes(meminfo: RawIOBase) -> int:
    """Return what MemFree says; psutil reads ten times as much for it."""
    meminfo.seek(0)
    text = meminfo.read(256) or b""
    return int(text[text.index(b"MemFree:") + 8 :].split(maxsplit=1)[0]) * 1024


def _touched(size: int) -> mmap.mmap:
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    with Path("/dev/zero").open("rb", buffering=0) as zeros:
        zeros.readinto(memory)  # unlike a loop, it lets the other threads run
    return memory
