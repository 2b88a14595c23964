"""A trainer and the case study work without ``fit``, or say what to call."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

from recbole_vae.errors import CheckpointError, ConfigError, DataError
from tests.conftest import Builder

COUNTING = {"metrics": ["Recall", "ItemCoverage", "AveragePopularity"], "valid_metric": "Recall@10"}

MODELS = pytest.mark.parametrize("model", ["MultVAE", "EASE"])


@MODELS
def test_what_is_counted_in_the_training_data_needs_no_fit(build: Builder, model: str) -> None:
    run = build(model, **COUNTING)
    result = run.trainer.evaluate(run.test, load_best_model=False)
    seen = Counter(run.train._dataset.inter_feat["item_id"].tolist())
    lists = []
    for users, (rows, columns), _, _ in run.test:
        scores = run.model.full_sort_predict(users).view(len(users), -1).clone()
        scores[:, 0] = scores[rows, columns] = -torch.inf
        lists += scores.topk(10).indices.tolist()
    assert result["itemcoverage@10"] == round(
        len({item for each in lists for item in each}) / (run.dataset.item_num - 1), 4
    )
    counts = [seen[item] for each in lists for item in each]
    assert result["averagepopularity@10"] == pytest.approx(sum(counts) / len(counts), abs=1e-4)


@MODELS
@pytest.mark.parametrize("options", [{"eval_args": {"split": {"HU": [10, 10]}}}, {"repeatable": True}])
def test_where_the_training_data_are_not_known_it_says_what_to_call(
    build: Builder, model: str, options: dict[str, Any]
) -> None:
    run = build(model, **COUNTING, **options)
    with pytest.raises(DataError, match=r"Call trainer\.eval_collector\.data_collect\(train_data\) first\.$"):
        run.trainer.evaluate(run.test, load_best_model=False)
    run.trainer.eval_collector.data_collect(run.train)
    assert 0 <= run.trainer.evaluate(run.test, load_best_model=False)["recall@10"] <= 1


@MODELS
def test_a_trainer_that_has_saved_nothing_says_so(build: Builder, model: str) -> None:
    run = build(model)
    with pytest.raises(
        CheckpointError, match=r"there is no such checkpoint\. Call fit first, .* load_best_model=False"
    ):
        run.trainer.evaluate(run.test)
    assert run.trainer.evaluate([]) is None


@MODELS
def test_a_ranking_needs_data_that_say_what_was_seen(build: Builder, model: str) -> None:
    from recbole.utils.case_study import full_sort_topk

    run = build(model)
    with pytest.raises(DataError, match=r"^test_data: training data, .* take the validation or test data"):
        full_sort_topk([1, 2], run.model, run.train, 3)
    sampled = build(model, eval_args={"mode": "uni5"})
    with pytest.raises(DataError, match=r"with eval_args: \{mode: full\}\.$"):
        full_sort_topk([1, 2], sampled.model, sampled.test, 3)
    assert full_sort_topk([1, 2], run.model, run.test, 3)[1].shape == (2, 3)


def test_the_options_of_a_checkpoint_are_no_config(build: Builder) -> None:
    from recbole.data import create_dataset

    run = build()
    run.fit()
    with pytest.raises(
        ConfigError, match=r"^config: this is the dictionary of a checkpoint, .* call load_data_and_model"
    ):
        create_dataset(torch.load(run.trainer.saved_model_file)["config"])


def test_the_config_of_recboles_checkpoint_makes_its_data_set(build: Builder) -> None:
    from recbole.data import create_dataset

    run = build("BPR", epochs=1)
    run.fit()
    config = torch.load(run.trainer.saved_model_file, weights_only=False)["config"]
    assert create_dataset(config).inter_num == run.dataset.inter_num


@pytest.mark.parametrize("model", ["EASE", "Pop", "BPR", "MultVAE"])
def test_the_last_epoch_is_evaluated_and_saved_however_large_eval_step_is(build: Builder, model: str) -> None:
    """RecBole's EASE and Pop have one epoch, and ``epochs`` is more."""
    results = []
    for step in (1, 5):
        run = build(model, epochs=1 if step == 1 else 2, eval_step=step)
        run.trainer.fit(run.train, run.valid, show_progress=False)
        results.append(run.trainer.evaluate(run.test, show_progress=False))
    if model in ("EASE", "Pop"):
        assert results[0] == results[1]
