"""Sampled softmax and the optimiser that leaves other rows alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recbole_vae.data.histories import Histories
from recbole_vae.nn.decoder import MLPDecoder
from recbole_vae.nn.layers import SparseLinear
from recbole_vae.nn.likelihood import multinomial_log_likelihood
from recbole_vae.nn.sampling import Negatives, NegativeSampler, sampled_multinomial_log_likelihood
from recbole_vae.training.optimizer import LazyAdam
from tests.nn.test_parts import LISTS, N_ITEMS, dense, output_layer, weighted

both_kinds = pytest.mark.parametrize("histories", [Histories.from_lists(LISTS), weighted()], ids=["binary", "weighted"])

ALL = Negatives(torch.arange(N_ITEMS), torch.zeros(N_ITEMS, dtype=torch.float64))
SOME = Negatives(torch.tensor([0, 2, 5]), torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64))


def plain(
    features: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, histories: Histories, negatives: Negatives
) -> torch.Tensor:
    """The definition, by dense tables and torch's own gradients."""
    counts = torch.from_numpy(dense(histories))
    logits = features @ weight.t() + bias
    stands_for = torch.zeros(N_ITEMS, dtype=torch.float64)
    stands_for[negatives.items] = negatives.log_weights.exp()
    terms = logits.exp() * torch.where(counts > 0, 1.0, stands_for)
    return (counts * logits).sum(1) - counts.sum(1) * terms.sum(1).log()


@both_kinds
@pytest.mark.parametrize(
    "negatives", [ALL, SOME, Negatives(SOME.items[:1], SOME.log_weights[:1])], ids=["all", "some", "one"]
)
def test_sampled_likelihood_equals_its_definition(histories: Histories, negatives: Negatives) -> None:
    layer = output_layer(torch.float64)
    rows = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    expected = plain(*layer, histories, negatives)
    result = sampled_multinomial_log_likelihood(*layer, histories, negatives)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-9)
    assert result[1] == 0
    for ours, theirs in zip(
        torch.autograd.grad((rows * result).sum(), layer),
        torch.autograd.grad((rows * expected).sum(), layer),
        strict=True,
    ):
        torch.testing.assert_close(ours.to_dense(), theirs, rtol=0, atol=1e-9)


@both_kinds
def test_with_all_items_it_is_the_exact_likelihood(histories: Histories) -> None:
    features, weight, bias = layer = output_layer(torch.float64)
    exact = multinomial_log_likelihood(features @ weight.t() + bias, histories)
    torch.testing.assert_close(sampled_multinomial_log_likelihood(*layer, histories, ALL), exact, rtol=0, atol=1e-9)


def test_sampled_likelihood_is_finite_where_softmax_underflows() -> None:
    layer = torch.tensor([[1.0]]), torch.tensor([[0.0], [-2000.0], [500.0]]), torch.zeros(3)
    negatives = Negatives(torch.tensor([2]), torch.zeros(1))
    result = sampled_multinomial_log_likelihood(*layer, Histories.from_lists([[2]]), negatives)
    assert result.item() == pytest.approx(-2500.0)


def test_only_the_rows_that_occur_have_a_gradient() -> None:
    layer = output_layer(torch.float64)
    batch = Histories.from_lists([[1], [1, 4], [], [4]])
    gradients = torch.autograd.grad(sampled_multinomial_log_likelihood(*layer, batch, SOME).sum(), layer)
    for gradient in gradients[1:]:
        assert gradient.is_sparse
        assert gradient.is_coalesced()
        torch.sparse_coo_tensor(gradient.indices(), gradient.values(), gradient.shape, check_invariants=True)
        assert gradient.indices().tolist() == [[0, 2, 3, 5]]


def test_items_are_drawn_with_their_probabilities_and_none_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over all places of the comb; so the expectation of the sample's weights, and of the normaliser, is that of all items."""
    sampler = NegativeSampler(Histories.from_lists([[1, 2], [2], [2, 3]]), 4, 3)
    np.testing.assert_allclose(sampler.probabilities, [0.8, 1, 0.8, 0.4])  # sizes 2, 4, 2, 1, the second cut
    terms = torch.tensor([0.5, 1.5, 3.0, 7.0], dtype=torch.float64)
    times, total, places = torch.zeros(4), 0.0, (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    for place in places:
        monkeypatch.setattr(torch, "rand", lambda *size, place=place, **kwargs: place)
        drawn = sampler.draw()
        assert len(drawn.items) == 3
        assert (drawn.items.diff() > 0).all()
        times[drawn.items] += 1
        total += float((terms[drawn.items] * drawn.log_weights.exp()).sum())
    np.testing.assert_allclose(times / 1000, sampler.probabilities, atol=2e-3)
    assert total / 1000 == pytest.approx(float(terms.sum()), rel=2e-3)


@given(
    counts=st.lists(st.integers(0, 1000), min_size=1, max_size=30),
    number=st.integers(1, 40),
)
def test_inclusion_probabilities(counts: list[int], number: int) -> None:
    histories = Histories.from_lists([[item + 1] for item, count in enumerate(counts) for _ in range(count)])
    sampler = NegativeSampler(histories, len(counts), number)
    number = min(number, len(counts))
    probabilities = sampler.probabilities
    assert probabilities.sum().item() == pytest.approx(number)
    assert (probabilities > 0).all()
    assert (probabilities <= 1 + 1e-12).all()
    ratios = probabilities / (torch.tensor(counts) + 1)
    cut = probabilities > 1 - 1e-9
    assert torch.allclose(ratios[~cut], ratios[~cut][:1])  # in proportion
    assert cut.all() or (ratios[cut] <= ratios[~cut].max() * (1 + 1e-9)).all()
    drawn = sampler.draw()
    assert len(set(drawn.items.tolist())) == len(drawn.items) >= number - 1
    assert set(cut.nonzero().flatten().tolist()) <= set(drawn.items.tolist())


def test_draws_are_repeated_with_the_seed() -> None:
    sampler = NegativeSampler(Histories.from_lists([list(range(1, 200))]), 300, 20)
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(sampler.draw().items)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


@both_kinds
def test_the_sparse_gradient_of_the_first_layer_is_the_dense_one(histories: Histories) -> None:
    layer, sparse = SparseLinear(N_ITEMS, 3), SparseLinear(N_ITEMS, 3, sparse=True)
    sparse.load_state_dict(layer.state_dict())
    rows = histories.indices.long() - 1, histories.entry_values(), histories.indptr
    weights = torch.linspace(-1, 2, 12).view(4, 3)
    for each in (layer, sparse):
        (each(*rows) * weights).sum().backward()
    gradient = sparse.weight.grad
    assert gradient is not None
    assert gradient.is_sparse
    torch.testing.assert_close(gradient.to_dense(), layer.weight.grad)


@pytest.mark.parametrize("elements", [1, 5, 2**18])
def test_lazy_adam_is_torchs_sparse_adam(monkeypatch: pytest.MonkeyPatch, elements: int) -> None:
    monkeypatch.setattr("recbole_vae.training.optimizer._ELEMENTS", elements)
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.nn.Parameter(torch.ones(9, 4, dtype=torch.float64)) for _ in range(2))
    ours, theirs = LazyAdam([first], lr=0.1, eps=1e-15), torch.optim.SparseAdam([second], lr=0.1, eps=1e-15)
    for _ in range(5):
        rows = torch.randperm(9, generator=generator)[:4].sort().values
        values = torch.randn(4, 4, dtype=torch.float64, generator=generator)
        for parameter in (first, second):
            parameter.grad = torch.sparse_coo_tensor(rows.unsqueeze(0), values.clone(), (9, 4), check_invariants=True)
        before = first.detach().clone()
        ours.step()
        theirs.step()
        torch.testing.assert_close(first, second, rtol=0, atol=1e-9)
        others = torch.ones(9, dtype=torch.bool).index_fill(0, rows, False)
        assert torch.equal(first[others], before[others])
    assert ours.state_dict()["state"][0]["step"] == 5


def test_lazy_adam_is_adam_where_the_gradient_is_dense() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.nn.Parameter(torch.ones(9, 4)) for _ in range(2))
    ours, theirs = (kind([p], lr=0.1, fused=True) for kind, p in ((LazyAdam, first), (torch.optim.Adam, second)))
    for _ in range(3):
        values = torch.randn(9, 4, generator=generator)
        for parameter, optimizer in ((first, ours), (second, theirs)):
            parameter.grad = values.clone()
            optimizer.step()
    assert torch.equal(first, second)


def test_a_decoder_samples_in_training_only() -> None:
    histories = Histories.from_lists(LISTS)
    sampler = NegativeSampler(histories, N_ITEMS, 1)
    decoder = MLPDecoder(4, [], N_ITEMS, "tanh", sampler=sampler)
    latent = torch.randn(len(histories), 4, generator=torch.Generator().manual_seed(0))
    exact = multinomial_log_likelihood(decoder(latent), histories)
    torch.testing.assert_close(decoder.eval().log_likelihood(latent, histories), exact)
    estimates = torch.stack([decoder.train().log_likelihood(latent, histories) for _ in range(20)])
    assert (estimates.std(0) > 0)[histories.lengths() > 0].any()
