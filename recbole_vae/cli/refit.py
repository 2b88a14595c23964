"""``recbole-vae refit``: train a model again, as an earlier run was trained, on all interactions."""

from __future__ import annotations

import math
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from recbole_vae.cli.options import Options, Parser, whole
from recbole_vae.cli.run import free_port, recbole_options, watched
from recbole_vae.cli.summary import print_mixture
from recbole_vae.errors import ConfigError
from recbole_vae.model.registry import is_history_model, model_class
from recbole_vae.options import command_line
from recbole_vae.options.processes import is_first, torchrun_group
from recbole_vae.storage.once import read_once

SUMMARY = "Train again on all interactions, with the settings of a checkpoint."

_OWN = ("checkpoint", "out", "dataset", "warm_start", "nproc")
"""Options that are not among RecBole's words here."""

_FIXED = {
    "model": "the model is that of the checkpoint",
    "eval_args": "all interactions are for training",
    "resume": "for an interrupted refit, give the same command again",
    "config_files": "the settings are those of the checkpoint; give others as --OPTION=VALUE",
}
"""Options of ``run`` that do not go with this, and why."""


def parser() -> Parser:
    """Declare the options; RecBole reads the free ones."""
    parser = Parser(
        "refit", SUMMARY, "--checkpoint=FILE --out=FILE [--dataset=NAME] [--OPTION=VALUE ...]", free=True,
        epilog="The settings are those of the checkpoint. Any other --OPTION=VALUE of RecBole or the model replaces one.",
    )  # fmt: skip
    parser.shared("checkpoint", help="a checkpoint of recbole-vae run: the model, its settings and its best epoch")
    parser.option(
        "--out", metavar="FILE", missing="the checkpoint to write",
        help="the checkpoint to write; it is replaced at the end, in one step, and may be that of --checkpoint",
    )  # fmt: skip
    parser.option(
        "--dataset",
        metavar="NAME",
        help="another data set, in NAME/NAME.inter below data_path (default: that of the checkpoint)",
    )
    parser.option(
        "--warm_start", metavar="FILE",
        help="begin with the parameters of this checkpoint, matched by item ids, and train for a tenth of the epochs",
    )  # fmt: skip
    parser.option("--nproc", kind=whole(), default=1, metavar="N", help="train with N processes on this machine")
    parser.shared("imports")
    return parser


def command(options: Options) -> None:
    """Train, and say what was trained on."""
    if torchrun_group() and "nproc" in options.given:
        raise ConfigError("--nproc (command line): torchrun has started the processes; leave it out.")
    for name, reason in _FIXED.items():
        if name in options.free:
            raise ConfigError(f"--{name} (command line): {reason}; leave it out.")
    given = {name: value for name, value in recbole_options(options).items() if name not in _OWN}
    sys.argv = [sys.argv[0], *(f"--{name}={value}" for name, value in given.items())]
    with warnings.catch_warnings(), read_once(), command_line.ours():
        # RecBole makes tensors of pandas' arrays, which are read-only now; it does not write to them.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        _refit(options)


def _refit(options: Options) -> None:
    started = time.time()
    from recbole.config import Config
    from recbole.quick_start import run

    from recbole_vae.training.refit import WARM_SHARE, recipe

    found = recipe(options.checkpoint)
    model, dataset = found.model, options.dataset or found.dataset
    settings: dict[str, Any] = {"out": options.out, "refit": options.checkpoint}
    if options.warm_start:
        if not is_history_model(model_class(model)):
            raise ConfigError(
                f"--warm_start (command line): {model} is trained by RecBole, which begins anew; leave it out."
            )
        settings["warm_start"] = options.warm_start
        if found.epochs:
            settings["epochs"] = math.ceil(WARM_SHARE * found.epochs)
    # Made here once before RecBole makes its own: a mistake in it shows before any child process starts.
    config = Config(model=model, dataset=dataset, config_dict=dict(settings))
    if found.epochs is None and not options.warm_start and "epochs" not in options.free:
        raise ConfigError(
            f"--checkpoint={options.checkpoint} (command line): this model began with a warm start, so how many epochs it needs "
            "from scratch is not known. Give --warm_start=FILE, --epochs=N, or the checkpoint of a run from scratch."
        )
    with watched(options.nproc, lambda: "Give the same command again."):
        run(model, dataset, config_dict=dict(settings), nproc=options.nproc, port=str(free_port()))
    if not is_first():
        return
    print()
    print(
        f"{model} on {dataset}: trained for {config['epochs']} epoch{'s' * (config['epochs'] > 1)} on {_size(options.out)}."
    )
    if is_history_model(config.model_class):
        print_mixture(options.out, config.model_class)
    if found.changed:
        print(f"Note        {found.changed}")
    if found.score:
        print(f"Before      {found.score} on the validation part of the run in {options.checkpoint}")
    print("Unknown     how good this model is: no interaction is left to measure it on")
    print(f"Time        {time.time() - started:.1f} s, from the start of the command")
    print(f"Checkpoint  {options.out}")


def _size(path: str | Path) -> str:
    """Say on how much a model was trained, where its checkpoint holds that."""
    from recbole_vae.data import padding
    from recbole_vae.storage import checkpoint, recbole_checkpoint

    if recbole_checkpoint.is_recboles(path):
        return "all interactions"
    state = checkpoint.load(path)
    users, items = (padding.real(len(state[kind])) for kind in ("users", "items"))
    return f"all {len(state['histories']['indices']):,} interactions of {users:,} users with {items:,} items"
