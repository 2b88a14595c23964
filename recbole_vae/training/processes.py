"""Several processes that train one model: the sum of their gradients, and the end of a run that has lost one of them."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from recbole_vae.errors import ConfigError, TrainingError
from recbole_vae.nn.layers import row_gradient

_LARGE = 2**18
"""Tensors of fewer elements travel together."""


def sum_over_processes(parameters: Iterable[nn.Parameter], parts: Sequence[Tensor]) -> None:
    """Replace gradients, and other dense tensors, by their sums over all processes.

    Of a sparse gradient only its rows travel. The result has the rows that any process has, and the same bits in all.

    Args:
        parameters: those without a gradient are left out; all processes have gradients for the same ones.
        parts: other tensors, of any shape.
    """
    trained = [each for each in parameters if each.grad is not None]
    sparse = [each for each in trained if each.grad is not None and each.grad.is_sparse]
    dense = [each.grad for each in trained if each.grad is not None and not each.grad.is_sparse] + list(parts)
    alone = [each for each in dense if each.numel() >= _LARGE and each.is_contiguous()]
    at_work = [dist.all_reduce(each, async_op=True) for each in alone]
    kept = {id(each) for each in alone}
    together: dict[torch.dtype, list[Tensor]] = {}
    for each in dense:
        if id(each) not in kept:
            together.setdefault(each.dtype, []).append(each)
    for tensors in together.values():
        flat = torch.cat([each.reshape(-1) for each in tensors])
        dist.all_reduce(flat)
        for each, of_each in zip(tensors, flat.split([each.numel() for each in tensors]), strict=True):
            each.copy_(of_each.view_as(each))
    _sum_rows(sparse)
    for work in at_work:
        work.wait()


def _sum_rows(parameters: Sequence[nn.Parameter]) -> None:
    """Replace sparse gradients by their sums over all processes, added in the order of the processes."""
    if not parameters:
        return
    gradients = [parameter.grad.coalesce() for parameter in parameters if parameter.grad is not None]
    lengths = torch.tensor([each.values().shape[0] for each in gradients], device=parameters[0].device)
    of_all = [each.tolist() for each in _gathered(lengths)]
    for place, (parameter, gradient) in enumerate(zip(parameters, gradients, strict=True)):
        counts = [each[place] for each in of_all]
        rows, values = (_gathered(_padded(each, max(counts))) for each in (gradient.indices()[0], gradient.values()))
        rows = [each[:count] for each, count in zip(rows, counts, strict=True)]
        touched = torch.unique(torch.cat(rows))
        total = values[0].new_zeros(len(touched), *values[0].shape[1:])
        for of_rows, of_values in zip(rows, values, strict=True):  # within one process each row occurs once
            total.index_add_(0, torch.searchsorted(touched, of_rows), of_values[: len(of_rows)])
        parameter.grad = row_gradient(touched, total, len(parameter))


def _padded(tensor: Tensor, length: int) -> Tensor:
    """Return a tensor with rows of zeros at its end, up to a length; gloo gathers equal shapes alone."""
    padding = tensor.new_zeros(length - len(tensor), *tensor.shape[1:])
    return torch.cat([tensor, padding])


def _gathered(tensor: Tensor) -> list[Tensor]:
    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, tensor.contiguous())
    return parts


def share_parameters(model: nn.Module) -> None:
    """Give all processes the parameters of the first one."""
    for parameter in model.parameters():
        dist.broadcast(parameter.data, 0)


def share_random_state(device: torch.device) -> None:
    """Let all processes draw the random numbers of the first one from here on."""
    on_gpu = device.type == "cuda"
    states = [torch.get_rng_state(), *([torch.cuda.get_rng_state()] if on_gpu else [])]
    dist.broadcast_object_list(states)
    torch.set_rng_state(states[0])
    if on_gpu:
        torch.cuda.set_rng_state(states[1])


def check_folder(file: str) -> None:
    """Raise a ConfigError, in all processes, unless all see the folder of this file, which the first process writes."""
    probe = Path(f"{file}.seen")
    if dist.get_rank() == 0:
        probe.touch()
    dist.barrier()
    seen: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(seen, probe.exists())
    if dist.get_rank() == 0:
        probe.unlink()
    if not all(seen):
        raise ConfigError(
            f"checkpoint_dir: process {seen.index(False)} does not see the files that process 0 writes in "
            f"{probe.parent.absolute()}. Set checkpoint_dir to a folder that all machines share."
        )


@contextlib.contextmanager
def end_together(advice: Callable[[], str]) -> Iterator[None]:
    """End this process with a TrainingError when another one has ended, instead of by a signal or an error of the network.

    Args:
        advice: says how to go on.
    """
    if not dist.is_initialized():
        yield
        return

    def lost(number: int, frame: Any) -> None:
        raise TrainingError(
            f"process {dist.get_rank()} of {dist.get_world_size()} was told to stop ({signal.Signals(number).name}), as all are "
            f"when one has ended; the report of torchrun names it. {advice()}"
        )

    in_main = threading.current_thread() is threading.main_thread()  # Python lets no other thread handle signals
    before = signal.signal(signal.SIGTERM, lost) if in_main else None
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, TrainingError) or not _of_the_network(error):
            raise
        raise TrainingError(
            f"process {dist.get_rank()} of {dist.get_world_size()} has lost another one, which ended or cannot be reached; the "
            f"report of torchrun names it. {advice()}"
        ) from error
    finally:
        if in_main:
            signal.signal(signal.SIGTERM, before)


def _of_the_network(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or "gloo" in str(error)
