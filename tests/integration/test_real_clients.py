"""Swarms of real BitTorrent clients find each other through MiniBit's tracker, and complete.

libtorrent comes with the test environment. aria2 and Transmission are Debian packages: where one is missing its test is
skipped, unless MINIBIT_ALL_CLIENTS is set, as it is in CI.
"""

import json
import os
import shutil
import subprocess

import bencode2
import pytest

from minibit import metainfo

SIZE_BYTES = 3 * 1024 * 1024 + 17
DEADLINE_S = 60


def tool(name, package):
    """Return the path of an installed client."""
    path = shutil.which(name)
    if path is None and os.environ.get("MINIBIT_ALL_CLIENTS"):
        pytest.fail(f"{name} must be installed here: apt-get install {package}")
    if path is None:
        pytest.skip(f"{name} is not installed: apt-get install {package}")
    return path


@pytest.fixture
def shared(make_file, tracker, tmp_path):
    """Return (the file, its torrent with the tracker's announce address in it)."""
    source, _ = make_file(SIZE_BYTES, block_size_bytes=64 * 1024)
    torrent = tmp_path / "shared.torrent"
    announce = f"{tracker.url}/announce"
    metainfo.write(metainfo.create(source, block_size_bytes=64 * 1024, announce=announce), torrent)
    return source, torrent


@pytest.fixture
def processes():
    """Return a list for started processes; they are ended and reaped."""
    started = []
    yield started
    for process in started:
        process.terminate()
    for process in started:
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def test_libtorrent(shared, tracker, tmp_path, wait_until):
    """Three sessions; nobody is told of anybody but by the tracker."""
    libtorrent = pytest.importorskip("libtorrent")
    source, torrent = shared
    closed = dict.fromkeys(("enable_dht", "enable_lsd", "enable_upnp", "enable_natpmp"), False)
    open_to_itself = {"listen_interfaces": "127.0.0.1:0", "allow_multiple_connections_per_ip": True}
    sessions = []
    for number in range(3):
        session = libtorrent.session({**closed, **open_to_itself, "alert_mask": 0})
        params = libtorrent.load_torrent_file(str(torrent))
        params.save_path = str(source.parent if number == 0 else tmp_path / f"libtorrent-{number}")
        params.flags &= ~(libtorrent.torrent_flags.paused | libtorrent.torrent_flags.auto_managed)
        sessions.append((session, session.add_torrent(params)))
        wait_until(lambda: tracker.registry.totals().peers > number, "the announce")  # noqa: B023  at once
    wait_until(lambda: all(handle.status().is_seeding for _, handle in sessions), "the swarm", timeout_s=DEADLINE_S)
    for number in (1, 2):
        assert (tmp_path / f"libtorrent-{number}" / source.name).read_bytes() == source.read_bytes()
    # A hybrid torrent is two swarms to libtorrent, one for each info-hash.
    totals = wait_until(lambda: (now := tracker.registry.totals()).seeds == now.peers and now, "completed announced")
    assert totals.peers in {3, 6}


def test_aria2(shared, tracker, processes, tmp_path, wait_until):
    """Three processes, each on a loopback address of its own: aria2 takes two at one address for one host."""
    aria2c = tool("aria2c", "aria2")
    source, torrent = shared
    for number in range(3):
        directory = source.parent if number == 0 else tmp_path / f"aria2-{number}"
        address = f"127.0.3.{number + 1}"
        options = [
            "--no-conf=true", "--quiet=true", "--enable-dht=false", "--enable-dht6=false", "--bt-enable-lpd=false",
            "--enable-peer-exchange=false", "--disable-ipv6=true", f"--interface={address}", "--file-allocation=none",
            f"--bt-external-ip={address}", "--listen-port=26881", "--seed-ratio=0", "--seed-time=60",
            "--check-integrity=true", "--bt-tracker-interval=1",
        ]  # fmt: skip
        processes.append(subprocess.Popen([aria2c, *options, "-d", str(directory), str(torrent)]))
        wait_until(lambda: tracker.registry.totals().peers > number, "the announce")  # noqa: B023
    copies = [tmp_path / f"aria2-{number}" / source.name for number in (1, 2)]
    assert wait_until(lambda: all(is_whole(copy, source) for copy in copies), "the swarm", timeout_s=DEADLINE_S)


def is_whole(copy, source):
    """Whether a copy equals its source by now."""
    return copy.exists() and copy.stat().st_size == SIZE_BYTES and copy.read_bytes() == source.read_bytes()


def plain_torrent(source, announce):
    """Return a torrent of BitTorrent v1 alone: Transmission 3 cannot read hybrid ones, version 4 can."""
    info = bencode2.bdecode(metainfo.create(source, block_size_bytes=64 * 1024).dumps())[b"info"]
    plain = {name: info[name] for name in (b"length", b"name", b"piece length", b"pieces")}
    return bencode2.bencode({b"announce": announce.encode(), b"info": plain})


@pytest.mark.netns
@pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
def test_transmission(make_file, machines, processes, tmp_path, wait_until):
    """On machines of their own: Transmission refuses peers on loopback."""
    client = tool("transmission-cli", "transmission-cli")
    source, _ = make_file(SIZE_BYTES, block_size_bytes=64 * 1024)
    torrent = tmp_path / "shared.torrent"
    torrent.write_bytes(plain_torrent(source, "http://10.77.0.1:9000/announce"))
    minibit = ["ip", "netns", "exec", machines[0], shutil.which("minibit") or "minibit"]
    processes.append(subprocess.Popen([*minibit, "tracker", "--host", "0.0.0.0", "--port", "9000"]))
    ask = ["ip", "netns", "exec", machines[0], "curl", "-s", "http://10.77.0.1:9000/stats"]

    def known():
        answer = subprocess.run(ask, capture_output=True, text=True, timeout=20, check=False).stdout
        return json.loads(answer)["peers"] if answer else -1

    wait_until(lambda: known() == 0, "the tracker")
    for number, machine in enumerate(machines[1:]):
        directory = source.parent if number == 0 else tmp_path / f"transmission-{number}"
        directory.mkdir(exist_ok=True)
        home = tmp_path / f"home-{number}"
        home.mkdir()
        off = ("dht-enabled", "lpd-enabled", "pex-enabled", "utp-enabled", "port-forwarding-enabled", "rpc-enabled")
        (home / "settings.json").write_text(json.dumps(dict.fromkeys(off, False)))
        command = [client, "--config-dir", str(home), "--download-dir", str(directory), str(torrent)]
        within = ["ip", "netns", "exec", machine]
        processes.append(subprocess.Popen([*within, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        wait_until(lambda: known() > number, "the announce", timeout_s=DEADLINE_S)  # noqa: B023
    copies = [tmp_path / f"transmission-{number}" / source.name for number in (1, 2)]
    assert wait_until(lambda: all(is_whole(copy, source) for copy in copies), "the swarm", timeout_s=DEADLINE_S)
