"""The group of all commands, and how a mistake of the user becomes one line and an exit code."""

import logging
import signal
import sys
import traceback
from types import FrameType
from typing import NoReturn

import click

from minibit import __version__
from minibit.cli.compare import compare, selftest
from minibit.cli.history import history
from minibit.cli.load import abuse, saturate
from minibit.cli.options import EXIT_BUG, EXIT_INTERRUPTED
from minibit.cli.report import report
from minibit.cli.results import show
from minibit.cli.serving import peer, torrent, tracker
from minibit.cli.swarms import swarm, sweep
from minibit.errors import MiniBitError


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


for _command in (swarm, sweep, compare, selftest, saturate, abuse, show, report, history, tracker, peer, torrent):
    cli.add_command(_command)


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
    except Exception:  # a bug of MiniBit's own
        traceback.print_exc()
        sys.exit(EXIT_BUG)
