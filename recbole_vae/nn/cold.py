"""Scores of items without interactions, from the scores of the others and from what is known about all of them.

Reference: Zeno Gantner, Lucas Drumond, Christoph Freudenthaler, Steffen Rendle, Lars Schmidt-Thieme: Learning
Attribute-to-Feature Mappings for Cold-Start Recommendations. ICDM 2010. It maps attributes to the factors of an item by
regression. A score that is linear in an item's factors can be mapped itself, and so can any other score.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse import csr_matrix
from torch import Tensor

from recbole_vae.nn.linear import one_thread_if_large


@dataclass(frozen=True)
class Strengths:
    """How much the features of items count.

    Attributes:
        l2: ridge of a :class:`ScoreRegression`, > 0.
        fields: factor of each field's part of the inner product of two items' features, >= 0.
    """

    l2: float
    fields: Mapping[str, float]

    def __str__(self) -> str:
        parts = [f"{name} {factor:g}" for name, factor in self.fields.items()]
        return f"{', '.join(parts)} (ridge {self.l2:g})"


class ScoreRegression:
    """A ridge regression of an item's score on its features, for each user: ``c F (F^T F + l2)^-1 f + mean``.

    ``c`` are the scores of the *warm* items, those with interactions, less their mean. ``F`` are the features of these, and
    ``f`` those of another item, both less the mean features of the warm items. An item of which nothing is known has the mean
    score. The result changes with the scores as a score does: scaling or shifting all scores of a user scales or shifts it.

    Args:
        features: of all items, float, shape [n_items, n_features].
        warm: which items have interactions, bool, shape [n_items]; at least one.
        l2: ridge, > 0.
    """

    def __init__(self, features: csr_matrix, warm: NDArray[np.bool_], l2: float) -> None:
        self._warm = np.flatnonzero(warm)
        self._n_items = features.shape[0]
        known = features[self._warm].astype(np.float64)
        self._known, self._mean = known, np.asarray(known.mean(0)).ravel()
        count, width = known.shape
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

    def of(self, features: csr_matrix) -> Tensor:
        """Return the weights of all items' scores in the scores of items of these features.

        Returns:
            Float32, shape [n_items, items]. Each column sums to 1, and is 0 for items without interactions.
        """
        found = np.zeros((self._n_items, features.shape[0]), dtype=np.float32)
        centred = features.toarray().astype(np.float64)
        centred[np.diff(features.indptr) > 0] -= self._mean
        if self._primal:
            centred = cho_solve(self._factor, centred.T, overwrite_b=True)
            weights = self._known @ centred - self._mean @ centred
        else:
            products = self._known @ centred.T - self._mean @ centred.T
            weights = cho_solve(self._factor, products, overwrite_b=True)
            weights -= weights.mean(0)
        found[self._warm] = weights + 1 / len(self._warm)
        return torch.from_numpy(found)
