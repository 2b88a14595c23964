"""The schedule of the KL term's weight."""

from __future__ import annotations


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
