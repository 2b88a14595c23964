"""Which columns and interactions are loaded: checks of ``load_col`` and of the filters."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole_vae.errors import ConfigError
from recbole_vae.options.evaluation import modes_of
from recbole_vae.options.names import Where, refuse

SMALLEST_CACHED = 2**26
"""Smaller ``.inter`` files, in bytes, are read in a second or two, and leave no cache (``data_cache``)."""
_INTERVAL = r"\s*[\[(]\s*[^,;]+,\s*[^,;]+[\])]\s*"


def check_data_options(values: Mapping[str, Any], where: Where) -> None:
    """Raise a ConfigError unless RecBole understands ``load_col`` and the filters; it ignores those that it does not."""
    load = values.get("load_col")
    more = values.get("additional_feat_suffix")
    more = [each for each in (more if isinstance(more, list | tuple) else [more]) if isinstance(each, str)]
    files = {"inter", "user", "item", "net", "link", "kg", *more}
    if load is not None and not (
        isinstance(load, dict) and set(load) <= files and all(map(_are_columns, load.values()))
    ):
        refuse(
            "load_col",
            load,
            where,
            "the columns of each file, such as {inter: [user_id, item_id, rating]}, or ~ for all",
        )
    intervals = {name: values.get(name) for name in ("user_inter_num_interval", "item_inter_num_interval")}
    for name, interval in intervals.items():
        if interval is not None and not is_interval(interval):
            refuse(name, interval, where, 'an interval such as "[5,inf)"')
    check_filters(values, where)
    if values.get("benchmark_filename") is not None:
        given = [name for name in ("val_interval", *intervals) if where(name) and values.get(name)]
        if given:
            raise ConfigError(
                f"{given[0]} ({where(given[0])}): RecBole filters nothing where benchmark_filename is given; "
                "filter the files."
            )


def check_unload_col(values: Mapping[str, Any], where: Where) -> None:
    """Raise a ConfigError unless ``unload_col`` names columns, and of files whose columns ``load_col`` does not name."""
    unload, load = values.get("unload_col"), values.get("load_col")
    if not isinstance(unload, dict) or not all(isinstance(each, list | tuple) for each in unload.values()):
        refuse("unload_col", unload, where, "columns of each file, such as {inter: [rating]}")
    for file in unload:
        if isinstance(load, dict) and load.get(file) != "*":
            raise ConfigError(
                f"unload_col: {file}{(place := where('unload_col')) and f' ({place})'}: load_col already says which columns are "
                "loaded; give one of the two."
            )


def check_filters(values: Mapping[str, Any], where: Where) -> None:
    """Raise a ConfigError for a ``val_interval`` of a form that RecBole would ignore, or a ``threshold``."""
    by_value = values.get("val_interval")
    if by_value is not None and not isinstance(by_value, dict):
        refuse("val_interval", by_value, where, 'a mapping such as {rating: "[3,inf)"}')
    for name, interval in (by_value or {}).items():
        tokens = isinstance(interval, list | tuple) and all(isinstance(each, str) for each in interval)
        if not tokens and not is_interval(interval):
            least = _number_in(interval)
            example = f'"[{3 if least is None else least},inf)"'
            refuse(
                "val_interval", interval, where, f'an interval such as {example}, or a list of tokens ["a", "b"]', name
            )
    threshold = values.get("threshold")
    if isinstance(threshold, dict) and len(threshold) == 1 and "labeled" in modes_of(values).values():
        return  # the labels are evaluated, and what has label 0 is not trained on
    if threshold is not None:
        name, least = next(iter(threshold.items()), ("", 0)) if isinstance(threshold, dict) else ("rating", threshold)
        place = where("threshold")
        raise ConfigError(
            f"threshold: {threshold!r}{place and f' ({place})'} only makes labels, and this model would train on what is below, "
            f'too. To leave that out, set val_interval: {{{name}: "[{least},inf)"}}.'
        )


def _number_in(value: Any) -> Any:
    """Return the number that somebody gave instead of an interval, if any."""
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def check_dataset_name(name: str, data_path: str) -> None:
    """Raise a ConfigError if a data set is named by a path: RecBole finds its folder in ``data_path``.

    Args:
        name: the option ``dataset``.
        data_path: the option of that name.
    """
    if not re.search(r"[/\\]", name):
        return
    path = Path(name)
    if path.is_file():
        way = f"make a data set of this file by: recbole-vae prepare NAME {name} --user=COLUMN --item=COLUMN"
        if path.suffix == ".inter":
            way = f"pass --dataset={path.stem.partition('.')[0]} --data_path={path.parent.parent}"
    else:
        folder = path.parent if path.is_dir() else Path(data_path) / path.parent
        where = "" if folder == Path("dataset") else f" --data_path={folder}"
        way = f"pass --dataset={path.name}{where}, for the file {folder / path.name / path.name}.inter"
    raise ConfigError(f"dataset: '{name}' is a path, and a data set is named without its folder; {way}.")


def _are_columns(columns: Any) -> bool:
    return columns == "*" or (isinstance(columns, list | tuple) and all(isinstance(each, str) for each in columns))


def is_interval(text: Any) -> bool:
    """Tell whether a text is an interval, or several with ``;`` between them, whose ends are numbers in order."""
    if not re.fullmatch(f"{_INTERVAL}(;{_INTERVAL})*", str(text)):
        return False
    try:
        ends = [tuple(map(float, each.strip()[1:-1].split(","))) for each in str(text).split(";")]
    except ValueError:
        return False
    return all(low <= high for low, high in ends)
