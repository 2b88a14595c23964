"""A board whose plans, files or work folder were changed by somebody else, before or while a command is at work."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recbole_vae.compare import archive, board, board_report, plan, process, tables
from recbole_vae.compare.analysis import tables as analyse
from recbole_vae.compare.archive import Archive
from recbole_vae.compare.results import DONE, FAILED, OUT_OF_MEMORY, WAITING, Run
from tests.compare.test_board import (  # noqa: F401 - fixtures, too
    PLAN,
    Done,
    Ran,
    contents,
    data,
    do,
    done,
    ran,
    the_entry,
    write,
)

SMALL: dict[str, Any] = {"seeds": 1, "protocols": {}}
OTHER: dict[str, Any] = {"seeds": 1, "protocols": {"third": PLAN["protocols"]["halves"]}}
MORE = [*PLAN["rows"], "Random"]


def meanwhile(patch: pytest.MonkeyPatch, module: Any, name: str, happens: Callable[[], Any]) -> None:
    """Let something happen once, when a function is called."""
    function = getattr(module, name)

    def first(*words: Any) -> Any:
        patch.setattr(module, name, function)
        happens()
        return function(*words)

    patch.setattr(module, name, first)


def test_what_another_machine_did_is_not_done_again(ran: Ran, done: Done) -> None:  # noqa: F811
    done(**SMALL)
    for folder in Path("b/.work/tiny/runs").iterdir():
        run, users = Run.load(folder), folder / "users.npz"
        if run.model == "ItemKNN":
            replace(run, status=OUT_OF_MEMORY, users=None).save(folder)
            users.unlink()
        elif run.model == "EASE":
            users.write_bytes(users.read_bytes()[:-40])
    write(**SMALL, rows=MORE)
    assert do() == 0
    assert ran[3:] == [("Random", 2020)]
    assert {run.status for run in the_entry().comparison.runs} == {DONE}


def test_a_failed_run_never_takes_the_place_of_one_that_is_done(ran: Ran, done: Done) -> None:  # noqa: F811
    done(**SMALL)
    entry = the_entry()
    failed = [replace(run, status=FAILED, reason="no memory", users=None) for run in entry.comparison.runs]
    entry.archive.take(entry.plan, failed, entry.work)
    assert [run.status for run in entry.archive.runs.values()] == [DONE] * 3
    nothing = Archive()
    nothing.take(entry.plan, failed, entry.work)
    assert [run.status for run in nothing.runs.values()] == [FAILED] * 3
    nothing.take(entry.plan, [replace(run, reason="no time") for run in failed], entry.work)
    assert [run.reason for run in nothing.runs.values()] == ["no time"] * 3
    nothing.take(entry.plan, entry.comparison.runs, entry.work)
    assert [run.status for run in nothing.runs.values()] == [DONE] * 3


def test_a_journal_is_restored_where_the_kept_one_goes_on() -> None:
    folder = Path("work/tuning")
    folder.mkdir(parents=True)
    (folder / "behind").write_text("1\n")
    (folder / "other").write_text("1\n3\n")
    Archive(journals={"behind": "1\n2\n", "other": "1\n2\n", "new": "1\n"}).restore(Path("work"))
    assert {file.name: file.read_text() for file in folder.iterdir()} == {
        "behind": "1\n2\n", "other": "1\n3\n", "new": "1\n",
    }  # fmt: skip


def test_a_plan_that_was_renamed_without_its_results_is_said(
    ran: Ran,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    write(**SMALL, rows=["Pop"])
    do()
    Path("b/tiny.yaml").rename("b/new.yaml")
    for name, content in (("list", "[1]"), ("words", "a"), ("odd", '{"identity": {"datasets": 3, "protocols": {}}}')):
        Path(f"b/{name}.json").write_text(content)  # of somebody else
    capsys.readouterr()
    hint = (
        "b/new.yaml: tiny.json has the runs of such a plan. If you renamed it, stop, and rename tiny.json to new.json and "
        "tiny.parquet to new.parquet, too; else all its runs are done anew.\n"
    )
    write("new", **SMALL, rows=["Pop"], not_run={"Pop": "first see what is said"})
    assert do() == 0
    assert hint in capsys.readouterr().err
    # Plans with other settings, or of other data, are not such plans.
    others: list[dict[str, Any]] = [{"topk": [3]}, {"datasets": {"ml-100k": {}}}, {"protocols": {"other": {}}}]
    for other in others:
        write("new", **{**SMALL, **other}, rows=["Pop"], not_run={"Pop": "first see what is said"})
        assert do() == 0
        assert "renamed" not in capsys.readouterr().err
    write("new", **SMALL, rows=["Pop"])
    for suffix in ("json", "parquet"):
        Path(f"b/tiny.{suffix}").rename(f"b/new.{suffix}")
    assert do() == 0
    assert "renamed" not in capsys.readouterr().err
    assert ran == [("Pop", 2020)]


@pytest.mark.parametrize("changes", [{"rows": MORE}, {"datasets": {"tiny": {"user_inter_num_interval": "[1,inf)"}}}])
def test_a_plan_is_read_again_when_its_turn_comes(
    changes: dict[str, Any],
    ran: Ran,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write(**OTHER)
    file = write("z", **SMALL)
    meanwhile(monkeypatch, process, "execute", lambda: write("z", **{**SMALL, **changes}))
    assert do() == 0
    runs = 3 + (4 if "rows" in changes else 3)
    assert len(ran) == runs
    kept = json.loads(file.with_suffix(".json").read_text())
    assert kept["identity"] == plan.read(str(file), {}).identity()
    assert do() == 0
    assert len(ran) == runs


def test_a_row_that_is_added_while_another_plan_runs_is_done_in_its_turn(
    ran: Ran,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write("z", **SMALL)
    do()
    write(**OTHER)
    meanwhile(monkeypatch, process, "execute", lambda: write("z", **SMALL, rows=MORE))
    assert do() == 0
    assert ran[-1] == ("Random", 2020)


def test_a_plan_that_changes_during_its_own_runs_keeps_them(ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    file = write(**SMALL)
    before = plan.read(str(file), {}).identity()
    meanwhile(monkeypatch, process, "execute", lambda: write(seeds=1, protocols={}, rows=["Pop", "Random"], topk=[3]))
    assert do() == 1  # the runs of the new plan are left
    kept = archive.load(Path("b"), "tiny")
    assert kept.identity == before
    assert sorted(run.label for run in kept.runs.values()) == ["EASE 9", "ItemKNN", "Pop"]


def test_what_another_command_adds_meanwhile_stays(ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    def extended(seeds: int) -> None:
        write("z", protocols={}, seeds=seeds, alpha=0.01)
        assert do("--only=z") == 0

    write("z", **SMALL)
    do()
    write(**OTHER)
    with monkeypatch.context() as patch:  # while another plan runs
        meanwhile(patch, process, "execute", lambda: extended(2))
        assert do() == 0
    assert len(archive.load(Path("b"), "z").runs) == 6
    write("z", protocols={}, seeds=2)
    with monkeypatch.context() as patch:  # while the tests of another level are made
        meanwhile(patch, archive, "add_tests", lambda: extended(3))
        assert do() == 0
    assert len(archive.load(Path("b"), "z").runs) == 9
    assert len(ran) == 3 + 3 + 3 + 3


def test_one_command_waits_while_another_writes(
    ran: Ran,  # noqa: F811
    done: Done,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = done(**SMALL)
    mine, other = board.read_entry(file), board.read_entry(file)
    runs = mine.comparison.runs
    for entry in (mine, other):
        entry.archive.runs.clear()
        entry.archive.write(Path("b"), "tiny")
    monkeypatch.setattr(board, "PATIENCE", 0.01)
    load = archive.load
    waits = threading.Thread(target=lambda: other.keep(other.plan, runs[2:]))
    said: list[str] = []
    heard = threading.Event()

    def printed(text: str, **_: Any) -> None:
        said.append(text)
        heard.set()

    def slow(*words: Any) -> Archive:
        found = load(*words)
        if waits.ident is None:  # what this command read is old by the time that it writes
            waits.start()
            while waits.is_alive() and not heard.wait(0.05):
                pass
        return found

    monkeypatch.setattr(archive, "load", slow)
    monkeypatch.setattr(board, "print", printed, raising=False)
    mine.keep(mine.plan, runs[:2])
    waits.join()
    assert said == ["b/tiny.yaml: waiting for another command, which writes tiny.json"]
    assert sorted(run.label for run in load(Path("b"), "tiny").runs.values()) == ["EASE 9", "ItemKNN", "Pop"]


def test_what_git_brings_during_the_runs_stays(ran: Ran, done: Done, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    done(**SMALL)
    shutil.copytree("b", "clone")
    write(folder="clone", protocols={}, seeds=2)
    do(out="clone")
    write(**SMALL, rows=MORE)

    def pull() -> None:
        for name in ("tiny.json", "tiny.parquet"):
            shutil.copy(f"clone/{name}", f"b/{name}")

    meanwhile(monkeypatch, process, "execute", pull)
    assert do() == 0
    assert len(the_entry().archive.runs) == 7


def test_the_command_of_a_row_that_is_not_done_has_its_settings(ran: Ran) -> None:  # noqa: F811
    write(seeds=1, not_run={"EASE 9": "slow"})
    entry = the_entry()
    commands = dict(board_report._commands(entry, entry.tables[0]))
    waiting = {(run.protocol, run.label): run.settings for run in entry.comparison.runs}
    do()
    write(seeds=1)
    do()
    entry = the_entry()
    assert waiting == {(run.protocol, run.label): run.settings for run in entry.comparison.runs}
    assert commands == dict(board_report._commands(entry, entry.tables[0]))
    assert "0.6, 0.2, 0.2" in commands["EASE 9"]
    # What tuning will choose is not known, so only the plan makes the row.
    write(seeds=1, trials=2, rows=[{"model": "EASE", "space": {"reg_weight": [1.0, 5.0]}}])
    entry = the_entry()
    assert {run.status for run in entry.comparison.runs} == {WAITING}
    assert board_report._commands(entry, entry.tables[0]) == [("EASE", entry.command)]


def test_kept_tests_are_of_the_values_of_all_users(ran: Ran, done: Done, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    done(seeds=1)
    entry = the_entry()
    before = tables.tests_csv(entry.tables)
    run = next(run for run in entry.archive.runs.values() if run.label == "EASE 9" and run.protocol == "random")
    assert run.users is not None
    order = np.random.default_rng(0).permutation(len(run.users.ids))
    run.users.metrics = {name: values[order] for name, values in run.users.metrics.items()}
    entry.analyse()  # the means are the same
    after = tables.tests_csv(entry.tables)
    assert after == tables.tests_csv(analyse(entry.comparison))
    assert after != before

    def made(*_: Any) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr(archive, "add_tests", made)
    the_entry()
    monkeypatch.setattr(archive, "TESTS", archive.TESTS + 1)
    with pytest.raises(AssertionError, match="made again"):
        the_entry()


def test_tests_of_a_protocol_whose_name_begins_like_another_stay(ran: Ran) -> None:  # noqa: F811
    write(seeds=1, protocols={"random: x": PLAN["protocols"]["halves"], "random": PLAN["protocols"]["random"]})
    do()
    assert len(archive.load(Path("b"), "tiny").tests) == 2


def test_ranks_over_cells_are_of_all_seeds(ran: Ran, done: Done) -> None:  # noqa: F811
    done()

    def ranks(entry: board.Entry) -> str:
        return str(board_report.pages([entry])[0].sections[1].html)

    entry = the_entry()
    assert "3 models in 2 cells" in ranks(entry)
    gone = next(name for name, run in entry.archive.runs.items() if run.label == "EASE 9" and run.seed == 2021)
    del entry.archive.runs[gone]
    entry.analyse()
    assert "Left out, because values or seeds are missing: EASE 9." in ranks(entry)


@pytest.mark.usefixtures("ran")
def test_ranks_over_plans_with_other_levels_and_metrics_say_so() -> None:
    write(**OTHER)
    write("z", **SMALL)
    do()
    front = Path("b/index.html").read_text()
    assert "different alpha" not in front
    assert "not the same in all cells" not in front
    write(**OTHER, alpha=0.1)
    write("y", seeds=1, protocols={"fourth": {}}, primary="Recall@5", alpha=0.01)
    do()
    front = Path("b/index.html").read_text()
    assert (
        "The primary metric is not the same in all cells: NDCG@5 in tiny, third; Recall@5 in tiny, fourth; NDCG@5"
        in front
    )
    assert "The plans have different alpha: 0.01, 0.05, 0.1. Here the least holds." in front
    assert "(alpha = 0.01; Demsar" in front


def test_a_mistake_can_be_corrected_until_a_run_is_done(ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    def fails(specification: dict[str, Any], folder: str) -> dict[str, bytes]:
        Run("tiny", "", "", specification["job"]["model"], 2020, FAILED, "epochs").save(Path(folder))
        return {}

    write(**SMALL, settings={**PLAN["settings"], "epochs": 2})
    with monkeypatch.context() as patch:
        patch.setattr(process, "execute", fails)
        assert do() == 1
    write(**SMALL)
    assert do() == 0
    assert len(ran) == 3
    write(**SMALL, settings={**PLAN["settings"], "epochs": 2})
    assert do() == 2


def test_the_work_folder_of_another_plan_is_named(ran: Ran, done: Done, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    done(**SMALL)
    for name in ("tiny.json", "tiny.parquet"):
        Path("b", name).unlink()
    write(**SMALL, topk=[3])
    capsys.readouterr()
    assert do() == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "b/.work/tiny: another comparison is in this folder: topk: [5] there, [3] now; " in said
    assert "Remove b/.work/tiny, and give the same command again" in said
    assert "--out" not in said
    shutil.rmtree("b/.work/tiny")
    assert do() == 0


def test_git_ignores_the_work_folder_of_a_board_with_a_gitignore(ran: Ran, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    write(**SMALL, rows=["Pop"])
    Path("b/.gitignore").write_text("*.log\n")
    do()
    assert contents()[".gitignore"] == b"*.log\n"
    assert Path("b/.work/.gitignore").read_text() == "*\n"
    assert "b/tiny.yaml: 1 run to do\n" in capsys.readouterr().err
