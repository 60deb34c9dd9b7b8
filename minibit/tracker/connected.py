"""The seed's ``connected_peers``: the default swarm of a registry as a live dictionary of dictionaries.

Reading shows who is registered now; what is written, also into an entry that was read before, is what routes hand out.
Iterating goes over one moment, so other threads may register and leave meanwhile.
"""

from collections.abc import ItemsView, Iterator, MutableMapping, ValuesView
from typing import Any

from minibit.tracker.registry import Registry

Entry = dict[str, Any]


class ConnectedPeers(MutableMapping[str, Entry]):
    """``peer_id -> {"ip": str, "port": int, "blocks_owned": [index, …]}`` of the default swarm.

    An entry written counts as heard from just now and expires like any other. A malformed one raises ValueError.
    Copy it with ``dict(connected_peers.items())``: ``dict(connected_peers)`` asks for one entry after another, and one
    that leaves in between is a KeyError.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def __getitem__(self, peer_id: str) -> Entry:
        return self._registry.show(peer_id)

    def __setitem__(self, peer_id: str, entry: Entry) -> None:
        self._registry.write(peer_id, entry)

    def __delitem__(self, peer_id: str) -> None:
        self._registry.delete(peer_id)

    def __iter__(self) -> Iterator[str]:
        return iter(self._registry.peer_ids())

    def __len__(self) -> int:
        return len(self._registry.peer_ids())

    def __repr__(self) -> str:
        return f"ConnectedPeers({dict(self.items())!r})"

    def items(self) -> ItemsView[str, Entry]:
        """Return the peers and their entries; each iteration sees one moment."""
        return _Items(self)

    def values(self) -> ValuesView[Entry]:
        """Return the entries; each iteration sees one moment."""
        return _Values(self)

    def clear(self) -> None:
        """Take every peer out."""
        self._registry.clear()

    def at_one_moment(self) -> list[tuple[str, Entry]]:
        """Return every peer with its entry."""
        return self._registry.show_all()


class _Items(ItemsView[str, Entry]):
    _mapping: ConnectedPeers

    def __iter__(self) -> Iterator[tuple[str, Entry]]:
        return iter(self._mapping.at_one_moment())


class _Values(ValuesView[Entry]):
    _mapping: ConnectedPeers

    def __iter__(self) -> Iterator[Entry]:
        return (entry for _, entry in self._mapping.at_one_moment())
