"""What one process of a load test sees: every latency, every error, and whether it kept up itself. Mergeable.

Times are seconds of one monotonic clock. A request counts if its intended beginning lies in the window: after the
warm-up, before the end. Latency runs from the intended beginning, service time from the sending: in an open loop they
differ by the time for which the request had to wait for a free connection, and that is what a closed loop hides.
"""

import math
import time
from typing import Any

import msgspec

from minibit.load.latency import Latency


class Counted(msgspec.Struct):
    """Requests of one kind; the histograms hold those that were answered properly (see ``Latency.encoded``)."""

    answered: int
    errors: dict[str, int]
    latency: str
    service: str | None = None  # None in a closed loop: the same as latency


class Generated(msgspec.Struct):
    """How the process that sent the requests fared. ``delays``: how late it woke up to send, encoded."""

    cpu_s: float
    delays: str
    sent: int = 0  # requests of the schedule that were to begin in the window
    missed: int = 0  # and those that never did


class Slice(msgspec.Struct):
    """What was to begin within one part of the test, from ``begins_s`` after its start."""

    begins_s: float
    latencies_us: list[int]
    errors: int = 0


class Seen(msgspec.Struct):
    """What one process, or several together, saw in ``duration_s``."""

    duration_s: float
    requests: dict[str, Counted]
    generators: list[Generated]
    examples: dict[str, str]  # error -> the first of its kind, in full
    notes: list[str] = []
    timeline: list[Slice] = []


class _Tally:
    __slots__ = ("answered", "errors", "latency", "service")

    def __init__(self, *, open_loop: bool) -> None:
        self.answered = 0
        self.errors: dict[str, int] = {}
        self.latency = Latency()
        self.service = Latency() if open_loop else None


class Measurement:
    """Counts what was to begin between ``begins_s`` and ``ends_s``, or ``end`` if that is earlier; not thread-safe.

    ``slice_s``: also keep every latency, by slices of so many seconds.
    """

    def __init__(
        self, begins_s: float, ends_s: float = math.inf, *, open_loop: bool = False, slice_s: float | None = None
    ) -> None:
        self.begins_s = begins_s
        self.ends_s = ends_s
        self._open_loop = open_loop
        self._slice_s = slice_s
        self._slices: dict[int, Slice] = {}
        self._tallies: dict[str, _Tally] = {}
        self._examples: dict[str, str] = {}
        self._delays = Latency()
        self._sent = self._missed = 0
        self._cpu_before_s: float | None = None
        self._cpu_s: float | None = None

    def answered(self, name: str, intended_s: float, sent_s: float, done_s: float) -> None:
        """Count a proper answer."""
        if not self._counts(intended_s):
            return
        tally = self._tally(name)
        tally.answered += 1
        tally.latency.record(done_s - intended_s)
        if tally.service is not None:
            tally.service.record(done_s - sent_s)
        if self._slice_s:
            self._slice(intended_s).latencies_us.append(round((done_s - intended_s) * 1e6))

    def failed(self, name: str, intended_s: float, kind: str, detail: str = "") -> None:
        """Count an error: no answer, a refusal, or a wrong answer."""
        if self._counts(intended_s):
            errors = self._tally(name).errors
            errors[kind] = errors.get(kind, 0) + 1
            self._examples.setdefault(kind, f"{name}: {detail or kind}")
            if self._slice_s:
                self._slice(intended_s).errors += 1

    def sent(self, intended_s: float) -> None:
        """Count a request of the schedule that is sent now, on time or not."""
        self._sent += self._counts(intended_s)

    def missed(self, intended_s: float) -> None:
        """Count a request of the schedule that will not be sent any more."""
        if self.begins_s <= intended_s < self.ends_s:
            self._missed += 1
            if self._slice_s:
                self._slice(intended_s).errors += 1

    def delayed(self, intended_s: float, seconds: float) -> None:
        """Count how late this process was in sending something although a connection was free."""
        if self._counts(intended_s):
            self._delays.record(seconds)

    def end(self, now_s: float) -> None:
        """Count nothing that was to begin after this; the first call counts."""
        self.ends_s = max(self.begins_s, min(self.ends_s, now_s))
        self._stop_clock()

    def seen(self, *, notes: list[str] | None = None) -> Seen:
        """Return everything, after ``end``."""
        requests = {
            name: Counted(
                tally.answered,
                dict(tally.errors),
                tally.latency.encoded(),
                tally.service.encoded() if tally.service is not None else None,
            )
            for name, tally in sorted(self._tallies.items())
        }
        generated = Generated(self._cpu_s or 0.0, self._delays.encoded(), self._sent, self._missed)
        timeline = [self._slices[number] for number in sorted(self._slices)]
        return Seen(self.ends_s - self.begins_s, requests, [generated], dict(self._examples), notes or [], timeline)

    def _counts(self, intended_s: float) -> bool:
        if intended_s < self.begins_s:
            return False
        if intended_s >= self.ends_s:
            self._stop_clock()
            return False
        if self._cpu_before_s is None:
            self._cpu_before_s = time.process_time()
        return True

    def _stop_clock(self) -> None:
        if self._cpu_s is None:
            self._cpu_s = 0.0 if self._cpu_before_s is None else time.process_time() - self._cpu_before_s

    def _slice(self, intended_s: float) -> Slice:
        every_s = self._slice_s or math.inf
        number = int((intended_s - self.begins_s) / every_s)
        return self._slices.setdefault(number, Slice(number * every_s, []))

    def _tally(self, name: str) -> _Tally:
        tally = self._tallies.get(name)
        if tally is None:
            tally = self._tallies[name] = _Tally(open_loop=self._open_loop)
        return tally


def merged(parts: list[Seen]) -> Seen:
    """Return what several processes saw at the same time as one. Raise ValueError if there are none."""
    if not parts:
        raise ValueError("no process reported")
    requests: dict[str, Counted] = {}
    for part in parts:
        for name, counted in part.requests.items():
            requests[name] = together(requests[name], counted) if name in requests else counted
    return Seen(
        duration_s=max(part.duration_s for part in parts),
        requests=dict(sorted(requests.items())),
        generators=[generated for part in parts for generated in part.generators],
        examples={kind: text for part in reversed(parts) for kind, text in part.examples.items()},
        notes=list(dict.fromkeys(note for part in parts for note in part.notes)),
        timeline=_one_timeline([each for part in parts for each in part.timeline]),
    )


def _one_timeline(slices: list[Slice]) -> list[Slice]:
    joined: dict[float, Slice] = {}
    for part in slices:
        whole = joined.setdefault(part.begins_s, Slice(part.begins_s, []))
        whole.latencies_us.extend(part.latencies_us)
        whole.errors += part.errors
    return [joined[begins_s] for begins_s in sorted(joined)]


def together(*counted: Counted) -> Counted:
    """Return several kinds of requests as one."""
    errors: dict[str, int] = {}
    for each in counted:
        for kind, number in each.errors.items():
            errors[kind] = errors.get(kind, 0) + number
    service = [each.service for each in counted if each.service]
    return Counted(
        answered=sum(each.answered for each in counted),
        errors=errors,
        latency=_joined([each.latency for each in counted]).encoded(),
        service=_joined(service).encoded() if service else None,
    )


def decoded(text: str) -> Latency:
    """Return the histogram of a text of ``Latency.encoded``."""
    return _joined([text])


def _joined(texts: list[str]) -> Latency:
    latency = Latency()
    for text in texts:
        latency.add(text)
    return latency


def plain(seen: Seen) -> dict[str, Any]:
    """Return it in types that any message format carries."""
    return dict(msgspec.to_builtins(seen))
