"""The kinds of RecBole's own options. RecBole checks none of them, and ends somewhere in the middle by one that is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from recbole_vae.options.fields import Strict
from recbole_vae.options.names import Where

Text = Annotated[str, Field(min_length=1)]


class RecBoleOptions(Strict):
    """What each option may be for any model; the models of recbole_vae are stricter."""

    epochs: NonNegativeInt
    train_batch_size: PositiveInt
    eval_batch_size: PositiveInt
    eval_step: int
    stopping_step: int
    learning_rate: PositiveFloat
    learner: str
    weight_decay: NonNegativeFloat | None
    clip_grad_norm: dict[str, Any] | None
    train_neg_sample_args: dict[str, Any] | None
    seed: int = Field(ge=0, lt=2**32)
    worker: NonNegativeInt
    use_gpu: bool
    show_progress: bool
    reproducibility: bool
    state: str | None
    loss_decimal_place: PositiveInt

    metrics: list[str] | str
    topk: list[int] | int
    valid_metric: str
    metric_decimal_place: NonNegativeInt
    eval_args: dict[str, Any]
    repeatable: bool

    data_path: Text
    checkpoint_dir: Text
    out: Text | None
    field_separator: Text
    seq_separator: Text
    encoding: Text | None
    USER_ID_FIELD: Text
    ITEM_ID_FIELD: Text
    TIME_FIELD: Text | None
    RATING_FIELD: Text | None
    LABEL_FIELD: Text | None
    load_col: dict[str, Any] | None
    unload_col: dict[str, Any] | None
    benchmark_filename: list[str] | None
    additional_feat_suffix: list[str] | str | None
    alias_of_user_id: list[str] | None
    alias_of_item_id: list[str] | None
    numerical_features: list[str]
    normalize_field: list[str] | str | None
    discretization: dict[str, Any] | None
    preload_weight: dict[str, Any] | None
    seq_len: dict[str, Any] | None
    unused_col: dict[str, Any] | None
    rm_dup_inter: Literal["first", "last"] | None
    filter_inter_by_user_or_item: bool
    save_dataset: bool
    save_dataloaders: bool


def check_kinds(given: Mapping[str, Any], where: Where) -> None:
    """Raise a ConfigError that names an option whose value is of another kind. The word None stands for none."""
    RecBoleOptions.check_each({name: value for name, value in given.items() if value != "None"}, where)
