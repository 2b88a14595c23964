"""The console command ``recbole-vae``: finds the command, runs it, and says in one line what went wrong."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

from recbole_vae.cli.install import ensure_recbole
from recbole_vae.errors import ConfigError, RecBoleVAEError, RecBoleVersionError, is_out_of_memory
from recbole_vae.options.names import near
from recbole_vae.options.processes import reports_the_end
from recbole_vae.storage.files import silence, standard_output

COMMANDS = {
    "Train": ("run", "prepare", "refit", "exec"),
    "Compare": ("compare", "board", "bench"),
    "Use": ("recommend", "explain", "serve", "export"),
    "Understand": ("latent", "uncertainty", "generate", "evaluate", "compare-lists"),
}
"""The commands, each a module of this package, in the groups and the order of the help."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the console command and return its exit status.

    It is 0, 1 for a failed run, 2 for bad usage, 3 for a limit that is exceeded, or 130 for Ctrl-C.
    """
    started = time.time()
    words, argv = list(sys.argv[1:] if arguments is None else arguments), sys.argv
    # Torch asks for huge pages then: random rows of large tables are found in a fraction of the time.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    for stream in (sys.stdin, sys.stdout, sys.stderr):  # whatever the platform's code page is
        with contextlib.suppress(AttributeError, ValueError, OSError):  # closed, replaced, or read from already
            stream.reconfigure(encoding="utf-8", errors=stream.errors)  # type: ignore[union-attr]
    try:
        status = _main(words, started)
        with standard_output():  # what was printed may still be in its buffer
            return status
    except KeyboardInterrupt:
        if reports_the_end():
            print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read the output has enough
        silence()
        return 0
    except (Exception, SystemExit) as error:
        if os.environ.get("RECBOLE_VAE_TRACEBACK"):
            raise
        if reports_the_end():
            print(f"error: {_describe(error)}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    finally:
        sys.argv = argv


def _main(words: list[str], started: float) -> int:
    if words == ["--version"]:
        from recbole_vae.storage.checkpoint import versions

        print(" ".join(f"{name} {number}" for name, number in versions().items()))
        return 0
    if not words or words[0] in ("-h", "--help"):
        print(_help())
        return 0 if words else 2
    name, *rest = words
    known = [each for group in COMMANDS.values() for each in group]
    if name not in known:
        meant = near(name, known, 0.6)  # short names: rum is run
        raise ConfigError(
            f"'{name}' is not a command{f'; did you mean {meant}?' if meant else '.'} The commands are {', '.join(known)}. "
            "See recbole-vae --help."
        )
    if not {"-h", "--help"} & set(rest):
        ensure_recbole()
    of_command = module(name)
    try:
        options = of_command.parser().read(rest)
    except SystemExit:  # the help is printed
        return 0
    options.started = started
    if getattr(options, "imports", None):
        from recbole_vae.model.registry import import_models

        import_models(options.imports, "command line")
    return int(of_command.command(options) or 0)


def module(command: str) -> ModuleType:
    """Return the module of a command."""
    return import_module(f"recbole_vae.cli.{command.replace('-', '_')}")


def _help() -> str:
    lines = ["usage: recbole-vae COMMAND [--OPTION=VALUE ...]"]
    for group, commands in COMMANDS.items():
        lines += [f"{group}:", *(f"  {name:<14} {module(name).SUMMARY}" for name in commands)]
    return "\n".join([
        *lines, "",
        "recbole-vae COMMAND --help shows the options of a command, --version what is installed.",
        "RECBOLE_VAE_TRACEBACK=1 in the environment shows where in the code an error arose.",
    ])  # fmt: skip


def _describe(error: BaseException) -> str:
    """Return an error as one line for a person."""
    if isinstance(error, RecBoleVersionError):
        return str(error)  # it may have lines
    if isinstance(error, RecBoleVAEError):
        return _one_line(str(error))
    text = str(error).strip()
    if type(error).__name__ == "ProcessRaisedException":
        # Of a child process; the last line of its traceback is "module.Class: message".
        kind, _, message = text.splitlines()[-1].partition(": ")
        return _one_line(message if kind.startswith("recbole_vae.") else f"{message} ({kind}, in a child process)")
    if is_out_of_memory(error):
        return (
            "out of memory; lower eval_batch_size, train_batch_size, mlp_hidden_size or latent_dimension, or set n_negatives "
            f"({_one_line(text)})"
        )
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror} (RECBOLE_VAE_TRACEBACK=1 shows where)"
    return f"{_one_line(text) or 'no message'} ({type(error).__name__}; RECBOLE_VAE_TRACEBACK=1 shows where)"


def _one_line(text: str) -> str:
    return " ".join(text.split())
