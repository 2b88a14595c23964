"""The shapes of the generated data."""

from __future__ import annotations

from recbole_vae.errors import ConfigError

SHAPES = {
    "ml-100k": (943, 1_682, 100_000),
    "ml-1m": (6_040, 3_706, 1_000_209),
    "ml-20m/4": (34_169, 20_108, 2_497_670),
    "ml-20m": (136_677, 20_108, 9_990_682),
}
"""Users, items and interactions of known data sets; ``ml-20m`` is after the filters of Liang et al. (2018)."""


def shapes_of(options: dict[str, str]) -> list[tuple[int, int, int]]:
    """Read the shapes of the data from command-line options: ``preset``, or ``users``, ``items`` and ``interactions``.

    Raises:
        ConfigError: the preset is unknown, or a number is missing or out of range.
    """
    numbers = [options.get(name, "") for name in ("users", "interactions")]
    items = options.get("items", "").split(",")
    if any([*numbers, *items]):
        if "preset" in options or not all(text.isdecimal() and int(text) > 1 for text in [*numbers, *items]):
            raise ConfigError(
                "--users, --items and --interactions (command line) must be given together, without --preset, as integers > 1."
            )
        users, interactions = map(int, numbers)
        most = users * min(map(int, items)) // 4
        if interactions > most or interactions < 5 * users:
            raise ConfigError(
                f"--interactions={interactions} (command line) must be from 5 times the users ({5 * users}) to a quarter of all "
                f"pairs ({most})."
            )
        return [(users, int(each), interactions) for each in items]
    preset = options.get("preset", "ml-1m")
    if preset not in SHAPES:
        raise ConfigError(f"--preset={preset} (command line) is unknown; there are {', '.join(SHAPES)}.")
    return [SHAPES[preset]]
