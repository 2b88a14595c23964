"""Items that a model was not trained with: recommended, in histories, explained, served and exported."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from recbole_vae.analysis.explain import Explainer
from recbole_vae.cli.main import main
from recbole_vae.errors import ConfigError, DataError
from recbole_vae.nn.cold import Strengths
from recbole_vae.serving import batch
from recbole_vae.serving.new_items import read
from recbole_vae.serving.recommender import Recommender
from tests.conftest import OPTIONS, OWN, Builder, write_inter

HEAD = "item_id:token\tmovie_title:token_seq\tgenre:token_seq\tyear:float"
KINDS = ["Comedy", "Drama", "Horror"]


def cells(item: int) -> list[str]:
    kind = KINDS[item % 3]
    return [f"i{item}", f"Movie {item} of {kind}", kind + " Old" * (item % 2), str(1980 + item)]


def item_file(path: str | Path, *rows: list[str], head: str = HEAD) -> Path:
    Path(path).write_text("\n".join([head, *map("\t".join, rows)]) + "\n", encoding="utf-8")
    return Path(path)


def trained(folder: Path, model: str) -> Path:
    """Train on users who each like one kind of item; six items are held out, so the model knows these by features alone."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(60):
        liked = [item for item in range(30) if item % 3 == user % 3]
        rows += [(f"u{user}", f"i{item}") for item in rng.choice(liked, 6, replace=False)]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("sys.argv", ["pytest"])
        data = write_inter(rows)
        item_file(folder / "data/tiny/tiny.item", *map(cells, range(30)))
        given = {
            **OPTIONS, **OWN.get(model, {}), "data_path": data, "checkpoint_dir": "saved", "epochs": 4, "learning_rate": 0.02,
            "item_features": "genre,year,movie_title:text", "eval_args": "{'split': {'RS': [0.8, 0.1, 0.1], 'HI': [3, 3]}}",
            "topk": 3, "valid_metric": "MRR@3",
        }  # fmt: skip
        words = [f"--{name}={value}" for name, value in given.items()]
        assert main(["run", f"--model={model}", "--dataset=tiny", *words]) == 0
        (file,) = (folder / "saved").glob("*.pth")
        return file.rename(folder / "model.pth")


@pytest.fixture(scope="module")
def multvae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("multvae"), "MultVAE")


@pytest.fixture(scope="module")
def hybridvae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("hybridvae"), "HybridVAE")


@pytest.fixture(params=["multvae", "hybridvae"])
def checkpoint(request: pytest.FixtureRequest) -> Path:
    file: Path = request.getfixturevalue(request.param)
    return file


def cold_items(of: Recommender) -> list[str]:
    return [item for item in of.items[1 : of.model.n_items] if of.model.is_cold(of.items.index(item))]


def scores(of: Recommender, history: list[str], **options: Any) -> dict[str, float]:
    (ranking,) = of.recommend([history], 1000, exclude_seen=False, **options)
    assert len(ranking) == len(of.items) - 1
    return dict(ranking)


HISTORY = ["i0", "i3", "i4", "i7"]


def table(**columns: Any) -> dict[str, Any]:
    return {
        "item_id": ["n1", "n2"],
        "movie_title": ["A", "B"],
        "genre": ["Comedy", "Drama"],
        "year": [1990, 1991],
        **columns,
    }


def test_a_new_item_is_what_a_cold_one_of_the_same_features_is(checkpoint: Path, tmp_path: Path) -> None:
    of, plain = Recommender.load(checkpoint), Recommender.load(checkpoint)
    cold = cold_items(of)
    assert len(cold) >= 6
    rows = [["twin", *cells(int(cold[0][1:]))[1:]], ["other", *cells(int(cold[1][1:]))[1:]]]
    added = of.add_items(item_file(tmp_path / "new.item", *rows))
    assert dataclasses.astuple(added) == (2, 0, 0, 0, {})
    assert of.items == [*plain.items, "twin", "other"]
    assert of.knows("twin")
    assert not plain.knows("twin")
    before, after = scores(plain, HISTORY), scores(of, HISTORY)
    assert after.pop("twin") == pytest.approx(before[cold[0]], abs=1e-5)
    assert after.pop("other") == pytest.approx(before[cold[1]], abs=1e-5) != before[cold[0]]
    assert after == pytest.approx(before, abs=1e-5)
    # In a history, too; and by how it is explained.
    assert scores(of, ["twin", "i3"]) == pytest.approx(scores(of, [cold[0], "i3"]), abs=1e-5)
    assert scores(of, ["twin"]) != pytest.approx(scores(of, ["other"]), abs=1e-3)
    numbers = [of.items.index(item) for item in ("twin", cold[0])]
    one, two = (of.model.alike(number, 4) for number in numbers)
    assert [item for item, _ in one] == [item for item, _ in two] != []
    assert not {of.items[item] for item, _ in one} & {*cold, "twin", "other"}
    # What may be recommended.
    assert [item for item, _ in of.recommend([HISTORY], 5, candidates=["twin", "i1", "i0"])[0]] == sorted(
        ("twin", "i1"), key=lambda item: -after.get(item, before[cold[0]])
    )
    without: list[dict[str, Any]] = [{"exclude": ["twin"]}, {"candidates": ["other", "i1"]}]
    for gone in without:
        assert "twin" not in dict(of.recommend([HISTORY], 1000, **gone)[0])
    assert "twin" not in dict(of.recommend([["twin", "i1"]], 1000)[0])
    assert (of.unknown.times, of.unknown_candidates.times, of.unknown_excluded.times) == (0, 0, 0)
    # Nobody has it yet.
    popular = scores(of, [])
    assert popular["twin"] == 0.0
    assert dict(of.recommend([[]], 5)[0]).keys() <= set(plain.items)
    assert {item: popular[item] for item in plain.items[1:]} == scores(plain, [])


def test_a_bonus_moves_new_items_alone(checkpoint: Path) -> None:
    of = Recommender.load(checkpoint)
    of.add_items(table())
    plain = scores(of, HISTORY)
    of.add_items(table(), bonus=0.5)
    raised = scores(of, HISTORY)
    old = [plain[item] for item in of.items[1 : of.model.n_items]]
    for item in ("n1", "n2"):
        assert raised.pop(item) - plain.pop(item) == pytest.approx(0.5 * np.std(old, ddof=1), rel=1e-3)
    assert raised == pytest.approx(plain, abs=1e-6)


def test_a_file_a_mapping_and_a_data_frame_are_the_same(multvae: Path, tmp_path: Path) -> None:
    file = item_file(
        tmp_path / "new.item", ["7", "A title", "Comedy Old", "1990"], ["8", "", "Western", ""], ["9", "B", "", "1991"]
    )
    columns = {
        "year": [1990, None, 1991], "genre": [["Comedy", "Old"], np.array(["Western"]), ""], "price": [1, 2, 3],
        "movie_title": ["A title", float("nan"), "B"], "item_id": [7, 8, 9],
    }  # fmt: skip
    found = []
    for source in (file, str(file), columns, pd.DataFrame(columns)):
        of = Recommender.load(multvae)
        added = of.add_items(source)
        assert (added.new, added.without_features, added.unknown_values) == (3, 1, {"genre=Western": 1})
        assert of.items[-3:] == ["7", "8", "9"]
        assert of.new_features is not None
        found.append(of.new_features.toarray())
    for each in found[1:]:
        np.testing.assert_array_equal(each, found[0])
    assert found[0].any(1).tolist() == [True, False, True]
    # A year that pandas made a float of is a whole number as text, too.
    space = of.model.features.space
    assert read(pd.DataFrame(columns), space).cells["year"] == ["1990", "", "1991"]


def test_a_field_that_counts_for_nothing_says_nothing(multvae: Path, tmp_path: Path) -> None:
    of = Recommender.load(multvae)
    fields = dict.fromkeys(of.model.features.space.fields, 0.0) | {"genre": 1.0}
    of.model.regress(Strengths(3.0, fields))
    file = item_file(tmp_path / "new.item", ["7", "A title", "Comedy", "1990"], ["8", "A title", "", "1990"])
    assert of.add_items(file).without_features == 1


def test_an_item_of_which_nothing_is_known_has_the_mean_score_and_stands_for_nothing(multvae: Path) -> None:
    of = Recommender.load(multvae)
    of.add_items(table(genre=["Western", "Comedy"], movie_title=["", ""], year=["", "1980"]))
    found = scores(of, HISTORY)
    warm = [found[item] for item in of.items[1 : of.model.n_items] if item not in cold_items(of)]
    assert found["n1"] == pytest.approx(np.mean(warm), abs=1e-5)
    assert of.model.alike(of.items.index("n1"), 3) == []
    assert scores(of, ["n1", "i3"]) == pytest.approx(scores(of, ["i3"]), abs=1e-6)
    assert scores(of, ["n1"]) == scores(of, [])


def test_items_of_training_stay_as_they_are_and_an_earlier_new_item_gets_its_new_features(
    checkpoint: Path, tmp_path: Path
) -> None:
    of = Recommender.load(checkpoint)
    before = scores(of, HISTORY)
    cold = cold_items(of)[0]
    rows = [["i3", "Another", "Horror", "2020"], [cold, *cells(int(cold[1:]))[1:]], ["n1", "A", "Comedy", "1990"]]
    added = of.add_items(item_file(tmp_path / "shop.item", *rows))
    assert (added.new, added.known, added.changed) == (1, 2, 1)
    assert added.described() == [
        "1 new item; 2 that the model was trained with stay as trained",
        "known items with other features here, which count once the model is trained again: 1",
    ]
    first = scores(of, HISTORY)
    assert {item: first[item] for item in before} == pytest.approx(before, abs=1e-6)
    of.add_items(table(item_id=["n2", "n1"], genre=["Drama", "Horror"]))
    assert of.items[-2:] == ["n1", "n2"]
    second = scores(of, HISTORY)
    assert second["n1"] != pytest.approx(first["n1"], abs=1e-4)
    once = Recommender.load(checkpoint)
    once.add_items(table(item_id=["n2", "n1"], genre=["Drama", "Horror"]))
    assert second == pytest.approx(scores(once, HISTORY), abs=1e-6)
    assert of.add_items(table(item_id=["i1", "i2"])).new == 0
    assert of.items[-2:] == ["n1", "n2"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({}, "the table of new items has no column 'item_id'"),
        ({"item_id": ["a"], "genre": ["Comedy"], "year": [1]}, "has no column 'movie_title'. It has: item_id, genre, year"),
        (table(year=[1990]), r"differ in length \(item_id has 2, .*year has 1"),
        (table(genre="Comedy"), "'genre' must be a list"),
        (table(year=[1990, "soon"]), "the table of new items, item 'n2': 'soon' in 'year' is not a number"),
        (table(item_id=["n1", "n1"]), "item 'n1' has genre 'Drama', and 'Comedy' in an earlier line"),
        (table(item_id=["n1", None]), "item '': '' is no id of an item"),
        (table(item_id=["[PAD]", "n"]), r"'\[PAD\]' is no id of an item"),
        ({name: [] for name in table()}, "the table of new items is empty"),
        ("no.item", "no.item: cannot read this file"),
        ("", "line 1: the file is empty"),
        (HEAD, "there is no item below the first line"),
        ("genre:token_seq\tyear:float\nComedy\t1990", "has no field 'item_id'"),
        ("item_id:token\tgenre:token_seq\tyear:float\nn\tComedy\t1990", "has no field 'movie_title'"),
        (f"{HEAD.replace('genre:token_seq', 'genre:token')}\nn\tA\tComedy\t1", "line 1: 'genre' is token, and was token_s"),
        (f"{HEAD}\nn\tA\tComedy\tlate", "line 2: 'late' in 'year' is not a number"),
        (f"{HEAD}\nn\tA\tComedy", "line 2: 3 columns instead of 4"),
        (f"{HEAD}\nn\tA\tComedy\t1\nn\tA\tDrama\t1", "line 3: item 'n' has genre 'Drama', and 'Comedy'"),
    ],
)  # fmt: skip
def test_what_is_no_list_of_items_is_refused_and_changes_nothing(
    multvae: Path, source: Any, message: str, loaded: dict[Path, Recommender]
) -> None:
    if isinstance(source, str) and source != "no.item":
        Path("bad.item").write_text(source, encoding="utf-8")
        source = "bad.item"
    of = loaded.setdefault(multvae, Recommender.load(multvae)) if multvae not in loaded else loaded[multvae]
    items = list(of.items)
    with pytest.raises((ConfigError, DataError), match=message):
        of.add_items(source)
    assert of.items == items
    assert of.model.n_new == 0


@pytest.fixture(scope="module")
def loaded() -> dict[Path, Recommender]:
    return {}


def test_models_without_features_cannot(build: Builder, multvae: Path) -> None:
    from recbole_vae.data.histories import Histories
    from recbole_vae.evaluation.fold_in import as_history_model

    run = build("MultVAE")
    items, users = (run.dataset.field2id_token[name].tolist() for name in ("item_id", "user_id"))
    with pytest.raises(
        ConfigError, match="this MultVAE knows none. Train it with item_features, such as --item_features="
    ):
        Recommender(run.model, users, items, "tiny").add_items(table())
    options = dict.fromkeys(("mlp_hidden_size", "latent_dimension", "precision"))
    ease = build("EASE", data_path="data", **options)
    wrapped = as_history_model(ease.model, Histories.from_dataset(ease.train._dataset, None))
    with pytest.raises(ConfigError, match="this EASE knows none. Train a model of this package with item_features"):
        Recommender(wrapped, users, items, "tiny").add_items(table())
    of = Recommender.load(multvae)
    for bonus in (True, "1", float("nan"), 1e9):
        with pytest.raises(ConfigError, match="^bonus: .* is not allowed; it must be a number >= -1000 and <= 1000"):
            of.add_items(table(), bonus)  # type: ignore[arg-type]


def test_samples_of_the_posterior_with_new_items(checkpoint: Path) -> None:
    of = Recommender.load(checkpoint)
    of.add_items(table(), bonus=10.0)
    (ranking,) = of.recommend([["n1", "i3"]], 5, samples=20)
    assert ranking[0][0] == "n2"
    assert ranking.intervals is not None
    assert ranking.intervals[0][0] == 1
    assert len(of.recommend([["n1"]], 5, diversify=1.0)[0]) == 5


def test_a_recommended_new_item_names_the_items_it_is_like(checkpoint: Path) -> None:
    of = Recommender.load(checkpoint)
    of.add_items(table(), bonus=3.0)
    found = Explainer(of).explain("", ["i0", "n2", "i3"], 3)
    assert found.history == sorted(["i0", "n2", "i3"], key=of.items.index)
    first = found.recommendations[0]
    assert first.item_id == "n1"
    alike = [(of.items[item], weight) for item, weight in of.model.alike(of.items.index("n1"), 3)]
    assert [(each.item_id, each.weight) for each in first.alike] == alike
    assert len(alike) == 3
    for each in found.recommendations:
        assert bool(each.alike) == of.model.is_cold(of.items.index(each.item_id))
    # The influence of the new item in the history is what its absence changes.
    whole, without = (scores(of, each)["n1"] for each in (["i0", "n2", "i3"], ["i0", "i3"]))
    (influence,) = (each.influence for each in first.influences if each.item_id == "n2")
    assert influence == pytest.approx(whole - without, abs=1e-5)


NEW = (["n1", "The Newest", "Comedy", "1990"], ["n2", "The Next", "Drama Western", "1991"], ["i3", *cells(3)[1:]])


def test_commands_take_new_items(multvae: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, words = (
        item_file("new.item", *NEW),
        [f"--checkpoint={multvae}", "--new_items=new.item", "--new_items_bonus=3"],
    )
    names = f"--items={multvae.parent / 'data/tiny/tiny.item'}"
    Path("h.csv").write_text("user_id,item_id\na,i0\na,n2\na,i3\n")
    assert main(["recommend", *words, "--histories=h.csv", "-k", "3", "--out=out.csv"]) == 0
    err = capsys.readouterr().err
    assert "new.item: 2 new items; 1 that the model was trained with stays as trained\n" in err
    assert "new.item: values that the model makes no use of: 1 (such as genre=Western)\n" in err
    assert "Left out" not in err
    of = Recommender.load(multvae)
    of.add_items(file, 3.0)
    with Path("out.csv").open() as out:
        assert [row["item_id"] for row in csv.DictReader(out)] == [
            item for item, _ in of.recommend([["i0", "n2", "i3"]], 3)[0]
        ]
    assert main(["explain", *words, "--histories=h.csv", "-k", "2", names, "--json=e.json", "--html=e.html"]) == 0
    (line,) = Path("e.json").read_text(encoding="utf-8").splitlines()
    first = json.loads(line)["recommendations"][0]
    assert first["name"] == "The Newest (1990)"
    assert len(first["alike"]) == 3
    sentence = "ew, and most like Movie "
    assert "1. The Newest (1990) [Comedy], score" in (text := capsys.readouterr().out)
    assert f"     n{sentence}" in text
    assert f"<p>N{sentence}" in Path("e.html").read_text(encoding="utf-8")
    for command in ("recommend --users=u1", "explain --user=u1", "export --out=onnx", "serve"):
        assert main([*command.split(), f"--checkpoint={multvae}", "--new_items_bonus=1"]) == 2
        assert "--new_items_bonus (command line) needs --new_items=FILE." in capsys.readouterr().err
    assert main(["recommend", f"--checkpoint={multvae}", "--new_items=new.item", "--out=new.item"]) == 2
    assert "this is the file of --new_items" in capsys.readouterr().err


def test_workers_of_a_scheduler_add_the_same_items(multvae: Path) -> None:
    file = item_file("new.item", *NEW)
    of = Recommender.load(multvae)
    of.add_items(file, 3.0)
    selection, rows = of.selection(5), [of.known(["i0", "n2"])]
    about = (str(multvae), batch.fingerprint(multvae), None, (), (str(file), batch.digest(file), 3.0))
    threads = torch.get_num_threads()
    try:
        assert batch._remote(about, selection, batch.Given(rows)) == of.rank(rows, [selection])
        item_file("new.item", *NEW[:2])
        batch._loaded.cache_clear()
        with pytest.raises(DataError, match="new.item: another file than the command has under this name"):
            batch._remote(about, selection, batch.Given(rows))
    finally:
        batch._loaded.cache_clear()
        torch.set_num_threads(threads)


@pytest.mark.parametrize("bonus", [0.0, 0.7])
@pytest.mark.parametrize("correction", [None, 0.8])
def test_an_export_ranks_new_items_as_the_recommender_does(
    checkpoint: Path, bonus: float, correction: float | None
) -> None:
    pytest.importorskip("onnxruntime")
    from recbole_vae.serving.export import build as build_graph
    from tests.serving.test_export import check, fed, session_of

    of = Recommender.load(checkpoint, popularity_correction=correction)
    assert cold_items(of)
    # First the cold items alone, then a few new ones.
    for number in (0, 12):
        if number:
            # Of different features, so that no two have equal scores; and one of which nothing is known.
            rows = [
                [f"n{item}", f"Movie of {KINDS[item % 3]}", KINDS[item % 2], f"{1980.3 + 2.3 * item}"]
                for item in range(number)
            ]
            rows[5][1:] = ["", "", ""]
            of.add_items(item_file("new.item", *rows), bonus)
        n_items = len(of.items) - 1
        rng = np.random.default_rng(0)
        histories = [rng.choice(n_items, size, replace=False).tolist() for size in [1, 2, 3, 5, 8, 20] * 20]
        session = session_of(build_graph(of.model))
        nothing = [row for row in histories if not of.model.in_warm_items(_rows(of, row)).nnz]
        assert check(of, session, histories, 10) >= len(histories) - len(nothing) - 2
        check(of, session, [[], list(range(n_items)), *nothing], n_items + 3)
        small = build_graph(of.model, int8=True)
        lists, small_lists = (each.run(None, fed(histories))[0] for each in (session, session_of(small)))
        assert np.mean([len(set(one) & set(two)) for one, two in zip(lists, small_lists, strict=True)]) > 9


def _rows(of: Recommender, columns: list[int]) -> Any:
    from recbole_vae.data.histories import Histories

    return Histories.from_lists([[column + 1 for column in columns]])


def test_the_files_of_an_export_have_the_new_items(multvae: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnx")
    item_file("new.item", *NEW)
    assert main(["export", f"--checkpoint={multvae}", "--new_items=new.item", "--out=out"]) == 0
    of = Recommender.load(multvae)
    assert Path("out/items.txt").read_text().split() == [*of.items[1:], "n1", "n2"]
    about = json.loads(Path("out/model.json").read_text(encoding="utf-8"))
    assert (about["items"], about["new_items"]) == (len(of.items) + 1, 2)
    assert not {"n1", "n2"} & {each["item"] for each in about["popular"]}


def test_a_server_has_new_items_and_takes_up_others(multvae: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fastapi")
    from fastapi.testclient import TestClient

    from recbole_vae.server.app import create_app
    from recbole_vae.server.model import load
    from recbole_vae.server.settings import Settings

    monkeypatch.setattr("recbole_vae.server.model._SECONDS", 0.02)
    shutil.copy(multvae, "model.pth")
    file = item_file("new.item", *NEW)
    settings = Settings("model.pth", new_items=str(file), new_items_bonus=3.0)

    def until(condition: Any) -> None:
        end = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < end
            time.sleep(0.01)

    of = Recommender.load(multvae)
    of.add_items(file, 3.0)
    with TestClient(create_app(settings, load(settings))) as client:

        def version() -> str:
            return str(client.get("/model").json()["version"])

        first = client.get("/model").json()
        assert (first["items"], first["new_items"]) == (len(of.items) - 1, 2)
        assert [len(part) for part in first["version"].split("+")] == [12, 8]
        asked = {"histories": [["i0", "n2"]], "k": 4}
        answer = client.post("/recommend", json=asked).json()
        assert answer["rankings"][0]["items"] == [item for item, _ in of.recommend([["i0", "n2"]], 4)[0]]
        assert answer["unknown_items"] == 0
        explained = client.post("/explain", json={"history": ["i0", "i3"], "k": 1}).json()["recommendations"][0]
        assert explained["name"].startswith("The N")
        assert len(explained["alike"]) == 3
        assert client.get("/items/n1/similar").status_code == 200
        item_file("next.item", *NEW, ["n3", "Third", "Horror", "1992"]).replace(file)
        until(lambda: version() != first["version"])
        assert client.get("/model").json()["new_items"] == 3
        assert client.post("/recommend", json={"histories": [["n3"]], "k": 1}).json()["unknown_items"] == 0
        item_file("next.item", ["n4", "Bad", "Horror", "late"]).replace(file)
        until(lambda: 'recbole_vae_reloads_total{result="refused"} 1.0' in client.get("/metrics").text)
        assert client.get("/model").json()["new_items"] == 3
