"""Rankings as a Parquet file."""

from __future__ import annotations

from collections.abc import Iterable
from typing import IO, Any

from recbole_vae.errors import ConfigError
from recbole_vae.serving.ranking import Ranking

_ROWS = 1 << 18
"""Rows of a row group: what is held in memory."""


def pyarrow() -> Any:
    """Return the library.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ConfigError(
            "to read or write Parquet, pip install 'recbole_vae[parquet]' first, or name a .csv file."
        ) from None
    return pyarrow


def write_parquet(rankings: Iterable[tuple[str, Ranking]], file: IO[bytes], *, sampled: bool = False) -> int:
    """Write rankings as Parquet, with the columns of :func:`~recbole_vae.serving.ranking.write_rankings`.

    Ids are strings, ranks int32, all else float32; what is an empty cell in CSV is null.

    Args:
        rankings: pairs of a user's id and ranking.
        file: where to write.
        sampled: whether to add ``rank_low,rank_high,stability,expected_ndcg``.

    Returns:
        The number of users.
    """
    arrow = pyarrow()
    kinds = {"user_id": arrow.string(), "rank": arrow.int32(), "item_id": arrow.string(), "score": arrow.float32()}
    if sampled:
        kinds |= {"rank_low": arrow.int32(), "rank_high": arrow.int32()}
        kinds |= {"stability": arrow.float32(), "expected_ndcg": arrow.float32()}
    schema = arrow.schema(kinds)
    rows: list[tuple[Any, ...]] = []
    users = 0
    with arrow.parquet.ParquetWriter(file, schema) as writer:

        def flush() -> None:
            columns = zip(*rows, strict=True) if rows else [()] * len(kinds)
            arrays = [arrow.array(column, kind) for column, kind in zip(columns, kinds.values(), strict=True)]
            writer.write_table(arrow.Table.from_arrays(arrays, schema=schema))
            rows.clear()

        for users, (user, ranking) in enumerate(rankings, start=1):  # noqa: B007 - the result
            more: tuple[Any, ...] = ()
            for rank, (item, score) in enumerate(ranking, start=1):
                if sampled:
                    interval = ranking.intervals[rank - 1] if ranking.intervals else (None, None)
                    more = (*interval, ranking.stability, ranking.expected_ndcg)
                rows.append((user, rank, item, score, *more))
            if len(rows) >= _ROWS:
                flush()
        if rows:
            flush()
    return users
