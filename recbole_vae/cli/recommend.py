"""``recbole-vae recommend``: rank items for users, by a checkpoint."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from recbole_vae.cli.histories import histories, reading, report_unknown
from recbole_vae.cli.options import Options, Parser, number, true_or_false, whole
from recbole_vae.cli.outputs import check_outputs
from recbole_vae.errors import ConfigError
from recbole_vae.storage.files import opened

SUMMARY = "Rank items for known or new users, as CSV: user_id,rank,item_id,score."


def parser() -> Parser:
    """Declare the options."""
    parser = Parser("recommend", SUMMARY, "--checkpoint=FILE [--users=A,B | --histories=FILE] [-k=10] [--out=FILE]")
    parser.shared("checkpoint", "users", "histories", "k")
    parser.option("--candidates", metavar="FILE", help="recommend only the items in this file, one id per line")
    parser.option(
        "--keep_seen",
        kind=true_or_false,
        default=False,
        metavar="True",
        help="also recommend items that are in the history",
    )
    parser.shared("popularity_correction")
    parser.option(
        "--samples", kind=whole(0), default=0, metavar="S",
        help="estimate the uncertainty from S posterior samples; adds rank_low,rank_high,stability,expected_ndcg",
    )  # fmt: skip
    parser.option(
        "--diversify", kind=number(0), default=0.0, metavar="X",
        help="above 0: draw each place from its own posterior sample, with the standard deviation times X, for diverse lists",
    )  # fmt: skip
    parser.shared("seed", help="seed of the samples")
    parser.option("--out", metavar="FILE", help="CSV file to write; - is standard output (default: -)")
    parser.shared("imports")
    return parser


def command(options: Options) -> None:
    """Write the rankings, and say what was left out of them."""
    if options.users and options.histories:
        raise ConfigError("--users and --histories (command line) cannot be given together.")
    if options.histories == options.candidates == "-":
        raise ConfigError(
            "--histories and --candidates (command line) cannot both be standard input; name a file for one."
        )
    out = check_outputs(options, "out", stdout="out").get("out")
    from tqdm import tqdm

    from recbole_vae.data import padding
    from recbole_vae.serving.posterior import Sampling
    from recbole_vae.serving.ranking import write_rankings
    from recbole_vae.serving.recommender import Recommender

    sampling = Sampling(options.samples, options.diversify, options.seed)
    model = Recommender.load(options.checkpoint, popularity_correction=options.popularity_correction)
    candidates = None
    if options.candidates:
        with reading(options.candidates) as file:
            try:
                candidates = [line.strip() for line in file if line.strip()]
            except UnicodeDecodeError:
                raise ConfigError(f"--candidates={options.candidates} (command line): not text in UTF-8.") from None
    pairs: Iterable[tuple[str, Iterable[str]]]
    total: int | None = None
    if options.histories:
        pairs = histories(options.histories, model.model)
    elif options.users:  # looked up before anything is written
        pairs, total = [(user, model.history(user)) for user in options.users], len(options.users)
    else:
        known = model.users[padding.REAL]
        pairs, total = ((user, model.history(user)) for user in known), len(known)
    # Standard output is for the result, and a terminal shows one of the two.
    bar = tqdm(pairs, total=total, unit=" users", ncols=100, disable=None if out else True)
    rankings = model.stream(bar, options.k, not options.keep_seen, candidates, sampling)
    with opened(out) as file:
        count = write_rankings(rankings, file, sampled=sampling.samples > 0)
    if out:
        print(f"{out}: {count} users", file=sys.stderr)
    if not (options.histories or model.whole):
        print(
            f"{options.checkpoint}: trained on a part of the interactions, so lists may have items that users own already; "
            f"train on all by: recbole-vae refit --checkpoint={options.checkpoint} --out=FILE",
            file=sys.stderr,
        )
    report_unknown(model.unknown)
    report_unknown(model.unknown_candidates, "the candidates")
    if model.without_known:
        print(
            f"Users with no item in the training data: {model.without_known:,}; they got the most popular items.",
            file=sys.stderr,
        )
    if model.without_rest:
        print(
            f"Users without a recommendation: {model.without_rest:,}; their histories have all items that could be "
            "recommended (--keep_seen=True recommends these, too).",
            file=sys.stderr,
        )
