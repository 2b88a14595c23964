"""Reads files of recommended lists, as ``recbole-vae recommend`` and other tools write them, in memory of a few bytes a line."""

from __future__ import annotations

import gzip
import itertools
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recbole_vae.data.padding import PADDING
from recbole_vae.errors import ConfigError, DataError
from recbole_vae.serving.parquet import pyarrow

_IDS = ["user_id", "item_id"]
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
    """Read a file of lists: CSV, also compressed by gzip, or Parquet if its name ends in ``.parquet``. Lines may have any order.

    Args:
        path: the file, with the columns ``user_id``, ``rank``, from 1, and ``item_id``.
        items: numbers of items by their ids; new ones are added.

    Raises:
        ConfigError: the file is Parquet, and pyarrow is missing.
        DataError: the file cannot be read, is damaged, lacks a column or all lines, has a line of too many cells, an empty id
            or a wrong rank, or a user has an item or a rank twice.
    """
    users: dict[str, int] = {}
    owners, shown, _, ranks = _read(
        path, users, items, lambda found: _checked(path, found, ["user_id", "rank", "item_id"])
    )
    _refuse_twice(path, owners, shown, users, items, "item")
    return _lists(users, owners, shown, _refuse_twice(path, owners, ranks, users, None, "rank"))


def check_foreign_lists(path: Path) -> None:
    """Read the beginning of a file for :func:`read_foreign_lists`: its columns and first lines, without knowing any id.

    Raises:
        ConfigError: the file is Parquet, and pyarrow is missing.
        DataError: as of :func:`read_lists`, of the first lines.
    """
    _read(path, {}, {}, lambda found: _foreign_columns(path, found), chunks=1)


def _foreign_columns(path: Path, found: list[str]) -> list[str]:
    return _checked(path, found, [*_IDS, *[each for each in ("rank", "score") if each in found][:1]])


def read_foreign_lists(path: Path, users: dict[str, int], items: dict[str, int]) -> Lists:
    """Read a file of lists that another tool made for a split; see :func:`read_lists` for its format.

    The column ``rank`` may be missing. Then larger values of the column ``score`` come first, those that are equal in the order
    of their lines; without either, the order of the lines counts.

    Args:
        path: the file.
        users: internal ids of all users of the data set, from RecBole's padding, by their own ids.
        items: likewise of the items.

    Returns:
        A list for each internal id, in this order, empty for users that are not in the file; its items are internal ids.

    Raises:
        ConfigError: the file is Parquet, and pyarrow is missing.
        DataError: as of :func:`read_lists`; or a user or an item is not in the data set, a user's ranks have a gap, or a score
            is not a finite number.
    """
    known = len(users), len(items)
    users, items = dict(users), dict(items)
    columns: list[str] = []

    def chosen(found: list[str]) -> list[str]:
        columns[:] = _foreign_columns(path, found)
        return columns

    owners, shown, lines, order_by = _read(path, users, items, chosen)
    for name, numbers, number, names in (("user", owners, known[0], users), ("item", shown, known[1], items)):
        unknown = (numbers >= number) | (numbers == PADDING)
        if unknown.any():
            first = int(unknown.argmax())
            several = f"{int(unknown.sum()):,} row{'s have' if unknown.sum() > 1 else ' has'} one"
            raise DataError(
                f"{path}, row {int(lines[first])}: there is no {name} '{list(names)[numbers[first]][:80]}' in this data set "
                f"({several} that is not there). Make the lists from the files of this split (--export-split), "
                "with the ids as they stand there."
            )
    _refuse_twice(path, owners, shown, users, items, "item")
    if "rank" in columns:
        order = _refuse_twice(path, owners, order_by, users, None, "rank")
        found = _lists(users, owners, shown, order)
        last = np.zeros(len(users), np.int64)
        np.maximum.at(last, owners, order_by)
        gaps = np.flatnonzero(last > found.lengths())
        if len(gaps):
            raise DataError(
                f"{path}: user '{list(users)[gaps[0]][:100]}' has {found.lengths()[gaps[0]]} items, the last of them with rank "
                f"{last[gaps[0]]}, so a rank is missing (users with a gap: {len(gaps):,}). Is the file whole? If items were left "
                "out on purpose, leave the column 'rank' out, too: the order of the lines counts then."
            )
        return found
    order = np.lexsort((-order_by, owners)) if "score" in columns else np.argsort(owners, kind="stable")
    return _lists(users, owners, shown, order)


def _lists(users: dict[str, int], owners: NDArray[Any], shown: NDArray[np.int32], order: NDArray[np.int64]) -> Lists:
    indptr = np.zeros(len(users) + 1, np.int64)
    np.cumsum(np.bincount(owners, minlength=len(users)), out=indptr[1:])
    return Lists(users, indptr, shown[order])


def _read(
    path: Path,
    users: dict[str, int],
    items: dict[str, int],
    choose: Callable[[list[str]], list[str]],
    chunks: int | None = None,
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int64], NDArray[Any]]:
    """Read the lines: user, item, number of the row in the file from 1, and rank or score (or nothing); each of shape [n].

    If a number of ``chunks`` is given, only the lines of the first ones are read.
    """
    parts: list[tuple[NDArray[Any], ...]] = []
    start = 0
    for chunk in itertools.islice(_chunks(path, choose), chunks):
        by = next((name for name in ("rank", "score") if name in chunk), None)
        values = np.zeros(len(chunk)) if by is None else pd.to_numeric(chunk[by], errors="coerce").to_numpy(np.float64)
        wrong = ~np.isfinite(values)
        if by == "rank":
            wrong |= (values < 1) | (values >= 2**31) | (values != np.floor(values))
        empty = [(each, (chunk[each] == "").to_numpy()) for each in _IDS]
        for name, bad in [*([(by, wrong)] if by else []), *empty]:
            if bad.any():
                row = int(bad.argmax())
                allowed = {"rank": "an integer from 1 up", "score": "a finite number"}.get(name, "an id")
                value = str(chunk[name].iloc[row])[:80]
                raise DataError(
                    f"{path}, row {start + row + 1}: {name} is '{value}', but must be {allowed}. Is the file whole?"
                )
        parts.append(
            (
                _numbers(chunk["user_id"], users),
                _numbers(chunk["item_id"], items),
                np.arange(start + 1, start + len(chunk) + 1),
                values.astype(np.int32) if by == "rank" else values,
            )
        )
        start += len(chunk)
    if not start:
        raise DataError(f"{path}: contains no lists, only the header.")
    owners, shown, lines, values = (np.concatenate(each) for each in zip(*parts, strict=True))
    return owners, shown, lines, values


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


def _chunks(path: Path, choose: Callable[[list[str]], list[str]]) -> Iterator[Any]:
    """Yield data frames of texts, with the columns that are chosen from those of the file."""
    try:
        if path.suffix == ".parquet":
            table = pyarrow().parquet.ParquetFile(path)
            columns = choose(table.schema_arrow.names)
            for batch in table.iter_batches(_CHUNK, columns=columns):
                yield batch.to_pandas().fillna("").astype(str)
        else:
            zipped = path.suffix == ".gz"
            with (
                gzip.open(path, "rt", encoding="utf-8", newline="")
                if zipped
                else path.open(encoding="utf-8", newline="") as file
            ):
                chunks = pd.read_csv(file, dtype=str, na_filter=False, chunksize=_CHUNK, skip_blank_lines=False)
                for number, chunk in enumerate(chunks):
                    if not number:
                        columns = choose(list(chunk))
                        # What the first line has more than the header would be an index of all lines.
                        if not isinstance(chunk.index, pd.RangeIndex):
                            width = len(chunk.columns)
                            raise _too_many(path, 2, width + chunk.index.nlevels, width)
                    yield chunk[columns].fillna("")
    except (ConfigError, DataError):
        raise
    except pd.errors.EmptyDataError:
        raise DataError(f"{path}: the file is empty.") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: damaged, or not compressed by gzip ({error}).") from None
    except OSError as error:
        raise DataError(f"{path}: cannot read this file: {error.strerror or error}.") from None
    except (ValueError, RuntimeError) as error:  # of pandas and of Arrow, all of them
        if found := re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", str(error)):
            columns_there, line, cells = map(int, found.groups())
            raise _too_many(path, line, cells, columns_there) from None
        raise DataError(f"{path}: cannot read this file: {' '.join(str(error).split())[:300]}.") from None


def _too_many(path: Path, line: int, cells: int, columns: int) -> DataError:
    return DataError(
        f"{path}, line {line}: {cells} cells instead of {columns}; an id with a comma must stand in quotation marks."
    )


def _checked(path: Path, found: list[str], wanted: list[str]) -> list[str]:
    """Return the columns that are wanted, or raise a DataError if one is not there."""
    for name in wanted:
        if name not in found:
            raise DataError(
                f"{path}: there is no column '{name}'; recbole-vae recommend writes user_id,rank,item_id,score "
                f"(found: {','.join(map(str, found))[:80]})."
            )
    return wanted
