"""One run in a process of its own: started, watched, and ended with the command that started it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recbole_vae.compare.results import FAILED, OUT_OF_MEMORY, TIMED_OUT, Run
from recbole_vae.errors import DataError
from recbole_vae.storage.files import write_whole

_SIGKILL = 9
"""The module ``signal`` does not have it on Windows."""

_children: set[subprocess.Popen[bytes]] = set()
_lock = threading.Lock()
_stopped = threading.Event()


def execute(specification: dict[str, Any], folder: str | None = None) -> dict[str, bytes]:
    """Do one run in a new process, and wait for it. If it fails, its result says so; nothing is raised.

    Args:
        specification: plain values: ``job`` (of ``Plan.job``), ``imports``, ``path``, ``threads``, ``energy`` (whether it is
            measured), ``memory_limit`` in GB and ``time_limit`` in seconds, and for a trial of tuning ``others`` and ``bigger``.
        folder: where its files go; None for a temporary folder, whose files are returned.

    Returns:
        Content of ``result.json``, ``log.txt`` and perhaps ``users.npz``; empty if ``folder`` is given.
    """
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="recbole-vae-", ignore_cleanup_errors=True) as temporary:
            execute(specification, temporary)
            names = ("log.txt", "users.npz", "result.json")
            return {name: (Path(temporary) / name).read_bytes() for name in names if (Path(temporary) / name).is_file()}
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    for name in ("result.json", "users.npz"):
        (place / name).unlink(missing_ok=True)
    shutil.rmtree(place / "scratch", ignore_errors=True)
    write_whole(place / "job.json", json.dumps(specification, indent=1).encode())
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    environment.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    if specification.get("threads"):
        environment["OMP_NUM_THREADS"] = str(specification["threads"])
    ended, start = None, time.monotonic()
    with (place / "log.txt").open("wb") as log:
        with _lock:
            if _stopped.is_set():
                return {}
            # In its own session: Ctrl-C reaches this process only, which then ends the others. (Windows has no sessions.)
            child = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", "recbole_vae.compare.worker", str(place.resolve() / "job.json")],
                stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, cwd=place, env=environment, start_new_session=True,
            )  # fmt: skip
            _children.add(child)
        try:
            child.wait(specification.get("time_limit"))
        except subprocess.TimeoutExpired:
            limit = specification["time_limit"]
            ended = TIMED_OUT, f"not done after {limit:g} s (time_limit)"
        finally:
            _kill(child)
    shutil.rmtree(place / "scratch", ignore_errors=True)
    if not (place / "result.json").is_file() and not _stopped.is_set():
        job = specification["job"]
        status, reason = ended or _why(child.returncode, place / "log.txt")
        Run(job["dataset"], "", job["model"], job["model"], job["seed"], status, reason, settings=job["settings"]).save(
            place
        )
    if specification["job"].get("trial") and (place / "result.json").is_file():
        with contextlib.suppress(DataError):  # an unreadable result is a failure for who reads it next
            trial = Run.load(place)
            trial.seconds = time.monotonic() - start  # what it took of a budget, however it ended
            trial.save(place)
    return {}


@contextlib.contextmanager
def children_end() -> Iterator[None]:
    """Let :func:`execute` start processes in this block. Those that still run when it ends are killed."""
    _stopped.clear()
    try:
        yield
    finally:
        _stopped.set()
        with _lock:
            children = list(_children)
        for child in children:
            _end(child)


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kill a process with all that it started; on Windows, which has no groups of processes, the process alone."""
    with contextlib.suppress(ProcessLookupError):
        if hasattr(os, "killpg"):
            os.killpg(child.pid, _SIGKILL)
        else:
            child.kill()


def _kill(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        _end(child)
    child.wait()
    if child.stdin:
        child.stdin.close()
    with _lock:
        _children.discard(child)


def _why(code: int, log: Path) -> tuple[str, str]:
    if code == -_SIGKILL:
        return OUT_OF_MEMORY, "killed by signal 9, as the system does when memory is short"
    if code < 0:
        return FAILED, f"its process was ended by signal {-code} ({signal.Signals(-code).name})"
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.is_file() else []
    last = next((line.strip() for line in reversed(lines) if line.strip()), "nothing in its log")
    return FAILED, f"its process ended with exit status {code}: {last[:300]}"
