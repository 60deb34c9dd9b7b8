"""Pictures of a history: a panel for each series, sessions in order, levels and shifts marked."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

from minibit.analysis.plots import BLUE, GREEN, INK, MUTED, SIZE_INCHES, VERMILION, new_figure, save
from minibit.errors import UsageError
from minibit.regression.history import History, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANELS_MAX = 12
COLUMNS = 2
PANEL_HEIGHT_INCHES = 2.6
HEAD_INCHES = 1.0
TICKS_MAX = 15  # commits that find room below a panel
ROOM = 0.15  # of the values' range, above and below them
_COLOURS = {"worse": VERMILION, "better": GREEN}


def draw_history(history: History, path_stem: Path) -> list[Path]:
    """Draw the series and return the two files written; at most PANELS_MAX, those with shifts first.

    What finds no room is counted in the title. Raise UsageError if no series has two sessions or matplotlib is missing,
    StorageError if the files cannot be written.
    """
    drawable = [series for series in history.series if len(series.points) > 1]
    if not drawable:
        raise UsageError("no series has two sessions, nothing to draw")
    shown = sorted(drawable, key=lambda series: (-len(series.changes), -len(series.points)))[:PANELS_MAX]
    figure = new_figure()
    columns = min(COLUMNS, len(shown))
    rows = math.ceil(len(shown) / columns)
    figure.set_size_inches(SIZE_INCHES[0] * columns, HEAD_INCHES + max(PANEL_HEIGHT_INCHES * rows, SIZE_INCHES[1] / 2))
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, series in zip(panels, shown, strict=False):
        _panel(axes, series)
    for axes in panels[len(shown) :]:
        axes.set_visible(False)
    left_out = len(history.series) - len(shown)
    rest = f" ({left_out} series more: not drawn)" if left_out else ""
    figure.suptitle(f"History: {history.source}{rest}", x=0.02, ha="left", fontsize=14, fontweight="bold", color=INK)
    handles = {label: handle for axes in panels[: len(shown)] for handle, label in zip(
        *axes.get_legend_handles_labels(), strict=True)}  # fmt: skip
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, frameon=False)
    return save(figure, path_stem)


def _panel(axes: "Axes", series: Series) -> None:
    points = series.points
    places = list(range(len(points)))
    values = [point.value for point in points]
    whiskers = [[p.value - p.min for p in points], [p.max - p.value for p in points]]
    axes.errorbar(
        places, values, yerr=whiskers, fmt="o", color=BLUE, ecolor=MUTED, markersize=4, elinewidth=1, capsize=2,
        label="median, fastest to slowest run" if series.unit == "s" else "median, smallest to largest run",
    )  # fmt: skip
    _levels(axes, series)
    for change in series.changes:
        colour, name = _COLOURS[change.direction], f"{change.direction} from here on"
        axes.axvline(change.at - 0.5, color=colour, linestyle=(0, (5, 2)), linewidth=1.6, label=name)
        axes.annotate(
            f"{change.ratio - 1:+.1%}", (change.at - 0.5, 1), (3, -3), xycoords=("data", "axes fraction"),
            textcoords="offset points", va="top", color=colour, fontsize=9,
        )  # fmt: skip
    _scale(axes, series)


def _levels(axes: "Axes", series: Series) -> None:
    """Draw the median of each segment over its whole length."""
    if not series.judged:
        return
    bounds = [0, *(change.at for change in series.changes), len(series.points)]
    levels = [series.changes[0].before, *(change.after for change in series.changes)] if series.changes else [
        sorted(point.value for point in series.points)[len(series.points) // 2]
    ]  # fmt: skip
    for begin, end, level in zip(bounds, bounds[1:], levels, strict=False):
        axes.plot([begin - 0.4, end - 0.6], [level, level], "-", color=INK, linewidth=1.6, label="level")


def _scale(axes: "Axes", series: Series) -> None:
    from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter  # noqa: PLC0415  an extra

    labels = [point.label for point in series.points]
    every = math.ceil(len(labels) / TICKS_MAX)
    places = list(range(len(labels)))[::-1][::every]  # the newest has its label in any case
    axes.xaxis.set_major_locator(FixedLocator(places))
    axes.xaxis.set_major_formatter(FixedFormatter([labels[place] for place in places]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:g}"))
    axes.tick_params(axis="x", rotation=60, labelsize=7, colors=INK)
    axes.tick_params(axis="y", labelsize=8, colors=INK)
    axes.set_xlim(-0.8, len(labels) - 0.2)
    low, high = min(point.min for point in series.points), max(point.max for point in series.points)
    room = ROOM * (high - low) or 0.05 * high or 1.0
    axes.set_ylim(low - room, high + 2 * room)  # not from 0: a shift of 3 % must be seen, and says how large it is
    axes.set_ylabel(f"{series.title}{f' ({series.unit})' if series.unit else ''}", fontsize=8, color=INK)
    axes.set_title(series.benchmark, loc="left", fontsize=10, color=INK)
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
