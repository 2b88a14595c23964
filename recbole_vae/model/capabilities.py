"""What a model can do, declared by its class: the rest of the package reads these attributes and never guesses."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from recbole_vae.data.histories import Histories


class Capabilities:
    """The declarations of a model and their defaults, which promise nothing.

    A class inherits them, except for ``begins_with_linear_layer``: see there.
    """

    by_softmax: bool = False
    """Whether a history is a draw from the softmax of the decoder's logits, as under a multinomial likelihood (and, given the
    number of items, a Poisson one). Where it is False, no softmax is taken for probabilities. HybridVAE ranks
    by mixed scores, whose softmax serves to order users only."""

    by_sigmoid: bool = False
    """Whether the sigmoid of a score is the probability that a history has the item, as under a Bernoulli likelihood: what
    LogLoss, MAE and RMSE compare with a label. (VASP's is a weighted, focal likelihood, so its sigmoids are none.)"""

    has_code: bool = False
    """Whether it is an :class:`~recbole_vae.model.autoencoder.Autoencoder` whose decoder is a
    :class:`~recbole_vae.nn.decoder.Decoder`."""

    has_posterior: bool = False
    """Whether it has a distribution of the latent variables: ``posterior``, ``comparable_posterior`` and ``score_latent`` of
    :class:`~recbole_vae.model.vae.VAE`."""

    standard_prior: bool = False
    """Whether the prior of the latent variables is N(0, I)."""

    scores_by_latent: bool = True
    """Whether the latent variables, if there are any, contribute to the scores."""

    has_other_paths: bool = False
    """Whether other paths than that of the latent variables contribute to the scores."""

    begins_with_linear_layer: bool = False
    """Whether ``score(h)`` is ``with_padding(decoder(code(encoder(h))))`` with a
    :class:`~recbole_vae.nn.encoder.HistoryEncoder`, a :class:`~recbole_vae.nn.decoder.Decoder` and no popularity correction
    but ``corrected``. Explanations then share the first layer's sum, and compute the logits of few items.

    A class that overrides one of these methods does not inherit a True: it declares it anew, or its explanations go through
    ``score``, which is slower."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for each in cls.__mro__:
            if "begins_with_linear_layer" in vars(each):
                break
            if vars(each).keys() & {"score", "score_latent", "code", "with_padding", "corrected"}:
                cls.begins_with_linear_layer = False


@runtime_checkable
class ScoresHistories(Protocol):
    """A model in RecBole's style that can score histories of users who were not in the training data."""

    def score_histories(self, histories: Histories) -> Tensor:
        """Score all items, with a column for RecBole's padding item, for histories on the model's device; [batch, n_items]."""
