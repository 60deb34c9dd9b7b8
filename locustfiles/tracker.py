"""Load on a MiniBit tracker: ``locust -f locustfiles/tracker.py [--headless -u 50 -r 50 -t 20s]``.

Without ``--host`` a tracker is started under waitress as a child process on a free loopback port, and stopped at the
end; with ``--host`` any MiniBit tracker is loaded. Each user is one peer of a real file's swarm: it registers,
registers again at every interval, asks for more peers now and then, leaves, and comes back as another peer. The time
between requests is left out (a closed loop: each user sends as fast as it is answered), their proportion is kept. Every
answer is checked.
"""

# Locust comes first: it patches the standard library, and whatever imported ssl before would keep the unpatched one.
# isort: off
from locust import FastHttpUser, constant, events, task
from locust.env import Environment
from locust.runners import WorkerRunner

# isort: on
import os
import random
import select
import subprocess
import sys
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import msgspec

from minibit.wire import (
    JSON,
    NUMWANT_MAX,
    PEERS,
    REGISTER,
    PeerEntry,
    PeersAnswer,
    RegisterAnswer,
    RegisterRequest,
    decoder,
    encode,
)

INFO_HASH = "10ad" * 10  # a swarm of its own: a tracker in use is loaded without mixing these peers into its swarms
DEFAULT_HAND_OUT = 5
OPTIONS = ("--host", "127.0.0.1", "--port", "0")
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0
# One life of a peer: ten minutes at an interval of 30 s, and more neighbours wanted at every second interval.
RE_REGISTRATIONS, QUESTIONS, DEPARTURES = 20, 10, 1

decode_registration = decoder(RegisterAnswer).decode
decode_peers = decoder(PeersAnswer).decode


class EmbeddedTracker:
    """A tracker in a child process, which leaves when told to, and also when this process is killed."""

    def __init__(self) -> None:
        ready_read, ready_write = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "minibit.tracker", *OPTIONS, "--ready-fd", str(ready_write), "--stop-fd", "0"],
            pass_fds=(ready_write,),
            stdin=subprocess.PIPE,  # its end is how the tracker learns that this process is done or gone
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for locust, which stops its users before their tracker
        )
        os.close(ready_write)
        # Through gevent's select, not a blocking read: gevent's close does its work only when its loop turns, and
        # without it a tracker that died would leave the pipe open and this process waiting for ever.
        readable, _, _ = select.select([ready_read], [], [], START_TIMEOUT_S)
        report = os.read(ready_read, 64) if readable else b""
        os.close(ready_read)
        if not report:
            self._process.kill()
            raise RuntimeError(f"the embedded tracker did not start: exit code {self._process.wait(STOP_TIMEOUT_S)}")
        self.url = f"http://127.0.0.1:{int(report)}"

    def stop(self) -> None:
        """Let the tracker leave, and wait for it; kill it if it does not. May be called twice."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(STOP_TIMEOUT_S)


@events.init.add_listener
def provide_tracker(environment: Environment, **_: Any) -> None:
    """Start a tracker unless one was named; workers are told its address by their master."""
    if isinstance(environment.runner, WorkerRunner):
        return
    if not environment.host:
        tracker = EmbeddedTracker()
        environment.host = tracker.url
        # Not ``quitting``: it is fired before the users have stopped, and their last requests would fail.
        environment.events.quit.add_listener(lambda **_: tracker.stop())
    environment.events.quit.add_listener(lambda **_: print_throughput(environment))


def print_throughput(environment: Environment) -> None:
    """Print what was measured in one line on stderr, apart from locust's tables."""
    total = environment.stats.total
    duration_s = (total.last_request_timestamp or total.start_time) - total.start_time
    print(
        f"tracker throughput: {total.total_rps:,.1f} requests/s at {environment.host}"
        f" ({total.num_requests:,} requests in {duration_s:.1f} s, {total.num_failures:,} failed)",
        file=sys.stderr,
    )


def what_is_wrong(peers: Sequence[PeerEntry], caller: str, limit: int) -> str | None:
    """Return what a hand-out must not be: with its caller in it, longer than asked for, or naming a peer twice."""
    names = [peer.peer_id for peer in peers]
    if caller in names:
        return "the caller was handed out to itself"
    if len(names) > limit:
        return f"{len(names)} peers handed out, at most {limit} wanted"
    if len(set(names)) < len(names):
        return "a peer was handed out twice"
    return None


class TrackerUser(FastHttpUser):
    """One peer after another, as seen by the tracker."""

    wait_time = constant(0)

    def on_start(self) -> None:
        """Enter the swarm."""
        self.become_another_peer()

    def on_stop(self) -> None:
        """Leave the swarm."""
        self.leave()

    @task(RE_REGISTRATIONS)
    def register_again(self) -> None:
        """Say that this peer is still there."""
        self.register("again")

    @task(QUESTIONS)
    def ask_for_peers(self) -> None:
        """Ask for the usual five, or for as many as a peer that lost its neighbours wants."""
        numwant = random.choice((None, random.randint(1, NUMWANT_MAX)))
        query = f"peer_id={self.peer_id}&info_hash={INFO_HASH}" + (f"&numwant={numwant}" if numwant else "")
        with self.client.get(f"{PEERS}?{query}", name=PEERS, catch_response=True) as response:
            self.check(response, decode_peers, numwant or DEFAULT_HAND_OUT)

    @task(DEPARTURES)
    def leave_and_come_back(self) -> None:
        """End one peer's life and begin another's."""
        self.leave()
        self.become_another_peer()

    def become_another_peer(self) -> None:
        """Register under a new name."""
        self.peer_id = f"load-{uuid4().hex}"
        self.listen_port = random.randint(1024, 65535)
        self.register("started", event="started")

    def leave(self) -> None:
        """Tell the tracker so; it hands out nobody then."""
        self.register("stopped", event="stopped", limit=0)

    def register(self, kind: str, event: str | None = None, limit: int = NUMWANT_MAX) -> None:
        """Send one registration and check its answer for at most ``limit`` peers."""
        body = encode(RegisterRequest(self.peer_id, self.listen_port, info_hash=INFO_HASH, event=event))
        with self.client.post(
            REGISTER, data=body, headers={"Content-Type": JSON}, name=f"{REGISTER} {kind}", catch_response=True
        ) as response:
            self.check(response, decode_registration, limit)

    def check(self, response: Any, decode: Any, limit: int) -> None:
        """Let locust count the request as failed unless its answer is what the contract says."""
        if response.status_code != 200:
            response.failure(f"status {response.status_code}: {(response.text or '')[:200]}")
            return
        try:
            answer = decode(response.content)
        except msgspec.DecodeError as error:
            response.failure(f"malformed answer: {error}")
            return
        if problem := what_is_wrong(answer.peers, self.peer_id, limit):
            response.failure(problem)
