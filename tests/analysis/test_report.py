"""``minibit report``: one page that needs nothing, hides nothing, and shows the numbers that were measured."""

import csv
import io
import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from itertools import pairwise
from urllib.parse import unquote

import msgspec
import pytest
from click.testing import CliRunner

from minibit import record as records
from minibit.analysis.reporting import numbers
from minibit.analysis.reporting.page import NOTHING, csv_text
from minibit.analysis.reporting.read import newest_session, read_results
from minibit.analysis.reporting.svg import short_path
from minibit.analysis.reporting.sweep import families
from minibit.analysis.reporting.write import write_report
from minibit.cli.report import report
from minibit.errors import RecordError, UsageError
from minibit.record import CodeVersion, Machine, PeerRecord, Record, judged
from minibit.regression import comparison as comparisons
from minibit.regression.comparison import Compared, Comparison, SideRecord, Workload
from minibit.regression.evidence import Verdict, judge, overall, ratio_of

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

MACHINE = Machine(cpu="Made-up CPU", cores=2, memory_bytes=2**34, kernel="Linux 6", python="CPython 3.11", id="cafe")
COMMIT = CodeVersion(id="0123456789abcdef", dirty=False)
EVIL = "<script>alert(1)</script>"
VOID = {"meta", "br", "path", "circle", "use"}
FETCHING = {"src", "srcset", "action", "poster", "background", "formaction", "xlink:href"}


class Page(HTMLParser):
    """What a test asks of a page: its elements, ids, headings, tables, and the text a reader sees."""

    def __init__(self, html):
        super().__init__()
        self.html, self.elements, self.stack, self.words = html, [], [], []
        self.feed(html)
        assert not self.stack, f"never closed: {self.stack}"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.stack.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data):
        if self.stack and self.stack[-1] not in {"style", "script"}:
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).replace("\u00a0", " ").split())

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]

    def data(self, file_name):
        """Return the rows behind the first figure with this file, as its link gives them."""
        href = next(a["href"] for a in self.all("a") if a.get("download") == file_name)
        head, _, body = href.partition(",")
        assert head == "data:text/csv;charset=utf-8"
        return list(csv.DictReader(io.StringIO(unquote(body))))


def peer(number, *, role="leecher", times=(), order=(), **more):
    """Return a peer that acquired a block at each of the times."""
    name = f"{role}-{number:03d}"
    return PeerRecord(**{
        "peer_id": name, "role": role, "group": role, "completed": True,
        "completion_time_s": times[-1] if times else None,
        "timeline": [(at_s, owned) for owned, at_s in enumerate(times, 1)], "order": list(order), **more,
    })  # fmt: skip


def swarm(*peers, blocks=2, makespan_s=4.0, bounds=(2.0, 3.0), seed=0, **more):
    """Return a record of a seed and these leechers, judged as a real one is."""
    leechers = len(peers)
    times = [p.completion_time_s for p in peers if p.completion_time_s is not None]
    groups = [{"name": "seed", "role": "seed", "count": 1}, {"name": "leecher", "role": "leecher", "count": leechers}]
    members = [peer(0, role="seed", sent_to={p.peer_id: 2048 for p in peers}, uplink_use=0.5), *peers]
    scenario = {
        "name": f"made-up-{leechers}", "file": {"path": None, "size_bytes": 1024 * blocks}, "groups": groups,
        "block_size_bytes": 1024, "picker": "rarest-first", "rng_seed": seed, "timeout_s": 300.0 + leechers,
    }  # fmt: skip
    fields = {
        "scenario": scenario, "rng_seed": seed, "commit": COMMIT, "machine": MACHINE,
        "started_at": datetime(2026, 11, 23, 12, seed, tzinfo=UTC), "completion_time_s": records.completion_time(times),
        "makespan_s": makespan_s, "time_to_first_block_s": 0.1, "spawn_time_s": 0.1, "bound_s": bounds[0],
        "bound_binding_term": "seed", "bound_ratio": None, "store_and_forward_bound_s": bounds[1],
        "goodput_bytes_per_s": 1e6, "cpu_s": 1.0, "cpu_s_per_gib": 50.0, "cpu_busy_fraction": 0.5,
        "ledger": records.total_ledger(members), "requests": records.Requests(block=10), "fairness_jain": None,
        "peers": members,
    }  # fmt: skip
    return Record(**{**fields, "valid": True, **more})


def plain(leechers=2, makespan_s=4.0, **more):
    """Return a swarm in which each leecher acquires block 0, then block 1."""
    members = [peer(n, times=(1.0 + n, makespan_s), order=(0, 1), uplink_use=0.25) for n in range(leechers)]
    return swarm(*members, makespan_s=makespan_s, **more)


def written(tmp_path, *results, page="report.html"):
    """Write the page of records and comparisons; return it, parsed."""
    paths = []
    for number, result in enumerate(results):
        paths.append(tmp_path / f"run{number}.json")
        module = comparisons if isinstance(result, Comparison) else records
        module.write(result, paths[-1])
    write_report(paths, tmp_path / page)
    return Page((tmp_path / page).read_text(encoding="utf-8"))


def compared(base, head, *, fresh_head=(), **more):
    """Return a metric whose pairs had these values."""
    fresh_base = [10.0] * len(fresh_head)
    confirmation = judge([ratio_of(*pair) for pair in zip(fresh_base, fresh_head, strict=True)]) if fresh_head else None
    evidence = judge([ratio_of(*pair) for pair in zip(base, head, strict=True)])
    fields = {"workload": "swarm", "key": "completion_p50", "title": "completion time, p50", "unit": "s",
              "larger_is_better": False}  # fmt: skip
    return Compared(base=base, head=head, evidence=evidence, fresh_base=fresh_base, fresh_head=list(fresh_head),
                    confirmation=confirmation, **{**fields, **more})  # fmt: skip


def comparison_of(*metrics, subject="a change"):
    """Return a comparison with these metrics."""
    return Comparison(
        started_at="2026-11-23T12:00:00Z", machine=MACHINE, rng_seed=1, budget_s=60, elapsed_s=50,
        base=SideRecord(given="main", commit=COMMIT, subject="as it was", python="CPython 3.11"),
        head=SideRecord(given="HEAD", commit=COMMIT, subject=subject, python="CPython 3.11"),
        workloads=[Workload(name="swarm", kind="swarm", pairs=15, seconds=50)], metrics=list(metrics),
        verdict=overall([metric.verdict for metric in metrics]), remarks=["The machine was warm."],
    )  # fmt: skip


# -- the page ----------------------------------------------------------------------------------------------------------


def test_the_page_fetches_nothing(tmp_path):
    """It is mailed, archived and opened without a network; a policy in it forbids one besides."""
    page = written(tmp_path, plain(1), plain(2), comparison_of(compared([10.0] * 9, [10.0] * 9)))
    for tag, attrs in page.elements:
        assert not FETCHING & attrs.keys(), (tag, attrs)
        assert attrs.get("href", "#").startswith(("#", "data:text/csv")), attrs["href"][:60]
    assert not page.all("link")
    assert not page.all("image")
    assert "http://" not in page.html
    assert "https://" not in page.html
    assert "url(#" in page.html or "@import" not in page.html
    policy = next(meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def test_ids_are_unique_and_references_lead_somewhere(tmp_path):
    """Clip paths of two inline drawings with one id would cut each other's curves."""
    page = written(tmp_path, plain(2), plain(2, seed=1), plain(8))
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    local = {attrs["href"][1:] for _, attrs in page.elements if attrs.get("href", "").startswith("#")}
    local |= set(re.findall(r"url\(#([^)]+)\)", page.html))
    local |= {attrs["aria-labelledby"] for _, attrs in page.elements if "aria-labelledby" in attrs}
    assert local
    assert local <= set(ids)


def test_headings_go_down_one_level_at_a_time_and_drawings_have_words(tmp_path):
    """Who hears the page finds the way by its headings, and hears what a drawing shows."""
    page = written(tmp_path, *(plain(n, seed=s) for n in (1, 4) for s in range(2)), plain(3, bounds=(None, None)))
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(below - above <= 1 for above, below in pairwise(levels))
    drawings = [svg for svg in page.all("svg") if svg.get("class") != "key"]
    assert drawings
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in drawings)
    assert all(cell.get("scope") in {"row", "col"} for cell in page.all("th"))


def test_what_files_say_is_text(tmp_path):
    """Peer ids, names and commit subjects come from files that anybody may have written."""
    evil = plain(2)
    members = [msgspec.structs.replace(p, peer_id=f"{p.peer_id}{EVIL}", group=EVIL) for p in evil.peers]
    evil = msgspec.structs.replace(
        evil, peers=members, scenario={**evil.scenario, "name": EVIL}, valid=False, invalid_reasons=[EVIL],
        machine=msgspec.structs.replace(MACHINE, cpu=EVIL),
    )  # fmt: skip
    metric = compared([10.0] * 9, [10.0] * 9, title=f'{EVIL} "$x_1$"')
    page = written(tmp_path, evil, comparison_of(metric, subject=EVIL))
    assert len(page.all("script")) == 1
    assert page.text.count(EVIL) > 5
    assert '"$x_1$"' in page.text


def test_colours_are_left_to_the_page(tmp_path):
    """A colour of its own would be unreadable in the dark, or on paper."""
    page = written(tmp_path, plain(20), plain(2), comparison_of(compared([10.0] * 9, [11.0] * 9)))
    styles = [attrs["style"] for _, attrs in page.elements if "style" in attrs]
    assert any("var(--blue)" in style for style in styles)
    assert not [style for style in styles if re.search(r"#[0-9a-f]{3}", style, re.IGNORECASE)]


def test_the_same_results_give_the_same_page(tmp_path):
    """A page under version control changes only when a result does."""
    runs = [plain(n, makespan_s=4.0 + s / 10, seed=s) for n in (1, 4) for s in range(3)]
    assert written(tmp_path, *runs).html == written(tmp_path, *runs, page="again.html").html


# -- one swarm ---------------------------------------------------------------------------------------------------------


def test_the_data_links_are_what_was_drawn(tmp_path):
    """Who wants to draw it differently needs the numbers."""
    page = written(tmp_path, plain(2))
    assert [row["completion_time_s"] for row in page.data("completion.csv")] == ["4.0", "4.0"]
    blocks = [(row["peer"], row["time_s"], row["blocks"]) for row in page.data("blocks.csv")]
    assert blocks == [
        ("leecher-000", "1.0", "1"), ("leecher-000", "4.0", "2"),
        ("leecher-001", "2.0", "1"), ("leecher-001", "4.0", "2"),
    ]  # fmt: skip
    assert page.data("given.csv")[0] == {"giver": "seed-000", "taker": "leecher-000", "bytes_a_pair": "2048"}
    assert {row["uplink_use"] for row in page.data("uplink.csv")} == {"0.5", "0.25"}


def test_what_is_missing_sorts_as_a_number(tmp_path):
    """A script's Number("inf") is none, and one such cell spoils the order of a whole column."""
    run = swarm(peer(0, times=(1.0, 2.0), order=(0, 1)), peer(1, completed=False), makespan_s=None)
    page = written(tmp_path, run, plain(4))
    keys = [attrs["data-sort"] for _, attrs in page.elements if "data-sort" in attrs]
    assert "Infinity" in keys
    assert all(re.fullmatch(r"Infinity|-?\d+(\.\d+)?(e-?\d+)?", key) for key in keys)


def test_figures_say_whom_they_leave_out(tmp_path):
    """A caption that says each peer, and a peer that is not there, is a false figure."""
    limited = plain(4).peers
    free = [peer(9, times=(1.0, 2.0), order=(0, 1), sent_bytes=2048), peer(8, completed=False)]
    page = written(tmp_path, swarm(*limited[1:], *free))
    assert "Not drawn: 2 peers with an unlimited uplink." in page.text
    assert "Not drawn: 1 leecher without a block." in page.text


def test_a_group_looks_the_same_in_all_pictures(tmp_path):
    """Whichever is busiest: its key has the same colour in each picture that tells groups apart."""
    slow = [peer(n, times=(1.0, 2.0), order=(0, 1), group="slow", uplink_use=0.1) for n in range(3)]
    fast = [peer(n, times=(1.0, 2.0), order=(0, 1), group="fast", uplink_use=0.9) for n in range(3, 6)]
    html = written(tmp_path, swarm(*slow, *fast)).html
    keys = re.findall(r"<li>(<svg [^>]*><(?:path|circle)[^>]*></svg>)(slow|fast)</li>", html)
    colours = {group: {re.search(r"var\(--\w+\)|#[0-9a-f]{6}", svg)[0] for svg, name in keys if name == group}
               for group in ("slow", "fast")}  # fmt: skip
    assert len(keys) >= 4
    assert [len(found) for found in colours.values()] == [1, 1]
    assert colours["slow"] != colours["fast"]


def test_availability_counts_the_rarest_block_with_seeds_and_starts():
    """A tiny swarm by hand: one seed, leechers that start at 0 and 10 and acquire the blocks in opposite order."""
    record = swarm(peer(0, times=(1.0, 3.0), order=(0, 1)), peer(1, times=(1.0, 2.0), order=(1, 0), start_delay_s=10.0))
    assert numbers.availability(record) == [
        (0.0, 1, 1.0), (1.0, 1, 1.5), (3.0, 2, 2.0), (11.0, 2, 2.5), (12.0, 3, 3.0),
    ]  # fmt: skip


def test_availability_falls_when_a_complete_peer_leaves():
    """Copies that went away are no help to those who stay."""
    record = swarm(peer(0, times=(1.0, 2.0), order=(0, 1)), peer(1, times=(3.0, 4.0), order=(0, 1)))
    record.scenario["groups"][1]["on_complete"] = "leave"
    found = numbers.availability(record)
    assert found[-1] == (4.0, 1, 1.0)
    assert (2.0, 1, 1.0) in found


def test_a_record_without_the_order_of_blocks_says_so(tmp_path):
    """Older records are still worth a page, but not an invented curve."""
    page = written(tmp_path, swarm(peer(0, times=(1.0, 2.0)), peer(1, times=(1.0, 2.0))))
    assert "Availability is not drawn" in page.text
    assert "availability.csv" not in page.html


def test_an_empty_file_and_a_single_leecher_have_a_page(tmp_path):
    """Nothing to draw is a result too."""
    nothing = swarm(peer(0, completion_time_s=0.0), blocks=0, makespan_s=0.0, bounds=(0.0, 0.0))
    page = written(tmp_path, nothing, plain(1))
    assert "The file is empty" in page.text
    assert "1 leecher and 1 seed" in page.text


def test_unlimited_rates_have_no_bound_and_no_share(tmp_path):
    """A ratio to nothing would be a number about nothing."""
    members = [peer(n, times=(1.0, 2.0), order=(0, 1), sent_bytes=3 * 2**20) for n in range(3)]
    run = swarm(*members, bounds=(None, None), makespan_s=2.0)
    run = msgspec.structs.replace(run, peers=[msgspec.structs.replace(p, uplink_use=None) for p in run.peers])
    page = written(tmp_path, run)
    assert "No bound applies" in page.text
    assert "payload given (MiB)" in page.text
    assert "no finite bound" in page.text


def test_a_swarm_that_failed_names_who_was_stuck(tmp_path):
    """It has no makespan, and the reader asks why."""
    stuck = peer(1, completed=False, waiting_for="block 7", timeline=[(1.0, 1)], order=[0])
    run = judged(swarm(peer(0, times=(1.0, 2.0), order=(0, 1)), stuck, makespan_s=None))
    page = written(tmp_path, run)
    assert "leecher-001: block 7" in page.text
    assert "leecher-001 did not complete" in page.text
    assert f"makespan ÷ larger bound {NOTHING} larger bound 3 s" in page.text, (
        "that nobody finished does not unmake the bound"
    )


def test_many_peers_share_cells_and_seeds_keep_their_own():
    """A thousand rows are no picture; a seed averaged with leechers would be a lie."""
    record = plain(130)
    matrix = numbers.given(record)
    assert matrix.peers_a_row == 3
    assert len(matrix.rows) == 1 + 44
    assert matrix.names[:2] == ["seed-000", "leecher-000 … leecher-002"]
    assert matrix.rows[0] == [0.0] + [2048.0] * 44
    assert {level for row in matrix.levels() for level in row} == {0, 8}


def test_cells_of_neighbours_do_not_count_gifts_to_oneself():
    """Where all give alike to all others, all cells are alike, the diagonal too."""
    names = [f"leecher-{n:03d}" for n in range(128)]
    members = [peer(n, sent_to=dict.fromkeys([m for m in names if m != name], 1000)) for n, name in enumerate(names)]
    matrix = numbers.given(swarm(*members))
    assert matrix.peers_a_row == 2
    assert {value for row in matrix.rows[1:] for value in row[1:]} == {1000.0}


# -- growth ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_the_growth_exponent_of_a_power_law_is_exact(exponent):
    """The figure that says whether the system scales must be right where the answer is known."""
    fit = numbers.growth({n: [3.0 * n**exponent] * 3 for n in (1, 2, 4, 8, 32)})
    assert fit.exponent == pytest.approx(exponent, abs=1e-12)
    assert (fit.low, fit.high) == pytest.approx((exponent, exponent), abs=1e-12)


def test_the_interval_of_the_exponent_holds_it_and_is_repeatable():
    """Runs differ; how much that moves the exponent is what the interval says, each time the same."""
    times = {n: [n**0.5 * factor for factor in (0.9, 1.0, 1.1, 1.05)] for n in (1, 4, 16)}
    fit = numbers.growth(times)
    assert fit.low < 0.5 < fit.high
    assert fit == numbers.growth(times)
    assert numbers.growth({4: [1.0, 2.0]}) is None
    assert numbers.growth({1: [1.0], 2: [2.0]}).low is None


def test_a_sweep_is_one_family_whatever_varies_with_its_size():
    """Names, seeds and time-outs follow from the size; another block size, commit or machine is another experiment."""
    runs = [(f"r{n}{s}", plain(n, seed=s)) for n in (1, 2) for s in (0, 1)]
    other = plain(2)
    other.scenario["block_size_bytes"] = 512
    elsewhere = msgspec.structs.replace(plain(2), machine=msgspec.structs.replace(MACHINE, id="beef"))
    later = msgspec.structs.replace(plain(2), commit=CodeVersion(id="f" * 16, dirty=False))
    found = families([*runs, ("other", other), ("elsewhere", elsewhere), ("later", later)])
    assert [len(family) for family in found] == [4, 1, 1, 1]


def test_equally_many_leechers_in_other_groups_are_another_experiment():
    """Six fast and two slow have another bound than one fast and seven slow."""

    def mixed(fast, slow):
        record = plain(fast + slow)
        groups = [{"name": "fast", "count": fast}, {"name": "slow", "count": slow, "upload_rate_bytes_per_s": 1e5}]
        record.scenario["groups"][1:] = groups
        return record

    runs = [mixed(3, 1), mixed(6, 2), mixed(6, 2), mixed(1, 7)]
    found = families([(str(number), run) for number, run in enumerate(runs)])
    assert [[name for name, _ in family] for family in found] == [["0", "1", "2"], ["3"]]


def test_invalid_runs_are_named_with_their_reasons_and_not_averaged(tmp_path):
    """A median that silently holds a run on an overloaded host is worse than none."""
    reason = "the host was 97.0% busy during a rate-capped run (limit 90%)"
    bad = plain(4, makespan_s=40.0, seed=1, valid=False, invalid_reasons=[reason], cpu_busy_fraction=0.97)
    page = written(tmp_path, plain(1), plain(2, makespan_s=4.2), plain(4, makespan_s=4.5), bad)
    assert f"run3: {reason}" in page.text
    assert "4 swarms, 3 valid" in page.text
    assert "1 of 4 runs not valid" in page.text
    assert "median makespan, N = 4 4.5 s larger bound" in page.text
    rows = page.data("growth.csv")
    assert [row["valid"] for row in rows] == ["True", "True", "True", "False"]
    assert "22.2 s" not in page.text


def test_the_range_in_which_the_host_saturates_is_named(tmp_path):
    """From there on the curve shows the machine, not the system."""
    busy = [plain(n, makespan_s=4.0 + n, cpu_busy_fraction=0.95 if n > 2 else 0.3) for n in (1, 2, 4, 8)]
    page = written(tmp_path, *busy)
    assert "The host saturates at N = 4, 8" in page.text
    assert "host more than 90% busy" in page.text


def test_of_many_runs_the_ends_are_shown_in_full_and_all_are_named(tmp_path):
    """A page of a sweep stays readable, and nothing that was measured is left out."""
    page = written(tmp_path, *(plain(n, makespan_s=4.0 + s, seed=s) for n in (1, 2, 4) for s in range(3)))
    assert len([a for a in page.all("a") if a.get("download") == "completion.csv"]) == 2
    assert "The median run of the largest N" in page.text
    assert all(f"run{number}" in page.text for number in range(9))


# -- comparisons -------------------------------------------------------------------------------------------------------


def test_a_comparison_shows_its_verdict_its_pairs_and_its_commits(tmp_path):
    """Whoever is told that a change is slower wants to see every pair."""
    worse = [11.0, 11.1, 10.9, 11.2, 11.0, 11.1, 11.05, 11.0, 11.1, 10.95, 11.0]
    metric = compared([10.0] * 11, worse, fresh_head=worse)
    assert metric.verdict == Verdict.REGRESSED
    page = written(tmp_path, comparison_of(metric, subject="Sleep a little"))
    assert "Verdict: regressed" in page.text
    assert "Sleep a little" in page.text
    assert "The machine was warm." in page.text
    rows = page.data("pairs.csv")
    assert [row["stage"] for row in rows] == ["first"] * 11 + ["fresh"] * 11
    assert [float(row["ratio"]) for row in rows[:3]] == [1.1, 1.11, 1.09]


def test_an_alarm_that_fresh_pairs_did_not_confirm_is_told(tmp_path):
    """It is no verdict, but it was raised, and the first pairs still look bad."""
    steady = [10.0, 10.01, 9.99] * 4
    metric = compared([10.0] * 11, [11.0 + n / 100 for n in range(11)], fresh_head=steady)
    page = written(tmp_path, comparison_of(metric))
    assert "Verdict: not regressed" in page.text
    assert "Alarms that fresh pairs did not confirm" in page.text


def test_ratios_without_limit_stay_on_the_page(tmp_path):
    """From nothing to something has no ratio; the picture must not be one of that pair alone."""
    page = written(tmp_path, comparison_of(compared([0.0, *[10.0] * 8], [1.0, *[10.0] * 8])))
    assert "beyond the edge" in page.text


# -- files -------------------------------------------------------------------------------------------------------------


def test_folders_are_searched_and_what_is_not_drawn_is_named(tmp_path):
    """A folder of results has all sorts; nothing disappears without a word, and nothing stops the page."""
    records.write(plain(2), tmp_path / "deep" / "run.json")
    (tmp_path / "machine.json").write_text('{"cpu": "x"}')
    (tmp_path / "poem.json").write_text('{"kind": "poem"}')
    (tmp_path / "torn.json").write_text('{"schema_version": 1, "scen')
    (tmp_path / "selftest.json").write_text('{"kind": "selftest"}')
    done = CliRunner().invoke(report, [str(tmp_path), "-o", str(tmp_path / "page.html")])
    assert done.exit_code == 0, done.output
    assert "page.html (" in done.stdout
    page = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    for name in ("poem", "torn"):
        assert f"not drawn: {name}" in done.stderr
        assert f"{name}:" in page.text
    assert "selftest" not in page.text


@pytest.mark.parametrize("text", ["", "[]", "{}", "\xff", '{"kind": "load"}', '{"scenario": {}, "peers": []}'])
def test_a_file_that_was_named_must_be_a_result(tmp_path, text):
    """One line that names it, instead of a page that lacks it."""
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(RecordError, match=r"x\.json"):
        read_results([tmp_path / "x.json"])


@pytest.mark.parametrize("spoilt", [{"file": "big.iso"}, {"block_size_bytes": 0}, {"file": {"size_bytes": -1}}])
def test_a_scenario_that_cannot_be_shown_is_refused_by_name(tmp_path, spoilt):
    """The page shows it in full, so it is checked when it is read."""
    broken = plain(2)
    broken.scenario.update(spoilt)
    records.write(broken, tmp_path / "x.json")
    with pytest.raises(RecordError, match=r"x\.json: scenario"):
        read_results([tmp_path / "x.json"])


def test_nothing_to_draw_is_an_error_that_says_what_to_give(tmp_path):
    """An empty page would look like a success."""
    with pytest.raises(UsageError, match="nothing to draw"):
        read_results([tmp_path])
    with pytest.raises(UsageError, match="give records or folders"):
        newest_session(tmp_path)


def test_without_results_the_newest_session_is_taken(tmp_path):
    """Sessions are named by time, whatever machine they are of."""
    for name in ("a-machine/20260102T000000Z-abc", "b-machine/20260101T000000Z-def", "b-machine/notes"):
        (tmp_path / name).mkdir(parents=True)
    assert newest_session(tmp_path).name == "20260102T000000Z-abc"


# -- small parts -------------------------------------------------------------------------------------------------------


def test_short_paths_are_the_same_lines():
    """A page is small because of it, and must not be wrong because of it."""
    assert short_path("M 0 0 \nL 10.04 0 \nL 10.04 5.26 \nL 12 7 \nz\nM 1 1 \nL 1 2 \n") == "M0 0h10v5.3l2 1.7zM1 1v1"
    assert short_path("M 0 -3.123 \nC 1 2 3 4 5.555 6 \n").startswith("M 0 -3.12 C")


def test_csv_leaves_missing_values_empty():
    """A spreadsheet must not read None as a word."""
    assert csv_text(("a", "b"), [(None, 1 / 3), ("x,y", 2)]) == 'a,b\n,0.333333\n"x,y",2\n'
