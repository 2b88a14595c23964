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
        ids: of the users; of profiles that are not from a file, their numbers, from 1.
        profiles: of each.
        unknown: values that training did not have, or for one user alone, such as ``gender=X``, and how many users have each.
            They have no effect.
    """

    ids: list[str]
    profiles: list[Profile]
    unknown: Counter[str]

    def described(self) -> list[str]:
        """Return sentences about what was found."""
        lines = [f"{len(self.ids):,} profile{'s' * (len(self.ids) != 1)}"]
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


def encoded(model: Any, profiles: Iterable[Mapping[str, Any] | None]) -> Profiles:
    """Turn values into profiles.

    Args:
        model: a trained model.
        profiles: of each user a mapping of fields to values. A field that is left out, or None, is not known; None for all.

    Raises:
        ConfigError: the model reads no profiles.
        DataError: a profile is no mapping, or has another field, or text where a number must be.
    """
    fields, given = fields_of(model), list(profiles)
    for place, profile in enumerate(given):
        if profile is not None and not isinstance(profile, Mapping):
            raise DataError(f"profiles[{place}]: {profile!r:.80} is no mapping of fields to values.")
        for name in profile or ():
            if name not in fields:
                meant = near(str(name), fields)
                raise DataError(
                    f"profiles[{place}]: there is no field '{str(name)[:80]}'"
                    f"{f'; did you mean {meant}?' if meant else '.'} The fields are {', '.join(fields)}."
                )
    cells = {name: [cell((profile or {}).get(name)) for profile in given] for name in fields}
    ids = [str(place) for place in range(1, len(given) + 1)]
    return _encoded(model.user_space, FeatureTable(ids, cells, {}, "the profiles", of="user"))


def read(model: Any, path: str | Path) -> Profiles:
    """Read profiles from a ``.user`` file with the fields of ``user_features``.

    Raises:
        ConfigError: the model reads no profiles, or the file lacks a field.
        DataError: the file is missing, empty or damaged, has text where a number must be, or a user twice with different values.
    """
    fields_of(model)
    return _encoded(model.user_space, model.user_space.read(path))


def _encoded(space: FeatureSpace, table: FeatureTable) -> Profiles:
    return Profiles(table.ids, Histories.from_features(space.encode(table)).mappings(), space.unknown(table))
