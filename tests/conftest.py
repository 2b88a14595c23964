"""What the tests share: a clean process state, small data sets, and runs of a few steps."""

from __future__ import annotations

import logging
import random
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits

import recbole_vae  # noqa: F401 - registers the models
from recbole_vae.model.registry import places
from recbole_vae.plugin import evaluator

OPTIONS = {
    "epochs": 2, "show_progress": False, "train_batch_size": 16, "mlp_hidden_size": [12], "latent_dimension": 6,
    "precision": "float32", "use_gpu": False,
}  # fmt: skip
"""Options of a fast run, the same on processors that multiply bfloat16 fast."""

LACKING = dict.fromkeys(("CompositeVAE", "VampVAE", "VASP"), ("mlp_hidden_size", "total_anneal_steps", "n_negatives"))
"""Options of the tests that are for other models than these."""

OWN: dict[str, dict[str, Any]] = {
    "CompositeVAE": {"hidden_size": 12}, "VampVAE": {"hidden_size": 12, "n_pseudo_inputs": 5}, "VASP": {"hidden_size": 12},
    "HybridVAE": {
        "linear_share": 0.5, "linear_l2": 3.0, "linear_item_power": 0.15, "linear_neighbours": 0,
        "kernel_share": 0.0, "kernel_l2": 20.0, "spectral_share": 0.0,
    },
}  # fmt: skip
"""Options of a fast run that are for these alone."""


@pytest.fixture(autouse=True)
def clean_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Give each test a working directory, a command line and a logger of its own; RecBole uses all three."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["pytest"])
    logger = logging.getLogger()
    handlers, level = logger.handlers[:], logger.level
    yield
    for handler in logger.handlers[:]:
        if handler not in handlers:
            logger.removeHandler(handler)
            handler.close()
    logger.setLevel(level)
    torch.autograd.set_detect_anomaly(False)  # importing RecBole's SINE turns it on for the whole process


@pytest.fixture(scope="session", autouse=True)
def same_process_everywhere() -> None:
    # Tiny steps: threads that wait for each other on a busy machine take minutes.
    torch.set_num_threads(1)
    threadpool_limits(1, user_api="blas")
    # A shell's background jobs ignore Ctrl-C, and so would the children of the tests.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def write_inter(
    rows: Iterable[Sequence[Any]],
    name: str = "tiny",
    columns: str = "user_id:token\titem_id:token",
    folder: str = "data",
    part: str = "",
) -> str:
    """Write an atomic file of RecBole (one part of a fixed split) below the working directory; return its ``data_path``."""
    path = Path(folder) / name / f"{name}{part and f'.{part}'}.inter"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [columns, *("\t".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def random_rows(users: int = 40, items: int = 25, seed: int = 0) -> list[tuple[str, str]]:
    """Make interactions of 4 to 12 items a user, popular items first."""
    rng = np.random.default_rng(seed)
    weights = 1.0 / np.arange(1, items + 1)
    rows = []
    for user in range(users):
        chosen = rng.choice(items, size=rng.integers(4, 13), replace=False, p=weights / weights.sum())
        rows += [(f"u{user}", f"i{item}") for item in chosen]
    return rows


@dataclass
class Run:
    """The pieces of a RecBole run."""

    config: Any
    dataset: Any
    train: Any
    valid: Any
    test: Any
    model: Any
    trainer: Any

    def fit(self) -> tuple[float, Any]:
        result: tuple[float, Any] = self.trainer.fit(self.train, self.valid, verbose=False, show_progress=False)
        return result


Builder = Callable[..., Run]


@pytest.fixture
def build() -> Builder:
    """Return a function that builds a run by RecBole's own steps; the data set is ``random_rows`` unless one is named."""

    def _build(model: str = "MultVAE", dataset: str | None = None, **options: Any) -> Run:
        from recbole.config import Config
        from recbole.data import create_dataset, data_preparation
        from recbole.utils import get_model, get_trainer, init_seed

        if dataset is None:
            dataset = "tiny"
            options.setdefault("data_path", write_inter(random_rows()))
        values = {**OPTIONS, **OWN.get(model, {}), **options}
        for name in LACKING.get(model, ()):
            values.pop(name, None)
        config = Config(model=model, dataset=dataset, config_dict=values)
        init_seed(config["seed"], config["reproducibility"])
        data = create_dataset(config)
        train, valid, test = data_preparation(config, data)
        init_seed(config["seed"], config["reproducibility"])
        net = get_model(config["model"])(config, train._dataset).to(config["device"])
        trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, net)
        return Run(config, data, train, valid, test, net, trainer)

    return _build


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[None]:
    """Take away what a test registers, and the modules of its folder."""
    from recbole.evaluator import register

    tables: list[dict[str, Any]] = [register.metrics_dict, register.metric_types, register.metric_information]
    models, modules, metrics = dict(places), set(sys.modules), list(map(dict, tables))
    yield
    for table, before in zip(tables, metrics, strict=True):
        table.clear()
        table.update(before)
    evaluator.own.clear()
    for name in set(places) - set(models):
        del places[name]
        sys.modules.pop(f"recbole.model.general_recommender.{name}", None)
    for name in set(sys.modules) - modules:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture(params=["MultVAE", "MultDAE", "HybridVAE", "CompositeVAE", "VampVAE", "VASP"])
def model_name(request: pytest.FixtureRequest) -> str:
    """Name each of the models."""
    return str(request.param)


def set_all_seeds(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
