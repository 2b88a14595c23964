"""The device of ``recbole.config.Config``, and the group of processes that it makes."""

from __future__ import annotations

import os
from itertools import count
from typing import Any

from recbole_vae.errors import ConfigError
from recbole_vae.options.processes import torchrun_group

_groups = count()


def init_device(original: Any) -> Any:
    """Make ``use_gpu: False`` mean the CPU, keep ``CUDA_VISIBLE_DEVICES`` and refuse a ``gpu_id`` that is not there.

    And let several processes without a GPU talk through gloo.
    """

    def choose_device(self: Any) -> None:
        import torch

        options = self.final_config_dict
        if "local_rank" not in options or (options["use_gpu"] and torch.cuda.is_available()):
            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
            if not options["use_gpu"]:  # at which RecBole does not look
                options["gpu_id"] = ""
            elif visible is not None and "gpu_id" not in self.external_config_dict:
                options["gpu_id"] = visible  # RecBole would take the first GPU, whichever a cluster has assigned
            # Not is_available(), for after it the variable no longer decides which GPUs this process sees.
            present = torch.cuda.device_count()
            if "local_rank" in options and torchrun_group() and "gpu_id" not in self.external_config_dict:
                options["gpu_id"] = visible or ",".join(map(str, range(present)))  # one for each process
            original(self)
            _silence_others(options)
            if options["device"].type == "cuda":
                return
            os.environ.pop("CUDA_VISIBLE_DEVICES")  # with which RecBole has hidden the GPUs, from later runs, too
            if visible is not None:
                os.environ["CUDA_VISIBLE_DEVICES"] = visible
            chosen = options["gpu_id"]
            if present and chosen and not chosen.startswith("-"):
                raise ConfigError(
                    f"gpu_id: {chosen!r}: there is no such GPU; choose a number that nvidia-smi lists, or set use_gpu: False."
                )
            return
        # What RecBole does for several processes, for a machine without a GPU.
        from torch.distributed.rendezvous import rendezvous

        url, rank = f"tcp://{options['ip']}:{options['port']}", options["local_rank"] + options["offset"]
        store, _, world_size = next(rendezvous(url, rank, options["world_size"]))
        # torchrun keeps its store for all groups that a script makes, one after the other.
        store = torch.distributed.distributed_c10d.PrefixStore(f"group {next(_groups)}", store)
        torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
        options.update(gpu_id="", device=torch.device("cpu"), single_spec=False)
        _silence_others(options)

    return choose_device


def _silence_others(options: dict[str, Any]) -> None:
    """Let one process of several show progress and write the log; RecBole lets one of each machine."""
    if options["local_rank"] + (options.get("offset") or 0):
        options.update(state="error", show_progress=False, verbose=False, log_wandb=False)
