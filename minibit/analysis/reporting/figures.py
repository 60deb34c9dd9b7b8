"""Charts for a page: a description of marks, drawn twice as SVG, for a wide and for a narrow screen.

A chart is drawn in colours that stand for CSS variables, so that the page decides on light and dark; its legend is left
to the page. Nothing is rasterised. matplotlib is an extra (``minibit[report]``) and is imported when a chart is drawn.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from minibit.analysis.plots import BLUE, GREEN, INK, MUTED
from minibit.analysis.reporting.page import Key, Picture
from minibit.analysis.reporting.svg import GRID, ORANGE, PURPLE, inline_svg
from minibit.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDE, NARROW, FULL = (540, 300), (358, 270), (1080, 420)  # CSS pixels
FONT_PX = 12.5
ROWS_BESIDE_PX = 600  # from here on names of rows have room at the left
STEPS = [1, 2, 5, 10]  # so that 1 is a tick wherever it is in sight
QUARTERS = (0, 0.25, 0.5, 0.75, 1)  # of a share
GROUP_COLOURS = (BLUE, ORANGE, GREEN, PURPLE)
DASHES: dict[str, Any] = {"": "-", "5 2": (0, (5, 2)), "1 1.5": (0, (1, 1.5)), "7 2 1 2": (0, (7, 2, 1, 2))}
GROUP_DASHES = ("", "5 2", "1 1.5", "7 2 1 2")
MARKERS = {"dot": "o", "hollow": "o", "square": "s", "diamond": "D", "cross": "x", "tick": "|", "above": "^"}

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Line:
    """A line through points; as stairs if ``steps``."""

    points: Sequence[Point]
    color: str
    name: str = ""
    dash: str = ""
    width: float = 2.0
    opacity: float = 1.0
    steps: bool = False


@dataclass(frozen=True, slots=True)
class Band:
    """What lies between two lines: (x, low, high)."""

    points: Sequence[tuple[float, float, float]]
    color: str
    name: str = ""
    opacity: float = 0.2


@dataclass(frozen=True, slots=True)
class Dots:
    """Points, each a mark of the given shape."""

    points: Sequence[Point]
    color: str
    name: str = ""
    shape: str = "dot"
    size: float = 5.0


@dataclass(frozen=True, slots=True)
class Rule:
    """A line across the whole chart, at one value of ``axis``."""

    at: float
    color: str
    name: str = ""
    dash: str = ""
    axis: str = "x"


@dataclass(frozen=True, slots=True)
class Shade:
    """A range of ``axis``, shaded across the whole chart."""

    begins: float
    ends: float
    color: str
    name: str = ""
    opacity: float = 0.12
    axis: str = "x"


Mark = Line | Band | Dots | Rule | Shade


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Marks, drawn in order, on axes that are named.

    ``sizes`` are the ticks of a log axis of numbers of leechers; ``rows`` name y = 0, 1, … instead of numbers.
    """

    marks: Sequence[Mark]
    x_label: str
    y_label: str
    title: str = ""
    x_limits: tuple[float | None, float | None] = (0, None)
    y_limits: tuple[float | None, float | None] = (0, None)
    x_form: str = ",.6g"
    y_form: str = ",.6g"
    sizes: Sequence[int] = ()
    y_log: bool = False
    whole_x: bool = False
    whole_y: bool = False
    rows: Sequence[str] = ()

    @property
    def keys(self) -> list[Key]:
        """The legend: every mark that has a name, once."""
        keys = {key.text: key for mark in self.marks if (key := _key(mark)) is not None}
        return list(keys.values())


def drawn(chart: Chart, ident: str, label: str, *, full: bool = False, height: int | None = None) -> Picture:
    """Draw a chart for wide and for narrow screens."""
    return _both([chart], ident, label, keys=chart.keys, full=full, height=height)


def drawn_panels(charts: Sequence[Chart], ident: str, label: str, *, columns: int, height: int) -> Picture:
    """Draw several charts as one picture, ``columns`` beside each other where there is room, each with its title."""
    keys = {key.text: key for chart in charts for key in chart.keys}
    return _both(charts, ident, label, keys=list(keys.values()), full=True, height=height, columns=columns)


def drawn_matrix(levels: Sequence[Sequence[int]], ident: str, label: str, *, x_label: str, y_label: str) -> Picture:
    """Draw a square of cells, each 0 (nothing) to 8 strong, row by row from the top."""
    count = len(levels)
    chart = Chart(
        marks=(), x_label=x_label, y_label=y_label, x_limits=(0, count), y_limits=(count, 0), whole_x=True, whole_y=True
    )
    cells = _cells(levels)
    return _both([chart], ident, label, keys=[], full=False, height=None, cells=cells, square=True)


def _cells(levels: Sequence[Sequence[int]]) -> str:
    """Return one path for each strength, in units of a cell; neighbours of equal strength are one rectangle."""
    paths: dict[int, list[str]] = {}
    for y, row in enumerate(levels):
        x = 0
        while x < len(row):
            end = x
            while end < len(row) and row[end] == row[x]:
                end += 1
            if row[x]:
                paths.setdefault(row[x], []).append(f"M{x} {y}h{end - x}v1h{x - end}z")
            x = end
    return "".join(
        f'<path fill="var(--blue)" fill-opacity="{level / 8:g}" d="{"".join(parts)}"/>'
        for level, parts in sorted(paths.items())
    )


def _both(
    charts: Sequence[Chart],
    ident: str,
    label: str,
    *,
    keys: Sequence[Key],
    full: bool,
    height: int | None,
    columns: int = 1,
    cells: str = "",
    square: bool = False,
) -> Picture:
    def at(width: int, default: int, beside: int, name: str) -> Markup:
        one = width - 70 if square else height or default  # room for what is written at a square's edges
        rows = -(-len(charts) // beside)
        with _settings():
            return _svg(charts, (width, one * rows), beside, (f"{ident}{name}", label), cells)

    wide = FULL if full else (400, 0) if square else WIDE
    return Picture(at(*wide, columns, "w"), at(*NARROW, 1, "n"), keys, full)


@contextmanager
def _settings() -> Iterator[None]:
    """Text stays text, dollars stay dollars, and the same chart is the same SVG."""
    try:
        import matplotlib as mpl  # noqa: PLC0415  an extra, see the module's docstring
    except ImportError as error:
        raise UsageError("drawing needs matplotlib: pip install 'minibit[report]'") from error
    settings: Any = {  # matplotlib names every key in its types
        "svg.fonttype": "none",
        "svg.hashsalt": "minibit",
        "text.parse_math": False,
        "axes.unicode_minus": True,
        "font.size": FONT_PX,
    }
    with mpl.rc_context(settings):
        yield


def _svg(charts: Sequence[Chart], size: tuple[int, int], columns: int, names: tuple[str, str], cells: str) -> Markup:
    from matplotlib.figure import Figure  # noqa: PLC0415  as above

    width, height = size
    rows = -(-len(charts) // columns)
    figure = Figure(figsize=(width / 72, height / 72), dpi=72)
    figure.patch.set_visible(False)
    for index, chart in enumerate(charts):
        axes = figure.add_subplot()
        _paint(axes, chart, few=width / columns < WIDE[0] * 0.8)
        box = (index % columns * width / columns, index // columns * height / rows, width / columns, height / rows)
        _place(figure, axes, chart, box)
    under = _scaled_into(figure.axes[0], cells, charts[0].x_limits[1], height) if cells else ""
    return inline_svg(figure, *names, under)


def _scaled_into(axes: "Axes", cells: str, count: float | None, height: int) -> str:
    box = axes.get_window_extent()
    scale = (box.width / (count or 1), box.height / (count or 1))
    place = f"translate({box.x0:.1f} {height - box.y1:.1f}) scale({scale[0]:.4f} {scale[1]:.4f})"
    return f'<g transform="{place}" shape-rendering="crispEdges">{cells}</g>'


def _paint(axes: "Axes", chart: Chart, *, few: bool) -> None:
    _scale(axes, chart, few=few)
    for mark in chart.marks:
        _DRAW[type(mark)](axes, mark)
    axes.set_xlim(*chart.x_limits)
    if chart.y_limits[1] is None and not chart.y_log:
        axes.set_ylim(chart.y_limits[0], 1.06 * (axes.dataLim.ymax if axes.has_data() else 1) or 1)
    elif not chart.y_log:
        axes.set_ylim(*chart.y_limits)


def _scale(axes: "Axes", chart: Chart, *, few: bool) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter  # noqa: PLC0415  as above

    axes.xaxis.set_major_locator(MaxNLocator(4 if few else 7, integer=chart.whole_x, steps=STEPS))
    if chart.sizes:
        axes.set_xscale("log", base=2)
        every = -(-len(chart.sizes) // (6 if few else 12))
        axes.xaxis.set_major_locator(FixedLocator(list(chart.sizes)[::-1][::every]))
        axes.xaxis.set_minor_locator(FixedLocator([]))
    if chart.y_log:
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        fitting = MaxNLocator(4 if few else 6, integer=chart.whole_y, steps=STEPS)
        locator = FixedLocator(QUARTERS) if chart.y_form == ".0%" else fitting
        axes.yaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(FuncFormatter(_formatter(chart.x_form)))
    axes.yaxis.set_major_formatter(FuncFormatter(_formatter(chart.y_form)))


def _formatter(form: str) -> Callable[[float, int | None], str]:
    return lambda value, _: format(value, form).replace("-", "\u2212")


def _place(figure: "Figure", axes: "Axes", chart: Chart, box: tuple[float, float, float, float]) -> None:
    """Give the chart its part of the page: as much room at the left as the longest number or name takes."""
    left, top, width, height = box
    inside = _room(axes, chart, width)
    above, below, right = (40 if chart.title else 26), 42, 14
    page_width, page_height = figure.get_figwidth() * 72, figure.get_figheight() * 72
    axes.set_position((
        (left + inside) / page_width,
        1 - (top + height - below) / page_height,
        (width - inside - right) / page_width,
        (height - above - below) / page_height,
    ))  # fmt: skip
    _dress(axes, chart)
    _name(axes, chart, inside)


def _room(axes: "Axes", chart: Chart, width: float) -> float:
    if chart.rows:
        return 0.58 * FONT_PX * max(map(len, chart.rows)) + 14 if width >= ROWS_BESIDE_PX else 6
    labels = axes.yaxis.get_major_formatter().format_ticks(list(axes.get_yticks()))
    return 0.6 * FONT_PX * max(map(len, labels), default=0) + 10


def _dress(axes: "Axes", chart: Chart) -> None:
    axes.patch.set_visible(False)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)
    axes.tick_params(length=0, labelcolor=INK, pad=5, labelleft=not chart.rows)
    axes.tick_params(which="minor", length=0)
    axes.grid(axis="x" if chart.rows else "y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def _name(axes: "Axes", chart: Chart, inside: float) -> None:
    """Write the names of axes and rows in words that lie flat; a row's name stands above it where it is narrow."""
    axes.set_xlabel(chart.x_label, color=MUTED, fontsize=FONT_PX, labelpad=5)
    place: dict[str, Any] = {"textcoords": "offset points", "annotation_clip": False, "fontsize": FONT_PX}
    at = 0 if chart.rows else -inside
    axes.annotate(chart.y_label, (0, 1), (at, 10), xycoords="axes fraction", color=MUTED, **place)
    if chart.title:
        axes.annotate(chart.title, (0, 1), (at, 26), xycoords="axes fraction", color=INK, fontweight="bold", **place)
    offset = (-inside, -4) if inside > 6 else (-4, 9)
    for y, name in enumerate(chart.rows):
        axes.annotate(name, (0, y), offset, xycoords=("axes fraction", "data"), color=INK, **place)


def _draw_line(axes: "Axes", mark: Any) -> None:
    xs, ys = [x for x, _ in mark.points], [y for _, y in mark.points]
    style = "steps-post" if mark.steps else "default"
    axes.plot(
        xs, ys, color=mark.color, linestyle=DASHES[mark.dash], linewidth=mark.width, alpha=mark.opacity, drawstyle=style
    )


def _draw_band(axes: "Axes", mark: Any) -> None:
    xs, lows, highs = ([point[index] for point in mark.points] for index in range(3))
    axes.fill_between(xs, lows, highs, color=mark.color, alpha=mark.opacity, linewidth=0)


def _draw_dots(axes: "Axes", mark: Any) -> None:
    xs, ys = [x for x, _ in mark.points], [y for _, y in mark.points]
    face = "none" if mark.shape == "hollow" else mark.color
    axes.plot(
        xs,
        ys,
        linestyle="none",
        marker=MARKERS[mark.shape],
        markersize=mark.size,
        markerfacecolor=face,
        markeredgecolor=mark.color,
        markeredgewidth=1.6 if mark.shape in {"hollow", "cross", "tick"} else 0.8,
        clip_on=False,
        zorder=3,
    )


def _draw_rule(axes: "Axes", mark: Any) -> None:
    draw = axes.axvline if mark.axis == "x" else axes.axhline
    draw(mark.at, color=mark.color, linestyle=DASHES[mark.dash], linewidth=1.8)


def _draw_shade(axes: "Axes", mark: Any) -> None:
    draw = axes.axvspan if mark.axis == "x" else axes.axhspan
    draw(mark.begins, mark.ends, color=mark.color, alpha=mark.opacity, linewidth=0)


_DRAW: dict[type[Any], Callable[["Axes", Any], None]] = {
    Line: _draw_line,
    Band: _draw_band,
    Dots: _draw_dots,
    Rule: _draw_rule,
    Shade: _draw_shade,
}


def _key(mark: Mark) -> Key | None:
    if not mark.name:
        return None
    if isinstance(mark, Dots):
        return Key(mark.name, mark.shape, mark.color)
    if isinstance(mark, Band | Shade):
        return Key(mark.name, "band", mark.color, opacity=mark.opacity)
    width = mark.width if isinstance(mark, Line) else 1.8
    return Key(mark.name, "line", mark.color, mark.dash, width=width)
