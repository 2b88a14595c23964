"""What the variational autoencoders share: a Gaussian posterior, whose mean ranks the items."""

from __future__ import annotations

from torch import Tensor

from recbole_vae.data.histories import Histories
from recbole_vae.model.autoencoder import Autoencoder
from recbole_vae.nn.annealing import linear_beta
from recbole_vae.nn.prior import with_likelihood_counted


class VAE(Autoencoder):
    """A variational autoencoder with ``q(z | x) = N(mu, diag sigma^2)``. A subclass adds the encoder, the decoder and the loss.

    Attributes:
        encoder: its features are ``mu`` and ``log sigma^2``, side by side.
        decoder: from ``z`` to the logits of all items.
    """

    has_posterior = True
    standard_prior = True
    begins_with_linear_layer = True
    can_be_exported = True

    def posterior(self, histories: Histories, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of ``q(z | x)``, each of shape [batch, latent_dimension].

        Args:
            histories: batch of histories.
            mask: see :class:`~recbole_vae.nn.encoder.HistoryEncoder`.
        """
        mu, logvar = self.encoder(histories, mask).chunk(2, dim=1)
        return mu, logvar

    def relative_beta(self, histories: Histories) -> Tensor | None:
        """Return each user's ``beta`` relative to its mean over users, shape [batch]; None if all have the same."""
        return None

    def comparable_posterior(self, histories: Histories) -> tuple[Tensor, Tensor]:
        """Return the posterior that each user would have if all had the same ``beta``; shapes: see :meth:`posterior`.

        Weighting the KL term by ``beta`` is the same as counting the likelihood ``1 / beta`` times. A larger ``beta`` alone
        widens the posterior, which says nothing about how certain the model is of the user.
        """
        mu, logvar = self.posterior(histories)
        relative = self.relative_beta(histories)
        return mu, logvar if relative is None else with_likelihood_counted(logvar, relative.to(logvar).unsqueeze(1))

    def annealed(self, cap: float, epochs: float) -> float:
        """Return ``beta`` at the current step, if it rises linearly from 0 to ``cap`` in so many epochs."""
        # linear_beta reaches the cap after steps * cap.
        return linear_beta(self.step, epochs * self.steps_per_epoch / cap, cap) if cap else 0.0

    def code(self, features: Tensor) -> Tensor:
        """Return the posterior mean, by which items are ranked, from the encoder's features."""
        return features.chunk(2, dim=1)[0]
