"""What looks at stored results: ``minibit show``."""

from pathlib import Path

import click

from minibit.cli.options import FILE


@click.command()
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
