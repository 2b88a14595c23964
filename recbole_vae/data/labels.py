"""Labels of interactions: those of label 0 are evaluated by ``mode: labeled``, and are nothing that a user chose."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from recbole.utils import FeatureType, InputType

from recbole_vae.errors import DataError


def liked(dataset: Any) -> NDArray[np.bool_] | None:
    """Tell which interactions have label 1, shape [interactions], before the split; None without labels of 0 and 1."""
    field, feat = dataset.label_field, dataset.inter_feat
    if (
        dataset.field2type.get(field) is not FeatureType.FLOAT
        or field not in feat
        or not feat[field].isin((0, 1)).all()
    ):
        return None
    return np.asarray(feat[field] == 1)


def chosen(dataset: Any) -> NDArray[np.bool_]:
    """Tell which interactions count where users are held out, shape [interactions]: all but those of label 0."""
    counts = liked(dataset)
    if counts is None:
        return np.ones(len(dataset.inter_feat), dtype=bool)
    if not counts.all():
        dataset.logger.warning(
            f"'{dataset.label_field}': {int((~counts).sum())} of {len(counts)} interactions have label 0 and are left out."
        )
    return counts


def apply(dataset: Any, parts: list[Any]) -> None:
    """Check the labels that a mode needs, and leave interactions of label 0 out where all count as positive.

    They stay in parts of ``mode: labeled``, and in the training part of a model that learns from labels: one that RecBole gives
    single interactions and no sampled ones.

    Args:
        dataset: the whole data set.
        parts: for training, validation and test; interactions of label 0 are taken from them.

    Raises:
        DataError: ``mode: labeled`` lacks the column, or it has other values than 0 and 1, or a part has only one of these.
    """
    config, field = dataset.config, dataset.label_field
    labeled = [phase for phase, mode in config["eval_args"]["mode"].items() if mode == "labeled"]
    where = f"LABEL_FIELD: '{field}' of data set '{dataset.dataset_name}'"
    if dataset.field2type.get(field) is not FeatureType.FLOAT or field not in parts[0].inter_feat:
        if labeled:
            raise DataError(
                f"{where} is not a column of type float, and mode: labeled needs one of 0 and 1. Name it in LABEL_FIELD, "
                "make one by threshold: {rating: 4}, or choose another mode, such as uni100."
            )
        return
    values = torch.cat([part.inter_feat[field] for part in parts])
    other = values[(values != 0) & (values != 1)]
    if len(other):
        if labeled:
            raise DataError(
                f"{where}: {len(other)} of {len(values)} labels are neither 0 nor 1, first {float(other[0]):g}. Labels of "
                "ratings are made by threshold: {rating: 4}."
            )
        return
    learned = config["MODEL_INPUT_TYPE"] is InputType.POINTWISE
    learned &= config["train_neg_sample_args"]["distribution"] == "none"
    for phase, part in zip(("train", "valid", "test"), parts, strict=True):
        labels = part.inter_feat[field]
        if phase in labeled:
            if "auc" in map(str.lower, config["metrics"]) and 0 < len(labels) == int((labels == labels[0]).sum()):
                raise DataError(
                    f"{where}: all {len(labels)} interactions of the {phase} part have label {float(labels[0]):g}, and AUC "
                    "needs both 0 and 1."
                )
        elif phase != "train" or not learned:
            part.inter_feat = part.inter_feat[labels == 1]
            if len(part.inter_feat) < len(labels):
                dataset.logger.warning(
                    f"'{field}': {len(labels) - len(part.inter_feat)} of {len(labels)} interactions of the {phase} part have "
                    "label 0 and are left out."
                )
