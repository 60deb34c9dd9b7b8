"""Who is in which swarm: registration, expiry and a uniform random hand-out that cost the same at any swarm size.

Invariants, all kept under one lock:

- a swarm's peers lie in a dense list and each knows its slot, so drawing k of n is k random slots, and removing one
  moves the last peer into the hole;
- beside it lie the addresses in BEP 23's compact form, in an order of their own: a ring for each address family, from
  which an announce is answered with one window, whatever its length; each announce swaps its peer with a random one,
  so that windows do not stay the same company;
- all peers of all swarms stand in a queue by the time they were last heard from (one for each time to live), so expiry
  looks only at its head. A storm of them is worked off beside the requests, in a tenth of the time at most and no
  more than ``EXPIRIES_MAX`` at once: those who wait for that are handed out a while longer;
- a swarm other than the default one exists as long as it has a peer: asking about a swarm stores nothing.

The clock and the source of randomness are handed in; nothing here knows HTTP.
"""

import socket
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

import msgspec

from minibit.core.blocks import full_mask, indices_of, mask_of
from minibit.errors import TrackerError
from minibit.wire import PeerEntry

DEFAULT_SWARM = ""  # the swarm of those who name no info-hash
MAX_INDEXED_BLOCKS = 4096  # block lists of other swarms: 512 bytes a peer, and 50 of them fill no more than a megabyte
MAX_PORT = 65535
EXPIRIES_MAX = 10_000  # in one step: some 40 ms, after a pause without any request
EXPIRIES_PER_S = 25_000  # each takes 4 microseconds
IPV4_BYTES, IPV6_BYTES = 6, 18  # an address and a port in compact form (BEP 23, BEP 7)

Grant = Callable[[int], int]  # (set of blocks nobody owns) -> set of blocks for a newcomer


class AddressConflictError(TrackerError):
    """A live peer of the same name is registered from another address; it stays."""


class Announcement(msgspec.Struct, frozen=True):
    """What one peer says of itself. ``source_ip`` is the connection's, ``ip`` the address to hand out.

    ``blocks`` is a set of block indices as an integer; None leaves what is known. ``seed`` None likewise. ``name``
    tells peers of a swarm apart (the peer_id, if left out). ``key`` is a secret by which a peer may be known at
    another address. ``ttl_s``: how long it lives after this (the registry's, if left out).
    """

    peer_id: str
    source_ip: str
    ip: str
    port: int
    blocks: int | None = None
    seed: bool | None = None
    name: Hashable = None
    key: str | None = None
    ttl_s: float | None = None


class Registration(msgspec.Struct, frozen=True):
    """The answer to an announcement: the blocks given to the newcomer (a set as an integer), and whom to talk to."""

    initial_blocks: int
    peers: list[PeerEntry]


class Census(msgspec.Struct, frozen=True):
    """How many peers of a swarm have everything and how many do not, and how many said that they completed."""

    complete: int = 0
    incomplete: int = 0
    downloaded: int = 0


class Window(msgspec.Struct, frozen=True):
    """The answer to an announce: the census, and others in compact form (IPv4, IPv6) or, if asked for, one by one."""

    census: Census
    ipv4: bytes = b""
    ipv6: bytes = b""
    peers: tuple[tuple[str, str, int], ...] = ()  # (peer_id, ip, port)


class Totals(msgspec.Struct, frozen=True):
    """How many live peers there are over all swarms, how many of them are seeds, and how many swarms have a peer."""

    peers: int
    seeds: int
    swarms: int


@dataclass(slots=True, eq=False)
class _Peer:
    """One registered peer; compared by identity."""

    swarm: "_Swarm"
    peer_id: str
    source_ip: str
    ip: str
    port: int
    heard_s: float
    blocks: int = 0
    initial_blocks: int = 0
    seed: bool = False
    slot: int = -1
    name: Hashable = None
    key: str | None = None
    ring: "_Ring | None" = None  # None: its address has no compact form
    place: int = -1  # in the ring
    queue: "OrderedDict[_Peer, None] | None" = None
    entry: PeerEntry | None = None  # as it is handed out; made when it is first needed
    shown: dict[str, Any] | None = None  # the dict given to a reader of connected_peers: from then on it is the truth


class _Ring:
    """Peers of one address family, and their addresses in compact form, in the same order."""

    __slots__ = ("addresses", "peers", "width")

    def __init__(self, width: int) -> None:
        self.width = width
        self.peers: list[_Peer] = []
        self.addresses = bytearray()

    def add(self, peer: _Peer, address: bytes) -> None:
        peer.ring, peer.place = self, len(self.peers)
        self.peers.append(peer)
        self.addresses += address

    def remove(self, peer: _Peer) -> None:
        self.swap(peer, len(self.peers) - 1)
        self.peers.pop()
        del self.addresses[-self.width :]
        peer.ring = None

    def swap(self, peer: _Peer, place: int) -> None:
        """Let a peer and the one at ``place`` change places."""
        other, width, addresses = self.peers[place], self.width, self.addresses
        mine, theirs = slice(peer.place * width, (peer.place + 1) * width), slice(place * width, (place + 1) * width)
        addresses[mine], addresses[theirs] = addresses[theirs], addresses[mine]
        self.peers[peer.place], self.peers[place] = other, peer
        peer.place, other.place = place, peer.place


@dataclass(slots=True, eq=False)
class _Swarm:
    """The peers of one info-hash, and, where the number of blocks is known, how many peers own each block."""

    key: str
    total_blocks: int | None = None
    by_name: dict[Hashable, _Peer] = field(default_factory=dict)
    dense: list[_Peer] = field(default_factory=list)
    ipv4: _Ring = field(default_factory=lambda: _Ring(IPV4_BYTES))
    ipv6: _Ring = field(default_factory=lambda: _Ring(IPV6_BYTES))
    seeds: int = 0
    downloaded: int = 0
    owners: Counter[int] = field(default_factory=Counter)
    covered: int = 0

    @property
    def unowned(self) -> int:
        """The set of blocks that no peer owns; empty where the number of blocks is not known."""
        return full_mask(self.total_blocks or 0) & ~self.covered

    def add(self, peer: _Peer) -> None:
        peer.slot = len(self.dense)
        self.dense.append(peer)
        self.by_name[peer.name] = peer
        self.set_address(peer)

    def remove(self, peer: _Peer) -> None:
        self.set_blocks(peer, 0)
        del self.by_name[peer.name]
        if peer.ring:
            peer.ring.remove(peer)
        last = self.dense.pop()
        if last is not peer:
            self.dense[peer.slot] = last
            last.slot = peer.slot

    def set_address(self, peer: _Peer) -> None:
        """Put a peer into the ring where its present address belongs."""
        if peer.ring:
            peer.ring.remove(peer)
        address = _compact(peer.ip, peer.port)
        if address:
            ring = self.ipv4 if len(address) == IPV4_BYTES else self.ipv6
            ring.add(peer, address)

    @property
    def census(self) -> Census:
        """How many have everything, and how many do not."""
        return Census(self.seeds, len(self.dense) - self.seeds, self.downloaded)

    def window(self, count: int, rng: Random, without: _Peer | None) -> Iterator[tuple[_Ring, int, int]]:
        """Yield (ring, start, stop) of ``count`` others (or all) that follow one another: each other equally likely.

        Both rings together make one circle. It is cut open behind ``without``, and the window begins anywhere among the
        others; where it runs over their end it goes on at their beginning.
        """
        border = len(self.ipv4.peers)
        total = border + len(self.ipv6.peers)
        cut, others = 0, total
        if without is not None and without.ring:
            cut = without.place + 1 + (border if without.ring is self.ipv6 else 0)
            others -= 1
        count = min(count, others)
        if count <= 0:
            return
        start = int(rng.random() * others)
        before_the_end = min(count, others - start)
        yield from self._arc(cut + start, before_the_end)
        yield from self._arc(cut, count - before_the_end)

    def _arc(self, begin: int, length: int) -> Iterator[tuple[_Ring, int, int]]:
        """Yield the parts of ``length`` places of the circle from ``begin`` on."""
        border = len(self.ipv4.peers)
        total = border + len(self.ipv6.peers)
        while length:
            begin %= total
            ring, offset, end = (self.ipv4, 0, border) if begin < border else (self.ipv6, border, total)
            stop = min(begin + length, end)
            yield ring, begin - offset, stop - offset
            length -= stop - begin
            begin = stop

    def set_blocks(self, peer: _Peer, blocks: int) -> None:
        """Set what a peer owns; costs as much as the change is long, whatever the swarm's size."""
        gained, lost = blocks & ~peer.blocks, peer.blocks & ~blocks
        peer.blocks = blocks
        peer.entry = None
        if self.total_blocks is None:
            return
        self.owners.update(indices_of(gained))
        self.covered |= gained
        for index in indices_of(lost):
            self.owners[index] -= 1
            if not self.owners[index]:
                self.covered ^= 1 << index

    def sample(self, count: int, rng: Random, without: _Peer | None) -> list[_Peer]:
        """Return ``count`` different peers (or all), each set of them equally likely, never ``without``: O(count).

        The slot of the one left out stands for the last peer, which is outside the range drawn from.
        """
        if without is None:
            return [self.dense[slot] for slot in _distinct(count, len(self.dense), rng)]
        last = len(self.dense) - 1
        drawn = _distinct(count, last, rng)
        return [self.dense[last if slot == without.slot else slot] for slot in drawn]


def _distinct(count: int, population: int, rng: Random) -> list[int]:
    """Return ``count`` (or all) different numbers below ``population``; ``Random.sample`` takes five times as long."""
    if 3 * count > population:
        return rng.sample(range(population), min(count, population))
    drawn: dict[int, None] = {}
    while len(drawn) < count:
        drawn[int(rng.random() * population)] = None
    return list(drawn)


class Registry:
    """Every swarm of one tracker. Thread-safe: each method is one atomic step.

    ``clock`` returns seconds and never goes back; ``peer_ttl_s`` is how long a peer lives after it was last heard from;
    ``total_blocks`` is the number of blocks of the default swarm's file.
    """

    def __init__(self, *, rng: Random, clock: Callable[[], float], peer_ttl_s: float, total_blocks: int) -> None:
        self._rng = rng
        self._clock = clock
        self._peer_ttl_s = peer_ttl_s
        self._lock = threading.Lock()
        self._default = _Swarm(DEFAULT_SWARM, total_blocks)
        self._swarms: dict[str, _Swarm] = {DEFAULT_SWARM: self._default}
        self._by_age: dict[float, OrderedDict[_Peer, None]] = {}  # time to live -> least recently heard first
        self._peers = self._seeds = 0
        self.expired = 0  # peers, since the registry was made
        self._looked_s = clock()  # for those to be dropped
        self._may_expire = float(EXPIRIES_MAX)

    def register(
        self, swarm_key: str, announcement: Announcement, *, count: int, grant: Grant | None = None
    ) -> Registration:
        """Enter or refresh a peer; return at most ``count`` others, uniformly at random.

        A newcomer gets the blocks that ``grant`` chooses; registering again gives the same ones. Raise
        AddressConflictError if a live peer of that name came from another ``source_ip``; nothing is changed then.
        """
        with self._lock:
            now_s = self._expire()
            swarm = self._swarms.get(swarm_key)
            peer = self._entered(swarm, swarm_key, announcement, now_s, grant)
            peers = peer.swarm.sample(count, self._rng, peer)
            return Registration(peer.initial_blocks, [self._entry(other) for other in peers])

    def announce(
        self,
        swarm_key: str,
        announcement: Announcement,
        *,
        count: int,
        one_by_one: bool = False,
        completed: bool = False,
    ) -> Window:
        """Enter or refresh a peer, swap it with a random one; return at most ``count`` others that follow one another.

        Only peers with an IP address are handed out. ``completed``: count a download. Raise AddressConflictError as
        ``register`` does.
        """
        with self._lock:
            now_s = self._expire()
            known = self._swarms.get(swarm_key)
            seeds_before = known.seeds if known else 0
            peer = self._entered(known, swarm_key, announcement, now_s, None)
            swarm, ring = peer.swarm, peer.ring
            if completed and swarm.seeds > seeds_before:  # not said twice
                swarm.downloaded += 1
            if ring:
                ring.swap(peer, int(self._rng.random() * len(ring.peers)))
            window = swarm.window(count, self._rng, peer)
            if one_by_one:
                others = (other for part, start, stop in window for other in part.peers[start:stop])
                return Window(swarm.census, peers=tuple((other.peer_id, other.ip, other.port) for other in others))
            ipv4 = ipv6 = b""
            for part, start, stop in window:
                found = bytes(part.addresses[start * part.width : stop * part.width])
                if part is swarm.ipv4:
                    ipv4 += found
                else:
                    ipv6 += found
            return Window(swarm.census, ipv4, ipv6)

    def remove(self, swarm_key: str, name: Hashable, source_ip: str, key: str | None = None) -> bool:
        """Take a peer out; return whether it was in. Raise AddressConflictError as ``register`` does."""
        with self._lock:
            self._expire()
            peer = self._known(self._swarms.get(swarm_key), name, source_ip, key)
            if peer is not None:
                self._drop(peer)
            return peer is not None

    def census(self, swarm_key: str) -> Census:
        """Return the counts of one swarm; zeros if nobody is in it."""
        with self._lock:
            self._expire()
            swarm = self._swarms.get(swarm_key)
            return swarm.census if swarm else Census()

    def sample(self, swarm_key: str, *, count: int, without: str | None = None) -> list[PeerEntry]:
        """Return at most ``count`` live peers of a swarm, uniformly at random, never the one named ``without``."""
        with self._lock:
            self._expire()
            swarm = self._swarms.get(swarm_key)
            if swarm is None:
                return []
            caller = swarm.by_name.get(without) if without is not None else None
            return [self._entry(peer) for peer in swarm.sample(count, self._rng, caller)]

    def totals(self) -> Totals:
        """Return the counts of live peers, seeds and swarms that have a peer."""
        with self._lock:
            self._expire()
            empty_default = 0 if self._default.dense else 1
            return Totals(self._peers, self._seeds, len(self._swarms) - empty_default)

    # What ConnectedPeers, the mapping over the default swarm, is made of.

    def peer_ids(self) -> list[str]:
        """Return the names of the default swarm's live peers."""
        with self._lock:
            self._expire()
            return [peer.peer_id for peer in self._default.dense]

    def show(self, peer_id: str) -> dict[str, Any]:
        """Return the entry of a live peer of the default swarm as a dict whose later changes count. Raise KeyError."""
        with self._lock:
            self._expire()
            return _shown(self._default.by_name[peer_id])

    def show_all(self) -> list[tuple[str, dict[str, Any]]]:
        """Return every live peer of the default swarm with its entry, as they are at one moment."""
        with self._lock:
            self._expire()
            return [(peer.peer_id, _shown(peer)) for peer in self._default.dense]

    def write(self, peer_id: str, entry: dict[str, Any]) -> None:
        """Put an entry of that shape into the default swarm, heard from just now. Raise ValueError if it is malformed.

        The dict itself is kept: as in a dict of dicts, its later changes count.
        """
        ip, port, blocks = _fields_of(peer_id, entry, self._default.total_blocks)
        with self._lock:
            now_s = self._expire()
            known = self._default.by_name.get(peer_id)
            if known is not None:
                known.source_ip = ip  # whoever writes here may move it
            announcement = Announcement(peer_id, source_ip=ip, ip=ip, port=port, blocks=blocks)
            peer = self._entered(self._default, DEFAULT_SWARM, announcement, now_s, None)
            peer.shown = entry

    def delete(self, peer_id: str) -> None:
        """Take a peer out of the default swarm, whoever asks. Raise KeyError if it is not in."""
        with self._lock:
            self._expire()
            self._drop(self._default.by_name[peer_id])

    def clear(self) -> None:
        """Take every peer out of the default swarm."""
        with self._lock:
            for peer in list(self._default.dense):
                self._drop(peer)

    # Below, the lock is held.

    def _expire(self) -> float:
        """Drop those whose time is up; return the time, read under the lock so that the queues stay sorted."""
        now_s = self._clock()
        self._may_expire = min(self._may_expire + (now_s - self._looked_s) * EXPIRIES_PER_S, EXPIRIES_MAX)
        self._looked_s = now_s
        for ttl_s, queue in self._by_age.items():
            while self._may_expire >= 1 and (oldest := next(iter(queue), None)) and now_s - oldest.heard_s >= ttl_s:
                self._drop(oldest)
                self.expired += 1
                self._may_expire -= 1
        return now_s

    def _known(self, swarm: _Swarm | None, name: Hashable, source_ip: str, key: str | None = None) -> _Peer | None:
        peer = swarm.by_name.get(name) if swarm else None
        if peer is not None and peer.source_ip != source_ip and (key is None or key != peer.key):
            raise AddressConflictError(f"peer_id {peer.peer_id!r} is registered from another address")
        return peer

    def _entered(
        self, swarm: _Swarm | None, swarm_key: str, announcement: Announcement, now_s: float, grant: Grant | None
    ) -> _Peer:
        """Return the peer of this announcement, known or new."""
        name = announcement.peer_id if announcement.name is None else announcement.name
        peer = self._known(swarm, name, announcement.source_ip, announcement.key)
        if peer is None:
            return self._enter(swarm or _Swarm(swarm_key), name, announcement, now_s, grant)
        self._refresh(peer, announcement, now_s)
        return peer

    def _enter(
        self, swarm: _Swarm, name: Hashable, announcement: Announcement, now_s: float, grant: Grant | None
    ) -> _Peer:
        owned = announcement.blocks or 0
        initial_blocks = grant(swarm.unowned & ~owned) if grant else 0
        peer = _Peer(
            swarm,
            announcement.peer_id,
            announcement.source_ip,
            announcement.ip,
            announcement.port,
            now_s,
            initial_blocks=initial_blocks,
            name=name,
            key=announcement.key,
        )
        swarm.add(peer)
        if owned | initial_blocks:
            swarm.set_blocks(peer, owned | initial_blocks)
        self._swarms[swarm.key] = swarm
        self._peers += 1
        self._hear(peer, announcement.ttl_s, now_s)
        self._set_seed(peer, announcement.seed)
        return peer

    def _refresh(self, peer: _Peer, announcement: Announcement, now_s: float) -> None:
        if peer.shown is not None:
            self._adopt_shown(peer)
        self._hear(peer, announcement.ttl_s, now_s)
        self._set_seed(peer, announcement.seed)
        peer.source_ip = announcement.source_ip
        self._move(peer, announcement.ip, announcement.port)
        if announcement.blocks is not None:
            peer.swarm.set_blocks(peer, announcement.blocks)
        if peer.shown is not None:
            peer.shown.update(ip=peer.ip, port=peer.port, blocks_owned=list(indices_of(peer.blocks)))

    def _hear(self, peer: _Peer, ttl_s: float | None, now_s: float) -> None:
        """Put a peer at the end of the queue of those that live so long from now."""
        ttl_s = ttl_s or self._peer_ttl_s
        queue = self._by_age.get(ttl_s)
        if queue is None:
            queue = self._by_age[ttl_s] = OrderedDict()
        if peer.queue is queue:
            queue.move_to_end(peer)
        else:
            if peer.queue is not None:
                del peer.queue[peer]
            peer.queue = queue
            queue[peer] = None
        peer.heard_s = now_s

    def _move(self, peer: _Peer, ip: str, port: int) -> None:
        if (ip, port) != (peer.ip, peer.port):
            peer.ip, peer.port, peer.entry = ip, port, None
            peer.swarm.set_address(peer)

    def _set_seed(self, peer: _Peer, seed: bool | None) -> None:
        if seed is not None and seed is not peer.seed:
            change = 1 if seed else -1
            self._seeds += change
            peer.swarm.seeds += change
            peer.seed, peer.entry = seed, None

    def _drop(self, peer: _Peer) -> None:
        if peer.queue is not None:
            del peer.queue[peer]
        self._peers -= 1
        self._set_seed(peer, seed=False)
        peer.swarm.remove(peer)
        if not peer.swarm.dense and peer.swarm is not self._default:
            del self._swarms[peer.swarm.key]

    def _entry(self, peer: _Peer) -> PeerEntry:
        if peer.shown is not None:
            self._adopt_shown(peer)
        if peer.entry is None:
            peer.entry = PeerEntry(peer.peer_id, peer.ip, peer.port, list(indices_of(peer.blocks)), peer.seed)
        return peer.entry

    def _adopt_shown(self, peer: _Peer) -> None:
        """Take over what the holder of a shown entry may have changed in it."""
        ip, port, blocks = _fields_of(peer.peer_id, peer.shown or {}, peer.swarm.total_blocks)
        self._move(peer, ip, port)
        peer.swarm.set_blocks(peer, blocks)


def _compact(ip: str, port: int) -> bytes:
    """Return address and port as BEP 23 (IPv4) and BEP 7 (IPv6) write them; nothing if ``ip`` is no address."""
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    try:
        return socket.inet_pton(family, ip) + port.to_bytes(2, "big")
    except OSError:
        return b""


def _shown(peer: _Peer) -> dict[str, Any]:
    if peer.shown is None:
        peer.shown = {"ip": peer.ip, "port": peer.port, "blocks_owned": list(indices_of(peer.blocks))}
    return peer.shown


def _fields_of(peer_id: str, entry: Mapping[str, Any], total_blocks: int | None) -> tuple[str, int, int]:
    """Return address, port and set of blocks of an entry; raise ValueError that names what is wrong with it."""
    try:
        ip, port, blocks = entry["ip"], entry["port"], list(entry["blocks_owned"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"entry of peer {peer_id!r}: needs ip, port and blocks_owned, not {entry!r:.200}") from error
    if not isinstance(ip, str) or not isinstance(port, int) or not 1 <= port <= MAX_PORT:
        raise ValueError(f"entry of peer {peer_id!r}: ip must be a string and port 1..{MAX_PORT}, not {ip!r}, {port!r}")
    check_indices(blocks, total_blocks, f"entry of peer {peer_id!r}: blocks_owned")
    return ip, port, mask_of(blocks)


def check_indices(indices: list[int], total_blocks: int | None, where: str) -> None:
    """Raise ValueError unless all are blocks of a file of ``total_blocks``, or, where None, below the limit."""
    limit = MAX_INDEXED_BLOCKS if total_blocks is None else total_blocks
    wrong = next((index for index in indices if not isinstance(index, int) or not 0 <= index < limit), None)
    if wrong is not None:
        raise ValueError(f"{where}: no block {wrong!r:.40}, indices run from 0 to {limit - 1}")
