"""One swarm as a section of a report: its key figures, five pictures, its scenario in full."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from minibit.analysis import report_numbers as numbers
from minibit.analysis.figures import (
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
from minibit.analysis.plots import BLUE, GREEN, INK, MUTED, VERMILION
from minibit.analysis.report_page import (
    NOTHING,
    Cell,
    Column,
    Fact,
    Figure,
    Fold,
    Key,
    Names,
    Notice,
    Picture,
    Section,
    Table,
    cell,
    csv_text,
    number,
    number_cell,
    plural,
    seconds,
    seconds_cell,
    size,
    size_cell,
)
from minibit.analysis.report_svg import css_color
from minibit.record import BUSY_MAX, PeerRecord, Record
from minibit.regression.metrics import swarm_figures
from minibit.units import format_rate, format_size

LINES_MAX = 64  # peers with a line of their own
FEW_LINES = 12  # up to so many are told apart without bands
POINTS_A_LINE = 60
DOTS_LARGE_MAX = 40
DOTS_MAX = 200  # uplinks as dots; more are a line
GROUPS_MAX = len(GROUP_COLOURS)
STUCK_SHOWN = 8
PEERS_SHOWN = 128
GROUP_SHAPES = ("dot", "diamond", "above", "square")


def swarm_section(name: str, record: Record, names: Names, *, closed: bool = False, why: str = "") -> Section:
    """Return everything that a record shows; ``why`` says what it stands for among others."""
    builders: tuple[Callable[[Record, str], Figure | None], ...] = (
        _completion,
        _blocks,
        _availability,
        _given,
        _uplinks,
    )
    figures = [figure for build in builders if (figure := build(record, names.new("f"))) is not None]
    return Section(
        ident=names.new("s"),
        title=name,
        lead=f"{title_of(record)}{f'. {why}' if why else ''}",
        closed=closed,
        notices=notices_of(record),
        facts=_facts(record),
        figures=figures,
        remarks=_missing(record),
        folds=[_scenario(record), *_peers(record)],
    )


def title_of(record: Record) -> str:
    """Return what was shared among how many, in words."""
    scenario = numbers.told(record.scenario)
    leechers = len(numbers.leechers_of(record))
    seeds = len(record.peers) - leechers
    block = format_size(scenario.block_size_bytes)
    return (
        f"{plural(leechers, 'leecher')} and {plural(seeds, 'seed')}, {format_size(scenario.file.size_bytes)} in"
        f" {plural(numbers.blocks_of(record), 'block')} of {block}, seed of the random choices {record.rng_seed}"
    )


def notices_of(record: Record) -> list[Notice]:
    """Return why a run does not count, and who was stuck on what."""
    notices = [] if record.valid else [Notice("bad", "Not valid: these figures do not count", record.invalid_reasons)]
    stuck = [peer for peer in record.peers if not peer.removed and not (peer.completed and peer.reported)]
    lines = [f"{peer.peer_id}: {peer.failure or peer.waiting_for or 'did not report'}" for peer in stuck[:STUCK_SHOWN]]
    if len(stuck) > STUCK_SHOWN:
        lines.append(f"… and {len(stuck) - STUCK_SHOWN} more")
    return [*notices, *([Notice("bad", "Peers that did not complete", lines)] if lines else [])]


def _facts(record: Record) -> list[Fact]:
    times, ratio = record.completion_time_s, numbers.ratio_to_bound(record)
    messages = swarm_figures(record)["messages"]
    busy, goodput = record.cpu_busy_fraction, record.goodput_bytes_per_s
    spread = " / ".join(map(seconds, (times.p50, times.p95, times.max))) if times else NOTHING
    bound = seconds(numbers.larger_bound_s(record))
    term = f", set by the {record.bound_binding_term}" if record.bound_binding_term else ""
    return [
        Fact(seconds(record.makespan_s), "makespan", f"first block after {seconds(record.time_to_first_block_s)}"),
        Fact(number(ratio, ".3f"), "makespan ÷ larger bound", f"larger bound {bound}" if ratio else "no finite bound"),
        Fact(spread, "completion p50 / p95 / max", "each leecher from its own start"),
        Fact(seconds(record.bound_s), "fluid bound", f"the file as a liquid{term}"),
        Fact(seconds(record.store_and_forward_bound_s), "store-and-forward bound", "whole blocks"),
        Fact(NOTHING if goodput is None else f"{format_size(goodput)}/s", "goodput", "all leechers together"),
        Fact(number(record.cpu_s_per_gib, ".2f"), "CPU-s per GiB", f"{seconds(record.cpu_s)} of processor time in all"),
        Fact(number(busy, ".0%"), "host busy", f"capped runs must stay below {BUSY_MAX:.0%}"),
        Fact(size(record.pss_bytes_mean), "memory per peer (PSS)", f"at most {size(record.pss_bytes_max)}"),
        Fact(number(messages, ".2f"), "messages per block", "requests, news, offers, bitfields"),
        Fact(number(record.fairness_jain, ".3f"), "fairness (Jain)", "bytes given ÷ taken; 1 is equal"),
    ]


def _groups(peers: Sequence[PeerRecord]) -> dict[str, list[PeerRecord]]:
    """Return leechers by group, all as one if there are more groups than looks."""
    groups: dict[str, list[PeerRecord]] = {}
    for peer in peers:
        groups.setdefault(peer.group, []).append(peer)
    return groups if len(groups) <= GROUPS_MAX else {"leechers": list(peers)}


def _completion(record: Record, ident: str) -> Figure | None:
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


def _blocks(record: Record, ident: str) -> Figure | None:
    peers = [peer for peer in numbers.leechers_of(record) if peer.timeline]
    if not peers:
        return None
    curves = sorted((numbers.blocks_over_time(peer) for peer in peers), key=lambda curve: curve[-1][0])
    shown = numbers.thinned(curves, LINES_MAX) if len(curves) > LINES_MAX else curves
    few = len(curves) <= FEW_LINES
    marks: list[Mark] = []
    if not few:
        rows = numbers.quantiles_over_time(curves, (0.05, 0.25, 0.5, 0.75, 0.95))
        marks += [
            Band([(t, low, high) for t, low, _, _, _, high in rows], BLUE, "90 % of the leechers", 0.16),
            Band([(t, low, high) for t, _, low, _, high, _ in rows], BLUE, "middle half", 0.28),
        ]
    name = "one leecher" if len(shown) == len(curves) else f"{LINES_MAX} of {len(curves)} leechers"
    width, opacity = (1.6, 0.85) if few else (0.7, 0.45)
    marks += [
        Line(numbers.thinned(curve, POINTS_A_LINE), BLUE if few else MUTED, name, "", width, opacity, steps=True)
        for curve in shown
    ]
    if not few:
        marks.append(Line([(row[0], row[3]) for row in rows], BLUE, "median", steps=True))
    total = numbers.blocks_of(record)
    chart = Chart(
        marks=marks,
        x_label="time from the common start (s)",
        y_label="blocks owned",
        whole_y=True,
        y_limits=(0, 1.03 * total or 1),
    )
    caption = (
        f"Blocks each leecher owned, of {total}, against the time from the common start in seconds."
        " Steep is fast; a flat stretch is waiting."
    )
    data = csv_text(
        ("peer", "time_s", "blocks"),
        [(peer.peer_id, peer.start_delay_s + at_s, owned) for peer in peers for at_s, owned in peer.timeline],
    )
    label = f"Blocks over time of {len(curves)} leechers, from 0 to {total}"
    return Figure("Blocks over time", caption, drawn(chart, ident, label), data, "blocks.csv")


def _availability(record: Record, ident: str) -> Figure | None:
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


def _given(record: Record, ident: str) -> Figure | None:
    matrix = numbers.given(record)
    if not matrix.largest:
        return None
    grouped = matrix.peers_a_row > 1
    label = f"Who gave to whom: {len(matrix.rows)} rows and columns, at most {format_size(matrix.largest)} a pair"
    each = f", {matrix.peers_a_row} peers a cell" if grouped else ""
    picture = drawn_matrix(
        matrix.levels(), ident, label, x_label=f"taker{each}", y_label=f"giver{each}, seeds at the top"
    )
    strongest = format_size(matrix.largest)
    keys = [Key(f"up to {strongest}", "scale", css_color(BLUE))]
    caption = "Payload that each row's peer sent to each column's peer, seeds first, in eighths of the largest."
    if grouped:
        caption = (
            f"Payload sent from rows to columns, seeds first. {plural(len(record.peers), 'peer')} are too many for a"
            f" row each: a cell is the average over the pairs of {matrix.peers_a_row} neighbours."
        )
    rows = [
        (giver, taker, value)
        for giver, row in zip(matrix.names, matrix.rows, strict=True)
        for taker, value in zip(matrix.names, row, strict=True)
        if value
    ]
    data = csv_text(("giver", "taker", "bytes_a_pair"), [(a, b, round(value)) for a, b, value in rows])
    return Figure("Who gave to whom", caption, Picture(picture.wide, picture.narrow, keys), data, "given.csv")


def _uplinks(record: Record, ident: str) -> Figure | None:
    capped = [peer for peer in record.peers if peer.uplink_use is not None]
    value: Callable[[PeerRecord], float] = (
        (lambda peer: peer.uplink_use or 0.0) if capped else (lambda peer: float(peer.sent_bytes))
    )
    ordered = sorted(capped or record.peers, key=value, reverse=True)
    if not any(map(value, ordered)):
        return None
    ranked = [(rank, peer) for rank, peer in enumerate(ordered, 1)]
    seeds = [(rank, value(peer)) for rank, peer in ranked if peer.role == "seed"]
    marks: list[Mark] = []
    if len(ranked) > DOTS_MAX:
        marks.append(Line([(rank, value(peer)) for rank, peer in ranked], BLUE, "peer", steps=True))
    else:
        members = _groups([peer for peer in ordered if peer.role != "seed"])
        of_group = {peer.peer_id: group for group, peers in members.items() for peer in peers}
        for group, color, shape in zip(members, GROUP_COLOURS, GROUP_SHAPES, strict=False):
            points = [(rank, value(peer)) for rank, peer in ranked if of_group.get(peer.peer_id) == group]
            marks.append(Dots(points, color, group, shape, 5.0 if len(ranked) <= DOTS_LARGE_MAX else 3.6))
    marks.append(Dots(seeds, VERMILION, "seed", "square", 7.0))
    what = "uplink used" if capped else "bytes given"
    chart = Chart(
        marks=[mark for mark in marks if getattr(mark, "points", True)],
        x_label="peers, the busiest first",
        y_label=what,
        y_form=".0%" if capped else "bytes",
        x_limits=(0.5 if len(ranked) < 10 else 0, len(ranked) + 0.5),
        y_limits=(0, max(1.06, 1.02 * value(ordered[0]))) if capped else (0, None),
        whole_x=True,
    )
    caption = (
        "Bytes each peer sent over what its upload cap allowed until the makespan, in percent, the busiest first."
        if capped
        else "Payload each peer sent, in bytes, the busiest first; uplinks were unlimited, so there is no share."
    )
    data = csv_text(
        ("peer", "group", "role", "uplink_use", "sent_bytes"),
        [(peer.peer_id, peer.group, peer.role, peer.uplink_use, peer.sent_bytes) for peer in ordered],
    )
    label = f"{what} of {len(ranked)} peers, sorted"
    return Figure(
        "Uplink use" if capped else "Who gave how much", caption, drawn(chart, ident, label), data, "uplink.csv"
    )


def _missing(record: Record) -> list[str]:
    """Return which pictures are not there, and why."""
    leechers = numbers.leechers_of(record)
    remarks = []
    if not numbers.blocks_of(record):
        remarks.append("The file is empty: there are no blocks to follow, and every peer is complete at once.")
    elif not any(peer.timeline for peer in leechers):
        remarks.append("No leecher told when it acquired its blocks: there is no timeline.")
    elif numbers.availability(record) is None:
        remarks.append(
            "Availability is not drawn: this record is of before peers told which block they acquired when"
            " (it has no order of blocks)."
        )
    return remarks


def _scenario(record: Record) -> Fold:
    scenario = numbers.told(record.scenario)
    columns = [Column("group", number=False), Column("role", number=False), Column("peers"), Column("uplink"),
               Column("downlink"), Column("start after"), Column("spread over"), Column("when complete", number=False),
               Column("free rider", number=False)]  # fmt: skip
    rows = [
        [
            Cell(group.name),
            Cell(group.role),
            cell(f"{group.count:,}", group.count),
            _rate(group.upload_rate_bytes_per_s),
            _rate(group.download_rate_bytes_per_s),
            seconds_cell(group.start_delay_s),
            seconds_cell(group.start_spread_s),
            Cell("leaves" if group.on_complete == "leave" else "seeds"),
            Cell("yes" if group.free_rider else "no"),
        ]
        for group in scenario.groups
    ]
    file = scenario.file.path or "made-up content"
    settings: list[tuple[str, Any]] = [
        ("name", scenario.name),
        ("file", f"{format_size(scenario.file.size_bytes)}, {file}"),
        ("block size", format_size(scenario.block_size_bytes)),
        ("which block next", scenario.picker),
        ("who may download", scenario.choker),
        ("a peer is a", scenario.isolation),
        ("neighbours at most", scenario.max_neighbours),
        ("time-out", seconds(scenario.timeout_s)),
        ("seed of the random choices", record.rng_seed),
    ]
    pairs = [[Cell(name), Cell(str(value))] for name, value in settings if value not in ("", None)]
    about = Table("What was shared, and how", [Column("setting", number=False), Column("value", number=False)], pairs)
    raw = json.dumps(record.scenario, indent=2, ensure_ascii=False)
    return Fold("Scenario in full", [Table("Groups of peers", columns, rows), about], raw)


def _rate(rate_bytes_per_s: float | None) -> Cell:
    return cell(format_rate(rate_bytes_per_s), float("inf") if rate_bytes_per_s is None else rate_bytes_per_s)


def _peers(record: Record) -> list[Fold]:
    if len(record.peers) > PEERS_SHOWN:
        return []
    columns = [Column("peer", number=False), Column("group", number=False), Column("completion"),
               Column("first block"), Column("given"), Column("taken"), Column("wasted"), Column("uplink use"),
               Column("CPU"), Column("PSS")]  # fmt: skip
    rows = [
        [
            cell(peer.peer_id, mark="" if peer.completed else "bad"),
            Cell(peer.group),
            seconds_cell(peer.completion_time_s),
            seconds_cell(peer.time_to_first_block_s),
            size_cell(peer.sent_bytes),
            size_cell(peer.received_bytes),
            size_cell(peer.duplicate_bytes + peer.corrupt_bytes + peer.aborted_bytes),
            number_cell(peer.uplink_use, ".0%"),
            seconds_cell(peer.cpu_s),
            size_cell(peer.pss_bytes),
        ]
        for peer in record.peers
    ]
    return [Fold("Every peer", [Table("Peers of this swarm", columns, rows)])]
