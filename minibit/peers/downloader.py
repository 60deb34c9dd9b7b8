"""Does what the session asks of the network: fetches blocks, offers turns, spreads news, asks the tracker."""

import logging
import re
from typing import TYPE_CHECKING, TypeVar

import msgspec

from minibit import wire
from minibit.core import events as ev
from minibit.core.blocks import bools_of
from minibit.errors import RemotePeerError, StorageError, TrackerError
from minibit.peers.client import BlockStream

if TYPE_CHECKING:
    from minibit.peers.peer import Peer

log = logging.getLogger(__name__)
Answered = TypeVar("Answered")

SIMULATED_BLOCK_MAX_BYTES = 64 * 1024
_REASONS = {403: "refused", 404: "missing", 503: "busy"}
_HAVES = re.compile(r"\d+(,\d+)*")
_refusal = wire.decoder(wire.BlockRefusal)
_offer_answer = wire.decoder(wire.OfferAnswer)
_announce_answer = wire.decoder(wire.AnnounceAnswer)


class HandshakeReply(msgspec.Struct, frozen=True):
    """What is read of an answer to /have_blocks_info; a peer that knows only the specification leaves the rest out."""

    blocks_info: list[bool]
    unchoked: bool = False
    turns: bool = False
    standing: bool = False


_handshake_reply = wire.decoder(HandshakeReply)


class _CancelledError(Exception):
    """The block came from elsewhere while this one was being read."""


class Downloader:
    """Carries out the actions of one peer's session. Each call runs in a thread of the driver's pools."""

    def __init__(self, peer: "Peer") -> None:
        self._peer = peer
        self._cancelled: set[tuple[str, int]] = set()
        self._buffers: list[bytearray] = []  # append and pop are atomic

    def carry_out(self, action: ev.Action) -> None:
        """Do one thing and tell the session how it ended."""
        match action:
            case ev.RequestBlock():
                following: ev.RequestBlock | None = action
                while following:
                    following = self._request_block(following)
            case ev.CancelRequest():
                self._cancelled.add((action.key, action.index))
                self._peer.client.abort(_ticket(action))
            case ev.OfferTurn():
                self._offer_turn(action)
            case ev.SendHaves():
                self._send_haves(action)
            case ev.Handshake():
                self._handshake(action.key)
            case ev.AskTracker():
                self._ask_tracker()
            case ev.Finish():
                self._peer.finished()

    # ------------------------------------------------------------------ blocks

    def _request_block(self, action: ev.RequestBlock) -> ev.RequestBlock | None:
        """Fetch one block; return the next one for this thread to fetch, if there is."""
        peer = self._peer
        body = wire.encode(wire.BlockRequest(action.index, peer.peer_id, peer.public_port, list(action.haves)))
        peer.meters.counted("block")
        begun_at_s = peer.clock()
        try:
            with peer.client.fetch(action.key, wire.REQUEST_BLOCK, body, ticket=_ticket(action)) as stream:
                if stream.status == 200:
                    outcome = self._receive(action, stream, begun_at_s)
                else:
                    outcome = [self._refused(action, stream.status, stream.body())]
        except RemotePeerError as error:
            log.info("block %d: %s", action.index, error)
            reason = "cancelled" if (action.key, action.index) in self._cancelled else "lost"
            outcome = [ev.RequestFailed(action.key, action.index, reason)]
        except StorageError as error:
            peer.fail(error)
            return None
        finally:
            self._cancelled.discard((action.key, action.index))
        return peer.driver.feed_and_go_on(*outcome)

    def _refused(self, action: ev.RequestBlock, status: int, body: bytes) -> ev.Event:
        self._peer.meters.counted("block_refused")
        retry_after_s: float | None = None
        try:
            retry_after_s = _refusal.decode(body).retry_after_s
        except wire.MALFORMED:
            log.debug("%s refuses in words of its own: %r", action.key, body[:200])
        reason = _REASONS.get(status, "lost")
        if reason == "refused" and retry_after_s is None:  # a peer that knows me says when to come again
            reason = "unknown"
        return ev.RequestFailed(action.key, action.index, reason, retry_after_s or 0.0)

    def _receive(self, action: ev.RequestBlock, stream: BlockStream, begun_at_s: float) -> list[ev.Event]:
        """Read, check and keep a block; return what to tell the session."""
        peer = self._peer
        expected = peer.storage.expected_length(action.index)
        longest = SIMULATED_BLOCK_MAX_BYTES if expected is None else expected
        if not 0 <= stream.length <= longest:
            return [ev.RequestFailed(action.key, action.index, "corrupt")]
        room = max(peer.storage.geometry.block_size_bytes, longest)
        buffer = self._buffers.pop() if self._buffers else bytearray(room)
        try:
            view = memoryview(buffer)[: stream.length]
            verdict, event = self._read_and_check(action, stream, view, expected, begun_at_s)
        finally:
            self._buffers.append(buffer)
        haves = _parsed_haves(stream.haves, peer.total_blocks)
        log.debug("block %d from %s: %s", action.index, action.key, verdict)
        return [ev.HavesReceived(action.key, haves), event] if haves else [event]

    def _read_and_check(
        self, action: ev.RequestBlock, stream: BlockStream, view: memoryview, expected: int | None, begun_at_s: float
    ) -> tuple[str, ev.Event]:
        peer = self._peer
        hasher = peer.storage.hasher(action.index)
        count = 0

        def on_read(num_bytes: int, part: memoryview) -> None:
            nonlocal count
            count += num_bytes
            peer.down.wait(num_bytes)
            peer.down.passed(num_bytes, peer.clock())
            hasher.update(part)
            if (action.key, action.index) in self._cancelled:
                raise _CancelledError

        verdict, reason = "aborted", "lost"
        try:
            stream.read_into(view, on_read, read_bytes=peer.down.chunk_bytes)
            whole = count == len(view) and (expected is None or count == expected)
            if whole and hasher.matches():
                verdict = self._keep(action.index, view)
            elif count == len(view):
                verdict, reason = "corrupt", "corrupt"
        except _CancelledError:
            reason = "cancelled"
        finally:
            peer.meters.received(peer.name_of(action.key), count, verdict)
        if verdict == "duplicate" and action.index not in peer.session.owned:
            reason = "cancelled"  # another thread is still writing it: not owned before that
        elif verdict in {"useful", "duplicate"}:
            duration_s = peer.clock() - begun_at_s
            return verdict, ev.BlockArrived(action.key, action.index, count, duration_s)
        return verdict, ev.RequestFailed(action.key, action.index, reason)

    def _keep(self, index: int, view: memoryview) -> str:
        """Write a sound block unless another thread did so before; return what its bytes were worth."""
        if not self._peer.claim(index):
            return "duplicate"
        self._peer.storage.write(index, view)
        self._peer.stored(index)
        return "useful"

    # ------------------------------------------------------------------ messages

    def _offer_turn(self, action: ev.OfferTurn) -> None:
        peer = self._peer
        message = wire.OfferTurn(
            peer.peer_id, peer.public_port, list(action.haves), action.standing, action.suggest, action.rate_bytes_per_s
        )
        answer = self._exchange("offer", action.key, wire.OFFER_TURN, message, _offer_answer)
        if answer:
            news = self._news(action.key, answer.block_indices)
            peer.driver.feed(*news, ev.OfferAnswered(action.key, answer.accepted))

    def _send_haves(self, action: ev.SendHaves) -> None:
        peer = self._peer
        message = wire.AnnounceBlock(action.haves[0], peer.peer_id, list(action.haves[1:]), peer.public_port)
        answer = self._exchange("have", action.key, wire.ANNOUNCE_BLOCK, message, _announce_answer)
        if answer:
            peer.driver.feed(*self._news(action.key, answer.block_indices), ev.HavesDelivered(action.key))

    def _handshake(self, key: str) -> None:
        peer = self._peer
        with peer.driver.lock:
            mine = bools_of(peer.session.owned.mask, peer.total_blocks)
        message = wire.HaveBlocksInfo(mine, peer.peer_id, peer.public_port)
        answer = self._exchange("handshake", key, wire.HAVE_BLOCKS_INFO, message, _handshake_reply)
        if answer and len(answer.blocks_info) == peer.total_blocks:
            owned = tuple(index for index, flag in enumerate(answer.blocks_info) if flag)
            answered = ev.HandshakeAnswered(key, answer.unchoked, answer.turns, answer.standing, told=sum(mine))
            peer.driver.feed(ev.BitfieldReceived(key, owned), answered)

    def _exchange(
        self, kind: str, key: str, path: str, message: msgspec.Struct, decoder: msgspec.json.Decoder[Answered]
    ) -> Answered | None:
        """Post a message; return the decoded answer, or None after telling the session that there is none."""
        peer = self._peer
        peer.meters.counted(kind)
        try:
            answer = peer.client.post(key, path, wire.encode(message))
            if answer.status == 200:
                return decoder.decode(answer.body)
            peer.driver.feed(ev.ContactFailed(key, reachable=True))
        except (RemotePeerError, *wire.MALFORMED) as error:
            log.info("%s to %s: %s", kind, key, error)
            peer.driver.feed(ev.ContactFailed(key))
        return None

    def _news(self, key: str, indices: list[int]) -> list[ev.Event]:
        known = tuple(index for index in indices if index < self._peer.total_blocks)
        return [ev.HavesReceived(key, known)] if known else []

    def _ask_tracker(self) -> None:
        try:
            self._peer.announce()
        except TrackerError as error:
            log.warning("%s", error)
            self._peer.tracker_error = error
            self._peer.driver.feed(ev.TrackerFailed())


def _ticket(action: ev.RequestBlock | ev.CancelRequest) -> str:
    return f"{action.key}/{action.index}"


def _parsed_haves(text: str, total: int) -> tuple[int, ...]:
    if not _HAVES.fullmatch(text):
        return ()
    return tuple(index for index in map(int, text.split(",")) if index < total)
