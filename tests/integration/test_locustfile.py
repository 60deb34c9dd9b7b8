"""``locustfiles/tracker.py`` under the real locust, with and without a tracker of its own."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import psutil
import pytest

from minibit.tracker import TrackerApp

REPOSITORY = Path(__file__).parents[2]
DEADLINE_S = 60.0


@contextmanager
def locust(tmp_path, *arguments):
    """Run the locustfile headless; yield the process. Everything it started is killed at the end, if it still lives."""
    output = tmp_path / "output.txt"
    command = [sys.executable, "-m", "locust", "-f", "locustfiles/tracker.py", "--headless", "-u", "10", "-r", "10"]
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
    trackers = [child for child in process.children(recursive=True) if "minibit.tracker" in child.cmdline()]
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
    requests, failures = totals(tmp_path)
    assert requests > 100
    assert failures == 0, output
    assert "tracker throughput: " in output
    for name in ("/register started", "/register again", "/register stopped", "/peers"):
        assert name in output
    assert "MonkeyPatchWarning" not in output


@pytest.mark.parametrize("stop_signal", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_ends_without_failures_and_takes_its_tracker_away(tmp_path, stop_signal):
    """Ctrl-C is how people end a load test; the tracker must outlive its users, and no longer."""
    with locust(tmp_path) as process:
        tracker = wait_for_tracker(process, tmp_path)
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
    with locust(tmp_path, "-t", "2s", "--processes", "2", *ports) as process:
        wait_for_tracker(process, tmp_path)
        assert process.wait(DEADLINE_S) == 0, (tmp_path / "output.txt").read_text()
    output = (tmp_path / "output.txt").read_text()
    assert output.count("tracker listening on") == 1
    requests, failures = totals(tmp_path)
    assert requests > 0
    assert failures == 0, output
