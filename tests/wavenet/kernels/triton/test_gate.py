import pytest
import torch

from wavenet.kernels import reference
from wavenet.kernels.triton_gate import _gated_activation, _gated_activation_backward, gated_activation

TOLERANCE = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}  # of the largest value
DTYPES = list(TOLERANCE)

# B, T, G, bias, L, hop, offset
CASES = [
    (1, 1, 3, True, None, 1, 0),
    (2, 2, 32, False, None, 1, 0),
    (1, 128, 64, False, 2, 128, 128),
    (2, 127, 3, True, 2, 128, 0),
    (2, 129, 40, True, 3, 64, 63),
    (1, 300, 40, True, None, 1, 0),
    (2, 65, 32, True, 1, 7, 0),
    (1, 7, 3, True, 9, 1, 2),
    (1, 22, 40, False, 5, 5, 3),
    (1, 1, 64, True, 4, 16, 37),
]


def inputs(case, dtype, device):
    B, T, G, bias, L, *_ = case
    torch.manual_seed(0)
    shapes = [(B, T, 2 * G), (2 * G,) if bias else None, None if L is None else (B, L, 2 * G)]
    return [None if shape is None else torch.randn(shape, dtype=dtype, device=device) for shape in shapes]


def results(function, tensors, hop, offset, dtype, out_grad=None):
    """The output and the gradients of the tensors that are there, computed in `dtype`."""
    tensors = [None if tensor is None else tensor.detach().to(dtype).requires_grad_() for tensor in tensors]
    out = function(*tensors, hop, offset)
    out_grad = torch.ones_like(out) if out_grad is None else out_grad.to(out.dtype)
    return [out, *torch.autograd.grad(out, [tensor for tensor in tensors if tensor is not None], out_grad)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients_are_the_references(case, dtype, device):
    tensors = inputs(case, dtype, device)
    out_grad = torch.randn(*case[:3], dtype=dtype, device=device)
    ours = results(gated_activation, tensors, *case[5:], dtype, out_grad)
    exact = results(reference.gated_activation, tensors, *case[5:], torch.float64, out_grad)
    for mine, right in zip(ours, exact, strict=True):
        assert mine.dtype is dtype
        assert (mine - right).abs().max() <= 2 * TOLERANCE[dtype] * right.abs().max()


def test_strides_change_nothing(device):
    tensors = inputs((2, 33, 5, True, 3, 16, 4), torch.float32, device)
    out_grad = torch.randn(33, 1, 5, device=device).expand(33, 2, 5)
    views = [tensor.mT.contiguous().mT if tensor.dim() > 1 else tensor.repeat_interleave(2)[::2] for tensor in tensors]
    assert not any(view.is_contiguous() for view in views)
    straight = results(gated_activation, tensors, 16, 4, torch.float32, out_grad.transpose(0, 1).contiguous())
    strided = [view.requires_grad_() for view in views]
    out = gated_activation(*strided, 16, 4)
    grads = torch.autograd.grad(out, strided, out_grad.transpose(0, 1))
    assert all(torch.equal(*pair) for pair in zip(straight, [out, *grads], strict=True))


def test_gradients_are_the_same_bits_every_time(device):
    tensors = inputs((2, 200, 20, True, 5, 50, 10), torch.float16, device)
    first = results(gated_activation, tensors, 50, 10, torch.float16)
    for _ in range(3):
        again = results(gated_activation, tensors, 50, 10, torch.float16)
        assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))


@pytest.mark.parametrize(
    ("hidden", "bias", "frames"), [(torch.float16, torch.float32, torch.float16), (torch.float32, *[torch.float16] * 2)]
)
def test_the_output_has_the_type_of_hidden(hidden, bias, frames, device):
    tensors = inputs((1, 3, 4, True, 2, 2, 0), torch.float32, device)
    tensors = [tensor.to(dtype).requires_grad_() for tensor, dtype in zip(tensors, (hidden, bias, frames), strict=True)]
    out, right = gated_activation(*tensors, 2, 0), reference.gated_activation(*tensors, 2, 0)
    assert out.dtype is right.dtype is hidden
    out.sum().backward()
    assert [tensor.grad.dtype for tensor in tensors] == [hidden, bias, frames]


def test_it_saturates_without_overflow_and_hides_no_nan(device):
    huge = torch.tensor([[[1e30, -1e30, 2.0, 1e30, 1e30, -1e30]]], device=device, requires_grad=True)
    out = gated_activation(huge, None, None, 1)
    out.sum().backward()
    torch.testing.assert_close(out.detach().flatten().cpu(), torch.tensor([1.0, -1.0, 0.0]))
    assert huge.grad.abs().max() < 1e-6
    for place in range(2):
        hidden = torch.zeros(1, 1, 2, device=device)
        hidden[..., place] = torch.nan
        assert gated_activation(hidden, None, None, 1).isnan().all()


@pytest.mark.parametrize("shape", [(2, 0, 6), (0, 5, 6)], ids=str)
def test_nothing_gives_nothing(shape, device):
    hidden, bias = (
        torch.empty(shape, device=device, requires_grad=True),
        torch.ones(6, device=device, requires_grad=True),
    )
    out = gated_activation(hidden, bias, None, 1)
    out.sum().backward()
    assert out.shape == (*shape[:2], 3)
    assert torch.equal(bias.grad, torch.zeros_like(bias))


def test_a_type_without_a_kernel_is_refused(device):
    with pytest.raises(ValueError, match=r"bias is torch\.float64; .*convert it"):
        gated_activation(
            torch.zeros(1, 1, 2, device=device), torch.zeros(2, dtype=torch.float64, device=device), None, 1
        )


@pytest.mark.parametrize("case", [CASES[0], CASES[1], CASES[-2]], ids=str)
def test_it_is_an_ordinary_operator(case, device):
    tensors = inputs(case, torch.float32, device)
    leaves = [None if tensor is None else tensor.requires_grad_() for tensor in tensors]
    torch.library.opcheck(_gated_activation, (*leaves, *case[5:]))
    out_grad = torch.randn(*case[:3], device=device)
    torch.library.opcheck(
        _gated_activation_backward,
        (out_grad, *[None if tensor is None else tensor.detach() for tensor in tensors], *case[5:]),
    )
