"""The console command ``recbole-vae``."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import os
import re
import shlex
import socket
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from recbole_vae.errors import ConfigError, DataError, RecBoleVAEError, is_out_of_memory
from recbole_vae.model.registry import is_history_model, model_names
from recbole_vae.options.fields import ModelConfig
from recbole_vae.options.limits import LARGEST
from recbole_vae.options.names import near
from recbole_vae.options.recbole import options_in, recbole_defaults, recbole_model_names
from recbole_vae.storage.files import opened, silence, standard_output, written_whole
from recbole_vae.storage.once import read_once

if TYPE_CHECKING:
    from recbole_vae.serving.recommender import Unknown

USAGE = """\
usage: recbole-vae run [--model=NAME] [--dataset=NAME] [--config_files='A.yaml B.yaml'] [--OPTION=VALUE ...]
       recbole-vae prepare NAME SOURCE [--out=dataset]
       recbole-vae recommend --checkpoint=FILE [--users=A,B | --histories=FILE] [-k=10] [--out=FILE]
       recbole-vae compare --out=DIR [--models=A,B] [--dataset=NAME] [--seeds=5] [--config=PLAN.yaml] [--OPTION=VALUE ...]
       recbole-vae bench [--preset=ml-1m] [--models=MultVAE,MultDAE] [--OPTION=VALUE ...]
       recbole-vae explain --checkpoint=FILE (--user=ID | --users=A,B | --histories=FILE) [-k=10] [--json=FILE] [--html=FILE]
       recbole-vae generate --checkpoint=FILE --out=DIR [--users=N] [--source=posterior] [--around=ID | --histories=FILE]
       recbole-vae latent --checkpoint=FILE [--user=ID] [--html=FILE] [--json=FILE]
       recbole-vae uncertainty --checkpoint=FILE [--samples=100] [--diversify=0.5,1] [--json=FILE] [--html=FILE]
       recbole-vae --version

run      Train a model by RecBole, evaluate its best epoch on the test part, and print a summary.
         `python run_recbole_vae.py` is the same.

  --model=NAME           {models}, or any model of RecBole (default MultVAE)
  --dataset=NAME         a folder NAME with NAME.inter in data_path (default ml-100k, which RecBole brings)
  --config_files=FILES   YAML files, separated by spaces; later ones come above earlier ones
  --resume=CHECKPOINT    go on training from a checkpoint of recbole_vae, with its settings
  --nproc=N              share the work between N processes
  --OPTION=VALUE         any other option of RecBole or of the model; it comes above the files

prepare  Make a data set of RecBole from what its owners publish, with the filters and the protocol of Mult-VAE's paper.

  NAME                   {sources}
  SOURCE                 the archive, or the file or folder that was in it
  --out=FOLDER           where the folder of the data set is put; RecBole's data_path (default dataset)

recommend   Rank items by a checkpoint of recbole_vae, as CSV: user_id,rank,item_id,score.

  --checkpoint=FILE      written by training; nothing else is needed
  --users=A,B            users of the training data, each once (default: all of them); '"A,B"' is one whose id has a comma
  --histories=FILE       other histories: CSV with the columns user_id,item_id, or an atomic file of RecBole; - reads
                         standard input. All lines of a user stand together
  -k=N                   items for each (default 10)
  --candidates=FILE      the only items that may be recommended, one in a line
  --keep_seen=True       items of the history may be recommended, too
  --popularity_correction=X  above 0 favours rare items, below 0 popular ones (default: as trained, 0 unless set)
  --samples=S            say how sure this is, by S samples of the posterior: with rank_low,rank_high,stability,expected_ndcg
  --diversify=X          fill the places from samples of their own; X, such as 1, is how far these spread
  --seed=N               of the samples (default 0)
  --out=FILE             where to write (default, and -: standard output)

compare  Run models on the same splits, each run in a process of its own, and make the tables. After a stop, the same
         command goes on.

  --out=DIR              folder of the results; rows, seeds and data sets may be added to it
  --models=A,B           any models, RecBole's too (default MultVAE,MultDAE); --dataset=A,B (default ml-100k)
  --config=PLAN.yaml     a plan: rows with labels and settings, data sets, protocols, search spaces and all of the below
  --seeds=N              seeds of model and split, {first} and up, or a list [1,2,3] (default 1); --split_seed=N: one split
  --metrics=A,B --topk=[10,20]  of the table (default Recall,NDCG and 10); --primary=NDCG@10 chooses epochs and ranks
  --max_k=N              curves over k end here (default 50); --reference=LABEL, --alpha=0.05: of the tests
  --tune=N               trials for each row, chosen by the validation part
  --jobs=N               runs at a time; --scheduler=ADDRESS: on the workers of a Dask scheduler
  --time_limit=SECONDS, --memory_limit=GB  of each run; it alone fails
  --OPTION=VALUE         any option of RecBole, for all rows (default --epochs=300 --stopping_step=50)

bench    Measure speed and memory beside RecBole's MultiVAE, on generated data.

  --preset=NAME          shape of the data: {shapes} (default ml-1m);
                         or --users=N --items=N[,N...] --interactions=N
  --models=A,B           models to compare, RecBole's too (default MultVAE,MultDAE)
  --repeats=N            measurements of each, which take turns (default 3)
  --seconds=N            least length of each measurement (default 5)
  --train_batch_size=N[,N...]  users in a training step, for all (default 500)
  --mlp_hidden_size=[N]  hidden layers of all autoencoders (default [600]; []: none), --latent_dimension=N (default 200)
  --n_negatives=N        measure the models with a sampled softmax, too
  --memory_limit=GB      of each process on a CPU, not on Windows (default: what is free now)
  --threads=N            of torch in each process (default: torch's own)
  --json=FILE            write all that was measured; - is standard output, in place of the text
  --plot=FILE            draw time and memory of a training step against the numbers of --items

explain  Say which items of a history each recommendation rests on, and without which it would not be made.

  --checkpoint=FILE      written by training; nothing else is needed
  --user=ID              a user of the training data; or --users=A,B or --histories=FILE, as for recommend
  -k=N                   recommendations for each (default 10)
  --method=NAME          exact (each item left out in turn; default) or gradient (approximate, in less time)
  --counterfactual=False do not look for what would have to be missing
  --popularity_correction=X  as for recommend
  --items=FILE           the items' names: an .item file of RecBole (default: the one beside the data, if it is there)
  --json=FILE            write a line of JSON for each user; - is standard output, in place of the text
  --html=FILE            write a page to look at

generate Draw synthetic users from a variational autoencoder, as a data set of RecBole, and say how true they are.

  --checkpoint=FILE      written by training; nothing else is needed
  --out=DIR              folder of the new data set, whose name is that of the folder; it must not exist
  --users=N              how many (default: as many as there are training users, or one around each history)
  --source=NAME          posterior: around training users (default), or prior: from N(0, I)
  --around=A,B           around these users of the training data, each once; or --histories=FILE, as for recommend
  --seed=N               of all that is drawn (default 0)
  --unseen=FILE          histories of real users whom the model has not seen, to measure the synthetic ones against; or the
                         split file of a run with held-out users, for its test users; users of the training data are left out
  --json=FILE            write what was measured; - is standard output, in place of the text

latent   Say what a model's latent variables stand for: which items and genres each raises and lowers.

  --checkpoint=FILE      written by training; nothing else is needed
  --axes=NAME            principal: the directions with the largest effects (default), or latents: each by itself
  --latents=N            how many, the strongest (default 10, of which the terminal shows 5)
  -k=N                   items that each names (default 10, of which the terminal shows 5)
  --user=ID              of the training data: what would be recommended if a latent variable were another
  --items=FILE           the items' names and genres, as for explain
  --html=FILE            write a page with a map of items and users
  --json=FILE            write all that was found; - is standard output, in place of the text

uncertainty  Say how well a model knows for which users its recommendations are good, on the test part of its data set.

  --checkpoint=FILE      written by training; the data set is loaded and split again
  -k=N                   length of the lists (default 10)
  --samples=S            of the posterior, for the stability of a user's list (default 100; 0: without)
  --diversify=X,Y        also draw lists with the posterior's spread times X, ...: what diversity costs
  --seed=N               of the samples (default 0)
  --part=NAME            test (default) or valid
  --data_path=FOLDER     has the data set's folder (default: where it was at training)
  --popularity_correction=X  as for recommend
  --json=FILE            write all that was found; - is standard output, in place of the text
  --html=FILE            write a page with the risk-coverage curves

Set RECBOLE_VAE_TRACEBACK=1 to see where in the code an error arose.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the console command and return its exit status: 0, 1 for a failed run, 2 for bad usage, 130 for Ctrl-C."""
    arguments, argv = list(sys.argv[1:] if arguments is None else arguments), sys.argv
    # Torch asks for huge pages then: random rows of large tables are found in a fraction of the time.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    try:
        status = _main(arguments)
        with standard_output():  # what was printed may still be in its buffer
            return status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read the output has enough
        silence()
        return 0
    except (Exception, SystemExit) as error:
        if os.environ.get("RECBOLE_VAE_TRACEBACK"):
            raise
        print(f"error: {_describe(error)}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    finally:
        sys.argv = argv


def _main(arguments: list[str]) -> int:
    if arguments == ["--version"]:
        from recbole_vae.storage.checkpoint import versions

        print(" ".join(f"{name} {number}" for name, number in versions().items()))
        return 0
    if not arguments or {"-h", "--help"} & set(arguments):
        from recbole_vae.bench.shapes import SHAPES
        from recbole_vae.compare import FIRST_SEED
        from recbole_vae.data.prepare import SOURCES

        names = {"models": model_names(), "shapes": SHAPES, "sources": SOURCES}
        usage = USAGE.format(**{name: ", ".join(each) for name, each in names.items()}, first=FIRST_SEED)
        print(_of_command(usage, arguments[0]) if arguments else usage, end="")
        return 0 if arguments else 2
    command, *rest = arguments
    commands: dict[str, Callable[[dict[str, str]], int | None]] = {
        "prepare": _prepare,
        "recommend": _recommend,
        "compare": _compare,
        "bench": _bench,
        "explain": _explain,
        "generate": _generate,
        "latent": _latent,
        "uncertainty": _uncertainty,
    }
    if command not in ("run", *commands):
        raise ConfigError(f"'{command}' is no command; there are: run, {', '.join(commands)}. See recbole-vae --help.")
    if command == "prepare":
        if len(rest) < 2 or rest[0].startswith("-") or rest[1].startswith("-"):
            raise ConfigError("prepare needs the name of a data set and its source: recbole-vae prepare NAME SOURCE.")
        rest = [f"--name={rest[0]}", f"--source={rest[1]}", *rest[2:]]
    if command in ("recommend", "explain", "latent", "uncertainty"):
        rest = ["--k" if each == "-k" else re.sub(r"^-k(=|(?=\d))", "--k=", each) for each in rest]
    options = parse_options(rest)
    if command != "run":
        return commands[command](options) or 0
    for name, value in options.items():
        if "=" in value:
            raise ConfigError(
                f"{name}: '{value}' (command line): RecBole takes no '=' in a value; put the option into a YAML file."
            )
    # RecBole reads its options from here, in this process and in its children.
    sys.argv = [sys.argv[0], *(f"--{name}={value}" for name, value in options.items())]
    with warnings.catch_warnings(), read_once():
        # RecBole makes tensors of pandas' arrays, which are read-only now; it does not write to them.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        _run(options)
    return 0


def _of_command(usage: str, command: str) -> str:
    """Return the part of the usage that is about a command, or all of it if there is no such command."""
    lines = re.findall(rf"^.{{7}}(recbole-vae {re.escape(command)} .*\n)", usage, re.MULTILINE)
    part = re.search(rf"^{re.escape(command)} .*\n(?:(?: .*)?\n)*", usage, re.MULTILINE)
    return f"usage: {lines[0]}\n{part[0].rstrip()}\n" if lines and part else usage


def parse_options(arguments: Sequence[str]) -> dict[str, str]:
    """Read ``--option=value`` or ``--option value`` into a dictionary.

    RecBole skips what it cannot read, and goes on with defaults.

    Raises:
        ConfigError: an argument is no option, has no value, or is given twice.
    """
    options: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        name, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or not name:
            raise ConfigError(f"'{argument}' (command line) is no option; write --option=value.")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise ConfigError(f"--{name} (command line) has no value; write --{name}=value.")
            value = rest.pop(0)
        if not value:
            raise ConfigError(f"--{name} (command line) has no value; write --{name}=value.")
        if options.setdefault(name, value) != value:
            raise ConfigError(f"--{name} (command line) is given twice: {options[name]} and {value}.")
    return options


def _run(options: dict[str, str]) -> None:
    started = time.time()
    model, dataset = options.get("model"), options.get("dataset")
    config_files = options.get("config_files", "").split()
    nproc = _number(options, "nproc", 1)
    if "resume" in options:
        from recbole_vae.storage import checkpoint

        state = checkpoint.load(options["resume"])
        model, dataset = model or state["model"], dataset or state["dataset"]
    if config_files and not (model and dataset):
        in_files = _in_files(config_files)
        model, dataset = model or in_files.get("model"), dataset or in_files.get("dataset")
    model, dataset = model or "MultVAE", dataset or "ml-100k"
    _check_model(model)
    if "resume" in options and model not in model_names():
        raise ConfigError(f"resume: {model} is RecBole's; its own models cannot be resumed from the command line.")

    from recbole.config import Config
    from recbole.quick_start import run

    # Made here once before RecBole makes its own: a mistake in it shows before any child process starts.
    config = Config(model=model, dataset=dataset, config_file_list=config_files)
    distributed: dict[str, Any] = {
        "nproc": nproc,
        "world_size": _number(options, "world_size", -1),
        "ip": options.get("ip", "localhost"),
        "port": str(_number(options, "port", 0) or _free_port()),
        "group_offset": _number(options, "group_offset", 0, minimum=0),
    }
    result = run(model, dataset, config_file_list=config_files, **distributed)
    _summarise(config, result, time.time() - started, options)


def _check_model(model: str) -> None:
    known = [*model_names(), *recbole_model_names()]
    if model not in known:
        meant = near(model, known)
        raise ConfigError(
            f"model: there is no model '{model}'{f'; did you mean {meant}?' if meant else '.'} "
            f"Of recbole_vae: {', '.join(model_names())}; or any of RecBole's."
        )


_BENCH_OPTIONS = (
    "preset", "users", "items", "interactions", "models", "repeats", "seconds", "train_batch_size", "mlp_hidden_size",
    "latent_dimension", "n_negatives", "memory_limit", "threads", "json", "plot",
)  # fmt: skip


_RECOMMEND_OPTIONS = (
    "checkpoint",
    "users",
    "histories",
    "k",
    "candidates",
    "keep_seen",
    "out",
    "popularity_correction",
    "samples",
    "diversify",
    "seed",
)


def _check_options(command: str, options: dict[str, str], known: Sequence[str]) -> None:
    for name in options:
        if name not in known:
            meant = near(name, known)
            raise ConfigError(
                f"--{name} (command line): {command} has no such option{f'; did you mean --{meant}?' if meant else '.'} "
                f"It has {', '.join(known)}."
            )


def _prepare(options: dict[str, str]) -> None:
    import yaml

    from recbole_vae.data.prepare import SOURCES, prepare

    name, source, out = options.pop("name"), options.pop("source"), options.get("out", "dataset")
    _check_options("prepare", options, ("out",))
    if name not in SOURCES:
        meant = near(name, SOURCES)
        raise ConfigError(
            f"prepare: there is no data set '{name}'{f'; did you mean {meant}?' if meant else '.'} There are: "
            f"{', '.join(SOURCES)}."
        )
    result = prepare(name, source, out, show_progress=True)
    print(
        f"{result.folder}: {result.interactions:,} of {result.read:,} interactions, of {result.users:,} users and "
        f"{result.items:,} items"
    )
    for difference in result.differences:
        print(f"NOT as published: {difference}. Is it another version of the data?")
    where = "" if out.rstrip("/") == "dataset" else f" --data_path={shlex.quote(out)}"
    file = result.folder / f"{result.folder.name}.yaml"
    settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    args, most = settings["eval_args"], max(settings["topk"])
    if result.users <= sum(args["split"]["HU"]) or result.items <= most:
        print(f"Too small for the protocol in {file}: it holds out {args['split']['HU']} users and ranks {most} items.")
        if result.users < 20 or result.items < 20:
            return
        args["split"] = {"HU": [0.1, 0.1]}
        where += f' --eval_args="{args}" --topk=[10] --valid_metric=NDCG@10'
    print(f"Try next:\n  {_command()} --model=MultVAE --dataset={result.folder.name}{where}")


def _recommend(options: dict[str, str]) -> None:
    from recbole_vae.serving import history_file, posterior, ranking
    from recbole_vae.serving import recommender as recommend

    _check_options("recommend", options, _RECOMMEND_OPTIONS)
    _need_checkpoint(options)
    if "users" in options and "histories" in options:
        raise ConfigError("--users and --histories (command line) cannot be given together.")
    if options.get("histories") == options.get("candidates") == "-":
        raise ConfigError(
            "--histories and --candidates (command line) cannot both be standard input; name a file for one."
        )
    keep_seen = _true_or_false(options, "keep_seen", False)
    k = _number(options, "k", 10)
    sampling = posterior.Sampling(
        _number(options, "samples", 0, minimum=0),
        _real(options, "diversify", 0) or 0.0,
        _number(options, "seed", 0, minimum=0),
    )
    out = _outputs(options, "out", stdout="out").get("out")
    model = recommend.Recommender.load(
        options["checkpoint"], popularity_correction=_real(options, "popularity_correction")
    )
    candidates = None
    if "candidates" in options:
        with history_file.open_text(options["candidates"]) as file:
            try:
                candidates = [line.strip() for line in file if line.strip()]
            except UnicodeDecodeError:
                raise ConfigError(f"--candidates={options['candidates']} (command line): not text in UTF-8.") from None
    total: int | None = None
    pairs: Iterable[tuple[str, Iterable[str]]]
    if "histories" in options:
        pairs = _histories(options["histories"], model.model)
    else:
        users = _names(options["users"]) if "users" in options else model.users[1:]
        known = [(user, model.history(user)) for user in users] if "users" in options else None
        pairs, total = known or ((user, model.history(user)) for user in users), len(users)
    # Standard output is for the result, and a terminal shows one of the two.
    bar = tqdm(pairs, total=total, unit=" users", ncols=100, disable=None if out else True)
    rankings = model.stream(bar, k, not keep_seen, candidates, sampling)
    with opened(out) as file:
        count = ranking.write_rankings(rankings, file, sampled=sampling.samples > 0)
    if out:
        print(f"{out}: {count} users", file=sys.stderr)
    _report_unknown(model.unknown)
    _report_unknown(model.unknown_candidates, "the candidates")
    if model.without_known:
        print(
            f"Users without an item of the training data: {model.without_known:,}; they got the most popular ones.",
            file=sys.stderr,
        )
    if model.without_rest:
        print(
            f"Users without a recommendation: {model.without_rest:,}; their histories have all items that could be "
            "recommended (--keep_seen=True recommends these, too).",
            file=sys.stderr,
        )


def _histories(name: str, model: Any) -> Iterator[tuple[str, Iterable[str]]]:
    """Read a file of histories, or standard input for ``-``, and say so where there are none."""
    from recbole_vae.serving import history_file

    called, pair = "standard input" if name == "-" else name, None
    fields = model.USER_ID, model.ITEM_ID, model.options.value_field
    for pair in history_file.read_histories(history_file.open_text(name), called, *fields):
        yield pair
    if pair is None:
        print(f"{called}: has no histories, only the line with the names of the columns.", file=sys.stderr)


def _report_unknown(unknown: Unknown, what: str = "histories") -> None:
    if unknown.times:
        (item, _), *_ = unknown.examples.most_common(1)
        example = f"'{item}'" if item else "an empty cell"
        least = "at least " * (unknown.examples.total() < unknown.times)  # it remembers only so many
        print(
            f"Left out of {what}: {unknown.times} times an item that is not in the training data "
            f"({least}{len(unknown.examples)} different, such as {example}).",
            file=sys.stderr,
        )


def _compare(options: dict[str, str]) -> int:
    from recbole_vae.compare import outputs, plan, results, runner, tables

    command = shlex.join(["recbole-vae", "compare", *(f"--{name}={value}" for name, value in options.items())])
    if "out" not in options:
        raise ConfigError("--out (command line) is missing: the folder of the results.")
    out, file = Path(options.pop("out")), options.pop("config", None)
    if "tune" in options:
        options["trials"] = options.pop("tune")
    planned = plan.read(file, options)
    tables.parquet()  # what would fail at the end fails here
    try:
        comparison = runner.compare(planned, out, command)
    except runner.Interrupted as interrupted:
        print(f"{out}: what is done is kept; the same command goes on", file=sys.stderr)
        if any(run.status == results.DONE for run in interrupted.comparison.runs):
            outputs.write(interrupted.comparison, out)
        raise
    print(outputs.write(comparison, out))
    return int(any(run.status not in (results.DONE, results.REFUSED) for run in comparison.runs))


def _bench(options: dict[str, str]) -> None:
    from recbole_vae.bench import report
    from recbole_vae.bench import run as bench
    from recbole_vae.bench.shapes import shapes_of

    _check_options("bench", options, _BENCH_OPTIONS)
    shapes = shapes_of(options)
    models = _names(options.get("models", "MultVAE,MultDAE"))
    for model in models:
        _check_model(model)
    free = 0
    if "memory_limit" not in options:
        import psutil

        free = psutil.virtual_memory().available // 10**9
    files = _outputs(options, "json", "plot")
    picture, only_json = files.get("plot"), options.get("json") == "-"
    if picture:
        report.pyplot(picture)
    threads = _number(options, "threads", 0, minimum=1)
    if threads:
        import torch

        torch.set_num_threads(threads)
    batch_sizes = _numbers(options, "train_batch_size", "500")
    hidden = [] if options.get("mlp_hidden_size") == "[]" else _numbers(options, "mlp_hidden_size", "600")
    rows = bench.sides(
        models,
        model_names(),
        hidden,
        _number(options, "latent_dimension", 200),
        _number(options, "n_negatives", 0, minimum=0),
    )
    reports: list[dict[str, Any]] = []
    for shape in shapes:
        reports.append(
            bench.run(
                rows,
                shape,
                repeats=_number(options, "repeats", 3),
                seconds=_number(options, "seconds", 5),
                batch_sizes=batch_sizes,
                memory_limit=_number(options, "memory_limit", max(1, free)),
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


_EXPLAIN_OPTIONS = (
    "checkpoint",
    "user",
    "users",
    "histories",
    "k",
    "method",
    "counterfactual",
    "items",
    "json",
    "html",
    "popularity_correction",
)


def _explain(options: dict[str, str]) -> None:
    _check_options("explain", options, _EXPLAIN_OPTIONS)
    _need_checkpoint(options)
    if len({"user", "users", "histories"} & set(options)) != 1:
        raise ConfigError("explain needs one of --user=ID, --users=A,B and --histories=FILE (command line).")
    search = _true_or_false(options, "counterfactual", True)
    k = _number(options, "k", 10)
    _outputs(options, "json", "html")
    from recbole_vae.analysis import explain, explain_report
    from recbole_vae.serving import recommender as recommend

    method = options.get("method", "exact")
    if method not in explain.METHODS:
        raise ConfigError(
            f"method: '{method}' (command line) is not allowed; it must be {' or '.join(explain.METHODS)}."
        )
    model = recommend.Recommender.load(
        options["checkpoint"], popularity_correction=_real(options, "popularity_correction")
    )
    beside = model.item_file if model.item_file and model.item_file.is_file() else None
    names = options.get("items", beside)
    explainer = explain.Explainer(model, explain_report.read_item_texts(names, model.model.ITEM_ID) if names else None)
    pairs: Iterable[tuple[str, Iterable[str]]]
    if "histories" not in options:
        users = _names(options["users"]) if "users" in options else [options["user"]]
        pairs = [(user, model.history(user)) for user in users]
    else:
        pairs = _histories(options["histories"], model.model)
    bar = tqdm(pairs, unit=" users", ncols=100, disable=None if "user" not in options and "json" in options else True)
    found = (explainer.explain(user, history, k, method=method, search=search) for user, history in bar)
    explain_report.write(found, options.get("json"), options.get("html"))
    _report_unknown(model.unknown)


def _latent(options: dict[str, str]) -> None:
    _check_options("latent", options, ("checkpoint", "axes", "latents", "k", "user", "items", "html", "json"))
    _need_checkpoint(options)
    latents, k = _number(options, "latents", 10), _number(options, "k", 10)
    files = _outputs(options, "json", "html")
    from recbole_vae.analysis import explain_report, latent, latent_report
    from recbole_vae.serving import recommender as recommend

    axes = options.get("axes", latent.AXES[0])
    if axes not in latent.AXES:
        raise ConfigError(f"axes: '{axes}' (command line) is not allowed; it must be {' or '.join(latent.AXES)}.")
    loaded = recommend.Recommender.load(options["checkpoint"])
    beside = loaded.item_file if loaded.item_file and loaded.item_file.is_file() else None
    names = options.get("items", beside)
    texts = explain_report.read_item_texts(names, loaded.model.ITEM_ID) if names else None
    found = latent.describe(
        loaded, texts, axes=axes, latents=latents, k=k, user=options.get("user"), show_progress=True
    )
    shown = {name: number for name, number in (("latents", latents), ("k", k)) if name in options}
    _put(
        files,
        "\n".join(latent.lines(found, **shown)),
        json=lambda: json.dumps(dataclasses.asdict(found), ensure_ascii=False, indent=1),
        html=lambda: latent_report.html(found),
    )


_GENERATE_OPTIONS = ("checkpoint", "out", "users", "source", "around", "histories", "seed", "unseen", "json")


def _generate(options: dict[str, str]) -> None:
    _check_options("generate", options, _GENERATE_OPTIONS)
    _need_checkpoint(options)
    if "out" not in options:
        raise ConfigError("--out (command line) is missing: the folder of the new data set.")
    if "around" in options and "histories" in options:
        raise ConfigError("--around and --histories (command line) cannot be given together.")
    out, users, seed = Path(options["out"]), _number(options, "users", 0), _number(options, "seed", 0, minimum=0)
    if options["out"] == "-":
        raise ConfigError(
            "--out=- (command line): a data set is a folder, and cannot be standard output; name a folder."
        )
    if out.exists():
        raise ConfigError(f"--out={out} (command line): exists already.")
    files = _outputs(options, "json")
    if "json" in files and files["json"] is not None and files["json"].resolve() == out.resolve():
        raise ConfigError("--out and --json (command line) cannot be the same; name a folder and a file.")
    from recbole_vae.analysis import fidelity, generate
    from recbole_vae.data.held_out import SplitFile
    from recbole_vae.serving import recommender as recommend

    source = options.get("source", generate.SOURCES[0])
    if source not in generate.SOURCES:
        raise ConfigError(
            f"source: '{source}' (command line) is not allowed; it must be {' or '.join(generate.SOURCES)}."
        )
    own = {"around", "histories"} & set(options)
    if own and {"unseen", "json"} & set(options):
        raise ConfigError(
            "--unseen and --json (command line) are for users drawn from the whole model, not around some."
        )
    if own and source == "prior":
        raise ConfigError(
            f"--{min(own)} and --source=prior (command line) cannot be given together: the prior knows nothing of these "
            "users. Leave out --source to draw around them, or draw from the prior without them."
        )
    loaded = recommend.Recommender.load(options["checkpoint"])
    model = loaded.model
    generate.check_generates(model, source)

    def read(name: str) -> Iterable[tuple[str, Iterable[str]]]:
        if name.endswith(".split.csv.gz"):
            rows = SplitFile.read(name).rows
            tested: Iterable[tuple[str, Iterable[str]]]
            tested = rows[rows["part"].str.startswith("test")].groupby("user")["item"]
            return tested
        return _histories(name, model)

    judges = None
    if "unseen" in options:
        unseen, seen, unknown = fidelity.judges(loaded, read(options["unseen"]))
        judges = fidelity.table_of(unseen, model.n_items)
        for left_out, who in (
            (seen, "users of the training data, whom the model has seen"),
            (unknown, "users without an item of the training data"),
        ):
            if left_out:
                print(f"Left out of the judges: {left_out:,} {who}.", file=sys.stderr)
    around = generate.known_histories(loaded, read(options["histories"])) if "histories" in options else None
    if "around" in options:
        around = generate.known_histories(loaded, ((user, loaded.history(user)) for user in _names(options["around"])))
    real = fidelity.table_of(model.histories, model.n_items)
    number = users or (real.shape[0] if around is None else len(around))
    not_compared = "what is drawn around some is not meant to be like all." if own else ""
    try:
        if not own:
            fidelity.check_measurable(real, number, judges, seed=seed)
    except DataError as error:
        if {"unseen", "json"} & set(options):  # to measure was asked for
            raise DataError(f"{error} Without --unseen and --json they are drawn, but not measured.") from None
        not_compared = str(error)
    drawn = fidelity.Tee(
        generate.synthesise(model, around, number, source=source, seed=seed), model.n_items, 0 if own else real.shape[0]
    )
    _report_unknown(loaded.unknown)
    try:
        out.mkdir(parents=True)
    except OSError as error:
        raise ConfigError(f"--out={out} (command line): this folder cannot be made: {error.strerror}.") from None
    try:
        with written_whole(out / f"{out.name}.inter") as file:
            file.write(f"{model.USER_ID}:token\t{model.ITEM_ID}:token\n")
            bar = tqdm(drawn, total=number, unit=" users", ncols=100, disable=None)
            for place, items in enumerate(bar, start=1):
                file.writelines(f"s{place}\t{loaded.items[item]}\n" for item in items)
    finally:
        if not any(out.iterdir()):
            out.rmdir()
    only_json = options.get("json") == "-"
    print(f"{out / out.name}.inter: {number:,} users", file=sys.stderr if only_json else sys.stdout)
    if not_compared:
        print(f"Not compared with real users: {not_compared}")
        return
    report = fidelity.truth(real, drawn.table(), judges, seed=seed)
    _put(files, fidelity.text(report), json=lambda: json.dumps(report.plain(), indent=1))


_UNCERTAINTY_OPTIONS = (
    "checkpoint", "k", "samples", "diversify", "seed", "part", "data_path", "popularity_correction", "json", "html",
)  # fmt: skip


def _uncertainty(options: dict[str, str]) -> None:
    _check_options("uncertainty", options, _UNCERTAINTY_OPTIONS)
    _need_checkpoint(options)
    files = _outputs(options, "json", "html")
    k, samples = _number(options, "k", 10, minimum=2), _number(options, "samples", 100, minimum=0)
    spreads = options["diversify"].split(",") if "diversify" in options else []
    from recbole_vae.analysis import uncertainty, uncertainty_report

    report = uncertainty.evaluate(
        options["checkpoint"],
        k=k,
        samples=samples,
        seed=_number(options, "seed", 0, minimum=0),
        part=options.get("part", "test"),
        diversify=[_real({"diversify": text}, "diversify", 0) or 0.0 for text in spreads],
        data_path=options.get("data_path"),
        popularity_correction=_real(options, "popularity_correction"),
        show_progress=True,
    )
    _put(
        files,
        uncertainty_report.as_text(report),
        json=lambda: uncertainty_report.as_json(report),
        html=lambda: uncertainty_report.as_html(report),
    )


# Whose files must not be overwritten.
_INPUTS = ("checkpoint", "histories", "candidates", "items", "unseen")


def _outputs(options: dict[str, str], *names: str, stdout: str = "json") -> dict[str, Path | None]:
    """Return the files that options name, where they can be written: what is found late may have taken hours.

    Args:
        options: of the command line.
        names: of the options.
        stdout: the one of these that may be ``-``, standard output, for which there is None.

    Raises:
        ConfigError: a file cannot be written, is read by the same command, or is named twice.
    """
    files = {name: None if options[name] == "-" else Path(options[name]) for name in names if name in options}
    for name, file in files.items():
        if file is None:
            if name != stdout:
                raise ConfigError(f"--{name}=- (command line): this cannot be standard output; name a file.")
            continue
        if not file.parent.is_dir():
            raise ConfigError(f"--{name}={file} (command line): there is no folder {file.parent}.")
        if file.is_dir():
            raise ConfigError(f"--{name}={file} (command line): this is a folder; name a file.")
        for read in _INPUTS:
            if read in options and file.is_file() and Path(options[read]).is_file() and file.samefile(options[read]):
                raise ConfigError(
                    f"--{name}={file} (command line): this is the file of --{read}, which would be overwritten; name another."
                )
    named = [file.resolve() for file in files.values() if file]
    if len(set(named)) < len(named):
        raise ConfigError(f"--{' and --'.join(files)} (command line) cannot be the same file; name one for each.")
    return files


def _put(files: dict[str, Path | None], text: str, **contents: Callable[[], str]) -> None:
    """Print a text, or what is for standard output in its place; then write files, each even if another cannot be written.

    Raises:
        DataError: some could not be written.
        BrokenPipeError: whoever read standard output has gone; the files are written.
    """
    outputs = [(file, contents[name]) for name, file in files.items()]
    if None not in files.values():
        outputs.insert(0, (None, lambda: text))
    failed, gone = [], None
    for file, content in sorted(outputs, key=lambda each: each[0] is not None):
        try:
            with opened(file) as output:
                output.write(content().rstrip("\n") + "\n")
        except DataError as error:
            failed.append(str(error))
        except BrokenPipeError as error:
            gone = error
    if failed:
        raise DataError(" ".join(failed))
    if gone:
        raise gone


def _need_checkpoint(options: dict[str, str]) -> None:
    if "checkpoint" not in options:
        raise ConfigError(
            "--checkpoint (command line) is missing: a file that training wrote, such as saved/MultVAE-....pth."
        )


def _true_or_false(options: dict[str, str], name: str, default: bool) -> bool:
    value = options.get(name, str(default))
    if value not in ("True", "False"):
        raise ConfigError(f"{name}: '{value}' (command line) is not allowed; it must be True or False.")
    return value == "True"


def _numbers(options: dict[str, str], name: str, default: str) -> list[int]:
    """Read a list like ``500,2000`` or ``[600]``."""
    texts = options.get(name, default).strip("[]").split(",")
    return [_number({name: text.strip()}, name, 0) for text in texts]


def _names(text: str) -> list[str]:
    """Read a list like ``A,B``, each name once; one with a comma stands in quotation marks."""
    return list(dict.fromkeys(name.strip() for name in next(csv.reader([text], skipinitialspace=True))))


def _number(options: dict[str, str], name: str, default: int, minimum: int = 1) -> int:
    text = options.get(name)
    if text is None:
        return default
    if not text.isdecimal() or int(text) < minimum:
        raise ConfigError(f"{name}: '{text}' (command line) is not allowed; it must be an integer >= {minimum}.")
    return int(text)


def _real(options: dict[str, str], name: str, minimum: float = -LARGEST) -> float | None:
    text = options.get(name)
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not minimum <= value <= LARGEST:
        raise ConfigError(
            f"{name}: '{text}' (command line) is not allowed; it must be a number from {minimum:.0f} to {LARGEST:.0f}."
        )
    return value


def _free_port() -> int:
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


def _summarise(config: Any, result: dict[str, Any] | None, seconds: float, options: dict[str, str]) -> None:
    """Print what came out of a run."""
    model, dataset = config["model"], config["dataset"]
    ours = is_history_model(config.model_class)
    newest = (config["resume"] if ours else None) or _written(config, seconds)
    validated = int(config["eval_step"]) > 0 and (result or {}).get("best_valid_result") is not None
    best = f"best epoch by {config['valid_metric']}" if validated else "last epoch"
    measured: Any = (result or {}).get("test_result") or {}
    errors = measured.standard_errors() if hasattr(measured, "standard_errors") else {}
    decimals, width = config["metric_decimal_place"] or 4, max(16, *map(len, measured))
    of_users = " (standard error over users)" * bool(errors)
    print(f"\n{model} on {dataset}, test part, {best}{of_users}:")
    for name, value in measured.items():
        error = f" ({errors[name]:.{decimals}f})" if name in errors else ""
        print(f"  {name:<{width}} {value:.{decimals}f}{error}")
    print(f"Time        {seconds:.1f} s, from the start of the command")
    print(f"Checkpoint  {newest or 'none was written'}")
    if getattr(measured, "split_hash", None):
        print(f"Split       SHA-256 {measured.split_hash}")
    print("Try next:")
    run = _command()
    if not config["resume"]:  # else the options that make the split are in the checkpoint
        kept = {name: f" --{name}={shlex.quote(value)}" for name, value in options.items() if name not in _own(config)}
        where = f"--dataset={shlex.quote(dataset)}{''.join(kept.values())}"
        if ours:
            other = "MultDAE" if model == "MultVAE" else "MultVAE"
            print("  # another model on the same split, and one of RecBole's own")
            print(f"  {run} --model={other} {where}")
            # RecBole's models do not look at what is no option of RecBole's, but for how they are evaluated.
            from recbole_vae.options.fields import ModelConfig

            others = set(ModelConfig.names()) - set(recbole_defaults()) - {"fast_evaluation"}
            kept_by_recbole = "".join(text for name, text in kept.items() if name not in others)
            print(f"  {run} --model=EASE --dataset={shlex.quote(dataset)}{kept_by_recbole}")
        else:
            print(f"  {run} --model=MultVAE {where}")
    if ours and newest:
        from recbole_vae.storage import checkpoint

        epochs = max(int(config["epochs"]), checkpoint.load(newest)["epoch"] + 1)
        print("  # train on")
        print(
            f"  {run} --resume={shlex.quote(str(newest))} --epochs={2 * epochs} "
            f"--stopping_step={2 * max(1, int(config['stopping_step']))}"
        )


def _written(config: Any, seconds: float) -> Path | None:
    """Return the checkpoint that this run wrote: ours have the number of the process in their names, RecBole's only a time."""
    files = [(file.stat().st_mtime, file) for file in Path(config["checkpoint_dir"]).glob(f"{config['model']}-*.pth")]
    new = [(written, file) for written, file in files if written >= time.time() - seconds - 1]
    own = [(written, file) for written, file in new if re.search(rf"-{os.getpid()}(-\d+)?\.pth$", file.name)]
    return max(own or new)[1] if new else None


def _command() -> str:
    """Return how this command was called."""
    called = Path(sys.argv[0]).name
    if called.startswith("recbole-vae"):
        return "recbole-vae run"
    return f"python {shlex.quote(sys.argv[0])}" if called.startswith("run_") else "python -m recbole_vae run"


def _own(config: Any) -> set[str]:
    """Return the options that are of one model or run alone: not of the data, the split or the evaluation."""
    if is_history_model(config.model_class):
        own = set(config.model_class.config_class.names()) - set(ModelConfig.names())
    else:
        own = options_in(f"model/{config['model']}")
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


def _describe(error: BaseException) -> str:
    """Return an error as one line for a person."""
    if isinstance(error, RecBoleVAEError):
        return _one_line(str(error))
    text = str(error).strip()
    if type(error).__name__ == "ProcessRaisedException":
        # Of a child process; the last line of its traceback is "module.Class: message".
        kind, _, message = text.splitlines()[-1].partition(": ")
        return _one_line(message if kind.startswith("recbole_vae.") else f"{message} ({kind}, in a child process)")
    if is_out_of_memory(error):
        return (
            "out of memory; lower eval_batch_size, train_batch_size, mlp_hidden_size or latent_dimension, or set n_negatives "
            f"({_one_line(text)})"
        )
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror} (RECBOLE_VAE_TRACEBACK=1 shows where)"
    return f"{_one_line(text) or 'no message'} ({type(error).__name__}; RECBOLE_VAE_TRACEBACK=1 shows where)"


def _one_line(text: str) -> str:
    return " ".join(text.split())
