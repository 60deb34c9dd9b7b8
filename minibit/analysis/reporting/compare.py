"""A comparison as a section of a report: the verdict first, then how each metric came to it, pair by pair.

Ratios are turned so that more than 1 is worse, whatever the metric. Fresh pairs that were run to confirm an alarm are
drawn apart from the first ones and are never pooled with them.
"""

import math
import statistics
from collections.abc import Mapping, Sequence

from minibit.analysis.plots import BLUE, GREEN, INK, MUTED, VERMILION
from minibit.analysis.reporting.figures import (
    Band,
    Chart,
    Dots,
    Line,
    Mark,
    Rule,
    drawn,
    drawn_panels,
)
from minibit.analysis.reporting.page import (
    NOTHING,
    Cell,
    Column,
    Fact,
    Figure,
    Fold,
    Names,
    Notice,
    Section,
    Table,
    cell,
    csv_text,
    plural,
)
from minibit.analysis.reporting.svg import PURPLE
from minibit.regression.comparison import Compared, Comparison, SideRecord
from minibit.regression.evidence import Evidence, Verdict, ratio_of
from minibit.units import format_duration, format_size

MARKS = {Verdict.REGRESSED: "bad", Verdict.NOT_REGRESSED: "good", Verdict.INCONCLUSIVE: "open"}
LOOKS = {
    Verdict.REGRESSED: (VERMILION, "square"),
    Verdict.NOT_REGRESSED: (GREEN, "dot"),
    Verdict.INCONCLUSIVE: (INK, "hollow"),
}
SHOWN_MAX = 2.0  # times; what is further from 1 is drawn at the edge
ROW_PX = 42
PANEL_PX = 210
TITLE_MAX = 42  # characters above a panel


def comparison_section(name: str, comparison: Comparison, names: Names) -> Section:
    """Return the verdict, its evidence and its conditions."""
    figures = []
    if comparison.metrics:
        figures = [_forest(comparison, names.new("f")), _pairs(comparison, names.new("f"))]
    return Section(
        ident=names.new("s"),
        title=f"Comparison: {comparison.base.given} against {comparison.head.given}",
        lead=f"Base and head were run in turn, in pairs; a ratio above 1 means that head is worse. From {name}.",
        notices=[_banner(comparison), *_alarms(comparison), *_remarks(comparison)],
        facts=_conditions(comparison),
        figures=figures,
        tables=[_sides(comparison), _metrics(comparison)],
        folds=[*_workloads(comparison), *_packages(comparison)],
    )


def _banner(comparison: Comparison) -> Notice:
    verdict = comparison.verdict
    if verdict == Verdict.REGRESSED:
        lines = [
            f"{_name(m, comparison)}: {_change(m.decisive.ratio)}, gate {m.decisive.gate:+.0%}"
            for m in comparison.regressed
        ]
    elif verdict == Verdict.NOT_REGRESSED:
        lines = ["Every metric is within its gate, or better."]
    else:
        undecided = [_name(m, comparison) for m in comparison.metrics if m.verdict == Verdict.INCONCLUSIVE]
        lines = [f"Undecided after all pairs: {', '.join(undecided)}"] if undecided else []
    return Notice(MARKS[verdict], f"Verdict: {verdict}", lines, large=True)


def _alarms(comparison: Comparison) -> list[Notice]:
    """Return the alarms that fresh pairs did not repeat: they are no verdict, but they were raised."""
    gone = [
        f"{_name(m, comparison)}: {_change(m.evidence.ratio)} at first, {_change(m.confirmation.ratio)} in fresh pairs"
        for m in comparison.metrics
        if m.confirmation and m.evidence.verdict == Verdict.REGRESSED and m.verdict != Verdict.REGRESSED
    ]
    return [Notice("open", "Alarms that fresh pairs did not confirm", gone)] if gone else []


def _remarks(comparison: Comparison) -> list[Notice]:
    return [Notice("open", "What must be known beside it", comparison.remarks)] if comparison.remarks else []


def _conditions(comparison: Comparison) -> list[Fact]:
    pairs = sum(workload.pairs for workload in comparison.workloads)
    return [
        Fact(str(len(comparison.metrics)), "metrics", plural(len(comparison.workloads), "workload")),
        Fact(str(pairs), "pairs of runs", "base and head one right after the other"),
        Fact(format_duration(comparison.elapsed_s), "taken", f"of {format_duration(comparison.budget_s)} allowed"),
        Fact(str(comparison.rng_seed), "random seed", "the same for both runs of a pair, another for each pair"),
    ]


def _sides(comparison: Comparison) -> Table:
    columns = [Column(title, number=False) for title in ("side", "given as", "commit", "subject", "Python")]
    return Table("What was compared", columns, [
        _side("base", comparison.base),
        _side("head", comparison.head),
    ])  # fmt: skip


def _side(name: str, side: SideRecord) -> list[Cell]:
    commit = f"{side.commit.id[:9]}{' with changes' if side.commit.dirty else ''}" if side.commit else "not in git"
    return [Cell(text) for text in (name, side.given, commit, side.subject, side.python)]


def _metrics(comparison: Comparison) -> Table:
    words, figures = ("metric", "verdict"), ("ratio", "interval", "p", "pairs", "gate", "base", "head")
    columns = [*(Column(word, number=False) for word in words), *map(Column, figures)]
    return Table("Metrics: medians, and what the pairs say", columns,
                 [_metric_row(metric, comparison) for metric in comparison.metrics])  # fmt: skip


def _metric_row(metric: Compared, comparison: Comparison) -> list[Cell]:
    evidence = metric.decisive
    base, head = (metric.fresh_base, metric.fresh_head) if metric.confirmation else (metric.base, metric.head)
    confirmed = " (fresh pairs)" if metric.confirmation else ""
    return [
        Cell(_name(metric, comparison)),
        cell(f"{metric.verdict}{confirmed}", mark=MARKS[metric.verdict]),
        cell(_ratio(evidence.ratio), evidence.ratio),
        cell(f"{_ratio(evidence.low)} … {_ratio(evidence.high)}", evidence.low),
        cell(f"{evidence.p_worse:.4f}", evidence.p_worse),
        cell(str(evidence.pairs), evidence.pairs),
        cell(f"{1 + evidence.gate:.2f}", evidence.gate),
        _value(base, metric.unit),
        _value(head, metric.unit),
    ]


def _value(values: Sequence[float], unit: str) -> Cell:
    if not values:
        return cell(NOTHING)
    middle = statistics.median(values)
    if unit == "s":
        return cell(format_duration(middle), middle)
    if unit == "B":
        return cell(format_size(middle), middle)
    shown = f"{middle:,.0f}" if middle >= 1000 else f"{middle:.3g}"
    return cell(f"{shown} {unit}".strip(), middle)


def _workloads(comparison: Comparison) -> list[Fold]:
    columns = [Column("workload", number=False), Column("kind", number=False), Column("pairs"), Column("taken")]
    rows = [
        [Cell(w.name), Cell(w.kind), cell(str(w.pairs), w.pairs), cell(format_duration(w.seconds), w.seconds)]
        for w in comparison.workloads
    ]
    return [Fold("Workloads", [Table("What each pair did", columns, rows)])] if rows else []


def _packages(comparison: Comparison) -> list[Fold]:
    """Return what both sides were run with; a version that differs is marked."""
    base, head = comparison.base.packages, comparison.head.packages
    columns = [Column(title, number=False) for title in ("package", "base", "head")]
    rows = [
        [Cell(name), Cell(base.get(name, NOTHING)), Cell(head.get(name, NOTHING), mark=_differs(name, base, head))]
        for name in sorted(base.keys() | head.keys())
    ]
    differing = sum(base.get(name) != head.get(name) for name in base.keys() | head.keys())
    title = f"Packages ({f'{differing} differ' if differing else 'the same on both sides'})"
    return [Fold(title, [Table("Versions of packages", columns, rows)])] if rows else []


def _differs(name: str, base: Mapping[str, str], head: Mapping[str, str]) -> str:
    return "" if base.get(name) == head.get(name) else "open"


def _name(metric: Compared, comparison: Comparison) -> str:
    return f"{metric.workload}: {metric.title}" if len(comparison.workloads) > 1 else metric.title


def _ratio(ratio: float) -> str:
    return f"{ratio:.3f}" if ratio < 100 else f"{ratio:.3g}"


def _change(ratio: float) -> str:
    return f"{100 * (ratio - 1):+.1f}\u00a0%".replace("-", "\u2212") if ratio < 100 else f"{ratio:.3g} times"


# -- pictures ----------------------------------------------------------------------------------------------------------


def _forest(comparison: Comparison, ident: str) -> Figure:
    marks: list[Mark] = [Rule(1.0, INK, "no change")]
    metrics = comparison.metrics
    gates = [1 + m.decisive.gate for m in metrics]
    reach = _reach([*(end for m in metrics for end in (m.decisive.low, m.decisive.high)), min(gates)])
    for row, metric in enumerate(reversed(metrics)):
        evidence, (color, shape) = metric.decisive, LOOKS[metric.verdict]
        ends = [(_within(value, reach), float(row)) for value in (evidence.low, evidence.high)]
        marks.append(Line(ends, color, width=3.0))
        marks.append(Dots([(_within(evidence.ratio, reach), row)], color, str(metric.verdict), shape, 8.0))
        if 1 + evidence.gate <= reach:
            marks.append(Dots([(1 + evidence.gate, row)], VERMILION, "gate", "tick", 12.0))
    chart = Chart(
        marks=marks,
        x_label="ratio head ÷ base, turned so that more is worse",
        y_label="",
        x_limits=(1 / reach, reach),
        y_limits=(-0.6, len(metrics) - 0.15),
        x_form=".2f",
        rows=[_name(metric, comparison) for metric in reversed(metrics)],
    )
    caption = (
        "Each metric's median ratio over the pairs that decided, with its interval: two one-sided bounds at the level"
        " of the test. Right of 1 is worse; a metric passes if its interval ends left of its gate."
        f"{_clipped(reach)}{' Gates beyond the edge are in the table.' if max(gates) > reach else ''}"
    )
    picture = drawn(chart, ident, _forest_label(comparison), full=True, height=80 + ROW_PX * len(metrics))
    return Figure("Every metric at a glance", caption, picture, _forest_data(comparison), "metrics.csv")


def _forest_label(comparison: Comparison) -> str:
    return "Median ratios: " + ", ".join(
        f"{_name(m, comparison)} {_ratio(m.decisive.ratio)} {m.verdict}" for m in comparison.metrics
    )


def _forest_data(comparison: Comparison) -> str:
    header = ("workload", "metric", "stage", "pairs", "ratio", "low", "high", "p_worse", "level", "gate", "verdict")
    stages = [
        (m, stage, evidence)
        for m in comparison.metrics
        for stage, evidence in (("first", m.evidence), ("fresh", m.confirmation))
        if evidence is not None
    ]
    return csv_text(header, [
        (m.workload, m.key, stage, e.pairs, e.ratio, e.low, e.high, e.p_worse, e.level, e.gate, str(e.verdict))
        for m, stage, e in stages
    ])  # fmt: skip


def _pairs(comparison: Comparison, ident: str) -> Figure:
    charts = [_panel(metric, comparison) for metric in comparison.metrics]
    columns = min(3, len(charts))
    caption = (
        "The ratio of every pair in run order, a panel a metric: above 1 head was worse. The band"
        " is the interval of the median, the line inside it the median. Hollow dots were run after the decision; fresh"
        " pairs, which confirm an alarm or do not, stand right of the upright line."
        " Triangles lie beyond the edge."
    )
    rows = [
        (metric.workload, metric.key, stage, index, base, head, _ratio_of(metric, base, head))
        for metric in comparison.metrics
        for stage, bases, heads in (
            ("first", metric.base, metric.head),
            ("fresh", metric.fresh_base, metric.fresh_head),
        )
        for index, (base, head) in enumerate(zip(bases, heads, strict=False))
    ]
    data = csv_text(("workload", "metric", "stage", "pair", "base", "head", "ratio"), rows)
    label = f"Ratios of all pairs of {plural(len(charts), 'metric')}, in run order"
    picture = drawn_panels(charts, ident, label, columns=columns, height=PANEL_PX)
    return Figure("Pair by pair", caption, picture, data, "pairs.csv")


def _panel(metric: Compared, comparison: Comparison) -> Chart:
    first = [_ratio_of(metric, b, h) for b, h in zip(metric.base, metric.head, strict=False)]
    fresh = []  # of a metric without an alarm nothing was asked of them
    if metric.confirmation:
        fresh = [_ratio_of(metric, b, h) for b, h in zip(metric.fresh_base, metric.fresh_head, strict=False)]
    gate = metric.evidence.gate
    reach = _reach([*first, *fresh, 1 + 1.6 * gate])
    marks: list[Mark] = [
        *_stage(first, metric.evidence, 1, reach, (BLUE, "dot", "pair")),
        Rule(1.0, INK, "no change", axis="y"),
        Rule(1 + gate, VERMILION, "gate", "5 2", axis="y"),
    ]
    if fresh:
        marks.append(Rule(len(first) + 1.0, MUTED, axis="x"))
    if fresh and metric.confirmation:
        marks += _stage(fresh, metric.confirmation, len(first) + 2, reach, (PURPLE, "diamond", "fresh pair"))
    return Chart(
        marks=marks,
        title=_cut(_name(metric, comparison)),
        x_label="pair, in run order",
        y_label=f"{'base ÷ head' if metric.larger_is_better else 'head ÷ base'}: {metric.verdict}",
        x_limits=(0.3, len(first) + (len(fresh) + 1 if fresh else 0) + 0.7),
        y_limits=(1 / reach, reach),
        y_form=".2f",
        whole_x=True,
    )


def _stage(
    ratios: Sequence[float], evidence: Evidence, begin: int, reach: float, look: tuple[str, str, str]
) -> list[Mark]:
    color, shape, name = look
    last = begin + evidence.pairs - 1
    low, high, middle = (_within(value, reach) for value in (evidence.low, evidence.high, evidence.ratio))
    marks: list[Mark] = [
        _box(begin, last, low, high, color),
        Line([(begin - 0.4, middle), (last + 0.4, middle)], color, width=1.8),
    ]
    points = [(begin + index, ratio) for index, ratio in enumerate(ratios)]
    inside = [(x, y) for x, y in points if 1 / reach <= y <= reach]
    decided, later = [p for p in inside if p[0] <= last], [p for p in inside if p[0] > last]
    beyond = [(x, _within(y, reach)) for x, y in points if (x, y) not in inside]
    for chosen, kind, called in ((decided, shape, name), (later, "hollow", f"{name} after the decision"),
                                 (beyond, "above", "beyond the edge")):  # fmt: skip
        if chosen:
            marks.append(Dots(chosen, color, called, kind))
    return marks


def _box(begin: int, last: int, low: float, high: float, color: str) -> Mark:
    return Band([(begin - 0.4, low, high), (last + 0.4, low, high)], color, "interval of the median")


def _ratio_of(metric: Compared, base: float, head: float) -> float:
    return ratio_of(base, head, larger_is_better=metric.larger_is_better)


def _cut(name: str) -> str:
    return name if len(name) <= TITLE_MAX else f"{name[: TITLE_MAX - 1]}…"


def _reach(ratios: Sequence[float]) -> float:
    """Return how far from 1 an axis must go, as a factor."""
    farthest = max((abs(math.log(ratio)) for ratio in ratios), default=0.0)
    return min(SHOWN_MAX, math.exp(1.15 * farthest))


def _within(ratio: float, reach: float) -> float:
    return min(reach, max(1 / reach, ratio))


def _clipped(reach: float) -> str:
    return f" What is more than {reach:g} times from 1 is drawn at the edge." if reach >= SHOWN_MAX else ""
