"""Users' histories as a sparse matrix in CSR form, in which all models get them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from operator import index
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from recbole_vae.data import padding
from recbole_vae.errors import DataError

if TYPE_CHECKING:
    from recbole.data.dataset import Dataset
    from scipy.sparse import csr_matrix

LARGEST_WEIGHT = 1e12
"""Sums of squares of larger weights, and of their gradients, could leave the range of float32: the loss would be no number."""


@dataclass(frozen=True)
class Histories:
    """A sequence of histories, each a set of items with weights: a table of all users, or a batch of some.

    Attributes:
        indptr: row ``r`` has the entries from ``indptr[r]`` to ``indptr[r + 1]``; int64, shape [rows + 1].
        indices: RecBole's internal item ids, ascending within a row, none twice; its padding never occurs; int32 or int64,
            shape [nnz]. Models use :meth:`columns`.
        values: positive weight of each entry, float32, shape [nnz]; None where all are 1.
        profiles: what is known about the user of each row besides: features in the place of items, of which :meth:`columns` are
            the columns, with values of any sign; None where a model has no ``user_features``.
    """

    indptr: Tensor
    indices: Tensor
    values: Tensor | None = None
    profiles: Histories | None = None
    _rows: Tensor | None = field(default=None, repr=False, compare=False)
    """The result of :meth:`rows`, kept in a batch, where each step uses it several times; a table computes it anew."""

    @classmethod
    def from_interactions(cls, users: Tensor, items: Tensor, values: Tensor | None, n_users: int) -> Histories:
        """Build the histories of users 0 to ``n_users - 1`` from interactions in any order.

        Repeated interactions of a user with an item are one entry, of weight 1 or of the sum of the weights.

        Args:
            users: int, shape [n].
            items: int, all positive, shape [n].
            values: weight of each interaction, shape [n]; None for weights of 1.
            n_users: number of rows of the result.
        """
        width = int(items.max()) + 1 if len(items) else 1
        keys = users.long() * width + items
        if values is None and not bool((keys[1:] > keys[:-1]).all()):
            from scipy.sparse import coo_matrix  # here, because a server that starts needs none

            ones = np.ones(len(users), dtype=bool)
            # Sorting by counting takes half the time that torch.unique does.
            table = coo_matrix((ones, (users.numpy(), items.numpy())), shape=(n_users, width)).tocsr()
            table.sum_duplicates()
            return cls(torch.from_numpy(table.indptr.astype(np.int64)), torch.from_numpy(table.indices))
        weights = None
        if values is not None:
            keys, entries = torch.unique(keys, return_inverse=True)
            weights = torch.zeros(len(keys), dtype=torch.float64).index_add_(0, entries, values.double()).float()
        indptr = torch.zeros(n_users + 1, dtype=torch.int64)
        indptr[1:] = torch.bincount(keys // width, minlength=n_users).cumsum(0)
        return cls(indptr, (keys % width).int(), weights)

    @classmethod
    def from_dataset(cls, dataset: Dataset, value_field: str | None) -> Histories:
        """Build the histories of all users of a RecBole data set; row 0 belongs to its padding user and is empty.

        Args:
            dataset: the training part of a built data set.
            value_field: field of the interactions that has their weights, or None for weights of 1.

        Raises:
            DataError: the field is missing or not numeric, or a weight is not a positive number up to ``LARGEST_WEIGHT``.
        """
        check_value_field(dataset, value_field)
        feat = dataset.inter_feat
        values = None if value_field is None else feat[value_field]
        return cls.from_interactions(feat[dataset.uid_field], feat[dataset.iid_field], values, dataset.user_num)

    @classmethod
    def from_lists(cls, histories: Iterable[Collection[int] | Mapping[int, float]]) -> Histories:
        """Build histories from collections of internal item ids, where repetitions count once, or mappings of ids to weights.

        Raises:
            DataError: an id is not an integer >= 1, or a weight is not a positive number up to ``LARGEST_WEIGHT``.
        """
        rows: list[list[int]] = []
        weights: list[Any] = []
        weighted = False
        try:
            for history in histories:
                if isinstance(history, Mapping):
                    entries = sorted((index(item), weight) for item, weight in history.items())
                    rows.append([item for item, _ in entries])
                    weights += [weight for _, weight in entries]
                    weighted = True
                else:
                    rows.append(sorted({index(item) for item in history}))
                    weights += [1.0] * len(rows[-1])
        except TypeError:
            rows = [[0]]
        if any(row and row[0] < 1 for row in rows):
            raise DataError(
                "histories must hold RecBole's internal item ids, integers from 1 up; dataset.token2id gives those of tokens."
            )
        values = None
        if weighted:
            try:
                values = torch.tensor(weights, dtype=torch.float32)
            except (TypeError, ValueError, RuntimeError, OverflowError):  # not a number, or too large
                values = torch.tensor([torch.nan])
            if values.ndim != 1 or not ((values > 0) & (values <= LARGEST_WEIGHT)).all():
                raise DataError(f"the weights of a history's items must be positive numbers up to {LARGEST_WEIGHT:g}.")
        lengths = torch.tensor([0, *map(len, rows)], dtype=torch.int64)
        return cls(lengths.cumsum(0), torch.tensor([item for row in rows for item in row], dtype=torch.int64), values)

    @classmethod
    def from_features(cls, features: csr_matrix) -> Histories:
        """Build profiles from features, float32, shape [rows, n_features]; see ``profiles``."""
        columns = torch.from_numpy(features.indices.astype(np.int32))
        return cls(
            torch.from_numpy(features.indptr.astype(np.int64)), padding.ids(columns), torch.from_numpy(features.data)
        )

    @classmethod
    def from_profiles(cls, profiles: Sequence[Mapping[int, float]]) -> Histories:
        """Build profiles from what :meth:`mappings` returned."""
        lengths = torch.tensor([0, *map(len, profiles)], dtype=torch.int64)
        columns = torch.tensor([column for each in profiles for column in each], dtype=torch.int64)
        values = torch.tensor([value for each in profiles for value in each.values()], dtype=torch.float32)
        return cls(lengths.cumsum(0), padding.ids(columns), values)

    def mappings(self) -> list[dict[int, float]]:
        """Return the entries of each row as columns with their weights."""
        lengths = self.lengths().tolist()
        parts = zip(self.columns().split(lengths), self.entry_values().split(lengths), strict=True)
        return [dict(zip(columns.tolist(), values.tolist(), strict=True)) for columns, values in parts]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.indptr) - 1

    def are_empty(self, with_profiles: bool) -> Tensor:
        """Tell which rows have no item and, where profiles are read, no profile; bool, shape [rows]."""
        empty = self.lengths() == 0
        if with_profiles and self.profiles is not None:
            empty = empty & (self.profiles.lengths() == 0)
        return empty

    def __deepcopy__(self, memo: dict[int, object]) -> Histories:
        """Return itself: histories never change, and RecBole deep-copies each model to count its operations."""
        return self

    def columns(self) -> Tensor:
        """Return the column of each entry's item in tables without RecBole's padding item, shape [nnz]."""
        return padding.columns(self.indices)

    def counts(self, n_items: int) -> Tensor:
        """Return in how many rows each item is, int64, shape [n_items]; ``n_items`` is without RecBole's padding item."""
        return torch.bincount(self.columns().long(), minlength=n_items)

    def to_scipy(self, n_items: int, *, padded: bool = False) -> csr_matrix:
        """Return the weights as SciPy's sparse table, float32, shape [rows, n_items].

        Args:
            n_items: number of items (without RecBole's padding item).
            padded: whether a column for RecBole's padding item comes first, as in RecBole's own tables.
        """
        from scipy.sparse import csr_matrix  # here, because a server that starts needs none

        columns, width = (self.indices, padding.ids(n_items)) if padded else (self.columns(), n_items)
        entries = (self.entry_values(), columns, self.indptr)
        return csr_matrix(tuple(each.cpu().numpy() for each in entries), shape=(len(self), width))

    @property
    def nnz(self) -> int:
        """The number of entries of all rows."""
        return len(self.indices)

    def lengths(self) -> Tensor:
        """Return the number of items of each row, shape [rows]."""
        return self.indptr.diff()

    def rows(self) -> Tensor:
        """Return the row of each entry, shape [nnz]."""
        if self._rows is not None:
            return self._rows
        return torch.repeat_interleave(self.lengths(), output_size=len(self.indices))

    def entry_values(self) -> Tensor:
        """Return the weight of each entry, float32, shape [nnz]."""
        if self.values is not None:
            return self.values
        return torch.ones(len(self.indices), device=self.indices.device)

    def totals(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the sum of the weights of each row, shape [rows]."""
        if self.values is None:
            return self.lengths().to(dtype)
        return self.sums(self.values.to(dtype))

    def sums(self, of_entries: Tensor) -> Tensor:
        """Sum a number of each entry over the rows, shape [nnz] to [rows].

        On a GPU, unlike ``index_add``, it adds in the same order each time, so that the last digits of a run can be repeated.
        """
        return torch.segment_reduce(of_entries, "sum", offsets=self.indptr, unsafe=True)

    def __getitem__(self, users: Tensor) -> Histories:
        """Return the rows of ``users``, int64, shape [batch], in that order, as a batch."""
        starts = self.indptr[users]
        lengths = self.indptr[users + 1] - starts
        indptr = torch.zeros(len(users) + 1, dtype=torch.int64, device=self.indptr.device)
        torch.cumsum(lengths, 0, out=indptr[1:])
        # Entry j of row r of the batch is entry j - indptr[r] + starts[r] of the table.
        entries = torch.arange(int(indptr[-1]), device=indptr.device)
        rows = torch.repeat_interleave(lengths, output_size=len(entries))
        entries = entries + (starts - indptr[:-1])[rows]
        values = None if self.values is None else self.values[entries]
        profiles = None if self.profiles is None else self.profiles[users]
        return Histories(indptr, self.indices[entries].long(), values, profiles, rows)

    def scaled(self, factors: Tensor) -> Histories:
        """Return a copy in which the weights of each row are multiplied by its factor, shape [rows]; they may become 0."""
        rows = self.rows()
        values = self.entry_values()
        return Histories(self.indptr, self.indices, values * factors.to(values)[rows], self.profiles, rows)

    def without(self, removed: Tensor) -> Histories:
        """Return copies of a single history, each without some of its entries.

        Args:
            removed: the entries that each copy lacks, bool, shape [copies, nnz].
        """
        kept = ~removed
        indptr = torch.zeros(len(kept) + 1, dtype=torch.int64, device=kept.device)
        torch.cumsum(kept.sum(1), 0, out=indptr[1:])
        entries = kept.nonzero()[:, 1]
        values = None if self.values is None else self.values[entries]
        same = torch.zeros(len(kept), dtype=torch.int64, device=kept.device)
        return Histories(indptr, self.indices[entries], values, None if self.profiles is None else self.profiles[same])

    def where(self, kept: Tensor) -> Histories:
        """Return the histories with the entries in ``kept`` only; bool, shape [nnz]."""
        before = torch.zeros(len(kept) + 1, dtype=torch.int64, device=kept.device)
        torch.cumsum(kept, 0, out=before[1:])
        values = None if self.values is None else self.values[kept]
        return Histories(before[self.indptr], self.indices[kept], values, self.profiles)

    def slice(self, start: int, stop: int) -> Histories:
        """Return the rows from ``start`` to ``stop``."""
        if (start, stop) == (0, len(self)):  # without waiting for a GPU
            return self
        first, last = self.span(start, stop)
        values = None if self.values is None else self.values[first:last]
        profiles = None if self.profiles is None else self.profiles.slice(start, stop)
        return Histories(self.indptr[start : stop + 1] - first, self.indices[first:last], values, profiles)

    def span(self, start: int, stop: int) -> tuple[int, int]:
        """Return where the entries of rows ``start`` to ``stop`` begin and end."""
        if (start, stop) == (0, len(self)):
            return 0, self.nnz
        return int(self.indptr[start]), int(self.indptr[stop])

    def to(self, device: torch.device | str) -> Histories:
        """Return the histories on a device."""
        values = None if self.values is None else self.values.to(device)
        profiles = None if self.profiles is None else self.profiles.to(device)
        return Histories(self.indptr.to(device), self.indices.to(device), values, profiles)


class SharedBatch(Histories):
    """Rows of a table as a batch that several processes share: each looks up the entries of its own rows alone.

    :meth:`slice` returns the looked-up rows. Whoever asks for ``indices`` or ``values`` of the whole batch gets them, too.

    Args:
        table: the histories of all users.
        users: rows of the table, int64, shape [batch].
    """

    def __init__(self, table: Histories, users: Tensor) -> None:
        indptr = torch.zeros(len(users) + 1, dtype=torch.int64, device=table.indptr.device)
        torch.cumsum(table.indptr[users + 1] - table.indptr[users], 0, out=indptr[1:])
        self.__dict__.update(indptr=indptr, _table=table, _users=users)  # frozen like its base class

    @cached_property
    def nnz(self) -> int:
        """The number of entries of all rows."""
        return int(self.indptr[-1])

    @cached_property
    def _whole(self) -> Histories:
        table: Histories = self.__dict__["_table"]
        return table[self.__dict__["_users"]]

    @property
    def indices(self) -> Tensor:
        return self._whole.indices

    @property
    def values(self) -> Tensor | None:
        return self._whole.values

    @property
    def profiles(self) -> Histories | None:
        return self._whole.profiles

    @property
    def _rows(self) -> Tensor | None:
        return self._whole._rows

    def slice(self, start: int, stop: int) -> Histories:
        """Return the rows from ``start`` to ``stop``."""
        table: Histories = self.__dict__["_table"]
        return table[self.__dict__["_users"][start:stop]]


def check_value_field(dataset: Dataset, value_field: str | None) -> None:
    """Raise a DataError unless the field is None, or a field of the interactions with positive numbers only."""
    if value_field is None:
        return
    feat = dataset.inter_feat
    if value_field not in feat:
        fields = sorted(set(feat.columns))
        raise DataError(
            f"value_field: data set '{dataset.dataset_name}' has no field '{value_field}' in its .inter file, or it is not "
            f"loaded; loaded are {', '.join(fields)}. Name one of these, or add it to load_col: {{inter: [...]}}."
        )
    missing = getattr(dataset, "missing_values", {}).get(value_field)
    if missing:
        raise DataError(
            f"value_field: '{value_field}' of data set '{dataset.dataset_name}' is missing in {missing} interactions. Drop such "
            f'rows, for example with val_interval: {{{value_field}: "(0,inf)"}}.'
        )
    values = torch.as_tensor(feat[value_field])
    if values.ndim != 1 or not values.is_floating_point():
        raise DataError(
            f"value_field: '{value_field}' of data set '{dataset.dataset_name}' is not a column of type float; "
            "only a column 'name:float' can weigh interactions."
        )
    bad = ~((values > 0) & (values <= LARGEST_WEIGHT))
    if bad.any():
        row = int(bad.nonzero()[0])
        user = dataset.id2token(dataset.uid_field, int(feat[dataset.uid_field][row]))
        item = dataset.id2token(dataset.iid_field, int(feat[dataset.iid_field][row]))
        raise DataError(
            f"value_field: {int(bad.sum())} of {len(values)} values of '{value_field}' in data set "
            f"'{dataset.dataset_name}' are not positive numbers up to {LARGEST_WEIGHT:g}, first {float(values[row]):g} of user "
            f"'{user}' and item '{item}'. Drop such rows, for example with val_interval: "
            f'{{{value_field}: "(0,{LARGEST_WEIGHT:g}]"}}; and keep normalize_all at False, for RecBole\'s rescaling makes the '
            "smallest value 0."
        )
