"""A scenario that exists is valid, and a mistake in one is named by its key."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibit import scenario
from minibit.errors import ScenarioError
from minibit.scenario import FileSpec, Group, Scenario

SHIPPED = Path(__file__).parents[2] / "scenarios"
MB = 1_000_000

GOOD = """
file = { size = "1MiB" }

[[groups]]
name = "seed"
role = "seed"
count = 1

[[groups]]
name = "leecher"
count = 3
upload_rate = "2MB/s"
"""


@pytest.fixture
def load_text(tmp_path):
    """Load a scenario from its text, as ``quick.toml``."""

    def load(text):
        path = tmp_path / "quick.toml"
        path.write_text(text)
        return scenario.load(path)

    return load


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.toml")), ids=lambda path: path.stem)
def test_every_shipped_scenario_loads_and_says_what_it_asks(path):
    """A newcomer starts from these files, so each is valid and begins with the question that it answers."""
    loaded = scenario.load(path)
    assert loaded.name == path.stem
    assert path.read_text().startswith("# ")
    assert "?" in path.read_text().splitlines()[0]


@pytest.mark.parametrize(
    ("name", "leechers", "size_bytes", "rates", "term"),
    [
        ("quick", 4, 8 * 2**20, (None, {None}), None),
        ("capped", 16, 2**25, (4 * MB, {4 * MB}), "seed"),
        ("thirds", 15, 2**25, (4 * MB, {0.5 * MB, 1 * MB, 4 * MB}), "aggregate"),
        ("slow-seed", 16, 2**25, (2 * MB, {4 * MB}), "seed"),
        ("downcap", 16, 2**25, (2 * MB, {2 * MB}), "seed"),
        ("odd", 16, 2**25 + 1, (4 * MB, {4 * MB}), "seed"),
    ],
)
def test_the_measured_scenarios_are_what_the_results_say(name, leechers, size_bytes, rates, term):
    """Stored results are compared across versions; a scenario that drifts would make them mean something else."""
    loaded = scenario.load(SHIPPED / f"{name}.toml")
    peers = loaded.peers()
    assert loaded.file.size_bytes == size_bytes
    assert [peer.upload_rate_bytes_per_s for peer in peers if peer.role == "seed"] == [rates[0]]
    assert {peer.upload_rate_bytes_per_s for peer in peers if peer.role == "leecher"} == rates[1]
    assert len(peers) == leechers + 1
    bound = loaded.fluid_bound()
    assert (bound.binding_term if bound else None) == term


def test_the_flash_crowd_arrives_over_a_while():
    """Staggered starts are the whole point of it, and they make the bounds inapplicable."""
    loaded = scenario.load(SHIPPED / "flash-crowd.toml")
    delays = [peer.start_delay_s for peer in loaded.peers() if peer.role == "leecher"]
    assert delays == pytest.approx([number * 0.25 for number in range(24)])
    assert not loaded.starts_together


def test_text_becomes_plain_numbers_and_defaults(load_text):
    """The rest of MiniBit sees bytes and seconds only."""
    loaded = load_text(GOOD)
    assert loaded == Scenario(
        name="quick",
        file=FileSpec(size_bytes=2**20),
        groups=(
            Group(name="seed", role="seed", count=1),
            Group(name="leecher", count=3, upload_rate_bytes_per_s=2e6),
        ),
    )
    assert loaded.starts_together


def test_words_for_automatic_and_unlimited(load_text):
    """What is the default can also be written down."""
    loaded = load_text('block_size = "auto"\n' + GOOD.replace('"2MB/s"', '"unlimited"'))
    assert loaded.block_size_bytes is None
    assert loaded.groups[1].upload_rate_bytes_per_s is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD.replace("upload_rate", "upload_rte"), 'unknown key "upload_rte" in group 2; did you mean "upload_rate"?'),
        ("colour = 1\n" + GOOD, 'unknown key "colour"; expected one of name, file, groups, block_size, picker'),
        (GOOD.replace("size", "length"), 'unknown key "length" in file; expected one of path, size, content_seed'),
        (GOOD.replace('"2MB/s"', '"fast"'), "key \"upload_rate\" in group 2: 'fast' is not a rate; expected bytes per"),
        (GOOD.replace('"1MiB"', '"-1"'), "key \"size\" in file: '-1' is not a size; expected bytes"),
        (GOOD.replace("count = 3", 'count = "3"'), 'key "count" in group 2: expected "int", got "str"'),
        (GOOD.replace("count = 3", "count = 0"), 'key "count" in group 2: expected "int" >= 1'),
        (GOOD.replace("count = 3", ""), 'missing key "count" in group 2'),
        (GOOD.replace('"leecher"', '"a b"'), 'key "name" in group 2: expected up to 60 letters'),
        (GOOD.replace('"leecher"', '"seed"'), 'key "name" in group 2: "seed" is taken by an earlier group'),
        (GOOD.replace("count = 3", "count = 10000"), "10001 peers are too many; a scenario holds 10000 at most"),
        (GOOD.replace('role = "seed"', ""), 'a swarm needs at least one seed: no group has role = "seed"'),
        (GOOD.replace('name = "leecher"', 'name = "s2"\nrole = "seed"'), "a swarm needs at least one leecher"),
        (GOOD.replace('role = "seed"', 'role = "boss"'), 'key "role" in group 1: expected one of seed, leecher, not'),
        (GOOD.replace('role = "seed"', 'role = "seed"\nfree_rider = true'), 'key "free_rider" in group 1: a seed that'),
        (
            GOOD.replace('role = "seed"', 'role = "seed"\non_complete = "leave"'),
            'key "on_complete" in group 1: a seed is',
        ),
        (GOOD.replace('role = "seed"', 'role = "seed"\ndownload_rate = 5'), "a seed downloads nothing"),
        (GOOD + "start_delay_s = nan", 'key "start_delay_s" in group 2: expected "float" >= 0.0'),
        (GOOD + "start_delay_s = inf", 'key "start_delay_s" in group 2: expected a finite number, not inf'),
        (GOOD + "start_spread_s = -1", 'key "start_spread_s" in group 2: expected "float" >= 0.0'),
        ('picker = "best"\n' + GOOD, "key \"picker\": expected one of rarest-first, random, sequential, not 'best'"),
        ("block_size = 1000\n" + GOOD, 'key "block_size": block size must be a power of two from 16 KiB to 4 MiB'),
        ('block_size = "8MiB"\n' + GOOD, 'key "block_size": block size must be a power of two from 16 KiB to 4 MiB'),
        ("block_size = true\n" + GOOD, 'key "block_size": True is not a size'),
        ("timeout_s = 0\n" + GOOD, 'key "timeout_s": expected "float" > 0.0'),
        ("timeout_s = inf\n" + GOOD, 'key "timeout_s": expected a finite number, not inf'),
        ("max_neighbours = 0\n" + GOOD, 'key "max_neighbours": expected "int" >= 1'),
        ("file = 3\ngroups = []", 'key "file": expected "object", got "int"'),
        ("file = { size = 1 }\ngroups = [1]", 'group 1: expected "object", got "int"'),
        ("groups = []", 'missing key "file"'),
        ("file = { }\ngroups = []", 'missing key "size" in file'),
        ('file = { path = "x", size = 3 }\ngroups = []', 'key "path" in file: a real file has its own size'),
        ('file = { path = "nowhere" }\ngroups = []', "cannot share"),
        ("file = [", "not valid TOML"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key(load_text, text, message):
    """Somebody who mistyped a key at two in the morning reads one line, not a traceback."""
    with pytest.raises(ScenarioError) as caught:
        load_text(text)
    said = str(caught.value)
    assert said.startswith("scenario quick.toml: ")
    assert message in said
    assert "\n" not in said


def test_a_missing_scenario_file_is_one_line(tmp_path):
    """The most frequent mistake of all."""
    with pytest.raises(ScenarioError, match=r"cannot read scenario .*none\.toml: No such file"):
        scenario.load(tmp_path / "none.toml")


def test_a_shared_file_is_found_beside_its_scenario(tmp_path, load_text):
    """A scenario and its file can be moved together, and run from any folder."""
    (tmp_path / "data.bin").write_bytes(b"x" * 5)
    loaded = load_text(GOOD.replace('size = "1MiB"', 'path = "data.bin"'))
    assert loaded.file == FileSpec(path=str(tmp_path / "data.bin"), size_bytes=5)


def test_a_folder_cannot_be_shared(tmp_path):
    """It has a size too, and would fail much later."""
    with pytest.raises(ScenarioError, match="not a regular file"):
        scenario.simple(path=tmp_path)


def test_simple_is_one_seed_and_eight_leechers():
    """What `minibit swarm` runs without options is what its help says."""
    plain = scenario.simple()
    assert [peer.peer_id for peer in plain.peers()] == ["seed-000", *[f"leecher-{number:03}" for number in range(8)]]
    assert plain.file.size_bytes == 16 * 2**20
    assert plain.fluid_bound() is None


def test_ids_of_large_groups_sort_by_number():
    """Ten thousand peers in a table sort as text."""
    ids = [peer.peer_id for peer in scenario.simple(peers=1001).peers()]
    assert ids[1] == "leecher-0000"
    assert sorted(ids[1:]) == ids[1:]


def test_the_upload_rate_holds_for_seeds_unless_they_have_their_own():
    """A swarm with one unlimited seed by accident would measure something else than its options say."""
    assert {peer.upload_rate_bytes_per_s for peer in scenario.simple(upload_rate_bytes_per_s=5.0).peers()} == {5.0}
    both = scenario.simple(upload_rate_bytes_per_s=5.0, seed_upload_rate_bytes_per_s=7.0, seeds=2)
    assert [peer.upload_rate_bytes_per_s for peer in both.peers()] == [7.0] * 2 + [5.0] * 8


def test_the_download_rate_holds_for_leechers():
    """A seed downloads nothing, so it is given no limit that could never show."""
    peers = scenario.simple(download_rate_bytes_per_s=9.0, peers=2).peers()
    assert [peer.download_rate_bytes_per_s for peer in peers] == [None, 9.0, 9.0]


def test_given_options_win_over_the_scenario_file():
    """`minibit sweep thirds.toml --peers 30` asks for the scenario's mixture at another size."""
    thirds = scenario.load(SHIPPED / "thirds.toml")
    larger = scenario.override(
        thirds,
        peers=31,
        size_bytes=2**20,
        content_seed=3,
        block_size_bytes=2**15,
        picker="random",
        choker="none",
        isolation="thread",
        rng_seed=9,
        timeout_s=4.0,
        max_neighbours=7,
        name="other",
    )
    assert [group.count for group in larger.groups] == [1, 11, 10, 10]
    assert larger.file == FileSpec(size_bytes=2**20, content_seed=3)
    assert (larger.block_size_bytes, larger.rng_seed, larger.timeout_s, larger.max_neighbours) == (2**15, 9, 4.0, 7)
    assert (larger.picker, larger.choker, larger.isolation, larger.name) == ("random", "none", "thread", "other")


def test_nothing_given_changes_nothing():
    """An option that was not given must not fall back on a default of the command line."""
    thirds = scenario.load(SHIPPED / "thirds.toml")
    assert scenario.override(thirds) == thirds


def test_unlimited_can_be_given_over_a_capped_file():
    """None given is an answer; absent is none."""
    capped = scenario.load(SHIPPED / "capped.toml")
    assert {
        group.upload_rate_bytes_per_s for group in scenario.override(capped, upload_rate_bytes_per_s=None).groups
    } == {None}


@pytest.mark.parametrize(
    ("given_options", "message"),
    [
        ({"peers": 0}, "at least 1 leecher"),
        ({"seeds": 0}, "at least 1 seed"),
        ({"path": "~nobody-of-that-name/x"}, "cannot share"),
        ({"peers": 10_000}, "10001 peers are too many"),
        ({"block_size_bytes": 5}, "power of two"),
        ({"timeout_s": -1.0}, "timeout_s"),
        ({"size_bytes": -1}, 'key "size" in file'),
        ({"upload_rate_bytes_per_s": 0.0}, 'key "upload_rate" in group 1'),
        ({"picker": "best"}, "expected one of rarest-first"),
        ({"path": __file__, "size_bytes": 3}, "either the file or a size"),
        ({"path": "/nowhere/at/all"}, "cannot share /nowhere/at/all: No such file"),
        ({"path": "a\0b"}, "cannot share"),
    ],
)
def test_options_are_checked_like_a_file(given_options, message):
    """The command line and the file end in the same struct, so neither may smuggle in what the other refuses."""
    with pytest.raises(ScenarioError, match=message):
        scenario.simple(**given_options)


def test_too_few_peers_for_the_groups_of_a_scenario_are_refused():
    """Leaving out a third of ``thirds`` in silence would be another scenario under the same name."""
    with pytest.raises(ScenarioError, match=r"at least 3 leecher\(s\), not 2"):
        scenario.override(scenario.load(SHIPPED / "thirds.toml"), peers=2)


def test_the_content_of_a_real_file_cannot_be_chosen():
    """A seed of made-up content beside a real file would have no effect."""
    real = scenario.simple(path=__file__)
    with pytest.raises(ScenarioError, match="a content seed needs a size"):
        scenario.override(real, content_seed=1)
    assert scenario.override(real, size_bytes=7, content_seed=1).file == FileSpec(size_bytes=7, content_seed=1)
    assert scenario.simple(content_seed=4).file.content_seed == 4


def test_an_empty_file_is_a_valid_swarm_without_bounds():
    """It is complete at once, so there is nothing to hold it against."""
    empty = scenario.simple(size_bytes=0, upload_rate_bytes_per_s=1.0)
    assert empty.fluid_bound() is None
    assert empty.store_and_forward_bound_s() is None
    assert empty.resolved().block_size_bytes == 16 * 1024


def test_a_record_runs_the_same_swarm_again():
    """The record holds plain JSON with every default filled in, and reads back as the same swarm."""
    for path in SHIPPED.glob("*.toml"):
        loaded = scenario.load(path)
        stored = msgspec.json.decode(msgspec.json.encode(loaded.to_record()))
        assert stored["block_size_bytes"]
        assert stored["timeout_s"] >= 300
        assert scenario.from_record(stored) == loaded.resolved()


def test_a_record_of_a_real_file_that_changed_is_refused(tmp_path):
    """Running again with other bytes would look like a change of the code."""
    path = tmp_path / "data.bin"
    path.write_bytes(b"12345")
    stored = scenario.simple(path=path).to_record()
    path.write_bytes(b"123")
    with pytest.raises(ScenarioError, match="has 3 bytes now and had 5 then"):
        scenario.from_record(stored)


def test_a_mangled_record_names_the_key():
    """A record edited by hand fails like a scenario edited by hand."""
    stored = scenario.simple().to_record()
    stored["groups"][1]["count"] = "many"
    with pytest.raises(ScenarioError, match='key "count" in group 2: expected "int", got "str"'):
        scenario.from_record(stored)


def test_the_time_out_grows_with_the_bound():
    """A run that needs an hour by arithmetic must not be ended after five minutes."""
    slow = scenario.simple(size_bytes=2**30, upload_rate_bytes_per_s=1e6)
    assert slow.effective_timeout_s == pytest.approx(10 * slow.store_and_forward_bound_s())
    assert scenario.simple(timeout_s=3.0).effective_timeout_s == 3.0
    late = scenario.load(SHIPPED / "flash-crowd.toml")
    assert late.effective_timeout_s == pytest.approx(305.75)


def test_free_riders_count_as_no_upload_in_the_bounds():
    """Their uplink exists and carries nothing; counting it would put the bound too low."""
    groups = (
        Group(name="seed", role="seed", count=1, upload_rate_bytes_per_s=4.0),
        Group(name="rider", count=3, upload_rate_bytes_per_s=4.0, free_rider=True),
    )
    riders = Scenario(name="riders", file=FileSpec(size_bytes=100), groups=groups)
    bound = riders.fluid_bound()
    assert (bound.seconds, bound.binding_term) == (75.0, "aggregate")


@given(st.lists(st.integers(1, 50), min_size=1, max_size=6), st.integers(6, 400))
def test_resizing_keeps_the_total_and_the_proportions(counts, total):
    """However groups are scaled, the sum is what was asked for, and nobody is off by more than the groups' minimum."""
    groups = [Group(name=f"g{number}", count=count) for number, count in enumerate(counts)]
    seed = Group(name="seed", role="seed", count=1)
    mixed = Scenario(name="mixed", file=FileSpec(size_bytes=1), groups=(seed, *groups))
    resized = scenario.override(mixed, peers=total).groups
    assert sum(group.count for group in resized[1:]) == total
    for before, after in zip(counts, resized[1:], strict=True):
        assert abs(after.count - total * before / sum(counts)) < len(counts)
