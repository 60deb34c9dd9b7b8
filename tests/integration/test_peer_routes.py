"""Every route of a peer and every status code, in the contract's order, as JSON and raw."""

import base64
import threading
import time

import pytest

from minibit.peers import Peer

TOTAL = 12
RAW = "application/octet-stream"


@pytest.fixture
def peer():
    """Return a peer that owns blocks 0 to 5 of 12 and knows "friend" (unchoked) and "stranger" (choked)."""
    peer = Peer("me", TOTAL, rng_seed=1)
    peer.blocks_owned[:] = [True] * 6 + [False] * 6
    for number, name in enumerate(("friend", "stranger")):
        peer.known_peers[f"127.0.0.1:{50001 + number}"] = {"peer_id": name, "blocks_info": [False] * TOTAL}
    peer.unchoked_peers.add("127.0.0.1:50001")
    yield peer
    peer.stop()


@pytest.fixture
def call(peer):
    def send(path, message, *, ip="127.0.0.1", accept="*/*"):
        client = peer.app.test_client()
        kind = {"data": message} if isinstance(message, bytes) else {"json": message}
        environ = {"REMOTE_ADDR": ip}
        return client.post(path, **kind, headers={"Accept": accept}, environ_base=environ, buffered=True)

    return send


# -- POST /request_block -----------------------------------------------------------------------------------------------


def test_a_block_comes_as_base64_within_json(peer, call):
    """The form of the specification, for whoever reads JSON only."""
    answer = call("/request_block", {"block_index": 3, "sender_id": "friend"})
    assert (answer.status_code, answer.content_type) == (200, "application/json")
    assert answer.json == {
        "type": "SEND_BLOCK",
        "block_index": 3,
        "block_data": base64.b64encode(peer.block_data[3]).decode(),
        "sender_id": "me",
    }
    assert int(answer.headers["Content-Length"]) == len(answer.data)


def test_a_block_comes_raw_if_asked_for(peer, call):
    """Base64 costs a third more bytes and most of the CPU."""
    answer = call("/request_block", {"block_index": 3, "sender_id": "friend"}, accept=RAW)
    assert (answer.status_code, answer.content_type, answer.data) == (200, RAW, peer.block_data[3])
    assert int(answer.headers["Content-Length"]) == len(answer.data)


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", "application/json"),
        ("text/html, */*;q=0.8", "application/json"),
        ("application/octet-stream;q=0.9, application/json;q=0.1", RAW),
        ("application/json, application/octet-stream;q=0.5", "application/json"),
    ],
)
def test_the_accept_header_is_read_as_http_defines_it(call, accept, content_type):
    """Libraries write it in many ways."""
    answer = call("/request_block", {"block_index": 1, "sender_id": "friend"}, accept=accept)
    assert (answer.status_code, answer.content_type) == (200, content_type)


def test_a_block_is_never_refused_because_it_was_given_before(call):
    """A client that lost a block asks again."""
    request = {"block_index": 0, "sender_id": "friend"}
    assert {call("/request_block", request).status_code for _ in range(5)} == {200}


BAD_REQUESTS = [
    b"",
    b"not json",
    b"[]",
    b"[" * 100_000,
    b'{"unknown": ' + b"[" * 100_000,
    b'{"block_index": 1, "sender_id": "\xff"}',
    {"block_index": 1},
    {"sender_id": "friend"},
    {"block_index": "1", "sender_id": "friend"},
    {"block_index": 1.5, "sender_id": "friend"},
    {"block_index": True, "sender_id": "friend"},
    {"block_index": -1, "sender_id": "friend"},
    {"block_index": TOTAL, "sender_id": "friend"},
    {"block_index": 10**30, "sender_id": "friend"},
    {"block_index": 1, "sender_id": ""},
    {"block_index": 1, "sender_id": 7},
    {"block_index": 1, "sender_id": "friend", "listen_port": 0},
    {"block_index": 1, "sender_id": "friend", "block_indices": [TOTAL]},
]


@pytest.mark.parametrize("accept", ["*/*", RAW])
@pytest.mark.parametrize("message", BAD_REQUESTS, ids=lambda message: str(message)[:50])
def test_a_malformed_request_is_a_400_that_says_what_is_wrong(call, message, accept):
    """A programmer of another client reads this message; hostile bytes must not raise."""
    answer = call("/request_block", message, accept=accept)
    assert answer.status_code == 400
    assert answer.json["type"] == "ERROR"
    assert answer.json["sender_id"] == "me"
    assert answer.json["message"]


@pytest.mark.parametrize(
    ("index", "sender_id", "ip", "status"),
    [
        (TOTAL, "nobody", "127.0.0.1", 400),  # bad comes before unknown
        (0, "nobody", "127.0.0.1", 403),
        (11, "nobody", "127.0.0.1", 403),  # unknown before not owned
        (0, "stranger", "127.0.0.1", 403),
        (11, "stranger", "127.0.0.1", 403),  # choked before not owned
        (0, "friend", "127.0.0.2", 403),  # the right name from another address
        (0, "127.0.0.1:50001", "127.0.0.2", 403),
        (0, "127.0.0.1:50001", "127.0.0.1", 200),  # a literal key is a name too
        (0, "127.0.0.1:50002", "127.0.0.1", 403),
        (0, "127.0.0.1:59999", "127.0.0.1", 403),
        (11, "friend", "127.0.0.1", 404),
        (5, "friend", "127.0.0.1", 200),
    ],
)
def test_checks_come_in_the_contracts_order(call, index, sender_id, ip, status):
    """What a refused client learns must not depend on the implementation: 400, 403, 404, then 503."""
    answer = call("/request_block", {"block_index": index, "sender_id": sender_id}, ip=ip)
    assert answer.status_code == status
    assert answer.json["type"] == ("SEND_BLOCK" if status == 200 else "ERROR")


@pytest.mark.parametrize("accept", ["*/*", RAW])
def test_a_busy_uplink_is_a_503_with_a_retry_after_that_holds(post, make_file, start_peer, wait_until, accept):
    """A client that waits as long as it is told, and no longer, gets its block at the next attempt."""
    source, torrent = make_file(8 * 16384)
    seed = start_peer(torrent, source.parent, "seed", seed=True, join=False, upload_rate_bytes_per_s=50_000)
    for port, name in enumerate(("first", "second"), 50001):
        seed.known_peers[f"127.0.0.1:{port}"] = {"peer_id": name, "blocks_info": [False] * 8}
        seed.unchoked_peers.add(f"127.0.0.1:{port}")
    first = []
    asking = threading.Thread(
        target=lambda: first.append(
            post(seed.listen_port, "/request_block", {"block_index": 0, "sender_id": "first"}, accept=accept)
        )
    )
    asking.start()
    wait_until(lambda: seed.session.uplink.active, "the link to be taken")
    missing = post(seed.listen_port, "/request_block", {"block_index": 7, "sender_id": "unknown"}, accept=accept)
    assert missing.status == 403
    busy = post(seed.listen_port, "/request_block", {"block_index": 1, "sender_id": "second"}, accept=accept)
    assert busy.status == 503
    assert busy.json["type"] == "ERROR"
    retry_after_s = int(busy.headers["Retry-After"])
    assert 1 <= retry_after_s <= 3
    assert 0 < busy.json["retry_after_s"] <= retry_after_s
    due_s = time.monotonic() + retry_after_s
    wait_until(lambda: time.monotonic() >= due_s, "the time told to pass")
    again = post(seed.listen_port, "/request_block", {"block_index": 1, "sender_id": "second"}, accept=accept)
    asking.join(20)
    assert (first[0].status, again.status) == (200, 200)


# -- POST /have_blocks_info --------------------------------------------------------------------------------------------


def test_an_unknown_sender_with_a_port_becomes_known_and_learns_my_blocks(peer, call):
    """The first word between two peers that do not share a tracker."""
    flags = [True] * 2 + [False] * 10
    answer = call("/have_blocks_info", {"blocks_info": flags, "sender_id": "new", "listen_port": 50009}, ip="127.0.0.9")
    assert answer.status_code == 200
    assert answer.json["status"] == "success"
    assert answer.json["blocks_info"] == [True] * 6 + [False] * 6
    assert answer.json["unchoked"] is False
    assert answer.json["retry_after_s"] >= 0
    known = peer.known_peers["127.0.0.9:50009"]
    assert (known["peer_id"], known["ip"], known["port"], known["blocks_info"]) == ("new", "127.0.0.9", 50009, flags)
    assert "127.0.0.9:50009" in peer.choked_peers


def test_a_known_sender_is_told_that_it_may_ask(call):
    """A client without a server of its own learns of its unchoking here."""
    answer = call("/have_blocks_info", {"blocks_info": [False] * TOTAL, "sender_id": "friend"})
    assert (answer.status_code, answer.json["unchoked"], answer.json["retry_after_s"]) == (200, True, 0.0)


def test_the_blocks_told_replace_what_was_known(peer, call):
    """A peer that lost blocks (a crash, a torn disk) must not be asked for them."""
    for flags in ([True] * TOTAL, [False] * 11 + [True]):
        assert call("/have_blocks_info", {"blocks_info": flags, "sender_id": "friend"}).status_code == 200
        assert peer.known_peers["127.0.0.1:50001"]["blocks_info"] == flags


@pytest.mark.parametrize(
    ("message", "ip", "status"),
    [
        (b"{", "127.0.0.1", 400),
        ({"sender_id": "friend"}, "127.0.0.1", 400),
        ({"blocks_info": [1] * TOTAL, "sender_id": "friend"}, "127.0.0.1", 400),
        ({"blocks_info": [True] * (TOTAL - 1), "sender_id": "friend"}, "127.0.0.1", 400),
        ({"blocks_info": [True] * (TOTAL + 1), "sender_id": "nobody"}, "127.0.0.1", 400),
        ({"blocks_info": [], "sender_id": "friend"}, "127.0.0.1", 400),
        ({"blocks_info": [True] * TOTAL, "sender_id": "nobody"}, "127.0.0.1", 404),
        ({"blocks_info": [True] * TOTAL, "sender_id": "friend"}, "127.0.0.2", 404),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_bitfields_are_refused_and_change_nothing(peer, call, message, ip, status):
    """A bitfield of another file must not be taken for this one's."""
    answer = call("/have_blocks_info", message, ip=ip)
    assert answer.status_code == status
    assert answer.json["status"] == "error"
    assert answer.json["message"]
    assert not any(peer.known_peers["127.0.0.1:50001"]["blocks_info"])
    assert len(peer.known_peers) == 2


# -- POST /announce_block ----------------------------------------------------------------------------------------------


def test_announced_blocks_are_marked(peer, call):
    """One block as in the specification, or several in one message."""
    assert call("/announce_block", {"block_index": 4, "sender_id": "friend"}).json["status"] == "success"
    assert (
        call("/announce_block", {"block_index": 6, "sender_id": "friend", "block_indices": [7, 11]}).status_code == 200
    )
    flags = peer.known_peers["127.0.0.1:50001"]["blocks_info"]
    assert [index for index, flag in enumerate(flags) if flag] == [4, 6, 7, 11]


@pytest.mark.parametrize(
    ("message", "ip", "status"),
    [
        (b"\x00", "127.0.0.1", 400),
        ({"sender_id": "friend"}, "127.0.0.1", 400),
        ({"block_index": -1, "sender_id": "friend"}, "127.0.0.1", 400),
        ({"block_index": TOTAL, "sender_id": "friend"}, "127.0.0.1", 400),
        ({"block_index": TOTAL, "sender_id": "nobody"}, "127.0.0.1", 400),
        ({"block_index": 1, "sender_id": "friend", "block_indices": [2, TOTAL]}, "127.0.0.1", 400),
        ({"block_index": 1, "sender_id": "nobody"}, "127.0.0.1", 404),
        ({"block_index": 1, "sender_id": "friend"}, "127.0.0.2", 404),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_announcements_are_refused_and_change_nothing(peer, call, message, ip, status):
    """Nobody marks blocks in another's name, or beyond the file."""
    answer = call("/announce_block", message, ip=ip)
    assert answer.status_code == status
    assert answer.json["status"] == "error"
    assert not any(peer.known_peers["127.0.0.1:50001"]["blocks_info"])


# -- the rest ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "status"),
    [
        (b"}", 400),
        ({"sender_id": "friend"}, 400),
        ({"sender_id": "friend", "listen_port": 50001, "block_indices": [TOTAL]}, 400),
        ({"sender_id": "friend", "listen_port": 50001, "suggest": 10**9, "standing": True}, 200),
        ({"sender_id": "me", "listen_port": 50005}, 404),
    ],
)
def test_offers_of_turns_are_checked_too(call, message, status):
    """The route is MiniBit's own, and as exposed as the others; an offer from myself is nobody's."""
    assert call("/offer_turn", message).status_code == status


@pytest.mark.parametrize("path", ["/request_block", "/have_blocks_info", "/announce_block"])
def test_other_methods_are_405_and_other_paths_404(peer, path):
    """A browser that looks in must not be taken for a peer."""
    client = peer.app.test_client()
    assert client.get(path).status_code == 405
    assert client.get("/").status_code == 404
    assert client.post(path + "/x").status_code == 404


@pytest.mark.parametrize("path", ["/request_block", "/have_blocks_info", "/announce_block", "/offer_turn"])
def test_a_body_beyond_every_message_is_refused(peer, post, path):
    """One neighbour must not fill another's memory."""
    peer.start_listening_for_peers()
    assert post(peer.listen_port, path, b"x" * 200_000).status == 413


def test_the_table_of_neighbours_is_bounded(peer, call):
    """Anyone can send listen_ports: strangers must not push the memory up without end."""
    for port in range(1, 200):
        call("/have_blocks_info", {"blocks_info": [False] * TOTAL, "sender_id": f"s{port}", "listen_port": port})
    assert len(peer.known_peers) == 50
    assert "127.0.0.1:50001" in peer.known_peers
