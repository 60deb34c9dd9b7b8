"""What a tracker tells of itself: counters for /stats, and the same with more for Prometheus at /metrics.

Counting costs a microsecond a request; everything else is put together when somebody asks.
"""

import threading
import time
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING

from minibit.serving import Server
from minibit.tracker.registry import Registry

if TYPE_CHECKING:
    from prometheus_client import Metric

# Upper ends, in seconds: an announce takes 20 microseconds, a hand-out of 50 over Flask a millisecond.
BUCKETS_S = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)


@dataclass(slots=True)
class _Route:
    by_status: dict[str, int] = field(default_factory=dict)
    in_bucket: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_S) + 1))
    total_s: float = 0.0


class Tally:
    """Answered requests by route and status, and how long each took to answer (less the writing). Thread-safe."""

    def __init__(self) -> None:
        self._routes: dict[str, _Route] = {}
        self._lock = threading.Lock()
        self.born_s = time.monotonic()

    def count(self, route: str, status: int | str, seconds: float) -> None:
        """Count one request; ``route`` must come from a small fixed set."""
        with self._lock:
            counted = self._routes.get(route)
            if counted is None:
                counted = self._routes[route] = _Route()
            key = str(status)
            counted.by_status[key] = counted.by_status.get(key, 0) + 1
            counted.in_bucket[bisect_left(BUCKETS_S, seconds)] += 1
            counted.total_s += seconds

    def requests(self) -> dict[str, dict[str, int]]:
        """Return route -> status -> number."""
        with self._lock:
            return {route: dict(counted.by_status) for route, counted in self._routes.items()}

    def durations(self) -> dict[str, tuple[list[int], float]]:
        """Return route -> (requests that took up to each of ``BUCKETS_S``, and all of them; their seconds together)."""
        with self._lock:
            return {
                route: (list(accumulate(counted.in_bucket)), counted.total_s) for route, counted in self._routes.items()
            }


def exposition(tally: Tally, registry: Registry, server: Server | None) -> tuple[bytes, str]:
    """Return the text for Prometheus and its content type."""
    import prometheus_client as prometheus  # noqa: PLC0415  a tracker that nobody watches starts without it

    collectors = prometheus.CollectorRegistry(auto_describe=False)
    prometheus.ProcessCollector(registry=collectors)
    collectors.register(_Collector(tally, registry, server))
    return prometheus.generate_latest(collectors), prometheus.CONTENT_TYPE_LATEST


class _Collector:
    def __init__(self, tally: Tally, registry: Registry, server: Server | None) -> None:
        self._tally = tally
        self._registry = registry
        self._server = server

    def collect(self) -> Iterator["Metric"]:
        """Yield every metric at this moment, under the names that Prometheus asks for."""
        from prometheus_client import core  # noqa: PLC0415

        counts = core.CounterMetricFamily("minibit_tracker_requests", "Answered requests.", labels=["route", "status"])
        for route, by_status in self._tally.requests().items():
            for status, number in by_status.items():
                counts.add_metric([route, status], number)
        yield counts
        durations = core.HistogramMetricFamily(
            "minibit_tracker_request_seconds", "Time to answer, without reading and writing.", labels=["route"]
        )
        ends = [*(f"{end_s:g}" for end_s in BUCKETS_S), "+Inf"]
        for route, (up_to, total_s) in self._tally.durations().items():
            durations.add_metric([route], list(zip(ends, up_to, strict=True)), sum_value=total_s)
        yield durations
        totals = self._registry.totals()
        for name, value, meaning in (
            ("peers", totals.peers, "Peers that are listed."),
            ("seeds", totals.seeds, "Peers that have everything."),
            ("swarms", totals.swarms, "Swarms with at least one peer."),
        ):
            yield core.GaugeMetricFamily(f"minibit_tracker_{name}", meaning, value=value)
        yield core.CounterMetricFamily(
            "minibit_tracker_expired_peers", "Peers dropped because nothing was heard of them.", self._registry.expired
        )
        if self._server:  # waitress's; granian tells nothing of the kind
            yield core.GaugeMetricFamily(
                "minibit_tracker_queue_depth",
                "Connections that wait to be accepted, or with a request that nobody reads yet.",
                value=self._server.queue_depth(),
            )
            yield core.CounterMetricFamily(
                "minibit_tracker_shed", "Requests refused because they had waited too long.", self._server.shed
            )
