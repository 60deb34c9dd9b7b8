"""The course of a comparison, with workloads made up: pairs in turn, alarms confirmed, everything odd named."""

import random
import sys
import time
from pathlib import Path

import msgspec
import pytest

from minibit.record import Record
from minibit.regression import comparison as comparisons
from minibit.regression.compare import compare
from minibit.regression.evidence import LOOKS, Verdict
from minibit.regression.metrics import SERVING
from minibit.regression.sides import CouldNotCompare, DoesNotCount, Side
from minibit.regression.trials import Trial, differences

BASE, HEAD = (Side(name, name, Path(sys.executable)) for name in ("base", "head"))
KEYS = [metric.key for metric in SERVING]


class Fake:
    """A workload made up."""

    def pair(self, order, seed):
        """Run one side after the other."""
        return {side.name: self.run(side, seed) for side in order}


class MadeUp(Fake):
    """Figures of a serving workload: 1.0 each, times what the head is worse by, with a little noise."""

    kind = "serving"

    def __init__(self, name="serving", *, spread=0.002, seconds=0.0, **worse):
        self.name = name
        self.spread = spread
        self.seconds = seconds
        self.worse = worse
        self.calls = []
        self.rng = random.Random(5)

    def run(self, side, seed):
        """Return made-up figures."""
        self.calls.append((side.name, seed))
        time.sleep(self.seconds)
        figures = {}
        for metric in SERVING:
            cost = self.rng.lognormvariate(0, self.spread)
            if side.name == "head":
                cost *= self.factor(metric.key)
            figures[metric.key] = 1 / cost if metric.larger_is_better else cost
        return Trial(figures)

    def factor(self, key):
        """Return how much worse the head is now."""
        factor = self.worse.get(key, 1.0)
        return factor(len(self.calls)) if callable(factor) else factor


def verdicts(made):
    """Return the verdict on each metric."""
    return {metric.key: metric.verdict for metric in made.metrics}


def test_identical_sides_pass_at_the_first_look():
    """Nothing is run longer than it takes to decide."""
    runs = MadeUp()
    made = compare(BASE, HEAD, [runs], rng_seed=40)
    assert made.verdict == Verdict.NOT_REGRESSED
    assert set(verdicts(made).values()) == {Verdict.NOT_REGRESSED}
    assert len(runs.calls) == 2 + 2 * LOOKS[0]  # both warm up, uncounted


def test_sides_take_turns_and_share_seeds():
    """A B B A: what drifts slowly falls on both sides alike; a pair differs in nothing but its side."""
    runs = MadeUp()
    compare(BASE, HEAD, [runs], rng_seed=40)
    pairs = runs.calls[2:]
    assert [name for name, _ in pairs[:8]] == ["base", "head", "head", "base"] * 2
    assert [seed for _, seed in pairs[:6]] == [40, 40, 41, 41, 42, 42]


@pytest.mark.parametrize("key", KEYS)
def test_what_is_worse_is_named_and_confirmed(key):
    """One metric of several, a rate as well as a time."""
    made = compare(BASE, HEAD, [MadeUp(**{key: 1.08})])
    assert made.verdict == Verdict.REGRESSED
    assert [metric.key for metric in made.regressed] == [key]
    assert made.regressed[0].confirmation.ratio == pytest.approx(1.08, abs=0.01)
    assert made.regressed[0].evidence.ratio == pytest.approx(1.08, abs=0.01)


def test_what_is_better_passes():
    """A faster head is no regression, by whatever factor."""
    assert compare(BASE, HEAD, [MadeUp(tracker_cpu=0.5, tracker_rate=0.5)]).verdict == Verdict.NOT_REGRESSED


def test_an_alarm_that_does_not_repeat_is_none():
    """A slow minute of the machine that falls on one side looks like a regression, once."""
    runs = MadeUp(tracker_cpu=lambda calls: 1.2 if calls <= 2 + 2 * LOOKS[0] else 1.0)
    made = compare(BASE, HEAD, [runs])
    assert made.verdict == Verdict.NOT_REGRESSED
    told = next(metric for metric in made.metrics if metric.key == "tracker_cpu")
    assert told.evidence.verdict == Verdict.REGRESSED
    assert told.confirmation.verdict == Verdict.NOT_REGRESSED
    assert "CPU per tracker request looked regressed, but fresh pairs did not confirm it" in made.remarks


def test_noise_costs_pairs_and_the_budget_ends_it():
    """What cannot be decided in time is inconclusive, and says so; the first look is always taken."""
    runs = MadeUp(spread=0.5, seconds=0.005)
    made = compare(BASE, HEAD, [runs], budget_s=0.3)
    assert made.verdict == Verdict.INCONCLUSIVE
    assert LOOKS[0] <= made.workloads[0].pairs < LOOKS[-1]
    assert made.workloads[0].pairs in LOOKS
    noisy = compare(BASE, HEAD, [MadeUp(spread=0.5)], budget_s=60)
    assert noisy.workloads[0].pairs >= LOOKS[-1]


def test_a_workload_that_is_decided_runs_no_more():
    """Time goes to what is still open."""
    calm, noisy = MadeUp("calm"), MadeUp("noisy", spread=0.05)
    made = compare(BASE, HEAD, [calm, noisy], budget_s=60)
    assert made.workloads[0].pairs == LOOKS[0]
    assert made.workloads[1].pairs > LOOKS[0]


def test_what_regresses_first_does_not_hide_the_rest():
    """Every workload has its first look, also if one before it has decided the verdict already."""
    first, second = MadeUp("first", tracker_cpu=1.3), MadeUp("second", block_latency_p50=1.3)
    made = compare(BASE, HEAD, [first, second])
    assert made.verdict == Verdict.REGRESSED
    assert [(metric.workload, metric.key) for metric in made.regressed] == [
        ("first", "tracker_cpu"),
        ("second", "block_latency_p50"),
    ]
    assert all(len(metric.base) == LOOKS[0] for metric in made.metrics)


def test_a_number_of_pairs_may_be_asked_for():
    """A selftest wants all of them, whatever they say."""
    made = compare(BASE, HEAD, [MadeUp(tracker_cpu=2.0)], pairs=9)
    assert [len(metric.base) for metric in made.metrics] == [9, 9, 9]
    assert all(metric.confirmation is None for metric in made.metrics)


def test_a_gate_of_infinity_leaves_a_metric_out():
    """What a machine cannot see is not judged there; it must not be passed either."""
    made = compare(BASE, HEAD, [MadeUp()], gates={"tracker_cpu": float("inf")})
    assert "tracker_cpu" not in verdicts(made)
    with pytest.raises(CouldNotCompare, match="there is nothing to judge"):
        compare(BASE, HEAD, [MadeUp()], gates=dict.fromkeys(KEYS, float("inf")))


class Without(MadeUp):
    """Lacks a figure: on one side, on both, or from some run on."""

    def __init__(self, key, sides, after=0):
        super().__init__()
        self.key, self.sides, self.after = key, sides, after

    def run(self, side, seed):
        """Leave the figure out."""
        trial = super().run(side, seed)
        if side.name in self.sides and len(self.calls) > self.after:
            return Trial({**trial.figures, self.key: None})
        return trial


@pytest.mark.parametrize(
    ("sides", "after", "said"),
    [
        (["head"], 0, "CPU per tracker request of serving is missing on one side: head"),
        (["base"], 0, "CPU per tracker request of serving is missing on one side: base"),
        (["head"], 6, "CPU per tracker request of serving is missing in a run of head"),
    ],
)
def test_a_figure_that_is_missing_is_named(sides, after, said):
    """A benchmark that is gone must not pass in silence."""
    with pytest.raises(CouldNotCompare, match=said):
        compare(BASE, HEAD, [Without("tracker_cpu", sides, after)])


def test_a_figure_that_neither_side_has_is_remarked_upon():
    """It is no reason to refuse: nothing was lost by the change."""
    made = compare(BASE, HEAD, [Without("tracker_cpu", ["base", "head"])])
    assert "CPU per tracker request of serving is measured on neither side" in made.remarks
    assert "tracker_cpu" not in verdicts(made)


class Doubtful(MadeUp):
    """Some runs do not count."""

    def __init__(self, *bad):
        super().__init__()
        self.bad = bad

    def run(self, side, seed):
        """Raise at the given calls."""
        trial = super().run(side, seed)
        if len(self.calls) in self.bad:
            raise DoesNotCount(f"a run of {side.name} does not count: the host was busy")
        return trial


def test_a_pair_with_a_run_that_does_not_count_is_run_again():
    """A busy moment is none of the code's doing; it is told, and the pair has both of its runs anew."""
    runs = Doubtful(4)
    made = compare(BASE, HEAD, [runs], rng_seed=40)
    assert made.verdict == Verdict.NOT_REGRESSED
    assert runs.calls[2:6] == [("base", 40), ("head", 40), ("base", 40), ("head", 40)]
    assert "run again, 1 of at most 3: a run of head does not count: the host was busy" in made.remarks
    with pytest.raises(DoesNotCount, match="a run of head does not count"):
        compare(BASE, HEAD, [Doubtful(1, 4, 6, 9)])


def test_differences_of_scenarios():
    """A changed default changes what is measured; a knob that is new does not, and seeds and names never do."""
    base = {"name": "a", "rng_seed": 1, "groups": [{"count": 8, "rate": 5}], "picker": "random"}
    head = {"name": "b", "rng_seed": 2, "groups": [{"count": 9, "rate": 5}], "picker": "random", "pace": 3}
    assert differences(base, head) == (["groups.0.count is 8 and 9"], ["pace"])
    assert differences(base, base) == ([], [])


@pytest.fixture(scope="module")
def record(tmp_path_factory) -> Record:
    """Return the record of a small swarm."""
    from minibit import scenario
    from minibit.launcher.swarm import run_swarm

    return run_swarm(scenario.simple(peers=2, size_bytes=65536))


class Swarms(Fake):
    """A swarm whose records are changed on one side."""

    kind = name = "swarm"

    def __init__(self, record, **changes):
        self.record, self.changes = record, changes

    def run(self, side, seed):
        """Return the record, changed if it is the head's."""
        from minibit.regression.metrics import swarm_figures

        record = msgspec.structs.replace(self.record, **self.changes) if side.name == "head" else self.record
        return Trial(swarm_figures(record), record)


def test_swarms_are_compared(record):
    """Every figure of a record that is there on both sides gets a verdict."""
    made = compare(BASE, HEAD, [Swarms(record)])
    assert made.verdict == Verdict.NOT_REGRESSED
    assert {"completion_max", "cpu_per_gib", "pss", "messages", "received_per_useful"} <= verdicts(made).keys()
    assert made.workloads[0].scenario == record.scenario


def test_another_machine_is_refused(record):
    """Figures of two machines say nothing about a change."""
    other = msgspec.structs.replace(record.machine, id="elsewhere")
    with pytest.raises(CouldNotCompare, match="the runs are of different machines: id is"):
        compare(BASE, HEAD, [Swarms(record, machine=other)])


def test_another_scenario_is_refused(record):
    """The same file that means something else on one side."""
    changed = {**record.scenario, "max_neighbours": 7}
    with pytest.raises(CouldNotCompare, match="not the same on both sides: max_neighbours is 50 and 7"):
        compare(BASE, HEAD, [Swarms(record, scenario=changed)])


def test_what_only_one_side_knows_is_remarked_upon(record):
    """A new knob with a default is in the newer record only."""
    made = compare(BASE, HEAD, [Swarms(record, scenario={**record.scenario, "pace": 3})])
    assert "only one side knows the scenario's pace" in made.remarks


def test_a_comparison_is_written_and_read(tmp_path):
    """All pairs are kept: the evidence can be judged again."""
    made = compare(BASE, HEAD, [MadeUp(tracker_cpu=1.2)])
    comparisons.write(made, tmp_path / "c.json")
    assert comparisons.read(tmp_path / "c.json") == made
    assert comparisons.EXIT_CODES[made.verdict] == 1
