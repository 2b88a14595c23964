"""Scores for histories that a model was not trained on.

This package's models have such scores. Some of RecBole's do, too (``_ADAPTERS``), and so do subclasses of these that change
nothing that the adapter relies on. Any other class declares them by a method
(:class:`~recbole_vae.model.capabilities.ScoresHistories`).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from recbole_vae.data import padding
from recbole_vae.data.histories import Histories
from recbole_vae.errors import ConfigError
from recbole_vae.model.base import HistoryRecommender
from recbole_vae.model.capabilities import Capabilities, ScoresHistories
from recbole_vae.model.registry import recboles_class


def score_histories(model: Any, histories: Histories) -> Tensor:
    """Score all items for histories of any users.

    RecBole's models score by their own ``full_sort_predict``, which finds the histories in place of the training data.

    Args:
        model: a trained model.
        histories: batch of histories, of the model's internal item ids. RecBole's models ignore the weights.

    Returns:
        Shape [batch, n_items].

    Raises:
        ConfigError: the model cannot score a history (see :func:`why_not`).
    """
    if isinstance(model, HistoryRecommender):
        return model.score(histories.to(model.device))
    own = {"knn_method": getattr(model, "method", None), "time-aware": getattr(model, "time_aware", None)}
    reason = why_not(type(model), own)
    if reason:
        raise ConfigError(reason)
    scores: Tensor
    device = model.device
    if isinstance(model, ScoresHistories):
        scores = model.score_histories(histories.to(device))
    else:
        users = {model.USER_ID: torch.arange(len(histories), device=device)}
        with _ADAPTERS[recboles_class(type(model)).__name__](model, histories):
            scores = type(model).full_sort_predict(model, users)  # the class's: evaluated_on replaces the model's
    return scores.view(len(histories), -1)


@contextlib.contextmanager
def evaluated_on(model: Any, part: Any) -> Iterator[None]:
    """Let a model's ``full_sort_predict`` score users as a part of the data is evaluated, in this block.

    Args:
        model: a model of this package, or of RecBole.
        part: its dataloader. Users are scored by its ``fold_in`` instead of their training histories, if it has one, and items
            that its ``candidates`` bar have ``-inf``.
    """
    histories, candidates = fold_in_of(model, part), getattr(part, "candidates", None)
    if histories is None and candidates is None:
        yield
        return

    def full_sort_predict(interaction: Any) -> Tensor:
        scores: Tensor
        if histories is None:
            scores = type(model).full_sort_predict(model, interaction)  # the class's: this one replaces the model's
        else:
            users = interaction[model.USER_ID].to(histories.indptr.device)
            scores = score_histories(model, histories[users])
        if candidates is not None:
            scores = scores.view(-1, model.n_items)
            scores[:, candidates.barred.to(scores.device)] = -torch.inf
        return scores.view(-1)

    with _replaced(model, full_sort_predict=full_sort_predict):
        yield


def fold_in_of(model: Any, part: Any) -> Histories | None:
    """Return the histories by which the held-out users of a part are scored, with their profiles where a model reads these.

    Args:
        model: of this package, or of RecBole.
        part: a dataloader, perhaps with ``fold_in``. It keeps the profiles for the next evaluation of the same model.

    Raises:
        DataError: the ``.user`` file is missing or damaged.
    """
    histories: Histories | None = getattr(part, "fold_in", None)
    space = getattr(model, "user_space", None)
    if histories is None or space is None:
        return histories
    kept: tuple[Any, Histories] | None = vars(part).get("_with_profiles")
    if kept is None or kept[0] is not space:
        from recbole_vae.data.features import profiles_by

        kept = space, replace(histories, profiles=profiles_by(space, part._dataset))
        part._with_profiles = kept
    return kept[1]


def why_not(model: type, options: Mapping[str, Any] | None = None) -> str | None:
    """Return why a class in RecBole's style cannot score histories of users it was not trained on, or None if it can.

    Args:
        model: the class.
        options: its options, of which ``knn_method`` and ``time-aware`` count.
    """
    options = options or {}
    if issubclass(model, ScoresHistories):
        return None
    base = recboles_class(model)
    adapter = _ADAPTERS.get(base.__name__)
    cannot = f"{model.__name__} cannot score users who were not in the training data"
    if adapter is None:
        return (
            f"{cannot}: RecBole's interface has scores for training users only. Of RecBole's models, these can: "
            f"{', '.join(_ADAPTERS)}. Choose one, or another split in eval_args; a model of your own can have a method "
            "score_histories(histories)."
        )
    if base.__name__ == "ItemKNN" and options.get("knn_method") == "user":
        return f"{model.__name__} with knn_method: user compares training users; held-out users need knn_method: item."
    if base.__name__ in ("DiffRec", "LDiffRec") and options.get("time-aware"):
        return (
            f"{model.__name__} with time-aware: True weighs each history by its times, which those of other users lack here; "
            "set time-aware: False, or choose another split in eval_args."
        )
    relied_on = _RELIED_ON | ({"__init__"} if adapter in _REPLACE_WHAT_INIT_KEEPS else set())
    for each in model.__mro__[: model.__mro__.index(base)]:
        changed = sorted(relied_on & vars(each).keys())
        if changed:
            return (
                f"{cannot}: {each.__name__} overrides {changed[0]} of RecBole's {base.__name__}, so they might not be scored as "
                "the training users are. Give it a method score_histories(histories), or choose another split in eval_args."
            )
    return None


class HistoryScorer(Capabilities):
    """A model in RecBole's style behind the interface of this package's: histories in, scores out. It has no capability.

    Args:
        model: a trained model for which :func:`why_not` is None.
        histories: the training histories; row = RecBole's internal user id.

    Attributes:
        options, histories, popularity: see :class:`~recbole_vae.model.base.HistoryRecommender`; there are no weights.
    """

    options = SimpleNamespace(value_field=None)

    def __init__(self, model: Any, histories: Histories) -> None:
        self.model, self.device, self.n_items = model.eval(), model.device, model.n_items
        self.USER_ID, self.ITEM_ID = model.USER_ID, model.ITEM_ID
        self.n_real_items = padding.real(self.n_items)
        self.histories = histories.to(model.device)
        shares = self.histories.counts(self.n_real_items) / max(1, padding.real(len(histories)))
        self.popularity = padding.with_padding(shares)
        self._scoring = threading.Lock()  # the adapters change the model meanwhile

    def eval(self) -> HistoryScorer:
        """Return the model, which is in evaluation mode."""
        return self

    def score(self, histories: Histories) -> Tensor:
        """Score all items for histories, float32, shape [batch, n_items]; item 0, RecBole's padding, has ``-inf``."""
        with self._scoring:
            scores = score_histories(self.model, histories).float().to(self.device)
        return padding.with_padding(scores[:, padding.REAL])

    ranking_scores = HistoryRecommender.ranking_scores


def as_history_model(model: Any, histories: Histories) -> Any:
    """Return a :class:`HistoryScorer` whose class has the name of the model's: errors and reports name models by class."""
    return type(type(model).__name__, (HistoryScorer,), {})(model, histories)


@contextlib.contextmanager
def _replaced(model: Any, **values: Any) -> Iterator[None]:
    """Replace attributes of a model, or methods, in this block."""
    before = {name: model.__dict__[name] for name in values if name in model.__dict__}
    model.__dict__.update(values)
    try:
        yield
    finally:
        for name in values:
            del model.__dict__[name]
        model.__dict__.update(before)


def _matrix(model: Any, histories: Histories) -> Any:
    """Return histories as SciPy's sparse rows, as RecBole's ``inter_matrix`` has them."""
    return Histories(histories.indptr, histories.indices).to_scipy(padding.real(model.n_items), padded=True)


def _as_it_is(model: Any, histories: Histories) -> Any:
    return contextlib.nullcontext()  # the same for all


def _by_matrix(model: Any, histories: Histories) -> Any:
    return _replaced(model, interaction_matrix=_matrix(model, histories))


def _by_neighbours(model: Any, histories: Histories) -> Any:
    return _replaced(model, pred_mat=_matrix(model, histories).dot(model.w).tocsr())


def _by_projection(model: Any, histories: Histories) -> Any:
    # Kept when the model was made; see plugin/nceplrec.py.
    embeddings = torch.from_numpy(_matrix(model, histories) @ model.item_projection).to(model.device)
    return _replaced(model, user_embeddings=embeddings)


def _by_rows(model: Any, histories: Histories) -> Any:
    def get_rating_matrix(user: Tensor) -> Tensor:
        batch = histories[user.to(histories.indptr.device)]
        rows = torch.zeros(len(batch), model.n_items)
        rows[batch.rows().cpu(), batch.indices.cpu()] = 1.0
        return rows.to(model.device)

    return _replaced(model, get_rating_matrix=get_rating_matrix)


_ADAPTERS: dict[str, Callable[[Any, Histories], Any]] = {
    "Pop": _as_it_is,
    "Random": _as_it_is,
    "ItemKNN": _by_neighbours,
    "EASE": _by_matrix,
    "SLIMElastic": _by_matrix,
    "ADMMSLIM": _by_matrix,
    "NCEPLRec": _by_projection,
    "MultiVAE": _by_rows,
    "MultiDAE": _by_rows,
    "RecVAE": _by_rows,
    "MacridVAE": _by_rows,
    "RaCT": _by_rows,
    "DiffRec": _by_rows,
    "LDiffRec": _by_rows,
}
"""RecBole's models that can score a history, and how they are given one."""

_RELIED_ON = {
    "full_sort_predict", "get_rating_matrix", "build_histroy_items", "interaction_matrix", "pred_mat", "user_embeddings",
}  # fmt: skip
"""What the adapters call or replace. A subclass that has its own is not known to work with them."""

_REPLACE_WHAT_INIT_KEEPS = (_by_matrix, _by_neighbours, _by_projection)
"""Adapters that replace what ``__init__`` made of the training histories, which the ``__init__`` of a subclass may change."""
