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
# # A paper's baseline table
#
# This notebook compares five models on MovieLens-100K, from the data to the LaTeX of a table with significance tests.
# The data come inside RecBole, so nothing is downloaded. It takes about three minutes on two cores: two seeds and few epochs.
# For a paper use `--seeds=5` and leave `--epochs` out, so that early stopping ends each run.

# %% [markdown]
# ## Run the comparison
#
# One command trains every model with every seed, on the same splits, each in a process of its own.
# The protocol keeps ratings of 3 and more and splits 8:1:1 at random within users.

# %%
# !recbole-vae compare --models=Pop,ItemKNN,EASE,MultiVAE,MultVAE --reference=MultiVAE --dataset=ml-100k --seeds=2 --epochs=30 --load_col="{'inter': ['user_id', 'item_id', 'rating']}" --val_interval="{'rating': '[3,inf)'}" --metrics=Recall,NDCG --topk=10,100 --out=table > log.txt 2>&1

# %% [markdown]
# ## The table
#
# `table.md` has the accuracy, what lies beyond accuracy, the costs, and a caption that says what was measured.

# %%
from pathlib import Path

from IPython.display import Markdown

Markdown(Path("table/table.md").read_text())

# %% [markdown]
# ## A plot of one's own
#
# `table.csv` has the mean and the deviation of every row and metric.

# %%
import matplotlib.pyplot as plt
import pandas as pd

table = pd.read_csv("table/table.csv")
ndcg = table[table.metric == "ndcg@10"].sort_values("mean")
figure, axes = plt.subplots(figsize=(7, 3))
axes.barh(ndcg.label, ndcg["mean"], xerr=ndcg.deviation, color="#0072B2")
axes.set_xlabel("NDCG@10, mean and standard deviation over seeds")
figure.tight_layout()
plt.show()

# %% [markdown]
# ## Every test
#
# `tests.csv` has the effect size, the 95 % interval and the corrected p-value of each test over users.

# %%
tests = pd.read_csv("table/tests.csv")
chosen = tests[(tests.family == "pairs") & (tests.metric == "ndcg@10")]
chosen[["label", "against", "difference", "difference_low", "difference_high", "p_holm"]].round(4)

# %% [markdown]
# ## The LaTeX
#
# The file is ready for `\input`. It needs the package booktabs.

# %%
print(Path("table/table.tex").read_text()[:1500])

# %% [markdown]
# `table/report.html` is the same comparison as one page with interactive charts.
# `table/per_user.parquet` has each metric of each user, and `table/settings.yaml` all that it takes to repeat the runs.
