"""One peer's brain: events in, actions out.

Rules that hold at every moment:

- ``handle(event, now_s)`` is the only door. It never blocks, never reads a clock, and draws randomness only from the
  ``Random`` it was given: the same seed and the same events give the same actions.
- Calls come one at a time (the driver holds a lock), with ``now_s`` never falling.
- The uplink serves by *turns*. A limited uplink offers one neighbour at a time the next block, ahead of the end of the
  block before; the receiver chooses the block when the offer comes, so the choice rests on what it knows then. An
  unlimited uplink gives each unchoked neighbour a standing turn. A client that does not know turns asks, is told when
  to come back, and finds its turn kept.
- An unlimited uplink goes by what happens, hardly by the clock: one unanswered offer at a time, a rechoke after so many
  blocks, twice the pause after each offer in vain. Whatever had a fixed time-out multiplied in a crowd: where an answer
  takes seconds (1,000 processes on two cores), each time-out adds messages, which make answers take longer still.
- Tit-for-tat decides who is unchoked; turns go round among those in order of who waited longest.
- A block counts as owned when the driver says it arrived, which it does once the hash matched and it was written.
"""

import heapq
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from minibit.core import events as ev
from minibit.core.blocks import Bitfield, Geometry, indices_of, mask_of, random_index
from minibit.core.choker import (
    OPTIMISTIC_ROUNDS,
    RECHOKE_BLOCKS,
    REGULAR_SLOTS,
    Candidate,
    Choice,
    Choker,
    rechoke_interval_s,
)
from minibit.core.neighbours import INTERESTED_AFTER_REFUSAL_S, Neighbour, Uplink
from minibit.core.picker import Availability, OpenRequest, Picker, RequestLedger

OFFER_LEAD_S = 0.04  # a turn is offered so long before the link falls free: an exchange takes some 5 ms, more if busy
OFFER_LAPSES_S = 0.25  # an offer unused for so long goes to the next
WAKE_MIN_S = 0.02  # a neighbour that declines a turn is offered none for this, or for a block service time if longer
DECLINES_MAX = 2  # doubled at each further decline, so often at most
EARLY_RECHOKE_S = 0.02  # an idle uplink chooses anew at once, but not more often than this
DOWNLOADS_MAX = 8  # side by side from limited uplinks; each holds a thread and a block of memory
DOWNLOADS_OPEN_MAX = 3  # side by side from unlimited uplinks: more only compete for the same two cores
UPLOADS_MAX = 8
MAX_HAVES_PER_MESSAGE = 2000
OPEN_OFFER_LAPSES_S = 5.0  # an unlimited uplink waits so long for the answer to its offer: in a crowd it takes seconds
OPEN_OFFERS_MAX = 1  # of those, unanswered at a time
OPEN_RECHOKE_S = 30.0  # an unlimited uplink chooses anew after so long, or after RECHOKE_BLOCKS for each slot
TURN_UNUSED_S = 15.0  # a standing turn that was not used for so long holds no slot
TURN_IDLE_S = 0.5  # ... or for so long, if I am complete and somebody else is starving
IN_VAIN_MAX_S = 60.0  # between two choices, while every offer is declined
HUNGRY_FOR_S = 16.0  # complete by download, I offer turns to those who asked me for something so lately
SLOW_BLOCK_S = 0.25  # an unlimited uplink that takes longer for a block serves one leecher at a time
STARVED_MIN_S = 0.5  # nothing to ask for: look around, after twice as long each time
STARVED_MAX_S = 16.0
STARVED_DOWNLOADS = 4  # ... and not before so many downloads would have come in
STARVED_SOON_S = 4.0  # ... which is no longer than this
STARVED_AT_START_S = 2.0  # ... or, while there was none, so long: everybody starves then, and asking spreads nothing
STARVED_OF_OFFERS_S = 1.0  # limited uplinks offer when they can: an offer may be lost if none came for so long
TRACKER_RETRY_MIN_S = 0.15
HANDSHAKES_AT_START = 3  # one in a crowd
SEED_HANDSHAKES_AT_START = 2
SERVICE_MAX_S = 1.0  # an uplink nobody asked for so long was idle, not slow
BLOCKS_PER_HAVE = 4  # between peers with unlimited uplinks, whose answers and offers carry most of the news
NUMWANT = 50  # what the tracker hands out at most: fewer means the whole swarm was told

_CHANGES_NOTHING = frozenset({ev.NewsAsked, ev.HavesDelivered, ev.PeerSeen})  # no decision follows from them


def _smoothed(average: float, sample: float) -> float:
    """Return a moving average over some eight samples, which starts at the first."""
    return average + (sample - average) / 8 if average else sample


class Session:
    """The state of one peer in one swarm.

    ``owned``, ``unchoked`` and ``choked`` are live and may be changed by the owner of the session between calls.
    """

    def __init__(
        self,
        geometry: Geometry,
        *,
        rng: Random,
        picker: Picker,
        choker: Choker,
        upload_rate_bytes_per_s: float | None = None,
        download_rate_bytes_per_s: float | None = None,
        max_neighbours: int = 50,
    ) -> None:
        self.geometry = geometry
        self.owned = Bitfield(geometry.num_blocks)
        self.unchoked: set[str] = set()
        self.choked: set[str] = set()
        self.optimistic: str | None = None
        self.last_rechoke_s = float("-inf")
        self._compared_s = float("-inf")
        self._compare_at_s = float("inf")  # when the choice may be looked at again, if something happened since
        self.neighbours: dict[str, Neighbour] = {}
        self.availability = Availability(geometry.num_blocks)
        self.ledger = RequestLedger()
        self.uplink = Uplink(upload_rate_bytes_per_s, UPLOADS_MAX)
        self._rng = rng
        self._picker = picker
        self._choker = choker
        self._seed_choker = choker.as_seed()
        self._download_rate = download_rate_bytes_per_s
        self._max_neighbours = max_neighbours
        self._acquired: list[int] = []
        self._source: dict[int, str] = {}  # block -> who gave it
        self._given = Availability(geometry.num_blocks)  # how often I gave each block
        self._began_complete = False
        self._running = False
        self._finished = False
        self._round = 0
        self._sent_this_round = 0  # blocks
        self._in_vain = 0  # offers declined since the last one that was used
        self._met = 0
        self._next_rechoke_s = 0.0
        self._measured_service_s = 0.0  # an unlimited uplink: from the blocks that leave side by side
        self._last_upload_s = float("-inf")
        self._measured_download_s = 0.0
        self._ask_tracker_at_s = float("inf")
        self._tracker_backoff_s = TRACKER_RETRY_MIN_S
        self._announced = False
        self._knows_all = False
        self._last_arrival_s = 0.0
        self._look_around_at_s = 0.0
        self._starved_s = STARVED_MIN_S
        self._reminders: list[float] = []  # heap: when a neighbour may be offered a turn, or asked, again
        self._actions: list[ev.Action] = []
        self._handlers: dict[type[ev.Event], Callable[[Any, float], None]] = {
            ev.Started: self._on_started,
            ev.BlocksGranted: self._on_blocks_granted,
            ev.PeerSeen: self._on_peer_seen,
            ev.TrackerAnswered: self._on_tracker_answered,
            ev.TrackerFailed: self._on_tracker_failed,
            ev.HavesReceived: self._on_haves,
            ev.BitfieldReceived: self._on_bitfield,
            ev.HandshakeReceived: self._on_handshake,
            ev.HandshakeAnswered: self._on_handshake_answered,
            ev.TurnOffered: self._on_turn_offered,
            ev.OfferAnswered: self._on_offer_answered,
            ev.ContactFailed: self._on_contact_failed,
            ev.HavesDelivered: self._on_haves_delivered,
            ev.RequestReceived: self._on_request,
            ev.UploadStalled: self._on_upload_stalled,
            ev.UploadEnded: self._on_upload_ended,
            ev.BlockArrived: self._on_block_arrived,
            ev.RequestFailed: self._on_request_failed,
            ev.NewsAsked: self._on_news_asked,
            ev.Tick: lambda _event, _now_s: None,
        }

    # ------------------------------------------------------------------ the one door

    def handle(self, event: ev.Event, now_s: float) -> list[ev.Action]:
        """Take in what happened; return what to do about it, in order."""
        self._actions = []
        self._handlers[type(event)](event, now_s)
        if not self._running or type(event) in _CHANGES_NOTHING:  # built, but not in the swarm: it decides nothing
            return self._actions
        self._rechoke_if_due(now_s)
        self._offer_turns(now_s)
        self._ask_standing(now_s)
        self._look_around(now_s)
        return self._actions

    def next_wakeup_s(self, now_s: float) -> float:
        """Return when ``Tick`` is due if nothing else happens before."""
        times = [self._next_rechoke_s, self._ask_tracker_at_s, self._compare_at_s]
        times.append(self.uplink.free_at_s - OFFER_LEAD_S)
        times.append(self.ledger.next_due_s(now_s))
        times.extend(self.uplink.offers.values())
        if not self.owned.complete:
            times.extend((self._look_around_at_s, self._last_arrival_s + STARVED_OF_OFFERS_S))
        while self._reminders and self._reminders[0] <= now_s:
            heapq.heappop(self._reminders)
        times.extend(self._reminders[:1])
        return min((time_s for time_s in times if time_s > now_s), default=now_s + 1.0)

    def describe(self) -> str:
        """Say in one line what this peer is waiting for."""
        permitted = sum(n.may_ask for n in self.neighbours.values())
        useful = sum(bool(n.have.mask & self.owned.missing) for n in self.neighbours.values())
        asked = [f"block {r.index} from {r.key}" for key in self.neighbours if (r := self.ledger.get(key))]
        return (
            f"has {self.owned.count} of {self.owned.size} blocks; knows {len(self.neighbours)} neighbours, "
            f"{useful} with blocks it lacks, {permitted} let it ask; waits for {', '.join(asked) or 'an offer'}"
        )

    # ------------------------------------------------------------------ neighbours

    def _on_started(self, event: ev.Started, now_s: float) -> None:
        self._running = True
        fresh = mask_of(event.owned) & ~mask_of(self._acquired)
        self._acquired.extend(indices_of(fresh))
        self.owned.mask |= fresh
        self._began_complete = self.owned.complete
        self._last_arrival_s = self._look_around_at_s = now_s + STARVED_AT_START_S
        self._next_rechoke_s = now_s + self.rechoke_interval_s()
        self._actions.append(ev.AskTracker())
        self._finish_if_complete()

    def _on_blocks_granted(self, event: ev.BlocksGranted, now_s: float) -> None:  # noqa: ARG002  handlers' shape
        self._acquired.extend(index for index in event.indices if self.owned.add(index))
        self._finish_if_complete()

    def _on_peer_seen(self, event: ev.PeerSeen, now_s: float) -> None:
        neighbour = self.neighbours.get(event.key)
        if neighbour is not None and neighbour.peer_id != event.peer_id:
            self.forget(event.key)  # another peer lives at this address now
            neighbour = None
        if neighbour is None:
            if len(self.neighbours) >= self._max_neighbours and not self._make_room(now_s, inbound=event.inbound):
                return
            self._met += 1
            neighbour = Neighbour(event.key, event.peer_id, Bitfield(self.geometry.num_blocks), self._met)
            self.neighbours[event.key] = neighbour
            self.choked.add(event.key)
        if event.seed:
            self._learn(neighbour, self.owned.mask | self.owned.missing)

    def _make_room(self, now_s: float, *, inbound: bool) -> bool:
        """Drop a neighbour that is of no use; for one that came to us, else the one longest without an exchange.

        Without the latter a latecomer would be known to nobody once every table is full.
        """
        idle = [
            n
            for key, n in self.neighbours.items()
            if key not in self.ledger and key not in self.unchoked and not self.uplink.uploads_to(key)
        ]
        useless = [n for n in idle if n.banned or n.retry_at_s > now_s or (self.owned.complete and n.have.complete)]
        leaves = useless or (idle if inbound else [])
        if not leaves:
            return False
        self.forget(min(leaves, key=lambda n: max(n.last_turn_s, n.told_at_s)).key)
        return True

    def forget(self, key: str) -> None:
        """Drop a neighbour; raise KeyError if it is not known."""
        self._learn(self.neighbours[key], 0, replace=True)
        del self.neighbours[key]
        self.uplink.offers.pop(key, None)
        self.ledger.close(key)
        self.unchoked.discard(key)
        self.choked.discard(key)

    def _learn(self, neighbour: Neighbour, blocks: int, *, replace: bool = False) -> None:
        before = neighbour.have.mask
        after = blocks if replace else before | blocks
        if before & ~after:
            self.availability.remove(before & ~after)
        if after & ~before:
            self.availability.add(after & ~before)
        neighbour.have.mask = after

    def _on_haves(self, event: ev.HavesReceived, now_s: float) -> None:  # noqa: ARG002  every handler has this shape
        neighbour = self.neighbours.get(event.key)
        if neighbour:
            neighbour.heard_from()
            self._learn(neighbour, mask_of(event.indices))

    def _on_bitfield(self, event: ev.BitfieldReceived, now_s: float) -> None:  # noqa: ARG002  handlers' shape
        neighbour = self.neighbours.get(event.key)
        if neighbour:
            neighbour.heard_from()
            self._learn(neighbour, mask_of(event.indices), replace=True)

    def _on_handshake(self, event: ev.HandshakeReceived, now_s: float) -> None:
        neighbour = self.neighbours.get(event.key)
        if neighbour is None:
            return
        neighbour.heard_from()
        self._learn(neighbour, mask_of(event.indices), replace=True)
        neighbour.told, neighbour.told_at_s = len(self._acquired), now_s
        neighbour.interested_until_s = now_s + INTERESTED_AFTER_REFUSAL_S
        neighbour.hungry_at_s = now_s
        neighbour.idles = True  # tell it when there is more
        neighbour.stands = False  # ... and that it may ask, which it may not know
        if self._running and not self.uplink.takes_turns and self._would_take(neighbour, now_s):
            self._in_vain = 0
            self._make_turn(neighbour, now_s)

    def _on_handshake_answered(self, event: ev.HandshakeAnswered, now_s: float) -> None:
        neighbour = self.neighbours.get(event.key)
        if neighbour is None:
            return
        neighbour.heard_from()
        neighbour.told, neighbour.told_at_s = event.told, now_s
        neighbour.speaks_turns = event.turns
        neighbour.may_ask = event.standing or (event.unchoked and (neighbour.may_ask or not event.turns))

    def _on_contact_failed(self, event: ev.ContactFailed, now_s: float) -> None:
        self.uplink.offers.pop(event.key, None)
        neighbour = self.neighbours.get(event.key)
        if neighbour is None:
            return
        if event.reachable:
            neighbour.heard_from()
            neighbour.speaks_turns = False
        else:
            neighbour.contact_failed(now_s)

    def _on_tracker_answered(self, event: ev.TrackerAnswered, now_s: float) -> None:
        first, self._announced = not self._announced, True
        self._knows_all = event.num_peers < NUMWANT and not first
        full = len(self.neighbours) >= self._max_neighbours
        enough = full or (not first and (self._knows_all or self.owned.complete))
        wait_s = event.interval_s if enough else min(self._tracker_backoff_s, event.interval_s)
        self._tracker_backoff_s *= 2
        self._ask_tracker_at_s = now_s + wait_s
        if first and not self.owned.complete:
            self._introduce(whole_swarm=event.num_peers < NUMWANT)

    def _introduce(self, *, whole_swarm: bool) -> None:
        """Make myself known to the seeds and a few others who were here before me; in a crowd, to one other."""
        seeds = [key for key, n in self.neighbours.items() if n.have.complete and whole_swarm]
        others = [key for key, n in self.neighbours.items() if not n.have.complete]
        chosen = self._rng.sample(others, min(HANDSHAKES_AT_START if whole_swarm else 1, len(others)))
        self._actions.extend(ev.Handshake(key) for key in [*seeds[:SEED_HANDSHAKES_AT_START], *chosen])

    def _on_tracker_failed(self, event: ev.TrackerFailed, now_s: float) -> None:  # noqa: ARG002  handlers' shape
        self._ask_tracker_at_s = now_s + min(self._tracker_backoff_s, 30.0)
        self._tracker_backoff_s *= 2

    # ------------------------------------------------------------------ what others hear of my blocks

    def _haves_for(self, neighbour: Neighbour, now_s: float) -> tuple[int, ...]:
        """Return what this neighbour has not heard of, and count it as told (a failure takes that back)."""
        if neighbour.told == len(self._acquired):
            return ()
        fresh = self._acquired[neighbour.told : neighbour.told + MAX_HAVES_PER_MESSAGE]
        neighbour.told += len(fresh)
        neighbour.told_at_s = now_s
        # All but what it gave itself: what it owns too matters, it tells how far this peer is.
        return tuple(index for index in fresh if self._source.get(index) != neighbour.key)

    def _on_news_asked(self, event: ev.NewsAsked, now_s: float) -> None:
        if event.key in self.neighbours:
            self._actions.append(ev.TellNews(event.key, self._haves_for(self.neighbours[event.key], now_s)))

    def _on_haves_delivered(self, event: ev.HavesDelivered, now_s: float) -> None:  # noqa: ARG002  handlers' shape
        if event.key in self.neighbours:
            self.neighbours[event.key].heard_from()

    def _spread_haves(self, now_s: float) -> None:
        """Tell the neighbour that has not heard from me for longest: one message for each block at most."""
        if not self.uplink.takes_turns and len(self._acquired) % BLOCKS_PER_HAVE:
            return
        cutoff_s = now_s - self.rechoke_interval_s()
        stale = [
            n
            for n in self.neighbours.values()
            if n.told < len(self._acquired)
            and n.told_at_s < cutoff_s
            and not n.have.complete
            and n.speaks_turns is not False
            and n.retry_at_s <= now_s
        ]
        if stale:
            neighbour = min(stale, key=lambda n: n.told_at_s)
            haves = self._haves_for(neighbour, now_s)
            neighbour.told_at_s = now_s
            if haves:
                self._actions.append(ev.SendHaves(neighbour.key, haves))

    # ------------------------------------------------------------------ my uplink

    def _service_s(self) -> float:
        """Return how long a block takes on my uplink."""
        size = min(self.geometry.block_size_bytes, self.geometry.length_bytes)
        return self.uplink.service_s(size, self._measured_service_s)

    def rechoke_interval_s(self) -> float:
        """Return the time between two rechokes, from how long a block takes on my uplink; the longest, if unlimited."""
        return rechoke_interval_s(self._service_s()) if self.uplink.takes_turns else OPEN_RECHOKE_S

    def _rechoke_if_due(self, now_s: float) -> None:
        slots = max(1, len(self.unchoked))
        enough = not self.uplink.takes_turns and self._sent_this_round >= RECHOKE_BLOCKS * slots
        if now_s < self._next_rechoke_s and not enough:
            return
        self._round += 1
        self._sent_this_round = 0
        self._rechoke(now_s, rotate=self._round % OPTIMISTIC_ROUNDS == 0)
        for neighbour in self.neighbours.values():
            neighbour.received_lately_bytes /= 2
        self._next_rechoke_s = now_s + self.rechoke_interval_s()

    def _rechoke(self, now_s: float, *, rotate: bool, keep: Sequence[Neighbour] = ()) -> None:
        candidates = [
            Candidate(n.key, self._would_take(n, now_s), n.received_lately_bytes, n.given_bytes)
            for n in self.neighbours.values()
        ]
        self.last_rechoke_s = now_s
        choker = self._seed_choker if self.owned.complete else self._choker
        choice = choker.choose(candidates, self._rng, rotate=rotate)
        if not self.uplink.takes_turns:
            choice = choice.first(self._slots)
        if choice.unchoked:  # else it serves nobody
            choice = choice.keeping([neighbour.key for neighbour in keep])
        self._apply(choice)

    def _apply(self, choice: Choice) -> None:
        for key in self.unchoked.difference(choice.unchoked):
            if key in self.neighbours:
                self.neighbours[key].stands = False
        self.unchoked.clear()
        self.unchoked.update(choice.unchoked)
        self.choked.clear()
        self.choked.update(key for key in self.neighbours if key not in self.unchoked)
        self.optimistic = choice.optimistic

    def _offer_turns(self, now_s: float) -> None:
        for key in self.uplink.lapse(now_s):
            self._cool(key, now_s)
            self._in_vain += 1
        offer = self._offer_one_turn if self.uplink.takes_turns else self._offer_standing
        offer(now_s)
        if self._could_choose_better(now_s):
            # Fill the empty slots: who has a standing turn and uses it keeps it.
            self._rechoke(now_s, rotate=False, keep=() if self.uplink.takes_turns else self._users(now_s))
            offer(now_s)

    def _would_take(self, neighbour: Neighbour, now_s: float) -> bool:
        """Whether unchoking this neighbour would bring it blocks: it wants some, and has not just declined a turn."""
        if self.uplink.takes_turns and neighbour.cool_until_s > now_s:
            return False
        if self._was_leecher and neighbour.hungry_at_s + HUNGRY_FOR_S < now_s:
            return False  # most likely it is complete too, and has not said so: who starves will ask
        return neighbour.interested(self.owned.mask, now_s)

    @property
    def _was_leecher(self) -> bool:
        return self.owned.complete and not self._began_complete and not self.uplink.takes_turns

    def _users(self, now_s: float, unused_s: float = TURN_UNUSED_S) -> list[Neighbour]:
        """Return those who make use of their standing turns, or may be about to."""
        return [
            n
            for n in self._unchoked_neighbours()
            if self._would_take(n, now_s)
            and (n.key in self.uplink.offers or self.uplink.uploads_to(n.key) or n.last_turn_s + unused_s > now_s)
        ]

    def _make_turn(self, neighbour: Neighbour, now_s: float) -> None:
        """Give a starving neighbour a standing turn if a slot is free; the answer to its handshake will tell it."""
        users = self._users(now_s, TURN_IDLE_S if self.owned.complete else TURN_UNUSED_S)
        if neighbour not in users and len(users) < self._slots:
            self._rechoke(now_s, rotate=False, keep=[*users, neighbour])
        if neighbour.key in self.unchoked:
            neighbour.stands = True
            neighbour.last_turn_s = now_s

    def _could_choose_better(self, now_s: float) -> bool:
        """Whether a slot is empty, or the uplink idle, while somebody choked would take a block."""
        self._compare_at_s = max(self.last_rechoke_s, self._compared_s) + self._early_rechoke_s()
        if now_s < self._compare_at_s:
            return False
        self._compare_at_s = float("inf")
        if self.uplink.takes_turns:
            if not self.uplink.has_room(now_s, OFFER_LEAD_S):
                return False
            taken = sum(self._could_use_turn(neighbour, now_s) for neighbour in self._unchoked_neighbours())
            return not taken and any(self._could_use_turn(n, now_s) for n in self.neighbours.values())
        self._compared_s = now_s
        taken = len(self._users(now_s))
        choked = (n for key, n in self.neighbours.items() if key not in self.unchoked)
        return taken < self._slots and any(self._would_take(n, now_s) for n in choked)

    @property
    def _slots(self) -> int:
        """How many an unlimited uplink serves at a time: one, where blocks take long and I still lack some.

        Blocks side by side then only make each other later. Who completes early serves many blocks for each message.
        """
        slow = max(self._measured_download_s, self._measured_service_s) > SLOW_BLOCK_S
        return 1 if slow and not self.owned.complete else REGULAR_SLOTS + 1

    def _early_rechoke_s(self) -> float:
        """Return how long after a choice the next may come early: for standing turns, as many offers as blocks."""
        if self.uplink.takes_turns:
            return EARLY_RECHOKE_S
        pause_s = max(EARLY_RECHOKE_S, self._measured_service_s or self._measured_download_s)
        return min(pause_s * 2.0 ** min(self._in_vain, 16), IN_VAIN_MAX_S)

    def _offer_one_turn(self, now_s: float) -> None:
        """Offer the link's next turn to whoever of the unchoked waited longest."""
        while self.uplink.has_room(now_s, OFFER_LEAD_S):
            waiting = [n for n in self._unchoked_neighbours() if self._could_use_turn(n, now_s)]
            if not waiting:
                return
            neighbour = min(waiting, key=lambda n: n.last_turn_s)
            neighbour.last_turn_s = now_s
            if neighbour.waits_for_turn:
                neighbour.waits_for_turn = False
                neighbour.turn_due_until_s = now_s + INTERESTED_AFTER_REFUSAL_S
                continue
            self._offer(neighbour, now_s)

    def _offer_standing(self, now_s: float) -> None:
        """Give every unchoked neighbour a standing turn; wake one that had no reason to ask once there may be one."""
        for neighbour in self._unchoked_neighbours():
            if len(self.uplink.offers) >= OPEN_OFFERS_MAX:
                return
            wakes = neighbour.idles and neighbour.told < len(self._acquired)
            if (wakes or not neighbour.stands) and self._could_use_turn(neighbour, now_s):
                neighbour.stands = True
                neighbour.last_turn_s = now_s
                self._offer(neighbour, now_s)

    def _unchoked_neighbours(self) -> list[Neighbour]:
        unchoked = [self.neighbours[key] for key in self.unchoked if key in self.neighbours]
        return sorted(unchoked, key=lambda n: n.number)  # a set of strings has another order in every process

    def _could_use_turn(self, neighbour: Neighbour, now_s: float) -> bool:
        if neighbour.key in self.uplink.offers or self.uplink.uploads_to(neighbour.key):
            return False
        if neighbour.speaks_turns is False or neighbour.retry_at_s > now_s:
            return neighbour.waits_for_turn and self.uplink.takes_turns
        return self._would_take(neighbour, now_s) and neighbour.cool_until_s <= now_s

    def _offer(self, neighbour: Neighbour, now_s: float) -> None:
        rate = self.uplink.rate_bytes_per_s
        suggest = self._least_given(neighbour)
        haves = self._haves_for(neighbour, now_s)
        self.uplink.offers[neighbour.key] = now_s + (OFFER_LAPSES_S if rate else OPEN_OFFER_LAPSES_S)
        self._actions.append(
            ev.OfferTurn(neighbour.key, haves, standing=rate is None, suggest=suggest, rate_bytes_per_s=rate)
        )

    def _least_given(self, neighbour: Neighbour) -> int | None:
        """Return the block a seed should give next: each once before any twice, the rarest of those."""
        if not self._began_complete:
            return None
        leaving = mask_of(upload.index for upload in self.uplink.active)
        candidates = neighbour.wants_from(self.owned.mask) & ~leaving
        if not candidates:
            return None
        return random_index(self.availability.rarest(self._given.rarest(candidates)), self._rng)

    def _cool(self, key: str, now_s: float) -> None:
        """Offer this neighbour no turn for a while: it did not want the last one."""
        neighbour = self.neighbours.get(key)
        if neighbour:
            neighbour.cool_until_s = now_s + max(WAKE_MIN_S, self._service_s()) * 2**neighbour.declines
            heapq.heappush(self._reminders, neighbour.cool_until_s)
            neighbour.declines = min(neighbour.declines + 1, DECLINES_MAX)

    def _on_offer_answered(self, event: ev.OfferAnswered, now_s: float) -> None:
        neighbour = self.neighbours.get(event.key)
        if neighbour is None:
            return
        neighbour.heard_from()
        neighbour.speaks_turns = True
        neighbour.idles = not event.accepted
        neighbour.hungry_at_s = now_s if event.accepted else float("-inf")
        if not event.accepted or not self.uplink.takes_turns:
            self.uplink.offers.pop(event.key, None)
        if not event.accepted:
            self._cool(event.key, now_s)
            self._in_vain += 1

    def _on_request(self, event: ev.RequestReceived, now_s: float) -> None:
        neighbour = self.neighbours.get(event.key)
        if neighbour is None:  # forgotten between two threads
            self._actions.append(ev.Refuse(event.key, "unknown"))
            return
        neighbour.interested_until_s = now_s + INTERESTED_AFTER_REFUSAL_S
        holds_turn = event.key in self.uplink.offers or neighbour.turn_due_until_s > now_s
        if neighbour.banned or not self.lets_ask(event.key, now_s):
            self._actions.append(ev.Refuse(event.key, "choked", self.retry_after_s(event.key, now_s)))
        elif event.index not in self.owned:
            self._actions.append(ev.Refuse(event.key, "missing"))
        elif not self._may_serve(neighbour, holds_turn=holds_turn, now_s=now_s):
            neighbour.waits_for_turn = True
            self._actions.append(ev.Refuse(event.key, "busy", self.retry_after_s(event.key, now_s)))
        else:
            self._serve(neighbour, event.index, now_s)

    def _may_serve(self, neighbour: Neighbour, *, holds_turn: bool, now_s: float) -> bool:
        # Two: its next request may overtake the news that the block before has left.
        if self.uplink.uploads_to(neighbour.key) >= 2 or len(self.uplink.active) >= self.uplink.max_uploads:
            return False
        return holds_turn or not self.uplink.takes_turns or self.uplink.has_room(now_s, 0.0)

    def _serve(self, neighbour: Neighbour, index: int, now_s: float) -> None:
        neighbour.last_turn_s = neighbour.hungry_at_s = now_s
        self._in_vain = 0
        neighbour.idles = False
        neighbour.turn_due_until_s = float("-inf")
        neighbour.waits_for_turn = False
        neighbour.declines = 0
        service_s = self.uplink.service_s(self.geometry.block_length_bytes(index), self._measured_service_s)
        self.uplink.start(neighbour.key, index, service_s, now_s)
        self._actions.append(ev.Serve(neighbour.key, index, self._haves_for(neighbour, now_s)))

    def retry_after_s(self, key: str, now_s: float) -> float:
        """Return when it makes sense for this client to ask again: its turn on the link, or the next rechoke."""
        if key not in self.unchoked:
            wait_s = self._next_rechoke_s - now_s
            if not self.uplink.takes_turns:  # a slot may fall empty long before, and counts it only while interested
                wait_s = min(wait_s, INTERESTED_AFTER_REFUSAL_S / 4)
            return max(wait_s, EARLY_RECHOKE_S)
        mine_s = self.neighbours[key].last_turn_s if key in self.neighbours else now_s
        ahead = sum(
            n.key != key and n.last_turn_s <= mine_s and (n.waits_for_turn or self._could_use_turn(n, now_s))
            for n in self._unchoked_neighbours()
        )
        ahead += len(self.uplink.offers)
        return max(max(self.uplink.free_at_s - now_s, 0.0) + ahead * self._service_s(), WAKE_MIN_S)

    def _on_upload_stalled(self, event: ev.UploadStalled, now_s: float) -> None:
        self.uplink.stall(event.key, event.index, now_s)

    def _on_upload_ended(self, event: ev.UploadEnded, now_s: float) -> None:
        self.uplink.end(event.key, event.index, now_s)
        neighbour = self.neighbours.get(event.key)
        if neighbour is None:
            return
        neighbour.given_bytes += event.sent_bytes
        if not event.complete:
            neighbour.told = 0  # it may have gone, or had the block from elsewhere; the next offer will tell
            return
        self._given.add(1 << event.index)
        self._sent_this_round += 1
        if not self.uplink.takes_turns:
            side_by_side = max(1, len(self.unchoked))
            service_s = min((now_s - self._last_upload_s) * side_by_side, SERVICE_MAX_S)
            self._measured_service_s = _smoothed(self._measured_service_s, service_s)
            self._last_upload_s = now_s
        self._learn(neighbour, 1 << event.index)

    # ------------------------------------------------------------------ my downloads

    def _on_turn_offered(self, event: ev.TurnOffered, now_s: float) -> None:
        neighbour = self.neighbours.get(event.key)
        if neighbour is None or neighbour.banned:
            return
        neighbour.heard_from()
        neighbour.speaks_turns = True
        neighbour.rate_bytes_per_s = event.rate_bytes_per_s
        neighbour.suggested = event.suggest
        neighbour.ask_again_at_s = 0.0
        if event.standing:
            neighbour.may_ask = True
        elif event.key in self.ledger:
            neighbour.kept_turn_until_s = now_s + OFFER_LAPSES_S  # its last block has left it and is not in yet
        elif self._has_downlink_room(event.rate_bytes_per_s, now_s):
            self._ask(neighbour, now_s)

    def _has_downlink_room(self, rate_bytes_per_s: float | None, now_s: float) -> bool:
        """Whether another block at this rate fits beside those under way: a full downlink would hold up the sender."""
        if len(self.ledger) >= DOWNLOADS_MAX:
            return False
        if self._download_rate is None or rate_bytes_per_s is None or not len(self.ledger):
            return True
        soon_s = now_s + OFFER_LEAD_S  # the offered block comes when its sender's link falls free: by then these are in
        lasting = (r for key in self.neighbours if (r := self.ledger.get(key)) and r.expected_at_s > soon_s)
        taken = sum(self.neighbours[request.key].rate_bytes_per_s or 0.0 for request in lasting)
        return taken + rate_bytes_per_s <= self._download_rate * 1.01

    def _ask_standing(self, now_s: float) -> None:
        """Use the standing turns: a few blocks at a time, from neighbours in random order."""
        if self.owned.complete or len(self.ledger) >= DOWNLOADS_OPEN_MAX:
            return
        able = [
            n for n in self.neighbours.values() if n.may_ask and n.key not in self.ledger and n.ask_again_at_s <= now_s
        ]
        self._rng.shuffle(able)
        for neighbour in able:
            if len(self.ledger) >= DOWNLOADS_OPEN_MAX:
                return
            self._ask(neighbour, now_s)

    def _ask(self, neighbour: Neighbour, now_s: float) -> bool:
        """Ask the neighbour for the best block it has, if it has one; return whether it was asked."""
        if neighbour.key in self.ledger or neighbour.banned or neighbour.avoid_until_s > now_s:
            return False
        index = self._choose(neighbour, now_s)
        if index is None:
            return False
        size = self.geometry.block_length_bytes(index)
        expected_s = size / neighbour.rate_bytes_per_s if neighbour.rate_bytes_per_s else 2 * self._measured_download_s
        due_s = now_s + 2 * expected_s + OFFER_LAPSES_S
        self.ledger.open(OpenRequest(index, neighbour.key, now_s + expected_s, due_s))
        self._actions.append(ev.RequestBlock(neighbour.key, index, self._haves_for(neighbour, now_s)))
        return True

    def _choose(self, neighbour: Neighbour, now_s: float) -> int | None:
        wanted = neighbour.have.mask & self.owned.missing
        candidates = wanted & ~self.ledger.in_flight
        if not candidates:
            candidates = wanted & self.ledger.overdue(now_s)  # end game: do not wait for a slow sender
        if not candidates:
            return None
        suggested, neighbour.suggested = neighbour.suggested, None
        if suggested is not None and candidates >> suggested & 1:
            return suggested
        return self._picker.pick(candidates, self.availability, self._rng)

    def _on_block_arrived(self, event: ev.BlockArrived, now_s: float) -> None:
        self.ledger.close(event.key)
        neighbour = self.neighbours.get(event.key)
        if neighbour:
            neighbour.heard_from()
            neighbour.lost_in_a_row = 0
            neighbour.received_bytes += event.num_bytes
            neighbour.received_lately_bytes += event.num_bytes
            self._learn(neighbour, 1 << event.index)
        if not self.owned.add(event.index):
            return
        self._last_arrival_s = now_s
        self._starved_s = STARVED_MIN_S
        self._acquired.append(event.index)
        self._source[event.index] = event.key
        self._measured_download_s = _smoothed(self._measured_download_s, event.duration_s)
        self._actions.extend(
            ev.CancelRequest(other.key, other.index) for other in self.ledger.others(event.index, event.key)
        )
        if not self._finish_if_complete():
            self._use_kept_turn(event.key, now_s)
            self._spread_haves(now_s)

    def _use_kept_turn(self, key: str, now_s: float) -> None:
        neighbour = self.neighbours.get(key)
        if neighbour and neighbour.kept_turn_until_s > now_s:
            neighbour.kept_turn_until_s = float("-inf")
            self._ask(neighbour, now_s)

    def _finish_if_complete(self) -> bool:
        if self.owned.complete and not self._finished:
            self._finished = True
            self._actions.append(ev.Finish())
        return self._finished

    def _on_request_failed(self, event: ev.RequestFailed, now_s: float) -> None:
        self.ledger.close(event.key)
        neighbour = self.neighbours.get(event.key)
        if neighbour is None:
            return
        if event.reason == "corrupt":
            neighbour.strikes += 1
        elif event.reason == "lost":
            neighbour.may_ask = False
            neighbour.contact_failed(now_s)
            neighbour.lost(now_s)
        elif event.reason == "refused":
            neighbour.may_ask = False
        elif event.reason == "unknown":
            neighbour.may_ask = False
            neighbour.told = 0
        elif event.reason == "missing":
            self._learn(neighbour, neighbour.have.mask & ~(1 << event.index), replace=True)
        elif event.reason == "busy":
            neighbour.ask_again_at_s = now_s + max(event.retry_after_s, WAKE_MIN_S)
            heapq.heappush(self._reminders, neighbour.ask_again_at_s)

    def _look_around(self, now_s: float) -> None:
        """Ask the tracker when it is time; starved of blocks, ask a neighbour for its state: an offer may be lost."""
        if now_s >= self._ask_tracker_at_s:
            self._ask_tracker_at_s = float("inf")  # until it answers or fails
            self._actions.append(ev.AskTracker())
        if self.owned.complete or len(self.ledger) or now_s < self._look_around_at_s:
            return
        reachable = [n for n in self.neighbours.values() if n.retry_at_s <= now_s and not n.banned]
        standing = [n for n in reachable if n.may_ask]
        if not standing and now_s < self._last_arrival_s + STARVED_OF_OFFERS_S:
            return  # limited uplinks offer when they can
        pause_s = min(STARVED_DOWNLOADS * self._measured_download_s, STARVED_SOON_S) or STARVED_AT_START_S
        self._look_around_at_s = now_s + max(self._starved_s, pause_s)
        self._starved_s = min(2 * self._starved_s, STARVED_MAX_S)
        if reachable:
            useful = [n for n in reachable if n.have.mask & self.owned.missing]
            self._actions.append(ev.Handshake(self._rng.choice(standing or useful or reachable).key))

    # ------------------------------------------------------------------ for those who look in from outside

    def takes_turn(self, key: str, actions: Sequence[ev.Action]) -> bool:
        """Whether these actions, the answer to this neighbour's offer, take it up: now, or (standing) later.

        One that does not will be told of more to ask for.
        """
        if any(isinstance(action, ev.RequestBlock) and action.key == key for action in actions):
            return True
        neighbour = self.neighbours.get(key)
        if neighbour is None:  # another thread made room meanwhile
            return False
        return neighbour.kept_turn_until_s > float("-inf") or (neighbour.may_ask and len(self.ledger) > 0)

    def lets_ask(self, key: str, now_s: float) -> bool:
        """Whether this neighbour is not refused as choked if it asks now."""
        neighbour = self.neighbours.get(key)
        held = neighbour is not None and neighbour.turn_due_until_s > now_s
        return key in self.unchoked or key in self.uplink.offers or held

    def disown(self, index: int) -> None:
        """Own a simulated block no more."""
        self.owned.discard(index)
        self._acquired = [other for other in self._acquired if other != index]
        self._finished = False

    def unchokes_me(self, key: str) -> bool:
        """Whether this neighbour lets me ask at the moment."""
        return key in self.ledger or self.neighbours[key].may_ask
