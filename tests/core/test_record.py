"""A record survives its file, and every reason for which a run does not count is found in it."""

import datetime as dt
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibit import record as records
from minibit import scenario
from minibit.errors import RecordError, StorageError
from minibit.record import CodeVersion, Ledger, Machine, PeerRecord, Record, Requests

BLOCK = 16 * 1024
SIZE = 4 * BLOCK


def leecher(number, **changes):
    """Make a leecher that took the file from the seed and gave nothing, with the fields changed."""
    plain = PeerRecord(
        peer_id=f"leecher-{number:03}",
        role="leecher",
        group="leecher",
        completed=True,
        verified=True,
        completion_time_s=2.0,
        received_bytes=SIZE,
        useful_bytes=SIZE,
        received_from={"seed-000": SIZE},
        timeline=[(0.5, 1), (2.0, 4)],
    )
    return msgspec.structs.replace(plain, **changes)


def seed(**changes):
    """Make the seed that gave it to two leechers."""
    sent_to = {"leecher-000": SIZE, "leecher-001": SIZE}
    plain = PeerRecord(
        peer_id="seed-000", role="seed", group="seed", completed=True, sent_bytes=2 * SIZE, sent_to=sent_to
    )
    return msgspec.structs.replace(plain, **changes)


def record_of(peers=None, **changes):
    """Make a record of a seed and two leechers, with a ledger that is the sum over the peers."""
    peers = [seed(), leecher(0), leecher(1)] if peers is None else peers
    plain = Record(
        scenario=scenario.simple(peers=2, size_bytes=SIZE).to_record(),
        rng_seed=0,
        commit=CodeVersion(id="abc", dirty=False),
        machine=Machine(cpu="c", cores=2, memory_bytes=1, kernel="k", python="p", id="i"),
        started_at=dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC),
        completion_time_s=records.completion_time([2.0, 2.0]),
        makespan_s=2.0,
        time_to_first_block_s=0.5,
        spawn_time_s=0.3,
        bound_s=None,
        bound_binding_term=None,
        bound_ratio=None,
        store_and_forward_bound_s=None,
        goodput_bytes_per_s=SIZE,
        cpu_s=0.1,
        cpu_s_per_gib=1.0,
        cpu_busy_fraction=0.4,
        ledger=records.total_ledger(peers),
        requests=Requests(block=8),
        fairness_jain=None,
        peers=peers,
    )
    return msgspec.structs.replace(plain, **changes)


def test_an_honest_run_is_valid():
    """The checks must let pass what they exist to protect."""
    judged = records.judged(record_of())
    assert judged.valid
    assert judged.invalid_reasons == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"leftovers": ["process 4711"]}, "process 4711 was left behind"),
        ({"makespan_s": 1.97, "bound_s": 2.0}, "the makespan of 1.97 s is below the fluid bound of 2 s"),
        ({"makespan_s": 1.97, "store_and_forward_bound_s": 2.0}, "below the store-and-forward bound of 2 s"),
        ({"peers": [seed(), leecher(0)]}, "group leecher has 1 of 2 peers in the report"),
        ({"peers": [seed(), leecher(0), leecher(1, reported=False)]}, "leecher-001 did not report"),
        ({"peers": [seed(), leecher(0), leecher(1, completed=False)]}, "leecher-001 did not complete"),
        (
            {"peers": [seed(), leecher(0), leecher(1, verified=False)]},
            "the file of leecher-001 differs from the source",
        ),
        (
            {"peers": [seed(), leecher(0), leecher(1, useful_bytes=1)]},
            "the ledger of leecher-001 is open: 65536 bytes in",
        ),
        ({"ledger": Ledger()}, "the ledger is not the sum over the peers"),
    ],
)
def test_each_defect_is_a_reason(changes, reason):
    """A figure that does not count must say why, in words that lead to the cause."""
    peers = changes.get("peers")
    changed = record_of(peers, **{key: value for key, value in changes.items() if key != "peers"})
    judged = records.judged(changed)
    assert not judged.valid
    assert any(reason in said for said in judged.invalid_reasons)


def test_a_makespan_within_the_clocks_tolerance_of_the_bound_counts():
    """One percent is what clocks and counters may disagree by."""
    assert records.validity(record_of(makespan_s=1.99, bound_s=2.0)) == []


@pytest.mark.parametrize("capped", [{"upload_rate_bytes_per_s": 1e9}, {"download_rate_bytes_per_s": 1e9}])
def test_a_busy_host_spoils_only_capped_runs(capped):
    """An uncapped run is meant to use the whole machine; a capped one then measures the scheduler."""
    assert records.validity(record_of(cpu_busy_fraction=0.99)) == []
    reasons = records.validity(record_of([seed(), leecher(0, **capped), leecher(1)], cpu_busy_fraction=0.951))
    assert reasons == ["the host was 95.1% busy during a rate-capped run (limit 90%)"]
    assert records.validity(record_of([seed(), leecher(0, **capped), leecher(1)], cpu_busy_fraction=0.9)) == []


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        (
            {"upload_rate_bytes_per_s": 1e5, "upload_peak_bytes_per_s": 1.2e5},
            "120000 bytes in one second (limit 115000)",
        ),
        ({"upload_rate_bytes_per_s": 1e5, "upload_duration_s": 1.0}, "131072 bytes in 1.000 s (limit 110500)"),
    ],
)
def test_a_leaking_upload_cap_is_named_with_its_peer(figures, said):
    """A leak makes a swarm look better than physics; the second and the run are looked at apart."""
    assert records.validity(record_of([seed(**figures), leecher(0), leecher(1)])) == [
        f"seed-000 leaked its upload cap of 100000 bytes/s: {said}"
    ]


def test_a_leaking_download_cap_is_found_too():
    """The downlink term of the bound rests on it."""
    leaky = leecher(0, download_rate_bytes_per_s=1e4, download_peak_bytes_per_s=9e4, download_duration_s=1.0)
    assert len(records.validity(record_of([seed(), leaky, leecher(1)]))) == 2


def test_a_kept_cap_is_no_leak():
    """Burst and chunk are part of what a cap means."""
    kept = seed(upload_rate_bytes_per_s=1e5, upload_peak_bytes_per_s=1.14e5, upload_duration_s=1.3)
    assert records.validity(record_of([kept, leecher(0), leecher(1)])) == []


def test_bytes_lost_without_an_abort_open_the_ledger():
    """Bytes that were sent and never read are either an abort that nobody counted or a wrong counter."""
    peers = [
        seed(sent_bytes=2 * SIZE + 5, sent_to={"leecher-000": SIZE + 5, "leecher-001": SIZE}),
        leecher(0),
        leecher(1),
    ]
    assert records.validity(record_of(peers)) == [
        "the ledger is open: 5 bytes sent but not received, 0 can have been in flight",
        "seed-000 sent 65541 bytes to leecher-000, which received 65536, with 0 aborts",
    ]


@pytest.mark.parametrize("side", ["giver", "taker"])
def test_an_abort_that_either_side_counted_may_lose_one_block(side):
    """What was in flight when a transfer was cut short is gone; more than one block each is not explained by it."""
    giver_aborts, taker_aborts = ({"leecher-000": 1}, {}) if side == "giver" else ({}, {"seed-000": 1})

    def reasons_when_lost(lost):
        sent_to = {"leecher-000": SIZE + lost, "leecher-001": SIZE}
        giver = seed(sent_bytes=2 * SIZE + lost, sent_to=sent_to, aborts=giver_aborts)
        return records.validity(record_of([giver, leecher(0, aborts=taker_aborts), leecher(1)]))

    assert reasons_when_lost(BLOCK) == []
    assert len(reasons_when_lost(BLOCK + 1)) == 2


def test_bytes_received_that_nobody_sent_open_the_ledger():
    """A counter that counts twice is as wrong as one that forgets."""
    peers = [
        seed(sent_bytes=2 * SIZE - 5, sent_to={"leecher-000": SIZE - 5, "leecher-001": SIZE}),
        leecher(0),
        leecher(1),
    ]
    assert any("-5 bytes sent but not received" in reason for reason in records.validity(record_of(peers)))


def test_bytes_between_the_wrong_two_are_seen_though_the_sums_agree():
    """Two errors that cancel out in the total would hide in it."""
    peers = [seed(sent_to={"leecher-000": SIZE - 7, "leecher-001": SIZE + 7}), leecher(0), leecher(1)]
    reasons = records.validity(record_of(peers))
    assert len(reasons) == 2
    assert all(reason.startswith("seed-000 sent") for reason in reasons)


def test_without_an_account_by_pairs_the_totals_decide():
    """A record of another client's swarm knows sums only, and is judged by those."""
    peers = [seed(sent_to={}), leecher(0, received_from={}), leecher(1, received_from={})]
    assert records.validity(record_of(peers)) == []


def test_what_clients_from_outside_took_is_not_missing():
    """A curl takes a block and reports to nobody."""
    peers = [seed(sent_bytes=2 * SIZE + 99, external_bytes=99), leecher(0), leecher(1)]
    assert records.validity(record_of(peers)) == []


def test_a_peer_that_the_scenario_removed_is_not_missed():
    """A run that kills a peer on purpose is still a measurement; only pairs of peers that reported are compared."""
    gone = PeerRecord(
        peer_id="leecher-001", role="leecher", group="leecher", completed=False, reported=False, removed=True
    )
    assert records.validity(record_of([seed(), leecher(0), gone])) == []


def test_a_thousand_reasons_of_one_kind_are_four_lines():
    """The reader wants the kind of defect, not a page of it."""
    many = [leecher(number, verified=False, received_from={}, sent_to={}) for number in range(1000)]
    reasons = [
        reason for reason in records.validity(record_of([seed(), *many])) if "differs" in reason or "more" in reason
    ]
    assert len(reasons) == 4
    assert reasons[-1] == "… and 997 more of this kind"


def test_a_record_reads_back_as_it_was_written(tmp_path):
    """A record is evidence: nothing is lost or rounded on its way through the disk."""
    written = records.judged(record_of())
    path = tmp_path / "deep" / "run.json"
    records.write(written, path)
    assert records.read(path) == written
    assert list(path.parent.iterdir()) == [path]


def test_the_file_is_readable_json_with_a_peer_a_line(tmp_path):
    """Records are committed; one huge line, or one number a line, could not be compared by eye."""
    records.write(record_of(), tmp_path / "run.json")
    text = (tmp_path / "run.json").read_text()
    assert msgspec.json.decode(text)["started_at"] == "2026-01-02T03:04:05Z"
    assert sum(line.startswith('{"peer_id"') for line in text.splitlines()) == 3
    assert len(text.splitlines()) < 45


def test_the_stored_scenario_runs_again(tmp_path):
    """The record alone is enough to repeat the run."""
    records.write(record_of(), tmp_path / "run.json")
    again = scenario.from_record(records.read(tmp_path / "run.json").scenario)
    assert again == scenario.simple(peers=2, size_bytes=SIZE).resolved()


def test_a_failed_write_leaves_the_old_record_and_no_debris(tmp_path, monkeypatch):
    """A full disk in the middle of writing must not cost the result of the run before."""
    path = tmp_path / "run.json"
    records.write(record_of(), path)
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(records.os, "fsync", full)
    with pytest.raises(StorageError, match=r"cannot write record .*run\.json: No space left on device"):
        records.write(record_of(makespan_s=9.0), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    """`--json` with a file in the way of its folder is a user's mistake."""
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot write record"):
        records.write(record_of(), tmp_path / "file" / "run.json")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"schema_version": 1', '"schema_version": 2', "schema_version is 2; this MiniBit reads 1"),
        ('"rng_seed": 0', '"rng_seed": "x"', 'Expected "int", got "str" - at "$.rng_seed"'),
        ('"machine": {', '"engine": {', 'missing required field "machine"'),
        ('"peer_id":"leecher-000"', '"id":"leecher-000"', 'missing required field "peer_id" - at "$.peers[1]"'),
        ('"block_size_bytes":', '"block_sighs":', 'missing required field "block_size_bytes"'),
        ('"2026-01-02T03:04:05Z"', '"yesterday"', "started_at"),
        ("{", "", 'Expected "object"'),
        ("}\n]\n}", "}", "truncated"),
    ],
)
def test_a_damaged_record_is_one_line_with_file_and_key(tmp_path, old, new, message):
    """Records are edited, truncated and written by other versions; the reader is told which file and which key."""
    path = tmp_path / "run.json"
    records.write(record_of(), path)
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(RecordError) as caught:
        records.read(path)
    assert "run.json" in str(caught.value)
    assert message in str(caught.value)


def test_a_record_that_is_not_there_is_one_line():
    """The commonest mistake on a command line."""
    with pytest.raises(RecordError, match="cannot read record /no/where: No such file"):
        records.read(Path("/no/where"))


def test_keys_of_later_additions_are_ignored(tmp_path):
    """More keys are welcome under the same version, also for those who read with an older one."""
    path = tmp_path / "run.json"
    records.write(record_of(), path)
    path.write_text(path.read_text().replace("{", '{"novelty": 1,', 1))
    assert records.read(path) == record_of()


@pytest.mark.parametrize(
    ("values", "index"),
    [
        ([], None),
        ([0.0, 0.0], None),
        ([3.0] * 7, 1.0),
        ([1.0, 0, 0, 0], 0.25),
        ([1.0, 3.0], 0.8),
        ([1e300, 1e300], 1.0),
    ],
)
def test_jains_index(values, index):
    """Hand-made figures: 1 for equals, 1/n for one who has everything."""
    assert records.jain(values) == (None if index is None else pytest.approx(index))


@given(st.lists(st.floats(0, 1e12), min_size=1, max_size=30))
def test_jains_index_lies_between_one_nth_and_one(values):
    """An index outside its range would be a bug that a plot does not show."""
    index = records.jain(values)
    assert index is None or 1 / len(values) - 1e-9 <= index <= 1 + 1e-9


def test_fairness_needs_every_leecher_to_have_taken_something():
    """Bytes given over bytes taken means nothing where nothing was taken."""
    traders = [leecher(0, sent_bytes=SIZE), leecher(1, sent_bytes=3 * SIZE)]
    assert records.fairness_jain([seed(), *traders]) == pytest.approx(0.8)
    assert records.fairness_jain([*traders, leecher(2, received_bytes=0)]) is None
    assert records.fairness_jain([seed(), leecher(0)]) is None


def test_completion_times_are_summarised_by_interpolation():
    """The 95th percentile of four leechers lies between the last two, as numpy's does."""
    summary = records.completion_time([4.0, 1.0, 2.0, 3.0])
    assert (summary.min, summary.p50, summary.max) == (1.0, 2.5, 4.0)
    assert summary.p95 == pytest.approx(3.85)
    assert records.completion_time([]) is None
    with pytest.raises(ValueError, match="no values"):
        records.quantile([], 0.5)
