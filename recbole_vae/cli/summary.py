"""What a run prints at its end: the metrics, the checkpoint, and commands to try next."""

from __future__ import annotations

import os
import re
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from recbole_vae.model.registry import is_history_model


def summarise(config: Any, result: dict[str, Any], seconds: float, options: dict[str, str], trained: int) -> None:
    """Print a summary.

    Args:
        config: RecBole's Config of the run.
        result: of RecBole's ``run``; empty where other machines have it.
        seconds: the time that the command took.
        options: of the command line, as RecBole reads them.
        trained: epochs in the checkpoint that the run went on from, or 0.
    """
    ours = is_history_model(config.model_class)
    newest = (config["resume"] if ours else None) or _written(config, seconds)
    print()
    _print_metrics(config, result)
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
        print("  # train on")
        print(
            f"  {run} --resume={shlex.quote(str(newest))} --epochs={2 * epochs} "
            f"--stopping_step={2 * max(1, int(config['stopping_step']))}"
        )


def _print_metrics(config: Any, result: dict[str, Any]) -> None:
    of_what = f"{config['model']} on {config['dataset']}"
    measured = result.get("test_result")
    if not measured:
        print(
            f"{of_what}: the split has no test part, so nothing was measured on one (eval_args: {config['eval_args']})."
        )
        return
    validated = int(config["eval_step"]) > 0 and result.get("best_valid_result") is not None
    best = f"best epoch by {config['valid_metric']}" if validated else "last epoch"
    errors = measured.standard_errors() if hasattr(measured, "standard_errors") else {}
    decimals, width = config["metric_decimal_place"] or 4, max(16, *map(len, measured))
    print(f"{of_what}, test part, {best}{' (standard error over users)' * bool(errors)}:")
    for name, value in measured.items():
        error = f" ({errors[name]:.{decimals}f})" if name in errors else ""
        print(f"  {name:<{width}} {value:.{decimals}f}{error}")


def _print_other_models(config: Any, options: dict[str, str], ours: bool) -> None:
    """Print commands for other models on the same split."""
    from recbole_vae.options.fields import ModelConfig
    from recbole_vae.options.recbole import recbole_defaults

    run, own = called(), _own(config, ours)
    kept = {name: f" --{name}={shlex.quote(value)}" for name, value in options.items() if name not in own}
    dataset = f"--dataset={shlex.quote(config['dataset'])}"
    if not ours:
        print(f"  {run} --model=MultVAE {dataset}{''.join(kept.values())}")
        return
    other = "MultDAE" if config["model"] == "MultVAE" else "MultVAE"
    print("  # another model on the same split, and one of RecBole's own")
    print(f"  {run} --model={other} {dataset}{''.join(kept.values())}")
    # RecBole's models read none of our options but the one that chooses their evaluation.
    others = set(ModelConfig.names()) - set(recbole_defaults()) - {"fast_evaluation"}
    kept_by_recbole = "".join(text for name, text in kept.items() if name not in others)
    print(f"  {run} --model=EASE {dataset}{kept_by_recbole}")


def _written(config: Any, seconds: float) -> Path | None:
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
    return f"python {shlex.quote(sys.argv[0])}" if program.startswith("run_") else "python -m recbole_vae run"


def _own(config: Any, ours: bool) -> set[str]:
    """Return the options that are of one model or run alone: not of the data, the split or the evaluation."""
    from recbole_vae.options.fields import ModelConfig
    from recbole_vae.options.recbole import options_in

    own = (
        set(config.model_class.config_class.names()) - set(ModelConfig.names())
        if ours
        else options_in(f"model/{config['model']}")
    )
    training = {
        "epochs",
        "train_batch_size",
        "learning_rate",
        "learner",
        "weight_decay",
        "clip_grad_norm",
        "stopping_step",
    }
    return own | training | {"model", "dataset", "resume", "port"}
