"""``recbole-vae compare``: run models on the same splits, and make the tables."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from recbole_vae.cli.options import NotAllowedError, Options, Parser, many, names, number_between, true_or_false, whole
from recbole_vae.errors import ConfigError
from recbole_vae.options.shell import joined

if TYPE_CHECKING:
    from recbole_vae.compare.plan import Plan

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


def labelled_files(words: list[str]) -> str:
    """Read ``LABEL=FILE``, once or several times."""
    found: dict[str, str] = {}
    for word in words:
        label, equals, file = word.partition("=")
        if not (label and equals and file) or label in found:
            raise NotAllowedError(word, "LABEL=FILE, with another label for each")
        found[label] = file
    return str(found)


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
    parser.option("--out", metavar="DIR", help="folder for the results")
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
    parser.option(
        "--lists", kind=labelled_files, several=True, metavar="LABEL=FILE",
        help="ranked lists of other tools, made from --export-split: CSV (also .gz) or Parquet with user_id,item_id and perhaps "
        "rank or score; {dataset}, {protocol} and {seed} in the name stand for those of the plan",
    )  # fmt: skip
    parser.option(
        "--export-split", "--export_split", metavar="DIR",
        help="write the parts of each split for other tools instead of running anything; without --out",
    )  # fmt: skip
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
    parser.option(
        "--tuning_time", kind=number_between(0), metavar="SECONDS",
        help="tune each row for this time on each data set in each protocol, instead of --tune; the default settings come first",
    )  # fmt: skip
    how_to_run(parser)
    parser.shared("imports")
    return parser


def how_to_run(parser: Parser) -> None:
    """Declare the options that change how runs are done, and not what comes of them."""
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
    parser.option(
        "--energy", kind=true_or_false, metavar="True",
        help="measure the energy of each run by codecarbon, without network; needs pip install 'recbole_vae[energy]'",
    )  # fmt: skip


def command(options: Options) -> int:
    """Do what is left of the comparison, write its files and print its tables."""
    words = (
        [f"--{name}={given[0]}"] if len(given) == 1 else [f"--{name}", *given] for name, given in options.given.items()
    )
    called = joined(["recbole-vae", "compare", *(word for group in words for word in group)])
    own = {
        name: _text(getattr(options, name), words) for name, words in options.given.items() if name not in options.free
    }
    out, splits, file = own.pop("out", None), own.pop("export_split", None), own.pop("config", None)
    if (out is None) == (splits is None):
        raise ConfigError(
            "--out (command line) is missing: the folder for the results."
            if out is None
            else "--out and --export-split (command line) cannot be given together; export first, then compare."
        )
    if "tune" in own:
        own["trials"] = own.pop("tune")
    from recbole_vae.compare import plan, runner, tables

    if splits is not None:
        own |= {"lists": "{}", "reference": "None"}  # the lists of the plan are to be made from the splits
    planned = plan.read(file, {**own, **options.free})
    if splits is not None:
        for folder in runner.export(planned, Path(splits)):
            print(f"{folder}: a split; split.json describes it")
        return 0
    tables.parquet()  # what would fail at the end fails here
    return _compare(planned, Path(str(out)), called)


def _compare(planned: Plan, out: Path, called: str) -> int:
    from recbole_vae.compare import outputs, results, runner

    try:
        comparison = runner.compare(planned, out, called)
    except runner.Interrupted as interrupted:
        print(f"{out}: what is done is kept; the same command goes on", file=sys.stderr)
        if any(run.status == results.DONE for run in interrupted.comparison.runs):
            outputs.write(interrupted.comparison, out)
        raise
    print(outputs.write(comparison, out))
    print(f"{out / 'report.html'}: the report, to open in a browser", file=sys.stderr)
    return int(any(run.status not in results.SETTLED for run in comparison.runs))


def _text(value: object, words: list[str]) -> str:
    """Return the text from which a plan reads a value; a name may have a comma."""
    return str(value) if isinstance(value, list | str) else words[0]
