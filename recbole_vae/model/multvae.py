"""Mult-VAE: a variational autoencoder with a multinomial likelihood.

Reference: Dawen Liang, Rahul G. Krishnan, Matthew D. Hoffman, Tony Jebara: Variational Autoencoders for Collaborative
Filtering. WWW 2018.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from torch import Tensor
from typing_extensions import Self

from recbole_vae.data.histories import Histories
from recbole_vae.errors import ConfigError
from recbole_vae.model.base import LossTerms, MLPConfig
from recbole_vae.model.vae import VAE
from recbole_vae.nn.annealing import PlateauCap, linear_beta
from recbole_vae.nn.decoder import MLPDecoder
from recbole_vae.nn.encoder import MLPEncoder, dropout_for, dropout_mask
from recbole_vae.nn.precision import training_dtype
from recbole_vae.nn.prior import kl_standard_normal, reparameterise
from recbole_vae.nn.sampling import NegativeSampler
from recbole_vae.options.fields import Fields, ModelConfig

if TYPE_CHECKING:
    from recbole_vae.data.features import FeatureSpace

HISTORY_ALONE, PROFILE_ALONE = 0.5, 0.25
"""Probabilities of leaving out the whole profile of a user in training, and the whole history of one who has a profile, so that
users without either are scored well, too (as in DropoutNet: Volkovs, Yu and Poutanen, NIPS 2017)."""

_averages = ModelConfig.model_fields["weight_averaging"].description


class MultVAEConfig(MLPConfig):
    """Options of MultVAE.

    Tuned on the validation parts of MovieLens-100K and -1M, ``dropout_prob: auto`` and ``weight_averaging`` on sparser sets, too;
    the paper's values (Liang et al., WWW 2018) stand in brackets.
    """

    # After adding an option: run python -m recbole_vae.model.yaml_files, and add a line to storage/upgrade.py with the value
    # by which existing checkpoints work as before.

    learning_rate: PositiveFloat = Field(0.002, description="Adam's learning rate. [0.001]")
    mlp_hidden_size: list[PositiveInt] = Field(
        [], description="Hidden layers of the encoder; the decoder mirrors them. []: items-latents-items. [[600]]"
    )
    latent_dimension: PositiveInt = Field(
        400, description="Latent variables. (RecBole's MultiVAE makes half as many of the same number.) [200]"
    )
    dropout_prob: Annotated[float, Field(ge=0, lt=1)] | Literal["auto"] = Field(  # type: ignore[assignment]
        "auto",
        description="Probability of dropping an item of the input history; "
        "auto: from how many users an item has, and how many items a user; 0.5 for dense data, more for sparse. [0.5]",
    )
    anneal_cap: NonNegativeFloat | Literal["auto"] = Field(
        0.3,
        description="Largest weight beta of the KL term; auto: 0.5, then 0.15, when validation no longer gets better. [0.2]",
    )
    anneal_epochs: NonNegativeFloat | None = Field(
        20.0,
        description="Epochs in which beta rises from 0 to anneal_cap; 0: it is there from the first step. [~]",
    )
    total_anneal_steps: NonNegativeInt | None = Field(
        None,
        description="If given, instead of anneal_epochs: gradient steps in which beta would rise from 0 to 1; "
        "it stops at anneal_cap. [200000]",
    )
    kl_length_power: float = Field(
        1.0,
        ge=0,
        le=4,
        description="A user's beta is in proportion to the history's length to this power, and on average that above. "
        "1: as in RecVAE. [0]",
    )
    weight_averaging: NonNegativeInt = Field(10, description=f"{_averages} [0]")
    user_features: Fields = Field(
        [],
        description="Fields of the .user file that are further input of the encoder, such as [age, gender, occupation]; "
        "FIELD:KIND as in item_features.",
    )

    @model_validator(mode="after")
    def _says_how_beta_rises(self) -> Self:
        """Raise a ConfigError if nothing says how beta rises, or there is nothing to tie."""
        if self.tied_weights and not self.mlp_hidden_size:
            raise ConfigError(
                "tied_weights: True needs a hidden layer here: without one, the encoder's layer gives mean and variance and "
                "is twice as wide as the decoder's; set mlp_hidden_size: [600], or take MultDAE."
            )
        if self.anneal_cap == "auto":
            for name, least in (("eval_step", 1), ("stopping_step", 2)):
                if getattr(self, name) < least:
                    raise ConfigError(
                        f"{name}: {getattr(self, name)} is too few for anneal_cap: auto, which needs evaluations; it must be "
                        f">= {least}, or anneal_cap a number, such as 0.3."
                    )
        if self.anneal_epochs is None and self.total_anneal_steps is None:
            raise ConfigError(
                "anneal_epochs and total_anneal_steps are both ~ (none), and one of them must say how beta rises."
            )
        return self


class MultVAE(VAE):
    """Mult-VAE of Liang et al. (2018).

    ``q(z | x) = N(mu, diag sigma^2)`` from an MLP on the normalised, dropped-out history; ``p(x | z)`` multinomial with the
    softmax of an MLP; trained to maximise ``E_q[log p(x | z)] - beta KL(q || N(0, I))`` (equation 6), where ``beta`` is
    annealed. Items are ranked by ``log p(x | mu)``. The option ``likelihood`` replaces the multinomial by another. With
    ``anneal_cap: auto`` beta has two caps, one after the other (:class:`~recbole_vae.nn.annealing.PlateauCap`). With
    ``dropout_prob: auto`` the probability follows from the histories (:func:`~recbole_vae.nn.encoder.dropout_for`).

    With ``kl_length_power: p`` a user's ``beta`` is proportional to ``|x| ** p``, where ``|x|`` is the sum of the history's
    weights; its mean over users is that of the schedule. The log-likelihood is a sum over the history, so with ``p = 1``
    (RecVAE: Shenbin et al., WSDM 2020, equation 8) its ratio to the KL term does not depend on the length.

    Attributes:
        dropout: probability of dropping an item of the input.
    """

    config_class: ClassVar[type[ModelConfig]] = MultVAEConfig
    options: MultVAEConfig

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        options, items = self.options, self.n_real_items
        if options.user_features:
            from recbole_vae.data.features import profiles_of  # here: pandas and SciPy make every import slow

            self._take_profiles(*profiles_of(dataset, options.user_features))
        sampler = NegativeSampler(self.histories, items, options.n_negatives) if options.n_negatives else None
        self.encoder = MLPEncoder(
            items, options.mlp_hidden_size, 2 * options.latent_dimension, options.activation,
            activate_last=False, sparse=sampler is not None, n_profile=self.user_space.width if self.user_space else 0,
        )  # fmt: skip
        self.decoder = MLPDecoder(
            options.latent_dimension, options.mlp_hidden_size[::-1], items, options.activation,
            training_dtype(options.precision, self.device), sampler, options.log_likelihood(), options.label_smoothing,
        )  # fmt: skip
        if options.tied_weights:
            self.decoder.tie(self.encoder)
        auto = options.dropout_prob == "auto"
        self.dropout = dropout_for(self.histories, items) if auto else float(options.dropout_prob)
        totals = self.histories.totals()[self.histories.lengths() > 0]
        self._mean_power = float(totals.double().pow(options.kl_length_power).mean())
        self.by_softmax, self.by_sigmoid = options.by_softmax, options.by_sigmoid
        self._plateau = PlateauCap(options.stopping_step) if options.anneal_cap == "auto" else None
        self.needs_validation = "anneal_cap: auto" if self._plateau is not None else ""

    def _take_profiles(self, space: FeatureSpace, profiles: Histories) -> None:
        self.user_space = space
        self.histories = replace(self.histories, profiles=profiles.to(self.device))

    @property
    def cap(self) -> float:
        """The largest weight of the KL term."""
        return self._plateau.cap if self._plateau is not None else float(self.options.anneal_cap)

    def beta(self) -> float:
        """Return the weight of the KL term at the current step."""
        options = self.options
        if options.total_anneal_steps is not None:
            return linear_beta(self.step, options.total_anneal_steps, self.cap)
        epochs = options.anneal_epochs or 0.0
        if self._plateau is not None:  # one rise, to the first cap, even if the cap falls meanwhile
            return min(self.annealed(self._plateau.START, epochs), self.cap)
        return self.annealed(self.cap, epochs)

    def evaluated(self, better: bool) -> None:
        """With ``anneal_cap: auto``, lower the cap when it is time, and log that; see PlateauCap."""
        if self._plateau is not None and self._plateau.evaluated(better):
            waited = self._plateau.patience
            self.logger.info(
                f"{waited} evaluation{'s' * (waited > 1)} without a better one: the cap of beta falls from "
                f"{self._plateau.START} to {self.cap}."
            )

    def found(self) -> str:
        """See the base class."""
        parts = [f"dropout_prob: auto is {self.dropout:.3g}"] if self.options.dropout_prob == "auto" else []
        if self._plateau is not None:
            fallen = "" if self._plateau.fallen else " (its cap had not fallen by their epoch)"
            parts.append(f"anneal_cap: auto has come to beta {self.beta():.3g}{fallen}")
        return ", and ".join(parts)

    def get_extra_state(self) -> dict[str, Any]:
        """Return what ``state_dict`` holds besides the parameters: the step, and what stands for options set to ``auto``.

        With ``user_features`` also how they become profiles, and those of the training users.
        """
        state: dict[str, Any] = super().get_extra_state()
        if self.user_space is not None and self.histories.profiles is not None:
            profiles = self.histories.profiles.to("cpu")
            entries = {name: getattr(profiles, name) for name in ("indptr", "indices", "values")}
            state["profiles"] = {**self.user_space.state(), **entries}
        if self.options.dropout_prob == "auto":
            state["dropout"] = self.dropout
        # Checkpoints are written after a best evaluation, so ``waited`` is 0. ``stopping_step``, which decides
        # ``patience``, may change before a resume.
        return (
            state if self._plateau is None else state | {"cap": self._plateau.cap, "patience": self._plateau.patience}
        )

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`get_extra_state` returned."""
        super().set_extra_state(state)
        if "profiles" in state:
            from recbole_vae.data.features import profiles_from

            self._take_profiles(*profiles_from(state["profiles"]))
        if self.options.dropout_prob == "auto":
            self.dropout = state.get("dropout", self.dropout)
        if self._plateau is not None and "cap" in state:
            self._plateau.cap, self._plateau.patience, self._plateau.waited = state["cap"], state["patience"], 0

    def relative_beta(self, histories: Histories) -> Tensor | None:
        """See :class:`VAE`: proportional to the length of the history to the power ``kl_length_power``."""
        power = self.options.kl_length_power
        return histories.totals().to(self.encoder.input.weight.dtype).pow(power) / self._mean_power if power else None

    def loss_terms(self, histories: Histories, start: int, stop: int) -> LossTerms:
        """Compute the two terms of equation 6 with one sample of ``z`` for each user; arguments: see the base class."""
        like = self.encoder.input.weight
        mask = dropout_mask(histories.nnz, self.dropout, like)
        noise = torch.randn(len(histories), self.options.latent_dimension, dtype=like.dtype, device=like.device)
        first, last = histories.span(start, stop)
        share = histories.slice(start, stop)
        mask = mask[first:last]
        if share.profiles is not None:
            drawn = torch.rand(len(histories), device=like.device)[start:stop]
            without = (drawn >= 1 - PROFILE_ALONE) & (share.profiles.lengths() > 0)
            mask = mask * ~without[share.rows()]
            alone = (share.lengths() + 1).to(like.dtype).sqrt()  # as much as without any items
            factors = torch.where(without, alone, (drawn >= HISTORY_ALONE).to(like.dtype))
            share = replace(share, profiles=share.profiles.scaled(factors))
        mu, logvar = self.posterior(share, mask)
        latent = reparameterise(mu, logvar, noise[start:stop])
        divergence, beta, relative = kl_standard_normal(mu, logvar), self.beta(), self.relative_beta(share)
        terms = LossTerms(
            reconstruction=-self.decoder.log_likelihood(latent, self.targets(share)).mean(),
            kl=divergence.mean(),
            beta=beta,
        )
        if relative is not None:
            terms.weighted_kl = beta * (relative * divergence).mean()
        return terms
