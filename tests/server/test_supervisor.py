"""What is done where a worker ends. No process is started."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from uvicorn import Config

from recbole_vae.server import run


class Worker:
    """Stands for a process."""

    made = list["Worker"]()

    def __init__(self, *_: Any) -> None:
        self.pid, self.started = len(self.made), False
        self.exitcode: int | None = None
        self.child_conn = socket.socket()
        self.made.append(self)

    def start(self) -> None:
        self.started = True

    def is_alive(self, timeout: float) -> bool:
        return self.exitcode is None

    def is_ready(self) -> bool:
        return self.started and self.exitcode is None

    def kill(self) -> None: ...

    def join(self) -> None: ...


@pytest.fixture
def supervisor(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(Worker, "made", [])
    monkeypatch.setattr("uvicorn.supervisors.multiprocess.SIGNALS", {})
    monkeypatch.setattr("uvicorn.supervisors.multiprocess.Process", Worker)
    monkeypatch.setattr(run, "Process", Worker)
    found = run._Supervisor(Config(lambda: None, workers=2), [])
    found.init_processes()
    return found


def pids(supervisor: Any) -> list[int]:
    supervisor.keep_subprocess_alive()
    return [each.pid for each in supervisor.processes]


def test_a_worker_that_cannot_load_is_replaced_later(supervisor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("recbole_vae.server.run.time.monotonic", lambda: now)
    assert pids(supervisor) == [0, 1]
    Worker.made[0].exitcode = -9
    assert pids(supervisor) == [2, 1]
    for last in (2, 3):  # the second one is not tried any sooner
        Worker.made[last].exitcode = run._STARTUP_FAILED
        assert pids(supervisor) == [last, 1]
        now += run._PAUSE - 1
        assert pids(supervisor) == [last, 1]
        now += 2
        assert pids(supervisor) == [last + 1, 1]
    assert not supervisor.should_exit.is_set()
    assert not supervisor._due
    Worker.made[1].exitcode = Worker.made[4].exitcode = run._STARTUP_FAILED
    supervisor.keep_subprocess_alive()
    assert supervisor.should_exit.is_set()
    assert supervisor.failed


def test_a_worker_that_cannot_load_ends_all_if_no_other_is_ready(supervisor: Any) -> None:
    Worker.made[1].started = False
    Worker.made[0].exitcode = run._STARTUP_FAILED
    supervisor.keep_subprocess_alive()
    assert supervisor.should_exit.is_set()
    assert supervisor.failed
