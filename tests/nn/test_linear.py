"""The linear path against NumPy in double precision, its limits, and the standardising of scores."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from scipy.sparse import csr_matrix

from recbole_vae.data.histories import Histories
from recbole_vae.errors import DataError
from recbole_vae.nn.linear import (
    ItemItem,
    LocalItemItem,
    Ridge,
    item_item_weights,
    local_item_item_weights,
    standardise,
)


@pytest.fixture
def table() -> np.ndarray:
    return (np.random.default_rng(0).random((60, 12)) < np.linspace(0.1, 0.6, 12)).astype(float)


def histories_of(table: np.ndarray, weighted: bool = False) -> Histories:
    users, items = table.nonzero()
    values = torch.tensor(table[users, items], dtype=torch.float32) if weighted else None
    return Histories.from_interactions(torch.tensor(users), torch.tensor(items + 1), values, len(table))


def ease(table: np.ndarray, ridge: np.ndarray | float) -> np.ndarray:
    inverse = np.linalg.inv(table.T @ table + np.diag(np.broadcast_to(ridge, len(table.T))))
    weights: np.ndarray = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    return weights


def test_without_scaling_it_is_ease(table: np.ndarray) -> None:
    found = item_item_weights(histories_of(table), 12, Ridge(2.0)).numpy()
    np.testing.assert_allclose(found, ease(table, 2 * table.sum(0).mean()), atol=1e-6)
    assert (np.diag(found) == 0).all()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("entries", [2**24, 24])
def test_all_options_equal_numpy(
    table: np.ndarray, weighted: bool, entries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recbole_vae.nn.chunks.SCORES_PER_CHUNK", entries)  # the whole at once, two items at a time
    if weighted:
        table = table * np.random.default_rng(1).uniform(0.5, 3, table.shape)
    of_items = table.sum(0)
    scaled = table / np.maximum(table.sum(1, keepdims=True), 1e-9) ** 0.4 / of_items**0.3
    diagonal = (scaled**2).sum(0)
    expected = ease(scaled, 1.5 * diagonal.mean() + 0.25 / 0.75 * diagonal)
    expected *= of_items[None] ** 0.3 / of_items[:, None] ** 0.3
    found = item_item_weights(histories_of(table, weighted), 12, Ridge(1.5, 0.25, 0.4, 0.3))
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-6)


def test_features_are_further_users(table: np.ndarray) -> None:
    features = np.random.default_rng(2).random((12, 3))
    scale = np.sqrt((table**2).sum(0).mean())
    stacked = np.vstack([table, scale * features.T])
    diagonal = (stacked**2).sum(0)
    expected = ease(stacked, 1.5 * diagonal.mean() + 0.25 / 0.75 * diagonal)
    found = item_item_weights(histories_of(table), 12, Ridge(1.5, 0.25), csr_matrix(features))
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-6)


def test_it_minimises_what_it_says(table: np.ndarray) -> None:
    weights = item_item_weights(histories_of(table), 12, Ridge(1.0)).double().numpy()
    ridge = table.sum(0).mean()

    def loss(b: np.ndarray) -> float:
        return float(((table - table @ b) ** 2).sum() + ridge * (b**2).sum())

    rng = np.random.default_rng(0)
    for _ in range(20):
        change = rng.normal(size=weights.shape) * 1e-2
        np.fill_diagonal(change, 0)
        assert loss(weights + change) > loss(weights)


def test_an_item_that_nobody_has_stays_out(table: np.ndarray) -> None:
    table[:, 3] = 0
    found = item_item_weights(histories_of(table), 12, Ridge(2.0, 0.5, 0.25, 0.5))
    assert found.isfinite().all()
    assert not found[3].any()
    assert not found[:, 3].any()


def test_scores_are_the_product_with_the_histories(table: np.ndarray) -> None:
    histories = histories_of(table)
    path = ItemItem(histories, 12, Ridge(2.0, 0.5, 0.25, 0.15))
    np.testing.assert_allclose(path(histories).numpy(), table @ path.weight.numpy(), atol=1e-5)
    assert path(Histories.from_lists([[]])).tolist() == [[0.0] * 12]
    assert path.state_dict() == {}
    assert path.weight.is_contiguous()  # sums of rows read each once
    assert copy.deepcopy(path).weight is path.weight


def test_too_many_items_are_refused_before_anything_is_made(table: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=500))
    with pytest.raises(DataError, match="needs 0.0 GB for 12 items"):
        item_item_weights(histories_of(table), 12, Ridge(2.0))


def test_with_all_neighbours_the_local_path_is_the_whole() -> None:
    table = (np.random.default_rng(0).random((60, 12)) < 0.5).astype(float)
    ridge = Ridge(2.0, 0.3, 0.25, 0.4)
    found = local_item_item_weights(histories_of(table), 12, ridge, 11)
    np.testing.assert_allclose(found.toarray(), item_item_weights(histories_of(table), 12, ridge).numpy(), atol=2e-6)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_local_path_equals_numpy(table: np.ndarray, weighted: bool) -> None:
    table[:, 3] = 0  # nobody has it
    table[:, 7] = 0
    table[0] = np.eye(12)[7]  # nobody has it with another
    if weighted:
        table = table * np.random.default_rng(1).uniform(0.5, 3, table.shape)
    found = local_item_item_weights(histories_of(table, weighted), 12, Ridge(1.5, 0.25, 0.4, 0.3), 4)
    of_items = np.where(table.any(0), table.sum(0), 1.0)
    scaled = table / np.maximum(table.sum(1, keepdims=True), 1e-9) ** 0.4 / of_items**0.3
    gram = scaled.T @ scaled
    ridge = 1.5 * gram.diagonal().mean() + 0.25 / 0.75 * gram.diagonal()
    expected = np.zeros((12, 12))
    for item in range(12):
        cosine = gram[item] / np.sqrt(np.maximum(gram.diagonal(), 1e-9))
        cosine[item] = 0
        near = [other for other in np.argsort(-cosine)[:4] if cosine[other] > 0]
        within = gram[np.ix_(near, near)] + np.diag(ridge[near])
        expected[near, item] = np.linalg.solve(within, gram[near, item])
    expected *= of_items[None] ** 0.3 / of_items[:, None] ** 0.3
    np.testing.assert_allclose(found.toarray(), expected, atol=2e-6)
    assert (np.diff(found.tocsc().indptr) == [4, 4, 4, 0, 4, 4, 4, 0, 4, 4, 4, 4]).all()


def test_scores_of_the_local_path(table: np.ndarray) -> None:
    histories = histories_of(table, weighted=True)
    path = LocalItemItem(histories, 12, Ridge(2.0, 0.5, 0.25, 0.15), 5, progress=False)
    np.testing.assert_allclose(path(histories).numpy(), table @ path.weight.toarray(), atol=1e-5)
    assert path(Histories.from_lists([[]])).tolist() == [[0.0] * 12]
    assert path.state_dict() == {}
    assert copy.deepcopy(path).weight is path.weight


def test_too_many_pairs_are_refused(table: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=500))
    with pytest.raises(DataError, match="needs 0.0 GB at most for the pairs .*user_inter_num_interval"):
        local_item_item_weights(histories_of(table), 12, Ridge(2.0), 4)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=10_000))
    assert local_item_item_weights(histories_of(table), 12, Ridge(2.0), 4).nnz == 48


def test_unseen_items_have_mean_0_and_deviation_1() -> None:
    histories = Histories.from_lists([[1, 4], [], [1, 2, 3, 5, 6], [2]])
    scores = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)) * 9 - 4
    scores[3] = 5.0
    order = scores.argsort(1)
    found = standardise(scores.clone(), histories)
    assert torch.equal(found[:2].argsort(1), order[:2])
    first = found[0, [1, 2, 4, 5]]
    for row in (first, found[1]):
        assert row.mean().item() == pytest.approx(0, abs=1e-6)
        assert row.std(correction=0).item() == pytest.approx(1, abs=1e-6)
    assert found[2, 3].item() == 0  # the only unseen one
    assert found[3].tolist() == [0.0] * 6


def test_where_unseen_items_are_equal_the_seen_stay_finite() -> None:
    histories = Histories.from_lists([[1, 2], [3]])
    scores = torch.full((2, 6), 0.1)  # whose mean is rounded
    scores[0, 0], scores[1, 2] = 3.0, -2.0
    found = standardise(scores, histories)
    np.testing.assert_allclose(found.numpy(), [[2.9, *[0] * 5], [0, 0, -2.1, 0, 0, 0]], atol=1e-6)
