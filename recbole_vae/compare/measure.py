"""One run of a comparison, in this process: train a model by RecBole's own steps, then measure it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from recbole.utils import ModelType, get_model, get_trainer, init_seed

from recbole_vae.bench.memory import peak_memory
from recbole_vae.compare import part
from recbole_vae.compare.energy import Meter
from recbole_vae.compare.exported import export
from recbole_vae.compare.foreign import measure_lists
from recbole_vae.compare.prepared import prepare, started
from recbole_vae.compare.results import DONE, LISTS, REFUSED, Run, Users
from recbole_vae.data import padding
from recbole_vae.errors import ConfigError, DataError
from recbole_vae.evaluation.collector import FastCollector
from recbole_vae.model.base import HistoryRecommender
from recbole_vae.model.registry import recbole_name
from recbole_vae.training.clock import cpu_seconds

CORRECTIONS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
"""Values of ``popularity_correction`` with which a trained model is evaluated."""

PRETRAINING = ("actor_pretrain", "critic_pretrain")
"""Values of ``train_stage`` for which RecBole trains its RaCT without validation, before ``finetune``."""


class PrunedError(Exception):
    """A tuning trial was stopped because it did worse than earlier trials."""


def measure(job: dict[str, Any], report: Callable[[int, float], bool] | None = None, meter: Meter | None = None) -> Run:
    """Train and evaluate the model of a job (see ``Plan.job``), or evaluate the lists of another tool.

    Args:
        job: the job; with a true ``trial``, only the validation part is measured; with ``export``, the split is written.
        report: called after each validation with its number and score; the run stops if it returns True.
        meter: measures the energy of training and evaluation.

    Raises:
        PrunedError: ``report`` stopped the run.
        Exception: whatever RecBole or the model raises.
    """
    start = time.perf_counter()
    run = started(job)
    if "export" in job:
        return export(job, run)
    if job["model"] == LISTS:
        return measure_lists(job, run)
    model_class = get_model(job["model"])
    if model_class.type not in (ModelType.GENERAL, ModelType.TRADITIONAL):
        run.status, run.reason = (
            REFUSED,
            f"{job['model']} is a {model_class.type.name.lower()} model, not a general one.",
        )
        return run
    data = prepare(job, run)
    if data is None:
        return run
    config, train, valid, test, seed = data.config, data.train, data.valid, data.test, job["seed"]
    if meter is not None:
        meter.start()
    init_seed(seed, config["reproducibility"])
    if config["train_stage"] == PRETRAINING[0]:
        config = _pretrained(config, model_class, train, run)
    with _training(run):
        net = model_class(config, train._dataset).to(config["device"])
    trainer = get_trainer(config["MODEL_TYPE"], job["model"])(config, net)
    numbers = [parameter.numel() for parameter in net.parameters() if parameter.requires_grad]
    if sum(numbers) <= 1 and not _learns(net):  # RecBole gives models without parameters a single one, for its trainer
        _mend(net, train._dataset, run)
        trainer.eval_collector.data_collect(train)
    else:
        run.parameters = sum(numbers) if sum(numbers) > 1 else 0
        _train(trainer, train, valid, run, report)
    run.valid = _lists(config, trainer, train, valid, job, whole=False, best=run.epochs is not None).metrics
    if report is not None and run.epochs is None:
        report(1, run.valid[job["primary"].lower()])
    run.users = Users(np.empty(0, dtype=str), np.empty(0, dtype=np.int64), {})  # of a trial
    if not job.get("trial"):
        found = _lists(config, trainer, train, test, job, whole=True)
        run.test, run.over_k, run.by_popularity = found.metrics, found.over_k, found.by_popularity
        run.users = found.users
        if isinstance(net, HistoryRecommender):
            run.frontier = _frontier(config, trainer, train, test, job, run.test)
    if meter is not None:
        run.energy = meter.stop()
        run.energy_by = meter.how()
    on_gpu = config["device"].type == "cuda"
    run.peak_memory = peak_memory(on_gpu)
    run.device = torch.cuda.get_device_name() if on_gpu else f"CPU, {torch.get_num_threads()} threads"
    run.status, run.seconds = DONE, time.perf_counter() - start
    return run


@contextlib.contextmanager
def _training(run: Run) -> Iterator[None]:
    """Add the time of a block to that of the training."""
    start, cpu = time.perf_counter(), cpu_seconds()
    yield
    _add_training(run, time.perf_counter() - start, cpu_seconds() - cpu)


def _add_training(run: Run, seconds: float, cpu: float) -> None:
    run.training_seconds += seconds
    run.cpu_seconds = (run.cpu_seconds or 0.0) + cpu


def _learns(net: Any) -> bool:
    """Tell whether a model without parameters learns from its batches: RecBole's do not, or, as Pop, wrongly."""
    own = type(net).calculate_loss
    return not own.__module__.startswith("recbole.")


def _mend(net: Any, training: Any, run: Run) -> None:
    """Correct the faults of RecBole's models without parameters, and of models that are derived from them."""
    base = recbole_name(type(net))
    if base == "Pop":
        items = training.inter_feat[training.iid_field]
        net.item_cnt = torch.bincount(items, minlength=net.n_items).unsqueeze(1).to(net.item_cnt.device)
        net.max_cnt = net.item_cnt.max(dim=0)[0]
        run.notes.append(
            f"{run.model} counts every training interaction; RecBole's Pop counts an item once in each batch."
        )
    elif base == "ADMMSLIM":
        run.notes.append("RecBole's ADMMSLIM adds noise of up to 1e-5 to its scores, drawn by the seed.")


def _pretrained(config: Any, model_class: Any, train: Any, run: Run) -> Any:
    """Run the stages of pretraining, which in RecBole are separate runs, and return the config of the last stage.

    Raises:
        ConfigError: a stage would end without saving a model.
    """
    if not 1 <= int(config["save_step"]) <= int(config["pretrain_epochs"]):
        raise ConfigError(
            f"save_step: {config['save_step']} must be from 1 to pretrain_epochs: {config['pretrain_epochs']}; else a "
            "stage of training saves no model."
        )
    path = ""
    with _training(run):
        for stage in PRETRAINING:
            staged = part.with_options(config, train_stage=stage, pre_model_path=path)
            trainer = get_trainer(config["MODEL_TYPE"], run.model)(
                staged, model_class(staged, train._dataset).to(config["device"])
            )
            trainer.fit(train, show_progress=False)
            path = trainer.saved_model_file
    run.notes.append(
        f"{run.model} is trained in three stages; the curves show the last. The others have pretrain_epochs: "
        f"{config['pretrain_epochs']} each."
    )
    return part.with_options(config, train_stage="finetune", pre_model_path=path)


def _train(trainer: Any, train: Any, valid: Any, run: Run, report: Callable[[int, float], bool] | None) -> None:
    """Train by RecBole's ``fit`` and record the training curve in ``run``."""
    train_epoch, valid_epoch, save = trainer._train_epoch, trainer._valid_epoch, trainer._save_checkpoint

    def timed_epoch(train_data: Any, epoch_idx: int, *args: Any, **kwargs: Any) -> Any:
        before = run.training_seconds
        with _training(run):
            loss = train_epoch(train_data, epoch_idx, *args, **kwargs)
        seconds = run.training_seconds - before
        total = float(sum(loss) if isinstance(loss, tuple) else loss)
        # RecBole's loss is a sum over batches.
        terms = getattr(trainer, "loss_terms", None) or {"loss": total / max(1, len(train_data))}
        run.curve.append({"epoch": epoch_idx + 1, "seconds": seconds, **{k: float(v) for k, v in terms.items()}})
        return loss

    def kept_valid(*args: Any, **kwargs: Any) -> Any:
        score, result = valid_epoch(*args, **kwargs)
        if run.curve:
            run.curve[-1].update({name: float(value) for name, value in result.items()})
        return score, result

    def noted_save(epoch: int, *args: Any, **kwargs: Any) -> None:
        save(epoch, *args, **kwargs)
        run.best_epoch = epoch + 1

    evaluations = 0

    def callback(epoch: int, score: float) -> None:
        nonlocal evaluations
        evaluations += 1
        if report is not None and report(evaluations, float(score)):
            raise PrunedError

    trainer._train_epoch, trainer._valid_epoch, trainer._save_checkpoint = timed_epoch, kept_valid, noted_save
    trainer.fit(train, valid, saved=True, show_progress=False, callback_fn=callback)
    _add_training(run, getattr(trainer, "mixing_seconds", 0.0), getattr(trainer, "mixing_cpu_seconds", 0.0))
    if getattr(trainer.model, "chosen", None):
        run.notes.append(f"{run.model}: {trainer.model.found()}.")
    run.notes += [f"{note}." for note in getattr(trainer, "notes", [])]
    run.epochs = len(run.curve)
    if run.best_epoch is None:
        raise DataError("no epoch was saved, because no validation score was a number.")


class _NoEvaluator:
    """Stands in for an evaluator and returns the collected lists."""

    def evaluate(self, collected: Any) -> Any:
        return collected


def _lists(
    config: Any, trainer: Any, train: Any, loader: Any, job: dict[str, Any], *, whole: bool, best: bool = False
) -> part.PartResults:
    """Evaluate a part once, at the largest k, and compute everything from the lists.

    Args:
        config: RecBole's config.
        trainer: the trainer of the model.
        train: dataloader of the training part.
        loader: dataloader of the part to evaluate.
        job: names the metrics and k.
        whole: see :func:`~recbole_vae.compare.part.results`.
        best: whether to load the best epoch first.
    """
    max_k = min(job["max_k"], padding.real(loader._dataset.item_num)) if whole else max(job["topk"])
    measured = part.options(config, job, max_k)
    collector, before = FastCollector(measured), (trainer.eval_collector, trainer.evaluator)
    collector.data_collect(train)
    trainer.eval_collector, trainer.evaluator = collector, _NoEvaluator()
    try:
        lists = trainer.evaluate(loader, load_best_model=best, show_progress=False)
    finally:
        trainer.eval_collector, trainer.evaluator = before
    return part.results(measured, lists, train, loader, job, whole=whole)


def _frontier(
    config: Any, trainer: Any, train: Any, test: Any, job: dict[str, Any], own: dict[str, float]
) -> list[dict[str, float]]:
    """Return the test metrics for each of ``CORRECTIONS``; ``own`` are those at the model's own correction."""
    net = trainer.model
    found = []
    try:
        for strength in CORRECTIONS:
            metrics = own
            if strength != net.options.popularity_correction:
                net.correct_popularity(strength)
                metrics = _lists(config, trainer, train, test, job, whole=False).metrics
            found.append({"popularity_correction": strength, **metrics})
    finally:
        net.correct_popularity(net.options.popularity_correction)
    return found
