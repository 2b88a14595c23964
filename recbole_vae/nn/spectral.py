"""A low-pass filter of the interaction matrix's spectrum, for catalogues of any size: it needs no table of items by items.

References: Yifei Shen et al.: How Powerful is Graph Convolution for Recommendation? CIKM 2021 ("GF-CF"). Chanwoo Kim et al.:
Graph Spectral Filtering with Chebyshev Interpolation for Recommendation. SIGIR 2025 ("ChebyCF"). Nathan Halko, Per-Gunnar
Martinsson, Joel Tropp: Finding Structure with Randomness. SIAM Review 2011 (algorithm 4.4).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import qr
from scipy.sparse import csr_matrix, diags
from torch import Tensor

from recbole_vae.data.histories import Histories
from recbole_vae.nn.layers import FixedWeight

RANK = 256
"""Singular vectors that are kept, if the matrix has as many."""
_OVERSAMPLING, _ITERATIONS = 16, 3
_DENSE = 0.05
"""Share of nonzero entries from which a product of a sparse matrix with a dense one is faster than with a sparse one."""


class SpectralFilter(FixedWeight):
    """Scores by the filtered similarity of items: ``(x D^-b) (c R'R + V diag(g - c s^2) V') D^b``.

    ``R`` is the interaction matrix, normalised on both sides: an entry of user ``u`` and item ``i`` is divided by
    ``sqrt(n_u n_i)``, where ``n`` is the sum of a row or a column. ``V`` are its leading right singular vectors, ``s`` their
    singular values, and ``D = diag(n_i)``. The filter is ``h(q) + ideal`` at ``q = s^2`` of the vectors that are kept, where
    ``h(q) = (1 + sign(2 q - 1) |2 q - 1| ** flatness) / 2`` is the plateau function of ChebyCF, whose Laplacian has the
    eigenvalue ``1 - 2 q``. In place of a polynomial, ``h`` is exact for these vectors. For all others it is the line ``c q``
    through the origin and the smallest ``q`` kept.

    Args:
        histories: the training histories.
        n_items: number of items (without RecBole's padding item).
        item_power: ``b``; above 0, rare items count more in the history, and less as candidates.
        flatness: > 0.
        ideal: >= 0.
    """

    weight: Any  # a NumPy array: all is computed by SciPy, on the CPU, wherever the model is
    shared = ("weight", "_table", "_transposed", "_squares", "_of_items")
    _table: csr_matrix
    """``R``, shape [users, n_items]."""

    def __init__(
        self, histories: Histories, n_items: int, item_power: float = 0.4, flatness: float = 1.5, ideal: float = 0.2
    ) -> None:
        super().__init__()
        table = histories.to_scipy(n_items).astype(np.float32)
        of_users, of_items = (np.asarray(table.sum(axis)).ravel() for axis in (1, 0))
        self._of_items = np.where(of_items > 0, of_items, 1.0)
        users = np.where(of_users > 0, of_users, 1.0)
        self._table = csr_matrix(diags(users**-0.5) @ table @ diags(self._of_items**-0.5), dtype=np.float32)
        self._transposed = self._table.T.tocsr()
        self.weight, self._squares = leading_vectors(self._table, self._transposed, RANK)
        self.item_power, self.flatness, self.ideal = item_power, flatness, ideal

    def _filter(self) -> tuple[float, NDArray[np.float32]]:
        """Return ``c`` and ``g - c s^2``."""
        heights = plateau(self._squares, self.flatness)
        line = float(heights[-1] / self._squares[-1]) if len(heights) else 0.0
        return line, (heights + self.ideal - line * self._squares).astype(np.float32)

    def forward(self, histories: Histories) -> Tensor:
        """Score all items for histories; shape [batch, n_items]."""
        line, gains = self._filter()
        scale = (self._of_items**self.item_power).astype(np.float32)
        rows = csr_matrix(histories.to_scipy(len(scale)).astype(np.float32) @ diags(1 / scale), dtype=np.float32)
        through = line * (rows @ self._transposed)  # users who have items of the history, shape [batch, users]
        if through.nnz > _DENSE * through.shape[0] * through.shape[1]:
            scores = np.ascontiguousarray((self._transposed @ through.toarray().T).T)
        else:
            scores = (through @ self._table).toarray()
        scores += ((rows @ self.weight) * gains) @ self.weight.T
        scores *= scale
        return torch.from_numpy(scores).to(histories.indices.device)


def plateau(squares: NDArray[Any], flatness: float) -> NDArray[Any]:
    """Return ``h`` of ChebyCF at squares of singular values, in [0, 1]; see :class:`SpectralFilter`."""
    of_laplacian = 1 - 2 * squares
    result: NDArray[Any] = (1 - np.sign(of_laplacian) * np.abs(of_laplacian) ** flatness) / 2
    return result


def leading_vectors(
    table: csr_matrix, transposed: csr_matrix, rank: int
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return the leading right singular vectors of a sparse matrix, and the squares of their singular values, descending.

    By subspace iteration from random vectors of a fixed seed: the largest come out to several digits, the smallest of them
    roughly, which changes a filter of all of them little.

    Args:
        table: shape [rows, columns].
        transposed: ``table.T``, for faster products.
        rank: how many at most.

    Returns:
        Vectors, float32, shape [columns, kept], and squares, float64, shape [kept]; those of squares below 1e-6 are left out.
    """
    width = min(rank + _OVERSAMPLING, *table.shape)
    basis = np.random.default_rng(0).standard_normal((table.shape[1], width)).astype(np.float32)
    for _ in range(_ITERATIONS):
        basis, _ = qr(transposed @ (table @ basis), mode="economic", overwrite_a=True, check_finite=False)
    image = table @ basis
    squares, turned = np.linalg.eigh((image.T @ image).astype(np.float64))
    order = np.argsort(-squares)[:rank]
    order = order[squares[order] > 1e-6]
    return np.ascontiguousarray(basis @ turned[:, order].astype(np.float32)), squares[order]
