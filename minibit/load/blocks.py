"""Block requests on one peer: leechers that fetch every block from it, some of them choked, some not.

Who has fetched every block says that it has none, and begins again: a peer serves nobody who has them all.
"""

import random
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from minibit.load.dialects import MALFORMED, Request
from minibit.load.source import WHILE_CHOKED, Job, Problem
from minibit.metainfo import Metainfo
from minibit.units import format_size
from minibit.wire import (
    HAVE_BLOCKS_INFO,
    JSON,
    RAW,
    REQUEST_BLOCK,
    BlockAnswer,
    BlockRequest,
    HaveBlocksInfo,
    decoder,
    encode,
)

AT_ONCE = 2  # requests of one leecher: the next may be out before the news of the last block's end is in
WRONG_BLOCK = "the block is not what its hash says"
_HEADERS = {"raw": {"Content-Type": JSON, "Accept": RAW}, "JSON": {"Content-Type": JSON, "Accept": JSON}}
_decode_block = decoder(BlockAnswer).decode


@dataclass(slots=True, eq=False)
class _Leecher:
    sender_id: str
    port: int
    introduced: bool = False
    unchoked: bool = False
    out: int = 0  # requests that are not answered yet
    lacks: list[int] = field(default_factory=list)  # what it has not asked for yet


@dataclass(frozen=True, slots=True)
class _Asked:
    leecher: _Leecher
    index: int | None  # None: an introduction
    form: str = "raw"


class BlockSource:
    """``leechers`` that ask for the blocks they lack, in random order; every block is checked against its hash.

    A share ``choked_share`` of the requests comes from leechers that the peer chokes, if there are any: their refusals
    (403) are what the protocol asks for and are counted apart. A share ``json_share`` asks for JSON instead of raw
    bytes. Not thread-safe. Keeps a port for each leecher, at which nobody listens, unless ``ports`` says which they
    are: a peer takes the same port for the same leecher, also in a later test.
    """

    def __init__(
        self,
        seed: int,
        metainfo: Metainfo,
        *,
        leechers: int = 8,
        part: int = 0,
        json_share: float = 0.0,
        choked_share: float = 0.0,
        ports: Sequence[int] = (),
    ) -> None:
        self._rng = random.Random(f"{seed} {part}")
        self._metainfo = metainfo
        self._json_share = json_share
        self._choked_share = choked_share
        self._reserved = [] if ports else [reserve() for _ in range(leechers)]
        numbers = ports or [sock.getsockname()[1] for sock in self._reserved]
        self._leechers = [_Leecher(f"load-{part}-{number}", port) for number, port in enumerate(numbers)]
        self._size = format_size(metainfo.block_size_bytes)
        self._nothing = [False] * metainfo.num_blocks

    def next(self, now_s: float) -> Job:  # noqa: ARG002  nothing here depends on the time
        """Return an introduction, or a request for a block."""
        new = next((leecher for leecher in self._leechers if not leecher.introduced or not leecher.lacks), None)
        if new:
            new.introduced = True
            new.lacks = self._rng.sample(range(self._metainfo.num_blocks), self._metainfo.num_blocks)
            body = encode(HaveBlocksInfo(self._nothing, new.sender_id, new.port))
            return Job(Request(HAVE_BLOCKS_INFO, "POST", HAVE_BLOCKS_INFO, body, _HEADERS["JSON"]), _Asked(new, None))
        leecher = self._who_asks()
        leecher.out += 1
        index = leecher.lacks.pop()
        form = "JSON" if self._rng.random() < self._json_share else "raw"
        body = encode(BlockRequest(index, leecher.sender_id))
        request = Request(self._name(form), "POST", REQUEST_BLOCK, body, _HEADERS[form])
        return Job(request, _Asked(leecher, index, form))

    def leave(self, now_s: float) -> Job | None:  # noqa: ARG002  as above
        """Return None: a peer forgets leechers by itself."""
        return None

    def judge(self, job: Job, status: int, body: bytes) -> tuple[str, Problem | None]:
        """Check the block; learn from a refusal who is choked."""
        asked: _Asked = job.context
        name = job.request.name
        if asked.index is None:
            if status != 200:
                asked.leecher.introduced = False
                return name, _status(status, body)
            return name, None
        asked.leecher.out -= 1
        if status != 200:
            asked.leecher.lacks.append(asked.index)
        if status == 403:
            asked.leecher.unchoked = False
            if b"unknown sender" not in body:
                return WHILE_CHOKED, None
            asked.leecher.introduced = False
        if status != 200:
            return name, _status(status, body)
        asked.leecher.unchoked = True
        return name, self._problem(asked, body)

    def lose(self, job: Job) -> None:
        """Ask for it again."""
        asked: _Asked = job.context
        if asked.index is None:
            asked.leecher.introduced = False
        else:
            asked.leecher.out -= 1
            asked.leecher.lacks.append(asked.index)

    def remarks(self) -> list[str]:
        """Return nothing."""
        return []

    def close(self) -> None:
        """Give the ports back."""
        for sock in self._reserved:
            sock.close()

    def _problem(self, asked: _Asked, body: bytes) -> Problem | None:
        if asked.form == "JSON":
            try:
                body = _decode_block(body).block_data
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                return Problem(MALFORMED, str(error))
        if not self._metainfo.verify(asked.index or 0, body):
            return Problem(WRONG_BLOCK, f"block {asked.index}, {len(body)} bytes")
        return None

    def _who_asks(self) -> _Leecher:
        choked = [leecher for leecher in self._leechers if not leecher.unchoked]
        unchoked = [leecher for leecher in self._leechers if leecher.unchoked]
        wanted = choked if self._rng.random() < self._choked_share else unchoked
        able = next((group for group in (wanted, unchoked, choked) if any(it.out < AT_ONCE for it in group)), None)
        able = able or self._leechers  # more requests at once than leechers make
        fewest = min(leecher.out for leecher in able)
        return self._rng.choice([leecher for leecher in able if leecher.out == fewest])

    def _name(self, form: str) -> str:
        return f"{REQUEST_BLOCK} {form} {self._size}"


def _status(status: int, body: bytes) -> Problem:
    return Problem(f"status {status}", body[:200].decode(errors="replace"))


def reserve() -> socket.socket:
    """Return a socket that keeps a free port; nobody listens there."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    return sock
