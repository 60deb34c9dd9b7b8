"""Load tests as a person sees them: each trial as it ends, the table and the curve when all are done."""

import random
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from minibit.analysis.plots import LoadPoint, abuse_timelines, latency_curve
from minibit.load.abuse import Abuse, AbuseRecord, Course, abuse
from minibit.load.abuse import write as write_abuse
from minibit.load.generator import Plan
from minibit.load.population import FAULTS
from minibit.load.saturate import Subject, saturate, summary, write
from minibit.load.saturation import Limits, Saturation, SaturationRecord, Trial
from minibit.units import format_size

CONNECTIONS = {"tracker": 64, "peer": 4}


def run_saturate(
    what: str,
    limits: Limits,
    *,
    repeats: int,
    output: Path,
    allow: tuple[str, ...],
    connections: int | None,
    **options: Any,
) -> None:
    """Search, print, write ``saturation.json``, ``.png`` and ``.svg`` into the folder."""
    unknown = [name for name in allow if name not in FAULTS]
    if unknown:
        raise click.UsageError(f"--allow {unknown[0]}: there are {', '.join(FAULTS)}")
    if what == "peer" and (allow or options["protocol"] != "rest"):
        raise click.UsageError("--protocol and --allow are of a tracker")
    subject = Subject(what=what, **{name: options[name] for name in Subject.__struct_fields__ if name in options})
    plan = Plan(
        url="",
        kind=what,
        seed=random.SystemRandom().randrange(1 << 31) if options["seed"] is None else options["seed"],
        protocol=options["protocol"],
        close=options["close"],
        arrivals=options["arrivals"],
        connections=connections or CONNECTIONS[what],
        seconds=options["seconds"],
        warm_up_s=options["warm_up_s"],
        tidy_up=subject.url is not None,
        allow=list(allow),
    )
    names = ("driver", "processes")
    record = saturate(
        subject,
        plan,
        limits,
        repeats=repeats,
        registered=options["registered"] or (),
        threads=options["threads"] or (),
        watch=_print_trial,
        **{name: options[name] for name in names},
    )
    write(record, output / "saturation.json")
    print_saturation(record)
    files = draw(record, output / "saturation")
    click.echo(f"wrote {output / 'saturation.json'}, {', '.join(map(str, files))}")


def width() -> int | None:
    """Return the columns to fill: the terminal's; a file has room for any table."""
    return None if sys.stdout.isatty() else 150


def print_saturation(record: SaturationRecord) -> None:
    """Print what was found for each state of the target; of a single one every rate that was tried."""
    console = Console(highlight=False, soft_wrap=True, width=width())
    if len(record.found) == 1:
        console.print(_trials_table(record, record.found[0]))
        closed = record.found[0].closed_loop.result
        console.print(
            f"closed loop of {closed.users} connections: {closed.rate_per_s:,.0f}/s,"
            f" p99 {closed.latency().at(99) * 1e3:.1f} ms"
        )
        if used := _use(record.found[0]):
            console.print(used)
        console.print(summary(record.found[0]))
        return
    console.print(_states_table(record))


def draw(record: SaturationRecord, stem: Path) -> list[Path]:
    """Draw latency against rate of the first state, and return the files."""
    found = record.found[0]
    points = [LoadPoint(trial.rate_per_s, trial.result.latency().percentiles()) for trial in found.trials]
    return latency_curve(
        points,
        stem,
        title=f"Latency against arrival rate: {record.what}",
        subtitle=" · ".join(filter(None, [_state(found), summary(found)])),
        limit_s=record.limits.latency_s,
        limit_name=record.limits.percentile,
        borne_per_s=found.borne_per_s,
    )


def run_abuse(abuses: tuple[str, ...], *, output: Path, server: str, protocol: str, **options: Any) -> None:
    """Abuse, print, write ``abuse.json``, ``.png`` and ``.svg`` into the folder."""
    course = Course(
        before_s=options["before"],
        during_s=options["during"],
        after_s=options["after"],
        rate_per_s=options["rate"],
        sockets=options["sockets"],
    )
    record = abuse(abuses, course, server=server, protocol=protocol, watch=_print_abuse)
    write_abuse(record, output / "abuse.json")
    print_abuses(record)
    files = abuse_timelines(record.found, output / "abuse", title=f"Good clients of a tracker under {server}")
    click.echo(f"wrote {output / 'abuse.json'}, {', '.join(map(str, files))}")


def print_abuses(record: AbuseRecord) -> None:
    """Print the good clients' p99 and errors in each phase."""
    table = Table(
        title=f"good clients, {record.course.rate_per_s:,.0f} requests/s, tracker under {record.server}",
        title_justify="left",
    )
    table.add_column("abuse")
    for name in (
        "p99 ms before",
        "during",
        "after",
        "max ms during",
        "errors before",
        "during",
        "after",
        "well after s",
    ):
        table.add_column(name, justify="right")
    table.add_column("what")
    for found in record.found:
        phases = (found.before, found.during, found.after)
        table.add_row(
            found.name,
            *(f"{phase.p99_s * 1e3:.1f}" if phase.answered else "-" for phase in phases),
            f"{found.during.max_s * 1e3:.0f}",
            *(f"{phase.errors:,}" for phase in phases),
            "never" if found.recovery_s is None else f"{found.recovery_s:.1f}",
            "; ".join([found.what, *(f"GENERATOR: {why}" for why in found.generator)]),
        )
    Console(highlight=False, soft_wrap=True, width=width()).print(table)


def _print_abuse(found: Abuse) -> None:
    phases = (found.before, found.during, found.after)
    shown = ", ".join(f"{phase.p99_s * 1e3:.1f} ms" if phase.answered else "-" for phase in phases)
    click.echo(f"{found.name:>12}: p99 before, during, after: {shown}", err=True)


def _state(found: Saturation) -> str:
    """Return what the tracker was like, if that was asked for."""
    registered = f"{found.registered:,} peers registered" if found.registered is not None else ""
    threads = f"{found.threads} threads" if found.threads is not None else ""
    return ", ".join(filter(None, [registered, threads]))


def _print_trial(trial: Trial, loop: str) -> None:
    latency = trial.result.latency()
    rate = "closed loop" if loop == "closed loop" else f"{trial.rate_per_s:,.0f}/s"
    verdict = "" if loop == "closed loop" else "   ok" if not trial.broke else f"   {', '.join(trial.broke)}"
    bound = "   (generator)" if trial.generator else ""
    click.echo(
        f"{rate:>12}: {trial.result.rate_per_s:>9,.0f} answered/s   p50 {latency.at(50) * 1e3:8.2f} ms"
        f"   p99 {latency.at(99) * 1e3:8.2f} ms{verdict}{bound}",
        err=True,
    )


def _trials_table(record: SaturationRecord, found: Saturation) -> Table:
    limits = record.limits
    table = Table(
        title=f"{record.what}: rates tried; limits: {limits.percentile} {limits.latency_s * 1e3:g} ms,"
        f" errors {limits.error_share:.2%}",
        title_justify="left",
    )
    for name in ("rate/s", "answered", "p50 ms", "p99 ms", "p99.9 ms", "max ms", "errors", "missed", "generator"):
        table.add_column(name, justify="right")
    for name in ("server", "queue ≥"):
        table.add_column(name, justify="right")
    table.add_column("borne")
    for trial in found.trials:
        values = trial.result.latency().percentiles()
        server = trial.server
        table.add_row(
            f"{trial.rate_per_s:,.0f}",
            f"{trial.result.rate_per_s:,.0f}",
            *(f"{values[name] * 1e3:.2f}" for name in ("p50", "p99", "p99.9", "max")),
            f"{trial.result.error_share:.2%}",
            f"{trial.result.missed:,}",
            f"{trial.result.generator_cpu:.0%}",
            f"{server.cpu_cores:.0%}" if server else "-",
            "-" if server is None or server.queue_depth is None else f"{server.queue_depth:,.0f}",
            ", ".join(trial.broke) or "yes",
        )
    return table


def _use(found: Saturation) -> str | None:
    used = [trial.server for trial in found.trials if trial.server]
    if not used:
        return None
    return (
        f"server, at most: {format_size(max(use.rss_bytes for use in used))} resident,"
        f" {max(use.threads for use in used)} threads, {max(use.open_files for use in used)} open files"
    )


def _states_table(record: SaturationRecord) -> Table:
    table = Table(title=f"{record.what}: saturation", title_justify="left")
    for name in ("registered", "threads", "borne/s", "not borne/s", "closed loop/s", "server CPU", "RSS", "bound by"):
        table.add_column(name, justify="right")
    for found in record.found:
        borne = [trial.server for trial in found.trials if trial.rate_per_s == found.borne_per_s]
        server = borne[0] if borne else None
        table.add_row(
            "-" if found.registered is None else f"{found.registered:,}",
            "-" if found.threads is None else str(found.threads),
            "-" if found.borne_per_s is None else f"{found.borne_per_s:,.0f}",
            f"{found.broke_per_s:,.0f}",
            f"{found.closed_loop.result.rate_per_s:,.0f}",
            f"{server.cpu_cores:.0%}" if server else "-",
            format_size(server.rss_bytes) if server else "-",
            found.bound_by,
        )
    return table
