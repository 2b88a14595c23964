"""Tuning: search spaces, and studies of Optuna that continue after a stop.

A space maps options to their possible values: a list, or ``{from: A, to: B}``, perhaps with ``log: True``, for the numbers
between (integers, if both are). Those of ``properties/hyper`` are used unless the plan has others.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from recbole_vae.compare.plan import Plan, PlanRow, digest, run_key
from recbole_vae.compare.plan_file import YAML
from recbole_vae.errors import ConfigError, DataError
from recbole_vae.options.recbole import properties_folder

COUNTED = ("COMPLETE", "PRUNED", "FAIL")


def space_of(plan: Plan, dataset: str, protocol: str, row: PlanRow) -> dict[str, Any]:
    """Return the search space of a row on a data set in a protocol; empty if nothing is to be tuned.

    The spaces of ``properties/hyper`` leave out what the plan or the command line sets.
    """
    found = plan.space(row)
    if found is not None:
        return dict(found[0])
    path = properties_folder() / f"hyper/{row.model}.yaml"
    space = yaml.load(path.read_text(encoding="utf-8"), Loader=YAML) if path.is_file() else {}
    given = plan.job(dataset, protocol, row, plan.seeds[0])["settings"]
    return {name: each for name, each in space.items() if name not in given}


def study_name(plan: Plan, dataset: str, protocol: str, row: PlanRow) -> str:
    """Return the name of the file of a row's trials; empty if nothing is to be tuned."""
    if not plan.tuned or row.lists is not None or not (space := space_of(plan, dataset, protocol, row)):
        return ""
    job = plan.job(dataset, protocol, row, plan.seeds[0])
    return f"{digest([run_key(protocol, row.label, job), space])[:16]}.journal"


def optuna() -> Any:
    """Return Optuna, with its messages turned off.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import optuna as module
    except ImportError:
        raise ConfigError("tuning needs Optuna: pip install 'recbole_vae[compare]' first.") from None
    module.logging.set_verbosity(module.logging.ERROR)
    warnings.filterwarnings("ignore", category=module.exceptions.ExperimentalWarning)
    return module


def pruner(others: Sequence[Sequence[float]], bigger: bool) -> Callable[[int, float], bool]:
    """Return a function of step (from 1) and score that says whether to stop, by Optuna's median rule.

    Args:
        others: scores of the trials that were not stopped, by step. With 4 and more of them, one may be stopped from
            step 5 on.
        bigger: whether larger scores are better.
    """
    module = optuna()
    study = module.create_study(
        direction="maximize" if bigger else "minimize",
        pruner=module.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=5),
    )
    for scores in others:
        steps = dict(enumerate(scores, start=1))
        study.add_trial(
            module.trial.create_trial(value=max(scores) if bigger else min(scores), intermediate_values=steps)
        )
    trial = study.ask()

    def prune(step: int, score: float) -> bool:
        trial.report(score, step)
        return bool(trial.should_prune())

    return prune


def another(plan: Plan, trials: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether the budget of a row has another trial after some.

    With a budget by time there is always one, and the last one may end later. A second counts for a trial at least, so that
    trials which cannot even start come to an end.
    """
    if plan.tuning_time is None:
        return len(trials) < plan.trials
    return not trials or sum(max(1.0, each["seconds"]) for each in trials) < plan.tuning_time


class Study:
    """The trials of one row on one data set in one protocol, kept in a file.

    The next trial depends only on the seed and the trials before it, so a study that was stopped continues as if it was not.

    Args:
        file: of the trials; those that a killed process left unfinished are dropped.
        space: see the module.
        seed: of the proposals.
        bigger: whether larger scores are better.
        defaults_first: whether the first trial has the default settings, and not some of the space.

    Raises:
        DataError: the file is damaged.
    """

    def __init__(
        self, file: Path, space: Mapping[str, Any], seed: int, bigger: bool, defaults_first: bool = False
    ) -> None:
        self._optuna, self.space, self.seed, self.bigger = optuna(), space, seed, bigger
        self.defaults_first = defaults_first
        file = file.resolve()  # Optuna's lock is a link to it
        file.parent.mkdir(parents=True, exist_ok=True)
        _clean(file)
        storages = self._optuna.storages
        try:
            self._study = self._optuna.create_study(
                storage=storages.JournalStorage(storages.journal.JournalFileBackend(str(file))),
                study_name="study",
                direction="maximize" if bigger else "minimize",
                load_if_exists=True,
            )
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{file}: the journal of these trials is damaged ({error}); delete it to make them again."
            ) from None
        for trial in self._study.get_trials(deepcopy=False):
            if trial.state.name not in COUNTED:  # its process is gone
                self._study.tell(trial.number, state=self._optuna.trial.TrialState.FAIL)

    def trials(self) -> list[dict[str, Any]]:
        """Return the trials that ended: ``settings``, ``valid`` (None if it failed), ``status``, ``seconds`` and ``scores``."""
        return [t.user_attrs["result"] for t in self._study.get_trials(deepcopy=False) if "result" in t.user_attrs]

    def ask(self) -> tuple[Any, dict[str, Any]]:
        """Return the next trial and its settings."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._study.sampler = self._optuna.samplers.TPESampler(seed=(self.seed + 7919 * len(self.trials())) % 2**32)
            trial = self._study.ask()
            if self.defaults_first and not self.trials():
                return trial, {}
            return trial, {name: _suggest(trial, name, each) for name, each in self.space.items()}

    def tell(self, trial: Any, result: dict[str, Any]) -> None:
        """Keep the result of a trial; its status is ``done``, ``pruned``, or why there is none."""
        states = self._optuna.trial.TrialState
        for step, score in enumerate(result["scores"], start=1):
            trial.report(score, step)
        trial.set_user_attr("result", result)
        if result["status"] == "done":
            self._study.tell(trial, result["valid"])
        else:
            self._study.tell(trial, state=states.PRUNED if result["status"] == "pruned" else states.FAIL)

    def best(self) -> dict[str, Any] | None:
        """Return the best trial that was done, the first of equals; None if all failed."""
        done = [each for each in self.trials() if each["status"] == "done"]
        return (max if self.bigger else min)(done, key=lambda each: each["valid"]) if done else None


def _clean(journal: Path) -> None:
    """Remove what a killed process may have left: a lock (only this process has the folder) and half a line at the end."""
    for lock in journal.parent.glob(f"{journal.name}.lock*"):
        lock.unlink()
    if journal.is_file():
        content = journal.read_bytes()
        half = content.rpartition(b"\n")[2]
        if half:
            os.truncate(journal, len(content) - len(half))


def _suggest(trial: Any, name: str, allowed: Any) -> Any:
    if isinstance(allowed, list):  # as text, because a value may be a list
        return json.loads(trial.suggest_categorical(name, [json.dumps(each) for each in allowed]))
    low, high, log = allowed["from"], allowed["to"], bool(allowed.get("log"))
    if isinstance(low, int) and isinstance(high, int):
        return trial.suggest_int(name, low, high, log=log)
    return trial.suggest_float(name, low, high, log=log)
