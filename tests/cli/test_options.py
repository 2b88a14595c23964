"""How the words of a command line become options, before anything heavy is imported."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from recbole_vae.analysis import explain, generate, latent
from recbole_vae.cli import bench, compare, recommend, run, uncertainty
from recbole_vae.cli import explain as explain_command
from recbole_vae.cli import generate as generate_command
from recbole_vae.cli import latent as latent_command
from recbole_vae.errors import ConfigError


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--models", "MultVAE", "EASE"], ["MultVAE", "EASE"]),
        (["--models=MultVAE,EASE"], ["MultVAE", "EASE"]),
        (["--models", "MultVAE, EASE"], ["MultVAE", "EASE"]),
        (["--models", "MultVAE,", "EASE"], ["MultVAE", "EASE"]),
        (["--models=[MultVAE, EASE]"], ["MultVAE", "EASE"]),
        (["--models=['MultVAE','EASE']"], ["MultVAE", "EASE"]),
        (["--models", "MultVAE", "EASE", "MultVAE"], ["MultVAE", "EASE"]),
    ],
)
def test_lists_are_read_as_people_type_them(words: list[str], expected: list[str]) -> None:
    assert bench.parser().read(words).models == expected


@pytest.mark.parametrize(
    "words", [["500", "2000"], ["500,2000"], ["[500, 2000]"], ["[500,", "2000]"], ["500,", "2000"]]
)
def test_lists_of_numbers(words: list[str]) -> None:
    read = bench.parser().read(["--train_batch_size", *words, "--items", *words, "--mlp_hidden_size=[]"])
    assert read.train_batch_size == read.items == [500, 2000]
    assert read.mlp_hidden_size == []
    checkpoint = "--checkpoint=c.pth"
    assert uncertainty.parser().read(
        [checkpoint, "--diversify", *[word.replace("00", "") for word in words]]
    ).diversify == [5.0, 20.0]
    assert recommend.parser().read([checkpoint, "--users", *words]).users == ["500", "2000"]
    assert compare.parser().read(["--out=o", "--seeds", *words]).seeds == "[500, 2000]"


def test_ids_with_commas_stand_in_quotation_marks() -> None:
    for words in (['u2, "u1,x",u2'], ["u2", '"u1,x"']):
        assert recommend.parser().read(["--checkpoint=c", "--users", *words]).users == ["u2", "u1,x"]


def test_seeds_are_a_number_or_a_list() -> None:
    for words, expected in ((["5"], "5"), (["[5]"], "[5]"), (["1", "2"], "[1, 2]"), (["0,3"], "[0, 3]")):
        assert compare.parser().read(["--out=o", "--seeds", *words]).seeds == expected
    for wrong in (["0"], ["x"], ["1", "1"], ["[]"], ["-1"]):
        with pytest.raises(
            ConfigError, match=r"^seeds: '.*' \(command line\) is not allowed; it must be a number of seeds"
        ):
            compare.parser().read(["--out=o", "--seeds", *wrong])


def recbole_options(*words: str) -> dict[str, str]:
    return run.recbole_options(run.parser().read(words))


def test_what_recbole_reads_is_passed_on() -> None:
    assert recbole_options("--a=1", "--b", "2", "--c=[3, 4]", "--d=1,2") == {
        "a": "1",
        "b": "2",
        "c": "[3, 4]",
        "d": "1,2",
    }
    assert recbole_options("--a=b=c", "--eval_args={'mode': 'full'}") == {"a": "b=c", "eval_args": "{'mode': 'full'}"}
    assert recbole_options("--mlp_hidden_size", "600", "200", "--low", "-1") == {
        "mlp_hidden_size": "[600, 200]",
        "low": "-1",
    }
    for words in (["Recall", "NDCG"], ["Recall,NDCG"], ["['Recall', 'NDCG']"]):
        assert recbole_options("--metrics", *words) == {"metrics": "['Recall', 'NDCG']"}
    for words in (["5", "10"], ["5,10"], ["[5, 10]"]):
        assert recbole_options("--topk", *words, "--nproc=2", "--imports=m") == {"topk": "[5, 10]", "nproc": "2"}


@pytest.mark.parametrize(
    ("module", "words", "message"),
    [
        (run, ["--a=1", "--a=2"], "--a (command line) is given twice: 1 and 2."),
        (bench, ["--models", "A", "--models", "B"], "--models (command line) is given twice: A and B."),
        (bench, ["--models", "--users=3"], "--models (command line) has no value; write --models=value."),
        (run, ["--model", "MultVAE", "EASE"], "'EASE' (command line) is not an option; write --option=value."),
        (recommend, ["--checkpoint=c", "-k"], "--k (command line) has no value"),
        (
            recommend,
            ["--checkpoint=c", "--chekpoint=d"],
            "--chekpoint (command line): recommend has no such option; did",
        ),
        (
            recommend,
            ["--checkpoin=c"],
            "--checkpoin (command line): recommend has no such option; did you mean --check",
        ),
        (bench, ["--models=,"], "models: ',' (command line) is not allowed; it must be a list such as A,B."),
        (bench, ["--models=[]"], "models: '[]' (command line) is not allowed; it must be a list such as A,B."),
        (bench, ["--items=[]"], "items: '[]' (command line) is not allowed; it must be an integer >= 2."),
        (
            run,
            ["--port=999999"],
            "port: '999999' (command line) is not allowed; it must be an integer >= 1 and <= 65535.",
        ),
    ],
)
def test_mistakes_are_named(module: Any, words: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        module.parser().read(words)
    assert str(caught.value).startswith(message)


REFUSED = [
    "recommend --checkpoint=c -k 0", "recommend --checkpoint=c -k=0", "recommend --checkpoint=c -kx", "recommend -k 3",
    "recommend --checkpoint=c --seed -1", "recommend --checkpoint=c --samples=-1", "recommend --checkpoint=c --diversify=-1",
    "recommend --checkpoint=c --keep_seen=yes", "recommend --checkpoint=c --out=gone/o", "recommend --checkpoint=c --x=1",
    "explain --checkpoint=c --user=u -k x", "explain --checkpoint=c", "explain --checkpoint=c --user=u --method=x",
    "latent --checkpoint=c --latents=0", "latent --checkpoint=c --axes=x", "uncertainty --checkpoint=c -k 1",
    "uncertainty --checkpoint=c --diversify 1 x", "uncertainty --checkpoint=c --part=train",
    "generate --checkpoint=c --out=o --users=0", "generate --checkpoint=c --out=o --source=x", "generate --checkpoint=c",
    "compare --out=o --jobs=0", "compare --out=o --alpha=5", "compare --out=o --seeds=0", "compare --jobs=2",
    "compare --out=o --time_limit=0", "compare --out=o --topk 5 x", "bench --repeats=0", "bench --preset=x",
    "bench --items 5 x", "run --nproc=0", "run --port=x", "run --port=999999", "run --model=MultVEA",
    "rum --epochs=1", "latent --checkpoint=c --imports=../x", "prepare netflix", "exec gone.py",
]  # fmt: skip


def test_what_cannot_be_is_refused_before_torch_is_imported() -> None:
    code = f"""
import sys
from recbole_vae.cli.main import main
for line in {REFUSED}:
    assert main(line.split()) == 2, line
    assert not {{"torch", "recbole", "numpy"}} & set(sys.modules), line
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stderr.splitlines()) == len(REFUSED)


def test_the_choices_are_those_of_the_analyses() -> None:
    for module, option, choices in (
        (explain_command, "method", explain.METHODS),
        (latent_command, "axes", latent.AXES),
        (generate_command, "source", generate.SOURCES),
    ):
        needed = ["--checkpoint=c", "--out=o"] if option == "source" else ["--checkpoint=c"]
        assert getattr(module.parser().read(needed), option) == choices[0]
        with pytest.raises(ConfigError, match=f"it must be {' or '.join(choices)}.$"):
            module.parser().read([*needed, f"--{option}=x"])
