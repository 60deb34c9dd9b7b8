"""What a peer says to the tracker, and what it learns from it."""

from typing import Any, TypeVar

import msgspec
import requests
from requests.adapters import HTTPAdapter

from minibit import wire
from minibit.errors import TrackerError

TIMEOUT_S = 10.0
Decoded = TypeVar("Decoded")
_register_answer = wire.decoder(wire.RegisterAnswer)
_peers_answer = wire.decoder(wire.PeersAnswer)


class _FromAddress(HTTPAdapter):
    """Connects from a given local address, so that the tracker sees the address the peer listens on."""

    def __init__(self, source_host: str) -> None:
        self._source_host = source_host
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Build the pool with the source address."""
        super().init_poolmanager(*args, source_address=(self._source_host, 0), **kwargs)


class Announcer:
    """Speaks with one tracker for one peer. Every failure leaves as TrackerError in one line."""

    def __init__(self, tracker_url: str, *, source_host: str | None = None) -> None:
        self.url = tracker_url.rstrip("/")
        self._session = requests.Session()
        self._session.trust_env = False  # a proxy of the environment has no business between peers and their tracker
        if source_host:
            self._session.mount("http://", _FromAddress(source_host))

    def register(self, request: wire.RegisterRequest) -> wire.RegisterAnswer:
        """POST /register."""
        body = wire.encode(request)
        answer = self._call("POST", wire.REGISTER, data=body, headers={"Content-Type": wire.JSON})
        return self._decoded(_register_answer, answer)

    def peers(self, peer_id: str, *, info_hash: str | None, numwant: int | None = None) -> wire.PeersAnswer:
        """GET /peers."""
        params = {"peer_id": peer_id, "info_hash": info_hash, "numwant": numwant}
        answer = self._call("GET", wire.PEERS, params={k: v for k, v in params.items() if v is not None})
        return self._decoded(_peers_answer, answer)

    def close(self) -> None:
        """Close the connection."""
        self._session.close()

    def _call(self, method: str, path: str, **kwargs: Any) -> requests.Response:
        try:
            response = self._session.request(method, self.url + path, timeout=TIMEOUT_S, **kwargs)
        except requests.RequestException as error:
            raise TrackerError(f"the tracker at {self.url} does not answer: {_reason(error)}") from error
        if response.status_code != requests.codes.ok:
            raise TrackerError(f"the tracker at {self.url} answered {response.status_code}: {_message(response)}")
        return response

    def _decoded(self, decoder: msgspec.json.Decoder[Decoded], response: requests.Response) -> Decoded:
        try:
            return decoder.decode(response.content)
        except wire.MALFORMED as error:
            raise TrackerError(f"the tracker at {self.url} answered something else: {error}") from error


def _reason(error: requests.RequestException) -> str:
    if isinstance(error, requests.ConnectionError):
        return "connection refused or unreachable"
    return type(error).__name__


def _message(response: requests.Response) -> str:
    try:
        return str(response.json()["message"])
    except (ValueError, KeyError, TypeError):
        return response.text[:200]
