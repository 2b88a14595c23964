"""Several processes by ``torchrun``: one that dies, one voice, and resumes with other numbers of processes."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from recbole_vae.cli.main import main
from recbole_vae.cli.run import watched
from recbole_vae.errors import TrainingError
from recbole_vae.storage import checkpoint
from tests.conftest import random_rows, write_inter

OPTIONS = [
    "--dataset=tiny", "--data_path=data", "--use_gpu=False", "--train_batch_size=15", "--latent_dimension=6",
    "--mlp_hidden_size=[12]", "--learning_rate=0.01", "--precision=float32", "--weight_averaging=3", "--stopping_step=99",
]  # fmt: skip
DIES = """
import os, signal
import torch.distributed as dist
from recbole_vae.training import saving
from recbole_vae.training.trainer import HistoryTrainer

saving._SAVED_EVERY = 0.0

train_epoch = HistoryTrainer._train_epoch

def dying(self, train_data, epoch_idx, *args, **kwargs):
    if epoch_idx == 4 and dist.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return train_epoch(self, train_data, epoch_idx, *args, **kwargs)

HistoryTrainer._train_epoch = dying
"""


def torchrun(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "recbole_vae"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run([*command, *words], capture_output=True, text=True, check=False, timeout=120, env=environment)


def run(*words: str) -> None:
    assert main(["run", *OPTIONS, "--show_progress=False", *words]) == 0


def assert_same_state(one: str, other: str) -> None:
    """Compare parameters, optimiser and averages up to the order of sums, and the random states exactly."""
    first, second = checkpoint.load(one), checkpoint.load(other)
    assert first["epoch"] == second["epoch"]
    assert first["random"].keys() == second["random"].keys()
    assert torch.equal(first["random"]["torch"], second["random"]["torch"])
    assert torch.equal(first["random"]["train_data"], second["random"]["train_data"])
    for key in ("state_dict", "optimizer", "average"):
        pairs = list(zip(tensors(first[key]), tensors(second[key]), strict=True))
        assert len(pairs) > 5
        for mine, other_one in pairs:
            assert mine.numpy() == pytest.approx(other_one.numpy(), abs=1e-6)


def tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from tensors(each)


def test_a_process_dies_and_the_run_goes_on_with_another_number(registry: None) -> None:
    write_inter(random_rows(41))
    Path("dies.py").write_text(DIES)
    words = [
        "--eval_args={'split': {'RS': [1, 0, 0]}}",
        "--metrics=NDCG",
    ]  # without a validation part: the last epoch is saved, not the best
    for epochs in (2, 4, 6):
        run(*words, f"--epochs={epochs}", f"--out={epochs}.pth")
    shutil.copy("2.pth", "several.pth")
    before = set(Path("log_tensorboard").iterdir())

    done = torchrun(
        "run", *OPTIONS, *words, "--resume=several.pth", "--epochs=9", "--imports=dies", "--show_progress=True"
    )
    assert done.returncode == 1
    said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(said) == 1
    assert said[0].startswith("error: process 0 of 2 ")
    assert said[0].endswith("is in several.pth; go on from it with --resume=several.pth.")
    assert "rank      : 1 (local_rank: 1)" in done.stderr
    assert "exitcode  : -9" in done.stderr
    assert done.stderr.count("Training goes on at epoch 2") == done.stderr.count("epoch 3 training") == 1  # in one log
    assert done.stderr.count("Train     3: 100%") == 1
    assert not done.stdout
    assert len(list(Path("log/MultVAE").iterdir())) == 3 + 1
    assert len(set(Path("log_tensorboard").iterdir()) - before) == 1

    assert_same_state("several.pth", "4.pth")  # one process, then two
    run(*words, "--resume=several.pth", "--epochs=6")  # and one again
    assert_same_state("several.pth", "6.pth")


def test_torchrun_takes_the_place_of_recboles_options(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    store = TCPStore("localhost", port, is_master=True, wait_for_workers=False)  # as torchrun has one
    group = {"RANK": 1, "LOCAL_RANK": 1, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "localhost"}
    for name, value in {**group, "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.delenv("TORCHELASTIC_RESTART_COUNT", raising=False)
    assert main(["run", "--nproc=2"]) == 2
    error = capsys.readouterr().err
    assert error == "error: --nproc (command line): torchrun has started the processes; leave it out.\n"
    assert main(["run", "--world_size=2"]) == 2  # as another process with its error
    assert capsys.readouterr().err == ""
    del store


def test_a_killed_child_of_nproc_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    from torch.multiprocessing.spawn import ProcessExitedException

    killed = ProcessExitedException("", error_index=1, error_pid=7, exit_code=-9, signal_name="SIGKILL")
    with pytest.raises(TrainingError) as raised, watched(2, lambda: "Do this."):
        raise killed
    assert str(raised.value) == "process 1 of 2 was killed by SIGKILL, so all have stopped. Do this."
