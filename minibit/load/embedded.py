"""A tracker or peer in a child process, which leaves when told to, and also when this process is killed."""

import os
import select
import subprocess
import sys
from types import TracebackType
from typing import IO, Self

from minibit.core.blocks import check_block_size
from minibit.errors import MiniBitError, UsageError
from minibit.units import parse_size

START_TIMEOUT_S = 120.0  # a million registered peers take half a minute
STOP_TIMEOUT_S = 10.0


def check_content(size: str, block_size: str) -> None:
    """Raise UsageError if an embedded peer cannot have such content."""
    parse_size(size)
    try:
        check_block_size(parse_size(block_size))
    except ValueError as error:
        raise UsageError(str(error)) from error


class Embedded:
    """``python -m minibit.load.served`` with these arguments; ``url`` is where it answers.

    Raise MiniBitError if it does not come up.
    """

    def __init__(self, *arguments: str) -> None:
        ready_read, ready_write = os.pipe()
        command = [sys.executable, "-m", "minibit.load.served", *arguments, "--ready-fd", str(ready_write)]
        self._process = subprocess.Popen(
            [*command, "--stop-fd", "0"],
            pass_fds=(ready_write,),
            stdin=subprocess.PIPE,  # its end is how the child learns that this process is done or gone
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for this process, which ends its load before its target
        )
        os.close(ready_write)
        # Through select, not a blocking read: under gevent a close does its work only when its loop turns, and without
        # it a child that died would leave the pipe open and this process waiting for ever.
        readable, _, _ = select.select([ready_read], [], [], START_TIMEOUT_S)
        report = os.read(ready_read, 64) if readable else b""
        os.close(ready_read)
        if not report:
            self._process.kill()
            raise MiniBitError(f"the embedded {arguments[0]} did not start: exit code {self._process.wait()}")
        self.pid = self._process.pid
        self.url = f"http://127.0.0.1:{int(report)}"

    @property
    def output(self) -> IO[str]:
        """What it prints on stdout."""
        if self._process.stdout is None:
            raise ValueError("its output is not read")
        return self._process.stdout

    def stop(self) -> None:
        """Let it leave, and wait for it; kill it if it does not. May be called twice."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(STOP_TIMEOUT_S)
        self.output.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
