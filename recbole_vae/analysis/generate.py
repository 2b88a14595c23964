"""Synthetic users: histories drawn from a variational autoencoder, and how true they are.

A history of ``n`` items is drawn as the model supposes that real ones arose (Liang et al. 2018, section 2.1): latent variables
``z``, then items by ``softmax(f(z))``, none twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, vstack

from recbole_vae.data import padding
from recbole_vae.data.histories import Histories
from recbole_vae.errors import ConfigError, DataError
from recbole_vae.nn.chunks import rows_per_chunk
from recbole_vae.nn.linear import Ridge, item_item_weights
from recbole_vae.nn.prior import reparameterise
from recbole_vae.serving.recommender import Recommender

Items = NDArray[np.int64]
"""Internal ids of the items of one history, ascending, from 1 up."""

SOURCES = ("posterior", "prior")
_POPULAR = 500
"""Items whose co-occurrence is compared."""
_L2 = 3.0
_K = 100


def check_generates(model: Any, source: str = SOURCES[0]) -> None:
    """Raise a ConfigError for an unknown source, or a model without a distribution of latents or items, or with another prior."""
    if source not in SOURCES:
        raise ConfigError(f"source: {source!r} is not allowed; it must be {' or '.join(SOURCES)}.")
    if not model.has_posterior:
        raise ConfigError(
            f"{type(model).__name__} has no latent variables with a distribution, so nothing can be drawn from it; take a "
            "checkpoint of a variational autoencoder, such as MultVAE."
        )
    if not model.by_softmax:
        raise ConfigError(
            f"this {type(model).__name__} was not trained to draw a history's items from the softmax of its scores, so nothing "
            "can be drawn from it; take a checkpoint of likelihood: multinomial or poisson."
        )
    if source == "prior" and not model.standard_prior:
        raise ConfigError(
            f"source: prior draws from N(0, I), which is not the prior of {type(model).__name__}; take source: posterior."
        )


def synthesise(
    model: Any, around: Histories | None, users: int | None, *, source: str = "posterior", seed: int = 0
) -> Iterator[Items]:
    """Draw histories.

    Each takes its latent variables and its length from a history: one of ``around`` in turn, or else one of the model's
    training histories by chance. The latent variables are a sample of that history's posterior ``q(z | x)``; so over all users
    they follow the aggregated posterior, the prior under which the model would explain its data best (Tomczak and Welling,
    VAE with a VampPrior, AISTATS 2018, equation 5). With ``source`` ``prior`` they are a sample of N(0, I), and of the history
    the length alone counts. Items are drawn without replacement by the largest of logits plus Gumbel noise.

    Args:
        model: a trained model with ``posterior`` and ``decoder``, on its device. Of a HybridVAE the VAE alone counts.
        around: histories of which each has an item, on the model's device; None for the training histories.
        users: how many are drawn; None for one of each of ``around``, or as many as there are training users.
        source: one of :data:`SOURCES`.
        seed: of all that is drawn. What is drawn does not depend on how many are drawn after it.

    Returns:
        An iterator of items.

    Raises:
        ConfigError: there is no such source, or the model has no posterior, another likelihood, or another prior than N(0, I)
            if that is the source; when the first is drawn.
    """
    check_generates(model, source)
    table = model.histories.to("cpu") if around is None else around.to("cpu")
    filled = (table.lengths() > 0).nonzero().squeeze(1)
    # NumPy's numbers come one by one, whatever the size of the batch; those of torch do not.
    choice, noise, gumbel = (np.random.default_rng(each) for each in np.random.SeedSequence(seed).spawn(3))
    device, items = model.histories.indices.device, padding.real(model.n_items)
    size, left = rows_per_chunk(items), len(filled) if users is None else users
    done = 0
    while left:
        batch = min(size, left)
        if around is None:
            rows = filled[choice.integers(len(filled), size=batch)]
        else:
            rows = filled[torch.arange(done, done + batch) % len(filled)]
        histories = table[rows]
        with torch.no_grad():
            mu, logvar = model.posterior(histories.to(device))
            drawn = torch.from_numpy(noise.standard_normal(tuple(mu.shape), dtype=np.float32)).to(mu)
            latent = drawn if source == "prior" else reparameterise(mu, logvar, drawn)
            logits = model.decoder(latent).float().cpu()
        logits -= torch.from_numpy(gumbel.standard_exponential((batch, items), dtype=np.float32)).log_()
        lengths = histories.lengths().clamp(max=items).tolist()
        best = logits.topk(max(lengths), dim=1).indices.numpy()
        for row, length in zip(best, lengths, strict=True):
            yield padding.ids(np.sort(row[:length]).astype(np.int64))
        left, done = left - batch, done + batch


@dataclass
class Truth:
    """How true histories are, measured against real users who did not make them.

    Attributes:
        popularity: correlation of the items' shares with the real ones.
        total_variation: half the sum of the absolute differences of these shares, in [0, 1].
        length: largest distance of the distribution functions of the histories' lengths (Kolmogorov-Smirnov), in [0, 1].
        co_occurrence: correlation of the cosines of pairs of items with the real ones, over the 500 most popular items.
        items: how many items occur.
        nearest: of each history's largest Jaccard similarity to a real one: median and 95th percentile.
        copies: share of the histories that a real user has exactly.
        ndcg: NDCG@100 on real users, by 80 % of their items, of an EASE that was trained on the histories.
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
class Report:
    """Real users, synthetic ones and a caricature of them, each measured against the same other real users.

    Attributes:
        users: how many of each there are; ``judges``: the real users that they are measured against.
        unseen: whether the judges were kept from the model's training.
        rows: ``real``; ``synthetic``; and ``popularity``: as many items as the real users have, drawn by popularity alone.
    """

    users: int
    judges: int
    unseen: bool
    rows: dict[str, Truth]

    def plain(self) -> dict[str, Any]:
        """Return all values for JSON."""
        return asdict(self)


def truth(
    real: csr_matrix, synthetic: csr_matrix, unseen: csr_matrix | None = None, *, l2: float = _L2, seed: int = 0
) -> Report:
    """Measure how true synthetic histories are.

    The real users are divided by chance into two halves: one is compared as the synthetic users are, and says what a perfect
    generator would reach, the other judges both. ``unseen`` users judge in its place, if there are any; then nobody who
    judges was seen by the generator.

    Args:
        real: the training users' histories, of 0 and 1, shape [users, items], no row empty.
        synthetic: likewise.
        unseen: histories of other real users.
        l2: ridge of EASE, in units of the mean of the Gram matrix's diagonal.
        seed: of the halves, the fold-in and the caricature.

    Raises:
        DataError: see :func:`check_measurable`.
    """
    rng = np.random.default_rng(seed)
    own, judges = _divide(real, synthetic.shape[0], unseen, rng)
    users = own.shape[0]
    lengths, shares = np.diff(own.indptr), np.asarray(real.sum(0), dtype=np.float64).ravel()
    keys = np.log(np.maximum(shares, 1e-300)) - np.log(rng.standard_exponential((users, real.shape[1])))
    by_popularity = [np.argpartition(-keys[row], length - 1)[:length] for row, length in enumerate(lengths)]
    sides = {"real": own, "synthetic": synthetic[:users], "popularity": _table(by_popularity, real.shape[1])}
    fold_in, targets = _fold(judges, rng)
    rows = {name: _truth(side, judges, fold_in, targets, l2) for name, side in sides.items()}
    return Report(users, judges.shape[0], unseen is not None, rows)


def check_measurable(real: csr_matrix, users: int, unseen: csr_matrix | None = None, *, seed: int = 0) -> None:
    """Raise a DataError where :func:`truth` of so many synthetic users has too few users, or no judge with two items."""
    _divide(real, users, unseen, np.random.default_rng(seed))


def _divide(
    real: csr_matrix, users: int, unseen: csr_matrix | None, rng: np.random.Generator
) -> tuple[csr_matrix, csr_matrix]:
    """Return the real users who are compared, at most so many, and those who judge."""
    order = rng.permutation(real.shape[0])
    half = real.shape[0] if unseen is not None else real.shape[0] // 2
    users = min(half, users)
    judges = real[order[half:]] if unseen is None else unseen
    if users < 2 or judges.shape[0] < 2:
        raise DataError("too few users to say how true the synthetic ones are: at least 4 real and 2 synthetic ones.")
    if np.diff(judges.indptr).max() < 2:
        raise DataError(f"none of the {judges.shape[0]} judges has two items: one to be given, and one to be found.")
    return real[order[:users]], judges


def _truth(side: csr_matrix, judges: csr_matrix, fold_in: csr_matrix, targets: csr_matrix, l2: float) -> Truth:
    shares = [np.asarray(each.sum(0)).ravel() / each.sum() for each in (side, judges)]
    lengths = [np.sort(np.diff(each.indptr)) for each in (side, judges)]
    places = np.unique(np.concatenate(lengths))
    distances = [np.searchsorted(each, places, side="right") / len(each) for each in lengths]
    popular = np.argsort(-np.asarray(judges.sum(0)).ravel(), kind="stable")[:_POPULAR]
    cosines = [_cosines(each[:, popular]) for each in (side, judges)]
    similarity = nearest(side, judges)
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


def nearest(side: csr_matrix, others: csr_matrix) -> NDArray[np.float64]:
    """Return the largest Jaccard similarity of each row of a table to a row of another, shape [rows]."""
    mine, theirs = np.diff(side.indptr), np.diff(others.indptr)
    found = np.zeros(side.shape[0])
    step = rows_per_chunk(others.shape[0])
    for start in range(0, side.shape[0], step):
        both = (side[start : start + step] @ others.T).toarray()
        found[start : start + step] = (both / (mine[start : start + step, None] + theirs - both)).max(1)
    return found


def _cosines(table: csr_matrix) -> NDArray[np.float64]:
    """Return the cosines of all pairs of columns, 0 for an empty one."""
    both = (table.T @ table).toarray().astype(np.float64)
    lengths = np.sqrt(np.maximum(np.diag(both), 1e-300))
    cosines: NDArray[np.float64] = (both / lengths / lengths[:, None])[np.triu_indices(len(both), 1)]
    return cosines


def _fold(judges: csr_matrix, rng: np.random.Generator, share: float = 0.8) -> tuple[csr_matrix, csr_matrix]:
    """Divide each history of two and more items by chance into what is given and what is to be found."""
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
    discounts = 1 / np.log2(np.arange(2, k + 2))
    best = np.concatenate([[0.0], np.cumsum(discounts)])
    values = []
    step = rows_per_chunk(training.shape[1])
    for start in range(0, fold_in.shape[0], step):
        given, wanted = fold_in[start : start + step], targets[start : start + step]
        scores = given @ weight
        scores[given.nonzero()] = -np.inf
        ranked = torch.from_numpy(scores).topk(k).indices.numpy()
        hits = np.take_along_axis(wanted.toarray() > 0, ranked, 1)
        values.append((hits @ discounts) / best[np.minimum(np.diff(wanted.indptr), k)])
    return float(np.concatenate(values).mean())


def _table(histories: Iterable[NDArray[Any]], n_items: int) -> csr_matrix:
    """Make a table of 0 and 1 of items counted from 0."""
    rows = [np.sort(each) for each in histories]
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    indices = np.concatenate([*rows, np.empty(0, dtype=np.int64)]).astype(np.int64)
    return csr_matrix((np.ones(len(indices), dtype=np.float32), indices, indptr), shape=(len(rows), n_items))


def table_of(histories: Histories, n_items: int) -> csr_matrix:
    """Return the rows of histories that are not empty as a table of 0 and 1 without RecBole's padding item."""
    table = Histories(histories.indptr, histories.indices).to_scipy(padding.real(n_items))
    return table[np.diff(table.indptr) > 0]


class Kept:
    """Passes histories on and keeps the first of them, as many as :func:`truth` can use."""

    def __init__(self, histories: Iterator[Items], n_items: int, most: int) -> None:
        self._histories, self._n_items, self._most = histories, n_items, most
        self._tables: list[csr_matrix] = []

    def __iter__(self) -> Iterator[Items]:
        """Pass the histories on."""
        left = self._most
        while batch := list(islice(self._histories, 1024)):
            if left > 0:
                self._tables.append(_table(map(padding.columns, batch[:left]), padding.real(self._n_items)))
                left -= len(batch)
            yield from batch

    def table(self) -> csr_matrix:
        """Return what was kept."""
        return vstack(self._tables, format="csr")


_WORDS = {
    "popularity": "popularity of the items, correlation with the judges'",
    "total_variation": "popularity of the items, total variation distance",
    "length": "length of the histories, Kolmogorov-Smirnov distance",
    "co_occurrence": "co-occurrence of popular items, correlation",
    "items": "items that occur",
    "nearest": "Jaccard similarity to the nearest judge: median, 95 %",
    "copies": "histories that a judge has exactly",
    "ndcg": "NDCG@100 of an EASE trained on them, on the judges",
}


def text(report: Report) -> str:
    """Return a report for the terminal."""
    width = max(map(len, _WORDS.values()))
    kind = "unseen by the model" if report.unseen else "the other half of the training users, whom the model has seen"
    lines = [f"{report.users:,} users of each kind; judges: {report.judges:,} real users, {kind}"]
    lines.append(f"{'':{width}}  {'real':>12}  {'synthetic':>12}  {'by popularity':>13}")
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
        lines.append(f"{words:{width}}  {cells[0]:>12}  {cells[1]:>12}  {cells[2]:>13}")
    return "\n".join(lines)


def judges(recommender: Recommender, histories: Iterable[tuple[str, Iterable[str]]]) -> tuple[Histories, int, int]:
    """Turn histories of users whom the model has not seen into those of the model.

    Returns:
        The histories; how many others were left out because they are of users of the training data; and how many because the
        model knows none of their items.

    Raises:
        DataError: fewer than two are left.
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
            f"unseen: {seen} of {seen + len(found)} users are users of the training data, whom the model has seen, {unknown} "
            "have no item that it knows, and at least 2 others are needed. Give histories of others, or the split file of the "
            "run that wrote this checkpoint; without --unseen half of the training users judge."
        )
    return Histories.from_lists(known), seen, unknown


def known_histories(recommender: Recommender, histories: Iterable[tuple[str, Iterable[str]]]) -> Histories:
    """Turn histories of item ids into those of the model.

    Raises:
        DataError: one of them has no item that the model knows, or there is none.
    """
    found = []
    for key, history in histories:
        found.append(recommender.known(history))
        if not len(found[-1]):
            raise DataError(
                f"the history of '{key}' has no item that the model knows, so nothing can be drawn around it."
            )
    if not found:
        raise DataError("there are no histories to draw around.")
    return Histories.from_lists(found)
