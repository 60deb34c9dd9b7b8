"""What the locustfiles share: options, the window that counts, results of all workers together, and the verdict.

A file that imports this must import locust before anything else, see ``locustfiles/tracker.py``.
"""

import argparse
import math
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import gevent
import msgspec
from gevent.event import Event
from locust import FastHttpUser, constant, events
from locust.env import Environment
from locust.runners import MasterRunner, WorkerRunner
from rich.console import Console

from minibit.errors import MiniBitError, UsageError
from minibit.load import screen
from minibit.load.embedded import Embedded
from minibit.load.measurement import Measurement, Seen, merged, plain
from minibit.load.result import LoadResult, Threshold, failures, write
from minibit.load.schedule import ARRIVALS, Crowd, Schedule
from minibit.load.source import NO_ANSWER, Job, Problem, Source
from minibit.provenance import code_version, describe_machine

PLAN, REPORT = "minibit_plan", "minibit_report"  # messages between master and workers
REPORTS_WITHIN_S = 15.0
STOPPING_S = 0.25  # locust is busy with itself before it ends a run, and kills what is under way then
GIVEN_UP_S = 1.0  # who has waited so long for an answer when the test ends did not get one
EXIT_FAILED, EXIT_USAGE = 1, 2
DRAWN = -1
DEFAULT_FAIL_IF = "errors>0"

now_s = time.perf_counter


def add_options(parser: Any) -> None:
    """Add the options that every load test here has."""
    options = parser.add_argument_group("MiniBit")
    options.add_argument(
        "--arrival-rate",
        type=_not_negative,
        default=0.0,
        metavar="R",
        help="open loop: R requests per second on a fixed schedule; 0 is a closed loop: users wait for their answers",
    )
    options.add_argument("--arrivals", choices=ARRIVALS, default="constant", help="how the schedule is spaced")
    options.add_argument("--warm-up", type=_not_negative, default=3.0, metavar="S", help="seconds that do not count")
    options.add_argument("--seed", type=int, default=DRAWN, help="of every random choice; -1: drawn, see the result")
    options.add_argument(
        "--fail-if",
        action="append",
        type=_threshold,
        default=None,
        metavar="T",
        help="exit code 1 if so: p99>20ms, errors>0.1%%, missed>0, rate<1000; may be repeated; default errors>0",
    )
    options.add_argument("--save", default="", metavar="FILE", help="write the result, with its histograms, as JSON")


def _refuse(why: str) -> NoReturn:
    print(f"error: {why}", file=sys.stderr)
    sys.exit(EXIT_USAGE)


def _not_negative(text: str) -> float:
    value = float(text)
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"must not be negative: {text}")
    return value


def at_least_one(text: str) -> int:
    """Read a number of things."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {text}")
    return int(text)


def share(text: str) -> float:
    """Read a share, from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be within 0 and 1, not {text}")
    return value


def _threshold(text: str) -> str:
    try:
        return Threshold.parse(text).text
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


class LoadTest:
    """One locustfile's load test.

    ``served(options)``: what to embed when no host is given. ``describe(options)``: title, protocol, and the options
    worth keeping. ``make_source(options, seed, part, parts)``: what this process sends, one of so many parts.
    ``check(options, host)``: what is wrong with them.
    """

    source: Any

    def __init__(
        self,
        served: Callable[[Any], list[str]],
        describe: Callable[[Any], tuple[str, str, dict[str, Any]]],
        make_source: Callable[[Any, int, int, int], Source],
        check: Callable[[Any, str | None], str | None] = lambda _options, _host: None,
    ) -> None:
        self._served = served
        self._describe = describe
        self._make_source = make_source
        self._check = check
        self.embedded_output = ""  # the line that the embedded target has printed
        self.measurement = Measurement(0.0)
        self.schedule: Schedule | None = None
        self.crowd: Crowd | None = None
        self._begins_s = 0.0
        self._plan: dict[str, Any] = {}
        self._reports: list[Seen] = []
        self._expected = 0
        self._all_there = Event()
        self._started_at = ""
        self._concluded = True
        self._embedded: Embedded | None = None
        self.ending = False  # users are being stopped
        events.init.add_listener(self._on_init)

    # -------------------------------------------------------------- what users ask

    def turn(self) -> float:
        """Wait for the next request's turn; return when it was to begin. A closed loop does not wait."""
        if self.schedule is None:
            return now_s()
        intended_s = self._begins_s + self.schedule.take()
        wait_s = intended_s - now_s()
        if wait_s > 0:
            gevent.sleep(wait_s)
            self.measurement.delayed(intended_s, now_s() - intended_s)
        self.measurement.sent(intended_s)
        return intended_s

    @property
    def elapsed_s(self) -> float:
        """Since the start of this process's load."""
        return now_s() - self._begins_s

    # -------------------------------------------------------------- locust's events

    def _on_init(self, environment: Environment, **_: Any) -> None:
        self._environment = environment
        runner = environment.runner
        # Ctrl-C as SIGTERM, which gevent's loop takes: else it is raised wherever a user happens to be.
        gevent.signal_handler(signal.SIGINT, os.kill, os.getpid(), signal.SIGTERM)
        environment.events.test_start.add_listener(self._on_start)
        environment.events.test_stopping.add_listener(self._on_stopping)
        environment.events.test_stop.add_listener(self._on_stop)
        if isinstance(runner, WorkerRunner):
            runner.register_message(PLAN, lambda msg, **_: self._plan.update(msg.data))
            return
        if isinstance(runner, MasterRunner):
            runner.register_message(REPORT, lambda msg, **_: self._take(msgspec.convert(msg.data, Seen)))
        options = environment.parsed_options
        if options.run_time and options.run_time <= options.warm_up + STOPPING_S:
            _refuse(f"-t {options.run_time}s leaves nothing after a --warm-up of {options.warm_up:g} s")
        if wrong := self._check(options, environment.host):
            _refuse(wrong)
        if not environment.host:
            try:
                self._embedded = Embedded(*self._served(environment.parsed_options))
            except MiniBitError as error:
                _refuse(str(error))
            environment.host = self._embedded.url
            self.embedded_output = self._embedded.output.readline().strip()
            # Not ``quitting``: it is fired before the users have stopped, and their last requests would fail.
            environment.events.quit.add_listener(lambda **_: self._stop_embedded())
        environment.events.quitting.add_listener(self._on_quitting)

    def _on_stopping(self, **_: Any) -> None:
        self.measurement.end(now_s())
        self.ending = True

    def _on_start(self, environment: Environment, **_: Any) -> None:
        """Share the work out; begin here unless this is a master."""
        runner, options = environment.runner, environment.parsed_options
        if not isinstance(runner, WorkerRunner):
            seed = random.SystemRandom().randrange(1 << 31) if options.seed == DRAWN else options.seed
            self._plan = {"seed": seed, "part": 0, "parts": 1, "run_time_s": options.run_time or 0}
            self._plan["output"] = self.embedded_output
            self._reports, self._expected, self._concluded = [], 1, False
            self._all_there.clear()
            self._started_at = datetime.now(UTC).isoformat(timespec="seconds")
        if isinstance(runner, MasterRunner):
            workers = [client.id for client in runner.clients.ready]
            self._expected = len(workers)
            for part, worker in enumerate(workers):
                runner.send_message(PLAN, {**self._plan, "part": part, "parts": len(workers)}, worker)
            return
        self._begin_here(options)

    def _begin_here(self, options: Any) -> None:
        plan = self._plan
        if not plan:
            print("error: this worker came after the test had begun: start it before", file=sys.stderr)
            self._environment.runner.quit()
            return
        self.embedded_output = plan["output"]
        self._begins_s = now_s()
        self.ending = False
        self.crowd = crowd_of(options)
        self.schedule = None
        if options.arrival_rate:
            self.schedule = Schedule(
                options.arrival_rate / plan["parts"],
                arrivals=options.arrivals,
                seed=plan["seed"] * plan["parts"] + plan["part"],
                factor_at=self.crowd.factor_at if self.crowd else lambda _: 1.0,
            )
        window_s = self._begins_s + options.warm_up
        ends_s = self._begins_s + plan["run_time_s"] - STOPPING_S if plan["run_time_s"] else math.inf
        self.measurement = Measurement(window_s, max(window_s, ends_s), open_loop=self.schedule is not None)
        self.source = self._make_source(options, plan["seed"], plan["part"], plan["parts"])

    def _on_stop(self, environment: Environment, **_: Any) -> None:
        runner = environment.runner
        if isinstance(runner, MasterRunner):
            gevent.spawn(self._conclude)
            return
        self.measurement.end(now_s())
        self._count_missed()
        seen = self.measurement.seen(notes=self.source.remarks())
        self.source.close()
        if isinstance(runner, WorkerRunner):
            runner.send_message(REPORT, plain(seen))
            return
        self._take(seen)
        self._conclude()

    def _count_missed(self) -> None:
        while self.schedule and (intended_s := self._begins_s + self.schedule.take()) < self.measurement.ends_s:
            self.measurement.missed(intended_s)

    def _take(self, seen: Seen) -> None:
        self._reports.append(seen)
        if len(self._reports) >= self._expected:
            self._all_there.set()

    def _on_quitting(self, environment: Environment, **_: Any) -> None:
        """Stop before locust decides on the exit code, and let the thresholds decide."""
        if environment.runner:
            environment.runner.quit()
        self._conclude()

    def _conclude(self) -> None:
        """Wait for every worker's report; print, save, judge. Once for each test."""
        if self._concluded:
            return
        self._concluded = True
        self._all_there.wait(REPORTS_WITHIN_S)
        options = self._environment.parsed_options
        thresholds = [Threshold.parse(text) for text in as_list(options.fail_if) or [DEFAULT_FAIL_IF]]
        if not self._reports:
            print("error: no worker reported what it had seen", file=sys.stderr)
            self._environment.process_exit_code = EXIT_FAILED
            return
        result = self._result(options)
        console = Console(stderr=True, highlight=False, soft_wrap=True, width=None if sys.stderr.isatty() else 150)
        console.print(screen.table(result))
        for line in screen.remarks(result):
            console.print(line, markup=False)
        failed = failures(result, thresholds)
        if len(self._reports) < self._expected:
            failed.append(f"only {len(self._reports)} of {self._expected} workers reported")
        for line in failed:
            console.print(f"FAILED  {line}", markup=False)
        if options.save:
            write(result, Path(options.save))
            console.print(f"result: {options.save}", markup=False)
        self._environment.process_exit_code = EXIT_FAILED if failed else 0

    def _result(self, options: Any) -> LoadResult:
        title, protocol, kept = self._describe(options)
        return LoadResult(
            title=title,
            target=str(self._environment.host),
            protocol=protocol,
            arrival_rate_per_s=options.arrival_rate or None,
            arrivals=options.arrivals if options.arrival_rate else None,
            users=getattr(options, "num_users", None) or 1,
            processes=len(self._reports),
            seed=self._plan["seed"],
            warm_up_s=options.warm_up,
            started_at=self._started_at,
            machine=describe_machine(),
            commit=code_version(),
            options=kept,
            seen=merged(self._reports),
        )

    def _stop_embedded(self) -> None:
        if self._embedded:
            self._embedded.stop()


class LoadUser(FastHttpUser):
    """A connection of a load test; its class names the test."""

    abstract = True
    load: LoadTest
    wait_time = constant(0)

    def on_stop(self) -> None:
        """Tidy up, as much as this connection can, once the test ends; a shape may take users away before."""
        while self.load.ending and (job := self.load.source.leave(now_s())) is not None:
            self.send(job, now_s())

    def send_next(self, intended_s: float) -> None:
        """Send what the source has next."""
        self.send(self.load.source.next(now_s()), intended_s)

    def send(self, job: Job, intended_s: float) -> None:
        """Send one request and judge its answer; what is wrong counts as failed for locust too."""
        request, source, measurement = job.request, self.load.source, self.load.measurement
        answered, sent_s = False, now_s()
        try:
            with self.client.request(
                request.method,
                request.target,
                name=request.name,
                data=request.body or None,
                headers=dict(request.headers),
                catch_response=True,
            ) as response:
                done_s = now_s()
                if response.status_code:
                    answered = True
                    name, problem = source.judge(job, response.status_code, response.content or b"")
                else:
                    name, problem = request.name, Problem(NO_ANSWER, repr(response.error))
                if problem is None:
                    measurement.answered(name, intended_s, sent_s, done_s)
                    response.success()
                else:
                    measurement.failed(name, intended_s, problem.kind, problem.detail)
                    response.failure(str(problem))
        finally:
            if not answered:
                source.lose(job)
                if now_s() - sent_s > GIVEN_UP_S and self.load.ending:  # killed with its answer still to come
                    measurement.failed(request.name, intended_s, NO_ANSWER, "none when the test ended")


def as_list(given: list[str] | str | None) -> list[str]:
    """Return an option that may be repeated, also as the web page sends it: one text, with commas."""
    parts = given.split(",") if isinstance(given, str) else given or []
    return [part.strip() for part in parts if part.strip()]


def crowd_of(options: Any) -> Crowd | None:
    """Return the flash crowd that ``locustfiles/shapes.py`` was asked for, if it is loaded."""
    factor = getattr(options, "crowd", None)
    return Crowd(factor, options.crowd_at, options.crowd_for) if factor else None
