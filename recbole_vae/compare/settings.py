"""Which options of RecBole and of the models a plan may set, and to what."""

from __future__ import annotations

import ast
from collections.abc import Collection, Mapping
from typing import Any

from recbole_vae.compare.plan_file import plain
from recbole_vae.errors import ConfigError
from recbole_vae.model.registry import is_history_model, model_class, model_names
from recbole_vae.options.names import Where, near, refuse
from recbole_vae.options.recbole import RUN_OPTIONS, options_in, recbole_defaults

# The key of a plan to use instead; None if there is none.
_SET_BY_COMPARE = {
    "model": "rows", "seed": "seeds", "checkpoint_dir": None, "show_progress": None, "fast_evaluation": None, "resume": None,
    "config_files": None, "nproc": "jobs", "metric_decimal_place": None, "metrics": "the plan's metrics",
    "topk": "the plan's topk",
}  # fmt: skip


def of_the_data() -> set[str]:
    """Return the options that determine data set, split and candidates, which must be the same for all rows."""
    return options_in("dataset/*") | {"data_path", "eval_args", "repeatable", "exact_time", "repeats", "exact_metrics"}


def known_options() -> set[str]:
    """Return the names of all options of RecBole and of the registered models."""
    known = options_in("*", "model/*", "dataset/*", "quick_start_config/*") | RUN_OPTIONS
    for name in model_names():
        found = model_class(name)
        known |= set(getattr(found, "defaults", {}))
        if is_history_model(found):
            known |= set(found.config_class.names())
    return known | {"shrink"}  # an option of ItemKNN that older versions of RecBole do not list


def check_option(name: Any, place: str, others: Collection[str] = ()) -> None:
    """Refuse an unknown option, or one that a plan must not set.

    Args:
        name: of the option.
        place: where it stands, for the message.
        others: further names that a misspelt one may stand for.

    Raises:
        ConfigError: the option is refused.
    """
    if name in _SET_BY_COMPARE:
        instead = _SET_BY_COMPARE[name]
        raise ConfigError(
            f"{name} ({place}): compare sets this option{f'; use {instead}.' if instead else ', the same for all rows.'}"
        )
    known = known_options()
    if name not in known:
        meant = near(str(name), known | set(others))
        raise ConfigError(
            f"{name} ({place}): neither compare nor RecBole nor a model has this option"
            f"{f'; did you mean {meant}?' if meant else '.'}"
        )


def read_settings(given: Any, owner: str, where: Where, others: Collection[str]) -> dict[str, Any]:
    """Return options as plain values, their names and kinds checked.

    Args:
        given: options by name, or None.
        owner: the key under which they stand.
        where: tells where the value of an option was set.
        others: see :func:`check_option`.

    Raises:
        ConfigError: ``given`` is not a mapping, or an option is unknown, not for a plan, or of another kind.
    """
    if not isinstance(given or {}, dict):
        refuse(owner, given, where, "a mapping of options, lines 'option: value'")
    for name, value in (given or {}).items():
        check_option(name, where(str(name)), others)
        _check_kind(name, value, where)
    settings: dict[str, Any] = plain(dict(given or {}))
    return settings


def _check_kind(name: str, value: Any, where: Where) -> None:
    """Refuse a word where RecBole has a number: each run would fail by it, and late."""
    default = recbole_defaults().get(name)
    if value is None or (isinstance(default, bool) and isinstance(value, bool)):
        return
    whole = isinstance(value, int) and not isinstance(value, bool)
    if isinstance(default, bool):
        refuse(name, value, where, "True or False")
    if isinstance(default, int) and not whole:
        refuse(name, value, where, "an integer")
    if isinstance(default, float) and not whole and not isinstance(value, float):
        refuse(name, value, where, "a number")


def check_values(model: str, settings: Mapping[str, Any], where: Where) -> None:
    """Refuse each value that a model of recbole_vae would refuse, before the first run starts."""
    found = model_class(model)
    if is_history_model(found):
        found.config_class.check_each({name: _as_recbole_reads(value) for name, value in settings.items()}, where)


def _as_recbole_reads(value: Any) -> Any:
    """Return the value that RecBole reads in a string: a literal of Python, or true or false in any case."""
    if not isinstance(value, str):
        return value
    try:
        return ast.literal_eval(value)
    except (SyntaxError, TypeError, ValueError):
        return {"true": True, "false": False}.get(value.lower(), value)
