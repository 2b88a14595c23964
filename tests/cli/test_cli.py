"""The command line: a real run, and what it says of mistakes."""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from urllib.error import URLError

import pytest

from recbole_vae.cli.main import COMMANDS, main
from recbole_vae.storage import checkpoint
from recbole_vae.version import __version__
from tests.conftest import Builder, random_rows, write_inter

SCRIPT = Path(__file__).parents[2] / "run_recbole_vae.py"
FAST = ["--train_batch_size=16", "--mlp_hidden_size=[12]", "--latent_dimension=6", "--data_path=data", "--dataset=tiny"]


def run(*arguments: str, script: bool = True) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT)] if script else [sys.executable, "-m", "recbole_vae"]
    environment = {name: value for name, value in os.environ.items() if name != "RECBOLE_VAE_TRACEBACK"}
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, env=environment)


@pytest.mark.parametrize("model", ["MultVAE", "BPR"])
def test_the_summary_says_what_was_not_evaluated(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The split is by time, and each user comes after the one before: no test user is known."""
    rows = [(f"u{user}", f"i{(user + item) % 20}", 20 * user + item) for user in range(40) for item in range(8)]
    path = write_inter(rows, columns="user_id:token\titem_id:token\ttimestamp:float")
    args = "{'split':{'RS':[0.8,0.1,0.1]},'group_by':'none','order':'TO'}"
    options = ["--dataset=tiny", f"--data_path={path}", f"--eval_args={args}", "--epochs=1", "--eval_step=3"]
    assert main(["run", f"--model={model}", *options]) == 0
    printed = capsys.readouterr().out
    assert "test part, last epoch, the only one evaluated (eval_step: 3 is above epochs: 1)" in printed
    assert "Note        4 of 4 test users have no training history\n" in printed


def test_the_readmes_command(caplog: pytest.LogCaptureFixture) -> None:
    """``python run_recbole_vae.py`` trains on ml-100k with nothing else said; here for two epochs."""
    done = run("--epochs=2")
    assert done.returncode == 0, done.stderr
    assert "MultVAE on ml-100k, test part, best epoch by MRR@10 (standard error over users):" in done.stdout
    assert "  ndcg@10          0." in done.stdout
    assert "Time  " in done.stdout
    (file,) = Path("saved").glob("MultVAE-*.pth")
    assert f"Checkpoint  {file}" in done.stdout
    assert f"python {SCRIPT} --resume={file} --epochs=4 --stopping_step=40" in done.stdout
    assert f"python {SCRIPT} --model=EASE --dataset=ml-100k\n" in done.stdout
    assert "Train     0" in done.stderr  # the progress bar
    assert "beta=" in done.stderr
    caplog.set_level(logging.INFO)
    assert main(["run", f"--resume={file}", "--epochs=3", "--show_progress=False"]) == 0
    assert "Training goes on at epoch" in caplog.text


@pytest.mark.usefixtures("files")
def test_what_to_try_next_keeps_the_options_of_the_split(capsys: pytest.CaptureFixture[str]) -> None:
    ours = "--weight_averaging=2 --precision=float32"
    more = ["--topk=[3, 5]", *ours.split(), "--valid_metric=NDCG@3", "--exact_metrics=False"]
    assert main(["run", *FAST, "--epochs=1", "--seed=7", *more]) == 0
    printed = capsys.readouterr().out
    kept = '--dataset=tiny --data_path=data --seed=7 --topk="[3, 5]" --valid_metric=NDCG@3 --exact_metrics=False\n'
    assert f"  python -m recbole_vae run --model=EASE {kept}" in printed
    with_ours = kept.replace(" --valid", f" {ours} --valid")
    assert f"  python -m recbole_vae run --model=MultDAE {with_ours}" in printed
    (line,) = (line for line in printed.splitlines() if "--resume=" in line)
    Path("saved/MultVAE-other-99999.pth").write_bytes(b"of somebody else, and newer")
    again = subprocess.run([sys.executable, *shlex.split(line)[1:]], capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    file = shlex.split(line)[4].removeprefix("--resume=")
    assert f"Checkpoint  {file}\n" in again.stdout
    assert "--model=EASE" not in again.stdout  # its split would need the options that are in the checkpoint


OWN_VAE = """
import recbole_vae
from recbole_vae.model.multvae import MultVAE

class OwnVAE(MultVAE):
    pass

recbole_vae.register(OwnVAE)
"""


def try_next(printed: str) -> list[str]:
    """Return the lines to try next, as they are printed."""
    lines = printed.partition("Try next:\n")[2].splitlines()
    return [line.strip() for line in lines if not line.startswith("  #")]


@pytest.mark.usefixtures("registry")
def test_every_line_to_try_next_runs_as_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first in a shell; the others by this process, from the words that a shell makes of them."""
    folder = write_inter(random_rows(), folder="my data")
    Path("own_vae.py").write_text(OWN_VAE)
    Path("my settings.yaml").write_text("valid_metric: NDCG@5\nanneal_cap: 0.3\nepochs: 1\ntopk: [5]\n")
    common = ["--dataset=tiny", f"--data_path={folder}", "--imports=own_vae", "--show_progress=False"]
    more = ["--train_batch_size=16", "--config_files=my settings.yaml", "--topk", "5", "10", "--repeats=keep"]
    assert main(["run", "--model=OwnVAE", *common, *more]) == 0
    lines = try_next(capsys.readouterr().out)
    assert [line.split()[4] for line in lines[:2]] == ["--model=MultVAE", "--model=EASE"]
    assert all("--repeats=keep" in line for line in lines[:2])
    (file,) = Path("saved").glob("OwnVAE-*.pth")
    # Nothing is saved in the next run, so that the file does not know where the data lie now.
    Path("my data").rename("new data")
    moved = ["--data_path=new data", "--imports=own_vae", "--epochs=1", "--show_progress=False"]
    before = file.read_bytes()
    assert main(["run", f"--resume={file}", *moved]) == 0
    again = try_next(capsys.readouterr().out)
    assert file.read_bytes() == before
    monkeypatch.setattr(sys, "argv", [str(SCRIPT)])
    assert main(["run", "--model=BPR", "--data_path=new data", "--dataset=tiny", more[1], "--embedding_size=8"]) == 0
    other = try_next(capsys.readouterr().out)
    lines = [line.replace("my data", "new data") for line in lines[:2]] + again + other
    assert len(lines) == 4
    in_a_shell = lines[0].replace("python", sys.executable, 1)
    done = subprocess.run(in_a_shell, shell=True, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (in_a_shell, done.stderr)
    assert "test part" in done.stdout
    for line in lines[1:]:
        start = f"python {SCRIPT} " if line in other else "python -m recbole_vae run "
        assert line.startswith(start)
        assert main(["run", *shlex.split(line.removeprefix(start))]) == 0, line
        assert "test part" in capsys.readouterr().out


def test_version() -> None:
    done = run("--version", script=False)
    assert done.returncode == 0
    assert done.stdout.startswith(f"recbole_vae {__version__} recbole 1.2")


def test_the_help_is_one_screen_with_a_line_for_each_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    whole = capsys.readouterr().out
    lines = whole.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 100
    commands = [name for group in COMMANDS.values() for name in group]
    assert [line.split()[0] for line in lines if line.startswith("  ")] == commands
    assert main([]) == 2
    assert capsys.readouterr().out == whole


@pytest.mark.parametrize("command", [name for group in COMMANDS.values() for name in group])
def test_the_help_of_a_command_needs_no_heavy_library(command: str) -> None:
    heavy = "{'torch', 'recbole', 'numpy', 'pandas', 'scipy', 'pydantic', 'jinja2', 'matplotlib'}"
    code = f"""
import sys
from recbole_vae.cli.main import main
assert main(["{command}", "--help"]) == 0
assert not {heavy} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: recbole-vae {command} ")
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert "(default: )" not in done.stdout
    assert "None" not in done.stdout


def test_an_unknown_command_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recomend", "--help"]) == 2
    assert capsys.readouterr().err.startswith(
        "error: 'recomend' is not a command; did you mean recommend? The commands are run,"
    )
    assert main(["rum", "--epochs=1"]) == 2
    assert capsys.readouterr().err.startswith("error: 'rum' is not a command; did you mean run? ")


MISTAKES: dict[str, tuple[list[str], int, str]] = {
    "value": (
        [*FAST, "--dropout_prob=1.5"],
        2,
        "dropout_prob: 1.5 (command line) is not allowed; it must be a number >= 0 and < 1, or auto.",
    ),
    "name": (
        [*FAST, "--dropuot_prob=0.5"],
        2,
        "dropuot_prob (command line): neither MultVAE nor RecBole has this option. Did you mean dropout_prob?",
    ),
    "model": (["--model=MultVEA"], 2, "model: there is no model 'MultVEA'; did you mean MultVAE?"),
    "case": (["--model=multvae"], 2, "model: there is no model 'multvae'; did you mean MultVAE?"),
    "metric": (
        [*FAST, "--metrics=['NDGC']"],
        2,
        "metrics (command line): there is no metric 'ndgc'; did you mean ndcg?",
    ),
    "config file": (
        ["--config_files=gone.yaml"],
        2,
        "gone.yaml: cannot read this config file: No such file or directory.",
    ),
    "no dataset": (
        ["--dataset=nowhere"],
        1,
        "dataset: there is no folder dataset/nowhere, and RecBole knows no data set 'nowhere' to download. Put",
    ),
    "one user": (
        ["--dataset=one", "--data_path=data"],
        1,
        "data set 'one' has 1 user after filtering; at least 2 are needed.",
    ),
    "field": (
        [*FAST, "--USER_ID_FIELD=person"],
        1,
        "data/tiny/tiny.inter: there is no column 'person', which load_col, USER_ID_FIELD, ITEM_ID_FIELD or",
    ),
    "value field": (
        [*FAST, "--value_field=rating"],
        1,
        "data/tiny/tiny.inter: there is no column 'rating', which",
    ),
    "no checkpoint": (["--resume=gone.pth"], 1, "gone.pth: there is no such checkpoint."),
    "bad checkpoint": (["--resume=bad.pth"], 1, "bad.pth: truncated or not a checkpoint"),
    "resume of RecBole's": (["--model=BPR", "--resume=ours.pth"], 2, "resume: BPR is trained by RecBole"),
    "stray": (["epochs=3"], 2, "'epochs=3' (command line) is not an option; write --option=value."),
    "no value": (["--epochs"], 2, "--epochs (command line) has no value; write --epochs=value."),
    "twice": (["--epochs=1", "--epochs=2"], 2, "--epochs (command line) is given twice: 1 and 2."),
    "empty value": (["--model="], 2, "--model (command line) has no value; write --model=value."),
    "data set": (
        ["--resume=ours.pth", "--dataset=ml-100k"],
        2,
        "ours.pth: a checkpoint of data set tiny, not of ml-100k;",
    ),
    "other value": (
        ["--resume=ours.pth", "--dropout_prob=0.1"],
        2,
        "ours.pth: was trained with dropout_prob='auto', but this run",
    ),
    "other model": (
        ["--resume=ours.pth", "--model=MultDAE"],
        2,
        "ours.pth: a checkpoint of MultVAE, not of MultDAE; pass --model=MultVAE.",
    ),
    "labels": (
        [*FAST[-2:], "--model=NeuMF", "--train_neg_sample_args=None"],
        1,
        "LABEL_FIELD: data set 'tiny' has no column 'label', from which NeuMF learns where train_neg_sample_args is None.",
    ),
    "times of new users": (
        [*FAST[-2:], "--model=DiffRec", "--time-aware=True", "--eval_args={'split':{'HU':[5,5]}}"],
        2,
        "model: DiffRec with time-aware: True weighs each history by its times, which those of other users lack here;",
    ),
    "folder": (["--resume=data"], 1, "data: a folder, not a checkpoint."),
    "nproc": (["--nproc=0"], 2, "nproc: '0' (command line) is not allowed; it must be an integer >= 1."),
    "port": (
        ["--nproc=2", "--port=0"],
        2,
        "port: '0' (command line) is not allowed; it must be an integer >= 1 and <= 65535.",
    ),
    "all filtered": (
        [*FAST, "--user_inter_num_interval=[99,inf)"],
        1,
        "data set 'tiny': no interaction is left after filtering (user_inter_num_interval: [99,inf), item_inter",
    ),
}


@pytest.fixture
def files() -> None:
    write_inter(random_rows())
    write_inter([("u1", f"i{n}") for n in range(9)], name="one")
    Path("bad.pth").write_bytes(b"not a checkpoint")


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("name", list(MISTAKES))
def test_a_mistake_is_one_line_and_no_traceback(
    name: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RECBOLE_VAE_TRACEBACK", raising=False)
    arguments, status, message = MISTAKES[name]
    if "ours.pth" in str(arguments):
        assert main(["run", *FAST, "--epochs=1", "--show_progress=False"]) == 0
        next(Path("saved").glob("*.pth")).rename("ours.pth")
        capfd.readouterr()
    assert main(["run", *arguments]) == status
    err = capfd.readouterr().err
    assert "Traceback" not in err
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert errors[0].startswith(f"error: {message}"), errors


@pytest.mark.usefixtures("files")
def test_a_mistake_in_a_real_process() -> None:
    done = run(*FAST, "--latent_dimension=0")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "error: --latent_dimension (command line) is given twice: 6 and 0."
    done = run("--dataset=one", "--data_path=data", "--nproc=2")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("files")
def test_ctrl_c_keeps_the_best_epoch_and_says_how_to_go_on() -> None:
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), *FAST, "--epochs=100000", "--stopping_step=100000", "--show_progress=False"],
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while not list(Path("saved").glob("*.pth")) and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, err
    (file,) = Path("saved").glob("*.pth")
    assert f"The best epoch so far is in {file}; go on from it with --resume={file}" in err
    assert "Traceback" not in err
    assert checkpoint.load(file)["model"] == "MultVAE"
    assert not out


def test_what_cannot_reach_recbole_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--a=b=c"]) == 2
    assert "RecBole takes no '=' in a value; put the option into a YAML file" in capfd.readouterr().err
    assert main(["bench", "--json=."]) == 2
    assert "--json=. (command line): this is a folder; name a file." in capfd.readouterr().err
    Path("file").touch()
    assert main(["run", "--checkpoint_dir=file/x", "--epochs=1"]) == 1
    assert "/file: a file is where RecBole needs a folder; rename the file" in capfd.readouterr().err


def test_a_download_that_fails_is_named_and_leaves_no_folder(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from recbole.data.dataset import dataset

    def unreachable(*_: object) -> str:
        raise URLError("Name or service not known")

    monkeypatch.setattr(dataset, "decide_download", lambda url: True)
    monkeypatch.setattr(dataset, "download_url", unreachable)
    assert main(["run", "--dataset=ml-1m"]) == 1
    error = capfd.readouterr().err.splitlines()[-1]
    assert error.startswith("error: dataset: there is no folder dataset/ml-1m, and 'ml-1m' could not be downloaded: ")
    assert "Name or service not known" in error
    assert error.endswith("Set data_path to the folder that holds ml-1m/ml-1m.inter.")
    assert not Path("dataset/ml-1m").exists()


@pytest.mark.usefixtures("files")
def test_a_config_file_may_name_model_and_data(capfd: pytest.CaptureFixture[str]) -> None:
    Path("run.yaml").write_text("model: MultDAE\ndataset: tiny\ndata_path: data\nepochs: 1\nshow_progress: False\n")
    assert main(["run", "--config_files=run.yaml", "--resume=None"]) == 0
    assert "MultDAE on tiny, test part" in capfd.readouterr().out


@pytest.mark.usefixtures("files", "registry")
def test_the_time_counts_from_before_the_imports(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", time.time)  # what the module changes is put back
    Path("slow_module.py").write_text("import time\nclock = time.time\ntime.time = lambda: clock() + 5000\n")
    assert main(["run", "--model=Pop", *FAST[-2:], "--imports=slow_module"]) == 0
    (seconds,) = re.findall(r"^Time +(\S+) s, from the start of the command", capsys.readouterr().out, re.MULTILINE)
    assert float(seconds) > 5000


@pytest.mark.usefixtures("files")
def test_several_processes_from_the_command_line() -> None:
    done = run(*FAST, "--epochs=2", "--show_progress=False", "--nproc=2", "--use_gpu=False")
    assert done.returncode == 0, done.stderr
    assert "MultVAE on tiny, test part" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["latent", "--html=-"], "--html=- (command line): this cannot be standard output; name a file."),
        (["explain", "--user=a", "--html=-"], "--html=- (command line): this cannot be standard output; name a file."),
        (["bench", "--plot=-"], "--plot=- (command line): this cannot be standard output; name a file."),
        (["generate", "--out=-"], "--out=- (command line): a data set is a folder, and cannot be standard output"),
        (["generate", "--out=o", "--json=o"], "--out and --json (command line) cannot be the same; name a folder and"),
        (["recommend", "--out=./a.pth"], "--out=a.pth (command line): this is the file of --checkpoint, which would be"),
        (["recommend", "--candidates=h", "--out=h"], "--out=h (command line): this is the file of --candidates, which"),
        (["explain", "--histories=h", "--json=link"], "--json=link (command line): this is the file of --histories"),
        (["latent", "--items=h", "--html=hard"], "--html=hard (command line): this is the file of --items, which would"),
        (["generate", "--out=o", "--unseen=h", "--json=h"], "--json=h (command line): this is the file of --unseen, which"),
        (["uncertainty", "--json=a.pth"], "--json=a.pth (command line): this is the file of --checkpoint, which would be"),
    ],
)  # fmt: skip
def test_outputs_that_cannot_be_are_refused_before_any_work(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.pth", "h"):
        Path(name).write_text("kept")
    Path("link").symlink_to("h")
    Path("hard").hardlink_to("h")
    checkpoint = ["--checkpoint=a.pth"] if arguments[0] != "bench" else []
    assert main([*arguments, *checkpoint]) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")
    assert Path("a.pth").read_text() == Path("h").read_text() == "kept"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize("command", ["latent", "uncertainty --samples=0", "generate --out=o"])
def test_a_result_is_shown_before_it_is_written(
    command: str, build: Builder, capsys: pytest.CaptureFixture[str]
) -> None:
    run = build()
    run.fit()
    arguments = [*command.split(), f"--checkpoint={run.trainer.saved_model_file}"]
    assert main([*arguments, "--json=-"]) == 0
    assert isinstance(json.loads(capsys.readouterr().out), dict)
    shutil.rmtree("o", ignore_errors=True)
    page = [] if "generate" in command else ["--html=p.html"]
    assert main([*arguments, "--json=/dev/full", *page]) == 1
    captured = capsys.readouterr()
    assert " users" in captured.out
    assert captured.err.splitlines()[-1] == "error: /dev/full: cannot write this file: No space left on device."
    assert Path("p.html").exists() == bool(page)
    assert not Path("-").exists()


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("model", ["MultVAE", "EASE"])
@pytest.mark.parametrize("split", ["'RS': [0.8, 0.2, 0]", "'RS': [1, 0, 0]", "'LS': 'valid_only'"])
def test_a_run_without_a_test_part_ends_well(model: str, split: str, capfd: pytest.CaptureFixture[str]) -> None:
    own = FAST if model == "MultVAE" else FAST[-2:]
    apart = f"--eval_args={{'split': {{{split}}}, 'order': 'RO', 'mode': 'full'}}"
    assert main(["run", f"--model={model}", *own, "--epochs=1", "--show_progress=False", apart]) == 0
    out, err = capfd.readouterr()
    assert f"{model} on tiny: the split has no test part, so nothing was measured on one (eval_args: {{" in out
    (file,) = Path("saved").glob("*.pth")
    assert f"Checkpoint  {file}\n" in out
    assert "error" not in err


def test_a_run_without_a_test_part_ends_well_from_python() -> None:
    from recbole.quick_start import run_recbole

    write_inter(random_rows())
    options = {"data_path": "data", "epochs": 1, "show_progress": False, "train_batch_size": 16, "use_gpu": False}
    apart = {"split": {"RS": [0.8, 0.2, 0]}, "mode": "full"}
    result = run_recbole(model="MultVAE", dataset="tiny", config_dict={**options, "eval_args": apart})
    assert result["test_result"] is None
    assert result["best_valid_result"]


def test_files_are_closed(build: Builder, capsys: pytest.CaptureFixture[str]) -> None:
    run = build("MultDAE")
    run.fit()
    Path("h.csv").write_text("user_id,item_id\na,i1\nb,i2\n")
    Path("c.txt").write_text("i1\ni2\ni3\n")
    checkpoint = f"--checkpoint={run.trainer.saved_model_file}"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        for words in (["recommend", "--candidates=c.txt"], ["explain"]):
            assert main([*words, checkpoint, "--histories=h.csv"]) == 0
        Path("h.csv").write_text("user_id,item_id\na,i1\nb\n")
        assert main(["recommend", checkpoint, "--histories=h.csv"]) == 1
    assert not [str(each.message) for each in caught if issubclass(each.category, ResourceWarning)]
