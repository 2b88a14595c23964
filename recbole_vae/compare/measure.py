"""One run of a comparison, in this process: train a model by RecBole's own steps, then measure it."""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import ModelType, get_model, get_trainer, init_seed

from recbole_vae.bench.memory import peak_memory
from recbole_vae.compare import description
from recbole_vae.compare.results import DONE, REFUSED, Run, Users
from recbole_vae.data import padding
from recbole_vae.data.splits import split_hash
from recbole_vae.errors import ConfigError, DataError
from recbole_vae.evaluation.collector import FastCollector
from recbole_vae.evaluation.fold_in import why_not
from recbole_vae.evaluation.metrics import FastEvaluator
from recbole_vae.evaluation.new_items import refusal
from recbole_vae.model.base import HistoryRecommender
from recbole_vae.model.registry import recbole_name
from recbole_vae.options.evaluation import COLD, WARM, holds_out_items, holds_out_users
from recbole_vae.storage import checkpoint

SHARE = 0.2
"""Share of the training interactions in each popularity bin of the items; the first bin is the tail."""

CORRECTIONS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
"""Values of ``popularity_correction`` with which a trained model is evaluated."""

PRETRAINING = ("actor_pretrain", "critic_pretrain")
"""Values of ``train_stage`` for which RecBole trains its RaCT without validation, before ``finetune``."""


class PrunedError(Exception):
    """A tuning trial was stopped because it did worse than earlier trials."""


def measure(job: dict[str, Any], report: Callable[[int, float], bool] | None = None) -> Run:
    """Train and evaluate the model of a job (see ``Plan.job``).

    Args:
        job: the job; with a true ``trial``, only the validation part is measured.
        report: called after each validation with its number and score; the run stops if it returns True.

    Raises:
        PrunedError: ``report`` stopped the run.
        Exception: whatever RecBole or the model raises.
    """
    started = time.perf_counter()
    sys.argv = sys.argv[:1]
    run = Run(job["dataset"], "", job["model"], job["model"], job["seed"])
    run.settings, run.versions = dict(job["settings"]), checkpoint.versions()
    model_class = get_model(job["model"])
    torch.autograd.set_detect_anomaly(False)  # importing RecBole's SINE turns it on for the whole process
    if model_class.type not in (ModelType.GENERAL, ModelType.TRADITIONAL):
        run.status, run.reason = (
            REFUSED,
            f"{job['model']} is a {model_class.type.name.lower()} model, not a general one.",
        )
        return run
    seed, split_seed = job["seed"], job["seed"] if job["split_seed"] is None else job["split_seed"]
    options = {
        **job["settings"], "seed": seed, "metrics": job["metrics"], "topk": job["topk"], "valid_metric": job["primary"],
        "show_progress": False, "checkpoint_dir": "saved", "fast_evaluation": True,
    }  # fmt: skip
    try:
        config = Config(model=job["model"], dataset=job["dataset"], config_dict=copy.deepcopy(options))
    except ConfigError as error:
        for reason in (why_not(model_class, job["settings"]), refusal(model_class, job["settings"])):
            if reason and reason in str(error):
                run.status, run.reason = REFUSED, reason
                return run
        raise
    drawn = [what for what, holds in (("users", holds_out_users), ("items", holds_out_items)) if holds(config)]
    if drawn and job["split_seed"] is not None:
        config["eval_args"]["seed"] = split_seed
    elif drawn and "seed" in config["eval_args"]:
        run.notes.append(
            f"The held-out {' and '.join(drawn)} are the same for all seeds (eval_args: seed: {config['eval_args']['seed']})."
        )
    init_seed(split_seed, config["reproducibility"])
    dataset = create_dataset(config)
    run.data = description.data(dataset, config)
    train, valid, test = data_preparation(config, dataset)
    for name, part in (("validation", valid), ("the test", test)):
        if not len(part._dataset):
            raise DataError(f"the split leaves no interactions for {name}; see eval_args.")
    run.notes += [f"{gap}." for gap in getattr(test._dataset, "gaps", [])]
    held_out = getattr(train._dataset, "split_hash", None)  # the command run shows it, too
    run.split_hash = held_out or split_hash(train._dataset, valid._dataset, test._dataset)
    init_seed(seed, config["reproducibility"])
    if config["train_stage"] == PRETRAINING[0]:
        config = _pretrained(config, model_class, train, run)
    construction = time.perf_counter()
    net = model_class(config, train._dataset).to(config["device"])
    run.training_seconds += time.perf_counter() - construction
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
    on_gpu = config["device"].type == "cuda"
    run.peak_memory = peak_memory(on_gpu)
    run.device = torch.cuda.get_device_name() if on_gpu else f"CPU, {torch.get_num_threads()} threads"
    run.status, run.seconds = DONE, time.perf_counter() - started
    return run


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
    start, path = time.perf_counter(), ""
    for stage in PRETRAINING:
        staged = _with(config, train_stage=stage, pre_model_path=path)
        trainer = get_trainer(config["MODEL_TYPE"], run.model)(
            staged, model_class(staged, train._dataset).to(config["device"])
        )
        trainer.fit(train, show_progress=False)
        path = trainer.saved_model_file
    run.training_seconds += time.perf_counter() - start
    run.notes.append(
        f"{run.model} is trained in three stages; the curves show the last. The others have pretrain_epochs: "
        f"{config['pretrain_epochs']} each."
    )
    return _with(config, train_stage="finetune", pre_model_path=path)


def _train(trainer: Any, train: Any, valid: Any, run: Run, report: Callable[[int, float], bool] | None) -> None:
    """Train by RecBole's ``fit`` and record the training curve in ``run``."""
    train_epoch, valid_epoch, save = trainer._train_epoch, trainer._valid_epoch, trainer._save_checkpoint

    def timed_epoch(train_data: Any, epoch_idx: int, *args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        loss = train_epoch(train_data, epoch_idx, *args, **kwargs)
        seconds = time.perf_counter() - start
        run.training_seconds += seconds
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
    run.training_seconds += getattr(trainer, "mixing_seconds", 0.0)
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


@dataclass
class _PartResults:
    """The results on one part of the data; the attributes are those of :class:`Run`."""

    metrics: dict[str, float] = field(default_factory=dict)
    over_k: dict[str, list[float]] = field(default_factory=dict)
    by_popularity: list[dict[str, float]] = field(default_factory=list)
    users: Users | None = None


def _with(config: Any, **values: Any) -> Any:
    """Return a copy of RecBole's Config with other values."""
    other = copy.copy(config)
    other.final_config_dict = {**config.final_config_dict, **values}
    return other


def _lists(
    config: Any, trainer: Any, train: Any, loader: Any, job: dict[str, Any], *, whole: bool, best: bool = False
) -> _PartResults:
    """Evaluate a part once, at the largest k, and compute everything from the lists.

    Args:
        config: RecBole's config.
        trainer: the trainer of the model.
        train: dataloader of the training part.
        loader: dataloader of the part to evaluate.
        job: names the metrics and k.
        whole: whether to compute curves, popularity bins and the users' values as well.
        best: whether to load the best epoch first.
    """
    n_items = loader._dataset.item_num
    max_k = min(job["max_k"], padding.real(n_items)) if whole else max(job["topk"])
    topk = sorted({*job["topk"], max_k})
    names = list(dict.fromkeys([*map(str.lower, job["metrics"]), "itemcoverage", "giniindex", "averagepopularity"]))
    measured = _with(config, metrics=names, topk=topk, metric_decimal_place=10)
    collector, before = FastCollector(measured), (trainer.eval_collector, trainer.evaluator)
    collector.data_collect(train)
    trainer.eval_collector, trainer.evaluator = collector, _NoEvaluator()
    try:
        lists = trainer.evaluate(loader, load_best_model=best, show_progress=False)
    finally:
        trainer.eval_collector, trainer.evaluator = before
    result = FastEvaluator(measured).evaluate(lists)
    found = _PartResults()
    table = [f"{name}@{k}" for name in names for k in job["topk"]]
    table += [name for kind in (WARM, COLD) for each in table if (name := f"{kind}_{each}") in result]
    found.metrics = {name: float(result[name]) for name in table}
    per_user = {name: values for name, values in result.per_user.items() if name in table}
    means = {name: float(values[~np.isnan(values)].mean()) for name, values in per_user.items()}  # not rounded
    found.metrics.update(means)

    items, marks = lists.get("rec.items").numpy(), lists.get("rec.topk").numpy()
    hits = marks[:, :max_k].astype(bool)
    users = loader.uid_list
    counts = torch.bincount(train._dataset.inter_feat[train._dataset.iid_field], minlength=n_items).numpy()
    bin_of = popularity_bins(counts)
    relevant = loader.relevant[users]
    owners, wanted = relevant.rows().numpy(), relevant.indices.numpy()
    in_tail = bin_of == 0
    tail_relevant = np.bincount(owners[in_tail[wanted]], minlength=len(users))
    bits = -np.log2(np.maximum(counts, 1) / max(1, counts.sum()))
    for k in job["topk"]:
        tail_hits = (hits[:, :k] & in_tail[items[:, :k]]).sum(axis=1)
        has = tail_relevant > 0  # a mean over the users who have some
        found.metrics[f"tailrecall@{k}"] = float((tail_hits[has] / tail_relevant[has]).mean()) if has.any() else 0.0
        shown = items[:, :k] != padding.PADDING
        per_user[f"novelty@{k}"] = (bits[items[:, :k]] * shown).sum(axis=1) / shown.sum(axis=1)
        found.metrics[f"novelty@{k}"] = float(per_user[f"novelty@{k}"].mean())
    if not whole:
        return found
    curves = FastEvaluator(_with(measured, metrics=["recall", "ndcg"], topk=list(range(1, max_k + 1)))).evaluate(lists)
    found.over_k = {
        name: [float(curves.per_user[f"{name}@{k}"].mean()) for k in range(1, max_k + 1)] for name in ("recall", "ndcg")
    }
    k = max(job["topk"])
    hit_items = np.bincount(items[:, :k][hits[:, :k]], minlength=n_items)
    relevant_items = np.bincount(wanted, minlength=n_items)
    for number in range(bin_of.max() + 1):
        inside = bin_of == number
        total = int(relevant_items[inside].sum())
        found.by_popularity.append(
            {
                "items": int(inside.sum()),
                "popularity": float(counts[inside].mean()),
                "relevant": total,
                "recall": float(hit_items[inside].sum() / total) if total else 0.0,
            }
        )
    part = loader._dataset
    if loader.fold_in is None:
        histories = torch.bincount(train._dataset.inter_feat[part.uid_field], minlength=part.user_num)
    else:
        histories = loader.fold_in.lengths()
    tokens = np.asarray(part.field2id_token[part.uid_field]).astype(str)
    found.users = Users(
        tokens[users.numpy()],
        histories[users].numpy().astype(np.int64),
        {name: values.astype(np.float64) for name, values in per_user.items()},
    )
    return found


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


def popularity_bins(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Divide items by popularity into bins that each hold a fifth of the training interactions.

    The first bin is the tail: the least popular items, which together have at most 20 % of the interactions (at least one item).

    Args:
        counts: training interactions of each item, shape [n_items]; the first item is RecBole's padding.

    Returns:
        The bin of each item, int64, shape [n_items], from 0 without gaps; -1 for the padding.
    """
    order = padding.ids(np.argsort(counts[padding.REAL], kind="stable"))
    shares = np.cumsum(counts[order]) / max(1, counts.sum())
    raw = np.minimum(np.ceil(np.round(shares / SHARE, 9)).astype(np.int64) - 1, round(1 / SHARE) - 1)
    _, raw = np.unique(np.maximum(raw, 0), return_inverse=True)
    bins = np.full(len(counts), -1, dtype=np.int64)
    bins[order] = raw
    return bins
