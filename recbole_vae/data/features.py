"""What is known about items: fields of the ``.item`` file as a table of numbers, in which items that are alike are near.

The same holds for users, with the ``.user`` file: read "user" for "item" below.

Each field is a block of columns. The block of an item has length 1, or 0 where the field is missing, so that every field counts
the same. The kind of a field is its type in the file; ``FIELD:KIND`` reads it as another:

=============  ===================================================================================================
``token``      a column for each value, times the square root of ``log(items / items with the value)``
``token_seq``  the same, with several values
``float``      eight hat functions at quantiles, so that a score need not be linear in the number
``float_seq``  the numbers, each standardised over the items
``text``       n-grams of 3 to 5 characters within words, hashed to 4096 columns, times ``log(items / items with it)``
=============  ===================================================================================================

What only one item has, or what all have, says nothing about another item, and has no column.
"""

from __future__ import annotations

import math
import re
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, diags, hstack, identity, lil_matrix, vstack

from recbole_vae.data import padding
from recbole_vae.data.feature_file import KINDS, Cell, FeatureTable, FileForm, read_feature_file
from recbole_vae.data.histories import Histories
from recbole_vae.data.missing import MISSING
from recbole_vae.errors import ConfigError, DataError

_KNOTS, _HASHED, _MOST_VALUES = 8, 4096, 10_000
_GRAMS = (3, 4, 5)
_PARTS = ("indptr", "indices", "data")
"""Of a sparse table."""


@dataclass(frozen=True)
class Block:
    """How one field becomes columns.

    Attributes:
        entry: as ``item_features`` or ``user_features`` names it.
        name: the field.
        kind: one of ``KINDS``.
        names: of the columns that are values; empty for other kinds.
        numbers: of values, the weight of each column; of a float, the quantiles; of a float_seq, means and deviations in turn.
    """

    entry: str
    name: str
    kind: str
    names: list[str]
    numbers: list[float]

    @property
    def width(self) -> int:
        """Number of columns."""
        return {"float": len(self.numbers), "float_seq": len(self.numbers) // 2, "text": _HASHED}.get(
            self.kind, len(self.names)
        )

    def encode(self, table: FeatureTable, separator: str) -> csr_matrix:
        """Return the block of items, rows of length 1 or 0, float32, shape [items, width]."""
        if self.kind in ("float", "float_seq"):
            values = _numbers(table, self.name, self.kind, separator)
            return _unit(csr_matrix(self._hats(values) if self.kind == "float" else self._standardised(table, values)))
        counts = _counts(table, self.name, self.kind, separator)
        place = {name: column for column, name in enumerate(self.names)} if self.kind != "text" else None
        rows, columns, values_ = [], [], []
        for row, count in enumerate(counts):
            for value, times in count.items():
                column = value if place is None else place.get(value)
                if column is not None:
                    rows.append(row)
                    columns.append(int(column))
                    values_.append(times * self.numbers[int(column)])
        return _unit(csr_matrix((values_, (rows, columns)), shape=(len(counts), self.width), dtype=np.float64))

    def taken_over(self, before: Block) -> csr_matrix:
        """Return the shares of an earlier block's columns; see :meth:`FeatureSpace.taken_over`."""
        shape = (self.width, before.width)
        if self.names:
            places = {name: column for column, name in enumerate(before.names)}
            found = [(row, places[name]) for row, name in enumerate(self.names) if name in places]
            rows, columns = zip(*found, strict=True) if found else ((), ())
            return csr_matrix((np.ones(len(rows)), (rows, columns)), shape=shape)
        if self.kind == before.kind == "float":
            return csr_matrix(before._hats(self.numbers))
        if self.kind == before.kind and self.width == before.width:
            return identity(self.width, format="csr")
        return csr_matrix(shape)

    def _hats(self, values: Sequence[Any]) -> NDArray[np.float64]:
        found = np.zeros((len(values), len(self.numbers)))
        there = [row for row, value in enumerate(values) if value is not None]
        given = [values[row] for row in there]
        for column, hat in enumerate(np.eye(len(self.numbers))):
            found[there, column] = np.interp(given, self.numbers, hat)
        return found

    def _standardised(self, table: FeatureTable, values: Sequence[Any]) -> NDArray[np.float64]:
        mean, deviation = np.array(self.numbers[::2]), np.array(self.numbers[1::2])
        found = np.zeros((len(values), len(mean)))
        for row, value in enumerate(values):
            if value is not None and len(value) != len(mean):
                raise DataError(
                    f"{table.where(row)}: '{self.name}' has {len(value)} numbers instead of {len(mean)}, which the others have."
                )
            if value is not None:
                found[row] = (value - mean) / deviation
        return found


@dataclass(frozen=True)
class FeatureSpace:
    """How fields of items become columns; made by :meth:`fit`.

    Attributes:
        blocks: of each field that says something.
        form: how the file is read.
    """

    blocks: list[Block]
    form: FileForm

    @classmethod
    def fit(cls, table: FeatureTable, entries: Sequence[str], form: FileForm) -> FeatureSpace:
        """Make the space of some items.

        Args:
            table: the items, with the fields that the entries name.
            entries: of the option, such as ``genre`` and ``title:text``.
            form: see :class:`FeatureSpace`.

        Raises:
            ConfigError: no field says anything.
            DataError: text stands where a number must be.
        """
        blocks, logger, of = [], getLogger(), form.of
        for entry in entries:
            name, kind = parsed(entry)
            kind = kind or table.kinds[name]
            there = [
                cell for cell, line in zip(table.cells[name], table.lines or [1] * len(table.ids), strict=True) if line
            ]
            missing = sum(map(_is_missing, there))
            if 2 * missing > len(there):
                logger.warning(f"{form.option}: '{name}' is missing for {missing} of {len(there)} {of}s of the file.")
            block = _fitted(entry, name, kind, table, form.seq_separator)
            if block is None:
                values = {str(cell) for cell in table.cells[name] if not _is_missing(cell)}
                if len(values) < 2:
                    why = f"it is {f'{next(iter(values))!r:.80} for all' if values else 'missing for all'}"
                else:
                    hint = f"; {name}:text would read its text" if kind in ("token", "token_seq") else ""
                    why = f"no two {of}s share a value of it that others lack{hint}"
                logger.warning(f"{form.option}: '{entry}' is left out, for it says nothing about another {of}: {why}.")
            else:
                blocks.append(block)
        if not blocks:
            raise ConfigError(
                f"{form.option}: no field of {', '.join(entries)} in {table.path} says anything about another {of}."
            )
        return cls(blocks, form)

    def state(self) -> dict[str, Any]:
        """Return plain values from which :meth:`from_state` makes the same."""
        return {"form": dict(vars(self.form)), "blocks": [dict(vars(block)) for block in self.blocks]}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> FeatureSpace:
        """Make the space of what :meth:`state` returned."""
        return cls([Block(**block) for block in state["blocks"]], FileForm(**state["form"]))

    @property
    def width(self) -> int:
        """Number of columns."""
        return sum(block.width for block in self.blocks)

    @property
    def fields(self) -> dict[str, slice]:
        """The columns of each entry."""
        bounds = np.cumsum([0, *(block.width for block in self.blocks)]).tolist()
        return {block.entry: slice(*each) for block, each in zip(self.blocks, pairwise(bounds), strict=True)}

    @property
    def names(self) -> list[str]:
        """The name of each column, such as ``genre=Comedy``."""
        return [
            f"{block.name}={block.names[column]}" if block.names else f"{block.entry}#{column}"
            for block in self.blocks
            for column in range(block.width)
        ]

    def taken_over(self, before: FeatureSpace) -> csr_matrix:
        """Return from which columns of an earlier space a linear layer's rows for these columns are taken over.

        A value's row is that of the same value of the field. What the layer says of a float between two quantiles is nearly
        linear, so the row of a quantile is what the earlier ones say of that number. Numbers of a sequence, and n-grams of a
        text, have the same places; of a sequence of another length, none is taken over. With more fields each counts less in
        :meth:`encode`, which the shares make good.

        Returns:
            Shares of the earlier columns, float64, shape [width, width before]; the row of a column that was not there is empty.
        """
        found = lil_matrix((self.width, before.width))
        for now, block in zip(self.fields.values(), self.blocks, strict=True):
            alike = [
                (other.entry != block.entry, place)
                for place, other in enumerate(before.blocks)
                if block.name == other.name and bool(block.names) == bool(other.names)
            ]
            if alike:  # of several with the same name, the one of the same entry, or the first
                place = min(alike)[1]
                found[now, before.fields[before.blocks[place].entry]] = block.taken_over(before.blocks[place])
        return found.tocsr() * math.sqrt(len(self.blocks) / len(before.blocks))

    def read(self, path: str | Path) -> FeatureTable:
        """Read a file of further items; see :func:`read_feature_file`.

        Raises:
            DataError: also where a field has another type than the file of training said.
        """
        names = list(dict.fromkeys(block.name for block in self.blocks))
        table = read_feature_file(path, names, self.form)
        for block in self.blocks:
            if not parsed(block.entry)[1] and block.kind != table.kinds[block.name]:
                raise DataError(
                    f"{path}, line 1: '{block.name}' is {table.kinds[block.name]}, and was {block.kind} in training; write "
                    f"{block.name}:{block.kind}, or train again."
                )
        return table

    def unknown(self, table: FeatureTable) -> Counter[str]:
        """Count the values without a column, such as ``genre=Western``, by the number of items that have them."""
        found: Counter[str] = Counter()
        for block in self.blocks:
            if block.kind in ("token", "token_seq"):
                known = set(block.names)
                for count in _counts(table, block.name, block.kind, self.form.seq_separator):
                    found.update(f"{block.name}={value}" for value in count if value not in known)
        return found

    def encode(self, table: FeatureTable) -> csr_matrix:
        """Return the features of items, float32, shape [items, n_features]; a row has a length of at most 1.

        Raises:
            DataError: text stands where a number must be, or a sequence has another length.
        """
        blocks = [block.encode(table, self.form.seq_separator) for block in self.blocks]
        return csr_matrix(hstack(blocks) / math.sqrt(len(blocks)), dtype=np.float32)

    def weighted(self, table: csr_matrix, factors: Mapping[str, float]) -> csr_matrix:
        """Multiply each entry's part of the inner products of items by a factor."""
        scale = np.ones(table.shape[1])
        for entry, columns in self.fields.items():
            scale[columns] = factors.get(entry, 1.0) ** 0.5
        found = csr_matrix(table @ diags(scale), dtype=np.float32)
        found.eliminate_zeros()  # an item with no other features is one of which nothing is known
        return found


@dataclass(frozen=True)
class Features:
    """The features of a data set's items, or of its users.

    Attributes:
        space: what the columns are.
        table: float32, shape [n_real_items, n_features]; row = column of the item.
    """

    space: FeatureSpace
    table: csr_matrix

    def state(self) -> dict[str, Any]:
        """Return plain values and tensors from which :meth:`from_state` makes the same."""
        return {**self.space.state(), **{name: torch.from_numpy(getattr(self.table, name)) for name in _PARTS}}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Features:
        """Make the features of what :meth:`state` returned."""
        space = FeatureSpace.from_state(state)
        indptr, indices, data = (state[name].cpu().numpy() for name in _PARTS)
        return cls(space, csr_matrix((data, indices, indptr), shape=(len(indptr) - 1, space.width)))


def features_of(dataset: Any, entries: Sequence[str], of: str = "item") -> Features | None:
    """Read what is known about the items, or users, of a data set from its ``.item`` or ``.user`` file.

    Args:
        dataset: the training part of a built RecBole data set, whose items with interactions decide what the columns are; or
            what stands for one when a model is made from a checkpoint, which has the features itself.
        entries: of the option.
        of: ``item`` or ``user``.

    Returns:
        The features; None for what stands for a data set.

    Raises:
        ConfigError: the file has no such field, or no field says anything.
        DataError: the file is missing or damaged, a number is none, or the file has none of the items.
    """
    if not hasattr(dataset, "dataset_path"):
        return None
    config, field = dataset.config, dataset.iid_field if of == "item" else dataset.uid_field
    form = FileForm(field, config["field_separator"], config["seq_separator"], config["encoding"] or "utf-8", of)
    names = list(dict.fromkeys(parsed(entry)[0] for entry in entries))
    path = _file_of(dataset, form)
    table = read_feature_file(path, names, form)
    ids = [str(token) for token in dataset.field2id_token[field]][padding.REAL]
    place = {item: row for row, item in enumerate(table.ids)}
    rows = [place.get(item, -1) for item in ids]
    unknown = rows.count(-1)
    if unknown == len(rows):
        raise DataError(f"{form.option}: {path} has none of the data set's {of}s, such as '{ids[0]}'.")
    if unknown:
        getLogger().warning(f"{form.option}: {unknown} of {len(rows)} {of}s are not in {path.name}.")
    others = len(table.ids) - (len(rows) - unknown)
    if others:
        more = (
            f"are not in the data set, for nobody has them. --new_items={path} scores them, too, when the model is used."
            if of == "item"
            else "are not in the training part, so their profiles are not learned from."
        )
        getLogger().info(f"{form.option}: {others} {of}s of {path.name} {more}")
    table = table.taken(ids, rows)
    warm = np.unique(padding.columns(np.asarray(dataset.inter_feat[field]))).tolist()
    known = table.taken([ids[row] for row in warm], warm)
    space = FeatureSpace.fit(known, entries, form)
    return Features(space, space.encode(table))


def profiles_of(dataset: Any, entries: Sequence[str]) -> tuple[FeatureSpace, Histories]:
    """Read what is known about the users of a data set; arguments and errors: see :func:`features_of`.

    Returns:
        What the columns are, and the profiles; row = RecBole's internal user id.
    """
    found = features_of(dataset, entries, "user")
    return profiles_from(dataset.profiles) if found is None else (found.space, _with_padding(found.table))


def profiles_from(state: Mapping[str, Any]) -> tuple[FeatureSpace, Histories]:
    """Return what a checkpoint has in place of :func:`profiles_of`."""
    return FeatureSpace.from_state(state), Histories(*(state[name] for name in ("indptr", "indices", "values")))


def profiles_by(space: FeatureSpace, dataset: Any) -> Histories:
    """Return the profiles of all users of a data set by the columns of another; row = RecBole's internal user id.

    Args:
        space: of an earlier :func:`profiles_of`.
        dataset: a part of a built RecBole data set.

    Raises:
        DataError: the file is missing or damaged, or a number is none.
    """
    table = space.read(_file_of(dataset, space.form))
    place = {user: row for row, user in enumerate(table.ids)}
    ids = [str(token) for token in dataset.field2id_token[dataset.uid_field]][padding.REAL]
    return _with_padding(space.encode(table.taken(ids, [place.get(user, -1) for user in ids])))


def _with_padding(table: csr_matrix) -> Histories:
    return Histories.from_features(vstack([csr_matrix((1, table.shape[1]), dtype=np.float32), table]).tocsr())


def _file_of(dataset: Any, form: FileForm) -> Path:
    path = Path(dataset.dataset_path) / f"{dataset.dataset_name}.{form.of}"
    if not path.is_file():
        raise DataError(f"{form.option}: there is no file {path}, which would say what is known about the {form.of}s.")
    return path


def parsed(entry: str) -> tuple[str, str]:
    """Return field and kind of an entry of the option; "" for the kind that the file says."""
    name, colon, kind = entry.rpartition(":")
    return (name, kind) if colon and kind in KINDS else (entry, "")


def _is_missing(cell: Cell) -> bool:
    return cell in MISSING if isinstance(cell, str) else all(part in MISSING for part in cell)


def _parts(cell: Cell, separator: str) -> Sequence[str]:
    if _is_missing(cell):
        return []
    return [part for part in (cell.split(separator) if isinstance(cell, str) else cell) if part not in MISSING]


def _numbers(table: FeatureTable, name: str, kind: str, separator: str) -> list[Any]:
    """Return the number, or the array of numbers, of each item; None where it is missing."""
    found: list[Any] = []
    for row, cell in enumerate(table.cells[name]):
        if _is_missing(cell):
            found.append(None)
            continue
        parts: Sequence[str] = [cell] if isinstance(cell, str) else cell
        if kind == "float_seq" and isinstance(cell, str):
            parts = [part for part in cell.split(separator) if part]
        try:
            numbers = np.array([float(part) for part in parts])
        except ValueError:
            numbers = np.array([math.nan])
        if not np.isfinite(numbers).all() or (kind == "float" and len(numbers) != 1):
            what = "a number" if kind == "float" else f"a list of numbers with '{separator}' between them"
            advice = f"; or train with the field as another kind, {table.of}_features: {name}:token or {name}:text"
            raise DataError(
                f"{table.where(row)}: {str(cell)[:80]!r} in '{name}' is not {what}. Correct it or leave it empty"
                f"{advice if table.lines else ''}."
            )
        found.append(float(numbers[0]) if kind == "float" else numbers)
    return found


def _counts(table: FeatureTable, name: str, kind: str, separator: str) -> list[Counter[Any]]:
    """Return how often each item has each value; values of text are columns."""
    counts: list[Counter[Any]] = []
    for row, cell in enumerate(table.cells[name]):
        if kind == "token" and not isinstance(cell, str) and len(cell) > 1:
            raise DataError(f"{table.where(row)}: '{name}' has one value, not {len(cell)}: {', '.join(cell)[:80]!r}.")
        if kind == "text":
            text = cell if isinstance(cell, str) else " ".join(cell)
            counts.append(Counter() if _is_missing(cell) else _grams(text))
        elif kind == "token" and isinstance(cell, str):
            counts.append(Counter() if _is_missing(cell) else Counter([cell]))
        else:
            counts.append(Counter(set(_parts(cell, separator))))
    return counts


def _grams(text: str) -> Counter[int]:
    found: Counter[int] = Counter()
    for word in re.findall(r"\w+", text.lower()):
        word = f" {word} "
        for length in _GRAMS:
            for start in range(len(word) - length + 1):
                found[zlib.crc32(word[start : start + length].encode()) % _HASHED] += 1
    return found


def _fitted(entry: str, name: str, kind: str, table: FeatureTable, separator: str) -> Block | None:
    """Return the block of a field, or None if it says nothing about another item."""
    items = len(table.ids)
    if kind == "float":
        values = [value for value in _numbers(table, name, kind, separator) if value is not None]
        knots = np.unique(np.quantile(values, np.linspace(0, 1, _KNOTS))) if values else np.empty(0)
        return Block(entry, name, kind, [], knots.tolist()) if len(knots) > 1 else None
    if kind == "float_seq":
        rows = [value for value in _numbers(table, name, kind, separator) if value is not None]
        lengths = Counter(map(len, rows))
        if not rows:
            return None
        usual = lengths.most_common(1)[0][0]
        same = np.stack([row for row in rows if len(row) == usual])
        deviation = same.std(0)
        deviation[deviation <= 1e-9 * np.abs(same).max(0)] = math.inf  # a constant, up to rounding, says nothing
        numbers = np.stack([same.mean(0), deviation], 1).ravel().tolist()
        return Block(entry, name, kind, [], numbers) if np.isfinite(deviation).any() else None
    frequency: Counter[Any] = Counter()
    for count in _counts(table, name, kind, separator):
        frequency.update(count.keys())
    if kind == "text":
        weights = [0.0] * _HASHED
        for column, number in frequency.items():
            weights[column] = math.log(items / number) if number > 1 else 0.0
        return Block(entry, name, kind, [], weights) if any(weights) else None
    shared = [value for value, count in frequency.most_common() if 1 < count < items]
    if len(shared) > _MOST_VALUES:
        getLogger().warning(
            f"{table.of}_features: '{name}' has {len(shared)} values that several {table.of}s have; the {_MOST_VALUES} most "
            "frequent count."
        )
    shared = sorted(shared[:_MOST_VALUES])
    weights = [math.sqrt(math.log(items / frequency[value])) for value in shared]
    return Block(entry, name, kind, shared, weights) if shared else None


def _unit(table: csr_matrix) -> csr_matrix:
    """Scale rows to length 1; empty ones stay."""
    table.eliminate_zeros()
    lengths = np.sqrt(np.asarray(table.multiply(table).sum(1)).ravel())
    return csr_matrix(diags(1 / np.where(lengths > 0, lengths, 1.0)) @ table)
