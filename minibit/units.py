"""Sizes, rates and durations as people write and read them. ``16MiB`` is binary, ``16MB`` decimal; they differ by 5 %.

Always bytes: ``Mb`` (megabits elsewhere) is refused rather than guessed at.
"""

import re
from decimal import Decimal

from minibit.errors import UsageError

SIZE_MAX_BYTES = 2**63 - 1  # what a file offset can hold
_PREFIXES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_NUMBER = r"(?P<number>[0-9]+(?:\.[0-9]+)?)"
# "B" after any spelling of the prefix, "b" only where all is lower case: "16mb" is haste, "16Mb" means bits.
_UNIT = r"(?:(?P<upper>(?:[kKmMgGtT][iI]?)?)B|(?P<lower>(?:[kmgt]i?)?)b)?"
_SIZE = re.compile(rf"{_NUMBER}\s*{_UNIT}")
_RATE = re.compile(rf"{_NUMBER}\s*{_UNIT}(?:/s)?")
_DURATION = re.compile(rf"{_NUMBER}\s*(?P<unit>us|µs|ms|s|min|h)")
_SHARE = re.compile(rf"{_NUMBER}\s*%")
UNLIMITED = "unlimited"


def parse_size(text: str | int, *, allow_zero: bool = False) -> int:
    """Return the bytes of ``16MiB``, ``1.5 GB``, ``4096`` or an integer, rounded to whole bytes.

    Raise UsageError, saying what is expected, for anything else, for zero unless it is allowed, and past 2**63 - 1.
    """
    number = _parse(_SIZE, text)
    size_bytes = None if number is None else round(number)
    if size_bytes is None or size_bytes > SIZE_MAX_BYTES or (size_bytes == 0 and not (allow_zero and number == 0)):
        raise UsageError(f"{_shown(text)} is not a size; expected bytes such as 16MiB, 16MB or 4096")
    return size_bytes


def parse_rate(text: str | float) -> float | None:
    """Return the bytes per second of ``2MB/s``, ``512KiB/s`` or a number; None for ``unlimited``.

    Raise UsageError, saying what is expected, for anything else and for zero.
    """
    if isinstance(text, str) and text.strip().lower() == UNLIMITED:
        return None
    number = _parse(_RATE, text)
    if not number or number > SIZE_MAX_BYTES:
        raise UsageError(
            f'{_shown(text)} is not a rate; expected bytes per second such as 2MB/s, 512KiB/s or "unlimited"'
        )
    return float(number)


def parse_duration(text: str) -> float:
    """Return the seconds of ``20ms``, ``1.5s``, ``5min``. Raise UsageError for anything else, and for zero."""
    match = _DURATION.fullmatch(text.strip())
    if match is None or not float(match["number"]):
        raise UsageError(f"{_shown(text)} is not a duration; expected 20ms, 500us, 1.5s or 5min")
    return (
        float(match["number"]) * {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}[match["unit"]]
    )


def parse_share(text: str) -> float:
    """Return ``0.1%`` as 0.001, from 0 to 100 %. Raise UsageError for anything else."""
    match = _SHARE.fullmatch(text.strip())
    if match is None or float(match["number"]) > 100:
        raise UsageError(f"{_shown(text)} is not a share; expected 0.1%")
    return float(match["number"]) / 100


def format_size(size_bytes: float) -> str:
    """Return a size in binary units, three digits: ``16 MiB``, ``1.38 GiB``, ``900 B``."""
    return _scaled(size_bytes, 1024, ("B", "KiB", "MiB", "GiB", "TiB"))


def format_rate(rate_bytes_per_s: float | None) -> str:
    """Return a rate in decimal units, three digits: ``2 MB/s``, ``783 kB/s``; ``unlimited`` for None."""
    if rate_bytes_per_s is None:
        return UNLIMITED
    return _scaled(rate_bytes_per_s, 1000, ("B/s", "kB/s", "MB/s", "GB/s", "TB/s"))


def format_duration(seconds: float) -> str:
    """Return a duration: ``0.42 ms``, ``310 ms``, ``12.3 s``, ``2 min 05 s``, ``1 h 02 min``."""
    if seconds < 1:
        return f"{_three_digits(seconds * 1000)} ms" if round(seconds * 1000, 1) < 1000 else "1 s"
    if round(seconds, 1) < 60:
        return f"{_three_digits(seconds)} s"
    minutes, rest_s = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest_s:02d} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min"


def _parse(pattern: re.Pattern[str], text: str | float) -> Decimal | None:
    if isinstance(text, bool):
        return None
    match = pattern.fullmatch(str(text).strip())
    if match is None:
        return None
    prefix = (match["upper"] or match["lower"] or "").lower()
    return Decimal(match["number"]) * _PREFIXES[prefix]


def _shown(text: object) -> str:
    shown = repr(text) if isinstance(text, str) else str(text)
    return shown if len(shown) <= 40 else shown[:37] + "..."


def _scaled(value: float, base: int, units: tuple[str, ...]) -> str:
    for unit in units[:-1]:
        if float(_three_digits(value)) < base:
            return f"{_three_digits(value)} {unit}"
        value /= base
    return f"{_three_digits(value)} {units[-1]}"


def _three_digits(value: float) -> str:
    decimals = 2 if value < 9.995 else 1 if value < 99.95 else 0
    text = f"{value:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
