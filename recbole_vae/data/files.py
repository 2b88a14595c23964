"""Where the interactions of a data set lie."""

from __future__ import annotations

from pathlib import Path

from recbole_vae.errors import DataError


def inter_file(folder: Path, stem: str) -> Path:
    """Return the file of interactions: ``STEM.inter``, or ``STEM.inter.parquet``; the first if there is none.

    Raises:
        DataError: there are both.
    """
    text, parquet = folder / f"{stem}.inter", folder / f"{stem}.inter.parquet"
    if text.is_file() and parquet.is_file():
        raise DataError(f"{text}: there is {parquet.name}, too, and only one can count; remove or rename the other.")
    return parquet if parquet.is_file() else text
