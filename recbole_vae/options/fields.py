"""Typed options: what values each may have, read from RecBole's Config and checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, TypeVar

from recbole_vae.errors import ConfigError

if TYPE_CHECKING:
    from recbole.config import Config

Self = TypeVar("Self", bound="ModelConfig")


LARGEST = 1e3
"""Of what scores are corrected or scattered by: far above what is of use, and all scores stay finite in float32."""


@dataclass(frozen=True)
class Allowed:
    """What values an option may have.

    Attributes:
        kind: ``int``, ``float``, ``str``, ``bool`` or ``dict``.
        minimum: the smallest value; ``maximum``: the greatest; ``above``: all values are greater; ``below``: all are smaller.
        choices: the only values.
        optional: None is a value.
        many: the value is a list, possibly empty, of such values.
        word: the only string that may stand for a number.
    """

    kind: type
    minimum: float | None = None
    above: float | None = None
    below: float | None = None
    maximum: float | None = None
    choices: tuple[Any, ...] = ()
    optional: bool = False
    many: bool = False
    word: str | None = None

    def __str__(self) -> str:
        """Describe the values in words."""
        if self.choices:
            one = f"{'one of ' * (len(self.choices) > 1)}{', '.join(map(str, self.choices))}"
        else:
            one = {int: "an integer", float: "a number", str: "a string", bool: "True or False", dict: "a mapping"}[
                self.kind
            ]
            limits = [
                f"{sign} {limit:g}"
                for sign, limit in ((">=", self.minimum), (">", self.above), ("<=", self.maximum), ("<", self.below))
                if limit is not None
            ]
            one += " " * bool(limits) + " and ".join(limits)
        text = f"a list (which may be empty) of values, each {one}" if self.many else one
        return text + f", or {self.word}" * bool(self.word) + ", or ~ (none)" * self.optional

    def convert(self, value: Any) -> Any:
        """Return the value in its own type.

        Raises:
            ValueError: the value is not allowed.
        """
        if (value is None and self.optional) or (value == self.word and self.word):
            return value
        if self.many:
            if not isinstance(value, list | tuple):
                raise ValueError
            return [self._convert_one(each) for each in value]
        return self._convert_one(value)

    def _convert_one(self, value: Any) -> Any:
        if self.kind in (int, float):
            # bool is an int to Python, but an option that is True instead of 1 is a mistake.
            if isinstance(value, bool) or not isinstance(value, Real):
                raise ValueError
            if self.kind is float:
                value = float(value)
            elif isinstance(value, Integral):
                value = int(value)
            elif float(value).is_integer():  # 2e5 from a YAML file
                value = int(float(value))
            else:
                raise ValueError
            within = (
                (self.minimum is None or value >= self.minimum)
                and (self.above is None or value > self.above)
                and (self.below is None or value < self.below)
                and (self.maximum is None or value <= self.maximum)
                and abs(value) != float("inf")
            )
            if not within or value != value:
                raise ValueError
        elif not isinstance(value, self.kind) or (self.choices and value not in self.choices):
            raise ValueError
        return value


def option(kind: type, **limits: Any) -> Any:
    """Declare a field of a :class:`ModelConfig`; the arguments are those of :class:`Allowed`."""
    return field(metadata={"allowed": Allowed(kind, **limits)})


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The options that every model of recbole_vae has: RecBole's of training that it does not check itself, and ours."""

    epochs: int = option(int, minimum=1)
    train_batch_size: int = option(int, minimum=1)
    eval_batch_size: int = option(int, minimum=1)
    eval_step: int = option(int)
    stopping_step: int = option(int, minimum=0)
    # Adam's relatives for sparse gradients are not among these: all gradients here are dense.
    learner: str = option(str, choices=("adam", "adamw", "sgd", "adagrad", "rmsprop"))
    learning_rate: float = option(float, above=0)
    weight_decay: float = option(float, minimum=0)
    clip_grad_norm: dict[str, float] | None = option(dict, optional=True)
    use_gpu: bool = option(bool)
    show_progress: bool = option(bool)
    reproducibility: bool = option(bool)
    # RecBole's mixed precision is for its own training loop.
    enable_amp: bool = option(bool, choices=(False,))
    enable_scaler: bool = option(bool, choices=(False,))
    seed: int = option(int, minimum=0, below=2**32)
    precision: str = option(str, choices=("auto", "float32", "bfloat16"))
    fast_evaluation: bool = option(bool)
    popularity_correction: float = option(float, minimum=-LARGEST, maximum=LARGEST)
    propensity_weight: float = option(float, minimum=0)
    weight_averaging: int = option(int, minimum=0)
    value_field: str | None = option(str, optional=True)
    resume: str | None = option(str, optional=True)

    @classmethod
    def read(cls: type[Self], values: Config | Mapping[str, Any], where: Callable[[str], str] = lambda key: "") -> Self:
        """Read the options from RecBole's Config or another mapping.

        Args:
            values: gives the value of each option; one that it lacks counts as None.
            where: tells where the value of an option was set, for the message.

        Raises:
            ConfigError: a value is of the wrong type or out of range.
        """
        checked = {}
        for name, allowed in cls.allowed().items():
            if name not in values and not allowed.optional:
                raise ConfigError(
                    f"{name}: this option has no default; a model's defaults must have one for each option."
                )
            value = values[name] if name in values else None  # noqa: SIM401 - RecBole's Config has no get
            try:
                checked[name] = allowed.convert(value)
            except ValueError:
                place = where(name)
                raise ConfigError(
                    f"{name}: {value!r}{place and f' ({place})'} is not allowed; it must be {allowed}."
                ) from None
        return cls(**checked)

    def __post_init__(self) -> None:
        """Raise a ConfigError unless ``clip_grad_norm`` has what PyTorch's function takes."""
        clip = self.clip_grad_norm
        if clip is not None and not ("max_norm" in clip and set(clip) <= {"max_norm", "norm_type"}):
            raise ConfigError(
                f"clip_grad_norm: {clip!r} is not allowed; it must have max_norm, and perhaps norm_type, such as "
                "{max_norm: 1.0}."
            )

    @classmethod
    def allowed(cls) -> dict[str, Allowed]:
        """Return of each option by its name which values it may have."""
        return {each.name: each.metadata["allowed"] for each in fields(cls)}

    @classmethod
    def names(cls) -> list[str]:
        """Return the names of the options."""
        return list(cls.allowed())
