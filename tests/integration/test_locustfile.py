"""The locustfiles under the real locust: with and without a target of their own, alone and with workers."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from urllib.parse import parse_qsl

import bencode2
import psutil
import pytest

from minibit.load.population import Fault
from minibit.load.result import read
from minibit.tracker import TrackerApp, bep3
from minibit.tracker.registry import Window

REPOSITORY = Path(__file__).parents[2]
DEADLINE_S = 60.0


@contextmanager
def locust(tmp_path, *arguments, file="tracker"):
    """Run the locustfile headless; yield the process. Everything it started is killed at the end, if it still lives."""
    output = tmp_path / "output.txt"
    files = ",".join(f"locustfiles/{name}.py" for name in file.split(","))
    command = [sys.executable, "-m", "locust", "-f", files, "--headless", "-u", "10", "-r", "10", "--warm-up", "0.5"]
    arguments = ("--save", str(tmp_path / "load.json"), *arguments)
    with output.open("w") as sink:
        process = psutil.Popen(
            [*command, "--json-file", str(tmp_path / "result"), *arguments],
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TRACKER_HOST": "nowhere.invalid"},  # must not lead the embedded tracker astray
        )
    try:
        yield process
    finally:
        children = process.children(recursive=True) if process.is_running() else []
        for leftover in (process, *children):
            if leftover.is_running():
                leftover.kill()
        process.wait(DEADLINE_S)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


def wait_for_tracker(process, tmp_path):
    """Return the embedded tracker's process once the users are at work."""
    deadline_s = time.monotonic() + DEADLINE_S
    output = tmp_path / "output.txt"
    while "All users spawned" not in output.read_text():
        assert process.poll() is None, output.read_text()
        assert time.monotonic() < deadline_s, output.read_text()
        Event().wait(0.02)
    trackers = [child for child in process.children(recursive=True) if "minibit.load.served" in child.cmdline()]
    assert len(trackers) == 1, output.read_text()
    return trackers[0]


def totals(tmp_path):
    entries = json.loads((tmp_path / "result.json").read_text())
    return sum(entry["num_requests"] for entry in entries), sum(entry["num_failures"] for entry in entries)


def test_without_a_host_it_brings_its_own_tracker_and_takes_it_away(tmp_path):
    """One line, with nothing else running, must end in figures and leave nothing behind."""
    with locust(tmp_path, "-t", "3s") as process:
        tracker = wait_for_tracker(process, tmp_path)
        code = process.wait(DEADLINE_S)
        output = (tmp_path / "output.txt").read_text()
        assert code == 0, output
        assert not tracker.is_running()
    result = read(tmp_path / "load.json")
    assert result.answered > 100
    assert result.errors == 0
    assert set(result.seen.requests) == {
        "/peers",
        *(f"/register {kind}" for kind in ("again", "completed", "started", "stopped")),
    }
    assert 0.0001 < result.latency().at(50) < 1.0
    assert totals(tmp_path)[1] == 0
    for shown in ("p99.9 ms", "/register again", "generator: "):
        assert shown in output
    assert "MonkeyPatchWarning" not in output


def test_an_open_loop_sends_what_was_asked_for(tmp_path):
    """300 a second for two seconds and a quarter; and the threshold decides the exit code."""
    options = ("-t", "3s", "--arrival-rate", "300", "--protocol", "bep3", "--seed", "7")
    with locust(tmp_path, *options, "--fail-if", "p99<1us", "--fail-if", "rate<100") as process:
        assert process.wait(DEADLINE_S) == 0, (tmp_path / "output.txt").read_text()
    result = read(tmp_path / "load.json")
    assert result.planned == pytest.approx(675, rel=0.1)
    assert result.answered + result.errors + result.missed == pytest.approx(result.planned, abs=3)
    assert (result.seed, result.protocol, result.arrival_rate_per_s) == (7, "bep3", 300)
    assert result.all.service is not None
    with locust(tmp_path, "-t", "2s", "--fail-if", "p50>1us", "--fail-if", "errors>50%") as process:
        assert process.wait(DEADLINE_S) == 1
    output = (tmp_path / "output.txt").read_text()
    assert "FAILED  p50>1us: it was " in output
    assert "FAILED  errors" not in output


FAULTS = {
    "hands out the caller": "the caller was handed out to itself",
    "ignores numwant": "more peers than wanted",
    "loses one announce in a thousand": "",
}


@contextmanager
def faulty(name):
    """Serve a copy of MiniBit's tracker with one fault in it; yield its address."""
    tracker = TrackerApp("127.0.0.1", 0, rng_seed=1)
    service, rng = tracker.service, random.Random(1)
    real_announce = service.announce

    def announce(query, connection_ip):
        given = dict(parse_qsl(query, encoding="latin-1"))
        if name == "ignores numwant":
            return real_announce(query.replace("numwant=", "unread="), connection_ip)
        if name == "loses one announce in a thousand" and rng.random() < 0.001:
            window = Window(service.registry.census(given["info_hash"].encode("latin-1").hex()))
            return bep3.announce_answer(window, interval_s=300, min_interval_s=150)
        answer = bencode2.bdecode(real_announce(query, connection_ip))
        if name == "hands out the caller" and int(given["numwant"]):
            caller = bytes([127, 0, 0, 1]) + int(given["port"]).to_bytes(2, "big")
            answer[b"peers"] = (caller + answer[b"peers"])[: 6 * int(given["numwant"])]
        return bytes(bencode2.bencode(answer))

    service.announce = announce
    tracker.start()
    try:
        yield tracker.url
    finally:
        tracker.stop()


@pytest.mark.parametrize("name", FAULTS)
def test_a_faulty_tracker_fails_the_test_and_its_fault_is_named(tmp_path, name):
    """Figures of a tracker that answers wrongly are worth nothing, however good."""
    options = ("-t", "6s", "--protocol", "bep3", "--fail-if", "errors>0", "--seed", "3")
    with faulty(name) as url, locust(tmp_path, *options, "--host", url) as process:
        assert process.wait(DEADLINE_S) == 1, (tmp_path / "output.txt").read_text()
    kinds = {kind for joined in read(tmp_path / "load.json").all.errors for kind in joined.split("; ")}
    if FAULTS[name]:
        assert kinds == {FAULTS[name]}
    else:
        assert kinds
        assert kinds <= {Fault.MISSING, Fault.DEPARTED, Fault.COUNT}


def test_a_tracker_that_is_not_there_fails_in_figures_not_in_tracebacks(tmp_path):
    """Every request is an error with its reason."""
    with locust(tmp_path, "-t", "2s", "--host", f"http://127.0.0.1:{free_port()}") as process:
        assert process.wait(DEADLINE_S) == 1
    output = (tmp_path / "output.txt").read_text()
    assert "x no answer" in output
    assert "Connection refused" in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--fail-if", "p98>1"), "is not a threshold"),
        (("-t", "1s", "--warm-up", "2"), "leaves nothing after a --warm-up of 2 s"),
        (("--arrival-rate", "-1"), "must not be negative"),
        (("--peers", "0"), "must be at least 1"),
        (("--vanish", "2"), "must be within 0 and 1"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_started(tmp_path, options, said):
    """Not after the warm-up."""
    with locust(tmp_path, *options) as process:
        assert process.wait(DEADLINE_S) == 2
    output = (tmp_path / "output.txt").read_text()
    assert said in output
    assert "Traceback" not in output


def test_a_block_size_that_cannot_be_is_one_line(tmp_path):
    """Before a peer is started."""
    with locust(tmp_path, "--block-size", "3KiB", file="peer") as process:
        assert process.wait(DEADLINE_S) == 2
    assert "error: block size must be a power of two" in (tmp_path / "output.txt").read_text()


def test_a_flash_crowd_multiplies_users_and_newcomers(tmp_path):
    """Twice the second shape file: ten users, and ten times as many for a second."""
    shape = ("--crowd", "5", "--crowd-at", "1", "--crowd-for", "1")
    with locust(tmp_path, "-t", "3s", "--arrival-rate", "100", *shape, file="tracker,shapes") as process:
        assert process.wait(DEADLINE_S) == 0, (tmp_path / "output.txt").read_text()
    assert read(tmp_path / "load.json").planned == pytest.approx(2.25 * 100 + 400, rel=0.15)


@pytest.mark.parametrize("workers", [(), ("--processes", "2")])
def test_a_peer_is_loaded_and_every_block_checked(tmp_path, workers):
    """The peer's own choker refuses some, which is no error."""
    port = str(free_port())
    ports = ("--master-bind-port", port, "--master-port", port) if workers else ()
    options = (
        "-t",
        "3s",
        "--arrival-rate",
        "60",
        "--json-share",
        "0.3",
        "--choked-share",
        "0.3",
        "--block-size",
        "64KiB",
    )
    with locust(tmp_path, *options, *workers, *ports, file="peer") as process:
        assert process.wait(DEADLINE_S) == 0, (tmp_path / "output.txt").read_text()
    result = read(tmp_path / "load.json")
    assert {"/request_block raw 64 KiB", "/request_block JSON 64 KiB"} < set(result.seen.requests)
    assert result.processes == max(1, len(workers))


@pytest.mark.parametrize("stop_signal", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_ends_without_failures_and_takes_its_tracker_away(tmp_path, stop_signal):
    """Ctrl-C is how people end a load test; the tracker must outlive its users, and no longer."""
    with locust(tmp_path, "--warm-up", "0") as process:
        tracker = wait_for_tracker(process, tmp_path)
        Event().wait(0.5)  # some answers
        process.send_signal(stop_signal)
        assert process.wait(DEADLINE_S) == 0, (tmp_path / "output.txt").read_text()
        assert not tracker.is_running()
    assert totals(tmp_path)[1] == 0


def test_a_killed_run_takes_its_tracker_along(tmp_path):
    """A load test killed by a CI time-out must not leave a tracker on the machine."""
    with locust(tmp_path) as process:
        tracker = wait_for_tracker(process, tmp_path)
        process.kill()
        process.wait(DEADLINE_S)
        tracker.wait(DEADLINE_S)
        assert not tracker.is_running()


def test_with_a_host_that_tracker_is_loaded_and_no_other_started(tmp_path):
    """The same file measures a tracker on another machine."""
    tracker = TrackerApp("127.0.0.1", 0)
    tracker.start()
    try:
        with locust(tmp_path, "-t", "1s", "--host", tracker.url) as process:
            assert process.wait(DEADLINE_S) == 0, (tmp_path / "output.txt").read_text()
        served = tracker.service.stats()
    finally:
        tracker.stop()
    assert totals(tmp_path)[0] <= sum(served["requests"]["/register"].values()) + served["requests"]["/peers"]["200"]
    assert "tracker listening" not in (tmp_path / "output.txt").read_text()
    assert served["peers"] == 0  # every user left at the end


def test_only_the_master_starts_a_tracker_and_its_workers_load_it(tmp_path):
    """Locust's own distribution is how the load outgrows one process."""
    port = str(free_port())
    ports = ("--master-bind-port", port, "--master-port", port)
    with locust(tmp_path, "-t", "3s", "--processes", "2", *ports) as process:
        wait_for_tracker(process, tmp_path)
        assert process.wait(DEADLINE_S) == 0, (tmp_path / "output.txt").read_text()
    output = (tmp_path / "output.txt").read_text()
    result = read(tmp_path / "load.json")
    assert result.processes == 2
    assert result.answered > 100
    assert output.count("tracker listening on") == 1
    requests, failures = totals(tmp_path)
    assert requests > 0
    assert failures == 0, output
