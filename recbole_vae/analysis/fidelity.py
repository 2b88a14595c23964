"""How true synthetic users are: popularity, co-occurrence, what a model learns from them, and how near they come to real ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, vstack
from tabulate import tabulate

from recbole_vae.analysis.generate import Items
from recbole_vae.data import padding
from recbole_vae.data.histories import Histories
from recbole_vae.errors import DataError
from recbole_vae.evaluation.metrics import ndcg
from recbole_vae.nn.chunks import rows_per_chunk
from recbole_vae.nn.linear import Ridge, item_item_weights
from recbole_vae.serving.recommender import Recommender

_POPULAR = 500
"""Items whose co-occurrence is compared."""
_SEARCHED = 10_000
"""Nearest training users are found for this many histories of each kind; each takes a pass over all training users."""
_L2 = 3.0
_K = 100


@dataclass
class Truth:
    """How true histories are: compared with the judges, who are other real users, and with the training users.

    Attributes:
        popularity: correlation of the items' shares of the interactions with the judges' shares.
        total_variation: total variation distance of these shares, in [0, 1].
        length: Kolmogorov-Smirnov distance of the history lengths, in [0, 1].
        co_occurrence: correlation of the cosines between items with the judges', over the 500 most popular items.
        items: number of items that occur.
        nearest: Jaccard similarity of a history to the nearest training user's: median and 95th percentile.
        copies: share of the histories that equal a training user's.
        ndcg: NDCG@100, on the judges (80 % of each one's items given), of an EASE trained on the histories.
    """

    popularity: float
    total_variation: float
    length: float
    co_occurrence: float
    items: int
    nearest: tuple[float, float]
    copies: float
    ndcg: float


@dataclass
class FidelityReport:
    """Real users, synthetic users and a caricature, measured in the same way.

    In the row ``real``, ``nearest`` and ``copies`` are the yardstick: the values of users outside the training data. If the
    model has not seen the judges, these are the judges; else each real user is compared with the other training users.

    Attributes:
        users: number of users of each kind.
        judges: number of real users with whom all are compared.
        unseen: whether the judges were kept from the model's training.
        trained_on: number of training users.
        searched: number of synthetic users for whom the nearest training user was found.
        rows: ``real``; ``synthetic``; and ``popularity``: histories as long as the real ones, drawn by popularity alone.
    """

    users: int
    judges: int
    unseen: bool
    trained_on: int
    searched: int
    rows: dict[str, Truth]

    def plain(self) -> dict[str, Any]:
        """Return all values for JSON."""
        return asdict(self)


def truth(
    real: csr_matrix, synthetic: csr_matrix, unseen: csr_matrix | None = None, *, l2: float = _L2, seed: int = 0
) -> FidelityReport:
    """Measure how true synthetic histories are.

    Half of the training users, drawn at random, are measured as the synthetic users are: they show what a perfect generator
    would reach. The other half are the judges, unless there are ``unseen`` users, whom the generator does not know.
    Nearest neighbours and copies are searched for among all training users, whoever the judges are.

    Args:
        real: histories of all users that the model was trained on, 0 and 1, shape [users, items], no row empty.
        synthetic: synthetic histories, likewise.
        unseen: histories of real users that the model was not trained on, likewise.
        l2: ridge of EASE, as a multiple of the mean of the Gram matrix's diagonal.
        seed: seed of the halves, the fold-in and the caricature.

    Raises:
        DataError: see :func:`check_measurable`.
    """
    rng = np.random.default_rng(seed)
    chosen, judges = _divide(real, synthetic.shape[0], unseen, rng)
    own, users = real[chosen], len(chosen)
    lengths, shares = np.diff(own.indptr), np.asarray(real.sum(0), dtype=np.float64).ravel()
    keys = np.log(np.maximum(shares, 1e-300)) - np.log(rng.standard_exponential((users, real.shape[1])))
    drawn = (padding.ids(np.argpartition(-keys[row], length - 1)[:length]) for row, length in enumerate(lengths))
    by_popularity = Histories.from_lists(drawn).to_scipy(real.shape[1])
    sides = {"real": own, "synthetic": synthetic[:users], "popularity": by_popularity}
    fold_in, targets = _fold(judges, rng)
    similar = {
        "real": nearest(own[:_SEARCHED], real, chosen[:_SEARCHED])
        if unseen is None
        else nearest(unseen[:_SEARCHED], real),
        "synthetic": nearest(synthetic[:_SEARCHED], real),
        "popularity": nearest(sides["popularity"][:_SEARCHED], real),
    }
    rows = {name: _truth(side, judges, fold_in, targets, l2, similar[name]) for name, side in sides.items()}
    searched = len(similar["synthetic"])
    return FidelityReport(users, judges.shape[0], unseen is not None, real.shape[0], searched, rows)


def check_measurable(real: csr_matrix, users: int, unseen: csr_matrix | None = None, *, seed: int = 0) -> None:
    """Raise a DataError if :func:`truth` of this many synthetic users has too few users, or no judge with two items."""
    _divide(real, users, unseen, np.random.default_rng(seed))


def _divide(
    real: csr_matrix, users: int, unseen: csr_matrix | None, rng: np.random.Generator
) -> tuple[NDArray[np.int64], csr_matrix]:
    """Return the rows of the real users to be measured, at most this many, and the judges' histories."""
    order = rng.permutation(real.shape[0])
    half = real.shape[0] if unseen is not None else real.shape[0] // 2
    users = min(half, users)
    judges = real[order[half:]] if unseen is None else unseen
    if users < 2 or judges.shape[0] < 2:
        raise DataError(
            "too few users to say how true the synthetic ones are; at least 4 real and 2 synthetic ones are needed."
        )
    if np.diff(judges.indptr).max() < 2:
        raise DataError(f"none of the {judges.shape[0]} judges has two items: one to be given, and one to be found.")
    return order[:users], judges


def _truth(
    side: csr_matrix,
    judges: csr_matrix,
    fold_in: csr_matrix,
    targets: csr_matrix,
    l2: float,
    similarity: NDArray[np.float64],
) -> Truth:
    shares = [np.asarray(each.sum(0)).ravel() / each.sum() for each in (side, judges)]
    lengths = [np.sort(np.diff(each.indptr)) for each in (side, judges)]
    places = np.unique(np.concatenate(lengths))
    distances = [np.searchsorted(each, places, side="right") / len(each) for each in lengths]
    popular = np.argsort(-np.asarray(judges.sum(0)).ravel(), kind="stable")[:_POPULAR]
    cosines = [_cosines(each[:, popular]) for each in (side, judges)]
    return Truth(
        popularity=float(np.corrcoef(shares[0], shares[1])[0, 1]),
        total_variation=float(np.abs(shares[0] - shares[1]).sum() / 2),
        length=float(np.abs(distances[0] - distances[1]).max()),
        co_occurrence=float(np.corrcoef(cosines[0], cosines[1])[0, 1]),
        items=int((shares[0] > 0).sum()),
        nearest=(float(np.median(similarity)), float(np.quantile(similarity, 0.95))),
        copies=float((similarity == 1).mean()),
        ndcg=_ease_ndcg(side, fold_in, targets, l2),
    )


def nearest(side: csr_matrix, others: csr_matrix, itself: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
    """Return the largest Jaccard similarity of each row of a table to a row of another table, shape [rows].

    Args:
        side: 0 and 1, shape [rows, items].
        others: 0 and 1, shape [other rows, items].
        itself: for each row of ``side``, the row of ``others`` that is the same user and is left out; shape [rows].
    """
    mine, theirs = np.diff(side.indptr), np.diff(others.indptr)
    found = np.zeros(side.shape[0])
    step = rows_per_chunk(others.shape[0])
    for start in range(0, side.shape[0], step):
        part = slice(start, start + step)
        both = (side[part] @ others.T).toarray()
        similar = both / (mine[part, None] + theirs - both)
        if itself is not None:
            similar[np.arange(len(similar)), itself[part]] = 0.0
        found[part] = similar.max(1)
    return found


def _cosines(table: csr_matrix) -> NDArray[np.float64]:
    """Return the cosines of all pairs of columns, 0 for an empty one."""
    both = (table.T @ table).toarray().astype(np.float64)
    lengths = np.sqrt(np.maximum(np.diag(both), 1e-300))
    cosines: NDArray[np.float64] = (both / lengths / lengths[:, None])[np.triu_indices(len(both), 1)]
    return cosines


def _fold(judges: csr_matrix, rng: np.random.Generator, share: float = 0.8) -> tuple[csr_matrix, csr_matrix]:
    """Divide each history of two or more items at random into the fold-in and the targets."""
    order = np.lexsort((rng.random(judges.nnz), np.repeat(np.arange(judges.shape[0]), np.diff(judges.indptr))))
    place = np.arange(judges.nnz) - np.repeat(judges.indptr[:-1], np.diff(judges.indptr))
    lengths = np.repeat(np.diff(judges.indptr), np.diff(judges.indptr))
    given = np.zeros(judges.nnz, dtype=bool)
    given[order] = place < np.clip(np.round(share * lengths), 1, lengths - 1)
    parts = []
    for chosen in (given, ~given):
        part = judges.copy()
        part.data = chosen.astype(np.float32)
        part.eliminate_zeros()
        parts.append(part)
    whole = np.diff(parts[1].indptr) * np.diff(parts[0].indptr) > 0
    return parts[0][whole], parts[1][whole]


def _ease_ndcg(training: csr_matrix, fold_in: csr_matrix, targets: csr_matrix, l2: float) -> float:
    histories = Histories(
        torch.from_numpy(training.indptr.astype(np.int64)),
        torch.from_numpy(padding.ids(training.indices.astype(np.int64))),
    )
    weight = item_item_weights(histories, training.shape[1], Ridge(l2)).numpy()
    k = min(_K, training.shape[1])
    values = []
    step = rows_per_chunk(training.shape[1])
    for start in range(0, fold_in.shape[0], step):
        given, wanted = fold_in[start : start + step], targets[start : start + step]
        scores = given @ weight
        scores[given.nonzero()] = -np.inf
        ranked = torch.from_numpy(scores).topk(k).indices.numpy()
        hits = np.take_along_axis(wanted.toarray() > 0, ranked, 1)
        values.append(ndcg(hits, np.diff(wanted.indptr))[:, -1])
    return float(np.concatenate(values).mean())


def table_of(histories: Histories, n_items: int) -> csr_matrix:
    """Return the histories that are not empty as a table of 0 and 1, shape [rows, items without the padding]."""
    table = Histories(histories.indptr, histories.indices).to_scipy(padding.real(n_items))
    return table[np.diff(table.indptr) > 0]


class Tee:
    """Passes histories on and keeps the first of them: ``most``, as many as there are training users."""

    def __init__(self, histories: Iterator[Items], n_items: int, most: int) -> None:
        self._histories, self._n_items, self._most = histories, n_items, most
        self._tables: list[csr_matrix] = []

    def __iter__(self) -> Iterator[Items]:
        """Pass the histories on."""
        left = self._most
        while batch := list(islice(self._histories, 1024)):
            if left > 0:
                self._tables.append(Histories.from_lists(batch[:left]).to_scipy(padding.real(self._n_items)))
                left -= len(batch)
            yield from batch

    def table(self) -> csr_matrix:
        """Return the histories that were kept."""
        return vstack(self._tables, format="csr")


_WORDS = {
    "popularity": "popularity of the items, correlation with the judges'",
    "total_variation": "popularity of the items, total variation distance",
    "length": "length of the histories, Kolmogorov-Smirnov distance",
    "co_occurrence": "co-occurrence of popular items, correlation",
    "items": "items that occur",
    "nearest": "Jaccard similarity to the nearest training user: median, 95 %",
    "copies": "exact copies of a training user",
    "ndcg": "NDCG@100 of an EASE trained on them, on the judges",
}


def text(report: FidelityReport) -> str:
    """Return a report for the terminal."""
    kind = "unseen by the model" if report.unseen else "the other half of the training users, whom the model has seen"
    real = "the judges" if report.unseen else "each real user, among the other training users"
    said = (
        f"{report.users:,} users of each kind; judges: {report.judges:,} real users, {kind}\n"
        f"Nearest training users and copies: of {report.searched:,} synthetic users, among all {report.trained_on:,} training "
        f"users; for comparison, under real: of {real}\n"
    )
    table = []
    for name, words in _WORDS.items():
        cells = []
        for row in report.rows.values():
            value = getattr(row, name)
            if isinstance(value, tuple):
                cells.append(" ".join(f"{each:.3f}" for each in value))
            elif name == "copies":
                cells.append(f"{value:.2%}")
            else:
                cells.append(f"{value:,}" if isinstance(value, int) else f"{value:.4f}")
        table.append([words, *cells])
    head, align = ["", "real", "synthetic", "by popularity"], ["left", *["right"] * 3]
    return f"{said}{tabulate(table, head, tablefmt='plain', colalign=align, disable_numparse=True)}"


def judges(recommender: Recommender, histories: Iterable[tuple[str, Iterable[str]]]) -> tuple[Histories, int, int]:
    """Read the judges: histories of users that the model was not trained on, by pairs of a user and item ids.

    Returns:
        The histories; the number of training users, who were left out; and the number of users left out because the model
        knows none of their items.

    Raises:
        DataError: fewer than two judges are left.
    """
    trained_on, seen = set(recommender.users[padding.REAL]), 0

    def others() -> Iterator[tuple[str, Iterable[str]]]:
        nonlocal seen
        for user, history in histories:
            if user in trained_on:
                seen += 1
            else:
                yield user, history

    found = [recommender.known(history) for _, history in others()]
    known = [history for history in found if history]
    unknown = len(found) - len(known)
    if len(known) < 2:
        raise DataError(
            f"unseen: {seen} of {seen + len(found)} users are users of the training data, whom the model has seen, and {unknown} "
            "have no item that it knows; at least 2 others are needed. Give histories of other users, or the split file of the "
            "run that wrote this checkpoint. Without --unseen, half of the training users are the judges."
        )
    return Histories.from_lists(known), seen, unknown
