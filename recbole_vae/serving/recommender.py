"""Recommendations from a checkpoint alone: for users of its data set, and for any history."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recbole_vae.data import padding
from recbole_vae.data.histories import Histories
from recbole_vae.errors import CheckpointError, ConfigError, DataError
from recbole_vae.model.registry import model_class
from recbole_vae.nn.chunks import rows_per_chunk
from recbole_vae.options.evaluation import trains_on_whole_histories
from recbole_vae.serving import posterior
from recbole_vae.serving.posterior import Sampling
from recbole_vae.serving.ranking import Ranking
from recbole_vae.storage import checkpoint, recbole_checkpoint

_EXAMPLES, _EXAMPLE_LENGTH = 1000, 100
"""Unknown ids that are remembered, and how many characters of each: a server must not grow with what its callers send."""
History = Iterable[str] | Mapping[str, float]
"""Ids of a user's items, in any order (each has weight 1), or a mapping of ids to weights."""


@dataclass
class _Vocabulary:
    """The part of a RecBole data set that a model reads when it is made."""

    users: list[str]
    items: list[str]
    uid_field: str
    iid_field: str
    inter_feat: dict[str, Tensor]
    dataset_name: str

    @property
    def user_num(self) -> int:
        return len(self.users)

    def num(self, name: str) -> int:
        return len(self.users if name == self.uid_field else self.items)


@dataclass
class Unknown:
    """Ids that were given but are not in the training data.

    Attributes:
        times: how many there were, repetitions included.
        examples: the first 1,000 different ones, cut to 100 characters, and how often each was given.
    """

    times: int = 0
    examples: Counter[str] = field(default_factory=Counter)

    def update(self, ids: Iterable[str]) -> None:
        """Count some more."""
        for each in ids:
            self.times += 1
            name = each[:_EXAMPLE_LENGTH]
            if name in self.examples or len(self.examples) < _EXAMPLES:
                self.examples[name] += 1


class Recommender:
    """A trained model that ranks items, by the data set's own ids. Make one with :meth:`load`.

    Attributes:
        model: the model, in evaluation mode.
        users: ids of the training users, by row in ``model.histories``; the first is RecBole's padding.
        items: ids of the items; the first is RecBole's padding.
        dataset: name of the data set.
        unknown: ids in the histories so far that the model does not know.
        unknown_candidates: ids among the candidates so far that the model does not know.
        without_known: how many histories so far had no known item; they got the most popular items.
        without_rest: how many histories so far left no item to recommend; they got an empty ranking.
        whole: whether the training histories are all that the data set has, so that nobody's validation or test part is missing.
        item_file: path of the data set's ``.item`` file when the model was trained, whether or not it exists; or None.
    """

    def __init__(self, model: Any, users: Sequence[str], items: Sequence[str], dataset: str) -> None:
        self.model, self.users, self.items, self.dataset = model.eval(), list(users), list(items), dataset
        self.unknown, self.unknown_candidates = Unknown(), Unknown()
        self.without_known = self.without_rest = 0
        self.item_file: Path | None = None
        self.whole = True
        self._item_ids = {item: number for number, item in enumerate(self.items) if number}
        self._user_ids: dict[str, int] | None = None

    @classmethod
    def load(
        cls, path: str | Path, device: str | torch.device = "cpu", popularity_correction: float | None = None
    ) -> Recommender:
        """Load a model from a checkpoint. No code from the file is run.

        A checkpoint of recbole_vae holds all that is needed. One of RecBole's holds no data, so the data set must be where
        it was at training.

        Args:
            path: the file that training wrote.
            device: where to compute.
            popularity_correction: replaces the option that the model was trained with; above 0, rare items are favoured,
                below 0, popular ones.

        Raises:
            ConfigError: ``popularity_correction`` is not a number from -1000 to 1000, or the model is RecBole's and has none.
            CheckpointError: the file is not a checkpoint, its model is not registered or cannot score a history, or the data set
                of a model of RecBole has moved or changed.
        """
        if recbole_checkpoint.is_recboles(path):
            return cls._load_recboles(path, device, popularity_correction)
        state = checkpoint.load(path)
        kind = model_class(state["model"])
        if kind is None:
            raise CheckpointError(
                f"{path}: a checkpoint of {state['model']}, which is not registered; import the module that registers it first "
                "(on the command line: --imports=MODULE)."
            )
        try:
            return cls._of(state, kind, device, popularity_correction)
        except ConfigError:
            raise
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(f"{path}: damaged checkpoint ({reason or type(error).__name__}).") from None

    @classmethod
    def _of(
        cls, state: dict[str, Any], kind: Any, device: str | torch.device, popularity_correction: float | None
    ) -> Recommender:
        options = state["config"]
        rows = Histories(*(state["histories"][name] for name in ("indptr", "indices", "values")))
        user, item = options["USER_ID_FIELD"], options["ITEM_ID_FIELD"]
        feat = {user: rows.rows(), item: rows.indices.long()}
        if rows.values is not None:
            feat[options["value_field"]] = rows.values
        data = _Vocabulary(state["users"], state["items"], user, item, feat, state["dataset"])
        # Items are sampled in training only.
        now = {"device": torch.device(device), "n_negatives": 0}
        if popularity_correction is not None:
            now["popularity_correction"] = popularity_correction
        model = kind({**options, **now}, data)
        model.load_state_dict(state["state_dict"])
        if len(rows) != len(state["users"]) or not all(each.isfinite().all() for each in model.parameters()):
            raise RuntimeError("its parameters are not finite numbers, or its histories are not those of its users")
        recommender = cls(model.to(device), state["users"], state["items"], state["dataset"])
        recommender.whole = trains_on_whole_histories(options)
        recommender.item_file = Path(options["data_path"]) / state["dataset"] / f"{state['dataset']}.item"
        return recommender

    @classmethod
    def _load_recboles(
        cls, path: str | Path, device: str | torch.device, popularity_correction: float | None
    ) -> Recommender:
        from recbole_vae.evaluation.fold_in import as_history_model
        from recbole_vae.training.restore import model_of_recbole

        config, model, training = model_of_recbole(path, device)
        name = config["dataset"]
        if popularity_correction is not None:
            raise ConfigError(
                f"popularity_correction: {path} is of {config['model']}, which does not have this option; leave it out."
            )
        users, items = (list(map(str, training.field2id_token[field])) for field in (model.USER_ID, model.ITEM_ID))
        recommender = cls(as_history_model(model, Histories.from_dataset(training, None)), users, items, name)
        recommender.whole = trains_on_whole_histories(config)
        recommender.item_file = Path(config["data_path"]) / f"{name}.item"
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

        Unknown items are skipped and counted in ``unknown``. A history without a known item gets the most popular items;
        each item's score is then the share of the training users who have it.

        Args:
            histories: the items of each user; order and repetitions do not matter. Weights need a model that was trained
                with a ``value_field``.
            k: length of the ranking; it is shorter where fewer items are left.
            exclude_seen: whether to leave out the items of the history.
            candidates: ids of the items that may be recommended; None for all.
            samples: see :class:`~recbole_vae.serving.posterior.Sampling`.
            diversify: likewise. The scores stay those at the posterior mean, so they need not descend.
            seed: seed of the noise.

        Returns:
            A ranking for each history.

        Raises:
            DataError: no candidate is known, ``k`` is less than 1, a history is a string, a weight is not a positive number,
                or the model was trained without weights.
            ConfigError: the model has no posterior to sample from, or a value of ``Sampling`` is not allowed.
        """
        pairs = ((None, each) for each in histories)
        sampling = Sampling(samples, diversify, seed)
        return [ranking for _, ranking in self.stream(pairs, k, exclude_seen, candidates, sampling)]

    def recommend_users(self, users: Iterable[str], k: int = 10, **options: Any) -> list[Ranking]:
        """Rank items for training users, given by their ids; for arguments and result see :meth:`recommend`.

        Raises:
            DataError: a user is not in the training data.
        """
        if isinstance(users, str):
            raise DataError(f"users must be a collection of ids; '{users[:40]}' is a string.")
        return self.recommend((self.history(user) for user in users), k, **options)

    def history(self, user: str) -> list[str] | dict[str, float]:
        """Return a training user's items, with their weights if the model was trained with a ``value_field``.

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
        """Rank items for pairs of a key and a history as they arrive, in constant memory; see :meth:`recommend`."""
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
        """Return which items must not be recommended, bool, shape [n_items]."""
        if candidates is None:
            return None
        names = list(map(str, candidates))
        if not names:
            raise DataError("candidates: the list is empty, so nothing can be recommended.")
        known = [self._item_ids[name] for name in names if name in self._item_ids]
        self.unknown_candidates.update(name for name in names if name not in self._item_ids)
        if not known:
            raise DataError(
                f"candidates: the model knows none of the {len(names)} items; its data set is {self.dataset}."
            )
        return torch.ones(len(self.items), dtype=torch.bool).index_fill_(0, torch.tensor(known), False)

    def known(self, history: History) -> list[int] | dict[int, float]:
        """Return the internal ids of a history's items, with their weights if the history has weights.

        Items that the model does not know are skipped and counted in ``unknown``.

        Raises:
            DataError: the history is a string, or has weights and the model was trained without.
        """
        if isinstance(history, str) or not isinstance(history, Iterable):
            what = f"'{history[:40]}' is a string" if isinstance(history, str) else f"{history!r} is not"
            raise DataError(f"a history must be a collection of item ids; {what}.")
        if isinstance(history, Mapping) and self.model.histories.values is None:
            raise DataError(
                "a history has weights, but the model was trained without value_field: give the items alone."
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
