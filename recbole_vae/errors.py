"""The errors that are meant for the user: each says what was wrong, where, what is allowed, and what to do."""

from __future__ import annotations


class RecBoleVAEError(Exception):
    """Base class; the command line prints the message of one of these as a single line."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory, of the machine or of a GPU, did not suffice."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(
        each in text
        for each in (
            "out of memory", "allocate memory", "can't allocate", "failed to map segment",
            "calling read(nbytes) on source failed",  # of pandas
            "error return without exception set",  # of C code that did not say that its allocation failed
        )
    )  # fmt: skip


class ConfigError(RecBoleVAEError, ValueError):
    """An option has a wrong name, type or value."""


class DataError(RecBoleVAEError, ValueError):
    """The data set cannot be used as it is."""


class CheckpointError(RecBoleVAEError, ValueError):
    """A checkpoint cannot be read, or does not fit the model or the data."""


class RecBoleVersionError(RecBoleVAEError, ImportError):
    """RecBole is missing, or of a version that the hooks do not fit."""


class TrainingError(RecBoleVAEError, RuntimeError):
    """Training cannot go on."""
