"""The path by the spectrum, against dense linear algebra."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recbole_vae.data.histories import Histories
from recbole_vae.nn import spectral
from recbole_vae.nn.spectral import SpectralFilter, leading_vectors, plateau

USERS, ITEMS = 60, 23


@pytest.fixture
def histories() -> Histories:
    rng = np.random.default_rng(3)
    table = rng.random((USERS, ITEMS)) < rng.random(ITEMS) ** 2
    table[5] = False  # an empty history
    table[:, 4] = False  # an item of nobody
    users, items = map(torch.from_numpy, table.nonzero())
    return Histories.from_interactions(users, items + 1, None, USERS)


@pytest.mark.parametrize(("item_power", "flatness", "ideal"), [(0.0, 1.0, 0.2), (0.4, 1.5, 0.0), (0.7, 2.0, 0.5)])
@pytest.mark.parametrize("rank", [4, 100])
def test_the_filter_equals_dense_algebra(
    histories: Histories, item_power: float, flatness: float, ideal: float, rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spectral, "RANK", rank)
    found = SpectralFilter(histories, ITEMS, item_power, flatness, ideal)(histories).double().numpy()

    x = histories.to_scipy(ITEMS).toarray().astype(float)
    of_items, of_users = np.maximum(x.sum(0), 1), np.maximum(x.sum(1), 1)
    normal = x / np.sqrt(of_users)[:, None] / np.sqrt(of_items)
    _, singular, vectors = np.linalg.svd(normal)
    squares = np.concatenate([singular**2, np.zeros(ITEMS - len(singular))])
    kept = (np.arange(ITEMS) < rank) & (squares > 1e-6)
    distance = 2 * squares - 1
    heights = 0.5 + 0.5 * np.sign(distance) * np.abs(distance) ** flatness
    last = np.flatnonzero(kept)[-1]
    gains = np.where(kept, heights + ideal, heights[last] / squares[last] * squares)
    expected = (x / of_items**item_power) @ (vectors.T * gains) @ vectors * of_items**item_power
    np.testing.assert_allclose(found, expected, atol=2e-3 if rank == 4 else 2e-5)


def test_the_plateau_falls_from_one_to_zero() -> None:
    squares = np.linspace(0, 1, 101)
    for flatness in (0.5, 1.0, 2.0):
        heights = plateau(squares, flatness)
        assert heights[[0, 50, 100]] == pytest.approx([0, 0.5, 1])
        assert (np.diff(heights) >= 0).all()
    np.testing.assert_allclose(plateau(squares, 1.0), squares)


def test_leading_vectors_are_those_of_an_exact_decomposition() -> None:
    from scipy.sparse import csr_matrix

    rng = np.random.default_rng(0)
    taste = np.kron(np.eye(5), np.ones((60, 40))) * np.linspace(0.3, 0.7, 5).repeat(
        40
    )  # five groups of users and items
    table = csr_matrix((rng.random((300, 200)) < taste).astype(np.float32))
    vectors, squares = leading_vectors(table, table.T.tocsr(), 5)
    _, singular, exact = np.linalg.svd(table.toarray())
    np.testing.assert_allclose(squares, singular[:5] ** 2, rtol=1e-3)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(5), atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(exact[:5] @ vectors, axis=1), 1, atol=1e-3)  # the same space
    again, _ = leading_vectors(table, table.T.tocsr(), 5)
    assert np.array_equal(vectors, again)


def test_an_empty_history_and_an_unknown_item_have_scores_of_zero(histories: Histories) -> None:
    scores = SpectralFilter(histories, ITEMS)(histories)
    assert torch.isfinite(scores).all()
    assert not scores[5].any()
    torch.testing.assert_close(scores[:, 4], torch.zeros(USERS))


def test_the_filter_stays_on_the_cpu_where_the_model_moves(histories: Histories) -> None:
    path = SpectralFilter(histories, ITEMS)
    before = path(histories)
    assert torch.equal(path.to("meta")(histories), before)
