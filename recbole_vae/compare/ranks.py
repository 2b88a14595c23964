"""Ranks of models over several data sets: tests, critical differences, and bootstrapped ranks.

Demsar, Statistical Comparisons of Classifiers over Multiple Data Sets, JMLR 7 (2006), gives the tests and the diagram. A cell is
a data set in a protocol; a value is the mean of a model there, of which more is better.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from recbole_vae.compare import statistics
from recbole_vae.compare.statistics import Floats
from recbole_vae.evaluation.holm import holm

SAMPLES = 1_000
"""Bootstrap samples of the users of each cell."""


def complete(values: Floats) -> tuple[list[int], list[int]]:
    """Choose models and cells such that each of these models has a value in each of these cells.

    The model or the cell with the largest share of missing values is left out, until none is missing; of equals the cell, for a
    cell that was not run yet is no reason to leave out a model.

    Args:
        values: shape [cells, models]; NaN where there is none.

    Returns:
        The cells and the models that are left.
    """
    missing = np.isnan(values)
    cells, models = list(range(missing.shape[0])), list(range(missing.shape[1]))
    while cells and models and (left := missing[np.ix_(cells, models)]).any():
        of_cells, of_models = left.mean(1), left.mean(0)
        if of_cells.max() >= of_models.max():
            del cells[int(of_cells.argmax())]
        else:
            del models[int(of_models.argmax())]
    return (cells, models) if cells and models else ([], [])


def ranks(values: Floats) -> Floats:
    """Return the rank of each model in each cell: 1 for the best, the mean of the ranks for equals; shape [..., models].

    Values that differ by rounding are equal.
    """
    found: Floats = stats.rankdata(-np.round(values, statistics.DECIMALS), axis=-1)
    return found


@dataclass
class Friedman:
    """Friedman's test of equal models, and what follows from it.

    Attributes:
        mean_ranks: shape [models].
        cells: number of them.
        chi2: the statistic, corrected for ties; ``p``: by the chi-square distribution.
        f: that of Iman and Davenport (1980); ``p_f``: by the F distribution with k - 1 and (k - 1)(N - 1) degrees of freedom.
            NaN where all cells agree, for it is infinite there.
        critical: Nemenyi's critical difference of two mean ranks.
        alpha: level of the critical difference.
    """

    mean_ranks: Floats
    cells: int
    chi2: float
    p: float
    f: float
    p_f: float
    critical: float
    alpha: float

    @property
    def rough(self) -> bool:
        """Whether there are too few cells or models for the chi-square distribution: N <= 10 or k <= 5 (Demsar, 3.2.2)."""
        return self.cells <= 10 or len(self.mean_ranks) <= 5


def friedman(values: Floats, alpha: float = 0.05) -> Friedman:
    """Test whether models differ over cells (Demsar, 3.2.2).

    Args:
        values: shape [cells, models], at least 2 and 3 of them, without NaN.
        alpha: level of the critical difference.
    """
    cells, models = values.shape
    mean_ranks = ranks(values).mean(0)
    if np.ptp(ranks(values), axis=1).max() == 0:  # all are equal everywhere; SciPy has 0 / 0
        return Friedman(mean_ranks, cells, 0.0, 1.0, 0.0, 1.0, nemenyi(models, cells, alpha), alpha)
    chi2, p = map(float, stats.friedmanchisquare(*np.round(values, statistics.DECIMALS).T))
    rest = cells * (models - 1) - chi2
    f = (cells - 1) * chi2 / rest if rest > 1e-9 else float("nan")
    p_f = float(stats.f.sf(f, models - 1, (models - 1) * (cells - 1)))
    return Friedman(mean_ranks, cells, chi2, p, f, p_f, nemenyi(models, cells, alpha), alpha)


def nemenyi(models: int, cells: int, alpha: float) -> float:
    """Return the least difference of two mean ranks that is significant: ``q sqrt(k (k + 1) / (6 N))`` (Demsar, 3.2.2)."""
    q = stats.studentized_range.ppf(1 - alpha, models, np.inf) / np.sqrt(2)
    return float(q * np.sqrt(models * (models + 1) / (6 * cells)))


def pairs(values: Floats) -> list[tuple[int, int, float, float]]:
    """Compare all pairs of models by Wilcoxon's signed-rank test over cells.

    Args:
        values: shape [cells, models], without NaN.

    Returns:
        Both models, the p-value, and the p-value after Holm's correction over all pairs.
    """
    both = list(itertools.combinations(range(values.shape[1]), 2))
    values = np.round(values, statistics.DECIMALS)
    p = statistics.wilcoxon(np.stack([values[:, a] - values[:, b] for a, b in both], axis=1))
    return [(a, b, float(x), float(y)) for (a, b), x, y in zip(both, p, holm(p), strict=True)]


def groups(mean_ranks: Sequence[float], critical: float) -> list[list[int]]:
    """Return the largest groups of models whose mean ranks differ by less than the critical difference, each best first.

    A group of one is left out, and so is a group that is part of another.
    """
    order = sorted(range(len(mean_ranks)), key=lambda model: mean_ranks[model])
    found: list[list[int]] = []
    for start, first in enumerate(order):
        group = [model for model in order[start:] if mean_ranks[model] - mean_ranks[first] < critical]
        if len(group) > 1 and not (found and set(group) <= set(found[-1])):
            found.append(group)
    return found


def letters(order: Sequence[str], differ: Collection[frozenset[str]]) -> dict[str, str]:
    """Give letters to rows so that two rows share one if and only if they do not differ significantly.

    The columns are made by insertion and absorption (Piepho, Journal of Computational and Graphical Statistics 13, 2004).

    Args:
        order: labels, best first; ``a`` is of the group that begins first.
        differ: pairs of labels that differ.
    """
    columns = [frozenset(order)]
    for pair in sorted(differ, key=lambda each: sorted(map(list(order).index, each))):
        split = [
            part for column in columns for part in ([column - {one} for one in pair] if pair <= column else [column])
        ]
        columns = [each for each in dict.fromkeys(split) if not any(each < other for other in split)]
    places = {label: place for place, label in enumerate(order)}
    columns.sort(key=lambda column: sorted(places[label] for label in column))
    named = [(_letter(number), column) for number, column in enumerate(columns)]
    return {label: " ".join(name for name, column in named if label in column) for label in order}


def _letter(number: int) -> str:
    """Return a, ..., z, a1, ..."""
    return chr(ord("a") + number % 26) + (str(number // 26) if number >= 26 else "")


def interval(drawn: Floats, level: float = 0.95) -> tuple[Floats, Floats]:
    """Return the ends of the percentile intervals of each model, from bootstrapped ranks of shape [samples, models]."""
    tail = 50 * (1 - level)
    low, high = np.percentile(drawn, [tail, 100 - tail], axis=0)
    return low, high


def over_cells(drawn: Sequence[Floats], seed: int = 0) -> Floats:
    """Return bootstrapped mean ranks over cells, which are drawn with replacement, too.

    Args:
        drawn: bootstrapped ranks of each cell, shape [samples, models].
        seed: of the generator.

    Returns:
        Shape [samples, models].
    """
    cube = np.stack(drawn)  # [cells, samples, models]
    cells, samples, _ = cube.shape
    picks = np.random.default_rng(seed).integers(cells, size=(samples, cells))
    found: Floats = cube[picks, np.arange(samples)[:, None]].mean(1)
    return found
