"""Profiles of new users, from values or from a file: what a model with ``user_features`` reads besides a history."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_vae.data.feature_file import FeatureTable
from recbole_vae.data.features import FeatureSpace, parsed
from recbole_vae.data.histories import Histories
from recbole_vae.errors import ConfigError, DataError
from recbole_vae.model.base import HistoryRecommender
from recbole_vae.options.names import near
from recbole_vae.serving.new_items import cell

Profile = dict[int, float]
"""The columns of a user's features with their values; empty where nothing is known."""


@dataclass(frozen=True)
class Profiles:
    """Profiles as a model reads them.

    Attributes:
        ids: of the users; of profiles that are not from a file, what messages call them.
        profiles: of each.
        fields: that were read.
        have_effect: False where the mixture of a HybridVAE gives its VAE, which alone reads profiles, no share.
        unknown: values that training did not have, or for one user alone, such as ``gender=X``, and how many users have each.
            They have no effect.
    """

    ids: list[str]
    profiles: list[Profile]
    unknown: Counter[str]
    fields: list[str]
    have_effect: bool

    def described(self) -> list[str]:
        """Return sentences about what was found."""
        lines = [f"{len(self.ids):,} profile{'s' * (len(self.ids) != 1)} with the fields {', '.join(self.fields)}"]
        without = sum(not each for each in self.profiles)
        if without:
            lines.append(f"users of whom nothing is known: {without:,}")
        return lines


def fields_of(model: Any) -> list[str]:
    """Return the fields that the profiles of a model have.

    Raises:
        ConfigError: it reads no profiles.
    """
    if model.user_space is None:
        of_ours = isinstance(model, HistoryRecommender)
        raise ConfigError(
            f"profiles: this {type(model).__name__} knows users by their histories alone. Train "
            f"{'it' if of_ours and hasattr(model.options, 'user_features') else 'MultVAE or HybridVAE'} with user_features, "
            "such as --user_features=age,gender."
        )
    return list(dict.fromkeys(parsed(entry)[0] for entry in model.options.user_features))


def encoded(model: Any, profiles: Iterable[Mapping[str, Any] | None], called: str = "profiles[{}]") -> Profiles:
    """Turn values into profiles.

    Args:
        model: a trained model.
        profiles: of each user a mapping of fields to values. A field that is left out, or None, is not known; None for all.
        called: what messages call each, with {} for its place.

    Raises:
        ConfigError: the model reads no profiles.
        DataError: the profiles are no list, or one is no mapping, or has another field, or text where a number must be, or
            several values where one must be.
    """
    fields = fields_of(model)
    if isinstance(profiles, Mapping | str) or not isinstance(profiles, Iterable):
        raise DataError(
            f"profiles: {profiles!r:.80} is no list; give a list with a mapping of fields to values, or None, for each history."
        )
    given = list(profiles)
    ids = [called.format(place) for place in range(len(given))]
    for name_of, profile in zip(ids, given, strict=True):
        if profile is not None and not isinstance(profile, Mapping):
            raise DataError(f"{name_of}: {profile!r:.80} is no mapping of fields to values.")
        for name, value in (profile or {}).items():
            if isinstance(value, bytes | Mapping):
                raise DataError(f"{name_of}.{str(name)[:80]}: {value!r:.80} is no text, number or list of these.")
            if name not in fields:
                meant = near(str(name), fields)
                raise DataError(
                    f"{name_of}: there is no field '{str(name)[:80]}'"
                    f"{f'; did you mean {meant}?' if meant else '.'} The fields are {', '.join(fields)}."
                )
    cells = {name: [cell((profile or {}).get(name)) for profile in given] for name in fields}
    return _encoded(model, FeatureTable(ids, cells, {}, "", of="user"))


def read(model: Any, path: str | Path) -> Profiles:
    """Read profiles from a ``.user`` file with the fields of ``user_features``.

    Raises:
        ConfigError: the model reads no profiles, or the file lacks a field.
        DataError: the file is missing, empty or damaged, has text where a number must be, a line without an id, or a user twice
            with different values.
    """
    fields_of(model)
    table = model.user_space.read(path)
    table.check_ids()
    return _encoded(model, table)


def _encoded(model: Any, table: FeatureTable) -> Profiles:
    space: FeatureSpace = model.user_space
    found = Histories.from_features(space.encode(table)).mappings()
    return Profiles(table.ids, found, space.unknown(table), list(table.cells), model.scores_by_latent)
