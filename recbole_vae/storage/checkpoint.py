"""Checkpoints: everything that scoring and a bit-exact resume need, in a file whose loading runs no code.

A checkpoint is a dictionary of tensors and plain values, written by ``torch.save`` and read with ``weights_only=True``:

=====================  ==========================================================================================
``format``             ``recbole_vae checkpoint``
``format_version``     an integer; older files are upgraded when they are loaded
``versions``           of recbole_vae, recbole, torch, numpy and python when it was written
``model``, ``dataset`` their names
``config``             RecBole's final configuration, as far as it is plain values
``users``, ``items``   the tokens of the data set; position = internal id, 0 is RecBole's padding
``split_hash``         SHA-256 of the split where users or items are held out; else None
``histories``          the training histories: ``indptr``, ``indices``, ``values`` (or None)
``epoch``              the last epoch that was trained, from 0
``cur_step``           evaluations since the best one
``best_valid_score``   on the validation part, and ``best_valid_result``, a dictionary of metrics
``state_dict``         of the model, with its step in the annealing schedule (and, with ``auto``, its cap and dropout;
                       with ``item_features``, these and their strengths; with ``user_features``,
                       the profiles of the training users)
``average``            only with ``weight_averaging``, where ``state_dict`` holds the average: ``count``, its number of
                       epochs, and ``weights``, from which training continues, in the order of the parameters
``optimizer``          ``state_dict`` of the optimiser
``evaluations``        of each evaluation so far, whether it was the best; None, as in files of 1.0.0, if unknown
``epochs_from_scratch``  how many epochs the best one takes from scratch; None after a warm start; not in files of 1.0.0
``notes``              what makes results of this model misleading, in sentences; not in files of 1.0.0
``random``             states of the generators of Python, NumPy, torch, CUDA and the training dataloader
=====================  ==========================================================================================
"""

from __future__ import annotations

import os
import pickle
import platform
import random
import re
import warnings
import zipfile
import zlib
from collections.abc import Collection, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recbole_vae.errors import CheckpointError, ConfigError, DataError
from recbole_vae.storage.files import written_whole
from recbole_vae.storage.once import kept
from recbole_vae.storage.upgrade import FORMAT_VERSION, upgrade
from recbole_vae.version import __version__

FORMAT = "recbole_vae checkpoint"

_KEYS: dict[str, type | tuple[type, ...]] = {
    "versions": dict,
    "model": str,
    "dataset": str,
    "config": dict,
    "users": list,
    "items": list,
    "histories": dict,
    "epoch": int,
    "cur_step": int,
    "best_valid_score": (int, float),
    "best_valid_result": (dict, type(None)),
    "state_dict": dict,
    "optimizer": dict,
    "random": dict,
}

_INNER_KEYS = {
    "histories": ("indptr", "indices", "values"),
    "random": ("python", "numpy", "torch", "cuda", "train_data"),
}

# Options of a run, not of the model: its processes, its device, and the paths of its other files. RecBole unpickles what lies
# at such paths, so a checkpoint must not name them.
_OF_ONE_RUN = {
    "local_rank", "world_size", "nproc", "offset", "ip", "port", "single_spec", "resume", "loaded_from", "checkpoint_dir",
    "save_dataset", "dataset_save_path", "save_dataloaders", "dataloaders_save_path", "log_wandb", "wandb_project",
    "gpu_id", "warm_start", "out", "refit", "data_cache",
}  # fmt: skip

# Options that may change when training resumes, because they do not affect an epoch.
_MAY_CHANGE = {
    "epochs", "stopping_step", "data_path", "show_progress", "state", "use_gpu", "worker", "eval_batch_size",
    "metric_decimal_place", "loss_decimal_place", "config_files", "encoding",
}  # fmt: skip

# Options that may change if the user sets them, to rescue training that went wrong. All others must stay the same.
_MAY_BE_SET = {"learning_rate", "clip_grad_norm"}

BAD_ARCHIVE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError, UnicodeDecodeError, ValueError)
"""What zipfile raises for an archive whose bytes have changed."""


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a result depends on."""
    packages = {name: version(name) for name in ("recbole", "torch", "numpy")}
    return {"recbole_vae": __version__, **packages, "python": platform.python_version()}


def plain(value: Any) -> Any:
    """Convert a value to None, bool, int, float, str, list or dict.

    Raises:
        TypeError: the value is, or holds, something else.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Mapping):
        return {plain(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    raise TypeError(f"{type(value).__name__} is not a plain value")


def plain_config(config: Any) -> dict[str, Any]:
    """Return the options of RecBole's Config that are plain values, without those that belong to one run.

    RecBole derives the rest (the device, its enumerations) again.
    """
    result = {}
    for key, value in config.final_config_dict.items():
        if key in _OF_ONE_RUN:
            continue
        try:
            result[key] = plain(value)
        except TypeError:
            continue
    # Undo what RecBole would do a second time to these options: it appends the data set's name to data_path, and writes
    # "none" for no negative sampling.
    path = Path(result["data_path"])
    if path.name == config["dataset"]:
        result["data_path"] = str(path.parent)
    if result["train_neg_sample_args"]["distribution"] == "none":
        result["train_neg_sample_args"] = None
    return result


def random_states() -> dict[str, Any]:
    """Return the states of the global random generators, as tensors and plain values."""
    name, keys, *rest = np.random.get_state()
    kind, internal, gauss = random.getstate()
    return {
        "python": [kind, list(internal), gauss],
        "numpy": [name, np.asarray(keys).tolist(), *map(plain, rest)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }


def set_random_states(states: Mapping[str, Any]) -> None:
    """Restore the states of the global random generators that :func:`random_states` returned."""
    kind, internal, gauss = states["python"]
    random.setstate((kind, tuple(internal), gauss))
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(states["torch"].cpu())
    if states["cuda"] and torch.cuda.device_count() == len(states["cuda"]):
        torch.cuda.set_rng_state_all([state.cpu() for state in states["cuda"]])


def save(state: Mapping[str, Any], path: str | Path) -> None:
    """Write a checkpoint to a temporary file and rename it, so that a killed process never leaves half a file.

    Args:
        state: all keys of the table above except ``format``, ``format_version`` and ``versions``.
        path: the file to write or replace.
    """
    path = Path(path)
    content = {"format": FORMAT, "format_version": FORMAT_VERSION, "versions": versions(), **state}
    try:
        with written_whole(path, binary=True) as file:
            try:
                torch.save(content, file)
            except RuntimeError as error:  # torch raises it at the end of the archive, after a failed write
                raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None
            file.flush()
            os.fsync(file.fileno())  # otherwise a power cut after the renaming may leave an empty file
    except DataError as error:
        raise CheckpointError(str(error)) from None
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{path}: cannot write this file: {_first_line(error)}.") from error


def take(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint as :func:`load` does, but share it with nobody: the caller may keep or change its tensors."""
    state = load(path)
    (kept.get() or {}).clear()
    return state


def load(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of recbole_vae, and upgrade it if it is of an earlier format. Its tensors are on the CPU.

    Do not change the result: inside :func:`~recbole_vae.storage.once.read_once` others share it. To change it, use
    :func:`take`.

    Raises:
        CheckpointError: the file is missing, truncated, not a checkpoint, or one of RecBole's; it holds anything but tensors
            and plain values (none of which is run); or a later version wrote it.
    """
    path, shared = Path(path), kept.get()
    if shared is None or not path.is_file():
        return _load(path)
    about = path.stat()
    key = path.resolve(), about.st_ino, about.st_mtime_ns, about.st_size
    if key not in shared:
        shared.clear()
        shared[key] = _load(path)
    return shared[key]


def _load(path: Path) -> dict[str, Any]:
    check_whole(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle protocol of files that are not ours
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"(?:GLOBAL|class|function) ([\w.]+\.[\w.]+)", str(error))
        raise CheckpointError(
            f"{path}: not a checkpoint of recbole_vae: it holds more than tensors and plain values"
            f"{f' ({found[1]})' if found else ''}, which was not run. RecBole saves "
            "its own models this way; only recommend, explain, serve, evaluate, compare-lists and refit read those."
        ) from None
    except Exception as error:  # a damaged archive or pickle fails anywhere
        raise CheckpointError(f"{path}: truncated or not a checkpoint ({_first_line(error)}).") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not a checkpoint of recbole_vae.")
    found = state.get("format_version")
    if found is None:
        raise CheckpointError(f"{path}: damaged checkpoint: 'format_version' is missing.")
    if type(found) is not int or not 1 <= found <= FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: checkpoint format {found!r}; this recbole_vae {__version__} reads formats 1 to {FORMAT_VERSION}. "
            "Use the version that wrote it, or a later one."
        )
    for key, kind in _KEYS.items():
        if not isinstance(state.get(key, ...), kind):
            raise CheckpointError(f"{path}: damaged checkpoint: '{key}' is missing or of the wrong type.")
        for inner in _INNER_KEYS.get(key, ()):
            if inner not in state[key]:
                raise CheckpointError(f"{path}: damaged checkpoint: '{inner}' is missing in '{key}'.")
    tensors = [state["histories"][name] for name in ("indptr", "indices")]
    tensors += [state["random"][name] for name in ("torch", "train_data")]
    if not all(isinstance(each, torch.Tensor) for each in tensors):
        raise CheckpointError(f"{path}: damaged checkpoint: 'histories' or 'random' has something else than tensors.")
    check_name(path, state["dataset"])
    try:
        upgrade(state)
    except (AttributeError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: damaged checkpoint: it cannot be upgraded ({error}).") from None
    if state["config"].get("weight_averaging"):
        average = state.get("average")
        count, weights = (average.get("count"), average.get("weights")) if isinstance(average, dict) else (None, None)
        if type(count) is not int or count < 1 or type(weights) is not list:
            raise CheckpointError(f"{path}: damaged checkpoint: 'average' is missing or not whole.")
    state["config"] = {name: value for name, value in state["config"].items() if name not in _OF_ONE_RUN}
    return state


def check_name(path: str | Path, dataset: object) -> None:
    """Raise a CheckpointError unless a checkpoint's data set has a plain name: RecBole builds paths from it."""
    if not isinstance(dataset, str) or dataset in ("", ".", "..") or {"/", "\\", "\0"} & set(dataset):
        raise CheckpointError(f"{path}: damaged checkpoint: {dataset!r} is not the name of a data set.")


def check_whole(path: str | Path) -> None:
    """Raise a CheckpointError if a byte of a checkpoint's tensors or values has changed, which torch does not check.

    This takes one pass over the file: a tenth of a second for a few hundred megabytes.
    """
    check_archive(path)
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except BAD_ARCHIVE as error:
        damaged = _first_line(error)
    if damaged:
        raise CheckpointError(f"{path}: damaged checkpoint ({damaged}).")


def check_archive(path: str | Path) -> None:
    """Raise a CheckpointError unless a file is a zip archive of tensors, which is what ``torch.save`` writes.

    ``torch.load`` also reads older formats, and archives of TorchScript, whose code it runs.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: {'a folder, not a' if path.is_dir() else 'there is no such'} checkpoint.")
    if not zipfile.is_zipfile(path):  # an archive ends with its table of contents
        raise CheckpointError(f"{path}: truncated or not a checkpoint.")
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except BAD_ARCHIVE as error:
        raise CheckpointError(f"{path}: damaged checkpoint ({_first_line(error)}).") from None
    if any(name.rpartition("/")[2] == "constants.pkl" for name in names):
        raise CheckpointError(f"{path}: not a checkpoint, but a TorchScript program, which was not run.")


def check_model(state: Mapping[str, Any], path: str | Path, model_name: str) -> None:
    """Raise a CheckpointError unless a checkpoint is of this model."""
    if state["model"] != model_name:
        raise CheckpointError(
            f"{path}: a checkpoint of {state['model']}, not of {model_name}; pass --model={state['model']}."
        )


def check_options(
    saved: Mapping[str, Any], now: Mapping[str, Any], path: str | Path, given: Collection[str] = ()
) -> list[str]:
    """Check that training would resume with the options of the checkpoint.

    Args:
        saved: options in the checkpoint.
        now: options of this run.
        path: the checkpoint, for messages.
        given: names of the options that the user set. Of these, ``learning_rate`` and ``clip_grad_norm`` may differ.

    Returns:
        A line for each of these two that changes.

    Raises:
        ConfigError: another option that affects an epoch differs.
    """
    changes = []
    for key, value in saved.items():
        if key in _MAY_CHANGE or now.get(key) == value:
            continue
        if key not in _MAY_BE_SET or key not in given:
            raise ConfigError(
                f"{path}: was trained with {key}={value!r}, but this run has {key}={now.get(key)!r}. Set it to {value!r}, or "
                "train again without --resume. These may change: epochs, stopping_step, learning_rate, clip_grad_norm, "
                "eval_batch_size, data_path, and the device."
            )
        changes.append(f"{key} was {value!r} and is {now[key]!r} from here on")
    return changes


def check_vocabulary(state: Mapping[str, Any], path: str | Path, dataset: Any) -> None:
    """Raise a CheckpointError unless a checkpoint has the users and items of a ``HistoryDataset``, and its split."""
    for kind, field in (("users", dataset.uid_field), ("items", dataset.iid_field)):
        saved, now = state[kind], list(map(str, dataset.field2id_token[field]))
        # A HistoryDataset declares it, RecBole's own data set does not.
        training = getattr(dataset, "n_training_users", None) if kind == "users" else None
        if training is not None:  # held-out users come after them
            now = now[: training + 1]
        if saved != now:
            what = f"{len(saved) - 1} against {len(now) - 1}" if len(saved) != len(now) else "as many, but not the same"
            raise CheckpointError(
                f"{path}: the data have other {kind} than those the checkpoint was trained on ({what}). "
                "Use the same data set, with the same filters."
            )
    split, split_now = state.get("split_hash"), getattr(dataset, "split_hash", None)
    if split != split_now:
        raise CheckpointError(
            f"{path}: was trained with other users or items held out (SHA-256 of the split {split}, now {split_now}). "
            "Use the same data and eval_args."
        )


def check_histories(state: Mapping[str, Any], path: str | Path, histories: Any) -> None:
    """Raise a CheckpointError unless a checkpoint was trained on these :class:`~recbole_vae.data.histories.Histories`."""
    for name, saved in state["histories"].items():
        now = getattr(histories, name)
        if (now is None) != (saved is None) or (now is not None and not torch.equal(now.cpu(), saved.cpu())):
            raise CheckpointError(
                f"{path}: was trained on other interactions of the same users and items: the data file, its filters, its split "
                "or value_field have changed."
            )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
