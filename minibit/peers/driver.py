"""Carries a session into the world: one lock, one clock, and threads that do what it asks.

The lock is held for every call of the session, which also draws the time and, if wanted, logs the event: so the log
holds exactly what the session saw, in order, and can be replayed. Nothing slow happens under the lock. Long actions
(blocks) and short ones (offers, haves, the tracker) have a pool each, so that a block never stands before an offer.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import msgspec

from minibit.core import events as ev
from minibit.core.session import DOWNLOADS_MAX, Session

log = logging.getLogger(__name__)

CONTROL_THREADS = 6  # small messages under way at once; a neighbour that hangs must not hold up the others


ANSWERS = (ev.Serve, ev.Refuse, ev.TellNews)  # to whoever fed the event; nothing to carry out


class LoggedEvent(msgspec.Struct, frozen=True):
    """An event as the session saw it, with its time."""

    now_s: float
    event: ev.Event


class Driver:
    """Feeds events to a session and hands its actions to ``carry_out`` on a thread.

    ``on_action(action)`` runs in a pool; ``ANSWERS`` are for whoever fed the event and are only returned.
    """

    def __init__(self, session: Session, on_action: Callable[[ev.Action], None], *, log_events: bool = False) -> None:
        self.session = session
        self.lock = threading.RLock()
        self.log: list[LoggedEvent] | None = [] if log_events else None
        self._on_action = on_action
        self._downloads = ThreadPoolExecutor(DOWNLOADS_MAX, thread_name_prefix="download")
        self._control = ThreadPoolExecutor(CONTROL_THREADS, thread_name_prefix="control")
        self._clock = threading.Condition()
        self._wakeup_s = float("inf")
        self._running = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to keep time."""
        self._running = True
        self._thread = threading.Thread(target=self._keep_time, name="clock", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Keep time no more, start no action any more; those under way end by themselves."""
        with self._clock:
            self._running = False
            self._clock.notify()
        if self._thread:
            self._thread.join()
        self._control.shutdown(wait=False, cancel_futures=True)
        self._downloads.shutdown(wait=False, cancel_futures=True)

    def join(self) -> None:
        """Wait until the actions under way have ended."""
        self._control.shutdown(wait=True)
        self._downloads.shutdown(wait=True)

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
            wakeup_s = self.session.next_wakeup_s(now_s)
        self._wake_by(wakeup_s)
        return actions

    def _set_in_motion(self, action: ev.Action) -> None:
        if isinstance(action, ANSWERS):
            return
        pool = self._downloads if isinstance(action, ev.RequestBlock) else self._control
        try:
            pool.submit(self._guarded, action)
        except RuntimeError:
            log.debug("stopping: %s is not carried out", action)

    def _guarded(self, action: ev.Action) -> None:
        try:
            self._on_action(action)
        except Exception:  # a bug in one action must be seen, and must not silence the thread
            log.exception("while carrying out %s", action)

    def _wake_by(self, wakeup_s: float) -> None:
        with self._clock:
            earlier = wakeup_s < self._wakeup_s
            self._wakeup_s = wakeup_s
            if earlier:
                self._clock.notify()

    def _keep_time(self) -> None:
        while True:
            with self._clock:
                while self._running and (wait_s := self._wakeup_s - time.monotonic()) > 0:
                    self._clock.wait(wait_s if wait_s < threading.TIMEOUT_MAX else None)
                if not self._running:
                    return
                self._wakeup_s = float("inf")
            self.feed(ev.Tick())
