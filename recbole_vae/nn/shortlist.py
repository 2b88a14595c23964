"""Which items can be among the first k of a linear layer with many outputs, by products in bfloat16 with a bound on their error.

A processor that multiplies bfloat16 in hardware finds them in a third of the time of all float32 products. The float32 products
are needed for these items only.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from recbole_vae.nn.layers import wide_linear

_GROUP = 32
"""Items, a power of two, of which only the best one counts when a lower bound of the k-th best score is sought."""
_FEWEST_ROWS = 32
"""Of fewer rows, the products of some columns need not be summed in the order of those of all columns."""
_AT_ONCE = 1024
"""Items of which whole tables are held in a processor's cache."""
_COLUMNS = 64
"""So many columns at a time are multiplied in float32, for the same reason."""
_WORTH = 0.4
"""Above this share of the items, float32 products of all take no longer."""
_ROUNDING = 2.0**-8
"""Bounds the relative error of rounding a number to bfloat16, which has 8 binary digits."""
_LOST = 1e-16
"""Bounds what a norm loses because the squares of numbers below 1e-19 are zero in float32, at widths up to a million."""
_LARGEST = 1e30
"""Scores whose bound is larger, or not a number, are left to float32."""


@dataclass
class Shortlist:
    """The scores of the items that can be among the first k of some row of a batch.

    Attributes:
        scores: float32, shape [batch, shortlisted].
        columns: of the shortlisted items, int64, ascending, shape [shortlisted].
        n_columns: number of all items.
    """

    scores: Tensor
    columns: Tensor
    n_columns: int


class Shortlister:
    """Finds the shortlists of one linear layer, whose weights must not change meanwhile.

    Let ``s = x w + b`` be a score, and ``u`` the same in bfloat16: with ``x`` and ``w`` rounded to ``x'`` and ``w'``, and ``b``
    as the sum ``b'`` of two rounded numbers. By the inequality of Cauchy and Schwarz, ``|s - u|`` is at most
    ``e = |x - x'| |w| + |x'| |w - w'| + |b - b'|`` and the rounding of sums. The norms of ``w`` are the largest over the items.
    If ``t`` is at most the k-th best ``u`` of a row, k items have ``s >= t - e``, and each item among the first k has
    ``u >= t - 2 e``. All others are left out.

    Args:
        weight: float32, shape [n_items, width].
        bias: float32, shape [n_items].
        correction: added to each score after the product, float32, shape [n_items]; None for nothing.
    """

    def __init__(self, weight: Tensor, bias: Tensor, correction: Tensor | None = None) -> None:
        self.weight, self.bias, self.correction = weight, bias, correction
        total = bias if correction is None else bias + correction
        high = total.bfloat16()
        rest = total - high.float()
        low = rest.bfloat16()
        width = weight.shape[1]
        self._width = width + 2
        self._table = weight.new_zeros(len(weight), self._width + -self._width % 32, dtype=torch.bfloat16)
        self._table[:, width], self._table[:, width + 1] = high, low
        norms, errors = [], []
        for part, rounded in zip(weight.split(_AT_ONCE), self._table[:, :width].split(_AT_ONCE), strict=True):
            rounded.copy_(part)
            norms.append(torch.linalg.vector_norm(part, dim=1).max())
            errors.append(torch.linalg.vector_norm(part - rounded.float(), dim=1).max())
        self._norm, self._error = torch.stack(norms).max() + _LOST, torch.stack(errors).max() + _LOST
        largest = bias.abs() if correction is None else bias.abs() + correction.abs()
        self._bias, self._bias_error = largest.max(), (rest - low.float()).abs().max()
        self.useless = False

    def __call__(self, features: Tensor, rows: Tensor, columns: Tensor, k: int) -> Shortlist | None:
        """Return the shortlist of a batch, or None where products of all items in float32 are the better way.

        The scores are the same numbers that :func:`~recbole_vae.nn.layers.wide_linear` gives for all items, as long as the
        library that multiplies sums in an order that does not depend on the column. (Else they differ by the rounding of a sum,
        and so can the order of items whose scores differ by no more. No item that can be among the first k is missing.)

        Args:
            features: the layer's input, float32, shape [batch, width].
            rows: row of each entry that is out of the question, int64, shape [entries].
            columns: its column, int64, shape [entries].
            k: length of the lists.
        """
        items = len(self.weight)
        if self.useless or len(features) < _FEWEST_ROWS or 4 * k * _GROUP > items:
            return None
        threshold, table = self._threshold(features, rows, columns, k)
        if threshold is None:
            return None
        parts = table.split(_AT_ONCE, 1)
        possible = torch.cat([(part >= threshold).view(torch.uint8).amax(0) for part in parts])
        count = int(possible.sum(dtype=torch.int64))
        if count > _WORTH * items:
            self.useless = True  # it will not be better in the next batch
            return None
        wanted = min(items, -(-count // _COLUMNS) * _COLUMNS)
        chosen = possible.topk(wanted).indices.sort().values  # the possible ones, and some that fill the last columns
        scores = wide_linear(features, self.weight[chosen], self.bias[chosen])
        if self.correction is not None:
            scores = scores + self.correction[chosen]
        place = torch.full((items,), wanted).index_copy_(0, chosen, torch.arange(wanted))
        places = place[columns]
        inside = places < wanted
        scores[rows[inside], places[inside]] = -torch.inf
        return Shortlist(scores, chosen, items)

    def _threshold(self, features: Tensor, rows: Tensor, columns: Tensor, k: int) -> tuple[Tensor | None, Tensor]:
        """Return what the bfloat16 scores of candidates must reach, bfloat16, shape [batch, 1], and these scores."""
        rounded = features.bfloat16()
        ones = rounded.new_ones(len(features), 2)
        table = F.pad(torch.cat((rounded, ones), 1), (0, -self._width % 32)) @ self._table.t()
        table[rows, columns] = -torch.inf
        size = _GROUP
        best = table[:, : table.shape[1] // size * size]
        while size > 1:  # halves against halves, which is several times as fast as amax
            size //= 2
            best = torch.maximum(*best.chunk(2, 1))
        # The best ones of k groups are k different items.
        kth = best.float().topk(k, sorted=True).values[:, -1:]
        norm, error = (
            torch.linalg.vector_norm(each, dim=1, keepdim=True) + _LOST
            for each in (features, features - rounded.float())
        )
        summed = 4 * (self._width + 8) * torch.finfo(torch.float32).eps  # of both sums, and of the norms themselves
        sizes = norm * self._norm + self._bias
        bound = (1 + summed) * (error * self._norm + (norm + error) * self._error + self._bias_error)
        bound = bound + summed * sizes + 1e-30
        if not bool((sizes < _LARGEST).all() and kth.isfinite().all()):
            return None, table
        return (kth - _ROUNDING * kth.abs() - 2 * bound).bfloat16(), table
