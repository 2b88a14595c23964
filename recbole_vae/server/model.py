"""The model that is served, and how a new one takes its place."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import hashlib
import logging
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from recbole_vae.analysis.explain import Explainer
from recbole_vae.analysis.explain_report import read_item_texts
from recbole_vae.errors import CheckpointError, RecBoleVAEError
from recbole_vae.server.settings import Settings
from recbole_vae.serving.recommender import Recommender

LOG = logging.getLogger("recbole_vae.server")

_SECONDS = 1.0
"""How often the checkpoint is looked at."""

_File = tuple[int, int, int]
"""Inode, time and size of a file: another file under the same name differs in one of them."""


@dataclass(frozen=True, eq=False)
class Served:
    """A model that is loaded.

    Attributes:
        recommender, explainer: what answers.
        version: the first 12 digits of the checkpoint's SHA-256.
        written, loaded: when the checkpoint was written, and when it was loaded.
        file: which file it was.
    """

    recommender: Recommender
    explainer: Explainer
    version: str
    written: datetime
    loaded: datetime
    file: _File


def load(settings: Settings) -> Served:
    """Load the checkpoint, and rank once to see that it works.

    Raises:
        CheckpointError, ConfigError, DataError: see Recommender.load and read_item_texts.
    """
    path = Path(settings.checkpoint)
    before = _file(path)
    recommender = Recommender.load(path, popularity_correction=settings.popularity_correction)
    with path.open("rb") as content:
        digest = hashlib.sha256()
        while piece := content.read(2**20):
            digest.update(piece)
    if before is None or _file(path) != before:
        raise CheckpointError(f"{path}: changed while it was read; it is read again once it is whole.")
    recommender.recommend([recommender.items[1:2], []], k=1)
    recommender.history(recommender.users[-1])  # makes the table of users now, not at the first request
    beside = recommender.item_file
    names = settings.items or (beside if beside and beside.is_file() else None)
    texts = read_item_texts(names, recommender.model.ITEM_ID) if names else None
    written = datetime.fromtimestamp(before[1] / 1e9, timezone.utc)
    now = datetime.now(timezone.utc)
    return Served(recommender, Explainer(recommender, texts), digest.hexdigest()[:12], written, now, before)


def _file(path: Path) -> _File | None:
    with contextlib.suppress(OSError):
        about = path.stat()
        return about.st_ino, about.st_mtime_ns, about.st_size
    return None


class Current:
    """Holds the model that answers, and replaces it when another file has the checkpoint's name.

    Attributes:
        served: the model. Who reads it twice may get two.
        reloads: how many times a new file was taken up, ``refused``: or was not.
    """

    def __init__(self, settings: Settings, served: Served) -> None:
        self.settings, self.served = settings, served
        self.reloads = self.refused = 0
        self._refused = set[_File | None]()
        self._asked = asyncio.Event()
        _settle()

    def ask(self) -> None:
        """Look at the file now, also at one that was refused before."""
        self._refused.clear()
        self._asked.set()

    async def watch(self) -> None:
        """Look at the file again and again. A new one is loaded in another thread, and then takes the old one's place."""
        seen: _File | None = None
        while True:
            asked = False
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._asked.wait(), _SECONDS)
                self._asked.clear()
                asked = True
            found = _file(Path(self.settings.checkpoint))
            if found == self.served.file or found in self._refused:
                if found is not None:
                    self._refused.discard(None)  # it is there again; should it go once more, that is said once more
                if asked:
                    LOG.info("%s: no other file than the one that is served", self.settings.checkpoint)
            elif found == seen or asked:  # it has not changed for a while: nobody is writing it, or it is missing
                await self._replace(found)
            seen = found

    async def _replace(self, found: _File | None) -> None:
        old = self.served
        try:
            new = await asyncio.to_thread(load, self.settings)
        except Exception as error:  # whatever it is, the old model goes on
            self.refused += 1
            self._refused = {found}
            reason = str(error) if isinstance(error, RecBoleVAEError) else type(error).__name__
            LOG.error("not taken up, version %s goes on: %s", old.version, reason)
            return
        self.served = new
        self.reloads += 1
        self._refused.clear()  # what goes wrong with the file from now on is said anew
        LOG.info("version %s of %s takes the place of %s", new.version, self.settings.checkpoint, old.version)
        del old, new
        _settle()
        await asyncio.to_thread(_give_back)


def _settle() -> None:
    """Leave the objects of the model out of garbage collection: each pass over them would delay an answer."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def _give_back() -> None:
    """Give back to the system what reading a checkpoint took; glibc keeps it otherwise, 250 MB with 20 000 items."""
    with contextlib.suppress(AttributeError, OSError, TypeError):  # other C libraries
        ctypes.CDLL(None).malloc_trim(0)
