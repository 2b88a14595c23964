"""``recbole.utils.case_study`` says which data it needs, and ranks no items that are held out for another part."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from recbole_vae.errors import DataError
from recbole_vae.plugin.import_hooks import replace


def hook(case_study: ModuleType) -> None:
    """Change ``recbole.utils.case_study``."""
    replace(case_study, "full_sort_scores", _full_sort_scores)


def _full_sort_scores(original: Any) -> Any:
    def full_sort_scores(uid_series: Any, model: Any, test_data: Any, device: Any = None) -> Any:
        if not test_data.is_sequential and not hasattr(test_data, "uid2history_item"):
            raise DataError(
                "test_data: training data, and those of sampled candidates, do not say which items a user has seen. "
                "full_sort_scores and full_sort_topk take the validation or test data of data_preparation, "
                "with eval_args: {mode: full}."
            )
        scores = original(uid_series, model, test_data, device)
        candidates = getattr(test_data, "candidates", None)
        if candidates is not None:
            scores[:, candidates.barred.to(scores.device)] = float("-inf")
        return scores

    return full_sort_scores
