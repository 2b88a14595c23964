"""Compares two files of recommended lists: how much changes for users, and what becomes of the catalogue."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recbole_vae.compare.list_file import Lists, read_lists
from recbole_vae.data import padding
from recbole_vae.errors import ConfigError
from recbole_vae.evaluation.metrics import gini
from recbole_vae.serving.recommender import Recommender

Floats = NDArray[np.float64]

PERSISTENCE = 0.9
"""The ``p`` of rank-biased overlap: a reader goes on to the next place with this probability."""

_BLOCK = 1 << 22
"""Places of lists that are compared at once."""


@dataclass(frozen=True)
class Side:
    """One of the two files.

    Attributes:
        users: number of users with a list.
        items: number of different items in the lists.
        gini: Gini index of the numbers of times that items are shown.
        coverage: share of the catalogue's items that are in a list; None without a checkpoint.
        popularity: mean number of training users who have a shown item, 0 if the checkpoint does not know it; None without a
            checkpoint.
        unknown: share of all places that have an item that the checkpoint does not know; None without a checkpoint.
    """

    users: int
    items: int
    gini: float
    coverage: float | None
    popularity: float | None
    unknown: float | None


@dataclass(frozen=True)
class Comparison:
    """Two files of lists, compared.

    Attributes:
        k: places of each list that count.
        old, new: see :class:`Side`.
        both: number of users who have a list in both files.
        exposure_shift: share of all places that would have to change hands for items to be shown as often as in the old file,
            in [0, 1]: the total variation distance. The numbers below are means over the users in both, None if there are none.
        overlap: shared items, divided by the length of the longer list.
        rbo: rank-biased overlap, extrapolated (Webber, Moffat and Zobel, TOIS 2010, equation 32), with p = 0.9.
        spearman: Spearman's rank correlation of the shared items, over users who have at least two; ``None`` if nobody has.
        same_first: share of the users whose first item stays the same.
        same_list: share of the users whose list stays the same.
    """

    k: int
    old: Side
    new: Side
    both: int
    exposure_shift: float
    overlap: float | None
    rbo: float | None
    spearman: float | None
    same_first: float | None
    same_list: float | None

    @property
    def lost_users(self) -> float:
        """Share of the old file's users who have no list in the new one."""
        return 1 - self.both / self.old.users

    @property
    def coverage_drop(self) -> float:
        """Share by which the number of different items falls; negative if it rises."""
        return 1 - self.new.items / self.old.items

    @property
    def popularity_rise(self) -> float | None:
        """Share by which the mean popularity rises; negative if it falls. None without a checkpoint, or if it was 0."""
        if self.old.popularity is None or self.new.popularity is None or not self.old.popularity:
            return None
        return self.new.popularity / self.old.popularity - 1


def compare_lists(old: Path, new: Path, k: int | None = None, checkpoint: Path | None = None) -> Comparison:
    """Compare two files that ``recbole-vae recommend`` wrote.

    Args:
        old: CSV or Parquet.
        new: likewise.
        k: places of each list that count; None for the length of the longest list in the file whose lists are shorter.
        checkpoint: gives the catalogue, and the items' popularity.

    Raises:
        ConfigError: ``k`` is larger than the longest list of a file.
        DataError: see :func:`~recbole_vae.compare.list_file.read_lists`.
        CheckpointError: the checkpoint cannot be read.
    """
    numbers: dict[str, int] = {}
    if checkpoint is not None:  # its items have the first numbers
        recommender = Recommender.load(checkpoint)
        numbers = {item: number for number, item in enumerate(recommender.items[padding.REAL])}
    catalogue = len(numbers)
    lists = [read_lists(path, numbers) for path in (old, new)]
    popularity = None
    if checkpoint is not None:
        popularity = np.zeros(len(numbers))
        popularity[:catalogue] = recommender.model.histories.counts(catalogue).numpy()
    longest = [int(each.lengths().max()) for each in lists]
    if k is not None and k > min(longest):
        path = (old, new)[int(np.argmin(longest))]
        raise ConfigError(f"k: {k} is not allowed; the lists in {path} have {min(longest)} places at most.")
    k = k or min(longest)
    before, after = (each.top(k) for each in lists)
    counts = [np.bincount(each.items, minlength=len(numbers)) for each in (before, after)]
    pairs = [(row, after.users[user]) for user, row in before.users.items() if user in after.users]
    shares = [each / each.sum() for each in counts]
    sides = [
        _side(len(each.users), count, catalogue, popularity)
        for each, count in zip((before, after), counts, strict=True)
    ]
    shift = float(np.abs(shares[0] - shares[1]).sum() / 2)
    means = _over_users(before, after, np.array(pairs, np.int64).reshape(-1, 2), k, len(numbers))
    return Comparison(k, sides[0], sides[1], len(pairs), shift, **means)


def _side(users: int, counts: NDArray[np.int64], catalogue: int, popularity: Floats | None) -> Side:
    shown = counts[counts > 0]
    if popularity is None:
        return Side(users, len(shown), gini(shown, len(counts)), None, None, None)
    covered, places = int(np.count_nonzero(counts[:catalogue])), counts.sum()
    return Side(
        users,
        len(shown),
        gini(shown, len(counts)),
        covered / catalogue,
        float(counts @ popularity / places),
        float(counts[catalogue:].sum() / places),
    )


def _over_users(old: Lists, new: Lists, pairs: NDArray[np.int64], k: int, n_items: int) -> dict[str, float | None]:
    """Return the means over the users in both files; ``pairs`` has their rows in the two."""
    names = ("overlap", "rbo", "spearman", "same_first", "same_list")
    sums, counts = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0)
    for part in np.array_split(pairs, max(1, -(-len(pairs) * k // _BLOCK))):
        if len(part):
            values = agreement(old.table(part[:, 0], k), new.table(part[:, 1], k), n_items)
            for name in names:
                some = values[name][~np.isnan(values[name])]
                sums[name] += float(some.sum())
                counts[name] += len(some)
    return {name: sums[name] / counts[name] if counts[name] else None for name in names}


def agreement(old: NDArray[np.int32], new: NDArray[np.int32], n_items: int) -> dict[str, Floats]:
    """Compare pairs of lists.

    Args:
        old: numbers of items, none twice in a row, shape [users, k]; each row has at least one, and -1 after its end.
        new: likewise.
        n_items: larger than all numbers.

    Returns:
        ``overlap``, ``rbo``, ``spearman`` (NaN with less than two shared items), ``same_first`` and ``same_list``; each of shape
        [users]. See :class:`Comparison`.
    """
    users, k = old.shape
    places = places_in(old, new, n_items)
    shared = places < k
    longer = np.maximum((old >= 0).sum(1), (new >= 0).sum(1))
    # An item is among the first d of both lists from depth max(place in the one, place in the other) + 1 on.
    depth = np.maximum(places, np.arange(k))
    rows = np.repeat(np.arange(users), k).reshape(users, k)
    common = np.bincount((rows * k + depth)[shared], minlength=users * k).reshape(users, k).cumsum(1)
    n = shared.sum(1)
    ranks = np.cumsum(shared, axis=1)
    others = np.argsort(np.argsort(np.where(shared, places, k), axis=1, kind="stable"), axis=1) + 1
    squares = np.where(shared, (ranks - others) ** 2, 0).sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        spearman = np.where(n > 1, 1 - 6 * squares / (n * (n**2 - 1.0)), np.nan)
    return {
        "overlap": n / longer,
        "rbo": _rbo(common, (old >= 0).sum(1), (new >= 0).sum(1)),
        "spearman": spearman,
        "same_first": (old[:, 0] == new[:, 0]).astype(float),
        "same_list": (old == new).all(1).astype(float),
    }


def places_in(old: NDArray[np.int32], new: NDArray[np.int32], n_items: int) -> NDArray[np.int64]:
    """Return the place, from 0, that each item of ``old`` has in the same row of ``new``, and k if it has none."""
    users, k = old.shape
    first = np.arange(users, dtype=np.int64)[:, None] * (n_items + 1) + 1
    keys = (first + new).ravel()
    order = np.argsort(keys, kind="stable")
    wanted = first + old
    found = order[np.searchsorted(keys, wanted, sorter=order).clip(max=len(keys) - 1)]
    places: NDArray[np.int64] = np.where((keys[found] == wanted) & (old >= 0), found % k, k)
    return places


def _rbo(common: NDArray[np.int64], one: NDArray[np.int64], other: NDArray[np.int64]) -> Floats:
    """Return the extrapolated rank-biased overlap of pairs of lists.

    Args:
        common: number of items among the first 1, 2, ... of both lists, shape [users, k].
        one: length of the one list, shape [users].
        other: length of the other list, shape [users].
    """
    p, depths = PERSISTENCE, np.arange(1, common.shape[1] + 1)
    short, long = np.minimum(one, other)[:, None], np.maximum(one, other)[:, None]
    of_short, of_long = (np.take_along_axis(common, each - 1, axis=1) for each in (short, long))
    seen = np.where(depths <= long, common / depths, 0.0)
    seen += np.where((depths > short) & (depths <= long), of_short * (depths - short) / (short * depths), 0.0)
    rest = ((of_long - of_short) / long + of_short / short) * p**long
    result: Floats = (1 - p) / p * (seen * p**depths).sum(1) + rest[:, 0]
    return result
