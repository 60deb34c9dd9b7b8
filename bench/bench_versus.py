"""MiniBit beside libtorrent, aria2 and the physical limit, in turn; what is not installed is named as missing."""

import pytest

from bench.rivals.clients import MIB, Work
from bench.versus import DEFAULT_CLIENTS, compare, write

REPEATS = 3
WORKS = {
    "8x128MiB": Work(8, 128 * MIB),
    "32x64MiB": Work(32, 64 * MIB),
    "200x16MiB": Work(200, 16 * MIB, block_size_bytes=MIB),
}


@pytest.mark.tier("full")
@pytest.mark.parametrize("name", WORKS)
def bench_versus(benchmark, bench_folder, name):
    """All clients, three times each; the table stands below and in versus-*.json."""
    benchmark.group = "MiniBit beside others (all runs of all clients; the table of each is printed below)"
    work = WORKS[name]
    repeats = 1 if work.peers > 100 else REPEATS
    outcomes, missing = benchmark.pedantic(compare, args=(work, DEFAULT_CLIENTS, repeats), rounds=1, iterations=1)
    benchmark.extra_info |= {
        "missing": missing,
        "seconds": {c: [r.seconds for r in runs] for c, runs in outcomes.items()},
    }
    assert all(outcomes[client] or client in missing for client in DEFAULT_CLIENTS)
    assert not any(run.note for run in outcomes["minibit"]), "MiniBit's figures do not count"
    write(bench_folder / f"versus-{name}.json", work, outcomes, missing)
