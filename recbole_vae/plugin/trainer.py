"""``recbole.trainer.trainer``: faster evaluation, held-out users, several processes without a GPU, the data of a checkpoint."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any

from recbole_vae.model.registry import is_history_model
from recbole_vae.plugin.import_hooks import replace


def hook(trainer: ModuleType) -> None:
    """Change ``recbole.trainer.trainer``."""
    replace(trainer, "Collector", _faster("recbole_vae.evaluation.collector", "FastCollector"))
    replace(trainer, "Evaluator", _faster("recbole_vae.evaluation.metrics", "FastEvaluator"))
    replace(trainer, "DistributedDataParallel", _data_parallel)
    replace(trainer.Trainer, "fit", _fit)
    replace(trainer.Trainer, "evaluate", _evaluate)


def _faster(module: str, name: str) -> Any:
    def wrap(original: Any) -> Any:
        def choose(config: Any) -> Any:
            fast = config["fast_evaluation"] is not False
            return (getattr(import_module(module), name) if fast else original)(config)

        return choose

    return wrap


def _data_parallel(original: Any) -> Any:
    def data_parallel(module: Any, device_ids: Any = None, **kwargs: Any) -> Any:
        on_gpu = next(module.parameters()).is_cuda
        return original(module, device_ids=device_ids if on_gpu else None, **kwargs)

    return data_parallel


def _fit(original: Any) -> Any:
    def fit(self: Any, train_data: Any, *args: Any, **kwargs: Any) -> Any:
        if not is_history_model(type(self.model)):
            from recbole_vae.training.restore import data_hash

            # RecBole's checkpoints hold the Config, but neither ids nor interactions of the data set.
            self.config["training_data"] = data_hash(train_data._dataset)
        return original(self, train_data, *args, **kwargs)

    return fit


def _evaluate(original: Any) -> Any:
    def evaluate(self: Any, eval_data: Any, *args: Any, **kwargs: Any) -> Any:
        from recbole_vae.evaluation.fold_in import evaluated_on
        from recbole_vae.evaluation.metrics import Result

        with evaluated_on(self.model, getattr(eval_data, "fold_in", None)):
            result = original(self, eval_data, *args, **kwargs)
        if isinstance(result, Result):  # several processes of RecBole's make a plain dictionary
            result.split_hash = getattr(eval_data._dataset, "split_hash", None)
            result.gaps = getattr(eval_data._dataset, "gaps", [])
        return result

    return evaluate
