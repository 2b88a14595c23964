"""``recbole-vae evaluate``: measure a model in use on what users did afterwards."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from recbole_vae.cli.compare_lists import EXCEEDED
from recbole_vae.cli.histories import histories
from recbole_vae.cli.options import NotAllowedError, Options, Parser, many, names, whole
from recbole_vae.cli.outputs import check_outputs, put
from recbole_vae.errors import ConfigError

if TYPE_CHECKING:
    from recbole_vae.compare.deployed import Estimate, Evaluation

SUMMARY = "Measure a model in use on what users did afterwards, with intervals."


def limits(words: list[str]) -> dict[str, float]:
    """Read limits such as ``NDCG@10:0.1,Recall@10:0.05``."""
    found = {}
    for word in names(words):
        metric, _, number = word.rpartition(":")
        try:
            found[metric.lower()] = float(number)
        except ValueError:
            metric = ""
        if not metric or not abs(found[metric.lower()]) < float("inf"):
            raise NotAllowedError(word, "a metric and a number, such as NDCG@10:0.1")
    return found


def parser() -> Parser:
    """Declare the options."""
    parser = Parser(
        "evaluate", SUMMARY, "--checkpoint=FILE --dataset=NEW [--against=FILE] [--min=NDCG@10:0.1]",
        epilog="Exit status 3: a limit is exceeded.",
    )  # fmt: skip
    parser.shared("checkpoint")
    parser.option(
        "--dataset", metavar="NAME", help="the newer data set; what is in no history yet is to be found",
        missing="the name of the newer data set",
    )  # fmt: skip
    parser.option("--data_path", default="dataset", metavar="FOLDER", help="folder that holds the data set's folder")
    parser.option(
        "--against",
        metavar="FILE",
        help="a second checkpoint, measured on the same users and items, with a paired test. No list of either has what is "
        "in a history of the other",
    )
    parser.shared(
        "histories",
        help="histories of users, in the place of those in the checkpoint: CSV with the columns user_id,item_id, or a RecBole "
        ".inter file",
    )
    parser.option(
        "--metrics", kind=names, several=True, metavar="NAME", help="metrics (default: those of the training)"
    )
    parser.option(
        "--topk", kind=many(whole()), several=True, metavar="N", help="cutoffs k (default: those of the training)"
    )
    parser.option(
        "--min", kind=limits, several=True, metavar="METRIC:X", help="metrics must be at least X, such as NDCG@10:0.1"
    )
    parser.option(
        "--max_drop", kind=limits, several=True, metavar="METRIC:X",
        help="metrics may be lower than with --against by at most this share, such as NDCG@10:0.02",
    )  # fmt: skip
    parser.shared("json", "imports")
    return parser


def command(options: Options) -> int:
    """Evaluate; return 3 if a limit is exceeded."""
    files = check_outputs(options, "json")
    if options.max_drop and not options.against:
        raise ConfigError("--max_drop (command line) needs --against, a checkpoint to compare with.")
    from recbole_vae.compare.deployed import evaluate
    from recbole_vae.serving.recommender import Recommender

    given = None
    if options.histories:
        given = dict(histories(options.histories, Recommender.load(options.checkpoint).model))
    checkpoints = [options.checkpoint, *([options.against] if options.against else [])]
    found = evaluate(
        checkpoints,
        options.dataset,
        data_path=options.data_path,
        histories=given,
        metrics=options.metrics,
        topk=options.topk,
        needed={*(options.min or ()), *(options.max_drop or ())},
        show_progress=True,
    )
    exceeded = _exceeded(found, options)
    put(files, _text(found), json=lambda: json.dumps({**asdict(found), "exceeded": exceeded}, indent=1))
    if not found.targets:
        unchecked = [f"--{name}" for name in ("min", "max_drop") if getattr(options, name)]
        limits = f"; {' and '.join(unchecked)} could not be checked" * bool(unchecked)
        print(f"nothing to measure: {found.dataset} has nothing that is to be found{limits}", file=sys.stderr)
    for line in exceeded:
        print(f"limit exceeded: {line}", file=sys.stderr)
    return EXCEEDED if exceeded else 0


def _exceeded(found: Evaluation, options: Options) -> list[str]:
    metrics = found.metrics.get(options.checkpoint, {})
    lines: list[str] = []
    if not found.targets:
        return lines
    for option in ("min", "max_drop"):
        for name, limit in (getattr(options, option) or {}).items():
            shown = f"--{option}={name}:{limit:g}"
            if not found.users or name not in metrics:
                lines.append(f"no user with a history has something to be found, so {shown} is not met")
            elif option == "min" and metrics[name].mean < limit:
                lines.append(f"{name} is {metrics[name].mean:.4f}, below {shown}")
            elif option == "max_drop":
                drop = found.differences[name].drop
                if drop is not None and drop > limit:
                    lines.append(f"{name} is {drop:.2%} lower than that of {options.against}, more than {shown}")
    return lines


def _text(found: Evaluation) -> str:
    from tabulate import tabulate

    parts = [
        ("interactions", found.interactions),
        ("in a history already", found.in_history),
        ("of items that no model here knows", found.unknown_items),
        ("different items of that kind", found.different_unknown_items),
        ("to be found", found.targets),
    ]
    lines = [
        found.dataset,
        tabulate(
            [(name, f"{number:,}") for name, number in parts],
            tablefmt="plain",
            disable_numparse=True,
            colalign=("left", "right"),
        ),
    ]
    groups = [("Users with a history", found.users, found.metrics)]
    if found.new_users:
        groups.append(
            ("Users without a history, who get the most popular items", found.new_users, found.new_user_metrics)
        )
    for title, users, metrics in groups:
        lines += ["", f"{title}: {users:,}"]
        if users:
            rows = [[name, *map(_cell, of_models)] for name, of_models in _by_metric(metrics).items()]
            lines.append(tabulate(rows, ["", *metrics], "plain", disable_numparse=True))
    if found.differences:
        rows = [
            [name, f"{each.difference:+.4f}", f"[{each.low:+.4f}, {each.high:+.4f}]", f"{each.p_value:.4f}"]
            for name, each in found.differences.items()
        ]
        lines += ["", "Difference, the first minus the second"]
        lines.append(tabulate(rows, ["", "mean", "95 % interval", "p (Holm)"], "plain", disable_numparse=True))
    return "\n".join(lines)


def _by_metric(metrics: dict[str, dict[str, Estimate]]) -> dict[str, list[Estimate]]:
    first = next(iter(metrics.values()))
    return {name: [of_model[name] for of_model in metrics.values()] for name in first}


def _cell(estimate: Estimate) -> str:
    if estimate.low is None:
        return f"{estimate.mean:.4f}"
    return f"{estimate.mean:.4f} [{estimate.low:.4f}, {estimate.high:.4f}]"
