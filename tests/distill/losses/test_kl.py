"""Laws of the divergence: closed forms, Monte Carlo, and where the minimum lies."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from data import mulaw
from distill.fit import base_for
from distill.losses.kl import (
    KLConfig,
    clipped,
    entropy,
    floored,
    kl_divergence,
    scale_regulariser,
    stratified,
    taught_above,
    uniforms,
)
from distill.student import Base
from wavenet.distributions import Gaussian, OutputConfig, OutputDistribution, OutputKind, output_distribution


def _teacher(kind: OutputKind, mixtures: int = 1) -> OutputDistribution:
    return output_distribution(OutputConfig(kind=kind, unit=1.0, mixtures=mixtures))


def _matching_params(kind: OutputKind, loc: Tensor, log_scale: Tensor) -> Tensor:
    """Parameters (B, T, P) with which the teacher is the student's distribution (to the width of a bin)."""
    if kind is OutputKind.gaussian:
        return torch.stack([loc, log_scale], dim=-1)
    if kind is OutputKind.mol:
        return torch.stack([torch.zeros_like(loc), loc, log_scale], dim=-1)
    edges = mulaw.bin_edges(loc.dtype)[1:-1]
    cdf = torch.sigmoid((edges - loc[..., None]) * torch.exp(-log_scale)[..., None])
    return (F.pad(cdf, (0, 1), value=1.0) - F.pad(cdf, (1, 0), value=0.0)).clamp(min=1e-300).log()


def _kl(
    teacher: OutputDistribution,
    params: Tensor,
    loc: Tensor,
    log_scale: Tensor,
    base: Base,
    draws: int,
    generator: torch.Generator | None = None,
) -> Tensor:
    return kl_divergence(teacher, params, loc, log_scale, base, uniforms(teacher, loc, draws, generator)).kl


def _density(base: Base, loc: float, log_scale: float, x: Tensor) -> Tensor:
    return (base.log_density((x - loc) * math.exp(-log_scale)) - log_scale).exp()


def _constant(value: float, shape: tuple[int, int] = (1, 1)) -> Tensor:
    return torch.full(shape, value, dtype=torch.float64)


# Entropy


@pytest.mark.parametrize("base", Base)
@pytest.mark.parametrize("log_scale", [-6.0, -2.0, 0.5])
def test_entropy_is_the_integral_of_minus_p_log_p(base: Base, log_scale: float) -> None:
    x = torch.linspace(-60, 60, 400_001, dtype=torch.float64) * math.exp(log_scale)
    p = _density(base, 0.0, log_scale, x)
    integral = torch.trapezoid(-torch.xlogy(p, p), x)
    torch.testing.assert_close(entropy(_constant(log_scale), base)[0, 0], integral, rtol=1e-8, atol=1e-8)


# Draws


@given(n=st.integers(1, 130))
def test_every_stratum_gets_one_draw(n: int) -> None:
    u = stratified(torch.empty(3, 5), n)
    assert u.shape == (3, 5, n)
    assert torch.equal((u.double() * n - 1e-4).floor().clamp(min=0).sort().values[..., 0], torch.zeros(3, 5).double())
    assert ((u * n - torch.arange(n)) > -1e-4).all() and ((u * n - torch.arange(n)) < 1 + 1e-4).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("extreme", [0.0, 1.0])
def test_no_draw_has_an_infinite_quantile(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, extreme: float) -> None:
    monkeypatch.setattr(torch, "rand", lambda *shape, **like: torch.full(shape, extreme, dtype=like["dtype"]))
    assert torch.logit(stratified(torch.empty(2, dtype=dtype), 100)).isfinite().all()


def test_draws_are_uniform() -> None:
    u = stratified(torch.empty(20_000, dtype=torch.float64), 5).flatten()
    for power in range(1, 5):
        error = math.sqrt((1 / (2 * power + 1) - 1 / (power + 1) ** 2) / len(u))  # of independent draws, an upper bound
        assert abs((u**power).mean().item() - 1 / (power + 1)) < 4 * error


def test_stratified_draws_estimate_with_a_fraction_of_the_variance() -> None:
    teacher = _teacher(OutputKind.mol, mixtures=2)
    params = torch.tensor([0.0, 1.0, -0.1, 0.1, -3.0, -2.0], dtype=torch.float64).expand(1000, 1, 6)
    loc, log_scale = _constant(0.05, (1000, 1)), _constant(-2.5, (1000, 1))
    strata = teacher.cross_entropy(params, loc, log_scale, stratified(loc, 100))
    independent = teacher.cross_entropy(params, loc, log_scale, torch.rand(1000, 1, 100, dtype=torch.float64))
    assert strata.var() < independent.var() / 10


# The divergence


@pytest.mark.parametrize("kind", [OutputKind.mol, OutputKind.gaussian])
def test_divergence_of_a_distribution_from_itself_is_zero_within_its_standard_error(kind: OutputKind) -> None:
    loc, log_scale = torch.randn(64, 50) * 0.1, torch.rand(64, 50) * 4 - 6
    params = _matching_params(kind, loc, log_scale)
    kl = _kl(_teacher(kind), params, loc, log_scale, base_for(kind), draws=100)
    error = kl.std() / math.sqrt(kl.numel())
    assert abs(kl.mean()) < 3 * error + 1e-6
    assert kl.std() < 0.1


def test_divergence_from_a_mixture_of_equal_components_is_zero_within_its_standard_error() -> None:
    loc, log_scale = torch.randn(64, 50) * 0.1, torch.full((64, 50), -4.0)
    logits = torch.randn(64, 50, 3)
    params = torch.cat([logits, loc[..., None].expand(-1, -1, 3), log_scale[..., None].expand(-1, -1, 3)], dim=-1)
    kl = _kl(_teacher(OutputKind.mol, 3), params, loc, log_scale, Base.logistic, draws=100)
    assert abs(kl.mean()) < 3 * kl.std() / math.sqrt(kl.numel())


def test_divergence_of_a_mu_law_teacher_from_its_own_logistic_is_zero_to_the_width_of_a_bin() -> None:
    loc, log_scale = _constant(0.1, (1, 1)), _constant(-3.0)
    params = _matching_params(OutputKind.mulaw, loc, log_scale)
    kl = _kl(_teacher(OutputKind.mulaw), params, loc, log_scale, Base.logistic, draws=1)
    assert abs(kl.item()) < 0.01


@pytest.mark.parametrize("kind", OutputKind)
@given(loc=st.floats(-0.2, 0.2), log_scale=st.floats(-4.5, -2.5), d_loc=st.floats(-1, 1), d_log_scale=st.floats(-1, 1))
@settings(max_examples=10, deadline=None)
def test_the_loss_is_least_for_the_student_equal_to_the_teacher(
    kind: OutputKind, loc: float, log_scale: float, d_loc: float, d_log_scale: float
) -> None:
    """From wherever it starts, the descent ends at the teacher's loc and scale."""
    teacher = _teacher(kind)
    params = _matching_params(kind, _constant(loc), _constant(log_scale))
    scale = math.exp(log_scale)
    at = torch.stack([_constant(loc + d_loc * scale), _constant(log_scale + d_log_scale)]).requires_grad_()
    optimizer = torch.optim.LBFGS([at], max_iter=100, line_search_fn="strong_wolfe", tolerance_change=1e-12)

    def loss() -> Tensor:
        optimizer.zero_grad()
        draws = torch.Generator().manual_seed(1)
        total = _kl(teacher, params, at[0], at[1], base_for(kind), 500, draws).sum()
        if isinstance(teacher, Gaussian):
            total = total + 4 * scale_regulariser(teacher, params, at[1]).sum()
        total.backward()
        return total

    optimizer.step(loss)
    assert at[0].item() == pytest.approx(loc, abs=0.03 * scale)
    assert at[1].item() == pytest.approx(log_scale, abs=0.03)


@pytest.mark.parametrize("kind", OutputKind)
@pytest.mark.parametrize(("d_loc", "d_log_scale"), [(0.7, 0.0), (-0.7, 0.0), (0.0, 0.4), (0.0, -0.4)])
def test_every_departure_from_the_teacher_costs(kind: OutputKind, d_loc: float, d_log_scale: float) -> None:
    loc, log_scale = _constant(0.05), _constant(-3.0)
    params = _matching_params(kind, loc, log_scale)

    def kl(loc: Tensor, log_scale: Tensor) -> float:
        draws = torch.Generator().manual_seed(1)
        return _kl(_teacher(kind), params, loc, log_scale, base_for(kind), 200, draws).item()

    assert kl(loc + d_loc * log_scale.exp(), log_scale + d_log_scale) > kl(loc, log_scale) + 0.02


# Cross-entropies against plain integration


def test_monte_carlo_cross_entropy_is_the_integral_over_the_students_density() -> None:
    teacher = _teacher(OutputKind.mol, mixtures=2)
    params = torch.tensor([[[0.0, 1.0, -0.1, 0.1, -3.0, -2.0]]], dtype=torch.float64)
    loc, log_scale = 0.05, -2.5
    u = stratified(_constant(0.0, (1, 1)), 200_000)
    estimate = teacher.cross_entropy(params, _constant(loc), _constant(log_scale), u)
    x = torch.linspace(-4, 4, 200_001, dtype=torch.float64)
    integrand = -_density(Base.logistic, loc, log_scale, x) * teacher.log_density(params[0], x)
    torch.testing.assert_close(estimate[0, 0], torch.trapezoid(integrand, x), rtol=0, atol=1e-4)


def test_mu_law_cross_entropy_is_the_integral_over_the_students_density() -> None:
    teacher = _teacher(OutputKind.mulaw)
    params = torch.randn(1, 1, 256, dtype=torch.float64)
    loc, log_scale = 0.1, -3.5  # no mass beyond [-1, 1], where the density is zero
    edges = mulaw.bin_edges()
    widths = edges.diff()[:, None] / 20
    x = edges[:-1, None] + widths * (torch.arange(20) + 0.5)  # (256, 20): midpoints within every bin
    log_density = teacher.log_density(params[0, 0].expand(256, 20, 256), x)
    integral = (-_density(Base.logistic, loc, log_scale, x) * log_density * widths).sum()
    closed = teacher.cross_entropy(params, _constant(loc), _constant(log_scale), None)
    torch.testing.assert_close(closed[0, 0], integral, rtol=0, atol=1e-4)


@given(mean=st.floats(-1, 1), teacher_log_scale=st.floats(-3, 0), loc=st.floats(-1, 1), log_scale=st.floats(-3, 0))
@settings(deadline=None)
def test_gaussian_divergence_is_the_textbook_closed_form(
    mean: float, teacher_log_scale: float, loc: float, log_scale: float
) -> None:
    params = torch.tensor([[[mean, teacher_log_scale]]], dtype=torch.float64)
    kl = _kl(_teacher(OutputKind.gaussian), params, _constant(loc), _constant(log_scale), Base.normal, 1)
    student = torch.distributions.Normal(loc, math.exp(log_scale))
    teacher = torch.distributions.Normal(mean, math.exp(teacher_log_scale))
    expected = torch.distributions.kl_divergence(student, teacher)
    assert kl.item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-5)


def test_gradient_reaches_loc_and_scale_through_the_draws() -> None:
    """d H / d loc and d H / d log_scale by Monte Carlo are those of the integral."""
    teacher = _teacher(OutputKind.mol, mixtures=2)
    params = torch.tensor([[[0.0, 1.0, -0.1, 0.1, -3.0, -2.0]]], dtype=torch.float64)
    loc, log_scale = _constant(0.05).requires_grad_(), _constant(-2.5).requires_grad_()
    teacher.cross_entropy(params, loc, log_scale, stratified(loc.detach(), 100_000)).backward()
    x = torch.linspace(-4, 4, 200_001, dtype=torch.float64)
    log_density = teacher.log_density(params[0], x)

    def integral(loc: float, log_scale: float) -> float:
        return torch.trapezoid(-_density(Base.logistic, loc, log_scale, x) * log_density, x).item()

    h = 1e-4
    assert loc.grad is not None and log_scale.grad is not None
    slopes = ((integral(0.05 + h, -2.5) - integral(0.05 - h, -2.5)) / (2 * h), loc.grad.item())
    assert slopes[1] == pytest.approx(slopes[0], rel=1e-2)
    slopes = ((integral(0.05, -2.5 + h) - integral(0.05, -2.5 - h)) / (2 * h), log_scale.grad.item())
    assert slopes[1] == pytest.approx(slopes[0], rel=1e-2)


@pytest.mark.parametrize("x", [-3.0, 0.0, 3.0])
def test_a_mixture_scores_and_pulls_what_lies_beyond_full_scale(x: float) -> None:
    """As a density, not as the mass of edge bins, which is flat there."""
    teacher, loc = _teacher(OutputKind.mol), torch.full((1, 1), x, requires_grad=True)
    params = torch.tensor([[[0.0, 0.5, -3.0]]])
    kl = _kl(teacher, params, loc, torch.full((1, 1), -3.0), Base.logistic, draws=100)
    kl.backward()
    assert loc.grad is not None
    assert torch.sign(loc.grad).item() == math.copysign(1, x - 0.5) and loc.grad.abs().item() > 1


# Draws that are shared


def test_on_shared_draws_equal_teachers_diverge_alike_and_on_their_own_they_do_not() -> None:
    teacher = _teacher(OutputKind.mol, mixtures=2)
    params = torch.tensor([0.0, 1.0, -0.1, 0.1, -3.0, -2.0]).expand(4, 5, 6)
    loc, log_scale = torch.zeros(4, 5), torch.full((4, 5), -3.0)
    draws = uniforms(teacher, loc, 8)
    shared = [kl_divergence(teacher, params, loc, log_scale, Base.logistic, draws).kl for _ in range(2)]
    assert torch.equal(*shared)
    assert not torch.equal(shared[0], _kl(teacher, params, loc, log_scale, Base.logistic, 8))


@pytest.mark.parametrize("kind", [OutputKind.mulaw, OutputKind.gaussian])
def test_a_closed_form_draws_nothing(kind: OutputKind) -> None:
    before = torch.get_rng_state()
    assert uniforms(_teacher(kind), torch.zeros(2, 3), 10) is None
    assert torch.equal(torch.get_rng_state(), before)


# A single sample's influence


@given(kl=st.floats(-1, 1e6), limit=st.floats(0.5, 100))
@settings(deadline=None)
def test_clipping_keeps_what_is_below_the_limit_and_lets_the_rest_grow_by_its_logarithm(
    kl: float, limit: float
) -> None:
    value = torch.tensor(kl, dtype=torch.float64, requires_grad=True)
    bound = clipped(value, limit)
    (slope,) = torch.autograd.grad(bound, value)
    if kl <= limit:
        assert bound.item() == pytest.approx(kl, abs=1e-12) and slope == 1
    else:
        assert bound.item() == pytest.approx(limit * (1 + math.log(kl / limit)))
        assert slope.item() == pytest.approx(limit / kl)


@pytest.mark.parametrize("kind", [OutputKind.mol, OutputKind.gaussian])
def test_clipping_bounds_the_pull_of_one_sample_and_never_lets_it_go(kind: OutputKind) -> None:
    """However far off, it pulls no harder than where its divergence reaches the limit; without, it does."""
    params = _matching_params(kind, _constant(0.0), _constant(-6.0))

    def pull(distance: float, limit: float | None) -> float:
        loc = _constant(distance).requires_grad_()
        kl = _kl(_teacher(kind), params, loc, _constant(-6.0), base_for(kind), 100, torch.Generator().manual_seed(1))
        clipped(kl, limit).sum().backward()
        assert loc.grad is not None
        return loc.grad.item()

    scale = math.exp(-6.0)
    pulls = [pull(n * scale, 10.0) for n in (1, 3, 10, 30, 100, 1000)]
    most = 10 / scale  # where the limit of 10 nats is reached, 4 to 10 scales away
    assert all(0 < one < most for one in pulls) and pulls[-1] < 0.1 * max(pulls)
    if kind is OutputKind.gaussian:
        assert pull(100 * scale, None) > 5 * most


def test_without_a_limit_nothing_is_clipped() -> None:
    kl = torch.tensor([0.1, 1e5])
    assert torch.equal(clipped(kl, None), kl)


# The floor


@pytest.mark.parametrize("kind", [OutputKind.mol, OutputKind.gaussian])
def test_the_floor_bounds_how_steep_the_divergence_is_and_leaves_wider_scales_alone(kind: OutputKind) -> None:
    config = OutputConfig(kind=kind, unit=1.0, mixtures=1, log_scale_floor=-12.0)
    loc = _constant(0.01)

    def kl(teacher_log_scale: float, floor: float | None) -> float:
        params = _matching_params(kind, _constant(0.0), _constant(teacher_log_scale))
        draws = torch.Generator().manual_seed(1)
        return _kl(floored(config, floor), params, loc, _constant(-5.0), base_for(kind), 50, draws).item()

    assert kl(-11.0, -7.0) == pytest.approx(kl(-7.0, None))
    assert kl(-11.0, None) > 2 * kl(-11.0, -7.0)
    assert kl(-5.0, -7.0) == kl(-5.0, None)


def test_the_teachers_own_floor_holds_where_it_is_higher() -> None:
    config = OutputConfig(kind=OutputKind.gaussian, log_scale_floor=-6.0)
    params = torch.tensor([[[0.0, -20.0]]])
    assert floored(config, -9.0).components(params)[1].item() == -6.0


def test_a_categorical_teacher_has_no_scale_to_be_floored() -> None:
    params, x = torch.randn(1, 1, 256), torch.zeros(1, 1)
    config = OutputConfig(kind=OutputKind.mulaw)
    assert torch.equal(floored(config, -3.0).log_prob(params, x), output_distribution(config).log_prob(params, x))


# The edge below which the divergence teaches nothing


@pytest.mark.parametrize(("frequency", "share"), [(0.0, 0.0), (0.06, 0.0), (0.14, 1.0), (0.4, 1.0)])
def test_what_lies_below_the_edge_takes_no_gradient_and_keeps_its_value(frequency: float, share: float) -> None:
    wav = torch.randn(2, 1000, requires_grad=True)
    slope = torch.cos(2 * math.pi * frequency * torch.arange(1000.0)).expand(2, -1)
    taught = taught_above(0.1, wav)
    assert torch.equal(taught, wav)
    (gradient,) = torch.autograd.grad((slope * taught).sum(), wav)
    inside = slice(100, -100)  # beyond the ends there is nothing to tell a frequency by
    torch.testing.assert_close(gradient[:, inside], share * slope[:, inside], rtol=0, atol=0.01)


def test_under_autocast_the_gradient_keeps_its_precision() -> None:
    wav, slope = torch.randn(2, 1, 1000).requires_grad_(), torch.randn(1, 1000)
    (exact,) = torch.autograd.grad((slope * taught_above(0.1, wav[0])).sum(), wav)
    with torch.autocast("cpu", torch.bfloat16):
        taught = taught_above(0.1, wav[0])
    assert torch.equal(torch.autograd.grad((slope * taught).sum(), wav)[0], exact)


def test_the_filter_of_the_lowest_edge_is_no_longer_than_the_waveform() -> None:
    wav = torch.randn(2, 1000, requires_grad=True)
    (gradient,) = torch.autograd.grad(taught_above(1e-12, wav).sum(), wav)  # at which all of it is the mean, or nearly
    assert gradient.abs().max() < 1


def test_without_an_edge_the_waveform_stays_itself() -> None:
    wav = torch.randn(2, 1000)
    assert taught_above(0.0, wav) is wav


# The schedule


def test_the_weight_sets_in_at_its_step_rises_linearly_and_is_gone_at_the_end() -> None:
    config = KLConfig(weight=0.5, begin=3, ramp=4, end=8)
    assert [config.weight_at(step) for step in range(10)] == [0, 0, 0, 0.125, 0.25, 0.375, 0.5, 0.5, 0, 0]
    assert [KLConfig(weight=0.5).weight_at(step) for step in (0, 10**6)] == [0.5, 0.5]
    assert [KLConfig(weight=0.5, begin=2).weight_at(step) for step in (1, 2)] == [0, 0.5]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight": -1.0}, "kl.weight is -1"),
        ({"draws": 0}, "kl.draws is 0"),
        ({"regulariser": math.nan}, "regulariser"),
        ({"clip": 0.0}, "kl.clip is 0"),
        ({"clip": math.inf}, "or null for none"),
        ({"floor": -math.inf}, "kl.floor is -inf"),
        ({"begin": -1}, "kl.begin is -1"),
        ({"ramp": -1}, "kl.ramp is -1"),
        ({"edge": -1.0}, "kl.edge is -1"),
        ({"end": 0}, "kl.end is 0"),
        ({"begin": 7, "end": 7}, "beyond kl.begin=7"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KLConfig(**changes)
