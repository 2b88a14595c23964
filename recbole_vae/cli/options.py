"""How commands declare and read their options: each option once, with its kind, default and help."""

from __future__ import annotations

import argparse
import ast
import csv
import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from recbole_vae.errors import ConfigError
from recbole_vae.options.limits import LARGEST
from recbole_vae.options.names import near

Options = argparse.Namespace
"""The options of a command.

``given`` maps each option on the command line to its words, ``free`` those of RecBole to values. ``started`` is the time at which
the command started, as of ``time.time``.
"""

Kind = Callable[[list[str]], Any]
"""Makes the value of an option from its words, or raises a :class:`NotAllowedError`."""


class NotAllowedError(Exception):
    """A word is not a value of the option. The arguments are the word and what is allowed."""


def text(words: list[str]) -> str:
    """Return the word as it is."""
    return words[0]


def whole(least: int = 1, most: float = math.inf) -> Kind:
    """Return the kind of integers from ``least`` to ``most``."""
    allowed = f"an integer >= {least}{'' if most == math.inf else f' and <= {most:g}'}"

    def read(words: list[str]) -> int:
        if not words[0].isdecimal() or not least <= int(words[0]) <= most:
            raise NotAllowedError(words[0], allowed)
        return int(words[0])

    return read


def number(least: float = -LARGEST, most: float = LARGEST) -> Kind:
    """Return the kind of numbers from ``least`` to ``most``."""
    return _number(f"a number >= {least:g} and <= {most:g}", lambda value: least <= value <= most)


def number_between(above: float, below: float = math.inf) -> Kind:
    """Return the kind of numbers strictly between two bounds."""
    upper = "" if below == math.inf else f" and < {below:g}"
    return _number(f"a number > {above:g}{upper}", lambda value: above < value < below)


def _number(allowed: str, fits: Callable[[float], bool]) -> Kind:

    def read(words: list[str]) -> float:
        try:
            value = float(words[0])
        except ValueError:
            value = math.nan
        if not fits(value):
            raise NotAllowedError(words[0], allowed)
        return value

    return read


def one_of(*choices: str) -> Kind:
    """Return the kind of words from a list."""

    def read(words: list[str]) -> str:
        if words[0] not in choices:
            raise NotAllowedError(words[0], " or ".join(choices))
        return words[0]

    return read


def true_or_false(words: list[str]) -> bool:
    """Read True or False."""
    return bool(one_of("True", "False")(words) == "True")


def names(words: list[str]) -> list[str]:
    """Read a list: ``A B``, ``A,B`` or ``[A, B]``. A name with a comma stands in quotation marks: ``"A,B"``."""
    given = " ".join(words)
    if words[0].startswith("[") and words[-1].endswith("]"):
        words = [*words[:-1], words[-1][:-1]]
        words[0] = words[0][1:]
    cells = [cell.strip() for word in words for cell in next(csv.reader([word], skipinitialspace=True), [])]
    found = [re.sub(r"^'(.*)'$", r"\1", cell) for cell in cells if cell]
    if not found:
        raise NotAllowedError(given, "a list such as A,B")
    return found


def unique_names(words: list[str]) -> list[str]:
    """Read a list of names, each once."""
    return list(dict.fromkeys(names(words)))


def many(kind: Kind, or_none: bool = False) -> Kind:
    """Return the kind of lists; ``[]`` is allowed if ``or_none``."""

    def read(words: list[str]) -> list[Any]:
        if "".join(words) == "[]":
            return [] if or_none else [kind(["[]"])]
        return [kind([word]) for word in names(words)]

    return read


def literal(words: list[str]) -> str:
    """Return the text from which RecBole reads a value: one word as it is, several as a list."""
    return words[0] if len(words) == 1 else _list(words)


def literal_list(words: list[str]) -> str:
    """Return the text from which RecBole reads a list, which may be written ``A,B``."""
    return words[0] if len(words) == 1 and words[0][:1] in "[(" else _list(words)


def _list(words: list[str]) -> str:
    return f"[{', '.join(map(_quoted, names(words)))}]"


def _quoted(word: str) -> str:
    try:
        ast.literal_eval(word)
    except (SyntaxError, ValueError):
        return repr(word)
    return word


class _Store(argparse.Action):
    """Keeps the value of an option. RecBole's options go into ``free``."""

    def __init__(self, *args: Any, kind: Kind, free: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.kind, self.free = kind, free

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: Options, values: Any, option_string: str | None = None
    ) -> None:
        words, name = [values] if isinstance(values, str) else values, self.dest
        if not all(words):
            _no_value(name)
        before = namespace.given.setdefault(name, words)
        if before != words:
            raise ConfigError(f"--{name} (command line) is given twice: {' '.join(before)} and {' '.join(words)}.")
        try:
            value = self.kind(words)
        except NotAllowedError as error:
            word, allowed = error.args
            raise ConfigError(f"{name}: '{word}' (command line) is not allowed; it must be {allowed}.") from None
        if self.free:
            namespace.free[name] = value
        else:
            setattr(namespace, name, value)


def _no_value(name: str) -> NoReturn:
    raise ConfigError(f"--{name} (command line) has no value; write --{name}=value.")


class Parser(argparse.ArgumentParser):
    """Reads the words of one command. Each mistake is a ConfigError of one line.

    Args:
        command: its name.
        summary: a sentence, for the help.
        usage: what follows the name of the command in the help.
        free: whether the options of RecBole may be given, too.
        epilog: a last paragraph for the help.
    """

    def __init__(self, command: str, summary: str, usage: str, free: bool = False, epilog: str | None = None) -> None:
        super().__init__(
            prog=f"recbole-vae {command}", usage=f"%(prog)s {usage}", description=summary, epilog=epilog,
            allow_abbrev=False, exit_on_error=False,
            formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=30, width=100),
        )  # fmt: skip
        self.command, self.free, self.missing = command, free, dict[str, str]()

    def option(
        self, *flags: str, kind: Kind = text, default: Any = None, help: str, several: bool = False,
        missing: str = "", metavar: str = "VALUE",
    ) -> None:  # fmt: skip
        """Declare an option.

        Args:
            flags: such as ``--models``.
            kind: makes its value.
            default: the value where it is not given.
            help: what it means; a default is added.
            several: whether several words may follow it.
            missing: what it is. If this is not empty, the option must be given.
            metavar: stands for the value in the help.
        """
        if default not in (None, []) and "default" not in help:
            help += f" (default: {','.join(map(str, default)) if isinstance(default, list) else default})"
        self.add_argument(
            *flags,
            action=_Store,
            kind=kind,
            default=default,
            help=help,
            metavar=metavar,
            nargs="+" if several else None,
        )
        if missing:
            self.missing[flags[-1].lstrip("-")] = missing

    def shared(self, *names: str, **changes: Any) -> None:
        """Declare options that mean the same in all commands."""
        for name in names:
            self.option(*(["-k"] if name == "k" else []), f"--{name}", **{**SHARED[name], **changes})

    def read(self, words: Sequence[str]) -> Options:
        """Read the words of a command.

        Raises:
            ConfigError: an option is unknown, missing, given twice, without a value, or has one that is not allowed.
            SystemExit: the help was asked for, and is printed.
        """
        if self.free:
            self._declare_unknown(words)
        try:
            options, rest = self.parse_known_args(words, argparse.Namespace(given={}, free={}))
        except argparse.ArgumentError as error:
            _no_value(str(error.argument_name).split("/")[-1].lstrip("-"))
        self._take_last_name(options, rest)
        for word in rest:
            self._refuse(word)
        for name, what in self.missing.items():
            if name not in options.given:
                raise ConfigError(f"--{name} (command line) is missing: {what}.")
        return options

    def _take_last_name(self, options: Options, rest: list[str]) -> None:
        """Take a name that may be left out from the rest, where argparse leaves it if an option comes before it."""
        for action in self._actions:
            left = not action.option_strings and action.nargs == "?" and getattr(options, action.dest) is None
            if left and rest and not rest[0].startswith("--"):
                setattr(options, action.dest, rest.pop(0))

    def _declare_unknown(self, words: Iterable[str]) -> None:
        for flag in dict.fromkeys(word.partition("=")[0] for word in words):
            if re.match(r"--\w", flag) and flag not in self._option_string_actions:
                self.add_argument(
                    flag, dest=flag[2:], action=_Store, kind=literal, free=True, nargs="+", default=argparse.SUPPRESS
                )

    def _refuse(self, word: str) -> NoReturn:
        name = word.lstrip("-").partition("=")[0]
        if not word.startswith("--") or not name:
            raise ConfigError(f"'{word}' (command line) is not an option; write --option=value.")
        known = [action.dest for action in self._actions if action.option_strings and action.dest != "help"]
        meant = near(name, known)
        raise ConfigError(
            f"--{name} (command line): {self.command} has no such option{f'; did you mean --{meant}?' if meant else '.'} "
            f"It has {', '.join(known)}."
        )

    def error(self, message: str) -> NoReturn:
        """Raise a ConfigError: a word without an option, such as the name of a data set, is missing."""
        raise ConfigError(f"{self.command} (command line): {message}; {self.format_usage().strip()}")


SHARED: dict[str, dict[str, Any]] = {
    "checkpoint": {
        "metavar": "FILE", "help": "a checkpoint that training wrote; for RecBole's own models, the data set must be there, too",
        "missing": "a file that training wrote, such as saved/MultVAE-....pth",
    },
    "users": {
        "kind": unique_names, "several": True, "metavar": "ID",
        "help": "ids of users in the training data; repeated ids count once. Quote an id with a comma: '\"A,B\"'",
    },
    "histories": {
        "metavar": "FILE",
        "help": "histories of any users: CSV with the columns user_id,item_id, or a RecBole .inter file; - is standard "
        "input, where the lines of each user must be consecutive",
    },
    "profiles": {
        "metavar": "FILE",
        "help": "what is known about users besides: a RecBole .user file with the fields of user_features; users who stand only "
        "there get a list, too",
    },
    "candidates": {"metavar": "FILE", "help": "recommend only the items in this file, one id per line"},
    "exclude": {"metavar": "FILE", "help": "never recommend the items in this file, one id per line"},
    "new_items": {
        "metavar": "FILE",
        "help": "new items, which are scored from their features: a RecBole .item file with the fields of item_features",
    },
    "new_items_bonus": {
        "kind": number(), "default": 0.0, "metavar": "X",
        "help": "added to the scores of new items, in standard deviations of a user's scores; below 0, they come later",
    },
    "k": {"kind": whole(1), "default": 10, "metavar": "N", "help": "length of each list"},
    "popularity_correction": {
        "kind": number(), "metavar": "X",
        "help": "above 0 favours rare items, below 0 popular ones (default: the value in the checkpoint, usually 0)",
    },
    "items": {
        "metavar": "FILE",
        "help": "names of the items: a RecBole .item file (default: the one beside the data, if there is one)",
    },
    "seed": {"kind": whole(0), "default": 0, "metavar": "N", "help": "random seed"},
    "json": {"metavar": "FILE", "help": "write all results as JSON; - prints it instead of the text"},
    "html": {"metavar": "FILE", "help": "write a report as a web page"},
    "imports": {
        "kind": names, "several": True, "metavar": "MODULE", "default": [],
        "help": "modules that register your own models (recbole_vae.register); the working directory is searched, too",
    },
}  # fmt: skip
