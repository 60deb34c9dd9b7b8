"""A swarm of real sessions in virtual time: the same brain that drives a peer, driven from a heap of events.

Links send one block after another at their rate; every message takes ``latency_s``. Nothing is random but the sessions'
own seeded choices, so a run can be repeated exactly. Its figures are simulated: they test policy, they are no result.
"""

import heapq
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from minibit.core import events as ev
from minibit.core.blocks import Geometry
from minibit.core.choker import CHOKERS, FreeRider
from minibit.core.picker import PICKERS
from minibit.core.session import Session

HORIZON_S = 10_000.0


@dataclass
class VirtualPeer:
    key: str
    session: Session
    rate_bytes_per_s: float
    link_free_s: float = 0.0
    completed_s: float | None = None
    given_bytes: int = 0
    taken_bytes: int = 0
    log: list[tuple[float, ev.Event, list[ev.Action]]] = field(default_factory=list)
    tick_at_s: float = float("inf")


class VirtualSwarm:
    def __init__(self, *, seed_rate, leecher_rates, geometry, latency_s=0.004, rng_seed=0, free_riders=(),
                 choker="tit-for-tat", picker="rarest-first"):
        self.geometry = geometry
        self.latency_s = latency_s
        self.now_s = 0.0
        self.heap: list = []
        self.count = 0
        self.messages: Counter = Counter()
        self.peers: dict[str, VirtualPeer] = {}
        for i, rate in enumerate([seed_rate, *leecher_rates]):
            key = f"127.0.0.1:{40000 + i}"
            chosen = FreeRider() if i in free_riders else CHOKERS[choker]()
            session = Session(geometry, rng=Random(f"{rng_seed}/{key}"), picker=PICKERS[picker](), choker=chosen,
                              upload_rate_bytes_per_s=rate)
            self.peers[key] = VirtualPeer(key, session, rate)
        self.registered: list[str] = []

    def at(self, time_s: float, call: Callable[[], None]) -> None:
        self.count += 1
        heapq.heappush(self.heap, (time_s, self.count, call))

    def run(self) -> float:
        """Return the makespan in virtual seconds."""
        for i, peer in enumerate(self.peers.values()):
            owned = tuple(range(self.geometry.num_blocks)) if i == 0 else ()
            self.at(0.0, lambda peer=peer, owned=owned: self.feed(peer, ev.Started(owned)))
        leechers = list(self.peers.values())[1:]
        while any(peer.completed_s is None for peer in leechers):
            self.now_s, _, call = heapq.heappop(self.heap)
            assert self.now_s < HORIZON_S, "\n".join(peer.session.describe() for peer in leechers)
            call()
        return max(peer.completed_s for peer in leechers)

    def feed(self, peer: VirtualPeer, *events: ev.Event) -> list[ev.Action]:
        done = []
        for event in events:
            actions = peer.session.handle(event, self.now_s)
            peer.log.append((self.now_s, event, actions))
            for action in actions:
                self.carry_out(peer, action)
            done += actions
        tick_at_s = peer.session.next_wakeup_s(self.now_s)
        if tick_at_s < peer.tick_at_s or peer.tick_at_s <= self.now_s:
            peer.tick_at_s = tick_at_s
            self.at(tick_at_s, lambda: self.tick(peer, tick_at_s))
        return done

    def tick(self, peer: VirtualPeer, due_s: float) -> None:
        if due_s == peer.tick_at_s:
            self.feed(peer, ev.Tick())

    def later(self, call: Callable[[], None]) -> None:
        self.at(self.now_s + self.latency_s, call)

    def carry_out(self, peer: VirtualPeer, action: ev.Action) -> None:
        self.messages[type(action).__name__] += 1
        match action:
            case ev.Finish():
                peer.completed_s = self.now_s
            case ev.AskTracker():
                self.later(lambda: self.answer_as_tracker(peer))
            case ev.Handshake(key):
                self.later(lambda: self.shake(peer, self.peers[key]))
            case ev.SendHaves(key, haves):
                self.later(lambda: self.feed(self.peers[key], *self.introduce(peer), ev.HavesReceived(peer.key, haves)))
            case ev.OfferTurn():
                self.later(lambda: self.offer(peer, self.peers[action.key], action))
            case ev.RequestBlock():
                self.later(lambda: self.request(peer, self.peers[action.key], action))

    def introduce(self, peer: VirtualPeer) -> tuple[ev.Event, ...]:
        return (ev.PeerSeen(peer.key, peer.key),)

    def answer_as_tracker(self, peer: VirtualPeer) -> None:
        others = [key for key in self.registered if key != peer.key]
        if peer.key not in self.registered:
            self.registered.append(peer.key)
        first = next(iter(self.peers))
        seen = [ev.PeerSeen(key, key, seed=key == first) for key in others[:50]]
        self.later(lambda: self.feed(peer, *seen, ev.TrackerAnswered(len(seen), 30.0)))

    def shake(self, peer: VirtualPeer, other: VirtualPeer) -> None:
        self.feed(other, *self.introduce(peer), ev.BitfieldReceived(peer.key, tuple(peer.session.owned)))
        self.later(lambda: self.feed(peer, ev.BitfieldReceived(other.key, tuple(other.session.owned)),
                                     ev.HandshakeAnswered(other.key, peer.key in other.session.unchoked, turns=True)))

    def offer(self, sender: VirtualPeer, receiver: VirtualPeer, offer: ev.OfferTurn) -> None:
        actions = self.feed(receiver, *self.introduce(sender), ev.HavesReceived(sender.key, offer.haves),
                            ev.TurnOffered(sender.key, offer.standing, offer.suggest, offer.rate_bytes_per_s))
        accepted = any(isinstance(a, ev.RequestBlock) and a.key == sender.key for a in actions)
        haves = receiver.session.take_haves(sender.key, self.now_s)
        self.later(lambda: self.feed(sender, ev.HavesReceived(receiver.key, haves),
                                     ev.OfferAnswered(receiver.key, accepted)))

    def request(self, receiver: VirtualPeer, sender: VirtualPeer, request: ev.RequestBlock) -> None:
        actions = self.feed(sender, *self.introduce(receiver), ev.HavesReceived(receiver.key, request.haves),
                            ev.RequestReceived(receiver.key, request.index))
        answer = next(a for a in actions if isinstance(a, ev.Serve | ev.Refuse))
        if isinstance(answer, ev.Refuse):
            reason = {"choked": "refused"}.get(answer.reason, answer.reason)
            self.messages["refused"] += 1
            self.later(lambda: self.feed(receiver, ev.RequestFailed(sender.key, request.index, reason)))
            return
        size = self.geometry.block_length_bytes(request.index)
        start_s = max(self.now_s, sender.link_free_s)
        sender.link_free_s = end_s = start_s + size / sender.rate_bytes_per_s
        sender.given_bytes += size
        receiver.taken_bytes += size
        self.at(end_s, lambda: self.feed(sender, ev.UploadEnded(receiver.key, request.index, size, complete=True)))
        self.at(end_s + self.latency_s, lambda: self.feed(
            receiver, ev.HavesReceived(sender.key, answer.haves), ev.BlockArrived(sender.key, request.index, size)))


def geometry(size_mib: float, block_kib: int) -> Geometry:
    return Geometry(int(size_mib * 2**20), block_kib * 1024)
