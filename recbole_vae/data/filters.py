"""Filters by value: refuses what RecBole's ``val_interval`` would ignore, and reports what it leaves out."""

from __future__ import annotations

from typing import Any

import numpy as np
from recbole.utils import FeatureType

from recbole_vae.errors import DataError
from recbole_vae.options.data import is_interval


def check(dataset: Any) -> None:
    """Raise a DataError if ``val_interval`` does not fit the types of its columns."""
    for field, interval in (dataset.config["val_interval"] or {}).items():
        where = f"val_interval: data set '{dataset.dataset_name}'"
        kind = dataset.field2type.get(field)
        if kind is None:
            raise DataError(
                f"{where} has no field '{field}', or it is not loaded; loaded are: {', '.join(dataset.field2type)}. "
                "Name one of these, or set load_col: {inter: [...]}."
            )
        if kind not in (FeatureType.TOKEN, FeatureType.FLOAT):
            raise DataError(
                f"{where}: '{field}' is of type {kind.value}; only token and float columns can be filtered by."
            )
        number = kind is FeatureType.FLOAT
        if not (is_interval(interval) if number else isinstance(interval, list | tuple)):
            allowed = 'an interval such as "[4,inf)"' if number else 'a list of tokens such as ["a", "b"]'
            raise DataError(
                f"{where}: '{field}' is of type {kind.value}, and {interval!r} is not allowed; it must be {allowed}."
            )
        source = dataset.field2source[field].value
        if source in ("user", "item") and dataset.config["filter_inter_by_user_or_item"] is not True:
            raise DataError(
                f"{where}: '{field}' is a column of the .{source} file, and filters no interaction with "
                "filter_inter_by_user_or_item: False."
            )


def by_users_and_items(dataset: Any) -> None:
    """Keep the interactions of the users and items in files that were loaded only for ``val_interval``; forget these files.

    Otherwise the data set would have users and items without an interaction.
    """
    for file in sorted(getattr(dataset.config, "only_for_filters", ())):
        feat, name = getattr(dataset, f"{file}_feat"), dataset.uid_field if file == "user" else dataset.iid_field
        if feat is None:
            continue
        known = dataset.inter_feat[name].isin(feat[name])
        dataset.inter_feat = dataset.inter_feat[known].copy()
        setattr(dataset, f"{file}_feat", None)
        dataset.feat_name_list.remove(f"{file}_feat")
        for field in set(feat) - {name}:
            for properties in (dataset.field2type, dataset.field2source, dataset.field2seqlen, dataset.field2bucketnum):
                properties.pop(field, None)
            dataset._rest_fields = [each for each in dataset._rest_fields if each != field]


def say(dataset: Any, before: int) -> None:
    """Log how many interactions ``val_interval`` left out, and which ratings are missing, zero or negative."""
    config, feat = dataset.config, dataset.inter_feat
    if config["val_interval"]:
        dataset.logger.info(f"val_interval: {before - len(feat)} of {before} interactions are left out.")
    for field in dict.fromkeys((config["RATING_FIELD"], config["value_field"])):
        if field not in feat or dataset.field2type[field] is not FeatureType.FLOAT:
            continue
        values = feat[field].to_numpy()
        numbers = {"missing": np.isnan(values), "zero": values == 0, "negative": values < 0}
        said = ", ".join(f"{int(each.sum())} {name}" for name, each in numbers.items() if each.any())
        if said:
            dataset.logger.warning(
                f"'{field}': {said} of {len(feat)} interactions. Without a value_field they count as any other; "
                f'val_interval: {{{field}: "(0,inf)"}} leaves them out.'
            )
