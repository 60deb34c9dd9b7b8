"""What tests of several files share: a tracker, a small real file, peers that are stopped whatever happens."""

import contextlib
import http.client
import json
import os
import random
import subprocess
import threading
import time
from typing import NamedTuple

import pytest

from minibit import metainfo
from minibit.peers import Peer
from minibit.tracker import TrackerApp

MACHINES = 4  # the tracker and the seed live on the first, a leecher on each other
DEADLINE_S = 20.0
BLOCK_BYTES = 16 * 1024
SOURCE_BYTES = 8 * BLOCK_BYTES + 5000  # nine blocks, the last one short


class Answer(NamedTuple):
    """One HTTP answer."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)


def _wait_until(condition, what, *, timeout_s=DEADLINE_S):
    deadline_s = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline_s, f"waited {timeout_s} s for {what}"
        threading.Event().wait(0.005)
    return value


@pytest.fixture
def wait_until():
    """Return ``wait_until(condition, what, timeout_s=20)``: the condition's first true value, or a failed test."""
    return _wait_until


@pytest.fixture
def tracker():
    """Return a tracker that serves on a free loopback port and gives nobody any initial blocks."""
    app = TrackerApp("127.0.0.1", 0, initial_blocks="none", rng_seed=1)
    app.start()
    yield app
    app.stop()


@pytest.fixture
def make_file(tmp_path):
    """Return ``make_file(size_bytes)``: a reproducible file in a folder of its own, and its torrent."""

    def make(size_bytes=SOURCE_BYTES, name="content.bin", block_size_bytes=BLOCK_BYTES):
        path = tmp_path / "source" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(random.Random(size_bytes).randbytes(size_bytes))
        return path, metainfo.create(path, block_size_bytes=block_size_bytes)

    return make


@pytest.fixture
def start_peer(tracker):
    """Return ``start_peer(torrent, folder, peer_id, …)``: a peer of a real file that has joined the tracker's swarm."""
    started = contextlib.ExitStack()

    def start(torrent, folder, peer_id, *, join=True, **options):
        options = {"tracker_url": tracker.url, **options}
        peer = Peer.for_file(torrent, folder, peer_id=peer_id, fsync=False, port=0, rng_seed=1, **options)
        started.callback(peer.stop)
        if join:
            peer.join()
        else:
            peer.start_listening_for_peers()
        return peer

    with started:
        yield start


@pytest.fixture
def post():
    """Return ``post(port, path, message)``: POST JSON from 127.0.0.1 (or ``source_ip``) and return the Answer."""

    def send(port, path, message, *, accept="*/*", source_ip="127.0.0.1"):
        body = message if isinstance(message, bytes) else json.dumps(message).encode()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S, source_address=(source_ip, 0))
        try:
            connection.request("POST", path, body, {"Content-Type": "application/json", "Accept": accept})
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    return send


def _ip(*arguments):
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"


@pytest.fixture
def machines():
    """Return the names of four namespaces, 10.77.0.1 to 10.77.0.4 on a bridge in a fifth."""
    tag = f"mb{os.getpid()}"
    switch, names = f"{tag}sw", [f"{tag}n{number}" for number in range(1, MACHINES + 1)]
    with contextlib.ExitStack() as made:
        for name in [switch, *names]:
            _ip("netns", "add", name)
            made.callback(_ip, "netns", "del", name)
            _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", switch, "link", "add", "br0", "type", "bridge")
        _ip("-n", switch, "link", "set", "br0", "up")
        for number, name in enumerate(names, 1):
            _ip("-n", switch, "link", "add", f"port{number}", "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("-n", switch, "link", "set", f"port{number}", "master", "br0")
            _ip("-n", switch, "link", "set", f"port{number}", "up")
            _ip("-n", name, "address", "add", f"10.77.0.{number}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")
        yield names
