"""curl alone, with no server of its own and nothing of MiniBit on its side, downloads blocks."""

import base64
import json
import shutil
import subprocess
import time

import pytest

from minibit.core.choker import OPTIMISTIC_ROUNDS

BLOCK = 16 * 1024
CURL = shutil.which("curl")
UNREACHABLE_PORT = 1
SPAWN_S = 1.0  # what starting curl a few times may take on a busy machine


def curl(tmp_path, url, message, *, accept="*/*"):
    """POST JSON by curl; return (status, Retry-After or None, body)."""
    assert CURL, "curl must be installed: it is the client that knows nothing of MiniBit"
    body = tmp_path / "body"
    command = [
        CURL,
        "-sS",
        "--noproxy",
        "*",
        "--max-time",
        "20",
        "-o",
        str(body),
        "-w",
        "%{http_code} %header{retry-after}",
    ]
    command += ["-H", "Content-Type: application/json", "-H", f"Accept: {accept}", "-d", json.dumps(message), url]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    status, _, retry_after = done.stdout.partition(" ")
    return int(status), int(retry_after) if retry_after else None, body.read_bytes()


@pytest.fixture
def seed(make_file, start_peer, tmp_path, request, wait_until):
    """Return a seed: without a limit and idle, or limited and busy with three leechers."""
    source, torrent = make_file(256 * BLOCK)
    busy = request.param
    seed = start_peer(torrent, source.parent, "seed", seed=True, upload_rate_bytes_per_s=250_000 if busy else None)
    if busy:
        leechers = [
            start_peer(torrent, tmp_path / f"p{number}", f"p{number}", upload_rate_bytes_per_s=50_000)
            for number in range(3)
        ]
        wait_until(lambda: sum(leecher.session.owned.count for leecher in leechers) > 5, "the seed to be busy")
    return seed


@pytest.fixture
def fetch(tmp_path, wait_until):
    """Return ``fetch(peer, index, accept)``: ask until the block comes, waiting as told.

    It returns the body, the seconds until curl was unchoked and how often the uplink was busy.
    """

    def pause(duration_s):
        end_s = time.monotonic() + duration_s
        wait_until(lambda: time.monotonic() >= end_s, "the time told to pass", timeout_s=duration_s + 1)

    def fetch(peer, index, accept):
        message = {"block_index": index, "sender_id": "curl"}
        begin_s, busy, unchoked_after_s = time.monotonic(), 0, None
        while time.monotonic() < begin_s + 20:
            status, retry_after_s, body = curl(tmp_path, f"{peer.peer_url}/request_block", message, accept=accept)
            if status != 403 and unchoked_after_s is None:
                unchoked_after_s = time.monotonic() - begin_s
            if status == 200:
                return body, unchoked_after_s, busy
            assert status in {403, 503}
            busy += status == 503
            pause(retry_after_s if status == 503 else 0.2)
        raise AssertionError(f"block {index} did not come within 20 s")

    return fetch


@pytest.mark.parametrize("seed", [False, True], indirect=True, ids=["idle unlimited seed", "busy limited seed"])
def test_curl_registers_is_unchoked_in_time_and_fetches_blocks(seed, tracker, tmp_path, make_file, fetch):
    """Whatever MiniBit peers arrange among themselves, the documented protocol alone is enough to get the file."""
    source, torrent = make_file(256 * BLOCK)
    data = source.read_bytes()
    registration = {"peer_id": "curl", "listen_port": UNREACHABLE_PORT, "info_hash": torrent.info_hash}
    status, _, body = curl(tmp_path, f"{tracker.url}/register", registration)
    assert status == 200
    others = {peer["peer_id"]: peer for peer in json.loads(body)["peers"]}
    assert others["seed"]["port"] == seed.listen_port

    hello = {"sender_id": "curl", "listen_port": UNREACHABLE_PORT, "blocks_info": [False] * 256}
    status, _, body = curl(tmp_path, f"{seed.peer_url}/have_blocks_info", hello)
    assert status == 200
    assert json.loads(body)["blocks_info"] == [True] * 256

    two_optimistic_intervals_s = 2 * OPTIMISTIC_ROUNDS * seed.session.rechoke_interval_s()
    body, unchoked_after_s, busy = fetch(seed, 200, "application/json")
    assert unchoked_after_s < two_optimistic_intervals_s + SPAWN_S
    answer = json.loads(body)
    assert (answer["type"], answer["block_index"], answer["sender_id"]) == ("SEND_BLOCK", 200, "seed")
    assert base64.b64decode(answer["block_data"]) == data[200 * BLOCK : 201 * BLOCK]
    assert busy <= 2
    body, _, busy = fetch(seed, 7, "application/octet-stream")
    assert body == data[7 * BLOCK : 8 * BLOCK]
    assert busy <= 2
    body, _, _ = fetch(seed, 7, "application/octet-stream")
    assert body == data[7 * BLOCK : 8 * BLOCK]


def test_a_leecher_serves_curl_too_once_it_has_something(make_file, start_peer, tmp_path, wait_until, fetch):
    """Tit-for-tat has an optimistic slot for those who have given nothing."""
    source, torrent = make_file(256 * BLOCK)
    start_peer(torrent, source.parent, "seed", seed=True, upload_rate_bytes_per_s=300_000)
    leecher = start_peer(torrent, tmp_path / "leecher", "leecher", upload_rate_bytes_per_s=300_000)
    index = wait_until(lambda: list(leecher.session.owned), "a block")[0]
    hello = {"sender_id": "curl", "listen_port": UNREACHABLE_PORT, "blocks_info": [False] * 256}
    assert curl(tmp_path, f"{leecher.peer_url}/have_blocks_info", hello)[0] == 200
    body, unchoked_after_s, _ = fetch(leecher, index, "application/octet-stream")
    assert body == source.read_bytes()[index * BLOCK : (index + 1) * BLOCK]
    assert unchoked_after_s < 2 * OPTIMISTIC_ROUNDS * leecher.session.rechoke_interval_s() + SPAWN_S
