"""``recbole-vae explain``: say which items of a history each recommendation rests on."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator

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
from recbole_vae.cli.options import Options, Parser, one_of, true_or_false
from recbole_vae.cli.outputs import check_outputs, say_written
from recbole_vae.errors import ConfigError

SUMMARY = "Say which items of a history each recommendation rests on."


def parser() -> Parser:
    """Declare the options."""
    parser = Parser("explain", SUMMARY, "--checkpoint=FILE (--user=ID | --users=A,B | --histories=FILE) [...]")
    parser.shared("checkpoint")
    parser.option(
        "--user", metavar="ID", help="a user of the training data; the id is taken literally, commas included"
    )
    parser.shared("users", "histories")
    parser.shared("profiles", help="with --histories, what is known about these users besides: a RecBole .user file")
    parser.shared("k", help="recommendations to explain for each user")
    parser.shared("candidates", "exclude", "new_items", "new_items_bonus")
    parser.option(
        "--method", kind=one_of("exact", "gradient"), default="exact", metavar="NAME",
        help="exact: leave out each item in turn; gradient: a faster approximation",
    )  # fmt: skip
    parser.option(
        "--counterfactual", kind=true_or_false, default=True, metavar="False",
        help="False: do not look for the items without which a recommendation would not be made",
    )  # fmt: skip
    parser.shared("popularity_correction", "items")
    parser.shared("json", help="write one line of JSON per user; - prints it instead of the text")
    parser.shared("html", "imports")
    return parser


def command(options: Options) -> None:
    """Explain the recommendations of one user after the other."""
    if sum(each is not None for each in (options.user, options.users, options.histories)) != 1:
        raise ConfigError("explain needs one of --user=ID, --users=A,B and --histories=FILE (command line).")
    if options.profiles and not options.histories:
        raise ConfigError(
            "--profiles (command line) needs --histories=FILE: users of the training data have the profiles that they had in "
            "training."
        )
    check_standard_input(options)
    files = check_outputs(options, "json", "html")
    from tqdm import tqdm

    from recbole_vae.analysis import explain, explain_report
    from recbole_vae.serving.recommender import Recommender

    model = Recommender.load(options.checkpoint, popularity_correction=options.popularity_correction)
    add_new_items(model, options)
    profiles = profiles_of(model, options) or {}
    explainer = explain.Explainer(model, explain_report.item_texts(model, options.items, options.new_items))
    exclude = item_ids(options, "exclude")
    barred = model.selection(candidates=item_ids(options, "candidates"), exclude=exclude).barred
    pairs: Iterable[tuple[str, Iterable[str]]]
    if options.histories:
        pairs = histories(options.histories, model.model)
    else:
        pairs = [(user, model.history(user)) for user in options.users or [options.user]]
    explained: set[str] = set()
    bar = tqdm(pairs, unit=" users", ncols=100, disable=None if not options.user and options.json else True)

    def explanations() -> Iterator[explain.Explanation]:
        for user, history in bar:
            explained.add(user)
            yield explainer.explain(
                user, history, options.k, method=options.method, search=options.counterfactual,
                barred=barred, profile=profiles.get(user) if options.histories else model.profile(user),
            )  # fmt: skip

    explain_report.write(explanations(), options.json, options.html)
    others = len(profiles.keys() - explained)
    if others:
        print(
            f"{options.profiles}: users without a history in {options.histories}, not explained: {others:,}",
            file=sys.stderr,
        )
    say_written(files)
    report_unknown(model.unknown)
    report_unknown(model.unknown_candidates, "the candidates")
    report_unknown_excluded(model.unknown_excluded, exclude)
    report_unknown_values(model.unknown_values)
