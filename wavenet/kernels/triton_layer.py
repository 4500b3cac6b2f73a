"""The gated residual layer on a GPU: one kernel forward; backward from the inputs alone, without the pre-activation.

Backward, a first kernel computes the gate again and leaves the gradient of what it reads; two more turn that into the
gradients of the input and of the weights. Sums over time are taken a tile or a part of the clips at a time, and added
up in an order that never changes: the same bits every time.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from wavenet.kernels import reference
from wavenet.kernels.backend import forced_backend
from wavenet.kernels.triton_launch import check_dtype
from wavenet.kernels.triton_layer_launches import (
    backward_tiles,
    forward,
    forward_tiles,
    input_grad,
    parts,
    pre_grad,
    weight_grad,
)

MOST_GATES = 256  # a tile's sums lie in registers


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
    """`reference.residual_layer`, which also computes what has more than 256 gates.

    Products are of the weights' type, or of autocast's; sums are float32.
    """
    C, G = x.shape[2], weight.shape[0] // 2
    check_dtype(x=x, skips=skips, weight=weight, bias=bias, frames=frames, out_weight=out_weight, out_bias=out_bias)
    if G > MOST_GATES:
        if forced_backend() is not None:
            raise ValueError(f"backend triton has no layer of {G} gates: at most {MOST_GATES}, or another backend")
        return reference.residual_layer(x, skips, weight, bias, frames, out_weight, out_bias, dilation, hop, offset)
    operand = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else weight.dtype
    y, skips_out = _residual_layer(
        x, skips, weight.to(operand), bias, frames, out_weight.to(operand), out_bias, dilation, hop, offset
    )
    return y, skips_out if out_weight.shape[0] > C else None


@torch.library.custom_op("wavenet::residual_layer", mutates_args=())
def _residual_layer(
    x: Tensor,
    skips: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    frames: Tensor | None,
    out_weight: Tensor,
    out_bias: Tensor,
    dilation: int,
    hop: int,
    offset: int,
) -> tuple[Tensor, Tensor]:
    y, skips_out = _empty_outputs(x, skips, weight, bias, frames, out_weight, out_bias, dilation, hop, offset)
    tiles = forward_tiles(x, weight, frames, hop, offset)
    forward(x, skips, weight, bias, frames, out_weight, out_bias, y, skips_out, dilation, tiles).run()
    return y, skips_out


@_residual_layer.register_fake
def _empty_outputs(
    x: Tensor,
    skips: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    frames: Tensor | None,
    out_weight: Tensor,
    out_bias: Tensor,
    dilation: int,
    hop: int,
    offset: int,
) -> tuple[Tensor, Tensor]:
    B, T, C = x.shape
    return x.new_empty(B, T, C), x.new_empty(B, T, out_weight.shape[0] - C)


@torch.library.custom_op("wavenet::residual_layer_backward", mutates_args=())
def _residual_layer_backward(
    y_grad: Tensor,
    skips_grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    frames: Tensor | None,
    out_weight: Tensor,
    out_bias: Tensor,
    dilation: int,
    hop: int,
    offset: int,
    wanted: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, weight, bias, frames, out_weight and out_bias; empty for what is absent or not `wanted`."""
    y_grad, skips_grad, x, weight, out_weight = (
        tensor.contiguous() for tensor in (y_grad, skips_grad, x, weight, out_weight)
    )
    inputs = (y_grad, skips_grad, x, weight, bias, frames, out_weight, out_bias)
    grads = _empty_grads(*inputs, dilation, hop, offset, wanted)
    x_grad, weight_grad, bias_grad, frames_grad, out_weight_grad, out_bias_grad = grads
    wants_x, wants_weight, wants_bias, wants_frames, wants_out_weight, wants_out_bias = wanted
    (B, T, C), G, outs = x.shape, weight.shape[0] // 2, out_weight.shape[0]
    tiles = backward_tiles(x, weight, frames, hop, offset)

    def sums(*size: int) -> Tensor:
        return x.new_empty(tiles.count, *size, dtype=torch.float32)

    frame_sums = sums(2, 2 * G) if wants_bias or wants_frames else None
    out_sums = sums(outs) if wants_out_bias else None
    gate_grad = weight.new_empty(B, T, 2 * G)
    gated = weight.new_empty(B, T, G) if wants_out_weight else None
    pre_grad(
        *(y_grad, skips_grad, x, weight, bias, frames, out_weight),
        *(gate_grad, gated, frame_sums, out_sums, dilation, tiles),
    ).run()
    if wants_x:
        input_grad(y_grad, gate_grad, weight, x_grad, dilation).run()
    if wants_weight:
        weight_grad.copy_(_product_over_time(gate_grad, x, weight, dilation))
    if gated is not None:
        out_weight_grad[:C].copy_(_product_over_time(y_grad, gated, out_weight[:C], 1))
    if gated is not None and outs > C:
        out_weight_grad[C:].copy_(_product_over_time(skips_grad, gated, out_weight[C:], 1))
    if out_sums is not None:
        out_bias_grad.copy_(out_sums.sum(dim=0))
    if frame_sums is not None and wants_bias:
        bias_grad.copy_(frame_sums.sum(dim=(0, 1)))
    if frame_sums is not None and wants_frames and frames is not None:
        frames_grad.copy_(tiles.frames_grad(frame_sums))
    return grads


@_residual_layer_backward.register_fake
def _empty_grads(
    y_grad: Tensor,
    skips_grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    frames: Tensor | None,
    out_weight: Tensor,
    out_bias: Tensor,
    dilation: int,
    hop: int,
    offset: int,
    wanted: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    x_grad, weight_grad, bias_grad, frames_grad, out_weight_grad, out_bias_grad = (
        tensor.new_empty(tensor.shape) if tensor is not None and wants else x.new_empty(0)
        for tensor, wants in zip((x, weight, bias, frames, out_weight, out_bias), wanted, strict=True)
    )
    return x_grad, weight_grad, bias_grad, frames_grad, out_weight_grad, out_bias_grad


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, _, weight, bias, frames, out_weight, out_bias, ctx.dilation, ctx.hop, ctx.offset = inputs
    ctx.save_for_backward(x, weight, bias, frames, out_weight, out_bias)


def _grads(ctx: Any, y_grad: Tensor, skips_grad: Tensor) -> tuple[Tensor | None, ...]:
    wants_x, wants_skips, *others = ctx.needs_input_grad[:7]
    wanted = [wants_x, *others]
    if not any(wanted):
        return None, skips_grad, *[None] * 8
    grads = _residual_layer_backward(y_grad, skips_grad, *ctx.saved_tensors, ctx.dilation, ctx.hop, ctx.offset, wanted)
    x_grad, *other_grads = (grad if wants else None for grad, wants in zip(grads, wanted, strict=True))
    return x_grad, skips_grad if wants_skips else None, *other_grads, None, None, None


_residual_layer.register_autograd(_grads, setup_context=_save)


def _product_over_time(grad: Tensor, view: Tensor, weight: Tensor, dilation: int) -> Tensor:
    """The gradient, in float32, of a weight (M, K N) that makes `grad` (B, T, M) of `view` (B, T, N) at K taps."""
    sums = grad.new_empty(parts(view, weight), *weight.shape, dtype=torch.float32)
    weight_grad(grad, view, sums, weight.dtype, dilation).run()
    return sums.sum(dim=0)
