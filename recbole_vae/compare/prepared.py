"""The data of a run: loaded and split by RecBole's own steps, the same for every row of a table."""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass
from typing import Any

import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, init_seed

from recbole_vae.compare import checks, description
from recbole_vae.compare.results import LISTS, REFUSED, Run
from recbole_vae.data.histories import Histories
from recbole_vae.data.splits import split_hash
from recbole_vae.errors import ConfigError, DataError
from recbole_vae.evaluation.fold_in import why_not
from recbole_vae.evaluation.new_items import refusal
from recbole_vae.options.evaluation import holds_out_items, holds_out_users
from recbole_vae.storage import checkpoint

_WITHOUT_MODEL = "Pop"
"""RecBole loads data for a model. This one reads nothing but interactions, and takes part in every protocol."""


@dataclass
class Prepared:
    """RecBole's Config, and the dataloaders of the three parts."""

    config: Any
    train: Any
    valid: Any
    test: Any

    def train_histories(self) -> Histories:
        """Return the training items of each user, rows by internal id."""
        whole, feat = self.test._dataset, self.train._dataset.inter_feat
        return Histories.from_interactions(feat[whole.uid_field], feat[whole.iid_field], None, whole.user_num)


def started(job: dict[str, Any]) -> Run:
    """Return the run of a job before anything is measured."""
    sys.argv = sys.argv[:1]
    run = Run(job["dataset"], "", job["model"], job["model"], job["seed"])
    run.settings, run.versions = dict(job["settings"]), checkpoint.versions()
    return run


def prepare(job: dict[str, Any], run: Run) -> Prepared | None:
    """Load and split the data of a job (see ``Plan.job``), and note in its run what they are.

    Returns:
        The data; None if the model cannot take part, which the run then says.

    Raises:
        DataError: a part is empty.
        Exception: whatever RecBole raises.
    """
    name = _WITHOUT_MODEL if job["model"] == LISTS else job["model"]
    model = get_model(name)
    torch.autograd.set_detect_anomaly(False)  # importing RecBole's SINE turns it on for the whole process
    seed, split_seed = job["seed"], job["seed"] if job["split_seed"] is None else job["split_seed"]
    options = {
        **job["settings"], "seed": seed, "metrics": job["metrics"], "topk": job["topk"], "valid_metric": job["primary"],
        "show_progress": False, "checkpoint_dir": "saved", "fast_evaluation": True,
    }  # fmt: skip
    try:
        config = Config(model=name, dataset=job["dataset"], config_dict=copy.deepcopy(options))
    except ConfigError as error:
        for reason in (why_not(model, job["settings"]), refusal(model, job["settings"])):
            if reason and reason in str(error):
                run.status, run.reason = REFUSED, reason
                return None
        raise
    drawn = [what for what, holds in (("users", holds_out_users), ("items", holds_out_items)) if holds(config)]
    if drawn and job["split_seed"] is not None:
        config["eval_args"]["seed"] = split_seed
    elif drawn and "seed" in config["eval_args"]:
        run.notes.append(
            f"The held-out {' and '.join(drawn)} are the same for all seeds (eval_args: seed: {config['eval_args']['seed']})."
        )
    init_seed(split_seed, config["reproducibility"])
    dataset = create_dataset(config)
    run.data = description.data(dataset, config)
    train, valid, test = data_preparation(config, dataset)
    for name, part in (("validation", valid), ("the test", test)):
        if not len(part._dataset):
            raise DataError(f"the split leaves no interactions for {name}; see eval_args.")
    run.notes += [f"{gap}." for gap in getattr(test._dataset, "gaps", [])]
    held_out = getattr(train._dataset, "split_hash", None)  # the command run shows it, too
    run.split_hash = held_out or split_hash(train._dataset, valid._dataset, test._dataset)
    run.data["checks"] = checks.measure(train, valid, test)
    return Prepared(config, train, valid, test)
