"""Four machines with addresses of their own: network namespaces on one bridge, driven by the real command line."""

import os
import signal
import subprocess
import sys

import pytest

MINIBIT = [sys.executable, "-c", "from minibit.cli import main; main()"]
PORT = 9000

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]


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
    folders = [tmp_path / f"machine-{number}" for number in range(2, len(machines) + 1)]
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
