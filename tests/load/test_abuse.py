"""Good clients amid bad ones: how phases and recovery are told, and short real attacks."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from minibit.errors import UsageError
from minibit.load.abuse import SLICE_S, Course, abuse, phase_of, read, recovery_s, write
from minibit.load.attacks import ATTACKS
from minibit.load.measurement import Slice

SHORT = Course(before_s=1.0, during_s=2.0, after_s=1.0, rate_per_s=150, sockets=100)


def timeline(*p99_ms, errors=()):
    return [
        Slice(number * SLICE_S, [round(value * 1000)] * 20, errors=int(number in errors))
        for number, value in enumerate(p99_ms)
    ]


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (timeline(1, 1, 300, 300, 1, 1), 0.0),
        (timeline(1, 1, 300, 300, 90, 1), 0.5),
        (timeline(1, 1, 300, 300, 1, 90, 1), 1.0),
        (timeline(1, 1, 1, 1, 1, 90), None),
        (timeline(1, 1, 1, 1, 1, 1, 1, errors=[5]), 1.0),
        (timeline(1, 1, 1, 1, 15, 19), 0.0),
    ],
)
def test_recovery_is_when_all_is_well_and_stays_so(parts, expected):
    """The abuse lasts from 1 to 2 s; well means below 20 ms or twice what it was."""
    assert recovery_s(parts, 2.0, 0.001) == expected
    assert recovery_s(parts[:4], 2.0, 0.001) is None  # nothing came after: nobody knows


def test_a_phase_puts_its_slices_together():
    """Percentiles of all of its requests, not means of percentiles."""
    phase = phase_of([Slice(0.0, [1000] * 98), Slice(0.5, [5000, 9000], errors=3)])
    assert (phase.answered, phase.errors) == (100, 3)
    assert phase.p50_s == 0.001
    assert phase.max_s == 0.009
    assert phase.p99_s == pytest.approx(0.005, abs=0.001)
    assert phase_of([]).answered == 0


def test_unknown_abuse_is_refused():
    """Before anything is started."""
    with pytest.raises(UsageError, match="'fork-bomb' is no abuse; there are slow-loris, idle"):
        abuse(["fork-bomb"], SHORT)


@pytest.mark.parametrize("server", ["waitress", "granian"])
@pytest.mark.parametrize("name", ATTACKS)
def test_good_clients_are_served_amid_bad_ones(name, server, tmp_path):
    """A hundred slow sockets lock a default waitress out completely; the margin is wide, machines are noisy."""
    record = abuse([name], SHORT, server=server)
    found = record.found[0]
    assert found.errors == {}
    assert found.before.answered == pytest.approx(150, abs=80)
    assert found.during.answered > 250
    assert found.during.p99_s < (5.0 if name == "idle" else 0.5)  # granian's idle ones leave after three seconds
    assert found.what
    write(record, tmp_path / "abuse.json")
    assert read(tmp_path / "abuse.json") == record
    assert not [child for child in psutil.Process().children(recursive=True) if child.is_running()]


def test_a_storm_of_expiries_makes_nobody_wait():
    """A hundred thousand at once took 0.4 s in one go, before they were worked off beside the requests."""
    found = abuse(["expiry"], SHORT).found[0]
    assert found.errors == {}
    assert found.during.max_s < 0.2


def test_after_a_restart_the_swarm_is_rebuilt():
    """Each announces again, to a tracker that knows nobody."""
    found = abuse(["restart"], Course(before_s=2.0, during_s=2.0, after_s=4.0, rate_per_s=150)).found[0]
    assert found.during.errors > 0
    assert found.after.errors == 0
    assert "known again after" in found.what
    assert "never" not in found.what


def test_the_command_ends_in_a_table_and_a_plot(tmp_path):
    """One line of a user."""
    command = [str(Path(sys.executable).with_name("minibit")), "abuse", "slow-loris", "-o", str(tmp_path)]
    command += ["--before", "1", "--during", "1", "--after", "1", "--rate", "100", "--sockets", "20"]
    environment = {**os.environ, "COLUMNS": "150"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment)
    assert done.returncode == 0, done.stderr
    assert "slow-loris" in done.stdout
    assert "up to 20 sockets" in done.stdout
    assert (tmp_path / "abuse.png").stat().st_size > 10_000
    assert read(tmp_path / "abuse.json").found[0].before.answered > 50
