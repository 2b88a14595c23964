"""The recall of Liang et al. (2018), under a name of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from recbole.evaluator.base_metric import TopkMetric


class TruncatedRecall(TopkMetric):  # type: ignore[misc]
    """Hits among the first k, divided by ``min(k, number of relevant items)``: 1 where the first k are all relevant.

    The papers on Mult-VAE and its successors call it Recall@k. RecBole's ``Recall`` divides by the number of relevant items.
    (Their NDCG@k is RecBole's.)
    """

    def calculate_metric(self, dataobject: Any) -> dict[str, float]:
        """Return the mean over users at each k."""
        result: dict[str, float] = self.topk_result("truncatedrecall", self.metric_info(*self.used_info(dataobject)))
        return result

    def metric_info(self, pos_index: NDArray[np.bool_], pos_len: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the recall at each rank, shape [users, k].

        Args:
            pos_index: whether the item at each rank is relevant, shape [users, k].
            pos_len: number of relevant items, shape [users].
        """
        ranks = np.arange(1, pos_index.shape[1] + 1)
        hits: NDArray[np.float64] = np.cumsum(pos_index, axis=1) / np.minimum(ranks, pos_len[:, None])
        return hits
