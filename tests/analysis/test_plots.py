"""The completion curve shows what was measured beside what is possible, and fails in one line."""

import sys
import xml.etree.ElementTree as ET

import pytest

from minibit.analysis import plots
from minibit.analysis.plots import CurvePoint, completion_curve
from minibit.errors import StorageError, UsageError

pytest.importorskip("matplotlib")

SWEEP = [
    CurvePoint(size, [9.0 + size / 8, 9.2 + size / 8, 9.1, 9.6, 9.3], 8.39, 8.39 + size / 40) for size in (16, 2, 4, 8)
]


def texts_of(figure_axes):
    """Return every text that a reader of the picture sees in the legend."""
    return [text.get_text() for text in figure_axes.figure.legends[0].get_texts()]


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Draw points, and return the axes as they were saved."""
    kept = []
    monkeypatch.setattr(plots, "save", lambda figure, stem: kept.append(figure) or [])

    def draw(points, **more):
        completion_curve(points, tmp_path / "curve", **more)
        return kept[-1].axes[0]

    return draw


def test_a_sweep_becomes_a_png_and_an_svg(tmp_path):
    """One for a README, one for print; both are what they say they are."""
    png, svg = completion_curve(SWEEP, tmp_path / "deep" / "run.v1", title="T", subtitle="S")
    assert (png.name, svg.name) == ("run.v1.png", "run.v1.svg")
    assert png.read_bytes().startswith(b"\x89PNG")
    assert ET.parse(svg).getroot().tag.endswith("svg")  # noqa: S314  a file that this test wrote


def test_the_bounds_lie_in_the_same_picture(drawn):
    """A completion time means something only beside what is possible."""
    assert texts_of(drawn(SWEEP)) == [
        "fastest to slowest run",
        "middle half",
        "measured, median of 5 runs",
        "fluid bound",
        "store-and-forward bound",
    ]


def test_an_uncapped_sweep_has_no_bounds_to_show(drawn):
    """A legend must not promise a line that is not there."""
    assert texts_of(drawn([CurvePoint(2, [1.0]), CurvePoint(4, [1.5])])) == ["measured"]


def test_three_repeats_are_shown_by_their_range_only(drawn):
    """Quartiles of three runs would pretend to more than was measured."""
    assert texts_of(drawn([CurvePoint(2, [1.0, 2.0, 3.0])])) == ["fastest to slowest run", "measured, median of 3 runs"]


def test_sizes_with_fewer_completed_runs_are_not_hidden(drawn):
    """A median of two beside medians of three is worth less, and the legend says so."""
    assert "measured, median of 2 to 3 runs" in texts_of(drawn([CurvePoint(2, [1.0] * 3), CurvePoint(4, [1.0] * 2)]))


def test_the_median_is_drawn_at_each_size_in_order(drawn):
    """Runs happen in random order; the line must not."""
    axes = drawn([CurvePoint(8, [3.0, 1.0, 2.0]), CurvePoint(2, [5.0, 4.0, 9.0])])
    line = next(line for line in axes.lines if line.get_label().startswith("measured"))
    assert list(line.get_xdata()) == [2, 8]
    assert list(line.get_ydata()) == [5.0, 2.0]


def test_axes_carry_units_plain_numbers_and_zero(drawn):
    """Log ticks such as 2^3 and an axis cut off above zero both mislead the quick reader."""
    axes = drawn(SWEEP)
    assert "(s)" in axes.get_ylabel()
    assert axes.get_xscale() == "log"
    assert axes.get_ylim()[0] == 0
    axes.figure.canvas.draw()
    assert sorted(label.get_text() for label in axes.get_xticklabels()) == ["16", "2", "4", "8"]


def test_many_sizes_do_not_crowd_the_axis(drawn):
    """A sweep over thirty sizes labels some of them, the largest among these."""
    axes = drawn([CurvePoint(size, [1.0]) for size in range(1, 31)])
    ticks = axes.get_xticks()
    assert len(ticks) <= plots.LABELLED_TICKS_MAX
    assert max(ticks) == 30


def test_drawing_leaves_no_global_figure_behind(tmp_path):
    """A pyplot figure lives until somebody closes it: a long sweep would keep them all, and a server has no display."""
    completion_curve(SWEEP[:1], tmp_path / "curve")
    pyplot = sys.modules.get("matplotlib.pyplot")  # other tests may have imported it
    assert pyplot is None or not pyplot.get_fignums()


@pytest.mark.parametrize("points", [[], [CurvePoint(2, [])]])
def test_nothing_completed_is_nothing_to_draw(points, tmp_path):
    """An empty picture would be taken for a result."""
    with pytest.raises(UsageError, match="nothing to draw"):
        completion_curve(points, tmp_path / "curve")


def test_without_matplotlib_the_message_says_how_to_get_it(monkeypatch, tmp_path):
    """The plot is an extra; its absence is one line, not a traceback at the end of a long sweep."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UsageError, match=r"pip install 'minibit\[report\]'"):
        completion_curve(SWEEP, tmp_path / "curve")


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    """The records of the sweep are written already; the message names the path that failed."""
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"cannot write .*file"):
        completion_curve(SWEEP, tmp_path / "file" / "curve")
