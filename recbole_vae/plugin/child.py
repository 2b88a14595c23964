"""What a child process of RecBole runs: its own function, after recbole_vae has been imported.

RecBole starts its children by ``spawn``, which imports in the child the module of the function that is to run there, and
so nothing but RecBole. A function of this module takes its place.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from recbole_vae.storage.once import read_once

_original: list[Callable[..., None]] = []


def replace(function: Callable[..., None]) -> Callable[..., None]:
    """Keep RecBole's ``run_recboles``, and return what is to be called in its place."""
    _original[:] = [function]
    return run_recboles


def run_recboles(rank: int, *args: Any) -> None:
    """Run RecBole's ``run_recboles`` in a child process; the arguments are the same."""
    import_module("recbole.quick_start")
    with read_once():
        _original[0](rank, *args)
