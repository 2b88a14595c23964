"""Cases, the process that runs them, and what must hold of each."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LIMIT = 120
"""Seconds after which a command line hangs."""

tally: Counter[tuple[str, str]] = Counter()
"""How many inputs of each kind ended how."""


@dataclass
class Case:
    """A command line and the files in its working directory."""

    words: list[str]
    files: dict[str, bytes] = field(default_factory=dict)
    stdin: bytes | None = None
    in_process: bool = False
    scores: bool = False
    kill_at: int | None = None
    """The number of the write at which it is killed."""
    kill_after: float | None = None
    """Seconds after which it is killed."""
    resumes: str = ""
    """The checkpoint that is written anew when training goes on."""


@dataclass
class Ended:
    """How a command line ended."""

    folder: Path
    status: int | None
    out: str
    err: str
    report: dict[str, Any]

    @property
    def work(self) -> Path:
        return self.folder / "work"

    @property
    def outcome(self) -> str:
        return {0: "done", 1: "failed, in one line", 2: "refused, in one line"}.get(self.status or 0, "?")


class Server:
    """The process that runs command lines; see :mod:`tests.fuzz.server`."""

    def __init__(self, base: Path) -> None:
        self.base, self.count, self.seconds = base, 0, 0.0
        root = Path(__file__).parents[2]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(root)}
        environment.pop("RECBOLE_VAE_TRACEBACK", None)
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.fuzz.server"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=base, env=environment,
        )  # fmt: skip

    def close(self) -> None:
        self.process.kill()  # its end would take seconds, and there is nothing to undo
        self.process.communicate()

    def run(self, case: Case, folder: Path | None = None) -> Ended:
        """Run a case in a folder of its own, or go on in one that there is."""
        if folder is None:
            folder = self.base / str(self.count)
            self.count += 1
            (folder / "work" / "home").mkdir(parents=True)
            for name, content in case.files.items():
                path = folder / "work" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        if case.stdin is not None:
            (folder / "in").write_bytes(case.stdin)
        (folder / "case").write_text(repr(case.words), encoding="utf-8")
        (folder / "report").unlink(missing_ok=True)
        request = {
            "folder": str(folder), "words": case.words, "in_process": case.in_process, "scores": case.scores,
            "stdin": str(folder / "in") if case.stdin is not None else None, "limit": LIMIT,
            "kill_at": case.kill_at, "kill_after": case.kill_after,
        }  # fmt: skip
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        out, err = (
            (folder / name).read_bytes().decode("utf-8", errors="replace") if (folder / name).exists() else ""
            for name in ("out", "err")
        )
        report = folder / "report"
        self.seconds = answer["seconds"]
        return Ended(folder, answer["status"], out, err, json.loads(report.read_text()) if report.is_file() else {})

    def check(self, case: Case) -> Ended:
        """Run a case, and assert what must hold of any command line."""
        ended = self.run(case)
        where = f"{ended.folder}: {case.words}"
        assert ended.status is not None, f"hangs: {where}"
        assert "Traceback (most recent call last)" not in ended.out + ended.err, (
            f"traceback: {where}\n{ended.err[-2000:]}"
        )
        assert ended.status in (0, 1, 2), f"exit status {ended.status}: {where}\n{ended.err[-2000:]}"
        errors = [line for line in ended.err.splitlines() if line.startswith("error: ")]
        if ended.status == 1 and case.words[0] == "compare" and not errors:
            assert ": failed: " in ended.err, f"no row says why: {where}"
        elif ended.status:
            assert len(errors) == 1, f"no line that says why: {where}\n{ended.err[-2000:]}"
            assert "shows where" not in errors[0], f"not foreseen: {errors[0]}: {where}"
        assert ended.report.get("outside") == [], f"writes outside: {ended.report}: {where}"
        for name, content in case.files.items():
            path = ended.work / name
            assert path.is_file(), f"{name} is gone: {where}"
            if name == case.resumes and ended.status == 0:
                continue
            assert path.read_bytes() == content, f"{name} was changed: {where}"
        left = [each for each in ended.work.rglob("*.tmp") if "home" not in each.parts]
        assert not left, f"temporary files are left: {left}: {where}"
        return ended

    def forget(self, ended: Ended) -> None:
        """Remove the folder of a case in which nothing was found."""
        shutil.rmtree(ended.folder)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
