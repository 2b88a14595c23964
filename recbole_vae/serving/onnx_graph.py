"""Graphs of ONNX: a builder, and the translation of what :mod:`torch.fx` traced into nodes."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch import Tensor, fx, nn
from torch.nn import functional as F

from recbole_vae.errors import DataError

OPSET, IR_VERSION = 17, 8
"""Of 2022, the first with LayerNormalization: ONNX Runtime reads them from 1.12 on."""

LARGEST = 2**31 - 2**20
"""Bytes of a file: those of a protobuf message, less something for what is not a table."""

Value = str | int | float | list[int] | NDArray[Any] | Tensor
"""The name of a tensor in the graph, or a constant: integers are int64, other Python numbers are float32."""

_SMALL = 64
"""Numbers up to which constants of equal content are stored once. Larger ones are known by their place in memory."""


class Constants:
    """The constants of a graph and of its loops' bodies, each stored once.

    Attributes:
        tensors: what is stored.
    """

    def __init__(self) -> None:
        self.tensors: list[onnx.TensorProto] = []
        self._names: dict[Any, str] = {}
        self._kept: list[Any] = []  # so that no other array takes the place in memory of one of these
        self._bytes = 0

    def name(self, value: int | float | list[int] | NDArray[Any] | Tensor) -> str:
        """Store a constant if it is not there yet, and return its name.

        Raises:
            DataError: the graph is too large for a file.
        """
        if isinstance(value, Tensor):
            array = value.detach().numpy()
        elif isinstance(value, np.ndarray | np.generic):
            array = np.asarray(value)
        else:
            array = np.asarray(value, dtype=np.float32 if isinstance(value, float) else np.int64)
        place = array.tobytes() if array.size <= _SMALL else (array.ctypes.data, array.strides)
        key = place, array.dtype.str, array.shape
        if key not in self._names:
            self._bytes += array.nbytes
            if self._bytes > LARGEST:
                raise DataError(
                    f"the graph is larger than {LARGEST / 1e9:.1f} GB, the most that a file of ONNX holds. Set --precision=int8, "
                    "which takes a quarter; or train with fewer items (item_inter_num_interval), with a smaller "
                    "latent_dimension, or HybridVAE with linear_neighbours: 100."
                )
            self._names[key] = f"constant{len(self.tensors)}"
            self._kept.append(array)
            self.tensors.append(numpy_helper.from_array(np.ascontiguousarray(array), self._names[key]))
        return self._names[key]


class Graph:
    """A graph under construction. Each method returns the names of what its nodes compute.

    Args:
        outer: the graph in which this one is a loop's body. Both share names and constants.
        rounded: tables of this many rows are stored as integers of 8 bits.
    """

    def __init__(self, outer: Graph | None = None, *, rounded: int = 0) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: Constants = outer.constants if outer else Constants()
        self._numbers: Iterator[int] = outer._numbers if outer else count()
        self._rounded: int = outer._rounded if outer else rounded

    def add(self, operation: str, *inputs: Value, outputs: int = 1, name: str = "", **attributes: Any) -> Any:
        """Add a node; return the name of its output, or a list of names if there are several.

        Args:
            operation: of ONNX's operators.
            inputs: names and constants; "" is an input that is left out.
            outputs: how many there are.
            name: of the node, which ONNX Runtime prints if it fails.
            attributes: of the operator.
        """
        names = [f"{operation}{next(self._numbers)}" for _ in range(outputs)]
        self.put(operation, *inputs, names=names, name=name or names[0], **attributes)
        return names[0] if outputs == 1 else names

    def put(self, operation: str, *inputs: Value, names: list[str], name: str, **attributes: Any) -> None:
        """Add a node whose outputs have given names; for the other arguments see :meth:`add`."""
        given = [each if isinstance(each, str) else self.constants.name(each) for each in inputs]
        self.nodes.append(helper.make_node(operation, given, names, name=name, **attributes))

    def linear(self, features: str, weight: Tensor, bias: Tensor) -> str:
        """Add ``features @ weight.T + bias``; ``weight`` has shape [n_outputs, width]."""
        if len(weight) != self._rounded:
            return str(self.add("Gemm", features, weight, bias, transB=1))
        rounded, scale = as_int8(weight.detach().numpy())
        table = self.add("DequantizeLinear", np.ascontiguousarray(rounded.T), scale[:, 0], axis=1)
        return str(self.add("Add", self.add("MatMul", features, table), bias))

    def rows(self, weight: Tensor, places: str) -> str:
        """Add the rows of a table at some places, int64, shape [n]; shape [n, width]."""
        if len(weight) != self._rounded:
            return str(self.add("Gather", weight, places))
        rounded, scale = as_int8(weight.detach().numpy())
        found = self.add("Cast", self.add("Gather", rounded, places), to=onnx.TensorProto.FLOAT)
        return str(self.add("Mul", found, self.add("Gather", scale, places)))


LAST = np.iinfo(np.int64).max
"""The end of a Slice that goes to the end."""


def as_int8(table: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round a table to integers from -127 to 127, and return them with the scale of each row, shape [rows, 1]."""
    scale = np.abs(table).max(1, keepdims=True, initial=0.0) / 127
    scale[scale == 0] = 1.0
    return np.rint(table / scale).astype(np.int8), scale


class UntranslatedError(Exception):
    """An operation has no translation. The argument is the operation."""


def translate(graph: Graph, traced: fx.GraphModule, given: Mapping[str, str]) -> str:
    """Add what was traced to a graph, and return the name of its result.

    Args:
        graph: where the nodes go.
        traced: of operations on tensors whose first dimension is the batch.
        given: the name of the tensor that stands for each argument.

    Raises:
        UntranslatedError: an operation is not among those that are known here.
    """
    found: dict[fx.Node, Any] = {}

    def value(argument: Any) -> Any:
        return fx.map_arg(argument, lambda node: found[node])

    for node in traced.graph.nodes:
        arguments, named = value(node.args), value(node.kwargs)
        if node.op == "placeholder":
            found[node] = given.get(node.target)
        elif node.op == "output":
            return str(arguments[0])
        elif node.op == "get_attr":
            found[node] = graph.constants.name(operator.attrgetter(node.target)(traced))
        else:
            of = [traced.get_submodule(str(node.target))] if node.op == "call_module" else []
            step = _STEPS.get(type(of[0]) if of else node.target)
            try:
                found[node] = step(graph, *of, *arguments, **named) if step else None
            except TypeError:  # an argument that the step does not have
                step = None
            if step is None:
                raise UntranslatedError(node.format_node())
    raise AssertionError("a traced graph ends with its output")


def _simple(operation: str) -> Callable[..., Any]:
    # A Python number in a formula is one of float32, whether or not it is written with a point.
    return lambda graph, *inputs: graph.add(operation, *(float(x) if isinstance(x, int) else x for x in inputs))


def _of_module(operation: str) -> Callable[..., Any]:
    return lambda graph, module, x: graph.add(operation, x)


def _linear(graph: Graph, layer: nn.Linear, x: str) -> Any:
    return graph.linear(x, layer.weight, layer.bias)


def _norm(graph: Graph, layer: nn.LayerNorm, x: str) -> Any:
    return graph.add("LayerNormalization", x, layer.weight, layer.bias, axis=-1, epsilon=layer.eps)


def _gelu(graph: Graph, layer: nn.GELU, x: str) -> Any:
    erf = graph.add("Erf", graph.add("Mul", x, 0.5**0.5))
    return graph.add("Mul", graph.add("Mul", x, 0.5), graph.add("Add", erf, 1.0))


def _elu(graph: Graph, layer: nn.ELU, x: str) -> Any:
    return graph.add("Elu", x, alpha=float(layer.alpha))


def _silu(graph: Graph, x: str, inplace: bool = False) -> Any:
    return graph.add("Mul", x, graph.add("Sigmoid", x))


def _glu(graph: Graph, x: str, dim: int = -1) -> Any:
    left, right = graph.add("Split", x, outputs=2, axis=dim)
    return graph.add("Mul", left, graph.add("Sigmoid", right))


def _chunk(graph: Graph, x: str, chunks: int, dim: int = 0) -> Any:
    return [x] if chunks == 1 else graph.add("Split", x, outputs=chunks, axis=dim)


def _cat(graph: Graph, tensors: Sequence[str], dim: int = 0) -> Any:
    return graph.add("Concat", *tensors, axis=dim)


def _item(graph: Graph, x: Any, place: Any) -> Any:
    """Take a part of a Split, or some columns of a table: all rows, and a slice with or without bounds."""
    if isinstance(x, list):
        return x[place]
    if not (isinstance(place, tuple) and len(place) == 2 and place[0] == slice(None) and place[1].step is None):
        raise UntranslatedError(f"the index {place}")
    start, stop = place[1].start or 0, LAST if place[1].stop is None else place[1].stop
    return graph.add("Slice", x, [start], [stop], [1])


def _clamp(graph: Graph, x: str, low: float, high: float | None = None) -> Any:
    return graph.add("Clip", x, float(low), *([] if high is None else [float(high)]))


def _sum(graph: Graph, x: str, dim: int, keepdim: bool = False) -> Any:
    return graph.add("ReduceSum", x, [dim], keepdims=int(keepdim))


def _std(graph: Graph, x: str, dim: int, keepdim: bool = False) -> Any:
    centred = graph.add("Sub", x, graph.add("ReduceMean", x, axes=[dim], keepdims=1))
    total = graph.add("ReduceSum", graph.add("Mul", centred, centred), [dim], keepdims=int(keepdim))
    size = graph.add("Gather", graph.add("Shape", x), dim)
    return graph.add(
        "Sqrt", graph.add("Div", total, graph.add("Cast", graph.add("Sub", size, 1), to=onnx.TensorProto.FLOAT))
    )


def _index_select(graph: Graph, x: str, dim: int, places: str) -> Any:
    return graph.add("Gather", x, places, axis=dim)


def _square(graph: Graph, x: str) -> Any:
    return graph.add("Mul", x, x)


def _logaddexp(graph: Graph, one: str, other: str) -> Any:
    gap = graph.add("Neg", graph.add("Abs", graph.add("Sub", one, other)))
    return graph.add("Add", graph.add("Max", one, other), graph.add("Softplus", gap))


_STEPS: dict[Any, Callable[..., Any]] = {
    nn.Linear: _linear, nn.LayerNorm: _norm, nn.Identity: lambda graph, module, x: x, nn.Tanh: _of_module("Tanh"),
    nn.ReLU: _of_module("Relu"), nn.Sigmoid: _of_module("Sigmoid"), nn.GELU: _gelu, nn.ELU: _elu,
    nn.SiLU: lambda graph, module, x: _silu(graph, x),
    F.silu: _silu, F.glu: _glu, torch.cat: _cat, torch.where: _simple("Where"), torch.logaddexp: _logaddexp,
    operator.add: _simple("Add"), operator.sub: _simple("Sub"), operator.mul: _simple("Mul"),
    operator.truediv: _simple("Div"), operator.neg: _simple("Neg"), operator.le: _simple("LessOrEqual"),
    operator.getitem: _item, operator.matmul: _simple("MatMul"),
    "chunk": _chunk, "clamp": _clamp, "clamp_min": _clamp, "sum": _sum, "square": _square, "sqrt": _simple("Sqrt"),
    "abs": _simple("Abs"), "index_select": _index_select, "std": _std,
}  # fmt: skip
"""What adds the nodes of each module, function or method: called with the graph, the module if it is one, and the arguments."""
