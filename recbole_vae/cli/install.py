"""Says that RecBole is missing before anything else, and offers to install it.

RecBole's metadata ask for releases of ray that Python 3.12 and later do not have, and so pip does not install RecBole there.
RecBole does not need ray: without its requirements pip installs it everywhere.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys

from recbole_vae.errors import RecBoleVersionError
from recbole_vae.options.recbole import RECBOLE
from recbole_vae.options.shell import joined


def install_command() -> list[str]:
    """Return the command that installs RecBole into this Python."""
    if importlib.util.find_spec("pip") is None and shutil.which("uv"):
        return ["uv", "pip", "install", f"--python={sys.executable}", "--no-deps", RECBOLE]
    return [sys.executable, "-m", "pip", "install", "--no-deps", RECBOLE]


def ensure_recbole() -> None:
    """Return if RecBole is there; otherwise say how to install it and, on a terminal, offer to do so.

    Raises:
        RecBoleVersionError: RecBole is missing, and was not installed.
    """
    if importlib.util.find_spec("recbole") is not None:
        return
    command = install_command()
    missing = (
        "RecBole is not installed.\n"
        "On Python 3.12 and later pip does not install it by itself, because it asks for an old ray that it does not need.\n"
        f"Install it by: {joined(command)}"
    )
    if not (sys.stdin and sys.stderr and sys.stdin.isatty() and sys.stderr.isatty()):
        raise RecBoleVersionError(missing)
    print(missing, file=sys.stderr)
    print("Do this now? [Y/n] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().lower() not in ("\n", "y\n", "yes\n"):  # nothing at all: Ctrl-D
        raise RecBoleVersionError("RecBole is not installed.")
    done = subprocess.run(command, check=False)
    importlib.invalidate_caches()
    if done.returncode or importlib.util.find_spec("recbole") is None:
        raise RecBoleVersionError("RecBole could not be installed; the reason stands above.")
