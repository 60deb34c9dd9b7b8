"""Carries a session into the world: one lock, one clock, and threads that do what it asks.

The lock is held for every call of the session, which also draws the time and, if wanted, logs the event: so the log
holds exactly what the session saw, in order, and can be replayed. Nothing slow happens under the lock. Long actions
(blocks) and short ones (offers, haves, the tracker) have a crew each, so that a block never stands before an offer.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

import msgspec

from minibit.core import events as ev
from minibit.core.session import DOWNLOADS_MAX, Session

log = logging.getLogger(__name__)
Job = TypeVar("Job")

CONTROL_THREADS = 6  # small messages under way at once; a neighbour that hangs must not hold up the others


ANSWERS = (ev.Serve, ev.Refuse, ev.TellNews)  # to whoever fed the event; nothing to carry out


class LoggedEvent(msgspec.Struct, frozen=True):
    """An event as the session saw it, with its time."""

    now_s: float
    event: ev.Event


class Crew(Generic[Job]):
    """At most ``size`` threads, started as they are needed, that ``do`` jobs in the order they come.

    concurrent.futures does as much and makes a future with a lock for each job, which nobody here looks at.
    """

    def __init__(self, size: int, do: Callable[[Job], None], *, name: str) -> None:
        self._size = size
        self._do = do
        self._name = name
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._unfinished = 0
        self._closed = False
        self._lock = threading.Lock()

    def take(self, job: Job) -> bool:
        """Have a job done; return False if the crew does no more."""
        with self._lock:
            if self._closed:
                return False
            self._unfinished += 1
            if self._unfinished > len(self._threads) < self._size:
                self._add_thread()
            self._jobs.put(job)
        return True

    def _add_thread(self) -> None:
        thread = threading.Thread(target=self._work, name=f"{self._name}-{len(self._threads)}", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            if not self._threads:  # else those that are there do it later
                raise
        else:
            self._threads.append(thread)

    def close(self) -> None:
        """Begin no job any more; those under way end by themselves."""
        with self._lock:
            self._closed = True
            for _ in self._threads:
                self._jobs.put(None)

    def join(self) -> None:
        """Wait until the jobs under way have ended."""
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None and not self._closed:
            self._do(job)
            with self._lock:
                self._unfinished -= 1


class Driver:
    """Feeds events to a session and hands its actions to ``carry_out`` on a thread.

    ``on_action(action)`` runs in a crew; ``ANSWERS`` are for whoever fed the event and are only returned.
    """

    def __init__(self, session: Session, on_action: Callable[[ev.Action], None], *, log_events: bool = False) -> None:
        self.session = session
        self.lock = threading.RLock()
        self.log: list[LoggedEvent] | None = [] if log_events else None
        self._on_action = on_action
        self._downloads = Crew(DOWNLOADS_MAX, self._guarded, name="download")
        self._control = Crew(CONTROL_THREADS, self._guarded, name="control")
        self._alarms: SimpleQueue[None] = SimpleQueue()  # for the clock: look again, or (stopped) leave
        self._wakeup_s = float("inf")  # when the session wants a tick
        self._asleep_until_s = float("inf")  # when the clock looks anyway
        self._running = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to keep time."""
        self._running = True
        self._thread = threading.Thread(target=self._keep_time, name="clock", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Keep time no more, start no action any more; those under way end by themselves."""
        self._running = False
        self._alarms.put(None)
        if self._thread:
            self._thread.join()
        self._control.close()
        self._downloads.close()

    def join(self) -> None:
        """Wait until the actions under way have ended."""
        self._control.join()
        self._downloads.join()

    def feed(self, *events: ev.Event) -> list[ev.Action]:
        """Tell the session what happened, as one moment; set in motion what it asks for, and return that too."""
        actions = self._handle(events)
        for action in actions:
            self._set_in_motion(action)
        return actions

    def feed_and_go_on(self, *events: ev.Event) -> ev.RequestBlock | None:
        """Like ``feed``, but return one download for the calling thread to do, which just ended one and is awake."""
        mine = None
        for action in self._handle(events):
            if mine is None and isinstance(action, ev.RequestBlock):
                mine = action
            else:
                self._set_in_motion(action)
        return mine

    def _handle(self, events: Iterable[ev.Event]) -> list[ev.Action]:
        with self.lock:
            now_s = time.monotonic()
            actions: list[ev.Action] = []
            for event in events:
                if self.log is not None:
                    self.log.append(LoggedEvent(now_s, event))
                actions += self.session.handle(event, now_s)
            self._wakeup_s = self.session.next_wakeup_s(now_s)
            if self._wakeup_s < self._asleep_until_s:
                self._asleep_until_s = self._wakeup_s
                self._alarms.put(None)
        return actions

    def _set_in_motion(self, action: ev.Action) -> None:
        if isinstance(action, ANSWERS):
            return
        crew = self._downloads if isinstance(action, ev.RequestBlock) else self._control
        if not crew.take(action):
            log.debug("stopping: %s is not carried out", action)

    def _guarded(self, action: ev.Action) -> None:
        try:
            self._on_action(action)
        except Exception:  # a bug in one action must be seen, and must not silence the thread
            log.exception("while carrying out %s", action)

    def _keep_time(self) -> None:
        while self._running:
            with self.lock:
                wait_s = self._wakeup_s - time.monotonic()
                self._asleep_until_s = self._wakeup_s if wait_s > 0 else float("-inf")  # awake: no alarm is needed
            if wait_s <= 0:
                self.feed(ev.Tick())
                continue
            with contextlib.suppress(Empty):
                self._alarms.get(timeout=min(wait_s, threading.TIMEOUT_MAX))
