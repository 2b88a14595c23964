"""Scores of items without interactions, from the scores of the others and from what is known about all of them.

Reference: Zeno Gantner, Lucas Drumond, Christoph Freudenthaler, Steffen Rendle, Lars Schmidt-Thieme: Learning
Attribute-to-Feature Mappings for Cold-Start Recommendations. ICDM 2010. It maps attributes to the factors of an item by
regression. A score that is linear in an item's factors can be mapped itself, and so can any other score.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse import csr_matrix
from torch import Tensor

from recbole_vae.nn.chunks import rows_per_chunk
from recbole_vae.nn.linear import check_memory, one_thread_if_large

_FEWER = "Leave out items without interactions, or name fewer item_features, or one of fewer values."


@dataclass(frozen=True)
class Strengths:
    """How much the features of items count.

    Attributes:
        l2: ridge of a :class:`ScoreRegression`, > 0.
        fields: factor of each field's part of the inner product of two items' features, >= 0.
        spread: factor of the deviation from the mean of the scores that are made, > 0. A regression makes scores that differ
            less than those of items with interactions, so that they would never be among a user's first.
        reach: factor of the spread for items of the data set, from 0 to 1. What was on offer and nobody took is less popular
            than its features say. What comes later has the whole spread.
    """

    l2: float
    fields: Mapping[str, float]
    spread: float = 1.0
    reach: float = 1.0

    def __str__(self) -> str:
        parts = [f"{name} {factor:g}" for name, factor in self.fields.items()]
        reach = f", reach {self.reach:g}" * (self.reach != 1)
        return f"{', '.join(parts)} (ridge {self.l2:g}, spread {self.spread:.3g}{reach})"


@dataclass(frozen=True, eq=False)
class Made:
    """Makes the scores of some items from those of all others: by a product with one matrix, or with two that are smaller.

    Attributes:
        left: float32, shape [n_items, n_features + 1]; None for one matrix.
        right: float32, shape [n_features + 1, items], or [n_items, items] without the other.
    """

    left: Tensor | None
    right: Tensor

    def __call__(self, scores: Tensor) -> Tensor:
        """Return the scores, shape [batch, items], from those of all items, shape [batch, n_items].

        Scores of items without interactions have no effect.
        """
        if self.left is not None:
            scores = scores @ self.left.to(scores.dtype)
        return scores @ self.right.to(scores.dtype)

    def weights(self, place: int) -> Tensor:
        """Return the weight of each item's score in that of the item at a place, shape [n_items]; they sum to 1."""
        return self.right[:, place] if self.left is None else self.left @ self.right[:, place]

    def to(self, device: Any) -> Made:
        """Return it on a device."""
        return Made(None if self.left is None else self.left.to(device), self.right.to(device))


class ScoreRegression:
    """A ridge regression of an item's score on its features, for each user: ``c F (F^T F + l2)^-1 f + mean``.

    ``c`` are the scores of the *warm* items, those with interactions, less their mean. ``F`` are the features of these, and
    ``f`` those of another item, both less the mean features of the warm items. An item of which nothing is known has the mean
    score. The result changes with the scores as a score does: scaling or shifting all scores of a user scales or shifts it.

    Args:
        features: of all items, float, shape [n_items, n_features].
        warm: which items have interactions, bool, shape [n_items]; at least one.
        l2: ridge, > 0.
        spread: see :class:`Strengths`.

    Raises:
        DataError: the pairs of features, or of items, do not fit into memory.
    """

    def __init__(self, features: csr_matrix, warm: NDArray[np.bool_], l2: float, spread: float = 1.0) -> None:
        self._warm = np.flatnonzero(warm)
        self._n_items = features.shape[0]
        known = features[self._warm].astype(np.float64)
        self._known, self._mean = known, np.asarray(known.mean(0)).ravel()
        count, width = known.shape
        self._spread = spread
        check_memory(24 * min(count, width) ** 2, "for the regression of scores on features", _FEWER, "item_features")
        # The smaller of both systems of equations: F (F^T F + l2)^-1 = (F F^T + l2)^-1 F.
        self._primal = width <= count
        gram = (known.T @ known if self._primal else known @ known.T).toarray()
        if self._primal:
            gram -= count * np.outer(self._mean, self._mean)
        else:
            product = known @ self._mean
            gram += self._mean @ self._mean - product[:, None] - product
        gram[np.diag_indices(len(gram))] += l2
        with one_thread_if_large(len(gram)):
            self._factor = cho_factor(gram, overwrite_a=True)

    def of(self, features: csr_matrix, reach: float = 1.0) -> Made:
        """Return what makes the scores of items of these features.

        Args:
            features: of the items, float, shape [items, n_features].
            reach: factor of the spread.

        Raises:
            DataError: it does not fit into memory.
        """
        count, (n_items, width) = features.shape[0], (self._n_items, features.shape[1] + 1)
        in_two = self._primal and (n_items + count) * width < n_items * count
        entries = (n_items + count) * width if in_two else n_items * count
        check_memory(8 * entries, f"for the scores of {count} items without interactions", _FEWER, "item_features")
        if in_two:
            left = np.zeros((n_items, width), dtype=np.float32)
            left[self._warm, :-1] = self._known.toarray() - self._mean
            left[self._warm, -1] = 1 / len(self._warm)
        found = np.ones((width if in_two else n_items, count), dtype=np.float32)
        step, spread = rows_per_chunk(max(width, n_items)), self._spread * reach
        for start in range(0, count, step):
            part = features[start : start + step]
            if in_two:
                found[:-1, start : start + step] = spread * self._solved(part)
            else:
                found[:, start : start + step] = self._weights(part, spread)
        return Made(torch.from_numpy(left) if in_two else None, torch.from_numpy(found))

    def _centred(self, features: csr_matrix) -> NDArray[np.float64]:
        centred: NDArray[np.float64] = features.toarray().astype(np.float64)
        centred[np.diff(features.indptr) > 0] -= self._mean
        return centred

    def _solved(self, features: csr_matrix) -> NDArray[np.float64]:
        """Return ``(F^T F + l2)^-1 f``, shape [n_features, items]."""
        found: NDArray[np.float64] = cho_solve(self._factor, self._centred(features).T, overwrite_b=True)
        return found

    def _weights(self, features: csr_matrix, spread: float) -> NDArray[np.float64]:
        """Return the weights of all items' scores in the scores that are made, shape [n_items, items]."""
        found: NDArray[np.float64] = np.zeros((self._n_items, features.shape[0]))
        if self._primal:
            solved = self._solved(features)
            weights = self._known @ solved - self._mean @ solved
        else:
            centred = self._centred(features)
            products = self._known @ centred.T - self._mean @ centred.T
            weights = cho_solve(self._factor, products, overwrite_b=True)
            weights -= weights.mean(0)
        found[self._warm] = spread * weights + 1 / len(self._warm)
        return found
