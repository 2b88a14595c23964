"""New items, from a file or a table: which of them a model does not know, and what their features are."""

from __future__ import annotations

import numbers
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix, vstack

from recbole_vae.data import padding
from recbole_vae.data.feature_file import Cell, FeatureTable
from recbole_vae.data.features import FeatureSpace
from recbole_vae.errors import ConfigError, DataError
from recbole_vae.model.base import HistoryRecommender
from recbole_vae.options.limits import LARGEST

if TYPE_CHECKING:
    from recbole_vae.serving.recommender import Recommender

Source: TypeAlias = "str | Path | Mapping[str, Sequence[Any]] | pd.DataFrame"
"""Path of an ``.item`` file, or a table: columns by the names of the fields."""

_SAME = 1e-5
"""Largest difference of two features that are the same but for rounding."""


@dataclass(frozen=True)
class Added:
    """What came of adding items.

    Attributes:
        new: items that the model was not trained with; those of an earlier call have the features of this one now.
        known: items that it was trained with, which stay as they are.
        changed: of these, how many have other features than in training; they count once it is trained again.
        without_features: new items of which nothing is known that counts. They are scored as an average item.
        unknown_values: values of the new items that training did not have, or for one item alone, such as ``genre=Western``,
            and how many items have each. They have no effect.
    """

    new: int
    known: int
    changed: int
    without_features: int
    unknown_values: Counter[str]

    def described(self) -> list[str]:
        """Return sentences about what was found."""
        lines = [f"{self.new:,} new item{'s' * (self.new != 1)}"]
        if self.known:
            lines[0] += f"; {self.known:,} that the model was trained with stay{'s' * (self.known == 1)} as trained"
        if self.changed:
            lines.append(
                f"known items with other features here, which count once the model is trained again: {self.changed:,}"
            )
        if self.without_features:
            lines.append(
                f"new items of which nothing is known, which are scored as an average item: {self.without_features:,}"
            )
        if self.unknown_values:
            (value, _), *_ = self.unknown_values.most_common(1)
            lines.append(f"values that the model makes no use of: {len(self.unknown_values):,} (such as {value[:100]})")
        return lines


def of(recommender: Recommender, source: Source, bonus: float) -> tuple[list[str], csr_matrix, Added]:
    """Return ids and features of all new items of a recommender, those of a source included; see ``Recommender.add_items``."""
    model = recommender.model
    if model.features is None:
        of_ours = isinstance(model, HistoryRecommender)
        raise ConfigError(
            f"new items are scored from their features, and this {type(model).__name__} knows none. Train "
            f"{'it' if of_ours else 'a model of this package'} with item_features, such as --item_features=genre,release_year."
        )
    if isinstance(bonus, bool) or not isinstance(bonus, int | float) or not abs(bonus) <= LARGEST:
        raise ConfigError(f"bonus: {bonus!r} is not allowed; it must be a number >= {-LARGEST:g} and <= {LARGEST:g}.")
    space = model.features.space
    table = read(source, space)
    encoded = space.encode(table)
    trained = {item: column for column, item in enumerate(recommender.items[padding.REAL][: model.n_real_items])}
    is_known = np.array([item in trained for item in table.ids])
    known, new = np.flatnonzero(is_known).tolist(), np.flatnonzero(~is_known).tolist()
    there = recommender.items[model.n_items :]
    # Items of an earlier call keep their places, with the features of this one if they are there.
    rows = dict(zip(there, range(len(there)), strict=True))
    rows.update((table.ids[row], len(there) + place) for place, row in enumerate(new))
    of_new = encoded[new]
    features = of_new if recommender.new_features is None else vstack([recommender.new_features, of_new]).tocsr()
    columns = [trained[table.ids[row]] for row in known]
    gaps = abs(encoded[known] - model.features.table[columns])
    changed = int((gaps.max(1).toarray() > _SAME).sum()) if known else 0
    without = int((np.diff(model.weighted(of_new).indptr) == 0).sum())
    unknown = space.unknown(table.taken([table.ids[row] for row in new], new))
    return list(rows), features[list(rows.values())], Added(len(new), len(known), changed, without, unknown)


def read(source: Source, space: FeatureSpace) -> FeatureTable:
    """Read items with the fields of a feature space, each once.

    Raises:
        ConfigError: a file lacks a field.
        DataError: a file is missing, empty or damaged; a table lacks a field, is empty, or its columns differ in length; an
            item has no id, or is there twice with different features; or a field has another type than in training.
    """
    table = space.read(source) if isinstance(source, str | Path) else _of_columns(source, space)
    table.check_ids()
    return table


def _of_columns(source: Any, space: FeatureSpace) -> FeatureTable:
    if not isinstance(source, Mapping | pd.DataFrame):
        raise DataError(
            f"new items must be the path of an .item file, a DataFrame, or a mapping of lists; {source!r:.80} is none of these."
        )
    fields = list(dict.fromkeys(block.name for block in space.blocks))
    columns: dict[str, list[Any]] = {}
    for name in (space.form.id_field, *fields):
        if name not in source:
            given = ", ".join(map(str, source))[:200]
            typed = any(str(column).startswith(f"{name}:") for column in source)
            hint = " Name the columns without types." if typed else ""
            raise DataError(f"the table of new items has no column '{name}'. It has: {given or 'none'}.{hint}")
        if isinstance(source[name], str) or not isinstance(source[name], Iterable):
            raise DataError(f"the table of new items: '{name}' must be a list with a value for each item.")
        columns[name] = list(source[name])
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise DataError(f"the table of new items: its columns differ in length ({found}).")
    ids = [_text(value) for value in columns.pop(space.form.id_field)]
    if not ids:
        raise DataError("the table of new items is empty.")
    cells = {name: list(map(cell, column)) for name, column in columns.items()}
    return FeatureTable(ids, cells, {}, "the table of new items").without_repetitions()


def cell(value: Any) -> Cell:
    """Return what a value would be in a file: text, or the parts of a sequence."""
    if getattr(value, "ndim", None) == 0:  # of NumPy or torch
        value = value.item()
    if isinstance(value, str) or not isinstance(value, Iterable):
        return _text(value)
    return list(map(_text, value))


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if pd.api.types.is_scalar(value) and pd.isna(value):
        return ""
    # pandas makes 1995 a float where another item's year is missing.
    whole = isinstance(value, numbers.Real) and not isinstance(value, numbers.Integral) and float(value).is_integer()
    return str(int(value) if whole else value)
