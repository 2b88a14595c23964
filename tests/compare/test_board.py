"""A board: what is missing runs, what is there stays, and a clone without the work folder is as good as the original."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from recbole_vae.cli.main import main
from recbole_vae.compare import archive, board, board_charts, board_report, plan, plan_file, process, runner, tables
from recbole_vae.compare.analysis import tables as analyse
from recbole_vae.compare.board_charts import Point
from recbole_vae.compare.results import DONE, FAILED, NOT_RUN, WAITING, Comparison, Run
from recbole_vae.errors import ConfigError, DataError
from recbole_vae.storage import files
from tests.browser import needs_browser, opened
from tests.conftest import random_rows, write_inter

from .in_process import run_in_process
from .test_outputs import HOSTILE
from .test_report import Reader

PLAN: dict[str, Any] = {
    "datasets": {"tiny": {}},
    "protocols": {
        "random": {"eval_args": {"split": {"RS": [0.6, 0.2, 0.2]}, "group_by": "user", "order": "RO", "mode": "full"}},
        "halves": {"eval_args": {"split": {"RS": [0.4, 0.3, 0.3]}, "group_by": "user", "order": "RO", "mode": "full"}},
    },
    "settings": {"data_path": "data", "epochs": 1},
    "seeds": 2, "topk": [5], "max_k": 6,
    "rows": ["Pop", {"model": "EASE", "label": "EASE 9", "settings": {"reg_weight": 9.0}}, "ItemKNN"],
}  # fmt: skip

Ran = list[tuple[str, int]]
Done = Callable[..., Path]


@pytest.fixture(autouse=True)
def data() -> str:
    return write_inter(random_rows())


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> Ran:
    """Do the runs in this process; return the model and seed of each in their order."""
    found: Ran = []
    run_in_process(monkeypatch, lambda job: found.append((job["model"], job["seed"])))
    return found


_boards: dict[str, tuple[Path, Ran]] = {}
"""Boards that tests share, by their changes of the plan: a copy of the folder, and what ran."""


@pytest.fixture
def done(ran: Ran, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """Return :func:`write` with all runs done, as by :func:`do`, though they are done once for all tests."""

    def made(**changes: Any) -> Path:
        file, key = write(**changes), repr(changes)
        if key not in _boards:
            assert do() == 0
            _boards[key] = tmp_path_factory.mktemp("board") / "b", [*ran]
            shutil.copytree("b", _boards[key][0])
        else:
            folder, runs = _boards[key]
            shutil.copytree(folder, "b", dirs_exist_ok=True)
            ran.extend(runs)
        return file

    return made


def write(name: str = "tiny", folder: str = "b", **changes: Any) -> Path:
    """Write a plan, changed."""
    file = Path(folder) / f"{name}.yaml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(yaml.safe_dump({**PLAN, **changes}, sort_keys=False), encoding="utf-8")
    return file


def do(*words: str, out: str = "b") -> int:
    return main(["board", f"--out={out}", *words])


def the_entry(folder: str = "b") -> board.Entry:
    (entry,) = board.read(Path(folder))
    entry.analyse()
    return entry


def csv(comparison: Comparison) -> str:
    """Return all numbers of a comparison, with all their digits."""
    found = analyse(comparison)
    return tables.table_csv(found) + tables.tests_csv(found)


def contents(folder: str = "b") -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.is_file()}


def test_a_board_goes_on_in_a_clone_with_the_same_numbers(
    ran: Ran, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[Comparison] = []
    compare = runner.compare

    def kept(*words: Any) -> Comparison:
        made.append(compare(*words))
        return made[-1]

    monkeypatch.setattr(runner, "compare", kept)
    write()
    assert do() == 0
    assert len(ran) == 12
    printed = capsys.readouterr()
    assert "tiny, random: Best by NDCG@5: " in printed.out
    assert "b/index.html: the board, to open in a browser" in printed.err
    assert set(contents()) == {".gitignore", "tiny.yaml", "tiny.json", "tiny.parquet", "tiny.html", "index.html"}
    assert {".work/", "*.html"} <= set(Path("b/.gitignore").read_text().split())
    # What is kept is what was measured, bit for bit.
    entry = the_entry()
    assert csv(entry.comparison) == csv(made[0])
    assert [run.split_hash for run in entry.comparison.runs] == [run.split_hash for run in made[0].runs]
    before = contents()
    assert do() == 0
    assert contents() == before
    assert len(made) == 1  # nothing is missing, so nothing is looked for
    shutil.copytree("b", "clone", ignore=shutil.ignore_patterns(".work", "*.html"))
    assert do(out="clone") == 0
    assert len(ran) == 12
    assert {name: content for name, content in contents("clone").items() if not name.endswith("html")} == {
        name: content for name, content in before.items() if not name.endswith("html")
    }
    # One line adds a row, and only its runs are done; the others are restored for it.
    write(folder="clone", rows=[*PLAN["rows"], "Random"])
    assert do("--only=tiny", "--jobs=1", out="clone") == 0
    assert sorted(ran[12:]) == [("Random", 2020), ("Random", 2020), ("Random", 2021), ("Random", 2021)]
    grown = the_entry("clone")
    assert {run.label for run in grown.comparison.runs} == {"Pop", "EASE 9", "ItemKNN", "Random"}
    again = [run for run in grown.comparison.runs if run.label != "Random"]
    assert tables.table_csv(analyse(replace(grown.comparison, runs=again))) == tables.table_csv(analyse(made[0]))


def test_the_restored_folder_is_one_of_compare(ran: Ran, done: Done) -> None:
    file = done()
    entry = the_entry()
    entry.archive.restore(Path("restored"))
    comparison = runner.compare(plan.read(str(file), {}), Path("restored"), "command")
    assert len(ran) == 12
    assert csv(comparison) == csv(entry.comparison)


def test_tests_are_made_once_and_kept(ran: Ran, done: Done, monkeypatch: pytest.MonkeyPatch) -> None:
    file = done()
    fresh = analyse(the_entry().comparison)

    def made(*_: Any) -> None:
        raise AssertionError("made again")

    with monkeypatch.context() as patch:
        patch.setattr(archive, "add_tests", made)
        kept = the_entry().tables
        assert tables.tests_csv(kept) == tables.tests_csv(fresh)
        assert [(t.compared, t.samples, t.untested) for t in kept] == [
            (t.compared, t.samples, t.untested) for t in fresh
        ]
        write(alpha=0.01)
        with pytest.raises(AssertionError, match="made again"):
            the_entry()
    do()
    assert {table.alpha for table in the_entry().tables} == {0.01}
    kept_json = json.loads(file.with_suffix(".json").read_text())
    assert len(kept_json["tests"]) == 2  # those of the other level are gone


def test_a_test_without_a_number_is_kept_as_valid_json(ran: Ran, done: Done) -> None:
    done()
    entry = the_entry()
    key, test = next(iter(entry.tables[0].pairs.items()))
    test.relative = (float("nan"), 0.5, float("nan"))
    plain = json.loads(json.dumps(archive._plain(entry.tables[0]), allow_nan=False))
    test.relative = (1.0, 1.0, 1.0)
    archive._restore(entry.tables[0], plain)
    found = entry.tables[0].pairs[key]
    assert np.isnan(found.relative[0])
    assert found.relative[1] == 0.5
    assert found.difference == test.difference


def test_rows_that_go_or_change_are_kept_and_said(ran: Ran, done: Done, capsys: pytest.CaptureFixture[str]) -> None:
    done()
    write(rows=PLAN["rows"][:2])
    assert do() == 0
    assert len(ran) == 12
    assert "4 runs of other rows, seeds or settings are kept in tiny.json, and not shown" in capsys.readouterr().err
    page = Path("b/tiny.html").read_text()
    assert "4 runs of other rows, seeds or settings are kept, and not shown." in page
    assert "ItemKNN" not in page
    write(rows=["Pop", {"model": "EASE", "label": "EASE 9", "settings": {"reg_weight": 7.0}}])
    entry = the_entry()  # as the documentation shows it, without a run
    assert [run.status for run in entry.comparison.runs if run.label == "EASE 9"] == [WAITING] * 4
    assert entry.hidden == 8
    assert do() == 0
    assert ran[12:] == [("EASE", 2020), ("EASE", 2021)] * 2
    shutil.rmtree("b/.work")
    write(seeds=3)
    assert do() == 0
    assert sorted(ran[16:]) == sorted([("Pop", 2022), ("EASE", 2022), ("ItemKNN", 2022)] * 2)
    assert the_entry().hidden == 4  # with reg_weight: 7


def test_a_plan_of_other_runs_is_refused(ran: Ran, done: Done, capsys: pytest.CaptureFixture[str]) -> None:
    done(seeds=1)
    before = contents()
    write(seeds=1, topk=[3])
    assert do() == 2
    said = capsys.readouterr().err
    assert "b/tiny.yaml: the runs in tiny.json are of another plan: topk: [5] there, [3] now" in said
    assert "remove tiny.json, tiny.parquet and .work/tiny" in said
    assert {name: content for name, content in contents().items() if name != "tiny.yaml"} == {
        name: content for name, content in before.items() if name != "tiny.yaml"
    }
    entry = the_entry()  # to be seen it need not be run
    assert {run.status for run in entry.comparison.runs} == {WAITING}
    # Data sets and protocols may come.
    write(seeds=1, protocols={**PLAN["protocols"], "new": PLAN["protocols"]["random"]})
    assert do() == 0
    assert len(ran) == 9


def test_ctrl_c_keeps_what_is_done(
    ran: Ran, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write()
    execute = process.execute
    done: list[dict[str, bytes]] = []

    def interrupted(*words: Any) -> dict[str, bytes]:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(execute(*words))
        return {}

    with monkeypatch.context() as patch:
        patch.setattr(process, "execute", interrupted)
        assert do() == 130
    assert "b: what is done is kept; the same command goes on" in capsys.readouterr().err
    # That which was just done may be in the work folder alone.
    assert sum(run.status == DONE for run in the_entry().comparison.runs) in (2, 3)
    assert do() == 0
    assert len(ran) == 12


def test_what_fails_is_shown_and_tried_again(ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    write(seeds=1)
    execute = process.execute

    def fails(specification: dict[str, Any], folder: str) -> dict[str, bytes]:
        if specification["job"]["model"] != "ItemKNN":
            return execute(specification, folder)
        Run("tiny", "", "ItemKNN", "ItemKNN", 2020, FAILED, "it is not to be").save(Path(folder))
        return {}

    with monkeypatch.context() as patch:
        patch.setattr(process, "execute", fails)
        assert do() == 1
    assert "ItemKNN: failed: it is not to be." in Path("b/tiny.html").read_text()
    shutil.copytree("b", "clone", ignore=shutil.ignore_patterns(".work"))
    assert do(out="clone") == 0
    assert ran[4:] == [("ItemKNN", 2020)] * 2


def test_a_killed_command_loses_nothing(ran: Ran, done: Done) -> None:
    """The archive is written at the end of a plan; until then the runs are in the work folder alone."""
    done()
    for name in ("tiny.json", "tiny.parquet"):
        Path("b", name).unlink()
    assert do() == 0
    assert len(ran) == 12
    # Killed between the two files: the Parquet file has more runs than the JSON file.
    old = Path("b/tiny.json").read_bytes()
    write(seeds=3)
    do()
    Path("b/tiny.json").write_bytes(old)
    assert sum(run.status == DONE for run in the_entry().comparison.runs) == 12
    assert do() == 0
    assert len(ran) == 18


def test_tuned_rows_go_on_in_a_clone(ran: Ran) -> None:
    rows = ["Pop", {"model": "EASE", "space": {"reg_weight": [1.0, 5.0, 20.0]}}]
    write(rows=rows, trials=2, protocols={})
    assert do() == 0
    assert len(ran) == 2 + 2 + 2
    entry = the_entry()
    tuned = [run for run in entry.comparison.runs if run.label == "EASE"]
    assert [len(run.trials) for run in tuned] == [2, 2]
    assert all("reg_weight" in run.settings for run in tuned)
    shutil.copytree("b", "clone", ignore=shutil.ignore_patterns(".work"))
    write(folder="clone", rows=rows, trials=2, protocols={}, seeds=3)
    assert do(out="clone") == 0
    assert sorted(ran[6:]) == [("EASE", 2022), ("Pop", 2022)]
    grown = the_entry("clone")
    assert {run.settings["reg_weight"] for run in grown.comparison.runs if run.label == "EASE"} == {
        tuned[0].settings["reg_weight"]
    }
    # Nor would those of two trials be those of three, of none, or of some time.
    budgets: list[dict[str, Any]] = [{"trials": 3}, {}, {"tuning_time": 60}]
    for budget in budgets:
        write(rows=rows, **budget, protocols={})
        assert {run.status for run in the_entry().comparison.runs if run.label == "EASE"} == {WAITING}
    # Runs that were tuned in another space are not shown as if they were of this one.
    write(rows=["Pop", {"model": "EASE", "space": {"reg_weight": [1.0, 5.0, 20.0, 40.0]}}], trials=2, protocols={})
    assert {run.status for run in the_entry().comparison.runs if run.label == "EASE"} == {WAITING}


def test_a_row_is_shown_and_not_run(ran: Ran) -> None:
    write(not_run={"ItemKNN": "it takes <a day>"})
    assert do() == 0
    assert {model for model, _ in ran} == {"Pop", "EASE"}
    assert {run.status for run in the_entry().comparison.runs if run.label == "ItemKNN"} == {NOT_RUN}
    page = Path("b/tiny.html").read_text()
    assert "3 rows, 8 of 8 runs done; 4 are not to be run." in page
    assert "ItemKNN: not run: it takes &lt;a day&gt;." in page
    assert ">not run" in page
    front = Path("b/index.html").read_text()
    assert "3 models; 8 of 8 runs done; 4 are not to be run." in front
    assert front.count('<td data-value="2">2 of 3</td>') == 2
    assert "Left out, because values or seeds are missing: ItemKNN." in front
    assert "at least 3 models that are done in at least 2 cells in common; there are 2 models in 2 cells" in front
    # compare reads the same plan.
    assert main(["compare", "--config=b/tiny.yaml", "--out=c"]) == 0
    assert "tiny,random,ItemKNN,ItemKNN,ndcg@5,,,0,2,not run" in Path("c/table.csv").read_text()
    assert {model for model, _ in ran} == {"Pop", "EASE"}
    assert "3 rows, 8 of 8 runs done; 4 are not to be run." in Path("c/report.html").read_text()
    # Whoever asks for a model gets it.
    assert plan.read("b/tiny.yaml", {"models": "ItemKNN"}).to_run() != []


def test_lists_of_other_tools_stay_in_a_clone_without_their_files(ran: Ran) -> None:
    lines = [f"u{user},i{item}" for user in range(40) for item in range(25)]
    Path("lists.csv").write_text("\n".join(["user_id,item_id", *lines]))
    plans: dict[str, Any] = {"protocols": {}, "seeds": 1, "lists": {"Ours": "lists.csv"}}
    write(**plans)
    assert do() == 0
    assert sorted(ran) == [("EASE", 2020), ("ItemKNN", 2020), ("Pop", 2020), ("lists", 2020)]
    before = csv(the_entry().comparison)
    assert "Ours (lists),lists,ndcg@5,0." in before
    page = Path("b/tiny.html").read_text()
    assert "Ours (lists)" in page
    assert "<dt>Lists of other tools</dt><dd>Ours (lists): lists.csv (SHA-256 " in page
    Path("lists.csv").rename("elsewhere.csv")
    assert csv(the_entry().comparison) == before
    shutil.rmtree("b/.work")
    assert do() == 0
    write(**plans, rows=[*PLAN["rows"], "Random"])
    assert do() == 0
    assert ran[4:] == [("Random", 2020)]
    assert {run.status for run in the_entry().comparison.runs} == {DONE}
    # Another file of this name is another row's worth of lists.
    Path("lists.csv").write_text("\n".join(["user_id,item_id", *lines[::-1]]))
    assert [run.status for run in the_entry().comparison.runs if run.lists or run.status != DONE] == [WAITING]
    assert do() == 0
    assert ran[5:] == [("lists", 2020)]
    # Without the file, the last one is meant.
    after = csv(the_entry().comparison)
    Path("lists.csv").unlink()
    assert csv(the_entry().comparison) == after != before


def test_published_numbers_stand_beside_ours(ran: Ran, done: Done) -> None:
    done()
    ours = the_entry().tables[0].row("Pop").over_seeds("ndcg@5")
    assert ours is not None
    published = {
        "random": {
            "Pop": {"NDCG@5": round(ours[0] - 0.004, 6), "source": "Somebody, https://example.org/t?a=1&b=2"},
            "EASE 9": {"NDCG@5": 1.0, "recall@5": 1.0, "source": "table 3", "note": "other <users>"},
            "ItemKNN": {"NDCG@5": 1.0, "source": "table 4"},
            "BSPM": {"NDCG@5": 0.3, "source": "table 5"},
        }
    }
    write(published=published)
    lines = board_report._published(the_entry().plan, the_entry().tables[0])
    assert [(line["label"], line["metric"], line["unexplained"]) for line in lines] == [
        ("Pop", "NDCG@5", False), ("EASE 9", "NDCG@5", False), ("EASE 9", "Recall@5", False), ("ItemKNN", "NDCG@5", True),
        ("BSPM", "NDCG@5", False),
    ]  # fmt: skip
    assert lines[0]["difference"].text == "+0.0040"
    assert lines[0]["here"].value == ours[0]
    assert lines[-1]["here"].text == "no such row"
    assert board_report._published(the_entry().plan, the_entry().tables[1]) == []
    assert do() == 0
    page = Path("b/tiny.html").read_text()
    assert '<a href="https://example.org/t?a=1&amp;b=2"' in page
    assert "other &lt;users&gt;" in page
    assert page.count("not explained") == 1


DAMAGE: dict[str, tuple[str, Callable[[bytes], bytes | None], str]] = {
    "half": ("tiny.json", lambda content: content[: len(content) // 2], "tiny.json: damaged, or not the results of a board"),
    "foreign": ("tiny.json", lambda _: b'{"runs": []}', "tiny.json: damaged, or not the results of a board ('format')"),
    "list": ("tiny.json", lambda _: b"[1]", "tiny.json: damaged, or not the results of a board"),
    "format": (
        "tiny.json", lambda content: content.replace(b'"format": 1', b'"format": 9'), "its format is 9, and this version",
    ),
    "key": ("tiny.json", lambda content: content.replace(b'"split_hash"', b'"spilt_hash"'), "tiny.json: damaged"),
    "number": (
        "tiny.json", lambda content: content.replace(b'"ndcg@5": 0.', b'"ndcg@5": 1.', 1), "does not belong to b/tiny.json"
    ),
    "gone": ("tiny.parquet", lambda _: None, "tiny.parquet: cannot be read, or is damaged (No such file or directory)"),
    "cut": ("tiny.parquet", lambda content: content[:-50], "tiny.parquet: "),
    "words": ("tiny.parquet", lambda _: b"PAR1 of somebody else PAR1", "tiny.parquet: "),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_or_foreign_file_is_named(
    damage: str, ran: Ran, done: Done, capsys: pytest.CaptureFixture[str]
) -> None:
    done(seeds=1, protocols={})
    name, change, words = DAMAGE[damage]
    file = Path("b", name)
    changed = change(file.read_bytes())
    if changed is None:
        file.unlink()
    else:
        assert changed != file.read_bytes()
        file.write_bytes(changed)
    before = contents()
    capsys.readouterr()
    assert do() == 1
    assert words in capsys.readouterr().err
    assert contents() == before


def test_no_damaged_byte_becomes_another_number(ran: Ran, done: Done) -> None:
    done(seeds=1, protocols={})
    file = Path("b/tiny.parquet")
    good, before = file.read_bytes(), csv(the_entry().comparison)
    for place in range(4, len(good), max(1, len(good) // 25)):
        file.write_bytes(good[:place] + bytes([good[place] ^ 0x10]) + good[place + 1 :])
        try:
            said, found = "", csv(the_entry().comparison)
        except DataError as error:
            said, found = str(error), before
        assert not said or said.startswith(str(file))
        assert found == before, place


def test_the_users_of_another_board_are_refused(ran: Ran, done: Done) -> None:
    done(seeds=1, protocols={})
    write_inter(random_rows(seed=5))
    write(folder="other", seeds=1, protocols={})
    do(out="other")
    shutil.copy("other/tiny.parquet", "b/tiny.parquet")
    with pytest.raises(
        DataError, match=r"b/tiny.parquet: damaged, or does not belong to b/tiny.json: the users of \w+-2020-"
    ):
        board.read(Path("b"))


def _mistakes() -> dict[str, tuple[Callable[[], Any], list[str], str]]:
    def text(name: str, content: str) -> Callable[[], Any]:
        def make() -> None:
            write()
            Path("b", name).write_text(content, encoding="utf-8")

        return make

    other = {**PLAN, "protocols": {"halves": {}, "third": {}}}
    return {
        "no folder": (lambda: None, [], "--out=b (command line): there is no such folder"),
        "a file": (lambda: Path("b").write_text(""), [], "--out=b (command line): there is no such folder"),
        "no plans": (lambda: Path("b").mkdir(), [], "there is no plan in this folder. Write one for each"),
        "an error": (text("z.yaml", "dataset: tiny\nseeds: 2\ntopk: [0]\n"), [], "topk: [0] (b/z.yaml, line 3) is not allowed"),
        "no YAML": (text("z.yaml", "dataset: tiny\nrows: [\n"), [], "b/z.yaml, line 3: not valid YAML"),
        "a key": (text("z.yaml", "dataset: tiny\npublishd: {}\n"), [], "publishd (b/z.yaml, line 2): a plan has no"),
        "two plans": (text("z.yaml", yaml.safe_dump(other)), [], "b/z.yaml: b/tiny.yaml has the data set tiny with"),
        "yml": (text("z.yml", "dataset: tiny\n"), [], "b/z.yml: the name of a plan must end in .yaml; rename it to z.yaml."),
        "a name": (text("a b&.yaml", "dataset: tiny\n"), [], "b/a b&.yaml: the name of a plan is that of its page, too"),
        "hidden": (text(".a.yaml", "dataset: tiny\n"), [], "b/.a.yaml: the name of a plan is that of its page, too"),
        "index": (text("Index.yaml", "dataset: tiny\n"), [], "b/Index.yaml: index.html is the page of all plans"),
        "only": (write, ["--only=tinny"], "only: tinny (command line): there is no plan of this name; did you"),
        "a file for the runs": (text(".work", "mine"), [], "b/.work: File exists; its runs are kept in the folder b/"),
        "an option": (write, ["--epochs=3"], "--epochs (command line): board has no such option"),
    }  # fmt: skip


@pytest.mark.parametrize("mistake", _mistakes())
def test_mistakes_are_named(mistake: str, ran: Ran, capsys: pytest.CaptureFixture[str]) -> None:
    make, words, expected = _mistakes()[mistake]
    make()
    assert do(*words) == 2
    assert expected in capsys.readouterr().err
    assert not ran
    assert not list(Path().glob("b/*.html"))


def test_a_plan_is_read_once(ran: Ran, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Before the runs; after them it may have changed."""
    happened: list[str] = []
    load, execute = plan_file.load, process.execute

    def noted(file: str) -> Any:
        happened.append("read")
        return load(file)

    def noted_run(*words: Any) -> dict[str, bytes]:
        happened.append("run")
        return execute(*words)

    monkeypatch.setattr("recbole_vae.compare.plan.load", noted)
    monkeypatch.setattr(process, "execute", noted_run)
    write(seeds=1, protocols={}, rows=["Pop"], energy=True)
    assert do("--jobs=2") == 2
    assert "energy (b/tiny.yaml, line" in capsys.readouterr().err
    del happened[:]
    write(seeds=1, protocols={}, rows=["Pop"])
    assert do("--jobs=1") == 0
    assert happened == ["read", "run", "read"]
    del happened[:]
    write(seeds=1, protocols={}, rows=["Pop"], energy=True)
    assert do("--jobs=2") == 0  # there is nothing to run
    assert happened == ["read"]


def test_data_are_needed_only_for_runs(ran: Ran, done: Done, capsys: pytest.CaptureFixture[str]) -> None:
    done(seeds=1)
    shutil.rmtree("data")
    assert do() == 0
    write(seeds=1, rows=[*PLAN["rows"], "Random"])
    capsys.readouterr()
    assert do() == 2
    assert "there is no file data/tiny/tiny.inter" in capsys.readouterr().err
    # It is found before the runs of any plan.
    other = write("a", seeds=1, protocols={}, datasets={"ml-100k": {}}, rows=["Pop"])
    assert do() == 2
    assert len(ran) == 6
    other.unlink()
    assert sum(run.status == DONE for run in the_entry().comparison.runs) == 6


def test_a_file_that_cannot_be_written_changes_nothing(ran: Ran, done: Done, monkeypatch: pytest.MonkeyPatch) -> None:
    done(seeds=1)
    before = contents()
    write(seeds=2)
    written = files.write_whole

    def full(path: Path, content: bytes) -> None:
        if path.name == "tiny.json":
            raise DataError(f"{path}: cannot write this file: No space left on device.")
        written(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(archive, "write_whole", full)
        assert do() == 1
    assert Path("b/tiny.json").read_bytes() == before["tiny.json"]
    assert sum(run.status == DONE for run in the_entry().comparison.runs) == 6
    assert do() == 0
    assert len(ran) == 12


def test_an_archive_of_an_older_version_goes_on(ran: Ran, done: Done, capsys: pytest.CaptureFixture[str]) -> None:
    """Which knew no budget by time."""
    file = done(seeds=1, protocols={}).with_suffix(".json")
    now = file.read_text()
    file.write_text(now.replace(', "tuning_time": null', ""))
    assert file.read_text() != now
    shutil.rmtree("b/.work")
    write(seeds=1, protocols={}, tuning_time=60)
    assert do() == 2
    assert "tuning_time: None there, 60.0 now" in capsys.readouterr().err
    write(seeds=1, protocols={}, rows=[*PLAN["rows"], "Random"])
    assert do() == 0
    assert ran[3:] == [("Random", 2020)]


@pytest.mark.usefixtures("ran")
def test_pages_are_whole_and_load_nothing() -> None:
    rows: list[Any] = [*PLAN["rows"][:2], {"model": "ItemKNN", "label": HOSTILE}]
    write(seeds=1, rows=rows, published={"random": {HOSTILE: {"NDCG@5": 0.1, "source": HOSTILE, "note": HOSTILE}}})
    write("z", seeds=1, protocols={"third": {}}, rows=rows)
    assert do() == 0
    for name in ("index", "tiny", "z"):
        page = Path(f"b/{name}.html").read_text()
        reader = Reader()
        reader.feed(page)
        assert not reader.open
        assert reader.loads == ["data:,"]
        assert reader.tags.count("script") == 1
        assert "<script>alert" not in page
    front = Path("b/index.html").read_text()
    assert front.count('<a href="tiny.html">') == 2
    assert '<a href="z.html">tiny, third</a>' in front
    assert "3 models in 3 cells" in front
    assert "Cells with the same data set depend on each other" in front
    assert "3 cells are too few. The least p-value that they allow is 0.25, and 0.75 after the correction." in front


@needs_browser
@pytest.mark.usefixtures("ran")
@pytest.mark.parametrize("dark", [False, True])
def test_tables_are_sorted_and_filtered_by_hand(done: Done, tmp_path: Path, dark: bool) -> None:
    done(seeds=1)
    probe = """(() => {
        const table = document.querySelector("table.sorted");
        const names = () => [...table.tBodies[0].rows].filter(row => !row.hidden).map(row => row.cells[0].textContent);
        const button = table.querySelectorAll("thead button")[0];
        button.focus();
        const found = [document.activeElement === button];
        button.click(); found.push(names());
        button.click(); found.push(names());
        table.querySelectorAll("thead button")[1].click(); found.push(names());
        const input = document.querySelector("[data-filter]");
        input.value = "ease"; input.dispatchEvent(new Event("input")); found.push(names());
        found.push(document.querySelector("[data-shown]").textContent.split(" ")[0] !== "0");
        input.value = ""; input.dispatchEvent(new Event("input")); found.push(names().length);
        found.push(document.documentElement.scrollWidth <= innerWidth);
        return found;
    })()"""
    _, found = opened(Path("b/tiny.html").read_text(), tmp_path / "page", 1000, probe, dark)
    by_recall = [
        row.label
        for row in sorted(the_entry().tables[0].rows, key=lambda row: -(row.over_seeds("recall@5") or (0,))[0])
    ]
    names = ["EASE 9", "ItemKNN", "Pop"]
    assert found == [True, names, names[::-1], by_recall, ["EASE 9"], True, 3, True]
    _, narrow = opened(
        Path("b/index.html").read_text(), tmp_path / "front", 500, "document.documentElement.scrollWidth <= innerWidth"
    )
    assert narrow


def test_the_frontier_has_what_no_other_beats() -> None:
    rng = np.random.default_rng(0)
    points = [Point(str(n), float(x), float(y), False, "") for n, (x, y) in enumerate(rng.integers(1, 6, (30, 2)))]
    found = board_charts.frontier(points)
    expected = {
        (p.x, p.y) for p in points if not any((q.x <= p.x and q.y >= p.y) and (q.x, q.y) != (p.x, p.y) for q in points)
    }
    assert {(point.x, point.y) for point in found} == expected
    assert [point.x for point in found] == sorted({x for x, _ in expected})


def test_labels_of_a_chart_lie_apart() -> None:
    places = [(100.0 + 3 * n, 100.0 + 2 * n) for n in range(8)]
    names = [f"Model {n}" for n in range(8)]
    found = board_charts._labels(names, places, (0.0, 0.0, 500.0, 300.0), [])
    boxes = [(x - 26, y - 6, x + 26, y + 6) for x, y, _ in found]
    for number, box in enumerate(boxes):
        assert not any(board_charts._overlap(box, other) for other in boxes[:number])
        assert box[0] >= 0
        assert box[2] <= 500


def test_the_diagram_has_each_model_at_its_rank() -> None:
    drawn = board_charts.critical_difference(
        ["A", "B<", "C"], [1.25, 2.0, 2.75], 1.0, [[0, 1], [1, 2]], [True, False, False]
    )
    assert drawn.count('class="group"') == 2
    assert "A 1.25" in drawn
    assert "2.75 C" in drawn
    assert "B&lt; 2.00" in drawn
    assert "critical difference 1.00" in drawn


def test_two_commands_at_once_are_refused(ran: Ran, capsys: pytest.CaptureFixture[str]) -> None:
    from recbole_vae.compare.folder import held

    file = write(seeds=1)
    planned = plan.read(str(file), {})
    with held(planned, Path("b/.work/tiny")):
        assert do() == 2
    assert "b/tiny.yaml: another command is doing the runs of this plan" in capsys.readouterr().err
    # Nor does it touch the folder that the other one works in.
    assert do() == 0
    gone = next(Path("b/.work/tiny/runs").iterdir())
    shutil.rmtree(gone)
    write(seeds=2)
    with held(planned, Path("b/.work/tiny")):
        assert do() == 2
        assert not gone.exists()
    assert do() == 0
    assert len(ran) == 12


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"not_run": {"Eas": "slow"}}, "not_run: {'Eas': 'slow'} (b/tiny.yaml, line"),
        ({"not_run": {"Eas": "slow"}}, "Eas is not the label of a row; the rows are Pop, EASE 9, ItemKNN."),
        ({"not_run": {"Pop": " "}}, "Pop needs a reason."),
        ({"not_run": ["Pop"]}, "it must be a mapping of labels to reasons"),
        ({"published": {"rand": {}}}, "published: rand (b/tiny.yaml, line"),
        ({"published": {"random": {"Pop": 0.3}}}, "it must be a mapping of protocols to lines"),
        ({"published": {"random": {"Pop": {"NDCG@50": 0.3, "source": "x"}}}}, "the table has no such metric"),
        ({"published": {"random": {"Pop": {"NDCG@5": "high", "source": "x"}}}}, "it must be a number."),
        ({"published": {"random": {"Pop": {"NDCG@5": True, "source": "x"}}}}, "it must be a number."),
        ({"published": {"random": {"Pop": {"NDCG@5": 10**400, "source": "x"}}}}, "it must be a number."),
        ({"published": {"random": {"Pop": {"NDCG@5": 0.3, "source": 3}}}}, "it must be a text."),
        ({"published": {"random": {"Pop": {"NDCG@5": 28.92, "source": "x"}}}}, "0 to 1. Is it in percent? Then write 0.2892."),
        ({"published": {"random": {"Pop": {"NDCG@5": -0.1, "source": "x"}}}}, "-0.1 ("),
        ({"published": {"random": {"Pop": {"NDCG@5": -0.1, "source": "x"}}}}, "it must be a number from 0 to 1."),
        ({"published": {"random": {"Pop": {"NDCG@5": 0.3}}}}, "it must have a metric and its source"),
        ({"published": {"random": {"Pop": {"source": "x"}}}}, "it must have a metric and its source"),
        (
            {"published": {"random": {"Pop": {"NDCG@5": 0.3, "source": "x"}}}, "datasets": {"tiny": {}, "more": {}}},
            "this plan has several data sets",
        ),
    ],
)  # fmt: skip
def test_mistakes_in_the_keys_of_a_board_are_named(changes: dict[str, Any], words: str) -> None:
    file = write(**changes)
    with pytest.raises(ConfigError) as caught:
        plan.read(str(file), {}, data=False)
    assert words in str(caught.value)
    assert "b/tiny.yaml, line" in str(caught.value)


def test_a_wrong_published_number_is_named_with_its_own_line() -> None:
    write(metrics=["NDCG", "ShannonEntropy"])
    rows = ["EASE 9: {NDCG@5: 0.1, source: x}", "Pop: {NDCG@5: 10, ShannonEntropy@5: 30, source: x}"]
    file = Path("b/tiny.yaml")
    above = file.read_text()
    file.write_text("\n".join([f"{above}published:", "  random:", *(f"    {row}" for row in rows), ""]))
    with pytest.raises(ConfigError) as caught:
        plan.read(str(file), {}, data=False)
    line = above.count("\n") + 4
    said = (
        f"published: Pop: NDCG@5: 10 (b/tiny.yaml, line {line}) is not allowed; it must be a number from 0 to 1. Is it"
    )
    assert str(caught.value).startswith(said)
    file.write_text(file.read_text().replace("NDCG@5: 10", "NDCG@5: 1"))
    assert plan.read(str(file), {}, data=False).published["random"]["Pop"]["ShannonEntropy@5"] == 30
