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
    """Two largest weights of the KL term in one run, so that none need be chosen for the data.

    It begins with one that suits data on which strong regularisation is good, and falls to one that lets the latent variables say
    more of a user when the validation score no longer gets better; training goes on from the same parameters. Where that does not
    help, the best epoch, which RecBole's trainer keeps, is one from before it fell, and training ends when it would have without.

    Args:
        stopping_step: evaluations without a better one after which training stops; the weight falls after half of them, or
            after :attr:`PATIENCE` if that is less.

    Attributes:
        cap: the largest weight: :attr:`START` or :attr:`END`.
        patience: evaluations without a better one until it falls.
        waited: evaluations since the best one.
    """

    START: ClassVar[float] = 0.5
    """The first weight."""
    END: ClassVar[float] = 0.15
    """The weight it falls to."""
    PATIENCE: ClassVar[int] = 10
    """The most that ``patience`` is."""

    def __init__(self, stopping_step: int) -> None:
        self.cap = self.START
        self.waited = 0
        self.patience = min(self.PATIENCE, stopping_step // 2)

    @property
    def fallen(self) -> bool:
        """Whether it has fallen."""
        return self.cap < self.START

    def evaluated(self, better: bool) -> bool:
        """Count an evaluation, and return whether the weight falls.

        Args:
            better: whether it is the best so far.
        """
        self.waited = 0 if better else self.waited + 1
        if self.fallen or self.waited < self.patience:
            return False
        self.cap = self.END
        return True
