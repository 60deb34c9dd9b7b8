"""What looks at stored results: ``minibit show``."""

from pathlib import Path

import click

RESULT = click.Path(exists=True, readable=True, path_type=Path)


@click.command()
@click.argument("results", nargs=-1, required=True, type=RESULT)
@click.option("--json", "as_json", is_flag=True, help="Print the essentials as JSON: an object, or a list of several.")
@click.option("--csv", "as_csv", is_flag=True, help="Print a row for each result (of one kind).")
def show(results: tuple[Path, ...], *, as_json: bool, as_csv: bool) -> None:
    """Show stored results again: records of swarms, load tests (several in one table), saturations, abuse, comparisons.

    Of a folder all results in it. The record itself has everything; --json and --csv have what fits into a row.

    \b
    Examples:
      minibit show run.json
      minibit show load/minibit.json load/opentracker.json
      minibit show sweep/records --csv > sweep.csv
    """
    from minibit.analysis.show import show_results  # noqa: PLC0415

    if as_json and as_csv:
        raise click.UsageError("--json and --csv: one of them")
    show_results(results, "json" if as_json else "csv" if as_csv else "screen")
