"""Mixtures of logistics on a GPU, float32: nothing of size N K is stored, forward or backward.

The log density computes its terms again in the backward pass. The cross-entropy is one number a row, so that the pass
that computes it gives its gradients too, and the backward pass only scales them.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor

from wavenet.kernels import reference
from wavenet.kernels import triton_mixture_kernels as kernels
from wavenet.kernels.backend import forced_backend, needs_gradient
from wavenet.kernels.triton_launch import Launch

MOST_COMPONENTS = 256  # a warp's registers hold one such mixture and its sums
TILE = 256  # components x mixtures that a program computes, 8 a thread
MOST_ROWS = 32  # with more, a thread would have more than one mixture


def logistic_mixture_log_density(
    logits: Tensor, means: Tensor, log_scales: Tensor, x: Tensor, half_bin: float
) -> Tensor:
    """`reference.logistic_mixture_log_density`, which also computes the dtypes that the kernel has not."""
    tensors = (logits, means, log_scales, x)
    if not _has(tensors):
        return reference.logistic_mixture_log_density(*tensors, half_bin)
    R = math.prod(logits.shape[:-1])
    return _log_density(*(tensor.reshape(R, tensor.shape[-1]) for tensor in tensors), half_bin).view(x.shape)


def logistic_mixture_cross_entropy(
    logits: Tensor, means: Tensor, log_scales: Tensor, loc: Tensor, log_scale: Tensor, draws: Tensor, half_bin: float
) -> Tensor:
    """`reference.logistic_mixture_cross_entropy`, which also computes the dtypes that the kernel has not."""
    tensors = (logits, means, log_scales, loc, log_scale, draws)
    if not _has(tensors):
        return reference.logistic_mixture_cross_entropy(*tensors, half_bin)
    R, student = loc.numel(), (loc.reshape(-1), log_scale.reshape(-1))
    mixtures = (tensor.reshape(R, tensor.shape[-1]) for tensor in (logits, means, log_scales))
    draws = draws.detach().reshape(R, draws.shape[-1])
    return _cross_entropy(*mixtures, *student, draws, half_bin, needs_gradient(tensors[:-1]))[0].view(loc.shape)


def _has(tensors: Sequence[Tensor]) -> bool:
    """Whether the kernel computes these, mixtures first.

    Raises:
        ValueError: it is forced to, and cannot.
    """
    K = tensors[0].shape[-1]
    if K <= MOST_COMPONENTS and all(tensor.dtype is torch.float32 for tensor in tensors):
        return True
    if forced_backend() is not None:
        raise ValueError(
            f"backend triton has no mixture of {K} components in {', '.join(str(tensor.dtype) for tensor in tensors)}: "
            f"it computes up to {MOST_COMPONENTS} of them, in float32; convert them, or use another backend"
        )
    return False


@torch.library.custom_op("wavenet::logistic_mixture_log_density", mutates_args=())
def _log_density(logits: Tensor, means: Tensor, log_scales: Tensor, x: Tensor, half_bin: float) -> Tensor:
    """Of mixtures (R, K) at x (R, N)."""
    out = _empty_density(logits, means, log_scales, x, half_bin)
    _density_launch([logits, means, log_scales, x], out, half_bin).run()
    return out


@_log_density.register_fake
def _empty_density(logits: Tensor, means: Tensor, log_scales: Tensor, x: Tensor, half_bin: float) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.custom_op("wavenet::logistic_mixture_log_density_backward", mutates_args=())
def _log_density_backward(
    grad: Tensor, logits: Tensor, means: Tensor, log_scales: Tensor, x: Tensor, half_bin: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    slopes = _empty_density_slopes(grad, logits, means, log_scales, x, half_bin)
    _density_backward_launch(grad, [logits, means, log_scales, x], slopes, half_bin).run()
    return slopes


@_log_density_backward.register_fake
def _empty_density_slopes(
    grad: Tensor, logits: Tensor, means: Tensor, log_scales: Tensor, x: Tensor, half_bin: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    logits, means, log_scales, x = (tensor.new_empty(tensor.shape) for tensor in (logits, means, log_scales, x))
    return logits, means, log_scales, x


def _save_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.half_bin = inputs
    ctx.save_for_backward(*tensors)


def _density_slopes(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *_log_density_backward(grad, *ctx.saved_tensors, ctx.half_bin), None


_log_density.register_autograd(_density_slopes, setup_context=_save_inputs)


@torch.library.custom_op("wavenet::logistic_mixture_cross_entropy", mutates_args=())
def _cross_entropy(
    logits: Tensor,
    means: Tensor,
    log_scales: Tensor,
    loc: Tensor,
    log_scale: Tensor,
    draws: Tensor,
    half_bin: float,
    slopes: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Of loc and log_scale (R,) with mixtures (R, K) by draws (R, N): the value (R,) and its gradients.

    Without `slopes` the gradients are empty tensors.
    """
    outs = _empty_entropy(logits, means, log_scales, loc, log_scale, draws, half_bin, slopes)
    _entropy_launch([logits, means, log_scales, loc, log_scale, draws], outs, half_bin, slopes).run()
    return outs


@_cross_entropy.register_fake
def _empty_entropy(
    logits: Tensor,
    means: Tensor,
    log_scales: Tensor,
    loc: Tensor,
    log_scale: Tensor,
    draws: Tensor,
    half_bin: float,
    slopes: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    inputs = (logits, means, log_scales, loc, log_scale)
    logits, means, log_scales, loc, log_scale = (t.new_empty(t.shape if slopes else 0) for t in inputs)
    return draws.new_empty(draws.shape[0]), logits, means, log_scales, loc, log_scale


def _save_slopes(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    slopes = output[1:]
    ctx.mark_non_differentiable(*slopes)
    ctx.save_for_backward(*slopes)


def _scaled_slopes(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    components, student = ctx.saved_tensors[:3], ctx.saved_tensors[3:]
    return *(grad[:, None] * slope for slope in components), *(grad * slope for slope in student), None, None, None


_cross_entropy.register_autograd(_scaled_slopes, setup_context=_save_slopes)


def _density_launch(inputs: Sequence[Tensor], out: Tensor, half_bin: float) -> Launch:
    tensors = dict(zip(("logits", "means", "log_scales", "x"), inputs, strict=True))
    return _launch(kernels.log_density_kernel, {**tensors, "out": out}, "x", half_bin)


def _density_backward_launch(
    grad: Tensor, inputs: Sequence[Tensor], slopes: Sequence[Tensor], half_bin: float
) -> Launch:
    tensors = dict(zip(("logits", "means", "log_scales", "x"), inputs, strict=True))
    grads = {f"{name}_grad": slope for name, slope in zip(tensors, slopes, strict=True)}
    return _launch(kernels.log_density_backward_kernel, {"grad": grad, **tensors, **grads}, "x", half_bin)


def _entropy_launch(inputs: Sequence[Tensor], outs: Sequence[Tensor], half_bin: float, slopes: bool) -> Launch:
    names = ("logits", "means", "log_scales", "loc", "log_scale")
    tensors: dict[str, Tensor | None] = dict(zip((*names, "draws"), inputs, strict=True))
    grads = {f"{name}_grad": slope if slopes else None for name, slope in zip(names, outs[1:], strict=True)}
    return _launch(kernels.cross_entropy_kernel, {**tensors, "out": outs[0], **grads}, "draws", half_bin)


def _launch(kernel: Any, tensors: dict[str, Tensor | None], values: str, half_bin: float) -> Launch:
    """values: the name of the tensor (R, N)."""
    logits, x = tensors["logits"], tensors[values]
    assert logits is not None and x is not None
    (R, K), N = logits.shape, x.shape[1]
    width = triton.next_power_of_2(K)
    rows = min(TILE // width, MOST_ROWS)
    return Launch(
        kernel,
        (triton.cdiv(R, rows),),
        {name: None if tensor is None else tensor.contiguous() for name, tensor in tensors.items()} | {"R": R},
        {"N": N, "K": K, "HALF_BIN": half_bin, "WIDTH": width, "ROWS": rows},
        warps=1,
    )


def compile_targets() -> dict[str, Launch]:
    """The launches for the published mixtures, of 10 components, and for the widest."""
    targets: dict[str, Launch] = {}
    for K in (10, MOST_COMPONENTS):
        mixtures, draws = [torch.empty(65536, K, device="meta")] * 3, torch.empty(65536, 100, device="meta")
        inputs = [*mixtures, draws[:, 0], draws[:, 0], draws]
        outs = [draws[:, 0], *inputs[:-1]]
        targets |= {
            f"mixture log density {K}": _density_launch([*mixtures, draws], draws, 2.0**-16),
            f"mixture log density backward {K}": _density_backward_launch(
                draws, [*mixtures, draws], [*mixtures, draws], 2.0**-16
            ),
            f"mixture cross-entropy {K}": _entropy_launch(inputs, outs, 2.0**-16, slopes=False),
            f"mixture cross-entropy with gradients {K}": _entropy_launch(inputs, outs, 2.0**-16, slopes=True),
        }
    return targets
