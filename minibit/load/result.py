"""The result of a load test: what was asked of whom, what was seen, whether it counts, and thresholds over it."""

import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from minibit.errors import UsageError
from minibit.load import stored
from minibit.load.latency import PERCENTILES, Latency
from minibit.load.measurement import Counted, Seen, decoded, together
from minibit.load.source import WHILE_CHOKED
from minibit.record import CodeVersion, Machine
from minibit.wire import HAVE_BLOCKS_INFO

SCHEMA_VERSION = 1
BUSY_CPU = 0.8  # of a core: beyond it a process of one thread is the bottleneck
LATE_S = 0.010  # p99 of how late the generator woke up: beyond it latencies are its own


class LoadResult(msgspec.Struct, kw_only=True):
    """One load test. ``arrival_rate_per_s`` is None in a closed loop. SI units stand in the names."""

    kind: str = "load"
    schema_version: int = SCHEMA_VERSION
    title: str
    target: str
    protocol: str
    arrival_rate_per_s: float | None
    arrivals: str | None = None
    users: int
    processes: int
    seed: int
    warm_up_s: float
    started_at: str
    machine: Machine
    commit: CodeVersion | None
    options: dict[str, str | float | int | bool | None] = {}
    seen: Seen

    @property
    def all(self) -> Counted:
        """Every kind of request together."""
        return together(*self.seen.requests.values())

    @property
    def answered(self) -> int:
        """Proper answers."""
        return sum(counted.answered for counted in self.seen.requests.values())

    @property
    def useful(self) -> int:
        """Proper answers but for a peer's refusals and greetings."""
        idle = (HAVE_BLOCKS_INFO, WHILE_CHOKED)
        return sum(counted.answered for name, counted in self.seen.requests.items() if name not in idle)

    @property
    def commonest_error(self) -> tuple[str, str]:
        """The error that most requests had, and its first example; empty if there was none."""
        errors = self.all.errors
        kind = max(errors, key=errors.__getitem__, default="")
        return kind, f"{self.seen.examples.get(kind, ''):.120}"

    @property
    def errors(self) -> int:
        """Requests that were not answered, refused, or answered wrongly."""
        return sum(sum(counted.errors.values()) for counted in self.seen.requests.values())

    @property
    def missed(self) -> int:
        """Requests of the schedule that were never sent."""
        return sum(generated.missed for generated in self.seen.generators)

    @property
    def planned(self) -> int:
        """Requests of the schedule; 0 in a closed loop."""
        return sum(generated.sent + generated.missed for generated in self.seen.generators)

    @property
    def error_share(self) -> float:
        """Of all requests that ended; 0.0 if none did."""
        return self.errors / max(1, self.answered + self.errors)

    @property
    def rate_per_s(self) -> float:
        """Proper answers per second of the window."""
        return self.answered / self.seen.duration_s if self.seen.duration_s else 0.0

    def latency(self) -> Latency:
        """From the intended beginning, over all kinds of requests."""
        return decoded(self.all.latency)

    @property
    def generator_cpu(self) -> float:
        """Of a core, of the busiest of the processes that sent."""
        busiest_s = max((generated.cpu_s for generated in self.seen.generators), default=0.0)
        return busiest_s / self.seen.duration_s if self.seen.duration_s else 0.0

    @property
    def generator_delay_s(self) -> float:
        """p99 of how late the processes woke up to send, of the worst of them."""
        return max((decoded(generated.delays).at(99) for generated in self.seen.generators), default=0.0)

    @property
    def generator_was_the_bound(self) -> list[str]:
        """Why the figures are the generator's own rather than the target's; empty if they are not."""
        why = []
        if self.generator_cpu > BUSY_CPU:
            why.append(f"it used {self.generator_cpu:.0%} of a core")
        if self.generator_delay_s > LATE_S:
            why.append(f"it sent late by itself: p99 {self.generator_delay_s * 1e3:.1f} ms")
        return why


def write(result: LoadResult, path: Path) -> None:
    """Write it as JSON. Raise StorageError."""
    stored.write(result, path)


def read(path: Path) -> LoadResult:
    """Read what ``write`` wrote. Raise RecordError, naming the file."""
    return stored.read(path, LoadResult, kind="load", schema_version=SCHEMA_VERSION)


_OPERATORS = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}
_UNITS = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "%": 0.01, "": 1.0}
_DURATIONS = (*PERCENTILES, "mean")
_COUNTS = ("errors", "missed")
_THRESHOLD = re.compile(
    r"\s*(?P<metric>[a-z][a-z0-9.]*)\s*(?P<operator>[<>]=?)\s*(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>us|µs|ms|s|%|)\s*"
)


@dataclass(frozen=True, slots=True)
class Threshold:
    """A condition that makes a load test fail: ``p99>20ms``, ``errors>0.1%``, ``missed>0``, ``rate<1000``."""

    text: str
    metric: str
    operator: str
    limit: float
    share: bool  # the limit is a share of all requests, not a number of them

    @classmethod
    def parse(cls, text: str) -> "Threshold":
        """Read one. Raise UsageError that says what is expected."""
        match = _THRESHOLD.fullmatch(text)
        known = match and match["metric"] in (*_DURATIONS, *_COUNTS, "rate")
        fits = match and (
            match["unit"] in {"us", "µs", "ms", "s"}
            if match["metric"] in _DURATIONS
            else match["unit"] in {"%", ""}
            if match["metric"] in _COUNTS
            else match["unit"] == ""
        )
        if not match or not known or not fits:
            raise UsageError(
                f"{text!r} is not a threshold; expected p99>20ms (p50, p90, p99.9, max, mean), errors>0.1%, errors>0,"
                " missed>1% or rate<1000"
            )
        limit = float(match["number"]) * _UNITS[match["unit"]]
        return cls(text.strip(), match["metric"], match["operator"], limit, match["unit"] == "%")

    def failed_by(self, result: LoadResult) -> str | None:
        """Return what the result has instead, if it fails; None if it does not."""
        value, shown = self._value(result)
        return shown if _OPERATORS[self.operator](value, self.limit) else None

    def _value(self, result: LoadResult) -> tuple[float, str]:
        if self.metric in _COUNTS:
            number = result.errors if self.metric == "errors" else result.missed
            share = number / max(1, result.planned if self.metric == "missed" else result.answered + result.errors)
            return (share, f"{share:.3%}") if self.share else (float(number), f"{number:,}")
        if self.metric == "rate":
            return result.rate_per_s, f"{result.rate_per_s:,.0f}/s"
        latency = result.latency()
        value_s = latency.mean if self.metric == "mean" else latency.at(PERCENTILES[self.metric])
        return value_s, f"{value_s * 1e3:.3f} ms"


def failures(result: LoadResult, thresholds: Sequence[Threshold]) -> list[str]:
    """Return a line for each threshold that the result fails; a test without any answer fails by itself."""
    if not result.useful:
        return ["nothing was answered" + (" but refusals" if result.answered else "")]
    return [
        f"{threshold.text}: it was {shown}"
        for threshold in thresholds
        if (shown := threshold.failed_by(result)) is not None
    ]
