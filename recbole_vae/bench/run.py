"""The benchmark: models against RecBole's own, each measured in a process of its own.

The models take turns, so that other load on the machine affects all of them. Compare only numbers of the same run.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from recbole_vae.bench.data import generate, write
from recbole_vae.bench.machine import machine
from recbole_vae.bench.measure import Measured
from recbole_vae.bench.process import in_a_process
from recbole_vae.bench.profile import Profiled

PEER = "MultiVAE"
"""The model of RecBole that the others are compared with."""

_CHILD = "import sys; from recbole_vae.bench.measure import child; child(sys.argv[1])"
_PROFILE = "import sys; from recbole_vae.bench.profile import child; child(sys.argv[1])"
_EVAL_BATCH_SIZES = (2**16, 2**19, 2**22)


@dataclass
class Side:
    """One row of the table: a model and its options."""

    name: str
    model: str
    options: dict[str, Any]
    eval_batch_sizes: tuple[int, ...] = ()


def sides(
    models: Sequence[str], own: Sequence[str], hidden: Sequence[int] = (600,), latents: int = 200, n_negatives: int = 0
) -> list[Side]:
    """Return the rows to measure: the peer as RecBole runs it (also with larger evaluation batches), then the models.

    All autoencoders get the same architecture. RecBole's MultiVAE gets twice the ``latent_dimension``, because it uses half.

    Args:
        models: names of models, RecBole's or registered.
        own: names of recbole_vae's models.
        hidden: ``mlp_hidden_size``.
        latents: number of latent variables.
        n_negatives: above 0, each of recbole_vae's models is measured with this many sampled items as well.
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
    """Measure all rows and return the report: the machine, the data and every repeat.

    Args:
        rows: what to measure; the peer comes first.
        shape: users, items and interactions of the generated data.
        repeats: how often each row is measured.
        seconds: minimum length of each measurement.
        batch_sizes: users in a training batch.
        memory_limit: limit of each process in GB, where there is no GPU; 0 for none.
        imports: modules that register models; they may lie in the working directory.
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
                continue  # it would fail again
            common = {"data_path": str(place), "checkpoint_dir": str(place), "state": "ERROR"}
            specification = {
                "model": side.model, "options": {**side.options, **common, "train_batch_size": batch_sizes[0]},
                "batch_sizes": batch_sizes, "eval_batch_sizes": side.eval_batch_sizes, "seconds": seconds,
                "memory_limit": memory_limit, "result": str(place / "result.json"), "threads": torch.get_num_threads(),
                "imports": list(imports), "path": str(Path.cwd()),
            }  # fmt: skip
            try:
                measured[side.name].append(Measured(**in_a_process(_CHILD, specification)))
            except KeyboardInterrupt:
                if not measured[rows[0].name]:
                    raise
                print("interrupted: the table shows what was measured so far", file=sys.stderr)
                interrupted = True
                break
    return {
        "machine": machine(),
        "versions": versions(),
        "interrupted": interrupted,
        "data": {"users": shape[0], "items": shape[1], "interactions": len(users)},
        "measured": {name: [asdict(each) for each in repeated] for name, repeated in measured.items() if repeated},
    }


def profiles(
    rows: Sequence[Side], shape: tuple[int, int, int], *, users: int, imports: Sequence[str] = ()
) -> dict[str, Any]:
    """Profile a training step of each row on the CPU and return the report: the machine, the data, and each profile.

    Args:
        rows: models of recbole_vae.
        shape: users, items and interactions of the generated data.
        users: in a batch.
        imports: modules that register models; they may lie in the working directory.
    """
    import torch

    from recbole_vae.storage.checkpoint import versions

    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        (place / "bench").mkdir()
        drawn = generate(*shape)
        write(place / "bench" / "bench.inter", *drawn)
        found: dict[str, Any] = {}
        for side in (bar := tqdm(rows, desc="Profile", ncols=100)):
            bar.set_postfix_str(side.name[:40])
            common = {
                "data_path": str(place),
                "checkpoint_dir": str(place),
                "state": "ERROR",
                "train_batch_size": users,
            }
            found[side.name] = asdict(Profiled(**in_a_process(_PROFILE, {
                "model": side.model, "options": {**side.options, **common}, "batch_sizes": [users],
                "result": str(place / "result.json"), "threads": torch.get_num_threads(), "imports": list(imports),
                "path": str(Path.cwd()),
            })))  # fmt: skip
    return {
        "machine": {**machine(), "gpu": None},
        "versions": versions(),
        "data": {"users": shape[0], "items": shape[1], "interactions": len(drawn[0])},
        "profiles": found,
    }
