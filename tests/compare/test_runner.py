from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recbole_vae.cli.main import main
from recbole_vae.compare import outputs, plan, process, runner, tuning
from recbole_vae.compare.folder import held
from recbole_vae.compare.measure import measure
from recbole_vae.compare.results import DONE, FAILED, OUT_OF_MEMORY, REFUSED, TIMED_OUT, Comparison, Run
from recbole_vae.errors import ConfigError, DataError
from tests.conftest import random_rows, write_inter

from . import in_process
from .in_process import run_in_process

SMALL = {"epochs": "2", "topk": "[5]", "max_k": "8", "data_path": "data", "dataset": "tiny"}

BAD_MODELS = """\
import os, signal, time
import numpy as np
import recbole_vae
from recbole_vae.model.multdae import MultDAE

class Raises(MultDAE):
    def __init__(self, config, dataset):
        raise RuntimeError("it is not\\nto be")

class Greedy(Raises):
    def __init__(self, config, dataset):
        self.much = np.ones(2**30)

class Killed(Raises):
    def __init__(self, config, dataset):
        os.kill(os.getpid(), signal.SIGKILL)

class Slow(Raises):
    def __init__(self, config, dataset):
        open(os.environ["STARTED"], "w").write(str(os.getpid()))
        time.sleep(600)

recbole_vae.register(Raises, Greedy, Killed, Slow)
"""


@pytest.fixture(autouse=True)
def data() -> str:
    return write_inter(random_rows())


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Do the runs in this process; return the models in the order in which they ran."""
    ran: list[str] = []
    run_in_process(monkeypatch, lambda job: ran.append(job["model"]))
    return ran


def compare(out: str = "o", **options: str) -> Comparison:
    return runner.compare(plan.read(None, {**SMALL, **options}), Path(out), "command")


def write_bad_models() -> None:
    Path("bad_models.py").write_text(BAD_MODELS, encoding="utf-8")


def specification(model: str, **more: Any) -> dict[str, Any]:
    settings = {"data_path": str(Path("data").resolve()), "epochs": 1}
    job = {
        "dataset": "tiny", "model": model, "seed": 1, "split_seed": None, "settings": settings, "metrics": ["NDCG"], "topk": [5],
        "primary": "NDCG@5", "max_k": 5,
    }  # fmt: skip
    return {"job": job, "imports": ["bad_models"], "path": [str(Path.cwd())], "threads": 1, **more}


def test_a_comparison_goes_on_with_more_rows_and_seeds(here: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    first = compare(models="EASE,GRU4Rec", seeds="1")
    assert [run.status for run in first.runs] == [DONE, REFUSED]
    assert here == ["EASE", "GRU4Rec"]
    more = compare(models="Pop,EASE,GRU4Rec", seeds="2")
    assert sorted(here[2:]) == ["EASE", "GRU4Rec", "Pop", "Pop"]
    assert "2 runs are there and kept" in capsys.readouterr().err
    places = [(run.label, run.seed) for run in more.runs]
    assert places == [(m, s) for m in ("Pop", "EASE", "GRU4Rec") for s in (2020, 2021)]
    kept = more.runs[2]
    assert kept.test == first.runs[0].test
    assert kept.split_hash == more.runs[0].split_hash != more.runs[1].split_hash
    compare(models="Pop,EASE,GRU4Rec", seeds="2")
    assert len(here) == 6
    assert "of other rows" not in capsys.readouterr().err
    compare(models="Pop")
    assert "o: 5 runs of other rows, seeds or settings are kept, but are not of this command" in capsys.readouterr().err
    assert outputs.write(more, Path("o"))


def test_failed_runs_are_tried_again(here: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    compare(models="EASE,Pop")
    for status, model in ((FAILED, "EASE"), (DONE, "Pop")):
        folder = next(Path("o/runs").glob(f"{model}-*"))
        content = json.loads((folder / "result.json").read_text())
        content["status"] = status
        (folder / "result.json").write_text(json.dumps(content))
    again = compare(models="EASE,Pop")
    assert here == ["EASE", "Pop", "EASE"]
    assert all(run.status == DONE for run in again.runs)
    assert "1 runs are there and kept; 1 that failed are tried again" in capsys.readouterr().err


def test_another_comparison_is_refused(here: list[str]) -> None:
    compare(models="EASE")
    with pytest.raises(ConfigError, match="another comparison.*epochs: 2 there, 3 now"):
        compare(models="EASE", epochs="3")
    with pytest.raises(ConfigError, match=r"topk: \[5\] there, \[5, 8\] now"):
        compare(models="EASE", topk="[5,8]")
    Path("full").mkdir()
    Path("full/letter").write_text("mine")
    with pytest.raises(ConfigError, match="neither empty nor that of a comparison"):
        compare("full", models="EASE")
    assert [path.name for path in Path("full").iterdir()] == ["letter"]
    assert here == ["EASE"]


def test_another_split_is_an_error_of_the_run(here: list[str]) -> None:
    compare(models="EASE,Pop")
    file = next(Path("o/runs").glob("Pop-*")) / "result.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "split_hash": "another"}))
    runs = compare(models="EASE,Pop").runs
    assert [run.status for run in runs] == [DONE, FAILED]
    assert "its split is not that of EASE" in runs[1].reason


def test_a_full_disk_ends_the_comparison_and_keeps_what_is_done(
    here: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    executed = process.execute

    def full(specification: dict[str, Any], folder: str | None = None) -> dict[str, bytes]:
        if specification["job"]["model"] == "Pop":
            raise OSError(28, "No space left on device")
        return executed(specification, folder)

    monkeypatch.setattr(process, "execute", full)
    options = [f"--{name}={value}" for name, value in SMALL.items()]
    assert main(["compare", "--models=EASE,Pop", "--out=o", *options]) == 1
    assert "the disk is full" in capsys.readouterr().err
    monkeypatch.setattr(process, "execute", executed)
    assert main(["compare", "--models=EASE,Pop", "--out=o", *options]) == 0
    assert capsys.readouterr().err.splitlines()[-1] == f"{Path('o/report.html')}: the report, to open in a browser"
    assert here == ["EASE", "Pop"]


def test_tuning_goes_on_and_chooses_by_validation(here: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = compare("whole", models="EASE,Pop", trials="4", seeds="2")
    assert here.count("EASE") == 6
    trials = whole.runs[0].trials
    assert len(trials) == 4
    best = max(trials, key=lambda each: each["valid"])
    assert all(run.settings["reg_weight"] == best["settings"]["reg_weight"] for run in whole.runs[:2])
    assert whole.runs[0].valid["ndcg@5"] == pytest.approx(best["valid"])
    assert "Pop has nothing to tune: defaults." in whole.runs[2].notes
    untuned = compare("untuned", models="EASE,Pop", spaces="{'EASE': {'reg_weight': [1.0, 9.0]}}")
    said = "EASE has a search space, and was not tuned, for the plan has neither trials nor tuning_time."
    assert [said in run.notes for run in untuned.runs] == [True, False]

    executed, count = process.execute, 0

    def interrupted(specification: dict[str, Any], folder: str | None = None) -> dict[str, bytes]:
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt
        return executed(specification, folder)

    monkeypatch.setattr(process, "execute", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compare("parts", models="EASE", trials="4", seeds="2")
    del here[:]
    parts = compare("parts", models="EASE", trials="4", seeds="2")
    assert 4 <= len(here) <= 5  # two trials, or the third was the one interrupted; and both seeds
    values = [[(each["settings"], each["valid"]) for each in run.trials] for run in (parts.runs[0], whole.runs[0])]
    assert values[0] == values[1]
    assert parts.runs[1].test == whole.runs[1].test


def test_a_budget_by_time_is_the_same_for_all_rows_and_goes_on(
    here: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = {"EASE": 2.0, "ItemKNN": 9.0}
    monkeypatch.setattr(in_process, "measure", lambda job: replace(measure(job), seconds=seconds[job["model"]]))
    options = {"models": "EASE,ItemKNN", "tuning_time": "5", "seeds": "2"}
    whole = compare("whole", **options)
    of = {run.label: run.trials for run in whole.runs}
    # Trials begin after 0, 2 and 4 of 5 seconds; after the one of 9 seconds nothing is left.
    assert [len(of[label]) for label in ("EASE", "ItemKNN")] == [3, 1]
    assert [trial["seconds"] for trial in of["EASE"]] == [2.0] * 3
    assert [list(trial["settings"]) for trial in of["EASE"]] == [[], ["reg_weight"], ["reg_weight"]]
    best = max(of["EASE"], key=lambda each: each["valid"])
    assert whole.runs[0].settings.get("reg_weight") == best["settings"].get("reg_weight")
    untuned = compare("untuned", models="ItemKNN", seeds="2")
    assert [run.test for run in whole.runs[2:]] == [run.test for run in untuned.runs]
    text = outputs.write(whole, Path("whole")).replace("\n", " ")
    said = "5 s for each row with a search space; the first trial has the defaults, and the last may end later"
    assert f"Tuning: {said}. Trials: EASE 3, ItemKNN 1." in text
    assert f"Tuning | {said}. EASE: 3 trials (3 done), 6.0 s; ItemKNN: 1 trial (1 done), 9.0 s. Judged" in Path(
        "whole/checklist.md"
    ).read_text(encoding="utf-8")
    report = Path("whole/report.html").read_text(encoding="utf-8")
    assert f"{said}. Trials: EASE 3, ItemKNN 1." in report
    assert "the tuned options" in report

    execute, count = process.execute, 0

    def interrupted(specification: dict[str, Any], folder: str | None = None) -> dict[str, bytes]:
        nonlocal count
        count += specification["job"]["model"] == "EASE"
        if count == 3:
            raise KeyboardInterrupt
        return execute(specification, folder)

    with monkeypatch.context() as patch:
        patch.setattr(process, "execute", interrupted)
        with pytest.raises(KeyboardInterrupt):
            compare("parts", **options)
    del here[:]
    parts = compare("parts", **options)
    assert here.count("EASE") in (3, 4)  # the third trial, perhaps the second, which was just done; and both seeds
    assert [run.trials for run in parts.runs] == [run.trials for run in whole.runs]
    assert [run.test for run in parts.runs] == [run.test for run in whole.runs]
    with pytest.raises(ConfigError, match=r"tuning_time: 5.0 there, 6.0 now"):
        compare("parts", **{**options, "tuning_time": "6"})
    with pytest.raises(ConfigError, match=r"tuning_time: 5.0 there, None now"):
        compare("parts", models="EASE")


def test_trials_that_take_no_time_come_to_an_end(here: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(specification: dict[str, Any], folder: str | None = None) -> dict[str, bytes]:
        raise OSError("no process")

    monkeypatch.setattr(process, "execute", fails)
    (run,) = compare(models="EASE", tuning_time="3").runs
    assert run.status == FAILED
    assert run.reason.startswith("all 3 trials of its tuning failed: no process")


def test_a_comparison_of_an_older_version_goes_on(here: list[str]) -> None:
    """Which knew no budget by time."""
    compare(models="EASE")
    file = Path("o/comparison.json")
    content = json.loads(file.read_text())
    assert content.pop("tuning_time", "") is None
    file.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="tuning_time: None there, 3.0 now"):
        compare(models="EASE", tuning_time="3")
    compare(models="EASE")
    assert here == ["EASE"]


def test_a_kill_while_a_trial_is_written_loses_nothing(here: list[str]) -> None:
    compare(models="EASE", trials="2")
    file = next(Path("o/tuning").glob("*.journal"))
    whole = file.read_bytes()
    file.write_bytes(whole + b'{"op_code":4,"wor')
    file.with_name(f"{file.name}.lock").symlink_to("o/tuning/nothing")  # Optuna waits for this one to go
    del here[:]
    again = compare(models="EASE", trials="2")
    assert (here, len(again.runs[0].trials)) == ([], 2)
    file.write_bytes(b"nonsense\n" + whole)
    with pytest.raises(DataError, match="journal of these trials is damaged"):
        compare(models="EASE", trials="2")


def test_median_pruning() -> None:
    others = [[0.5] * 10, [0.6] * 10, [0.4] * 10, [0.5] * 10]
    prune = tuning.pruner(others, bigger=True)
    assert [prune(step, 0.1) for step in range(1, 8)] == [False] * 4 + [True] * 3
    prune = tuning.pruner(others, bigger=True)
    assert not any(prune(step, 0.7) for step in range(1, 8))
    prune = tuning.pruner(others[:3], bigger=True)
    assert not any(prune(step, 0.1) for step in range(1, 8))


def test_a_trial_that_is_worse_than_the_median_is_stopped_in_its_process() -> None:
    write_bad_models()
    for best, status, evaluations in ((2.0, "pruned", 5), (0.0, DONE, 6)):
        given = specification("MultDAE", others=[[best] * 6] * 4, bigger=True)
        given["job"] |= {"trial": True, "settings": {**given["job"]["settings"], "epochs": 6}}
        with process.children_end():
            process.execute(given, f"run{best}")
        run = Run.load(Path(f"run{best}"))
        assert (run.status, len(run.trials[0]["scores"])) == (status, evaluations)
        assert all(0 <= score <= 1 for score in run.trials[0]["scores"])
        assert run.seconds > 0


def test_time_limit() -> None:
    write_bad_models()
    given = specification("EASE", time_limit=0.2)
    given["job"]["trial"] = True
    with process.children_end():
        process.execute(given, "run")
    run = Run.load(Path("run"))
    assert (run.status, run.reason) == (TIMED_OUT, "not done after 0.2 s (time_limit)")
    assert run.seconds >= 0.2  # counts in a budget by time


@pytest.mark.usefixtures("registry")
def test_what_goes_wrong_in_a_run_is_its_own(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bad_models()
    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()))
    rows = "EASE,BPR,Raises,Greedy,Killed"
    held_out = "--eval_args={'split': {'HU': [6, 6]}, 'min_items': 2, 'mode': 'full'}"
    options = [f"--{name}={value}" for name, value in SMALL.items()]
    command = ["compare", f"--models={rows}", "--imports=bad_models", "--out=o"]
    assert main([*command, "--memory_limit=4", "--use_gpu=False", held_out, *options]) == 1
    printed = capsys.readouterr()
    runs = {run.label: run for run in map(Run.load, Path("o/runs").iterdir())}
    assert {label: run.status for label, run in runs.items()} == {
        "EASE": DONE, "BPR": REFUSED, "Raises": FAILED, "Greedy": OUT_OF_MEMORY, "Killed": OUT_OF_MEMORY,
    }  # fmt: skip
    assert runs["Raises"].reason == "it is not to be (RuntimeError)"
    assert "memory_limit: 4 GB" in runs["Greedy"].reason
    assert "signal 9" in runs["Killed"].reason
    assert "it is not to be" in printed.out
    assert "Traceback" not in printed.out + printed.err
    log = next(Path("o/runs").glob("Raises-*")) / "log.txt"
    assert "Traceback" in log.read_text()
    assert not list(Path("o/runs").glob("*/scratch"))


def until(what: Any, seconds: float = 60.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_after_a_kill_or_ctrl_c_the_same_command_goes_on(
    number: signal.Signals, here: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bad_models()
    started = Path("started").resolve()
    monkeypatch.setenv("STARTED", str(started))
    options = {**SMALL, "imports": "bad_models"}
    command = [sys.executable, "-m", "recbole_vae", "compare", "--models=EASE,Slow,Pop", "--out=o"]
    command += [f"--{name}={value}" for name, value in options.items()]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": "."}) as running:
        child = int(until(lambda: started.is_file() and started.read_text()))
        file = next(Path("o/runs").glob("EASE-*")) / "result.json"
        written = file.stat().st_mtime_ns
        running.send_signal(number)
        _, error = running.communicate(timeout=60)
    until(lambda: gone(child))
    if number == signal.SIGINT:
        assert running.returncode == 130
        assert "the same command goes on" in error
        assert "Traceback" not in error
        report = Path("o/report.html").read_text(encoding="utf-8")
        assert "3 rows, 1 of 3 runs done" in report
        assert "Slow: not run yet." in report
        assert "Pop: not run yet." in report
    del options["imports"]
    runs = compare(models="EASE,Pop", **options).runs
    assert here == ["Pop"]
    assert file.stat().st_mtime_ns == written
    for run in runs:
        own = measure(
            plan.read(None, {**SMALL, "models": run.model}).job("tiny", "default", plan.PlanRow(run.model, ""), 2020)
        )
        assert run.test == own.test
        assert run.users is not None
        assert own.users is not None
        np.testing.assert_array_equal(run.users.metrics["ndcg@5"], own.users.metrics["ndcg@5"])


@pytest.fixture
def cluster() -> Iterator[Any]:
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address=None
    ) as found:
        yield found


def test_dask_loses_nothing_with_a_worker(cluster: Any) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as thread:
        found = thread.submit(compare, models="EASE,Pop", scheduler=cluster.scheduler_address)
        busy = until(lambda: [w for w in cluster.scheduler.workers.values() if w.processing])
        pid = cluster.workers[busy[0].name].pid
        os.kill(pid, signal.SIGKILL)
        until(lambda: gone(pid))
        assert len(list(Path("o/runs").glob("*/result.json"))) < 2  # the other worker may be done
        runs = found.result(timeout=120).runs
    assert [run.status for run in runs] == [DONE, DONE]
    for run in runs:
        own = measure(
            plan.read(None, {**SMALL, "models": run.model}).job("tiny", "default", plan.PlanRow(run.model, ""), 2020)
        )
        assert run.test == own.test
    assert len(list(Path("o/runs").glob("*/users.npz"))) == 2


def test_no_scheduler() -> None:
    with pytest.raises(ConfigError, match="no Dask scheduler answers at nonsense://here"):
        compare(models="EASE", scheduler="nonsense://here")


def test_a_result_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot write"):
        Run("d", "p", "l", "m", 1).save(Path("/proc/self"))


def test_another_command_in_the_same_folder_is_refused() -> None:
    wanted = plan.read(None, {**SMALL, "models": "EASE"})
    message = r"^--out=o \(command line\): another command is at work in this folder\.$"
    with held(wanted, Path("o")), pytest.raises(ConfigError, match=message):
        compare(models="EASE")
    with held(wanted, Path("o")):
        pass


AS_ON_WINDOWS = """
import builtins, os
original = builtins.__import__

def imported(name, globals=None, *rest, **more):
    importer = str((globals or {}).get("__name__"))
    if name in ("fcntl", "resource") and importer.startswith(("recbole_vae", "filelock")):  # psutil of Linux needs them
        raise ImportError(name)
    return original(name, globals, *rest, **more)

builtins.__import__ = imported
del os.killpg  # and signal.SIGKILL, but subprocess needs it here
"""


# The limit must be long for Pop, whatever else the machine does; for Slow it is over once its model is made.
SOONER = """
import subprocess, time
waited = subprocess.Popen.wait

def wait(self, timeout=None):
    if timeout != 40 or "Slow" not in self.args[-1]:
        return waited(self, timeout)
    started = os.environ["STARTED"]
    while not (os.path.exists(started) and os.path.getsize(started)):
        time.sleep(0.05)
    raise subprocess.TimeoutExpired(self.args, timeout)

subprocess.Popen.wait = wait
"""


def test_a_comparison_needs_nothing_that_windows_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a limit of time and one of memory, in this process and in those of the runs."""
    write_bad_models()
    Path("sitecustomize.py").write_text(AS_ON_WINDOWS + SOONER)
    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()))
    monkeypatch.setenv("STARTED", str(Path("started").resolve()))
    options = [f"--{name}={value}" for name, value in {**SMALL, "epochs": "1", "imports": "bad_models"}.items()]
    command = [
        sys.executable,
        "-m",
        "recbole_vae",
        "compare",
        "--models=Pop,Slow",
        "--jobs=2",
        "--out=o",
        "--memory_limit=8",
    ]
    done = subprocess.run(
        [*command, "--time_limit=40", *options], capture_output=True, text=True, check=False, timeout=300
    )
    runs = {run.label: run for run in map(Run.load, Path("o/runs").iterdir())}
    assert {label: run.status for label, run in runs.items()} == {"Pop": DONE, "Slow": TIMED_OUT}, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert gone(int(Path("started").read_text()))
