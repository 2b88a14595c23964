"""Mult-VAE mixed with closed-form models: an item-item model, a kernel over users, and a filter of the spectrum.

References: see :mod:`recbole_vae.model.multvae`, :mod:`recbole_vae.nn.linear`, :mod:`recbole_vae.nn.kernel` and
:mod:`recbole_vae.nn.spectral`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, model_validator
from scipy.sparse import csr_matrix
from torch import Tensor, nn
from typing_extensions import Self

from recbole_vae.data.histories import Histories
from recbole_vae.errors import ConfigError
from recbole_vae.model.capabilities import SparseLayer
from recbole_vae.model.multvae import MultVAE, MultVAEConfig
from recbole_vae.model.new_items import starting_strengths
from recbole_vae.nn.kernel import UserKernel
from recbole_vae.nn.linear import ItemItem, LocalItemItem, Ridge, standardise, standardised
from recbole_vae.nn.spectral import SpectralFilter
from recbole_vae.options.fields import ModelConfig

_ROUNDING = 1e-9
"""Of sums of shares."""
_MANY_ITEMS, _MANY_USERS = 10_000, 15_000
"""With more, ``auto`` solves no table of all pairs of items, or no kernel over all users."""

_Share = Annotated[float, Field(ge=0, le=1)] | Literal["auto"]
_Positive = PositiveFloat | Literal["auto"]
_Power = NonNegativeFloat | Literal["auto"]

PATHS = ("linear", "kernel", "spectral")
"""The paths beside the VAE."""

WITHOUT_VALIDATION: dict[str, float] = {
    "linear_share": 0.5, "kernel_share": 0.0, "spectral_share": 0.0,
    "linear_l2": 10.0, "linear_item_power": 0.15, "linear_features": 0.0, "linear_neighbours": 0, "kernel_l2": 10.0,
    "spectral_item_power": 0.4, "spectral_flatness": 1.5,
}  # fmt: skip
"""What ``auto`` means where there is no validation part, and where the search for a strength begins; see
:meth:`HybridVAE.without_validation`."""

STRENGTHS: dict[str, dict[str, tuple[float, ...]]] = {
    "vae": {},
    "linear": {
        "linear_l2": (1.0, 3.0, 10.0, 30.0, 100.0, 300.0),
        "linear_item_power": (0.0, 0.15, 0.3, 0.45, 0.6),
        "linear_features": (0.0, 0.1, 0.3, 1.0),
        "linear_neighbours": (0, 100),
    },
    "kernel": {"kernel_l2": (1.0, 3.0, 10.0, 30.0, 100.0)},
    "spectral": {"spectral_item_power": (0.0, 0.2, 0.4, 0.6, 0.8), "spectral_flatness": (1.0, 1.5, 2.0, 3.0)},
}
"""The options of each path that ``auto`` chooses, and the values to choose from, in order."""


class HybridVAEConfig(MultVAEConfig):
    """Options of HybridVAE: those of MultVAE, with its defaults (the paper's in brackets), and of the paths beside it.

    ``auto`` is chosen on the validation part after training.
    """

    linear_share: _Share = Field(
        "auto",
        description="Share of the linear path in the scores; 0: without it, 1: the linear path alone (then --epochs=1); "
        "auto: chosen on the validation part, as all that is auto here.",
    )
    linear_l2: _Positive = Field("auto", description="Its ridge, in units of the mean of the Gram matrix's diagonal.")
    linear_dropout: float = Field(
        0.5, ge=0, lt=1, description="Its ridge, as if this share of the input's items were dropped."
    )
    linear_user_power: NonNegativeFloat = Field(
        0.25, description="A user of n items counts n ** -(2 * linear_user_power) times in each item pair."
    )
    linear_item_power: _Power = Field(
        "auto",
        description="An item of n users is scaled by n ** -linear_item_power. 0 (and 0 for the two above): EASE.",
    )
    linear_features: _Power = Field(
        "auto",
        description="With item_features, these count so much there, beside the users: two items of the same features as "
        "linear_features times the users of a mean item. Not with linear_neighbours.",
    )
    linear_neighbours: NonNegativeInt | Literal["auto"] = Field(
        "auto",
        description="The linear path predicts each item from this many most similar ones, for large or sparse catalogues; "
        "0: from all.",
    )
    kernel_share: _Share = Field(
        "auto", description="Share of the path through similar users; auto: none beyond 15 000 users."
    )
    kernel_l2: _Positive = Field("auto", description="Its ridge.")
    kernel_user_power: NonNegativeFloat = Field(
        0.0,
        description="A user of n items (with value_field: of weights of sum n) counts n ** -kernel_user_power times there.",
    )
    spectral_share: _Share = Field(
        "auto",
        description="Share of the path by the spectrum of the interactions, for catalogues of any size; "
        "what the shares leave of 1 is the VAE's.",
    )
    spectral_item_power: _Power = Field(
        "auto", description="An item of n users counts n ** -spectral_item_power times in the history there."
    )
    spectral_flatness: _Positive = Field(
        "auto", description="Above 1, its filter is flatter at both ends of the spectrum."
    )

    @property
    def by_sigmoid(self) -> bool:
        """See :class:`HistoryRecommender`; mixed scores are no logits."""
        return False

    @model_validator(mode="after")
    def _shares_of_a_whole(self) -> Self:
        """Raise a ConfigError if the shares sum to more than 1."""
        given = {name: getattr(self, f"{name}_share") for name in PATHS}
        given = {name: share for name, share in given.items() if share != "auto" and share}
        if sum(given.values()) > 1 + _ROUNDING:
            shares = " and ".join(f"{name}_share: {share:g}" for name, share in given.items())
            raise ConfigError(f"{shares} sum to more than 1; what they leave of 1 is the VAE's share.")
        if self.linear_features not in ("auto", 0) and (
            not self.item_features or self.linear_neighbours not in ("auto", 0)
        ):
            raise ConfigError(
                f"linear_features: {self.linear_features:g} needs item_features, and no linear_neighbours; set "
                "linear_features: 0, or name the features, such as item_features: [genre, release_year]."
            )
        return self


def _shares(settings: Mapping[str, float]) -> dict[str, float]:
    """Return the share of each path that has one."""
    shares = {name: float(settings[f"{name}_share"]) for name in PATHS}
    shares = {"vae": 1 - sum(shares.values()), **shares}
    return {name: share for name, share in shares.items() if share > _ROUNDING}


def described(settings: Mapping[str, float]) -> str:
    """Return the shares, and the strengths of their paths, in words."""
    parts = []
    for path, share in _shares(settings).items():
        names = [
            name
            for name in STRENGTHS[path]
            if name != "linear_features" or (settings[name] not in ("auto", 0) and not settings["linear_neighbours"])
        ]
        strengths = ", ".join(f"{name} {settings[name]:g}" for name in names)
        parts.append(f"{path} {round(share, 2):g}{f' ({strengths})' * bool(strengths)}")
    return ", ".join(parts)


def mixture_in(state: Mapping[str, Any]) -> str:
    """Return the mixture of the model in a checkpoint, in words; "" if nothing was chosen."""
    chosen = state["state_dict"].get("_extra_state", {}).get("chosen")
    return described({**state["config"], **chosen}) if chosen else ""


class HybridVAE(MultVAE):
    """Mult-VAE mixed with closed-form paths: ``u s(logits) + v s(x W) + w s(k(x, X) A) + t s(f(x))``.

    ``logits`` are the VAE's, ``v``, ``w`` and ``t`` are ``linear_share``, ``kernel_share`` and ``spectral_share``, and ``u`` is
    what they leave of 1. ``s`` standardises each user's scores over the unseen items; without it the shares would mean something
    else for each user. The VAE is trained as if it were alone. The other paths are solved from the training histories.

    Training and its early stopping see the VAE and the shares that are numbers. Then, where a share or a strength is ``auto``,
    :mod:`recbole_vae.training.mixture` chooses on the validation part. Checkpoints hold the histories and what was chosen, but
    not the solutions, which are solved again when one is loaded.

    Attributes:
        auto: names of the options that are ``auto``.
        settings: the value of each option of ``auto``, as given or chosen; shares that are not chosen yet are 0.
    """

    config_class: ClassVar[type[ModelConfig]] = HybridVAEConfig
    options: HybridVAEConfig
    has_other_paths = True
    can_be_exported = True

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.auto = {name for name in WITHOUT_VALIDATION if getattr(self.options, name) == "auto"}
        if not self.options.item_features:
            self.auto.discard("linear_features")
        self.chosen: dict[str, float] | None = None
        self._alone: str | None = None
        self._settings_of: dict[str, tuple[Any, ...]] = {}
        for name in PATHS:
            self.register_module(name, None)
        self.forget()

    @property
    def chooses(self) -> bool:
        """Whether something is ``auto`` that a path of a positive share depends on, or a share itself."""
        return any(option in self.auto for path in self.mixed() for option in (f"{path}_share", *STRENGTHS[path]))

    @property
    def undecided(self) -> bool:  # type: ignore[override]
        """See Capabilities."""
        return self.chooses and self.chosen is None

    def forget(self) -> None:
        """Score as before anything was chosen: by the VAE alone, if a share is to be chosen."""
        self.chosen = None
        self.settings = {
            name: value if name in self.auto else getattr(self.options, name)
            for name, value in self.without_validation().items()
        }
        for name in self.auto:
            if name.endswith("_share"):
                self.settings[name] = 0.0
        if not self.options.item_features:
            self.settings["linear_features"] = 0.0
        self._solve()  # now: RecBole's count of operations knows no module that a first score would add

    def without_validation(self) -> dict[str, float]:
        """Return what ``auto`` means where there is no validation part; shares are those of what the given ones leave."""
        found = dict(WITHOUT_VALIDATION)
        for path in PATHS:
            found[f"{path}_share"] *= self._rest
            for name, values in self.strengths(path).items():  # where items are many, one number of neighbours is left
                found[name] = found[name] if found[name] in values else values[0]
        return found

    @property
    def _rest(self) -> float:
        """What the shares that are numbers leave of 1."""
        given = (getattr(self.options, f"{name}_share") for name in PATHS)
        return max(0.0, 1 - sum(float(share) for share in given if share != "auto"))

    def choose(self, chosen: Mapping[str, float]) -> None:
        """Set what was ``auto``, and solve the paths that have a share.

        Args:
            chosen: a value for each option that is ``auto``; others are without effect.
        """
        self.chosen = {name: float(chosen[name]) for name in WITHOUT_VALIDATION if name in self.auto}
        self.settings.update(self.chosen)
        self._solve()

    def choose_again(self, chosen: Mapping[str, float], options: Mapping[str, Any]) -> bool:
        """Set what an earlier run chose. Where a share is another number now, the others keep their proportions.

        Args:
            chosen: a value for each option that is ``auto``, and perhaps for more.
            options: those of the earlier run.

        Returns:
            Whether the shares are others than they were.
        """
        earlier = {path: float(chosen.get(f"{path}_share", options[f"{path}_share"])) for path in PATHS}
        free = [path for path in PATHS if f"{path}_share" in self.auto]
        total = 1 - sum(share for path, share in earlier.items() if path not in free)
        scale = self._rest / total if total > _ROUNDING else 0.0
        self.choose({**chosen, **{f"{path}_share": earlier[path] * scale for path in free}})
        now = {path: float(self.settings[f"{path}_share"]) for path in PATHS}
        return any(abs(now[path] - earlier[path]) > _ROUNDING for path in PATHS)

    def mixed(self) -> list[str]:
        """Return the paths that have a share, or may get one: of ``vae``, ``linear``, ``kernel`` and ``spectral``."""
        given = {name: getattr(self.options, f"{name}_share") for name in PATHS}
        rest = self._rest > _ROUNDING
        found = ["vae"] if rest else []
        for name, share in given.items():
            too_large = name == "kernel" and len(self.histories) > _MANY_USERS
            if (rest and not too_large) if share == "auto" else share:
                found.append(name)
        return found

    def strengths(self, path: str) -> dict[str, tuple[float, ...]]:
        """Return the options of a path that are ``auto``, each with the values to choose from."""
        found = {name: values for name, values in STRENGTHS[path].items() if name in self.auto}
        if path == "linear" and self.n_real_items > _MANY_ITEMS:  # each solution takes minutes
            return {"linear_neighbours": (100,)} if "linear_neighbours" in found else {}
        if path == "linear" and self.options.linear_neighbours not in ("auto", 0):
            found.pop("linear_features", None)
        return found

    @property
    def shares(self) -> dict[str, float]:
        """The share of each path that has one."""
        return _shares(self.settings)

    @property
    def scores_by_latent(self) -> bool:  # type: ignore[override]
        """See Capabilities."""
        return "vae" in self.shares

    def _solve(self) -> None:
        for name in PATHS:
            if name in self.shares:
                self.path(name)
            else:
                self._settings_of.pop(name, None)
                self.register_module(name, None)

    def path(self, name: str) -> nn.Module:
        """Return a closed-form path by the present settings; it is solved unless it was already."""
        options, settings, items = self.options, self.settings, self.n_real_items
        mine = tuple(settings[option] for option in STRENGTHS[name])
        module: Any = getattr(self, name)
        if name == "spectral" and module is not None:  # what takes time depends on no setting
            module.item_power, module.flatness = mine
        elif self._settings_of.get(name) != mine:
            self.register_module(name, None)  # its memory is free before the next is solved
            self._settings_of.pop(name, None)  # which may fail
            if name == "linear":
                l2, item_power, weight, neighbours = mine
                ridge = Ridge(l2, options.linear_dropout, options.linear_user_power, item_power)
                module = (
                    LocalItemItem(self.histories, items, ridge, int(neighbours), progress=options.show_progress)
                    if neighbours
                    else ItemItem(self.histories, items, ridge, self._linear_features(weight))
                )
            elif name == "kernel":
                module = UserKernel(self.histories, items, mine[0], options.kernel_user_power)
            else:
                module = SpectralFilter(self.histories, items, *mine)
            self.register_module(name, module)
        self._settings_of[name] = mine
        solved: nn.Module = module
        return solved

    def _linear_features(self, weight: float) -> csr_matrix | None:
        """Return the features that the linear path is solved with; a checkpoint's come after those of its data set."""
        if not weight or self.features is None:
            return None
        fields = starting_strengths(self.features).fields
        return self.features.space.weighted(self.features.table, fields) * weight**0.5

    @contextmanager
    def alone(self, path: str) -> Iterator[None]:
        """Score by one path alone in this block, standardised as in the mixture and not corrected for popularity."""
        self._alone = path
        try:
            with self.corrected_by(0.0):
                yield
        finally:
            self._alone = None

    def get_extra_state(self) -> dict[str, Any]:
        """Return what ``state_dict`` holds besides the parameters: also what was chosen."""
        state = super().get_extra_state()
        return state if self.chosen is None else state | {"chosen": dict(self.chosen)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`get_extra_state` returned."""
        super().set_extra_state(state)
        if "features" in state:
            self._settings_of.pop("linear", None)  # the features may be others
        if "chosen" in state:
            self.choose(state["chosen"])
        else:
            self.forget()

    def found(self) -> str:
        """See the base class."""
        texts = [super().found()] if super().found() else []
        if self.chosen is not None:
            texts.append(f"the mixture is {described(self.settings)}")
        return ", and ".join(texts)

    def score_latent(self, histories: Histories, latent: Tensor) -> Tensor:
        """Score all items by the mixture; ``latent`` affects the VAE's part alone; see Autoencoder."""
        shares = {self._alone: 1.0} if self._alone else self.shares
        scores: Tensor | None = None
        for name, share in shares.items():
            part = self.decoder(latent) if name == "vae" else self.path(name)(histories)
            part = standardise(self.with_cold(part), histories)
            scores = part.mul_(share) if scores is None else scores.add_(part, alpha=share)
        assert scores is not None
        return self.with_padding(scores)

    def sparse_layers(self) -> list[SparseLayer]:
        """See Capabilities: the encoder's first layer, and the linear path."""
        shares = self.shares
        for name, reason in (
            ("kernel", "it compares a history with those of all users"),
            ("spectral", "it goes through the interactions of all users"),
        ):
            if name in shares:
                raise ConfigError(
                    f"{name}_share: {shares[name]:.3g} has no form in a graph, for {reason}. To export, train with "
                    "--kernel_share=0 --spectral_share=0 (recbole-vae run), so that the other shares are chosen without these."
                )
        layers = super().sparse_layers() if "vae" in shares else []
        return [*layers, SparseLayer(self.path("linear").weight)] if "linear" in shares else layers

    def logits_of_sums(self, sums: Sequence[Tensor], unseen: Tensor) -> Tensor:
        """See Capabilities: :meth:`score_latent` by operations on whole tables."""
        shares = self.shares
        parts = [standardised(self.with_cold(sums[-1]), unseen) * shares["linear"]] if "linear" in shares else []
        if "vae" in shares:
            logits = self.with_cold(super().logits_of_sums(sums, unseen))
            parts.append(standardised(logits, unseen) * shares["vae"])
        return parts[0] if len(parts) == 1 else parts[0] + parts[1]
