from dataclasses import dataclass

import pytest
import torch

from wavenet.kernels import reference, triton_layer, triton_layer_launches
from wavenet.kernels.backend import use_backend
from wavenet.kernels.triton_layer import (
    _product_over_time,
    _residual_layer,
    _residual_layer_backward,
    residual_layer,
)

TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}  # of the largest value


@dataclass(frozen=True)
class Case:
    B: int
    T: int
    C: int
    G: int
    S: int
    K: int = 3
    L: int | None = None
    hop: int = 1
    offset: int = 0
    dilation: int = 1
    skips: bool = False
    dtype: torch.dtype = torch.float32  # of the activations
    weights: torch.dtype = torch.float32

    @property
    def settings(self) -> tuple[int, int, int]:
        return self.dilation, self.hop, self.offset


half = torch.float16
CASES = [
    Case(1, 1, 3, 5, 0, K=2),
    Case(2, 2, 32, 32, 3, L=1, dilation=1, skips=True),
    Case(2, 127, 40, 24, 33, L=3, hop=50, offset=3, dilation=64),
    Case(1, 128, 64, 64, 0, L=2, hop=128, offset=128, dilation=512),
    Case(1, 129, 32, 40, 70, L=2, hop=128, dilation=4, skips=True),
    Case(2, 9, 3, 5, 2, K=1, L=11, hop=1, offset=2, skips=True),
    Case(2, 65, 100, 3, 1, K=2, L=6, hop=16, offset=15, dilation=32),
    Case(2, 2, 32, 32, 3, L=1, skips=True, dtype=half, weights=half),
    Case(2, 127, 40, 24, 33, L=3, hop=50, offset=3, dilation=64, dtype=half, weights=half),
    Case(1, 129, 64, 64, 0, L=3, hop=64, offset=1, dilation=2, dtype=half, weights=half),
    Case(1, 70, 20, 130, 3, K=2, L=2, hop=64, dilation=3, dtype=half, weights=half),
    # The interpreter multiplies bfloat16 wrongly: activations of that type, and operands that are not.
    Case(1, 129, 32, 32, 8, L=3, hop=64, offset=1, dilation=16, skips=True, dtype=torch.bfloat16),
    Case(1, 33, 40, 16, 0, K=2, dilation=16, dtype=torch.bfloat16),
]


def inputs(case, device):
    """x, skips, weight, bias, frames, out_weight, out_bias"""
    B, T, C, G, S, K = case.B, case.T, case.C, case.G, case.S, case.K
    torch.manual_seed(0)
    x, skips = torch.randn(B, T, C), torch.randn(B, T, S) if case.skips else None
    weight, bias = torch.randn(2 * G, K * C) / (K * C) ** 0.5, torch.randn(2 * G)
    frames = None if case.L is None else torch.randn(B, case.L, 2 * G)
    out_weight, out_bias = torch.randn(C + S, G) / G**0.5, torch.randn(C + S)
    activations, weights = (x, skips), (weight, bias, frames, out_weight, out_bias)
    typed = [(tensor, case.dtype) for tensor in activations] + [(tensor, case.weights) for tensor in weights]
    return [None if tensor is None else tensor.to(device, dtype) for tensor, dtype in typed]


def results(function, tensors, case, dtype=None):
    """The outputs that there are, and under random gradients of them those of the tensors that there are."""
    tensors = [None if tensor is None else tensor.detach().to(dtype or tensor.dtype) for tensor in tensors]
    leaves = [tensor.requires_grad_() for tensor in tensors if tensor is not None]
    outs = [out for out in function(*tensors, *case.settings) if out is not None]
    torch.manual_seed(1)
    out_grads = [torch.randn(out.shape).to(out.device, case.dtype).to(out.dtype) for out in outs]
    return [*outs, *torch.autograd.grad(outs, leaves, out_grads)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients_are_the_references(case, device):
    tensors = inputs(case, device)
    ours = results(residual_layer, tensors, case)
    exact = results(reference.residual_layer, tensors, case, torch.float64)
    types = [case.dtype] * (2 if case.S else 1) + [tensor.dtype for tensor in tensors if tensor is not None]
    for mine, right, dtype in zip(ours, exact, types, strict=True):
        assert mine.dtype is dtype
        assert (mine - right).abs().max() <= TOLERANCE[case.dtype] * right.abs().max()


def test_strides_change_nothing(device):
    case = Case(2, 20, 5, 6, 4, L=3, hop=10, offset=2, dilation=2, skips=True)
    tensors = inputs(case, device)
    straight = residual_layer(*tensors, *case.settings)
    views = [tensor.mT.contiguous().mT if tensor.dim() > 1 else tensor.repeat_interleave(2)[::2] for tensor in tensors]
    assert not any(view.is_contiguous() for view in views)
    leaves = [[tensor.requires_grad_() for tensor in group] for group in (tensors, views)]
    out_grads = [torch.randn(20, 1, width, device=device).expand(20, 2, width).transpose(0, 1) for width in (5, 4)]
    straight, strided = (residual_layer(*group, *case.settings) for group in leaves)
    expected = torch.autograd.grad(straight, tensors, [grad.contiguous() for grad in out_grads])
    got = torch.autograd.grad(strided, views, out_grads)
    assert all(torch.equal(*pair) for pair in zip((*straight, *expected), (*strided, *got), strict=True))


def test_gradients_are_the_same_bits_every_time(device):
    case = Case(3, 100, 20, 10, 4, L=3, hop=40, dilation=2, dtype=half, weights=half)
    tensors = inputs(case, device)
    first, again = results(residual_layer, tensors, case), results(residual_layer, tensors, case)
    assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))


def test_weight_gradients_of_a_long_clip_are_summed_in_parts(device, monkeypatch):
    B, T, N, M, K, dilation = 2, 300, 3, 2, 2, 70
    grad, view, weight = (torch.randn(size, device=device) for size in ((B, T, M), (B, T, N), (M, K * N)))
    past = torch.nn.functional.pad(view, (0, 0, dilation, 0))[:, :T]
    expected = torch.einsum("btm,btn->mn", grad.double(), torch.cat([past, view], dim=-1).double())
    for programs, count in ((1024, 10), (10, 5), (8, 3), (1, 1)):  # for 2 taps and 10 blocks of 64 samples
        monkeypatch.setattr(triton_layer_launches, "PROGRAMS", programs)
        assert triton_layer_launches.parts(view, weight) == count
        got = _product_over_time(grad, view, weight, dilation)
        assert (got - expected).abs().max() <= 2e-6 * expected.abs().max()


def test_an_output_that_nobody_reads_has_no_gradient(device):
    case = Case(1, 20, 4, 3, 2, L=2, hop=10)
    tensors = [None if tensor is None else tensor.requires_grad_() for tensor in inputs(case, device)]
    leaves = [tensor for tensor in tensors if tensor is not None]
    for output in range(2):
        grads = [
            torch.autograd.grad(function(*tensors, *case.settings)[output].sum(), leaves, materialize_grads=True)
            for function in (residual_layer, reference.residual_layer)
        ]
        for mine, expected in zip(*grads, strict=True):
            torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-5)


WANTED = [("x",), ("x", "out_bias"), ("x", "frames"), ("weight",), ("out_weight", "skips"), ("bias", "x"), ("skips",)]


@pytest.mark.parametrize("wanted", WANTED, ids="+".join)
def test_what_is_frozen_costs_nothing_and_changes_nothing(wanted, device, monkeypatch):
    """A frozen teacher wants the gradient of its input alone."""
    case = Case(2, 20, 4, 3, 2, L=2, hop=10, dilation=2, skips=True)
    names = ("x", "skips", "weight", "bias", "frames", "out_weight", "out_bias")
    tensors = dict(zip(names, inputs(case, device), strict=True))
    right = dict(zip(names, results(residual_layer, list(tensors.values()), case)[2:], strict=True))
    launched = []
    for name in ("pre_grad", "input_grad", "weight_grad"):
        launch = getattr(triton_layer, name)
        monkeypatch.setattr(
            triton_layer, name, lambda *args, n=name, of=launch: launched.append((n, args)) or of(*args)
        )
    leaves = {name: tensor.detach().requires_grad_(name in wanted) for name, tensor in tensors.items()}
    outs = residual_layer(*leaves.values(), *case.settings)
    torch.manual_seed(1)
    grads = torch.autograd.grad(
        outs, [leaves[name] for name in wanted], [torch.randn(out.shape).to(out) for out in outs]
    )
    assert all(torch.equal(grad, right[name]) for name, grad in zip(wanted, grads, strict=True))
    products = {"weight": 1, "out_weight": 2}
    assert [name for name, _ in launched].count("weight_grad") == sum(products.get(name, 0) for name in wanted)
    assert [name for name, _ in launched].count("input_grad") == ("x" in wanted)
    assert [name for name, _ in launched].count("pre_grad") == (set(wanted) != {"skips"})
    for name, arguments in launched:
        if name == "pre_grad":
            _, gated, frame_sums, out_sums, *_ = arguments[-6:]
            buffers = {"out_weight": gated, "frames": frame_sums, "bias": frame_sums, "out_bias": out_sums}
            kept = {id(buffer) for name, buffer in buffers.items() if name in wanted}
            assert all(buffer is None or id(buffer) in kept for buffer in buffers.values())


def test_under_autocast_the_products_alone_are_of_its_type(device, monkeypatch):
    case = Case(1, 40, 32, 16, 8, L=2, hop=20, dilation=3, skips=True)
    tensors = inputs(case, device)
    full = results(residual_layer, tensors, case)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: device == "cuda")
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda device: half)
    cast = results(residual_layer, tensors, case)
    assert all(mine.dtype is torch.float32 for mine in cast)
    assert not torch.equal(cast[0], full[0])
    for mine, right in zip(cast, full, strict=True):
        assert (mine - right).abs().max() <= 2e-3 * right.abs().max()


def test_more_gates_than_a_tile_holds_are_the_references_or_refused(device):
    case = Case(1, 2, 4, 257, 0)
    tensors = inputs(case, device)
    ours, right = residual_layer(*tensors, *case.settings), reference.residual_layer(*tensors, *case.settings)
    assert torch.equal(ours[0], right[0])
    with use_backend("triton"), pytest.raises(ValueError, match="no layer of 257 gates: at most 256"):
        residual_layer(*tensors, *case.settings)


def test_a_type_without_a_kernel_is_refused(device):
    tensors = inputs(Case(1, 2, 4, 3, 0, dtype=torch.float64), device)
    with pytest.raises(ValueError, match=r"x is torch\.float64; .*convert it"):
        residual_layer(*tensors, 1, 1)


@pytest.mark.parametrize("case", [Case(1, 5, 3, 2, 0, K=2), Case(2, 6, 3, 2, 4, L=3, hop=3, skips=True)], ids=str)
def test_it_is_an_ordinary_operator(case, device):
    tensors = inputs(case, device)
    leaves = [None if tensor is None else tensor.clone().requires_grad_() for tensor in tensors]
    torch.library.opcheck(_residual_layer, (*leaves, *case.settings))
    x, _, *rest = tensors
    out_grads = [torch.randn(case.B, case.T, width, device=device) for width in (case.C, case.S)]
    for wanted in ([True] * 6, [True, *[False] * 5]):
        torch.library.opcheck(_residual_layer_backward, (*out_grads, x, *rest, *case.settings, wanted))


def test_a_compiler_sees_one_graph(device):
    case = Case(1, 20, 4, 3, 2, L=2, hop=10, skips=True)
    tensors = inputs(case, device)
    ours, compiled = residual_layer, torch.compile(residual_layer, backend="aot_eager", fullgraph=True)
    for mine, right in zip(results(compiled, tensors, case), results(ours, tensors, case), strict=True):
        assert torch.equal(mine, right)
