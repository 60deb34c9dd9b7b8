"""Results of load tests as files: one way to write them, one to read them."""

from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec

from minibit.errors import RecordError
from minibit.record import write_whole


class _Result(Protocol):
    kind: str
    schema_version: int


Result = TypeVar("Result", bound=_Result)


def write(result: Any, path: Path) -> None:
    """Write a result as JSON, whole or not at all. Raise StorageError."""
    write_whole(path, msgspec.json.encode(result) + b"\n", "result")


def read(path: Path, result_type: type[Result], *, kind: str, schema_version: int) -> Result:
    """Read what ``write`` wrote. Raise RecordError, naming the file and what is wrong with it."""
    try:
        result = msgspec.json.decode(path.read_bytes(), type=result_type)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RecordError(f"{path} is not a result of kind {kind}: {error}") from error
    if (result.kind, result.schema_version) != (kind, schema_version):
        found = f"{result.kind}, schema_version {result.schema_version}"
        raise RecordError(f"{path} is not a result of kind {kind}, schema_version {schema_version}, but {found}")
    return result
