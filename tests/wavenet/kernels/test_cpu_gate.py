"""The gated activation in C against the reference in float64, at the same inputs."""

from itertools import product

import pytest
import torch

from wavenet.kernels import ops, use_backend

HOP = 256
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 5e-3}  # of the peak


@pytest.fixture
def set_threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def problem(batch=2, length=300, gate=32, count=3, dtype=torch.float32):
    """hidden (B, T, 2G), bias (2G), frames (B, L, 2G); saturated here and there."""
    torch.manual_seed(batch * length + gate)
    hidden = 3 * torch.randn(batch, length, 2 * gate)
    return [hidden.to(dtype), torch.randn(2 * gate), torch.randn(batch, count, 2 * gate)]


def solved(backend, tensors, hop, offset, dtype=None, wanted=(True, True, True)):
    """The activation, and the gradients of a weighted sum in the wanted ones of hidden, bias and frames."""
    leaves = [None if t is None else t.detach().to(dtype or t.dtype) for t in tensors]
    wanted = [leaf.requires_grad_() for leaf, want in zip(leaves, wanted, strict=True) if want and leaf is not None]
    with use_backend(backend):
        gated = ops.gated_activation(*leaves, hop, offset)
    weights = torch.linspace(-1, 2, gated.numel()).reshape(gated.shape).to(gated.dtype)
    return [gated.detach(), *torch.autograd.grad(gated, wanted, weights)]


def assert_equal(tensors, hop=HOP, offset=0, **options):
    tolerance = TOLERANCE[tensors[0].dtype]
    right = solved("reference", tensors, hop, offset, torch.float64, **options)
    for ours, exact in zip(solved("native", tensors, hop, offset, **options), right, strict=True):
        assert ours.shape == exact.shape
        assert (ours - exact).abs().max() <= tolerance * exact.abs().max()


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("length", [1, 2, 127, 128, 129, HOP - 1, HOP, HOP + 1, 1000])
def test_values_and_gradients_are_the_references(length, batch, dtype):
    assert_equal(problem(batch, length, count=5, dtype=dtype), offset=HOP // 2 - 1)


@pytest.mark.parametrize("gate", [16, 48, 64, 528])
def test_any_multiple_of_sixteen_is_a_width(gate):
    assert_equal(problem(gate=gate))


@pytest.mark.parametrize(
    ("hop", "count", "offset", "length"), [(1, 7, 2, 5), (4, 3, 0, 12), (5, 4, 3, 17), (255, 2, 127, 383)]
)
def test_frames_of_any_hop_are_read_at_any_offset(hop, count, offset, length):
    assert_equal(problem(length=length, count=count), hop, offset)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("length", [1, 129, 1000])
def test_one_frame_is_constant_in_time(length, batch):
    assert_equal(problem(batch, length, count=1), hop=1, offset=77)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("kept", list(product([True, False], repeat=2)))
def test_bias_and_frames_may_be_absent(kept, dtype):
    hidden, *others = problem(dtype=dtype)
    assert_equal([hidden, *(tensor if keep else None for tensor, keep in zip(others, kept, strict=True))])


@pytest.mark.parametrize("wanted", [w for w in product([True, False], repeat=3) if any(w)])
def test_any_of_the_inputs_may_be_constant(wanted):
    assert_equal(problem(), wanted=wanted)


def test_strides_do_not_matter():
    hidden, bias, frames = problem()
    strided = [
        hidden.transpose(0, 1).contiguous().transpose(0, 1),
        torch.stack([bias, bias], dim=1)[:, 0],
        frames.mT.contiguous().mT,
    ]
    assert not any(tensor.is_contiguous() for tensor in strided)
    straight = solved("native", [hidden, bias, frames], HOP, 0)
    assert all(map(torch.equal, solved("native", strided, HOP, 0), straight))


def test_a_gradient_without_strides_is_read_right():
    hidden = problem()[0].requires_grad_()
    with use_backend("native"):
        summed, weighted = (ops.gated_activation(hidden, None, None, HOP) for _ in range(2))
    (once,) = torch.autograd.grad(summed.sum(), hidden)
    (again,) = torch.autograd.grad(weighted, hidden, torch.ones_like(weighted))
    assert torch.equal(once, again)


@pytest.mark.parametrize("threads", [2, 4])
def test_threads_do_not_matter(threads, set_threads):
    set_threads(1)
    alone = solved("native", problem(length=1000, count=5), HOP, 3)
    set_threads(threads)
    assert all(map(torch.equal, solved("native", problem(length=1000, count=5), HOP, 3), alone))


@pytest.mark.parametrize("gate", [1, 3, 24, 40])
def test_other_widths_are_the_references_or_refused(gate):
    tensors = problem(gate=gate)
    reference = solved("reference", tensors, HOP, 0)[0]
    assert torch.equal(ops.gated_activation(*tensors, HOP), reference)
    with use_backend("native"), pytest.raises(ValueError, match=f"no gate of 2 x {gate} channels"):
        ops.gated_activation(*tensors, HOP)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_types_are_the_references_or_refused(dtype):
    tensors = problem(dtype=dtype)
    assert torch.equal(ops.gated_activation(*tensors, HOP), solved("reference", tensors, HOP, 0)[0])
    with use_backend("native"), pytest.raises(ValueError, match=f"computes float32 and bfloat16, not {dtype}"):
        ops.gated_activation(*tensors, HOP)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("gate", [16, 24])
def test_the_output_is_of_the_type_of_hidden(gate, dtype):
    assert ops.gated_activation(*problem(gate=gate, dtype=dtype), HOP).dtype == dtype


@pytest.mark.parametrize(("batch", "length"), [(0, 5), (2, 0), (0, 0)])
@pytest.mark.parametrize("offset", [0, 100])
def test_nothing_in_nothing_out(batch, length, offset):
    gated, *grads = solved("native", problem(batch, length), HOP, offset)
    assert gated.shape == (batch, length, 32)
    assert [grad.shape for grad in grads] == [(batch, length, 64), (64,), (batch, 3, 64)]
    assert all((grad == 0).all() for grad in grads)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_saturation_is_exact_and_what_is_no_number_stays_so(dtype):
    values = torch.tensor([-1e30, -1e4, -100.0, -88.0, 0.0, 88.0, 100.0, 1e4, 1e30], dtype=dtype)
    hidden = torch.cartesian_prod(values, values)[:80].reshape(1, 5, 16, 2).mT.reshape(1, 5, 32)
    assert_equal([hidden, None, None])
    for half in (0, 16):
        hidden[0, 2, half] = torch.nan
        gated, hidden_grad = solved("native", [hidden, None, None], HOP, 0)
        assert gated.isnan().nonzero().tolist() == [[0, 2, 0]]
        assert hidden_grad[0, 2, [0, 16]].isnan().all() and hidden_grad.isnan().sum() == 2
        hidden[0, 2, half] = 0


def test_the_backward_pass_keeps_nothing_but_the_inputs():
    tensors = problem()
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
        ops.gated_activation(tensors[0].requires_grad_(), *tensors[1:], HOP)
    assert sorted(sizes) == sorted([tensors[0].numel(), tensors[2].numel()])


def test_near_nothing_a_gate_of_bfloat16_is_as_exact_as_its_type():
    """In silence gates are small: an error that does not shrink with them would be all that is left."""
    size = torch.logspace(-6, 1, 4000).bfloat16()
    filters, gates = torch.cat([-size, torch.zeros(192), size]), torch.linspace(-3, 3, 8192).bfloat16()
    hidden = torch.stack([filters, gates], dim=1).reshape(1, -1, 16, 2).mT.reshape(1, -1, 32)
    (ours,), (exact,) = (
        solved(backend, [hidden, None, None], HOP, 0, dtype, wanted=(True, False, False))[:1]
        for backend, dtype in (("native", None), ("reference", torch.float64))
    )
    rounding = 1e-7  # of numbers around 1, in float32
    assert ((ours - exact).abs() <= 3e-3 * exact.abs() + rounding).all()  # half a unit in the last place is 2e-3
    assert not ours[hidden[..., :16] == 0].any()
