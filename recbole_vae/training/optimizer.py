"""Adam that leaves alone the rows that a step does not touch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_ELEMENTS = 2**18
"""Elements of a parameter that a CPU updates at once, so that they stay in its cache between the operations."""


def _plain(method: Any) -> Any:
    """Return a method of torch's without its wrapper for ``torch.compile``, which takes a second or more to import."""
    return getattr(method, "__wrapped__", method)


_step = _plain(torch.optim.Adam.step)


class LazyAdam(torch.optim.Adam):
    """Torch's Adam, except that a sparse gradient updates only its own rows; the other rows are neither read nor written.

    The moments of the other rows do not decay, as in ``torch.optim.SparseAdam``, which takes twice as long. Arguments: see
    ``torch.optim.Adam``; ``amsgrad``, ``maximize`` and ``weight_decay`` do not apply to sparse gradients.
    """

    add_param_group = _plain(torch.optim.Adam.add_param_group)
    zero_grad = _plain(torch.optim.Adam.zero_grad)
    state_dict = _plain(torch.optim.Adam.state_dict)
    load_state_dict = _plain(torch.optim.Adam.load_state_dict)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update all parameters, and remove sparse gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and parameter.grad.is_sparse:
                    self._update_rows(parameter, parameter.grad.coalesce(), group)
                    parameter.grad = None
        return _step(self, closure)

    def _update_rows(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:  # the same state as torch's own, for checkpoints
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        beta1, beta2 = group["betas"]
        step = state["step"].double()  # in float32, 1 - beta2 of the first steps would have few digits
        size, correction = -group["lr"] / (1 - beta1**step), (1 - beta2**step).sqrt()
        rows, values = gradient.indices()[0], gradient.values()
        part = len(rows) if rows.is_cuda else max(1, _ELEMENTS * len(rows) // max(1, values.numel()))
        for places, of_rows in zip(rows.split(max(1, part)), values.split(max(1, part)), strict=True):
            first = state["exp_avg"].index_select(0, places).lerp_(of_rows, 1 - beta1)
            second = state["exp_avg_sq"].index_select(0, places).mul_(beta2).addcmul_(of_rows, of_rows, value=1 - beta2)
            state["exp_avg"].index_copy_(0, places, first)
            state["exp_avg_sq"].index_copy_(0, places, second)
            change = first.div_(second.sqrt_().div_(correction).add_(group["eps"])).mul_(size)
            parameter.index_add_(0, places, change)
