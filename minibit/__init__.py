"""MiniBit: a cooperative file-sharing system and a multiprocess benchmark suite for such systems."""

__version__ = "0.1.0"
