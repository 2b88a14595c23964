"""The results of a comparison's runs: a folder for each, and all of them read together.

A run is one model with one seed on one data set in one protocol. Its folder has ``result.json`` (everything but the users)
and ``users.npz`` (a row for each user); both are written whole or not at all.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recbole_vae.errors import DataError
from recbole_vae.storage.files import write_whole

DONE, FAILED, OUT_OF_MEMORY, TIMED_OUT, REFUSED = "done", "failed", "out of memory", "timed out", "cannot take part"
WAITING, NOT_RUN = "not run yet", "not run"
SETTLED = DONE, REFUSED, NOT_RUN
"""What a command leaves as it is; all else is tried again."""
LISTS = "lists"
"""Stands in the place of a model's name where another tool made the lists."""


@dataclass
class Users:
    """What is known of each test user.

    Attributes:
        ids: the data set's own ids, shape [users].
        history_length: number of items in the history by which the user is scored, int64, shape [users].
        metrics: values of each metric that is a mean over users (``ndcg@10``), float64, shape [users]; NaN for users who do
            not count in it, as in ``cold_ndcg@10`` those without a cold item to be found.
    """

    ids: NDArray[np.str_]
    history_length: NDArray[np.int64]
    metrics: dict[str, NDArray[np.float64]]


@dataclass
class Run:
    """One run, done or not.

    Attributes:
        dataset: its name; ``protocol``: the name of its protocol in the plan.
        label: name of the row of the table: the model's, unless the plan has another.
        model: name of the class; ``lists`` for lists that another tool made.
        seed: that of the model, and of the split unless the plan has a ``split_seed``.
        status: ``done``, ``failed``, ``out of memory``, ``timed out`` or ``cannot take part``.
        reason: why the run is not done, in one line.
        test: metrics on the test part, beyond accuracy, too, by lower-case names (``ndcg@10``, ``itemcoverage@10``).
        valid: the same on the validation part, at the best epoch.
        over_k: ``recall`` and ``ndcg`` on the test part at k = 1, 2, ...
        by_popularity: bins of the items, from the least popular: ``items`` (their number), ``popularity`` (mean number of
            training interactions), ``relevant`` (test interactions), ``recall`` (found among the first ``max(topk)``).
        frontier: ``popularity_correction`` and the test metrics with it, for several values and the same parameters; empty if
            the model has no such option.
        curve: for each epoch ``epoch``, ``seconds``, perhaps ``loss``, ``reconstruction``, ``kl``, ``beta``, and, if it was
            evaluated, the metrics.
        seconds: of the whole run; ``training_seconds``: of the epochs, without evaluation; both are wall time. ``cpu_seconds``:
            processor time of the steps of ``training_seconds``, over all threads, and over child processes that have ended;
            None in results of older versions.
        peak_memory: of the process in bytes: the resident set, or what torch took from a GPU.
        energy: of training and evaluation, in kWh; None if it is not known. ``energy_by``: what measured or estimated it, in a
            sentence.
        parameters: number of trained parameters; 0 for none.
        epochs: how many were trained; ``best_epoch``: the one that was tested, from 1; None if the model has no epochs.
        device: in words; ``versions``: of the packages.
        settings: the options of this run that were given, by name, as in a config file.
        data: size of the data set, filters and ``eval_args``, see :func:`~recbole_vae.compare.description.data`, and the
            ``checks`` of the split, see :func:`~recbole_vae.compare.checks.measure`; empty in results of older versions.
        trials: of tuning, if any: ``settings``, ``valid``, ``status`` and ``seconds`` (of its process) of each.
        split_hash: SHA-256 of the interactions of each part.
        lists: of lists of another tool, the ``file`` and its ``sha256``; empty for a model.
        notes: what was corrected or left out, in sentences.
        users: of the test part; None unless the run is done.
    """

    dataset: str
    protocol: str
    label: str
    model: str
    seed: int
    status: str = DONE
    reason: str = ""
    test: dict[str, float] = field(default_factory=dict)
    valid: dict[str, float] = field(default_factory=dict)
    over_k: dict[str, list[float]] = field(default_factory=dict)
    by_popularity: list[dict[str, float]] = field(default_factory=list)
    frontier: list[dict[str, float]] = field(default_factory=list)
    curve: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    training_seconds: float = 0.0
    cpu_seconds: float | None = None
    peak_memory: int = 0
    energy: float | None = None
    energy_by: str = ""
    parameters: int = 0
    epochs: int | None = None
    best_epoch: int | None = None
    device: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    trials: list[dict[str, Any]] = field(default_factory=list)
    split_hash: str = ""
    lists: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    users: Users | None = None

    def save(self, folder: Path) -> None:
        """Write the run into its folder. ``result.json`` is written last, so if it is there, everything is."""
        folder.mkdir(parents=True, exist_ok=True)
        if self.users is not None:
            buffer = io.BytesIO()
            arrays = {f"metric {name}": values for name, values in self.users.metrics.items()}
            np.savez_compressed(
                buffer,
                ids=self.users.ids,
                history_length=self.users.history_length,
                **arrays,  # type: ignore[arg-type]
            )
            write_whole(folder / "users.npz", buffer.getvalue())
        content = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "users"}
        write_whole(folder / "result.json", json.dumps(content, indent=1).encode())

    @classmethod
    def load(cls, folder: Path) -> Run:
        """Read a run from its folder.

        Raises:
            DataError: a file is missing or damaged.
        """
        try:
            run = cls(**json.loads((folder / "result.json").read_text(encoding="utf-8")))
            if run.status == DONE:
                with np.load(folder / "users.npz", allow_pickle=False) as arrays:
                    metrics = {n.removeprefix("metric "): arrays[n] for n in arrays.files if n.startswith("metric ")}
                    run.users = Users(arrays["ids"], arrays["history_length"], metrics)
        except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise DataError(
                f"{folder}: not the result of a run ({error}); delete this folder to run it again."
            ) from None
        return run


@dataclass
class Comparison:
    """All runs, and how they are to be compared.

    Attributes:
        runs: in the order of the plan: data set, protocol, label, seed.
        metrics: the columns of the table, in order (``recall@10``); ``primary``: the one that ranks and is tested.
        reference: label of the row against which the others are tested, as against the best one; None for none.
        alpha: level of the tests.
        trials: tuning trials of each row; 0 for none, or if ``tuning_time`` is given: seconds of tuning of each row.
        settings: the plan as plain values, for ``settings.yaml``.
        command: the command line that reproduces it.
    """

    runs: Sequence[Run]
    metrics: Sequence[str]
    primary: str
    reference: str | None
    alpha: float
    trials: int
    settings: dict[str, Any]
    command: str
    tuning_time: float | None = None

    @property
    def tuned(self) -> bool:
        """Whether rows with a search space were tuned."""
        return bool(self.trials or self.tuning_time)
