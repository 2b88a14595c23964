"""Linear paths from items to items, in closed form or learned: what a narrow latent space smooths over, chiefly on sparse data.

References: Harald Steck: Embarrassingly Shallow Autoencoders for Sparse Data. WWW 2019 ("EASE"). Harald Steck: Autoencoders
that don't overfit towards the Identity. NeurIPS 2020 ("EDLAE"). Vojtěch Vančura, Pavel Kordík: Deep Variational Autoencoder
with Shallow Parallel Path for Top-N Recommendation (VASP). ICANN 2021 ("Neural EASE").
"""

from __future__ import annotations

from typing import Any

import numpy as np
import psutil
import torch
from scipy.linalg import lapack
from scipy.sparse import csr_matrix, diags
from torch import Tensor, nn

from recbole_vae.data.histories import Histories
from recbole_vae.errors import DataError
from recbole_vae.nn.layers import FixedWeight, SparseProduct, bag

_ENTRIES = 2**24
"""Entries of the Gram matrix that are made at once (128 MiB with their indices)."""


class ItemItem(FixedWeight):
    """Scores that are linear in the history: ``x W``, where the diagonal of ``W`` is 0, so that no item speaks for itself.

    ``W`` is no parameter but follows from the training histories; it is not in ``state_dict``.

    Args:
        histories: the training histories; item ids from 1 up.
        n_items: number of items (without RecBole's padding item).
        l2, dropout, user_power, item_power: see :func:`item_item_weights`.

    Raises:
        DataError: the items are too many for this machine's memory.
    """

    def __init__(
        self, histories: Histories, n_items: int, l2: float, dropout: float, user_power: float, item_power: float
    ) -> None:
        super().__init__()
        weight = item_item_weights(histories, n_items, l2, dropout, user_power, item_power)
        self.fix(weight.to(histories.indices.device))

    def forward(self, histories: Histories) -> Tensor:
        """Score all items for histories; shape [batch, n_items]."""
        values = histories.entry_values().to(self.weight.dtype)
        return bag(histories.indices - 1, values, histories.indptr.to(histories.indices.dtype), self.weight)


def item_item_weights(
    histories: Histories,
    n_items: int,
    l2: float,
    dropout: float = 0.0,
    user_power: float = 0.0,
    item_power: float = 0.0,
) -> Tensor:
    """Solve ``min_B |Y - Y B|^2 + |L B|^2`` for ``B`` with a diagonal of 0, and undo the scaling of the items.

    ``Y`` is the users' table ``X`` with row ``u`` divided by ``n_u ** user_power`` and column ``i`` by ``n_i ** item_power``,
    where ``n`` is the sum of a row or a column of ``X``: without the first, users of long histories decide all, without the
    second popular items do. ``L^2`` is diagonal: ``l2`` times the mean of the diagonal of ``G = Y^T Y`` (so that one value
    suits data of any size), plus ``dropout / (1 - dropout)`` times that diagonal, the effect of dropping so many items of
    the input (Steck 2020). Then ``P = (G + L^2)^-1`` and ``B_ij = -P_ij / P_jj`` off the diagonal (Steck
    2019, equation 8). With both powers and ``dropout`` 0 this is EASE.

    Args:
        histories: the training histories; item ids from 1 up.
        n_items: number of items (without RecBole's padding item).
        l2: ridge, > 0.
        dropout: in [0, 1).
        user_power: >= 0.
        item_power: >= 0.

    Returns:
        ``W`` with ``W_ij = n_i ** -item_power B_ij n_j ** item_power``, float32, shape [n_items, n_items], on the CPU. An
        item that nobody has has a row and a column of 0.

    Raises:
        DataError: the items are too many for this machine's memory.
    """
    _check_memory(n_items, 1, "a float32 for each pair of them")
    values = histories.entry_values().double().cpu().numpy()
    columns, indptr = histories.indices.cpu().numpy().astype(np.int64) - 1, histories.indptr.cpu().numpy()
    table = csr_matrix((values, columns, indptr), shape=(len(histories), n_items))
    of_users, of_items = (np.asarray(table.sum(axis)).ravel() for axis in (1, 0))
    occurs = of_items > 0
    scale = np.where(occurs, of_items, 1.0) ** item_power
    table = diags(np.where(of_users > 0, of_users, 1.0) ** -user_power) @ table @ diags(1 / scale)
    squares = np.asarray(table.multiply(table).sum(0)).ravel()
    ridge = l2 * squares.sum() / max(1, n_items) + dropout / (1 - dropout) * squares
    # In place from here on, for the table may take most of the memory. LAPACK counts columns first; the table is symmetric.
    table = csr_matrix(table)
    gram = np.empty((n_items, n_items), dtype=np.float32, order="F")
    transposed = table.T.tocsr()
    step = max(1, _ENTRIES // max(1, n_items))
    for start in range(0, n_items, step):
        gram[:, start : start + step] = (transposed[start : start + step] @ table).toarray().T
    gram[np.diag_indices(n_items)] += np.where(ridge > 0, ridge, 1.0).astype(np.float32)
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
    weight = inverse.T  # the same, for it is symmetric, but with rows that lie together
    weight *= (-scale * occurs / np.diag(inverse)).astype(np.float32)
    weight *= (occurs / scale).astype(np.float32)[:, None]
    weight[np.diag_indices(n_items)] = 0.0
    return torch.from_numpy(weight)


def _check_memory(n_items: int, tables: int, what: str) -> None:
    """Raise a DataError unless there is memory for so many tables of float32 for each pair of items."""
    needed, free = 4 * tables * n_items**2, psutil.virtual_memory().available
    if needed > 0.9 * free:
        raise DataError(
            f"the linear path needs {needed / 1e9:.1f} GB for {n_items} items ({what}), and {free / 1e9:.1f} GB are free. Keep "
            "fewer items (item_num_interval), or take a model without it, such as MultVAE."
        )


class NeuralEASE(nn.Module):
    """Scores that are linear in which items there are, by weights that are learned and have a diagonal of 0.

    Args:
        n_items: number of items (without RecBole's padding item).

    Raises:
        DataError: the items are too many for this machine's memory.
    """

    def __init__(self, n_items: int) -> None:
        super().__init__()
        _check_memory(n_items, 4, "weight, gradient and Adam's two moments, a float32 each for each pair of them")
        self.weight = nn.Parameter(torch.zeros(n_items, n_items))

    def forward(self, histories: Histories) -> Tensor:
        """Score all items for histories; shape [batch, n_items]."""
        indices = histories.indices - 1
        ones = torch.ones_like(indices, dtype=self.weight.dtype)
        offsets = histories.indptr.to(indices.dtype)
        scores: Tensor = _ZeroDiagonalProduct.apply(  # type: ignore[no-untyped-call]
            indices, ones, offsets, self.weight, False
        )
        return scores


class _ZeroDiagonalProduct(SparseProduct):
    """A product whose gradient leaves the diagonal of the matrix as it is: it begins at 0 and stays there."""

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        result = SparseProduct.backward(ctx, *gradients)
        assert result[3] is not None
        result[3].fill_diagonal_(0)
        return result


def standardise(scores: Tensor, histories: Histories) -> Tensor:
    """Shift and scale each row to mean 0 and standard deviation 1 over the items that are not in the history.

    Args:
        scores: shape [batch, n_items]; changed in place.
        histories: batch of histories; item ids from 1 up.

    Returns:
        ``scores``; a row whose unseen items all have the same score is 0 there.
    """
    rows, columns = histories.rows(), histories.indices.long() - 1
    unseen = torch.ones_like(scores).index_put_((rows, columns), scores.new_zeros(()))
    count = unseen.sum(1, keepdim=True).clamp_min(1)
    scores -= (scores * unseen).sum(1, keepdim=True) / count
    deviation = ((scores * unseen).square().sum(1, keepdim=True) / count).sqrt()
    scores /= deviation.clamp_min(torch.finfo(scores.dtype).tiny)
    return scores
