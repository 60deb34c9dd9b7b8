"""Swarm completion time: real processes rebuild a real file.

pytest-benchmark times the whole call (spawning and verifying included); the figure that matters, from start signal to
last completion, is ``makespan_s`` in extra_info and in the record kept of every round.
"""

import itertools

import pytest

from minibit import record as records
from minibit import scenario
from minibit.core.blocks import MIB
from minibit.launcher.swarm import run_swarm

RATE_BYTES_PER_S = 1e6  # sixteen leechers leave a two-core host half idle
ROUNDS = 3
TIER_OF = {2: "quick", 4: "default", 8: "quick", 16: "default", 32: "full", 64: "full"}
SIZES = [pytest.param(peers, marks=pytest.mark.tier(tier)) for peers, tier in TIER_OF.items()]
BUSY_MAX = 0.9


def run_and_keep(benchmark, bench_folder, name, rounds, **given):
    """Benchmark a swarm; verify every file inside the target; keep a record of every round."""
    number = itertools.count()
    kept = []

    def target():
        record = run_swarm(scenario.simple(name=name, rng_seed=next(number), **given))
        assert all(peer.completed and peer.verified is not False for peer in record.peers)
        ledger = record.ledger
        assert ledger.useful_bytes == given["peers"] * given["size_bytes"]
        assert ledger.received_bytes == (
            ledger.useful_bytes + ledger.duplicate_bytes + ledger.corrupt_bytes + ledger.aborted_bytes
        )
        kept.append(record)

    benchmark.pedantic(target, rounds=rounds, iterations=1)
    makespans = sorted(record.makespan_s for record in kept)
    benchmark.extra_info |= {
        "peers": given["peers"],
        "size_bytes": given["size_bytes"],
        "makespan_s": makespans,
        "valid": [record.valid for record in kept],
        "bound_ratio": [record.bound_ratio for record in kept],
        "cpu_s_per_gib": [record.cpu_s_per_gib for record in kept],
    }
    for round_number, record in enumerate(kept):
        records.write(record, bench_folder / "records" / f"{name}-r{round_number}.json")
    return kept


@pytest.mark.parametrize("peers", SIZES)
def bench_swarm_uncapped(benchmark, bench_folder, quick, peers):
    """As fast as the machine goes."""
    benchmark.group = "swarm completion, no limits, 32 MiB (whole call; makespan in the records)"
    run_and_keep(
        benchmark, bench_folder, f"uncapped-{peers:04d}", 1 if quick else ROUNDS, peers=peers, size_bytes=32 * MIB
    )


@pytest.mark.tier("full")
@pytest.mark.parametrize("peers", [200, 1000])
def bench_swarm_crowd(benchmark, bench_folder, peers):
    """Many processes on few cores: what a message costs decides."""
    benchmark.group = "swarm completion, no limits, 16 MiB in blocks of 1 MiB (whole call; makespan in the records)"
    run_and_keep(
        benchmark, bench_folder, f"crowd-{peers:04d}", 1, peers=peers, size_bytes=16 * MIB, block_size_bytes=MIB
    )


@pytest.mark.parametrize("peers", SIZES)
def bench_swarm_capped(benchmark, bench_folder, quick, peers):
    """Every uplink limited: held against the bounds."""
    benchmark.group = "swarm completion, 1 MB/s uplinks, 8 MiB (whole call; makespan in the records)"
    kept = run_and_keep(
        benchmark, bench_folder, f"capped-{peers:04d}", 1 if quick else ROUNDS, peers=peers, size_bytes=8 * MIB,
        upload_rate_bytes_per_s=RATE_BYTES_PER_S,
    )  # fmt: skip
    for record in kept:
        assert record.makespan_s >= 0.99 * max(record.bound_s, record.store_and_forward_bound_s)
