"""Waitress, with every setting chosen on purpose and its reason beside it.

A ``Server`` owns a listening socket from the moment it is built (so its port is known and kept), answers once it is
started, and stops in an orderly way: requests under way are finished, then connections are closed.
"""

import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Iterable
from typing import Any

from waitress.channel import HTTPChannel
from waitress.server import TcpWSGIServer, create_server
from waitress.task import ThreadedTaskDispatcher

from minibit.errors import UsageError

WSGIApplication = Callable[[dict[str, Any], Any], Iterable[Any]]
