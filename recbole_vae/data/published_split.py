"""Converts data sets whose split is published, as LightGCN's authors publish theirs, to RecBole's atomic files."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from recbole_vae.data.prepare import MARK, Prepared, new_folder, parsed
from recbole_vae.errors import DataError
from recbole_vae.options.recbole import properties_folder

if (
    TYPE_CHECKING
):  # the functions import NumPy: the help of the command reads the table below, and needs no heavy library
    import numpy as np
    import numpy.typing as npt


def _lists(lines: Iterable[bytes]) -> Iterator[list[int]]:
    """Read lines ``user item item ...``; a user may have no items."""
    for line in lines:
        yield _numbers(line)


def _triples(lines: Iterable[bytes]) -> Iterator[list[int]]:
    """Read lines ``user item weight``, without the weight."""
    for line in lines:
        numbers = _numbers(line)
        if len(numbers) not in (0, 3):
            raise ValueError(f"{len(numbers)} columns instead of 3: user, item and weight")
        yield numbers[:2]


def _numbers(line: bytes) -> list[int]:
    cells = line.split()
    wrong = next((cell for cell in cells if not cell.isdigit() or len(cell) > 18), None)
    if wrong is not None:
        raise ValueError(
            f"{wrong.decode('utf-8', errors='replace')[:60]!r} where the number of a user or an item should be"
        )
    return [int(cell) for cell in cells]


@dataclass(frozen=True)
class PublishedSplit:
    """A data set whose training and test part are published.

    Attributes:
        folder: the authors' folder that has the files.
        users: published number of users, of both parts.
        items: published number of items, of both parts.
        train: published number of training interactions.
        test: published number of test interactions.
        files: names of the files with the training and the test part.
        read: reads the lines of one file; raises a ValueError that says what is wrong with a line.
    """

    folder: str
    users: int
    items: int
    train: int
    test: int
    files: tuple[str, str] = ("train.txt", "test.txt")
    read: Callable[[Iterable[bytes]], Iterator[list[int]]] = _lists

    @property
    def where(self) -> str:
        """What to get where."""
        return (
            f"{' and '.join(self.files)} from https://github.com/gusye1234/LightGCN-PyTorch/tree/master/{self.folder}"
        )


SPLITS = {
    "gowalla-lightgcn": PublishedSplit("data/gowalla", 29_858, 40_981, 810_128, 217_242),
    "yelp2018-lightgcn": PublishedSplit("data/yelp2018", 31_668, 38_048, 1_237_259, 324_147),
    "amazon-book-lightgcn": PublishedSplit("data/amazon-book", 52_643, 91_599, 2_380_730, 603_378),
    "lastfm-lightgcn": PublishedSplit(
        "data/lastfm", 1_880, 4_489, 42_135, 10_533, ("data1.txt", "test1.txt"), _triples
    ),
}
"""The data sets that :func:`prepare_split` knows, as github.com/gusye1234/LightGCN-PyTorch has them.

Last.fm's authors count 1,892 users; 12 of these numbers have no interaction.
"""


@dataclass(frozen=True)
class FromSplit(Prepared):
    """What was written.

    Attributes:
        parts: number of interactions in the training, validation and test part.
        repeats: which pairs of user and item occur twice, in words.
    """

    parts: dict[str, int]
    repeats: list[str]


def prepare_split(name: str, source: str | Path, out: str | Path, show_progress: bool = False) -> FromSplit:
    """Write ``<name>.train.inter``, ``.valid.inter`` and ``.test.inter``, all in ``<name>.inter``, and the settings beside them.

    There is no published validation part: :func:`held_back` says which training interactions become it. Each file is in order
    of user and item, so it depends on the parts alone, not on the order of the published files.

    Args:
        name: one of :data:`SPLITS`; the data set's name in RecBole.
        source: the folder with the authors' files.
        out: the folder in which the data set's folder is made; RecBole's ``data_path``.
        show_progress: whether a progress bar is shown.

    Raises:
        DataError: a file is missing or has a wrong line, or the result exists already. Then nothing is left behind.
    """
    import numpy as np

    what, folder = SPLITS[name], Path(out) / name
    with new_folder(Path(source), folder) as temporary:
        numbers = (_read(name, what, Path(source), file, show_progress) for file in what.files)
        given = [np.frombuffer(each, np.int64).reshape(-1, 2) for each in numbers]
        parts = [np.unique(pairs, axis=0) for pairs in given]
        whole = np.unique(np.concatenate(parts), axis=0)
        valid = held_back(parts[0])
        written = {"train": parts[0][~valid], "valid": parts[0][valid], "test": parts[1]}
        for part, pairs in written.items():
            _write(temporary / f"{name}.{part}.inter", pairs)
        _write(temporary / f"{name}.inter", whole)
        settings = (properties_folder() / "dataset/lightgcn.yaml").read_text(encoding="utf-8")
        (temporary / f"{name}.yaml").write_text(f"{MARK}\n{settings}", encoding="utf-8")
    users, items = (len(np.unique(column)) for column in whole.T)
    published = (
        ("users", users, what.users),
        ("items", items, what.items),
        ("training interactions", len(parts[0]), what.train),
        ("test interactions", len(parts[1]), what.test),
    )
    repeats = [
        f"{len(pairs) - len(once):,} of {len(pairs):,} interactions of {file} repeat a pair of user and item; each pair is "
        "written once"
        for file, pairs, once in zip(what.files, given, parts, strict=True)
        if len(pairs) > len(once)
    ]
    if both := len(parts[0]) + len(parts[1]) - len(whole):
        repeats.append(
            f"{both:,} pairs of user and item are in {' and in '.join(what.files)}, and are kept in both parts, as published: "
            "no list can hold these test items, because training items are left out"
        )
    return FromSplit(
        folder, sum(map(len, given)), len(whole), users, items,
        [f"{found:,} {kind}, and {expected:,} are published" for kind, found, expected in published if found != expected],
        {part: len(pairs) for part, pairs in written.items()}, repeats,
    )  # fmt: skip


def _read(name: str, what: PublishedSplit, folder: Path, file: str, show_progress: bool) -> array[int]:
    """Return the interactions of a file, in its order: user, item, user, item, ..."""
    path = folder / file
    if not path.is_file():
        wrong = f"has no file {file}" if folder.is_dir() else "is no folder"
        raise DataError(
            f"{folder}: {wrong}; give the folder with {' and '.join(what.files)}, such as "
            f"LightGCN-PyTorch/{what.folder}."
        )
    numbers = array("q")
    lines = parsed(name, path, file, what.read)
    for cells in tqdm(
        lines, desc=f"Reading {file}", unit=" lines", unit_scale=True, ncols=100, leave=False, disable=not show_progress
    ):
        for item in cells[1:]:
            numbers.append(cells[0])
            numbers.append(item)
    if not numbers:
        raise DataError(f"{path}: has no interaction; is it {name}, whole and unchanged?")
    return numbers


def held_back(train: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Tell which training interactions are the validation part: of a user with n items, n // 10.

    They are those whose text ``USER ITEM`` has the lowest SHA-256, so everyone holds back the same, without a random generator.
    (A checksum such as CRC-32 would not do: those of neighbouring numbers are related, and so would be the items.)

    Args:
        train: each pair once, in order of user and item: [interactions, 2].

    Returns:
        Whether each interaction is held back: [interactions].
    """
    import numpy as np

    users = train[:, 0]
    _, starts, counts = np.unique(users, return_index=True, return_counts=True)
    digests = (hashlib.sha256(b"%d %d" % (user, item)).digest() for user, item in train.tolist())
    hashes = np.fromiter((int.from_bytes(digest[:8], "big") for digest in digests), np.uint64, len(train))
    order = np.lexsort((hashes, users))  # stable: of equal ones, the lower item comes first
    rank = np.empty(len(train), np.int64)
    rank[order] = np.arange(len(train)) - np.repeat(starts, counts)
    return rank < np.repeat(counts // 10, counts)


def _write(path: Path, pairs: npt.NDArray[np.int64]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write("user_id:token\titem_id:token\n")
        file.writelines(f"{user}\t{item}\n" for user, item in pairs.tolist())
