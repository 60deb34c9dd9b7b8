"""What can go wrong in MiniBit, each with a message of one line for a person.

The command line prints such a message and exits with ``exit_code``; anything else that escapes is a bug.
"""


class MiniBitError(Exception):
    """The base of every error MiniBit raises on purpose."""

    exit_code = 1


class UsageError(MiniBitError):
    """The user asked for something that cannot be: a bad option, a missing file, a key nobody knows."""

    exit_code = 2


class ScenarioError(UsageError):
    """A scenario is malformed; the message names the key."""


class MetainfoError(UsageError):
    """A ``.torrent`` is malformed or hostile; the message names what is wrong."""


class RecordError(UsageError):
    """A result record cannot be read; the message names the file and the key."""


class StorageError(MiniBitError):
    """The disk refused: full, read-only, a directory in the way."""


class TrackerError(MiniBitError):
    """The tracker could not be reached, or answered with an error."""


class RemotePeerError(MiniBitError):
    """Another peer broke the protocol or went away."""


class SwarmError(MiniBitError):
    """A swarm could not be run to its end; the message says who was stuck waiting for what."""
