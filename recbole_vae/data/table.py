"""The file of the interactions: which one it is, and a copy of what was read that is mapped into memory next time.

Parsing a hundred million lines takes minutes. What was read, before any filter, is therefore kept in ``NAME.inter.cache``
beside the file, for all options of filters, splits and models. It is used only for the very bytes that it was made from.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from recbole.utils import FeatureType

from recbole_vae.data import atomic
from recbole_vae.data.tokens import categories
from recbole_vae.errors import DataError
from recbole_vae.options import data as limits
from recbole_vae.storage.arrays import read_arrays, sha256, write_arrays

FORMAT = 1
"""Another number is made anew. To be raised whenever another way of reading gives other values."""


def cache_of(path: str | Path) -> Path:
    """Return where the cache of a file lies."""
    return Path(f"{path}.cache")


def read(
    path: str | Path, columns: dict[str, FeatureType], wanted: list[str], separator: str, encoding: str,
    cached: bool = True,
) -> pd.DataFrame:  # fmt: skip
    """Do what :func:`recbole_vae.data.atomic.read_columns` does, from the cache of a large file if it fits.

    Otherwise the file is read, and the cache is written. If that fails, the log says so and nothing else happens.

    Args:
        path: the file.
        columns: all its columns.
        wanted: those to read.
        separator: between columns.
        encoding: of the file.
        cached: whether a cache may be read and written.

    Raises:
        DataError: see there.
    """
    if not cached or Path(path).stat().st_size < limits.SMALLEST_CACHED:
        return atomic.read_columns(path, columns, wanted, separator, encoding)
    log, place = getLogger(), cache_of(path)
    how = {"format": FORMAT, "separator": separator, "encoding": encoding, "columns": _plain(columns)}
    before = _state(path)
    with ThreadPoolExecutor(1) as other:  # the two are hashed at the same time
        hashed = other.submit(_sha256, path)
        found, problem = _kept(place)
        how["sha256"] = hashed.result()
    also = []
    if found is not None:
        about, arrays = found
        if about["made_from"] == how:
            if set(wanted) <= set(about["names"]):
                log.info(f"Read {Path(path).name} from {place} (data_cache: False reads the file).")
                return pd.DataFrame({name: arrays[name] for name in wanted}, copy=False)
            also = [name for name in about["names"] if name not in wanted]
            problem = f"it lacks {', '.join(sorted(set(wanted) - set(about['names'])))}"
        else:
            problem = f"{Path(path).name} or how it is read has changed since"
    if problem:
        log.warning(f"Not used: {place}: {problem}. It is made anew.")
    log.info(f"Reading {path} ({_size(path)}) ...")
    more = [name for name in columns if name in {*wanted, *also}]
    data = atomic.read_columns(path, columns, more, separator, encoding)
    if _state(path) == before:  # otherwise the hash may be of other bytes than were read
        _keep(place, how, data)
    return data[wanted]


def keep(path: Path) -> None:
    """Write the cache of a file in RecBole's usual form, for the first run.

    Raises:
        DataError: see :func:`read`.
    """
    columns = atomic.read_header(path, "\t", "utf-8")
    wanted = [name for name, kind in columns.items() if kind in (FeatureType.TOKEN, FeatureType.FLOAT)]
    read(path, columns, wanted, "\t", "utf-8")


def _plain(columns: dict[str, FeatureType]) -> dict[str, str]:
    return {name: kind.value for name, kind in columns.items()}


def _state(path: str | Path) -> tuple[int, ...]:
    found = Path(path).stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _size(path: str | Path) -> str:
    size = Path(path).stat().st_size
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def _sha256(path: str | Path) -> str:
    try:
        with Path(path).open("rb") as file:
            return sha256(file).hex()
    except OSError as error:
        raise DataError(f"{path}: cannot read this file: {error.strerror}.") from None


def _kept(place: Path) -> tuple[tuple[dict[str, Any], dict[str, Any]] | None, str]:
    """Return what a cache was made from and its columns, or None and why not; "" if there is none."""
    if place.is_dir():
        return None, ""  # which is said where it is to be written
    try:
        about, arrays = read_arrays(place)
        if about.get("made_from", {}).get("format") != FORMAT:
            return (about, {}), ""
        rest = iter(arrays)
        columns: dict[str, Any] = {}
        for name, kind in about["names"].items():
            columns[name] = _unpacked(next(rest), next(rest), next(rest)) if kind == "token" else next(rest)
    except FileNotFoundError:
        return None, ""
    except DataError:
        return None, "it is damaged"
    return (about, columns), ""


def _unpacked(codes: NDArray[Any], ends: NDArray[np.int64], text: NDArray[np.uint8]) -> pd.Categorical:
    raw, bounds = text.tobytes(), [0, *ends.tolist()]
    return categories(codes, [raw[start:stop].decode() for start, stop in pairwise(bounds)])


def _keep(place: Path, how: dict[str, Any], data: pd.DataFrame) -> None:
    arrays: list[NDArray[Any]] = []
    for name in data:
        column = data[name].array
        if how["columns"][name] != "token":
            arrays.append(data[name].to_numpy())
            continue
        tokens = [token.encode() for token in column.categories]
        ends = np.cumsum([len(token) for token in tokens], dtype=np.int64)
        arrays += [column.codes, ends, np.frombuffer(b"".join(tokens), dtype=np.uint8)]
    names = {str(name): how["columns"][name] for name in data}
    try:
        write_arrays(place, {"made_from": how, "names": names}, arrays)
    except DataError as error:
        getLogger().warning(f"{error} The file will be read again next time (data_cache: False tries no cache).")
        return
    getLogger().info(f"Wrote {place} ({_size(place)}), from which the next run reads it.")
