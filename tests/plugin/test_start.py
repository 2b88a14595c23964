"""What the start of a run does not import."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import sys
import torch
import recbole_vae
from recbole.quick_start import run_recbole
from recbole.model.general_recommender import nceplrec, slimelastic
from recbole.evaluator import metrics
from recbole_vae.training.optimizer import LazyAdam

weight = torch.nn.Parameter(torch.ones(2))
optimizer = LazyAdam([weight], fused=True)
weight.grad = torch.ones(2)
optimizer.step()
optimizer.zero_grad()
optimizer.load_state_dict(optimizer.state_dict())
assert not {"torch._dynamo", "sklearn", "sympy"} & set(sys.modules)

assert metrics.sk_auc([0.0, 1.0], [0.0, 1.0]) == 0.5
assert metrics.mean_absolute_error([1.0], [3.0]) == metrics.mean_squared_error([0.0], [2.0]) / 2 == 2
assert slimelastic.ElasticNet(alpha=0.5).alpha == 0.5
from sklearn.exceptions import ConvergenceWarning
assert slimelastic.ConvergenceWarning is ConvergenceWarning
assert nceplrec.randomized_svd([[2.0]], 1)[1] == 2.0
"""


def test_a_run_imports_scikit_learn_and_torchs_compiler_only_if_it_uses_them() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
