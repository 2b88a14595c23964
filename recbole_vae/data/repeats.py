"""Repeated pairs of user and item: counted, reported, and by default dropped before the split, so that none is on both sides."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from recbole.utils import FeatureSource, FeatureType, ModelType

from recbole_vae.data import labels, tokens
from recbole_vae.errors import DataError
from recbole_vae.options.evaluation import orders_by_time

COUNT = "count"
"""The field that holds how often each pair occurs, with ``repeats: count``."""
_EXPECT_REPEATS = (ModelType.SEQUENTIAL, ModelType.CONTEXT, ModelType.DECISIONTREE)


def are_expected(config: Any) -> bool:
    """Tell whether repeats are expected, by the kind of the model or by ``repeatable``: ``repeats: auto`` then keeps them all."""
    return bool(config["repeatable"]) or getattr(config.model_class, "type", None) in _EXPECT_REPEATS


def drop_repeats(dataset: Any) -> None:
    """Keep one interaction of each pair of user and item, as the option ``repeats`` says; ``inter_feat`` is replaced.

    With parts of ``benchmark_filename``, repeats are only counted unless ``repeats`` is first, last or count.

    Raises:
        DataError: the data have a field ``count`` already.
    """
    config, feat, keys = dataset.config, dataset.inter_feat, [dataset.uid_field, dataset.iid_field]
    how, fixed = config["repeats"] or "auto", config["benchmark_filename"] is not None
    if None in keys or not set(keys) <= set(feat):
        return
    repeated = tokens.repeated(feat, keys)
    if how == COUNT:
        _add_count(dataset, keys)
    if not repeated:
        return
    said = f"Repeats: {repeated} of {len(feat)} interactions repeat a pair of user and item"
    if how == "auto" and fixed:
        dataset.logger.warning(f"{said}; {_across(feat, keys, dataset)}. All are kept; repeats: first drops them.")
        return
    if how == "keep" or (how == "auto" and are_expected(config)):
        dataset.logger.warning(f"{said}. All are kept, so pairs of the test part may be in the training part, too.")
        return
    keep = how
    if how in ("auto", COUNT):
        keep = "last" if config["eval_args"]["order"] == "TO" and not fixed else "first"
    order = np.arange(len(feat))
    if not fixed and orders_by_time(config) and dataset.time_field in feat:
        order = np.argsort(feat[dataset.time_field].to_numpy(), kind="stable")
    liked = labels.liked(dataset)
    if liked is not None:  # what a user passed over once and chose another time was chosen
        order = order[np.argsort(liked[order] == (keep == "last"), kind="stable")]
    kept = np.ones(len(feat), dtype=bool)
    kept[order] = ~pd.Series(tokens.pairs(feat, keys)[order]).duplicated(keep=keep).to_numpy()
    kept |= feat[keys].isna().any(axis=1).to_numpy()
    if fixed:
        parts = np.repeat(np.arange(len(dataset.file_size_list)), dataset.file_size_list)
        dataset.file_size_list = np.bincount(parts[kept], minlength=len(dataset.file_size_list)).tolist()
    dataset.inter_feat = dataset.inter_feat[kept].copy()
    dataset.logger.warning(
        f"{said}; the {keep} of each pair is kept ({len(dataset.inter_feat)}). repeats: keep keeps all."
    )


def _add_count(dataset: Any, keys: list[str]) -> None:
    if COUNT in dataset.field2type:
        raise DataError(
            f"repeats: count: data set '{dataset.dataset_name}' has a field '{COUNT}' already. Rename it, or use "
            f"repeats: first and value_field: {COUNT}."
        )
    feat = dataset.inter_feat
    pair, _ = pd.factorize(tokens.pairs(feat, keys))
    numbers = np.bincount(pair)[pair].astype(np.float64)
    dataset.inter_feat = feat.assign(**{COUNT: numbers})
    dataset.set_field_property(COUNT, FeatureType.FLOAT, FeatureSource.INTERACTION, 1)
    dataset.field2bucketnum[COUNT] = 2


def _across(feat: pd.DataFrame, keys: list[str], dataset: Any) -> str:
    """Say how many interactions of each part have a pair of an earlier part."""
    names, bounds = dataset.benchmark_filename_list, [0, *np.cumsum(dataset.file_size_list)]
    pairs = tokens.pairs(feat, keys)
    found = []
    for later in range(1, len(names)):
        part = pairs[bounds[later] : bounds[later + 1]]
        for earlier in range(later):
            number = int(np.isin(part, pairs[bounds[earlier] : bounds[earlier + 1]]).sum())
            found.append(f"{number} of {len(part)} in '{names[later]}' have a pair of '{names[earlier]}'")
    return ", ".join(found)
