"""Training again on all interactions, as an earlier run was trained: for as many epochs as its validation part chose."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole.trainer import PretrainTrainer, Trainer
from recbole.utils import ModelType, get_trainer

from recbole_vae.errors import CheckpointError
from recbole_vae.model.registry import is_history_model, model_class
from recbole_vae.nn.annealing import PlateauCap
from recbole_vae.options.evaluation import ALL, kind_of
from recbole_vae.storage import checkpoint, recbole_checkpoint
from recbole_vae.training.restore import load_recboles
from recbole_vae.training.warm_start import steps_per_epoch

WARM_SHARE = 0.1
"""Share of the epochs of a training from scratch that follow a warm start, unless ``epochs`` says how many."""

_OF_THE_RUN = {"model", "dataset", "config_files", "config_file_list", "training_data"}
"""What a checkpoint's options have besides those of the model, the data and the training."""


@dataclass(frozen=True)
class Recipe:
    """How a model is to be trained again on all interactions.

    Attributes:
        model: its name.
        dataset: name of the data set of the earlier run.
        options: as for RecBole's Config: those of the earlier run, with its number of epochs, and with all interactions in
            the training part.
        epochs: how many the model needs from scratch; None where that is not known, because the earlier run began with a warm
            start.
        evaluations: of each evaluation of the earlier run, up to the best, whether it was the best so far; None if unknown, or
            if that run began with a warm start, so that its epochs are others than those from scratch.
        score: of the earlier run on its validation part, in words; "" if it had none.
        chosen: what the earlier run chose for the options ``auto`` of a mixture; None if there are none.
        changed: an option that was put in other words, and why; "" if there is none.
        reach: see :class:`~recbole_vae.nn.cold.Strengths`.
    """

    model: str
    dataset: str
    options: dict[str, Any]
    epochs: int | None
    evaluations: list[bool] | None
    score: str
    chosen: dict[str, float] | None = None
    changed: str = ""
    reach: float = 1.0


def recipe(path: str | Path) -> Recipe:
    """Read from a checkpoint how its model is to be trained on all interactions.

    Raises:
        CheckpointError: the file cannot be read, or its model cannot be trained again from it.
    """
    if recbole_checkpoint.is_recboles(path):
        return _of_recboles(path)
    state = checkpoint.load(path)
    if not is_history_model(model_class(state["model"])):
        raise CheckpointError(
            f"{path}: a checkpoint of {state['model']}, which is not registered; import the module that registers it first (on "
            "the command line: --imports=MODULE)."
        )
    options = _for_all(state["config"])
    changed = _by_epochs(options, state)
    chosen = state.get("epochs_from_scratch", state["epoch"] + 1)
    options["epochs"] = state["epoch"] + 1 if chosen is None else chosen
    # best_valid_score is that of a mixture's VAE alone.
    metric = str(state["config"]["valid_metric"])
    best = (state["best_valid_result"] or {}).get(metric.lower(), state["best_valid_score"])
    score = f"{metric} {best:.4f}" if state["best_valid_result"] else ""
    evaluations = None if chosen is None else state.get("evaluations")
    extra = state["state_dict"].get("_extra_state", {})
    reach = (extra.get("strengths") or {}).get("reach", 1.0)
    return Recipe(
        state["model"], state["dataset"], options, chosen, evaluations, score, extra.get("chosen"), changed, reach
    )


def in_one_stage(config: Any) -> bool:
    """Tell whether a model is trained by RecBole's usual loop over epochs, which writes one checkpoint."""
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])
    return issubclass(trainer, Trainer) and not issubclass(trainer, PretrainTrainer)


def _for_all(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a checkpoint with a split that leaves all for training."""
    args = saved["eval_args"]
    kept = {name: args[name] for name in ("group_by", "order", "mode") if name in args}
    options = {name: value for name, value in saved.items() if name not in _OF_THE_RUN}
    metric = kind_of(str(saved["valid_metric"]))[1]  # without held-out items, there is none of cold ones
    return {**options, "eval_args": {**kept, "split": ALL}, "valid_metric": metric}


def _by_epochs(options: dict[str, Any], state: Mapping[str, Any]) -> str:
    """Turn ``total_anneal_steps`` into ``anneal_epochs``: all interactions may mean more steps an epoch."""
    steps = options.get("total_anneal_steps")
    if steps is None:
        return ""
    cap = PlateauCap.START if options["anneal_cap"] == "auto" else options["anneal_cap"]
    epochs = steps * cap / steps_per_epoch(state)
    options.update(total_anneal_steps=None, anneal_epochs=epochs)
    return f"total_anneal_steps: {steps} is anneal_epochs: {epochs:.4g}, so that beta rises in as many epochs"


def _of_recboles(path: str | Path) -> Recipe:
    state = load_recboles(path)
    config = state["config"]
    if config.model_class.type not in (ModelType.GENERAL, ModelType.TRADITIONAL) or not in_one_stage(config):
        raise CheckpointError(
            f"{path}: a checkpoint of {config['model']}, which is not refitted: only models that rank items for a user, and are "
            "trained in one stage, are. Train it by recbole-vae run with more of the data in the training part (eval_args)."
        )
    options = _for_all(checkpoint.plain_config(config))
    epochs, best = int(state["epoch"]) + 1, float(state["best_valid_score"])
    score = f"{config['valid_metric']} {best:.4f}" if math.isfinite(best) else ""
    return Recipe(config["model"], config["dataset"], {**options, "epochs": epochs}, epochs, None, score)
