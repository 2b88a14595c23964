"""Generated command lines with their files, and for each what its numbers must be."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import yaml
from hypothesis import strategies as st

from recbole_vae.cli import main
from recbole_vae.compare.plan import KEYS
from recbole_vae.options.fields import ModelConfig
from tests.fuzz import oracle, tables
from tests.fuzz.run import Case, Ended
from tests.fuzz.tables import Draw, Table

Check = Callable[[Ended], str]
"""Asserts that the numbers are right, and returns how the case ended."""

MODELS = [
    "MultVAE",
    "MultVAE",
    "MultDAE",
    "HybridVAE",
    "VampVAE",
    "VASP",
    "CompositeVAE",
    "EASE",
    "Pop",
    "ItemKNN",
    "BPR",
]
LEAVE_ONE_OUT = "{'split': {'LS': 'valid_and_test'}, 'order': 'TO', 'group_by': 'user', 'mode': 'full'}"
RANDOM = "{'split': {'RS': [0.8, 0.1, 0.1]}, 'order': 'RO', 'group_by': 'user', 'mode': 'full'}"
FAST = ["--epochs=1", "--show_progress=False", "--use_gpu=False", "--data_path=data", "--dataset=tiny"]
WILD: list[Any] = [
    None, True, False, -1, 0, 1, 2, 5, 0.5, -0.5, 1e-9, 1e9, 1e300, math.inf, math.nan, 2**70, "", " ", "x", "None", "[1", "1e3",
    "NDCG", "NDCG@5", "Recall", "AUC", [], [0], [1], [5, 10], [-1], ["x"], [None], [[1]], {}, {"a": 1}, {1: [2]}, "user_id",
    "é", "[1,3)",
]  # fmt: skip

wild = st.one_of(
    st.sampled_from(WILD),
    st.integers(-(2**40), 2**40),
    st.floats(),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
    st.lists(st.sampled_from(WILD), max_size=3),
    st.dictionaries(
        st.sampled_from(
            ["RS", "LS", "TS", "HU", "order", "mode", "split", "rating", "item_id", "inter", "distribution"]
        ),
        st.sampled_from(WILD),
        max_size=2,
    ),
)


def own(model: str) -> list[str]:
    """Return the options that a model needs on few users."""
    return ["--n_pseudo_inputs=1"] if model == "VampVAE" else []


def tiny(seed: int = 0, users: int = 14, items: int = 12) -> Table:
    """Make a good table, with times in seconds and ratings."""
    rng = np.random.default_rng(seed)
    lines = [
        f"u{user}\ti{item}\t{1_700_000_000 + 40 * user + place}\t{rng.integers(1, 6)}"
        for user in range(users)
        for place, item in enumerate(rng.permutation(items)[: rng.integers(4, 9)])
    ]
    rng.shuffle(lines)
    text = "\n".join(["user_id:token\titem_id:token\ttimestamp:float\trating:float", *lines]) + "\n"
    columns = {"user": "user_id:token", "item": "item_id:token", "time": "timestamp:float"}
    return Table(text.encode(), "\t", "utf-8", columns)


def confirmed(ended: Ended, table: Table) -> str:
    """Assert that the metrics that were printed are those of the checkpoint's scores on the last item of each user."""
    if ended.status or "scores" not in ended.report:
        return ended.outcome
    _, found = oracle.printed(ended.out)
    scores = ended.report["scores"]
    rows = tables.truth(table, quoted=table.separator in ",;|", strip=False)
    assert rows is not None, f"{ended.folder}: trained on a table whose lines are not all alike"
    times = tables.moments(rows.time)
    assert times is not None, f"{ended.folder}: ordered by what is no time"
    train, valid, test = oracle.leave_one_out(rows.assign(time=times))
    assert set(scores) == set(rows.user), f"{ended.folder}: other users"
    for user, ranking in scores.items():
        assert not set(train[user]) & {item for item, _ in ranking}, (
            f"{ended.folder}: {user!r} has items of the test in training"
        )
    number = 0
    for k in {int(name.partition("@")[2]) for name in found}:
        for name, (low, high) in oracle.metrics(scores, valid, test, k).items():
            if name in found:
                number += 1
                assert low - 6e-5 <= found[name] <= high + 6e-5, (
                    f"{ended.folder}: {name} {found[name]}, not {low} to {high}"
                )
    return "done, numbers confirmed" if number else ended.outcome


@st.composite
def data_files(draw: Draw) -> tuple[Case, Check]:
    """Draw a data set, and train on it."""
    table, others = draw(tables.atomic_files())
    files = {"data/tiny/tiny.inter": table.content, **{f"data/tiny/tiny.{kind}": each for kind, each in others.items()}}
    k = draw(st.sampled_from([1, 2, 3]))
    exact = draw(st.integers(0, 3)) > 0
    model = draw(st.sampled_from(MODELS))
    words = [
        "run", f"--model={model}", *own(model), *FAST, f"--topk=[{k}]", f"--valid_metric=NDCG@{k}",
        f"--eval_args={LEAVE_ONE_OUT if exact else RANDOM}", f"--field_separator={table.separator}",
    ]  # fmt: skip
    if table.encoding != "utf-8":
        words.append(f"--encoding={table.encoding}")
    return Case(words, files, scores=exact), lambda ended: confirmed(ended, table) if exact else ended.outcome


@st.composite
def tables_to_prepare(draw: Draw) -> tuple[Case, Check]:
    """Draw a table of anybody's, and make a data set of it."""
    table = draw(tables.anybodys_tables())
    words = ["prepare", "shop", "shop.csv", *(f"--{kind}={name}" for kind, name in table.columns.items())]
    least = {}
    for name in draw(st.lists(st.sampled_from(["min_user", "min_item", "min_rating"]), unique=True, max_size=3)):
        if name != "min_rating" or "rating" in table.columns:
            least[name] = draw(st.integers(1, 4))
            words.append(f"--{name}={least[name]}")
    keep = draw(st.sampled_from(["first", "last", "count"]))
    words.append(f"--keep={keep}")
    if table.encoding not in ("utf-8", "utf-8-sig", "utf-16"):
        words.append(f"--encoding={table.encoding}")

    def check(ended: Ended) -> str:
        if ended.status or table.separator == "parquet" or table.content[:2] == b"\x1f\x8b":
            return ended.outcome
        rows = tables.truth(table, quoted=table.separator != "\t", strip=True)
        assert rows is not None, f"{ended.folder}: took a table whose lines are not all alike"
        rows["number"] = range(len(rows))
        unit = 1
        if "time" in rows and len(rows):
            unit = 10**9 if "T" in rows.time.iloc[0] else 1
            times = tables.moments(rows.time)
            assert times is not None, f"{ended.folder}: took what is no time"
            rows["time"] = times
        if "min_rating" in least:
            rows = rows[rows.rating.astype(float) >= least["min_rating"]]
        ordered = rows.sort_values("time", kind="stable") if "time" in rows else rows
        rows = ordered.drop_duplicates(["user", "item"], keep="last" if keep == "last" else "first").sort_values(
            "number"
        )
        before = -1
        while before != len(rows):
            before = len(rows)
            for kind in ("item", "user"):
                rows = rows[rows.groupby(kind)[kind].transform("size") >= least.get(f"min_{kind}", 1)]
        written = (ended.work / "dataset/shop/shop.inter").read_text(encoding="utf-8").removesuffix("\n").split("\n")
        header, *lines = (line.split("\t") for line in written)
        assert [line[:2] for line in lines] == rows[["user", "item"]].to_numpy().tolist(), (
            f"{ended.folder}: other lines"
        )
        if "timestamp:float" in header:
            found = [Decimal(line[header.index("timestamp:float")]) for line in lines]
            assert found == [each / unit for each in rows.time], f"{ended.folder}: other times"
        return "done, numbers confirmed"

    return Case(words, {"shop.csv": table.content}), check


OPTIONS = sorted({
    *ModelConfig.names(), "mlp_hidden_size", "latent_dimension", "dropout_prob", "anneal_cap", "total_anneal_steps", "eval_args",
    "metrics", "topk", "valid_metric", "train_batch_size", "learning_rate", "eval_step", "stopping_step", "seed", "load_col",
    "unload_col", "val_interval", "threshold", "user_inter_num_interval", "item_inter_num_interval", "train_neg_sample_args",
    "field_separator", "encoding", "benchmark_filename", "USER_ID_FIELD", "TIME_FIELD", "RATING_FIELD", "normalize_field",
    "learner", "weight_decay", "clip_grad_norm", "checkpoint_dir", "reproducibility", "state", "metric_decimal_place",
    "repeatable",
    "rm_dup_inter", "filter_inter_by_user_or_item", "fill_nan", "save_dataset", "loss_decimal_place", "show_progress", "worker",
    "unknown_option", "hidden_size", "alias_of_item_id", "additional_feat_suffix", "numerical_features", "discretization",
})  # fmt: skip
GOOD: dict[str, list[Any]] = {
    "latent_dimension": [4], "mlp_hidden_size": [[8], []], "metrics": [["NDCG", "Recall"], ["Hit"], "MRR"],
    "topk": [[3], 5, [1, 2]],
    "valid_metric": ["NDCG@3", "Recall@3"], "learning_rate": [0.01, 1e-5], "train_batch_size": [1, 3, 4096],
    "eval_step": [0, 1, 7],
    "val_interval": [{"rating": "[3,inf)"}, {"timestamp": "[0,1e18]"}], "seed": [1], "learner": ["sgd", "adamw"],
    "weight_averaging": [3], "popularity_correction": [0.5], "propensity_weight": [0.2], "value_field": ["rating"],
    "precision": ["bfloat16", "float32"], "fast_evaluation": [False], "repeats": ["first", "keep"], "weight_decay": [0.1],
    "load_col": [{"inter": ["user_id", "item_id"]}, None], "eval_batch_size": [1, 100], "save_dataset": [True],
    "user_inter_num_interval": ["[3,inf)"], "rm_dup_inter": ["last"], "clip_grad_norm": [{"max_norm": 1.0}],
    "eval_args": [{"split": {"HU": [2, 2]}}, {"split": {"TS": [8, 1, 1]}}, {"split": {"RS": [1, 0, 0]}}],
}  # fmt: skip
CHANGE_DATA = {
    "val_interval", "user_inter_num_interval", "item_inter_num_interval", "repeats", "rm_dup_inter",
    "filter_inter_by_user_or_item", "benchmark_filename", "threshold", "field_separator", "alias_of_item_id",
    "TIME_FIELD", "fill_nan", "exact_time", "eval_args",
}  # fmt: skip


@st.composite
def settings(draw: Draw, most: int = 3) -> dict[str, Any]:
    """Draw options, half of the time one of them with a value that it can hardly have."""
    found = {}
    one_bad = draw(st.booleans())
    for name in draw(st.lists(st.sampled_from(sorted(GOOD)), unique=True, min_size=1, max_size=most)):
        found[name] = draw(st.sampled_from(GOOD[name]))
    if one_bad:
        found[draw(st.sampled_from(OPTIONS))] = draw(wild)
    return found


@st.composite
def config_files(draw: Draw) -> tuple[Case, Check]:
    """Draw a config file of RecBole's, and train with it."""
    content = draw(settings())
    text = yaml.safe_dump(content, allow_unicode=True).encode("utf-8")
    if draw(st.integers(0, 4)) == 0:
        text = tables.damage(draw, text, ":")
    table = tiny()
    plain = "eval_args" not in content
    model = draw(st.sampled_from(MODELS))
    words = ["run", f"--model={model}", *own(model), *FAST, "--config_files=c.yaml"]
    if plain:
        words.append(f"--eval_args={LEAVE_ONE_OUT}")
    confirmable = (
        plain and not CHANGE_DATA & set(content) and text == yaml.safe_dump(content, allow_unicode=True).encode()
    )
    case = Case(words, {"data/tiny/tiny.inter": table.content, "c.yaml": text}, scores=confirmable)
    return case, lambda ended: confirmed(ended, table) if confirmable else ended.outcome


@st.composite
def plans(draw: Draw) -> tuple[Case, Check]:
    """Draw a plan of ``compare``, and do it in one process."""
    models = draw(
        st.lists(st.sampled_from(["EASE", "Pop", "MultVAE", "ItemKNN", "NoModel", "GRU4Rec"]), min_size=1, max_size=2)
    )
    rows: Any = [{"model": model} for model in models]
    if draw(st.booleans()):
        rows[0] |= {"label": draw(st.sampled_from(["A", "", None, 3, "<b>", "EASE"])), "settings": draw(settings(1))}
    plan: dict[str, Any] = {"rows": rows, "dataset": "tiny", "topk": [3], "max_k": 4}
    plan["settings"] = {"data_path": "data", "epochs": 1, "use_gpu": False}
    for name in draw(st.lists(st.sampled_from(KEYS), unique=True, max_size=2)):
        if name in ("scheduler", "trials", "seeds", "time_limit", "memory_limit", "jobs"):
            plan[name] = draw(st.sampled_from([-1, 0, "x", None, [], 1.5, {}]))
        else:
            plan[name] = draw(st.one_of(wild, settings(2)))
    text = yaml.safe_dump(plan, allow_unicode=True).encode()
    if draw(st.integers(0, 4)) == 0:
        text = tables.damage(draw, text, ":")
    case = Case(
        ["compare", "--config=p.yaml", "--out=o"],
        {"data/tiny/tiny.inter": tiny().content, "p.yaml": text},
        in_process=True,
    )

    def check(ended: Ended) -> str:
        if ended.status:
            return ended.outcome
        number = 0
        for file in (ended.work / "o/runs").glob("*/result.json"):
            run = json.loads(file.read_text())
            if run["status"] == "done" and (file.parent / "users.npz").is_file():
                with np.load(file.parent / "users.npz") as users:
                    for name, value in run["test"].items():
                        if name in users:
                            number += 1
                            assert math.isclose(users[name].mean(), value, abs_tol=6e-5), f"{file}: {name}"
            elif run["status"] == "failed":
                assert not any(each in run["reason"] for each in ("Error)", "Exception)")), f"{file}: {run['reason']}"
        return "done, numbers confirmed" if number else ended.outcome

    return case, check


NOT_DRAWN = {"help", "workers", "nproc", "world_size", "ip", "port", "scheduler", "seeds", "tune", "jobs", "epochs"}
"""Options that start processes, ask the network, or take long."""


def options_of(command: str) -> list[str]:
    """Return the options that a command declares."""
    parser = main.module(command).parser()
    return sorted({action.dest for action in parser._actions if action.option_strings} - NOT_DRAWN)


COMMANDS = {name: options_of(name) for group in main.COMMANDS.values() for name in group}
COMMANDS["run"] += OPTIONS[::4]
WORDS = [
    "", "-", ".", "..", "/", "c.pth", "data", "data/tiny/tiny.inter", "h.csv", "x", "0", "1", "3", "-1", "1.5", "1e9",
    "inf", "nan", "9" * 20, "9" * 5000, "True", "[1", "[]", "[1,2]", "NDCG", "NDCG@3", "u1", "u1,u2", '"u1', "EASE", "MultVAE",
    "None", "é", "\u0665", "a=b", "o",
]  # fmt: skip


@st.composite
def command_lines(draw: Draw, originals: dict[str, bytes]) -> tuple[Case, Check]:
    """Draw a command with options that it has, and some that it does not."""
    command = draw(
        st.sampled_from(
            [*COMMANDS, "recommend", "explain", "latent", "uncertainty", "generate", "rnu", "--version", ""]
        )
    )
    words = [command]
    if command in ("recommend", "explain", "latent", "uncertainty", "generate") and draw(st.integers(0, 3)):
        words.append("--checkpoint=c.pth")
    if command == "prepare":
        words += [
            draw(st.sampled_from(["shop", "ml-1m", "1", ""])),
            draw(st.sampled_from(["h.csv", "nowhere", "data", "c.pth"])),
        ]
    if command == "exec":
        words += draw(st.sampled_from([[], ["nowhere.py"], ["data"], ["s.py", "--x=1"], ["s.py"]]))
    if command == "run":
        words += FAST
    for name in draw(st.lists(st.sampled_from(COMMANDS.get(command, ["k"])), max_size=4, unique=True)):
        word = draw(st.one_of(st.sampled_from(WORDS), tables.names))
        form = draw(st.integers(0, 9))
        words += [[f"--{name}", word], [f"--{name}"], [f"--{name[:-1]}={word}"], [f"--{name}={word}"]][min(form, 3)]
    if command == "compare":
        words += ["--models=Pop", "--out=o", "--epochs=1", "--data_path=data", "--dataset=tiny"][
            : draw(st.integers(0, 5))
        ]
    if command == "bench":  # what is right would take minutes
        words += ["--no_such_option=x"]
    files = {
        "data/tiny/tiny.inter": tiny().content, "c.pth": originals["MultVAE"], "h.csv": b"user_id,item_id\na,i1\na,i2\nb,i3\n",
        "s.py": b"import sys\nprint(len(sys.argv))\n",
    }  # fmt: skip
    return Case(words, files, stdin=b"user_id,item_id\na,i1\n", in_process=True), lambda ended: ended.outcome
