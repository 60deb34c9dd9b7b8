"""One swarm as a section of a report: its key figures, five pictures, its scenario in full."""

import json
from collections.abc import Callable
from typing import Any

from minibit.analysis.reporting import numbers, pictures
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
    number,
    number_cell,
    plural,
    seconds,
    seconds_cell,
    size,
    size_cell,
)
from minibit.record import BUSY_MAX, Record
from minibit.regression.metrics import swarm_figures
from minibit.units import format_rate, format_size

STUCK_SHOWN = 8
PEERS_SHOWN = 128


def swarm_section(name: str, record: Record, names: Names, *, closed: bool = False, why: str = "") -> Section:
    """Return everything that a record shows; ``why`` says what it stands for among others."""
    builders: tuple[Callable[[Record, str], Figure | None], ...] = (
        pictures.completion,
        pictures.blocks,
        pictures.availability,
        pictures.given,
        pictures.uplinks,
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
    times, ratio = record.completion_time_s, record.ratio_to_bound
    messages = swarm_figures(record)["messages"]
    busy, goodput = record.cpu_busy_fraction, record.goodput_bytes_per_s
    spread = " / ".join(map(seconds, (times.p50, times.p95, times.max))) if times else NOTHING
    bounded = record.bound_s is not None
    bound = f"larger bound {seconds(record.larger_bound_s or 0.0)}" if bounded else "no finite bound"
    term = f", set by the {record.bound_binding_term}" if record.bound_binding_term else ""
    return [
        Fact(seconds(record.makespan_s), "makespan", f"first block after {seconds(record.time_to_first_block_s)}"),
        Fact(number(ratio, ".3f"), "makespan ÷ larger bound", bound),
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
