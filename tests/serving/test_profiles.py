"""Profiles in use: on the command line, over HTTP, by Dask's workers, in explanations, and refused where they cannot be."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recbole_vae.analysis import latent
from recbole_vae.analysis.explain import Explainer
from recbole_vae.analysis.uncertainty import evaluate
from recbole_vae.cli.main import main
from recbole_vae.compare.deployed import _Known
from recbole_vae.data.histories import Histories
from recbole_vae.serving import batch
from recbole_vae.serving.recommender import Recommender
from tests.conftest import OPTIONS
from tests.model.test_user_features import ARGS, write_data

NEW = "user_id:token\tgroup:token\tage:float\nn1\ta\t30\nn2\tc\t\nn3\tz\t\nu1\tb\t50\n"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("profiles")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("sys.argv", ["pytest"])
        given = {
            **OPTIONS, "data_path": write_data(), "checkpoint_dir": "saved", "epochs": 25, "learning_rate": 0.02,
            "weight_averaging": 0, "user_features": "group,age", "eval_args": ARGS, "topk": 5, "valid_metric": "NDCG@5",
        }  # fmt: skip
        words = [f"--{name}={value}" for name, value in given.items()]
        assert main(["run", "--model=MultVAE", "--dataset=tiny", *words]) == 0
        (file,) = (folder / "saved").glob("*.pth")
        return file.rename(folder / "model.pth")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("sys.argv", ["pytest"])
        words = [f"--{name}={value}" for name, value in {**OPTIONS, "data_path": write_data(), "epochs": 1}.items()]
        assert main(["run", "--model=MultVAE", "--dataset=tiny", *words, "--checkpoint_dir=saved"]) == 0
        return next((folder / "saved").glob("*.pth"))


def lists_of(text: str) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for row in csv.DictReader(text.splitlines()):
        found.setdefault(row["user_id"], []).append((row["item_id"], pytest.approx(float(row["score"]), abs=1e-4)))
    return found


def test_the_command_ranks_by_histories_and_profiles(checkpoint: Path) -> None:
    Path("new.user").write_text(NEW)
    Path("new.csv").write_text("user_id,item_id\nn1,i0\nn1,i12\nother,i20\n")
    command = [sys.executable, "-m", "recbole_vae", "recommend", f"--checkpoint={checkpoint}", "-k", "4"]
    done = subprocess.run(
        [*command, "--histories=new.csv", "--profiles=new.user"], capture_output=True, text=True, check=True
    )
    found, of = lists_of(done.stdout), Recommender.load(checkpoint)
    histories = [["i0", "i12"], ["i20"], [], [], of.history("u1") if of.knows_user("u1") else []]
    profiles = [{"group": "a", "age": 30}, None, {"group": "c"}, None, {"group": "b", "age": 50}]
    expected = of.recommend(histories, 4, profiles=profiles)
    assert list(found) == ["n1", "other", "n2", "n3", "u1"]
    assert list(found.values()) == [list(ranking) for ranking in expected]
    for line in (
        "new.user: 4 profiles with the fields group, age", "new.user: users of whom nothing is known: 1",
        "Left out of profiles: 1 times a value that the model makes no use of (such as group=z).",
        "Users with no item in the training data and no known profile: 1; they got the most popular items.",
    ):  # fmt: skip
        assert line in done.stderr


def test_users_of_the_file_alone_and_known_users(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recbole_vae.serving.recommender.trains_on_whole_histories", lambda _: False)
    Path("new.user").write_text(NEW)
    assert main(["recommend", f"--checkpoint={checkpoint}", "--profiles=new.user", "-k", "3"]) == 0
    of = Recommender.load(checkpoint)
    said = capsys.readouterr()
    assert lists_of(said.out)["n2"] == list(of.recommend([[]], 3, profiles=[{"group": "c"}])[0])
    assert ("lists may have items that users own already" in said.err) == of.knows_user("u1")
    user = of.users[1]
    assert main(["recommend", f"--checkpoint={checkpoint}", f"--users={user}", "-k", "3"]) == 0
    assert lists_of(capsys.readouterr().out)[user] == list(of.recommend_users([user], 3)[0])
    assert of.recommend_users([user], 3) != of.recommend([of.history(user)], 3)


@pytest.mark.parametrize(
    ("content", "words", "message"),
    [
        (NEW, ["--users=u1"], "--users and --profiles (command line) cannot be given together"),
        (NEW.replace("group", "grp"), [], "user_features: new.user has no field 'group'; did you mean grp?"),
        (NEW.replace("30", "old"), [], "new.user, line 2: 'old' in 'age' is not a number"),
        (f"{NEW}\ta\t30\n", [], "new.user, line 6: '' is no id of a user."),
        (f"{NEW}n1\tb\t30\n", [], "new.user, line 6: user 'n1' has group 'b', and 'a' in an earlier line (2)"),
    ],
    ids=["users", "field", "text", "no id", "twice"],
)
def test_files_of_profiles_that_are_wrong(
    checkpoint: Path, content: str, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("new.user").write_text(content)
    assert main(["recommend", f"--checkpoint={checkpoint}", "--profiles=new.user", *words]) != 0
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_model_without_user_features_refuses_profiles(plain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("new.user").write_text(NEW)
    assert main(["recommend", f"--checkpoint={plain}", "--profiles=new.user"]) != 0
    assert "this MultVAE knows users by their histories alone. Train it with user_features" in " ".join(
        capsys.readouterr().err.split()
    )


def test_workers_of_a_scheduler_read_profiles(checkpoint: Path) -> None:
    of = Recommender.load(checkpoint)
    selection = of.selection(5)
    given = batch.Given([of.known(["i0"]), []], of.encoded([{"group": "b"}, {"group": "c"}]).profiles)
    about = (str(checkpoint), batch.fingerprint(checkpoint), None, (), None)
    threads = torch.get_num_threads()
    try:
        expected = of.recommend([["i0"], []], 5, profiles=[{"group": "b"}, {"group": "c"}])
        assert batch._remote(about, selection, given) == expected
    finally:
        batch._loaded.cache_clear()
        torch.set_num_threads(threads)


def test_each_history_keeps_its_profile_where_selections_differ(checkpoint: Path) -> None:
    of = Recommender.load(checkpoint)
    profiles: list[dict[str, Any]] = [{"group": each} for each in "abca"]
    selections = [of.selection(3), of.selection(3, popularity_correction=0.5)]
    wanted = [selections[place] for place in (0, 1, 0, 1)]
    found = of.rank([[]] * 4, wanted, of.encoded(profiles).profiles)
    for selection, profile, ranking in zip(wanted, profiles, found, strict=True):
        (single,) = of.rank([[]], [selection], of.encoded([profile]).profiles)
        assert dict(ranking) == pytest.approx(dict(single), abs=1e-5)
    assert len({tuple(item for item, _ in ranking) for ranking in found}) >= 3


@pytest.mark.parametrize("method", ["exact", "gradient"])
def test_an_explanation_takes_the_profile_as_given(checkpoint: Path, method: str) -> None:
    of = Recommender.load(checkpoint)
    (profile,) = of.encoded([{"group": "b", "age": 40}]).profiles
    history = ["i0", "i12", "i31"]
    found = Explainer(of).explain("me", history, 3, method=method, profile=profile)
    assert found.by_profile
    (ranking,) = of.recommend([history], 3, profiles=[{"group": "b", "age": 40}])
    assert [(each.item_id, each.score) for each in found.recommendations] == list(ranking)

    def score(items: list[str], wanted: str) -> float:
        row = Histories.from_lists([of.known(items)])
        with torch.no_grad():
            scores = of.model.score(replace(row, profiles=Histories.from_profiles([profile])))
        return float(scores[0, of.items.index(wanted)])

    for each in found.recommendations:
        for one in each.influences:
            rest = [item for item in history if item != one.item_id]
            drop = score(history, each.item_id) - score(rest, each.item_id)
            if method == "exact":
                assert one.influence == pytest.approx(drop, abs=1e-4)
            else:
                assert one.influence == pytest.approx(slope(of, profile, history, one.item_id, each.item_id), abs=2e-3)


def slope(of: Recommender, profile: dict[int, float], history: list[str], item: str, wanted: str) -> float:
    """Return the derivative of a score with respect to the weight of an item of the history, by a central difference."""
    row = Histories.from_lists([of.known(history)])
    row = replace(row, profiles=Histories.from_profiles([profile]))
    place, found = [of.items[each] for each in row.indices.tolist()].index(item), []
    for step in (0.02, -0.02):
        values = torch.ones(len(history))
        values[place] += step
        with torch.no_grad():
            found.append(float(of.model.score(replace(row, values=values))[0, of.items.index(wanted)]))
    return (found[0] - found[1]) / 0.04


def test_histories_are_explained_with_the_profiles_of_a_file(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("new.user").write_text(NEW)
    Path("new.csv").write_text("user_id,item_id\nn1,i0\nn1,i12\nn3,i20\nother,i20\n")
    words = ["explain", f"--checkpoint={checkpoint}", "-k", "3", "--json=-"]
    assert main([*words, "--histories=new.csv", "--profiles=new.user"]) == 0
    done = capsys.readouterr()
    of = Recommender.load(checkpoint)
    rankings = of.recommend(
        [["i0", "i12"], ["i20"], ["i20"]], 3, profiles=[{"group": "a", "age": 30}, {"group": "z"}, None]
    )
    found = [json.loads(line) for line in done.out.splitlines()]
    assert [each["user"] for each in found] == ["n1", "n3", "other"]
    for each, ranking in zip(found, rankings, strict=True):
        assert [one["item_id"] for one in each["recommendations"]] == [item for item, _ in ranking]
        assert [one["score"] for one in each["recommendations"]] == pytest.approx([score for _, score in ranking])
    assert "new.user: 4 profiles" in done.err
    assert "(such as group=z)" in done.err
    assert "new.user: users without a history in new.csv, not explained: 2" in done.err
    for other in ("--user=u1", "--users=u1,u2"):
        assert main([*words, other, "--profiles=new.user"]) == 2
        assert "--profiles (command line) needs --histories=FILE" in capsys.readouterr().err


def test_an_explanation_of_a_profile_alone_says_so(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from recbole_vae.analysis.explain_report import as_text, html

    of = Recommender.load(checkpoint)
    (profile,) = of.encoded([{"group": "b"}]).profiles
    found = Explainer(of).explain("me", [], 2, profile=profile)
    assert found.by_profile
    assert "because of the profile alone" in as_text(found)
    assert "rest on the user&#39;s profile alone" in str(html([found])).replace("'", "&#39;")
    assert "it is among the most popular" in as_text(Explainer(of).explain("me", [], 2))
    user = of.users[1]
    assert main(["explain", f"--checkpoint={checkpoint}", f"--user={user}", "-k", "2", "--json=-"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["by_profile"]
    assert [each["item_id"] for each in said["recommendations"]] == [
        item for item, _ in of.recommend_users([user], 2)[0]
    ]


def test_the_latent_page_and_the_uncertainty_report_are_of_the_same_model(checkpoint: Path) -> None:
    of = Recommender.load(checkpoint)
    user = of.users[2]
    found = latent.describe(of, axes="latents", latents=2, k=4, user=user)
    assert found.traversals[0].lists[3] == [item for item, _ in of.recommend_users([user], 4)[0]]


def test_the_uncertainty_report_scores_held_out_users_with_their_profiles(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checkpoint.parent)
    with_profiles = evaluate(checkpoint, k=5, samples=0)
    import recbole_vae.analysis.uncertainty as module

    monkeypatch.setattr(module, "fold_in_of", lambda _, loader: loader.fold_in)
    without = evaluate(checkpoint, k=5, samples=0)
    assert [each.area for each in with_profiles.orders] != [each.area for each in without.orders]


def test_what_is_drawn_around_users_has_their_profiles(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from recbole_vae.analysis import generate

    of, given = Recommender.load(checkpoint), []
    users = of.users[2:5]

    def synthesise(model: Any, around: Histories, *_: Any, **__: Any) -> Any:
        given.append(around)
        return iter([])

    monkeypatch.setattr(generate, "synthesise", synthesise)
    assert main(["generate", f"--checkpoint={checkpoint}", f"--around={','.join(users)}", "--out=drawn"]) == 0
    (around,) = given
    assert around.profiles is not None
    assert around.profiles.mappings() == [of.profile(user) for user in users]
    assert any(around.profiles.mappings())


def test_a_deployed_model_is_measured_with_the_profiles_of_its_users(checkpoint: Path) -> None:
    """``--histories`` of a stranger changes nothing for the users who are in the training data."""
    of = Recommender.load(checkpoint)
    users = [*of.users[1:6], "stranger"]
    plain = _Known(of, np.array(users), np.array(of.items[1:]), {})
    given = _Known(of, np.array(users), np.array(of.items[1:]), {"stranger": ["i0"]})
    for known in (plain, given):
        assert known.histories.profiles is not None
        assert known.histories.profiles.mappings() == [of.profile(user) for user in users]
    rows = torch.arange(5)
    torch.testing.assert_close(of.model.score(given.histories[rows]), of.model.score(plain.histories[rows]))


def test_an_export_is_refused(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnx")
    assert main(["export", f"--checkpoint={checkpoint}", "--out=out"]) != 0
    assert "MultVAE with user_features cannot be exported" in " ".join(capsys.readouterr().err.split())


def test_a_server_takes_profiles(checkpoint: Path, plain: Path) -> None:
    pytest.importorskip("fastapi")
    from fastapi.testclient import TestClient

    from recbole_vae.server import schemas
    from recbole_vae.server.app import create_app
    from recbole_vae.server.model import load
    from recbole_vae.server.settings import Settings

    sent = b'{"histories": [[]], "profiles": [{"zip": 3.0, "more": [4.0, 2.5, 5]}]}'  # of clients without whole numbers
    assert schemas.read(schemas.RecommendRequest, sent).profiles == [{"zip": "3", "more": ["4", "2.5", "5"]}]
    of = Recommender.load(checkpoint)
    histories: list[Any] = [["i0"], [], []]
    profiles: list[Any] = [{"group": "b", "age": 40.0}, {"group": ["c"], "age": None}, {"group": "z"}]
    settings = Settings(str(checkpoint))
    with TestClient(create_app(settings, load(settings))) as client:
        assert client.get("/model").json()["profile_fields"] == ["group", "age"]
        for more in ({}, {"samples": 5}):
            answer = client.post(
                "/recommend", json={"histories": histories, "profiles": profiles, "k": 4, **more}
            ).json()
            expected = of.recommend(histories, 4, profiles=[profiles[0], {"group": "c"}, None])
            assert [each["items"] for each in answer["rankings"]] == [[item for item, _ in each] for each in expected]
            assert answer["unknown_values"] == 1
        user = of.users[1]
        answer = client.post("/recommend", json={"users": [user], "k": 4}).json()
        assert answer["rankings"][0]["items"] == [item for item, _ in of.recommend_users([user], 4)[0]]
        plainly = client.post("/recommend", json={"histories": histories, "k": 4}).json()
        assert [each["items"] for each in plainly["rankings"]] == [
            [item for item, _ in each] for each in of.recommend(histories, 4)
        ]
        asked = {"history": [], "profile": {"group": "a"}, "k": 2}
        explained = client.post("/explain", json=asked).json()
        assert explained["by_profile"]
        assert [each["item_id"] for each in explained["recommendations"]] == [
            item for item, _ in of.recommend([[]], 2, profiles=[{"group": "a"}])[0]
        ]
        for path, body, message in (
            ("/recommend", {"histories": [[]], "profiles": [{"grop": "a"}]}, "no field 'grop'; did you mean group?"),
            ("/recommend", {"histories": [[]], "profiles": [{}, {}]}, "profiles: there are 2, and 1 histories"),
            ("/recommend", {"users": [user], "profiles": [{}]}, "profiles: they go with histories; users of the training data"),
            ("/recommend", {"histories": [[]], "profiles": [{"age": "old"}]}, "profiles[0]: 'old' in 'age' is not a number"),
            ("/recommend", {"histories": [[]], "profiles": [{"group": ["a", "b"]}]}, "profiles[0]: 'group' has one value, not 2"),
            ("/recommend", {"histories": [[]], "profiles": {"group": "a"}}, "profiles: it must be a list"),
            ("/explain", {"history": [], "profile": {"grop": "a"}}, "profile: there is no field 'grop'; did you mean group?"),
            ("/explain", {"history": [], "profile": {"age": "old"}}, "profile: 'old' in 'age' is not a number"),
            ("/recommend", {"histories": [[]], "profiles": [{"age": {"a": 1}}]}, "profiles[0].age: it must be a string"),
            ("/explain", {"user": user, "profile": {}}, "profile: a user of the training data has the profile"),
        ):  # fmt: skip
            refused = client.post(path, json=body)
            assert refused.status_code == 422, (path, body)
            assert message in refused.json()["detail"]
    settings = Settings(str(plain))
    with TestClient(create_app(settings, load(settings))) as client:
        assert client.get("/model").json()["profile_fields"] == []
        refused = client.post("/recommend", json={"histories": [[]], "profiles": [{"group": "a"}]})
        assert refused.status_code == 422
        assert "knows users by their histories alone" in refused.json()["detail"]


def test_a_plan_compares_with_and_without(capsys: pytest.CaptureFixture[str]) -> None:
    write_data()
    own = {name: value for name, value in OPTIONS.items() if name not in ("show_progress", "epochs")}
    args = {"split": {"HU": [15, 15]}, "fold_in": 0.15, "order": "RO", "mode": "full", "group_by": "user"}
    plan = {
        "datasets": ["tiny"], "metrics": ["NDCG"], "topk": [5], "seeds": [1],
        "rows": ["MultVAE", {"model": "MultVAE", "label": "profiles", "settings": {"user_features": ["group", "age"]}}],
        "settings": {**own, "data_path": "data", "eval_args": args, "epochs": 25, "learning_rate": 0.02, "stopping_step": 0},
    }  # fmt: skip
    Path("plan.yaml").write_text(json.dumps(plan))
    assert main(["compare", "--config=plan.yaml", "--out=out"]) == 0, capsys.readouterr().err
    with Path("out/table.csv").open(encoding="utf-8") as file:
        found = {row["label"]: float(row["mean"]) for row in csv.DictReader(file) if row["metric"] == "ndcg@5"}
    assert found["profiles"] > found["MultVAE"] + 0.1
