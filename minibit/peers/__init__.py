"""One peer: storage, server, downloader, and the seed specification's ``Peer`` over them."""

from minibit.peers.peer import Peer

__all__ = ["Peer"]
