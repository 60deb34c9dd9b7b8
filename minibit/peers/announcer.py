"""What a peer says to the tracker, and what it learns from it.

A tracker on http:// is spoken to over the same lean connections as other peers: in a crowd, announces by ``requests``
took more time than all blocks together (10 ms each in a process that does nothing else often). One on https:// is
left to ``requests``.
"""

import os
from typing import TypeVar
from urllib.parse import urlencode, urlsplit

import msgspec
import requests
from requests.adapters import HTTPAdapter

from minibit import wire
from minibit.errors import RemotePeerError, TrackerError, UsageError
from minibit.peers.client import Answer, PeerClient

TIMEOUT_S = 10.0
HTTP_PORT = 80
CERTIFICATES_VARIABLE = "REQUESTS_CA_BUNDLE"  # requests' own name for it
Decoded = TypeVar("Decoded")
_register_answer = wire.decoder(wire.RegisterAnswer)
_peers_answer = wire.decoder(wire.PeersAnswer)
_error_answer = wire.decoder(wire.ErrorAnswer)


class Announcer:
    """Speaks with one tracker for one peer. Every failure leaves as TrackerError in one line.

    Raises UsageError if the address is not that of an HTTP server.
    """

    def __init__(self, tracker_url: str, *, source_host: str | None = None) -> None:
        self.url = tracker_url.rstrip("/")
        parts = urlsplit(self.url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise UsageError(f"the tracker's address must be http://host:port or https://host, not {tracker_url!r}")
        self._link = _Lean(self.url, source_host) if parts.scheme == "http" else _Encrypted(self.url, source_host)

    def register(self, request: wire.RegisterRequest) -> wire.RegisterAnswer:
        """POST /register."""
        return self._call(_register_answer, wire.REGISTER, wire.encode(request))

    def peers(self, peer_id: str, *, info_hash: str | None, numwant: int | None = None) -> wire.PeersAnswer:
        """GET /peers."""
        params = {"peer_id": peer_id, "info_hash": info_hash, "numwant": numwant}
        query = urlencode({name: value for name, value in params.items() if value is not None})
        return self._call(_peers_answer, f"{wire.PEERS}?{query}", None)

    def close(self) -> None:
        """Close the connection."""
        self._link.close()

    def _call(self, decoder: msgspec.json.Decoder[Decoded], path: str, body: bytes | None) -> Decoded:
        try:
            answer = self._link.exchange(path, body)
        except (RemotePeerError, requests.RequestException) as error:
            raise TrackerError(f"the tracker at {self.url} does not answer: {_reason(error)}") from error
        if answer.status != requests.codes.ok:
            raise TrackerError(f"the tracker at {self.url} answered {answer.status}: {_message(answer.body)}")
        try:
            return decoder.decode(answer.body)
        except wire.MALFORMED as error:
            raise TrackerError(f"the tracker at {self.url} answered something else: {error}") from error


class _Lean:
    """To http://."""

    def __init__(self, url: str, source_host: str | None) -> None:
        parts = urlsplit(url)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        self._key = f"{host}:{parts.port or HTTP_PORT}"
        self._prefix = parts.path
        self._client = PeerClient(source_host=source_host, timeout_s=TIMEOUT_S)

    def exchange(self, path: str, body: bytes | None) -> Answer:
        """POST ``body``, or GET if there is none. Raises RemotePeerError."""
        if body is None:
            return self._client.get(self._key, self._prefix + path)
        return self._client.post(self._key, self._prefix + path, body)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


class _Encrypted:
    """To https://; trusts what requests trusts, or the certificates that the environment names."""

    def __init__(self, url: str, source_host: str | None) -> None:
        self._url = url
        self._session = requests.Session()
        self._session.trust_env = False  # a proxy of the environment has no business between peers and their tracker
        self._session.verify = os.environ.get(CERTIFICATES_VARIABLE) or True
        if source_host:
            self._session.mount("https://", _FromAddress(source_host))

    def exchange(self, path: str, body: bytes | None) -> Answer:
        """POST ``body``, or GET if there is none. Raises requests.RequestException."""
        method = "GET" if body is None else "POST"
        headers = {"Content-Type": wire.JSON}
        response = self._session.request(method, self._url + path, data=body, headers=headers, timeout=TIMEOUT_S)
        return Answer(response.status_code, response.content)

    def close(self) -> None:
        """Close the connections."""
        self._session.close()


class _FromAddress(HTTPAdapter):
    """Connects from a given local address, so that the tracker sees the address the peer listens on."""

    def __init__(self, source_host: str) -> None:
        self._source_host = source_host
        super().__init__()

    def init_poolmanager(self, *args: object, **kwargs: object) -> None:
        """Build the pool with the source address."""
        super().init_poolmanager(*args, source_address=(self._source_host, 0), **kwargs)  # type: ignore[arg-type]


def _reason(error: Exception) -> str:
    cause = error.__cause__ or error
    if isinstance(cause, requests.exceptions.SSLError):
        return f"no trusted TLS connection ({CERTIFICATES_VARIABLE} may name a file of certificates to trust)"
    if isinstance(cause, requests.ConnectionError):
        return "connection refused or unreachable"
    return getattr(cause, "strerror", None) or str(cause) or type(cause).__name__


def _message(body: bytes) -> str:
    try:
        return _error_answer.decode(body).message
    except wire.MALFORMED:
        return body[:200].decode("utf-8", "replace")
