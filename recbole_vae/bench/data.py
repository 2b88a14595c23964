"""Generated data, distributed as MovieLens is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray


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
        pairs = np.unique(np.concatenate([pairs, owners * items + drawn]))
    chosen = np.sort(rng.permutation(len(pairs))[:interactions])
    return pairs[chosen] // items, pairs[chosen] % items


def write(path: Path, users: NDArray[np.int64], items: NDArray[np.int64]) -> None:
    """Write interactions as an atomic file of RecBole."""
    with path.open("w", encoding="ascii") as file:
        file.write("user_id:token\titem_id:token\n")
        for start in range(0, len(users), 1_000_000):
            part = slice(start, start + 1_000_000)
            file.writelines(
                f"u{user}\ti{item}\n" for user, item in zip(users[part].tolist(), items[part].tolist(), strict=True)
            )
