from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from recbole.model.general_recommender.pop import Pop
from recbole.quick_start import run_recbole

import recbole_vae
from recbole_vae.compare.measure import CORRECTIONS, measure
from recbole_vae.compare.part import popularity_bins
from recbole_vae.compare.results import DONE, REFUSED, Run
from recbole_vae.errors import ConfigError
from tests.conftest import Builder, random_rows, write_inter

HELD_OUT = {"eval_args": {"split": {"HU": [6, 6]}, "min_items": 2, "mode": "full"}}
MANY_HELD_OUT = {"eval_args": {"split": {"HU": [6, 16]}, "min_items": 2, "mode": "full"}}
METRICS = ["Recall", "NDCG", "MRR"]


def job(model: str, seed: int = 1, **more: Any) -> dict[str, Any]:
    settings = {"data_path": write_inter(random_rows()), "epochs": 2, "stopping_step": 5, **more.pop("settings", {})}
    return {
        "dataset": "tiny", "model": model, "seed": seed, "split_seed": None, "settings": settings, "metrics": METRICS,
        "topk": [3, 5], "primary": "NDCG@5", "max_k": 8, **more,
    }  # fmt: skip


@pytest.mark.parametrize(("model", "steps"), [("EASE", 1), ("MultDAE", 3), ("HybridVAE", 4)])
def test_cpu_time_is_that_of_the_steps_of_the_training_time(
    model: str, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Construction, two epochs, and the choice of a mixture; each looks at the clock before and after."""
    looks = 0

    def clock() -> float:
        nonlocal looks
        looks += 1
        return 100.0 + 7 * looks

    for module in ("compare.measure", "training.trainer"):
        monkeypatch.setattr(f"recbole_vae.{module}.cpu_seconds", clock)
    run = measure(job(model))
    assert looks == 2 * steps
    assert run.cpu_seconds == 7 * steps
    assert sum(epoch["seconds"] for epoch in run.curve) < run.training_seconds < run.seconds


@pytest.mark.parametrize("model", ["MultDAE", "EASE", "BPR"])
@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
def test_the_numbers_are_recboles(model: str) -> None:
    run = measure(job(model, settings={"epochs": 3}))
    assert run.status == DONE
    names = [*METRICS, "ItemCoverage", "GiniIndex", "AveragePopularity"]
    options = {
        **job(model)["settings"], "epochs": 3, "seed": 1, "metrics": names, "topk": [3, 5], "valid_metric": "NDCG@5",
        "show_progress": False, "eval_batch_size": 300,
    }  # fmt: skip
    theirs = run_recbole(model=model, dataset="tiny", config_dict=options)
    assert run.users is not None
    for name, value in theirs["test_result"].items():
        assert run.test[name] == pytest.approx(value, abs=6e-5), name
    for name, value in theirs["best_valid_result"].items():
        assert run.valid[name] == pytest.approx(value, abs=6e-5), name
    for name in ("recall@3", "ndcg@5", "mrr@5"):
        assert run.users.metrics[name].mean() == pytest.approx(run.test[name], abs=1e-6)
    for k in (3, 5):
        assert run.over_k["ndcg"][k - 1] == pytest.approx(run.test[f"ndcg@{k}"])
        assert run.over_k["recall"][k - 1] == pytest.approx(run.test[f"recall@{k}"])
    assert len(run.over_k["recall"]) == 8
    if model == "EASE":
        assert (run.parameters, run.epochs, run.curve) == (0, None, [])
    else:
        assert run.epochs == 3
        assert run.best_epoch is not None
        best = run.curve[run.best_epoch - 1]
        assert best["ndcg@5"] == pytest.approx(run.valid["ndcg@5"], abs=6e-5)
        assert best["ndcg@5"] == max(epoch["ndcg@5"] for epoch in run.curve)
        assert all(np.isfinite(epoch["loss"]) for epoch in run.curve)
    if model == "MultDAE":
        assert "reconstruction" in run.curve[0]


class NewPop(Pop):  # type: ignore[misc]
    """Counts as RecBole's does."""


class Counting(Pop):  # type: ignore[misc]
    """Counts each interaction in its batches, and not the sampled items beside them."""

    def calculate_loss(self, interaction: Any) -> Any:
        items = interaction[self.ITEM_ID][interaction["label"] > 0]
        self.item_cnt += torch.bincount(items, minlength=self.n_items).unsqueeze(1)
        self.max_cnt = self.item_cnt.max(dim=0)[0]
        return torch.nn.Parameter(torch.zeros(1))


@pytest.mark.usefixtures("registry")
def test_models_that_are_derived_from_pop_count_all_interactions() -> None:
    recbole_vae.register(NewPop, Counting)
    small = {"train_batch_size": 64}
    runs = {name: measure(job(name, settings=small)) for name in ("Pop", "NewPop", "Counting")}
    assert [run.status for run in runs.values()] == [DONE] * 3
    assert runs["NewPop"].test == runs["Counting"].test == runs["Pop"].test
    assert runs["NewPop"].notes == [
        "NewPop counts every training interaction; RecBole's Pop counts an item once in each batch."
    ]
    assert (runs["Counting"].notes, runs["Counting"].parameters) == ([], 0)


def test_the_split_of_held_out_users_has_the_hash_that_a_run_prints() -> None:
    options = {**job("EASE", settings=HELD_OUT)["settings"], "seed": 1, "show_progress": False}
    printed = run_recbole(model="EASE", dataset="tiny", config_dict=options)["test_result"].split_hash
    assert measure(job("EASE", settings=HELD_OUT)).split_hash == printed


def test_all_models_have_the_same_split() -> None:
    for settings in ({}, HELD_OUT):
        runs = [measure(job(model, settings=settings)) for model in ("MultDAE", "EASE", "MultiVAE", "Pop")]
        assert len({run.split_hash for run in runs}) == 1
        users = [run.users for run in runs]
        assert all(each is not None and list(each.ids) == list(users[0].ids) for each in users)  # type: ignore[union-attr]
        other = measure(job("EASE", seed=2, settings=settings))
        assert other.split_hash != runs[0].split_hash
        fixed = [measure(job("EASE", seed=seed, split_seed=1, settings=settings)) for seed in (2, 3)]
        assert {run.split_hash for run in fixed} == {runs[0].split_hash}


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
def test_ract_goes_through_its_stages_on_the_split_of_the_run() -> None:
    settings = {"pretrain_epochs": 3, "save_step": 2, "metrics_k": 3, **HELD_OUT}
    run = measure(job("RaCT", settings=settings))
    assert run.status == DONE
    assert (run.epochs, len(run.curve)) == (2, 2)  # those of the last stage
    assert run.split_hash == measure(job("Pop", settings=HELD_OUT)).split_hash
    assert any("three stages" in note for note in run.notes)
    with pytest.raises(ConfigError, match="save_step: 4 must be from 1 to pretrain_epochs: 3"):
        measure(job("RaCT", settings={**settings, "save_step": 4}))


def test_who_cannot_take_part_says_why() -> None:
    run = measure(job("BPR", settings=HELD_OUT))
    assert run.status == REFUSED
    assert "BPR cannot score users" in run.reason
    run = measure(job("GRU4Rec"))
    assert (run.status, run.users) == (REFUSED, None)
    assert "sequential" in run.reason


def test_pop_counts_every_interaction(build: Builder) -> None:
    runs: list[Run] = [measure(job("Pop", settings={"train_batch_size": size})) for size in (4, 512)]
    assert runs[0].test == runs[1].test
    made = build("Pop", seed=1, topk=[5], valid_metric="MRR@5")
    n_items = made.dataset.item_num
    train, seen = np.zeros((made.dataset.user_num, n_items)), np.zeros((made.dataset.user_num, n_items), dtype=bool)
    wanted = np.zeros_like(seen)
    for part, loader in (("train", made.train), ("valid", made.valid), ("test", made.test)):
        feat = loader._dataset.inter_feat
        users, items = feat["user_id"].numpy(), feat["item_id"].numpy()
        if part == "test":
            wanted[users, items] = True
        else:
            seen[users, items] = True
        if part == "train":
            np.add.at(train, (users, items), 1)
    counts = train.sum(axis=0)
    testers = np.flatnonzero(wanted.any(axis=1))
    scores = np.where(seen, -1.0, counts)[testers]
    scores[:, 0] = -1.0
    # Where counts are equal the order is torch's; so recall lies between the worst and the best order.
    wanted = wanted[testers]
    better = (scores[:, None, :] > scores[:, :, None]).sum(axis=2)
    equal = (scores[:, None, :] == scores[:, :, None]).sum(axis=2)
    least = ((better + equal <= 5) & wanted).sum(axis=1) / wanted.sum(axis=1)
    most = ((better < 5) & wanted).sum(axis=1) / wanted.sum(axis=1)
    assert least.mean() - 1e-9 <= runs[0].test["recall@5"] <= most.mean() + 1e-9
    assert least.mean() > 0
    # The mean popularity of the lists does not depend on that order.
    top = -np.sort(-scores, axis=1)[:, :5]
    assert runs[0].test["averagepopularity@5"] == pytest.approx(top.mean())
    assert runs[0].test["novelty@5"] == pytest.approx(-np.log2(np.maximum(top, 1) / counts.sum()).mean())
    assert runs[0].users is not None
    assert runs[0].users.history_length.tolist() == train[testers].sum(axis=1).tolist()


def test_bins_of_popularity() -> None:
    counts = np.array([0, 50, 1, 9, 10, 20, 10, 0])
    bins = popularity_bins(counts)
    assert bins[0] == -1
    assert counts[bins == 0].sum() == 20  # the tail has a fifth: 0, 1, 9, 10
    assert bins.tolist() == [-1, 3, 0, 0, 0, 2, 1, 0]
    run = measure(job("EASE"))
    found = sum(each["recall"] * each["relevant"] for each in run.by_popularity)
    assert sum(each["items"] for each in run.by_popularity) == 25
    assert run.users is not None
    assert 0 < found <= sum(each["relevant"] for each in run.by_popularity)


@pytest.mark.parametrize("settings", [{}, MANY_HELD_OUT], ids=["random", "held out"])
def test_who_is_served_agrees_with_numpy(build: Builder, settings: dict[str, Any]) -> None:
    run = measure(job("EASE", settings=settings))
    made = build("EASE", seed=1, topk=[5], valid_metric="MRR@5", **settings)
    n_items, tables = made.dataset.item_num, []
    for loader in (made.train, made.valid, made.test):
        feat = loader._dataset.inter_feat
        table = np.zeros((loader._dataset.user_num, loader._dataset.item_num))
        table[feat["user_id"].numpy(), feat["item_id"].numpy()] = 1
        tables.append(table)
    train, valid, wanted = tables
    counts = train.sum(axis=0)
    tail = np.zeros(n_items, dtype=bool)  # in order of popularity, until a fifth of the interactions is passed
    order = np.argsort(counts[1:], kind="stable") + 1
    tail[order[np.cumsum(counts[order]) <= 0.2 * counts.sum() + 1e-9]] = True
    assert 0 < counts[tail].sum() <= 0.2 * counts.sum()
    testers = np.flatnonzero(wanted.any(axis=1))
    if settings:  # what is known of a new user is the fold-in part of the history
        inputs = np.zeros_like(wanted)
        rows, columns = made.test.fold_in.rows().numpy(), made.test.fold_in.indices.numpy()
        inputs[rows, columns] = 1
        rows_of = {user: sum(each == user for each, _ in random_rows()) for user, _ in random_rows()}
        tokens = made.test._dataset.field2id_token["user_id"]
        expected = [rows_of[tokens[user]] - wanted[user].sum() for user in testers]
        seen = inputs
    else:
        inputs, seen, expected = train, train + valid, train.sum(axis=1)[testers].tolist()
    assert run.users is not None
    assert run.users.history_length.tolist() == expected
    scores = inputs @ np.asarray(made.model.item_similarity)
    scores[seen > 0] = -np.inf
    scores[:, 0] = -np.inf
    top = np.argsort(-scores[testers], axis=1)[:, :5]
    hits = np.take_along_axis(wanted[testers], top, axis=1)
    of_tail = (wanted[testers] * tail).sum(axis=1)
    recall = ((hits * tail[top]).sum(axis=1) / np.maximum(of_tail, 1))[of_tail > 0].mean()
    assert run.test["tailrecall@5"] == pytest.approx(recall, abs=1e-9)
    assert run.users.metrics["recall@5"] == pytest.approx(hits.sum(axis=1) / wanted[testers].sum(axis=1), abs=1e-12)
    assert run.by_popularity[0]["items"] == tail.sum()
    assert run.by_popularity[0]["relevant"] == wanted[:, tail].sum()
    assert run.by_popularity[0]["recall"] == pytest.approx((hits * tail[top]).sum() / wanted[:, tail].sum())
    assert sum(each["recall"] * each["relevant"] for each in run.by_popularity) == pytest.approx(hits.sum())


def test_the_frontier_begins_at_the_run_and_turns_to_rare_items() -> None:
    run, other = (
        measure(job("MultDAE", settings={"popularity_correction": strength, "epochs": 1})) for strength in (0.5, 0.25)
    )
    assert [point["popularity_correction"] for point in run.frontier] == list(CORRECTIONS)
    assert run.frontier == other.frontier  # each knows one of them without evaluating it again
    for each, strength in ((run, 0.5), (other, 0.25)):
        assert run.frontier[CORRECTIONS.index(strength)] == {"popularity_correction": strength, **each.test}
    popularity = [point["averagepopularity@5"] for point in run.frontier]
    assert popularity == sorted(popularity, reverse=True)
    assert popularity[-1] < popularity[0]
    assert measure(job("MultDAE", trial=True)).frontier == measure(job("EASE")).frontier == []


def test_a_trial_measures_validation_only() -> None:
    run = measure(job("EASE", trial=True))
    assert run.test == {}
    assert run.over_k == {}
    assert run.valid["ndcg@5"] > 0
