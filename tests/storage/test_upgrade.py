"""Checkpoints of earlier formats: files that earlier versions of this package wrote, and what they lack."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from recbole_vae import Recommender
from recbole_vae.data.feature_file import FileForm
from recbole_vae.data.features import FeatureSpace
from recbole_vae.errors import CheckpointError, ConfigError
from recbole_vae.model.registry import model_class, model_names
from recbole_vae.storage import checkpoint, upgrade
from tests.conftest import OWN, Builder, random_rows, write_inter

OLDER = Path(__file__).parent / "older"

# By the versions that wrote these files: the first scores of the first user; then, of the next three epochs, the mean loss and
# beta. MultVAE is of the first version that wrote checkpoints. HybridVAE has both anneal_epochs and total_anneal_steps, and
# the epochs counted. The cap of MultVAE-auto began at 1.
WRITTEN: dict[str, tuple[list[float], list[float], list[float]]] = {
    "MultVAE": (
        [0.59757, 0.57288, 0.14505, -0.06572, 0.36052, -0.3446],
        [19.61943, 19.36352, 19.11565],
        [7.5e-05, 9e-05, 10.5e-05],
    ),
    "HybridVAE": (
        [2.219, 2.82291, 0.35265, -0.41925, 0.81198, -0.63231],
        [19.70159, 19.51153, 19.31399],
        [0.125, 0.15, 0.175],
    ),
    "MultVAE-auto": (
        [0.52481, 0.39475, 0.06771, -0.10841, 0.26976, -0.27589],
        [20.18713, 19.96029, 19.6935],
        [1.0, 1.0, 1.0],
    ),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_an_older_file_scores_and_trains_on_as_it_did(name: str, build: Builder) -> None:
    scores, losses, betas = WRITTEN[name]
    shutil.copy(OLDER / f"{name}.pth", "older.pth")
    state = checkpoint.load("older.pth")
    assert torch.load("older.pth", weights_only=True)["format_version"] == 1
    assert state["format_version"] == upgrade.FORMAT_VERSION
    model = Recommender.load("older.pth").model
    with torch.no_grad():
        found = model.score(model.histories[torch.tensor([1])])[0, 1 : 1 + len(scores)]
    torch.testing.assert_close(found, torch.tensor(scores), rtol=1e-4, atol=1e-4)
    options = {"data_path": write_inter(random_rows()), "epochs": 7, "precision": state["config"]["precision"]}
    for own in OWN.get(state["model"], ()):  # else those of the tests
        options[own] = state["config"][own]
    run = build(state["model"], "tiny", resume="older.pth", **options)
    measured: list[tuple[float, float]] = []
    original = run.trainer._train_epoch

    def keep(*args: Any, **kwargs: Any) -> float:
        loss: float = original(*args, **kwargs)
        measured.append((loss, run.model.beta()))
        return loss

    run.trainer._train_epoch = keep
    run.fit()
    assert [beta for _, beta in measured] == pytest.approx(betas)
    assert [loss for loss, _ in measured] == pytest.approx(losses, rel=1e-3)  # precision: auto depends on the machine


def test_an_older_file_whose_objective_is_overridden_is_refused(build: Builder) -> None:
    shutil.copy(OLDER / "MultVAE.pth", "older.pth")
    with pytest.raises(
        ConfigError, match=r"was trained with kl_length_power=0\.0, but this run has kl_length_power=1\.0"
    ):
        build("MultVAE", data_path=write_inter(random_rows()), dataset="tiny", resume="older.pth", kl_length_power=1.0)


OPTIONS: dict[str, set[str]] = {
    "": {
        "epochs", "train_batch_size", "eval_batch_size", "eval_step", "stopping_step", "learner", "learning_rate", "weight_decay",
        "clip_grad_norm", "use_gpu", "show_progress", "reproducibility", "enable_amp", "enable_scaler", "seed", "precision",
        "fast_evaluation", "popularity_correction", "propensity_weight", "weight_averaging", "value_field", "resume",
        "normalize_all", "train_neg_sample_args",
    },
    "MultDAE": {
        "mlp_hidden_size", "latent_dimension", "activation", "dropout_prob", "likelihood", "label_smoothing",
        "gaussian_confidence", "tied_weights", "n_negatives",
    },
    "MultVAE": {"anneal_cap", "anneal_epochs", "total_anneal_steps", "kl_length_power"},
    "HybridVAE": {
        "linear_share", "linear_l2", "linear_dropout", "linear_user_power", "linear_item_power", "linear_neighbours",
        "kernel_share", "kernel_l2", "kernel_user_power",
    },
    "CompositeVAE": {"hidden_size", "latent_dimension", "dropout_prob", "gamma"},
    "VampVAE": {
        "hidden_size", "latent_dimension", "hierarchical", "n_pseudo_inputs", "dropout_prob", "anneal_cap", "anneal_epochs",
    },
    "VASP": {
        "hidden_size", "latent_dimension", "encoder_layers", "decoder_layers", "dropout_prob", "focal_gamma", "focal_alpha",
        "beta",
    },
}  # fmt: skip
"""The options of format 2; those of "" are of all models."""
BASES = {"MultVAE": ["MultDAE"], "HybridVAE": ["MultDAE", "MultVAE"]}


@pytest.mark.parametrize("model", model_names())
def test_each_option_is_in_the_files_or_added_by_a_step(model: str) -> None:
    """Whoever adds an option appends a step to ``upgrade._STEPS``, which says how the models worked before it was there."""
    config = {name: None for each in ("", *BASES.get(model, []), model) for name in OPTIONS[each]}
    state: dict[str, Any] = {"format_version": 2, "config": config, "state_dict": {}}
    upgrade.upgrade(state)
    kind = model_class(model)
    assert kind is not None
    assert set(state["config"]) == set(kind.config_class.names()) - {
        "data_cache",
        "warm_start",
    }  # of one run: no file has them


def test_steps_follow_each_other_up_to_the_present_format(monkeypatch: pytest.MonkeyPatch) -> None:
    def renamed(state: dict[str, Any]) -> None:
        state["config"]["shine"] = state["config"].pop("glow")

    steps: list[Callable[[dict[str, Any]], None]] = [upgrade._adding("anneal_cap", glow=0.5), renamed]
    monkeypatch.setattr(upgrade, "_STEPS", (*upgrade._STEPS, *steps))
    today = upgrade.FORMAT_VERSION
    monkeypatch.setattr(upgrade, "FORMAT_VERSION", today + 2)
    for version, config, expected in (
        (today, {"anneal_cap": 1.0}, {"anneal_cap": 1.0, "shine": 0.5}),
        (today + 1, {"anneal_cap": 1.0, "glow": 0.7}, {"anneal_cap": 1.0, "shine": 0.7}),
        (today + 2, {"anneal_cap": 1.0}, {"anneal_cap": 1.0}),
    ):
        state = {"format_version": version, "config": config, "state_dict": {}}
        upgrade.upgrade(state)
        assert state == {"format_version": today + 2, "config": expected, "state_dict": {}}


@pytest.mark.parametrize("version", [0, upgrade.FORMAT_VERSION + 1, 1.0, True, "1"])
def test_a_version_that_is_not_known_is_refused(version: Any) -> None:
    state = torch.load(OLDER / "MultVAE.pth", weights_only=True)
    torch.save({**state, "format_version": version}, "other.pth")
    with pytest.raises(
        CheckpointError,
        match=rf"^other.pth: checkpoint format {version!r}; .* reads formats 1 to {upgrade.FORMAT_VERSION}\.",
    ):
        checkpoint.load("other.pth")


def test_an_older_file_that_is_damaged_is_refused() -> None:
    state = torch.load(OLDER / "HybridVAE.pth", weights_only=True)
    state["state_dict"]["_extra_state"] = "nothing"
    torch.save(state, "damaged.pth")
    with pytest.raises(CheckpointError, match="^damaged.pth: damaged checkpoint: it cannot be upgraded"):
        checkpoint.load("damaged.pth")


def test_the_form_of_features_keeps_its_field_of_ids() -> None:
    form = {"item_field": "item_id", "separator": "\t", "seq_separator": " ", "encoding": "utf-8"}
    features: dict[str, Any] = {"form": form, "blocks": []}
    config = {"total_anneal_steps": None}
    state = {"format_version": 6, "config": config, "state_dict": {"_extra_state": {"features": features}}}
    upgrade.upgrade(state)
    assert FeatureSpace.from_state(features).form == FileForm("item_id", "\t", " ", "utf-8", "item")
    assert config == {"total_anneal_steps": None, "user_features": []}
