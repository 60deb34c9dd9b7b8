"""Swarm completion time: real processes rebuild a real file.

pytest-benchmark times the whole call (spawning and verifying included); the figure that matters, from start signal to
last completion, is ``makespan_s`` in extra_info and in the record kept of every round.
"""

import itertools
from pathlib import Path

import pytest

from minibit import record as records
from minibit import scenario
from minibit.core.blocks import KIB, MIB
from minibit.launcher.swarm import run_swarm

RATE_BYTES_PER_S = 1e6  # sixteen leechers leave a two-core host half idle
ROUNDS = 3
TIER_OF = {2: "quick", 4: "default", 8: "quick", 16: "default", 32: "full", 64: "full"}
SIZES = [pytest.param(peers, marks=pytest.mark.tier(tier)) for peers, tier in TIER_OF.items()]
SCENARIOS = Path(__file__).resolve().parent.parent / "scenarios"
EQUAL_UPLINKS = {  # leechers, size, block size, rate of everybody
    "equal-16": (16, 32 * MIB, 256 * KIB, 4e6),
    "equal-8": (8, 16 * MIB, 128 * KIB, 2e6),
    "equal-32": (32, 16 * MIB, 128 * KIB, 1e6),
}


def run_and_keep(benchmark, folder, name, rounds, plan):
    """Benchmark a swarm; verify every file inside the target; keep a record of every round."""
    number = itertools.count()
    kept = []

    def target():
        record = run_swarm(scenario.override(plan, name=name, rng_seed=next(number)))
        assert all(peer.completed and peer.verified is not False for peer in record.peers)
        ledger = record.ledger
        leechers = sum(peer.role == "leecher" for peer in record.peers)
        assert ledger.useful_bytes == leechers * plan.file.size_bytes
        assert ledger.received_bytes == (
            ledger.useful_bytes + ledger.duplicate_bytes + ledger.corrupt_bytes + ledger.aborted_bytes
        )
        kept.append(record)

    benchmark.pedantic(target, rounds=rounds, iterations=1)
    makespans = sorted(record.makespan_s for record in kept)
    benchmark.extra_info |= {
        "peers": len(kept[0].peers) - 1,
        "size_bytes": plan.file.size_bytes,
        "makespan_s": makespans,
        "valid": [record.valid for record in kept],
        "bound_ratio": [record.bound_ratio for record in kept],
        "cpu_s_per_gib": [record.cpu_s_per_gib for record in kept],
    }
    for round_number, record in enumerate(kept):
        records.write(record, folder / f"{name}-r{round_number}.json")
    return kept


@pytest.mark.parametrize("peers", SIZES)
def bench_swarm_uncapped(benchmark, bench_folder, quick, peers):
    """As fast as the machine goes."""
    benchmark.group = "swarm completion, no limits, 32 MiB (whole call; makespan in the records)"
    plan = scenario.simple(peers=peers, size_bytes=32 * MIB)
    run_and_keep(benchmark, bench_folder / "records", f"uncapped-{peers:04d}", 1 if quick else ROUNDS, plan)


@pytest.mark.tier("full")
@pytest.mark.parametrize("peers", [200, 1000])
def bench_swarm_crowd(benchmark, bench_folder, peers):
    """Many processes on few cores: what a message costs decides."""
    benchmark.group = "swarm completion, no limits, 16 MiB in blocks of 1 MiB (whole call; makespan in the records)"
    plan = scenario.simple(peers=peers, size_bytes=16 * MIB, block_size_bytes=MIB)
    run_and_keep(benchmark, bench_folder / "records", f"crowd-{peers:04d}", 1, plan)


@pytest.mark.parametrize("peers", SIZES)
def bench_swarm_capped(benchmark, bench_folder, quick, peers):
    """Every uplink limited: held against the bounds."""
    benchmark.group = "swarm completion, 1 MB/s uplinks, 8 MiB (whole call; makespan in the records)"
    plan = scenario.simple(peers=peers, size_bytes=8 * MIB, upload_rate_bytes_per_s=RATE_BYTES_PER_S)
    kept = run_and_keep(benchmark, bench_folder / "records", f"capped-{peers:04d}", 1 if quick else ROUNDS, plan)
    for record in kept:
        assert record.makespan_s >= 0.99 * max(record.bound_s, record.store_and_forward_bound_s)


@pytest.mark.tier("full")
@pytest.mark.parametrize("name", [*EQUAL_UPLINKS, "thirds", "slow-seed", "downcap", "odd"])
def bench_swarm_bound(benchmark, bench_folder, name):
    """How near the bound: equal uplinks, and what is not equal (scenarios/). The table stands below."""
    benchmark.group = "swarms held against the bound (whole call; makespan in the records)"
    if name in EQUAL_UPLINKS:
        peers, size, block, rate = EQUAL_UPLINKS[name]
        plan = scenario.simple(
            peers=peers, size_bytes=size, block_size_bytes=block, upload_rate_bytes_per_s=rate
        )  # fmt: skip
    else:
        plan = scenario.load(SCENARIOS / f"{name}.toml")
    for record in run_and_keep(benchmark, bench_folder / "bounds", name, ROUNDS, plan):
        assert record.makespan_s >= 0.99 * record.bound_s
