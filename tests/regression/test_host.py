"""What makes a machine's figures doubtful."""

import msgspec
import pytest

from minibit.regression.host import Conditions, doubts, look

CALM = Conditions(load=0.1, cores=2, memory_bytes=8 << 30, governors=["performance"], cpu_pressure=0.0, total_s=100.0)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"load": 1.5}, "had just been busy when it began: load 1.5"),
        ({"cpu_pressure": 40.0}, "tasks waited for the processor 40 %"),
        ({"memory_pressure": 40.0}, "tasks waited for the memory 40 %"),
        ({"io_pressure": 40.0}, "tasks waited for the disk 40 %"),
        ({"memory_bytes": 100 << 20}, "only 100 MiB of memory were free"),
        ({"governors": ["powersave", "schedutil"]}, "frequency is scaled (powersave, schedutil)"),
    ],
)
def test_each_doubt_is_named(changed, said):
    """One sentence each, with the figure in it."""
    found = doubts(msgspec.structs.replace(CALM, **changed))
    assert len(found) == 1
    assert said in found[0]


def test_a_calm_machine_raises_none():
    """What a system does not tell is no doubt either."""
    assert doubts(CALM) == []
    assert doubts(msgspec.structs.replace(CALM, governors=[], cpu_pressure=None)) == []


def test_stolen_time_counts_between_two_looks():
    """A virtual machine's host may take the processor away without any other trace."""
    after = msgspec.structs.replace(CALM, steal_s=20.0, total_s=200.0)
    assert doubts(CALM, after) == ["its host took 20% of the processor meanwhile (steal)"]
    assert doubts(CALM, msgspec.structs.replace(after, steal_s=1.0)) == []


def test_this_machine_can_be_looked_at():
    """Whatever /proc and /sys lack here."""
    seen = look()
    assert seen.cores >= 1
    assert seen.memory_bytes > 0
    assert seen.total_s > 0
