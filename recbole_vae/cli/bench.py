"""``recbole-vae bench``: measure speed and memory on generated data."""

from __future__ import annotations

import json
from typing import Any

from recbole_vae.bench.shapes import SHAPES, shapes_of
from recbole_vae.cli.options import Options, Parser, many, unique_names, whole
from recbole_vae.cli.outputs import check_outputs
from recbole_vae.model.registry import check_model_name, is_history_model, model_class, model_names
from recbole_vae.storage.files import opened

SUMMARY = "Measure speed and memory of models beside RecBole's MultiVAE, on generated data."


def parser() -> Parser:
    """Declare the options."""
    parser = Parser("bench", SUMMARY, "[--preset=ml-1m] [--models=A,B] [--OPTION=VALUE ...]")
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
    """Measure, and print a table for each shape."""
    shape_options = ("preset", "users", "items", "interactions")
    shapes = shapes_of({
        name: ",".join(map(str, value)) if isinstance(value, list) else str(value)
        for name in shape_options
        if (value := getattr(options, name)) is not None
    })  # fmt: skip
    for model in options.models:
        check_model_name(model)
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
