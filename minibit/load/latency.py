"""Latencies in an HDR histogram: microseconds to an hour, three digits, mergeable between processes.

hdrhistogram is an extra (``minibit[load]``).
"""

from typing import TYPE_CHECKING, Any

from minibit.errors import UsageError

if TYPE_CHECKING:
    from hdrh.histogram import HdrHistogram

LONGEST_US = 3_600_000_000
DIGITS = 3
PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99.9": 99.9, "max": 100.0}


class Latency:
    """A histogram of durations in seconds; it reads back with an error of at most a thousandth."""

    __slots__ = ("_histogram",)

    def __init__(self) -> None:
        self._histogram = _new_histogram()

    def record(self, seconds: float) -> None:
        """Count one duration; below a microsecond counts as one, above an hour as an hour."""
        self._histogram.record_value(min(max(1, round(seconds * 1e6)), LONGEST_US))

    def __len__(self) -> int:
        return int(self._histogram.get_total_count())

    def at(self, percentile: float) -> float:
        """Return the seconds that so many per cent took at most; 0.0 if nothing was counted."""
        return float(self._histogram.get_value_at_percentile(percentile)) / 1e6 if len(self) else 0.0

    @property
    def mean(self) -> float:
        """The mean in seconds; 0.0 if nothing was counted."""
        return float(self._histogram.get_mean_value()) / 1e6 if len(self) else 0.0

    def percentiles(self) -> dict[str, float]:
        """Return the usual ones, in seconds."""
        return {name: self.at(percentile) for name, percentile in PERCENTILES.items()}

    def encoded(self) -> str:
        """Return it as other HdrHistogram tools read it: V2, deflated, base64, in microseconds."""
        return str(self._histogram.encode().decode())

    def add(self, other: "Latency | str") -> None:
        """Count what another one, or the text of ``encoded()``, has counted."""
        if isinstance(other, Latency):
            self._histogram.add(other._histogram)  # noqa: SLF001  the same class
        else:
            self._histogram.decode_and_add(other.encode())


def _new_histogram() -> "HdrHistogram | Any":
    try:
        from hdrh.histogram import HdrHistogram  # noqa: PLC0415  an extra
    except ImportError as error:
        raise UsageError("load tests need hdrhistogram: pip install 'minibit[load]'") from error
    return HdrHistogram(1, LONGEST_US, DIGITS)
