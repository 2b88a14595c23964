"""A run by ``recbole-vae run`` in a process of its own, timed until a validation metric reaches a value."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Point:
    """A validation: when it ended, and what it found.

    Attributes:
        seconds: since the start of the process.
        epochs: trained so far.
        score: the validation metric.
        evaluating: seconds of all validations so far.
    """

    seconds: float
    epochs: int
    score: float
    evaluating: float


@dataclass
class Timed:
    """What one process found.

    Attributes:
        reached: whether the metric reached the value; without a value, whether there was a validation.
        seconds: since the start of the process: when the metric reached the value, or, without a value, its best; if it did not
            reach the value, when training ended.
        epochs: trained by then.
        score: the metric by then; if it did not reach the value, its best.
        start: seconds until Python and all libraries were there.
        load: seconds from then on until training began: the data, their split, the model.
        train: seconds of training.
        evaluate: seconds of validations.
        data: numbers of users, items and training interactions.
        split: a hash of the training and the validation part.
        curve: all validations.
        error: why nothing was measured, or "".
    """

    reached: bool = False
    seconds: float = 0.0
    epochs: int = 0
    score: float = 0.0
    start: float = 0.0
    load: float = 0.0
    train: float = 0.0
    evaluate: float = 0.0
    data: list[int] = field(default_factory=list)
    split: str = ""
    curve: list[Point] = field(default_factory=list)
    error: str = ""


class _Enough(BaseException):
    """Passes through everything that handles errors."""


def child(specification: str, command: Callable[[Sequence[str]], int]) -> None:
    """Carry out a specification in JSON (see :mod:`recbole_vae.bench.target`) and write the result to the file it names.

    Nothing is written if the command fails; it has then said why.

    Args:
        specification: what to do.
        command: the console command, which gets the words.
    """
    wanted = json.loads(specification)
    sys.path.append(wanted["path"])  # this process has a working directory of its own
    import torch
    from recbole.quick_start import quick_start

    if wanted["threads"]:
        torch.set_num_threads(wanted["threads"])
    watch = _Watch(wanted["started"], wanted["value"], wanted["limit"])
    watch.timed.start = watch.now()
    get_trainer = quick_start.get_trainer

    def watched(*arguments: Any) -> Callable[..., Any]:
        return lambda config, model: watch.over(get_trainer(*arguments)(config, model))

    quick_start.get_trainer = watched
    try:
        command(wanted["words"])
    except _Enough:
        Path(wanted["result"]).write_text(json.dumps(asdict(watch.timed)), encoding="utf-8")


class _Watch:
    """Watches a trainer.

    Args:
        started: when the process was started, by ``time.monotonic``, which all processes share.
        value: ends the run when the metric reaches it; None for the best that early stopping lets it reach.
        limit: seconds after which the run ends; None for no limit.
    """

    def __init__(self, started: float, value: float | None, limit: float | None) -> None:
        self.started, self.value, self.limit = started, value, limit
        self.timed = Timed()

    def now(self) -> float:
        """Return the seconds since the start of the process."""
        return time.monotonic() - self.started

    def over(self, trainer: Any) -> Any:
        """Return the trainer, which from now on is watched."""
        fit, validate = trainer.fit, trainer._valid_epoch
        bigger, curve = trainer.valid_metric_bigger, self.timed.curve
        parts: list[Any] = []

        def point(score: float, seconds: float) -> None:
            validations, before = (len(curve) + 1, curve[-1].evaluating) if curve else (1, 0.0)
            curve.append(Point(self.now(), validations * trainer.eval_step, float(score), before + seconds))
            Path("progress").write_text(f"epoch {curve[-1].epochs}: {score:.4f}", encoding="utf-8")
            late = self.limit is not None and self.now() > self.limit
            if late or (self.value is not None and _as_good(score, self.value, bigger)):
                self._end(bigger, parts)

        def watched_validate(*arguments: Any, **options: Any) -> Any:
            begun = time.monotonic()
            score, result = validate(*arguments, **options)
            point(score, time.monotonic() - begun)
            return score, result

        def watched_fit(train: Any, valid: Any = None, *arguments: Any, **options: Any) -> Any:
            self.timed.load = self.now() - self.timed.start
            parts[:] = [train._dataset, *([valid._dataset] if valid else [])]
            score, _ = fit(train, valid, *arguments, **options)
            best = _best(curve, bigger).score if curve else score
            if score != best and _as_good(score, best, bigger):  # found after the last epoch, as by HybridVAE
                curve.append(Point(self.now(), curve[-1].epochs, float(score), curve[-1].evaluating))
            self._end(bigger, parts)

        trainer.fit, trainer._valid_epoch = watched_fit, watched_validate
        return trainer

    def _end(self, bigger: bool, parts: Sequence[Any]) -> None:
        """Say what was found, and end the run."""
        from recbole_vae.data import padding

        timed, end = self.timed, self.now()
        if not timed.curve:
            raise _Enough
        best = _best(timed.curve, bigger)
        timed.reached = self.value is None or _as_good(best.score, self.value, bigger)
        there = best if timed.reached else timed.curve[-1]
        timed.seconds = there.seconds if timed.reached else end
        timed.epochs, timed.score, timed.evaluate = there.epochs, best.score, there.evaluating
        timed.train = timed.seconds - timed.start - timed.load - timed.evaluate
        timed.data = [padding.real(parts[0].user_num), padding.real(parts[0].item_num), len(parts[0])]
        timed.split = _hash(parts)
        raise _Enough


def _as_good(score: float, value: float, bigger: bool) -> bool:
    return score >= value if bigger else score <= value


def _best(curve: Sequence[Point], bigger: bool) -> Point:
    """Return the first validation that found the best."""
    return (max if bigger else min)(curve, key=lambda point: point.score)


def _hash(parts: Sequence[Any]) -> str:
    from recbole_vae.training.restore import data_hash  # later than the clock's start

    return " ".join(data_hash(part) for part in parts)
