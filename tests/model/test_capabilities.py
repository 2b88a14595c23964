"""What the models declare that they can do, and that the declarations are true."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from recbole_vae.analysis.explain import influences, scores_without
from recbole_vae.data.histories import Histories
from recbole_vae.errors import ConfigError
from recbole_vae.model.autoencoder import Autoencoder
from recbole_vae.model.base import HistoryRecommender
from recbole_vae.model.capabilities import Capabilities
from recbole_vae.model.multdae import MultDAE
from recbole_vae.model.multvae import MultVAE
from recbole_vae.model.vae import VAE
from recbole_vae.nn.decoder import Decoder
from recbole_vae.nn.encoder import HistoryEncoder
from tests.conftest import Builder


def test_the_models_declare_what_they_have(build: Builder, model_name: str) -> None:
    model = build(model_name).model.eval()
    assert model.has_code == isinstance(model, Autoencoder)
    assert model.has_posterior == isinstance(model, VAE)
    assert model.by_softmax == (model_name != "VASP")
    assert model.standard_prior == (model_name in ("MultVAE", "HybridVAE", "VASP"))
    assert model.has_other_paths == (model_name in ("HybridVAE", "VASP"))
    assert model.begins_with_linear_layer == (not model.has_other_paths)
    assert model.can_be_exported
    assert isinstance(model.encoder, HistoryEncoder)
    assert isinstance(model.decoder, Decoder)
    histories = model.histories[torch.arange(1, 9)]
    with torch.no_grad():
        alone = model.with_padding(model.decoder(model.code(model.encoder(histories))))
        assert torch.equal(model.score(histories), alone) == model.begins_with_linear_layer


def test_nothing_is_promised_by_default() -> None:
    promised = {name for name, value in vars(Capabilities).items() if value is True}
    assert promised == {"scores_by_latent"}  # which says nothing where there are no latent variables


class Normalises(MultVAE):
    """Its scores are log-probabilities: those of some items depend on the logits of all."""

    def with_padding(self, logits: Tensor) -> Tensor:
        return super().with_padding(logits.log_softmax(1))


class Squares(MultDAE):
    def score(self, histories: Histories) -> Tensor:
        return super().score(histories).square()


class Doubles(MultVAE):
    def corrected(self, logits: Tensor, items: Tensor | slice = slice(None)) -> Tensor:
        return 2 * super().corrected(logits)[:, items if len(logits[0]) < self.n_items - 1 else slice(None)]


class Shift:
    def with_padding(self: Any, logits: Tensor) -> Tensor:
        scores: Tensor = HistoryRecommender.with_padding(self, logits * logits.mean(1, keepdim=True))
        return scores


class ShiftedByAnother(Shift, MultVAE):
    pass


class OfItsKind(Normalises):
    pass


@pytest.mark.parametrize("kind", [Normalises, Squares, Doubles, ShiftedByAnother, OfItsKind])
def test_influences_on_scores_of_another_kind_are_exact(build: Builder, kind: Any) -> None:
    run = build("MultDAE" if issubclass(kind, MultDAE) else "MultVAE")
    model = kind(run.config, run.train._dataset).eval()
    history, items = Histories.from_lists([[2, 5, 9]]), torch.tensor([7, 20])
    found = influences(model, history, items)
    with torch.no_grad():
        for entry, rest in enumerate(([5, 9], [2, 9], [2, 5])):
            expected = (model.score(history) - model.score(Histories.from_lists([rest])))[0, items]
            torch.testing.assert_close(found[entry], expected, rtol=1e-4, atol=1e-6)
    with pytest.raises(ConfigError, match=f"{kind.__name__} does not declare that .*Use method: exact"):
        influences(model, history, items, "gradient")


def test_a_class_may_declare_again_that_it_begins_with_a_linear_layer(build: Builder) -> None:
    class Negates(MultVAE):
        begins_with_linear_layer = True

        def code(self, features: Tensor) -> Tensor:
            return -super().code(features)

    run = build("MultVAE")
    model = Negates(run.config, run.train._dataset).eval()
    assert model.begins_with_linear_layer
    history, items = Histories.from_lists([[2, 5, 9]]), torch.tensor([7, 20])
    with torch.no_grad():
        whole, without = scores_without(model, history, items)
    torch.testing.assert_close(influences(model, history, items), whole - without, rtol=1e-4, atol=1e-6)


def test_a_model_of_ones_own_promises_nothing_that_it_does_not_declare() -> None:
    assert not HistoryRecommender.by_softmax
