"""The sums over several processes, compared with sums by NumPy."""

import socket
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.multiprocessing.spawn import spawn

from recbole_vae.data.histories import Histories, SharedBatch
from recbole_vae.errors import ConfigError, TrainingError
from recbole_vae.nn.layers import row_gradient
from recbole_vae.options.processes import alone, torchrun_group
from recbole_vae.training import processes

ROWS = [[[0, 3, 7], [3, 8]], [[], [2]], [[5], [5]]]
"""The rows of each sparse gradient in each process."""


def parameters(rank: int) -> list[nn.Parameter]:
    """Return parameters with gradients: dense, large and small and in columns; sparse, of two and of one dimension."""
    draw = torch.Generator().manual_seed(rank)
    made: list[nn.Parameter] = []
    shapes: list[tuple[int, ...]] = [(600, 500), (7,), (3, 4)]
    for shape in shapes:
        made.append(nn.Parameter(torch.zeros(shape)))
        made[-1].grad = torch.randn(shape, generator=draw)
    made.append(nn.Parameter(torch.zeros(700, 400)))
    made[-1].grad = torch.randn(400, 700, generator=draw).t()
    shapes = [(9, 4), (9,), (9, 2)]
    for rows, shape in zip(ROWS, shapes, strict=True):
        mine = torch.tensor(rows[rank], dtype=torch.int64)
        made.append(nn.Parameter(torch.zeros(shape)))
        made[-1].grad = row_gradient(mine, torch.randn(len(mine), *shape[1:], generator=draw), 9)
    made.append(nn.Parameter(torch.zeros(2)))  # without a gradient
    return made


def share(rank: int, port: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", f"tcp://localhost:{port}", rank=rank, world_size=2)
    made, part = parameters(rank), torch.tensor(float(rank + 1))
    processes.sum_over_processes(made, [part])
    torch.manual_seed(rank)
    processes.share_random_state(torch.device("cpu"))
    seen, lost = "", ""
    try:  # each process has a folder of its own
        own = Path(folder) / str(rank)
        own.mkdir()
        processes.check_folder(str(own / "model.pth"))
    except ConfigError as error:
        seen = str(error)
    processes.check_folder(str(Path(folder) / "model.pth"))
    found = [each.grad for each in made], part, torch.rand(3), seen
    if rank == 1:
        torch.save(found, f"{folder}/1.pt")
        return  # without a word
    try:
        with processes.end_together(lambda: "Resume."):
            processes.sum_over_processes(made, [part])
            processes.sum_over_processes(made, [part])
    except TrainingError as error:
        lost = str(error)
    torch.save((*found, lost), f"{folder}/0.pt")


def test_sums_are_those_of_all_gradients(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    spawn(share, args=(port, str(tmp_path)), nprocs=2)
    first: Any = torch.load(tmp_path / "0.pt", weights_only=True)
    second: Any = torch.load(tmp_path / "1.pt", weights_only=True)
    both = [parameters(0), parameters(1)]
    for place, (one, other) in enumerate(zip(first[0], second[0], strict=True)):
        gradients = [each[place].grad for each in both]
        if gradients[0] is None:
            assert one is None
            continue
        dense = [each.to_dense().numpy() for each in gradients if each is not None]
        assert np.array_equal(one.to_dense().numpy(), dense[0] + dense[1])
        assert torch.equal(one.to_dense(), other.to_dense())
        assert one.is_sparse == gradients[0].is_sparse
        if one.is_sparse:
            rows = sorted({*ROWS[place - 4][0], *ROWS[place - 4][1]})
            assert one.coalesce().indices()[0].tolist() == rows
    assert first[1].item() == second[1].item() == 3.0
    torch.manual_seed(0)
    assert torch.equal(first[2], torch.rand(3))
    assert torch.equal(first[2], second[2])
    assert second[3] == first[3].replace("/0. Set", "/1. Set")  # in both, by the names of their own
    assert first[3].startswith("checkpoint_dir: process 1 does not see the files that process 0 writes in ")
    assert first[4].startswith("process 0 of 2 has lost another one")
    assert first[4].endswith("Resume.")
    assert not list(tmp_path.glob("**/*.seen"))


@pytest.mark.parametrize("weighted", [False, True])
def test_a_shared_batch_is_the_whole_one_in_parts(weighted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(3)
    users, items = torch.randint(1, 20, (200,), generator=draw), torch.randint(1, 30, (200,), generator=draw)
    table = Histories.from_interactions(users, items, torch.ones(200) if weighted else None, 21)
    rows = torch.tensor([5, 20, 1, 19, 7])
    whole, shared = table[rows], SharedBatch(table, rows)
    with monkeypatch.context() as patch:
        patch.setattr(Histories, "__getitem__", lambda *_: pytest.fail("it looks up entries"))
        assert (len(shared), shared.nnz) == (5, len(whole.indices))
        assert [shared.span(start, 4) for start in range(4)] == [whole.span(start, 4) for start in range(4)]
        assert torch.equal(shared.lengths(), whole.lengths())
    for start, stop in ((0, 2), (2, 5), (0, 5), (3, 3)):
        one, other = shared.slice(start, stop), whole.slice(start, stop)
        for name in ("indptr", "indices"):
            assert torch.equal(getattr(one, name), getattr(other, name))
        assert torch.equal(one.entry_values(), other.entry_values())
        assert torch.equal(one.rows(), other.rows())
    assert torch.equal(shared.indices, whole.indices)
    assert torch.equal(shared.rows(), whole.rows())
    assert torch.equal(shared.entry_values(), whole.entry_values())
    assert (shared.values is None) is not weighted


def test_variables_of_several_processes_that_are_not_complete_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert alone() == ""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert "LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT are not set" in alone()
    assert torchrun_group() is None
    for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "x")
    assert alone() == ""
    with pytest.raises(ConfigError, match=r"must be whole numbers, not 0, 2, x, x"):
        torchrun_group()


def test_a_thread_may_train_beside_the_main_one(tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    done = []

    def work() -> None:
        with processes.end_together(lambda: "Resume."):  # Python handles signals in the main thread alone
            done.append(True)

    try:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    finally:
        torch.distributed.destroy_process_group()
    assert done
