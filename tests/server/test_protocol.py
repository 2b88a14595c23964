"""What the server does with headers that have no end, and with requests that do not come."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from uvicorn import Config
from uvicorn.server import ServerState

from recbole_vae.server.protocol import MOST, Protocol


async def application(scope: Any, receive: Any, send: Any) -> None:
    size = 0
    while (message := await receive()).get("more_body"):
        size += len(message["body"])
    size += len(message.get("body", b""))
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"body of %d" % size})


async def answers(*pieces: bytes, pause: float = 0.01, wait: int = 60) -> bytes:
    config = Config(application, log_config=None, lifespan="off", timeout_graceful_shutdown=wait)
    config.load()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Protocol(config, ServerState(), {}), "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        try:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(pause)
            return await asyncio.wait_for(reader.read(-1), 20)
        except ConnectionError:  # it was closed while this was sending
            return b""
        finally:
            writer.close()


START = b"GET / HTTP/1.1\r\nHost: x\r\n"
LARGE = b"X-A: " + b"a" * (MOST // 2) + b"\r\n"


@pytest.mark.parametrize(
    "pieces",
    [
        (START, LARGE, LARGE),
        (b"GET /" + b"a" * MOST,),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", LARGE, LARGE),
    ],
    ids=["headers", "first line", "trailers"],
)
def test_headers_without_an_end_are_refused(pieces: tuple[bytes, ...]) -> None:
    head, _, body = asyncio.run(answers(*pieces)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 431 ")
    assert json.loads(body)["detail"].startswith("the headers have more than 65536 bytes")


def test_bodies_and_one_request_after_the_other_are_not_headers() -> None:
    body = b"b" * (3 * MOST)
    post = b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body)
    last = START + LARGE + b"Connection: close\r\n\r\n"
    found = asyncio.run(answers(post, body, START + LARGE + b"\r\n", START + LARGE + b"\r\n", last))
    assert found.count(b"HTTP/1.1 200 OK") == 4
    assert found.count(b"body of %d" % len(body)) == 1


HEAD = b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n"


@pytest.mark.parametrize(
    ("pieces", "answered"),
    [
        ((), 0),
        ((START,), 0),
        ((START, *[b"a"] * 15), 0),
        ((HEAD, *[b"b"] * 8), 0),
        ((HEAD + b"b" * 9, START), 1),
    ],
    ids=["nothing", "part of the headers", "byte by byte", "part of a body", "part of a second request"],
)
def test_a_connection_whose_request_does_not_come_is_closed(pieces: tuple[bytes, ...], answered: int) -> None:
    assert asyncio.run(answers(*pieces, pause=0.1, wait=1)).count(b"HTTP/1.1 200 OK") == answered


def test_an_answer_and_what_comes_after_it_may_take_longer() -> None:
    whole = START + b"\r\n"
    last = START + b"Connection: close\r\n\r\n"
    assert asyncio.run(answers(whole, last, pause=1.5, wait=1)).count(b"HTTP/1.1 200 OK") == 2
