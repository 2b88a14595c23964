"""Which columns and interactions are loaded: checks of ``load_col`` and of the filters."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from recbole_vae.errors import ConfigError
from recbole_vae.options.names import Where, refuse

if TYPE_CHECKING:
    pass

_INTERVAL = r"\s*[\[(]\s*[^,;]+,\s*[^,;]+[\])]\s*"


def check_data_options(values: Mapping[str, Any], where: Where) -> None:
    """Raise a ConfigError unless ``load_col`` and the filters have a form that RecBole understands; it ignores others."""
    load = values.get("load_col")
    if load is not None and not (
        isinstance(load, dict)
        and set(load) <= {"inter", "user", "item", "net", "link", "kg", *(values.get("additional_feat_suffix") or ())}
        and all(
            columns == "*" or (isinstance(columns, list | tuple) and all(isinstance(each, str) for each in columns))
            for columns in load.values()
        )
    ):
        refuse(
            "load_col",
            "",
            load,
            where,
            "the columns of each file, such as {inter: [user_id, item_id, rating]}, or ~ for all",
        )
    intervals = {name: values.get(name) for name in ("user_inter_num_interval", "item_inter_num_interval")}
    for name, interval in intervals.items():
        if interval is not None and not _is_interval(interval):
            refuse(name, "", interval, where, 'an interval such as "[5,inf)"')
    by_value = values.get("val_interval")
    if by_value is not None and not isinstance(by_value, dict):
        refuse("val_interval", "", by_value, where, 'a mapping such as {rating: "[3,inf)"}')
    for name, interval in (by_value or {}).items():
        if isinstance(interval, str) and not _is_interval(interval):
            refuse("val_interval", f"{name}: ", interval, where, 'an interval such as "[3,inf)", or a list of tokens')
    if values.get("benchmark_filename") is not None:
        given = [name for name in ("val_interval", *intervals) if where(name) and values.get(name)]
        if given:
            place = where(given[0])
            raise ConfigError(
                f"{given[0]} ({place}): RecBole filters nothing where benchmark_filename is given; filter the files."
            )


def _is_interval(text: Any) -> bool:
    if not re.fullmatch(f"{_INTERVAL}(;{_INTERVAL})*", str(text)):
        return False
    try:
        ends = [tuple(map(float, each.strip()[1:-1].split(","))) for each in str(text).split(";")]
    except ValueError:
        return False
    return all(low <= high for low, high in ends)
