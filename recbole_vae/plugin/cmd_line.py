"""``recbole.config.Config`` reads ``sys.argv``, which may be that of Jupyter, PyCharm, pytest or a script.

What RecBole does there with its own models holds for all: arguments that are options count, the others are left alone.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Collection
from pathlib import Path
from types import ModuleType
from typing import Any

from recbole_vae.model.registry import is_history_model, model_class, model_names
from recbole_vae.options import command_line
from recbole_vae.options.data import is_interval
from recbole_vae.options.names import near
from recbole_vae.options.recbole import RUN_OPTIONS, options_in
from recbole_vae.plugin.import_hooks import replace

_OF_PROCESSES = ("local_rank", "world_size", "ip", "port", "nproc", "offset")
"""Options by which RecBole's ``run`` tells its child processes of each other; the call comes above the command line."""


def hook(configurator: ModuleType) -> None:
    """Change ``recbole.config.configurator``."""
    replace(configurator.Config, "_load_cmd_line", _load_cmd_line)
    replace(configurator.Config, "_convert_config_dict", _convert_config_dict)


def _load_cmd_line(original: Any) -> Any:
    def load_cmd_line(self: Any) -> Any:
        self.left_alone = set()
        if command_line.is_ours():
            return original(self)
        argv = sys.argv
        sys.argv = [*argv[:1], *_without_repeated(argv[1:])]
        try:
            found = original(self)
        finally:
            sys.argv = argv
        # PyCharm's console has a --port of its own.
        self.left_alone = set(_OF_PROCESSES) & set(found) & set(self.variable_config_dict)
        return {name: value for name, value in found.items() if name not in self.left_alone}

    return load_cmd_line


def _without_repeated(words: list[str]) -> list[str]:
    """Leave out what is given several times and no option, such as pytest's ``--ignore``; RecBole refuses repetitions."""
    flags = [word.partition("=")[0] for word in dict.fromkeys(words)]
    repeated = {flag for flag in flags if flag.startswith("--") and flags.count(flag) > 1}
    if not repeated:
        return words
    known = RUN_OPTIONS | options_in("*", "*/*")
    for kind in map(model_class, model_names()):
        known |= set(kind.config_class.names() if is_history_model(kind) else getattr(kind, "defaults", ()))
    return [word for word in words if word.partition("=")[0] not in repeated or word[2:].partition("=")[0] in known]


def _convert_config_dict(original: Any) -> Any:
    """Take a value as text where its evaluation fails, whatever the error: RecBole knows only some kinds of errors.

    A mapping or a list may be YAML, too: RecBole evaluates it as Python, in which each word needs quotation marks.
    """

    def convert_config_dict(self: Any, config_dict: dict[str, Any]) -> dict[str, Any]:
        for name in config_dict:
            with contextlib.suppress(Exception):
                config_dict.update(original(self, {name: config_dict[name]}))
            config_dict[name] = _of_yaml(config_dict[name], self.yaml_loader)
        return config_dict

    return convert_config_dict


def _of_yaml(value: Any, loader: Any) -> Any:
    """Return the mapping or list that a text holds in YAML; other values, and intervals such as ``[4,inf]``, as they are."""
    import yaml

    if not isinstance(value, str) or value[:1] not in ("{", "[") or is_interval(value):
        return value
    try:
        return yaml.load(value, Loader=loader)
    except yaml.YAMLError:
        return value


def arguments_of_the_program(config: Any, known: Collection[str]) -> set[str]:
    """Return which arguments are no options; none may be where the command line is that of ``recbole-vae``.

    Args:
        config: RecBole's Config.
        known: the names of all options that the model, the data set and RecBole have.
    """
    left = set() if command_line.is_ours() else set(config.cmd_config_dict) - set(known)
    config.left_alone |= left
    config.hints = {name: meant for name in left if (meant := near(name, known))}
    return left


def report(config: Any) -> str:
    """Return a line for the log: which arguments of the program count as options, and which do not; empty without any."""
    overruled = {
        name for name in ("model", "dataset") if config.cmd_config_dict.get(name, config[name]) != config[name]
    }
    hints, left = getattr(config, "hints", {}), sorted(overruled | getattr(config, "left_alone", set()))
    read = [f"{name}={value}" for name, value in config.cmd_config_dict.items() if name not in left]
    if command_line.is_ours() or config["loaded_from"] or not (read or left):
        return ""
    ignored = [f"{name} (did you mean {hints[name]}?)" if name in hints else name for name in left]
    parts = [f"read as options: {', '.join(read) or 'none'}", f"ignored: {', '.join(ignored) or 'none'}"]
    return f"Arguments of {Path(sys.argv[0]).name} {'; '.join(parts)}."
