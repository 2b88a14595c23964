"""The evaluation against RecBole's own, bit for bit, with ties, for every metric and for models of both kinds."""

from __future__ import annotations

import math
import pickle
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recbole.config import Config
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.evaluator import Collector, Evaluator
from recbole.evaluator.collector import DataStruct

from recbole_vae.data.evaluation import FullSortDataLoader
from recbole_vae.evaluation.collector import FastCollector
from recbole_vae.evaluation.metrics import FastEvaluator, Result, ndcg
from tests.conftest import Builder

TOPK = ["Hit", "MRR", "MAP", "Recall", "NDCG", "Precision", "ShannonEntropy", "GAUC"]
COUNTED = ["ItemCoverage", "AveragePopularity", "GiniIndex", "TailPercentage"]
ITEMS = 31


@pytest.fixture(autouse=True)
def names_of_older_numpys(clean_process: None) -> None:
    """RecBole gives NumPy the names that its metrics use when it makes a Config."""
    Config(model="MultVAE", dataset="ml-100k")


class Options(dict[str, Any]):
    """As much of a RecBole Config as the collector and the metrics read."""

    def __missing__(self, key: str) -> None:
        return None


def options(metrics: list[str], topk: list[int], **more: Any) -> Options:
    cpu = torch.device("cpu")
    modes = {"mode": {"valid": "full", "test": "full"}}
    return Options(metrics=metrics, topk=topk, metric_decimal_place=17, eval_args=modes, device=cpu, **more)


def batches(seed: int) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Make scores with many ties, and one to eight relevant items for each user, of which some are never ranked."""
    rng = np.random.default_rng(seed)
    result = []
    for users in (7, 1, 12):
        scores = torch.from_numpy(rng.integers(0, 6, size=(users, ITEMS)).astype(np.float32))
        scores[:, 0] = -torch.inf
        scores[torch.from_numpy(rng.random((users, ITEMS)) < 0.2)] = -torch.inf
        chosen = [rng.choice(np.arange(1, ITEMS), size=rng.integers(1, 9), replace=False) for _ in range(users)]
        rows = np.repeat(np.arange(users), [len(each) for each in chosen])
        result.append((scores, torch.from_numpy(rows), torch.from_numpy(np.concatenate(chosen))))
    return result


def collect(collector: Any, seed: int) -> DataStruct:
    for scores, rows, items in batches(seed):
        collector.eval_batch_collect(scores.clone(), None, rows, items)
    return collector.get_data_struct()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), topk=st.sampled_from([[1], [3, 10], [30], [5, 2]]))
def test_all_metrics_equal_recboles_bit_for_bit(seed: int, topk: list[int]) -> None:
    config = options(TOPK, topk)
    theirs = Evaluator(config).evaluate(collect(Collector(config), seed))
    ours = FastEvaluator(config).evaluate(collect(FastCollector(config), seed))
    assert list(ours.items()) == list(theirs.items())


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), tail=st.sampled_from([None, 0.3, 1.0, 0.01, 5]))
def test_metrics_of_the_items_counts_equal_recboles(seed: int, tail: float | None) -> None:
    """RecBole's collector fails for these, its metrics do not: give them what was to be collected."""
    config = options(COUNTED, [4, 9], tail_ratio=tail)
    counts = Counter(np.random.default_rng(seed).integers(1, ITEMS - 3, size=200).tolist())
    with_recboles = DataStruct()
    collector = FastCollector(config)
    for struct in (with_recboles, collector.data_struct):
        struct.set("data.num_items", ITEMS)
        struct.set("data.count_items", counts)
    ranked = torch.cat([torch.topk(scores, 9).indices for scores, *_ in batches(seed)])
    with_recboles.set("rec.items", ranked)
    for scores, rows, items in batches(seed):
        collector.eval_batch_collect(scores, None, rows, items)
    theirs = Evaluator(config).evaluate(with_recboles)
    ours = FastEvaluator(config).evaluate(collector.get_data_struct())
    assert list(ours.items()) == list(theirs.items())


def test_what_is_collected_of_one_evaluation_is_not_there_in_the_next() -> None:
    config = options(["NDCG"], [5])
    collector = FastCollector(config)
    first = FastEvaluator(config).evaluate(collect(collector, 1))
    collect(collector, 2)
    assert FastEvaluator(config).evaluate(collect(collector, 1)) == first


@settings(max_examples=50, deadline=None)
@given(data=st.data(), k=st.integers(1, 12))
def test_ndcg_is_that_of_its_definition(data: st.DataObject, k: int) -> None:
    hits = np.array(data.draw(st.lists(st.lists(st.booleans(), min_size=k, max_size=k), min_size=1, max_size=5)))
    relevant = np.array([data.draw(st.integers(max(1, int(row.sum())), 20)) for row in hits])
    found = ndcg(hits, relevant)
    assert found.dtype == np.float64
    for row, number, values in zip(hits.tolist(), relevant.tolist(), found.tolist(), strict=True):
        for at in range(1, k + 1):
            gain = sum(1 / math.log2(rank + 1) for rank in range(1, at + 1) if row[rank - 1])
            ideal = sum(1 / math.log2(rank + 1) for rank in range(1, min(at, number) + 1))
            assert values[at - 1] == pytest.approx(gain / ideal, rel=1e-12)


@pytest.mark.parametrize("model", ["MultVAE", "MultDAE", "BPR", "EASE", "ItemKNN", "MultiVAE"])
@pytest.mark.parametrize("repeatable", [False, True])
def test_a_run_evaluates_as_recbole_does(build: Builder, model: str, repeatable: bool) -> None:
    results, loaders = [], []
    for fast in (True, False):
        torch.manual_seed(0)
        run = build(
            model, fast_evaluation=fast, eval_batch_size=4096, metrics=TOPK, topk=[3, 10], metric_decimal_place=17,
            repeatable=repeatable, latent_dimension=6, exact_metrics=False,
        )  # fmt: skip
        assert type(run.valid) is (FullSortDataLoader if fast else FullSortEvalDataLoader)
        assert type(run.trainer.evaluator) is (FastEvaluator if fast else Evaluator)
        run.trainer.eval_collector.data_collect(run.train)
        results.append(run.trainer.evaluate(run.valid, load_best_model=False))
        loaders.append(run.test)
    assert results[0] == results[1]
    for ours, theirs in zip(*loaders, strict=True):
        assert torch.equal(ours[0]["user_id"], theirs[0]["user_id"])
        for (rows, items), (other_rows, other_items) in ((ours[1], theirs[1]), (ours[2:], theirs[2:])):
            pairs = sorted(zip(rows.tolist(), items.tolist(), strict=True))
            assert pairs == sorted(zip(other_rows.tolist(), other_items.tolist(), strict=True))


@pytest.mark.parametrize("model", ["MultVAE", "BPR"])
def test_metrics_that_crash_in_recbole_are_measured(build: Builder, model: str) -> None:
    run = build(model, metrics=COUNTED, topk=[3], valid_metric="ItemCoverage@3")
    run.fit()
    result = run.trainer.evaluate(run.test, load_best_model=False)
    assert set(result) == {f"{name.lower()}@3" for name in COUNTED}
    ranked = []
    for users, (rows, items), *_ in run.test:
        scores = run.model.full_sort_predict(users).view(len(users), -1).detach()
        scores[:, 0] = -torch.inf
        scores[rows, items] = -torch.inf
        ranked.append(scores.topk(3).indices)
    shown = torch.cat(ranked)
    popularity = run.train._dataset.item_counter
    assert result["itemcoverage@3"] == round(len(shown.unique()) / (run.dataset.item_num - 1), 4)
    assert result["averagepopularity@3"] == round(
        float(np.mean([popularity[int(item)] for item in shown.flatten()])), 4
    )


def test_recboles_models_get_batches_of_many_users_unless_told_otherwise(build: Builder) -> None:
    assert build("BPR").config["eval_batch_size"] == 4194304
    assert build("BPR", eval_batch_size=100).config["eval_batch_size"] == 100
    assert build("BPR", fast_evaluation=False).config["eval_batch_size"] == 4096
    assert build("NeuMF").config["eval_batch_size"] == 4096  # it scores pairs, and holds much for each


def test_users_may_have_every_item(build: Builder) -> None:
    from tests.conftest import random_rows, write_inter

    rows = random_rows()
    rows += [("all", item) for item in sorted({item for _, item in rows})]
    run = build(data_path=write_inter(rows, folder="all"), dataset="tiny")
    run.fit()
    assert run.trainer.evaluate(run.test, load_best_model=False)["recall@10"] >= 0


def test_case_studies_find_what_they_look_for(build: Builder) -> None:
    ours, theirs = build().test, build(fast_evaluation=False).test
    for user in ours.uid_list.tolist():
        assert sorted(ours.uid2history_item[user].tolist()) == sorted(theirs.uid2history_item[user].tolist())
        assert sorted(ours.uid2positive_item[user].tolist()) == sorted(theirs.uid2positive_item[user].tolist())
        assert ours.uid2items_num[user] == theirs.uid2items_num[user]


def test_a_result_goes_through_the_pipe_to_a_parent_process() -> None:
    """RecBole's child waits until its parent has read, which waits for its end: more than 64 KiB would be for ever."""
    result = Result({"ndcg@10": 0.5})
    result.per_user = {"ndcg@10": np.linspace(0, 1, 100_000)}
    result.split_hash, result.gaps = "abc", ["9 of 9 test users have no training history"]
    sent = pickle.dumps(result)
    assert len(sent) < 4096
    there = pickle.loads(sent)
    assert there == result
    assert (there.split_hash, there.gaps) == ("abc", ["9 of 9 test users have no training history"])
    assert there.standard_errors() == result.standard_errors() == {"ndcg@10": pytest.approx(0.0009129, rel=1e-3)}
