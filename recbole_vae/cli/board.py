"""``recbole-vae board``: keep a board of many data sets and models up to date."""

from __future__ import annotations

import sys
from pathlib import Path

from recbole_vae.cli.compare import how_to_run
from recbole_vae.cli.options import Options, Parser, unique_names

SUMMARY = "Keep a board: do the runs that are missing, and make its pages."


def parser() -> Parser:
    """Declare the options."""
    parser = Parser(
        "board", SUMMARY, "--out=DIR [--only=NAME,...]",
        epilog="Needs pip install 'recbole_vae[compare]'. DIR has a plan of recbole-vae compare for each data set: NAME.yaml. "
        "Their results are kept in NAME.json and NAME.parquet, for git, and shown by index.html and NAME.html. An interrupted "
        "command continues where it stopped, on another machine, too.",
    )  # fmt: skip
    parser.option("--out", metavar="DIR", missing="the folder with the plans", help="folder with the plans")
    parser.option(
        "--only",
        kind=unique_names,
        several=True,
        metavar="NAME",
        help="do only the runs of these plans; the pages show all (default: all)",
    )
    how_to_run(parser)
    return parser


def command(options: Options) -> int:
    """Do what is left of the plans, keep it, and write the pages."""
    how = {name: str(getattr(options, name)) for name in options.given if name not in ("out", "only")}
    out = Path(options.out)
    from recbole_vae.compare import board, board_report, runner, tables

    tables.parquet()  # what would fail at the end fails here
    entries = board.read(out, how)
    todo = board.chosen(entries, options.only) if options.only else entries
    names = [entry.name for entry in todo]
    for entry in todo:
        board.check(entry)
        hint = board.renamed(entry)
        if hint:
            print(hint, file=sys.stderr)
    board.ignore_work(out)
    ran = False
    for before in todo:
        entry = board.read_entry(before.file, how) if ran else before  # the runs before it may have taken days
        if not entry.left:
            continue
        ran = True
        print(f"{entry.file}: {entry.left} run{'s' * (entry.left != 1)} to do", file=sys.stderr)
        try:
            board.advance(entry)
        except runner.Interrupted:
            print(f"{out}: what is done is kept; the same command goes on", file=sys.stderr)
            raise
    entries = board.read(out, how) if ran else entries
    for entry in entries:
        entry.analyse()
        if entry.name in names:
            entry.keep_tests()
        if entry.hidden:
            print(f"{entry.file}: {entry.hidden_words} in {entry.name}.json, and not shown", file=sys.stderr)
    board_report.write(entries, out)
    print(board_report.text(entries))
    print(f"{out / 'index.html'}: the board, to open in a browser", file=sys.stderr)
    return int(any(entry.left for entry in entries if entry.name in names))
