"""Items without interactions: scored from their features, the same in every model, and kept in checkpoints."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from recbole_vae.data.histories import Histories
from recbole_vae.errors import ConfigError
from recbole_vae.evaluation.metrics import Result
from recbole_vae.nn.cold import Strengths
from recbole_vae.serving.recommender import Recommender
from recbole_vae.training import mixture
from recbole_vae.training.cold import REACHES, _Sample, choose_strengths, ndcg
from recbole_vae.training.refit import recipe
from recbole_vae.training.trainer import HistoryTrainer
from tests.conftest import OWN, Builder, Run, write_inter

MODELS = ["MultVAE", "MultDAE", "HybridVAE", "CompositeVAE", "VampVAE", "VASP"]
N_ITEMS, COLD = 24, ["i22", "i23"]


def write_data(folder: str = "data") -> str:
    """Users like the even or the odd items, and so does the field ``group``; ``noise`` says nothing. Two items are cold."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(60):
        liked = [item for item in range(22) if item % 2 == user % 2]
        rows += [(f"u{user}", f"i{item}") for item in rng.choice(liked, 6, replace=False)]
        rows.append((f"u{user}", f"i{rng.integers(22)}"))
    rows += [("cold", item) for item in COLD]  # of a user who is left to the test part
    path = write_inter(sorted(set(rows[: -len(COLD)])), folder=folder, part="train")
    write_inter([("u0", "i1"), ("u1", "i0"), ("u2", "i3")], folder=folder, part="valid")
    write_inter([("u0", item) for item in COLD], folder=folder, part="test")
    noise = rng.integers(3, size=N_ITEMS)
    lines = [f"i{item}\t{'even' if item % 2 == 0 else 'odd'}\t{noise[item]}" for item in range(N_ITEMS)]
    Path(folder, "tiny", "tiny.item").write_text("\n".join(["item_id:token\tgroup:token\tnoise:token", *lines]) + "\n")
    return path


def run_of(build: Builder, model: str = "MultVAE", **options: Any) -> Run:
    parts = {"benchmark_filename": ["train", "valid", "test"]}
    features = {"item_features": ["group", "noise"]}
    path = options.pop("data_path", None) or write_data()
    return build(model, "tiny", **{"data_path": path, **parts, **features, **options})


def ids(run: Run, *items: str) -> list[int]:
    return [int(run.dataset.token2id("item_id", item)) for item in items]


def scores_of(run: Run, rows: slice = slice(1, 9)) -> torch.Tensor:
    run.model.eval()
    with torch.no_grad():
        found: torch.Tensor = run.model.score(run.model.histories[torch.arange(60)[rows]])
    return found


@pytest.mark.parametrize("model", MODELS)
def test_cold_items_have_the_regression_of_the_other_scores(build: Builder, model: str) -> None:
    run = run_of(build, model)
    found = scores_of(run).double().numpy()[:, 1:]
    columns = [each - 1 for each in ids(run, *COLD)]
    warm = np.setdiff1d(np.arange(N_ITEMS), columns)
    features = run.model.features.table.toarray().astype(float)
    centred = features - features[warm].mean(0)
    ridge = centred[warm].T @ centred[warm] + 3 * np.eye(features.shape[1])
    mean = found[:, warm].mean(1, keepdims=True)
    expected = (found[:, warm] - mean) @ centred[warm] @ np.linalg.solve(ridge, centred[columns].T) + mean
    np.testing.assert_allclose(found[:, columns], expected, atol=1e-4)


@pytest.mark.parametrize("model", ["MultVAE", "VASP"])
def test_warm_items_have_the_scores_that_they_have_without_features(build: Builder, model: str) -> None:
    run, plain = run_of(build, model), run_of(build, model, item_features=[])
    warm = np.setdiff1d(np.arange(1, N_ITEMS + 1), ids(run, *COLD))
    torch.testing.assert_close(scores_of(run)[:, warm], scores_of(plain)[:, warm], rtol=0, atol=0)
    assert not torch.allclose(scores_of(run), scores_of(plain))


@pytest.mark.parametrize("model", MODELS)
def test_an_added_item_is_scored_as_a_cold_one_of_the_data(build: Builder, model: str) -> None:
    run = run_of(build, model)
    cold = ids(run, *COLD)
    before = scores_of(run)
    run.model.add_items(run.model.features.table[[each - 1 for each in cold]])
    after = scores_of(run)
    assert after.shape[1] == before.shape[1] + 2
    torch.testing.assert_close(after[:, :-2], before, rtol=0, atol=0)
    torch.testing.assert_close(after[:, -2:], before[:, cold])
    assert run.model.alike(N_ITEMS + 1, 5) == run.model.alike(cold[0], 5)
    run.model.add_items(run.model.features.table[[cold[0] - 1]], bonus=2.0)
    raised = scores_of(run)
    real = before[:, 1:]
    torch.testing.assert_close(raised[:, -1], before[:, cold[0]] + 2 * real.std(1), rtol=1e-4, atol=1e-4)


def test_a_correction_for_popularity_reaches_cold_items_through_the_others(build: Builder) -> None:
    run = run_of(build, popularity_correction=0.7)
    run.model.add_items(run.model.features.table[[ids(run, COLD[0])[0] - 1]])
    corrected = scores_of(run)
    with run.model.corrected_by(0.0):
        plain = scores_of(run)
    torch.testing.assert_close(run.model.uncorrected(corrected), plain)
    assert not torch.allclose(corrected[:, ids(run, *COLD)], plain[:, ids(run, *COLD)])


def test_an_item_is_like_those_with_its_features(build: Builder) -> None:
    run = run_of(build, item_features=["group"])
    odd, even = ids(run, "i23", "i22")
    for cold, parity in ((odd, 1), (even, 0)):
        found = run.model.alike(cold, 5)
        assert len(found) == 5
        assert sum(weight for _, weight in run.model.alike(cold, 20)) == pytest.approx(1)
        tokens = [str(run.dataset.id2token("item_id", item)) for item, _ in found]
        assert all(int(token[1:]) % 2 == parity for token in tokens)
        assert cold not in [item for item, _ in found]
    assert run.model.alike(ids(run, "i3")[0], 5) == []


def test_a_cold_item_in_a_history_stands_as_those_it_is_like(build: Builder) -> None:
    run = run_of(build)
    warm, cold = ids(run, "i3")[0], ids(run, "i23")[0]
    found = run.model.in_warm_items(Histories.from_lists([[warm, cold], [warm]]))
    like = dict(run.model.alike(cold, 20))
    expected = {**like, warm: like.get(warm, 0) + 1}
    assert dict(zip(found.indices[:-1].tolist(), found.entry_values()[:-1].tolist(), strict=True)) == pytest.approx(
        expected
    )
    assert (int(found.indices[-1]), float(found.entry_values()[-1])) == (warm, 1.0)
    plain = Histories.from_lists([[warm]])
    assert run.model.in_warm_items(plain) is plain
    history = Histories.from_lists([[cold]])
    best = run.model.eval().ranking_scores(history)[0]
    assert torch.isfinite(best[1:]).all()


def test_without_features_nothing_can_be_added(build: Builder) -> None:
    run = run_of(build, item_features=[])
    with pytest.raises(ConfigError, match="trained without: train it with item_features"):
        run.model.add_items(np.zeros((1, 2)))


@pytest.mark.parametrize("model", MODELS)
def test_a_checkpoint_needs_no_file(build: Builder, model: str, caplog: pytest.LogCaptureFixture) -> None:
    run = run_of(build, model)
    with caplog.at_level(logging.INFO):
        run.fit()
    assert "New items are scored by group" in caplog.text
    run.trainer.evaluate(run.test)
    expected = scores_of(run)
    Path("data", "tiny", "tiny.item").unlink()
    again = Recommender.load(run.trainer.saved_model_file).model
    assert again.feature_strengths == run.model.feature_strengths is not None
    with torch.no_grad():
        torch.testing.assert_close(again.score(again.histories[torch.arange(1, 9)]), expected, rtol=1e-5, atol=1e-5)


def test_a_resumed_run_ends_like_one_that_was_not_interrupted(build: Builder) -> None:
    whole = run_of(build, epochs=4, checkpoint_dir="whole")
    whole.fit()
    first = run_of(build, epochs=2, checkpoint_dir="first")
    first.fit()
    second = run_of(build, epochs=4, resume=first.trainer.saved_model_file)
    second.fit()
    assert torch.equal(scores_of(whole), scores_of(second))
    assert whole.model.feature_strengths == second.model.feature_strengths


def test_strengths_follow_what_the_features_say(build: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(build, epochs=60, dropout_prob=0.3, learning_rate=0.01, stopping_step=0)
    run.fit()
    bad = Strengths(3.0, {"group": 0.03, "noise": 3.0})
    monkeypatch.setattr("recbole_vae.training.cold.starting_strengths", lambda features: bad)
    monkeypatch.setattr("recbole_vae.training.cold._K", 2)  # of four or five items
    strengths, judged = choose_strengths(run.model.eval())
    assert judged.users > 20
    assert judged.helps
    with torch.no_grad():
        samples = [_Sample(run.model, fold) for fold in range(5)]
    assert judged.score == pytest.approx(np.mean([sample.measured(strengths) for sample in samples]))
    assert judged.score > np.mean([sample.measured(bad) for sample in samples]) + 0.05
    cold = scores_of(run, slice(1, 60))[:, ids(run, "i22", "i23")]
    histories = run.model.histories
    odd = ids(run, *(f"i{item}" for item in range(1, 22, 2)))
    is_odd = torch.isin(histories.indices, torch.tensor(odd)).float()
    share = torch.stack([
        is_odd[histories.indptr[user] : histories.indptr[user + 1]].mean() for user in range(1, 60)
    ])  # fmt: skip
    assert ((cold[:, 1] > cold[:, 0]) == (share > 0.5)).float().mean() > 0.9


@pytest.mark.parametrize("wanted", ["warm", "cold"])
def test_the_validation_part_says_how_far_cold_items_reach(
    build: Builder, wanted: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_data()
    had = (
        pd.read_csv("data/tiny/tiny.train.inter", sep="\t")
        .set_axis(["user", "item"], axis=1)
        .groupby("user")
        .item.apply(set)
    )
    rows = []
    for number in range(60):
        left = [f"i{item}" for item in range(number % 2, 22, 2) if f"i{item}" not in had[f"u{number}"]]
        rows += [(f"u{number}", item) for item in (left if wanted == "warm" else [COLD[number % 2]])]
    write_inter(rows, folder="data", part="valid")
    options: dict[str, Any] = {
        "epochs": 40,
        "dropout_prob": 0.3,
        "learning_rate": 0.01,
        "topk": [3],
        "valid_metric": "NDCG@3",
    }
    run = run_of(build, data_path=path, **options)
    with caplog.at_level(logging.INFO):
        run.fit()
    chosen = run.model.feature_strengths
    assert (chosen.reach < 1) == (wanted == "warm") == ("held back" in caplog.text)
    found = {}
    for reach in REACHES:
        run.model.regress(replace(chosen, reach=reach))
        found[reach] = run.trainer.evaluate(run.valid, load_best_model=False)["ndcg@3"]
    assert found[chosen.reach] == max(found.values())
    assert run.trainer.best_valid_result["ndcg@3"] == found[chosen.reach]
    assert Recommender.load(run.trainer.saved_model_file).model.feature_strengths == chosen
    assert recipe(run.trainer.saved_model_file).reach == chosen.reach


def test_cold_items_are_held_back_for_more_than_noise_alone(
    build: Builder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = run_of(build, epochs=1, topk=[3], valid_metric="NDCG@3", metrics=["NDCG", "ItemCoverage"])
    run.fit()
    start = replace(run.model.feature_strengths, reach=1.0)
    rng = np.random.default_rng(0)
    whole = rng.random(50)
    noise, gain = rng.normal(0, 0.5, 50), rng.normal(0.2, 0.5, 50)
    noise += 0.3 * noise.std(ddof=1) / 50**0.5 - noise.mean()  # .3 standard errors
    values = {1.0: whole, 0.7: whole + noise, 0.5: whole + gain, 0.25: whole + gain + noise}

    def evaluate(*_: Any, **__: Any) -> Result:
        found = Result({"ndcg@3": float(values[run.model.feature_strengths.reach].mean()), "itemcoverage@3": 0.5})
        found.per_user = {"ndcg@3": values[run.model.feature_strengths.reach]}
        return found

    monkeypatch.setattr(run.trainer, "evaluate", evaluate)
    assert values[0.25].mean() > values[0.5].mean() > values[0.7].mean() > values[1.0].mean()
    with caplog.at_level(logging.INFO):
        run.trainer._choose_reach(start, run.valid)
    assert run.model.feature_strengths.reach == 0.5  # not .7, and not .25, which are above by .3 standard errors
    assert (
        f"0.5 of that spread has ndcg@3 {values[0.5].mean():.4f} on the validation part, and the whole " in caplog.text
    )
    for names in ({"valid_metric": "itemcoverage@3"}, {"valid_metric_bigger": False}):
        for name, value in names.items():
            monkeypatch.setattr(run.trainer, name, value)
        run.trainer._choose_reach(start, run.valid)
        assert run.model.feature_strengths.reach == 1.0  # no standard error; worse if less is better
        monkeypatch.setattr(run.trainer, "valid_metric", "ndcg@3")


def test_no_reach_is_chosen_where_items_are_held_out(build: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    judged: list[Any] = []
    monkeypatch.setattr(HistoryTrainer, "_choose_reach", lambda self, *given: judged.append(given))
    run_of(build, epochs=5, topk=[2], valid_metric="NDCG@2").fit()
    assert len(judged) == 1
    path = write_data()
    Path("data/tiny/tiny.train.inter").rename("data/tiny/tiny.inter")
    split: dict[str, Any] = {
        "benchmark_filename": None,
        "eval_args": {"split": {"RS": [0.8, 0.1, 0.1], "HI": [4, 4]}, "mode": "full"},
    }
    held_out = run_of(build, data_path=path, epochs=5, topk=[2], valid_metric="NDCG@2", **split)
    held_out.fit()
    assert held_out.model.scores_cold_items
    assert len(judged) == 1


def test_items_that_are_added_have_the_whole_spread(build: Builder) -> None:
    run = run_of(build)
    cold = ids(run, *COLD)
    whole = scores_of(run)
    run.model.regress(Strengths(3.0, {"group": 1.0, "noise": 1.0}, reach=0.5))
    run.model.add_items(run.model.features.table[[each - 1 for each in cold]])
    found, warm = scores_of(run), np.setdiff1d(np.arange(1, N_ITEMS + 1), cold)
    mean = whole[:, warm].mean(1, keepdim=True)
    torch.testing.assert_close(found[:, -2:], whole[:, cold])
    torch.testing.assert_close(found[:, cold], mean + 0.5 * (whole[:, cold] - mean), rtol=1e-4, atol=1e-5)


def test_features_that_say_nothing_do_not_stand_out(
    build: Builder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("recbole_vae.training.cold._K", 2)
    with caplog.at_level(logging.WARNING):
        run = run_of(build, epochs=30, learning_rate=0.01, stopping_step=0, item_features=["noise"])
        run.fit()
    assert run.model.feature_strengths == Strengths(3.0, {"noise": 1.0}, 1.0)
    assert "item_features: noise say nothing about what users like" in caplog.text


def test_chance_is_the_mean_of_random_orders(build: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recbole_vae.training.cold._K", 3)
    run = run_of(build, epochs=1)
    with torch.no_grad():
        sample = _Sample(run.model.eval(), 0)
    rng, relevant = np.random.default_rng(0), sample._relevant
    orders = [rng.permuted(relevant, axis=1)[:, :3] for _ in range(3_000)]
    assert sample.chance() == pytest.approx(np.mean([ndcg(each, relevant.sum(1)).mean() for each in orders]), rel=0.01)


def test_items_that_nobody_has_are_counted(build: Builder, caplog: pytest.LogCaptureFixture) -> None:
    path = write_data()
    with Path(path, "tiny", "tiny.item").open("a") as file:
        file.write("new1\teven\t1\nnew2\todd\t1\n")
    with caplog.at_level(logging.INFO):
        build("MultVAE", "tiny", data_path=path, benchmark_filename=["train", "valid", "test"], item_features=["group"])
    assert "2 items of tiny.item are not in the data set" in caplog.text


def test_ndcg_equals_its_definition() -> None:
    found = np.array([[True, False, True], [False, False, False]])
    expected = (1 + 1 / np.log2(4)) / (1 + 1 / np.log2(3))
    np.testing.assert_allclose(ndcg(found, np.array([2, 5])), [expected, 0])


def test_features_in_the_linear_path(build: Builder) -> None:
    own = {**OWN["HybridVAE"], "linear_share": 1.0}
    run, plain = (run_of(build, "HybridVAE", **own, linear_features=weight) for weight in (3.0, 0.0))
    assert not torch.allclose(run.model.path("linear").weight, plain.model.path("linear").weight)
    with pytest.raises(ConfigError, match="linear_features: 3 needs item_features"):
        run_of(build, "HybridVAE", **own, linear_features=3.0, item_features=[])


def test_a_mixture_is_chosen_by_warm_items(build: Builder) -> None:
    write_data()
    data = Path("data", "tiny")
    (data / "tiny.inter").write_text((data / "tiny.train.inter").read_text())
    args = {"split": {"RS": [0.7, 0.2, 0.1], "HI": [4, 4]}, "order": "RO", "group_by": "user", "mode": "full"}
    run = build(
        "HybridVAE", "tiny", data_path="data", item_features=["group"], eval_args=args, topk=[3], metrics=["NDCG"],
        valid_metric="NDCG@3", **dict.fromkeys(("linear_share", "kernel_share", "linear_l2"), "auto"),
    )  # fmt: skip
    judge = mixture._Judge(run.trainer, run.valid)
    judge.collect(["vae", "linear"])
    cold = run.valid._dataset.candidates.kinds["cold"]
    counts = run.model.histories.counts(run.model.n_real_items)
    assert (counts[cold - 1] == 0).all()
    assert judge.scores_of("vae")[torch.isin(judge._first, cold)].isneginf().all()
    assert (judge._relevant > 0).all()
    feat = run.valid._dataset.inter_feat
    warm_users = torch.unique(feat["user_id"][~torch.isin(feat["item_id"], cold)])
    assert torch.equal(judge._users, warm_users)
    run.fit()
    result = run.trainer.evaluate(run.test)
    assert {"ndcg@3", "warm_ndcg@3", "cold_ndcg@3"} <= set(result)


def test_a_mixture_is_chosen_by_cold_items_where_there_is_nothing_else(build: Builder) -> None:
    write_data()
    data = Path("data", "tiny")
    (data / "tiny.inter").write_text((data / "tiny.train.inter").read_text())
    args = {"split": {"HI": [4, 4]}, "order": "RO", "group_by": "user", "mode": "full"}
    run = build(
        "HybridVAE", "tiny", data_path="data", item_features=["group"], eval_args=args, topk=[3], metrics=["NDCG"],
        **dict.fromkeys(("linear_share", "kernel_share", "linear_l2"), "auto"),
    )  # fmt: skip
    assert run.config["valid_metric"] == "cold_NDCG@3"
    judge = mixture._Judge(run.trainer, run.valid)
    judge.collect(["vae", "linear"])
    cold = run.valid._dataset.candidates.kinds["cold"]
    scores = judge.scores_of("vae")
    assert torch.equal(scores.isneginf(), ~torch.isin(judge._first, cold))
    run.fit()
    assert run.model.chosen is not None


def test_strengths_in_words() -> None:
    assert (
        str(Strengths(3.0, {"genre": 1.0, "title:text": 0.1}, 2.5)) == "genre 1, title:text 0.1 (ridge 3, spread 2.5)"
    )


def test_a_warm_start_takes_the_features_of_its_own_data(build: Builder) -> None:
    first = run_of(build, epochs=1)
    first.fit()
    lines = Path("data", "tiny", "tiny.train.inter").read_text().splitlines()
    more = [lines[0], "new\ti30", *reversed(lines[1:])]  # other internal ids, and an item more
    Path("data", "tiny", "tiny.train.inter").write_text("\n".join(more) + "\n")
    with Path("data", "tiny", "tiny.item").open("a") as file:
        file.write("i30\teven\t1\n")
    second = build(
        "MultVAE", "tiny", data_path="data", benchmark_filename=["train", "valid", "test"], epochs=1,
        item_features=["group", "noise"], warm_start=first.trainer.saved_model_file,
    )  # fmt: skip
    second.fit()
    features = second.model.features
    for item in ("i30", "i4", "i5"):
        row = features.table[ids(second, item)[0] - 1].toarray()[0]
        assert (row[features.space.names.index("group=even")] > 0) == (int(item[1:]) % 2 == 0)


def test_made_scores_are_spread_as_the_models_own(build: Builder) -> None:
    run = run_of(build, epochs=30, learning_rate=0.01, stopping_step=0)
    run.fit()
    strengths, _ = choose_strengths(run.model.eval())
    with torch.no_grad():
        own, made = np.mean([_Sample(run.model, fold).variances(strengths) for fold in range(5)], axis=0)
    assert strengths.spread == pytest.approx(max(1.0, (own / made) ** 0.5), rel=1e-5)
    assert strengths.spread > 1
    found = {}
    for spread in (1.0, strengths.spread):
        run.model.regress(Strengths(strengths.l2, strengths.fields, spread))
        scores = scores_of(run)[:, 1:]
        mean = scores[:, [each - 1 for each in ids(run, *(f"i{item}" for item in range(22)))]].mean(1, keepdim=True)
        found[spread] = scores[:, [each - 1 for each in ids(run, *COLD)]] - mean
    torch.testing.assert_close(found[strengths.spread], found[1.0] * strengths.spread, rtol=1e-3, atol=1e-3)
