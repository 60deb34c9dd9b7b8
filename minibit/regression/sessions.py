"""Session folders: results/<machine>/<stamp>-<commit>/, one for each run of a suite; the stamp is UTC.

A session is made by one process alone, however many start in the same second: the folder's making is what decides.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import msgspec

from minibit.errors import StorageError
from minibit.provenance import code_version, describe_machine, folder_name
from minibit.record import CodeVersion, write_whole

STAMP = "%Y%m%dT%H%M%SZ"
ID_LENGTH = 9
UNKNOWN = "unknown"
_NAME = re.compile(r"(?P<stamp>\d{8}T\d{6}Z)-(?:(?P<id>[0-9a-f]{7,40})|unknown)(?P<dirty>-dirty)?(?:-.*)?")


@dataclass(frozen=True, slots=True)
class Session:
    """What ran at one time on one machine. The id of ``commit`` may be short: all that the folder's name tells."""

    name: str
    time: datetime
    commit: CodeVersion | None = None


def new_session(results: Path) -> Path:
    """Make the folder of a new session of this machine and code, and describe the machine beside it; return the folder.

    No other process gets the same: where one of this second and commit is there already, -2, -3 … are appended. Raise
    StorageError if the disk refuses.
    """
    machine = describe_machine()
    parent = results / folder_name(machine)
    name = session_name(datetime.now(UTC), code_version())
    try:
        parent.mkdir(parents=True, exist_ok=True)
        folder = next(path for path in _candidates(parent / name) if _made(path))
    except OSError as error:
        raise StorageError(f"cannot make a folder of results in {parent}: {error.strerror}") from error
    write_whole(parent / "machine.json", msgspec.json.format(msgspec.json.encode(machine)) + b"\n", "machine")
    return folder


def session_name(time: datetime, commit: CodeVersion | None) -> str:
    """Return the name of a session's folder: 20261123T160407Z-338f60a32, and -dirty after changed code."""
    code = f"{commit.id[:ID_LENGTH]}{'-dirty' if commit.dirty else ''}" if commit else UNKNOWN
    return f"{time.astimezone(UTC).strftime(STAMP)}-{code}"


def session_named(name: str) -> Session | None:
    """Return what a folder's name tells; None if it is not that of a session."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    try:
        time = datetime.strptime(match["stamp"], STAMP).replace(tzinfo=UTC)
    except ValueError:  # the thirteenth month
        return None
    commit = CodeVersion(id=match["id"], dirty=bool(match["dirty"])) if match["id"] else None
    return Session(name, time, commit)


def machines(results: Path) -> list[str]:
    """Return the names of the machines that have sessions in the folder."""
    try:
        folders = sorted(path for path in results.iterdir() if path.is_dir())
        return [path.name for path in folders if any(session_named(inner.name) for inner in path.iterdir())]
    except OSError:
        return []


def _candidates(path: Path) -> Iterator[Path]:
    yield path
    for number in count(2):
        yield path.with_name(f"{path.name}-{number}")


def _made(path: Path) -> bool:
    try:
        path.mkdir()
    except FileExistsError:
        return False
    return True
