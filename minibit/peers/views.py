"""The specification's attributes of a peer, as live views over its session."""

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, SupportsIndex

from minibit.core import events as ev
from minibit.core.blocks import bools_of

if TYPE_CHECKING:
    from minibit.peers.peer import Peer
    from minibit.peers.storage import Storage


class OwnedBlocks(list[bool]):
    """``blocks_owned``: a list of booleans that follows the session; writable only where content is simulated."""

    def __init__(self, flags: list[bool], on_change: Callable[[int, bool], None] | None) -> None:
        super().__init__(flags)
        self._on_change = on_change

    def mark(self, index: int) -> None:
        """Follow the session: this block is owned now."""
        super().__setitem__(index, True)

    def __setitem__(self, index: Any, value: Any) -> None:
        """Own a block, or no longer; only for simulated content."""
        if self._on_change is None:
            raise TypeError("blocks_owned of a real file follows the disk and cannot be set")
        positions = range(len(self))[index] if isinstance(index, slice) else [range(len(self))[index]]
        values = list(value) if isinstance(index, slice) else [value]
        if len(values) != len(positions):
            raise ValueError("the number of blocks cannot change")
        for position, flag in zip(positions, values, strict=True):
            super().__setitem__(position, bool(flag))
            self._on_change(position, bool(flag))

    def _fixed(self, *_args: Any, **_kwargs: Any) -> Any:
        raise TypeError("the number of blocks cannot change")

    append = extend = insert = pop = remove = clear = sort = reverse = _fixed
    __delitem__ = __iadd__ = __imul__ = _fixed

    def __reduce_ex__(self, _protocol: SupportsIndex) -> Any:
        """Copy and pickle as a plain list."""
        return list, (list(self),)


class BlockData(Mapping[int, bytes]):
    """``block_data`` over a real file: index to content, read from the disk when asked for."""

    def __init__(self, owned: Callable[[], Iterator[int]], storage: "Storage") -> None:
        self._owned = owned
        self._storage = storage

    def __getitem__(self, index: int) -> bytes:
        if index not in set(self._owned()):
            raise KeyError(index)
        return self._storage.read(index)

    def __iter__(self) -> Iterator[int]:
        return self._owned()

    def __len__(self) -> int:
        return sum(1 for _ in self._owned())


class KnownPeers(MutableMapping[str, dict[str, Any]]):
    """``known_peers``: 'ip:port' to what is known of that peer; a value read is a snapshot, a value set is learned."""

    def __init__(self, peer: "Peer") -> None:
        self._peer = peer

    def __getitem__(self, key: str) -> dict[str, Any]:
        with self._peer.driver.lock:
            session = self._peer.session
            neighbour = session.neighbours[key]
            ip, _, port = key.rpartition(":")
            return {
                "ip": ip,
                "port": int(port),
                "peer_id": neighbour.peer_id,
                "blocks_info": bools_of(neighbour.have.mask, neighbour.have.size),
                "unchokes_me": session.unchokes_me(key),
            }

    def __setitem__(self, key: str, value: dict[str, Any]) -> None:
        """Learn of a peer: ``peer_id`` (default: the key) and ``blocks_info`` are taken in."""
        owned = tuple(index for index, flag in enumerate(value.get("blocks_info", ())) if flag)
        self._peer.meet(key, str(value.get("peer_id", key)))
        self._peer.driver.feed(ev.BitfieldReceived(key, owned))

    def __delitem__(self, key: str) -> None:
        self._peer.forget(key)

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._peer.session.neighbours))

    def __len__(self) -> int:
        return len(self._peer.session.neighbours)

    def __repr__(self) -> str:
        return repr(dict(self))
