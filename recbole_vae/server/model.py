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
from recbole_vae.analysis.explain_report import item_texts
from recbole_vae.errors import CheckpointError, RecBoleVAEError
from recbole_vae.server.settings import Settings
from recbole_vae.serving.batch import digest as file_digest
from recbole_vae.serving.recommender import Recommender

LOG = logging.getLogger("recbole_vae.server")

_SECONDS = 1.0
"""How often the checkpoint is looked at."""

_File = tuple[int, int, int]
"""Inode, time and size of a file: another file under the same name differs in one of them."""

_Files = tuple[_File, ...]


@dataclass(frozen=True, eq=False)
class Served:
    """A model that is loaded.

    Attributes:
        recommender, explainer: what answers.
        version: the first 12 digits of the checkpoint's SHA-256; with new items a + and the first 8 of that of their file.
        written, loaded: when the checkpoint was written, and when it was loaded.
        files: which files they were: the checkpoint, and that of new items.
    """

    recommender: Recommender
    explainer: Explainer
    version: str
    written: datetime
    loaded: datetime
    files: _Files


def load(settings: Settings) -> Served:
    """Load the checkpoint, and rank once to see that it works.

    Raises:
        CheckpointError, ConfigError, DataError: see Recommender.load, Recommender.add_items and item_texts.
    """
    path, before = Path(settings.checkpoint), _files(settings)
    recommender = Recommender.load(path, popularity_correction=settings.popularity_correction)
    with path.open("rb") as content:
        digest = hashlib.sha256()
        while piece := content.read(2**20):
            digest.update(piece)
    version = digest.hexdigest()[:12]
    if settings.new_items is not None:
        for line in recommender.add_items(settings.new_items, settings.new_items_bonus).described():
            LOG.info("%s: %s", settings.new_items, line)
        version += f"+{file_digest(Path(settings.new_items))[:8]}"
    if before is None or _files(settings) != before:
        raise CheckpointError(f"{path}: changed while it was read; it is read again once it is whole.")
    recommender.recommend([recommender.items[1:2], []], k=1)
    if recommender.model.user_space is not None:
        recommender.recommend([[]], k=1, profiles=[None])  # imports what profiles need
    recommender.history(recommender.users[-1])  # makes the table of users now, not at the first request
    texts = item_texts(recommender, settings.items, settings.new_items)
    written = datetime.fromtimestamp(before[0][1] / 1e9, timezone.utc)
    now = datetime.now(timezone.utc)
    return Served(recommender, Explainer(recommender, texts), version, written, now, before)


def _file(path: Path) -> _File | None:
    with contextlib.suppress(OSError):
        about = path.stat()
        return about.st_ino, about.st_mtime_ns, about.st_size
    return None


def _files(settings: Settings) -> _Files | None:
    """Return the files that are served; None if one is missing."""
    found = [_file(Path(name)) for name in (settings.checkpoint, settings.new_items) if name is not None]
    return None if None in found else tuple(each for each in found if each is not None)


class Current:
    """Holds the model that answers, and replaces it when another file has the name of the checkpoint, or of the new items.

    Attributes:
        served: the model. Who reads it twice may get two.
        reloads: how many times a new file was taken up, ``refused``: or was not.
    """

    def __init__(self, settings: Settings, served: Served) -> None:
        self.settings, self.served = settings, served
        self.reloads = self.refused = 0
        self._refused = set[_Files | None]()
        self._asked = asyncio.Event()
        _settle()

    def ask(self) -> None:
        """Look at the file now, also at one that was refused before."""
        self._refused.clear()
        self._asked.set()

    async def watch(self) -> None:
        """Look at the file again and again. A new one is loaded in another thread, and then takes the old one's place."""
        seen: _Files | None = None
        while True:
            asked = False
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._asked.wait(), _SECONDS)
                self._asked.clear()
                asked = True
            found = _files(self.settings)
            if found == self.served.files or found in self._refused:
                if found is not None:
                    self._refused.discard(None)  # it is there again; should it go once more, that is said once more
                if asked:
                    LOG.info("%s: no other file than the one that is served", self.settings.checkpoint)
            elif found == seen or asked:  # it has not changed for a while: nobody is writing it, or it is missing
                await self._replace(found)
            seen = found

    async def _replace(self, found: _Files | None) -> None:
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
