"""The path through similar users against NumPy, the kernel against a wide network, and its limits."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from scipy.linalg import lapack
from threadpoolctl import threadpool_info, threadpool_limits

from recbole_vae.data.histories import Histories
from recbole_vae.errors import DataError
from recbole_vae.nn import kernel as kernel_module
from recbole_vae.nn import linear as linear_module
from recbole_vae.nn.encoder import normalise
from recbole_vae.nn.kernel import UserKernel, tangent_kernel
from recbole_vae.nn.linear import Ridge, item_item_weights


def test_the_kernel_is_that_of_a_wide_network() -> None:
    torch.manual_seed(0)
    x, y = torch.nn.functional.normalize(torch.randn(2, 5, dtype=torch.float64), dim=1)
    width = 400_000
    first, last = torch.randn(width, 5, dtype=torch.float64), torch.randn(width, dtype=torch.float64)
    # f(x) = sqrt(2 / width) last . relu(first x); the product of its gradients at x and y.
    on_x, on_y = first @ x, first @ y
    of_last = (on_x.relu() * on_y.relu()).mean() * 2
    of_first = (last.square() * (on_x > 0) * (on_y > 0)).mean() * 2 * (x @ y)
    assert tangent_kernel(x @ y).item() == pytest.approx((of_last + of_first).item(), abs=0.02)


def test_limits_of_the_kernel() -> None:
    found = tangent_kernel(torch.tensor([0.0, 1.0, 1.0 + 1e-7, -1.0]))
    assert found.tolist() == pytest.approx([1 / math.pi, 2, 2, 0], abs=1e-3)


def some_histories() -> Histories:
    rng = np.random.default_rng(0)
    return Histories.from_lists([[], *((rng.permutation(9)[: 3 + user % 4] + 1).tolist() for user in range(20))])


@pytest.mark.parametrize("pairs", [1, 2**22])
@pytest.mark.parametrize("power", [0.0, 0.5])
@pytest.mark.parametrize("weighted", [True, False])
def test_scores_equal_numpy(pairs: int, power: float, weighted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recbole_vae.nn.chunks.SCORES_PER_CHUNK", pairs)
    histories = some_histories()
    if weighted:
        values = torch.arange(1.0, 1.0 + len(histories.indices))
        histories = Histories(histories.indptr, histories.indices, values)
    path = UserKernel(histories, 9, l2=3.0, user_power=power)
    table = np.zeros((20, 9))
    table[histories.rows().numpy() - 1, histories.indices.numpy() - 1] = histories.entry_values().numpy()
    new = np.zeros((2, 9))
    new[0, [1, 5]] = new[1, 7] = 1

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        c = (a / np.linalg.norm(a, axis=1, keepdims=True)) @ (b / np.linalg.norm(b, axis=1, keepdims=True)).T
        angle = np.arccos(c.clip(-1, 1))
        result: np.ndarray = (np.sin(angle) + (np.pi - angle) * c + (np.pi - angle) * c) / np.pi
        return result

    inverse = np.linalg.inv(kernel(table, table) + 3 * np.eye(20))
    expected = kernel(new, table) @ inverse @ (table / table.sum(1, keepdims=True) ** power)
    np.testing.assert_allclose(path(Histories.from_lists([[2, 6], [8]])).numpy(), expected, rtol=1e-5, atol=1e-5)
    assert path.state_dict() == {}
    copied = copy.deepcopy(path)
    assert copied.weight is path.weight
    assert copied._training is path._training


def test_only_the_histories_of_a_batch_are_normalised(monkeypatch: pytest.MonkeyPatch) -> None:
    path, rows = UserKernel(some_histories(), 9, l2=3.0), []

    def counted(given: Histories, dtype: torch.dtype) -> torch.Tensor:
        rows.append(len(given))
        return normalise(given, dtype)

    monkeypatch.setattr(kernel_module, "normalise", counted)
    for batch in ([[2, 6], [8]], [[], [1], [2]]):
        path(Histories.from_lists(batch))
    assert rows == [2, 3]


@pytest.mark.parametrize("path", ["kernel", "linear"])
def test_large_tables_are_factorised_by_one_thread(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenBLAS ends the process otherwise, from some 30,000 rows on."""
    threads = []

    def kept(name: str) -> Any:
        original = getattr(lapack, name)

        def call(*args: Any, **more: Any) -> Any:
            threads.append(max(each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"))
            return original(*args, **more)

        return call

    for name in ("sposv", "spotrf", "spotri"):
        monkeypatch.setattr(lapack, name, kept(name))
    histories = some_histories()
    with threadpool_limits(2, user_api="blas"):
        for limit in (100, 5):
            monkeypatch.setattr(linear_module, "_THREADED", limit)
            if path == "kernel":
                UserKernel(histories, 9, l2=1.0)
            else:
                item_item_weights(histories, 9, Ridge(1.0))
    half = len(threads) // 2
    assert half
    assert threads == [2] * half + [1] * half


def test_too_many_users_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=500))
    with pytest.raises(DataError, match="for 20 users and 9 items.*kernel_share: 0"):
        UserKernel(some_histories(), 9, l2=1.0)
