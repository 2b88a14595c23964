"""Reads some columns of a table row by row: CSV, TSV or Parquet, each perhaps compressed by gzip."""

from __future__ import annotations

import codecs
import contextlib
import csv
import gzip
import io
import re
import shutil
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from recbole_vae.errors import ConfigError, DataError
from recbole_vae.options.names import near

NumberedCells = tuple[int, list[str]]
"""Number of the line (of the row in Parquet, both from 1), and the cells of the wanted columns; "" if there is none."""

_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_QUOTED = re.compile(r'"(?:[^"]|"")*"')
_CHUNK = 65_536


def read_rows(path: Path, wanted: Mapping[str, str], encoding: str | None = None) -> Iterator[NumberedCells]:
    """Read a table, with only a part of it in memory at a time.

    Args:
        path: the file. Its content tells its format, its name does not.
        wanted: the columns to read, by the options that name them.
        encoding: of CSV and TSV; None for UTF-8, or UTF-16 if the file says so.

    Raises:
        ConfigError: there is no such column, or no such encoding, or pyarrow is not installed.
        DataError: the file cannot be read, is damaged or not a table, or a line has too few or too many cells.
    """
    try:
        with path.open("rb") as raw:
            start = raw.read(4)
            raw.seek(0)
            if start[:2] == b"\x1f\x8b":
                with gzip.open(raw) as unpacked:
                    start = unpacked.read(4)
                    unpacked.seek(0)
                    yield from _read(path, unpacked, start, wanted, encoding)
            else:
                yield from _read(path, raw, start, wanted, encoding)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: damaged or not downloaded whole ({error}); download it again.") from None
    except OSError as error:
        raise DataError(f"{path}: cannot read this file: {error.strerror or error}.") from None


def _read(
    path: Path, file: Any, start: bytes, wanted: Mapping[str, str], encoding: str | None
) -> Iterator[NumberedCells]:
    if start == b"PAR1":
        yield from _parquet(path, file, wanted)
    elif start.startswith(b"PK\x03\x04"):
        raise DataError(f"{path}: a zip archive or an Excel file; unpack it, or save the sheet as CSV.")
    elif not start:
        raise DataError(f"{path}: the file is empty; its first line must name the columns.")
    else:
        encoding = encoding or next((name for mark, name in _MARKS if start.startswith(mark)), "utf-8")
        try:
            codecs.lookup(encoding)
        except LookupError:
            raise ConfigError(f"encoding: Python knows no encoding '{encoding}'; most files are utf-8.") from None
        with io.TextIOWrapper(file, encoding=encoding, newline="") as text:
            yield from _text(path, text, wanted)


def _text(path: Path, text: IO[str], wanted: Mapping[str, str]) -> Iterator[NumberedCells]:
    number = 1
    try:
        first = text.readline().removeprefix("\ufeff")
        if "\0" in first:
            raise DataError(f"{path}: not text in UTF-8; set --encoding, for example to utf-16-le.")
        separator, header = _header(first, wanted)
        places = _places(path, header, wanted)
        for number, cells in _tabbed(text) if separator == "\t" else _separated(path, text, separator):
            if len(cells) != len(header):
                if len(cells) == 1 and not cells[0].strip():
                    continue
                raise DataError(
                    f"{path}, line {number}: {len(cells)} cell{'s' * (len(cells) != 1)} instead of {len(header)}, separated "
                    f"by {separator!r}."
                )
            yield number, [cells[place].strip() for place in places]
    except UnicodeError as error:  # UTF-16 without its mark is no UnicodeDecodeError
        encoding, reason = getattr(error, "encoding", "utf-16").upper(), getattr(error, "reason", error)
        raise DataError(
            f"{path}, line {number} or later: not text in {encoding} ({reason}); set --encoding, for example to cp1252."
        ) from None


def _header(first: str, wanted: Mapping[str, str]) -> tuple[str, list[str]]:
    """Return the separator that gives the most of the wanted columns, and all columns that it gives."""
    found = []
    for separator in ",\t;|":
        cells = [cell.strip() for cell in next(csv.reader([first], delimiter=separator), [])]
        found.append((len(set(wanted.values()) & set(cells)), len(cells), separator, cells))
    _, _, separator, header = max(found, key=lambda each: each[:2])
    return separator, header


def _places(path: Path, header: Sequence[str], wanted: Mapping[str, str]) -> list[int]:
    counts = Counter(header)
    for option, column in wanted.items():
        if column not in counts:
            meant = near(column, header)
            raise ConfigError(
                f"--{option}: {path} has no column '{column[:80]}'{f'; did you mean {meant}?' if meant else '.'} Its first "
                f"line must name the columns; it has: {', '.join(header)[:300]}."
            )
        if counts[column] > 1:
            raise DataError(f"{path}, line 1: there are {counts[column]} columns '{column}'; rename all but one.")
    return [header.index(column) for column in wanted.values()]


def _tabbed(text: IO[str]) -> Iterator[NumberedCells]:
    """Split lines at tabs. Quotation marks are part of a cell unless they enclose it as in CSV."""
    for number, line in enumerate(text, start=2):
        cells = line.rstrip("\r\n").split("\t")
        if '"' in line:
            cells = [cell[1:-1].replace('""', '"') if _QUOTED.fullmatch(cell) else cell for cell in cells]
        yield number, cells


def _separated(path: Path, text: IO[str], separator: str) -> Iterator[NumberedCells]:
    reader, number = csv.reader(text, delimiter=separator, strict=True), 2
    try:
        for cells in reader:
            yield number, cells or [""]
            number = reader.line_num + 2  # the next one starts there
    except csv.Error as error:
        raise DataError(
            f"{path}, line {number}: {error}. A cell that begins with a quotation mark must end with one; a mark within it "
            "is written twice."
        ) from None


def _parquet(path: Path, file: Any, wanted: Mapping[str, str]) -> Iterator[NumberedCells]:
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError:
        raise ConfigError(f"{path}: to read Parquet, install pyarrow (pip install pyarrow), or save as CSV.") from None
    with contextlib.ExitStack() as stack:
        if isinstance(file, gzip.GzipFile):  # Parquet is read from its end
            copy = stack.enter_context(tempfile.TemporaryFile())
            shutil.copyfileobj(file, copy)
            file = copy
        try:
            table = parquet.ParquetFile(file)
            header = table.schema_arrow.names
            places = _places(path, header, wanted)
            names = [header[place] for place in places]
            for option, name in zip(wanted, names, strict=True):
                kind = table.schema_arrow.field(name).type
                if arrow.types.is_nested(kind):
                    raise ConfigError(f"--{option}: the column '{name}' of {path} holds {kind}, not single values.")
            number = 0
            for batch in table.iter_batches(_CHUNK, columns=names):
                columns = [_as_text(arrow, batch.column(name)) for name in names]
                for cells in zip(*columns, strict=True):
                    number += 1
                    yield number, list(cells)
        except (arrow.ArrowException, OSError) as error:
            reason = " ".join(str(error).split()).rstrip(". ")
            raise DataError(f"{path}: cannot read this Parquet file ({reason}).") from None


def _as_text(arrow: Any, column: Any) -> list[str]:
    """Return a column's values as a CSV file has them; times as Unix seconds."""
    kind = column.type
    if arrow.types.is_timestamp(kind) or arrow.types.is_date(kind):
        nanoseconds = column.cast(arrow.timestamp("ns", getattr(kind, "tz", None))).cast(arrow.int64()).to_pylist()
        return ["" if each is None else f"{each // 10**9}.{each % 10**9:09d}" for each in nanoseconds]
    return [_cell(value) for value in column.to_pylist()]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():  # a whole number, in a column that once had missing values
        return str(int(value))
    return (value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)).strip()
