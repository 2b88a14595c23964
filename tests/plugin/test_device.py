"""Which GPU a run takes. What needs a GPU is in tests/test_gpu.py."""

from __future__ import annotations

import os

import pytest
import torch
from recbole.config import Config

from recbole_vae.errors import ConfigError
from tests.conftest import random_rows, write_inter


def gpu_of(model: str, **options: object) -> str:
    config = Config(model=model, dataset="tiny", config_dict={"data_path": write_inter(random_rows()), **options})
    return str(config["gpu_id"])


@pytest.mark.parametrize("model", ["MultVAE", "BPR"])
def test_the_gpu_that_a_cluster_assigned_is_kept(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """RecBole alone replaces the variable by its default, the machine's first GPU."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    assert (gpu_of(model), os.environ["CUDA_VISIBLE_DEVICES"]) == ("5", "5")
    assert gpu_of(model, gpu_id=2) == "2"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert gpu_of(model) == "0"


@pytest.mark.parametrize("model", ["MultVAE", "BPR"])
@pytest.mark.parametrize("visible", [None, "0"])
def test_a_gpu_that_is_not_there_is_refused(model: str, visible: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """RecBole alone computes on the CPU then, without a word."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible or "")
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: os.environ.get("CUDA_VISIBLE_DEVICES") in (None, "0"))
    with pytest.raises(ConfigError, match="^gpu_id: '7': there is no such GPU; choose a number that nvidia-smi lists"):
        gpu_of(model, gpu_id=7)
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == visible
    assert gpu_of(model, gpu_id=-1) == "-1"
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == visible
