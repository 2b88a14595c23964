"""What the server refuses: what is malformed, too much, or not allowed."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from recbole_vae import Recommender
from recbole_vae.server.settings import Limits
from tests.server.conftest import Serving

JSON = {"content-type": "application/json"}
DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"", 400, "the body is not JSON"),
        (b"{", 400, "the body is not JSON"),
        (b"\xff\xfe\x00", 400, "the body is not JSON"),
        (b'{"histories": [["\\ud800"]]}', 400, "the body is not JSON"),
        (DEEP.encode(), 400, "recursion limit exceeded"),
        (b'{"histories": [[NaN]]}', 400, "the body is not JSON"),
        (b'{"histories": [["i1"]], "diversify": Infinity}', 400, "the body is not JSON"),
        (b'{"histories": [["i1"]], "k": ' + b"9" * 6000 + b"}", 400, "number out of range"),
        (b'{"histories": [["i1"]], "k": ' + b"9" * 400 + b"}", 422, "k:"),
        (b'{"histories": [["i1"]], "k": 1e999}', 422, "k:"),
        (b'{"histories": [["i1"]], "k": 0}', 422, "k: it must be greater than or equal to 1 (it is 0)"),
        (b'{"histories": [["i1"]], "k": "3"}', 422, "k: it must be an integer"),
        (b'{"histories": [["i1"]], "k": true}', 422, "k:"),
        (b'{"histories": [["i1"]], "seed": 1e3}', 422, "seed:"),
        (b'{"histories": [["i1"]], "seed": 99999999999999999999}', 422, "seed:"),
        (b'{"histories": [["i1"]], "samples": 1001}', 422, "samples:"),
        (b'{"histories": [["i1"]], "samples": 3, "diversify": 1}', 422, "samples and diversify cannot be given together"),
        (b'{"histories": [["i1"]], "popularity_correction": 1e9}', 422, "popularity_correction:"),
        (b"[]", 422, "the body: it must be an object of JSON"),
        (b"null", 422, "the body: it must be an object of JSON"),
        (b"{}", 422, "histories and users: neither is given; give one of them."),
        (b'{"histories": [["i1"]], "users": ["u1"]}', 422, "histories and users: both are given; give one of them."),
        (b'{"histories": []}', 422, "histories: the list is empty"),
        (b'{"histories": ["i1"]}', 422, "histories[0]: it must be a list"),
        (b'{"histories": "i1"}', 422, "histories: it must be a list"),
        (b'{"histories": [["i1", null]]}', 422, "histories[0][1]: it must be a string"),
        (b'{"histories": [["i1", true]]}', 422, "histories[0][1]: it must be a string (it is True)"),
        (b'{"histories": [{"i1": -1}]}', 422, "histories[0].i1: it must be greater than 0 (it is -1)"),
        (b'{"histories": [{"i1": 1e300}]}', 422, "histories[0].i1: it must be less than or equal to"),
        (b'{"histories": [["i1"]], "candidate": ["i1"]}', 422, "candidate: there is no such field; did you mean candidates?"),
        (b'{"histories": [["i1"]], "candidates": []}', 422, "candidates: the list is empty"),
        (b'{"histories": [["i1"]], "candidates": ["x"]}', 422, "candidates: the model knows none of the 1 items"),
        (b'{"users": {}}', 422, "users: it must be a list"),
    ],
)  # fmt: skip
def test_malformed_bodies(client: TestClient, body: bytes, status: int, said: str) -> None:
    answer = client.post("/recommend", content=body, headers=JSON)
    assert answer.status_code == status, answer.text
    assert said in answer.json()["detail"]
    assert len(answer.json()["detail"]) < 400


def test_other_faults_of_a_request(client: TestClient) -> None:
    assert client.post("/recommend", data={"k": "3"}).status_code == 415
    for content_type in ({}, {"content-type": ""}, {"content-type": "text/plain; x=1"}):
        for path in ("/recommend", "/explain"):
            answer = client.post(path, content='{"histories": [["i1"]]}', headers=content_type)
            assert answer.status_code == 415
            assert answer.json()["detail"].endswith(" is not allowed; it must be application/json.")
    assert client.get("/recommend").status_code == 405
    assert client.get("/nothing").status_code == 404
    for query in (
        "k=x",
        "k=0",
        f"k={'9' * 5000}",
        "k=1e5",
        "k=",
        "popularity_correction=nan",
        "popularity_correction=1e9",
    ):
        answer = client.get(f"/items/i1/similar?{query}")
        assert answer.status_code == 422, query
        assert answer.json()["detail"].startswith(query.partition("=")[0])
    assert client.post("/explain", json={"history": ["i1"], "user": "u1"}).status_code == 422
    assert client.post("/explain", json={"history": ["i1"], "k": 51}).status_code == 422
    assert client.post("/explain", json={"history": ["i1"], "method": "magic"}).status_code == 422


def mutations(seed: int) -> Iterator[bytes]:
    """Make requests, and break most of them."""
    rng = random.Random(seed)
    values: list[Any] = [
        None, True, 0, -1, 1e300, 2**70, "", "i1", "\u0000", "x" * 5000, [], {}, [[]], ["i1"], {"i1": 1}, [{"i1": None}],
        [["i1", 5]], 0.5, ["u1", "x"],
    ]  # fmt: skip
    names = [
        "histories", "users", "k", "exclude_seen", "candidates", "exclude", "popularity_correction", "samples", "diversify",
        "seed", "", "x",
    ]  # fmt: skip
    while True:
        asked = {
            "histories": [["i1", "i2"]],
            **{rng.choice(names): rng.choice(values) for _ in range(rng.randrange(4))},
        }
        body = bytearray(json.dumps(asked).encode())
        for _ in range(rng.choice((0, 0, 1, 3))):
            place = rng.randrange(len(body))
            body[place : place + rng.randrange(3)] = rng.randbytes(rng.randrange(3))
        yield bytes(body)


def test_no_request_breaks_the_server(client: TestClient) -> None:
    requests, seen = mutations(0), set()
    for _ in range(300):
        body = next(requests)
        status = client.post("/recommend", content=body, headers=JSON).status_code
        assert status in (200, 400, 404, 422), body
        seen.add(status)
    assert seen >= {200, 400, 422}
    assert client.post("/recommend", json={"histories": [["i1"]]}).status_code == 200


def test_limits(serving: Serving) -> None:
    limits = Limits(body=500, histories=2, items=3, k=5)
    with serving(limits=limits) as client:

        def refused(status: int, said: str, path: str = "/recommend", **asked: Any) -> None:
            answer = client.post(path, json=asked)
            assert answer.status_code == status, answer.text
            assert answer.json()["detail"] == said

        assert client.post("/recommend", json={"histories": [["i1", "i2", "i3"]] * 2, "k": 5}).status_code == 200
        refused(422, "histories: has 3 histories; this server allows 2. Send fewer.", histories=[["i1"]] * 3)
        refused(422, "users: has 3 users; this server allows 2. Send fewer.", users=["u1"] * 3)
        refused(422, "histories[1]: has 4 items; this server allows 3. Send fewer.", histories=[[], ["i1"] * 4])
        refused(422, "k: 6 is more than this server allows; it must be at most 5.", histories=[[]], k=6)
        for asked in ({"path": "/recommend", "histories": [[]]}, {"path": "/explain", "history": ["i1"]}):
            answer = client.post(str(asked.pop("path")), json=asked).json()
            assert len(answer["rankings"][0]["items"] if "rankings" in answer else answer["recommendations"]) == 5
        assert len(client.get("/items/i1/similar").json()["items"]) == 5
        refused(422, "history: has 4 items; this server allows 3. Send fewer.", "/explain", history=["i1"] * 4)
        refused(422, "k: 6 is more than this server allows; it must be at most 5.", "/explain", history=["i1"], k=6)
        assert client.get("/items/i1/similar?k=6").status_code == 422
        too_large = "the body has more than 500 bytes, which is what this server allows. Send less at a time."
        refused(413, too_large, histories=[["i" * 500]])
        pieces = iter([b"x" * 300] * 3)  # without a content-length
        assert client.post("/recommend", content=pieces, headers=JSON).status_code == 413


def test_time_and_queue_are_limited(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    rank = Recommender.rank

    def slowly(self: Recommender, *arguments: Any) -> Any:
        time.sleep(0.3)
        return rank(self, *arguments)

    with serving(limits=Limits(seconds=0.1)) as client:
        monkeypatch.setattr(Recommender, "rank", slowly)
        for asked in ({"histories": [["i1"]]}, {"histories": [["i1"]] * 3, "samples": 2}):
            answer = client.post("/recommend", json=asked)
            assert answer.status_code == 503
            assert answer.json()["detail"] == "not done within 0.1 s."
        monkeypatch.undo()
        time.sleep(0.7)
        assert client.post("/recommend", json={"histories": [["i1"]]}).status_code == 200
    with serving(limits=Limits(queue=3)) as client:
        assert client.post("/recommend", json={"histories": [["i1"]] * 5}).status_code == 200  # nobody else waits
        lane = client.app.state.ranking  # type: ignore[attr-defined]
        lane.waiting = 3
        answer = client.post("/recommend", json={"histories": [["i1"]]})
        lane.waiting = 0
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        assert answer.json()["detail"] == "the server is busy: 3 histories wait to be ranked; try again in a second."


def test_an_explanation_ends_with_its_time(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise it would hold up all that come after it."""
    searched = []

    def counterfactual(*_: object, **__: object) -> None:
        searched.append(1)
        time.sleep(0.3)

    monkeypatch.setattr("recbole_vae.analysis.explain.counterfactual", counterfactual)
    with serving(limits=Limits(seconds=0.5)) as client:
        asked = {"history": ["i0", "i3"], "k": 20}
        assert client.post("/explain", json=asked).status_code == 503
        assert client.post("/explain", json={**asked, "counterfactual": False}).status_code == 200
    assert len(searched) < 4


def test_a_token(serving: Serving, checkpoint: Path) -> None:
    asked = {"histories": [["i1"]]}
    with serving(token="open-sesame") as client:
        for headers in (
            {},
            {"authorization": "Bearer open-sesam"},
            {"authorization": "open-sesame"},
            {"authorization": "Basic open-sesame"},
            {"authorization": "Bearer \xff"},
        ):
            raw = {name: value.encode("latin-1") for name, value in headers.items()}
            answer = client.post("/recommend", json=asked, headers=raw)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.json()["detail"] == "a token is needed: send the header Authorization: Bearer TOKEN."
        right = {"authorization": "Bearer open-sesame"}
        for scheme in ("Bearer", "bearer", "BEARER "):
            headers = {"authorization": f"{scheme} open-sesame"}
            assert client.post("/recommend", json=asked, headers=headers).status_code == 200
        for path in ("/model", "/metrics", "/items/i1/similar"):
            assert client.get(path).status_code == 401
            assert client.get(path, headers=right).status_code == 200
        for path in ("/health", "/ready", "/docs", "/openapi.json"):
            assert client.get(path).status_code == 200
