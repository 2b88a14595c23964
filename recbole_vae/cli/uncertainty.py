"""``recbole-vae uncertainty``: say how well a model knows for which users its recommendations are good."""

from __future__ import annotations

from recbole_vae.cli.options import Options, Parser, many, number, one_of, whole
from recbole_vae.cli.outputs import check_outputs, put

SUMMARY = "Say how well a model knows for which users its recommendations are good."


def parser() -> Parser:
    """Declare the options."""
    parser = Parser("uncertainty", SUMMARY, "--checkpoint=FILE [--samples=100] [--OPTION=VALUE ...]")
    parser.shared("checkpoint", help="a checkpoint that training wrote; its data set must be there, and is split again")
    parser.shared("k", kind=whole(2))
    parser.option(
        "--samples", kind=whole(0), default=100, metavar="S",
        help="posterior samples for the stability of each user's list; 0 for none",
    )  # fmt: skip
    parser.option(
        "--diversify", kind=many(number(0)), several=True, default=[], metavar="X",
        help="also draw lists with the posterior's standard deviation times X, to measure what diversity costs",
    )  # fmt: skip
    parser.shared("seed", help="seed of the samples")
    parser.option(
        "--part",
        kind=one_of("test", "valid"),
        default="test",
        metavar="NAME",
        help="part of the split to evaluate: test or valid",
    )
    parser.option(
        "--data_path", metavar="FOLDER", help="folder that holds the data set's folder (default: as at training)"
    )
    parser.shared("popularity_correction", "json")
    parser.shared("html", help="write a web page with the risk-coverage curves")
    parser.shared("imports")
    return parser


def command(options: Options) -> None:
    """Evaluate, and write what was found."""
    files = check_outputs(options, "json", "html")
    from recbole_vae.analysis import uncertainty, uncertainty_report

    report = uncertainty.evaluate(
        options.checkpoint,
        k=options.k,
        samples=options.samples,
        seed=options.seed,
        part=options.part,
        diversify=options.diversify,
        data_path=options.data_path,
        popularity_correction=options.popularity_correction,
        show_progress=True,
    )
    put(
        files,
        uncertainty_report.as_text(report),
        json=lambda: uncertainty_report.as_json(report),
        html=lambda: uncertainty_report.as_html(report),
    )
