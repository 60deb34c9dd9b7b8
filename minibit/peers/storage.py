"""Where a peer keeps its blocks: a file on disk, or (in a simulation) memory.

A file under way is ``NAME.part``, allocated up front and sparse; it gets its name when the last block is in, so nobody
mistakes half a file for a whole one. A block is written only after its hash matched. Nothing is flushed to the disk for
each block: after a crash of the machine the restart verifies every block anyway. ``fsync_when_complete`` flushes once,
before the file gets its name.
"""

import contextlib
import errno
import os
from collections.abc import Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Protocol

from minibit.core.blocks import MIN_BLOCK_SIZE_BYTES, Geometry
from minibit.errors import StorageError
from minibit.metainfo import BlockHasher, Metainfo

PART_SUFFIX = ".part"
NAME_MAX_BYTES = 255  # of every file system in common use
Progress = Callable[[int, int], None]


class Storage(Protocol):
    """What a peer needs of its storage."""

    geometry: Geometry

    def open(self, progress: Progress | None = None) -> list[int]:
        """Make ready; return the blocks that are there and sound."""

    def expected_length(self, index: int) -> int | None:
        """Return how long the block must be; None if only its content tells."""

    def hasher(self, index: int) -> "Hasher":
        """Return a hasher to be fed the block while it arrives."""

    def write(self, index: int, data: memoryview) -> None:
        """Keep a block whose hash matched."""

    def read(self, index: int) -> bytes:
        """Return a block that is owned."""

    def extent(self, index: int) -> tuple[int, int, int] | None:
        """Return (descriptor, offset, length) of a block that the kernel can send, or None."""

    def complete(self) -> None:
        """Every block is in: give the file its name."""

    def close(self) -> None:
        """Let go of the file."""


class Hasher(Protocol):
    """Checks a block while it arrives."""

    def update(self, data: memoryview) -> None:
        """Take in the next part."""

    def matches(self) -> bool:
        """Whether what was taken in is the block."""


def _part_name(metainfo: Metainfo) -> str:
    name = metainfo.name + PART_SUFFIX
    return name if len(os.fsencode(name)) <= NAME_MAX_BYTES else metainfo.info_hash + PART_SUFFIX


@contextlib.contextmanager
def _one_line(what: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = "the disk is full" if error.errno == errno.ENOSPC else (error.strerror or str(error))
        raise StorageError(f"cannot {what} {path}: {reason}") from error


class _BlockCheck:
    """Compares an arriving block with its BEP 52 root."""

    def __init__(self, hasher: BlockHasher, root: bytes) -> None:
        self.update = hasher.update
        self._hasher = hasher
        self._root = root

    def matches(self) -> bool:
        return self._hasher.root() == self._root


class FileStorage:
    """The blocks of one file on disk."""

    def __init__(self, metainfo: Metainfo, directory: Path, *, seed: bool = False, fsync_when_complete: bool) -> None:
        self.metainfo = metainfo
        self.geometry = metainfo.geometry
        self.path = Path(directory) / metainfo.name
        self._part = self.path.with_name(_part_name(metainfo))
        self._seed = seed
        self._fsync = fsync_when_complete
        self._descriptor = -1

    def open(self, progress: Progress | None = None) -> list[int]:
        """Open or allocate the file; return the indices of the blocks on it that are whole and match their hashes.

        Raises StorageError if the directory cannot be written, or if a seed's file is missing or is another one.
        """
        present = self.path.exists()
        if self._seed or present:
            with _one_line("open", self.path):
                self._descriptor = os.open(self.path, os.O_RDONLY)
            owned = self._verified(progress)
            if len(owned) == self.geometry.num_blocks:
                return owned
            self.close()
            if self._seed:
                raise StorageError(
                    f"{self.path} is not the file that the torrent describes: "
                    f"{len(owned)} of {self.geometry.num_blocks} blocks match"
                )
            raise StorageError(f"{self.path} exists and is not the file that the torrent describes; move it away")
        return self._open_part(progress)

    def _open_part(self, progress: Progress | None) -> list[int]:
        resuming = self._part.exists()
        with _one_line("write", self._part):
            self._part.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self._part, os.O_RDWR | os.O_CREAT, 0o644)
            if os.fstat(self._descriptor).st_size != self.geometry.length_bytes:
                os.ftruncate(self._descriptor, self.geometry.length_bytes)
        return self._verified(progress) if resuming else []

    def _verified(self, progress: Progress | None) -> list[int]:
        total = self.geometry.num_blocks
        if os.fstat(self._descriptor).st_size != self.geometry.length_bytes:
            return []
        owned = []
        for index in range(total):
            if self.metainfo.verify(index, self.read(index)):
                owned.append(index)
            if progress:
                progress(index + 1, total)
        return owned

    def expected_length(self, index: int) -> int | None:
        """Return the length of the block in bytes."""
        return self.geometry.block_length_bytes(index)

    def hasher(self, index: int) -> Hasher:
        """Return a check of this block against the torrent."""
        return _BlockCheck(self.metainfo.hasher(index), self.metainfo.block_roots[index])

    def write(self, index: int, data: memoryview) -> None:
        """Write a block; raise StorageError (disk full, …)."""
        offset = self.geometry.offset_bytes(index)
        with _one_line("write", self._part):
            while data:
                written = os.pwrite(self._descriptor, data, offset)
                data, offset = data[written:], offset + written

    def read(self, index: int) -> bytes:
        """Return the block as it is on disk."""
        with _one_line("read", self.path):
            length = self.geometry.block_length_bytes(index)
            return os.pread(self._descriptor, length, self.geometry.offset_bytes(index))

    def extent(self, index: int) -> tuple[int, int, int]:
        """Return where the kernel finds the block."""
        return self._descriptor, self.geometry.offset_bytes(index), self.geometry.block_length_bytes(index)

    def complete(self) -> None:
        """Flush if asked to, and give the finished file its name."""
        if not self._part.exists():
            return
        with _one_line("finish", self.path):
            if self._fsync:
                os.fsync(self._descriptor)
            self._part.replace(self.path)

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class _SameText:
    """Compares an arriving simulated block with what it must be."""

    def __init__(self, expected: bytes) -> None:
        self._expected = expected
        self._arrived = b""

    def update(self, data: memoryview) -> None:
        self._arrived += data

    def matches(self) -> bool:
        return self._arrived == self._expected


class SimulatedStorage:
    """Blocks without a file behind them; their content follows from the file's name and the index alone."""

    def __init__(self, total_blocks: int, file_name: str) -> None:
        self.geometry = Geometry(total_blocks * MIN_BLOCK_SIZE_BYTES, MIN_BLOCK_SIZE_BYTES)
        self.blocks: MutableMapping[int, bytes] = {}
        self._file_name = file_name

    def content(self, index: int) -> bytes:
        """Return what block ``index`` of this file holds, the same for every peer."""
        return f"Content of block {index} of {self._file_name}".encode()

    def open(self, progress: Progress | None = None) -> list[int]:  # noqa: ARG002  the protocol
        """Return the indices of the blocks in memory."""
        return sorted(self.blocks)

    def expected_length(self, index: int) -> int | None:  # noqa: ARG002  the protocol
        """Return None: a simulated block is as long as its text."""
        return None

    def hasher(self, index: int) -> Hasher:
        """Return a check of this block against its text."""
        return _SameText(self.content(index))

    def write(self, index: int, data: memoryview) -> None:
        """Keep a block."""
        self.blocks[index] = bytes(data)

    def read(self, index: int) -> bytes:
        """Return a block; one that was marked as owned without content has the content it must have."""
        data: bytes | str = self.blocks.get(index) or self.content(index)
        return data.encode() if isinstance(data, str) else data

    def extent(self, index: int) -> None:  # noqa: ARG002  the protocol
        """Return None: there is no file to send from."""
        return

    def complete(self) -> None:
        """Nothing to do: memory needs no name."""

    def close(self) -> None:
        """Nothing to do: memory needs no closing."""
