"""``recbole.evaluator`` has the metric TruncatedRecall, and counts all items for TailPercentage.

A metric that is added here is known to RecBole by its name.
"""

from __future__ import annotations

from types import ModuleType


def hook(register: ModuleType) -> None:
    """Change ``recbole.evaluator.register``."""
    from recbole_vae.evaluation.truncated import TruncatedRecall

    name = TruncatedRecall.__name__.lower()
    register.metrics_dict[name] = TruncatedRecall
    register.metric_types[name] = TruncatedRecall.metric_type
    register.metric_information[name] = TruncatedRecall.metric_need
    tail = register.metric_information["tailpercentage"]
    register.metric_information["tailpercentage"] = [
        *tail,
        "data.num_items",
    ]  # those that nobody has are in the tail, too
