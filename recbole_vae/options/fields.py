"""Typed options: the field of an option holds its default, its limits and its meaning."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
)
from typing_extensions import Self

from recbole_vae.errors import ConfigError
from recbole_vae.options.limits import LARGEST

if TYPE_CHECKING:
    from recbole.config import Config

IN_WORDS = {
    "integer": "an integer", "number": "a number", "string": "a string", "boolean": "True or False", "object": "a mapping",
    "null": "~ (none)", "array": "a list{} of values, each ", "empty": " (which may be empty)", "enum": "one of ",
}  # fmt: skip
AS_TYPES = {
    "integer": "int", "number": "float", "string": "str", "boolean": "bool", "object": "dict", "null": "~",
    "array": "list{} of ", "empty": "", "enum": "",
}  # fmt: skip


def _each_once(entries: Any) -> Any:
    entries = entries.split(",") if isinstance(entries, str) else entries
    if isinstance(entries, list) and (len({*map(str, entries)}) < len(entries) or "" in entries):
        raise ValueError("it must be a list of fields, each once, such as [genre, release_year] or [age, gender].")
    return entries


Fields = Annotated[list[str], BeforeValidator(_each_once)]
"""Fields of a file: a list, or their names with commas between them."""


def describe(schema: Mapping[str, Any], kinds: Mapping[str, str] = IN_WORDS) -> str:
    """Say which values a JSON schema allows, in the words of an error message or (``AS_TYPES``) as types."""
    if "words" in schema:
        return str(schema["words"])
    if "anyOf" in schema:
        return ", or ".join(describe(each, kinds) for each in schema["anyOf"])
    if "const" in schema:
        return str(schema["const"])
    if "enum" in schema:
        return kinds["enum"] + ", ".join(map(str, schema["enum"]))
    kind = schema["type"]
    if kind == "array":
        return kinds["array"].format("" if schema.get("minItems") else kinds["empty"]) + describe(
            schema["items"], kinds
        )
    limits = dict(schema)
    if kind == "integer" and "exclusiveMinimum" in limits:
        limits["minimum"] = limits.pop("exclusiveMinimum") + 1
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    parts = [f"{sign} {limits[name]:.10g}" for name, sign in signs.items() if name in limits]
    return " ".join([kinds[kind], *" and ".join(parts).split()])


class Strict(BaseModel):
    """A pydantic model for options: frozen, without conversions between types, and with our errors.

    True is no number, "5" is no integer, nan and infinity are refused. 2e5 is an integer, (600, 200) a list.
    """

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False, extra="forbid")

    @field_validator("*", mode="before")
    @classmethod
    def _plain(cls, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [cls._plain(each) for each in value]
        if isinstance(value, Integral) and not isinstance(value, bool):  # NumPy's, too
            return int(value)
        if isinstance(value, Real) and not isinstance(value, bool) and float(value).is_integer():
            return int(float(value))
        return value

    @classmethod
    def names(cls) -> list[str]:
        """Return the names of the options."""
        return list(cls.model_fields)

    @classmethod
    def schemas(cls) -> dict[str, dict[str, Any]]:
        """Return the JSON schema of each option."""
        schemas: dict[str, dict[str, Any]] = cls.model_json_schema()["properties"]
        return schemas

    @classmethod
    def read(cls, values: Config | Mapping[str, Any], where: Callable[[str], str] = lambda key: "") -> Self:
        """Read the options from RecBole's Config or another mapping, which may hold more than these.

        Args:
            values: the value of each option; one that is left out has its default.
            where: tells where the value of an option was set, for the message.

        Raises:
            ConfigError: a value is of the wrong type, out of range, or cannot go with another.
        """
        given = {name: values[name] for name in cls.model_fields if name in values}
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            raise cls._refusal(error.errors(), given, where) from None

    @classmethod
    def check_each(cls, values: Mapping[str, Any], where: Callable[[str], str]) -> None:
        """Raise a ConfigError for a value that is not allowed by itself; options that are missing may be set later."""
        given = {name: values[name] for name in cls.model_fields if name in values}
        try:
            cls.model_validate(given)
        except ValidationError as error:
            own = [each for each in error.errors() if each["loc"] and each["loc"][0] in given]
            if own:
                raise cls._refusal(own, given, where) from None

    @classmethod
    def _refusal(cls, complaints: Sequence[Any], given: Mapping[str, Any], where: Callable[[str], str]) -> ConfigError:
        """Turn pydantic's first complaint into our message."""
        first = complaints[0]
        reason = first.get("ctx", {}).get("error")
        if isinstance(reason, ConfigError):
            return reason
        if not first["loc"]:  # a check of several options
            return ConfigError(f"{reason or first['msg']}")
        name = str(first["loc"][0])
        if name not in given:
            return ConfigError(f"{name}: this option has neither a value nor a default.")
        place = where(name)
        refused = f"{name}: {given[name]!r}{place and f' ({place})'} is not allowed"
        return ConfigError(f"{refused}; {reason or f'it must be {describe(cls.schemas()[name])}.'}")


class ModelConfig(Strict):
    """What differs from RecBole's own defaults for the models of recbole_vae.

    Your config files and --key=value options come above it.
    """

    # RecBole's options of training, which it does not check itself. Those without a default here have RecBole's.
    epochs: PositiveInt
    train_batch_size: PositiveInt
    train_neg_sample_args: dict[str, Any] | None = Field(None, description="These models sample no negative items.")
    eval_batch_size: PositiveInt = Field(
        2**22,
        description="User-item pairs per evaluation batch (RecBole's 4096 is a user or two): 16 MiB of scores.",
    )
    eval_step: int
    stopping_step: NonNegativeInt
    # Adam's relatives for sparse gradients are not among these: all gradients here are dense.
    learner: Literal["adam", "adamw", "sgd", "adagrad", "rmsprop"]
    learning_rate: PositiveFloat
    weight_decay: NonNegativeFloat
    clip_grad_norm: dict[str, Any] | None
    use_gpu: bool
    show_progress: bool
    reproducibility: bool
    # RecBole's mixed precision is for its own training loop.
    enable_amp: Literal[False]
    enable_scaler: Literal[False]
    seed: int = Field(ge=0, lt=2**32)
    normalize_all: bool = Field(
        False, description="RecBole rescales float fields to [0, 1]; a value_field is to be taken as it stands."
    )

    value_field: str | None = Field(
        None,
        description="Field of the .inter file that weighs each interaction (a rating, a count); ~: every interaction is 1.",
    )
    exact_time: bool = Field(
        True,
        description="Order events by their exact times; False: as RecBole does, in float32 (a grain of 128 s for Unix seconds).",
    )
    repeats: Literal["auto", "first", "last", "count", "keep"] = Field(
        "auto",
        description="Which interaction of a repeated pair of user and item stays; auto: the last with order TO, else the first; "
        "count: as auto, with how many there were as the field count (for value_field: count); keep: all.",
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Precision of the output layer's products in training; auto: the one that is faster here."
    )
    fast_evaluation: bool = Field(
        True,
        description="Evaluate by this package's collector and metrics; False: by RecBole's, which cannot count items.",
    )
    exact_metrics: bool = Field(
        True,
        description="ItemCoverage, GiniIndex, ShannonEntropy and TailPercentage by their definitions, of items that can be "
        "recommended; False: RecBole's.",
    )
    exact_ids: bool = Field(
        True,
        description="Quotation marks between tabs are part of a cell, and just the lines without a user or an item are left out; "
        "False: as in RecBole.",
    )
    data_cache: bool = Field(
        True,
        description="Keep what was read of an .inter file of 64 MiB or more in NAME.inter.cache beside it, for the next run; "
        "False: neither read nor write such a file.",
    )
    item_features: Fields = Field(
        [],
        description="Fields of the .item file by which items without interactions are scored, such as [genre, release_year, "
        "title:text]; FIELD:KIND reads a field as token, token_seq, float, float_seq or text.",
    )
    resume: str | None = Field(
        None,
        description="Checkpoint to go on from; its settings hold, but for those that may change (epochs, stopping_step, ...).",
    )
    warm_start: str | None = Field(
        None,
        description="Checkpoint of the same model, perhaps on other data, whose parameters training begins with.",
    )
    popularity_correction: float = Field(
        0.0,
        ge=-LARGEST,
        le=LARGEST,
        description="Above 0, scores favour rare items, at some cost in accuracy; below 0, popular ones. "
        "Training is not changed by it.",
    )
    propensity_weight: NonNegativeFloat = Field(
        0.0,
        description="Above 0, training counts an interaction the more the rarer its item: "
        "propensity ** -propensity_weight, of mean 1.",
    )
    weight_averaging: NonNegativeInt = Field(
        0,
        description="Epochs over which the parameters are averaged for evaluation and scoring; 0: those of the last epoch.",
    )

    @field_validator("clip_grad_norm")
    @classmethod
    def _takes_a_norm(cls, clip: dict[str, Any] | None) -> dict[str, Any] | None:
        if clip is not None and not ("max_norm" in clip and set(clip) <= {"max_norm", "norm_type"}):
            raise ValueError("it must have max_norm, and perhaps norm_type, such as {max_norm: 1.0}.")
        return clip

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Return the default of each option that has one; the others have RecBole's."""
        return {
            name: field.get_default(call_default_factory=True)
            for name, field in cls.model_fields.items()
            if not field.is_required()
        }
