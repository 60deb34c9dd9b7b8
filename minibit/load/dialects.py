"""The two protocols of a tracker, as a load test writes their requests and reads their answers. Pure."""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import quote_from_bytes

import bencode2
import msgspec

from minibit.load.population import Action, Answer, Kind
from minibit.wire import (
    ANNOUNCE,
    JSON,
    PEERS,
    REGISTER,
    SCRAPE,
    PeerEntry,
    RegisterRequest,
    decoder,
    encode,
)

EVENTS = (Kind.START, Kind.COMPLETE, Kind.STOP)
MALFORMED = "malformed answer"
OF_A_LEECHER = 1 << 20  # bytes left
IPV4_ENTRY, IPV6_ENTRY = struct.Struct(">4sH"), struct.Struct(">16sH")  # BEP 23, BEP 7


class WrongAnswerError(Exception):
    """An answer that is none: ``kind`` is what reports count it under, the text says more."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request; ``name`` is what reports call its kind."""

    name: str
    method: str
    target: str
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


class Dialect(Protocol):
    """What both protocols can."""

    def request(self, action: Action) -> Request:
        """Return the request that says it."""

    def read(self, action: Action, body: bytes) -> Answer:
        """Return what the body of a 200 says. Raise WrongAnswerError."""


class _Handed(msgspec.Struct):
    peers: list[PeerEntry]
    interval_s: float | None = None


class Rest:
    """MiniBit's own routes: POST /register, GET /peers."""

    def __init__(self) -> None:
        self._decode = decoder(_Handed).decode

    def request(self, action: Action) -> Request:
        """Return a registration or a question."""
        member = action.member
        info_hash = member.swarm.info_hash.hex()
        if action.kind is Kind.ASK:
            query = f"peer_id={member.peer_id}&info_hash={info_hash}&numwant={action.numwant}"
            return Request(PEERS, "GET", f"{PEERS}?{query}")
        body = RegisterRequest(
            member.peer_id,
            member.port,
            info_hash=info_hash,
            seed=member.seed,
            event=action.kind.value if action.kind in EVENTS else None,
            numwant=action.numwant,
        )
        return Request(f"{REGISTER} {action.kind.value}", "POST", REGISTER, encode(body), {"Content-Type": JSON})

    def read(self, action: Action, body: bytes) -> Answer:  # noqa: ARG002  every answer of these routes looks the same
        """Read a hand-out."""
        try:
            handed = self._decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise WrongAnswerError(MALFORMED, str(error)) from error
        return Answer([(peer.ip, peer.port) for peer in handed.peers], interval_s=handed.interval_s)


class Bep3:
    """What every BitTorrent tracker speaks: GET /announce, GET /scrape (BEP 3, 7, 23, 48)."""

    def request(self, action: Action) -> Request:
        """Return an announce or a scrape."""
        member = action.member
        info_hash = quote_from_bytes(member.swarm.info_hash, safe="")
        if action.kind is Kind.ASK:
            return Request(SCRAPE, "GET", f"{SCRAPE}?info_hash={info_hash}")
        event = f"&event={action.kind.value}" if action.kind in EVENTS else ""
        left = 0 if member.seed else OF_A_LEECHER
        query = (
            f"info_hash={info_hash}&peer_id={member.peer_id}&port={member.port}&uploaded=0&downloaded=0"
            f"&left={left}&compact=1&numwant={action.numwant}{event}"
        )
        return Request(f"{ANNOUNCE} {action.kind.value}", "GET", f"{ANNOUNCE}?{query}")

    def read(self, action: Action, body: bytes) -> Answer:
        """Read the peers of an announce, or the counts of a scrape."""
        try:
            answer = bencode2.bdecode(body)
            if b"failure reason" in answer:
                raise WrongAnswerError("failure reason", f"{answer[b'failure reason'].decode(errors='replace'):.100}")
            if action.kind is Kind.ASK:
                return Answer(total=_total(answer[b"files"][action.member.swarm.info_hash]))
            peers = [*_entries(answer[b"peers"], IPV4_ENTRY), *_entries(answer.get(b"peers6"), IPV6_ENTRY)]
            return Answer(peers, _total(answer), answer.get(b"interval"))
        except (bencode2.BencodeDecodeError, struct.error, ValueError, TypeError, KeyError, AttributeError) as error:
            raise WrongAnswerError(MALFORMED, f"{type(error).__name__} {error}") from error


DIALECTS: dict[str, type[Rest] | type[Bep3]] = {"rest": Rest, "bep3": Bep3}


def _total(census: Mapping[bytes, Any]) -> int | None:
    complete, incomplete = census.get(b"complete"), census.get(b"incomplete")
    return None if complete is None or incomplete is None else complete + incomplete


def _entries(peers: Any, entry: struct.Struct) -> list[tuple[object, int]]:
    """Return (address, port) of each peer, from bytes or from a list of dictionaries."""
    if isinstance(peers, list):
        return [(peer[b"ip"], peer[b"port"]) for peer in peers]
    return list(entry.iter_unpack(peers or b""))
