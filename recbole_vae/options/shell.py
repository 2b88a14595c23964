"""Writes commands as a person would type them in a shell."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable


def quoted(word: str) -> str:
    """Return a word as it is typed: in double quotes if it needs some, and in single ones if double quotes would change it."""
    plain = shlex.quote(word)
    return plain if plain == word or re.search(r'["$`\\!]', word) else f'"{word}"'


def joined(words: Iterable[str]) -> str:
    """Return a command; of ``--option=value``, only the value is quoted."""
    typed = []
    for word in words:
        option = re.match(r"--[\w-]+=(?=.)", word)
        start = option.end() if option else 0
        typed.append(word[:start] + quoted(word[start:]))
    return " ".join(typed)
