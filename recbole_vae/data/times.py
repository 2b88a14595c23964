"""Times of interactions, read exactly.

RecBole keeps times in float32, whose grain is 128 s for Unix seconds. Here whole numbers stay whole, in any unit, and ISO dates
become nanoseconds since 1970. ``exact_time: False`` turns this off.
"""

from __future__ import annotations

import contextlib
import csv
from typing import Any

import numpy as np
import pandas as pd
from recbole.utils import FeatureType

from recbole_vae.data.atomic import quoting
from recbole_vae.errors import DataError
from recbole_vae.options.evaluation import orders_by_time

_LARGEST = 2.0**53
"""Whole numbers up to this are exact as float64."""


def is_exact(dataset: Any) -> bool:
    """Tell whether times are kept exactly: not as RecBole does, and not as a feature or a weight."""
    config, field = dataset.config, dataset.time_field
    feature = field in (config["numerical_features"] or ()) or field == config["value_field"]
    return config["exact_time"] is not False and not feature


def read_exactly(dataset: Any, feat: Any, path: str) -> None:
    """Make the times of interactions that were just read from a file exact, in place: int64, or float64 where that is exact.

    Raises:
        DataError: a time that an order needs is missing, or is neither a number nor a date.
    """
    field = dataset.time_field
    if feat is None or field not in feat or not is_exact(dataset) or feat[field].dtype == np.int64:
        return
    if dataset.field2type[field] is FeatureType.FLOAT:
        values = feat[field].to_numpy()
        if path.endswith(".parquet") or not (np.abs(values) >= _LARGEST).any():
            return
        text = _as_written(dataset.config, path, field)
    elif dataset.field2type[field] is FeatureType.TOKEN and orders_by_time(dataset.config):
        text = feat[field].astype(object)
    else:
        return
    check_times(dataset, feat)
    if text.isna().any():
        return
    times = _numbers(text)
    if times is None:
        times = _dates(text, field, path)
        if field in (dataset.config["val_interval"] or ()):
            raise DataError(f"val_interval: '{field}' of {path} holds dates, not numbers; filter the file.")
        dataset.logger.info(f"Read the dates in '{field}' as nanoseconds since 1970-01-01, UTC.")
    feat[field] = times
    dataset.field2type[field] = FeatureType.FLOAT
    dataset.field2bucketnum[field] = 2


def check_times(dataset: Any, feat: Any) -> None:
    """Raise a DataError if the split orders interactions by time and some have none, for which RecBole would take the mean."""
    field = dataset.time_field
    missing = int(feat[field].isna().sum()) if orders_by_time(dataset.config) else 0
    if missing:
        args = dataset.config["eval_args"]
        what = "order: TO" if args["order"] == "TO" else "split: TS"
        raise DataError(
            f"eval_args: {what}: '{field}' of data set '{dataset.dataset_name}' is missing in {missing} interactions; drop "
            "them, or use order: RO and another split than TS."
        )


def differ_in_float32(times: Any) -> bool:
    """Tell whether float32 would make some different times equal."""
    values = np.unique(times)
    return len(np.unique(values.astype(np.float32))) < len(values)


def time_split(times: Any, groups: Any, ratios: list[float]) -> list[np.ndarray[Any, Any]]:
    """Split by one point in time, as RecBole's ``time_based_split`` means to: its masks assume that each group is sorted.

    Args:
        times: of each interaction.
        groups: of each interaction, its user.
        ratios: of training, validation and test.

    Returns:
        Positions for training and validation, none after the boundary, and for the test, all after it. Groups come in
        the order in which they appear, each sorted by time.
    """
    train, _, test = (ratio / sum(ratios) for ratio in ratios)
    boundary = np.percentile(times, 100 * (1 - test), method="lower")
    codes, names = pd.factorize(groups)
    order = np.lexsort((times, codes))
    before = times[order] <= boundary
    known = order[before]
    lengths = np.bincount(codes[known], minlength=len(names))
    place = np.arange(len(known)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    trained = place < (lengths * (train / (1 - test))).astype(np.int64)[codes[known]]
    return [known[trained], known[~trained], order[~before]]


def _as_written(config: Any, path: str, field: str) -> Any:
    """Read the column of times as text."""
    separator = config["field_separator"]
    engine: Any = "c" if len(separator) == 1 else "python"

    def is_time(column: str) -> bool:
        return column.removeprefix("\ufeff").rpartition(":")[0] == field

    return pd.read_csv(
        path,
        sep=separator,
        usecols=is_time,
        dtype=str,
        encoding=config["encoding"],
        engine=engine,
        quoting=csv.QUOTE_MINIMAL if config["exact_ids"] is False else quoting(separator),
    ).iloc[:, 0]


def _numbers(text: Any) -> Any:
    """Return times that are numbers as int64 if all are whole, else as float64; None if some are not numbers."""
    text = text.astype(str).str.strip()
    if text.str.fullmatch(r"[+-]?\d+(\.0*)?").all():
        with contextlib.suppress(OverflowError):
            return np.array(list(map(int, text.str.partition(".")[0])), dtype=np.int64)
    numbers = pd.to_numeric(text, errors="coerce").astype(np.float64)
    return None if numbers.isna().any() else numbers


def _dates(text: Any, field: str, path: str) -> Any:
    """Return ISO dates as nanoseconds since 1970, int64; those without a zone count as UTC."""
    dates = pd.to_datetime(text, format="ISO8601", utc=True, errors="coerce")
    bad = ~dates.dt.year.between(1678, 2261)
    if bad.any():
        raise DataError(
            f"{path}: {str(text[bad].iloc[0])[:80]!r} in column '{field}' is not a time ({int(bad.sum())} of {len(text)} are "
            "not). Times are numbers, such as Unix seconds, or ISO dates such as 2024-05-31 or 2024-05-31T23:59:59, "
            "from 1678 to 2261."
        )
    return dates.to_numpy(dtype="datetime64[ns]").astype(np.int64)
