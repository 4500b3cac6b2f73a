"""The mixture kernels in C against the reference in float64, at the same inputs."""

import ctypes
import math
import os
import subprocess
from itertools import combinations, product
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wavenet.kernels import cpu_mixture, native, ops, reference
from wavenet.kernels.backend import use_backend

HALF_BIN = 2.0**-16
OPS = ("logistic_mixture_log_density", "logistic_mixture_cross_entropy")


def problem(op, shape, components, values, log_scales=(-12.0, 2.0), seed=0):
    """Inputs (*shape, components or values or nothing); half of the x lie where a component is."""
    K, N, generator = components, values, torch.Generator().manual_seed(seed)

    def uniform(low, high, *size):
        return low + (high - low) * torch.rand(*shape, *size, generator=generator)

    mixtures = [3 * uniform(-1, 1, K), uniform(-1, 1, K), uniform(*log_scales, K)]
    if op == "logistic_mixture_cross_entropy":
        return [*mixtures, uniform(-1, 1), uniform(-9, -1), uniform(1e-6, 1 - 1e-6, N)]
    near = (mixtures[1] + torch.exp(mixtures[2]) * uniform(-4, 4, K)).repeat_interleave(-(-N // K), dim=-1)[..., :N]
    return [*mixtures, torch.where(uniform(0, 1, N) < 0.5, near, uniform(-3, 3, N))]


def cotangent(value):
    weights = torch.linspace(-1, 2, value.numel()).reshape(value.shape)
    return (weights if value.dim() < 2 else weights / value.shape[-1]).to(value.dtype)


def solved(op, backend, inputs, dtype=torch.float32, half_bin=HALF_BIN, weights=None):
    """The value, and the gradients of its weighted sum in all inputs but the draws."""
    inputs = [tensor.detach().to(dtype) for tensor in inputs]
    wanted = inputs[: 5 if op == "logistic_mixture_cross_entropy" else 4]
    for tensor in wanted:
        tensor.requires_grad_()
    with use_backend(backend):
        value = getattr(ops, op)(*inputs, half_bin)
    return [value.detach(), *torch.autograd.grad(value, wanted, cotangent(value) if weights is None else weights)]


def blurred(op, inputs, half_bin, generator):
    """The problem as one float32 rounding of scales, bin and draws leaves it: what no kernel can know better."""

    def error(tensor):
        return 3e-7 * (2 * torch.randint(2, tensor.shape, dtype=torch.float64, generator=generator) - 1)

    inputs = [tensor.double() for tensor in inputs]
    inputs[2] = inputs[2] + error(inputs[2])
    if op == "logistic_mixture_cross_entropy":
        loc, log_scale, draws = inputs[3:]
        quantile = torch.logit(draws)
        size = (loc.abs() * torch.exp(-log_scale))[..., None] + quantile.abs()  # |x| in units of its scale, or more
        inputs[5] = torch.sigmoid(quantile + size * error(draws))
    return inputs, half_bin * (1 + error(torch.zeros(())).item())


def magnitudes(op, inputs, half_bin):
    """Of what is summed over the N values or draws: their contributions, each from a row of its own, without signs."""
    N, entropy = inputs[-1].shape[-1], op == "logistic_mixture_cross_entropy"
    mixtures = [tensor[..., None, :].expand(*tensor.shape[:-1], N, -1) for tensor in inputs[:3]]
    students = [tensor[..., None].expand(*tensor.shape, N) for tensor in inputs[3:-1]]
    weights = cotangent(inputs[3].double())  # its shape is the value's
    weights = (weights / N)[..., None].expand(inputs[-1].shape) if entropy else weights[..., None]
    split = [*mixtures, *students, inputs[-1][..., None]]
    value, *slopes = solved(op, "reference", split, torch.float64, half_bin, weights)
    if entropy:
        *slopes, loc, log_scale = [slope.abs() for slope in slopes]
        return [
            value.abs().mean(dim=-1),
            *(slope.sum(dim=-2) for slope in slopes),
            loc.sum(dim=-1),
            log_scale.sum(dim=-1),
        ]
    *slopes, x = [slope.abs() for slope in slopes]
    return [value.abs()[..., 0], *(slope.sum(dim=-2) for slope in slopes), x[..., 0]]


def assert_exact(op, inputs, half_bin=HALF_BIN, blurs=8):
    """Native is off by no more than a few roundings of what comes in, on the way, and of what is added up.

    Those on the way are what single precision does to the reference. What the first do is the worst of some `blurs`: an
    estimate, which must be the better the more problems there are.
    """
    generator = torch.Generator().manual_seed(1)
    right = solved(op, "reference", inputs, torch.float64, half_bin)
    tolerances = [2e-6 + 2e-6 * magnitude for magnitude in magnitudes(op, inputs, half_bin)]
    others = [solved(op, "reference", inputs, torch.float32, half_bin)]
    for _ in range(blurs):
        nearby, near_bin = blurred(op, inputs, half_bin, generator)
        others.append(solved(op, "reference", nearby, torch.float64, near_bin))
    for other in others:
        for i, near in enumerate(other):
            tolerances[i] = torch.maximum(tolerances[i], 8 * (near - right[i]).abs())
    for ours, double, tolerance in zip(solved(op, "native", inputs, half_bin=half_bin), right, tolerances, strict=True):
        assert (
            ours.shape == double.shape == tolerance.shape and ours.dtype == torch.float32 and tolerance.isfinite().all()
        )
        excess = (ours - double).abs() / tolerance
        assert (excess <= 1).all(), f"{excess.max()} times the tolerance"


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("rows", [1, 2, 127, 128, 129])
@pytest.mark.parametrize("values", [1, 2, 15, 16, 17, 100])
@pytest.mark.parametrize("components", [1, 2, 10, 16])
def test_values_and_gradients_are_the_references(op, rows, values, components):
    assert_exact(op, problem(op, (rows,), components, values, seed=rows))


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("half_bin", [2.0**-16, 0.01])
@pytest.mark.parametrize("log_scale", [-20.0, -12.0, -9.0, -5.0, 0.0, 2.0, 8.0])
def test_a_bin_may_be_much_narrower_or_wider_than_a_component(op, half_bin, log_scale):
    assert_exact(op, problem(op, (64,), 3, 8, (log_scale - 0.5, log_scale)), half_bin)


@given(
    op=st.sampled_from(OPS),
    shape=st.lists(st.integers(1, 19), min_size=1, max_size=3),
    components=st.integers(1, 12),
    values=st.integers(1, 20),
    low=st.floats(-14, 2),
    width=st.floats(0, 8),
    half_bin=st.floats(1e-6, 0.1),
    seed=st.integers(0, 2**16),
)
@settings(deadline=None, max_examples=60)
def test_any_mixture_is_the_references(op, shape, components, values, low, width, half_bin, seed):
    assert_exact(op, problem(op, shape, components, values, (low, low + width), seed), half_bin, blurs=40)


@pytest.mark.parametrize("log_scale", [-60.0, -88.0, -90.0, -100.0, -1e4])
def test_the_references_saturation_a_component_may_be_narrower_than_any_float(log_scale):
    """Inside of its bin and outside; beside one that counts, and alone."""
    means, x = torch.tensor([[0.1, 0.1]]), torch.tensor([[0.1, 0.1 + HALF_BIN / 2, 0.1 - 2 * HALF_BIN, 0.9, -3.0]])
    inputs = [torch.zeros(1, 2), means, torch.tensor([[log_scale, -3.0]]), x]
    exact = solved(OPS[0], "reference", inputs, torch.float64)
    value, *slopes = solved(OPS[0], "native", inputs)
    torch.testing.assert_close(value, exact[0].float(), rtol=1e-6, atol=2e-5)
    assert all(slope.isfinite().all() for slope in slopes)
    alone = solved(OPS[0], "native", [*(tensor[:, :1] for tensor in inputs[:3]), x])
    assert all(tensor.isfinite().all() for tensor in alone)


@pytest.mark.parametrize(("op", "which"), [*product(OPS, (1, 2, 3)), (OPS[1], 4)])
@pytest.mark.parametrize("extreme", [-math.inf, -1e30, -80.0, 80.0, 1e30, math.inf])
@pytest.mark.parametrize("components", [1, 2])
def test_saturation_leaves_every_extreme_finite(op, which, extreme, components):
    inputs = problem(op, (2,), components, 3, (-5.0, -1.0))
    inputs[which].view(2, -1)[0, 0] = extreme
    assert solved(op, "native", inputs)[0].isfinite().all()


@pytest.mark.parametrize("u", [0.0, 1.0, 1e-30])
def test_saturation_a_draw_may_be_the_end_of_its_interval(u):
    inputs = problem(OPS[1], (2,), 3, 4)
    inputs[5][0, 0] = u
    assert all(tensor.isfinite().all() for tensor in solved(OPS[1], "native", inputs))
    inputs[5][0, 0] = math.nan
    value = solved(OPS[1], "native", inputs)[0]
    assert value[0].isnan() and value[1].isfinite()


def test_saturation_a_component_without_weight_is_none():
    inputs = problem(OPS[0], (5,), 3, 4)
    without = [*(tensor[:, 1:] for tensor in inputs[:3]), inputs[3]]
    inputs[0][:, 0] = -math.inf
    value, *slopes = solved(OPS[0], "native", inputs)
    torch.testing.assert_close(value, solved(OPS[0], "native", without)[0], rtol=1e-6, atol=1e-5)
    assert all(slope.isfinite().all() for slope in slopes)


@pytest.mark.parametrize(("op", "components", "values"), [(OPS[0], 0, 3), (OPS[1], 0, 3), (OPS[1], 2, 0)])
@pytest.mark.parametrize("backend", ["native", "reference"])
def test_a_mixture_of_nothing_is_refused(op, components, values, backend):
    inputs = [torch.zeros(4, components)] * 3 + [torch.zeros(4)] * 2 * (op == OPS[1]) + [torch.zeros(4, values)]
    with use_backend(backend), pytest.raises(ValueError, match=r"\(4, 0\).* one or more"):
        getattr(ops, op)(*inputs, HALF_BIN)


@pytest.mark.parametrize("x", [-1e6, -3.0, 3.0, 1e6])
def test_far_from_every_component_a_density_is_finite_and_still_pulls(x):
    logits, means, log_scales = torch.zeros(1, 2), torch.tensor([[0.1, -0.1]]), torch.tensor([[-9.0, -12.0]])
    inputs = [logits, means, log_scales, torch.tensor([[x]])]
    assert_exact(OPS[0], inputs)
    value, *_, slope = solved(OPS[0], "native", inputs)
    assert value.isfinite() and slope.abs() > 8000 and torch.sign(slope) == torch.sign(torch.tensor(x))


@pytest.mark.parametrize("log_scale", [-13.0, -9.0, -3.0])
def test_densities_integrate_to_one(log_scale):
    x = torch.linspace(-0.1, 0.1, 2_000_001, dtype=torch.float64)
    x = x if log_scale < -5 else 30 * x
    mixture = [torch.tensor([value]) for value in ([0.0, 1.0], [0.01, -0.02], [log_scale, log_scale - 0.5])]
    with use_backend("native"):
        log_density = ops.logistic_mixture_log_density(*mixture, x.float()[None], HALF_BIN)[0]
    assert torch.trapezoid(log_density.double().exp(), x).item() == pytest.approx(1, abs=1e-4)


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("op", OPS)
def test_neither_threads_nor_neighbours_change_a_bit(op, threads):
    inputs = problem(op, (129,), 10, 17)
    threads(1)
    alone = solved(op, "native", inputs)
    threads(2)
    for one, two in zip(alone, solved(op, "native", inputs), strict=True):
        assert torch.equal(one, two)
    with use_backend("native"):
        for row in (0, 77, 128):
            value = getattr(ops, op)(*(tensor[row : row + 1] for tensor in inputs), HALF_BIN)
            assert torch.equal(value, alone[0][row : row + 1])


@pytest.mark.parametrize("op", OPS)
def test_any_layout_gives_the_same(op):
    inputs = problem(op, (6, 23), 5, 7)
    strided = [tensor.repeat_interleave(2, dim=-1)[..., ::2] for tensor in inputs]
    turned = [tensor.transpose(0, 1).contiguous().transpose(0, 1) for tensor in inputs]
    expected = solved(op, "native", inputs)
    for layout in (strided, turned):
        assert not any(tensor.is_contiguous() for tensor in layout)
        for value, other in zip(expected, solved(op, "native", layout), strict=True):
            assert torch.equal(value, other)


@pytest.mark.parametrize("op", OPS)
def test_every_subset_of_gradients_is_that_of_all(op):
    inputs = problem(op, (19,), 3, 4)
    value, *slopes = solved(op, "native", inputs)
    for count in range(len(slopes) + 1):
        for subset in combinations(range(len(slopes)), count):
            chosen = [tensor.clone().requires_grad_(i in subset) for i, tensor in enumerate(inputs)]
            with use_backend("native"):
                again = getattr(ops, op)(*chosen, HALF_BIN)
            torch.testing.assert_close(again, value, rtol=1e-6, atol=1e-6)
            assert again.requires_grad == bool(subset)
            if subset:
                grads = torch.autograd.grad(again, [chosen[i] for i in subset], cotangent(value))
                assert all(torch.equal(grad, slopes[i]) for i, grad in zip(subset, grads, strict=True))


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_draws_get_no_gradient(backend):
    inputs = problem(OPS[1], (2,), 2, 3)
    inputs[5].requires_grad_()
    with use_backend(backend):
        assert not ops.logistic_mixture_cross_entropy(*inputs, HALF_BIN).requires_grad
        inputs[3].requires_grad_()
        value = ops.logistic_mixture_cross_entropy(*inputs, HALF_BIN)
    loc, draws = torch.autograd.grad(value.sum(), [inputs[3], inputs[5]], allow_unused=True)
    assert loc.isfinite().all() and draws is None


@pytest.mark.parametrize("without", [torch.no_grad, torch.inference_mode])
def test_without_gradients_none_is_computed_also_of_parameters(without, monkeypatch):
    asked = []

    def addresses(tensors):
        asked.append(len(tensors))
        return given(tensors)

    given = cpu_mixture._addresses
    monkeypatch.setattr(cpu_mixture, "_addresses", addresses)
    inputs = [tensor.requires_grad_() for tensor in problem(OPS[1], (19,), 3, 4)]
    value = ops.logistic_mixture_cross_entropy(*inputs, HALF_BIN)
    with without():
        again = ops.logistic_mixture_cross_entropy(*inputs, HALF_BIN)
    assert asked == [6, 5, 6, 0]  # inputs, and places for their gradients
    torch.testing.assert_close(again, value.detach(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("which", range(4))
def test_what_is_not_a_number_shows(op, which):
    inputs = problem(op, (2,), 3, 1)
    inputs[which].flatten()[0] = torch.nan
    value, *slopes = solved(op, "native", inputs)
    assert value[0].isnan().all() and value[1].isfinite().all()
    assert all(slope[0].isnan().any() and slope[1].isfinite().all() for slope in slopes)


@pytest.mark.parametrize(("op", "backend"), [(OPS[0], "native"), (OPS[1], "native"), (OPS[1], "reference")])
def test_nothing_of_the_size_of_all_terms_waits_for_the_backward_pass(op, backend, monkeypatch):
    monkeypatch.setattr(reference, "_BLOCK", 200)
    inputs = [tensor.requires_grad_() for tensor in problem(op, (50,), 10, 20)]
    sizes = []

    def pack(tensor):
        sizes.append(tensor.numel())
        return tensor

    with use_backend(backend), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        value = getattr(ops, op)(*inputs, HALF_BIN)
    value.sum().backward()
    assert max(sizes, default=0) <= 50 * 20


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_other_dtypes_are_the_references_or_refused(op, dtype):
    inputs = problem(op, (3,), 2, 2, (-3.0, 0.0))
    inputs[-1] = inputs[-1].to(dtype)
    with use_backend("native"), pytest.raises(ValueError, match=f"no mixture of 2 components in .*{dtype}.*float32"):
        getattr(ops, op)(*inputs, HALF_BIN)
    with use_backend("reference"):
        expected = getattr(ops, op)(*inputs, HALF_BIN)
    assert torch.equal(getattr(ops, op)(*inputs, HALF_BIN), expected)


@pytest.mark.parametrize("op", OPS)
def test_a_mixture_may_have_as_many_components_as_a_stack_holds(op):
    most = cpu_mixture.MOST_COMPONENTS
    assert_exact(op, problem(op, (17,), most, 3))
    beyond = problem(op, (17,), most + 1, 3)
    with use_backend("native"), pytest.raises(ValueError, match="no mixture of 257 components"):
        getattr(ops, op)(*beyond, HALF_BIN)
    with use_backend("reference"):
        expected = getattr(ops, op)(*beyond, HALF_BIN)
    assert torch.equal(getattr(ops, op)(*beyond, HALF_BIN), expected)


@pytest.mark.parametrize("op", OPS)
def test_no_samples_have_no_densities(op):
    with use_backend("native"):
        value = getattr(ops, op)(*problem(op, (0,), 2, 3), HALF_BIN)
    assert value.shape == ((0,) if op == OPS[1] else (0, 3))


@pytest.mark.parametrize(
    ("which", "name"), [(1, "means"), (2, "log_scales"), (3, "loc"), (4, "log_scale"), (5, "draws")]
)
def test_shapes_that_do_not_fit_are_refused(which, name):
    inputs = problem(OPS[1], (3, 4), 2, 5)
    inputs[which] = inputs[which][:2]
    with pytest.raises(ValueError, match=rf"^{name} is \(2, 4"):
        ops.logistic_mixture_cross_entropy(*inputs, HALF_BIN)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("shape", [(), (4,)])
def test_values_without_a_dimension_are_refused(op, shape):
    mixture, student = [torch.zeros(*shape, 2)] * 3, [torch.zeros(shape)] * 2 * (op == OPS[1])
    with pytest.raises(ValueError, match=rf"^{'x' if op == OPS[0] else 'draws'} is \(\); it must be \(.*N\)"):
        getattr(ops, op)(*mixture, *student, torch.tensor(0.5), HALF_BIN)


@pytest.fixture(scope="module")
def narrow_vectors(tmp_path_factory):
    """The kernel as a processor without AVX-512 gets it."""
    path = tmp_path_factory.mktemp("build") / "mixture.so"
    source = Path(native.__file__).parent / "csrc" / "mixture.c"
    plain = [flag for flag in native._FLAGS if not flag.startswith("-march")]
    command = [os.environ.get("CC", "gcc"), *plain, "-Wno-psabi", "-o", str(path), str(source), "-lm"]
    subprocess.run(command, check=True, timeout=120)
    return ctypes.CDLL(str(path))


@pytest.mark.parametrize("op", OPS)
def test_vectors_of_any_width_are_right(op, narrow_vectors, monkeypatch):
    monkeypatch.setattr(cpu_mixture, "loaded", lambda: narrow_vectors)
    assert_exact(op, problem(op, (33,), 5, 17))
