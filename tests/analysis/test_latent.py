"""What latent variables stand for."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu
from torch import Tensor, nn

from recbole_vae import Recommender
from recbole_vae.analysis import latent, latent_report
from recbole_vae.analysis.explain import ItemText
from recbole_vae.cli.main import main
from recbole_vae.data.histories import Histories
from recbole_vae.errors import ConfigError, DataError
from recbole_vae.model.capabilities import Capabilities
from recbole_vae.nn.decoder import MLPDecoder
from recbole_vae.nn.prior import active
from tests.conftest import Builder, random_rows, write_inter

ITEMS = 24
Floats = NDArray[np.float64]


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


class Known(Capabilities, nn.Module):
    """A model whose codes and decoder are known: a code is the mean of its items' vectors. The last latent variable is collapsed.

    Its items have the details of ``DETAILS``; one has 9 users, one 10.
    """

    n_items, device = 41, torch.device("cpu")
    has_code = True

    def __init__(self, by_softmax: bool, has_posterior: bool) -> None:
        super().__init__()
        rng = np.random.default_rng(3)
        counts = [9, 10, *rng.integers(11, 40, 38)]
        columns = [rng.choice(np.arange(2, 60), count, replace=False) for count in counts]  # rows 0 and 1 are empty
        self.histories = Histories.from_lists(
            [[item for item, users in enumerate(columns, start=1) if user in users] for user in range(60)]
        )
        self.counts, self.by_softmax = np.array(counts), by_softmax
        self.vectors = rng.normal(size=(41, 8)) * np.array([2, 2, 2, 0.1] * 2)
        self.decoder = MLPDecoder(4, [5], 40, "tanh")
        # The first hidden units, which raise and lower genres, are of a latent variable each.
        raised = rng.normal(size=(40, 5)) + np.outer(np.arange(40) % 2, [4, 0, 0, 0, 0])
        raised += np.outer(np.arange(40) % 3 == 1, [-5, 3, 0, 0, 0])
        self.weights = [rng.normal(size=(5, 4)), rng.normal(size=5), raised, rng.normal(size=40)]
        self.weights[0][:2] = [[1, 0, 0, 0], [0, 1, 0, 0]]
        with torch.no_grad():
            for parameter, values in zip(self.decoder.parameters(), self.weights, strict=True):
                parameter.copy_(torch.from_numpy(values))
        self.has_posterior = self.standard_prior = has_posterior
        self.posterior = lambda histories: self.encoder(histories).chunk(2, dim=1)

    def features(self, histories: Histories) -> Floats:
        rows = [histories.slice(row, row + 1).indices.long().numpy() for row in range(len(histories))]
        return np.array([self.vectors[row].mean(0) if len(row) else np.zeros(8) for row in rows])

    def encoder(self, histories: Histories) -> Tensor:
        return torch.from_numpy(self.features(histories)).float()

    def code(self, features: Tensor) -> Tensor:
        return features[:, :4]

    def score_latent(self, histories: Histories, latent: Tensor) -> Tensor:
        return torch.cat((torch.full((len(latent), 1), -torch.inf), self.decoder(latent)), 1)

    def logits(self, codes: Floats) -> Floats:
        one, shift, two, last = self.weights
        result: Floats = np.tanh(codes @ one.T + shift) @ two.T + last
        return result

    def effect(self, codes: Floats, step: Floats) -> Floats:
        """Half of what changes between a step down and a step up, mean over users."""
        sides = [self.logits(codes + sign * step) for sign in (1, -1)]
        if self.by_softmax:
            sides = [each - np.log(np.exp(each).sum(1, keepdims=True)) for each in sides]
        result: Floats = ((sides[0] - sides[1]) / 2).mean(0)
        return result


KNOWN = range(1, 40)  # all but the item of 9 users, numbered from 0
DETAILS = [
    " ".join(
        name
        for name, has in {
            "Odd": item % 2, "Four": item < 5, "Five": item < 6, "All": item > 5, "Nearly": item > 4, "Third": item % 3 == 1,
        }.items()
        if has
    )
    for item in range(40)
]  # fmt: skip


def plain_genres(rows: list[Floats]) -> list[list[dict[str, Any]]]:
    """Genres of 5 known items and more, that 5 others lack, which differ in a row by SciPy's test and Holm's correction."""
    has = {name: np.array([name in DETAILS[item].split() for item in KNOWN]) for name in " ".join(DETAILS).split()}
    assert {name: int(each.sum()) for name, each in has.items()} | {"Odd": 0, "Third": 0} == {
        "Odd": 0, "Third": 0, "Four": 4, "Five": 5, "All": 34, "Nearly": 35,
    }  # fmt: skip
    found = []
    for place, row in enumerate(rows):
        for name in ("All", "Five", "Odd", "Third"):
            test = mannwhitneyu(row[KNOWN][has[name]], row[KNOWN][~has[name]])
            pairs = has[name].sum() * (~has[name]).sum()
            found.append((test.pvalue, place, name, test.statistic / pairs))
    found.sort()
    result = [list[dict[str, Any]]() for _ in rows]
    for place, (_, number, name, auc) in enumerate(found):
        p = max(min(1.0, before[0] * (len(found) - n)) for n, before in enumerate(found[: place + 1]))
        if p < 0.01:
            result[number].append({"name": name, "items": int(has[name].sum()), "auc": auc, "p": pytest.approx(p)})
    return [sorted(each, key=lambda genre: -abs(genre["auc"] - 0.5)) for each in result]


@pytest.mark.parametrize("axes", latent.AXES)
@pytest.mark.parametrize(("by_softmax", "has_posterior"), [(True, True), (False, False)])
def test_all_that_is_said_is_what_its_definitions_say(
    axes: str, by_softmax: bool, has_posterior: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latent, "_DRAWN", 30)
    model = Known(by_softmax, has_posterior)
    names = {f"i{item}": ItemText(f"Film {item}", DETAILS[item - 1]) for item in range(1, 41)}
    loaded = Recommender(model, [f"u{user}" for user in range(60)], ["", *names], "shop")
    found = latent.describe(loaded, names, axes=axes, latents=3, k=25, user="u7", seed=5)

    order = np.random.default_rng(5).permutation(np.arange(2, 60))
    features = model.features(model.histories)[order]
    codes, logvar = features[:, :4], features[:, 4:]
    deviations = codes.std(0)
    steps, effects = np.diag(deviations), np.array([model.effect(codes[:32], step) for step in np.diag(deviations)])
    if axes == "principal":
        # Eigenvectors of the latent variables' covariance, over items: the left singular vectors of what is centred.
        left = np.linalg.eigh(np.cov(effects))[1].T[:0:-1]
        steps = left * deviations
        effects = np.array([model.effect(codes[:32], step) for step in steps])
        deviations = (codes / deviations @ left.T).std(0)
    strengths = np.sqrt((effects**2).mean(1))
    strongest = np.argsort(-strengths)[:3]
    numbers = [1, 2, 3] if axes == "principal" else strongest.tolist()
    for row, said in zip(strongest, found.latents, strict=True):
        if axes == "principal" and said.raised[0][0] != f"i{KNOWN[effects[row, KNOWN].argmax()] + 1}":
            steps[row], effects[row] = -steps[row], -effects[row]  # a direction is as good as its opposite
    kl = (codes**2 + np.exp(logvar) - 1 - logvar).mean(0) / 2
    genres = plain_genres([effects[row] for row in strongest])
    assert sum(map(len, genres)) >= 2
    expected = []
    for row, number, each in zip(strongest, numbers, genres, strict=True):
        ranked = [KNOWN[place] for place in np.argsort(-effects[row, KNOWN])]
        sides = [
            [(f"i{i + 1}", f"Film {i + 1}", DETAILS[i], pytest.approx(effects[row, i], abs=1e-5)) for i in items]
            for items in (ranked[:25], ranked[:-26:-1])
        ]
        expected.append({
            "number": number, "strength": pytest.approx(strengths[row], abs=1e-5),
            "deviation": pytest.approx(deviations[row], abs=1e-5),
            "kl": pytest.approx(kl[row], rel=1e-5) if has_posterior and axes == "latents" else None,
            "raised": sides[0], "lowered": sides[1], "genres": each,
        })  # fmt: skip
    assert [asdict(each) for each in found.latents] == expected

    history = model.histories.slice(7, 8)
    own, seen = model.features(history)[0, :4], history.indices.numpy() - 1
    traversals = []
    for row, number in zip(strongest, numbers, strict=True):
        logits = model.logits(own + np.array([[-3], [-2], [-1], [0], [1], [2], [3]]) * steps[row])
        logits[:, seen] = -np.inf
        lists = [[f"Film {item + 1}" for item in np.argsort(-each)[:25]] for each in logits]
        traversals.append({"latent": number, "lists": [each[: 40 - len(seen)] for each in lists]})
    assert [asdict(each) for each in found.traversals] == traversals

    popular = np.argsort(-model.counts, kind="stable")[:30]
    centred = model.weights[2][popular] - model.weights[2][popular].mean(0)
    axes_of_map = np.linalg.eigh(centred.T @ centred)[1].T[:-3:-1]
    axes_of_map = np.array([each * np.sign(each[np.abs(each).argmax()]) for each in axes_of_map])
    hidden = np.tanh(np.vstack([codes[:30], own]) @ model.weights[0].T + model.weights[1])
    items, users = centred @ axes_of_map.T, (hidden - hidden[:30].mean(0)) @ axes_of_map.T
    items, users = items / np.sqrt((items**2).mean()), users / np.sqrt((users[:30] ** 2).mean())
    assert found.user_place is not None
    points = [*found.map_users, found.user_place]
    np.testing.assert_allclose([(point.x, point.y) for point in found.items], items, atol=1e-5)
    np.testing.assert_allclose([(point.x, point.y) for point in points], users, atol=1e-5)
    assert [(point.name, point.genres) for point in found.items] == [
        (f"Film {item + 1}", DETAILS[item].split()) for item in popular
    ]
    assert {(point.name, *point.genres) for point in points} == {("",)}
    rest = dataclasses.replace(found, latents=[], traversals=[], items=[], map_users=[], user_place=None)
    assert asdict(rest) == {
        "model": "Known", "dataset": "shop", "users": 58, "dimension": 4, "active": 3, "axes": axes, "latents": [], "items": [],
        "map_users": [], "user": "u7", "user_place": None, "traversals": [],
        "effect": "log-probability" if by_softmax else "logit", "alone": True,
    }  # fmt: skip


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
        assert (f"only the variational autoencoder in {name}" in text) != alone


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
    with pytest.raises(ConfigError, match="Capabilities has no latent variables"):
        latent.check_has_latents(Capabilities())


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert all(str(value).startswith(("#", "data:,")) for name, value in attrs if name in ("src", "href"))


def test_the_page_needs_nothing_else_and_escapes(recommender: Recommender) -> None:
    names = {item: ItemText(f"<script>{item}", "<b> War") for item in recommender.items[1:]}
    page = latent_report.html(latent.describe(recommender, names, user=recommender.users[1]))
    parser = _Page()
    parser.feed(page)
    assert parser.tags.count("script") == 1
    assert parser.tags.count("circle") == 24 + 80 + 1  # the user's mark
    assert '<text class="own" ' in page
    assert f">user {recommender.users[1]}</text>" in page
    assert "<b> War" not in page
    assert "http:" not in page.replace("http-equiv", "")


GENRES = [latent.Genre("War", 9, 0.875, 1e-4), latent.Genre("<Old>", 7, 0.25, 1e-3)]
EACH = latent.Latent(
    4, 0.756, 1.5, 0.125, [("a", "A & B", "War", 1.236)], [("b", "B", "", -0.5), ("c", "C", "<Old>", -0.25)], GENRES
)
FOUND = latent.Described(
    "M&M", "shop", 1234, 9, 7, "latents", [EACH, dataclasses.replace(EACH, number=2, kl=None, genres=[])],
    [latent.Point(1.0, 0.5, "A & B", ["War"]), latent.Point(-0.5, -0.25, "B", [])], [latent.Point(0.25, -0.5, "", [])], "u",
    latent.Point(-1.0, 0.25, "", []), [latent.Traversal(4, [[f"Film {step}", "A & B"] for step in latent.STEPS])], "logit", True,
)  # fmt: skip


def test_the_page_and_the_text_have_the_numbers_of_what_was_found() -> None:
    page = latent_report.html(FOUND)
    articles = [ElementTree.fromstring(part) for part in re.findall("<article>.*?</article>", page, re.DOTALL)]
    texts = [[text for text in article.itertext() if text.strip()] for article in articles]
    sides = ["Raises", "A & B ", "War", "+1.236", "Lowers", "B", "−0.500", "C ", "<Old>", "−0.250"]
    assert texts == [
        ["Latent 4 ", "effect 0.756 · deviation 1.50 · KL 0.12 nats", "+ War (0.88), − <Old> (0.25)", *sides],
        ["Latent 2 ", "effect 0.756 · deviation 1.50", *sides],
    ]
    assert '<p class="quiet">shop, 1,234 users. 7 of 9 latent variables are in use' in page
    assert "<p>The strongest latent variable raises items of War and lowers items of &lt;Old&gt;.</p>" in page
    assert page.index('id="map"') < page.index('id="user"') < page.index('id="strongest"')
    assert '<option value="4">latent 4 +War -&lt;Old&gt;</option>' in page
    shown = re.findall(r'<ol class="list" id="t4-(-?\d)"><li>(.*?)</li><li>A &amp; B</li></ol>', page)
    assert shown == [(str(step), f"Film {step}") for step in latent.STEPS]
    drawing = ElementTree.fromstring(page[page.index("<svg") : page.index("</svg>") + 6])
    scale = 900 / 2.1
    height = 2.1 * scale * 0.5
    circles = [(float(one.attrib["cx"]), float(one.attrib["cy"])) for one in drawing.findall("circle")]
    expected = [(450 + x * scale, height / 2 - y * scale) for x, y in ((0.25, -0.5), (1.0, 0.5), (-0.5, -0.25))]
    np.testing.assert_allclose(circles, expected, atol=0.051)
    mark = drawing.find("g")
    assert mark is not None
    assert mark.attrib["transform"] == f"translate({450 - scale:.1f} {height / 2 - 0.25 * scale:.1f})"
    assert [title.text for title in drawing.iter("title")] == ["A & B · War", "B", "user u"]
    assert list(latent.lines(FOUND)) == [
        "M&M on shop: 7 of 9 latent variables are in use (variance over 1,234 users above 0.01)",
        "Latent 4, effect 0.76, KL 0.12  +War -<Old>", "  raises A & B", "  lowers B; C",
        "Latent 2, effect 0.76", "  raises A & B", "  lowers B; C",
    ]  # fmt: skip


def test_names_on_the_map_lie_on_no_item_and_no_other_name(recommender: Recommender) -> None:
    rng = np.random.default_rng(0)
    items = [latent.Point(float(x), float(y), f"Film {n}", []) for n, (x, y) in enumerate(rng.normal(size=(120, 2)))]
    found = dataclasses.replace(latent.describe(recommender, user="u1"), items=items)
    page = latent_report.html(found)
    dots = [(float(x), float(y)) for x, y in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)" r="4.5"', page)]
    found_names = re.findall(r'<text x="([\d.]+)" y="([\d.]+)"( text-anchor="end")?>(.*?)<', page)
    assert {bool(end) for _, _, end, _ in found_names} == {True, False}
    names = [(float(x) - 6 * len(name) * bool(end), float(y) - 4, name) for x, y, end, name in found_names]
    assert len(dots) == 120
    assert len(names) > 5
    for left, y, name in names:
        right = left + 6 * len(name)
        assert not [dot for dot in dots if left - 8.4 < dot[0] < right + 8.4 and abs(dot[1] - y) < 9]
        assert not [other for x, there, other in names if other != name and left <= x < right and abs(there - y) < 9]


def test_the_command_line(build: Builder, capsys: pytest.CaptureFixture[str]) -> None:
    run = build("MultVAE", "tiny", data_path=write_inter(random_rows(60, 20)), epochs=1)
    run.fit()
    Path("data/tiny/tiny.item").write_text(
        "item_id:token\tmovie_title:token\tclass:token_seq\n" + "".join(f"i{n}\tFilm {n}\tDrama\n" for n in range(20))
    )
    checkpoint = f"--checkpoint={run.trainer.saved_model_file}"
    capsys.readouterr()
    assert main(["latent", checkpoint, "--user=u3", "--latents=6", "-k=7", "--html=l.html", "--json=l.json"]) == 0
    shown = capsys.readouterr().out
    assert "latent variables are in use (variance over 60 users above 0.01)" in shown
    assert "Direction 1, effect" in shown
    assert shown.count("\n  raises Film") == 6
    assert all(line.count("Film") == 7 for line in shown.splitlines() if line.startswith("  raises"))
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


def test_latent_variables_that_have_no_part_in_the_scores_are_not_judged(
    build: Builder, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    for share, words in ((0.5, 0), (0.4, 1)):
        run = build("HybridVAE", linear_share=0.5, kernel_share=share)
        run.fit()
        run.trainer.evaluate(run.test)
        assert caplog.text.count("latent variables are in use") == words
