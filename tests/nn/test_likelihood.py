"""Likelihoods other than the plain multinomial one, against NumPy and torch.distributions on dense tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.distributions import Bernoulli, Normal, Poisson

from recbole_vae import Recommender
from recbole_vae.analysis import generate, latent, uncertainty
from recbole_vae.analysis.perturbation import by_influence, perturbation
from recbole_vae.data.histories import Histories
from recbole_vae.errors import ConfigError
from recbole_vae.nn.likelihood import (
    bernoulli_log_likelihood,
    gaussian_log_likelihood,
    linear_multinomial_log_likelihood,
    multinomial_log_likelihood,
    poisson_log_likelihood,
)
from tests.conftest import Builder
from tests.nn.test_parts import N_ITEMS, dense, histories, output_layer  # noqa: F401 - a fixture

OTHERS = ["bernoulli", "gaussian", "poisson"]


def some_logits() -> torch.Tensor:
    return 2 * torch.randn(4, N_ITEMS, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def check(ours: Any, dense_oracle: Any) -> None:
    """Compare values, and gradients where each row counts differently."""
    logits = some_logits().requires_grad_()
    rows = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    found, expected = ours(logits), dense_oracle(logits)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    gradients = [torch.autograd.grad((rows * each).sum(), logits)[0] for each in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-10)


def test_bernoulli_is_torchs(histories: Histories) -> None:  # noqa: F811
    there = torch.from_numpy((dense(histories) > 0).astype(float))
    check(
        lambda logits: bernoulli_log_likelihood(logits, histories),
        lambda logits: Bernoulli(logits=logits).log_prob(there).sum(1),
    )


def test_bernoulli_is_finite_where_a_probability_underflows() -> None:
    logits = torch.tensor([[2000.0, -2000.0, 500.0]])
    assert bernoulli_log_likelihood(logits, Histories.from_lists([[2]])).item() == pytest.approx(-4500.0)


@pytest.mark.parametrize("confidence", [1.0, 7.5])
def test_gaussian_is_torchs_without_the_constant(histories: Histories, confidence: float) -> None:  # noqa: F811
    x = torch.from_numpy(dense(histories))
    deviation = torch.from_numpy(np.where(x > 0, confidence**-0.5, 1.0))
    constant = Normal(x, deviation).log_prob(x).sum(1)
    check(
        lambda logits: gaussian_log_likelihood(logits, histories, confidence),
        lambda logits: Normal(logits, deviation).log_prob(x).sum(1) - constant,
    )


def test_poisson_is_torchs_without_the_constant(histories: Histories) -> None:  # noqa: F811
    x = torch.from_numpy(dense(histories))
    check(
        lambda logits: poisson_log_likelihood(logits, histories),
        lambda logits: (Poisson(logits.exp(), validate_args=False).log_prob(x) + torch.lgamma(x + 1)).sum(1),
    )


def test_poisson_is_multinomial_where_the_number_of_items_is_given(histories: Histories) -> None:  # noqa: F811
    """Of all rates in proportion to exp(logits), those that sum to the number of items are the likeliest."""
    logits, counts = some_logits()[::2], torch.from_numpy(dense(histories)).sum(1)[::2]
    batch = histories[torch.tensor([0, 2])]
    rates = logits.log_softmax(1) + counts.log()[:, None]
    expected = multinomial_log_likelihood(logits, batch) + counts * counts.log() - counts
    torch.testing.assert_close(poisson_log_likelihood(rates, batch), expected)


def smoothed_oracle(logits: torch.Tensor, table: np.ndarray, smoothing: float) -> torch.Tensor:
    x = torch.from_numpy((1 - smoothing) * table + smoothing * table.sum(1, keepdims=True) / N_ITEMS)
    return (x * logits.log_softmax(1)).sum(1)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_smoothing_equals_a_dense_table(histories: Histories, smoothing: float) -> None:  # noqa: F811
    check(
        lambda logits: multinomial_log_likelihood(logits, histories, smoothing),
        lambda logits: smoothed_oracle(logits, dense(histories), smoothing),
    )


@pytest.mark.parametrize("logits_per_chunk", [8, 12, 1000])
def test_fused_smoothing_equals_a_dense_table(histories: Histories, logits_per_chunk: int) -> None:  # noqa: F811
    layer = output_layer(torch.float64)
    features, weight, bias = layer
    rows = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    fused = linear_multinomial_log_likelihood(*layer, histories, None, logits_per_chunk, smoothing=0.3)
    expected = smoothed_oracle(features @ weight.t() + bias, dense(histories), 0.3)
    torch.testing.assert_close(fused, expected, rtol=0, atol=1e-9)
    for ours, theirs in zip(
        torch.autograd.grad((rows * fused).sum(), layer),
        torch.autograd.grad((rows * expected).sum(), layer),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


@pytest.mark.parametrize("logits_per_chunk", [8, 1000])
def test_fused_smoothing_in_bfloat16_is_off_by_its_rounding(histories: Histories, logits_per_chunk: int) -> None:  # noqa: F811
    layer = output_layer(torch.float32)
    plain = multinomial_log_likelihood(layer[0] @ layer[1].t() + layer[2], histories, 0.3)
    fused = linear_multinomial_log_likelihood(*layer, histories, torch.bfloat16, logits_per_chunk, smoothing=0.3)
    torch.testing.assert_close(fused, plain, rtol=0.02, atol=0.02)
    for ours, expected in zip(
        torch.autograd.grad(fused.sum(), layer), torch.autograd.grad(plain.sum(), layer), strict=True
    ):
        assert (ours - expected).norm() <= 0.03 * expected.norm()


@pytest.mark.parametrize("model_name", ["MultVAE", "MultDAE"])
@pytest.mark.parametrize("options", [{"likelihood": each} for each in OTHERS] + [{"label_smoothing": 0.3}], ids=str)
def test_the_models_loss_is_what_the_option_names(build: Builder, model_name: str, options: dict[str, Any]) -> None:
    """A MultVAE's noise and dropout are those of the same seed."""
    run, plain = build(model_name, gaussian_confidence=3.0, **options), build(model_name)
    model, other = run.model.double().train(), plain.model.double().train()
    other.load_state_dict(model.state_dict())
    batch, users = model.histories[torch.tensor([1, 5, 7])], 3
    other.decoder.log_likelihood = {
        "bernoulli": lambda z, x: bernoulli_log_likelihood(other.decoder(z), x),
        "gaussian": lambda z, x: gaussian_log_likelihood(other.decoder(z), x, 3.0),
        "poisson": lambda z, x: poisson_log_likelihood(other.decoder(z), x),
        "smoothed": lambda z, x: multinomial_log_likelihood(other.decoder(z), x, 0.3),
    }[options.get("likelihood", "smoothed")]
    losses = []
    for each in (model, other):
        torch.manual_seed(0)
        losses.append(each.loss_terms(batch, 0, users).reconstruction.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)


@pytest.mark.parametrize("likelihood", OTHERS)
def test_gradients_reach_all_parameters(build: Builder, likelihood: str) -> None:
    model = build("MultVAE", likelihood=likelihood).model.train()
    model.step = 30
    model.loss_terms(model.histories[torch.arange(1, 9)], 0, 8).loss().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"likelihood": "binomial"}, "must be one of multinomial, bernoulli, gaussian, poisson."),
        ({"label_smoothing": 1.0}, "must be a number >= 0 and < 1."),
        ({"gaussian_confidence": 0}, "must be a number > 0."),
        (
            {"likelihood": "poisson", "label_smoothing": 0.1},
            "label_smoothing: 0.1 cannot go with likelihood: poisson, only with multinomial; set label_smoothing: 0, or",
        ),
        ({"likelihood": "bernoulli", "propensity_weight": 0.5}, "propensity_weight: 0.5 cannot go with likelihood: bernoulli"),
        (
            {"likelihood": "bernoulli", "n_negatives": 5},
            "likelihood: 'bernoulli' cannot go with n_negatives: 5, which updates only the items that a step touches; set "
            "likelihood: multinomial, or n_negatives: 0.",
        ),
        ({"label_smoothing": 0.1, "n_negatives": 5}, "label_smoothing: 0.1 cannot go with n_negatives: 5"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(build: Builder, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        build(dataset="not-there", **options)
    assert message in str(error.value)


def trained(build: Builder, likelihood: str, model: str = "MultVAE") -> Recommender:
    run = build(model, likelihood=likelihood, learning_rate=0.01)
    run.fit()
    return Recommender.load(run.trainer.saved_model_file)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_nothing_takes_the_softmax_of_a_model_without_one(
    build: Builder, likelihood: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latent, "_USERS", 1000)
    recommender = trained(build, likelihood)
    model = recommender.model
    with pytest.raises(
        ConfigError, match="^this MultVAE was not trained to draw .* likelihood: multinomial or poisson"
    ):
        next(generate.synthesise(model, None, 3))
    with pytest.raises(ConfigError, match="^perturbation: DEL and INS need the softmax"):
        perturbation(model, model.histories, by_influence())
    (ranking,) = recommender.recommend_users(["u3"], k=3, samples=5)
    assert ranking.expected_ndcg is None
    assert ranking.stability is not None
    assert len(ranking.intervals or []) == 3
    found = latent.describe(recommender, axes="latents", latents=6)
    assert found.effect == "logit"
    with torch.no_grad():
        codes = model.code(model.encoder(model.histories))[1:]
        steps = codes.std(0, correction=0).diag()
        sides = [torch.stack([model.decoder(codes + sign * step).mean(0) for step in steps]) for sign in (1, -1)]
    effects = (sides[0] - sides[1]) / 2
    for each in found.latents:
        assert each.strength == pytest.approx(float(effects[each.number].square().mean().sqrt()), rel=1e-4)


def test_given_the_number_of_items_a_poisson_model_draws_by_softmax(build: Builder) -> None:
    recommender = trained(build, "poisson")
    assert len(list(generate.synthesise(recommender.model, None, 3))) == 3
    (ranking,) = recommender.recommend_users(["u3"], k=3, samples=5)
    assert ranking.expected_ndcg is not None
    assert latent.describe(recommender).effect == "log-probability"


def test_uncertainties_without_a_softmax(build: Builder) -> None:
    names = []
    for likelihood in ("poisson", "gaussian"):
        run = build("MultVAE", likelihood=likelihood)
        run.fit()
        report = uncertainty.evaluate(run.trainer.saved_model_file, samples=5)
        names.append({order.name for order in report.orders})
    assert names[1] == {"length of the history", "stability"}
    assert names[0] - names[1] == {"expected NDCG", "entropy of the softmax", "largest probability"}


def test_a_checkpoint_that_is_older_than_the_options(build: Builder) -> None:
    run = build("MultVAE", epochs=1)
    run.fit()
    state = torch.load(run.trainer.saved_model_file, weights_only=True)
    for name in ("likelihood", "label_smoothing", "gaussian_confidence"):
        del state["config"][name]
    torch.save(state, "old.pth")
    assert Recommender.load("old.pth").model.options.likelihood == "multinomial"
    resumed = build("MultVAE", epochs=2)
    resumed.trainer.resume_checkpoint("old.pth")
    resumed.fit()
