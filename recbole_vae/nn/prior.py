"""Priors, and the divergence of a posterior from them."""

from __future__ import annotations

from torch import Tensor


def kl_standard_normal(mu: Tensor, logvar: Tensor) -> Tensor:
    """Divergence ``KL(N(mu, diag exp(logvar)) || N(0, I))`` of each row (Kingma & Welling 2014, appendix B).

    Args:
        mu: means, shape [batch, latent_dimension].
        logvar: logarithms of the variances, shape [batch, latent_dimension].

    Returns:
        Shape [batch], in nats, summed over the latent dimensions.
    """
    return 0.5 * (mu.square() + logvar.exp() - 1.0 - logvar).sum(dim=1)


def reparameterise(mu: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
    """Sample ``mu + sigma * noise`` from the posterior, with noise of N(0, I) (Kingma & Welling 2014, equation 10)."""
    return mu + (0.5 * logvar).exp() * noise


ACTIVE = 0.01
"""Variance of its posterior mean over users from which on a latent variable is in use (Burda et al. 2016, section 5.2)."""


def active(means: Tensor) -> Tensor:
    """Say which latent variables are in use, bool, shape [latent_dimension], from the posterior means of users.

    The others have the same posterior for everybody, and say nothing (Burda, Grosse and Salakhutdinov: Importance Weighted
    Autoencoders, ICLR 2016).

    Args:
        means: shape [users, latent_dimension].
    """
    return means.var(0, correction=0) > ACTIVE
