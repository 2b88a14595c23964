from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from recbole_vae.cli.main import main
from recbole_vae.compare import plan, tuning
from recbole_vae.errors import ConfigError
from recbole_vae.options.recbole import recbole_model_names
from tests.conftest import random_rows, write_inter

WHOLE = """\
rows:
  - EASE
  - {model: EASE, label: weak, settings: {reg_weight: 1e1}}
datasets:
  tiny: {data_path: data}
protocols:
  random: {}
  by time: {eval_args: {split: {LS: valid_and_test}, order: TO}}
settings: {epochs: 4}
seeds: [3, 5]
metrics: [NDCG, Recall]
topk: [5, 10]
reference: weak
alpha: 0.01
"""


def read(text: str | None = None, **options: str) -> plan.Plan:
    if text is None:
        return plan.read(None, options)
    Path("plan.yaml").write_text(text, encoding="utf-8")
    return plan.read("plan.yaml", options)


def test_a_plan_says_everything_and_the_command_line_stands_above_it() -> None:
    write_inter(random_rows())
    got = read(WHOLE, seeds="2", topk="5", epochs="7", learning_rate="1e-4", primary="Recall@5")
    assert [row.label for row in got.rows] == ["EASE", "weak"]
    assert got.rows[1].settings == {"reg_weight": 10.0}
    assert got.seeds == [2020, 2021]
    assert got.settings == {"epochs": 4, "stopping_step": 50, "eval_step": 1}
    assert got.options == {"epochs": 7, "learning_rate": 1e-4}
    assert (got.columns, got.primary) == (["ndcg@5", "recall@5"], "Recall@5")
    job = got.job("tiny", "by time", got.rows[1], 2021, {"reg_weight": 3.0})
    assert job["settings"]["eval_args"]["order"] == "TO"
    assert job["settings"]["reg_weight"] == 3.0
    assert job["settings"]["epochs"] == 7
    above = read("rows: [{model: MultDAE, settings: {epochs: 2}}]\n", epochs="1")
    assert above.job("ml-100k", "default", above.rows[0], 0, {"epochs": 3})["settings"]["epochs"] == 1
    assert len(got.cells()) == 4
    again = read(yaml.safe_dump(got.plain()))
    assert again.plain() == got.plain()


def test_a_budget_of_tuning_is_trials_or_time() -> None:
    with pytest.raises(ConfigError) as caught:
        read("trials: 3\ntuning_time: 60\n")
    said = "trials (plan.yaml, line 1) and tuning_time (plan.yaml, line 2) cannot be given together"
    assert str(caught.value).startswith(said)
    with pytest.raises(
        ConfigError, match=r"tuning_time: 0 \(plan.yaml, line 1\) is not allowed; it must be a number > 0"
    ):
        read("tuning_time: 0\n")
    budgets: list[tuple[dict[str, str], tuple[int, float | None]]] = [
        ({}, (0, 60)), ({"trials": "3"}, (3, None)), ({"trials": "0"}, (0, None)), ({"tuning_time": "5.5"}, (0, 5.5)),
    ]  # fmt: skip
    for options, expected in budgets:  # the command line stands above the file
        got = read("tuning_time: 60\n", **options)
        assert (got.trials, got.tuning_time) == expected
        assert got.tuned == (expected != (0, None))
        assert read(yaml.safe_dump(got.plain())).identity() == got.identity()
    assert read("trials: 3\n", tuning_time="60").trials == 0


def test_a_column_stands_once() -> None:
    got = read(metrics="Recall,recall,NDCG", topk="[10, 5, 10]")
    assert got.columns == ["recall@10", "recall@5", "ndcg@10", "ndcg@5"]


def test_what_is_none_in_the_file_has_its_default() -> None:
    keys = ("settings", "protocols", "seeds", "alpha", "rows")
    assert read("".join(f"{key}: ~\n" for key in keys)).plain() == read().plain()


@pytest.mark.parametrize("key", ["models", "rows", "seeds", "dataset", "settings"])
def test_nothing_on_the_command_line_is_no_default(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{key}: None \(command line\) is not allowed; it must be a"):
        read(**{key: ""})


def test_what_only_a_choice_among_trials_settles_is_not_refused() -> None:
    """tied_weights needs a hidden layer, which a search space may give."""
    assert read(models="MultVAE", tied_weights="True").options == {"tied_weights": True}


def test_defaults() -> None:
    got = read(models="MultDAE,BPR")
    assert (got.seeds, got.primary, got.topk, got.max_k) == ([2020], "NDCG@10", [10], 50)
    assert list(got.datasets) == ["ml-100k"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"models": "MultVEA"}, "did you mean MultVAE"),
        ({"models": "EASE,EASE"}, "same 'EASE'"),
        ({"seeds": "0"}, "seeds: '0' (command line)"),
        ({"seeds": "[1,1]"}, "different integers"),
        ({"metrics": "Recal,NDCG"}, "did you mean recall"),
        ({"metrics": "AUC"}, "there is no metric 'auc'"),
        ({"primary": "NDCG@7"}, "is not measured"),
        ({"epoch": "3"}, "did you mean epochs"),
        ({"epochs": "abc"}, "epochs: 'abc' (command line) is not allowed; it must be an integer"),
        ({"learning_rate": "[1]"}, "learning_rate: [1] (command line) is not allowed; it must be a number"),
        ({"reproducibility": "3"}, "reproducibility: 3 (command line) is not allowed; it must be True or False"),
        ({"seed": "3"}, "use seeds"),
        ({"dataset": "nowhere"}, "there is no file dataset/nowhere/nowhere.inter"),
        ({"reference": "BPR"}, "the label of a row: MultVAE, MultDAE"),
        ({"alpha": "5"}, "< 1"),
        ({"jobs": "0"}, "an integer >= 1"),
        ({"max_k": "5"}, "an integer >= 10"),
        ({"eval_args": "{'split': {'RS': [8, 1, 1]}, 'mode': 'uni100'}"}, "a ranking among sampled items"),
        ({"valid_metric": "MRR@10"}, "the primary metric"),
        ({"imports": "no_such_module"}, "cannot import no_such_module"),
        ({"jobs": "True"}, "jobs: 'True' (command line) is not allowed; it must be an integer >= 1"),
        ({"topk": "[]"}, "topk: '[]' (command line) is not allowed; it must be an integer >= 1"),
        ({"time_limit": "0"}, "time_limit: '0' (command line) is not allowed; it must be a number > 0"),
        ({"clip_grad_norm": "{max_nrm: 1}"}, "(command line) is not allowed; it must have max_norm"),
        ({"config": "none.yaml", "out": "o"}, "cannot read"),
    ],
)
def test_bad_options_are_one_line_and_status_2(
    options: dict[str, str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [f"--{name}={value}" for name, value in {"out": "o", **options}.items()]
    assert main(["compare", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not Path("o").exists()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("seeds:", "seedz:", "seedz (plan.yaml, line 10): a plan has no such key. Did you mean seeds"),
        ("label:", "lable:", "lable (plan.yaml, line 3): a row has no such key; did you mean label"),
        (
            "label: weak",
            "label: off",
            "label: False (plan.yaml, line 3) is not allowed; it must be text; put it in quotes.",
        ),
        ("epochs", "epohcs", "epohcs (plan.yaml, line 9)"),
        (
            "epochs",
            "trails",
            "trails (plan.yaml, line 9): neither compare nor RecBole nor a model has this option; did you",
        ),
        ("alpha: 0.01", "alpha: 5", "alpha: 5 (plan.yaml, line 14) is not allowed; it must be a number > 0 and < 1."),
        (
            "reference: weak",
            "reference: W",
            "(plan.yaml, line 13) is not allowed; it must be the label of a row: EASE, weak.",
        ),
        ("reg_weight", "reg_wieght", "reg_wieght (plan.yaml, line 3)"),
        ("[3, 5]", "[3, 5", "plan.yaml, line 11: not valid YAML"),
        ("order: TO", "order: XX", "order: 'XX' (plan.yaml, line 8"),
        ("LS: valid", "XS: valid", "split"),
        ("settings: {epochs: 4}", "settings: {epochs: 4, metrics: [MRR]}", "metrics (plan.yaml, line 9 or 11)"),
        ("settings: {epochs: 4}", "settings: &all {epochs: 4, more: *all}", "more (plan.yaml, line 9)"),
        ("alpha:", "# scheduler: none\nscheduler: 8786\nalpha:", "scheduler: 8786 (plan.yaml, line 15) is not allowed"),
        (
            "{model: EASE, label: weak, settings: {reg_weight: 1e1}}\n",
            "{model: EASE, label: 'reg_wight: 1', settings: {reg_wight: 1}}\n  - {model: EASE, settings: {reg_wight: 2}}\n",
            "reg_wight (plan.yaml, line 3 or 4)",
        ),
        ("alpha", "topk", "'topk' stands twice"),
        ("{reg_weight: 1e1}", "{data_path: x}", "must be the same for all rows"),
        ("{reg_weight: 1e1}", "{repeatable: True}", "repeatable (plan.yaml, line 3) must be the same for all rows"),
        ("{reg_weight: 1e1}", "{exact_ids: False}", "exact_ids (plan.yaml, line 3) must be the same for all rows"),
        ("{reg_weight: 1e1}", "{encoding: latin-1}", "must be the same for all rows"),
        ("{reg_weight: 1e1}", '{item_inter_num_interval: "[2,inf)"}', "must be the same for all rows"),
        (
            "{model: EASE, label: weak, settings: {reg_weight: 1e1}}\n",
            "{model: EASE, label: weak, settings: {valid_metric: MRR@5}}\n  - BPR\n",
            "valid_metric: 'MRR@5' (plan.yaml, line 3)",
        ),
        (
            "  - EASE\n",
            "  - EASE\n  - {model: MultVAE, settings: {anneal_cap: slow}}\n",
            "anneal_cap: 'slow' (plan.yaml, line 3) is not allowed; it must be a number >= 0, or auto.",
        ),
    ],
)
def test_bad_files_are_named_with_the_line(old: str, new: str, said: str) -> None:
    write_inter(random_rows())
    assert old in WHOLE
    with pytest.raises(ConfigError) as caught:
        read(WHOLE.replace(old, new, 1))
    assert said in str(caught.value)


def test_values_are_those_that_the_models_of_the_plan_may_have() -> None:
    for rows, of_all in (("[MultVAE]", "{dropout_prob: 1}"), ("[{model: MultVAE, settings: {dropout_prob: 1}}]", "{}")):
        with pytest.raises(
            ConfigError, match=r"^dropout_prob: 1 \(plan.yaml, line .\) is not allowed; it must be a number >= 0"
        ):
            read(f"rows: {rows}\nsettings: {of_all}\n")
    with pytest.raises(
        ConfigError, match=r"^latent_dimension: 'x' \(command line\) is not allowed; it must be an integer >= 1"
    ):
        read(models="MultVAE,EASE", latent_dimension="x")
    as_recbole_reads_them = (
        "{latent_dimension: '200', mlp_hidden_size: '[600]', anneal_epochs: None, tied_weights: 'True'}"
    )
    assert read(f"rows: [MultVAE]\nsettings: {as_recbole_reads_them}\n").settings["latent_dimension"] == "200"
    for wrong in ("tied_weights: 'yes'", "latent_dimension: '{[]: 1}'", "dropout_prob: '~'"):
        with pytest.raises(ConfigError, match=r"\(plan.yaml, line 2\) is not allowed"):
            read(f"rows: [MultVAE]\nsettings: {{{wrong}}}\n")
    assert read("rows: [EASE]\nsettings: {dropout_prob: 1}\n").settings["dropout_prob"] == 1


def test_a_name_may_have_a_comma(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--out=o", '--dataset="a,b"', "--models=EASE"]) == 2
    assert f"there is no file {Path('dataset/a,b/a,b.inter')}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "rows: [{model: MultVAE, settings: {dropout: 0.9}}]",
            "dropout (plan.yaml, line 1): neither compare nor RecBole nor MultVAE has this option; did you mean dropout_prob?",
        ),
        (
            "rows: [MultVAE, {model: EASE, settings: {dropout_prob: 0.9}}]",
            "dropout_prob (plan.yaml, line 1): neither compare nor RecBole nor EASE has this option.",
        ),
        (
            "rows: [BPR]\nsettings:\n  hidden_size: 3",
            "hidden_size (plan.yaml, line 3): neither compare nor RecBole nor a model has this option; "
            "did you mean embedding_size?",
        ),
        (
            "rows: [MultVAE, EASE]\nprotocols: {a: {beta: 0.3}}",
            "beta (plan.yaml, line 2): neither compare nor RecBole nor a model has this option; did you mean anneal_cap?",
        ),
        (
            "rows: [EASE]\ndatasets: {ml-100k: {qqq: 0.3}}",
            "qqq (plan.yaml, line 2): neither compare nor RecBole nor a model has this option.",
        ),
    ],
)
def test_a_setting_without_effect_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(text)
    assert str(error.value) == message


def test_a_setting_of_no_row_on_the_command_line_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"^dropout_prob \(command line\): neither compare nor RecBole nor a model has"
    ):
        read(models="EASE,Pop", dropout_prob="0.3")


@pytest.mark.parametrize(
    "space", ["rows: [{model: MultVAE, space: {SPACE}}]", "rows: [MultVAE]\nspaces: {MultVAE: {SPACE}}"]
)
def test_a_search_for_what_has_no_effect_is_refused(space: str) -> None:
    with pytest.raises(
        ConfigError,
        match=r"^hidden_size \((rows|spaces): .*, plan.yaml, line [12]\): .*nor MultVAE has this .*; did you mean mlp_hidden",
    ):
        read(space.replace("SPACE", "hidden_size: [[], [600]]"))


def test_each_row_has_the_settings_that_its_model_has() -> None:
    got = read("rows: [MultVAE, EASE, BPR]\nsettings: {dropout_prob: 0.3, reg_weight: 7.0}\n", embedding_size="8")
    jobs = {row.model: got.job("ml-100k", "default", row, 0)["settings"] for row in got.rows}
    of_all = {"epochs": 300, "stopping_step": 50, "eval_step": 1}
    assert jobs == {
        "MultVAE": {**of_all, "dropout_prob": 0.3}, "EASE": {**of_all, "reg_weight": 7.0}, "BPR": {**of_all, "embedding_size": 8},
    }  # fmt: skip
    assert [got.lacking("ml-100k", "default", row) for row in got.rows] == [
        ["embedding_size", "reg_weight"], ["dropout_prob", "embedding_size"], ["dropout_prob", "reg_weight"],
    ]  # fmt: skip


def test_out_in_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").write_text("")
    assert main(["compare", "--out=file/o"]) == 2
    assert "cannot make this folder" in capsys.readouterr().err
    assert main(["compare", "--models=EASE"]) == 2
    assert "--out (command line) is missing" in capsys.readouterr().err


def test_the_search_spaces_name_options_of_their_models() -> None:
    from recbole_vae.model.registry import model_names
    from recbole_vae.options.recbole import options_in, properties_folder

    names = [path.name.removesuffix(".yaml") for path in (properties_folder() / "hyper").iterdir()]
    assert (
        {"MultVAE", "MultDAE", "EASE", "LightGCN", "DiffRec"} <= set(names) <= {*model_names(), *recbole_model_names()}
    )
    for name in names:
        space = tuning.space_of(read(models=name), "ml-100k", "default", plan.PlanRow(name, name))
        if name not in model_names():
            own = options_in(f"model/{name}") | {"learning_rate", "weight_decay"}
            assert set(space) <= own, name
        assert space


@pytest.mark.parametrize(
    "space",
    [
        {"reg_wait": [1]},
        {"reg_weight": 3},
        {"reg_weight": {"from": 3}},
        {"reg_weight": {"from": 0, "to": 1, "log": True}},
        {"seed": [1, 2]},
        {"metrics": [["NDCG"]]},
        {"eval_args": [{}]},
        {"learning_rate": [0.1]},
    ],
)
def test_bad_spaces_are_refused(space: dict[str, object]) -> None:
    row = {"model": "EASE", "settings": {"learning_rate": 0.1}, "space": space}
    with pytest.raises(ConfigError, match=r"rows: EASE: space.*plan.yaml, line \d") as error:
        read(yaml.safe_dump({"rows": [row]}))
    lines = Path("plan.yaml").read_text().splitlines()
    named = [lines[int(number) - 1] for number in re.findall(r"line (\d+)|or (\d+)", str(error.value))[0] if number]
    assert any(next(iter(space)) in line for line in named)


def test_bad_spaces_of_the_plan_are_refused_with_their_line() -> None:
    with pytest.raises(ConfigError, match=r"^spaces: EASE \(plan.yaml, line 3\): a space must be a mapping"):
        read("rows: [EASE]\nspaces:\n  EASE: 3\n")
    with pytest.raises(
        ConfigError, match=r"^spaces: BPR \(plan.yaml, line 3\) is the model of no row; there are: EASE"
    ):
        read("rows: [EASE]\nspaces:\n  BPR: {embedding_size: [8]}\n")
    with pytest.raises(ConfigError, match=r"^rows: EASE: space \(plan.yaml, line 1\): a space must be a mapping"):
        read("rows: [{model: EASE, space: [1]}]\n")
    with pytest.raises(
        ConfigError, match=r"^spaces: EASE: seed \(command line\) cannot be tuned|^seed \(spaces: EASE, comm"
    ):
        read(models="EASE", spaces="{EASE: {seed: [1, 2]}}")
    with pytest.raises(ConfigError, match="^rows: EASE: space: weight_decay .* because the command line sets it"):
        read("rows: [{model: EASE, space: {weight_decay: [0.1]}}]\n", weight_decay="0.1")


@pytest.mark.parametrize(
    "place",
    ["settings: {}", "datasets: {{ml-100k: {}}}", "protocols: {{p: {}}}", "rows: [{{model: EASE, settings: {}}}]"],
)
def test_what_is_set_anywhere_is_not_searched_for(place: str) -> None:
    free = read("models: [EASE]\n")
    assert "reg_weight" in tuning.space_of(free, *free.cells()[0])
    for got in (
        read(f"{place.format('{reg_weight: 3.0}')}\n{'' if 'rows' in place else 'models: [EASE]'}\n"),
        read(models="EASE", reg_weight="3.0"),
    ):
        assert "reg_weight" not in tuning.space_of(got, *got.cells()[0])


def test_a_protocol_may_read_parts_of_its_own() -> None:
    """Where a data set is there in parts alone, it needs no whole file, unless another protocol reads that."""
    for part in ("train", "test"):
        write_inter([("a", part)], folder="data", part=part)
    text = (
        "datasets: {tiny: {data_path: data}}\nrows: [Pop]\nprotocols:\n  fixed: {benchmark_filename: [train, test]}\n"
    )
    read(text).check_to_run()
    for protocol, file in (
        ("fixed in three: {benchmark_filename: [train, valid, test]}", "tiny.valid.inter"),
        ("random: {eval_args: {split: {RS: [0.8, 0.1, 0.1]}, mode: full}}", "tiny.inter"),
    ):
        with pytest.raises(ConfigError, match=f"there is no file data/tiny/{re.escape(file)}"):
            read(f"{text}  {protocol}\n").check_to_run()
