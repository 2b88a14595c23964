"""What latent variables stand for."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu

from recbole_vae import Recommender, latent, latent_report
from recbole_vae.cli import main
from recbole_vae.errors import ConfigError, DataError
from recbole_vae.explain import ItemText
from recbole_vae.nn.prior import active
from tests.conftest import Builder, random_rows, write_inter

ITEMS = 24


@pytest.fixture(params=["MultVAE", "MultDAE"])
def recommender(build: Builder, request: pytest.FixtureRequest) -> Recommender:
    """A model whose first latent variable raises the first third of the items, the second the second; the third does nothing."""
    run = build(
        request.param, "tiny", data_path=write_inter(random_rows(80, ITEMS)), epochs=1, mlp_hidden_size=[],
        latent_dimension=3,
    )  # fmt: skip
    run.fit()
    loaded = Recommender.load(run.trainer.saved_model_file)
    output = loaded.model.decoder.layers[-1]
    with torch.no_grad():
        output.weight.zero_()
        output.weight[:8, 0], output.weight[8:16, 1] = 1.0, 0.5
    return loaded


def texts(loaded: Recommender) -> dict[str, ItemText]:
    kinds = ["Horror"] * 8 + ["War"] * 8 + ["Drama, Old"] * 8
    return {item: ItemText(f"Film {item}", kind) for item, kind in zip(loaded.items[1:], kinds, strict=True)}


def plain_effects(loaded: Recommender, number: int, users: int | None = None) -> np.ndarray:
    """The definition, with all users."""
    model = loaded.model
    with torch.no_grad():
        codes = model.code(model.encoder(model.histories))[1:].double()
        step = torch.zeros_like(codes)
        step[:, number] = codes.std(0, correction=0)[number]
        weight, bias = (each.double() for each in model.decoder.layers[-1].parameters())
        sides = [torch.log_softmax((codes + sign * step) @ weight.T + bias, 1) for sign in (1, -1)]
        result: np.ndarray = ((sides[0] - sides[1]) / 2).mean(0).numpy()
    return result


def test_latent_variables_raise_what_they_raise(recommender: Recommender, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latent, "_USERS", 1000)
    monkeypatch.setattr(latent, "_LEAST", 1)
    found = latent.describe(recommender, texts(recommender), axes="latents", latents=3, k=8)
    assert found.dimension == 3
    assert found.latents[2].number == 2
    assert found.latents[2].strength == pytest.approx(0, abs=1e-6)
    by_number = {each.number: each for each in found.latents}
    for number, kind in ((0, "Horror"), (1, "War")):
        each = by_number[number]
        expected = plain_effects(recommender, number)
        assert {details for _, _, details, _ in each.raised} == {kind}
        assert [value for *_, value in each.raised] == pytest.approx(sorted(expected)[:-9:-1], rel=1e-4, abs=1e-6)
        assert [value for *_, value in each.lowered] == pytest.approx(sorted(expected)[:8], rel=1e-4, abs=1e-6)
        assert each.strength == pytest.approx(np.sqrt((expected**2).mean()), rel=1e-4)
        assert (each.genres[0].name, each.genres[0].auc) == (kind, 1.0)
        assert latent.label(each).startswith(f"+{kind}")
    model = recommender.model
    with torch.no_grad():
        codes = model.code(model.encoder(model.histories))[1:]
        assert [by_number[n].deviation for n in range(3)] == pytest.approx(
            codes.std(0, correction=0).tolist(), rel=1e-4
        )
        if hasattr(model, "posterior"):
            mu, logvar = (each[1:].double() for each in model.posterior(model.histories))
            kl = (0.5 * (mu**2 + logvar.exp() - 1 - logvar)).mean(0)
            assert [by_number[n].kl for n in range(3)] == pytest.approx(kl.tolist(), rel=1e-4)
        else:
            assert by_number[0].kl is None
    assert found.active == int((codes.var(0, correction=0) > 0.01).sum())


def test_a_trait_over_two_latent_variables_is_one_direction(recommender: Recommender) -> None:
    model = recommender.model
    with torch.no_grad():
        deviations = model.code(model.encoder(model.histories))[1:].std(0, correction=0)
        weight = model.decoder.layers[-1].weight
        weight.zero_()
        weight[:8, 0], weight[:8, 1] = 1 / deviations[0], 1 / deviations[1]
    found = latent.describe(recommender, texts(recommender), latents=3)
    first, *others = found.latents
    assert [each.number for each in found.latents] == [1, 2, 3]
    assert max(each.strength for each in others) < 1e-3 * first.strength
    assert first.genres[0].name == "Horror"
    alone = latent.describe(recommender, axes="latents", latents=3).latents[0]
    assert first.strength == pytest.approx(2**0.5 * alone.strength, rel=0.02)


def test_directions_are_numbered_by_the_strength_that_is_said(recommender: Recommender) -> None:
    model = recommender.model
    with torch.no_grad():
        deviations = model.code(model.encoder(model.histories))[1:].std(0, correction=0)
        output = model.decoder.layers[-1]
        output.weight.zero_()
        output.bias.zero_()
        output.bias[0] = 5.0  # what raises this item lowers all others, and of that the centred effects show little
        output.weight[0, 0] = 1 / deviations[0]
        output.weight[1:13, 1], output.weight[13:, 1] = 0.3 / deviations[1], -0.3 / deviations[1]
    found = latent.describe(recommender, latents=2, user=recommender.users[1])
    assert [each.number for each in found.latents] == [each.latent for each in found.traversals] == [1, 2]
    assert found.latents[0].strength > 2 * found.latents[1].strength
    assert (
        found.latents[0].raised[0][0] == recommender.items[1] or found.latents[0].lowered[0][0] == recommender.items[1]
    )


def test_genres_are_tested_as_scipy_does_with_holms_correction() -> None:
    rng = np.random.default_rng(0)
    kinds = [["Horror"], ["War"], ["War", "Horror"], []]
    labels = [ItemText(str(number), " ".join(kinds[number % 4])) for number in range(60)]
    known = np.arange(60)
    effects = rng.normal(size=(3, 60))
    effects[1, [n for n in known if "War" in labels[n].details]] += 3
    found = latent._genres(labels, known, effects)
    assert [len(row) for row in found] == [0, 1, 0]
    (war,) = found[1]
    inside = np.array(["War" in each.details for each in labels])
    test = mannwhitneyu(effects[1][inside], effects[1][~inside])
    assert war.auc == pytest.approx(test.statistic / (inside.sum() * (~inside).sum()))
    assert war.p == pytest.approx(6 * test.pvalue)
    assert war.items == 30


def test_where_nothing_differs_hardly_any_genre_is_named() -> None:
    rng = np.random.default_rng(1)
    labels = [ItemText(str(n), " ".join(k for k in "abcdef" if rng.random() < 0.3)) for n in range(200)]
    named = sum(
        bool(sum(map(len, latent._genres(labels, np.arange(200), rng.normal(size=(4, 200)))), 0)) for _ in range(50)
    )
    assert named <= 4  # .01 each


def test_a_traversal_stands_at_the_recommendations_and_moves_to_what_is_raised(recommender: Recommender) -> None:
    user = recommender.users[5]
    found = latent.describe(recommender, axes="latents", latents=3, k=6, user=user)
    plain = [item for item, _ in recommender.recommend_users([user], k=6)[0]]
    for each in found.traversals:
        assert len(each.lists) == len(latent.STEPS)
        assert each.lists[3] == plain
        assert not {item for row in each.lists for item in row} & set(recommender.history(user))
    first = next(each for each in found.traversals if each.latent == 0)
    raised = set(recommender.items[1:9])
    counts = [sum(item in raised for item in row) for row in first.lists]
    assert counts == sorted(counts)
    assert counts[-1] > counts[0]


@pytest.mark.parametrize(
    ("name", "options", "has_kl", "alone"),
    [
        ("HybridVAE", {"linear_share": 0.4, "kernel_share": 0.4, "mlp_hidden_size": []}, True, False),
        ("VASP", {}, True, False),
        ("VampVAE", {}, False, True),
    ],
)
def test_a_users_lists_are_of_the_whole_model_and_divergences_of_its_own_prior(
    build: Builder, name: str, options: dict[str, Any], has_kl: bool, alone: bool
) -> None:
    run = build(name, "tiny", data_path=write_inter(random_rows(80, ITEMS)), epochs=1, **options)
    run.fit()
    loaded = Recommender.load(run.trainer.saved_model_file)
    found = latent.describe(loaded, axes="latents", latents=2, k=6, user=loaded.users[5])
    plain = [item for item, _ in loaded.recommend_users([loaded.users[5]], k=6)[0]]
    assert [each.lists[3] for each in found.traversals] == [plain, plain]
    assert [each.kl is not None for each in found.latents] == [has_kl] * 2
    assert found.alone == alone
    for text in ("\n".join(latent.lines(found)), latent_report.html(found)):
        assert (f"the variational autoencoder in {name} alone" in text) != alone


def test_the_map_is_the_principal_plane_of_the_output_layer(recommender: Recommender) -> None:
    found, again = (latent.describe(recommender, texts(recommender)) for _ in range(2))
    assert found == again
    places = np.array([[point.x, point.y] for point in found.items])
    assert (places**2).mean() == pytest.approx(1, rel=1e-4)
    kinds = [point.genres[0] for point in found.items]
    for kind in set(kinds):  # the weights are the same within a kind
        own = places[[each == kind for each in kinds]]
        np.testing.assert_allclose(own, np.broadcast_to(own[0], own.shape), atol=1e-5)
    assert len(found.map_users) == found.users
    assert found.user_place is None
    order = np.random.default_rng(0).permutation(np.arange(1, 81))  # that of the users on the map
    for place in (0, 79):
        mark = latent.describe(recommender, texts(recommender), user=recommender.users[order[place]]).user_place
        assert mark is not None
        there = found.map_users[place]
        assert (mark.x, mark.y) == pytest.approx((there.x, there.y), abs=1e-4)


def test_collapsed_latent_variables_are_not_active() -> None:
    means = torch.randn(500, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 0.2, 0.05, 0.0])
    assert active(means).tolist() == [True, True, False, False]


def test_a_collapsed_posterior_is_a_warning(build: Builder, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    run = build("MultVAE", epochs=1)
    run.trainer.fit(run.train, run.valid, saved=False)
    assert "latent variables are in use" in caplog.text
    caplog.clear()
    run = build("MultVAE", epochs=1)
    with torch.no_grad():
        run.model.encoder.input.weight.zero_()
    run.trainer.epochs = 0
    run.trainer.fit(run.train, run.valid, saved=False)
    assert "either these are too few epochs, or the posterior has collapsed to the prior" in caplog.text


def test_latent_variables_in_use_are_those_of_the_epoch_that_is_kept(
    build: Builder, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    run = build("MultVAE", epochs=1)
    run.fit()
    with torch.no_grad():  # as if a later epoch, which was no better, had collapsed
        run.model.encoder.input.weight.zero_()
    assert "in use" not in caplog.text
    run.trainer.evaluate(run.test)
    assert caplog.text.count("6 of 6 latent variables are in use") == 1
    run.trainer.evaluate(run.test)
    assert caplog.text.count("in use") == 1


def test_a_model_without_a_code_is_refused() -> None:
    with pytest.raises(ConfigError, match="SimpleNamespace has no latent variables"):
        latent.check_has_latents(SimpleNamespace())


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert not {"src", "href"} & {name for name, _ in attrs}


def test_the_page_needs_nothing_else_and_escapes(recommender: Recommender) -> None:
    names = {item: ItemText(f"<script>{item}", "<b> War") for item in recommender.items[1:]}
    page = latent_report.html(latent.describe(recommender, names, user=recommender.users[1]))
    parser = _Page()
    parser.feed(page)
    assert parser.tags.count("script") == 1
    assert parser.tags.count("circle") == 24 + 80 + 1  # the user's mark
    assert "<text class='own' " in page
    assert f">user {recommender.users[1]}</text>" in page
    assert "<b> War" not in page
    assert "http:" not in page.replace("http-equiv", "")


def test_names_on_the_map_lie_on_no_item_and_no_other_name(recommender: Recommender) -> None:
    rng = np.random.default_rng(0)
    items = [latent.Point(float(x), float(y), f"Film {n}", []) for n, (x, y) in enumerate(rng.normal(size=(120, 2)))]
    found = dataclasses.replace(latent.describe(recommender, user="u1"), items=items)
    page = latent_report.html(found)
    dots = [(float(x), float(y)) for x, y in re.findall(r"<circle cx='([\d.]+)' cy='([\d.]+)' r='4.5'", page)]
    names = [
        (float(x), float(y) - 4, name) for x, y, name in re.findall(r"<text x='([\d.]+)' y='([\d.]+)'>(.*?)<", page)
    ]
    assert len(dots) == 120
    assert len(names) > 5
    for left, y, name in names:
        right = left + 6 * len(name)
        assert not [dot for dot in dots if left < dot[0] < right and abs(dot[1] - y) < 9]
        assert not [other for x, there, other in names if other != name and left <= x < right and abs(there - y) < 9]


def test_the_command_line(build: Builder) -> None:
    run = build("MultVAE", "tiny", data_path=write_inter(random_rows(60, 20)), epochs=1)
    run.fit()
    Path("data/tiny/tiny.item").write_text(
        "item_id:token\tmovie_title:token\tclass:token_seq\n" + "".join(f"i{n}\tFilm {n}\tDrama\n" for n in range(20))
    )
    checkpoint = f"--checkpoint={run.trainer.saved_model_file}"
    arguments = ["latent", checkpoint, "--user=u3", "--latents=6", "-k=7", "--html=l.html", "--json=l.json"]
    done = subprocess.run([sys.executable, "-m", "recbole_vae", *arguments], capture_output=True, text=True, check=True)
    assert "latent variables are in use (variance over 60 users above 0.01)" in done.stdout
    assert "Direction 1, effect" in done.stdout
    assert done.stdout.count("\n  raises Film") == 6
    assert all(line.count("Film") == 7 for line in done.stdout.splitlines() if line.startswith("  raises"))
    found = json.loads(Path("l.json").read_text())
    assert (len(found["latents"]), len(found["traversals"]), len(found["latents"][0]["raised"])) == (6, 6, 7)
    assert "What user u3 would be recommended" in Path("l.html").read_text()


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("--axes=x", "axes: 'x' (command line) is not allowed; it must be principal or latents"),
        ("--user=nobody", "user 'nobody' is not among"),
        ("--html=saved", "--html=saved (command line): this is a folder; name a file"),
        ("--json=no/l.json", "there is no folder no"),
        ("--items=none.item", "none.item"),
        ("--latent=3", "did you mean --latents"),
    ],
)
def test_mistakes_are_named(build: Builder, argument: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = build("MultVAE", epochs=1)
    run.fit()
    assert main(["latent", f"--checkpoint={run.trainer.saved_model_file}", argument]) in (1, 2)
    assert said in (error := capsys.readouterr().err)
    assert error.count("\n") == 1


def test_unknown_axes_and_users_are_refused(recommender: Recommender) -> None:
    with pytest.raises(ConfigError, match="axes: 'x'"):
        latent.describe(recommender, axes="x")
    with pytest.raises(DataError, match="nobody"):
        latent.describe(recommender, user="nobody")
