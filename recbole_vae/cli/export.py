"""``recbole-vae export``: write a model as a graph of ONNX, which runs without torch and RecBole."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from recbole_vae.cli.histories import add_new_items
from recbole_vae.cli.options import Options, Parser, one_of
from recbole_vae.errors import ConfigError

SUMMARY = "Write a model as an ONNX graph that ranks items without torch and RecBole."


def parser() -> Parser:
    """Declare the options."""
    parser = Parser("export", SUMMARY, "--checkpoint=FILE --out=DIR [--precision=int8]")
    parser.shared("checkpoint", help="a checkpoint that training wrote")
    parser.option(
        "--out", metavar="DIR", missing="the folder to write into",
        help="folder for model.onnx, items.txt and model.json, which replace older ones; other files in it stay",
    )  # fmt: skip
    parser.option(
        "--precision", kind=one_of("float32", "int8"), default="float32", metavar="NAME",
        help="int8: a quarter of the size, and faster, at a small loss of accuracy",
    )  # fmt: skip
    parser.shared("new_items", "new_items_bonus", "popularity_correction", "imports")
    return parser


def command(options: Options) -> None:
    """Write the three files."""
    out = Path(options.out)
    if options.out == "-":
        raise ConfigError(
            "--out=- (command line): an export is a folder, and cannot be standard output; name a folder."
        )
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out={out} (command line): this is a file; name a folder.")
    if importlib.util.find_spec("onnx") is None:
        raise ConfigError("export (command line): pip install 'recbole_vae[export]' first.")
    from recbole_vae.serving.export import FILES, check_can_be_exported, write
    from recbole_vae.serving.recommender import Recommender
    from recbole_vae.storage.once import read_once

    with read_once():
        loaded = Recommender.load(options.checkpoint, popularity_correction=options.popularity_correction)
        check_can_be_exported(loaded.model)
        add_new_items(loaded, options)
        size = write(loaded, options.checkpoint, out, int8=options.precision == "int8")
    print(
        f"{out}: {', '.join(FILES)} ({size / 1e6:.1f} MB), {type(loaded.model).__name__} on {loaded.dataset}, "
        f"{len(loaded.items) - 1:,} items"
    )
