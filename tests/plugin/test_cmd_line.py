"""Whose arguments ``sys.argv`` holds: runs in a script, pytest, torchrun, Jupyter and PyCharm, which have their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from recbole_vae.errors import ConfigError
from recbole_vae.options import command_line
from tests.conftest import OPTIONS, Builder, random_rows, write_inter

RUN = """
import sys
import recbole_vae
from recbole.quick_start import run_recbole

def test_run():
    options = {options!r}
    print("NDCG", run_recbole(model="MultVAE", dataset="tiny", config_dict=options)["test_result"]["ndcg@10"])

if __name__ == "__main__":
    test_run()
"""

PYCHARM = [
    "/opt/pycharm/plugins/python/helpers/pydev/pydevconsole.py",
    "--mode=client",
    "--host=127.0.0.1",
    "--port=52891",
]
JUPYTER = ["/usr/lib/python3/dist-packages/ipykernel_launcher.py", "--f=/run/user/0/jupyter/kernel-1.json"]

HOSTS = {
    "script": ["test_script.py", "--output=res.csv", "input.csv", "-v", "--value=value.csv", "--tag=a", "--tag=b"],
    "pytest": ["-m", "pytest", "-s", "-p", "no:cacheprovider", "--maxfail=1", "--ignore=a", "--ignore=b", "test_script.py"],
    "torchrun": ["-m", "torch.distributed.run", "--nproc_per_node=1", "--master_port=0", "test_script.py", "--output=res.csv"],
    "consoles": [
        "-c", f"import sys, test_script\nfor argv in ({JUPYTER}, {PYCHARM}):\n    sys.argv = argv\n    test_script.test_run()",
    ],
}  # fmt: skip


def start(words: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    Path("test_script.py").write_text(
        RUN.format(options={**OPTIONS, "data_path": write_inter(random_rows()), **options})
    )
    environment = {**os.environ, "PYTHONPATH": "."}
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, check=False, env=environment, timeout=300
    )


def ndcg(output: str) -> str:
    return output.partition("NDCG ")[2].split()[0].rstrip(".")


@pytest.fixture(scope="module")
def alone() -> dict[str, str]:
    """Keep the result of a run without arguments."""
    return {}


@pytest.mark.parametrize("host", list(HOSTS))
def test_a_hosts_own_arguments_are_no_error_and_change_nothing(host: str, alone: dict[str, str]) -> None:
    expected = alone.get("ndcg") or alone.setdefault("ndcg", ndcg(start(["test_script.py"]).stdout))
    inside = start(HOSTS[host])
    assert inside.returncode == 0, inside.stderr + inside.stdout
    assert set(re.findall(r"NDCG (\S+?)\.?\s", inside.stdout)) == {expected}


def test_known_arguments_count_and_the_log_says_which() -> None:
    done = start(["test_script.py", "--epochs=1", "--latent_dimension=4", "--dropuot_prob=0.9", "--model=resnet"])
    assert done.returncode == 0, done.stderr
    assert ndcg(done.stdout) == ndcg(start(["test_script.py"], epochs=1, latent_dimension=4).stdout)
    (line,) = (line for line in done.stderr.splitlines() if "Arguments of" in line)
    assert line.endswith(
        "Arguments of test_script.py read as options: epochs=1, latent_dimension=4; ignored: dropuot_prob (did you mean "
        "dropout_prob?), model."
    )


def test_several_processes_in_pycharms_console_meet_at_their_own_port() -> None:
    """RecBole's command line overrules the call, and PyCharm listens at its own ``--port``."""
    import socket

    with socket.socket() as taken, socket.socket() as probe:
        taken.bind(("localhost", 0))
        taken.listen()
        probe.bind(("localhost", 0))
        ports = [each.getsockname()[1] for each in (taken, probe)]
        probe.close()
        Path("script.py").write_text(
            f"import sys\nimport recbole_vae\nfrom recbole.quick_start import run\n"
            f"if __name__ == '__main__':\n    sys.argv = ['pydevconsole.py', '--mode=client', '--port={ports[0]}']\n"
            f"    options = {dict(OPTIONS, data_path=write_inter(random_rows()))!r}\n"
            f"    print('NDCG', run('MultVAE', 'tiny', config_dict=options, nproc=2, port='{ports[1]}')['test_result'])\n"
        )
        done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert ndcg(done.stdout)


@pytest.mark.parametrize("model", ["MultVAE", "MultDAE", "VASP", "BPR", "EASE", "Pop"])
def test_all_models_make_the_same_of_a_hosts_arguments(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from recbole.config import Config

    write_inter(random_rows())
    words = ["--local-rank=0", "-f", "/root/kernel-1.json", "--epochs=3", "--output=re.csv", "--x=1/0", "--seed", "5"]
    monkeypatch.setattr(sys, "argv", ["colab_kernel_launcher.py", *words])
    config = Config(model=model, dataset="tiny", config_dict={"data_path": "data", "epochs": 7})
    assert (config["epochs"], config["output"], config["x"], config["seed"]) == (3, "re.csv", "1/0", 2020)
    assert config.left_alone == {"local-rank", "output", "x"}


def test_our_own_command_line_has_options_only(monkeypatch: pytest.MonkeyPatch) -> None:
    from recbole.config import Config

    write_inter(random_rows())
    monkeypatch.setattr(sys, "argv", ["recbole-vae", "--qqq=0.1"])
    with (
        command_line.ours(),
        pytest.raises(ConfigError, match=r"^qqq \(command line\): neither MultVAE nor RecBole has"),
    ):
        Config(model="MultVAE", dataset="tiny", config_dict={"data_path": "data"})
    assert not command_line.is_ours()


def test_an_option_that_is_given_twice_is_still_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from recbole.config import Config

    monkeypatch.setattr(sys, "argv", ["host.py", "--tag=a", "--tag=b", "--anneal_cap=0.1", "--anneal_cap=0.2"])
    with pytest.raises(SyntaxError, match="anneal_cap"):
        Config(model="MultVAE", dataset="tiny")


@pytest.mark.parametrize("model", ["MultVAE", "EASE"])
def test_a_value_may_be_written_as_in_a_yaml_file(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors say what is allowed in YAML, and it can be typed as it stands there."""
    from recbole.config import Config

    write_inter(random_rows())
    words = [
        "--eval_args={split: {LS: valid_and_test}, order: TO, mode: full}",
        '--val_interval={rating: "[4,inf)"}',
        "--benchmark_filename=[train, valid, test]",
        "--user_inter_num_interval=[1,inf]",
    ]
    for word in words[:2], words[2:3], words[3:]:
        monkeypatch.setattr(sys, "argv", ["recbole-vae", *word])
        with command_line.ours():
            config = Config(model=model, dataset="tiny", config_dict={"data_path": "data"})
        if word == words[:2]:
            assert config["eval_args"]["split"] == {"LS": "valid_and_test"}
            assert config["val_interval"] == {"rating": "[4,inf)"}
        elif word == words[2:3]:
            assert config["benchmark_filename"] == ["train", "valid", "test"]
        else:
            assert config["user_inter_num_interval"] == "[1,inf]"


def test_options_of_recboles_scripts_are_no_mistake(build: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["run_recbole_group.py", "--model_list=BPR,MultVAE", "--valid_latex=a.tex"])
    with command_line.ours():
        assert build("BPR").config["model"] == "BPR"
