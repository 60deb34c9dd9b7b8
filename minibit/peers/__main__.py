"""``python -m minibit.peers``: one peer from the command line, without the extras of ``minibit peer``."""

import argparse
import sys
from pathlib import Path

from minibit.errors import MiniBitError
from minibit.peers.command import complain, plain_watch, run_peer
from minibit.units import parse_rate


def main(arguments: list[str] | None = None) -> int:
    """Parse, run, return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m minibit.peers", description=__doc__)
    parser.add_argument("torrent", type=Path)
    parser.add_argument("--tracker", dest="tracker_url", metavar="URL")
    parser.add_argument("--dir", dest="directory", type=Path, default=Path())
    parser.add_argument("--seed", action="store_true")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int)
    parser.add_argument("--advertise", metavar="ADDR")
    parser.add_argument("--upload-rate", dest="upload_rate_bytes_per_s")
    parser.add_argument("--download-rate", dest="download_rate_bytes_per_s")
    parser.add_argument("--id", dest="peer_id")
    parser.add_argument("--exit-when-complete", action="store_true")
    options = vars(parser.parse_args(arguments))
    try:
        for name in ("upload_rate_bytes_per_s", "download_rate_bytes_per_s"):
            options[name] = parse_rate(options[name]) if options[name] else None
        return run_peer(options.pop("torrent"), options.pop("directory"), watch=plain_watch(), **options)
    except MiniBitError as error:
        return complain(error)


if __name__ == "__main__":
    sys.exit(main())
