"""The routes and message types that tracker and peers share: the only thing they have in common.

Field names are the specification's. Unknown fields are ignored (a newer peer may send more); a missing or wrongly typed
one raises ``msgspec.ValidationError``, whose text says what was wrong and where.
"""

import re
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

REGISTER = "/register"
PEERS = "/peers"
STATS = "/stats"
METRICS = "/metrics"
ANNOUNCE = "/announce"  # BEP 3
SCRAPE = "/scrape"  # BEP 48
REQUEST_BLOCK = "/request_block"
HAVE_BLOCKS_INFO = "/have_blocks_info"
ANNOUNCE_BLOCK = "/announce_block"
OFFER_TURN = "/offer_turn"

RAW = "application/octet-stream"
JSON = "application/json"
HAVES_HEADER = "MiniBit-Have"  # of a raw block: indices the sender acquired since it last told this receiver
NUMWANT_MAX = 50
MAX_HAVES_PER_MESSAGE = 2000  # 16 KB of digits: within every header limit; what is left rides on the next message

Port = Annotated[int, Meta(ge=1, le=65535)]
PeerId = Annotated[str, Meta(min_length=1, max_length=200)]
Rate = Annotated[float, Meta(gt=0)]  # bytes/s
Index = Annotated[int, Meta(ge=0)]
InfoHashHex = Annotated[str, Meta(pattern=r"^[0-9a-f]{40}$", max_length=40)]  # $ alone admits a newline
# What decoding may raise: not JSON or wrong fields; text that is not UTF-8; thousands of open brackets.
MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
MessageType = TypeVar("MessageType")
_INFO_HASH = re.compile(r"[0-9a-f]{40}")


class RegisterRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """POST /register: I am here, tell me of others."""

    peer_id: PeerId
    listen_port: Port
    info_hash: InfoHashHex | None = None
    blocks_owned: list[Index] | None = None
    seed: bool = False
    event: str | None = None  # started | completed | stopped
    numwant: Annotated[int, Meta(ge=0, le=NUMWANT_MAX)] | None = None
    ip: str | None = None  # honoured only from a loopback connection (--advertise)


class PeerEntry(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One peer as the tracker hands it out."""

    peer_id: str
    ip: str
    port: int
    blocks_owned: list[int]
    seed: bool = False


class RegisterAnswer(msgspec.Struct, frozen=True):
    """200 of POST /register."""

    initial_blocks: list[int]
    peers: list[PeerEntry]
    interval_s: float
    status: str = "success"


class PeersAnswer(msgspec.Struct, frozen=True):
    """200 of GET /peers."""

    peers: list[PeerEntry]
    status: str = "success"


class ErrorAnswer(msgspec.Struct, frozen=True):
    """Any error of the tracker, and of a peer's routes other than /request_block."""

    message: str
    status: str = "error"


class BlockRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """POST /request_block. A MiniBit peer adds its port and the blocks it acquired since it last said so."""

    block_index: Index
    sender_id: PeerId
    listen_port: Port | None = None
    block_indices: list[Index] = []


class BlockAnswer(msgspec.Struct, frozen=True):
    """200 of POST /request_block as JSON; ``block_data`` travels as base64."""

    block_index: int
    block_data: bytes
    sender_id: str
    type: str = "SEND_BLOCK"


class BlockRefusal(msgspec.Struct, frozen=True):
    """400, 403, 404 or 503 of POST /request_block."""

    message: str
    sender_id: str
    retry_after_s: float | None = None
    type: str = "ERROR"


class HaveBlocksInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """POST /have_blocks_info: all that I own. With ``listen_port`` an unknown sender becomes known."""

    blocks_info: list[bool]
    sender_id: PeerId
    listen_port: Port | None = None


class HaveBlocksAnswer(msgspec.Struct, frozen=True):
    """200 of POST /have_blocks_info; ``turns`` says that this peer understands /offer_turn.

    ``standing`` says that the sender may ask at any time, as if it had been offered a standing turn.
    """

    blocks_info: list[bool]
    unchoked: bool
    retry_after_s: float
    turns: bool = True
    standing: bool = False
    status: str = "success"


class AnnounceBlock(msgspec.Struct, frozen=True, omit_defaults=True):
    """POST /announce_block: blocks the sender acquired."""

    block_index: Index
    sender_id: PeerId
    block_indices: list[Index] = []
    listen_port: Port | None = None


class AnnounceAnswer(msgspec.Struct, frozen=True):
    """200 of POST /announce_block; the answer tells what this side acquired meanwhile."""

    block_indices: list[int] = []
    status: str = "success"


class OfferTurn(msgspec.Struct, frozen=True, omit_defaults=True):
    """POST /offer_turn: ask me for a block now.

    ``standing``: ask again whenever you like, one block at a time, until I refuse (an uplink without a rate limit).
    ``suggest``: the block I have given least. ``rate_bytes_per_s``: how fast it will come.
    """

    sender_id: PeerId
    listen_port: Port
    block_indices: list[Index] = []
    standing: bool = False
    suggest: Index | None = None
    rate_bytes_per_s: Rate | None = None


class OfferAnswer(msgspec.Struct, frozen=True):
    """200 of POST /offer_turn: whether a request follows at once, and what the receiver acquired meanwhile."""

    accepted: bool
    block_indices: list[int] = []
    status: str = "success"


def is_info_hash(text: str) -> bool:
    """Whether the text is 40 lower-case hexadecimal digits."""
    return _INFO_HASH.fullmatch(text) is not None


encode = msgspec.json.Encoder().encode


def decoder(message_type: type[MessageType]) -> msgspec.json.Decoder[MessageType]:
    """Return a decoder of one message type; its ``decode`` raises one of ``MALFORMED``."""
    return msgspec.json.Decoder(message_type)
