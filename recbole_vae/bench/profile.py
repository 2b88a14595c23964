"""One training step on a CPU, part by part, beside what this machine's products and memory allow.

The times are torch's profiler's: those of each operator without the operators that it calls.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from recbole_vae.bench.measure import first_batches
from recbole_vae.model.registry import import_models
from recbole_vae.training.memory import memory_kept

_PRODUCTS = (
    "aten::mm",
    "aten::addmm",
    "aten::bmm",
    "aten::baddbmm",
    "aten::matmul",
    "aten::linear",
    "mkldnn::_linear_pointwise",
)
_CONVERSIONS = ("aten::copy_", "aten::_to_copy", "aten::to", "aten::clone", "aten::contiguous")
_EXPONENTIALS = (
    "aten::_log_softmax", "aten::log_softmax", "aten::exp", "aten::exp_", "aten::logaddexp", "aten::logsumexp",
    "aten::_softmax", "aten::softmax",
)  # fmt: skip

OUTPUT, CONVERSIONS, SOFTMAX = "output layer: products", "output layer: conversions, copies", "output layer: softmax"
SPARSE, HIDDEN, OPTIMISER = "sparse input layer", "hidden layers: products", "optimiser"
OTHER, BETWEEN = "other operators", "between operators (Python)"

GROUPS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (OUTPUT, "LinearMultinomial", _PRODUCTS),
    (CONVERSIONS, "LinearMultinomial", _CONVERSIONS),
    (SOFTMAX, "LinearMultinomial", _EXPONENTIALS),
    ("output layer: the rest", "LinearMultinomial", ()),
    (SPARSE, "SparseProduct", ()),
    (OPTIMISER, "Optimizer.step", ()),
    (HIDDEN, "", _PRODUCTS),
    ("batches of users", "enumerate(DataLoader)", ()),
)
"""Parts of a step: name, a word in the name of an operator or of one that it runs in, and operators. Empty is any of them.

An operator belongs to the first part that it fits, and else to the other operators.
"""


@dataclass
class Part:
    """A part of a step.

    Attributes:
        name: in :data:`GROUPS`, or one of the two last.
        ms: milliseconds of a step.
        flops: floating-point operations that it cannot do without.
        bytes: that it has to read and write at least.
        limit: milliseconds of those at the measured peaks; 0 where none are counted.
    """

    name: str
    ms: float
    flops: float = 0.0
    bytes: float = 0.0
    limit: float = 0.0


@dataclass
class Profiled:
    """A profile; see :func:`profile`.

    Attributes:
        users: in a batch.
        entries: interactions of a batch, mean.
        dtype: of the output layer's products.
        step: milliseconds of a step, the profiler's own work included.
        plain: milliseconds of a step without the profiler.
        peak: floating-point operations per second of a product in ``dtype`` and in float32.
        bandwidth: bytes per second of a copy, read and written.
        parts: they sum to ``step``.
        error: why nothing was measured, or "".
    """

    users: int = 0
    entries: float = 0.0
    dtype: str = ""
    step: float = 0.0
    plain: float = 0.0
    peak: list[float] = field(default_factory=list)
    bandwidth: float = 0.0
    parts: list[Part] = field(default_factory=list)
    error: str = ""


def group(event: Any) -> str:
    """Return the part of a step to which an event of the profiler belongs."""
    names, each = [], event
    while each is not None:
        names.append(each.name)
        each = each.cpu_parent
    for part, within, operators in GROUPS:
        if (not operators or event.name in operators) and any(within in name for name in names):
            return part
    return OTHER


def parts_of(events: Iterable[Any], steps: int, seconds: float) -> list[Part]:
    """Sum the events of some steps, which took so many seconds, in milliseconds of one step."""
    sums = dict.fromkeys((*(name for name, _, _ in GROUPS), OTHER), 0.0)
    for event in events:
        sums[group(event)] += event.self_cpu_time_total / 1e3 / steps
    sums[BETWEEN] = 1e3 * seconds / steps - sum(sums.values())
    return [Part(name, ms) for name, ms in sums.items()]


def needs(net: Any, users: int, entries: float, low: int) -> dict[str, tuple[float, float]]:
    """Return the floating-point operations and the bytes that parts of a step cannot do without.

    A product has 2 operations for each triple of indices, and a layer has three products, its gradients included. Weights of
    the output layer are converted, and their gradient back. Logits are written once and read once. The sparse layer reads a row
    for each entry, forward and backward, and writes its gradient. Adam reads and writes weights and two moments, and reads the
    gradient.

    Args:
        net: the model.
        users: in a batch.
        entries: interactions in a batch.
        low: bytes of a number in the output layer's products.
    """
    from torch import nn

    from recbole_vae.nn.layers import SparseLinear

    items = net.n_real_items
    layers = [each for each in net.modules() if isinstance(each, nn.Linear)]
    output = sum(each.weight.numel() for each in layers if each.out_features == items)
    hidden = sum(each.weight.numel() for each in layers if each.out_features != items)
    first = [each.weight for each in net.modules() if isinstance(each, SparseLinear)]
    numbers = sum(each.numel() for each in net.parameters() if each.requires_grad)
    return {
        OUTPUT: (6.0 * users * output, 0.0),
        CONVERSIONS: (0.0, 2.0 * (4 + low) * output if low != 4 else 0.0),
        SOFTMAX: (0.0, 2.0 * low * users * items),
        SPARSE: (0.0, sum(4.0 * (2 * entries * each.shape[1] + each.numel()) for each in first)),
        HIDDEN: (6.0 * users * hidden, 0.0),
        OPTIMISER: (0.0, 28.0 * numbers),
    }


def profile(model: str, options: dict[str, Any], users: int, steps: int = 10) -> Profiled:
    """Profile steps of a model in this process, on the data set ``bench``.

    Args:
        model: name of a model of recbole_vae.
        options: RecBole's options, with ``data_path``.
        users: in a batch.
        steps: at most so many.
    """
    import torch
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    sys.argv = sys.argv[:1]
    config = Config(model=model, dataset="bench", config_dict={**options, "use_gpu": False})
    init_seed(config["seed"], config["reproducibility"])
    train, *_ = data_preparation(config, create_dataset(config))
    net = get_model(model)(config, train._dataset)
    trainer = get_trainer(config["MODEL_TYPE"], model)(config, net)
    train.step = train.batch_sampler.batch_size = users = min(users, train.sample_size)
    steps = max(1, min(steps, train.sample_size // users))

    def run() -> float:
        start = time.perf_counter()
        trainer._train_epoch(first_batches(train, steps), 0)
        return time.perf_counter() - start

    with memory_kept(trainer.device):  # as in fit
        run()
        plain = min(run(), run())
        with profiler(activities=[ProfilerActivity.CPU]) as profiled:
            seconds = run()
    dtype = getattr(getattr(net, "decoder", None), "dtype", None) or torch.float32
    result = Profiled(users, len(net.histories.indices) * users / train.sample_size, str(dtype).removeprefix("torch."))
    result.step, result.plain = 1e3 * seconds / steps, 1e3 * plain / steps
    result.peak, result.bandwidth = [_peak(dtype), _peak(torch.float32)], _bandwidth()
    result.parts = parts_of(profiled.events(), steps, seconds)
    needed = needs(net, users, result.entries, dtype.itemsize)
    for part in result.parts:
        part.flops, part.bytes = needed.get(part.name, (0.0, 0.0))
        part.limit = 1e3 * (part.flops / result.peak[part.name != OUTPUT] + part.bytes / result.bandwidth)
    return result


def _fastest(run: Callable[[], object], times: int = 5) -> float:
    """Return the seconds of the fastest of some runs, after one."""
    run()
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return min(taken)


def _peak(dtype: Any, size: int = 2048) -> float:
    """Measure the floating-point operations per second of a product of square matrices."""
    import torch

    left, right = (torch.randn(size, size).to(dtype) for _ in range(2))
    return 2.0 * size**3 / _fastest(lambda: left @ right)


def _bandwidth(size: int = 2**26) -> float:
    """Measure the bytes per second of a copy of so many float32 numbers: those that are read, and those that are written."""
    import torch

    source, target = torch.ones(size), torch.empty(size)
    return 2.0 * 4 * size / _fastest(lambda: target.copy_(source))


def child(specification: str) -> None:
    """Carry out a specification in JSON (see :mod:`recbole_vae.bench.run`) and write the result to the file it names."""
    import torch

    wanted = json.loads(specification)
    torch.set_num_threads(wanted["threads"])
    sys.path.append(wanted["path"])  # this process has a working directory of its own
    import_models(wanted["imports"])
    found = profile(wanted["model"], wanted["options"], wanted["batch_sizes"][0])
    Path(wanted["result"]).write_text(json.dumps(asdict(found)), encoding="utf-8")
