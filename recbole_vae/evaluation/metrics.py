"""RecBole's metrics without their Python loops over users or items.

The results are equal, bit for bit; but ``exact_metrics`` has those of recommended items follow their definitions.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from recbole.evaluator import Evaluator, metrics
from recbole.evaluator.base_metric import TopkMetric
from recbole.evaluator.collector import DataStruct
from torch import Tensor

from recbole_vae.data.padding import PADDING, REAL, real
from recbole_vae.errors import ConfigError
from recbole_vae.options.evaluation import COLD, WARM

Table = NDArray[Any]
"""One row for each user, one column for each rank."""


def _up_to(table: Table, lengths: Table) -> Table:
    """Repeat the value at column ``lengths - 1`` in the columns after it; ``table`` has one row for all, or one for each."""
    k = table.shape[-1]
    ranks = np.minimum(np.arange(k), (np.minimum(lengths, k) - 1)[:, None])
    return table[ranks] if table.ndim == 1 else np.take_along_axis(table, ranks, axis=1)


def ndcg(hits: Table, relevant: Table) -> Table:
    """NDCG at each rank with binary relevance (Järvelin and Kekäläinen, TOIS 2002), as in RecBole and Liang et al. (2018).

    The gain of a hit at rank ``r`` is ``1 / log2(r + 1)``; the ideal list has all relevant items first.

    Args:
        hits: whether the item at each rank is relevant, bool, shape [users, k].
        relevant: number of relevant items of each user, at least 1, int, shape [users].

    Returns:
        float64, shape [users, k].
    """
    gains = 1.0 / np.log2(np.arange(1.0, hits.shape[1] + 1) + 1)
    return np.cumsum(np.where(hits, gains, 0), axis=1) / _up_to(np.cumsum(gains), relevant)


def gini(counts: Table, items: int) -> float:
    """Gini index of the number of times that items are recommended: 0 if equally often, near 1 if few have all.

    Args:
        counts: of the items that are recommended at all, at least one; int, shape [shown].
        items: number of items, with those that are never recommended.
    """
    counts = np.sort(counts)
    places = np.arange(items - len(counts) + 1, items + 1)
    index: float = np.sum((2 * places - items - 1) * counts) / counts.sum() / items
    return index


class MRR(metrics.MRR):  # type: ignore[misc]
    """Mean reciprocal rank."""

    def metric_info(self, pos_index: Table) -> Table:
        """Return the reciprocal rank at each rank, shape [users, k]: 0 before the first hit, then 1 / its rank."""
        first = pos_index.argmax(axis=1)
        hit = np.take_along_axis(pos_index, first[:, None], axis=1)
        found = hit & (np.arange(pos_index.shape[1]) >= first[:, None])
        return np.where(found, 1 / (first + 1)[:, None], 0.0)


class MAP(metrics.MAP):  # type: ignore[misc]
    """Mean average precision."""

    def metric_info(self, pos_index: Table, pos_len: Table) -> Table:
        """Return the average precision at each rank, shape [users, k]."""
        ranks = np.arange(1, pos_index.shape[1] + 1)
        precision = pos_index.cumsum(axis=1) / ranks
        return np.cumsum(precision * pos_index.astype(float), axis=1) / _up_to(ranks, pos_len)


class NDCG(metrics.NDCG):  # type: ignore[misc]
    """Normalised discounted cumulative gain."""

    def metric_info(self, pos_index: Table, pos_len: Table) -> Table:
        """Return the NDCG at each rank, shape [users, k]."""
        return ndcg(pos_index, pos_len)


class _OfLists:
    """What the metrics of recommended items share, by their definitions if ``exact_metrics`` is True, else as RecBole has them.

    RecBole counts its padding as an item, divides the entropy by the number of items shown, and leaves items that nobody has
    in training out of the tail. Where a list has fewer candidates than places, it counts items that the user knows.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)  # type: ignore[call-arg]
        self.exact = config["exact_metrics"] is True

    def shown(self, item_matrix: Table) -> Table:
        """Return the items at all places, or at those that have one."""
        return item_matrix[item_matrix != PADDING] if self.exact else item_matrix

    def lists(self, item_matrix: Table) -> Table:
        """Return the lists, or those that have an item: an empty one has no mean."""
        return item_matrix[item_matrix[:, 0] != PADDING] if self.exact else item_matrix

    def items(self, num_items: int) -> int:
        """Return the number of items from RecBole's."""
        return real(num_items) if self.exact else num_items

    def ranks(self, item_matrix: Table) -> Table:
        """Return how many items stand at each place or before it, shape [users, k] or [k]."""
        return np.cumsum(item_matrix != PADDING, axis=1) if self.exact else np.arange(1, item_matrix.shape[1] + 1)


class ItemCoverage(_OfLists, metrics.ItemCoverage):  # type: ignore[misc]
    """Share of the items that are recommended to somebody."""

    def get_coverage(self, item_matrix: Table, num_items: int) -> float:
        """Return the share."""
        return len(np.unique(self.shown(item_matrix))) / self.items(num_items)


class AveragePopularity(_OfLists, metrics.AveragePopularity):  # type: ignore[misc]
    """Mean number of training interactions of the recommended items."""

    def get_pop(self, item_matrix: Table, item_count: dict[int, int]) -> Table:
        """Return the mean over the items at each place and before it, shape [users, k]."""
        item_matrix = self.lists(item_matrix)
        counts = np.zeros(max(item_matrix.max(), *item_count) + 1, dtype=item_matrix.dtype)
        counts[list(item_count)] = list(item_count.values())
        return counts[item_matrix].cumsum(axis=1) / self.ranks(item_matrix)

    def metric_info(self, values: Table) -> Table:
        """Return the means, which there are already."""
        return values


class ShannonEntropy(_OfLists, metrics.ShannonEntropy):  # type: ignore[misc]
    """Entropy of the distribution of the recommended items, in nats."""

    def get_entropy(self, item_matrix: Table) -> float:
        """Return the entropy; RecBole's is divided by the number of items that are shown."""
        shown = self.shown(item_matrix)
        _, first, counts = np.unique(shown, return_index=True, return_counts=True)
        shares = counts[np.argsort(first)] / shown.size  # in RecBole's order, for its sum
        entropy: float = np.cumsum(-shares * np.log(shares))[-1]
        return entropy if self.exact else entropy / len(counts)


class GiniIndex(_OfLists, metrics.GiniIndex):  # type: ignore[misc]
    """Inequality of the number of times that items are recommended."""

    def get_gini(self, item_matrix: Table, num_items: int) -> float:
        """Return the Gini index."""
        return gini(np.unique(self.shown(item_matrix), return_counts=True)[1], self.items(num_items))


class TailPercentage(_OfLists, metrics.TailPercentage):  # type: ignore[misc]
    """Share of the recommended items that are among the least popular."""

    def used_info(self, dataobject: Any) -> Any:
        """Return the recommended items, and the number of training interactions of each item, of all if they are counted."""
        items, counts = super().used_info(dataobject)
        if self.exact:
            counts = {item: counts.get(item, 0) for item in range(dataobject.get("data.num_items"))[REAL]}
        return items, counts

    def get_tail(self, item_matrix: Table, count_items: dict[int, int]) -> Table:
        """Return the share among the items at each place and before it, shape [users, k]."""
        item_matrix = self.lists(item_matrix)
        if self.tail > 1:
            tail = [item for item, count in count_items.items() if count <= self.tail]
        else:
            ordered = sorted(count_items.items(), key=lambda pair: (pair[1], pair[0]))
            tail = [item for item, _ in ordered[: max(int(len(ordered) * self.tail), 1)]]
        return np.isin(item_matrix, tail).cumsum(axis=1) / self.ranks(item_matrix)

    def metric_info(self, values: Table) -> Table:
        """Return the shares, which there are already."""
        return values


_CHANGED = ("ItemCoverage", "GiniIndex", "ShannonEntropy", "TailPercentage")
_FAST = (MRR, MAP, NDCG, ItemCoverage, AveragePopularity, ShannonEntropy, GiniIndex, TailPercentage)


class Result(OrderedDict[str, float]):
    """RecBole's result, the mean of each metric over users, with the users' own values.

    Attributes:
        per_user: values by the name of the metric, if it is a mean over users; float64, shape [users], in the order of
            evaluation (the dataloader's ``uid_list``). NaN for users who do not count in it, as in a metric of cold items
            those who have none to be found.
        split_hash: SHA-256 of the split, if users or items are held out; else None.
        gaps: what the split leaves empty, in words, if this is of the test part, and what else makes it misleading.
    """

    per_user: dict[str, Table]
    split_hash: str | None = None
    gaps: Sequence[str] = ()

    _errors: dict[str, float] | None = None

    def __reduce__(self) -> Any:
        """Send another process the standard errors in place of the users: RecBole's pipe to its parent holds 64 KiB."""
        state = {"split_hash": self.split_hash, "gaps": self.gaps, "_errors": self.standard_errors()}
        return Result, (dict(self),), {"per_user": {}, **state}

    def standard_errors(self) -> dict[str, float]:
        """Return the standard errors of the means; 0 for a single user."""
        if self._errors is not None:
            return self._errors
        counted = {name: values[~np.isnan(values)] for name, values in self.per_user.items()}
        return {
            name: float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else 0.0
            for name, values in counted.items()
        }


def _of_kind(dataobject: Any, kind: str, counted: Tensor) -> DataStruct:
    """Return what was collected of a kind of items, as if there were no others; ``counted`` users only."""
    found = DataStruct()
    for name, value in dataobject._data_dict.items():
        if ":" not in name:
            own = dataobject.get(f"{kind}:{name}") if f"{kind}:{name}" in dataobject else value
            found.set(name, own[counted] if name.startswith("rec.") else own)
    return found


class FastEvaluator(Evaluator):  # type: ignore[misc]
    """RecBole's ``Evaluator`` with the metrics above in place of RecBole's; it returns a :class:`Result`."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self._per_user: dict[str, Table] = {}
        for metric in _FAST:
            if metric.__name__.lower() in self.metric_class:
                self.metric_class[metric.__name__.lower()] = metric(config)
        changed = [name for name in _CHANGED if name.lower() in self.metric_class]
        if changed and config["exact_metrics"] is True:
            logging.getLogger().info(
                f"Measured {', '.join(changed)} by definition (exact_metrics: False keeps RecBole's)."
            )
        for metric in self.metric_class.values():
            if isinstance(metric, TopkMetric):
                metric.topk_result = partial(self._keep, metric.topk_result)

    def _keep(self, average: Any, metric: str, value: Table) -> Any:
        for k in self.config["topk"]:
            self._per_user[f"{metric}@{k}"] = value[:, k - 1].astype(np.float64)
        return average(metric, value)

    def evaluate(self, dataobject: Any) -> Result:
        """Compute all metrics from the collected lists: of all items, and of each kind that was collected apart."""
        result = self._evaluate(dataobject)
        for kind in (WARM, COLD):
            if f"{kind}:rec.counted" in dataobject:
                counted = dataobject.get(f"{kind}:rec.counted")
                found = self._evaluate(_of_kind(dataobject, kind, counted))
                result.update({f"{kind}_{name}": value for name, value in found.items()})
                for name, values in found.per_user.items():
                    of_all = np.full(len(counted), np.nan)
                    of_all[counted.numpy()] = values
                    result.per_user[f"{kind}_{name}"] = of_all
        return result

    def _evaluate(self, dataobject: Any) -> Result:
        self._per_user = {}
        result = Result(super().evaluate(dataobject))
        for name, metric in self.metric_class.items():
            found = [key for key in result if key.partition("@")[0] not in self.metric_class]
            if found and not any(key.partition("@")[0] == name for key in result):
                kind = type(metric)
                raise ConfigError(
                    f"metrics: {kind.__name__} ({kind.__module__}) calls its result {found[0]!r}; the name before the @ must be "
                    f"'{name}', that of the class in lower case, as in self.topk_result('{name}', ...)."
                )
        result.per_user = self._per_user
        return result
