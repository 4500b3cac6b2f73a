"""Which backend computes a kernel, and what is refused before one does."""

from contextlib import nullcontext
from inspect import signature

import pytest
import torch

from wavenet.kernels import Backend, cpu_gate, cpu_layer, native, ops, reference, use_backend
from wavenet.kernels.backend import best_backend, forced_backend

# B = 2, T = 12, C = 16, 2G = 32, S = 16, taps 2; three frames of hop 4.
GATE = {"hidden": (2, 12, 32), "bias": (32,), "frames": (2, 3, 32)}
LAYER = {
    "x": (2, 12, 16),
    "skips": (2, 12, 16),
    "weight": (32, 32),
    "bias": (32,),
    "frames": (2, 3, 32),
    "out_weight": (32, 16),
    "out_bias": (32,),
}
CALLS = {
    "gated_activation": (GATE, {"hop": 4, "offset": 0}),
    "residual_layer": (LAYER, {"dilation": 2, "hop": 4, "offset": 0}),
}


def called(op, **changed):
    """`op` on random tensors of its shapes, some of them or of the numbers changed."""
    shapes, numbers = CALLS[op]
    tensors = {name: torch.randn(shape) for name, shape in (shapes | changed).items() if name in shapes}
    return getattr(ops, op)(**tensors, **{name: changed.get(name, number) for name, number in numbers.items()})


@pytest.mark.parametrize(
    ("op", "changed", "message"),
    [
        ("gated_activation", {"hidden": (2, 12, 31)}, r"hidden is \(2, 12, 31\); it must be \(B, T, 2G\)"),
        ("gated_activation", {"hidden": (12, 32)}, r"hidden is \(12, 32\); it must be \(B, T, 2G\)"),
        ("gated_activation", {"hidden": ()}, r"hidden is \(\); it must be \(B, T, 2G\)"),
        ("gated_activation", {"bias": (16,)}, r"bias is \(16,\); it must be \(32,\)"),
        ("gated_activation", {"frames": (1, 3, 32)}, r"frames is \(1, 3, 32\); it must be \(2, 3, 32\)"),
        ("gated_activation", {"frames": (2, 3, 16)}, r"frames is \(2, 3, 16\); it must be \(2, 3, 32\)"),
        ("gated_activation", {"offset": 1}, r"samples 1\.\.13 asked for, but 3 frames of hop 4 span 0\.\.12"),
        ("gated_activation", {"offset": -1}, r"samples -1\.\.11 asked for, but 3 frames of hop 4 span 0\.\.12"),
        ("gated_activation", {"hop": 3}, r"samples 0\.\.12 asked for, but 3 frames of hop 3 span 0\.\.9"),
        ("residual_layer", {"x": (12, 16)}, r"x is \(12, 16\); it must be \(B, T, C\)"),
        ("residual_layer", {"weight": (32,)}, r"weight is \(32,\); .* it must be \(2G, K \* 16\)"),
        ("residual_layer", {"out_weight": ()}, r"out_weight is \(\); .* it must have 16 rows or more"),
        ("residual_layer", {"weight": (31, 32)}, r"weight is \(31, 32\); .* it must be \(2G, K \* 16\)"),
        ("residual_layer", {"weight": (32, 24)}, r"weight is \(32, 24\); .* it must be \(2G, K \* 16\)"),
        ("residual_layer", {"out_weight": (15, 16)}, r"out_weight is \(15, 16\); .* it must have 16 rows or more"),
        ("residual_layer", {"out_weight": (32, 15)}, r"out_weight is \(32, 15\); it must be \(32, 16\)"),
        ("residual_layer", {"out_bias": (16,)}, r"out_bias is \(16,\); it must be \(32,\)"),
        ("residual_layer", {"bias": (16,)}, r"bias is \(16,\); it must be \(32,\)"),
        ("residual_layer", {"skips": (2, 12, 15)}, r"skips is \(2, 12, 15\); it must be \(2, 12, 16\)"),
        ("residual_layer", {"skips": (2, 11, 16)}, r"skips is \(2, 11, 16\); it must be \(2, 12, 16\)"),
        ("residual_layer", {"frames": (2, 3, 16)}, r"frames is \(2, 3, 16\); it must be \(2, 3, 32\)"),
        ("residual_layer", {"offset": 1}, r"samples 1\.\.13 asked for, but 3 frames of hop 4 span 0\.\.12"),
        ("residual_layer", {"dilation": 0}, "dilation is 0; it must be at least 1"),
    ],
)
@pytest.mark.parametrize("backend", ["reference", "native"])
def test_what_does_not_fit_is_refused(op, changed, message, backend):
    with use_backend(backend), pytest.raises(ValueError, match=message):
        called(op, **changed)


@pytest.mark.parametrize("op", CALLS)
def test_what_fits_is_not(op):
    called(op)


@pytest.mark.parametrize(("op", "module"), [("gated_activation", cpu_gate), ("residual_layer", cpu_layer)])
def test_backends_have_the_references_signature(op, module):
    right = signature(getattr(reference, op))
    assert signature(getattr(ops, op)) == signature(getattr(module, op)) == right


def test_backends_nest_and_end_also_after_an_error():
    assert forced_backend() is None
    with use_backend("reference"):
        with pytest.raises(KeyError), use_backend(Backend.native):
            assert forced_backend() is Backend.native
            raise KeyError
        assert forced_backend() is Backend.reference
    assert forced_backend() is None


def test_an_unknown_backend_is_refused():
    with pytest.raises(ValueError, match="'numpy' is not a valid Backend"), use_backend("numpy"):
        pass
    assert forced_backend() is None


@pytest.mark.parametrize(("backend", "device"), [("native", "meta"), ("triton", "cpu")])
def test_a_backend_refuses_tensors_of_another_device(backend, device):
    with use_backend(backend), pytest.raises(ValueError, match=f"backend {backend} cannot compute on {device}"):
        ops.gated_activation(torch.zeros(1, 2, 32, device=device), None, None, 1)


@pytest.mark.parametrize(
    ("dtype", "backend"),
    [
        (torch.float32, Backend.native),
        (torch.bfloat16, Backend.native),
        (torch.float16, Backend.reference),
        (torch.float64, Backend.reference),
    ],
)
def test_c_computes_what_it_has_a_type_for(dtype, backend):
    assert best_backend(torch.device("cpu"), dtype) is backend


def test_a_device_without_kernels_gets_the_reference():
    hidden = torch.zeros(2, 3, 32, device="meta")
    assert best_backend(hidden.device, hidden.dtype) is Backend.reference
    assert ops.gated_activation(hidden, None, None, 1).shape == (2, 3, 16)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_the_layer_keeps_a_type_that_c_has_not(dtype):
    tensors = [torch.randn(shape, dtype=dtype) for shape in LAYER.values()]
    right = reference.residual_layer(*tensors, 2, 4, 0)
    assert all(map(torch.equal, ops.residual_layer(*tensors, 2, 4, 0), right))


@pytest.mark.parametrize("backend", ["reference", "native"])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("others", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_outputs_are_of_the_type_of_the_first_input(dtype, others, autocast, backend):
    """Whatever that of biases and frames, and of the products."""
    gate, layer = (
        {name: torch.randn(shape, dtype=dtype) for name, shape in shapes.items()} for shapes in (GATE, LAYER)
    )
    for tensors in (gate, layer):
        tensors["bias"], tensors["frames"] = tensors["bias"].to(others), tensors["frames"].to(others)
    with use_backend(backend), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        assert ops.gated_activation(*gate.values(), 4).dtype is dtype
        for skips in (layer["skips"], None):
            outputs = ops.residual_layer(*(layer | {"skips": skips}).values(), 2, 4)
            assert [output.dtype for output in outputs] == [dtype, dtype]


@pytest.mark.parametrize("backend", [None, "reference"])
@pytest.mark.parametrize("op", CALLS)
def test_a_compiled_function_is_one_graph_of_the_backend_that_it_was_compiled_under(op, backend):
    """C is no graph's: unless another backend is forced, a compiler gets the reference."""
    compiled = torch.compile(getattr(ops, op), backend="aot_eager", fullgraph=True)
    shapes, numbers = CALLS[op]
    tensors = [torch.randn(shape) for shape in shapes.values()]
    with use_backend("reference"):
        expected = getattr(ops, op)(*tensors, *numbers.values())
    with use_backend(backend) if backend else nullcontext():
        torch.testing.assert_close(compiled(*tensors, *numbers.values()), expected, rtol=0, atol=0)


@pytest.mark.parametrize("strict", [False, True])
def test_what_is_exported_is_the_reference(strict):
    class Gate(torch.nn.Module):
        def forward(self, hidden, bias, frames):
            return ops.gated_activation(hidden, bias, frames, 4)

    tensors = tuple(torch.randn(shape) for shape in GATE.values())
    exported = torch.export.export(Gate(), tensors, strict=strict).module()
    assert torch.equal(exported(*tensors), reference.gated_activation(*tensors, 4))


@pytest.mark.parametrize(
    ("op", "name"),
    [*(("gated_activation", name) for name in GATE), *(("residual_layer", name) for name in LAYER)],
)
@pytest.mark.parametrize("backend", [None, "native"])
def test_c_is_given_no_address_of_another_device(op, name, backend):
    """The numbers of a tensor on `meta` lie nowhere."""
    shapes, numbers = CALLS[op]
    tensors = {key: torch.randn(shape, device="meta" if key == name else "cpu") for key, shape in shapes.items()}
    with pytest.raises((ValueError, RuntimeError)), use_backend(backend) if backend else nullcontext():
        getattr(ops, op)(**tensors, **numbers)


def test_an_address_is_one_of_contiguous_memory_of_the_cpu():
    for tensor, what in ((torch.zeros(2, 3, device="meta"), "on meta"), (torch.zeros(3, 2).mT, "strides")):
        with pytest.raises(ValueError, match=rf"\(2, 3\).*{what}.*contiguous memory of the CPU"):
            native.address(tensor)
