"""What a run measures of its split for a reviewer: pairs in two parts, who and what is new in the test, and the order of time."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def measure(train: Any, valid: Any, test: Any) -> dict[str, Any]:
    """Count in the parts of a split what may be a leak.

    Args:
        train: dataloader of the training part.
        valid: likewise of the validation part.
        test: likewise of the test part. If users are held out, what is known of its users is the fold-in.

    Returns:
        ``test_pairs``: different pairs of user and item in the test part; ``in_training``, ``in_validation``, and
        ``in_fold_in`` (None if no users are held out): how many of these are there, too.
        ``test_users``; ``in_training_users``: how many of them have a training interaction; ``new_users``: how many have no known
        interaction at all. ``test_items``; ``new_items``: how many have no training interaction.
        ``late_users``: test users who have a training interaction later than their first of the test; ``late``: training
        interactions later than the first of the test part, of ``training``; None where no times are loaded, or users held out.
    """
    whole = test._dataset
    user, item, time = whole.uid_field, whole.iid_field, whole.time_field
    parts = [loader._dataset.inter_feat for loader in (train, valid, test)]
    users, items = ([feat[name].numpy() for feat in parts] for name in (user, item))
    pairs = [np.unique(u * whole.item_num + i) for u, i in zip(users, items, strict=True)]
    known = users[0]
    found: dict[str, Any] = {"test_pairs": len(pairs[2]), "in_fold_in": None}
    for name, place in (("in_training", 0), ("in_validation", 1)):
        found[name] = _common(pairs[place], pairs[2])
    if test.fold_in is not None:
        rows = test.fold_in.rows().numpy()
        found["in_fold_in"] = _common(np.unique(rows * whole.item_num + test.fold_in.indices.numpy()), pairs[2])
        known = rows
    found |= {
        "test_users": len(np.unique(users[2])), "in_training_users": _common(np.unique(users[0]), np.unique(users[2])),
        "new_users": len(np.setdiff1d(users[2], known)),
        "test_items": len(np.unique(items[2])), "new_items": len(np.setdiff1d(items[2], items[0])),
        "training": len(users[0]), "late_users": None, "late": None,
    }  # fmt: skip
    if test.fold_in is None and all(time in feat.columns for feat in parts):
        before, after = parts[0][time].numpy(), parts[2][time].numpy()
        last = np.full(whole.user_num, -np.inf)
        first = np.full(whole.user_num, np.inf)
        np.maximum.at(last, users[0], before)
        np.minimum.at(first, users[2], after)
        found |= {"late_users": int((last > first).sum()), "late": int((before > after.min()).sum())}
    return found


def _common(one: NDArray[np.int64], other: NDArray[np.int64]) -> int:
    return len(np.intersect1d(one, other, assume_unique=True))
