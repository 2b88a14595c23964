from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from recbole_vae.errors import DataError
from recbole_vae.storage.files import temporary_beside, write_whole, written_whole


def test_a_file_is_replaced_when_all_is_written() -> None:
    path = Path("a.txt")
    path.write_text("old")
    with written_whole(path) as file:
        file.write("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    with pytest.raises(ZeroDivisionError), written_whole(path) as file:
        file.write(str(1 // 0))
    assert path.read_text() == "new"
    write_whole(path, b"newer")
    assert path.read_text() == "newer"
    assert list(Path().iterdir()) == [path]


def test_a_folder_is_refused_before_anything_is_written() -> None:
    Path("folder").mkdir()
    with (
        pytest.raises(DataError, match="folder: cannot write this file: it is a folder"),
        written_whole(Path("folder")),
    ):
        pytest.fail("entered")


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.EACCES, "Permission denied"),
        (errno.EROFS, "Read-only file system"),
        (errno.ENOSPC, "No space left on device"),
        (errno.EDQUOT, "Disk quota exceeded"),
    ],
)
def test_why_a_file_cannot_be_written(number: int, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    message = f"^a.txt: cannot write this file: {reason}\\.$"
    Path("a.txt").write_text("old")

    def fails(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    for name in ("open", "replace"):
        with monkeypatch.context() as patched:
            patched.setattr(Path, name, fails)
            with pytest.raises(DataError, match=message):
                write_whole(Path("a.txt"), b"new")
            with pytest.raises(DataError, match=message), written_whole(Path("a.txt")) as file:
                file.write("new")
    assert [each.name for each in Path().iterdir()] == ["a.txt"]
    assert Path("a.txt").read_text() == "old"


def test_a_folder_that_is_not_there_is_named() -> None:
    for write in (lambda path: write_whole(path, b""), lambda path: written_whole(path).__enter__()):
        with pytest.raises(DataError, match=r"^nowhere/a: cannot write this file: there is no folder nowhere\.$"):
            write(Path("nowhere/a"))


def test_temporary_names_carry_the_process_id() -> None:
    with written_whole(Path("a.txt")), written_whole(Path("b"), binary=True):
        assert sorted(each.name for each in Path().iterdir()) == [
            temporary_beside(Path(name)).name for name in ("a.txt", "b")
        ]
        assert all(each.name.endswith(f".{os.getpid()}.tmp") for each in Path().iterdir())


def test_after_ctrl_c_there_is_what_was_written_of_a_text_and_nothing_of_a_binary_file() -> None:
    with pytest.raises(KeyboardInterrupt), written_whole(Path("a.txt")) as file:
        file.write("half")
        raise KeyboardInterrupt
    assert Path("a.txt.partial").read_text() == "half"
    with pytest.raises(KeyboardInterrupt), written_whole(Path("b"), binary=True) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert [each.name for each in Path().iterdir()] == ["a.txt.partial"]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="a folder of Linux")
def test_silence_leaves_no_file_open() -> None:
    script = (
        "import os\nfrom recbole_vae.storage.files import silence\nsilence()\nbefore = len(os.listdir('/proc/self/fd'))\n"
        "for _ in range(9):\n    silence()\nraise SystemExit(len(os.listdir('/proc/self/fd')) - before)"
    )
    assert subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, check=False).returncode == 0


def test_links_and_pipes_stay_what_they_are() -> None:
    Path("target.txt").write_text("old")
    Path("link.txt").symlink_to("target.txt")
    with written_whole(Path("link.txt")) as file:
        file.write("new")
    assert Path("link.txt").is_symlink()
    assert Path("target.txt").read_text() == "new"
    os.mkfifo("pipe")
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(Path("pipe").read_text()))
    reader.start()
    with written_whole(Path("pipe")) as file:
        file.write("through")
    reader.join(10)
    assert read == ["through"]
    assert Path("pipe").is_fifo()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_full_disk_is_named_with_the_file() -> None:
    with (
        pytest.raises(DataError, match=r"^/dev/full: cannot write this file: No space left on device\.$"),
        written_whole(Path("/dev/full")) as file,
    ):
        file.write("more")
    with pytest.raises(OSError, match="of something else"), written_whole(Path("a.txt")):
        raise OSError("of something else")
    assert not list(Path().iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_standard_output_that_is_full_is_named_once() -> None:
    script = "from recbole_vae.storage.files import opened\nwith opened(None) as file:\n    file.write('more')\n"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", script], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.stderr.endswith("DataError: standard output: cannot write: No space left on device.\n")
    closed = ["sh", "-c", '"$0" -c "$1" >&-', sys.executable, script]
    assert subprocess.run(closed, check=False).returncode == 0


def left_by(process: int, path: Path) -> Path:
    """Return the temporary name of a file under which another process of this machine writes it."""
    return path.with_name(temporary_beside(path).name.replace(f".{os.getpid()}.", f".{process}."))


def test_what_a_killed_process_left_goes_when_the_file_is_written_again(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True
    )
    target, number = tmp_path / "a[1]", int(done.stdout)
    dead, alive = (left_by(process, target) for process in (number, os.getppid()))
    other, elsewhere = left_by(number, tmp_path / "a1"), target.with_name(f".a[1].another_machine.{number}.tmp")
    for each in (dead, alive, other, elsewhere):
        each.write_text("half")
    write_whole(target, b"whole")
    assert sorted(tmp_path.iterdir()) == sorted([target, alive, other, elsewhere])
