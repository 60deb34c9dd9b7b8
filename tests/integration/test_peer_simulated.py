"""The specification's program: simulated peers as threads, with every attribute and method it names."""

import copy
import inspect
import json
import threading
import time
from collections.abc import MutableMapping

import flask
import pytest

from minibit.core import events as ev
from minibit.errors import UsageError
from minibit.peers import Peer
from minibit.peers.driver import Driver
from minibit.tracker import TrackerApp

TIMEOUT_S = 20.0
METHODS = (
    "_find_available_port _setup_peer_api_routes request_block_handler have_blocks_info_handler announce_block_handler "
    "connect_to_tracker request_peer_list_from_tracker start_listening_for_peers _initialize_partial_blocks run"
)


@pytest.fixture
def peer():
    """Return a peer that owns no block yet and is in no swarm."""
    peer = Peer("me", 12, rng_seed=1)
    peer.blocks_owned[:] = [False] * 12
    yield peer
    peer.stop()


def call(peer, path, message, *, ip="127.0.0.1", accept="*/*"):
    return peer.app.test_client().post(
        path, json=message, headers={"Accept": accept}, environ_base={"REMOTE_ADDR": ip}, buffered=True
    )


def introduce(peer, sender_id="other", port=50001, flags=None):
    message = {"sender_id": sender_id, "listen_port": port, "blocks_info": flags or [False] * peer.total_blocks}
    assert call(peer, "/have_blocks_info", message).status_code == 200
    return f"127.0.0.1:{port}"


# -- the program of the specification ----------------------------------------------------------------------------------


def test_the_specifications_program_ends_with_equal_complete_files(monkeypatch, wait_until):
    """A TrackerApp in one thread, peers that call run() in others: what the specification describes, word for word."""
    tracker = TrackerApp("127.0.0.1", 0, total_file_blocks=30)
    running = [threading.Thread(target=tracker.run, args=("127.0.0.1",), daemon=True)]
    running[0].start()
    wait_until(lambda: tracker.port, "the tracker's port")
    monkeypatch.setenv("TRACKER_HOST", "127.0.0.1")
    monkeypatch.setenv("TRACKER_PORT", str(tracker.port))
    peers = [Peer(f"peer-{number}", 30) for number in range(4)]
    try:
        running += [threading.Thread(target=peer.run, daemon=True) for peer in peers]
        for thread in running[1:]:
            thread.start()
        wait_until(lambda: all(peer.file_complete for peer in peers), "every file")
        assert all(peer.wait_complete(TIMEOUT_S) for peer in peers)
        contents = [dict(peer.block_data) for peer in peers]
        assert contents[0] == contents[1] == contents[2] == contents[3]
        assert sorted(contents[0]) == list(range(30))
        assert all(list(peer.blocks_owned) == [True] * 30 for peer in peers)
    finally:
        for peer in peers:
            peer.stop()
        tracker.stop()
        for thread in running:
            thread.join(TIMEOUT_S)
    assert not any(thread.is_alive() for thread in running)


def test_content_follows_from_file_name_and_index_alone():
    """Peers built in different processes must agree on every block, and two files must differ."""
    peers = [Peer("a", 4), Peer("b", 4), Peer("c", 4, "another.txt")]
    for peer in peers:
        peer.blocks_owned[:] = [True] * 4
    a, b, c = (dict(peer.block_data) for peer in peers)
    for peer in peers:
        peer.stop()
    assert a == b
    assert len(set(a.values()) | set(c.values())) == 8


def test_run_serves_on_after_completion_for_as_long_as_told(tracker):
    """A peer that left at the first moment would take its blocks away from the others."""
    peer = Peer("alone", 3, tracker_url=tracker.url, linger_s=0.3, port=0)
    peer.blocks_owned[:] = [True] * 3
    begin_s = time.monotonic()
    peer.run()
    assert 0.3 <= time.monotonic() - begin_s < TIMEOUT_S
    assert tracker.connected_peers == {}


# -- attributes and methods --------------------------------------------------------------------------------------------


def test_every_attribute_of_the_specification_has_its_type():
    """Programs written against the specification read these fourteen names."""
    peer = Peer("id-1", 40)
    try:
        assert (peer.peer_id, peer.total_blocks, peer.file_name) == ("id-1", 40, "shared_file.txt")
        assert isinstance(peer.blocks_owned, list)
        assert len(peer.blocks_owned) == 40
        assert {type(flag) for flag in peer.blocks_owned} <= {bool}
        assert isinstance(peer.block_data, MutableMapping)
        assert sorted(peer.block_data) == [index for index, flag in enumerate(peer.blocks_owned) if flag]
        assert isinstance(peer.known_peers, MutableMapping)
        assert dict(peer.known_peers) == {}
        assert 50000 <= peer.listen_port <= 60000
        assert peer.peer_url == f"http://127.0.0.1:{peer.listen_port}"
        assert isinstance(peer.unchoked_peers, set)
        assert isinstance(peer.choked_peers, set)
        assert peer.optimistic_unchoke is None
        assert type(peer.last_unchoke_time) is float
        assert isinstance(peer.app, flask.Flask)
        assert peer.file_complete is False
    finally:
        peer.stop()


def test_every_method_of_the_specification_exists():
    """Subclasses override them by name; the constructor takes the specification's positional arguments."""
    assert [name for name in METHODS.split() if not inspect.isfunction(getattr(Peer, name, None))] == []
    names = list(inspect.signature(Peer).parameters)
    assert names[:3] == ["peer_id", "total_blocks", "file_name"]


def test_the_constructor_owns_a_random_quarter_at_most():
    """The specification's simulation starts from partial files."""
    counts = []
    for seed in range(30):
        peer = Peer("p", 40, rng_seed=seed)
        counts.append(sum(peer.blocks_owned))
        peer.stop()
    assert max(counts) <= 10
    assert len(set(counts)) > 3


def test_the_trackers_initial_blocks_come_on_top(wait_until):
    """connect_to_tracker takes in what the tracker assigns, and the peers it names."""
    tracker = TrackerApp("127.0.0.1", 0, total_file_blocks=40, rng_seed=1)
    tracker.start()
    other, peer = Peer("other", 40, tracker_url=tracker.url), Peer("me", 40, tracker_url=tracker.url)
    try:
        other.connect_to_tracker()
        before = {index for index, flag in enumerate(peer.blocks_owned) if flag}
        answer = peer.connect_to_tracker()
        assert len(answer.initial_blocks) >= 14
        assert {index for index, flag in enumerate(peer.blocks_owned) if flag} == before | set(answer.initial_blocks)
        known = peer.known_peers[f"127.0.0.1:{other.listen_port}"]
        assert (known["ip"], known["port"], known["peer_id"]) == ("127.0.0.1", other.listen_port, "other")
        assert known["unchokes_me"] is False
        assert len(known["blocks_info"]) == 40
        assert any(known["blocks_info"])
        assert [entry.peer_id for entry in peer.request_peer_list_from_tracker()] == ["other"]
    finally:
        other.stop()
        peer.stop()
        tracker.stop()


# -- live and mutable --------------------------------------------------------------------------------------------------


def test_a_block_marked_as_owned_is_served(peer):
    """A test or a lesson sets the state by hand and watches the routes."""
    key = introduce(peer)
    peer.unchoked_peers.add(key)
    request = {"block_index": 3, "sender_id": "other"}
    assert call(peer, "/request_block", request).status_code == 404
    peer.blocks_owned[3] = True
    assert call(peer, "/request_block", request).json["type"] == "SEND_BLOCK"
    assert 3 in peer.block_data
    peer.blocks_owned[3] = False
    assert call(peer, "/request_block", request).status_code == 404
    assert 3 not in peer.block_data


def test_content_set_by_hand_is_what_is_served(peer):
    """The specification's example keeps text in block_data."""
    key = introduce(peer)
    peer.unchoked_peers.add(key)
    peer.block_data[2] = "Conteúdo do bloco 2"
    peer.blocks_owned[2] = True
    request = {"block_index": 2, "sender_id": "other"}
    raw = call(peer, "/request_block", request, accept="application/octet-stream")
    assert raw.data.decode() == "Conteúdo do bloco 2"


def test_who_is_put_into_unchoked_peers_is_served(peer):
    """The set is the request handler's own, not a copy."""
    key = introduce(peer)
    peer.blocks_owned[0] = True
    request = {"block_index": 0, "sender_id": "other"}
    assert key in peer.choked_peers
    assert call(peer, "/request_block", request).status_code == 403
    peer.unchoked_peers.add(key)
    assert call(peer, "/request_block", request).status_code == 200
    peer.unchoked_peers.discard(key)
    assert call(peer, "/request_block", request).status_code == 403


def test_a_peer_put_into_known_peers_is_known_to_the_routes(peer):
    """Also without a peer_id: the key itself is a name then."""
    flags = [True] + [False] * 11
    peer.known_peers["127.0.0.1:50007"] = {"ip": "127.0.0.1", "port": 50007, "blocks_info": flags}
    assert peer.known_peers["127.0.0.1:50007"]["blocks_info"] == flags
    assert call(peer, "/announce_block", {"block_index": 5, "sender_id": "127.0.0.1:50007"}).status_code == 200
    assert peer.known_peers["127.0.0.1:50007"]["blocks_info"][5] is True
    del peer.known_peers["127.0.0.1:50007"]
    assert len(peer.known_peers) == 0
    assert call(peer, "/announce_block", {"block_index": 5, "sender_id": "127.0.0.1:50007"}).status_code == 404
    with pytest.raises(KeyError):
        del peer.known_peers["127.0.0.1:50007"]


def test_a_whole_attribute_that_is_replaced_counts_too(peer):
    """Half of all programs assign a new list or set; the routes must not go on with the old one in silence."""
    key = introduce(peer)
    peer.blocks_owned = [True] * 12
    peer.unchoked_peers = {key}
    assert call(peer, "/request_block", {"block_index": 7, "sender_id": "other"}).status_code == 200
    assert peer.file_complete


def test_the_number_of_blocks_cannot_change(peer):
    """A longer list would lie about the file."""
    for change in (lambda flags: flags.append(True), lambda flags: flags.pop(), lambda flags: flags.__delitem__(0)):
        with pytest.raises(TypeError, match="cannot change"):
            change(peer.blocks_owned)
    with pytest.raises(ValueError, match="cannot change"):
        peer.blocks_owned[0:2] = [True]
    with pytest.raises(IndexError):
        peer.blocks_owned[12] = True
    assert len(peer.blocks_owned) == 12


def test_the_attributes_can_be_copied_and_printed(peer):
    """Debuggers and JSON do both."""
    peer.blocks_owned[-1] = True
    introduce(peer)
    assert json.loads(json.dumps(peer.blocks_owned)) == [False] * 11 + [True]
    assert copy.deepcopy(peer.blocks_owned) == [False] * 11 + [True]
    assert "127.0.0.1:50001" in repr(peer.known_peers)


def test_a_block_given_up_is_fetched_and_kept_again(tracker, wait_until):
    """A block that was downloaded, dropped by hand and downloaded again must be owned in every view."""
    giver, taker = (Peer(name, 6, tracker_url=tracker.url, port=0) for name in ("giver", "taker"))
    try:
        giver.blocks_owned[:] = [True] * 6
        taker.blocks_owned[:] = [False] * 5 + [False]
        giver.join()
        taker.join()
        wait_until(lambda: all(taker.blocks_owned), "the first download")
        taker.blocks_owned[2] = False
        assert not taker.file_complete
        wait_until(lambda: taker.file_complete, "the second download")
        wait_until(lambda: all(taker.blocks_owned), "blocks_owned to follow", timeout_s=3)
        assert sorted(taker.block_data) == list(range(6))
    finally:
        taker.stop()
        giver.stop()


# -- ports and the environment -----------------------------------------------------------------------------------------


def test_the_port_range_of_the_environment_is_kept_to(monkeypatch):
    """Firewalls open a range; a port found free is kept bound, so nobody takes it in between."""
    monkeypatch.setenv("PEER_LISTEN_PORT_START", "50100")
    monkeypatch.setenv("PEER_LISTEN_PORT", "50102")
    peers = [Peer(f"p{number}", 1) for number in range(3)]
    try:
        assert sorted(peer.listen_port for peer in peers) == [50100, 50101, 50102]
        with pytest.raises(UsageError, match="no free port from 50100 to 50102"):
            Peer("p3", 1)
    finally:
        for peer in peers:
            peer.stop()


@pytest.mark.parametrize(
    ("start", "end"), [("http", "50102"), ("50100", ""), ("50100", "50000"), ("50100", "70000"), ("-5", "9")]
)
def test_a_port_range_that_cannot_be_is_named_in_one_line(monkeypatch, start, end):
    """A typing mistake must not surface as a traceback of int() or sample()."""
    monkeypatch.setenv("PEER_LISTEN_PORT_START", start)
    monkeypatch.setenv("PEER_LISTEN_PORT", end)
    with pytest.raises(UsageError, match="PEER_LISTEN_PORT") as caught:
        Peer("p", 1)
    assert "\n" not in str(caught.value)


def test_a_peer_that_was_never_started_stops_and_frees_its_port():
    """Building one to look at it must leave nothing behind."""
    peer = Peer("p", 4)
    port = peer.listen_port
    peer.stop()
    peer.stop()
    again = Peer("q", 4, port=port)
    assert again.listen_port == port
    again.stop()


# -- the driver --------------------------------------------------------------------------------------------------------


class _TwoAlarms:
    """A session that wants to be woken in an hour after the first event, at once after the second."""

    def __init__(self):
        self.ticked = threading.Event()
        self._wakeups_s = [3600.0, 0.05]

    def handle(self, event, now_s):
        if isinstance(event, ev.Tick):
            self.ticked.set()
        return [ev.Finish()]

    def next_wakeup_s(self, now_s):
        return now_s + (self._wakeups_s.pop(0) if self._wakeups_s else 3600.0)


def test_a_thread_that_lags_behind_never_postpones_a_later_alarm(monkeypatch):
    """Two threads feed events; the one that was first under the lock sets the alarm last, with a time that is stale."""
    session, first_is_out, second_is_done = _TwoAlarms(), threading.Event(), threading.Event()
    driver = Driver(session, lambda _action: None)

    def lag(_action):
        if not first_is_out.is_set():
            first_is_out.set()
            second_is_done.wait(1.0)

    monkeypatch.setattr(driver, "_set_in_motion", lag)
    driver.start()
    laggard = threading.Thread(target=driver.feed, args=(ev.TrackerFailed(),))
    laggard.start()
    assert first_is_out.wait(TIMEOUT_S)
    driver.feed(ev.TrackerFailed())
    second_is_done.set()
    laggard.join(TIMEOUT_S)
    woken = session.ticked.wait(2.0)
    driver.stop()
    driver.join()
    assert woken
