"""Which models can score items without training interactions, which is what a split that holds out items measures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recbole_vae.model.registry import is_history_model, recbole_name

REFERENCES = ("Pop", "Random")
"""RecBole's models that take part although they know nothing of new items: what is learned shows beside them."""


def can_score_new_items(model_class: type, config: Mapping[str, Any]) -> bool:
    """Tell whether a model has scores for items without training interactions that mean something, or is a reference.

    Args:
        model_class: the class. One of your own declares it by ``scores_new_items = True``.
        config: its options, of which ``item_features`` counts.
    """
    if recbole_name(model_class) in REFERENCES or getattr(model_class, "scores_new_items", False):
        return True
    return is_history_model(model_class) and bool(config.get("item_features"))


def refusal(model_class: type, config: Mapping[str, Any]) -> str | None:
    """Return why a model cannot take part where items are held out, or None if it can.

    Args:
        model_class: the class.
        config: its options, of which ``item_features`` and ``world_size`` count.
    """
    from recbole.model.abstract_recommender import AbstractRecommender

    name = model_class.__name__
    if not can_score_new_items(model_class, config):
        how = (
            "knows items by their interactions alone; set item_features to fields of the .item file"
            if is_history_model(model_class)
            else f"has no scores for items without training interactions; only {', '.join(REFERENCES)} and models of recbole_vae "
            "with item_features have. A class of your own declares it by scores_new_items = True"
        )
        return f"{name} {how}, or leave HI out of eval_args: split."
    full_sort: Any = getattr(model_class, "full_sort_predict", None)
    if full_sort in (None, AbstractRecommender.full_sort_predict):
        return f"{name} has no full_sort_predict, which ranks all items; it is needed where items are held out."
    if int(config.get("world_size") or 1) > 1 and not is_history_model(model_class):
        return (
            f"{name} needs one process (nproc: 1) where items are held out: RecBole averages the metrics of processes, however "
            "many users each of them has."
        )
    return None
