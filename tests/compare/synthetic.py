"""Runs as a comparison leaves them, without any training."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from recbole_vae.compare.results import FAILED, OUT_OF_MEMORY, REFUSED, Comparison, Run, Users

MODELS = {
    "MultVAE": 0.31,
    "MultVAE, no hidden layer": 0.306,
    "MultDAE": 0.305,
    "EASE": 0.32,
    "SLIMElastic": 0.303,
    "LightGCN": 0.29,
    "NGCF": 0.27,
    "BPR": 0.265,
    "ItemKNN": 0.28,
    "NeuMF": 0.24,
    "DiffRec": 0.304,
    "Pop": 0.15,
}
K = 20


def make_run(label: str, protocol: str, seed: int, users: int, mean: float, held_out: bool, epochs: int) -> Run:
    """Make one run; users are as good or bad for all models, and easier with long histories."""
    rng = np.random.default_rng(seed + 1000 * held_out)
    total = users * 2 if held_out else users
    chosen = np.sort(rng.permutation(total)[:users])
    person = np.random.default_rng(7).normal(0, 0.12, total)[chosen]
    length = np.random.default_rng(8).geometric(0.02, total)[chosen] + 4
    own = np.random.default_rng([sum(map(ord, label)), seed, held_out])
    value = mean + person + 0.02 * np.log(length / 40) + own.normal(0, 0.05, users) + own.normal(0, 0.002)
    ndcg = np.round(np.clip(value, 0, 1), 3)
    recall = np.round(np.clip(ndcg * 0.9 + own.normal(0, 0.02, users), 0, 1), 3)
    metrics = {"recall@10": recall, "ndcg@10": ndcg, "mrr@10": np.clip(ndcg * 1.3, 0, 1), "hit@10": (ndcg > 0.1) * 1.0}
    metrics = {name: each.astype(np.float64) for name, each in metrics.items()}
    test = {name: float(each.mean()) for name, each in metrics.items()}
    wide = 1 - mean
    test |= {"itemcoverage@10": wide - 0.3, "giniindex@10": 0.9 - wide / 4, "averagepopularity@10": 120 + 300 * mean}
    test |= {"tailpercentage@10": wide / 10, "tailrecall@10": wide / 20, "novelty@10": 5 * wide}
    trained = epochs if label not in ("EASE", "ItemKNN", "SLIMElastic", "Pop") else 0
    vae = "VAE" in label
    curve = []
    for epoch in range(1, trained + 1):
        point = {"epoch": float(epoch), "seconds": 0.3, "loss": 300 + 200 / epoch if vae else 0.7 / epoch**0.5}
        if vae:
            point |= {
                "reconstruction": 295 + 200 / epoch,
                "kl": 30 * epoch / (epoch + 5),
                "beta": min(0.2, 0.005 * epoch),
            }
        if epoch % 2 == 0:
            point["ndcg@10"] = mean * (1 - 0.5 / epoch**0.5) + float(own.normal(0, 0.001))
        curve.append(point)
    seconds = 0.5 + 40 * mean * (1 + sum(map(ord, label)) % 17)
    return Run(
        "ml-100k",
        protocol,
        label,
        label.partition(",")[0],
        seed,
        test=test,
        valid={name: each + 0.01 for name, each in test.items()},
        over_k={n: [test[f"{n}@10"] * (k / 10) ** 0.45 for k in range(1, K + 1)] for n in ("recall", "ndcg")},
        by_popularity=[
            {
                "items": 280.0,
                "popularity": 3.0 * 3**b,
                "relevant": 40.0 * 3**b,
                "recall": min(1.0, mean * (0.1 + b / 2)),
            }
            for b in range(5)
        ],
        frontier=[
            {
                "popularity_correction": x,
                **test,
                "averagepopularity@10": 120 + 300 * mean - 50 * x,
                "ndcg@10": mean - x**2 / 50,
            }
            for x in (0.0, 0.5, 1.0)
            if vae
        ],
        curve=curve,
        seconds=seconds * 1.2,
        training_seconds=seconds,
        cpu_seconds=seconds * 1.5 if label != "EASE" else None,
        peak_memory=int(4e8 + 1e8 * (sum(map(ord, label)) % 9)),
        parameters=0 if label in ("Pop", "ItemKNN") else 1000 * (sum(map(ord, label)) % 2500),
        epochs=trained or None,
        best_epoch=trained or None,
        device="CPU (2 threads)",
        versions={"recbole_vae": "0.1.0", "torch": "2.6.0", "recbole": "1.2.1"},
        settings={
            "model": label.partition(",")[0],
            "dataset": "ml-100k",
            "learning_rate": 0.001,
            "mlp_hidden_size": [600],
        },
        trials=[],
        split_hash=f"{seed:064x}",
        notes=["DiffRec: numpy.int was mended."] if label == "DiffRec" else [],
        users=Users(np.array([f"u{i}" for i in chosen]), length, metrics),
    )


def make_comparison(
    models: int = 12, seeds: int = 5, users: int = 943, trials: int = 0, epochs: int = 40, protocols: int = 2
) -> Comparison:
    """Make a comparison with one run that failed, one row that ran out of memory, and one that cannot take part."""
    runs = []
    for held_out, protocol in [(False, "leave out of each user"), (True, "held-out users")][:protocols]:
        for label, mean in list(MODELS.items())[:models]:
            for seed in range(1, seeds + 1):
                run = make_run(label, protocol, seed, users, mean, held_out, epochs)
                if label == "NeuMF" and seed == 2:
                    run = Run("ml-100k", protocol, label, label, seed, FAILED, "loss is nan in epoch 3 <&_%$#>")
                if held_out and label == "BPR":
                    run = Run(
                        "ml-100k", protocol, label, label, seed, REFUSED, "BPR knows no users it was not trained on"
                    )
                if label == "NGCF":
                    run = Run("ml-100k", protocol, label, label, seed, OUT_OF_MEMORY, "needs more than 8 GB")
                if trials and seed == 1 and run.users is not None:
                    rng = np.random.default_rng(len(label))
                    run.trials = [
                        {
                            "settings": {"learning_rate": 10**-n},
                            "valid": float(mean - rng.exponential(0.02)),
                            "status": "done",
                        }
                        | {"seconds": 3.0}
                        for n in range(1, trials + 1)
                    ]
                runs.append(run)
    metrics = ["recall@10", "ndcg@10", "mrr@10", "hit@10"]
    plan = {"datasets": ["ml-100k"], "seeds": list(range(1, seeds + 1)), "file": str(Path("plan.yaml"))}
    return Comparison(runs, metrics, "ndcg@10", "MultVAE", 0.05, trials, plan, "recbole-vae compare plan.yaml")
