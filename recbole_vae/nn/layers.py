"""Layers of the encoders and decoders."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "sigmoid": nn.Sigmoid,
    "elu": nn.ELU,
}
"""The activation functions that a configuration may name."""


def init_linear(weight: Tensor, bias: Tensor) -> None:
    """Initialise a layer as the authors of Mult-VAE do: Xavier-uniform weights, biases from N(0, 0.001^2) within 2 deviations."""
    nn.init.xavier_uniform_(weight)
    nn.init.trunc_normal_(bias, std=0.001, a=-0.002, b=0.002)


def linear(in_features: int, out_features: int) -> nn.Linear:
    """Return a linear layer, initialised by :func:`init_linear`."""
    layer = nn.Linear(in_features, out_features)
    init_linear(layer.weight, layer.bias)
    return layer


class GatedLinear(nn.Module):
    """A gated linear unit: ``(x W + b) * sigmoid(x V + c)``.

    Reference: Yann N. Dauphin, Angela Fan, Michael Auli, David Grangier: Language Modeling with Gated Convolutional Networks.
    ICML 2017, equation 1.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.both = linear(in_features, 2 * out_features)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the unit; shape [batch, in_features] to [batch, out_features]."""
        return F.glu(self.both(x), dim=1)


class SparseLinear(nn.Module):
    """A linear layer on a batch of sparse rows, ``x @ weight + bias``, without making a dense row.

    Its cost grows with the number of entries of ``x``, not with its width.

    Args:
        in_features: width of the sparse rows.
        out_features: width of the output.
        sparse: whether the gradient of ``weight`` is a sparse tensor, with the rows of the columns that occur.
    """

    item_dims: ClassVar[dict[str, tuple[int, ...]]] = {"weight": (0,)}

    def __init__(self, in_features: int, out_features: int, *, sparse: bool = False) -> None:
        super().__init__()
        self.sparse = sparse
        self.weight = nn.Parameter(torch.empty(in_features, out_features))
        self.bias = nn.Parameter(torch.empty(out_features))
        init_linear(self.weight, self.bias)

    def extra_repr(self) -> str:
        """Describe the layer as torch does its own."""
        in_features, out_features = self.weight.shape
        return f"in_features={in_features}, out_features={out_features}"

    def forward(self, indices: Tensor, values: Tensor, offsets: Tensor) -> Tensor:
        """Apply the layer to rows in CSR form.

        Args:
            indices: column of each entry, int, shape [nnz].
            values: value of each entry, shape [nnz].
            offsets: where each row's entries start, and ``nnz`` at the end; dtype of ``indices``, shape [batch + 1].

        Returns:
            Shape [batch, out_features]. A row with no entries gives the bias.
        """
        product: Tensor = SparseProduct.apply(  # type: ignore[no-untyped-call]
            indices, values, offsets, self.weight, self.sparse
        )
        return product + self.bias


class SparseProduct(torch.autograd.Function):
    """The product of sparse rows and a dense matrix. Its gradient is a sparse product, too: that of the transposed rows.

    Torch's own gradient of ``embedding_bag`` adds entry by entry to a table of zeros, which takes several times as long.
    """

    @staticmethod
    def forward(ctx: Any, indices: Tensor, values: Tensor, offsets: Tensor, weight: Tensor, sparse: bool) -> Tensor:
        ctx.save_for_backward(indices, values, offsets)
        ctx.in_features, ctx.sparse = len(weight), sparse
        return bag(indices, values, offsets, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        indices, values, offsets = ctx.saved_tensors
        rows = torch.repeat_interleave(offsets.diff(), output_size=len(indices))
        if ctx.sparse:
            columns, rows, values, offsets = by_column(indices, rows, values)
            in_rows = bag(rows, values, offsets, gradients[0])
            return None, None, None, row_gradient(columns, in_rows, ctx.in_features), None
        ordered, order = indices.sort()
        bounds = torch.arange(ctx.in_features + 1, dtype=indices.dtype, device=indices.device)
        offsets = torch.searchsorted(ordered, bounds)
        return None, None, None, bag(rows[order], values[order], offsets.to(rows.dtype), gradients[0]), None


def bag(indices: Tensor, values: Tensor, offsets: Tensor, weight: Tensor) -> Tensor:
    """Return the product of sparse rows (see :meth:`SparseLinear.forward`) and a dense matrix."""
    return F.embedding_bag(indices, weight, offsets, mode="sum", per_sample_weights=values, include_last_offset=True)


def by_column(columns: Tensor, rows: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Transpose the entries of a sparse matrix, each of shape [nnz].

    Returns:
        The columns that occur, ascending; row and value of each entry, ordered by column; and where the entries of each column
        start, and ``nnz`` at the end.
    """
    ordered, order = columns.sort(stable=True)
    occurring, lengths = torch.unique_consecutive(ordered, return_counts=True)
    offsets = torch.zeros(len(occurring) + 1, dtype=rows.dtype, device=rows.device)
    torch.cumsum(lengths, 0, out=offsets[1:])
    return occurring, rows[order], values[order], offsets


def row_gradient(rows: Tensor, values: Tensor, length: int) -> Tensor:
    """Return a sparse tensor of ``length`` rows, with ``values`` in ``rows`` (ascending, without repetition)."""
    shape = (length, *values.shape[1:])
    return torch.sparse_coo_tensor(rows.unsqueeze(0), values, shape, is_coalesced=True, check_invariants=False)


class FixedWeight(nn.Module):
    """A module whose ``weight`` is computed from the training histories: no parameter, and not in ``state_dict``."""

    weight: Tensor
    shared: ClassVar[tuple[str, ...]] = ("weight",)
    """Attributes that never change; copies share them."""

    def fix(self, weight: Tensor) -> None:
        """Set the weight, once."""
        self.register_buffer("weight", weight, persistent=False)

    def __deepcopy__(self, memo: dict[int, Any]) -> FixedWeight:
        """Copy all but the ``shared`` attributes: RecBole deep-copies each model to count its operations."""
        memo.update({id(each): each for each in (getattr(self, name) for name in self.shared)})
        new = self.__class__.__new__(self.__class__)
        new.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return new


_COLUMNS = 1024
"""Outputs that a CPU computes at once. A result that stays in its cache takes a third less time."""


def wide_linear(features: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Apply a linear layer with many outputs; without a gradient.

    Args:
        features: shape [batch, width].
        weight: shape [n_items, width].
        bias: shape [n_items].
        dtype: of the products and the result; by default that of ``features``.

    Returns:
        ``features @ weight.T + bias``, shape [batch, n_items].
    """
    features = features.to(dtype or features.dtype)
    if features.is_cuda or len(features) == 1:
        return torch.addmm(bias.to(features.dtype), features, weight.to(features.dtype).t())
    result = features.new_empty(len(features), len(weight))
    for part, of_weight, of_bias in zip(
        result.split(_COLUMNS, 1), weight.split(_COLUMNS), bias.split(_COLUMNS), strict=True
    ):
        part.copy_(torch.addmm(of_bias.to(features.dtype), features, of_weight.to(features.dtype).t()))
    return result


def dense_residual(sums: Tensor, layers: Iterable[nn.Module], norms: Iterable[nn.Module]) -> Tensor:
    """Apply hidden layers, each of which also gets the sum of all earlier ones (Shenbin et al. 2020).

    ``h_1 = N(swish(W_1 x))`` and ``h_k = N(swish(W_k h_(k-1) + h_1 + ... + h_(k-1)))``, where ``N`` is layer normalisation (Ba
    et al. 2016).

    Args:
        sums: ``W_1 x``, shape [batch, width].
        layers: the other ``W``.
        norms: the normalisations, one more than ``layers``.

    Returns:
        The last ``h``, shape [batch, width].
    """
    first, *others = norms
    state: Tensor = first(F.silu(sums))
    total = state
    for layer, norm in zip(layers, others, strict=True):
        state = norm(F.silu(layer(state) + total))
        total = total + state
    return state


def mlp(sizes: Sequence[int], activation: str, *, activate_last: bool) -> nn.Sequential:
    """Return linear layers of the given sizes with an activation between them, and after the last if ``activate_last``.

    Args:
        sizes: widths, from the input's to the output's; a single width gives the identity.
        activation: a name in :data:`ACTIVATIONS`.
        activate_last: whether the activation follows the last layer too.
    """
    layers: list[nn.Module] = []
    for position, (width_in, width_out) in enumerate(pairwise(sizes)):
        layers.append(linear(width_in, width_out))
        if activate_last or position < len(sizes) - 2:
            layers.append(ACTIVATIONS[activation]())
    return nn.Sequential(*layers)
