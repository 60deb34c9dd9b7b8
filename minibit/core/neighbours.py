"""What a session knows of each neighbour."""

from dataclasses import dataclass, field

from minibit.core.blocks import Bitfield

INTERESTED_AFTER_REFUSAL_S = 10.0  # CONTRACT: a refused request makes a client interested for so long
CONTACT_RETRY_MIN_S = 0.5
CONTACT_RETRY_MAX_S = 30.0


def _backoff_s(failures: int) -> float:
    return min(CONTACT_RETRY_MIN_S * 2.0 ** min(failures, 10), CONTACT_RETRY_MAX_S)


STRIKES_MAX = 3  # wrong blocks after which a sender is asked no more


@dataclass(slots=True)
class Neighbour:
    """One neighbour: what it owns, what it lets me do, what passed between us."""

    key: str
    peer_id: str
    have: Bitfield
    number: int  # in the order of meeting
    may_ask: bool = False  # it gave me a standing turn: one request at a time, until it refuses
    rate_bytes_per_s: float | None = None  # its uplink, as its last offer said
    suggested: int | None = None
    kept_turn_until_s: float = float("-inf")  # it offered a turn while its last block was still coming in
    speaks_turns: bool | None = None  # None: not known yet
    told: int = 0  # how many of my acquired blocks it has heard of
    told_at_s: float = float("-inf")
    received_bytes: int = 0
    received_lately_bytes: float = 0.0
    given_bytes: int = 0
    last_turn_s: float = float("-inf")
    cool_until_s: float = 0.0  # it declined a turn: none is offered before
    declines: int = 0
    stands: bool = False  # it has been told that it may ask at any time
    hungry_at_s: float = float("-inf")  # when it last asked for something: a block, a turn, what there is
    idles: bool = False  # it has no use for its turn at the moment, and wants to hear of more
    interested_until_s: float = float("-inf")  # a client without offers, after a refusal
    waits_for_turn: bool = False
    turn_due_until_s: float = float("-inf")  # a client without offers whose turn came and may still be used
    failures: int = 0
    retry_at_s: float = 0.0  # it could not be reached: left alone until then
    ask_again_at_s: float = 0.0  # it refused or was busy
    strikes: int = 0
    lost_in_a_row: int = 0  # blocks that broke off
    avoid_until_s: float = 0.0  # after a block broke off: asked for none before, whatever it offers

    @property
    def banned(self) -> bool:
        """Whether it sent too many wrong blocks."""
        return self.strikes >= STRIKES_MAX

    def heard_from(self) -> None:
        """It is alive: forget failed contacts."""
        self.failures = 0
        self.retry_at_s = 0.0

    def contact_failed(self, now_s: float) -> None:
        """Leave it alone for a while, twice as long each time; what it has heard of my blocks is uncertain now."""
        self.retry_at_s = now_s + _backoff_s(self.failures)
        self.failures += 1
        self.told = 0
        self.stands = False

    def lost(self, now_s: float) -> None:
        """A block from it broke off: ask for none for a while, twice as long each time."""
        self.avoid_until_s = now_s + _backoff_s(self.lost_in_a_row)
        self.lost_in_a_row += 1

    def wants_from(self, owned: int) -> int:
        """Return the set of blocks of ``owned`` that it lacks, as far as is known."""
        return owned & ~self.have.mask

    def interested(self, owned: int, now_s: float) -> bool:
        """Whether it would ask for a block if it could."""
        if self.banned or not self.wants_from(owned):
            return False
        if self.speaks_turns is False or self.retry_at_s > now_s:
            return self.interested_until_s > now_s
        return True


@dataclass(slots=True)
class Upload:
    """A block on its way to a neighbour."""

    key: str
    index: int
    ends_at_s: float  # as the link's rate promises
    stalled: bool = False


@dataclass(slots=True)
class Uplink:
    """My uplink: what is being sent, whose turn is offered, when the link falls free."""

    rate_bytes_per_s: float | None
    max_uploads: int
    active: list[Upload] = field(default_factory=list)
    offers: dict[str, float] = field(default_factory=dict)  # key -> when the offer lapses
    free_at_s: float = 0.0

    @property
    def takes_turns(self) -> bool:
        """Whether blocks go out one after another (a limited link), or side by side."""
        return self.rate_bytes_per_s is not None

    def service_s(self, num_bytes: int, measured_s: float) -> float:
        """Return how long a block takes: what the rate says, else what was measured."""
        return num_bytes / self.rate_bytes_per_s if self.rate_bytes_per_s else measured_s

    def uploads_to(self, key: str) -> int:
        """How many blocks are on their way to this neighbour."""
        return sum(upload.key == key for upload in self.active)

    def start(self, key: str, index: int, service_s: float, now_s: float) -> None:
        """A block begins to leave, behind what is already on the link."""
        self.offers.pop(key, None)
        self.free_at_s = max(self.free_at_s, now_s) + service_s
        self.active.append(Upload(key, index, self.free_at_s))

    def end(self, key: str, index: int, now_s: float) -> None:
        """A block has left, or was given up."""
        ended = next((upload for upload in self.active if upload.key == key and upload.index == index), None)
        if ended:
            self.active.remove(ended)
        self._settle(now_s)

    def stall(self, key: str, index: int, now_s: float) -> None:
        """A receiver is slower than the link: the link counts as free for another."""
        for upload in self.active:
            upload.stalled |= upload.key == key and upload.index == index
        self._settle(now_s)

    def lapse(self, now_s: float) -> list[str]:
        """Drop the offers that were not used in time; return whose they were."""
        gone = [key for key, until_s in self.offers.items() if until_s <= now_s]
        for key in gone:
            del self.offers[key]
        return gone

    def moving(self) -> int:
        """How many blocks are leaving at the link's speed."""
        return sum(not upload.stalled for upload in self.active)

    def has_room(self, now_s: float, lead_s: float) -> bool:
        """Whether another turn may be offered: the link falls free within ``lead_s`` and nobody else was asked."""
        if len(self.active) + len(self.offers) >= self.max_uploads:
            return False
        return not self.offers and self.moving() < 2 and self.free_at_s - lead_s <= now_s

    def _settle(self, now_s: float) -> None:
        ends = [upload.ends_at_s for upload in self.active if not upload.stalled]
        self.free_at_s = max(ends, default=now_s)
