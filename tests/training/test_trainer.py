"""Training: resume bit for bit, checkpoints, what is logged, and what can go wrong."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recbole_vae import Recommender
from recbole_vae.cli.main import main
from recbole_vae.errors import CheckpointError, ConfigError, TrainingError
from recbole_vae.storage import checkpoint
from tests.conftest import LACKING, Builder, Run, random_rows, write_inter

LEARN = {"epochs": 12, "stopping_step": 100, "learning_rate": 0.01, "valid_metric": "NDCG@10"}


def same(one: Any, other: Any) -> bool:
    """Tell whether two nested states are equal, bit for bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def final_state(run: Run) -> dict[str, Any]:
    return {"model": run.model.state_dict(), "optimizer": run.trainer.optimizer.state_dict(), "step": run.model.step}


@pytest.mark.parametrize(
    "training",
    [
        {},
        {"learner": "sgd"},
        {"learner": "rmsprop"},
        {"n_negatives": 8, "weight_decay": 0.0},
        {"weight_averaging": 4},
        {"weight_averaging": 4, "n_negatives": 8, "weight_decay": 0.0},
    ],
    ids=str,
)
def test_a_resumed_run_ends_as_one_that_was_never_stopped(
    build: Builder, model_name: str, training: dict[str, Any]
) -> None:
    options = {**LEARN, **training}
    whole = build(model_name, **options)
    result = whole.fit()
    best = checkpoint.load(whole.trainer.saved_model_file)

    first = build(model_name, **{**options, "epochs": 5})
    first.fit()
    np.random.seed(99)
    torch.manual_seed(99)
    second = build(model_name, **options)
    second.trainer.resume_checkpoint(first.trainer.saved_model_file)
    assert 0 < second.trainer.start_epoch <= 5
    assert second.fit() == result
    assert same(final_state(second), final_state(whole))
    again = checkpoint.load(second.trainer.saved_model_file)
    for key in ("state_dict", "optimizer", "random", "epoch", "cur_step", "best_valid_score", "best_valid_result"):
        assert same(again[key], best[key]), key
    assert same(again.get("average"), best.get("average"))


@pytest.mark.parametrize("eval_step", [0, 1])
def test_the_average_is_what_is_evaluated_and_saved_and_the_weights_of_training_go_on(
    build: Builder, model_name: str, eval_step: int
) -> None:
    """Against the weights after each epoch of a run without averaging, of which the sums are made here."""
    options = {**LEARN, "epochs": 6, "eval_step": eval_step}
    plain = build(model_name, **options, weight_averaging=0)
    weights: list[list[torch.Tensor]] = []
    original = plain.trainer._train_epoch

    def keep(*args: Any, **kwargs: Any) -> float:
        loss: float = original(*args, **kwargs)
        weights.append([parameter.detach().clone() for parameter in plain.model.parameters()])
        return loss

    plain.trainer._train_epoch = keep
    plain.fit()
    averages = [weights[0]]
    for epoch in range(1, 6):
        share = max(1 / 3, 2 / (epoch + 2))  # 2/3, 1/2, 2/5, 1/3, 1/3
        averages.append(
            [(1 - share) * old + share * new for old, new in zip(averages[-1], weights[epoch], strict=True)]
        )
    run = build(model_name, **options, weight_averaging=3)
    evaluated = []
    original_evaluation = run.trainer._valid_epoch

    def look(*args: Any, **kwargs: Any) -> Any:
        evaluated.append([parameter.detach().clone() for parameter in run.model.parameters()])
        return original_evaluation(*args, **kwargs)

    run.trainer._valid_epoch = look
    run.fit()
    if eval_step:
        torch.testing.assert_close(evaluated, averages, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close([*run.model.parameters()], averages[-1], rtol=1e-5, atol=1e-6)
    saved = checkpoint.load(run.trainer.saved_model_file)
    names = [name for name, _ in run.model.named_parameters()]
    torch.testing.assert_close(
        [saved["state_dict"][name] for name in names], averages[saved["epoch"]], rtol=1e-5, atol=1e-6
    )
    assert same(saved["average"], {"count": saved["epoch"] + 1, "weights": weights[saved["epoch"]]})
    users = torch.arange(1, 20)
    expected = run.trainer.evaluate(run.test)  # loads the best epoch
    scores = run.model.score(run.model.histories[users])
    recommender = Recommender.load(run.trainer.saved_model_file)
    torch.testing.assert_close(recommender.model.score(recommender.model.histories[users]), scores)
    assert expected["ndcg@10"] > 0


def test_an_average_over_one_epoch_changes_nothing(build: Builder) -> None:
    found = []
    for epochs in (0, 1):
        run = build(**LEARN, weight_averaging=epochs)
        found.append((run.fit(), final_state(run)))
    assert same(*found)


@pytest.mark.parametrize("interrupted", [False, True])
def test_after_an_evaluation_training_goes_on_from_the_best_epoch(build: Builder, interrupted: bool) -> None:
    """Its weights and its average both, even where an epoch was given up half-way."""
    run = build(**{**LEARN, "epochs": 13, "learning_rate": 0.05}, weight_averaging=3)
    run.fit()
    if interrupted:
        run.trainer._average.begin_epoch()
    best = checkpoint.load(run.trainer.saved_model_file)
    assert best["epoch"] < 12
    run.trainer.evaluate(run.test)
    average = run.trainer._average
    assert same({"count": average.count, "weights": average.others}, best["average"])
    assert same(dict(run.model.state_dict()), dict(best["state_dict"]))
    average.begin_epoch()
    assert same([parameter.data for parameter in run.model.parameters()], best["average"]["weights"])


def test_a_run_without_an_average_cannot_go_on_with_one(build: Builder) -> None:
    first = build(**{**LEARN, "epochs": 3}, weight_averaging=0)
    first.fit()
    second = build(**LEARN, weight_averaging=3)
    with pytest.raises(ConfigError, match="was trained with weight_averaging=0, but this run has weight_averaging=3"):
        second.trainer.resume_checkpoint(first.trainer.saved_model_file)
    state = torch.load(first.trainer.saved_model_file, weights_only=True)
    assert second.trainer.evaluate(second.test, model_file=first.trainer.saved_model_file)  # needs no average
    assert same(second.trainer._average.others, [parameter.data for parameter in second.model.parameters()])
    state["config"]["weight_averaging"] = 3
    weights = [parameter.detach() for parameter in first.model.parameters()]
    for average in (
        {},
        {"average": 3},
        {"average": {"count": "x", "weights": weights}},
        {"average": {"count": 1}},
        {"average": {"count": 0, "weights": weights}},
    ):
        torch.save({**state, **average}, "damaged.pth")
        with pytest.raises(
            CheckpointError, match="^damaged.pth: damaged checkpoint: 'average' is missing or not whole"
        ):
            checkpoint.load("damaged.pth")
    for wrong in (weights[1:], [weights[0][:1], *weights[1:]], [3, *weights[1:]]):
        torch.save({**state, "average": {"count": 1, "weights": wrong}}, "damaged.pth")
        with pytest.raises(CheckpointError, match="the weights of 'average' are not those of the model"):
            second.trainer.resume_checkpoint("damaged.pth")


def test_the_annealing_step_goes_on_after_a_resume(build: Builder) -> None:
    first = build("MultVAE", **{**LEARN, "epochs": 3}, total_anneal_steps=50, anneal_cap=0.2, eval_step=0)
    first.trainer.fit(first.train, None, verbose=False)
    assert first.model.step == 9
    second = build("MultVAE", **{**LEARN, "epochs": 4}, total_anneal_steps=50, anneal_cap=0.2, eval_step=0)
    second.trainer.resume_checkpoint(first.trainer.saved_model_file)
    assert second.model.step == 9
    assert second.model.beta() == pytest.approx(9 / 50)
    second.trainer.fit(second.train, None, verbose=False)
    assert second.model.step == 12
    assert second.model.beta() == 0.2


@pytest.mark.parametrize(("last", "cap"), [({10: 0.5}, 0.15), ({}, 0.5)], ids=["after it fell", "before it falls"])
@pytest.mark.parametrize("stopping_step", [7, 100])
def test_a_chosen_beta_goes_on_after_a_resume(
    build: Builder,
    stopping_step: int,
    last: dict[int, float],
    cap: float,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def evaluation(trainer: Any, *_: Any, **__: Any) -> tuple[float, dict[str, float]]:
        epoch = trainer.model.step // trainer.model.steps_per_epoch
        score = ({1: 0.1, 2: 0.2, 3: 0.3, 4: 0.4} | last).get(epoch, 0.0)  # beta falls after the seventh epoch
        return score, {"ndcg@10": score}

    monkeypatch.setattr("recbole.trainer.Trainer._valid_epoch", evaluation)
    options = {**LEARN, "stopping_step": 7, "epochs": 40, "anneal_cap": "auto", "anneal_epochs": 1}
    whole = build(**options)
    result = whole.fit()
    best = checkpoint.load(whole.trainer.saved_model_file)
    assert (best["epoch"], best["state_dict"]["_extra_state"]["cap"]) == (max([4, *last]) - 1, cap)
    assert whole.model.cap == 0.15
    with caplog.at_level(logging.INFO):
        whole.trainer.evaluate(whole.test)
    fallen = "" if last else " (its cap had not fallen by their epoch)"
    assert f"anneal_cap: auto has come to beta {cap}{fallen} for these parameters." in caplog.text
    first = build(**{**options, "epochs": best["epoch"] + 1})
    first.fit()
    second = build(**{**options, "stopping_step": stopping_step, "epochs": best["epoch"] + 6})
    second.trainer.resume_checkpoint(first.trainer.saved_model_file)
    assert second.model.cap == cap
    assert second.fit() == result
    third = build(**{**options, "epochs": best["epoch"] + 6})
    third.fit()
    assert same(final_state(second), final_state(third))


def test_the_model_hears_which_evaluations_are_better(build: Builder) -> None:
    run = build(**LEARN, anneal_cap="auto", weight_averaging=0)
    heard: list[bool] = []
    scores: list[float] = []
    original = run.trainer._valid_epoch

    def keep(*args: Any, **kwargs: Any) -> Any:
        score, result = original(*args, **kwargs)
        scores.append(score)
        return score, result

    run.trainer._valid_epoch = keep
    run.model.evaluated = heard.append
    run.fit()
    assert heard == [score >= max(scores[: place + 1]) for place, score in enumerate(scores)]
    assert {True, False} == set(heard)


@pytest.mark.parametrize("none", [True, False])
def test_beta_cannot_be_chosen_without_a_validation_part(build: Builder, none: bool) -> None:
    run = build(**LEARN, anneal_cap="auto", eval_args={"split": {"RS": [0.8, 0.0, 0.2]}, "mode": "full"})
    with pytest.raises(
        ConfigError, match="^anneal_cap: auto needs a validation part, and there is none: choose a split"
    ):
        run.trainer.fit(run.train, None if none else run.valid, verbose=False)


KILLED = """
import os, pathlib, signal, sys
where, number = sys.argv[1:]
sys.argv = ["test"]
import recbole_vae
from recbole.quick_start import run_recbole
from recbole_vae.model.base import HistoryRecommender

def kill_at(owner, name):
    original, calls = getattr(owner, name), []
    def wrapper(*args, **kwargs):
        calls.append(1)
        if len(calls) == int(number):
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)
    setattr(owner, name, wrapper)

kill_at(*{"in an epoch": (HistoryRecommender, "batch_terms"), "before the renaming": (pathlib.Path, "replace")}[where])
run_recbole(model="MultVAE", dataset="tiny", config_file_list=["run.yaml"])
"""


@pytest.mark.parametrize(("where", "number"), [("in an epoch", 20), ("before the renaming", 3)])
def test_a_killed_run_can_be_resumed(build: Builder, where: str, number: int) -> None:
    write_inter(random_rows())
    Path("run.yaml").write_text(
        "{data_path: data, epochs: 12, stopping_step: 100, learning_rate: 0.01, valid_metric: NDCG@10, show_progress: False, "
        "train_batch_size: 16, mlp_hidden_size: [12], latent_dimension: 6, precision: float32, use_gpu: False}"
    )
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, where, str(number)], capture_output=True, text=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    (file,) = Path("saved").glob("*.pth")
    options = {**LEARN, "data_path": "data"}
    resumed = build(dataset="tiny", **options)
    resumed.trainer.resume_checkpoint(file)
    assert resumed.trainer.start_epoch > 0
    resumed.fit()
    whole = build(dataset="tiny", **options)
    whole.fit()
    assert same(final_state(resumed), final_state(whole))


def test_ctrl_c_says_where_the_best_epoch_is(build: Builder, caplog: pytest.LogCaptureFixture) -> None:
    run = build(**LEARN)
    original, calls = run.trainer._train_epoch, []

    def interrupted(*args: Any, **kwargs: Any) -> float:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        result: float = original(*args, **kwargs)
        return result

    run.trainer._train_epoch = interrupted
    with caplog.at_level(logging.WARNING), pytest.raises(KeyboardInterrupt):
        run.fit()
    assert f"--resume={run.trainer.saved_model_file}" in caplog.text
    assert checkpoint.load(run.trainer.saved_model_file)["epoch"] < 2


def test_a_finished_run_has_nothing_left_to_train(build: Builder) -> None:
    run = build(**LEARN, eval_step=0)
    run.trainer.fit(run.train, None, verbose=False)
    before = Path(run.trainer.saved_model_file).read_bytes()
    again = build(**LEARN, eval_step=0)
    again.trainer.resume_checkpoint(run.trainer.saved_model_file)
    again.fit()
    assert again.trainer.evaluate(again.test)
    assert Path(run.trainer.saved_model_file).read_bytes() == before


def test_the_terms_are_logged_apart(build: Builder, caplog: pytest.LogCaptureFixture, model_name: str) -> None:
    written: dict[str, float] = {}
    by_steps: dict[str, Any] = (
        {} if model_name in ("MultDAE", *LACKING) else {"total_anneal_steps": 100, "anneal_epochs": None}
    )
    if model_name == "VampVAE":  # as many steps, in epochs
        by_steps = {"anneal_cap": 1.0, "anneal_epochs": 100 / 3}
    run = build(model_name, epochs=1, **by_steps)
    run.trainer.tensorboard.add_scalar = lambda tag, value, epoch: written.update({tag: value})
    with caplog.at_level(logging.INFO):
        run.trainer.fit(run.train, run.valid)
    terms = run.trainer.loss_terms
    line = next(record.getMessage() for record in caplog.records if "training" in record.getMessage())
    if model_name != "MultDAE":
        assert set(terms) == {"loss", "reconstruction", "kl", "beta"}
        # CompositeVAE's mean; or of the last of three steps
        composite = 0.005 * len(run.model.histories.indices) / 40
        largest = {"CompositeVAE": composite, "VASP": 0.0067}.get(model_name, 0.02)
        assert terms["beta"] == pytest.approx(largest)
        assert {"Loss/Train", "Train/reconstruction", "Train/kl", "Train/beta"} <= set(written)
        # beta is 0, 0.01 and 0.02 in the three batches
        assert 0 < terms["loss"] - terms["reconstruction"] < largest * terms["kl"] * 1.5
    else:
        assert set(terms) == {"loss", "reconstruction"}
    for name in terms:
        assert name in line


def test_the_logged_loss_is_the_mean_over_users(build: Builder) -> None:
    """Of a model that does not change: batches of 16, 16 and 8 users weigh as much as they have users."""
    run = build("MultDAE", epochs=1, dropout_prob=0.0, learning_rate=1e-12)
    with torch.no_grad():
        batch = run.model.histories[torch.arange(1, 41)]
        expected = run.model.loss_terms(batch, 0, 40).reconstruction.item()
    run.fit()
    assert run.trainer.loss_terms["loss"] == pytest.approx(expected, rel=1e-6)


def test_biases_have_no_weight_decay(build: Builder) -> None:
    groups = build("MultDAE", weight_decay=0.5).trainer.optimizer.param_groups
    assert [group["weight_decay"] for group in groups] == [0.5, 0.0]
    assert all(parameter.ndim == 2 for parameter in groups[0]["params"])
    assert all(parameter.ndim == 1 for parameter in groups[1]["params"])


def test_weight_decay_is_the_papers_penalty(build: Builder) -> None:
    """One step of plain gradient descent equals one on the loss plus half the weight decay times the squared weights."""
    run = build(
        "MultDAE", epochs=1, dropout_prob=0.0, learner="sgd", weight_decay=0.3, train_batch_size=40, learning_rate=0.1
    )
    model = run.model
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    loss = model.loss_terms(model.histories[torch.arange(1, 41)], 0, 40).loss()
    penalty = sum(0.15 * p.square().sum() for name, p in model.named_parameters() if "bias" not in name)
    names = [name for name, _ in model.named_parameters()]
    gradients = dict(zip(names, torch.autograd.grad(loss + penalty, list(model.parameters())), strict=True))
    run.fit()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name] - 0.1 * gradients[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "clip"),
    [
        ({}, ", and if that is not enough with --clip_grad_norm="),
        ({"clip_grad_norm": {"max_norm": 1.0}}, "."),
        ({"n_negatives": 4}, "."),
    ],
    ids=str,
)
def test_a_loss_that_is_not_finite_stops_training(build: Builder, options: dict[str, Any], clip: str) -> None:
    learner = {"learning_rate": 1e30} if options else {"learner": "sgd", "learning_rate": 1e30}
    run = build("MultVAE", **learner, **options)
    with pytest.raises(TrainingError) as error:
        run.fit()
    text = str(error.value)
    assert text.startswith("the training loss became ")
    assert f"Train anew with a lower learning_rate (now 1e+30), such as --learning_rate=0.002{clip}" in text


def test_an_epoch_whose_weights_are_not_finite_is_not_proposed(build: Builder) -> None:
    run = build("MultVAE", epochs=1)
    run.fit()
    assert f"(epoch 0, MRR@10 {run.trainer.best_valid_score:.4f}) with --resume=" in run.trainer._what_to_do()
    state = checkpoint.load(run.trainer.saved_model_file)
    state["state_dict"]["decoder.layers.0.bias"][0] = torch.inf
    checkpoint.save(state, run.trainer.saved_model_file)
    assert "--resume" not in run.trainer._what_to_do()


def test_epochs_of_a_rate_far_too_high_are_not_proposed(build: Builder) -> None:
    """They leave weights from which training at any rate ends in nan again."""
    run = build("MultVAE", epochs=1, learning_rate=1.0)
    run.fit()
    assert all(each.isfinite().all() for each in run.model.parameters())
    advice = run.trainer._what_to_do()
    assert advice.startswith("Train anew with a lower learning_rate (now 1), such as --learning_rate=0.002,")
    assert "--resume" not in advice


def recbole_vae_run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Run the command line; return the exit status and standard error, where the log is."""
    given = ("--use_gpu=False", "--show_progress=False", *arguments)
    status = main(["run", *given])
    return status, capsys.readouterr().err


def test_the_advice_after_a_loss_that_is_not_finite_works(capsys: pytest.CaptureFixture[str]) -> None:
    new = (
        "--dataset=tiny",
        f"--data_path={write_inter(random_rows())}",
        "--train_batch_size=16",
        "--valid_metric=NDCG@10",
    )
    status, error = recbole_vae_run(capsys, *new, "--epochs=9", "--learning_rate=1000")
    assert status == 1
    assert "Train anew with a lower learning_rate (now 1000), such as --learning_rate=0.002" in error
    (clip,) = re.findall('--clip_grad_norm="(.*)"', error)
    assert recbole_vae_run(capsys, *new, "--epochs=2", f"--clip_grad_norm={clip}")[0] == 0
    (file,) = Path("saved").glob("*.pth")
    status, error = recbole_vae_run(capsys, f"--resume={file}", "--epochs=9", "--learning_rate=1000")
    assert status == 1
    resume, rate = re.findall(
        r"\(epoch 1, NDCG@10 0\.\d{4}\) with (--resume=\S+) (--learning_rate=\S+)\.$", error.strip()
    )[0]
    assert resume == f"--resume={file}"
    assert rate == "--learning_rate=0.002"
    assert recbole_vae_run(capsys, resume, "--epochs=4", rate)[0] == 0


def test_a_lower_learning_rate_is_that_of_the_next_step(build: Builder) -> None:
    options = {**LEARN, "weight_averaging": 0}
    first = build(**{**options, "epochs": 2})
    first.fit()
    file = first.trainer.saved_model_file
    second = build(**{**options, "epochs": 4, "learning_rate": 1e-12})
    second.trainer.resume_checkpoint(file)
    before = [parameter.detach().clone() for parameter in second.model.parameters()]
    second.fit()
    torch.testing.assert_close([*second.model.parameters()], before, rtol=0, atol=1e-9)
    third = build(**options)
    third.trainer.config.external_config_dict.pop("learning_rate")  # not what the user set, but a default
    third.trainer.config["learning_rate"] = 0.5
    with pytest.raises(ConfigError, match="was trained with learning_rate="):
        third.trainer.resume_checkpoint(file)


def test_the_command_line_reads_a_checkpoint_once_to_go_on_and_once_to_evaluate(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    new = ("--dataset=tiny", f"--data_path={write_inter(random_rows())}", "--train_batch_size=16")
    assert recbole_vae_run(capsys, *new, "--epochs=2")[0] == 0
    (file,) = Path("saved").glob("*.pth")
    read: list[Any] = []
    original = torch.load

    def counted(*args: Any, **kwargs: Any) -> Any:
        read.append(args[0])
        return original(*args, **kwargs)

    monkeypatch.setattr(torch, "load", counted)
    assert recbole_vae_run(capsys, f"--resume={file}", "--epochs=4")[0] == 0
    assert read == [file, file]  # the best epoch is another file of the same name
    del read[:]
    assert main(["uncertainty", f"--checkpoint={file}", "--samples=2"]) == 0
    assert read == [file]


def test_two_runs_in_one_second_have_two_files(build: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    import recbole.trainer.trainer

    monkeypatch.setattr(recbole.trainer.trainer, "get_local_time", lambda: "now")
    names = [Path(build().trainer.saved_model_file).name for _ in range(3)]  # none has been written yet
    assert len(set(names)) == 3
    assert all(name.startswith(f"MultVAE-now-{os.getpid()}") for name in names)


def test_saved_dataloaders_do_not_stop_training(build: Builder) -> None:
    run = build(save_dataloaders=True)
    run.fit()
    assert checkpoint.load(run.trainer.saved_model_file)["random"]["train_data"].numel() > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latent_dimension": 7}, "was trained with latent_dimension=6, but this run has latent_dimension=7"),
        ({"dropout_prob": 0.25}, "was trained with dropout_prob='auto'"),
        ({"seed": 7}, "was trained with seed=2020"),
    ],
)
def test_a_resume_with_other_options_is_refused(build: Builder, change: dict[str, Any], message: str) -> None:
    run = build(**LEARN)
    run.fit()
    before = Path(run.trainer.saved_model_file).read_bytes()
    with pytest.raises(ConfigError, match=message):
        build(**{**LEARN, **change}).trainer.resume_checkpoint(run.trainer.saved_model_file)
    assert Path(run.trainer.saved_model_file).read_bytes() == before


def test_a_resume_with_more_epochs_is_welcome(build: Builder) -> None:
    run = build(**LEARN)
    run.fit()
    more = build(**{**LEARN, "epochs": 14})
    more.trainer.resume_checkpoint(run.trainer.saved_model_file)
    more.fit()
    whole = build(**{**LEARN, "epochs": 14})
    whole.fit()
    assert same(final_state(more), final_state(whole))


def test_a_checkpoint_of_another_model_or_data_is_refused(build: Builder) -> None:
    run = build("MultDAE", **LEARN)
    run.fit()
    file = run.trainer.saved_model_file
    with pytest.raises(CheckpointError, match="a checkpoint of MultDAE, not of MultVAE; pass --model=MultDAE"):
        build("MultVAE", **LEARN).trainer.resume_checkpoint(file)
    with pytest.raises(CheckpointError, match="a checkpoint of MultDAE, not of MultVAE"):
        other = build("MultVAE", **LEARN)
        other.trainer.evaluate(other.test, model_file=file)
    fewer = write_inter(random_rows(30, 20), folder="fewer")
    with pytest.raises(CheckpointError, match="parameter '.*' has shape .* in the checkpoint and .* in the model"):
        build("MultDAE", dataset="tiny", **{**LEARN, "data_path": fewer}).trainer.resume_checkpoint(file)
    with pytest.raises(CheckpointError, match=r"the data have other users .*\(40 against 30\)"):
        other = build("MultDAE", dataset="tiny", **{**LEARN, "data_path": fewer})
        other.trainer.evaluate(other.test, model_file=file)
    renamed = write_inter([(user, f"x{item}") for user, item in random_rows()], folder="renamed")
    with pytest.raises(CheckpointError, match=r"the data have other items .*as many, but not the same"):
        changed = build("MultDAE", dataset="tiny", **{**LEARN, "data_path": renamed})
        changed.trainer.resume_checkpoint(file)
        changed.fit()
    rows = random_rows()
    moved = write_inter(rows[1:] + rows[:1], folder="moved")
    with pytest.raises(CheckpointError, match="the data have other|was trained on other interactions"):
        changed = build("MultDAE", dataset="tiny", **{**LEARN, "data_path": moved})
        changed.trainer.resume_checkpoint(file)
        changed.fit()
    with pytest.raises(CheckpointError, match="the data have other items"):  # before anything is built on them
        build("MultDAE", dataset="tiny", data_path=renamed, resume=file)


def test_load_data_and_model_refuses_other_data(build: Builder) -> None:
    from recbole.quick_start import load_data_and_model

    run = build()
    run.fit()
    write_inter([(user, f"x{item}") for user, item in random_rows()])
    with pytest.raises(CheckpointError, match="the data have other items .*as many, but not the same"):
        load_data_and_model(run.trainer.saved_model_file)


SHARED: list[tuple[str, dict[str, Any]]] = [
    ("MultVAE", {}),
    ("MultDAE", {}),
    ("CompositeVAE", {"hidden_size": 12}),
    ("VampVAE", {"hidden_size": 12, "n_pseudo_inputs": 5}),
    ("VASP", {"hidden_size": 12}),
    ("MultVAE", {"n_negatives": 8, "weight_decay": 0.0}),
    ("MultVAE", {"weight_averaging": 3}),
    ("MultVAE", {"eval_args": {"split": {"HU": [8, 9]}, "mode": "full"}}),
    ("HybridVAE", {"kernel_share": 0.0, "linear_neighbours": 0, "linear_l2": 3.0, "linear_item_power": 0.15}),
]
"""Trainings of several processes."""

SEVERAL = """
import json, sys
import recbole_vae
import torch.multiprocessing

OPTIONS = dict(data_path="data", epochs=4, show_progress=False, train_batch_size=15, latent_dimension=6,
               learning_rate=0.01, state="ERROR", precision="float32", use_gpu=False, metric_decimal_place=12)

def share(rank, cases, ports, queue):
    # As RecBole does, but one after the other: a process takes seconds to start.
    from recbole.quick_start.quick_start import run_recboles
    sys.argv = ["test"]
    for (model, training), port in zip(cases, ports):
        group = dict(world_size=2, ip="localhost", port=port, nproc=2, offset=0)
        run_recboles(rank, model, "tiny", None, {"config_dict": {**OPTIONS, **training, **group}, "queue": queue})

if __name__ == "__main__":
    from recbole.quick_start import run_recbole
    cases, ports = json.loads(sys.argv[1])
    sys.argv = ["test"]
    queue = torch.multiprocessing.get_context("spawn").SimpleQueue()
    children = torch.multiprocessing.spawn(share, args=(cases, ports, queue), nprocs=2, join=False)
    one = [run_recbole(model, "tiny", config_dict={**OPTIONS, **training}) for model, training in cases]
    two = []
    while len(two) < len(cases):
        while queue.empty():
            if children.join(0.1):
                break
        two.append(queue.get())
    while not children.join():
        pass
    keys = ("best_valid_result", "test_result")
    print(json.dumps([[{key: {name: float(value) for name, value in each[key].items()} for key in keys} for each in pair]
                      for pair in zip(one, two)]))
"""


@pytest.fixture(scope="module")
def by_one_and_by_two(tmp_path_factory: pytest.TempPathFactory) -> list[list[dict[str, dict[str, float]]]]:
    """Return the results of each training by one process and by two."""
    cases = [
        (name, training if name in LACKING else {"mlp_hidden_size": [12], **training}) for name, training in SHARED
    ]
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        patch.chdir(tmp_path_factory.mktemp("several"))
        write_inter(random_rows(41))
        Path("two.py").write_text(SEVERAL)
        probes = [stack.enter_context(socket.socket()) for _ in cases]
        for probe in probes:
            probe.bind(("localhost", 0))
        ports = [str(probe.getsockname()[1]) for probe in probes]
        stack.close()
        words = [sys.executable, "two.py", json.dumps([cases, ports])]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=400)
        assert done.returncode == 0, done.stderr
        found: list[list[dict[str, dict[str, float]]]] = json.loads(done.stdout.splitlines()[-1])
        return found


@pytest.mark.parametrize("case", range(len(SHARED)), ids=[f"{name}-{training}" for name, training in SHARED])
def test_several_processes_give_what_one_gives(
    case: int, by_one_and_by_two: list[list[dict[str, dict[str, float]]]]
) -> None:
    one, two = by_one_and_by_two[case]
    for key in ("best_valid_result", "test_result"):
        assert len(one[key]) == 5
        assert one[key] == pytest.approx(two[key], abs=1e-6)  # not rounded
    assert any(value > 0 for value in one["test_result"].values())


def test_an_interrupted_write_leaves_the_old_file(
    build: Builder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = build(**{**LEARN, "epochs": 1})
    run.fit()
    file = Path(run.trainer.saved_model_file)
    before = file.read_bytes()

    def full(*args: Any, **kwargs: Any) -> None:
        args[1].write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(CheckpointError, match=r"cannot write this file: No space left on device\.$"):
        run.trainer._save_checkpoint(1)
    assert file.read_bytes() == before
    assert [each.name for each in file.parent.iterdir()] == [file.name]


def test_stopping_and_best_epoch_are_recboles(build: Builder) -> None:
    run = build("MultVAE", **{**LEARN, "epochs": 60, "stopping_step": 3})
    scores: list[float] = []
    original = run.trainer._valid_epoch

    def keep(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        scores.append(result[0])
        return result

    run.trainer._valid_epoch = keep
    best, _ = run.fit()
    last_best = max(n for n, score in enumerate(scores) if score == max(scores))
    assert best == max(scores)
    assert len(scores) == min(60, last_best + 1 + 4)  # it stops at the fourth that is not better
    assert checkpoint.load(run.trainer.saved_model_file)["epoch"] == last_best
