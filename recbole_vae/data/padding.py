"""RecBole's padding: id 0 is not a real item or user. Only this file knows its place.

A *column* is the place of a real item in a table that has no padding: a row of a weight matrix, a logit, a column of a sparse
table.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

PADDING = 0
"""The id that RecBole gives to no item, and to no user."""

REAL = slice(1, None)
"""The part of a list or table by RecBole's ids that belongs to real items or users."""

_Numbers = TypeVar("_Numbers", Tensor, NDArray[Any], int)


def columns(ids: _Numbers) -> _Numbers:
    """Return the columns of real items from RecBole's ids."""
    return ids - 1


def ids(columns: _Numbers) -> _Numbers:
    """Return RecBole's ids from the columns of real items."""
    return columns + 1


def real(number: int) -> int:
    """Return the number of real items or users from RecBole's number of ids (``n_items``, ``item_num``)."""
    return number - 1


def with_padding(table: Tensor, value: float = -torch.inf) -> Tensor:
    """Put ``value`` for the padding item before the columns, shape [..., items] to [..., n_items]."""
    return F.pad(table, (1, 0), value=value)
