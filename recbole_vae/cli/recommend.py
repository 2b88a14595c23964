"""``recbole-vae recommend``: rank items for users, by a checkpoint."""

from __future__ import annotations

import contextlib
import sys

from recbole_vae.cli.histories import (
    add_new_items,
    check_standard_input,
    histories,
    item_ids,
    profiles_of,
    report_unknown,
    report_unknown_excluded,
    report_unknown_values,
)
from recbole_vae.cli.options import Options, Parser, number, true_or_false, whole
from recbole_vae.cli.outputs import check_outputs
from recbole_vae.errors import ConfigError
from recbole_vae.storage.files import opened, written_whole

SUMMARY = "Rank items for known or new users, as CSV or Parquet: user_id,rank,item_id,score."


def parser() -> Parser:
    """Declare the options."""
    parser = Parser("recommend", SUMMARY, "--checkpoint=FILE [--users=A,B | --histories=FILE] [-k=10] [--out=FILE]")
    parser.shared("checkpoint", "users", "histories", "profiles", "k")
    parser.shared("candidates", "exclude", "new_items", "new_items_bonus")
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
    parser.option(
        "--out", metavar="FILE",
        help="file to write: Parquet if its name ends in .parquet, else CSV; - is standard output (default: -)",
    )  # fmt: skip
    parser.option(
        "--workers", kind=whole(1, 1024), metavar="N",
        help="users are scored by N threads; the lists do not depend on it (default: the number of cores)",
    )  # fmt: skip
    parser.option(
        "--scheduler", metavar="ADDRESS",
        help="score on the workers of the Dask scheduler at this address; they read the checkpoint from the same path",
    )  # fmt: skip
    parser.shared("imports")
    return parser


def command(options: Options) -> None:
    """Write the rankings, and say what was left out of them."""
    if options.users and options.histories:
        raise ConfigError("--users and --histories (command line) cannot be given together.")
    if options.users and options.profiles:
        raise ConfigError(
            "--users and --profiles (command line) cannot be given together: users of the training data have the profiles that "
            "they had in training."
        )
    check_standard_input(options)
    if options.workers and options.scheduler:
        raise ConfigError("--workers and --scheduler (command line) cannot be given together.")
    out = check_outputs(options, "out", stdout="out").get("out")
    from tqdm import tqdm

    from recbole_vae.data import padding
    from recbole_vae.serving import batch
    from recbole_vae.serving.dask_client import dask_client
    from recbole_vae.serving.parquet import pyarrow, write_parquet
    from recbole_vae.serving.posterior import Sampling
    from recbole_vae.serving.ranking import write_rankings
    from recbole_vae.serving.recommender import Recommender

    as_parquet = out is not None and out.suffix == ".parquet"
    if as_parquet:
        pyarrow()  # what would fail at the end fails here
    sampling = Sampling(options.samples, options.diversify, options.seed)
    model = Recommender.load(options.checkpoint, popularity_correction=options.popularity_correction)
    add_new_items(model, options)
    candidates, exclude = item_ids(options, "candidates"), item_ids(options, "exclude")
    selection = model.selection(options.k, not options.keep_seen, candidates, exclude, None, sampling)
    size = batch.batch_size(model, selection)
    total: int | None = None
    profiles = profiles_of(model, options)
    if options.histories or profiles is not None:
        pairs = histories(options.histories, model.model) if options.histories else ()
        batches = batch.batches_of_histories(model, pairs, size, profiles)
    else:
        batches = batch.batches_of_users(model, options.users, size)
        total = len(options.users or model.users[padding.REAL])
    with contextlib.ExitStack() as stack:
        if options.scheduler:
            client = stack.enter_context(dask_client(options.scheduler))
            workers = len(client.ncores()) or 1
            correction = options.popularity_correction
            added = (options.new_items, options.new_items_bonus) if options.new_items else None
            submit = batch.on_dask(client, model, selection, options.checkpoint, correction, options.imports, added)
        else:
            workers = options.workers or batch.cores()
            submit = stack.enter_context(batch.threads(model, selection, workers))
        rankings = stack.enter_context(contextlib.closing(batch.rank(batches, submit, workers)))
        # Standard output is for the result, and a terminal shows one of the two.
        bar = tqdm(rankings, total=total, unit=" users", ncols=100, disable=None if out else True)
        if out and as_parquet:
            with written_whole(out, binary=True) as file:
                count = write_parquet(bar, file, sampled=sampling.samples > 0)
        else:
            with opened(out) as file:
                count = write_rankings(bar, file, sampled=sampling.samples > 0)
    if out:
        print(f"{out}: {count} users", file=sys.stderr)
    of_training = any(map(model.knows_user, profiles)) if profiles is not None else not options.histories
    if of_training and not model.whole:
        print(
            f"{options.checkpoint}: trained on a part of the interactions, so lists may have items that users own already; "
            f"train on all by: recbole-vae refit --checkpoint={options.checkpoint} --out=FILE",
            file=sys.stderr,
        )
    report_unknown(model.unknown)
    report_unknown_values(model.unknown_values)
    report_unknown(model.unknown_candidates, "the candidates")
    report_unknown_excluded(model.unknown_excluded, exclude)
    by_profile = options.profiles is not None and model.model.scores_by_latent
    if model.without_known:
        print(
            f"Users with no item in the training data{' and no known profile' * by_profile}: "
            f"{model.without_known:,}; they got the most popular items.",
            file=sys.stderr,
        )
    if model.without_rest:
        print(
            f"Users without a recommendation: {model.without_rest:,}; their histories have all items that could be "
            "recommended (--keep_seen=True recommends these, too).",
            file=sys.stderr,
        )
