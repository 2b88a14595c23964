"""Synthetic users, from Python and from the command line."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recbole.quick_start import run_recbole
from scipy.stats import chisquare

from recbole_vae import Recommender
from recbole_vae.analysis import generate
from recbole_vae.cli.main import main
from recbole_vae.data.held_out import SplitFile
from recbole_vae.data.histories import Histories
from recbole_vae.errors import ConfigError
from recbole_vae.model.capabilities import Capabilities
from tests.conftest import Builder, random_rows, write_inter


class Known(Capabilities):
    """A model whose latent variable is the history's length, and whose logits are known."""

    n_items = 6
    by_softmax = True
    has_posterior = True
    standard_prior = True

    def __init__(self, histories: Histories, deviation: float = 0.0, slope: float = 0.0) -> None:
        self.histories, self.deviation, self.slope = histories, deviation, slope
        self.latents: list[float] = []

    def posterior(self, histories: Histories) -> tuple[torch.Tensor, torch.Tensor]:
        mu = histories.lengths().float().unsqueeze(1)
        return mu, torch.full_like(mu, 2 * np.log(self.deviation) if self.deviation else -torch.inf)

    def decoder(self, latent: torch.Tensor) -> torch.Tensor:
        self.latents += latent.flatten().tolist()
        return torch.tensor([0.0, 1.0, 2.0, -1.0, 0.5]) + self.slope * latent * torch.arange(5)


SINGLES = Histories.from_lists([[], [1], [2], [3]])


def test_items_are_drawn_by_their_probabilities() -> None:
    drawn = list(generate.synthesise(Known(SINGLES), None, 4000))
    counts = Counter(int(each[0]) for each in drawn)
    expected = torch.softmax(torch.tensor([0.0, 1.0, 2.0, -1.0, 0.5]), 0).double().numpy()
    assert chisquare([counts[item] for item in range(1, 6)], 4000 * expected / expected.sum()).pvalue > 1e-3
    assert {len(each) for each in drawn} == {1}


def test_two_items_are_drawn_without_replacement() -> None:
    drawn = Counter(tuple(each) for each in generate.synthesise(Known(Histories.from_lists([[1, 2]])), None, 5000))
    p = torch.softmax(torch.tensor([0.0, 1.0, 2.0, -1.0, 0.5]), 0).double().numpy()
    pairs = [(one, two) for one in range(5) for two in range(one + 1, 5)]
    expected = np.array([p[i] * p[j] / (1 - p[i]) + p[j] * p[i] / (1 - p[j]) for i, j in pairs])
    observed = [drawn[one + 1, two + 1] for one, two in pairs]
    assert sum(observed) == 5000
    assert chisquare(observed, 5000 * expected / expected.sum()).pvalue > 1e-3


def test_lengths_and_latent_variables_are_of_the_histories() -> None:
    histories = Histories.from_lists([[], [1], [1, 2, 3], [1, 2, 3, 4, 5]])
    model = Known(histories)
    drawn = list(generate.synthesise(model, None, 900))
    counts = Counter(len(each) for each in drawn)
    assert set(counts) == {1, 3, 5}
    assert chisquare(list(counts.values())).pvalue > 1e-3
    assert model.latents == [len(each) for each in drawn]
    model = Known(histories, deviation=0.1)
    list(generate.synthesise(model, Histories.from_lists([[4, 5]]), 2000))
    assert np.mean(model.latents) == pytest.approx(2, abs=0.02)
    assert np.std(model.latents) == pytest.approx(0.1, rel=0.1)
    model = Known(histories, deviation=0.1)
    prior = list(generate.synthesise(model, None, 2000, source="prior"))
    assert np.mean(model.latents) == pytest.approx(0, abs=0.1)
    assert np.std(model.latents) == pytest.approx(1, rel=0.1)
    assert {len(each) for each in prior} == {1, 3, 5}


def test_around_some_histories_each_has_its_turn() -> None:
    around = Histories.from_lists([[1], [1, 2], [1, 2, 3]])
    model = Known(SINGLES)
    assert [len(each) for each in generate.synthesise(model, around, 7)] == [1, 2, 3, 1, 2, 3, 1]
    assert [len(each) for each in generate.synthesise(model, around, None)] == [1, 2, 3]


def test_what_is_drawn_depends_on_the_seed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Known(Histories.from_lists([[1], [1, 2, 3]]), deviation=1.0, slope=0.3)
    first = [each.tolist() for each in generate.synthesise(model, None, 50, seed=3)]
    monkeypatch.setattr("recbole_vae.nn.chunks.SCORES_PER_CHUNK", 35)
    assert [each.tolist() for each in generate.synthesise(model, None, 50, seed=3)] == first
    assert [each.tolist() for each in generate.synthesise(model, None, 20, seed=3)] == first[:20]
    assert [each.tolist() for each in generate.synthesise(model, None, 50, seed=4)] != first
    for each in first:
        assert sorted(set(each)) == each
        assert 1 <= each[0] <= each[-1] <= 5


def test_too_few_users_are_drawn_but_not_measured(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["generate", f"--checkpoint={checkpoint}", "--out=o", "--users=1"]
    assert main([*arguments, "--json=r.json"]) == 1
    assert (
        "at least 4 real and 2 synthetic ones are needed. Without --unseen and --json they are"
        in capsys.readouterr().err
    )
    assert not Path("o").exists()
    assert main(arguments) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == "o/o.inter: 1 users"
    assert second.startswith("Not compared with real users: too few users to say how true")


def test_an_unknown_source_is_refused() -> None:
    with pytest.raises(ConfigError, match="source: 'Prior' is not allowed; it must be posterior or prior"):
        next(generate.synthesise(Known(SINGLES), None, 3, source="Prior"))


def test_a_model_without_a_posterior_is_refused() -> None:
    with pytest.raises(ConfigError, match="Capabilities has no latent variables with a distribution"):
        next(generate.synthesise(Capabilities(), None, 3))


@pytest.fixture
def checkpoint(build: Builder) -> str:
    run = build("MultVAE", "tiny", data_path=write_inter(random_rows(60, 20)), epochs=2)
    run.fit()
    return str(run.trainer.saved_model_file)


def test_from_the_command_line_to_a_data_set(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", f"--checkpoint={checkpoint}", "--out=data/made", "--json=r.json"]) == 0
    shown = capsys.readouterr().out
    assert "data/made/made.inter: 60 users" in shown
    assert "NDCG@100 of an EASE trained on them" in shown
    report = json.loads(Path("r.json").read_text())
    assert set(report["rows"]) == {"real", "synthetic", "popularity"}
    lines = [line.split("\t") for line in Path("data/made/made.inter").read_text().splitlines()]
    assert lines[0] == ["user_id:token", "item_id:token"]
    assert len(set(map(tuple, lines))) == len(lines)
    assert {item for _, item in lines[1:]} <= set(Recommender.load(checkpoint).items[1:])
    assert [user for user, _ in lines[1:]] == sorted((user for user, _ in lines[1:]), key=lambda each: int(each[1:]))
    result = run_recbole(model="EASE", dataset="made", config_dict={"data_path": "data", "show_progress": False})
    assert 0 < result["test_result"]["recall@10"] <= 1


def test_held_out_users_may_judge(build: Builder, capsys: pytest.CaptureFixture[str]) -> None:
    run = build(
        "MultVAE", "tiny", data_path=write_inter(random_rows(60, 20)), epochs=1,
        eval_args={"split": {"HU": [10, 12]}, "mode": "full"},
    )  # fmt: skip
    run.fit()
    (split,) = Path("saved").glob("*.split.csv.gz")
    checkpoint = f"--checkpoint={run.trainer.saved_model_file}"
    assert main(["generate", checkpoint, "--out=o", f"--unseen={split}"]) == 0
    captured = capsys.readouterr()
    assert "38 users of each kind; judges: 12 real users, unseen by the model" in captured.out
    assert "Left out" not in captured.err

    loaded = Recommender.load(run.trainer.saved_model_file)
    tested = set(SplitFile.read(str(split)).rows["user"]) - set(loaded.users)
    rows = [(user, item) for user, item in random_rows(60, 20) if user in {*loaded.users[:6], *tested}]
    Path("some.csv").write_text("user_id,item_id\n" + "".join(f"{user},{item}\n" for user, item in rows))
    assert main(["generate", checkpoint, "--out=p", "--unseen=some.csv"]) == 0
    captured = capsys.readouterr()
    assert f"judges: {len(tested)} real users, unseen by the model" in captured.out
    assert "Left out of the judges: 5 users of the training data, whom the model has seen.\n" in captured.err
    Path("seen.csv").write_text(f"user_id,item_id\n{loaded.users[1]},i1\nanother,i1\n")
    assert main(["generate", checkpoint, "--out=q", "--unseen=seen.csv"]) == 1
    assert "error: unseen: 1 of 2 users are users of the training data" in capsys.readouterr().err
    Path("few.csv").write_text("user_id,item_id\nx,i1\ny,zzz\nz,i2\n")
    assert main(["generate", checkpoint, "--out=q", "--unseen=few.csv"]) == 1
    left_out, error = capsys.readouterr().err.splitlines()
    assert left_out == "Left out of the judges: 1 users without an item of the training data."
    assert error.startswith("error: none of the 2 judges has two items: one to be given, and one to be found.")
    assert not Path("q").exists()


def test_around_users_and_histories(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["generate", f"--checkpoint={checkpoint}", "--out=one", "--around= u3,u3", "--users=5", "--seed=7"]) == 0
    )
    first, second = capsys.readouterr().out.splitlines()
    assert first == "one/one.inter: 5 users"
    assert second.startswith("Not compared with real users")
    length = len(Recommender.load(checkpoint).history("u3"))
    users = [line.split("\t")[0] for line in Path("one/one.inter").read_text().splitlines()[1:]]
    assert Counter(users) == {f"s{number}": length for number in range(1, 6)}
    Path("h.csv").write_text("user_id,item_id\na,i1\na,i2\na,zzz\nb,i3\n")
    assert main(["generate", f"--checkpoint={checkpoint}", "--out=new/two", "--histories=h.csv"]) == 0
    assert "new/two/two.inter: 2 users" in (captured := capsys.readouterr()).out
    assert "1 times an item that is not in the training data" in captured.err
    assert len(Path("new/two/two.inter").read_text().splitlines()) == 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--out (command line) is missing"),
        (["--out=saved"], "--out=saved (command line): exists already"),
        (["--out=unknown.csv/o"], "--out=unknown.csv/o (command line): this folder cannot be made: Not a directory"),
        (["--out=o", "--users=0"], "users: '0' (command line) is not allowed"),
        (["--out=o", "--source=magic"], "source: 'magic' (command line) is not allowed; it must be posterior or prior"),
        (["--out=o", "--around=u1", "--histories=h.csv"], "cannot be given together"),
        (["--out=o", "--around=u1", "--json=x"], "are for users drawn from the whole model"),
        (["--out=o", "--around=u1", "--source=prior"], "--around and --source=prior (command line) cannot be"),
        (["--out=o", "--json=saved"], "--json=saved (command line): this is a folder; name a file"),
        (["--out=o", "--around=nobody"], "user 'nobody' is not among the 60 users"),
        (["--out=o", "--histories=unknown.csv"], "the history of 'a' has no item that the model knows"),
        (["--out=o", "--usres=3"], "did you mean --users"),
    ],
)
def test_mistakes_are_named_and_leave_nothing(
    checkpoint: str, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("unknown.csv").write_text("user_id,item_id\na,zzz\n")
    assert main(["generate", f"--checkpoint={checkpoint}", *arguments]) in (1, 2)
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not Path("o").exists()


def test_a_mult_dae_is_refused(build: Builder, capsys: pytest.CaptureFixture[str]) -> None:
    run = build("MultDAE", "tiny", data_path=write_inter(random_rows(60, 20)), epochs=1)
    run.fit()
    assert main(["generate", f"--checkpoint={run.trainer.saved_model_file}", "--out=o"]) == 2
    assert "MultDAE has no latent variables with a distribution" in capsys.readouterr().err


def test_a_prior_that_is_another_is_refused(build: Builder, capsys: pytest.CaptureFixture[str]) -> None:
    run = build("CompositeVAE", "tiny", data_path=write_inter(random_rows(60, 20)), epochs=1)
    run.fit()
    checkpoint = f"--checkpoint={run.trainer.saved_model_file}"
    assert main(["generate", checkpoint, "--out=o", "--source=prior"]) == 2
    assert "N(0, I), which is not the prior of CompositeVAE" in capsys.readouterr().err
    assert main(["generate", checkpoint, "--out=o"]) == 0


def test_ctrl_c_keeps_what_there_was(checkpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole: Any = generate.synthesise

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        for place, each in enumerate(whole(*args, **kwargs)):
            if place == 1100:
                raise KeyboardInterrupt
            yield each

    monkeypatch.setattr(generate, "synthesise", interrupted)
    assert main(["generate", f"--checkpoint={checkpoint}", "--out=o", "--users=3000"]) == 130
    assert [path.name for path in Path("o").iterdir()] == ["o.inter.partial"]
    assert len({line.split("\t")[0] for line in Path("o/o.inter.partial").read_text().splitlines()[1:]}) == 1024
