"""Names of options: which one a misspelt name was meant to be, and where a value was set."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from recbole_vae.errors import ConfigError

if TYPE_CHECKING:
    from recbole.config import Config

Where = Callable[[str], str]
"""Tells where the value of an option was set, such as ``plan.yaml, line 3``; nothing where that is not known."""


def near(name: str, names: Iterable[str], alike: float = 0.75) -> str | None:
    """Return the name that a misspelt one was probably meant to be, or None; ``alike`` is the least share of equal letters."""
    by_lower = {each.lower(): each for each in names}
    found = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=alike)
    if not found:
        # `dropout` for `dropout_prob`, `hidden_size` for `mlp_hidden_size`
        found = [each for each in sorted(by_lower, key=len) if len(name) >= 5 and name.lower() in each][:1]
    return by_lower[found[0]] if found else None


def check_names(given: Iterable[str], known: Collection[str], model_name: str, where: Where) -> list[str]:
    """Look for unknown options: RecBole ignores them, so that a misspelt one silently keeps its default.

    Returns:
        Unknown options in a file or in the call that resemble no known one; they may be meant for something else.

    Raises:
        ConfigError: an unknown option resembles a known one, or stands on the command line.
    """
    ignored = []
    for name in sorted(set(given) - set(known)):
        meant, place = near(name, known), where(name)
        if meant is None and place != "command line":
            ignored.append(name)
            continue
        raise ConfigError(
            f"{name}{place and f' ({place})'}: neither {model_name} nor RecBole has this option."
            f"{f' Did you mean {meant}?' if meant else f' See properties/model/{model_name}.yaml for those that there are.'}"
        )
    return ignored


def refuse(key: str, value: Any, where: Where, allowed: str, part: str = "") -> NoReturn:
    """Raise a ConfigError for a value of an option, or of a part of it, such as ``split: RS``."""
    place = where(key)
    raise ConfigError(
        f"{key}: {part and f'{part}: '}{value!r}{place and f' ({place})'} is not allowed; it must be {allowed}."
    )


def place_of(config: Config, config_files: Iterable[str]) -> Where:
    """Return a function that tells where an option was set: a file and line, the command line, or the call."""

    def where(key: str) -> str:
        if key in config.cmd_config_dict:
            return "command line"
        if key in config.variable_config_dict:
            return "config_dict"
        if key in config.file_config_dict:
            for file in reversed(list(config_files)):
                lines = Path(file).read_text(encoding="utf-8").splitlines()
                for number, line in reversed(list(enumerate(lines, start=1))):
                    if re.match(rf"""\s*["']?{re.escape(key)}["']?\s*:""", line):
                        return f"{file}, line {number}"
        return ""

    return where
