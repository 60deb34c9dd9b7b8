"""What a session is told (events) and what it asks for (actions): frozen values, to be logged and replayed.

A neighbour is named by its *key*, ``"ip:port"``. Block sets travel as tuples of indices.
"""

import msgspec


class Event(msgspec.Struct, frozen=True, tag=True):
    """Something that happened to this peer."""


class Started(Event, frozen=True):
    """The peer is up; ``owned`` are the blocks it starts with."""

    owned: tuple[int, ...] = ()


class BlocksGranted(Event, frozen=True):
    """These blocks are mine without a transfer: the tracker of a simulation gave them."""

    indices: tuple[int, ...]


class PeerSeen(Event, frozen=True):
    """The tracker named a peer, or (``inbound``) it came to us; ``seed`` if it is said to own every block."""

    key: str
    peer_id: str
    seed: bool = False
    inbound: bool = False


class TrackerAnswered(Event, frozen=True):
    """The tracker handed out ``num_peers`` others (each a PeerSeen before this) and wants to be asked again by then."""

    num_peers: int
    interval_s: float


class TrackerFailed(Event, frozen=True):
    """The tracker did not answer."""


class HavesReceived(Event, frozen=True):
    """A neighbour acquired these blocks."""

    key: str
    indices: tuple[int, ...]


class BitfieldReceived(Event, frozen=True):
    """A neighbour owns exactly these blocks: replaces what was known."""

    key: str
    indices: tuple[int, ...]


class HandshakeReceived(Event, frozen=True):
    """A neighbour owns exactly these blocks and asks what there is; it is told all of mine in the answer."""

    key: str
    indices: tuple[int, ...]


class HandshakeAnswered(Event, frozen=True):
    """A neighbour told its state: whether I may ask it (``standing``: at any time), whether it understands offers.

    ``told`` is the number of my blocks that the question named.
    """

    key: str
    unchoked: bool
    turns: bool
    standing: bool = False
    told: int = 0


class TurnOffered(Event, frozen=True):
    """A neighbour offers me its uplink: for one block now, or (``standing``) until it refuses."""

    key: str
    standing: bool
    suggest: int | None = None
    rate_bytes_per_s: float | None = None


class OfferAnswered(Event, frozen=True):
    """A neighbour took or declined the turn I offered."""

    key: str
    accepted: bool


class ContactFailed(Event, frozen=True):
    """A message did not get through; ``reachable`` if a server answered that does not know the route."""

    key: str
    reachable: bool = False


class HavesDelivered(Event, frozen=True):
    """A neighbour heard the haves I sent."""

    key: str


class RequestReceived(Event, frozen=True):
    """A neighbour asks for a block."""

    key: str
    index: int


class UploadStalled(Event, frozen=True):
    """The receiver of a block does not keep up with my uplink."""

    key: str
    index: int


class UploadEnded(Event, frozen=True):
    """A block was sent, or (not ``complete``) given up after so many bytes."""

    key: str
    index: int
    sent_bytes: int
    complete: bool


class BlockArrived(Event, frozen=True):
    """A block came, its hash matched, and it is on disk."""

    key: str
    index: int
    num_bytes: int
    duration_s: float = 0.0


class RequestFailed(Event, frozen=True):
    """A request brought no good block: refused, unknown (to the other), busy, missing, corrupt, cancelled or lost."""

    key: str
    index: int
    reason: str
    retry_after_s: float = 0.0


class NewsAsked(Event, frozen=True):
    """A message is about to leave for this neighbour: say what it has not heard of."""

    key: str


class Tick(Event, frozen=True):
    """Time passed: the session's ``next_wakeup_s`` came."""


class Action(msgspec.Struct, frozen=True, tag=True):
    """Something the driver is to do."""


class RequestBlock(Action, frozen=True):
    """Fetch a block from a neighbour and tell it what I acquired."""

    key: str
    index: int
    haves: tuple[int, ...] = ()


class CancelRequest(Action, frozen=True):
    """Give up a request: the block came from elsewhere."""

    key: str
    index: int


class OfferTurn(Action, frozen=True):
    """Tell a neighbour that my uplink is its own for a block (see the event TurnOffered)."""

    key: str
    haves: tuple[int, ...] = ()
    standing: bool = False
    suggest: int | None = None
    rate_bytes_per_s: float | None = None


class SendHaves(Action, frozen=True):
    """Tell a neighbour what I acquired."""

    key: str
    haves: tuple[int, ...]


class Handshake(Action, frozen=True):
    """Exchange complete bitfields with a neighbour."""

    key: str


class AskTracker(Action, frozen=True):
    """Announce to the tracker and get more peers."""


class Serve(Action, frozen=True):
    """Send the block that was asked for, as soon as the link has sent the one before."""

    key: str
    index: int
    haves: tuple[int, ...] = ()


class Refuse(Action, frozen=True):
    """Answer a request with a refusal: ``reason`` is choked, missing or busy."""

    key: str
    reason: str
    retry_after_s: float = 0.0


class TellNews(Action, frozen=True):
    """The answer to NewsAsked: what the message is to say."""

    key: str
    haves: tuple[int, ...]


class Finish(Action, frozen=True):
    """The file is complete."""
