"""How much of a large table is held at once."""

from __future__ import annotations

SCORES_PER_CHUNK = 2**22
"""Numbers of a table that are held at once: 16 MiB in float32."""


def rows_per_chunk(width: int) -> int:
    """Return how many rows of so many numbers are held at once, at least 1."""
    return max(1, SCORES_PER_CHUNK // max(1, width))
