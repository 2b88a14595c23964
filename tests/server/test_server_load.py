"""The server under load and under malformed requests, in short; ``python -m tests.server.load`` has the long forms."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from tests.server.faults import NGINX, balanced, reloads, terminated
from tests.server.load import Client, Server, get, histories, nginx_conf, post
from tests.server.malformed import KINDS, Tally, send

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")


def test_malformed_requests_do_no_harm_and_the_end_waits_for_answers(checkpoint: Path) -> None:
    async def job(server: Server) -> tuple[Tally, float]:
        good = post("/recommend", {"histories": histories(checkpoint, 1)})
        tally = await send(server, good, 20 * len(KINDS), Tally())
        before = server.memory()
        await send(server, good, 20 * len(KINDS), tally, seed=1)
        grown, client = server.memory() - before, Client(server.port)
        _, body = await client.ask(get("/metrics"))
        failed = [line for line in body.decode().splitlines() if 'status="5' in line]
        assert not failed
        client.close()
        assert "in flight" in await terminated(server, histories(checkpoint, 4))
        return tally, grown

    with Server(checkpoint, "--max_body=200000") as server:
        tally, grown = asyncio.run(job(server))
    assert not tally.bad, str(tally)
    assert {200, 400, 404, 405, 413, 415, 422} <= set(tally.statuses)
    assert set(tally.kinds) == set(KINDS)
    assert not [line for line in server.log if "ERROR" in line or "Traceback" in line]
    assert grown < 20


def test_new_checkpoints_under_load(checkpoint: Path, tmp_path: Path) -> None:
    said = asyncio.run(reloads(checkpoint, tmp_path, histories(checkpoint, 50), count=3, rate=50, ask=True))
    assert "3 new files, 1 damaged ones refused; 0 failed requests" in said


@pytest.mark.skipif(NGINX is None, reason="there is no nginx")
def test_nginx_hides_a_server_that_dies(checkpoint: Path, tmp_path: Path) -> None:
    job = balanced(checkpoint, tmp_path, nginx_conf(), histories(checkpoint, 50), rate=50, seconds=1)
    said = asyncio.run(job)
    assert "went 10 : 10" in said
    assert "statuses {200: 100}" in said
