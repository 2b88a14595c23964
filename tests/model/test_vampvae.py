"""VampVAE: its prior, its gated layers, and its two levels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from recbole_vae.errors import ConfigError
from recbole_vae.nn.layers import GatedLinear
from recbole_vae.nn.prior import log_normal, log_vamp
from tests.conftest import Builder
from tests.model.test_compositevae import some
from tests.model.test_models import dense, drawn, log_softmax

BATCH = Interaction({"user_id": torch.tensor([3, 1, 7, 40])})


def test_the_prior_is_a_mixture() -> None:
    latent, mu, logvar = some(5, 3), some(4, 3, seed=1), some(4, 3, seed=2)
    normals = Independent(Normal(mu, (0.5 * logvar).exp()), 1)
    mixture = MixtureSameFamily(Categorical(torch.ones(4, dtype=torch.float64)), normals)
    torch.testing.assert_close(log_vamp(latent, mu, logvar), mixture.log_prob(latent), rtol=1e-12, atol=1e-12)
    assert log_vamp(latent.float(), mu.float(), logvar.float()).dtype == torch.float32
    assert torch.autograd.gradcheck(log_vamp, tuple(each.requires_grad_() for each in (latent, mu, logvar)))


def test_of_narrow_components_it_is_exact_in_float32() -> None:
    latent = some(3, 2).float()
    mu, logvar = latent + 1e-3, torch.full((3, 2), -12.0)
    components = log_normal(latent.double().unsqueeze(1), mu.double(), logvar.double()).sum(2)
    torch.testing.assert_close(log_vamp(latent, mu, logvar), (components.logsumexp(1) - np.log(3)).float())


def test_a_user_who_is_the_only_pseudo_input_has_no_divergence(build: Builder) -> None:
    model = build("VampVAE", hierarchical=False, n_pseudo_inputs=1, dropout_prob=0.0).model.double().train()
    history = model.histories[torch.tensor([3])]
    with torch.no_grad():
        model.pseudo_inputs.copy_(torch.from_numpy(dense(history, model.n_items)))
    assert model.loss_terms(history, 0, 1).kl.item() == pytest.approx(0, abs=1e-9)
    assert model.loss_terms(model.histories[torch.tensor([7])], 0, 1).kl.item() != pytest.approx(0, abs=1e-6)


def values(parameter: Any) -> np.ndarray:
    result: np.ndarray = parameter.detach().numpy()
    return result


def gate(both: np.ndarray) -> Any:
    value, switch = np.split(both, 2, axis=1)
    return value / (1 + np.exp(-switch))


def affine(layer: Any, x: Any) -> Any:
    return x @ values(layer.weight).T + values(layer.bias)


def test_the_gated_layer_equals_numpy() -> None:
    layer, x = GatedLinear(3, 4).double(), some(5, 3)
    np.testing.assert_allclose(values(layer(x)), gate(affine(layer.both, x.numpy())), rtol=1e-12)


@pytest.mark.parametrize("hierarchical", [True, False])
def test_the_loss_equals_numpy(build: Builder, hierarchical: bool) -> None:
    options = {"dropout_prob": 0.0, "anneal_cap": 0.3, "anneal_epochs": 0, "hierarchical": hierarchical}
    model = build("VampVAE", **options).model.double().train()
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.add_(0.1 * some(*parameter.shape, seed=number))
    with drawn("randn") as draws:
        loss = model.calculate_loss(BATCH).item()
    noise, encoder = draws["randn"].numpy(), model.encoder

    def unit(x: np.ndarray) -> Any:
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    def upper(x: np.ndarray) -> Any:
        sums = unit(x) @ values(encoder.input.weight) + values(encoder.input.bias)
        return np.split(affine(encoder.of_upper, gate(sums[:, :24])), 2, axis=1), sums

    def density(z: Any, mu: Any, logvar: Any) -> Any:
        return np.exp(-0.5 * (z - mu) ** 2 / np.exp(logvar)) / np.sqrt(2 * np.pi * np.exp(logvar))

    x = dense(model.histories[BATCH["user_id"]], model.n_items)
    (mu, logvar), sums = upper(x)
    z2 = mu + np.exp(0.5 * logvar) * noise[0]
    pseudo, _ = upper(np.clip(values(model.pseudo_inputs), 0, 1))
    prior = np.mean([density(z2, m, v).prod(1) for m, v in zip(*pseudo, strict=True)], axis=0)
    divergence = np.log(density(z2, mu, logvar)).sum(1) - np.log(prior)
    first, *rest = model.decoder.layers
    hidden = gate(affine(first.each[0].both, z2))
    if hierarchical:
        both = np.hstack([gate(sums[:, 24:]), gate(affine(encoder.from_upper.both, z2))])
        mu, logvar = np.split(affine(encoder.of_lower, gate(affine(encoder.joint.both, both))), 2, axis=1)
        z1 = mu + np.exp(0.5 * logvar) * noise[1]
        expected = np.split(affine(model.prior[1], gate(affine(model.prior[0].both, z2))), 2, axis=1)
        divergence += np.log(density(z1, mu, logvar)).sum(1) - np.log(density(z1, *expected)).sum(1)
        hidden = gate(affine(rest[0].both, np.hstack([hidden, gate(affine(first.each[1].both, z1))])))
    reconstruction = -(x * log_softmax(affine(rest[-1], hidden))).sum(1)
    assert loss == pytest.approx((reconstruction + 0.3 * divergence).mean(), rel=1e-6)


def test_pseudo_inputs_begin_as_users_and_are_learned(build: Builder) -> None:
    run = build("VampVAE", learning_rate=0.05, anneal_cap=1.0, anneal_epochs=0)
    before = values(run.model.pseudo_inputs).copy()
    rows = dense(run.model.histories, run.model.n_items)
    assert all(any(np.abs(row - user).max() < 0.011 for user in rows) for row in before)
    run.fit()
    assert (np.abs(values(run.model.pseudo_inputs) - before).max(axis=1) > 1e-3).all()


def test_more_pseudo_inputs_than_users(build: Builder) -> None:
    with pytest.raises(ConfigError, match="n_pseudo_inputs: 41 is more than the 40 users .* 40 or less"):
        build("VampVAE", n_pseudo_inputs=41)


@pytest.mark.parametrize("hierarchical", [True, False])
def test_scores_are_those_of_the_posterior_means(build: Builder, hierarchical: bool) -> None:
    model = build("VampVAE", hierarchical=hierarchical).model.eval()
    histories = model.histories[torch.tensor([3, 7])]
    with torch.no_grad():
        mu, logvar = model.posterior(histories)
        assert mu.shape == logvar.shape == (2, 12 if hierarchical else 6)
        torch.testing.assert_close(model.score(histories), model.score_latent(histories, mu))
        if hierarchical:  # the lower level is given the mean of the upper
            lower, _ = model.encoder.lower(model.encoder.sums(histories), mu[:, :6])
            torch.testing.assert_close(mu[:, 6:], lower)
