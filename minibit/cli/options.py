"""What the commands' options have in common: types, limits, exit codes."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from minibit.errors import MiniBitError, UsageError
from minibit.units import parse_duration, parse_rate, parse_share, parse_size

EXIT_FAILED = 1
EXIT_INVALID = 3
EXIT_BUG = 70  # EX_SOFTWARE of sysexits.h: no verdict and no outcome of any command
EXIT_INTERRUPTED = 130


@contextmanager
def fails_closed() -> Iterator[None]:
    """Give a command whose exit code is a verdict: what kept it from its end must not read as "regressed".

    Raise CouldNotCompare for it; mistakes of the user stay what they are.
    """
    from minibit.regression.sides import CouldNotCompare  # noqa: PLC0415

    try:
        yield
    except (UsageError, CouldNotCompare):
        raise
    except (MiniBitError, OSError, subprocess.SubprocessError) as error:
        raise CouldNotCompare(str(error)) from error


class Parsed(click.ParamType[Any]):
    """An option whose text is read by one of our own parsers."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the parsed value; a mistake becomes click's."""
        try:
            return self._parse(value) if isinstance(value, str) else value
        except UsageError as error:
            self.fail(str(error), param, ctx)


SIZE = Parsed("size", lambda text: parse_size(text, allow_zero=True))
BLOCK_SIZE = Parsed("size", lambda text: None if text == "auto" else parse_size(text))
RATE = Parsed("rate", parse_rate)
UPLOAD, DOWNLOAD = "upload_rate_bytes_per_s", "download_rate_bytes_per_s"
BLOCK_SIZE_HELP = "16KiB … 4MiB, a power of two.  [default: auto]"
POSITIVE = click.FloatRange(min=0, min_open=True)
FILE = click.Path(exists=True, dir_okay=False, readable=True, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)

DURATION = Parsed("duration", parse_duration)
SHARE = Parsed("share", parse_share)


class _Counts(click.ParamType[list[int]]):
    """A list of counts: 1,2,4,8."""

    name = "n,n,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        """Return the counts, each once, in rising order."""
        if isinstance(value, list):
            return value
        try:
            counts = sorted({int(part) for part in str(value).split(",")})
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers like 1,2,4,8", param, ctx)
        if counts[0] < 1:
            self.fail(f"each number must be at least 1, not {counts[0]}", param, ctx)
        return counts


COUNTS = _Counts()
