"""Several processes by ``torchrun``: one that dies, one voice, and resumes with other numbers of processes."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from recbole_vae.cli.main import main
from recbole_vae.storage import checkpoint
from tests.conftest import random_rows, write_inter

OPTIONS = [
    "--dataset=tiny", "--data_path=data", "--use_gpu=False", "--train_batch_size=15", "--latent_dimension=6",
    "--mlp_hidden_size=[12]", "--learning_rate=0.01", "--precision=float32", "--weight_averaging=3", "--stopping_step=99",
]  # fmt: skip
DIES = """
import os, signal
import torch.distributed as dist
from recbole_vae.training.trainer import HistoryTrainer

train_epoch = HistoryTrainer._train_epoch

def dying(self, train_data, epoch_idx, *args, **kwargs):
    if epoch_idx == 4 and dist.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return train_epoch(self, train_data, epoch_idx, *args, **kwargs)

HistoryTrainer._train_epoch = dying
"""


def torchrun(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=0", "-m", "recbole_vae"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [*command, *words], capture_output=True, text=True, check=False, timeout=300, env=environment
    )
    return done


def run(*words: str) -> None:
    assert main(["run", *OPTIONS, "--show_progress=False", *words]) == 0


def parameters(file: str) -> tuple[int, dict[str, Any]]:
    state = checkpoint.load(file)
    assert all(each.isfinite().all() for each in state["state_dict"].values() if isinstance(each, torch.Tensor))
    return state["epoch"], state["state_dict"]


def assert_close(one: str, other: str) -> None:
    (epochs, first), (others, second) = parameters(one), parameters(other)
    assert epochs == others
    for name, value in first.items():
        if isinstance(value, torch.Tensor):
            assert value.numpy() == pytest.approx(second[name].numpy(), abs=1e-6)


@pytest.mark.usefixtures("registry")
def test_a_process_dies_and_the_run_goes_on_with_another_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_inter(random_rows(41))
    Path("dies.py").write_text(DIES)
    keep_all = ["--eval_args={'split': {'RS': [1, 0, 0]}}", "--metrics=NDCG"]  # the last epoch is the one that counts
    run(*keep_all, "--epochs=2", "--out=by_one.pth")
    run(*keep_all, "--epochs=6", "--out=whole.pth")
    done = torchrun("run", *OPTIONS, *keep_all, "--resume=by_one.pth", "--epochs=9", "--imports=dies")
    print(done.stdout, done.stderr)
    assert 0
