"""Data sets and dataloaders that were saved are used only where they would be made the same."""

from __future__ import annotations

import json
import logging
import pickle
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.conftest import Builder, Run, random_rows, write_inter

COLUMNS = "user_id:token\titem_id:token\ttimestamp:float"
LAST = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"}
RANDOM = {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": "user", "mode": "full"}

MODELS = pytest.mark.parametrize("model", ["MultVAE", "EASE", "BPR"])
KINDS = pytest.mark.parametrize(
    ("option", "loaded"),
    [("save_dataset", "Load filtered dataset from"), ("save_dataloaders", "Load split dataloaders from")],
)


def write(rows: list[tuple[Any, ...]] | None = None) -> pd.DataFrame:
    """Write a data set with a time for each interaction, and return it."""
    rows = rows or [(user, item, 1_700_000_000 + 7 * place) for place, (user, item) in enumerate(random_rows())]
    write_inter(rows, "timed", COLUMNS)
    return pd.DataFrame(rows, columns=["user", "item", "time"])


def made(build: Builder, model: str, **options: Any) -> Run:
    small = {"embedding_size": 8} if model == "BPR" else {}
    return build(model, "timed", data_path="data", epochs=1, **small, **options)


def items(run: Run) -> dict[str, set[str]]:
    """Return the items of each user in the test part."""
    part = run.test._dataset
    users = part.id2token("user_id", part.inter_feat["user_id"])
    frame = pd.DataFrame({"user": users, "item": part.id2token("item_id", part.inter_feat["item_id"])})
    return {str(user): set(each) for user, each in frame.groupby("user")["item"]}


def last_items(frame: pd.DataFrame) -> dict[str, set[str]]:
    last = frame.sort_values("time").groupby("user")["item"].last()
    return {user: {item} for user, item in last.items()}


@KINDS
@MODELS
def test_what_would_be_made_the_same_is_used(
    build: Builder, model: str, option: str, loaded: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    write()
    results = []
    for options in ({}, {option: True}, {option: True}, {}):
        run = made(build, model, **options)
        run.fit()
        results.append((items(run), run.trainer.evaluate(run.test, load_best_model=False)))
    assert results == [results[0]] * 4
    assert [loaded in message for message in caplog.messages].count(True) == 2
    assert "Not used" not in caplog.text


@KINDS
@MODELS
def test_another_split_is_made_anew(
    build: Builder, model: str, option: str, loaded: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    frame = write()
    made(build, model, eval_args=RANDOM, load_col={"inter": ["user_id", "item_id", "timestamp"]}, **{option: True})
    run = made(build, model, eval_args=LAST, load_col={"inter": ["user_id", "item_id", "timestamp"]})
    assert items(run) == last_items(frame)
    (said,) = (message for message in caplog.messages if "Not used" in message)
    assert "it was made with eval_args: {" in said
    assert said.endswith("The data are made anew.")
    assert not [each for each in caplog.records if each.levelno > logging.INFO and "Not used" in each.getMessage()]


@KINDS
@MODELS
def test_what_was_made_from_an_older_file_is_made_anew(
    build: Builder, model: str, option: str, loaded: str, caplog: pytest.LogCaptureFixture
) -> None:
    frame = write()
    made(build, model, eval_args=LAST, **{option: True})
    frame.loc[0, "time"] = frame["time"].max() + 1  # as many bytes
    write(list(frame.itertuples(index=False, name=None)))
    run = made(build, model, eval_args=LAST, **{option: True})
    assert items(run) == last_items(frame)
    assert ": timed.inter has changed since it was saved. The data are made anew and replace this file;" in caplog.text
    caplog.clear()
    assert items(made(build, model, eval_args=LAST)) == last_items(frame)
    assert "Not used" not in caplog.text


@MODELS
def test_dataloaders_of_another_batch_size_are_made_anew(
    build: Builder, model: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    write()
    made(build, model, train_batch_size=16, save_dataloaders=True)
    run = made(build, model, train_batch_size=8)
    assert run.train.batch_size == run.train.step == (4 if model == "EASE" else 8)  # an item and a negative one
    assert "it was made with train_batch_size: 16, not 8." in caplog.text


@MODELS
def test_other_options_of_the_model_need_no_other_data_set(
    build: Builder, model: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    write()
    made(build, model, save_dataset=True)
    run = made(build, model, learning_rate=0.5, train_batch_size=8)
    assert "Load filtered dataset from" in caplog.text
    assert run.dataset.config["learning_rate"] == run.train._dataset.config["learning_rate"] == 0.5


class Trap:
    """What a stranger may put into a pickle."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("ran"),)


@pytest.mark.parametrize("way", ["no record", "damaged record", "other bytes"])
@pytest.mark.parametrize(
    ("option", "name"), [("save_dataset", "timed-{}.pth"), ("save_dataloaders", "timed-for-{}-dataloader.pth")]
)
@pytest.mark.parametrize("model", ["MultVAE", "EASE"])
def test_a_file_that_is_not_the_recorded_one_is_not_even_opened(
    build: Builder, model: str, option: str, name: str, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    write()
    kinds = {"save_dataset": {"MultVAE": "HistoryDataset", "EASE": "Dataset"}, "save_dataloaders": {}}
    path = Path("saved") / name.format(kinds[option].get(model, model))
    record = Path(f"{path}.json")
    made(build, model, **{option: True})
    content = json.loads(record.read_text())
    assert content["options"]["eval_args"]["split"] == {"RS": [0.8, 0.1, 0.1]}
    path.write_bytes(pickle.dumps(Trap()))
    if way == "no record":
        record.unlink()
    elif way == "damaged record":
        record.write_text("{")
    run = made(build, model)
    assert not Path("ran").exists()
    assert f"Not used: {path}: " in caplog.text
    run.fit()


@pytest.mark.parametrize("option", ["dataset_save_path", "dataloaders_save_path"])
@pytest.mark.parametrize("model", ["MultVAE", "EASE"])
def test_a_file_that_is_named_may_lie_elsewhere(
    build: Builder, model: str, option: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    write()
    made(build, model, save_dataset=True, save_dataloaders=True)
    kind = {"MultVAE": "HistoryDataset", "EASE": "Dataset"}[model]
    name = f"timed-{kind}.pth" if option == "dataset_save_path" else f"timed-for-{model}-dataloader.pth"
    for each in (name, f"{name}.json"):
        (Path("saved") / each).rename(each)
    run = made(build, model, **{option: name})
    assert f"from: [{name}]" in caplog.text.replace("\x1b[0m", "")
    assert run.config[option] == name
    made(build, model, **{option: "nowhere.pth"})
    assert "Not used: nowhere.pth: there is no such file. The data are made anew." in caplog.text


def test_repeats_that_a_saved_data_set_has_are_not_given_to_a_model_that_expects_none(
    build: Builder, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [(user, item, 1_700_000_000 + place) for place, (user, item) in enumerate([*random_rows(), *random_rows()])]
    caplog.set_level(logging.INFO)
    write(rows)
    same = {"eval_args": RANDOM, "train_neg_sample_args": {"distribution": "uniform", "sample_num": 1}}
    made(build, "FM", save_dataset=True, embedding_size=8, metrics=["Recall"], valid_metric="Recall@10", **same)
    assert len(made(build, "BPR", **same).dataset.inter_feat) == len(set(random_rows()))
    assert (
        "Not used: saved/timed-Dataset.pth: it was made with repeats: auto, where the model expects them, not auto"
        in caplog.text
    )
