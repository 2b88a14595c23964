"""``recbole-vae run``: train and evaluate a model by RecBole."""

from __future__ import annotations

import socket
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from recbole_vae.cli.options import Options, Parser, literal_list, whole
from recbole_vae.cli.summary import summarise, written
from recbole_vae.errors import ConfigError, TrainingError
from recbole_vae.model.registry import check_model_name, is_history_model, model_class, model_names
from recbole_vae.options import command_line
from recbole_vae.options.processes import is_first, torchrun_group
from recbole_vae.storage.once import read_once

SUMMARY = "Train a model, evaluate its best epoch on the test part, and print a summary."
_OF_RECBOLES_GROUPS = {"nproc", "world_size", "group_offset", "ip", "port"}


def parser() -> Parser:
    """Declare the options; RecBole reads the free ones."""
    parser = Parser(
        "run", SUMMARY, "[--model=NAME] [--dataset=NAME] [--OPTION=VALUE ...]", free=True,
        epilog="Any other --OPTION=VALUE is an option of RecBole or of the model. The command line overrides the files.",
    )  # fmt: skip
    parser.option(
        "--model", metavar="NAME", help=f"{', '.join(model_names())}, or any model of RecBole (default: MultVAE)"
    )
    parser.option(
        "--dataset", metavar="NAME",
        help="the data set in the file NAME/NAME.inter below data_path (default: ml-100k, which comes with RecBole)",
    )  # fmt: skip
    parser.option(
        "--config_files",
        metavar="FILES",
        help="YAML files, separated by spaces in quotes: 'a.yaml b.yaml'. Later files override earlier ones",
    )
    parser.option(
        "--resume", metavar="FILE", help="continue training from this checkpoint, with the settings stored in it"
    )
    parser.option(
        "--warm_start",
        metavar="FILE",
        help="begin with the parameters of this checkpoint of the same model, matched by item ids",
    )
    parser.option(
        "--out",
        metavar="FILE",
        help="put the checkpoint of the best epoch here at the end (default: a new name in saved/)",
    )
    parser.option(
        "--metrics", kind=literal_list, several=True, metavar="NAME", help="metrics to report, such as Recall NDCG"
    )
    parser.option(
        "--topk", kind=literal_list, several=True, metavar="N", help="cutoffs k of the metrics, such as 10 20"
    )
    parser.option(
        "--nproc", kind=whole(), default=1, metavar="N",
        help="RecBole's way to start N processes; torchrun does it for several machines, too",
    )  # fmt: skip
    parser.option(
        "--world_size", kind=whole(), default=-1, metavar="N", help="processes on all machines (default: nproc)"
    )
    parser.option(
        "--group_offset", kind=whole(0), default=0, metavar="N", help="rank of this machine's first process among all"
    )
    parser.option("--ip", default="localhost", metavar="IP", help="address of the first machine")
    parser.option("--port", kind=whole(1, 65535), metavar="N", help="port at that address (default: a free one)")
    parser.shared("imports")
    return parser


def command(options: Options) -> None:
    """Train and evaluate."""
    given = recbole_options(options)
    started_by_both = sorted(_OF_RECBOLES_GROUPS & set(options.given)) if torchrun_group() else []
    if started_by_both:
        raise ConfigError(f"--{started_by_both[0]} (command line): torchrun has started the processes; leave it out.")
    for name, value in given.items():
        if "=" in value:
            raise ConfigError(
                f"{name}: '{value}' (command line): RecBole takes no '=' in a value; put the option into a YAML file."
            )
    # RecBole reads its options from here, in this process and in its children.
    sys.argv = [sys.argv[0], *(f"--{name}={value}" for name, value in given.items())]
    with warnings.catch_warnings(), read_once(), command_line.ours():
        # RecBole makes tensors of pandas' arrays, which are read-only now; it does not write to them.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        _run(options, given)


def recbole_options(options: Options) -> dict[str, str]:
    """Return the options that were given as the texts that RecBole reads, without ``imports``."""
    return {
        name: options.free[name] if name in options.free else str(getattr(options, name))
        for name in options.given
        if name != "imports"
    }


def _run(options: Options, given: dict[str, str]) -> None:
    model, dataset, trained = options.model, options.dataset, 0
    files = options.config_files or ""
    config_files = [files] if Path(files).is_file() else files.split()
    if options.resume not in (None, "None"):  # RecBole's word for none
        from recbole_vae.storage import checkpoint

        state = checkpoint.load(options.resume)
        model, dataset, trained = model or state["model"], dataset or state["dataset"], state["epoch"] + 1
    if config_files and not (model and dataset):
        in_files = _in_files(config_files)
        model, dataset = model or in_files.get("model"), dataset or in_files.get("dataset")
    model, dataset = model or "MultVAE", dataset or "ml-100k"
    check_model_name(model)
    if options.resume not in (None, "None") and not is_history_model(model_class(model)):
        raise ConfigError(f"resume: {model} is trained by RecBole, whose runs cannot be resumed from the command line.")

    from recbole.config import Config
    from recbole.quick_start import run

    from recbole_vae.training.refit import in_one_stage

    # Made here once before RecBole makes its own: a mistake in it shows before any child process starts.
    config = Config(model=model, dataset=dataset, config_file_list=config_files)
    if config["out"] and not in_one_stage(config):
        raise ConfigError(
            f"out: {model} is trained in several stages or by another library, so its file keeps its name."
        )
    distributed: dict[str, Any] = {
        "nproc": options.nproc,
        "world_size": options.world_size,
        "ip": options.ip,
        "port": str(options.port or free_port()),
        "group_offset": options.group_offset,
    }
    with watched(options.nproc, lambda: _how_to_go_on(config, time.time() - options.started)):
        result = run(model, dataset, config_file_list=config_files, **distributed)
    if not is_first():
        return
    imports = {"imports": ",".join(options.imports)} if options.imports else {}
    summarise(config, result or {}, time.time() - options.started, {**given, **imports}, trained)


@contextmanager
def watched(nproc: int, advice: Callable[[], str]) -> Iterator[None]:
    """Say which child process was killed, if RecBole's ``run`` ends in this block because of that.

    Args:
        nproc: number of child processes.
        advice: says what to do.

    Raises:
        TrainingError: a child process was killed, or ended without an error of its own.
    """
    from torch.multiprocessing.spawn import ProcessExitedException

    try:
        yield
    except ProcessExitedException as error:
        how = f"was killed by {error.signal_name}" if error.signal_name else f"ended with exit status {error.exit_code}"
        raise TrainingError(f"process {error.error_index} of {nproc} {how}, so all have stopped. {advice()}") from None


def _how_to_go_on(config: Any, seconds: float) -> str:
    file = config["resume"] or written(config, seconds)
    if not file:
        return "No epoch was saved yet."
    return f"Go on from the best epoch so far with --resume={file}, with any number of processes."


def free_port() -> int:
    """Return a port that is free; by RecBole's fixed one, two runs on one machine would meet."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port: int = probe.getsockname()[1]
        return port


def _in_files(config_files: Sequence[str]) -> dict[str, str]:
    """Return the model and data set that config files name; errors in them are reported when RecBole reads them."""
    import yaml

    found: dict[str, str] = {}
    for file in config_files:
        try:
            content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            continue
        if isinstance(content, dict):
            found.update({key: str(content[key]) for key in ("model", "dataset") if key in content})
    return found
