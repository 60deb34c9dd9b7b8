"""Peers of a real file: views of the disk, hostile neighbours, a tracker that dies, a log that can be replayed."""

import http.server
import json
import logging
import random
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
import requests

from minibit.core.choker import TitForTat
from minibit.core.picker import RarestFirst
from minibit.core.session import Session
from minibit.errors import TrackerError, UsageError
from minibit.peers import Peer

BLOCK = 16 * 1024
TIMEOUT_S = 20.0
RAW = "application/octet-stream"


# -- what a program sees -----------------------------------------------------------------------------------------------


def test_the_views_of_a_real_file_are_read_only_and_read_the_disk(make_file, start_peer):
    """A block counts only once its hash matched: nobody may claim one by assignment."""
    source, torrent = make_file()
    seed = start_peer(torrent, source.parent, "seed", seed=True, join=False)
    data = source.read_bytes()
    assert list(seed.blocks_owned) == [True] * 9
    assert dict(seed.block_data) == {i: data[i * BLOCK : (i + 1) * BLOCK] for i in range(9)}
    assert (len(seed.block_data), seed.block_data[8]) == (9, data[8 * BLOCK :])
    with pytest.raises(TypeError, match="cannot be set"):
        seed.blocks_owned[0] = False
    with pytest.raises(TypeError):
        seed.block_data[0] = b"x"
    with pytest.raises(TypeError):
        del seed.block_data[0]
    with pytest.raises(KeyError):
        seed.block_data[9]
    assert (seed.peer_id, seed.total_blocks, seed.file_name, seed.file_complete) == ("seed", 9, "content.bin", True)


def test_a_swarm_rebuilds_the_file_from_one_seed(make_file, tmp_path, start_peer, tracker, wait_until):
    """The main job: every copy equals the source, and every byte is accounted for at both ends."""
    source, torrent = make_file(60 * BLOCK + 99)
    peers = [start_peer(torrent, source.parent, "seed", seed=True)]
    peers += [start_peer(torrent, tmp_path / f"p{i}", f"p{i}") for i in range(4)]
    assert all(peer.wait_complete(TIMEOUT_S) for peer in peers)
    for peer in peers:
        peer.settle()
    reports = [peer.report() for peer in peers]
    for number, report in enumerate(reports[1:]):
        assert (tmp_path / f"p{number}" / "content.bin").read_bytes() == source.read_bytes()
        parts = (report.useful_bytes, report.duplicate_bytes, report.corrupt_bytes, report.aborted_bytes)
        assert sum(parts) == sum(report.received_from.values())
        assert report.useful_bytes == torrent.length_bytes
        assert [owned for _, owned in report.timeline] == list(range(1, 62))
        assert sorted(report.order) == list(range(61))
    sent, received = Counter(), Counter()
    for report in reports:
        sent.update({(report.peer_id, other): count for other, count in report.sent_to.items()})
        received.update({(other, report.peer_id): count for other, count in report.received_from.items()})
    assert sent.total() >= received.total() >= 4 * torrent.length_bytes
    if not any(report.aborts for report in reports):
        assert sent == received
    swarm = wait_until(lambda: requests.get(f"{tracker.url}/stats", timeout=5).json(), "the tracker's counters")
    assert swarm["peers"] == 5


def test_a_peer_that_stops_leaves_the_tracker(make_file, start_peer, tracker):
    """Otherwise newcomers knock at a closed door for two minutes."""
    source, torrent = make_file()
    seed = start_peer(torrent, source.parent, "seed", seed=True)
    assert seed.wait_complete(TIMEOUT_S)
    url = f"{tracker.url}/peers?peer_id=x&info_hash={torrent.info_hash}"
    deadline_s = time.monotonic() + TIMEOUT_S
    while not requests.get(url, timeout=5).json()["peers"]:
        assert time.monotonic() < deadline_s
    seed.stop()
    assert requests.get(url, timeout=5).json()["peers"] == []
    with pytest.raises(requests.ConnectionError):
        requests.post(f"{seed.peer_url}/request_block", timeout=5)


def test_without_a_tracker_the_error_is_one_line(make_file, start_peer):
    """The most frequent trouble of an operator."""
    source, torrent = make_file()
    peer = Peer.for_file(torrent, source.parent, peer_id="p", seed=True, tracker_url="http://127.0.0.1:9", port=0)
    try:
        with pytest.raises(TrackerError, match=r"^the tracker at http://127\.0\.0\.1:9 does not answer: \S.*$"):
            peer.connect_to_tracker()
        with pytest.raises(TrackerError, match="does not answer"):
            peer.request_peer_list_from_tracker()
    finally:
        peer.stop()


def test_a_port_in_use_leaves_no_descriptor_open(make_file, start_peer):
    """A peer whose constructor fails cannot be stopped: it must clean up by itself."""
    source, torrent = make_file()
    seed = start_peer(torrent, source.parent, "seed", seed=True, join=False)
    before = len(_open_descriptors())
    for _ in range(3):
        with pytest.raises(UsageError, match="the port is in use"):
            Peer.for_file(torrent, source.parent, peer_id="p", seed=True, port=seed.listen_port)
    assert len(_open_descriptors()) == before


def _open_descriptors():
    return list(Path("/proc/self/fd").iterdir())


def test_a_tracker_that_dies_in_mid_swarm_stops_nobody(  # noqa: PLR0917  fixtures
    make_file, tmp_path, start_peer, tracker, wait_until, caplog
):
    """Peers that know each other need no tracker; its absence is a warning in one line, never a traceback."""
    source, torrent = make_file(20 * BLOCK)
    start_peer(torrent, source.parent, "seed", seed=True, upload_rate_bytes_per_s=400_000)
    leecher = start_peer(torrent, tmp_path / "leecher", "leecher")
    wait_until(lambda: leecher.session.owned.count >= 2, "the transfer to begin")
    tracker.stop()
    with caplog.at_level(logging.WARNING, logger="minibit"):
        assert leecher.wait_complete(TIMEOUT_S)
        leecher.stop()
    assert (tmp_path / "leecher" / "content.bin").read_bytes() == source.read_bytes()
    assert [record for record in caplog.records if record.exc_info or record.levelno > logging.WARNING] == []


def test_a_peer_finds_a_seed_that_comes_later(make_file, tmp_path, start_peer):
    """Machines start in any order."""
    source, torrent = make_file()
    leecher = start_peer(torrent, tmp_path / "leecher", "leecher")
    assert not leecher.wait_complete(0.3)
    start_peer(torrent, source.parent, "seed", seed=True)
    assert leecher.wait_complete(TIMEOUT_S)


def test_a_block_that_another_thread_is_still_writing_is_not_owned_yet(make_file, tmp_path, start_peer, wait_until):
    """In end game a block comes twice: the second thread may be done while the first still writes."""
    source, torrent = make_file()
    start_peer(torrent, source.parent, "seed", seed=True)
    leecher = start_peer(torrent, tmp_path / "leecher", "leecher", join=False)
    assert leecher.claim(3)  # the first thread has begun
    leecher.join()
    wait_until(lambda: leecher.meters.verdicts["duplicate"], "block 3 to come by another thread")
    assert not leecher.wait_complete(0.3)
    assert 3 not in leecher.session.owned
    assert not (tmp_path / "leecher" / "content.bin").exists()


# -- hostile neighbours ------------------------------------------------------------------------------------------------


class _Liar(http.server.ThreadingHTTPServer):
    """A peer that says it has everything, unchokes everybody, and answers block requests as ``answer`` does."""

    daemon_threads = True

    def __init__(self, total, answer):
        super().__init__(("127.0.0.1", 0), _LiarHandler)
        self.total = total
        self.answer = answer
        self.requests = Counter()
        self.released = threading.Event()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def handle_error(self, request, client_address):
        """Clients that hang up are what this is about."""

    def close(self):
        self.released.set()
        self.shutdown()
        self.server_close()


class _LiarHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.server.requests[self.path] += 1
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/request_block":
            self.server.answer(self, body["block_index"])
        elif self.path == "/have_blocks_info":
            self.reply(json.dumps({"status": "success", "blocks_info": [True] * self.server.total, "unchoked": True}))
        else:
            self.reply('{"status": "error", "message": "no such route"}', status=404)

    def reply(self, body, *, status=200, length=None):
        data = body.encode() if isinstance(body, str) else body
        self.send_response(status)
        self.send_header("Content-Type", RAW)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        self.end_headers()
        self.wfile.write(data)
        if length is not None and length != len(data):
            self.close_connection = True

    def log_message(self, *args):
        """Be silent."""


def _garbage(handler, _index):
    handler.wfile.write(b"\x16\x03\x01 this is not HTTP\r\n\r\n")
    handler.close_connection = True


def _chunked(handler, _index):
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b"10\r\n0123456789abcdef\r\n0\r\n\r\n")


def _flood(handler, _index):
    handler.send_response(200)
    handler.send_header("Content-Length", str(1 << 40))
    handler.end_headers()
    while not handler.server.released.is_set():
        handler.wfile.write(bytes(BLOCK))


def _hang(handler, _index):
    handler.server.released.wait(TIMEOUT_S * 3)
    handler.close_connection = True


def _hang_in_the_body(handler, _index):
    handler.send_response(200)
    handler.send_header("Content-Length", str(BLOCK))
    handler.end_headers()
    handler.wfile.write(b"x" * 1000)
    _hang(handler, _index)


LIES = {
    "wrong bytes": lambda handler, _: handler.reply(bytes(BLOCK)),
    "too short": lambda handler, _: handler.reply(bytes(BLOCK - 1)),
    "empty": lambda handler, _: handler.reply(b""),
    "too long": lambda handler, _: handler.reply(bytes(BLOCK + 1)),
    "truncated": lambda handler, _: handler.reply(bytes(1000), length=BLOCK),
    "flood": _flood,
    "chunked": _chunked,
    "garbage": _garbage,
}


@pytest.fixture
def start_liar(tracker):
    liars = []

    def start(torrent, answer, name="liar"):
        liar = _Liar(torrent.num_blocks, answer)
        liars.append(liar)
        message = {
            "peer_id": name,
            "listen_port": liar.server_port,
            "info_hash": torrent.info_hash,
            "seed": True,
            "event": "started",
        }
        requests.post(f"{tracker.url}/register", json=message, timeout=5).raise_for_status()
        return liar

    yield start
    for liar in liars:
        liar.close()


@pytest.mark.parametrize("lie", LIES)
def test_a_neighbour_that_sends_bad_blocks_is_asked_no_more_after_a_few(
    lie, make_file, tmp_path, start_peer, start_liar
):
    """Its blocks are discarded and counted, the file comes from the honest seed."""
    source, torrent = make_file(40 * BLOCK)
    liar = start_liar(torrent, LIES[lie])
    start_peer(torrent, source.parent, "seed", seed=True, upload_rate_bytes_per_s=400_000)
    leecher = start_peer(torrent, tmp_path / "leecher", "leecher")
    assert leecher.wait_complete(TIMEOUT_S)
    assert (tmp_path / "leecher" / "content.bin").read_bytes() == source.read_bytes()
    assert 1 <= liar.requests["/request_block"] <= 4
    leecher.settle()
    report = leecher.report()
    assert report.useful_bytes == torrent.length_bytes
    assert report.useful_bytes + report.duplicate_bytes + report.corrupt_bytes + report.aborted_bytes == sum(
        report.received_from.values()
    )
    if lie == "wrong bytes":
        assert report.corrupt_bytes == liar.requests["/request_block"] * BLOCK
    if lie == "truncated":
        assert report.aborts["liar"] == liar.requests["/request_block"]


@pytest.mark.parametrize("lie", ["wrong bytes", "truncated"])
def test_a_liar_that_keeps_offering_turns_is_asked_no_more_after_a_few(  # noqa: PLR0917  fixtures
    lie, make_file, tmp_path, start_peer, start_liar, post, wait_until
):
    """Whoever spoils every block must not win trust back by knocking again."""
    _, torrent = make_file(20 * BLOCK)
    liar = start_liar(torrent, LIES[lie])
    leecher = start_peer(torrent, tmp_path / "leecher", "leecher")
    offer = {"sender_id": "liar", "listen_port": liar.server_port, "standing": True, "block_indices": list(range(20))}
    wait_until(lambda: leecher.known_peers, "the liar to be known")
    for _ in range(30):
        asked = liar.requests["/request_block"]
        accepted = post(leecher.listen_port, "/offer_turn", offer).json["accepted"]
        wait_until(lambda before=asked, more=accepted: liar.requests["/request_block"] >= before + more, "the request")
        wait_until(lambda: not len(leecher.session.ledger), "the block to fail")
    assert 1 <= liar.requests["/request_block"] <= 6


@pytest.mark.parametrize("lie", [_hang, _hang_in_the_body], ids=["before the answer", "in the body"])
def test_a_neighbour_that_hangs_holds_up_neither_the_file_nor_the_end(lie, make_file, tmp_path, start_peer, start_liar):
    """End game asks somebody else for the block; stopping does not wait for a time-out of the network."""
    source, torrent = make_file(20 * BLOCK)
    liar = start_liar(torrent, lie)
    start_peer(torrent, source.parent, "seed", seed=True)
    leecher = start_peer(torrent, tmp_path / "leecher", "leecher")
    begin_s = time.monotonic()
    assert leecher.wait_complete(TIMEOUT_S)
    assert (tmp_path / "leecher" / "content.bin").read_bytes() == source.read_bytes()
    assert time.monotonic() - begin_s < 8
    assert liar.requests["/request_block"] <= 2
    begin_s = time.monotonic()
    leecher.stop()
    assert time.monotonic() - begin_s < 5


def test_a_swarm_of_liars_and_one_honest_seed_completes(make_file, tmp_path, start_peer, start_liar):
    """More wrong neighbours than slots for downloads: the honest one must still get its turn."""
    source, torrent = make_file(20 * BLOCK)
    liars = [start_liar(torrent, LIES["wrong bytes"], f"liar-{number}") for number in range(12)]
    start_peer(torrent, source.parent, "seed", seed=True)
    leechers = [start_peer(torrent, tmp_path / f"p{number}", f"p{number}") for number in range(2)]
    assert all(leecher.wait_complete(TIMEOUT_S) for leecher in leechers)
    for number in range(2):
        assert (tmp_path / f"p{number}" / "content.bin").read_bytes() == source.read_bytes()
    assert max(liar.requests["/request_block"] for liar in liars) <= 2 * 4


# -- the log -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [None, 500_000.0], ids=["unlimited", "limited"])
def test_the_event_log_of_a_real_run_replays_to_the_same_actions(make_file, tmp_path, start_peer, rate):
    """What happened in the field can be run again at the desk: the session is a function of its seed and its events."""
    source, torrent = make_file(30 * BLOCK + 7)
    folders = [source.parent, *(tmp_path / f"p{number}" for number in range(3))]
    peers = [
        start_peer(
            torrent, folder, folder.name, seed=not number, join=False, log_events=True, upload_rate_bytes_per_s=rate
        )
        for number, folder in enumerate(folders)
    ]
    taken = [_record_actions(peer) for peer in peers]
    for peer in peers:
        peer.join()
    assert all(peer.wait_complete(TIMEOUT_S) for peer in peers)
    for peer in peers:
        peer.stop()
    for peer, actions in zip(peers, taken, strict=True):
        session = Session(
            torrent.geometry,
            rng=random.Random(f"1/{peer.peer_id}"),
            picker=RarestFirst(),
            choker=TitForTat(),
            upload_rate_bytes_per_s=rate,
        )
        replayed = [(logged.event, session.handle(logged.event, logged.now_s)) for logged in peer.driver.log]
        assert len(replayed) > 30
        first_difference = next((pair for pair in zip(replayed, actions, strict=True) if pair[0] != pair[1]), None)
        assert first_difference is None
        assert session.owned == peer.session.owned


def _record_actions(peer):
    """Return a list that fills with each event and the actions the live session answers it with."""
    taken = []
    handle = peer.session.handle

    def recording(event, now_s):
        actions = handle(event, now_s)
        taken.append((event, actions))
        return actions

    peer.session.handle = recording
    return taken
