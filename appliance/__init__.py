"""The offline security brain: reads logs, finds attacks, tells operators; never calls home."""

__version__ = "0.1.0"
