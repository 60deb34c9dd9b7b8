"""Block requests on one MiniBit peer.

\b
    locust -f locustfiles/peer.py --headless -u 8 -r 8 -t 20s                       closed loop
    locust -f locustfiles/peer.py --headless -u 64 -r 64 -t 20s --arrival-rate 500  open loop
    … --block-size 16KiB   … --json-share 0.5   … --leechers 20 --choked-share 0.3
    … --host http://10.0.0.7:50000 --torrent big.iso.torrent                        a peer that runs already

Without ``--host`` a seed of made-up content is started as a child process on a free loopback port, and stopped at the
end. Every block is checked against its hash. The peer's own choker decides who is unchoked (five of those interested);
what it refuses to the others is counted apart. Users are connections: each carries whatever leecher asks next.
"""

# Locust comes first, see tracker.py.
# isort: off
from locust import events, task

# isort: on
from pathlib import Path
from typing import Any

from common import LoadTest, LoadUser, add_options, at_least_one, share

from minibit import metainfo
from minibit.errors import UsageError
from minibit.load.blocks import BlockSource
from minibit.load.embedded import check_content
from minibit.units import format_size


@events.init_command_line_parser.add_listener
def add_arguments(parser: Any) -> None:
    """Add what a peer's load test may be told."""
    add_options(parser)
    options = parser.add_argument_group("MiniBit: peer")
    options.add_argument("--block-size", default="256KiB", help="of the embedded peer's file")
    options.add_argument("--size", default="16MiB", help="of the embedded peer's file")
    options.add_argument("--leechers", type=at_least_one, default=8, metavar="N", help="that ask; a seed unchokes five")
    options.add_argument(
        "--choked-share", type=share, default=0.1, metavar="P", help="of the requests, from choked ones"
    )
    options.add_argument(
        "--json-share", type=share, default=0.0, metavar="P", help="of the requests, for base64 in JSON"
    )
    options.add_argument("--torrent", default="", metavar="FILE", help="of the file that the peer at --host has")


def make_source(options: Any, seed: int, part: int, parts: int) -> BlockSource:  # noqa: ARG001  leechers are not shared
    """Return the leechers that this process plays."""
    return BlockSource(
        seed,
        metainfo.read(Path(options.torrent or load.embedded_output)),
        leechers=options.leechers,
        part=part,
        json_share=options.json_share,
        choked_share=options.choked_share,
    )


def describe(options: Any) -> tuple[str, str, dict[str, Any]]:
    """Return title, protocol and the options that belong to a result."""
    names = ("leechers", "choked_share", "json_share", "torrent")
    block_size = format_size(metainfo.read(Path(options.torrent or load.embedded_output)).block_size_bytes)
    return f"peer, blocks of {block_size}", "rest", {name: getattr(options, name) for name in names}


def check(options: Any, host: str | None) -> str | None:
    """Return what is wrong with the options."""
    if host and not options.torrent:
        return "--host needs --torrent: the torrent of the file that the peer has"
    try:
        check_content(options.size, options.block_size)
    except UsageError as error:
        return str(error)
    return None


load = LoadTest(
    served=lambda options: ["peer", "--size", options.size, "--block-size", options.block_size],
    describe=describe,
    make_source=make_source,
    check=check,
)


class PeerUser(LoadUser):
    """One connection, which carries one leecher's request after another."""

    load = load

    @task
    def ask(self) -> None:
        """Ask for a block, when its time has come."""
        self.send_next(load.turn())
