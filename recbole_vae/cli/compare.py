"""``recbole-vae compare``: run models on the same splits, and make the tables."""

from __future__ import annotations

import sys
from pathlib import Path

from recbole_vae.cli.options import NotAllowedError, Options, Parser, many, names, number_between, whole
from recbole_vae.options.shell import joined

SUMMARY = "Run models on the same splits, and make tables with statistical tests."


def seeds(words: list[str]) -> str:
    """Read a number of seeds, or a list of seeds."""
    one = words[0] if len(words) == 1 else ""
    try:
        if one.isdecimal():
            return str(whole()(words))
        found = many(whole(0))(words)
        if len(set(found)) == len(found):
            return str(found)
    except NotAllowedError:
        pass
    allowed = "a number of seeds >= 1, or a list of different integers >= 0, such as [1, 2, 3]"
    raise NotAllowedError(" ".join(words), allowed)


def parser() -> Parser:
    """Declare the options; a plan's file may have all of them, and checks them again."""
    parser = Parser(
        "compare", SUMMARY, "--out=DIR [--models=A,B] [--config=PLAN.yaml] [--OPTION=VALUE ...]",
        free=True,
        epilog="Needs pip install 'recbole_vae[compare]'. "
        "Each run has a process of its own. An interrupted comparison continues with the same command; rows, seeds and "
        "data sets may be added. Any other --OPTION=VALUE is an option of RecBole for all rows (defaults: --epochs=300 "
        "--stopping_step=50).",
    )  # fmt: skip
    parser.option("--out", metavar="DIR", missing="the folder for the results", help="folder for the results")
    parser.option(
        "--config", metavar="PLAN.yaml",
        help="a plan: rows with labels and settings, data sets, protocols, search spaces, and any option below",
    )  # fmt: skip
    parser.option(
        "--models",
        kind=names,
        several=True,
        metavar="NAME",
        help="models to compare, including RecBole's own (default: MultVAE,MultDAE)",
    )
    parser.option("--dataset", kind=names, several=True, metavar="NAME", help="data sets (default: ml-100k)")
    parser.option(
        "--seeds", kind=seeds, several=True, metavar="N",
        help="number of seeds, counted from 2020, or a list [1,2,3]; each seeds the model and the split (default: 1)",
    )  # fmt: skip
    parser.option(
        "--split_seed",
        kind=whole(0),
        metavar="N",
        help="use this seed for every split (default: the split is seeded like the model)",
    )
    parser.option(
        "--metrics", kind=names, several=True, metavar="NAME", help="metrics in the table (default: Recall,NDCG)"
    )
    parser.option(
        "--topk", kind=many(whole()), several=True, metavar="N", help="cutoffs k of the metrics (default: 10)"
    )
    parser.option(
        "--primary",
        metavar="NDCG@10",
        help="metric that chooses the best epoch and ranks the rows (default: NDCG at the first --topk)",
    )
    parser.option("--max_k", kind=whole(), metavar="N", help="largest k of the curves over k (default: 50)")
    parser.option("--reference", metavar="LABEL", help="label of the row that all others are tested against")
    parser.option(
        "--alpha", kind=number_between(0, 1), metavar="X", help="significance level of the tests (default: 0.05)"
    )
    parser.option(
        "--tune", kind=whole(0), metavar="N", help="tune each row with N trials, judged on the validation part"
    )
    parser.option("--jobs", kind=whole(), metavar="N", help="number of runs at a time (default: 1)")
    parser.option(
        "--scheduler", metavar="ADDRESS", help="do the runs on the workers of the Dask scheduler at this address"
    )
    parser.option(
        "--time_limit",
        kind=number_between(0),
        metavar="SECONDS",
        help="time limit of each run; a run that exceeds it fails",
    )
    parser.option(
        "--memory_limit",
        kind=number_between(0),
        metavar="GB",
        help="memory limit of each run; a run that exceeds it fails",
    )
    parser.shared("imports")
    return parser


def command(options: Options) -> int:
    """Do what is left of the comparison, write its files and print its tables."""
    words = (
        [f"--{name}={given[0]}"] if len(given) == 1 else [f"--{name}", *given] for name, given in options.given.items()
    )
    called = joined(["recbole-vae", "compare", *(word for group in words for word in group)])
    own = {
        name: _text(getattr(options, name), words) for name, words in options.given.items() if name not in options.free
    }
    out, file = Path(own.pop("out")), own.pop("config", None)
    if "tune" in own:
        own["trials"] = own.pop("tune")
    from recbole_vae.compare import outputs, plan, results, runner, tables

    planned = plan.read(file, {**own, **options.free})
    tables.parquet()  # what would fail at the end fails here
    try:
        comparison = runner.compare(planned, out, called)
    except runner.Interrupted as interrupted:
        print(f"{out}: what is done is kept; the same command goes on", file=sys.stderr)
        if any(run.status == results.DONE for run in interrupted.comparison.runs):
            outputs.write(interrupted.comparison, out)
        raise
    print(outputs.write(comparison, out))
    print(f"{out / 'report.html'}: the report, to open in a browser", file=sys.stderr)
    return int(any(run.status not in (results.DONE, results.REFUSED) for run in comparison.runs))


def _text(value: object, words: list[str]) -> str:
    """Return the text from which a plan reads a value; a name may have a comma."""
    return str(value) if isinstance(value, list | str) else words[0]
