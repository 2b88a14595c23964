"""The tables of a comparison: for the terminal, as Markdown, LaTeX, CSV and Parquet; and the settings as YAML."""

from __future__ import annotations

import csv
import io
import shlex
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml

from recbole_vae.compare.analysis import Row, Table, Test, higher_is_better
from recbole_vae.compare.results import DONE, Comparison, Run
from recbole_vae.errors import RecBoleVAEError

_TITLES = {
    "truncatedrecall": "TruncatedRecall",
    "ndcg": "NDCG",
    "mrr": "MRR",
    "map": "MAP",
    "itemcoverage": "Coverage",
    "giniindex": "Gini index",
    "averagepopularity": "Popularity",
    "tailpercentage": "Tail share",
    "tailrecall": "Tail recall",
    "shannonentropy": "Entropy",
}
_COSTS = {"training_seconds": "Training", "peak_memory": "Peak memory", "parameters": "Parameters", "epochs": "Epochs"}
_NOTHING = "–"


@dataclass
class Cell:
    """One cell of a table.

    Attributes:
        text: mean, or what is in its place; ``deviation``: over seeds, or nothing.
        value: what to sort by; None for nothing.
        rank: 1 for the best of the column, 2 for the second, else 0.
        ties: does not differ significantly from the best; ``differs``: differs significantly from the reference row.
    """

    text: str
    deviation: str = ""
    value: float | None = None
    rank: int = 0
    ties: bool = False
    differs: bool = False

    @property
    def marks(self) -> str:
        """The marks of the tests."""
        return "=" * self.ties + "*" * self.differs


@dataclass
class Part:
    """A grid of cells that fits the width of a page: accuracy, what lies beyond it, or costs."""

    title: str
    headers: list[str]
    rows: list[tuple[str, list[Cell]]]


def title(metric: str) -> str:
    """Return the name of a metric as tables print it."""
    name, at, k = metric.partition("@")
    return _TITLES.get(name, name.capitalize()) + at + k


def number(value: float, like: float | None = None) -> str:
    """Format a metric: four decimals for shares, fewer for what is large; with the decimals of another number, if given."""
    size = abs(value if like is None else like)
    return f"{value:.4f}" if size < 10 else f"{value:.1f}" if size < 1000 else f"{value:,.0f}"


def duration(seconds: float) -> str:
    """Format seconds."""
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def count(value: float, unit: str = "") -> str:
    """Format a large number (of parameters, of bytes) with a decimal prefix."""
    for prefix, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return (
                f"{value / size:.3g} {prefix}{unit}" if value / size < 1000 else f"{value / size:,.0f} {prefix}{unit}"
            )
    return f"{value:,.0f} {unit}".strip()


def parts(table: Table) -> list[Part]:
    """Lay a table out; parts of which nothing was measured are left out."""
    result = [Part("Accuracy", [title(m) for m in table.metrics], _cells(table, table.metrics, everyone=True))]
    if table.beyond:
        ks = {metric.partition("@")[2] for metric in table.beyond}
        # One k for all is said once: these names are long.
        heading, headers = "Beyond accuracy", [title(metric) for metric in table.beyond]
        if len(ks) == 1 and "" not in ks:
            heading, headers = f"Beyond accuracy, k = {ks.pop()}", [each.partition("@")[0] for each in headers]
        result.append(Part(heading, headers, _cells(table, table.beyond)))
    result.append(Part("Costs", list(_COSTS.values()), [(row.label, _costs(row)) for row in table.rows if row.done]))
    return [part for part in result if part.rows]


def _cells(table: Table, metrics: Sequence[str], everyone: bool = False) -> list[tuple[str, list[Cell]]]:
    means: dict[str, dict[str, tuple[float, float | None]]] = {metric: {} for metric in metrics}
    for row in table.rows:
        for metric in metrics:
            over_seeds = row.over_seeds(metric)
            if over_seeds is not None:
                means[metric][row.label] = over_seeds
    # Equal means share their rank; what nobody calls better has none.
    ranks = {m: sorted({mean for mean, _ in means[m].values()}, reverse=higher_is_better(m) is True) for m in metrics}
    rows = []
    for row in table.rows:
        cells: list[Cell] = []
        for metric in metrics:
            if row.label not in means[metric]:
                cells.append(Cell(row.runs[-1].status if not row.done and not cells else _NOTHING))
                continue
            mean, deviation = means[metric][row.label]
            ranked = higher_is_better(metric) is not None and len(ranks[metric]) > 1
            place = ranks[metric].index(mean) + 1 if ranked else 0
            cells.append(
                Cell(
                    number(mean),
                    "" if deviation is None else number(deviation, mean),
                    mean,
                    place if place <= 2 else 0,
                    table.ties_with_best(row.label, metric),
                    table.differs_from_reference(row.label, metric),
                )
            )
        if row.done or everyone:
            rows.append((row.label, cells))
    return rows


def _costs(row: Row) -> list[Cell]:
    formats: dict[str, Callable[[float], str]] = {
        "training_seconds": duration,
        "peak_memory": lambda value: count(value, "B"),
        "parameters": count,
        "epochs": lambda value: f"{value:.4g}",
    }
    values = {name: row.mean(name) for name in formats}
    return [Cell(_NOTHING if value is None else formats[name](value), value=value) for name, value in values.items()]


def _plural(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def caption(table: Table, comparison: Comparison) -> list[str]:
    """Return in sentences what a table shows and how it was tested."""
    low, high = table.users
    users = _plural(high, "test user") if low == high else f"{low:,} to {_plural(high, 'test user')}"
    sentences = [f"{table.name}, {users}."]
    if len(table.seeds) > 1:
        differ = any(test.users > high for test in table.against_best.values())
        words = (
            f", which have different test users (those of both rows of a test: up to {_most(table):,})"
            if differ
            else ""
        )
        sentences.append(f"Mean and standard deviation over {len(table.seeds)} seeds{words}.")
    else:
        sentences.append("One seed, so there is no deviation over seeds.")
    budget = _plural(comparison.trials, "tuning trial")
    tuned = f"{budget[0].upper()}{budget[1:]} for each row that has something to tune."
    sentences.append(tuned if comparison.trials else "Nothing was tuned: defaults, and what the plan sets.")
    if sum(bool(row.done) for row in table.rows) > 1:
        sentences.append("The best of each column is bold, the second underlined.")
    if table.against_best:
        family = f"all pairs of rows in all metrics of this table ({_plural(table.compared, 'test')})"
        marks = "= marks what does not differ significantly from the best of its column"
        if table.against_reference:
            marks += f", * what differs significantly from {table.reference}"
            family += f"; that for * over all rows and metrics ({_plural(len(table.against_reference), 'test')})"
        sentences.append(
            f"{marks}: two-sided paired randomisation test over users, whose values are averaged over seeds "
            f"({table.samples:,} sign flips, or all where few users differ), "
            f"alpha = {table.alpha:g}, Holm's correction over {family}."
        )
        untested = [title(metric) for metric in table.metrics if metric not in table.tested]
        if untested:
            sentences.append(f"Not tested, as not known for each user: {', '.join(untested)}.")
    return sentences


def _most(table: Table) -> int:
    return max(test.users for test in table.against_best.values())


def remarks(table: Table, comparison: Comparison) -> list[str]:
    """Return what went wrong or was mended: other splits, runs that are not done, and the notes of runs, once each."""
    found: list[str] = []
    if comparison.reference is not None and table.reference is None:
        found.append(
            f"{comparison.reference}, the row to compare with, is not done here, so nothing is compared with it."
        )
    splits: dict[int, str] = {}
    for row in table.rows:
        for run in row.done:
            if run.split_hash and splits.setdefault(run.seed, run.split_hash) != run.split_hash:
                found.append(
                    f"{row.label} (seed {run.seed}) ran on another split than the rows above, so it is not comparable."
                )
    for row in table.rows:
        reasons: dict[tuple[str, str], list[int]] = {}
        for run in row.runs:
            if run.status != DONE:
                reasons.setdefault((run.status, run.reason), []).append(run.seed)
        for (status, reason), seeds in reasons.items():
            which = "" if len(seeds) == len(table.seeds) else f" ({_seeds(seeds)})"
            found.append(f"{row.label}: {status}{which}{reason and ': '}{reason.rstrip('.')}.")
        if row.done and len(row.done) < len(table.seeds):
            found.append(f"{row.label}: its means are of {len(row.done)} of {len(table.seeds)} seeds.")
    at_once = [row.label for row in table.rows if row.done and all(run.epochs is None for run in row.done)]
    if at_once:
        found.append(
            f"Not trained by epochs, so that the training time is that of the construction: {', '.join(at_once)}."
        )
    return [*found, *dict.fromkeys(note for row in table.rows for run in row.runs for note in run.notes)]


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


def text(tables: Sequence[Table], comparison: Comparison) -> str:
    """Return the tables for a terminal; what is bold and underlined elsewhere has (1) and (2)."""
    lines: list[str] = []
    for table in tables:
        for part in parts(table):
            rows = [["", *part.headers]]
            for label, cells in part.rows:
                rows.append([label, *(_plain(cell) for cell in cells)])
            widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
            lines += [f"{part.title}: {table.name}"]
            for row in rows:
                lines.append("  ".join(each.ljust(width) for each, width in zip(row, widths, strict=True)).rstrip())
            lines.append("")
        words = " ".join(caption(table, comparison)).replace(
            "is bold, the second underlined", "has (1), the second (2)"
        )
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
            lines += ["| | " + " | ".join(part.headers) + " |", "|:--" + "|--:" * len(part.headers) + "|"]
            for label, cells in part.rows:
                lines.append(f"| {label.translate(_MARKDOWN)} | " + " | ".join(map(_markdown, cells)) + " |")
            lines.append("")
        lines += [" ".join(caption(table, comparison)).translate(_MARKDOWN), ""]
        lines += [*(f"- {each.translate(_MARKDOWN)}" for each in remarks(table, comparison)), ""]
    return "\n".join(lines)


def _markdown(cell: Cell) -> str:
    before, after = {1: ("**", "**"), 2: ("<u>", "</u>")}.get(cell.rank, ("", ""))
    deviation = cell.deviation and f" ± {cell.deviation}"
    return f"{before}{cell.text}{after}{deviation}{cell.marks.translate(_MARKDOWN)}"


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
            first = part.title == "Accuracy"
            words = (
                " ".join([*caption(table, comparison), *remarks(table, comparison)])
                if first
                else f"{part.title}: {table.name}. Means over the seeds ± their standard deviation."
            )
            lines += [
                r"\begin{table}",
                r"\centering\footnotesize\setlength{\tabcolsep}{3pt}",
                rf"\caption{{{words.translate(_LATEX)}}}\vspace{{4pt}}",
                rf"\label{{tab:comparison-{number}-{part.title.split()[0].lower()}}}",
                rf"\begin{{tabular}}{{@{{}}l{'r' * len(part.headers)}@{{}}}}",
                r"\toprule",
                "".join(f" & {header.translate(_LATEX)}" for header in part.headers) + r" \\",
                r"\midrule",
                *(
                    f"{label.translate(_LATEX)} & " + " & ".join(_latex(cell, first) for cell in cells) + r" \\"
                    for label, cells in part.rows
                ),
                r"\bottomrule",
                r"\end{tabular}",
                r"\end{table}",
                "",
            ]
    return "\n".join(lines)


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
    """Return one line for each row and metric (costs too): mean, deviation, and the number of seeds they are of."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["dataset", "protocol", "label", "model", "metric", "mean", "deviation", "seeds", "of_seeds", "status"]
    )
    for table in tables:
        for row in table.rows:
            status = " / ".join(dict.fromkeys(run.status for run in row.runs))
            start = [table.dataset, table.protocol, row.label, row.runs[0].model]
            end = [len(row.done), len(table.seeds), status]
            names = dict.fromkeys([*table.metrics, *(name for run in row.done for name in run.test)])
            for name in names:
                mean, deviation = row.over_seeds(name) or (None, None)
                writer.writerow([*start, name, mean, deviation, *end])
            for name in ("seconds", *_COSTS, "best_epoch"):
                writer.writerow([*start, name, row.mean(name), None, *end])
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
    """Return one line for each run and user, with all metrics; null where a run did not measure one.

    Raises:
        RecBoleVAEError: pyarrow is missing.
    """
    pa, writer = parquet()
    done = [run for run in runs if run.users is not None]
    names = dict.fromkeys(name for run in done for name in run.users.metrics)  # type: ignore[union-attr]
    words = pa.dictionary(pa.int32(), pa.string())
    schema = pa.schema(
        [(name, words) for name in ("dataset", "protocol", "label")]
        + [("seed", pa.int64()), ("user_id", words), ("history_length", pa.int64())]
        + [(name, pa.float64()) for name in names]
    )
    pieces = []
    for run in done:
        users = run.users
        assert users is not None
        size = len(users.ids)
        columns = [
            pa.DictionaryArray.from_arrays(pa.array(np.zeros(size, np.int32)), pa.array([value], pa.string()))
            for value in (run.dataset, run.protocol, run.label)
        ]
        columns.append(pa.array(np.full(size, run.seed, np.int64)))
        columns.append(pa.array(users.ids.tolist(), pa.string()).dictionary_encode())
        columns.append(pa.array(users.history_length, pa.int64()))
        for name in names:
            values = users.metrics.get(name)
            columns.append(pa.nulls(size, pa.float64()) if values is None else pa.array(values, pa.float64()))
        pieces.append(pa.table(columns, schema=schema))
    table = pa.concat_tables(pieces).unify_dictionaries() if pieces else schema.empty_table()
    buffer = io.BytesIO()
    writer.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def settings_yaml(comparison: Comparison) -> str:
    """Return what was compared, and for each run its settings, split, device and versions."""
    runs = [
        {
            "dataset": run.dataset,
            "protocol": run.protocol,
            "label": run.label,
            "seed": run.seed,
            "status": run.status,
            "split_hash": run.split_hash,
            "device": run.device,
            "settings": run.settings,
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
        "plan": comparison.settings,
        "versions": versions(comparison.runs),
        "runs": runs,
    }
    dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    return str(yaml.dump(content, Dumper=dumper, sort_keys=False, allow_unicode=True, width=120))


def versions(runs: Iterable[Run]) -> dict[str, str]:
    """Return the versions of the packages; several where the runs differ."""
    found: dict[str, dict[str, None]] = {}
    for run in runs:
        for package, version in run.versions.items():
            found.setdefault(package, {})[version] = None
    return {package: ", ".join(each) for package, each in found.items()}


def command(run: Run, comparison: Comparison) -> str:
    """Return the command that makes a run by itself, or that of the comparison where only ``compare`` does what it needs."""
    plan = comparison.settings
    if plan.get("split_seed") is not None or plan.get("imports") or run.model == "Pop":
        return comparison.command
    measured = {
        "metrics": list(dict.fromkeys(metric.partition("@")[0] for metric in comparison.metrics)),
        "topk": sorted({int(k) for metric in comparison.metrics if (k := metric.partition("@")[2])}),
        "valid_metric": comparison.primary,
    }
    options = {"model": run.model, "dataset": run.dataset, **run.settings, "seed": run.seed, **measured}
    words = [f"--{name}={value}" for name, value in options.items()]
    return shlex.join(["recbole-vae", "run", *words])
