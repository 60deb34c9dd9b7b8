"""Rate limits for threads: a token bucket with a clock, a lock and a meter."""

import threading
import time

from minibit.core.limiter import RateMeter, TokenBucket, chunk_bytes


class Pacer:
    """Lets payload pass at a rate. Without a rate it only stands in the way of nothing."""

    def __init__(self, rate_bytes_per_s: float | None) -> None:
        self.rate_bytes_per_s = rate_bytes_per_s
        self.chunk_bytes = chunk_bytes(rate_bytes_per_s) if rate_bytes_per_s else None
        self._bucket = TokenBucket(rate_bytes_per_s) if rate_bytes_per_s else None
        self._meter = RateMeter()
        self._lock = threading.Lock()
        self._latest_s = 0.0
        self.first_at_s: float | None = None  # when the first byte was asked for

    @property
    def peak_bytes_per_s(self) -> float | None:
        """The most that passed in any second; None without a rate (it is not measured then)."""
        return self._meter.peak_bytes_per_window if self._bucket else None

    @property
    def duration_s(self) -> float | None:
        """From the first byte asked for to the last that passed; None if none did."""
        return self._latest_s - self.first_at_s if self.first_at_s and self._latest_s else None

    def wait(self, num_bytes: int) -> None:
        """Block until so many bytes may pass."""
        if self._bucket is None:
            return
        with self._lock:
            now_s = time.monotonic()
            self.first_at_s = self.first_at_s or now_s
            wait_s = self._bucket.take(num_bytes, now_s)
        if wait_s > 0:
            time.sleep(wait_s)

    def passed(self, num_bytes: int, now_s: float) -> None:
        """So many bytes did pass."""
        if self._bucket is not None:
            with self._lock:
                self._latest_s = max(self._latest_s, now_s)  # two threads may come in the other order
                self._meter.add(num_bytes, self._latest_s)
