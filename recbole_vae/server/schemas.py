"""What requests and answers look like. The limits that an operator sets are checked where they apply, not here."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, ValidationError
from pydantic_core import from_json

from recbole_vae.data.histories import LARGEST_WEIGHT
from recbole_vae.options.limits import LARGEST
from recbole_vae.options.names import near
from recbole_vae.server.errors import RefusedError

_LARGEST_SEED = 2**63 - 1
_LARGEST_K = 2**31 - 1
MOST_SAMPLES = 1000
MOST_EXPLAINED = 50

_Items = Annotated[list[str], Tag("items")]
_Weights = Annotated[dict[str, Annotated[float, Field(gt=0, le=LARGEST_WEIGHT)]], Tag("weights")]
History = Annotated[_Items | _Weights, Discriminator(lambda value: "weights" if isinstance(value, dict) else "items")]


def _whole(value: object) -> object:
    """Return 3.0 as 3, for clients that have no whole numbers: as a text it would be another value."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


_Text = Annotated[str, BeforeValidator(_whole)]
_Value = Annotated[_Text, Tag("value")]
_Values = Annotated[list[_Text], Tag("values")]
Profile = dict[
    str,
    Annotated[_Value | _Values, Discriminator(lambda value: "values" if isinstance(value, list) else "value")] | None,
]


class _Body(BaseModel):
    """A body of a request."""

    # Numbers are taken for ids that look like numbers, as in many data sets.
    model_config = ConfigDict(extra="forbid", coerce_numbers_to_str=True, allow_inf_nan=False, frozen=True)


_Request = TypeVar("_Request", bound=_Body)


class RecommendRequest(_Body):
    """For whom to rank items, and how. Either `histories` or `users` must be given."""

    histories: list[History] | None = Field(
        None,
        min_length=1,
        description="The items of each person: a list of ids, or ids and their weights where the model was trained with a "
        "`value_field`. Unknown ids are skipped and counted.",
        examples=[[["50", "181", "172"]]],
    )
    users: list[str] | None = Field(
        None, min_length=1, description="Ids of users in the training data, instead of histories."
    )
    profiles: list[Profile | None] | None = Field(
        None,
        min_length=1,
        description="What is known of each person besides, where the model was trained with `user_features`: an object of their "
        "fields, or null, for each history. Values that training did not have are skipped and counted.",
        examples=[[{"age": "24", "gender": "F"}]],
    )
    k: int = Field(
        10, ge=1, le=_LARGEST_K, strict=True, description="Length of each ranking; less where the server allows less."
    )
    exclude_seen: bool = Field(True, strict=True, description="Leave out the items of the history.")
    candidates: list[str] | None = Field(None, description="Rank only these items.")
    exclude: list[str] | None = Field(None, description="Never recommend these items.")
    popularity_correction: float | None = Field(
        None, ge=-LARGEST, le=LARGEST, description="Above 0 favours rare items, below 0 popular ones."
    )
    samples: int = Field(
        0, ge=0, le=MOST_SAMPLES, strict=True, description="Samples of the posterior from which certainty is estimated."
    )
    diversify: float = Field(0.0, ge=0, le=LARGEST, description="Above 0: diversify each ranking.")
    seed: int = Field(0, ge=0, le=_LARGEST_SEED, strict=True, description="Seed of the samples.")


class ExplainRequest(_Body):
    """Whose recommendations to explain. Either `history` or `user` must be given."""

    history: History | None = Field(None, description="The items of a person, as in `/recommend`.")
    user: str | None = Field(None, description="Id of a user in the training data.")
    profile: Profile | None = Field(None, description="What is known of the person besides, as in `/recommend`.")
    k: int = Field(
        10, ge=1, le=MOST_EXPLAINED, strict=True,
        description="Number of recommendations to explain; less where the server allows less.",
    )  # fmt: skip
    candidates: list[str] | None = Field(None, description="Explain the ranking of only these items.")
    exclude: list[str] | None = Field(None, description="Never recommend these items.")
    method: Literal["exact", "gradient"] = Field(
        "exact", description="`exact` leaves out each item in turn; `gradient` approximates that in less time."
    )
    counterfactual: bool = Field(
        True, strict=True, description="Look for the items without which a recommendation would not be made."
    )


class RankingAnswer(BaseModel):
    """The ranking of one person, best item first."""

    items: list[str] = Field(description="Ids of the items.")
    scores: list[float] = Field(
        description="Their scores; shares of the training users if no item was known, and no profile."
    )
    known_items: int = Field(
        description="Different known items of the history. With 0 the ranking is by the profile, or without one of the most "
        "popular items."
    )
    rank_low: list[int] | None = Field(None, description="With `samples`: lower end of each rank's 90 % interval.")
    rank_high: list[int] | None = Field(None, description="With `samples`: its upper end.")
    stability: float | None = Field(None, description="With `samples`: similarity of the samples' rankings, 0 to 1.")
    expected_ndcg: float | None = Field(None, description="With `samples`: the model's own estimate of NDCG.")


class RecommendAnswer(BaseModel):
    """A ranking for each history or user, in the order of the request."""

    rankings: list[RankingAnswer]
    unknown_items: int = Field(description="Ids in the histories that the model does not know; they were skipped.")
    unknown_candidates: int = Field(description="Ids among the candidates that the model does not know.")
    unknown_excluded: int = Field(description="Ids in `exclude` that the model does not know.")
    unknown_values: int = Field(description="Values in the profiles that the model makes no use of; they were skipped.")
    version: str = Field(description="Version of the model that answered; see `/model`.")


class InfluenceAnswer(BaseModel):
    """The influence of an item of the history on a recommendation."""

    item_id: str
    name: str
    influence: float = Field(description="The recommendation's score minus its score without this item.")
    rank_without: int | None = Field(description="Rank without this item; null where it was not computed.")


class AlikeAnswer(BaseModel):
    """An item that is like one without interactions."""

    item_id: str
    name: str
    weight: float = Field(description="Its share among the 20 items that it is most like.")


class ExplainedAnswer(BaseModel):
    """A recommendation and its reasons."""

    rank: int
    item_id: str
    name: str
    details: str
    score: float
    influences: list[InfluenceAnswer]
    counterfactual: list[str] | None = Field(description="Items without which it would not be among the first k.")
    alike: list[AlikeAnswer] = Field(
        description="For an item without interactions, those that it is most like; empty for others."
    )


class ExplainAnswer(BaseModel):
    """The recommendations for one history, explained."""

    user: str
    model: str
    dataset: str
    method: str
    k: int
    searched: bool
    history: list[str] = Field(description="Ids of the history that the model knows.")
    recommendations: list[ExplainedAnswer]
    by_profile: bool = Field(description="Whether they rest on a profile, too, which is taken as given.")
    unknown_values: int = Field(description="Values in the profile that the model makes no use of; they were skipped.")
    unknown_items: int = Field(description="Ids in the history that the model does not know; they were skipped.")
    unknown_candidates: int = Field(description="Ids among the candidates that the model does not know.")
    unknown_excluded: int = Field(description="Ids in `exclude` that the model does not know.")
    version: str


class SimilarAnswer(BaseModel):
    """The items recommended to someone whose only item is the one in the path, best first."""

    item: str
    items: list[str]
    scores: list[float]
    version: str


class ModelAnswer(BaseModel):
    """The model that is served."""

    model: str
    dataset: str
    version: str = Field(
        description="The first 12 digits of the SHA-256 of the checkpoint; with `--new_items` + and the first 8 of that "
        "file's."
    )
    file: str = Field(description="Name of the checkpoint.")
    written: str = Field(description="When the checkpoint was written (ISO 8601, UTC).")
    loaded: str = Field(description="When it was loaded.")
    age_seconds: float = Field(description="Since it was written.")
    items: int = Field(description="Number of items, new ones included.")
    new_items: int = Field(description="Of these, how many training did not have; see `--new_items`.")
    users: int
    has_posterior: bool = Field(description="Whether `samples` and `diversify` are possible.")
    takes_weights: bool = Field(description="Whether histories may have weights.")
    profile_fields: list[str] = Field(description="Fields that profiles may have; empty for a model that reads none.")


class StatusAnswer(BaseModel):
    """Whether the server is well."""

    status: str


class Problem(BaseModel):
    """Why a request was refused."""

    detail: str


def read(kind: type[_Request], body: bytes) -> _Request:
    """Read the body of a request.

    Raises:
        RefusedError: 400, it is not JSON; 422, it is not of this kind.
    """
    try:
        value = from_json(body, allow_inf_nan=False, cache_strings=False)
    except ValueError as error:
        raise RefusedError(400, f"the body is not JSON: {error}.") from None
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise RefusedError(422, _problem(kind, error)) from None


def one_of(first: str, one: object, second: str, other: object) -> None:
    """Raise a RefusedError unless exactly one of two fields is given."""
    if (one is None) == (other is None):
        given = "both are" if one is not None else "neither is"
        raise RefusedError(422, f"{first} and {second}: {given} given; give one of them.")


def _problem(kind: type[_Body], error: ValidationError) -> str:
    """Return the first problem as a sentence, without what was sent but for a short value."""
    first, *others = error.errors(include_url=False, include_context=False)
    place = _place(first["loc"])
    more = f" ({len(others)} more)" if others else ""
    if first["type"] == "extra_forbidden":
        meant = near(place, list(kind.model_fields))
        return (
            f"{place[:40]}: there is no such field{f'; did you mean {meant}?' if meant else '.'} "
            f"The fields are {', '.join(kind.model_fields)}.{more}"
        )
    value = first["input"]
    shown = f" (it is {value!r})" if isinstance(value, bool | int | float) and abs(value) < 1e300 else ""
    said = first["msg"].replace("Input should", "it must").replace("a valid integer", "an integer")
    message = _WORDS.get(first["type"]) or said.replace("valid ", "")
    return f"{place or 'the body'}: {message}{shown}.{more}"


_WORDS = {
    "model_type": 'it must be an object of JSON, such as {"histories": [["50", "181"]]}',
    "list_type": "it must be a list",
    "dict_type": "it must be an object of JSON",
    "string_type": "it must be a string",
    "too_short": "the list is empty",
}


def _place(location: tuple[int | str, ...]) -> str:
    """Return where in the body something is: ``histories[3][5]``."""
    names = [f"[{each}]" if isinstance(each, int) else f".{each[:40]}" for each in location if each not in _BRANCHES]
    return "".join(names).removeprefix(".")


_BRANCHES = {"items", "weights", "value", "values"}
