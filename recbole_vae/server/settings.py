"""What an operator sets. Light to import: the process that only watches over workers needs no more."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Limits:
    """What a request may ask for; beyond them it is refused.

    Attributes:
        body: bytes of a request's body.
        histories: histories, or users, of one request.
        items: items of one history.
        k: length of a ranking.
        seconds: from the first byte of a request to its answer.
        queue: histories that wait to be ranked.
    """

    body: int = 8_000_000
    histories: int = 256
    items: int = 10_000
    k: int = 1000
    seconds: float = 10.0
    queue: int = 2000


@dataclass(frozen=True)
class Settings:
    """How the server runs.

    Attributes:
        checkpoint: the file that is served, and watched.
        host, port: where it listens; port 0 is any free one.
        workers: number of processes.
        token: what a caller must send as ``Authorization: Bearer``; None for nothing.
        popularity_correction: see :meth:`~recbole_vae.serving.recommender.Recommender.load`.
        new_items: ``.item`` file of items that training did not have, which is watched, too; None for none.
        new_items_bonus: see ``Recommender.add_items``.
        items: file with the names of the items, for explanations; None for the one beside the data.
        imports: modules that register models.
        limits: of a request.
    """

    checkpoint: str
    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    token: str | None = field(default=None, repr=False)
    popularity_correction: float | None = None
    new_items: str | None = None
    new_items_bonus: float = 0.0
    items: str | None = None
    imports: tuple[str, ...] = ()
    limits: Limits = Limits()
