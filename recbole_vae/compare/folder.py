"""The folder of a comparison: it belongs to one comparison, and to one command at a time."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import filelock

from recbole_vae.compare.plan import OF_OLDER_VERSIONS, Plan
from recbole_vae.errors import ConfigError
from recbole_vae.storage.files import write_whole


class InUseError(ConfigError):
    """Another command is at work in the folder of a comparison."""


@contextlib.contextmanager
def held(plan: Plan, out: Path, restore: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Make the folder, or check that it belongs to this comparison. Other commands are refused while the block runs.

    Args:
        plan: the comparison.
        out: the folder.
        restore: makes what the folder lacks, once no other command can be at work in it.

    Raises:
        InUseError: another command is at work in the folder.
        ConfigError: the folder cannot be made, or belongs to another comparison.
    """
    file = out / ".lock"
    made = not file.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out={out} (command line): cannot make this folder ({error.strerror}).") from None
    if not os.access(out, os.W_OK):
        raise ConfigError(f"--out={out} (command line): cannot write into this folder.")
    try:
        lock = filelock.FileLock(file, timeout=0).acquire()
    except filelock.Timeout:
        raise InUseError(f"--out={out} (command line): another command is at work in this folder.") from None
    with lock:
        restore()
        try:
            _check_identity(plan, out)
        except ConfigError:
            if made:
                file.unlink(missing_ok=True)
            raise
        yield


def _check_identity(plan: Plan, out: Path) -> None:
    file, own = out / "comparison.json", plan.identity()
    if not file.is_file() or not _anything_done(out):
        others = [each.name for each in out.iterdir() if each.name not in (".lock", file.name, "runs", "tuning")]
        if others:
            raise ConfigError(
                f"--out={out} (command line): this folder is neither empty nor that of a comparison ({others[0]})."
            )
        write_whole(file, json.dumps(own, indent=1).encode())
        return
    try:
        before = {**OF_OLDER_VERSIONS, **json.loads(file.read_text(encoding="utf-8"))}
        differences = differing(before, own)
        if differences:
            raise ConfigError(
                f"--out={out} (command line): another comparison is in this folder: "
                f"{'; '.join(differences)}. Choose another folder."
            )
        for name in ("datasets", "protocols"):
            own[name] = {**before[name], **own[name]}
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{file}: damaged ({error}); choose another folder.") from None
    write_whole(file, json.dumps(own, indent=1).encode())


def _anything_done(out: Path) -> bool:
    """Return whether a run or a tuning trial is done; until then, mistakes in the plan can be corrected."""
    results = out.glob("runs/*/result.json")
    return any(out.glob("tuning/*.journal")) or any('"status": "done"' in each.read_text() for each in results)


def differing(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return what differs between two plans that cannot share a folder, by their :meth:`~.plan.Plan.identity`; [] if they can.

    Raises:
        KeyError: something of the plan before is missing.
    """
    return [each for name in now for each in _differences(name, before[name], now[name])]


def _differences(name: str, before: Any, now: Any) -> list[str]:
    if name in ("datasets", "protocols"):  # some may come, some may go
        return [f"{key}: {before[key]} there, {now[key]} now" for key in now if before.get(key, now[key]) != now[key]]
    if isinstance(before, dict) and isinstance(now, dict):
        keys = sorted(key for key in {**before, **now} if before.get(key) != now.get(key))
        return [f"{key}: {before.get(key)} there, {now.get(key)} now" for key in keys]
    return [] if before == now else [f"{name}: {before} there, {now} now"]
