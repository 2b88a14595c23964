"""What a model can do, declared by its class: the rest of the package reads these attributes and never guesses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from torch import Tensor

from recbole_vae.data.histories import Histories

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix  # not at run time: it makes every import slow


@dataclass(frozen=True)
class SparseLayer:
    """A linear layer on a history: the sum of its items' rows, each times the item's weight.

    Attributes:
        weight: a row for each item, without RecBole's padding item; shape [n_real_items, width].
        bias: added to the sum, shape [width]; None for none.
        unit_length: whether the history is first scaled to unit Euclidean length.
    """

    weight: Tensor | csr_matrix
    bias: Tensor | None = None
    unit_length: bool = False


class Capabilities:
    """The declarations of a model and their defaults, which promise nothing.

    A class inherits them, except for ``begins_with_linear_layer`` and ``can_be_exported``: see there.
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

    undecided: bool = False
    """Whether the end of training has yet to choose options that are ``auto``; until then its scores are not those of the
    model that was asked for."""

    scores_new_items: bool = False
    """Whether items without training interactions have scores that mean something, whatever the options: by what is known of
    them besides."""

    begins_with_linear_layer: bool = False
    """Whether ``score(h)`` is ``with_padding(decoder(code(encoder(h))))`` with a
    :class:`~recbole_vae.nn.encoder.HistoryEncoder`, a :class:`~recbole_vae.nn.decoder.Decoder` and no popularity correction
    but ``corrected``. Explanations then share the first layer's sum, and compute the logits of few items.

    A class that overrides one of these methods does not inherit a True: it declares it anew, or its explanations go through
    ``score``, which is slower."""

    features: Any = None
    """What is known about the items; with it, items without interactions are scored: see
    :class:`~recbole_vae.model.new_items.NewItems`, where these are other than here."""

    user_space: Any = None
    """How what is known about users becomes their ``profiles`` in :class:`~recbole_vae.data.histories.Histories`, a
    :class:`~recbole_vae.data.features.FeatureSpace`; None for a model to which a user is a history and nothing else."""

    n_new: int = 0
    """Number of items that were added after training."""

    def in_warm_items(self, histories: Histories) -> Histories:
        """Return histories in which each item without interactions stands as others."""
        return histories

    def alike(self, item: int, k: int) -> list[tuple[int, float]]:
        """Return the items, and their weights, of which the scores of an item without interactions are made."""
        return []

    can_be_exported: bool = False
    """Whether ``score(h)`` is ``with_padding(logits_of_sums(sums, unseen))``, where ``sums`` are the results of
    :meth:`sparse_layers`, at most two. An export then writes both as a graph of ONNX.

    A class that overrides one of the methods of ``begins_with_linear_layer`` or ``ranking_scores`` does not inherit a True:
    it declares it anew, or it cannot be exported."""

    def sparse_layers(self) -> list[SparseLayer]:
        """Return the layers that read the history, one or two; only for a model that ``can_be_exported``.

        Raises:
            ConfigError: an option of the model has no such form.
        """
        raise NotImplementedError

    def logits_of_sums(self, sums: Sequence[Tensor], unseen: Tensor) -> Tensor:
        """Return the logits, shape [batch, n_real_items], from what the sparse layers give.

        It calls only operations that :mod:`torch.fx` traces and :mod:`recbole_vae.serving.onnx_graph` translates.

        Args:
            sums: the result of each layer, shape [batch, width].
            unseen: 0 for the items of the history, 1 for the others, float32, shape [batch, n_real_items].
        """
        raise NotImplementedError

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        of_scores = {"score", "score_latent", "code", "with_padding", "corrected"}
        for name, methods in (
            ("begins_with_linear_layer", of_scores),
            ("can_be_exported", of_scores | {"ranking_scores"}),
        ):
            for each in cls.__mro__:
                if name in vars(each):
                    break
                if vars(each).keys() & methods:
                    setattr(cls, name, False)


@runtime_checkable
class ScoresHistories(Protocol):
    """A model in RecBole's style that can score histories of users who were not in the training data."""

    def score_histories(self, histories: Histories) -> Tensor:
        """Score all items, with a column for RecBole's padding item, for histories on the model's device; [batch, n_items]."""
