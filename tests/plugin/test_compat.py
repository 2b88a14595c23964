"""What RecBole could not do, or did wrongly, on today's libraries; each test fails there without its mend."""

from __future__ import annotations

import collections
import inspect
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from recbole_vae.errors import CheckpointError
from tests.conftest import Builder, random_rows, write_inter


def python(code: str) -> str:
    """Run code in a new interpreter and return what it prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_ray_cannot_be_imported() -> None:
    """``recbole.quick_start`` imports with a ray that does not, and nobody else sees a stand-in."""
    code = """
import sys
class NoRay:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("ray", "pkg_resources"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, NoRay())
import recbole_vae
from recbole.quick_start import objective_function, run_recbole
from recbole.quick_start.quick_start import tune
tune.report(recall=1.0)
print("ray" in sys.modules)
"""
    assert python(code).strip() == "False"


def test_numpy_lost_aliases(build: Builder) -> None:
    build()
    for name, kind in {
        "float": np.float64,
        "bool": np.bool_,
        "int": np.int_,
        "str": np.str_,
        "object": np.object_,
    }.items():
        assert getattr(np, name) is kind


@pytest.mark.parametrize("model", ["BPR", "EASE"])
def test_torch_load_refuses_recboles_checkpoints(build: Builder, model: str) -> None:
    """The best epoch is loaded for the test, training resumes, and ``load_data_and_model`` gives the same scores."""
    from recbole.config import Config
    from recbole.quick_start import load_data_and_model

    run = build(model, embedding_size=8, reg_weight=10.0)
    run.fit()
    result = run.trainer.evaluate(run.test, load_best_model=True)
    config, net, _, _, _, test = load_data_and_model(run.trainer.saved_model_file)
    assert type(config) is Config
    assert config.model_class is type(run.model)
    again = build(model, embedding_size=8, reg_weight=10.0, data_path="data", dataset="tiny")
    again.trainer.model = net
    assert again.trainer.evaluate(test, load_best_model=False) == result
    if model == "BPR":
        again.trainer.resume_checkpoint(run.trainer.saved_model_file)
        assert again.trainer.start_epoch > 0


class _Evil:
    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


def evil_objects() -> dict[str, Any]:
    from recbole.config import Config

    return {
        "a function": _Evil(exec, "open('it-ran', 'w')"),
        "an unknown class": _Evil(Path, "x"),
        "a Config with something to evaluate": _Evil(Config, "BPR", "x", None, {"a": "open('it-ran', 'w')"}),
        "a function of RecBole": _Evil(__import__("recbole.utils.utils", fromlist=["ensure_dir"]).ensure_dir, "it-ran"),
        "getattr": _Evil(getattr, Path(), "touch"),
    }


@pytest.mark.parametrize("what", list(evil_objects()))
def test_a_malicious_checkpoint_of_recbole_runs_nothing(what: str) -> None:
    from recbole.quick_start import load_data_and_model

    torch.save({"config": evil_objects()[what], "state_dict": {}}, "evil.pth", pickle_protocol=4)
    with pytest.raises(CheckpointError, match=r"evil.pth: not a checkpoint of RecBole, or a malicious one \(it "):
        load_data_and_model("evil.pth")
    assert not Path("it-ran").exists()


# Pickles that only a hand writes: one sets an attribute of a class, one names a module that acts when it is imported.
_START = b"\x80\x02}X\x0a\x00\x00\x00state_dict"
HAND_WRITTEN = {
    "a change of a class": (_START + b"ccollections\nCounter\nN}X\x06\x00\x00\x00updatecbuiltins\nlist\ns\x86bs."),
    "a module that acts": _START + b"cnumpy.f2py.__main__\ndtype\ns.",
}


@pytest.mark.parametrize("what", list(HAND_WRITTEN))
def test_a_hand_written_pickle_changes_nothing(what: str) -> None:
    from recbole.quick_start import load_data_and_model

    with zipfile.ZipFile("evil.pth", "w") as archive:
        for name, content in (("data.pkl", HAND_WRITTEN[what]), ("version", b"3\n"), ("byteorder", b"little")):
            archive.writestr(f"archive/{name}", content)
    update = collections.Counter.update
    with pytest.raises(CheckpointError, match=r"a malicious one \(it (changes|holds) "):
        load_data_and_model("evil.pth")
    assert collections.Counter.update is update
    assert "numpy.f2py.__main__" not in sys.modules


class _Scripted(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_a_torchscript_program_is_not_run() -> None:
    from recbole.quick_start import load_data_and_model

    torch.jit.save(torch.jit.script(_Scripted()), "evil.pth")
    with pytest.raises(CheckpointError, match="not a checkpoint, but a TorchScript program"):
        load_data_and_model("evil.pth")


def test_a_checkpoint_does_not_say_what_else_recbole_unpickles(build: Builder) -> None:
    from recbole.quick_start import load_data_and_model

    Path("evil.pkl").write_bytes(pickle.dumps(_Evil(exec, "open('it-ran', 'w')")))
    for model in ("BPR", "MultVAE"):
        run = build(model, epochs=1)
        run.fit()
        state = torch.load(run.trainer.saved_model_file, weights_only=False)
        config = state["config"] if model == "MultVAE" else state["config"].final_config_dict
        config.update(dataset_save_path="evil.pkl", dataloaders_save_path="evil.pkl")
        torch.save(state, "evil.pth")
        load_data_and_model("evil.pth")
        assert not Path("it-ran").exists()


def test_only_recbole_sees_another_torch_load() -> None:
    torch.save({"path": Path("x")}, "path.pth")
    with pytest.raises(Exception, match="Weights only load failed"):
        torch.load("path.pth")
    assert torch.load("path.pth", weights_only=False) == {"path": Path("x")}
    assert inspect.signature(torch.load).parameters["weights_only"].kind is inspect.Parameter.KEYWORD_ONLY


def test_scipy_dok_matrix_lost_update(build: Builder) -> None:
    run = build("LightGCN", embedding_size=8)
    adjacency = run.model.norm_adj_matrix.to_dense()
    users = run.model.n_users
    assert adjacency[:users, users:].count_nonzero() == len(run.train._dataset)


INTER = "user_id:token\titem_id:token\trating:float"


def write_with_gaps() -> str:
    rows = [(user, item, "" if n % 5 == 0 else 1 + n % 4) for n, (user, item) in enumerate(random_rows())]
    path = write_inter(rows, columns=INTER)
    users = sorted({user for user, _ in random_rows()})
    Path(path, "tiny", "tiny.user").write_text(
        "user_id:token\tage:float\tgender:token\n"
        + "".join(f"{user}\t{20 + n}\tF\n" for n, user in enumerate(users[1:]))
    )
    items = sorted({item for _, item in random_rows()})
    Path(path, "tiny", "tiny.item").write_text(
        "item_id:token\ttags:token_seq\tsizes:float_seq\n"
        + "".join(
            f"{item}\t{'' if n == 3 else 'a b' if n % 2 else 'c'}\t{'' if n == 4 else '1.0 2.0'}\n"
            for n, item in enumerate(items)
        )
    )
    return path


LOAD = {"inter": ["user_id", "item_id", "rating"], "user": "*", "item": "*"}


def test_pandas_fills_a_copy(build: Builder) -> None:
    """Missing numbers become the mean, missing tokens the padding token."""
    run = build(
        "BPR",
        dataset="tiny",
        data_path=write_with_gaps(),
        load_col=LOAD,
        normalize_all=False,
        filter_inter_by_user_or_item=False,
    )
    ratings = run.dataset.inter_feat["rating"].double()
    given = [1 + n % 4 for n in range(len(random_rows())) if n % 5]
    assert torch.isfinite(ratings).all()
    assert ratings.mean().item() == pytest.approx(np.mean(given), rel=1e-5)
    users = run.dataset.user_feat
    without = run.dataset.token2id("user_id", sorted({user for user, _ in random_rows()})[0])
    assert torch.isfinite(users["age"]).all()
    assert users["gender"][without].item() == 0
    assert users["gender"][1 if without != 1 else 2].item() == 1


def test_pandas_fills_a_copy_so_that_labels_are_right(build: Builder) -> None:
    """A missing rating counts as the mean, here above the threshold, not as the label 0."""
    rows = [(user, item, "" if n == 0 else 4) for n, (user, item) in enumerate(random_rows())]
    run = build(
        "FM",
        dataset="tiny",
        data_path=write_inter(rows, columns=INTER),
        load_col={"inter": LOAD["inter"]},
        threshold={"rating": 3},
    )
    assert run.dataset.inter_feat["label"].min().item() == 1


def test_pandas_strings_are_not_objects(build: Builder) -> None:
    """A file with a sequence missing loads, and the missing one is empty."""
    run = build("BPR", dataset="tiny", data_path=write_with_gaps(), load_col=LOAD)
    items = run.dataset.item_feat
    missing = [run.dataset.token2id("item_id", sorted({item for _, item in random_rows()})[n]) for n in (3, 4)]
    assert items["tags"][missing[0]].tolist() == [0, 0]
    assert items["sizes"][missing[1]].tolist() == [0.0, 0.0]


def test_pandas_agg_does_not_map(build: Builder) -> None:
    """Each sequence keeps its own length and tokens."""
    run = build("BPR", dataset="tiny", data_path=write_with_gaps(), load_col=LOAD)
    data = run.dataset
    items = sorted({item for _, item in random_rows()})
    for n in (0, 1, 2):
        tokens = data.id2token("tags", data.item_feat["tags"][data.token2id("item_id", items[n])])
        assert [token for token in tokens.tolist() if token != "[PAD]"] == (["a", "b"] if n % 2 else ["c"])


def test_only_recbole_sees_another_agg() -> None:
    import recbole.data.dataset  # noqa: F401

    series = pd.Series([[1, 2], [3]])
    expected = python("import pandas as pd; print(pd.Series([[1, 2], [3]]).agg(len))")
    assert str(series.agg(len)) == expected.rstrip("\n")
