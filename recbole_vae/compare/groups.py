"""Accuracy by the length of users' histories and by the popularity of items: who is served, and with what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recbole_vae.compare.analysis import Row, cubes

BINS = 5
"""Groups of users, of as equal size as ties of their history lengths allow."""


@dataclass
class UserGroup:
    """A metric of one row, of users whose histories are of similar length.

    Attributes:
        label: the row; ``metric``: such as ``ndcg@10``.
        low, high: the shortest and the longest history, means over seeds.
        users: number of users; ``mean``: over them; ``error``: its standard error, 0 for a single user.
    """

    label: str
    metric: str
    low: float
    high: float
    users: int
    mean: float
    error: float


@dataclass
class ItemGroup:
    """Recall of one row on items of similar popularity, means over seeds; see ``Run.by_popularity``."""

    label: str
    items: float
    popularity: float
    relevant: float
    recall: float


def by_history(rows: Sequence[Row], seeds: Sequence[int], metrics: Sequence[str]) -> list[UserGroup]:
    """Return each metric of each row in each group of users, groups from short to long histories; values are means over seeds."""
    found = []
    lengths = bins = np.empty(0)
    for metric, cube in cubes(rows, seeds, ["history_length", *metrics]):
        there = ~np.isnan(cube)
        if metric == "history_length":
            lengths = np.where(there, cube, 0).sum((0, 1)) / there.sum((0, 1))
            edges = np.unique(np.quantile(lengths, np.linspace(0, 1, BINS + 1)))
            bins = np.clip(np.searchsorted(edges, lengths, side="left") - 1, 0, max(len(edges) - 2, 0))
            continue
        for row, values, seen in zip(rows, cube, there, strict=True):
            users = np.where(seen, values, 0).sum(0) / np.maximum(seen.sum(0), 1)
            for place in np.unique(bins):  # few users may leave some empty
                own = users[(bins == place) & seen.any(0)]
                mean = float(own.mean()) if len(own) else float("nan")
                error = float(own.std(ddof=1) / len(own) ** 0.5) if len(own) > 1 else 0.0
                low, high = (float(end(lengths[bins == place])) for end in (np.min, np.max))
                found.append(UserGroup(row.label, metric, low, high, len(own), mean, error))
    return found


def by_popularity(rows: Sequence[Row]) -> list[ItemGroup]:
    """Return the recall of each row in each group of items, groups from rare to popular; rows without one are left out."""
    found = []
    for row in rows:
        runs = [run.by_popularity for run in row.done if run.by_popularity]
        for same in zip(*runs, strict=False):
            values = {name: float(np.mean([each[name] for each in same])) for name in same[0]}
            found.append(ItemGroup(row.label, **values))
    return found
