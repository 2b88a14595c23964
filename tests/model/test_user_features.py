"""What is known about users as further input of the encoder: carried with histories, right for everybody, kept in checkpoints."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recbole_vae.cli.main import main
from recbole_vae.data.histories import Histories, SharedBatch
from recbole_vae.errors import CheckpointError, ConfigError, DataError
from recbole_vae.evaluation.fold_in import evaluated_on, fold_in_of
from recbole_vae.model import autoencoder
from recbole_vae.nn import shortlist
from recbole_vae.nn.encoder import MLPEncoder
from recbole_vae.serving.recommender import Recommender
from recbole_vae.storage import checkpoint
from tests.conftest import Builder, Run, set_all_seeds, write_inter
from tests.training.test_warm_start import begin

N_USERS, N_ITEMS = 90, 40
ARGS = "{'split': {'HU': [15, 15]}, 'order': 'RO', 'mode': 'full', 'group_by': 'user'}"


def write_users(
    folder: str = "data", groups: dict[int, str] | None = None, head: str = "group:token\tage:float"
) -> None:
    """Write the ``.user`` file: the group decides what a user likes, and the age says nothing. u3 is not there."""
    rng = np.random.default_rng(1)
    ages = rng.integers(20, 60, N_USERS)
    lines = [f"u{user}\t{(groups or {}).get(user, 'abc'[user % 3])}\t{ages[user]}" for user in range(N_USERS)]
    del lines[3]
    Path(folder, "tiny", "tiny.user").write_text("\n".join(["user_id:token\tgroup:token\tage:float", *lines]) + "\n")


def write_data(folder: str = "data") -> str:
    """Users of group a like items 0 to 9, of group b 10 to 19, of group c 20 to 29. All like the others now and then."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(N_USERS):
        liked = 10 * (user % 3) + rng.choice(10, 5, replace=False)
        rows += [(f"u{user}", f"i{item}") for item in [*liked, *rng.choice(range(30, N_ITEMS), 2, replace=False)]]
    path = write_inter(rows, folder=folder)
    write_users(folder)
    return path


def run_of(build: Builder, model: str = "MultVAE", **options: Any) -> Run:
    given = {
        "data_path": write_data(), "user_features": ["group", "age"], "eval_args": ARGS, "topk": [5], "metrics": ["NDCG"],
        "valid_metric": "NDCG@5", **options,
    }  # fmt: skip
    return build(model, "tiny", **given)


def trained(build: Builder, model: str = "MultVAE", **options: Any) -> Run:
    run = run_of(build, model, **{"epochs": 25, "learning_rate": 0.02, "weight_averaging": 0, **options})
    run.fit()
    run.model.eval()
    return run


def table(
    rows: int = 6, features: int = 4, seed: int = 0
) -> tuple[Histories, np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return histories with profiles, and both as dense tables."""
    rng = np.random.default_rng(seed)
    items = rng.random((rows, 7)) < 0.4
    profiles = rng.normal(size=(rows, features)) * (rng.random((rows, features)) < 0.5)
    profiles[2] = 0
    found = Histories.from_lists([(np.flatnonzero(row) + 1).tolist() for row in items])
    rows_of = [{int(place): float(row[place]) for place in np.flatnonzero(row)} for row in profiles]
    return replace(found, profiles=Histories.from_profiles(rows_of)), items.astype(float), profiles


def dense(profiles: Histories | None, features: int = 4) -> np.ndarray[Any, Any]:
    assert profiles is not None
    found: np.ndarray[Any, Any] = profiles.to_scipy(features).toarray()
    return found


def test_the_profile_is_added_to_the_first_layer() -> None:
    histories, items, profiles = table()
    encoder = MLPEncoder(7, [], 6, "tanh", activate_last=False, n_profile=4)
    assert encoder.profile is not None
    assert not encoder.profile.weight.any()
    torch.nn.init.normal_(encoder.profile.weight)
    lengths = np.sqrt(np.maximum(items.sum(1, keepdims=True), 1))
    weight, bias, own = (
        each.detach().numpy() for each in (encoder.input.weight, encoder.input.bias, encoder.profile.weight)
    )
    of_profiles = profiles @ own / np.sqrt(items.sum(1, keepdims=True) + 1)
    expected = items / lengths @ weight + bias + of_profiles
    np.testing.assert_allclose(encoder.sums(histories).detach().numpy(), expected, atol=1e-5)
    without = encoder.sums(replace(histories, profiles=None))
    empty = encoder.sums(replace(histories, profiles=Histories.from_profiles([{}] * 6)))
    torch.testing.assert_close(without, empty, rtol=0, atol=0)
    np.testing.assert_allclose(without.detach().numpy(), expected - of_profiles, atol=1e-5)


def test_histories_carry_profiles() -> None:
    histories, _, profiles = table()
    some = torch.tensor([4, 2, 4])
    np.testing.assert_allclose(dense(histories[some].profiles), profiles[[4, 2, 4]], rtol=1e-6)
    np.testing.assert_allclose(dense(histories.slice(1, 4).profiles), profiles[1:4], rtol=1e-6)
    np.testing.assert_allclose(dense(histories.to("cpu").profiles), profiles, rtol=1e-6)
    np.testing.assert_allclose(dense(histories.where(histories.indices > 3).profiles), profiles, rtol=1e-6)
    one = histories[torch.tensor([1])]
    copies = one.without(torch.zeros(3, one.nnz, dtype=torch.bool))
    np.testing.assert_allclose(dense(copies.profiles), profiles[[1, 1, 1]], rtol=1e-6)
    shared = SharedBatch(histories, some)
    np.testing.assert_allclose(dense(shared.profiles), profiles[[4, 2, 4]], rtol=1e-6)
    np.testing.assert_allclose(dense(shared.slice(1, 3).profiles), profiles[[2, 4]], rtol=1e-6)
    assert histories.profiles is not None
    scaled = histories.profiles.scaled(torch.tensor([1, 0, 1, 1, 0, 2]))
    np.testing.assert_allclose(dense(scaled), profiles * np.array([1, 0, 1, 1, 0, 2])[:, None], rtol=1e-6)
    again = Histories.from_profiles(histories.profiles.mappings())
    np.testing.assert_allclose(dense(again), profiles, rtol=1e-6)


def test_without_the_option_nothing_changes_and_with_it_scores_begin_the_same(build: Builder) -> None:
    run, plain = run_of(build), run_of(build, user_features=[])
    assert plain.model.histories.profiles is None
    assert "encoder.profile.weight" not in plain.model.state_dict()
    assert "profiles" not in plain.model.get_extra_state()
    for each in (run, plain):
        each.model.eval()
    users = torch.arange(1, 9)
    with torch.no_grad():
        torch.testing.assert_close(
            run.model.score(run.model.histories[users]), plain.model.score(plain.model.histories[users])
        )


def test_each_user_has_the_own_profile(build: Builder, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        run = run_of(build)
    space, profiles = run.model.user_space, run.model.histories.profiles
    groups = [space.names.index(f"group={name}") for name in "abc"]
    assert "age#0" in space.names
    tokens = run.train._dataset.field2id_token["user_id"]
    found = dense(profiles, space.width)
    assert len(found) == len(tokens) == 61
    for row, token in zip(found[1:], tokens[1:], strict=True):
        number = int(token[1:])
        expected = np.zeros(3) if number == 3 else np.eye(3)[number % 3] / np.sqrt(2)
        np.testing.assert_allclose(row[groups], expected, rtol=1e-6)
    assert not found[0].any()
    missing = "u3" in tokens
    assert ("user_features: 1 of 60 users are not in tiny.user" in caplog.text) == missing
    assert "users of tiny.user are not in the training part" in caplog.text


def test_held_out_users_are_scored_by_their_own_profiles(build: Builder) -> None:
    run = run_of(build)
    torch.nn.init.normal_(run.model.encoder.profile.weight)
    run.model.eval()
    space = run.model.user_space
    for part in (run.valid, run.test):
        users = part.uid_list
        fold_in = fold_in_of(run.model, part)
        assert fold_in is not None
        assert fold_in_of(run.model, part) is fold_in
        tokens = [run.dataset.id2token("user_id", int(user)) for user in users]
        found = dense(fold_in[users].profiles, space.width)
        groups = [space.names.index(f"group={name}") for name in "abc"]
        expected = [np.zeros(3) if token == "u3" else np.eye(3)[int(token[1:]) % 3] for token in tokens]
        np.testing.assert_allclose(found[:, groups], np.array(expected) / np.sqrt(2), rtol=1e-6)
        with evaluated_on(run.model, part), torch.no_grad():
            scores = run.model.full_sort_predict({"user_id": users}).view(len(users), -1)
            known = Histories.from_lists(
                [part.fold_in[users].indices.split(part.fold_in[users].lengths().tolist())[0].tolist()]
            )
            own = replace(known, profiles=Histories.from_profiles(fold_in[users].profiles.mappings()[:1]))  # type: ignore[union-attr]
            torch.testing.assert_close(scores[:1], run.model.score(own))
            assert not torch.allclose(scores[:1], run.model.score(known))


def test_the_same_evaluation_by_the_shortlist_and_by_all_scores(
    build: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("_FEWEST_ROWS", 1), ("_GROUP", 2), ("_WORTH", 1.0), ("_COLUMNS", 16)):
        monkeypatch.setattr(shortlist, name, value)
    monkeypatch.setattr(autoencoder, "has_fast_bfloat16", lambda device: True)
    run = trained(build)
    with torch.no_grad():
        assert run.model.shortlister() is not None
    result = run.trainer.evaluate(run.test, load_best_model=False)
    monkeypatch.setattr(type(run.model), "shortlister", lambda _: None)
    assert run.trainer.evaluate(run.test, load_best_model=False) == result
    write_users(groups={user: "abc"[(user + 1) % 3] for user in range(N_USERS)})
    other = build(
        "MultVAE", "tiny", data_path="data", user_features=["group", "age"], eval_args=ARGS, topk=[5], metrics=["NDCG"]
    )
    wrong = run.trainer.evaluate(other.test, load_best_model=False)
    assert wrong["ndcg@5"] < result["ndcg@5"] - 0.05


def ndcg(rankings: list[Any], users: list[str]) -> float:
    """Return the mean NDCG@5 where all items of a user's group are relevant."""
    gains = 1 / np.log2(np.arange(2, 7))
    found = [
        sum(gain for gain, (item, _) in zip(gains, ranking, strict=True) if int(item[1:]) // 10 == int(user[1:]) % 3)
        for user, ranking in zip(users, rankings, strict=True)
    ]
    return float(np.mean(found) / gains.sum())


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("MultVAE", {}), ("HybridVAE", {"linear_share": "auto"}),
        ("MultVAE", {"n_negatives": 8, "weight_decay": 0.0}), ("MultVAE", {"tied_weights": True}),
        ("MultVAE", {"precision": "bfloat16", "epochs": 40}),
        ("MultVAE", {"mlp_hidden_size": []}),
    ],
    ids=["MultVAE", "HybridVAE", "sampled", "tied", "bfloat16", "linear"],
)  # fmt: skip
def test_users_without_a_history_get_lists_by_profile(build: Builder, model: str, options: dict[str, Any]) -> None:
    run = trained(build, model, **options)
    of = Recommender.load(run.trainer.saved_model_file)
    users = [f"u{user}" for user in range(N_USERS) if f"u{user}" not in of.users]
    assert len(users) >= 29
    profiles = [{"group": "abc"[int(user[1:]) % 3]} for user in users]
    by_profile = ndcg(of.recommend([[]] * len(users), 5, profiles=profiles), users)
    popular = ndcg(of.recommend([[]] * len(users), 5), users)
    assert popular < 0.3
    assert by_profile > 0.65


def scores(of: Recommender, history: Any, **options: Any) -> dict[str, float]:
    (ranking,) = of.recommend([history], 1000, exclude_seen=False, **options)
    return dict(ranking)


def test_a_known_user_is_a_new_one_with_the_same_history_and_profile(build: Builder) -> None:
    run = trained(build)
    of = Recommender.load(run.trainer.saved_model_file)
    lines = [line.split("\t") for line in Path("data/tiny/tiny.user").read_text().splitlines()[1:]]
    known = {user: {"group": group, "age": age} for user, group, age in lines}
    users = of.users[1:6]
    stored = of.recommend_users(users, 1000, exclude_seen=False)
    profiles = [known.get(user) for user in users]
    batch = of.recommend([of.history(user) for user in users], 1000, profiles=profiles, exclude_seen=False)
    for user, one, other, profile in zip(users, stored, batch, profiles, strict=True):
        single = scores(of, of.history(user), profiles=[profile])
        assert dict(one) == pytest.approx(dict(other), abs=1e-5)
        assert dict(one) == pytest.approx(single, abs=1e-5)
    with torch.no_grad():
        by_recbole = of.model.full_sort_predict({"user_id": torch.tensor([1])})
    assert dict(stored[0])[of.items[5]] == pytest.approx(float(by_recbole[5]), abs=1e-4)


def test_what_is_not_known_has_no_effect(build: Builder) -> None:
    of = Recommender.load(trained(build).trainer.saved_model_file)
    history = of.history(of.users[1])
    plain = scores(of, history)
    for nothing in (None, {}, {"group": None}, {"group": "", "age": "nan"}, {"group": "z"}):
        assert scores(of, history, profiles=[nothing]) == plain
    assert of.unknown_values.times == 1
    assert of.unknown_values.examples == {"group=z": 1}
    assert scores(of, history, profiles=[{"group": "a"}]) != plain
    popular = scores(of, [])
    before = of.without_known
    assert scores(of, [], profiles=[{"group": "z"}]) == popular
    assert scores(of, [], profiles=[{"age": 30}]) != popular
    assert of.without_known == before + 1


def test_paths_that_read_no_profile_leave_popularity_and_say_so(
    build: Builder, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    path = trained(build, "HybridVAE", linear_share=1.0, epochs=1).trainer.saved_model_file
    of = Recommender.load(path)
    caplog.clear()
    for _ in range(2):
        assert scores(of, [], profiles=[{"group": "a"}]) == scores(of, [])
    assert of.without_known == 4
    said = [record.message for record in caplog.records if "have no effect" in record.message]
    assert said == [
        "Profiles have no effect: the VAE alone reads them, and the mixture of this HybridVAE gives it no share."
    ]
    Path("new.user").write_text("user_id:token\tgroup:token\tage:float\nn1\ta\t30\n")
    assert main(["recommend", f"--checkpoint={path}", "--profiles=new.user"]) == 0
    assert "Users with no item in the training data: 1; they got the most popular items." in capsys.readouterr().err
    for model, options in (("HybridVAE", {"linear_share": 0.5}), ("MultVAE", {})):
        caplog.clear()
        other = Recommender.load(trained(build, model, epochs=1, **options).trainer.saved_model_file)
        other.recommend([[]], profiles=[{"group": "a"}])
        assert "have no effect" not in caplog.text


def test_profiles_that_are_wrong(build: Builder) -> None:
    of = Recommender.load(trained(build, epochs=1).trainer.saved_model_file)
    for profiles, message in (
        (
            [{"gruop": "a"}],
            r"profiles\[0\]: there is no field 'gruop'; did you mean group\? The fields are group, age\.",
        ),
        (["a"], r"profiles\[0\]: 'a' is no mapping of fields to values"),
        ([{}, {}], "profiles: there are 2, and 1 histories"),
        ([{"age": "old"}], r"^profiles\[0\]: 'old' in 'age' is not a number. Correct it or leave it empty\.$"),
        ([{"age": [20, 30]}], r"^profiles\[0\]: .* in 'age' is not a number"),
        ([{"group": ["a", "b"]}], r"^profiles\[0\]: 'group' has one value, not 2: 'a, b'\.$"),
        ({"group": "a"}, "profiles: {'group': 'a'} is no list; give a list with a mapping of fields to values"),
        ("a", "profiles: 'a' is no list"),
    ):
        with pytest.raises(DataError, match=message):
            of.recommend([["i1"]], profiles=profiles)  # type: ignore[arg-type]
    assert scores(of, ["i1"], profiles=[{"group": ["a"], "age": [30]}]) == scores(
        of, ["i1"], profiles=[{"group": "a", "age": 30}]
    )
    with pytest.raises(
        DataError, match="^profiles: users of the training data have the profiles that they had in train"
    ):
        of.recommend_users([of.users[1]], profiles=[{}])
    plain = Recommender.load(trained(build, epochs=1, user_features=[]).trainer.saved_model_file)
    with pytest.raises(
        ConfigError, match="this MultVAE knows users by their histories alone. Train it with user_features"
    ):
        plain.recommend([["i1"]], profiles=[{"group": "a"}])
    other = Recommender.load(run_with_a_checkpoint(build, "MultDAE"))
    with pytest.raises(ConfigError, match="this MultDAE .* Train MultVAE or HybridVAE with user_features"):
        other.recommend([["i1"]], profiles=[{"group": "a"}])


def run_with_a_checkpoint(build: Builder, model: str) -> str:
    options = {"data_path": write_data(), "eval_args": ARGS, "topk": [5], "valid_metric": "NDCG@5", "metrics": ["NDCG"]}
    run = build(model, "tiny", epochs=1, **options)
    run.fit()
    return str(run.trainer.saved_model_file)


@pytest.mark.parametrize(
    ("features", "error", "message"),
    [
        (["grup"], ConfigError, r"user_features: .*tiny\.user has no field 'grup'; did you mean group\?"),
        (
            ["group:float"],
            DataError,
            r"line 2: 'a' in 'group' is not a number.*user_features: group:token or group:text",
        ),
        (["same"], ConfigError, "user_features: no field of same in .* says anything about another user"),
    ],
    ids=["no such field", "text", "constant"],
)
def test_files_that_do_not_fit(build: Builder, features: list[str], error: type[Exception], message: str) -> None:
    write_data()
    file = Path("data/tiny/tiny.user")
    head, *lines = file.read_text().splitlines()
    lines.insert(3, "u3\ta\t30")
    file.write_text("\n".join([f"{head}\tsame:token", *(f"{line}\tx" for line in lines)]) + "\n")
    with pytest.raises(error, match=message):
        build("MultVAE", "tiny", data_path="data", user_features=features)


def test_no_file_and_a_user_twice(build: Builder) -> None:
    write_data()
    file = Path("data/tiny/tiny.user")
    file.write_text(f"{file.read_text()}u1\tc\t30\n")
    with pytest.raises(DataError, match=r"user 'u1' has group 'c', and 'b' in an earlier line \(3\)"):
        build("MultVAE", "tiny", data_path="data", user_features=["group"])
    file.unlink()
    with pytest.raises(DataError, match=r"user_features: there is no file .*tiny\.user, which would say what is known"):
        build("MultVAE", "tiny", data_path="data", user_features=["group"])


def test_processes_that_share_a_batch_leave_out_the_same_profiles(build: Builder) -> None:
    run = run_of(build)
    torch.nn.init.normal_(run.model.encoder.profile.weight)
    users = torch.arange(1, 13)
    set_all_seeds(1)
    whole = run.model.loss_terms(run.model.histories[users], 0, 12).loss()
    parts = []
    for start, stop in ((0, 5), (5, 12)):
        set_all_seeds(1)
        parts.append(
            (stop - start) / 12 * run.model.loss_terms(SharedBatch(run.model.histories, users), start, stop).loss()
        )
    torch.testing.assert_close(sum(parts), whole)


def test_profiles_and_histories_are_left_out_in_training(build: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(build)
    seen: list[tuple[bool, bool, bool]] = []
    original = run.model.posterior

    def posterior(histories: Histories, mask: torch.Tensor) -> Any:
        profiles = histories.profiles
        assert profiles is not None
        items = torch.zeros(len(histories)).index_add_(0, histories.rows(), mask)
        values = torch.zeros(len(histories)).index_add_(0, profiles.rows(), profiles.entry_values().abs())
        for row, length in enumerate(profiles.lengths().tolist()):
            seen.append((length > 0, bool(values[row] > 0), bool(items[row] > 0)))
        return original(histories, mask)

    monkeypatch.setattr(run.model, "posterior", posterior)
    run.model.dropout = 0.0
    for _ in range(60):
        run.model.loss_terms(run.model.histories[torch.arange(1, 61)], 0, 60)
    with_one = [each[1:] for each in seen if each[0]]
    assert len(with_one) >= 59 * 60
    for profile, history, expected in (
        (True, True, 0.25),
        (True, False, 0.25),
        (False, True, 0.5),
        (False, False, 0.0),
    ):
        share = with_one.count((profile, history)) / len(with_one)
        assert abs(share - expected) <= 4 * (expected * (1 - expected) / len(with_one)) ** 0.5
    assert all(each == (False, False, True) for each in seen if not each[0])


def test_a_resumed_run_is_the_one_that_never_stopped_even_if_the_file_changed(build: Builder) -> None:
    whole = run_of(build, epochs=4, stopping_step=0)
    whole.fit()
    first = run_of(build, epochs=2, stopping_step=0)
    first.fit()
    assert torch.load(first.trainer.saved_model_file, weights_only=True)["epoch"] == 1
    write_users(groups={user: "abc"[(user + 1) % 3] for user in range(N_USERS)})
    second = build(
        "MultVAE", "tiny", data_path="data", user_features=["group", "age"], eval_args=ARGS, topk=[5], metrics=["NDCG"],
        valid_metric="NDCG@5", epochs=4, stopping_step=0, resume=first.trainer.saved_model_file,
    )  # fmt: skip
    torch.testing.assert_close(
        second.model.histories.profiles.values, first.model.histories.profiles.values, rtol=0, atol=0
    )
    assert torch.equal(second.model.histories.profiles.indices, first.model.histories.profiles.indices)
    write_users()
    second.fit()
    for name, tensor in whole.model.state_dict().items():
        if isinstance(tensor, torch.Tensor):
            torch.testing.assert_close(second.model.state_dict()[name], tensor, rtol=0, atol=0)


def test_a_warm_start_takes_columns_over_by_their_names(build: Builder) -> None:
    first = trained(build, user_features=["group"])
    first.trainer._load_parameters(checkpoint.load(first.trainer.saved_model_file), "the best epoch")
    before = dict(zip(first.model.user_space.names, first.model.encoder.profile.weight.detach(), strict=True))
    write_users(groups=dict.fromkeys(range(0, N_USERS, 3), "d"))
    options = {
        "data_path": "data",
        "user_features": ["age:token", "group"],
        "eval_args": ARGS,
        "topk": [5],
        "metrics": ["NDCG"],
    }
    path = first.trainer.saved_model_file
    second = build("MultVAE", "tiny", epochs=1, valid_metric="NDCG@5", **options)
    said = begin(second, path)
    new = len(second.model.user_space.names) - 2  # b and c stay
    assert said.endswith(f"Of the profiles' columns 2 stay, {new} are new, 1 are gone.")
    now = dict(zip(second.model.user_space.names, second.model.encoder.profile.weight.detach(), strict=True))
    assert "group=d" in now
    assert "group=a" not in now
    for name, row in now.items():
        # of two fields each has 1 / sqrt(2) of the length
        torch.testing.assert_close(row, before[name] * 2**0.5 if name in before else torch.zeros_like(row))
    third = build("MultVAE", "tiny", epochs=1, valid_metric="NDCG@5", **{**options, "user_features": []})
    with pytest.raises(
        CheckpointError,
        match="^user_features: saved/.* has some, and this run has none. A warm start needs them in both",
    ):
        begin(third, path)
    fourth = build("MultVAE", "tiny", epochs=1, valid_metric="NDCG@5", **{**options, "user_features": ["age"]})
    said = begin(fourth, path)
    assert said.endswith(
        "0 stay, 8 are new, 3 are gone. So what it learned of profiles is lost: its user_features were others."
    )
    assert not fourth.model.encoder.profile.weight.any()


def test_a_warm_start_reads_numbers_between_other_quantiles(build: Builder) -> None:
    """What the layer says of an age stays nearly the same when the quantiles move, moments and all."""
    first = trained(build, user_features=["age"])
    path, (block,) = first.trainer.saved_model_file, first.model.user_space.blocks
    saved = checkpoint.load(path)
    before = saved["state_dict"]["encoder.profile.weight"].numpy()
    file = Path("data/tiny/tiny.user")
    head, *lines = file.read_text().splitlines()
    older = [[user, group, str(int(age) + 2)] for user, group, age in (line.split("\t") for line in lines)]
    file.write_text("\n".join([head, *map("\t".join, older)]) + "\n")
    options = {"user_features": ["age"], "eval_args": ARGS, "topk": [5], "metrics": ["NDCG"], "valid_metric": "NDCG@5"}
    second = build("MultVAE", "tiny", data_path="data", epochs=1, **options)
    said = begin(second, path)
    assert "Of the profiles' columns 8 stay, 0 are new" in said
    (moved,) = second.model.user_space.blocks
    assert moved.numbers != block.numbers
    weight = second.model.encoder.profile.weight
    names = [name for name, each in second.model.named_parameters() if each.ndim > 1]
    was = saved["optimizer"]["state"][names.index("encoder.profile.weight")]
    state = second.trainer.optimizer.state[weight]
    moments = [(state[name], was[name].numpy()) for name in ("exp_avg", "exp_avg_sq")]
    for found, old in [(weight.detach(), before), *moments]:
        expected = [np.interp(moved.numbers, block.numbers, column) for column in old.T]
        np.testing.assert_allclose(found.numpy(), np.array(expected).T, rtol=1e-5, atol=1e-9)
    second.fit()


def test_a_mixture_without_the_vae_says_that_profiles_have_no_effect(
    build: Builder, caplog: pytest.LogCaptureFixture
) -> None:
    for share in (1.0, 0.5):
        caplog.clear()
        run = trained(build, "HybridVAE", linear_share=share, kernel_share=0.0, spectral_share=0.0, epochs=1)
        run.trainer.evaluate(run.test)
        assert ("user_features have no effect: the VAE alone reads profiles" in caplog.text) is (share == 1.0)


def test_a_changed_file_of_users_is_named_when_training_resumes(build: Builder) -> None:
    path = trained(build, epochs=2).trainer.saved_model_file
    write_users(groups=dict.fromkeys(range(0, N_USERS, 6), "d"))
    options = {
        "user_features": ["group", "age"],
        "eval_args": ARGS,
        "topk": [5],
        "metrics": ["NDCG"],
        "valid_metric": "NDCG@5",
    }
    with pytest.raises(
        CheckpointError, match=r"has 11 columns for the values of user_features \(group, age\), and the \.user"
    ):
        build(
            "MultVAE",
            "tiny",
            data_path="data",
            epochs=4,
            resume=path,
            learning_rate=0.02,
            weight_averaging=0,
            **options,
        )


def test_a_new_item_in_a_history_leaves_the_profile_its_weight(build: Builder) -> None:
    """A new item stands as 20 others there, and is one item all the same."""
    write_data()
    lines = [f"i{item}\t{item // 10}" for item in range(N_ITEMS)]
    Path("data/tiny/tiny.item").write_text("\n".join(["item_id:token\tkind:token", *lines]) + "\n")
    options = {
        "user_features": ["group"],
        "item_features": ["kind"],
        "eval_args": ARGS,
        "topk": [5],
        "metrics": ["NDCG"],
    }
    run = build("MultVAE", "tiny", data_path="data", epochs=1, valid_metric="NDCG@5", **options)
    run.fit()
    of = Recommender.load(run.trainer.saved_model_file)
    of.add_items({"item_id": ["new"], "kind": ["1"]})
    profile = of.encoded([{"group": "b"}]).profiles
    encoder = of.model.encoder
    for items in (["new"], ["i1", "new"], ["i1", "i2"]):
        histories = Histories.from_lists([of.known(items)])
        with_it = of.model.in_warm_items(replace(histories, profiles=Histories.from_profiles(profile)))
        added = encoder.of_profiles(with_it.profiles, with_it.lengths())
        expected = encoder.of_profiles(Histories.from_profiles(profile), torch.tensor([len(items)]))
        assert with_it.lengths()[0] >= 10 or "new" not in items
        torch.testing.assert_close(added, expected)


def test_a_profile_alone_can_be_sampled_and_diversified(build: Builder) -> None:
    of = Recommender.load(trained(build).trainer.saved_model_file)
    histories, profiles = [[], [], ["i1"]], [{"group": "a"}, None, None]
    sampled = of.recommend(histories, 5, profiles=profiles, samples=20)
    assert [ranking.intervals is not None for ranking in sampled] == [True, False, True]
    assert [0 < (ranking.stability or 0) <= 1 for ranking in sampled] == [True, False, True]
    plain, diverse = (of.recommend(histories, 5, profiles=profiles, diversify=x) for x in (0.0, 5.0))
    assert [one == other for one, other in zip(plain, diverse, strict=True)] == [False, True, False]


@pytest.mark.parametrize("profiles", [5, b"a", {"group": "a"}, "a"], ids=str)
def test_what_is_no_list_of_profiles_is_refused(build: Builder, profiles: Any) -> None:
    of = Recommender.load(trained(build, epochs=1).trainer.saved_model_file)
    with pytest.raises(
        DataError, match="profiles: .* is no list; give a list with a mapping|profiles.0.: .* is no mapping"
    ):
        of.recommend([[]], profiles=profiles)
    for value in (b"a", {"a": 1}):
        with pytest.raises(DataError, match=r"profiles\[0\]\.group: .* is no text, number or list of these"):
            of.recommend([[]], profiles=[{"group": value}])
    for age in (np.array(30.0), torch.tensor(30), np.float32(30), [30]):
        assert scores(of, [], profiles=[{"age": age}]) == scores(of, [], profiles=[{"age": 30}])
