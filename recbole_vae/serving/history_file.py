"""Histories from a file: CSV, or an atomic file of RecBole."""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import IO, Literal

import numpy as np

from recbole_vae.errors import DataError


class ScatteredError(DataError):
    """The lines of a user are not consecutive."""


def read_histories(
    file: IO[str],
    name: str,
    user_field: str,
    item_field: str,
    value_field: str | None = None,
    scattered: bool = False,
) -> Iterator[tuple[str, list[str] | dict[str, float]]]:
    """Read histories from a CSV file or an atomic file of RecBole, user by user.

    Args:
        file: the text; its first line names the columns: those below, or ``user_id`` and ``item_id``.
        name: name of the file, for messages.
        user_field: name of the user column in the data set.
        item_field: name of the item column in the data set.
        value_field: name of the weight column. If the file has it, a history maps each item to the sum of its weights.
        scattered: whether the lines of a user may stand anywhere. The whole file is then held in memory, and users come in the
            order of their first lines.

    Raises:
        ScatteredError: a user returns later in the file, and ``scattered`` is False.
        DataError: the text is not UTF-8, a column is missing, a line has too few or too many cells, or a weight is not a
            positive number.
    """
    try:
        first = file.readline().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise _not_utf8(name, 1, error) from None
    if not first.strip():
        raise DataError(f"{name}: is empty; the first line must name the columns, such as user_id,item_id.")
    separator = "\t" if "\t" in first else max(",;|", key=first.count)
    # Spaces next to a comma do not belong to an id. Between tabs, quotation marks do.
    strip = separator != "\t"
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if strip else csv.QUOTE_NONE
    header = next(csv.reader([first], delimiter=separator, skipinitialspace=strip, quoting=quoting), [])
    columns = [cell.strip().partition(":")[0] for cell in header]
    places = []
    for field, usual in ((user_field, "user_id"), (item_field, "item_id")):
        found = next((columns.index(each) for each in (field, usual) if each in columns), None)
        if found is None:
            raise DataError(
                f"{name}, line 1: there is no column '{field}'{f' or {usual}' if field != usual else ''}; the first line must "
                f"name the columns, such as user_id,item_id (found: {first.strip()[:80]!r})."
            )
        places.append(found)
    user_place, item_place = places
    weight_place = columns.index(value_field) if value_field in columns else None

    def pairs() -> Iterator[tuple[int, str, str, float]]:
        reader = csv.reader(file, delimiter=separator, strict=True, skipinitialspace=strip, quoting=quoting)
        number = 2
        try:
            for cells in reader:
                if len(cells) != len(columns):
                    if not cells:
                        number = reader.line_num + 2
                        continue
                    raise DataError(
                        f"{name}, line {number}: {len(cells)} cells instead of {len(columns)} ({first.strip()[:60]})."
                    )
                user, item = cells[user_place], cells[item_place]
                weight = 1.0 if weight_place is None or not item.strip() else _weight(cells[weight_place], name, number)
                yield (number, user.strip(), item.strip(), weight) if strip else (number, user, item, weight)
                number = reader.line_num + 2  # where the next one starts
        except UnicodeDecodeError as error:
            raise _not_utf8(name, number, error) from None
        except csv.Error as error:  # such as a stray quotation mark, which would swallow the rest
            raise DataError(
                f"{name}, line {number}: not valid CSV ({error}); a cell that begins with a quotation mark must end with one."
            ) from None

    done: set[int] = set()  # hashes: a set of a million names would be most of the memory
    lines_of: Iterable[tuple[str, Iterable[tuple[int, str, str, float]]]]
    if scattered:
        together: dict[str, list[tuple[int, str, str, float]]] = {}
        for pair in pairs():
            together.setdefault(pair[1], []).append(pair)
        lines_of = together.items()
    else:
        lines_of = groupby(pairs(), key=lambda pair: pair[1])
    for user, lines in lines_of:
        first_line, *others = lines
        number = first_line[0]
        if hash(user) in done:
            raise ScatteredError(
                f"{name}, line {number}: user '{user}' appears again; all lines of a user must be consecutive. Sort the file"
                f"{', or write it to a file and name that' if name == 'standard input' else ''}."
            )
        done.add(hash(user))
        if not others and not first_line[2]:  # an empty cell alone stands for a user without items
            yield user, []
        elif weight_place is None:
            yield user, [item for _, _, item, _ in (first_line, *others)]
        else:
            weights: dict[str, float] = {}
            for _, _, item, weight in (first_line, *others):
                weights[item] = weights.get(item, 0.0) + weight
            yield user, weights


def _weight(text: str, name: str, number: int) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not 0 < np.float32(weight) < math.inf or "_" in text:
        raise DataError(
            f"{name}, line {number}: the weight {text[:40]!r} is not allowed; it must be a positive number."
        )
    return weight


def _not_utf8(name: str, line: int, error: UnicodeDecodeError) -> DataError:
    return DataError(f"{name}, line {line} or later: not text in UTF-8 ({error.reason}); save the file as UTF-8.")


def open_text(path: str) -> IO[str]:
    """Open a file to read text, or standard input for ``-``; a DataError says what is wrong."""
    if path == "-":
        return sys.stdin
    try:
        return Path(path).open(encoding="utf-8", newline="")
    except OSError as error:
        raise DataError(f"{path}: cannot read this file: {error.strerror}.") from None
