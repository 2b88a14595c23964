"""A split as files, so that other tools can make lists for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recbole_vae.compare.prepared import prepare
from recbole_vae.compare.results import DONE, Run, Users
from recbole_vae.data import padding
from recbole_vae.errors import DataError
from recbole_vae.storage.files import write_whole

LISTS = (
    "CSV, CSV compressed by gzip, or Parquet, with the columns user_id and item_id, and rank from 1, or score (more is better), "
    "or the best first; for each user of test.csv"
)
"""What ``compare --lists`` reads."""


def export(job: dict[str, Any], run: Run) -> Run:
    """Write the split of a job (see ``Plan.job``) into the folder ``job["export"]``; ``split.json``, which describes it, last.

    Raises:
        DataError: a part is empty, another split is in the folder, or a file cannot be written.
    """
    # RecBole would divide ratings to lie between 0 and 1.
    data = prepare({**job, "settings": {"normalize_all": False, **job["settings"]}}, run)
    assert data is not None, "a model that reads nothing but interactions takes part in every protocol"
    config, whole, folder = data.config, data.test._dataset, Path(job["export"])
    described = folder / "split.json"
    if described.is_file() and f'"{run.split_hash}"' not in described.read_text(encoding="utf-8"):
        raise DataError(
            f"{folder}: another split is in the folder, and lists may have been made from it; choose another folder for "
            "--export-split, or delete this one."
        )
    folder.mkdir(parents=True, exist_ok=True)
    users, items = (np.asarray(whole.field2id_token[name]).astype(str) for name in (whole.uid_field, whole.iid_field))
    more = {"rating": config["RATING_FIELD"], "timestamp": config["TIME_FIELD"]}
    tables = {"items": pd.DataFrame({"item_id": items[padding.REAL]})}
    for name, loader in (("train", data.train), ("valid", data.valid), ("test", data.test)):
        feat = loader._dataset.inter_feat
        columns = {"user_id": users[feat[whole.uid_field].numpy()], "item_id": items[feat[whole.iid_field].numpy()]}
        columns |= {title: _plain(feat[field].numpy()) for title, field in more.items() if field in feat.columns}
        tables[name] = pd.DataFrame(columns)
        known = getattr(loader, "fold_in", None)
        if known is not None:
            owners, found = users[known.rows().numpy()], items[known.indices.numpy()]
            tables[f"{name}_fold_in"] = pd.DataFrame({"user_id": owners, "item_id": found})
    for name, table in tables.items():
        write_whole(folder / f"{name}.csv", table.to_csv(index=False, lineterminator="\n").encode())
    about = {
        "dataset": job["dataset"], "protocol": job["protocol"], "seed": job["seed"], "split_sha256": run.split_hash,
        "metrics": job["metrics"], "topk": job["topk"], "primary": job["primary"],
        "candidates": _candidates(config, "test_fold_in" in tables), "lists": LISTS,
        "users_of_the_test": len(data.test.uid_list), "rows": {name: len(table) for name, table in tables.items()},
        **run.data, "versions": run.versions,
    }  # fmt: skip
    write_whole(described, json.dumps(about, indent=1).encode())
    run.users = Users(np.empty(0, dtype=str), np.empty(0, dtype=np.int64), {})
    run.status = DONE
    return run


def _plain(values: NDArray[Any]) -> NDArray[Any]:
    """Return numbers as integers, if all are."""
    whole = values.dtype.kind == "f" and (values == np.floor(values)).all() and (np.abs(values) < 2**53).all()
    return values.astype(np.int64) if whole else values


def _candidates(config: Any, held_out: bool) -> str:
    """Say which items a list of the test may have, as RecBole's evaluation has it."""
    if held_out:
        return "all items of items.csv but those that the user has in test_fold_in.csv"
    if config["repeatable"]:
        return "all items of items.csv"
    return "all items of items.csv but those that the user has in train.csv or valid.csv and not in test.csv"
