"""Who may download from me: tit-for-tat with an optimistic unchoke, a seed's variant, and none.

A choker is shown a snapshot of the neighbours at each rechoke and returns its choice; it remembers only whom it
unchokes optimistically and since when. It never reads the clock: the session passes the time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

REGULAR_SLOTS = 4  # Cohen 2003, section 3.2: four uploads saturate a link without thinning each out
OPTIMISTIC_ROUNDS = 3  # Cohen 2003, section 3.3: every third rechoke (30 s of 10 s) the optimistic unchoke moves on
RECHOKE_BLOCKS = 8  # a rechoke every so many block service times: often enough for swarms of seconds
RECHOKE_MIN_S = 0.25
RECHOKE_MAX_S = 10.0  # Cohen 2003, section 3.2


@dataclass(frozen=True, slots=True)
class Candidate:
    """A neighbour as a choker sees it."""

    key: str
    interested: bool
    received_lately_bytes: float  # what it gave me, recent bytes weighing most
    given_bytes: int  # what I gave it, ever


@dataclass(frozen=True, slots=True)
class Choice:
    """Whom to serve: ``unchoked`` in order of rank, ``optimistic`` (one of them) or None."""

    unchoked: tuple[str, ...]
    optimistic: str | None = None

    def first(self, count: int) -> "Choice":
        """Return the choice of the first ``count`` of these."""
        unchoked = self.unchoked[:count]
        return Choice(unchoked, self.optimistic if self.optimistic in unchoked else None)

    def keeping(self, keys: Sequence[str]) -> "Choice":
        """Return a choice of as many (or more, if these are more), these among them."""
        others = [key for key in self.unchoked if key not in keys]
        unchoked = (*keys, *others[: max(0, len(self.unchoked) - len(keys))])
        return Choice(unchoked, self.optimistic if self.optimistic in unchoked else None)


class Choker(Protocol):
    """Chooses whom to serve."""

    def as_seed(self) -> "Choker":
        """Return the choker to use once the file is complete and nobody can give anything back."""

    def choose(self, candidates: Sequence[Candidate], rng: Random, *, rotate: bool) -> Choice:
        """Return the choice; ``rotate`` says that the optimistic unchoke is to move on."""


def rechoke_interval_s(block_service_s: float) -> float:
    """Return the time between two rechokes for a link that takes ``block_service_s`` for a block."""
    return min(max(RECHOKE_BLOCKS * block_service_s, RECHOKE_MIN_S), RECHOKE_MAX_S)


class TitForTat:
    """Four interested neighbours that gave me most lately, and one more at random (Cohen 2003, section 3.2-3.3)."""

    def __init__(self) -> None:
        self._optimistic: str | None = None

    def as_seed(self) -> Choker:
        """Return the seed's variant."""
        return SeedChoker()

    def choose(self, candidates: Sequence[Candidate], rng: Random, *, rotate: bool) -> Choice:
        """Return the choice. Ties among those who gave equally (nothing, at first) are broken at random."""
        interested = [candidate for candidate in candidates if candidate.interested]
        rng.shuffle(interested)
        interested.sort(key=lambda candidate: -candidate.received_lately_bytes)
        regular = [candidate.key for candidate in interested[:REGULAR_SLOTS]]
        rest = [candidate.key for candidate in interested[REGULAR_SLOTS:]]
        if not rest:
            self._optimistic = None
        elif rotate or self._optimistic not in rest:
            others = [key for key in rest if key != self._optimistic]
            self._optimistic = rng.choice(others or rest)
        optimistic = (self._optimistic,) if self._optimistic else ()
        return Choice((*regular, *optimistic), self._optimistic)


class SeedChoker:
    """Those whom I gave least: a seed gets nothing back, so it spreads its uplink evenly and turns fast."""

    def as_seed(self) -> Choker:
        """Return itself: nothing changes."""
        return self

    def choose(self, candidates: Sequence[Candidate], rng: Random, *, rotate: bool) -> Choice:  # noqa: ARG002  protocol
        """Return the choice; there is no optimistic unchoke, everybody's turn comes."""
        interested = [candidate for candidate in candidates if candidate.interested]
        rng.shuffle(interested)
        interested.sort(key=lambda candidate: candidate.given_bytes)
        return Choice(tuple(candidate.key for candidate in interested[: REGULAR_SLOTS + 1]))


class NoChoker:
    """Everybody who is interested: what tit-for-tat is compared with."""

    def as_seed(self) -> Choker:
        """Return itself: nothing changes."""
        return self

    def choose(self, candidates: Sequence[Candidate], rng: Random, *, rotate: bool) -> Choice:  # noqa: ARG002  protocol
        """Return the choice: all interested neighbours, in random order."""
        interested = [candidate.key for candidate in candidates if candidate.interested]
        rng.shuffle(interested)
        return Choice(tuple(interested))


class FreeRider:
    """Nobody: takes and does not give."""

    def as_seed(self) -> Choker:
        """Return itself: nothing changes."""
        return self

    def choose(self, candidates: Sequence[Candidate], rng: Random, *, rotate: bool) -> Choice:  # noqa: ARG002  protocol
        """Return the empty choice."""
        return Choice(())


CHOKERS: dict[str, type[Choker]] = {"tit-for-tat": TitForTat, "none": NoChoker}
