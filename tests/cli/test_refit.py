"""``recbole-vae refit``, and ``run`` with --out and --warm_start: files under a name of one's own."""

from __future__ import annotations

import csv
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recbole_vae import Recommender
from recbole_vae.cli.main import main
from recbole_vae.storage import checkpoint
from tests.conftest import random_rows, write_inter

FAST = ["--train_batch_size=16", "--mlp_hidden_size=[12]", "--latent_dimension=6", "--show_progress=False"]
DATA = ["--dataset=tiny", "--data_path=data"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Train a model on the data set tiny, and give the folder with model.pth."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_inter(random_rows())
        assert main(["run", *FAST, *DATA, "--epochs=12", "--out=model.pth"]) == 0
        assert not list(Path("saved").glob("*.pth"))  # it was moved
        yield folder


@pytest.fixture(autouse=True)
def place(trained: Path, tmp_path: Path) -> None:
    """Put a copy of the model and of the data into the working directory."""
    shutil.copy(trained / "model.pth", tmp_path)
    shutil.copytree(trained / "data", tmp_path / "data")


def refit(*words: str) -> int:
    return main(["refit", "--checkpoint=model.pth", "--out=all.pth", *words])


def test_the_new_model_recommends_nothing_that_a_customer_has(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recommend", "--checkpoint=model.pth", "--out=before.csv"]) == 0
    said = capsys.readouterr().err
    assert "model.pth: trained on a part of the interactions, so lists may have items that users own already; " in said
    assert refit() == 0
    out = capsys.readouterr().out
    epochs = checkpoint.load("model.pth")["epoch"] + 1
    rows = random_rows()
    assert (
        f"MultVAE on tiny: trained for {epochs} epochs on all {len(rows)} interactions of 40 users with 25 items.\n"
        in out
    )
    assert "Unknown     how good this model is: no interaction is left to measure it on\n" in out
    assert f"Before      MRR@10 {checkpoint.load('model.pth')['best_valid_score']:.4f} on the validation part" in out
    assert out.endswith("Checkpoint  all.pth\n")
    assert main(["recommend", "--checkpoint=all.pth", "--out=after.csv"]) == 0
    assert "trained on a part" not in capsys.readouterr().err
    owned = set(rows)
    found = {}
    for name in ("before", "after"):
        with Path(f"{name}.csv").open() as file:
            found[name] = sum((line["user_id"], line["item_id"]) in owned for line in csv.DictReader(file))
    assert found["before"] > 0
    assert found["after"] == 0
    assert not list(Path().glob("**/*.tmp"))
    assert not list(Path("saved").glob("*.pth"))


def test_a_newer_file_and_a_warm_start(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    gone = checkpoint.load("model.pth")["items"][1]
    rows = [row for row in random_rows(users=45) if row[1] != gone] + [(f"u{user}", "new") for user in range(9)]
    write_inter(rows, "tiny", folder="later")
    assert refit("--data_path=later", "--warm_start=model.pth", "--epochs=3", "--state=INFO") == 0
    out = capsys.readouterr().out
    assert f"trained for 3 epochs on all {len(rows)} interactions of 45 users with 25 items." in out
    assert "Warm start from model.pth: 24 items stay, 1 are new, 1 are gone; the optimiser goes on." in caplog.text
    assert "new" in Recommender.load("all.pth").items
    # The next night: the same file is the recipe, where to begin, and what is replaced.
    words = ["--checkpoint=all.pth", "--warm_start=all.pth", "--out=all.pth", "--state=INFO"]
    assert main(["refit", *words, "--dataset=tiny", "--data_path=later"]) == 0
    epochs = -(-(checkpoint.load("model.pth")["epoch"] + 1) // 10)
    out = capsys.readouterr().out
    assert f"trained for {epochs} epoch" in out
    assert "25 items stay, 0 are new, 0 are gone" in caplog.text


def test_after_a_run_on_parts_one_file_is_asked_for_and_taken(capsys: pytest.CaptureFixture[str]) -> None:
    rows = random_rows(users=20)
    for place, part in enumerate(("train", "valid", "test")):
        write_inter(rows[place::3], part=part, folder="parts")
    of_parts = ["--dataset=tiny", "--data_path=parts", "--benchmark_filename=[train,valid,test]"]
    assert main(["run", *FAST, *of_parts, "--epochs=1", "--out=model.pth"]) == 0
    write_inter(rows, folder="later")
    capsys.readouterr()
    assert refit("--data_path=later") == 1
    advice = "If all interactions are in one file, tiny.inter, add --benchmark_filename=None.\n"
    assert capsys.readouterr().err.endswith(advice)
    assert refit("--data_path=later", "--benchmark_filename=None") == 0
    assert f"on all {len(rows)} interactions of 20 users" in capsys.readouterr().out


def test_what_began_with_a_warm_start_does_not_say_how_long_to_train_from_scratch(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["run", *FAST, *DATA, "--epochs=2", "--warm_start=model.pth", "--out=warm.pth"]) == 0
    words = ["refit", "--checkpoint=warm.pth", "--out=all.pth"]
    assert main(words) == 2
    assert "how many epochs it needs from scratch is not known. Give --warm_start=FILE" in capsys.readouterr().err
    assert not Path("all.pth").exists()
    assert main([*words, "--warm_start=warm.pth"]) == 0
    assert checkpoint.load("all.pth")["epoch"] == checkpoint.load("warm.pth")["epoch"]
    assert main([*words, "--epochs=4"]) == 0
    assert checkpoint.load("all.pth")["epoch"] == 3


def test_after_an_interruption_the_old_file_is_as_it_was(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from recbole_vae.training.trainer import HistoryTrainer

    Path("all.pth").write_bytes(b"of last night")
    original = HistoryTrainer._train_epoch

    def stop(self: Any, train_data: Any, epoch_idx: int, *args: Any, **kwargs: Any) -> float:
        if epoch_idx == 1:
            assert Path("all.pth").read_bytes() == b"of last night"
            raise KeyboardInterrupt
        return original(self, train_data, epoch_idx, *args, **kwargs)

    monkeypatch.setattr(HistoryTrainer, "_train_epoch", stop)
    assert refit("--epochs=3") == 130
    assert Path("all.pth").read_bytes() == b"of last night"
    assert "Interrupted. Give the same command again." in caplog.text
    assert not list(Path("saved").glob("*.pth"))
    monkeypatch.undo()


def test_a_file_that_cannot_be_written_loses_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("recbole_vae.training.publish.shutil.copyfileobj", full)
    assert refit() == 1
    (left,) = Path("saved").glob("*.pth")
    assert (
        f"all.pth: cannot write this file: No space left on device. The checkpoint is in {left}."
        in capsys.readouterr().err
    )
    assert checkpoint.load(left)["items"]
    assert not Path("all.pth").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--out=nowhere/all.pth"], "out: nowhere/all.pth (command line): there is no folder "),
        (["--out=data"], "out: data (command line): this is a folder; name a file."),
        (["--out=-"], "out: - (command line): this cannot be standard output; name a file."),
        (
            ["--out=all.pth", "--eval_args={}"],
            "--eval_args (command line): all interactions are for training; leave it out.",
        ),
        (
            ["--out=all.pth", "--model=BPR"],
            "--model (command line): the model is that of the checkpoint; leave it out.",
        ),
        (["--out=all.pth", "--dropout=0.3"], "dropout (command line): neither MultVAE nor RecBole has this option."),
        (["--out=all.pth", "--warm_start=nowhere.pth"], "nowhere.pth: there is no such checkpoint."),
        (
            ["--out=all.pth", "--warm_start=nowhere.pth", "--data_path=nowhere"],
            "nowhere.pth: there is no such checkpoint.",
        ),
        ([], "--out (command line) is missing: the checkpoint to write."),
    ],
    ids=str,
)
def test_mistakes_are_said_before_the_training(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["refit", "--checkpoint=model.pth", *words]) in (1, 2)
    assert said in capsys.readouterr().err
    assert not Path("all.pth").exists()
    assert not list(Path("saved").glob("*.pth"))


def test_a_warm_start_from_another_model_is_refused_before_the_data_are_read(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["run", "--dataset=tiny", "--model=MultDAE", "--warm_start=model.pth", "--data_path=nowhere"]) == 1
    assert "model.pth: a checkpoint of MultVAE, and warm_start needs one of MultDAE" in capsys.readouterr().err


def test_a_refit_of_recboles_that_fails_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from recbole.trainer import Trainer

    assert main(["run", "--model=BPR", *DATA, "--embedding_size=8", "--epochs=2", "--out=theirs.pth"]) == 0
    original = Trainer._save_checkpoint

    def save(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        assert list(Path("saved").glob("*.pth"))
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "_save_checkpoint", save)
    assert main(["refit", "--checkpoint=theirs.pth", "--out=all.pth"]) == 130
    assert not list(Path("saved").glob("*.pth"))


def test_a_folder_without_permission(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert main(["run", *FAST, *DATA, "--epochs=1", "--out=all.pth"]) == 2
    assert f"out: all.pth (command line): no permission to write into {Path.cwd()}." in capsys.readouterr().err


def test_a_warm_start_is_no_resume(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--resume=model.pth", "--warm_start=model.pth"]) == 2
    assert "warm_start: resume goes on from a checkpoint of its own; leave out one" in capsys.readouterr().err


def test_refit_is_a_command_and_no_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", *FAST, *DATA, "--refit=model.pth"]) == 2
    assert "refit (command line): this is a command: recbole-vae refit" in capsys.readouterr().err


@pytest.mark.parametrize("model", ["BPR", "EASE"])
def test_recboles_models(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--embedding_size=8"] if model == "BPR" else []
    assert (
        main(["run", f"--model={model}", *DATA, *small, "--epochs=3", "--show_progress=False", "--out=theirs.pth"]) == 0
    )
    assert not list(Path("saved").glob("*.pth"))
    assert "Checkpoint  theirs.pth\n" in capsys.readouterr().out
    assert main(["refit", "--checkpoint=theirs.pth", "--out=all.pth"]) == 0
    epochs = torch_load("theirs.pth")["epoch"] + 1
    out = capsys.readouterr().out
    assert f"{model} on tiny: trained for {epochs} epoch{'s' * (epochs > 1)} on all interactions.\n" in out
    assert torch_load("all.pth")["epoch"] == epochs - 1
    if model == "EASE":  # only these can score a history
        assert main(["recommend", "--checkpoint=all.pth", "--out=lists.csv"]) == 0
        with Path("lists.csv").open() as file:
            assert not {(line["user_id"], line["item_id"]) for line in csv.DictReader(file)} & set(random_rows())
    assert main(["refit", "--checkpoint=theirs.pth", "--out=all.pth", "--warm_start=model.pth"]) == 2
    assert (
        f"--warm_start (command line): {model} is trained by RecBole, which begins anew; leave it out."
        in capsys.readouterr().err
    )


def torch_load(path: str) -> dict[str, Any]:
    from recbole_vae.training.restore import load_recboles

    return load_recboles(path)


def test_a_model_that_is_not_refitted(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [(*row, place) for place, row in enumerate(random_rows())]
    write_inter(rows, columns="user_id:token\titem_id:token\ttimestamp:float")
    load = "--load_col={'inter': ['user_id', 'item_id', 'timestamp']}"
    words = [
        "--embedding_size=8",
        "--hidden_size=8",
        "--epochs=1",
        "--show_progress=False",
        "--loss_type=BPR",
    ]
    by_time = "--eval_args={split: {LS: valid_and_test}}"
    assert main(["run", "--model=GRU4Rec", *DATA, load, by_time, *words, "--out=theirs.pth"]) == 0
    capsys.readouterr()
    assert main(["refit", "--checkpoint=theirs.pth", "--out=all.pth"]) == 1
    assert (
        "theirs.pth: a checkpoint of GRU4Rec, which is not refitted: only models that rank items for a user"
        in capsys.readouterr().err
    )


def test_a_resumed_run_keeps_its_file_and_gives_a_copy(capsys: pytest.CaptureFixture[str]) -> None:
    for epochs in (13, 13):  # nothing is left to train the second time
        assert main(["run", "--resume=model.pth", f"--epochs={epochs}", "--out=copy.pth"]) == 0
        assert Path("copy.pth").read_bytes() == Path("model.pth").read_bytes()
        assert "Checkpoint  copy.pth\n" in capsys.readouterr().out
        Path("copy.pth").unlink()
    before = Path("model.pth").read_bytes()
    assert main(["run", "--resume=model.pth", "--epochs=1", "--out=model.pth"]) == 0
    assert Path("model.pth").read_bytes() == before


def test_several_processes_write_one_file(capfd: pytest.CaptureFixture[str]) -> None:
    assert refit("--nproc=2", "--warm_start=model.pth", "--epochs=2") == 0
    two = checkpoint.load("all.pth")
    assert not list(Path("saved").glob("*.pth"))
    assert refit("--warm_start=model.pth", "--epochs=2") == 0
    one = checkpoint.load("all.pth")
    for name, value in one["state_dict"].items():
        if name != "_extra_state":
            assert (two["state_dict"][name] - value).abs().max() < 1e-4, name
