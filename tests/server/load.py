"""Load for the HTTP server, and faults under it: ``python -m tests.server.load JOB --checkpoint=FILE``; ``--help`` lists them.

A server is started for each job. Requests are sent whether or not the answers to earlier ones have come, so a slow server is not
spared. Nothing but the loopback address is used.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

START = 120
"""Seconds in which a server must have started."""


class Server:
    """A server in another process, and what it has logged. Use it as a context manager."""

    def __init__(self, checkpoint: Path, *words: str, workers: int = 1) -> None:
        command = [sys.executable, "-m", "recbole_vae", "serve", f"--checkpoint={checkpoint}", *words]
        self.log: list[str] = []
        self.process = subprocess.Popen(
            [*command, f"--workers={workers}", *([] if any(word.startswith("--port") for word in words) else ["--port=0"])],
            stderr=subprocess.PIPE, text=True, errors="replace",
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.port, self.workers = 0, workers

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.log.extend(line.rstrip() for line in self.process.stderr)

    def __enter__(self) -> Server:
        self.wait(lambda: self.begun() >= self.workers and any("on http" in line for line in self.log))
        (address,) = re.findall(r"on http://127\.0\.0\.1:(\d+)", "\n".join(self.log))
        self.port = int(address)
        return self

    def __exit__(self, *_: object) -> None:
        everybody = [self.process, *self.pids()]
        for each in everybody:
            if each.poll() is None if isinstance(each, subprocess.Popen) else each.is_running():
                each.kill()
        self.process.wait(START)

    def begun(self) -> int:
        """Return how many workers have loaded the model, those that are gone included."""
        return sum(bool(re.search(r"version \w+ of .*: ", line)) for line in self.log)

    def wait(self, condition: Callable[[], bool]) -> None:
        """Wait for something that the server does."""
        end = time.monotonic() + START
        while not condition():
            if self.process.poll() is not None or time.monotonic() > end:
                raise AssertionError("\n".join(["the server ended, or does not do what was waited for:", *self.log]))
            time.sleep(0.02)

    def pids(self) -> list[psutil.Process]:
        """Return the processes that hold a model."""
        if self.process.poll() is not None:
            return []
        own = psutil.Process(self.process.pid)
        children = [each for each in own.children() if "spawn_main" in " ".join(each.cmdline())]
        return children or [own]

    def memory(self) -> float:
        """Return the resident memory of its largest process, in MB (10^6 bytes)."""
        return float(max(each.memory_info().rss for each in self.pids())) / 1e6


class Client:
    """Sends requests over as many connections as are needed, and keeps them open.

    Attributes:
        opened: number of connections that were opened.
    """

    def __init__(self, port: int) -> None:
        self.port, self.opened = port, 0
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Return the status and the body of the answer.

        Raises:
            OSError, EOFError: there is no whole answer.
        """
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof() and reader.exception() is None:
                break
            writer.close()
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=2**24)
            self.opened += 1
        try:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: *(\d+)", head)
            body = await reader.readexactly(int(length[1])) if length else b""
        except BaseException:
            writer.close()
            raise
        if b"connection: close" in head.lower():
            writer.close()
        else:
            self._idle.append((reader, writer))
        return int(head.split(b" ", 2)[1]), body

    def close(self) -> None:
        """Close all connections that wait for a request."""
        for _, writer in self._idle:
            writer.close()


@dataclass
class Sent:
    """What became of requests.

    Attributes:
        seconds: from when it was due to be sent to the whole answer, of those that were answered.
        statuses: how many answers had which status; 0: there was no whole answer.
        failed: of each request without an answer of status 200, when it was sent (``time.monotonic``), and what came.
        late: by how many seconds the client itself sent too late, at most.
        flying: number of requests that wait for an answer now.
    """

    seconds: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    failed: list[tuple[float, str]] = field(default_factory=list)
    late: float = 0.0
    flying: int = 0

    def summary(self) -> str:
        """Say how long they took."""
        if not self.seconds:
            return f"no answers, {dict(self.statuses)}"
        p50, p90, p99 = (float(np.quantile(self.seconds, q)) * 1e3 for q in (0.5, 0.9, 0.99))
        return (
            f"{len(self.seconds)} answers, p50 {p50:.2f} ms, p90 {p90:.2f} ms, p99 {p99:.2f} ms, "
            f"longest {max(self.seconds) * 1e3:.1f} ms, statuses {dict(self.statuses)}, "
            f"sent late by {self.late * 1e3:.1f} ms at most"
        )


async def steady(
    client: Client,
    requests: Sequence[bytes],
    rate: float,
    seconds: float,
    sent: Sent | None = None,
    check: Callable[[int, bytes], str] | None = None,
    until: asyncio.Event | None = None,
    evenly: bool = False,
) -> Sent:
    """Send requests at random or even times, one after the other of those given, again and again.

    Args:
        client: sends them.
        requests: as they go over the line.
        rate: requests a second on average; unless ``evenly``, they come as those of people do who know nothing of each other.
        seconds: for how long at most.
        sent: to be added to; whoever holds it can look on.
        check: tells from the number of the request and the answer's body what is wrong with it; "" for nothing.
        until: when it is set, no more requests are sent.
        evenly: whether the time between two requests is always the same.
    """
    sent = sent or Sent()
    due, rng = time.monotonic(), random.Random(0)

    async def one(number: int, at: float) -> None:
        sent.flying += 1
        wrong = ""
        try:
            status, body = await asyncio.wait_for(client.ask(requests[number]), 60)
            if status == 200:
                sent.seconds.append(time.monotonic() - at)
                wrong = check(number, body) if check else ""
            else:
                wrong = f"{status} {body[:300]!r}"
        except (OSError, EOFError, asyncio.TimeoutError) as error:
            status, wrong = 0, repr(error)
        sent.statuses[status] += 1
        sent.flying -= 1
        if wrong:
            sent.failed.append((at, wrong))

    tasks = set()
    for number in range(max(1, round(rate * seconds))):
        due += 1 / rate if evenly else rng.expovariate(rate)
        if (ahead := due - time.monotonic()) > 0:
            await asyncio.sleep(ahead)
        if until is not None and until.is_set():
            break
        sent.late = max(sent.late, time.monotonic() - due)
        task = asyncio.create_task(one(number % len(requests), due))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    return sent


async def closed(client: Client, requests: Sequence[bytes], callers: int, seconds: float) -> Sent:
    """Let a number of callers each send a request as soon as it has the answer to its last."""
    sent, end, numbers = Sent(), time.monotonic() + seconds, itertools.cycle(requests)

    async def caller() -> None:
        while (at := time.monotonic()) < end:
            status, _ = await asyncio.wait_for(client.ask(next(numbers)), 60)
            sent.statuses[status] += 1
            sent.seconds.append(time.monotonic() - at)

    await asyncio.gather(*(caller() for _ in range(callers)))
    return sent


def post(path: str, body: Any) -> bytes:
    """Return a request as it goes over the line."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


def get(path: str) -> bytes:
    """Return a request as it goes over the line."""
    return f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode()


def histories(checkpoint: Path, count: int, length: int = 100, seed: int = 0) -> list[list[str]]:
    """Draw histories from the items of a checkpoint."""
    from recbole_vae.storage.checkpoint import load

    items, rng = load(checkpoint)["items"][1:], np.random.default_rng(seed)
    chosen = (rng.choice(len(items), min(length, len(items) // 2), replace=False) for _ in range(count))
    return [[items[number] for number in numbers] for numbers in chosen]


async def metric(client: Client, name: str) -> float:
    """Return the value of a metric, summed over its labels."""
    _, body = await client.ask(get("/metrics"))
    lines = (line for line in body.decode().splitlines() if re.match(rf"{name}(\{{.*\}})? ", line))
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def alone(checkpoint: Path) -> str:
    """Say how long Recommender.recommend takes in this process for one history, on one thread."""
    import torch

    from recbole_vae import Recommender

    torch.set_num_threads(1)
    recommender, seconds = Recommender.load(checkpoint), list[float]()
    for history in histories(checkpoint, 320):
        begun = time.monotonic()
        recommender.recommend([history])
        seconds.append(time.monotonic() - begun)
    p50, p99 = (float(np.quantile(seconds[20:], q)) * 1e3 for q in (0.5, 0.99))
    return f"Recommender.recommend of one history: p50 {p50:.2f} ms, p99 {p99:.2f} ms"


async def latency(options: argparse.Namespace) -> None:
    """Measure the time from a request to its answer, and memory."""
    print(alone(options.checkpoint), flush=True)
    requests = [post("/recommend", {"histories": [each]}) for each in histories(options.checkpoint, 1000)]
    with Server(options.checkpoint, workers=options.workers) as server:
        client, sent, size = Client(server.port), Sent(), min(options.seconds, 60)
        print(f"resident after the start: {server.memory():.0f} MB", flush=True)
        await steady(client, requests, options.rate, 2, evenly=options.evenly)
        print(f"resident after 2 s: {server.memory():.0f} MB", flush=True)
        for turn in range(max(1, round(options.seconds / size))):
            await steady(client, requests, options.rate, size, sent, evenly=options.evenly)
            print(
                f"resident after {(turn + 1) * size:.0f} s more: {server.memory():.1f} MB, {len(sent.failed)} failed",
                flush=True,
            )
        print(sent.summary())
    print(alone(options.checkpoint))


async def peer(options: argparse.Namespace) -> None:
    """Measure another server at --other beside ours in turns, for users of the training data; callers ask without a pause."""
    users = [f"u{number}" for number in range(1000)]
    with Server(options.checkpoint) as server:
        sides = {
            "recbole_vae": (Client(server.port), [post("/recommend", {"users": [each]}) for each in users]),
            "other": (Client(options.other), [get(f"/recommend?uid={each}&k=10&remove_seen=true") for each in users]),
        }
        for callers in (1, options.callers):
            together: dict[str, Sent] = {name: Sent() for name in sides}
            ratios = []
            for turn in range(options.repeats + 1):
                rates = []
                for name, (client, requests) in sides.items():
                    begun = time.monotonic()
                    sent = await closed(client, requests, callers, options.slice)
                    rates.append(len(sent.seconds) / (time.monotonic() - begun))
                    if turn:  # the first is to get warm
                        together[name].seconds += sent.seconds
                        together[name].statuses += sent.statuses
                if turn:
                    ratios.append(rates[0] / rates[1])
            spread = f"{min(ratios):.1f} to {max(ratios):.1f}"
            print(f"{callers} callers: {np.median(ratios):.1f} times as many requests a second ({spread})")
            for name, sent in together.items():
                a_second = len(sent.seconds) / options.repeats / options.slice
                print(f"  {name}: {a_second:.0f} requests a second; {sent.summary()}")


async def throughput(options: argparse.Namespace) -> None:
    """Measure histories a second by HTTP, and by Recommender.recommend in a loop in this process, in turns."""
    import torch

    from recbole_vae import Recommender

    recommender, given = Recommender.load(options.checkpoint), histories(options.checkpoint, 1024)
    size, callers = options.histories, options.callers
    batches = [given[start : start + size] for start in range(0, len(given), size)]
    with Server(options.checkpoint) as server:
        client = Client(server.port)
        requests = [post("/recommend", {"histories": batch}) for batch in batches]
        await closed(client, requests, callers, 2)
        rates: dict[str, list[float]] = {"HTTP": [], "loop, 1 thread": [], "loop, torch's threads": []}
        threads = torch.get_num_threads()
        for _ in range(options.repeats):
            counted = [await metric(client, f"recbole_vae_batch_histories_{what}") for what in ("sum", "count")]
            begun = time.monotonic()
            sent = await closed(client, requests, callers, options.slice)
            rates["HTTP"].append(sum(sent.statuses.values()) * size / (time.monotonic() - begun))
            assert set(sent.statuses) == {200}, sent.statuses
            total, number = [
                await metric(client, f"recbole_vae_batch_histories_{what}") - before
                for what, before in zip(("sum", "count"), counted, strict=True)
            ]
            same = max(size, round(total / number))  # histories that the server ranked together
            loop = [given[start : start + same] for start in range(0, len(given) - same + 1, same)]
            for name, count in (("loop, 1 thread", 1), ("loop, torch's threads", threads)):
                torch.set_num_threads(count)
                done, begun = 0, time.monotonic()
                while time.monotonic() - begun < options.slice:
                    recommender.recommend(loop[done % len(loop)])
                    done += 1
                rates[name].append(done * same / (time.monotonic() - begun))
        print(f"requests of {size}, {callers} callers, loop in batches of {same}, {threads} threads of torch")
        for name, found in rates.items():
            ratios = [ours / its for ours, its in zip(rates["HTTP"], found, strict=True)]
            print(f"  {name}: {np.median(found):.0f} histories a second; HTTP / this: {np.median(ratios):.2f} "
                  f"({min(ratios):.2f} to {max(ratios):.2f})")  # fmt: skip
        print(f"  resident {server.memory():.0f} MB")


async def malformed(options: argparse.Namespace) -> None:
    """Send malformed requests, and see that nothing breaks."""
    from tests.server.malformed import Tally, send

    with Server(options.checkpoint, "--max_body=200000") as server:
        good = post("/recommend", {"histories": histories(options.checkpoint, 1)})
        tally = await send(server, good, min(1000, options.count), Tally(), seed=options.seed)
        before = server.memory()
        print(f"after {sum(tally.statuses.values())}: resident {before:.1f} MB", flush=True)
        for part in range(options.count // 1000 - 1):
            await send(server, good, 1000, tally, seed=options.seed + part + 1)
            print(f"after {sum(tally.statuses.values())}: resident {server.memory():.1f} MB", flush=True)
        print(tally)
        client = Client(server.port)
        _, body = await client.ask(get("/metrics"))
        client.close()
        failed = [
            line for line in body.decode().splitlines() if re.match(r'recbole_vae_requests_total.*status="5', line)
        ]
        errors = [line for line in server.log if "ERROR" in line]
        print(f"failed by the server's own count: {failed}; errors in its log: {errors[:5]}")


async def faults(options: argparse.Namespace) -> None:
    """Replace the checkpoint again and again, kill a worker, and end the server, all under load."""
    from tests.server.faults import NGINX, balanced, killed, reloads, terminated

    given = histories(options.checkpoint, 200)
    with tempfile.TemporaryDirectory(dir=options.checkpoint.parent) as folder:
        print(await reloads(options.checkpoint, Path(folder), given, options.count, options.rate), flush=True)
    with Server(options.checkpoint, workers=2) as server:
        for _ in range(options.repeats):
            print(await killed(server, given, options.rate), flush=True)
    for _ in range(options.repeats):
        with Server(options.checkpoint) as server:
            print(await terminated(server, given), flush=True)
    if NGINX is not None:
        with tempfile.TemporaryDirectory() as folder:
            print(await balanced(options.checkpoint, Path(folder), nginx_conf(), given, options.rate, options.slice))


def nginx_conf() -> str:
    """Return nginx's configuration from the page "Deploy"."""
    page = (Path(__file__).parents[2] / "docs/pages/how-to/deploy.md").read_text(encoding="utf-8")
    (found,) = re.findall(r'```nginx title="recommender.conf"\n(.*?)```', page, re.DOTALL)
    return str(found)


JOBS = {"latency": latency, "throughput": throughput, "peer": peer, "malformed": malformed, "faults": faults}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=JOBS, help="; ".join(f"{name}: {job.__doc__}" for name, job in JOBS.items()))
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--rate", type=float, default=100, help="requests a second")
    parser.add_argument("--evenly", action="store_true", help="requests at even times, not at random ones (latency)")
    parser.add_argument("--seconds", type=float, default=60, help="of load")
    parser.add_argument(
        "--slice", type=float, default=5, help="seconds of each turn, where two sides are measured in turns"
    )
    parser.add_argument("--workers", type=int, default=1, help="of the server")
    parser.add_argument("--other", type=int, metavar="PORT", help="of another server, for peer")
    parser.add_argument("--histories", type=int, default=1, help="of a request (throughput)")
    parser.add_argument("--callers", type=int, default=32, help="who ask at the same time")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--count", type=int, default=10_000, help="of malformed requests, or of reloads")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    asyncio.run(JOBS[options.job](options))


if __name__ == "__main__":
    main()
