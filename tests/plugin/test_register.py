"""The hooks: by name, in any order, in any process, and nothing else changed."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

import recbole_vae
from recbole_vae import register
from recbole_vae.errors import ConfigError
from recbole_vae.model.multdae import MultDAE
from recbole_vae.model.multvae import MultVAE, MultVAEConfig
from recbole_vae.model.registry import model_names
from recbole_vae.options.fields import ModelConfig
from recbole_vae.options.recbole import recbole_model_names
from recbole_vae.version import __version__
from tests.conftest import OPTIONS, Builder, random_rows, write_inter

ALIASES = ("bool", "int", "float", "complex", "object", "str", "long", "unicode")


def python(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=False)


def test_importing_loads_neither_torch_nor_recbole_nor_ray() -> None:
    code = "import sys, recbole_vae; print(sorted({'torch', 'recbole', 'ray', 'pandas', 'scipy'} & set(sys.modules)))"
    done = python(code)
    assert done.stdout.strip() == "[]", done.stderr


def test_get_model_finds_ours_and_recboles() -> None:
    from recbole.utils import get_model

    assert get_model("MultVAE") is MultVAE
    assert get_model("MultDAE") is MultDAE
    assert MultVAE.__module__ == "recbole_vae.model.multvae"
    assert get_model("MultiVAE").__module__ == "recbole.model.general_recommender.multivae"
    assert get_model("RecVAE").__module__ == "recbole.model.general_recommender.recvae"


ORDERS = {
    "before": "import recbole_vae; from recbole.quick_start import run_recbole; from recbole.config import Config",
    "after config": "from recbole.config import Config; import recbole_vae; from recbole.quick_start import run_recbole",
    "after trainer": "import recbole.trainer, recbole.data; import recbole_vae; from recbole.quick_start import run_recbole",
    "after quick_start": (
        "import sys, types; ray = types.ModuleType('ray'); ray.tune = types.ModuleType('tune'); sys.modules['ray'] = ray\n"
        "from recbole.quick_start import run_recbole; del sys.modules['ray']; import recbole_vae"
    ),
    "twice": (
        "import recbole_vae, importlib; importlib.reload(recbole_vae); recbole_vae.register()\n"
        "from recbole.quick_start import run_recbole; importlib.reload(recbole_vae)"
    ),
}


@pytest.mark.parametrize("order", list(ORDERS))
def test_the_order_of_imports_does_not_matter(order: str) -> None:
    write_inter(random_rows())
    options = {**OPTIONS, "data_path": "data", "epochs": 1, "state": "ERROR"}
    code = (
        f"{ORDERS[order]}\nprint(run_recbole(model='MultVAE', dataset='tiny', config_dict={options!r})['test_result'])"
    )
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout == python(f"{ORDERS['before']}\n" + code.partition("\n")[2].rpartition("\n")[2]).stdout


def test_hooks_are_set_once() -> None:
    import recbole.quick_start.quick_start as quick_start
    from recbole.config import Config

    before = [Config._load_internal_config_dict, quick_start.init_logger, sys.meta_path[:]]
    register()
    assert before == [Config._load_internal_config_dict, quick_start.init_logger, sys.meta_path[:]]
    assert not hasattr(Config._load_internal_config_dict.__wrapped__, "__wrapped__")


SNAPSHOT = """
import sys, types
ray = types.ModuleType("ray"); ray.tune = types.ModuleType("tune"); sys.modules["ray"] = ray
import recbole.quick_start.quick_start, recbole.data.dataset, recbole.trainer, recbole.evaluator, recbole.utils.case_study
import recbole.model.general_recommender.nceplrec
import numpy, pandas, scipy.sparse, torch
del sys.modules["ray"]
libraries = {"torch": torch, "pandas": pandas, "scipy.sparse": scipy.sparse, "numpy": numpy}
modules = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "recbole"} | libraries

def places():
    found = {"sys.meta_path": tuple(sys.meta_path)}
    for name, module in modules.items():
        for attribute, value in list(vars(module).items()):
            if isinstance(value, dict):  # other modules have the same dictionaries
                value = tuple(value) if name == "recbole.evaluator.register" else None
            found[f"{name}.{attribute}"] = value
            if isinstance(value, type) and (value.__module__ == name or name in libraries):
                found.update({f"{name}.{attribute}.{key}": each for key, each in vars(value).items()})
    return found

before = places()
import recbole_vae
recbole.config.Config(model="MultVAE", dataset="ml-100k")
after = places()
for place in sorted(after):
    if place not in before or after[place] is not before[place]:
        if not (isinstance(after[place], tuple) and after[place] == before.get(place)):
            print(place)
"""


def test_the_table_has_all_that_changes() -> None:
    """Compare the table with what importing recbole_vae really replaces in RecBole and the libraries."""
    lines = (recbole_vae.plugin.register.__doc__ or "").splitlines()
    table = {line.split("``")[1]: line.split("``")[2].split()[0] for line in lines if line.startswith("``")}
    done = python(SNAPSHOT)
    assert done.returncode == 0, done.stderr
    changed = {place for place in done.stdout.split() if not place.endswith(".__annotations__")}  # made when looked at
    # Config gives numpy its old names, as RecBole's own does.
    assert {place.split(".")[1] for place in changed if place.startswith("numpy.")} <= set(ALIASES)
    changed = {place for place in changed if not place.startswith("numpy.")}
    changed = {re.sub("MultVAE(Dataset|Trainer)$", r"<Name>\1", place) for place in changed}
    changed = {place.replace(".multvae", ".<name>") for place in changed}
    # RecBole's import of ray, and what is as it was on older libraries.
    maybe = {"recbole.quick_start.quick_start.tune"} | {place for place, file in table.items() if file == "compat"}
    assert changed <= set(table), changed - set(table)
    assert set(table) - changed <= maybe
    for place, file in table.items():
        assert Path(recbole_vae.__file__).with_name("plugin").joinpath(f"{file}.py").exists(), place


def test_nothing_is_written_into_recboles_folder(build: Builder) -> None:
    import recbole

    folder = Path(recbole.__file__).parent
    before = {path for path in folder.rglob("*") if "__pycache__" not in path.parts}
    build().fit()
    assert {path for path in folder.rglob("*") if "__pycache__" not in path.parts} == before


def test_defaults_lie_between_recboles_and_the_users(build: Builder) -> None:
    config = build(learning_rate=0.5).config
    assert config["learning_rate"] == 0.5  # the user's
    assert config["dropout_prob"] == "auto"  # ours
    assert config["anneal_cap"] == 0.3
    assert config["eval_batch_size"] == 4194304
    assert config["stopping_step"] == 20
    assert build("BPR").config["stopping_step"] == 10
    assert build("BPR").config["anneal_cap"] is None


class MyConfig(MultVAEConfig):
    latent_dimension: int = 3
    anneal_cap: float = 1.0
    my_own: int = Field(2, ge=2)


MY_MODELS = """
from recbole.model.general_recommender.bpr import BPR

import recbole_vae


class MyVAE(recbole_vae.MultVAE):
    pass


class MyBPR(BPR):
    defaults = {"embedding_size": 8}


recbole_vae.register(MyVAE, MyBPR)
"""


class MyVAE(MultVAE):
    """A user's own model."""

    config_class = MyConfig


def test_a_users_own_model_can_be_registered(build: Builder) -> None:
    register(MyVAE)
    register(MyVAE)
    run = build("MyVAE", epochs=1)
    assert type(run.model) is MyVAE
    assert run.config["anneal_cap"] == 1.0
    assert run.config["my_own"] == 2
    assert run.config["train_batch_size"] == 16
    with pytest.raises(ConfigError, match=r"^my_own: 1 \(config_dict\) is not allowed; it must be an integer >= 2\.$"):
        build("MyVAE", my_own=1)
    run.fit()
    assert "MyVAE" in model_names()


def test_a_model_without_options_of_its_own_has_those_of_its_base(build: Builder) -> None:
    class Plain(MultVAE):
        pass

    register(Plain)
    assert build("Plain").config["anneal_cap"] == 0.3


class NoDefault(ModelConfig):
    width: int


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({"config_class": NoDefault}, "its option 'width' has no default; give the field one"),
        ({"config_class": dict}, "its 'config_class' must be a subclass of ModelConfig"),
        (
            {"defaults": {"latent_dimension": 3}},
            "its 'defaults' would not count; the fields of its 'config_class' have them",
        ),
    ],
)
def test_options_without_a_default_in_their_field_are_refused(attributes: dict[str, Any], said: str) -> None:
    wrong = type("Wrong", (MultVAE,), attributes)
    with pytest.raises(TypeError, match=rf"^cannot register tests.plugin.test_register.Wrong: {said}"):
        register(wrong)


def test_a_name_that_is_taken_is_refused() -> None:
    class RecVAE(MultVAE):
        pass

    with pytest.raises(
        ValueError,
        match=r"cannot register tests.plugin.test_register.RecVAE: RecBole has a model of that name, in .*recvae.py",
    ):
        register(RecVAE)

    other = type("MultVAE", (MultDAE,), {"__module__": "elsewhere"})
    with pytest.raises(
        ValueError, match="cannot register elsewhere.MultVAE: recbole_vae has a model of that name already"
    ):
        register(other)


def test_no_model_has_a_name_of_recboles() -> None:
    assert not {name.lower() for name in model_names()} & {name.lower() for name in recbole_model_names()}


@pytest.mark.parametrize("found", ["1.1.1", "1.2.0", "2.0.0"])
def test_another_recbole_is_refused(found: str) -> None:
    Path("recbole").mkdir()
    Path("recbole/__init__.py").write_text(f"__version__ = '{found}'")
    command = "pip install --no-deps 'recbole>=1.2.1,<1.3'"
    message = f"recbole_vae {__version__} fits RecBole 1.2.1 and later 1.2s, not {found}: {command}"
    for code in ("import recbole_vae, recbole.config", "import recbole, recbole_vae"):
        done = python(f"import sys; sys.path.insert(0, '.'); {code}")
        assert done.returncode == 1
        assert done.stderr.strip().splitlines()[-1].startswith(f"recbole_vae.errors.RecBoleVersionError: {message}")
    done = python("import sys; sys.path.insert(0, '.'); from recbole_vae.cli.main import main; sys.exit(main(['run']))")
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {message}")
    assert len(done.stderr.splitlines()) == 1


def test_a_recbole_whose_hooks_have_changed_is_refused() -> None:
    code = """
import recbole.data.utils
del recbole.data.utils.get_dataloader
import recbole_vae
"""
    done = python(code)
    assert "does not fit RecBole 1.2" in done.stderr.strip().splitlines()[-1]
    assert "has no 'get_dataloader'" in done.stderr


WHOSE = {
    "MultVAE": f"MultVAE is recbole_vae.model.multvae.MultVAE, of recbole_vae {__version__}",
    "MultiVAE": "MultiVAE is recbole.model.general_recommender.multivae.MultiVAE, of RecBole 1.2",
}


@pytest.mark.parametrize("name", list(WHOSE))
def test_run_recbole_by_name_and_the_first_line_of_the_log(name: str) -> None:
    options = {**OPTIONS, "data_path": write_inter(random_rows())}
    code = f"""
import recbole_vae
from recbole.quick_start import run_recbole
print(*run_recbole(model={name!r}, dataset="tiny", config_dict={options!r})["test_result"])
"""
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["recall@10", "mrr@10", "ndcg@10", "hit@10", "precision@10"]
    log = next(Path("log", name).glob("*.log")).read_text()
    assert WHOSE[name] in log.splitlines()[0]


def test_config_files_and_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from recbole.quick_start import run_recbole

    write_inter(random_rows())
    Path("one.yaml").write_text(
        "model: MultDAE\ndataset: tiny\ndata_path: data\nepochs: 3\nlatent_dimension: 5\nshow_progress: False\nstopping_step: 0\n"
    )
    monkeypatch.setattr(sys, "argv", ["run", "--epochs=1", "--latent_dimension=4"])
    run_recbole(config_file_list=["one.yaml"])
    from recbole_vae.storage import checkpoint

    state = checkpoint.load(next(Path("saved").glob("*.pth")))
    assert (state["model"], state["epoch"], state["config"]["latent_dimension"]) == ("MultDAE", 0, 4)


def test_hyper_tuning() -> None:
    pytest.importorskip("hyperopt")
    from recbole.quick_start import objective_function
    from recbole.trainer import HyperTuning

    write_inter(random_rows())
    Path("fixed.yaml").write_text(
        "model: MultVAE\ndataset: tiny\ndata_path: data\nepochs: 2\nlatent_dimension: 5\ntrain_batch_size: 16\n"
    )
    Path("space.hyper").write_text("learning_rate loguniform -8,-3\nmlp_hidden_size choice ['[]','[9]']\n")
    tuning = HyperTuning(
        objective_function, params_file="space.hyper", fixed_config_file_list=["fixed.yaml"], algo="random", max_evals=3
    )
    tuning.run()
    assert len(tuning.params2result) == 3
    assert tuning.best_score == max(tuning.score_list)


@pytest.mark.parametrize(
    ("model", "name", "meant"),
    [("MultVAE", "embedding_size", ""), ("MultVAE", "qqq", ""), ("EASE", "regweight", "reg_weight")],
)
@pytest.mark.parametrize("algo", ["random", "bayes"])
def test_hyper_tuning_refuses_to_vary_what_has_no_effect(algo: str, model: str, name: str, meant: str) -> None:
    """Also what another model has."""
    pytest.importorskip("hyperopt")
    from recbole.quick_start import objective_function
    from recbole.trainer import HyperTuning

    from recbole_vae.options.recbole import properties_folder

    write_inter(random_rows())
    Path("fixed.yaml").write_text(f"model: {model}\ndataset: tiny\ndata_path: data\nepochs: 1\n")
    for given in ({"params_dict": {"choice": {name: [8, 16]}}}, {"params_file": "space.hyper"}):
        Path("space.hyper").write_text(f"{name} choice [8,16]\n")
        tuning = HyperTuning(objective_function, fixed_config_file_list=["fixed.yaml"], algo=algo, max_evals=2, **given)
        said = (
            f" Did you mean {meant}?"
            if meant
            else f" The model's options are in {properties_folder()}/model/{model}.yaml."
        )
        with pytest.raises(ConfigError) as error:
            tuning.run()
        assert str(error.value) == f"{name} (params_dict): neither {model} nor RecBole has this option.{said}"


def test_load_data_and_model_and_case_study(build: Builder) -> None:
    from recbole.quick_start import load_data_and_model
    from recbole.utils.case_study import full_sort_scores, full_sort_topk

    run = build(epochs=4, learning_rate=0.01)
    run.fit()
    result = run.trainer.evaluate(run.test)
    config, model, dataset, _, _, test = load_data_and_model(run.trainer.saved_model_file)
    assert type(model) is MultVAE
    assert model.step == run.model.step
    assert config["latent_dimension"] == OPTIONS["latent_dimension"]
    assert not config["resume"]
    assert config["loaded_from"] == run.trainer.saved_model_file
    again = type(run.trainer)(config, model)
    assert again.evaluate(test, load_best_model=False) == result

    import numpy as np
    import torch

    users = np.array([3, 1])
    scores = full_sort_scores(users, model, test, device=config["device"])
    seen = model.histories[torch.tensor([3])].indices
    assert scores[0, seen].eq(-torch.inf).all()
    values, items = full_sort_topk(users, model, test, 4, device=config["device"])
    best = scores.topk(4)
    assert torch.equal(values, best.values)
    assert torch.equal(items, best.indices)
    assert dataset.id2token("item_id", items).shape == (2, 4)


def test_load_data_and_model_ignores_the_command_line(build: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    from recbole.quick_start import load_data_and_model

    run = build(epochs=1)
    run.fit()
    monkeypatch.setattr(sys, "argv", ["notebook", "--latent_dimension=99"])
    assert load_data_and_model(run.trainer.saved_model_file)[0]["latent_dimension"] == OPTIONS["latent_dimension"]


def test_flops_are_counted_without_copying_the_histories(build: Builder) -> None:
    import copy
    import logging

    from recbole.data.transform import construct_transform
    from recbole.utils import get_flops

    run = build()
    assert copy.deepcopy(run.model).histories is run.model.histories
    flops = get_flops(
        run.model, run.dataset, run.config["device"], logging.getLogger(), construct_transform(run.config)
    )
    assert flops >= 12 * (run.model.n_items - 1)


CHILDREN = """
import sys

if __name__ == "__main__":
    sys.argv = ["test"]
    import recbole_vae
    sys.path.append(".")
    import my_models
    from recbole.quick_start import run
    for model, port in {ports!r}.items():
        result = run(model, "tiny", config_dict={options!r}, saved=False, nproc=2, port=port)["test_result"]
        print(model, result["recall@10"])
"""


def test_spawned_children_train_the_registered_models() -> None:
    """RecBole starts them by ``spawn``; they know no more than what the function that they run brings along."""
    Path("my_models.py").write_text(MY_MODELS)
    options = {**OPTIONS, "data_path": write_inter(random_rows()), "epochs": 1}
    with socket.socket() as one, socket.socket() as other:
        for probe in (one, other):
            probe.bind(("localhost", 0))
        ports = {model: str(probe.getsockname()[1]) for model, probe in (("MyVAE", one), ("MyBPR", other))}
    Path("children.py").write_text(CHILDREN.format(options=options, ports=ports))
    done = subprocess.run([sys.executable, "children.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = dict(line.split() for line in done.stdout.splitlines() if line.startswith("My"))
    for model in ports:
        assert 0 < float(found[model]) < 1
        log = "".join(file.read_text() for file in Path("log", model).glob("*.log"))
        assert f"{model} is my_models.{model}" in log


def test_all_that_the_package_promises_is_there() -> None:
    assert recbole_vae.MultVAE is MultVAE
    for name in recbole_vae.__all__:
        assert getattr(recbole_vae, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'MultXAE'"):
        recbole_vae.MultXAE  # noqa: B018


def test_metrics_of_sampled_evaluation(build: Builder) -> None:
    """RecBole's protocol of sampled candidates asks for ``predict``."""
    run = build(
        eval_args={"split": {"RS": [0.8, 0.1, 0.1]}, "mode": "uni5"},
        topk=[3],
        metrics=["Recall"],
        valid_metric="Recall@3",
    )
    _, result = run.fit()
    assert 0 < result["recall@3"] <= 1
