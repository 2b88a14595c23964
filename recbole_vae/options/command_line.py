"""Whose command line ``sys.argv`` is: that of ``recbole-vae``, or of a program in which RecBole runs.

RecBole reads options from ``sys.argv`` wherever it runs. Jupyter, PyCharm, pytest or a script have arguments of their own there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

_ours = False


def is_ours() -> bool:
    """Tell whether every argument must be an option, because the user typed it for ``recbole-vae``."""
    return _ours


@contextlib.contextmanager
def ours(yes: bool = True) -> Iterator[None]:
    """Declare, for the time of a block, that ``sys.argv`` is the command line of ``recbole-vae``."""
    global _ours
    before, _ours = _ours, yes
    try:
        yield
    finally:
        _ours = before
