"""Kernel regression over users, in closed form: an autoencoder with one infinitely wide hidden layer.

References: Arthur Jacot, Franck Gabriel, Clément Hongler: Neural Tangent Kernel. NeurIPS 2018. Noveen Sachdeva, Mehak Preet
Dhaliwal, Carole-Jean Wu, Julian McAuley: Infinite Recommendation Networks: A Data-Centric Approach. NeurIPS 2022.
"""

from __future__ import annotations

import math

import numpy as np
import psutil
import torch
from scipy.linalg import lapack
from scipy.sparse import csr_matrix
from torch import Tensor

from recbole_vae.data.histories import Histories
from recbole_vae.errors import DataError
from recbole_vae.nn.chunks import rows_per_chunk
from recbole_vae.nn.encoder import normalise
from recbole_vae.nn.layers import FixedWeight
from recbole_vae.nn.linear import one_thread_if_large

_BYTES_OF_A_PAIR = 48
"""Memory of each pair of users in a block while its kernel is computed: sparse product, dense copy, and temporary results."""


def tangent_kernel(cosine: Tensor) -> Tensor:
    """Neural tangent kernel, at inputs of length 1, of a network with one hidden layer of rectified linear units.

    ``k(c) = k1 + c k0`` (Jacot et al. 2018, theorem 1), where ``c`` is the cosine of the inputs, and the arc-cosine kernels of
    degree 0 and 1 are ``k0 = 1 - arccos(c) / pi`` and ``k1 = (sqrt(1 - c^2) + c (pi - arccos(c))) / pi``. ``k(0) = 1 / pi`` and
    ``k(1) = 2``.

    Args:
        cosine: any shape; clipped to [-1, 1], which rounding may exceed.
    """
    cosine = cosine.clamp(-1, 1)
    angle = cosine.arccos()
    return ((1 - cosine.square()).sqrt() + cosine * (2 * (math.pi - angle))) / math.pi


def _unit_rows(histories: Histories, n_items: int) -> csr_matrix:
    """Return histories, each of unit length, shape [rows, n_items]."""
    values = normalise(histories, torch.float32)
    return Histories(histories.indptr, histories.indices, values).to_scipy(n_items)


class UserKernel(FixedWeight):
    """Kernel ridge regression from histories to histories: ``k(x, X) (K + l2 I)^-1 Y``, where ``K = k(X, X)``.

    ``Y`` is ``X`` with row ``u`` divided by ``n_u ** user_power``, where ``n_u`` is the row's sum. All of it follows from the
    training histories ``X``, so nothing is in ``state_dict``.

    Args:
        histories: the training histories ``X``.
        n_items: number of items (without RecBole's padding item).
        l2: ridge, > 0. The diagonal of ``K``, to which it is added, is 2.
        user_power: >= 0; above 0, users with long histories have less weight.

    Raises:
        DataError: the kernel of the users does not fit into memory, or is singular in float32.
    """

    shared = ("weight", "_training")
    _training: csr_matrix
    """The training histories, each of unit length, as columns; shape [n_items, users]."""

    def __init__(self, histories: Histories, n_items: int, l2: float, user_power: float = 0.0) -> None:
        super().__init__()
        self.n_items = n_items
        users = (histories.lengths() > 0).nonzero().squeeze(1)
        histories = histories[users]
        step = rows_per_chunk(len(users))
        blocks = _BYTES_OF_A_PAIR * min(step, len(users)) * len(users)
        needed, free = 4 * len(users) * (len(users) + n_items) + blocks, psutil.virtual_memory().available
        if needed > 0.9 * free:
            raise DataError(
                f"kernel_share: the kernel path needs {needed / 1e9:.1f} GB for {len(users)} users and {n_items} items, and "
                f"{free / 1e9:.1f} GB are free. Set kernel_share: 0."
            )
        self._training = _unit_rows(histories, n_items).T.tocsr()
        kernel = np.empty((len(users), len(users)), dtype=np.float32, order="F")
        for start in range(0, len(users), step):
            block = histories.slice(start, min(start + step, len(users)))
            kernel[:, start : start + step] = tangent_kernel(self._cosine(block)).cpu().numpy().T
        kernel[np.diag_indices(len(users))] += l2
        table = np.zeros((len(users), n_items), dtype=np.float32, order="F")
        rows, columns = histories.rows().cpu().numpy(), histories.columns().cpu().numpy()
        scale = histories.totals(torch.float64).pow(-user_power)[histories.rows()]
        table[rows, columns] = (histories.entry_values() * scale).cpu().numpy()
        with one_thread_if_large(len(users)):
            _, solved, failed = lapack.sposv(kernel, table, lower=1, overwrite_a=1, overwrite_b=1)
        if failed:
            raise DataError("the kernel path is singular in float32: give it a larger kernel_l2.")
        self.fix(torch.from_numpy(solved).to(users.device))

    def _cosine(self, histories: Histories) -> Tensor:
        """Return the cosine of each history with each training history, shape [batch, users]; an empty one has 0."""
        cosines = _unit_rows(histories, self.n_items) @ self._training
        return torch.from_numpy(cosines.toarray()).to(histories.indices.device)

    def forward(self, histories: Histories) -> Tensor:
        """Score all items for histories, shape [batch, n_items]."""
        return tangent_kernel(self._cosine(histories)).to(self.weight.dtype) @ self.weight
