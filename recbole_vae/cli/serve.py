"""``recbole-vae serve``: answer requests for recommendations over HTTP."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from recbole_vae.cli.options import Options, Parser, number_between, text, whole
from recbole_vae.errors import ConfigError
from recbole_vae.server.settings import Limits, Settings

SUMMARY = "Answer requests for recommendations and explanations over HTTP."

_NEEDED = ("fastapi", "fastapi_offline", "httptools", "prometheus_client", "uvicorn")
_TOKEN = "RECBOLE_VAE_TOKEN"
_DEFAULT = Limits()


def parser() -> Parser:
    """Declare the options."""
    parser = Parser(
        "serve", SUMMARY, "--checkpoint=FILE [--host=127.0.0.1] [--port=8000] [--workers=N] [...]",
        epilog="Callers must send a token if there is one: Authorization: Bearer TOKEN. It is in the environment variable "
        f"{_TOKEN}, or in --token_file. SIGHUP looks for a new checkpoint at once, SIGTERM answers what has come and ends.",
    )  # fmt: skip
    parser.shared("checkpoint", help="the file to serve. A new file that is renamed to this name takes its place")
    parser.option(
        "--host", kind=text, default="127.0.0.1", metavar="ADDRESS",
        help="address to listen at; 0.0.0.0 can be reached from other machines",
    )  # fmt: skip
    parser.option("--port", kind=whole(0, 65535), default=8000, metavar="N", help="port to listen at; 0: any free one")
    parser.option("--workers", kind=whole(1, 1024), default=1, metavar="N", help="processes, each with the model")
    parser.option("--token_file", metavar="FILE", help="file whose first line is the token that callers must send")
    parser.shared(
        "new_items",
        help="new items, which are scored from their features: a RecBole .item file. It is watched as the checkpoint is",
    )
    parser.shared("new_items_bonus", "popularity_correction", "items")
    for name, what in (
        ("body", "most bytes of a request"),
        ("histories", "most histories or users of a request"),
        ("items", "most items of a history"),
        ("k", "longest ranking"),
        ("queue", "most histories that wait, before requests are refused"),
    ):
        parser.option(
            f"--max_{name}",
            kind=whole(1),
            default=getattr(_DEFAULT, name),
            metavar="N",
            help=what,
        )
    parser.option(
        "--max_seconds",
        kind=number_between(0),
        default=_DEFAULT.seconds,
        metavar="S",
        help="longest time for a request",
    )
    parser.shared("imports")
    return parser


def command(options: Options) -> None:
    """Serve until the process is told to end."""
    token = _token(options.token_file)
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"serve needs {', '.join(missing)}: pip install 'recbole_vae[serve]'.")
    if options.new_items is None and "new_items_bonus" in options.given:
        raise ConfigError("--new_items_bonus (command line) needs --new_items=FILE.")
    from recbole_vae.server.run import run

    run(
        Settings(
            checkpoint=options.checkpoint, host=options.host, port=options.port, workers=options.workers, token=token,
            popularity_correction=options.popularity_correction, items=options.items, imports=tuple(options.imports),
            new_items=options.new_items, new_items_bonus=options.new_items_bonus,
            limits=Limits(
                body=options.max_body, histories=options.max_histories, items=options.max_items, k=options.max_k,
                seconds=options.max_seconds, queue=options.max_queue,
            ),
        )
    )  # fmt: skip


def _token(file: str | None) -> str | None:
    """Return the token; it is never an option itself, because other users can see a process's options."""
    token, place = os.environ.get(_TOKEN), _TOKEN
    if file is not None:
        place = f"--token_file={file} (command line)"
        try:
            token = (Path(file).read_text(encoding="utf-8").splitlines() or [""])[0].strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not text in UTF-8"
            raise ConfigError(f"{place}: cannot read this file: {reason}.") from None
    if token is None:
        return None
    if not token.isascii() or not token.isprintable() or not token or " " in token:
        raise ConfigError(f"{place}: the token must be printable ASCII without spaces, and not empty.")
    return token
