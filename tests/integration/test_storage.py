"""Where a peer keeps its blocks: what a restart finds, what a full or forbidden disk says, files of every length."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from minibit import metainfo
from minibit.errors import StorageError
from minibit.peers.storage import PART_SUFFIX, FileStorage

BLOCK = 16 * 1024


def opened(torrent, folder, **options):
    storage = FileStorage(torrent, folder, fsync_when_complete=False, **options)
    return storage, storage.open()


def write_blocks(torrent, source, folder, indices):
    storage, _ = opened(torrent, folder)
    data = source.read_bytes()
    for index in indices:
        storage.write(index, memoryview(data)[index * BLOCK : (index + 1) * BLOCK])
    storage.close()


# -- resuming ----------------------------------------------------------------------------------------------------------


def test_a_new_file_is_allocated_whole_and_takes_no_room(make_file, tmp_path):
    """A disk that is too small is better noticed by the file system than after an hour; sparse costs nothing."""
    _, torrent = make_file(64 * BLOCK)
    storage, owned = opened(torrent, tmp_path / "new" / "folder")
    part = tmp_path / "new" / "folder" / ("content.bin" + PART_SUFFIX)
    assert owned == []
    assert part.stat().st_size == 64 * BLOCK
    assert part.stat().st_blocks * 512 < BLOCK
    storage.close()


def test_a_restart_owns_what_is_sound_on_disk(make_file, tmp_path):
    """Hours of download survive a crash; what the crash tore is told from what is whole."""
    source, torrent = make_file()
    write_blocks(torrent, source, tmp_path, [0, 3, 8])
    part = tmp_path / ("content.bin" + PART_SUFFIX)
    with part.open("r+b") as file:
        file.seek(3 * BLOCK + 100)
        file.write(b"torn")
    storage, owned = opened(torrent, tmp_path)
    assert owned == [0, 8]
    storage.close()


def test_a_part_of_another_length_is_made_right_and_verified_again(make_file, tmp_path):
    """A crash may leave a file cut short: its sound blocks still count."""
    source, torrent = make_file()
    write_blocks(torrent, source, tmp_path, [0, 1, 8])
    os.truncate(tmp_path / ("content.bin" + PART_SUFFIX), 2 * BLOCK)
    storage, owned = opened(torrent, tmp_path)
    assert owned == [0, 1]
    storage.close()


def test_progress_of_verifying_is_told_block_by_block(make_file):
    """Verifying a large file takes a while; a person wants to see it move."""
    source, torrent = make_file()
    told = []
    storage = FileStorage(torrent, source.parent, seed=True, fsync_when_complete=False)
    assert storage.open(lambda done, total: told.append((done, total))) == list(range(9))
    assert told == [(done, 9) for done in range(1, 10)]
    storage.close()


def test_a_resumed_peer_fetches_only_what_is_missing_or_torn(make_file, tmp_path, start_peer):
    """The point of resuming: bytes that are there are not paid for twice."""
    source, torrent = make_file()
    write_blocks(torrent, source, tmp_path, [0, 1, 2, 3, 8])
    with (tmp_path / ("content.bin" + PART_SUFFIX)).open("r+b") as file:
        file.seek(BLOCK)
        file.write(b"torn")
    start_peer(torrent, source.parent, "seed", seed=True)
    leecher = start_peer(torrent, tmp_path, "leecher")
    assert leecher.wait_complete(20)
    assert (tmp_path / "content.bin").read_bytes() == source.read_bytes()
    assert leecher.report().useful_bytes == 5 * BLOCK


# -- lengths -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, BLOCK, BLOCK + 1, 3 * BLOCK - 1])
def test_files_of_awkward_lengths_arrive_and_get_their_name(size, make_file, tmp_path, start_peer):
    """Empty, one byte, one block, a short last block: off-by-one errors live here."""
    source, torrent = make_file(size)
    start_peer(torrent, source.parent, "seed", seed=True)
    leecher = start_peer(torrent, tmp_path / "leecher", "leecher")
    assert leecher.wait_complete(20)
    assert leecher.file_complete
    assert (tmp_path / "leecher" / "content.bin").read_bytes() == source.read_bytes()
    assert [path.name for path in (tmp_path / "leecher").iterdir()] == ["content.bin"]


def test_a_name_as_long_as_the_file_system_takes_can_be_fetched(make_file, tmp_path, start_peer):
    """The torrent of such a file is valid and its seed runs: a leecher must not fail over a suffix of its own."""
    source, torrent = make_file(BLOCK, name="n" * 251 + ".bin")
    start_peer(torrent, source.parent, "seed", seed=True)
    leecher = start_peer(torrent, tmp_path / "leecher", "leecher")
    assert leecher.wait_complete(20)
    assert (tmp_path / "leecher" / source.name).read_bytes() == source.read_bytes()


# -- what cannot be ----------------------------------------------------------------------------------------------------


def one_line(caught):
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 KiB of its own."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    mount = tmp_path / "disk"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "minibit-test", str(mount)], check=True)
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


def test_a_full_disk_ends_the_peer_with_one_clear_line(make_file, small_disk, start_peer):
    """No other peer can mend it: trading on would download the same blocks for ever."""
    source, torrent = make_file(20 * BLOCK)
    start_peer(torrent, source.parent, "seed", seed=True)
    leecher = start_peer(torrent, small_disk, "leecher", join=False)
    with pytest.raises(StorageError, match="the disk is full") as caught:
        leecher.run()
    assert str(small_disk / "content.bin") in one_line(caught)
    assert not leecher.file_complete
    assert not leecher.wait_complete(0)


def test_a_limit_of_file_size_is_said_in_one_line(make_file, tmp_path):
    """A quota forbids the file from the start; the system's own words must reach the user without a traceback."""
    source, torrent = make_file()
    metainfo.write(torrent, source.with_suffix(".torrent"))
    script = (
        "import resource, sys; from pathlib import Path; from minibit import metainfo\n"
        "from minibit.errors import StorageError; from minibit.peers.storage import FileStorage\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (40000, 40000))\n"
        "torrent = metainfo.read(Path(sys.argv[1]))\n"
        "try: FileStorage(torrent, Path(sys.argv[2]), fsync_when_complete=False).open()\n"
        "except StorageError as error: print(error)\n"
    )
    command = [sys.executable, "-c", script, str(source.with_suffix(".torrent")), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == f"cannot write {tmp_path / 'content.bin.part'}: File too large\n"


def test_a_folder_that_cannot_be_made_is_said_in_one_line(make_file, tmp_path):
    """A file stands where the folder should be: the message names it."""
    _, torrent = make_file()
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(StorageError, match="Not a directory") as caught:
        opened(torrent, tmp_path / "taken" / "folder")
    assert "taken" in one_line(caught)


def test_a_read_only_disk_is_said_in_one_line(make_file, small_disk):
    """A folder that root may write to in every other sense."""
    _, torrent = make_file()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(StorageError, match="Read-only file system") as caught:
        opened(torrent, small_disk)
    assert str(small_disk) in one_line(caught)


@pytest.mark.parametrize("content", [None, b"another file", b"same length"])
def test_a_seed_without_the_right_file_is_refused(make_file, tmp_path, content):
    """A seed of wrong bytes would make every leecher download and discard them."""
    source, torrent = make_file()
    folder = tmp_path / "seed"
    folder.mkdir()
    if content is not None:
        (folder / "content.bin").write_bytes(content.ljust(source.stat().st_size if b"same" in content else 1))
    with pytest.raises(StorageError, match=r"content\.bin") as caught:
        opened(torrent, folder, seed=True)
    assert ("0 of 9 blocks match" if content else "No such file") in one_line(caught)


def test_a_seed_with_one_wrong_block_says_how_many_match(make_file):
    """The operator learns at once whether it is another file or a damaged one."""
    source, torrent = make_file()
    with source.open("r+b") as file:
        file.write(b"damaged")
    with pytest.raises(StorageError, match="8 of 9 blocks match"):
        opened(torrent, source.parent, seed=True)


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_a_strangers_file_of_that_name_is_never_overwritten(make_file, tmp_path, kind):
    """The user's own data may be there by chance."""
    _, torrent = make_file()
    mine = tmp_path / "content.bin"
    mine.write_bytes(b"my data") if kind == "file" else mine.mkdir()
    with pytest.raises(StorageError, match="move it away") as caught:
        opened(torrent, tmp_path)
    assert str(mine) in one_line(caught)
    assert not (tmp_path / "content.bin.part").exists()
    assert kind == "directory" or mine.read_bytes() == b"my data"


def test_a_leecher_that_finds_the_whole_file_is_complete_at_once(make_file, start_peer):
    """A restart after completion serves on without asking for anything."""
    source, torrent = make_file()
    peer = start_peer(torrent, source.parent, "again")
    assert peer.wait_complete(20)
    assert peer.report().received_from == {}


def test_a_finished_file_is_flushed_before_it_gets_its_name(make_file, tmp_path, monkeypatch):
    """After a power cut a file under its final name must be the whole file."""
    source, torrent = make_file(BLOCK)
    calls = []
    real_fsync, real_replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("fsync"), real_fsync(fd))[1])
    monkeypatch.setattr(Path, "replace", lambda self, to: (calls.append("rename"), real_replace(self, to))[1])
    storage = FileStorage(torrent, tmp_path, fsync_when_complete=True)
    storage.open()
    storage.write(0, memoryview(source.read_bytes()))
    storage.complete()
    storage.complete()
    storage.close()
    assert calls == ["fsync", "rename"]
    assert (tmp_path / "content.bin").read_bytes() == source.read_bytes()
