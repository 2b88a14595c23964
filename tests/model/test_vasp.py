"""VASP: its parts, its loss, and its diagonal."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_vae import Recommender
from recbole_vae.analysis import explain, generate, latent
from recbole_vae.data.histories import Histories
from recbole_vae.errors import ConfigError, DataError
from recbole_vae.nn.decoder import DenseDecoder
from recbole_vae.nn.likelihood import bernoulli_log_likelihood, focal_log_likelihood, product_logits
from recbole_vae.nn.linear import NeuralEASE
from tests.conftest import Builder
from tests.model.test_compositevae import plain_encoder, some
from tests.model.test_models import check_checker_board, dense, drawn

LISTS = [[1, 5, 9], [2], [], [1, 2, 3, 4, 5, 6, 7, 8, 9]]


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def focal(p: Any, x: Any, gamma: float, alpha: float) -> Any:
    return (alpha * x * (1 - p) ** gamma * np.log(p) + (1 - x) * p**gamma * np.log1p(-p)).sum(1)


def swish_layers(decoder: DenseDecoder, z: np.ndarray) -> np.ndarray:
    """The definition of the decoder, with NumPy."""
    values = {name: parameter.detach().numpy() for name, parameter in decoder.layers.named_parameters()}
    states: list[Any] = []
    for number in range(len(list(decoder.layers[0].norms))):  # type: ignore[arg-type]
        name = f"0.hidden.{number - 1}" if number else "0.input"
        h = (states[-1] if states else z) @ values[f"{name}.weight"].T + values[f"{name}.bias"] + sum(states)
        h = h * sigmoid(h)
        h = (h - h.mean(1, keepdims=True)) / np.sqrt(h.var(1, keepdims=True) + 1e-5)
        states.append(h * values[f"0.norms.{number}.weight"] + values[f"0.norms.{number}.bias"])
    result: np.ndarray = states[-1] @ values["1.weight"].T + values["1.bias"]
    return result


def test_the_decoder_equals_numpy() -> None:
    decoder = DenseDecoder(4, 7, 9, layers=3).double()
    with torch.no_grad():
        for number, parameter in enumerate(decoder.parameters()):
            parameter.copy_(some(*parameter.shape, seed=number))
    z = some(5, 4, seed=50)
    expected = swish_layers(decoder, z.numpy())
    np.testing.assert_allclose(decoder(z).detach().numpy(), expected, rtol=1e-9)
    with torch.no_grad():
        np.testing.assert_allclose(decoder(z).numpy(), expected, rtol=1e-9)
        np.testing.assert_allclose(decoder.logits_of(z, torch.tensor([8, 2])).numpy(), expected[:, [8, 2]], rtol=1e-9)


@pytest.mark.parametrize(("gamma", "alpha"), [(0.0, 1.0), (2.0, 0.25), (0.5, 3.0)])
def test_the_focal_likelihood_equals_numpy(gamma: float, alpha: float) -> None:
    histories, logits = Histories.from_lists(LISTS), 3 * some(4, 9)
    found = focal_log_likelihood(logits, histories, gamma, alpha)
    expected = focal(sigmoid(logits.numpy()), dense(histories, 10), gamma, alpha)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)
    if gamma == 0:
        torch.testing.assert_close(found, bernoulli_log_likelihood(logits, histories), rtol=1e-12, atol=0)
    assert torch.autograd.gradcheck(
        lambda x: focal_log_likelihood(x, histories, gamma, alpha), (logits.requires_grad_(),)
    )


def test_the_product_of_two_probabilities() -> None:
    one, other = 4 * some(50), 4 * some(50, seed=1)
    torch.testing.assert_close(product_logits(one, other).sigmoid(), one.sigmoid() * other.sigmoid())
    assert torch.autograd.gradcheck(product_logits, (one.requires_grad_(), other.requires_grad_()))
    far = torch.tensor([-1000.0, -1000.0, 1000.0, 1000.0], requires_grad=True)
    found = product_logits(far, torch.tensor([-1000.0, 1000.0, 3.0, 1000.0]))
    assert found.tolist() == pytest.approx([-2000, -1000, 3, 1000], abs=1)
    found.sum().backward()
    assert far.grad is not None
    assert far.grad.isfinite().all()


def test_the_linear_path_is_a_product_without_a_diagonal() -> None:
    path, histories = NeuralEASE(9).double(), Histories.from_lists(LISTS)
    weights = some(9, 9).fill_diagonal_(0)
    with torch.no_grad():
        path.weight.copy_(weights)
    table, scale = torch.from_numpy(dense(histories, 10)), some(4, 9, seed=1)
    found = path(histories)
    torch.testing.assert_close(found, table @ weights)
    (gradient,) = torch.autograd.grad((scale * found).sum(), path.weight)
    torch.testing.assert_close(gradient, (table.T @ scale).fill_diagonal_(0))
    weighted = Histories(histories.indptr, histories.indices, torch.linspace(1, 5, len(histories.indices)))
    assert torch.equal(path(weighted), found)


def test_too_many_items_are_refused_before_the_memory_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def zeros(*shape: int) -> torch.Tensor:
        asked.append(shape)
        return torch.empty(shape)

    monkeypatch.setattr(torch, "zeros", zeros)
    with pytest.raises(DataError, match=r"needs 16000.0 GB for 1000000 items \(weight, gradient and .*such as MultVAE"):
        NeuralEASE(1_000_000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=16 * 100 / 0.89))
    with pytest.raises(DataError):
        NeuralEASE(11)
    assert not asked
    NeuralEASE(10)
    assert asked


@pytest.mark.parametrize("learner", ["adam", "adamw", "sgd", "adagrad", "rmsprop"])
def test_the_diagonal_stays_0(build: Builder, learner: str) -> None:
    run = build("VASP", epochs=3, eval_step=0, learner=learner, weight_decay=0.01)
    run.trainer.fit(run.train, None, verbose=False, saved=False)
    weight = run.model.linear.weight.detach()
    assert (weight.diagonal() == 0).all()
    off = ~torch.eye(len(weight), dtype=torch.bool)
    assert (weight[off] != 0).float().mean() > 0.9
    assert torch.equal(copy.deepcopy(run.model).linear.weight, run.model.linear.weight)


def test_the_loss_equals_numpy(build: Builder) -> None:
    """What is kept is the input, what is dropped is to be found."""
    model = build("VASP", dropout_prob=0.4, focal_gamma=1.5, focal_alpha=0.7, beta=0.3, decoder_layers=2).model
    model = model.double().train()
    with torch.no_grad():
        model.linear.weight.copy_(some(*model.linear.weight.shape).fill_diagonal_(0))
    users = torch.tensor([3, 1, 7, 40])
    with drawn("rand", "randn") as draws:
        loss = model.calculate_loss(Interaction({"user_id": users})).item()
    histories = model.histories[users]
    x = dense(histories, model.n_items)
    given = np.zeros_like(x)
    given[histories.rows().numpy(), histories.indices.numpy() - 1] = draws["rand"].numpy() >= 0.4
    assert 0 < given.sum() < x.sum()
    mu, logvar = np.split(plain_encoder(model.encoder, given), 2, axis=1)
    z = mu + np.exp(0.5 * logvar) * draws["randn"].numpy()
    p = sigmoid(swish_layers(model.decoder, z)) * sigmoid(given @ model.linear.weight.detach().numpy())
    kl = 0.5 * (mu**2 + np.exp(logvar) - 1 - logvar).sum(1)
    assert loss == pytest.approx((0.3 * kl - focal(p, x - given, 1.5, 0.7)).mean(), rel=1e-6)


def test_each_path_alone_would_not_do(build: Builder) -> None:
    """Scores are the logits of the product of both probabilities."""
    model = build("VASP").model.eval()
    histories = model.histories[torch.arange(1, 5)]
    with torch.no_grad():
        model.linear.weight.copy_(some(*model.linear.weight.shape).fill_diagonal_(0).float())
        scores = model.score(histories)[:, 1:]
        mu, _ = model.posterior(histories)
        both = model.decoder(mu).sigmoid() * model.linear(histories).sigmoid()
    torch.testing.assert_close(scores.sigmoid(), both)


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_checker_board_by_the_focal_likelihood(build: Builder, gamma: float) -> None:
    check_checker_board(build, "VASP", focal_gamma=gamma, focal_alpha=1.0)


def test_weights_of_interactions_are_refused(build: Builder) -> None:
    with pytest.raises(ConfigError, match="^propensity_weight: 0.5 cannot go with VASP, .*set propensity_weight: 0"):
        build("VASP", dataset="not-there", propensity_weight=0.5)
    with pytest.raises(ConfigError, match="^value_field: 'rating' cannot go with VASP, .*set value_field: ~"):
        build("VASP", dataset="not-there", value_field="rating")
    with pytest.raises(ConfigError, match="^dropout_prob: 0.0 .*must be a number > 0 and < 1"):
        build("VASP", dataset="not-there", dropout_prob=0.0)


def test_what_else_there_is_for_vaes(build: Builder) -> None:
    run = build("VASP", epochs=3)
    run.fit()
    recommender = Recommender.load(run.trainer.saved_model_file)
    model = recommender.model
    (ranking,) = recommender.recommend_users(["u3"], k=3, samples=20)
    assert ranking.stability is not None
    assert ranking.expected_ndcg is None
    history = model.histories[torch.tensor([3])]
    with torch.no_grad():
        found = explain.influences(model, history, torch.tensor([1, 2]))
        whole, without = explain.scores_without(model, history, torch.tensor([1, 2]))
    torch.testing.assert_close(found, whole - without)
    with pytest.raises(ConfigError, match="VASP does not declare that .*Use method: exact"):
        explain.influences(model, history, torch.tensor([1]), "gradient")
    assert latent.describe(recommender).effect == "logit"
    with pytest.raises(ConfigError, match="^this VASP was not trained to draw"):
        next(generate.synthesise(model, None, 3))
