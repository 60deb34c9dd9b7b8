"""Which block next: pickers over sets of blocks, the availability they look at, and the ledger of open requests.

A picker proposes; the caller (the session) marks what it asked for. Nothing here knows the time unless it is passed in.
"""

from dataclasses import dataclass
from random import Random
from typing import Protocol

from minibit.core.blocks import random_index


class Availability:
    """How many neighbours own each block, kept as one set of blocks per count.

    Adding a neighbour that owns any set of blocks costs as many big-integer operations as there are distinct counts,
    not one step per block.
    """

    def __init__(self, num_blocks: int) -> None:
        self._by_count: list[int] = [(1 << num_blocks) - 1]

    def add(self, blocks: int) -> None:
        """One more neighbour owns each block of this set."""
        levels = self._by_count
        if levels[-1] & blocks:
            levels.append(0)
        for count in range(len(levels) - 2, -1, -1):
            moving = levels[count] & blocks
            levels[count] ^= moving
            levels[count + 1] |= moving

    def remove(self, blocks: int) -> None:
        """One neighbour fewer owns each block of this set; each must have been added."""
        levels = self._by_count
        for count in range(1, len(levels)):
            moving = levels[count] & blocks
            levels[count] ^= moving
            levels[count - 1] |= moving
        while len(levels) > 1 and not levels[-1]:
            levels.pop()

    def count(self, index: int) -> int:
        """How many neighbours own block ``index``."""
        return next(count for count, blocks in enumerate(self._by_count) if blocks >> index & 1)

    def rarest(self, candidates: int) -> int:
        """Return those of a non-empty set of candidates that the fewest neighbours own."""
        return next(found for blocks in self._by_count if (found := blocks & candidates))


class Picker(Protocol):
    """Chooses one block from a non-empty set of candidates."""

    def pick(self, candidates: int, availability: Availability, rng: Random) -> int:
        """Return the index of the chosen block."""


class RarestFirst:
    """The rarest block among the candidates, ties broken at random (Cohen 2003, section 2.4)."""

    def pick(self, candidates: int, availability: Availability, rng: Random) -> int:
        """Return a random one of the rarest candidates."""
        return random_index(availability.rarest(candidates), rng)


class RandomOrder:
    """Any block, uniformly: what rarest first is compared with."""

    def pick(self, candidates: int, availability: Availability, rng: Random) -> int:  # noqa: ARG002  the protocol
        """Return a random candidate."""
        return random_index(candidates, rng)


class Sequential:
    """The lowest index first, as a player of a stream wants it."""

    def pick(self, candidates: int, availability: Availability, rng: Random) -> int:  # noqa: ARG002  the protocol
        """Return the lowest candidate."""
        return (candidates & -candidates).bit_length() - 1


PICKERS: dict[str, type[Picker]] = {"rarest-first": RarestFirst, "random": RandomOrder, "sequential": Sequential}


@dataclass(slots=True)
class OpenRequest:
    """A block asked of a neighbour and not yet answered."""

    index: int
    key: str
    expected_at_s: float  # when it is in if all goes well
    due_at_s: float  # when it should have arrived; later than this, end game may ask another neighbour too


class RequestLedger:
    """The open requests: at most one a neighbour, and which blocks are under way."""

    def __init__(self) -> None:
        self._by_key: dict[str, OpenRequest] = {}
        self._holders: dict[int, int] = {}  # block -> how many neighbours were asked for it
        self.in_flight = 0  # the set of blocks under way

    def __len__(self) -> int:
        return len(self._by_key)

    def __contains__(self, key: str) -> bool:
        return key in self._by_key

    def open(self, request: OpenRequest) -> None:
        """Note a request; raise ValueError if that neighbour already has one."""
        if request.key in self._by_key:
            raise ValueError(f"{request.key} was already asked for block {self._by_key[request.key].index}")
        self._by_key[request.key] = request
        self._holders[request.index] = self._holders.get(request.index, 0) + 1
        self.in_flight |= 1 << request.index

    def close(self, key: str) -> OpenRequest | None:
        """Forget the neighbour's request, answered or failed; return it."""
        request = self._by_key.pop(key, None)
        if request is None:
            return None
        self._holders[request.index] -= 1
        if not self._holders[request.index]:
            del self._holders[request.index]
            self.in_flight &= ~(1 << request.index)
        return request

    def get(self, key: str) -> OpenRequest | None:
        """Return the neighbour's open request, if any."""
        return self._by_key.get(key)

    def others(self, index: int, key: str) -> list[OpenRequest]:
        """Return the open requests for this block at neighbours other than ``key``."""
        if self._holders.get(index, 0) == 0:
            return []
        return [request for request in self._by_key.values() if request.index == index and request.key != key]

    def overdue(self, now_s: float) -> int:
        """Return the set of blocks whose only request is past its due time: what end game may ask for again."""
        late = 0
        for request in self._by_key.values():
            if request.due_at_s <= now_s and self._holders[request.index] == 1:
                late |= 1 << request.index
        return late

    def next_due_s(self, now_s: float) -> float:
        """Return when the next request falls due after now; infinity if none will."""
        return min((r.due_at_s for r in self._by_key.values() if r.due_at_s > now_s), default=float("inf"))
