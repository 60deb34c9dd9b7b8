"""What identical code says about a machine, and the gates that follow from it."""

import random
import re
import sys
from pathlib import Path

import msgspec
import pytest

from minibit.errors import RecordError, UsageError
from minibit.provenance import describe_machine
from minibit.regression import selftest
from minibit.regression.compare import compare
from minibit.regression.metrics import METRICS, SERVING
from minibit.regression.sides import Side
from minibit.regression.trials import Trial


class Noisy:
    """Identical sides whose figures vary by so much."""

    name = kind = "serving"

    def __init__(self, **spread):
        self.rng, self.spread = random.Random(2), spread

    def pair(self, order, seed):
        """Return figures around 1."""
        return {
            side.name: Trial({m.key: self.rng.lognormvariate(0, self.spread.get(m.key, 0.001)) for m in SERVING})
            for side in order
        }


@pytest.fixture(scope="module")
def found():
    """Return the selftest of a machine on which one metric is steady, one noisy and one hopeless."""
    sides = [Side(name, "this", Path(sys.executable)) for name in ("base", "head")]
    return selftest.analysed(compare(*sides, [Noisy(tracker_cpu=0.06, block_latency_p50=1.5)], pairs=15))


def test_noise_decides_what_can_be_seen(found):
    """Steady figures show one per cent, noisy ones ten or so, hopeless ones nothing: and that is said."""
    detectable = found.detectable()
    assert detectable["tracker_rate"] == 0.01
    assert 0.04 <= detectable["tracker_cpu"] <= 0.3
    assert detectable["block_latency_p50"] is None
    noise = {each.key: each for each in found.noise}
    assert noise["tracker_rate"].spread < noise["tracker_cpu"].spread < noise["block_latency_p50"].spread
    assert noise["tracker_rate"].passed == 1.0
    assert all(each.false_alarms <= 0.02 for each in found.noise)


def test_gates_widen_to_what_can_be_seen(found):
    """A default gate finer than the machine's noise would be inconclusive for ever; it is widened, and that is said."""
    gates, remarks = selftest.gates_of(SERVING, found.detectable())
    assert gates["tracker_rate"] == METRICS["tracker_rate"].gate
    assert gates["tracker_cpu"] == max(METRICS["tracker_cpu"].gate, found.detectable()["tracker_cpu"])
    assert gates["block_latency_p50"] == float("inf")
    assert any("block request, p50 is not judged" in remark for remark in remarks)


def test_a_gate_finer_than_the_noise_is_refused(found):
    """Whoever asks for it must know that it cannot be had."""
    with pytest.raises(UsageError, match=r"a gate of 1\.0% on tracker_cpu is finer than this machine can see"):
        selftest.gates_of(SERVING, found.detectable(), named={"tracker_cpu": 0.01})
    gates, _ = selftest.gates_of(SERVING, found.detectable(), named={"tracker_cpu": 0.5})
    assert gates["tracker_cpu"] == 0.5


def test_a_gate_for_all_is_one_where_it_can_be_had(found):
    """One noisy metric must not forbid it to the others; a named gate goes before it, wherever it stands."""
    gates, remarks = selftest.gates_of(SERVING, found.detectable(), named={"tracker_cpu": 0.5}, general=0.02)
    assert gates == {"tracker_rate": 0.02, "tracker_cpu": 0.5, "block_latency_p50": float("inf")}
    assert remarks == ["block request, p50 is not judged: not even a doubling can be seen here"]
    _, remarks = selftest.gates_of(SERVING, found.detectable(), general=0.02)
    assert re.fullmatch(r"CPU per tracker request is held to [\d.]+% instead of 2\.0%: no less .*", remarks[0])
    with pytest.raises(UsageError, match=r"a gate of 0\.1% on any metric is finer .* nothing below 1\.0%"):
        selftest.gates_of(SERVING, found.detectable(), general=0.001)


def test_what_is_not_measured_now_is_still_known(found):
    """A selftest of the swarm alone must not make the machine look quiet elsewhere; of two workloads the worse one."""
    swarm = [msgspec.structs.replace(found.noise[0], key="pss", detectable=gate) for gate in (0.03, None, 0.02)]
    both = msgspec.structs.replace(found, noise=swarm).with_older(found)
    assert both.detectable() == {**found.detectable(), "pss": None}
    again = msgspec.structs.replace(both, noise=swarm[:1]).with_older(both)
    assert again.detectable() == {**found.detectable(), "pss": 0.03}


def test_a_metric_nobody_knows_is_named():
    """With those there are."""
    with pytest.raises(UsageError, match="there is no metric speed; there are completion_p50"):
        selftest.gates_of(SERVING, None, named={"speed": 0.1})


def test_it_is_kept_for_this_machine(found, tmp_path):
    """Beside the results, and found again; a spoilt file is no missing one."""
    machine = describe_machine()
    assert selftest.known(tmp_path, machine) is None
    path = selftest.path_in(tmp_path, machine)
    selftest.write(found, path)
    assert selftest.known(tmp_path, machine) == found
    path.write_text("{}")
    with pytest.raises(RecordError, match="selftest"):
        selftest.known(tmp_path, machine)
