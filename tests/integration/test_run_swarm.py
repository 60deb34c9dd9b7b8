"""``run_swarm``: scenario in, judged record out, with real processes and with threads."""

import contextlib
import shutil
import threading

import psutil
import pytest

from minibit import record as records
from minibit import scenario
from minibit.core.blocks import KIB, MIB
from minibit.errors import StorageError, SwarmError
from minibit.launcher.processes import allow_descriptors, check_threads
from minibit.launcher.swarm import run_swarm
from minibit.scenario import FileSpec, Group, Scenario


def sound(record):
    """Whether nothing but the load of the host speaks against the record."""
    return [reason for reason in record.invalid_reasons if "busy during a rate-capped run" not in reason] == []


def by_id(record):
    return {peer.peer_id: peer for peer in record.peers}


def swarm_of(*groups, size_bytes=MIB, **options):
    file = FileSpec(size_bytes=size_bytes)
    return Scenario(name="test", file=file, groups=(Group(name="seed", role="seed", count=1), *groups), **options)


def children():
    """Return the processes of this test's own swarms, by what they call themselves."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            found[" ".join(process.cmdline()).strip()] = process
    return {title: process for title, process in found.items() if title.startswith("minibit ")}


# -- a whole run -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("isolation", ["process", "thread"])
def test_a_swarm_is_verified_and_its_ledger_closes(isolation):
    """The main job, in both isolations: every file equals the source, every byte is accounted for."""
    phases = []
    plan = scenario.simple(peers=3, size_bytes=2 * MIB + 1, block_size_bytes=64 * KIB, isolation=isolation)
    record = run_swarm(plan, watch=lambda now: phases.append(now.phase))
    assert record.invalid_reasons == []
    assert record.valid
    assert [peer.peer_id for peer in record.peers] == ["seed-000", "leecher-000", "leecher-001", "leecher-002"]
    leechers = [peer for peer in record.peers if peer.role == "leecher"]
    assert all(peer.completed and peer.verified and peer.reported for peer in leechers)
    assert {peer.useful_bytes for peer in leechers} == {2 * MIB + 1}
    ledger = record.ledger
    assert ledger.useful_bytes == 3 * (2 * MIB + 1)
    assert ledger.received_bytes == sum(
        (ledger.useful_bytes, ledger.duplicate_bytes, ledger.corrupt_bytes, ledger.aborted_bytes)
    )
    assert (ledger.corrupt_bytes, ledger.external_bytes) == (0, 0)
    assert all(peer.timeline[-1][1] == 33 for peer in leechers)
    assert 0 < record.completion_time_s.min <= record.completion_time_s.max
    assert abs(record.makespan_s - record.completion_time_s.max) < 1e-6
    assert 0 < record.time_to_first_block_s <= record.completion_time_s.max
    assert record.spawn_time_s > 0
    assert record.cpu_s > 0
    assert record.requests.block >= 99
    assert record.requests.tracker >= 4
    assert record.leftovers == []
    assert record.bound_s is None
    assert list(dict.fromkeys(phases)) == ["prepare", "spawn", "memory", "run", "verify"]
    assert children() == {}


def test_memory_is_reported_for_processes_and_not_for_threads():
    """Threads share one memory: a share of it for each would be made up."""
    record = run_swarm(scenario.simple(peers=2, size_bytes=MIB))
    assert all(MIB < peer.pss_bytes < 200 * MIB for peer in record.peers)
    assert record.pss_bytes_max == max(peer.pss_bytes for peer in record.peers)
    assert record.pss_bytes_mean <= record.pss_bytes_max
    assert all(peer.cpu_s > 0 for peer in record.peers)
    threads = run_swarm(scenario.simple(peers=1, size_bytes=KIB, isolation="thread"))
    assert threads.pss_bytes_max is None
    assert threads.peers[0].cpu_s is None


def test_a_capped_swarm_is_held_against_its_bounds():
    """The figure the whole project is about: how far from what is possible."""
    record = run_swarm(scenario.simple(peers=3, size_bytes=MIB, block_size_bytes=32 * KIB, upload_rate_bytes_per_s=1e6))
    assert sound(record)
    assert record.bound_s == pytest.approx(MIB / 1e6)
    assert record.store_and_forward_bound_s > record.bound_s
    assert 0.99 <= record.bound_ratio < 2
    assert record.bound_ratio == pytest.approx(record.makespan_s / record.bound_s)
    seed = by_id(record)["seed-000"]
    assert 0.3 < seed.uplink_use <= 1.05
    assert seed.upload_peak_bytes_per_s <= 1.1e6 + 50_000


@pytest.mark.parametrize("size_bytes", [0, 1])
def test_the_smallest_files_make_valid_swarms(size_bytes):
    """An empty file is complete at once; one byte is a block."""
    record = run_swarm(scenario.simple(peers=2, size_bytes=size_bytes))
    assert record.valid, record.invalid_reasons
    assert all(peer.completed and peer.verified is not False for peer in record.peers)
    assert record.ledger.useful_bytes == 2 * size_bytes


def test_a_download_cap_is_kept():
    """The other direction of the link has a limit of its own."""
    record = run_swarm(
        scenario.simple(peers=1, size_bytes=512 * KIB, block_size_bytes=32 * KIB, download_rate_bytes_per_s=1e6)
    )
    assert sound(record)
    assert record.bound_binding_term is not None
    assert record.makespan_s >= 0.99 * 512 * KIB / 1e6


def test_the_record_can_be_written_read_and_run_again(tmp_path):
    """A figure that nobody can reproduce is worth nothing."""
    record = run_swarm(scenario.simple(peers=1, size_bytes=64 * KIB, rng_seed=5, isolation="thread"))
    records.write(record, tmp_path / "record.json")
    again = records.read(tmp_path / "record.json")
    assert again == record
    assert scenario.from_record(again.scenario).resolved() == scenario.from_record(record.scenario)
    assert again.rng_seed == 5


# -- what a scenario can say -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("on_complete", "helped"), [("seed", True), ("leave", False)])
def test_who_leaves_when_complete_helps_no_latecomer(on_complete, helped):
    """Start delays and leaving in one run: the latecomer finds the early ones seeding, or gone."""
    early = Group(name="early", count=2, on_complete=on_complete)
    late = Group(name="late", count=1, start_delay_s=1.5)
    plan = swarm_of(early, late, size_bytes=MIB, block_size_bytes=16 * KIB)
    record = run_swarm(plan)
    assert sound(record)
    peers = by_id(record)
    assert peers["late-000"].start_delay_s == 1.5
    assert all(peers[f"early-00{number}"].completion_time_s < 1.5 for number in range(2))
    assert record.makespan_s > 1.5
    assert peers["late-000"].completion_time_s < record.makespan_s - 1.4
    helpers = {name for name in peers["late-000"].received_from if name.startswith("early")}
    assert bool(helpers) is helped
    assert record.bound_s is None


def test_a_free_rider_gives_nothing_and_gets_the_file():
    """What tit-for-tat is measured against."""
    plan = swarm_of(
        Group(name="rider", count=1, free_rider=True), Group(name="giver", count=2), block_size_bytes=16 * KIB
    )
    record = run_swarm(plan)
    assert record.valid, record.invalid_reasons
    rider = by_id(record)["rider-000"]
    assert (rider.sent_bytes, rider.useful_bytes, rider.verified) == (0, MIB, True)


def test_a_real_file_with_a_name_in_any_script_is_shared_and_kept(tmp_path):
    """Users have such files; the folder given keeps every peer's copy."""
    source = tmp_path / "Übung 文件 №1 '\"$x.bin"
    source.write_bytes(b"content of my own" * 10_000)
    keep = tmp_path / "keep"
    record = run_swarm(scenario.simple(peers=2, path=source), keep=keep)
    assert record.valid, record.invalid_reasons
    copies = sorted(path for path in keep.rglob(source.name) if path.is_file())
    assert len(copies) == 2
    assert all(path.read_bytes() == source.read_bytes() for path in copies)
    assert (keep / "swarm.torrent").exists()
    assert source.exists()
    assert record.scenario["file"]["path"] == str(source)


def test_a_folder_with_something_in_it_is_not_used(tmp_path):
    """The user's own files must not be mixed with a run's."""
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(StorageError, match="is not empty"):
        run_swarm(scenario.simple(peers=1, size_bytes=0), keep=tmp_path)
    with pytest.raises(StorageError, match="cannot keep files"):
        run_swarm(scenario.simple(peers=1, size_bytes=0), keep=tmp_path / "mine" / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_disk_too_small_is_said_before_anything_is_written(tmp_path, monkeypatch):
    """Files are sparse until they fill: without the look ahead a run would die in its middle."""
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=3 * MIB))
    with pytest.raises(StorageError, match=r"has room for 3 MiB, the files of this swarm take 4 MiB"):
        run_swarm(scenario.simple(peers=3, size_bytes=MIB), keep=tmp_path / "kept")
    assert list((tmp_path / "kept").rglob("*.bin")) == []
    assert run_swarm(scenario.simple(peers=2, size_bytes=MIB, block_size_bytes=64 * KIB)).valid


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def test_a_leecher_killed_in_mid_transfer_is_recorded_and_the_others_complete(wait_until):
    """Machines die: the swarm goes on, and the record does not pretend."""
    killed = []

    def kill_one(now):
        if now.phase == "run" and now.done > 8 and not killed:
            victim = children()["minibit leecher-001"]
            victim.kill()
            killed.append(victim.pid)

    plan = scenario.simple(peers=3, size_bytes=MIB, block_size_bytes=32 * KIB, upload_rate_bytes_per_s=600_000)
    record = run_swarm(plan, watch=kill_one)
    assert killed
    peers = by_id(record)
    dead = peers.pop("leecher-001")
    assert (dead.completed, dead.reported, dead.failure) == (False, False, "its process ended")
    assert all(peer.completed and peer.verified is not False for peer in peers.values())
    assert not record.valid
    assert "leecher-001 did not complete" in record.invalid_reasons
    assert not [reason for reason in record.invalid_reasons if "ledger" in reason or " sent " in reason]
    assert record.leftovers == []
    assert record.makespan_s is None
    assert children() == {}


@pytest.mark.parametrize("isolation", ["process", "thread"])
def test_a_time_out_says_who_was_stuck_waiting_for_what(isolation):
    """A bare hang must become a diagnosis."""
    plan = scenario.simple(
        peers=2,
        size_bytes=MIB,
        block_size_bytes=16 * KIB,
        upload_rate_bytes_per_s=50_000,
        timeout_s=1,
        isolation=isolation,
    )
    record = run_swarm(plan)
    assert not record.valid
    leechers = [peer for peer in record.peers if peer.role == "leecher"]
    for peer in leechers:
        assert not peer.completed
        assert peer.verified is False
        assert f"has {peer.timeline[-1][1] if peer.timeline else 0} of 64 blocks" in peer.waiting_for
        assert "neighbours" in peer.waiting_for
    assert record.completion_time_s is None
    assert record.leftovers == []
    assert children() == {}


@pytest.mark.parametrize("isolation", ["process", "thread"])
def test_whatever_ends_the_launcher_early_every_child_is_gone(isolation):
    """Ctrl-C and every bug of a caller come through here."""
    threads = threading.active_count()

    def interrupt(now):
        if now.phase == "run" and now.done:
            raise KeyboardInterrupt

    plan = scenario.simple(peers=3, size_bytes=MIB, upload_rate_bytes_per_s=300_000, isolation=isolation)
    with pytest.raises(KeyboardInterrupt):
        run_swarm(plan, watch=interrupt)
    assert children() == {}
    assert threading.active_count() <= threads + 1  # a waitress thread may still be on its last instruction


def test_a_tracker_that_dies_ends_the_run_in_one_line():
    """Without it nothing can be measured; the error must not be about the first peer that noticed."""

    def kill_tracker(now):
        if now.phase == "run":
            tracker = children().get("minibit tracker")
            if tracker:
                tracker.kill()

    plan = scenario.simple(peers=2, size_bytes=MIB, upload_rate_bytes_per_s=300_000)
    with pytest.raises(SwarmError, match=r"^the tracker ended during the run$"):
        run_swarm(plan, watch=kill_tracker)
    assert children() == {}


@pytest.mark.parametrize("isolation", ["process", "thread"])
def test_a_source_that_changes_before_the_seed_reads_it_is_said_in_one_line(tmp_path, isolation):
    """The seed verifies its file: a swarm of wrong bytes never starts."""
    source = tmp_path / "changing.bin"
    source.write_bytes(bytes(100_000))

    def change(now):
        if now.phase == "prepare" and now.done == now.total:
            source.write_bytes(b"other" * 20_000)

    with pytest.raises(SwarmError, match=r"^seed-000: .*is not the file that the torrent describes"):
        run_swarm(scenario.simple(peers=1, path=source, isolation=isolation), watch=change)
    assert children() == {}


def test_too_few_descriptors_are_said_before_the_swarm_hangs():
    """A swarm of thousands under a small limit would fail somewhere in the middle."""
    with pytest.raises(SwarmError, match="open files"):
        allow_descriptors(1 << 40)


def test_too_few_threads_are_said_before_the_swarm_starves(tmp_path):
    """Two thousand peers met a kernel that allows 32,768, and starved one after another."""
    limit, none = tmp_path / "pid_max", tmp_path / "pids.max"
    limit.write_text("32768\n")
    none.write_text("max\n")
    check_threads(8 * 2000, [limit, none, tmp_path / "absent"])
    with pytest.raises(
        SwarmError, match=rf"^needs 40000 threads beside the \d+ that run; {limit} allows 32768 in all$"
    ):
        check_threads(40_000, [none, limit])
    with pytest.raises(SwarmError, match="threads beside"):
        check_threads(1 << 40)
