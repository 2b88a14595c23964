"""Evaluation by several processes, with the result of one."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from recbole_vae.evaluation.metrics import FastEvaluator


class GatheringEvaluator(FastEvaluator):
    """The evaluator on the users of all processes.

    RecBole averages the rounded metrics of the processes, weighted by their numbers of batches. Users are counted twice where
    the processes do not share them evenly. Here the rows of all users come together first, in the order of one process.

    Attributes:
        rows: number of users of all processes; to be set before each evaluation.
    """

    rows = 0

    def evaluate(self, dataobject: Any) -> Any:
        """Gather what was collected for each user, then evaluate."""
        for key in list(dataobject._data_dict):
            name = key.rpartition(":")[2]
            if name.startswith("rec.") or name == "data.label":
                parts: list[Any] = [None] * dist.get_world_size()
                dist.all_gather_object(parts, dataobject.get(key))
                if name in ("rec.score", "data.label"):  # a row for each pair, whose order does not matter
                    dataobject.set(key, torch.cat(parts))
                else:  # RecBole's sampler deals the users out in turn and repeats the first to make the shares equal
                    dataobject.set(key, torch.stack(parts, dim=1).flatten(0, 1)[: self.rows])
        return super().evaluate(dataobject)
