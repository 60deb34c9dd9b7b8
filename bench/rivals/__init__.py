"""Real BitTorrent clients, and the physical limit, on loopback: what MiniBit is measured beside."""
