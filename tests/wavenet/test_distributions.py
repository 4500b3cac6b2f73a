import math

import pytest
import torch

from data import mulaw
from wavenet.distributions import (
    HALF_BIN,
    Gaussian,
    MixtureOfLogistics,
    MuLawCategorical,
    OutputConfig,
    OutputKind,
    output_distribution,
)

KINDS = list(OutputKind)
LEVELS = torch.arange(-32768, 32768, dtype=torch.float64) / 32768


def mixture(means, log_scales, weights=None, dtype=torch.float64):
    """Parameters (3K,) of a mixture."""
    logits = torch.log(torch.tensor(weights or [1.0] * len(means)))
    return torch.cat([logits, torch.tensor(means), torch.tensor(log_scales)]).to(dtype)


def log_widths():
    return mulaw.bin_edges(torch.float64).diff().log()


def logistic_classes(scale):
    """Logits (256,) of the classes' masses under a logistic at 0, the edge classes taking the tails."""
    lower = torch.sigmoid(mulaw.bin_edges(torch.float64)[1:129] / scale).diff(prepend=torch.zeros(1))
    return torch.cat([lower, lower.flip(0)]).log()  # by symmetry, for 1 - F rounds to 0 in the upper tail


MIXTURES = {
    "usual": mixture([-0.1, 0.0, 0.3], [-5.0, -3.0, -2.0], [0.2, 0.5, 0.3]),
    "narrower than a level": mixture([0.00123, -0.7], [-14.0, -11.0]),
    "wider than the range": mixture([0.0, 0.2], [1.0, 0.0]),
    "beyond the range": mixture([1.5, -1.2], [-4.0, -6.0]),
}


@pytest.mark.parametrize("name", MIXTURES)
def test_the_masses_of_all_65536_levels_sum_to_one(name):
    params = MIXTURES[name]
    mol = MixtureOfLogistics(len(params) // 3, log_scale_floor=-20.0, log_scale_init=-3.0)
    masses = mol.log_prob(params.expand(65536, -1), LEVELS).exp()
    assert masses.sum().item() == pytest.approx(1.0, abs=1e-9)


def test_the_masses_of_all_256_classes_sum_to_one():
    torch.manual_seed(0)
    params = torch.randn(256, dtype=torch.float64)
    values = mulaw.decode(torch.arange(256), torch.float64)
    assert MuLawCategorical().log_prob(params.expand(256, -1), values).exp().sum().item() == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["usual", "wider than the range", "beyond the range"])
def test_the_density_of_a_mixture_integrates_to_one(name):
    params = MIXTURES[name]
    mol = MixtureOfLogistics(len(params) // 3, -20.0, -3.0)
    x = torch.linspace(-60, 60, 300_001, dtype=torch.float64)
    density = mol.log_density(params.expand(len(x), -1), x).exp()
    assert torch.trapezoid(density, x).item() == pytest.approx(1.0, abs=1e-6)


def test_the_density_of_mu_law_classes_integrates_to_one_and_lies_within_the_range():
    torch.manual_seed(0)
    params = torch.randn(256, dtype=torch.float64)
    edges = mulaw.bin_edges(torch.float64)
    for place in (0.01, 0.5, 0.99):  # anywhere in a bin, for the density is constant there
        density = MuLawCategorical().log_density(params.expand(256, -1), edges[:-1] + place * edges.diff()).exp()
        assert (density * edges.diff()).sum().item() == pytest.approx(1.0, abs=1e-12)
    beyond = torch.tensor([-1.01, 1.01, 7.0], dtype=torch.float64)
    assert (MuLawCategorical().log_density(params.expand(3, -1), beyond) == -torch.inf).all()


def test_the_density_of_a_gaussian_integrates_to_one():
    params = torch.tensor([0.1, -2.0], dtype=torch.float64)
    x = torch.linspace(-3, 3, 100_001, dtype=torch.float64)
    density = Gaussian(-9.0, -3.0).log_density(params.expand(len(x), -1), x).exp()
    assert torch.trapezoid(density, x).item() == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("name", MIXTURES)
def test_inside_the_range_the_density_is_the_mass_over_the_width_of_a_level(name):
    params = MIXTURES[name]
    mol = MixtureOfLogistics(len(params) // 3, -20.0, -3.0)
    x, params = LEVELS[1:-1:97], params.expand(len(LEVELS[1:-1:97]), -1)
    difference = mol.log_density(params, x) - mol.log_prob(params, x)
    torch.testing.assert_close(difference, torch.full_like(x, -math.log(2 * HALF_BIN)))


def test_the_mass_of_a_level_is_the_difference_of_the_distribution_function():
    weights, means, scales = (
        torch.tensor([0.2, 0.5, 0.3]),
        torch.tensor([-0.1, 0.0, 0.3]),
        torch.exp(torch.tensor([-5.0, -3.0, -2.0])),
    )
    params = MIXTURES["usual"]
    edges = torch.cat([torch.tensor([-torch.inf]), LEVELS[1:] - HALF_BIN, torch.tensor([torch.inf])]).double()
    cdf = (weights * torch.sigmoid((edges[:, None] - means) / scales)).sum(dim=-1)
    masses = MixtureOfLogistics(3, -9.0, -3.0).log_prob(params.expand(65536, -1), LEVELS).exp()
    torch.testing.assert_close(masses, cdf.diff(), rtol=1e-5, atol=1e-14)


@pytest.mark.parametrize("log_scale", [-16.0, -12.0, -11.0, -9.0, -5.0, 0.0, 3.0])
@pytest.mark.parametrize("distance", [0.0, 1e-5, 2.0**-16, 1e-3, 0.5, 2.0, 50.0])
def test_the_density_in_float32_is_that_in_float64_with_finite_gradients(log_scale, distance):
    """From s << h to s >> h, and far into the tails."""
    mol = MixtureOfLogistics(2, log_scale_floor=-20.0, log_scale_init=-3.0)
    params = mixture([0.0, 0.0], [log_scale, log_scale + 0.5], dtype=torch.float32).requires_grad_()
    x = torch.tensor([-distance, distance], dtype=torch.float32, requires_grad=True)
    single = mol.log_density(params.expand(2, -1), x)
    double = mol.log_density(params.detach().double().expand(2, -1), x.detach().double())
    torch.testing.assert_close(single.double(), double, rtol=2e-5, atol=1e-4)
    slopes = torch.autograd.grad(single.sum(), (params, x))
    assert all(slope.isfinite().all() for slope in slopes)


@pytest.mark.parametrize("kind", [OutputKind.mol, OutputKind.gaussian])
def test_the_tails_of_a_density_still_pull_x_back(kind):
    distribution = output_distribution(OutputConfig(kind=kind, unit=1.0, mixtures=1))
    params = torch.tensor([0.0, -5.0] if kind is OutputKind.gaussian else [0.0, 0.0, -5.0])
    x = torch.tensor([-1.5, 1.5], requires_grad=True)
    (slope,) = torch.autograd.grad(distribution.log_density(params.expand(2, -1), x).sum(), x)
    assert slope[0] > 0 > slope[1]


def test_a_uniform_density_takes_sixteen_bits():
    params = log_widths()  # probability in proportion to width
    x = torch.linspace(-1, 1, 1001, dtype=torch.float64)
    bits = MuLawCategorical().bits(params.expand(1001, -1), x)
    torch.testing.assert_close(bits, torch.full_like(bits, 16.0))


@pytest.mark.parametrize("scale", [0.02, 0.1])
def test_bits_of_a_known_density_agree_between_kinds(scale):
    """A logistic's entropy is ln s + 2 nats, and a level is 2^-15 wide; classes cost what their coarseness adds."""
    u = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    x = scale * torch.logit(u)
    expected = 15 + (math.log(scale) + 2) / math.log(2)
    by_mixture = MixtureOfLogistics(1, -9.0, -3.0).bits(mixture([0.0], [math.log(scale)]).expand(len(x), -1), x)
    inside = x.abs() < 1
    by_classes = MuLawCategorical().bits(logistic_classes(scale).expand(len(x), -1), x)
    assert by_mixture.mean().item() == pytest.approx(expected, abs=0.01)
    assert by_classes[inside].mean().item() == pytest.approx(by_mixture[inside].mean().item(), abs=0.02)


def test_bits_of_a_gaussian_are_its_entropy():
    sigma = 0.1
    u = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    x = sigma * torch.special.ndtri(u)
    params = torch.tensor([0.0, math.log(sigma)], dtype=torch.float64).expand(len(x), -1)
    expected = 15 + 0.5 * math.log2(2 * math.pi * math.e * sigma**2)
    assert Gaussian(-9.0, -3.0).bits(params, x).mean().item() == pytest.approx(expected, abs=0.01)


def test_bits_are_those_of_the_file_at_any_gain():
    gaussian, file = Gaussian(-9.0, -3.0), torch.linspace(-0.3, 0.3, 11, dtype=torch.float64)

    def bits(gain):
        params = torch.tensor([0.0, math.log(0.1 * gain)], dtype=torch.float64)
        return gaussian.bits(params.expand(11, -1), file * gain, gain)

    torch.testing.assert_close(bits(2.5), bits(1.0))


@pytest.mark.parametrize("kind", [OutputKind.mol, OutputKind.gaussian])
def test_scales_below_the_floor_are_the_floor(kind):
    distribution = output_distribution(OutputConfig(kind=kind, unit=1.0, mixtures=1, log_scale_floor=-6.0))
    at, below = (
        torch.tensor([0.0, s] if kind is OutputKind.gaussian else [0.0, 0.0, s], dtype=torch.float64)
        for s in (-6.0, -30.0)
    )
    x, noise = torch.tensor(0.001, dtype=torch.float64), torch.tensor([0.7, 0.7], dtype=torch.float64)
    assert distribution.log_density(at, x) == distribution.log_density(below, x)
    assert distribution.sample(at, noise) == distribution.sample(below, noise)


def random_params(distribution):
    torch.manual_seed(3)
    if isinstance(distribution, MuLawCategorical):
        return torch.randn(256, dtype=torch.float64) + logistic_classes(0.1)
    return MIXTURES["usual"] if distribution.n_params == 9 else torch.tensor([0.05, -2.5], dtype=torch.float64)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_follow_the_probabilities(kind):
    """Kolmogorov-Smirnov: the distance of the two distribution functions is below its 0.1 % point."""
    distribution = output_distribution(OutputConfig(kind=kind, unit=1.0, mixtures=3))
    params, n = random_params(distribution), 20_000
    x = distribution.sample(params.expand(n, -1), distribution.noise(11, 0, n)).sort().values
    if kind is OutputKind.gaussian:
        expected = torch.special.ndtr((x - params[0]) / params[1].exp())
    else:
        values = mulaw.decode(torch.arange(256), torch.float64) if kind is OutputKind.mulaw else LEVELS
        cdf = distribution.log_prob(params.expand(len(values), -1), values).exp().cumsum(dim=0)
        expected = cdf[torch.searchsorted(values, x)]
    observed = torch.searchsorted(x, x, side="right") / n
    assert (observed - expected).abs().max() < 1.95 / math.sqrt(n)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_are_values_that_the_model_emits_in_the_dtype_of_its_parameters(kind):
    distribution = output_distribution(OutputConfig(kind=kind, unit=1.0, mixtures=3))
    params = random_params(distribution).float().expand(5000, -1)
    x = distribution.sample(params, distribution.noise(1, 0, 5000))
    assert x.dtype == torch.float32
    assert torch.equal(distribution.quantise(x), x)


def test_samples_of_a_mixture_are_16_bit_levels_within_the_range():
    params = mixture([0.9, -0.9], [-1.0, -1.0]).expand(5000, -1)
    mol = MixtureOfLogistics(2, -9.0, -3.0)
    x = mol.sample(params, mol.noise(1, 0, 5000))
    assert torch.equal(x * 32768, (x * 32768).round())
    assert x.min() == -1 and x.max() == 1 - 2.0**-15


def test_a_class_is_the_first_whose_cumulative_probability_exceeds_the_noise():
    params = torch.full((256,), -torch.inf, dtype=torch.float64)
    params[[10, 20, 30]] = torch.tensor([0.25, 0.5, 0.25], dtype=torch.float64).log()
    noise = torch.tensor([1e-12, 0.2499, 0.2501, 0.7499, 0.7501, 1 - 2.0**-53], dtype=torch.float64)[:, None]
    codes = mulaw.encode(MuLawCategorical().sample(params.expand(6, -1), noise))
    assert codes.tolist() == [10, 10, 20, 20, 30, 30]


def test_noise_next_to_one_is_no_click_in_a_float32_model():
    """It would round to 1 in float32, whose quantile is infinite."""
    params = mixture([0.0], [-9.0], dtype=torch.float32)
    noise = torch.tensor([0.5, 1 - 2.0**-53], dtype=torch.float64)
    assert MixtureOfLogistics(1, -9.0, -3.0).sample(params, noise).abs() < 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_model_is_broad_and_centred(kind):
    distribution = output_distribution(OutputConfig(kind=kind, unit=1.0, mixtures=5))
    bias = distribution.initial_bias()
    assert bias.shape == (distribution.n_params,)
    x = distribution.sample(bias.expand(4000, -1), distribution.noise(0, 0, 4000))
    assert x.mean().abs() < 0.05 and 0.02 < x.std() < 0.7


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mixtures": 0}, "mixtures is 0, but a mixture needs at least 1"),
        ({"log_scale_floor": -2.0}, "log_scale_floor is -2.0, not below output.log_scale_init -3.0"),
        ({"kind": "laplace"}, "'laplace' is not a valid OutputKind"),
    ],
)
def test_an_impossible_output_is_refused_by_name(settings, message):
    with pytest.raises(ValueError, match=message):
        OutputConfig(**settings)
