"""The gated activation in C: one pass over memory forward and one backward, which computes tanh and sigmoid again.

Keeping them would hold twice the memory of the output until then.
"""

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from wavenet.kernels import reference
from wavenet.kernels.backend import forced_backend
from wavenet.kernels.cpu_layer import CONSTANT_HOP, LANES
from wavenet.kernels.native import CLong, address, loaded


class Shape(ctypes.Structure):
    """`activation` of csrc/gate.c."""

    _fields_ = [(name, CLong) for name in ("batch", "length", "gate", "frames", "hop", "offset", "half", "threads")]


def gated_activation(hidden: Tensor, bias: Tensor | None, frames: Tensor | None, hop: int, offset: int = 0) -> Tensor:
    """`reference.gated_activation` in the type of `hidden`, of any width."""
    B, T, W = hidden.shape
    if W // 2 % LANES:
        if forced_backend() is not None:
            raise ValueError(f"backend native has no gate of 2 x {W // 2} channels: {LANES} must divide a half")
        return reference.gated_activation(hidden, bias, frames, hop, offset)
    framed = torch.zeros(B, 1, W) if frames is None else frames.float()
    if bias is not None:
        framed = framed + bias.float()  # (B, L, 2G)
    L, half = framed.shape[1], hidden.dtype is torch.bfloat16
    shape = Shape(
        *(B, T, W // 2),
        *(L, hop if L > 1 else CONSTANT_HOP, offset if L > 1 else 0, half, torch.get_num_threads()),
    )
    return _GatedActivation.apply(shape, hidden.contiguous(), framed.contiguous())  # type: ignore[no-untyped-call]


class _GatedActivation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, shape: Shape, hidden: Tensor, framed: Tensor) -> Tensor:
        B, T, W = hidden.shape
        gated = hidden.new_empty(B, T, W // 2)
        loaded().gate_forward(ctypes.byref(shape), *map(address, (hidden, framed, gated)))
        ctx.shape = shape
        ctx.save_for_backward(hidden, framed)
        return gated

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gated_grad: Tensor) -> tuple[None, Tensor, Tensor]:
        shape: Shape = ctx.shape
        hidden, framed = ctx.saved_tensors
        B, _, W = hidden.shape
        around = framed.new_zeros(B * loaded().gate_units(ctypes.byref(shape)), 2, W)
        hidden_grad, framed_grad = torch.empty_like(hidden), torch.empty_like(framed)
        tensors = (hidden, framed, gated_grad.contiguous(), hidden_grad, around, framed_grad)
        loaded().gate_backward(ctypes.byref(shape), *map(address, tensors))
        return None, hidden_grad, framed_grad
