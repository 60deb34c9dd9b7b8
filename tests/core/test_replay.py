"""The same seed and the same events give the same actions: in one process, in another, and from a run's log.

All runs here are simulated in virtual time.
"""

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from random import Random

import msgspec
import pytest
from virtual_swarm import MB, VirtualSwarm, geometry

from minibit.core import events as ev
from minibit.core.choker import CHOKERS
from minibit.core.picker import PICKERS
from minibit.core.session import Session

DEADLINE_S = 60
EVENTS = ev.Event.__subclasses__()


def small_swarm(*, rng_seed=0, rate=2 * MB, picker="rarest-first", choker="tit-for-tat"):
    """Run a swarm with everything in it: late joiners, downlinks, a peer that is killed."""
    swarm = VirtualSwarm(
        seed_rate=rate,
        leecher_rates=[rate] * 6,
        download_rates=[None, None, 3 * MB, None, None, None],
        start_delays_s=[0.0, 0.0, 0.0, 0.1, 0.2, 0.0],
        geometry=geometry(2, 64),
        rng_seed=rng_seed,
        picker=picker,
        choker=choker,
    )
    swarm.kill(swarm.leechers[1], at_s=0.3)
    swarm.run()
    return swarm


def fingerprint(swarm):
    """Return a digest of everything that all sessions of a run saw and did."""
    digest = hashlib.sha256()
    for peer in swarm.peers.values():
        digest.update(repr(peer.log).encode())
    return digest.hexdigest()


def replayed(swarm, peer, log, *, picker, choker, rng_seed=0):
    """Feed a peer's log to a new session; return what it does."""
    session = Session(
        swarm.geometry,
        rng=Random(f"{rng_seed}/{peer.key}"),
        picker=PICKERS[picker](),
        choker=CHOKERS[choker](),
        upload_rate_bytes_per_s=peer.rate_bytes_per_s,
        download_rate_bytes_per_s=peer.download_rate_bytes_per_s,
    )
    return [tuple(session.handle(entry.event, entry.now_s)) for entry in log]


@pytest.mark.parametrize("rate", [2 * MB, None])
@pytest.mark.parametrize("picker", PICKERS)
@pytest.mark.parametrize("choker", CHOKERS)
def test_a_replayed_log_gives_the_same_actions(rate, picker, choker):
    """A strange run can be taken home as a log and looked at in a debugger."""
    swarm = small_swarm(rate=rate, picker=picker, choker=choker)
    for peer in swarm.peers.values():
        expected = [entry.actions for entry in peer.log]
        assert replayed(swarm, peer, peer.log, picker=picker, choker=choker) == expected
        assert len(expected) > 20


def test_a_log_survives_being_written():
    """A log is of use on another machine only if every event and time comes back from JSON exactly."""
    swarm = small_swarm()
    entries = [(entry.now_s, entry.event) for peer in swarm.peers.values() for entry in peer.log]
    kind = list[tuple[float, eval(" | ".join(f"ev.{event.__name__}" for event in EVENTS))]]
    assert msgspec.json.decode(msgspec.json.encode(entries), type=kind) == entries
    assert len({type(event) for _, event in entries}) > 8


def test_another_seed_gives_another_run():
    """Were the seed without effect, repeats of an experiment would be one experiment."""
    assert len({fingerprint(small_swarm(rng_seed=seed)) for seed in (0, 1, 0)}) == 2


def test_the_order_of_hashes_decides_nothing():
    """Python orders sets of strings anew in every process; a choice that hung on it could never be repeated."""
    code = "import test_replay as t; print(t.fingerprint(t.small_swarm()), t.fingerprint(t.small_swarm(rate=None)))"
    prints = set()
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=Path(__file__).parent,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        prints.add(done.stdout)
    assert prints == {f"{fingerprint(small_swarm())} {fingerprint(small_swarm(rate=None))}\n"}
