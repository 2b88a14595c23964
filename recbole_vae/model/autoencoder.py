"""What the autoencoders share: a code between an encoder and a decoder."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from recbole_vae.data.histories import Histories
from recbole_vae.model.base import HistoryRecommender
from recbole_vae.model.capabilities import SparseLayer
from recbole_vae.nn.decoder import Decoder
from recbole_vae.nn.encoder import HistoryEncoder
from recbole_vae.nn.precision import has_fast_bfloat16
from recbole_vae.nn.shortlist import Shortlister


class Autoencoder(HistoryRecommender):
    """A recommender that encodes a history and decodes the code into scores. A subclass adds both parts and the loss.

    Attributes:
        encoder: from a history to features. A class with an encoder of another kind declares
            ``begins_with_linear_layer = False`` and ``can_be_exported = False``.
        decoder: from a code to the logits of all items. A class with a decoder of another kind declares that, too, and
            ``has_code = False``.
    """

    encoder: HistoryEncoder
    decoder: Decoder
    has_code = True
    begins_with_linear_layer = True
    can_be_exported = True

    @abstractmethod
    def code(self, features: Tensor) -> Tensor:
        """Return the code, shape [batch, latent_dimension], from the encoder's features, shape [batch, n_features]."""

    def score(self, histories: Histories) -> Tensor:
        """Score all items by the decoder's logits at the code; arguments and result: see the base class."""
        return self.score_latent(histories, self.code(self.encoder(histories)))

    def score_latent(self, histories: Histories, latent: Tensor) -> Tensor:
        """Score all items for histories whose codes are given, shape [batch, latent_dimension].

        Shape and meaning of the result are those of :meth:`score`, which passes the codes from the encoder.
        """
        return self.with_padding(self.decoder(latent))

    def shortlister(self) -> Shortlister | None:
        """Return what finds the best items by a part of the scores, or None if :meth:`score` is not the decoder's last layer."""
        if not isinstance(self.decoder, Decoder):
            return None
        kind, output = type(self), cast(nn.Linear, self.decoder.layers[-1])
        names = ("full_sort_predict", "score", "score_latent", "with_padding", "corrected")
        own = any(name in vars(self) or getattr(kind, name) is not getattr(Autoencoder, name) for name in names)
        weight = output.weight
        if (
            own
            or self._cold is not None  # cold items need the scores of all others
            or self.n_new
            or type(self.decoder).forward is not Decoder.forward
            or weight.dtype != torch.float32
            or weight.device.type != "cpu"
            or torch.get_float32_matmul_precision() != "highest"  # products in float32 may be in bfloat16 then
            or not has_fast_bfloat16(weight.device)
        ):
            return None
        return Shortlister(weight, output.bias, self._correction_now())

    def output_features(self, histories: Histories) -> Tensor:
        """Return the input of the decoder's last layer, shape [batch, width]."""
        features: Tensor = self.decoder.layers[:-1](self.code(self.encoder(histories)))
        return features

    def sparse_layers(self) -> list[SparseLayer]:
        """See Capabilities: the encoder's first layer."""
        layer = self.encoder.input
        return [SparseLayer(layer.weight, layer.bias, unit_length=True)]

    def logits_of_sums(self, sums: Sequence[Tensor], unseen: Tensor) -> Tensor:
        """See Capabilities."""
        logits: Tensor = self.decoder(self.code(self.encoder.features(sums[0])))
        return logits
