"""Reads what an ``.item`` file says of items, or a ``.user`` file of users, as it is written."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recbole_vae.data import atomic
from recbole_vae.data.missing import MISSING
from recbole_vae.errors import ConfigError, DataError
from recbole_vae.options.names import near

KINDS = ("token", "token_seq", "float", "float_seq", "text")
"""As what a field can be read."""

Cell = str | Sequence[str]
"""A cell as the file has it, or the parts of one; "" where it is missing."""


@dataclass(frozen=True)
class FileForm:
    """How an ``.item`` or ``.user`` file is read.

    Attributes:
        id_field: the field of the ids.
        separator: between columns.
        seq_separator: within a sequence.
        encoding: of the file.
        of: of what it is, ``item`` or ``user``.
    """

    id_field: str
    separator: str
    seq_separator: str
    encoding: str
    of: str = "item"

    @property
    def option(self) -> str:
        """The option that names the fields."""
        return f"{self.of}_features"


@dataclass
class FeatureTable:
    """Items, or users, with the cells of some fields.

    Attributes:
        ids: of the items.
        cells: of each field, in the order of ``ids``.
        kinds: type of each field, as the first line of the file says; "" where there is none.
        path: of the file, for messages; "" where the ids say all.
        lines: of the file, for messages; empty where there is none.
        of: of what it is, ``item`` or ``user``.
    """

    ids: list[str]
    cells: dict[str, list[Cell]]
    kinds: dict[str, str]
    path: str = "the table"
    lines: list[int] = field(default_factory=list)
    of: str = "item"

    def where(self, row: int) -> str:
        """Return where an item stands."""
        if not self.path:
            return self.ids[row]
        return f"{self.path}, line {self.lines[row]}" if self.lines else f"{self.path}, {self.of} '{self.ids[row]}'"

    def check_ids(self) -> None:
        """Raise a DataError if an id stands for none."""
        for row, each in enumerate(self.ids):
            if each in MISSING or each == "[PAD]":
                raise DataError(
                    f"{self.where(row)}: '{each}' is no id of {'an item' if self.of == 'item' else 'a user'}."
                )

    def without_repetitions(self) -> FeatureTable:
        """Return each item once.

        Raises:
            DataError: an item has different cells in two lines.
        """
        first: dict[str, int] = {}
        for row, item in enumerate(self.ids):
            before = first.setdefault(item, row)
            for name, cells in self.cells.items():
                if cells[row] != cells[before]:
                    raise DataError(
                        f"{self.where(row)}: {self.of} '{item}' has {name} {cells[row]!r}, and {cells[before]!r} in an "
                        f"earlier line{f' ({self.lines[before]})' if self.lines else ''}; keep one of them."
                    )
        return self if len(first) == len(self.ids) else self.taken(list(first), list(first.values()))

    def taken(self, ids: list[str], rows: Sequence[int]) -> FeatureTable:
        """Return a table of these ids with the cells of some rows; -1 for an item of which nothing is known."""
        cells = {name: [column[row] if row >= 0 else "" for row in rows] for name, column in self.cells.items()}
        lines = [self.lines[row] if row >= 0 else 0 for row in rows] if self.lines else []
        return FeatureTable(ids, cells, self.kinds, self.path, lines, self.of)


def read_feature_file(path: str | Path, names: Sequence[str], form: FileForm) -> FeatureTable:
    """Read some fields of an ``.item`` or ``.user`` file, each item or user once.

    Args:
        path: the file.
        names: of the fields.
        form: how it is read.

    Raises:
        ConfigError: the file has no such field.
        DataError: the file is missing, empty or damaged, or an item or user stands there twice with different values.
    """
    separator, encoding = form.separator, form.encoding
    header = atomic.read_header(path, separator, encoding)
    columns = {name: kind.value for name, kind in header.items()}
    for name in (form.id_field, *names):
        if name not in columns:
            meant, kinds = near(name, columns), ""
            if name.rpartition(":")[0] in columns:
                kinds = f" FIELD:KIND reads a field as another kind: {', '.join(KINDS)}."
            raise ConfigError(
                f"{form.option}: {path} has no field '{name}'{f'; did you mean {meant}?' if meant else '.'} It has: "
                f"{', '.join(columns)}.{kinds}"
            )
    atomic.check_cells(path, header, separator, encoding)
    places = [list(columns).index(name) for name in (form.id_field, *names)]
    rows: list[list[str]] = []
    numbers: list[int] = []
    with Path(path).open(encoding=encoding, newline="") as file:
        next(file)
        reader: Any = (line.rstrip("\r\n").split(separator) for line in file)
        if len(separator) == 1:
            reader = csv.reader(file, delimiter=separator, quoting=atomic.quoting(separator))
        for number, cells in enumerate(reader, start=2):
            if len(cells) == len(columns):  # others are empty lines
                rows.append([cells[place] for place in places])
                numbers.append(getattr(reader, "line_num", number - 1) + 1)
    if not rows:
        raise DataError(f"{path}: there is no {form.of} below the first line.")
    ids, *fields = (list(column) for column in zip(*rows, strict=True))
    cells = dict(zip(names, fields, strict=True))
    types = {name: columns[name] for name in names}
    return FeatureTable(ids, cells, types, str(path), numbers, form.of).without_repetitions()
