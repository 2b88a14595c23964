"""Recommendations from a checkpoint alone: for users of its data set, and for any history."""

from __future__ import annotations

import csv
import math
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby, islice
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from recbole_vae.data import padding
from recbole_vae.data.histories import Histories
from recbole_vae.errors import CheckpointError, ConfigError, DataError
from recbole_vae.model.registry import model_class
from recbole_vae.nn.chunks import rows_per_chunk
from recbole_vae.options.fields import LARGEST
from recbole_vae.serving import posterior
from recbole_vae.storage import checkpoint

History = Iterable[str] | Mapping[str, float]
"""Ids of the items that a user has, in any order; or a mapping of them to weights, which else are 1."""


class Ranking(list[tuple[str, float]]):
    """Items with their scores, best first; and, where samples of the posterior were asked for, how sure this ranking is.

    Attributes:
        intervals: for each item the smallest and the largest of its ranks in the samples, without the outer 5 % at either end;
            None without samples, where the history has no known item, and for an empty ranking.
        stability: how much the lists of the samples are like this one, in [0, 1]; see
            :func:`~recbole_vae.serving.posterior.stability`; or None.
        expected_ndcg: see :func:`~recbole_vae.serving.posterior.expected_ndcg`; or None, as where the likelihood has no softmax.
    """

    intervals: list[tuple[int, int]] | None = None
    stability: float | None = None
    expected_ndcg: float | None = None


@dataclass(frozen=True)
class Sampling:
    """What is drawn from the posterior.

    Attributes:
        samples: how many samples say how sure a ranking is; 0 for none.
        diversify: above 0, each place but the first is filled from a sample of its own, with the posterior's standard deviation
            multiplied by this (see :func:`~recbole_vae.serving.posterior.thompson`).
        seed: of the noise.
    """

    samples: int = 0
    diversify: float = 0.0
    seed: int = 0

    def check(self, model: Any) -> None:
        """Raise a ConfigError for a value that is not allowed, or a model without a posterior."""
        for name in ("samples", "seed"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 0:
                raise ConfigError(f"{name}: {value!r} is not allowed; it must be an integer >= 0.")
        if not 0 <= self.diversify <= LARGEST:
            raise ConfigError(
                f"diversify: {self.diversify!r} is not allowed; it must be a number >= 0 and <= {LARGEST:.0f}."
            )
        if self.samples and self.diversify:
            raise ConfigError(
                "samples and diversify cannot be given together: intervals and stability are of the plain ranking."
            )
        if self.samples or self.diversify:
            posterior.check_posterior(model)


@dataclass
class _Vocabulary:
    """As much of a RecBole data set as a model reads when it is made."""

    users: list[str]
    items: list[str]
    uid_field: str
    iid_field: str
    inter_feat: dict[str, Tensor]
    dataset_name: str

    @property
    def user_num(self) -> int:
        return len(self.users)

    def num(self, field: str) -> int:
        return len(self.users if field == self.uid_field else self.items)


class Recommender:
    """A trained model that ranks items, by the data set's own ids. Make one with :meth:`load`.

    Attributes:
        model: the model, in evaluation mode.
        users: ids of the users of the training data; position = row in ``model.histories``; the first is RecBole's padding.
        items: ids of the items; the first is RecBole's padding.
        unknown: how often each id that the model does not know stood in a history so far.
        unknown_candidates: how often each stood among the candidates.
        without_known: how many histories so far had no known item, and got the most popular ones.
        without_rest: how many had all items that could be recommended, and got an empty ranking.
        item_file: where the data set's file of item names was, or would have been, when the model was trained; or None.
    """

    def __init__(self, model: Any, users: Sequence[str], items: Sequence[str], dataset: str) -> None:
        self.model, self.users, self.items, self.dataset = model.eval(), list(users), list(items), dataset
        self.unknown: Counter[str] = Counter()
        self.unknown_candidates: Counter[str] = Counter()
        self.without_known = self.without_rest = 0
        self.item_file: Path | None = None
        self._item_ids = {item: number for number, item in enumerate(self.items) if number}
        self._user_ids: dict[str, int] | None = None

    @classmethod
    def load(
        cls, path: str | Path, device: str | torch.device = "cpu", popularity_correction: float | None = None
    ) -> Recommender:
        """Load a model from a checkpoint of recbole_vae; neither its data nor RecBole's settings are needed.

        Args:
            path: the file that training wrote.
            device: where to compute.
            popularity_correction: in the place of the option that the model was trained with; above 0, rare items are
                favoured, below 0, popular ones.

        Raises:
            ConfigError: ``popularity_correction`` is no number from -1000 to 1000.
            CheckpointError: it is no checkpoint, or of a model that is not registered here.
        """
        state = checkpoint.load(path)
        kind = model_class(state["model"])
        if kind is None:
            raise CheckpointError(
                f"{path}: a checkpoint of {state['model']}, which is not registered; import the module that registers it first."
            )
        options = state["config"]
        rows = Histories(*(state["histories"][name] for name in ("indptr", "indices", "values")))
        user, item = options["USER_ID_FIELD"], options["ITEM_ID_FIELD"]
        feat = {user: rows.rows(), item: rows.indices.long()}
        if rows.values is not None:
            feat[options["value_field"]] = rows.values
        data = _Vocabulary(state["users"], state["items"], user, item, feat, state["dataset"])
        # A sample of the items is for training only.
        now = {"device": torch.device(device), "n_negatives": 0}
        if popularity_correction is not None:
            now["popularity_correction"] = popularity_correction
        model = kind({**options, **now}, data)
        model.load_state_dict(state["state_dict"])
        recommender = cls(model.to(device), state["users"], state["items"], state["dataset"])
        recommender.item_file = Path(options["data_path"]) / state["dataset"] / f"{state['dataset']}.item"
        return recommender

    def recommend(
        self,
        histories: Iterable[History],
        k: int = 10,
        *,
        exclude_seen: bool = True,
        candidates: Iterable[str] | None = None,
        samples: int = 0,
        diversify: float = 0.0,
        seed: int = 0,
    ) -> list[Ranking]:
        """Rank items for histories, each a collection of item ids, or a mapping of them to weights.

        Unknown items are left out, and counted in ``unknown``. For a history of no known items the ranking is that of the
        most popular items, with the share of the training users who have each as its score.

        Args:
            histories: the items that each user has; order and repetitions do not matter. Weights are for a model that was
                trained with a ``value_field``.
            k: how many items; fewer where there are not so many.
            exclude_seen: whether items of the history are left out.
            candidates: ids of the only items that may be recommended; None for all.
            samples: how many samples of the posterior say how sure the ranking is; see :class:`Sampling`.
            diversify: spread of the samples that a diversified ranking is drawn from. Scores stay those at the posterior mean,
                and do not descend then.
            seed: of the noise.

        Returns:
            A ranking for each history.

        Raises:
            DataError: no candidate is known, ``k`` is less than 1, a history is a string, or a weight is no positive number or
                the model knows none.
            ConfigError: the model has no posterior to sample from, or a value of :class:`Sampling` is not allowed.
        """
        pairs = ((None, each) for each in histories)
        sampling = Sampling(samples, diversify, seed)
        return [ranking for _, ranking in self.stream(pairs, k, exclude_seen, candidates, sampling)]

    def recommend_users(self, users: Iterable[str], k: int = 10, **options: Any) -> list[Ranking]:
        """Rank items for users of the training data, given by their ids; arguments, result: see :meth:`recommend`.

        Raises:
            DataError: a user is not in the training data.
        """
        if isinstance(users, str):
            raise DataError(f"users must be a collection of ids, and '{users[:40]}' is a string.")
        return self.recommend((self.history(user) for user in users), k, **options)

    def history(self, user: str) -> list[str] | dict[str, float]:
        """Return the items that a user has in the training data, with their weights where it was trained with a ``value_field``.

        Raises:
            DataError: there is no such user.
        """
        if self._user_ids is None:
            self._user_ids = {name: number for number, name in enumerate(self.users) if number}
        row = self._user_ids.get(str(user))
        if row is None:
            known = padding.real(len(self.users))
            raise DataError(
                f"user '{user}' is not among the {known} users of the training data; give a history instead."
            )
        table = self.model.histories
        start, stop = table.indptr[row : row + 2].tolist()
        items = [self.items[item] for item in table.indices[start:stop].tolist()]
        return items if table.values is None else dict(zip(items, table.values[start:stop].tolist(), strict=True))

    def stream(
        self,
        histories: Iterable[tuple[Any, History]],
        k: int = 10,
        exclude_seen: bool = True,
        candidates: Iterable[str] | None = None,
        sampling: Sampling | None = None,
    ) -> Iterator[tuple[Any, Ranking]]:
        """Rank items for pairs of a key and a history, as they come, in constant memory; see :meth:`recommend`."""
        if not isinstance(k, int) or isinstance(k, bool) or k < 1:
            raise DataError(f"k: {k!r} is not allowed; it must be an integer >= 1.")
        sampling = sampling or Sampling()
        sampling.check(self.model)
        barred = self._barred(candidates)
        pairs = iter(histories)
        size = rows_per_chunk(max(len(self.items), sampling.samples * k))
        while batch := list(islice(pairs, size)):
            rows = [self.known(history) for _, history in batch]
            for (key, _), ranking in zip(batch, self._rank(rows, k, exclude_seen, barred, sampling), strict=True):
                yield key, ranking

    def _barred(self, candidates: Iterable[str] | None) -> Tensor | None:
        """Return where items must not be recommended, bool, shape [n_items]."""
        if candidates is None:
            return None
        names = list(map(str, candidates))
        if not names:
            raise DataError("candidates: there are none, so nothing can be recommended.")
        known = [self._item_ids[name] for name in names if name in self._item_ids]
        self.unknown_candidates.update(name for name in names if name not in self._item_ids)
        if not known:
            raise DataError(
                f"candidates: the model knows none of the {len(names)} items; its data set is {self.dataset}."
            )
        return torch.ones(len(self.items), dtype=torch.bool).index_fill_(0, torch.tensor(known), False)

    def known(self, history: History) -> list[int] | dict[int, float]:
        """Return the numbers that the model has for item ids, with their weights if the history has them.

        Those it does not know are left out, and counted in ``unknown``.

        Raises:
            DataError: the history is a string, or has weights and the model was trained without.
        """
        if isinstance(history, str) or not isinstance(history, Iterable):
            what = f"'{history[:40]}' is a string" if isinstance(history, str) else f"{history!r} is none"
            raise DataError(f"a history must be a collection of item ids, and {what}.")
        if isinstance(history, Mapping) and self.model.histories.values is None:
            raise DataError(
                "a history has weights, and the model was trained without value_field: give the items alone."
            )
        found = [(self._item_ids.get(str(item)), item) for item in history]
        self.unknown.update(str(item) for number, item in found if number is None)
        if isinstance(history, Mapping):
            return {number: history[item] for number, item in found if number}
        return [number for number, _ in found if number]

    @torch.inference_mode()
    def _rank(
        self,
        rows: list[list[int] | dict[int, float]],
        k: int,
        exclude_seen: bool,
        barred: Tensor | None,
        sampling: Sampling,
    ) -> list[Ranking]:
        batch = Histories.from_lists(rows).to(self.model.device)
        scores = self.model.ranking_scores(batch)
        empty = batch.lengths() == 0
        self.without_known += int(empty.sum())
        if exclude_seen:
            scores[batch.rows(), batch.indices] = -torch.inf
        if barred is not None:
            scores[:, barred.to(scores.device)] = -torch.inf
        best = scores.topk(k := min(k, scores.shape[1])).indices
        some = ~empty
        known, of_known = batch[some.nonzero()[:, 0]], scores[some]
        if sampling.diversify and len(known):
            best[some] = posterior.thompson(
                self.model, known, of_known, k, temperature=sampling.diversify, seed=sampling.seed
            )
        rankings = [
            Ranking(
                (self.items[number], value)
                for number, value in zip(numbers, values, strict=True)
                if value != float("-inf")
            )
            for values, numbers in zip(scores.gather(1, best).tolist(), best.tolist(), strict=True)
        ]
        self.without_rest += sum(not ranking for ranking in rankings)
        if sampling.samples and len(known):
            ranks = posterior.sampled_ranks(
                self.model, known, best[some], of_known.isneginf(), sampling.samples, seed=sampling.seed
            )
            found = [rankings[row] for row in some.nonzero()[:, 0].tolist()]
            expected: list[float | None] = [None] * len(found)
            if self.model.by_softmax:
                plain = self.model.uncorrected(of_known)
                expected = posterior.expected_ndcg(plain, best[some], known.lengths()).tolist()
            sure = posterior.interval(ranks).tolist(), posterior.stability(ranks).tolist(), expected
            for ranking, intervals, *values in zip(found, *sure, strict=True):
                if ranking:
                    ranking.intervals = [(low, high) for low, high in intervals[: len(ranking)]]
                    ranking.stability, ranking.expected_ndcg = values
        return rankings


def read_histories(
    file: IO[str], name: str, user_field: str, item_field: str, value_field: str | None = None
) -> Iterator[tuple[str, list[str] | dict[str, float]]]:
    """Read histories from a CSV file or an atomic file of RecBole, user by user; all lines of a user stand together.

    Args:
        file: its first line has the names of the columns: those given, or ``user_id`` and ``item_id``.
        name: of the file, for messages.
        user_field: name of the column of users in the data set.
        item_field: name of the column of items in the data set.
        value_field: name of the column of weights. If it is there, histories are mappings of items to the sum of their weights.

    Raises:
        DataError: it is no text of UTF-8, a column is missing, a line has another number of cells than the first, a user
            comes again later, or a weight is no positive number.
    """
    try:
        first = file.readline().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise _not_utf8(name, 1, error) from None
    if not first.strip():
        raise DataError(f"{name}: is empty; the first line must name the columns, such as user_id,item_id.")
    separator = "\t" if "\t" in first else ","
    # Spaces beside a comma are part of no id.
    strip = separator == ","
    header = next(csv.reader([first], delimiter=separator, skipinitialspace=strip), [])
    columns = [cell.strip().partition(":")[0] for cell in header]
    places = []
    for field, usual in ((user_field, "user_id"), (item_field, "item_id")):
        found = next((columns.index(each) for each in (field, usual) if each in columns), None)
        if found is None:
            raise DataError(
                f"{name}, line 1: there is no column '{field}'{f' or {usual}' if field != usual else ''}; the first line must "
                f"name the columns, such as user_id,item_id (found: {first.strip()[:80]!r})."
            )
        places.append(found)
    user_place, item_place = places
    weight_place = columns.index(value_field) if value_field in columns else None

    def pairs() -> Iterator[tuple[int, str, str, float]]:
        reader, number = csv.reader(file, delimiter=separator, strict=True, skipinitialspace=strip), 1
        try:
            for number, cells in enumerate(reader, start=2):
                if len(cells) != len(columns):
                    if not cells:
                        continue
                    raise DataError(
                        f"{name}, line {number}: {len(cells)} cells instead of {len(columns)} ({first.strip()[:60]})."
                    )
                user, item = cells[user_place], cells[item_place]
                weight = 1.0 if weight_place is None or not item.strip() else _weight(cells[weight_place], name, number)
                yield (number, user.strip(), item.strip(), weight) if strip else (number, user, item, weight)
        except UnicodeDecodeError as error:
            raise _not_utf8(name, number + 1, error) from None
        except csv.Error as error:  # a stray quotation mark would swallow the rest
            raise DataError(f"{name}, line {reader.line_num + 1}: not valid CSV ({error}).") from None

    done: set[int] = set()  # hashes: a set of a million names would be most of the memory
    for user, lines in groupby(pairs(), key=lambda pair: pair[1]):
        first_line, *others = lines
        number = first_line[0]
        if hash(user) in done:
            raise DataError(f"{name}, line {number}: user '{user}' again; all lines of a user must stand together.")
        done.add(hash(user))
        if not others and not first_line[2]:  # an empty cell alone stands for a user without items
            yield user, []
        elif weight_place is None:
            yield user, [item for _, _, item, _ in (first_line, *others)]
        else:
            weights: dict[str, float] = {}
            for _, _, item, weight in (first_line, *others):
                weights[item] = weights.get(item, 0.0) + weight
            yield user, weights


def _weight(text: str, name: str, number: int) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not 0 < np.float32(weight) < math.inf or "_" in text:
        raise DataError(
            f"{name}, line {number}: the weight {text[:40]!r} is not allowed; it must be a positive number."
        )
    return weight


def _not_utf8(name: str, line: int, error: UnicodeDecodeError) -> DataError:
    return DataError(f"{name}, line {line} or later: not text in UTF-8 ({error.reason}); save the file as UTF-8.")


def write_rankings(rankings: Iterable[tuple[str, Ranking]], file: IO[str], *, sampled: bool = False) -> int:
    """Write rankings as CSV, ``user_id,rank,item_id,score``, and return the number of users.

    Args:
        rankings: of one user after the other.
        file: to write to.
        sampled: whether ``rank_low,rank_high,stability,expected_ndcg`` follow; their cells are empty where there is none.
    """
    writer = csv.writer(file, lineterminator="\n")
    pairs = iter(rankings)
    first = list(islice(pairs, 1))  # before anything is written: bad input shows here
    more = ("rank_low", "rank_high", "stability", "expected_ndcg") if sampled else ()
    writer.writerow(("user_id", "rank", "item_id", "score", *more))
    users = 0
    for users, (user, ranking) in enumerate(chain(first, pairs), start=1):  # noqa: B007 - the result
        for rank, (item, score) in enumerate(ranking, start=1):
            cells = [user, rank, item, f"{score:.6g}"]
            if sampled:
                cells += ranking.intervals[rank - 1] if ranking.intervals else ("", "")
                of_user = (ranking.stability, ranking.expected_ndcg)
                cells += ["" if value is None else f"{value:.4g}" for value in of_user]
            writer.writerow(cells)
    return users


def open_text(path: str) -> IO[str]:
    """Open a file to read text, or standard input for ``-``; a DataError says what is wrong."""
    if path == "-":
        return sys.stdin
    try:
        return Path(path).open(encoding="utf-8", newline="")
    except OSError as error:
        raise DataError(f"{path}: cannot read this file: {error.strerror}.") from None
