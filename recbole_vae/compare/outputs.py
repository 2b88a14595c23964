"""All files of a comparison."""

from __future__ import annotations

from pathlib import Path

from recbole_vae.compare import provenance, report, tables
from recbole_vae.compare.analysis import tables as analyse
from recbole_vae.compare.results import Comparison
from recbole_vae.storage.files import write_whole


def write(comparison: Comparison, folder: Path) -> str:
    """Write the tables, the per-user values, the settings and the report of the runs that are there; some may be missing.

    Args:
        comparison: its runs and how they are compared.
        folder: where ``table.md``, ``table.tex``, ``table.csv``, ``tests.csv``, ``groups.csv``, ``per_user.parquet``,
            ``checklist.md``, ``settings.yaml`` and ``report.html`` are put; it is made.

    Returns:
        The tables for the terminal.

    Raises:
        DataError: a run cannot be compared, or a file cannot be written.
        RecBoleVAEError: pyarrow is missing.
    """
    found = analyse(comparison)
    files = {
        "table.md": tables.markdown(found, comparison),
        "table.tex": tables.latex(found, comparison),
        "table.csv": tables.table_csv(found),
        "tests.csv": tables.tests_csv(found),
        "groups.csv": tables.groups_csv(found),
        "checklist.md": tables.checklist_md(found, comparison),
        "settings.yaml": provenance.settings_yaml(comparison, found),
        "report.html": report.html(found, comparison),
    }
    users = tables.per_user_parquet(comparison.runs)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_whole(folder / name, content.encode())
    write_whole(folder / "per_user.parquet", users)
    return tables.text(found, comparison)
