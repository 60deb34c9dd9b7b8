"""The state of the machine while something is measured, and what of it makes figures doubtful. Reads /proc and /sys."""

import os
from pathlib import Path

import msgspec
import psutil

LOAD_MAX = 0.5  # of a core, per core, of something else
STEAL_MAX = 0.05
PRESSURE_MAX = 10.0  # per cent of the last ten seconds
MEMORY_MIN_BYTES = 1 << 30
GOVERNORS = Path("/sys/devices/system/cpu")
PRESSURE = Path("/proc/pressure")


class Conditions(msgspec.Struct, frozen=True, kw_only=True):
    """What the machine was like at one moment. Times count since it started; None is what it does not tell."""

    load: float
    cores: int
    memory_bytes: int
    governors: list[str] = []
    cpu_pressure: float | None = None
    memory_pressure: float | None = None
    io_pressure: float | None = None
    steal_s: float = 0.0
    total_s: float = 0.0


def look() -> Conditions:
    """Return what the machine is like now."""
    times = psutil.cpu_times()
    return Conditions(
        load=os.getloadavg()[0],
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=psutil.virtual_memory().available,
        governors=sorted({_text(path).strip() for path in GOVERNORS.glob("cpu[0-9]*/cpufreq/scaling_governor")}),
        cpu_pressure=_pressure("cpu"),
        memory_pressure=_pressure("memory"),
        io_pressure=_pressure("io"),
        steal_s=getattr(times, "steal", 0.0),
        total_s=sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0),
    )


def doubts(before: Conditions, after: Conditions | None = None) -> list[str]:
    """Return what makes figures of this machine doubtful, one sentence each; ``after``: also what happened between."""
    found = []
    if before.load > LOAD_MAX * before.cores:
        found.append(f"the machine had just been busy when it began: load {before.load:.1f}")
    for name, share in (
        ("processor", before.cpu_pressure),
        ("memory", before.memory_pressure),
        ("disk", before.io_pressure),
    ):
        if share is not None and share > PRESSURE_MAX:
            found.append(f"tasks waited for the {name} {share:.0f} % of the time at the start")
    if before.memory_bytes < MEMORY_MIN_BYTES:
        found.append(f"only {before.memory_bytes / (1 << 20):.0f} MiB of memory were free at the start")
    if before.governors and before.governors != ["performance"]:
        found.append(f"the processor's frequency is scaled ({', '.join(before.governors)})")
    return found + (_happened(before, after) if after else [])


def _happened(before: Conditions, after: Conditions) -> list[str]:
    spent_s = after.total_s - before.total_s
    stolen = (after.steal_s - before.steal_s) / spent_s if spent_s > 0 else 0.0
    return [f"its host took {stolen:.0%} of the processor meanwhile (steal)"] if stolen > STEAL_MAX else []


def _pressure(what: str) -> float | None:
    """Return the share of the last ten seconds, in per cent, in which some task waited for it."""
    for field in _text(PRESSURE / what).partition("\n")[0].split():
        name, _, value = field.partition("=")
        if name == "avg10":
            return float(value)
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except OSError:
        return ""
