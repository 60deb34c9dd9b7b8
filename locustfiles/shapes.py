"""A flash crowd as a load shape, beside either locustfile: ``locust -f locustfiles/tracker.py,locustfiles/shapes.py``.

\b
    locust -f locustfiles/tracker.py,locustfiles/shapes.py --headless -u 20 -t 30s --crowd 10 --crowd-at 9 --crowd-for 5

From ``--crowd-at`` seconds on, for ``--crowd-for``, there are ``--crowd`` times as many users; in an open loop as many
arrivals; and the newcomers among the peers all go to one swarm.
"""

# Locust comes first, see tracker.py.
# isort: off
from locust import LoadTestShape, events

# isort: on
import argparse
from typing import Any

from common import crowd_of


@events.init_command_line_parser.add_listener
def add_options(parser: Any) -> None:
    """Add the crowd's size and time."""
    options = parser.add_argument_group("MiniBit: flash crowd")
    options.add_argument("--crowd", type=_above_0, default=10.0, metavar="K", help="times the usual load")
    options.add_argument("--crowd-at", type=_above_0, default=10.0, metavar="S", help="seconds after the start")
    options.add_argument("--crowd-for", type=_above_0, default=10.0, metavar="S", help="how long it stays")


def _above_0(text: str) -> float:
    if not float(text) > 0:
        raise argparse.ArgumentTypeError(f"must be above 0, not {text}")
    return float(text)


class FlashCrowd(LoadTestShape):
    """The usual users, many more for a while, and the usual ones again until the run's time is over."""

    use_common_options = True

    def tick(self) -> tuple[int, float] | None:
        """Return how many users there are to be now."""
        options = self.runner.environment.parsed_options
        elapsed_s = self.get_run_time()
        if options.run_time and elapsed_s >= options.run_time:
            return None
        crowd = crowd_of(options)
        usual = options.num_users or 1
        users = round(usual * (crowd.factor_at(elapsed_s) if crowd else 1.0))
        return users, float(max(users, options.spawn_rate or 1))
