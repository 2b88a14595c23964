"""Scores for histories: each of RecBole's models that can, against its own scores for users it was trained on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from recbole_vae.data.histories import Histories
from recbole_vae.errors import ConfigError
from recbole_vae.evaluation.fold_in import _ADAPTERS, evaluated_on, score_histories
from tests.conftest import Builder, random_rows, set_all_seeds, write_inter

FAST = {
    "epochs": 2, "embedding_size": 8, "train_batch_size": 64, "latent_dimension": 8, "pretrain_epochs": 2, "save_step": 2,
    "hidden_dimension": 8, "reg_weight": 0.1, "rank": 5,
}  # fmt: skip


@pytest.mark.parametrize("model", [*_ADAPTERS, "MultVAE", "MultDAE", "HybridVAE"])
def test_a_training_user_given_as_a_new_one_has_the_models_own_scores(build: Builder, model: str) -> None:
    run = build(model, dataset="tiny", data_path=write_inter(random_rows(60, 30)), **FAST)
    run.fit()
    net = run.model.eval()
    feat = run.train._dataset.inter_feat
    table = Histories.from_interactions(feat["user_id"], feat["item_id"], None, run.dataset.user_num)
    users = torch.tensor([3, 1, 59, 17])
    before = set(vars(net))
    with torch.no_grad():
        set_all_seeds(1)  # some of them add noise
        expected = net.full_sort_predict({"user_id": users}).view(4, -1)
        set_all_seeds(1)
        result = score_histories(net, table[users])
        set_all_seeds(1)
        with evaluated_on(net, table):
            again = net.full_sort_predict({"user_id": users}).view(4, -1)
    np.testing.assert_allclose(result.numpy()[:, 1:], expected.numpy()[:, 1:], rtol=1e-5, atol=1e-6)
    assert torch.equal(again, result)
    assert set(vars(net)) == before


@pytest.mark.parametrize("model", [*_ADAPTERS, "MultVAE", "MultDAE", "HybridVAE"])
def test_a_run_on_held_out_users(build: Builder, model: str) -> None:
    run = build(
        model, dataset="tiny", data_path=write_inter(random_rows(80, 30)), eval_args={"split": {"HU": [10, 20]}},
        metrics=["NDCG", "TruncatedRecall"], valid_metric="NDCG@10", **FAST,
    )  # fmt: skip
    run.fit()
    result: Any = run.trainer.evaluate(run.test, load_best_model=False)
    assert 0 < result["ndcg@10"] < 1
    assert len(result.per_user["ndcg@10"]) == len(run.test.uid_list) > 10


def test_other_models_are_refused(build: Builder) -> None:
    run = build("BPR")
    with pytest.raises(ConfigError, match="^BPR cannot score users"):
        score_histories(run.model, Histories.from_lists([[1]]))
