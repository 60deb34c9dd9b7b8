"""The command line: each command parses, calls one function, prints.

A mistake of the user is one line on stderr and exit code 2. Modules that take long to import are imported by the
command that needs them, so that ``minibit --help`` answers at once.
"""

import logging
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import click

from minibit import __version__
from minibit.errors import MiniBitError, UsageError
from minibit.units import parse_duration, parse_rate, parse_share, parse_size

if TYPE_CHECKING:
    from minibit.record import Record
    from minibit.scenario import Scenario

EXIT_FAILED = 1
EXIT_INVALID = 3
EXIT_INTERRUPTED = 130


class _Parsed(click.ParamType[Any]):
    """An option whose text is read by one of our own parsers."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the parsed value; a mistake becomes click's."""
        try:
            return self._parse(value) if isinstance(value, str) else value
        except UsageError as error:
            self.fail(str(error), param, ctx)


SIZE = _Parsed("size", lambda text: parse_size(text, allow_zero=True))
BLOCK_SIZE = _Parsed("size", lambda text: None if text == "auto" else parse_size(text))
RATE = _Parsed("rate", parse_rate)
UPLOAD, DOWNLOAD = "upload_rate_bytes_per_s", "download_rate_bytes_per_s"
BLOCK_SIZE_HELP = "16KiB … 4MiB, a power of two.  [default: auto]"
POSITIVE = click.FloatRange(min=0, min_open=True)
FILE = click.Path(exists=True, dir_okay=False, readable=True, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)


class _Commands(click.Group):
    """Lists the commands in the order a newcomer meets them."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click's signature
        """Return the names in the order of definition."""
        return list(self.commands)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="minibit")
@click.option("-v", "--verbose", count=True, help="Log what happens; twice: every block.")
def cli(verbose: int) -> None:
    """Share a file among many machines, and measure how long that takes and why.

    \b
    Examples:
      minibit swarm --peers 8 --size 64MiB
      minibit swarm --peers 8 --size 16MiB --upload-rate 2MB/s
      minibit sweep --peers 1,2,4,8,16 --size 8MiB
      minibit torrent big.iso && minibit tracker
    """
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")


def _swarm_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that describe a swarm; each overrides the scenario file."""
    options = [
        click.option("--seeds", type=click.IntRange(1, 10_000), help="Peers that have the file.  [default: 1]"),
        click.option("--file", "path", type=FILE, help="Share this file; --size makes one up instead."),
        click.option("--size", "size_bytes", type=SIZE, help="Size of made-up content: 16MiB, 16MB.  [default: 16MiB]"),
        click.option("--block-size", "block_size_bytes", type=BLOCK_SIZE, help=BLOCK_SIZE_HELP),
        click.option("--upload-rate", UPLOAD, type=RATE, help="Uplink of every peer: 2MB/s, unlimited."),
        click.option("--seed-upload-rate", f"seed_{UPLOAD}", type=RATE, help="Uplink of seeds.  [default: as all]"),
        click.option("--download-rate", DOWNLOAD, type=RATE, help="Downlink of every leecher."),
        click.option("--picker", type=click.Choice(["rarest-first", "random", "sequential"]), help="Which block next."),
        click.option("--choker", type=click.Choice(["tit-for-tat", "none"]), help="Who may download."),
        click.option(
            "--isolation", type=click.Choice(["process", "thread"]), help="What a peer is.  [default: process]"
        ),
        click.option("--rng-seed", type=int, help="Seed of every random choice.  [default: 0]"),
        click.option("--timeout", "timeout_s", type=POSITIVE, help="Give up after so many seconds."),
        click.option("--max-neighbours", type=click.IntRange(1, 1000), help="How many others a peer knows at most."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@cli.command()
@click.argument("scenario", required=False, type=FILE)
@click.option("--peers", type=click.IntRange(1, 10_000), help="Leechers.  [default: 8]")
@_swarm_options
@click.option(
    "--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write the result record here."
)
@click.option("--keep", type=FOLDER, help="Keep the files of the run in this folder.")
def swarm(scenario: Path | None, json_path: Path | None, keep: Path | None, **options: Any) -> None:
    """Run one swarm of real processes; verify every file; say how long it took and why.

    Exit codes: 0 every peer has the file and the figures count; 1 a peer failed or a file differs; 2 a usage error;
    3 every peer has the file, but the figures do not count (the table says why).

    \b
    Examples:
      minibit swarm                                           8 leechers, 16 MiB, no limits
      minibit swarm --peers 50 --size 8MiB --json run.json
      minibit swarm --peers 8 --size 16MiB --upload-rate 2MB/s
      minibit swarm scenarios/thirds.toml --rng-seed 7
      minibit swarm --file big.iso --peers 16 --keep /tmp/out
      minibit swarm --isolation thread --peers 4 --size 4MiB
    """
    from minibit import record as records  # noqa: PLC0415
    from minibit.analysis import screen  # noqa: PLC0415
    from minibit.launcher.swarm import run_swarm  # noqa: PLC0415

    chosen = _scenario(scenario, options)
    with screen.progress(chosen) as watch:
        record = run_swarm(chosen, watch=watch, keep=keep)
    screen.print_summary(record)
    if json_path:
        records.write(record, json_path)
        click.echo(f"record: {json_path}")
    sys.exit(_exit_code(record))


def _scenario(path: Path | None, options: dict[str, Any]) -> "Scenario":
    from minibit import scenario  # noqa: PLC0415

    given: Any = {
        name: value
        for name, value in options.items()
        if click.get_current_context().get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    }
    return scenario.override(scenario.load(path), **given) if path else scenario.simple(**given)


def _exit_code(record: "Record") -> int:
    if not all(peer.completed and peer.verified is not False for peer in record.peers):
        return EXIT_FAILED
    return 0 if record.valid else EXIT_INVALID


class _Counts(click.ParamType[list[int]]):
    """A list of counts: 1,2,4,8."""

    name = "n,n,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        """Return the counts, each once, in rising order."""
        if isinstance(value, list):
            return value
        try:
            counts = sorted({int(part) for part in str(value).split(",")})
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers like 1,2,4,8", param, ctx)
        if counts[0] < 1:
            self.fail(f"each number must be at least 1, not {counts[0]}", param, ctx)
        return counts


COUNTS = _Counts()


@cli.command()
@click.argument("scenario", required=False, type=FILE)
@click.option("--peers", type=COUNTS, default="1,2,4,8,16", show_default=True, help="Numbers of leechers.")
@click.option("--repeats", type=click.IntRange(1, 1000), default=3, show_default=True, help="Swarms of each size.")
@_swarm_options
@click.option(
    "-o", "--output", type=FOLDER, default=Path("sweep"), show_default=True, help="Folder of records and plot."
)
def sweep(scenario: Path | None, peers: list[int], repeats: int, output: Path, **options: Any) -> None:
    """Run swarms of growing size, in random order, and draw completion time against their size.

    Writes one record a swarm, sweep.csv, and completion.png and .svg with the theoretical bounds in the same picture.

    \b
    Examples:
      minibit sweep --peers 1,2,4,8,16,32 --size 4MiB --upload-rate 1MB/s
      minibit sweep scenarios/capped.toml --peers 4,8,16 --repeats 5 -o results/capped
    """
    from minibit.analysis import screen  # noqa: PLC0415
    from minibit.analysis.sweep import run_sweep  # noqa: PLC0415

    result = run_sweep(_scenario(scenario, options), peers, repeats=repeats, folder=output, watching=screen.progress)
    screen.print_sweep(result)
    sys.exit(max((_exit_code(record) for record in result.records), default=0))


DURATION = _Parsed("duration", parse_duration)
SHARE = _Parsed("share", parse_share)


@cli.command()
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


@cli.command()
@click.argument("results", nargs=-1, required=True, type=FILE)
def show(results: tuple[Path, ...]) -> None:
    """Show stored results again: records of swarms, load tests (several in one table), saturations, abuse.

    \b
    Examples:
      minibit show run.json
      minibit show load/minibit.json load/opentracker.json
    """
    from minibit.analysis.show import show_results  # noqa: PLC0415

    show_results(results)


@cli.command()
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


@cli.command()
@click.option("--host", help="Listen here; 0.0.0.0 for every interface.  [default: TRACKER_HOST or 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), help="0 for any free one.  [default: TRACKER_PORT or 9000]")
@click.option(
    "--blocks",
    "total_file_blocks",
    type=click.IntRange(0, 1_000_000),
    default=50,
    show_default=True,
    help="Blocks of the simulated file of the default swarm.",
)
@click.option(
    "--initial-blocks",
    type=click.Choice(["cover", "random", "none"]),
    default="cover",
    show_default=True,
    help="What a newcomer of the default swarm is given.",
)
@click.option(
    "--peer-ttl",
    "peer_ttl_s",
    type=click.FloatRange(min=0, min_open=True),
    default=120.0,
    show_default=True,
    help="Forget a MiniBit peer not heard from for so many seconds.",
)
@click.option(
    "--announce-interval",
    "announce_interval_s",
    type=click.FloatRange(min=1),
    default=300.0,
    show_default=True,
    help="BitTorrent clients announce this often; they are forgotten after 2.5 times that.",
)
@click.option(
    "--server",
    type=click.Choice(["waitress", "granian"]),
    default="waitress",
    show_default=True,
    help="What speaks HTTP; granian (an extra) answers several times as many.",
)
@click.option("--access-log", metavar="FILE", help="A line of JSON for each request; - for stdout.  [default: none]")
@click.option("--ready-fd", type=click.IntRange(0), help="Write the port to this descriptor once it answers.")
def tracker(**options: Any) -> None:
    """Run a tracker until SIGTERM or Ctrl-C. One tracker serves any number of swarms.

    BitTorrent clients announce at http://HOST:PORT/announce, MiniBit's peers at http://HOST:PORT.

    \b
    Examples:
      minibit tracker                            http://127.0.0.1:9000
      minibit tracker --host 0.0.0.0 --port 9000
      curl http://127.0.0.1:9000/stats
    """
    from minibit.tracker.command import serve  # noqa: PLC0415

    sys.exit(serve(**options))


@cli.command()
@click.argument("torrent", type=FILE)
@click.option("--tracker", "tracker_url", metavar="URL", help="The tracker.  [default: the one in the torrent]")
@click.option("--dir", "directory", type=FOLDER, default=Path(), show_default="here", help="Folder of the file.")
@click.option("--seed", is_flag=True, help="The file is in the folder already: give it to the others.")
@click.option("--host", default="0.0.0.0", show_default=True, help="Listen on this address.")
@click.option("--port", type=click.IntRange(0, 65535), help="0 for any.  [default: a free one of 50000-60000]")
@click.option(
    "--advertise", metavar="ADDR", help="The address others reach me at, where the tracker runs on this machine."
)
@click.option("--upload-rate", "upload_rate_bytes_per_s", type=RATE, help="2MB/s, unlimited.")
@click.option("--download-rate", "download_rate_bytes_per_s", type=RATE, help="2MB/s, unlimited.")
@click.option("--id", "peer_id", help="Name of this peer.  [default: host name and process]")
@click.option("--exit-when-complete", is_flag=True, help="Leave once the file is complete, instead of seeding on.")
def peer(torrent: Path, directory: Path, **options: Any) -> None:
    """Take part in a swarm from this machine: fetch the file of a torrent, and give it to others.

    Starts from what is on disk already. SIGTERM and Ctrl-C leave the swarm properly.

    \b
    Examples:
      minibit peer big.iso.torrent --tracker http://10.0.0.1:9000 --dir /srv/files
      minibit peer big.iso.torrent --seed --dir /srv/files --advertise 10.0.0.1
      minibit peer big.iso.torrent --upload-rate 5MB/s --exit-when-complete
    """
    from minibit.analysis import screen  # noqa: PLC0415
    from minibit.peers.command import plain_watch, run_peer  # noqa: PLC0415

    if not sys.stderr.isatty():
        sys.exit(run_peer(torrent, directory, watch=plain_watch(), **options))
    with screen.bar("verifying") as verifying, screen.peer_progress() as watch:
        sys.exit(run_peer(torrent, directory, verifying=verifying, watch=watch, **options))


@cli.command()
@click.argument("file", type=FILE)
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="[default: FILE.torrent]")
@click.option("--tracker", "announce", metavar="URL", help="Put this tracker into the torrent.")
@click.option(
    "--block-size", "block_size_bytes", type=BLOCK_SIZE, help="16KiB … 4MiB, a power of two.  [default: auto]"
)
def torrent(file: Path, output: Path | None, announce: str | None, block_size_bytes: int | None) -> None:
    """Make the torrent of FILE, or show one if FILE is a torrent itself.

    The torrent is a hybrid of BitTorrent v1 and v2: any client opens it.

    \b
    Examples:
      minibit torrent big.iso --tracker http://10.0.0.1:9000
      minibit torrent big.iso.torrent
    """
    from minibit import metainfo  # noqa: PLC0415
    from minibit.analysis import screen  # noqa: PLC0415

    if file.suffix == ".torrent":
        screen.print_torrent(metainfo.read(file))
        return
    with screen.bar(f"hashing {file.name}") as progress:
        made = metainfo.create(file, block_size_bytes=block_size_bytes, announce=announce, progress=progress)
    target = output or file.with_name(file.name + ".torrent")
    metainfo.write(made, target)
    screen.print_torrent(made)
    click.echo(f"wrote {target}")


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _show(error: click.ClickException) -> None:
    """Say in one line what is wrong; of a command without arguments, its help."""
    context = getattr(error, "ctx", None)
    if context is None or type(error).__name__ == "NoArgsIsHelpError":
        error.show()
    else:
        text = " ".join(error.format_message().split()).rstrip(".")
        click.echo(f"{context.command_path}: {text} (see {context.command_path} --help)", err=True)


def main() -> None:
    """Run the command line; exit with its code."""
    run(cli, "minibit")


def run(command: click.Command, name: str) -> None:
    """Run a command; every mistake of the user becomes one line and its exit code."""
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _interrupt)  # ends like Ctrl-C: every child is reaped
    try:
        command(prog_name=name, standalone_mode=False)
    except click.ClickException as error:
        _show(error)
        sys.exit(error.exit_code)
    except MiniBitError as error:
        click.echo(f"{name}: {error}", err=True)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo(f"{name}: interrupted", err=True)
        sys.exit(EXIT_INTERRUPTED)
