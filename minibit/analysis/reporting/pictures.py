"""One swarm in five pictures: who had the file when, blocks over time, availability, who gave to whom, uplinks.

Each is None if the record has nothing to draw it from; why, the section says.
"""

from collections.abc import Callable, Mapping, Sequence

from minibit.analysis.plots import BLUE, GREEN, INK, MUTED, VERMILION
from minibit.analysis.reporting import numbers
from minibit.analysis.reporting.figures import (
    GROUP_COLOURS,
    GROUP_DASHES,
    Band,
    Chart,
    Dots,
    Line,
    Mark,
    Rule,
    drawn,
    drawn_matrix,
)
from minibit.analysis.reporting.page import Figure, Key, Picture, csv_text, plural, seconds, size
from minibit.analysis.reporting.svg import css_color
from minibit.record import PeerRecord, Record
from minibit.units import format_size

LINES_MAX = 64  # peers with a line of their own
FEW_LINES = 12  # up to so many are told apart without bands
POINTS_A_LINE = 60
DOTS_LARGE_MAX = 40
DOTS_MAX = 200  # uplinks as dots; more are a line
GROUPS_MAX = len(GROUP_COLOURS)
GROUP_SHAPES = ("dot", "diamond", "above", "square")
GIVEN_MIN = 3  # peers: between two there is nothing to compare


def _groups(peers: Sequence[PeerRecord]) -> dict[str, list[PeerRecord]]:
    """Return leechers by group, all as one if there are more groups than looks."""
    groups: dict[str, list[PeerRecord]] = {}
    for peer in peers:
        groups.setdefault(peer.group, []).append(peer)
    return groups if len(groups) <= GROUPS_MAX else {"leechers": list(peers)}


def completion(record: Record, ident: str) -> Figure | None:
    """Draw the share of leechers that had the file by a time, with both bounds."""
    groups = _groups(numbers.leechers_of(record))
    curves = {name: numbers.completion_steps(peers) for name, peers in groups.items()}
    if all(len(curve) < 2 for curve in curves.values()):
        return None
    end_s = max(curve[-1][0] for curve in curves.values())
    marks: list[Mark] = [
        Line([*curve, (end_s, curve[-1][1])], color, name, dash, steps=True)
        for (name, curve), color, dash in zip(curves.items(), GROUP_COLOURS, GROUP_DASHES, strict=False)
    ]
    bounds = ((record.bound_s, "fluid bound", VERMILION, "5 2"), (record.store_and_forward_bound_s,
              "store-and-forward bound", INK, "1 1.5"))  # fmt: skip
    marks += [Rule(at_s, color, name, dash) for at_s, name, color, dash in bounds if at_s is not None]
    chart = Chart(
        marks=marks, x_label="time (s)", y_label="leechers with the whole file", y_form=".0%", y_limits=(0, 1.03)
    )
    which = "the bounds as upright lines: no client can finish the last leecher before the later one"
    caption = (
        f"Share of the leechers that had the file by a time after their own start, in seconds; {which}."
        if len(marks) > len(curves)
        else "Share of the leechers that had the file by a time after their own start, in seconds. No bound applies: no"
        " finite limit binds, or leechers start at different times."
    )
    rows = [
        (peer.peer_id, peer.group, peer.completion_time_s) for members in groups.values() for peer in members
    ]  # fmt: skip
    data = csv_text(("peer", "group", "completion_time_s"), rows)
    label = f"Completion of {len(rows)} leechers over time; the last after {seconds(end_s)}"
    return Figure("Who had the file when", caption, drawn(chart, ident, label), data, "completion.csv")


def blocks(record: Record, ident: str) -> Figure | None:
    """Draw how many blocks each leecher owned over time."""
    peers = [peer for peer in numbers.leechers_of(record) if peer.timeline]
    if not peers:
        return None
    curves = sorted((numbers.blocks_over_time(peer) for peer in peers), key=lambda curve: curve[-1][0])
    total = numbers.blocks_of(record)
    chart = Chart(
        marks=_block_marks(curves),
        x_label="time from the common start (s)",
        y_label="blocks owned",
        whole_y=True,
        y_limits=(0, 1.03 * total or 1),
    )
    caption = (
        f"Blocks each leecher owned, of {total}, against the time from the common start in seconds."
        " Steep is fast; a flat stretch is waiting."
    )
    if without := len(numbers.leechers_of(record)) - len(peers):
        caption += f" Not drawn: {plural(without, 'leecher')} without a block."
    data = csv_text(
        ("peer", "time_s", "blocks"),
        [(peer.peer_id, peer.start_delay_s + at_s, owned) for peer in peers for at_s, owned in peer.timeline],
    )
    label = f"Blocks over time of {len(curves)} leechers, from 0 to {total}"
    return Figure("Blocks over time", caption, drawn(chart, ident, label), data, "blocks.csv")


def _block_marks(curves: Sequence[Sequence[numbers.Point]]) -> list[Mark]:
    """Return a line for each of few leechers; of many the quantiles, and thin lines of some."""
    if len(curves) <= FEW_LINES:
        return [_thin(curve, BLUE, "one leecher", 1.6, 0.85) for curve in curves]
    rows = numbers.quantiles_over_time(curves, (0.05, 0.25, 0.5, 0.75, 0.95))
    shown = numbers.thinned(curves, LINES_MAX)
    name = "one leecher" if len(shown) == len(curves) else f"{LINES_MAX} of {len(curves):,} leechers"
    return [
        Band([(t, low, high) for t, low, _, _, _, high in rows], BLUE, "90 % of the leechers", 0.16),
        Band([(t, low, high) for t, _, low, _, high, _ in rows], BLUE, "middle half", 0.28),
        *(_thin(curve, MUTED, name, 0.7, 0.45) for curve in shown),
        Line([(row[0], row[3]) for row in rows], BLUE, "median", steps=True),
    ]


def _thin(curve: Sequence[numbers.Point], color: str, name: str, width: float, opacity: float) -> Line:
    return Line(numbers.thinned(curve, POINTS_A_LINE), color, name, "", width, opacity, steps=True)


def availability(record: Record, ident: str) -> Figure | None:
    """Draw how many copies of the rarest block there were over time."""
    stairs = numbers.availability(record)
    if stairs is None or len(stairs) < 2:
        return None
    marks = [
        Line([(t, mean) for t, _, mean in numbers.thinned(stairs, 4 * POINTS_A_LINE)], MUTED, "average block", "5 2"),
        Line(_corners(stairs), GREEN, "rarest block", steps=True),
    ]
    chart = Chart(
        marks=marks,
        x_label="time from the common start (s)",
        y_label="copies in the swarm, seeds included",
        whole_y=True,
    )
    caption = (
        "Copies of the rarest block among all peers, seeds included, against the time from the common start in seconds;"
        " dashed, the average over all blocks. The gap is what rarest-first tries to close."
    )
    data = csv_text(("time_s", "copies_of_rarest_block", "copies_on_average"), stairs)
    label = f"Copies of the rarest block over time, from {stairs[0][1]} to {stairs[-1][1]}"
    return Figure("Availability of the rarest block", caption, drawn(chart, ident, label), data, "availability.csv")


def _corners(stairs: Sequence[tuple[float, int, float]]) -> list[tuple[float, float]]:
    """Return the points at which the rarest block's copies change, and the last one."""
    corners = [(stairs[0][0], float(stairs[0][1]))]
    for time_s, rarest, _ in stairs[1:]:
        if rarest != corners[-1][1]:
            corners.append((time_s, float(rarest)))
    return [*corners, (stairs[-1][0], corners[-1][1])]


def given(record: Record, ident: str) -> Figure | None:
    """Draw how much each peer gave to each other one."""
    matrix = numbers.given(record)
    if not matrix.largest or len(matrix.rows) < GIVEN_MIN:
        return None
    grouped = matrix.peers_a_row > 1
    label = f"Who gave to whom: {len(matrix.rows)} rows and columns, at most {format_size(matrix.largest)} a pair"
    each = f", {matrix.peers_a_row} peers a cell" if grouped else ""
    picture = drawn_matrix(
        matrix.levels(), ident, label, x_label=f"taker{each}", y_label=f"giver{each}, seeds at the top"
    )
    keys = [Key(f"stronger is more; full strength from {size(matrix.full)}", "scale", css_color(BLUE))]
    caption = (
        "Payload that each row's peer sent to each column's peer, numbered in the record's order, seeds first."
        f" The largest cell is {size(matrix.largest)}."
    )
    if grouped:
        caption = (
            f"Payload sent from rows to columns, seeds first. {plural(len(record.peers), 'peer')} are too many for a"
            f" row each: a cell is the average over the pairs of {matrix.peers_a_row} neighbours."
            f" The largest is {size(matrix.largest)}."
        )
    rows = [
        (giver, taker, value)
        for giver, row in zip(matrix.names, matrix.rows, strict=True)
        for taker, value in zip(matrix.names, row, strict=True)
        if value
    ]
    data = csv_text(("giver", "taker", "bytes_a_pair"), [(a, b, round(value)) for a, b, value in rows])
    return Figure("Who gave to whom", caption, Picture(picture.wide, picture.narrow, keys), data, "given.csv")


def uplinks(record: Record, ident: str) -> Figure | None:
    """Draw how much of its uplink each peer used; without caps, how much it gave."""
    capped = [peer for peer in record.peers if peer.uplink_use is not None]
    unit, unit_bytes = _unit(max((peer.sent_bytes for peer in record.peers), default=0))
    value: Callable[[PeerRecord], float] = (
        (lambda peer: peer.uplink_use or 0.0) if capped else (lambda peer: peer.sent_bytes / unit_bytes)
    )
    ordered = sorted(capped or record.peers, key=value, reverse=True)
    if not any(map(value, ordered)):
        return None
    ranked = [(rank, peer, value(peer)) for rank, peer in enumerate(ordered, 1)]
    what = "uplink used" if capped else f"payload given ({unit})"
    chart = Chart(
        marks=_uplink_marks(ranked, _groups(numbers.leechers_of(record))),
        x_label="peers, the busiest first",
        y_label=what,
        y_form=".0%" if capped else ",.6g",
        x_limits=(0.5 if len(ranked) < 10 else 0, len(ranked) + 0.5),
        y_limits=(0, max(1.06, 1.02 * value(ordered[0]))) if capped else (0, None),
        whole_x=True,
    )
    caption = (
        "Bytes each peer sent over what its upload cap allowed until the makespan, in percent, the busiest first."
        if capped
        else f"Payload each peer sent, in {unit}, the busiest first; uplinks were unlimited, so there is no share."
    )
    if unlimited := len(record.peers) - len(ordered):
        caption += f" Not drawn: {plural(unlimited, 'peer')} with an unlimited uplink."
    data = csv_text(
        ("peer", "group", "role", "uplink_use", "sent_bytes"),
        [(peer.peer_id, peer.group, peer.role, peer.uplink_use, peer.sent_bytes) for peer in ordered],
    )
    label = f"{what} of {len(ranked)} peers, sorted"
    return Figure(
        "Uplink use" if capped else "Who gave how much", caption, drawn(chart, ident, label), data, "uplink.csv"
    )


def _uplink_marks(
    ranked: Sequence[tuple[int, PeerRecord, float]], groups: Mapping[str, Sequence[PeerRecord]]
) -> list[Mark]:
    """Return a dot for each peer, by group, or a line of too many; seeds are squares.

    A group looks as in the other pictures, also if others have no dot here.
    """
    seeds = [(rank, value) for rank, peer, value in ranked if peer.role == "seed"]
    marks: list[Mark] = []
    if len(ranked) > DOTS_MAX:
        marks.append(Line([(rank, value) for rank, _, value in ranked], BLUE, "peer", steps=True))
    else:
        of_group = {peer.peer_id: group for group, peers in groups.items() for peer in peers}
        large = 5.0 if len(ranked) <= DOTS_LARGE_MAX else 3.8
        for group, color, shape in zip(groups, GROUP_COLOURS, GROUP_SHAPES, strict=False):
            points = [(rank, value) for rank, peer, value in ranked if of_group.get(peer.peer_id) == group]
            marks += [Dots(points, color, group, shape, large)] if points else []
    return [*marks, *([Dots(seeds, VERMILION, "seed", "square", 7.0)] if seeds else [])]


def _unit(largest: int) -> tuple[str, int]:
    """Return the binary unit in which a number of bytes is neither long nor below 1."""
    units = [("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)]
    return next((unit for unit in units if largest >= unit[1]), ("B", 1))
