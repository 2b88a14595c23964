"""Archives are fetched from a server in this process: whole and checked, or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import shutil
import signal
import socket
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import filelock
import pytest

from recbole_vae.cli.main import main
from recbole_vae.data import fetch as fetch_module
from recbole_vae.data.fetch import Archive, fetch
from recbole_vae.data.prepare import SOURCES
from recbole_vae.errors import DataError


def archive_of_ml_1m() -> bytes:
    """Return a small archive in the layout of ml-1m, of some 100 kB."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        lines = (f"{user}::{item}::5::9\n" for user in range(90) for item in range(user % 3, 300, 3))
        archive.writestr("ml-1m/ratings.dat", "".join(lines))
    return content.getvalue()


CONTENT = archive_of_ml_1m()
SHA256 = hashlib.sha256(CONTENT).hexdigest()
HALF = len(CONTENT) // 2


@dataclass
class Owner:
    """What the server of the tests sends, and what it was asked for."""

    address: str = ""
    content: bytes = CONTENT
    status: int = 200
    sends: int = len(CONTENT) * 2
    ranges: bool = True
    with_length: bool = True
    kind: str = "application/zip"
    interrupt: bool = False
    asked: list[str] = field(default_factory=list)

    def archive(self) -> Archive:
        return Archive(self.address, len(CONTENT), SHA256, "Terms: be kind")


@pytest.fixture
def owner(monkeypatch: pytest.MonkeyPatch) -> Iterator[Owner]:
    owner = Owner()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
            start = int(wanted[1]) if wanted and owner.ranges else 0
            owner.asked.append(f"{self.path} {start}")
            body = owner.content[start:]
            self.send_response(206 if start else owner.status)
            self.send_header("Content-Type", owner.kind)
            if owner.with_length:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                self.wfile.write(body[: owner.sends])
                self.wfile.flush()
            if owner.interrupt:
                while not Path("out/ml-1m.zip.partial").exists() or not sum(files().values()):
                    if stopped.wait(0.01):
                        return
                os.kill(os.getpid(), signal.SIGINT)
                stopped.wait(60)

        def log_message(self, *_: object) -> None:
            pass

    stopped = threading.Event()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    owner.address = f"http://127.0.0.1:{server.server_port}/movielens/ml-1m.zip"
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setitem(SOURCES, "ml-1m", replace(SOURCES["ml-1m"], archive=owner.archive()))
    yield owner
    stopped.set()
    server.shutdown()
    server.server_close()
    thread.join()


def files(folder: str = "out") -> dict[str, int]:
    return {path.name: path.stat().st_size for path in Path(folder).iterdir() if path.is_file()}


def test_an_archive_is_fetched_once(owner: Owner, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", "ml-1m", "--out=out"]) == 0
    out, err = capfd.readouterr()
    assert out.startswith("Terms: be kind\nout/ml-1m: 9,000 of 9,000 interactions, of 90 users and 300 items\n")
    assert "Fetching" in err
    assert Path("out/ml-1m.zip").read_bytes() == CONTENT
    assert files() == {"ml-1m.zip": len(CONTENT)}
    assert main(["prepare", "ml-1m", "--out=out"]) == 1
    assert "error: out/ml-1m: exists already; remove it, or choose another --out." in capfd.readouterr().err
    first = Path("out/ml-1m/ml-1m.inter").read_text()
    shutil.rmtree("out/ml-1m")
    owner.status = 500
    assert main(["prepare", "ml-1m", "--out=out"]) == 0
    assert Path("out/ml-1m/ml-1m.inter").read_text() == first
    assert owner.asked == ["/movielens/ml-1m.zip 0"]


def test_what_exists_already_is_refused_before_anything_is_fetched(owner: Owner) -> None:
    Path("dataset/ml-1m").mkdir(parents=True)
    assert main(["prepare", "ml-1m"]) == 1
    assert owner.asked == []


def test_a_named_file_is_taken_wherever_it_stands_on_the_command_line(owner: Owner) -> None:
    Path("mine.zip").write_bytes(CONTENT)
    assert main(["prepare", "ml-1m", "--out=a", "mine.zip"]) == 0
    assert main(["prepare", "--out=b", "ml-1m", "mine.zip"]) == 0
    assert main(["prepare", "ml-1m", "mine.zip", "--out=c"]) == 0
    assert main(["prepare", "ml-1m", "--out=d", "mine.zip", "other.zip"]) == 2
    assert owner.asked == []


@pytest.mark.parametrize("ranges", [True, False])
def test_a_cut_connection_leaves_no_file_that_looks_whole_and_is_taken_up(owner: Owner, ranges: bool) -> None:
    owner.sends, owner.ranges = HALF, ranges
    message = (
        f"{owner.address}: cannot be fetched: the connection ended early. out/ml-1m.zip.partial has {HALF:,} of {len(CONTENT):,} "
        "bytes; the same command goes on from there. Check the network, and the proxy in HTTPS_PROXY"
    )
    with pytest.raises(DataError, match=f"^{re.escape(message)}"):
        fetch("ml-1m", owner.archive(), Path("out"))
    assert files() == {"ml-1m.zip.partial": HALF}
    owner.sends = len(CONTENT)
    fetch("ml-1m", owner.archive(), Path("out"))
    assert Path("out/ml-1m.zip").read_bytes() == CONTENT
    assert files() == {"ml-1m.zip": len(CONTENT)}
    assert owner.asked == ["/movielens/ml-1m.zip 0", f"/movielens/ml-1m.zip {HALF if ranges else 0}"]


def test_a_file_that_is_longer_than_the_owners_is_begun_anew(owner: Owner) -> None:
    Path("out").mkdir()
    Path("out/ml-1m.zip.partial").write_bytes(CONTENT + b"x")
    fetch("ml-1m", owner.archive(), Path("out"))
    assert Path("out/ml-1m.zip").read_bytes() == CONTENT


def test_a_whole_file_that_was_not_checked_yet_needs_no_network(owner: Owner) -> None:
    Path("out").mkdir()
    Path("out/ml-1m.zip.partial").write_bytes(CONTENT)
    fetch("ml-1m", owner.archive(), Path("out"))
    assert files() == {"ml-1m.zip": len(CONTENT)}
    assert owner.asked == []


@pytest.mark.parametrize("with_length", [True, False])
def test_another_file_is_removed(owner: Owner, with_length: bool) -> None:
    owner.content, owner.with_length = CONTENT[:-1] + b"x" * (1 if with_length else 2**24), with_length
    with pytest.raises(DataError) as error:
        fetch("ml-1m", owner.archive(), Path("out"))
    found = re.search(
        "its SHA-256 is ([0-9a-f]{64}), and ([0-9a-f]{64}) is expected. It was removed.", str(error.value)
    )
    assert found
    assert found[2] == SHA256
    assert (found[1] == hashlib.sha256(owner.content).hexdigest()) == with_length  # not all of 16 MB was taken
    assert not Path("out").exists()


def test_a_file_of_another_length_is_not_even_fetched(owner: Owner) -> None:
    owner.content, owner.kind = b"<html>Please log in</html>", "text/html"
    with pytest.raises(
        DataError, match=rf"cannot be fetched: 26 bytes \(text/html\) are sent, and {len(CONTENT):,} are expe"
    ):
        fetch("ml-1m", owner.archive(), Path("out"))
    assert not Path("out").exists()


def test_a_file_in_the_folder_that_is_another_one_is_left_alone(owner: Owner) -> None:
    Path("my data").mkdir()
    Path("my data/ml-1m.zip").write_bytes(b"mine")
    message = (
        f"my data/ml-1m.zip: is not the archive of ml-1m that its owner publishes: its SHA-256 is "
        f"{hashlib.sha256(b'mine').hexdigest()}, and {SHA256} is expected. Remove it, and the same command fetches it; or use it "
        'nevertheless: recbole-vae prepare ml-1m "my data/ml-1m.zip".'
    )
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        fetch("ml-1m", owner.archive(), Path("my data"))
    assert Path("my data/ml-1m.zip").read_bytes() == b"mine"
    assert owner.asked == []


def test_a_file_that_is_gone_is_said_with_what_to_do(owner: Owner, capsys: pytest.CaptureFixture[str]) -> None:
    owner.status = 404
    assert main(["prepare", "ml-1m", "--out=out"]) == 1
    assert capsys.readouterr().err == (
        f"error: {owner.address}: cannot be fetched: the server answers 404 Not Found. Check the network, and the proxy in "
        "HTTPS_PROXY if there must be one. Or save the file as out/ml-1m.zip by other means: the same command then reads it.\n"
    )
    assert not Path("out").exists()


def test_without_a_network_the_message_says_what_was_tried(owner: Owner) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    gone = replace(owner.archive(), address=f"http://127.0.0.1:{port}/ml-1m.zip")
    with pytest.raises(
        DataError, match=rf"^http://127.0.0.1:{port}/ml-1m.zip: cannot be fetched: Connection refused\. Check"
    ):
        fetch("ml-1m", gone, Path("out"))
    assert not Path("out").exists()


def test_a_server_that_falls_silent_is_given_up(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch_module, "TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/ml-1m.zip"
        with pytest.raises(DataError, match="cannot be fetched: no answer in 0.2 seconds. Check the network"):
            fetch("ml-1m", replace(owner.archive(), address=address), Path("out"))


def test_the_proxy_of_the_environment_is_asked(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", owner.address.removesuffix("/movielens/ml-1m.zip"))
    far = "http://files.example.org/movielens/ml-1m.zip"
    fetch("ml-1m", replace(owner.archive(), address=far), Path("out"))
    assert owner.asked == [f"{far} 0"]


def test_ctrl_c_keeps_what_was_fetched_and_the_next_command_goes_on(
    owner: Owner, capfd: pytest.CaptureFixture[str]
) -> None:
    owner.sends, owner.interrupt = HALF, True
    assert main(["prepare", "ml-1m", "--out=out"]) == 130
    (length,) = files().values()
    assert 0 < length <= HALF
    assert files() == {"ml-1m.zip.partial": length}
    assert (
        f"{owner.address}: interrupted. out/ml-1m.zip.partial has {length:,} of {len(CONTENT):,} bytes; the same command goes on "
        "from there.\ninterrupted\n"
    ) in capfd.readouterr().err
    owner.sends, owner.interrupt = len(CONTENT), False
    assert main(["prepare", "ml-1m", "--out=out"]) == 0
    assert Path("out/ml-1m.zip").read_bytes() == CONTENT
    assert owner.asked[1] == f"/movielens/ml-1m.zip {length}"


def test_two_commands_do_not_fetch_into_one_file(owner: Owner, capsys: pytest.CaptureFixture[str]) -> None:
    Path("out").mkdir()
    with filelock.FileLock("out/.ml-1m.zip.lock"):
        assert main(["prepare", "ml-1m", "--out=out"]) == 1
    assert "error: out/ml-1m.zip: another command fetches it now; give this one again" in capsys.readouterr().err
    assert owner.asked == []
    assert main(["prepare", "ml-1m", "--out=out"]) == 0


def test_a_disk_without_room_is_said_before_anything_is_fetched(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    message = f"^out/ml-1m.zip.partial: {len(CONTENT):,} bytes are missing, and 1,000 are free; choose another --out.$"
    with pytest.raises(DataError, match=message):
        fetch("ml-1m", owner.archive(), Path("out"))
    assert not Path("out").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_disk_that_is_full_is_no_error_of_the_network(owner: Owner) -> None:
    Path("out").mkdir()
    Path("out/ml-1m.zip.partial").symlink_to("/dev/full")
    with pytest.raises(DataError, match=r"^out/ml-1m.zip.partial: cannot write this file: No space left on device\.$"):
        fetch("ml-1m", owner.archive(), Path("out"))


def test_a_folder_that_cannot_be_is_named(owner: Owner) -> None:
    Path("out").write_text("a file")
    with pytest.raises(DataError, match=r"^out/ml-1m.zip: cannot write this file: "):
        fetch("ml-1m", owner.archive(), Path("out"))


@pytest.mark.parametrize(
    ("name", "get"),
    [
        ("netflix", "combined_data_1.txt to combined_data_4.txt from https://www.kaggle.com/datasets/netflix-inc/netf"),
        ("msd", "train_triplets.txt.zip from http://millionsongdataset.com/tasteprofile/, and name"),
        ("gowalla", "loc-gowalla_totalCheckins.txt.gz from https://snap.stanford.edu/data/loc-Gowalla.html, and"),
        (
            "lastfm-lightgcn",
            "data1.txt and test1.txt from https://github.com/gusye1234/LightGCN-PyTorch/tree/master/data/la",
        ),
    ],
)
def test_where_to_get_what_is_not_fetched_is_said(name: str, get: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", name]) == 2
    err = capsys.readouterr().err
    assert err.startswith(
        "error: FILE (command line) is missing: prepare fetches ml-100k, ml-1m, ml-10m, ml-20m alone. Get " + get
    )
    assert err.endswith(f": recbole-vae prepare {name} FILE.\n")
