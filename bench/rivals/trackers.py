"""Trackers and bare servers as processes, each on a loopback port: ``with TRACKERS[name](port) as url``.

``bare …`` answer a constant: the ceiling of that server on this machine.
"""

import http.client
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from bench.rivals.clients import MissingError
from minibit.load.embedded import Embedded

INFO_HASH = "0102030405060708091011121314151617181920"
UP_WITHIN_S = 15.0
_BARE = """
BODY = b'd8:intervali120e5:peers0:e'
def app(environ, start_response):
    start_response('200 OK', [('Content-Type', 'text/plain'), ('Content-Length', str(len(BODY)))])
    return [BODY]
"""
_WAITRESS = """
import logging, sys, waitress, bare
logging.getLogger('waitress.queue').setLevel(40)
waitress.serve(bare.app, host='127.0.0.1', port=int(sys.argv[1]), threads=4, _quiet=True)
"""
_NODE = """
import Server from './node_modules/bittorrent-tracker/server.js'
new Server({udp: false, http: true, ws: false, stats: false}).listen(%d, '127.0.0.1')
"""


@contextmanager
def _running(command: list[str], folder: Path | None, port: int) -> Iterator[str]:
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_until_up(port, process)
        yield url
    finally:
        process.terminate()
        process.wait()


@contextmanager
def minibit(port: int, *, server: str) -> Iterator[str]:
    """Run MiniBit's tracker under waitress or granian."""
    if server == "granian":
        _require("granian", "pip install granian")
    options = ["--host", "127.0.0.1", "--port", str(port), "--server", server]
    with _running([sys.executable, "-m", "minibit.tracker", *options], None, port) as url:
        yield url


@contextmanager
def filled(port: int, *, server: str, peers: int) -> Iterator[tuple[str, int]]:
    """Run MiniBit's tracker with so many peers registered in the swarm; give its address and the bytes of each peer."""
    if server == "granian":
        _require("granian", "pip install granian")
    options = ["--port", str(port), "--server", server, "--registered", str(peers), "--info-hash", INFO_HASH]
    with Embedded("tracker", *options) as tracker:
        yield tracker.url, int(tracker.output.readline().split()[0])


@contextmanager
def bare(port: int, *, server: str) -> Iterator[str]:
    """Run an application that answers a constant."""
    _require(server, f"pip install {server}")
    with tempfile.TemporaryDirectory(prefix="minibit-rival-") as name:
        (Path(name) / "bare.py").write_text(_BARE)
        options = ["--interface", "wsgi", "--host", "127.0.0.1", "--workers", "1", "--blocking-threads", "1"]
        commands = {
            "waitress": [sys.executable, "-c", _WAITRESS, str(port)],
            "granian": [sys.executable, "-m", "granian", *options, "--port", str(port), "bare:app"],
        }
        with _running(commands[server], Path(name), port) as url:
            yield url


@contextmanager
def opentracker(port: int, *, hashes: Sequence[str] = (INFO_HASH,)) -> Iterator[str]:
    """Run opentracker, which closes each connection after one answer, for these swarms."""
    if not shutil.which("opentracker"):
        raise MissingError("opentracker is not installed: apt-get install opentracker")
    with tempfile.TemporaryDirectory(prefix="minibit-rival-") as name:
        # Debian's build serves only swarms it was told of, and gives up root: it must be able to read its folder.
        (Path(name) / "whitelist").write_text("".join(f"{info_hash}\n" for info_hash in hashes))
        Path(name).chmod(0o755)
        where = ["-i", "127.0.0.1", "-p", str(port), "-P", str(port), "-d", name]
        with _running(["opentracker", *where, "-w", "whitelist", "-u", "nobody"], Path(name), port) as url:
            yield url


@contextmanager
def bittorrent_tracker(port: int, *, node_folder: Path) -> Iterator[str]:
    """Run webtorrent's tracker."""
    if not shutil.which("node") or not (node_folder / "node_modules/bittorrent-tracker").is_dir():
        raise MissingError(
            f"bittorrent-tracker is not in {node_folder}: npm install --ignore-scripts bittorrent-tracker, there"
        )
    script = node_folder / "minibit-run.mjs"
    script.write_text(_NODE % port)
    with _running(["node", script.name], node_folder, port) as url:
        yield url


def trackers(node_folder: Path) -> dict[str, Callable[[int], AbstractContextManager[str]]]:
    """Return what runs each tracker on a port."""
    return {
        "bare waitress": partial(bare, server="waitress"),
        "minibit": partial(minibit, server="waitress"),
        "bare granian": partial(bare, server="granian"),
        "minibit granian": partial(minibit, server="granian"),
        "opentracker": opentracker,
        "bittorrent-tracker": partial(bittorrent_tracker, node_folder=node_folder),
    }


def _require(module: str, how: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise MissingError(f"{module} is not installed: {how}")


def _wait_until_up(port: int, process: subprocess.Popen[Any]) -> None:
    deadline_s = time.monotonic() + UP_WITHIN_S
    while time.monotonic() < deadline_s and process.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
        try:
            connection.request("GET", "/")
            connection.getresponse().read()
        except (OSError, http.client.HTTPException):
            time.sleep(0.05)
        else:
            return  # whatever it answers
        finally:
            connection.close()
    raise RuntimeError(f"nothing answers on port {port}: {process.args!r:.200}")
