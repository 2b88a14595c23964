"""After ``kill -9`` at any moment, the same command or ``--resume`` gives the same bits, and nothing saved is lost.

Half of the kills come at a random time in the life of a process. The other half come at a write: just before a file is
opened, renamed or removed.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.fuzz import cases
from tests.fuzz.run import Case, Server, tally

TRAIN = [
    "run",
    "--model=MultVAE",
    *cases.FAST[1:],
    "--epochs=6",
    f"--eval_args={cases.LEAVE_ONE_OUT}",
    "--topk=[3]",
    "--valid_metric=NDCG@3",
]
COMPARE = [
    "compare", "--models=EASE,MultVAE", "--out=o", "--dataset=tiny", "--data_path=data", "--epochs=2", "--topk=3", "--max_k=4",
    "--use_gpu=False",
]  # fmt: skip
PREPARE = ["prepare", "shop", "shop.csv", "--user=user", "--item=item", "--time=time"]
KINDS = {"run": (TRAIN, 1, 40), "compare": (COMPARE, 1, 25), "prepare": (PREPARE, 2, 40)}
"""By name: the command, and how many kills there are in the short run and in the long one."""


def files() -> dict[str, bytes]:
    """Return the files in the working directory of each command."""
    shop = "".join(
        f"{user},{item},{1000 + 7 * user + item}\n" for user in range(400) for item in range(user % 7, 60, 3)
    )
    return {"data/tiny/tiny.inter": cases.tiny().content, "shop.csv": f"user,item,time\n{shop}".encode()}


def digest(value: Any) -> Any:
    """Return a SHA-256 of all tensors in a value, and the rest as it is."""
    if isinstance(value, torch.Tensor):
        return hashlib.sha256(value.contiguous().numpy().tobytes()).hexdigest()
    if isinstance(value, dict):
        return {key: digest(each) for key, each in value.items()}
    return [digest(each) for each in value] if isinstance(value, list | tuple) else value


def result(kind: str, work: Path, out: str) -> Any:
    """Return what must be the same without an interruption."""
    if kind == "prepare":
        return {path.name: path.read_bytes() for path in (work / "dataset").rglob("*") if path.is_file()}
    if kind == "run":
        (file,) = (work / "saved").glob("*.pth")
        state = torch.load(file, weights_only=True)
        printed = [line for line in out.splitlines() if line.startswith("  ") and "@" in line.split()[0]]
        return printed, digest(
            {name: state[name] for name in ("state_dict", "optimizer", "random", "epoch", "best_valid_result")}
        )
    runs = {}
    for folder in (work / "o/runs").iterdir():
        run = json.loads((folder / "result.json").read_text())
        runs[folder.name] = (
            {name: run[name] for name in ("status", "test", "valid", "split_hash")},
            (folder / "users.npz").read_bytes(),
        )
    return runs


def again(kind: str, work: Path) -> list[str]:
    """Return the command that goes on after a kill, and assert that what was saved is whole."""
    command = KINDS[kind][0]
    if kind == "run":
        saved = list((work / "saved").glob("*.pth"))
        for file in saved:
            assert torch.load(file, weights_only=True)["epoch"] >= 0
        return [*command, f"--resume={saved[0].relative_to(work)}"] if saved else command
    if kind == "prepare" and (work / "dataset/shop").exists():
        assert (work / "dataset/shop/shop.inter").stat().st_size, "half a data set has its name"
        return []
    return command


def process(work: Path, words: list[str], after: float | None = None) -> tuple[int, str, str]:
    """Run a command in a new process, and kill it after some seconds."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HOME": str(work / "home"), "PYTHONDONTWRITEBYTECODE": "1"}
    with subprocess.Popen(
        [sys.executable, "-m", "recbole_vae", *words], cwd=work, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as child:  # fmt: skip
        try:
            out, err = child.communicate(timeout=after)
        except subprocess.TimeoutExpired:
            child.kill()
            out, err = child.communicate()
    return child.returncode, out, err


def new_folder(server: Server) -> Path:
    folder = server.base / f"killed{server.count}"
    server.count += 1
    (folder / "work" / "home").mkdir(parents=True)
    for name, content in files().items():
        path = folder / "work" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def kill(kind: str, server: Server, number: int, seed: int) -> list[str]:
    """Kill a command many times, each time from nothing, and go on; return what was found.

    Of 12 kills six are at a write, five at some time in a forked process, and one at some time in a new process, which also
    goes on in one.
    """
    chance, found, command = random.Random(seed), [], KINDS[kind][0]
    folder = new_folder(server)
    ended = server.run(Case(command, in_process=True), folder)
    assert ended.status == 0, ended.err
    right, writes, seconds = result(kind, ended.work, ended.out), ended.report["writes"], server.seconds
    for turn in range(number):
        folder, in_fork = new_folder(server), turn % 12 != 11
        place = (
            chance.randint(1, writes) if turn % 2 == 0 else chance.uniform(0, seconds if in_fork else 10 * seconds + 5)
        )
        if in_fork:
            when = {"kill_at": place} if turn % 2 == 0 else {"kill_after": place}
            server.run(Case(command, in_process=True, **when), folder)  # type: ignore[arg-type]
        else:
            process(folder / "work", command, after=place)
        try:
            words = again(kind, folder / "work")
            status, out, err = 0, "", ""
            if words and in_fork:
                ended = server.run(Case(words, in_process=True), folder)
                assert ended.status is not None, "hangs"
                status, out, err = ended.status, ended.out, ended.err
            elif words:
                status, out, err = process(folder / "work", words)
            assert status == 0, err[-2000:]
            got = result(kind, folder / "work", out)
            assert got == right, f"{got} instead of {right}"
            # Half of a first checkpoint stays: the next run has a file of another name.
            left = [path for path in (folder / "work").rglob("*.tmp") if "home" not in path.parts and kind != "run"]
            assert not left, f"left: {left}"
        except AssertionError as error:
            tally[f"kill -9 of {kind}", "FAULT"] += 1
            what = "write" if turn % 2 == 0 else "second"
            found.append(
                f"{kind}, killed at {what} {place} of {writes if turn % 2 == 0 else seconds}, {folder}: {error}"[:3000]
            )
        else:
            tally[f"kill -9 of {kind}", "the same bits"] += 1
            shutil.rmtree(folder)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_short(kind: str, server: Server) -> None:
    found = kill(kind, server, KINDS[kind][1], seed=1)
    assert not found, "\n\n".join(found)


@pytest.mark.fuzz
@pytest.mark.parametrize("kind", KINDS)
def test_long(kind: str, server: Server) -> None:
    started = time.monotonic()
    found = kill(kind, server, KINDS[kind][2], seed=2)
    counts = {outcome: number for (name, outcome), number in tally.items() if name == f"kill -9 of {kind}"}
    print(f"\nkill -9 of {kind}: {time.monotonic() - started:.0f} s, {counts}")
    assert not found, "\n\n".join(found)
