"""MiniBit and libtorrent open each other's torrents and agree on every hash."""

import hashlib
from pathlib import Path

import libtorrent as lt
import pytest

from minibit.core.blocks import KIB
from minibit.metainfo import create, loads

BLOCK = 256 * KIB
SIZES_BYTES = [1, 16 * KIB, 16 * KIB + 1, 48 * KIB, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 16 * BLOCK, 19 * BLOCK + 7]

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # libtorrent renames its classes as it goes


def source(directory: Path, size_bytes: int, name: str = "shared Ünï 漢.bin") -> Path:
    path = directory / name
    path.write_bytes(hashlib.shake_128(b"libtorrent").digest(size_bytes))
    return path


def libtorrent_made(path: Path, block_size_bytes: int) -> bytes:
    """Return a hybrid torrent as libtorrent writes it."""
    files = lt.file_storage()
    lt.add_files(files, str(path))
    maker = lt.create_torrent(files, block_size_bytes)
    maker.add_tracker("http://127.0.0.1:9000/announce")
    maker.set_comment("made by another program")
    lt.set_piece_hashes(maker, str(path.parent))
    return lt.bencode(maker.generate())


@pytest.mark.parametrize("size_bytes", SIZES_BYTES)
def test_libtorrent_opens_ours_and_agrees_on_both_info_hashes(tmp_path: Path, size_bytes: int) -> None:
    """Any BitTorrent client must be able to open what MiniBit makes."""
    made = create(source(tmp_path, size_bytes), block_size_bytes=BLOCK, announce="http://127.0.0.1:9000/announce")
    theirs = lt.torrent_info(made.dumps())
    assert str(theirs.info_hashes().v1) == made.info_hash
    assert str(theirs.info_hashes().v2) == made.info_hash_v2
    assert (theirs.total_size(), theirs.num_pieces(), theirs.num_files()) == (size_bytes, made.num_blocks, 1)
    assert theirs.name() == made.name
    assert [tracker.url for tracker in theirs.trackers()] == [made.announce]


@pytest.mark.parametrize("size_bytes", SIZES_BYTES)
def test_ours_opens_libtorrents_and_agrees_on_every_hash(tmp_path: Path, size_bytes: int) -> None:
    """A torrent made elsewhere must give the swarm its own identity and the same block roots."""
    path = source(tmp_path, size_bytes)
    data = libtorrent_made(path, BLOCK)
    theirs = lt.torrent_info(data)
    read, made = loads(data), create(path, block_size_bytes=BLOCK)
    assert (read.info_hash, read.info_hash_v2) == (str(theirs.info_hashes().v1), str(theirs.info_hashes().v2))
    assert (read.name, read.geometry, read.pieces_root) == (made.name, made.geometry, made.pieces_root)
    assert read.block_roots == made.block_roots
    assert read.info == made.info
    assert read.announce == "http://127.0.0.1:9000/announce"


@pytest.mark.parametrize("block_size_bytes", [16 * KIB, 64 * KIB, 4096 * KIB])
def test_both_make_the_same_torrent_at_every_block_size(tmp_path: Path, block_size_bytes: int) -> None:
    """The smallest block has one leaf, the largest 256; the tree must be right at both ends."""
    path = source(tmp_path, 4096 * KIB + 20_000, "plain.bin")
    assert loads(libtorrent_made(path, block_size_bytes)).info == create(path, block_size_bytes=block_size_bytes).info


def test_libtorrent_refuses_an_empty_file(tmp_path: Path) -> None:
    """The command line tells people that other clients refuse an empty swarm; the day they do not, that must change."""
    made = create(source(tmp_path, 0))
    with pytest.raises(RuntimeError):
        lt.torrent_info(made.dumps())
