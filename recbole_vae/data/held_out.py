"""Users whom training never sees: the protocol of Liang et al. (2018), as a split of RecBole's data set.

Some users are kept apart for validation, others for the test. Of each of them a share of the items, the *fold-in*, is given
to the model at evaluation, and the rest is to be found. The items are those of the training users.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from recbole.data.interaction import Interaction

from recbole_vae.config import HeldOutUsers
from recbole_vae.data.dataset import HistoryDataset
from recbole_vae.data.histories import Histories
from recbole_vae.errors import DataError

_BLOCKS = ("training", "validation, fold-in", "validation, target", "test, fold-in", "test, target")


@dataclass(frozen=True)
class Split:
    """Which interactions are used, and for what.

    Attributes:
        order: positions of the interactions that are used, block by block, and in each by user and item; int64.
        sizes: of the five blocks: training, then fold-in and target of validation, then those of the test.
        users: number of users in training, validation and test.
        unknown: interactions of held-out users that are left out because no training user has the item.
        short: held-out users who are left out because they have too few items.
        digest: SHA-256 of who and what is in each block; equal for equal splits on all machines.
    """

    order: NDArray[np.int64]
    sizes: list[int]
    users: tuple[int, int, int]
    unknown: int
    short: int
    digest: str


def split_users(
    users: NDArray[Any],
    items: NDArray[Any],
    times: NDArray[Any] | None,
    parts: NDArray[np.int64] | None,
    wanted: HeldOutUsers,
    default_seed: int,
) -> Split:
    """Split interactions by users.

    Nothing depends on the order of the interactions: users and items are sorted by their tokens, and only then drawn, by
    NumPy's ``RandomState``, whose numbers are the same in all versions.

    Args:
        users: token of each interaction.
        items: token of each interaction.
        times: of each interaction: the fold-in is what a user had first; None for a random fold-in.
        parts: 0, 1 or 2 for each interaction: that of training, validation and test which its user is of; None to draw.
        wanted: how many users, and which share of their items is the fold-in.
        default_seed: where ``wanted`` has none.

    Raises:
        DataError: too few users are left for training, validation or test, or a user is of two parts.
    """
    rng = np.random.RandomState(default_seed if wanted.seed is None else wanted.seed)
    user, user_tokens = pd.factorize(users, sort=True)
    item, item_tokens = pd.factorize(items, sort=True)
    width = len(item_tokens)
    part_of_user = (
        _draw(user, item, len(user_tokens), width, wanted, rng) if parts is None else _given(user, user_tokens, parts)
    )
    part = part_of_user[user]
    known = np.zeros(width, dtype=bool)
    known[item[part == 0]] = True
    used = known[item]
    unknown = int((~used).sum())

    # What is drawn is a user's items, each once.
    apart = np.flatnonzero(used & (part > 0))
    pairs, entry = np.unique(user[apart].astype(np.int64) * width + item[apart], return_inverse=True)
    owner = pairs // width
    _, place, number = np.unique(owner, return_inverse=True, return_counts=True)
    if times is None:
        key = rng.random_sample(len(pairs))
    else:
        key = np.full(len(pairs), np.inf)
        np.minimum.at(key, entry, times[apart])
    ordered = np.lexsort((key, owner))
    rank = np.empty(len(pairs), dtype=np.int64)
    rank[ordered] = np.arange(len(pairs)) - np.repeat(np.cumsum(number) - number, number)
    # Rounded first: 5 * (1 - 0.8) is a little less than 1.
    targets = np.floor(np.round((1 - wanted.fold_in) * number, 9)).astype(np.int64)
    evaluated = (number >= wanted.min_items) & (targets > 0) & (targets < number)
    is_target = rank >= (number - targets)[place]

    block = np.where(part == 0, 0, 2 * part - 1)
    block[apart] += is_target[entry]
    used[apart] = evaluated[place][entry]
    order = np.lexsort((item, user, block))
    order = order[used[order]]
    sizes = np.bincount(block[order], minlength=5)
    counts = [len(np.unique(user[order][block[order] == each])) for each in (0, 2, 4)]
    for name, count in zip(("training", "validation", "the test"), counts, strict=True):
        if count == 0:
            raise DataError(
                f"the split by users leaves none for {name} (training {counts[0]}, validation {counts[1]}, test {counts[2]}). "
                f"Held-out users need at least min_items: {wanted.min_items} items that training users have, too; see "
                "eval_args and the filters."
            )
    digest = hashlib.sha256()
    for tokens in (user_tokens, item_tokens):
        digest.update("\n".join(map(str, tokens)).encode() + b"\0")
    for each in (sizes, user[order], item[order]):
        digest.update(np.ascontiguousarray(each, dtype="<i8").tobytes())
    return Split(
        order, sizes.tolist(), (counts[0], counts[1], counts[2]), unknown, int((~evaluated).sum()), digest.hexdigest()
    )


def _draw(
    user: NDArray[np.int64],
    item: NDArray[np.int64],
    n_users: int,
    width: int,
    wanted: HeldOutUsers,
    rng: np.random.RandomState,
) -> NDArray[np.int64]:
    """Draw the users of validation and test among those with enough items; return the part of each user."""
    distinct = np.bincount(np.unique(user.astype(np.int64) * width + item) // width, minlength=n_users)
    candidates = np.flatnonzero(distinct >= wanted.min_items)
    numbers = [round(n_users * each) if isinstance(each, float) else each for each in wanted.users]
    if sum(numbers) > len(candidates) or sum(numbers) >= n_users:
        raise DataError(
            f"eval_args: split: HU: {numbers[0]} and {numbers[1]} users cannot be kept apart: of {n_users} users, "
            f"{len(candidates)} have at least min_items: {wanted.min_items} items, and some are needed for training. Set smaller "
            "numbers, or shares such as HU: [0.1, 0.1]."
        )
    drawn = rng.permutation(candidates)
    parts = np.zeros(n_users, dtype=np.int64)
    parts[drawn[: numbers[0]]] = 1
    parts[drawn[numbers[0] : sum(numbers)]] = 2
    return parts


def _given(user: NDArray[np.int64], tokens: Any, parts: NDArray[np.int64]) -> NDArray[np.int64]:
    first, last = np.full(len(tokens), 3), np.full(len(tokens), -1)
    np.minimum.at(first, user, parts)
    np.maximum.at(last, user, parts)
    twice = np.flatnonzero(first != last)
    if len(twice):
        raise DataError(
            f"user '{tokens[twice[0]]}' is in more than one of the files that benchmark_filename names ({len(twice)} users are); "
            "for held-out users each user must be in one."
        )
    return first


class HeldOutDataset(HistoryDataset):
    """A data set whose validation and test users are not in its training part.

    The parts of :meth:`build` are: the training users with all they have; and for validation and test the targets, with the
    fold-in in ``fold_in``. Training users have the first internal ids; the training part knows no others.

    Attributes:
        fold_in: what is given of each user, rows by internal id; of the parts for validation and test only.
        split_hash: see :class:`Split`.
        n_training_users: number of training users.
    """

    inter_feat: Any
    fold_in: Histories
    split_hash: str
    n_training_users: int

    def _remap_ID_all(self) -> None:
        wanted = HeldOutUsers.read(self.config["eval_args"])
        feat = self.inter_feat
        sizes = self.file_size_list if self.benchmark_filename_list is not None else None
        users, items = (feat[field].to_numpy(dtype=object) for field in (self.uid_field, self.iid_field))
        times = feat[self.time_field].to_numpy(dtype=np.float64) if wanted.by_time else None
        if times is not None and np.isnan(times).any():
            raise DataError(
                f"eval_args: order: TO: '{self.time_field}' of data set '{self.dataset_name}' is missing in "
                f"{int(np.isnan(times).sum())} interactions; drop them, or use order: RO."
            )
        parts = None if sizes is None else np.repeat(np.arange(3), sizes)
        try:
            split = split_users(users, items, times, parts, wanted, self.config["seed"])
        except DataError as error:
            settings = getattr(self.config, "settings_of_data", None)
            raise DataError(f"{error}{f' (Settings of the data set: {settings}.)' if settings else ''}") from None
        self.inter_feat = feat.iloc[split.order].reset_index(drop=True)
        self._bounds = [0, *np.cumsum(split.sizes).tolist()]
        self.split_hash, self.n_training_users = split.digest, split.users[0]
        left_out = f"; left out: {split.unknown} interactions with items that no training user has" * bool(
            split.unknown
        )
        left_out += f"; left out: {split.short} held-out users with too few items" * bool(split.short)
        self.logger.info(
            f"Held-out users: {split.users[0]} for training, {split.users[1]} for validation, {split.users[2]} for the test"
            f"{left_out}. SHA-256 of the split: {split.digest}"
        )
        super()._remap_ID_all()

    def _parts(self) -> list[Any]:
        self._change_feat_format()
        self._drop_unused_col()
        blocks = [self.inter_feat[start:stop] for start, stop in zip(self._bounds, self._bounds[1:], strict=False)]
        training = self.copy(blocks[0])
        known = self.n_training_users + 1  # with the padding
        tokens = self.field2id_token[self.uid_field][:known]
        training.field2id_token = {**self.field2id_token, self.uid_field: tokens}
        training.field2token_id = {
            **self.field2token_id, self.uid_field: {token: number for number, token in enumerate(tokens)},
        }  # fmt: skip
        parts = [training]
        for given, target in ((blocks[1], blocks[2]), (blocks[3], blocks[4])):
            part = self.copy(target)
            part.fold_in = self._histories(given)
            parts.append(part)
        return parts

    def _histories(self, given: Interaction) -> Histories:
        field = self.config["value_field"]
        values = None if field is None else given[field]
        return Histories.from_interactions(given[self.uid_field], given[self.iid_field], values, self.user_num)
