"""The command line: each command parses, calls one function, prints.

A mistake of the user is one line on stderr and exit code 2. Modules that take long to import are imported by the
command that needs them, so that ``minibit --help`` answers at once.
"""

from minibit.cli.main import cli, main, run

__all__ = ["cli", "main", "run"]
