"""Scripts that run with the plugin loaded, and modules that register models of the user's own."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from recbole_vae.cli.main import main
from recbole_vae.errors import ConfigError
from recbole_vae.model.registry import places
from tests.conftest import random_rows, write_inter

FAST = [
    "--epochs=1",
    "--train_batch_size=16",
    "--mlp_hidden_size=[12]",
    "--latent_dimension=6",
    "--show_progress=False",
]

RUN_RECBOLE = """
import argparse
from recbole.quick_start import run

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", "-m", type=str, default="BPR", help="name of models")
    parser.add_argument("--dataset", "-d", type=str, default="ml-100k", help="name of datasets")
    parser.add_argument("--config_files", type=str, default=None, help="config files")
    parser.add_argument("--nproc", type=int, default=1)
    args, _ = parser.parse_known_args()
    config_file_list = args.config_files.strip().split(" ") if args.config_files else None
    result = run(args.model, args.dataset, config_file_list=config_file_list, nproc=args.nproc)
    print("result", sorted(result))
"""

RUN_HYPER = """
import argparse
from recbole.quick_start import objective_function
from recbole.trainer import HyperTuning

def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--config_files", type=str, default=None)
    parser.add_argument("--params_file", type=str, default=None)
    parser.add_argument("--output_file", type=str, default="hyper_example.result")
    args, _ = parser.parse_known_args()
    hp = HyperTuning(
        objective_function=objective_function, algo="bayes", early_stop=10, max_evals=2,
        params_file=args.params_file, fixed_config_file_list=args.config_files.strip().split(" "),
    )
    hp.run()
    hp.export_result(output_file=args.output_file)
    print("best params: ", hp.best_params)

if __name__ == "__main__":
    main()
"""

SIGNIFICANCE_TEST = """
import argparse
from collections import defaultdict

from recbole.quick_start import run
from scipy import stats

def run_test(model, dataset, files, seeds, nproc, port):
    results = defaultdict(list)
    for seed in seeds:
        found = run(model, dataset, files, config_dict={"seed": seed}, nproc=nproc, port=port)
        for name, value in found["test_result"].items():
            results[name].append(value)
    return results

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--model_ours", type=str, default="BPR")
    parser.add_argument("--model_baseline", type=str, default="NeuMF")
    parser.add_argument("--dataset", "-d", type=str, default="ml-100k")
    parser.add_argument("--config_files", type=str, default=None)
    parser.add_argument("--st_seed", type=int, default=2023)
    parser.add_argument("--run_times", type=int, default=10)
    parser.add_argument("--nproc", type=int, default=1)
    parser.add_argument("--port", type=str, default="5678")
    args, _ = parser.parse_known_args()
    ours, baseline = args.config_files.strip().split(" ")
    seeds = [args.st_seed + 2**31 * number for number in range(args.run_times)]
    one = run_test(args.model_ours, args.dataset, [ours], seeds, args.nproc, args.port)
    other = run_test(args.model_baseline, args.dataset, [baseline], seeds, args.nproc, args.port)
    for name in one:
        found = stats.ttest_rel(one[name], other[name], alternative="less")
        print(f"{name}: statistic={found.statistic}, pvalue={found.pvalue}, {one[name]}")
"""

OWN_MODEL = """
import recbole_vae
from helper import BASE

class OwnVAE(BASE):
    pass

recbole_vae.register(OwnVAE)
"""


def shell(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "recbole_vae", *words], capture_output=True, text=True, check=False)


def test_recboles_run_hyper_knows_our_models(capsys: pytest.CaptureFixture[str]) -> None:
    write_inter(random_rows())
    Path("run_hyper.py").write_text(RUN_HYPER)
    fast = "\n".join(option.removeprefix("--").replace("=", ": ") for option in FAST)
    Path("fixed.yaml").write_text(f"model: MultVAE\ndataset: tiny\ndata_path: data\n{fast}\n")
    Path("space.hyper").write_text("dropout_prob choice [0.2,0.5]\n")
    assert main(["exec", "run_hyper.py", "--config_files=fixed.yaml", "--params_file=space.hyper"]) == 0
    assert "best params:  {'dropout_prob':" in capsys.readouterr().out
    assert "Valid result" in Path("hyper_example.result").read_text()


def test_recboles_significance_test_knows_our_models(capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_inter(random_rows())
    Path("significance_test.py").write_text(SIGNIFICANCE_TEST)
    common = f"data_path: {folder}\nepochs: 1\nshow_progress: False\nuse_gpu: False\n"
    Path("ours.yaml").write_text(f"{common}latent_dimension: 6\nmlp_hidden_size: [12]\n")
    Path("other.yaml").write_text(common)
    words = ["--model_ours=MultVAE", "--model_baseline=BPR", "--dataset=tiny", "--config_files", "ours.yaml other.yaml"]
    assert main(["exec", "significance_test.py", *words, "--run_times=2"]) == 0
    printed = [line for line in capsys.readouterr().out.splitlines() if "pvalue=" in line]
    assert [line.partition("@")[0] for line in printed] == ["recall", "mrr", "ndcg", "hit", "precision"]
    assert "nan" not in printed[0]


def test_recboles_run_recbole_and_its_children_know_our_models() -> None:
    """The children import the script, and by it RecBole, before they learn what to run."""
    write_inter(random_rows())
    Path("run_recbole.py").write_text(RUN_RECBOLE)
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    words = ["-m", "MultVAE", "--dataset=tiny", "--data_path=data", "--nproc=2", f"--port={port}", *FAST]
    done = shell("exec", "run_recbole.py", *words)
    assert done.returncode == 0, done.stderr
    assert "result ['best_valid_result'" in done.stdout
    assert list(Path("saved").glob("MultVAE-*.pth"))
    done = shell("exec", "run_recbole.py", *words, "--dropuot_prob=0.1")
    assert done.returncode == 1
    assert "dropuot_prob (command line): neither MultVAE nor RecBole has this option" in done.stderr


def test_a_script_runs_as_python_runs_it(capfd: pytest.CaptureFixture[str]) -> None:
    Path("folder").mkdir()
    Path("folder/beside.py").write_text("ANSWER = 42")
    Path("folder/script.py").write_text(
        "import __main__, pickle, sys\nfrom beside import ANSWER\nclass Own: pass\n"
        "assert type(pickle.loads(pickle.dumps(Own()))) is Own and __main__.Own is Own\n"
        "print(__name__, __file__, sys.argv, ANSWER, 'recbole_vae' in sys.modules)\nsys.exit(int(sys.argv[1]))\n"
    )
    before = sys.modules["__main__"], sys.path[:], sys.argv[:]
    for status in (0, 7):
        assert main(["exec", "folder/script.py", str(status), "--help", "-k"]) == status
        arguments = ["folder/script.py", str(status), "--help", "-k"]
        assert capfd.readouterr().out == f"__main__ folder/script.py {arguments} 42 True\n"
    assert (sys.modules["__main__"], sys.path, sys.argv) == before


@pytest.mark.parametrize(
    "script",
    [
        "def f():\n    return 1 / 0\nf()\n",
        "import sys\nsys.exit('the reason')\n",
        "x = = 3\n",
        "try:\n    1 / 0\nexcept ZeroDivisionError as error:\n    raise ValueError('other') from error\n",
        "raise KeyboardInterrupt\n",
        "import sys\nsys.exit()\n",
        "import missing_module\n",
    ],
)
def test_how_a_script_ends_is_what_python_shows(script: str) -> None:
    Path("script.py").write_text(script)
    python = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, check=False)
    done = shell("exec", "script.py")
    status = 130 if "KeyboardInterrupt" in script else python.returncode
    assert (done.returncode, done.stdout) == (status, python.stdout)
    # Python itself shows the name of the script with its folder.
    assert done.stderr.replace('File "script.py"', f'File "{Path("script.py").resolve()}"') == python.stderr.replace(
        'File "script.py"', f'File "{Path("script.py").resolve()}"'
    )


def test_a_missing_script_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["exec", "gone.py", "--model=MultVAE"]) == 2
    assert capsys.readouterr().err == "error: exec: gone.py: cannot read this script: No such file or directory.\n"


def write_own_model() -> None:
    write_inter(random_rows())
    Path("helper.py").write_text("from recbole_vae.model.multvae import MultVAE as BASE\n")
    Path("own_model.py").write_text(OWN_MODEL)


def forget() -> None:
    """Make this process one that has not imported the module yet."""
    places.pop("ownvae", None)
    for name in ("own_model", "helper", "recbole.model.general_recommender.ownvae"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("registry")
def test_imports_work_for_every_command_with_a_model_or_a_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    write_own_model()
    imports = ["--imports", "own_model", "helper"]
    assert main(["run", "--model=OwnVAE", *imports, "--dataset=tiny", "--data_path=data", *FAST]) == 0
    (file,) = Path("saved").glob("OwnVAE-*.pth")
    forget()
    assert main(["recommend", f"--checkpoint={file}", "--users=u1"]) == 1
    assert "OwnVAE, which is not registered" in capsys.readouterr().err
    for words in (
        ["recommend", "--users=u1"], ["explain", "--user=u1"], ["latent"], ["uncertainty", "--samples=0"],
        ["generate", "--out=made", "--users=20"],
    ):  # fmt: skip
        forget()
        assert main([*words, f"--checkpoint={file}", *imports]) == 0, words
    Path("script.py").write_text("from recbole.utils import get_model\nprint(get_model('OwnVAE').__name__)\n")
    forget()
    capsys.readouterr()
    assert main(["exec", "--imports=own_model", "script.py"]) == 0
    assert capsys.readouterr().out == "OwnVAE\n"
    forget()
    small = ["--users=60", "--items=80", "--interactions=800", "--seconds=1", "--repeats=1", "--train_batch_size=20"]
    assert main(["bench", "--models=OwnVAE", "--imports=own_model", "--json=b.json", *small]) == 0
    (measured,) = json.loads(Path("b.json").read_text())["measured"]["OwnVAE"]
    assert measured["error"] == ""


def test_a_module_that_cannot_be_imported_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    Path("raises.py").write_text("raise RuntimeError('not today')\n")
    for words in (["run"], ["latent", "--checkpoint=c"], ["bench"], ["compare", "--out=o"]):
        assert main([*words, "--imports=raises"]) == 2
        assert capsys.readouterr().err == "error: imports (command line): cannot import raises (not today).\n"
    for name in ("../raises", "raises.py/", "a-b", ".raises"):
        assert main(["latent", "--checkpoint=c", f"--imports={name}"]) == 2
        message = f"error: imports (command line): '{name}' is not the name of a module; for a file my_models.py write"
        assert capsys.readouterr().err.startswith(message)


def test_a_misspelt_model_in_a_script_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    from recbole.config import Config

    write_inter(random_rows())
    for name, meant in (("MultVEA", "MultVAE"), ("multvae", "MultVAE"), ("bpr", "BPR"), ("LightGCM", "LightGCN")):
        Path("script.py").write_text(f"from recbole.config import Config\nConfig('{name}', 'tiny')\n")
        assert main(["exec", "script.py"]) == 2
        error = capfd.readouterr().err.splitlines()
        assert len(error) == 1
        assert error[0].startswith(f"error: model: there is no model '{name}'; did you mean {meant}? Of recbole_vae: ")
        with pytest.raises(ConfigError, match=f"^model: there is no model '{name}'; did you mean {meant}"):
            Config(dataset="tiny", config_dict={"model": name})


def test_arguments_of_a_script_must_be_options(capfd: pytest.CaptureFixture[str]) -> None:
    """As for ``run``: under exec they are typed for the model. Python itself leaves them alone."""
    write_inter(random_rows())
    Path("script.py").write_text(
        "from recbole.config import Config\nConfig('MultVAE', 'tiny', config_dict={'data_path': 'data'})\n"
    )
    assert main(["exec", "script.py", "--dropuot_prob=0.1"]) == 2
    assert "dropuot_prob (command line): neither MultVAE nor RecBole has" in capfd.readouterr().err
    assert main(["exec", "script.py", "--output_file=x", "--run_times=3"]) == 0
