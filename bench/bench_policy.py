"""The pure policy: one pick, one rechoke, one message through a session."""

from random import Random

import pytest

from minibit.core import events as ev
from minibit.core.blocks import Geometry, full_mask
from minibit.core.choker import CHOKERS, Candidate, TitForTat
from minibit.core.picker import PICKERS, Availability
from minibit.core.session import Session

BLOCKS = [128, pytest.param(16_384, marks=pytest.mark.tier("default"))]


@pytest.mark.parametrize("name", sorted(PICKERS))
@pytest.mark.parametrize("num_blocks", BLOCKS)
def bench_pick(benchmark, name, num_blocks):
    """One block out of half of them, 50 neighbours counted."""
    benchmark.group = "pick one block"
    rng = Random(1)
    availability = Availability(num_blocks)
    for _ in range(50):
        availability.add(rng.getrandbits(num_blocks))
    candidates = rng.getrandbits(num_blocks) | 1
    picker = PICKERS[name]()

    def target():
        index = picker.pick(candidates, availability, rng)
        assert candidates >> index & 1

    benchmark(target)
    benchmark.extra_info["blocks"] = num_blocks


@pytest.mark.parametrize("neighbours", [8, 50])
def bench_rechoke(benchmark, neighbours):
    """One rechoke of tit-for-tat."""
    benchmark.group = "one rechoke"
    rng = Random(1)
    candidates = [Candidate(f"127.0.0.1:{i}", interested=True, received_lately_bytes=rng.random(), given_bytes=i)
                  for i in range(neighbours)]  # fmt: skip
    choker = TitForTat()

    def target():
        assert len(choker.choose(candidates, rng, rotate=True).unchoked) == 5

    benchmark(target)


@pytest.mark.parametrize("neighbours", [8, 50])
def bench_session_event(benchmark, neighbours):
    """One HAVE through a session with so many neighbours: what every message costs in policy."""
    benchmark.group = "one event through a session"
    session = Session(
        Geometry(128 << 20, 1 << 20), rng=Random(1), picker=PICKERS["rarest-first"](), choker=CHOKERS["tit-for-tat"]()
    )
    session.handle(ev.Started(), 0.0)
    for i in range(neighbours):
        session.handle(ev.PeerSeen(f"127.0.0.1:{i}", f"p{i}"), 0.0)
        session.handle(ev.BitfieldReceived(f"127.0.0.1:{i}", tuple(range(0, 128, 2))), 0.0)
    assert len(session.neighbours) == neighbours
    event = ev.HavesReceived("127.0.0.1:3", (5,))

    def target():
        session.handle(event, 1.0)
        assert session.neighbours["127.0.0.1:3"].have.mask & ~full_mask(128) == 0

    benchmark(target)
