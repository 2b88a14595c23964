"""CompositeVAE: its prior, its encoder, and its training in turns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction
from torch.distributions import Categorical, MixtureSameFamily, Normal

from recbole_vae.data.histories import Histories
from recbole_vae.nn.encoder import DenseEncoder
from recbole_vae.nn.prior import COMPOSITE, kl_standard_normal, log_composite, log_normal
from tests.conftest import Builder
from tests.model.test_models import dense, drawn, log_softmax, model_module

BATCH = Interaction({"user_id": torch.tensor([3, 1, 7, 40])})


def some(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_the_composite_prior_is_a_mixture() -> None:
    latent, mu, logvar = some(5, 3), some(5, 3, seed=1), some(5, 3, seed=2)
    zeros = torch.zeros_like(mu)
    means = torch.stack([zeros, mu, zeros], -1)
    deviations = torch.stack([zeros + 1, (0.5 * logvar).exp(), zeros + np.exp(5.0)], -1)
    mixture = MixtureSameFamily(
        Categorical(torch.tensor(COMPOSITE, dtype=torch.float64).expand(5, 3, 3)), Normal(means, deviations)
    )
    torch.testing.assert_close(log_composite(latent, mu, logvar), mixture.log_prob(latent), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        log_normal(latent, mu, logvar), Normal(mu, (0.5 * logvar).exp()).log_prob(latent), rtol=1e-12, atol=1e-12
    )


def test_with_the_standard_normal_alone_the_divergence_is_that_of_mult_vae() -> None:
    mu, logvar = some(1, 3, seed=1), 0.5 * some(1, 3, seed=2)
    latent = mu + (0.5 * logvar).exp() * some(200_000, 3)
    alone = log_composite(latent, mu.expand_as(latent), logvar.expand_as(latent), (1.0, 0.0, 0.0))
    estimate = (log_normal(latent, mu, logvar) - alone).sum(1).mean()
    assert float(estimate) == pytest.approx(float(kl_standard_normal(mu, logvar)), rel=0.01)


def test_the_priors_gradient() -> None:
    arguments = tuple(some(2, 3, seed=seed).requires_grad_() for seed in range(3))
    assert torch.autograd.gradcheck(log_composite, arguments)


def plain_encoder(encoder: DenseEncoder, x: np.ndarray) -> np.ndarray:
    """The definition, with NumPy."""

    def values(parameter: Any) -> np.ndarray:
        result: np.ndarray = parameter.detach().numpy()
        return result

    def swish(h: np.ndarray) -> Any:
        return h / (1 + np.exp(-h))

    def norm(h: np.ndarray, layer: Any) -> Any:
        scaled = (h - h.mean(1, keepdims=True)) / np.sqrt(h.var(1, keepdims=True) + 0.1)
        return scaled * values(layer.weight) + values(layer.bias)

    x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-300)
    states = [norm(swish(x @ values(encoder.input.weight) + values(encoder.input.bias)), encoder.norms[0])]
    for layer, after in zip(encoder.hidden, list(encoder.norms)[1:], strict=True):
        states.append(norm(swish(states[-1] @ values(layer.weight).T + values(layer.bias) + sum(states)), after))
    result: np.ndarray = states[-1] @ values(encoder.output.weight).T + values(encoder.output.bias)
    return result


def test_the_encoder_equals_numpy() -> None:
    encoder = DenseEncoder(9, 7, 4).double()
    with torch.no_grad():
        for number, parameter in enumerate(encoder.parameters()):
            parameter.copy_(some(*parameter.shape, seed=number))
    histories = Histories.from_lists([[1, 5, 9], [2], []])
    x = dense(histories, 10)
    np.testing.assert_allclose(encoder(histories).detach().numpy(), plain_encoder(encoder, x), rtol=1e-10)
    assert len(encoder.norms) == 5


@pytest.mark.parametrize("phase", ["encoder", "decoder"])
def test_the_loss_equals_numpy(build: Builder, phase: str) -> None:
    model = build("CompositeVAE", dropout_prob=0.0, gamma=0.03).model.double().train()
    with torch.no_grad():
        for number, parameter in enumerate(model.earlier.parameters()):
            parameter.add_(0.1 * some(*parameter.shape, seed=number))
    model.begin_pass(phase)
    if phase == "decoder":
        for one, other in zip(model.earlier.parameters(), model.encoder.parameters(), strict=True):
            assert torch.equal(one, other)
    with drawn("randn") as draws:
        loss = model.calculate_loss(BATCH).item()
    assert draws["randn"].std() == pytest.approx(1, abs=0.5)
    x = dense(model.histories[BATCH["user_id"]], model.n_items)
    mu, logvar = np.split(plain_encoder(model.encoder, x), 2, axis=1)
    mu_old, logvar_old = np.split(plain_encoder(model.earlier, x), 2, axis=1)
    z = mu + np.exp(0.5 * logvar) * draws["randn"].numpy()
    weight, bias = (each.detach().numpy() for each in model.decoder.layers[-1].parameters())
    reconstruction = -(x * log_softmax(z @ weight.T + bias)).sum(1)

    def density(mean: Any, variance: Any) -> Any:
        return np.exp(-0.5 * (z - mean) ** 2 / variance) / np.sqrt(2 * np.pi * variance)

    prior = 0.15 * density(0, 1) + 0.75 * density(mu_old, np.exp(logvar_old)) + 0.1 * density(0, np.exp(10.0))
    divergence = (np.log(density(mu, np.exp(logvar))) - np.log(prior)).sum(1)
    if phase == "decoder":
        divergence = 0.0
    assert loss == pytest.approx((reconstruction + 0.03 * x.sum(1) * divergence).mean(), rel=1e-6)


def test_dropout_is_for_the_encoder_alone(build: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("CompositeVAE", dropout_prob=0.9).model.train()
    calls = []
    original = model_module("compositevae").dropout_mask

    def counted(*arguments: Any) -> torch.Tensor:
        calls.append(arguments)
        result: torch.Tensor = original(*arguments)
        return result

    monkeypatch.setattr(model_module("compositevae"), "dropout_mask", counted)
    model.begin_pass("encoder")
    model.calculate_loss(BATCH)
    assert len(calls) == 1
    model.begin_pass("decoder")
    model.calculate_loss(BATCH)
    assert len(calls) == 1


def test_an_epoch_trains_the_encoder_three_times_and_then_the_decoder(build: Builder) -> None:
    run = build("CompositeVAE", epochs=1, eval_step=0)
    states: list[dict[str, torch.Tensor]] = []
    original, names = run.model.begin_pass, []

    def keep(name: str) -> None:
        names.append(name)
        states.append({key: value.clone() for key, value in run.model.named_parameters()})
        original(name)

    run.model.begin_pass = keep
    run.trainer.fit(run.train, None, verbose=False, saved=False)
    states.append(dict(run.model.named_parameters()))
    assert names == ["encoder"] * 3 + ["decoder"]
    assert run.model.step == 4 * len(run.train)

    def changed(before: int, part: str) -> set[bool]:
        one, other = states[before], states[before + 1]
        return {not torch.equal(one[name], other[name]) for name in one if name.startswith(part)}

    for number in range(3):
        assert changed(number, "encoder.") == {True}
        assert changed(number, "decoder.") == changed(number, "earlier.") == {False}
    assert changed(3, "encoder.") == {False}
    assert changed(3, "decoder.") == {True}
    for name, value in states[3].items():
        if name.startswith("encoder."):
            assert torch.equal(states[4][name.replace("encoder", "earlier")], value)


def test_encoder_and_decoder_have_optimisers_of_their_own(build: Builder) -> None:
    """Of one, whose state of each part rests while the other is trained; the prior's encoder has none."""
    run = build("CompositeVAE", epochs=2, eval_step=0)
    run.trainer.fit(run.train, None, verbose=False, saved=False)
    state = run.trainer.optimizer.state
    steps = {name: int(state[p]["step"]) for name, p in run.model.named_parameters() if p in state}
    batches = len(run.train)
    assert {name: count for name, count in steps.items() if name.startswith("encoder.")} == {
        f"encoder.{name}": 6 * batches for name, _ in run.model.encoder.named_parameters()
    }
    assert {name: count for name, count in steps.items() if not name.startswith("encoder.")} == {
        f"decoder.{name}": 2 * batches for name, _ in run.model.decoder.named_parameters()
    }
