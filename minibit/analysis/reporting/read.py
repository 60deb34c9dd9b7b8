"""Which files a report is made of: files and folders, told apart by kind; what is not drawn is named, never dropped.

A file that was named must be a result; a folder may hold all sorts, and what is no result of ours is passed over.
"""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from minibit import record as records
from minibit.analysis.reporting.numbers import told
from minibit.errors import MiniBitError, RecordError, UsageError
from minibit.load import abuse, result, saturate
from minibit.load.abuse import AbuseRecord
from minibit.load.result import LoadResult
from minibit.load.saturation import SaturationRecord
from minibit.record import Record
from minibit.regression import comparison
from minibit.regression.comparison import Comparison

SWARM, IGNORED = "swarm", frozenset({"selftest", "history"})
RESULTS = Path("results")
_SESSION = re.compile(r"\d{8}T\d{6}Z-.+")


@dataclass(slots=True)
class Found:
    """Results by kind, each with its name, and what was not drawn with the reason."""

    swarms: list[tuple[str, Record]] = field(default_factory=list)
    comparisons: list[tuple[str, Comparison]] = field(default_factory=list)
    loads: list[tuple[str, LoadResult]] = field(default_factory=list)
    saturations: list[tuple[str, SaturationRecord]] = field(default_factory=list)
    abuses: list[tuple[str, AbuseRecord]] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)

    @property
    def all(self) -> list[tuple[str, Any]]:
        """Every result that is drawn."""
        return [*self.comparisons, *self.swarms, *self.loads, *self.saturations, *self.abuses]


class _Header(msgspec.Struct):
    kind: str = ""
    peers: msgspec.Raw = msgspec.Raw()
    scenario: msgspec.Raw = msgspec.Raw()


def newest_session(results: Path = RESULTS) -> Path:
    """Return the newest session's folder below ``results/<machine>/``. Raise UsageError that says what to give."""
    sessions = [path for path in results.glob("*/*") if path.is_dir() and _SESSION.fullmatch(path.name)]
    if not sessions:
        raise UsageError(
            "give records or folders of them, such as run.json or sweep/: there is no session in ./results"
        )
    return max(sessions, key=lambda path: path.name)


def read_results(paths: Sequence[Path]) -> Found:
    """Read files, and every ``*.json`` below folders.

    Raise RecordError for a file that was named and is no result, UsageError if nothing is left to draw.
    """
    named = [path for path in paths if not path.is_dir()]
    inside = sorted({file for path in paths if path.is_dir() for file in path.rglob("*.json")} - set(named))
    found = Found()
    root = _root([*named, *inside])
    for path in dict.fromkeys(named):
        kind = _kind_of(path)
        if not kind:
            raise RecordError(f"{path} is no result of MiniBit: it has neither a kind nor a scenario and peers")
        _add(found, path, _name(path, root), kind)
    for path in inside:
        _add_if_ours(found, path, _name(path, root))
    if not found.all:
        where = ", ".join(map(str, paths))
        raise UsageError(f"nothing to draw in {where}: expected records of swarms, comparisons or load tests")
    return found


def _root(paths: Sequence[Path]) -> Path:
    return Path(os.path.commonpath([path.absolute().parent for path in paths])) if paths else Path()


def _name(path: Path, root: Path) -> str:
    return str(path.absolute().relative_to(root).with_suffix(""))


def _kind_of(path: Path) -> str:
    """Return the kind of a result, "" if it is none of ours. Raise RecordError if it cannot be read."""
    try:
        header = msgspec.json.decode(path.read_bytes(), type=_Header)
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RecordError(f"{path} is no result of MiniBit: {error}") from error
    return header.kind or (SWARM if bytes(header.peers) and bytes(header.scenario) else "")


def _add_if_ours(found: Found, path: Path, name: str) -> None:
    try:
        kind = _kind_of(path)
        if kind:
            _add(found, path, name, kind)
    except MiniBitError as error:
        found.skipped.append((name, str(error)))


def _add(found: Found, path: Path, name: str, kind: str) -> None:
    readers: dict[str, tuple[list[Any], Callable[[Path], Any]]] = {
        SWARM: (found.swarms, _read_swarm),
        "comparison": (found.comparisons, comparison.read),
        "load": (found.loads, result.read),
        "saturation": (found.saturations, saturate.read),
        "abuse": (found.abuses, abuse.read),
    }
    if kind in readers:
        into, read = readers[kind]
        into.append((name, read(path)))
    elif kind not in IGNORED:
        found.skipped.append((name, f"results of kind {kind!r} are not drawn"))


def _read_swarm(path: Path) -> Record:
    record = records.read(path)
    try:
        told(record.scenario)
    except msgspec.ValidationError as error:
        raise RecordError(f"record {path}: scenario: {str(error).replace('`', chr(34))}") from error
    return record
