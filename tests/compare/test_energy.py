"""The energy of runs."""

from __future__ import annotations

import csv
import importlib.util
import socket
from pathlib import Path
from typing import Any, ClassVar

import pytest

from recbole_vae.cli.main import main
from recbole_vae.compare import outputs
from recbole_vae.compare.energy import NOTHING, Meter
from recbole_vae.compare.measure import measure
from recbole_vae.compare.results import Comparison
from tests.compare.synthetic import make_comparison
from tests.compare.test_measure import job
from tests.conftest import random_rows, write_inter


def test_codecarbon_sends_nothing_and_writes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tried: list[Any] = []

    def refuse(self: socket.socket, address: Any) -> None:
        tried.append(address)
        raise OSError("no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("HOME", str(tmp_path))
    settings = tmp_path / ".codecarbon.config"
    settings.write_text(
        "[codecarbon]\nsave_to_file = True\noutput_methods = csv\nemissions_endpoint = http://127.0.0.1:9/\n"
    )
    meter = Meter()
    meter.start()
    sum(n * n for n in range(10**6))
    kwh = meter.stop()
    assert 0 < kwh < 0.01
    assert tried == []
    assert [*tmp_path.rglob("*")] == [settings]
    how = meter.how()
    assert how.startswith("Energy is that of the whole machine in training and evaluation, by codecarbon 3")
    assert "; measured: " in how
    assert how.endswith("memory from its size.")


class Stub(Meter):
    """Counts what is done between start and stop."""

    steps: ClassVar[list[str]] = []

    def start(self) -> None:
        self.steps.append("start")

    def stop(self) -> float:
        self.steps.append("stop")
        return 0.002

    def how(self) -> str:
        return f"By a stub; measured: {NOTHING}."


def test_energy_is_that_of_training_and_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    def noted(place: str, step: str) -> None:
        module, _, name = place.rpartition(".")
        real = getattr(importlib.import_module(module), name)

        def does(*args: Any, **more: Any) -> Any:
            Stub.steps.append(step)
            return real(*args, **more)

        monkeypatch.setattr(place, does)

    noted("recbole_vae.compare.part.results", "evaluated")
    noted("recbole_vae.compare.measure.prepare", "loaded")
    run = measure(job("EASE"), meter=Stub())
    assert Stub.steps == ["loaded", "start", "evaluated", "evaluated", "stop"]
    assert (run.energy, run.energy_by) == (0.002, f"By a stub; measured: {NOTHING}.")
    assert measure(job("EASE")).energy is None


def written(comparison: Comparison) -> tuple[str, dict[str, str]]:
    text = outputs.write(comparison, Path("o"))
    rows = csv.DictReader(Path("o/table.csv").read_text().splitlines())
    return text, {row["label"]: row["mean"] for row in rows if row["metric"] == "energy"}


def test_the_column_is_there_if_some_run_has_it() -> None:
    comparison = make_comparison(models=3, seeds=2, protocols=1, users=40)
    text, found = written(comparison)
    assert ("Energy" in text, found) == (False, {})
    for run, energy in zip(comparison.runs, (0.001, 0.003), strict=False):
        run.energy, run.energy_by = energy, "By RAPL; measured: the processor."
    text, found = written(comparison)
    first, *others = (run.label for run in comparison.runs[::2])
    assert float(found.pop(first)) == pytest.approx(0.002)
    assert found == dict.fromkeys(others, "")
    costs = text[text.index("Costs") :].splitlines()
    assert costs[1].split("  ")[-3:] == ["Energy", "Parameters", "Epochs"]
    assert "2 Wh" in costs[2]
    assert "By RAPL; measured: the processor." in " ".join(text.split())
    comparison.runs[0].energy_by = f"By load; measured: {NOTHING}."
    assert "Energy (estimate)" in written(comparison)[0]
    assert "Energy (estimate)" in Path("o/report.html").read_text()


def test_what_cannot_be_measured_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_inter(random_rows())
    words = ["compare", "--dataset=tiny", "--data_path=data", "--models=EASE", "--out=o", "--energy=True"]
    assert main([*words, "--jobs=2"]) == 2
    error = capsys.readouterr().err
    assert "energy (command line) and jobs (command line) cannot be given together" in error
    assert main([*words, "--scheduler=tcp://x:1"]) == 2
    assert "Leave out scheduler." in capsys.readouterr().err
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "codecarbon" else found(name, *a))
    assert main(words) == 2
    assert "pip install 'recbole_vae[energy]'" in capsys.readouterr().err
    assert not Path("o/runs").exists()
