"""Evaluation by shortlists, and by all scores: the same results, bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from recbole_vae.model import autoencoder
from recbole_vae.model.multvae import MultVAE
from recbole_vae.nn import shortlist
from tests.conftest import Builder, Run, random_rows, write_inter

METRICS = ["NDCG", "Recall", "MAP", "ItemCoverage"]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Allow shortlists of small data on any machine, and note whether each batch had one."""
    made: list[bool] = []

    class Noting(shortlist.Shortlister):
        def __call__(self, *args: Any) -> Any:
            found = super().__call__(*args)
            made.append(found is not None)
            return found

    for name, value in (("_FEWEST_ROWS", 1), ("_GROUP", 2), ("_WORTH", 1.0), ("_COLUMNS", 16)):
        monkeypatch.setattr(shortlist, name, value)
    monkeypatch.setattr(autoencoder, "Shortlister", Noting)
    monkeypatch.setattr(autoencoder, "has_fast_bfloat16", lambda device: True)
    return made


def both(run: Run, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """Evaluate by shortlists, and without them."""
    with_lists = run.trainer.evaluate(run.test, load_best_model=False)
    with monkeypatch.context() as patch:
        patch.setattr(autoencoder, "has_fast_bfloat16", lambda device: False)
        without = run.trainer.evaluate(run.test, load_best_model=False)
    return with_lists, without


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("MultVAE", {}), ("MultDAE", {"popularity_correction": 0.5}), ("MultVAE", {"exact_metrics": True}),
        ("CompositeVAE", {}), ("VampVAE", {}), ("MultVAE", {"eval_args": {"split": {"HU": [10, 20]}}}),
    ],
)  # fmt: skip
def test_results_are_the_same(
    build: Builder, calls: list[bool], monkeypatch: pytest.MonkeyPatch, model: str, options: dict[str, Any]
) -> None:
    data_path = write_inter(random_rows(80, 30))
    run = build(
        model, dataset="tiny", data_path=data_path, metrics=METRICS, topk=[1, 3], epochs=2, metric_decimal_place=12,
        valid_metric="NDCG@3", **options,
    )  # fmt: skip
    run.fit()
    calls.clear()
    found, expected = both(run, monkeypatch)
    assert calls
    assert all(calls)
    assert dict(found) == dict(expected)
    assert all((found.per_user[name] == expected.per_user[name]).all() for name in expected.per_user)


def test_scores_of_another_make_are_used(build: Builder, calls: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    class Backwards(MultVAE):
        def full_sort_predict(self, interaction: Any) -> Any:
            return -super().full_sort_predict(interaction)

    run = build(metrics=["NDCG"], topk=[3], epochs=1, valid_metric="NDCG@3", metric_decimal_place=12)
    run.fit()
    calls.clear()
    usual = dict(run.trainer.evaluate(run.test, load_best_model=False))
    assert calls
    calls.clear()
    run.model.__class__ = Backwards
    of_the_class = dict(run.trainer.evaluate(run.test, load_best_model=False))
    run.model.__class__ = MultVAE
    with monkeypatch.context() as patch:
        patch.setattr(run.model, "full_sort_predict", lambda batch: -MultVAE.full_sort_predict(run.model, batch))
        of_the_object = dict(run.trainer.evaluate(run.test, load_best_model=False))
    assert not calls
    assert of_the_class == of_the_object != usual
    torch.set_float32_matmul_precision("medium")
    try:
        assert run.model.shortlister() is None
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize(
    ("model", "metrics"), [("MultVAE", ["NDCG", "GAUC"]), ("HybridVAE", ["NDCG"]), ("VASP", ["NDCG"])]
)
def test_what_needs_all_scores_gets_them(build: Builder, calls: list[bool], model: str, metrics: list[str]) -> None:
    run = build(model, metrics=metrics, topk=[3], epochs=1, valid_metric="NDCG@3")
    run.fit()
    assert not calls
    assert torch.isfinite(torch.tensor(list(run.trainer.evaluate(run.test, load_best_model=False).values()))).all()
