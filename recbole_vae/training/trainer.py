"""The additions to RecBole's training loop: the terms of the loss, checkpoints, resume, and several processes."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from recbole.trainer import Trainer
from recbole.utils import calculate_valid_score, set_color
from torch import Tensor
from torch.nn.utils.clip_grad import clip_grad_norm_
from tqdm import tqdm

from recbole_vae.data import padding
from recbole_vae.data.evaluation import FullSortDataLoader
from recbole_vae.errors import CheckpointError, ConfigError, TrainingError
from recbole_vae.evaluation.collector import FastCollector
from recbole_vae.evaluation.fold_in import fold_in_of
from recbole_vae.evaluation.gather import GatheringEvaluator
from recbole_vae.evaluation.metrics import Result
from recbole_vae.model.autoencoder import Autoencoder
from recbole_vae.model.base import HistoryRecommender
from recbole_vae.model.hybridvae import HybridVAE
from recbole_vae.nn.cold import Strengths
from recbole_vae.nn.prior import ACTIVE, active
from recbole_vae.nn.shortlist import Shortlister
from recbole_vae.storage import checkpoint
from recbole_vae.training import warm_start
from recbole_vae.training.averaging import WeightAverage
from recbole_vae.training.clock import cpu_seconds
from recbole_vae.training.cold import REACHES, choose_strengths
from recbole_vae.training.memory import memory_kept
from recbole_vae.training.mixture import gain, mix
from recbole_vae.training.optimizer import LazyAdam
from recbole_vae.training.processes import check_folder, end_together, share_random_state, sum_over_processes
from recbole_vae.training.publish import publish
from recbole_vae.training.refit import Recipe, recipe
from recbole_vae.training.restore import check_saved
from recbole_vae.training.saving import Saving

_trainers = count()
_LOOKED_AT = 100_000
"""At most this many users are used to count the latent variables in use."""


class HistoryTrainer(Saving, Trainer):  # type: ignore[misc]
    """RecBole's ``Trainer`` for the models of recbole_vae.

    It logs the parts of the loss separately, writes checkpoints that load without running code and resume bit for bit (see
    :mod:`recbole_vae.storage.checkpoint`), applies ``weight_decay`` to matrices only, and lets several processes train and
    evaluate like one. The weight ``beta`` of the KL term is the model's, from its gradient steps so far
    (:meth:`recbole_vae.model.multvae.MultVAE.beta`, :mod:`recbole_vae.nn.annealing`); here it is only logged.
    """

    def __init__(self, config: Any, model: HistoryRecommender) -> None:
        super().__init__(config, model)
        self.saved_model_file = self._own_name(self.saved_model_file)
        self.loss_terms: dict[str, float] = {}
        self._resumed: Mapping[str, Any] | None = None
        self._active_unknown = False
        self._shortlister: Shortlister | None = None
        self._scored_by = model.histories
        self._train_data: Any = None
        self._evaluations: list[bool] = []
        self._of_earlier: dict[str, Any] = {}
        self._replayed: list[bool] = []
        self._saved_at = -math.inf
        self.mixing_seconds = self.mixing_cpu_seconds = 0.0
        self._reach = 1.0
        self._earlier: dict[str, Any] | None = None
        self._inherited: list[str] = []
        self._leaks: list[tuple[Any, list[str]]] = []
        epochs = model.options.weight_averaging
        self._average = WeightAverage(model.parameters(), epochs) if epochs else None
        if dist.is_initialized():
            names = [self.saved_model_file]
            dist.broadcast_object_list(names)  # the name has a time, which differs between processes
            self.saved_model_file = names[0]
            self.evaluator = GatheringEvaluator(config)
        if config["resume"]:
            self.resume_checkpoint(config["resume"])

    @staticmethod
    def _own_name(path: str) -> str:
        """Make a file's name unique to this trainer: RecBole names it by the second, and runs may start together."""
        stem, suffix = os.path.splitext(path)  # noqa: PTH122 - RecBole's paths are strings
        number = next(_trainers)
        return f"{stem}-{os.getpid()}{f'-{number}' * bool(number)}{suffix}"

    def _build_optimizer(self, **kwargs: Any) -> Any:
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        weights = [parameter for parameter in trained if parameter.ndim > 1]
        vectors = [parameter for parameter in trained if parameter.ndim <= 1]
        groups = [{"params": weights}, {"params": vectors, "weight_decay": 0.0}]
        fused = {"adam": LazyAdam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}.get(self.learner)
        if fused is None:
            return super()._build_optimizer(params=groups, **kwargs)
        # The same as RecBole's, but in one pass over the parameters, which takes a fraction of the time.
        return fused(groups, lr=self.learning_rate, weight_decay=self.weight_decay, fused=True)

    def fit(
        self,
        train_data: Any,
        valid_data: Any = None,
        verbose: bool = True,
        saved: bool = True,
        show_progress: bool = False,
        callback_fn: Any = None,
    ) -> tuple[float, Any]:
        """Train; arguments and result are those of RecBole's ``Trainer.fit``."""
        self._train_data, self._validates = train_data, bool(valid_data) and self.eval_step > 0
        if self.config["refit"]:
            self._follow(recipe(self.config["refit"]))
        elif self.model.needs_validation and not valid_data and self._resumed is not None:
            raise CheckpointError(
                f"{self.saved_model_file}: of a refit that did not end, and {self.model.needs_validation} cannot go on without "
                "the checkpoint that it repeated. Give the same refit command again."
            )
        elif self.model.needs_validation and not valid_data:
            raise ConfigError(
                f"{self.model.needs_validation} needs a validation part, and there is none: choose a split that has one "
                "(eval_args, or benchmark_filename), or give a number."
            )
        if self._resumed is not None:
            state, self._resumed = self._resumed, None
            checkpoint.check_vocabulary(state, self.saved_model_file, train_data._dataset)
            checkpoint.check_histories(state, self.saved_model_file, self.model.histories)
            try:
                checkpoint.set_random_states(state["random"])
                train_data.generator.set_state(state["random"]["train_data"].cpu())
            except (AttributeError, RuntimeError, TypeError, ValueError) as error:
                raise CheckpointError(
                    f"{self.saved_model_file}: damaged checkpoint: 'random' is no state of random generators ({error})."
                ) from None
            if self.start_epoch >= self.epochs:
                self.logger.info(
                    f"Nothing left to train: {self.saved_model_file} has {self.start_epoch} epochs, epochs is {self.epochs}."
                )
                self.eval_collector.data_collect(train_data)
                self._mix(valid_data, saved)
                if isinstance(self.model, HybridVAE) and self.model.chosen is not None and self.best_valid_result:
                    self.best_valid_score = self.best_valid_result[self.valid_metric]
                publish(self)
                return self.best_valid_score, self.best_valid_result
        elif self.config["warm_start"]:
            dataset = train_data._dataset
            ids = list(map(str, dataset.field2id_token[dataset.iid_field]))
            path = self.config["warm_start"]
            state = warm_start.load(path, self.config["model"])
            self.logger.info(warm_start.begin(self.model, self.optimizer, ids, state, path, self.config))
            if not self.config["refit"]:  # which has no part to measure on
                self._earlier = {name: state[name] for name in ("users", "items", "histories")}
                self._inherited = [
                    f"{path} has a note that may hold here, too: {each}" for each in state.get("notes", [])
                ]
                for each in self._inherited:
                    self.logger.warning(f"Misleading results: {each}.")
            self._of_earlier.setdefault("epochs_from_scratch", None)
        if dist.is_initialized():
            check_folder(self.saved_model_file)
            share_random_state(self.device)
        if isinstance(self.model, HybridVAE) and self.model.chooses and not self.config["refit"]:
            self.model.forget()  # it is chosen anew, for other parameters
        if self.model.feature_strengths is not None:
            self.model.regress(None)  # likewise
        try:
            with end_together(self.best_so_far):
                with memory_kept(self.device):
                    super().fit(train_data, valid_data, verbose, saved, show_progress, callback_fn)
                self._mix(valid_data, saved)
        except KeyboardInterrupt:
            advice = "Give the same command again." if self.config["refit"] else self.best_so_far()
            self.logger.warning(f"Interrupted. {advice}")
            raise
        publish(self)
        self._active_unknown = True
        # If an epoch was saved, it need not be the last one. It is loaded before the evaluation, which then logs this.
        if not (saved and Path(self.saved_model_file).exists()):
            self._log_active()
        return self.best_valid_score, self.best_valid_result

    def _leak(self, eval_data: Any) -> list[str]:
        """Say, in the log and beside the results, if a warm start was trained with interactions that are to be found."""
        if self._earlier is None:
            return []
        part, phase = eval_data._dataset, getattr(getattr(eval_data, "_sampler", None), "phase", None)
        for known, notes in self._leaks:
            if known is part:
                return notes
        found, notes = warm_start.seen(self._earlier, part), []
        if found:
            notes = [
                f"training began with {self.config['warm_start']}, which was trained with {found:,} of the {len(part):,} "
                f"interactions of the {'validation' if phase == 'valid' else 'test'} part, so what is measured on it is too high"
            ]
            self.logger.warning(f"Misleading results: {notes[0]}.")
        self._leaks.append((part, notes))
        return notes

    def _mix(self, valid_data: Any, saved: bool) -> None:
        """Choose a mixture, and how new items are scored, for the best epoch; write both into its checkpoint."""
        model = self.model
        mixes = isinstance(model, HybridVAE) and model.undecided
        if not mixes and (model.features is None or model.feature_strengths is not None):
            return
        started, path = (time.perf_counter(), cpu_seconds()), Path(self.saved_model_file)
        state = checkpoint.load(path) if saved and path.exists() else None
        if state is not None:
            self._load_parameters(state, path)
        if mixes:
            mix(self, valid_data)
        if model.features is not None:
            self._calibrate(valid_data)
        self.mixing_seconds, self.mixing_cpu_seconds = time.perf_counter() - started[0], cpu_seconds() - started[1]
        if valid_data:
            self.best_valid_result = self.evaluate(valid_data, load_best_model=False)
            self.best_valid_score = self.best_valid_result[self.valid_metric]
        if state is not None and self._rank() == 0:
            # best_valid_score stays the VAE's: by that, a resume tells which epoch is the best.
            mixed = {"state_dict": model.state_dict(), "best_valid_result": checkpoint.plain(self.best_valid_result)}
            checkpoint.save({**state, **mixed}, path)
        if dist.is_initialized():
            dist.barrier()

    def _calibrate(self, valid_data: Any) -> None:
        """Choose the strengths by which items without interactions are scored, and log them."""
        self.model.eval()
        strengths, judged = choose_strengths(self.model)
        strengths = replace(strengths, reach=self._reach)
        self.model.regress(strengths)
        if not judged.users:
            self.logger.warning("Too few interactions to choose how new items are scored, so the defaults hold.")
            return
        how = f"NDCG@20 of {judged.users} users: {judged.score:.4f}, and {judged.chance:.4f} for a random order"
        self.logger.info(
            f"New items are scored by {strengths}. A fifth of the items was ranked as if it were new: {how}. For items that "
            "are new it is lower, because the model was trained with these."
        )
        if not judged.helps and self.model.features is not None:
            self.logger.warning(
                f"item_features: {', '.join(self.model.features.space.fields)} say nothing about what users like ({how}), so "
                "new items are scored nearly alike."
            )
        # Items that are held out were taken, and are as popular as others.
        held_out = getattr(getattr(valid_data, "candidates", None), "kinds", {})
        if valid_data and self.model.scores_cold_items and not held_out:
            self._choose_reach(strengths, valid_data)

    def _choose_reach(self, strengths: Strengths, valid_data: Any) -> None:
        """Choose by the validation part how far the data set's own cold items reach among the others, and log it.

        They are held back where that makes the metric better by more than two standard errors, paired by user.
        """
        sign = 1 if self.valid_metric_bigger else -1
        strengths = replace(strengths, reach=REACHES[0])
        best, values, score = strengths, None, {}
        for reach in REACHES:
            other = replace(strengths, reach=reach)
            self.model.regress(other)
            result = self.evaluate(valid_data, load_best_model=False)
            score[reach] = calculate_valid_score(result, self.valid_metric)
            found = result.per_user.get(self.valid_metric) if isinstance(result, Result) else None
            if found is None:  # a metric that is no mean over users has no standard error
                break
            if values is None or gain(sign * found, sign * values) > 2:
                best, values = other, found
        self.model.regress(best)
        if best.reach != strengths.reach:
            self.logger.info(
                f"The data set's own items without interactions are held back: {best.reach:g} of that spread has "
                f"{self.valid_metric} {score[best.reach]:.4f} on the validation part, and the whole {score[REACHES[0]]:.4f}."
            )

    def _follow(self, recipe: Recipe) -> None:
        """Prepare to repeat an earlier run without a validation part: what that decided is read from its checkpoint."""
        from_scratch = (
            recipe.epochs if self.config["warm_start"] else self.epochs
        )  # perhaps another number than was best
        self._of_earlier = {"epochs_from_scratch": from_scratch, "evaluations": recipe.evaluations}
        self._reach = recipe.reach
        if isinstance(self.model, HybridVAE) and self.model.chooses:
            chosen = recipe.chosen or {}
            missing = self.model.auto - chosen.keys()
            if missing:
                raise CheckpointError(
                    f"{self.config['refit']}: does not say what was chosen for {', '.join(sorted(missing))}: auto. If its "
                    "training did not end, resume it first; if these were numbers there, leave them so."
                )
            if self.model.choose_again(chosen, recipe.options):
                self.logger.warning(
                    "A share is another number than in that run, so the mixture is not the one it chose."
                )
        if self.config["warm_start"]:  # it goes on from where the schedule was
            return
        if recipe.evaluations is not None:
            self._replayed = list(recipe.evaluations)
        elif self.model.needs_validation:
            raise CheckpointError(
                f"{self.config['refit']}: does not say when its validation part stopped getting better, as files of recbole_vae "
                f"1.0.0 and of runs with a warm start do not, and {self.model.needs_validation} depends on it. Give a number, "
                "such as --anneal_cap=0.3."
            )

    def _train_epoch(
        self, train_data: Any, epoch_idx: int, loss_func: Any = None, show_progress: bool = False
    ) -> float:
        """Train for one epoch, and return the mean loss per user over all passes."""
        if self._average:
            self._average.begin_epoch()
        self.model.train()
        totals: dict[str, Tensor] = {}
        users: dict[str, int] = {}
        beta, next_shown = 0.0, 0.0
        batches = tqdm(
            self._batches(train_data), total=len(train_data) * len(self.model.passes), ncols=100,
            desc=set_color(f"Train {epoch_idx:>5}", "pink"), disable=not show_progress,
        )  # fmt: skip
        for interaction in batches:
            interaction = interaction.to(self.device)
            self.optimizer.zero_grad()
            terms, weight = self.model.batch_terms(interaction)
            parts = {"loss": terms.loss(), "reconstruction": terms.reconstruction}
            if terms.kl is not None:
                parts["kl"], beta = terms.kl, terms.beta
            if dist.is_initialized():  # this process's share of the batch
                parts = {name: weight * part for name, part in parts.items()}
            parts["loss"].backward()
            parts = {name: part.detach() for name, part in parts.items()}
            if dist.is_initialized():
                sum_over_processes(self.model.parameters(), list(parts.values()))
            if self.clip_grad_norm:
                clip_grad_norm_(self.model.parameters(), **self.clip_grad_norm)
            self.optimizer.step()
            # Each part is a mean over the batch; the last batch of an epoch may be smaller.
            for name, part in parts.items():
                if name not in totals:
                    totals[name], users[name] = torch.zeros_like(part), 0
                totals[name].add_(part, alpha=len(interaction))
                users[name] += len(interaction)
            if show_progress and time.monotonic() >= next_shown:  # not for each batch: reading a value waits for a GPU
                next_shown = time.monotonic() + 0.5
                shown = {"rec": f"{float(totals['reconstruction']) / users['reconstruction']:.4g}"}
                if "kl" in totals:
                    shown |= {"kl": f"{float(totals['kl']) / users['kl']:.3g}", "beta": f"{beta:.3g}"}
                batches.set_postfix(shown)
        self.loss_terms = {name: float(total) / users[name] for name, total in totals.items()}
        if "kl" in self.loss_terms:
            self.loss_terms["beta"] = beta
        if not math.isfinite(self.loss_terms["loss"]):
            raise TrainingError(
                f"the training loss became {self.loss_terms['loss']} in epoch {epoch_idx}. {self._what_to_do()}"
            )
        if self._average:
            self._average.end_epoch()
        if self._replayed and (epoch_idx + 1) % self.eval_step == 0:
            self.model.evaluated(self._replayed.pop(0))
        return self.loss_terms["loss"]

    def _batches(self, train_data: Any) -> Iterator[Any]:
        for name in self.model.passes:
            self.model.begin_pass(name)
            yield from train_data

    def _log_active(self) -> None:
        """Log what training found, and how many latent variables are in use: a collapsed VAE looks like any other."""
        self._active_unknown = False
        if self.model.found():
            self.logger.info(f"{self.model.found()} for these parameters.")
        if not self.model.scores_by_latent and self.model.user_space is not None:
            self.logger.warning(
                "user_features have no effect: the VAE alone reads profiles, and the mixture gives it no share."
            )
        if not (self.model.has_posterior and self.model.scores_by_latent):
            return
        self.model.eval()
        with torch.no_grad():
            # Row 0 is RecBole's padding. Of many users, a sample is enough.
            rows = torch.arange(
                1, len(self.model.histories), -(-len(self.model.histories) // _LOOKED_AT), device=self.device
            )
            means = [self.model.posterior(self.model.histories[each])[0] for each in rows.split(4096)]
            in_use = active(torch.cat(means))
        number, total = int(in_use.sum()), len(in_use)
        text = f"{number} of {total} latent variables are in use (variance of their means over users above {ACTIVE:g})"
        if 10 * number < total:
            self.logger.warning(
                f"{text}: either these are too few epochs, or the posterior has collapsed to the prior. Train for longer, and if "
                "that does not help, give the KL term less weight."
            )
        else:
            self.logger.info(f"{text}.")

    def best_so_far(self) -> str:
        """Say, after an end before its time, how to go on."""
        if not Path(self.saved_model_file).exists():
            return "No epoch was saved yet."
        out = f" --out={self.config['out']}" if self.config["out"] else ""
        mixed = " Its paths are not mixed yet, which is done when training has ended." if self.model.undecided else ""
        return (
            f"The best epoch so far is in {self.saved_model_file}; go on from it with "
            f"--resume={self.saved_model_file}{out}.{mixed}"
        )

    def _what_to_do(self) -> str:
        """Say what to change after a loss that is not finite: options that may change when training resumes."""
        usual = type(self.model.options).defaults().get("learning_rate", 0.001)
        changed = f"--learning_rate={min(self.learning_rate / 10, usual):g}"
        advice = f"Train anew with a lower learning_rate (now {self.learning_rate:g}), such as {changed}"
        if not self.clip_grad_norm and not getattr(self.model.options, "n_negatives", 0):  # which excludes it
            advice += ", and if that is not enough with --clip_grad_norm=\"{'max_norm': 1.0}\""
        if self.config["refit"] or not Path(self.saved_model_file).exists():
            return f"{advice}."
        best = checkpoint.load(self.saved_model_file)
        if not all(each.isfinite().all() for each in best["state_dict"].values() if isinstance(each, Tensor)):
            return f"{advice}."
        if best["config"]["learning_rate"] > 10 * usual:  # no rate recovers weights that were thrown so far
            return f"{advice}."
        score = f", {self.config['valid_metric']} {best['best_valid_score']:.4f}" * bool(best["best_valid_result"])
        return (
            f"{advice}; or go on from the best epoch so far (epoch {best['epoch']}{score}) with "
            f"--resume={self.saved_model_file} {changed}."
        )

    def _generate_train_loss_output(self, epoch_idx: int, s_time: float, e_time: float, losses: float) -> str:
        decimals = self.config["loss_decimal_place"] or 4
        parts = ", ".join(
            # for most of a schedule, beta is far below the last decimal of a loss
            f"{set_color(name, 'blue')}: {value:{'.3g' if name == 'beta' else f'.{decimals}f'}}"
            for name, value in self.loss_terms.items()
        )
        head = set_color(f"epoch {epoch_idx} training", "green")
        return f"{head} [{set_color('time', 'blue')}: {e_time - s_time:.2f}s, {parts}]"

    def _add_train_loss_to_tensorboard(self, epoch_idx: int, losses: float, tag: str = "Loss/Train") -> None:
        for name, value in self.loss_terms.items():
            self.tensorboard.add_scalar(tag if name == "loss" else f"Train/{name}", value, epoch_idx)

    def _valid_epoch(self, valid_data: Any, show_progress: bool = False) -> tuple[float, Any]:
        score, result = super()._valid_epoch(valid_data, show_progress)
        # RecBole stores the result only after it has saved the checkpoint.
        better = score >= self.best_valid_score if self.valid_metric_bigger else score <= self.best_valid_score
        if better:
            self.best_valid_score, self.best_valid_result = score, result
        self.model.evaluated(better)
        self._evaluations.append(bool(better))
        return score, result

    @torch.no_grad()
    def evaluate(
        self, eval_data: Any, load_best_model: bool = True, model_file: str | None = None, show_progress: bool = False
    ) -> Any:
        """Evaluate; arguments and result are those of RecBole's ``Trainer.evaluate``."""
        if not eval_data:
            return None
        if load_best_model:
            path = model_file or self.saved_model_file
            check_saved(path)
            state = checkpoint.load(path)
            checkpoint.check_model(state, path, self.config["model"])
            checkpoint.check_vocabulary(state, path, eval_data._dataset)
            self._load_parameters(state, path)
            self.logger.info(f"Loading model structure and parameters from {path}")
        if self._active_unknown:
            self._log_active()
        if isinstance(self.evaluator, GatheringEvaluator):
            self.evaluator.rows = eval_data.sample_size
        self.model.eval()
        collects_lists = isinstance(self.eval_collector, FastCollector) and self.eval_collector.list_length
        ours = isinstance(eval_data, FullSortDataLoader) and eval_data.candidates is None  # which need all scores
        if collects_lists and isinstance(self.model, Autoencoder) and ours:
            fold_in = fold_in_of(self.model, eval_data)
            self._scored_by = self.model.histories if fold_in is None else fold_in.to(self.device)
            self._shortlister = self.model.shortlister()
        try:
            result = super().evaluate(eval_data, load_best_model=False, show_progress=show_progress)
        finally:
            self._shortlister = None
        if isinstance(result, Result):
            result.gaps = [*result.gaps, *self._inherited, *self._leak(eval_data)]
        return result

    def _full_sort_batch_eval(self, batched_data: Any) -> Any:
        """Score a batch; the scores may be a :class:`~recbole_vae.nn.shortlist.Shortlist`."""
        if self._shortlister is not None:
            interaction, (rows, seen), positive_u, positive_i = batched_data
            histories = self._scored_by[interaction[self.model.USER_ID].to(self.device)]
            features = cast(Autoencoder, self.model).output_features(histories)
            known = padding.columns(seen)
            scores = self._shortlister(features, rows, known, cast(FastCollector, self.eval_collector).list_length or 0)
            if scores is not None:
                return interaction, scores, positive_u, positive_i
        return super()._full_sort_batch_eval(batched_data)

    def _map_reduce(self, result: Any, num_sample: int) -> Any:
        """Return the result unchanged: each process has evaluated all users already (see GatheringEvaluator)."""
        return result
