"""Each part alone, against NumPy in float64, torch.distributions, or finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recbole_vae.data.histories import Histories
from recbole_vae.nn.annealing import linear_beta
from recbole_vae.nn.decoder import MLPDecoder
from recbole_vae.nn.encoder import MLPEncoder, dropout_mask, normalise
from recbole_vae.nn.layers import ACTIVATIONS, SparseLinear, mlp
from recbole_vae.nn.likelihood import multinomial_log_likelihood
from recbole_vae.nn.prior import kl_standard_normal, reparameterise

N_ITEMS = 7
LISTS = [[1, 3, 7], [], [2], [1, 2, 3, 4, 5, 6, 7]]


def weighted() -> Histories:
    plain = Histories.from_lists(LISTS)
    return Histories(plain.indptr, plain.indices, torch.linspace(0.5, 3.0, len(plain.indices)))


def dense(histories: Histories) -> np.ndarray:
    """Return the histories as an array without the padding item, in float64."""
    table = np.zeros((len(histories), N_ITEMS))
    table[histories.rows().numpy(), histories.indices.numpy() - 1] = histories.entry_values().double().numpy()
    return table


@pytest.fixture(params=["binary", "weighted"])
def histories(request: pytest.FixtureRequest) -> Histories:
    return Histories.from_lists(LISTS) if request.param == "binary" else weighted()


def test_multinomial_log_likelihood_equals_numpy(histories: Histories) -> None:
    logits = np.random.default_rng(0).normal(size=(4, N_ITEMS)) * 3
    log_softmax = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    expected = (dense(histories) * log_softmax).sum(1)
    result = multinomial_log_likelihood(torch.from_numpy(logits), histories)
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-6)
    assert result[1] == 0.0  # the empty history


def test_multinomial_log_likelihood_is_finite_where_softmax_underflows() -> None:
    logits = torch.tensor([[0.0, -2000.0, 500.0]])
    assert multinomial_log_likelihood(logits, Histories.from_lists([[2]])).item() == pytest.approx(-2500.0)


def test_multinomial_log_likelihood_is_torchs_without_the_constant() -> None:
    logits = torch.randn(4, N_ITEMS, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    counts = torch.from_numpy(dense(Histories.from_lists(LISTS)))
    for row in (0, 2, 3):
        whole = torch.distributions.Multinomial(int(counts[row].sum()), logits=logits[row]).log_prob(counts[row])
        constant = torch.lgamma(counts[row].sum() + 1) - torch.lgamma(counts[row] + 1).sum()
        ours = multinomial_log_likelihood(logits[row : row + 1], Histories.from_lists([LISTS[row]]))
        torch.testing.assert_close(ours[0], whole - constant)


def test_likelihood_gradient_against_finite_differences(histories: Histories) -> None:
    logits = torch.randn(4, N_ITEMS, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: multinomial_log_likelihood(x, histories), (logits,))


def test_kl_equals_numpy_and_torch() -> None:
    generator = torch.Generator().manual_seed(1)
    mu = torch.randn(5, 3, dtype=torch.float64, generator=generator)
    logvar = torch.randn(5, 3, dtype=torch.float64, generator=generator)
    m, v = mu.numpy(), logvar.numpy()
    result = kl_standard_normal(mu, logvar)
    np.testing.assert_allclose(result, -0.5 * (1 + v - m**2 - np.exp(v)).sum(1), rtol=0, atol=1e-6)
    posterior = torch.distributions.Normal(mu, (0.5 * logvar).exp())
    prior = torch.distributions.Normal(torch.zeros_like(mu), torch.ones_like(mu))
    torch.testing.assert_close(result, torch.distributions.kl_divergence(posterior, prior).sum(1))
    assert kl_standard_normal(torch.zeros(1, 3), torch.zeros(1, 3)).item() == 0.0


def test_kl_gradient_against_finite_differences() -> None:
    mu = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    logvar = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(kl_standard_normal, (mu, logvar))


def test_reparameterise_has_the_posteriors_moments() -> None:
    noise = torch.randn(200_000, 1, generator=torch.Generator().manual_seed(0))
    sample = reparameterise(torch.full_like(noise, 2.0), torch.full_like(noise, np.log(9.0)), noise)
    assert sample.mean().item() == pytest.approx(2.0, abs=0.03)
    assert sample.std().item() == pytest.approx(3.0, abs=0.03)


@given(
    step=st.integers(0, 10**7),
    total=st.integers(0, 10**6),
    cap=st.floats(0, 2, allow_nan=False),
    more=st.integers(0, 10**6),
)
def test_beta_never_exceeds_its_cap_and_never_falls(step: int, total: int, cap: float, more: int) -> None:
    now, later = linear_beta(step, total, cap), linear_beta(step + more, total, cap)
    assert 0.0 <= now <= later <= cap


def test_beta_is_the_papers() -> None:
    assert linear_beta(0, 200_000, 0.2) == 0.0
    assert linear_beta(20_000, 200_000, 0.2) == pytest.approx(0.1)
    assert linear_beta(40_000, 200_000, 0.2) == linear_beta(39_999_999, 200_000, 0.2) == 0.2
    assert linear_beta(0, 0, 0.2) == 0.2


def test_sparse_linear_equals_dense_in_values_and_gradients(histories: Histories) -> None:
    layer = SparseLinear(N_ITEMS, 5).double()
    values = histories.entry_values().double()
    table = torch.from_numpy(dense(histories))
    sparse = layer(histories.indices - 1, values, histories.indptr)
    full = table @ layer.weight + layer.bias
    torch.testing.assert_close(sparse, full, rtol=0, atol=1e-12)
    weights = torch.randn_like(full)
    ours = torch.autograd.grad((sparse * weights).sum(), [layer.weight, layer.bias])
    theirs = torch.autograd.grad((full * weights).sum(), [layer.weight, layer.bias])
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-12)


def test_normalise_gives_unit_length_and_leaves_empty_histories(histories: Histories) -> None:
    table = dense(histories)
    values = normalise(histories, torch.float64)
    expected = table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-300)
    ours = dense(Histories(histories.indptr, histories.indices, values))
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_normalise_neither_underflows_nor_overflows(scale: float) -> None:
    plain = Histories.from_lists(LISTS)
    scaled = Histories(plain.indptr, plain.indices, torch.full((len(plain.indices),), scale))
    torch.testing.assert_close(normalise(scaled, torch.float32), normalise(plain, torch.float32))


def test_dropout_keeps_the_mean() -> None:
    torch.manual_seed(0)
    mask = dropout_mask(200_000, 0.3, torch.ones(()))
    assert mask.unique().tolist() == pytest.approx([0.0, 1 / 0.7])
    assert mask.mean().item() == pytest.approx(1.0, abs=0.01)
    assert dropout_mask(100, 0.0, torch.ones(())).eq(1.0).all()


@pytest.mark.parametrize("hidden", [[], [5], [6, 5]])
@pytest.mark.parametrize("activate_last", [False, True])
@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_encoder_equals_numpy(hidden: list[int], activate_last: bool, activation: str, histories: Histories) -> None:
    encoder = MLPEncoder(N_ITEMS, hidden, 4, activation, activate_last=activate_last).double()
    h = dense(histories)
    h = h / np.maximum(np.linalg.norm(h, axis=1, keepdims=True), 1e-300)
    linears = [(encoder.input.weight.detach().numpy(), encoder.input.bias.detach().numpy())]
    linears += [
        (each.weight.detach().numpy().T, each.bias.detach().numpy())
        for each in encoder.layers
        if isinstance(each, torch.nn.Linear)
    ]
    assert len(linears) == len(hidden) + 1
    for number, (weight, bias) in enumerate(linears):
        h = h @ weight + bias
        if activate_last or number < len(linears) - 1:
            h = ACTIVATIONS[activation]()(torch.from_numpy(h)).numpy()
    np.testing.assert_allclose(encoder(histories).detach(), h, rtol=0, atol=1e-12)


def test_decoder_and_mlp_have_the_layers_that_were_asked_for() -> None:
    decoder = MLPDecoder(3, [4, 5], N_ITEMS, "tanh")
    kinds = [type(each).__name__ for each in decoder.layers]
    assert kinds == ["Linear", "Tanh", "Linear", "Tanh", "Linear"]
    assert decoder(torch.zeros(2, 3)).shape == (2, N_ITEMS)
    assert len(mlp([3], "tanh", activate_last=False)) == 0


def test_initial_values_are_the_papers() -> None:
    torch.manual_seed(0)
    layer = SparseLinear(600, 400)
    bound = np.sqrt(6 / 1000)
    assert bound * 0.99 < layer.weight.abs().max().item() <= bound
    assert layer.bias.abs().max().item() <= 0.002
    assert 0.0007 < layer.bias.std().item() < 0.001
