"""What each route of the tracker does, without a web framework: bytes and strings in, messages of ``minibit.wire`` out.

One implementation for whatever stands in front of it. A request that cannot be granted raises ``RefusedError``, and
nothing was stored then.
"""

import ipaddress
import time
from collections.abc import Callable
from random import Random
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from minibit.core.blocks import indices_of, mask_of
from minibit.errors import MiniBitError
from minibit.tracker import bep3, initial
from minibit.tracker.metrics import Tally
from minibit.tracker.registry import (
    DEFAULT_SWARM,
    AddressConflictError,
    Announcement,
    Registry,
    Window,
    check_indices,
)
from minibit.wire import NUMWANT_MAX, PeersAnswer, RegisterAnswer, RegisterRequest, decoder, is_info_hash

ANNOUNCE_JITTER = 0.1  # of the interval, either way: who came together does not stay together
ANNOUNCES_PER_TTL = 2.5  # a client that lost an announce is still listed
DEFAULT_NUMWANT = 5  # the seed: fewer than 5 others are all handed out, of more a random 5
EVENTS = ("started", "completed", "stopped")

_decode_register = decoder(RegisterRequest).decode


class RefusedError(MiniBitError):
    """A request that gets an error answer: its HTTP status, and the message for whoever sent it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class TrackerService:
    """The tracker's routes over one registry. Thread-safe.

    ``initial_blocks`` is the policy for newcomers of the default swarm, whose file has ``total_blocks`` blocks;
    ``interval_s`` is how often peers are told to register again, ``announce_interval_s`` how often BitTorrent clients
    are told to announce. ``rng`` chooses the initial blocks and spreads the announces.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        total_blocks: int,
        initial_blocks: initial.Policy,
        interval_s: float,
        announce_interval_s: float,
        rng: Random,
    ) -> None:
        self.registry = registry
        self._total_blocks = total_blocks
        self._policy = initial_blocks
        self._interval_s = interval_s
        self._announce_interval_s = announce_interval_s
        self._rng = rng
        self.tally = Tally()

    def register(self, body: bytes, connection_ip: str) -> RegisterAnswer:
        """Carry out POST /register for a JSON body that came from ``connection_ip``. Raise RefusedError 400 or 409."""
        request = _parse_register(body)
        swarm_key = _swarm_key(request.info_hash)
        source_ip = canonical_ip(connection_ip)
        try:
            if request.event == "stopped":
                self.registry.remove(swarm_key, request.peer_id, source_ip)
                return RegisterAnswer(initial_blocks=[], peers=[], interval_s=self._interval_s)
            return self._announce(swarm_key, request, source_ip)
        except AddressConflictError as error:
            raise RefusedError(409, str(error)) from error

    def peers(self, query: str) -> PeersAnswer:
        """Carry out GET /peers for its query string. Raise RefusedError 400."""
        given = dict(reversed(parse_qsl(query, keep_blank_values=True)))  # of one given twice the first counts
        count = _numwant(given.get("numwant"))
        swarm_key = _swarm_key(given.get("info_hash"))
        return PeersAnswer(peers=self.registry.sample(swarm_key, count=count, without=given.get("peer_id")))

    def announce(self, query: str, connection_ip: str) -> bytes:
        """Carry out GET /announce (BEP 3) for its query string; return the bencoded answer. Raise RefusedError."""
        try:
            asked = bep3.parse_announce(query)
            window = self._window(asked, canonical_ip(connection_ip))
        except (ValueError, AddressConflictError) as error:
            raise RefusedError(400, str(error)) from error
        spread = 1 + ANNOUNCE_JITTER * (2 * self._rng.random() - 1)
        return bep3.announce_answer(
            window,
            interval_s=max(1, round(self._announce_interval_s * spread)),
            min_interval_s=max(1, round(self._announce_interval_s / 2)),
            compact=asked.compact,
            no_peer_id=asked.no_peer_id,
        )

    def scrape(self, query: str) -> bytes:
        """Carry out GET /scrape (BEP 48) for its query string; return the bencoded answer. Raise RefusedError."""
        try:
            return bep3.scrape_answer({key: self.registry.census(key) for key in bep3.parse_scrape(query)})
        except ValueError as error:
            raise RefusedError(400, str(error)) from error

    def _window(self, asked: bep3.AnnounceQuery, source_ip: str) -> Window:
        # A client with an IPv4 and an IPv6 address announces from both, under one peer_id (BEP 7).
        name = (asked.peer_id, "IPv6") if ":" in source_ip else asked.peer_id
        if asked.event == "stopped":
            self.registry.remove(asked.swarm_key, name, source_ip, asked.key)
            return Window(self.registry.census(asked.swarm_key))
        announcement = Announcement(
            asked.peer_id,
            source_ip,
            source_ip,
            asked.port,
            seed=asked.complete,
            name=name,
            key=asked.key,
            ttl_s=ANNOUNCES_PER_TTL * self._announce_interval_s,
        )
        return self.registry.announce(
            asked.swarm_key,
            announcement,
            count=asked.numwant,
            one_by_one=not asked.compact,
            completed=asked.event == "completed",
        )

    def stats(self) -> dict[str, Any]:
        """Return the counters of GET /stats: live peers, seeds and swarms; requests by route and status; uptime."""
        totals = self.registry.totals()
        return {
            "status": "success",
            "peers": totals.peers,
            "seeds": totals.seeds,
            "swarms": totals.swarms,
            "expired": self.registry.expired,
            "requests": self.tally.requests(),
            "uptime_s": time.monotonic() - self.tally.born_s,
        }

    def _announce(self, swarm_key: str, request: RegisterRequest, source_ip: str) -> RegisterAnswer:
        announcement = Announcement(
            peer_id=request.peer_id,
            source_ip=source_ip,
            ip=_handed_out_ip(request.ip, source_ip),
            port=request.listen_port,
            blocks=self._blocks_of(request, swarm_key),
            seed=_seed_of(request),
        )
        count = NUMWANT_MAX if request.numwant is None else request.numwant
        registration = self.registry.register(
            swarm_key, announcement, count=count, grant=self._grant(swarm_key, request)
        )
        initial_blocks = list(indices_of(registration.initial_blocks))
        return RegisterAnswer(initial_blocks=initial_blocks, peers=registration.peers, interval_s=self._interval_s)

    def _blocks_of(self, request: RegisterRequest, swarm_key: str) -> int | None:
        if request.blocks_owned is None:
            return None
        total_blocks = self._total_blocks if swarm_key == DEFAULT_SWARM else None
        try:
            check_indices(request.blocks_owned, total_blocks, "$.blocks_owned")
        except ValueError as error:
            raise RefusedError(400, str(error)) from error
        return mask_of(request.blocks_owned)

    def _grant(self, swarm_key: str, request: RegisterRequest) -> Callable[[int], int] | None:
        """Return what chooses the newcomer's blocks; a seed needs none, and a real file has its blocks at the seed."""
        if swarm_key != DEFAULT_SWARM or request.seed or self._policy == "none":
            return None
        return lambda unowned: initial.choose(self._policy, self._total_blocks, unowned, self._rng)


def canonical_ip(connection_ip: str) -> str:
    """Return the address of a connection as others can use it: an IPv4 one seen through an IPv6 socket as IPv4."""
    if ":" not in connection_ip:
        return connection_ip
    address = ipaddress.IPv6Address(connection_ip)
    return str(address.ipv4_mapped or address)


def _parse_register(body: bytes) -> RegisterRequest:
    try:
        request: RegisterRequest = _decode_register(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        # The last two: text that is not UTF-8, and thousands of open brackets.
        raise RefusedError(400, f"the body is not a registration: {error}") from error
    if request.event is not None and request.event not in EVENTS:
        raise RefusedError(400, f"$.event: must be one of {', '.join(EVENTS)}, not {request.event!r:.40}")
    return request


def _swarm_key(info_hash: str | None) -> str:
    if info_hash is None:
        return DEFAULT_SWARM
    if not is_info_hash(info_hash):
        raise RefusedError(400, f"info_hash: must be 40 lower-case hexadecimal digits, not {info_hash!r:.60}")
    return info_hash


def _numwant(text: str | None) -> int:
    if text is None:
        return DEFAULT_NUMWANT
    is_number = text.isascii() and text.isdigit() and len(text) <= 3
    if not is_number or not 1 <= int(text) <= NUMWANT_MAX:
        raise RefusedError(400, f"numwant: must be a whole number from 1 to {NUMWANT_MAX}, not {text!r:.40}")
    return int(text)


def _handed_out_ip(wanted_ip: str | None, source_ip: str) -> str:
    """Return the connection's own address; a peer beside its tracker cannot show its own, so it may name one."""
    if wanted_ip is None or not ipaddress.ip_address(source_ip).is_loopback:
        return source_ip
    try:
        address = ipaddress.ip_address(wanted_ip)
    except ValueError as error:
        raise RefusedError(400, f"$.ip: {wanted_ip!r:.60} is not an IP address") from error
    if address.is_unspecified or address.is_multicast:
        raise RefusedError(400, f"$.ip: {wanted_ip} is not the address of one host")
    return str(address)


def _seed_of(request: RegisterRequest) -> bool | None:
    """Return whether the peer has everything; None where it does not say: who completed stays complete."""
    if request.seed or request.event == "completed":
        return True
    return False if request.event == "started" else None
