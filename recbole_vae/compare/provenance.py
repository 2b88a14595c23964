"""How to reproduce each row of a comparison: commands, settings and versions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import yaml

from recbole_vae.compare.analysis import Table
from recbole_vae.compare.results import DONE, LISTS, Comparison, Run
from recbole_vae.options.shell import joined


def settings_yaml(comparison: Comparison, tables: Iterable[Table]) -> str:
    """Return what was compared, why a table has no tests, and for each run its settings, split, device and versions."""
    runs = [
        {
            "dataset": run.dataset,
            "protocol": run.protocol,
            "label": run.label,
            "seed": run.seed,
            "status": run.status,
            "split_hash": run.split_hash,
            **({"lists": run.lists} if run.lists else {}),
            "device": run.device,
            "settings": run.settings,
            "data": run.data,
            "command": command(run, comparison),
        }
        for run in comparison.runs
    ]
    content = {
        "command": comparison.command,
        "primary": comparison.primary,
        "reference": comparison.reference,
        "alpha": comparison.alpha,
        "trials": comparison.trials,
        "tuning_time": comparison.tuning_time,
        "untested": {table.name: table.untested for table in tables if table.untested},
        "plan": comparison.settings,
        "versions": versions(comparison.runs),
        "runs": runs,
    }
    dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    return str(yaml.dump(content, Dumper=dumper, sort_keys=False, allow_unicode=True, width=120))


def versions(runs: Iterable[Run]) -> dict[str, str]:
    """Return the versions of the packages; several if the runs differ."""
    found: dict[str, dict[str, None]] = {}
    for run in runs:
        for package, version in run.versions.items():
            found.setdefault(package, {})[version] = None
    return {package: ", ".join(each) for package, each in found.items()}


def command(run: Run, comparison: Comparison) -> str:
    """Return the command that reproduces a run alone; that of the comparison if only ``compare`` can do it."""
    plan = comparison.settings
    untuned = comparison.tuned and run.status != DONE
    if plan.get("split_seed") is not None or plan.get("imports") or run.model in ("Pop", LISTS) or untuned:
        return comparison.command
    measured = {
        "metrics": list(dict.fromkeys(metric.partition("@")[0] for metric in comparison.metrics)),
        "topk": sorted({int(k) for metric in comparison.metrics if (k := metric.partition("@")[2])}),
        "valid_metric": comparison.primary,
    }
    options = {"model": run.model, "dataset": run.dataset, **run.settings, "seed": run.seed, **measured}
    words = [f"--{name}={value}" for name, value in options.items()]
    return joined(["recbole-vae", "run", *words])
