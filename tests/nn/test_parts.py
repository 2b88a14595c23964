"""Each part alone, against NumPy in float64, torch.distributions, or finite differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recbole_vae.data.histories import Histories
from recbole_vae.nn.annealing import PlateauCap, linear_beta
from recbole_vae.nn.decoder import MLPDecoder
from recbole_vae.nn.encoder import MLPEncoder, dropout_for, dropout_mask, normalise
from recbole_vae.nn.layers import ACTIVATIONS, SparseLinear, mlp, wide_linear
from recbole_vae.nn.likelihood import linear_multinomial_log_likelihood, multinomial_log_likelihood
from recbole_vae.nn.precision import has_fast_bfloat16, training_dtype
from recbole_vae.nn.prior import kl_standard_normal, reparameterise, with_likelihood_counted

N_ITEMS = 7
LISTS = [[1, 3, 7], [], [2], [1, 2, 3, 4, 5, 6, 7]]


def weighted() -> Histories:
    plain = Histories.from_lists(LISTS)
    return Histories(plain.indptr, plain.indices, torch.linspace(0.5, 3.0, len(plain.indices)))


def dense(histories: Histories) -> np.ndarray:
    """Return the histories as an array without the padding item, in float64."""
    table = np.zeros((len(histories), N_ITEMS))
    table[histories.rows().numpy(), histories.indices.numpy() - 1] = histories.entry_values().double().numpy()
    return table


@pytest.fixture(params=["binary", "weighted"])
def histories(request: pytest.FixtureRequest) -> Histories:
    return Histories.from_lists(LISTS) if request.param == "binary" else weighted()


def test_multinomial_log_likelihood_equals_numpy(histories: Histories) -> None:
    logits = np.random.default_rng(0).normal(size=(4, N_ITEMS)) * 3
    log_softmax = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    expected = (dense(histories) * log_softmax).sum(1)
    result = multinomial_log_likelihood(torch.from_numpy(logits), histories)
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-6)
    assert result[1] == 0.0  # the empty history


def test_multinomial_log_likelihood_is_finite_where_softmax_underflows() -> None:
    logits = torch.tensor([[0.0, -2000.0, 500.0]])
    assert multinomial_log_likelihood(logits, Histories.from_lists([[2]])).item() == pytest.approx(-2500.0)


def test_multinomial_log_likelihood_is_torchs_without_the_constant() -> None:
    logits = torch.randn(4, N_ITEMS, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    counts = torch.from_numpy(dense(Histories.from_lists(LISTS)))
    for row in (0, 2, 3):
        whole = torch.distributions.Multinomial(int(counts[row].sum()), logits=logits[row]).log_prob(counts[row])
        constant = torch.lgamma(counts[row].sum() + 1) - torch.lgamma(counts[row] + 1).sum()
        ours = multinomial_log_likelihood(logits[row : row + 1], Histories.from_lists([LISTS[row]]))
        torch.testing.assert_close(ours[0], whole - constant)


def test_likelihood_gradient_against_finite_differences(histories: Histories) -> None:
    logits = torch.randn(4, N_ITEMS, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: multinomial_log_likelihood(x, histories), (logits,))


def output_layer(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    shapes = (4, 3), (N_ITEMS, 3), (N_ITEMS,)
    layer = [torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype) for shape in shapes]
    return tuple(each.requires_grad_() for each in layer)  # type: ignore[return-value]


@pytest.mark.parametrize("logits_per_chunk", [1, 8, 12, 27, 28, 1000])
def test_fused_likelihood_equals_the_plain_one(histories: Histories, logits_per_chunk: int) -> None:
    """Values and gradients, where one item, some, all but one, or all fit into a chunk."""
    features, weight, bias = layer = output_layer(torch.float64)
    rows = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    plain = multinomial_log_likelihood(features @ weight.t() + bias, histories)
    fused = linear_multinomial_log_likelihood(*layer, histories, logits_per_chunk=logits_per_chunk)
    torch.testing.assert_close(fused, plain, rtol=0, atol=1e-9)
    for ours, expected in zip(
        torch.autograd.grad((rows * fused).sum(), layer), torch.autograd.grad((rows * plain).sum(), layer), strict=True
    ):
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("logits_per_chunk", [8, 1000])
@pytest.mark.parametrize("places", [[0], [1, 2], [1]])
def test_fused_likelihood_makes_the_gradients_that_are_needed(
    histories: Histories, logits_per_chunk: int, places: list[int]
) -> None:
    whole = output_layer(torch.float64)
    expected = torch.autograd.grad(linear_multinomial_log_likelihood(*whole, histories).sum(), whole)
    some = [each.detach().requires_grad_(place in places) for place, each in enumerate(whole)]
    features, weight, bias = some
    fused = linear_multinomial_log_likelihood(features, weight, bias, histories, logits_per_chunk=logits_per_chunk)
    fused.sum().backward()
    for place, each in enumerate(some):
        if place in places:
            torch.testing.assert_close(each.grad, expected[place], rtol=0, atol=1e-9)
        else:
            assert each.grad is None


@pytest.mark.parametrize("logits_per_chunk", [8, 1000])
def test_fused_likelihood_gradient_against_finite_differences(histories: Histories, logits_per_chunk: int) -> None:
    assert torch.autograd.gradcheck(
        lambda x, w, b: linear_multinomial_log_likelihood(x, w, b, histories, logits_per_chunk=logits_per_chunk),
        output_layer(torch.float64),
    )


@pytest.mark.parametrize("logits_per_chunk", [8, 1000])
def test_fused_likelihood_in_bfloat16_is_off_by_its_rounding(histories: Histories, logits_per_chunk: int) -> None:
    """bfloat16 has 8 bits: a logit l is off by at most |l| / 256, its probability by about as much; sums are in float32."""
    layer = output_layer(torch.float32)
    plain = multinomial_log_likelihood(layer[0] @ layer[1].t() + layer[2], histories)
    fused = linear_multinomial_log_likelihood(*layer, histories, torch.bfloat16, logits_per_chunk)
    assert fused.dtype == torch.float32
    counts = torch.zeros(4).index_add(0, histories.rows(), histories.entry_values())
    largest = 3 * (layer[0].abs() @ layer[1].abs().t() + layer[2].abs()).max() / 256
    assert ((fused - plain).abs() <= 2 * counts * largest).all()
    for ours, expected in zip(
        torch.autograd.grad(fused.sum(), layer), torch.autograd.grad(plain.sum(), layer), strict=True
    ):
        assert ours.dtype == torch.float32
        assert (ours - expected).norm() <= 0.03 * expected.norm()


def test_probabilities_sum_to_one_in_bfloat16_chunks() -> None:
    """The gradient of the biases sums to 0; a normaliser in bfloat16 would be off by a few hundredths for all items alike."""
    generator = torch.Generator().manual_seed(5)
    features, weight = torch.randn(1, 8, generator=generator), torch.randn(4000, 8, generator=generator)
    bias = (torch.zeros(4000) + 1.3).requires_grad_()
    history = Histories.from_lists([list(range(1, 101))])
    fused = linear_multinomial_log_likelihood(features, weight, bias, history, torch.bfloat16, logits_per_chunk=1000)
    (gradient,) = torch.autograd.grad(fused.sum(), (bias,))
    assert abs(float(gradient.sum())) < 0.005 * 100


def test_fused_likelihood_is_finite_where_softmax_underflows() -> None:
    layer = torch.ones(1, 1), torch.tensor([[0.0], [-2000.0], [500.0]]), torch.zeros(3)
    for chunk in (1, 100):
        result = linear_multinomial_log_likelihood(*layer, Histories.from_lists([[2]]), logits_per_chunk=chunk)
        assert result.item() == pytest.approx(-2500.0)


def test_fused_likelihood_of_many_items_equals_the_plain_one() -> None:
    """Where a CPU makes the logits of a chunk in several pieces."""
    generator = torch.Generator().manual_seed(4)
    shapes = (3, 2), (2500, 2), (2500,)
    layer = tuple(torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_() for shape in shapes)
    features, weight, bias = layer
    histories = Histories.from_lists([[1, 1024, 1025, 2048], [2049, 2500], []])
    plain = multinomial_log_likelihood(features @ weight.t() + bias, histories)
    for chunk in (3 * 1500, 3 * 2500):
        fused = linear_multinomial_log_likelihood(features, weight, bias, histories, logits_per_chunk=chunk)
        torch.testing.assert_close(fused, plain, rtol=0, atol=1e-9)
        for ours, expected in zip(
            torch.autograd.grad(fused.sum(), layer),
            torch.autograd.grad(plain.sum(), layer, retain_graph=True),
            strict=True,
        ):
            torch.testing.assert_close(ours, expected, rtol=0, atol=1e-9)


def test_fused_likelihood_holds_no_more_than_a_chunk() -> None:
    """No tensor of the function is larger than a chunk of logits or the layer itself."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                self.size = max(self.size, result.numel())
            return result

    layer = torch.randn(64, 4, requires_grad=True), torch.randn(5000, 4, requires_grad=True), torch.randn(5000)
    histories = Histories.from_lists([[1, 17, 4999]] * 64)
    with Largest() as largest:  # type: ignore[no-untyped-call]
        linear_multinomial_log_likelihood(*layer, histories, logits_per_chunk=20_000).sum().backward()
    assert largest.size == 5000 * 4


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize(
    ("dtype", "precision"), [(torch.float32, 1e-5), (torch.float64, 1e-12), (torch.bfloat16, 0.05)]
)
def test_a_wide_layer_equals_torchs_for_one_row_and_many(
    rows: int, dtype: torch.dtype, precision: float, transposed: bool
) -> None:
    layer = torch.nn.Linear(6, 2500)  # in several pieces
    features, weight = torch.randn(rows, 6), layer.weight
    if transposed:
        weight = torch.nn.Parameter(layer.weight.t().contiguous()).t()
    if dtype is torch.float64:
        features, weight, layer = features.double(), weight.double(), layer.double()
    with torch.no_grad():
        expected = layer(features)
    found = wide_linear(features, weight.detach(), layer.bias.detach(), dtype)
    assert (found.dtype, found.shape, found.requires_grad) == (dtype, (rows, 2500), False)
    torch.testing.assert_close(found.to(expected.dtype), expected, rtol=0, atol=precision)


def test_an_output_layer_laid_out_by_columns_has_the_same_weights() -> None:
    decoder = MLPDecoder(5, [4], 30, "tanh")
    latent, before = torch.randn(3, 5), {name: value.clone() for name, value in decoder.state_dict().items()}
    expected = decoder(latent)
    decoder.lay_out_for_few()
    assert decoder.get_parameter("layers.2.weight").t().is_contiguous()
    assert all(torch.equal(value, before[name]) for name, value in decoder.state_dict().items())
    with torch.no_grad():
        torch.testing.assert_close(decoder(latent), expected)
        torch.testing.assert_close(decoder(latent[:1]), expected[:1])
        torch.testing.assert_close(decoder.logits_of(latent, torch.tensor([7, 2])), expected[:, [7, 2]])


def test_weights_that_the_encoder_shares_stay_by_rows() -> None:
    encoder, decoder = MLPEncoder(30, [4], 6, "tanh", activate_last=False), MLPDecoder(3, [4], 30, "tanh")
    decoder.tie(encoder)
    decoder.lay_out_for_few()
    assert encoder.input.weight.is_contiguous()


def test_precision() -> None:
    cpu = torch.device("cpu")
    assert training_dtype("float32", cpu) is None
    assert training_dtype("bfloat16", cpu) is torch.bfloat16
    assert training_dtype("auto", cpu) is (torch.bfloat16 if has_fast_bfloat16(cpu) else None)
    assert not has_fast_bfloat16(torch.device("meta"))


def test_sparse_layers_gradient_is_that_of_a_dense_one(histories: Histories) -> None:
    layer = SparseLinear(N_ITEMS, 5).double()
    dense_input = torch.from_numpy(dense(histories))
    entries = histories.entry_values().double()
    scale = torch.arange(1.0, 21.0, dtype=torch.float64).view(4, 5)
    output = layer(histories.indices - 1, entries, histories.indptr)
    expected = dense_input @ layer.weight + layer.bias
    torch.testing.assert_close(output, expected)
    parameters = list(layer.parameters())
    for ours, plain in zip(
        torch.autograd.grad((scale * output).sum(), parameters),
        torch.autograd.grad((scale * expected).sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(ours, plain, rtol=0, atol=1e-12)


def test_kl_equals_numpy_and_torch() -> None:
    generator = torch.Generator().manual_seed(1)
    mu = torch.randn(5, 3, dtype=torch.float64, generator=generator)
    logvar = torch.randn(5, 3, dtype=torch.float64, generator=generator)
    m, v = mu.numpy(), logvar.numpy()
    result = kl_standard_normal(mu, logvar)
    np.testing.assert_allclose(result, -0.5 * (1 + v - m**2 - np.exp(v)).sum(1), rtol=0, atol=1e-6)
    posterior = torch.distributions.Normal(mu, (0.5 * logvar).exp())
    prior = torch.distributions.Normal(torch.zeros_like(mu), torch.ones_like(mu))
    torch.testing.assert_close(result, torch.distributions.kl_divergence(posterior, prior).sum(1))
    assert kl_standard_normal(torch.zeros(1, 3), torch.zeros(1, 3)).item() == 0.0


def test_kl_gradient_against_finite_differences() -> None:
    mu = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    logvar = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(kl_standard_normal, (mu, logvar))


def test_a_likelihood_that_counts_more_narrows_the_posterior_of_a_gaussian_model() -> None:
    # z of N(0, 1), x of N(z, 1 / h): the posterior of a likelihood to the power t has precision 1 + t h.
    h, t = torch.tensor([[0.3, 2.0, 50.0]]), torch.tensor([[0.0], [0.25], [1.0], [8.0]])
    found = with_likelihood_counted(-(1 + h).log().expand(4, 3), t)
    torch.testing.assert_close(found.exp(), 1 / (1 + t * h))
    assert with_likelihood_counted(torch.tensor([[0.5]]), torch.tensor([[2.0]])).tolist() == [[0.0]]


def test_reparameterise_has_the_posteriors_moments() -> None:
    noise = torch.randn(200_000, 1, generator=torch.Generator().manual_seed(0))
    sample = reparameterise(torch.full_like(noise, 2.0), torch.full_like(noise, np.log(9.0)), noise)
    assert sample.mean().item() == pytest.approx(2.0, abs=0.03)
    assert sample.std().item() == pytest.approx(3.0, abs=0.03)


@given(
    step=st.integers(0, 10**7),
    total=st.integers(0, 10**6),
    cap=st.floats(0, 2, allow_nan=False),
    more=st.integers(0, 10**6),
)
def test_beta_never_exceeds_its_cap_and_never_falls(step: int, total: int, cap: float, more: int) -> None:
    now, later = linear_beta(step, total, cap), linear_beta(step + more, total, cap)
    assert 0.0 <= now <= later <= cap


def test_beta_is_the_papers() -> None:
    assert linear_beta(0, 200_000, 0.2) == 0.0
    assert linear_beta(20_000, 200_000, 0.2) == pytest.approx(0.1)
    assert linear_beta(40_000, 200_000, 0.2) == linear_beta(39_999_999, 200_000, 0.2) == 0.2
    assert linear_beta(0, 0, 0.2) == 0.2


@given(st.lists(st.booleans(), max_size=60), st.sampled_from([(2, 1), (3, 1), (11, 5), (20, 10), (500, 10)]))
def test_the_cap_falls_at_the_first_plateau_and_stays(better: list[bool], steps: tuple[int, int]) -> None:
    stopping_step, patience = steps
    plateau = PlateauCap(stopping_step)
    fell = [plateau.evaluated(each) for each in better]
    plateaus = [at for at in range(patience, len(better) + 1) if not any(better[at - patience : at])]
    assert [at + 1 for at, each in enumerate(fell) if each] == plateaus[:1]
    assert plateau.cap == (0.15 if plateaus else 0.5)


def test_sparse_linear_equals_dense_in_values_and_gradients(histories: Histories) -> None:
    layer = SparseLinear(N_ITEMS, 5).double()
    values = histories.entry_values().double()
    table = torch.from_numpy(dense(histories))
    sparse = layer(histories.indices - 1, values, histories.indptr)
    full = table @ layer.weight + layer.bias
    torch.testing.assert_close(sparse, full, rtol=0, atol=1e-12)
    weights = torch.randn_like(full)
    ours = torch.autograd.grad((sparse * weights).sum(), [layer.weight, layer.bias])
    theirs = torch.autograd.grad((full * weights).sum(), [layer.weight, layer.bias])
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-12)


def test_normalise_gives_unit_length_and_leaves_empty_histories(histories: Histories) -> None:
    table = dense(histories)
    values = normalise(histories, torch.float64)
    expected = table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-300)
    ours = dense(Histories(histories.indptr, histories.indices, values))
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_normalise_neither_underflows_nor_overflows(scale: float) -> None:
    plain = Histories.from_lists(LISTS)
    scaled = Histories(plain.indptr, plain.indices, torch.full((len(plain.indices),), scale))
    torch.testing.assert_close(normalise(scaled, torch.float32), normalise(plain, torch.float32))


def test_dropout_keeps_the_mean() -> None:
    torch.manual_seed(0)
    mask = dropout_mask(200_000, 0.3, torch.ones(()))
    assert mask.unique().tolist() == pytest.approx([0.0, 1 / 0.7])
    assert mask.mean().item() == pytest.approx(1.0, abs=0.01)
    assert dropout_mask(100, 0.0, torch.ones(())).eq(1.0).all()


def numpy_dropout(lengths: Any, users_of_items: Any) -> float:
    """The largest probability, to three places, that keeps to both bounds of dropout_for."""
    grid = np.arange(0, 1000) / 1000
    few_empty = (grid[:, None] ** np.asarray(lengths)).mean(1) <= 0.4
    return float(grid[few_empty & (grid / (1 - grid) <= 1 + (5 / np.mean(users_of_items)) ** 1.5)].max())


@pytest.mark.parametrize(
    ("users", "items", "length", "expected"),
    [
        (400, 40, 20, 0.501),  # 200 users an item: dense
        (400, 1000, 5, 0.832),  # 2 users an item
        (300, 150, 1, 0.4),  # histories of one item: more would leave most inputs empty
        (300, 300, 2, 0.632),
    ],
)
def test_dropout_suits_the_data(users: int, items: int, length: int, expected: float) -> None:
    rows = [[(user * length + place) % items + 1 for place in range(length)] for user in range(users)]
    histories = Histories.from_lists([[], *rows])  # row 0 is RecBole's padding
    found = dropout_for(histories, items + 50)  # 50 items without users
    assert found == pytest.approx(numpy_dropout([length] * users, [users * length / items]), abs=0.0011)
    assert found == pytest.approx(expected, abs=0.0011)


@pytest.mark.parametrize("hidden", [[], [5], [6, 5]])
@pytest.mark.parametrize("activate_last", [False, True])
@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_encoder_equals_numpy(hidden: list[int], activate_last: bool, activation: str, histories: Histories) -> None:
    encoder = MLPEncoder(N_ITEMS, hidden, 4, activation, activate_last=activate_last).double()
    h = dense(histories)
    h = h / np.maximum(np.linalg.norm(h, axis=1, keepdims=True), 1e-300)
    linears = [(encoder.input.weight.detach().numpy(), encoder.input.bias.detach().numpy())]
    linears += [
        (each.weight.detach().numpy().T, each.bias.detach().numpy())
        for each in encoder.layers
        if isinstance(each, torch.nn.Linear)
    ]
    assert len(linears) == len(hidden) + 1
    for number, (weight, bias) in enumerate(linears):
        h = h @ weight + bias
        if activate_last or number < len(linears) - 1:
            h = ACTIVATIONS[activation]()(torch.from_numpy(h)).numpy()
    np.testing.assert_allclose(encoder(histories).detach(), h, rtol=0, atol=1e-12)


def test_decoder_and_mlp_have_the_layers_that_were_asked_for() -> None:
    decoder = MLPDecoder(3, [4, 5], N_ITEMS, "tanh")
    kinds = [type(each).__name__ for each in decoder.layers]
    assert kinds == ["Linear", "Tanh", "Linear", "Tanh", "Linear"]
    assert decoder(torch.zeros(2, 3)).shape == (2, N_ITEMS)
    assert len(mlp([3], "tanh", activate_last=False)) == 0


def test_initial_values_are_the_papers() -> None:
    torch.manual_seed(0)
    layer = SparseLinear(600, 400)
    bound = np.sqrt(6 / 1000)
    assert bound * 0.99 < layer.weight.abs().max().item() <= bound
    assert layer.bias.abs().max().item() <= 0.002
    assert 0.0007 < layer.bias.std().item() < 0.001
