"""Linear item-item models, in closed form or learned. They keep details that a narrow latent space loses on sparse data.

References: Harald Steck: Embarrassingly Shallow Autoencoders for Sparse Data. WWW 2019 ("EASE"). Harald Steck: Autoencoders
that don't overfit towards the Identity. NeurIPS 2020 ("EDLAE"). Xia Ning, George Karypis: SLIM: Sparse Linear Methods for
Top-N Recommender Systems. ICDM 2011 (section 3.3, the choice of neighbours, "fsSLIM"). Vojtěch Vančura, Pavel Kordík: Deep
Variational Autoencoder with Shallow Parallel Path for Top-N Recommendation (VASP). ICANN 2021 ("Neural EASE").
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from scipy.linalg import lapack
from scipy.sparse import csr_matrix, diags, vstack
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from tqdm import tqdm

from recbole_vae.data.histories import Histories
from recbole_vae.errors import DataError
from recbole_vae.nn.chunks import rows_per_chunk
from recbole_vae.nn.layers import FixedWeight, SparseProduct, bag

_THREADED = 20_000
"""LAPACK factorises matrices of more rows with one thread."""


def one_thread_if_large(rows: int) -> AbstractContextManager[Any]:
    """Return a context in which LAPACK can factorise a matrix of so many rows.

    OpenBLAS's Cholesky factorisation with several threads crashes the process at about 30,000 rows (24,000 work).
    """
    return threadpool_limits(1, user_api="blas") if rows > _THREADED else nullcontext()


@dataclass(frozen=True)
class Ridge:
    """Regularisation of an item-item model, and scaling of its users and items; see :func:`item_item_weights`.

    Attributes:
        l2: > 0.
        dropout: in [0, 1).
        user_power: >= 0.
        item_power: >= 0.
    """

    l2: float
    dropout: float = 0.0
    user_power: float = 0.0
    item_power: float = 0.0


class ItemItem(FixedWeight):
    """Scores that are linear in the history: ``x W``. The diagonal of ``W`` is 0, so that no item predicts itself.

    ``W`` is computed from the training histories; it is neither a parameter nor in ``state_dict``.

    Args:
        histories: the training histories.
        n_items: number of items (without RecBole's padding item).
        ridge, features: see :func:`item_item_weights`.

    Raises:
        DataError: the items are too many for this machine's memory.
    """

    def __init__(self, histories: Histories, n_items: int, ridge: Ridge, features: csr_matrix | None = None) -> None:
        super().__init__()
        weight = item_item_weights(histories, n_items, ridge, features)
        self.fix(weight.to(histories.indices.device))

    def forward(self, histories: Histories) -> Tensor:
        """Score all items for histories; shape [batch, n_items]."""
        values = histories.entry_values().to(self.weight.dtype)
        return bag(histories.columns(), values, histories.indptr.to(histories.indices.dtype), self.weight)


def item_item_weights(histories: Histories, n_items: int, ridge: Ridge, features: csr_matrix | None = None) -> Tensor:
    """Solve ``min_B |Y - Y B|^2 + |L B|^2`` for ``B`` with a diagonal of 0, and undo the scaling of the items.

    ``Y`` is the interaction matrix ``X`` with row ``u`` divided by ``n_u ** user_power`` and column ``i`` by
    ``n_i ** item_power``, where ``n`` is the sum of a row or a column of ``X``. The first keeps users with long histories from
    dominating, the second popular items. ``L^2`` is diagonal: ``l2`` times the mean of the diagonal of ``G = Y^T Y`` (so that
    one value suits data of any size), plus ``dropout / (1 - dropout)`` times that diagonal, which is the effect of dropout on
    the input (Steck 2020). Then ``P = (G + L^2)^-1``, and off the diagonal ``B_ij = -P_ij / P_jj`` (Steck 2019, equation 8).
    With both powers and ``dropout`` 0 this is EASE. With features, ``Y`` has a further row for each of them, which makes it
    the collective model of Olivier Jeunen, Jan Van Balen, Bart Goethals: Closed-Form Models for Collaborative Filtering with
    Side-Information (RecSys 2020, section 3.1).

    Args:
        histories: the training histories ``X``.
        n_items: number of items (without RecBole's padding item).
        ridge: ``l2``, ``dropout``, ``user_power`` and ``item_power``.
        features: of the items, shape [n_items, n_features], in units of the mean norm of a column of ``Y``; None without.

    Returns:
        ``W`` with ``W_ij = n_i ** -item_power B_ij n_j ** item_power``, float32, shape [n_items, n_items], on the CPU. An
        item without interactions has a row and a column of 0.

    Raises:
        DataError: the items are too many for this machine's memory.
    """
    check_memory(
        4 * n_items**2, f"for {n_items} items (a float32 for each pair of them)",
        "Set linear_neighbours: 100, with which each item is predicted from its 100 most similar ones alone, or keep fewer items "
        "(item_inter_num_interval).",
    )  # fmt: skip
    table, penalty, scale, occurs = _scaled(histories, n_items, ridge, features)
    # In place from here on, because the matrix may take most of the memory. It is symmetric, and LAPACK wants columns first.
    gram = np.empty((n_items, n_items), dtype=np.float32, order="F")
    transposed = table.T.tocsr()
    step = rows_per_chunk(n_items)
    for start in range(0, n_items, step):
        gram[:, start : start + step] = (transposed[start : start + step] @ table).toarray().T
    gram[np.diag_indices(n_items)] += np.where(penalty > 0, penalty, 1.0).astype(np.float32)
    with one_thread_if_large(n_items):
        factor, failed = lapack.spotrf(gram, lower=1, overwrite_a=1, clean=0)
        if not failed:
            inverse, failed = lapack.spotri(factor, lower=1, overwrite_c=1)
    if failed:
        raise DataError("the item-item table of the linear path is singular in float32: give it a larger l2.")
    for start in range(0, n_items, step):  # the upper triangle from the lower one
        stop = min(start + step, n_items)
        inverse[start:stop, stop:] = inverse[stop:, start:stop].T
        block = inverse[start:stop, start:stop]
        inverse[start:stop, start:stop] = np.tril(block) + np.tril(block, -1).T
    weight = inverse.T  # it is symmetric; this view has contiguous rows
    weight *= (-scale * occurs / np.diag(inverse)).astype(np.float32)
    weight *= (occurs / scale).astype(np.float32)[:, None]
    weight[np.diag_indices(n_items)] = 0.0
    return torch.from_numpy(weight)


def _scaled(
    histories: Histories, n_items: int, ridge: Ridge, features: csr_matrix | None = None
) -> tuple[csr_matrix, NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Return ``Y``, the diagonal of ``L^2``, ``n_i ** item_power`` and whether an item occurs; see item_item_weights."""
    table = histories.to_scipy(n_items).astype(np.float64)
    of_users, of_items = (np.asarray(table.sum(axis)).ravel() for axis in (1, 0))
    occurs = of_items > 0
    scale = np.where(occurs, of_items, 1.0) ** ridge.item_power
    table = csr_matrix(diags(np.where(of_users > 0, of_users, 1.0) ** -ridge.user_power) @ table @ diags(1 / scale))
    squares = np.asarray(table.multiply(table).sum(0)).ravel()
    if features is not None:
        of_features = diags(np.where(occurs, np.sqrt(squares.sum() / max(1, n_items)), 0.0)) @ features
        table = csr_matrix(vstack([table, of_features.T]))
        squares = np.asarray(table.multiply(table).sum(0)).ravel()
    penalty = ridge.l2 * squares.sum() / max(1, n_items) + ridge.dropout / (1 - ridge.dropout) * squares
    return table, penalty, scale, occurs


class LocalItemItem(FixedWeight):
    """:class:`ItemItem` for catalogues too large or too sparse for it: each item is predicted from a few others.

    Args:
        histories, n_items, ridge: see :class:`ItemItem`.
        neighbours: see :func:`local_item_item_weights`.
        progress: whether a progress bar is shown.

    Raises:
        DataError: see :func:`local_item_item_weights`.
    """

    weight: Any  # a SciPy matrix, on the CPU: torch multiplies two sparse matrices on few platforms only

    def __init__(self, histories: Histories, n_items: int, ridge: Ridge, neighbours: int, *, progress: bool) -> None:
        super().__init__()
        self.weight = local_item_item_weights(histories, n_items, ridge, neighbours, progress=progress)

    def forward(self, histories: Histories) -> Tensor:
        """Score all items for histories; shape [batch, n_items]."""
        table = histories.to_scipy(self.weight.shape[0])
        return torch.from_numpy((table @ self.weight).toarray()).to(histories.indices.device)


def local_item_item_weights(
    histories: Histories, n_items: int, ridge: Ridge, neighbours: int, *, progress: bool = False
) -> csr_matrix:
    """Solve for each column of ``W`` separately, with weights for the nearest neighbours of its item alone.

    The problem is that of :func:`item_item_weights`, whose columns are independent of each other. Here column ``j`` is nonzero
    only for the ``neighbours`` items ``N`` whose columns of ``Y`` have the largest cosine with that of ``j``: ``B_Nj = (G_NN +
    L^2_NN)^-1 G_Nj``. With all items as neighbours the solution is the same, except that pairs of items without a common user
    have no weight. On sparse data few neighbours do better than all, because small weights are noise.

    Args:
        histories: the training histories.
        n_items: number of items (without RecBole's padding item).
        ridge: see :func:`item_item_weights`.
        neighbours: largest number of entries in a column, > 0.
        progress: whether a progress bar is shown.

    Returns:
        ``W``, float32, shape [n_items, n_items], with at most ``neighbours`` entries in a column.

    Raises:
        DataError: the pairs of items with a common user do not fit into memory.
    """
    pairs = min(float(histories.lengths().double().square().sum()), float(n_items) ** 2)
    check_memory(
        8 * pairs, "at most for the pairs of items that users have together",  # a float32 and the number of its column
        "Leave out the longest histories (user_inter_num_interval) or rare items (item_inter_num_interval), or take a model "
        "without this path, such as MultVAE.",
    )  # fmt: skip
    table, penalty, scale, _ = _scaled(histories, n_items, ridge)
    table, penalty = table.astype(np.float32), penalty.astype(np.float32)
    gram = csr_matrix(table.T @ table)
    lengths_of_columns = np.sqrt(gram.diagonal())
    chosen, weights = [], []
    items = tqdm(
        range(n_items), desc="Linear path", unit=" items", ncols=100, leave=False, disable=None if progress else True
    )
    for item in items:
        entries = slice(gram.indptr[item], gram.indptr[item + 1])
        others, products = gram.indices[entries], gram.data[entries]
        others, products = others[others != item], products[others != item]
        if len(others) > neighbours:
            nearest = np.argpartition(-products / lengths_of_columns[others], neighbours)[:neighbours]
            others, products = others[nearest], products[nearest]
        within = gram[others][:, others].toarray()
        within[np.diag_indices(len(others))] += penalty[others]
        chosen.append(others)
        weights.append(np.linalg.solve(within, products))
    bounds = np.cumsum([0, *map(len, chosen)])
    columns = csr_matrix((np.concatenate(weights), np.concatenate(chosen), bounds), shape=(n_items, n_items))
    return csr_matrix((diags(1 / scale) @ columns.T @ diags(scale)), dtype=np.float32)


def check_memory(needed: float, what: str, advice: str, part: str = "the linear path") -> None:
    """Raise a DataError unless so many bytes are free."""
    free = psutil.virtual_memory().available
    if needed > 0.9 * free:
        raise DataError(f"{part} needs {needed / 1e9:.1f} GB {what}, and {free / 1e9:.1f} GB are free. {advice}")


class NeuralEASE(nn.Module):
    """Scores ``x W``, where ``x`` is the history in 0 and 1, and ``W`` is learned and has a diagonal of 0.

    Args:
        n_items: number of items (without RecBole's padding item).

    Raises:
        DataError: the items are too many for this machine's memory.
    """

    item_dims: ClassVar[dict[str, tuple[int, ...]]] = {"weight": (0, 1)}

    def __init__(self, n_items: int) -> None:
        super().__init__()
        check_memory(
            16 * n_items**2,
            f"for {n_items} items (weight, gradient and Adam's two moments, a float32 each for each pair of them)",
            "Keep fewer items (item_inter_num_interval), or take a model without it, such as MultVAE.",
        )
        self.weight = nn.Parameter(torch.zeros(n_items, n_items))

    def forward(self, histories: Histories) -> Tensor:
        """Score all items for histories; shape [batch, n_items]."""
        indices = histories.columns()
        ones = torch.ones_like(indices, dtype=self.weight.dtype)
        offsets = histories.indptr.to(indices.dtype)
        scores: Tensor = _ZeroDiagonalProduct.apply(  # type: ignore[no-untyped-call]
            indices, ones, offsets, self.weight, False
        )
        return scores


class _ZeroDiagonalProduct(SparseProduct):
    """A product whose gradient is 0 on the diagonal of the matrix, which therefore stays at 0."""

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        result = SparseProduct.backward(ctx, *gradients)
        assert result[3] is not None
        result[3].fill_diagonal_(0)
        return result


def standardise(scores: Tensor, histories: Histories) -> Tensor:
    """Standardise each row: mean 0 and standard deviation 1 over the items that are not in the history.

    Args:
        scores: shape [batch, n_items]; changed in place.
        histories: batch of histories.

    Returns:
        ``scores``. If all unseen items of a row have the same score, the row is shifted but not scaled.
    """
    rows, columns = histories.rows(), histories.columns().long()
    count = (scores.shape[1] - histories.lengths()).clamp_min(1).to(scores.dtype).unsqueeze(1)
    seen, zero = scores[rows, columns], scores.new_zeros(())
    mean = scores.index_put_((rows, columns), zero).sum(1, keepdim=True) / count
    scores.sub_(mean).index_put_((rows, columns), zero)
    deviation = torch.linalg.vector_norm(scores, dim=1, keepdim=True) / count.sqrt()
    flat = deviation <= 8 * torch.finfo(scores.dtype).eps * mean.abs()  # all the same, up to rounding
    deviation.masked_fill_(flat, 1.0)
    scores.div_(deviation).index_put_((rows, columns), (seen - mean[rows, 0]) / deviation[rows, 0])
    return scores


def standardised(scores: Tensor, unseen: Tensor) -> Tensor:
    """Return what :func:`standardise` does, by operations on whole tables, as the graph of an export needs them.

    Args:
        scores: shape [batch, n_items].
        unseen: 0 for the items of the history, 1 for the others, in the dtype of ``scores``, shape [batch, n_items].
    """
    count = unseen.sum(1, keepdim=True).clamp_min(1)
    mean = (scores * unseen).sum(1, keepdim=True) / count
    centred = scores - mean
    deviation = ((centred * unseen).square().sum(1, keepdim=True) / count).sqrt()
    flat = deviation <= mean.abs() * (8 * torch.finfo(torch.float32).eps)
    return centred / torch.where(flat, 1.0, deviation)
