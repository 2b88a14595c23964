"""A model from what is in a checkpoint, without the data set that it was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from recbole_vae.data.histories import Histories
from recbole_vae.nn.decoder import Decoder


@dataclass
class _Vocabulary:
    """The part of a RecBole data set that a model reads when it is made."""

    users: list[str]
    items: list[str]
    uid_field: str
    iid_field: str
    inter_feat: dict[str, Tensor]
    dataset_name: str
    profiles: dict[str, Any] | None

    @property
    def user_num(self) -> int:
        return len(self.users)

    def num(self, name: str) -> int:
        return len(self.users if name == self.uid_field else self.items)


def model_of(state: dict[str, Any], kind: Any, device: str | torch.device, popularity_correction: float | None) -> Any:
    """Return the model of a checkpoint, on a device.

    Args:
        state: what the checkpoint holds.
        kind: the model's class.
        device: where to compute.
        popularity_correction: replaces the option that the model was trained with.

    Raises:
        ConfigError: ``popularity_correction`` is not allowed.
        AttributeError, IndexError, KeyError, RuntimeError, TypeError: the state is damaged.
    """
    options = state["config"]
    rows = Histories(*(state["histories"][name] for name in ("indptr", "indices", "values")))
    user, item = options["USER_ID_FIELD"], options["ITEM_ID_FIELD"]
    feat = {user: rows.rows(), item: rows.indices.long()}
    if rows.values is not None:
        feat[options["value_field"]] = rows.values
    profiles = state["state_dict"].get("_extra_state", {}).get("profiles")
    data = _Vocabulary(state["users"], state["items"], user, item, feat, state["dataset"], profiles)
    # Items are sampled in training only.
    now = {"device": torch.device(device), "n_negatives": 0}
    if popularity_correction is not None:
        now["popularity_correction"] = popularity_correction
    with torch.random.fork_rng(devices=[]), _NoInitialValues():
        model = kind({**options, **now}, data)
    model.load_state_dict(state["state_dict"])
    if len(rows) != len(state["users"]) or not all(map(_finite, model.parameters())):
        raise RuntimeError("its parameters are not finite numbers, or its histories are not those of its users")
    for module in model.modules():
        if isinstance(module, Decoder):
            module.lay_out_for_few()
    return model.to(device)


class _NoInitialValues(TorchFunctionMode):
    """Leave out the random numbers with which parameters begin: a checkpoint replaces them all, and they take longer than it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        target = args[0] if args else (kwargs or {}).get("tensor")
        random = func in (Tensor.uniform_, Tensor.normal_) or getattr(func, "__module__", "") == "torch.nn.init"
        return target if random and isinstance(target, nn.Parameter) else func(*args, **(kwargs or {}))


def _finite(parameter: Tensor) -> bool:
    """Return whether all numbers are finite, in a fraction of the time that ``isfinite`` takes."""
    return not parameter.numel() or all(bound.isfinite() for bound in parameter.aminmax())
