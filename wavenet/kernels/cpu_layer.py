"""The gated residual layer in C: one call forward, one backward, tiles in the cache, products in float32 or bfloat16.

bfloat16 is what autocast asks for: operands are rounded, sums and the residual path stay in float32.
"""

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from wavenet.kernels import reference
from wavenet.kernels.backend import forced_backend, needs_gradient
from wavenet.kernels.native import CLong, address, bfloat16_wanted, loaded

WIDEST = 512  # channels, as in csrc/units.h
LANES, MOST_TAPS = 16, 3
CONSTANT_HOP = 256  # how a clip is divided among threads where no frame rate says it


class Shape(ctypes.Structure):
    """`layer` of csrc/layer.h."""

    _fields_ = [
        (name, CLong)
        for name in (
            *("batch", "length", "residual", "gate", "skip", "taps", "dilation"),
            *("frames", "hop", "offset", "half", "threads"),
        )
    ]


def residual_layer(
    x: Tensor,
    skips: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    frames: Tensor | None,
    out_weight: Tensor,
    out_bias: Tensor,
    dilation: int,
    hop: int,
    offset: int = 0,
) -> tuple[Tensor, Tensor | None]:
    """`reference.residual_layer`, which also computes the sizes that the C kernel has not."""
    B, T, C = x.shape
    G, S, taps = weight.shape[0] // 2, out_weight.shape[0] - C, weight.shape[1] // C
    if not (all(size % LANES == 0 and size <= WIDEST for size in (C, G, S)) and taps <= MOST_TAPS and x.numel()):
        if forced_backend() is not None:
            raise ValueError(
                f"backend native has no layer of {C} residual, 2 x {G} gate and {S} skip channels, {taps} taps: "
                f"channels must be multiples of {LANES} up to {WIDEST}, taps at most {MOST_TAPS}"
            )
        return reference.residual_layer(x, skips, weight, bias, frames, out_weight, out_bias, dilation, hop, offset)
    half = bfloat16_wanted(weight)
    framed = bias.float().expand(B, 1, -1) if frames is None else frames.float() + bias.float()  # (B, L, 2G)
    L = framed.shape[1]
    shape = Shape(
        *(B, T, C, G, S, taps, dilation),
        *(L, hop if L > 1 else CONSTANT_HOP, offset if L > 1 else 0, half, torch.get_num_threads()),
    )
    tensors = (x, skips, weight, framed, out_weight, out_bias)
    y, skips_out = _ResidualLayer.apply(  # type: ignore[no-untyped-call]
        shape, needs_gradient(tensors), *(None if t is None else t.float().contiguous() for t in tensors)
    )
    return y.to(x.dtype), skips_out.to(x.dtype) if S else None


class _ResidualLayer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        shape: Shape,
        training: bool,
        x: Tensor,
        skips: Tensor | None,
        weight: Tensor,
        framed: Tensor,
        out_weight: Tensor,
        out_bias: Tensor,
    ) -> tuple[Tensor, Tensor]:
        B, T, C = x.shape
        G, S, taps = shape.gate, shape.skip, shape.taps
        y, skips_out = torch.empty_like(x), x.new_empty(B, T, S)
        pre = _operand(shape, B, T, 2 * G) if training else None
        conv = pack(weight, shape.half, taps, C, 2 * G, tap_stride=C, k_stride=1, n_stride=taps * C)
        out = pack(out_weight, shape.half, 1, G, C + S, tap_stride=0, k_stride=1, n_stride=G)
        loaded().layer_forward(
            ctypes.byref(shape), *map(address, (x, skips, conv, out, out_bias, framed, y, skips_out, pre))
        )
        ctx.shape = shape
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, weight, framed, out_weight, pre)
        return y, skips_out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, y_grad: Tensor | None, skips_grad: Tensor | None) -> tuple[Tensor | None, ...]:
        shape: Shape = ctx.shape
        x, weight, framed, out_weight, pre = ctx.saved_tensors
        B, T, C = x.shape
        G, S, taps, reach = shape.gate, shape.skip, shape.taps, (shape.taps - 1) * shape.dilation
        if S and skips_grad is None:
            skips_grad = x.new_zeros(B, T, S)
        y_grad, skips_grad = (None if grad is None else grad.contiguous() for grad in (y_grad, skips_grad))
        conv = pack(weight, shape.half, taps, 2 * G, C, tap_stride=C, k_stride=taps * C, n_stride=1)
        out = pack(out_weight, shape.half, 1, C + S, G, tap_stride=0, k_stride=G, n_stride=1)
        sizes = (weight.numel(), out_weight.numel(), C + S)
        sums = x.new_zeros(shape.threads, sum(sizes)) if any(ctx.needs_input_grad[i] for i in (4, 6, 7)) else None
        around = x.new_zeros(B * loaded().layer_units(ctypes.byref(shape)), 2, 2 * G)
        x_grad, framed_grad = torch.empty_like(x), torch.empty_like(framed)
        pre_grad = _operand(shape, B, T + reach, 2 * G)
        loaded().layer_backward(
            ctypes.byref(shape),
            *map(address, (x, y_grad, skips_grad, conv, out, framed, pre, pre_grad, around, sums, x_grad, framed_grad)),
        )
        skips_grad = skips_grad if ctx.needs_input_grad[3] else None
        if sums is None:
            return None, None, x_grad, skips_grad, None, framed_grad, None, None
        weight_grad, out_weight_grad, out_bias_grad = sums.sum(dim=0).split(sizes)
        weight_grads = weight_grad.view_as(weight), framed_grad, out_weight_grad.view_as(out_weight), out_bias_grad
        return None, None, x_grad, skips_grad, *weight_grads


def _operand(shape: Shape, *sizes: int) -> Tensor:
    return torch.empty(sizes, dtype=torch.bfloat16 if shape.half else torch.float32)


def pack(
    weight: Tensor, half: bool, taps: int, k: int, n: int, tap_stride: int, k_stride: int, n_stride: int
) -> Tensor:
    """Matrices (taps, k, n) with these strides in `weight`, as csrc/pack.c lays them out."""
    packed = torch.empty(taps * k * n, dtype=torch.bfloat16 if half else torch.float32)
    numbers = (taps, k, n, tap_stride, k_stride, n_stride, int(half))
    loaded().pack(address(packed), address(weight), *map(CLong, numbers))
    return packed
