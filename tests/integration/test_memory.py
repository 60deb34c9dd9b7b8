"""Memory made ready for a run is let go as it is used, and all of it at the end."""

import threading
import time

import psutil

from minibit.launcher import memory
from minibit.launcher.memory import CHUNK_BYTES, ReadyMemory


def file_system(path):
    """Return the type of the file system that holds this path."""
    mounts = [part for part in psutil.disk_partitions(all=True) if path.is_relative_to(part.mountpoint)]
    return max(mounts, key=lambda part: len(part.mountpoint)).fstype if mounts else ""


def test_it_is_held_as_cache_and_then_let_go(tmp_path):
    """What stayed allocated would be missing from the swarm it was made for."""
    told = []
    before = psutil.virtual_memory().cached
    ready = ReadyMemory(16 * CHUNK_BYTES, tmp_path, lambda done, total: told.append((done, total)))
    held = psutil.virtual_memory().cached - before
    if file_system(tmp_path) != "tmpfs":
        assert held >= 12 * CHUNK_BYTES
    with ready:
        assert any(thread.name == "memory" for thread in threading.enumerate())
    assert psutil.virtual_memory().cached - before <= 4 * CHUNK_BYTES
    assert not any(thread.name == "memory" for thread in threading.enumerate())
    assert told == [(n * CHUNK_BYTES, 16 * CHUNK_BYTES) for n in range(1, 17)]
    assert list(tmp_path.iterdir()) == []


def test_it_is_handed_out_as_the_free_memory_shrinks(tmp_path, monkeypatch, wait_until):
    """The pages let go are those that the swarm uses next."""
    free_bytes = [1000 * CHUNK_BYTES]
    monkeypatch.setattr(memory, "_free_bytes", lambda _meminfo: free_bytes[0])
    monkeypatch.setattr(memory.os, "posix_fadvise", lambda *_: free_bytes.__setitem__(0, free_bytes[0] + CHUNK_BYTES))
    ready = ReadyMemory(16 * CHUNK_BYTES, tmp_path)
    with ready:
        for left in (12, 8, 4, 0):
            wait_until(lambda left=left: len(ready._starts) == left, f"{left} chunks are left")
            time.sleep(0.05)
            assert len(ready._starts) == left
            free_bytes[0] -= 4 * CHUNK_BYTES


def test_nothing_wanted_holds_nothing(tmp_path):
    """An empty file needs none."""
    with ReadyMemory(0, tmp_path) as ready:
        assert ready._starts == []
