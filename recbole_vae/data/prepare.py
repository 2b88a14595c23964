"""Converts published data sets to RecBole's atomic files, with the filters of Liang et al. (2018)."""

from __future__ import annotations

import contextlib
import csv
import gzip
import math
import re
import shutil
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import IO, Any, TypeVar

from tqdm import tqdm

from recbole_vae.data.fetch import Archive, fetch
from recbole_vae.errors import DataError
from recbole_vae.options.recbole import properties_folder
from recbole_vae.storage.files import leftovers, temporary_beside

Line = tuple[str, str, float, str]
"""User, item, rating or count, and time in seconds since 1970 ("" where there is none)."""

Name = tuple[str, str, str, str]
"""Item, title, year ("" where there is none), and genres separated by spaces."""

_Parsed = TypeVar("_Parsed")

MARK = "# Written by recbole-vae prepare; holds for this data set, below your own options."
"""First line of the settings that stand beside the data."""


@dataclass(frozen=True)
class Source:
    """A data set as it is published.

    Attributes:
        file: name of the file, or pattern of the names of the files, that has the interactions.
        read: reads the lines of one file; raises a ValueError that says what is wrong with a line.
        least: smallest rating that counts as an interaction.
        min_items: smallest number of items of a user, after ``min_users`` is applied.
        min_users: smallest number of users of an item.
        times: whether interactions have a time.
        published: published number of all interactions.
        interactions: published number of interactions after filtering, if any.
        users: published number of users after filtering, if any.
        names: name of the file with the items' names, if there is one, and the function that reads its lines.
        archive: what to fetch, if the owner lets everyone download it and it never changes.
        where: what to get where, if there is no such archive.
    """

    file: str
    read: Callable[[Iterable[bytes]], Iterator[Line]]
    least: float = 4.0
    min_items: int = 5
    min_users: int = 0
    times: bool = True
    published: int = 0
    interactions: int | None = None
    users: int | None = None
    names: tuple[str, Callable[[Iterable[bytes]], Iterator[Name]]] | None = None
    archive: Archive | None = None
    where: str = ""


def _separated(
    separator: bytes, order: tuple[int, ...], cells: int, header: bytes = b""
) -> Callable[..., Iterator[Line]]:
    """Return a reader of lines; ``order`` has the places of user, item, rating and time in a line, -1 for none."""

    def read(lines: Iterable[bytes]) -> Iterator[Line]:
        rest = iter(lines)
        if header:
            found = next(rest, b"").strip()
            if found != header:
                raise ValueError(f"the first line is {_short(found)}, not {_short(header)}")
        for line in rest:
            parts = line.rstrip(b"\r\n").split(separator)
            if len(parts) != cells:
                raise ValueError(f"{len(parts)} columns instead of {cells}, separated by {separator.decode()!r}")
            user, item, rating, time = (parts[place].decode("utf-8") if place >= 0 else "" for place in order)
            if not user or not item:
                raise ValueError("the user or the item is missing")
            if order[3] >= 0:
                _finite(time)
            yield user, item, _finite(rating), time

    return read


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text!r} where a number should be")
    return number


def _short(text: bytes) -> str:
    return repr(text.decode("utf-8", errors="replace").strip()[:60])


def _netflix(lines: Iterable[bytes]) -> Iterator[Line]:
    item = ""
    for line in lines:
        text = line.strip().decode("utf-8")
        if text.endswith(":"):
            item = text[:-1]
            continue
        parts = text.split(",")
        if len(parts) != 3 or not item:
            raise ValueError(f"{_short(line)} is neither 'movie:' nor 'user,rating,date' after one")
        yield parts[0], item, _finite(parts[1]), _seconds(parts[2])


@cache
def _seconds(date: str) -> str:
    return str(int(datetime.strptime(date, "%Y-%m-%d").replace(tzinfo=timezone.utc).timestamp()))


def _gowalla(lines: Iterable[bytes]) -> Iterator[Line]:
    for line in lines:
        parts = line.decode("utf-8").rstrip("\r\n").split("\t")
        if len(parts) != 5:
            raise ValueError(f"{len(parts)} columns instead of 5, separated by tabs")
        when = datetime.strptime(parts[1], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
        yield parts[0], parts[4], 1.0, str(int(when.timestamp()))


def _name(cells: Sequence[str]) -> Name:
    if len(cells) != 3 or not cells[0]:
        raise ValueError(f"{len(cells)} columns instead of 3, or no movie")
    item, title, genres = (" ".join(cell.split()) for cell in cells)
    year = title[-5:-1] if re.search(r" \(\d{4}\)$", title) else ""
    genres = genres.replace("(no genres listed)", "").replace("|", " ")
    return item, title.removesuffix(f" ({year})"), year, genres


def _movies_dat(lines: Iterable[bytes]) -> Iterator[Name]:
    for line in lines:
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError:  # ml-1m
            text = line.decode("latin-1")
        yield _name(text.split("::"))


def _movies_csv(lines: Iterable[bytes]) -> Iterator[Name]:
    rows = csv.reader((line.decode("utf-8") for line in lines), strict=True)
    if (header := next(rows, [])) != ["movieId", "title", "genres"]:
        raise ValueError(f"the first line is {','.join(header)[:60]!r}, not 'movieId,title,genres'")
    yield from map(_name, rows)


def _grouplens(name: str, size: int, sha256: str, readme: str) -> Archive:
    """Return an archive of MovieLens."""
    folder = "https://files.grouplens.org/datasets/movielens"
    terms = (
        "MovieLens is GroupLens's. It is for research, to be cited (Harper and Konstan, 2015), not for commercial use, and to be "
        f"passed on only as its terms allow: {folder}/{name}-{readme}"
    )
    return Archive(f"{folder}/{name}.zip", size, sha256, terms)


SOURCES = {
    "ml-100k": Source(
        "u.data", _separated(b"\t", (0, 1, 2, 3), 4), published=100_000,
        archive=_grouplens(
            "ml-100k", 4_924_029, "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229", "README.txt"
        ),
    ),
    "ml-1m": Source(
        "ratings.dat", _separated(b"::", (0, 1, 2, 3), 4), published=1_000_209, names=("movies.dat", _movies_dat),
        archive=_grouplens(
            "ml-1m", 5_917_549, "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20", "README.txt"
        ),
    ),
    "ml-10m": Source(
        "ratings.dat", _separated(b"::", (0, 1, 2, 3), 4), published=10_000_054, names=("movies.dat", _movies_dat),
        archive=_grouplens(
            "ml-10m", 65_566_137, "813c411ccb6122564edfe752e7f80c4dcc5aa25fa94c93622f6877a7ba252862", "README.html"
        ),
    ),
    "ml-20m": Source(
        "ratings.csv", _separated(b",", (0, 1, 2, 3), 4, b"userId,movieId,rating,timestamp"),
        published=20_000_263, interactions=9_990_682, users=136_677, names=("movies.csv", _movies_csv),
        archive=_grouplens(
            "ml-20m", 198_702_078, "96f243c338a8665f6bcc89c53edf6ee39162a846940de6b7c8c48aeada765ff3", "README.html"
        ),
    ),
    "netflix": Source(
        "*_*.txt", _netflix, published=100_480_507, users=463_435,
        where="combined_data_1.txt to combined_data_4.txt from https://www.kaggle.com/datasets/netflix-inc/netflix-prize-data",
    ),
    "msd": Source(
        "train_triplets.txt", _separated(b"\t", (0, 1, 2, -1), 3), least=1.0, min_items=20, min_users=200, times=False,
        published=48_373_586, users=571_355, where="train_triplets.txt.zip from http://millionsongdataset.com/tasteprofile/",
    ),
    "gowalla": Source(
        "*otalCheckins.txt", _gowalla, least=0.0, min_items=0, published=6_442_890,
        where="loc-gowalla_totalCheckins.txt.gz from https://snap.stanford.edu/data/loc-Gowalla.html",
    ),
}  # fmt: skip
"""The data sets that :func:`prepare` knows. Numbers are those of Table 1 of Liang et al. (2018).

The archives of MovieLens are those whose MD5 GroupLens publishes beside them.
"""

NAMES = {"ml-100k": "ml-100k-4stars"}
"""Names of data sets that need another name in RecBole, which uses its own copy for any data set named ml-100k."""


@dataclass(frozen=True)
class Prepared:
    """What was written.

    Attributes:
        folder: has ``<name>.inter`` and ``<name>.yaml``, and ``<name>.item`` if the source has the items' names.
        read: number of interactions in the source.
        interactions: number of interactions written.
        users: number of users in them.
        items: number of items in them.
        differences: which of these numbers differ from the published ones, in words.
    """

    folder: Path
    read: int
    interactions: int
    users: int
    items: int
    differences: list[str]


def prepare(name: str, source: str | Path, out: str | Path, show_progress: bool = False) -> Prepared:
    """Write the atomic file of a data set, and the settings of its protocol next to it.

    The source is read two or three times. Memory holds one number for each user and item.

    Args:
        name: one of :data:`SOURCES`; the data set's name in RecBole.
        source: the archive as its owners publish it, or the file or folder in it.
        out: the folder in which the data set's folder is made; RecBole's ``data_path``.
        show_progress: whether a progress bar is shown.

    Raises:
        DataError: the source is missing, damaged, or another data set; a line is wrong; or the result exists already. Then
            nothing is left behind.
    """
    folder = folder_of(name, out)
    with new_folder(Path(source), folder) as temporary:
        return _write(name, SOURCES[name], Path(source), temporary, folder, show_progress)


def fetched(name: str, archive: Archive, out: str | Path, show_progress: bool = False) -> Path:
    """Return the file of a data set's archive, fetched into ``out`` unless it is there.

    Args:
        name: one of :data:`SOURCES`.
        archive: of the data set.
        out: the folder in which the data set's folder is to be made.
        show_progress: whether a progress bar is shown.

    Raises:
        DataError: the data set's folder exists already, or see :func:`~recbole_vae.data.fetch.fetch`.
    """
    _refuse_existing(folder_of(name, out))
    return fetch(name, archive, Path(out), show_progress)


def folder_of(name: str, out: str | Path) -> Path:
    """Return the folder that :func:`prepare` makes."""
    return Path(out) / NAMES.get(name, name)


def _refuse_existing(folder: Path) -> None:
    if folder.exists():
        raise DataError(f"{folder}: exists already; remove it, or choose another --out.")


@contextlib.contextmanager
def new_folder(source: Path, folder: Path) -> Iterator[Path]:
    """Give a temporary folder, which is renamed to ``folder`` when the block ends, and removed if it fails.

    Raises:
        DataError: the folder exists already or cannot be written, or there is no such source.
    """
    _refuse_existing(folder)
    if not source.exists():
        raise DataError(f"{source}: there is no such file or folder.")
    temporary, made = temporary_beside(folder), not folder.parent.exists()
    for left in leftovers(folder):
        shutil.rmtree(left, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        temporary.rename(folder)
    except OSError as error:  # those of the source are DataErrors already
        raise DataError(f"{folder}: cannot be written ({error.strerror}).") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if made and not folder.exists():
            with contextlib.suppress(OSError):
                folder.parent.rmdir()


def _write(name: str, what: Source, path: Path, temporary: Path, folder: Path, show_progress: bool) -> Prepared:
    read = 0

    def rows(purpose: str) -> Iterator[Line]:
        nonlocal read
        read = 0
        progress: dict[str, Any] = {
            "unit": " lines",
            "unit_scale": True,
            "ncols": 100,
            "leave": False,
            "disable": not show_progress,
        }
        for row in tqdm(parsed(name, path, what.file, what.read, needed=True), desc=purpose, **progress):
            read += 1
            if row[2] >= what.least:
                yield row

    of_items: Counter[str] = Counter()
    of_users: Counter[str] = Counter()
    for row in rows("Counting"):
        of_items[row[1]] += 1
        of_users[row[0]] += 1
    if what.min_users:
        of_users = Counter(row[0] for row in rows("Counting users") if of_items[row[1]] >= what.min_users)
    kept, users, items = 0, set(), set()
    with (temporary / f"{folder.name}.inter").open("w", encoding="utf-8") as file:
        file.write("user_id:token\titem_id:token" + "\ttimestamp:float" * what.times + "\n")
        for user, item, _, time in rows("Writing"):
            if of_items[item] >= what.min_users and of_users[user] >= what.min_items:
                file.write(f"{user}\t{item}\t{time}\n" if what.times else f"{user}\t{item}\n")
                kept += 1
                users.add(user)
                items.add(item)
    if not kept:
        raise DataError(f"{path}: no interaction is left after filtering; is it the whole data set {name}?")
    if what.names is not None:
        names = list(parsed(name, path, *what.names))
        if names:
            with (temporary / f"{folder.name}.item").open("w", encoding="utf-8") as file:
                file.write("item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n")
                file.writelines("\t".join(each) + "\n" for each in names if each[0] in items)
    settings = (properties_folder() / f"dataset/{name}.yaml").read_text(encoding="utf-8")
    (temporary / f"{folder.name}.yaml").write_text(f"{MARK}\n{settings}", encoding="utf-8")
    published = (
        ("interactions in the source", read, what.published),
        ("interactions after filtering", kept, what.interactions),
        ("users after filtering", len(users), what.users),
    )
    differences = [
        f"{found:,} {kind}, and {expected:,} are published"
        for kind, found, expected in published
        if expected not in (None, found)
    ]
    return Prepared(folder, read, kept, len(users), len(items), differences)


def parsed(
    name: str, path: Path, pattern: str, read: Callable[[Iterable[bytes]], Iterator[_Parsed]], *, needed: bool = False
) -> Iterator[_Parsed]:
    """Read all lines of the files that match a pattern; errors name file and line.

    Args:
        name: the data set's name, for messages.
        path: a folder, an archive, or the file itself.
        pattern: of the names of the files.
        read: reads the lines of one file; raises a ValueError that says what is wrong with a line.
        needed: whether there must be such a file.

    Raises:
        DataError: a file is missing, damaged, or has a wrong line.
    """
    found = 0
    try:
        for file, lines in _files(path, pattern):
            found += 1
            number = 0

            def counted(lines: Iterable[bytes]) -> Iterator[bytes]:
                nonlocal number
                for number, line in enumerate(lines, start=1):  # noqa: B007 - for the message
                    yield line

            try:
                yield from read(counted(lines))
            except (ValueError, csv.Error) as error:  # also of a number, a date or an encoding
                raise DataError(
                    f"{path}{file and f', {file}'}, line {max(1, number)}: {error}. Is it {name}, whole and unchanged?"
                ) from None
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, gzip.BadGzipFile, EOFError) as error:
        raise DataError(f"{path}: damaged or not downloaded whole ({error}); download it again.") from None
    except (OSError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{path}: cannot be read ({error}).") from None
    if needed and not found:
        raise DataError(f"{path}: has no file {pattern}, where {name} has its interactions.{_other(pattern, path)}")


def _other(pattern: str, path: Path) -> str:
    """Return a sentence that says which data set with other names of files it looks like, or ""."""
    for other, what in SOURCES.items():
        if what.file != pattern:
            with contextlib.suppress(Exception):
                if next(iter(_files(path, what.file)), None):
                    return f" It looks like {other}."
    return ""


def _files(path: Path, pattern: str) -> Iterator[tuple[str, Iterable[bytes]]]:
    """Find files by a pattern of names: in a folder, an archive, an archive in an archive, or the file itself."""
    if path.is_dir():
        for each in sorted(path.rglob("*")):
            if each.is_file() and (fnmatch(each.name, pattern) or each.name == "training_set.tar"):
                for name, lines in _files(each, pattern):
                    yield str(each.relative_to(path)) + (name and f", {name}"), lines
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for member in sorted(archive.namelist()):
                if fnmatch(member.rpartition("/")[2], pattern):
                    with archive.open(member) as file:
                        yield member, file
    elif tarfile.is_tarfile(path):
        with path.open("rb") as file:
            yield from _in_tar(file, pattern)
    elif path.suffix == ".zip":
        raise zipfile.BadZipFile("no whole zip archive")
    elif path.suffix == ".gz":
        with gzip.open(path) as file:
            if fnmatch(path.stem, pattern):
                yield "", file
    elif fnmatch(path.name, pattern):
        with path.open("rb") as file:
            yield "", file


def _in_tar(file: IO[bytes], pattern: str) -> Iterator[tuple[str, Iterable[bytes]]]:
    with tarfile.open(fileobj=file, mode="r|*") as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isfile() else None
            if content is None:
                continue
            if member.name.endswith(".tar"):
                for name, lines in _in_tar(content, pattern):
                    yield f"{member.name}, {name}", lines
            elif fnmatch(member.name.rpartition("/")[2], pattern):
                yield member.name, content
