"""The floors of the house: imports point down, and what costs start-up time is imported by those who need it."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
DEADLINE_S = 60


def python(*arguments):
    """Run this interpreter with the repository as its working directory, and as a user would: without coverage."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=env, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )


def modules_after(code):
    """Return the names of all modules loaded once a fresh interpreter has run this code."""
    report = "import json, sys; print(json.dumps(sorted(sys.modules)))"
    done = python("-c", f"{code}\n{report}")
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_imports_point_down():
    """A peer that imported the command line, or policy that imported a socket, could not be tested or forked alone."""
    lint = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = python("-c", lint, "--no-cache", "--config", str(ROOT / "pyproject.toml"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_the_forkserver_imports_what_peers_need_and_nothing_above():
    """Every child inherits these pages: flask must be there before the fork, the command line's weight must not.

    What flask itself imports (click is its own dependency) is not for MiniBit to choose.
    """
    loaded = modules_after("import minibit.launcher.__main__")
    above = loaded - modules_after("import flask")
    assert {"flask", "waitress", "urllib3", "msgspec", "minibit.peers", "minibit.tracker"} <= loaded
    assert above.isdisjoint({"click", "rich", "gevent", "matplotlib", "numpy", "locust", "pytest", "minibit.cli"})


def test_policy_alone_loads_no_server_and_no_client():
    """A simulator drives the sessions of ten thousand peers: it must not pay for HTTP."""
    loaded = modules_after("import minibit.core.session, minibit.core.bounds, minibit.core.limiter")
    assert loaded.isdisjoint({"flask", "waitress", "requests", "urllib3", "socket", "threading", "logging"})


def test_help_answers_without_loading_the_servers():
    """A newcomer's first command must answer at once, not after half a second of imports."""
    code = "import sys\nfrom minibit.cli import main\nsys.argv = ['minibit', '--help']\n"
    loaded = modules_after(f"{code}try:\n    main()\nexcept SystemExit as end:\n    assert not end.code")
    assert "click" in loaded
    assert loaded.isdisjoint({"flask", "waitress", "requests", "matplotlib", "numpy"})


def test_help_lists_the_commands():
    """The same command as a user types it: the commands of the contract are all there."""
    done = python("-c", "from minibit.cli import main; main()", "--help")
    assert done.returncode == 0, done.stderr
    assert {"tracker", "torrent", "peer", "swarm", "sweep"} <= set(done.stdout.split())
