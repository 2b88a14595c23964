"""Saved data sets and dataloaders are used again only if they would be made the same now.

RecBole pickles them (``save_dataset``, ``save_dataloaders``) and reads whatever lies in their place. Here FILE.json beside
such a file records the options and the atomic files that it was made from. A file that does not match its record, or has
none, is not even unpickled, because that may run code.
"""

from __future__ import annotations

import json
from logging import INFO, WARNING, getLogger
from pathlib import Path
from typing import Any

import pandas as pd

from recbole_vae.data.repeats import are_expected
from recbole_vae.options.recbole import options_in
from recbole_vae.storage.checkpoint import versions
from recbole_vae.storage.files import sha256, write_whole

_OF_DATA = options_in("dataset/sample") | {
    "seed", "eval_args", "repeatable", "encoding", "exact_time", "exact_ids", "repeats", "value_field",
}  # fmt: skip
"""The options that make a data set."""

_NOT_OF_DATALOADERS = (
    options_in("overall") | {"device", "ip", "port", "offset", "loaded_from", "resume", "config_files", "data_cache"}
    | {"training_data"}
) - {"train_batch_size", "eval_batch_size", "train_neg_sample_args", "shuffle", "worker", "transform"} - _OF_DATA  # fmt: skip
"""Options that make no difference to dataloaders; all others do, or may do."""


def record(path: str | Path, config: Any, *, only_data: bool) -> None:
    """Record beside a file that was just saved what it was made from.

    Args:
        path: the file.
        config: RecBole's Config, by which it was made.
        only_data: whether only the options of the data count, not those of the model and of its dataloaders.

    Raises:
        DataError: the record cannot be written.
    """
    content = {**_made_from(config, only_data), "sha256": sha256(Path(path))}
    write_whole(_record_of(path), json.dumps(content, indent=1, sort_keys=True).encode())


def fits(path: str | Path, config: Any, *, only_data: bool, asked: bool, replaced: bool) -> bool:
    """Tell whether a saved file may be used, and say in the log why not.

    That is a warning if the user named the file or loses it. Otherwise, another run left it for runs with its own options.

    Args:
        path: the file; it may be missing.
        config: RecBole's Config of this run.
        only_data: see :func:`record`.
        asked: whether the user named the file, so that it is said if it is missing.
        replaced: whether this run saves its data under the same name.
    """
    found = Path(path).is_file()
    reason = _why_not(path, config, only_data) if found else "there is no such file"
    if reason and (found or asked):
        losing = found and replaced
        instead = " and replace this file; another checkpoint_dir keeps both" if losing else ""
        level = WARNING if asked or losing else INFO
        getLogger().log(level, f"Not used: {path}: {reason}. The data are made anew{instead}.")
    return not reason


def _why_not(path: str | Path, config: Any, only_data: bool) -> str:
    """Return why a saved file cannot be used, or ""."""
    try:
        then = json.loads(_record_of(path).read_text(encoding="utf-8"))
        parts = [(what, then[what]) for what in ("options", "files", "versions")]
        digest = then["sha256"]
    except FileNotFoundError:
        return f"what it was made from is not recorded in {_record_of(path)}, as it is where RecBole saves it with recbole_vae"
    except (OSError, ValueError, KeyError, TypeError):
        return f"{_record_of(path)} is damaged"
    now = _made_from(config, only_data)
    for what, values in parts:
        for name in sorted({*now[what], *values}):
            before, after = values.get(name), now[what].get(name)
            if before == after:
                continue
            if what == "files":
                return f"{name} has changed since it was saved"
            return _difference(name, before, after)
    return "" if digest == sha256(Path(path)) else "it is damaged, or another than was recorded"


def _difference(name: str, before: Any, after: Any) -> str:
    """Say how an option differs; None is one that is not set."""
    if name == "repeats" and before and after:
        before, after = (f"{how}, where the model {expects}" for how, expects in (before, after))
    if before is None:
        return f"it was made without {name}, which is {after} now"
    return f"it was made with {name}: {before}, {'which is not set now' if after is None else f'not {after}'}"


def _made_from(config: Any, only_data: bool) -> dict[str, Any]:
    options = config.final_config_dict
    counted = [name for name in options if (name in _OF_DATA if only_data else name not in _NOT_OF_DATALOADERS)]
    folder, name = Path(config["data_path"]), config["dataset"]
    suffixes = {"inter", "parquet", "user", "item", "net", "link", "kg", *(config["additional_feat_suffix"] or ())}
    files = [path for path in folder.glob("*") if path.is_file() and path.suffix[1:] in suffixes]
    made = {
        "options": {
            **{name: options[name] for name in counted if options[name] is not None},
            "repeats": [config["repeats"], "expects them" if are_expected(config) else "does not expect them"],
        },
        "files": {
            str(path.name): [path.stat().st_size, sha256(path)] for path in files if path.name.startswith(f"{name}.")
        },
        "versions": {**versions(), "pandas": pd.__version__},
    }
    plain: dict[str, Any] = json.loads(json.dumps(made, default=str))
    return plain


def _record_of(path: str | Path) -> Path:
    return Path(f"{path}.json")
