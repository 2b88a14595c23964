"""Scores of items without interactions, against NumPy's least squares."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from recbole_vae.nn.cold import ScoreRegression

RNG = np.random.default_rng(3)


def sparse(rows: int, columns: int) -> csr_matrix:
    table = RNG.random((rows, columns)) * (RNG.random((rows, columns)) < 0.5)
    table[:, 0] = 1.0  # no row without features
    return csr_matrix(table.astype(np.float32))


def by_numpy(scores: np.ndarray, known: np.ndarray, of: np.ndarray, l2: float) -> np.ndarray:
    """A ridge regression with an intercept that is not penalised, by an augmented least-squares problem."""
    count, width = known.shape
    design = np.block([[known, np.ones((count, 1))], [np.sqrt(l2) * np.eye(width), np.zeros((width, 1))]])
    found = []
    for row in scores:
        weights = np.linalg.lstsq(design, np.concatenate([row, np.zeros(width)]), rcond=None)[0]
        found.append(of @ weights[:-1] + weights[-1])
    return np.array(found)


@pytest.mark.parametrize("width", [4, 30], ids=["fewer features than items", "more features than items"])
def test_it_is_a_ridge_regression_with_an_intercept(width: int) -> None:
    features = sparse(20, width)
    warm = np.arange(20) % 4 > 0
    scores = RNG.normal(size=(5, 20))
    regression = ScoreRegression(features, warm, 0.7)
    found = regression.of(features[~warm])(torch.tensor(scores)).numpy()
    dense = features.toarray().astype(float)
    np.testing.assert_allclose(found, by_numpy(scores[:, warm], dense[warm], dense[~warm], 0.7), rtol=2e-4, atol=2e-4)


def test_an_item_of_which_nothing_is_known_has_the_mean_score() -> None:
    features, warm = sparse(10, 4), np.arange(10) < 7
    regression = ScoreRegression(features, warm, 0.3)
    scores = torch.tensor(RNG.normal(size=(3, 10)))
    found = regression.of(csr_matrix((1, 4), dtype=np.float32))(scores)
    torch.testing.assert_close(found[:, 0], scores[:, :7].mean(1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("width", "items"), [(4, 5), (30, 10), (4, 200)], ids=["primal", "dual", "two matrices"])
def test_the_weights_sum_to_1_and_are_of_warm_items(width: int, items: int) -> None:
    features, warm = sparse(40, width), np.arange(40) < 30
    more = sparse(items, width)
    made = ScoreRegression(features, warm, 0.3, 1.7).of(more)
    assert (made.left is not None) == (items == 200)
    scores = torch.tensor(RNG.normal(size=(3, 40)))
    found = made(scores)
    for place in (0, items - 1):
        weights = made.weights(place)
        assert float(weights.sum()) == pytest.approx(1, abs=1e-5)
        assert (weights[30:] == 0).all()
        torch.testing.assert_close(scores @ weights.double(), found[:, place], rtol=1e-4, atol=1e-5)


def test_two_matrices_make_what_one_does() -> None:
    features, warm, more = sparse(40, 4), np.arange(40) < 30, sparse(200, 4)
    regression = ScoreRegression(features, warm, 0.3, 1.7)
    scores = torch.tensor(RNG.normal(size=(3, 40)))
    one_by_one = torch.cat([regression.of(more[place])(scores) for place in range(200)], 1)
    assert regression.of(more[0]).left is None
    torch.testing.assert_close(regression.of(more)(scores), one_by_one, rtol=1e-4, atol=1e-5)
