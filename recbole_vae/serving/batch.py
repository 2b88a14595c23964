"""Rankings for many users: by threads of this process, or by the workers of a Dask scheduler.

The lists do not depend on the number of workers. Users are scored in batches of a fixed size, each by one thread of torch,
and the results come in the order of the users. (Another kind of processor may round differently.)
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import zipfile
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from recbole_vae.data import padding
from recbole_vae.errors import CheckpointError, DataError, RecBoleVAEError
from recbole_vae.model.registry import import_models
from recbole_vae.nn.chunks import rows_per_chunk
from recbole_vae.serving.ranking import Ranking
from recbole_vae.serving.recommender import History, Recommender, Selection

Rows = list[list[int] | dict[int, float]]
"""Histories of internal item ids, with weights where the model has them; see ``Recommender.known``."""


@dataclass(frozen=True)
class Given:
    """What is known of the users of a batch.

    Attributes:
        rows: their histories.
        profiles: their profiles, if the model reads them; see ``Recommender.encoded``.
    """

    rows: Rows
    profiles: list[dict[int, float]] | None = None


Batch = tuple[list[str], Given]
"""Ids of users, and what is known of each."""

Submit = Callable[[Given], Any]
"""Starts to rank a batch, and returns a future with ``result`` and ``cancel``."""

_NAMED = 10
"""Unknown users that an error names."""

_AHEAD = 4
"""Batches for each worker that are on their way at once."""

_PATIENCE = 30.0
"""Seconds without any worker of the scheduler after which a result is no longer waited for."""


def cores() -> int:
    """Return how many threads this process is to have: OMP_NUM_THREADS, or the cores it may run on."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # others are for threads within threads
    return int(asked) if asked.isdecimal() and int(asked) else here


def batch_size(recommender: Recommender, selection: Selection) -> int:
    """Return how many users are scored at once."""
    return rows_per_chunk(max(len(recommender.items), selection.sampling.samples * selection.k))


def _rank(recommender: Recommender, selection: Selection, given: Given) -> list[Ranking]:
    return recommender.rank(given.rows, [selection] * len(given.rows), given.profiles)


def batches_of_users(recommender: Recommender, users: Sequence[str] | None, size: int) -> Iterator[Batch]:
    """Give the training histories of users, all of them if None, in batches.

    Raises:
        DataError: some of the users are not in the training data; it names them.
    """
    if users is None:
        rows = list(range(len(recommender.users))[padding.REAL])
    else:
        numbers = {user: row for row, user in enumerate(recommender.users) if row != padding.PADDING}
        unknown = [user for user in users if user not in numbers]
        if unknown:
            more = f" and {len(unknown) - _NAMED:,} more" if len(unknown) > _NAMED else ""
            names = ", ".join(f"'{user[:100]}'" for user in unknown[:_NAMED])
            raise DataError(
                f"user{'s' * (len(unknown) > 1)} {names}{more} {'are' if len(unknown) > 1 else 'is'} not among the "
                f"{len(numbers):,} users of the training data; give their histories instead."
            )
        rows = [numbers[user] for user in users]
    return _batches_of_rows(recommender, rows, size)


def _batches_of_rows(recommender: Recommender, rows: Sequence[int], size: int) -> Iterator[Batch]:
    table = recommender.model.histories
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        batch = table[torch.tensor(part, device=table.indptr.device)]
        lengths = batch.lengths().tolist()
        found: Rows = [each.tolist() for each in batch.indices.split(lengths)]
        if batch.values is not None:
            weights = batch.values.split(lengths)
            found = [dict(zip(items, each.tolist(), strict=True)) for items, each in zip(found, weights, strict=True)]
        profiles = None if batch.profiles is None else batch.profiles.mappings()
        yield [recommender.users[row] for row in part], Given(found, profiles)


def batches_of_histories(
    recommender: Recommender,
    pairs: Iterable[tuple[str, History]],
    size: int,
    profiles: Mapping[str, dict[int, float]] | None = None,
) -> Iterator[Batch]:
    """Give the histories of any users in batches; items that the model does not know are counted in ``unknown``.

    Args:
        recommender: of the model.
        pairs: users with their histories.
        size: of a batch.
        profiles: of users by their ids. Those who are not among the pairs come last, with the histories that they had in
            training, or none.
    """
    pairs = _with_others(recommender, pairs, profiles or {})
    while part := list(islice(pairs, size)):
        given = None if profiles is None else [profiles.get(user, {}) for user, _ in part]
        yield [user for user, _ in part], Given([recommender.known(history) for _, history in part], given)


def _with_others(
    recommender: Recommender, pairs: Iterable[tuple[str, History]], users: Iterable[str]
) -> Iterator[tuple[str, History]]:
    others = dict.fromkeys(users)
    for user, history in pairs:
        others.pop(user, None)
        yield user, history
    for user in others:
        yield user, recommender.history(user) if recommender.knows_user(user) else []


def rank(batches: Iterable[Batch], submit: Submit, workers: int) -> Generator[tuple[str, Ranking], None, None]:
    """Rank items for the users of all batches, in their order, with only some batches in memory at a time.

    Args:
        batches: the users.
        submit: from :func:`threads` or :func:`on_dask`.
        workers: how many batches are ranked at once.
    """
    waiting: deque[tuple[Batch, Any]] = deque()

    def first() -> Iterator[tuple[str, Ranking]]:
        (users, _), future = waiting[0]
        rankings: list[Ranking] = future.result()
        waiting.popleft()
        return zip(users, rankings, strict=True)

    try:
        for batch in batches:
            waiting.append((batch, submit(batch[1])))
            if len(waiting) >= _AHEAD * workers:
                yield from first()
        while waiting:
            yield from first()
    finally:
        for _, future in waiting:
            future.cancel()


@contextlib.contextmanager
def threads(recommender: Recommender, selection: Selection, workers: int) -> Iterator[Submit]:
    """Rank batches by threads of this process, each with one thread of torch."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(workers) as executor:
            yield lambda given: executor.submit(_rank, recommender, selection, given)
    finally:
        torch.set_num_threads(before)


def on_dask(
    client: Any,
    recommender: Recommender,
    selection: Selection,
    checkpoint: str | Path,
    correction: float | None,
    imports: Sequence[str],
    new_items: tuple[str, float] | None = None,
) -> Submit:
    """Rank batches on the workers of a Dask scheduler, which load the checkpoint from the same path.

    Args:
        client: of :mod:`distributed`.
        recommender: of the checkpoint; it counts what the workers find.
        selection: what may be recommended.
        checkpoint: the file.
        correction: see :meth:`~recbole_vae.serving.recommender.Recommender.load`.
        imports: modules that register models; the workers must have them, too.
        new_items: path of a file of items that were added to the recommender, and their bonus.
    """
    path = str(Path(checkpoint).resolve())
    added = None
    if new_items is not None:
        file = Path(new_items[0]).resolve()
        added = str(file), digest(file), new_items[1]
    about = path, fingerprint(path), correction, tuple(imports), added

    def submit(given: Given) -> _Waiting:
        recommender.without_known += recommender.popular(given.rows, given.profiles)
        return _Waiting(client, client.submit(_remote, about, selection, given, pure=False), recommender)

    return submit


class _Waiting:
    """A future of Dask whose errors are for people, and which is not waited for if all workers are gone."""

    def __init__(self, client: Any, future: Any, recommender: Recommender) -> None:
        self.client, self.future, self.recommender = client, future, recommender

    def result(self) -> list[Ranking]:
        """Return the rankings.

        Raises:
            RecBoleVAEError: the batch failed on a worker, or there are no workers any more.
        """
        from distributed import TimeoutError as NotYetError

        while True:
            try:
                rankings: list[Ranking] = self.future.result(timeout=_PATIENCE)
                self.recommender.without_rest += sum(not ranking for ranking in rankings)
                return rankings
            except NotYetError:
                if not self.client.scheduler_info()["workers"]:
                    raise RecBoleVAEError("scheduler: its workers are gone; start some, and try again.") from None
            except RecBoleVAEError as error:
                raise type(error)(f"on a worker of the scheduler: {error}") from None
            except Exception as error:  # such as Dask's, if workers died again and again
                raise RecBoleVAEError(
                    f"scheduler: a worker failed: {' '.join(str(error).split())[:300]} ({type(error).__name__})."
                ) from None

    def cancel(self) -> None:
        """Give the result up."""
        with contextlib.suppress(Exception):  # the scheduler may be what is gone
            self.future.cancel()


_About = tuple[str, str, float | None, tuple[str, ...], tuple[str, str, float] | None]
"""A checkpoint's path and fingerprint, the popularity correction, and modules to import; of new items the file, its digest and
their bonus."""

_loading = threading.Lock()


def _remote(about: _About, selection: Selection, given: Given) -> list[Ranking]:
    """Rank a batch in a Dask worker, which keeps the model, and one thread of torch from then on."""
    with _loading:
        recommender = _loaded(about)
    torch.set_num_threads(1)
    return _rank(recommender, selection, given)


@lru_cache(maxsize=1)
def _loaded(about: _About) -> Recommender:
    path, expected, correction, imports, added = about
    import_models(imports, "imports")
    if fingerprint(path) != expected:
        raise CheckpointError(f"{path}: another file than the command has under this name.")
    recommender = Recommender.load(path, popularity_correction=correction)
    if added is not None:
        file, of_file, bonus = added
        if digest(Path(file)) != of_file:
            raise DataError(f"{file}: another file than the command has under this name.")
        recommender.add_items(file, bonus)
    return recommender


def digest(file: Path) -> str:
    """Return the SHA-256 of a file.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"{file}: cannot read this file: {error.strerror}.") from None


def fingerprint(path: str | Path) -> str:
    """Return a SHA-256 of the checksums in a checkpoint's archive, which tells files of other content apart.

    Raises:
        CheckpointError: the file is missing, or not an archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            parts = [(each.filename, each.file_size, each.CRC) for each in archive.infolist()]
    except (OSError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path}: cannot read this checkpoint ({error}).") from None
    return hashlib.sha256(repr(parts).encode()).hexdigest()
