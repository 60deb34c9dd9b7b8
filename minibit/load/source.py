"""What a load test sends next, and what it thinks of the answer: the one seam between a kind of load and its driver."""

from dataclasses import dataclass
from typing import Any, Protocol

from minibit.load.dialects import DIALECTS, Request, WrongAnswerError
from minibit.load.population import Action, Population
from minibit.wire import REQUEST_BLOCK

NO_ANSWER = "no answer"
WHILE_CHOKED = f"{REQUEST_BLOCK} while choked"  # a refusal that the protocol asks for


@dataclass(frozen=True, slots=True)
class Problem:
    """Why an answer is no proper one: what it is counted under, and more about this one."""

    kind: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.detail}" if self.detail else self.kind


@dataclass(frozen=True, slots=True)
class Job:
    """One request, and whatever the source needs to judge its answer."""

    request: Request
    context: Any = None


class Source(Protocol):
    """A load: not thread-safe, and told the time."""

    def next(self, now_s: float) -> Job:
        """Return what to send now; ``judge`` or ``lose`` must be told what came of it."""

    def judge(self, job: Job, status: int, body: bytes) -> tuple[str, Problem | None]:
        """Return what to count the answer under, and what is wrong with it."""

    def lose(self, job: Job) -> None:
        """Take it that no answer came."""

    def leave(self, now_s: float) -> Job | None:
        """Return one more request that tidies up after the test; None if there is nothing left to tidy."""

    def remarks(self) -> list[str]:
        """Return what must be known beside the figures."""

    def close(self) -> None:
        """Let go of what it holds."""


class TrackerSource:
    """A population that speaks to its tracker."""

    def __init__(self, population: Population, protocol: str) -> None:
        self.population = population
        self._dialect = DIALECTS[protocol]()

    def next(self, now_s: float) -> Job:
        """Return what some peer says next."""
        return self._job(self.population.next(now_s))

    def leave(self, now_s: float) -> Job | None:
        """Return the leaving of one more peer."""
        action = self.population.leave(now_s)
        return None if action is None else self._job(action)

    def judge(self, job: Job, status: int, body: bytes) -> tuple[str, Problem | None]:
        """Hold the answer against what the tracker has been told."""
        name, action = job.request.name, job.context
        if status != 200:
            self.population.lose(action)
            return name, Problem(f"status {status}", body[:200].decode(errors="replace"))
        try:
            answer = self._dialect.read(action, body)
        except WrongAnswerError as error:
            self.population.lose(action)
            return name, Problem(error.kind, str(error))
        faults = self.population.judge(action, answer)
        if not faults:
            return name, None
        return name, Problem("; ".join(sorted(faults)), f"swarm {action.member.swarm.info_hash.hex()[:8]}…")

    def lose(self, job: Job) -> None:
        """Take it that the tracker may have heard it or not."""
        self.population.lose(job.context)

    def remarks(self) -> list[str]:
        """Say what keeps answers from being checked in full."""
        late = self.population.overdue
        return [f"{late:,} announces came later than the tracker asks: missing peers are not noticed"] if late else []

    def close(self) -> None:
        """Nothing is held."""

    def _job(self, action: Action) -> Job:
        return Job(self._dialect.request(action), action)
