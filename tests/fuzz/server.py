"""Runs command lines, each in a process forked from one that has imported everything: ``python -m tests.fuzz.server``.

It reads requests, one JSON object a line, from standard input, and answers each with one line on standard output. A fork
takes milliseconds where a new process takes seconds to import PyTorch, and it shares no state with the one before.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

WRITES = {
    "os.remove": 1, "os.rename": 2, "os.mkdir": 1, "os.rmdir": 1, "os.link": 2, "os.symlink": 2, "os.truncate": 1,
    "os.chmod": 1, "os.utime": 1,
}  # fmt: skip
"""Events of Python's audit hooks that change files, with how many of their arguments are paths."""


class Watch:
    """Notes what is written outside a folder, and kills the process at one of its writes if it is asked to."""

    def __init__(self, folder: Path, kill_at: int | None) -> None:
        self.inside, self.kill_at = f"{folder.resolve()}{os.sep}", kill_at
        self.outside, self.count, self.on = [""][:0], 0, True

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on or (event != "open" and event not in WRITES):
            return
        if event == "open":
            path, mode, flags = arguments
            writes = set("wax+") & set(mode) if isinstance(mode, str) else (flags or 0) & (os.O_WRONLY | os.O_RDWR)
            paths = [path] if writes else []
        else:
            paths = list(arguments[: WRITES[event]])
        paths = [os.path.realpath(os.fsdecode(each)) for each in paths if isinstance(each, str | bytes | os.PathLike)]
        self.outside += [f"{event} {each}" for each in paths if not f"{each}/".startswith((self.inside, "/dev/"))]
        self.count += bool(paths)
        if paths and self.count == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)


def child(request: dict[str, Any]) -> int:
    """Run a command line in its folder."""
    folder = Path(request["folder"])
    os.chdir(folder / "work")
    streams = [os.open(request.get("stdin") or os.devnull, os.O_RDONLY)]
    streams += [os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) for name in ("out", "err")]
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    sys.stdin, sys.stdout, sys.stderr = (
        io.TextIOWrapper(io.FileIO(number, mode, closefd=False), encoding="utf-8", write_through=True)
        for number, mode in enumerate("rww")
    )
    for name in ("TMPDIR", "HOME", "MPLCONFIGDIR"):
        os.environ[name] = str(folder / "work" / "home")
    tempfile.tempdir = str(folder / "work" / "home")
    watch = Watch(folder / "work", request.get("kill_at"))
    from recbole_vae.cli.main import main

    if request.get("in_process"):
        one_process()
    random.seed(0)
    sys.argv = ["recbole-vae"]
    sys.addaudithook(watch)
    status = main(request["words"])
    watch.on = False
    report = {"outside": watch.outside, "writes": watch.count}
    if status == 0 and request.get("scores"):
        from tests.fuzz.oracle import scores_of_run

        report |= scores_of_run(Path(folder / "out").read_text(encoding="utf-8"))
    (folder / "report").write_text(json.dumps(report), encoding="utf-8")
    return status


def one_process() -> None:
    """Let ``compare`` do its runs in its own process."""
    from recbole_vae.compare import process
    from recbole_vae.compare.measure import measure
    from recbole_vae.compare.results import FAILED, Run
    from recbole_vae.compare.worker import _reason

    def execute(specification: dict[str, Any], folder: str) -> dict[str, bytes]:
        job = specification["job"]
        try:
            run = measure(job)
        except Exception as error:
            run = Run(job["dataset"], "", job["model"], job["model"], job["seed"], FAILED, _reason(error))
        if job.get("trial"):
            run.trials = [{"scores": []}]
        run.save(Path(folder))
        return {}

    process.execute = execute  # type: ignore[assignment]


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Fork, wait, and say how it ended."""
    started = time.monotonic()
    number = os.fork()
    if number == 0:
        status = 99
        try:
            os.setsid()
            status = child(request)
        except BaseException:
            traceback.print_exc()
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            os._exit(status)
    limit = request.get("limit", 120)
    while True:
        found, code = os.waitpid(number, os.WNOHANG)
        if found:
            return {"status": os.waitstatus_to_exitcode(code), "seconds": time.monotonic() - started}
        if time.monotonic() - started > min(limit, request.get("kill_after") or limit):
            with contextlib.suppress(ProcessLookupError):  # it has no group yet
                os.killpg(number, signal.SIGKILL)
            os.kill(number, signal.SIGKILL)
            os.waitpid(number, 0)
            return {"status": None, "seconds": time.monotonic() - started}
        time.sleep(0.005)


IMPORTED = (
    "pyarrow.parquet", "thop", "torch._dynamo", "torch.utils.tensorboard", "recbole_vae.serving.recommender",
    "recbole_vae.training.trainer", "recbole.quick_start",
)  # fmt: skip


def serve() -> None:
    """Import everything, then answer."""
    import torch
    from threadpoolctl import threadpool_limits

    for name in IMPORTED:
        import_module(name)
    psutil = import_module("psutil")
    psutil.cpu_percent = lambda *args, **kwargs: 0.0  # type: ignore[attr-defined]  # RecBole watches the processor for a second in each run
    torch.set_num_threads(1)
    threadpool_limits(1, user_api="blas")
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what children print before they have their own files
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=replies, flush=True)


if __name__ == "__main__":
    serve()
