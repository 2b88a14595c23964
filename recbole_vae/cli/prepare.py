"""``recbole-vae prepare``: make a published data set ready for RecBole."""

from __future__ import annotations

import shlex

from recbole_vae.cli.options import Options, Parser
from recbole_vae.cli.summary import called
from recbole_vae.errors import ConfigError
from recbole_vae.options.names import near

SUMMARY = "Make a published data set ready for RecBole, by the protocol of the Mult-VAE paper."


def parser() -> Parser:
    """Declare the options."""
    from recbole_vae.data.prepare import SOURCES

    parser = Parser("prepare", SUMMARY, "NAME SOURCE [--out=FOLDER]")
    parser.add_argument("name", metavar="NAME", help=", ".join(SOURCES))
    parser.add_argument("source", metavar="SOURCE", help="the archive, or the file or folder that was in it")
    parser.option(
        "--out", metavar="FOLDER", default="dataset",
        help="the data set's folder is made in this one, which is RecBole's data_path",
    )  # fmt: skip
    return parser


def command(options: Options) -> None:
    """Make the data set, and say what it holds and what to do next."""
    import yaml

    from recbole_vae.data.prepare import SOURCES, prepare

    if options.name not in SOURCES:
        meant = near(options.name, SOURCES)
        raise ConfigError(
            f"prepare: there is no data set '{options.name}'{f'; did you mean {meant}?' if meant else '.'} There are: "
            f"{', '.join(SOURCES)}."
        )
    result = prepare(options.name, options.source, options.out, show_progress=True)
    print(
        f"{result.folder}: {result.interactions:,} of {result.read:,} interactions, of {result.users:,} users and "
        f"{result.items:,} items"
    )
    for difference in result.differences:
        print(f"NOT as published: {difference}. Is it another version of the data?")
    where = "" if options.out.rstrip("/") == "dataset" else f" --data_path={shlex.quote(options.out)}"
    file = result.folder / f"{result.folder.name}.yaml"
    settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    args, most = settings["eval_args"], max(settings["topk"])
    if result.users <= sum(args["split"]["HU"]) or result.items <= most:
        print(f"Too small for the protocol in {file}: it holds out {args['split']['HU']} users and ranks {most} items.")
        if result.users < 20 or result.items < 20:
            return
        args["split"] = {"HU": [0.1, 0.1]}
        where += f' --eval_args="{args}" --topk=[10] --valid_metric=NDCG@10'
    print(f"Try next:\n  {called()} --model=MultVAE --dataset={result.folder.name}{where}")
