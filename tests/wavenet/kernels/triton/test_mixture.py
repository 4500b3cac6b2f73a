import math
from itertools import product

import pytest
import torch

from wavenet.kernels import reference
from wavenet.kernels.backend import use_backend
from wavenet.kernels.triton_mixture import (
    MOST_COMPONENTS,
    _cross_entropy,
    _log_density,
    _log_density_backward,
    logistic_mixture_cross_entropy,
    logistic_mixture_log_density,
)

HALF_BIN = 2.0**-16
DENSITY, ENTROPY = "logistic_mixture_log_density", "logistic_mixture_cross_entropy"
OPS = (DENSITY, ENTROPY)
OURS = {DENSITY: logistic_mixture_log_density, ENTROPY: logistic_mixture_cross_entropy}

# rows, K, N
CASES = [
    *[(rows, K, N) for rows in (1, 2) for K, N in ((1, 100), (2, 17), (10, 2), (16, 1))],
    *[(127, 1, 2), (127, 10, 2), (128, 16, 2), (128, 2, 17), (129, 10, 17), (129, 16, 1), (129, 1, 1), (2, 10, 100)],
    (2, MOST_COMPONENTS, 3),
]


def problem(op, shape, components, values, log_scales=(-12.0, 2.0), device="cpu"):
    """Inputs (*shape, K or N or nothing); half of the x lie where a component is, the others in [-3, 3]."""
    K, N, generator = components, values, torch.Generator().manual_seed(values)

    def uniform(low, high, *size):
        return low + (high - low) * torch.rand(*shape, *size, generator=generator)

    mixtures = [3 * uniform(-1, 1, K), uniform(-1, 1, K), uniform(*log_scales, K)]
    if op == ENTROPY:
        tensors = [*mixtures, uniform(-1.5, 1.5), uniform(-9, -1), uniform(1e-6, 1 - 1e-6, N)]
    else:
        near = (mixtures[1] + torch.exp(mixtures[2]) * uniform(-4, 4, K)).repeat_interleave(-(-N // K), -1)[..., :N]
        tensors = [*mixtures, torch.where(uniform(0, 1, N) < 0.5, near, uniform(-3, 3, N))]
    return [tensor.to(device) for tensor in tensors]


def solved(function, inputs, dtype=torch.float32, half_bin=HALF_BIN, weights=None):
    """The value, and the gradients of its weighted sum in all inputs but the draws."""
    inputs = [tensor.detach().to(dtype) for tensor in inputs]
    wanted = inputs[: min(5, len(inputs))]
    for tensor in wanted:
        tensor.requires_grad_()
    value = function(*inputs, half_bin)
    weights = torch.linspace(-1, 2, value.numel()).view(value.shape) if weights is None else weights
    return [value.detach(), *torch.autograd.grad(value, wanted, weights.to(value))]


def blurred(op, inputs, generator):
    """The problem in float64, as one float32 rounding of scales, bin and draws leaves it: no kernel can know better."""

    def error(tensor):
        return 3e-7 * (2 * torch.rand(tensor.shape, dtype=torch.float64, generator=generator).to(tensor.device) - 1)

    inputs = [tensor.double() for tensor in inputs]
    inputs[2] = inputs[2] + error(inputs[2])
    if op == ENTROPY:
        quantile = torch.logit(inputs[5])
        size = (inputs[3].abs() * torch.exp(-inputs[4]))[..., None] + quantile.abs()  # of x, in units of its scale
        inputs[5] = torch.sigmoid(quantile + size * error(quantile))
    return inputs, HALF_BIN * (1 + error(torch.zeros(())).item())


def magnitudes(op, inputs):
    """Of what is summed over the N values or draws: the contributions, each from a row of its own, without signs."""
    N, values = inputs[-1].shape[-1], inputs[3 if op == ENTROPY else -1]
    weights = torch.linspace(-1, 2, values.numel(), dtype=torch.float64).view(values.shape).to(values.device)
    weights = (weights / N)[..., None].expand(inputs[-1].shape) if op == ENTROPY else weights
    mixtures = [tensor[..., None, :].expand(*tensor.shape[:-1], N, -1) for tensor in inputs[:3]]
    students = [tensor[..., None].expand(*tensor.shape, N) for tensor in inputs[3:-1]]
    split = [*mixtures, *students, inputs[-1][..., None]]
    weights = weights if op == ENTROPY else weights[..., None]
    value, *slopes = solved(getattr(reference, op), split, torch.float64, weights=weights)
    sizes = [slope.abs().sum(dim=-2) for slope in slopes[:3]]
    sizes[0] = sizes[0] + weights.abs().reshape(*inputs[-1].shape).sum(dim=-1, keepdim=True)  # it is a difference
    if op == ENTROPY:
        return [value.abs().mean(dim=-1), *sizes, *(slope.abs().sum(dim=-1) for slope in slopes[3:])]
    return [value.abs()[..., 0], *sizes, slopes[3].abs()[..., 0]]


def assert_exact(op, inputs):
    """The kernel is off by no more than a few roundings of what comes in and of what is added up."""
    generator = torch.Generator().manual_seed(1)
    right = solved(getattr(reference, op), inputs, torch.float64)
    tolerances = [2e-6 + 2e-6 * magnitude for magnitude in magnitudes(op, inputs)]
    for _ in range(4):
        nearby, near_bin = blurred(op, inputs, generator)
        for i, near in enumerate(solved(getattr(reference, op), nearby, torch.float64, near_bin)):
            tolerances[i] = torch.maximum(tolerances[i], 4 * (near - right[i]).abs())
    for ours, exact, tolerance in zip(solved(OURS[op], inputs), right, tolerances, strict=True):
        assert ours.shape == exact.shape == tolerance.shape and ours.dtype is torch.float32
        excess = (ours - exact).abs() / tolerance
        assert (excess <= 1).all(), f"{excess.max()} times the tolerance"


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients_are_the_references(op, case, device):
    rows, K, N = case
    assert_exact(op, problem(op, (rows,), K, N, device=device))


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("log_scale", [-20.0, -12.0, -9.0, 2.0, 8.0])
def test_a_bin_may_be_much_narrower_or_wider_than_a_component(op, log_scale, device):
    assert_exact(op, problem(op, (33,), 3, 4, (log_scale - 0.5, log_scale), device))


@pytest.mark.parametrize("x", [-1e6, 1e6])
def test_far_from_every_component_a_density_is_finite_and_still_pulls(x, device):
    mixture = [torch.zeros(1, 2), torch.tensor([[0.1, -0.1]]), torch.tensor([[-9.0, -12.0]])]
    inputs = [tensor.to(device) for tensor in (*mixture, torch.tensor([[x]]))]
    assert_exact(DENSITY, inputs)
    value, *_, slope = solved(logistic_mixture_log_density, inputs, weights=torch.ones(1, 1))
    assert value.isfinite() and slope.item() * (-1 if x > 0 else 1) > 8000


def test_close_to_the_mean_of_a_wide_component_a_slope_keeps_its_digits(device):
    inputs = [torch.tensor([[value]], device=device) for value in (0.0, 0.0, 8.0, 1e-3)]
    ours, right = (
        solved(function, inputs, dtype)
        for function, dtype in (
            (logistic_mixture_log_density, torch.float32),
            (reference.logistic_mixture_log_density, torch.float64),
        )
    )
    for slope, exact in zip((ours[2], ours[4]), (right[2], right[4]), strict=True):  # in the mean and in x
        assert (slope / exact - 1).abs() < 1e-5


@pytest.mark.parametrize("op", OPS)
def test_a_component_of_no_weight_counts_for_nothing(op, device):
    inputs = problem(op, (3,), 4, 2, (-5.0, 0.0), device)
    inputs[0][:, 3] = -torch.inf
    value, *slopes = solved(OURS[op], inputs)
    without = solved(OURS[op], [*(tensor[:, :3] for tensor in inputs[:3]), *inputs[3:]])
    assert torch.equal(value, without[0])
    for slope, expected in zip(slopes[:3], without[1:4], strict=True):
        torch.testing.assert_close(slope, torch.cat([expected, torch.zeros_like(expected[:, :1])], dim=1))


@pytest.mark.parametrize("op", OPS)
def test_neither_neighbours_nor_chance_change_a_bit(op, device):
    inputs = problem(op, (40,), 10, 5, device=device)
    first, again = solved(OURS[op], inputs), solved(OURS[op], inputs)
    assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))
    for row in (0, 17, 39):
        assert torch.equal(OURS[op](*(tensor[row : row + 1] for tensor in inputs), HALF_BIN), first[0][row : row + 1])


@pytest.mark.parametrize("op", OPS)
def test_any_layout_gives_the_same(op, device):
    inputs = problem(op, (3, 7), 5, 4, device=device)
    expected = solved(OURS[op], inputs)
    strided = [tensor.repeat_interleave(2, dim=-1)[..., ::2] for tensor in inputs]
    turned = [tensor.transpose(0, 1).contiguous().transpose(0, 1) for tensor in inputs]
    for layout in (strided, turned):
        assert not any(tensor.is_contiguous() for tensor in layout)
        assert all(torch.equal(*pair) for pair in zip(expected, solved(OURS[op], layout), strict=True))


@pytest.mark.parametrize("op", OPS)
def test_a_gradient_does_not_depend_on_which_others_are_wanted(op, device):
    inputs = problem(op, (9,), 3, 4, device=device)
    value, *slopes = solved(OURS[op], inputs)
    assert torch.equal(OURS[op](*inputs, HALF_BIN), value)
    for i, slope in enumerate(slopes):
        chosen = [tensor.clone().requires_grad_(i == j) for j, tensor in enumerate(inputs)]
        again = OURS[op](*chosen, HALF_BIN)
        weights = torch.linspace(-1, 2, value.numel()).view(value.shape).to(value)
        assert torch.equal(torch.autograd.grad(again, chosen[i], weights)[0], slope)


def test_draws_get_no_gradient(device):
    inputs = problem(ENTROPY, (2,), 2, 3, device=device)
    inputs[5].requires_grad_()
    assert not logistic_mixture_cross_entropy(*inputs, HALF_BIN).requires_grad


@pytest.mark.parametrize("log_scale", [-60.0, -90.0, -1e4])
def test_a_component_may_be_narrower_than_any_float(log_scale, device):
    """Inside of its bin and outside; beside one that counts, and alone."""
    means, x = torch.tensor([[0.1, 0.1]]), torch.tensor([[0.1, 0.1 + HALF_BIN / 2, 0.1 - 2 * HALF_BIN, 0.9, -3.0]])
    inputs = [tensor.to(device) for tensor in (torch.zeros(1, 2), means, torch.tensor([[log_scale, -3.0]]), x)]
    exact = solved(reference.logistic_mixture_log_density, inputs, torch.float64)
    value, *slopes = solved(logistic_mixture_log_density, inputs)
    torch.testing.assert_close(value, exact[0].float(), rtol=1e-6, atol=2e-5)
    assert all(slope.isfinite().all() for slope in slopes)
    alone = solved(logistic_mixture_log_density, [*(tensor[:, :1] for tensor in inputs[:3]), inputs[3]])
    assert all(tensor.isfinite().all() for tensor in alone)


@pytest.mark.parametrize(("op", "which"), [*product(OPS, (1, 2, 3)), (ENTROPY, 4), (ENTROPY, 5)])
@pytest.mark.parametrize("extreme", [-math.inf, 0.0, 1.0, 1e30, math.inf])
def test_every_extreme_is_finite(op, which, extreme, device):
    inputs = problem(op, (2,), 2, 3, (-5.0, -1.0))
    inputs[which].view(2, -1)[0, 0] = extreme
    assert solved(OURS[op], [tensor.to(device) for tensor in inputs])[0].isfinite().all()


@pytest.mark.filterwarnings("ignore:All-NaN slice")  # of the interpreter's maximum
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("which", range(4))
def test_what_is_not_a_number_shows(op, which, device):
    inputs = problem(op, (2,), 3, 1, device=device)
    inputs[which].flatten()[0] = torch.nan
    value, *slopes = solved(OURS[op], inputs)
    assert value[0].isnan().all() and value[1].isfinite().all()
    assert all(slope[0].isnan().any() and slope[1].isfinite().all() for slope in slopes)


@pytest.mark.parametrize("op", OPS)
def test_nothing_of_the_size_of_all_terms_waits_for_the_backward_pass(op, device):
    rows, K, N = 20, 10, 12
    inputs = [tensor.requires_grad_() for tensor in problem(op, (rows,), K, N, device=device)]
    sizes = []

    def pack(tensor):
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        value = OURS[op](*inputs, HALF_BIN)
    value.sum().backward()
    assert 0 < sum(sizes) <= rows * (3 * K + (2 if op == ENTROPY else N))


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize(("components", "dtype"), [(2, torch.float64), (2, torch.float16), (257, torch.float32)])
def test_what_has_no_kernel_is_the_references_or_refused(op, components, dtype, device):
    inputs = problem(op, (3,), components, 2, (-3.0, 0.0), device)
    inputs[-1] = inputs[-1].to(dtype)
    with (
        use_backend("triton"),
        pytest.raises(ValueError, match=f"no mixture of {components} components in .*{dtype}: .*256 of them"),
    ):
        OURS[op](*inputs, HALF_BIN)
    assert torch.equal(OURS[op](*inputs, HALF_BIN), getattr(reference, op)(*inputs, HALF_BIN))


@pytest.mark.parametrize("op", OPS)
def test_no_samples_have_no_densities(op, device):
    value, *slopes = solved(OURS[op], problem(op, (0,), 2, 3, device=device))
    assert value.shape == ((0,) if op == ENTROPY else (0, 3))
    assert [slope.shape for slope in slopes[:3]] == [(0, 2)] * 3


def test_both_are_ordinary_operators(device):
    tensors = problem(DENSITY, (5,), 3, 2, device=device)
    torch.library.opcheck(_log_density, (*[tensor.requires_grad_() for tensor in tensors], HALF_BIN))
    plain = [tensor.detach() for tensor in tensors]
    torch.library.opcheck(_log_density_backward, (torch.randn(5, 2, device=device), *plain, HALF_BIN))
    *student, draws = problem(ENTROPY, (5,), 3, 2, device=device)
    torch.library.opcheck(_cross_entropy, (*student, draws, HALF_BIN, False))
    torch.library.opcheck(_cross_entropy, (*[tensor.requires_grad_() for tensor in student], draws, HALF_BIN, True))
