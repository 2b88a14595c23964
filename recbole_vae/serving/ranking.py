"""Rankings, and how they are written."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from itertools import chain, islice
from typing import IO


class Ranking(list[tuple[str, float]]):
    """Items with their scores, best first; with samples of the posterior, also how certain the ranking is.

    Without samples, without a known item in the history, and for an empty ranking, the attributes are None.

    Attributes:
        intervals: the 90 % interval of each item's rank over the samples.
        stability: how similar the samples' rankings are to this one, in [0, 1]; see
            :func:`~recbole_vae.serving.posterior.stability`.
        expected_ndcg: see :func:`~recbole_vae.serving.posterior.expected_ndcg`; also None if the likelihood has no softmax.
    """

    intervals: list[tuple[int, int]] | None = None
    stability: float | None = None
    expected_ndcg: float | None = None


def write_rankings(rankings: Iterable[tuple[str, Ranking]], file: IO[str], *, sampled: bool = False) -> int:
    """Write rankings as CSV, ``user_id,rank,item_id,score``, and return the number of users.

    Args:
        rankings: pairs of a user's id and ranking.
        file: where to write.
        sampled: whether to add ``rank_low,rank_high,stability,expected_ndcg``; a value of None is an empty cell.
    """
    writer = csv.writer(file, lineterminator="\n")
    pairs = iter(rankings)
    first = list(islice(pairs, 1))  # bad input shows here, before anything is written
    more = ("rank_low", "rank_high", "stability", "expected_ndcg") if sampled else ()
    writer.writerow(("user_id", "rank", "item_id", "score", *more))
    users = 0
    for users, (user, ranking) in enumerate(chain(first, pairs), start=1):  # noqa: B007 - the result
        for rank, (item, score) in enumerate(ranking, start=1):
            cells = [user, rank, item, f"{score:.6g}"]
            if sampled:
                cells += ranking.intervals[rank - 1] if ranking.intervals else ("", "")
                of_user = (ranking.stability, ranking.expected_ndcg)
                cells += ["" if value is None else f"{value:.4g}" for value in of_user]
            writer.writerow(cells)
    return users
