"""The mixture that HybridVAE chooses on the validation part."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch

from recbole_vae import Recommender
from recbole_vae.errors import CheckpointError, DataError
from recbole_vae.model import hybridvae
from recbole_vae.nn.kernel import UserKernel
from recbole_vae.storage import checkpoint
from recbole_vae.training import mixture
from recbole_vae.training.mixture import bagged, likeliest, simplex
from recbole_vae.training.refit import recipe
from tests.conftest import Builder, Run, random_rows, write_inter
from tests.training.test_refit import refit

AUTO = dict.fromkeys(hybridvae.WITHOUT_VALIDATION.keys() - {"linear_features"}, "auto")
METRIC: dict[str, Any] = {"valid_metric": "NDCG@5", "metrics": ["NDCG", "Recall"], "topk": [5]}


def auto(build: Builder, **options: Any) -> Run:
    options = {"data_path": write_inter(random_rows(80, 30, 1)), "epochs": 3, **METRIC, **AUTO, **options}
    return build("HybridVAE", "tiny", **options)


def interrupted(build: Builder, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Run:
    """Train, but end by Ctrl-C when the mixture is to be chosen."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    run = auto(build, **options)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("recbole_vae.training.trainer.mix", interrupt)
        run.fit()
    return run


def begun(run: Run) -> mixture._Search:
    """Train, and begin the search for the mixture."""
    run.fit()
    search = mixture._Search(run.model, mixture._Judge(run.trainer, run.valid))
    run.model.forget()
    search.begin()
    return search


def _too_large(*_: Any, **__: Any) -> None:
    raise DataError("the kernel path needs 99 GB")


def test_all_ways_to_share_one() -> None:
    ways = simplex(3, 4)
    assert ways.shape == (15, 3)
    np.testing.assert_allclose(ways.sum(1), 1)
    assert len({tuple(way) for way in ways.tolist()}) == 15
    assert simplex(1, 10).tolist() == [[1.0]]


def test_a_mixture_that_is_best_for_all_users_is_chosen() -> None:
    mixtures = simplex(2, 10)
    values = np.tile(-np.abs(mixtures[:, :1] - 0.3), (1, 50))
    np.testing.assert_allclose(bagged(values, mixtures), [0.3, 0.7])


def test_mixtures_that_are_equally_good_count_equally() -> None:
    mixtures = simplex(2, 10)
    np.testing.assert_allclose(bagged(np.ones((11, 20)), mixtures), [0.5, 0.5])


def test_where_users_are_few_the_shares_lie_between_those_of_the_samples() -> None:
    values = np.array([[1.0, 0.0, 0.0], [0.0, 0.9, 0.0]])  # for two of three users one end each is better
    found = bagged(values, np.eye(2))
    assert 0.3 < found[1] < found[0] < 0.7


def log_likelihood(weights: Any, scores: Any, relevant: Any) -> float:
    """What the shares maximise, user by user and item by item."""
    total = 0.0
    for mine, wanted in zip(scores, relevant, strict=True):
        here = np.isfinite(mine).all(-1)
        logits = mine[here] @ weights
        chances = np.exp(logits) / np.exp(logits).sum()
        if wanted[here].any():
            total += np.log(chances[wanted[here]]).mean()
    return total - mixture._RIDGE * float(np.square(weights).sum())


def lists(users: int, places: int, weights: list[float], seed: int = 0) -> tuple[Any, Any]:
    """Draw scores, and relevant items by these weights."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(users, places, len(weights)))
    logits = scores @ np.array(weights) + rng.gumbel(size=(users, places))
    relevant = logits >= np.sort(logits, 1)[:, -2:-1]
    scores[rng.random((users, places)) < 0.1] = -np.inf
    return scores, relevant


def test_the_shares_are_those_by_which_the_relevant_items_are_likeliest() -> None:
    scores, relevant = lists(60, 9, [1.0, 0.5])
    relevant[0] = False
    found = likeliest(scores, relevant)
    grid = [(a, b) for a in np.linspace(0, 3, 31) for b in np.linspace(0, 3, 31)]
    best = max(grid, key=lambda each: log_likelihood(np.array(each), scores, relevant))
    np.testing.assert_allclose(found, best, atol=0.06)
    for step in ([0.01, 0], [-0.01, 0], [0, 0.01], [0, -0.01]):
        other = log_likelihood(found + step, scores, relevant)
        assert log_likelihood(found, scores, relevant) > other


def test_many_lists_give_back_the_weights_that_drew_them() -> None:
    scores, relevant = lists(4000, 30, [1.5, 0.5, 0.0])
    found = likeliest(scores, relevant)
    np.testing.assert_allclose(found / found.sum(), [0.75, 0.25, 0.0], atol=0.05)


def test_a_part_that_misleads_has_no_share() -> None:
    scores, relevant = lists(300, 10, [1.0, -1.0])
    first, second = likeliest(scores, relevant)
    assert first > 0
    assert second == 0


def test_lists_without_a_relevant_item_say_nothing() -> None:
    scores, relevant = lists(5, 4, [1.0, 1.0])
    assert likeliest(scores, np.zeros_like(relevant)).tolist() == [0, 0]


def test_paths_that_tell_all_relevant_items_apart_have_finite_shares() -> None:
    scores = np.tile(np.array([[3.0, 1.0], [0.0, 0.0], [0.0, 0.0]]), (10, 1, 1))
    relevant = np.tile(np.array([True, False, False]), (10, 1))
    assert np.isfinite(likeliest(scores, relevant)).all()


def test_a_strength_is_climbed_to_from_where_the_search_begins() -> None:
    heights = {1.0: 0.1, 3.0: 0.3, 10.0: 0.2, 30.0: 0.15, 100.0: 0.9}
    seen = []

    def measured(settings: dict[str, float]) -> float:
        seen.append(settings["l2"])
        return heights[settings["l2"]] + settings["other"]

    assert mixture.climb("l2", list(heights), {"l2": 10.0, "other": 1.0}, measured) == {"l2": 3.0, "other": 1.0}
    assert 100.0 not in seen  # it is never got to
    assert mixture.climb("l2", list(heights), {"l2": 30.0, "other": 1.0}, measured) == {"l2": 100.0, "other": 1.0}


def test_a_mixture_is_measured_as_the_model_that_has_it(build: Builder) -> None:
    run = auto(build, popularity_correction=2.0)
    run.fit()
    judge = mixture._Judge(run.trainer, run.valid)
    paths = ["vae", "linear", "kernel", "spectral"]
    judge.collect(paths)
    assert judge.users == len(run.valid.uid_list)
    scores = [judge.scores_of(path) for path in paths]
    for shares in ([1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0.4, 0.3, 0.2, 0.1]):
        others = {f"{path}_share": share for path, share in zip(paths[1:], shares[1:], strict=True)}
        run.model.choose({**run.model.settings, **others})
        expected = run.trainer.evaluate(run.valid, load_best_model=False).per_user["ndcg@5"]
        found = judge.mixed(zip(scores, shares, strict=True))
        np.testing.assert_allclose(found, expected, atol=1e-9)
    run.model.correct_popularity(0.0)
    expected = run.trainer.evaluate(run.valid, load_best_model=False).per_user["ndcg@5"]
    assert not np.allclose(found, expected)


def test_training_sees_the_vae_alone_and_the_checkpoint_holds_what_was_chosen(
    build: Builder, caplog: pytest.LogCaptureFixture
) -> None:
    run = auto(build)
    assert run.model.shares == {"vae": 1.0}
    with caplog.at_level(logging.INFO):
        score, result = run.fit()
        test = run.trainer.evaluate(run.test)
    plain_score, _ = build("MultVAE", "tiny", data_path="data", epochs=3, **METRIC).fit()
    state = checkpoint.load(run.trainer.saved_model_file)
    assert state["best_valid_score"] == pytest.approx(plain_score)  # by which a resume goes on
    assert score == result["ndcg@5"] == state["best_valid_result"]["ndcg@5"]
    chosen = run.model.chosen
    assert chosen is not None
    assert set(chosen) == set(AUTO)
    assert state["state_dict"]["_extra_state"]["chosen"] == chosen
    assert sum(run.model.shares.values()) == pytest.approx(1)
    assert "Mixed by ndcg@5" in caplog.text
    assert f"the mixture is {hybridvae.described(run.model.settings)}" in caplog.text
    loaded = Recommender.load(run.trainer.saved_model_file).model
    rows = run.model.histories[torch.arange(1, 20)]
    with torch.no_grad():
        torch.testing.assert_close(loaded.score(rows), run.model.score(rows), rtol=0, atol=1e-4)
    assert loaded.shares == run.model.shares
    assert run.trainer.evaluate(run.test, load_best_model=False) == test


def test_a_resume_goes_on_as_without_an_interruption(build: Builder) -> None:
    whole = auto(build, epochs=4)
    whole.fit()
    first = auto(build, epochs=2)
    first.fit()
    second = auto(build, epochs=4, resume=first.trainer.saved_model_file)
    second.fit()
    assert second.model.chosen == whole.model.chosen
    for name, value in whole.model.state_dict().items():
        if name != "_extra_state":
            assert torch.equal(value, second.model.state_dict()[name]), name
    nothing_left = auto(build, epochs=4, resume=second.trainer.saved_model_file)
    nothing_left.fit()
    assert nothing_left.model.chosen == whole.model.chosen


def test_an_interrupted_choice_is_made_by_the_resume(build: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    run = interrupted(build, monkeypatch)
    resumed = auto(build, resume=run.trainer.saved_model_file)
    resumed.fit()
    assert resumed.model.chosen is not None
    assert checkpoint.load(run.trainer.saved_model_file)["state_dict"]["_extra_state"]["chosen"] == resumed.model.chosen


def test_an_unfinished_model_is_not_used(
    build: Builder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = interrupted(build, monkeypatch, out="mixed.pth")
    path = run.trainer.saved_model_file
    assert f"--resume={path} --out=mixed.pth. Its paths are not mixed yet" in caplog.text
    with pytest.raises(CheckpointError, match=r"its training did not end.*--resume=.* with --epochs=\d to choose"):
        Recommender.load(path)
    epochs = checkpoint.load(path)["epoch"] + 1
    auto(build, resume=path, epochs=epochs).fit()
    assert Recommender.load(path).model.chosen is not None


@pytest.mark.parametrize(("better_by", "wins"), [(0.9, False), (1.1, True)])
def test_a_path_that_is_better_alone_by_a_standard_error_has_it_all(
    build: Builder, monkeypatch: pytest.MonkeyPatch, better_by: float, wins: bool
) -> None:
    search = begun(auto(build))
    values = np.random.default_rng(0).random(50)
    error = values.std(ddof=1) / 50**0.5
    of_shares = {(0, 1, 0, 0): better_by * error, (0, 0, 1, 0): 0.5 * error, (0.25, 0.25, 0.25, 0.25): 0.0}
    monkeypatch.setattr(search, "_mixed", lambda _, way: values + of_shares.get(tuple(way), -1.0))
    monkeypatch.setattr(mixture, "likeliest", lambda *_: np.ones(4))
    monkeypatch.setattr(mixture, "bagged", lambda *_: np.full(4, 0.25))
    shares, score = search.shares()
    assert list(shares.values()) == ([0, 1, 0, 0] if wins else [0.25] * 4)
    assert score == pytest.approx(values.mean() + better_by * error * wins)


def test_a_correction_for_popularity_counts_in_the_shares(build: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    search = begun(auto(build, popularity_correction=2.0))
    given: list[Any] = []

    def equal(scores: Any, _: Any) -> Any:
        given.append(scores)
        return np.ones(scores.shape[-1])

    monkeypatch.setattr(mixture, "likeliest", equal)
    search.shares()
    # Softmax of the scores times equal weights is that of the mixture, whatever their sum.
    mixed = given[0].mean(-1)
    parts = [(search._of(path, search.strengths), 0.25) for path in search.paths]
    expected = search.judge._corrections + sum(share * scores for scores, share in parts)
    there = np.isfinite(mixed)
    np.testing.assert_allclose(mixed[there], expected.numpy()[there], atol=1e-5)


def test_the_likelihood_is_of_the_items_that_a_path_ranks_first(build: Builder) -> None:
    run = auto(build, popularity_correction=2.0)
    run.fit()
    judge = mixture._Judge(run.trainer, run.valid)
    judge.collect(["vae", "linear"])
    tables = [judge.scores_of(path) for path in ("vae", "linear")]
    found = judge.nearest(tables)
    for user in range(judge.users):
        expected = set()
        for table in tables:
            ranked = (table[user] + judge._corrections[user]).numpy()
            ranked[judge._first[user].numpy() == 0] = -np.inf
            expected |= set(np.argsort(-ranked)[: judge.k].tolist())
        assert set(np.flatnonzero(np.isfinite(found[user].sum(-1))).tolist()) == expected


def test_the_shares_are_between_the_two_estimates(build: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    search = begun(auto(build, kernel_share=0.5))
    monkeypatch.setattr(mixture, "bagged", lambda *_: np.array([0.3, 0.0, 0.5, 0.2]))
    monkeypatch.setattr(mixture, "likeliest", lambda *_: np.array([6.0, 0.2, 1.8]))
    shares, _ = search.shares()
    assert search.paths == ["vae", "linear", "kernel", "spectral"]
    # .6 and .75, 0 and .025 (too little), .4 and .225 of what kernel_share leaves
    assert list(shares.values()) == pytest.approx([0.5 * 0.675 / 0.9875, 0, 0.5, 0.5 * 0.3125 / 0.9875])


def test_numbers_that_are_given_count(build: Builder) -> None:
    run = auto(build, linear_share=0.3, linear_l2=7.0, kernel_share=0.0)
    run.fit()
    shares = run.model.shares
    assert shares["linear"] == 0.3
    assert "kernel" not in shares
    assert run.model.settings["linear_l2"] == 7.0
    assert shares.get("vae", 0) + shares.get("spectral", 0) == pytest.approx(0.7)


def test_nothing_is_chosen_where_nothing_is_auto(build: Builder, caplog: pytest.LogCaptureFixture) -> None:
    run = auto(
        build,
        linear_share=0.5,
        kernel_share=0.5,
        linear_l2=3.0,
        linear_item_power=0.1,
        linear_neighbours=0,
        kernel_l2=5.0,
    )
    with caplog.at_level(logging.INFO):
        run.fit()
    assert run.model.chosen is None
    assert "Mixed by" not in caplog.text
    assert set(run.model.shares) == {"linear", "kernel"}


def test_without_a_validation_part_auto_stands_for_numbers_that_the_log_names(
    build: Builder, caplog: pytest.LogCaptureFixture
) -> None:
    run = auto(build, eval_args={"split": {"RS": [0.8, 0.0, 0.2]}})
    run.trainer.fit(run.train, None, verbose=False)
    assert run.model.chosen == {name: hybridvae.WITHOUT_VALIDATION[name] for name in AUTO}
    assert "no validation part" in caplog.text
    assert "vae 0.5, linear 0.5 (linear_l2 10" in caplog.text
    assert Recommender.load(run.trainer.saved_model_file).model.shares == run.model.shares


@pytest.mark.parametrize(
    "options",
    [
        {"eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "mode": {"valid": "uni10", "test": "uni10"}}},
        {"eval_args": {"split": {"HU": [0.2, 0.2]}, "mode": "full"}},
        {"valid_metric": "ItemCoverage@5", "metrics": ["ItemCoverage"]},
        {"fast_evaluation": False},
    ],
)
def test_other_protocols_and_metrics(build: Builder, options: dict[str, Any]) -> None:
    run = auto(build, **options)
    run.fit()
    assert run.model.chosen is not None


def test_negative_items_are_drawn_once(build: Builder) -> None:
    sampled = {"split": {"RS": [0.8, 0.1, 0.1]}, "mode": {"valid": "uni10", "test": "uni10"}}
    run = auto(build, eval_args=sampled)
    run.fit()
    judge = mixture._Judge(run.trainer, run.valid)
    judge.collect(["vae", "linear"])
    there = [torch.isfinite(judge.scores_of(path)) for path in ("vae", "linear", "vae")]
    assert torch.equal(there[0], there[1])
    assert torch.equal(there[0], there[2])
    assert (there[0].sum(1) > 5).all()  # a relevant item, and its negative ones


@pytest.mark.parametrize("path", ["linear", "kernel", "spectral"])
def test_a_share_that_is_a_number_goes_with_recboles_count_of_operations(build: Builder, path: str) -> None:
    from recbole.data.transform import construct_transform
    from recbole.utils import get_flops

    run = auto(build, **{f"{path}_share": 0.5})
    transform = construct_transform(run.config)
    assert get_flops(run.model, run.dataset, run.config["device"], logging.getLogger(), transform) > 0


def test_a_small_rest_is_shared_out(build: Builder) -> None:
    run = auto(build, linear_share=0.97)
    run.fit()
    assert sum(run.model.shares.values()) == pytest.approx(1)
    assert run.model.shares["linear"] == pytest.approx(0.97)


def test_a_path_without_memory_is_left_out(
    build: Builder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(hybridvae, "UserKernel", _too_large)
    run = auto(build)
    run.fit()
    assert "Left out of the mixture: the kernel path needs 99 GB" in caplog.text
    assert "kernel" not in run.model.shares


def test_strengths_that_cannot_be_solved_are_passed_over(build: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    def singular(histories: Any, items: int, l2: float, power: float) -> Any:
        if l2 < 10:
            raise DataError("the kernel path is singular in float32")
        return UserKernel(histories, items, l2, power)

    monkeypatch.setattr(hybridvae, "UserKernel", singular)
    run = auto(build)
    run.fit()
    assert run.model.settings["kernel_l2"] >= 10


def test_large_data_get_no_table_of_all_pairs(build: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hybridvae, "_MANY_ITEMS", 10)
    monkeypatch.setattr(hybridvae, "_MANY_USERS", 20)
    run = auto(build)
    run.fit()
    assert run.model.mixed() == ["vae", "linear", "spectral"]
    assert {len(values) for values in run.model.strengths("linear").values()} == {1}
    assert run.model.settings["linear_neighbours"] == 100
    assert run.model.settings["linear_l2"] == hybridvae.WITHOUT_VALIDATION["linear_l2"]


def test_many_users_are_sampled_evenly(build: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixture, "_MOST_USERS", 20)
    run = auto(build, eval_batch_size=31 * 10)  # batches of ten users
    run.fit()
    judge = mixture._Judge(run.trainer, run.valid)
    judge.collect(["vae"])
    assert judge.users == 20


def test_users_of_large_batches_are_thinned_out(build: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    run = auto(build)
    run.fit()
    whole = mixture._Judge(run.trainer, run.valid)
    whole.collect(["vae", "linear"])
    monkeypatch.setattr(mixture, "_MOST_USERS", 25)
    few = mixture._Judge(run.trainer, run.valid)  # one batch has all users
    few.collect(["vae", "linear"])
    assert whole.users > 50
    assert few.users == 25
    places = torch.searchsorted(whole._users, few._users)
    assert torch.equal(few.scores_of("linear"), whole.scores_of("linear")[places])


def test_candidates_are_those_of_the_corrected_ranking(build: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixture, "_DEPTH", 5)
    run = auto(build, popularity_correction=3.0, valid_metric="NDCG@1", topk=[1])
    run.fit()
    judge = mixture._Judge(run.trainer, run.valid)
    judge.collect(["linear"])
    run.model.choose({**run.model.settings, "linear_share": 1.0, "kernel_share": 0.0, "spectral_share": 0.0})
    expected = run.trainer.evaluate(run.valid, load_best_model=False).per_user["ndcg@1"]
    np.testing.assert_allclose(judge.mixed([(judge.scores_of("linear"), 1.0)]), expected, atol=1e-9)


@pytest.mark.parametrize("given", [0.8, 1.0])
def test_without_a_validation_part_the_shares_are_a_whole(build: Builder, given: float) -> None:
    run = auto(build, epochs=1, kernel_share=given, eval_args={"split": {"RS": [0.8, 0.0, 0.2]}})
    run.trainer.fit(run.train, None, verbose=False)
    rest = {"vae": (1 - given) / 2, "linear": (1 - given) / 2}
    assert run.model.shares == pytest.approx({"kernel": given, **(rest if given < 1 else {})})


def test_many_items_have_neighbours_from_the_first_epoch_on(build: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hybridvae, "_MANY_ITEMS", 10)
    run = auto(build, epochs=1, linear_share=0.5, kernel_share=0, spectral_share=0)
    assert run.model.settings["linear_neighbours"] == 100
    run = auto(build, epochs=1, eval_args={"split": {"RS": [0.8, 0.0, 0.2]}})
    run.trainer.fit(run.train, None, verbose=False)
    assert run.model.settings["linear_neighbours"] == 100


def test_a_path_that_failed_is_solved_again(build: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    model = auto(build).model
    model.path("kernel")
    with monkeypatch.context() as patch, pytest.raises(DataError):
        patch.setattr(hybridvae, "UserKernel", _too_large)
        model.settings["kernel_l2"] = 1.0
        model.path("kernel")
    model.settings["kernel_l2"] = hybridvae.WITHOUT_VALIDATION["kernel_l2"]
    assert model.path("kernel") is not None


def test_a_warm_start_takes_over_no_mixture_and_no_dropout(build: Builder) -> None:
    first = auto(build, epochs=1, linear_l2=3.0, dropout_prob="auto")
    first.fit()
    second = auto(build, epochs=1, warm_start=first.trainer.saved_model_file)
    own = second.model.dropout = 0.123
    second.fit()
    assert set(second.model.chosen or {}) == set(AUTO)
    assert second.model.dropout == own


def test_a_resume_without_epochs_left_returns_the_mixtures_score(build: Builder) -> None:
    run = auto(build)
    score, result = run.fit()
    assert auto(build, resume=run.trainer.saved_model_file).fit() == (score, result)


def test_a_refit_keeps_what_was_chosen(build: Builder) -> None:
    first = auto(build)
    score, _ = first.fit()
    path = first.trainer.saved_model_file
    assert recipe(path).score == f"NDCG@5 {score:.4f}"
    again = refit(path)
    assert again.model.chosen == first.model.chosen
    given = auto(build, linear_l2=3.0)  # another mixture
    given.fit()
    warm = refit(path, epochs=1, warm_start=given.trainer.saved_model_file)
    assert warm.model.chosen == first.model.chosen


@pytest.mark.parametrize("given", [0.0, 0.7])
def test_a_share_that_a_refit_replaces_leaves_the_others_in_proportion(
    build: Builder, given: float, caplog: pytest.LogCaptureFixture
) -> None:
    first = auto(build, kernel_share=0.2)
    first.fit()
    first.model.choose({**(first.model.chosen or {}), "linear_share": 0.4, "spectral_share": 0.1})
    state = {**checkpoint.load(first.trainer.saved_model_file), "state_dict": first.model.state_dict()}
    checkpoint.save(state, "chosen.pth")
    again = refit("chosen.pth", linear_share=given)
    # kernel_share was a number and stays one; the VAE and the spectral path keep their proportion.
    left = 1 - given - 0.2
    expected = {"vae": left * 0.75, "kernel": 0.2, "spectral": left * 0.25, **({"linear": given} if given else {})}
    assert again.model.shares == pytest.approx(expected)
    assert "the mixture is not the one it chose" in caplog.text


def test_a_refit_does_not_guess_what_was_not_chosen(build: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    run = interrupted(build, monkeypatch)
    with pytest.raises(CheckpointError, match=r"does not say what was chosen for .*linear_share.*resume it first"):
        refit(run.trainer.saved_model_file)
    numbers = auto(build, linear_l2=3.0)
    numbers.fit()
    with pytest.raises(CheckpointError, match="chosen for linear_l2: auto"):
        refit(numbers.trainer.saved_model_file, linear_l2="auto")
