"""One measurement in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def in_a_process(
    code: str, specification: dict[str, Any], progress: Callable[[str], object] | None = None
) -> dict[str, Any]:
    """Run code in a new process, which gets a specification in JSON as its argument.

    Args:
        code: of Python.
        specification: plain values. ``result`` is the file to which the process writes its result in JSON; it works, and may
            leave files, in the folder of that file.
        progress: called each second with the text of the file ``progress`` in that folder, if there is one.

    Returns:
        The result, or why there is none as ``error``.
    """
    result = Path(specification["result"])
    said, news = result.with_name("stderr"), result.with_name("progress")
    for file in (result, news):
        file.unlink(missing_ok=True)
    with said.open("wb") as errors:
        child = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", code, json.dumps(specification)],
            cwd=result.parent, stdout=subprocess.DEVNULL, stderr=errors,
        )  # fmt: skip
        try:
            while True:
                try:
                    child.wait(1)
                    break
                except subprocess.TimeoutExpired:
                    if progress and news.is_file() and news.stat().st_size:
                        progress(news.read_text(encoding="utf-8"))
        finally:
            child.kill()
            child.wait()
    if result.is_file():
        found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
        return found
    if child.returncode == -9:
        return {"error": "out of memory (killed)"}
    lines = said.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return {"error": (lines or [f"exit status {child.returncode}"])[-1].removeprefix("error: ")[:400]}
