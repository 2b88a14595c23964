"""Is this a RecBole that the changes fit, and are the models' names free in it?"""

from __future__ import annotations

import re
from types import ModuleType

from recbole_vae.errors import RecBoleVersionError
from recbole_vae.model.registry import BUILT_IN
from recbole_vae.options.recbole import INSTALL, recbole_folder
from recbole_vae.version import __version__


def check_recbole(recbole: ModuleType) -> None:
    """Refuse a RecBole of another version, or one that has a model called like one of this package.

    Raises:
        RecBoleVersionError: the version does not fit.
        ValueError: see :func:`refuse_names_of_recbole`.
    """
    found = str(getattr(recbole, "__version__", "unknown"))
    numbers = tuple(int(number) for number in re.findall(r"\d+", found)[:3])
    if not (1, 2, 1) <= numbers < (1, 3):
        raise RecBoleVersionError(
            f"recbole_vae {__version__} fits RecBole 1.2.1 and later 1.2s, not {found}: {INSTALL}."
        )
    for name in BUILT_IN:
        refuse_names_of_recbole(name, "recbole_vae")


def refuse_names_of_recbole(name: str, called: str) -> None:
    """Raise a ValueError if RecBole has a model of a name; ``called`` is the class that would have it, for the message."""
    taken = next((recbole_folder() / "model").glob(f"*/{name.lower()}.py"), None)
    if taken is not None:
        raise ValueError(
            f"cannot register {called}: RecBole has a model of that name, in {taken}. Choose another name."
        )
