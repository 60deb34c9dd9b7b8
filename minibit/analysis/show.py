"""Stored results on the terminal, whatever their kind."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.console import Console

from minibit import record as records
from minibit.analysis import load_screen, screen
from minibit.errors import RecordError
from minibit.load import abuse, result, saturate
from minibit.load.screen import comparison, remarks, table


class _Kind(msgspec.Struct):
    kind: str = "swarm"


def show_results(paths: Sequence[Path]) -> None:
    """Print each, load tests together. Raise RecordError for a file that is no result, naming it."""
    loads: list[tuple[str, result.LoadResult]] = []
    for path in paths:
        kind = _kind_of(path)
        if kind == "load":
            loads.append((path.stem, result.read(path)))
        elif kind == "saturation":
            load_screen.print_saturation(saturate.read(path))
        elif kind == "abuse":
            load_screen.print_abuses(abuse.read(path))
        elif kind == "swarm":
            screen.print_summary(records.read(path))
        else:
            raise RecordError(f"{path}: results of kind {kind!r} are not known")
    console = Console(highlight=False, soft_wrap=True, width=load_screen.width())
    if len(loads) == 1:
        console.print(table(loads[0][1]))
        for line in remarks(loads[0][1]):
            console.print(line, markup=False)
    elif loads:
        console.print(comparison(loads))


def _kind_of(path: Path) -> str:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Kind).kind
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RecordError(f"{path} is no result of MiniBit: {error}") from error
