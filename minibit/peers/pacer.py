"""Rate limits for threads: a token bucket with a clock, a lock and a meter."""

import threading
import time

from minibit.core.limiter import RateMeter, TokenBucket, chunk_bytes


class Pacer:
    """Lets payload pass at a rate. Without a rate it only stands in the way of nothing."""

    def __init__(self, rate_bytes_per_s: float | None) -> None:
        self.rate_bytes_per_s = rate_bytes_per_s
        self.chunk_bytes = chunk_bytes(rate_bytes_per_s) if rate_bytes_per_s else None
        self._bucket = TokenBucket(rate_bytes_per_s, now_s=time.monotonic()) if rate_bytes_per_s else None
        self._meter = RateMeter()
        self._lock = threading.Lock()

    @property
    def peak_bytes_per_s(self) -> float | None:
        """The most that passed in any second; None without a rate (it is not measured then)."""
        return self._meter.peak_bytes_per_window if self._bucket else None

    def wait(self, num_bytes: int) -> None:
        """Block until so many bytes may pass."""
        if self._bucket is None:
            return
        with self._lock:
            wait_s = self._bucket.take(num_bytes, time.monotonic())
        if wait_s > 0:
            time.sleep(wait_s)

    def passed(self, num_bytes: int, now_s: float) -> None:
        """So many bytes did pass."""
        if self._bucket is not None:
            with self._lock:
                self._meter.add(num_bytes, now_s)
