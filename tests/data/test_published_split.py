"""Splits as LightGCN's authors publish them: small files of the same layout, made here."""

from __future__ import annotations

import hashlib
import random
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from recbole_vae.cli.main import main
from recbole_vae.data.published_split import SPLITS, held_back, prepare_split
from recbole_vae.errors import DataError

Pair = tuple[int, int]


def drawn(users: int = 30, items: int = 60, seed: int = 0) -> tuple[list[Pair], list[Pair]]:
    """Draw a training and a test part; the numbers of items have gaps, and user 0 has no test item."""
    draw = random.Random(seed)
    train, test = [], []
    for user in range(users):
        chosen = draw.sample(range(0, 3 * items, 3), 5 + user % 26)
        cut = len(chosen) if user == 0 else len(chosen) * 4 // 5
        train += [(user, item) for item in chosen[:cut]]
        test += [(user, item) for item in chosen[cut:]]
    return train, test


def lists(pairs: list[Pair], users: int = 30) -> str:
    """Return the layout of train.txt; a user without items has a line, too."""
    return "".join(f"{user} {' '.join(str(item) for other, item in pairs if other == user)}\n" for user in range(users))


def write(train: list[Pair], test: list[Pair], folder: str = "gowalla") -> Path:
    Path(folder).mkdir()
    (Path(folder) / "train.txt").write_text(lists(train))
    (Path(folder) / "test.txt").write_text(lists(test))
    return Path(folder)


def written(name: str, part: str = "", out: str = "out") -> list[Pair]:
    header, *lines = (Path(out) / name / f"{name}{part}.inter").read_text().splitlines()
    assert header == "user_id:token\titem_id:token"
    return [(int(user), int(item)) for user, item in (line.split("\t") for line in lines)]


def first_tenth(train: list[Pair]) -> list[Pair]:
    """Return the validation part by its rule, user by user."""
    found = []
    for user in sorted({user for user, _ in train}):
        items = sorted(item for other, item in train if other == user)
        items.sort(key=lambda item: hashlib.sha256(f"{user} {item}".encode()).hexdigest())
        found += [(user, item) for item in items[: len(items) // 10]]
    return sorted(found)


def test_a_tenth_of_each_users_training_items_is_for_validation() -> None:
    train, test = drawn()
    result = prepare_split("gowalla-lightgcn", write(train, test), "out")
    valid = first_tenth(train)
    assert len(valid) > 20
    assert written("gowalla-lightgcn", ".valid") == valid
    assert written("gowalla-lightgcn", ".train") == sorted(set(train) - set(valid))
    assert written("gowalla-lightgcn", ".test") == sorted(test)
    assert written("gowalla-lightgcn") == sorted(train + test)
    assert result.parts == {"train": len(train) - len(valid), "valid": len(valid), "test": len(test)}
    assert (result.read, result.interactions) == (len(train + test), len(train + test))
    assert (result.users, result.items) == (30, len({item for _, item in train + test}))
    assert result.repeats == []
    assert {path.name for path in Path("out/gowalla-lightgcn").iterdir()} == {
        f"gowalla-lightgcn{part}" for part in (".train.inter", ".valid.inter", ".test.inter", ".inter", ".yaml")
    }


def test_the_order_of_the_published_files_does_not_matter() -> None:
    train, test = drawn()
    prepare_split("yelp2018-lightgcn", write(train, test), "out")
    random.Random(1).shuffle(train)
    random.Random(2).shuffle(test)
    prepare_split("yelp2018-lightgcn", write(train, test, "other"), "again")
    for part in ("", ".train", ".valid", ".test"):
        assert written("yelp2018-lightgcn", part) == written("yelp2018-lightgcn", part, "again")


def test_items_with_neighbouring_numbers_are_held_back_together_no_more_than_by_chance() -> None:
    train = np.array([(user, item) for user in range(200) for item in range(1000, 1400)])
    held = held_back(train).reshape(200, 400)
    assert (held.sum(axis=1) == 40).all()
    for apart in (1, 8, 10, 100):
        both = (held[:, apart:] & held[:, :-apart]).mean()
        assert both == pytest.approx(0.01, abs=0.0015)  # four standard errors where they are independent


def test_lastfm_has_lines_of_user_item_and_weight() -> None:
    train, test = drawn()
    Path("lastfm").mkdir()
    for file, pairs in (("data1.txt", train), ("test1.txt", test)):
        lines = [f"{user + 1}\t{item + 1}\t{7 * user}\n" for user, item in pairs]
        (Path("lastfm") / file).write_text("".join(lines))
    prepare_split("lastfm-lightgcn", "lastfm", "out")
    assert written("lastfm-lightgcn") == sorted((user + 1, item + 1) for user, item in train + test)
    assert written("lastfm-lightgcn", ".valid") == first_tenth([(user + 1, item + 1) for user, item in train])


def test_repeats_and_pairs_in_both_parts_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    train, test = drawn()
    assert main(["prepare", "gowalla-lightgcn", str(write(train + train[:3], test + train[5:7])), "--out=out"]) == 0
    out = capsys.readouterr().out
    assert f"  3 of {len(train) + 3} interactions of train.txt repeat a pair of user and item; each pair is" in out
    assert "  2 pairs of user and item are in train.txt and in test.txt, and are kept in both parts" in out
    assert written("gowalla-lightgcn", ".test") == sorted(test + train[5:7])
    assert sorted(written("gowalla-lightgcn", ".train") + written("gowalla-lightgcn", ".valid")) == sorted(train)
    assert written("gowalla-lightgcn") == sorted(train + test)


def test_other_numbers_than_the_published_ones_are_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train, test = drawn()
    source, items = write(train, test), len({item for _, item in train + test})
    result = prepare_split("gowalla-lightgcn", source, "out")
    assert result.differences == [
        "30 users, and 29,858 are published",
        f"{items} items, and 40,981 are published",
        f"{len(train)} training interactions, and 810,128 are published",
        f"{len(test)} test interactions, and 217,242 are published",
    ]
    right = replace(SPLITS["gowalla-lightgcn"], users=30, items=items, train=len(train), test=len(test) + 1)
    monkeypatch.setitem(SPLITS, "gowalla-lightgcn", right)
    assert main(["prepare", "gowalla-lightgcn", str(source), "--out=other"]) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("NOT")]
    assert said == [
        f"NOT as published: {len(test)} test interactions, and {len(test) + 1} are published. Is it another version of the data?"
    ]


@pytest.mark.parametrize(
    ("name", "files", "message"),
    [
        (
            "gowalla-lightgcn", {"train.txt": "0 1 2\n"},
            "given: has no file test.txt; give the folder with train.txt and test.txt, such as LightGCN-PyTorch/data/gowalla.",
        ),
        ("lastfm-lightgcn", {}, "given: has no file data1.txt; give the folder with data1.txt and test1.txt, such as Li"),
        (
            "gowalla-lightgcn", {"train.txt": "0 1 2\n1 3 x4\n", "test.txt": "0 3\n"},
            "given/train.txt, line 2: 'x4' where the number of a user or an item should be. Is it gowalla-lightgcn, whole",
        ),
        ("gowalla-lightgcn", {"train.txt": "0 1 -2\n", "test.txt": "0 3\n"}, "given/train.txt, line 1: '-2' where"),
        ("gowalla-lightgcn", {"train.txt": f"0 {2**63}\n", "test.txt": "0 3\n"}, f"given/train.txt, line 1: '{2**63}' where"),
        ("gowalla-lightgcn", {"train.txt": "0\n", "test.txt": "0 3\n"}, "given/train.txt: has no interaction; is it g"),
        (
            "lastfm-lightgcn", {"data1.txt": "1\t2\t3\n", "test1.txt": "1\t2\t3\n1\t3\n"},
            "given/test1.txt, line 2: 2 columns instead of 3: user, item and weight.",
        ),
    ],
)  # fmt: skip
def test_bad_files_are_named_and_leave_nothing(name: str, files: dict[str, str], message: str) -> None:
    Path("given").mkdir()
    for file, text in files.items():
        (Path("given") / file).write_text(text)
    with pytest.raises(DataError) as error:
        prepare_split(name, "given", "out")
    assert str(error.value).startswith(message)
    assert not Path("out").exists()


def test_from_the_files_to_a_result_on_the_published_test_part(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    train, test = drawn()
    assert main(["prepare", "gowalla-lightgcn", str(write(train, test))]) == 0
    out = capfd.readouterr().out
    assert f"  train {len(train) - len(first_tenth(train))}, valid {len(first_tenth(train))}, test {len(test)}" in out
    _, *suggested = shlex.split(out.splitlines()[-1].partition("recbole_vae ")[2])
    small = ["--epochs=1", "--mlp_hidden_size=[8]", "--latent_dimension=4"]
    assert main(["run", *suggested, *small]) == 0
    assert "Settings of the data set are those of dataset/gowalla-lightgcn/gowalla-lightgcn.yaml" in caplog.text
    out = capfd.readouterr().out
    assert "recall@20" in out
    assert "ndcg@20" in out


@pytest.mark.parametrize("model", ["MultVAE", "Pop"])
def test_a_split_of_ones_own_takes_the_place_of_the_published_parts(model: str) -> None:
    from recbole.config import Config
    from recbole.data import create_dataset

    train, test = drawn()
    prepare_split("gowalla-lightgcn", write(train, test), "data")

    def parts(**options: object) -> list[int]:
        given = {"data_path": "data", "epochs": 1, **options}
        dataset = create_dataset(Config(model=model, dataset="gowalla-lightgcn", config_dict=given))
        return [len(part) for part in dataset.build()]

    valid = len(first_tenth(train))
    assert parts() == [len(train) - valid, valid, len(test)]
    assert parts(eval_args={"mode": "uni20"}) == parts()
    drawn_again = parts(eval_args={"split": {"RS": [0.5, 0.25, 0.25]}, "group_by": None, "order": "RO", "mode": "full"})
    whole = len(train) + len(test)
    assert sum(drawn_again) == whole
    assert drawn_again[2] == pytest.approx(whole / 4, abs=1)


@pytest.mark.parametrize("model", ["MultVAE", "Pop"])
def test_what_has_no_effect_beside_published_parts_is_said(model: str, caplog: pytest.LogCaptureFixture) -> None:
    from recbole.config import Config
    from recbole.data import create_dataset

    train, test = drawn()
    prepare_split("gowalla-lightgcn", write(train, test), "data")
    for args, said in (
        (None, ""), ({"mode": "full"}, ""), ({"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": "user"}, ""),
        ({"order": "TO", "mode": "full"}, "eval_args: order has no effect, for benchmark_filename names files that are"),
        ({"order": "RO", "group_by": "user"}, "eval_args: order, group_by have no effect, for benchmark_filename"),
    ):  # fmt: skip
        caplog.clear()
        given = {"data_path": "data", "epochs": 1, **({} if args is None else {"eval_args": args})}
        dataset = create_dataset(Config(model=model, dataset="gowalla-lightgcn", config_dict=given))
        gaps = " ".join(dataset.build()[-1].gaps)
        assert ("no effect" in gaps) is ("no effect" in caplog.text) is bool(said)
        assert said in gaps
        assert said in caplog.text
