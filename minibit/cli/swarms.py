"""``minibit swarm`` and ``minibit sweep``."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from minibit.cli.options import (
    BLOCK_SIZE,
    BLOCK_SIZE_HELP,
    COUNTS,
    DOWNLOAD,
    EXIT_FAILED,
    EXIT_INVALID,
    FILE,
    FOLDER,
    POSITIVE,
    RATE,
    SIZE,
    UPLOAD,
)

if TYPE_CHECKING:
    from minibit.record import Record
    from minibit.scenario import Scenario


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


@click.command()
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
        click.echo(f"record: {json_path}  (minibit report {json_path} draws it)")
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


@click.command()
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
    click.echo(f"minibit report {output} draws them all on one page")
    sys.exit(max((_exit_code(record) for record in result.records), default=0))
