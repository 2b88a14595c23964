"""The connection to a Dask scheduler."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from recbole_vae.errors import ConfigError


@contextlib.contextmanager
def dask_client(address: str) -> Iterator[Any]:
    """Give a client of the scheduler at an address such as ``tcp://127.0.0.1:8786``.

    Raises:
        ConfigError: Dask is not installed, or no scheduler answers.
    """
    try:
        from distributed import Client
    except ImportError:
        raise ConfigError("scheduler: pip install 'recbole_vae[dask]' first.") from None
    try:
        client = Client(address, timeout="10s")
    except (OSError, ValueError, TimeoutError) as error:
        raise ConfigError(
            f"scheduler: no Dask scheduler answers at {address} ({' '.join(str(error).split())})."
        ) from None
    with client:
        yield client
