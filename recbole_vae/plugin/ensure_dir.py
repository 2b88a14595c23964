"""``recbole.utils.ensure_dir`` lets several processes make the same folder.

RecBole looks whether the folder exists, then makes it; two processes that start together may both try.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from recbole_vae.plugin.import_hooks import replace


def hook(utils: ModuleType) -> None:
    """Change ``recbole.utils.utils``."""
    replace(utils, "ensure_dir", lambda original: lambda dir_path: Path(dir_path).mkdir(parents=True, exist_ok=True))
