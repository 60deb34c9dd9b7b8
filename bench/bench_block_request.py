"""Latency of one block over real HTTP on a kept-alive connection, as a raw body and as base64 within JSON."""

import base64
import http.client
import json
import threading

import pytest
import waitress

from minibit import metainfo
from minibit.core.blocks import KIB, MIB
from minibit.peers import Peer

CLIENT = "127.0.0.1:9"  # the discard port: a client without a server of its own
SIZES = {"16KiB": 16 * KIB, "256KiB": 256 * KIB, "1MiB": MIB}


@pytest.fixture
def served(tmp_path, request):
    """Yield (connection to a seed that unchokes us, the first block's bytes) for a file of four blocks."""
    size = request.param
    content = bytes(range(256)) * (4 * size // 256)
    (tmp_path / "file.bin").write_bytes(content)
    torrent = metainfo.create(tmp_path / "file.bin", block_size_bytes=size)
    peer = Peer.for_file(torrent, tmp_path, peer_id="seed", seed=True, port=0, tracker_url="http://127.0.0.1:9")
    peer.start_listening_for_peers()
    peer.meet(CLIENT, "client")
    peer.unchoked_peers.add(CLIENT)
    connection = http.client.HTTPConnection("127.0.0.1", peer.listen_port, timeout=10)
    yield connection, content[:size]
    connection.close()
    peer.stop()


def ask(connection, accept):
    """Ask for block 0; return the body."""
    body = json.dumps({"block_index": 0, "sender_id": "client"})
    connection.request("POST", "/request_block", body, {"Content-Type": "application/json", "Accept": accept})
    response = connection.getresponse()
    data = response.read()
    assert response.status == 200, data
    return data


@pytest.fixture
def bare(request):
    """Yield (connection to a waitress application that answers with so many bytes, these bytes)."""
    content = bytes(range(256)) * (request.param // 256)

    def application(_environ, start_response):
        headers = [("Content-Type", "application/octet-stream"), ("Content-Length", str(len(content)))]
        start_response("200 OK", headers)
        return [content]

    server = waitress.create_server(application, host="127.0.0.1", port=0, threads=4)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    connection = http.client.HTTPConnection("127.0.0.1", server.effective_port, timeout=10)
    yield connection, content
    connection.close()
    server.close()
    thread.join()


@pytest.mark.parametrize("bare", SIZES.values(), ids=SIZES, indirect=True)
def bench_block_bare_waitress(benchmark, bare):
    """What the block requests below are held against: a waitress application that does nothing else."""
    connection, expected = bare
    benchmark.group = f"block request, raw, {len(expected) // KIB} KiB"

    def target():
        assert ask(connection, "application/octet-stream") == expected

    benchmark.pedantic(target, rounds=200, iterations=1, warmup_rounds=10)
    benchmark.extra_info["block_bytes"] = len(expected)


@pytest.mark.parametrize("served", SIZES.values(), ids=SIZES, indirect=True)
def bench_block_raw(benchmark, served):
    """The way MiniBit peers ask."""
    connection, expected = served
    benchmark.group = f"block request, raw, {len(expected) // KIB} KiB"

    def target():
        assert ask(connection, "application/octet-stream") == expected

    benchmark.pedantic(target, rounds=200, iterations=1, warmup_rounds=10)
    benchmark.extra_info["block_bytes"] = len(expected)


@pytest.mark.parametrize("served", SIZES.values(), ids=SIZES, indirect=True)
def bench_block_json(benchmark, served):
    """The way the specification asks."""
    benchmark.group = "block request, JSON"
    connection, expected = served

    def target():
        answer = json.loads(ask(connection, "application/json"))
        assert base64.b64decode(answer["block_data"]) == expected

    benchmark.pedantic(target, rounds=100, iterations=1, warmup_rounds=5)
    benchmark.extra_info["block_bytes"] = len(expected)
