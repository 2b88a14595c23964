"""Requests that are malformed in every way that a caller, a proxy or an attacker may find."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.server.load import Client, Server, get, post

_AT_A_TIME = 8
_GOOD: list[Any] = [
    {"histories": [["i1", "i2", "i3"]], "k": 5},
    {"histories": [["i1"], ["i2", "nothing"]], "k": 3, "candidates": ["i4", "i5"], "exclude": ["i6"]},
    {"users": ["u1", "u2"], "k": 4, "exclude_seen": False, "popularity_correction": 0.5},
    {"histories": [["i1", "i2"]], "samples": 3, "seed": 1},
    {"histories": [["i1", "i2"]], "diversify": 1.0, "seed": 2},
    {"history": ["i1", "i2"], "k": 2, "method": "gradient", "counterfactual": False},
]
"""Good bodies that are spoilt; the last is for ``/explain``."""
_PATHS = [
    "/recommend",
    "/explain",
    "/items/i1/similar",
    "/model",
    "/health",
    "/ready",
    "/metrics",
    "/docs",
    "/openapi.json",
    "/",
]
_HUGE = [
    b"9" * 30, b"-" + b"9" * 400, b"1" + b"0" * 6000, b"1e999", b"-1e999", b"1e-999", b"NaN", b"Infinity",
    b"-Infinity", b"0x10",
    b"1e308", b"-0", b"-0.0", b"9223372036854775808", b"18446744073709551616", b"1.7976931348623157e308", b"5e-324",
    b"01", b"+1", b".5",
]  # fmt: skip
_TEXTS = [
    "", " ", "\x00", "i1\x00", "\u202e\u0000", "😀" * 50, "i" * 100_000, "../../etc/passwd", "[PAD]", "0", "-1",
    "None", "i1 ", "I1",
    "%00", "' OR 1=1 --", "<script>", "{}", "\ud800", "ﬁ", "e\u0301", "nan",
]  # fmt: skip
_VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2**31, 2**63, 2**64, -(2**70), 0.5, 1e300, "", "x", [], {}, [[]], [[], []], [{}],
    {"": 1}, [None],
    [[None]], [1], [[1]], [["i1"] * 3], [True], {"i1": 1}, {"i1": "1"}, [{"i1": -1}], [{"i1": 0}], [{"i1": 1e300}],
    [["i1", ["i2"]]],
]  # fmt: skip

_METHODS = [
    "GET", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "CONNECT", "post", "FOO", "", "G E T", "\x00", "POST"
]  # fmt: skip
_ITEMS = [
    "i1", "", "%00", "%ff", "%2e%2e%2f", "a/b/c", "i" * 9000, "%F0%9F%98%80", "x?k=1", "[PAD]", "%", "%zz", "😀", ".."
]  # fmt: skip


@dataclass
class Tally:
    """What became of malformed requests.

    Attributes:
        statuses: how many answers had which status; 0: the server closed the connection,
        as it must where it cannot know
            where the request ends.
        kinds: the same, for each kind of request.
        bad: requests that were answered with a status that they must not get, or not at all.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    kinds: dict[str, Counter[int]] = field(default_factory=dict)
    bad: list[tuple[int, bytes, bytes]] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{kind}: {dict(sorted(found.items()))}" for kind, found in sorted(self.kinds.items())]
        lines.append(f"together: {dict(sorted(self.statuses.items()))}, bad: {len(self.bad)}")
        return "\n".join(
            [*lines, *(f"BAD {status} {sent[:200]!r} -> {got[:300]!r}" for status, sent, got in self.bad[:10])]
        )


def _noise(rng: random.Random) -> bytes:
    """Bytes at random."""
    return post(rng.choice(_PATHS[:2]), rng.randbytes(rng.randrange(2000)))


def _spoilt(rng: random.Random) -> bytes:
    """A good body with some bytes changed, left out or repeated."""
    body = bytearray(json.dumps(rng.choice(_GOOD)).encode())
    for _ in range(rng.randint(1, 5)):
        place = rng.randrange(len(body))
        act = rng.randrange(4)
        if act == 0:
            body[place] = rng.randrange(256)
        elif act == 1:
            del body[place : place + rng.randint(1, 4)]
            body = body or bytearray(b"{")
        elif act == 2:
            body[place:place] = body[place : place + rng.randint(1, 20)]
        else:
            body[place:place] = rng.choice(b'{}[]",:\\0-eE.').to_bytes(1, "big")
    return post(rng.choice(_PATHS[:2]), bytes(body))


def _places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for key, each in inner for place in _places(each, (*at, key)))]


def _types(rng: random.Random) -> bytes:
    """A good body in which a value has another type, or a field another name."""
    body = json.loads(json.dumps(rng.choice(_GOOD)))
    place = rng.choice(_places(body)[1:])
    value = rng.choice([*_VALUES, *_TEXTS])
    inner = body
    for key in place[:-1]:
        inner = inner[key]
    if rng.random() < 0.2 and isinstance(inner, dict):
        inner[rng.choice(_TEXTS)] = inner.pop(place[-1])
    else:
        inner[place[-1]] = value
    return post(rng.choice(_PATHS[:2]), json.dumps(body).encode())


def _numbers(rng: random.Random) -> bytes:
    """Numbers that are huge, tiny, or none."""
    field = rng.choice(["k", "seed", "samples", "diversify", "popularity_correction", "exclude_seen"])
    number = rng.choice(_HUGE)
    if rng.random() < 0.3:
        return post("/recommend", b'{"histories": [{"i1": %s, "i2": 1}]}' % number)
    return post("/recommend", b'{"histories": [["i1"]], "%s": %s}' % (field.encode(), number))


def _nested(rng: random.Random) -> bytes:
    """Lists and objects within each other, thousands deep."""
    depth = rng.choice([3, 30, 300, 3000, 30_000])
    opening, closing = rng.choice([(b"[", b"]"), (b'{"a":', b"}"), (b'{"histories":[', b"]}")])
    inner = opening * depth + (b"1" + closing * depth if rng.random() < 0.7 else b"")
    return post(
        rng.choice(_PATHS[:2]), rng.choice([inner, b'{"histories": %s}' % inner, b'{"k": %s}' % inner])[:190_000]
    )


def _ids(rng: random.Random) -> bytes:
    """Ids that nobody knows."""
    ids = [rng.choice([rng.choice(_TEXTS), str(rng.random()), "i1"]) for _ in range(rng.randint(1, 30))]
    name = rng.choice(["histories", "users", "candidates", "exclude", "history", "user"])
    body: dict[str, Any] = {name: [ids] if name == "histories" else ids[0] if name == "user" else ids}
    if name in ("candidates", "exclude"):
        body["histories"] = [["i1"]]
    return post("/explain" if name in ("history", "user") else "/recommend", body)[:190_000]


def _sizes(rng: random.Random) -> bytes:
    """More of everything than is allowed."""
    body = rng.choice([
        {"histories": [["i1"]] * 2000}, {"histories": [[str(number) for number in range(15_000)]]},
        {"histories": [["i1"]], "k": 10**6},
        {"users": ["u1"] * 5000}, {"histories": [["x" * 250_000]]}, {"histories": [["i1"]], "samples": 10**5},
    ])  # fmt: skip
    return post("/recommend", body)


def _headers(rng: random.Random) -> bytes:
    """Headers that are wrong, or contradict each other."""
    body = json.dumps(rng.choice(_GOOD)).encode()
    length = b"content-length: %d\r\n" % len(body)
    head = rng.choice([
        b"content-type: text/plain\r\n" + length, b"content-type: \xff\xfe\r\n" + length, b"content-type:\r\n" + length,
        b"content-type: application/json; charset=utf-16\r\n" + length, b"content-length: -1\r\n",
        b"content-length: x\r\n",
        b"content-length: 99999999999999999999\r\n", b"content-length: 5\r\n" + length,
        length + b"transfer-encoding: chunked\r\n",
        b"transfer-encoding: chunked\r\n", b"transfer-encoding: gzip, chunked\r\n",
        b"transfer-encoding: x\r\n" + length,
        length + b"expect: 100-continue\r\n", length + b"expect: x\r\n", length + b"x" * 70_000 + b": 1\r\n",
        length + b"x: " + b"y" * 70_000 + b"\r\n", length + b"no colon\r\n", length + b": none\r\n",
        length + b"\x00: 1\r\n",
        length + b"x: 1\r\n" * 2000, length + b"authorization: Bearer \xff\r\n", length + b"content-encoding: gzip\r\n",
        length + b"upgrade: websocket\r\nconnection: upgrade\r\n", length + b"upgrade: h2c\r\nconnection: upgrade\r\n",
        length + b"host: a\r\nhost: b\r\n",
    ])  # fmt: skip
    return b"POST %s HTTP/1.1\r\nhost: x\r\n%s\r\n%s" % (rng.choice(_PATHS[:2]).encode(), head, body)


def _chunks(rng: random.Random) -> bytes:
    """Chunks whose sizes are wrong."""
    body = json.dumps(rng.choice(_GOOD)).encode()
    chunk = rng.choice([
        b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body), b"%x\r\n%s" % (len(body) + 9, body), b"zz\r\n%s\r\n" % body,
        b"-1\r\n%s" % body,
        b"ffffffffffffffff1\r\n%s" % body, b"0\r\n\r\n", b"1\r\n{\r\n" * 500, b"",
    ])  # fmt: skip
    return (
        b"POST /recommend HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
        + chunk
    )


def _truncated(rng: random.Random) -> bytes:
    """A good request that breaks off."""
    request = post(rng.choice(_PATHS[:2]), rng.choice(_GOOD))
    return request[: rng.randrange(1, len(request))]


def _methods(rng: random.Random) -> bytes:
    """Methods that a path does not have, or nobody knows."""
    method = rng.choice(
        [
            "GET",
            "PUT",
            "DELETE",
            "HEAD",
            "OPTIONS",
            "PATCH",
            "TRACE",
            "CONNECT",
            "post",
            "FOO",
            "",
            "G E T",
            "\x00",
            "POST",
        ]
    )
    return f"{method} {rng.choice(_PATHS)} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n".encode()


def _paths(rng: random.Random) -> bytes:
    """Paths and queries that are odd."""
    item = rng.choice(
        [
            "i1",
            "",
            "%00",
            "%ff",
            "%2e%2e%2f",
            "a/b/c",
            "i" * 9000,
            "%F0%9F%98%80",
            "x?k=1",
            "[PAD]",
            "%",
            "%zz",
            "😀",
            "..",
        ]
    )
    query = rng.choice([
        "", "k=0", "k=-1", "k=1e9", "k=x", "k=", "k=1&k=2", f"k={'9' * 5000}", "popularity_correction=nan",
        "popularity_correction=1e999",
        "k=%00", "a=b", "k=3", "k[]=1", "&&&", "k=١",
    ])  # fmt: skip
    path = rng.choice(
        [
            f"/items/{item}/similar?{query}",
            f"/{item}?{query}",
            f"/recommend/{item}",
            f"//recommend?{query}",
            "*",
            "http://x/model",
        ]
    )
    return rng.choice([get(path), path.join(["GET ", " HTTP/1.1\r\nhost: x\r\n\r\n"]).encode("latin-1", "replace")])


def _lines(rng: random.Random) -> bytes:
    """What is no HTTP at all."""
    return rng.choice([
        rng.randbytes(rng.randint(1, 500)) + b"\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/0.9\r\n\r\n", b"GET /\r\n\r\n", b"\r\n" * 50, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST /recommend", b"A" * 100_000,
        b"SSH-2.0-OpenSSH_9.0\r\n",
    ])  # fmt: skip


KINDS: dict[str, Callable[[random.Random], bytes]] = {
    function.__name__.strip("_"): function
    for function in (
        _noise, _spoilt, _types, _numbers, _nested, _ids, _sizes, _headers, _chunks, _truncated, _methods, _paths,
        _lines
    )
}  # fmt: skip


async def _raw(port: int, request: bytes, patience: float) -> tuple[int, bytes]:
    """Send bytes, and return the status and all of the answer; status 0 if there is none.

    Where no answer comes within ``patience`` seconds, the server waits for the rest of a request,
    and is told that there is none.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**24)
    answer, waiting = b"", True
    try:
        writer.write(request)
        while not _whole(answer, request):
            try:
                piece = await asyncio.wait_for(reader.read(2**16), patience if waiting else 30)
            except asyncio.TimeoutError:
                if not waiting:
                    raise
                waiting = False
                writer.write_eof()
                continue
            if not piece:
                break
            answer += piece
    except ConnectionError:
        pass
    finally:
        writer.close()
    found = re.match(rb"(?:HTTP/1\.1 100 .*\r\n\r\n)?HTTP/1\.[01] (\d{3})", answer)
    return (int(found[1]) if found and found[1] != b"100" else 0), answer


def _whole(answer: bytes, request: bytes) -> bool:
    head, end, body = answer.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n").partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: *(\d+)", head)
    return bool(end and length and (request.startswith(b"HEAD") or len(body) >= int(length[1])))


async def send(server: Server, good: bytes, count: int, tally: Tally, seed: int = 0) -> Tally:
    """Send malformed requests, some at a time, and after them a good one, which must be answered as ever.

    Args:
        server: gets them.
        good: a good request.
        count: number of malformed ones.
        tally: to be added to.
        seed: of the choice.
    """
    rng, client = random.Random(seed), Client(server.port)
    expected = await client.ask(good)
    assert expected[0] == 200, expected
    names = [list(KINDS)[number % len(KINDS)] for number in range(count)]
    cases = iter([(name, KINDS[name](rng)) for name in names])

    async def worker() -> None:
        for name, request in cases:
            try:
                status, answer = await asyncio.wait_for(
                    _raw(server.port, request, 0.001 if name == "truncated" else 1), 60
                )
            except (asyncio.TimeoutError, OSError) as error:
                status, answer = -1, repr(error).encode()
            tally.statuses[status] += 1
            tally.kinds.setdefault(name, Counter())[status] += 1
            if not (status == 0 or 200 <= status < 500):
                tally.bad.append((status, request, answer))

    await asyncio.gather(*(worker() for _ in range(_AT_A_TIME)))
    assert await client.ask(good) == expected
    client.close()
    return tally
