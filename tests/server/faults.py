"""What goes wrong in operation, under load: a new checkpoint, a damaged one, a worker that is killed, and the end."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from recbole_vae import Recommender
from recbole_vae.storage import checkpoint as files
from tests.server.load import Client, Sent, Server, get, metric, post, steady

NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")

_LIMIT = 3600
"""Seconds of load at most; each job ends it before."""


def _variant(checkpoint: Path, target: Path) -> None:
    """Write another model of the same data, one that ranks otherwise."""
    state = files.load(checkpoint)
    for value in state["state_dict"].values():
        if isinstance(value, Tensor) and value.is_floating_point():
            value.neg_()
    files.save(state, target)


async def _until(condition: Any) -> None:
    end = time.monotonic() + 120
    while not await condition():
        assert time.monotonic() < end, "what was waited for did not happen"
        await asyncio.sleep(0.05)


async def reloads(
    checkpoint: Path, folder: Path, histories: Sequence[Sequence[str]], count: int, rate: float, ask: bool = False
) -> str:
    """Replace the checkpoint under load; before every tenth new one comes a damaged one.

    Each answer must be that of the model whose version it names, and each new request must be answered.

    Args:
        checkpoint: a model.
        folder: for the files that are served, on the same file system.
        histories: what is asked.
        count: number of new files.
        rate: requests a second.
        ask: whether the server is told to look at the file (SIGHUP), and not left to find it.
    """
    served, variants = folder / "served.pth", [checkpoint, folder / "other.pth"]
    _variant(checkpoint, variants[1])
    rankings = [
        [[item for item, _ in ranking] for ranking in Recommender.load(each).recommend(histories)] for each in variants
    ]
    assert rankings[0] != rankings[1]
    contents = [each.read_bytes() for each in variants]
    new = folder / "new.pth"

    def put(content: bytes) -> None:
        new.write_bytes(content)
        new.replace(served)

    put(contents[0])
    requests = [post("/recommend", {"histories": [each]}) for each in histories]
    with Server(served) as server:
        client, versions = Client(server.port), [hashlib.sha256(content).hexdigest()[:12] for content in contents]

        async def version() -> str:
            return str(json.loads((await client.ask(get("/model")))[1])["version"])

        async def refused() -> int:
            _, body = await client.ask(get("/metrics"))
            return sum(
                round(float(line.split()[-1]))
                for line in body.decode().splitlines()
                if 'reloads_total{result="refused"}' in line
            )

        assert await version() == versions[0]

        def check(number: int, body: bytes) -> str:
            answer = json.loads(body)
            expected = dict(zip(versions, rankings, strict=True)).get(answer["version"])
            same = expected is not None and answer["rankings"][0]["items"] == expected[number]
            return "" if same else f"not the ranking of version {answer['version']}"

        sent, end = Sent(), asyncio.Event()
        load = asyncio.create_task(steady(client, requests, rate, _LIMIT, sent, check, end))
        memory, damaged = [server.memory()], 0
        for number in range(1, count + 1):
            if number % 10 == 1:
                await asyncio.to_thread(put, contents[number % 2][: len(contents[0]) // 2])
                damaged += 1
                if ask:
                    server.process.send_signal(signal.SIGHUP)
                await _until(lambda damaged=damaged: _equal(refused(), damaged))
            await asyncio.to_thread(put, contents[number % 2])
            if ask:
                server.process.send_signal(signal.SIGHUP)
            await _until(lambda number=number: _equal(version(), versions[number % 2]))
            memory.append(server.memory())
        await asyncio.sleep(1)
        end.set()
        await load
        client.close()
        assert await _count(server, "recbole_vae_reloads_total") == count + damaged
        rest = server.memory()
    return (
        f"reloads: {count} new files, {damaged} damaged ones refused; {len(sent.failed)} failed requests {sent.failed[:3]}\n"
        f"  {sent.summary()}\n  resident {memory[0]:.0f} MB at first, at most {max(memory[: len(memory) // 2 + 1]):.0f} in the "
        f"first half, {max(memory):.0f} in all, {rest:.0f} at last"
    )


async def _equal(found: Any, wanted: Any) -> bool:
    return bool(await found == wanted)


async def _count(server: Server, name: str) -> float:
    client = Client(server.port)
    found = await metric(client, name)
    client.close()
    return found


async def killed(server: Server, histories: Sequence[Sequence[str]], rate: float) -> str:
    """Kill one of the workers under load. Only requests that it had may fail, and another worker must take its place."""
    requests = [post("/recommend", {"histories": [each]}) for each in histories]
    client, sent, end = Client(server.port), Sent(), asyncio.Event()
    before = server.begun()
    load = asyncio.create_task(steady(client, requests, rate, _LIMIT, sent, until=end))
    await asyncio.sleep(1)
    victim = server.pids()[0]
    at, flying = time.monotonic(), sent.flying
    os.kill(victim.pid, signal.SIGKILL)
    await asyncio.to_thread(victim.wait)
    gone = time.monotonic()  # the system needs a while to take a large process away
    await asyncio.to_thread(server.wait, lambda: server.begun() > before)
    back = time.monotonic()
    await asyncio.sleep(1)
    end.set()
    await load
    client.close()
    late = [each for each in sent.failed if each[0] > gone]
    assert not late, late
    assert len(server.pids()) == server.workers
    return (
        f"killed: {len(sent.failed)} failed of {sum(sent.statuses.values())}; {flying} were in flight at the kill; it was gone "
        f"after {(gone - at) * 1e3:.0f} ms, and no request that was sent later failed; another served after {back - at:.1f} s"
    )


async def terminated(server: Server, histories: Sequence[Sequence[str]], callers: int = 4) -> str:
    """End the server while it has requests to answer. All must be answered, and it must end with status 0."""
    requests = [post("/recommend", {"histories": [each] * 200}) for each in histories[:callers]]
    client = Client(server.port)
    await asyncio.gather(*(client.ask(request) for request in requests))  # so that the connections are there
    asked = [asyncio.create_task(client.ask(request)) for request in requests]
    await asyncio.sleep(0.05)
    unanswered, at = sum(not each.done() for each in asked), time.monotonic()
    server.process.terminate()
    statuses = [status for status, _ in await asyncio.gather(*asked)]
    client.close()
    ended = await asyncio.to_thread(server.process.wait, 60)
    assert statuses == [200] * callers
    assert ended == 0
    return (
        f"terminated: {unanswered} requests were in flight, all were answered; it ended with status 0 after "
        f"{time.monotonic() - at:.1f} s"
    )


async def balanced(
    checkpoint: Path, folder: Path, configuration: str, histories: Sequence[Sequence[str]], rate: float, seconds: float
) -> str:
    """Put nginx before two servers, and kill one of them under load. No client may notice.

    Args:
        checkpoint: a model.
        folder: for nginx's files.
        configuration: the file of the how-to page, with the ports 8080, 8001 and 8002.
        histories: what is asked.
        rate: requests a second.
        seconds: of load, before the kill and after it.
    """
    requests = [post("/recommend", {"histories": [each]}) for each in histories]
    with Server(checkpoint) as first, Server(checkpoint) as second, socket.create_server(("127.0.0.1", 0)) as free:
        ports = {"8080": f"127.0.0.1:{free.getsockname()[1]}", "8001": str(first.port), "8002": str(second.port)}
        free.close()
        for old, new in ports.items():
            assert old in configuration
            configuration = configuration.replace(old, new)
        paths = "".join(f"{each}_temp_path {each};" for each in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        (folder / "nginx.conf").write_text(
            f"daemon off; master_process off; pid nginx.pid; events {{}}\nhttp {{ access_log off; {paths}\n{configuration}}}"
        )
        nginx = subprocess.Popen([str(NGINX), "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", "errors.log"])
        try:
            client = Client(int(ports["8080"].rpartition(":")[2]))
            await _until(lambda: _answers(client))
            asked = [await _asked(each) for each in (first, second)]
            for request in requests[:20]:
                assert (await client.ask(request))[0] == 200
            spread = [await _asked(each) - before for each, before in zip((first, second), asked, strict=True)]
            sent = Sent()
            load = asyncio.create_task(steady(client, requests, rate, 2 * seconds, sent))
            await asyncio.sleep(seconds)
            second.process.send_signal(signal.SIGSTOP)  # so that it has requests when it dies
            await asyncio.sleep(0.2)
            second.process.kill()
            await load
            client.close()
        finally:
            nginx.kill()
            nginx.wait()
    return f"nginx: 20 requests one after the other went {spread[0]:.0f} : {spread[1]:.0f}; one server killed: {sent.summary()}"


async def _answers(client: Client) -> bool:
    try:
        return (await client.ask(get("/ready")))[0] == 200
    except (OSError, EOFError):
        return False


async def _asked(server: Server) -> float:
    return await _count(server, "recbole_vae_histories_total")
