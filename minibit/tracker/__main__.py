"""``python -m minibit.tracker``: one tracker from the command line."""

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from minibit.errors import MiniBitError, UsageError
from minibit.tracker.app import DEFAULT_ANNOUNCE_INTERVAL_S, DEFAULT_PEER_TTL_S, DEFAULT_TOTAL_FILE_BLOCKS
from minibit.tracker.command import SERVERS, serve
from minibit.tracker.initial import POLICIES


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Raise a user's mistake as every other one, to be printed as one line."""
        raise UsageError(f"{message} (see python -m minibit.tracker --help)")


def main(argv: Sequence[str] | None = None) -> int:
    """Serve a tracker as the arguments say; return the exit code. A mistake is one line on stderr."""
    try:
        options = _parser().parse_args(argv)
        return serve(
            options.host,
            options.port,
            options.ready_fd,
            stop_fd=options.stop_fd,
            server=options.server,
            total_file_blocks=options.total_blocks,
            initial_blocks=options.initial_blocks,
            peer_ttl_s=options.peer_ttl,
            announce_interval_s=options.announce_interval,
            access_log=options.access_log,
        )
    except MiniBitError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m minibit.tracker", description="Serve a MiniBit tracker over HTTP.")
    parser.add_argument("--host", help="address to listen on (default: TRACKER_HOST, else 127.0.0.1)")
    parser.add_argument("--port", type=int, help="0: any free one (default: TRACKER_PORT, else 9000)")
    parser.add_argument("--ready-fd", type=int, metavar="N", help="write the real port to this descriptor")
    parser.add_argument("--stop-fd", type=int, metavar="N", help="stop when this descriptor is at its end")
    parser.add_argument("--server", choices=SERVERS, default="waitress", help="default: %(default)s")
    parser.add_argument("--total-blocks", type=int, default=DEFAULT_TOTAL_FILE_BLOCKS, help="default: %(default)s")
    parser.add_argument("--initial-blocks", choices=POLICIES, default="cover", help="default: %(default)s")
    parser.add_argument(
        "--peer-ttl", type=float, default=DEFAULT_PEER_TTL_S, metavar="S", help="default: %(default)s s"
    )
    parser.add_argument(
        "--announce-interval",
        type=float,
        default=DEFAULT_ANNOUNCE_INTERVAL_S,
        metavar="S",
        help="of BitTorrent clients; default: %(default)s s",
    )
    parser.add_argument(
        "--access-log", metavar="FILE", help="a line of JSON for each request; -: stdout (default: none)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
