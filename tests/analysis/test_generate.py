"""Synthetic users, and how true they are."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from recbole.quick_start import run_recbole
from scipy.sparse import csr_matrix
from scipy.stats import chisquare, ks_2samp

from recbole_vae import Recommender
from recbole_vae.analysis import generate
from recbole_vae.cli.main import main
from recbole_vae.data.held_out import SplitFile
from recbole_vae.data.histories import Histories
from recbole_vae.errors import ConfigError, DataError
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


def clusters(users: int, seed: int, items: int = 40) -> csr_matrix:
    """Users who each have items of one half of the catalogue."""
    rng = np.random.default_rng(seed)
    table = np.zeros((users, items), dtype=np.float32)
    for user in range(users):
        chosen = rng.choice(items // 2, size=rng.integers(5, 12), replace=False)
        table[user, chosen + user % 2 * items // 2] = 1
    return csr_matrix(table)


def test_a_perfect_generator_is_as_true_as_real_users_and_a_caricature_is_not() -> None:
    report = generate.truth(clusters(400, 0), clusters(300, 1))
    assert (report.users, report.judges, report.unseen) == (200, 200, False)
    real, synthetic, caricature = report.rows.values()
    assert synthetic.co_occurrence == pytest.approx(real.co_occurrence, abs=0.03)
    assert synthetic.ndcg == pytest.approx(real.ndcg, abs=0.04)
    assert synthetic.length < 0.15
    assert caricature.co_occurrence < 0.3
    assert caricature.ndcg < real.ndcg - 0.1
    assert caricature.length < 0.15
    assert synthetic.copies < 0.02
    other = generate.truth(clusters(400, 0), clusters(300, 1), clusters(100, 2))
    assert (other.users, other.judges, other.unseen) == (300, 100, True)
    assert "unseen by the model" in generate.text(other)


def skewed(users: int, seed: int, items: int = 510) -> csr_matrix:
    """Users of short and of long histories, with items of all kinds of popularity."""
    rng = np.random.default_rng(seed)
    weights = 1 / np.arange(8, items + 8) ** 0.7
    chosen = [rng.choice(items, rng.integers(20, 200), replace=False, p=weights / weights.sum()) for _ in range(users)]
    table = np.zeros((users, items), dtype=np.float32)
    for row, each in zip(table, chosen, strict=True):
        row[each] = 1
    return csr_matrix(table)


Dense = NDArray[np.float64]


def ease_ndcg(side: Dense, given: Dense, wanted: Dense) -> float:
    """NDCG@100 of an EASE, in float64."""
    gram = side.T @ side
    inverse = np.linalg.inv(gram + 3.0 * np.diag(gram).mean() * np.eye(len(gram)))
    weight = -inverse / np.diag(inverse)
    np.fill_diagonal(weight, 0)
    values, discounts = [], 1 / np.log2(np.arange(2, 102))
    for one, two in zip(given, wanted, strict=True):
        scores = np.where(one > 0, -np.inf, one @ weight)
        values.append(two[np.argsort(-scores)[:100]] @ discounts / discounts[: int(two.sum())].sum())
    return float(np.mean(values))


def plain_truth(side: Dense, judges: Dense, given: Dense, wanted: Dense) -> dict[str, Any]:
    """What is said of a side, by its definitions."""
    shares = [each.sum(0) / each.sum() for each in (side, judges)]
    popular = np.argsort(-shares[1], kind="stable")[:500]
    cosines = []
    for each in (side[:, popular], judges[:, popular]):
        normal = each / np.maximum(np.linalg.norm(each, axis=0), 1e-9)
        cosines.append((normal.T @ normal)[np.triu_indices(500, 1)])
    sets = [[set(np.flatnonzero(row)) for row in each] for each in (side, judges)]
    similar = [max(len(one & two) / len(one | two) for two in sets[1]) for one in sets[0]]
    return {
        "popularity": pytest.approx(np.corrcoef(np.array(shares))[0, 1], abs=1e-6),
        "total_variation": pytest.approx(np.abs(shares[0] - shares[1]).sum() / 2, abs=1e-6),
        "length": pytest.approx(ks_2samp(side.sum(1), judges.sum(1)).statistic),
        "co_occurrence": pytest.approx(np.corrcoef(np.array(cosines))[0, 1], abs=1e-6),
        "items": len(set.union(*sets[0])),
        "nearest": pytest.approx((np.median(similar), np.quantile(similar, 0.95))),
        "copies": pytest.approx(np.mean([one in sets[1] for one in sets[0]])),
        "ndcg": pytest.approx(ease_ndcg(side, given, wanted), abs=1e-5),
    }


def watched(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is compared from now on: for each row its histories, the judges, what is given of these, and what is to be found."""
    truth, seen = generate._truth, []

    def watching(*given: Any) -> generate.Truth:
        seen.append(given)
        return truth(*given)

    monkeypatch.setattr(generate, "_truth", watching)
    return seen


@pytest.mark.parametrize("unseen", [False, True])
def test_a_report_is_what_its_definitions_say(unseen: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    real, others = skewed(80, 0), skewed(30, 1)
    order = np.random.default_rng(5).permutation(80)
    kinds = {"real": order, "judges": others} if unseen else {"real": order[:40], "judges": real[order[40:]]}
    judges = kinds["judges"].toarray().astype(float)
    made = skewed(60, 2).toarray()
    made[:, 0], made[:2] = 0, judges[[3, 8]]  # an item fewer, and two copies, where a twentieth of the users are more
    seen = watched(monkeypatch)
    report = generate.truth(real, csr_matrix(made), others if unseen else None, seed=5)

    number = min(len(kinds["real"]), 60)
    assert (report.users, report.judges, report.unseen) == (number, len(judges), unseen)
    assert list(report.rows) == ["real", "synthetic", "popularity"]
    sides = [each[0].toarray().astype(float) for each in seen]
    np.testing.assert_array_equal(sides[0], real.toarray()[kinds["real"][:number]])
    np.testing.assert_array_equal(sides[1], made[:number])
    np.testing.assert_array_equal(sides[2].sum(1), sides[0].sum(1))
    given, wanted = (each.toarray().astype(float) for each in seen[0][2:4])
    np.testing.assert_array_equal(given + wanted, judges)
    np.testing.assert_array_equal(given.sum(1), np.round(0.8 * judges.sum(1)))
    for side, arguments, row in zip(sides, seen, report.rows.values(), strict=True):
        for one, other in zip(arguments[1:4], (judges, given, wanted), strict=True):
            np.testing.assert_array_equal(one.toarray(), other)
        assert asdict(row) == plain_truth(side, judges, given, wanted)
    assert 0 < report.rows["synthetic"].nearest[1] < 1
    assert report.rows["synthetic"].copies == pytest.approx(2 / number)


def test_a_fifth_of_each_history_is_to_be_found_and_chosen_by_chance() -> None:
    judges = generate._table([np.array(row) for row in [[0], [1, 2], *[[0, 1, 2, 3, 4]] * 3000]], 5)
    given, wanted = generate._fold(judges, np.random.default_rng(0))
    assert given.shape == wanted.shape == (3001, 5)  # of one item nothing can be found
    assert (given[0].nnz, wanted[0].nnz) == (1, 1)
    np.testing.assert_array_equal((given + wanted).toarray(), judges[1:].toarray())
    np.testing.assert_array_equal(np.diff(wanted.indptr), 1)
    assert chisquare(wanted[1:].toarray().sum(0)).pvalue > 1e-3


def test_the_caricature_is_drawn_by_popularity_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    rows = [rng.choice(4, 2, replace=False, p=[0.5, 0.3, 0.15, 0.05]) for _ in range(3000)]
    real = generate._table(rows, 4)
    seen = watched(monkeypatch)
    generate.truth(real, real, real[:2])
    p = real.toarray().sum(0, dtype=float) / real.nnz
    pairs = list(combinations(range(4), 2))
    expected = np.array([p[i] * p[j] / (1 - p[i]) + p[j] * p[i] / (1 - p[j]) for i, j in pairs])
    drawn = Counter(tuple(row.indices) for row in seen[2][0])
    assert chisquare([drawn[pair] for pair in pairs], 3000 * expected / expected.sum()).pvalue > 1e-3


def test_the_text_has_the_numbers_of_the_report() -> None:
    rows = {
        name: generate.Truth(0.9 - n, 0.1 + n, 0.25 + n, 0.5 + n, 1234 + n, (0.125 + n, 0.75 + n), 0.0123 * n, 0.4321 + n)
        for n, name in enumerate(("real", "synthetic", "popularity"))
    }  # fmt: skip
    report = generate.Report(1500, 20, False, rows)
    first, head, *lines = generate.text(report).splitlines()
    kind = "the other half of the training users, whom the model has seen"
    assert first == f"1,500 users of each kind; judges: 20 real users, {kind}"
    assert re.split("  +", head.strip()) == ["real", "synthetic", "by popularity"]
    assert [re.split("  +", line) for line in lines] == [
        ["popularity of the items, correlation with the judges'", "0.9000", "-0.1000", "-1.1000"],
        ["popularity of the items, total variation distance", "0.1000", "1.1000", "2.1000"],
        ["length of the histories, Kolmogorov-Smirnov distance", "0.2500", "1.2500", "2.2500"],
        ["co-occurrence of popular items, correlation", "0.5000", "1.5000", "2.5000"],
        ["items that occur", "1,234", "1,235", "1,236"],
        ["Jaccard similarity to the nearest judge: median, 95 %", "0.125 0.750", "1.125 1.750", "2.125 2.750"],
        ["histories that a judge has exactly", "0.00%", "1.23%", "2.46%"],
        ["NDCG@100 of an EASE trained on them, on the judges", "0.4321", "1.4321", "2.4321"],
    ]
    assert report.plain() == asdict(report)


def test_too_few_users_are_refused() -> None:
    with pytest.raises(DataError, match="too few users"):
        generate.truth(clusters(3, 0), clusters(1, 0))


def test_too_few_users_are_drawn_but_not_measured(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["generate", f"--checkpoint={checkpoint}", "--out=o", "--users=1"]
    assert main([*arguments, "--json=r.json"]) == 1
    assert "at least 4 real and 2 synthetic ones. Without --unseen and --json they are" in capsys.readouterr().err
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
