"""What the server does with headers that have no end."""

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


async def answers(*pieces: bytes) -> bytes:
    config = Config(application, log_config=None, lifespan="off")
    config.load()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Protocol(config, ServerState(), {}), "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        try:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.01)
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
