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
# # From a shop's orders to explained recommendations
#
# This notebook starts with a CSV file of orders and ends with recommendations that say why.
# It takes about a minute on two cores.

# %% [markdown]
# ## The orders
#
# A shop exports its orders as CSV: who bought what, and when. This one is made up.
# Its customers care for coffee, tea or baking, and some buy the same thing twice.

# %%
import numpy as np
import pandas as pd

rng = np.random.default_rng(1)
shelves = {"coffee": ["beans", "grinder", "kettle", "filter", "mug", "scale", "milk jug", "tamper"],
           "tea": ["green tea", "black tea", "teapot", "strainer", "honey", "cup", "tea tin", "lemon"],
           "baking": ["flour", "yeast", "tin", "whisk", "sugar", "rolling pin", "vanilla", "cocoa"]}  # fmt: skip
names = [name for shelf in shelves.values() for name in shelf]
orders = []
for customer in range(600):
    own = shelves[rng.choice(list(shelves))]
    for name in [*rng.choice(own, 5), *rng.choice(names, 2)]:
        orders.append(
            (
                f"c{customer:03}",
                names.index(name) + 100,
                name,
                f"2026-{rng.integers(1, 11):02}-{rng.integers(1, 29):02}",
            )
        )
shop = pd.DataFrame(orders, columns=["customer", "sku", "title", "bought_at"])
shop.to_csv("orders.csv", index=False)
shop.head()

# %% [markdown]
# ## Make a data set
#
# `prepare` counts what it drops and says why. The titles go into a file of their own.

# %%
# !recbole-vae prepare shop orders.csv --user=customer --item=sku --time=bought_at --title=title --min_user=3

# %% [markdown]
# ## Train
#
# Each customer's last two items are kept for validation and test.

# %%
# !recbole-vae run --dataset=shop --eval_args="{'split': {'LS': 'valid_and_test'}, 'order': 'TO', 'group_by': 'user', 'mode': 'full'}" --train_batch_size=100 --epochs=30 --show_progress=False > log.txt 2>&1
# !tail -n 20 log.txt

# %% [markdown]
# ## Recommend
#
# A checkpoint recommends to anybody with a history, also to a customer whom training never saw.

# %%
from pathlib import Path

from recbole_vae import Recommender

(checkpoint,) = Path("saved").glob("MultVAE-*.pth")
recommender = Recommender.load(checkpoint)
title = {str(number): name for number, name in enumerate(names, 100)}
for history in (["100", "101"], ["116", "117", "118"]):
    (ranking,) = recommender.recommend([history], k=3)
    print([title[item] for item in history], "->", [title[item] for item, score in ranking])

# %% [markdown]
# ## Explain
#
# The page shows which items of the history each recommendation rests on, and how its rank would change without them.

# %%
from recbole_vae.analysis.explain import Explainer, ItemText
from recbole_vae.analysis.explain_report import html

explainer = Explainer(recommender, {item: ItemText(name) for item, name in title.items()})
html([explainer.explain("new customer", ["100", "101", "108"], k=3)])

# %% [markdown]
# ## See what the model has learned
#
# The map puts items near each other that the same customers buy.

# %%
from recbole_vae.analysis.latent import describe
from recbole_vae.analysis.latent_report import html as latent_page

latent_page(describe(recommender, {item: ItemText(name) for item, name in title.items()}, latents=3))
