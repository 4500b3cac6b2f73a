import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from wavenet.kernels.reference import (
    gated_activation,
    interpolate_frames,
    logistic_mixture_log_density,
    residual_layer,
)


@given(hop=st.integers(1, 33), count=st.integers(2, 7), data=st.data())
@settings(deadline=None, max_examples=200)
def test_interpolation_is_torchs_at_any_offset_and_hop(hop, count, data):
    offset = data.draw(st.integers(0, count * hop - 1))
    length = data.draw(st.integers(1, count * hop - offset))
    frames = torch.randn(2, count, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(hop))
    whole = F.interpolate(frames.transpose(1, 2), size=count * hop, mode="linear", align_corners=False).transpose(1, 2)
    torch.testing.assert_close(
        interpolate_frames(frames, hop, length, offset), whole[:, offset : offset + length], rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("hop", [1, 5, 255])
def test_an_odd_hop_reads_every_frame_as_it_is_at_its_centre(hop):
    frames = torch.randn(1, 4, 2)
    assert torch.equal(interpolate_frames(frames, hop, 4 * hop)[:, hop // 2 :: hop], frames)


def test_one_frame_is_constant_in_time():
    frame = torch.randn(2, 1, 3)
    assert torch.equal(interpolate_frames(frame, 4, 1000, 12), frame.expand(2, 1000, 3))


@pytest.mark.parametrize(("length", "offset"), [(13, 0), (6, 7), (1, -1), (1, 12)])
def test_samples_that_no_frame_spans_are_refused(length, offset):
    with pytest.raises(ValueError, match=r"3 frames of hop 4 span 0\.\.12"):
        interpolate_frames(torch.zeros(1, 3, 2), 4, length, offset)


def test_the_gate_reads_its_filter_half_first():
    hidden = torch.tensor([[[0.5, 100.0]]])
    assert gated_activation(hidden, None, None, 1).item() == pytest.approx(torch.tanh(torch.tensor(0.5)).item())


@pytest.mark.parametrize("hop", [4, 5])
def test_gradients_of_the_gate_are_those_of_its_values(hop):
    torch.manual_seed(0)
    hidden = torch.randn(2, 2 * hop, 6, dtype=torch.float64, requires_grad=True)
    frames = torch.randn(2, 4, 6, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda hidden, frames: gated_activation(hidden, None, frames, hop, offset=3), (hidden, frames))


def test_gradients_of_the_interpolation_are_those_of_its_values():
    frames = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda frames: interpolate_frames(frames, 6, 20, 3), frames)


@pytest.mark.parametrize(("taps", "dilation"), [(1, 1), (2, 3), (3, 2), (2, 9)])
def test_gradients_of_the_layer_are_those_of_its_values(taps, dilation):
    torch.manual_seed(0)
    shapes = [(2, 8, 3), (2, 8, 2), (4, taps * 3), (4,), (2, 3, 4), (5, 2), (5,)]
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    assert gradcheck(lambda *inputs: residual_layer(*inputs, dilation, hop=4, offset=3), inputs)


@pytest.mark.parametrize("half_bin", [0.01, 2.0**-16])
def test_gradients_of_the_density_are_those_of_its_values(half_bin):
    torch.manual_seed(0)
    logits, means, x = (torch.randn(shape, dtype=torch.float64) for shape in ((5, 3), (5, 3), (5, 2)))
    log_scales = torch.randn(5, 3, dtype=torch.float64) - 1
    inputs = [tensor.requires_grad_() for tensor in (logits, means, log_scales, x)]
    assert gradcheck(lambda *inputs: logistic_mixture_log_density(*inputs, half_bin), inputs)
