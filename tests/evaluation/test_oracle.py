"""Every metric in every mode against NumPy: from the scores of the models and the data alone, by the definitions."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from recbole_vae.data.histories import Histories
from recbole_vae.errors import ConfigError, DataError
from tests.conftest import Builder, Run, random_rows, write_inter

HITS = ["Hit", "MRR", "MAP", "Recall", "NDCG", "Precision", "TruncatedRecall", "GAUC"]
LISTS = ["ItemCoverage", "AveragePopularity", "GiniIndex", "ShannonEntropy", "TailPercentage"]
VALUES = ["AUC", "LogLoss", "MAE", "RMSE"]
TOPK = [3, 10]
MODELS = ["MultVAE", "MultDAE", "VASP", "EASE", "BPR", "LightGCN"]

Floats = NDArray[np.float64]
Person = tuple[list[int], set[int]]
"""Candidates, best first, and the relevant items among all."""


def rows() -> list[tuple[str, str, int]]:
    """Make interactions with labels; a user has nearly all items, so that fewer than ten are left to rank."""
    rng = np.random.default_rng(5)
    pairs = random_rows()
    items = sorted({item for _, item in pairs})
    pairs += [("most", item) for item in items[:-2]]
    return [(user, item, int(rng.random() < 0.7)) for user, item in pairs]


@pytest.fixture
def data_path() -> str:
    write_inter(rows(), "labels", "user_id:token\titem_id:token\tlabel:float")
    return write_inter([row[:2] for row in rows()], "most")


def evaluate(run: Run, part: Any) -> dict[str, float]:
    run.trainer.eval_collector.data_collect(run.train)
    np.random.seed(3)  # RecBole's samplers draw by it
    return dict(run.trainer.evaluate(part, load_best_model=False))


def known(part: Any) -> dict[int, set[int]]:
    found: dict[int, set[int]] = {}
    feat = part._dataset.inter_feat
    for user, item in zip(feat["user_id"].tolist(), feat["item_id"].tolist(), strict=True):
        found.setdefault(user, set()).add(item)
    return found


def candidates(run: Run, phase: str, mode: str) -> dict[int, tuple[set[int], set[int]]]:
    """Return each user's items to be ranked, and the relevant ones among them."""
    part = getattr(run, phase)
    before = [known(run.train)] if phase == "valid" else [known(run.train), known(run.valid)]
    relevant, everything = known(part), set(range(1, run.dataset.item_num))
    seen = {user: set().union(*(each.get(user, set()) for each in before)) for user in relevant}
    if mode == "full":
        return {user: (everything - (seen[user] - wanted), wanted) for user, wanted in relevant.items()}
    np.random.seed(3)
    drawn: dict[int, set[int]] = {user: set() for user in relevant}
    number = Counter[int]()
    for interaction, *_ in part:
        for user, item in zip(interaction["user_id"].tolist(), interaction["item_id"].tolist(), strict=True):
            drawn[user].add(item)
            number[user] += 1
    for user, wanted in relevant.items():
        assert not (drawn[user] - wanted) & (seen[user] | wanted)
        assert number[user] == len(wanted) * (1 + int(mode[3:]))
    return {user: (drawn[user], relevant[user]) for user in relevant}


def scores_of(model: Any, users: list[int], items: list[int]) -> Floats:
    """Score pairs, one by one in the order given, by the model's own interface to RecBole."""
    with torch.no_grad():
        pairs = {"user_id": torch.tensor(users), "item_id": torch.tensor(items)}
        found: Floats = model.predict(pairs).double().numpy()
    return found


def rankings(run: Run, phase: str, mode: str) -> dict[int, Person]:
    """Rank each user's candidates by the scores of a model without ties."""
    run.model.eval()
    found = {}
    for user, (items, wanted) in candidates(run, phase, mode).items():
        order = sorted(items)
        scores = scores_of(run.model, [user] * len(order), order)
        assert len(np.unique(scores)) == len(scores)
        found[user] = [order[place] for place in np.argsort(-scores)], wanted
    return found


def expected_hits(people: list[Person], k: int) -> dict[str, float]:
    """Compute the metrics of relevant items, user by user."""
    found: dict[str, list[float]] = {}
    for ranked, wanted in people:
        hits = [item in wanted for item in ranked[:k]]
        ranks = [rank for rank, hit in enumerate(hits, 1) if hit]
        ideal = sum(1 / math.log2(rank + 1) for rank in range(1, min(k, len(wanted)) + 1))
        values = {
            "hit": float(bool(ranks)),
            "mrr": 1 / ranks[0] if ranks else 0.0,
            "map": sum(place / rank for place, rank in enumerate(ranks, 1)) / min(k, len(wanted)),
            "recall": len(ranks) / len(wanted),
            "truncatedrecall": len(ranks) / min(k, len(wanted)),
            "precision": len(ranks) / k,
            "ndcg": sum(1 / math.log2(rank + 1) for rank in ranks) / ideal,
        }
        for name, value in values.items():
            found.setdefault(f"{name}@{k}", []).append(value)
    return {name: float(np.mean(values)) for name, values in found.items()}


def expected_gauc(people: list[Person]) -> float:
    """Average the users' AUC, weighted by their relevant items, over those who have other candidates, too."""
    total = weight = 0.0
    for ranked, wanted in people:
        others = len(ranked) - len(wanted)
        if others:
            above = sum(1 for i, a in enumerate(ranked) for b in ranked[i + 1 :] if a in wanted and b not in wanted)
            total, weight = total + above / others, weight + len(wanted)
    return total / weight


def expected_lists(people: list[Person], k: int, counts: NDArray[np.int64]) -> dict[str, float]:
    """Compute the metrics of recommended items; ``counts`` are of all items in training."""
    lists = [ranked[:k] for ranked, _ in people]
    shown = np.bincount([item for each in lists for item in each], minlength=len(counts) + 1)[1:]
    shares = shown[shown > 0] / shown.sum()
    order = sorted(range(len(counts)), key=lambda item: (counts[item], item))
    tail = {item + 1 for item in order[: max(1, len(counts) // 10)]}
    difference = np.abs(shown[:, None] - shown[None, :]).mean()
    return {
        f"itemcoverage@{k}": float((shown > 0).mean()),
        f"averagepopularity@{k}": float(np.mean([np.mean([counts[i - 1] for i in each]) for each in lists])),
        f"giniindex@{k}": float(difference / (2 * shown.mean())),
        f"shannonentropy@{k}": float(-(shares * np.log(shares)).sum()),
        f"tailpercentage@{k}": float(np.mean([np.mean([i in tail for i in each]) for each in lists])),
    }


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("mode", ["full", "uni3", "pop3"])
@pytest.mark.parametrize("fast", [True, False])
def test_metrics_of_a_ranking(build: Builder, data_path: str, model: str, mode: str, fast: bool) -> None:
    run = build(
        model, "most", data_path=data_path, fast_evaluation=fast, metrics=HITS + LISTS * fast, topk=TOPK, seed=1,
        metric_decimal_place=12, eval_args={"mode": mode},
    )  # fmt: skip
    counts = np.bincount(run.train._dataset.inter_feat["item_id"].numpy(), minlength=run.dataset.item_num)[1:]
    for phase in ("valid", "test"):
        found = evaluate(run, getattr(run, phase))
        people = list(rankings(run, phase, mode).values())
        expected = {"gauc": expected_gauc(people)}
        for k in TOPK:
            expected |= expected_hits(people, k) | (expected_lists(people, k, counts) if fast else {})
        assert any(len(ranked) < max(TOPK) for ranked, _ in people)
        assert found == pytest.approx(expected, abs=1e-6), phase


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("mode", ["full", "uni3"])
def test_ties_do_not_depend_on_the_batch_and_favour_nobody(
    build: Builder, data_path: str, mode: str, fast: bool
) -> None:
    """Pop has many ties: each result lies between those of the best and the worst order of equal scores."""
    results = []
    for batch in (1, 10**6):
        run = build(
            "Pop", "most", data_path=data_path, fast_evaluation=fast, metrics=HITS, topk=TOPK, metric_decimal_place=12,
            eval_batch_size=batch, eval_args={"mode": mode}, epochs=1, train_batch_size=10**6,
        )  # fmt: skip
        run.fit()
        results.append(evaluate(run, run.test))
        bounds: list[list[Person]] = [[], []]
        for user, (items, wanted) in candidates(run, "test", mode).items():
            order = sorted(items)
            scores = scores_of(run.model, [user] * len(order), order)
            for best in (True, False):
                keys = [(-score, (item in wanted) != best) for score, item in zip(scores, order, strict=True)]
                ranked = [order[place] for place in sorted(range(len(order)), key=keys.__getitem__)]
                bounds[not best].append((ranked, wanted))
        for k in TOPK:
            high, low = (expected_hits(people, k) for people in bounds)
            assert any(low[name] < high[name] - 0.01 for name in high)
            assert all(low[name] - 1e-9 <= results[-1][name] <= high[name] + 1e-9 for name in high)
        auc = [expected_gauc(people) for people in bounds]
        assert results[-1]["gauc"] == pytest.approx(np.mean(auc), abs=1e-6)
    if mode == "full":  # else other items are drawn
        assert results[0] == results[1]


def expected_values(labels: Floats, given: Floats) -> dict[str, float]:
    yes, no = given[labels == 1][:, None], given[labels == 0][None, :]
    inside = np.clip(given, 1e-15, 1 - 1e-15)
    return {
        "auc": float(((yes > no) + 0.5 * (yes == no)).mean()),
        "logloss": float(-(labels * np.log(inside) + (1 - labels) * np.log(1 - inside)).mean()),
        "mae": float(np.abs(labels - given).mean()),
        "rmse": float(np.sqrt(((labels - given) ** 2).mean())),
    }


def comparable(run: Run, users: list[int], items: list[int]) -> Floats:
    """Make probabilities of our models' logits by NumPy; RecBole's models give theirs themselves, or other scores."""
    if not hasattr(run.model, "score"):
        return scores_of(run.model, users, items)
    with torch.no_grad():
        logits = run.model.score(run.model.histories)[:, 1:].double().numpy()
    if run.config["likelihood"] == "bernoulli":
        table = 1 / (1 + np.exp(-logits))
    elif run.config["likelihood"] == "multinomial":
        table = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    else:
        table = logits
    found: Floats = table[np.array(users), np.array(items) - 1]
    return found


@pytest.mark.parametrize(
    ("model", "likelihood"),
    [
        ("MultVAE", "bernoulli"), ("MultDAE", "bernoulli"), ("MultVAE", "multinomial"), ("MultVAE", "gaussian"),
        ("HybridVAE", "bernoulli"), ("VASP", None), ("NeuMF", None), ("BPR", None), ("EASE", None), ("Pop", None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("mode", ["labeled", "uni3", "pop3"])
@pytest.mark.parametrize("fast", [True, False])
def test_metrics_of_values(
    build: Builder, data_path: str, model: str, likelihood: str | None, mode: str, fast: bool
) -> None:
    """LogLoss, MAE and RMSE are of probabilities, and refused where there are none; AUC goes by comparable scores."""
    options: dict[str, Any] = {"likelihood": likelihood} if likelihood else {}
    options |= {"fast_evaluation": fast, "metric_decimal_place": 12, "eval_args": {"mode": mode}, "valid_metric": "AUC"}
    options |= {"data_path": data_path, "epochs": 1}
    has_probabilities = model == "NeuMF" or (likelihood == "bernoulli" and model != "HybridVAE")
    if not has_probabilities:
        for metric in VALUES[1:]:
            with pytest.raises(
                ConfigError, match=f"'{metric.lower()}' is of probabilities, and the scores of {model} "
            ):
                build(model, "labels", metrics=["AUC", metric], **options)
    run = build(model, "labels", metrics=VALUES if has_probabilities else ["AUC"], **options)
    run.fit()
    run.model.eval()
    for part in (run.valid, run.test):
        found = evaluate(run, part)
        np.random.seed(3)
        batches = [interaction for interaction, *_ in part]
        users, items, labels = (
            [value for batch in batches for value in batch[name].tolist()] for name in ("user_id", "item_id", "label")
        )
        if mode == "labeled":
            tokens = [run.dataset.id2token(name, ids) for name, ids in (("user_id", users), ("item_id", items))]
            by_pair = {(user, item): label for user, item, label in rows()}
            assert labels == [by_pair[pair] for pair in zip(*tokens, strict=True)]
        else:
            wanted = known(part)
            assert labels == [float(item in wanted[user]) for user, item in zip(users, items, strict=True)]
        expected = expected_values(np.array(labels), comparable(run, users, items))
        assert found == pytest.approx({name: expected[name] for name in found}, abs=1e-6)


@pytest.mark.parametrize("model", ["MultVAE", "EASE", "BPR"])
@pytest.mark.parametrize(("mode", "metric"), [("labeled", "AUC"), ("uni3", "AUC"), ("full", "NDCG")])
def test_nothing_of_label_0_is_trained_on(
    build: Builder, data_path: str, model: str, mode: str, metric: str, caplog: pytest.LogCaptureFixture
) -> None:
    columns = {"inter": ["user_id", "item_id", "label"]}
    valid = metric if metric == "AUC" else "NDCG@10"
    run = build(
        model,
        "labels",
        data_path=data_path,
        metrics=[metric],
        valid_metric=valid,
        eval_args={"mode": mode},
        load_col=columns,
    )
    liked = {(user, item) for user, item, label in rows() if label}
    for part in (run.train, run.valid, run.test):
        feat = part._dataset.inter_feat
        tokens = [run.dataset.id2token(name, feat[name].numpy()) for name in ("user_id", "item_id")]
        inside = [pair in liked for pair in zip(*tokens, strict=True)]
        assert inside
        assert all(inside) == (part is run.train or mode != "labeled")
    assert "interactions of the train part have label 0 and are left out." in caplog.text


@pytest.mark.parametrize("model", ["MultVAE", "EASE"])
def test_nothing_of_label_0_is_held_out_or_folded_in(
    build: Builder, data_path: str, model: str, caplog: pytest.LogCaptureFixture
) -> None:
    columns = {"inter": ["user_id", "item_id", "label"]}
    run = build(
        model, "labels", data_path=data_path, eval_args={"split": {"HU": [5, 5]}, "mode": "full"}, load_col=columns
    )
    liked = {(user, item) for user, item, label in rows() if label}
    found = set()
    for part in (run.train, run.valid, run.test):
        for histories in (part._dataset.inter_feat, getattr(part._dataset, "fold_in", None)):
            if histories is None:
                continue
            pairs = (
                (histories.rows() if isinstance(histories, Histories) else histories["user_id"]),
                (histories.indices if isinstance(histories, Histories) else histories["item_id"]),
            )
            names = ("user_id", "item_id")
            tokens = [run.dataset.id2token(name, ids.numpy()) for name, ids in zip(names, pairs, strict=True)]
            found |= set(zip(*tokens, strict=True))
    assert found
    assert found <= liked
    assert "interactions have label 0 and are left out." in caplog.text


def test_a_model_that_learns_from_labels_keeps_them(build: Builder, data_path: str) -> None:
    run = build(
        "NeuMF", "labels", data_path=data_path, metrics=["AUC"], valid_metric="AUC", train_neg_sample_args=None,
        eval_args={"mode": "labeled"},
    )  # fmt: skip
    assert set(run.train._dataset.inter_feat["label"].tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("model", ["MultVAE", "BPR"])
def test_a_threshold_makes_the_labels(build: Builder, model: str) -> None:
    rated = [(user, item, 3 + 2 * label) for user, item, label in rows()]
    path = write_inter(rated, "rated", "user_id:token\titem_id:token\trating:float")
    run = build(
        model, "rated", data_path=path, metrics=["AUC"], valid_metric="AUC", eval_args={"mode": "labeled"},
        threshold={"rating": 4},
    )  # fmt: skip
    liked = {(user, item) for user, item, label in rows() if label}
    feat = run.train._dataset.inter_feat
    tokens = [run.dataset.id2token(name, feat[name].numpy()) for name in ("user_id", "item_id")]
    assert all(pair in liked for pair in zip(*tokens, strict=True))
    assert set(run.test._dataset.inter_feat["label"].tolist()) == {0.0, 1.0}
    with pytest.raises(ConfigError, match="threshold: .* only makes labels"):
        build(model, "rated", data_path=path, threshold={"rating": 4})


@pytest.mark.parametrize("model", ["MultVAE", "BPR"])
@pytest.mark.parametrize(
    ("labels", "kind", "message"),
    [
        (None, "", "most.inter: there is no column 'label', and mode: labeled needs one of 0 and 1; there are"),
        ([0, 1, 2], "float", "LABEL_FIELD: 'label' of data set 'bad': .* labels are neither 0 nor 1, first 2"),
        ([1], "float", "all .* interactions of the valid part have label 1, and AUC needs both"),
        ([0, 1], "token", "LABEL_FIELD: 'label' of data set 'bad' is not a column of type float"),
    ],
)
def test_labels_that_cannot_be_evaluated_are_refused(
    build: Builder, data_path: str, model: str, labels: list[int] | None, kind: str, message: str
) -> None:
    name = "most" if labels is None else "bad"
    if labels is not None:
        cells = [(user, item, labels[number % len(labels)]) for number, (user, item, _) in enumerate(rows())]
        write_inter(cells, "bad", f"user_id:token\titem_id:token\tlabel:{kind}")
    with pytest.raises(DataError, match=message):
        build(
            model, name, data_path=data_path, metrics=["AUC"], valid_metric="AUC", eval_args={"mode": "labeled"}
        )  # fmt: skip


def test_labels_that_are_not_read_are_told(build: Builder, data_path: str, caplog: pytest.LogCaptureFixture) -> None:
    build("BPR", "labels", data_path=data_path)
    assert "'label' of labels.inter is not read, so lines of label 0 count as any other" in caplog.text


@pytest.mark.parametrize("model", ["MultVAE", "BPR", "Pop"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"eval_args": {"mode": "labeled"}},
            "mode: 'labeled' .* full, uniN or popN for metrics of a",
        ),
        ({"metrics": ["AUC"], "valid_metric": "AUC"}, "mode: 'full' is not allowed; it must be uniN"),
        ({"eval_args": {"mode": "uni0"}}, "mode: 'uni0' .* is not allowed"),
        ({"metrics": ["AUC", "NDCG"]}, "either metrics of a ranking or metrics of values"),
        (
            {"metrics": ["Recall"], "valid_metric": "MRR@10"},
            "'MRR@10' .config_dict. is not measured; measured are recall@10",
        ),
        ({"metrics": ["NDGC"]}, "there is no metric 'ndgc'; did you mean ndcg"),
        ({"metric_decimal_place": 0}, "metric_decimal_place: 0 .* an integer >= 1, for the best epoch is chosen by"),
        ({"tail_ratio": 0}, "tail_ratio: 0 .* a share of the items"),
        ({"metrics": ["ShannonEntropy"], "fast_evaluation": False}, "cannot compute 'shannonentropy' as it is defined"),
        ({"metrics": ["GiniIndex"], "fast_evaluation": False}, "cannot compute 'giniindex' as it is defined"),
    ],
)
def test_what_cannot_be_measured_is_refused_for_all_models(
    build: Builder, model: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build(model, **options)


@pytest.mark.parametrize("model", ["MultVAE", "BPR", "Pop"])
def test_lists_longer_than_the_catalogue_are_refused(build: Builder, model: str) -> None:
    with pytest.raises(DataError, match="topk: 26 is more than the 25 items"):
        build(model, topk=[26], valid_metric="MRR@26")


@pytest.mark.parametrize("model", ["MultVAE", "BPR"])
def test_metrics_are_taken_as_people_write_them(build: Builder, model: str) -> None:
    run = build(model, metrics="NDCG,Recall", topk="5, 10")
    assert (run.config["metrics"], run.config["topk"]) == (["NDCG", "Recall"], [5, 10])
    assert run.config["valid_metric"] == "NDCG@5"  # RecBole's default is not measured
    assert build(model, metrics="GiniIndex").config["valid_metric_bigger"] is False
    assert build(model, metrics=["NDCG", "MRR"]).config["valid_metric"] == "MRR@10"
    assert build(model, metrics="AUC", eval_args={"mode": "uni3"}).config["valid_metric"] == "AUC"


def test_a_model_of_ones_own_declares_that_its_scores_are_probabilities(
    build: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    from recbole.model.general_recommender import BPR

    options = {"metrics": ["LogLoss"], "eval_args": {"mode": "uni3"}}
    with pytest.raises(ConfigError, match="'logloss' is of probabilities, and the scores of BPR are none; choose AUC"):
        build("BPR", **options)
    monkeypatch.setattr(BPR, "scores_are_probabilities", True, raising=False)
    build("BPR", **options)


def test_corrected_scores_are_no_values(build: Builder) -> None:
    options = {"metrics": ["AUC"], "valid_metric": "AUC", "eval_args": {"mode": "uni3"}}
    with pytest.raises(ConfigError, match="popularity_correction: 0.5 .* must be 0 for metrics of values"):
        build(popularity_correction=0.5, **options)


@pytest.mark.parametrize("model", ["MultVAE", "BPR"])
def test_a_field_to_normalise_is_loaded(build: Builder, model: str) -> None:
    cells = [(user, item, number % 5 + 1) for number, (user, item, _) in enumerate(rows())]
    path = write_inter(cells, "rated", "user_id:token\titem_id:token\trating:float")
    run = build(model, "rated", data_path=path, normalize_field="rating")
    assert sorted(set(run.train._dataset.inter_feat["rating"].tolist())) == [0, 0.25, 0.5, 0.75, 1]
    with pytest.raises(DataError, match=r"rated.inter: there is no column 'price'"):
        build(model, "rated", data_path=path, normalize_field=["price"])


def test_older_numbers_can_be_had(build: Builder) -> None:
    """exact_metrics: False gives what RecBole's formulas give."""
    found = {}
    for exact in (True, False):
        run = build("EASE", metrics=["ItemCoverage", "ShannonEntropy"], topk=[3], valid_metric="ItemCoverage@3",
                    metric_decimal_place=12, exact_metrics=exact)  # fmt: skip
        found[exact] = evaluate(run, run.test)
    assert found[True]["itemcoverage@3"] * 25 == pytest.approx(found[False]["itemcoverage@3"] * 26)
    shown = round(found[True]["itemcoverage@3"] * 25)
    assert found[True]["shannonentropy@3"] == pytest.approx(found[False]["shannonentropy@3"] * shown)
