"""``recbole-vae exec``: run a Python script in which RecBole knows our models."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from multiprocessing import spawn
from pathlib import Path
from types import ModuleType
from typing import Any

from recbole_vae.cli.options import Options, Parser
from recbole_vae.errors import ConfigError, RecBoleVAEError
from recbole_vae.options import command_line
from recbole_vae.options.processes import reports_the_end

SUMMARY = "Run a script, such as RecBole's run_recbole.py or run_hyper.py, with our models."


def parser() -> Parser:
    """Declare the options; what follows the script is the script's own."""
    parser = Parser(
        "exec", SUMMARY, "[--imports=MODULE] SCRIPT.py [ARGUMENT ...]",
        epilog="RecBole takes each --NAME=VALUE of the script for an option, and here NAME must be one. Write other arguments "
        "as --NAME VALUE, or import recbole_vae in the script and run it by python.",
    )  # fmt: skip
    parser.shared("imports", several=False)
    parser.add_argument("script", metavar="SCRIPT.py", help="the script to run")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="ARGUMENT", help="arguments of the script")
    return parser


def command(options: Options) -> int:
    """Run the script as ``python SCRIPT.py`` does, and return its exit status."""
    path = Path(options.script)
    try:
        source = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"exec: {path}: cannot read this script: {error.strerror}.") from None
    script = ModuleType("__main__")
    script.__dict__.update(__file__=options.script, __builtins__=__builtins__)
    before, import_path = sys.modules["__main__"], sys.path[:]
    sys.modules["__main__"] = script
    sys.argv = [options.script, *options.arguments]  # main() puts the former back
    sys.path[0] = str(path.resolve().parent)
    try:
        with command_line.ours(), _children_know_our_models():
            exec(compile(source, options.script, "exec", dont_inherit=True), script.__dict__)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except RecBoleVAEError:  # a mistake of the user, which is said in one line
        raise
    except BaseException as error:
        # Python's own report, without the frame of this function.
        here = error.__traceback__
        traceback = here.tb_next if here else None
        if reports_the_end():
            sys.excepthook(type(error), error.with_traceback(traceback), traceback)
        return 130 if isinstance(error, KeyboardInterrupt) else 1
    finally:
        sys.modules["__main__"], sys.path[:] = before, import_path
    return 0


@contextlib.contextmanager
def _children_know_our_models() -> Iterator[None]:
    """Have the processes that the script spawns import recbole_vae, too, before they import the script and so RecBole."""
    original = spawn.get_command_line

    def get_command_line(**arguments: Any) -> list[str]:
        words = original(**arguments)
        if "-c" in words:
            words[words.index("-c") + 1] = f"import recbole_vae; {words[words.index('-c') + 1]}"
        return words

    spawn.get_command_line = get_command_line
    try:
        yield
    finally:
        spawn.get_command_line = original
