"""A researcher's own model in RecBole's style takes part like RecBole's own: by name, in each process, in each table."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recbole.model.abstract_recommender import AbstractRecommender, GeneralRecommender
from recbole.model.general_recommender import EASE, ItemKNN, MultiVAE, Pop, RecVAE
from recbole.utils import InputType
from torch import Tensor

from recbole_vae import register
from recbole_vae.cli.main import main
from recbole_vae.data.histories import Histories
from recbole_vae.errors import CheckpointError, ConfigError
from recbole_vae.evaluation.fold_in import why_not
from recbole_vae.model.registry import model_class, places
from recbole_vae.options import command_line
from recbole_vae.serving.recommender import Recommender
from tests.conftest import Builder, random_rows, write_inter

MODULE = '''
import torch
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.model.loss import BPRLoss
from recbole.utils import InputType

import recbole_vae


class MyGNN(GeneralRecommender):
    """One step of LightGCN's propagation over the graph of users and items."""

    input_type = InputType.PAIRWISE
    defaults = {"embedding_size": 8, "my_temperature": 0.5}

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        graph = dataset.inter_matrix(form="coo")
        index = torch.tensor([graph.row.tolist(), graph.col.tolist()])
        self.graph = torch.sparse_coo_tensor(index, torch.ones(index.shape[1]), graph.shape).to_dense().to(self.device)
        self.users = torch.nn.Embedding(self.n_users, config["embedding_size"])
        self.items = torch.nn.Embedding(self.n_items, config["embedding_size"])
        self.temperature = config["my_temperature"]
        self.loss = BPRLoss()

    def embeddings(self):
        users = self.users.weight + self.graph @ self.items.weight / 5
        return users / self.temperature, self.items.weight

    def calculate_loss(self, interaction):
        users, items = self.embeddings()
        user = users[interaction[self.USER_ID]]
        good, bad = items[interaction[self.ITEM_ID]], items[interaction[self.NEG_ITEM_ID]]
        return self.loss((user * good).sum(1), (user * bad).sum(1))

    def predict(self, interaction):
        users, items = self.embeddings()
        return (users[interaction[self.USER_ID]] * items[interaction[self.ITEM_ID]]).sum(1)

    def full_sort_predict(self, interaction):
        users, items = self.embeddings()
        return (users[interaction[self.USER_ID]] @ items.t()).view(-1)


recbole_vae.register(MyGNN)
'''


@pytest.fixture(autouse=True)
def registered_before() -> Iterator[None]:
    """Take away what a test registers."""
    before = dict(places)
    yield
    for name in set(places) - set(before):
        del places[name]
        sys.modules.pop(f"recbole.model.general_recommender.{name}", None)
    sys.modules.pop("my_gnn", None)


@pytest.fixture
def my_gnn(monkeypatch: pytest.MonkeyPatch) -> Any:
    Path("my_gnn.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(Path.cwd()))
    return importlib.import_module("my_gnn").MyGNN


def test_it_runs_by_name_with_its_defaults(my_gnn: Any) -> None:
    from recbole.quick_start import load_data_and_model, run_recbole
    from recbole.trainer import Trainer
    from recbole.utils import get_trainer

    options = {"data_path": write_inter(random_rows()), "epochs": 2, "use_gpu": False, "show_progress": False}
    result = run_recbole(model="MyGNN", dataset="tiny", config_dict={**options, "embedding_size": 4, "unknown": 1})
    assert 0 < result["test_result"]["ndcg@10"] < 1
    file = str(next(Path("saved").glob("MyGNN-*.pth")))
    config, net, _, _, _, test = load_data_and_model(file)
    assert type(net) is my_gnn
    assert (config["embedding_size"], config["my_temperature"]) == (4, 0.5)
    assert get_trainer(config["MODEL_TYPE"], "MyGNN") is Trainer
    trainer = Trainer(config, net)
    trainer.eval_collector.data_collect(test)
    assert trainer.evaluate(test, load_best_model=False) == result["test_result"]
    with pytest.raises(CheckpointError, match="MyGNN cannot score users who were not in the training data"):
        Recommender.load(file)
    del places["mygnn"]
    sys.modules.pop("recbole.model.general_recommender.mygnn")
    with pytest.raises(CheckpointError, match=r"it holds my_gnn\.MyGNN, which was not run"):
        load_data_and_model(file)


def test_it_runs_from_the_command_line(my_gnn: Any, capfd: pytest.CaptureFixture[str]) -> None:
    write_inter(random_rows())
    command = ["run", "--model=MyGNN", "--dataset=tiny", "--data_path=data", "--epochs=1", "--use_gpu=False"]
    status = main(command)
    out, err = capfd.readouterr()
    assert status == 0, err
    assert "MyGNN on tiny, test part" in out
    assert "--resume" not in out  # RecBole's checkpoints do not resume


@pytest.mark.parametrize("place", ["config_dict", "command line"])
def test_its_options_are_those_that_it_declares_or_reads(
    my_gnn: Any, build: Builder, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may read others in some other way, so what resembles nothing is let through."""

    def made(**options: Any) -> Any:
        if place == "command line":
            monkeypatch.setattr(sys, "argv", ["run", *(f"--{name}={value}" for name, value in options.items())])
            options = {}
        with command_line.ours():
            return build("MyGNN", embedding_size=8, precision=None, **options).config

    known = dict.fromkeys(("latent_dimension", "mlp_hidden_size", "precision"))
    my_gnn.defaults = {}
    assert made(my_temperature=2.0).ignored_options == sorted(known)
    assert made(my_temperature=2.0, qqq=1).ignored_options == sorted({*known, "qqq"})
    with pytest.raises(ConfigError, match=rf"^my_temprature \({place}\): .* Did you mean my_temperature\?"):
        made(my_temprature=2.0)


def test_it_is_a_row_of_a_comparison(capfd: pytest.CaptureFixture[str]) -> None:
    """Each run has a process of its own, which imports the module."""
    write_inter(random_rows())
    Path("my_gnn.py").write_text(MODULE)
    command = ["compare", "--out=out", "--models=MyGNN,EASE", "--imports=my_gnn", "--dataset=tiny", "--data_path=data"]
    status = main([*command, "--epochs=1", "--my_temperature=2", "--use_gpu=False", "--max_k=10"])
    out, err = capfd.readouterr()
    assert status == 0, out + err
    assert "MyGNN" in out
    assert "EASE has no option my_temperature, which the plan sets for other rows." in out
    assert main([*command[:-1], "--my_temprature=2"]) == 2
    assert "did you mean my_temperature?" in capfd.readouterr().err


def test_held_out_users_are_refused(my_gnn: Any, build: Builder) -> None:
    with pytest.raises(ConfigError, match="^model: MyGNN cannot score users who were not in the training data"):
        build("MyGNN", eval_args={"split": {"HU": [0.1, 0.1]}})


class DeepVAE(RecVAE):  # type: ignore[misc]
    pass


class QuietVAE(MultiVAE):  # type: ignore[misc]
    defaults = {"dropout_prob": 0.2}


def test_a_subclass_of_one_of_recboles_is_trained_like_it(build: Builder) -> None:
    """RecBole chooses defaults, trainer and dataloader by the model's name, and would give these what it gives any other."""
    register(DeepVAE, QuietVAE)
    for own, recboles in (("DeepVAE", "RecVAE"), ("QuietVAE", "MultiVAE")):
        options = {"latent_dimension": 8, "mlp_hidden_size": [8]}
        run, other = build(own, **options), build(recboles, **options)
        assert type(run.trainer) is type(other.trainer)
        assert type(run.train) is type(other.train)
        own_options = {**run.config.internal_config_dict, "dropout_prob": None}
        assert own_options == {**other.config.internal_config_dict, "dropout_prob": None}
        run.fit()
    assert run.config["dropout_prob"] == 0.2
    assert other.config["dropout_prob"] == 0.5


MY_EASE = """
from recbole.model.general_recommender import EASE

import recbole_vae


class MyEASE(EASE):
    defaults = {"reg_weight": 20.0}


recbole_vae.register(MyEASE)
"""


def test_a_subclass_of_ease_scores_histories_as_ease_does(
    build: Builder, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Held-out users, and the checkpoint in a process that has not imported its module."""
    Path("my_ease.py").write_text(MY_EASE)
    monkeypatch.syspath_prepend(str(Path.cwd()))
    importlib.import_module("my_ease")
    path, runs = write_inter(random_rows(80, 30)), []
    for model, options in (("MyEASE", {}), ("EASE", {"reg_weight": 20.0})):
        run = build(model, dataset="tiny", data_path=path, eval_args={"split": {"HU": [10, 20]}}, **options)
        run.fit()
        runs.append((run.trainer.saved_model_file, run.trainer.evaluate(run.test, load_best_model=False)))
    (file, result), (other, expected) = runs
    assert result == expected
    for name, values in expected.per_user.items():
        assert result.per_user[name].tolist() == values.tolist()
    del places["myease"], sys.modules["my_ease"], sys.modules["recbole.model.general_recommender.myease"]
    Path("h.csv").write_text("user_id,item_id\na,i0\na,i3\n")
    for command in ("recommend", "explain"):
        assert main([command, f"--checkpoint={other}", "--histories=h.csv"]) == 0
        wanted = capfd.readouterr().out
        assert main([command, f"--checkpoint={file}", "--histories=h.csv", "--imports=my_ease"]) == 0
        assert capfd.readouterr().out.replace("MyEASE", "EASE") == wanted
    sys.modules.pop("my_ease", None)


def changed(base: type, name: str) -> type:
    """Return a subclass of a subclass that has one method of its own."""
    return type("Last", (type("Changed", (base,), {name: getattr(base, name)}),), {})


@pytest.mark.parametrize(
    ("base", "name"),
    [
        (EASE, "full_sort_predict"), (Pop, "full_sort_predict"), (MultiVAE, "get_rating_matrix"), (EASE, "__init__"),
        (ItemKNN, "__init__"), (RecVAE, "build_histroy_items"),
    ],
)  # fmt: skip
def test_a_subclass_that_scores_in_its_own_way_is_refused(base: type, name: str) -> None:
    reason = why_not(changed(base, name))
    assert reason is not None
    assert reason.startswith(
        f"Last cannot score users who were not in the training data: Changed overrides {name} of RecBole's {base.__name__}"
    )
    assert "Give it a method score_histories(histories)" in reason


def test_a_subclass_that_changes_something_else_is_not(my_gnn: Any) -> None:
    for base, name in ((EASE, "predict"), (MultiVAE, "__init__"), (RecVAE, "forward"), (Pop, "__init__")):
        assert why_not(changed(base, name)) is None
    assert str(why_not(changed(ItemKNN, "predict"), {"knn_method": "user"})).startswith(
        "Last with knn_method: user compares"
    )
    assert "a model of your own can have a method score_histories" in str(why_not(my_gnn))


class Halved(EASE):  # type: ignore[misc]
    """Keeps the histories weighted, and says how it scores others."""

    defaults = {"reg_weight": 10.0}
    interaction_matrix: Any

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.interaction_matrix = self.interaction_matrix / 2

    def score_histories(self, histories: Histories) -> Tensor:
        weighted = histories.to_scipy(self.n_items - 1, padded=True) / 2
        return torch.from_numpy(np.asarray(weighted @ self.item_similarity))


def test_a_model_that_declares_how_it_scores_histories_takes_part(build: Builder) -> None:
    register(Halved)
    run = build(
        "Halved", dataset="tiny", data_path=write_inter(random_rows(80, 30)), eval_args={"split": {"HU": [10, 20]}}
    )
    run.fit()
    recommender = Recommender.load(run.trainer.saved_model_file)
    (ranking,) = recommender.recommend([["i0", "i3"]], k=5)
    known = recommender.known(["i0", "i3"])
    scores = np.asarray(run.model.item_similarity)[list(known)].sum(0) / 2
    scores[[0, *known]] = -np.inf
    best = np.argsort(-scores)[:5]
    assert [item for item, _ in ranking] == [recommender.items[item] for item in best]
    np.testing.assert_allclose([score for _, score in ranking], scores[best], rtol=1e-5)
    result: Any = run.trainer.evaluate(run.test, load_best_model=False)
    plain = build("EASE", dataset="tiny", data_path="data", reg_weight=10.0, eval_args={"split": {"HU": [10, 20]}})
    plain.fit()
    assert result == plain.trainer.evaluate(plain.test, load_best_model=False)


class NoType(AbstractRecommender):  # type: ignore[misc]
    pass


class NoLoss(GeneralRecommender):  # type: ignore[misc]
    def predict(self, interaction: Any) -> Tensor:
        return torch.zeros(1)


class NoScores(GeneralRecommender):  # type: ignore[misc]
    input_type = InputType.PAIRWISE

    def calculate_loss(self, interaction: Any) -> Tensor:
        return torch.zeros(1)


class WrongDefaults(NoLoss):
    defaults = ["embedding_size"]

    def calculate_loss(self, interaction: Any) -> Tensor:
        return torch.zeros(1)


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        (NoType, "it is no subclass of HistoryRecommender, nor of RecBole's GeneralRecommender"),
        (torch.nn.Linear, "it is no subclass of HistoryRecommender"),
        ("MyGNN", "it is no subclass of HistoryRecommender"),
        (NoLoss, "it has no method 'calculate_loss'"),
        (NoScores, "it has no method 'full_sort_predict or predict'"),
        (WrongDefaults, "its 'defaults' must be a dictionary"),
    ],
)
def test_what_is_no_model_is_refused(model: Any, problem: str) -> None:
    with pytest.raises(TypeError, match=f"^cannot register .*: {problem}"):
        register(model)
    assert model_class("NoLoss") is None


def test_a_name_that_is_taken_is_refused(my_gnn: Any) -> None:
    other = type("MyGNN", (my_gnn,), {"__module__": "elsewhere"})
    with pytest.raises(ValueError, match=r"^cannot register elsewhere\.MyGNN: recbole_vae has a model of that name"):
        register(other)
    with pytest.raises(ValueError, match=r"^cannot register elsewhere\.lightGCN: RecBole has a model of that name"):
        register(type("lightGCN", (my_gnn,), {"__module__": "elsewhere"}))
