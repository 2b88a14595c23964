"""Runs of a comparison without processes of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recbole_vae.compare import process
from recbole_vae.compare.measure import measure


def run_in_process(monkeypatch: pytest.MonkeyPatch, note: Callable[[dict[str, Any]], None]) -> None:
    """Do the runs of comparisons in this process, and call ``note`` with the job of each before it begins."""

    def execute(specification: dict[str, Any], folder: str | None = None) -> dict[str, bytes]:
        job = specification["job"]
        note(job)
        assert folder is not None
        run = measure(job)
        if job.get("trial"):
            run.trials = [{"scores": [run.valid["ndcg@5"]]}]
        run.save(Path(folder))
        return {}

    monkeypatch.setattr(process, "execute", execute)
