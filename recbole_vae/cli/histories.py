"""Files of users and items that commands read, and what is said of ids that the model does not know."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, TYPE_CHECKING, Any

from recbole_vae.cli.options import Options
from recbole_vae.errors import ConfigError

if TYPE_CHECKING:
    from recbole_vae.serving.recommender import Recommender
    from recbole_vae.serving.unknown import Unknown


@contextlib.contextmanager
def reading(name: str) -> Iterator[IO[str]]:
    """Open a file to read text, or standard input for ``-``, which stays open.

    Raises:
        DataError: it cannot be read.
    """
    from recbole_vae.serving import history_file

    file = history_file.open_text(name)
    with contextlib.nullcontext(file) if file is sys.stdin else file:
        yield file


def histories(name: str, model: Any) -> Iterator[tuple[str, Iterable[str]]]:
    """Read a file of histories, or standard input for ``-``, and say so where there are none.

    A file is read twice: first it is checked whole, so that a mistake on its last line is found before any work. If the lines
    of a user are not consecutive, the file is held in memory; standard input is refused then.
    """
    from recbole_vae.serving import history_file

    called, pair = "standard input" if name == "-" else name, None
    with reading(name) as file:
        about = (called, model.USER_ID, model.ITEM_ID, model.options.value_field)
        scattered = False
        if name != "-" and file.seekable():
            try:
                for _ in history_file.read_histories(file, *about):
                    pass
            except history_file.ScatteredError:
                scattered = True
            file.seek(0)
        for pair in history_file.read_histories(file, *about, scattered=scattered):
            yield pair
    if pair is None:
        print(f"{called}: contains no histories, only the header.", file=sys.stderr)


def add_new_items(recommender: Recommender, options: Options) -> None:
    """Add the items of ``--new_items``, and say on standard error what was found there.

    Raises:
        ConfigError: ``--new_items_bonus`` is given alone; or see ``Recommender.add_items``.
    """
    name = options.new_items
    if name is None:
        if "new_items_bonus" in options.given:
            raise ConfigError("--new_items_bonus (command line) needs --new_items=FILE.")
        return
    added = recommender.add_items(name, options.new_items_bonus)
    for line in added.described():
        print(f"{name}: {line}", file=sys.stderr)


def profiles_of(recommender: Recommender, options: Options) -> dict[str, dict[int, float]] | None:
    """Read the profiles of ``--profiles``, and say on standard error what was found there; None if it is not given.

    Raises:
        ConfigError, DataError: see ``Recommender.read_profiles``.
    """
    if options.profiles is None:
        return None
    found = recommender.read_profiles(options.profiles)
    for line in found.described():
        print(f"{options.profiles}: {line}", file=sys.stderr)
    return dict(zip(found.ids, found.profiles, strict=True))


def report_unknown_values(unknown: Unknown) -> None:
    """Say on standard error how many values of profiles the model makes no use of."""
    if unknown.times:
        (value, _), *_ = unknown.examples.most_common(1)
        print(
            f"Left out of profiles: {unknown.times} times a value that the model makes no use of (such as {value}).",
            file=sys.stderr,
        )


def report_unknown(unknown: Unknown, what: str = "histories") -> None:
    """Say on standard error how many unknown items were left out."""
    if unknown.times:
        (item, _), *_ = unknown.examples.most_common(1)
        least = "at least " * (unknown.examples.total() < unknown.times)  # it remembers only so many
        example = f"'{item}'" if item else "an empty cell"
        print(
            f"Left out of {what}: {unknown.times} times an item that is not in the training data "
            f"({least}{len(unknown.examples)} different, such as {example}).",
            file=sys.stderr,
        )


def report_unknown_excluded(unknown: Unknown, excluded: Sequence[str] | None) -> None:
    """Say on standard error how many items of ``--exclude`` are unknown, and whether that leaves nothing of it."""
    report_unknown(unknown, "the excluded items")
    if excluded and unknown.times == len(excluded):
        print(
            f"None of the {len(excluded):,} excluded items is in the training data: nothing was excluded.",
            file=sys.stderr,
        )


def check_standard_input(options: Options) -> None:
    """Raise a ConfigError if two options name standard input."""
    read = [name for name in ("histories", "candidates", "exclude") if getattr(options, name) == "-"]
    if len(read) > 1:
        raise ConfigError(
            f"--{read[0]} and --{read[1]} (command line) cannot both be standard input; name a file for one."
        )


def item_ids(options: Options, name: str) -> list[str] | None:
    """Read a file of item ids, one a line; None if the option is not given."""
    path = getattr(options, name)
    if path is None:
        return None
    with reading(path) as file:
        try:
            lines = [line.removeprefix("\ufeff" * (not place)).strip() for place, line in enumerate(file)]
        except UnicodeDecodeError:
            raise ConfigError(f"--{name}={path} (command line): not text in UTF-8.") from None
    return [line for line in lines if line]
