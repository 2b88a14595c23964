"""Converts any table of interactions to RecBole's atomic files, and reports what was left out."""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from recbole_vae.data.missing import MISSING
from recbole_vae.data.prepare import Prepared, new_folder
from recbole_vae.data.table_file import read_rows
from recbole_vae.errors import ConfigError, DataError

Places = npt.NDArray[np.int64]

_DATE = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d{1,9}))?)?\s*(?:(Z|z|UTC)|([+-])(\d\d):?(\d\d))?)?"
)
_NANO = 10**9


@dataclass(frozen=True)
class Columns:
    """Names of the table's columns; None for those that it does not have.

    Attributes:
        user: the users' ids.
        item: the items' ids.
        time: numbers in any unit, or dates in ISO 8601.
        rating: numbers.
        title: the items' names.
    """

    user: str
    item: str
    time: str | None = None
    rating: str | None = None
    title: str | None = None

    def named(self) -> dict[str, str]:
        """Return the columns that the table has, by kind.

        Raises:
            ConfigError: one column is named twice.
        """
        named = {kind: column for kind, column in vars(self).items() if column is not None}
        for kind, column in named.items():
            first = next(each for each in named if named[each] == column)
            if first != kind and "title" not in (first, kind):  # a title may be the id
                raise ConfigError(f"--{kind}: '{column}' is the column of --{first} already; name another.")
        return named


@dataclass(frozen=True)
class Filters:
    """What is kept.

    Attributes:
        min_rating: lines with at least this rating; None for all.
        min_user: users with at least this many different items.
        min_item: items with at least this many different users.
        keep: which line of a repeated pair of user and item: the ``first`` or the ``last``, by time if there is one; or
            ``count``: the first, with the number of lines in a column ``count``.
    """

    min_rating: float | None = None
    min_user: int = 1
    min_item: int = 1
    keep: str = "first"


@dataclass(frozen=True)
class FromTable(Prepared):
    """What was written.

    Attributes:
        dropped: what was left out and why, in lines.
    """

    dropped: list[str]


def prepare_table(
    name: str, source: str | Path, out: str | Path, columns: Columns, filters: Filters | None = None,
    encoding: str | None = None, show_progress: bool = False,
) -> FromTable:  # fmt: skip
    """Write ``<name>.inter``, and ``<name>.item`` if there are titles, from a CSV, TSV or Parquet file or a gzip of one.

    The lines keep their order. Memory holds some 30 bytes for each line, and each different id and title once.

    Args:
        name: the data set's name in RecBole.
        source: the file; its first line names the columns.
        out: the folder in which the data set's folder is made; RecBole's ``data_path``.
        columns: which columns hold what.
        filters: what is kept.
        encoding: of the file; None for UTF-8, or UTF-16 if the file says so.
        show_progress: whether a progress bar is shown.

    Raises:
        ConfigError: the name cannot be that of a data set, or the file has no such column.
        DataError: the file cannot be read, a line is wrong, nothing is left, or the result exists already. Then nothing is
            left behind.
    """
    filters = filters or Filters()
    if not re.fullmatch(r"[A-Za-z][\w.-]*", name, re.ASCII) or name in ("None", "True", "False"):
        raise ConfigError(
            f"prepare: '{name}' cannot be the name of a data set; it must be letters, digits and . _ -, a letter first."
        )
    if name == "ml-100k":
        raise ConfigError("prepare: RecBole takes its own copy for any data set named ml-100k; choose another name.")
    if filters.min_rating is not None and columns.rating is None:
        raise ConfigError("--min_rating needs --rating, the column with the ratings.")
    named = columns.named()
    with new_folder(Path(source), Path(out) / name) as temporary:
        table = _Entries(Path(source), named, filters.min_rating)
        table.read(encoding, show_progress)
        kept, counts = table.without_repeats(filters.keep)
        kept = table.core(kept, filters.min_user, filters.min_item)
        if not len(kept):
            raise DataError(f"{source}: no interaction is left of {table.lines:,}. {' '.join(table.dropped)}".rstrip())
        table.write(temporary / f"{name}.inter", kept, counts if filters.keep == "count" else None)
        if columns.title is not None:
            table.write_titles(temporary / f"{name}.item", kept)
    users, items = (len(np.unique(each[kept])) for each in (table.users, table.items))
    return FromTable(Path(out) / name, table.lines, len(kept), users, items, [], table.dropped)


class _Entries:
    """The table's interactions in arrays, one entry for each line that counts."""

    def __init__(self, path: Path, named: dict[str, str], min_rating: float | None) -> None:
        self.path, self.named, self.min_rating = path, named, min_rating
        self.lines, self.dropped = 0, list[str]()
        self.user_ids, self.item_ids, self.titles = dict[str, int](), dict[str, int](), dict[int, str]()
        self.users = self.items = self.seconds = self.nanoseconds = np.zeros(0, np.int64)
        self.ratings = np.zeros(0)

    def read(self, encoding: str | None, show_progress: bool) -> None:
        """Read all lines. Those without a user, item, rating or time are left out, and so are those below the lowest rating."""
        kinds, header = list(self.named), list(self.named.values())
        missing, low, renamed = dict.fromkeys(kinds, 0), 0, set[int]()
        headers, users, items = 0, array("q"), array("q")
        seconds, nanoseconds, ratings = array("q"), array("i"), array("d")
        as_dates: bool | None = None
        rows = read_rows(self.path, self.named, encoding)
        progress: dict[str, Any] = {"desc": "Reading", "unit": " lines", "unit_scale": True, "leave": False}
        with tqdm(rows, **progress, disable=None if show_progress else True) as bar:
            for number, cells in bar:
                if cells == header:
                    headers += 1
                    continue
                self.lines += 1
                row = dict(zip(kinds, cells, strict=True))
                empty = next((kind for kind in kinds if kind != "title" and row[kind] in MISSING), None)
                if empty is not None:
                    missing[empty] += 1
                    continue
                for kind in ("user", "item"):
                    if re.search(r"[\t\r\n]", row[kind]):
                        raise self._wrong(
                            number, kind, row[kind], "has a tab or a line break, which RecBole's files cannot hold"
                        )
                if "rating" in row:
                    rating = self._rating(number, row["rating"])
                    if self.min_rating is not None and rating < self.min_rating:
                        low += 1
                        continue
                    ratings.append(rating)
                if "time" in row:
                    whole, rest, is_date = self._time(number, row["time"])
                    if as_dates not in (None, is_date):
                        raise self._wrong(
                            number, "time", row["time"], "is a date where others are numbers, or the other way round"
                        )
                    as_dates = is_date
                    seconds.append(whole)
                    nanoseconds.append(rest)
                users.append(self.user_ids.setdefault(row["user"], len(self.user_ids)))
                item = self.item_ids.setdefault(row["item"], len(self.item_ids))
                items.append(item)
                title = " ".join(row.get("title", "").split())
                if title and self.titles.setdefault(item, title) != title:
                    renamed.add(item)
        self.users, self.items, self.seconds = (np.array(each, np.int64) for each in (users, items, seconds))
        self.nanoseconds, self.ratings = np.array(nanoseconds, np.int64), np.array(ratings, np.float64)
        self._say(headers, "line", "the names of the columns, repeated")
        for kind, count in missing.items():
            self._say(count, "line", f"no {kind} (an empty cell, or NA, null and the like)")
        if low:
            self._say(low, "line", f"a rating below {self.min_rating:g}")
        if renamed:
            some = next(each for each, place in self.item_ids.items() if place in renamed)
            self.dropped.append(
                f"{_number(len(renamed), 'item')} with more than one title, such as '{some}': the first title is kept."
            )

    def _say(self, count: int, what: str, why: str) -> None:
        if count:
            self.dropped.append(f"{_number(count, what)} dropped: {why}.")

    def _wrong(self, number: int, kind: str, text: str, what: str) -> DataError:
        return DataError(f"{self.path}, line {number}: {text[:60]!r} in column '{self.named[kind]}' {what}.")

    def _rating(self, number: int, text: str) -> float:
        try:
            rating = float(text)
        except ValueError:
            rating = math.nan
        if not math.isfinite(rating) or "_" in text:
            raise self._wrong(number, "rating", text, "is not a number")
        return rating

    def _time(self, number: int, text: str) -> tuple[int, int, bool]:
        """Return a time as a whole number and billionths, and whether it was a date, which is given in Unix seconds."""
        try:
            whole, rest, is_date = _moment(text)
        except ValueError:
            allowed = "is neither a number nor a date such as 2024-01-31 or 2024-01-31T12:00:00Z"
            raise self._wrong(number, "time", text, allowed) from None
        if not -(2**63) <= whole < 2**63:
            raise self._wrong(number, "time", text, "is too large")
        return whole, rest, is_date

    def without_repeats(self, keep: str) -> tuple[Places, Places]:
        """Return the places of the entries to keep, in order, and for each entry how often its pair occurs."""
        pairs = self.users * max(1, len(self.item_ids)) + self.items
        keys: tuple[Any, ...] = (pairs,) if not len(self.seconds) else (self.nanoseconds, self.seconds, pairs)
        order = np.lexsort(keys)  # stable: of two at the same time, the first in the file is the first
        found = pairs[order]
        starts = np.flatnonzero(np.append(True, found[1:] != found[:-1])) if len(found) else np.zeros(0, np.int64)
        times = np.diff(np.append(starts, len(found)))
        chosen = order[starts + times - 1 if keep == "last" else starts]
        counts = np.ones(len(pairs), np.int64)
        counts[chosen] = times
        by = "by time" if len(self.seconds) else "in the file"
        kept = {"count": f"the first {by} is kept, and column 'count' has their number"}
        self._say(
            len(pairs) - len(chosen),
            "line",
            f"a repeated pair of user and item; {kept.get(keep, f'the {keep} {by} is kept')}",
        )
        return np.sort(chosen), counts

    def core(self, kept: Places, min_user: int, min_item: int) -> Places:
        """Leave out users and items with too few entries, until all that are left have enough."""
        least = {"item": min_item, "user": min_user}
        gone, lines = dict.fromkeys(least, 0), dict.fromkeys(least, 0)
        before = -1
        while len(kept) not in (0, before):
            before = len(kept)
            for kind, codes in (("item", self.items), ("user", self.users)):
                numbers = np.bincount(codes[kept])
                enough = numbers[codes[kept]] >= least[kind]
                gone[kind] += int(((numbers > 0) & (numbers < least[kind])).sum())
                lines[kind] += int((~enough).sum())
                kept = kept[enough]
        for kind, other in (("item", "user"), ("user", "item")):
            self._say(
                lines[kind], "line", f"of {_number(gone[kind], kind)} with fewer than {_number(least[kind], other)}"
            )
        return kept

    def write(self, path: Path, kept: Places, counts: Places | None) -> None:
        """Write the interactions in the order of the table."""
        users, items = list(self.user_ids), list(self.item_ids)
        columns: list[tuple[str, Iterator[str]]] = [
            ("user_id:token", (users[code] for code in self.users[kept])),
            ("item_id:token", (items[code] for code in self.items[kept])),
        ]
        if len(self.seconds):
            pairs = zip(self.seconds[kept].tolist(), self.nanoseconds[kept].tolist(), strict=True)
            columns.append(("timestamp:float", (_time_text(*pair) for pair in pairs)))
        if len(self.ratings):
            columns.append(("rating:float", (repr(each).removesuffix(".0") for each in self.ratings[kept].tolist())))
        if counts is not None:
            columns.append(("count:float", map(str, counts[kept].tolist())))
        with path.open("w", encoding="utf-8", newline="\n") as file:
            file.write("\t".join(name for name, _ in columns) + "\n")
            file.writelines("\t".join(cells) + "\n" for cells in zip(*(cells for _, cells in columns), strict=True))

    def write_titles(self, path: Path, kept: Places) -> None:
        """Write the items' titles; an item without one has an empty cell."""
        ids = list(self.item_ids)
        with path.open("w", encoding="utf-8", newline="\n") as file:
            file.write("item_id:token\ttitle:token_seq\n")
            file.writelines(
                f"{ids[item]}\t{self.titles.get(item, '')}\n" for item in np.unique(self.items[kept]).tolist()
            )


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"


def _moment(text: str) -> tuple[int, int, bool]:
    """Read a number or an ISO date; a ValueError if it is neither."""
    if text.isdecimal():
        return int(text), 0, False
    found = _DATE.fullmatch(text)
    if found is None:
        if "_" in text:
            raise ValueError
        try:
            number = Decimal(text)
        except InvalidOperation:
            raise ValueError from None
        if not number.is_finite() or abs(number.adjusted()) > 30:
            raise ValueError
        whole = math.floor(number)
        return whole, int((number - whole) * _NANO), False
    day, hour, minute, second, fraction, _, sign, hours, minutes = found.groups()
    clock = [int(each or 0) for each in (hour, minute, second)]
    if clock[0] > 23 or clock[1] > 59 or clock[2] > 60:
        raise ValueError
    away = (int(hours or 0) * 60 + int(minutes or 0)) * (-60 if sign == "-" else 60)
    total = _day(day) + clock[0] * 3600 + clock[1] * 60 + clock[2] - away
    return total, int((fraction or "").ljust(9, "0")), True


@lru_cache(100_000)
def _day(text: str) -> int:
    return (date.fromisoformat(text) - date(1970, 1, 1)).days * 86_400


def _time_text(whole: int, rest: int) -> str:
    if not rest:
        return str(whole)
    if whole < 0:  # billionths count upwards
        whole, rest = whole + 1, _NANO - rest
        return f"-{-whole}.{rest:09d}".rstrip("0")
    return f"{whole}.{rest:09d}".rstrip("0")
