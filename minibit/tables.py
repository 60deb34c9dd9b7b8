"""Tables that people write, and the fields of the structs they become: mistakes are named by the key in the file.

A ``Spelling`` says where the file's key differs from the field's name (``upload_rate`` for ``upload_rate_bytes_per_s``)
and how its text is read. Raises ScenarioError only, one line each.
"""

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from minibit.errors import ScenarioError, UsageError

Spelling = Mapping[str, tuple[str, Callable[[Any], Any]]]  # field -> (key in the file, parser of its value)

_ITEM = re.compile(r"(?P<list>\w+?)s?\[(?P<index>\d+)\](?:\.(?P<key>.*))?")


def fields_of(struct: type[msgspec.Struct], table: Mapping[str, Any], where: str, spelling: Spelling) -> dict[str, Any]:
    """Return the table with the struct's field names and parsed values; their types are not checked yet.

    ``where`` ends the messages: `` in group 2``. Raise ScenarioError for a key nobody knows, naming the nearest one.
    """
    fields = {key_of(field, spelling): field for field in struct.__struct_fields__}
    plain = {}
    for key, value in table.items():
        if key not in fields:
            raise ScenarioError(_unknown(key, where, list(fields)))
        field = fields[key]
        try:
            plain[field] = spelling[field][1](value) if field in spelling else value
        except UsageError as error:
            raise ScenarioError(f'key "{key}"{where}: {error}') from error
    return plain


def key_of(field: str, spelling: Spelling) -> str:
    """Return what the file calls the field."""
    return spelling[field][0] if field in spelling else field


def explained(message: str, spelling: Spelling, choices: Mapping[str, Sequence[str]]) -> str:
    """Return a message of msgspec's validation in the words of the file; ``choices`` are the values of its enums."""
    problem, _, path = message.partition(" - at `$")
    problem = problem.replace("`", '"')
    where, key = _located(path.removesuffix("`").removeprefix("."))
    if missing := re.search(r'missing required field "(.*)"', problem):
        inside = f" in {key}" if key else where
        return f'missing key "{key_of(missing[1], spelling)}"{inside}'
    if problem.startswith("Invalid enum value"):
        problem = f"expected one of {', '.join(choices[key])}, not {problem.removeprefix('Invalid enum value ')}"
    elif "matching regex" in problem:
        problem = 'expected up to 60 letters, digits, ".", "_" or "-", the first a letter or digit'
    place = f'key "{key_of(key, spelling)}"{where}' if key else where.removeprefix(" in ")
    return f"{place}: {problem[0].lower()}{problem[1:]}" if place else problem


def _located(path: str) -> tuple[str, str]:
    """Return (`` in group 2``, ``count``) of ``groups[1].count``."""
    item = _ITEM.fullmatch(path)
    if item:
        return f" in {item['list']} {int(item['index']) + 1}", item["key"] or ""
    parent, _, key = path.rpartition(".")
    return (f" in {parent}" if parent else ""), key


def _unknown(key: str, where: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    hint = f'did you mean "{close[0]}"?' if close else f"expected one of {', '.join(known)}"
    return f'unknown key "{key}"{where}; {hint}'
