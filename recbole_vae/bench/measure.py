"""The benchmark: speed and memory of models beside RecBole's own, on generated data of the shape of known data sets.

Each measurement runs in a process of its own, and the models take turns, so that what else the machine does meets all of
them. Only ratios of one run say anything.
"""

from __future__ import annotations

import copy
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from recbole_vae.errors import ConfigError, is_out_of_memory
from recbole_vae.storage.files import write_whole

PEER = "MultiVAE"
"""The model that the others are compared with."""

_EVAL_BATCH_SIZES = (2**16, 2**19, 2**22)


def generate(users: int, items: int, interactions: int, seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw interactions whose popularity and history lengths are spread as in MovieLens.

    Lengths are log-normal (deviation 1 of the logarithm); the popularity of the i-th item is proportional to
    ``1 / (i + items / 50)``, which gives the most popular hundredth of the items about a tenth of the interactions.

    Returns:
        User and item of each interaction, from 0 up, each pair once; at most ``interactions`` of them, and nearly all.
    """
    rng = np.random.default_rng(seed)
    lengths = rng.lognormal(0.0, 1.0, users)
    popularity = 1.0 / (np.arange(items) + items / 50)
    cumulated = np.cumsum(popularity / popularity.sum())
    limit = max(1, items // 3)
    wanted = np.clip(lengths * (interactions / lengths.sum()), min(5, limit), limit)
    pairs = np.empty(0, dtype=np.int64)
    for _ in range(4):  # each round draws again what fell on a pair that is there already
        missing = np.maximum(np.rint(wanted).astype(np.int64) - np.bincount(pairs // items, minlength=users), 0)
        owners = np.repeat(np.arange(users), missing)
        drawn = np.minimum(np.searchsorted(cumulated, rng.random(len(owners))), items - 1)
        pairs = np.unique(np.concatenate([pairs, owners * items + drawn]))
    chosen = np.sort(rng.permutation(len(pairs))[:interactions])
    return pairs[chosen] // items, pairs[chosen] % items


def write(path: Path, users: NDArray[np.int64], items: NDArray[np.int64]) -> None:
    """Write interactions as an atomic file of RecBole."""
    with path.open("w", encoding="ascii") as file:
        file.write("user_id:token\titem_id:token\n")
        for start in range(0, len(users), 1_000_000):
            part = slice(start, start + 1_000_000)
            file.writelines(
                f"u{user}\ti{item}\n" for user, item in zip(users[part].tolist(), items[part].tolist(), strict=True)
            )


@dataclass
class Measured:
    """What one process measured; None for what the model does not do.

    Attributes:
        load: seconds from the ``.inter`` file to the first batch of training and a model that can take it.
        train: users per second of training, by the number of users in a batch; the one that all have first.
        evaluate: users per second of a ranking of all items, metrics included, by the number of users in a batch; the
            default first.
        memory: peak memory of the process, in GB, after loading, training and evaluating: the resident set, or what torch
            took from a GPU.
        error: why there is nothing, or "".
    """

    load: float | None = None
    train: dict[str, float] | None = None
    evaluate: dict[str, float] | None = None
    memory: list[float] | None = None
    error: str = ""


def first_batches(loader: Any, number: int) -> Any:
    """Return a dataloader like another that stops after some batches."""
    kind = type(loader)

    class First(kind):  # type: ignore[misc, valid-type]
        def __iter__(self) -> Any:
            for position, batch in enumerate(super().__iter__()):
                if position == number:
                    return
                yield batch

        def __len__(self) -> int:
            return min(number, len(loader))

    result = copy.copy(loader)
    result.__dict__["sampler"], result.__class__ = loader.sampler, First
    return result


def _rate(run: Callable[[int], int], seconds: float) -> float:
    """Return the users per second of ``run(batches) -> users``, called with more batches until it takes long enough."""
    run(1)
    batches = 1
    while True:
        start = time.perf_counter()
        users = run(batches)
        took = time.perf_counter() - start
        if took >= seconds or users < 0:
            return abs(users) / took
        batches = max(2 * batches, int(1.2 * batches * seconds / max(took, 1e-3)))


def measure(
    model: str, options: dict[str, Any], batch_sizes: Sequence[int], eval_batch_sizes: Sequence[int], seconds: float
) -> Measured:
    """Measure a model on the data set that the options name, in this process.

    Args:
        model: its name.
        options: RecBole's.
        batch_sizes: users in a batch of training.
        eval_batch_sizes: user-item pairs in a batch of evaluation, beside the option ``eval_batch_size``.
        seconds: least length of each measurement.
    """
    import torch
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import ModelType, get_model, get_trainer, init_seed

    sys.argv = sys.argv[:1]
    result = Measured()
    start = time.perf_counter()
    config = Config(model=model, dataset="bench", config_dict=options)
    init_seed(config["seed"], config["reproducibility"])
    dataset = create_dataset(config)
    train, valid, _ = data_preparation(config, dataset)
    first = next(iter(train))
    net = get_model(model)(config, train._dataset).to(config["device"])
    result.load = time.perf_counter() - start
    trainer = get_trainer(config["MODEL_TYPE"], model)(config, net)
    on_gpu = config["device"].type == "cuda"

    def wait() -> None:
        if on_gpu:
            torch.cuda.synchronize()

    def a_part(loader: Any, batches: int, size: int, run: Callable[[Any], Any]) -> int:
        """Run some batches; return their users, negative if there are no more."""
        run(first_batches(loader, batches) if batches < len(loader) else loader)
        wait()
        return batches * size if batches < len(loader) else -loader.sample_size

    def peak() -> float:
        return (torch.cuda.max_memory_allocated() if on_gpu else _peak()) / 1e9

    result.memory = [peak()]
    of_users = set(first.columns) == {config["USER_ID_FIELD"]}
    if config["MODEL_TYPE"] != ModelType.TRADITIONAL and of_users:
        result.train = {}
        for size in batch_sizes:
            users = min(size, train.sample_size)
            train.step = train.batch_sampler.batch_size = users
            train_a_part = partial(a_part, train, size=users, run=lambda loader: trainer._train_epoch(loader, 0))
            result.train[str(size)] = _rate(train_a_part, seconds)
    result.memory.append(peak())
    trainer.eval_collector.data_collect(train)
    result.evaluate = {}
    for pairs in (config["eval_batch_size"], *eval_batch_sizes):
        valid.step = valid.batch_sampler.batch_size = max(pairs // dataset.item_num, 1)
        result.evaluate[str(valid.step)] = _rate(
            lambda n: a_part(valid, n, valid.step, lambda loader: trainer.evaluate(loader, load_best_model=False)),
            seconds,
        )
    result.memory.append(peak())
    return result


def _peak() -> float:
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else 1024 * peak)


def limit_memory(gigabytes: float) -> None:
    """Limit the memory of this process; what is imported is imported before, for some libraries hang or crash without memory."""
    import resource

    for module in (
        "recbole.data.dataset",
        "recbole.model.general_recommender",
        "recbole.quick_start",
        "recbole.trainer",
    ):
        import_module(module)
    limit = int(gigabytes * 1e9)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def child(specification: str) -> None:
    """Measure in this process what a JSON specification says, and write the result to the file that it names."""
    wanted = json.loads(specification)
    import torch

    import recbole_vae  # noqa: F401 - the models' names

    torch.set_num_threads(wanted["threads"])
    sys.path.append(wanted["path"])
    for module in wanted["imports"]:
        import_module(module)
    if wanted["memory_limit"] and not torch.cuda.is_available():
        limit_memory(wanted["memory_limit"])
    result = Measured()
    try:
        result = measure(
            wanted["model"], wanted["options"], wanted["batch_sizes"], wanted["eval_batch_sizes"], wanted["seconds"]
        )
    except Exception as error:
        text = " ".join(str(error).split())
        result.error = "out of memory" if is_out_of_memory(error) else f"{text[:200]} ({type(error).__name__})"
    Path(wanted["result"]).write_text(json.dumps(asdict(result)), encoding="utf-8")


@dataclass
class Side:
    """One row of the table: a model and how it is run."""

    name: str
    model: str
    options: dict[str, Any]
    eval_batch_sizes: tuple[int, ...] = ()


def sides(
    models: Sequence[str], own: Sequence[str], hidden: Sequence[int] = (600,), latents: int = 200, n_negatives: int = 0
) -> list[Side]:
    """Return what is measured: the peer as RecBole runs it, evaluated with larger batches, too; then the models.

    All autoencoders get the same architecture, with twice the ``latent_dimension`` for RecBole's MultiVAE, which takes half
    of it.

    Args:
        models: names of models, RecBole's or registered.
        own: those that recbole_vae has.
        hidden: ``mlp_hidden_size``.
        latents: number of latent variables.
        n_negatives: if not 0, each of recbole_vae's models is measured with so many, too.
    """
    common = {"show_progress": False, "load_col": {"inter": ["user_id", "item_id"]}}

    def options(model: str) -> dict[str, Any]:
        if model in own or model in ("MultiVAE", "MultiDAE"):
            width = 2 * latents if model == "MultiVAE" else latents
            return {**common, "mlp_hidden_size": list(hidden), "latent_dimension": width, "dropout_prob": 0.5}
        return dict(common)

    peer = {**options(PEER), "fast_evaluation": False}
    rows = [Side(f"RecBole's {PEER}", PEER, {**peer, "eval_batch_size": 4096}, _EVAL_BATCH_SIZES)]
    for model in models:
        rows.append(Side(model, model, options(model)))
        if n_negatives and model in own:
            sampled = {**options(model), "n_negatives": n_negatives, "weight_decay": 0.0}
            rows.append(Side(f"{model}, {n_negatives} sampled", model, sampled))
    return rows


def run(
    rows: Sequence[Side],
    shape: tuple[int, int, int],
    *,
    repeats: int,
    seconds: float,
    batch_sizes: Sequence[int],
    memory_limit: float,
    imports: Sequence[str] = (),
) -> dict[str, Any]:
    """Measure models beside the peer and return everything: the machine, the data, and each repeat.

    Args:
        rows: what is measured; the peer first.
        shape: users, items and interactions.
        repeats: how often each is measured; the models take turns.
        seconds: least length of each measurement.
        batch_sizes: of training, in users.
        memory_limit: of each process on the CPU, in GB; 0 for none.
        imports: modules that register models.
    """
    import torch

    from recbole_vae.storage.checkpoint import versions

    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        (place / "bench").mkdir()
        users, items = generate(*shape)
        write(place / "bench" / "bench.inter", users, items)
        measured: dict[str, list[Measured]] = {side.name: [] for side in rows}
        interrupted = False
        turns = [side for _ in range(repeats) for side in rows]
        for side in (bar := tqdm(turns, desc="Bench", ncols=100)):
            bar.set_postfix_str(side.name[:40])
            if measured[side.name] and measured[side.name][-1].error:
                continue  # it cannot run, and would not the next time
            common = {"data_path": str(place), "checkpoint_dir": str(place), "state": "ERROR"}
            specification = {
                "model": side.model, "options": {**side.options, **common, "train_batch_size": batch_sizes[0]},
                "batch_sizes": batch_sizes, "eval_batch_sizes": side.eval_batch_sizes, "seconds": seconds,
                "memory_limit": memory_limit, "result": str(place / "result.json"), "threads": torch.get_num_threads(),
                "imports": list(imports), "path": str(Path.cwd()),
            }  # fmt: skip
            try:
                measured[side.name].append(_in_a_process(specification))
            except KeyboardInterrupt:
                if not measured[rows[0].name]:
                    raise
                print("interrupted: the table has what was measured so far", file=sys.stderr)
                interrupted = True
                break
    return {
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "system": platform.platform(),
        },
        "versions": versions(),
        "interrupted": interrupted,
        "data": {"users": shape[0], "items": shape[1], "interactions": len(users)},
        "measured": {name: [asdict(each) for each in repeated] for name, repeated in measured.items() if repeated},
    }


def _in_a_process(specification: dict[str, Any]) -> Measured:
    result = Path(specification["result"])
    result.unlink(missing_ok=True)
    code = "import sys; from recbole_vae.bench.measure import child; child(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, json.dumps(specification)],
        cwd=result.parent, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    if result.is_file():
        return Measured(**json.loads(result.read_text(encoding="utf-8")))
    if done.returncode == -9:
        return Measured(error="out of memory (killed)")
    return Measured(error=(done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1][:200])


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="ignore").splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def ratios(report: dict[str, Any], name: str) -> dict[str, list[float]]:
    """Return how many times better a model is than the peer in each repeat: of speeds, and of what is better small."""
    peer, *_ = report["measured"]
    found: dict[str, list[float]] = {}
    for ours, theirs in zip(report["measured"][name], report["measured"][peer], strict=False):
        if ours["error"] or theirs["error"]:
            continue
        found.setdefault("load", []).append(theirs["load"] / ours["load"])
        if ours["train"] and theirs["train"]:
            sizes = list(ours["train"])
            found.setdefault("train", []).append(ours["train"][sizes[0]] / theirs["train"][sizes[0]])
            if len(sizes) > 1:
                fastest = max(ours["train"].values()) / max(theirs["train"].values())
                found.setdefault("train, each at its best batch", []).append(fastest)
        best = max(ours["evaluate"].values())
        default, *_ = theirs["evaluate"].values()
        found.setdefault("eval, its default", []).append(best / default)
        found.setdefault("eval, its best", []).append(best / max(theirs["evaluate"].values()))
        found.setdefault("memory", []).append(theirs["memory"][-1] / ours["memory"][-1])
    return found


def _median(repeated: Sequence[dict[str, Any]], key: str, part: Any = None) -> float | None:
    """Return the median over repeats of a measurement, or of a part of one; None where there is none."""
    values = [each[key] if part is None else each[key][part] for each in repeated if each[key] is not None]
    return statistics.median(values) if values else None


def table(report: dict[str, Any]) -> str:
    """Return the report as text: medians, and ratios with their smallest and largest."""
    machine, data = report["machine"], report["data"]
    width = max(map(len, report["measured"]))
    lines = [
        f"{machine['gpu'] or machine['processor']}, {machine['threads']} threads; "
        + ", ".join(f"{name} {number}" for name, number in report["versions"].items()),
        f"{data['users']} users, {data['items']} items, {data['interactions']} interactions",
        "",
        f"{'':<{width}} {'load s':>8} {'peak GB':>8}   users/s by users in a batch: training; evaluation",
    ]
    for name, repeated in report["measured"].items():
        if repeated[-1]["error"]:
            lines.append(f"{name:<{width}} {repeated[-1]['error']}")
            continue
        rates = [
            ", ".join(f"{_median(repeated, key, size):.0f} by {size}" for size in repeated[0][key] or ()) or "-"
            for key in ("train", "evaluate")
        ]
        load, memory = _median(repeated, "load"), _median(repeated, "memory", -1)
        lines.append(f"{name:<{width}} {load:>8.2f} {memory:>8.2f}   {'; '.join(rates)}")
    peer, *others = report["measured"]
    lines += ["", f"times better than {peer}: median (smallest to largest) of {len(report['measured'][peer])} repeats"]
    for name in others:
        parts = [
            f"{label} {statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f})"
            for label, found in ratios(report, name).items()
        ]
        lines.append(f"{name:<{width}} {'; '.join(parts) or 'nothing to compare'}")
    return "\n".join(lines)


def plot(reports: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw time and memory of a training step against the number of items.

    Args:
        reports: of :func:`run`, for different numbers of items.
        path: the picture, whose format is what its name ends with.

    Raises:
        ConfigError: matplotlib is missing or cannot write such a file.
        DataError: it cannot be written.
    """
    plt = pyplot(path)
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    names = list(dict.fromkeys(name for report in reports for name in report["measured"]))
    for position, name in enumerate(names):
        points = []
        for report in reports:
            repeated = [each for each in report["measured"].get(name, ()) if not each["error"]]
            for size in list(repeated[0]["train"] or ())[:1] if repeated else ():
                rate, memory = _median(repeated, "train", size), _median(repeated, "memory", 1)
                points.append((report["data"]["items"], int(size) / (rate or 1), memory))
        for axis, values in zip(axes, list(zip(*points, strict=True))[1:], strict=False):
            axis.plot([items for items, *_ in points], values, marker="os^Dv*"[position % 6], label=name)
    for axis, label in zip(axes, ("seconds of a training step", "peak memory after training, GB"), strict=True):
        axis.set(xscale="log", yscale="log", xlabel="items", ylabel=label)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize="small")
    picture = io.BytesIO()
    figure.savefig(picture, format=path.suffix.removeprefix("."), dpi=130)
    write_whole(path, picture.getvalue())


def pyplot(path: Path) -> Any:
    """Return matplotlib's ``pyplot`` for a picture of this name; a ConfigError says what is wrong."""
    try:
        import matplotlib
    except ImportError:
        raise ConfigError(f"--plot={path} (command line): pip install 'recbole_vae[plot]' first.") from None
    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    formats = plt.figure().canvas.get_supported_filetypes()
    plt.close("all")
    if path.suffix.removeprefix(".") not in formats:
        raise ConfigError(
            f"--plot={path} (command line): the name must end with one of .{', .'.join(sorted(formats))}."
        )
    return plt
