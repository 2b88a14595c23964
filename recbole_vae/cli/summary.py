"""What a run prints at its end: the metrics, the checkpoint, and commands to try next."""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path
from typing import Any

from recbole_vae.model.known_options import FOR_ALL
from recbole_vae.model.registry import is_history_model, recbole_name
from recbole_vae.options.shell import quoted

_CHANGED = {"model", "dataset", "resume", "warm_start", "out", "epochs", "stopping_step", "port"}
"""Options that are not to be repeated when training goes on."""


def summarise(config: Any, result: dict[str, Any], seconds: float, options: dict[str, str], trained: int) -> None:
    """Print a summary.

    Args:
        config: RecBole's Config of the run.
        result: of RecBole's ``run``; empty where other machines have it.
        seconds: the time that the command took.
        options: of the command line, as RecBole reads them, and ``imports``.
        trained: epochs in the checkpoint that the run went on from, or 0.
    """
    ours = is_history_model(config.model_class)
    newest = config["out"] or (config["resume"] if ours else None) or written(config, seconds)
    print()
    _print_metrics(config, result)
    if ours and newest:
        print_mixture(newest, config.model_class)
    print(f"Time        {seconds:.1f} s, from the start of the command")
    print(f"Checkpoint  {newest or 'none was written'}")
    if getattr(result.get("test_result"), "split_hash", None):
        print(f"Split       SHA-256 {result['test_result'].split_hash}")
    print("Try next:")
    run = called()
    if not config["resume"]:  # else the options that make the split are in the checkpoint
        _print_other_models(config, options, ours)
    if ours and newest:
        epochs = max(int(config["epochs"]), trained)
        # A file that this run went on from has the options of an earlier command, and this one may have moved the data.
        kept = {
            name: value
            for name, value in options.items()
            if name == "imports" or (config["resume"] and name not in _CHANGED)
        }
        print("  # continue training")
        print(
            f"  {run} --resume={quoted(str(newest))} --epochs={2 * epochs} "
            f"--stopping_step={2 * max(1, int(config['stopping_step']))}{_words(kept)}"
        )


def print_mixture(path: str | Path, kind: Any) -> None:
    """Print what was chosen for the mixture of the model in a checkpoint, if its class has one."""
    from recbole_vae.model.hybridvae import HybridVAE, mixture_in
    from recbole_vae.storage import checkpoint

    if issubclass(kind, HybridVAE):
        print(f"Mixture     {mixture_in(checkpoint.load(path)) or 'nothing was auto'}")


def _print_metrics(config: Any, result: dict[str, Any]) -> None:
    from recbole_vae.evaluation.metrics import Result

    of_what = f"{config['model']} on {config['dataset']}"
    measured = result.get("test_result")
    if not measured:
        print(
            f"{of_what}: the split has no test part, so nothing was measured on one (eval_args: {config['eval_args']})."
        )
        return
    best = "last epoch"
    if int(config["eval_step"]) > 0 and result.get("best_valid_result") is not None:
        best = f"best epoch by {config['valid_metric']}"
        if int(config["eval_step"]) > int(config["epochs"]):  # RecBole evaluates the last one then
            best = f"last epoch, the only one evaluated (eval_step: {config['eval_step']} is above epochs: {config['epochs']})"
    errors = measured.standard_errors() if isinstance(measured, Result) else {}
    decimals, width = config["metric_decimal_place"], max(16, *map(len, measured))
    print(f"{of_what}, test part, {best}{' (standard error over users)' * bool(errors)}:")
    for name, value in measured.items():
        error = f" ({errors[name]:.{decimals}f})" if name in errors else ""
        print(f"  {name:<{width}} {value:.{decimals}f}{error}")
    for gap in measured.gaps if isinstance(measured, Result) else ():
        print(f"Note        {gap}")


def _print_other_models(config: Any, options: dict[str, str], ours: bool) -> None:
    """Print commands for other models on the same split."""
    from recbole_vae.options.evaluation import holds_out_items
    from recbole_vae.options.fields import ModelConfig
    from recbole_vae.options.recbole import recbole_defaults

    run, own = called(), _own(config, ours)
    other = "MultDAE" if config["model"] == "MultVAE" else "MultVAE"
    if other == "MultVAE":  # which reads profiles, as HybridVAE does
        own -= {"user_features"}
    kept = {name: value for name, value in options.items() if name not in own}
    dataset = f"--dataset={quoted(config['dataset'])}"
    if not ours:
        print(f"  {run} --model=MultVAE {dataset}{_words(kept)}")
        return
    print("  # another model on the same split, and one of RecBole's own")
    print(f"  {run} --model={other} {dataset}{_words(kept)}")
    others = {"user_features", *ModelConfig.names()} - set(recbole_defaults()) - FOR_ALL
    peer = "Pop" if holds_out_items(config) else "EASE"  # which has no scores of such items
    print(f"  {run} --model={peer} {dataset}{_words({name: kept[name] for name in kept if name not in others})}")


def _words(options: dict[str, str]) -> str:
    """Return options as they are typed in a shell, each after a space."""
    return "".join(f" --{name}={quoted(value)}" for name, value in options.items())


def written(config: Any, seconds: float) -> Path | None:
    """Return the checkpoint that this run wrote: ours have the number of the process in their names, RecBole's only a time."""
    files = [(file.stat().st_mtime, file) for file in Path(config["checkpoint_dir"]).glob(f"{config['model']}-*.pth")]
    new = [(written, file) for written, file in files if written >= time.time() - seconds - 1]
    own = [(written, file) for written, file in new if re.search(rf"-{os.getpid()}(-\d+)?\.pth$", file.name)]
    return max(own or new)[1] if new else None


def called() -> str:
    """Return how ``run`` is called: by the console command, the script of the repository, or the package."""
    program = Path(sys.argv[0]).name
    if program.startswith("recbole-vae"):
        return "recbole-vae run"
    return f"python {quoted(sys.argv[0])}" if program.startswith("run_") else "python -m recbole_vae run"


def _own(config: Any, ours: bool) -> set[str]:
    """Return the options that are of one model or run alone: not of the data, the split or the evaluation."""
    from recbole_vae.options.fields import ModelConfig
    from recbole_vae.options.recbole import options_in

    kind = config.model_class
    if ours:
        own = set(kind.config_class.names()) - set(ModelConfig.names())
    else:
        own = options_in(f"model/{recbole_name(kind)}") | set(getattr(kind, "defaults", ()))
    training = {
        "epochs",
        "train_batch_size",
        "learning_rate",
        "learner",
        "weight_decay",
        "clip_grad_norm",
        "stopping_step",
    }
    return own | training | {"model", "dataset", "resume", "warm_start", "out", "port"}
