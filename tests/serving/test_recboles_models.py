"""Recommendations from checkpoints of RecBole's own models: those that can score a history."""

from __future__ import annotations

import pickle
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import recbole_vae
from recbole_vae.analysis.explain import Explainer
from recbole_vae.cli.main import main
from recbole_vae.errors import CheckpointError, ConfigError
from recbole_vae.serving.recommender import Recommender
from tests.conftest import Builder, Run, random_rows, write_inter

OWN: dict[str, dict[str, Any]] = {
    "EASE": {"reg_weight": 10.0}, "ItemKNN": {"k": 5, "shrink": 0.0}, "Pop": {}, "NCEPLRec": {"rank": 5},
    "MultiVAE": {"latent_dimension": 8},
}  # fmt: skip


def states() -> Any:
    legacy: Any = np.random.get_state()
    return random.getstate(), legacy[1].tolist(), torch.get_rng_state().tolist()


def trained(build: Builder, model: str, **options: Any) -> Run:
    run = build(model, **OWN.get(model, {}), **options)
    run.fit()
    return run


@pytest.mark.parametrize("model", list(OWN))
def test_known_users_are_ranked_as_recbole_does_and_as_new_ones(build: Builder, model: str) -> None:
    from recbole.quick_start import load_data_and_model
    from recbole.utils.case_study import full_sort_topk

    run = trained(build, model)
    file = run.trainer.saved_model_file
    state = states()
    recommender = recbole_vae.Recommender.load(file)
    assert states() == state
    config, net, dataset, _, valid, _ = load_data_and_model(file)
    users = np.array([3, 1, 40])
    # With the dataloader of the validation part RecBole leaves out the training items, as the recommender does.
    values, items = full_sort_topk(users, net, valid, 5, device=config["device"])
    rankings = recommender.recommend_users(dataset.id2token("user_id", users), k=5)
    for ranking, theirs, names in zip(rankings, values.tolist(), dataset.id2token("item_id", items), strict=True):
        assert [score for _, score in ranking] == pytest.approx(theirs, rel=1e-5, abs=1e-6)
        if model not in ("Pop", "ItemKNN"):  # of which some have the same score
            assert [item for item, _ in ranking] == names.tolist()
    histories = [recommender.history(user) for user in dataset.id2token("user_id", users)]
    assert recommender.recommend(histories, k=5) == rankings
    for ranking, history in zip(rankings, histories, strict=True):
        assert not {item for item, _ in ranking} & set(history)


def test_candidates_seen_items_and_empty_histories(build: Builder) -> None:
    recommender = Recommender.load(trained(build, "EASE").trainer.saved_model_file)
    (ranking,) = recommender.recommend([["i0", "i3", "nothing"]], k=3, candidates=["i0", "i7", "i9"])
    assert {item for item, _ in ranking} == {"i7", "i9"}
    (ranking,) = recommender.recommend([["i0", "i3"]], k=3, candidates=["i0", "i7"], exclude_seen=False)
    assert {item for item, _ in ranking} == {"i0", "i7"}
    (ranking,) = recommender.recommend([[]], k=4)
    table = recommender.model.histories
    counts = np.bincount(table.indices.numpy(), minlength=len(recommender.items))
    best = np.argsort(-counts, kind="stable")[:4]
    assert [score for _, score in ranking] == pytest.approx((counts[best] / 40).tolist())


def test_from_the_command_line(build: Builder, capfd: pytest.CaptureFixture[str]) -> None:
    file = trained(build, "EASE").trainer.saved_model_file
    assert main(["recommend", f"--checkpoint={file}", "--users=u3,u1", "-k=3"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == "user_id,rank,item_id,score"
    assert [line.split(",")[:2] for line in lines[1:]] == [
        [user, str(rank)] for user in ("u3", "u1") for rank in (1, 2, 3)
    ]
    Path("h.csv").write_text("user_id,item_id,rating\na,i0,3\na,i3,2\n")
    assert main(["recommend", f"--checkpoint={file}", "--histories=h.csv", "-k=3"]) == 0
    (ranking,) = Recommender.load(file).recommend([["i0", "i3"]], k=3)
    lines = capfd.readouterr().out.splitlines()[1:]
    assert [line.split(",")[2] for line in lines] == [item for item, _ in ranking]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--samples=5", "EASE has no posterior"),
        ("--diversify=1", "EASE has no posterior"),
        ("--popularity_correction=0.5", "popularity_correction: .* is of EASE, which does not have this option"),
    ],
)
def test_what_these_models_do_not_have_is_refused(
    build: Builder, capfd: pytest.CaptureFixture[str], option: str, message: str
) -> None:
    file = trained(build, "EASE").trainer.saved_model_file
    assert main(["recommend", f"--checkpoint={file}", "--users=u3", option]) == 2
    assert re.search(message, capfd.readouterr().err)


@pytest.mark.parametrize("command", ["latent", "uncertainty", "generate --out=new"])
def test_other_commands_refuse_them_by_name(build: Builder, capfd: pytest.CaptureFixture[str], command: str) -> None:
    file = trained(build, "EASE").trainer.saved_model_file
    assert main([*command.split(), f"--checkpoint={file}"]) in (1, 2)
    error = capfd.readouterr().err
    assert re.match("error: .*EASE", error)
    assert "RECBOLE_VAE_TRACEBACK" not in error


@pytest.mark.parametrize("model", ["EASE", "ItemKNN"])
def test_explained_by_leaving_each_item_out(build: Builder, model: str) -> None:
    recommender = Recommender.load(trained(build, model).trainer.saved_model_file)
    history = ["i0", "i3", "i5"]
    explanation = Explainer(recommender).explain("a", history, k=3)
    whole = dict(recommender.recommend([history], k=25)[0])
    without = dict(recommender.recommend([["i0", "i5"]], k=25, exclude_seen=False)[0])
    for explained in explanation.recommendations:
        (influence,) = [each.influence for each in explained.influences if each.item_id == "i3"]
        expected = whole[explained.item_id] - without[explained.item_id]
        assert influence == pytest.approx(expected, rel=1e-4, abs=1e-6)
    with pytest.raises(ConfigError, match=f"{model}"):
        Explainer(recommender).explain("a", history, k=3, method="gradient")


def test_users_only_models_are_refused(build: Builder) -> None:
    run = trained(build, "BPR", embedding_size=4)
    with pytest.raises(CheckpointError, match=r"\.pth: BPR cannot score users who were not in the training data"):
        Recommender.load(run.trainer.saved_model_file)
    run = trained(build, "ItemKNN", knn_method="user")
    with pytest.raises(CheckpointError, match="need knn_method: item"):
        Recommender.load(run.trainer.saved_model_file)


def test_data_that_are_not_there_or_others_are_refused(build: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    file = Path(trained(build, "EASE").trainer.saved_model_file).resolve()
    inter = Path("data/tiny/tiny.inter")
    lines = inter.read_text().splitlines()
    inter.write_text("\n".join([lines[0], *reversed(lines[1:])]) + "\n")
    with pytest.raises(CheckpointError, match=r"the data set in data/tiny, or its split, is not the one that EASE was"):
        Recommender.load(file)
    inter.write_text("\n".join(lines) + "\n")
    Recommender.load(file)
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    with pytest.raises(CheckpointError, match=r"there is no file data/tiny/tiny\.inter \(looked for in .*elsewhere\)"):
        Recommender.load(file)


def test_held_out_users(build: Builder) -> None:
    path = write_inter(random_rows(80, 30))
    run = trained(build, "EASE", dataset="tiny", data_path=path, eval_args={"split": {"HU": [10, 20]}})
    recommender = Recommender.load(run.trainer.saved_model_file)
    assert len(recommender.users) == 1 + 80 - 30
    assert len(recommender.recommend_users(recommender.users[1:], k=3)) == 50


class _Evil:
    def __reduce__(self) -> Any:
        return exec, ("open('it-ran', 'w')",)


def test_a_malicious_file_runs_nothing(build: Builder) -> None:
    """Neither what is in it, nor what it names, nor what lies where RecBole looks for saved data sets."""
    file = trained(build, "EASE").trainer.saved_model_file
    state = torch.load(file, weights_only=False)
    state["config"].final_config_dict["evil"] = _Evil()
    torch.save(state, "evil.pth", pickle_protocol=4)
    with pytest.raises(CheckpointError, match=r"a malicious one \(it holds builtins\.exec, which was not run"):
        Recommender.load("evil.pth")
    Path("evil.pkl").write_bytes(pickle.dumps(_Evil()))
    Path("saved/tiny-Dataset.pth").write_bytes(pickle.dumps(_Evil()))
    del state["config"].final_config_dict["evil"]
    state["config"].final_config_dict.update(dataset_save_path="evil.pkl", checkpoint_dir="saved")
    torch.save(state, "names.pth", pickle_protocol=4)
    Recommender.load("names.pth")
    assert not Path("it-ran").exists()


class Address:
    """Pickled as a call of NumPy that would take eight bytes of the file for the address of an object."""

    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> Any:
        return self.call, self.arguments


def hidden_pointers() -> Any:
    """Return the dtype of objects, pickled with flags that say that there are no pointers."""
    kind = np.dtype("O")
    make, arguments, state = kind.__reduce__()  # type: ignore[str-unpack]

    class Dtype:
        def __reduce__(self) -> Any:
            return make, arguments, (*state[:7], 0)

    return Dtype()


@pytest.mark.parametrize(
    "evil",
    [
        lambda: Address(np.ndarray, (1,), np.dtype("O"), b"A" * 8),
        lambda: Address(np.dtype("f8").type(0).__reduce__()[0], np.dtype("O"), b"A" * 8),
        hidden_pointers,
    ],
)
def test_no_address_comes_from_a_file(build: Builder, evil: Any) -> None:
    run = trained(build, "EASE")
    state = torch.load(run.trainer.saved_model_file, weights_only=False)
    torch.save({**state, "evil": evil()}, "evil.pth")
    with pytest.raises(CheckpointError, match=r"^evil.pth: not a checkpoint of RecBole, or a malicious one"):
        Recommender.load("evil.pth")


def test_the_name_of_a_data_set_is_no_path(build: Builder) -> None:
    run = trained(build, "EASE")
    state = torch.load(run.trainer.saved_model_file, weights_only=False)
    state["config"].final_config_dict["dataset"] = str(Path("data/tiny").resolve())
    torch.save(state, "evil.pth")
    with pytest.raises(CheckpointError, match=r"^evil.pth: damaged checkpoint: '.*' is not the name of a data set"):
        Recommender.load("evil.pth")
