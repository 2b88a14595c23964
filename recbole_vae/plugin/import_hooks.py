"""Change other modules when they are imported.

RecBole takes seconds to import. So recbole_vae does not import it in order to change it: a module is changed as soon as
somebody imports it, or at once if somebody already has.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from recbole_vae.errors import RecBoleVersionError
from recbole_vae.version import __version__

_after: dict[str, list[Callable[[ModuleType], None]]] = {}
_during: dict[str, list[Callable[[], AbstractContextManager[None]]]] = {}


def after_import(module: str, function: Callable[[ModuleType], None]) -> None:
    """Call ``function(module)`` once the module is imported: now if it is, else as soon as it has been executed."""
    loaded = sys.modules.get(module)
    if loaded is not None and not getattr(loaded.__spec__, "_initializing", False):
        function(loaded)
    else:
        _after.setdefault(module, []).append(function)
        _install()


def during_import(module: str, context: Callable[[], AbstractContextManager[None]]) -> None:
    """Execute the module inside ``context()`` when it is imported; nothing if it already is."""
    if module not in sys.modules:
        _during.setdefault(module, []).append(context)
        _install()


def replace(owner: Any, name: str, wrap: Callable[[Any], Any]) -> None:
    """Replace an attribute of a module or a class of RecBole by ``wrap(original)``.

    Raises:
        RecBoleVersionError: there is no such attribute.
    """
    original = getattr(owner, name, None)
    if original is None:
        recbole = importlib.import_module("recbole")
        raise RecBoleVersionError(
            f"recbole_vae {__version__} does not fit RecBole {recbole.__version__}: {owner} has no '{name}'."
        )
    setattr(owner, name, functools.update_wrapper(wrap(original), original))


def _install() -> None:
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds the modules that are to be changed, as the other finders do, and gives them a :class:`_Loader`."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in _after and fullname not in _during:
            return None
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Loader(spec.loader)
                return spec
        return None


class _Loader(Loader):
    """Loads a module with its own loader, then changes it."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        # From here on the module looks as if it were not changed.
        module.__spec__.loader = module.__loader__ = self.loader
        with ExitStack() as stack:
            for context in _during.get(module.__name__, []):
                stack.enter_context(context())
            self.loader.exec_module(module)
        # Kept until now: an import that fails may be tried again.
        _during.pop(module.__name__, None)
        for function in _after.get(module.__name__, []):
            function(module)
        _after.pop(module.__name__, None)


def module_exists(name: str) -> bool:
    """Tell whether a module can be found, without importing it."""
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False
