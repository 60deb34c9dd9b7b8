"""Routes as plain functions from a WSGI environ to a ``Reply``, in front of Flask.

Flask serves everything. What is asked often is answered by the same functions before Flask's routing, which costs more
than most answers here do.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

from flask import Response

from minibit import wire
from minibit.serving import MAX_BODY_BYTES, WSGIApplication

log = logging.getLogger(__name__)

_STATUS_LINES = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}


@dataclass(slots=True)
class Reply:
    """Status, body and headers of an answer; a body of parts is sent part by part."""

    status: int
    body: bytes | Iterable[Any]
    headers: list[tuple[str, str]] = field(default_factory=list)

    @classmethod
    def of(cls, message: Any, status: int = 200, headers: Iterable[tuple[str, str]] = ()) -> "Reply":
        """Return a JSON reply."""
        return cls.whole(wire.encode(message), wire.JSON, status, headers)

    @classmethod
    def whole(
        cls, body: bytes, content_type: str, status: int = 200, headers: Iterable[tuple[str, str]] = ()
    ) -> "Reply":
        """Return a reply with a body of known length."""
        return cls(status, body, [("Content-Type", content_type), ("Content-Length", str(len(body))), *headers])

    def as_flask(self) -> Response:
        """Return the same as Flask has it."""
        return Response(self.body, status=self.status, headers=self.headers)

    def send(self, start_response: Any) -> Iterable[Any]:
        """Answer as WSGI asks for it."""
        start_response(_STATUS_LINES[self.status], self.headers)
        return [self.body] if isinstance(self.body, bytes) else self.body


Handler = Callable[[dict[str, Any]], Reply | None]


def in_front_of(application: WSGIApplication, handlers: Mapping[tuple[str, str], Handler]) -> WSGIApplication:
    """Return a WSGI application that answers what a handler of (method, path) answers, and leaves the rest.

    A handler leaves a request by returning None. What it raises is logged and answered 500.
    """

    def answer(environ: dict[str, Any], start_response: Any) -> Iterable[Any]:
        handler = handlers.get((environ["REQUEST_METHOD"], environ["PATH_INFO"]))
        if handler is None:
            return application(environ, start_response)
        try:
            reply = handler(environ)
        except Exception:  # the server's own last resort would be a page of text, and a log without the path
            log.exception("while answering %s %s", environ["REQUEST_METHOD"], environ["PATH_INFO"])
            reply = Reply.of(wire.ErrorAnswer("this is a fault of the server, see its log"), 500)
        return application(environ, start_response) if reply is None else reply.send(start_response)

    return answer


def access_logged(application: WSGIApplication, log_line: Callable[[str], None]) -> WSGIApplication:
    """Return the application with a line of JSON for each request, written when its answer begins.

    ``{"time", "ip", "method", "path", "query", "status", "bytes", "ms"}``: UTC, bytes of the body if they are known,
    milliseconds until the answer began.
    """

    def answer(environ: dict[str, Any], start_response: Any) -> Iterable[Any]:
        begun_s = time.perf_counter()

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            length = next((value for name, value in headers if name.lower() == "content-length"), None)
            line = {
                "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "ip": environ.get("REMOTE_ADDR"),
                "method": environ["REQUEST_METHOD"],
                "path": environ["PATH_INFO"],
                "query": environ.get("QUERY_STRING", ""),
                "status": int(status[:3]),
                "bytes": int(length) if length else None,
                "ms": round((time.perf_counter() - begun_s) * 1e3, 3),
            }
            log_line(wire.encode(line).decode())
            return start_response(status, headers, exc_info) if exc_info else start_response(status, headers)

        return application(environ, start)

    return answer


def body_of(environ: Mapping[str, Any]) -> bytes:
    """Return the whole body of a request; empty if there is none or its length is not told."""
    length = int(environ.get("CONTENT_LENGTH") or 0)
    return bytes(environ["wsgi.input"].read(length)) if length else b""


def is_too_long(environ: Mapping[str, Any], limit_bytes: int = MAX_BODY_BYTES) -> bool:
    """Whether the body is longer than may be read."""
    return int(environ.get("CONTENT_LENGTH") or 0) > limit_bytes
