"""What a report's page is made of: sections with figures of merit, figures, tables; plain text that is escaped later.

Whoever builds these knows no HTML; the template knows no records. ``Markup`` appears for drawings only.
"""

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import PurePath
from urllib.parse import quote

from markupsafe import Markup

from minibit.units import format_duration, format_size

NOTHING = "\u2013"
_PLAIN_IN_A_LINK = " ,;:.-_/()|=@+"

Value = str | float | int | bool | None


@dataclass(frozen=True, slots=True)
class Key:
    """One entry of a legend: a ``shape`` (line, band, dot, hollow, square, diamond, cross, cell) as it is drawn."""

    text: str
    shape: str
    color: str
    dash: str = ""
    opacity: float = 1.0
    width: float = 2.0


@dataclass(frozen=True, slots=True)
class Picture:
    """One drawing in two layouts, both under the same legend; ``full`` wants the page's whole width."""

    wide: Markup
    narrow: Markup
    keys: Sequence[Key] = ()
    full: bool = False


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawing with what it shows in words, and the numbers it was drawn from as CSV."""

    title: str
    caption: str
    picture: Picture
    data: str
    file_name: str

    @property
    def link(self) -> str:
        """A link that is the file itself: nothing is fetched."""
        return f"data:text/csv;charset=utf-8,{quote(self.data, safe=_PLAIN_IN_A_LINK)}"


@dataclass(frozen=True, slots=True)
class Column:
    """A column; numbers stand at its right."""

    title: str
    number: bool = True


@dataclass(frozen=True, slots=True)
class Cell:
    """What is shown, and what it is sorted by (itself if None); ``mark`` is a class: good, bad, open."""

    text: str
    sort: float | None = None
    mark: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A table that a reader may sort; the first cell of a row names it."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True, slots=True)
class Fact:
    """A figure of merit: ``1.05``, what it is, and a remark below."""

    value: str
    name: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Notice:
    """What must be seen before the figures; ``mark`` is good, bad or open."""

    mark: str
    title: str
    lines: Sequence[str] = ()
    large: bool = False


@dataclass(frozen=True, slots=True)
class Fold:
    """What is there for those who ask: closed at first."""

    title: str
    tables: Sequence[Table] = ()
    raw: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of the page under its own heading; ``closed`` ones are opened by the reader."""

    ident: str
    title: str
    lead: str = ""
    closed: bool = False
    notices: Sequence[Notice] = ()
    facts: Sequence[Fact] = ()
    figures: Sequence[Figure] = ()
    remarks: Sequence[str] = ()
    tables: Sequence[Table] = ()
    folds: Sequence[Fold] = ()
    parts: Sequence["Section"] = ()


@dataclass(slots=True)
class Names:
    """Gives each section and drawing of a page a name of its own, the same in every run."""

    _numbers: "count[int]" = field(default_factory=lambda: count(1))

    def new(self, kind: str) -> str:
        """Return a name that no other element of the page has."""
        return f"{kind}{next(self._numbers)}"


def csv_text(header: Sequence[str], rows: Sequence[Sequence[Value]]) -> str:
    """Return a table as CSV with lines that end in a line feed; None is an empty field."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([[_short(value) for value in row] for row in rows])
    return text.getvalue()


def seconds(value: float | None) -> str:
    """Return a duration for people."""
    return NOTHING if value is None else _unbroken(format_duration(value))


def size(value: float | None) -> str:
    """Return a number of bytes for people."""
    return NOTHING if value is None else _unbroken(format_size(value))


def number(value: float | None, form: str) -> str:
    """Return a number in a format such as ``.2f``."""
    return NOTHING if value is None else format(value, form)


def cell(text: str, sort: float | None = None, mark: str = "") -> Cell:
    """Return a cell; a missing value sorts after all others."""
    return Cell(text, float("inf") if sort is None and text == NOTHING else sort, mark)


def seconds_cell(value: float | None) -> Cell:
    """Return a duration as a cell."""
    return cell(seconds(value), value)


def size_cell(value: float | None, suffix: str = "") -> Cell:
    """Return a number of bytes as a cell."""
    return cell(NOTHING if value is None else size(value) + suffix, value)


def number_cell(value: float | None, form: str) -> Cell:
    """Return a number as a cell."""
    return cell(number(value, form), value)


def plural(how_many: int, word: str) -> str:
    """Return ``1 run``, ``2 runs``."""
    return f"{how_many:,} {word}{'' if how_many == 1 else 's'}"


def within_their_folder(names: Sequence[str]) -> list[str]:
    """Return names of files without the folder that all of them share."""
    folder = os.path.commonpath([str(PurePath(name).parent) for name in names]) if names else ""
    return [str(PurePath(name).relative_to(folder)) for name in names]


def _unbroken(text: str) -> str:
    return text.replace(" ", "\u00a0")


def _short(value: Value) -> Value:
    return float(f"{value:.6g}") if isinstance(value, float) else value
