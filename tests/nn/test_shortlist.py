"""The shortlist against all products in float32: the same first k, the same numbers, whatever the weights are."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recbole_vae.nn.layers import wide_linear
from recbole_vae.nn.shortlist import Shortlister

K = 5


def layer(seed: int, items: int, width: int, batch: int, spread: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    features, weight = (torch.randn(rows, width, generator=generator) for rows in (batch, items))
    return features, weight * spread, torch.randn(items, generator=generator) * spread


def masked(batch: int, items: int, share: float, seed: int) -> tuple[Tensor, Tensor]:
    rows, columns = (torch.rand(batch, items, generator=torch.Generator().manual_seed(seed)) < share).nonzero().T
    return rows, columns


def check(features: Tensor, weight: Tensor, bias: Tensor, rows: Tensor, columns: Tensor, k: int = K) -> bool:
    """Compare the first k with those of all scores; return whether there was a shortlist."""
    short = Shortlister(weight, bias)(features, rows, columns, k)
    if short is None:
        return False
    full = wide_linear(features, weight, bias)
    full[rows, columns] = -torch.inf
    expected, found = torch.topk(full, k), torch.topk(short.scores, k)
    assert short.n_columns == len(weight)
    assert torch.equal(found.values, expected.values)
    assert torch.equal(short.scores, full[:, short.columns])
    same = short.columns[found.indices] == expected.indices
    tied = (expected.values[:, :, None] == full[:, None, :]).sum(2) > 1  # the order of equal scores is not defined
    assert (same | tied).all()
    return True


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    items=st.integers(1000, 2600).filter(lambda items: items % 1024 > 15),
    width=st.sampled_from([1, 7, 64, 201]),
    batch=st.integers(32, 70),
    spread=st.sampled_from([1e-20, 1e-3, 1.0, 1e12]),
    share=st.sampled_from([0.0, 0.1, 0.6]),
    popular=st.sampled_from([0.0, 3.0]),
)
def test_the_first_k_are_those_of_all_scores(
    seed: int, items: int, width: int, batch: int, spread: float, share: float, popular: float
) -> None:
    features, weight, bias = layer(seed, items, width, batch, spread)
    check(features, weight, bias + popular * spread * (bias / spread) ** 3, *masked(batch, items, share, seed))


def test_there_is_a_shortlist_and_it_is_short() -> None:
    features, weight, bias = layer(0, 6000, 201, 40)
    rows, columns = masked(40, 6000, 0.1, 0)
    assert check(features, weight, bias, rows, columns)
    short = Shortlister(weight, bias)(features, rows, columns, K)
    assert short is not None
    assert short.scores.shape[1] < 1200


@pytest.mark.parametrize("scale", [1.0, 2.0**-78])
def test_items_that_rounding_puts_last_are_found(scale: float) -> None:
    """The best six items have scores of .29 that bfloat16 makes .06; forty others have .27, and it makes them .5.

    The squares of such numbers times the smaller scale are zero in float32.
    """
    features, weight, bias = layer(1, 3000, 64, 40, 1e-3)
    features[:], bias[:] = 1.0, -64.0
    weight[:40] = 1 + 2.0**-8 + 2.0**-12  # rounded up to 1 + 2 ** -7
    weight[100:106] = 1 + 2.0**-8 - 2.0**-12  # rounded down to 1
    weight[100:106, 0] = 1.0625
    rows, columns = masked(40, 3000, 0.0, 0)
    short = Shortlister(weight * scale, bias * scale)(features, rows, columns, K)
    if scale < 1:
        assert short is None
        return
    assert short is not None
    found = short.columns[torch.topk(short.scores, K).indices]
    assert ((found >= 100) & (found < 106)).all()


def test_equal_scores_are_all_on_the_shortlist() -> None:
    features, weight, bias = layer(2, 4000, 64, 40)
    weight[1::2], bias[1::2] = weight[::2], bias[::2]
    assert check(features, weight, bias, *masked(40, 4000, 0.2, 1))


@pytest.mark.parametrize("case", ["zeros", "inf", "nan", "huge", "few rows", "few candidates", "long lists"])
def test_what_no_bound_helps_is_left_to_float32(case: str) -> None:
    features, weight, bias = layer(3, 2000, 64, 40)
    rows, columns = masked(40, 2000, 0.0, 0)
    k = K
    if case == "zeros":
        weight, bias = weight * 0, bias * 0
    elif case in ("inf", "nan"):
        weight[7, 3] = float(case)
    elif case == "huge":
        weight = weight * 1e36
    elif case == "few rows":
        features = features[:31]
    elif case == "few candidates":
        rows, columns = torch.full((1997,), 4), torch.arange(1997)
    else:
        k = 16
    assert Shortlister(weight, bias)(features, rows, columns, k) is None


def test_a_correction_is_that_of_the_scores() -> None:
    features, weight, bias = layer(4, 3000, 64, 40)
    correction = 4 * torch.randn(3000, generator=torch.Generator().manual_seed(9))
    rows, columns = masked(40, 3000, 0.1, 2)
    short = Shortlister(weight, bias, correction)(features, rows, columns, K)
    assert short is not None
    full = wide_linear(features, weight, bias) + correction
    full[rows, columns] = -torch.inf
    assert torch.equal(torch.topk(short.scores, K).values, torch.topk(full, K).values)
