"""Training on all interactions: as an earlier run was trained, without the validation part that decided for it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from recbole_vae.errors import CheckpointError
from recbole_vae.options.evaluation import ALL, trains_on_all
from recbole_vae.storage import checkpoint
from recbole_vae.training.refit import recipe
from tests.conftest import Builder, Run, random_rows, write_inter
from tests.training.test_trainer import LEARN, same


def refit(path: str, dataset: str = "tiny", **options: Any) -> Run:
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed

    found = recipe(path)
    config = Config(model=found.model, dataset=dataset, config_dict={"refit": path, **options})
    init_seed(config["seed"], config["reproducibility"])
    data = create_dataset(config)
    train, valid, test = data_preparation(config, data)
    init_seed(config["seed"], config["reproducibility"])
    model = get_model(config["model"])(config, train._dataset).to(config["device"])
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    run = Run(config, data, train, valid, test, model, trainer)
    run.fit()
    return run


def saved(run: Run) -> dict[str, Any]:
    return checkpoint.load(run.trainer.saved_model_file)


def test_a_refit_is_a_run_on_everything_for_as_many_epochs_as_were_best(build: Builder, model_name: str) -> None:
    options = {**LEARN, "epochs": 5, "learning_rate": 0.03, "weight_averaging": 3, "eval_step": 2}
    first = build(model_name, **options)
    first.fit()
    best = saved(first)["epoch"]
    again = refit(first.trainer.saved_model_file)
    assert len(again.model.histories.indices) == len(set(random_rows()))
    assert saved(again)["epoch"] == best
    by_hand = build(model_name, **{**options, "epochs": best + 1}, eval_args={"split": {"RS": [1, 0, 0]}})
    by_hand.fit()
    for key in ("state_dict", "optimizer", "histories", "users", "items"):
        assert same(saved(again)[key], saved(by_hand)[key]), key


def test_a_refit_of_a_refit_is_the_same(build: Builder) -> None:
    first = build(**{**LEARN, "epochs": 4})
    first.fit()
    once = refit(first.trainer.saved_model_file)
    twice = refit(once.trainer.saved_model_file)
    assert same(dict(saved(once)["state_dict"]), dict(saved(twice)["state_dict"]))
    warm = refit(once.trainer.saved_model_file, epochs=1, warm_start=once.trainer.saved_model_file)
    assert saved(warm)["epoch"] == 0
    thrice = refit(warm.trainer.saved_model_file)  # the number of epochs is still known
    assert same(dict(saved(once)["state_dict"]), dict(saved(thrice)["state_dict"]))
    for run in (once, twice, warm, thrice):
        assert saved(run)["epochs_from_scratch"] == saved(first)["epoch"] + 1


def test_epochs_of_ones_own_stay_in_the_next_refit(build: Builder) -> None:
    first = build(**{**LEARN, "epochs": 2})
    first.fit()
    longer = refit(first.trainer.saved_model_file, epochs=7)
    assert saved(longer)["epoch"] == 6
    assert recipe(longer.trainer.saved_model_file).epochs == 7
    warm = refit(longer.trainer.saved_model_file, epochs=1, warm_start=longer.trainer.saved_model_file)
    assert recipe(warm.trainer.saved_model_file).epochs == 7


def scores_of(epochs: dict[int, float], monkeypatch: pytest.MonkeyPatch) -> None:
    def evaluation(trainer: Any, *_: Any, **__: Any) -> tuple[float, dict[str, float]]:
        score = epochs.get(trainer.model.step // trainer.model.steps_per_epoch, 0.0)
        return score, {"ndcg@10": score}

    monkeypatch.setattr("recbole.trainer.Trainer._valid_epoch", evaluation)


def watch_caps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return a list that receives the weight of the KL term at the end of each epoch from now on."""
    from recbole_vae.training.trainer import HistoryTrainer

    seen: list[float] = []
    original = HistoryTrainer._train_epoch

    def train_epoch(self: Any, *args: Any, **kwargs: Any) -> float:
        loss = original(self, *args, **kwargs)
        seen.append(self.loss_terms["beta"])
        return loss

    monkeypatch.setattr(HistoryTrainer, "_train_epoch", train_epoch)
    return seen


@pytest.mark.parametrize("eval_step", [1, 2])
@pytest.mark.parametrize("best", [10, 4])
def test_a_cap_that_validation_chose_falls_in_the_same_epoch(
    build: Builder, best: int, eval_step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores_of({2: 0.2, 4: 0.4, best: 0.5}, monkeypatch)
    seen = watch_caps(monkeypatch)
    options = {**LEARN, "stopping_step": 5, "epochs": 14, "anneal_cap": "auto", "anneal_epochs": 1}
    first = build(**options, eval_step=eval_step)
    first.fit()
    assert saved(first)["epoch"] == best - 1
    expected = seen[:best]
    fallen = best == 10
    assert (expected[-1] == 0.15) == fallen
    assert saved(first)["evaluations"][-1] is True
    seen.clear()
    again = refit(first.trainer.saved_model_file)
    assert seen == expected
    assert saved(again)["evaluations"] == saved(first)["evaluations"]
    # A resumed run remembers the evaluations before the stop.
    second = build(**{**options, "epochs": 20}, eval_step=eval_step)
    second.trainer.resume_checkpoint(first.trainer.saved_model_file)
    second.fit()
    assert saved(second)["evaluations"] == saved(first)["evaluations"]
    # A warm start begins with the cap that there was, and needs no validation part either.
    warm = refit(first.trainer.saved_model_file, epochs=1, warm_start=first.trainer.saved_model_file)
    assert warm.model.beta() == expected[-1]


def test_a_file_of_1_0_0_does_not_say_when_the_cap_fell(build: Builder) -> None:
    first = build(**LEARN, anneal_cap="auto")
    first.fit()
    state = dict(torch.load(first.trainer.saved_model_file, weights_only=True))
    for name in ("evaluations", "epochs_from_scratch"):
        del state[name]
    torch.save(state, "old.pth")
    assert recipe("old.pth").epochs == state["epoch"] + 1
    with pytest.raises(CheckpointError, match="^old.pth: does not say when .* Give a number, such as --anneal_cap=0.3"):
        refit("old.pth")
    refit("old.pth", anneal_cap=0.3)
    second = build(**{**LEARN, "epochs": 20}, anneal_cap="auto")
    second.trainer.resume_checkpoint("old.pth")
    second.fit()  # its evaluations before the stop stay unknown
    assert saved(second)["evaluations"] is None


def test_the_epochs_of_a_run_with_a_warm_start_do_not_say_when_the_cap_falls_from_scratch(
    build: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores_of({2: 0.2, 6: 0.5, 15: 0.6}, monkeypatch)
    options = {**LEARN, "stopping_step": 8, "epochs": 14, "anneal_cap": "auto", "anneal_epochs": 1}
    first = build(**options)
    first.fit()
    path = first.trainer.saved_model_file
    second = build(**options, warm_start=path)  # it goes on from epoch 6
    second.fit()
    assert saved(second)["evaluations"]
    warm = second.trainer.saved_model_file
    with pytest.raises(CheckpointError, match="as files of recbole_vae 1.0.0 and of runs with a warm start do not"):
        refit(warm, epochs=12)
    again = refit(warm, epochs=3, anneal_cap=0.3)
    assert recipe(again.trainer.saved_model_file).epochs == 3
    with pytest.raises(CheckpointError, match="of runs with a warm start do not"):
        refit(again.trainer.saved_model_file, anneal_cap="auto")
    refit(warm, epochs=1, warm_start=warm)


def test_a_refit_that_chose_its_cap_is_not_resumed(build: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    from recbole_vae.training.trainer import HistoryTrainer

    scores_of({2: 0.2, 12: 0.5}, monkeypatch)
    monkeypatch.setattr("recbole_vae.training.saving._SAVED_EVERY", 0.0)
    first = build(**{**LEARN, "stopping_step": 12, "epochs": 14}, anneal_cap="auto")
    first.fit()
    original = HistoryTrainer._train_epoch

    def stop(self: Any, train_data: Any, epoch_idx: int, *args: Any, **kwargs: Any) -> float:
        if epoch_idx == 4:
            shutil.copy(self.saved_model_file, "stopped.pth")
            raise KeyboardInterrupt
        return original(self, train_data, epoch_idx, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(HistoryTrainer, "_train_epoch", stop)
        refit(first.trainer.saved_model_file)
    second = build(dataset="tiny", resume="stopped.pth")
    assert second.trainer.start_epoch == 4
    with pytest.raises(CheckpointError, match="^stopped.pth: of a refit that did not end, .* the same refit command"):
        second.fit()


@pytest.mark.parametrize("cap", [0.2, "auto"])
def test_a_schedule_in_steps_takes_as_many_epochs_with_more_users(build: Builder, cap: Any) -> None:
    first = build("MultVAE", epochs=3, total_anneal_steps=40, anneal_cap=cap)  # 3 steps an epoch
    first.fit()
    found = recipe(first.trainer.saved_model_file)
    assert found.changed.startswith("total_anneal_steps: 40 is anneal_epochs: ")
    for users, steps in ((40, 3), (100, 7)):
        write_inter(random_rows(users=users), "more")
        run = build("MultVAE", "more", **found.options)
        betas = []
        for epochs in range(8):
            run.model.step, first.model.step = epochs * steps, epochs * 3
            betas.append((run.model.beta(), first.model.beta()))
        assert betas[0] == (0.0, 0.0)
        assert len({beta for beta, _ in betas}) > 2
        for now, before in betas:
            assert now == pytest.approx(before)


ROWS = [(*row, place) for place, row in enumerate(random_rows())]
TIMED = "user_id:token\titem_id:token\ttimestamp:float"
COLUMNS = {"load_col": {"inter": ["user_id", "item_id", "timestamp"]}}


@pytest.mark.parametrize(
    "split",
    [
        {"split": {"LS": "valid_and_test"}, "order": "TO"},
        {"split": {"TS": [0.8, 0.1, 0.1]}},
        {"split": {"RS": [0.6, 0.2, 0.2]}, "group_by": "none"},
        {"split": {"HU": [5, 5]}, "order": "TO", "fold_in": 0.5, "min_items": 4, "seed": 3},
        {"split": {"RS": [0.8, 0.1, 0.1]}, "mode": "uni5"},
    ],
    ids=str,
)
def test_whatever_the_split_nothing_is_left_out(build: Builder, split: dict[str, Any]) -> None:
    path = write_inter(ROWS, columns=TIMED)
    first = build(epochs=1, dataset="tiny", data_path=path, eval_args=split, **COLUMNS)
    first.fit()
    again = refit(first.trainer.saved_model_file)
    state = saved(again)
    assert len(state["histories"]["indices"]) == len(ROWS) > len(first.model.histories.indices)
    assert (len(state["users"]), len(state["items"])) == (41, 26)
    assert state["config"]["eval_args"]["split"] == ALL
    assert state["split_hash"] is None
    assert trains_on_all(state["config"])
    assert not trains_on_all(first.config)
    assert again.trainer.evaluate(again.test) is None
    assert (
        recipe(again.trainer.saved_model_file).options["eval_args"]
        == recipe(first.trainer.saved_model_file).options["eval_args"]
    )


@pytest.mark.parametrize("held_out", [False, True])
def test_the_parts_of_a_fixed_split_are_put_together(build: Builder, held_out: bool) -> None:
    rows = random_rows(users=60)
    for place, part in enumerate(("train", "valid", "test")):
        of_part = [row for row in rows if (int(row[0][1:]) // 20 if held_out else hash(row) % 3) == place]
        write_inter(of_part, part=part)
    args = {"split": {"HU": "files"}} if held_out else {"mode": "full"}
    parts = {"benchmark_filename": ["train", "valid", "test"], "eval_args": args}
    first = build(epochs=1, dataset="tiny", data_path="data", **parts)
    first.fit()
    again = refit(first.trainer.saved_model_file)
    assert len(again.model.histories.indices) == len(rows)
    # What loads the checkpoint by RecBole finds the same data.
    from recbole.quick_start import load_data_and_model

    _, model, dataset, train, _, _ = load_data_and_model(again.trainer.saved_model_file)
    assert torch.equal(model.histories.indices, again.model.histories.indices)
    assert len(train._dataset) == len(dataset) == len(rows)


def test_filters_and_weights_stay_as_they_were(build: Builder) -> None:
    rows = [(*row, 1 + place % 5) for place, row in enumerate(random_rows())]
    path = write_inter(rows, columns="user_id:token\titem_id:token\trating:float")
    options = {"val_interval": {"rating": "[3,inf)"}, "value_field": "rating"}
    first = build(epochs=1, dataset="tiny", data_path=path, **options)
    first.fit()
    again = refit(first.trainer.saved_model_file)
    kept = [row for row in rows if row[2] >= 3]
    assert len(again.model.histories.indices) == len(kept)
    assert float(again.model.histories.values.sum()) == sum(row[2] for row in kept)


def test_without_a_validation_part_the_last_epoch_is_saved_and_those_before_only_now_and_then(
    build: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    original = checkpoint.save

    def save(state: Any, path: Any) -> None:
        written.append(state["epoch"])
        original(state, path)

    monkeypatch.setattr(checkpoint, "save", save)
    build(**{**LEARN, "epochs": 5}, eval_args={"split": {"RS": [1, 0, 0]}}).fit()
    assert written == [0, 4]
    monkeypatch.setattr("recbole_vae.training.saving._SAVED_EVERY", 0.0)
    build(**{**LEARN, "epochs": 4}, eval_step=0).fit()
    assert written == [0, 4, 0, 1, 2, 3]
    assert not list(Path().glob("**/.*.tmp"))
