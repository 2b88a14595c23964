"""Export: a recommender as a graph of ONNX, which needs neither torch nor RecBole to run, and the files beside it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from scipy.sparse import csr_matrix
from torch import Tensor, fx, nn
from torch.nn import functional

from recbole_vae.data import padding
from recbole_vae.data.histories import LARGEST_WEIGHT
from recbole_vae.errors import ConfigError, DataError
from recbole_vae.model.capabilities import SparseLayer
from recbole_vae.model.registry import model_class, model_names
from recbole_vae.serving.onnx_graph import IR_VERSION, LAST, OPSET, Graph, UntranslatedError, translate
from recbole_vae.serving.recommender import Recommender
from recbole_vae.storage import checkpoint
from recbole_vae.storage.files import written_whole
from recbole_vae.version import __version__

FORMAT_VERSION = 1
FILES = ("model.onnx", "items.txt", "model.json")

_POPULAR = 100
"""Items that model.json names, for a service to fall back on."""

_TYPES = {
    "history": (TensorProto.INT64, ["entries"]), "weights": (TensorProto.FLOAT, ["entries"]),
    "offsets": (TensorProto.INT64, ["bounds"]), "k": (TensorProto.INT64, []),
    "items": (TensorProto.INT64, ["batch", "k"]), "scores": (TensorProto.FLOAT, ["batch", "k"]),
}  # fmt: skip
"""Dtype and shape of what goes into the graph and comes out of it."""


def check_can_be_exported(model: Any) -> None:
    """Raise a ConfigError unless a model can be written as a graph."""
    name = type(model).__name__
    if not model.can_be_exported:
        can = [each for each in model_names() if getattr(model_class(each), "can_be_exported", False)]
        raise ConfigError(f"{name} cannot be exported; of the registered models {', '.join(can)} can be.")
    if model.user_space is not None:
        raise ConfigError(
            f"{name} with user_features cannot be exported: the graph reads histories alone, no profiles. Train it without "
            "user_features, or serve it by recbole-vae serve."
        )


class _Dense(nn.Module):
    """What follows the sparse layers, for torch.fx to trace."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, first: Tensor, second: Tensor, unseen: Tensor) -> Tensor:
        model = self.model
        logits: Tensor = model.logits_of_sums((first, second)[: len(model.sparse_layers())], unseen)
        correction = model.corrected(torch.zeros(1, model.n_real_items))
        if correction.any():
            logits = logits + correction
        scores: Tensor = model.with_new(model.with_cold(logits))
        return scores


class _Tracer(fx.Tracer):
    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Go through modules that are not torch's own; they may have been made on the way, as ``layers[:-1]`` is."""
        if self.is_leaf_module(m, ""):
            return super().call_module(m, forward, args, kwargs)
        return forward(*args, **kwargs)


def _traced(model: Any) -> fx.GraphModule:
    root = _Dense(model)
    try:
        with torch.enable_grad():  # the decoder has a faster way without, which cannot be traced
            traced = fx.GraphModule(root, _Tracer().trace(root))
    except (TypeError, ValueError, RuntimeError) as error:  # such as fx.proxy.TraceError, which is a ValueError
        raise ConfigError(
            f"{type(model).__name__} cannot be exported: torch.fx cannot trace its logits_of_sums "
            f"({' '.join(str(error).split())[:200]})."
        ) from None
    for node in traced.graph.nodes:
        if node.op == "call_method" and node.target == "to":  # all is float32
            node.replace_all_uses_with(node.args[0])
    traced.graph.eliminate_dead_code()
    return traced


def build(model: Any, *, int8: bool = False) -> onnx.ModelProto:
    """Build the graph from histories to rankings that are those of :class:`Recommender`.

    Inputs: ``history``, int64, shape [entries]: columns of the items of all histories, one history after the other; ``weights``,
    float32, shape [entries]; ``offsets``, int64, shape [batch + 1]: where each history begins, and the number of entries at the
    end; ``k``, int64, shape []. Outputs: ``items``, int64, and ``scores``, float32, both of shape [batch, k], best first; places
    that no item is left for have -1 and ``-inf``.

    Args:
        model: in evaluation mode, on the CPU.
        int8: whether tables with a row for each item are rounded to 8 bits.

    Raises:
        ConfigError: the model cannot be exported.
        DataError: the graph is too large for a file.
    """
    check_can_be_exported(model)
    n_items = model.n_real_items + model.n_new
    graph = Graph(rounded=model.n_real_items if int8 else 0)
    layers: list[SparseLayer] = model.sparse_layers()
    dense = _traced(model)
    halved = _halve_first(dense)
    if halved:
        layers[0] = _first_half(layers[0])
    history, k = _checked(graph, n_items, weighted=model.histories.values is not None)
    weighted, stand_ins = model.histories.values is not None, _stand_ins(model)
    sums, seen, read = _sparse(graph, layers, history, n_items, stand_ins, weighted=weighted)
    given = {"first": sums[0], "second": sums[-1]}
    if any(node.target == "unseen" and node.users for node in dense.graph.nodes):
        given["unseen"] = graph.add("Cast", graph.add("Not", read), to=TensorProto.FLOAT)
    try:
        logits = translate(graph, dense, given)
    except UntranslatedError as error:
        raise ConfigError(
            f"{type(model).__name__} cannot be exported: in its logits_of_sums, {error} has no translation into a graph of ONNX."
        ) from None
    lengths = graph.add("ReduceSum", graph.add("Cast", read, to=TensorProto.INT64), [1], keepdims=1)
    popularity = functional.pad(model.popularity[padding.REAL], (0, model.n_new))
    scores = graph.add("Where", graph.add("Equal", lengths, 0), popularity[None], logits)
    scores = graph.add("Where", seen, -math.inf, scores)
    _best(graph, scores, k, n_items)
    values = {name: helper.make_tensor_value_info(name, *about) for name, about in _TYPES.items()}
    whole = helper.make_graph(
        graph.nodes, type(model).__name__,
        [values[name] for name in ("history", "weights", "offsets", "k")], [values["items"], values["scores"]],
        graph.constants.tensors,
    )  # fmt: skip
    return helper.make_model(
        whole, producer_name="recbole_vae", producer_version=__version__, ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
    )  # fmt: skip


def _stand_ins(model: Any) -> csr_matrix | None:
    """Return as which items each item stands in a history, shape [n_real_items + n_new, n_real_items]; None if all are warm."""
    if model.features is None:
        return None
    ids = range(model.n_items + model.n_new)[padding.REAL]
    cold = {item: model.stands_for(item) for item in ids if model.is_cold(item)}
    if not cold:
        return None
    parts = [cold.get(item, [(item, 1.0)]) for item in ids]
    places = [padding.columns(other) for part in parts for other, _ in part]
    weights = np.array([weight for part in parts for _, weight in part], dtype=np.float32)
    bounds = np.cumsum([0, *map(len, parts)])
    return csr_matrix((weights, places, bounds), shape=(len(parts), model.n_real_items))


def _halve_first(traced: fx.GraphModule) -> bool:
    """Take out a first operation that keeps the left half of the first layer; return whether there was one.

    Without hidden layers, the other half of a VAE's first layer has the variances, which no ranking needs.
    """
    node = next(iter(traced.graph.nodes))
    while len(node.users) == 1:
        (user,) = node.users
        if user.op == "call_module" and isinstance(traced.get_submodule(str(user.target)), nn.Identity):
            node = user
            continue
        parts = list(user.users)
        if user.target != "chunk" or len(parts) != 1 or parts[0].args[1] != 0:
            return False
        parts[0].replace_all_uses_with(node)
        traced.graph.erase_node(parts[0])
        traced.graph.erase_node(user)
        return True
    return False


def _first_half(layer: SparseLayer) -> SparseLayer:
    width = layer.weight.shape[1] // 2
    assert layer.bias is not None
    return SparseLayer(layer.weight[:, :width].contiguous(), layer.bias[:width], layer.unit_length)


def _slice(graph: Graph, x: str, start: int, stop: int | None) -> Any:
    return graph.add("Slice", x, [start], [LAST if stop is None else stop])


def _checked(graph: Graph, n_items: int, *, weighted: bool) -> tuple[str, str]:
    """Return history and k, which depend on checks of all inputs.

    A check is the element of a list of one that a number of faults points to. If there are any, ONNX Runtime ends with an error
    in which the node's name says what is wrong.
    """
    zero, size = 0, graph.add("Size", "history")
    known = graph.add("And", graph.add("GreaterOrEqual", "history", zero), graph.add("Less", "history", n_items))
    if weighted:
        fit = graph.add(
            "And", graph.add("Greater", "weights", 0.0), graph.add("LessOrEqual", "weights", LARGEST_WEIGHT)
        )
        what = f"weights must be positive numbers up to {LARGEST_WEIGHT:g}"
    else:
        fit, what = (
            graph.add("Equal", "weights", 1.0),
            "weights must be 1, for the model was trained without value_field",
        )
    rising = graph.add("GreaterOrEqual", _slice(graph, "offsets", 1, None), _slice(graph, "offsets", 0, -1))
    ends = graph.add("Concat", _slice(graph, "offsets", 0, 1), _slice(graph, "offsets", -1, None), axis=0)
    right_ends = graph.add("Equal", ends, graph.add("Concat", [0], _vector(graph, size), axis=0))
    checks = (
        (known, f"history must hold line numbers of items.txt, from 0 to {range(n_items)[-1]}"),
        (fit, what),
        (graph.add("Equal", _vector(graph, graph.add("Size", "weights")), size), "weights must be as many as history"),
        (graph.add("Concat", rising, right_ends, axis=0), "offsets must rise from 0 to the length of history"),
        (graph.add("GreaterOrEqual", _vector(graph, "k"), 1), "k must be at least 1"),
        # For none, TopK ends the process in ONNX Runtime 1.16 and 1.20.
        (graph.add("Greater", _vector(graph, graph.add("Size", "offsets")), 1), "there must be at least one history"),
    )
    history, k = "history", "k"
    for right, message in checks:
        faults = _total(graph, graph.add("Cast", graph.add("Not", right), to=TensorProto.INT64))
        none = graph.add("Gather", [0], graph.add("Min", graph.add("Squeeze", faults), 1), name=message)
        history, k = graph.add("Add", history, none), graph.add("Add", k, none)
    return history, k


def _total(graph: Graph, numbers: str) -> Any:
    """Return the sum of integers, shape [1], also of none at all, which ONNX Runtime 1.16 does not sum up."""
    return graph.add("ReduceSum", graph.add("Concat", [0], numbers, axis=0), keepdims=1)


def _vector(graph: Graph, scalar: str) -> Any:
    return graph.add("Reshape", scalar, [1])


def _sparse(
    graph: Graph, layers: list[SparseLayer], history: str, n_items: int, stand_ins: csr_matrix | None, *, weighted: bool
) -> tuple[list[str], str, str]:
    """Return what the layers give, each of shape [batch, width], and which items the histories have, bool, [batch, n_items].

    The last result is that of the items that the layers read, bool, [batch, n_real_items], where new items stand as others.

    One history after the other, in a loop: the rows of all at once would take [entries, width], which is gigabytes for an
    item-item layer, and ONNX Runtime adds them up either slowly (ScatterElements) or not safely (ScatterND, whose threads may
    overwrite each other's sums).
    """
    body = Graph(graph)
    number = _vector(body, "number")
    after = body.add("Add", number, [1])
    start = body.add("Slice", "offsets", number, after)
    stop = body.add("Slice", "offsets", after, body.add("Add", after, [1]))
    given = body.add("Slice", history, start, stop)
    # In ascending order, each once, as Recommender has them.
    items, _, places, _ = body.add("Unique", given, outputs=4, sorted=1)
    length = body.add("Shape", items)
    values = body.add("Expand", 1.0, length)
    if weighted:
        weights = body.add("Slice", "weights", start, stop)
        none = body.add("Expand", 0.0, length)
        values = body.add("ScatterElements", none, places, weights, reduction="add")
    yes = body.add("Expand", np.array(True), length)
    seen = body.add("ScatterElements", np.zeros(n_items, dtype=bool), items, yes)
    outputs = [helper.make_tensor_value_info(seen, TensorProto.BOOL, [n_items])]
    if stand_ins is not None:
        table = _of_csr(body, stand_ins, items, values)
        items = body.add("Squeeze", body.add("NonZero", table), [0])
        values = body.add("Gather", table, items)
        read = body.add("Cast", table, to=TensorProto.BOOL)
        outputs.append(helper.make_tensor_value_info(read, TensorProto.BOOL, [stand_ins.shape[1]]))
    for layer in layers:
        factors = _unit_length(body, values) if layer.unit_length else values
        row = (
            _of_csr(body, layer.weight, items, factors)
            if isinstance(layer.weight, csr_matrix)
            else body.add("MatMul", factors, body.rows(layer.weight, items))
        )
        outputs.append(helper.make_tensor_value_info(row, TensorProto.FLOAT, [layer.weight.shape[1]]))
    goes_on = body.add("Identity", "goes_on_before")
    inner = helper.make_graph(
        body.nodes, "history",
        [
            helper.make_tensor_value_info("number", TensorProto.INT64, []),
            helper.make_tensor_value_info("goes_on_before", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info(goes_on, TensorProto.BOOL, []), *outputs],
    )  # fmt: skip
    batch = graph.add("Sub", graph.add("Size", "offsets"), 1)
    found = graph.add("Loop", batch, "", body=inner, outputs=len(outputs))
    all_seen, all_read, sums = found[0], found[len(outputs) - len(layers) - 1], found[len(outputs) - len(layers) :]
    for place, layer in enumerate(layers):
        if layer.bias is not None:
            sums[place] = graph.add("Add", sums[place], layer.bias)
    return sums, all_seen, all_read


def _unit_length(graph: Graph, values: str) -> Any:
    """Scale weights to unit Euclidean length, in float64 as :func:`recbole_vae.nn.encoder.normalise` does."""
    exact = graph.add("Cast", values, to=TensorProto.DOUBLE)
    length = graph.add("Sqrt", graph.add("ReduceSum", graph.add("Mul", exact, exact), keepdims=1))
    return graph.add("Cast", graph.add("Div", exact, length), to=TensorProto.FLOAT)


def _of_csr(graph: Graph, table: csr_matrix, items: str, values: str) -> Any:
    """Add the rows of some items in a sparse table, each times a value; shape [n_items]."""
    table = table.sorted_indices()
    first = graph.add("Gather", table.indptr[:-1].astype(np.int64), items)
    lengths = graph.add("Gather", np.diff(table.indptr).astype(np.int64), items)
    ends = graph.add("CumSum", lengths, 0)
    # The row of each entry: the number of rows that end before it.
    number = _total(graph, lengths)
    zeros = graph.add("Expand", 0, graph.add("Add", number, [1]))
    ones = graph.add("Expand", 1, graph.add("Shape", ends))
    ended = graph.add("ScatterElements", zeros, ends, ones, reduction="add")
    rows = graph.add("Slice", graph.add("CumSum", ended, 0), [0], [-1])
    shift = graph.add("Gather", graph.add("Sub", graph.add("Add", first, lengths), ends), rows)
    count = graph.add("Squeeze", number)
    entries = graph.add("Add", graph.add("Range", 0, count, 1), shift)
    columns = graph.add("Gather", table.indices.astype(np.int32), entries)
    products = graph.add("Mul", graph.add("Gather", table.data, entries), graph.add("Gather", values, rows))
    return graph.add("ScatterElements", np.zeros(table.shape[1], "f"), columns, products, reduction="add")


def _best(graph: Graph, scores: str, k: str, n_items: int) -> None:
    """Add the outputs: the best k items and their scores."""
    width = graph.add("Min", k, n_items)
    found, items = graph.add("TopK", scores, _vector(graph, width), outputs=2)
    items = graph.add("Where", graph.add("Equal", found, -math.inf), -1, items)
    missing = _vector(graph, graph.add("Sub", k, width))
    pads = graph.add("Concat", [0, 0, 0], missing, axis=0)
    for name, values, none in (("items", items, -1), ("scores", found, -math.inf)):
        graph.put("Pad", values, pads, none, names=[name], name=name)


def write(recommender: Recommender, checkpoint_file: str | Path, out: Path, *, int8: bool = False) -> int:
    """Write ``model.onnx``, ``items.txt`` and ``model.json`` into a folder, and return their size in bytes.

    All three are written under other names first, and then renamed, ``model.json`` last. The same checkpoint gives the same
    bytes.

    Args:
        recommender: loaded from the checkpoint.
        checkpoint_file: the checkpoint, whose checksum and versions ``model.json`` has.
        out: the folder, which is made if it is not there. Other files in it stay.
        int8: see :func:`build`.

    Raises:
        ConfigError: see :func:`build`.
        DataError: see :func:`build`; or an item's id has a line break, or a file cannot be written.
    """
    graph = build(recommender.model, int8=int8).SerializeToString()
    items = _lines(recommender.items[padding.REAL])
    state = checkpoint.load(checkpoint_file)
    about = _about(recommender)
    about["precision"] = "int8" if int8 else "float32"
    about["checkpoint"] = {
        "sha256": _sha256(Path(checkpoint_file)), "epoch": state["epoch"], "versions": state["versions"],
    }  # fmt: skip
    about["sha256"] = {
        name: hashlib.sha256(content).hexdigest() for name, content in zip(FILES, (graph, items), strict=False)
    }
    text = (json.dumps(about, indent=1, ensure_ascii=False) + "\n").encode()
    made = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{out}: cannot make this folder: {error.strerror}.") from None
    contents = (graph, items, text)
    try:
        with ExitStack() as stack:
            files = [stack.enter_context(written_whole(out / name, binary=True)) for name in reversed(FILES)]
            for file, content in zip(reversed(files), contents, strict=True):
                file.write(content)
                file.flush()
    finally:
        if made and not any(out.iterdir()):
            out.rmdir()
    return sum(map(len, contents))


def _lines(items: Sequence[str]) -> bytes:
    for item in items:
        if "\n" in item or "\r" in item:
            raise DataError(
                f"item {item!r} has a line break in its id, and items.txt has an id a line; rename it in the data set."
            )
    try:
        return "".join(f"{item}\n" for item in items).encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"items.txt: an item's id cannot be written in UTF-8 ({error.reason}); rename it in the data set."
        ) from None


def _about(recommender: Recommender) -> dict[str, Any]:
    """Return what model.json says of the model."""
    model = recommender.model
    options = model.options.model_dump(mode="json")
    shares = model.popularity[padding.REAL].double().numpy()
    popular = np.argsort(-shares, kind="stable")[:_POPULAR].tolist()
    names = recommender.items[padding.REAL]
    return {
        "format": "recbole_vae export",
        "format_version": FORMAT_VERSION,
        "recbole_vae": __version__,
        "model": type(model).__name__,
        "dataset": recommender.dataset,
        "items": len(names),
        "new_items": model.n_new,
        "users": padding.real(len(recommender.users)),
        "weights": options["value_field"],
        "options": options,
        "popular": [{"item": names[place], "share": round(float(shares[place]), 6)} for place in popular],
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        found = hashlib.sha256()
        while block := file.read(2**20):
            found.update(block)
    return found.hexdigest()
