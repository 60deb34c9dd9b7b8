"""``minibit saturate`` and ``minibit abuse``."""

from pathlib import Path
from typing import Any

import click

from minibit.cli.options import COUNTS, DURATION, FOLDER, POSITIVE, SHARE


@click.command()
@click.argument("what", type=click.Choice(["tracker", "peer"]), default="tracker")
@click.option("--host", "url", metavar="URL", help="One that runs already.  [default: one of its own]")
@click.option("--pid", type=int, help="Its process, if it runs here: its use of the machine is watched.")
@click.option("--torrent", default="", metavar="FILE", help="Of the file that the peer at --host has.")
@click.option("--protocol", type=click.Choice(["rest", "bep3"]), default="rest", show_default=True)
@click.option("--server", type=click.Choice(["waitress", "granian"]), default="waitress", show_default=True)
@click.option("--p50", type=DURATION, help="Limit p50 instead of p99.")
@click.option("--p99", type=DURATION, default="50ms", show_default=True, help="A rate is borne if p99 is no longer,")
@click.option("--errors", type=SHARE, default="0.1%", show_default=True, help="and errors are no more than this.")
@click.option("--seconds", type=POSITIVE, default=5.0, show_default=True, help="Length of one trial.")
@click.option("--warm-up", "warm_up_s", type=click.FloatRange(0), default=1.0, show_default=True)
@click.option(
    "--repeats", type=click.IntRange(1, 99), default=3, show_default=True, help="Trials of a rate, at most; odd."
)
@click.option("--connections", type=click.IntRange(1, 10_000), help="[default: 64; to a peer 4]")
@click.option("--processes", type=click.IntRange(1, 64), default=1, show_default=True, help="That make the load.")
@click.option("--arrivals", type=click.Choice(["constant", "poisson"]), default="constant", show_default=True)
@click.option("--driver", type=click.Choice(["minibit", "locust"]), default="minibit", show_default=True)
@click.option("--registered", type=COUNTS, help="With so many other peers in the tracker: 10,1000.")
@click.option("--threads", type=COUNTS, help="With so many threads in the tracker: 1,2,4,8.")
@click.option("--allow", multiple=True, help="Do not count this fault (see the locustfile), like caller.")
@click.option("--block-size", default="256KiB", show_default=True, help="Of the embedded peer's file.")
@click.option("--size", default="16MiB", show_default=True, help="Of the embedded peer's file.")
@click.option("--close", is_flag=True, help="A connection for each request.")
@click.option("--seed", type=int, help="Of every random choice.  [default: drawn]")
@click.option("-o", "--output", type=FOLDER, default=Path("saturation"), show_default=True, help="Record and plot.")
def saturate(
    what: str, *, p50: float | None, p99: float, errors: float, repeats: int, output: Path, **options: Any
) -> None:
    """Find the highest arrival rate that a tracker or a peer bears, and the curve of latency against rate.

    Requests arrive on a fixed schedule, whatever the target does (an open loop); latency counts from the moment at
    which a request was to begin. Each rate is decided by a majority of trials. Every answer is checked.

    \b
    Examples:
      minibit saturate
      minibit saturate --protocol bep3 --server granian --p99 20ms
      minibit saturate --host http://127.0.0.1:6969 --protocol bep3 --allow caller
      minibit saturate --registered 10,1000,100000 --seconds 3
      minibit saturate peer --block-size 1MiB
    """
    from minibit.analysis import load_screen  # noqa: PLC0415
    from minibit.load.saturation import Limits  # noqa: PLC0415

    limits = Limits(percentile="p50" if p50 else "p99", latency_s=p50 or p99, error_share=errors)
    load_screen.run_saturate(what, limits, repeats=repeats, output=output, **options)


@click.command()
@click.argument("abuses", nargs=-1, metavar="[slow-loris|idle|malformed|expiry|restart]...")
@click.option(
    "--sockets", type=click.IntRange(1, 20_000), default=500, show_default=True, help="Of those who misbehave."
)
@click.option(
    "--rate", type=POSITIVE, default=500.0, show_default=True, help="Requests per second of the good clients."
)
@click.option("--before", type=POSITIVE, default=5.0, show_default=True, help="Seconds without abuse.")
@click.option("--during", type=POSITIVE, default=10.0, show_default=True, help="Seconds of abuse.")
@click.option("--after", type=POSITIVE, default=10.0, show_default=True, help="Seconds without it again.")
@click.option("--server", type=click.Choice(["waitress", "granian"]), default="waitress", show_default=True)
@click.option("--protocol", type=click.Choice(["rest", "bep3"]), default="rest", show_default=True)
@click.option("-o", "--output", type=FOLDER, default=Path("abuse"), show_default=True, help="Record and plot.")
def abuse(abuses: tuple[str, ...], output: Path, **options: Any) -> None:
    """Misbehave towards a tracker, and see how the good clients fare: their latency before, during and after.

    \b
    slow-loris   sockets whose request never ends, a byte a second
    idle         more kept-alive connections than the tracker allows
    malformed    what is no request, or one too large
    expiry       100,000 peers that expire at once
    restart      the tracker is stopped and started again

    \b
    Examples:
      minibit abuse
      minibit abuse slow-loris --sockets 1000 --server granian
    """
    from minibit.analysis import load_screen  # noqa: PLC0415

    load_screen.run_abuse(abuses, output=output, **options)
