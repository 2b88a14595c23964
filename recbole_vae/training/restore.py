"""RecBole's Config of a checkpoint."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any


def config_of_checkpoint(path: str | Path) -> Any:
    """Return RecBole's Config as it was when a checkpoint of recbole_vae was written; command-line options do not count."""
    from recbole.config import Config

    from recbole_vae.storage import checkpoint

    state = checkpoint.load(path)
    argv, sys.argv = sys.argv, sys.argv[:1]
    try:
        config = Config(model=state["model"], dataset=state["dataset"], config_dict={"resume": str(path)})
    finally:
        sys.argv = argv
    config["resume"], config["loaded_from"] = None, str(path)
    return config
