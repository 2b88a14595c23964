"""``recbole-vae latent``: say what a model's latent variables stand for."""

from __future__ import annotations

import dataclasses
import json

from recbole_vae.cli.options import Options, Parser, one_of, whole
from recbole_vae.cli.outputs import check_outputs, put

SUMMARY = "Say which items and genres each latent variable raises and lowers."


def parser() -> Parser:
    """Declare the options."""
    parser = Parser("latent", SUMMARY, "--checkpoint=FILE [--user=ID] [--OPTION=VALUE ...]")
    parser.shared("checkpoint")
    parser.option(
        "--axes", kind=one_of("principal", "latents"), default="principal", metavar="NAME",
        help="principal: the directions with the largest effects; latents: each latent variable by itself",
    )  # fmt: skip
    parser.option(
        "--latents",
        kind=whole(),
        default=10,
        metavar="N",
        help="number of latent variables to describe, strongest first (default: 10; the text shows 5)",
    )
    parser.shared("k", help="items to list for each latent variable (default: 10; the text shows 5)")
    parser.option(
        "--user", metavar="ID",
        help="a user of the training data: also say how the recommendations change when a latent variable is moved",
    )  # fmt: skip
    parser.shared(
        "items", help="names and genres of the items: a RecBole .item file (default: the one beside the data)"
    )
    parser.shared("json")
    parser.shared("html", help="write a web page with a map of items and users")
    parser.shared("imports")
    return parser


def command(options: Options) -> None:
    """Describe the latent variables, and write what was found."""
    files = check_outputs(options, "json", "html")
    from recbole_vae.analysis import latent, latent_report
    from recbole_vae.analysis.explain_report import item_texts
    from recbole_vae.serving.recommender import Recommender

    loaded = Recommender.load(options.checkpoint)
    found = latent.describe(
        loaded, item_texts(loaded, options.items), axes=options.axes, latents=options.latents, k=options.k, user=options.user,
        show_progress=True,
    )  # fmt: skip
    shown = {name: getattr(options, name) for name in ("latents", "k") if name in options.given}
    put(
        files,
        "\n".join(latent.lines(found, **shown)),
        json=lambda: json.dumps(dataclasses.asdict(found), ensure_ascii=False, indent=1),
        html=lambda: latent_report.html(found),
    )
