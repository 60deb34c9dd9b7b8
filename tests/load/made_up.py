"""Results of load tests that never happened, and targets whose saturation is known."""

import math
import random

from minibit.load.measurement import Measurement, merged
from minibit.load.result import LoadResult
from minibit.load.saturation import Limits, judged
from minibit.provenance import describe_machine

MACHINE = describe_machine()
LIMITS = Limits(latency_s=0.05, error_share=0.001)


class Target:
    """Bears ``capacity`` a second; beyond it requests wait for half the test and more."""

    def __init__(self, capacity, *, noise=0.0, generator_bears=math.inf, errors=0.0):
        self.capacity, self.noise, self.generator_bears, self.errors = capacity, noise, generator_bears, errors
        self.rng = random.Random(1)
        self.asked = []

    def __call__(self, rate):
        self.asked.append(rate)
        capacity = self.capacity * math.exp(self.rng.gauss(0, self.noise))
        wanted = rate if rate is not None else capacity
        latency_s = 0.002 if wanted <= capacity else 1.0
        measured = Measurement(0.0, 5.0, open_loop=rate is not None)
        answered = round(5 * min(wanted, capacity) / 100)  # in hundreds, to be fast
        for _ in range(answered):
            measured.sent(1.0)
            measured.answered("/x", 1.0, 1.0, 1.0 + latency_s)
        for _ in range(math.ceil(answered * self.errors)):
            measured.failed("/x", 1.0, "status 503")
        if rate is not None:
            for _ in range(round(5 * wanted / 100) - answered):
                measured.missed(1.0)
        measured.end(5.0)
        seen = measured.seen()
        seen.generators[0].cpu_s = 0.05 if wanted > self.generator_bears else 0.01
        seen.duration_s = 0.05
        result = LoadResult(
            title="x", target="x", protocol="rest", arrival_rate_per_s=rate, users=1, processes=1, seed=1,
            warm_up_s=0.0, started_at="", machine=MACHINE, commit=None, seen=seen,
        )  # fmt: skip
        return judged(rate or math.inf, result, None, LIMITS)


def seen_of(latencies_s, *, errors=0, missed=0, cpu=False, delay_s=0.0):
    measured = Measurement(0.0, 10.0, open_loop=True)
    for latency_s in latencies_s:
        measured.sent(1.0)
        measured.answered("/x", 1.0, 1.0, 1.0 + latency_s)
    for _ in range(errors):
        measured.sent(1.0)
        measured.failed("/x", 1.0, "status 503")
    for _ in range(missed):
        measured.missed(2.0)
    measured.delayed(1.0, delay_s)
    measured.end(10.0)
    seen = measured.seen()
    if cpu:
        seen.generators[0].cpu_s = 9.5
    return seen


def result_of(*seen):
    return LoadResult(
        title="tracker, rest",
        target="http://127.0.0.1:1",
        protocol="rest",
        arrival_rate_per_s=100.0,
        arrivals="constant",
        users=10,
        processes=len(seen),
        seed=1,
        warm_up_s=1.0,
        started_at="2026-01-01T00:00:00+00:00",
        machine=describe_machine(),
        commit=None,
        seen=merged(list(seen)),
    )
