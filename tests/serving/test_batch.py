"""Rankings for everybody: the same for any number of workers, as CSV and as Parquet."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from recbole_vae import Recommender
from recbole_vae.cli.main import main
from recbole_vae.errors import CheckpointError, RecBoleVAEError
from recbole_vae.serving import batch
from tests.conftest import OPTIONS, random_rows, write_inter
from tests.serving.interrupted import interrupted


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train once for all tests here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("batch"))
        path = write_inter(random_rows())
        words = [f"--{name}={value}" for name, value in OPTIONS.items() if name != "use_gpu"]
        assert main(["run", "--dataset=tiny", f"--data_path={path}", *words]) == 0
        return next(Path("saved").resolve().glob("*.pth"))


@pytest.fixture
def file(made: Path) -> str:
    shutil.copy(made, "m.pth")
    return "--checkpoint=m.pth"


@pytest.fixture
def in_batches_of_three(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recbole_vae.nn.chunks.SCORES_PER_CHUNK", 3 * 26)


@pytest.mark.usefixtures("in_batches_of_three")
def test_the_lists_do_not_depend_on_the_workers_and_keep_the_order(file: str) -> None:
    threads = torch.get_num_threads()
    for workers in (1, 2, 5):
        assert main(["recommend", file, f"--out={workers}.csv", f"--workers={workers}", "-k=4"]) == 0
    texts = [Path(f"{workers}.csv").read_bytes() for workers in (1, 2, 5)]
    assert texts[0] == texts[1] == texts[2]
    assert torch.get_num_threads() == threads
    recommender = Recommender.load("m.pth")
    rows = list(csv.reader(Path("1.csv").read_text().splitlines()))[1:]
    assert [row[0] for row in rows[::4]] == recommender.users[1:]
    batches = [users for users, _ in batch.batches_of_users(recommender, None, 3)]
    assert list(map(len, batches)) == [3] * 13 + [1]
    for start in range(0, 40, 3):  # by the usual way, in the same batches
        users = recommender.users[1:][start : start + 3]
        for user, ranking in zip(users, recommender.recommend_users(users, k=4), strict=True):
            assert [(row[2], row[3]) for row in rows if row[0] == user] == [(i, f"{x:.6g}") for i, x in ranking]


@pytest.mark.usefixtures("in_batches_of_three")
def test_parquet_has_what_csv_has(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recbole_vae.serving.parquet._ROWS", 50)
    Path("h.csv").write_text("user_id,item_id\n" + "".join(f"n{n},i{n}\n" for n in range(9)) + "empty,\n")
    for more in ([], ["--histories=h.csv", "--samples=3"]):
        for out in ("o.csv", "o.parquet"):
            assert main(["recommend", file, f"--out={out}", *more]) == 0
        plain, columns = pd.read_csv("o.csv"), pd.read_parquet("o.parquet")
        assert list(plain) == list(columns)
        assert len(columns) == 10 * (10 if more else 40)
        for name in plain:
            if name in ("user_id", "item_id", "rank"):
                assert plain[name].tolist() == columns[name].tolist()
            else:
                pd.testing.assert_series_equal(plain[name], columns[name], check_dtype=False, rtol=1e-3)
    assert columns["stability"].isna().sum() == 10  # of the user without a history
    from pyarrow.parquet import ParquetFile

    assert main(["recommend", file, "--out=all.parquet"]) == 0
    assert ParquetFile("all.parquet").num_row_groups == 8


def test_excluded_items_are_never_recommended(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recommend", file, "--out=all.csv", "-k=25"]) == 0
    # As Excel and Notepad write it.
    Path("out.txt").write_text("i0\ni3\n\nnever heard of\n", encoding="utf-8-sig")
    capsys.readouterr()
    assert main(["recommend", file, "--out=some.csv", "-k=25", "--exclude=out.txt"]) == 0
    assert "Left out of the excluded items: 1 times an item that is not in" in capsys.readouterr().err
    every, some = (list(csv.reader(Path(name).read_text().splitlines())) for name in ("all.csv", "some.csv"))
    left = [(row[0], row[2]) for row in every if row[2] not in ("i0", "i3")]
    assert left == [(row[0], row[2]) for row in some] != [(row[0], row[2]) for row in every]
    assert main(["recommend", file, "--exclude=-", "--candidates=-"]) == 2
    assert "--candidates and --exclude (command line) cannot both be standard input" in capsys.readouterr().err
    Path("none.txt").write_text("x\ny\n")
    capsys.readouterr()
    assert main(["recommend", file, "--users=u0", "--exclude=none.txt"]) == 0
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "None of the 2 excluded items is in the training data: nothing was excluded."


def test_explanations_are_of_the_same_lists(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("in.txt").write_text("i1\ni3\ni5\ni7\ni9\nnever heard of\n")
    Path("out.txt").write_text("i3\nx\ny\n")
    given = [file, "--users=u0,u1", "--candidates=in.txt", "--exclude=out.txt", "-k=3"]
    assert main(["recommend", *given, "--out=lists.csv"]) == 0
    _, *shown = csv.reader(Path("lists.csv").read_text().splitlines())
    capsys.readouterr()
    assert main(["explain", *given, "--json=-"]) == 0
    out, err = capsys.readouterr()
    found = [json.loads(line) for line in out.splitlines()]
    assert [[one["user"], each["item_id"]] for one in found for each in one["recommendations"]] == [
        [user, item] for user, _, item, _ in shown
    ]
    for one in found:  # ranks are those among the candidates
        assert all(each["influences"][0]["rank_without"] <= 4 for each in one["recommendations"])
    assert "Left out of the candidates: 1 times" in err
    assert "Left out of the excluded items: 2 times" in err  # not once for each user
    assert main(["explain", file, "--histories=-", "--exclude=-"]) == 2
    assert "--histories and --exclude (command line) cannot both be standard input" in capsys.readouterr().err


@pytest.mark.parametrize(("asked", "expected"), [("3", 3), ("2,1", 2), ("0", None), ("many", None), ("", None)])
def test_threads_are_as_many_as_is_asked_for(monkeypatch: pytest.MonkeyPatch, asked: str, expected: int | None) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    here = batch.cores()
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert batch.cores() == (expected or here)


def test_what_is_missing_is_counted_once(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("h.csv").write_text("user_id,item_id\na,\nb,zz\nc,i1\nd,i1\n")
    Path("c.txt").write_text("i1\n")
    assert main(["recommend", file, "--histories=h.csv", "--candidates=c.txt", "--out=o.csv"]) == 0
    said = capsys.readouterr().err
    assert "Users with no item in the training data: 2; they got the most popular items." in said
    assert "Users without a recommendation: 2; " in said


def test_weights_of_the_training_histories_count(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(user, f"{item}\t{1 + place % 5}") for place, (user, item) in enumerate(random_rows())]
    path = write_inter(rows, columns="user_id:token\titem_id:token\trating:float")
    words = [f"--{name}={value}" for name, value in OPTIONS.items() if name != "use_gpu"]
    assert main(["run", "--dataset=tiny", f"--data_path={path}", "--value_field=rating", *words]) == 0
    checkpoint = next(Path("saved").glob("*.pth"))
    recommender = Recommender.load(checkpoint)
    monkeypatch.setattr("recbole_vae.nn.chunks.SCORES_PER_CHUNK", 1)
    assert main(["recommend", f"--checkpoint={checkpoint}", "--out=o.csv", "-k=3"]) == 0
    found = list(csv.reader(Path("o.csv").read_text().splitlines()))[1:]
    for user, ranking in zip(recommender.users[1:], recommender.recommend_users(recommender.users[1:], 3), strict=True):
        assert [(row[2], row[3]) for row in found if row[0] == user] == [(item, f"{x:.6g}") for item, x in ranking]


def test_lines_in_any_order_are_histories_of_a_file_but_not_of_standard_input(
    file: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("sorted.csv").write_text("user_id,item_id\nb,i1\nb,i2\na,i3\na,i4\n")
    Path("shuffled.csv").write_text("user_id,item_id\nb,i1\na,i3\nb,i2\na,i4\n")
    for name in ("sorted", "shuffled"):
        assert main(["recommend", file, f"--histories={name}.csv", f"--out={name}.out"]) == 0
    assert Path("sorted.out").read_text() == Path("shuffled.out").read_text()
    capsys.readouterr()
    with Path("shuffled.csv").open() as text:
        monkeypatch.setattr(sys, "stdin", text)
        assert main(["recommend", file, "--histories=-"]) == 1
    assert "standard input, line 4: user 'b' appears again" in capsys.readouterr().err


def test_ctrl_c_leaves_no_parquet_file(file: str) -> None:
    script = interrupted(f"{file}", "o.parquet")
    Path("o.parquet").write_bytes(b"of yesterday")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 128 + signal.SIGINT, done.stderr
    assert Path("o.parquet").read_bytes() == b"of yesterday"
    assert not list(Path().glob("*o.parquet?*"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--workers=0"], "workers: '0' (command line) is not allowed"),
        (["--workers=2", "--scheduler=tcp://x"], "--workers and --scheduler (command line) cannot be given together."),
        (["--scheduler=nonsense://"], "scheduler: no Dask scheduler answers at nonsense://"),
        (["--users=u1,u99,u2,ghost"], "users 'u99', 'ghost' are not among the 40 users of the training data"),
        (["--users=u99"], "user 'u99' is not among the 40 users of the training data"),
    ],
)
def test_mistakes_are_named_and_nothing_is_written(
    options: list[str], message: str, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recommend", file, "--out=o.csv", *options]) in (1, 2)
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {message}")
    assert not Path("o.csv").exists()


@pytest.mark.usefixtures("in_batches_of_three")
def test_a_failed_batch_cancels_those_that_wait(made: Path) -> None:
    recommender = Recommender.load(made)
    cancelled = []

    class Future:
        def __init__(self, number: int) -> None:
            self.number = number

        def result(self) -> list[object]:
            raise RecBoleVAEError(f"batch {self.number}")

        def cancel(self) -> None:
            cancelled.append(self.number)

    numbers = iter(range(100))
    found = batch.rank(batch.batches_of_users(recommender, None, 3), lambda _: Future(next(numbers)), 2)
    with pytest.raises(RecBoleVAEError, match="^batch 0$"):
        next(found)
    assert cancelled == list(range(8))


def test_a_worker_with_another_file_is_refused(made: Path) -> None:
    recommender = Recommender.load(made)
    selection = recommender.selection(3)
    _, histories = next(batch.batches_of_users(recommender, ["u1"], 5))
    about = (str(made), batch.fingerprint(made), None, (), None)
    assert batch._remote(about, selection, histories) == recommender.recommend_users(["u1"], k=3)
    with pytest.raises(CheckpointError, match="another file than the command has under this name"):
        batch._remote((about[0], "0" * 64, None, (), None), selection, histories)


@pytest.mark.usefixtures("in_batches_of_three")
def test_dask_workers_make_the_same_lists_and_one_that_is_killed_is_told(
    file: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from distributed import LocalCluster

    monkeypatch.setattr(batch, "_PATIENCE", 0.5)
    with LocalCluster(
        n_workers=1, threads_per_worker=2, processes=True, dashboard_address=None, memory_limit=None
    ) as cluster:
        scheduler = f"--scheduler={cluster.scheduler_address}"
        Path("h.csv").write_text("user_id,item_id\na,\n" + "".join(f"{n},i{n % 9}\n{n},i9\n" for n in range(8)))
        for words in ([], ["--histories=h.csv", "--samples=2"]):
            said = []
            for more in ([], [scheduler]):
                capsys.readouterr()
                out = "there" if more else "here"
                assert main(["recommend", file, f"--out={out}.csv", *words, *more]) == 0
                said.append([line for line in capsys.readouterr().err.splitlines() if line.startswith("Users")])
            assert Path("here.csv").read_bytes() == Path("there.csv").read_bytes()
            assert said[0] == said[1]
            assert len(said[0]) == len(words[:1])
        cluster.scale(0)
        cluster.sync(cluster._correct_state)
        capsys.readouterr()
        assert main(["recommend", file, "--out=gone.csv", scheduler]) == 1
        last = capsys.readouterr().err.splitlines()[-1]
        assert last == "error: scheduler: its workers are gone; start some, and try again."
        assert not Path("gone.csv").exists()
