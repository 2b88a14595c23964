"""The checkpoints of the trainer: writing one after an epoch, and going on from one."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.distributed as dist
from recbole.utils import set_color

from recbole_vae.errors import CheckpointError
from recbole_vae.model.base import HistoryRecommender
from recbole_vae.storage import checkpoint
from recbole_vae.training.averaging import WeightAverage

_SAVED_EVERY = 30.0
"""Without a validation part, epochs before the last are saved this many seconds apart, for a resume."""


class Saving:
    """What stands before RecBole's ``Trainer`` to write and read this package's checkpoints.

    The attributes are RecBole's and those of :class:`recbole_vae.training.trainer.HistoryTrainer`.
    """

    config: Any
    logger: Any
    model: HistoryRecommender
    optimizer: Any
    learning_rate: float
    epochs: int
    start_epoch: int
    cur_step: int
    saved_model_file: str
    best_valid_score: float
    best_valid_result: Any
    _average: WeightAverage | None
    _evaluations: list[bool]
    _of_earlier: dict[str, Any]
    _resumed: Mapping[str, Any] | None
    _saved_at: float
    _train_data: Any
    _validates: bool
    _reach: float
    _inherited: list[str]
    _leaks: list[tuple[Any, list[str]]]

    @property
    def notes(self) -> list[str]:
        """What makes results of this model misleading: what earlier models had, and what was found on each part."""
        return [*self._inherited, *(note for _, notes in self._leaks for note in notes)]

    def _save_checkpoint(self, epoch: int, verbose: bool = True, **kwargs: Any) -> None:
        """Write a checkpoint after an epoch; see :mod:`recbole_vae.storage.checkpoint`."""
        path = kwargs.pop("saved_model_file", self.saved_model_file)
        if not self._validates and epoch + 1 < self.epochs and time.monotonic() < self._saved_at + _SAVED_EVERY:
            return  # the last epoch is the one that counts; each of these may take as long as an epoch
        self._saved_at = time.monotonic()
        if self._rank() == 0:
            dataset = self._train_data._dataset
            histories = self.model.histories.to("cpu")
            state = {
                "model": self.config["model"],
                "dataset": self.config["dataset"],
                "config": checkpoint.plain_config(self.config),
                "users": list(map(str, dataset.field2id_token[dataset.uid_field])),
                "items": list(map(str, dataset.field2id_token[dataset.iid_field])),
                "split_hash": getattr(dataset, "split_hash", None),
                "histories": {"indptr": histories.indptr, "indices": histories.indices, "values": histories.values},
                "epoch": epoch,
                "cur_step": self.cur_step,
                "best_valid_score": float(self.best_valid_score),
                "best_valid_result": checkpoint.plain(self.best_valid_result),
                "state_dict": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "random": {**checkpoint.random_states(), "train_data": self._train_data.generator.get_state()},
                "evaluations": list(self._evaluations),
                "epochs_from_scratch": epoch + 1,
                "notes": self.notes,
                **self._of_earlier,
            }
            if self._average:
                state["average"] = {"count": self._average.count, "weights": self._average.others}
            checkpoint.save(state, path)
            if verbose:
                self.logger.info(set_color("Saving current", "blue") + f": {path}")
        if dist.is_initialized():
            dist.barrier()

    def resume_checkpoint(self, resume_file: str | Path) -> None:
        """Restore the state of a checkpoint, so that :meth:`fit` continues as if it had never stopped.

        The constructor does this if the option ``resume`` is set.

        Args:
            resume_file: a checkpoint of the same model on the same data. Training continues to write to this file.

        Raises:
            CheckpointError: the file cannot be read, or its model or dimensions differ.
            ConfigError: an option differs.
        """
        state = checkpoint.take(resume_file)
        checkpoint.check_model(state, resume_file, self.config["model"])
        given = self.config.external_config_dict
        changes = checkpoint.check_options(state["config"], checkpoint.plain_config(self.config), resume_file, given)
        self._check_profiles(state, resume_file)
        self._load_parameters(state, resume_file)
        strengths = state["state_dict"]["_extra_state"].get("strengths")
        self._reach = strengths.get("reach", 1.0) if strengths else 1.0  # which a refit has from another run
        self._inherited = list(state.get("notes", []))
        try:
            self.optimizer.load_state_dict(state["optimizer"])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{resume_file}: the optimiser's state does not fit this model ({error}).") from None
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate
        self.saved_model_file = str(resume_file)
        self.start_epoch = state["epoch"] + 1
        self.cur_step = state["cur_step"]
        self.best_valid_score = state["best_valid_score"]
        self.best_valid_result = state["best_valid_result"]
        self._evaluations = list(state.get("evaluations") or [])
        if "evaluations" not in state:  # from a file of 1.0.0
            self._of_earlier["evaluations"] = None
        if state.get("epochs_from_scratch", state["epoch"] + 1) != state["epoch"] + 1:
            self._of_earlier["epochs_from_scratch"] = state["epochs_from_scratch"]
        self._resumed = state
        self.logger.info(f"Checkpoint {resume_file} loaded. Training goes on at epoch {self.start_epoch}.")
        for change in changes:
            self.logger.warning(f"{change}.")

    def _check_profiles(self, state: Mapping[str, Any], path: str | Path) -> None:
        """Raise a CheckpointError if the users' fields have more or fewer columns now: as many stay what they were."""
        before, now = state["state_dict"]["_extra_state"].get("profiles"), self.model.user_space
        if before is None or now is None:
            return
        from recbole_vae.data.features import FeatureSpace  # here: pandas makes every import slow

        width = FeatureSpace.from_state(before).width
        if width != now.width:
            raise CheckpointError(
                f"{path}: has {width} columns for the values of user_features ({', '.join(now.fields)}), and the .user file "
                f"gives {now.width} now. Put the former file back, or begin anew with --warm_start={path}, which keeps what was "
                "learned of profiles."
            )

    def _load_parameters(self, state: Mapping[str, Any], path: str | Path) -> None:
        """Load the parameters of a checkpoint, or raise a CheckpointError that names the first that does not fit."""
        own, state_dict = self.model.state_dict(), state["state_dict"]
        for name in own.keys() | state_dict.keys():
            mine, saved = (getattr(each.get(name), "shape", None) for each in (own, state_dict))
            if (name in own) != (name in state_dict) or mine != saved:
                shapes = [list(shape) if shape is not None else "none" for shape in (saved, mine)]
                raise CheckpointError(
                    f"{path}: parameter '{name}' has shape {shapes[0]} in the checkpoint and {shapes[1]} in the model. The "
                    "checkpoint was written with other hyper-parameters or other data."
                )
        if self._average and "average" in state:
            weights = state["average"]["weights"]
            shapes = [[getattr(each, "shape", None) for each in some] for some in (weights, self._average.parameters)]
            if shapes[0] != shapes[1]:
                raise CheckpointError(
                    f"{path}: damaged checkpoint: the weights of 'average' are not those of the model."
                )
            self._average.resume(state["average"]["count"], weights)
        self.model.load_state_dict(state_dict)
        if self._average and "average" not in state:  # from a run without an average: this one starts anew
            self._average = WeightAverage(self.model.parameters(), self._average.epochs)

    @staticmethod
    def _rank() -> int:
        return dist.get_rank() if dist.is_initialized() else 0
