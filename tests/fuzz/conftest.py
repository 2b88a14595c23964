"""The process that all generated command lines are run by."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.fuzz.run import Server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if not hasattr(os, "fork"):
        pytest.skip("this system cannot fork")
    started = Server(tmp_path_factory.mktemp("fuzz"))
    yield started
    started.close()
