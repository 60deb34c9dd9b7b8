"""The launcher's processes: what they are made of, and that none outlives its run, however that ends."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import msgspec
import psutil
import pytest

from minibit import scenario
from minibit.errors import SwarmError
from minibit.launcher.channel import Channel, Progress, Ready, Stop, TrackerSpec
from minibit.launcher.processes import ProcessFleet, ThreadFleet
from minibit.launcher.swarm import run_swarm

MINIBIT = [sys.executable, "-c", "from minibit.cli import main; main()"]
GONE_WITHIN_S = 5.0
SLOW_SWARM = ["swarm", "--peers", "3", "--size", "4MiB", "--upload-rate", "100kB/s"]


def gone(process):
    try:
        return process.status() == psutil.STATUS_ZOMBIE  # dead; whoever inherited it has not collected it yet
    except psutil.NoSuchProcess:
        return True


def title(process):
    try:
        return " ".join(process.cmdline()).strip()
    except psutil.Error:
        return ""


# -- the command line, interrupted -------------------------------------------------------------------------------------


@pytest.fixture
def running_swarm(tmp_path, wait_until):
    """Return ``minibit swarm`` in the middle of a slow run: its process, and every process below it."""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with (tmp_path / "stderr").open("wb") as stderr:
        launcher = subprocess.Popen(
            [*MINIBIT, *SLOW_SWARM], stdout=subprocess.DEVNULL, stderr=stderr, env=environment, start_new_session=True
        )
    root = psutil.Process(launcher.pid)
    torn = []
    try:
        wait_until(lambda: b"sharing" in (tmp_path / "stderr").read_bytes(), "the swarm to run")
        torn = root.children(recursive=True)
        titles = {title(process) for process in torn}
        assert {"minibit forkserver", "minibit tracker", "minibit seed-000", "minibit leecher-002"} <= titles
        assert len(torn) == 6
        yield launcher, torn
    finally:
        for process in [*torn, root]:
            if not gone(process):
                process.kill()
        launcher.wait(10)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_an_interrupted_swarm_leaves_no_process_and_no_file(running_swarm, tmp_path, wait_until, how):
    """What a person does who has seen enough; an exit code of 130 tells scripts that it was no result."""
    launcher, processes = running_swarm
    launcher.send_signal(how)
    assert launcher.wait(10) == 130
    wait_until(lambda: all(map(gone, processes)), "every process to be gone", timeout_s=GONE_WITHIN_S)
    lines = (tmp_path / "stderr").read_text()
    assert "Traceback" not in lines
    assert lines.splitlines()[-1] == "minibit: interrupted"
    assert [path.name for path in tmp_path.iterdir()] == ["stderr"]


def test_a_second_interrupt_does_not_leave_processes_behind(running_swarm, wait_until):
    """People press Ctrl-C twice."""
    launcher, processes = running_swarm
    launcher.send_signal(signal.SIGINT)
    launcher.send_signal(signal.SIGINT)
    launcher.wait(15)
    wait_until(lambda: all(map(gone, processes)), "every process to be gone", timeout_s=GONE_WITHIN_S)
    assert launcher.returncode != 0


def test_a_killed_launcher_leaves_no_process_within_five_seconds(running_swarm, tmp_path, wait_until):
    """SIGKILL runs no code of the launcher: the children must notice by themselves."""
    launcher, processes = running_swarm
    launcher.kill()
    assert launcher.wait(10) == -signal.SIGKILL
    wait_until(lambda: all(map(gone, processes)), "every process to be gone", timeout_s=GONE_WITHIN_S)
    assert "Traceback" not in (tmp_path / "stderr").read_text()


def test_a_killed_launcher_ends_children_that_were_stopped_too(running_swarm, wait_until):
    """A child that cannot notice (stopped, stuck in the kernel) is ended by the forkserver."""
    launcher, processes = running_swarm
    frozen = next(process for process in processes if title(process) == "minibit leecher-001")
    frozen.suspend()
    launcher.kill()
    launcher.wait(10)
    wait_until(lambda: all(map(gone, processes)), "every process to be gone", timeout_s=GONE_WITHIN_S)
    assert gone(frozen)


def test_a_killed_forkserver_leaves_no_process(running_swarm, wait_until):
    """The out-of-memory killer chooses whom it likes."""
    launcher, processes = running_swarm
    next(process for process in processes if title(process) == "minibit forkserver").kill()
    launcher.terminate()
    assert launcher.wait(15) == 130
    wait_until(lambda: all(map(gone, processes)), "every process to be gone", timeout_s=GONE_WITHIN_S)


# -- the command line, undisturbed -------------------------------------------------------------------------------------


def test_the_command_line_runs_a_swarm_and_writes_its_record(tmp_path):
    """One line for a newcomer: exit 0, a table, a record."""
    command = [*MINIBIT, *f"swarm --peers 2 --size 1MiB --json {tmp_path}/run.json".split()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    record = msgspec.json.decode((tmp_path / "run.json").read_bytes())
    assert record["valid"] is True
    assert len(record["peers"]) == 3


@pytest.mark.parametrize(
    "arguments",
    [
        "swarm --peers 0",
        "swarm --size 16 --block-size 1",
        "swarm --size 1XB",
        "swarm --file /nonexistent",
        "swarm --block-size 12KiB",
        "swarm --upload-rate fast",
        "swarm --nonsense",
        "peers",
    ],
)
def test_a_mistake_on_the_command_line_is_exit_2_without_a_traceback(arguments):
    """A user's mistake is answered with what to do, not with the program's inside."""
    done = subprocess.run([*MINIBIT, *arguments.split()], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert done.stderr.strip()


# -- fleets ------------------------------------------------------------------------------------------------------------


def test_children_are_processes_with_names_and_without_the_launchers_ballast():
    """Each is an ordinary process that ps shows and kill ends; what a peer does not need is not in its memory."""
    with ProcessFleet(1) as fleet:
        child = fleet.spawn(TrackerSpec("tracker-x", 0))
        fleet.wait_ready(["tracker-x"])
        assert title(psutil.Process(child.pid)) == "minibit tracker-x"
        with socket.create_connection(("127.0.0.1", child.port), timeout=5):
            pass
        mapped = Path(f"/proc/{child.pid}/maps").read_text()
        assert "gevent" not in mapped
        pid = child.pid
    assert not psutil.pid_exists(pid) or gone(psutil.Process(pid))
    assert fleet.leftovers() == []


def test_the_forkserver_has_imported_what_peers_need_and_nothing_above_the_launcher():
    """A cold import costs each child a fifth of a second of CPU; click, rich or gevent would cost each its memory."""
    script = "import sys, minibit.launcher.__main__; print(*(m for m in sys.argv[1:] if m in sys.modules))"
    above = ["rich", "gevent", "locust", "pytest", "matplotlib", "minibit.cli", "minibit.analysis"]
    names = ["flask", "waitress", "requests", *above]
    done = subprocess.run(
        [sys.executable, "-c", script, *names], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout.split() == ["flask", "waitress", "requests"]


@pytest.mark.parametrize("kind", [lambda: ProcessFleet(1), ThreadFleet], ids=["process", "thread"])
def test_a_fleet_that_is_left_stops_its_children_and_frees_their_ports(kind):
    """Also when nobody said Stop: leaving the block is enough."""
    with kind() as fleet:
        child = fleet.spawn(TrackerSpec("tracker", 0))
        fleet.wait_ready(["tracker"])
        port = child.port
    assert fleet.leftovers() == []
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_child_that_dies_before_it_is_ready_is_named():
    """Otherwise the launcher would wait a minute for nothing."""
    with ProcessFleet(1) as fleet:
        child = fleet.spawn(TrackerSpec("doomed", 0))
        os.kill(child.pid, signal.SIGKILL)
        with pytest.raises(SwarmError, match="doomed ended before it was ready"):
            _wait_ready_twice(fleet)


def _wait_ready_twice(fleet):
    """It may have been ready before the signal came; it will not be again."""
    fleet.wait_ready(["doomed"])
    fleet.wait_ready(["doomed"])


def test_runs_one_after_another_leave_no_descriptors():
    """A sweep runs hundreds of swarms in one process."""

    def descriptors():
        return len(list(Path("/proc/self/fd").iterdir()))

    plan = scenario.simple(peers=1, size_bytes=1000)
    run_swarm(plan)
    before = descriptors()
    run_swarm(plan)
    run_swarm(scenario.override(plan, isolation="thread"))
    assert descriptors() <= before


# -- channels ----------------------------------------------------------------------------------------------------------


def test_a_channel_hands_over_whole_messages_in_order():
    """A message may come in pieces, or several in one: a stream has no borders of its own."""
    ours, theirs = map(Channel, socket.socketpair())
    try:
        ours.send(Ready(1234))
        ours.send(Progress(7))
        assert theirs.receive(5.0) == [Ready(1234), Progress(7)]
        encoded = msgspec.json.encode(Progress(8)) + b"\n"
        ours.sock.sendall(encoded[:5])
        assert theirs.receive(5.0) == []
        ours.sock.sendall(encoded[5:])
        assert theirs.receive(5.0) == [Progress(8)]
        assert theirs.receive(0.0) == []
        assert not theirs.ended
    finally:
        ours.close()
        theirs.close()


def test_the_end_of_a_channel_is_noticed_on_both_sides():
    """It is how a child learns that its launcher is gone, and the launcher that its child is."""
    ours, theirs = map(Channel, socket.socketpair())
    ours.close()
    assert theirs.receive(5.0) == []
    assert theirs.ended
    theirs.send(Stop())
    assert theirs.ended
    theirs.close()
