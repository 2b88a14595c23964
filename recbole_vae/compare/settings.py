"""Which options of RecBole and of the models a plan may set, and to what."""

from __future__ import annotations

import ast
from collections.abc import Collection, Mapping
from typing import Any, NoReturn

from recbole_vae.compare.plan_file import plain
from recbole_vae.errors import ConfigError
from recbole_vae.model.known_options import all_are_known, options_of, options_of_all
from recbole_vae.model.registry import is_history_model, model_class
from recbole_vae.options.names import Where, near, refuse, synonym
from recbole_vae.options.recbole import options_in, recbole_defaults

# The key of a plan to use instead; None if there is none.
_SET_BY_COMPARE = {
    "model": "rows", "seed": "seeds", "checkpoint_dir": None, "show_progress": None, "fast_evaluation": None, "resume": None,
    "config_files": None, "nproc": "jobs", "metric_decimal_place": None, "metrics": "the plan's metrics",
    "topk": "the plan's topk",
}  # fmt: skip


def of_the_data() -> set[str]:
    """Return the options that determine data set, split and candidates, which must be the same for all rows."""
    return options_in("dataset/*") | {
        "data_path", "encoding", "eval_args", "exact_ids", "exact_metrics", "exact_time", "repeatable", "repeats",
    }  # fmt: skip


def check_option(name: Any, place: str, model: str) -> None:
    """Refuse what is not for a plan to set, or has no effect on a model; ConfigErrors name the option and its place."""
    _check_that_it_is_free(name, place)
    known, kind = options_of(model), model_class(model)
    meant = near(str(name), known)
    if name not in known and (meant or kind is None or all_are_known(kind)):
        _refuse(name, place, model, meant)


def _check_that_it_is_free(name: Any, place: str) -> None:
    if name in _SET_BY_COMPARE:
        instead = _SET_BY_COMPARE[name]
        raise ConfigError(
            f"{name} ({place}): compare sets this option{f'; use {instead}.' if instead else ', the same for all rows.'}"
        )


def _refuse(name: Any, place: str, model: str, meant: str | None) -> NoReturn:
    raise ConfigError(
        f"{name} ({place}): neither compare nor RecBole nor {model} has this option"
        f"{f'; did you mean {meant}?' if meant else '.'}"
    )


def _check_shared(given: Collection[str], models: Collection[str], where: Where, others: Collection[str]) -> None:
    """Refuse settings of all rows that have no effect on any; a plan's file may have some for rows that are left out."""
    known = set().union(*map(options_of, models))
    for name in given:
        place = where(name)
        _check_that_it_is_free(name, place)
        if name in known:
            continue
        if name not in options_of_all() or place == "command line":
            _refuse(name, place, "a model", near(name, known | set(others)))
        meant = synonym(name, known)
        if meant and meant not in given:
            _refuse(name, place, "a model", meant)


def read_settings(
    given: Any, owner: str, where: Where, models: Collection[str], keys: Collection[str] | None = None
) -> dict[str, Any]:
    """Return options as plain values, their names and kinds checked.

    Args:
        given: options by name, or None.
        owner: the key under which they stand.
        where: tells where the value of an option was set.
        models: names of the models that they are for.
        keys: for settings of all rows: the keys of a plan, which a misspelt name may have been meant to be.

    Raises:
        ConfigError: ``given`` is no mapping, or an option has no effect, is not for a plan, or of another kind.
    """
    if not isinstance(given or {}, dict):
        refuse(owner, given, where, "a mapping of options, lines 'option: value'")
    # None as a word is none, as in RecBole.
    settings = {str(name): None if value == "None" else value for name, value in (given or {}).items()}
    if keys is not None:
        _check_shared(settings, models, where, keys)
    for name, value in settings.items():
        for model in models if keys is None else ():
            check_option(name, where(name), model)
        _check_kind(name, value, where)
    return {name: plain(value) for name, value in settings.items()}


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


def check_space(space: Any, owner: str, model: str, setters: Mapping[str, Collection[str]], where: Where) -> None:
    """Refuse a search space that cannot be searched; see :mod:`recbole_vae.compare.tuning` for its form.

    Args:
        space: what the plan has.
        owner: the key under which it stands.
        model: the model whose options it has.
        setters: names of the options that are set already, by who sets them.
        where: tells where the value of an option was set.

    Raises:
        ConfigError: an option is unknown, must not be tuned, or is set already; or the space has another form.
    """
    typed = where("spaces") == "command line"

    def at(name: Any) -> str:
        place = "command line" if typed else where(str(name))
        return place and f" ({place})"

    if not isinstance(space, Mapping):
        example = "{learning_rate: {from: 0.0001, to: 0.01, log: True}}"
        key = owner.partition(": ")[2] if owner.startswith("spaces: ") else "space"
        raise ConfigError(f"{owner}{at(key)}: a space must be a mapping, such as {example}.")
    shared = of_the_data()
    for name, each in space.items():
        check_option(name, f"{owner}{at(name).replace(' (', ', ').rstrip(')')}", model)
        if name in shared:
            raise ConfigError(f"{owner}: {name}{at(name)} cannot be tuned: it must be the same for all rows.")
        for setter, options in setters.items():
            if name in options:
                raise ConfigError(
                    f"{owner}: {name}{at(name)} cannot be tuned, because {setter} sets it; remove it from one of the two."
                )
        if isinstance(each, list) and each:
            continue
        ends: list[Any] = [each.get("from"), each.get("to")] if isinstance(each, Mapping) else []
        numbers = all(isinstance(end, int | float) and not isinstance(end, bool) for end in ends)
        refused = f"{owner}: {name}: {each!r}{at(name)} is not allowed"
        if not ends or not numbers or set(each) - {"from", "to", "log"} or not ends[0] <= ends[1]:
            raise ConfigError(f"{refused}; it must be a list of values, or {{from: A, to: B, log: True}}.")
        if each.get("log") and ends[0] <= 0:
            raise ConfigError(f"{refused}; 'from' must be > 0 where log is True.")


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
