"""``recbole-vae generate``: draw synthetic users from a variational autoencoder."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from recbole_vae.cli.histories import histories, report_unknown
from recbole_vae.cli.options import Options, Parser, one_of, unique_names, whole
from recbole_vae.cli.outputs import check_outputs, put
from recbole_vae.errors import ConfigError, DataError
from recbole_vae.storage.files import written_whole

SUMMARY = "Draw synthetic users as a data set for RecBole, and measure how realistic they are."


def parser() -> Parser:
    """Declare the options."""
    parser = Parser("generate", SUMMARY, "--checkpoint=FILE --out=DIR [--users=N] [--OPTION=VALUE ...]")
    parser.shared("checkpoint")
    parser.option(
        "--out", metavar="DIR", missing="the folder of the new data set",
        help="folder to create for the new data set, which is named after it",
    )  # fmt: skip
    parser.option(
        "--users", kind=whole(), metavar="N",
        help="number of users to draw (default: as many as were trained on, or one per history)",
    )  # fmt: skip
    parser.option(
        "--source", kind=one_of("posterior", "prior"), default="posterior", metavar="NAME",
        help="posterior: around real histories; prior: from N(0, I)",
    )  # fmt: skip
    parser.option(
        "--around",
        kind=unique_names,
        several=True,
        metavar="ID",
        help="draw around these users of the training data; repeated ids count once",
    )
    parser.shared("histories", help="draw around the histories in this file, in the format that recommend reads")
    parser.shared("seed")
    parser.option(
        "--unseen", metavar="FILE",
        help="real users to compare with: a file of histories, or the split file of a run with held-out users (its test "
        "users). Users of the training data are left out",
    )  # fmt: skip
    parser.shared("json", help="write the measurements as JSON; - prints it instead of the text")
    parser.shared("imports")
    return parser


def command(options: Options) -> None:
    """Draw the users, write them, and compare them with real ones."""
    out, files = _check(options)
    from recbole_vae.analysis import fidelity, generate
    from recbole_vae.serving.recommender import Recommender

    loaded = Recommender.load(options.checkpoint)
    model = loaded.model
    generate.check_generates(model, options.source)
    judges = _judges(options, loaded) if options.unseen else None
    around = None
    if options.histories:
        around = generate.known_histories(loaded, histories(options.histories, model))
    if options.around:
        around = generate.known_histories(loaded, ((user, loaded.history(user)) for user in options.around))
        around = loaded.with_profiles(around, options.around)
    real = fidelity.table_of(model.histories, model.n_items)
    number = options.users or (real.shape[0] if around is None else len(around))
    not_compared = "" if around is None else "what is drawn around some is not meant to be like all."
    try:
        if around is None:
            fidelity.check_measurable(real, number, judges, seed=options.seed)
    except DataError as error:
        if options.unseen or options.json:  # to measure was asked for
            raise DataError(f"{error} Without --unseen and --json they are drawn, but not measured.") from None
        not_compared = str(error)
    drawn = fidelity.Tee(
        generate.synthesise(model, around, number, source=options.source, seed=options.seed),
        model.n_items,
        real.shape[0] if around is None else 0,
    )
    report_unknown(loaded.unknown)
    _write(out, loaded, drawn, number)
    print(f"{out / out.name}.inter: {number:,} users", file=sys.stderr if options.json == "-" else sys.stdout)
    if not_compared:
        print(f"Not compared with real users: {not_compared}")
        return
    report = fidelity.truth(real, drawn.table(), judges, seed=options.seed)
    put(files, fidelity.text(report), json=lambda: json.dumps(report.plain(), indent=1))


def _check(options: Options) -> tuple[Path, dict[str, Path | None]]:
    """Return the folder and the files to write; a ConfigError says what cannot be given together."""
    if options.around and options.histories:
        raise ConfigError("--around and --histories (command line) cannot be given together.")
    out = Path(options.out)
    if options.out == "-":
        raise ConfigError(
            "--out=- (command line): a data set is a folder, and cannot be standard output; name a folder."
        )
    if out.exists():
        raise ConfigError(f"--out={out} (command line): exists already.")
    files = check_outputs(options, "json")
    if "json" in files and files["json"] is not None and files["json"].resolve() == out.resolve():
        raise ConfigError("--out and --json (command line) cannot be the same; name a folder and a file.")
    own = {"around", "histories"} & set(options.given)
    if own and (options.unseen or options.json):
        raise ConfigError(
            "--unseen and --json (command line) are for users drawn from the whole model, not around some."
        )
    if own and options.source == "prior":
        raise ConfigError(
            f"--{min(own)} and --source=prior (command line) cannot be given together: the prior knows nothing of these "
            "users. Leave out --source to draw around them, or draw from the prior without them."
        )
    return out, files


def _judges(options: Options, loaded: Any) -> Any:
    """Return the histories of unseen real users as a table, and say who was left out."""
    from recbole_vae.analysis import fidelity
    from recbole_vae.data.held_out import SplitFile

    pairs: Iterable[tuple[str, Iterable[str]]]
    if options.unseen.endswith(".split.csv.gz"):
        rows = SplitFile.read(options.unseen).rows
        pairs = rows[rows["part"].str.startswith("test")].groupby("user")["item"]
    else:
        pairs = histories(options.unseen, loaded.model)
    unseen, seen, unknown = fidelity.judges(loaded, pairs)
    for left_out, who in (
        (seen, "users of the training data, whom the model has seen"),
        (unknown, "users without an item of the training data"),
    ):
        if left_out:
            print(f"Left out of the judges: {left_out:,} {who}.", file=sys.stderr)
    return fidelity.table_of(unseen, loaded.model.n_items)


def _write(out: Path, loaded: Any, drawn: Iterable[Any], number: int) -> None:
    """Write the data set; after Ctrl-C there is what was drawn until then."""
    from tqdm import tqdm

    try:
        out.mkdir(parents=True)
    except OSError as error:
        raise ConfigError(f"--out={out} (command line): this folder cannot be made: {error.strerror}.") from None
    try:
        with written_whole(out / f"{out.name}.inter") as file:
            file.write(f"{loaded.model.USER_ID}:token\t{loaded.model.ITEM_ID}:token\n")
            bar = tqdm(drawn, total=number, unit=" users", ncols=100, disable=None)
            for place, items in enumerate(bar, start=1):
                file.writelines(f"s{place}\t{loaded.items[item]}\n" for item in items)
    finally:
        if not any(out.iterdir()):
            out.rmdir()
