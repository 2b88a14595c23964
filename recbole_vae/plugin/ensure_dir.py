"""``recbole.utils.ensure_dir`` lets several processes make the same folder, and says what is in its way.

RecBole looks whether the folder exists, then makes it; two processes that start together may both try.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from recbole_vae.errors import DataError
from recbole_vae.plugin.import_hooks import replace


def hook(utils: ModuleType) -> None:
    """Change ``recbole.utils.utils``."""
    replace(utils, "ensure_dir", lambda original: _ensure_dir)


def _ensure_dir(dir_path: str) -> None:
    path = Path(dir_path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        inside = path.resolve()
        file = next(each for each in (inside, *inside.parents) if each.exists())
        logs = ", for its logs" if path.parts[:1] == ("log",) else ""
        raise DataError(
            f"{file}: a file is where RecBole needs a folder{logs}; rename the file, or start in another folder."
        ) from None
