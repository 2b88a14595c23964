"""A process that does one run: ``python -m recbole_vae.compare.worker JOB.json``, in the folder where the result is to be.

What it prints is the log. It ends when its standard input does, so that no run outlives the process that started it.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recbole_vae.bench.memory import limit_memory
from recbole_vae.compare.results import FAILED, OUT_OF_MEMORY, Run
from recbole_vae.errors import RecBoleVAEError, is_out_of_memory

PRUNED = "pruned"


def main(file: str) -> int:
    """Do the job of a file; return 0 if a result was written."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    folder = Path(file).resolve().parent
    specification = json.loads(Path(file).read_text(encoding="utf-8"))
    job = specification["job"]
    warnings.filterwarnings("ignore")
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(asctime)s %(message)s")
    run = Run(job["dataset"], "", job["model"], job["model"], job["seed"], FAILED, settings=job["settings"])
    scores: list[float] = []
    (folder / "scratch").mkdir(exist_ok=True)
    os.chdir(folder / "scratch")  # RecBole leaves its logs and checkpoints there
    try:
        import torch

        import recbole_vae  # noqa: F401 - registers the models

        if specification.get("threads"):
            torch.set_num_threads(specification["threads"])
        sys.path[:0] = specification.get("path", [])
        for module in specification.get("imports", ()):
            importlib.import_module(module)
        from recbole_vae.compare.energy import Meter
        from recbole_vae.compare.measure import PrunedError, measure

        try:
            limit = specification.get("memory_limit")
            # CUDA reserves more address space than any sensible limit. After is_available() gpu_id would have no effect.
            without_limit = limit and torch.cuda.device_count() and job["settings"].get("use_gpu", True)
            unlimited = limit and not without_limit and not limit_memory(limit)
            meter = Meter() if specification.get("energy") and not job.get("trial") else None
            run = measure(job, _reporter(specification, scores) if job.get("trial") else None, meter)
            if without_limit:
                run.notes.append("memory_limit was not set, for there is a GPU.")
            if unlimited:
                run.notes.append("memory_limit was not set, for this system cannot limit a process's memory.")
        except PrunedError:
            run.status = PRUNED
    except BaseException as error:
        traceback.print_exc(file=sys.stdout)
        run.reason = _reason(error)
        if is_out_of_memory(error):
            run.status, limit = OUT_OF_MEMORY, specification.get("memory_limit")
            run.reason = f"memory did not suffice{f' (memory_limit: {limit:g} GB)' if limit else ''}: {run.reason}"
    run.trials = [{"scores": scores}] if job.get("trial") else []
    os.chdir(folder)
    run.save(folder)
    return 0


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split()) or "no message"
    return (text if isinstance(error, RecBoleVAEError) else f"{text} ({type(error).__name__})")[:400]


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)


def _reporter(specification: dict[str, Any], scores: list[float]) -> Callable[[int, float], bool]:
    """Return the callback of a trial: it keeps the scores, and asks Optuna's median rule whether to stop."""
    from recbole_vae.compare.tuning import pruner

    prune = pruner(specification["others"], specification["bigger"])

    def report(step: int, score: float) -> bool:
        scores.append(score)
        return prune(step, score)

    return report


if __name__ == "__main__":
    # Exit at once: there is nothing to clean up, and the thread that watches standard input would delay the end.
    status = 1
    try:
        status = main(sys.argv[1])
    except RecBoleVAEError as error:
        print(error)
    finally:
        sys.stdout.flush()
        os._exit(status)
