"""Where requests wait and are computed: rankings together in small batches, long computations one by one.

Each lane has one thread. While the model computes a batch, the next requests arrive, and make the next batch. An idle model
begins at once. Only after a batch of several, those that come next are waited for, a moment: who has an answer may ask again.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from recbole_vae.nn.chunks import rows_per_chunk
from recbole_vae.server.errors import RefusedError
from recbole_vae.server.metrics import Metrics
from recbole_vae.server.model import Current, Served
from recbole_vae.serving.ranking import Ranking
from recbole_vae.serving.recommender import Selection

_LARGEST_BATCH = 64
_SHARE = 16
"""Histories of one request in a batch while others wait, so that a large request does not hold up the small ones."""
_MOMENT = 0.002
"""Seconds that a batch may wait for others."""
_LONG_WAITING = 16
"""Long computations that may wait."""

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Given:
    """What a request says of users, for a model.

    Attributes:
        histories: of each user.
        profiles: of each user, if the model reads them; see ``Recommender.encoded``.
        unknown_values: number of values in the profiles that the model makes no use of.
    """

    histories: Sequence[Any]
    profiles: Sequence[dict[int, float]] | None = None
    unknown_values: int = 0


@dataclass(eq=False)
class Job:
    """A request for rankings.

    Attributes:
        users: returns what it says of users for a model, or raises; ids are looked up when the model is known.
        size: how many there will be.
        select: returns a model's selection for it, or raises.
        shared: jobs with equal keys have equal selections; None if there is none.
    """

    users: Callable[[Served], Given]
    size: int
    select: Callable[[Served], Selection]
    shared: Any = None
    future: asyncio.Future[Answered] = field(init=False)
    next: int = 0
    answered: Answered | None = None
    given: Given = Given(())
    error: Exception | None = None


@dataclass(eq=False)
class Answered:
    """The rankings of a job, and what they were made from.

    Attributes:
        served: the model.
        selection: what was asked of it.
        rankings: one for each history.
        known: number of different known items of each history.
        unknown: number of unknown items of all histories.
        unknown_values: see :class:`Given`.
    """

    served: Served
    selection: Selection
    rankings: list[Ranking] = field(default_factory=list)
    known: list[int] = field(default_factory=list)
    unknown: int = 0
    unknown_values: int = 0


class RankingLane:
    """Ranks items for many requests at a time."""

    def __init__(self, current: Current, metrics: Metrics, most_waiting: int) -> None:
        self.current, self.metrics, self.most_waiting = current, metrics, most_waiting
        self.waiting = 0
        self._jobs: deque[Job] = deque()
        self._wanted = 1
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ranking")

    async def rank(self, job: Job) -> Answered:
        """Wait for the rankings of a job.

        Raises:
            RefusedError: 503, too many histories wait.
            Exception: whatever ``users`` and ``select`` raise.
        """
        if self.waiting and self.waiting + job.size > self.most_waiting:
            raise busy(f"{self.waiting} histories wait to be ranked")
        job.future = asyncio.get_running_loop().create_future()
        self.waiting += job.size
        self._jobs.append(job)
        if len(self._jobs) >= self._wanted:
            self._arrived.set()
        return await job.future

    async def run(self) -> None:
        """Compute one batch after the other, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while parts := self._take():
                try:
                    await loop.run_in_executor(self._thread, self._compute, parts)
                except Exception as error:  # such as no memory
                    for job, _, _ in parts:
                        job.error = error
                for job, _, _ in parts:
                    self._finish(job)
                await self._gather(len(parts))

    async def _gather(self, jobs: int) -> None:
        """Wait until as many jobs have come as the last batch had, if it had several, but only a moment."""
        if jobs == 1 or len(self._jobs) >= jobs:
            return
        self._wanted = jobs
        self._arrived.clear()
        timer = asyncio.get_running_loop().call_later(_MOMENT, self._arrived.set)
        await self._arrived.wait()
        timer.cancel()
        self._wanted = 1

    def _take(self) -> list[tuple[Job, int, int]]:
        """Return the next batch: jobs, and which of their histories."""
        room = min(_LARGEST_BATCH, rows_per_chunk(len(self.current.served.recommender.items)))
        parts = []
        while room and self._jobs:
            job = self._jobs.popleft()
            if job.future.done():  # nobody waits for it any more
                self.waiting -= job.size - job.next
                continue
            count = min(room, _SHARE, job.size - job.next)
            parts.append((job, job.next, job.next + count))
            job.next += count
            room -= count
            self.waiting -= count
            if job.next < job.size:
                self._jobs.append(job)
        return parts

    def _finish(self, job: Job) -> None:
        if job.future.done():
            return
        if job.error is not None:
            job.future.set_exception(job.error)
        elif job.answered is not None and len(job.answered.rankings) == job.size:
            job.future.set_result(job.answered)

    def _compute(self, parts: list[tuple[Job, int, int]]) -> None:
        now, shared = self.current.served, dict[Any, Selection]()
        batches: dict[Served, list[tuple[Job, int]]] = {}
        rows: dict[Served, list[tuple[Any, dict[int, float]]]] = {}
        for job, start, stop in parts:
            if job.error is not None:
                continue
            try:
                if job.answered is None:
                    selection = shared.get(job.shared) if job.shared is not None else None
                    if selection is None:
                        selection = job.select(now)
                        if job.shared is not None:
                            shared[job.shared] = selection
                    job.given = job.users(now)
                    job.answered = Answered(now, selection, unknown_values=job.given.unknown_values)
                answered, given = job.answered, job.given.histories[start:stop]
                profiles = [{}] * len(given) if job.given.profiles is None else job.given.profiles[start:stop]
                found = [answered.served.recommender.known(history) for history in given]
            except Exception as error:  # of this job alone
                job.error = error
                continue
            answered.known += [len(set(row)) for row in found]
            answered.unknown += sum(map(len, given)) - sum(map(len, found))
            batches.setdefault(answered.served, []).append((job, len(found)))
            rows.setdefault(answered.served, []).extend(zip(found, profiles, strict=True))
        for served, jobs in batches.items():
            try:
                self._rank(served, jobs, rows[served])
            except Exception:  # whichever of them it is, the others get their rankings
                start = 0
                for job, count in jobs:
                    try:
                        self._rank(served, [(job, count)], rows[served][start : start + count])
                    except Exception as error:
                        job.error = error
                    start += count

    def _rank(self, served: Served, jobs: list[tuple[Job, int]], rows: Sequence[tuple[Any, dict[int, float]]]) -> None:
        """Rank items for the next histories and profiles of some jobs: as many of ``rows`` as stand beside each job."""
        answered = [each for job, count in jobs for each in [job.answered] * count if each is not None]
        histories, profiles = [row for row, _ in rows], [profile for _, profile in rows]
        rankings = served.recommender.rank(histories, [each.selection for each in answered], profiles)
        self.metrics.batch(len(rankings))
        for each, ranking in zip(answered, rankings, strict=True):
            each.rankings.append(ranking)

    def close(self) -> None:
        """Stop the thread."""
        self._thread.shutdown(cancel_futures=True)


class LongLane:
    """Computes what takes long, such as explanations, beside the rankings."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.waiting = seconds, 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="long")

    async def run(self, function: Callable[[Callable[[], None]], _Result]) -> _Result:
        """Call ``function(check)`` in the lane's thread; ``check()`` raises once nobody waits for the result any more.

        Raises:
            RefusedError: 503, too many wait.
            Exception: whatever the function raises.
        """
        if self.waiting >= _LONG_WAITING:
            raise busy(f"{self.waiting} long computations wait")
        end = time.monotonic() + self.seconds

        def check() -> None:
            if time.monotonic() > end:
                raise RefusedError(503, f"not done within {self.seconds:g} s.")

        def call() -> _Result:
            check()
            return function(check)

        self.waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, call)
        finally:
            self.waiting -= 1

    def close(self) -> None:
        """Stop the thread."""
        self._thread.shutdown(cancel_futures=True)


def busy(why: str) -> RefusedError:
    """Return the refusal of a request that came at a bad time."""
    return RefusedError(503, f"the server is busy: {why}; try again in a second.")
