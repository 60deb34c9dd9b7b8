"""Swarms of MiniBit, libtorrent and aria2, and the physical limit, each run once: ``RUNNERS[name](work)``.

Every runner has a seed and N leechers as processes, times from the common start to the last complete file, verifies
nothing it does not have to (the clients hash what they receive), and leaves no process behind.
"""

import hashlib
import importlib.util
import json
import multiprocessing
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from minibit import scenario
from minibit.core.blocks import auto_block_size_bytes
from minibit.launcher.memory import ReadyMemory
from minibit.launcher.swarm import run_swarm

DEADLINE_S = 900
KIB, MIB, GIB = 1024, 2**20, 2**30
FIRST_PORT = 21000
ARIA2_TRACKER_PORT = 6969


class MissingError(Exception):
    """The client is not installed; the message says how to get it."""


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be distributed, and how fast each may upload (bytes/s; None: no limit)."""

    peers: int
    size_bytes: int
    block_size_bytes: int | None = None
    upload_rate_bytes_per_s: float | None = None

    @property
    def delivered_gib(self) -> float:
        """All leechers' files together."""
        return self.peers * self.size_bytes / GIB


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run: seconds until everyone had the file, CPU seconds of all its processes."""

    seconds: float
    cpu_s: float
    note: str = ""


def minibit(work: Work) -> Outcome:
    """Run MiniBit itself."""
    given = {
        "peers": work.peers,
        "size_bytes": work.size_bytes,
        "upload_rate_bytes_per_s": work.upload_rate_bytes_per_s,
    }
    record = run_swarm(scenario.simple(**given, block_size_bytes=work.block_size_bytes))
    if record.makespan_s is None or record.cpu_s is None:
        raise RuntimeError("; ".join(record.invalid_reasons))
    return Outcome(record.makespan_s, record.cpu_s, "" if record.valid else "; ".join(record.invalid_reasons))


def libtorrent(mode: str) -> Callable[[Work], Outcome]:
    """Return a runner of libtorrent with these settings."""

    def run(work: Work) -> Outcome:
        _require_libtorrent()
        with _folder(work) as (folder, source):
            torrent = folder / "t.torrent"
            _make_torrent(source, torrent, work)
            with _processes() as started:
                return _run_libtorrent(work, mode, source, torrent, started)

    return run


def _run_libtorrent(
    work: Work, mode: str, source: Path, torrent: Path, started: list[subprocess.Popen[str]]
) -> Outcome:
    for number in range(work.peers + 1):
        directory = source.parent if number == 0 else torrent.parent / f"p{number}"
        directory.mkdir(exist_ok=True)
        wanted = {
            "port": FIRST_PORT + number,
            "connect_to": list(range(FIRST_PORT, FIRST_PORT + number)),
            "torrent": str(torrent),
            "directory": str(directory),
            "seed": number == 0,
            "upload_rate": int(work.upload_rate_bytes_per_s or 0),
            "mode": mode,
        }
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "bench.rivals.libtorrent_peer", json.dumps(wanted)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        )
    for client in started:
        if client.stdout.readline().strip() != "ready":
            raise RuntimeError("a libtorrent client did not start")
    with ReadyMemory(2 * work.peers * work.size_bytes, source.parent):
        start_s = time.monotonic()
        _say(started, "go")
        end_s = max(float(client.stdout.readline()) for client in started)
    _say(started, "end")
    return Outcome(end_s - start_s, sum(float(client.stdout.readline()) for client in started))


def _say(clients: list[subprocess.Popen[str]], word: str) -> None:
    for client in clients:
        client.stdin.write(word + "\n")
        client.stdin.flush()


def aria2(work: Work) -> Outcome:
    """Run aria2, with opentracker for its tracker."""
    for tool in ("aria2c", "opentracker"):
        if not shutil.which(tool):
            raise MissingError(f"{tool} is not installed: apt-get install aria2 opentracker")
    _require_libtorrent()
    with _folder(work) as (folder, source):
        torrent = folder / "t.torrent"
        info_hash = _make_torrent(source, torrent, work, f"http://127.0.0.1:{ARIA2_TRACKER_PORT}/announce")
        before = _children_cpu_s()
        with _processes() as started:
            started.append(_opentracker(folder, info_hash))
            seconds = _run_aria2(work, folder, source, torrent, started)
        return Outcome(seconds, _children_cpu_s() - before, "CPU with its tracker and the seed's hashing")


def _opentracker(folder: Path, info_hash: str) -> subprocess.Popen[str]:
    # Debian's build serves only swarms it was told of, and gives up root: it must be able to read its folder.
    home = folder / "tracker"
    home.mkdir()
    (home / "whitelist").write_text(info_hash + "\n")
    for path in (folder, home):
        path.chmod(0o755)
    port = str(ARIA2_TRACKER_PORT)
    command = [
        "opentracker",
        "-i",
        "127.0.0.1",
        "-p",
        port,
        "-P",
        port,
        "-d",
        str(home),
        "-w",
        "whitelist",
        "-u",
        "nobody",
    ]
    process = subprocess.Popen(command, cwd=home, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True)
    _wait(lambda: _listens(ARIA2_TRACKER_PORT), 10)
    return process


def _run_aria2(work: Work, folder: Path, source: Path, torrent: Path, started: list[subprocess.Popen[str]]) -> float:
    hook = folder / "hook.sh"  # it keeps its control file while it seeds: only the hook tells when it is complete
    hook.write_text('#!/bin/sh\ntouch "$(dirname "$3")/DONE"\n')
    hook.chmod(0o755)

    def start(number: int, directory: Path) -> None:
        address = f"127.0.1.{number + 1}"  # two peers at one address are one host to it
        options = [
            "--no-conf=true", "--quiet=true", "--enable-dht=false", "--enable-dht6=false", "--bt-enable-lpd=false",
            "--enable-peer-exchange=false", "--disable-ipv6=true", f"--interface={address}",
            f"--bt-external-ip={address}", f"--listen-port={FIRST_PORT + number}", "--seed-ratio=0", "--seed-time=60",
            "--file-allocation=none", "--bt-tracker-interval=1", "--bt-hash-check-seed=true", "--check-integrity=true",
            f"--on-bt-download-complete={hook}", f"--max-overall-upload-limit={int(work.upload_rate_bytes_per_s or 0)}",
        ]  # fmt: skip
        command = ["aria2c", *options, "-d", str(directory), str(torrent)]
        started.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True))

    start(0, source.parent)
    _wait((source.parent / "DONE").exists, 120)
    time.sleep(1.0)  # the seed announces
    directories = [folder / f"p{number}" for number in range(1, work.peers + 1)]
    with ReadyMemory(2 * work.peers * work.size_bytes, source.parent):
        start_s = time.monotonic()
        for number, directory in enumerate(directories, 1):
            start(number, directory)
        _wait(lambda: all((directory / "DONE").exists() for directory in directories), DEADLINE_S)
        return time.monotonic() - start_s


def limit(work: Work) -> Outcome:
    """Raw sockets, sendfile, SHA-256 and pwrite between two pairs of processes: no swarm here can beat it."""
    block = work.block_size_bytes or auto_block_size_bytes(work.size_bytes)
    pairs, total = 2, work.peers * work.size_bytes
    count, span = max(1, total // pairs // block), max(1, min(work.size_bytes // block, 128))
    context = multiprocessing.get_context("fork")
    before = _children_cpu_s()
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "source"
        source.write_bytes(os.urandom(block) * span)
        processes = []
        for pair in range(pairs):
            listener = socket.create_server(("127.0.0.1", 0))
            target = Path(name) / f"out{pair}"
            processes += [
                context.Process(target=_send, args=(listener, source, block, count, span)),
                context.Process(target=_receive, args=(listener.getsockname(), target, block, count, span)),
            ]
        start_s = time.monotonic()
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        seconds = time.monotonic() - start_s
    scale = total / (pairs * count * block)
    return Outcome(seconds * scale, (_children_cpu_s() - before) * scale)


def _send(listener: socket.socket, path: Path, block: int, count: int, span: int) -> None:
    connection, _ = listener.accept()
    descriptor = os.open(path, os.O_RDONLY)
    for index in range(count):
        offset, left = (index % span) * block, block
        while left:
            sent = os.sendfile(connection.fileno(), descriptor, offset, left)
            offset, left = offset + sent, left - sent
    connection.close()


def _receive(address: tuple[str, int], path: Path, block: int, count: int, span: int) -> None:
    connection = socket.create_connection(address)
    buffer = memoryview(bytearray(block))
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    for index in range(count):
        filled = 0
        while filled < block:
            received = connection.recv_into(buffer[filled:])
            if not received:
                raise EOFError("the sender closed early")
            filled += received
        hashlib.sha256(buffer).digest()
        os.pwrite(descriptor, buffer, (index % span) * block)


RUNNERS: dict[str, Callable[[Work], Outcome]] = {
    "minibit": minibit,
    "libtorrent": libtorrent("plain"),
    "libtorrent fast": libtorrent("fast"),
    "libtorrent tuned": libtorrent("tuned"),
    "aria2": aria2,
    "limit": limit,
}


# -- small things ------------------------------------------------------------------------------------------------------


def _require_libtorrent() -> None:
    if importlib.util.find_spec("libtorrent") is None:
        raise MissingError("libtorrent is not installed: pip install libtorrent")


def _make_torrent(source: Path, target: Path, work: Work, tracker: str | None = None) -> str:
    import libtorrent as lt

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        files = lt.file_storage()
        lt.add_files(files, str(source))
        block = work.block_size_bytes or auto_block_size_bytes(work.size_bytes)
        torrent = lt.create_torrent(files, block, lt.create_torrent.v1_only)
        if tracker:
            torrent.add_tracker(tracker)
        lt.set_piece_hashes(torrent, str(source.parent))
        target.write_bytes(lt.bencode(torrent.generate()))
        return str(lt.torrent_info(str(target)).info_hash())


@contextmanager
def _folder(work: Work) -> Iterator[tuple[Path, Path]]:
    folder = Path(tempfile.mkdtemp(prefix="minibit-rival-"))
    try:
        source = folder / "seed" / "data.bin"
        source.parent.mkdir()
        with source.open("wb") as file:
            for start in range(0, work.size_bytes, MIB):
                file.write(os.urandom(min(MIB, work.size_bytes - start)))
        yield folder, source
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _processes() -> Iterator[list[subprocess.Popen[str]]]:
    """Give a list to put started processes into; end and reap them all."""
    started: list[subprocess.Popen[str]] = []
    try:
        yield started
    finally:
        for process in started:
            process.send_signal(signal.SIGTERM)
        for process in started:
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe:
                    pipe.close()


def _children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _wait(condition: Callable[[], bool], deadline_s: float) -> None:
    end_s = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end_s:
            raise RuntimeError(f"nothing after {deadline_s} s")
        time.sleep(0.02)
