"""``minibit report``: stored results as one HTML page that needs nothing else, neither network nor scripts.

The page is a function of the results: the same files give the same page. Every text from a file is escaped by the
template; jinja2 and matplotlib are extras (``minibit[report]``).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from minibit import __version__
from minibit.analysis.reporting.compare import comparison_section
from minibit.analysis.reporting.load import load_section
from minibit.analysis.reporting.page import Names, Section, plural
from minibit.analysis.reporting.read import Found, read_results
from minibit.analysis.reporting.svg import css_color
from minibit.analysis.reporting.sweep import families, family_section
from minibit.errors import UsageError
from minibit.record import CodeVersion, Machine, write_whole
from minibit.units import format_size

TEMPLATE = "report.html.j2"


@dataclass(frozen=True, slots=True)
class Head:
    """What stands above all: what this is, when and where it was measured, how much of it counts."""

    title: str
    when: str
    commits: Sequence[str]
    machines: Sequence[str]
    counts: str
    invalid: int


def write_report(paths: Sequence[Path], output: Path) -> Found:
    """Write the page of all results in files and folders; return what was found, with what was skipped.

    Raise RecordError for a file that is no result, UsageError if there is nothing to draw or an extra is missing,
    StorageError if the page cannot be written.
    """
    found = read_results(paths)
    write_whole(output, page(found).encode(), "report")
    return found


def page(found: Found) -> str:
    """Return the page as HTML."""
    names = Names()
    sections = [comparison_section(name, comparison, names) for name, comparison in found.comparisons]
    sections += [family_section(family, names) for family in families(found.swarms)]
    sections += load_section(found, names)
    html: str = _template().render(
        head=_head(found, sections), sections=sections, skipped=found.skipped, version=__version__, color=css_color
    )
    return html


def _template() -> Any:
    try:
        import jinja2  # noqa: PLC0415  an extra, see the module's docstring
    except ImportError as error:
        raise UsageError("a report needs jinja2: pip install 'minibit[report]'") from error
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(TEMPLATE)


def _head(found: Found, sections: Sequence[Section]) -> Head:
    results = [result for _, result in found.all]
    valid = sum(record.valid for _, record in found.swarms)
    runs = len(found.swarms)
    return Head(
        title=sections[0].title if len(sections) == 1 else _subjects(found),
        when=_when(results),
        commits=_commits(found),
        machines=list(dict.fromkeys(_machine(result.machine) for result in results)),
        counts=f"{plural(runs, 'swarm')}, {valid} valid" if runs else "",
        invalid=runs - valid,
    )


def _subjects(found: Found) -> str:
    kinds = (
        (found.comparisons, "comparison"),
        (found.swarms, "swarm"),
        (found.loads, "load test"),
        (found.saturations, "saturation"),
        (found.abuses, "abuse test"),
    )
    return ", ".join(plural(len(results), word) for results, word in kinds if results)


def _when(results: Sequence[Any]) -> str:
    times = sorted(time for result in results if (time := _time(result.started_at)) is not None)
    if not times:
        return "unknown"
    first, last = times[0], times[-1]
    begin = f"{first:%Y-%m-%d %H:%M}"
    if f"{last:%Y-%m-%d %H:%M}" == begin:
        return f"{begin} UTC"
    return f"{begin} to {last:{'%H:%M' if last.date() == first.date() else '%Y-%m-%d %H:%M'}} UTC"


def _time(started_at: datetime | str) -> datetime | None:
    try:
        time = started_at if isinstance(started_at, datetime) else datetime.fromisoformat(started_at)
        return time.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _commits(found: Found) -> list[str]:
    versions = [_commit(result.commit) for _, result in found.all if hasattr(result, "commit")]
    versions += [
        f"{name}: {_commit(side.commit)}{f', {side.subject}' if side.subject else ''}"
        for _, comparison in found.comparisons
        for name, side in (("base", comparison.base), ("head", comparison.head))
    ]
    return list(dict.fromkeys(versions))


def _commit(commit: CodeVersion | None) -> str:
    return f"{commit.id[:9]}{' with changes' if commit.dirty else ''}" if commit else "not in git"


def _machine(machine: Machine) -> str:
    memory = format_size(machine.memory_bytes)
    cores = plural(machine.cores, "core")
    return f"{machine.cpu}, {cores}, {memory} memory, {machine.kernel}, {machine.python} (machine {machine.id})"
