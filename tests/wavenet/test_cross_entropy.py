"""The cross-entropy of a one-dimensional student p_S under each kind of teacher p_T: E_S[-ln p_T(x)]."""

import math

import pytest
import torch

from data import mulaw
from wavenet.distributions import Gaussian, MixtureOfLogistics, MuLawCategorical
from wavenet.kernels import reference

MOL = MixtureOfLogistics(3, log_scale_floor=-9.0, log_scale_init=-3.0)


def quantiles(n):
    """n uniforms, evenly spread: a sum over them is an integral over the student's distribution."""
    return (torch.arange(n, dtype=torch.float64) + 0.5) / n


def scalar(value):
    return torch.tensor([[value]], dtype=torch.float64)  # (B, T) = (1, 1)


def classes_of_logistic(scale):
    """Logits (1, 1, 256) of the classes' masses under a logistic at 0, the edge classes taking the tails."""
    lower = torch.sigmoid(mulaw.bin_edges(torch.float64)[1:129] / scale).diff(prepend=torch.zeros(1))
    return torch.cat([lower, lower.flip(0)]).log()[None, None]  # by symmetry, for 1 - F rounds to 0 in the upper tail


@pytest.mark.parametrize(("loc", "log_scale"), [(0.0, -3.0), (0.2, -4.0), (-0.05, -6.0)])
def test_mu_law_in_closed_form_is_monte_carlo(loc, log_scale):
    torch.manual_seed(0)
    params = torch.randn(1, 1, 256, dtype=torch.float64)
    x = loc + math.exp(log_scale) * torch.logit(quantiles(50_000))
    sampled = -MuLawCategorical().log_density(params[0].expand(len(x), -1), x).mean()
    closed = MuLawCategorical().cross_entropy(params, scalar(loc), scalar(log_scale), None)
    assert closed.item() == pytest.approx(sampled.item(), abs=1e-3)


@pytest.mark.parametrize(("loc", "log_scale"), [(0.0, -3.0), (0.2, -1.0), (-2.0, -6.0)])
def test_gaussian_in_closed_form_is_monte_carlo(loc, log_scale):
    params = torch.tensor([[[0.1, -2.0]]], dtype=torch.float64)
    x = loc + math.exp(log_scale) * torch.special.ndtri(quantiles(50_000))
    gaussian = Gaussian(-9.0, -3.0)
    sampled = -gaussian.log_density(params[0].expand(len(x), -1), x).mean()
    closed = gaussian.cross_entropy(params, scalar(loc), scalar(log_scale), None)
    assert closed.item() == pytest.approx(sampled.item(), rel=1e-3)


def test_the_monte_carlo_sum_of_a_mixture_is_the_integral():
    torch.manual_seed(0)
    params = torch.randn(1, 1, 9, dtype=torch.float64) - 1
    loc, log_scale = 0.1, -2.5
    grid = torch.linspace(-3, 3, 100_001, dtype=torch.float64)
    centred = (grid - loc) * math.exp(-log_scale)
    student = torch.nn.functional.logsigmoid(centred) + torch.nn.functional.logsigmoid(-centred) - log_scale
    integral = torch.trapezoid(student.exp() * -MOL.log_density(params[0].expand(len(grid), -1), grid), grid)
    sampled = MOL.cross_entropy(params, scalar(loc), scalar(log_scale), quantiles(20_000)[None, None])
    assert sampled.item() == pytest.approx(integral.item(), abs=1e-3)


def mixture_problem():
    torch.manual_seed(0)
    params = torch.randn(2, 13, 9, dtype=torch.float64, requires_grad=True)
    loc, log_scale = (torch.randn(2, 13, dtype=torch.float64, requires_grad=True) for _ in range(2))
    draws = torch.rand(2, 13, 7, dtype=torch.float64)
    return (params, loc, log_scale), draws


@pytest.mark.parametrize("block", [1, 7 * 3, 7 * 3 * 5])
def test_the_sum_in_blocks_of_samples_is_the_sum_at_once_with_its_gradients(monkeypatch, block):
    inputs, draws = mixture_problem()
    whole = MOL.cross_entropy(*inputs, draws)
    weights = torch.randn_like(whole)
    slopes = torch.autograd.grad((whole * weights).sum(), inputs)
    monkeypatch.setattr(reference, "_BLOCK", block)
    blocks = MOL.cross_entropy(*inputs, draws)
    torch.testing.assert_close(blocks, whole, rtol=1e-12, atol=1e-12)
    for again, slope in zip(torch.autograd.grad((blocks * weights).sum(), inputs), slopes, strict=True):
        torch.testing.assert_close(again, slope, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["mulaw", "mol", "gaussian"])
def test_gradients_reach_teacher_location_and_scale(kind):
    distribution = {"mulaw": MuLawCategorical(), "mol": MOL, "gaussian": Gaussian(-9.0, -3.0)}[kind]
    torch.manual_seed(0)
    params = torch.randn(1, 2, distribution.n_params, dtype=torch.float64, requires_grad=True)
    loc = (0.1 * torch.randn(1, 2, dtype=torch.float64)).requires_grad_()
    log_scale = (torch.randn(1, 2, dtype=torch.float64) - 2).requires_grad_()
    draws = torch.rand(1, 2, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda params, loc, log_scale: distribution.cross_entropy(params, loc, log_scale, draws),
        (params, loc, log_scale),
        rtol=1e-3,
    )


def divergence(kind, teacher_scale, loc, log_scale):
    """KL of a student (T,) from a teacher at 0 of a known scale: cross-entropy - entropy."""
    T = len(loc)
    loc, log_scale = loc[None], log_scale[None]
    log_teacher = math.log(teacher_scale)
    if kind == "gaussian":
        params = torch.tensor([0.0, log_teacher], dtype=torch.float64).expand(1, T, 2)
        cross = Gaussian(-9.0, -3.0).cross_entropy(params, loc, log_scale, None)
        return (cross - log_scale - 0.5 * math.log(2 * math.pi * math.e))[0]
    if kind == "mulaw":
        cross = MuLawCategorical().cross_entropy(
            classes_of_logistic(teacher_scale).expand(1, T, -1), loc, log_scale, None
        )
    else:
        params = torch.tensor([0.0, 0.0, log_teacher], dtype=torch.float64).expand(1, T, 3)
        mol = MixtureOfLogistics(1, -9.0, -3.0)
        cross = mol.cross_entropy(params, loc, log_scale, quantiles(4000).expand(1, T, -1))
    return (cross - log_scale - 2)[0]


@pytest.mark.parametrize("kind", ["mulaw", "mol", "gaussian"])
@pytest.mark.parametrize("scale", [0.02, 0.05])
def test_the_divergence_is_least_and_zero_at_the_students_equal_to_the_teacher(kind, scale):
    """Classes without their widths would pull a student of scale 0.05 to 0.081."""
    factors = torch.linspace(-0.7, 0.7, 141, dtype=torch.float64)
    by_scale = divergence(kind, scale, torch.zeros(141, dtype=torch.float64), math.log(scale) + factors)
    by_loc = divergence(kind, scale, scale * factors, torch.full((141,), math.log(scale), dtype=torch.float64))
    for losses in (by_scale, by_loc):
        assert abs(factors[losses.argmin()]) < 0.015
        assert losses.min().item() == pytest.approx(0.0, abs=2e-3)


def test_without_the_widths_of_the_classes_the_least_divergence_is_elsewhere():
    """What the widths are for."""
    scale, log_scale = 0.05, torch.linspace(math.log(0.02), math.log(0.2), 400, dtype=torch.float64)[None]
    params = classes_of_logistic(scale).expand(1, 400, -1)
    edges = mulaw.bin_edges(torch.float64)
    cdf = torch.sigmoid(edges[1:-1] * torch.exp(-log_scale)[..., None])
    masses = torch.diff(cdf, prepend=torch.zeros(1, 400, 1), append=torch.ones(1, 400, 1), dim=-1)
    without = -(masses * torch.log_softmax(params, dim=-1)).sum(dim=-1) - log_scale
    assert log_scale[0, without[0].argmin()].exp().item() == pytest.approx(0.081, abs=0.002)


@pytest.mark.parametrize("side", [-1, 1])
def test_a_student_beyond_the_range_is_pulled_back_by_mu_law_classes(side):
    """By the closed form alone, for no class says which way back is."""
    for log_scale in (-6.0, -1.0, 2.0):
        loc = scalar(side * 1.2).requires_grad_()
        loss = MuLawCategorical().cross_entropy(torch.zeros(1, 1, 256), loc, scalar(log_scale), None)
        assert side * torch.autograd.grad(loss.sum(), loc)[0].item() > 1


@pytest.mark.parametrize("params", [torch.zeros(1, 1, 256), classes_of_logistic(0.05)], ids=["uniform", "logistic"])
def test_no_student_gains_without_end_on_mu_law_classes(params):
    """A student ever wider has ever more entropy, and what lies beyond the range must cost more than that."""
    log_scale = torch.linspace(-6, 8, 281, dtype=torch.float64)[None]
    loc = torch.linspace(-3, 3, 31, dtype=torch.float64)[:, None].expand(-1, 281)
    cross = MuLawCategorical().cross_entropy(params.expand(31, 281, -1), loc, log_scale.expand(31, -1), None)
    kl = cross - log_scale - 2
    assert kl.min() > -math.log(2)
    assert (kl[:, -60:].diff() > 0).all()  # from a scale of 150 on


@pytest.mark.parametrize("loc", [-2.0, -1.0, 0.0, 0.3, 1.0, 1.5])
def test_however_narrow_a_student_mu_law_classes_give_it_finite_slopes(loc):
    """In float32, where the square of a scale below e^-44 is zero; beside one that is ordinary."""
    locs = torch.full((1, 3), loc, requires_grad=True)
    log_scales = torch.tensor([[-5.0, -30.0, -46.0]], requires_grad=True)
    loss = MuLawCategorical().cross_entropy(torch.zeros(1, 3, 256), locs, log_scales, None)
    slopes = torch.autograd.grad(loss.sum(), [locs, log_scales])
    assert loss.isfinite().all() and all(slope.isfinite().all() for slope in slopes)
    assert abs(slopes[1][0, 2]) < 1e-6
    if abs(loc) > 1:
        assert (loc * slopes[0] > 1).all()


def test_a_mixture_needs_draws():
    with pytest.raises(AssertionError, match="scored on draws"):
        MOL.cross_entropy(torch.zeros(1, 1, 9), torch.zeros(1, 1), torch.zeros(1, 1), None)


@pytest.mark.parametrize("log_scale", [-9.0, -5.0, -1.0])
@pytest.mark.parametrize("loc", [0.0, 0.3, 0.999])
def test_mu_law_in_float32_is_that_in_float64_with_its_gradients(loc, log_scale):
    def loss_and_slopes(dtype):
        inputs = [torch.full((1, 1), value, dtype=dtype, requires_grad=True) for value in (loc, log_scale)]
        loss = MuLawCategorical().cross_entropy(classes_of_logistic(0.05).to(dtype), *inputs, None)
        return [tensor.double() for tensor in (loss, *torch.autograd.grad(loss.sum(), inputs))]

    for single, double in zip(loss_and_slopes(torch.float32), loss_and_slopes(torch.float64), strict=True):
        torch.testing.assert_close(single, double, rtol=2e-3, atol=2e-3)
