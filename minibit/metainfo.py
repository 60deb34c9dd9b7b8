"""One file's ``.torrent``: hybrid v1 (BEP 3) + v2 (BEP 52), created by streaming, read with distrust.

MiniBit's *block* is BitTorrent's *piece*; the keys of the format keep their own names. What identifies a swarm is the
info dictionary's exact bytes: they are kept as read, and nothing is accepted that would not encode to the same bytes
again. A block is verified by its v2 merkle root (SHA-256); the v1 hashes are written for other clients and checked for
their number only. Nesting and count of values are bounded before a decoder sees hostile bytes.
"""

import hashlib
import os
import re
import secrets
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, TypeVar

from bencode2 import BencodeDecodeError, bdecode, bencode

from minibit.core.blocks import KIB, MIB, Geometry, auto_block_size_bytes, check_block_size
from minibit.errors import MetainfoError, StorageError, UsageError

Buffer: TypeAlias = bytes | bytearray | memoryview
Progress: TypeAlias = Callable[[int, int], None]

LEAF_SIZE_BYTES = 16 * KIB  # BEP 52: what one leaf of the hash tree covers
V1_HASH_BYTES = 20
V2_HASH_BYTES = 32
META_VERSION = 2  # BEP 52's
MAX_LENGTH_BYTES = 2**63 - 1  # off_t: no file system holds more
MAX_NAME_BYTES = 255  # NAME_MAX of Linux file systems
MAX_TORRENT_BYTES = 256 * MIB  # 5 million blocks: 20 TB in blocks of 4 MiB
MAX_DEPTH = 64  # a one-file torrent needs 5
MAX_VALUES = 200_000  # a one-file torrent has about 20; one byte of input can cost 100 bytes of objects

_T = TypeVar("_T")
_KINDS: dict[type, str] = {int: "an integer", bytes: "a string", dict: "a dictionary", list: "a list"}
_TOKEN = re.compile(rb"(?P<size>\d{1,10}):|i-?\d{1,20}e|[dle]")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


def _zero_subtrees() -> tuple[bytes, ...]:
    """Return the root of an all-padding tree of 2**i leaves at place ``i``; BEP 52: a leaf beyond the file is zero."""
    hashes = [bytes(V2_HASH_BYTES)]
    for _ in range(MAX_LENGTH_BYTES.bit_length()):
        hashes.append(hashlib.sha256(hashes[-1] * 2).digest())
    return tuple(hashes)


_ZERO_SUBTREES = _zero_subtrees()


def _reduce(nodes: list[bytes], *, level: int, num_levels: int) -> bytes:
    """Return the root ``num_levels`` above nodes that stand ``level`` above the leaves; what is missing is padding."""
    sha256 = hashlib.sha256
    if not nodes:
        return _ZERO_SUBTREES[level + num_levels]
    for height in range(level, level + num_levels):
        if len(nodes) % 2:
            nodes.append(_ZERO_SUBTREES[height])
        pairs = iter(nodes)
        nodes = [sha256(left + right).digest() for left, right in zip(pairs, pairs, strict=True)]
    return nodes[0]


def _levels(num_leaves: int) -> int:
    """Return the height of the smallest binary tree with so many leaves."""
    return (num_leaves - 1).bit_length() if num_leaves else 0


def block_root(data: Buffer, *, pad_to_leaves: int) -> bytes:
    """Return the BEP 52 merkle root, 32 bytes, over 16 KiB leaves of SHA-256, padded with zero hashes.

    ``pad_to_leaves`` is a power of two. Raise ValueError if the data has more leaves than that. Copies nothing.
    """
    sha256 = hashlib.sha256
    view = memoryview(data).cast("B")
    leaves = [sha256(view[start : start + LEAF_SIZE_BYTES]).digest() for start in range(0, len(view), LEAF_SIZE_BYTES)]
    if len(leaves) > pad_to_leaves:
        raise ValueError(f"{len(view)} bytes exceed {pad_to_leaves} leaves of {LEAF_SIZE_BYTES} bytes")
    return _reduce(leaves, level=0, num_levels=_levels(pad_to_leaves))


class BlockHasher:
    """The same root as ``block_root``, from chunks of any size: a block is hashed while it is received."""

    __slots__ = ("_filled_bytes", "_leaf", "_leaves", "_pad_to_leaves")

    def __init__(self, pad_to_leaves: int) -> None:
        self._pad_to_leaves = pad_to_leaves
        self._leaves: list[bytes] = []
        self._leaf = hashlib.sha256()
        self._filled_bytes = 0  # of the leaf under way, always less than a whole leaf

    def update(self, data: Buffer) -> None:
        """Take the next bytes in order. Raise ValueError, and take nothing, if they are more than the leaves hold."""
        view = memoryview(data).cast("B")
        received_bytes = len(self._leaves) * LEAF_SIZE_BYTES + self._filled_bytes
        if received_bytes + len(view) > self._pad_to_leaves * LEAF_SIZE_BYTES:
            raise ValueError(f"a block has at most {self._pad_to_leaves} leaves of {LEAF_SIZE_BYTES} bytes")
        start = 0
        while start < len(view):
            part = view[start : start + LEAF_SIZE_BYTES - self._filled_bytes]
            self._leaf.update(part)
            self._filled_bytes += len(part)
            start += len(part)
            if self._filled_bytes == LEAF_SIZE_BYTES:
                self._leaves.append(self._leaf.digest())
                self._leaf = hashlib.sha256()
                self._filled_bytes = 0

    def root(self) -> bytes:
        """Return the root, 32 bytes, of what was taken so far; more may follow."""
        leaves = [*self._leaves, self._leaf.digest()] if self._filled_bytes else list(self._leaves)
        return _reduce(leaves, level=0, num_levels=_levels(self._pad_to_leaves))


def _pad_to_leaves(geometry: Geometry) -> int:
    """Return how many leaves a block's tree has: a whole block's, or for a file of one block the next power of two."""
    if geometry.num_blocks > 1:
        return geometry.block_size_bytes // LEAF_SIZE_BYTES
    return 1 << _levels(-(-geometry.length_bytes // LEAF_SIZE_BYTES))


def _pieces_root(block_roots: tuple[bytes, ...], geometry: Geometry) -> bytes:
    """Return the root of the whole file's tree; an empty file has none (``b""``)."""
    if not block_roots:
        return b""
    height = _levels(_pad_to_leaves(geometry))
    return _reduce(list(block_roots), level=height, num_levels=_levels(len(block_roots)))


@dataclass(frozen=True, slots=True)
class Metainfo:
    """What a ``.torrent`` says of one file.

    ``name`` is one path component. ``block_roots`` holds 32 bytes a block, ``pieces_root`` 32 bytes (``b""`` for an
    empty file, which has no blocks). ``info`` is the bencoded info dictionary exactly as read or written; ``info_hash``
    is its SHA-1 (40 hex digits), ``info_hash_v2`` its SHA-256 (64).
    """

    name: str
    geometry: Geometry
    pieces_root: bytes
    block_roots: tuple[bytes, ...] = field(repr=False)
    announce: str | None
    info: bytes = field(repr=False)
    info_hash: str = field(init=False, compare=False)  # kept: a message names it, and info may be megabytes long
    info_hash_v2: str = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "info_hash", hashlib.sha1(self.info, usedforsecurity=False).hexdigest())
        object.__setattr__(self, "info_hash_v2", hashlib.sha256(self.info).hexdigest())

    @property
    def num_blocks(self) -> int:
        """How many blocks the file has; an empty file has none."""
        return self.geometry.num_blocks

    @property
    def length_bytes(self) -> int:
        """How long the file is."""
        return self.geometry.length_bytes

    @property
    def block_size_bytes(self) -> int:
        """How long every block but the last is."""
        return self.geometry.block_size_bytes

    def verify(self, index: int, data: Buffer) -> bool:
        """Whether these bytes are block ``index``: its length and its merkle root. Raise IndexError out of range."""
        if memoryview(data).nbytes != self.geometry.block_length_bytes(index):
            return False
        return block_root(data, pad_to_leaves=_pad_to_leaves(self.geometry)) == self.block_roots[index]

    def hasher(self, index: int) -> BlockHasher:
        """Return a hasher whose ``root()`` is ``block_roots[index]`` once the whole block went in. Raise IndexError."""
        self.geometry.offset_bytes(index)  # refuses a block that does not exist
        return BlockHasher(_pad_to_leaves(self.geometry))

    def dumps(self) -> bytes:
        """Return the bencoded ``.torrent``: announce, info, piece layers, and nothing that varies from day to day."""
        layers = {self.pieces_root: b"".join(self.block_roots)} if self.num_blocks > 1 else {}
        announce = b"8:announce" + bencode(self.announce.encode()) if self.announce is not None else b""
        return b"".join((b"d", announce, b"4:info", self.info, b"12:piece layers", bencode(layers), b"e"))


def create(
    path: Path,
    *,
    block_size_bytes: int | None = None,
    announce: str | None = None,
    progress: Progress | None = None,
) -> Metainfo:
    """Return the metainfo of a file, read once from front to back in memory that does not grow with it.

    ``block_size_bytes`` is a power of two from 16 KiB to 4 MiB; None chooses it from the length.
    ``progress(done_bytes, total_bytes)`` is called after each block. Raise UsageError if the file cannot be read,
    changes meanwhile, or has a name that no other machine could store.
    """
    try:
        with _open_regular(path) as source:
            name = _checked_name(os.fsencode(path.name))
            length_bytes = os.fstat(source.fileno()).st_size
            geometry = Geometry(length_bytes, _chosen_block_size(block_size_bytes, length_bytes))
            block_roots, pieces = _hash_blocks(source, geometry, progress)
            if len(block_roots) < geometry.num_blocks or source.read(1):
                raise UsageError(f"{path} changed while it was being read")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    pieces_root = _pieces_root(block_roots, geometry)
    info = _encode_info(name, geometry, pieces_root, pieces)
    return Metainfo(name, geometry, pieces_root, block_roots, announce, info)


def loads(data: bytes) -> Metainfo:
    """Return what a bencoded ``.torrent`` says. Raise MetainfoError, in one line, if it is malformed or hostile.

    Keys that MiniBit has no use for are ignored (inside info they stay part of its bytes).
    """
    top = _decode(data)
    info = _get(top, "info", dict, "the torrent")
    _check_hybrid(info)
    raw_name = _get(info, "name", bytes, "info")
    name = _checked_name(raw_name)
    leaf = _file_tree_leaf(info, raw_name)
    geometry = _read_geometry(info, leaf)
    pieces_root = _read_pieces_root(leaf, geometry)
    block_roots = _read_block_roots(top, geometry, pieces_root)
    announce = _text("announce", _get(top, "announce", bytes, "the torrent")) if b"announce" in top else None
    return Metainfo(name, geometry, pieces_root, block_roots, announce, bencode(info))


def read(path: Path) -> Metainfo:
    """Return what the ``.torrent`` at ``path`` says. Raise UsageError if it cannot be read, MetainfoError as loads."""
    try:
        with _open_regular(path) as source:
            data = source.read(MAX_TORRENT_BYTES + 1)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    try:
        return loads(data)
    except MetainfoError as error:
        raise MetainfoError(f"{path}: {error}") from error


def write(metainfo: Metainfo, path: Path) -> None:
    """Store the ``.torrent`` so that ``path`` never shows a part of it. Raise StorageError if the disk refuses."""
    temporary = path.with_name(f".minibit-{secrets.token_hex(8)}.tmp")
    try:
        try:
            with temporary.open("xb") as target:
                target.write(metainfo.dumps())
                target.flush()
                os.fsync(target.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error


def _open_regular(path: Path) -> BinaryIO:
    """Open a file for reading; raise UsageError for anything else (a FIFO would block, a device never end), OSError."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise UsageError(f"{path} is {'a directory' if path.is_dir() else 'not a regular file'}; name a file")
    return path.open("rb")


def _chosen_block_size(block_size_bytes: int | None, length_bytes: int) -> int:
    if block_size_bytes is None:
        return auto_block_size_bytes(length_bytes)
    try:
        return check_block_size(block_size_bytes)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _hash_blocks(source: BinaryIO, geometry: Geometry, progress: Progress | None) -> tuple[tuple[bytes, ...], bytes]:
    """Return the merkle root of each block and the v1 SHA-1 hashes in a row; fewer of them if the file ends early."""
    buffer = memoryview(bytearray(min(geometry.block_size_bytes, geometry.length_bytes)))
    pad_to_leaves = _pad_to_leaves(geometry)
    roots: list[bytes] = []
    pieces = bytearray()
    for index in range(geometry.num_blocks):
        block = buffer[: geometry.block_length_bytes(index)]
        if source.readinto(block) != len(block):  # type: ignore[attr-defined]  # BinaryIO lacks what open() returns
            break
        roots.append(block_root(block, pad_to_leaves=pad_to_leaves))
        pieces += hashlib.sha1(block, usedforsecurity=False).digest()
        if progress:
            progress(geometry.offset_bytes(index) + len(block), geometry.length_bytes)
    return tuple(roots), bytes(pieces)


def _encode_info(name: str, geometry: Geometry, pieces_root: bytes, pieces: bytes) -> bytes:
    leaf: dict[bytes, Any] = {b"length": geometry.length_bytes}
    if pieces_root:
        leaf[b"pieces root"] = pieces_root
    info = {
        b"file tree": {name.encode(): {b"": leaf}},
        b"length": geometry.length_bytes,
        b"meta version": META_VERSION,
        b"name": name.encode(),
        b"piece length": geometry.block_size_bytes,
        b"pieces": pieces,
    }
    return bencode(info)


def _decode(data: bytes) -> dict[bytes, Any]:
    """Return the top-level dictionary of bounded, canonical bencode."""
    if len(data) > MAX_TORRENT_BYTES:
        raise MetainfoError(f"a .torrent of more than {MAX_TORRENT_BYTES // MIB} MiB is not read")
    _check_tokens(data)
    try:
        top = bdecode(data)
    except BencodeDecodeError as error:
        raise MetainfoError(f"not bencode: {error}") from error
    if not isinstance(top, dict):
        raise MetainfoError(f"the torrent is {_KINDS[type(top)]}, not a dictionary")
    if bencode(top) != data:  # the info-hash is over the bytes as they came, so a lenient decoder must not pass
        raise MetainfoError("not canonical bencode: encoding it again gives other bytes")
    return top


def _check_tokens(data: bytes) -> None:
    """Refuse, without recursion, what could exhaust a decoder: deep nesting, endless numbers, millions of values."""
    position_bytes = depth = 0
    for _ in range(MAX_VALUES):
        if position_bytes >= len(data):
            raise MetainfoError(f"not bencode: cut short, it ends at byte {len(data)}")
        token = _TOKEN.match(data, position_bytes)
        if token is None:
            raise MetainfoError(f"not bencode: nothing that can be read at byte {position_bytes}")
        position_bytes = token.end() + int(token["size"] or 0)
        depth += {b"d": 1, b"l": 1, b"e": -1}.get(token[0], 0)
        if depth > MAX_DEPTH:
            raise MetainfoError(f"nested deeper than {MAX_DEPTH} levels")
        if depth <= 0:
            break
    else:
        raise MetainfoError(f"more than {MAX_VALUES} values; a torrent of one file has about 20")
    if position_bytes < len(data):
        raise MetainfoError(f"{len(data) - position_bytes} trailing bytes after the end of the torrent")


def _get(table: dict[bytes, Any], key: str, kind: type[_T], where: str) -> _T:
    """Return a value of the right type; raise MetainfoError that names the key."""
    value = table.get(key.encode())
    if value is None:
        raise MetainfoError(f"{where} has no key '{key}'")
    if not isinstance(value, kind):
        raise MetainfoError(f"'{key}' of {where} is {_KINDS[type(value)]}, not {_KINDS[kind]}")
    return value


def _text(what: str, raw: bytes) -> str:
    """Return text that is safe to show on one line of a terminal."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise MetainfoError(f"the {what} is not valid UTF-8") from error
    if _CONTROL.search(text):
        raise MetainfoError(f"the {what} holds control characters")
    return text


def _checked_name(raw: bytes) -> str:
    """Return the name as text; raise MetainfoError unless it is one plain path component that any machine can store."""
    if len(raw) > MAX_NAME_BYTES:
        raise MetainfoError(f"the name is {len(raw)} bytes long; at most {MAX_NAME_BYTES} are allowed")
    name = _text("name", raw)
    if name in {"", ".", ".."} or "/" in name or "\\" in name:
        raise MetainfoError(f"the name {name!r} is not a plain file name")
    return name


def _check_hybrid(info: dict[bytes, Any]) -> None:
    is_v1 = b"pieces" in info
    is_v2 = b"file tree" in info or b"meta version" in info
    if is_v1 != is_v2:
        only = "v1" if is_v1 else "v2"
        raise MetainfoError(
            f"a {only}-only torrent; MiniBit needs a hybrid of v1 and v2: make one with minibit torrent"
        )
    if b"files" in info:
        raise MetainfoError("the torrent holds several files; MiniBit shares one file")
    version_number = _get(info, "meta version", int, "info")
    if version_number != META_VERSION:
        raise MetainfoError(f"'meta version' of info is {version_number}; only {META_VERSION} is known")


def _file_tree_leaf(info: dict[bytes, Any], raw_name: bytes) -> dict[bytes, Any]:
    """Return what v2 says of the one file; raise MetainfoError if there are others or v1 names it otherwise."""
    tree = _get(info, "file tree", dict, "info")
    if len(tree) != 1:
        raise MetainfoError(f"'file tree' of info holds {len(tree)} files; MiniBit shares one file")
    if raw_name not in tree:
        raise MetainfoError("v1 and v2 disagree on the name: 'file tree' of info holds another file")
    node = tree[raw_name]
    if not isinstance(node, dict) or len(node) != 1 or not isinstance(node.get(b""), dict):
        raise MetainfoError("'file tree' of info holds a directory, or nothing; MiniBit shares one file")
    leaf: dict[bytes, Any] = node[b""]
    return leaf


def _read_geometry(info: dict[bytes, Any], leaf: dict[bytes, Any]) -> Geometry:
    length_bytes = _get(info, "length", int, "info")
    if not 0 <= length_bytes <= MAX_LENGTH_BYTES:
        raise MetainfoError(f"'length' of info is {length_bytes}; it must be from 0 to {MAX_LENGTH_BYTES} bytes")
    v2_length_bytes = _get(leaf, "length", int, "'file tree'")
    if v2_length_bytes != length_bytes:
        raise MetainfoError(f"v1 and v2 disagree on the length: {length_bytes} and {v2_length_bytes} bytes")
    try:
        geometry = Geometry(length_bytes, check_block_size(_get(info, "piece length", int, "info")))
    except ValueError as error:
        raise MetainfoError(f"'piece length' of info: {error}") from error
    _check_size("'pieces' of info", _get(info, "pieces", bytes, "info"), geometry.num_blocks * V1_HASH_BYTES)
    return geometry


def _check_size(where: str, hashes: bytes, size_bytes: int) -> None:
    if len(hashes) != size_bytes:
        raise MetainfoError(f"{where} is {len(hashes)} bytes long; a file of this length needs {size_bytes}")


def _read_pieces_root(leaf: dict[bytes, Any], geometry: Geometry) -> bytes:
    if not geometry.length_bytes:
        return b""
    root = _get(leaf, "pieces root", bytes, "'file tree'")
    _check_size("'pieces root' of 'file tree'", root, V2_HASH_BYTES)
    return root


def _read_block_roots(top: dict[bytes, Any], geometry: Geometry, pieces_root: bytes) -> tuple[bytes, ...]:
    """Return one root a block, proven by the file's; BEP 52: only a file of more than one block has a piece layer."""
    if geometry.num_blocks <= 1:
        return (pieces_root,) * geometry.num_blocks
    layer = _get(top, "piece layers", dict, "the torrent").get(pieces_root)
    if not isinstance(layer, bytes):
        raise MetainfoError("'piece layers' of the torrent has no string for the file's pieces root")
    _check_size("the piece layer", layer, geometry.num_blocks * V2_HASH_BYTES)
    roots = tuple(layer[start : start + V2_HASH_BYTES] for start in range(0, len(layer), V2_HASH_BYTES))
    if _pieces_root(roots, geometry) != pieces_root:
        raise MetainfoError("the piece layer does not hash to the file's pieces root")
    return roots
