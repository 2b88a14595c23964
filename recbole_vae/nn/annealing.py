"""Schedules of the KL term's weight."""

from __future__ import annotations

from typing import ClassVar


def linear_beta(step: int, total_steps: float, cap: float) -> float:
    """Weight of the KL term at a gradient step (Liang et al. 2018, section 2.2.2): ``min(cap, step / total_steps)``.

    It rises from 0 as if to reach 1 after ``total_steps``, and stays at ``cap`` once it is there, which is after
    ``cap * total_steps`` steps. Never above ``cap``; ``cap`` at once where ``total_steps`` is 0.

    Args:
        step: gradient steps taken so far, from 0.
        total_steps: length of the schedule, in gradient steps.
        cap: the largest weight.
    """
    return cap if total_steps <= 0 else min(cap, step / total_steps)


class PlateauCap:
    """A largest weight of the KL term that need not be chosen: it falls whenever the validation score no longer gets better.

    From a weight at which the latent variables say too little of a user it goes down, by each weight for as long as that helps,
    and the best epoch, which RecBole's trainer keeps, has the weight that suits the data. So a path of regularisation is
    followed from strong to weak (Friedman, Hastie, Tibshirani: Regularization Paths for Generalized Linear Models via Coordinate
    Descent. Journal of Statistical Software 2010).

    Args:
        stopping_step: evaluations without a better one after which training stops; the weight falls after half of them, or
            after :attr:`PATIENCE` if that is less.

    Attributes:
        cap: the largest weight, from :attr:`START` down.
        patience: evaluations without a better one until it falls.
        waited: evaluations since the best one, or since it fell.
    """

    START: ClassVar[float] = 1.0
    """The first weight: that of the evidence lower bound."""
    FACTOR: ClassVar[float] = 0.5
    """What the weight is multiplied by when it falls."""
    PATIENCE: ClassVar[int] = 10
    """The most that ``patience`` is."""

    def __init__(self, stopping_step: int) -> None:
        self.cap = self.START
        self.waited = 0
        self.patience = min(self.PATIENCE, stopping_step // 2)

    def evaluated(self, better: bool, beta: float) -> bool:
        """Count an evaluation, and return whether the weight falls.

        Args:
            better: whether it is the best so far.
            beta: the weight at the moment, which may still rise to the cap: who waits for it in vain is already beyond the best.
        """
        self.waited = 0 if better else self.waited + 1
        if self.waited < self.patience:
            return False
        self.waited = 0
        self.cap = self.FACTOR * beta
        return True
