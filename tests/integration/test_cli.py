"""Wrong input to every command: one line that names it, exit code 2, and nothing begun."""

import subprocess
import sys

import pytest

DEADLINE_S = 30


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["swarm", "--peers", "-1"], "-1"),
        (["swarm", "--size", "much"], "much"),
        (["swarm", "--upload-rate", "0"], "0"),
        (["swarm", "/nope.toml"], "/nope.toml"),
        (["sweep", "--peers", "1,x"], "1,x"),
        (["torrent", "/nope"], "/nope"),
        (["tracker", "--port", "99999"], "99999"),
        (["peer", "/nope.torrent", "--dir", "."], "/nope.torrent"),
        (["fly"], "fly"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_input_is_named_in_one_line(arguments, named, tmp_path):
    """A script that calls MiniBit shows its user this line and nothing else."""
    done = subprocess.run(
        [sys.executable, "-c", "from minibit.cli import main; main()", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 2
    assert named in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []
