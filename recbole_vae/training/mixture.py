"""The shares and strengths of a model's paths, chosen after training by how the mixture ranks the items of the validation part.

The items that each path ranks first are the candidates; all is chosen by the rankings of these. Each path's strengths are
first those of its own best ranking. Then they change where the mixture gets better by more than a standard error: paths that
make different mistakes mix well, even if each alone is not at its best. The shares are the mean of two estimates: those of the
best mixture, on average over bootstrap samples of the users, and those by which the relevant items are likeliest. The first
follows the noise of few users, and favours the VAE, whose best epoch was chosen by the same metric; the second does not see
the metric.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice, product
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.evaluator.collector import DataStruct
from scipy.optimize import minimize
from torch import Tensor
from tqdm import tqdm

from recbole_vae.errors import DataError
from recbole_vae.evaluation.collector import hits
from recbole_vae.evaluation.fold_in import evaluated_on
from recbole_vae.evaluation.metrics import FastEvaluator
from recbole_vae.model.hybridvae import PATHS, STRENGTHS, HybridVAE, described
from recbole_vae.options.evaluation import COLD, WARM, kind_of

_MOST_USERS = 3_000
"""Users of the validation part that are looked at, at most; of more, every second batch, every third, and so on."""
_DEPTH = 50
"""Places of each path's ranking whose items the mixtures rank, but at least three times as many as the metric looks at."""
_STEPS = 10
"""Shares that are tried are multiples of one by this."""
_SAMPLES = 200
"""Bootstrap samples of the users."""
_RIDGE = 1.0
"""Of the weights whose proportions are the shares; without it, paths that tell all relevant items apart had no finite ones."""
_ROUNDS = 2
"""Times that the strengths of a path alone are gone through."""
_LEAST_SHARE = 0.05
"""A path with less than this part of what is shared out is left out: it costs time, and changes little."""
_RANKINGS = ("ndcg", "recall", "mrr", "hit", "precision", "map")
"""Metrics by which a mixture can be chosen: those of a list and the user's relevant items alone."""

Table = NDArray[Any]


def mix(trainer: Any, valid_data: Any) -> None:
    """Choose what is ``auto`` in a HybridVAE whose VAE is trained, and log it.

    Args:
        trainer: whose model, configuration and way to evaluate are used.
        valid_data: RecBole's dataloader of the validation part; None if there is none.
    """
    model: HybridVAE = trainer.model
    if not valid_data or trainer.config["eval_type"].name == "VALUE":
        model.choose(model.without_validation())
        trainer.logger.warning(
            "There is no validation part by whose rankings the paths could be mixed, so auto stands for "
            f"{described(model.settings)}. Better choose a split with a validation part (eval_args)."
        )
        return
    model.forget()
    model.eval()
    search = _Search(model, _Judge(trainer, valid_data))
    for problem in search.begin():
        trainer.logger.warning(f"Left out of the mixture: {problem}")
    alone = {path: search.strengthen(path) for path in search.paths}
    search.strengthen_together()
    shares, score = search.shares()
    chosen = {f"{path}_share": shares.get(path, 0.0) for path in PATHS}
    model.choose({**search.strengths, **chosen})
    with_each = ", ".join(f"{path} {value:.4f}" for path, value in alone.items())
    trainer.logger.info(
        f"Mixed by {search.judge.name} of {search.judge.users} users of the validation part. "
        f"Each path alone has: {with_each}; the mixture has {score:.4f}."
    )


class _Search:
    """The search for strengths and shares.

    Attributes:
        paths: those that are mixed.
        strengths: the value of each option of a path so far.
    """

    def __init__(self, model: HybridVAE, judge: _Judge) -> None:
        self.model, self.judge = model, judge
        self.paths: list[str] = []
        self.strengths = {name: value for name, value in model.settings.items() if not name.endswith("_share")}
        self._given: dict[str, float] = {}
        self._scores: dict[tuple[Any, ...], Tensor] = {}

    def begin(self) -> list[str]:
        """Take the candidates from the first ranking of each path; return why paths cannot take part."""
        problems = []
        for path in self.model.mixed():
            try:
                self.model.settings.update(self.strengths)
                if path != "vae":
                    self.model.path(path)
                self.paths.append(path)
            except DataError as error:  # no memory for it; if its share is a number, choose() says so
                problems.append(str(error))
        if dist.is_initialized():  # free memory differs, and all must take the same part
            of_all: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(of_all, self.paths)
            self.paths = [path for path in self.paths if all(path in others for others in of_all)]
        for path in self.paths:
            share = 0.0 if path == "vae" else getattr(self.model.options, f"{path}_share")
            if path != "vae" and share != "auto":
                self._given[path] = float(share)
        self.judge.collect(self.paths)
        return problems

    def _of(self, path: str, strengths: Mapping[str, float]) -> Tensor:
        """Return a path's scores of the candidates, shape [users, places], with these strengths."""
        key = (path, *(strengths[name] for name in STRENGTHS[path]))
        if key not in self._scores:
            self.model.settings.update(strengths)
            self._scores[key] = self.judge.scores_of(path)
        return self._scores[key]

    def strengthen(self, path: str) -> float:
        """Choose a path's strengths by its own ranking: each in turn goes up or down as long as that gets better."""
        ladders = self.model.strengths(path)

        def measured(strengths: dict[str, float]) -> float:
            try:
                return float(self.judge.mixed([(self._of(path, strengths), 1.0)]).mean())
            except DataError:  # no memory, or singular: with other strengths the path takes part
                return -1.0

        for _ in range(_ROUNDS):
            before = self.strengths
            for name, values in ladders.items():
                self.strengths = climb(name, values, self.strengths, measured)
            if self.strengths == before:
                break
        return measured(self.strengths)

    def strengthen_together(self) -> None:
        """Change strengths where the best mixture gets better by more than a standard error, paired by user."""
        if len(self.paths) - len(self._given) < 2:
            return
        values, shares = self._best_mixture(self.strengths, None)
        for path in self.paths:
            for name, candidates in self.model.strengths(path).items():
                for value in candidates:
                    other = self.strengths | {name: value}
                    try:
                        if gain(self._mixed(other, shares), values) < -1:
                            continue
                    except DataError:
                        continue
                    found, their_shares = self._best_mixture(other, shares)
                    if gain(found, values) > 1:
                        self.strengths, values, shares = other, found, their_shares

    def _mixed(self, strengths: Mapping[str, float], shares: Table) -> Table:
        scores = (self._of(path, strengths) for path in self.paths)
        return self.judge.mixed(zip(scores, shares.tolist(), strict=True))

    def _ways(self) -> Table:
        """Return all shares of the paths that are tried, shape [ways, paths]; those that are given stay as they are."""
        free = [path not in self._given for path in self.paths]
        ways = np.zeros((1, len(self.paths)))
        if any(free):
            rest = simplex(sum(free), _STEPS) * (1 - sum(self._given.values()))
            ways = np.zeros((len(rest), len(self.paths)))
            ways[:, free] = rest
        for place, path in enumerate(self.paths):
            if path in self._given:
                ways[:, place] = self._given[path]
        return ways

    def _best_mixture(self, strengths: Mapping[str, float], start: Table | None) -> tuple[Table, Table]:
        """Return the metric of each user and the shares of the best mixture: of all, or by steps from ``start``."""
        ways = self._ways()
        if start is None:
            tried = [self._mixed(strengths, way) for way in ways]
            best = int(np.argmax([values.mean() for values in tried]))
            return tried[best], ways[best]
        values, shares, better = self._mixed(strengths, start), start, True
        while better:
            better = False
            near = ways[np.abs(ways - shares).sum(1) < 2.5 * (1 - sum(self._given.values())) / _STEPS]
            for way in near:
                found = self._mixed(strengths, way)
                if found.mean() > values.mean() + 1e-12:
                    values, shares, better = found, way, True
        return values, shares

    def shares(self) -> tuple[dict[str, float], float]:
        """Return the share of each path, of which the VAE has what the others leave, and the metric of the mixture.

        A path alone has it all if it is better than the mixture by more than a standard error over users.
        """
        given = np.array([self._given.get(path, 0.0) for path in self.paths])
        free, rest = np.array([path not in self._given for path in self.paths]), 1 - given.sum()
        found = given.copy()
        if free.any():
            ways, show = self._ways(), self.judge.show_progress
            bar = tqdm(ways, desc="Mixtures", ncols=100, leave=False, disable=not show)
            by_metric = bagged(np.stack([self._mixed(self.strengths, way) for way in bar]), ways)[free] / rest
            scores = self.judge.nearest([self._of(path, self.strengths) for path in self.paths])
            fixed = scores[..., ~free] @ given[~free] + self.judge.corrections
            weights = likeliest(scores[..., free] + fixed[..., None] / rest, self.judge.relevant)
            mean = (by_metric + weights / weights.sum()) / 2 if weights.any() else by_metric
            mean[mean < _LEAST_SHARE] = 0.0
            found[free] = rest * mean / mean.sum()
        mixed = self._mixed(self.strengths, found)
        if free.all():
            alone = [self._mixed(self.strengths, way) for way in np.eye(len(free))]
            best = int(np.argmax([values.mean() for values in alone]))
            error = alone[best].std(ddof=1) / len(mixed) ** 0.5 if len(mixed) > 1 else 0.0
            if alone[best].mean() - mixed.mean() > error:
                found, mixed = np.eye(len(free))[best], alone[best]
        return dict(zip(self.paths, found.tolist(), strict=True)), float(mixed.mean())


def climb(
    name: str, values: Sequence[float], best: dict[str, float], measured: Callable[[dict[str, float]], float]
) -> dict[str, float]:
    """Return the settings with the value of one option at which going on, up or down, would make the ranking no better."""
    for step in (1, -1):
        start = values.index(best[name])
        for value in values[start + 1 :] if step == 1 else values[:start][::-1]:
            other = best | {name: value}
            if measured(other) <= measured(best):
                break
            best = other
    return best


def gain(values: Table, before: Table) -> float:
    """Return how much better a metric has become, in standard errors of the difference, paired by user."""
    change = values - before
    error = change.std(ddof=1) / len(change) ** 0.5 if len(change) > 1 else 0.0
    return float(change.mean() / error) if error else 0.0


def simplex(parts: int, steps: int) -> Table:
    """Return all ways to share 1 in multiples of ``1 / steps``, float64, shape [ways, parts]."""
    counts = [each for each in product(range(steps + 1), repeat=parts - 1) if sum(each) <= steps]
    return np.array([(*each, steps - sum(each)) for each in counts], dtype=np.float64) / steps


def bagged(values: Table, mixtures: Table, samples: int = _SAMPLES) -> Table:
    """Return the mean, over bootstrap samples of the users, of the mixture that is best for the sample.

    Args:
        values: a metric of each user with each mixture, shape [mixtures, users]; the larger the better.
        mixtures: shape [mixtures, parts].
        samples: how many samples.

    Returns:
        Shape [parts]. Mixtures that are equally good for a sample count equally.
    """
    users = values.shape[1]
    weights = np.random.default_rng(0).multinomial(users, np.full(users, 1 / users), size=samples)
    means = values @ weights.T / users
    best = means >= means.max(0) - 1e-12
    found: Table = (mixtures.T @ best / best.sum(0)).mean(1)
    return found


def likeliest(scores: Table, relevant: Table) -> Table:
    """Return the weights by which a user's relevant items are likeliest.

    An item has the probability ``softmax(scores @ weights)`` among the user's candidates (the conditional logit of McFadden,
    1974). Each user counts the same.

    Args:
        scores: of each part, float64, shape [users, places, parts]; -inf where there is no candidate.
        relevant: bool, shape [users, places].

    Returns:
        Not negative, shape [parts]; all 0 if no relevant item is a candidate. The function is concave, so there is one best.
    """
    there: Table = np.isfinite(scores.sum(-1))
    relevant = relevant & there
    some = relevant.sum(1) > 0
    there, relevant = there[some], relevant[some]
    scores = np.where(there[..., None], scores[some], 0.0)
    share = relevant / relevant.sum(1, keepdims=True)

    def loss(weights: Table) -> tuple[float, Table]:
        logits = np.where(there, scores @ weights, -np.inf)
        logits -= logits.max(1, keepdims=True)
        chances = np.exp(logits)
        sums = chances.sum(1, keepdims=True)
        logs = np.log(sums) - np.where(there, logits, 0.0)
        gradient = np.einsum("upk,up->k", scores, chances / sums - share)
        return float((share * logs).sum() + _RIDGE * (weights**2).sum()), gradient + 2 * _RIDGE * weights

    parts = scores.shape[-1]
    found: Table = minimize(loss, np.full(parts, 1 / parts), jac=True, method="L-BFGS-B", bounds=[(0, None)] * parts).x
    return found


class _Judge:
    """Ranks the items of the validation users by a path, or by mixtures of paths, and measures the rankings.

    Attributes:
        name: of the metric: ``valid_metric``, if it can be computed from a list alone, else NDCG@10.
        users: how many are looked at.
    """

    def __init__(self, trainer: Any, valid_data: Any) -> None:
        config = trainer.config
        metric, _, k = kind_of(str(config["valid_metric"]).lower())[1].partition("@")
        if metric not in _RANKINGS or not k.isdecimal():
            metric, k = "ndcg", "10"
        self.name, self.k = f"{metric}@{k}", int(k)
        self.show_progress = bool(config["show_progress"])
        self._evaluator = FastEvaluator(
            {"metrics": [metric], "topk": [self.k], "metric_decimal_place": 4, "exact_metrics": True}
        )
        self._trainer, self._data, self._uid = trainer, valid_data, trainer.model.USER_ID
        trainer.tot_item_num = valid_data._dataset.item_num
        self._score = (
            trainer._full_sort_batch_eval
            if isinstance(valid_data, FullSortEvalDataLoader)
            else trainer._neg_sample_batch_eval
        )
        rows = len(valid_data.dataset) if dist.is_initialized() else valid_data.sample_size
        self._stride = max(1, round(rows / _MOST_USERS))
        # Cold items have their scores from the others, so these decide, unless there is nothing else to be found. What ranks cold
        # items best ranks the others badly, and cold ones get their place among the others after this.
        kinds = getattr(getattr(valid_data, "candidates", None), "kinds", {})
        self._left_out: Tensor | None = kinds.get(COLD)
        if kinds and WARM not in kinds:
            others = torch.ones(trainer.tot_item_num, dtype=torch.bool)
            others[kinds[COLD]] = False
            self._left_out = others.nonzero()[:, 0]
        # Where negative items are drawn, each pass over the data draws others.
        self._drawn = None if isinstance(valid_data, FullSortEvalDataLoader) else list(self._batches())
        self.users = 0

    def _batches(self) -> Iterator[Any]:
        """Yield the batches of the validation part that are looked at."""
        return islice(self._data, 0, None, self._stride)

    @torch.no_grad()
    def _by_paths(
        self, paths: Sequence[str], take: Callable[[Tensor, Tensor], Tensor]
    ) -> Iterator[tuple[Tensor, list[Tensor], Tensor, Tensor]]:
        """Yield users of the validation part, what is taken of each path's scores, and the relevant items.

        Args:
            paths: which.
            take: a function of the users and a path's scores, shape [batch, n_items], of which memory need hold one path's.
        """
        model = self._trainer.model
        with evaluated_on(model, self._data):
            for batch in self._drawn if self._drawn is not None else self._batches():
                taken = []
                for path in paths:
                    with model.alone(path):
                        interaction, scores, rows, items = self._score(batch)
                    if self._left_out is not None:
                        scores[:, self._left_out.to(scores.device)] = -torch.inf
                        kept = ~torch.isin(items, self._left_out.to(items.device))
                        rows, items = rows[kept], items[kept]
                    users = torch.unique_consecutive(interaction[self._uid]).cpu()
                    taken.append(take(users, scores))
                    del scores
                yield users, taken, rows, items

    def collect(self, paths: Sequence[str]) -> None:
        """Take the items that each path ranks first, corrected for popularity as the mixture, as the candidates of each user."""
        model, parts = self._trainer.model, []
        n_items = self._trainer.tot_item_num
        correction = model.with_padding(torch.zeros(1, model.n_real_items, device=model.device))[0]
        depth = min(max(_DEPTH, 3 * self.k), n_items)

        def best(_: Tensor, scores: Tensor) -> Tensor:
            places: Tensor = (scores + correction.to(scores)).topk(depth).indices
            return places

        for users, taken, rows, items in self._by_paths(paths, best):
            first = torch.cat(taken, 1).sort(1).values
            again = first[:, 1:] == first[:, :-1]
            first[:, 1:].masked_fill_(again, 0)  # each item once: the padding item stands for the others
            first = first.sort(1, descending=True).values
            if len(items):
                marked, relevant = hits(first, rows, items, n_items)
                parts.append((users, first, marked, relevant, correction[first]))
        found = _gathered(parts)
        found = [table[found[3] > 0] for table in found]
        if len(found[0]) > _MOST_USERS:  # batches are large
            kept = np.linspace(0, len(found[0]) - 1, _MOST_USERS).round().astype(np.int64)
            found = [table[kept] for table in found]
        self._users, *tables = map(torch.from_numpy, found)
        self.users = len(self._users)
        width = max(self.k, int((tables[0] > 0).sum(1).max()))
        self._first, self._hits, self._relevant, self._corrections = (
            table[:, :width].contiguous() if table.ndim > 1 else table for table in tables
        )

    def scores_of(self, path: str) -> Tensor:
        """Return a path's scores of the candidates, float32, shape [users, places]."""

        def of_candidates(users: Tensor, scores: Tensor) -> Tensor:
            mine = torch.isin(users, self._users)
            first = self._first[torch.searchsorted(self._users, users[mine])].to(scores.device)
            return scores[mine.to(scores.device)].gather(1, first)

        found = self._by_paths([path], of_candidates)
        parts = [(users[torch.isin(users, self._users)], taken[0]) for users, taken, _, _ in found]
        return torch.from_numpy(_gathered(parts)[1])

    @property
    def corrections(self) -> Table:
        """What the correction for popularity adds to the scores of the candidates, float64, shape [users, places]."""
        return self._corrections.double().numpy()

    @property
    def relevant(self) -> Table:
        """Which candidates are relevant, bool, shape [users, places]."""
        return self._hits.numpy() > 0

    def nearest(self, scores: Sequence[Tensor]) -> Table:
        """Join what :meth:`scores_of` returned for some paths, with the items alone that one of them ranks among its first ``k``.

        The metric sees no others, and their likelihood would decide, for they are many.

        Returns:
            Float64, shape [users, places, paths]; -inf at the places of other items.
        """
        found = torch.stack(list(scores), -1).double().numpy()
        found[self._first.numpy() == 0] = -np.inf
        ranked = found + self.corrections[..., None]
        last = np.partition(ranked, -self.k, axis=1)[:, -self.k]
        found[(ranked < last[:, None]).all(-1)] = -np.inf
        return found

    def mixed(self, parts: Iterable[tuple[Tensor, float]]) -> Table:
        """Return the metric of each user by a mixture of scores of the candidates, float64, shape [users]."""
        scores = self._corrections.clone()
        for part, share in parts:
            if share:  # scores may be infinite
                scores.add_(part, alpha=share)
        best = scores.topk(self.k).indices
        return self._measured(self._hits.gather(1, best).numpy(), self._relevant.numpy())

    def _measured(self, found: Table, relevant: Table) -> Table:
        lists = DataStruct()
        lists.set("rec.topk", torch.from_numpy(np.concatenate([found, relevant[:, None]], 1)).long())
        return self._evaluator.evaluate(lists).per_user[self.name]


def _gathered(parts: Sequence[tuple[Tensor, ...]]) -> list[Table]:
    """Join tables by rows of users, those of all processes, and order them by user, each once."""
    tables = [torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True)]
    if dist.is_initialized():
        of_all: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(of_all, tables)
        tables = [np.concatenate(column) for column in zip(*of_all, strict=True)]
    _, places = np.unique(tables[0], return_index=True)
    return [table[places] for table in tables]
