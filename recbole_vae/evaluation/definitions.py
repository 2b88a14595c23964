"""What each metric is, in words: for tables, reports and the page on metrics, which has the formulas."""

from __future__ import annotations

import inspect

DEFINITIONS = {
    "recall": "Recall: share of the user's relevant items in the list",
    "truncatedrecall": "TruncatedRecall: relevant items in the list, divided by the smaller of k and their number",
    "precision": "Precision: share of the list that is relevant",
    "hit": "Hit: 1 if the list has a relevant item, else 0",
    "mrr": "MRR: 1 / rank of the first relevant item, 0 if there is none in the list",
    "map": "MAP: mean of the precision at the rank of each relevant item, divided by the smaller of k and their number",
    "ndcg": "NDCG: gain 1 / log2(rank + 1) of each relevant item, divided by the gain of the best list possible",
    "itemcoverage": "item coverage: share of the items that are in some list",
    "giniindex": "Gini index: inequality of how often items are in the lists, 0 for none",
    "averagepopularity": "average popularity: mean number of training interactions of the items in the lists",
    "shannonentropy": "Shannon entropy: of how often items are in the lists",
    "tailpercentage": "tail percentage: share of the lists that is among the least popular items",
    "tailrecall": "tail recall: recall of the least popular items, which make 20 % of the training interactions",
    "novelty": "novelty: mean of -log2 of an item's share of the training interactions",
    "gauc": "GAUC: the area under the ROC curve of each user, weighted by the number of relevant items",
    "auc": "AUC: the area under the ROC curve",
}
"""What each metric is, by its name in lower case: the name as people write it, and the definition."""

SHARES = DEFINITIONS.keys() - {"averagepopularity", "shannonentropy", "novelty"}
"""Metrics that lie between 0 and 1."""


def definition(name: str) -> str:
    """Return what a metric is, such as ``Hit: 1 if ...``; empty where that is not known.

    Args:
        name: in lower case. For a metric of somebody's own, the first line of its docstring is its definition.
    """
    if name in DEFINITIONS:
        return DEFINITIONS[name]
    from recbole.evaluator.register import metrics_dict

    kind = metrics_dict.get(name)
    words = (vars(kind).get("__doc__") or "") if kind is not None and not kind.__module__.startswith("recbole.") else ""
    first = inspect.cleandoc(words).partition("\n")[0].rstrip(".")
    return f"{kind.__name__}: {first}" if first else ""
