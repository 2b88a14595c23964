"""Checkpoints to serve, trained once, and a client that needs no network."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from recbole_vae.server.app import create_app
from recbole_vae.server.model import load
from recbole_vae.server.settings import Limits, Settings
from tests.conftest import OPTIONS, random_rows, write_inter

Serving = Callable[..., AbstractContextManager[TestClient]]


def _trained(folder: Path, model: str, rows: list[Any], columns: str, **options: Any) -> Path:
    from recbole_vae.cli.main import main

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["pytest"])
        data = write_inter(rows, columns=columns)
        given = {**OPTIONS, "data_path": data, "checkpoint_dir": "saved", **options}
        words = [f"--{name}={value}" for name, value in given.items()]
        assert main(["run", f"--model={model}", "--dataset=tiny", *words]) == 0
        (file,) = (folder / "saved").glob("*.pth")
        return file.rename(folder / "model.pth")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the checkpoint of a MultVAE of 40 users, u0 to u39, and 25 items, i0 to i24."""
    folder = tmp_path_factory.mktemp("served")
    return _trained(folder, "MultVAE", random_rows(), "user_id:token\titem_id:token", learning_rate=0.01)


@pytest.fixture(scope="session")
def other_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the checkpoint of another model, of weighted histories and one item more."""
    folder = tmp_path_factory.mktemp("weighted")
    rows = [
        (*row, place % 5 + 1) for place, row in enumerate([*random_rows(), ("u0", "new"), ("u1", "new"), ("u2", "new")])
    ]
    return _trained(
        folder, "MultVAE", rows, "user_id:token\titem_id:token\trating:float", value_field="rating", learning_rate=0.01
    )


@pytest.fixture(scope="session")
def recboles_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the checkpoint of a model of RecBole's."""
    folder = tmp_path_factory.mktemp("recboles")
    options = dict.fromkeys(("mlp_hidden_size", "latent_dimension", "precision"))
    given = {name: value for name, value in OPTIONS.items() if name not in options}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["pytest"])
        from recbole_vae.cli.main import main

        data = str(Path(write_inter(random_rows())).absolute())
        words = [f"--{name}={value}" for name, value in {**given, "data_path": data, "checkpoint_dir": "saved"}.items()]
        assert main(["run", "--model=EASE", "--dataset=tiny", *words]) == 0
        (file,) = (folder / "saved").glob("*.pth")
    return file


@pytest.fixture(scope="session")
def serving(checkpoint: Path) -> Serving:
    """Return a function that gives a client of a server in this process."""

    @contextmanager
    def _serving(file: Path = checkpoint, limits: Limits | None = None, **options: Any) -> Iterator[TestClient]:
        settings = Settings(str(file), limits=limits or Limits(), **options)
        # An error of the server is an answer, as over the network.
        with TestClient(create_app(settings, load(settings)), raise_server_exceptions=False) as client:
            yield client

    return _serving


@pytest.fixture(scope="module")
def client(serving: Serving) -> Iterator[TestClient]:
    """Return a client of a server with all defaults, which the tests of a module share."""
    with serving() as found:
        yield found
