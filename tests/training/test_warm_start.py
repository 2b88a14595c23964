"""A warm start: what belongs to an item goes on with it, by its id; the rest is taken over or begins anew."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recbole_vae.data.histories import Histories
from recbole_vae.errors import CheckpointError
from recbole_vae.model.multdae import MultDAE
from recbole_vae.storage import checkpoint
from recbole_vae.training import warm_start
from recbole_vae.training.warm_start import Items
from tests.conftest import Builder, Run, random_rows, write_inter
from tests.training.test_trainer import same

OF_ITEMS = {
    "encoder.input.weight": 0, "earlier.input.weight": 0, "pseudo_inputs": 1,
    "decoder.layers.2.weight": 0, "decoder.layers.2.bias": 0,
    "CompositeVAE decoder.layers.0.weight": 0, "CompositeVAE decoder.layers.0.bias": 0,
    "VASP decoder.layers.1.weight": 0, "VASP decoder.layers.1.bias": 0,
}  # fmt: skip
"""The dimension of each parameter that is over items, written down here once more."""

ALL = {"eval_args": {"split": {"RS": [1, 0, 0]}}}


def begin(run: Run, path: str) -> str:
    ids = list(map(str, run.train._dataset.field2id_token["item_id"]))
    state = warm_start.load(path, run.config["model"])
    return warm_start.begin(run.model, run.trainer.optimizer, ids, state, path, run.config)


def earlier(build: Builder, model_name: str, **options: Any) -> str:
    """Train on the items i0 to i24, and return the checkpoint."""
    write_inter(random_rows(), "old")
    run = build(model_name, "old", data_path="data", **ALL, **options)
    run.fit()
    return str(run.trainer.saved_model_file)


def test_the_same_items_in_another_order_have_the_same_scores(build: Builder, model_name: str) -> None:
    path = earlier(build, model_name)
    write_inter(random_rows()[::-1], "new")
    now = build(model_name, "new", data_path="data", **ALL)
    assert "25 items stay, 0 are new, 0 are gone; the optimiser goes on" in begin(now, path)
    state = checkpoint.load(path)
    assert list(now.dataset.field2id_token["item_id"]) != state["items"]
    before = build(model_name, "old", data_path="data", **ALL)
    before.model.load_state_dict(state["state_dict"])
    scores = []
    for run in (before, now):
        ids = run.dataset.token2id("item_id", [f"i{item}" for item in range(25)])
        history = Histories.from_lists([ids[:3].tolist(), ids[[2, 7, 20]].tolist()])
        with torch.no_grad():
            scores.append(run.model.eval().score(history)[:, ids])
    torch.testing.assert_close(*scores, rtol=1e-4, atol=1e-5)


def test_items_that_come_and_go(build: Builder, model_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """i0 and i1 are gone, i25 and i26 are new; the parameters of i26, the more popular of these, are means of popular items."""
    monkeypatch.setattr(warm_start, "_ALIKE", 3)
    path = earlier(build, model_name)
    rows = [row for row in random_rows(seed=1) if row[1] not in ("i0", "i1")]
    rows += [(f"u{user}", "i25") for user in range(2)] + [(f"u{user}", "i26") for user in range(39)]
    write_inter(rows, "new")
    now = build(model_name, "new", data_path="data", **ALL)
    fresh = {name: each.clone() for name, each in now.model.state_dict().items() if isinstance(each, torch.Tensor)}
    state = checkpoint.load(path)
    stay = sum(item not in ("i0", "i1") for item in state["items"][1:])
    assert f"{stay} items stay, 2 are new, 2 are gone" in begin(now, path)
    ids = list(now.dataset.field2id_token["item_id"])
    counts = {item: sum(each == item for _, each in rows) for item in ids}
    popular = sorted((item for item in ids[1:] if item in state["items"]), key=counts.__getitem__)[-3:]
    found = now.model.state_dict()
    moments = {
        name: now.trainer.optimizer.state[parameter]
        for name, parameter in now.model.named_parameters()
        if parameter.requires_grad
    }
    saved_moments = dict(zip(moments, range(len(moments)), strict=True))
    assert moments
    for name, old in state["state_dict"].items():
        if not isinstance(old, torch.Tensor):
            continue
        pairs = name == "linear.weight"
        dim = 0 if pairs else OF_ITEMS.get(f"{model_name} {name}", OF_ITEMS.get(name))
        if dim is None:
            assert torch.equal(found[name], old), name
            continue
        new = found[name].movedim(dim, 0).numpy()
        was = old.movedim(dim, 0).numpy()
        for item in set(ids[1:]) & set(state["items"]):
            row, before = new[ids.index(item) - 1], was[state["items"].index(item) - 1]
            if pairs:
                others = [each for each in ids[1:] if each in state["items"]]
                row = row[[ids.index(each) - 1 for each in others]]
                before = before[[state["items"].index(each) - 1 for each in others]]
            np.testing.assert_array_equal(row, before, name)
        row = new[ids.index("i26") - 1]
        if pairs:
            np.testing.assert_array_equal(row, fresh[name][ids.index("i26") - 1])
        else:
            np.testing.assert_allclose(
                row, np.mean([was[state["items"].index(each) - 1] for each in popular], 0), rtol=1e-5
            )
        if name in saved_moments and dim == 0 and "exp_avg" in moments[name]:
            first = moments[name]["exp_avg"]
            assert first.shape == found[name].shape
            assert not first[[ids.index(each) - 1 for each in ("i25", "i26")]].any()
            assert first.any()
    now.fit()  # with the optimiser's state
    assert all(parameter.isfinite().all() for parameter in now.model.parameters())


@pytest.mark.parametrize(
    "options", [{}, {"learner": "sgd"}, {"learner": "rmsprop"}, {"n_negatives": 8}, {"weight_averaging": 3}], ids=str
)
def test_on_the_same_data_all_is_as_it_was(build: Builder, options: dict[str, Any]) -> None:
    path = earlier(build, "MultVAE", **options)
    now = build("MultVAE", "old", data_path="data", **ALL, **options)
    begin(now, path)
    state = checkpoint.load(path)
    assert same(dict(now.model.state_dict()), dict(state["state_dict"]))
    found = now.trainer.optimizer.state_dict()
    assert same(found["state"], state["optimizer"]["state"])
    before = checkpoint.load(path)
    now.fit()
    assert same(checkpoint.load(path), before)


def test_the_moments_follow_their_items(build: Builder) -> None:
    path = earlier(build, "MultVAE")
    write_inter(random_rows()[::-1], "new")
    now = build("MultVAE", "new", data_path="data", **ALL)
    begin(now, path)
    state = checkpoint.load(path)
    ids = list(now.dataset.field2id_token["item_id"])
    order = [state["items"].index(item) - 1 for item in ids[1:]]
    names = [name for name, parameter in now.model.named_parameters() if parameter.ndim > 1]
    place = names.index("encoder.input.weight")
    for moment in ("exp_avg", "exp_avg_sq"):
        found = now.trainer.optimizer.state[now.model.encoder.input.weight][moment]
        assert torch.equal(found, state["optimizer"]["state"][place][moment][order])


def test_another_optimiser_begins_anew(build: Builder) -> None:
    path = earlier(build, "MultVAE")
    now = build("MultVAE", "old", data_path="data", **ALL, learner="sgd")
    assert "the optimiser is another, and begins anew." in begin(now, path)
    assert not now.trainer.optimizer.state


@pytest.mark.parametrize(
    "schedule", [{"anneal_epochs": 5.0}, {"anneal_cap": "auto", "anneal_epochs": 5.0}, {"anneal_epochs": 0.0}], ids=str
)
def test_beta_goes_on_from_where_it_was(build: Builder, schedule: dict[str, Any]) -> None:
    write_inter(random_rows(), "old")
    before = build("MultVAE", "old", data_path="data", **schedule)
    before.fit()
    beta = before.model.beta()
    assert beta > 0
    write_inter(random_rows(users=200), "new")  # five times as many steps in an epoch
    now = build("MultVAE", "new", data_path="data", **schedule)
    assert now.model.beta() == (0.0 if schedule["anneal_epochs"] else beta)
    begin(now, before.trainer.saved_model_file)
    assert now.model.beta() == pytest.approx(beta, rel=0.01)


def test_a_run_says_what_was_taken_over_and_begins_with_it(build: Builder, caplog: pytest.LogCaptureFixture) -> None:
    path = earlier(build, "MultVAE", epochs=30, learning_rate=0.02)
    losses = []
    for start in (None, path):
        run = build("MultVAE", "old", data_path="data", epochs=1, warm_start=start, anneal_epochs=0.0)
        with caplog.at_level(logging.INFO):
            run.fit()
        losses.append(run.trainer.loss_terms["reconstruction"])
    assert losses[1] < 0.95 * losses[0]
    assert f"Warm start from {path}: 25 items stay, 0 are new, 0 are gone; the optimiser goes on." in caplog.text
    state = checkpoint.load(run.trainer.saved_model_file)
    assert state["epochs_from_scratch"] is None
    assert "warm_start" not in state["config"]


HELD_OUT = {"HU": [8, 8]}


@pytest.mark.parametrize(
    ("before", "now", "seed"),
    [
        ({"RS": [1, 0, 0]}, {"RS": [0.8, 0.1, 0.1]}, 2020), ({"RS": [0.8, 0.1, 0.1]}, {"RS": [0.8, 0.1, 0.1]}, 2020),
        ({"RS": [0.8, 0.1, 0.1]}, {"RS": [0.8, 0.1, 0.1]}, 2021), (HELD_OUT, HELD_OUT, 2020), (HELD_OUT, HELD_OUT, 2021),
        (HELD_OUT, {"RS": [0.8, 0.1, 0.1]}, 2020),
    ],
)  # fmt: skip
def test_a_warm_start_that_has_seen_what_is_to_be_found_is_said_beside_the_results(
    build: Builder, caplog: pytest.LogCaptureFixture, before: dict[str, Any], now: dict[str, Any], seed: int
) -> None:
    earlier = build("MultVAE", eval_args={"split": before})
    earlier.fit()
    with_it = interactions(earlier.train)
    run = build("MultVAE", warm_start=earlier.trainer.saved_model_file, eval_args={"split": now}, seed=seed)
    run.fit()
    for part, name in ((run.valid, "validation"), (run.test, "test")):
        found = interactions(part)
        both = len(found & with_it)
        gaps = " ".join(run.trainer.evaluate(part).gaps)
        said = f"was trained with {both} of the {len(found)} interactions of the {name} part, so what is measured"
        assert (said in gaps) is (said in caplog.text) is (said in " ".join(run.trainer.notes)) is bool(both)
        assert ("training began with" in gaps) is bool(both)
        if before == now and seed == 2020:
            assert not both
        else:
            assert both > 4


def test_a_note_on_what_was_seen_goes_on_with_the_checkpoint(build: Builder) -> None:
    whole = build("MultVAE", eval_args={"split": {"RS": [1, 0, 0]}})
    whole.fit()
    first = build("MultVAE", warm_start=whole.trainer.saved_model_file)
    first.fit()
    path = first.trainer.saved_model_file
    (note,) = checkpoint.load(path)["notes"]
    assert note.startswith(f"training began with {whole.trainer.saved_model_file}, which was trained with 40 of the 40")
    second = build("MultVAE", warm_start=path)
    second.fit()
    assert f"{path} has a note that may hold here, too: {note}" in second.trainer.evaluate(second.test).gaps
    resumed = build("MultVAE", resume=path, epochs=4)
    resumed.fit()
    assert note in resumed.trainer.evaluate(resumed.test).gaps
    assert checkpoint.load(path)["notes"] == [note]
    assert not any("note" in gap for gap in build("MultVAE").trainer.evaluate(second.test, load_best_model=False).gaps)


def interactions(data: Any) -> set[tuple[str, str]]:
    """Return users and items of a part, by their ids in the file."""
    part = data._dataset
    columns = [
        [str(token) for token in part.field2id_token[name][part.inter_feat[name].numpy()]]
        for name in ("user_id", "item_id")
    ]
    return set(zip(*columns, strict=True))


def test_what_does_not_fit_is_refused(build: Builder) -> None:
    path = earlier(build, "MultVAE")
    state = checkpoint.load(path)
    with pytest.raises(CheckpointError, match=f"^{path}: a checkpoint of MultVAE, and warm_start needs one of MultDAE"):
        begin(build("MultDAE", "old", data_path="data"), path)
    for options in ({"mlp_hidden_size": [13]}, {"latent_dimension": 7}, {"mlp_hidden_size": [12, 12]}):
        run = build("MultVAE", "old", data_path="data", **options)
        before = {name: each.clone() for name, each in run.model.named_parameters()}
        with pytest.raises(
            CheckpointError, match=r"which does not fit. A warm start needs the same layers \(mlp_hidden"
        ):
            begin(run, path)
        assert same(before, dict(run.model.named_parameters()))
    write_inter([(user, f"other{item}") for user, item in random_rows()], "others")
    with pytest.raises(CheckpointError, match="has none of the data set's items .*so there is nothing to begin with"):
        begin(build("MultVAE", "others", data_path="data"), path)
    assert same(state, checkpoint.load(path))


def test_a_layer_may_be_as_wide_as_there_are_items(build: Builder) -> None:
    path = earlier(build, "MultVAE", mlp_hidden_size=[26])
    write_inter([*random_rows(), ("u0", "new")], "new")
    said = begin(build("MultVAE", "new", data_path="data", **ALL, mlp_hidden_size=[26]), path)
    assert "25 items stay, 1 are new" in said


class WithPrices(MultDAE):
    """It does not declare that a parameter of its own is of items."""

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.prices = torch.nn.Parameter(torch.zeros(self.n_real_items))


@pytest.mark.parametrize("declared", [False, True])
def test_a_parameter_that_does_not_declare_its_items_is_refused(build: Builder, declared: bool) -> None:
    """Even where there are as many items as before: its entries would be those of other items."""
    path = earlier(build, "MultDAE")
    state = checkpoint.take(path)
    state["state_dict"]["prices"] = torch.arange(25.0)
    checkpoint.save(state, "prices.pth")
    for rows, fits in ((random_rows(), True), (random_rows()[::-1], declared)):
        write_inter(rows, "new")
        run = build("MultDAE", "new", data_path="data", **ALL)
        run.model = WithPrices(run.config, run.train._dataset)
        if declared:
            run.model.item_dims = {"prices": (0,)}
        run.trainer.optimizer = torch.optim.SGD(run.model.parameters(), lr=0.1)
        run.config["learner"] = "sgd"
        if fits:
            begin(run, "prices.pth")
            ids = list(run.dataset.field2id_token["item_id"])[1:]
            assert run.model.prices.tolist() == [state["items"].index(item) - 1 for item in ids]
            continue
        with pytest.raises(
            CheckpointError, match=r"parameter 'prices' has shape \[25\] there and \[25\] here.*item_dims"
        ):
            begin(run, "prices.pth")


@pytest.mark.parametrize("kept", [1, 2, 7, 60])
def test_new_items_are_like_items_as_popular(kept: int) -> None:
    rng = np.random.default_rng(kept)
    before = [f"i{item}" for item in range(kept)]
    now = list(rng.permutation([*before, "rare", "popular"]))
    counts = torch.from_numpy(rng.integers(5, 100, len(now)))
    counts[now.index("rare")], counts[now.index("popular")] = 1, 1000
    items = Items.match(before, now, counts)
    assert [now[place] for place in items.now] == [before[place] for place in items.before]
    by_count = counts[items.now].sort().values
    some = min(50, kept)
    found = {
        now[place]: counts[items.now][alike].sort().values for place, alike in zip(items.new, items.alike, strict=True)
    }
    assert torch.equal(found["rare"], by_count[:some])
    assert torch.equal(found["popular"], by_count[-some:])


def test_a_missing_file_is_an_error_of_one_line(build: Builder) -> None:
    write_inter(random_rows(), "old")
    with pytest.raises(CheckpointError, match="^nowhere.pth: there is no such checkpoint"):
        build("MultVAE", "old", data_path="data", warm_start="nowhere.pth")
    assert not list(Path("saved").glob("*.pth"))
