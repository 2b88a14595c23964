"""The files of a comparison say what the runs say, whatever is missing."""

from __future__ import annotations

import csv
import json
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats

from recbole_vae.compare import provenance, report, tables
from recbole_vae.compare.analysis import Table, cubes
from recbole_vae.compare.analysis import tables as analyse
from recbole_vae.compare.cells import duration, number, parts, progress, remarks
from recbole_vae.compare.outputs import write
from recbole_vae.compare.results import DONE, FAILED, NOT_RUN, REFUSED, WAITING, Comparison, Run, Users
from recbole_vae.errors import DataError, RecBoleVAEError

from .synthetic import make_comparison, make_run

HOSTILE = "A&B_%$#{}~^\\ <script>alert(1)</script> | *x* </script>"


@pytest.fixture(scope="module")
def small() -> Comparison:
    return make_comparison(seeds=3, users=120, epochs=6)


@pytest.fixture(scope="module")
def found(small: Comparison) -> list[Table]:
    return analyse(small)


def test_means_and_tests_are_those_of_the_users(small: Comparison, found: list[Table]) -> None:
    table = found[0]
    runs = {
        (run.label, run.seed): run for run in small.runs if run.protocol == table.protocol and run.users is not None
    }
    mean, deviation = table.row("EASE").over_seeds("ndcg@10") or (0, 0)
    values = [runs["EASE", seed].test["ndcg@10"] for seed in (1, 2, 3)]
    assert mean == pytest.approx(np.mean(values))
    assert deviation == pytest.approx(np.std(values, ddof=1))
    # NeuMF failed with seed 2: only the others are paired.
    users = {key: run.users.metrics["ndcg@10"].astype(float) for key, run in runs.items() if run.users is not None}
    difference = np.mean([users["NeuMF", seed] - users["MultVAE", seed] for seed in (1, 3)], axis=0)
    test = table.against_reference["NeuMF", "ndcg@10"]
    assert test.users == 120
    assert test.difference[0] == pytest.approx(difference.mean())
    assert test.standardised[0] == pytest.approx(difference.mean() / difference.std(ddof=1))
    assert test.p_wilcoxon == pytest.approx(stats.wilcoxon(difference).pvalue)


def test_held_out_users_are_paired_by_their_ids(small: Comparison, found: list[Table]) -> None:
    runs = [run for run in small.runs if run.protocol == found[1].protocol and run.users is not None]
    pairs: dict[str, list[float]] = {}
    for seed in (1, 2, 3):
        a, b = (
            next(run.users for run in runs if (run.label, run.seed) == (label, seed))
            for label in ("MultDAE", "MultVAE")
        )
        assert a is not None and b is not None  # noqa: PT018
        for user, x, y in zip(a.ids, a.metrics["mrr@10"], b.metrics["mrr@10"], strict=True):
            pairs.setdefault(user, []).append(float(x) - float(y))
    test = found[1].against_reference["MultDAE", "mrr@10"]
    assert test.users == len(pairs) > 120
    assert test.difference[0] == pytest.approx(np.mean([np.mean(each) for each in pairs.values()]))


def test_the_order_of_users_does_not_matter(small: Comparison, found: list[Table]) -> None:
    runs = []
    for place, run in enumerate(small.runs):
        if run.users is not None:
            order = np.random.default_rng(place).permutation(len(run.users.ids))
            metrics = {name: values[order] for name, values in run.users.metrics.items()}
            run = replace(run, users=Users(run.users.ids[order], run.users.history_length[order], metrics))
        runs.append(run)
    for before, after in zip(found, analyse(replace(small, runs=runs)), strict=True):
        for key, test in before.pairs.items():
            assert after.pairs[key].difference[0] == pytest.approx(test.difference[0])
            assert after.pairs[key].p_wilcoxon == pytest.approx(test.p_wilcoxon)


def test_families_and_marks(found: list[Table]) -> None:
    table = found[0]
    done = [row.label for row in table.rows if row.done]
    assert "NGCF" not in done
    assert len(table.pairs) == len(done) * (len(done) - 1) / 2
    assert len(table.against_best) == len(table.against_reference) == 4 * (len(done) - 1)
    assert table.best["ndcg@10"][0] == "EASE"
    assert not table.ties_with_best("Pop", "ndcg@10")
    assert table.differs_from_reference("Pop", "ndcg@10")
    # The tests of a family are corrected for its size, the same test in another for that one's.
    pop = table.against_reference["Pop", "ndcg@10"]
    assert pop.holm > pop.p
    assert pop.p == table.pairs["MultVAE", "Pop"].p
    assert table.samples >= 10 * len(table.pairs) / table.alpha


def test_equal_rows_tie(small: Comparison) -> None:
    same = [replace(run, label="EASE again") for run in small.runs if run.label == "EASE"]
    table = analyse(replace(small, runs=[*small.runs, *same]))[0]
    cells = dict(parts(table)[0].rows)
    assert cells["EASE"][1].rank == cells["EASE again"][1].rank == 1
    assert cells["EASE again"][1].ties
    assert table.against_best["EASE again", "ndcg@10"].p == 1.0


def test_where_all_are_equal_none_is_best(small: Comparison) -> None:
    runs = [replace(run, test={**run.test, "tailrecall@10": 0.0}) for run in small.runs]
    part = parts(analyse(replace(small, runs=runs))[0])[1]
    place = part.headers.index("Tail recall")
    assert not any(cells[place].rank for _, cells in part.rows)
    runs = [
        replace(run, test={**run.test, "tailrecall@10": 0.1 * (run.label == "EASE")}) for run in small.runs
    ]  # those that share the last place are no second
    part = parts(analyse(replace(small, runs=runs))[0])[1]
    assert {label: cells[place].rank for label, cells in part.rows if cells[place].rank} == {"EASE": 1}


def test_no_direction_no_bold(found: list[Table]) -> None:
    part = parts(found[0])[1]
    assert part.title == "Beyond accuracy, k = 10"
    ranks = {name: [cells[i].rank for _, cells in part.rows] for i, name in enumerate(part.headers)}
    assert 1 in ranks["Coverage"]
    assert not any(ranks["Gini index"])
    assert not any(ranks["Popularity"])


def test_text(small: Comparison, found: list[Table]) -> None:
    text = tables.text(found, small)
    flat = " ".join(text.split())
    for words in (
        "0.3",
        "(1)",
        "(2)",
        "Test users: 120",
        "standard deviation over 3 seeds.",
        "Tuning: none; settings are the defaults and the plan's.",
        "alpha = 0.05",
        "Holm's correction is over all pairs of rows in all metrics of this table (",
        "NGCF: out of memory: needs more than 8 GB.",
        "NeuMF: failed (seed 2): loss is nan in epoch 3 <&_%$#>.",
        "its means are of 2 of 3 seeds",
        "BPR: cannot take part: BPR knows no users it was not trained on.",
        "over 3 seeds, which have different test users",
    ):
        assert words in flat
    assert flat.count("DiffRec: numpy.int was mended.") == 2  # once for each table
    assert max(map(len, text.splitlines())) < 140


def test_one_seed_and_a_budget() -> None:
    comparison = make_comparison(models=3, seeds=1, users=30, trials=4, epochs=2)
    text = tables.text(analyse(comparison), comparison)
    said = "compare these trained models: another training may end otherwise. Tuning: 4 trials for each row with a search space."
    assert said in " ".join(text.split())
    assert "±" not in text


def test_another_split_is_said(small: Comparison) -> None:
    runs = [replace(run, split_hash="f" * 64) if (run.label, run.seed) == ("EASE", 2) else run for run in small.runs]
    comparison = replace(small, runs=runs)
    assert "EASE (seed 2) ran on another split than the rows above" in tables.text(analyse(comparison), comparison)


def test_markdown_and_latex_escape(small: Comparison) -> None:
    runs = [replace(run, label=HOSTILE) if run.label == "BPR" else run for run in small.runs]
    comparison = replace(small, runs=runs)
    found = analyse(comparison)
    markdown = tables.markdown(found, comparison)
    for line in markdown.splitlines():
        if line.startswith("| MultVAE "):
            columns = line.count("|")
        if line.startswith("| A&B"):
            assert len(re.findall(r"(?<!\\)\|", line)) == columns
    assert "<script>" not in markdown
    latex = tables.latex(found, comparison)
    assert r"A\&B\_\%\$\#\{\}\textasciitilde{}\textasciicircum{}\textbackslash{}" in latex
    assert r"\toprule" in latex
    assert latex.count(r"\begin{table}") == latex.count(r"\end{table}") == 6


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_latex_compiles(small: Comparison, tmp_path: Path) -> None:
    runs = [replace(run, label=HOSTILE) if run.label == "BPR" else run for run in small.runs]
    comparison = replace(small, runs=runs)
    (tmp_path / "table.tex").write_text(tables.latex(analyse(comparison), comparison), encoding="utf-8")
    document = r"\documentclass{article}\usepackage{booktabs}\begin{document}\input{table.tex}\end{document}"
    (tmp_path / "main.tex").write_text(document)
    words = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "main.tex"]
    run = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False)
    assert run.returncode == 0, run.stdout[-2000:]
    assert "Float(s) lost" not in run.stdout


def test_csv(small: Comparison, found: list[Table]) -> None:
    rows = list(csv.DictReader(tables.table_csv(found).splitlines()))
    ease = next(r for r in rows if (r["label"], r["metric"], r["protocol"]) == ("EASE", "ndcg@10", found[0].protocol))
    assert float(ease["mean"]) == pytest.approx(found[0].row("EASE").over_seeds("ndcg@10")[0])  # type: ignore[index]
    assert ease["seeds"] == ease["of_seeds"] == "3"
    failed = next(r for r in rows if r["label"] == "NGCF" and r["metric"] == "ndcg@10")
    assert (failed["mean"], failed["status"]) == ("", "out of memory")
    tests = list(csv.DictReader(tables.tests_csv(found).splitlines()))
    assert {r["family"] for r in tests} == {"best", "reference", "pairs"}
    assert all(float(r["p"]) <= float(r["p_holm"]) <= 1 for r in tests)
    assert all(float(r["difference_low"]) <= float(r["difference"]) <= float(r["difference_high"]) for r in tests)


def test_ranks_stand_in_the_table_and_in_the_report(small: Comparison, found: list[Table]) -> None:
    rows = [r for r in csv.DictReader(tables.table_csv(found).splitlines()) if r["protocol"] == found[0].protocol]
    ndcg = {r["label"]: r for r in rows if r["metric"] == "ndcg@10"}
    done = found[0].best["ndcg@10"]
    assert [ndcg[label]["rank"] for label in done] == [str(place) for place in range(1, len(done) + 1)]
    assert ndcg["NGCF"]["rank"] == ndcg["NGCF"]["rank_high"] == ""
    for label in done:
        low, rank, high = (int(ndcg[label][name]) for name in ("rank_low", "rank", "rank_high"))
        assert 1 <= low <= rank <= high <= len(done)
    assert ndcg["Pop"]["rank_low"] == str(len(done))
    assert any(ndcg[label]["rank_low"] != ndcg[label]["rank_high"] for label in done)
    assert {r["rank"] for r in rows if r["metric"] in ("itemcoverage@10", "seconds")} == {""}
    page = report.html(found, small)
    first = ndcg[done[0]]
    assert re.search(rf'data-value="1">\s*1\s*<small>\[{first["rank_low"]}, {first["rank_high"]}\]</small>', page)


@pytest.mark.parametrize("users", [1, 2, 3, 4])
def test_few_users_make_fewer_groups(users: int) -> None:
    comparison = make_comparison(models=2, seeds=1, protocols=1, users=users)
    rows = list(csv.DictReader(tables.groups_csv(analyse(comparison)).splitlines()))
    of_one = [r for r in rows if (r["label"], r["metric"], r["groups"]) == ("MultVAE", "ndcg@10", "users by history")]
    assert sum(int(r["users"]) for r in of_one) == users


def test_groups(small: Comparison, found: list[Table]) -> None:
    rows = [r for r in csv.DictReader(tables.groups_csv(found).splitlines()) if r["protocol"] == found[0].protocol]
    own = [run for run in small.runs if (run.label, run.protocol) == ("EASE", found[0].protocol)]
    assert all(run.users is not None for run in own)
    frame = pd.concat(
        pd.DataFrame({"user": run.users.ids, "length": run.users.history_length, **run.users.metrics})
        for run in own
        if run.users is not None
    )
    users = frame.groupby("user").mean()
    for metric in ("ndcg@10", "recall@10"):
        groups = [r for r in rows if (r["label"], r["metric"], r["groups"]) == ("EASE", metric, "users by history")]
        assert [r["group"] for r in groups] == ["1", "2", "3", "4", "5"]
        assert sum(int(r["users"]) for r in groups) == len(users)
        ends = [float(r[name]) for r in groups for name in ("history_low", "history_high")]
        assert ends == sorted(ends)
        assert (ends[0], ends[-1]) == (users["length"].min(), users["length"].max())
        for r in groups:
            inside = users[users["length"].between(float(r["history_low"]), float(r["history_high"]))][metric]
            assert len(inside) == int(r["users"])
            assert float(r["mean"]) == pytest.approx(inside.mean())
            assert float(r["standard_error"]) == pytest.approx(inside.sem())
    items = [r for r in rows if (r["label"], r["groups"]) == ("EASE", "items by popularity")]
    assert [r["group"] for r in items] == ["1", "2", "3", "4", "5"]
    for r, *same in zip(items, *(run.by_popularity for run in own), strict=True):
        assert r["metric"] == "recall@10"
        for column, name in (
            ("mean", "recall"),
            ("items", "items"),
            ("popularity", "popularity"),
            ("relevant", "relevant"),
        ):
            assert float(r[column]) == pytest.approx(np.mean([each[name] for each in same]))


def test_parquet(small: Comparison, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    few = make_run("ItemKNN", "held-out users", 9, 7, 0.2, True, 1)
    assert few.users is not None
    del few.users.metrics["mrr@10"]
    path = tmp_path / "users.parquet"
    path.write_bytes(tables.per_user_parquet([*small.runs, few]))
    table = parquet.read_table(path)
    assert table.column_names[:6] == ["dataset", "protocol", "label", "seed", "user_id", "history_length"]
    assert str(table.schema.field("label").type).startswith("dictionary")
    assert str(table.schema.field("user_id").type).startswith("dictionary")
    assert table.num_rows == 120 * sum(run.users is not None for run in small.runs) + 7
    assert table.column("mrr@10").null_count == 7
    frame = table.to_pandas()
    run = small.runs[0]
    assert run.users is not None
    mine = frame[(frame.label == run.label) & (frame.seed == run.seed) & (frame.protocol == run.protocol)]
    assert mine.user_id.tolist() == run.users.ids.tolist()
    np.testing.assert_array_equal(mine["ndcg@10"], run.users.metrics["ndcg@10"])
    empty = tmp_path / "empty.parquet"
    empty.write_bytes(tables.per_user_parquet([]))
    assert parquet.read_table(empty).num_rows == 0


def test_missing_pyarrow_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(RecBoleVAEError, match=r"pip install 'recbole_vae\[compare\]'"):
        tables.parquet()


def test_settings(small: Comparison) -> None:
    content = yaml.safe_load(provenance.settings_yaml(small, []))
    assert content["command"] == small.command
    assert len(content["runs"]) == len(small.runs)
    assert content["runs"][0]["settings"]["mlp_hidden_size"] == [600]
    assert content["versions"]["torch"] == "2.6.0"
    words = [
        "recbole-vae", "run", "--model=MultVAE", "--dataset=ml-100k", "--learning_rate=0.001", "--mlp_hidden_size=[600]",
        "--seed=1", "--metrics=['recall', 'ndcg', 'mrr', 'hit']", "--topk=[10]", "--valid_metric=ndcg@10",
    ]  # fmt: skip
    assert shlex.split(content["runs"][0]["command"]) == words
    # What only compare does has its command: a split seed of its own, Pop counted exactly.
    small.settings["split_seed"] = 1
    assert yaml.safe_load(provenance.settings_yaml(small, []))["runs"][0]["command"] == small.command


def test_what_is_no_number_is_refused(small: Comparison) -> None:
    run = make_run("EASE", "p", 1, 20, 0.3, False, 1)
    assert run.users is not None
    run.users.metrics["mrr@10"][3] = np.nan
    with pytest.raises(DataError, match=r"EASE on ml-100k \(p\), seed 1: mrr@10 is not a finite number"):
        analyse(replace(small, runs=[run]))
    run = make_run("EASE", "p", 1, 20, 0.3, False, 1)
    del run.test["hit@10"]
    with pytest.raises(DataError, match=r"the run has no hit@10 \(it has recall@10"):
        analyse(replace(small, runs=[run]))


def test_cubes_have_what_is_there(small: Comparison) -> None:
    table = analyse(small)[1]
    rows = [row for row in table.rows if row.done]
    for name, cube in cubes(rows, table.seeds, ["history_length", "ndcg@10"]):
        assert cube.shape[:2] == (len(rows), 3), name
        # Of each row and seed 120 users, but for the run that failed.
        there = (~np.isnan(cube)).sum(2)
        assert sorted(set(there.ravel())) == [0, 120]
        assert (there == 0).sum() == 1


def partial(comparison: Comparison, keep: str) -> Comparison:
    runs: list[Run] = list(comparison.runs)
    kept = {
        "none": [],
        "one": runs[:1],
        "a few": [
            run
            if run.seed == 1 or run.label in ("MultVAE", "EASE")
            else Run(run.dataset, run.protocol, run.label, run.model, run.seed, WAITING)
            for run in runs
        ],
        "without the reference": [run for run in runs if run.label != "MultVAE"],
        "only failed": [replace(run, status=FAILED, reason="why", users=None, test={}) for run in runs],
        "bare": [
            replace(run, curve=[], over_k={}, by_popularity=[], versions={}, settings={}, epochs=None)
            for run in runs[:6]
        ],
    }[keep]
    return replace(comparison, runs=kept)


@pytest.mark.parametrize("keep", ["none", "one", "a few", "without the reference", "only failed", "bare"])
def test_partial_results_are_written(small: Comparison, keep: str, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    comparison = partial(small, keep)
    text = write(comparison, tmp_path / "out" / "here")
    names = ["checklist.md", "groups.csv", "per_user.parquet", "report.html", "settings.yaml"]
    names += ["table.csv", "table.md", "table.tex", "tests.csv"]
    assert sorted(each.name for each in (tmp_path / "out" / "here").iterdir()) == names
    expected = {
        "none": "No run is finished yet.",
        "one": "Values: of one seed",
        "a few": "MultDAE: not run yet (seeds 2, 3).",
        "without the reference": "MultVAE, the row to compare with, is not done here",
        "only failed": "EASE: failed: why.",
        "bare": "MultVAE",
    }
    assert expected[keep] in text
    charts = re.search(
        r'<script type="application/json" id="charts">(.*?)</script>',
        (tmp_path / "out" / "here" / "report.html").read_text(encoding="utf-8"),
    )
    assert charts is not None
    for chart in json.loads(charts[1]):
        assert chart["traces"]
        assert all(trace["x"] for trace in chart["traces"])


def test_who_is_not_trained_by_epochs_is_said_once(small: Comparison) -> None:
    labels = ("EASE", "MultDAE")
    runs = [replace(run, epochs=None if run.label in labels else run.epochs) for run in small.runs]
    for table in analyse(replace(small, runs=runs)):
        (said,) = (each for each in remarks(table, small) if "epochs" in each)
        listed = said.removesuffix(".").partition(": ")[2].split(", ")
        assert set(labels) <= set(listed) <= {row.label for row in table.rows} - {"MultVAE"}


def test_a_note_names_its_seeds_where_others_lack_it(small: Comparison) -> None:
    def note(run: Run) -> list[str]:
        return ["of all"] if run.label == "EASE" else ["of these"] if run.seed > 1 else []

    made = replace(small, runs=[replace(run, notes=note(run)) for run in small.runs])
    for table in analyse(made):
        assert remarks(table, made)[-2:] == ["of all.", "of these (seeds 2, 3)."]


@pytest.mark.parametrize(
    ("value", "like", "words"),
    [(0.32, None, "0.3200"), (1.0, None, "1.0000"), (8.0797, None, "8.08"), (0.0117, 8.08, "0.01"), (351.46, None, "351.5"),
     (12345.6, None, "12,346")],
)  # fmt: skip
def test_numbers_have_the_decimals_of_their_size(value: float, like: float | None, words: str) -> None:
    assert number(value, like) == words


def test_durations() -> None:
    assert [duration(each) for each in (0.0, 0.099, 0.1, 119.9, 120, 7200)] == [
        "< 0.1 s", "< 0.1 s", "0.1 s", "119.9 s", "2.0 min", "2.0 h",
    ]  # fmt: skip


def test_tests_against_the_best_are_corrected_over_all_pairs(small: Comparison) -> None:
    """The best row was chosen on the same users: a correction over the other rows alone would call too much significant."""
    for table in analyse(small):
        rows = sum(bool(row.done) for row in table.rows)
        assert table.compared == rows * (rows - 1) // 2 * len(table.tested)
        first = min(table.against_best.values(), key=lambda test: test.p)
        assert first.holm == pytest.approx(min(1.0, first.p * table.compared))


def with_users(runs: int, users: int, new: int) -> Comparison:
    """Make a comparison of one seed whose first ``new`` of ``users`` test users have no training history."""
    comparison = make_comparison(models=runs, seeds=1, users=users, protocols=1)
    for run in comparison.runs:
        assert run.users is not None
        run.users.history_length = np.where(np.arange(users) < new, 0, 5)
    return comparison


@pytest.mark.parametrize(
    ("comparison", "reason"),
    [
        (
            with_users(3, 89, 89),
            "Nothing was tested: 89 of 89 test users have no training history, so that a model ranks the",
        ),
        (with_users(3, 89, 45), "Nothing was tested: 45 of 89 test users have no training history"),
        (with_users(3, 89, 44), ""),
        # 3 pairs in 4 metrics: the least p-value of n users is 2 / 2^n, and 12 / 2^(n - 1) <= 0.05 from n = 9 on.
        (
            with_users(3, 8, 0),
            "Nothing was tested: 8 test users are too few, for the least p-value that they allow is 0.0078",
        ),
        (with_users(3, 9, 0), ""),
    ],
)
def test_a_meaningless_test_is_left_out_and_the_caption_says_why(
    comparison: Comparison, reason: str, tmp_path: Path
) -> None:
    shown = write(comparison, tmp_path)
    (table,) = analyse(comparison)
    assert bool(table.against_best) == bool(table.pairs) == (not reason)
    plain = {"terminal": " ".join(shown.split())}
    plain |= {name: (tmp_path / name).read_text() for name in ("table.md", "table.tex", "report.html", "settings.yaml")}
    plain["settings.yaml"] = " ".join(str(yaml.safe_load(plain["settings.yaml"])["untested"]).split())
    for name, content in plain.items():
        assert reason in content if reason else "Nothing was tested" not in content, name
    cells = [cell for part in parts(table) for _, row in part.rows for cell in row]
    assert any(cell.marks for cell in cells) == (not reason)
    lines = (tmp_path / "tests.csv").read_text().splitlines()
    assert (len(lines) == 1) == bool(reason)
    assert ("randomisation test" in plain["report.html"]) == (not reason)


def test_one_seed_tests_the_models_that_were_trained() -> None:
    comparison = with_users(3, 40, 0)
    words = tables.markdown(analyse(comparison), comparison)
    assert (
        "no deviation over seeds. The tests compare these trained models: another training may end otherwise." in words
    )


@pytest.mark.parametrize(
    ("statuses", "said"),
    [
        ([DONE, DONE, WAITING], "2 of 3 runs done"),
        ([DONE, REFUSED, FAILED], "1 of 3 runs done, 1 cannot take part"),
        ([DONE] * 1200 + [NOT_RUN] * 2, "1,200 of 1,200 runs done; 2 are not to be run"),
        ([], "0 of 0 runs done"),
    ],
)
def test_runs_are_counted_of_those_that_are_to_be_done(statuses: list[str], said: str) -> None:
    assert progress([Run("d", "p", "l", "m", n, status) for n, status in enumerate(statuses)]) == said
