"""The tracker's side of BitTorrent over HTTP: queries of announce and scrape in, bencoded answers out.

BEP 3 with BEP 7 (IPv6), 21 (``paused``), 23 (compact) and 48 (scrape). No state, no socket; what is wrong with a query
is a ValueError whose text goes to the client as the failure reason.
"""

from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

import bencode2

from minibit.tracker.registry import Census, Window

CONTENT_TYPE = "text/plain"
NUMWANT_DEFAULT = 50
NUMWANT_MAX = 200
SCRAPES_MAX = 100  # swarms in one question
EVENTS = frozenset({"", "started", "completed", "stopped", "paused"})
_HASH_BYTES = 20
_PEER_ID_BYTES = 20


class AnnounceQuery(NamedTuple):
    """What a client says of itself. ``peer_id`` are its 20 bytes as characters 0 to 255."""

    swarm_key: str  # 40 hexadecimal digits
    peer_id: str
    port: int
    complete: bool
    event: str
    numwant: int
    compact: bool
    no_peer_id: bool
    key: str | None


def parse_announce(query: str) -> AnnounceQuery:
    """Read the query string of GET /announce. Raise ValueError that names the parameter and what is wrong with it.

    ``ip``, ``uploaded`` and ``downloaded`` are taken in and ignored.
    """
    given: dict[str, str] = {}
    for part in query.split("&"):
        name, _, value = part.partition("=")
        given.setdefault(name, value)
    event = given.get("event", "")
    if event not in EVENTS:
        raise ValueError(f"event must be started, completed, stopped or paused, not {event!r:.40}")
    left = _number(given, "left", 1)
    if left < 0:
        raise ValueError(f"left must not be negative: {left}")
    port = _number(given, "port", 0)
    if not 1 <= port <= 65535:
        raise ValueError(f"port must be a number from 1 to 65535, not {given.get('port', '')!r:.40}")
    numwant = _number(given, "numwant", NUMWANT_DEFAULT)
    return AnnounceQuery(
        swarm_key=_swarm_key(given.get("info_hash", "")),
        peer_id=_peer_id(given.get("peer_id", "")),
        port=port,
        complete=left == 0,
        event=event,
        numwant=min(numwant, NUMWANT_MAX) if numwant >= 0 else NUMWANT_DEFAULT,
        compact=given.get("compact") != "0",
        no_peer_id=given.get("no_peer_id") == "1",
        key=given.get("key"),
    )


def parse_scrape(query: str) -> list[str]:
    """Read the query string of GET /scrape: the swarms asked about. Raise ValueError as ``parse_announce`` does."""
    pairs = (part.partition("=") for part in query.split("&"))
    keys = [_swarm_key(value) for name, _, value in pairs if name == "info_hash"]
    if not keys:
        raise ValueError("info_hash is missing: name the swarms, this tracker does not list all of them")
    if len(keys) > SCRAPES_MAX:
        raise ValueError(f"info_hash: at most {SCRAPES_MAX} in one question, not {len(keys)}")
    return keys


def announce_answer(
    window: Window, *, interval_s: int, min_interval_s: int, compact: bool = True, no_peer_id: bool = False
) -> bytes:
    """Return the answer to an announce; written by hand, for it is what a tracker does all day."""
    census = window.census
    if compact:
        peers = b"%d:%b" % (len(window.ipv4), window.ipv4)
    else:
        peers = bencode2.bencode([_entry(*peer, no_peer_id=no_peer_id) for peer in window.peers])
    peers6 = b"6:peers6%d:%b" % (len(window.ipv6), window.ipv6) if window.ipv6 else b""
    return b"d8:completei%de10:incompletei%de8:intervali%de12:min intervali%de5:peers%b%be" % (
        census.complete, census.incomplete, interval_s, min_interval_s, peers, peers6,
    )  # fmt: skip


def scrape_answer(censuses: dict[str, Census]) -> bytes:
    """Return the answer to a scrape; a swarm nobody is in has zeros."""
    files = {
        bytes.fromhex(key): {b"complete": of.complete, b"downloaded": of.downloaded, b"incomplete": of.incomplete}
        for key, of in censuses.items()
    }
    return bytes(bencode2.bencode({b"files": files}))


def failure(reason: str) -> bytes:
    """Return the answer to a query that cannot be granted."""
    return bytes(bencode2.bencode({b"failure reason": reason.encode()}))


def is_failure(answer: bytes) -> bool:
    """Whether this is what ``failure`` made."""
    return answer.startswith(b"d14:failure reason")


def _entry(peer_id: str, ip: str, port: int, *, no_peer_id: bool) -> dict[bytes, bytes | int]:
    entry: dict[bytes, bytes | int] = {b"ip": ip.encode(), b"port": port}
    return entry if no_peer_id else {**entry, b"peer id": _peer_id_bytes(peer_id)}


def _peer_id_bytes(peer_id: str) -> bytes:
    """Return a peer's 20 bytes; of a name that is none (a peer that came by POST /register), its beginning, filled."""
    try:
        encoded = peer_id.encode("latin-1")
    except UnicodeEncodeError:
        encoded = peer_id.encode()
    return encoded[:_PEER_ID_BYTES].ljust(_PEER_ID_BYTES, b"-")


def _number(given: dict[str, str], name: str, default: int) -> int:
    text = given.get(name)
    if not text:
        return default
    if len(text) > 20 or not text.isascii() or not text.removeprefix("-").isdigit():
        raise ValueError(f"{name} must be a number, not {text!r:.40}")
    return int(text)


@lru_cache(maxsize=65536)  # every client of a swarm writes the same
def _swarm_key(escaped: str) -> str:
    info_hash = unquote_to_bytes(escaped.encode("latin-1"))
    if len(info_hash) != _HASH_BYTES:
        raise ValueError(f"info_hash must be {_HASH_BYTES} bytes, not {len(info_hash)}")
    return info_hash.hex()


def _peer_id(escaped: str) -> str:
    peer_id = unquote_to_bytes(escaped.encode("latin-1")) if "%" in escaped else escaped.encode("latin-1")
    if len(peer_id) != _PEER_ID_BYTES:
        raise ValueError(f"peer_id must be {_PEER_ID_BYTES} bytes, not {len(peer_id)}")
    return peer_id.decode("latin-1")
