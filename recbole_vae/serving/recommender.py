"""Recommendations from a checkpoint alone: for users of its data set, and for any history."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from logging import getLogger
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from recbole_vae.data import padding
from recbole_vae.data.histories import Histories
from recbole_vae.errors import CheckpointError, ConfigError, DataError
from recbole_vae.model.base import HistoryRecommender
from recbole_vae.model.registry import model_class
from recbole_vae.nn.chunks import rows_per_chunk
from recbole_vae.options.evaluation import trains_on_whole_histories
from recbole_vae.options.limits import LARGEST
from recbole_vae.serving import posterior
from recbole_vae.serving.loading import model_of
from recbole_vae.serving.posterior import Sampling
from recbole_vae.serving.ranking import Ranking
from recbole_vae.serving.unknown import Unknown
from recbole_vae.storage import checkpoint, recbole_checkpoint

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from recbole_vae.serving.new_items import Added, Source
    from recbole_vae.serving.profiles import Profile, Profiles

History = Iterable[str] | Mapping[str, float]
"""Ids of a user's items, in any order (each has weight 1), or a mapping of ids to weights."""


@dataclass(frozen=True, eq=False)
class Selection:
    """How many items are recommended, which may be, and how they are ranked; made by :meth:`Recommender.selection`.

    Attributes:
        k: length of the ranking.
        exclude_seen: whether the items of the history are left out.
        barred: which items are never recommended, bool, shape [n_items]; None for none.
        popularity_correction: instead of the model's own; None for that.
        sampling: of the posterior.
        unknown_candidates: number of candidates that the model does not know; ``unknown_excluded``: of excluded items.
    """

    k: int
    exclude_seen: bool
    barred: Tensor | None
    popularity_correction: float | None
    sampling: Sampling
    unknown_candidates: int = 0
    unknown_excluded: int = 0


class Recommender:
    """A trained model that ranks items, by the data set's own ids. Make one with :meth:`load`.

    Several threads may use one at the same time, but for :meth:`add_items`. What it keeps does not grow with what it is asked.

    Attributes:
        model: the model, in evaluation mode.
        users: ids of the training users, by row in ``model.histories``; the first is RecBole's padding.
        items: ids of the items; the first is RecBole's padding. Those of :meth:`add_items` are the last ones.
        new_features: of those of :meth:`add_items`; None if there are none.
        dataset: name of the data set.
        unknown: ids in the histories so far that the model does not know.
        unknown_candidates: ids among the candidates so far that the model does not know; ``unknown_excluded``: among the ids that
            were to be excluded.
        unknown_values: values in the profiles so far that the model makes no use of, such as ``gender=X``.
        without_known: how many histories so far had no known item, and no profile; they got the most popular items.
        without_rest: how many histories so far left no item to recommend; they got an empty ranking.
        whole: whether the training histories are all that the data set has, so that nobody's validation or test part is missing.
        item_file: path of the data set's ``.item`` file when the model was trained, whether or not it exists; or None.
    """

    def __init__(self, model: Any, users: Sequence[str], items: Sequence[str], dataset: str) -> None:
        self.model, self.users, self.items, self.dataset = model.eval(), list(users), list(items), dataset
        self.unknown, self.unknown_candidates, self.unknown_excluded = Unknown(), Unknown(), Unknown()
        self.unknown_values = Unknown()
        self.without_known = self.without_rest = 0
        self.item_file: Path | None = None
        self.whole = True
        self._item_ids = {item: number for number, item in enumerate(self.items) if number}
        self._user_ids: dict[str, int] | None = None
        self.new_features: csr_matrix | None = None
        self._counting = threading.Lock()
        self._said_without_effect = False

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
            CheckpointError: the file is not a checkpoint, its model is not registered or cannot score a history, its training
                has yet to choose what is ``auto``, or the data set of a model of RecBole has moved or changed.
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
            recommender = cls._of(state, kind, device, popularity_correction)
        except ConfigError:
            raise
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(f"{path}: damaged checkpoint ({reason or type(error).__name__}).") from None
        if recommender.model.undecided:
            raise CheckpointError(
                f"{path}: its training did not end, and what is auto is chosen at the end. Go on by recbole-vae run "
                f"--resume={path}, with --epochs={state['epoch'] + 1} to choose for the epochs that there are."
            )
        return recommender

    @classmethod
    def _of(
        cls, state: dict[str, Any], kind: Any, device: str | torch.device, popularity_correction: float | None
    ) -> Recommender:
        model = model_of(state, kind, device, popularity_correction)
        recommender = cls(model.to(device), state["users"], state["items"], state["dataset"])
        recommender.whole = trains_on_whole_histories(state["config"])
        recommender.item_file = Path(state["config"]["data_path"]) / state["dataset"] / f"{state['dataset']}.item"
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
        profiles: Iterable[Mapping[str, Any] | None] | None = None,
        exclude_seen: bool = True,
        candidates: Iterable[str] | None = None,
        exclude: Iterable[str] | None = None,
        popularity_correction: float | None = None,
        samples: int = 0,
        diversify: float = 0.0,
        seed: int = 0,
    ) -> list[Ranking]:
        """Rank items for histories, each a collection of item ids, or a mapping of them to weights.

        Unknown items are skipped and counted in ``unknown``. A history without a known item, and without a profile of which
        something is known, gets the most popular items; each item's score is then the share of the training users who have it.

        Args:
            histories: the items of each user; order and repetitions do not matter. Weights need a model that was trained
                with a ``value_field``.
            k: length of the ranking; it is shorter where fewer items are left.
            profiles: for a model with ``user_features``: of the user of each history a mapping of fields to values, or None. A
                field that is left out is not known. Values that the model makes no use of are counted in ``unknown_values``.
            exclude_seen: whether to leave out the items of the history.
            candidates: ids of the items that may be recommended; None for all.
            exclude: ids of items that are never recommended, such as those out of stock; unknown ones do no harm.
            popularity_correction: in place of the one that the model was loaded with; see :meth:`load`.
            samples: see :class:`~recbole_vae.serving.posterior.Sampling`.
            diversify: likewise. The scores stay those at the posterior mean, so they need not descend.
            seed: seed of the noise.

        Returns:
            A ranking for each history.

        Raises:
            DataError: no candidate is known, ``k`` is less than 1, a history is a string, a weight is not a positive number,
                or the model was trained without weights; or profiles are not as many as histories, or one is no mapping, or has
                a field that the model does not read, or text where a number must be.
            ConfigError: the model has no posterior to sample from, or no popularity correction, or reads no profiles, or a value
                of the correction or of ``Sampling`` is not allowed.
        """
        selection = self.selection(
            k, exclude_seen, candidates, exclude, popularity_correction, Sampling(samples, diversify, seed)
        )
        encoded = None if profiles is None else self.encoded(profiles).profiles
        if encoded is not None:
            histories = list(histories)
            if len(encoded) != len(histories):
                raise DataError(
                    f"profiles: there are {len(encoded)}, and {len(histories)} histories; give a mapping or None for each."
                )
        pairs = ((None, each) for each in histories)
        return [ranking for _, ranking in self._stream(pairs, selection, encoded)]

    def recommend_users(self, users: Iterable[str], k: int = 10, **options: Any) -> list[Ranking]:
        """Rank items for training users, given by their ids; for arguments and result see :meth:`recommend`.

        They have the profiles that they had in training.

        Args:
            users: ids.
            k: length of the ranking.
            options: ``exclude_seen``, ``candidates``, ``exclude``, ``popularity_correction``, ``samples``, ``diversify`` and
                ``seed`` of :meth:`recommend`.

        Raises:
            DataError: a user is not in the training data, or profiles are given.
        """
        if "profiles" in options:
            raise DataError(
                "profiles: users of the training data have the profiles that they had in training; recommend(histories, "
                "profiles=...) takes others."
            )
        if isinstance(users, str):
            raise DataError(f"users must be a collection of ids; '{users[:40]}' is a string.")
        sampling = Sampling(
            *(options.pop(name, default) for name, default in (("samples", 0), ("diversify", 0.0), ("seed", 0)))
        )
        selection, users = self.selection(k, sampling=sampling, **options), list(users)
        pairs = ((None, self.history(user)) for user in users)
        return [ranking for _, ranking in self._stream(pairs, selection, map(self.profile, users))]

    def history(self, user: str) -> list[str] | dict[str, float]:
        """Return a training user's items, with their weights if the model was trained with a ``value_field``.

        Raises:
            DataError: there is no such user.
        """
        row = self._user_rows().get(str(user))
        if row is None:
            known = padding.real(len(self.users))
            raise DataError(
                f"user '{user}' is not among the {known} users of the training data; give a history instead."
            )
        table = self.model.histories
        start, stop = table.indptr[row : row + 2].tolist()
        items = [self.items[item] for item in table.indices[start:stop].tolist()]
        return items if table.values is None else dict(zip(items, table.values[start:stop].tolist(), strict=True))

    def profile(self, user: str) -> Profile:
        """Return a training user's profile as :meth:`rank` takes it; empty where nothing is known, or the model reads none."""
        profiles = self.model.histories.profiles
        row = self._user_rows().get(str(user))
        if profiles is None or row is None:
            return {}
        found: Profile = profiles[torch.tensor([row], device=profiles.indptr.device)].mappings()[0]
        return found

    def with_profiles(self, histories: Histories, users: Iterable[str]) -> Histories:
        """Give histories, one for each user, the profiles that these had in training; of others nothing is known."""
        profiles = self.model.histories.profiles
        if profiles is None:
            return histories
        rows = self._user_rows()
        places = torch.tensor([rows.get(str(user), padding.PADDING) for user in users], dtype=torch.int64)
        return replace(histories, profiles=profiles.to("cpu")[places])  # the padding user has none

    def encoded(self, profiles: Iterable[Mapping[str, Any] | None], called: str = "profiles[{}]") -> Profiles:
        """Return profiles as :meth:`rank` takes them; see :meth:`recommend`. Values without use are counted.

        Args:
            profiles: as those of :meth:`recommend`.
            called: what messages call each, with {} for its place.
        """
        from recbole_vae.serving.profiles import encoded  # not at the top: it needs pandas

        return self._counted(encoded(self.model, profiles, called))

    def read_profiles(self, path: str | Path) -> Profiles:
        """Return the profiles of a ``.user`` file as :meth:`rank` takes them. Values without use are counted.

        Raises:
            ConfigError, DataError: see :func:`recbole_vae.serving.profiles.read`.
        """
        from recbole_vae.serving.profiles import read

        return self._counted(read(self.model, path))

    def _counted(self, found: Profiles) -> Profiles:
        with self._counting:
            self.unknown_values.update(found.unknown.elements())
            if not found.have_effect and not self._said_without_effect:
                self._said_without_effect = True
                getLogger("recbole_vae").warning(
                    "Profiles have no effect: the VAE alone reads them, and the mixture of this HybridVAE gives it no share."
                )
        return found

    def _user_rows(self) -> dict[str, int]:
        if self._user_ids is None:
            self._user_ids = {name: number for number, name in enumerate(self.users) if number}
        return self._user_ids

    def knows_user(self, user: str) -> bool:
        """Tell whether a user is in the training data."""
        return user in self._user_rows()

    def knows(self, item: str) -> bool:
        """Tell whether an item is in the training data."""
        return item in self._item_ids

    def add_items(self, source: Source, bonus: float = 0.0) -> Added:
        """Let new items be recommended, and be in histories: they are scored from their features, without training again.

        No other thread may use the recommender meanwhile. A server loads another one, adds the items, and swaps the two.

        Args:
            source: path of an ``.item`` file, or a mapping or DataFrame with a column for each field of ``item_features``, and
                one for the ids. Items that the model was trained with stay as they are.
            bonus: added to the scores of all items that were ever added, in standard deviations of a user's scores; below 0,
                they come later.

        Raises:
            ConfigError: the model was trained without ``item_features``, the source lacks a field, or ``bonus`` is not a number
                from -1000 to 1000.
            DataError: a file is missing, empty or damaged; a table lacks a column or is empty; an item has no id, or stands there
                twice with different features; or a field has another type than in training.
        """
        from recbole_vae.serving import new_items  # not at the top: it needs pandas

        ids, features, added = new_items.of(self, source, bonus)
        self.model.add_items(features, bonus)
        self.items = [*self.items[: self.model.n_items], *ids]
        self._item_ids = {item: number for number, item in enumerate(self.items) if number}
        self.new_features = features
        return added

    def stream(
        self,
        histories: Iterable[tuple[Any, History]],
        k: int = 10,
        exclude_seen: bool = True,
        candidates: Iterable[str] | None = None,
        sampling: Sampling | None = None,
        exclude: Iterable[str] | None = None,
    ) -> Iterator[tuple[Any, Ranking]]:
        """Rank items for pairs of a key and a history as they arrive, in constant memory; see :meth:`recommend`."""
        yield from self._stream(histories, self.selection(k, exclude_seen, candidates, exclude, None, sampling))

    def _stream(
        self,
        histories: Iterable[tuple[Any, History]],
        selection: Selection,
        profiles: Iterable[Profile] | None = None,
    ) -> Iterator[tuple[Any, Ranking]]:
        pairs, given = iter(histories), None if profiles is None else iter(profiles)
        size = rows_per_chunk(max(len(self.items), selection.sampling.samples * selection.k))
        while batch := list(islice(pairs, size)):
            rows = [self.known(history) for _, history in batch]
            own = None if given is None else list(islice(given, len(rows)))
            for (key, _), ranking in zip(batch, self.rank(rows, [selection] * len(rows), own), strict=True):
                yield key, ranking

    def selection(
        self,
        k: int = 10,
        exclude_seen: bool = True,
        candidates: Iterable[str] | None = None,
        exclude: Iterable[str] | None = None,
        popularity_correction: float | None = None,
        sampling: Sampling | None = None,
    ) -> Selection:
        """Check what :meth:`recommend` may be told beside the histories. It raises the same errors."""
        if not isinstance(k, int) or isinstance(k, bool) or k < 1:
            raise DataError(f"k: {k!r} is not allowed; it must be an integer >= 1.")
        sampling = sampling or Sampling()
        sampling.check(self.model)
        if popularity_correction is not None:
            self._check_correction(popularity_correction)
        barred, *unknown = self._barred(candidates, exclude)
        return Selection(min(k, len(self.items)), exclude_seen, barred, popularity_correction, sampling, *unknown)

    def _check_correction(self, strength: float) -> None:
        if not isinstance(self.model, HistoryRecommender):
            raise ConfigError(
                f"popularity_correction: {type(self.model).__name__} does not have this option; leave it out."
            )
        if isinstance(strength, bool) or not isinstance(strength, int | float) or not abs(strength) <= LARGEST:
            raise ConfigError(
                f"popularity_correction: {strength!r} is not allowed; it must be a number >= {-LARGEST:g} and <= {LARGEST:g}."
            )

    def _barred(
        self, candidates: Iterable[str] | None, exclude: Iterable[str] | None
    ) -> tuple[Tensor | None, int, int]:
        """Return which items must not be recommended, bool, shape [n_items]; and how many ids of either are unknown."""
        if candidates is None and exclude is None:
            return None, 0, 0
        unknown, unknown_excluded, barred = 0, 0, torch.zeros(len(self.items), dtype=torch.bool)
        if candidates is not None:
            names, known = self._numbers("candidates", candidates, self.unknown_candidates)
            if not names:
                raise DataError("candidates: the list is empty, so nothing can be recommended.")
            if not known:
                raise DataError(
                    f"candidates: the model knows none of the {names} items; its data set is {self.dataset}."
                )
            unknown = names - len(known)
            barred.fill_(True).index_fill_(0, torch.tensor(known), False)
        if exclude is not None:
            names, known = self._numbers("exclude", exclude, self.unknown_excluded)
            unknown_excluded = names - len(known)
            barred[known] = True
        return barred, unknown, unknown_excluded

    def _numbers(self, name: str, items: Iterable[str], unknown: Unknown) -> tuple[int, list[int]]:
        """Return how many ids there are, and the internal ids of those that the model knows; count the others."""
        if isinstance(items, str):
            raise DataError(f"{name} must be a collection of item ids; '{items[:40]}' is a string.")
        names = list(map(str, items))
        found = [(self._item_ids.get(each), each) for each in names]
        with self._counting:
            unknown.update(each for number, each in found if number is None)
        return len(names), [number for number, _ in found if number]

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
        with self._counting:
            self.unknown.update(str(item) for number, item in found if number is None)
        if isinstance(history, Mapping):
            return {number: history[item] for number, item in found if number}
        return [number for number, _ in found if number]

    @torch.inference_mode()
    def rank(
        self,
        rows: Sequence[list[int] | dict[int, float]],
        selections: Sequence[Selection],
        profiles: Sequence[Profile] | None = None,
    ) -> list[Ranking]:
        """Rank items for histories of internal ids, each by its own selection. All are scored together.

        Args:
            rows: see :meth:`known`; so few that a table of their scores may be held.
            selections: one for each row. Rows that share the same object are ranked together, too.
            profiles: one for each row; see :meth:`encoded`. None for none.

        Raises:
            DataError: a weight is not a positive number.
        """
        groups: dict[Selection, list[int]] = {}
        for place, selection in enumerate(selections):
            groups.setdefault(selection, []).append(place)
        strengths: dict[float | None, list[Selection]] = {}
        for selection in groups:
            strengths.setdefault(selection.popularity_correction, []).append(selection)
        rankings: list[Ranking] = [Ranking() for _ in rows]
        for strength, of_strength in strengths.items():
            order = [place for selection in of_strength for place in groups[selection]]
            batch = Histories.from_lists([rows[place] for place in order])
            if profiles is not None and self.model.user_space is not None:
                batch = replace(batch, profiles=Histories.from_profiles([profiles[place] for place in order]))
            batch = batch.to(self.model.device)
            with self.model.corrected_by(strength) if strength is not None else nullcontext():
                scores, start = self.model.ranking_scores(batch), 0
                for selection in of_strength:
                    places = groups[selection]
                    stop = start + len(places)
                    found = self._select(batch.slice(start, stop), scores[start:stop], selection)
                    for place, ranking in zip(places, found, strict=True):
                        rankings[place] = ranking
                    start = stop
        with self._counting:
            self.without_known += self.popular(rows, profiles)
            self.without_rest += sum(not ranking for ranking in rankings)
        return rankings

    def popular(self, rows: Sequence[list[int] | dict[int, float]], profiles: Sequence[Profile] | None = None) -> int:
        """Return how many of the histories get the most popular items; arguments: see :meth:`rank`."""
        reads = profiles is not None and self.model.user_space is not None and self.model.scores_by_latent
        given: Sequence[Any] = profiles if reads and profiles is not None else [None] * len(rows)
        return sum(not row and not profile for row, profile in zip(rows, given, strict=True))

    def _select(self, batch: Histories, scores: Tensor, selection: Selection) -> list[Ranking]:
        """Rank items by scores, shape [batch, n_items], which are changed."""
        k, sampling = selection.k, selection.sampling
        if selection.exclude_seen:
            scores[batch.rows(), batch.indices] = -torch.inf
        if selection.barred is not None:
            scores.masked_fill_(selection.barred.to(scores.device), -torch.inf)
        values, best = scores.topk(k)
        some = ~batch.are_empty(batch.profiles is not None and self.model.scores_by_latent)
        if sampling.diversify and some.any():
            best[some] = posterior.thompson(
                self.model, batch[some.nonzero()[:, 0]], scores[some], k,
                temperature=sampling.diversify, seed=sampling.seed,
            )  # fmt: skip
            values = scores.gather(1, best)
        rankings = [
            Ranking(
                (self.items[number], value)
                for number, value in zip(numbers, of_row, strict=True)
                if value != float("-inf")
            )
            for of_row, numbers in zip(values.tolist(), best.tolist(), strict=True)
        ]
        if sampling.samples and some.any():
            known, of_known = batch[some.nonzero()[:, 0]], scores[some]
            ranks = posterior.sampled_ranks(
                self.model, known, best[some], of_known.isneginf(), sampling.samples, seed=sampling.seed
            )
            found = [rankings[row] for row in some.nonzero()[:, 0].tolist()]
            expected: list[float | None] = [None] * len(found)
            if self.model.by_softmax:
                plain = self.model.uncorrected(of_known)
                expected = posterior.expected_ndcg(plain, best[some], known.lengths()).tolist()
            sure = posterior.interval(ranks).tolist(), posterior.stability(ranks).tolist(), expected
            for ranking, intervals, *certainty in zip(found, *sure, strict=True):
                if ranking:
                    ranking.intervals = [(low, high) for low, high in intervals[: len(ranking)]]
                    ranking.stability, ranking.expected_ndcg = certainty
        return rankings
