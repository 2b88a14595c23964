"""Ids that a model does not know: how many there were, and some of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

_EXAMPLES, _EXAMPLE_LENGTH = 1000, 100
"""Unknown ids that are remembered, and how many characters of each: a server must not grow with what its callers send."""


@dataclass
class Unknown:
    """Ids that were given but are not in the training data.

    Attributes:
        times: how many there were, repetitions included.
        examples: the first 1,000 different ones, cut to 100 characters, and how often each was given.
    """

    times: int = 0
    examples: Counter[str] = field(default_factory=Counter)

    def update(self, ids: Iterable[str]) -> None:
        """Count some more."""
        for each in ids:
            self.times += 1
            name = each[:_EXAMPLE_LENGTH]
            if name in self.examples or len(self.examples) < _EXAMPLES:
                self.examples[name] += 1
