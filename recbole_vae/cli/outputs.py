"""The files that a command writes: checked before any work, written after it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from recbole_vae.cli.options import Options
from recbole_vae.errors import ConfigError, DataError
from recbole_vae.storage.files import opened

# Options that name files to read, which must not be overwritten.
_INPUTS = ("checkpoint", "against", "histories", "candidates", "exclude", "items", "new_items", "unseen", "old", "new")


_WRITTEN = {"html": "the report, to open in a browser", "json": "the results as JSON"}


def check_outputs(options: Options, *names: str, stdout: str = "json") -> dict[str, Path | None]:
    """Return the files that options name. They are checked here, because a fault that is found later may cost hours.

    Args:
        options: of the command line.
        names: of the options that name files to write.
        stdout: the one of these that may be ``-``, standard output, for which there is None.

    Raises:
        ConfigError: a file cannot be written, is read by the same command, or is named twice.
    """
    given = {name: value for name in names if (value := getattr(options, name, None)) is not None}
    files = {name: None if value == "-" else Path(value) for name, value in given.items()}
    inputs = {
        name: value for name in _INPUTS if isinstance(value := getattr(options, name, None), str) and value != "-"
    }
    for name, file in files.items():
        if file is None:
            if name != stdout:
                raise ConfigError(f"--{name}=- (command line): this cannot be standard output; name a file.")
            continue
        if not file.parent.is_dir():
            raise ConfigError(f"--{name}={file} (command line): there is no folder {file.parent}.")
        if file.is_dir():
            raise ConfigError(f"--{name}={file} (command line): this is a folder; name a file.")
        for read, path in inputs.items():
            if file.is_file() and Path(path).is_file() and file.samefile(path):
                raise ConfigError(
                    f"--{name}={file} (command line): this is the file of {_called(read)}, which would be overwritten; name "
                    "another."
                )
    named = [file.resolve() for file in files.values() if file]
    if len(set(named)) < len(named):
        raise ConfigError(f"--{' and --'.join(files)} (command line) cannot be the same file; name one for each.")
    return files


def _called(name: str) -> str:
    """Return how an input is called on the command line; two commands take it without an option."""
    return name.upper() if name in ("old", "new") else f"--{name}"


def put(files: dict[str, Path | None], text: str, **contents: Callable[[], str]) -> None:
    """Print a text, or the content that goes to standard output in its place. Then write each file that can be written.

    Raises:
        DataError: some could not be written.
        BrokenPipeError: whoever read standard output has gone; the files are written.
    """
    outputs = [(file, contents[name]) for name, file in files.items()]
    if None not in files.values():
        outputs.insert(0, (None, lambda: text))
    failed, gone = [], None
    for file, content in sorted(outputs, key=lambda each: each[0] is not None):
        try:
            with opened(file) as output:
                output.write(content().rstrip("\n") + "\n")
        except DataError as error:
            failed.append(str(error))
        except BrokenPipeError as error:
            gone = error
    if failed:
        raise DataError(" ".join(failed))
    say_written(files)
    if gone:
        raise gone


def say_written(files: dict[str, Path | None]) -> None:
    """Say on standard error which files were written."""
    for name, file in files.items():
        if file is not None:
            print(f"{file}: {_WRITTEN[name]}", file=sys.stderr)
