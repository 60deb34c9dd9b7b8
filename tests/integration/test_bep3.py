"""BitTorrent clients at the tracker: GET /announce and GET /scrape, as BEP 3, 7, 23 and 48 have them."""

import http.client
import ipaddress
from urllib.parse import quote

import bencode2
import pytest

from minibit.tracker import TrackerApp

INFO_HASH = bytes(range(1, 21))
SWARM = INFO_HASH.hex()
OTHER_HASH = b"\xff%&+=#" * 3 + b"xy"  # bytes that a query must escape
INTERVAL_S = 300


class Clock:
    """A clock that moves when told to."""

    now_s = 0.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def tracker(clock):
    return TrackerApp("127.0.0.1", 0, rng_seed=1, clock=clock, announce_interval_s=INTERVAL_S)


def peer_id(number):
    return b"-XX0001-%012d" % number


def query(number, info_hash=INFO_HASH, **fields):
    given = {"port": 6881 + number, "uploaded": 0, "downloaded": 0, "left": 1, "compact": 1, **fields}
    text = "&".join(f"{name}={value}" for name, value in given.items() if value is not None)
    return f"info_hash={quote(info_hash)}&peer_id={quote(peer_id(number))}&{text}"


def announce(tracker, number, ip="10.0.0.1", **fields):
    """Announce as client ``number``; return the decoded answer."""
    client = tracker.app.test_client()
    answer = client.get(f"/announce?{query(number, **fields)}", environ_base={"REMOTE_ADDR": ip})
    assert answer.status_code == 200
    assert answer.content_type.startswith("text/plain")
    return bencode2.bdecode(answer.data)


def scrape(tracker, *hashes):
    answer = tracker.app.test_client().get("/scrape?" + "&".join(f"info_hash={quote(each)}" for each in hashes))
    assert answer.status_code == 200
    return bencode2.bdecode(answer.data)


def addresses(compact, width=6):
    """Return {(ip, port)} of peers in compact form."""
    assert len(compact) % width == 0
    parts = [compact[start : start + width] for start in range(0, len(compact), width)]
    found = [(str(ipaddress.ip_address(part[:-2])), int.from_bytes(part[-2:], "big")) for part in parts]
    assert len(set(found)) == len(found), "a peer was handed out twice"
    return set(found)


def test_peers_are_told_of_each_other_in_compact_form_and_never_of_themselves(tracker):
    """BEP 23, which every client of today asks for."""
    first = announce(tracker, 1, ip="10.0.0.1")
    assert first[b"peers"] == b""
    assert (first[b"complete"], first[b"incomplete"]) == (0, 1)
    second = announce(tracker, 2, ip="10.0.0.2", left=0)
    assert addresses(second[b"peers"]) == {("10.0.0.1", 6882)}
    assert (second[b"complete"], second[b"incomplete"]) == (1, 1)
    assert addresses(announce(tracker, 1, ip="10.0.0.1")[b"peers"]) == {("10.0.0.2", 6883)}


def test_the_answer_is_canonical_bencoding(tracker):
    """Keys in order: strict decoders refuse anything else."""
    announce(tracker, 1)
    client = tracker.app.test_client()
    for form in (0, 1):
        raw = client.get(f"/announce?{query(2, compact=form)}", environ_base={"REMOTE_ADDR": "10.0.0.2"}).data
        assert bencode2.bencode(bencode2.bdecode(raw)) == raw


def test_the_original_form_lists_dictionaries(tracker):
    """BEP 3; ``no_peer_id`` leaves the names out."""
    announce(tracker, 1, ip="10.0.0.1")
    entry = {b"ip": b"10.0.0.1", b"port": 6882}
    assert announce(tracker, 2, compact=0)[b"peers"] == [{**entry, b"peer id": peer_id(1)}]
    assert announce(tracker, 2, compact=0, no_peer_id=1)[b"peers"] == [entry]
    assert addresses(announce(tracker, 2, compact=None)[b"peers"]) == {("10.0.0.1", 6882)}


@pytest.mark.parametrize(
    ("numwant", "handed_out"), [(None, 50), (0, 0), (1, 1), (7, 7), (-1, 50), (150, 150), (999, 200)]
)
def test_numwant_chooses_how_many(tracker, numwant, handed_out):
    """50 where it is left out or -1 (as some clients write it), 200 at most."""
    for number in range(250):
        announce(tracker, number, numwant=0)
    assert len(addresses(announce(tracker, 7, numwant=numwant)[b"peers"])) == handed_out


def test_ipv6_peers_have_a_list_of_their_own_and_both_share_numwant(tracker):
    """BEP 7; one peer_id may announce from both families."""
    for number in range(20):
        announce(tracker, number, ip=f"10.0.0.{number + 1}")
        announce(tracker, number, ip=f"2001:db8::{number + 1:x}")
    everyone = announce(tracker, 0, ip="2001:db8::1", numwant=200)
    v4, v6 = addresses(everyone[b"peers"]), addresses(everyone[b"peers6"], 18)
    assert len(v4) == 20
    assert len(v6) == 19
    assert ("2001:db8::1", 6881) not in v6
    assert everyone[b"incomplete"] == 40
    for _ in range(30):
        some = announce(tracker, 3, ip="10.0.0.4", numwant=10)
        found = addresses(some[b"peers"]), addresses(some.get(b"peers6", b""), 18)
        assert len(found[0]) + len(found[1]) == 10
        assert ("10.0.0.4", 6884) not in found[0]


def test_an_ipv4_client_seen_through_an_ipv6_socket_is_an_ipv4_client(tracker):
    """A dual-stack server sees ::ffff:10.0.0.1."""
    announce(tracker, 1, ip="::ffff:10.0.0.1")
    assert addresses(announce(tracker, 2)[b"peers"]) == {("10.0.0.1", 6882)}


def test_the_address_is_the_connections(tracker):
    """``ip=`` would aim a swarm at any host."""
    told = f"/announce?{query(1)}&ip=10.9.9.9"
    tracker.app.test_client().get(told, environ_base={"REMOTE_ADDR": "10.0.0.1"})
    assert addresses(announce(tracker, 2)[b"peers"]) == {("10.0.0.1", 6882)}


def test_lives_are_counted(tracker):
    """started, completed, stopped; a download is counted once however often it is said."""
    announce(tracker, 1, event="started")
    assert scrape(tracker, INFO_HASH)[b"files"][INFO_HASH] == {b"complete": 0, b"downloaded": 0, b"incomplete": 1}
    announce(tracker, 1, event="completed", left=0)
    announce(tracker, 1, event="completed", left=0)
    assert scrape(tracker, INFO_HASH)[b"files"][INFO_HASH] == {b"complete": 1, b"downloaded": 1, b"incomplete": 0}
    announce(tracker, 2, event="paused", ip="10.0.0.2")
    left = announce(tracker, 1, event="stopped", left=0)
    assert left[b"peers"] == b""
    assert (left[b"complete"], left[b"incomplete"]) == (0, 1)
    assert announce(tracker, 3, ip="10.0.0.3", event="")[b"incomplete"] == 2


def test_a_scrape_tells_of_the_swarms_named(tracker):
    """BEP 48; one that nobody is in is all zeros, and asking stores nothing."""
    announce(tracker, 1, info_hash=OTHER_HASH, left=0)
    files = scrape(tracker, INFO_HASH, OTHER_HASH)[b"files"]
    assert files[OTHER_HASH] == {b"complete": 1, b"downloaded": 0, b"incomplete": 0}
    assert files[INFO_HASH] == {b"complete": 0, b"downloaded": 0, b"incomplete": 0}
    assert tracker.registry.totals().swarms == 1
    assert b"name the swarms" in scrape(tracker)[b"failure reason"]
    assert b"at most 100" in scrape(tracker, *[bytes(20)] * 101)[b"failure reason"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"info_hash": b"short"}, b"info_hash must be 20 bytes, not 5"),
        ({"info_hash": b""}, b"info_hash must be 20 bytes, not 0"),
        ({"port": 0}, b"port must be a number from 1 to 65535, not '0'"),
        ({"port": None}, b"port must be a number from 1 to 65535"),
        ({"port": 65536}, b"port must be"),
        ({"port": "http"}, b"port must be a number, not 'http'"),
        ({"left": -1}, b"left must not be negative"),
        ({"left": "1_0"}, b"left must be a number"),
        ({"numwant": "many"}, b"numwant must be a number, not 'many'"),
        ({"event": "begun"}, b"event must be started, completed, stopped or paused, not 'begun'"),
    ],
)
def test_a_bad_announce_is_told_what_is_wrong_and_nothing_is_stored(tracker, change, complaint):
    """As a failure reason with status 200: clients show it to their users."""
    answer = announce(tracker, 1, **change)
    assert list(answer) == [b"failure reason"]
    assert complaint in answer[b"failure reason"]
    assert tracker.registry.totals().peers == 0


@pytest.mark.parametrize("text", ["", "&", "=&=", "info_hash", "%", "info_hash=%ZZ&peer_id=%&port=%", "\xff\xfe=\x00"])
def test_noise_is_a_failure_reason_too(tracker, text):
    """Whatever a stranger writes, a client can read the answer."""
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/announce", "QUERY_STRING": text, "REMOTE_ADDR": "10.0.0.1"}
    statuses = []
    body = b"".join(tracker.app.wsgi_app(environ, lambda status, _headers: statuses.append(status)))
    assert statuses == ["200 OK"]
    assert list(bencode2.bdecode(body)) == [b"failure reason"]


def test_a_peer_is_known_elsewhere_only_by_its_key(tracker):
    """Nobody else can move or stop it; with its key a client that changed its address goes on."""
    announce(tracker, 1, ip="10.0.0.1", key="secret")
    for event in ("", "stopped"):
        refused = announce(tracker, 1, ip="10.0.0.66", key="guess", event=event)
        assert b"registered from another address" in refused[b"failure reason"]
    announce(tracker, 1, ip="10.0.0.9", key="secret")
    assert addresses(announce(tracker, 2)[b"peers"]) == {("10.0.0.9", 6882)}


def test_announces_are_spread_over_time(tracker):
    """A restart or a flash crowd must not come back as one, interval after interval."""
    answers = [announce(tracker, number) for number in range(200)]
    intervals = [answer[b"interval"] for answer in answers]
    assert 0.9 * INTERVAL_S <= min(intervals) < 0.95 * INTERVAL_S
    assert 1.05 * INTERVAL_S < max(intervals) <= 1.1 * INTERVAL_S
    assert {answer[b"min interval"] for answer in answers} == {INTERVAL_S // 2}


def test_clients_live_by_the_announce_interval_and_rest_peers_by_theirs(tracker, clock):
    """One registry, two rhythms: libtorrent announces every five minutes, a MiniBit peer every thirty seconds."""
    announce(tracker, 1)
    body = {"peer_id": "rest", "listen_port": 1, "info_hash": SWARM}
    tracker.app.test_client().post("/register", json=body)
    clock.now_s = 121.0
    asked = tracker.app.test_client().get(f"/peers?info_hash={SWARM}").json["peers"]
    assert [(peer["ip"], peer["port"]) for peer in asked] == [("10.0.0.1", 6882)]
    clock.now_s = 2.5 * INTERVAL_S + 1
    assert tracker.registry.totals().peers == 0


def test_both_doors_lead_to_the_same_swarm(tracker):
    """One registry: who came by POST /register is in an announce's answer, and the other way round."""
    body = {"peer_id": "a long name with more than twenty letters: ∞", "listen_port": 1, "info_hash": SWARM}
    tracker.app.test_client().post("/register", json=body, environ_base={"REMOTE_ADDR": "10.0.0.7"})
    assert addresses(announce(tracker, 1)[b"peers"]) == {("10.0.0.7", 1)}
    entry = announce(tracker, 1, compact=0)[b"peers"][0]
    assert len(entry[b"peer id"]) == 20
    found = tracker.app.test_client().get(f"/peers?info_hash={SWARM}&peer_id={quote(body['peer_id'])}").json["peers"]
    assert [peer["peer_id"].encode("latin-1") for peer in found] == [peer_id(1)]


def test_other_methods_are_refused(tracker):
    """BEP 3 knows GET; HEAD comes with it."""
    client = tracker.app.test_client()
    assert client.post("/announce").status_code == 405
    head = client.head(f"/announce?{query(1)}")
    assert (head.status_code, head.data) == (200, b"")


def test_announces_over_http_and_the_counters(tracker):
    """The real server, one connection; /stats counts each route."""
    tracker.start()
    try:
        connection = http.client.HTTPConnection("127.0.0.1", tracker.port, timeout=10)
        for number in range(3):
            connection.request("GET", f"/announce?{query(number)}")
            answer = bencode2.bdecode(connection.getresponse().read())
            assert len(addresses(answer[b"peers"])) == number
        connection.request("GET", f"/scrape?info_hash={quote(INFO_HASH)}")
        assert bencode2.bdecode(connection.getresponse().read())[b"files"][INFO_HASH][b"incomplete"] == 3
        connection.close()
    finally:
        tracker.stop()
    assert tracker.service.stats()["requests"] == {"/announce": {"200": 3}, "/scrape": {"200": 1}}
