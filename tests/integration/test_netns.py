"""Four machines with addresses of their own: network namespaces on one bridge, driven by the real command line."""

import contextlib
import os
import signal
import subprocess
import sys

import pytest

MINIBIT = [sys.executable, "-c", "from minibit.cli import main; main()"]
MACHINES = 4  # the tracker and the seed live on the first, a leecher on each other
PORT = 9000

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]


def ip(*arguments):
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"


@pytest.fixture
def machines():
    """Return the names of four namespaces, 10.77.0.1 to 10.77.0.4 on a bridge in a fifth."""
    tag = f"mb{os.getpid()}"
    switch, names = f"{tag}sw", [f"{tag}n{number}" for number in range(1, MACHINES + 1)]
    with contextlib.ExitStack() as made:
        for name in [switch, *names]:
            ip("netns", "add", name)
            made.callback(ip, "netns", "del", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("-n", switch, "link", "add", "br0", "type", "bridge")
        ip("-n", switch, "link", "set", "br0", "up")
        for number, name in enumerate(names, 1):
            ip("-n", switch, "link", "add", f"port{number}", "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("-n", switch, "link", "set", f"port{number}", "master", "br0")
            ip("-n", switch, "link", "set", f"port{number}", "up")
            ip("-n", name, "address", "add", f"10.77.0.{number}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
        yield names


@pytest.fixture
def start(tmp_path):
    """Return ``start(machine, arguments)``: ``minibit …`` on that machine, its output in a file named as it is."""
    started = []

    def run(machine, name, *arguments):
        with (tmp_path / f"{name}.log").open("wb") as log:
            command = ["ip", "netns", "exec", machine, *MINIBIT, *map(str, arguments)]
            process = subprocess.Popen(command, stdout=log, stderr=log, cwd=tmp_path)
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait(10)


def test_machines_with_their_own_addresses_share_a_file(machines, start, make_file, tmp_path, wait_until):
    """What an operator of several real machines types, to the letter; loopback would hide a wrong address."""
    source, _ = make_file(3_000_001, name="big.iso", block_size_bytes=64 * 1024)
    subprocess.run([*MINIBIT, "torrent", source, "-o", tmp_path / "big.iso.torrent"], check=True, timeout=60)
    tracker = start(machines[0], "tracker", "tracker", "--host", "0.0.0.0", "--port", PORT)
    wait_until(lambda: b"listening" in (tmp_path / "tracker.log").read_bytes(), "the tracker")
    beside = ["--tracker", f"http://127.0.0.1:{PORT}", "--advertise", "10.77.0.1"]
    seed = start(
        machines[0], "seed", "peer", "big.iso.torrent", "--seed", "--dir", source.parent, "--id", "seed", *beside
    )
    folders = [tmp_path / f"machine-{number}" for number in range(2, MACHINES + 1)]
    across = ["--tracker", f"http://10.77.0.1:{PORT}", "--exit-when-complete"]
    leechers = [
        start(machine, folder.name, "peer", "big.iso.torrent", "--dir", folder, "--upload-rate", "5MB/s", *across)
        for machine, folder in zip(machines[1:], folders, strict=True)
    ]
    for process, folder in zip(leechers, folders, strict=True):
        assert process.wait(40) == 0, (tmp_path / f"{folder.name}.log").read_text()
        assert (folder / "big.iso").read_bytes() == source.read_bytes()
    assert seed.poll() is None
    for process in (seed, tracker):
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
    logs = "".join(path.read_text() for path in tmp_path.glob("*.log"))
    assert "Traceback" not in logs


def test_an_address_advertised_from_another_machine_is_not_believed(machines, start, make_file, tmp_path):
    """--advertise counts only beside the tracker: from another machine it could point the swarm at a stranger."""
    source, _ = make_file(100_000, name="big.iso")
    subprocess.run([*MINIBIT, "torrent", source, "-o", tmp_path / "big.iso.torrent"], check=True, timeout=60)
    start(machines[0], "tracker", "tracker", "--host", "0.0.0.0", "--port", PORT)
    across = ["--tracker", f"http://10.77.0.1:{PORT}"]
    lying = ["--seed", "--dir", source.parent, "--advertise", "10.77.0.4", *across]
    start(machines[1], "seed", "peer", "big.iso.torrent", *lying)
    folder = tmp_path / "machine-3"
    leecher = start(machines[2], "leecher", "peer", "big.iso.torrent", "--dir", folder, "--exit-when-complete", *across)
    assert leecher.wait(40) == 0, (tmp_path / "leecher.log").read_text()
    assert (folder / "big.iso").read_bytes() == source.read_bytes()
