"""The option ``out``: the checkpoint of a run under a name of one's own, which is replaced at the end and in one step."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch.distributed as dist

from recbole_vae.errors import DataError
from recbole_vae.storage.files import written_whole


def publish(trainer: Any) -> None:
    """Put a trainer's checkpoint under the name that ``out`` gives, if it gives one.

    Until then a file of that name stays as it was, for whoever reads it. The trainer's own file goes, unless training resumed
    from it.

    Raises:
        DataError: the file cannot be written; the trainer's own is still there.
    """
    out, saved = trainer.config["out"], trainer.saved_model_file
    if not out:
        return
    if not dist.is_initialized() or dist.get_rank() == 0:
        _move(Path(saved), Path(out), keep=bool(trainer.config["resume"]))
    if dist.is_initialized():
        dist.barrier()
    trainer.saved_model_file = out
    trainer.logger.info(f"The checkpoint is {out}")


def _move(saved: Path, out: Path, *, keep: bool) -> None:
    if out.exists() and out.samefile(saved):
        return
    try:
        with saved.open("rb") as source, written_whole(out, binary=True) as target:
            shutil.copyfileobj(source, target, 2**24)
            target.flush()
            os.fsync(target.fileno())
    except DataError as error:
        raise DataError(f"{error} The checkpoint is in {saved}.") from None
    if not keep:
        saved.unlink()
