"""Mixtures of logistics in C (`csrc/mixture.c`), float32: nothing of size N K is stored, forward or backward.

The log density computes its terms again in the backward pass. The cross-entropy is one number a row, so that the pass
that computes it gives its gradients too, and the backward pass only scales them.
"""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from wavenet.kernels import reference
from wavenet.kernels.backend import forced_backend, needs_gradient
from wavenet.kernels.native import CLong, address, loaded

MOST_COMPONENTS = 256  # sixteen mixtures lie on a thread's stack, 1 KB a component


class Shape(ctypes.Structure):
    """`shape` of csrc/mixture.c."""

    _fields_ = [*((name, CLong) for name in ("rows", "K", "N", "threads")), ("half_bin", ctypes.c_float)]


def logistic_mixture_log_density(
    logits: Tensor, means: Tensor, log_scales: Tensor, x: Tensor, half_bin: float
) -> Tensor:
    """`reference.logistic_mixture_log_density`, which also computes the dtypes that the C kernel has not."""
    tensors = (logits, means, log_scales, x)
    if not _has(tensors):
        return reference.logistic_mixture_log_density(*tensors, half_bin)
    return _LogDensity.apply(half_bin, *(tensor.contiguous() for tensor in tensors))  # type: ignore[no-untyped-call]


def logistic_mixture_cross_entropy(
    logits: Tensor, means: Tensor, log_scales: Tensor, loc: Tensor, log_scale: Tensor, draws: Tensor, half_bin: float
) -> Tensor:
    """`reference.logistic_mixture_cross_entropy`, which also computes the dtypes that the C kernel has not."""
    tensors = (logits, means, log_scales, loc, log_scale, draws.detach())
    if not _has(tensors):
        return reference.logistic_mixture_cross_entropy(*tensors, half_bin)
    inputs = (tensor.contiguous() for tensor in tensors)
    return _CrossEntropy.apply(half_bin, needs_gradient(tensors), *inputs)  # type: ignore[no-untyped-call]


def _has(tensors: Sequence[Tensor]) -> bool:
    """Whether the C kernel computes these, mixtures first.

    Raises:
        ValueError: it is forced to, and cannot.
    """
    K = tensors[0].shape[-1]
    if K <= MOST_COMPONENTS and all(
        tensor.device.type == "cpu" and tensor.dtype is torch.float32 for tensor in tensors
    ):
        return True
    if forced_backend() is not None:
        raise ValueError(
            f"backend native has no mixture of {K} components in {', '.join(str(tensor.dtype) for tensor in tensors)}: "
            f"it computes up to {MOST_COMPONENTS} of them, in float32 on the CPU"
        )
    return False


class _LogDensity(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, half_bin: float, *inputs: Tensor) -> Tensor:
        logits, x = inputs[0], inputs[-1]
        out = torch.empty_like(x)
        shape = _shape(logits, x, half_bin)
        loaded().mixture_log_density(ctypes.byref(shape), _addresses(inputs), address(out))
        ctx.half_bin = half_bin
        ctx.save_for_backward(*inputs)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs, grad = ctx.saved_tensors, grad.contiguous()
        slopes = [torch.empty_like(tensor) for tensor in inputs]
        shape = _shape(inputs[0], inputs[-1], ctx.half_bin)
        addresses = (_addresses(inputs), address(grad), _addresses(slopes))
        loaded().mixture_log_density_backward(ctypes.byref(shape), *addresses)
        return None, *slopes


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, half_bin: float, training: bool, *inputs: Tensor) -> Tensor:
        logits, loc, draws = inputs[0], inputs[3], inputs[-1]
        out = torch.empty_like(loc)
        slopes = [torch.empty_like(tensor) for tensor in inputs[:-1]] if training else []
        shape = _shape(logits, draws, half_bin)
        loaded().mixture_cross_entropy(ctypes.byref(shape), _addresses(inputs), address(out), _addresses(slopes))
        ctx.save_for_backward(*slopes)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        components, student = ctx.saved_tensors[:3], ctx.saved_tensors[3:]
        components, student = [grad[..., None] * slope for slope in components], [grad * slope for slope in student]
        return None, None, *components, *student, None


def _shape(logits: Tensor, values: Tensor, half_bin: float) -> Shape:
    K, N = logits.shape[-1], values.shape[-1]
    return Shape(logits.numel() // K, K, N, torch.get_num_threads(), half_bin)


def _addresses(tensors: Sequence[Tensor]) -> ctypes.Array[ctypes.c_void_p] | None:
    """An array of pointers; the null pointer where there are no tensors."""
    return (ctypes.c_void_p * len(tensors))(*map(address, tensors)) if tensors else None
