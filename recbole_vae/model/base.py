"""What all models share: sparse histories in, scores out, and the interface that RecBole expects."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar, Literal

import torch
import torch.distributed as dist
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.utils import EvaluatorType, InputType
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import Self

from recbole_vae.data import padding
from recbole_vae.data.histories import Histories, SharedBatch
from recbole_vae.errors import ConfigError
from recbole_vae.model.capabilities import Capabilities
from recbole_vae.model.new_items import NewItems
from recbole_vae.nn.chunks import rows_per_chunk
from recbole_vae.nn.likelihood import (
    LogLikelihood,
    bernoulli_log_likelihood,
    gaussian_log_likelihood,
    poisson_log_likelihood,
)
from recbole_vae.nn.propensity import log_propensity
from recbole_vae.options.fields import ModelConfig

_strength: ContextVar[float | None] = ContextVar("strength", default=None)
"""Inside :meth:`HistoryRecommender.corrected_by` its argument."""


class TrainingConfig(ModelConfig):
    """Options of training with the defaults that most models here share."""

    train_batch_size: PositiveInt = Field(500, description="Users per training step.")
    learning_rate: PositiveFloat = Field(0.001, description="Adam's learning rate.")
    weight_decay: NonNegativeFloat = Field(0.0, description="L2 penalty of the weight matrices (biases have none).")
    stopping_step: NonNegativeInt = Field(20, description="Evaluations without a better one before training stops.")


class MLPConfig(TrainingConfig):
    """Options of the models whose encoder and decoder are multilayer perceptrons."""

    mlp_hidden_size: list[PositiveInt] = Field(
        [], description="Hidden layers of the encoder; the decoder mirrors them. []: items-latents-items."
    )
    latent_dimension: PositiveInt = Field(200, description="Latent variables.")
    activation: Literal["tanh", "relu", "gelu", "silu", "sigmoid", "elu"] = Field(
        "tanh", description="Activation of the hidden layers."
    )
    dropout_prob: float = Field(0.5, ge=0, lt=1, description="Probability of dropping an item of the input history.")
    likelihood: Literal["multinomial", "bernoulli", "gaussian", "poisson"] = Field(
        "multinomial",
        description="Likelihood of a history; bernoulli: of which items it has, whatever their weights. "
        "Only multinomial is fused with the output layer.",
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="Share of each history that is spread evenly over all items; multinomial only."
    )
    gaussian_confidence: PositiveFloat = Field(
        10.0, description="Weight of an item of the history against one that is not in it; gaussian only."
    )
    tied_weights: bool = Field(
        False,
        description="Encoder and decoder share the weights next to the items; needs a hidden layer, except for MultDAE.",
    )
    n_negatives: NonNegativeInt = Field(
        0,
        description="Items drawn per step to estimate the softmax, for catalogues too large to score whole "
        "(needs weight_decay 0); 0: all.",
    )

    @model_validator(mode="after")
    def _fits_the_likelihood(self) -> Self:
        """Raise a ConfigError for options that need the multinomial, or that update the parameters of all items in each step."""
        for name in ("label_smoothing", "propensity_weight"):
            if self.likelihood != "multinomial" and getattr(self, name):
                raise ConfigError(
                    f"{name}: {getattr(self, name)!r} cannot go with likelihood: {self.likelihood}, only with multinomial; "
                    f"set {name}: 0, or likelihood: multinomial."
                )
        if self.n_negatives:
            for name, needed in (
                ("learner", "adam"), ("weight_decay", 0.0), ("clip_grad_norm", None), ("likelihood", "multinomial"),
                ("label_smoothing", 0.0),
            ):  # fmt: skip
                if getattr(self, name) != needed:
                    raise ConfigError(
                        f"{name}: {getattr(self, name)!r} cannot go with n_negatives: {self.n_negatives}, which updates only "
                        f"the items that a step touches; set {name}: {'~' if needed is None else needed}, or n_negatives: 0."
                    )
        return self

    @property
    def by_softmax(self) -> bool:
        """See :class:`HistoryRecommender`; a Poisson likelihood, given the number of items, is the multinomial one."""
        return self.likelihood in ("multinomial", "poisson")

    @property
    def by_sigmoid(self) -> bool:
        """See :class:`HistoryRecommender`."""
        return self.likelihood == "bernoulli"

    def log_likelihood(self) -> LogLikelihood | None:
        """Return the likelihood as a function of logits; None for the multinomial one, which the decoder has itself."""
        others: dict[str, LogLikelihood] = {
            "bernoulli": bernoulli_log_likelihood,
            "gaussian": partial(gaussian_log_likelihood, confidence=self.gaussian_confidence),
            "poisson": poisson_log_likelihood,
        }
        return others.get(self.likelihood)


@dataclass
class LossTerms:
    """The terms of a batch's loss, each a mean over its users, in nats.

    Attributes:
        reconstruction: negative log-likelihood of the histories, shape [].
        kl: KL divergence of the posterior from the prior, shape []; None for a model without a posterior.
        beta: weight of ``kl`` in the loss. If it differs between users, its mean.
        weighted_kl: mean over users of ``beta`` times the divergence, shape []; None if all users have the same ``beta``.
    """

    reconstruction: Tensor
    kl: Tensor | None = None
    beta: float = 0.0
    weighted_kl: Tensor | None = None

    def loss(self) -> Tensor:
        """Return what is minimised: ``reconstruction + beta * kl``, shape []."""
        if self.weighted_kl is not None:
            return self.reconstruction + self.weighted_kl
        return self.reconstruction if self.kl is None else self.reconstruction + self.beta * self.kl


class HistoryRecommender(NewItems, Capabilities, GeneralRecommender):  # type: ignore[misc]
    """Base class of recommenders to which a user is a history of items and nothing else.

    A subclass says which options it has (``config_class``) and what it can do
    (:class:`~recbole_vae.model.capabilities.Capabilities`), and implements :meth:`loss_terms` and :meth:`score`.

    Args:
        config: RecBole's Config.
        dataset: the training part of a built RecBole data set.

    Attributes:
        options: the checked options, of ``config_class``.
        histories: the training histories; row = RecBole's internal user id.
        popularity: share of the training users who have each item, ``-inf`` for RecBole's padding; float32, shape [n_items].
        step: number of gradient steps so far; kept in ``state_dict``.

    Raises:
        ConfigError: an option has a wrong type or value.
        DataError: ``value_field`` cannot weigh interactions.
    """

    input_type = InputType.LISTWISE
    passes: ClassVar[tuple[str, ...]] = ("",)
    """Names of the passes over the users that make one epoch; see :meth:`begin_pass`."""
    needs_validation: str = ""
    """The option and value that need a validation part, such as ``anneal_cap: auto``; "" if none does."""
    config_class: ClassVar[type[ModelConfig]] = ModelConfig

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.options = self.config_class.read(config)
        self.histories = Histories.from_dataset(dataset, self.options.value_field).to(self.device)
        self._weights: Tensor | None = None
        shares = self._counts() / max(1, padding.real(len(self.histories)))
        self.popularity = padding.with_padding(shares)
        self._begin_features(dataset, self.options.item_features)
        self.correct_popularity(self.options.popularity_correction)
        if self.options.propensity_weight:
            counts = self._counts()
            weights = (-self.options.propensity_weight * log_propensity(counts)).exp()
            self._weights = weights * (counts.sum() / (counts * weights).sum())
        self._of_values = "eval_type" in config and config["eval_type"] is EvaluatorType.VALUE  # no checkpoint has it
        self.step = 0
        self.steps_per_epoch = -(-int((self.histories.lengths() > 0).sum()) // self.options.train_batch_size)

    @property
    def n_real_items(self) -> int:
        """Number of items without RecBole's padding item, which ``n_items`` counts: the width of encoders and decoders."""
        return padding.real(self.n_items)

    def _counts(self) -> Tensor:
        return self.histories.counts(self.n_real_items)

    @cached_property
    def _log_propensity(self) -> Tensor:
        return log_propensity(self._counts())

    def correct_popularity(self, strength: float) -> None:
        """Replace the option ``popularity_correction``; see :meth:`with_padding`."""
        self._correction = -strength * self._log_propensity if strength else None

    @contextmanager
    def corrected_by(self, strength: float | None) -> Iterator[None]:
        """Correct for popularity by another strength in this block, and in this thread alone; None changes nothing."""
        token = _strength.set(strength)
        try:
            yield
        finally:
            _strength.reset(token)

    def _correction_now(self) -> Tensor | None:
        strength = _strength.get()
        if strength is None:
            return self._correction
        return -strength * self._log_propensity if strength else None

    @abstractmethod
    def loss_terms(self, histories: Histories, start: int, stop: int) -> LossTerms:
        """Compute the loss terms of rows ``start`` to ``stop`` of a batch.

        Draw random numbers for the whole batch and slice them. Several processes that share a batch then draw the same
        numbers as one process. ``histories.nnz`` is the number of entries of the whole batch.

        Args:
            histories: batch of histories; of several processes a :class:`~recbole_vae.data.histories.SharedBatch`.
            start: first row of this process's share.
            stop: end of its share; ``stop - start`` is at least 1.
        """

    @abstractmethod
    def score(self, histories: Histories) -> Tensor:
        """Score all items for histories, whether their users were in the training data or not.

        Args:
            histories: batch of histories, on the model's device.

        Returns:
            Shape [batch, n_items], from :meth:`with_padding`, so that RecBole's padding item has ``-inf``. Items of the
            history have scores like all others.
        """

    def begin_pass(self, name: str) -> None:
        """Prepare for one of the ``passes`` of an epoch.

        A model that trains its parts in turn sets ``requires_grad`` here. By default nothing happens.
        """

    def evaluated(self, better: bool) -> None:
        """Take note of an evaluation on the validation part, for models whose training depends on it.

        Args:
            better: whether its score is the best so far.
        """

    def found(self) -> str:
        """Report, in words, the value that training found for an option set to ``auto``; "" if there is no such option."""
        return ""

    def targets(self, histories: Histories) -> Histories:
        """Return histories with the weights by which the likelihood counts their items in training.

        Returns:
            The histories, with the weight of each entry multiplied by ``propensity ** -propensity_weight`` of its item (see
            :func:`~recbole_vae.nn.propensity.log_propensity`). The factors are scaled to a mean of 1 over all training
            interactions. If ``propensity_weight`` is 0, the histories unchanged.
        """
        if self._weights is None:
            return histories
        weights = self._weights.to(histories.indices.device)[histories.columns()]
        return Histories(histories.indptr, histories.indices, histories.entry_values() * weights)

    def batch_terms(self, interaction: Any) -> tuple[LossTerms, float]:
        """Compute the loss terms of this process's share of a batch, and count the step.

        Args:
            interaction: users, int64, shape [batch]; under ``torch.distributed`` the whole batch, in every process.

        Returns:
            The terms, and the share's weight: the loss of the batch is the sum of weight * loss over the processes.
        """
        users = interaction[self.USER_ID]
        rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        start, stop = len(users) * rank // world, len(users) * (rank + 1) // world
        histories = self.histories[users] if world == 1 else SharedBatch(self.histories, users)
        if stop > start:
            terms, weight = self.loss_terms(histories, start, stop), (stop - start) / len(users)
        else:  # fewer users than processes: this one draws the same random numbers as the others
            terms, weight = self.loss_terms(histories, 0, 1), 0.0
        if self.training:
            self.step += 1
        return terms, weight

    def calculate_loss(self, interaction: Any) -> Tensor:
        """Compute the loss of a batch, shape []; RecBole's name for it."""
        terms, weight = self.batch_terms(interaction)
        return weight * terms.loss()

    def full_sort_predict(self, interaction: Any) -> Tensor:
        """Score all items for the users of a batch; RecBole's name for it.

        Returns:
            Shape [batch * n_items].
        """
        return self.score(self.histories[interaction[self.USER_ID]]).view(-1)

    def predict(self, interaction: Any) -> Tensor:
        """Score pairs of users and items; RecBole's name for it.

        Returns:
            Shape [pairs]; where the option ``metrics`` has metrics of values, float64 and :meth:`comparable`.
        """
        users, positions = torch.unique(interaction[self.USER_ID], return_inverse=True)
        items = interaction[self.ITEM_ID]
        dtype = torch.float64 if self._of_values else torch.float32
        scores = torch.empty(len(items), dtype=dtype, device=items.device)
        chunk = rows_per_chunk(self.n_items)
        for start in range(0, len(users), chunk):
            table = self.score(self.histories[users[start : start + chunk]])
            if self._of_values:
                table = self.comparable(table)
            pairs = (positions >= start) & (positions < start + chunk)
            scores[pairs] = table[positions[pairs] - start, items[pairs]].to(scores.dtype)
        return scores

    def comparable(self, scores: Tensor) -> Tensor:
        """Make scores comparable between users, for AUC and other metrics of values; a ranking needs none of this.

        Returns:
            Shape of ``scores``, float64. By a Bernoulli likelihood: the probabilities that a history has the items. By a softmax:
            the logarithms of its probabilities. (Logits have a constant for each user, which says nothing.) Else the scores.
        """
        scores = scores.double()
        if self.by_sigmoid:
            return scores.sigmoid()
        return scores.log_softmax(1) if self.by_softmax else scores

    def with_padding(self, logits: Tensor) -> Tensor:
        """Turn logits into scores: correct them for popularity, and add RecBole's padding item.

        Args:
            logits: shape [batch, n_real_items].

        Returns:
            ``logits - popularity_correction * log propensity`` (see :func:`~recbole_vae.nn.propensity.log_propensity`), and
            ``-inf`` for the padding item, which must never be recommended; shape [batch, n_items]. With ``item_features``,
            cold items have scores made from these, and so have the items of :meth:`add_items`, which come last.
        """
        return padding.with_padding(self.with_new(self.with_cold(self.corrected(logits))))

    def corrected(self, logits: Tensor, items: Tensor | slice = slice(None)) -> Tensor:
        """Correct logits for popularity as :meth:`with_padding` does; the result has the shape of ``logits``.

        Args:
            logits: shape [batch, items].
            items: columns of the items, int64, shape [items]; by default all.
        """
        correction = self._correction_now()
        return logits if correction is None else logits + correction.to(logits)[items]

    def uncorrected(self, scores: Tensor) -> Tensor:
        """Remove the popularity correction from scores of :meth:`score`; shape [batch, n_items].

        Probabilities are the softmax of these. Corrected scores only rank items: their softmax is not the distribution that
        the model was trained to fit.
        """
        correction = self._correction_now()
        if correction is None:
            return scores
        added = self.with_new(self.with_cold(correction.to(scores)[None]), bonus=0.0)
        return scores - padding.with_padding(added, 0.0)

    def ranking_scores(self, histories: Histories) -> Tensor:
        """Return the scores by which recommendations are ranked; a history of no items has ``popularity`` instead.

        It has the model's scores if there is a profile, and the part of the model that reads it contributes.

        Returns:
            A new float32 tensor, shape [batch, n_items + n_new].
        """
        histories = self.in_warm_items(histories)
        scores, empty = self.score(histories).float(), histories.are_empty(self.scores_by_latent)
        if empty.any():
            scores[empty] = F.pad(self.popularity.to(scores), (0, self.n_new))
        return scores

    def get_extra_state(self) -> dict[str, Any]:
        """Return what ``state_dict`` holds besides the parameters: the number of steps, on which annealing depends.

        With ``item_features`` also the features, and the strengths that were chosen.
        """
        return {"step": self.step, **self._features_state()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`get_extra_state` returned."""
        self.step = state["step"]
        self._restore_features(state)
