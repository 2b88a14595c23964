"""The time to a result: its watch, its table, and a real run."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from recbole_vae.bench import target
from recbole_vae.bench.process import in_a_process
from recbole_vae.bench.report import target_ratios, target_table
from recbole_vae.bench.watch import Point, Timed, _Enough, _Watch
from recbole_vae.cli.main import main
from recbole_vae.errors import TrainingError
from tests.conftest import Builder, random_rows, write_inter


class Scripted:
    """A trainer whose validations find what it is told."""

    def __init__(self, scores: list[float], final: float | None = None, bigger: bool = True) -> None:
        self.scores, self.final, self.valid_metric_bigger, self.eval_step = scores, final, bigger, 2
        self.asked = 0

    def _valid_epoch(self) -> tuple[float, dict[str, float]]:
        self.asked += 1
        return self.scores[self.asked - 1], {}

    def fit(self, train: Any, valid: Any) -> tuple[float, None]:
        found = [self._valid_epoch()[0] for _ in self.scores]
        return self.final if self.final is not None else max(found), None


@pytest.fixture
def parts(build: Builder) -> list[Any]:
    run = build()
    return [run.train, run.valid]


def watched(trainer: Scripted, parts: list[Any], value: float | None, limit: float | None = None) -> Timed:
    watch = _Watch(0.0, value, limit)
    with pytest.raises(_Enough):
        watch.over(trainer).fit(*parts)
    return watch.timed


def test_a_run_ends_when_the_value_is_reached(parts: list[Any]) -> None:
    trainer = Scripted([0.1, 0.3, 0.2, 0.5])
    timed = watched(trainer, parts, 0.25)
    assert (timed.reached, timed.epochs, timed.score, trainer.asked) == (True, 4, 0.3, 2)
    assert [point.score for point in timed.curve] == [0.1, 0.3]
    assert timed.start + timed.load + timed.train + timed.evaluate == pytest.approx(timed.seconds)
    assert timed.seconds == timed.curve[-1].seconds
    assert timed.data == [40, 25, len(parts[0]._dataset)]


def test_without_a_value_it_is_the_first_time_of_the_best(parts: list[Any]) -> None:
    timed = watched(Scripted([0.1, 0.5, 0.5, 0.4]), parts, None)
    assert (timed.reached, timed.epochs, timed.score, len(timed.curve)) == (True, 4, 0.5, 4)
    assert timed.seconds == timed.curve[1].seconds < timed.curve[3].seconds


def test_a_value_that_is_not_reached_has_the_best_and_the_time_of_the_end(parts: list[Any]) -> None:
    timed = watched(Scripted([0.1, 0.5, 0.4]), parts, 0.6)
    assert (timed.reached, timed.epochs, timed.score) == (False, 6, 0.5)
    assert timed.seconds >= timed.curve[-1].seconds


def test_what_is_done_after_the_last_epoch_counts(parts: list[Any]) -> None:
    timed = watched(Scripted([0.1, 0.5], final=0.7), parts, 0.6)  # as HybridVAE, whose paths are mixed then
    assert (timed.reached, timed.score, len(timed.curve)) == (True, 0.7, 3)


def test_of_some_metrics_less_is_better(parts: list[Any]) -> None:
    trainer = Scripted([0.9, 0.3, 0.2], bigger=False)
    assert watched(trainer, parts, 0.4).score == 0.3
    assert trainer.asked == 2


def test_the_limit_ends_a_run_with_its_next_validation(parts: list[Any]) -> None:
    trainer = Scripted([0.1, 0.2, 0.3])
    timed = watched(trainer, parts, 0.25, limit=1e-9)
    assert (timed.reached, timed.score, trainer.asked) == (False, 0.1, 1)


def timed(seconds: float, reached: bool = True, **others: Any) -> dict[str, Any]:
    return asdict(Timed(reached, seconds, 4, 0.25, start=5, load=1, train=2, evaluate=3, data=[9, 8, 7], **others))


REPORT: dict[str, Any] = {
    "machine": {"processor": "P", "gpu": None, "threads": 2},
    "versions": {"torch": "2"},
    "dataset": "tiny",
    "target": {"metric": "NDCG@10", "value": 0.2424, "of": "RecBole's MultiVAE"}, "time_limit": 250.0,
    "measured": {
        "RecBole's MultiVAE": [timed(100), timed(120), timed(90)],
        "A": [timed(10), timed(6), timed(9)],
        "B": [timed(300, reached=False), timed(60), timed(200, reached=False)],
        "C": [asdict(Timed(error="out of memory"))],
    },
}  # fmt: skip


def test_the_table_compares_the_same_repeat() -> None:
    assert target_ratios(REPORT, "A") == [10, 20, 10]
    assert target_ratios(REPORT, "B") == [2]
    assert target_ratios(REPORT, "C") == []
    text = target_table(REPORT)
    assert "until NDCG@10 of the validation part reaches 0.2424, the best of RecBole's MultiVAE" in text
    assert "tiny: 9 users, 8 items, 7 interactions for training" in text
    lines = {line[:1]: line.split("  ") for line in text.splitlines()}
    assert [cell.strip() for cell in lines["A"] if cell] == [
        "A", "9.0 (6.0 to 10.0)", "10.00 (10.00 to 20.00)", "4", "0.2500", "5.0, 1.0, 2.0, 3.0"
    ]  # fmt: skip
    assert "not reached (best 0.2500, the time limit after 300.0 s) in 2 of 3 repeats" in text
    assert "out of memory" in "".join(lines["C"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to=NDCG"], "to: 'NDCG' (command line) is not allowed; it must be a metric at a cutoff"),
        (["--to=NDCG@10:x"], "to: 'NDCG@10:x' (command line) is not allowed"),
        (["--to=NDCG@10:1.5"], "to: 'NDCG@10:1.5' (command line) is not allowed"),
        (["--to=NDCG@10:nan"], "to: 'NDCG@10:nan' (command line) is not allowed"),
        (["--dataset=a"], "--dataset (command line) has no meaning without --to."),
        (["--to=NDCG@10", "--preset=ml-1m"], "--preset (command line) has no meaning with --to"),
        (["--to=NDCG@10", "--fast_evaluation=True"], "--fast_evaluation (command line): bench --to sets this itself"),
        (["--to=Foo@10"], "metrics (command line): there is no metric 'foo'"),
        (["--to=NDCG@7", "--topk=[10]"], "valid_metric: 'NDCG@7' (command line) is not measured"),
        (["--to=NDCG@10", "--learning_rat=1"], "learning_rat (command line)"),
        (["--to=NDCG@10", "--dataset=gone"], "dataset: "),
        (["--profile", "--repeats=2"], "--repeats (command line) has no meaning with --profile."),
        (["--profile", "--models=EASE"], "models: EASE (command line): --profile is for models of recbole_vae"),
    ],
)  # fmt: skip
def test_mistakes_are_named(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_process_that_fails_says_why_and_progress_is_passed_on(tmp_path: Path) -> None:
    specification = {"result": str(tmp_path / "result.json")}
    assert in_a_process("import sys; sys.exit('error: no such thing')", specification) == {"error": "no such thing"}
    assert in_a_process("import os; os._exit(5)", specification) == {"error": "exit status 5"}
    heard: list[str] = []
    code = "import time; open('progress', 'w').write('epoch 3'); time.sleep(1.5); open('result.json', 'w').write('{}')"
    assert in_a_process(code, specification, heard.append) == {}
    assert heard[:1] == ["epoch 3"]


def test_other_parts_are_not_compared_and_a_peer_that_fails_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [timed(3, split="a"), timed(1, split="b"), {"error": "no memory"}, timed(1, split="c")]
    monkeypatch.setattr(target, "in_a_process", lambda *_: answers.pop(0))
    monkeypatch.setattr(target, "PEERS", ())
    options: dict[str, Any] = {"dataset": "d", "metric": "NDCG@10", "repeats": 1}
    first = answers[0] = {**answers[0], "curve": [asdict(Point(3, 4, 0.25, 0))]}
    answers[1] = {**answers[1], "curve": first["curve"]}
    found = target.run(target.sides(["MultVAE"]), [], value=None, **options)
    assert found["target"] == {"metric": "NDCG@10", "value": 0.25, "of": "RecBole's MultiVAE"}
    assert "not that of the others" in found["measured"]["MultVAE"][0]["error"]
    with pytest.raises(TrainingError, match="RecBole's MultiVAE gives the target, and failed: no memory"):
        target.run(target.sides(["MultVAE"]), [], value=None, **options)


def test_a_real_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(target, "PEERS", ())
    write_inter(random_rows(), folder="dataset")
    Path("options.yaml").write_text("seed: 7\n")
    words = [
        "--to=NDCG@10",
        "--dataset=tiny",
        "--config_files=options.yaml",
        "--epochs=2",
        "--models=MultVAE",
        "--repeats=1",
    ]
    assert main(["bench", *words, "--threads=1", "--json=out.json"]) == 0
    report = json.loads(Path("out.json").read_text())
    (peer,), (ours,) = report["measured"].values()
    assert report["target"]["value"] == peer["score"] == max(point["score"] for point in peer["curve"])
    assert peer["split"] == ours["split"] != ""
    assert peer["data"] == ours["data"] == [40, 25, peer["data"][2]]
    for each in (peer, ours):
        assert each["error"] == ""
        assert 0 < each["start"] < each["start"] + each["load"] < each["seconds"] < 200
    command = report["commands"]["RecBole's MultiVAE"]
    assert command.startswith("recbole-vae run --dataset=tiny")
    assert "--model=MultiVAE --fast_evaluation=False --valid_metric=NDCG@10" in command
    assert "the best of RecBole's MultiVAE" in capsys.readouterr().out
    assert sorted(path.name for path in Path().iterdir()) == ["dataset", "options.yaml", "out.json"]
