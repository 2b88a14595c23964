"""Send requests to a running ``recbole-vae serve`` and print how long the answers take.

recbole-vae serve --checkpoint=FILE --port=8123 &
python .ci/serve_load.py 8123 --rate=100 --seconds=20      # at random times, 100 a second on average
python .ci/serve_load.py 8123 --connections=32             # each connection asks again as soon as it has an answer
python .ci/serve_load.py --loop=FILE --size=32             # Recommender.recommend, for comparison
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time


def histories(options: argparse.Namespace, number: int) -> list[list[str]]:
    """Make random histories, the same in each call."""
    rng = random.Random(0)
    return [[str(item) for item in rng.sample(range(options.items), options.length)] for _ in range(number)]


def bodies(options: argparse.Namespace) -> list[bytes]:
    """Make whole HTTP requests."""
    made = histories(options, 200 * options.size)
    found = []
    for start in range(0, len(made), options.size):
        body = json.dumps({"histories": made[start : start + options.size], "k": options.k}).encode()
        head = f"POST /recommend HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        found.append(head.encode() + body)
    return found


class Load:
    """The times of the answers, and how many were not of status 200."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.bodies = options, bodies(options)
        self.times, self.failed = list[float](), 0

    async def ask(self, streams: tuple[asyncio.StreamReader, asyncio.StreamWriter], number: int, since: float) -> None:
        """Send a request and read its answer."""
        reader, writer = streams
        writer.write(self.bodies[number % len(self.bodies)])
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
        self.times.append(time.perf_counter() - since)
        self.failed += head.split(b" ", 2)[1] != b"200"

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection."""
        return await asyncio.open_connection(self.options.host, self.options.port)

    async def at_rate(self) -> None:
        """Send requests at random times, whether the last one is answered or not. A time counts from when it was due."""
        free: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
        for _ in range(self.options.connections):
            free.put_nowait(await self.connect())

        async def one(number: int, due: float) -> None:
            streams = await free.get()
            await self.ask(streams, number, due)
            free.put_nowait(streams)

        rng, due, tasks = random.Random(1), time.perf_counter(), []
        for number in range(int(self.options.rate * self.options.seconds)):
            due += rng.expovariate(self.options.rate)
            if (pause := due - time.perf_counter()) > 0:
                await asyncio.sleep(pause)
            tasks.append(asyncio.create_task(one(number, due)))
        await asyncio.gather(*tasks)

    async def at_once(self) -> None:
        """Ask again on each connection as soon as there is an answer."""
        end = time.perf_counter() + self.options.seconds

        async def one(first: int) -> None:
            streams, number = await self.connect(), first
            while (now := time.perf_counter()) < end:
                await self.ask(streams, number, now)
                number += 1

        await asyncio.gather(*(one(7 * each) for each in range(self.options.connections)))


def loop(options: argparse.Namespace) -> None:
    """Rank the same batches without a server."""
    import torch

    from recbole_vae import Recommender

    torch.set_num_threads(1)
    recommender = Recommender.load(options.loop)
    made = histories(options, 200)
    recommender.recommend(made[: options.size], options.k)
    start, number = time.perf_counter(), 0
    while time.perf_counter() - start < options.seconds:
        first = number * options.size % (200 - options.size + 1)
        recommender.recommend(made[first : first + options.size], options.k)
        number += 1
    print(json.dumps({"histories_per_second": round(number * options.size / (time.perf_counter() - start), 1)}))


def main() -> None:
    """Read the options, send the requests, print the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int, nargs="?")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--rate", type=float)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--size", type=int, default=1, help="histories of a request")
    parser.add_argument("--length", type=int, default=100, help="items of a history")
    parser.add_argument("--items", type=int, default=20_000, help="their ids are 0 to this")
    parser.add_argument("-k", type=int, default=10)
    parser.add_argument("--loop", metavar="FILE")
    options = parser.parse_args()
    if options.loop:
        loop(options)
        return
    load = Load(options)
    start = time.perf_counter()
    asyncio.run(load.at_rate() if options.rate else load.at_once())
    took, times = time.perf_counter() - start, sorted(load.times)
    at = {f"p{percent}_ms": times[min(len(times) - 1, len(times) * percent // 100)] * 1e3 for percent in (50, 90, 99)}
    print(
        json.dumps({
            "requests": len(times), "failed": load.failed,
            "histories_per_second": round(len(times) * options.size / took, 1),
            **{name: round(value, 2) for name, value in at.items()}, "longest_ms": round(times[-1] * 1e3, 1),
        })
    )  # fmt: skip


if __name__ == "__main__":
    main()
