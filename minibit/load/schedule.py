"""When the requests of an open loop are to begin: a fixed plan that no slow answer moves. Pure."""

import random
from collections.abc import Callable
from dataclasses import dataclass

ARRIVALS = ("constant", "poisson")


@dataclass(frozen=True, slots=True)
class Crowd:
    """A flash crowd: ``factor`` times the load from ``at_s`` on, for ``for_s`` seconds."""

    factor: float
    at_s: float
    for_s: float

    def is_on(self, elapsed_s: float) -> bool:
        """Whether it is there so long after the start."""
        return self.at_s <= elapsed_s < self.at_s + self.for_s

    def factor_at(self, elapsed_s: float) -> float:
        """Return how many times the usual load there is."""
        return self.factor if self.is_on(elapsed_s) else 1.0


class Schedule:
    """The intended beginnings, in seconds after the start: ``rate_per_s`` evenly, or as a Poisson process.

    ``factor_at(elapsed_s)`` multiplies the rate. Every beginning is given out once, by ``take``, or is still there.
    """

    def __init__(
        self,
        rate_per_s: float,
        *,
        arrivals: str = "constant",
        seed: int = 0,
        factor_at: Callable[[float], float] = lambda _: 1.0,
    ) -> None:
        self._rate_per_s = rate_per_s
        self._factor_at = factor_at
        self._rng = random.Random(seed) if arrivals == "poisson" else None
        self._next_s = self._rng.expovariate(rate_per_s) if self._rng else 0.0

    @property
    def next_s(self) -> float:
        """When the next one is to begin."""
        return self._next_s

    def take(self) -> float:
        """Return when the next one is to begin, and go on to the one after."""
        taken_s = self._next_s
        rate_per_s = self._rate_per_s * self._factor_at(taken_s)
        self._next_s += self._rng.expovariate(rate_per_s) if self._rng else 1 / rate_per_s
        return taken_s
