"""The tracker over real HTTP under waitress, as a process, and its routes in process."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime

import psutil
import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from minibit.errors import UsageError
from minibit.serving import MAX_BODY_BYTES
from minibit.tracker import TrackerApp
from minibit.tracker import __main__ as tracker_main
from minibit.tracker.service import canonical_ip

DEADLINE_S = 20.0
INFO_HASH = "0123456789abcdef0123456789abcdef01234567"


class Clock:
    """A clock that moves when told to."""

    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s


def wait_for(condition, what):
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s, f"waited {DEADLINE_S} s for {what}"
        threading.Event().wait(0.005)


@contextmanager
def serving(tracker):
    tracker.start()
    try:
        with requests.Session() as session:
            session.trust_env = False
            yield tracker.url, session
    finally:
        tracker.stop()


@pytest.fixture
def tracker():
    return TrackerApp("127.0.0.1", 0, rng_seed=1)


def register(tracker, peer_id, ip="127.0.0.1", **fields):
    body = {"peer_id": peer_id, "listen_port": 50001, **fields}
    return tracker.app.test_client().post("/register", json=body, environ_base={"REMOTE_ADDR": ip})


def ask(tracker, **query):
    return tracker.app.test_client().get("/peers", query_string=query)


def names(answer):
    return [peer["peer_id"] for peer in answer.json["peers"]]


# The seed's class


def test_the_seeds_positional_arguments_and_attributes(monkeypatch):
    """Programs written against the seed run unchanged."""
    monkeypatch.setenv("TRACKER_PORT", "1234")
    tracker = TrackerApp("127.0.0.2", 9000, 12)
    assert (tracker.host, tracker.port, tracker.total_file_blocks) == ("127.0.0.2", 9000, 12)
    assert tracker.connected_peers == {}
    assert tracker.app.name == "minibit.tracker"


def test_arguments_left_out_come_from_the_environment_then_the_fallback(monkeypatch):
    """One variable points a whole exercise at another tracker."""
    monkeypatch.delenv("TRACKER_HOST", raising=False)
    monkeypatch.delenv("TRACKER_PORT", raising=False)
    assert (TrackerApp().host, TrackerApp().port, TrackerApp().total_file_blocks) == ("127.0.0.1", 9000, 50)
    monkeypatch.setenv("TRACKER_HOST", "127.0.0.3")
    monkeypatch.setenv("TRACKER_PORT", "9123")
    assert TrackerApp().url == "http://127.0.0.3:9123"


@pytest.mark.parametrize("value", ["", "http", "-1", "65536", "٣"])
def test_a_port_in_the_environment_that_cannot_be_is_named(monkeypatch, value):
    """A typing mistake must not surface as a traceback of int()."""
    monkeypatch.setenv("TRACKER_PORT", value)
    with pytest.raises(UsageError, match="TRACKER_PORT must be a number from 0 to 65535"):
        TrackerApp()


@pytest.mark.parametrize(
    "options",
    [
        {"total_file_blocks": -1},
        {"initial_blocks": "all"},
        {"peer_ttl_s": 0},
        {"peer_ttl_s": float("nan")},
        {"interval_s": 0},
        {"interval_s": 120, "peer_ttl_s": 120},
        {"threads": 0},
    ],
)
def test_options_that_cannot_be_are_refused_by_name(options):
    """An interval as long as the time to live, say, would make every peer blink."""
    with pytest.raises(UsageError, match=next(iter(options))):
        TrackerApp(**options)


def test_connected_peers_shows_registrations_and_hands_out_what_is_written(tracker):
    """The contract's word for it is live, in both directions."""
    initial_blocks = register(tracker, "a").json["initial_blocks"]
    assert tracker.connected_peers == {"a": {"ip": "127.0.0.1", "port": 50001, "blocks_owned": initial_blocks}}
    tracker.connected_peers["b"] = {"ip": "10.1.2.3", "port": 7, "blocks_owned": [3]}
    assert {"peer_id": "b", "ip": "10.1.2.3", "port": 7, "blocks_owned": [3]} in ask(tracker, peer_id="a").json["peers"]
    del tracker.connected_peers["b"]
    assert names(ask(tracker, peer_id="a")) == []


# POST /register


def test_registering_answers_with_blocks_interval_and_the_others(tracker):
    """The one message every peer starts with."""
    first = register(tracker, "a").json
    assert first["status"] == "success"
    assert 17 <= len(set(first["initial_blocks"])) <= 25
    assert first["peers"] == []
    assert first["interval_s"] == 30.0
    second = register(tracker, "b", ip="10.0.0.2").json
    entry = {"peer_id": "a", "ip": "127.0.0.1", "port": 50001, "blocks_owned": first["initial_blocks"]}
    assert second["peers"] == [entry]


def test_three_peers_own_every_block_under_the_default_policy(tracker):
    """Otherwise the seed's simulation could never end."""
    blocks = [register(tracker, name).json["initial_blocks"] for name in "abc"]
    assert set().union(*blocks) == set(range(50))


def test_a_peer_keeps_its_own_blocks_and_gets_the_initial_ones_on_top():
    """The seed's Peer starts with a few blocks of its own."""
    tracker = TrackerApp(total_file_blocks=4, rng_seed=3)
    initial_blocks = register(tracker, "a", blocks_owned=[1]).json["initial_blocks"]
    assert 1 not in initial_blocks  # somebody owns it: the caller
    assert tracker.connected_peers["a"]["blocks_owned"] == sorted({1, *initial_blocks})


@pytest.mark.parametrize("fields", [{"info_hash": INFO_HASH}, {"seed": True}])
def test_peers_of_a_real_file_and_seeds_get_no_initial_blocks(tracker, fields):
    """Blocks of a real file come from its seed, not out of thin air."""
    assert register(tracker, "a", **fields).json["initial_blocks"] == []


def test_the_policy_none_gives_no_blocks_and_random_gives_some():
    """Both are documented choices."""
    assert register(TrackerApp(initial_blocks="none"), "a").json["initial_blocks"] == []
    assert 1 <= len(register(TrackerApp(initial_blocks="random"), "a").json["initial_blocks"]) <= 25


def test_the_same_rng_seed_gives_the_same_blocks_and_hand_outs():
    """A run can be repeated."""

    def run():
        tracker = TrackerApp(rng_seed=9)
        return [register(tracker, str(number), numwant=3).json for number in range(12)]

    assert run() == run()


def test_more_than_fifty_others_are_a_random_fifty(tracker):
    """The answer stays small however large the swarm is."""
    for number in range(60):
        register(tracker, str(number), info_hash=INFO_HASH)
    handed_out = names(register(tracker, "caller", info_hash=INFO_HASH))
    assert len(handed_out) == len(set(handed_out)) == 50
    assert "caller" not in handed_out
    assert len(names(register(tracker, "caller", info_hash=INFO_HASH, numwant=7))) == 7


def test_a_seed_is_shown_and_counted_as_one(tracker):
    """Leechers prefer not to offer blocks to those who have all of them."""
    register(tracker, "s", info_hash=INFO_HASH, seed=True)
    register(tracker, "c", info_hash=INFO_HASH)
    register(tracker, "c", info_hash=INFO_HASH, event="completed")
    register(tracker, "c", info_hash=INFO_HASH)
    handed_out = register(tracker, "l", info_hash=INFO_HASH, event="started").json["peers"]
    assert {peer["peer_id"]: peer.get("seed") for peer in handed_out} == {"s": True, "c": True}
    assert tracker.service.stats()["seeds"] == 2
    register(tracker, "c", info_hash=INFO_HASH, event="started")  # it began anew, with an empty directory
    assert tracker.service.stats()["seeds"] == 1


def test_stopped_removes_the_peer_and_hands_out_nobody(tracker):
    """Who leaves properly is not asked for blocks any more."""
    register(tracker, "a")
    register(tracker, "b")
    answer = register(tracker, "a", event="stopped")
    assert answer.json == {"status": "success", "initial_blocks": [], "peers": [], "interval_s": 30.0}
    assert list(tracker.connected_peers) == ["b"]
    assert register(tracker, "never seen", event="stopped").status_code == 200


def test_a_name_in_use_from_another_address_is_a_conflict(tracker):
    """The first one stays: nobody can hijack a peer by its name."""
    register(tracker, "a", ip="10.0.0.1")
    refused = register(tracker, "a", ip="10.0.0.2", listen_port=1)
    assert refused.status_code == 409
    assert refused.json == {"status": "error", "message": "peer_id 'a' is registered from another address"}
    assert register(tracker, "a", ip="10.0.0.2", event="stopped").status_code == 409
    assert tracker.connected_peers["a"]["port"] == 50001


def test_the_address_is_the_connections_and_may_be_named_only_from_loopback(tracker):
    """A payload that chose the address would aim a swarm at any host."""
    register(tracker, "far", ip="10.0.0.1", listen_port=1)
    body = {"peer_id": "liar", "listen_port": 1, "ip": "10.9.9.9"}
    tracker.app.test_client().post("/register", json=body, environ_base={"REMOTE_ADDR": "10.0.0.2"})
    body = {"peer_id": "beside", "listen_port": 1, "ip": "10.0.0.3"}
    for _ in range(2):  # the second is no conflict with what the first one named
        answer = tracker.app.test_client().post("/register", json=body)
        assert answer.status_code == 200
    addresses = {name: entry["ip"] for name, entry in tracker.connected_peers.items()}
    assert addresses == {"far": "10.0.0.1", "liar": "10.0.0.2", "beside": "10.0.0.3"}


@pytest.mark.parametrize(
    ("seen", "handed_out"), [("10.0.0.1", "10.0.0.1"), ("::ffff:10.0.0.1", "10.0.0.1"), ("FE80::0:1", "fe80::1")]
)
def test_addresses_are_handed_out_in_one_form(seen, handed_out):
    """An IPv4 peer seen through an IPv6 socket must be reachable by IPv4 peers, and be the same peer."""
    assert canonical_ip(seen) == handed_out


def test_a_peer_not_heard_from_is_gone_after_its_time_to_live():
    """Crashed peers say no good-bye."""
    clock = Clock()
    tracker = TrackerApp(peer_ttl_s=10, clock=clock)
    register(tracker, "a")
    register(tracker, "b")
    clock.now_s = 6.0
    register(tracker, "b")
    ask(tracker, peer_id="a")
    clock.now_s = 10.0
    assert names(ask(tracker)) == ["b"]
    assert register(tracker, "a", ip="10.0.0.2").status_code == 200


# GET /peers


def test_fewer_than_five_others_are_all_handed_out_and_of_more_a_random_five(tracker):
    """The seed's rule."""
    for number in range(5):
        register(tracker, str(number))
    assert sorted(names(ask(tracker, peer_id="0"))) == ["1", "2", "3", "4"]
    for number in range(5, 20):
        register(tracker, str(number))
    hand_outs = [names(ask(tracker, peer_id="0")) for _ in range(60)]
    assert {len(set(hand_out)) for hand_out in hand_outs} == {5}
    assert set().union(*hand_outs) == {str(number) for number in range(1, 20)}


def test_numwant_chooses_how_many(tracker):
    """A peer that lost its neighbours asks for more at once."""
    for number in range(60):
        register(tracker, str(number), info_hash=INFO_HASH)
    assert len(names(ask(tracker, info_hash=INFO_HASH, numwant=50))) == 50
    assert len(names(ask(tracker, info_hash=INFO_HASH, numwant=1))) == 1
    assert names(ask(tracker, numwant=50)) == []


def test_a_caller_without_a_name_is_answered(tracker):
    """The seed: the caller's id may be given."""
    register(tracker, "a")
    assert names(ask(tracker)) == ["a"]
    assert names(ask(tracker, peer_id="stranger")) == ["a"]


# Errors


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b"", "Input data was truncated"),
        (b"not json", "malformed"),
        (b"[]", "Expected `object`, got `array`"),
        (b'{"listen_port": 1}', "missing required field `peer_id`"),
        (b'{"peer_id": "a"}', "missing required field `listen_port`"),
        (b'{"peer_id": "", "listen_port": 1}', "length >= 1 - at `$.peer_id`"),
        (b'{"peer_id": 7, "listen_port": 1}', "Expected `str`, got `int` - at `$.peer_id`"),
        (b'{"peer_id": "' + b"x" * 201 + b'", "listen_port": 1}', "length <= 200 - at `$.peer_id`"),
        (b'{"peer_id": "\xff", "listen_port": 1}', "invalid start byte"),
        (b'{"peer_id": "a", "listen_port": 0}', "`int` >= 1 - at `$.listen_port`"),
        (b'{"peer_id": "a", "listen_port": 65536}', "`int` <= 65535 - at `$.listen_port`"),
        (b'{"peer_id": "a", "listen_port": "1"}', "Expected `int`, got `str` - at `$.listen_port`"),
        (b'{"peer_id": "a", "listen_port": true}', "Expected `int`, got `bool` - at `$.listen_port`"),
        (b'{"peer_id": "a", "listen_port": 1, "info_hash": "zz"}', "at `$.info_hash`"),
        (b'{"peer_id": "a", "listen_port": 1, "blocks_owned": 3}', "Expected `array | null`, got `int`"),
        (b'{"peer_id": "a", "listen_port": 1, "blocks_owned": [0, "1"]}', "at `$.blocks_owned[1]`"),
        (b'{"peer_id": "a", "listen_port": 1, "blocks_owned": [-1]}', "`int` >= 0 - at `$.blocks_owned[0]`"),
        (b'{"peer_id": "a", "listen_port": 1, "blocks_owned": [50]}', "$.blocks_owned: no block 50"),
        (b'{"peer_id": "a", "listen_port": 1, "blocks_owned": [' + b"9" * 30 + b"]}", "$.blocks_owned: no block 999"),
        (b'{"peer_id": "a", "listen_port": 1, "event": "paused"}', "$.event: must be one of started, completed"),
        (b'{"peer_id": "a", "listen_port": 1, "seed": 1}', "Expected `bool`, got `int` - at `$.seed`"),
        (b'{"peer_id": "a", "listen_port": 1, "numwant": 51}', "`int` <= 50 - at `$.numwant`"),
        (b'{"peer_id": "a", "listen_port": 1, "ip": "here"}', "$.ip: 'here' is not an IP address"),
        (b'{"peer_id": "a", "listen_port": 1, "ip": "0.0.0.0"}', "$.ip: 0.0.0.0 is not the address of one host"),
        (b'{"x": ' + b"[" * 100_000, "recursion"),
    ],
)
def test_a_bad_registration_is_told_what_is_wrong_and_where_and_nothing_is_stored(tracker, body, complaint):
    """The person at the other end has only this message to go by."""
    answer = tracker.app.test_client().post("/register", data=body)
    assert answer.status_code == 400
    assert answer.content_type == "application/json"
    assert answer.json["status"] == "error"
    assert complaint in answer.json["message"]
    assert len(tracker.connected_peers) == 0


def test_block_lists_of_other_swarms_are_bounded_too(tracker):
    """One index of 10^9 would be a set of 125 MB."""
    assert register(tracker, "a", info_hash=INFO_HASH, blocks_owned=[4095]).status_code == 200
    refused = register(tracker, "b", info_hash=INFO_HASH, blocks_owned=[10**9])
    assert refused.status_code == 400
    assert "indices run from 0 to 4095" in refused.json["message"]
    assert names(ask(tracker, info_hash=INFO_HASH)) == ["a"]


@pytest.mark.parametrize(
    ("query", "complaint"),
    [
        ({"numwant": "0"}, "numwant: must be a whole number from 1 to 50, not '0'"),
        ({"numwant": "51"}, "numwant"),
        ({"numwant": "five"}, "numwant"),
        ({"numwant": ""}, "numwant"),
        ({"numwant": "9" * 5000}, "numwant"),
        ({"info_hash": INFO_HASH[:-1]}, "info_hash: must be 40 lower-case hexadecimal digits"),
        ({"info_hash": INFO_HASH + "\n"}, "info_hash"),
    ],
)
def test_a_bad_question_is_told_what_is_wrong(tracker, query, complaint):
    """Silently taking a default would hide the mistake."""
    answer = ask(tracker, **query)
    assert answer.status_code == 400
    assert complaint in answer.json["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 404), ("GET", "/register", 405), ("POST", "/peers", 405), ("DELETE", "/stats", 405)],
)
def test_unknown_routes_and_methods_are_refused_in_json(tracker, method, path, status):
    """A client parses every answer the same way."""
    answer = tracker.app.test_client().open(path, method=method)
    assert answer.status_code == status
    assert answer.content_type == "application/json"
    assert answer.json["message"].startswith(f"{method} {path}: ")
    assert ("Allow" in answer.headers) == (status == 405)


def test_a_failure_of_the_tracker_itself_is_a_500_in_json(tracker, monkeypatch, caplog):
    """Even then the client gets JSON, and the operator the traceback."""
    monkeypatch.setattr(tracker.service, "stats", lambda: 1 / 0)
    answer = tracker.app.test_client().get("/stats")
    assert answer.status_code == 500
    assert answer.json["status"] == "error"
    assert "ZeroDivisionError" in caplog.text


def test_a_body_over_one_mebibyte_is_refused_in_process(tracker):
    """The limit holds whatever server stands in front."""
    answer = tracker.app.test_client().post("/register", data=b" " * (MAX_BODY_BYTES + 1))
    assert answer.status_code == 413
    assert answer.json["status"] == "error"


def test_stats_counts_peers_and_requests_by_route_and_status(tracker):
    """What a load test and an operator look at."""
    register(tracker, "a")
    register(tracker, "b", info_hash=INFO_HASH, seed=True)
    register(tracker, "c", listen_port=0)
    ask(tracker)
    tracker.app.test_client().get("/nowhere")
    tracker.app.test_client().get("/elsewhere")
    stats = tracker.app.test_client().get("/stats").json
    assert stats.pop("uptime_s") > 0
    assert stats == {
        "status": "success",
        "peers": 2,
        "seeds": 1,
        "swarms": 2,
        "expired": 0,
        "requests": {"/register": {"200": 2, "400": 1}, "/peers": {"200": 1}, "other": {"404": 2}},
    }


# Under waitress


def test_the_routes_answer_over_http_and_the_port_becomes_the_real_one(tracker):
    """Port 0 is how everything that starts a tracker avoids collisions."""
    with serving(tracker) as (url, session):
        assert tracker.port > 0
        answer = session.post(f"{url}/register", json={"peer_id": "a", "listen_port": 50001}, timeout=DEADLINE_S)
        assert answer.status_code == 200
        assert tracker.connected_peers["a"]["ip"] == "127.0.0.1"
        answer = session.get(f"{url}/peers", params={"peer_id": "b"}, timeout=DEADLINE_S)
        assert [peer["peer_id"] for peer in answer.json()["peers"]] == ["a"]
        assert session.get(f"{url}/stats", timeout=DEADLINE_S).json()["peers"] == 1
        with pytest.raises(RuntimeError, match="already serving"):
            tracker.start()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", tracker.port), timeout=DEADLINE_S)


def test_sixteen_clients_over_http_are_all_registered(tracker):
    """Several threads answer at once: nobody may be lost on the way."""
    with serving(tracker) as (url, _):

        def work(client_number):
            connection = http.client.HTTPConnection("127.0.0.1", tracker.port, timeout=DEADLINE_S)
            for number in range(20):
                body = json.dumps({"peer_id": f"{client_number}-{number}", "listen_port": 50001})
                connection.request("POST", "/register", body)
                assert connection.getresponse().read().startswith(b'{"initial_blocks"'), url
            connection.close()

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(work, range(16)))
        assert len(tracker.connected_peers) == 320


def announce_body_of(tracker, length):
    """Announce a body of that length without sending it; return status, content type and body of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", tracker.port, timeout=DEADLINE_S)
    connection.putrequest("POST", "/register")
    connection.putheader("Content-Length", str(length))
    connection.endheaders()
    answer = connection.getresponse()
    result = answer.status, answer.headers["Content-Type"], answer.read()
    connection.close()
    return result


def test_a_body_over_one_mebibyte_is_refused_over_http_before_it_is_sent(tracker):
    """A huge body must not be read first."""
    with serving(tracker):
        status, content_type, body = announce_body_of(tracker, MAX_BODY_BYTES + 1)
    assert status == 413
    assert content_type.startswith("application/json")
    assert json.loads(body)["status"] == "error"


def test_a_body_of_exactly_one_mebibyte_is_taken(tracker):
    """The limit is on what is longer."""
    body = b'{"peer_id": "a", "listen_port": 1}'
    with serving(tracker) as (url, session):
        answer = session.post(f"{url}/register", data=body.ljust(MAX_BODY_BYTES), timeout=DEADLINE_S)
    assert answer.status_code == 200


def test_run_binds_every_address_and_blocks_until_stop(tracker):
    """The seed's main program: build it, call run()."""
    thread = threading.Thread(target=tracker.run)
    thread.start()
    wait_for(lambda: tracker._server, "the tracker to serve")
    assert tracker._server.host == "0.0.0.0"
    with requests.Session() as session:
        assert session.get(f"http://127.0.0.2:{tracker.port}/stats", timeout=DEADLINE_S).status_code == 200
    assert thread.is_alive()
    tracker.stop()
    thread.join(DEADLINE_S)
    assert not thread.is_alive()
    tracker.stop()


def test_a_socket_given_is_the_one_served_on():
    """A launcher binds before it forks, so that the port is known and kept."""
    sock = socket.create_server(("127.0.0.1", 0))
    tracker = TrackerApp(sock=sock)
    port = sock.getsockname()[1]
    assert tracker.port == port
    with serving(tracker) as (url, session):
        assert session.get(f"{url}/stats", timeout=DEADLINE_S).status_code == 200
        assert url == f"http://127.0.0.1:{port}"


def test_a_socket_given_and_never_served_is_closed_by_stop():
    """Nothing is left open when a start-up fails half-way."""
    sock = socket.create_server(("127.0.0.1", 0))
    TrackerApp(sock=sock).stop()
    assert sock.fileno() == -1


def test_the_tracker_serves_again_after_a_stop_with_its_peers(tracker):
    """A restart in a test or a notebook must not need a new object."""
    with serving(tracker):
        register(tracker, "a")
    with serving(tracker) as (url, session):
        assert session.get(f"{url}/stats", timeout=DEADLINE_S).json()["peers"] == 1


def test_ipv6_addresses_make_a_proper_url():
    """The port must not be read as part of the address."""
    assert TrackerApp("::1", 9000).url == "http://[::1]:9000"
    assert TrackerApp("0.0.0.0", 9000).url == "http://127.0.0.1:9000"


# As a process


@contextmanager
def tracker_process(*arguments, env=None, command=("-m", "minibit.tracker"), **popen_options):
    """Start ``python -m minibit.tracker``; yield the process and the port it reported."""
    ready_read, ready_write = os.pipe()
    command = [sys.executable, *command, "--ready-fd", str(ready_write), *arguments]
    pass_fds = (ready_write, *popen_options.pop("pass_fds", ()))
    environment = {**os.environ, **(env or {})}
    process = subprocess.Popen(
        command, pass_fds=pass_fds, stderr=subprocess.PIPE, text=True, env=environment, **popen_options
    )
    os.close(ready_write)
    try:
        with os.fdopen(ready_read) as pipe:
            yield process, pipe.read()  # up to its end: the tracker closes the descriptor after the line
    finally:
        process.kill()
        process.wait(DEADLINE_S)
        process.stderr.close()


@pytest.mark.parametrize("server", ["waitress", "granian"])
@pytest.mark.parametrize("stop_signal", [signal.SIGTERM, signal.SIGINT])
def test_the_process_reports_its_port_says_one_line_and_leaves_on_a_signal(stop_signal, server):
    """How launchers, load tests and operators run it."""
    options = ["--port", "0", "--total-blocks", "9", "--initial-blocks", "none", "--server", server]
    with tracker_process(*options) as (process, report):
        assert report.endswith("\n")
        connection = http.client.HTTPConnection("127.0.0.1", int(report), timeout=DEADLINE_S)
        connection.request("POST", "/register", b'{"peer_id": "a", "listen_port": 1, "blocks_owned": [9]}')
        assert b"no block 9, indices run from 0 to 8" in connection.getresponse().read()
        connection.request("POST", "/register", b'{"peer_id": "a", "listen_port": 1}')
        assert json.loads(connection.getresponse().read())["initial_blocks"] == []
        connection.close()
        process.send_signal(stop_signal)
        assert process.wait(DEADLINE_S) == 0
        assert process.stderr.read() == f"tracker listening on http://127.0.0.1:{int(report)}\n"


def test_the_process_listens_where_the_environment_says():
    """The contract's variables hold for the command line too."""
    with tracker_process(env={"TRACKER_HOST": "127.0.0.7", "TRACKER_PORT": "0"}) as (_, report):
        connection = http.client.HTTPConnection("127.0.0.7", int(report), timeout=DEADLINE_S)
        connection.request("GET", "/stats")
        assert connection.getresponse().status == 200
        connection.close()


@pytest.mark.parametrize("server", ["waitress", "granian"])
def test_the_process_leaves_when_its_parents_end_of_the_pipe_closes(server):
    """A parent killed outright cannot send a signal; its tracker must not stay behind."""
    stop_read, stop_write = os.pipe()
    options = ["--port", "0", "--server", server, "--stop-fd", str(stop_read)]
    with tracker_process(*options, pass_fds=[stop_read]) as (process, report):
        os.close(stop_read)
        assert int(report) > 0
        assert process.poll() is None
        processes = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        os.close(stop_write)
        assert process.wait(DEADLINE_S) == 0
        assert psutil.wait_procs(processes[1:], DEADLINE_S)[1] == []


def test_granians_worker_leaves_when_its_parent_is_killed():
    """It has the registry and the port: left behind, it would keep both."""
    with tracker_process("--port", "0", "--server", "granian") as (process, report):
        assert int(report) > 0
        workers = psutil.Process(process.pid).children(recursive=True)
        assert workers
        process.kill()
        assert psutil.wait_procs(workers, DEADLINE_S)[1] == []


def samples(text):
    """Return {(name, labels): value} of an exposition, read by Prometheus's own parser."""
    families = text_string_to_metric_families(text)
    return {(sample.name, *sorted(sample.labels.items())): sample.value for each in families for sample in each.samples}


def test_metrics_are_what_prometheus_reads(tracker):
    """Every route and status, how long they took, who is listed; bencoded failures apart, whose status is 200."""
    register(tracker, "a", info_hash=INFO_HASH)
    register(tracker, "b", info_hash=INFO_HASH, seed=True)
    register(tracker, "b", listen_port=0)
    tracker.app.test_client().get("/announce?port=0")
    tracker.app.test_client().get("/scrape")
    tracker.app.test_client().get("/nowhere")
    answer = tracker.app.test_client().get("/metrics")
    assert answer.content_type.startswith("text/plain; version=")
    found = samples(answer.text)
    for route, status, number in (
        ("/register", "200", 2), ("/register", "400", 1), ("/announce", "failure", 1), ("/scrape", "failure", 1),
        ("other", "404", 1),
    ):  # fmt: skip
        assert found["minibit_tracker_requests_total", ("route", route), ("status", status)] == number
    assert found["minibit_tracker_request_seconds_count", ("route", "/register")] == 3
    assert found["minibit_tracker_request_seconds_bucket", ("le", "+Inf"), ("route", "/register")] == 3
    assert 0 < found["minibit_tracker_request_seconds_sum", ("route", "/register")] < 3
    assert found["minibit_tracker_peers",] == 2
    assert found["minibit_tracker_seeds",] == 1
    assert found["minibit_tracker_swarms",] == 1
    assert found["process_resident_memory_bytes",] > 1_000_000
    assert ("minibit_tracker_queue_depth",) not in found  # nobody serves


def test_metrics_count_the_expired_and_the_queue_while_it_serves():
    """What only a tracker at work has."""
    clock = Clock()
    tracker = TrackerApp("127.0.0.1", 0, clock=clock, peer_ttl_s=10.0)
    with serving(tracker) as (url, session):
        session.post(f"{url}/register", json={"peer_id": "a", "listen_port": 1})
        clock.now_s = 11.0
        found = samples(session.get(f"{url}/metrics").text)
        assert found["minibit_tracker_expired_peers_total",] == 1
        assert found["minibit_tracker_queue_depth",] == found["minibit_tracker_shed_total",] == 0
        assert session.get(f"{url}/stats").json()["expired"] == 1


@pytest.mark.parametrize("server", ["waitress", "granian"])
def test_the_access_log_has_a_line_for_each_request(tmp_path, server):
    """JSON, so that any tool reads it; a refused request stands in it like any other."""
    path = tmp_path / "access.log"
    with tracker_process("--port", "0", "--access-log", str(path), "--server", server) as (process, report):
        url = f"http://127.0.0.1:{int(report)}"
        requests.post(f"{url}/register", json={"peer_id": "a", "listen_port": 1}, timeout=DEADLINE_S)
        requests.get(f"{url}/peers?peer_id=a", timeout=DEADLINE_S)
        requests.get(f"{url}/announce?port=x", timeout=DEADLINE_S)
        requests.get(f"{url}/nowhere", timeout=DEADLINE_S)
        wait_for(lambda: len(path.read_text().splitlines()) == 4, "four lines")
        process.terminate()
        assert process.wait(DEADLINE_S) == 0
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["method"], line["path"], line["query"], line["status"]) for line in lines] == [
        ("POST", "/register", "", 200),
        ("GET", "/peers", "peer_id=a", 200),
        ("GET", "/announce", "port=x", 200),
        ("GET", "/nowhere", "", 404),
    ]
    assert all(line["ip"] == "127.0.0.1" and line["bytes"] > 0 and 0 <= line["ms"] < 1000 for line in lines)
    assert all(datetime.fromisoformat(line["time"]).tzinfo for line in lines)


def test_the_access_log_may_be_rotated_and_its_place_must_be_writable(tmp_path):
    """Logrotate moves the file away while the tracker runs; a folder that is not there is one line at the start."""
    path = tmp_path / "access.log"
    tracker = TrackerApp("127.0.0.1", 0, access_log=str(path))
    with serving(tracker) as (url, session):
        session.get(f"{url}/stats", timeout=DEADLINE_S)
        path.rename(tmp_path / "access.log.1")
        session.get(f"{url}/stats", timeout=DEADLINE_S)
    assert len(path.read_text().splitlines()) == len((tmp_path / "access.log.1").read_text().splitlines()) == 1
    with pytest.raises(UsageError, match="cannot write the access log"):
        TrackerApp("127.0.0.1", 0, access_log=str(tmp_path / "no" / "access.log"))


def test_without_being_asked_no_request_is_logged(tmp_path, capfd):
    """A line for each of 3,000 requests a second would fill a disk within a day."""
    with serving(TrackerApp("127.0.0.1", 0)) as (url, session):
        session.get(f"{url}/stats", timeout=DEADLINE_S)
    assert capfd.readouterr() == ("", "")


def test_granian_answers_the_same_routes_and_refuses_a_large_body():
    """The same WSGI application; what waitress refuses by itself is refused here too."""
    with tracker_process("--port", "0", "--server", "granian", "--peer-ttl", "8") as (_, report):
        connection = http.client.HTTPConnection("127.0.0.1", int(report), timeout=DEADLINE_S)

        def ask(method, path, body=None):
            connection.request(method, path, body)
            answer = connection.getresponse()
            return answer.status, answer.read()

        assert json.loads(ask("POST", "/register", b'{"peer_id": "a", "listen_port": 1}')[1])["interval_s"] == 2.0
        assert [peer["ip"] for peer in json.loads(ask("GET", "/peers?peer_id=b")[1])["peers"]] == ["127.0.0.1"]
        query = f"/announce?info_hash={'a' * 20}&peer_id={'b' * 20}&port=1&left=1"
        assert b"10:incompletei1e" in ask("GET", query)[1]
        assert ask("GET", f"/scrape?info_hash={'a' * 20}")[1].startswith(b"d5:files")
        assert ask("GET", "/nowhere")[0] == 404
        assert ask("POST", "/register", b"x" * (1024 * 1024 + 1))[0] == 413
        connection.close()


def test_a_peer_ttl_on_the_command_line_has_its_effect():
    """A knob without an effect is a lie: the interval is a quarter of it."""
    with tracker_process("--port", "0", "--peer-ttl", "8") as (_, report):
        connection = http.client.HTTPConnection("127.0.0.1", int(report), timeout=DEADLINE_S)
        connection.request("POST", "/register", b'{"peer_id": "a", "listen_port": 1}')
        assert json.loads(connection.getresponse().read())["interval_s"] == 2.0
        connection.close()


@pytest.mark.parametrize(
    "command", [["-m", "minibit.tracker"], ["-c", "from minibit.cli import main; main()", "tracker"]]
)
def test_the_announce_interval_on_either_command_line_has_its_effect(command):
    """Give or take a tenth."""
    with tracker_process("--port", "0", "--announce-interval", "60", command=command) as (_, report):
        connection = http.client.HTTPConnection("127.0.0.1", int(report), timeout=DEADLINE_S)
        connection.request("GET", f"/announce?info_hash={'a' * 20}&peer_id={'b' * 20}&port=1&left=1")
        interval = re.search(rb"8:intervali(\d+)e", connection.getresponse().read())
        assert 54 <= int(interval[1]) <= 66
        connection.close()


def test_a_port_in_use_is_one_line_and_exit_code_two(capsys):
    """The commonest mistake of all: the tracker already runs."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert tracker_main.main(["--port", str(port)]) == 2
    assert capsys.readouterr().err == f"error: cannot listen on 127.0.0.1:{port}: the port is in use\n"


def test_a_port_in_use_is_said_under_granian_too(capsys):
    """It binds with SO_REUSEPORT, which must not hide that somebody else listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert tracker_main.main(["--port", str(port), "--server", "granian"]) == 2
    assert capsys.readouterr().err == f"error: cannot listen on 127.0.0.1:{port}: the port is in use\n"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--port", "many"], "error: argument --port: invalid int value: 'many'"),
        (["--port", "70000"], "error: cannot listen on 127.0.0.1:70000"),
        (["--initial-blocks", "all"], "invalid choice: 'all'"),
        (["--peer-ttl", "0"], "error: peer_ttl_s must be positive"),
        (["--port", "0", "--ready-fd", "987"], "--ready-fd 987: cannot report the port: Bad file descriptor"),
        (["--port", "0", "--stop-fd", "987"], "--stop-fd 987: Bad file descriptor"),
        (["--colour"], "unrecognized arguments: --colour"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line_and_exit_code_two(capsys, arguments, complaint):
    """No traceback for a typing mistake."""
    assert tracker_main.main(arguments) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert complaint in error
    assert "Traceback" not in error
