"""``minibit tracker``, ``minibit peer`` and ``minibit torrent``: for use between real machines."""

import sys
from pathlib import Path
from typing import Any

import click

from minibit.cli.options import BLOCK_SIZE, FILE, FOLDER, RATE


@click.command()
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


@click.command()
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


@click.command()
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
