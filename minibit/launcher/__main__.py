"""The forkserver's own process: imports once what every peer needs, then forks a child for each request.

``python -m minibit.launcher FD``: FD is one end of a SOCK_SEQPACKET pair. A packet from the launcher holds a child's
specification as JSON and, attached, the child's end of its channel; the answer is the child's pid. A packet
``-PID STATUS`` tells that a child ended. It is single-threaded, so forking is safe, and imports nothing above the
launcher: no click, no rich, no gevent. When the launcher is gone, however it died, children are given a moment to leave
by themselves (their channels end too) and are then killed.
"""

import contextlib
import gc
import logging
import os
import select
import signal
import socket
import sys
import time
from pathlib import Path

import msgspec
import setproctitle

from minibit.launcher.channel import Channel, PeerSpecMessage, TrackerSpec
from minibit.launcher.child import run_child

PACKET_BYTES = 64 * 1024
GRACE_S = 2.0
_decode = msgspec.json.Decoder(TrackerSpec | PeerSpecMessage).decode


SWITCH_INTERVAL_S = 0.05
"""How long a thread of a child waits for the interpreter lock before it asks for it.

Every child does one thing at a time and waits for the network between; the lock is soon free. But where there are more
children than cores, whoever holds it may be off the processor for long, and Python's own 5 ms would have each of its
other threads wake up 200 times a second to ask again: with 1,000 children that is all the two cores do.
"""

PEERS_NICE = 10
"""Peers step back behind the tracker, which elsewhere has a machine of its own, and the kernel's own threads.

Beside 1,000 peers on two cores the thread that writes their files to the disk got a processor once in 60 ms; the dirty
memory grew to its limit, and then every write of every peer waited.
"""
_AUTOGROUP = Path("/proc/self/autogroup")


def main() -> None:
    """Serve requests until the launcher closes the socket."""
    control = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the launcher's to handle
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    setproctitle.setproctitle("minibit forkserver")
    with contextlib.suppress(OSError):  # where sessions compete as groups (man 7 sched), nice counts only within one
        _AUTOGROUP.write_text(str(PEERS_NICE))
    gc.collect()
    gc.freeze()  # keeps the shared pages shared: a collection in a child would write to every object's header
    children: set[int] = set()
    poller = select.poll()
    poller.register(control, select.POLLIN)
    poller.register(wake_read, select.POLLIN)
    while True:
        ready = {fd for fd, _ in poller.poll()}
        if wake_read in ready:
            os.read(wake_read, 4096)
            _reap(children, control)
        if control.fileno() in ready:
            packet, descriptors = _next_request(control)
            if not packet:
                break
            children.add(_fork(packet, descriptors[0], control, (wake_read, wake_write)))
    _end(children)


def _next_request(control: socket.socket) -> tuple[bytes, list[int]]:
    """Return a packet and its descriptors; an empty packet when the launcher is gone, properly or not."""
    try:
        packet, descriptors, _, _ = socket.recv_fds(control, PACKET_BYTES, 1)
    except ConnectionError:
        return b"", []
    return packet, descriptors


def _fork(packet: bytes, descriptor: int, control: socket.socket, pipes: tuple[int, int]) -> int:
    pid = os.fork()
    if pid:
        os.close(descriptor)
        control.send(str(pid).encode())
        return pid
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        control.close()
        for fd in pipes:
            os.close(fd)
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        spec = _decode(packet)
        if isinstance(spec, TrackerSpec):
            os.setsid()  # out of the group that steps back
        else:
            os.nice(PEERS_NICE)
        setproctitle.setproctitle(f"minibit {spec.name if isinstance(spec, TrackerSpec) else spec.peer_id}")
        run_child(spec, Channel(socket.socket(fileno=descriptor)), own_process=True)
        status = 0
    except BaseException:  # whatever it is, this process must end here and not return into the forkserver's loop
        logging.getLogger(__name__).exception("a child ended by an error")
    finally:
        os._exit(status)


def _reap(children: set[int], control: socket.socket) -> None:
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        children.discard(pid)
        try:
            control.send(f"-{pid} {os.waitstatus_to_exitcode(status)}".encode())
        except OSError:
            return  # the launcher is gone: the main loop is about to see it


def _end(children: set[int]) -> None:
    deadline_s = time.monotonic() + GRACE_S
    while children and time.monotonic() < deadline_s:
        pid, _ = os.waitpid(-1, os.WNOHANG)
        children.discard(pid)
        if not pid:
            time.sleep(0.02)
    for pid in children:
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    logging.basicConfig(format="%(processName)s %(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    main()
