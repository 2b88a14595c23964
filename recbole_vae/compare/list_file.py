"""Reads files of recommended lists, as ``recbole-vae recommend`` writes them, in memory of a few bytes a line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recbole_vae.errors import ConfigError, DataError
from recbole_vae.serving.parquet import pyarrow

_COLUMNS = ["user_id", "rank", "item_id"]
_CHUNK = 1 << 18
"""Lines that are read at once."""


@dataclass(frozen=True)
class Lists:
    """The list of each user, best first.

    Attributes:
        users: row of each user's list, by the user's id.
        indptr: list ``r`` has the items from ``indptr[r]`` to ``indptr[r + 1]``; int64, shape [users + 1].
        items: numbers of the items, int32, shape [n].
    """

    users: dict[str, int]
    indptr: NDArray[np.int64]
    items: NDArray[np.int32]

    def lengths(self) -> NDArray[np.int64]:
        """Return the length of each list, shape [users]."""
        return np.diff(self.indptr)

    def top(self, k: int) -> Lists:
        """Return the first ``k`` items of each list."""
        lengths = self.lengths()
        kept = np.arange(len(self.items)) - np.repeat(self.indptr[:-1], lengths) < k
        indptr = np.zeros_like(self.indptr)
        np.cumsum(np.minimum(lengths, k), out=indptr[1:])
        return Lists(self.users, indptr, self.items[kept])

    def table(self, rows: NDArray[np.int64], k: int) -> NDArray[np.int32]:
        """Return some lists as a table, shape [rows, k]; -1 where a list has ended."""
        places = self.indptr[rows][:, None] + np.arange(k)
        inside = places < self.indptr[rows + 1][:, None]
        return np.where(inside, self.items[np.where(inside, places, 0)], -1).astype(np.int32)


def read_lists(path: Path, items: dict[str, int]) -> Lists:
    """Read a file of lists: CSV, or Parquet if its name ends in ``.parquet``. Lines may have any order.

    Args:
        path: the file, with the columns ``user_id``, ``rank``, from 1, and ``item_id``.
        items: numbers of items by their ids; new ones are added.

    Raises:
        ConfigError: the file is Parquet, and pyarrow is missing.
        DataError: the file cannot be read, is damaged, lacks a column or all lines, has a line of too many cells, an empty id
            or a wrong rank, or a user has an item or a rank twice.
    """
    users: dict[str, int] = {}
    parts: list[tuple[NDArray[np.int32], ...]] = []
    start = 0
    for chunk in _chunks(path):
        ranks = pd.to_numeric(chunk["rank"], errors="coerce").to_numpy(np.float64)
        wrong = ~((ranks >= 1) & (ranks < 2**31) & (ranks == np.floor(ranks)))
        for name, bad in (
            ("rank", wrong),
            *((each, (chunk[each] == "").to_numpy()) for each in ("user_id", "item_id")),
        ):
            if bad.any():
                row = int(bad.argmax())
                allowed = "an integer from 1 up" if name == "rank" else "an id"
                value = str(chunk[name].iloc[row])[:80]
                raise DataError(
                    f"{path}, row {start + row + 1}: {name} is '{value}', but must be {allowed}. Is the file whole?"
                )
        parts.append((_numbers(chunk["user_id"], users), ranks.astype(np.int32), _numbers(chunk["item_id"], items)))
        start += len(chunk)
    if not start:
        raise DataError(f"{path}: contains no lists, only the header.")
    owners, ranks, shown = (np.concatenate(each) for each in zip(*parts, strict=True))
    _refuse_twice(path, owners, shown, users, items, "item")
    order = _refuse_twice(path, owners, ranks, users, None, "rank")
    indptr = np.zeros(len(users) + 1, np.int64)
    np.cumsum(np.bincount(owners, minlength=len(users)), out=indptr[1:])
    return Lists(users, indptr, shown[order])


def _numbers(column: Any, known: dict[str, int]) -> NDArray[np.int32]:
    places, different = pd.factorize(column)
    numbers = np.array([known.setdefault(str(each), len(known)) for each in different], np.int32)
    result: NDArray[np.int32] = numbers[places]
    return result


def _refuse_twice(
    path: Path,
    owners: NDArray[Any],
    values: NDArray[Any],
    users: dict[str, int],
    names: dict[str, int] | None,
    what: str,
) -> NDArray[np.int64]:
    """Return the order by user and value, or raise a DataError if a user has a value twice."""
    keys = owners.astype(np.int64) << 32 | values
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    twice = np.flatnonzero(keys[1:] == keys[:-1])
    if len(twice):
        owner, value = divmod(int(keys[twice[0]]), 1 << 32)
        shown = value if names is None else list(names)[value]
        raise DataError(
            f"{path}: user '{list(users)[owner][:100]}' has the {what} '{str(shown)[:100]}' twice; a file must have one list "
            "of each user."
        )
    return order


def _chunks(path: Path) -> Iterator[Any]:
    """Yield data frames of texts."""
    try:
        if path.suffix == ".parquet":
            table = pyarrow().parquet.ParquetFile(path)
            _check_columns(path, table.schema_arrow.names)
            for batch in table.iter_batches(_CHUNK, columns=_COLUMNS):
                yield batch.to_pandas().fillna("").astype(str)
        else:
            with path.open(encoding="utf-8", newline="") as file:
                chunks = pd.read_csv(file, dtype=str, na_filter=False, chunksize=_CHUNK, skip_blank_lines=False)
                for number, chunk in enumerate(chunks):
                    if not number:
                        _check_columns(path, list(chunk))
                        # What the first line has more than the header would be an index of all lines.
                        if not isinstance(chunk.index, pd.RangeIndex):
                            columns = len(chunk.columns)
                            raise _too_many(path, 2, columns + chunk.index.nlevels, columns)
                    yield chunk[_COLUMNS].fillna("")
    except (ConfigError, DataError):
        raise
    except pd.errors.EmptyDataError:
        raise DataError(f"{path}: the file is empty.") from None
    except OSError as error:
        raise DataError(f"{path}: cannot read this file: {error.strerror or error}.") from None
    except (ValueError, RuntimeError) as error:  # of pandas and of Arrow, all of them
        if found := re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", str(error)):
            columns, line, cells = map(int, found.groups())
            raise _too_many(path, line, cells, columns) from None
        raise DataError(f"{path}: cannot read this file: {' '.join(str(error).split())[:300]}.") from None


def _too_many(path: Path, line: int, cells: int, columns: int) -> DataError:
    return DataError(
        f"{path}, line {line}: {cells} cells instead of {columns}; an id with a comma must stand in quotation marks."
    )


def _check_columns(path: Path, found: list[str]) -> None:
    for name in _COLUMNS:
        if name not in found:
            raise DataError(
                f"{path}: there is no column '{name}'; recbole-vae recommend writes user_id,rank,item_id,score "
                f"(found: {','.join(map(str, found))[:80]})."
            )
