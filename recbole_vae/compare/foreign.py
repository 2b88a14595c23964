"""Ranked lists that other tools made, measured as those of a model: same test part, same candidates, same metrics."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recbole_vae.compare import part
from recbole_vae.compare.list_file import Lists, read_foreign_lists
from recbole_vae.compare.prepared import Prepared, prepare
from recbole_vae.compare.results import DONE, REFUSED, Run
from recbole_vae.data import padding
from recbole_vae.errors import DataError
from recbole_vae.evaluation.collector import FastCollector
from recbole_vae.options.evaluation import holds_out_items
from recbole_vae.storage.files import sha256

KNOWN = 0.01
"""If more than this share of the places has items of the training history, the lists may be of another split."""


def measure_lists(job: dict[str, Any], run: Run) -> Run:
    """Evaluate the lists of a job (see ``Plan.job``).

    Items that no list of the table can have, because they are in the user's history, are taken out, and the items after them
    move up. Places after the end of a list count as misses, and so does every place of a user without one.

    Raises:
        DataError: the file has changed, cannot be read, or is not of this data set, or no test user has a list.
        ConfigError: the file is Parquet, and pyarrow is missing.
    """
    start = time.perf_counter()
    data = prepare(job, run)
    assert data is not None, "a model that reads nothing but interactions takes part in every protocol"
    if holds_out_items(data.config):
        run.status, run.reason = (
            REFUSED,
            "Where items are held out, each kind of items is ranked apart, which lists of all items do not tell.",
        )
        return run
    path, label = Path(job["lists"]["path"]), job["lists"]["label"]
    if sha256(path) != job["lists"]["sha256"]:
        raise DataError(f"{path}: the file has changed since this command started; give the command again.")
    run.lists = {name: job["lists"][name] for name in ("file", "sha256")}
    run.notes.append(
        f"{label}: ranked lists from {run.lists['file']} (SHA-256 {run.lists['sha256'][:12]}), made by another tool."
    )
    users, items = (
        dict(zip(map(str, data.test._dataset.field2id_token[name]), range(number), strict=True))
        for name, number in (
            (data.test._dataset.uid_field, data.test._dataset.user_num),
            (data.test._dataset.iid_field, data.test._dataset.item_num),
        )
    )
    table, notes = _table(path, read_foreign_lists(path, users, items), data, job)
    run.notes += [f"{label}: {note}" for note in notes]
    measured = part.options(data.config, job, table.shape[1])
    if data.config["exact_metrics"] is not True and (table == padding.PADDING).any():
        raise DataError(
            f"{path}: some users have fewer than {table.shape[1]} items, and exact_metrics: False would count empty places as "
            "an item; leave exact_metrics out, or make longer lists."
        )
    collector = FastCollector(measured)
    collector.data_collect(data.train)
    relevant = data.test.relevant[data.test.uid_list]
    collector.collect_lists(torch.from_numpy(table), relevant.rows(), relevant.indices, len(items))
    found = part.results(measured, collector.get_data_struct(), data.train, data.test, job, whole=True)
    run.test, run.over_k, run.by_popularity, run.users = found.metrics, found.over_k, found.by_popularity, found.users
    run.status, run.seconds = DONE, time.perf_counter() - start
    return run


def _table(path: Path, lists: Lists, data: Prepared, job: dict[str, Any]) -> tuple[NDArray[np.int64], list[str]]:
    """Return the items that count, shape [test users, places], padding after the end of a list; and what is to be said."""
    loader, n_items, k = data.test, data.test._dataset.item_num, max(job["topk"])
    testers = loader.uid_list.numpy()
    owners = np.repeat(np.arange(len(lists.indptr) - 1), lists.lengths())
    keys = owners * n_items + lists.items
    tested = np.isin(owners, testers)
    seen = tested & np.isin(keys, _keys(loader.seen, n_items))
    lengths = np.bincount(owners[tested & ~seen], minlength=len(lists.indptr) - 1)
    notes = []
    there = lists.lengths()[testers] > 0
    missing, short = int((~there).sum()), lengths[testers][there & (lengths[testers] < k)]
    if missing == len(testers):
        raise DataError(f"{path}: none of the {len(testers):,} test users of this split has a list.")
    if not lengths[testers].any():
        raise DataError(f"{path}: all items are in the histories of their users, which no list may have.")
    if missing:
        notes.append(f"{missing:,} of {len(testers):,} test users have no list, which counts as a list without a hit.")
    if seen.any():
        places = f"{int(seen.sum()):,} of {int(tested.sum()):,} places had items of the user's history"
        notes.append(f"{places}. These were taken out, for no row can have them, and later items moved up.")
    fitted = loader.seen if loader.fold_in is not None else data.train_histories()
    again = tested & np.isin(keys, _keys(fitted, n_items)) & seen
    if again.sum() > KNOWN * tested.sum():
        known = f"{again.sum() / tested.sum():.1%} of the places had items that the tool was given with the user"
        notes.append(f"{known}: the tool keeps them in its lists, or the lists are of another split.")
    if len(short):
        few = f"{len(short):,} lists have fewer than {k} items that count (the shortest {int(short.min())})"
        notes.append(f"{few}. Their missing places count as misses.")
    kept = ~seen
    indptr = np.zeros(len(lists.indptr), np.int64)
    np.cumsum(np.bincount(owners[kept], minlength=len(indptr) - 1), out=indptr[1:])
    left = Lists(lists.users, indptr, lists.items[kept])
    width = max(k, min(int(lengths[testers].max()), job["max_k"], padding.real(n_items)))
    table = left.table(testers, width).astype(np.int64)
    return np.where(table < 0, padding.PADDING, table), notes


def _keys(histories: Any, n_items: int) -> NDArray[np.int64]:
    keys: NDArray[np.int64] = (histories.rows() * n_items + histories.indices).numpy()
    return keys
