"""Propensities of items, and the correction of scores by them."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import recbole_vae
from recbole_vae.cli.main import main
from recbole_vae.data.histories import Histories
from recbole_vae.errors import ConfigError
from recbole_vae.nn.propensity import log_propensity
from tests.conftest import Builder


def oracle(counts: list[int]) -> NDArray[np.float64]:
    logs = np.log(1 + np.array(counts, dtype=np.float64))
    result: NDArray[np.float64] = -np.log1p(np.exp(-(logs - logs.mean()) / logs.std()))
    return result


def test_log_propensities() -> None:
    counts = [0, 3, 1, 1000, 20]
    found = log_propensity(torch.tensor(counts))
    np.testing.assert_allclose(found, oracle(counts), rtol=1e-6)
    assert found.argsort().tolist() == [0, 2, 1, 4, 3]
    assert torch.equal(log_propensity(torch.tensor([7, 7, 7])), torch.full((3,), np.log(0.5), dtype=torch.float32))
    assert torch.isfinite(log_propensity(torch.tensor([0, 0, 10**9]))).all()


def test_scores_are_corrected(build: Builder, model_name: str) -> None:
    plain = build(model_name).model.eval()
    counts = torch.bincount(plain.histories.indices.long(), minlength=plain.n_items)[1:].tolist()
    histories = plain.histories[torch.tensor([3, 5])]
    for strength in (0.7, -2):
        corrected = build(model_name, popularity_correction=strength).model.eval()
        corrected.load_state_dict(plain.state_dict())
        with torch.no_grad():
            before, after = plain.score(histories), corrected.score(histories)
        assert (after[:, 0] == -torch.inf).all()
        expected = before[:, 1:].numpy() - strength * oracle(counts)
        np.testing.assert_allclose(after[:, 1:].numpy(), expected, rtol=1e-4, atol=1e-5)


def test_a_larger_correction_never_gives_a_list_of_more_observed_items(build: Builder) -> None:
    run = build(learning_rate=0.01)
    run.fit()
    sums = []
    for strength in (-4.0, -1.0, 0.0, 0.5, 2.0, 50.0):
        recommender = recbole_vae.Recommender.load(run.trainer.saved_model_file, popularity_correction=strength)
        counts = torch.bincount(recommender.model.histories.indices.long(), minlength=len(recommender.items))
        of_item = dict(zip(recommender.items[1:], log_propensity(counts[1:]).tolist(), strict=True))
        rankings = recommender.recommend_users(recommender.users[1:], k=5)
        sums.append([sum(of_item[item] for item, _ in ranking) for ranking in rankings])
    assert (np.diff(np.array(sums), axis=0) <= 1e-5).all()
    assert np.mean(sums[-1]) < np.mean(sums[2]) < np.mean(sums[0])


def test_the_option_counts_in_evaluation_and_not_in_training(build: Builder) -> None:
    results, parameters = [], []
    for strength in (0.0, 50.0):
        run = build(
            popularity_correction=strength, metrics=["AveragePopularity", "NDCG"], topk=[5], valid_metric="NDCG@5", eval_step=0,
        )  # fmt: skip
        run.fit()
        results.append(run.trainer.evaluate(run.test, load_best_model=False)["averagepopularity@5"])
        parameters.append(run.model.state_dict())
        saved = recbole_vae.Recommender.load(run.trainer.saved_model_file)
        assert saved.model.options.popularity_correction == strength
    assert results[1] < results[0]
    for name, value in parameters[0].items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, parameters[1][name]), name


def test_from_the_command_line(build: Builder, capsys: pytest.CaptureFixture[str]) -> None:
    run = build(learning_rate=0.01)
    run.fit()
    file = f"--checkpoint={run.trainer.saved_model_file}"
    assert main(["recommend", file, "--users=u3", "-k=3", "--popularity_correction=0.8"]) == 0
    shown = [row["item_id"] for row in csv.DictReader(io.StringIO(capsys.readouterr().out))]
    recommender = recbole_vae.Recommender.load(run.trainer.saved_model_file, popularity_correction=0.8)
    assert shown == [item for item, _ in recommender.recommend_users(["u3"], k=3)[0]]
    assert main(["explain", file, "--user=u3", "-k=3", "--popularity_correction=0.8", "--html=e.html"]) == 0
    assert "".join(f"{rank}. {item}" for rank, item in enumerate(shown, 1)) in "".join(
        line.split(",")[0].strip() for line in capsys.readouterr().out.splitlines() if ", score" in line
    )
    assert Path("e.html").is_file()
    for value in ("much", "nan", "inf", "1e39"):
        assert main(["recommend", file, f"--popularity_correction={value}"]) == 2
        assert f"popularity_correction: '{value}' (command line) is not allowed" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="^popularity_correction: nan is not allowed; it must be a number"):
        recbole_vae.Recommender.load(run.trainer.saved_model_file, popularity_correction=float("nan"))
    with pytest.raises(
        ConfigError, match=r"^popularity_correction: -1e\+39 is not allowed; it must be a number >= -1000 and <= 1000"
    ):
        recbole_vae.Recommender.load(run.trainer.saved_model_file, popularity_correction=-1e39)
    # A checkpoint that is older than these options.
    state = torch.load(run.trainer.saved_model_file, weights_only=True)
    for name in ("popularity_correction", "propensity_weight", "weight_averaging"):
        del state["config"][name]
    torch.save(state, "old.pth")
    assert recbole_vae.Recommender.load("old.pth").model.options.popularity_correction == 0


def test_of_an_empty_history_the_scores_stay_finite(build: Builder) -> None:
    model = build("MultDAE", popularity_correction=1.0).model.eval()
    with torch.no_grad():
        scores = model.score(Histories.from_lists([[]]))
    assert torch.isfinite(scores[:, 1:]).all()


@pytest.mark.parametrize("model_name", ["MultVAE", "MultDAE"])
def test_training_may_count_rare_items_more(build: Builder, model_name: str) -> None:
    model = build(model_name, propensity_weight=1.5, dropout_prob=0.0).model.double().eval()
    plain = build(model_name, dropout_prob=0.0).model.double().eval()
    counts = torch.bincount(plain.histories.indices.long(), minlength=plain.n_items)[1:].numpy()
    weights = np.exp(-1.5 * oracle(counts.tolist()))
    weights *= counts.sum() / (counts * weights).sum()
    assert weights[counts.argmin()] > weights[counts.argmax()]
    users = torch.tensor([3, 5, 9])
    histories = plain.histories[users]
    assert plain.targets(histories) is histories
    targets = model.targets(histories)
    np.testing.assert_allclose(targets.entry_values().numpy(), weights[histories.indices.numpy() - 1], rtol=1e-5)
    model.load_state_dict(plain.state_dict())
    torch.manual_seed(1)
    loss = float(model.loss_terms(histories, 0, 3).reconstruction.detach())
    weighted = Histories(histories.indptr, histories.indices, targets.values)
    plain.targets = lambda _: weighted
    torch.manual_seed(1)
    assert loss == pytest.approx(float(plain.loss_terms(histories, 0, 3).reconstruction.detach()), rel=1e-9)
    plain.targets = lambda each: each
    torch.manual_seed(1)
    assert loss != pytest.approx(float(plain.loss_terms(histories, 0, 3).reconstruction.detach()), rel=1e-3)
