"""What the server answers."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from recbole_vae import Recommender
from recbole_vae.analysis.explain import Explainer
from recbole_vae.server.app import create_app
from recbole_vae.server.model import load
from recbole_vae.server.settings import Limits, Settings
from tests.server.conftest import Serving

HISTORIES = [["i0", "i3", "i4"], ["i7", "no such item"], [], ["i2", "i2"]]


@pytest.fixture
def recommender(checkpoint: Path) -> Recommender:
    return Recommender.load(checkpoint)


def same(answer: dict[str, Any], rankings: list[Any]) -> None:
    assert [each["items"] for each in answer["rankings"]] == [[item for item, _ in ranking] for ranking in rankings]
    for each, ranking in zip(answer["rankings"], rankings, strict=True):
        assert each["scores"] == pytest.approx([score for _, score in ranking], rel=1e-5, abs=1e-6)


OPTIONS: list[dict[str, Any]] = [
    {},
    {"k": 3},
    {"k": 1000},
    {"exclude_seen": False},
    {"candidates": ["i1", "i5", "i9", "i12", "never heard of"]},
    {"exclude": ["i1", "i5", "never heard of"]},
    {"candidates": ["i1", "i5", "i9"], "exclude": ["i5"], "exclude_seen": False},
    {"popularity_correction": 2.0},
    {"popularity_correction": -2.0, "k": 4, "exclude": ["i0"]},
    {"samples": 20, "k": 4},
    {"samples": 5, "seed": 7, "popularity_correction": 1.0},
    {"diversify": 2.0, "seed": 3},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_lists_are_those_of_recommender(client: TestClient, recommender: Recommender, options: dict[str, Any]) -> None:
    answer = client.post("/recommend", json={"histories": HISTORIES, **options})
    assert answer.status_code == 200, answer.text
    found, expected = answer.json(), recommender.recommend(HISTORIES, **options)
    same(found, expected)
    assert [each["known_items"] for each in found["rankings"]] == [3, 1, 0, 1]
    assert found["unknown_items"] == 1
    assert found["unknown_candidates"] == ("never heard of" in options.get("candidates", ()))
    assert found["unknown_excluded"] == ("never heard of" in options.get("exclude", ()))
    for each, ranking in zip(found["rankings"], expected, strict=True):
        if ranking.intervals is None:
            assert "rank_low" not in each
        else:
            assert list(zip(each["rank_low"], each["rank_high"], strict=True)) == ranking.intervals
            assert each["stability"] == pytest.approx(ranking.stability)
            assert each["expected_ndcg"] == pytest.approx(ranking.expected_ndcg, rel=1e-4)


def test_users_are_ranked_by_their_training_histories(client: TestClient, recommender: Recommender) -> None:
    users = ["u3", "u17", "u3"]
    same(client.post("/recommend", json={"users": users, "k": 5}).json(), recommender.recommend_users(users, k=5))


def test_requests_that_come_together_are_ranked_together_and_each_by_its_own_options(
    checkpoint: Path, recommender: Recommender
) -> None:
    rng = random.Random(0)
    asked = [
        {
            "histories": [rng.sample(recommender.items[1:], rng.randrange(6)) for _ in range(rng.choice((1, 1, 3)))],
            **options,
        }
        for options in OPTIONS
        for _ in range(4)
        if not options.get("samples") and not options.get("diversify")
    ]
    rng.shuffle(asked)
    settings = Settings(str(checkpoint))
    app = create_app(settings, load(settings))

    async def ask() -> tuple[list[Any], str]:
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://x") as client,
        ):
            answers = await asyncio.gather(*(client.post("/recommend", json=each) for each in asked))
            return [each.json() for each in answers], (await client.get("/metrics")).text

    answers, metrics = asyncio.run(ask())
    for each, answer in zip(asked, answers, strict=True):
        options = {name: value for name, value in each.items() if name != "histories"}
        same(answer, recommender.recommend(each["histories"], **options))
    batches = float(re.search(r"^recbole_vae_batch_histories_count (.*)", metrics, re.MULTILINE)[1])  # type: ignore[index]
    assert batches < len(asked) / 3


def test_a_refused_request_takes_no_other_with_it(other_checkpoint: Path) -> None:
    """A weight that is 0 in float32 shows only when the batch is made."""
    asked = [{"histories": [{"i0": weight, "i3": 2.0}], "k": 3} for weight in (1.0, 1e-60) * 8]
    settings = Settings(str(other_checkpoint))
    app = create_app(settings, load(settings))

    async def ask() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://x") as client,
        ):
            return await asyncio.gather(*(client.post("/recommend", json=each) for each in asked))

    answers = asyncio.run(ask())
    assert [each.status_code for each in answers] == [200, 422] * 8
    expected = Recommender.load(other_checkpoint).recommend(asked[0]["histories"], 3)  # type: ignore[arg-type]
    for each in answers[::2]:
        same(each.json(), expected)


def test_explanations_are_those_of_explainer(client: TestClient, recommender: Recommender) -> None:
    answer = client.post("/explain", json={"history": ["i0", "i3", "x"], "k": 3}).json()
    assert len(answer.pop("version")) == 12
    unknown = [answer.pop(f"unknown_{what}") for what in ("items", "candidates", "excluded", "values")]
    assert unknown == [1, 0, 0, 0]
    assert answer == json.loads(json.dumps(asdict(Explainer(recommender).explain("", ["i0", "i3", "x"], 3))))
    of_user = client.post("/explain", json={"user": "u3", "k": 2, "method": "gradient", "counterfactual": False}).json()
    expected = Explainer(recommender).explain("u3", recommender.history("u3"), 2, method="gradient", search=False)
    assert [each["item_id"] for each in of_user["recommendations"]] == [
        each.item_id for each in expected.recommendations
    ]
    assert (of_user["user"], of_user["method"], of_user["searched"]) == ("u3", "gradient", False)
    assert client.post("/explain", json={"user": "nobody"}).status_code == 404


def test_what_recommend_shows_under_a_restriction_can_be_explained(client: TestClient) -> None:
    given = {"candidates": ["i1", "i5", "i9", "i12", "x", "y"], "exclude": ["i5", "z"], "k": 2}
    (shown,) = client.post("/recommend", json={"histories": [["i0", "i3"]], **given}).json()["rankings"]
    answer = client.post("/explain", json={"history": ["i0", "i3"], **given}).json()
    assert [each["item_id"] for each in answer["recommendations"]] == shown["items"]
    assert (answer["unknown_items"], answer["unknown_candidates"], answer["unknown_excluded"]) == (0, 2, 1)
    assert client.post("/explain", json={"history": ["i0"], "candidates": ["x"]}).status_code == 422


def test_similar_items_are_what_somebody_with_that_item_gets(client: TestClient, recommender: Recommender) -> None:
    answer = client.get("/items/i3/similar?k=4&popularity_correction=1").json()
    (expected,) = recommender.recommend([["i3"]], 4, popularity_correction=1.0)
    assert answer["items"] == [item for item, _ in expected]
    assert answer["item"] == "i3"
    for item in ("nothing", "a%2Fb", "[PAD]", "%F0%9F%98%80"):
        missing = client.get(f"/items/{item}/similar")
        assert missing.status_code == 404
        assert "is not among those of the training data" in missing.json()["detail"]


def test_weights_and_ids_that_look_like_numbers(serving: Serving, other_checkpoint: Path) -> None:
    history = {"i0": 5.0, "i3": 0.5, "new": 1}
    with serving(other_checkpoint) as client:
        found = client.post("/recommend", json={"histories": [history, list(history)]}).json()
        same(found, Recommender.load(other_checkpoint).recommend([history, list(history)]))
        assert client.get("/model").json()["takes_weights"]
        assert client.post("/recommend", json={"histories": [[1, 2]], "k": 1}).json()["unknown_items"] == 2
    with serving() as client:
        refused = client.post("/recommend", json={"histories": [history]})
        assert refused.status_code == 422
        assert "trained without value_field" in refused.json()["detail"]


def test_a_model_of_recboles(serving: Serving, recboles_checkpoint: Path) -> None:
    with serving(recboles_checkpoint) as client:
        found = client.post("/recommend", json={"histories": HISTORIES, "k": 5, "exclude": ["i1"]}).json()
        same(found, Recommender.load(recboles_checkpoint).recommend(HISTORIES, 5, exclude=["i1"]))
        for options in ({"samples": 3}, {"diversify": 1}, {"popularity_correction": 1}):
            refused = client.post("/recommend", json={"histories": HISTORIES, **options})
            assert refused.status_code == 422, options
            assert "EASE" in refused.json()["detail"]


def test_who_is_not_known_is_named(client: TestClient) -> None:
    answer = client.post("/recommend", json={"users": ["u1", "x", "y", "x"]})
    assert answer.status_code == 404
    assert answer.json() == {
        "detail": "users: 'x' and 1 more are not among those of the training data; send their histories instead.",
        "unknown_users": ["x", "y"],
    }


def test_what_watches_over_it(serving: Serving, checkpoint: Path) -> None:
    with serving() as client:
        watch(client, checkpoint)


def watch(client: TestClient, checkpoint: Path) -> None:
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/ready").json() == {"status": "ready"}
    model = client.get("/model").json()
    assert (model["model"], model["dataset"], model["items"], model["users"]) == ("MultVAE", "tiny", 25, 40)
    assert model["file"] == checkpoint.name
    client.post("/recommend", json={"histories": [["i1", "x", "y"], []]})
    client.post("/recommend", json={})
    client.get("/no/such/path")
    metrics = client.get("/metrics").text
    for line in (
        'recbole_vae_requests_total{path="/recommend",status="200"} 1.0',
        'recbole_vae_requests_total{path="/recommend",status="422"} 1.0',
        'recbole_vae_requests_total{path="other",status="404"} 1.0',
        'recbole_vae_request_seconds_count{path="/recommend"} 2.0',
        "recbole_vae_histories_total 2.0",
        "recbole_vae_unknown_items_total 2.0",
        "recbole_vae_empty_histories_total 1.0",
        f'recbole_vae_model{{dataset="tiny",model="MultVAE",version="{model["version"]}"}} 1.0',
        'recbole_vae_reloads_total{result="refused"} 0.0',
    ):
        assert line in metrics.splitlines(), metrics
    age = float(re.search(r"^recbole_vae_model_age_seconds (.*)", metrics, re.MULTILINE)[1])  # type: ignore[index]
    assert age == pytest.approx(model["age_seconds"], abs=30)


def test_the_pages_of_the_api_need_no_network(client: TestClient) -> None:
    page = client.get("/docs").text
    linked = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert linked
    for link in linked:
        assert link.startswith("/")
        assert client.get(link).status_code == 200
    api = client.get("/openapi.json").json()
    assert set(api["paths"]) == {
        "/recommend", "/explain", "/items/{item}/similar", "/model", "/health", "/ready", "/metrics",
    }  # fmt: skip
    for reference in re.findall(r'"\$ref": ?"#/([^"]*)"', json.dumps(api)):
        found: Any = api
        for part in reference.split("/"):
            found = found[part]
    example = api["paths"]["/recommend"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert set(example["properties"]) >= {"histories", "users", "k", "candidates", "exclude"}


def test_the_log_has_no_history(
    client: TestClient, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, recommender: Recommender
) -> None:
    word = " ".join(("a", "secret"))  # the log shows lines of this file
    caplog.set_level(logging.INFO)
    logging.getLogger("recbole_vae.server").addHandler(caplog.handler)
    try:
        client.post("/recommend", json={"histories": [["i1", "a secret"]]})
        client.post("/recommend", json={"histories": [["a secret", {}]]})

        def fail(self: Recommender, *arguments: Any) -> Any:
            raise KeyError(word)

        monkeypatch.setattr(Recommender, "rank", fail)
        answer = client.post("/recommend", json={"histories": [["i1", "a secret"]]})
        monkeypatch.undo()
    finally:
        logging.getLogger("recbole_vae.server").removeHandler(caplog.handler)
    assert answer.status_code == 500
    assert "KeyError in a request" in caplog.text
    assert "a secret" not in caplog.text + answer.text
    assert client.post("/recommend", json={"histories": [["i1"]]}).status_code == 200  # it goes on


def test_a_large_request_does_not_hold_up_small_ones(checkpoint: Path) -> None:
    from recbole_vae.server.lanes import Given, Job, RankingLane
    from recbole_vae.server.metrics import Metrics
    from recbole_vae.server.model import Current

    async def batches() -> list[list[tuple[str, int, int]]]:
        settings = Settings(str(checkpoint))
        lane = RankingLane(Current(settings, load(settings)), Metrics(), Limits().queue)
        names = {}
        for name, size in (("large", 150), ("small", 1), ("other", 2)):
            job = Job(lambda served: Given([]), size, lambda served: served.recommender.selection())
            job.future = asyncio.get_running_loop().create_future()
            names[job] = name
            lane.waiting += size
            lane._jobs.append(job)
        found = []
        while parts := lane._take():
            found.append([(names[job], start, stop) for job, start, stop in parts])
        assert lane.waiting == 0
        lane.close()
        return found

    first, *rest = asyncio.run(batches())
    assert first == [
        ("large", 0, 16),
        ("small", 0, 1),
        ("other", 0, 2),
        ("large", 16, 32),
        ("large", 32, 48),
        ("large", 48, 61),
    ]
    assert rest[-1][-1] == ("large", 141, 150) or rest[-1][-1][2] == 150
