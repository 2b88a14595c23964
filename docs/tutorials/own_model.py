# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A model of one's own
#
# This notebook writes a model, trains it, and puts it into a table beside others. It takes about two minutes on two cores.

# %% [markdown]
# ## The model
#
# A model needs two methods: the loss of a batch of histories, and the scores of all items for them.
# This one multiplies two factors and is trained by Mult-VAE's multinomial likelihood.
# It stands in a file, so that other processes can import it.

# %%
# %%writefile my_models.py
import torch
from pydantic import Field

import recbole_vae
from recbole_vae.model.base import HistoryRecommender, LossTerms
from recbole_vae.nn.encoder import normalise
from recbole_vae.nn.layers import SparseLinear
from recbole_vae.nn.likelihood import multinomial_log_likelihood
from recbole_vae.options.fields import ModelConfig


class FactorsConfig(ModelConfig):
    width: int = Field(64, ge=1)
    learning_rate: float = Field(0.003, gt=0)


class Factors(HistoryRecommender):
    config_class = FactorsConfig

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.input = SparseLinear(self.n_real_items, self.options.width)
        self.output = torch.nn.Linear(self.options.width, self.n_real_items)

    def logits(self, histories):
        return self.output(self.input(histories.columns(), normalise(histories, torch.float32), histories.indptr))

    def loss_terms(self, histories, start, stop):
        part = histories.slice(start, stop)
        return LossTerms(reconstruction=-multinomial_log_likelihood(self.logits(part), self.targets(part)).mean())

    def score(self, histories):
        return self.with_padding(self.logits(histories))


recbole_vae.register(Factors)

# %% [markdown]
# ## Train it
#
# The registered model has checked options, resumes exactly, and is evaluated like every other model.

# %%
# !recbole-vae run --imports=my_models --model=Factors --dataset=ml-100k --epochs=10 --show_progress=False > log.txt 2>&1
# !grep -A 8 "test part" log.txt

# %% [markdown]
# A misspelt or impossible option is refused in one line.

# %%
# !recbole-vae run --imports=my_models --model=Factors --widht=32
# !recbole-vae run --imports=my_models --model=Factors --width=0

# %% [markdown]
# ## Compare it

# %%
# !recbole-vae compare --imports=my_models --models=Factors,MultVAE,EASE --dataset=ml-100k --seeds=2 --epochs=10 --metrics=NDCG,Recall --topk=10 --out=own > log.txt 2>&1

# %%
from pathlib import Path

from IPython.display import Markdown

Markdown(Path("own/table.md").read_text())

# %% [markdown]
# ## Plot its training

# %%
import json

import matplotlib.pyplot as plt

figure, axes = plt.subplots(figsize=(7, 3))
for path in sorted(Path("own/runs").glob("**/result.json")):
    run = json.loads(path.read_text())
    if run["curve"]:
        points = [(each["epoch"], each["ndcg@10"]) for each in run["curve"] if "ndcg@10" in each]
        axes.plot(*zip(*points), label=f"{run['label']}, seed {run['seed']}")
axes.set_xlabel("epoch")
axes.set_ylabel("NDCG@10, validation part")
axes.legend()
plt.show()
