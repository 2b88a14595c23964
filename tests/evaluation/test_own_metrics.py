"""Metrics of somebody's own: registered by name, measured for each user, defined by their docstring."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recbole.evaluator.base_metric import AbstractMetric, TopkMetric
from recbole.evaluator.metrics import Recall

import recbole_vae
from recbole_vae.compare import plan
from recbole_vae.errors import ConfigError
from recbole_vae.evaluation.definitions import definition
from recbole_vae.plugin import quick_start
from tests.conftest import Builder

pytestmark = pytest.mark.usefixtures("registry")


class Halved(TopkMetric):  # type: ignore[misc]
    """Half of the hits.

    It is for these tests.
    """

    def calculate_metric(self, dataobject: Any) -> Any:
        hits, _ = self.used_info(dataobject)
        return self.topk_result("halved", np.cumsum(hits, axis=1) / 2)


def test_a_metric_is_measured_and_chooses_the_epoch(build: Builder) -> None:
    recbole_vae.register_metric(Halved)
    recbole_vae.register_metric(Halved)  # as a module that is imported twice
    run = build(metrics=["Precision", "Halved"], topk=[4], valid_metric="Halved@4", metric_decimal_place=8)
    run.fit()
    result = run.trainer.evaluate(run.test)
    assert result["halved@4"] == pytest.approx(result["precision@4"] * 2)
    np.testing.assert_allclose(result.per_user["halved@4"], 2 * result.per_user["precision@4"])
    assert result.standard_errors()["halved@4"] > 0
    assert definition("halved") == "Halved: Half of the hits"
    assert definition("recall").startswith("Recall: share of")
    assert definition("nosuch") == ""


def test_a_result_of_another_name_is_refused(build: Builder) -> None:
    renamed = type("F2", (Halved,), {})
    recbole_vae.register_metric(renamed)
    run = build(metrics=["Precision", "F2"], topk=[4], epochs=1)
    with pytest.raises(ConfigError, match=r"^metrics: F2 \(.*\) calls its result 'halved@4'; .* must be 'f2', that"):
        run.fit()


def test_children_of_a_run_import_its_module() -> None:
    recbole_vae.register_metric(Halved)
    _, (modules, _) = quick_start._RunRecboles(print).__reduce__()
    assert __name__ in modules
    assert pickle.dumps(modules)


def test_what_is_no_metric_is_refused() -> None:
    for wrong in (dict, 3, AbstractMetric):
        with pytest.raises(TypeError, match="a metric is a subclass of TopkMetric"):
            recbole_vae.register_metric(wrong)
    with pytest.raises(TypeError, match="has no method calculate_metric"):
        recbole_vae.register_metric(type("Nothing", (TopkMetric,), {}))
    for name in ("Recall", "TruncatedRecall", "ndcg"):
        with pytest.raises(ValueError, match="there is a metric of that name already"):
            recbole_vae.register_metric(type(name, (Halved,), {}))
    assert Recall is not Halved


def test_a_comparison_refuses_a_metric_of_which_less_is_better(tmp_path: Path) -> None:
    recbole_vae.register_metric(Halved, type("Less", (Halved,), {"smaller": True}))
    assert plan.read(None, {"models": "EASE", "metrics": "Halved", "topk": "5"}).columns == ["halved@5"]
    with pytest.raises(ConfigError, match=r"^metrics \(command line\): less of Less is better"):
        plan.read(None, {"models": "EASE", "metrics": "NDCG,Less"})
