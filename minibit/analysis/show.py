"""Stored results, whatever their kind: on the terminal, or as JSON or CSV for other programs."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
from rich.console import Console

from minibit import record as records
from minibit.analysis import exports, load_screen, screen
from minibit.errors import RecordError, UsageError
from minibit.load import abuse, result, saturate
from minibit.load.screen import comparison, remarks, table
from minibit.regression import comparison as comparisons
from minibit.regression import selftest

READERS: Mapping[str, Callable[[Path], Any]] = {
    "swarm": records.read,
    "load": result.read,
    "saturation": saturate.read,
    "abuse": abuse.read,
    "comparison": comparisons.read,
    "selftest": selftest.read,
}
Form = Literal["screen", "json", "csv"]


class _Head(msgspec.Struct):
    kind: str | None = None
    scenario: Any = None


def show_results(paths: Sequence[Path], form: Form = "screen") -> None:
    """Print each, load tests together; of a folder all results in it.

    Raise RecordError for a file that is no result, naming it; UsageError for a folder without any, and for several
    kinds as one CSV.
    """
    found = [(path, kind, READERS[kind](path)) for given in paths for path, kind in _results_in(given)]
    if form == "json":
        print(exports.as_json([(path, each) for path, _, each in found]))
        return
    if form == "csv":
        print(exports.as_csv([(path, each) for path, _, each in found]), end="")
        return
    loads: list[tuple[str, result.LoadResult]] = []
    for path, kind, each in found:
        if kind == "load":
            loads.append((path.stem, each))
        else:
            _print(kind, each)
    if loads:
        _print_loads(loads)


def _print(kind: str, each: Any) -> None:
    if kind == "saturation":
        load_screen.print_saturation(each)
    elif kind == "abuse":
        load_screen.print_abuses(each)
    elif kind == "comparison":
        from minibit.analysis.compare_screen import print_comparison  # noqa: PLC0415  half a second to import

        print_comparison(each)
    elif kind == "selftest":
        from minibit.analysis.compare_screen import print_selftest  # noqa: PLC0415  as above

        print_selftest(each)
    else:
        screen.print_summary(each)


def _print_loads(loads: Sequence[tuple[str, result.LoadResult]]) -> None:
    console = Console(highlight=False, soft_wrap=True, width=load_screen.width())
    if len(loads) > 1:
        console.print(comparison(loads))
        return
    console.print(table(loads[0][1]))
    for line in remarks(loads[0][1]):
        console.print(line, markup=False)


def _results_in(path: Path) -> list[tuple[Path, str]]:
    """Return the results and their kinds: the file's own, or those of all in a folder that have one."""
    if not path.is_dir():
        return [(path, _kind_of(path))]
    found = []
    for file in sorted(path.rglob("*.json")):
        hidden = any(part.startswith(".") for part in file.relative_to(path).parts)
        if not hidden and (kind := _kind_among_others(file)):
            found.append((file, kind))
    if not found:
        raise UsageError(f"no results in {path}")
    return found


def _kind_of(path: Path) -> str:
    try:
        kind = msgspec.json.decode(path.read_bytes(), type=_Head).kind or "swarm"
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RecordError(f"{path} is no result of MiniBit: {error}") from error
    if kind not in READERS:
        raise RecordError(f"{path}: results of kind {kind!r} are not known")
    return kind


def _kind_among_others(path: Path) -> str | None:
    """Return the kind of a file of a folder of results, None of what else lies there (the machine, benchmarks)."""
    try:
        head = msgspec.json.decode(path.read_bytes(), type=_Head)
    except msgspec.ValidationError:
        return None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return _kind_of(path)  # says by name what is wrong with it
    if head.kind is None:
        return "swarm" if head.scenario is not None else None
    return head.kind if head.kind in READERS else None
