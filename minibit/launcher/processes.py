"""Children of a run: started ready, spoken to over channels, and gone at the end, whatever happens.

Two fleets with one face: ``ProcessFleet`` forks operating-system processes from a forkserver, ``ThreadFleet`` runs the
same children as threads of this process. A fleet is a context manager; leaving it stops and reaps every child.
"""

import contextlib
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from minibit.errors import SwarmError
from minibit.launcher.channel import (
    Anything,
    Channel,
    Failed,
    Message,
    PeerSpecMessage,
    Ready,
    Stop,
    TrackerSpec,
)
from minibit.launcher.child import run_child

READY_TIMEOUT_S = 60.0  # between two children becoming ready; hashing a large seed file takes a while
STOP_TIMEOUT_S = 10.0
EXIT_TIMEOUT_S = 2.0
DESCRIPTORS_PER_CHILD = 2
DESCRIPTORS_SPARE = 200
THREADS_PER_CHILD = 8  # at the least: itself, a clock, two that answer and one more for each long answer, some that ask
TASK_LIMITS = (Path("/proc/sys/kernel/pid_max"), Path("/proc/sys/kernel/threads-max"), Path("/sys/fs/cgroup/pids.max"))


@dataclass(eq=False, slots=True)
class Child:
    """One child as the launcher sees it."""

    name: str
    channel: Channel
    pid: int | None = None  # None: a thread
    port: int | None = None
    exit_status: int | None = None


class Fleet(ABC):
    """The children of one run."""

    def __init__(self) -> None:
        self.children: dict[str, Child] = {}
        self._poller = select.poll()
        self._by_descriptor: dict[int, Child] = {}

    def spawn(self, spec: TrackerSpec | PeerSpecMessage) -> Child:
        """Start a child; it says Ready when it is."""
        ours, theirs = socket.socketpair()
        name = spec.name if isinstance(spec, TrackerSpec) else spec.peer_id
        child = Child(name, Channel(ours))
        self.children[name] = child
        self._by_descriptor[ours.fileno()] = child
        self._poller.register(ours, select.POLLIN)
        child.pid = self._start(spec, theirs)
        return child

    def wait_ready(self, names: Iterable[str]) -> None:
        """Wait until these children are ready. Raise SwarmError if one fails, or none gets ready for a minute."""
        waiting = set(names)
        deadline_s = time.monotonic() + READY_TIMEOUT_S
        while waiting:
            for child, message in self.messages(deadline_s - time.monotonic()):
                if isinstance(message, Ready):
                    child.port = message.port
                    waiting.discard(child.name)
                    deadline_s = time.monotonic() + READY_TIMEOUT_S
                elif isinstance(message, Failed):
                    raise SwarmError(f"{child.name}: {message.error}")
                elif message is None and child.name in waiting:
                    raise SwarmError(f"{child.name} ended before it was ready")
            if waiting and time.monotonic() > deadline_s:
                raise SwarmError(f"{len(waiting)} children are not ready, among them {min(waiting)}")

    def messages(self, timeout_s: float) -> Iterator[tuple[Child, Anything | None]]:
        """Yield what children say within ``timeout_s``, as soon as some do; None for a child that is gone."""
        for descriptor, _ in self._poller.poll(max(0.0, timeout_s) * 1000):
            child = self._by_descriptor[descriptor]
            for message in child.channel.receive(0.0):
                yield child, message
            if child.channel.ended:
                self._poller.unregister(descriptor)
                del self._by_descriptor[descriptor]
                yield child, None

    def broadcast(self, message: Message, names: Iterable[str] | None = None) -> None:
        """Say the same to all children, or to these."""
        for name in names if names is not None else list(self.children):
            self.children[name].channel.send(message)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop every child and wait until it is gone; force those that do not leave."""
        first, *others = list(self.children) or [""]
        self._stop(others)
        self._stop([first] if first else [])  # the tracker, which the others take their leave of
        self._end()
        for child in self.children.values():
            child.channel.close()

    def _stop(self, names: list[str]) -> None:
        self.broadcast(Stop(), names)
        deadline_s = time.monotonic() + STOP_TIMEOUT_S
        while time.monotonic() < deadline_s and not all(self.children[name].channel.ended for name in names):
            for _ in self.messages(deadline_s - time.monotonic()):
                pass

    @abstractmethod
    def leftovers(self) -> list[str]:
        """After ``close``: name the children that are still there."""

    @abstractmethod
    def _start(self, spec: TrackerSpec | PeerSpecMessage, theirs: socket.socket) -> int | None:
        """Start the child with its end of the channel; return its pid."""

    @abstractmethod
    def _end(self) -> None:
        """End what did not end by itself."""


class ProcessFleet(Fleet):
    """Children as processes of their own, forked from a process that has already imported what they need."""

    def __init__(self, num_children: int) -> None:
        super().__init__()
        allow_descriptors(DESCRIPTORS_PER_CHILD * num_children + DESCRIPTORS_SPARE)
        check_threads(THREADS_PER_CHILD * num_children)
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            # A session of its own: Ctrl-C at the terminal reaches the launcher alone, which then ends the others.
            self._forkserver = subprocess.Popen(
                [sys.executable, "-m", "minibit.launcher", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._control.settimeout(READY_TIMEOUT_S)

    def _start(self, spec: TrackerSpec | PeerSpecMessage, theirs: socket.socket) -> int | None:
        with theirs:
            try:
                socket.send_fds(self._control, [msgspec.json.encode(spec)], [theirs.fileno()])
                while (answer := self._control.recv(100)).startswith(b"-"):
                    self._ended(answer)
            except OSError as error:
                raise SwarmError(f"the forkserver does not answer: {error}") from error
        if not answer:
            raise SwarmError("the forkserver ended; its reason stands above")
        return int(answer)

    def _ended(self, answer: bytes) -> None:
        pid, _, status = answer[1:].partition(b" ")
        for child in self.children.values():
            if child.pid == int(pid):
                child.exit_status = int(status)

    def _end(self) -> None:
        deadline_s = time.monotonic() + EXIT_TIMEOUT_S  # who has closed its channel is about to exit
        while (alive := self._alive()) and time.monotonic() < deadline_s:
            time.sleep(0.005)
        for pid in alive:
            with contextlib.suppress(ProcessLookupError):  # it was faster
                os.kill(pid, signal.SIGKILL)
        self._control.close()
        try:
            self._forkserver.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._forkserver.kill()
            self._forkserver.wait()

    def leftovers(self) -> list[str]:
        """Name the processes that are still there."""
        return [f"process {pid}" for pid in self._alive()]

    def _alive(self) -> list[int]:
        return [child.pid for child in self.children.values() if child.pid and _is_ours(child.pid)]


class ThreadFleet(Fleet):
    """Children as threads of this process: the specification's simulation."""

    def __init__(self) -> None:
        super().__init__()
        self._threads: list[threading.Thread] = []

    def _start(self, spec: TrackerSpec | PeerSpecMessage, theirs: socket.socket) -> int | None:
        thread = threading.Thread(
            target=run_child, args=(spec, Channel(theirs)), kwargs={"own_process": False}, daemon=True
        )
        thread.start()
        self._threads.append(thread)
        return None

    def _end(self) -> None:
        for thread in self._threads:
            thread.join(STOP_TIMEOUT_S)

    def leftovers(self) -> list[str]:
        """Name the threads that are still there."""
        return [f"thread {thread.name}" for thread in self._threads if thread.is_alive()]


def _is_ours(pid: int) -> bool:
    """Whether the process is there and still one of MiniBit's (a pid is used again one day)."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"minibit")
    except OSError:
        return False


def allow_descriptors(wanted: int) -> None:
    """Raise this process's limit of open files if need be; raise SwarmError in one line if the system forbids it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    try:
        ceiling = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (ceiling, hard))
    except (OSError, ValueError) as error:
        raise SwarmError(f"needs {wanted} open files, {soft} are allowed: {error}") from error
    if ceiling < wanted:
        raise SwarmError(f"needs {wanted} open files, {hard} are allowed: raise it with `ulimit -Hn {wanted}`")


def check_threads(wanted: int, limits: Sequence[Path] = TASK_LIMITS) -> None:
    """Raise SwarmError in one line if the system allows fewer threads than that, beside those it has."""
    running = int(Path("/proc/loadavg").read_text().split()[3].partition("/")[2])
    for path in limits:
        try:
            allowed = int(path.read_text())
        except (OSError, ValueError):  # not there, or "max"
            continue
        if running + wanted > allowed:
            raise SwarmError(f"needs {wanted} threads beside the {running} that run; {path} allows {allowed} in all")
