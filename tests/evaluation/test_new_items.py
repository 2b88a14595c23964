"""Metrics of warm and cold items apart, against plain loops, in runs, comparisons and evaluations of checkpoints."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.model.general_recommender.pop import Pop
from recbole.utils import InputType
from torch import Tensor

from recbole_vae import Recommender, register
from recbole_vae.cli.main import main
from recbole_vae.compare import analysis, plan, tables
from recbole_vae.compare.deployed import evaluate
from recbole_vae.compare.measure import measure
from recbole_vae.compare.results import REFUSED, Comparison, Run
from recbole_vae.compare.statistics import randomisation_test
from recbole_vae.errors import ConfigError
from recbole_vae.evaluation import gather
from recbole_vae.evaluation.collector import FastCollector
from recbole_vae.evaluation.holm import holm
from recbole_vae.evaluation.metrics import FastEvaluator
from recbole_vae.evaluation.new_items import can_score_new_items, refusal
from recbole_vae.model.multdae import MultDAE
from tests.conftest import Builder, random_rows, write_inter

ROWS = random_rows(60, 60, 3)
ARGS: dict[str, Any] = {"split": {"RS": [0.6, 0.2, 0.2], "HI": [10, 12]}, "seed": 5}
TOPK = [3, 5]


class Known(GeneralRecommender):  # type: ignore[misc]
    """Scores each pair by a fixed number."""

    input_type = InputType.POINTWISE
    scores_new_items = True

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.fake_loss = torch.nn.Parameter(torch.zeros(1))
        self.table = torch.rand(self.n_users, self.n_items, generator=torch.Generator().manual_seed(3))

    def calculate_loss(self, interaction: Any) -> Tensor:
        return self.fake_loss.sum()

    def full_sort_predict(self, interaction: Any) -> Tensor:
        return self.table[interaction[self.USER_ID].cpu()].view(-1).to(self.device)


class New(MultDAE):
    """A model of this package that says that it scores new items."""

    scores_new_items = True


@pytest.fixture
def models(registry: None) -> None:
    register(Known, New)


def ranked(scores: Any, candidates: set[int], seen: set[int]) -> list[int]:
    return sorted(candidates - seen, key=lambda item: -float(scores[item]))


def ndcg(order: list[int], wanted: set[int], k: int) -> float:
    hits = sum(1 / math.log2(place + 2) for place, item in enumerate(order[:k]) if item in wanted)
    return hits / sum(1 / math.log2(place + 2) for place in range(min(k, len(wanted))))


def area(order: list[int], wanted: set[int]) -> float:
    """Return the share of pairs of a relevant and another candidate that are in order."""
    others = [item for item in order if item not in wanted]
    places = {item: place for place, item in enumerate(order)}
    right = sum(places[one] < places[other] for one in wanted for other in others)
    return right / (len(wanted) * len(others)) if others else math.nan


def pairs(feat: Any) -> list[tuple[int, int]]:
    return list(zip(feat["user_id"].tolist(), feat["item_id"].tolist(), strict=True))


def by_hand(run: Any, loader: Any, score: Callable[[int], Any]) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Measure a part as the page on new items says, in loops: the means and the users' values."""
    of = [part._dataset.inter_feat for part in (run.train, run.valid, run.test)]
    of_items = [set(feat["item_id"].tolist()) for feat in of]
    here = 1 if loader is run.valid else 2
    kinds = {"warm_": of_items[0], "cold_": of_items[here] - of_items[0]}
    kinds[""] = kinds["warm_"] | kinds["cold_"]
    values: dict[str, list[float]] = {}
    shown: dict[str, set[int]] = {kind: set() for kind in kinds}
    weighted: dict[str, list[tuple[float, int]]] = {kind: [] for kind in kinds}
    for user in sorted(set(of[here]["user_id"].tolist())):
        wanted = {i for u, i in pairs(of[here]) if u == user}
        given = [loader.fold_in] if loader.fold_in is not None else []
        seen = {int(item) for histories in given for item in histories[torch.tensor([user])].indices}
        if loader.fold_in is None:
            earlier = [pair for feat in of[:here] for pair in pairs(feat)]
            seen = {i for u, i in earlier if u == user} - wanted
        scores = score(user)
        for kind, items in kinds.items():
            relevant, order = wanted & items, ranked(scores, items, seen)
            if relevant:
                shown[kind] |= set(order[: max(TOPK)])
                weighted[kind].append((area(order, relevant), len(relevant)))
            for k in TOPK:
                counts = bool(relevant)
                hits = len(relevant & set(order[:k]))
                values.setdefault(f"{kind}recall@{k}", []).append(hits / len(relevant) if counts else math.nan)
                values.setdefault(f"{kind}ndcg@{k}", []).append(ndcg(order, relevant, k) if counts else math.nan)
    means = {name: float(np.nanmean(each)) for name, each in values.items() if not np.isnan(each).all()}
    means |= {f"{kind}itemcoverage@{max(TOPK)}": len(shown[kind]) / len(items) for kind, items in kinds.items() if kind}
    for kind, each in weighted.items():
        if not each:
            continue
        means[f"{kind}gauc"] = sum(auc * number for auc, number in each) / sum(number for _, number in each)
    return means, values


@pytest.mark.usefixtures("models")
@pytest.mark.parametrize(
    ("model", "split"),
    [("New", {"RS": [0.6, 0.2, 0.2]}), ("New", {"HU": [12, 14]}), ("New", {}), ("Known", {"RS": [0.6, 0.2, 0.2]})],
    ids=str,
)
def test_each_kind_is_ranked_alone_for_the_users_who_have_one_to_be_found(
    build: Builder, model: str, split: dict[str, Any]
) -> None:
    run = build(
        model, "tiny", data_path=write_inter(ROWS), eval_args={**ARGS, "split": {**split, "HI": [10, 12]}}, topk=TOPK,
        metrics=["Recall", "NDCG", "ItemCoverage", "GAUC"], valid_metric="NDCG@5", metric_decimal_place=8, epochs=1,
        eval_batch_size=61 * 7,
    )  # fmt: skip
    run.fit()
    for loader in (run.valid, run.test):
        found = run.trainer.evaluate(loader, load_best_model=False)

        def score(user: int, loader: Any = loader) -> Any:
            if model == "Known":
                return run.model.table[user]
            histories = run.model.histories if loader.fold_in is None else loader.fold_in
            return run.model.score(histories[torch.tensor([user])])[0].detach()

        means, values = by_hand(run, loader, score)
        alone = not split
        expected = {name: value for name, value in means.items() if not (alone and name.startswith("warm_"))}
        assert ("warm_ndcg@5" in means, "cold_ndcg@5" in means) == (not alone, True)
        assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)
        assert alone == (not any(name.startswith("warm_") for name in found))
        for name, each in values.items():
            if name in found:
                np.testing.assert_allclose(found.per_user[name], each, atol=1e-6)
        own = np.array(values["cold_ndcg@5"])
        own = own[~np.isnan(own)]
        assert len(own) < len(values["cold_ndcg@5"]) or "RS" not in split
        assert found.standard_errors()["cold_ndcg@5"] == pytest.approx(own.std(ddof=1) / len(own) ** 0.5, abs=1e-6)


@pytest.mark.usefixtures("models")
def test_other_metrics_of_lists_are_as_if_there_were_no_other_items(build: Builder) -> None:
    names = ["AveragePopularity", "GiniIndex", "ShannonEntropy", "TailPercentage"]
    run = build(
        "Known", "tiny", data_path=write_inter(ROWS), eval_args=ARGS, topk=[5], metrics=names,
        valid_metric="AveragePopularity@5", metric_decimal_place=8,
    )  # fmt: skip
    run.trainer.eval_collector.data_collect(run.train)
    found = run.trainer.evaluate(run.test, load_best_model=False)
    counts = np.bincount(run.train._dataset.inter_feat["item_id"].numpy(), minlength=run.dataset.item_num)
    warm = [int(item) for item in np.flatnonzero(counts)]
    part = run.test._dataset.inter_feat
    users = sorted(set(part["user_id"][torch.from_numpy(counts)[part["item_id"]] > 0].tolist()))
    lists = []
    for user in users:
        place = run.test.uid_list.tolist().index(user)
        _, (_, seen), _, _ = run.test.collate_fn([place])
        lists.append(ranked(run.model.table[user], set(warm), set(seen.tolist()))[:5])
    shown = np.array(lists)
    assert found["warm_averagepopularity@5"] == pytest.approx(counts[shown].mean(), abs=1e-6)
    times = np.bincount(shown.ravel(), minlength=run.dataset.item_num)
    ordered = np.sort(times[warm])
    places = 2 * np.arange(1, len(warm) + 1) - len(warm) - 1
    assert found["warm_giniindex@5"] == pytest.approx((places * ordered).sum() / ordered.sum() / len(warm), abs=1e-6)
    shares = times[times > 0] / times.sum()
    assert found["warm_shannonentropy@5"] == pytest.approx(-(shares * np.log(shares)).sum(), abs=1e-6)
    tail = sorted(warm, key=lambda item: (counts[item], item))[: max(int(len(warm) * 0.1), 1)]
    assert found["warm_tailpercentage@5"] == pytest.approx(np.isin(shown, tail).mean(), abs=1e-6)
    assert found["cold_averagepopularity@5"] == 0


@pytest.mark.usefixtures("models")
def test_who_can_take_part() -> None:
    for kind, options, can in (
        (Pop, {}, True), (Known, {}, True), (New, {}, True), (MultDAE, {}, False), (MultDAE, {"item_features": []}, False),
        (MultDAE, {"item_features": ["genre"]}, True), (GeneralRecommender, {"item_features": ["genre"]}, False),
    ):  # fmt: skip
        assert can_score_new_items(kind, options) is can
        assert (refusal(kind, options) is None) is can

    class Pairs(GeneralRecommender):  # type: ignore[misc]
        scores_new_items = True

    assert str(refusal(Pairs, {})).startswith("Pairs has no full_sort_predict")


def compared(**more: Any) -> dict[str, Run]:
    settings = {"data_path": write_inter(ROWS), "epochs": 1, "eval_args": ARGS, "train_batch_size": 64, **more}
    runs = {}
    for model in ("Pop", "Known", "EASE", "MultDAE"):
        runs[model] = measure(
            {"dataset": "tiny", "model": model, "seed": 1, "split_seed": None, "settings": dict(settings),
             "metrics": ["Recall", "NDCG"], "topk": [5], "primary": "NDCG@5", "max_k": 20}
        )  # fmt: skip
        runs[model].label = model
    return runs


@pytest.mark.usefixtures("models")
def test_a_comparison_has_all_three_in_its_tables_and_tests_them_over_the_users_who_count() -> None:
    runs = compared()
    for model, why in (("EASE", "has no scores"), ("MultDAE", "knows items by their interactions alone")):
        assert (runs[model].status, runs[model].reason.startswith(f"{model} {why}")) == (REFUSED, True)
    one, other = runs["Known"], runs["Pop"]
    assert one.users is not None
    assert other.users is not None
    assert one.split_hash == other.split_hash
    values, base = one.users.metrics["cold_ndcg@5"], other.users.metrics["cold_ndcg@5"]
    assert np.isnan(values).any()
    assert one.test["cold_ndcg@5"] == pytest.approx(np.nanmean(values))
    comparison = Comparison(
        list(runs.values()), ["recall@5", "ndcg@5"], "ndcg@5", "Pop", 0.05, 0, {}, "recbole-vae compare"
    )
    (table,) = analysis.tables(comparison)
    assert (
        table.metrics
        == table.tested
        == [f"{kind}{name}@5" for kind in ("", "warm_", "cold_") for name in ("recall", "ndcg")]
    )
    assert table.compared == 6
    counted = ~np.isnan(values)
    test = table.against_reference["Known", "cold_ndcg@5"]
    assert test.users == counted.sum() < len(values)
    difference = np.round(values - base, 9)[counted]
    assert test.difference[0] == pytest.approx(difference.mean())
    assert test.p == pytest.approx(randomisation_test(difference[:, None], table.samples)[0])
    p_values = [each.p for each in table.against_reference.values()]
    assert [each.holm for each in table.against_reference.values()] == pytest.approx(list(holm(np.array(p_values))))
    words = tables.text([table], comparison)
    assert "Accuracy: tiny" in words
    assert "Cold items: tiny" in words
    assert "Warm items: tiny" in words
    flat = " ".join(words.split())
    assert (
        "the interactions of 10 and 12 of the items for validation and test; of the others 6:2:2 of the interactions"
        in flat
    )
    assert "Users without such an item to be found do not count there." in flat
    assert r"\label{tab:tiny-1-cold}" in tables.latex([table], comparison)
    assert "cold_ndcg@5" in tables.table_csv([table])
    assert "## tiny" in tables.markdown([table], comparison)
    content = tables.per_user_parquet([one, other])
    parquet = pytest.importorskip("pyarrow.parquet")
    import io

    assert parquet.read_table(io.BytesIO(content)).column("cold_ndcg@5").null_count == 2 * (~counted).sum()


@pytest.mark.usefixtures("models")
def test_a_split_seed_fixes_the_items_too() -> None:
    def hashes(**more: Any) -> set[str]:
        job = {"dataset": "tiny", "model": "Pop", "metrics": ["NDCG"], "topk": [5], "primary": "NDCG@5", "max_k": 5}
        settings = {"data_path": write_inter(ROWS), "eval_args": {"split": {"HI": [10, 10]}}}
        return {measure({**job, "seed": seed, "settings": settings, **more}).split_hash for seed in (1, 2)}

    assert len(hashes(split_seed=7)) == 1
    assert len(hashes(split_seed=None)) == 2


@pytest.mark.usefixtures("models")
def test_a_checkpoint_is_evaluated_on_warm_and_cold_items_apart(
    build: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shortlister(self: Any) -> None:
        raise AssertionError("a shortlist has not all scores")

    monkeypatch.setattr(New, "shortlister", shortlister)
    run = build(
        "New", "tiny", data_path=write_inter(ROWS), eval_args=ARGS, topk=TOPK, metrics=["NDCG"], valid_metric="NDCG@5", epochs=1,
    )  # fmt: skip
    run.fit()
    path = run.trainer.saved_model_file
    found = evaluate([path, path], "tiny", data_path="data")
    recommender = Recommender.load(path)
    histories = {user: set(recommender.history(user)) for user in recommender.users[1:]}
    trained = set().union(*histories.values())
    expected: dict[str, list[float]] = {"": [], "warm_": [], "cold_": []}
    ids = {item: number for number, item in enumerate(recommender.items)}
    for user, known in histories.items():
        if not known:
            continue
        scores = recommender.model.score(run.model.histories[torch.tensor([recommender.users.index(user)])])[0].detach()
        wanted = {item for u, item in ROWS if u == user} - known
        for kind, items in (("", set(ids)), ("warm_", trained), ("cold_", set(ids) - trained)):
            relevant = {ids[item] for item in wanted & items}
            order = ranked(scores, {ids[item] for item in items - {"[PAD]"}}, {ids[item] for item in known})
            if relevant:
                expected[kind].append(ndcg(order, relevant, 5))
    for kind, values in expected.items():
        assert found.metrics[str(path)][f"{kind}ndcg@5"].mean == pytest.approx(np.mean(values))
    assert set(found.differences) == set(found.metrics[str(path)])
    words = [
        "evaluate",
        f"--checkpoint={path}",
        "--dataset=tiny",
        "--data_path=data",
        "--min=cold_NDCG@5:0.99",
        "--json=e.json",
    ]
    assert main(words) == 3
    assert json.loads(Path("e.json").read_text())["exceeded"][0].startswith("cold_ndcg@5 is ")


@pytest.mark.usefixtures("models")
def test_a_refit_trains_on_everything(build: Builder) -> None:
    from tests.training.test_refit import refit

    run = build(
        "New", "tiny", data_path=write_inter(ROWS), eval_args=ARGS, topk=TOPK, metrics=["NDCG"], valid_metric="cold_NDCG@5",
        epochs=2,
    )  # fmt: skip
    run.fit()
    again = refit(run.trainer.saved_model_file)
    assert len(again.model.histories.indices) == len(ROWS) > len(run.model.histories.indices)
    assert again.config["valid_metric"] == "NDCG@5"
    assert again.trainer.evaluate(again.test) is None


@pytest.mark.usefixtures("models")
def test_case_studies_rank_no_item_of_another_part(build: Builder) -> None:
    from recbole.utils.case_study import full_sort_scores

    run = build("Known", "tiny", data_path=write_inter(ROWS), eval_args=ARGS, topk=TOPK, valid_metric="MRR@5")
    users = run.test.uid_list[:9].numpy()
    there = (full_sort_scores(users, run.model, run.test) > -math.inf).any(0)
    assert set(there.nonzero().squeeze(1).tolist()) == set(torch.cat(list(run.test.candidates.kinds.values())).tolist())


def test_the_primary_metric_may_be_of_cold_items_where_all_runs_hold_out_some() -> None:
    write_inter(ROWS)
    given = {
        "models": "Pop",
        "dataset": "tiny",
        "data_path": "data",
        "metrics": "NDCG",
        "topk": "5",
        "primary": "cold_NDCG@5",
    }
    assert plan.read(None, {**given, "eval_args": str(ARGS)}).primary == "cold_NDCG@5"
    for args in ("{'split': {'RS': [8, 1, 1]}}", "{'split': {'HI': [9, 9]}}"):
        primary = "warm_NDCG@5"
        with pytest.raises(ConfigError, match=f"^primary: '{primary}' .* is not measured"):
            plan.read(None, {**given, "primary": primary, "eval_args": args})


@pytest.mark.usefixtures("models")
def test_several_processes_have_the_result_of_one(build: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    run = build(
        "Known", "tiny", data_path=write_inter(ROWS), eval_args=ARGS, topk=TOPK, metrics=["Recall", "ItemCoverage", "GAUC"],
        valid_metric="Recall@5",
    )  # fmt: skip
    run.trainer.tot_item_num = run.dataset.item_num
    number = len(run.test.uid_list)
    shares = [list(range(number)), list(range(0, number, 2)), [*range(1, number, 2), 0][: -(-number // 2)]]
    collected = []
    for share in shares:
        collector = FastCollector(run.config)
        collector.candidates = run.test.candidates
        collector.data_collect(run.train)
        for place in share:
            batch = run.trainer._full_sort_batch_eval(run.test.collate_fn([place]))
            batch[1][:, run.test.candidates.barred] = -math.inf
            collector.eval_batch_collect(batch[1], batch[0], batch[2], batch[3])
        collected.append(collector.get_data_struct())
    expected = FastEvaluator(run.config).evaluate(collected[0])
    first, second = collected[1:]
    names = {id(value): name for name, value in first._data_dict.items()}

    def all_gather_object(parts: list[Any], value: Any) -> None:
        parts[:] = [value, second.get(names[id(value)])]

    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    monkeypatch.setattr("torch.distributed.all_gather_object", all_gather_object)
    evaluator = gather.GatheringEvaluator(run.config)
    evaluator.rows = number
    found = evaluator.evaluate(first)
    assert found == expected
    assert "cold_gauc" in found
    for name, values in expected.per_user.items():
        np.testing.assert_array_equal(found.per_user[name], values)
