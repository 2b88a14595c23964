"""Reads interactions from ``NAME.inter.parquet``, a table with the columns that ``NAME.inter`` has as text.

A column may be called as in RecBole's files (``user_id:token``), or plainly. Then its type in the file counts: strings, and
the users' and items' ids, are tokens; other numbers, times and dates are numbers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from recbole.utils import FeatureType

from recbole_vae.data.atomic import coded
from recbole_vae.errors import ConfigError, DataError

_LARGEST = 2**53


class ParquetTable:
    """A file of interactions.

    Attributes:
        columns: its columns and their types in RecBole.

    Args:
        path: the file.
        ids: the columns of users' and items' ids.

    Raises:
        ConfigError: pyarrow is not installed, or not one for this NumPy.
        DataError: the file is damaged, or two of its columns have one name.
    """

    def __init__(self, path: str | Path, ids: set[str]) -> None:
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError as error:  # the newest releases refuse NumPy 1, too
            raise ConfigError(
                f"{path}: to read Parquet, install pyarrow (pip install 'recbole_vae[parquet]'); now: {error}."
            ) from None
        self.path, self._arrow = path, pyarrow
        try:
            self._file = parquet.ParquetFile(path)
        except (pyarrow.ArrowException, OSError) as error:
            raise self._unreadable(error) from None
        self.columns: dict[str, FeatureType] = {}
        self._fields: dict[str, Any] = {}
        kinds = {kind.value: kind for kind in FeatureType}
        for field in self._file.schema_arrow:
            name, colon, kind = field.name.rpartition(":")
            if not (colon and kind in kinds):
                name, kind = field.name, self._kind(field.name, field.type, ids)
            if name in self.columns:
                raise DataError(f"{path}: there are two columns '{name}'.")
            self.columns[name], self._fields[name] = kinds[kind], field

    def _kind(self, name: str, kind: Any, ids: set[str]) -> str:
        types = self._arrow.types
        if types.is_list(kind) or types.is_large_list(kind):
            return "token_seq" if types.is_string(kind.value_type) else "float_seq"
        return "float" if self._is_number(kind) and name not in ids else "token"

    def _is_number(self, kind: Any) -> bool:
        types = self._arrow.types
        tests = (types.is_integer, types.is_floating, types.is_decimal, types.is_timestamp, types.is_date)
        return any(each(kind) for each in tests)

    def read(self, wanted: list[str], time: str | None) -> pd.DataFrame:
        """Read columns as :func:`recbole_vae.data.atomic.read_columns` does.

        Times of types of time become nanoseconds since 1970, as dates in text do. The column of times is int64 if float64
        does not hold it exactly.

        Args:
            wanted: the columns, of type ``token`` or ``float``.
            time: the column of times, if it is to be exact.

        Raises:
            DataError: a column is of another type, or damaged, or does not hold what its name says.
        """
        for name in wanted:
            if self.columns[name] not in (FeatureType.TOKEN, FeatureType.FLOAT):
                raise DataError(
                    f"{self.path}: column '{self._fields[name].name}' holds lists, which are read from .inter files only; leave "
                    "it out by load_col."
                )
        found: dict[str, Any] = {}
        for name in wanted:  # one after the other, for the memory
            field, token = self._fields[name], self.columns[name] is FeatureType.TOKEN
            try:
                column = self._read(field, token)
                found[name] = self._tokens(field, column) if token else self._numbers(field, column, name == time)
            except (self._arrow.ArrowException, OSError) as error:
                raise self._unreadable(error, f", column '{field.name}'") from None
        return pd.DataFrame(found, copy=False)

    def _read(self, field: Any, token: bool) -> Any:
        from pyarrow import parquet

        strings = [field.name] if token else None
        return parquet.ParquetFile(self.path, read_dictionary=strings).read([field.name]).column(0)

    def _tokens(self, field: Any, column: Any) -> pd.Categorical:
        arrow, kind = self._arrow, column.type
        if arrow.types.is_dictionary(kind):
            kind = kind.value_type
        elif not (arrow.types.is_list(kind) or arrow.types.is_struct(kind)):
            column = column.dictionary_encode()
        text = any(each(kind) for each in (arrow.types.is_string, arrow.types.is_large_string, arrow.types.is_binary))
        if not (text or arrow.types.is_integer(kind) or arrow.types.is_boolean(kind)):
            raise DataError(
                f"{self.path}: column '{field.name}' holds {kind}, and ids are strings or whole numbers; convert it"
                f"{', or name it without :token' if field.name.endswith(':token') else ''}."
            )
        return coded(column.cast(arrow.dictionary(arrow.int32(), arrow.string())))

    def _numbers(self, field: Any, column: Any, exact: bool) -> NDArray[Any]:
        arrow = self._arrow
        kind = column.type
        if arrow.types.is_dictionary(kind):
            column = column.cast(kind.value_type)
            kind = kind.value_type
        if arrow.types.is_timestamp(kind) or arrow.types.is_date(kind):
            column = column.cast(arrow.timestamp("ns", getattr(kind, "tz", None))).cast(arrow.int64())
        elif not (self._is_number(kind) or arrow.types.is_boolean(kind) or arrow.types.is_string(kind)):
            raise DataError(f"{self.path}: column '{field.name}' holds {kind}, where numbers must be.")
        if exact and arrow.types.is_integer(column.type) and not column.null_count:
            values = column.cast(arrow.int64()).to_numpy()
            if len(values) and (values.max() >= _LARGEST or values.min() <= -_LARGEST):
                return np.array(values)
        numbers = column.cast(arrow.float64(), safe=False) if not arrow.types.is_boolean(column.type) else (
            column.cast(arrow.int8()).cast(arrow.float64())
        )  # fmt: skip
        return np.array(numbers.to_numpy(), dtype=np.float64)

    def _unreadable(self, error: Exception, where: str = "") -> DataError:
        reason = " ".join(str(error).split()).rstrip(". ")
        return DataError(f"{self.path}{where}: cannot read this Parquet file ({reason[:200]}).")
