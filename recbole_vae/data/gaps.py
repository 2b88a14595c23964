"""What a split leaves empty: parts, users without a training history, items without a training interaction."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from recbole_vae.data import padding
from recbole_vae.options.evaluation import holds_out_items


def _present(part: Any, field: str) -> NDArray[np.int64]:
    """Return the users (or items) of a part, ascending."""
    return np.flatnonzero(np.bincount(part.inter_feat[field].numpy()))


def _without(parts: list[Any], field: str, what: str, lacked: str) -> list[str]:
    """Say how many validation and test users (or items) are not in training, for each part that has such."""
    train, *others = (_present(part, field) for part in parts)
    found = []
    for name, ids in zip(("validation", "test"), others, strict=False):
        new = len(np.setdiff1d(ids, train))
        if new:
            found.append(f"{new} of {len(ids)} {name} {what} {'has' if new == 1 else 'have'} no training {lacked}")
    return found


def find(dataset: Any, parts: list[Any]) -> list[str]:
    """Log what a split leaves empty, and return what is to be said of validation and test, in words.

    Items without training interactions are no gap where items are held out.
    """
    empty = [
        f"the {name} part is empty"
        for name, part in zip(("training", "validation", "test"), parts, strict=False)
        if not len(part)
    ]
    users = _without(parts, dataset.uid_field, "users", "history")
    new_items = holds_out_items(dataset.config)
    items = [] if new_items else _without(parts, dataset.iid_field, "items", "interaction")
    total = padding.real(dataset.item_num)
    unknown = total - len(_present(parts[0], dataset.iid_field))
    if empty or users:
        dataset.logger.warning(f"Split: {'; '.join([*empty, *users])}.")
    if unknown and not new_items:
        said = [f"{unknown} of {total} items {'has' if unknown == 1 else 'have'} no training interaction", *items]
        dataset.logger.info(f"Split: {'; '.join(said)}.")
    return users + items
