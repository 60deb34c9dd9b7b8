"""A peer's routes, as functions from a request to a reply.

Flask serves them all. What peers say to each other (raw blocks, offers, haves, handshakes) is answered by the same
functions from a plain WSGI function in front of Flask, which costs a fraction of Flask's routing.
"""

import base64
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from minibit import wire
from minibit.core import events as ev
from minibit.core.blocks import bools_of
from minibit.serving import FILE_SLICE_KEY
from minibit.wsgi import Handler, Reply, body_of

if TYPE_CHECKING:
    from minibit.peers.peer import Peer

_block_request = wire.decoder(wire.BlockRequest)
_have_blocks = wire.decoder(wire.HaveBlocksInfo)
_announce = wire.decoder(wire.AnnounceBlock)
_offer = wire.decoder(wire.OfferTurn)
_REFUSALS = {"unknown": 403, "choked": 403, "missing": 404, "busy": 503}
_MESSAGES = {
    "unknown": "this peer does not know you: say POST /have_blocks_info first",
    "choked": "you are choked: ask again later",
    "missing": "this peer does not own block {index}",
    "busy": "the uplink is busy: your turn is kept",
}
BASE64_CHUNK = 3 * 16 * 1024  # a multiple of three: its base64 needs no padding before the end


class Routes:
    """The routes of one peer."""

    def __init__(self, peer: "Peer") -> None:
        self._peer = peer

    # ------------------------------------------------------------------ POST /request_block

    def request_block(self, remote_ip: str, body: bytes, *, raw: bool, file_slice: Any = None) -> Reply:
        """Answer a request for a block: 200, or 400, 403, 404, 503 in this order of checks."""
        peer = self._peer
        try:
            request = _block_request.decode(body)
        except wire.MALFORMED as error:
            return self._error(400, str(error))
        if not _in_range((request.block_index, *request.block_indices), peer.total_blocks):
            return self._error(400, f"block_index {request.block_index} is not within 0 to {peer.total_blocks - 1}")
        key = peer.resolve(request.sender_id, remote_ip, request.listen_port)
        if key is None:
            return self._error(403, f"unknown sender {request.sender_id!r}: say POST /have_blocks_info first")
        news = (ev.HavesReceived(key, tuple(request.block_indices)),) if request.block_indices else ()
        actions = peer.driver.feed(*news, ev.RequestReceived(key, request.block_index))
        answer = next(action for action in actions if isinstance(action, ev.Serve | ev.Refuse))
        if isinstance(answer, ev.Refuse):
            return self._refusal(answer, request.block_index)
        upload = _Upload(peer, key, request.block_index)
        return upload.raw(answer.haves, file_slice) if raw else upload.as_json()

    def _refusal(self, answer: ev.Refuse, index: int) -> Reply:
        status = _REFUSALS[answer.reason]
        message = _MESSAGES[answer.reason].format(index=index)
        if answer.reason in {"unknown", "missing"}:
            return self._error(status, message)
        headers = [("Retry-After", str(max(1, math.ceil(answer.retry_after_s))))]
        refusal = wire.BlockRefusal(message, self._peer.peer_id, answer.retry_after_s)
        return Reply.of(refusal, status, headers if status == HTTPStatus.SERVICE_UNAVAILABLE else ())

    def _error(self, status: int, message: str) -> Reply:
        return Reply.of(wire.BlockRefusal(message, self._peer.peer_id), status)

    # ------------------------------------------------------------------ what others own

    def have_blocks_info(self, remote_ip: str, body: bytes) -> Reply:
        """Take in the sender's blocks, answer with mine and whether it may ask."""
        peer = self._peer
        try:
            message = _have_blocks.decode(body)
        except wire.MALFORMED as error:
            return _plain_error(400, str(error))
        if len(message.blocks_info) != peer.total_blocks:
            return _plain_error(400, f"blocks_info has {len(message.blocks_info)} entries, not {peer.total_blocks}")
        key = peer.resolve(message.sender_id, remote_ip, message.listen_port)
        if key is None:
            return _plain_error(404, f"unknown sender {message.sender_id!r}: send listen_port too")
        owned = tuple(index for index, flag in enumerate(message.blocks_info) if flag)
        peer.driver.feed(ev.HandshakeReceived(key, owned))
        with peer.driver.lock:
            unchoked = peer.may_ask(key)
            retry_after_s = 0.0 if unchoked else peer.retry_after_s(key)
            mine = bools_of(peer.session.owned.mask, peer.total_blocks)
            standing = unchoked and not peer.session.uplink.takes_turns
        return Reply.of(wire.HaveBlocksAnswer(mine, unchoked, retry_after_s, standing=standing))

    def announce_block(self, remote_ip: str, body: bytes) -> Reply:
        """Take in blocks the sender acquired."""
        peer = self._peer
        try:
            message = _announce.decode(body)
        except wire.MALFORMED as error:
            return _plain_error(400, str(error))
        indices = (message.block_index, *message.block_indices)
        if not _in_range(indices, peer.total_blocks):
            return _plain_error(400, f"block_index must be within 0 to {peer.total_blocks - 1}")
        key = peer.resolve(message.sender_id, remote_ip, message.listen_port)
        if key is None:
            return _plain_error(404, f"unknown sender {message.sender_id!r}: say POST /have_blocks_info first")
        peer.driver.feed(ev.HavesReceived(key, indices))
        news = peer.news_for(key) if message.listen_port else ()
        return Reply.of(wire.AnnounceAnswer(list(news)))

    def offer_turn(self, remote_ip: str, body: bytes) -> Reply:
        """Take or decline the turn that a neighbour offers on its uplink; the request follows on its own."""
        peer = self._peer
        try:
            message = _offer.decode(body)
        except wire.MALFORMED as error:
            return _plain_error(400, str(error))
        if not _in_range(message.block_indices, peer.total_blocks):
            return _plain_error(400, f"block_indices holds an index beyond {peer.total_blocks - 1}")
        key = peer.resolve(message.sender_id, remote_ip, message.listen_port)
        if key is None:
            return _plain_error(404, f"unknown sender {message.sender_id!r}")
        news = (ev.HavesReceived(key, tuple(message.block_indices)),) if message.block_indices else ()
        offered = ev.TurnOffered(key, message.standing, message.suggest, message.rate_bytes_per_s)
        actions = peer.driver.feed(*news, offered)
        accepted = peer.session.takes_turn(key, actions)
        return Reply.of(wire.OfferAnswer(accepted, [] if accepted else list(peer.news_for(key))))


def _in_range(indices: Iterable[int], total: int) -> bool:
    return all(index < total for index in indices)


def _plain_error(status: int, message: str) -> Reply:
    return Reply.of(wire.ErrorAnswer(message), status)


class _Upload:
    """One block on its way out, as a WSGI body: waits for the link, is paced and counted, and tells how it ended.

    The server calls ``close`` whatever happens, also if it never began to read: only there the upload ends.
    """

    def __init__(self, peer: "Peer", key: str, index: int) -> None:
        self._peer = peer
        self._key = key
        self._index = index
        self._peer_id = peer.name_of(key)
        self._parts: Iterable[Any] = ()
        self._length = 0
        self._sent = 0
        self._holds_link = False
        self._ended = False

    def raw(self, haves: tuple[int, ...], file_slice: Any) -> Reply:
        """Send the bytes as they are: by the kernel if they lie in a file and the server can."""
        extent = self._peer.storage.extent(self._index)
        headers = [("Content-Type", wire.RAW)]
        if haves:
            headers.append((wire.HAVES_HEADER, ",".join(map(str, haves))))
        if extent and file_slice:
            self._length = extent[2]
            body = file_slice(
                *extent,
                chunk_bytes=self._peer.up.chunk_bytes,
                take_turn=self._peer.up.wait,
                on_sent=self._count,
                on_stalled=self._stalled,
            )
            self._parts = (body,)
        else:
            data = self._peer.storage.read(self._index)
            self._length = len(data)
            self._parts = self._paced(data, self._peer.up.chunk_bytes or self._length or 1, lambda part: part)
        headers.append(("Content-Length", str(self._length)))
        return Reply(200, self, headers)

    def as_json(self) -> Reply:
        """Send the block as base64 within JSON, at the same pace."""
        data = self._peer.storage.read(self._index)
        self._length = len(data)
        empty = wire.encode(wire.BlockAnswer(self._index, b"", self._peer.peer_id))
        head, _, tail = empty.partition(b'"block_data":""')
        size = (self._peer.up.chunk_bytes or BASE64_CHUNK) // 3 * 3 or 3
        coded = self._paced(data, size, base64.b64encode)
        self._parts = itertools.chain([head + b'"block_data":"'], coded, [b'"' + tail])
        length = len(empty) + 4 * math.ceil(len(data) / 3)
        return Reply(200, self, [("Content-Type", wire.JSON), ("Content-Length", str(length))])

    def __iter__(self) -> Iterator[Any]:
        """Yield the body, holding the link if it is limited: blocks leave one after another."""
        self._holds_link = self._peer.up.rate_bytes_per_s is not None and self._peer.link.acquire()
        yield from self._parts

    def close(self) -> None:
        """End the upload, however far it came; tell the session."""
        if self._ended:
            return
        self._ended = True
        self._let_go()
        complete = self._sent == self._length
        if not complete:
            self._peer.meters.aborted(self._peer_id)
        self._peer.driver.feed(ev.UploadEnded(self._key, self._index, self._sent, complete=complete))

    def _paced(self, data: bytes, size: int, encode: Callable[[bytes], bytes]) -> Iterator[bytes]:
        for start in range(0, len(data), size):
            part = data[start : start + size]
            self._peer.up.wait(len(part))
            yield encode(part)
            self._count(len(part))

    def _count(self, num_bytes: int) -> None:
        self._sent += num_bytes
        self._peer.up.passed(num_bytes, self._peer.clock())
        self._peer.meters.sent(self._peer_id, num_bytes)

    def _stalled(self) -> None:
        self._let_go()
        self._peer.driver.feed(ev.UploadStalled(self._key, self._index))

    def _let_go(self) -> None:
        if self._holds_link:
            self._holds_link = False
            self._peer.link.release()


def lean(routes: Routes) -> dict[tuple[str, str], Handler]:
    """Return what peers say to each other, to be answered in front of Flask."""

    def message(answer: Callable[[str, bytes], Reply]) -> Handler:
        return lambda environ: answer(environ["REMOTE_ADDR"], body_of(environ))

    def raw_block(environ: dict[str, Any]) -> Reply | None:
        if environ.get("HTTP_ACCEPT") != wire.RAW:
            return None
        file_slice = environ.get(FILE_SLICE_KEY)
        return routes.request_block(environ["REMOTE_ADDR"], body_of(environ), raw=True, file_slice=file_slice)

    return {
        ("POST", wire.OFFER_TURN): message(routes.offer_turn),
        ("POST", wire.ANNOUNCE_BLOCK): message(routes.announce_block),
        ("POST", wire.HAVE_BLOCKS_INFO): message(routes.have_blocks_info),
        ("POST", wire.REQUEST_BLOCK): raw_block,
    }
