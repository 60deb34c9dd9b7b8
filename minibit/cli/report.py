"""``minibit report``: stored results as a page."""

from pathlib import Path

import click


@click.command()
@click.argument("results", nargs=-1, type=click.Path(exists=True, readable=True, path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("report.html"),
    show_default=True,
    help="The page to write.",
)
def report(results: tuple[Path, ...], output: Path) -> None:
    """Write stored results as one HTML page with pictures, tables and their data: it needs no network.

    RESULTS are files, or folders that are searched for *.json: records of swarms and sweeps, comparisons, load tests.
    Without any the newest session in ./results is taken. Runs of one scenario with different numbers of leechers become
    one curve. Invalid runs are marked and left out of averages.

    \b
    Examples:
      minibit report sweep/ -o sweep.html
      minibit report run.json comparison.json
      minibit report
    """
    from minibit.analysis.reporting.read import newest_session  # noqa: PLC0415
    from minibit.analysis.reporting.write import write_report  # noqa: PLC0415
    from minibit.units import format_size  # noqa: PLC0415

    paths = list(results) or [newest_session()]
    if not results:
        click.echo(f"newest session: {paths[0]}", err=True)
    found = write_report(paths, output)
    for name, reason in found.skipped:
        click.echo(f"not drawn: {name}: {reason}", err=True)
    click.echo(f"{output} ({format_size(output.stat().st_size)})")
