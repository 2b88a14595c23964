"""RecBole's HyperTuning with each of its algorithms, for our models and RecBole's own, against a loop."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import pytest

from recbole_vae.errors import ConfigError
from tests.conftest import random_rows, write_inter

pytest.importorskip("hyperopt")

CHOICES: dict[str, list[Any]] = {"learning_rate": [0.0001, 0.01, 0.03], "train_batch_size": [16, 64]}


@pytest.fixture
def fixed() -> list[str]:
    write_inter(random_rows())
    Path("fixed.yaml").write_text("dataset: tiny\ndata_path: data\nepochs: 2\nshow_progress: False\nstate: ERROR\n")
    return ["model.yaml", "fixed.yaml"]


def score(config_dict: dict[str, Any], config_file_list: Any = None) -> dict[str, Any]:
    """Score two options at once, in place of a training."""
    value = float(10 * config_dict["a"] + config_dict["b"])
    result = {"best_valid_score": value, "best_valid_result": {}, "test_result": {}}
    return {"model": "MultVAE", "valid_score_bigger": True, **result}


@pytest.mark.parametrize("model", ["MultVAE", "BPR"])
@pytest.mark.parametrize("given", ["params_dict", "params_file"])
def test_exhaustive_finds_what_a_loop_finds(model: str, given: str, fixed: list[str]) -> None:
    from recbole.quick_start import objective_function
    from recbole.trainer import HyperTuning

    Path("model.yaml").write_text(f"model: {model}\n")
    if given == "params_file":
        Path("space.hyper").write_text("".join(f"{name} choice {values}\n" for name, values in CHOICES.items()))
        space: dict[str, Any] = {"params_file": "space.hyper"}
    else:
        space = {"params_dict": {"choice": CHOICES}}
    tuning = HyperTuning(objective_function, fixed_config_file_list=fixed, **space)  # exhaustive is the default
    tuning.run()
    loop = {
        values: objective_function(dict(zip(CHOICES, values, strict=True)), fixed)["best_valid_score"]
        for values in itertools.product(*CHOICES.values())
    }
    assert len(tuning.params2result) == len(tuning.score_list) == len(loop)
    assert tuning.best_score == max(loop.values())
    assert loop[tuning.best_params["learning_rate"], tuning.best_params["train_batch_size"]] == tuning.best_score
    found = {params: result["best_valid_score"] for params, result in tuning.params2result.items()}
    names = list(tuning.best_params)
    for values, expected in loop.items():
        settings = dict(zip(CHOICES, values, strict=True))
        assert found[tuning.params2str({name: settings[name] for name in names})] == expected
    tuning.export_result("result.txt")
    assert Path("result.txt").read_text().count("Test result") == len(loop)


@pytest.mark.parametrize("model", ["MultVAE", "BPR"])
@pytest.mark.parametrize("algo", ["random", "bayes"])
def test_the_other_algorithms_run(model: str, algo: str, fixed: list[str]) -> None:
    from recbole.quick_start import objective_function
    from recbole.trainer import HyperTuning

    Path("model.yaml").write_text(f"model: {model}\n")
    space = {"loguniform": {"learning_rate": [-8, -3]}, "choice": {"train_batch_size": [16, 64]}}
    tuning = HyperTuning(objective_function, params_dict=space, fixed_config_file_list=fixed, algo=algo, max_evals=3)
    tuning.run()
    assert len(tuning.score_list) == 3
    assert tuning.best_score == max(tuning.score_list)
    again = objective_function(dict(tuning.best_params), fixed)
    assert again["best_valid_score"] == tuning.best_score


def test_exhaustive_tries_each_combination_once(capsys: pytest.CaptureFixture[str]) -> None:
    """RecBole draws at random and gives up after 1000 draws, which would leave out some of so many."""
    from recbole.trainer import HyperTuning

    space = {"choice": {"a": list(range(30)), "b": list(range(30))}}
    tuning = HyperTuning(score, params_dict=space, early_stop=900)
    tuning.run()
    assert sorted(tuning.score_list) == sorted(10.0 * a + b for a in range(30) for b in range(30))
    assert tuning.best_params == {"a": 29, "b": 29}
    assert "combinations" not in capsys.readouterr().out
    tuning = HyperTuning(score, params_dict=space, early_stop=1)
    tuning.run()
    tried = len(tuning.score_list)
    assert tried < 900
    assert f"Tried {tried} of 900 combinations: the last ones were no better" in capsys.readouterr().out


def test_exhaustive_refuses_ranges() -> None:
    from recbole.trainer import HyperTuning

    space = {"choice": {"a": [1, 2]}, "uniform": {"b": [0, 1]}, "quniform": {"c": [0, 8, 4]}}
    with pytest.raises(ConfigError, match="^b, c: algo='exhaustive' tries all combinations of choices, and a range"):
        HyperTuning(score, params_dict=space)
    HyperTuning(score, params_dict=space, algo="random")


def test_what_is_tuned_is_not_set_on_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """RecBole's command line comes above the trial, so that all trials would be the same."""
    from recbole.trainer import HyperTuning

    tuning = HyperTuning(score, params_dict={"choice": {"a": [1, 2], "b": [3]}})
    monkeypatch.setattr(sys, "argv", ["tune.py", "--a=2", "--output_file=x"])
    with pytest.raises(
        ConfigError, match="^a is to be tuned, but the command line sets it for all trials. Leave out --a"
    ):
        tuning.run()
