"""The benchmark's report: a table, and a plot."""

from __future__ import annotations

import io
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from recbole_vae.errors import ConfigError
from recbole_vae.storage.files import write_whole


def ratios(results: dict[str, Any], name: str) -> dict[str, list[float]]:
    """Return how many times faster than the peer a model is in each repeat, and how many times less memory it takes."""
    peer, *_ = results["measured"]
    found: dict[str, list[float]] = {}
    for ours, theirs in zip(results["measured"][name], results["measured"][peer], strict=False):
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
    """Return the median of a measurement (or one part of it) over the repeats; None if there is none."""
    values = [each[key] if part is None else each[key][part] for each in repeated if each[key] is not None]
    return statistics.median(values) if values else None


def table(results: dict[str, Any]) -> str:
    """Return the report as text: medians, and ratios with their ranges."""
    lines = [_of_machine(results), _of_data(results), ""]
    rows = []
    for name, repeated in results["measured"].items():
        if repeated[-1]["error"]:
            rows.append([name, "", "", repeated[-1]["error"]])
            continue
        rates = [
            ", ".join(f"{_median(repeated, key, size):.0f} by {size}" for size in repeated[0][key] or ()) or "-"
            for key in ("train", "evaluate")
        ]
        load, memory = _median(repeated, "load"), _median(repeated, "memory", -1)
        rows.append([name, f"{load:.2f}", f"{memory:.2f}", "; ".join(rates)])
    head = ["", "load s", "peak GB", "users/s by users in a batch: training; evaluation"]
    lines.append(_aligned(rows, head, colalign=("left", "right", "right", "left")))
    peer, *others = results["measured"]
    lines += ["", f"times better than {peer}: median (smallest to largest) of {len(results['measured'][peer])} repeats"]
    rows = []
    for name in others:
        parts = [
            f"{label} {statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f})"
            for label, found in ratios(results, name).items()
        ]
        rows.append([name, "; ".join(parts) or "nothing to compare"])
    return "\n".join([*lines, _aligned(rows)])


def target_ratios(results: dict[str, Any], name: str) -> list[float]:
    """Return how many times as fast as the peer a side reached the target, in each repeat in which both did."""
    peer, *_ = results["measured"]
    pairs = zip(results["measured"][name], results["measured"][peer], strict=False)
    return [theirs["seconds"] / ours["seconds"] for ours, theirs in pairs if ours["reached"] and theirs["reached"]]


def target_table(results: dict[str, Any]) -> str:
    """Return the report of :func:`recbole_vae.bench.target.run` as text: medians with their ranges."""
    target, (peer, *_) = results["target"], results["measured"]
    known = next((each["data"] for repeated in results["measured"].values() for each in repeated if each["data"]), None)
    size = "{} users, {} items, {} interactions for training".format(*known) if known else "nothing was measured"
    origin = f", the best of {target['of']}" if target["of"] else ""
    lines = [
        _of_machine(results),
        f"{results['dataset']}: {size}",
        f"from the command until {target['metric']} of the validation part reaches {target['value']:.4f}{origin}",
        "median (smallest to largest) of the repeats; the same split and seed for all",
        "",
    ]
    rows = []
    for name, repeated in results["measured"].items():
        if repeated[-1]["error"]:
            rows.append([name, "", "", "", "", repeated[-1]["error"]])
            continue
        reached = [each for each in repeated if each["reached"]]
        if len(reached) < len(repeated):
            worst = max((each for each in repeated if not each["reached"]), key=lambda each: float(each["seconds"]))
            late = results["time_limit"] is not None and worst["seconds"] >= results["time_limit"]
            end = "the time limit" if late else "early stopping"
            said = f"not reached (best {worst['score']:.4f}, {end} after {worst['seconds']:.1f} s)"
            if reached:
                said += f" in {len(repeated) - len(reached)} of {len(repeated)} repeats"
            rows.append([name, "", "", f"{worst['epochs']}", "", said])
            continue
        parts = [f"{_median(repeated, part):.1f}" for part in ("start", "load", "train", "evaluate")]
        rows.append([
            name, _range([each["seconds"] for each in repeated], 1), _range(target_ratios(results, name), 2),
            f"{_median(repeated, 'epochs'):.0f}", f"{_median(repeated, 'score'):.4f}", ", ".join(parts),
        ])  # fmt: skip
    head = ["", "seconds", f"times as fast as {peer}", "epochs", target["metric"], "start, load, train, evaluate"]
    return "\n".join([*lines, _aligned(rows, head, colalign=("left", "left", "left", "right", "right", "left"))])


def profile_table(results: dict[str, Any]) -> str:
    """Return the report of :func:`recbole_vae.bench.run.profiles` as text."""
    lines = [_of_machine(results), _of_data(results)]
    for name, found in results["profiles"].items():
        lines.append("")
        if found["error"]:
            lines.append(f"{name}: {found['error']}")
            continue
        low, full = (f"{peak / 1e9:.0f}" for peak in found["peak"])
        lines += [
            f"{name}, a training step of {found['users']} users with {found['entries']:.0f} interactions, "
            f"products of the output layer in {found['dtype']}: {found['plain']:.1f} ms, {found['step']:.1f} with the profiler",
            f"limits by {low} GFLOP/s (float32: {full}) and {found['bandwidth'] / 1e9:.1f} GB/s, measured just now",
        ]
        rows = [
            [
                part["name"], f"{part['ms']:.2f}", f"{100 * part['ms'] / found['step']:.1f} %",
                f"{part['flops'] / 1e9:.2f}" * bool(part["flops"]), f"{part['bytes'] / 1e6:.1f}" * bool(part["bytes"]),
                f"{part['limit']:.2f}" * bool(part["limit"]),
            ]
            for part in found["parts"]
        ]  # fmt: skip
        limit = sum(part["limit"] for part in found["parts"])
        rows.append(["sum", f"{sum(part['ms'] for part in found['parts']):.2f}", "100.0 %", "", "", f"{limit:.2f}"])
        head = ["", "ms", "share", "GFLOP", "MB", "limit ms"]
        lines.append(_aligned(rows, head, colalign=("left", *["right"] * 5)))
    return "\n".join(lines)


def _of_data(results: dict[str, Any]) -> str:
    data = results["data"]
    return f"{data['users']} users, {data['items']} items, {data['interactions']} interactions"


def _range(values: Sequence[float], decimals: int) -> str:
    """Return median (smallest to largest); one value alone as it is."""
    if not values:
        return ""
    median, least, most = (f"{each:.{decimals}f}" for each in (statistics.median(values), min(values), max(values)))
    return median if len(values) == 1 else f"{median} ({least} to {most})"


def _of_machine(results: dict[str, Any]) -> str:
    machine = results["machine"]
    return f"{machine['gpu'] or machine['processor']}, {machine['threads']} threads; " + ", ".join(
        f"{name} {number}" for name, number in results["versions"].items()
    )


def _aligned(rows: list[list[str]], headers: Sequence[str] = (), **options: Any) -> str:
    aligned: str = tabulate(rows, headers, tablefmt="plain", disable_numparse=True, **options)
    return aligned


def plot(reports: Sequence[dict[str, Any]], path: Path) -> None:
    """Plot the time and memory of a training step over the number of items.

    Args:
        reports: reports of :func:`~recbole_vae.bench.run.run` for different numbers of items.
        path: the picture; its suffix is the format.

    Raises:
        ConfigError: matplotlib is missing or cannot write this format.
        DataError: the file cannot be written.
    """
    plt = pyplot(path)
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    names = list(dict.fromkeys(name for results in reports for name in results["measured"]))
    for position, name in enumerate(names):
        points = []
        for results in reports:
            repeated = [each for each in results["measured"].get(name, ()) if not each["error"]]
            for size in list(repeated[0]["train"] or ())[:1] if repeated else ():
                rate, memory = _median(repeated, "train", size), _median(repeated, "memory", 1)
                points.append((results["data"]["items"], int(size) / (rate or 1), memory))
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
    """Return matplotlib's ``pyplot``; raise a ConfigError if matplotlib is missing or cannot write this format."""
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
