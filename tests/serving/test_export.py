"""Exported graphs give what the recommender gives, by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from recbole_vae.data.histories import Histories
from recbole_vae.errors import ConfigError, DataError
from recbole_vae.evaluation.fold_in import as_history_model
from recbole_vae.model.capabilities import SparseLayer
from recbole_vae.model.hybridvae import HybridVAE
from recbole_vae.model.multdae import MultDAE
from recbole_vae.model.multvae import MultVAE
from recbole_vae.serving.recommender import Recommender
from tests.conftest import Builder, random_rows, write_inter

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from recbole_vae.serving.export import build as build_graph  # noqa: E402 - needs onnx

onnxruntime.set_default_logger_severity(4)  # errors are raised; they need not be printed, too

N_ITEMS = 120
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "MultVAE": ("MultVAE", {"popularity_correction": 0.7}),
    "MultVAE, no hidden layer": ("MultVAE", {"mlp_hidden_size": []}),
    "MultVAE, tied": ("MultVAE", {"tied_weights": True, "activation": "gelu", "mlp_hidden_size": [12, 8]}),
    "MultDAE": ("MultDAE", {"activation": "elu"}),
    "MultDAE, tied": (
        "MultDAE", {"mlp_hidden_size": [], "tied_weights": True, "n_negatives": 5, "weight_decay": 0, "activation": "silu"},
    ),
    "CompositeVAE": ("CompositeVAE", {}),
    "VampVAE": ("VampVAE", {}),
    "VampVAE, one level": ("VampVAE", {"hierarchical": False}),
    "HybridVAE": ("HybridVAE", {"popularity_correction": -0.5}),
    "HybridVAE, neighbours": ("HybridVAE", {"linear_neighbours": 4}),
    "HybridVAE, linear alone": ("HybridVAE", {"linear_share": 1}),
    "HybridVAE, VAE alone": ("HybridVAE", {"linear_share": 0, "activation": "relu"}),
    "VASP": ("VASP", {"encoder_layers": 3, "decoder_layers": 2}),
}  # fmt: skip


def recommender(build: Builder, model: str, kind: Any = None, **options: Any) -> Recommender:
    """Make a recommender whose parameters all count: biases and scales are not those of the beginning."""
    if "data_path" not in options:
        options["data_path"] = write_inter(
            [*random_rows(60, N_ITEMS), *((f"all{place % 9}", f"i{place}") for place in range(N_ITEMS))]
        )
    run = build(model, "tiny", eval_args={"split": {"RS": [1, 0, 0]}}, **options)
    net = run.model if kind is None else kind(run.config, run.train._dataset)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for each in net.parameters():
            each += 0.3 * torch.randn(each.shape, generator=generator)
    names = run.dataset.field2id_token
    return Recommender(net, names["user_id"].tolist(), names["item_id"].tolist(), "tiny")


def session_of(graph: Any, threads: int = 1) -> Any:
    onnx.checker.check_model(graph, full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])


def fed(histories: Sequence[Collection[int] | Mapping[int, float]], k: int = 10) -> dict[str, NDArray[Any]]:
    """Return the inputs of the graph for histories of columns."""
    weights = [list(each.values()) if isinstance(each, Mapping) else [1.0] * len(each) for each in histories]
    return {
        "history": np.array([item for each in histories for item in each], dtype=np.int64),
        "weights": np.array(sum(weights, []), dtype=np.float32),
        "offsets": np.cumsum([0, *map(len, histories)], dtype=np.int64),
        "k": np.array(k, dtype=np.int64),
    }


def drawn(number: int, n_items: int, most: int = 40) -> list[list[int]]:
    rng = np.random.default_rng(2)
    return [rng.choice(n_items, rng.integers(0, most), replace=False).tolist() for _ in range(number)]


def check(of: Recommender, session: Any, histories: Sequence[Any], k: int) -> int:
    """Check the lists of histories of columns; return how many are the recommender's, with items of equal score in any order.

    A list has the best scores there are, without the seen items, and the scores are those of its items.
    """
    items, scores = session.run(None, fed(histories, k))
    assert items.shape == scores.shape == (len(histories), k)
    named = [
        {of.items[item + 1]: weight for item, weight in each.items()}
        if isinstance(each, Mapping)
        else [of.items[item + 1] for item in each]
        for each in histories
    ]
    lists = of.recommend(named, k)
    theirs, table = np.full((len(histories), k), -np.inf), np.zeros((len(histories), 0))
    for row, ranking in enumerate(lists):
        theirs[row, : len(ranking)] = [score for _, score in ranking]
    if histories:
        batch = Histories.from_lists([of.known(each) for each in named])
        table = of.model.ranking_scores(batch).detach().numpy()
        table[batch.rows(), batch.indices] = -np.inf
    near = {"rtol": 1e-5, "atol": 1e-5 * max(1.0, np.abs(theirs[np.isfinite(theirs)]).max(initial=0))}
    np.testing.assert_allclose(scores, theirs, **near)
    assert np.array_equal(items == -1, np.isneginf(theirs))
    rows, places = np.nonzero(items >= 0)
    found = items[rows, places] + 1
    np.testing.assert_allclose(table[rows, found], theirs[rows, places], **near)
    assert len(set(zip(rows.tolist(), found.tolist(), strict=True))) == len(found)
    return sum(
        [of.items[item + 1] for item in row if item >= 0] == [item for item, _ in ranking]
        for row, ranking in zip(items.tolist(), lists, strict=True)
    )


@pytest.mark.parametrize("name", list(MODELS))
def test_the_graph_ranks_as_the_recommender_does(build: Builder, name: str) -> None:
    model, options = MODELS[name]
    of = recommender(build, model, **options)
    session = session_of(build_graph(of.model))
    histories = drawn(1000, N_ITEMS)
    empty = sum(not each for each in histories)
    assert empty > 5
    # Items of equal score, such as popular ones of the same count, have no order of their own.
    assert check(of, session, histories, 10) >= 0.98 * (1000 - empty)
    check(of, session, histories[:30], N_ITEMS + 7)
    check(of, session, [[]], 3)
    check(of, session, [list(range(N_ITEMS))], 3)
    assert check(of, session, [[5, 3, 5, 9, 3, 3], [9, 5, 3]], 10) == 2
    items, scores = session.run(None, fed(histories))
    for row in range(0, 1000, 25):
        alone = session.run(None, fed([histories[row]]))
        assert alone[0][0].tolist() == items[row].tolist()
        np.testing.assert_allclose(alone[1][0], scores[row], rtol=1e-5, atol=1e-5)
    several = session_of(build_graph(of.model), threads=3).run(None, fed(histories))
    assert (several[0] == items).mean() > 0.999


@pytest.mark.parametrize("model", ["MultVAE", "HybridVAE"])
def test_weights_count_as_they_do_for_the_recommender(build: Builder, model: str) -> None:
    rows = [(*row, place % 5 + 1) for place, row in enumerate(random_rows(60, N_ITEMS))]
    path = write_inter(rows, columns="user_id:token\titem_id:token\trating:float")
    of = recommender(build, model, data_path=path, value_field="rating")
    session, n_items = session_of(build_graph(of.model)), of.model.n_real_items
    rng = np.random.default_rng(0)
    histories = [{item: float(rng.integers(1, 9)) / 2 for item in each} for each in drawn(200, n_items, 20)]
    histories[0] = {3: 1e12, 7: 1e-6}
    assert check(of, session, histories, 10) >= sum(map(bool, histories))
    repeated = {"history": np.array([4, 2, 4]), "weights": np.array([1, 2, 2.5], "f"), "offsets": np.array([0, 3])}
    summed = session.run(None, fed([{2: 2.0, 4: 3.5}]))
    for one, other in zip(session.run(None, {**repeated, "k": np.array(10)}), summed, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    for bad in (0.0, -1.0, np.nan, np.inf, 2e12):
        with pytest.raises(Exception, match="weights must be positive numbers up to 1e\\+12"):
            session.run(None, fed([{1: 1.0, 2: bad}]))


def test_faults_of_the_caller_are_named(build: Builder) -> None:
    of = recommender(build, "MultDAE")
    session, right = session_of(build_graph(of.model)), fed([[1, 2], [3]])
    last = of.model.n_real_items - 1
    items = f"history must hold line numbers of items.txt, from 0 to {last}"
    offsets = "offsets must rise from 0 to the length of history"
    for name, value, message in (
        ("history", [1, 2, last + 1], items), ("history", [1, -1, 2], items),
        ("weights", [1, 1, 2], "weights must be 1, for the model was trained without value_field"),
        ("weights", [1], "weights must be as many as history"),
        ("offsets", [0, 2, 4], offsets), ("offsets", [0, 2], offsets), ("offsets", [1, 2, 3], offsets),
        ("offsets", [0, 3, 2, 3], offsets),
        ("k", 0, "k must be at least 1"), ("k", -3, "k must be at least 1"),
    ):  # fmt: skip
        with pytest.raises(Exception, match=message):
            session.run(None, {**right, name: np.array(value, dtype=right[name].dtype)})
    with pytest.raises(Exception, match=offsets):
        session.run(None, {**fed([[]]), "offsets": np.array([0, 5])})
    with pytest.raises(Exception, match="there must be at least one history"):
        session.run(None, fed([]))


@pytest.mark.parametrize("name", ["MultVAE, no hidden layer", "VampVAE", "HybridVAE", "VASP"])
def test_int8_takes_a_quarter_and_ranks_nearly_the_same(build: Builder, name: str) -> None:
    model, options = MODELS[name]
    of = recommender(build, model, **{**options, "latent_dimension": 64})
    exact, small = build_graph(of.model), build_graph(of.model, int8=True)
    sizes = [
        {each.data_type: len(each.raw_data) for each in graph.graph.initializer if list(each.dims)[:1] == [N_ITEMS]}
        for graph in (exact, small)
    ]
    assert onnx.TensorProto.INT8 in sizes[1]
    assert onnx.TensorProto.INT8 not in sizes[0]
    histories = [each for each in drawn(300, N_ITEMS) if each]
    one, session = session_of(exact).run(None, fed(histories)), session_of(small)
    other = session.run(None, fed(histories))
    shared = [len(set(a) & set(b)) / 10 for a, b in zip(one[0].tolist(), other[0].tolist(), strict=True)]
    assert np.mean(shared) > 0.9
    assert not np.array_equal(one[1], other[1])
    alone = [session.run(None, fed([each]))[0][0].tolist() for each in histories[:50]]
    assert alone == other[0][:50].tolist()


def test_the_variances_of_a_first_layer_are_left_out(build: Builder) -> None:
    of = recommender(build, "MultVAE", mlp_hidden_size=[], latent_dimension=6)
    shapes = [list(each.dims) for each in build_graph(of.model).graph.initializer if len(each.dims) == 2]
    assert sorted(shapes) == [[1, N_ITEMS], [N_ITEMS, 6], [N_ITEMS, 6]]  # popularity, encoder and decoder


def test_tied_weights_are_stored_once(build: Builder) -> None:
    of = recommender(build, "MultDAE", mlp_hidden_size=[], tied_weights=True)
    shapes = [list(each.dims) for each in build_graph(of.model).graph.initializer]
    assert shapes.count([N_ITEMS, 6]) == 1


def test_the_same_model_gives_the_same_bytes(build: Builder) -> None:
    of = recommender(build, "HybridVAE", linear_neighbours=3)
    assert build_graph(of.model).SerializeToString() == build_graph(of.model).SerializeToString()


class Normalises(MultVAE):
    def with_padding(self, logits: Tensor) -> Tensor:
        return super().with_padding(logits.log_softmax(1))


class OfMoreThanScores(HybridVAE):
    def ranking_scores(self, histories: Any) -> Tensor:
        return -super().ranking_scores(histories)


class Branches(MultDAE):
    can_be_exported = True

    def code(self, features: Tensor) -> Tensor:
        return features if features.sum() > 0 else -features


class Sines(MultDAE):
    can_be_exported = True

    def code(self, features: Tensor) -> Tensor:
        return features.sin()


class Doubles(MultVAE):
    can_be_exported = True

    def code(self, features: Tensor) -> Tensor:
        return 2 * super().code(features)

    def sparse_layers(self) -> list[SparseLayer]:
        return super().sparse_layers()


# Other tests may have registered models of their own before.
CAN = "MultVAE, MultDAE, HybridVAE, CompositeVAE, VampVAE, VASP(, .*)? can be"


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (Normalises, {}, f"^Normalises cannot be exported; of the registered models {CAN}"),
        (OfMoreThanScores, {}, "^OfMoreThanScores cannot be exported"),
        (
            Branches,
            {},
            r"^Branches cannot be exported: torch\.fx cannot trace its logits_of_sums \(symbolically traced",
        ),
        (Sines, {}, "^Sines cannot be exported: in its logits_of_sums, .*sin.* has no translation"),
        (HybridVAE, {"kernel_share": 0.2}, r"^kernel_share: 0\.2 has no form in a graph"),
    ],
)
def test_what_cannot_be_exported_is_refused(build: Builder, kind: Any, options: Any, message: str) -> None:
    base = next(each.__name__ for each in kind.__mro__ if each.__module__.startswith("recbole_vae."))
    of = recommender(build, base, kind, **options)
    with pytest.raises(ConfigError, match=message):
        build_graph(of.model)


def test_a_model_of_ones_own_that_declares_it_is_exported(build: Builder) -> None:
    of = recommender(build, "MultVAE", Doubles)
    histories = [each for each in drawn(50, N_ITEMS) if each]
    assert check(of, session_of(build_graph(of.model)), histories, 10) == len(histories)


def test_a_model_of_recboles_is_refused(build: Builder) -> None:
    run = build("EASE", reg_weight=10.0)
    with pytest.raises(ConfigError, match=f"^EASE cannot be exported; of the registered models {CAN}"):
        build_graph(as_history_model(run.model, Histories.from_lists([[]])))


def test_a_graph_that_no_file_holds_is_refused(build: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    of = recommender(build, "HybridVAE")
    monkeypatch.setattr("recbole_vae.serving.onnx_graph.LARGEST", 4 * N_ITEMS**2)
    with pytest.raises(DataError, match=r"^the graph is larger than 0\.0 GB, .*linear_neighbours: 100"):
        build_graph(of.model)
