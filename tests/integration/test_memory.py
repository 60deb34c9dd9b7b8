"""Memory made ready for a run is let go as it is used, and all of it at the end."""

import threading

import psutil

from minibit.launcher.memory import CHUNK_BYTES, ReadyMemory


def resident_bytes():
    """Return how much memory this process holds."""
    return psutil.Process().memory_info().rss


def test_it_is_held_and_then_let_go():
    """What stayed allocated would be missing from the swarm it was made for."""
    before = resident_bytes()
    ready = ReadyMemory(8 * CHUNK_BYTES)
    assert resident_bytes() - before >= 7 * CHUNK_BYTES
    with ready:
        assert any(thread.name == "memory" for thread in threading.enumerate())
    assert resident_bytes() - before <= 2 * CHUNK_BYTES
    assert not any(thread.name == "memory" for thread in threading.enumerate())


def test_nothing_wanted_holds_nothing():
    """An empty file needs none."""
    before = resident_bytes()
    with ReadyMemory(0):
        assert resident_bytes() - before < CHUNK_BYTES
