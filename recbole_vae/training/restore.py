"""Restores RecBole's Config from a checkpoint, and RecBole's own models from theirs."""

from __future__ import annotations

import hashlib
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

from recbole_vae.data.files import inter_file
from recbole_vae.data.histories import Histories
from recbole_vae.errors import CheckpointError
from recbole_vae.evaluation.fold_in import why_not
from recbole_vae.model.registry import registered_classes
from recbole_vae.storage import checkpoint, recbole_checkpoint


def config_of_checkpoint(path: str | Path) -> Any:
    """Return RecBole's Config as it was when a checkpoint of recbole_vae was written, without options of the command line."""
    from recbole.config import Config

    state = checkpoint.load(path)
    argv, sys.argv = sys.argv, sys.argv[:1]
    try:
        config = Config(model=state["model"], dataset=state["dataset"], config_dict={"resume": str(path)})
    finally:
        sys.argv = argv
    config["resume"], config["loaded_from"] = None, str(path)
    return config


def load_recboles(path: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint of RecBole; its ``config`` is a Config of RecBole again.

    Raises:
        CheckpointError: see :func:`recbole_vae.storage.recbole_checkpoint.load`; or its model is not registered here.
    """
    classes = [(model.__module__, model.__name__) for model in registered_classes()]
    state = recbole_checkpoint.load(path, map_location, classes)
    config: Any = state.get("config")
    if type(config).__name__ == "Config":
        # RecBole joins the name to paths from which it unpickles; a path as a name would lead anywhere.
        checkpoint.check_name(path, config.final_config_dict.get("dataset"))
        import yaml
        from recbole.config import Config
        from recbole.utils import get_model

        # The stand-in has all that the Config had, except its classes.
        config.__class__, config.yaml_loader = Config, yaml.FullLoader
        try:
            config.model_class = get_model(str(config.model))
        except (AttributeError, ImportError, ValueError):
            raise CheckpointError(
                f"{path}: a checkpoint of {config.model}, which is not registered; import the module that registers it first."
            ) from None
        # RecBole unpickles data from these paths, so the file must not choose them.
        config.final_config_dict.update(dataset_save_path=None, dataloaders_save_path=None, checkpoint_dir="saved")
        config.final_config_dict["loaded_from"] = str(path)
    return state


def check_saved(path: str | Path) -> None:
    """Raise a CheckpointError if a trainer is to load its best epoch and has saved none."""
    if not Path(path).exists():
        raise CheckpointError(
            f"{path}: there is no such checkpoint. Call fit first, which saves one, or evaluate(..., load_best_model=False) for "
            "the model as it is."
        )


def data_hash(dataset: Any) -> str:
    """Return a SHA-256 of a training data set of RecBole: its ids, in their order, and its interactions."""
    table = Histories.from_dataset(dataset, None)
    digest = hashlib.sha256()
    for field in (dataset.uid_field, dataset.iid_field):
        digest.update("\n".join(map(str, dataset.field2id_token[field])).encode() + b"\0")
    for part in (table.indptr, table.indices):
        digest.update(part.numpy().tobytes())
    return digest.hexdigest()


def model_of_recbole(path: str | Path, device: str | torch.device = "cpu") -> tuple[Any, Any, Any]:
    """Rebuild a model that can score histories from RecBole's checkpoint and its data set, which is loaded and split again.

    RecBole's checkpoints hold neither the ids of the data set nor its interactions.

    Returns:
        RecBole's Config, the model, and the training part of the data set.

    Raises:
        CheckpointError: the file is not a checkpoint of RecBole, its model cannot score a history, or its data set has moved
            or changed.
    """
    from recbole.data import create_dataset
    from recbole.utils import init_seed

    state = load_recboles(path, device)
    config, random = state["config"], checkpoint.random_states()
    reason = why_not(config.model_class, config.final_config_dict)
    if reason:
        raise CheckpointError(f"{path}: {reason}")
    # RecBole unpickles data sets that it finds in checkpoint_dir, so name a place that holds none.
    config.final_config_dict.update(device=torch.device(device), checkpoint_dir=os.devnull, save_dataset=False)
    _check_files(config, path)
    try:
        init_seed(config["seed"], config["reproducibility"])
        with warnings.catch_warnings():
            # RecBole makes tensors of pandas' arrays, which are read-only now; it does not write to them.
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            training = create_dataset(config).build()[0]
        if config["training_data"] not in (None, data_hash(training)):
            raise CheckpointError(
                f"{path}: the data set in {config['data_path']}, or its split, is not the one that {config['model']} was "
                "trained on. Put the old files there, or train anew."
            )
        init_seed(config["seed"], config["reproducibility"])
        model = config.model_class(config, training).to(device)
    finally:
        checkpoint.set_random_states(random)
    try:
        model.load_state_dict(state["state_dict"])
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path}: does not fit its data set in {config['data_path']} ({reason}).") from None
    model.load_other_parameter(state.get("other_parameter"))
    return config, model, training


def _check_files(config: Any, path: str | Path) -> None:
    """Raise a CheckpointError unless the files of the data set are there; RecBole would try to download them."""
    folder, name = Path(config["data_path"]), config["dataset"]
    for part in config["benchmark_filename"] or [""]:
        file = inter_file(folder, f"{name}{part and f'.{part}'}")
        if not file.is_file():
            raise CheckpointError(
                f"{path}: checkpoints in RecBole's format, as of this {config['model']}, hold no data, and there is no file "
                f"{file} (looked for in {Path.cwd()}). Put the data set where it was at training, and start from the same folder."
            )
