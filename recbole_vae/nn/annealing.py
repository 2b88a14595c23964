"""Schedules of the KL term's weight ``beta``.

:meth:`recbole_vae.model.multvae.MultVAE.beta` and :meth:`recbole_vae.model.vae.VAE.annealed` call them in each training step.
In ``model/base.py``, ``LossTerms.loss`` multiplies the KL term by the result, and ``batch_terms`` counts the steps.
"""

from __future__ import annotations

from typing import ClassVar


def linear_beta(step: int, total_steps: float, cap: float) -> float:
    """Weight of the KL term at a gradient step (Liang et al. 2018, section 2.2.2): ``min(cap, step / total_steps)``.

    It rises linearly from 0, reaches ``cap`` after ``cap * total_steps`` steps, and stays there. If ``total_steps`` is 0, it is
    ``cap`` from the start.

    Args:
        step: gradient steps taken so far, from 0.
        total_steps: gradient steps after which it would reach 1.
        cap: the largest weight.
    """
    return cap if total_steps <= 0 else min(cap, step / total_steps)


class PlateauCap:
    """Two caps of ``beta`` in one run, so that none needs to be tuned.

    Training starts with a cap for data that need strong regularisation. When the validation score stops improving, the cap falls
    to one that lets the latent variables carry more information, and training goes on from the same parameters. If that does not
    help, the best epoch is one from before the fall, and training ends when it would have ended without it.

    Args:
        stopping_step: training stops after this many evaluations without an improvement. The cap falls after half of them, but
            after :attr:`PATIENCE` at the latest.

    Attributes:
        cap: the largest weight: :attr:`START` or :attr:`END`.
        patience: the cap falls after this many evaluations without an improvement.
        waited: evaluations since the best one.
    """

    START: ClassVar[float] = 0.5
    """The first cap."""
    END: ClassVar[float] = 0.15
    """The second cap."""
    PATIENCE: ClassVar[int] = 10
    """Upper limit of ``patience``."""

    def __init__(self, stopping_step: int) -> None:
        self.cap = self.START
        self.waited = 0
        self.patience = min(self.PATIENCE, stopping_step // 2)

    @property
    def fallen(self) -> bool:
        """Whether the cap has fallen."""
        return self.cap < self.START

    def evaluated(self, better: bool) -> bool:
        """Count an evaluation, and return whether the cap falls.

        Args:
            better: whether the evaluation is the best so far.
        """
        self.waited = 0 if better else self.waited + 1
        if self.fallen or self.waited < self.patience:
            return False
        self.cap = self.END
        return True
