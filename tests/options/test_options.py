"""Options: types, limits, misspelt names, and where a value came from."""

from __future__ import annotations

import math
import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, field_validator, model_validator

from recbole_vae.errors import CheckpointError, ConfigError
from recbole_vae.model import yaml_files
from recbole_vae.model.base import MLPConfig
from recbole_vae.model.known_options import options_of
from recbole_vae.model.registry import BUILT_IN, model_class
from recbole_vae.nn.layers import ACTIVATIONS
from recbole_vae.options import command_line
from recbole_vae.options.fields import ModelConfig, Strict
from recbole_vae.options.names import near
from recbole_vae.options.recbole import properties_folder, recbole_defaults, recbole_folder, recbole_model_names
from recbole_vae.storage.checkpoint import plain_config
from tests.conftest import OPTIONS, Builder, random_rows, write_inter

BAD = [
    ("latent_dimension", 0, "an integer >= 1"),
    ("latent_dimension", 2.5, "an integer >= 1"),
    ("latent_dimension", "many", "an integer >= 1"),
    ("latent_dimension", True, "an integer >= 1"),
    ("latent_dimension", None, "an integer >= 1"),
    ("mlp_hidden_size", 600, "a list (which may be empty) of values, each an integer >= 1"),
    ("mlp_hidden_size", [600, 0], "a list (which may be empty) of values, each an integer >= 1"),
    ("activation", "tanhh", "one of tanh, relu, gelu, silu, sigmoid, elu"),
    ("dropout_prob", 1.0, "a number >= 0 and < 1, or auto"),
    ("dropout_prob", float("nan"), "a number >= 0 and < 1, or auto"),
    ("n_negatives", -1, "an integer >= 0"),
    ("anneal_cap", -0.1, "a number >= 0, or auto"),
    ("anneal_cap", float("inf"), "a number >= 0, or auto"),
    ("anneal_cap", "automatic", "a number >= 0, or auto"),
    ("total_anneal_steps", -1, "an integer >= 0, or ~ (none)"),
    ("anneal_epochs", "ten", "a number >= 0, or ~ (none)"),
    ("propensity_weight", -1, "a number >= 0"),
    ("weight_averaging", 2.5, "an integer >= 0"),
    ("epochs", "ten", "an integer >= 1"),
    ("train_batch_size", 0, "an integer >= 1"),
    ("learning_rate", 0, "a number > 0"),
    ("learning_rate", [0.1], "a number > 0"),
    ("learner", "adm", "one of adam, adamw, sgd, adagrad, rmsprop"),
    ("weight_decay", -1e-9, "a number >= 0"),
    ("stopping_step", -1, "an integer >= 0"),
    ("eval_batch_size", "big", "an integer >= 1"),
    ("value_field", 3, "a string, or ~ (none)"),
    ("resume", 3, "a string, or ~ (none)"),
    ("seed", 2**32, "an integer >= 0 and < 4294967296"),
    ("clip_grad_norm", 5, "a mapping, or ~ (none)"),
    ("kl_length_power", 30.0, "a number >= 0 and <= 4"),
    ("enable_amp", True, "False"),
    ("use_gpu", 5, "True or False"),
    ("show_progress", "maybe", "True or False"),
]


@pytest.mark.parametrize(("name", "value", "allowed"), BAD)
def test_a_bad_value_is_refused_before_the_data_are_read(build: Builder, name: str, value: Any, allowed: str) -> None:
    with pytest.raises(ConfigError) as error:
        build(dataset="not-there", **{name: value})
    assert str(error.value) == f"{name}: {value!r} (config_dict) is not allowed; it must be {allowed}."


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [("weight_decay", 0.1, "0.0"), ("learner", "sgd", "adam"), ("clip_grad_norm", {"max_norm": 1.0}, "~")],
)
def test_what_needs_all_items_cannot_go_with_negatives(build: Builder, name: str, value: Any, wanted: str) -> None:
    with pytest.raises(ConfigError) as error:
        build(dataset="not-there", n_negatives=5, **{name: value})
    assert str(error.value).startswith(f"{name}: {value!r} cannot go with n_negatives: 5, which updates only")
    assert str(error.value).endswith(f"set {name}: {wanted}, or n_negatives: 0.")


@pytest.mark.parametrize("value", [{}, {"max_nrm": 1.0}, {"max_norm": 1.0, "norm": 2}])
def test_clipping_needs_a_norm(build: Builder, value: Any) -> None:
    with pytest.raises(ConfigError, match="^clip_grad_norm: .* is not allowed; it must have max_norm"):
        build(dataset="not-there", clip_grad_norm=value)


def test_something_must_say_how_beta_rises(build: Builder) -> None:
    with pytest.raises(ConfigError, match="^anneal_epochs and total_anneal_steps are both ~"):
        build(dataset="not-there", anneal_epochs=None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"stopping_step": 1},
            "stopping_step: 1 is too few for anneal_cap: auto, .* it must be >= 2, or anneal_cap a number",
        ),
        ({"eval_step": 0}, "eval_step: 0 is too few for anneal_cap: auto, .* it must be >= 1, or anneal_cap a number"),
    ],
)
def test_beta_cannot_be_chosen_without_enough_evaluations(
    build: Builder, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        build(dataset="not-there", anneal_cap="auto", **options)
    build(anneal_cap="auto", stopping_step=2)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("dropuot_prob", "dropout_prob"),
        ("latent_dim", "latent_dimension"),
        ("total_annealing_steps", "total_anneal_steps"),
        ("anneal_epoch", "anneal_epochs"),
        ("learning_rat", "learning_rate"),
        ("epoch", "epochs"),
        ("valuefield", "value_field"),
        ("use_gpuu", "use_gpu"),
    ],
)
def test_a_misspelt_name_is_refused(build: Builder, name: str, meant: str) -> None:
    with pytest.raises(ConfigError) as error:
        build(dataset="not-there", **{name: 1})
    assert (
        str(error.value) == f"{name} (config_dict): neither MultVAE nor RecBole has this option. Did you mean {meant}?"
    )


@pytest.mark.parametrize(
    ("name", "meant"),
    [("dropout", "dropout_prob"), ("hidden_size", "mlp_hidden_size"), ("latent_dim", "latent_dimension")],
)
def test_an_option_of_another_model_on_the_command_line_is_a_mistake(
    build: Builder, monkeypatch: pytest.MonkeyPatch, name: str, meant: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["run", f"--{name}=0.1"])
    with command_line.ours(), pytest.raises(ConfigError, match=rf"^{name} \(command line\): .* Did you mean {meant}\?"):
        build(dataset="not-there")


def test_an_option_that_nobody_has_on_the_command_line_is_a_mistake(
    build: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["run", "--qqq=0.1"])
    with (
        command_line.ours(),
        pytest.raises(
            ConfigError,
            match=r"^qqq \(command line\): neither MultVAE nor RecBole has this option. The model's options are in",
        ),
    ):
        build(dataset="not-there")


def test_whole_floats_are_passed_on_as_integers(build: Builder) -> None:
    run = build(epochs=2.0, train_batch_size=1.6e1, eval_batch_size=4e6, seed=1.0)
    assert [type(run.config[name]) for name in ("epochs", "train_batch_size", "eval_batch_size", "seed")] == [int] * 4
    run.fit()


@pytest.mark.parametrize(
    ("model", "name", "meant"),
    [
        ("MultVAE", "dropout", "dropout_prob"),
        ("MultVAE", "hidden_size", "mlp_hidden_size"),
        ("MultVAE", "beta", "anneal_cap"),
        ("MultVAE", "lr", "learning_rate"),
        ("MultVAE", "batch_size", "train_batch_size"),
        ("MultVAE", "patience", "stopping_step"),
        ("MultVAE", "neg_sampling", "train_neg_sample_args"),
        ("CompositeVAE", "mlp_hidden_size", "hidden_size"),
        ("BPR", "hidden_size", "embedding_size"),
        ("BPR", "embeding_size", "embedding_size"),
        ("BPR", "lr", "learning_rate"),
        ("EASE", "regweight", "reg_weight"),
        ("MultiVAE", "dropout", "dropout_prob"),
    ],
)
@pytest.mark.parametrize("place", ["config_dict", "a.yaml, line 2", "command line"])
def test_what_others_call_an_option_is_refused_everywhere(
    place: str, model: str, name: str, meant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from recbole.config import Config

    given: dict[str, Any] = {}
    if place == "config_dict":
        given["config_dict"] = {name: 1}
    elif place == "command line":
        monkeypatch.setattr(sys, "argv", ["run", f"--{name}=1"])
    else:
        Path("a.yaml").write_text(f"epochs: 1\n{name}: 1\n")
        given["config_file_list"] = ["a.yaml"]
    with pytest.raises(ConfigError) as error, command_line.ours():
        Config(model=model, dataset="not-there", **given)
    assert str(error.value) == f"{name} ({place}): neither {model} nor RecBole has this option. Did you mean {meant}?"


@pytest.mark.parametrize("model", ["MultVAE", "BPR", "EASE", "Pop"])
def test_an_option_that_nobody_has_is_refused(build: Builder, model: str) -> None:
    with pytest.raises(
        ConfigError,
        match=rf"^qqq \(config_dict\): neither {model} nor RecBole has this option. The model's options are in",
    ):
        build(model, dataset="not-there", qqq=0.1)


@pytest.mark.parametrize("model", ["EASE", "BPR", "SASRec"])
@pytest.mark.parametrize(
    ("name", "key", "said"),
    [
        ("eval_args", "splt", "did you mean split? There are split, group_by, order, mode."),
        ("eval_args", "fold_in", "There are split, group_by, order, mode."),
        ("train_neg_sample_args", "sample_nums", "did you mean sample_num? There are distribution, sample_num, alpha,"),
    ],
)
def test_a_key_without_effect_is_refused_for_recboles_models(model: str, name: str, key: str, said: str) -> None:
    from recbole.config import Config

    with pytest.raises(ConfigError) as error:
        Config(model=model, dataset="not-there", config_dict={name: {key: 1}})
    assert str(error.value).startswith(f"{name}: the key '{key}' (config_dict) has no effect")
    assert said in str(error.value)


def test_a_file_may_serve_several_models(build: Builder, caplog: pytest.LogCaptureFixture) -> None:
    """What another model has is let through, and said; also another's name for an option that is set by its own name."""
    from recbole.quick_start import run_recbole

    shared = {"embedding_size": 64, "n_layers": 3, "dropout": 0.1, "dropout_prob": 0.2, "encoding": "utf-8"}
    config = build(**shared).config
    assert config.ignored_options == ["dropout", "embedding_size", "n_layers"]
    assert config["dropout_prob"] == 0.2
    options = {**OPTIONS, **shared, "data_path": "data"}
    run_recbole(model="EASE", dataset="tiny", config_dict=options, saved=False)
    names = "dropout, dropout_prob, embedding_size, latent_dimension, mlp_hidden_size, n_layers, precision"
    assert f"Without effect, as EASE has no such option: {names}." in caplog.messages


@pytest.mark.parametrize("model", sorted({*recbole_model_names()} - {"Random"}))  # which has no options
def test_all_options_of_recboles_models_are_known(model: str) -> None:
    """The options of RecBole's own files, of the model and of all."""
    known = options_of(model)
    for file in (*([f"model/{model}"] if model != "Random" else []), "overall", "dataset/sample"):
        content = yaml.safe_load((recbole_folder() / "properties" / f"{file}.yaml").read_text(encoding="utf-8")) or {}
        assert set(content) <= known


def test_options_that_are_in_no_file_are_known(build: Builder) -> None:
    """RecBole's ItemKNN and AsymKNN read some that have their default in the source."""
    assert build("ItemKNN", shrink=3.0).model.shrink == 3.0
    assert build("AsymKNN", alpha=0.25, q=2).model.q == 2


@pytest.mark.parametrize("model", ["MultVAE", "EASE"])
def test_what_a_checkpoint_records_may_be_given_again(build: Builder, model: str) -> None:
    first = plain_config(build(model).config)
    again = build(**first)
    assert plain_config(again.config) == first


@pytest.mark.parametrize("how", [None, "None"])
@pytest.mark.parametrize("model", ["BPR", "LightGCN", "SimpleX", "SGL"])
def test_a_model_that_learns_from_negatives_refuses_to_have_none(model: str, how: Any) -> None:
    from recbole.config import Config

    with pytest.raises(
        ConfigError, match=f"^train_neg_sample_args: .*must be a mapping .* {model} learns from negative"
    ):
        Config(model=model, dataset="ml-100k", config_dict={"train_neg_sample_args": how})
    for other in ("EASE", "Pop", "MultiVAE", "NeuMF"):
        Config(model=other, dataset="ml-100k", config_dict={"train_neg_sample_args": how})


@pytest.mark.parametrize("model", ["MultVAE", "EASE", "Pop"])
def test_none_as_a_word_is_none(model: str) -> None:
    from recbole.config import Config

    Path("a.yaml").write_text("train_neg_sample_args: None\nclip_grad_norm: None\nbenchmark_filename: None\n")
    config = Config(model=model, dataset="not-there", config_file_list=["a.yaml"])
    assert config["train_neg_sample_args"]["distribution"] == "none"
    assert (config["clip_grad_norm"], config["benchmark_filename"]) == (None, None)


def test_one_config_file_may_be_named_by_a_word() -> None:
    from recbole.config import Config

    Path("p.yaml").write_text("epochs: 3\n")
    assert Config(model="MultVAE", dataset="x", config_file_list="p.yaml")["epochs"] == 3
    assert Config(model="EASE", dataset="x", config_file_list=Path("p.yaml"))["epochs"] == 3


@pytest.mark.parametrize("model", ["MultVAE", "EASE"])
def test_columns_may_be_named_that_are_not_loaded(build: Builder, model: str) -> None:
    rows = [(user, item, 3, 7) for user, item in random_rows()]
    folder = write_inter(rows, columns="user_id:token\titem_id:token\trating:float\tnote:token")
    loaded = build(model, "tiny", data_path=folder, unload_col={"inter": ["note"]}).dataset.inter_feat
    assert list(loaded.columns) == ["user_id", "item_id", "rating"]
    with pytest.raises(ConfigError, match=r"^unload_col: inter \(config_dict\): load_col already says which columns"):
        build(model, "tiny", unload_col={"inter": ["note"]}, load_col={"inter": ["user_id", "item_id"]})
    with pytest.raises(
        ConfigError, match=r"^unload_col: \['note'\] \(config_dict\) is not allowed; it must be a mapping"
    ):
        build(model, "tiny", unload_col=["note"])


def test_the_place_of_a_mistake_is_named(build: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    from recbole.config import Config

    Path("a.yaml").write_text("epochs: 3\n\ndropout_prob: 7\n")
    Path("b.yaml").write_text("epochs: 3\n'latent_dimension': 5\n")
    files = ["a.yaml", "b.yaml"]
    with pytest.raises(ConfigError, match=r"^dropout_prob: 7 \(a.yaml, line 3\) is not allowed"):
        Config(model="MultVAE", dataset="x", config_file_list=files)
    monkeypatch.setattr(sys, "argv", ["run", "--dropout_prob=8"])
    with pytest.raises(ConfigError, match=r"^dropout_prob: 8 \(command line\) is not allowed"):
        Config(model="MultVAE", dataset="x", config_file_list=files)
    Path("b.yaml").write_text("dropout_prob: 0.1\nlatent_dimensoin: 5\n")
    monkeypatch.setattr(sys, "argv", ["run"])
    with pytest.raises(ConfigError, match=r"^latent_dimensoin \(b.yaml, line 2\): .* Did you mean latent_dimension\?"):
        Config(model="MultVAE", dataset="x", config_file_list=files)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("epochs: 3\n  bad: [1\n", r"^c.yaml, line \d: not valid YAML"),
        ("- a\n- b\n", "^c.yaml: a config file must consist of lines 'option: value'"),
        ("", "^c.yaml: a config file must consist of lines 'option: value'"),
        (None, "^c.yaml: cannot read this config file: No such file or directory"),
    ],
)
def test_a_bad_config_file_is_named(content: str | None, message: str) -> None:
    from recbole.config import Config

    if content is not None:
        Path("c.yaml").write_text(content)
    with pytest.raises(ConfigError, match=message):
        Config(model="MultVAE", dataset="x", config_file_list=["c.yaml"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": ["Recall", "NDGC"]}, "metrics .config_dict.: there is no metric 'ndgc'; did you mean ndcg?"),
        ({"metrics": ["xyz"]}, "metrics .config_dict.: there is no metric 'xyz'. There are: .*recall"),
        (
            {"metrics": ["GiniIndex"], "fast_evaluation": False},
            "metrics .config_dict.: RecBole cannot compute 'giniindex' as it is defined; fast_evaluation: True can",
        ),
        (
            {"valid_metric": "NDCG@7"},
            "valid_metric: 'NDCG@7' .config_dict. is not measured; measured are recall@10, .*, precision@10. Set valid_metric to",
        ),
        (
            {"valid_metric": "NDCG"},
            "valid_metric: 'NDCG' .config_dict. is not measured; measured are recall@10, .*, precision@10. Set valid_metric to",
        ),
        ({"valid_metric": "MAP@10"}, "valid_metric: 'MAP@10' .config_dict. is not measured"),
        ({"topk": 0}, "topk: 0 .config_dict. is not allowed; it must be an integer >= 1, or a list"),
        ({"topk": "x"}, "topk: 'x' .config_dict. is not allowed"),
        ({"topk": []}, "topk: .* is not allowed"),
    ],
)
def test_metrics_that_cannot_be_measured_are_refused(build: Builder, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        build(dataset="not-there", **options)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("full", r"eval_args: 'full' \(config_dict\) is not allowed; it must be a mapping such as \{split"),
        (
            {"splt": {}},
            "eval_args: the key 'splt' .config_dict. is not allowed; it must be one of split, group_by, order, mode",
        ),
        ({"split": None}, r"eval_args: split: None .config_dict. is not allowed; it must be \{RS"),
        (
            {"split": {"RS": [0.8, 0.2]}},
            r"eval_args: split: RS: \[0.8, 0.2\] .config_dict. is not allowed; it must be three",
        ),
        ({"split": {"RS": [0, 0.5, 0.5]}}, "eval_args: split: RS: .* the first > 0"),
        ({"split": {"RS": [0.8, 0.1, "x"]}}, "eval_args: split: RS: "),
        (
            {"split": {"LS": "all"}},
            "eval_args: split: LS: 'all' .config_dict. is not allowed; it must be valid_and_test",
        ),
        ({"split": {"XS": [1, 1, 1]}}, "eval_args: split: .* is not allowed"),
        ({"split": {"RS": [8, 1, 1], "LS": "test_only"}}, "eval_args: split: .* is not allowed"),
        ({"group_by": "item"}, "eval_args: group_by: 'item' .config_dict. is not allowed; it must be user or none"),
        ({"order": "random"}, r"eval_args: order: 'random' .config_dict. is not allowed; it must be RO"),
        ({"mode": "ful"}, "eval_args: mode: 'ful' .config_dict. is not allowed; it must be full, uniN"),
        ({"mode": "uni"}, "eval_args: mode: 'uni' .config_dict. is not allowed"),
        ({"mode": {"valid": "full", "test": "x"}}, "eval_args: mode: .* is not allowed"),
        ({"mode": "labeled"}, "eval_args: mode: 'labeled' .*; it must be full, uniN or popN for metrics of a ranking"),
        ({"split": {"RS": [float("inf"), 1, 1]}}, "eval_args: split: RS: "),
    ],
)
def test_eval_args_that_recbole_cannot_use_are_refused(build: Builder, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(dataset="not-there", eval_args=value)


@pytest.mark.parametrize(
    "value",
    [
        {"split": {"RS": [8, 1, 1]}, "group_by": "none", "order": "RO", "mode": "uni5"},
        {"split": {"LS": "valid_and_test"}, "order": "RO", "mode": {"valid": "uni5", "test": "full"}},
        {"mode": "full"},
        {"group_by": "None"},
    ],
)
def test_eval_args_that_recbole_can_use_are_taken(build: Builder, value: Any) -> None:
    build(eval_args=value).fit()


@pytest.mark.parametrize(
    "value", ["inter", {"inter": "user_id"}, {"inter": [1]}, [["user_id"]], {"inter": None}, {"itner": ["user_id"]}]
)
def test_a_malformed_load_col_is_refused(build: Builder, value: Any) -> None:
    with pytest.raises(ConfigError, match="load_col: .* is not allowed; it must be the columns of each file"):
        build(dataset="not-there", load_col=value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"user_inter_num_interval": 17},
            r"user_inter_num_interval: 17 \(config_dict\) is not .* such as \"\[5,inf\)\"",
        ),
        ({"item_inter_num_interval": "[5,1]"}, "item_inter_num_interval: .* is not allowed"),
        ({"val_interval": "[3,inf)"}, "val_interval: .* must be a mapping such as"),
        ({"val_interval": {"rating": "3,inf"}}, "val_interval: rating: '3,inf' .* is not allowed"),
        ({"val_interval": {"rating": "[a,b]"}}, "val_interval: rating: .* is not allowed"),
        ({"metrics": []}, "metrics: .* must be a list of metrics"),
        ({"metrics": ["AUC", "NDCG"]}, "metrics: .* either metrics of a ranking or metrics of values"),
        ({"metrics": ["AUC"], "valid_metric": "AUC"}, "eval_args: mode: 'full' is not allowed; it must be uniN"),
        ({"benchmark_filename": "train"}, "benchmark_filename: 'train' .* the three parts"),
        ({"benchmark_filename": ["train", "test"]}, "benchmark_filename: .* the three parts"),
        (
            {"benchmark_filename": ["a", "b", "c"], "val_interval": {"rating": "[3,inf)"}},
            r"val_interval \(config_dict\): RecBole filters nothing where benchmark_filename is given",
        ),
    ],
)
def test_options_of_the_data_that_recbole_ignores_or_crashes_on_are_refused(
    build: Builder, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build(dataset="not-there", **options)


def test_a_place_is_named_for_mistakes_inside_of_recboles_options(monkeypatch: pytest.MonkeyPatch) -> None:
    from recbole.config import Config

    Path("e.yaml").write_text("epochs: 1\neval_args: {splt: 1}\n")
    with pytest.raises(ConfigError, match=r"^eval_args: the key 'splt' \(e.yaml, line 2\) is not allowed"):
        Config(model="MultVAE", dataset="x", config_file_list=["e.yaml"])
    monkeypatch.setattr(sys, "argv", ["run", "--topk=0"])
    with pytest.raises(ConfigError, match=r"^topk: 0 \(command line\) is not allowed"):
        Config(model="MultVAE", dataset="x")


@pytest.mark.parametrize("model", ["MultVAE", "EASE"])
def test_the_columns_that_are_used_are_loaded(build: Builder, model: str) -> None:
    rows = [(*row, 4.0, n) for n, row in enumerate(random_rows())]
    path = write_inter(rows, columns="who:token\twhat:token\tstars:float\twhen:float", folder="other")
    config = build(
        model, data_path=path, dataset="tiny", USER_ID_FIELD="who", ITEM_ID_FIELD="what", TIME_FIELD="when", value_field="stars",
        eval_args={"order": "TO"},
    ).config  # fmt: skip
    assert config["load_col"] == {"inter": ["who", "what", "stars", "when"]}


def test_a_tuple_of_k_is_a_list(build: Builder) -> None:
    assert build(topk=(5, 10)).config["topk"] == [5, 10]


def test_a_missing_checkpoint_is_named(build: Builder) -> None:
    with pytest.raises(CheckpointError, match="gone.pth: there is no such checkpoint"):
        build(resume="gone.pth")


def test_whole_floats_and_tuples_are_taken() -> None:
    values: dict[str, Any] = {
        "epochs": 3.0, "eval_step": 0, "learner": "adam", "learning_rate": 1, "clip_grad_norm": None, "seed": np.int64(1),
        "mlp_hidden_size": (600, 1e2), "latent_dimension": 2e2, "dropout_prob": np.float32(0.25), "enable_amp": False,
        "enable_scaler": False, "use_gpu": False, "show_progress": True, "reproducibility": True,
    }  # fmt: skip
    options = MLPConfig.read(values)
    assert options.epochs == 3
    assert options.latent_dimension == 200
    assert options.mlp_hidden_size == [600, 100]
    assert options.value_field is None
    found = (options.seed, options.dropout_prob, options.learning_rate, *options.mlp_hidden_size)
    assert [type(each) for each in found] == [int, float, float, int, int]
    del values["epochs"]
    with pytest.raises(ConfigError, match="^epochs: this option has neither a value nor a default"):
        MLPConfig.read(values)


class Limited(Strict):
    share: float = Field(0.5, ge=0, lt=1)
    number: int = 1


@given(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.lists(st.integers(), max_size=2)
    )
)
def test_what_passes_is_within_the_limits(value: Any) -> None:
    real = isinstance(value, int | float) and not isinstance(value, bool)
    for name, allowed in (("share", real and 0 <= value < 1), ("number", real and value % 1 == 0)):
        try:
            result = getattr(Limited.read({name: value}), name)
        except ConfigError:
            assert not allowed
        else:
            assert allowed
            assert result == value
            assert type(result) is type(getattr(Limited.read({}), name))


def test_validators_of_ones_own_give_the_reason() -> None:
    class Even(Strict):
        width: int = 2
        depth: int = 1

        @field_validator("width")
        @classmethod
        def _is_even(cls, width: int) -> int:
            if width % 2:
                raise ValueError("it must be even.")
            return width

        @model_validator(mode="after")
        def _is_flat(self) -> Even:
            if self.depth > self.width:
                raise ValueError("depth is more than width.")
            return self

    with pytest.raises(ConfigError, match=r"^width: 3 \(line 1\) is not allowed; it must be even\.$"):
        Even.read({"width": 3}, lambda key: "line 1")
    with pytest.raises(ConfigError, match=r"^depth is more than width\.$"):
        Even.read({"depth": 3})


def test_names_far_from_all_others_are_not_near() -> None:
    assert near("qqq", ["latent_dimension", "epochs"]) is None
    assert near("multvae", ["MultVAE", "MultDAE"]) == "MultVAE"


@pytest.mark.parametrize("path", yaml_files.texts())
def test_the_yaml_files_are_those_of_the_fields(path: str) -> None:
    text = (properties_folder() / path).read_text(encoding="utf-8")
    assert text == yaml_files.texts()[path], "write them anew: python -m recbole_vae.model.yaml_files"


@pytest.mark.parametrize("name", ["overall", *BUILT_IN])
def test_recbole_reads_the_defaults_from_the_yaml_files(build: Builder, name: str) -> None:
    model = model_class(name)
    defaults = (model.config_class if model else ModelConfig).defaults()
    path = "overall.yaml" if model is None else f"model/{name}.yaml"
    text = (properties_folder() / path).read_text(encoding="utf-8")
    content = yaml.load(text, Loader=build().config.yaml_loader)
    assert content
    assert {option: repr(value) for option, value in content.items()} == {
        option: repr(defaults[option]) for option in content
    }
    assert len(re.findall(r"^\w+: .+# \(.+\) \w+", text, re.MULTILINE)) == len(content)


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_defaults_are_allowed_and_of_their_types(name: str) -> None:
    model = model_class(name)
    assert model is not None
    defaults = model.config_class.defaults()
    options = model.config_class.read({**recbole_defaults(), **defaults})
    assert {each: repr(getattr(options, each)) for each in defaults} == {
        each: repr(value) for each, value in defaults.items()
    }


def test_recbole_gives_what_has_no_default_here() -> None:
    assert set(ModelConfig.names()) - set(ModelConfig.defaults()) <= set(recbole_defaults())


def test_the_names_of_activations_are_those_that_there_are() -> None:
    assert MLPConfig.schemas()["activation"]["enum"] == list(ACTIVATIONS)


@pytest.mark.parametrize("visible", [None, "3"])
def test_without_a_gpu_a_run_leaves_no_trace_on_later_ones(
    build: Builder, visible: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RecBole hides the GPUs by a variable, which outlives the run."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    run = build(use_gpu=False, epochs=1)
    assert run.config["device"] == torch.device("cpu")
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == visible
    run.fit()
    again = build(resume=run.trainer.saved_model_file, use_gpu=True)
    assert (again.config["use_gpu"], again.config["gpu_id"]) == (True, visible or "0")


@pytest.mark.parametrize("model", ["MultVAE", "BPR", "Pop"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"normalize_field": 5}, "normalize_field: 5"),
        ({"numerical_features": {"a": 1}}, "numerical_features: {'a': 1}"),
        ({"discretization": 1.5}, "discretization: 1.5"),
        ({"RATING_FIELD": {}}, "RATING_FIELD: {}"),
        ({"field_separator": 7}, "field_separator: 7"),
        ({"rm_dup_inter": " "}, "rm_dup_inter: ' '"),
        ({"unload_col": 22}, "unload_col: 22"),
        ({"additional_feat_suffix": [["x"]]}, r"additional_feat_suffix: \[\['x'\]\]"),
        ({"eval_batch_size": math.nan}, "eval_batch_size: nan"),
        ({"benchmark_filename": [1, 2]}, r"benchmark_filename: \[1, 2\]"),
    ],
)
def test_an_option_of_recboles_of_another_kind_is_named(build: Builder, model: str, options: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{message} \(config_dict\) is not allowed; it must be "):
        build(model, **options)


@pytest.mark.parametrize("model", ["MultVAE", "BPR"])
def test_what_python_people_give_for_texts_and_numbers_is_taken(build: Builder, model: str) -> None:
    run = build(
        model, data_path=Path(write_inter(random_rows())), dataset="tiny", checkpoint_dir=Path("there"),
        topk=np.array([5, 10]), metrics=("Recall", "NDCG"), seed=np.int64(3), epochs=1,
    )  # fmt: skip
    run.fit()
    assert run.config["topk"] == [5, 10]
    assert [type(each) for each in run.config["topk"]] == [int, int]
    assert list(Path("there").glob(f"{model}-*.pth"))
    assert build(model, topk=[np.int64(5)], valid_metric="Recall@5").config["topk"] == [5]


@pytest.mark.parametrize("option", ["exact_ids", "exact_metrics", "exact_time", "fast_evaluation"])
@pytest.mark.parametrize("model", ["MultVAE", "BPR", "FM"])
def test_a_switch_of_ours_is_checked_for_all_models(build: Builder, model: str, option: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{option}: 'off' .* must be True or False"):
        build(model, **{option: "off"})


def test_sequential_models_have_the_options_of_transformations() -> None:
    for option in ("eta", "mask_ratio", "MASK_INDEX", "CROP_ITEM_SEQ"):
        assert option in options_of("SASRec")
        assert option not in options_of("BPR")


@pytest.mark.parametrize("entries", [["a", "b:text"], "a,b:text"])
def test_item_features_may_be_written_as_a_list_or_with_commas(entries: Any) -> None:
    assert ModelConfig.read({**recbole_defaults(), "item_features": entries}).item_features == ["a", "b:text"]


@pytest.mark.parametrize("entries", [["a", "a"], "a,,b", 5, [1], {"a": 1}])
def test_other_item_features_are_refused(entries: Any) -> None:
    with pytest.raises(ConfigError, match="item_features: .* is not allowed; it must be a list"):
        ModelConfig.read({**recbole_defaults(), "item_features": entries})


def test_an_option_of_another_model_is_said_to_be_that(monkeypatch: pytest.MonkeyPatch) -> None:
    from recbole.config import Config

    monkeypatch.setattr(sys, "argv", ["run", "--user_features=age"])
    for model in ("MultDAE", "EASE"):
        with pytest.raises(ConfigError) as error, command_line.ours():
            Config(model=model, dataset="not-there")
        said = f"user_features (command line): {model} has no such option; MultVAE and HybridVAE have it."
        assert str(error.value) == said
