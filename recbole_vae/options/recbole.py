"""What RecBole has: its models, options and defaults, read from its folder without importing it."""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from recbole_vae.errors import RecBoleVersionError

RECBOLE = "recbole>=1.2.1,<1.3"
"""The releases that fit, as pip takes them."""

INSTALL = f"pip install --no-deps '{RECBOLE}'"


@functools.cache
def recbole_model_names() -> tuple[str, ...]:
    """Return the names of RecBole's own models, from its folder of defaults; Random has none."""
    return tuple(
        sorted({"Random", *(path.stem for path in (recbole_folder() / "properties" / "model").glob("*.yaml"))})
    )


def recbole_folder() -> Path:
    spec = importlib.util.find_spec("recbole")
    if spec is None or not spec.submodule_search_locations:
        raise RecBoleVersionError(f"recbole_vae needs RecBole 1.2, and it is not installed: {INSTALL}.")
    return Path(spec.submodule_search_locations[0])


def properties_folder() -> Path:
    """Return the folder of this package's own YAML files: in the package where it is installed, beside it in a clone."""
    package = Path(__file__).parents[1]
    return next(folder for folder in (package / "properties", package.parent / "properties") if folder.is_dir())


# Options of RecBole that stand in none of its files.
RUN_OPTIONS = {
    "model", "dataset", "config_files", "config_file_list", "nproc", "ip", "port", "world_size", "group_offset", "offset",
    "local_rank", "encoding", "benchmark_filename", "single_spec", "additional_feat_suffix", "tail_ratio",
    "token_num_threshold",
    "out", "refit",  # of this package, for all models
    "params_file", "output_file", "display_file", "tool",  # of its run_hyper.py
    "model_ours", "model_baseline", "st_seed", "run_times",  # of its significance_test.py
    "model_list", "valid_latex", "test_latex",  # of its run_recbole_group.py
    # What a Config derives, and so is in a checkpoint's.
    "MODEL_TYPE", "MODEL_INPUT_TYPE", "eval_type", "device", "valid_neg_sample_args", "test_neg_sample_args", "loaded_from",
    "training_data",
}  # fmt: skip


_READ = re.compile(
    r"""\bconfig(?:\.final_config_dict)?(?:\[|\.get\()\s*["'](\w+)["']|["'](\w+)["']\s+in\s+(?:self\.)?config\b|\bconfig\.(\w+)"""
)


def options_read_in(source: str) -> set[str]:
    """Return the names of the options that a source text reads from a ``config``."""
    return {name for names in _READ.findall(source) for name in names if name}


@functools.cache
def options_of_recboles(model: str) -> frozenset[str]:
    """Return the names of the options of a model of RecBole's: those in its YAML file, and those that its source reads.

    A sequential model has those of the transformations of sequences, too.
    """
    found, files, read = options_in(f"model/{model}"), [f"*/{model.lower()}.py"], set[Path]()
    while files:
        for path in set((recbole_folder() / "model").glob(files.pop())) - read:
            read.add(path)
            source = path.read_text(encoding="utf-8")
            found |= options_read_in(source)
            files += [
                f"{folder}/{name}.py"
                for folder, name in re.findall(r"from recbole\.model\.(\w+)\.(\w+) import", source)
            ]
    if any(
        path.parent.name == "sequential_recommender" for path in read
    ):  # the option transform changes their sequences
        found |= options_read_in((recbole_folder() / "data" / "transform.py").read_text(encoding="utf-8"))
    return frozenset(found)


@functools.cache
def options_in(*names: str) -> set[str]:
    """Return the names of the options in YAML files of RecBole's ``properties``, given without ``.yaml``."""
    paths = (path for name in names for path in (recbole_folder() / "properties").glob(f"{name}.yaml"))
    return {
        name for path in paths for name in re.findall(r"^([\w-]+)\s*:", path.read_text(encoding="utf-8"), re.MULTILINE)
    }


@functools.cache
def recbole_defaults() -> Mapping[str, Any]:
    """Return RecBole's own defaults of the options that all models have."""
    import yaml

    text = (recbole_folder() / "properties/overall.yaml").read_text(encoding="utf-8")
    return MappingProxyType(yaml.safe_load(text))
