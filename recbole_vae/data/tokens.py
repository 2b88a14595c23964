"""Columns of tokens as categories: a small whole number for each interaction, and each token once.

A hundred million Python strings would take minutes and gigabytes. pandas' categories are compared, filtered and split as
strings are.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from recbole.utils import FeatureType

from recbole_vae.data.missing import MISSING

Codes = NDArray[np.signedinteger[Any]]
"""The place of each interaction's token among the tokens; -1 where it is missing."""


def categories(codes: Codes, tokens: Iterable[Any]) -> pd.Categorical:
    """Make a column of codes and tokens, each of which must occur once."""
    return pd.Categorical.from_codes(codes, dtype=pd.CategoricalDtype(pd.Index(list(tokens), dtype=object)))


def without_missing(codes: Codes, tokens: Iterable[str]) -> pd.Categorical:
    """Make a column of codes and tokens. A token may occur twice; one that stands for a missing value becomes missing."""
    places: dict[str, int] = {}
    found = [-1 if token in MISSING else places.setdefault(token, len(places)) for token in tokens]
    if found != list(range(len(found))):
        codes = np.array([*found, -1], dtype=np.int32)[codes]
    return categories(codes, places)


class Builder:
    """Makes a column of parts."""

    def __init__(self) -> None:
        self.places: dict[str, int] = {}
        self.parts: list[Codes] = []

    def add(self, values: Any) -> None:
        """Add strings, an object array in which missing ones are NaN."""
        codes, tokens = pd.factorize(values)
        found = [self.places.setdefault(token, len(self.places)) for token in tokens]
        self.parts.append(np.array([*found, -1], dtype=np.int32)[codes])

    def column(self) -> pd.Categorical:
        """Return the column."""
        return categories(np.concatenate([np.empty(0, np.int32), *self.parts]), self.places)


def joined(parts: list[Any]) -> pd.DataFrame:
    """Put tables below each other. A column that one of them lacks is missing there, and has objects instead of categories."""
    if any(set(part) != set(parts[0]) for part in parts):
        return pd.concat([_as_objects(part) for part in parts], ignore_index=True)
    columns: dict[str, Any] = {}
    for name in parts[0]:
        if all(is_coded(part[name]) for part in parts):
            columns[name] = pd.api.types.union_categoricals([part[name] for part in parts])
        else:
            columns[name] = pd.concat([part[name] for part in parts], ignore_index=True)
    return pd.DataFrame(columns, copy=False)


def _as_objects(table: Any) -> Any:
    return table.astype({name: object for name in table if is_coded(table[name])})


def is_coded(column: Any) -> bool:
    """Tell whether a column consists of categories."""
    return isinstance(column.dtype, pd.CategoricalDtype)


def codes_of(column: Any) -> tuple[Codes, int]:
    """Return the codes of a column of tokens, and how many tokens there may be."""
    if is_coded(column):
        return column.array.codes, len(column.array.categories)
    codes, tokens = pd.factorize(column.to_numpy())
    return codes, len(tokens)


def appearing(codes: Codes) -> Codes:
    """Return the codes that occur, in the order in which they first do."""
    found = pd.unique(codes)
    return np.asarray(found[found >= 0])


def remap(dataset: Any, remap_list: list[tuple[Any, str, FeatureType]]) -> bool:
    """Do what RecBole's ``_remap`` does: replace the tokens of some columns by numbers from 1 up, as they appear.

    Args:
        dataset: RecBole's data set; its ``field2id_token`` and ``field2token_id`` are filled in.
        remap_list: from RecBole's ``_get_remap_list``: columns that share their numbers, that of the interactions first.

    Returns:
        Whether it was done: the first column must consist of categories.
    """
    if not remap_list or not is_coded(remap_list[0][0][remap_list[0][1]]):
        return False
    (feat, field, _), *others = remap_list
    column = feat[field].array
    present = appearing(column.codes)
    tokens, ends = column.categories.to_numpy()[present], np.empty(0, np.int64)
    if others:
        rest, ends = dataset._concat_remaped_tokens(others)
        tokens = np.concatenate([tokens, np.asarray(rest, dtype=object)])
    numbers, names = pd.factorize(tokens)
    table = np.zeros(len(column.categories) + 1, dtype=np.int64)  # a code of -1 finds the last, the padding
    table[present] = numbers[: len(present)] + 1
    feat[field] = table[column.codes]
    for (feat, field, kind), found in zip(others, np.split(numbers[len(present) :] + 1, ends), strict=False):
        if kind == FeatureType.TOKEN:
            feat[field] = found
        elif kind == FeatureType.TOKEN_SEQ:
            feat[field] = np.split(found, np.cumsum(feat[field].map(len))[:-1])
    known = np.array(["[PAD]", *names])
    places = {token: place for place, token in enumerate(known)}
    for _, field, _ in remap_list:
        if field not in dataset.field2id_token:
            dataset.field2id_token[field], dataset.field2token_id[field] = known, places
    return True


def filter_by_number(dataset: Any) -> None:
    """Do what RecBole's ``_filter_by_inter_num`` does: leave out users and items by their number of interactions.

    As there, users and items are judged together, until all that are left have numbers in the intervals.
    """
    fields = {"user": dataset.uid_field, "item": dataset.iid_field}
    wanted = {kind: dataset._parse_intervals_str(dataset.config[f"{kind}_inter_num_interval"]) for kind in fields}
    if None in fields.values() or not any(each is not None for each in wanted.values()):
        return
    coded = {kind: codes_of(dataset.inter_feat[field]) for kind, field in fields.items()}
    banned = {kind: np.zeros(number, dtype=bool) for kind, (_, number) in coded.items()}
    counts: dict[str, NDArray[np.int64]] = {}
    kept = np.ones(len(dataset.inter_feat), dtype=bool)
    for kind, intervals in wanted.items():
        if intervals and len(intervals) > 1:
            dataset.logger.warning(f"{kind}_inter_num_interval has {len(intervals)} intervals; numbers in any will do.")
    while True:
        everything, dropped = bool(kept.all()), np.zeros(len(kept), dtype=bool)
        for kind, (codes, number) in coded.items():
            left = codes if everything else codes[kept]
            counts[kind] = np.bincount(left[left >= 0] if (left < 0).any() else left, minlength=number)
            if wanted[kind]:
                illegal = (counts[kind] > 0) & ~dataset._within_intervals(counts[kind], wanted[kind])
                if illegal.any():
                    banned[kind] |= illegal
                    dropped |= np.append(illegal, False)[codes]
        dropped &= kept
        if not dropped.any():
            break
        kept &= ~dropped
    for kind, field in fields.items():
        feat = getattr(dataset, f"{kind}_feat")
        if feat is not None and wanted[kind]:
            column = dataset.inter_feat[field]
            names = column.array.categories if is_coded(column) else pd.factorize(column.to_numpy())[1]
            places = pd.Index(names).get_indexer(feat[field])
            number_of = np.append(counts[kind], 0)[places]
            gone = np.append(banned[kind], False)[places] | (number_of < wanted[kind][0][1])
            feat.drop(feat.index[gone], inplace=True)
    if not kept.all():
        dataset.inter_feat = dataset.inter_feat[kept].copy()


def pairs(feat: Any, keys: list[str]) -> NDArray[np.int64]:
    """Return a number for each interaction that is the same for the same two tokens, shape [interactions]."""
    (first, _), (second, width) = (codes_of(feat[key]) for key in keys)
    found = first.astype(np.int64)
    found += 1
    found *= width + 1
    found += second
    found += 1
    return found


def repeated(feat: Any, keys: list[str]) -> int:
    """Count the interactions whose two tokens are those of an earlier one; missing tokens count as no others."""
    from scipy.sparse import coo_matrix

    (first, height), (second, width) = (codes_of(feat[key]) for key in keys)
    known = (first >= 0) & (second >= 0)
    if not known.all():
        first, second = first[known], second[known]
    ones = np.ones(len(first), dtype=bool)
    # Counting sort, by SciPy: a tenth of the time that a table of hashes takes.
    table = coo_matrix((ones, (first, second)), shape=(height, width)).tocsr()
    return len(first) - int(table.nnz)
