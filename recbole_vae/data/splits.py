"""Splits of interactions within groups: as RecBole splits, without its loops over interactions."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Sizes = NDArray[np.int64]
"""Sizes of groups, shape [groups], or of the parts of each, shape [groups, parts]."""


def grouped(codes: NDArray[Any], number: int) -> NDArray[np.signedinteger[Any]]:
    """Return positions sorted by group, in order within each; the result of a stable argsort, in linear time.

    Args:
        codes: the group of each interaction, from 0 to ``number - 1``.
        number: of groups.
    """
    from scipy.sparse import coo_matrix

    kind = np.int32 if len(codes) < 2**31 else np.int64
    entries = (np.ones(len(codes), dtype=bool), (codes.astype(kind), np.arange(len(codes), dtype=kind)))
    indices: NDArray[np.signedinteger[Any]] = coo_matrix(entries, shape=(number, len(codes))).tocsr().indices
    return indices


def split_groups(groups: NDArray[Any], divide: Callable[[Sizes], Sizes]) -> list[NDArray[np.int64]]:
    """Split interactions, each group apart; the groups come in the order in which they appear.

    Args:
        groups: the group of each interaction, not negative; some numbers may be no group's.
        divide: returns the sizes of the parts of each group, in order.

    Returns:
        The positions of each part's interactions.
    """
    counts = np.bincount(groups)
    present = np.flatnonzero(counts)
    first = np.zeros(len(counts), dtype=np.int64)
    first[groups[::-1]] = np.arange(len(groups) - 1, -1, -1)  # of several positions, the last written stays: the first
    names = present[np.argsort(first[present])]
    place = np.zeros(len(counts), dtype=np.int32)
    place[names] = np.arange(len(names))
    sizes = counts[names]
    order, lengths = grouped(place[groups], len(names)), divide(sizes)
    numbers = np.arange(lengths.shape[1], dtype=np.int8)
    part = np.repeat(np.tile(numbers, len(sizes)), lengths.ravel())
    return [order[part == each].astype(np.int64) for each in numbers]


def rows(columns: dict[str, Tensor], index: Any) -> dict[str, Tensor] | None:
    """Take rows of columns, given by a range or by an array of positions or truth values; None for anything else."""
    if isinstance(index, range) and 0 <= index.start <= index.stop and index.step == 1:
        return {name: values[index.start : index.stop] for name, values in columns.items()}
    if isinstance(index, np.ndarray) and index.dtype in (np.int64, np.bool_):
        index = torch.from_numpy(np.require(index, requirements=("C", "W")))
    if not isinstance(index, Tensor) or index.ndim != 1 or index.dtype not in (torch.int64, torch.bool):
        return None
    if not index.is_cpu and any(values.device != index.device for values in columns.values()):
        return None
    if index.dtype is torch.bool or not len(index) or not index.is_cpu or int(index.min()) < 0:
        return {name: values[index] for name, values in columns.items()}
    # Several times as fast as brackets.
    return {name: values.index_select(0, index) if values.is_cpu else values[index] for name, values in columns.items()}


def by_ratio(calculate: Callable[..., list[int]], ratios: list[float]) -> Callable[[Sizes], Sizes]:
    """Return a function for :func:`split_groups` that divides as RecBole's ``_calcu_split_ids`` does."""

    def divide(sizes: Sizes) -> Sizes:
        # How a group is split depends on its length only.
        kinds, kind = np.unique(sizes, return_inverse=True)
        bounds = [[0, *calculate(tot=int(each), ratios=ratios), each] for each in kinds]
        return np.diff(np.array(bounds, dtype=np.int64).reshape(-1, len(ratios) + 1))[kind]

    return divide


def leaving_out(mode: str) -> Callable[[Sizes], Sizes]:
    """Return a function for :func:`split_groups` that leaves out the last, as RecBole's ``leave_one_out`` does."""

    def divide(sizes: Sizes) -> Sizes:
        left = np.minimum(sizes - 1, 2 if mode == "valid_and_test" else 1)
        none = np.zeros_like(left)
        valid, test = {
            "valid_and_test": (left // 2, np.minimum(left, 1)), "valid_only": (left, none), "test_only": (none, left),
        }[mode]  # fmt: skip
        return np.stack([sizes - left, valid, test], axis=1)

    return divide


def split_hash(*parts: Any) -> str:
    """Return the SHA-256 of each part's interactions by the data set's own ids; their order does not matter.

    Users and items that are in no part do not count: a loaded ``.user`` or ``.item`` file may have such.

    Args:
        parts: RecBole's data sets for training, validation and test.
    """
    whole = parts[-1]
    names, ranks = [], []
    for name in (whole.uid_field, whole.iid_field):
        tokens = np.asarray(whole.field2id_token[name]).astype(str)
        there = np.unique(np.concatenate([part.inter_feat[name].numpy() for part in parts]))
        order = there[np.argsort(tokens[there])]
        rank = np.zeros(len(tokens), dtype=np.int64)
        rank[order] = np.arange(len(order))
        names.append(tokens[order])
        ranks.append(rank)
    result = hashlib.sha256()
    for tokens in names:
        result.update("\n".join(tokens).encode() + b"\0")
    for part in parts:
        users, items = part.inter_feat[part.uid_field].numpy(), part.inter_feat[part.iid_field].numpy()
        keys = np.sort(ranks[0][users] * len(names[1]) + ranks[1][items])
        result.update(np.array([len(keys)], dtype="<i8").tobytes() + keys.astype("<i8").tobytes())
    return result.hexdigest()
