"""``recbole-vae bench``: measure speed and memory on generated data."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recbole_vae.bench.shapes import SHAPES, shapes_of
from recbole_vae.cli.options import (
    NotAllowedError,
    Options,
    Parser,
    many,
    number_between,
    true_or_false,
    unique_names,
    whole,
)
from recbole_vae.cli.outputs import check_outputs
from recbole_vae.errors import ConfigError, TrainingError
from recbole_vae.model.registry import check_model_name, is_history_model, model_class, model_names
from recbole_vae.options import command_line
from recbole_vae.storage.files import opened

SUMMARY = "Measure speed and memory beside RecBole's MultiVAE, or the time to a result."

_OF_TARGET = ("dataset", "config_files", "time_limit")
_OF_ALL = ("to", *_OF_TARGET, "models", "repeats", "threads", "json", "imports")
"""Options that mean something with ``--to``; those of RecBole do, too."""
_OURS = ("model", "valid_metric", "fast_evaluation", "show_progress", "resume", "nproc")
"""Options of ``run`` that ``--to`` sets itself, or that it cannot have."""


_OF_PROFILE = (
    "profile", "preset", "users", "items", "interactions", "models", "train_batch_size", "mlp_hidden_size", "latent_dimension",
    "threads", "json", "imports",
)  # fmt: skip


class _Parser(Parser):
    """Takes RecBole's options, too, if the time to a result is asked for. ``--profile`` needs no value."""

    def read(self, words: Sequence[str]) -> Options:
        self.free = any(word.partition("=")[0] == "--to" for word in words)
        return super().read(["--profile=True" if word == "--profile" else word for word in words])


def target(words: list[str]) -> tuple[str, float | None]:
    """Read a metric with its cutoff, such as ``NDCG@10``, and perhaps the value that it has to reach."""
    metric, colon, value = words[0].partition(":")
    try:
        found = float(value) if colon else None
    except ValueError:
        found = None
    reachable = found is None or 0 < found <= 1  # metrics of accuracy are shares
    if not re.fullmatch(r"\w+@[1-9]\d*", metric) or (colon and found is None) or not reachable:
        raise NotAllowedError(
            words[0], "a metric at a cutoff, perhaps with a value above 0 and up to 1: NDCG@10 or NDCG@10:0.25"
        )
    return metric, found


def parser() -> Parser:
    """Declare the options."""
    parser = _Parser(
        "bench", SUMMARY, "[--preset=ml-1m | --to=NDCG@10] [--models=A,B] [--OPTION=VALUE ...]",
        epilog="With --to, any other --OPTION=VALUE is an option of RecBole for all models, such as --data_path or --seed.",
    )  # fmt: skip
    parser.option(
        "--to", kind=target, metavar="NDCG@10:X",
        help="instead, the time from the command until this validation metric reaches X, on a real data set; without X: "
        "until it reaches the best of RecBole's MultiVAE",
    )  # fmt: skip
    parser.option(
        "--profile", kind=true_or_false, default=False, metavar="True",
        help="instead, one training step part by part on the CPU, beside what its products and its memory allow",
    )  # fmt: skip
    parser.option("--dataset", metavar="NAME", help="with --to: the data set (default: ml-100k)")
    parser.option(
        "--config_files", metavar="FILES", help="with --to: YAML files of RecBole, separated by spaces in quotes"
    )
    parser.option(
        "--time_limit", kind=number_between(0), metavar="SECONDS",
        help="with --to: a model that has not reached it by then ends with its next validation",
    )  # fmt: skip
    parser.option("--preset", metavar="NAME", help=f"shape of the data: {', '.join(SHAPES)} (default: ml-1m)")
    parser.option(
        "--users",
        kind=whole(2),
        metavar="N",
        help="number of users, instead of a preset; needs --items and --interactions",
    )
    parser.option(
        "--items", kind=many(whole(2)), several=True, metavar="N", help="number of items; several numbers make a series"
    )
    parser.option(
        "--interactions",
        kind=whole(2),
        metavar="N",
        help="number of interactions, from 5 times the users to a quarter of all user-item pairs",
    )
    parser.option(
        "--models", kind=unique_names, several=True, metavar="NAME", default=["MultVAE", "MultDAE"],
        help="models to measure, including RecBole's own",
    )  # fmt: skip
    parser.option(
        "--repeats", kind=whole(), default=3, metavar="N", help="measurements of each model; the models take turns"
    )
    parser.option(
        "--seconds", kind=whole(), default=5, metavar="N", help="minimum length of each measurement, in seconds"
    )
    parser.option(
        "--train_batch_size", kind=many(whole(0)), several=True, default=[500], metavar="N",
        help="users per training step, for all models",
    )  # fmt: skip
    parser.option(
        "--mlp_hidden_size", kind=many(whole(0), or_none=True), several=True, default=[600], metavar="N",
        help="sizes of the hidden layers of every autoencoder; [] for none",
    )  # fmt: skip
    parser.option(
        "--latent_dimension", kind=whole(), default=200, metavar="N", help="latent dimension of every autoencoder"
    )
    parser.option(
        "--n_negatives",
        kind=whole(0),
        default=0,
        metavar="N",
        help="above 0: also measure recbole_vae's models with a softmax sampled from N items",
    )
    parser.option(
        "--memory_limit",
        kind=whole(),
        metavar="GB",
        help="memory limit of each process on a CPU; not on Windows (default: the memory free now)",
    )
    parser.option(
        "--threads", kind=whole(), metavar="N", help="torch threads in each process (default: torch's own choice)"
    )
    parser.shared("json")
    parser.option("--plot", metavar="FILE", help="draw time and memory of a training step against the number of items")
    parser.shared("imports")
    return parser


def command(options: Options) -> None:
    """Measure, and print a table for each shape, or one of the times to a result."""
    for name in options.given:
        if options.to is None and name in _OF_TARGET:
            raise ConfigError(f"--{name} (command line) has no meaning without --to.")
        if options.to is not None and name not in _OF_ALL and name not in options.free:
            raise ConfigError(
                f"--{name} (command line) has no meaning with --to, where each model has its defaults and the data are real."
            )
        if options.profile and name not in _OF_PROFILE:
            raise ConfigError(f"--{name} (command line) has no meaning with --profile.")
    for model in options.models:
        check_model_name(model)
    if options.to is not None:
        _to_target(options)
        return
    shape_options = ("preset", "users", "items", "interactions")
    shapes = shapes_of({
        name: ",".join(map(str, value)) if isinstance(value, list) else str(value)
        for name in shape_options
        if (value := getattr(options, name)) is not None
    })  # fmt: skip
    files = check_outputs(options, "json", "plot")
    picture, only_json = files.get("plot"), options.json == "-"
    from recbole_vae.bench import report
    from recbole_vae.bench import run as bench

    if picture:
        report.pyplot(picture)
    memory_limit = options.memory_limit
    if memory_limit is None:
        import psutil

        memory_limit = max(1, psutil.virtual_memory().available // 10**9)
    if options.threads:
        import torch

        torch.set_num_threads(options.threads)
    own = [name for name in model_names() if is_history_model(model_class(name))]
    if options.profile:
        _profile(options, shapes, own)
        return
    rows = bench.sides(options.models, own, options.mlp_hidden_size, options.latent_dimension, options.n_negatives)
    reports: list[dict[str, Any]] = []
    for shape in shapes:
        reports.append(
            bench.run(
                rows,
                shape,
                repeats=options.repeats,
                seconds=options.seconds,
                batch_sizes=options.train_batch_size,
                memory_limit=memory_limit,
                imports=options.imports,
            )
        )
        interrupted = reports[-1]["interrupted"]
        if not only_json:
            print(report.table(reports[-1]), end="\n\n" if len(shapes) > 1 else "\n")
        if "json" in files and (not only_json or interrupted or len(reports) == len(shapes)):
            with opened(files["json"]) as file:
                file.write(json.dumps(reports if len(shapes) > 1 else reports[0], indent=1) + "\n")
        if interrupted:
            raise KeyboardInterrupt
    if picture:
        report.plot(reports, picture)


def _profile(options: Options, shapes: Sequence[tuple[int, int, int]], own: Sequence[str]) -> None:
    """Profile a training step of each model, and print a table for each."""
    models = options.models if "models" in options.given else options.models[:1]
    for model in models:
        if model not in own:
            raise ConfigError(
                f"models: {model} (command line): --profile is for models of recbole_vae: {', '.join(own)}."
            )
    if len(shapes) > 1 or len(options.train_batch_size) > 1:
        raise ConfigError("--profile (command line) is of one number of items and one train_batch_size.")
    files = check_outputs(options, "json")
    from recbole_vae.bench import report
    from recbole_vae.bench import run as bench

    rows = bench.sides(models, own, options.mlp_hidden_size, options.latent_dimension)[1:]
    found = bench.profiles(rows, shapes[0], users=options.train_batch_size[0], imports=options.imports)
    if options.json != "-":
        print(report.profile_table(found))
    if "json" in files:
        with opened(files["json"]) as file:
            file.write(json.dumps(found, indent=1) + "\n")
    if any(each["error"] for each in found["profiles"].values()):
        raise TrainingError("a step could not be profiled; the table says why.")


def _to_target(options: Options) -> None:
    """Measure the times to a result, and print their table."""
    for name in _OURS:
        if name in options.free:
            raise ConfigError(f"--{name} (command line): bench --to sets this itself, or cannot have it.")
    files = check_outputs(options, "json")
    from recbole_vae.bench import report
    from recbole_vae.bench import target as bench

    metric, value = options.to
    rows, dataset = bench.sides(options.models), options.dataset or "ml-100k"
    found = bench.run(
        rows, _shared_words(options, rows, dataset, metric), dataset=dataset, metric=metric, value=value,
        repeats=options.repeats, time_limit=options.time_limit, threads=options.threads,
    )  # fmt: skip
    if options.json != "-":
        print(report.target_table(found))
    if "json" in files:
        with opened(files["json"]) as file:
            file.write(json.dumps(found, indent=1) + "\n")
    if found["interrupted"]:
        raise KeyboardInterrupt


def _shared_words(options: Options, rows: Sequence[Any], dataset: str, metric: str) -> list[str]:
    """Return the words that all commands share. Mistakes in them are found here; the commands run in another folder."""
    from recbole.config import Config

    given = options.config_files or ""
    config_files = [given] if Path(given).is_file() else given.split()
    words = [f"--{name}={text}" for name, text in options.free.items()]
    name, _, k = metric.partition("@")
    if not {"metrics", "topk"} & set(options.free) and not config_files:
        words += [f"--metrics=['{name}']", f"--topk=[{k}]"]
    argv, folder = sys.argv, ""
    try:
        for side in rows:
            model, *others = side.words
            sys.argv = [argv[0], *words, *others, f"--valid_metric={metric}"]
            with command_line.ours():
                config = Config(model=model.partition("=")[2], dataset=dataset, config_file_list=config_files)
            folder = str(Path(config["data_path"]).resolve().parent)
        if not Path(config["data_path"]).is_dir():  # RecBole would download some, while the clock runs
            raise ConfigError(
                f"dataset: there is no folder {config['data_path']}. Set data_path to the folder that holds "
                f"{dataset}/{dataset}.inter."
            )
    finally:
        sys.argv = argv
    words = [word for word in words if not word.startswith("--data_path=")]
    if config_files:
        words.append(f"--config_files={' '.join(str(Path(file).resolve()) for file in config_files)}")
    if options.imports:
        words.append(f"--imports={','.join(options.imports)}")
    return [f"--dataset={dataset}", f"--data_path={folder}", *words]
