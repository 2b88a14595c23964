"""``recbole.trainer.trainer``: faster evaluation, held-out users, several processes without a GPU, the data of a checkpoint."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from recbole_vae.errors import DataError
from recbole_vae.model.registry import is_history_model
from recbole_vae.plugin.import_hooks import replace


def hook(trainer: ModuleType) -> None:
    """Change ``recbole.trainer.trainer``."""
    replace(trainer, "Collector", _faster("recbole_vae.evaluation.collector", "FastCollector"))
    replace(trainer, "Evaluator", _faster("recbole_vae.evaluation.metrics", "FastEvaluator"))
    replace(trainer, "DistributedDataParallel", _data_parallel)
    replace(trainer, "get_tensorboard", _get_tensorboard)
    replace(trainer.Trainer, "fit", _fit)
    replace(trainer.NCLTrainer, "fit", _fit)  # a loop of its own
    replace(trainer.Trainer, "evaluate", _evaluate)


def _faster(module: str, name: str) -> Any:
    def wrap(original: Any) -> Any:
        def choose(config: Any) -> Any:
            fast = config["fast_evaluation"] is not False
            return (getattr(import_module(module), name) if fast else original)(config)

        return choose

    return wrap


def _get_tensorboard(original: Any) -> Any:
    def get_tensorboard(logger: Any) -> Any:
        import torch.distributed as dist

        several = dist.is_available() and dist.is_initialized()
        return _Silent() if several and dist.get_rank() else original(logger)

    return get_tensorboard


class _Silent:
    """Stands for TensorBoard's writer in processes that write nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None


def _data_parallel(original: Any) -> Any:
    def data_parallel(module: Any, device_ids: Any = None, **kwargs: Any) -> Any:
        if is_history_model(type(module)):  # its trainer sums the gradients itself
            from recbole_vae.training.processes import share_parameters

            share_parameters(module)
            return module
        on_gpu = next(module.parameters()).is_cuda
        return original(module, device_ids=device_ids if on_gpu else None, **kwargs)

    return data_parallel


def _fit(original: Any) -> Any:
    def fit(self: Any, train_data: Any, *args: Any, **kwargs: Any) -> Any:
        from recbole_vae.training.publish import publish

        if not is_history_model(type(self.model)):
            from recbole_vae.training.restore import data_hash

            # RecBole's checkpoints hold the Config, but neither ids nor interactions of the data set.
            self.config["training_data"] = data_hash(train_data._dataset)
        # Models such as EASE have one epoch, whatever `epochs` is; RecBole would evaluate and save nothing.
        self.eval_step = min(self.eval_step, self.epochs)
        try:
            result = original(self, train_data, *args, **kwargs)
        except BaseException:
            if self.config["refit"]:  # which begins anew, and takes no --resume
                Path(self.saved_model_file).unlink(missing_ok=True)
            raise
        if not is_history_model(type(self.model)):  # whose trainer does this itself
            publish(self)
        return result

    return fit


def _evaluate(original: Any) -> Any:
    def evaluate(
        self: Any, eval_data: Any, load_best_model: bool = True, model_file: Any = None, show_progress: bool = False
    ) -> Any:
        import torch.distributed as dist

        from recbole_vae.evaluation.fold_in import evaluated_on
        from recbole_vae.evaluation.metrics import Result
        from recbole_vae.training.processes import end_together
        from recbole_vae.training.restore import check_saved

        if eval_data:
            _collect_training(self, eval_data)
            if load_best_model:
                if dist.is_available() and dist.is_initialized():
                    # The first process may still be writing what the others load. Each process of RecBole's has named the
                    # file by its own clock, and only the first one writes.
                    names = [self.saved_model_file]
                    dist.broadcast_object_list(names)
                    self.saved_model_file = names[0]
                check_saved(model_file or self.saved_model_file)
        with (
            end_together(getattr(self, "best_so_far", str)),
            evaluated_on(self.model, eval_data),
        ):
            self.eval_collector.candidates = getattr(eval_data, "candidates", None)
            result = original(self, eval_data, load_best_model, model_file, show_progress)
        if isinstance(result, Result):  # several processes of RecBole's make a plain dictionary
            result.split_hash = getattr(eval_data._dataset, "split_hash", None)
            result.gaps = getattr(eval_data._dataset, "gaps", [])
        return result

    return evaluate


def _collect_training(trainer: Any, eval_data: Any) -> None:
    """Collect what metrics count in the training data, which RecBole does in ``fit`` alone."""
    collector = trainer.eval_collector
    counted = ("data.num_items", "data.num_users", "data.count_items", "data.count_users")
    if not any(collector.register.need(name) and name not in collector.data_struct for name in counted):
        return
    sampler = getattr(eval_data, "_sampler", None)
    phases, parts = getattr(sampler, "phases", []), getattr(sampler, "datasets", [])
    if "train" not in phases or len(phases) != len(parts):
        raise DataError(
            f"metrics: {', '.join(trainer.config['metrics'])}: some count training interactions, and without fit the trainer "
            "knows of none. Call trainer.eval_collector.data_collect(train_data) first."
        )
    collector.data_collect(SimpleNamespace(dataset=parts[phases.index("train")]))
