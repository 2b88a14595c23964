"""A new file under the checkpoint's name takes the old one's place."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from recbole_vae.server.model import _file
from tests.server.conftest import Serving


def wait(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def put(source: Path, target: Path) -> None:
    shutil.copy(source, target.with_suffix(".new"))
    target.with_suffix(".new").replace(target)


def reloads(client: TestClient, result: str) -> int:
    prefix = f'recbole_vae_reloads_total{{result="{result}"}} '
    (line,) = (line for line in client.get("/metrics").text.splitlines() if line.startswith(prefix))
    return int(float(line.removeprefix(prefix)))


def test_a_new_file_is_taken_up_and_a_damaged_one_is_not(
    serving: Serving, checkpoint: Path, other_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("recbole_vae.server.model._SECONDS", 0.01)
    file = tmp_path / "model.pth"
    put(checkpoint, file)
    looks: list[object] = []

    def looked(path: Path) -> object:
        found = _file(path)
        looks.append(found)
        return found

    monkeypatch.setattr("recbole_vae.server.model._file", looked)

    def look() -> None:  # the first of two that follow may have begun before
        end = len(looks) + 3
        wait(lambda: len(looks) >= end)

    with serving(file) as client:
        asked = {"histories": [["i0", "new"]], "k": 100}
        first = client.post("/recommend", json=asked).json()
        assert first["unknown_items"] == 1
        put(other_checkpoint, file)
        wait(lambda: reloads(client, "taken_up") == 1)
        second = client.post("/recommend", json=asked).json()
        assert second["unknown_items"] == 0
        assert second["version"] == client.get("/model").json()["version"] != first["version"]

        damaged = bytearray(checkpoint.read_bytes())
        middle = len(damaged) // 2
        damaged[middle : middle + 5000] = bytes(each ^ 1 for each in damaged[middle : middle + 5000])
        for number, bad in enumerate((bytes(damaged), bytes(damaged[:1000]), b"", b"no checkpoint"), start=1):
            (tmp_path / "bad.pth").write_bytes(bad)
            put(tmp_path / "bad.pth", file)
            wait(lambda number=number: reloads(client, "refused") == number)  # type: ignore[misc]
            assert client.post("/recommend", json=asked).json() == second
        file.unlink()
        wait(lambda: reloads(client, "refused") == 5)
        look()
        assert client.post("/recommend", json=asked).json() == second
        put(checkpoint, file)
        wait(lambda: reloads(client, "taken_up") == 2)
        assert client.post("/recommend", json=asked).json() == first
        assert reloads(client, "refused") == 5  # it is said once that a file is missing
        file.rename(tmp_path / "away.pth")
        wait(lambda: reloads(client, "refused") == 6)
        (tmp_path / "away.pth").rename(file)
        look()
        file.unlink()
        wait(lambda: reloads(client, "refused") == 7)
        assert reloads(client, "taken_up") == 2
