"""Metainfo: one hybrid torrent of one file, created, stored and read; hostile bytes are refused in one line."""

import hashlib
import itertools
import os
import pickle
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bencode2 import bdecode, bencode
from hypothesis import given
from hypothesis import strategies as st

from minibit import metainfo
from minibit.core.blocks import KIB, MIB, Geometry
from minibit.errors import MetainfoError, StorageError, UsageError
from minibit.metainfo import BlockHasher, Metainfo, block_root, create, loads, read, write

LEAF = 16 * KIB
SIZES_BYTES = [0, 1, LEAF, LEAF + 1, 3 * LEAF, 4 * LEAF - 1, 4 * LEAF, 4 * LEAF + 1, 9 * LEAF, 37 * LEAF + 5]


def pattern(size_bytes: int) -> bytes:
    return hashlib.shake_128(b"minibit").digest(size_bytes)


def make(directory: Path, content: bytes, name: str = "file.bin", **options: Any) -> Metainfo:
    path = directory / name
    path.write_bytes(content)
    return create(path, **options)


def plain_root(leaves: list[bytes], num_leaves: int) -> bytes:
    """Compute BEP 52's tree the slow way: every padding leaf is really there."""
    nodes = leaves + [bytes(32)] * (num_leaves - len(leaves))
    while len(nodes) > 1:
        nodes = [hashlib.sha256(nodes[i] + nodes[i + 1]).digest() for i in range(0, len(nodes), 2)]
    return nodes[0]


def leaf_hashes(content: bytes) -> list[bytes]:
    return [hashlib.sha256(content[i : i + LEAF]).digest() for i in range(0, len(content), LEAF)]


def next_power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return a torrent of five blocks, the last of them short."""
    directory = tmp_path_factory.mktemp("good")
    return make(directory, pattern(9 * LEAF), block_size_bytes=2 * LEAF, announce="http://127.0.0.1:9000").dumps()


# --- what is written ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size_bytes", SIZES_BYTES)
def test_what_is_created_reads_back_equal(tmp_path: Path, size_bytes: int) -> None:
    """Every shape of file, the empty one too, must survive the way through a .torrent."""
    made = make(tmp_path, pattern(size_bytes), block_size_bytes=4 * LEAF, announce="http://127.0.0.1:9000/announce")
    again = loads(made.dumps())
    assert again == made
    assert (again.info_hash, again.info_hash_v2) == (made.info_hash, made.info_hash_v2)
    assert (again.length_bytes, again.block_size_bytes) == (size_bytes, 4 * LEAF)
    assert again.num_blocks == len(again.block_roots) == -(-size_bytes // (4 * LEAF))


@pytest.mark.parametrize("size_bytes", [size for size in SIZES_BYTES if size])
def test_the_pieces_root_is_the_root_of_the_whole_tree(tmp_path: Path, size_bytes: int) -> None:
    """The root built from block roots must be the one that any client builds leaf by leaf."""
    content = pattern(size_bytes)
    made = make(tmp_path, content, block_size_bytes=4 * LEAF)
    leaves = leaf_hashes(content)
    assert made.pieces_root == plain_root(leaves, next_power_of_two(len(leaves)))


def test_a_file_of_one_block_has_no_piece_layer(tmp_path: Path) -> None:
    """BEP 52 gives a layer only to a file longer than one piece; its hash is the pieces root."""
    made = make(tmp_path, pattern(3 * LEAF), block_size_bytes=4 * LEAF)
    assert made.block_roots == (made.pieces_root,)
    assert bdecode(made.dumps())[b"piece layers"] == {}


def test_the_v1_pieces_are_the_sha1_of_each_block(tmp_path: Path) -> None:
    """A v1 client must be able to verify the same blocks."""
    content = pattern(5 * LEAF + 3)
    info = bdecode(make(tmp_path, content, block_size_bytes=2 * LEAF).info)
    starts = range(0, len(content), 2 * LEAF)
    assert info[b"pieces"] == b"".join(hashlib.sha1(content[i : i + 2 * LEAF]).digest() for i in starts)  # noqa: S324  BEP 3


def test_an_empty_file_is_a_torrent_without_blocks(tmp_path: Path) -> None:
    """A swarm of an empty file is complete at once, so its metainfo must exist."""
    made = make(tmp_path, b"")
    assert (made.num_blocks, made.block_roots, made.pieces_root) == (0, (), b"")
    assert b"pieces root" not in made.dumps()


def test_info_hashes_are_over_the_info_bytes(good: bytes) -> None:
    """Two clients meet only if they hash the same bytes."""
    info = loads(good).info
    assert good.count(b"4:info" + info) == 1
    assert loads(good).info_hash == hashlib.sha1(info).hexdigest()  # noqa: S324  BEP 3
    assert loads(good).info_hash_v2 == hashlib.sha256(info).hexdigest()


@pytest.mark.parametrize("name", ["naïve Ünïcode.txt", "漢字.bin", "🦀 …", "-", "...", ".hidden", "n" * 255])
def test_any_plain_name_is_kept(tmp_path: Path, name: str) -> None:
    """People name files in their own languages."""
    assert loads(make(tmp_path, b"x", name).dumps()).name == name


def test_the_block_size_is_chosen_from_the_length_unless_given(tmp_path: Path) -> None:
    """Without advice a file is cut into at most 128 blocks."""
    assert make(tmp_path, bytes(128 * LEAF)).block_size_bytes == LEAF
    assert make(tmp_path, bytes(128 * LEAF + 1)).block_size_bytes == 2 * LEAF
    assert make(tmp_path, bytes(10), block_size_bytes=MIB).block_size_bytes == MIB


def test_progress_tells_every_block_and_ends_at_the_total(tmp_path: Path) -> None:
    """A large file takes a while to hash, and a bar must reach its end."""
    seen: list[tuple[int, int]] = []
    make(tmp_path, bytes(2 * LEAF + 1), block_size_bytes=LEAF, progress=lambda done, total: seen.append((done, total)))
    total_bytes = 2 * LEAF + 1
    assert seen == [(LEAF, total_bytes), (2 * LEAF, total_bytes), (total_bytes, total_bytes)]


def test_creating_needs_memory_for_one_block_only(tmp_path: Path) -> None:
    """A file larger than memory must be shareable."""
    path = tmp_path / "sparse.bin"
    with path.open("wb") as file:
        file.truncate(64 * MIB)
    tracemalloc.start()
    try:
        made = create(path)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert made.length_bytes == 64 * MIB
    assert peak_bytes < 2 * made.block_size_bytes


def test_metainfo_travels_to_another_process(good: bytes) -> None:
    """The launcher hands the metainfo to the processes it starts."""
    made = loads(good)
    again = pickle.loads(pickle.dumps(made))  # noqa: S301  our own bytes
    assert (again, again.info_hash) == (made, made.info_hash)


# --- verifying blocks --------------------------------------------------------------------------------------------


def test_verify_accepts_each_block_and_nothing_else(tmp_path: Path) -> None:
    """A block counts as owned only after it matched, so a wrong, short, long or misplaced one must not pass."""
    content = pattern(5 * LEAF + 7)
    made = make(tmp_path, content, block_size_bytes=2 * LEAF)
    for index in range(made.num_blocks):
        block = content[index * 2 * LEAF : (index + 1) * 2 * LEAF]
        assert made.verify(index, memoryview(block))
        assert not made.verify((index + 1) % made.num_blocks, block)
        assert not made.verify(index, block[:-1])
        assert not made.verify(index, block + b"\0")
        assert not made.verify(index, bytes([block[0] ^ 1]) + block[1:])


@pytest.mark.parametrize("index", [-1, 3])
def test_a_block_that_does_not_exist_is_an_index_error(tmp_path: Path, index: int) -> None:
    """Index -1 must not quietly mean the last block."""
    made = make(tmp_path, pattern(3 * LEAF), block_size_bytes=LEAF)
    with pytest.raises(IndexError):
        made.verify(index, b"x")
    with pytest.raises(IndexError):
        made.hasher(index)


def test_a_hasher_of_the_metainfo_ends_at_the_block_root(tmp_path: Path) -> None:
    """A block hashed while it is received must not need a second pass, also when it is the short last one."""
    content = pattern(5 * LEAF + 7)
    made = make(tmp_path, content, block_size_bytes=4 * LEAF)
    for index in range(made.num_blocks):
        hasher = made.hasher(index)
        hasher.update(content[index * 4 * LEAF : (index + 1) * 4 * LEAF])
        assert hasher.root() == made.block_roots[index]


@given(size_bytes=st.integers(0, 5 * LEAF), spare_levels=st.integers(0, 3))
def test_block_root_equals_the_tree_with_every_padding_leaf(size_bytes: int, spare_levels: int) -> None:
    """The fast root must be the definition's, however much padding there is."""
    leaves = leaf_hashes(content := pattern(size_bytes))
    num_leaves = next_power_of_two(max(1, len(leaves))) << spare_levels
    assert block_root(bytearray(content), pad_to_leaves=num_leaves) == plain_root(leaves, num_leaves)


@given(cuts=st.lists(st.integers(0, 4 * LEAF - 5), max_size=8))
def test_a_hasher_does_not_care_how_the_bytes_are_cut(cuts: list[int]) -> None:
    """The network cuts a block anywhere."""
    content = memoryview(pattern(4 * LEAF - 5))
    hasher = BlockHasher(4)
    edges = [0, *sorted(cuts), len(content)]
    for start, end in itertools.pairwise(edges):
        hasher.update(content[start:end])
        assert hasher.root() == block_root(content[:end], pad_to_leaves=4)


def test_more_bytes_than_the_leaves_hold_are_refused() -> None:
    """A sender that does not stop must not grow the tree of a block."""
    hasher = BlockHasher(2)
    hasher.update(bytes(2 * LEAF))
    with pytest.raises(ValueError, match="2 leaves"):
        hasher.update(b"x")
    with pytest.raises(ValueError, match="exceed 2 leaves"):
        block_root(bytes(2 * LEAF + 1), pad_to_leaves=2)


# --- files that cannot be shared ---------------------------------------------------------------------------------


def assert_one_line(error: BaseException) -> None:
    text = str(error)
    assert text
    assert "\n" not in text
    assert len(text) < 400


def fifo(directory: Path) -> Path:
    os.mkfifo(directory / "fifo")
    return directory / "fifo"


def loop(directory: Path) -> Path:
    (directory / "loop").symlink_to("loop")
    return directory / "loop"


def named(name: bytes) -> Callable[[Path], Path]:
    def build(directory: Path) -> Path:
        path = directory / os.fsdecode(name)
        path.write_bytes(b"x")
        return path

    return build


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda directory: directory / "missing", "cannot read .*missing: No such file"),
        (lambda directory: directory, "is a directory; name a file"),
        (lambda directory: directory / ("n" * 300), "File name too long"),
        (fifo, "is not a regular file"),
        (loop, "symbolic links"),
        (named(b"caf\xe9"), "the name is not valid UTF-8"),
        (named(b"back\\slash"), "not a plain file name"),
        (named(b"two\nlines"), "control characters"),
    ],
)
def test_a_source_that_cannot_be_shared_is_a_usage_error(
    tmp_path: Path, build: Callable[[Path], Path], message: str
) -> None:
    """A mistake on the command line is one line, never a traceback, and a FIFO must not block for ever."""
    with pytest.raises(UsageError, match=message) as caught:
        create(build(tmp_path))
    assert_one_line(caught.value)


def test_an_unreadable_source_is_a_usage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lacking permission is the user's to mend; root may read all, so the refusal is staged."""

    def refuse(*_args: object, **_options: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "secret").write_bytes(b"x")
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UsageError, match=r"cannot read .*secret: Permission denied"):
        create(tmp_path / "secret")
    with pytest.raises(UsageError, match=r"cannot read .*secret: Permission denied"):
        read(tmp_path / "secret")


@pytest.mark.parametrize("block_size_bytes", [0, -1, 1000, 8 * KIB, 8 * MIB])
def test_an_impossible_block_size_is_a_usage_error(tmp_path: Path, block_size_bytes: int) -> None:
    """The format allows powers of two only, and MiniBit from 16 KiB to 4 MiB."""
    with pytest.raises(UsageError, match="power of two from 16 KiB to 4 MiB"):
        make(tmp_path, b"x", block_size_bytes=block_size_bytes)


@pytest.mark.parametrize("size_bytes", [LEAF, 4 * LEAF])
def test_a_file_that_changes_while_it_is_read_is_a_usage_error(tmp_path: Path, size_bytes: int) -> None:
    """Hashes of half an old and half a new file would verify nowhere."""
    path = tmp_path / "busy"
    path.write_bytes(bytes(2 * LEAF))
    with pytest.raises(UsageError, match="changed while it was being read"):
        create(path, block_size_bytes=LEAF, progress=lambda _done, _total: os.truncate(path, size_bytes))


# --- on disk -----------------------------------------------------------------------------------------------------


def test_write_replaces_the_whole_file_or_nothing(tmp_path: Path, good: bytes) -> None:
    """A reader must never see half a torrent, and no temporary file may stay behind."""
    path = tmp_path / "file.torrent"
    path.write_bytes(b"old")
    write(loads(good), path)
    assert read(path) == loads(good)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.torrent"]


def test_a_disk_that_refuses_is_one_line_and_leaves_nothing(tmp_path: Path, good: bytes) -> None:
    """A failed write must clean up after itself."""
    (tmp_path / "taken").mkdir()
    for path in (tmp_path / "taken", tmp_path / "missing" / "x.torrent"):
        with pytest.raises(StorageError, match="cannot write") as caught:
            write(loads(good), path)
        assert_one_line(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["taken"]


def test_a_torrent_that_cannot_be_read_names_its_path(tmp_path: Path) -> None:
    """With many torrents in a folder the message must say which."""
    (tmp_path / "bad.torrent").write_bytes(b"nonsense")
    with pytest.raises(MetainfoError, match=r"bad\.torrent: not bencode"):
        read(tmp_path / "bad.torrent")
    with pytest.raises(UsageError, match="No such file"):
        read(tmp_path / "none.torrent")
    with pytest.raises(UsageError, match="is a directory"):
        read(tmp_path)


def test_a_giant_torrent_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of any size may carry the name .torrent; the limit is lowered here to keep the test small."""
    monkeypatch.setattr(metainfo, "MAX_TORRENT_BYTES", MIB)
    with (tmp_path / "giant.torrent").open("wb") as file:
        file.truncate(64 * MIB)
    with pytest.raises(MetainfoError, match="more than 1 MiB"):
        read(tmp_path / "giant.torrent")


# --- hostile bytes -----------------------------------------------------------------------------------------------

Torrent = dict[bytes, Any]


def put(*path: bytes, value: Any) -> Callable[[Torrent], None]:
    def change(top: Torrent) -> None:
        table = top
        for key in path[:-1]:
            table = table[key]
        table[path[-1]] = value

    return change


def drop(*path: bytes) -> Callable[[Torrent], None]:
    def change(top: Torrent) -> None:
        table = top
        for key in path[:-1]:
            table = table[key]
        del table[path[-1]]

    return change


def rename(name: bytes) -> Callable[[Torrent], None]:
    def change(top: Torrent) -> None:
        info = top[b"info"]
        info[b"name"] = name
        info[b"file tree"] = {name: info[b"file tree"][b"file.bin"]}

    return change


def length(length_bytes: int) -> Callable[[Torrent], None]:
    def change(top: Torrent) -> None:
        top[b"info"][b"length"] = length_bytes
        top[b"info"][b"file tree"][b"file.bin"][b""][b"length"] = length_bytes

    return change


def swap_two_block_roots(top: Torrent) -> None:
    ((root, layer),) = top[b"piece layers"].items()
    top[b"piece layers"][root] = layer[32:64] + layer[:32] + layer[64:]


def cut_the_layer(top: Torrent) -> None:
    ((root, layer),) = top[b"piece layers"].items()
    top[b"piece layers"][root] = layer[:-32]


def v1_only(top: Torrent) -> None:
    drop(b"info", b"file tree")(top)
    drop(b"info", b"meta version")(top)


INFO, TREE, FILE = b"info", b"file tree", b"file.bin"
HOSTILE: dict[str, tuple[Callable[[Torrent], None], str]] = {
    "no info": (drop(INFO), "the torrent has no key 'info'"),
    "info is a list": (put(INFO, value=[]), "'info' of the torrent is a list, not a dictionary"),
    "no name": (drop(INFO, b"name"), "info has no key 'name'"),
    "name is an integer": (put(INFO, b"name", value=1), "'name' of info is an integer, not a string"),
    "name goes up": (rename(b".."), "not a plain file name"),
    "name is here": (rename(b"."), "not a plain file name"),
    "name is empty": (rename(b""), "not a plain file name"),
    "name is absolute": (rename(b"/etc/passwd"), "not a plain file name"),
    "name has parts": (rename(b"../../x"), "not a plain file name"),
    "name is a Windows path": (rename(b"..\\x"), "not a plain file name"),
    "name has NUL": (rename(b"a\0b"), "the name holds control characters"),
    "name moves the cursor": (rename(b"a\x1b[2Jb"), "the name holds control characters"),
    "name is long": (rename(b"n" * 256), "the name is 256 bytes long"),
    "name is not UTF-8": (rename(b"\xff\xfe"), "the name is not valid UTF-8"),
    "names differ": (put(INFO, b"name", value=b"other"), "v1 and v2 disagree on the name"),
    "no length": (drop(INFO, b"length"), "info has no key 'length'"),
    "length is text": (put(INFO, b"length", value=b"9"), "'length' of info is a string, not an integer"),
    "negative length": (length(-1), "'length' of info is -1"),
    "length beyond files": (length(2**63), "'length' of info is 9223372036854775808"),
    "length beyond hashes": (length(2**63 - 1), "'pieces' of info is 100 bytes long"),
    "lengths differ": (put(INFO, b"length", value=9 * LEAF - 1), "v1 and v2 disagree on the length"),
    "no v2 length": (drop(INFO, TREE, FILE, b"", b"length"), "'file tree' has no key 'length'"),
    "no block size": (drop(INFO, b"piece length"), "info has no key 'piece length'"),
    "block size is odd": (put(INFO, b"piece length", value=2 * LEAF + 1), "'piece length' of info: .*power of two"),
    "block size is zero": (put(INFO, b"piece length", value=0), "'piece length' of info: .*power of two"),
    "block size is negative": (put(INFO, b"piece length", value=-LEAF), "'piece length' of info: .*power of two"),
    "block size is small": (put(INFO, b"piece length", value=8 * KIB), "from 16 KiB to 4 MiB"),
    "block size is large": (put(INFO, b"piece length", value=8 * MIB), "from 16 KiB to 4 MiB"),
    "pieces not whole": (put(INFO, b"pieces", value=bytes(99)), "'pieces' of info is 99 bytes long"),
    "pieces too few": (put(INFO, b"pieces", value=bytes(80)), "'pieces' of info is 80 bytes long"),
    "pieces is a dictionary": (put(INFO, b"pieces", value={}), "'pieces' of info is a dictionary, not a string"),
    "several files of v1": (put(INFO, b"files", value=[]), "several files"),
    "several files of v2": (put(INFO, TREE, b"more", value={b"": {}}), "holds 2 files"),
    "no file": (put(INFO, TREE, value={}), "holds 0 files"),
    "a directory": (put(INFO, TREE, FILE, value={b"x": {b"": {}}}), "holds a directory, or nothing"),
    "a directory and a file": (put(INFO, TREE, FILE, b"x", value={}), "holds a directory, or nothing"),
    "a file that is a number": (put(INFO, TREE, FILE, value=3), "holds a directory, or nothing"),
    "no file tree": (drop(INFO, TREE), "info has no key 'file tree'"),
    "no meta version": (drop(INFO, b"meta version"), "info has no key 'meta version'"),
    "a later meta version": (put(INFO, b"meta version", value=3), "'meta version' of info is 3"),
    "v1 only": (v1_only, "v1-only torrent; MiniBit needs a hybrid"),
    "v2 only": (drop(INFO, b"pieces"), "v2-only torrent; MiniBit needs a hybrid"),
    "no pieces root": (drop(INFO, TREE, FILE, b"", b"pieces root"), "'file tree' has no key 'pieces root'"),
    "short pieces root": (put(INFO, TREE, FILE, b"", b"pieces root", value=b"x"), "'pieces root' of 'file tree' is 1"),
    "no layers": (drop(b"piece layers"), "the torrent has no key 'piece layers'"),
    "layers are a list": (put(b"piece layers", value=[]), "'piece layers' of the torrent is a list"),
    "another file's layer": (put(b"piece layers", value={bytes(32): b""}), "no string for the file's pieces root"),
    "layer too short": (cut_the_layer, "the piece layer is 128 bytes long"),
    "layer in another order": (swap_two_block_roots, "does not hash to the file's pieces root"),
    "announce is a list": (put(b"announce", value=[]), "'announce' of the torrent is a list, not a string"),
    "announce is not UTF-8": (put(b"announce", value=b"\xff"), "the announce is not valid UTF-8"),
    "announce has two lines": (put(b"announce", value=b"a\nb"), "the announce holds control characters"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_torrent_is_refused_in_one_clear_line(good: bytes, case: str) -> None:
    """A .torrent comes from strangers; each lie must be named, and none may reach the disk."""
    change, message = HOSTILE[case]
    top = bdecode(good)
    change(top)
    with pytest.raises(MetainfoError, match=message) as caught:
        loads(bencode(top))
    assert_one_line(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "cut short"),
        (b"\x89PNG\r\n\x1a\n", "not bencode"),
        (b"<html>", "not bencode: nothing that can be read at byte 0"),
        (b"d4:infod", "cut short, it ends at byte 8"),
        (b"d4:info999:x", "cut short"),
        (b"e", "not bencode"),
        (b"i1e", "the torrent is an integer, not a dictionary"),
        (b"le", "the torrent is a list, not a dictionary"),
        (b"d1:b0:1:a0:e", "not bencode: .*not sorted"),
        (b"d1:a0:1:a0:e", "not bencode: .*duplicated"),
        (b"di1e0:e", "not bencode"),
        (b"d1:ae", "not bencode"),
        (b"d1:ai01ee", "not bencode"),
        (b"d1:ai" + b"9" * 1_000_000 + b"ee", "not bencode: nothing that can be read at byte 4"),
        (b"99999999999999999999:x", "not bencode"),
        (b"l" * 1_000_000, "nested deeper than 64 levels"),
        (b"d1:a" * 1_000_000, "nested deeper than 64 levels"),
        (b"l" + b"le" * 1_000_000 + b"e", "more than 200000 values"),
    ],
)
def test_bytes_that_are_no_torrent_are_refused_before_they_cost(data: bytes, message: str) -> None:
    """Neither recursion, nor memory, nor a number of a million digits may be had for a small file."""
    with pytest.raises(MetainfoError, match=message) as caught:
        loads(data)
    assert_one_line(caught.value)


def test_trailing_bytes_are_refused(good: bytes) -> None:
    """What follows the torrent belongs to nobody."""
    with pytest.raises(MetainfoError, match="2 trailing bytes"):
        loads(good + b"i1")


def test_a_lenient_decoder_would_be_noticed(good: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the library ever accepts unsorted keys, the info-hash would be over other bytes than those that came."""
    unsorted = good.replace(b"d8:announce", b"d1:z0:8:announce", 1)
    monkeypatch.setattr(metainfo, "bdecode", lambda _data: bdecode(good))
    with pytest.raises(MetainfoError, match="not canonical bencode"):
        loads(unsorted)


@given(cut=st.integers(0, 2**16), value=st.binary(max_size=3))
def test_damage_is_refused_or_changes_nothing_that_counts(good: bytes, cut: int, value: bytes) -> None:
    """Whatever happens to a torrent on its way, reading it ends in a Metainfo or in one line, in nothing else."""
    start = cut % len(good)
    data = good[:start] + value + good[start + len(value) :]
    try:
        again = loads(data)
    except MetainfoError as error:
        assert_one_line(error)
    else:
        assert again.block_roots == loads(good).block_roots


values = st.recursive(
    st.integers(-(2**63), 2**63) | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.binary(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(extra=st.dictionaries(st.binary(min_size=1, max_size=8).map(lambda key: b"x-" + key), values, max_size=4))
def test_foreign_keys_of_info_stay_part_of_its_bytes(good: bytes, extra: dict[bytes, Any]) -> None:
    """Other programs add keys of their own; the info-hash covers them, so they must survive reading and writing."""
    top = bdecode(good)
    top[b"info"] |= extra
    top[b"comment"] = b"ours"
    data = bencode(top)
    again = loads(data)
    assert data.count(b"4:info" + again.info) == 1
    assert loads(again.dumps()) == again


@given(
    length_bytes=st.integers(0, 3 * MIB),
    levels=st.integers(0, 8),
    name=st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\\"), min_size=1, max_size=60),
    announce=st.none() | st.text(st.characters(exclude_categories=["Cs", "Cc"])),
)
def test_any_metainfo_survives_the_way_through_a_torrent(
    length_bytes: int, levels: int, name: str, announce: str | None
) -> None:
    """Name, length, block size and hashes come back as they went, for any of them."""
    geometry = Geometry(length_bytes, LEAF << levels)
    roots = tuple(pattern(32 * geometry.num_blocks)[i * 32 : i * 32 + 32] for i in range(geometry.num_blocks))
    root = metainfo._pieces_root(roots, geometry)
    name = "x" + name  # neither "." nor ".."
    info = metainfo._encode_info(name, geometry, root, bytes(20 * geometry.num_blocks))
    made = Metainfo(name, geometry, root, roots, announce, info)
    assert loads(made.dumps()) == made
