"""Reads a plan: YAML with the line of each key, and values of the command line."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import yaml

from recbole_vae.errors import ConfigError


class YAML(yaml.SafeLoader):
    """YAML in which 1e-3 is a number, as RecBole reads it, and in which no key stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for number, key in enumerate(keys):
            if key in keys[:number]:
                mark = node.value[number][0].start_mark
                raise yaml.constructor.ConstructorError(None, None, f"'{key}' stands twice", mark)
        return super().construct_mapping(node, deep)


YAML.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def load(file: str) -> tuple[dict[str, Any], dict[str, list[int]]]:
    """Return the content of a plan's file, and the lines, from 1, in which each key stands, at whatever depth.

    The line of a key below others has their names, too: ``published: random: EASE``.

    Raises:
        ConfigError: the file cannot be read, is not YAML, or is not a mapping.
    """
    try:
        text = Path(file).read_text(encoding="utf-8")
        content = yaml.load(text, Loader=YAML)
    except OSError as error:
        raise ConfigError(f"{file}: cannot read this plan: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{file}{place}: not valid YAML ({getattr(error, 'problem', None) or error}).") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: a plan must consist of lines 'key: value', and this one does not.")
    return content, _lines_of_keys(yaml.compose(text, Loader=YAML))


def _lines_of_keys(document: yaml.Node | None) -> dict[str, list[int]]:
    lines: dict[str, list[int]] = {}
    left: list[tuple[yaml.Node | None, str]] = [(document, "")]
    seen = set[int]()
    while left:
        node, above = left.pop()
        if id(node) in seen:  # an alias and its target are the same node
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            left += [(each, above) for each in node.value]
        elif isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                path = f"{above}{key.value}"
                for name in dict.fromkeys((str(key.value), path)):
                    lines.setdefault(name, []).append(key.start_mark.line + 1)
                left.append((value, f"{path}: "))
    return lines


def convert(text: str) -> Any:
    """Read a value of the command line: a Python literal, YAML, or a word."""
    try:
        return plain(ast.literal_eval(text))
    except (ValueError, SyntaxError):
        pass
    try:
        return yaml.load(text, Loader=YAML)
    except yaml.YAMLError:
        return text


def plain(value: Any) -> Any:
    """Return a value with lists in place of tuples, and strings as keys."""
    if isinstance(value, tuple | list):
        return [plain(each) for each in value]
    return {str(key): plain(each) for key, each in value.items()} if isinstance(value, dict) else value
