"""Generated data, distributed as MovieLens is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_BLOCK = 250_000
"""Lines that are written at a time."""


def generate(users: int, items: int, interactions: int, seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw interactions with item popularity and history lengths distributed as in MovieLens.

    History lengths are log-normal with sigma 1. The popularity of item ``i`` is proportional to ``1 / (i + items / 50)``,
    so the most popular 1 % of the items have about 10 % of the interactions.

    Returns:
        User and item of each interaction, counted from 0; int64, shape [n]. Each pair occurs once. ``n`` is at most
        ``interactions``, and close to it.
    """
    rng = np.random.default_rng(seed)
    lengths = rng.lognormal(0.0, 1.0, users)
    popularity = 1.0 / (np.arange(items) + items / 50)
    cumulated = np.cumsum(popularity / popularity.sum())
    limit = max(1, items // 3)
    wanted = np.clip(lengths * (interactions / lengths.sum()), min(5, limit), limit)
    pairs = np.empty(0, dtype=np.int64)
    for _ in range(4):  # each round redraws the pairs that were drawn twice
        missing = np.maximum(np.rint(wanted).astype(np.int64) - np.bincount(pairs // items, minlength=users), 0)
        owners = np.repeat(np.arange(users), missing)
        drawn = np.minimum(np.searchsorted(cumulated, rng.random(len(owners))), items - 1)
        owners *= items
        owners += drawn
        owners.sort()
        pairs = np.concatenate([pairs, owners])
        pairs.sort(kind="stable")  # merges the two; np.unique hashes since NumPy 2.3, which takes twenty times as long
        pairs = pairs[np.append(True, pairs[1:] != pairs[:-1])]
    chosen = np.zeros(len(pairs), dtype=bool)
    chosen[rng.permutation(len(pairs))[:interactions]] = True
    found = np.divmod(pairs[chosen], items)
    return found[0], found[1]


def write(path: Path, users: NDArray[np.int64], items: NDArray[np.int64]) -> None:
    """Write interactions as an atomic file of RecBole: tokens such as ``u17`` and ``i4``."""
    cells = [
        np.array([f"{letter}{number}{end}" for number in range(int(column.max()) + 1)], dtype=bytes)
        for column, letter, end in ((users, "u", "\t"), (items, "i", "\n"))
    ]
    with path.open("wb") as file:
        file.write(b"user_id:token\titem_id:token\n")
        for start in range(0, len(users), _BLOCK):
            part = slice(start, start + _BLOCK)
            lines = np.column_stack([cells[0][users[part]], cells[1][items[part]]]).view(np.uint8)
            file.write(lines[lines != 0].tobytes())  # NumPy fills up short texts with zeros
