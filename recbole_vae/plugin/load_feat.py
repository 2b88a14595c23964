"""``recbole.data.dataset.Dataset._load_feat``: atomic files as they are written, and errors that name file and line.

RecBole takes quotation marks off cells, as in CSV, also between tabs: ids lose theirs, and a cell that begins with a mark
swallows all lines up to one that ends with a mark. ``exact_ids: False`` brings this back.
"""

from __future__ import annotations

import csv
import re
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType
from typing import Any

from recbole_vae.errors import DataError
from recbole_vae.plugin.import_hooks import replace

_quoting = ContextVar("quoting", default=csv.QUOTE_MINIMAL)


def hook(dataset: ModuleType) -> None:
    """Change ``recbole.data.dataset.dataset``."""
    pandas = dataset.pd

    class Pandas(ModuleType):
        def __getattr__(self, name: str) -> Any:
            return getattr(pandas, name)

        @staticmethod
        def read_csv(*args: Any, **kwargs: Any) -> Any:
            separator = kwargs.get("delimiter", "")
            if len(separator) > 1:  # pandas would take it for a regular expression
                kwargs["delimiter"] = re.escape(separator)
            return pandas.read_csv(*args, **{"quoting": _quoting.get(), **kwargs})

    dataset.pd = Pandas("pandas")  # type: ignore[attr-defined]
    replace(dataset.Dataset, "_load_feat", _load_feat)


def _load_feat(original: Any) -> Any:
    def load_feat(self: Any, filepath: str, source: Any) -> Any:
        from recbole_vae.data import atomic, table
        from recbole_vae.data.parquet import ParquetTable
        from recbole_vae.data.times import is_exact
        from recbole_vae.options.evaluation import orders_by_time

        separator, encoding = self.config["field_separator"], self.config["encoding"] or "utf-8"
        load, unload = self._get_load_and_unload_col(source)
        if load == set():  # nothing of this file
            return None
        parquet = None
        if str(filepath).endswith(".parquet"):
            parquet = ParquetTable(filepath, {self.uid_field, self.iid_field})
        columns = atomic.read_header(filepath, separator, encoding) if parquet is None else parquet.columns
        unknown = sorted((load or set()) - columns.keys())
        if unknown == [self.time_field] and orders_by_time(self.config):
            raise DataError(
                f"{filepath}: there is no column '{self.time_field}', by which the split is ordered; there are: "
                f"{', '.join(columns)}. Set TIME_FIELD, or eval_args: {{order: RO}} and another split than TS."
            )
        if unknown == [self.label_field] and getattr(source, "value", "") == "inter":
            raise DataError(
                f"{filepath}: there is no column '{self.label_field}', and mode: labeled needs one of 0 and 1; there are: "
                f"{', '.join(columns)}. Name it in LABEL_FIELD, make one by threshold: {{rating: 4}}, or choose another mode, "
                "such as uni100."
            )
        if unknown:
            raise DataError(
                f"{filepath}: there is no column '{unknown[0]}', which load_col, USER_ID_FIELD, ITEM_ID_FIELD or another option "
                f"names; there are: {', '.join(columns)}."
            )
        wanted = [name for name in columns if (load is None or name in load) and name not in (unload or ())]
        for name in wanted:
            if name in (self.uid_field, self.iid_field) and columns[name].value != "token":
                raise DataError(f"{filepath}, line 1: '{name}:{columns[name].value}' holds ids; write '{name}:token'.")
        label = self.label_field
        if getattr(source, "value", "") == "inter" and label in columns.keys() - set(wanted):
            self.logger.warning(
                f"'{label}' of {Path(filepath).name} is not read, so lines of label 0 count as any other. If they say what users "
                f'did not like, leave them out by val_interval: {{{label}: "[1,1]"}}.'
            )
        exact = self.config["exact_ids"] is not False
        numbers_and_ids = all(columns[name].value in ("token", "float") for name in wanted)
        if parquet is not None or (getattr(source, "value", "") == "inter" and wanted and numbers_and_ids and exact):
            for name in wanted:
                self.field2source[name], self.field2type[name], self.field2seqlen[name] = source, columns[name], 1
                if columns[name].value == "float":
                    self.field2bucketnum[name] = 2
            if parquet is not None:
                return parquet.read(wanted, self.time_field if is_exact(self) else None)
            cached = self.config["data_cache"] is not False
            feat = table.read(filepath, columns, wanted, separator, encoding, cached)
        else:
            how = atomic.quoting(separator) if exact else csv.QUOTE_MINIMAL
            if exact:  # pandas would cut lines that are too long
                atomic.check_cells(filepath, columns, separator, encoding)
            token = _quoting.set(how)
            try:
                feat = original(self, filepath, source)
            finally:
                _quoting.reset(token)
            if feat is not None:
                atomic.refuse_header_again(filepath, feat, columns, encoding)
        if exact and atomic.quoting(separator) == csv.QUOTE_NONE and feat is not None and _has_marks(feat):
            self.logger.info(
                f"Kept quotation marks in {Path(filepath).name} as they are written (exact_ids: False drops them)."
            )
        return feat

    return load_feat


def _has_marks(feat: Any) -> bool:
    """Tell whether a cell begins with a quotation mark: these are the ones that RecBole changes."""
    from recbole_vae.data.tokens import is_coded

    texts = [feat[name].array.categories if is_coded(feat[name]) else feat[name] for name in feat]
    texts = [each for each in texts if each.dtype == object and len(each) and isinstance(each[0], str)]
    return any(each.str.startswith('"', na=False).any() for each in texts)
