"""``recbole-vae prepare``: make a published data set, or your own table, ready for RecBole."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from recbole_vae.cli.options import Options, Parser, number, one_of, whole
from recbole_vae.cli.summary import called
from recbole_vae.errors import ConfigError
from recbole_vae.options.names import near
from recbole_vae.options.shell import quoted

if TYPE_CHECKING:
    from recbole_vae.data.prepare import Prepared

SUMMARY = "Make a data set for RecBole from CSV, TSV or Parquet, or a published archive."

_COLUMNS = ("user", "item", "time", "rating", "title")
_FILTERS = ("min_rating", "min_user", "min_item", "keep")


def parser() -> Parser:
    """Declare the options."""
    from recbole_vae.data.prepare import SOURCES
    from recbole_vae.data.published_split import SPLITS

    parser = Parser(
        "prepare", SUMMARY, "NAME [FILE] [--user=COLUMN --item=COLUMN] [--OPTION=VALUE ...]",
        epilog=f"Published data sets need no columns. With the protocol of the Mult-VAE paper: {', '.join(SOURCES)}. With the "
        f"split of LightGCN's authors: {', '.join(SPLITS)}. Fetched if there is no FILE: {', '.join(_fetchable())}.",
    )  # fmt: skip
    parser.add_argument("name", metavar="NAME", help="the data set's name in RecBole")
    parser.add_argument(
        "source", metavar="FILE", nargs="?",
        help="a CSV, TSV or Parquet file, or a gzip of one; or a published archive, or the file or folder in it. Without it, "
        "MovieLens is fetched from its owner; the archive is kept in the folder of --out",
    )  # fmt: skip
    parser.option("--user", metavar="COLUMN", help="the column with the users' ids")
    parser.option("--item", metavar="COLUMN", help="the column with the items' ids")
    parser.option(
        "--time", metavar="COLUMN", help="the column with the times: numbers, or dates such as 2024-01-31T12:00:00Z"
    )
    parser.option("--rating", metavar="COLUMN", help="the column with the ratings")
    parser.option("--title", metavar="COLUMN", help="the column with the items' names, which go into an .item file")
    parser.option("--min_rating", kind=number(), metavar="X", help="leave out ratings below X (default: none)")
    parser.option("--min_user", kind=whole(), default=1, metavar="N", help="leave out users with fewer than N items")
    parser.option("--min_item", kind=whole(), default=1, metavar="N", help="leave out items with fewer than N users")
    parser.option(
        "--keep", kind=one_of("first", "last", "count"), default="first", metavar="WHICH",
        help="which line of a repeated user-item pair to keep, in order of time if there is one; count keeps the first and "
        "adds a column 'count'",
    )  # fmt: skip
    parser.option("--encoding", metavar="NAME", help="encoding of a CSV or TSV file, such as cp1252 (default: utf-8)")
    parser.option(
        "--out", metavar="FOLDER", default="dataset",
        help="create the data set's folder in this one (RecBole's data_path)",
    )  # fmt: skip
    return parser


def command(options: Options) -> None:
    """Make the data set, and say what it holds and what to do next."""
    if options.given.keys() - {"out"}:
        _from_table(options)
    else:
        _published(options)


def _fetchable() -> list[str]:
    from recbole_vae.data.prepare import SOURCES

    return [name for name, what in SOURCES.items() if what.archive is not None]


def _from_table(options: Options) -> None:
    from recbole_vae.data.from_table import Columns, Filters, prepare_table

    if options.source is None:
        raise ConfigError(
            f"FILE (command line) is missing: the table to read, as in recbole-vae prepare {quoted(options.name)} orders.csv "
            "--user=customer --item=sku."
        )
    for name in ("user", "item"):
        if getattr(options, name) is None:
            raise ConfigError(f"--{name} (command line) is missing: the column with the {name}s' ids.")
    columns = Columns(**{name: getattr(options, name) for name in _COLUMNS})
    filters = Filters(**{name: getattr(options, name) for name in _FILTERS})
    result = prepare_table(
        options.name, options.source, options.out, columns, filters, options.encoding, show_progress=True
    )
    _say(result)
    for line in result.dropped:
        print(f"  {line}")
    _keep(result)
    if min(result.users, result.items) < 2:
        print("Too small to train on: RecBole needs 2 users and 2 items.")
        return
    few = f" --topk=[{result.items}] --valid_metric=MRR@{result.items}" if result.items < 10 else ""
    weights = " --value_field=count" if options.keep == "count" else ""
    _suggest(result, f"{_where(options)}{weights}{few}")


def _published(options: Options) -> None:
    import yaml

    from recbole_vae.data.prepare import SOURCES, prepare
    from recbole_vae.data.published_split import SPLITS, prepare_split

    if options.name not in (*SOURCES, *SPLITS):
        meant = near(options.name, (*SOURCES, *SPLITS))
        raise ConfigError(
            f"prepare: there is no published data set '{options.name}'{f'; did you mean {meant}?' if meant else '.'} There "
            f"are: {', '.join((*SOURCES, *SPLITS))}. For a table of your own, name its columns by --user and --item."
        )
    source = _fetched(options.name, options.out) if options.source is None else options.source
    if options.name in SPLITS:
        split = prepare_split(options.name, source, options.out, show_progress=True)
        _say(split)
        print(f"  {', '.join(f'{part} {number:,}' for part, number in split.parts.items())}")
        for line in split.repeats:
            print(f"  {line}.")
        _say_differences(split)
        _suggest(split, _where(options))
        return
    result = prepare(options.name, source, options.out, show_progress=True)
    _say(result)
    _keep(result)
    _say_differences(result)
    where = _where(options)
    file = result.folder / f"{result.folder.name}.yaml"
    settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    args, most = settings["eval_args"], max(settings["topk"])
    if result.users <= sum(args["split"]["HU"]) or result.items <= most:
        print(f"Too small for the protocol in {file}: it holds out {args['split']['HU']} users and ranks {most} items.")
        if result.users < 20 or result.items < 20:
            return
        args["split"] = {"HU": [0.1, 0.1]}
        where += f' --eval_args="{args}" --topk=[10] --valid_metric=NDCG@10'
    _suggest(result, where)


def _fetched(name: str, out: str) -> Path:
    """Fetch the archive of a data set, or say where to get what cannot be fetched."""
    from recbole_vae.data.prepare import SOURCES, fetched
    from recbole_vae.data.published_split import SPLITS

    archive = SOURCES[name].archive if name in SOURCES else None
    if archive is None:
        what = SPLITS[name].where if name in SPLITS else SOURCES[name].where
        raise ConfigError(
            f"FILE (command line) is missing: prepare fetches {', '.join(_fetchable())} alone. Get {what}, and name the file, or "
            f"the folder with the files: recbole-vae prepare {name} FILE."
        )
    print(archive.terms, flush=True)
    return fetched(name, archive, out, show_progress=True)


def _say(result: Prepared) -> None:
    print(
        f"{result.folder}: {result.interactions:,} of {result.read:,} interactions, of {result.users:,} users and "
        f"{result.items:,} items"
    )


def _say_differences(result: Prepared) -> None:
    for difference in result.differences:
        print(f"NOT as published: {difference}. Is it another version of the data?")


def _keep(result: Prepared) -> None:
    """Write the cache of a large file, so that even the first run reads it in seconds."""
    from recbole_vae.options import data as limits

    file = result.folder / f"{result.folder.name}.inter"
    if file.stat().st_size < limits.SMALLEST_CACHED:
        return  # without RecBole, whose import takes seconds
    from recbole_vae.data.table import cache_of, keep

    keep(file)
    if cache_of(file).is_file():
        print(f"{cache_of(file)}: runs read the data from it in seconds")


def _where(options: Options) -> str:
    return "" if Path(options.out) == Path("dataset") else f" --data_path={quoted(options.out)}"


def _suggest(result: Prepared, rest: str) -> None:
    print(f"Try next:\n  {called()} --model=MultVAE --dataset={result.folder.name}{rest}")
