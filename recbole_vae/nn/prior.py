"""Priors, and the divergence of a posterior from them."""

from __future__ import annotations

import math

import torch
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


def with_likelihood_counted(logvar: Tensor, factor: Tensor) -> Tensor:
    """Return the log-variance that a posterior would have if the likelihood counted ``factor`` times.

    The posterior's precision is the prior's, 1, plus that of the likelihood, which alone is multiplied by ``factor``:
    ``1 / var' = 1 + factor (1 / var - 1)``. It is exact if the likelihood is Gaussian in each latent variable.

    Args:
        logvar: of the posterior, shape [batch, latent_dimension]; a variance above 1 counts as 1.
        factor: >= 0, broadcast to that shape.
    """
    return -(1 + factor * (-logvar).expm1().clamp_min(0)).log()


def log_normal(latent: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """Return the log-density of ``N(mu, exp(logvar))`` at each latent variable, in the shape of the arguments."""
    return -0.5 * (math.log(2 * math.pi) + logvar + (latent - mu).square() / logvar.exp())


COMPOSITE = (3 / 20, 3 / 4, 1 / 10)
"""Weights of RecVAE's prior in the authors' code: of N(0, 1), the earlier posterior, and N(0, e^10)."""


def log_composite(
    latent: Tensor, mu: Tensor, logvar: Tensor, weights: tuple[float, float, float] = COMPOSITE
) -> Tensor:
    """Log-density of RecVAE's composite prior, which keeps the posterior near its earlier state; for each latent variable.

    ``w_1 N(0, 1) + w_2 q_old(z | x) + w_3 N(0, e^10)``, where ``q_old`` is the posterior with the encoder's earlier parameters
    (Shenbin et al. 2020; the third component is from the authors' code).

    Args:
        latent: ``z``, shape [batch, latent_dimension].
        mu: means of ``q_old``, of the same shape.
        logvar: logarithms of its variances, of the same shape.
        weights: of the three components; they sum to 1.

    Returns:
        Shape [batch, latent_dimension].
    """
    zeros = torch.zeros_like(mu)
    components = ((zeros, zeros), (mu, logvar), (zeros, zeros + 10.0))
    logs = [
        log_normal(latent, *each) + math.log(weight)
        for each, weight in zip(components, weights, strict=True)
        if weight > 0
    ]
    return torch.stack(logs).logsumexp(0)


def log_vamp(latent: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """Log-density of the VampPrior: ``p(z) = 1/K sum_k q(z | u_k)``, the mean of the posteriors of ``K`` pseudo-inputs.

    Reference: Jakub M. Tomczak, Max Welling: VAE with a VampPrior. AISTATS 2018, equation 9.

    Args:
        latent: ``z``, shape [batch, latent_dimension].
        mu: means of the pseudo-inputs' posteriors, shape [K, latent_dimension].
        logvar: logarithms of their variances, of the same shape.

    Returns:
        Shape [batch], in the dtype of ``latent``.
    """
    # Matrix products need no table of [batch, K, latent_dimension]. In float64, because nearly equal numbers are subtracted.
    z, centre, precision = latent.double(), mu.double(), (-logvar.double()).exp()
    squares = z.square() @ precision.T - 2 * z @ (centre * precision).T + (centre.square() * precision).sum(1)
    logs = -0.5 * (squares + (math.log(2 * math.pi) + logvar.double()).sum(1))
    return (logs.logsumexp(1) - math.log(len(mu))).to(latent.dtype)


ACTIVE = 0.01
"""A latent variable is in use if the variance of its posterior mean over users is larger (Burda et al. 2016)."""


def active(means: Tensor) -> Tensor:
    """Return which latent variables are in use, bool, shape [latent_dimension].

    The others have nearly the same posterior for all users, so they carry no information (Burda, Grosse and Salakhutdinov:
    Importance Weighted Autoencoders, ICLR 2016).

    Args:
        means: posterior means of users, shape [users, latent_dimension].
    """
    return means.var(0, correction=0) > ACTIVE
