"""Memory made ready before a run and handed out during it, so that the run does not pay for the hypervisor.

A virtual machine often gives its free pages back to the host (virtio-balloon's free page reporting does, every two
seconds). Who touches such a page next pays for getting it back: 2.2 s for each GiB where this was measured, more than
everything else a swarm costs, and it falls on whoever happens to run after a pause.

The memory is held as page cache, by reading a file that is one large hole. The kernel may take it back whenever it
must, and goes on counting it as available: memory held by the process would count as used, and would lower the share
that the peers may fill with data on its way to the disk (``vm.dirty_ratio``) until every write waits for the disk.
On tmpfs, where a hole takes no memory, all this does nothing.
"""

import os
import tempfile
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
SHARE_OF_AVAILABLE = 0.8
LOOK_EVERY_S = 0.01
_READ_BYTES = 1 << 20
Progress = Callable[[int, int], None]


class ReadyMemory:
    """Holds ``num_bytes`` of touched memory (within reason); inside ``with``, lets it go as fast as it is used up.

    ``folder`` is where the file without a name lies. Raises OSError if none can be made there.
    """

    def __init__(self, num_bytes: int, folder: Path, progress: Progress | None = None) -> None:
        size = min(num_bytes, int(psutil.virtual_memory().available * SHARE_OF_AVAILABLE))
        self._starts = list(range(0, size, CHUNK_BYTES))
        self._hole = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  closed by __exit__
        os.ftruncate(self._hole.fileno(), len(self._starts) * CHUNK_BYTES)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for done, _ in enumerate(pool.map(self._touch, self._starts), 1):
                if progress:
                    progress(done * CHUNK_BYTES, len(self._starts) * CHUNK_BYTES)
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
        self._hole.close()

    def _touch(self, start: int) -> None:
        buffer = bytearray(_READ_BYTES)
        for offset in range(start, start + CHUNK_BYTES, _READ_BYTES):
            os.preadv(self._hole.fileno(), [buffer], offset)

    def _hand_out(self) -> None:
        with Path("/proc/meminfo").open("rb", buffering=0) as meminfo:
            floor_bytes = _free_bytes(meminfo) + min(AHEAD_BYTES, CHUNK_BYTES * len(self._starts))
            while self._starts:
                while self._starts and _free_bytes(meminfo) < floor_bytes:
                    os.posix_fadvise(self._hole.fileno(), self._starts.pop(), CHUNK_BYTES, os.POSIX_FADV_DONTNEED)
                if self._ended.wait(LOOK_EVERY_S):
                    return


def _free_bytes(meminfo: RawIOBase) -> int:
    """Return what MemFree says; psutil reads ten times as much for it."""
    meminfo.seek(0)
    text = meminfo.read(256) or b""
    return int(text[text.index(b"MemFree:") + 8 :].split(maxsplit=1)[0]) * 1024
