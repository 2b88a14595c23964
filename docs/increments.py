"""How much of a training from scratch a warm start needs: ten increments of a data set, as in ten nights.

python docs/increments.py ml-100k EPOCHS SEED         RecBole's sample, by its timestamps
python docs/increments.py FOLDER/NAME EPOCHS SEED     NAME.train.inter, NAME.valid.inter (cut into ten), NAME.test.inter

Each night a model is trained from scratch for EPOCHS epochs, and another goes on from that of the night before for a tenth of
them. Both are measured on what comes next. Seconds are of the processor, in ``Trainer.fit``. NAME-SEED.csv has a line for each
user.
"""

from __future__ import annotations

import csv
import logging
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import recbole
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed

from recbole_vae import Recommender
from recbole_vae.training.refit import WARM_SHARE

Pairs = list[tuple[str, str]]


def read(path: Path) -> list[list[str]]:
    return [line.split("\t") for line in path.read_text().splitlines()[1:]]


def by_time() -> tuple[Pairs, list[Pairs], None]:
    folder = Path(recbole.__file__).parent / "dataset_example/ml-100k"
    rows = sorted((float(time), user, item) for user, item, _, time in read(folder / "ml-100k.inter"))
    pairs, size = [(user, item) for _, user, item in rows], len(rows) // 100
    return pairs[: 90 * size], [pairs[size * night :][:size] for night in range(90, 100)], None


def by_parts(path: Path) -> tuple[Pairs, list[Pairs], Pairs]:
    train, valid, test = (
        [(row[0], row[1]) for row in read(path.with_name(f"{path.name}.{part}.inter"))]
        for part in ("train", "valid", "test")
    )
    drawn = np.array_split(np.random.RandomState(0).permutation(len(valid)), 10)
    return train, [[valid[place] for place in places] for places in drawn], test


def grouped(pairs: Pairs) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for user, item in pairs:
        groups.setdefault(user, []).append(item)
    return groups


def what_comes_next(known: Pairs, following: Pairs | None, test: Pairs | None) -> dict[str, tuple[list[str], set[str]]]:
    """Return the history of each user who is to be recommended to, and the items to be found.

    Without a test part these are the second halves of what users do in the following increment.
    """
    before, found = grouped(known), {}
    for user, items in grouped(test or following or []).items():
        half = 0 if test else len(items) // 2
        history = before.get(user, []) + items[:half]
        wanted = set(items[half:]) - set(history)
        if history and wanted:
            found[user] = history, wanted
    return found


def train(folder: Path, epochs: int, seed: int, warm_start: str | None) -> tuple[str, float]:
    options = {
        "data_path": str(folder.parent), "epochs": epochs, "seed": seed, "warm_start": warm_start, "use_gpu": False,
        "eval_args": {"split": {"RS": [1, 0, 0]}}, "checkpoint_dir": str(folder / "saved"), "show_progress": False,
    }  # fmt: skip
    config = Config(model="MultVAE", dataset=folder.name, config_dict=options)
    init_seed(seed, True)
    train_data, valid_data, _ = data_preparation(config, create_dataset(config))
    init_seed(seed, True)
    model: Any = get_model("MultVAE")(config, train_data._dataset)
    trainer = get_trainer(config["MODEL_TYPE"], "MultVAE")(config, model)
    started = time.process_time()
    trainer.fit(train_data, valid_data, verbose=False)
    return trainer.saved_model_file, time.process_time() - started


def ndcg(path: str, tasks: dict[str, tuple[list[str], set[str]]]) -> list[float]:
    lists = Recommender.load(path).recommend([history for history, _ in tasks.values()], 10)
    discount, found = 1 / np.log2(np.arange(2, 12)), []
    for ranking, (_, wanted) in zip(lists, tasks.values(), strict=True):
        gains = [discount[place] for place, (item, _) in enumerate(ranking) if item in wanted]
        found.append(float(sum(gains) / discount[: len(wanted)].sum()))
    return found


def main(name: str, epochs: int, seed: int) -> None:
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    sys.argv = sys.argv[:1]  # RecBole reads it
    known, increments, test = by_time() if name == "ml-100k" else by_parts(Path(name))
    name, warm, base = Path(name).name, "", ""
    with Path(f"{name}-{seed}.csv").open("w", newline="", encoding="utf-8") as out:
        lines = csv.writer(out)
        lines.writerow(["night", "user", "way", "ndcg", "seconds"])
        for night, increment in enumerate([[], *increments]):
            known += increment
            folder = Path(f"increments-{seed}") / str(night) / f"{name}-now"
            folder.mkdir(parents=True, exist_ok=True)
            text = "".join(f"{user}\t{item}\n" for user, item in known)
            (folder / f"{folder.name}.inter").write_text(f"user_id:token\titem_id:token\n{text}", encoding="utf-8")
            tasks = what_comes_next(known, increments[night] if night < 10 else None, test)
            if not tasks:
                break
            ways = [("scratch", *train(folder, epochs, seed, None))]
            if not night:
                warm = base = ways[0][1]
                continue
            ways += [("warm", *train(folder, math.ceil(WARM_SHARE * epochs), seed, warm)), ("base", base, 0.0)]
            warm = ways[1][1]
            for way, path, seconds in ways:
                for user, value in zip(tasks, ndcg(path, tasks), strict=True):
                    lines.writerow([night, user, way, f"{value:.6f}", f"{seconds:.3f}"])
            out.flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
