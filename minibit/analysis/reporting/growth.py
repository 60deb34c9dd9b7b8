"""How completion grows with the number of leechers: one curve of all sizes, its exponent, and where the host saturates.

Only valid runs that completed are averaged and fitted; the others are drawn as crosses.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from minibit.analysis.plots import BLUE, INK, VERMILION
from minibit.analysis.reporting import numbers
from minibit.analysis.reporting.figures import Band, Chart, Dots, Line, Mark, Shade, drawn
from minibit.analysis.reporting.page import Fact, Figure, csv_text, number, seconds
from minibit.analysis.reporting.svg import ORANGE
from minibit.analysis.stats import median
from minibit.record import BUSY_MAX, Record

LOG_FROM = 12.0  # times the smallest median the largest: below it an axis from 0 shows all there is

Run = tuple[str, Record]


@dataclass(frozen=True, slots=True)
class Size:
    """The runs with one number of leechers."""

    leechers: int
    runs: Sequence[Run]

    @property
    def times_s(self) -> list[float]:
        """The makespans that count."""
        return [r.makespan_s for _, r in self.runs if r.valid and r.makespan_s is not None]

    @property
    def excluded_s(self) -> list[float]:
        """The makespans that do not."""
        return [r.makespan_s for _, r in self.runs if not r.valid and r.makespan_s is not None]

    @property
    def busy(self) -> float | None:
        """How busy the host was: the median over all runs, also those that do not count."""
        values = [r.cpu_busy_fraction for _, r in self.runs if r.cpu_busy_fraction is not None]
        return median(values) if values else None

    @property
    def saturated(self) -> bool:
        """Whether the host was the bound."""
        return self.busy is not None and self.busy > BUSY_MAX

    def middle(self, field: str) -> float | None:
        """Return the median of a figure over the valid runs."""
        values = [value for _, r in self.runs if r.valid and (value := getattr(r, field)) is not None]
        return median(values) if values else None

    @property
    def larger_bound_s(self) -> float | None:
        """The larger bound, the same for all runs."""
        return self.runs[0][1].larger_bound_s

    def median_run(self) -> Run:
        """Return the run in the middle of those that count, of all if none does."""
        counted = [run for run in self.runs if run[1].valid and run[1].makespan_s is not None] or list(self.runs)
        ordered = sorted(counted, key=lambda run: (run[1].makespan_s or math.inf, run[0]))
        return ordered[(len(ordered) - 1) // 2]


def sizes_of(runs: Sequence[Run]) -> list[Size]:
    """Return the runs by their number of leechers, rising."""
    by_count: dict[int, list[Run]] = {}
    for run in runs:
        by_count.setdefault(len(numbers.leechers_of(run[1])), []).append(run)
    return [Size(count, members) for count, members in sorted(by_count.items())]


def curve(sizes: Sequence[Size], ident: str) -> Figure | None:
    """Draw makespan against the number of leechers, with both bounds and where the host saturates."""
    counted = [size for size in sizes if size.times_s]
    if not counted and not any(size.excluded_s for size in sizes):
        return None
    marks = [*_saturation_marks(sizes), *_time_marks(counted), *_bound_marks(sizes)]
    marks.append(
        Dots([(s.leechers, t) for s in sizes for t in s.excluded_s], VERMILION, "not valid, not counted", "cross", 7.0)
    )
    medians = [median(size.times_s) for size in counted]
    y_log = bool(medians) and min(medians) > 0 and max(medians) / min(medians) > LOG_FROM
    counts = [size.leechers for size in sizes]
    chart = Chart(
        marks=[mark for mark in marks if getattr(mark, "points", True)],
        x_label="leechers N (log scale)",
        y_label=f"makespan (s{', log scale' if y_log else ''})",
        sizes=counts,
        x_limits=(counts[0] / 1.15, counts[-1] * 1.15),
        y_log=y_log,
        y_limits=(None, None) if y_log else (0, None),
    )
    caption = (
        "Time from the common start until the last leecher has the file, in seconds, against the number of leechers."
        " The line joins the medians of the valid runs, the band reaches from the fastest to the slowest, each run is"
        f" a dot. {_growth_words(sizes)}"
    )
    label = f"Makespan against the number of leechers, from {counts[0]} to {counts[-1]}"
    return Figure(
        "How completion grows", caption, drawn(chart, ident, label, full=True), _curve_data(sizes), "growth.csv"
    )


def _time_marks(counted: Sequence[Size]) -> list[Mark]:
    band = [(float(s.leechers), min(s.times_s), max(s.times_s)) for s in counted if len(s.times_s) > 1]
    marks: list[Mark] = [Band(band, BLUE, "fastest to slowest")] if len(band) > 1 else []
    marks.append(Line([(s.leechers, median(s.times_s)) for s in counted], BLUE, "median of the valid runs", width=2.4))
    marks.append(Dots([(s.leechers, t) for s in counted for t in s.times_s], BLUE, "valid run"))
    return marks


def _bound_marks(sizes: Sequence[Size]) -> list[Mark]:
    looks = (("bound_s", "fluid bound", VERMILION, "5 2"),
             ("store_and_forward_bound_s", "store-and-forward bound", INK, "1 1.5"))  # fmt: skip
    marks: list[Mark] = []
    for field, name, color, dash in looks:
        values = [(float(size.leechers), getattr(size.runs[0][1], field)) for size in sizes]
        marks.append(Line([(n, value) for n, value in values if value is not None], color, name, dash, 1.8))
    return marks


def _saturation_marks(sizes: Sequence[Size]) -> list[Mark]:
    """Shade the sizes with a busy host, up to the middle between neighbours on the log axis."""
    marks: list[Mark] = []
    counts = [size.leechers for size in sizes]
    edges = [counts[0] / 1.15, *(math.sqrt(a * b) for a, b in itertools.pairwise(counts)), counts[-1] * 1.15]
    for index, size in enumerate(sizes):
        if size.saturated:
            name = f"host more than {BUSY_MAX:.0%} busy"
            marks.append(Shade(edges[index], edges[index + 1], ORANGE, name, 0.2))
    return marks


def _fits(sizes: Sequence[Size]) -> list[tuple[str, numbers.Growth]]:
    """Return the growth over all sizes that count and, if some of them saturate, over those that do not."""
    every = numbers.growth({size.leechers: size.times_s for size in sizes})
    calm = numbers.growth({size.leechers: size.times_s for size in sizes if not size.saturated})
    fits = [(f"N = {_range(fit.sizes)}", fit) for fit in (every, calm) if fit is not None]
    return list(dict(reversed(fits)).items())[::-1]


def _range(sizes: Sequence[int]) -> str:
    return f"{sizes[0]} to {sizes[-1]}"


def _growth_words(sizes: Sequence[Size]) -> str:
    fits = _fits(sizes)
    if not fits:
        return "With fewer than two sizes that count there is no growth exponent."
    exponents = "; ".join(f"{fit.exponent:.3f}{_interval(fit)} over {what}" for what, fit in fits)
    return (
        f"Growth exponent: {exponents}. It is the b of makespan \u221d N^b: the slope of a least-squares line"
        " through log median makespan against log N (0: constant, 1: proportional to N)."
        f" The interval is a bootstrap over the runs of each N ({numbers.RESAMPLES:,} resamples)."
    )


def _interval(fit: numbers.Growth) -> str:
    return (
        f" (95 % interval {fit.low:.3f} to {fit.high:.3f})" if fit.low is not None else " (one run each: no interval)"
    )


def growth_facts(sizes: Sequence[Size]) -> list[Fact]:
    """Return the growth exponents, and how the largest size that counts did."""
    largest = next((size for size in reversed(sizes) if size.times_s), sizes[-1])
    time_s = largest.middle("makespan_s")
    bound_s = largest.larger_bound_s
    ratio = time_s / bound_s if bound_s and time_s is not None else None
    facts = [
        Fact(f"{fit.exponent:.3f}", "growth exponent", f"over {what}{_interval(fit)}") for what, fit in _fits(sizes)
    ]
    return [
        *facts,
        Fact(seconds(time_s), f"median makespan, N = {largest.leechers}", f"larger bound {seconds(bound_s)}"),
        Fact(number(ratio, ".3f"), f"÷ larger bound, N = {largest.leechers}", "1 is the best that is possible"),
        Fact(number(sizes[-1].busy, ".0%"), f"host busy, N = {sizes[-1].leechers}", "median over the runs"),
    ]


def _curve_data(sizes: Sequence[Size]) -> str:
    header = ("record", "leechers", "valid", "makespan_s", "fluid_bound_s", "store_and_forward_bound_s", "host_busy")
    rows = [
        (name, size.leechers, record.valid, record.makespan_s, record.bound_s, record.store_and_forward_bound_s,
         record.cpu_busy_fraction)
        for size in sizes
        for name, record in size.runs
    ]  # fmt: skip
    return csv_text(header, rows)
