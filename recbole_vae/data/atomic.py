"""Reads RecBole's atomic files; errors name the first bad line."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from recbole.utils import FeatureType

from recbole_vae.data.missing import MISSING
from recbole_vae.data.tokens import Builder, is_coded, without_missing
from recbole_vae.errors import DataError

_BLOCK, _LINES = 2**24, 2**20
"""Bytes, and lines, that are read at a time."""
_KINDS = ", ".join(kind.value for kind in FeatureType)


def quoting(separator: str) -> Literal[0, 3]:
    """Return the ``csv`` module's constant for a separator: quotation marks enclose cells in CSV, but not between tabs."""
    return csv.QUOTE_MINIMAL if separator in (",", ";", "|") else csv.QUOTE_NONE


def _lines(path: str | Path, encoding: str) -> Iterator[str]:
    """Read the lines of a text file. If the encoding extends ASCII, an error is raised at the line that has it."""
    if "\n".encode(encoding) == b"\n":
        with Path(path).open("rb") as file:
            yield from (line.decode(encoding) for line in file)
    else:
        with Path(path).open(encoding=encoding, newline="") as file:
            yield from file


def read_header(path: str | Path, separator: str, encoding: str) -> dict[str, FeatureType]:
    """Read the first line of an atomic file: the columns, each ``name:type``.

    Raises:
        DataError: the file is missing, empty or not text, or its first line has another form.
    """
    example = separator.join(("user_id:token", "item_id:token"))
    expected = f"columns 'name:type' separated by {separator!r}, such as {example!r}; the types are {_KINDS}"
    try:
        line = next(_lines(path, encoding), "").rstrip("\r\n").removeprefix("\ufeff")
    except OSError as error:
        raise DataError(f"{path}: cannot read this file: {error.strerror}.") from None
    except UnicodeError as error:
        raise DataError(_not_text(path, 1, encoding, error)) from None
    except LookupError:
        raise DataError(f"encoding: Python knows no encoding '{encoding}'; most files are utf-8.") from None
    if not line:
        raise DataError(f"{path}, line 1: the file is empty or begins with an empty line; there must be {expected}.")
    columns: dict[str, FeatureType] = {}
    for column in line.split(separator):
        name, colon, kind = column.partition(":")
        if column[:1] == '"' == column[-1:]:
            raise DataError(
                f"{path}, line 1: {column[:80]} is in quotation marks, which RecBole does not remove from a column's name; write "
                "the file without them (pandas: quoting=3)."
            )
        if not (name and colon) or kind not in {each.value for each in FeatureType}:
            raise DataError(f"{path}, line 1: {column[:80]!r} is not a column; there must be {expected}.")
        if name in columns:
            raise DataError(f"{path}, line 1: there are two columns '{name}'.")
        columns[name] = FeatureType(kind)
    return columns


def read_columns(
    path: str | Path, columns: dict[str, FeatureType], wanted: list[str], separator: str, encoding: str
) -> pd.DataFrame:
    """Read some columns of an atomic file: tokens as categories, numbers as float64, missing values as NaN.

    The values are those that RecBole reads. The parser is pyarrow's if that is installed and the file is plain (see
    :func:`_by_arrow`), otherwise that of pandas in C; both take separators of one ASCII character.

    Args:
        path: the file.
        columns: all its columns, from :func:`read_header`.
        wanted: those to read, of type ``token`` or ``float``, in the order of the file.
        separator: between columns, one character or more.
        encoding: of the file.

    Raises:
        DataError: a line has more or fewer columns than the first, or something else where a number must be.
    """
    if len(separator) > 1 or not separator.isascii():
        found = _by_python(path, columns, wanted, separator, encoding)
    else:
        by_arrow = _by_arrow(path, columns, wanted, separator, encoding)
        found = _by_pandas(path, columns, wanted, separator, encoding) if by_arrow is None else by_arrow
    data = pd.DataFrame(found, copy=False)
    refuse_header_again(path, data, columns, encoding)
    return data


def _by_python(
    path: str | Path, columns: dict[str, FeatureType], wanted: list[str], separator: str, encoding: str
) -> dict[str, Any]:
    """Read columns with a separator of several characters, or one that is not ASCII."""
    numbers = [name for name in wanted if columns[name] is FeatureType.FLOAT]
    message = _what_is_wrong(path, list(columns), numbers, separator, encoding)
    if message:
        raise DataError(message)
    lines = _lines(path, encoding)
    next(lines)
    rows = [cells for cells in _Split(lines, separator) if len(cells) > 1 or cells[0].strip()]
    texts = pd.DataFrame(rows, columns=list(columns), dtype=object)[wanted]
    texts = texts.mask(texts.isin(MISSING))
    return _columns([texts], numbers)


def _columns(parts: Iterable[pd.DataFrame], numbers: list[str]) -> dict[str, Any]:
    """Put together what was read in parts."""
    builders, values, names = dict[str, Builder](), dict[str, list[Any]](), list[str]()
    for part in parts:
        names = list(part)
        for name in names:
            if name in numbers:
                values.setdefault(name, []).append(part[name].to_numpy(dtype=np.float64))
            else:
                builders.setdefault(name, Builder()).add(part[name].to_numpy(dtype=object))
    return {
        name: np.concatenate(values.pop(name)) if name in numbers else builders.pop(name).column() for name in names
    }


def _by_pandas(
    path: str | Path, columns: dict[str, FeatureType], wanted: list[str], separator: str, encoding: str
) -> dict[str, Any]:
    """Read columns by pandas, a part of the lines at a time."""
    # As objects, tokens stay as written. Since pandas 3.1, categories that are all numbers become numbers, and 01 becomes 1.
    kinds: dict[str, Any] = {name: np.float64 if columns[name] is FeatureType.FLOAT else object for name in wanted}
    numbers = [name for name in wanted if columns[name] is FeatureType.FLOAT]
    try:
        with pd.read_csv(
            path, sep=separator, header=0, names=list(columns), usecols=wanted, dtype=kinds, encoding=encoding, engine="c",
            index_col=False, float_precision="round_trip", quoting=quoting(separator), chunksize=_LINES,
        ) as parts:  # fmt: skip
            found = _columns((part[wanted] for part in parts), numbers)
    except (ValueError, OverflowError) as error:  # a ParserError, a UnicodeDecodeError, or a bad number
        message = _what_is_wrong(path, list(columns), numbers, separator, encoding)
        raise DataError(message or f"{path}: {error}.") from None
    found = found or {name: np.empty(0) if name in numbers else Builder().column() for name in wanted}
    # pandas pads short lines with missing values, cuts long ones, and repairs stray quotation marks.
    separators, marks = _count(path, separator, encoding)
    incomplete = any(pd.isna(column).any() for column in found.values())
    if separators != (len(columns) - 1) * (len(found[wanted[0]]) + 1) or marks or incomplete:
        message = _what_is_wrong(path, list(columns), [], separator, encoding)
        if message:
            raise DataError(message)
    return found


def _by_arrow(
    path: str | Path, columns: dict[str, FeatureType], wanted: list[str], separator: str, encoding: str
) -> dict[str, Any] | None:
    """Read columns by pyarrow, on all cores; None if pandas has to.

    pyarrow reads as pandas does if the file is UTF-8 without bare carriage returns, and nothing in it is enclosed by quotation
    marks. What it refuses pandas reads, or says what is wrong.
    """
    if len(columns) == 1 or not _is_plain(path, separator, encoding):
        return None
    try:
        import pyarrow as arrow
        from pyarrow import csv as reader
    except ImportError:
        return None
    token = arrow.dictionary(arrow.int32(), arrow.string())
    try:
        table = reader.read_csv(
            path,
            reader.ReadOptions(column_names=list(columns), skip_rows=1, block_size=_BLOCK),
            reader.ParseOptions(delimiter=separator, quote_char=False),
            reader.ConvertOptions(
                column_types={
                    name: arrow.float64() if columns[name] is FeatureType.FLOAT else token for name in wanted
                },
                include_columns=wanted, null_values=sorted(MISSING), strings_can_be_null=True,
            ),
        )  # fmt: skip
    except (arrow.ArrowException, OSError, UnicodeError):
        return None
    found = {}
    for name in wanted:
        column = table.column(name)
        table = table.drop_columns([name])  # each is freed as soon as it is converted
        found[name] = np.array(column.to_numpy()) if columns[name] is FeatureType.FLOAT else coded(column)
    return found


def coded(column: Any) -> pd.Categorical:
    """Make a column of tokens of a column of pyarrow's that is encoded by dictionaries of strings."""
    parts = column.unify_dictionaries().chunks
    tokens = parts[0].dictionary.to_pylist() if parts else []
    codes = [np.empty(0, np.int32), *(part.indices.fill_null(-1).to_numpy(zero_copy_only=False) for part in parts)]
    return without_missing(np.concatenate(codes), tokens)


def _is_plain(path: str | Path, separator: str, encoding: str) -> bool:
    """Tell whether a file is UTF-8 without zeros, bare carriage returns, and quotation marks that may enclose cells."""
    try:
        if codecs.lookup(encoding).name not in ("utf-8", "ascii", "utf-8-sig"):
            return False
        enclose, decoder = quoting(separator) != csv.QUOTE_NONE, codecs.getincrementaldecoder("utf-8")()
        waiting, last = False, b""
        with Path(path).open("rb") as file:
            while chunk := file.read(_BLOCK):
                if b"\0" in chunk or (enclose and b'"' in chunk):
                    return False
                if (last == b"\r" and chunk[:1] != b"\n") or (
                    b"\r" in chunk and chunk.count(b"\r") != chunk.count(b"\r\n") + chunk.endswith(b"\r")
                ):
                    return False
                last = chunk[-1:]
                if waiting or not chunk.isascii():
                    decoder.decode(chunk)
                    waiting = bool(decoder.getstate()[0])
        decoder.decode(b"", final=True)
    except (OSError, LookupError, UnicodeError):
        return False  # pandas says what is wrong
    return last != b"\r"


def check_cells(path: str | Path, columns: dict[str, FeatureType], separator: str, encoding: str) -> None:
    """Raise a DataError that names the first line with a stray quotation mark, or with too few or too many cells."""
    message = _what_is_wrong(path, list(columns), [], separator, encoding)
    if message:
        raise DataError(message)


def refuse_header_again(path: str | Path, data: pd.DataFrame, columns: dict[str, FeatureType], encoding: str) -> None:
    """Raise a DataError if a line repeats the first, as in concatenated files; it would become a user."""
    for name in data:
        if columns[name] is FeatureType.TOKEN and f"{name}:token" in _texts(data[name]):
            first, *others = (line.strip().removeprefix("\ufeff") for line in _lines(path, encoding))
            number = others.index(first) + 2 if first in others else "?"
            raise DataError(f"{path}, line {number}: the names of the columns are repeated; remove this line.")


def _texts(column: Any) -> Any:
    """Return the tokens of a column, for which ``in`` works."""
    return column.array.categories if is_coded(column) else set(column)


def _count(path: str | Path, separator: str, encoding: str) -> tuple[int, int]:
    """Count the separators in a file, and the quotation marks that may enclose cells."""
    separators = marks = 0
    enclose = quoting(separator) != csv.QUOTE_NONE
    with Path(path).open(encoding=encoding, newline="") as file:
        while chunk := file.read(2**22):
            separators += chunk.count(separator)
            marks += chunk.count('"') if enclose else 0
    return separators, marks


def _what_is_wrong(
    path: str | Path, columns: list[str], numbers: list[str], separator: str, encoding: str
) -> str | None:
    """Return a message that names the first bad line, or None if there is none."""
    number, lines = 2, _lines(path, encoding)
    try:
        next(lines)
        reader: Any = _Split(lines, separator)
        if len(separator) == 1:
            reader = csv.reader(lines, delimiter=separator, strict=True, quoting=quoting(separator))
        for cells in reader:
            if not cells or (len(cells) == 1 and not cells[0].strip()):
                number = reader.line_num + 2
                continue
            if len(cells) != len(columns):
                return (
                    f"{path}, line {number}: {len(cells)} column{'s' * (len(cells) != 1)} instead of {len(columns)} "
                    f"({', '.join(columns)}), separated by {separator!r}."
                )
            for name in numbers:
                cell = cells[columns.index(name)]
                if cell == f"{name}:float":
                    return f"{path}, line {number}: the names of the columns are repeated; remove this line."
                if cell not in MISSING and not _is_number(cell):
                    return f"{path}, line {number}: {cell[:80]!r} in column '{name}:float' is not a number."
            number = reader.line_num + 2  # where the next one starts
    except UnicodeError as error:
        return _not_text(path, number, encoding, error)
    except csv.Error as error:
        what = str(error).replace("\t", "\\t")
        return f"{path}, line {number}: {what}; a cell that begins with a quotation mark must end with one."
    return None


class _Split:
    """Splits lines as ``csv.reader`` does, at a separator of several characters, which that does not take."""

    def __init__(self, lines: Iterator[str], separator: str) -> None:
        self.lines, self.separator, self.line_num = lines, separator, 0

    def __iter__(self) -> Iterator[list[str]]:
        for line in self.lines:
            self.line_num += 1
            yield line.rstrip("\r\n").split(self.separator)


def _not_text(path: str | Path, line: int, encoding: str, error: UnicodeError) -> str:
    with Path(path).open("rb") as file:
        is_utf_16 = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    meant = "utf-16" if is_utf_16 else "that of the file"
    encoding, reason = (
        getattr(error, "encoding", encoding),
        getattr(error, "reason", error),
    )  # UTF-16 without its mark has none
    return (
        f"{path}, line {line}: not text of encoding {encoding} ({reason}); save it as {encoding}, or train with the option "
        f"encoding set to {meant}."
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text
