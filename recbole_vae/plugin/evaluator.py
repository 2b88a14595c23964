"""``recbole.evaluator`` has the metric TruncatedRecall, counts all items for TailPercentage, and takes metrics of one's own.

A metric that is added here is known to RecBole by its name.
"""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import Any

own: list[type] = []
"""The metrics that were registered by :func:`register_metric`."""


def hook(register: ModuleType) -> None:
    """Change ``recbole.evaluator.register``."""
    from recbole_vae.evaluation.truncated import TruncatedRecall

    _add(register, TruncatedRecall)
    tail = register.metric_information["tailpercentage"]
    register.metric_information["tailpercentage"] = [
        *tail,
        "data.num_items",
    ]  # those that nobody has are in the tail, too


def register_metric(*metrics: Any) -> None:
    """Make metrics known by the names of their classes, to every model and command.

    Args:
        metrics: subclasses of RecBole's ``TopkMetric`` or of another class of ``recbole.evaluator.base_metric``. The first line
            of the docstring is the definition that tables and reports show. ``smaller = True`` says that less is better;
            ``compare``, where the most is the best, refuses such a metric.

    Raises:
        ValueError: there is another metric of that name.
        TypeError: a class is no metric, or lacks the method ``calculate_metric``.
    """
    from recbole.evaluator import register
    from recbole.evaluator.base_metric import AbstractMetric

    for metric in metrics:
        called = f"{getattr(metric, '__module__', '')}.{getattr(metric, '__name__', repr(metric))}"
        if not (inspect.isclass(metric) and issubclass(metric, AbstractMetric) and hasattr(metric, "metric_need")):
            raise TypeError(
                f"cannot register {called}: a metric is a subclass of TopkMetric or another class of "
                "recbole.evaluator.base_metric."
            )
        if getattr(metric, "calculate_metric", None) is AbstractMetric.calculate_metric:
            raise TypeError(f"cannot register {called}: it has no method calculate_metric.")
        before = register.metrics_dict.get(metric.__name__.lower())
        if before not in (None, metric) and before not in own:
            raise ValueError(f"cannot register {called}: there is a metric of that name already.")
        _add(register, metric)
        own[:] = [*(each for each in own if each is not before), metric]


def _add(register: ModuleType, metric: Any) -> None:
    name = metric.__name__.lower()
    register.metrics_dict[name] = metric
    register.metric_types[name] = metric.metric_type
    register.metric_information[name] = metric.metric_need
