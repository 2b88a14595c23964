"""The time to a result: from the command until a validation metric reaches a value, against RecBole's own models.

Each side is a command ``recbole-vae run`` in a new process: imports, loading, training and evaluation count. The sides take
turns, so that other load on the machine affects all of them.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from recbole_vae.bench.machine import machine
from recbole_vae.bench.process import in_a_process
from recbole_vae.bench.run import PEER
from recbole_vae.bench.watch import Timed
from recbole_vae.errors import TrainingError
from recbole_vae.options.shell import joined

PEERS = (("MultiVAE, fast evaluation", "MultiVAE"), ("RecBole's RecVAE", "RecVAE"), ("RecBole's EASE", "EASE"))
"""Name and model of the sides below the models that were asked for."""

_CHILD = "import sys; from recbole_vae.bench.watch import child; from recbole_vae.cli.main import main; child(sys.argv[1], main)"


@dataclass
class Side:
    """One row of the table: a name, and the words of its command without those that all sides share."""

    name: str
    words: list[str]


def sides(models: Sequence[str]) -> list[Side]:
    """Return the rows: RecBole's MultiVAE as RecBole evaluates it, the models, then the other models of RecBole."""
    rows = [Side(f"RecBole's {PEER}", [f"--model={PEER}", "--fast_evaluation=False"])]
    rows += [Side(model, [f"--model={model}"]) for model in models]
    for name, model in PEERS:
        as_it_is = ["--fast_evaluation=False"] * name.startswith("RecBole's")
        rows.append(Side(name, [f"--model={model}", *as_it_is]))
    return rows


def run(
    rows: Sequence[Side],
    words: Sequence[str],
    *,
    dataset: str,
    metric: str,
    value: float | None,
    repeats: int,
    time_limit: float | None = None,
    threads: int | None = None,
) -> dict[str, Any]:
    """Time all rows and return the report: the machine, the data, the target and every repeat.

    Args:
        rows: what to time; the peer comes first.
        words: what all commands share; paths are absolute.
        dataset: its name.
        metric: the validation metric.
        value: what it has to reach; None for the best of the peer's first run.
        repeats: how often each row is timed.
        time_limit: seconds after which a side ends with its next validation.
        threads: of torch in each process.

    Raises:
        TrainingError: the peer is to give the value, and its run failed.
    """
    from recbole_vae.storage.checkpoint import versions

    of_peer, first, interrupted = value is None, rows[0].name, False
    measured: dict[str, list[Timed]] = {side.name: [] for side in rows}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        turns = [side for _ in range(repeats) for side in rows]
        for side in (bar := tqdm(turns, desc="Bench", ncols=100)):
            bar.set_postfix_str(side.name[:40])
            if measured[side.name] and measured[side.name][-1].error:
                continue  # it would fail again
            specification = {
                "words": ["run", *words, *side.words, f"--valid_metric={metric}", "--show_progress=False"],
                "value": value, "limit": time_limit, "threads": threads, "result": str(Path(temporary) / "result.json"),
                "path": str(Path.cwd()), "started": time.monotonic(),
            }  # fmt: skip
            try:
                found = in_a_process(_CHILD, specification, partial(_show, bar, side.name))
            except KeyboardInterrupt:
                if not measured[first]:
                    raise
                print("interrupted: the table shows what was measured so far", file=sys.stderr)
                interrupted = True
                break
            measured[side.name].append(timed := Timed(**found))
            if not timed.error and not timed.curve:
                timed.error = "it has no validation"
            split = next((each[0].split for each in measured.values() if each and each[0].split), "")
            if timed.split and timed.split != split:
                timed.error = "its training or validation part is not that of the others"
            if value is None:
                if timed.error:
                    raise TrainingError(f"{side.name} gives the target, and failed: {timed.error}")
                value = timed.score
    return {
        "machine": machine(threads),
        "versions": versions(),
        "interrupted": interrupted,
        "dataset": dataset,
        "target": {"metric": metric, "value": value, "of": first if of_peer else None},
        "time_limit": time_limit,
        "commands": {
            side.name: joined(["recbole-vae", "run", *words, *side.words, f"--valid_metric={metric}"]) for side in rows
        },
        "measured": {name: [asdict(each) for each in repeated] for name, repeated in measured.items() if repeated},
    }


def _show(bar: Any, name: str, news: str) -> None:
    bar.set_postfix_str(f"{name[:30]}, {news}")
