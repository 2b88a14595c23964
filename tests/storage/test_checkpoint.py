"""Checkpoints: what is in one, and files that are none, or worse."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recbole_vae import Recommender
from recbole_vae.errors import CheckpointError, ConfigError
from recbole_vae.storage import checkpoint
from recbole_vae.storage.files import temporary_beside
from recbole_vae.storage.once import read_once
from recbole_vae.storage.upgrade import FORMAT_VERSION
from recbole_vae.version import __version__
from tests.conftest import Builder, set_all_seeds
from tests.plugin.test_compat import evil_objects


@pytest.fixture
def file(build: Builder) -> Path:
    run = build(epochs=1)
    run.fit()
    return Path(run.trainer.saved_model_file)


def test_a_checkpoint_holds_tensors_and_plain_values_only(file: Path) -> None:
    def check(value: Any) -> None:
        if isinstance(value, dict):
            for key, each in value.items():
                check(key)
                check(each)
        elif isinstance(value, list | tuple):
            for each in value:
                check(each)
        else:
            assert value is None or type(value) in (bool, int, float, str, torch.Tensor), type(value)

    check(torch.load(file, weights_only=True))


def test_a_checkpoint_holds_what_scoring_needs(file: Path, build: Builder) -> None:
    state = checkpoint.load(file)
    run = build(epochs=1)
    assert state["users"] == [str(token) for token in run.dataset.field2id_token["user_id"]]
    assert state["items"] == [str(token) for token in run.dataset.field2id_token["item_id"]]
    assert torch.equal(state["histories"]["indices"], run.model.histories.indices)
    assert state["model"] == "MultVAE"
    assert state["config"]["latent_dimension"] == 6
    assert {"recbole_vae", "recbole", "torch", "numpy", "python"} == set(state["versions"])


def test_a_truncated_file_is_refused(file: Path) -> None:
    whole = file.read_bytes()
    for size in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        Path("cut.pth").write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match="cut.pth: (truncated or )?not a checkpoint") as error:
            checkpoint.load("cut.pth")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("what", list(evil_objects()))
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_malicious_file_runs_nothing(file: Path, what: str, protocol: int) -> None:
    state = torch.load(file, weights_only=True)
    torch.save({**state, "config": {"a": evil_objects()[what]}}, "evil.pth", pickle_protocol=protocol)
    with pytest.raises(CheckpointError, match="evil.pth: not a checkpoint of recbole_vae") as error:
        checkpoint.load("evil.pth")
    assert "\n" not in str(error.value)
    from recbole.quick_start import load_data_and_model

    with pytest.raises(CheckpointError, match="evil.pth: not a checkpoint of recbole_vae"):
        load_data_and_model("evil.pth")
    assert not Path("it-ran").exists()


def test_strings_in_the_config_are_not_evaluated(file: Path) -> None:
    """RecBole evaluates each string that it is given as an option."""
    from recbole.quick_start import load_data_and_model

    state = torch.load(file, weights_only=True)
    state["config"]["note"] = "open('it-ran', 'w')"
    torch.save(state, "strings.pth")
    assert load_data_and_model("strings.pth")[0]["note"] == "open('it-ran', 'w')"
    assert not Path("it-ran").exists()


@pytest.mark.parametrize(
    "what",
    [
        "a tensor",
        "another dictionary",
        "a later format",
        "no format",
        "a path for a name",
        "a missing key",
        "an inner key",
        "a wrong type",
    ],
)
def test_other_files_are_refused(file: Path, what: str) -> None:
    state = torch.load(file, weights_only=True)
    content, message = {
        "a tensor": (torch.zeros(2), "not a checkpoint of recbole_vae"),
        "another dictionary": ({"a": 1}, "not a checkpoint of recbole_vae"),
        "a later format": (
            {**state, "format_version": 9},
            f"checkpoint format 9; this recbole_vae {__version__} reads formats 1 to {FORMAT_VERSION}",
        ),
        "no format": ({**state, "format_version": None}, "damaged checkpoint: 'format_version' is missing"),
        "a path for a name": (
            {**state, "dataset": "/tmp/a"},
            "damaged checkpoint: '/tmp/a' is not the name of a data set",
        ),
        "a missing key": ({k: v for k, v in state.items() if k != "random"}, "damaged checkpoint: 'random' is missing"),
        "an inner key": ({**state, "random": {}}, "damaged checkpoint: 'python' is missing in 'random'"),
        "a wrong type": ({**state, "epoch": "x"}, "damaged checkpoint: 'epoch' is missing or of the wrong type"),
    }[what]
    torch.save(content, "other.pth")
    with pytest.raises(CheckpointError, match=f"^other.pth: {message}"):
        checkpoint.load("other.pth")
    from recbole.quick_start import load_data_and_model

    with pytest.raises(CheckpointError, match=r"^other.pth: (not a checkpoint|checkpoint format 9|damaged checkpoint)"):
        load_data_and_model("other.pth")


def test_inside_read_once_a_file_is_read_again_only_if_it_was_replaced_or_taken(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[Any] = []
    original = torch.load

    def counted(*args: Any, **kwargs: Any) -> Any:
        reads.append(args[0])
        return original(*args, **kwargs)

    monkeypatch.setattr(torch, "load", counted)
    checkpoint.load(file)
    checkpoint.load(file)
    assert len(reads) == 2
    with read_once():
        first = checkpoint.load(file)
        with read_once():
            assert checkpoint.load(str(file)) is first
        assert checkpoint.load(file.resolve()) is first
        assert len(reads) == 3
        mine = checkpoint.take(file)
        assert mine is first
        assert checkpoint.load(file) is not mine
        checkpoint.save({**first, "epoch": 7}, file)
        assert checkpoint.load(file)["epoch"] == 7
        assert len(reads) == 5
        file.unlink()
        with pytest.raises(CheckpointError, match="there is no such checkpoint"):
            checkpoint.load(file)


def test_a_checkpoint_that_cannot_be_written_says_why(file: Path) -> None:
    """The folder is missing; or the disk is full, for which the largest size of a file stands here."""
    state = checkpoint.load(file)
    with pytest.raises(CheckpointError, match=r"^nowhere/a.pth: cannot write this file: there is no folder nowhere\.$"):
        checkpoint.save(state, "nowhere/a.pth")
    resource = pytest.importorskip("resource")
    ignored, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    before = file.read_bytes()
    try:
        for size in (0, 1000, len(before) // 2, len(before) - 1000):
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
            with pytest.raises(CheckpointError, match=rf"^{file}: cannot write this file: File too large\.$"):
                checkpoint.save(state, file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


def test_what_a_killed_process_left_goes_when_the_checkpoint_is_written_again(file: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True
    )
    mine = temporary_beside(file).name
    dead, alive = (
        file.with_name(mine.replace(f".{os.getpid()}.", f".{number}.")) for number in (int(done.stdout), os.getppid())
    )
    for each in (dead, alive):
        each.write_text("half")
    checkpoint.save(checkpoint.load(file), file)
    assert sorted(file.parent.iterdir()) == sorted([file, alive])


def test_a_checkpoint_of_recbole_is_not_taken_for_ours(build: Builder) -> None:
    run = build("BPR", embedding_size=4)
    run.fit()
    with pytest.raises(CheckpointError, match="not a checkpoint of recbole_vae"):
        checkpoint.load(run.trainer.saved_model_file)


def test_random_states_come_back() -> None:
    set_all_seeds(5)
    np.random.normal()  # leaves a second number in store
    states = checkpoint.random_states()
    torch.save(states, "states.pth")
    first = [random.random(), np.random.normal(), np.random.rand(), torch.rand(3).tolist()]
    set_all_seeds(6)
    checkpoint.set_random_states(torch.load("states.pth", weights_only=True))
    assert [random.random(), np.random.normal(), np.random.rand(), torch.rand(3).tolist()] == first


def test_plain_refuses_what_is_not() -> None:
    assert checkpoint.plain({"a": (1, np.float64(2.0), [None])}) == {"a": [1, 2.0, [None]]}
    with pytest.raises(TypeError, match="Path"):
        checkpoint.plain([Path()])


@pytest.mark.parametrize("place", ["data.pkl", "data/0", "directory"])
def test_a_changed_bit_is_noticed(file: Path, place: str) -> None:
    content = bytearray(file.read_bytes())
    if place == "directory":
        content[content.rindex(b"PK\x01\x02") + 46] ^= 0x80  # of a name
    else:
        with zipfile.ZipFile(file) as archive:
            (info,) = (each for each in archive.infolist() if each.filename.endswith(f"/{place}"))
        start = (
            info.header_offset
            + 30
            + int.from_bytes(content[info.header_offset + 26 : info.header_offset + 28], "little")
        )
        start += int.from_bytes(content[info.header_offset + 28 : info.header_offset + 30], "little")
        content[start + info.file_size // 2] ^= 1
    Path("flipped.pth").write_bytes(content)
    for read in (checkpoint.load, Recommender.load):
        with pytest.raises(CheckpointError, match=r"^flipped.pth: (damaged|truncated)"):
            read("flipped.pth")


@pytest.mark.parametrize(
    "damage",
    [
        lambda state: state["config"].pop("USER_ID_FIELD"),
        lambda state: state["config"].pop("data_path"),
        lambda state: state["state_dict"].popitem(),
        lambda state: state["users"].pop(),
        lambda state: state["histories"].update(indices=None),
        lambda state: state["state_dict"]["encoder.input.weight"].fill_(float("nan")),
    ],
)
def test_what_is_missing_or_no_number_is_told_in_one_line(file: Path, damage: Callable[[Any], Any]) -> None:
    state = torch.load(file, weights_only=True)
    damage(state)
    torch.save(state, "damaged.pth")
    with pytest.raises(CheckpointError, match=r"^damaged.pth: damaged checkpoint"):
        Recommender.load("damaged.pth")


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("histories", "indices", "x"), ("random", "train_data", 1), ("random", "torch", None), ("random", "python", [1]),
        ("random", "numpy", "x"), ("random", "torch", torch.zeros(3)),
    ],
)  # fmt: skip
def test_a_resume_from_random_states_that_are_none_is_refused(
    file: Path, build: Builder, part: str, name: str, value: Any
) -> None:
    state = torch.load(file, weights_only=True)
    state[part][name] = value
    torch.save(state, "damaged.pth")
    with pytest.raises(CheckpointError, match=r"^damaged.pth: damaged checkpoint: '.*random'"):
        build(epochs=3, resume="damaged.pth").fit()


@pytest.mark.parametrize(
    ("part", "name", "value", "message"),
    [
        ("optimizer", "param_groups", 5, r"damaged.pth: the optimiser's state does not fit this model"),
        ("config", "preload_weight", 5, r"preload_weight: 5 \(damaged.pth\) is not allowed; it must be"),
        ("config", "numerical_features", 5, r"numerical_features: 5 \(damaged.pth\) is not allowed; it must be"),
    ],
)
def test_a_resume_from_parts_of_another_kind_is_refused(
    file: Path, build: Builder, part: str, name: str, value: Any, message: str
) -> None:
    state = torch.load(file, weights_only=True)
    state[part][name] = value
    torch.save(state, "damaged.pth")
    with pytest.raises((CheckpointError, ConfigError), match=f"^{message}"):
        build(epochs=3, resume="damaged.pth")
