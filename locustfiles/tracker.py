"""Load on a BitTorrent tracker, MiniBit's or any other.

\b
    locust -f locustfiles/tracker.py                                        web page at http://localhost:8089
    locust -f locustfiles/tracker.py --headless -u 50 -r 50 -t 20s          closed loop, as fast as it is answered
    locust -f locustfiles/tracker.py --headless -u 200 -r 200 -t 20s --arrival-rate 2000      open loop
    locust -f locustfiles/tracker.py --headless -u 50 -r 50 -t 20s --protocol bep3 --host http://127.0.0.1:6969
    … --processes 2   two generators    … --fail-if "p99>20ms" --fail-if "errors>0.1%"   … --save result.json

Without ``--host`` MiniBit's tracker is started as a child process on a free loopback port, and stopped at the end. The
load is a population of peers with seeded lives in swarms of differing popularity; every answer is checked against what
the tracker has been told. Users are connections: each carries whatever peer speaks next.
"""

# Locust comes first: it patches the standard library, and whatever imported ssl before would keep the unpatched one.
# isort: off
from locust import events, task

# isort: on
from typing import Any

from common import LoadTest, LoadUser, add_options, as_list, at_least_one, share

from minibit.load.dialects import DIALECTS
from minibit.load.population import FAULTS, VANISH_SHARE, Population
from minibit.load.source import TrackerSource


@events.init_command_line_parser.add_listener
def add_arguments(parser: Any) -> None:
    """Add what a tracker's load test may be told."""
    add_options(parser)
    options = parser.add_argument_group("MiniBit: tracker")
    options.add_argument("--protocol", choices=list(DIALECTS), default="rest", help="MiniBit's own, or any tracker's")
    options.add_argument("--peers", type=at_least_one, default=500, metavar="N", help="that live at the same time")
    options.add_argument("--swarms", type=at_least_one, default=100, metavar="N", help="that they are in")
    options.add_argument("--zipf", type=float, default=1.0, metavar="S", help="popularity of rank k is 1/k^S")
    options.add_argument("--vanish", type=share, default=VANISH_SHARE, metavar="P", help="leave without saying so")
    options.add_argument(
        "--allow",
        action="append",
        choices=list(FAULTS),
        default=None,
        help="do not count this as a wrong answer (opentracker and bittorrent-tracker hand out the caller)",
    )
    options.add_argument(
        "--server", choices=("waitress", "granian"), default="waitress", help="of the embedded tracker"
    )


def make_source(options: Any, seed: int, part: int, parts: int) -> TrackerSource:
    """Return the part of the population that this process plays."""
    population = Population(
        seed,
        size=max(1, options.peers // parts),
        swarms=options.swarms,
        zipf=options.zipf,
        part=part,
        parts=parts,
        vanish_share=options.vanish,
        allowed=[FAULTS[name] for name in as_list(options.allow)],
    )
    return TrackerSource(population, options.protocol)


def describe(options: Any) -> tuple[str, str, dict[str, Any]]:
    """Return title, protocol and the options that belong to a result."""
    names = ("peers", "swarms", "zipf", "vanish", *(() if options.host else ("server",)))
    kept = {name: getattr(options, name) for name in names}
    return f"tracker, {options.protocol}", options.protocol, {**kept, "allow": ",".join(as_list(options.allow))}


load = LoadTest(
    served=lambda options: ["tracker", "--server", options.server], describe=describe, make_source=make_source
)


class TrackerUser(LoadUser):
    """One connection, which carries one peer's request after another."""

    load = load

    @task
    def go_on(self) -> None:
        """Send what comes next, when its time has come."""
        intended_s = load.turn()
        if load.crowd:
            load.source.population.crowd = load.crowd.is_on(load.elapsed_s)
        self.send_next(intended_s)
