"""Strong generalisation, the protocol of Liang et al. (2018), as a split of RecBole's data set: held-out users.

Some users are held out for validation, others for the test; training never sees them. At evaluation the model is given a share
of each one's items, the *fold-in*, and has to find the rest. Only items of training users count.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from recbole.data.interaction import Interaction
from scipy.sparse import coo_matrix

from recbole_vae.data import held_out_items, labels
from recbole_vae.data.dataset import HistoryDataset
from recbole_vae.data.histories import Histories
from recbole_vae.data.times import check_times
from recbole_vae.data.tokens import appearing, is_coded
from recbole_vae.errors import DataError
from recbole_vae.options.evaluation import HeldOutItems, HeldOutUsers, holds_out_items
from recbole_vae.storage.files import write_whole

_BLOCKS = ("training", "validation, fold-in", "validation, target", "test, fold-in", "test, target")


@dataclass(frozen=True)
class Split:
    """Which interactions are used, and for what.

    Attributes:
        order: positions of the interactions that are used, sorted by block, user and item; int64.
        sizes: sizes of the five blocks: training; fold-in and target of validation; fold-in and target of the test.
        users: number of users in training, validation and test.
        unknown: interactions of held-out users that are left out because no training user (or no line of the file) has the item.
        short: held-out users who are left out because they have too few items.
        digest: SHA-256 of the users and items of each block; the same on all machines.
    """

    order: NDArray[np.int64]
    sizes: list[int]
    users: tuple[int, int, int]
    unknown: int
    short: int
    digest: str


def split_users(
    users: NDArray[Any] | pd.Categorical,
    items: NDArray[Any] | pd.Categorical,
    times: NDArray[Any] | None,
    parts: NDArray[np.int64] | None,
    wanted: HeldOutUsers,
    default_seed: int,
) -> Split:
    """Split interactions by users.

    The order of the interactions does not matter: users and items are sorted by their tokens before NumPy's ``RandomState``
    draws them, which gives the same numbers in all versions.

    Args:
        users: token of each interaction, as objects or categories.
        items: likewise.
        times: of each interaction, so that the fold-in is a user's earliest items; None for a random fold-in.
        parts: 0, 1 or 2 for each interaction, if its user is in training, validation or test; None to draw the users, or
            to read the file that ``wanted`` names.
        wanted: how many users, and which share of their items is the fold-in.
        default_seed: the seed, if ``wanted`` has none.

    Raises:
        DataError: too few users are left for training, validation or test, or a user is in two parts.
    """
    user, user_tokens = _sorted(users)
    item, item_tokens = _sorted(items)
    short = 0
    if wanted.file is None:
        rng = np.random.RandomState(default_seed if wanted.seed is None else wanted.seed)
        width = len(item_tokens)
        part_of_user = (
            _draw(user, item, len(user_tokens), width, wanted, rng)
            if parts is None
            else _given(user, user_tokens, parts)
        )
        block, unknown, short = _fold_in(user, item, width, part_of_user[user], times, wanted, rng)
    else:
        file = SplitFile.read(wanted.file)
        block = file.blocks(users, items)
        unknown = int((block < 0).sum())
    order = np.flatnonzero(block >= 0)
    keys = (block[order] * len(user_tokens) + user[order]) * len(item_tokens) + item[order]
    order = order[np.argsort(keys, kind="stable")]
    sizes = np.bincount(block[order], minlength=5)
    counts = [int(np.count_nonzero(np.bincount(user[block == each]))) for each in (0, 2, 4)]
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
    if wanted.file is not None and digest.hexdigest() != file.digest:
        raise DataError(
            f"{wanted.file}: the split in this file has SHA-256 {file.digest}, and with this data set it becomes "
            f"{digest.hexdigest()}: the interactions of the training users have changed. Use the same data "
            "and filters, or draw users anew by numbers (eval_args: split: HU)."
        )
    return Split(order, sizes.tolist(), (counts[0], counts[1], counts[2]), unknown, short, digest.hexdigest())


def _sorted(tokens: NDArray[Any] | pd.Categorical) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Return the place of each token among the different ones, sorted, and these."""
    if not isinstance(tokens, pd.Categorical):
        codes, names = pd.factorize(tokens, sort=True)
        return codes, np.asarray(names)
    present = appearing(tokens.codes)
    names = np.asarray(tokens.categories, dtype=object)[present]
    order = np.argsort(names)
    place = np.full(len(tokens.categories) + 1, -1, dtype=np.int64)
    place[present[order]] = np.arange(len(present))
    return place[tokens.codes], names[order]


def _fold_in(
    user: NDArray[np.int64],
    item: NDArray[np.int64],
    width: int,
    part: NDArray[np.int64],
    times: NDArray[Any] | None,
    wanted: HeldOutUsers,
    rng: np.random.RandomState,
) -> tuple[NDArray[np.int64], int, int]:
    """Divide the items of held-out users into fold-in and target.

    Returns:
        The block of each interaction, -1 if it is not used; and the numbers ``unknown`` and ``short`` of :class:`Split`.
    """
    known = np.zeros(width, dtype=bool)
    known[item[part == 0]] = True
    used = known[item]
    unknown = int((~used).sum())

    # Items are drawn, each once, not interactions.
    apart = np.flatnonzero(used & (part > 0))
    pairs, entry = np.unique(user[apart].astype(np.int64) * width + item[apart], return_inverse=True)
    owner = pairs // width
    _, place, number = np.unique(owner, return_inverse=True, return_counts=True)
    if times is None:
        key = rng.random_sample(len(pairs))
    else:
        key = np.full(len(pairs), times.max(), dtype=times.dtype)
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
    return np.where(used, block, -1), unknown, int((~evaluated).sum())


@dataclass(frozen=True)
class SplitFile:
    """A split as a file, so that others can use it: the held-out users, with their fold-in and target.

    It is a gzip-compressed CSV, ``part,user_id,item_id``, after a first line with the SHA-256 of the split. Users who are not
    in it are training users.

    Attributes:
        digest: see :class:`Split`.
        rows: columns ``part`` (a name of ``_BLOCKS``), ``user`` and ``item``, all strings.
        path: the file it was read from, for messages.
    """

    digest: str
    rows: pd.DataFrame
    path: str = ""

    _FIRST = "# recbole_vae split, SHA-256 "

    @classmethod
    def of(cls, split: Split, users: Any, items: Any) -> SplitFile:
        """Make the file of a split of interactions with the given tokens."""
        apart = split.order[split.sizes[0] :]
        parts = np.repeat(np.array(_BLOCKS[1:], dtype=object), split.sizes[1:])
        return cls(split.digest, pd.DataFrame({"part": parts, "user": users[apart], "item": items[apart]}).astype(str))

    def write(self, folder: Path, name: str) -> Path:
        """Write ``NAME-DIGEST.split.csv.gz`` atomically, unless it is there already, and return its path.

        Raises:
            DataError: it cannot be written.
        """
        path = folder / f"{name}-{self.digest[:16]}.split.csv.gz"
        text = self.rows.drop_duplicates().to_csv(
            index=False, header=["part", "user_id", "item_id"], lineterminator="\n"
        )
        folder.mkdir(parents=True, exist_ok=True)
        content = gzip.compress(f"{self._FIRST}{self.digest}\n{text}".encode(), mtime=0)
        if not path.is_file() or path.read_bytes() != content:
            write_whole(path, content)
        return path

    @classmethod
    def read(cls, path: str) -> SplitFile:
        """Read a file that :meth:`write` wrote.

        Raises:
            DataError: it is missing, damaged, or something else.
        """
        try:
            first, _, rest = gzip.decompress(Path(path).read_bytes()).decode().partition("\n")
            rows = pd.read_csv(io.StringIO(rest), dtype=str, keep_default_na=False)
            found = first.removeprefix(cls._FIRST)
            good = found != first and list(rows.columns) == ["part", "user_id", "item_id"]
            good = good and set(rows["part"]) == set(_BLOCKS[1:]) and not rows.duplicated(["user_id", "item_id"]).any()
        except gzip.BadGzipFile:
            good = False
        except OSError as error:
            raise DataError(f"{path}: cannot read this split ({error.strerror or error}).") from None
        except (ValueError, EOFError, zlib.error):  # not gzip, not text, no CSV
            good = False
        if not good:
            raise DataError(
                f"{path}: not a split of recbole_vae, or damaged; eval_args: split: HU must be numbers or shares of users, or a "
                "file NAME-....split.csv.gz that a run with held-out users wrote."
            )
        return cls(found, rows.set_axis(["part", "user", "item"], axis=1), path)

    def blocks(self, users: Any, items: Any) -> NDArray[np.int64]:
        """Return the block of each interaction: 0 for training users, -1 for interactions that the file does not have.

        Raises:
            DataError: the interactions lack some that are in the file.
        """
        key = ["user", "item"]
        here = pd.DataFrame({"user": users, "item": items}).astype(str)
        found = here.merge(self.rows, on=key, how="left", sort=False)["part"]
        block = found.map({name: number for number, name in enumerate(_BLOCKS)}).fillna(-1).to_numpy(dtype=np.int64)
        missing = self.rows[~pd.MultiIndex.from_frame(self.rows[key]).isin(pd.MultiIndex.from_frame(here))]
        if len(missing):
            user, item = missing.iloc[0][key]
            raise DataError(
                f"{self.path}: the data set has no interaction of user '{user}' with item '{item}' (missing pairs of the "
                f"split: {len(missing)}). Use the data and the filters that the split was made with."
            )
        return np.where(~here["user"].isin(set(self.rows["user"])), 0, block)


def _draw(
    user: NDArray[np.int64],
    item: NDArray[np.int64],
    n_users: int,
    width: int,
    wanted: HeldOutUsers,
    rng: np.random.RandomState,
) -> NDArray[np.int64]:
    """Draw the users of validation and test among those with enough items; return the part of each user."""
    ones = np.ones(len(user), dtype=bool)
    distinct = np.diff(coo_matrix((ones, (user, item)), shape=(n_users, width)).tocsr().indptr)
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
            "if users are held out, each must be in one file only."
        )
    return first


class HeldOutDataset(HistoryDataset):
    """A data set whose validation and test users are not in its training part.

    :meth:`build` returns the training users with all their items, then the targets of validation and test, whose fold-in is in
    ``fold_in``. Training users have the first internal ids; the training part has no others.

    Attributes:
        fold_in: the fold-in of each user, rows by internal id; in the parts for validation and test only.
        split_hash: see :class:`Split`.
        n_training_users: number of training users.
    """

    fold_in: Histories
    split_hash: str
    n_training_users: int

    def _remap_ID_all(self) -> None:
        wanted = HeldOutUsers.read(self.config["eval_args"])
        feat = self.inter_feat
        parts = None if self.benchmark_filename_list is None else np.repeat(np.arange(3), self.file_size_list)
        chosen = labels.chosen(self)
        feat, parts = feat[chosen], None if parts is None else parts[chosen]
        users, items = (
            feat[field].array if is_coded(feat[field]) else feat[field].to_numpy(dtype=object)
            for field in (self.uid_field, self.iid_field)
        )
        times = feat[self.time_field].to_numpy() if wanted.by_time else None
        check_times(self, feat)
        part_of, of_all = self._held_out_items(items), users
        rest = np.flatnonzero(part_of == 0)
        if len(rest) < len(feat):  # parts are None then: items are not held out of files
            users, items, times = users[rest], items[rest], None if times is None else times[rest]
        try:
            split = split_users(users, items, times, parts, wanted, self.config["seed"])
        except DataError as error:
            settings = getattr(self.config, "settings_of_data", None)
            raise DataError(f"{error}{f' (Settings of the data set: {settings}.)' if settings else ''}") from None
        rows, sizes = rest[split.order], split.sizes
        if len(rest) < len(feat):
            rows, sizes = held_out_items.with_targets(_sorted(of_all)[0], part_of, rows, sizes)
        self.inter_feat = feat.iloc[rows].reset_index(drop=True)
        self._bounds = [0, *np.cumsum(sizes).tolist()]
        self.split_hash, self.n_training_users = split.digest, split.users[0]
        left_out = f"; left out: {split.unknown} interactions with items that no training user has" * bool(
            split.unknown
        )
        left_out += f"; left out: {split.short} held-out users with too few items" * bool(split.short)
        where = f" (in {wanted.file})" if wanted.file else ""
        if not where and not self.config["loaded_from"]:  # reading a checkpoint writes nothing
            folder = Path(self.config["checkpoint_dir"] or "saved")
            where = f" (in {SplitFile.of(split, users, items).write(folder, self.dataset_name)})"
        self.logger.info(
            f"Held-out users: {split.users[0]} for training, {split.users[1]} for validation, {split.users[2]} for the test"
            f"{left_out}. SHA-256 of the split: {split.digest}{where}"
        )
        super()._remap_ID_all()

    def _held_out_items(self, items: NDArray[Any] | pd.Categorical) -> NDArray[np.int64]:
        """Return 1 or 2 for each interaction, if its item is held out for validation or the test; else 0."""
        if not holds_out_items(self.config):
            return np.zeros(len(items), dtype=np.int64)
        places, tokens = _sorted(items)
        wanted = HeldOutItems.read(self.config["eval_args"])
        part_of = held_out_items.draw(tokens, wanted, self.config["seed"])[places]
        held_out_items.say(self, places, part_of, "; only those of users of the same part count")
        return part_of

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
        if holds_out_items(self.config):
            held_out_items.mark(self, parts, self.split_hash)
        return parts

    def _histories(self, given: Interaction) -> Histories:
        field = self.config["value_field"]
        values = None if field is None else given[field]
        return Histories.from_interactions(given[self.uid_field], given[self.iid_field], values, self.user_num)
