"""What the variational autoencoders share: a Gaussian posterior, and rankings by its mean."""

from __future__ import annotations

from torch import Tensor

from recbole_vae.data.histories import Histories
from recbole_vae.model.autoencoder import Autoencoder
from recbole_vae.nn.annealing import linear_beta
from recbole_vae.nn.prior import with_likelihood_counted


class VAE(Autoencoder):
    """A variational autoencoder with ``q(z | x) = N(mu, diag sigma^2)``. A subclass makes encoder and decoder, and the loss.

    Attributes:
        encoder: its features are ``mu`` and ``log sigma^2``, side by side.
        decoder: from ``z`` to the logits of all items.
    """

    has_posterior = True
    standard_prior = True
    begins_with_linear_layer = True

    def posterior(self, histories: Histories, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of ``q(z | x)``, each of shape [batch, latent_dimension].

        Args:
            histories: batch of histories.
            mask: see :class:`~recbole_vae.nn.encoder.HistoryEncoder`.
        """
        mu, logvar = self.encoder(histories, mask).chunk(2, dim=1)
        return mu, logvar

    def relative_beta(self, histories: Histories) -> Tensor | None:
        """Return the weight of each user's KL term relative to the mean weight, shape [batch]; None where all have the same."""
        return None

    def comparable_posterior(self, histories: Histories) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of the posterior as if all users' KL terms had the same weight; see :meth:`posterior`.

        To weigh the KL term by ``beta`` is to count the likelihood ``1 / beta`` times: whose ``beta`` is larger has the wider
        posterior for that alone, which says nothing of how sure the model is of this user.
        """
        mu, logvar = self.posterior(histories)
        relative = self.relative_beta(histories)
        return mu, logvar if relative is None else with_likelihood_counted(logvar, relative.to(logvar).unsqueeze(1))

    def annealed(self, cap: float, epochs: float) -> float:
        """Return the weight of the KL term at the current step, where it rises to ``cap`` in so many epochs."""
        # linear_beta reaches the cap after steps * cap.
        return linear_beta(self.step, epochs * self.steps_per_epoch / cap, cap) if cap else 0.0

    def code(self, features: Tensor) -> Tensor:
        """Return what items are ranked by, the posterior mean, from the encoder's features."""
        return features.chunk(2, dim=1)[0]
