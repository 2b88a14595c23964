"""``recbole-vae compare-lists``: say what changes between two files of recommendations."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole_vae.cli.options import Options, Parser, number
from recbole_vae.cli.outputs import check_outputs, put
from recbole_vae.errors import ConfigError

if TYPE_CHECKING:
    from recbole_vae.compare.lists import Comparison

SUMMARY = "Compare two files of recommendations: overlap, ranks, coverage, popularity."

LIMITS = {
    "min_overlap": ("overlap", "at least this mean overlap of the two lists of a user"),
    "max_lost_users": ("lost_users", "at most this share of OLD's users without a list in NEW"),
    "max_coverage_drop": ("coverage_drop", "the number of different items falls by at most this share"),
    "max_popularity_rise": ("popularity_rise", "mean popularity rises by at most this share; needs --checkpoint"),
}
"""The limits, with the attribute of a Comparison that each is for."""

EXCEEDED = 3
"""The exit status if a limit is exceeded."""


def parser() -> Parser:
    """Declare the options."""
    parser = Parser(
        "compare-lists", SUMMARY, "OLD.csv NEW.csv [--min_overlap=0.5] [--OPTION=VALUE ...]",
        epilog="Both files are as recommend writes them, CSV or Parquet. Exit status 3: a limit is exceeded.",
    )  # fmt: skip
    parser.add_argument("old", metavar="OLD", help="recommendations of the model in use")
    parser.add_argument("new", metavar="NEW", help="recommendations of the model that is to replace it")
    parser.shared("k", default=None, help="places of each list that count (default: as many as both files have)")
    parser.shared(
        "checkpoint", missing="", help="a checkpoint that gives the catalogue and the popularity of the items"
    )
    for name, (_, meaning) in LIMITS.items():
        parser.option(f"--{name}", kind=number(0, 1) if name[:3] == "min" else number(0), metavar="X", help=meaning)
    parser.shared("json", "imports")
    return parser


def command(options: Options) -> int:
    """Compare the files; return 3 if a limit is exceeded."""
    files = check_outputs(options, "json")
    if options.max_popularity_rise is not None and not options.checkpoint:
        raise ConfigError("--max_popularity_rise (command line) needs --checkpoint, which says how popular items are.")
    from recbole_vae.compare.lists import compare_lists

    checkpoint = Path(options.checkpoint) if options.checkpoint else None
    found = compare_lists(Path(options.old), Path(options.new), options.k, checkpoint)
    exceeded = _exceeded(found, options)
    values = {name: getattr(found, name) for name in ("lost_users", "coverage_drop", "popularity_rise")}
    content = {**asdict(found), **values, "exceeded": exceeded}
    put(files, _text(found), json=lambda: json.dumps(content, indent=1))
    for line in exceeded:
        print(f"limit exceeded: {line}", file=sys.stderr)
    return EXCEEDED if exceeded else 0


def _exceeded(found: Comparison, options: Options) -> list[str]:
    lines = []
    for option, (name, _) in LIMITS.items():
        limit, value = getattr(options, option), getattr(found, name)
        if limit is None:
            continue
        if value is None:
            lines.append(f"{name} is not defined, so --{option}={limit:g} is not met")
        elif value < limit if option.startswith("min") else value > limit:
            side = "below" if option.startswith("min") else "above"
            lines.append(f"{name} is {value:.4g}, {side} --{option}={limit:g}")
    return lines


def _text(found: Comparison) -> str:
    from tabulate import tabulate

    old, new = found.old, found.new
    sides: list[tuple[str, Any, Any]] = [("users", old.users, new.users), ("different items", old.items, new.items)]
    if old.coverage is not None and new.coverage is not None:
        sides.append(("coverage of the catalogue", f"{old.coverage:.2%}", f"{new.coverage:.2%}"))
        sides.append(("mean popularity (users)", f"{old.popularity:.1f}", f"{new.popularity:.1f}"))
        sides.append(("places of unknown items", f"{old.unknown:.2%}", f"{new.unknown:.2%}"))
    sides.append(("Gini index", f"{old.gini:.4f}", f"{new.gini:.4f}"))
    both = [
        ("users in both", found.both),
        (f"overlap@{found.k}", found.overlap),
        (f"rank-biased overlap@{found.k}", found.rbo),
        ("Spearman, shared items", found.spearman),
        ("same first item", found.same_first),
        ("same list", found.same_list),
        ("users lost", found.lost_users),
        ("exposure shift", found.exposure_shift),
    ]
    cells = [
        (name, "–" if value is None else str(value) if name == "users in both" else f"{value:.4f}")
        for name, value in both
    ]
    tables = [
        tabulate(sides, ["", "old", "new"], "plain", disable_numparse=True, colalign=("left", "right", "right")),
        tabulate(cells, tablefmt="plain", disable_numparse=True, colalign=("left", "right")),
    ]
    return "\n\n".join(tables)
