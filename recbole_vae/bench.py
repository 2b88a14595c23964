"""The benchmark: speed and memory of models beside RecBole's own, on generated data of the shape of known data sets.

Each measurement runs in a process of its own, and the models take turns, so that what else the machine does meets all of
them. Only ratios of one run say anything.
"""

from __future__ import annotations

import copy
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
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from recbole_vae.errors import ConfigError, is_out_of_memory

SHAPES = {
    "ml-100k": (943, 1_682, 100_000),
    "ml-1m": (6_040, 3_706, 1_000_209),
    "ml-20m/4": (34_169, 20_108, 2_497_670),
    "ml-20m": (136_677, 20_108, 9_990_682),
}
"""Users, items and interactions of data sets; ``ml-20m`` after the filters of Liang et al. (2018)."""

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
        train: users per second of training.
        evaluate: users per second of a ranking of all items, metrics included, by the number of users in a batch; the
            default first.
        memory: peak memory of the process, in GB: the resident set, or what torch took from a GPU.
        error: why there is nothing, or "".
    """

    load: float | None = None
    train: float | None = None
    evaluate: dict[str, float] | None = None
    memory: float | None = None
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


def measure(model: str, options: dict[str, Any], eval_batch_sizes: Sequence[int], seconds: float) -> Measured:
    """Measure a model on the data set that the options name, in this process."""
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

    of_users = set(first.columns) == {config["USER_ID_FIELD"]}
    if config["MODEL_TYPE"] != ModelType.TRADITIONAL and of_users:
        result.train = _rate(
            lambda n: a_part(train, n, len(first), lambda loader: trainer._train_epoch(loader, 0)), seconds
        )
    trainer.eval_collector.data_collect(train)
    result.evaluate = {}
    for pairs in (config["eval_batch_size"], *eval_batch_sizes):
        valid.step = valid.batch_sampler.batch_size = max(pairs // dataset.item_num, 1)
        result.evaluate[str(valid.step)] = _rate(
            lambda n: a_part(valid, n, valid.step, lambda loader: trainer.evaluate(loader, load_best_model=False)),
            seconds,
        )
    result.memory = (torch.cuda.max_memory_allocated() if on_gpu else _peak()) / 1e9
    return result


def _peak() -> float:
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else 1024 * peak)


def child(specification: str) -> None:
    """Measure in this process what a JSON specification says, and write the result to the file that it names."""
    wanted = json.loads(specification)
    import torch

    import recbole_vae  # noqa: F401 - the models' names

    torch.set_num_threads(wanted["threads"])
    if wanted["memory_limit"] and not torch.cuda.is_available():
        import resource

        limit = int(wanted["memory_limit"] * 1e9)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    result = Measured()
    try:
        result = measure(wanted["model"], wanted["options"], wanted["eval_batch_sizes"], wanted["seconds"])
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


def sides(models: Sequence[str], batch_size: int, own: Sequence[str]) -> list[Side]:
    """Return what is measured: the peer as RecBole runs it, evaluated with larger batches, too; then the models.

    All autoencoders get the same architecture: 600-200, with twice the ``latent_dimension`` for RecBole's MultiVAE, which
    takes half of it.
    """
    common = {"train_batch_size": batch_size, "show_progress": False, "load_col": {"inter": ["user_id", "item_id"]}}

    def options(model: str) -> dict[str, Any]:
        if model in own or model in ("MultiVAE", "MultiDAE"):
            latents = 400 if model == "MultiVAE" else 200
            return {**common, "mlp_hidden_size": [600], "latent_dimension": latents, "dropout_prob": 0.5}
        return dict(common)

    peer = {**options(PEER), "fast_evaluation": False}
    first = Side(f"RecBole's {PEER}", PEER, {**peer, "eval_batch_size": 4096}, _EVAL_BATCH_SIZES)
    return [first, *(Side(model, model, options(model)) for model in models)]


def run(
    models: Sequence[str],
    own: Sequence[str],
    shape: tuple[int, int, int],
    *,
    repeats: int,
    seconds: float,
    batch_size: int,
    memory_limit: float,
) -> dict[str, Any]:
    """Measure models beside the peer and return everything: the machine, the data, and each repeat.

    Args:
        models: names of models, RecBole's or registered.
        own: those that recbole_vae has.
        shape: users, items and interactions.
        repeats: how often each is measured; the models take turns.
        seconds: least length of each measurement.
        batch_size: ``train_batch_size`` of all.
        memory_limit: of each process on the CPU, in GB; 0 for none.
    """
    import torch

    from recbole_vae.checkpoint import versions

    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        (place / "bench").mkdir()
        users, items = generate(*shape)
        write(place / "bench" / "bench.inter", users, items)
        rows = sides(models, batch_size, own)
        measured: dict[str, list[Measured]] = {side.name: [] for side in rows}
        turns = [side for _ in range(repeats) for side in rows]
        for side in (bar := tqdm(turns, desc="Bench", ncols=100)):
            bar.set_postfix_str(side.name[:40])
            if measured[side.name] and measured[side.name][-1].error:
                continue  # it cannot run, and would not the next time
            options = {**side.options, "data_path": str(place), "checkpoint_dir": str(place), "state": "ERROR"}
            try:
                measured[side.name].append(_in_a_process(side, options, place, seconds, memory_limit))
            except KeyboardInterrupt:
                if not measured[rows[0].name]:
                    raise
                print("interrupted: the table has what was measured so far", file=sys.stderr)
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
        "data": {"users": shape[0], "items": shape[1], "interactions": len(users)},
        "train_batch_size": batch_size,
        "measured": {name: [asdict(each) for each in repeated] for name, repeated in measured.items() if repeated},
    }


def _in_a_process(side: Side, options: dict[str, Any], place: Path, seconds: float, memory_limit: float) -> Measured:
    import torch

    result = place / "result.json"
    result.unlink(missing_ok=True)
    specification = {
        "model": side.model, "options": options, "eval_batch_sizes": side.eval_batch_sizes, "seconds": seconds,
        "memory_limit": memory_limit, "result": str(result), "threads": torch.get_num_threads(),
    }  # fmt: skip
    code = "import sys; from recbole_vae.bench import child; child(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, json.dumps(specification)],
        cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False,
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
            found.setdefault("train", []).append(ours["train"] / theirs["train"])
        best = max(ours["evaluate"].values())
        default, *_ = theirs["evaluate"].values()
        found.setdefault("eval, its default", []).append(best / default)
        found.setdefault("eval, its best", []).append(best / max(theirs["evaluate"].values()))
        found.setdefault("memory", []).append(theirs["memory"] / ours["memory"])
    return found


def table(report: dict[str, Any]) -> str:
    """Return the report as text: medians, and ratios with their smallest and largest."""
    machine, data = report["machine"], report["data"]
    lines = [
        f"{machine['gpu'] or machine['processor']}, {machine['threads']} threads; "
        + ", ".join(f"{name} {number}" for name, number in report["versions"].items()),
        f"{data['users']} users, {data['items']} items, {data['interactions']} interactions; batches of "
        f"{report['train_batch_size']} users",
        "",
        f"{'':<22} {'load s':>8} {'train users/s':>14} {'peak GB':>8}   evaluated users/s, by batches of so many users",
    ]
    for name, repeated in report["measured"].items():
        if repeated[-1]["error"]:
            lines.append(f"{name:<22} {repeated[-1]['error']}")
            continue
        cells = []
        for key, width, digits in (("load", 8, 2), ("train", 14, 0), ("memory", 8, 2)):
            values = [each[key] for each in repeated if each[key] is not None]
            cells.append(f"{statistics.median(values):>{width}.{digits}f}" if values else f"{'-':>{width}}")
        for size in repeated[0]["evaluate"]:
            cells.append(f"{statistics.median(each['evaluate'][size] for each in repeated):.0f} by {size}")
        lines.append(f"{name:<22} {' '.join(cells[:3])}   {', '.join(cells[3:])}")
    peer, *others = report["measured"]
    lines += ["", f"times better than {peer}: median (smallest to largest) of {len(report['measured'][peer])} repeats"]
    for name in others:
        parts = [
            f"{label} {statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f})"
            for label, found in ratios(report, name).items()
        ]
        lines.append(f"{name:<12} {'; '.join(parts) or 'nothing to compare'}")
    return "\n".join(lines)


def shape_of(options: dict[str, str]) -> tuple[int, int, int]:
    """Read the shape of the data from command-line options: ``preset``, or ``users``, ``items`` and ``interactions``.

    Raises:
        ConfigError: there is no such preset, or a number is missing or out of range.
    """
    numbers = [options.get(name) for name in ("users", "items", "interactions")]
    if any(numbers):
        if "preset" in options or not all(text and text.isdecimal() and int(text) > 1 for text in numbers):
            raise ConfigError(
                "--users, --items and --interactions (command line) must be given together, without --preset, as integers > 1."
            )
        users, items, interactions = (int(str(text)) for text in numbers)
        if interactions > users * items // 4 or interactions < 5 * users:
            raise ConfigError(
                f"--interactions={interactions} (command line) must be from 5 times the users ({5 * users}) to a quarter of all "
                f"pairs ({users * items // 4})."
            )
        return users, items, interactions
    preset = options.get("preset", "ml-1m")
    if preset not in SHAPES:
        raise ConfigError(f"--preset={preset} (command line) is unknown; there are {', '.join(SHAPES)}.")
    return SHAPES[preset]
