"""RecBole's own models run from end to end beside ours: they are the baselines."""

from __future__ import annotations

from pathlib import Path

import pytest

from recbole_vae.cli.main import main
from recbole_vae.model.known_options import options_of
from tests.conftest import random_rows, write_inter

MODELS = [
    "Pop", "ItemKNN", "BPR", "NeuMF", "LightGCN", "NGCF", "ENMF", "SimpleX", "EASE", "SLIMElastic", "ADMMSLIM", "NCEPLRec",
    "CDAE", "MultiVAE", "MultiDAE", "RecVAE", "MacridVAE", "RaCT", "DiffRec", "LDiffRec",
]  # fmt: skip
FAST = [
    "--epochs=2", "--embedding_size=8", "--train_batch_size=64", "--show_progress=False", "--latent_dimension=8",
    "--dataset=tiny", "--data_path=data", "--pretrain_epochs=2", "--save_step=2", "--hidden_dimension=8", "--reg_weight=0.1",
    "--use_gpu=False",
]  # fmt: skip


@pytest.mark.parametrize("model", MODELS)
def test_a_model_of_recbole_runs_from_the_command_line(model: str, capfd: pytest.CaptureFixture[str]) -> None:
    from recbole.config import Config
    from recbole.quick_start import load_data_and_model
    from recbole.utils import get_trainer

    write_inter(random_rows(60, 30))
    known = options_of(model)
    fast = [word for word in FAST if word.removeprefix("--").partition("=")[0] in known]
    status = main(["run", f"--model={model}", *fast])
    out, err = capfd.readouterr()
    assert status == 0, err
    assert f"{model} on tiny, test part" in out
    values = {
        line.split()[0]: float(line.split()[1]) for line in out.splitlines() if line.startswith("  ") and "@10" in line
    }
    assert 0 < values["ndcg@10"] < 1

    # The file that the summary names loads in RecBole's way and gives the same metrics.
    file = next(line.split()[1] for line in out.splitlines() if line.startswith("Checkpoint"))
    assert Path(file).exists()
    config, net, _, _, _, test = load_data_and_model(file)
    assert type(config) is Config
    trainer = get_trainer(config["MODEL_TYPE"], model)(config, net)
    trainer.eval_collector.data_collect(test)
    again = trainer.evaluate(test, load_best_model=False)
    # Two models add random noise to their scores, to break ties; one user more or less of 60 is then chance.
    tolerance = 2 / 60 if model in ("ADMMSLIM", "SLIMElastic") else 1e-9
    assert {name: float(value) for name, value in again.items()} == pytest.approx(values, abs=tolerance)
