"""The peers that a load test plays: an honest tracker is never accused, and every kind of fault is named."""

import random
from collections import Counter

import pytest

from minibit.load.population import NUMWANT_MAX, Answer, Fault, Kind, Population


class ModelTracker:
    """A tracker as it should be; ``spoil`` changes its answer, ``deaf`` says which announces it does not hear."""

    def __init__(self, spoil=lambda peers, action: peers, deaf=lambda action: False, counts=True):
        self.rng = random.Random(1)
        self.swarms = {}
        self.spoil, self.deaf, self.counts = spoil, deaf, counts

    def answer(self, action):
        member = action.member
        swarm = self.swarms.setdefault(member.swarm.info_hash, set())
        if not self.deaf(action):
            if action.kind is Kind.STOP:
                swarm.discard(member.port)
            elif action.kind is not Kind.ASK:
                swarm.add(member.port)
        others = sorted(swarm - {member.port})
        peers = self.rng.sample(others, min(len(others), action.numwant))
        total = len(swarm) if self.counts else None
        return Answer([("127.0.0.1", port) for port in self.spoil(peers, action)], total, 1800.0)


def play(population, tracker, requests=5000, in_flight=20, lose=0.0):
    """Return the faults found; requests overlap, and the tracker hears each at some moment while it is out."""
    rng = random.Random(2)
    found = Counter()
    out, late = [], []
    for number in range(requests):
        if late and rng.random() < 0.1:
            tracker.answer(late.pop(0))  # given up long ago, and carried out only now, or once more
        out.append([population.next(number / 1000), None])
        unheard = [entry for entry in out if entry[1] is None]
        for entry in unheard:
            if rng.random() < 0.3:
                entry[1] = tracker.answer(entry[0])
        heard = [entry for entry in out if entry[1] is not None]
        while len(out) > in_flight and heard:
            entry = heard.pop(rng.randrange(len(heard)))
            out.remove(entry)
            if rng.random() < lose:
                population.lose(entry[0])
                late.append(entry[0])
            else:
                found.update(population.judge(*entry))
    return found


@pytest.mark.parametrize("counts", [True, False])
@pytest.mark.parametrize("lose", [0.0, 0.02])
def test_an_honest_tracker_is_never_accused(counts, lose):
    """Requests overlap and some answers get lost; a false alarm would make the whole test worthless."""
    for seed in range(5):
        population = Population(seed, size=200, swarms=30)
        assert not play(population, ModelTracker(counts=counts), lose=lose)


FAULTS = {
    "hands out the caller": ({"spoil": lambda peers, action: [*peers, action.member.port][-50:]}, Fault.CALLER),
    "ignores numwant": (
        {"spoil": lambda peers, action: [*peers, *range(2000, 2000 + 1 + action.numwant)]},
        Fault.EXCESS,
    ),
    "hands out twice": ({"spoil": lambda peers, action: peers[:1] + peers[: action.numwant - 1]}, Fault.TWICE),
    "hands out strangers": ({"spoil": lambda peers, action: [7, *peers][: action.numwant]}, Fault.STRANGER),
    "keeps who has left": ({"deaf": lambda action: action.kind is Kind.STOP, "counts": False}, Fault.DEPARTED),
    "forgets newcomers": ({"deaf": lambda action: action.kind is Kind.START, "counts": False}, Fault.MISSING),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_named(name):
    """The name is what tells a developer where to look."""
    options, fault = FAULTS[name]
    assert fault in play(Population(3, size=200, swarms=30), ModelTracker(**options))


@pytest.mark.parametrize("counts", [True, False])
def test_one_lost_announce_in_a_thousand_is_noticed(counts):
    """Such a loss heals by itself at the next announce: only who knows what to expect sees it."""
    rng = random.Random(4)
    tracker = ModelTracker(deaf=lambda _: rng.random() < 0.001, counts=counts)
    found = play(Population(4, size=300, swarms=50), tracker, requests=30_000)
    assert found[Fault.MISSING] + found[Fault.DEPARTED] + found[Fault.COUNT] > 0
    assert not set(found) - {Fault.MISSING, Fault.DEPARTED, Fault.COUNT}


def test_what_is_allowed_is_not_reported():
    """BEP 3 does not forbid to hand out the caller, and most trackers do."""
    tracker = ModelTracker(spoil=lambda peers, action: [action.member.port, *peers][: action.numwant])
    assert not play(Population(3, size=200, swarms=30, allowed=[Fault.CALLER]), tracker)


def test_the_same_seed_plays_the_same_lives():
    """A fault that was found must be found again."""

    def lives(seed):
        population, tracker, said = Population(seed, size=50, swarms=10), ModelTracker(), []
        for number in range(2000):
            action = population.next(float(number))
            said.append((action.kind, action.member.peer_id, action.member.port, action.numwant))
            population.judge(action, tracker.answer(action))
        return said

    assert lives(1) == lives(1)
    assert lives(1) != lives(2)


def test_a_member_starts_first_and_says_nothing_after_it_has_stopped():
    """The order in which a tracker hears of a peer is the protocol."""
    population, tracker = Population(5, size=50, swarms=10), ModelTracker()
    said = {}
    for number in range(5000):
        action = population.next(float(number))
        said.setdefault(action.member.peer_id, []).append(action.kind)
        population.judge(action, tracker.answer(action))
    assert all(kinds[0] is Kind.START for kinds in said.values())
    assert all(Kind.STOP not in kinds[:-1] for kinds in said.values())
    assert all(kinds.count(Kind.COMPLETE) <= 1 for kinds in said.values())
    kinds = Counter(kind for kinds in said.values() for kind in kinds)
    assert set(kinds) == set(Kind)
    assert len(population) == 50


def test_popularity_follows_zipf():
    """Trackers see a few huge swarms and many tiny ones."""
    population = Population(6, size=2000, swarms=100, zipf=1.0)
    for number in range(2000):
        population.judge(population.next(float(number)), Answer())
    sizes = [len(swarm.members) for swarm in population.swarms]
    assert sizes[0] == max(sizes)
    assert 1.3 < sizes[0] / sizes[1] < 3.0  # 2 in expectation: 386 and 193 of 2,000
    assert sum(sizes[50:]) < sizes[0]


def test_parts_never_share_a_swarm():
    """Each of several processes knows only what it said itself."""
    swarms = [{swarm.info_hash for swarm in Population(7, swarms=10, part=part, parts=3).swarms} for part in range(3)]
    assert sum(map(len, swarms)) == len(set().union(*swarms)) == 10
    assert all(len(Population(7, swarms=1, part=part, parts=3).swarms) == 1 for part in range(3))


def test_a_crowd_goes_to_one_swarm_and_leaves_again():
    """A flash crowd is one file that everybody wants, not more of the usual."""
    population, tracker = Population(8, size=100, swarms=50), ModelTracker()
    for number in range(100):
        population.judge(population.next(float(number)), Answer())
    population.crowd, population.size = True, 400
    for number in range(300):
        action = population.next(float(number))
        assert action.member.swarm is population.swarms[0]
        population.judge(action, Answer())
    population.crowd, population.size = False, 100
    assert not play(population, tracker, requests=0)
    for number in range(2000):
        population.judge(population.next(float(number)), Answer())
    assert len(population) == 100


def test_at_the_end_everybody_leaves_once():
    """A tracker of somebody else is left as it was, by those that vanished too; a lost farewell is not repeated."""
    population, tracker = Population(9, size=100, swarms=10), ModelTracker()
    for number in range(3000):
        action = population.next(float(number))
        population.judge(action, tracker.answer(action))
    lost = population.leave(0.0)
    population.lose(lost)
    while (action := population.leave(0.0)) is not None:
        population.judge(action, tracker.answer(action))
    assert sum(map(len, tracker.swarms.values())) == 1


@pytest.mark.parametrize("size", [20, 40])
def test_who_is_late_may_be_forgotten(size):
    """A tracker that drops peers which announce too rarely is right, also while the population is still filling."""
    population = Population(10, size=size, swarms=1)
    for number in range(20):
        population.judge(population.next(float(number)), Answer(interval_s=30.0))
    action = population.next(1000.0)
    assert population.overdue == 1
    assert not population.judge(action, Answer([], total=0))


def test_the_vanished_stay_few():
    """Else nobody could tell any more who is in a swarm, and a lost announce would go unnoticed."""
    population, tracker = Population(12, size=200, swarms=5), ModelTracker()
    assert not play(population, tracker, requests=30_000)
    assert sum(len(swarm.members) for swarm in population.swarms) < 1.25 * 200
    assert all(swarm.at_most - swarm.at_least < 30 for swarm in population.swarms)


def test_it_asks_for_no_more_than_trackers_give():
    """Beyond that a short hand-out would be no fault."""
    population = Population(11, size=50)
    wanted = []
    for number in range(500):
        action = population.next(float(number))
        wanted.append(action.numwant)
        population.judge(action, Answer())
    assert max(wanted) == NUMWANT_MAX
    assert min(wanted) == 0  # who stops wants nobody
