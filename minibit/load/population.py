"""The peers that a load test plays, and what a tracker must therefore answer. Pure: time is told, chance is seeded.

Each member lives: it starts, announces again some times, completes perhaps, and stops or vanishes without a word; then
another takes its place. Swarms differ in popularity (Zipf). Who is certainly in a swarm, and who possibly is, is known
at every moment; an answer that contradicts it is a fault of the tracker, or proof that somebody else is in the swarm.

A tick counts what happened: a request is out from the tick of its sending to the tick of its answer, and the tracker
may have carried it out at any moment between.
"""

import enum
import hashlib
import math
import random
from bisect import bisect
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

UPDATES_MEAN = (
    6  # announces between the first and the last: short lives, because beginnings and ends are what gets lost
)
SEED_SHARE = 0.1  # of the newcomers
COMPLETE_SHARE = 0.5  # of the leechers
VANISH_SHARE = 0.2  # of those who leave
QUIET_SHARE = 0.1  # of the living: so many vanished ones at most, else nobody could tell who is in a swarm any more
ASK_SHARE = 0.08  # of the requests: GET /peers, or a scrape
NUMWANT_MAX = 50  # more than most trackers give
FULL_HAND_OUT_SHARE = 0.7  # of the announces ask for NUMWANT_MAX; the others for fewer
FIRST_PORT, LAST_PORT = 1024, 65535
NEVER = 1 << 62


class Kind(enum.Enum):
    """What a member says to its tracker."""

    START = "started"
    UPDATE = "again"
    COMPLETE = "completed"
    STOP = "stopped"
    ASK = "ask"


class Fault(enum.StrEnum):
    """How an answer may be wrong; the value is what reports call it."""

    CALLER = "the caller was handed out to itself"
    EXCESS = "more peers than wanted"
    TWICE = "a peer handed out twice"
    STRANGER = "a peer handed out that never announced"
    DEPARTED = "a peer handed out after it had left"
    MISSING = "a peer that announced is not to be found"
    COUNT = "the number of peers is not what announced"


FAULTS = {fault.name.lower(): fault for fault in Fault}


@dataclass(slots=True, eq=False)
class Member:
    """One peer's life. ``entered`` and ``left``: ticks of the first answer and of the answer to its leaving."""

    swarm: "Swarm"
    peer_id: str
    port: int
    seed: bool
    updates: int
    completes_at: int
    entered: int = NEVER
    leaving: int = NEVER
    left: int = NEVER
    heard_s: float = math.inf  # when its last announce that was answered had been sent
    doubtful: bool = False  # some request of it was given up, and may be carried out at any time yet

    def surely_in(self, since: int) -> bool:
        """Whether it was there from that tick on, and is."""
        return self.entered <= since and self.leaving == NEVER


@dataclass(slots=True, eq=False)
class Swarm:
    """A swarm with its bounds at this moment: so many members at least and at most."""

    info_hash: bytes
    members: dict[int, Member] = field(default_factory=dict)  # by port: who is or may be in it
    gone: dict[int, Member] = field(default_factory=dict)  # by port: who has left, the last one there
    asked: set["Action"] = field(default_factory=set)  # requests that are out
    at_least: int = 0
    at_most: int = 0
    next_port: int = FIRST_PORT

    def change(self, at_least: int = 0, at_most: int = 0) -> None:
        """Move the bounds, and those of every request that is out: it may be carried out before or after."""
        self.at_least += at_least
        self.at_most += at_most
        for action in self.asked:
            action.at_least = min(action.at_least, self.at_least)
            action.at_most = max(action.at_most, self.at_most)


@dataclass(slots=True, eq=False)
class Action:
    """One request to be sent: who says what, and how many peers it wants (None: as many as is usual)."""

    kind: Kind
    member: Member
    numwant: int | None
    tick: int
    sent_s: float
    at_least: int = 0
    at_most: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a tracker said: peers as (ip, port), and how many it counts in the swarm, each if it was asked for it."""

    peers: Sequence[tuple[object, int]] | None = None
    total: int | None = None
    interval_s: float | None = None


class Population:
    """``size`` living members in ``swarms`` swarms; ``part`` of ``parts`` plays every so many-th swarm.

    The same seed gives the same lives in the same order of calls. Faults in ``allowed`` are not reported.
    ``vanish_share`` of those who leave do not say so. Not thread-safe.
    """

    def __init__(
        self,
        seed: int,
        *,
        size: int = 500,
        swarms: int = 100,
        zipf: float = 1.0,
        part: int = 0,
        parts: int = 1,
        vanish_share: float = VANISH_SHARE,
        allowed: Iterable[Fault] = (),
    ) -> None:
        self.size = size
        self.crowd = False  # while it is set, newcomers all go to the most popular swarm
        self.allowed = frozenset(allowed)
        self.overdue = 0  # requests sent after the interval that the tracker had asked for
        self._rng = random.Random(f"{seed} {part} of {parts}")
        self._part = part
        self._vanish_share = vanish_share
        ranks = range(part, max(swarms, parts), parts)
        self.swarms = [Swarm(info_hash) for info_hash in (info_hash_of(seed, rank) for rank in ranks)]
        self._weights = list(accumulate((rank + 1) ** -zipf for rank in ranks))
        self._waiting: deque[Member] = deque()  # who may speak next
        self._quiet: deque[Member] = deque()  # who vanished
        self._living = 0
        self._born = 0
        self._tick = 0
        self._ending = False
        self._interval_s: float | None = None

    def __len__(self) -> int:
        return self._living

    def next(self, now_s: float) -> Action:
        """Return what is to be sent now; tell ``judge`` or ``lose`` what came of it."""
        if self._interval_s and self._waiting and now_s - self._waiting[0].heard_s > self._interval_s:
            self.overdue += 1
        if len(self._quiet) > self.size * QUIET_SHARE:
            return self._begin(Kind.STOP, self._quiet.popleft(), now_s)  # it comes back to say farewell
        while self._living >= self.size and self._waiting:
            member = self._waiting.popleft()
            kind = self._kind_for(member)
            if kind is not None:
                return self._begin(kind, member, now_s)
        return self._begin(Kind.START, self._newcomer(), now_s)

    def leave(self, now_s: float) -> Action | None:
        """Return the leaving of one more member, also of those that vanished; None if all have left or were lost."""
        self._ending = True
        if self._waiting:
            return self._begin(Kind.STOP, self._waiting.popleft(), now_s)
        if self._quiet:
            return self._begin(Kind.STOP, self._quiet.popleft(), now_s)
        return None

    def judge(self, action: Action, answer: Answer) -> list[Fault]:
        """Take the answer to an action; return what is wrong with it."""
        if answer.interval_s:
            self._interval_s = answer.interval_s
        faults = [fault for fault in self._faults(action, answer) if fault not in self.allowed]
        member, swarm = action.member, action.member.swarm
        self._tick += 1
        swarm.asked.discard(action)
        if action.kind is Kind.STOP:
            if member.doubtful:  # what was given up before may be carried out after
                return faults
            member.left = self._tick
            swarm.members.pop(member.port, None)
            swarm.gone[member.port] = member
            swarm.change(at_most=-1)
            return faults
        if action.kind is not Kind.ASK:
            member.heard_s = action.sent_s
            if member.entered == NEVER:
                member.entered = self._tick
                swarm.change(at_least=1)
        self._waiting.append(member)
        return faults

    def lose(self, action: Action) -> None:
        """Take it that an action got no proper answer: the tracker may have heard it or not."""
        self._tick += 1
        action.member.swarm.asked.discard(action)
        action.member.doubtful = True
        if action.kind is not Kind.STOP:
            self._waiting.appendleft(action.member)  # it tries again soon, as clients do
        elif not self._ending:
            self._quiet.append(action.member)

    def _faults(self, action: Action, answer: Answer) -> Iterable[Fault]:
        if answer.peers is not None:
            yield from self._faults_of_hand_out(action, [port for _, port in answer.peers])
        outside = answer.total is not None and not action.at_least <= answer.total <= action.at_most
        if outside and not self.overdue:
            yield Fault.COUNT

    def _faults_of_hand_out(self, action: Action, ports: Sequence[int]) -> Iterable[Fault]:
        member, swarm = action.member, action.member.swarm
        given = set(ports)
        if member.port in given:
            yield Fault.CALLER
        if action.numwant is not None and len(ports) > action.numwant:
            yield Fault.EXCESS
        if len(given) < len(ports):
            yield Fault.TWICE
        unlisted = [swarm.gone.get(port) for port in given if port not in swarm.members]
        if None in unlisted:
            yield Fault.STRANGER
        if any(gone.left < action.tick for gone in unlisted if gone):
            yield Fault.DEPARTED
        all_fit = action.numwant is not None and action.at_most <= action.numwant and action.kind is not Kind.STOP
        # Whoever is overdue may have been forgotten, and rightly; and seeds need not be told of seeds.
        if all_fit and not self.overdue:
            absent = (other for port, other in swarm.members.items() if port not in given and other is not member)
            if any(other.surely_in(action.tick) and not (member.seed and other.seed) for other in absent):
                yield Fault.MISSING

    def _kind_for(self, member: Member) -> Kind | None:
        """Return what this one says next; None if it vanishes."""
        if self._living > self.size:
            member.updates = 0
        if member.updates <= 0:
            if self._rng.random() >= self._vanish_share:
                return Kind.STOP
            self._depart(member)
            self._quiet.append(member)
            return None
        if self._rng.random() < ASK_SHARE:
            return Kind.ASK
        member.updates -= 1
        if member.updates == member.completes_at and not member.seed:
            return Kind.COMPLETE
        return Kind.UPDATE

    def _newcomer(self) -> Member:
        place = 0 if self.crowd else bisect(self._weights, self._rng.random() * self._weights[-1])
        swarm = self.swarms[min(place, len(self.swarms) - 1)]
        port = swarm.next_port
        while port in swarm.members:
            port = port + 1 if port < LAST_PORT else FIRST_PORT
        swarm.next_port = port + 1 if port < LAST_PORT else FIRST_PORT
        updates = 1 + int(self._rng.expovariate(1 / UPDATES_MEAN))
        completes_at = self._rng.randrange(updates) if self._rng.random() < COMPLETE_SHARE else -1
        seed = self._rng.random() < SEED_SHARE
        self._born += 1
        self._living += 1
        peer_id = f"-LT0001-{self._part:03d}{self._born:09d}"
        member = Member(swarm, peer_id, port, seed, updates, completes_at)
        swarm.members[port] = member
        return member

    def _depart(self, member: Member) -> None:
        """From now on it may be there or not."""
        if member.leaving != NEVER:
            return
        member.leaving = self._tick
        self._living -= 1
        if member.entered != NEVER:
            member.swarm.change(at_least=-1)

    def _begin(self, kind: Kind, member: Member, now_s: float) -> Action:
        self._tick += 1
        swarm = member.swarm
        if kind is Kind.STOP:
            self._depart(member)
        elif kind is Kind.START:
            swarm.change(at_most=1)
        elif kind is Kind.COMPLETE:
            member.seed = True
        action = Action(kind, member, self._numwant(kind), self._tick, now_s, swarm.at_least, swarm.at_most)
        swarm.asked.add(action)
        return action

    def _numwant(self, kind: Kind) -> int | None:
        if kind is Kind.STOP:
            return 0
        if self._rng.random() < FULL_HAND_OUT_SHARE:
            return NUMWANT_MAX
        return self._rng.randint(1, NUMWANT_MAX)


def info_hash_of(seed: int, rank: int) -> bytes:
    """Return the info-hash of the swarm of that rank: what a tracker that serves only known swarms must be told."""
    return hashlib.sha1(f"MiniBit load test {seed} swarm {rank}".encode(), usedforsecurity=False).digest()
