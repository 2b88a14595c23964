"""``recbole-vae serve``: its options, its processes and its signals."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from recbole_vae.cli.main import main
from tests.server.conftest import checkpoint as checkpoint
from tests.server.conftest import other_checkpoint as other_checkpoint
from tests.server.test_server_reload import put, wait

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")


def fails(capfd: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    status = main(["serve", *words])
    return status, capfd.readouterr().err.strip().splitlines()[-1]


def test_what_cannot_be_served(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, checkpoint: Path
) -> None:
    monkeypatch.delenv("RECBOLE_VAE_TOKEN", raising=False)
    assert fails(capfd, "--checkpoint=none.pth", "--port=0") == (1, "error: none.pth: there is no such checkpoint.")
    served = f"--checkpoint={checkpoint}"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        status, said = fails(capfd, served, f"--port={taken.getsockname()[1]}")
    assert status == 2
    assert "cannot listen there: Address already in use" in said
    status, said = fails(capfd, served, "--host=no.such.host.invalid")
    assert status == 2
    assert "cannot listen there" in said
    assert fails(capfd, served, "--workers=0")[0] == 2
    assert fails(capfd, served, "--max_seconds=0")[0] == 2
    assert "--token (command line): serve has no such option" in fails(capfd, served, "--token=x")[1]
    status, said = fails(capfd, served, "--token_file=none.txt")
    assert (status, said) == (
        2,
        "error: --token_file=none.txt (command line): cannot read this file: No such file or directory.",
    )
    Path("bad.txt").write_text("two words\n")
    assert "must be printable ASCII without spaces" in fails(capfd, served, "--token_file=bad.txt")[1]
    monkeypatch.setenv("RECBOLE_VAE_TOKEN", "")
    assert fails(capfd, served)[1].startswith("error: RECBOLE_VAE_TOKEN: the token must be")


def test_workers_that_cannot_start() -> None:
    Path("bad.pth").write_text("no checkpoint")
    command = [sys.executable, "-m", "recbole_vae", "serve", "--port=0", "--checkpoint=bad.pth", "--workers=2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "bad.pth: truncated or not a checkpoint." in done.stderr
    assert done.stderr.splitlines()[-1] == "error: bad.pth: no worker could start; the reason stands above."


@posix_only
def test_ctrl_c_ends_workers_with_130(checkpoint: Path) -> None:
    command = [sys.executable, "-m", "recbole_vae", "serve", "--port=0", f"--checkpoint={checkpoint}", "--workers=2"]
    with Path("serve.log").open("wb") as file:
        process = subprocess.Popen(command, stderr=file)
    try:
        wait(lambda: "starting 2 workers on http" in Path("serve.log").read_text())
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    finally:
        process.kill()
    *_, ended, interrupted = Path("serve.log").read_text().splitlines()
    assert ended.endswith("] ended")
    assert interrupted == "interrupted"


def test_without_its_libraries(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recbole_vae.cli.serve._NEEDED", ("fastapi", "no_such_library"))
    assert fails(capfd, "--checkpoint=x") == (
        2,
        "error: serve needs no_such_library: pip install 'recbole_vae[serve]'.",
    )


class Server:
    """A server in another process."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process, self.log, self.port = process, log, 0
        wait(self.listens)
        wait(lambda: self.answers("/ready"))

    def listens(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        found = re.search(r"on http://127\.0\.0\.1:(\d+)", self.log.read_text())
        self.port = int(found[1]) if found else 0
        return bool(found)

    def ask(self, path: str, body: Any = None, token: str = "") -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            headers = {"content-type": "application/json", "authorization": f"Bearer {token}"}
            method = "GET" if body is None else "POST"
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def answers(self, path: str) -> bool:
        try:
            return self.ask(path)[0] == 200
        except OSError:
            return False

    def workers(self) -> list[int]:
        found = psutil.Process(self.process.pid).children()
        return [each.pid for each in found if "resource_tracker" not in " ".join(each.cmdline())]


@contextmanager
def running(*words: str, **environment: str) -> Iterator[Server]:
    log = Path("serve.log")
    command = [sys.executable, "-m", "recbole_vae", "serve", "--port=0", *words]
    with log.open("wb") as file:
        process = subprocess.Popen(command, stderr=file, env={**os.environ, "OMP_NUM_THREADS": "1", **environment})
    children: list[psutil.Process] = []
    try:
        server = Server(process, log)
        children = psutil.Process(process.pid).children(recursive=True)
        yield server
    finally:
        process.kill()
        process.wait()
        for child in children:
            if child.is_running():
                child.kill()


class Load:
    """Requests without a pause, by several threads."""

    def __init__(self, ask: Callable[[], tuple[int, Any]]) -> None:
        self.ask, self.failed, self.versions = ask, list[str](), dict[str, int]()
        self.going = True
        self.threads = [threading.Thread(target=self.loop) for _ in range(3)]

    def loop(self) -> None:
        while self.going:
            try:
                status, answer = self.ask()
            except (OSError, http.client.HTTPException) as error:
                self.failed.append(repr(error))
                continue
            if status == 200:
                self.versions[answer["version"]] = self.versions.get(answer["version"], 0) + 1
            else:
                self.failed.append(f"{status} {answer}")

    def __enter__(self) -> Load:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.going = False
        for thread in self.threads:
            thread.join()


@posix_only
def test_one_process_under_load(checkpoint: Path, other_checkpoint: Path) -> None:
    file = Path("model.pth")
    put(checkpoint, file)
    with running(f"--checkpoint={file}", RECBOLE_VAE_TOKEN="open-sesame") as server:
        assert server.ask("/model")[0] == 401
        assert "open-sesame" not in " ".join(psutil.Process(server.process.pid).cmdline())
        asked = {"histories": [["i0", "i3"]], "k": 3}
        with Load(lambda: server.ask("/recommend", asked, "open-sesame")) as load:
            for number in range(4):
                put((other_checkpoint, checkpoint)[number % 2], file)
                server.process.send_signal(signal.SIGHUP)  # looks at once
                wait(lambda number=number: server.log.read_text().count("takes the place of") == number + 1)  # type: ignore[misc]
            wait(lambda: len(load.versions) == 2)
        assert not load.failed
        with socket.create_connection(("127.0.0.1", server.port), 60) as connection:
            connection.sendall(b"\x16\x03\x01 no HTTP\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 400 ")
        server.process.terminate()
        assert server.process.wait(60) == 0
        log = server.log.read_text()
        assert "i0" not in log
        assert "Invalid HTTP" not in log
        assert log.count("] ready\n") == 1
        assert log.endswith("] ended\n")


@posix_only
def test_workers_are_replaced_and_end_with_their_parent(checkpoint: Path) -> None:
    file = Path("model.pth")
    put(checkpoint, file)
    with running(f"--checkpoint={file}", "--workers=2") as server:
        wait(lambda: server.log.read_text().count("] ready") == 2)  # both are there
        first = server.workers()
        assert len(first) == 2
        with Load(lambda: server.ask("/recommend", {"histories": [["i0"]] * 3})) as load:
            os.kill(first[0], signal.SIGKILL)
            wait(lambda: server.log.read_text().count("] ready") == 3)
        assert len(load.failed) <= 3, load.failed  # those that it was about to answer
        assert sum(load.versions.values()) > 3
        workers = server.workers()
        assert first[1] in workers
        assert len(workers) == 2
        status, _ = server.ask("/health")
        assert status == 200
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        connection.request("GET", "/metrics")
        metrics = connection.getresponse().read().decode()
        connection.close()
        counted = re.search(
            r'^recbole_vae_requests_total\{path="/recommend",status="200"\} (.*)$', metrics, re.MULTILINE
        )
        assert counted is not None
        assert float(counted[1]) >= sum(load.versions.values())  # of both, and of the one that is gone
        file.unlink()  # another worker cannot load it, and the one that is left goes on
        wait(lambda: server.log.read_text().count("not taken up") == 2)
        os.kill(first[1], signal.SIGKILL)
        wait(lambda: f"] {file}: there is no such checkpoint." in server.log.read_text())
        assert server.ask("/recommend", {"histories": [["i0"]]})[0] == 200
        workers = server.workers()
        server.process.kill()
        server.process.wait()
        wait(lambda: not any(psutil.pid_exists(each) for each in workers))
