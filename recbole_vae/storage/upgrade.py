"""Upgrades checkpoints of earlier formats, so that each resumes as it was trained.

Existing files do not know a new option, or a new meaning of an old one. So with such a change, append a step to ``_STEPS``,
which raises :data:`FORMAT_VERSION`. For a new option the step is one line, such as
``_adding("total_anneal_steps", new_option=0.0)``: all models that have ``total_anneal_steps`` get the value 0.0, with which
they work as before.
:func:`recbole_vae.storage.checkpoint.load` calls :func:`upgrade`, and nothing else in the package knows of older formats.

From format 1 to 2:

==========================  ======================  ==========================================================================
models                      option                  value, with which these models work as before
==========================  ======================  ==========================================================================
all                         precision               float32
all                         fast_evaluation         True: the metrics are the same either way
all                         popularity_correction   0
all                         propensity_weight       0
all                         weight_averaging        0
with mlp_hidden_size        n_negatives             0
with mlp_hidden_size        likelihood              multinomial
with mlp_hidden_size        label_smoothing         0
with mlp_hidden_size        gaussian_confidence     10: without effect on a multinomial likelihood
with mlp_hidden_size        tied_weights            False
with total_anneal_steps     kl_length_power         0: the same weight of the KL term for all users
with linear_share           kernel_share            0; ``kernel_l2`` and ``kernel_user_power`` are without effect then
with linear_share           kernel_user_power       0
with linear_share           linear_neighbours       0
==========================  ======================  ==========================================================================

From format 2 to 3:

==========================  ======================  ==========================================================================
all                         exact_time              False: times were float32
all                         exact_ids               False: quotation marks enclosed cells
all                         repeats                 keep
==========================  ======================  ==========================================================================

From format 3 to 4:

==========================  ======================  ==========================================================================
all                         exact_metrics           False: the metrics of recommended items were RecBole's
==========================  ======================  ==========================================================================

From format 4 to 5:

==========================  ======================  ==========================================================================
with linear_share           spectral_share          0; ``spectral_item_power`` and ``spectral_flatness`` are without effect
==========================  ======================  ==========================================================================

From format 5 to 6:

==========================  ======================  ==========================================================================
all                         item_features           []
with linear_share           linear_features         0
==========================  ======================  ==========================================================================

From format 6 to 7:

==========================  ======================  ==========================================================================
with total_anneal_steps     user_features           []
==========================  ======================  ==========================================================================

In the form of ``features``, ``item_field`` is called ``id_field``.

Two options changed their meaning within format 1:

* Where both ``anneal_epochs`` and ``total_anneal_steps`` are set, the steps count today. In files without
  ``propensity_weight`` the epochs counted; their ``total_anneal_steps`` becomes None.
* ``anneal_cap: auto`` began at 1 and was halved repeatedly. Today's rule knows only the caps 0.5 and 0.15. A file with
  another cap keeps it as a number, and keeps the slope of its schedule.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Step = Callable[[dict[str, Any]], None]
"""Brings a checkpoint to the next format, in place."""


def _adding(known_by: str, **options: Any) -> Step:
    """Return the step that adds options, with values that change nothing, to the models that have the option ``known_by``."""

    def step(state: dict[str, Any]) -> None:
        config = state["config"]
        if known_by in config:
            config.update({**options, **config})

    return step


def _epochs_counted(state: dict[str, Any]) -> None:
    config = state["config"]
    if "propensity_weight" not in config and config.get("anneal_epochs") is not None:
        config["total_anneal_steps"] = None


def _halving_caps(state: dict[str, Any]) -> None:
    config, cap = state["config"], state["state_dict"].get("_extra_state", {}).get("cap")
    if config.get("anneal_cap") == "auto" and cap not in (None, 0.5, 0.15):
        config["anneal_cap"] = cap
        if config["anneal_epochs"] is not None:
            config["anneal_epochs"] *= cap  # the slope is that of a rise to 1 in anneal_epochs


def _without_features(state: dict[str, Any]) -> None:
    _adding("train_batch_size", item_features=[])(state)
    _adding("linear_share", linear_features=0.0)(state)


def _without_profiles(state: dict[str, Any]) -> None:
    _adding("total_anneal_steps", user_features=[])(state)
    form = state["state_dict"].get("_extra_state", {}).get("features", {}).get("form", {})
    if "item_field" in form:
        form["id_field"] = form.pop("item_field")


def _from_1(state: dict[str, Any]) -> None:
    for step in (
        _epochs_counted,
        _halving_caps,
        _adding(
            "train_batch_size", precision="float32", fast_evaluation=True, popularity_correction=0.0, propensity_weight=0.0,
            weight_averaging=0,
        ),
        _adding(
            "mlp_hidden_size", n_negatives=0, likelihood="multinomial", label_smoothing=0.0, gaussian_confidence=10.0,
            tied_weights=False,
        ),
        _adding("total_anneal_steps", kl_length_power=0.0),
        _adding("linear_share", kernel_share=0.0, kernel_l2=20.0, kernel_user_power=0.0, linear_neighbours=0),
    ):  # fmt: skip
        step(state)


_STEPS: tuple[Step, ...] = (
    _from_1,
    _adding("train_batch_size", exact_time=False, exact_ids=False, repeats="keep"),
    _adding("train_batch_size", exact_metrics=False),
    _adding("linear_share", spectral_share=0.0, spectral_item_power=0.4, spectral_flatness=1.5),
    _without_features,
    _without_profiles,
)
"""From format 1 to 2, from 2 to 3, ..."""
FORMAT_VERSION = 1 + len(_STEPS)
"""The format that is written today."""


def upgrade(state: dict[str, Any]) -> None:
    """Bring a checkpoint of an earlier format to today's, step by step; ``state`` is changed."""
    for step in _STEPS[state["format_version"] - 1 :]:
        step(state)
    state["format_version"] = FORMAT_VERSION
