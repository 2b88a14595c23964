"""The tables of a comparison: for the terminal, as Markdown, LaTeX, CSV and Parquet."""

from __future__ import annotations

import csv
import io
import re
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from tabulate import tabulate

from recbole_vae.compare import groups
from recbole_vae.compare.analysis import Table, Test
from recbole_vae.compare.cells import Cell, caption, costs, parts, remarks, settings
from recbole_vae.compare.checklist import answers
from recbole_vae.compare.results import Comparison, Run, Users
from recbole_vae.errors import RecBoleVAEError


def text(tables: Sequence[Table], comparison: Comparison) -> str:
    """Return the tables for a terminal; what is bold and underlined elsewhere has (1) and (2)."""
    lines: list[str] = []
    for table in tables:
        for part in parts(table):
            rows = [["", *part.headers], *([label, *map(_plain, cells)] for label, cells in part.rows)]
            lines += [f"{part.title}: {table.name}", tabulate(rows, tablefmt="plain", disable_numparse=True)]
            lines.append("")
        words = caption(table, comparison).replace("is bold, the second underlined", "has (1), the second (2)")
        lines += [textwrap.fill(each, 120) for each in (words, *remarks(table, comparison))] + [""]
    return "\n".join(lines) if lines else "No run is finished yet.\n"


def _plain(cell: Cell) -> str:
    return (
        cell.text + (cell.deviation and f" ± {cell.deviation}") + (f" ({cell.rank})" if cell.rank else "") + cell.marks
    )


_MARKDOWN = str.maketrans({char: "\\" + char for char in "\\`*_{}[]<>#|~"} | {"\n": " "})


def markdown(tables: Sequence[Table], comparison: Comparison) -> str:
    """Return the tables as Markdown."""
    lines = []
    for table in tables:
        lines += [f"## {table.name.translate(_MARKDOWN)}", ""]
        for part in parts(table):
            rows = [[label.translate(_MARKDOWN), *map(_markdown, cells)] for label, cells in part.rows]
            align = ["left", *["right"] * len(part.headers)]
            lines += [f"**{part.title}**", ""]
            lines.append(tabulate(rows, ["", *part.headers], "pipe", disable_numparse=True, colalign=align))
            lines.append("")
        lines += [caption(table, comparison).translate(_MARKDOWN), ""]
        chosen = [[label.translate(_MARKDOWN), words.translate(_MARKDOWN)] for label, words in settings(table)]
        if chosen:
            lines += [
                tabulate(chosen, ["", "Settings given or tuned; the rest are defaults"], "pipe", disable_numparse=True),
                "",
            ]
        lines += [*(f"- {each.translate(_MARKDOWN)}" for each in remarks(table, comparison)), ""]
    return "\n".join(lines)


def checklist_md(tables: Iterable[Table], comparison: Comparison) -> str:
    """Return the reviewer's checklist of each table as Markdown."""
    lines = ["# Reviewer's checklist", ""]
    for table in tables:
        rows = [f"| {item} | {answer.translate(_MARKDOWN)} |" for item, answer in answers(table, comparison)]
        lines += [f"## {table.name.translate(_MARKDOWN)}", "", "| Item | Answer |", "|---|---|", *rows, ""]
    return "\n".join(lines)


def _markdown(cell: Cell) -> str:
    before, after = {1: ("**", "**"), 2: ("<u>", "</u>")}.get(cell.rank, ("", ""))
    deviation = cell.deviation and f" ± {cell.deviation}"
    return f"{before}{cell.text}{after}{deviation}{cell.marks.translate(_MARKDOWN)}"


# By hand: tabulate has LaTeX with booktabs, or cells with commands in them (bold, underlined), but not both.
_LATEX = str.maketrans(
    {char: "\\" + char for char in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}"}
    | {">": r"\textgreater{}", "|": r"\textbar{}", "–": "--", "±": r"$\pm$", "\n": " ", '"': r"\textquotedbl{}"}
    # Else a cell that starts a line with these would be read as an option of the line before.
    | {"[": "{[}", "]": "{]}", "*": "{*}"}
)


def latex(tables: Sequence[Table], comparison: Comparison) -> str:
    r"""Return the tables as LaTeX, to be read by ``\input`` where the package booktabs is loaded."""
    lines = [r"% Needs \usepackage{booktabs}. Made by: " + comparison.command.replace("\n", " ")]
    for number, table in enumerate(tables, 1):
        for part in parts(table):
            first = part.kind == ""
            words = (
                " ".join([caption(table, comparison), *remarks(table, comparison)])
                if first
                else f"{part.title}: {table.name}. {'Means over the seeds.' if len(table.seeds) > 1 else 'One seed.'}"
            )
            lines += [
                r"\begin{table}",
                r"\centering\footnotesize\setlength{\tabcolsep}{3pt}",
                rf"\caption{{{words.translate(_LATEX)}}}\vspace{{4pt}}",
                rf"\label{{tab:{_slug(table.name)}-{number}-{part.title.split()[0].lower()}}}",
                rf"\begin{{tabular}}{{@{{}}l{'r' * len(part.headers)}@{{}}}}",
                r"\toprule",
                "".join(f" & {header.translate(_LATEX)}" for header in part.headers) + r" \\",
                r"\midrule",
                *(
                    f"{label.translate(_LATEX)} & "
                    + " & ".join(_latex(cell, part.kind is not None) for cell in cells)
                    + r" \\"
                    for label, cells in part.rows
                ),
                r"\bottomrule",
                r"\end{tabular}",
                *(_latex_settings(table) if first else ()),
                r"\end{table}",
                "",
            ]
    return "\n".join(lines)


def _slug(name: str) -> str:
    return "-".join(re.findall("[a-z0-9]+", name.lower())) or "comparison"


def _latex_settings(table: Table) -> list[str]:
    chosen = "; ".join(f"{label} ({words})" for label, words in settings(table))
    return [
        rf"\par\vspace{{2pt}}\raggedright\scriptsize Settings given or tuned; the rest are defaults: {chosen.translate(_LATEX)}."
    ]


def _latex(cell: Cell, full: bool) -> str:
    words = cell.text.translate(_LATEX)
    words = {1: rf"\textbf{{{words}}}", 2: rf"\underline{{{words}}}"}.get(cell.rank, words)
    # Of one width, so that the digits stand below each other.
    marks = rf"\makebox[.6em][l]{{$^{{{cell.marks}}}$}}" if full else ""
    # A page is not wide enough for the deviations of what is beyond accuracy.
    return words + (rf"{{\tiny$\,\pm\,${cell.deviation}}}" if full and cell.deviation else "") + marks


_SIZES = ["difference", "relative", "cohens_d_z"]
_TEST_COLUMNS = ["against", "users", *(f"{size}{end}" for size in _SIZES for end in ("", "_low", "_high"))]
_TEST_COLUMNS += ["p", "p_holm", "p_wilcoxon", "p_wilcoxon_holm"]


def _test_values(test: Test) -> list[Any]:
    sizes = [*test.difference, *test.relative, *test.standardised]
    return [test.against, test.users, *sizes, test.p, test.holm, test.p_wilcoxon, test.holm_wilcoxon]


def table_csv(tables: Iterable[Table]) -> str:
    """Return one line for each row and metric (costs too): mean, deviation, the number of seeds they are of, and rank."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        [
            *("dataset", "protocol", "label", "model", "metric", "mean", "deviation", "seeds", "of_seeds", "status"),
            *("rank", "rank_low", "rank_high"),
        ]
    )
    for table in tables:
        for row in table.rows:
            status = " / ".join(dict.fromkeys(run.status for run in row.runs))
            start = [table.dataset, table.protocol, row.label, row.runs[0].model]
            end = [len(row.done), len(table.seeds), status]
            names = dict.fromkeys([*table.metrics, *(name for run in row.done for name in run.test)])
            for name in names:
                mean, deviation = row.over_seeds(name) or (None, None)
                writer.writerow([*start, name, mean, deviation, *end, *table.ranks.get((row.label, name), (None,) * 3)])
            for name in ("seconds", *costs(table), "best_epoch"):
                writer.writerow([*start, name, row.mean(name), None, *end, None, None, None])
    return out.getvalue()


def tests_csv(tables: Iterable[Table]) -> str:
    """Return one line for each test, with its family (best, reference, pairs), effect sizes and p-values."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["dataset", "protocol", "family", "metric", "label", *_TEST_COLUMNS])
    for table in tables:
        families = {"best": table.against_best, "reference": table.against_reference, "pairs": table.pairs}
        for family, tests in families.items():
            for test in tests.values():
                start = [table.dataset, table.protocol, family, test.metric, test.label]
                writer.writerow([*start, *_test_values(test)])
    return out.getvalue()


def groups_csv(tables: Iterable[Table]) -> str:
    """Return one line for each row, metric and group of users by history length, and for each row and group of items."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    ends = ["history_low", "history_high", "users", "popularity", "items", "relevant"]
    writer.writerow(["dataset", "protocol", "label", "groups", "group", *ends, "metric", "mean", "standard_error"])
    for table in tables:
        rows = [row for row in table.rows if row.done]
        k = max((int(at) for name in table.metrics if (at := name.partition("@")[2])), default=0)
        counts: Counter[tuple[str, ...]] = Counter()
        for user in groups.by_history(rows, table.seeds, table.tested) if rows else ():
            counts[user.label, user.metric] += 1
            start = [table.dataset, table.protocol, user.label, "users by history", counts[user.label, user.metric]]
            writer.writerow(
                [*start, user.low, user.high, user.users, None, None, None, user.metric, user.mean, user.error]
            )
        for item in groups.by_popularity(rows):
            counts[(item.label,)] += 1
            start = [table.dataset, table.protocol, item.label, "items by popularity", counts[(item.label,)]]
            sizes = [item.popularity, item.items, item.relevant]
            writer.writerow([*start, None, None, None, *sizes, f"recall@{k}", item.recall, None])
    return out.getvalue()


def parquet() -> tuple[Any, Any]:
    """Return pyarrow and its module for Parquet; to be called before anything that takes long.

    Raises:
        RecBoleVAEError: pyarrow is missing.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise RecBoleVAEError(
            "per_user.parquet is written by pyarrow, which is not installed; pip install 'recbole_vae[compare]'."
        ) from None
    return pyarrow, pyarrow.parquet


def per_user_parquet(runs: Sequence[Run]) -> bytes:
    """Return one line for each run and user, with all metrics; null where a run did not measure one, or the user does not count.

    Raises:
        RecBoleVAEError: pyarrow is missing.
    """
    done = [run for run in runs if run.users is not None]
    names = list(dict.fromkeys(name for run in done for name in run.users.metrics))  # type: ignore[union-attr]
    keys = ("dataset", "protocol", "label", "seed")
    named = [({key: getattr(run, key) for key in keys}, run.users) for run in done if run.users is not None]
    return users_parquet(named, dict(zip(keys, (str, str, str, int), strict=True)), names)


def users_parquet(
    runs: Sequence[tuple[Mapping[str, Any], Users]], keys: Mapping[str, type], names: Sequence[str]
) -> bytes:
    """Return one line for each run and user.

    Args:
        runs: the values of the first columns, which are the same for all users of a run, and its users.
        keys: names and types of the first columns, ``str`` or ``int``.
        names: of the metrics, float64; null where a run did not measure one, or the user does not count.

    Raises:
        RecBoleVAEError: pyarrow is missing.
    """
    pa, writer = parquet()
    words = pa.dictionary(pa.int32(), pa.string())
    schema = pa.schema(
        [(name, words if kind is str else pa.int64()) for name, kind in keys.items()]
        + [("user_id", words), ("history_length", pa.int64())]
        + [(name, pa.float64()) for name in names]
    )
    pieces = []
    for values, users in runs:
        size = len(users.ids)
        columns = [
            pa.DictionaryArray.from_arrays(pa.array(np.zeros(size, np.int32)), pa.array([values[name]], pa.string()))
            if kind is str
            else pa.array(np.full(size, values[name], np.int64))
            for name, kind in keys.items()
        ]
        columns.append(pa.array(users.ids.tolist(), pa.string()).dictionary_encode())
        columns.append(pa.array(users.history_length, pa.int64()))
        for name in names:
            metric = users.metrics.get(name)
            columns.append(
                pa.nulls(size, pa.float64()) if metric is None else pa.array(metric, pa.float64(), from_pandas=True)
            )
        pieces.append(pa.table(columns, schema=schema))
    table = pa.concat_tables(pieces).unify_dictionaries() if pieces else schema.empty_table()
    buffer = io.BytesIO()
    writer.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()
