"""The tracker: who is in which swarm, over HTTP.

``TrackerApp`` is the tracker, ``serve`` one tracker as a process, ``Registry`` what both keep their peers in.
"""

from minibit.tracker.app import TrackerApp
from minibit.tracker.command import serve
from minibit.tracker.registry import Registry

__all__ = ["Registry", "TrackerApp", "serve"]
