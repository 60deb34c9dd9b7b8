"""Pictures of records, as PNG and SVG: axes with units, colours that the colour-blind can tell apart, no global state.

matplotlib is an extra (``minibit[report]``) and is imported when a picture is drawn, not before.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minibit.analysis.stats import Spread, median, spread
from minibit.errors import StorageError, UsageError
from minibit.record import quantile

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from minibit.load.abuse import Abuse

SIZE_INCHES = (8.0, 5.0)
DPI = 150
# Okabe & Ito 2008: told apart with every common colour blindness, and in grey by their dash patterns and markers.
BLUE, VERMILION, GREEN, INK, MUTED = "#0072B2", "#D55E00", "#009E73", "#222222", "#666666"
LABELLED_TICKS_MAX = 9  # more numbers of leechers than this would overlap below the axis


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """All repeats of one swarm size: how long each took, and the bounds in seconds where they exist."""

    leechers: int
    times_s: Sequence[float]
    bound_s: float | None = None
    store_and_forward_bound_s: float | None = None


def completion_curve(
    points: Sequence[CurvePoint], path_stem: str | Path, *, title: str = "Completion time", subtitle: str = ""
) -> list[Path]:
    """Draw completion time against the number of leechers, with its bounds, and return the two files written.

    The line is the median, the dark band the middle half of the repeats, the light one all of them. ``path_stem`` gets
    ``.png`` and ``.svg`` appended. Raise UsageError if there is nothing to draw or matplotlib is missing, StorageError
    if the files cannot be written.
    """
    drawn = sorted((point for point in points if point.times_s), key=lambda point: point.leechers)
    if not drawn:
        raise UsageError("no completed run, nothing to draw")
    figure = new_figure()
    axes = figure.add_subplot()
    _draw_times(axes, drawn)
    fluid = [(point.leechers, point.bound_s) for point in drawn]
    whole_blocks = [(point.leechers, point.store_and_forward_bound_s) for point in drawn]
    _draw_bound(axes, fluid, label="fluid bound", color=VERMILION, linestyle=(0, (5, 2)))
    _draw_bound(axes, whole_blocks, label="store-and-forward bound", color=GREEN, linestyle=(0, (1, 1.5)))
    _scale(axes, drawn)
    _dress(axes, title, subtitle)
    return save(figure, Path(path_stem))


@dataclass(frozen=True, slots=True)
class LoadPoint:
    """One open-loop test: its rate, its percentiles in seconds by name."""

    rate_per_s: float
    percentiles_s: Mapping[str, float]


def latency_curve(
    points: Sequence[LoadPoint],
    path_stem: str | Path,
    *,
    title: str,
    subtitle: str = "",
    limit_s: float,
    limit_name: str,
    borne_per_s: float | None = None,
) -> list[Path]:
    """Draw latency (log scale) against arrival rate, with the limit and the saturation; return the two files written.

    Of several tests at one rate the line goes through the median. Raise UsageError if there is nothing to draw or
    matplotlib is missing, StorageError if the files cannot be written.
    """
    if not points:
        raise UsageError("no load test, nothing to draw")
    figure = new_figure()
    from matplotlib.ticker import FuncFormatter  # noqa: PLC0415  as above

    axes = figure.add_subplot()
    rates = sorted({point.rate_per_s for point in points})
    for name, color, marker in (("p50", GREEN, "s"), ("p99", BLUE, "o"), ("p99.9", INK, "^")):
        at = {rate: [p.percentiles_s[name] * 1e3 for p in points if p.rate_per_s == rate] for rate in rates}
        axes.plot(rates, [median(at[rate]) for rate in rates], "-", color=color, linewidth=2, label=name)
        every = [(rate, value) for rate in rates for value in at[rate]]
        axes.plot(*zip(*every, strict=True), marker, color=color, markersize=5, alpha=0.6, linestyle="none")
    axes.axhline(limit_s * 1e3, color=VERMILION, linestyle=(0, (5, 2)), linewidth=1.6, label=f"limit of {limit_name}")
    if borne_per_s:
        axes.axvline(
            borne_per_s, color=MUTED, linestyle=(0, (1, 1.5)), linewidth=1.6, label=f"{borne_per_s:,.0f}/s borne"
        )
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_xlim(left=0)
    axes.set_xlabel("arrival rate (requests/s)", color=INK)
    axes.set_ylabel("latency from the intended beginning (ms, log scale)", color=INK)
    _dress(axes, title, subtitle)
    return save(figure, Path(path_stem))


def abuse_timelines(found: Sequence["Abuse"], path_stem: str | Path, *, title: str) -> list[Path]:
    """Draw the good clients' latency over time, a panel for each abuse, which is shaded; return the files written.

    Slices with errors are marked at the top. Raise UsageError if there is nothing to draw or matplotlib is missing,
    StorageError if the files cannot be written.
    """
    if not found:
        raise UsageError("no abuse, nothing to draw")
    figure = new_figure()
    from matplotlib.ticker import FuncFormatter  # noqa: PLC0415  as above

    figure.set_size_inches(SIZE_INCHES[0], 1.2 + 1.5 * len(found))
    panels = figure.subplots(len(found), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for axes, each in zip(panels, found, strict=True):
        parts = [part for part in each.timeline if part.latencies_us]
        times_s = [part.begins_s for part in parts]
        for name, share, color in (("p50", 0.5, GREEN), ("p99", 0.99, BLUE), ("max", 1.0, INK)):
            values_ms = [quantile(part.latencies_us, share) / 1e3 for part in parts]
            axes.plot(times_s, values_ms, "-", color=color, linewidth=1.6, label=name)
        axes.axvspan(each.begins_s, each.ends_s, color=VERMILION, alpha=0.12, linewidth=0, label="abuse")
        wrong_s = [part.begins_s for part in each.timeline if part.errors]
        axes.plot(
            wrong_s, [1.0] * len(wrong_s), "x", color=VERMILION, transform=axes.get_xaxis_transform(), label="errors"
        )
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_title(each.name, loc="left", fontsize=10, color=INK)
        axes.grid(axis="y", color="#dddddd", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    panels[-1].set_xlabel("time (s)", color=INK)
    figure.supylabel("latency (ms, log scale)", color=INK, fontsize=10)
    figure.suptitle(title, x=0.02, ha="left", fontsize=14, fontweight="bold", color=INK)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    return save(figure, Path(path_stem))


def new_figure() -> "Figure":
    """Return an empty figure on white. Raise UsageError if matplotlib is missing."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415  an extra, see the module's docstring
        from matplotlib.figure import Figure  # noqa: PLC0415
        from matplotlib.layout_engine import ConstrainedLayoutEngine  # noqa: PLC0415
    except ImportError as error:
        raise UsageError("drawing needs matplotlib: pip install 'minibit[report]'") from error
    layout = ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.12)  # inches around everything
    figure = Figure(figsize=SIZE_INCHES, dpi=DPI, layout=layout, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _draw_times(axes: "Axes", points: Sequence[CurvePoint]) -> None:
    sizes = [point.leechers for point in points]
    spreads: list[Spread] = [spread(point.times_s) for point in points]
    fewest, repeats = min(sample.count for sample in spreads), max(sample.count for sample in spreads)
    if repeats > 1:
        lows, highs = [sample.minimum for sample in spreads], [sample.maximum for sample in spreads]
        axes.fill_between(sizes, lows, highs, color=BLUE, alpha=0.15, linewidth=0, label="fastest to slowest run")
        for point in points:
            axes.plot([point.leechers] * len(point.times_s), point.times_s, "_", color=BLUE, alpha=0.55, markersize=9)
    if repeats > 3:  # quartiles of three values are two of them moved by half
        axes.fill_between(
            sizes,
            [s.q1 for s in spreads],
            [s.q3 for s in spreads],
            color=BLUE,
            alpha=0.25,
            linewidth=0,
            label="middle half",
        )
    runs = f"{repeats}" if fewest == repeats else f"{fewest} to {repeats}"
    label = f"measured, median of {runs} runs" if repeats > 1 else "measured"
    axes.plot(sizes, [s.median for s in spreads], "o-", color=BLUE, linewidth=2.2, markersize=6, label=label, zorder=3)


def _draw_bound(axes: "Axes", bounds_s: Sequence[tuple[int, float | None]], **style: Any) -> None:
    known = [(leechers, bound_s) for leechers, bound_s in bounds_s if bound_s is not None]
    if known:
        axes.plot(*zip(*known, strict=True), linewidth=2, marker=".", markersize=5, **style)


def _scale(axes: "Axes", points: Sequence[CurvePoint]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator  # noqa: PLC0415  as above

    axes.set_xscale("log", base=2)
    sizes = [point.leechers for point in points]
    every = -(-len(sizes) // LABELLED_TICKS_MAX)
    axes.xaxis.set_major_locator(FixedLocator(sizes[::-1][::every]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:g}"))
    axes.set_xlabel("leechers N (log scale)", color=INK)
    axes.set_ylabel("time until the last leecher has the file (s)", color=INK)
    axes.set_ylim(0, 1.08 * axes.dataLim.ymax)  # an axis that starts elsewhere makes every difference look large


def _dress(axes: "Axes", title: str, subtitle: str) -> None:
    axes.set_title(title, loc="left", fontsize=14, fontweight="bold", color=INK, pad=24 if subtitle else 10)
    if subtitle:
        axes.annotate(subtitle, (0, 1), (0, 7), xycoords="axes fraction", textcoords="offset points", color=MUTED)
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.tick_params(colors=INK)
    axes.figure.legend(loc="outside lower center", ncols=3, frameon=False, labelcolor=INK)


def save(figure: "Figure", stem: Path) -> list[Path]:
    """Write a figure as PNG and SVG; return both paths. Raise StorageError if the disk refuses."""
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in ("png", "svg")]
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        for path in paths:
            figure.savefig(path)
    except OSError as error:
        raise StorageError(f"cannot write {error.filename or stem}: {error.strerror}") from error
    return paths
