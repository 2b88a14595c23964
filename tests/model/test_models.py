"""What must hold for every model, and the losses against NumPy."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction
from torch.utils._python_dispatch import TorchDispatchMode

from recbole_vae.data.histories import Histories
from recbole_vae.errors import ConfigError
from recbole_vae.nn.encoder import dropout_for, dropout_mask
from recbole_vae.nn.likelihood import multinomial_log_likelihood
from recbole_vae.serving.recommender import Recommender
from tests.conftest import Builder, Run, random_rows, write_inter


def dense(histories: Histories, n_items: int) -> np.ndarray:
    table = np.zeros((len(histories), n_items - 1))
    table[histories.rows().numpy(), histories.indices.numpy() - 1] = histories.entry_values().double().numpy()
    return table


def numpy_mlp(layers: Any, h: np.ndarray) -> np.ndarray:
    for layer in layers:
        if isinstance(layer, torch.nn.Linear):
            h = h @ layer.weight.detach().double().numpy().T + layer.bias.detach().double().numpy()
        else:
            h = np.tanh(h)
    return h


def numpy_encoder(encoder: Any, x: Any, mask: Any = 1.0) -> Any:
    h = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-300) * mask
    h = h @ encoder.input.weight.detach().numpy() + encoder.input.bias.detach().numpy()
    if isinstance(encoder.activation, torch.nn.Tanh):
        h = np.tanh(h)
    return numpy_mlp(encoder.layers, h)


def log_softmax(logits: Any) -> Any:
    shifted = logits - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


@pytest.mark.parametrize(("hidden", "power"), [([], 0), ([12], 0), ([12, 9], 0), ([], 1), ([12], 0.5)])
def test_mult_vae_loss_equals_numpy(
    build: Builder, monkeypatch: pytest.MonkeyPatch, hidden: list[int], power: float
) -> None:
    options = {"dropout_prob": 0.4, "anneal_cap": 0.3, "total_anneal_steps": 100, "kl_length_power": power}
    run = build("MultVAE", mlp_hidden_size=hidden, **options)
    model = run.model.double().train()
    model.step = 10
    users = torch.tensor([3, 1, 7, 40])
    histories = model.histories[users]
    drawn: dict[str, torch.Tensor] = {}
    original_mask, original_noise = model_module("multvae").dropout_mask, torch.randn

    def keep_mask(*args: Any) -> torch.Tensor:
        drawn["mask"] = original_mask(*args)
        return drawn["mask"]

    def keep_noise(*args: Any, **kwargs: Any) -> torch.Tensor:
        drawn["noise"] = original_noise(*args, **kwargs)
        return drawn["noise"]

    monkeypatch.setattr(model_module("multvae"), "dropout_mask", keep_mask)
    monkeypatch.setattr(torch, "randn", keep_noise)
    loss = model.calculate_loss(Interaction({"user_id": users})).item()
    monkeypatch.undo()

    x = dense(histories, model.n_items)
    mask = np.zeros_like(x)
    mask[histories.rows().numpy(), histories.indices.numpy() - 1] = drawn["mask"].numpy()
    mu, logvar = np.split(numpy_encoder(model.encoder, x, mask), 2, axis=1)
    z = mu + np.exp(0.5 * logvar) * drawn["noise"].numpy()
    reconstruction = -(x * log_softmax(numpy_mlp(model.decoder.layers, z))).sum(1).mean()
    kl = -0.5 * (1 + logvar - mu**2 - np.exp(logvar)).sum(1)
    of_all = dense(model.histories, model.n_items)[1:].sum(1)
    weights = x.sum(1) ** power / (of_all**power).mean()
    assert loss == pytest.approx(reconstruction + (0.1 * weights * kl).mean(), abs=1e-5)
    assert model.step == 11


def test_mult_dae_loss_equals_numpy(build: Builder) -> None:
    model = build("MultDAE", mlp_hidden_size=[], dropout_prob=0.0).model.double().train()
    users = torch.tensor([3, 1, 7, 40])
    x = dense(model.histories[users], model.n_items)
    code = numpy_encoder(model.encoder, x)
    assert np.abs(code).max() < 1.0  # the code is activated
    expected = -(x * log_softmax(numpy_mlp(model.decoder.layers, code))).sum(1).mean()
    assert model.calculate_loss(Interaction({"user_id": users})).item() == pytest.approx(expected, abs=1e-6)


@contextmanager
def drawn(*names: str) -> Iterator[dict[str, torch.Tensor]]:
    """Keep what functions of torch draw, by their names; of several calls the last."""
    kept: dict[str, torch.Tensor] = {}

    def keeping(name: str, original: Any) -> Any:
        def keep(*args: Any, **kwargs: Any) -> torch.Tensor:
            kept[name] = original(*args, **kwargs)
            return kept[name]

        return keep

    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.setattr(torch, name, keeping(name, getattr(torch, name)))
        yield kept


def model_module(name: str) -> Any:
    from importlib import import_module

    return import_module(f"recbole_vae.model.{name}")


def test_loss_gradient_against_finite_differences(build: Builder, model_name: str) -> None:
    model = build(model_name, mlp_hidden_size=[4], latent_dimension=3, total_anneal_steps=0).model.double().train()
    batch = Interaction({"user_id": torch.tensor([1, 2, 5])})

    def loss() -> torch.Tensor:
        torch.manual_seed(0)  # the same noise and dropout in each call
        model.step = 30  # and the same beta
        result: torch.Tensor = model.calculate_loss(batch)
        return result

    model.zero_grad()
    loss().backward()
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        assert parameter.grad is not None, name
        direction = torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
        if name == "linear.weight":
            direction.fill_diagonal_(0)  # it is no parameter
        eps = 1e-6
        with torch.no_grad():
            parameter.add_(eps * direction)
            above = loss().item()
            parameter.sub_(2 * eps * direction)
            below = loss().item()
            parameter.add_(eps * direction)
        expected = (parameter.grad * direction).sum().item()
        assert (above - below) / (2 * eps) == pytest.approx(expected, rel=1e-5, abs=1e-7), name


def test_noise_has_unit_variance_in_training_and_is_absent_in_scoring(
    build: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = build("MultVAE", latent_dimension=64)
    model = run.model.train()
    seen: list[torch.Tensor] = []
    module = model_module("multvae")
    original = module.reparameterise

    def keep(mu: torch.Tensor, logvar: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        seen.append(noise)
        result: torch.Tensor = original(mu, logvar, noise)
        return result

    monkeypatch.setattr(module, "reparameterise", keep)
    for _ in range(20):
        model.calculate_loss(Interaction({"user_id": torch.arange(1, 41)}))
    noise = torch.cat(seen)
    assert noise.mean().item() == pytest.approx(0.0, abs=0.02)
    assert noise.std().item() == pytest.approx(1.0, abs=0.02)
    assert noise[0].ne(noise[40]).all()

    seen.clear()
    model.eval()
    users = Interaction({"user_id": torch.arange(1, 41)})
    assert torch.equal(model.full_sort_predict(users), model.full_sort_predict(users))
    assert not seen


def test_latent_dimension_means_latents(build: Builder) -> None:
    model = build("MultVAE", latent_dimension=6).model
    mu, logvar = model.posterior(model.histories[torch.tensor([1, 2])])
    assert mu.shape == logvar.shape == (2, 6)
    assert model.decoder.layers[0].in_features == 6


@pytest.mark.parametrize("model_name", ["MultVAE", "MultDAE", "HybridVAE"])
def test_no_hidden_layers_is_items_latents_items(build: Builder, model_name: str) -> None:
    model = build(model_name, mlp_hidden_size=[], latent_dimension=6).model
    width = 6 if model_name == "MultDAE" else 12
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    items = model.n_items - 1
    assert shapes == {
        "encoder.input.weight": (items, width),
        "encoder.input.bias": (width,),
        "decoder.layers.0.weight": (items, 6),
        "decoder.layers.0.bias": (items,),
    }


def test_padding_is_nowhere(build: Builder, model_name: str) -> None:
    run = build(model_name)
    model = run.model
    assert model.histories.lengths()[0] == 0
    assert (model.histories.indices > 0).all()
    assert model.decoder.layers[-1].out_features == model.n_items - 1
    assert model.encoder.input.weight.shape[0] == model.n_items - 1
    scores = model.full_sort_predict(Interaction({"user_id": torch.arange(1, 6)})).view(5, -1)
    assert scores.shape == (5, model.n_items)
    assert scores[:, 0].eq(-torch.inf).all()
    assert scores[:, 1:].isfinite().all()


def trained(build: Builder, model_name: str, **options: Any) -> Run:
    run = build(model_name, **options)
    run.fit()
    run.model.eval()
    return run


def test_a_known_user_scores_as_a_new_one_with_the_same_history(build: Builder, model_name: str) -> None:
    model = trained(build, model_name).model
    users = torch.tensor([4, 1, 33])
    lists = [model.histories[user.view(1)].indices.tolist() for user in users]
    with torch.no_grad():
        known = model.full_sort_predict(Interaction({"user_id": users})).view(3, -1)
        new = model.score(Histories.from_lists([items[::-1] for items in lists]))
    assert torch.equal(known, new)


def test_a_batch_scores_as_its_users_one_by_one(build: Builder, model_name: str) -> None:
    model = trained(build, model_name).model
    users = torch.arange(1, 41)
    with torch.no_grad():
        together = model.score(model.histories[users])
        alone = torch.cat([model.score(model.histories[user.view(1)]) for user in users])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_predict_gives_the_scores_of_pairs(build: Builder, model_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = trained(build, model_name).model
    users, items = torch.tensor([5, 2, 5, 9, 2]), torch.tensor([1, 3, 7, 24, 3])
    with torch.no_grad():
        table = model.score(model.histories[torch.arange(model.n_users)])
        pairs = Interaction({"user_id": users, "item_id": items})
        for limit in (2**22, 1):  # all users at once, one at a time
            monkeypatch.setattr("recbole_vae.nn.chunks.SCORES_PER_CHUNK", limit)
            torch.testing.assert_close(model.predict(pairs), table[users, items], rtol=0, atol=1e-5)


def test_the_weights_scale_does_not_change_the_scores(build: Builder, model_name: str) -> None:
    model = trained(build, model_name).model
    histories = model.histories[torch.arange(1, 9)]
    weighted = Histories(histories.indptr, histories.indices, torch.full((len(histories.indices),), 2.5))
    with torch.no_grad():
        torch.testing.assert_close(model.score(histories), model.score(weighted), rtol=0, atol=1e-5)


def test_a_permutation_of_items_permutes_the_scores(build: Builder, model_name: str) -> None:
    model = build(model_name).model.double().eval()
    histories = model.histories[torch.arange(1, 41)]
    order = torch.randperm(model.n_items - 1, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = model.score(histories)
        renamed = Histories.from_lists(
            [(order[histories.slice(row, row + 1).indices - 1] + 1).tolist() for row in range(40)]
        )
        for parameter in (model.encoder.input.weight, model.decoder.layers[-1].weight, model.decoder.layers[-1].bias):
            moved = parameter.clone()
            moved[order] = parameter
            parameter.copy_(moved)
        if model_name in ("HybridVAE", "VASP"):
            weight = model.linear.weight.clone()
            model.linear.weight[order[:, None], order] = weight
        after = model.score(renamed)
    torch.testing.assert_close(after[:, 1:][:, order], before[:, 1:], rtol=0, atol=1e-12)


def check_checker_board(build: Builder, model_name: str, **options: Any) -> None:
    """Even users have all even items but one, odd users the odd ones: that one must come first."""
    size = 12
    rows = [
        (f"u{user:02}", f"i{item:02}")
        for user in range(2 * size)
        for item in range(user % 2, 2 * size, 2)
        if item // 2 != user // 2
    ]
    values = {"epochs": 120, "learning_rate": 0.02, "weight_decay": 0.0, "mlp_hidden_size": [], **options}
    run = build(
        model_name, dataset="tiny", data_path=write_inter(rows), eval_step=0, eval_args={"split": {"RS": [1, 0, 0]}}, **values
    )  # fmt: skip
    run.trainer.fit(run.train, None, verbose=False, saved=False)
    model, data = run.model.eval(), run.dataset
    with torch.no_grad():
        scores = model.score(model.histories)
    scores[model.histories.rows(), model.histories.indices.long()] = -torch.inf
    for user in range(2 * size):
        best = int(scores[data.token2id("user_id", f"u{user:02}")].argmax())
        assert data.id2token("item_id", best) == f"i{user // 2 * 2 + user % 2:02}"


@pytest.mark.parametrize(("hidden", "n_negatives"), [([], 0), ([16], 0), ([16], 10)])
def test_checker_board(build: Builder, model_name: str, hidden: list[int], n_negatives: int) -> None:
    check_checker_board(build, model_name, mlp_hidden_size=hidden, n_negatives=n_negatives)


@pytest.mark.parametrize("other", ["MultVAE", "MultDAE", "HybridVAE"])
@pytest.mark.parametrize(
    "options",
    [{"likelihood": "bernoulli"}, {"likelihood": "gaussian"}, {"likelihood": "poisson"}, {"label_smoothing": 0.2}],
    ids=str,
)
def test_checker_board_by_each_likelihood(build: Builder, other: str, options: dict[str, Any]) -> None:
    check_checker_board(build, other, **options)


class _NothingDense(TorchDispatchMode):
    """Fails on any result as large as a dense batch."""

    def __init__(self, limit: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.limit = limit

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for each in result if isinstance(result, tuple | list) else [result]:
            assert not isinstance(each, torch.Tensor) or each.numel() < self.limit, func
        return result


def test_no_dense_history_is_made(build: Builder, model_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The only thing as large as users times items are the scores; nothing of that size comes before or after them."""
    from recbole.data.dataset import Dataset

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("history_item_matrix was called")

    monkeypatch.setattr(Dataset, "history_item_matrix", refuse)
    rows = [(f"u{user}", f"i{(user * 7 + k) % 300}") for user in range(300) for k in range(6)]
    model = build(model_name, dataset="tiny", data_path=write_inter(rows)).model.train()
    limit = 200 * (model.n_items - 1)
    users = torch.arange(1, 201)
    with _NothingDense(limit):
        histories = model.histories[users]
        model.encoder(histories)
    logits = torch.randn(200, model.n_items - 1)
    with _NothingDense(limit):
        multinomial_log_likelihood(logits, histories)


def test_annealing_by_epochs_reaches_the_cap_when_it_says(build: Builder) -> None:
    run = build("MultVAE", anneal_epochs=4, anneal_cap=0.5, epochs=6, eval_step=0)
    seen = []
    original = run.trainer._train_epoch

    def keep(*args: Any, **kwargs: Any) -> float:
        result: float = original(*args, **kwargs)
        seen.append((run.model.step, run.model.beta()))
        return result

    run.trainer._train_epoch = keep
    run.trainer.fit(run.train, None, verbose=False, saved=False)
    assert [step for step, _ in seen] == [3, 6, 9, 12, 15, 18]  # 40 users in batches of 16
    assert [beta for _, beta in seen] == pytest.approx([0.125, 0.25, 0.375, 0.5, 0.5, 0.5])


@pytest.mark.parametrize("name", ["MultVAE", "HybridVAE"])
@pytest.mark.parametrize(
    ("rise", "rising"),
    [({"anneal_epochs": 4}, [0.125, 0.25, 0.375]), ({"total_anneal_steps": 12}, [0.25])],  # the latter as if to 1
    ids=["epochs", "steps"],
)
def test_a_chosen_beta_rises_first_and_falls_then(
    build: Builder, name: str, rise: dict[str, Any], rising: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    model = build(name, anneal_cap="auto", **rise).model
    seen = []
    with caplog.at_level(logging.INFO):
        for better in [False] * 4 + [True] + [False] * 15 + [True] + [False] * 12:
            model.step += model.steps_per_epoch  # 3: 40 users in batches of 16
            model.evaluated(better)
            seen.append(model.beta())
    assert seen == pytest.approx([*rising, *[0.5] * (14 - len(rising)), *[0.15] * 19])
    assert [each.getMessage() for each in caplog.records if "falls" in each.getMessage()] == [
        "10 evaluations without a better one: the cap of beta falls from 0.5 to 0.15."
    ]
    again = build(name, anneal_cap="auto", **rise).model
    again.load_state_dict(model.state_dict())
    assert again.beta() == model.beta()


@pytest.mark.parametrize("rise", [{"anneal_epochs": 100}, {"total_anneal_steps": 600}], ids=str)
def test_a_beta_that_rises_in_vain_rises_no_further_than_the_second_cap(build: Builder, rise: dict[str, Any]) -> None:
    model = build("MultVAE", anneal_cap="auto", dropout_prob=0.5, **rise).model
    seen: list[float] = []
    for _ in range(40):
        before = model.beta()
        assert model.found() == f"anneal_cap: auto has come to beta {before:.3g}" + (
            "" if len(seen) >= 10 else " (its cap had not fallen by their epoch)"
        )
        model.step += model.steps_per_epoch  # 3
        model.evaluated(False)
        seen.append(model.beta())
    assert seen == pytest.approx([min(0.005 * epoch, 0.15) for epoch in range(1, 41)])


@pytest.mark.parametrize(("stopping_step", "patience"), [(2, 1), (7, 3), (500, 10)])
def test_a_chosen_beta_waits_for_half_of_stopping_step(build: Builder, stopping_step: int, patience: int) -> None:
    model = build("MultVAE", anneal_cap="auto", anneal_epochs=0, stopping_step=stopping_step).model
    seen = []
    for _ in range(patience):
        seen.append(model.cap)
        model.evaluated(False)
    assert seen == [0.5] * patience
    assert model.cap == 0.15


def test_an_empty_history_scores_by_popularity_more_than_not(build: Builder, model_name: str) -> None:
    path = write_inter(random_rows(200, 30, 1))
    run = trained(build, model_name, dataset="tiny", data_path=path, epochs=40, learning_rate=0.01)
    counts = torch.bincount(run.model.histories.indices.long(), minlength=run.model.n_items).double()
    with torch.no_grad():
        scores = run.model.score(Histories.from_lists([[]]))[0].double()
    correlation = np.corrcoef(scores[1:].numpy(), counts[1:].numpy())[0, 1]
    assert correlation > 0.5


def test_the_hybrid_is_its_parts_at_both_ends(build: Builder) -> None:
    run = build("HybridVAE", linear_share=0.0)
    histories = run.model.histories[torch.arange(1, 41)]
    alone = build("MultVAE")
    alone.model.load_state_dict(run.model.state_dict())
    ranks = {}
    with torch.no_grad():
        ranks[0.0] = run.model.score(histories).argsort(1)
        assert torch.equal(ranks[0.0], alone.model.score(histories).argsort(1))
        both = build("HybridVAE", linear_share=1.0).model
        assert torch.equal(both.score(histories)[:, 1:].argsort(1), both.linear(histories).argsort(1))


def test_the_hybrids_scores_equal_numpy(build: Builder) -> None:
    run = build(
        "HybridVAE", linear_share=0.3, linear_l2=2.5, linear_dropout=0.35, linear_user_power=0.2, linear_item_power=0.45,
        kernel_share=0.5, kernel_l2=7.0,
    )  # fmt: skip
    model = run.model.eval()
    histories = model.histories[torch.arange(1, 41)]
    x = dense(histories, model.n_items)
    n, of_items = x.shape[1], x.sum(axis=0)
    y = x / x.sum(axis=1, keepdims=True) ** 0.2 / of_items**0.45
    gram = y.T @ y
    penalty = 2.5 * np.trace(gram) / n + 0.35 / 0.65 * np.diag(gram)
    inverse = np.linalg.inv(gram + np.diag(penalty))
    weight = -inverse / np.diag(inverse) * of_items**0.45 / of_items[:, None] ** 0.45
    np.fill_diagonal(weight, 0)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    cosine = (unit @ unit.T).clip(-1, 1)
    kernel = (np.sqrt(1 - cosine**2) + 2 * cosine * (np.pi - np.arccos(cosine))) / np.pi
    with torch.no_grad():
        parts = [
            (0.2, model.decoder(model.posterior(histories)[0]).double().numpy()),
            (0.3, x @ weight),
            (0.5, kernel @ np.linalg.solve(kernel + 7.0 * np.eye(40), x)),
        ]
        scores = model.score(histories)[:, 1:].numpy()
    expected = np.zeros_like(x)
    for share, part in parts:
        unseen = np.ma.masked_array(part, x > 0)
        mean, deviation = (each.data[:, None] for each in (unseen.mean(axis=1), unseen.std(axis=1)))
        expected += share * (part - mean) / deviation
    np.testing.assert_allclose(scores, expected, atol=2e-4)


def test_the_hybrids_vae_is_trained_as_if_it_were_alone(build: Builder) -> None:
    states = []
    for name in ("HybridVAE", "MultVAE"):
        run = build(name, anneal_epochs=2.0, anneal_cap=0.5, learning_rate=0.01)
        run.trainer.fit(run.train, None, verbose=False, saved=False)
        states.append(run.model.state_dict())
    assert states[0].keys() == states[1].keys()
    for key in states[0]:
        if key != "_extra_state":
            assert torch.equal(states[0][key], states[1][key]), key


def test_the_kernel_path_takes_part(build: Builder) -> None:
    run = build("HybridVAE", linear_share=0.0, kernel_share=1.0)
    histories = run.model.histories[torch.arange(1, 41)]
    with torch.no_grad():
        scores = run.model.score(histories)
        assert torch.equal(scores[:, 1:].argsort(1), run.model.kernel(histories).argsort(1))
        alone = torch.cat([run.model.score(histories.slice(row, row + 1)) for row in range(40)])
    torch.testing.assert_close(scores, alone, rtol=0, atol=1e-4)
    assert run.model.state_dict().keys() == build("MultVAE").model.state_dict().keys()


def test_the_local_linear_path_takes_part(build: Builder) -> None:
    model = build("HybridVAE", linear_share=1.0, linear_neighbours=4).model
    histories = model.histories[torch.arange(1, 41)]
    with torch.no_grad():
        assert torch.equal(model.score(histories)[:, 1:].argsort(1), model.linear(histories).argsort(1))
        all_of_them = build("HybridVAE", linear_share=1.0).model
        assert not torch.allclose(model.score(histories)[:, 1:], all_of_them.score(histories)[:, 1:])


def test_shares_above_the_whole_are_refused(build: Builder) -> None:
    from recbole_vae.errors import ConfigError

    with pytest.raises(ConfigError, match=r"linear_share: 0\.7 and kernel_share: 0\.4 sum to more than 1"):
        build("HybridVAE", linear_share=0.7, kernel_share=0.4)
    with pytest.raises(ConfigError, match=r"linear_share: 1\.5 .*is not allowed; it must be a number >= 0 and <= 1"):
        build("HybridVAE", linear_share=1.5)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("MultDAE", {"mlp_hidden_size": []}),
        ("MultDAE", {"mlp_hidden_size": [9, 7]}),
        ("MultVAE", {"mlp_hidden_size": [9]}),
        ("MultDAE", {"mlp_hidden_size": [], "n_negatives": 8, "weight_decay": 0.0}),
    ],
)
def test_tied_weights_are_one_parameter_with_both_gradients(build: Builder, name: str, options: dict[str, Any]) -> None:
    tied, free = (build(name, tied_weights=tie, **options).model for tie in (True, False))
    state = tied.state_dict()
    free.load_state_dict(state)
    users = torch.arange(1, 20)
    for model in (tied, free):
        torch.manual_seed(3)
        model.loss_terms(model.histories[users], 0, len(users)).loss().backward()
    shared = tied.encoder.input.weight
    assert tied.decoder.layers[-1].weight is shared
    ours, *others = (
        each.grad.to_dense() for each in (shared, free.encoder.input.weight, free.decoder.layers[-1].weight)
    )
    assert all(other.abs().sum() > 0 for other in others)
    torch.testing.assert_close(ours, sum(others))
    saved = sum(each.numel() for each in free.parameters()) - sum(each.numel() for each in tied.parameters())
    assert saved == shared.numel()


def test_tied_weights_stay_tied_in_a_checkpoint(build: Builder) -> None:
    run = build("MultDAE", tied_weights=True, learning_rate=0.01)
    run.fit()
    model = Recommender.load(run.trainer.saved_model_file).model
    assert model.decoder.layers[-1].weight is model.encoder.input.weight
    histories = run.model.histories[torch.arange(1, 9)]
    with torch.no_grad():
        torch.testing.assert_close(model.score(histories), run.model.eval().score(histories), rtol=0, atol=0)


def test_without_a_hidden_layer_there_is_nothing_to_tie_in_multvae(build: Builder) -> None:
    with pytest.raises(ConfigError, match="tied_weights: True needs a hidden layer here"):
        build("MultVAE", tied_weights=True, mlp_hidden_size=[])


def test_the_dropout_of_auto_is_that_of_the_data_and_of_the_checkpoint(
    build: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build("MultVAE").model
    assert model.dropout == dropout_for(model.histories, model.n_real_items) > 0.5
    assert model.found() == f"dropout_prob: auto is {model.dropout:.3g}"
    probabilities: list[float] = []

    def noted(entries: int, probability: float, like: torch.Tensor) -> torch.Tensor:
        probabilities.append(probability)
        return dropout_mask(entries, probability, like)

    monkeypatch.setattr(model_module("multvae"), "dropout_mask", noted)
    model.train().calculate_loss(Interaction({"user_id": torch.tensor([1, 2])}))
    assert probabilities == [model.dropout]
    state = model.state_dict()
    state["_extra_state"]["dropout"] = 0.7  # by another version's rule
    model.load_state_dict(state)
    assert model.dropout == 0.7
    plain = build("MultVAE", dropout_prob=0.3).model
    assert (plain.dropout, plain.found(), plain.get_extra_state()) == (0.3, "", {"step": 0})
