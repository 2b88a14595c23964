"""What a GPU could do otherwise than a CPU; without one these are skipped. The others run on the CPU everywhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from recbole_vae import Recommender
from recbole_vae.analysis.explain import Explainer
from recbole_vae.analysis.generate import synthesise
from recbole_vae.analysis.latent import describe
from recbole_vae.cli.main import main
from recbole_vae.compare.results import Run
from recbole_vae.data.histories import Histories
from recbole_vae.nn.encoder import normalise
from recbole_vae.nn.layers import SparseLinear, wide_linear
from recbole_vae.nn.likelihood import linear_multinomial_log_likelihood, multinomial_log_likelihood
from recbole_vae.nn.linear import Ridge, item_item_weights
from recbole_vae.nn.precision import training_dtype
from tests.conftest import Builder, random_rows, set_all_seeds, write_inter
from tests.training.test_trainer import LEARN, final_state, same

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@pytest.fixture(scope="module")
def table() -> Histories:
    """Give the histories of 60 users, one of them empty, of up to 40 of 500 items."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 40, (60,), generator=generator).tolist()
    lists = [torch.randperm(500, generator=generator)[:length].add(1).sort().values.tolist() for length in lengths]
    return Histories.from_lists([*lists[:7], [], *lists[8:]])


@pytest.mark.parametrize("per_chunk", [60 * 64, 2**30])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_fused_likelihood_equals_the_plain_one(table: Histories, per_chunk: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    layer = [torch.randn(shape, generator=generator).double() for shape in ((60, 8), (500, 8), (500,))]
    (x, w, b), (features, weight, bias) = ([each.to(on).requires_grad_() for each in layer] for on in ("cpu", "cuda"))
    plain = multinomial_log_likelihood(x @ w.t() + b, table)
    fused = linear_multinomial_log_likelihood(features, weight, bias, table.to("cuda"), dtype, per_chunk)
    off = 1e-10 if dtype is torch.float64 else 0.03
    assert (fused.cpu() - plain).norm() <= off * plain.norm()
    for ours, expected in zip(
        torch.autograd.grad(fused.sum(), (features, weight, bias)),
        torch.autograd.grad(plain.sum(), (x, w, b)),
        strict=True,
    ):
        assert (ours.cpu() - expected).norm() <= off * expected.norm()


def test_sparse_rows_times_a_matrix_and_its_gradient(table: Histories) -> None:
    layer = SparseLinear(500, 16).double()
    found = []
    for device in ("cpu", "cuda"):
        layer, rows = layer.to(device), table.to(device)
        output = layer(rows.indices - 1, rows.entry_values().double(), rows.indptr.to(rows.indices.dtype))
        (gradient,) = torch.autograd.grad(output.square().sum(), layer.weight)
        found.append((output.detach().cpu(), gradient.cpu()))
    torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("rows", [1, 7])
def test_a_wide_layer_is_torchs(rows: int) -> None:
    layer = torch.nn.Linear(6, 2500).cuda()
    features = torch.randn(rows, 6, device="cuda")
    with torch.no_grad():
        expected = layer(features)
    found = wide_linear(features, layer.weight.detach(), layer.bias.detach())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_the_linear_path(table: Histories) -> None:
    ridge = Ridge(2.0, 0.3, 0.25, 0.15)
    on_cpu, on_gpu = (item_item_weights(table.to(device), 500, ridge).cpu() for device in ("cpu", "cuda"))
    torch.testing.assert_close(on_gpu, on_cpu, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("MultVAE", {}),
        ("MultVAE", {"mlp_hidden_size": [], "precision": "auto"}),
        ("MultVAE", {"n_negatives": 8, "weight_decay": 0.0}),
        ("MultVAE", {"tied_weights": True}),
        ("MultVAE", {"anneal_cap": "auto", "anneal_epochs": 2, "weight_averaging": 3}),
        ("MultVAE", {"likelihood": "bernoulli"}),
        ("MultDAE", {}),
        ("HybridVAE", {"linear_share": 0.4, "kernel_share": 0.3}),
        ("HybridVAE", {"linear_share": 0.4, "linear_neighbours": 5}),
        ("CompositeVAE", {}),
        ("VampVAE", {}),
        ("VASP", {}),
    ],
    ids=str,
)
def test_trained_on_a_gpu_it_scores_alike_on_a_cpu(build: Builder, model: str, options: dict[str, Any]) -> None:
    run = build(model, epochs=8, learning_rate=0.01, use_gpu=True, **options)
    assert run.model.device.type == "cuda"
    assert all(parameter.is_cuda for parameter in run.model.parameters())
    run.fit()
    result = run.trainer.evaluate(run.test)
    assert 0 < result["ndcg@10"] <= 1
    run.model.eval()
    known = run.model.histories[torch.arange(1, 20, device="cuda")]
    with torch.no_grad():
        on_gpu = run.model.score(known).cpu()
    for device in ("cuda", "cpu"):
        recommender = Recommender.load(run.trainer.saved_model_file, device)
        assert recommender.model.device.type == device
        with torch.no_grad():
            scores = recommender.model.score(known.to(torch.device(device))).cpu()
        torch.testing.assert_close(scores[:, 1:], on_gpu[:, 1:], rtol=1e-3, atol=1e-4)
        (ranking,) = recommender.recommend([recommender.history("u3")], k=5)
        assert len(ranking) == 5


@pytest.mark.parametrize("model", ["MultVAE", "CompositeVAE", "VASP"])
def test_a_resumed_run_ends_as_one_that_was_never_stopped(build: Builder, model: str) -> None:
    options = {**LEARN, "use_gpu": True, "weight_averaging": 4}
    whole = build(model, **options)
    result = whole.fit()
    first = build(model, **{**options, "epochs": 5})
    first.fit()
    torch.manual_seed(99)
    second = build(model, **options)
    second.trainer.resume_checkpoint(first.trainer.saved_model_file)
    assert second.fit() == result
    assert same(final_state(second), final_state(whole))


def test_sums_of_weights_are_the_same_each_time() -> None:
    """A GPU's ``index_add`` adds in the order in which its threads happen to come."""
    lengths = torch.tensor([70_000, 0, 3, 50_000])
    indptr = torch.cat((lengths.new_zeros(1), lengths.cumsum(0)))
    weights = torch.rand(int(indptr[-1]), generator=torch.Generator().manual_seed(0)).exp()
    on_cpu = Histories(indptr, torch.arange(len(weights)) + 1, weights)
    table = on_cpu.to("cuda")
    totals, normalised = table.totals(), normalise(table, torch.float32)
    torch.testing.assert_close(totals.cpu(), on_cpu.totals(), rtol=1e-4, atol=0)
    torch.testing.assert_close(normalised.cpu(), normalise(on_cpu, torch.float32))
    for _ in range(50):
        assert torch.equal(table.totals(), totals)
        assert torch.equal(normalise(table, torch.float32), normalised)


@pytest.mark.parametrize("first", ["cuda", "cpu"])
def test_a_run_goes_on_upon_another_device(build: Builder, first: str) -> None:
    options = {**LEARN, "weight_averaging": 4}
    run = build(**{**options, "epochs": 5, "use_gpu": first == "cuda"})
    run.fit()
    other = build(**options, use_gpu=first == "cpu")
    other.trainer.resume_checkpoint(run.trainer.saved_model_file)
    assert other.model.device.type != first
    score, _ = other.fit()
    assert other.trainer.start_epoch > 0
    assert score >= run.trainer.best_valid_score


@pytest.mark.parametrize(
    "eval_args",
    [
        {"mode": "full"},
        {"mode": "uni10"},
        {"mode": "pop10"},
        {"split": {"HU": [6, 6]}, "min_items": 2, "mode": "full"},
    ],
    ids=str,
)
@pytest.mark.parametrize("model", ["MultVAE", "HybridVAE", "EASE"])
def test_an_evaluation_gives_the_same_numbers_on_both_devices(
    build: Builder, model: str, eval_args: dict[str, Any]
) -> None:
    metrics = ["NDCG", "Recall", "MAP", "ItemCoverage", "AveragePopularity", "GiniIndex", "ShannonEntropy"]
    ranked = {"metrics": metrics if eval_args["mode"] == "full" else metrics[:3], "topk": [3, 7]}
    options = {**ranked, "valid_metric": "NDCG@7", "eval_args": eval_args}
    on_gpu, on_cpu = (build(model, use_gpu=use, **options) for use in (True, False))
    on_gpu.model.load_state_dict(on_cpu.model.state_dict())
    results = []
    for run in (on_gpu, on_cpu):
        run.trainer.eval_collector.data_collect(run.train)
        set_all_seeds(1)  # of the sampled items
        results.append(run.trainer.evaluate(run.test, load_best_model=False))
    assert results[0] == pytest.approx(dict(results[1]), abs=2e-3)


@pytest.mark.parametrize("model", ["MultVAE", "HybridVAE", "CompositeVAE", "VampVAE"])
def test_what_is_said_of_a_model_is_the_same_on_both_devices(build: Builder, model: str) -> None:
    run = build(model, **LEARN)
    run.fit()
    found = []
    for device in ("cuda", "cpu"):
        recommender = Recommender.load(run.trainer.saved_model_file, device)
        history = recommender.history("u3")
        explained = Explainer(recommender).explain("u3", history, 4)
        (sampled,) = recommender.recommend([history], 4, samples=20)
        (drawn,) = recommender.recommend([history], 4, diversify=1.0)
        described = describe(recommender, latents=2, k=3, user="u3")
        users = [items.tolist() for items in synthesise(recommender.model, None, 9)]
        influences = {
            (item.item_id, each.item_id): each.influence
            for item in explained.recommendations
            for each in item.influences
        }
        lists = [[item for item, *_ in each] for each in (sampled, drawn)]
        found.append((influences, lists, described.active, len(described.latents), users))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-4)
    assert found[0][1:] == found[1][1:]


def test_a_gpu_is_chosen_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    write_inter(random_rows())
    command = [
        sys.executable,
        "-m",
        "recbole_vae",
        "run",
        "--model=MultVAE",
        "--dataset=tiny",
        "--data_path=data",
        "--epochs=1",
    ]
    done = subprocess.run([*command, "--gpu_id=7"], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "gpu_id: '7': there is no such GPU" in done.stderr
    assert "Traceback" not in done.stderr
    program = """
import sys
import recbole_vae
from recbole.config import Config
print(Config(model=sys.argv.pop(), dataset="tiny", config_dict={"data_path": "data"})["device"])
"""
    Path("program.py").write_text(program)
    for visible, device in (("", "cpu"), ("0", "cuda")):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        for model in ("MultVAE", "BPR"):
            out = subprocess.run(
                [sys.executable, "program.py", model], capture_output=True, text=True, check=True
            ).stdout
            assert out.split() == [device]


def test_a_limit_of_memory_does_not_choose_the_gpu() -> None:
    """Once a process has asked CUDA for its GPUs, CUDA_VISIBLE_DEVICES changes nothing."""
    write_inter(random_rows())
    options = ["--models=Pop", "--dataset=tiny", "--data_path=data", "--out=o", "--memory_limit=8", "--gpu_id=-1"]
    done = subprocess.run(
        [sys.executable, "-m", "recbole_vae", "compare", *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (run,) = map(Run.load, Path("o/runs").iterdir())
    assert run.device.startswith("CPU")


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_a_model_of_recbole_is_evaluated_again(device: str, capfd: pytest.CaptureFixture[str]) -> None:
    """LightGCN keeps embeddings in its checkpoint, which must be on the device where its parameters will be."""
    from recbole.quick_start import load_data_and_model
    from recbole.utils import get_trainer

    write_inter(random_rows())
    options = ["--model=LightGCN", "--dataset=tiny", "--data_path=data", "--epochs=2", f"--use_gpu={device == 'cuda'}"]
    assert main(["run", *options]) == 0
    output = capfd.readouterr().out
    file = next(line.split()[1] for line in output.splitlines() if line.startswith("Checkpoint"))
    config, model, _, _, _, test = load_data_and_model(file)
    assert model.device.type == device
    trainer = get_trainer(config["MODEL_TYPE"], "LightGCN")(config, model)
    trainer.eval_collector.data_collect(test)
    assert f"{trainer.evaluate(test, load_best_model=False)['ndcg@10']:.4f}" in output


def test_use_gpu_is_looked_at(build: Builder) -> None:
    for use, device in ((True, "cuda"), (False, "cpu"), (True, "cuda")):
        for model in ("MultVAE", "BPR"):
            run = build(model, use_gpu=use)
            assert run.config["device"].type == run.model.device.type == device


def test_auto_means_bfloat16_where_it_is_fast() -> None:
    expected = torch.bfloat16 if torch.cuda.get_device_capability() >= (8, 0) else None
    assert training_dtype("auto", torch.device("cuda")) is expected
