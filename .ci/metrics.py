"""Print the test metrics of some models after two epochs on ml-100k, to 4 digits; for comparing library versions."""

import sys

import recbole_vae  # noqa: F401 - before RecBole, which needs its mends

# isort: split
from recbole.quick_start import run_recbole

if __name__ == "__main__":
    sys.argv = sys.argv[:1]
    for model in ("MultVAE", "MultDAE", "MultiVAE", "LightGCN", "EASE"):
        options = {"epochs": 2, "show_progress": False, "state": "ERROR", "eval_batch_size": 2**22}
        result = run_recbole(model=model, dataset="ml-100k", config_dict=options)["test_result"]
        print(model, *(f"{name} {float(value):.4f}" for name, value in result.items()))
