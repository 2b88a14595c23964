"""What all models share: sparse histories in, scores out, and the interface that RecBole expects."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
import torch.distributed as dist
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.utils import InputType
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import Self

from recbole_vae.data.histories import Histories
from recbole_vae.errors import ConfigError
from recbole_vae.nn.likelihood import (
    LogLikelihood,
    bernoulli_log_likelihood,
    gaussian_log_likelihood,
    poisson_log_likelihood,
)
from recbole_vae.nn.propensity import log_propensity
from recbole_vae.options.fields import ModelConfig

SCORES_PER_CHUNK = 2**22
"""Scores that ``predict`` holds at once (16 MiB in float32)."""


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
        description="Likelihood of a history; bernoulli: of which items are there, whatever their weights. "
        "Only multinomial is fused with the output layer.",
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="Share of each history that is spread evenly over all items; multinomial only."
    )
    gaussian_confidence: PositiveFloat = Field(
        10.0, description="Weight of an item that is there against one that is not; gaussian only."
    )
    tied_weights: bool = Field(
        False,
        description="Encoder and decoder share the weights next to the items; but for MultDAE, this needs a hidden layer.",
    )
    n_negatives: NonNegativeInt = Field(
        0,
        description="Items drawn per step to estimate the softmax, for catalogues too large to score whole "
        "(needs weight_decay 0); 0: all.",
    )

    @model_validator(mode="after")
    def _fits_the_likelihood(self) -> Self:
        """Raise a ConfigError for what only the multinomial has, or would need the parameters of all items in each step."""
        for name in ("label_smoothing", "propensity_weight"):
            if self.likelihood != "multinomial" and getattr(self, name):
                raise ConfigError(
                    f"{name}: {getattr(self, name)!r} cannot go with likelihood: {self.likelihood}, but with multinomial only; "
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
    """The parts of a batch's loss, each a mean over its users, in nats.

    Attributes:
        reconstruction: negative log-likelihood of the histories, shape [].
        kl: divergence of the posterior from the prior, shape []; None where there is none.
        beta: weight of ``kl`` in the loss; its mean over users, where it differs between them.
        weighted_kl: mean over users of ``beta`` times the divergence, shape [], where beta differs between them; else None.
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


class HistoryRecommender(GeneralRecommender):  # type: ignore[misc]
    """Base class of recommenders that see a user only as a history of items.

    A subclass says which options it has (``config_class``) and implements :meth:`loss_terms` and :meth:`score`.

    Args:
        config: RecBole's Config.
        dataset: the training part of a built RecBole data set.

    Attributes:
        by_softmax: whether a history is a draw of so many items from the softmax of the decoder's logits, as under a multinomial
            likelihood (and, given the number of items, a Poisson one). Where it is not, nothing takes a softmax for
            probabilities. (HybridVAE is ranked by mixed scores, whose softmax orders users, and is no more than that.)
        options: the checked options, of ``config_class``.
        histories: the training histories; row = RecBole's internal user id.
        popularity: share of the training users who have each item, ``-inf`` for RecBole's padding; float32, shape [n_items].
        step: number of gradient steps whose loss was computed; kept in ``state_dict``.

    Raises:
        ConfigError: an option has a wrong type or value.
        DataError: ``value_field`` cannot be used.
    """

    input_type = InputType.LISTWISE
    by_softmax: bool = True
    passes: ClassVar[tuple[str, ...]] = ("",)
    """The passes over the users that make an epoch; see :meth:`begin_pass`."""
    scores_by_latent: bool = True
    """Whether latent variables, of a model that has them, have a part in the scores."""
    needs_validation: str = ""
    """The option and its value, if any, that cannot be without a validation part."""
    config_class: ClassVar[type[ModelConfig]] = ModelConfig

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.options = self.config_class.read(config)
        self.histories = Histories.from_dataset(dataset, self.options.value_field).to(self.device)
        self._weights: Tensor | None = None
        shares = self._counts() / max(1, len(self.histories) - 1)
        self.popularity = F.pad(shares, (1, 0), value=-torch.inf)
        self.correct_popularity(self.options.popularity_correction)
        if self.options.propensity_weight:
            counts = self._counts()
            weights = (-self.options.propensity_weight * log_propensity(counts)).exp()
            self._weights = weights * (counts.sum() / (counts * weights).sum())
        self.step = 0
        self.steps_per_epoch = -(-int((self.histories.lengths() > 0).sum()) // self.options.train_batch_size)

    def _counts(self) -> Tensor:
        return torch.bincount(self.histories.indices.long(), minlength=self.n_items)[1:]

    def correct_popularity(self, strength: float) -> None:
        """Score from now on with another ``popularity_correction`` than the option's; see :meth:`with_padding`."""
        self._correction = -strength * log_propensity(self._counts()) if strength else None

    @abstractmethod
    def loss_terms(self, histories: Histories, start: int, stop: int) -> LossTerms:
        """Compute the parts of the loss of the rows from ``start`` to ``stop`` of a batch.

        Random numbers are drawn for the whole batch and then sliced, so that processes that share a batch together draw
        the same as one.

        Args:
            histories: batch of histories.
            start: first row of this process's share.
            stop: end of its share; ``stop - start`` is at least 1.
        """

    @abstractmethod
    def score(self, histories: Histories) -> Tensor:
        """Score all items for histories, of known users or of new ones; the same for both.

        Args:
            histories: batch of histories, on the model's device.

        Returns:
            Shape [batch, n_items], made of logits by :meth:`with_padding`; item 0, RecBole's padding, has ``-inf``. Items of
            the history are scored like others.
        """

    def begin_pass(self, name: str) -> None:
        """Prepare a pass of an epoch, of which ``passes`` has the names; does nothing for the models of one pass.

        A model that trains its parts in turns says by ``requires_grad`` which parameters are trained.
        """

    def evaluated(self, better: bool) -> None:
        """Take note of an evaluation on the validation part; does nothing for the models whose training does not depend on it.

        Args:
            better: whether it is the best so far.
        """

    def found(self) -> str:
        """Say what has become in training of an option that is left to it; "" where there is none."""
        return ""

    def targets(self, histories: Histories) -> Histories:
        """Return histories as the likelihood is to count them in training.

        Returns:
            Each entry with its weight times ``propensity ** -propensity_weight`` of its item (see
            :func:`~recbole_vae.nn.propensity.log_propensity`), scaled so that the mean over all training interactions is 1;
            the histories themselves where ``propensity_weight`` is 0.
        """
        if self._weights is None:
            return histories
        weights = self._weights.to(histories.indices.device)[histories.indices - 1]
        return Histories(histories.indptr, histories.indices, histories.entry_values() * weights)

    def batch_terms(self, interaction: Any) -> tuple[LossTerms, float]:
        """Compute the parts of the loss of this process's share of a batch, and count the step.

        Args:
            interaction: users, int64, shape [batch]; under ``torch.distributed`` the whole batch, in every process.

        Returns:
            The parts, and the share's weight: the sum over processes of weight * loss is the loss of the batch.
        """
        users = interaction[self.USER_ID]
        rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        start, stop = len(users) * rank // world, len(users) * (rank + 1) // world
        histories = self.histories[users]
        if stop > start:
            terms, weight = self.loss_terms(histories, start, stop), (stop - start) / len(users)
        else:  # fewer users than processes: compute something, so that all draw the same random numbers
            terms, weight = self.loss_terms(histories, 0, len(users)), 0.0
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
            Shape [pairs].
        """
        users, positions = torch.unique(interaction[self.USER_ID], return_inverse=True)
        items = interaction[self.ITEM_ID]
        scores = torch.empty(len(items), device=items.device)
        chunk = max(1, SCORES_PER_CHUNK // self.n_items)
        for start in range(0, len(users), chunk):
            table = self.score(self.histories[users[start : start + chunk]])
            pairs = (positions >= start) & (positions < start + chunk)
            scores[pairs] = table[positions[pairs] - start, items[pairs]].to(scores.dtype)
        return scores

    def with_padding(self, logits: Tensor) -> Tensor:
        """Make scores of logits: correct them for popularity, and put RecBole's padding item before the real ones.

        Args:
            logits: shape [batch, n_items - 1].

        Returns:
            ``logits - popularity_correction * log propensity`` (see :func:`~recbole_vae.nn.propensity.log_propensity`), and
            ``-inf`` for the padding item, which must never be recommended; shape [batch, n_items].
        """
        return F.pad(self.corrected(logits), (1, 0), value=-torch.inf)

    def corrected(self, logits: Tensor, items: Tensor | slice = slice(None)) -> Tensor:
        """Correct logits for popularity as :meth:`with_padding` does; shape [batch, n_items - 1], or those of ``items``.

        Args:
            logits: of these items.
            items: which, counted without the padding item; int64, shape [items].
        """
        return logits if self._correction is None else logits + self._correction.to(logits)[items]

    def uncorrected(self, scores: Tensor) -> Tensor:
        """Take the popularity correction from scores of :meth:`score`: what probabilities are of; shape [batch, n_items].

        By corrected scores items are ranked. Their softmax is of no distribution that the model was trained to.
        """
        return scores if self._correction is None else scores - F.pad(self._correction.to(scores), (1, 0))

    def ranking_scores(self, histories: Histories) -> Tensor:
        """Return what items are ranked by in recommendations: scores, or ``popularity`` where a history has no items.

        Returns:
            float32, which may be changed, shape [batch, n_items].
        """
        scores = self.score(histories).float()
        empty = histories.lengths() == 0
        if empty.any():
            scores[empty] = self.popularity.to(scores)
        return scores

    def get_extra_state(self) -> dict[str, int]:
        """Return what ``state_dict`` holds beside the parameters: the place in the annealing schedule."""
        return {"step": self.step}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Take up what :meth:`get_extra_state` returned."""
        self.step = state["step"]
