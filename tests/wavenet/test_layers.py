import pytest
import torch

from wavenet.kernels.reference import interpolate_frames
from wavenet.layers import CausalConv1d, DilatedStack, GatedResidualBlock, receptive_field

DILATIONS = [1, 2, 4, 64]


@pytest.mark.parametrize("kernel", [2, 3])
@pytest.mark.parametrize("dilation", DILATIONS)
def test_the_convolution_is_its_definition(kernel, dilation):
    torch.manual_seed(0)
    conv = CausalConv1d(3, 5, kernel, dilation).double()
    x = torch.randn(2, 70, 3, dtype=torch.float64)
    taps = conv.weight.unflatten(1, (kernel, 3))  # (out, K, in)
    expected = conv.bias.expand(2, 70, 5).clone()
    for t in range(70):
        for k in range(kernel):
            past = t - (kernel - 1 - k) * dilation
            if past >= 0:
                expected[:, t] += x[:, past] @ taps[:, k].T
    torch.testing.assert_close(conv(x), expected)


@pytest.mark.parametrize("kernel", [2, 3])
@pytest.mark.parametrize("dilation", DILATIONS)
@pytest.mark.parametrize("length", [1, 2, 127, 128, 129])
@torch.no_grad()
def test_convolution_steps_are_the_convolution(kernel, dilation, length):
    torch.manual_seed(0)
    conv = CausalConv1d(3, 5, kernel, dilation).double()
    x = torch.randn(2, length, 3, dtype=torch.float64)
    state = conv.initial_state(batch=2)
    steps = [conv.step(x[:, t], t, state) for t in range(length)]
    torch.testing.assert_close(torch.stack(steps, dim=1), conv(x))


@pytest.mark.parametrize("context", [0, 4])
@torch.no_grad()
def test_block_steps_are_the_block(context):
    torch.manual_seed(0)
    block = GatedResidualBlock(6, 8, 3, context, kernel_size=3, dilation=4).double()
    x = torch.randn(2, 21, 6, dtype=torch.float64)
    frames = block.project(torch.randn(2, 21, 4, dtype=torch.float64)) if context else None
    full, full_skip = block(x, None, frames, 1, 0)
    state = block.conv.initial_state(batch=2)
    for t in range(21):
        out, skip = block.step(x[:, t], None if frames is None else frames[:, t], t, state)
        torch.testing.assert_close(out, full[:, t])
        torch.testing.assert_close(skip, full_skip[:, t])


@torch.no_grad()
def test_projection_commutes_with_interpolation():
    """Why the condition can stay at frame rate."""
    torch.manual_seed(0)
    block = GatedResidualBlock(6, 8, 3, 4, kernel_size=2, dilation=1).double()
    cond = torch.randn(2, 5, 4, dtype=torch.float64)
    late = block.project(interpolate_frames(cond, 6, 30))
    torch.testing.assert_close(interpolate_frames(block.project(cond), 6, 30), late)


def test_the_skip_output_has_the_variance_of_one_skip():
    torch.manual_seed(0)
    x = torch.randn(1, 500, 16)
    one, many = (DilatedStack(layers, 4, 2, 16, 32, 64, 0) for layers in (1, 16))
    variances = [stack(x, stack.project(None), 1).var().item() for stack in (one, many)]
    assert 0.3 < variances[1] / variances[0] < 5


@pytest.mark.parametrize(("skip", "channels"), [(0, 6), (9, 9)])
def test_without_skips_the_output_is_the_residual(skip, channels):
    stack = DilatedStack(2, 2, 2, 6, 8, skip, 0)
    assert stack.out_channels == channels
    assert stack(torch.randn(1, 5, 6), stack.project(None), 1).shape == (1, 5, channels)


@pytest.mark.parametrize(
    ("layers", "cycle", "kernel", "samples"), [(30, 10, 2, 3070), (30, 10, 3, 6139), (6, 6, 3, 127), (1, 1, 2, 2)]
)
def test_receptive_fields_are_the_published_ones(layers, cycle, kernel, samples):
    assert receptive_field(layers, cycle, kernel) == samples
