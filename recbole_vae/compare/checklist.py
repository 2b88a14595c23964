"""The reviewer's checklist of a table: what an appendix has to say, from what the runs recorded; the rest is "not measured"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recbole_vae.compare import cells, description
from recbole_vae.compare.analysis import Row, Table
from recbole_vae.compare.provenance import versions
from recbole_vae.compare.results import Comparison, Run

NOT_MEASURED = "not measured"


def answers(table: Table, comparison: Comparison) -> list[tuple[str, str]]:
    """Return the items of the checklist with their answers."""
    said = dict(cells.facts(table, comparison))
    runs = [run for row in table.rows for run in row.done]
    metrics = "; ".join(f"{name}: {words}" for name, words in description.definitions(table.metrics))
    left_out = [remark for remark in cells.not_done(table) if remark]
    lists = [
        f"{row.label}: {run.lists['file']} ({_hash(run.lists['sha256'])})"
        for row in table.rows
        for run in row.done
        if run.lists
    ]
    found = {
        "Data": said.get("Data"),
        "Split": said.get("Split"),
        "SHA-256 of the split": _hashes(runs),
        **_leaks(runs),
        "Candidates": said.get("Candidates"),
        "Metrics": metrics,
        "Choice of the epoch": said.get("Epoch", "no row was trained by epochs" if runs else None),
        "Still training at the limit of epochs": _cut(table.rows),
        "Tuning": _tuning(table.rows, comparison),
        "Seeds": _seeds(table, comparison),
        "Test users": said["Test users"] if runs else None,
        "Tests": said.get("Tests", said.get("Nothing was tested", "none; there are no two rows to compare")),
        "Rows that failed or were left out": " ".join(left_out) or "none",
        **({"Lists of other tools": "; ".join(lists)} if lists else {}),
        "Versions": ", ".join(f"{name} {version}" for name, version in versions(runs).items()),
        "Hardware": "; ".join(dict.fromkeys(run.device for run in runs if run.device)),
        "Command": comparison.command,
    }
    return [(item, (answer or NOT_MEASURED).rstrip(".")) for item, answer in found.items()]


def _hash(digest: str) -> str:
    return f"SHA-256 {digest[:16]}"


def _hashes(runs: Sequence[Run]) -> str:
    by_seed: dict[int, dict[str, None]] = {}
    for run in runs:
        if run.split_hash:
            by_seed.setdefault(run.seed, {})[run.split_hash[:16]] = None
    if not by_seed:
        return ""
    same = all(len(each) == 1 for each in by_seed.values())
    listed = "; ".join(f"seed {seed}: {' and '.join(each)}" for seed, each in sorted(by_seed.items()))
    return f"{listed} ({'the same for all rows' if same else 'not the same for all rows, which are not comparable'})"


def _leaks(runs: Sequence[Run]) -> dict[str, str]:
    """Return what the runs counted in their splits; each split counts once, however many rows it has."""
    checks: list[dict[str, Any]] = list(
        {run.split_hash: run.data["checks"] for run in runs if "checks" in run.data}.values()
    )
    items = (
        "Test pairs in other parts", "Test users in training", "Test users without a history", "Test items without training",
        "Time",
    )  # fmt: skip
    if not checks:
        return dict.fromkeys(items, "")

    def of(part: str, whole: str) -> str:
        shares = dict.fromkeys(f"{each[part]:,} of {each[whole]:,}" for each in checks)
        return " and ".join(shares)

    held_out = checks[0]["in_fold_in"] is not None
    pairs = f"in training {of('in_training', 'test_pairs')}, in validation {of('in_validation', 'test_pairs')}"
    pairs += f", in the fold-in {of('in_fold_in', 'test_pairs')}" if held_out else ""
    if checks[0]["late"] is not None:
        time = (
            f"test users with a training interaction later than their first of the test: {of('late_users', 'test_users')}; "
            f"training interactions later than the first test interaction of anybody: {of('late', 'training')}"
        )
    else:
        time = f"{NOT_MEASURED}: " + ("users are held out" if held_out else "the times of interactions were not loaded")
    values = (
        pairs,
        of("in_training_users", "test_users"),
        of("new_users", "test_users"),
        of("new_items", "test_items"),
        time,
    )
    return dict(zip(items, values, strict=True))


def _cut(rows: Sequence[Row]) -> str:
    """Say which runs had all epochs that they may have, so that a later one might have been better."""
    words = []
    trained = [(row, [run for run in row.done if run.epochs is not None and "epochs" in run.settings]) for row in rows]
    for row, runs in trained:
        cut = sum(run.epochs >= run.settings["epochs"] for run in runs)
        if cut:
            words.append(f"{row.label}: {cut} of {len(runs)} runs")
    return "; ".join(words) or ("none" if any(runs for _, runs in trained) else "no row was trained by epochs")


def _tuning(rows: Sequence[Row], comparison: Comparison) -> str:
    if not comparison.tuned:
        foreign = "; not known of the lists of other tools" if any(row.foreign for row in rows) else ""
        return f"no trials in this comparison; settings are those that were given, else defaults{foreign}"
    words = []
    for row in rows:
        trials = cells.trials_of(row)
        if row.foreign:
            words.append(f"{row.label}: not known")
        elif trials:
            done = sum(each["status"] == "done" for each in trials)
            spent = cells.duration(sum(each["seconds"] for each in trials))
            number = f"{len(trials)} trial{'s' * (len(trials) != 1)}"
            words.append(f"{row.label}: {number} ({done} done), {spent}")
        else:
            words.append(f"{row.label}: none")
    return f"{cells.budget(comparison)}. {'; '.join(words)}. Judged on the validation part"


def _seeds(table: Table, comparison: Comparison) -> str:
    split = comparison.settings.get("split_seed")
    hashes = {run.split_hash for row in table.rows for run in row.done}
    if split is not None:
        of = f"of the model; the split has seed {split}"
    elif len(table.seeds) > 1 and len(hashes) == 1:
        of = "of the model; the split is the same for all"
    else:
        of = "of the model and the split"
    return f"{', '.join(map(str, table.seeds))} ({of})"
