"""The measurement of one model, in a process of its own."""

from __future__ import annotations

import copy
import json
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from recbole_vae.bench.memory import limit_memory, peak_memory
from recbole_vae.errors import is_out_of_memory
from recbole_vae.model.registry import import_models, is_history_model
from recbole_vae.training.memory import memory_kept


@dataclass
class Measured:
    """What one process measured; None where the model has no such step.

    Attributes:
        load: seconds from the ``.inter`` file to a first batch and a model that can train on it.
        train: users per second of training, by batch size in users; the size that all models share comes first.
        evaluate: users per second of ranking all items, metrics included, by batch size in users; RecBole's default comes first.
        memory: peak memory in GB after loading, after training and after evaluating; see
            :func:`~recbole_vae.bench.memory.peak_memory`.
        error: why nothing was measured, or "".
    """

    load: float | None = None
    train: dict[str, float] | None = None
    evaluate: dict[str, float] | None = None
    memory: list[float] | None = None
    error: str = ""


def first_batches(loader: Any, number: int) -> Any:
    """Return a copy of a dataloader that stops after some batches."""
    kind = type(loader)

    class First(kind):  # type: ignore[misc, valid-type]
        def __iter__(self) -> Any:
            for position, batch in enumerate(super().__iter__()):
                if position == number:
                    return
                yield batch

        def __len__(self) -> int:
            return min(number, len(loader))

    result = copy.copy(loader)
    result.__dict__["sampler"], result.__class__ = loader.sampler, First
    return result


def _rate(run: Callable[[int], int], seconds: float) -> float:
    """Return users per second of ``run(batches) -> users``; the number of batches grows until a call takes long enough."""
    run(1)
    batches = 1
    while True:
        start = time.perf_counter()
        users = run(batches)
        took = time.perf_counter() - start
        if took >= seconds or users < 0:
            return abs(users) / took
        batches = max(2 * batches, int(1.2 * batches * seconds / max(took, 1e-3)))


def measure(
    model: str, options: dict[str, Any], batch_sizes: Sequence[int], eval_batch_sizes: Sequence[int], seconds: float
) -> Measured:
    """Measure a model in this process, on the data set ``bench``.

    Args:
        model: name of the model.
        options: RecBole's options, with ``data_path``.
        batch_sizes: users in a training batch.
        eval_batch_sizes: user-item pairs in an evaluation batch, in addition to the option ``eval_batch_size``.
        seconds: minimum length of each measurement.
    """
    import torch
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import ModelType, get_model, get_trainer, init_seed

    sys.argv = sys.argv[:1]
    result = Measured()
    start = time.perf_counter()
    config = Config(model=model, dataset="bench", config_dict=options)
    init_seed(config["seed"], config["reproducibility"])
    dataset = create_dataset(config)
    train, valid, _ = data_preparation(config, dataset)
    first = next(iter(train))
    net = get_model(model)(config, train._dataset).to(config["device"])
    result.load = time.perf_counter() - start
    trainer = get_trainer(config["MODEL_TYPE"], model)(config, net)
    on_gpu = config["device"].type == "cuda"

    def wait() -> None:
        if on_gpu:
            torch.cuda.synchronize()

    def a_part(loader: Any, batches: int, size: int, run: Callable[[Any], Any]) -> int:
        """Run some batches and return their users; the number is negative if there are no more batches."""
        run(first_batches(loader, batches) if batches < len(loader) else loader)
        wait()
        return batches * size if batches < len(loader) else -loader.sample_size

    result.memory = [peak_memory(on_gpu) / 1e9]
    of_users = set(first.columns) == {config["USER_ID_FIELD"]}
    if config["MODEL_TYPE"] != ModelType.TRADITIONAL and of_users:
        result.train = {}
        for size in batch_sizes:
            users = min(size, train.sample_size)
            train.step = train.batch_sampler.batch_size = users
            train_a_part = partial(a_part, train, size=users, run=lambda loader: trainer._train_epoch(loader, 0))
            with memory_kept(trainer.device) if is_history_model(type(net)) else nullcontext():  # as in fit
                result.train[str(size)] = _rate(train_a_part, seconds)
    result.memory.append(peak_memory(on_gpu) / 1e9)
    trainer.eval_collector.data_collect(train)
    result.evaluate = {}
    for pairs in (config["eval_batch_size"], *eval_batch_sizes):
        valid.step = valid.batch_sampler.batch_size = max(pairs // dataset.item_num, 1)
        result.evaluate[str(valid.step)] = _rate(
            lambda n: a_part(valid, n, valid.step, lambda loader: trainer.evaluate(loader, load_best_model=False)),
            seconds,
        )
    result.memory.append(peak_memory(on_gpu) / 1e9)
    return result


def child(specification: str) -> None:
    """Carry out a specification in JSON (see :mod:`recbole_vae.bench.run`) and write the result to the file it names."""
    import torch

    wanted = json.loads(specification)
    torch.set_num_threads(wanted["threads"])
    sys.path.append(wanted["path"])  # this process has a working directory of its own
    import_models(wanted["imports"])
    if wanted["memory_limit"] and not torch.cuda.is_available():
        limit_memory(wanted["memory_limit"])
    result = Measured()
    try:
        result = measure(
            wanted["model"], wanted["options"], wanted["batch_sizes"], wanted["eval_batch_sizes"], wanted["seconds"]
        )
    except Exception as error:
        text = " ".join(str(error).split())
        result.error = "out of memory" if is_out_of_memory(error) else f"{text[:200]} ({type(error).__name__})"
    Path(wanted["result"]).write_text(json.dumps(asdict(result)), encoding="utf-8")
