"""Who is in which swarm: registration, expiry and a uniform random hand-out that cost the same at any swarm size.

Invariants, all kept under one lock:

- a swarm's peers lie in a dense list and each knows its slot, so drawing k of n is k random slots, and removing one
  moves the last peer into the hole;
- all peers of all swarms stand in one queue by the time they were last heard from, so expiry looks only at its head;
- a swarm other than the default one exists as long as it has a peer: asking about a swarm stores nothing.

The clock and the source of randomness are handed in; nothing here knows HTTP.
"""

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from minibit.core.blocks import full_mask, indices_of, mask_of
from minibit.errors import TrackerError
from minibit.wire import PeerEntry

DEFAULT_SWARM = ""  # the swarm of those who name no info-hash
MAX_INDEXED_BLOCKS = 4096  # block lists of other swarms: 512 bytes a peer, and 50 of them fill no more than a megabyte
MAX_PORT = 65535

Grant = Callable[[int], int]  # (set of blocks nobody owns) -> set of blocks for a newcomer


class AddressConflictError(TrackerError):
    """A live peer of the same name is registered from another address; it stays."""


@dataclass(frozen=True, slots=True)
class Announcement:
    """What one peer says of itself. ``source_ip`` is the connection's, ``ip`` the address to hand out.

    ``blocks`` is a set of block indices as an integer; None leaves what is known. ``seed`` None likewise.
    """

    peer_id: str
    source_ip: str
    ip: str
    port: int
    blocks: int | None = None
    seed: bool | None = None


@dataclass(frozen=True, slots=True)
class Registration:
    """The answer to an announcement: the blocks given to the newcomer (a set as an integer), and whom to talk to."""

    initial_blocks: int
    peers: list[PeerEntry]


@dataclass(frozen=True, slots=True)
class Totals:
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
    shown: dict[str, Any] | None = None  # the dict given to a reader of connected_peers: from then on it is the truth


@dataclass(slots=True, eq=False)
class _Swarm:
    """The peers of one info-hash, and, where the number of blocks is known, how many peers own each block."""

    key: str
    total_blocks: int | None = None
    by_id: dict[str, _Peer] = field(default_factory=dict)
    dense: list[_Peer] = field(default_factory=list)
    owners: Counter[int] = field(default_factory=Counter)
    covered: int = 0

    @property
    def unowned(self) -> int:
        """The set of blocks that no peer owns; empty where the number of blocks is not known."""
        return full_mask(self.total_blocks or 0) & ~self.covered

    def add(self, peer: _Peer) -> None:
        peer.slot = len(self.dense)
        self.dense.append(peer)
        self.by_id[peer.peer_id] = peer

    def remove(self, peer: _Peer) -> None:
        self.set_blocks(peer, 0)
        del self.by_id[peer.peer_id]
        last = self.dense.pop()
        if last is not peer:
            self.dense[peer.slot] = last
            last.slot = peer.slot

    def set_blocks(self, peer: _Peer, blocks: int) -> None:
        """Set what a peer owns; costs as much as the change is long, whatever the swarm's size."""
        gained, lost = blocks & ~peer.blocks, peer.blocks & ~blocks
        peer.blocks = blocks
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
            return rng.sample(self.dense, min(count, len(self.dense)))
        last = len(self.dense) - 1
        drawn = rng.sample(range(last), min(count, last))
        return [self.dense[last if slot == without.slot else slot] for slot in drawn]


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
        self._by_age: OrderedDict[_Peer, None] = OrderedDict()  # least recently heard first
        self._seeds = 0

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
            peer = self._known(swarm, announcement.peer_id, announcement.source_ip)
            if peer is None:
                peer = self._enter(swarm or _Swarm(swarm_key), announcement, now_s, grant)
            else:
                self._refresh(peer, announcement, now_s)
            peers = peer.swarm.sample(count, self._rng, peer)
            return Registration(peer.initial_blocks, [self._entry(other) for other in peers])

    def remove(self, swarm_key: str, peer_id: str, source_ip: str) -> bool:
        """Take a peer out; return whether it was in. Raise AddressConflictError as ``register`` does."""
        with self._lock:
            self._expire()
            peer = self._known(self._swarms.get(swarm_key), peer_id, source_ip)
            if peer is not None:
                self._drop(peer)
            return peer is not None

    def sample(self, swarm_key: str, *, count: int, without: str | None = None) -> list[PeerEntry]:
        """Return at most ``count`` live peers of a swarm, uniformly at random, never the one named ``without``."""
        with self._lock:
            self._expire()
            swarm = self._swarms.get(swarm_key)
            if swarm is None:
                return []
            caller = swarm.by_id.get(without) if without is not None else None
            return [self._entry(peer) for peer in swarm.sample(count, self._rng, caller)]

    def totals(self) -> Totals:
        """Return the counts of live peers, seeds and swarms that have a peer."""
        with self._lock:
            self._expire()
            empty_default = 0 if self._default.dense else 1
            return Totals(len(self._by_age), self._seeds, len(self._swarms) - empty_default)

    # What ConnectedPeers, the mapping over the default swarm, is made of.

    def peer_ids(self) -> list[str]:
        """Return the names of the default swarm's live peers."""
        with self._lock:
            self._expire()
            return list(self._default.by_id)

    def show(self, peer_id: str) -> dict[str, Any]:
        """Return the entry of a live peer of the default swarm as a dict whose later changes count. Raise KeyError."""
        with self._lock:
            self._expire()
            return _shown(self._default.by_id[peer_id])

    def show_all(self) -> list[tuple[str, dict[str, Any]]]:
        """Return every live peer of the default swarm with its entry, as they are at one moment."""
        with self._lock:
            self._expire()
            return [(peer_id, _shown(peer)) for peer_id, peer in self._default.by_id.items()]

    def write(self, peer_id: str, entry: dict[str, Any]) -> None:
        """Put an entry of that shape into the default swarm, heard from just now. Raise ValueError if it is malformed.

        The dict itself is kept: as in a dict of dicts, its later changes count.
        """
        ip, port, blocks = _fields_of(peer_id, entry, self._default.total_blocks)
        with self._lock:
            now_s = self._expire()
            peer = self._default.by_id.get(peer_id)
            announcement = Announcement(peer_id, source_ip=ip, ip=ip, port=port, blocks=blocks)
            if peer is None:
                peer = self._enter(self._default, announcement, now_s, grant=None)
            else:
                self._refresh(peer, announcement, now_s)
            peer.shown = entry

    def delete(self, peer_id: str) -> None:
        """Take a peer out of the default swarm, whoever asks. Raise KeyError if it is not in."""
        with self._lock:
            self._expire()
            self._drop(self._default.by_id[peer_id])

    def clear(self) -> None:
        """Take every peer out of the default swarm."""
        with self._lock:
            for peer in list(self._default.dense):
                self._drop(peer)

    # Below, the lock is held.

    def _expire(self) -> float:
        """Drop those whose time is up; return the time, read under the lock so that the queue stays sorted."""
        now_s = self._clock()
        while self._by_age:
            oldest = next(iter(self._by_age))
            if now_s - oldest.heard_s < self._peer_ttl_s:
                break
            self._drop(oldest)
        return now_s

    def _known(self, swarm: _Swarm | None, peer_id: str, source_ip: str) -> _Peer | None:
        peer = swarm.by_id.get(peer_id) if swarm else None
        if peer is not None and peer.source_ip != source_ip:
            raise AddressConflictError(f"peer_id {peer_id!r} is registered from another address")
        return peer

    def _enter(self, swarm: _Swarm, announcement: Announcement, now_s: float, grant: Grant | None) -> _Peer:
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
        )
        swarm.add(peer)
        swarm.set_blocks(peer, owned | initial_blocks)
        self._swarms[swarm.key] = swarm
        self._by_age[peer] = None
        self._set_seed(peer, announcement.seed)
        return peer

    def _refresh(self, peer: _Peer, announcement: Announcement, now_s: float) -> None:
        if peer.shown is not None:
            self._adopt_shown(peer)
        peer.heard_s = now_s
        self._by_age.move_to_end(peer)
        self._set_seed(peer, announcement.seed)
        peer.source_ip, peer.ip, peer.port = announcement.source_ip, announcement.ip, announcement.port
        if announcement.blocks is not None:
            peer.swarm.set_blocks(peer, announcement.blocks)
        if peer.shown is not None:
            peer.shown.update(ip=peer.ip, port=peer.port, blocks_owned=list(indices_of(peer.blocks)))

    def _set_seed(self, peer: _Peer, seed: bool | None) -> None:
        if seed is not None:
            self._seeds += seed - peer.seed
            peer.seed = seed

    def _drop(self, peer: _Peer) -> None:
        del self._by_age[peer]
        self._set_seed(peer, seed=False)
        peer.swarm.remove(peer)
        if not peer.swarm.dense and peer.swarm is not self._default:
            del self._swarms[peer.swarm.key]

    def _entry(self, peer: _Peer) -> PeerEntry:
        if peer.shown is not None:
            self._adopt_shown(peer)
        return PeerEntry(peer.peer_id, peer.ip, peer.port, list(indices_of(peer.blocks)), peer.seed)

    def _adopt_shown(self, peer: _Peer) -> None:
        """Take over what the holder of a shown entry may have changed in it."""
        peer.ip, peer.port, blocks = _fields_of(peer.peer_id, peer.shown or {}, peer.swarm.total_blocks)
        peer.swarm.set_blocks(peer, blocks)


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
