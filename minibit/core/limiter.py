"""Rate limits as arithmetic: a token bucket, a meter of sliding windows, and the most that a cap allows.

Nothing here reads a clock or sleeps: every call is given ``now_s`` of one monotonic clock. The owner of an object makes
one call at a time. A peer without a limit has no bucket.
"""

import math
from collections import deque

from minibit.core.blocks import KIB

CHUNK_MAX_BYTES = 64 * KIB  # a chunk leaves at once; larger ones would show as bursts on a fast link
CHUNK_S = 1 / 20  # ... and no chunk holds more than what the rate earns in so long
BURST_MIN_BYTES = 16 * KIB  # lets a slow link make up for a late wake-up of the operating system
BURST_S = 1 / 20
BURST_MAX_S = 1 / 10  # the floor of 16 KiB must not break PEAK_FACTOR on a link slower than 160 KiB/s
PEAK_FACTOR = 1.10  # any sliding second may carry the cap times this, and one chunk
TOTAL_FACTOR = 1.005  # the whole run may carry the cap times this, and one burst


def burst_bytes(rate_bytes_per_s: float) -> float:
    """Return how many unused tokens a bucket keeps: max(16 KiB, rate/20), at most what a tenth of a second earns."""
    return min(max(float(BURST_MIN_BYTES), rate_bytes_per_s * BURST_S), rate_bytes_per_s * BURST_MAX_S)


def chunk_bytes(rate_bytes_per_s: float) -> int:
    """Return how many bytes may leave in one piece at this rate: min(64 KiB, rate/20), one byte at least."""
    return min(CHUNK_MAX_BYTES, max(1, int(rate_bytes_per_s * CHUNK_S)))


class TokenBucket:
    """A byte allowance that fills at ``rate_bytes_per_s`` and lends: FIFO in the order of the calls.

    Empty at its first ``take``, so waiting for a start signal earns nothing. Raise ValueError unless the rate is
    positive and finite.
    """

    __slots__ = ("_tokens", "_updated_s", "burst_bytes", "chunk_bytes", "rate_bytes_per_s")

    def __init__(self, rate_bytes_per_s: float) -> None:
        if not (math.isfinite(rate_bytes_per_s) and rate_bytes_per_s > 0):
            raise ValueError(f"a rate must be positive and finite, not {rate_bytes_per_s} bytes/s")
        self.rate_bytes_per_s = rate_bytes_per_s
        self.burst_bytes = burst_bytes(rate_bytes_per_s)
        self.chunk_bytes = chunk_bytes(rate_bytes_per_s)
        self._tokens = 0.0  # negative: promised to callers that are waiting
        self._updated_s: float | None = None

    def take(self, n_bytes: int, now_s: float) -> float:
        """Take ``n_bytes`` at once; return how many seconds after ``now_s`` they exist and may be sent (0.0: now).

        Raise ValueError if ``n_bytes`` is negative. A ``now_s`` before that of the last call (two threads that drew the
        clock in the other order) earns nothing and waits for the difference too.
        """
        if n_bytes < 0:
            raise ValueError(f"cannot take {n_bytes} bytes")
        updated_s = self._fill(now_s)
        self._tokens -= n_bytes
        debt_bytes = max(0.0, -self._tokens)
        return max(0.0, updated_s + debt_bytes / self.rate_bytes_per_s - now_s) if debt_bytes else 0.0

    def _fill(self, now_s: float) -> float:
        last_s = now_s if self._updated_s is None else self._updated_s
        earned = max(0.0, now_s - last_s) * self.rate_bytes_per_s
        self._tokens = min(self.burst_bytes, self._tokens + earned)
        self._updated_s = max(last_s, now_s)
        return self._updated_s


class RateMeter:
    """The most bytes that any window of ``window_s`` has carried: O(1) amortised per event, memory of one window.

    A window is half open, (now - window_s, now]. ``total_bytes`` counts everything.
    """

    __slots__ = ("_events", "_in_window_bytes", "peak_bytes_per_window", "total_bytes", "window_s")

    def __init__(self, window_s: float = 1.0) -> None:
        if not window_s > 0:
            raise ValueError(f"a window must be longer than {window_s} s")
        self.window_s = window_s
        self.peak_bytes_per_window = 0
        self.total_bytes = 0
        self._in_window_bytes = 0
        self._events: deque[tuple[float, int]] = deque()

    def add(self, n_bytes: int, now_s: float) -> None:
        """Count ``n_bytes`` that left at ``now_s``; times must not run backwards."""
        self._events.append((now_s, n_bytes))
        self._in_window_bytes += n_bytes
        self.total_bytes += n_bytes
        while self._events[0][0] <= now_s - self.window_s:
            self._in_window_bytes -= self._events.popleft()[1]
        self.peak_bytes_per_window = max(self.peak_bytes_per_window, self._in_window_bytes)


def peak_limit_bytes(rate_bytes_per_s: float) -> float:
    """Return the most that any sliding second may carry under a cap: cap x 1.10 + one chunk."""
    return rate_bytes_per_s * PEAK_FACTOR + chunk_bytes(rate_bytes_per_s)


def total_limit_bytes(rate_bytes_per_s: float, duration_s: float) -> float:
    """Return the most that a run of ``duration_s`` may carry under a cap: cap x 1.005 x T + one burst."""
    return rate_bytes_per_s * TOTAL_FACTOR * duration_s + burst_bytes(rate_bytes_per_s)
