"""How much of a large table is held in memory at once."""

from __future__ import annotations

SCORES_PER_CHUNK = 2**22
"""Numbers of a table of scores that are held at once: 16 MiB in float32."""


def rows_per_chunk(width: int) -> int:
    """Return how many rows of ``width`` numbers are held at once, at least 1."""
    return max(1, SCORES_PER_CHUNK // max(1, width))
