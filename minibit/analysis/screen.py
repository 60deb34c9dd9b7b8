"""What a person sees in the terminal: progress while something runs, tables when it is done.

Progress goes to stderr, as bars on a terminal and as plain lines elsewhere (a log, a CI job); results go to stdout.
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from minibit.units import format_duration, format_rate, format_size

if TYPE_CHECKING:
    from minibit.analysis.sweep import SweepResult
    from minibit.launcher.swarm import Snapshot
    from minibit.metainfo import Metainfo
    from minibit.peers import Peer
    from minibit.record import PeerRecord, Record
    from minibit.scenario import Scenario

PLAIN_EVERY_S = 2.0
STUCK_SHOWN = 5
_PHASES = {
    "prepare": "hashing the file",
    "spawn": "starting peers",
    "memory": "making memory ready",
    "run": "sharing",
    "verify": "comparing files",
}


def _stdout() -> Console:
    return Console(highlight=False, soft_wrap=True)


def _stderr() -> Console:
    return Console(stderr=True, highlight=False)


def _bars(*more: TextColumn) -> Progress:
    return Progress(
        TextColumn("{task.description:<16}"),
        BarColumn(),
        TaskProgressColumn(),
        *more,
        TimeElapsedColumn(),
        console=_stderr(),
        transient=True,
    )


@contextmanager
def progress(scenario: "Scenario") -> Iterator[Callable[["Snapshot"], None]]:
    """Show how far a run is; the context gives the function that the launcher tells it to."""
    if not sys.stderr.isatty():
        yield _plain_lines()
        return
    with _bars(TextColumn("{task.fields[news]}")) as bars:
        task = bars.add_task(scenario.name, total=None, news="")

        def watch(now: "Snapshot") -> None:
            bars.update(
                task, description=_PHASES[now.phase], completed=now.done, total=now.total or None, news=_news(now)
            )

        yield watch


def _news(now: "Snapshot") -> str:
    if now.phase != "run":
        return ""
    return f"{now.complete}/{now.leechers} complete  {format_rate(now.bytes_per_s)}"


def _plain_lines() -> Callable[["Snapshot"], None]:
    told_at_s, told_phase = float("-inf"), ""

    def watch(now: "Snapshot") -> None:
        nonlocal told_at_s, told_phase
        if now.phase == told_phase and time.monotonic() < told_at_s + PLAIN_EVERY_S:
            return
        told_at_s, told_phase = time.monotonic(), now.phase
        percent = f" {100 * now.done // now.total} %" if now.total else ""
        print(f"{_PHASES[now.phase]}{percent} {_news(now)}".rstrip(), file=sys.stderr, flush=True)

    return watch


@contextmanager
def bar(description: str) -> Iterator[Callable[[int, int], None]]:
    """Show how far one thing is; the context gives a function of (done, total)."""
    with _bars() as bars:
        task = bars.add_task(description, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


@contextmanager
def peer_progress() -> Iterator[Callable[["Peer"], None]]:
    """Show one peer's blocks, neighbours and rate."""
    with _bars(TextColumn("{task.fields[news]}")) as bars:
        task = bars.add_task("", total=None, news="")

        def watch(peer: "Peer") -> None:
            sent = sum(peer.meters.sent_to.values())
            news = f"{len(peer.session.neighbours)} peers known, {format_size(sent)} given"
            if peer.tracker_error and not peer.session.neighbours:
                news = str(peer.tracker_error)
            state = "seeding" if peer.file_complete else "fetching"
            bars.update(
                task, description=f"{state} {peer.file_name}", completed=peer.session.owned.count,
                total=peer.total_blocks, news=news,
            )  # fmt: skip

        yield watch


# -- results -----------------------------------------------------------------------------------------------------------


def print_summary(record: "Record") -> None:
    """Print what a run showed, and what stands in the way of believing it."""
    console = _stdout()
    table = Table(title=_title(record), show_header=False, title_justify="left", min_width=60)
    table.add_column()
    table.add_column(justify="right")
    for name, value in _figures(record):
        table.add_row(name, value)
    console.print(table)
    groups = {peer.group for peer in record.peers}
    if len(groups) > 2:
        console.print(_group_table(record.peers))
    for peer in _stuck(record.peers)[:STUCK_SHOWN]:
        console.print(f"[red]{peer.peer_id}[/red]: {peer.failure or peer.waiting_for or 'did not report'}")
    for reason in record.invalid_reasons:
        console.print(f"[red]not valid:[/red] {reason}")
    if record.valid:
        console.print("[green]valid[/green]: every file equals the source, the ledger closes, no process is left")


def _title(record: "Record") -> str:
    scenario = record.scenario
    leechers = sum(peer.role == "leecher" for peer in record.peers)
    seeds = len(record.peers) - leechers
    size, block = format_size(scenario["file"]["size_bytes"]), format_size(scenario["block_size_bytes"])
    return f"{scenario['name']}: {leechers} leechers, {seeds} seed(s), {size} in blocks of {block}"


def _figures(record: "Record") -> list[tuple[str, str]]:
    times = record.completion_time_s
    ledger = record.ledger
    split = (ledger.useful_bytes, ledger.duplicate_bytes, ledger.corrupt_bytes, ledger.aborted_bytes)
    spread = " / ".join(map(_seconds, (times.p50, times.p95, times.max))) if times else "-"
    goodput, busy, jain = record.goodput_bytes_per_s, record.cpu_busy_fraction, record.fairness_jain
    return [
        ("everyone has it after (makespan)", _seconds(record.makespan_s)),
        ("completion time, median / 95 % / max", spread),
        ("first block after (median)", _seconds(record.time_to_first_block_s)),
        ("fluid bound", _bound(record.bound_s, record.makespan_s, record.bound_binding_term)),
        ("store-and-forward bound", _bound(record.store_and_forward_bound_s, record.makespan_s, None)),
        ("goodput, all leechers together", f"{format_size(goodput)}/s" if goodput else "-"),
        ("processor time per GiB delivered", _seconds(record.cpu_s_per_gib)),
        ("processors busy (whole host)", f"{busy:.0%}" if busy is not None else "-"),
        ("memory per peer, mean / max (PSS)", _memory(record)),
        ("bytes useful / duplicate / corrupt / aborted", " / ".join(map(format_size, split))),
        ("messages per delivered block", _messages(record)),
        ("fairness (Jain: given ÷ taken)", f"{jain:.3f}" if jain is not None else "-"),
        ("time to start all processes", _seconds(record.spawn_time_s)),
    ]


def _seconds(value: float | None) -> str:
    return "-" if value is None else format_duration(value)


def _bound(bound_s: float | None, makespan_s: float | None, term: str | None) -> str:
    if bound_s is None:
        return "- (no finite limit binds)"
    ratio = f"  (took {makespan_s / bound_s:.3f} x)" if makespan_s is not None else ""
    return f"{format_duration(bound_s)}{f', by {term}' if term else ''}{ratio}"


def _memory(record: "Record") -> str:
    if record.pss_bytes_mean is None or record.pss_bytes_max is None:
        return "-"
    return f"{format_size(record.pss_bytes_mean)} / {format_size(record.pss_bytes_max)}"


def _messages(record: "Record") -> str:
    delivered = sum(peer.timeline[-1][1] for peer in record.peers if peer.timeline)
    requests = record.requests
    total = requests.block + requests.have + requests.offer + requests.handshake
    return f"{total / delivered:.2f}" if delivered else "-"


def _stuck(peers: Sequence["PeerRecord"]) -> list["PeerRecord"]:
    return [peer for peer in peers if not peer.completed or not peer.reported]


def _group_table(peers: Sequence["PeerRecord"]) -> Table:
    table = Table(title="by group", title_justify="left")
    for name in ("group", "peers", "uplink", "median completion", "given ÷ taken", "uplink use"):
        table.add_column(name, justify="left" if name == "group" else "right")
    for group in dict.fromkeys(peer.group for peer in peers):
        members = [peer for peer in peers if peer.group == group]
        times = sorted(peer.completion_time_s for peer in members if peer.completion_time_s is not None)
        given, taken = sum(p.sent_bytes for p in members), sum(p.received_bytes for p in members)
        uses = [peer.uplink_use for peer in members if peer.uplink_use is not None]
        table.add_row(
            group, str(len(members)), format_rate(members[0].upload_rate_bytes_per_s),
            _seconds(times[len(times) // 2]) if times else "-", f"{given / taken:.2f}" if taken else "-",
            f"{sum(uses) / len(uses):.0%}" if uses else "-",
        )  # fmt: skip
    return table


def print_torrent(torrent: "Metainfo") -> None:
    """Print what a torrent says."""
    table = Table(show_header=False)
    rows = [
        ("name", torrent.name),
        ("size", f"{format_size(torrent.length_bytes)} ({torrent.length_bytes} bytes)"),
        ("blocks", f"{torrent.num_blocks} of {format_size(torrent.block_size_bytes)}"),
        ("info-hash v1", torrent.info_hash),
        ("info-hash v2", torrent.info_hash_v2),
        ("tracker", torrent.announce or "-"),
    ]
    for row in rows:
        table.add_row(*row)
    console = _stdout()
    console.print(table)
    if torrent.length_bytes == 0:
        console.print("an empty file: a valid MiniBit swarm, complete at once; other BitTorrent clients refuse it")


def print_sweep(result: "SweepResult") -> None:
    """Print one row for each size of swarm, and where the files are."""
    table = Table(
        title="completion time against the number of leechers", title_justify="left", box=None, padding=(0, 2, 0, 0)
    )
    for name in ("leechers", "valid", "median", "max", "bound", "÷ bound", "goodput", "CPU-s/GiB", "busy"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in result.rows():
        table.add_row(
            str(row.leechers), f"{row.valid}/{row.runs}", _seconds(row.median_s),
            _seconds(row.max_s), _seconds(row.larger_bound_s), f"{row.ratio:.3f}" if row.ratio else "-",
            f"{format_size(row.goodput_bytes_per_s)}/s" if row.goodput_bytes_per_s else "-",
            f"{row.cpu_s_per_gib:.2f}" if row.cpu_s_per_gib else "-",
            f"{row.busy_fraction:.0%}" if row.busy_fraction is not None else "-",
        )  # fmt: skip
    console = _stdout()
    console.print(table)
    for path in result.files:
        console.print(str(path))
