"""The residual layer in C against the reference in float64, at the same inputs."""

import threading
from itertools import product

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from wavenet.kernels import ops, use_backend

HOP = 256
FLOAT, HALF = torch.float32, torch.bfloat16
TOLERANCE = {FLOAT: 1e-5, HALF: 1e-2}  # of the peak; sums of both signs over time lose most in bfloat16
NAMES = ("x", "skips", "weight", "bias", "frames", "out_weight", "out_bias")


@pytest.fixture
def set_threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def problem(batch=2, length=300, channels=32, gate=16, skip=48, taps=2, count=3):
    """The tensors of a layer by name, in the letters of the reference, scaled so that the gate is hardly saturated."""
    generator = torch.Generator().manual_seed(batch * length + channels + gate + skip)

    def normal(*shape, scale=1.0):
        return scale * torch.randn(shape, generator=generator)

    return {
        "x": normal(batch, length, channels),
        "skips": normal(batch, length, skip) if skip else None,
        "weight": normal(2 * gate, taps * channels, scale=(taps * channels) ** -0.5),
        "bias": normal(2 * gate, scale=0.3),
        "frames": normal(batch, count, 2 * gate, scale=0.5),
        "out_weight": normal(channels + skip, gate, scale=gate**-0.5),
        "out_bias": normal(channels + skip, scale=0.3),
    }


def solved(backend, tensors, dilation=3, hop=HOP, offset=0, dtype=FLOAT, wanted=NAMES, outputs=None):
    """The outputs there are, and the gradients of a weighted sum of them in the wanted tensors."""
    leaves = {name: None if t is None else t.detach().to(dtype) for name, t in tensors.items()}
    variables = [leaves[name].requires_grad_() for name in wanted if leaves[name] is not None]
    with use_backend(backend):
        results = ops.residual_layer(*leaves.values(), dilation, hop, offset)
    generator = torch.Generator().manual_seed(1)
    weighted = [torch.randn(y.shape, generator=generator) * y for y in results if y is not None]
    grads = torch.autograd.grad(
        sum(weighted[i].sum() for i in outputs or range(len(weighted))), variables, allow_unused=True
    )
    return [*results, *grads]


def assert_equal(tensors, dtype=FLOAT, **options):
    right = solved("reference", tensors, dtype=torch.float64, **options)
    with torch.autocast("cpu", HALF, enabled=dtype is HALF):
        native = solved("native", tensors, **options)
    for ours, exact in zip(native, right, strict=True):
        if exact is None:  # no skips, or no way from this tensor to the outputs in use
            assert ours is None or not ours.any()
        else:
            assert ours.shape == exact.shape and ours.dtype == FLOAT
            assert (ours - exact).abs().max() <= TOLERANCE[dtype] * exact.abs().max()


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("length", [1, 2, 127, 128, 129, HOP - 1, HOP, HOP + 1, 1000])
def test_values_and_gradients_are_the_references(length, batch, dtype):
    assert_equal(problem(batch, length, count=5), dtype, offset=HOP // 2 - 1)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("channels", [16, 48, 64])
@pytest.mark.parametrize("gate", [16, 48, 64])
@pytest.mark.parametrize("skip", [0, 16, 64])
def test_any_multiples_of_sixteen_are_widths(channels, gate, skip, dtype):
    assert_equal(problem(1, 70, channels, gate, skip), dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("taps", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 8, 64, 149, 150, 512])
def test_taps_and_dilations_also_beyond_the_clip(taps, dilation, dtype):
    assert_equal(problem(length=150, taps=taps), dtype, dilation=dilation)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_the_widest_layer(dtype):
    assert_equal(problem(1, 65, 512, 512, 512, taps=3), dtype)


@pytest.mark.parametrize(
    ("hop", "count", "offset", "length"), [(1, 7, 2, 5), (4, 3, 0, 12), (5, 4, 3, 17), (255, 2, 127, 383)]
)
def test_frames_of_any_hop_are_read_at_any_offset(hop, count, offset, length):
    assert_equal(problem(length=length, count=count), hop=hop, offset=offset)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("length", [1, 129, 1000])
def test_one_frame_is_constant_in_time(length, batch):
    assert_equal(problem(batch, length, count=1), hop=1, offset=77)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("absent", [("skips",), ("frames",), ("skips", "frames")])
def test_skips_and_frames_may_be_absent(absent, dtype):
    assert_equal(problem() | dict.fromkeys(absent), dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("outputs", [(0,), (1,)])
@pytest.mark.parametrize("absent", [(), ("skips",)])
def test_either_output_may_be_unused(outputs, absent, dtype):
    assert_equal(problem() | dict.fromkeys(absent), dtype, outputs=outputs)


@pytest.mark.parametrize("chosen", [c for c in product([True, False], repeat=len(NAMES)) if any(c)][::5])
def test_any_of_the_inputs_may_be_constant(chosen):
    assert_equal(problem(length=70), wanted=[name for name, wanted in zip(NAMES, chosen, strict=True) if wanted])


def test_strides_do_not_matter():
    straight = problem()
    strided = {name: torch.stack([t, t], dim=-1)[..., 0] for name, t in straight.items()}
    assert not any(tensor.is_contiguous() for tensor in strided.values())
    assert all(map(torch.equal, solved("native", strided), solved("native", straight)))


def test_a_gradient_without_strides_is_read_right():
    tensors = problem()
    x = tensors["x"].requires_grad_()
    with use_backend("native"):
        ours, again = (ops.residual_layer(*tensors.values(), 3, HOP) for _ in range(2))
    (once,) = torch.autograd.grad([y.sum() for y in ours], x)
    assert torch.equal(once, *torch.autograd.grad(again, x, [torch.ones_like(y) for y in again]))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_threads_do_not_matter(threads, dtype, set_threads):
    set_threads(threads)
    assert_equal(problem(length=1000, count=5), dtype, offset=3)


def test_a_thread_of_python_has_stack_enough():
    results = []
    tensors = problem(1, 65, 512, 512, 512, taps=3)
    thread = threading.Thread(target=lambda: results.extend(solved("native", tensors)))
    thread.start()
    thread.join()
    assert all(map(torch.equal, results, solved("native", tensors)))


@pytest.mark.parametrize(
    ("name", "size"),
    [*product(("channels", "gate", "skip"), (3, 40)), ("taps", 4), ("channels", 528)],
)
def test_other_sizes_are_the_references_or_refused(name, size):
    tensors = problem(1, 20, **{name: size})
    expected = solved("reference", tensors)[:2]
    assert all(map(torch.equal, ops.residual_layer(*tensors.values(), 3, HOP), expected))
    with use_backend("native"), pytest.raises(ValueError, match="backend native has no layer of"):
        ops.residual_layer(*tensors.values(), 3, HOP)


@pytest.mark.parametrize(("batch", "length"), [(0, 5), (2, 0), (0, 0)])
def test_nothing_in_nothing_out(batch, length):
    tensors = {name: t.requires_grad_() for name, t in problem(batch, length).items()}
    y, skips = ops.residual_layer(*tensors.values(), 3, HOP)
    assert (y.shape, skips.shape) == ((batch, length, 32), (batch, length, 48))
    (y.sum() + skips.sum()).backward()
    assert all((t.grad == 0).all() for t in tensors.values())


class Made(TorchDispatchMode):
    """The shapes of all tensors that are made within."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        self.shapes += [made.shape] if isinstance(made, torch.Tensor) else []
        return made


@pytest.mark.parametrize("without", [torch.no_grad, torch.inference_mode])
def test_without_gradients_no_pre_activation_is_made_also_of_parameters(without):
    tensors = {name: tensor.requires_grad_() for name, tensor in problem(gate=48).items()}
    pre = tensors["x"].shape[:2] + tensors["bias"].shape
    with Made() as training:
        ops.residual_layer(*tensors.values(), 3, HOP)
    with without(), Made() as speaking:
        ops.residual_layer(*tensors.values(), 3, HOP)
    assert pre in training.shapes and pre not in speaking.shapes


@pytest.mark.parametrize("bits", [0x7FFFFFFF, 0x7F800001, 0x7FC00000, -1, -0x7FFFFF, -0x400000])
def test_references_numbers_that_are_none_stay_so_in_bfloat16(bits):
    """Rounding adds to the bits: it must not carry into the sign, nor leave infinity."""
    nan = torch.tensor([bits], dtype=torch.int32).view(FLOAT)
    for name, reached in (("x", 1), ("weight", 150), ("out_weight", 150)):
        tensors = problem(1, 150)
        tensors[name].view(-1)[-1] = nan
        with torch.autocast("cpu", HALF), use_backend("native"):
            y, _ = ops.residual_layer(*(tensors | {"skips": None}).values(), 3, HOP)
        if name == "out_weight":  # its last row belongs to the skips
            assert y.isfinite().all()
        else:
            assert y.isnan().any(dim=-1).sum() == reached
