"""The public kernels: what each computes is `reference`'s to say; here the shapes are checked and a backend chosen."""

import sys
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor

from wavenet.kernels import native, reference
from wavenet.kernels.backend import Backend, best_backend, forced_backend


def gated_activation(hidden: Tensor, bias: Tensor | None, frames: Tensor | None, hop: int, offset: int = 0) -> Tensor:
    """tanh(a) * sigmoid(b), where (a, b) are the two halves of hidden + bias + condition: `reference.gated_activation`.

    Raises:
        ValueError: shapes that do not fit; a forced backend that cannot compute these tensors.
    """
    if hidden.dim() != 3 or hidden.shape[2] % 2:
        raise ValueError(f"hidden is {tuple(hidden.shape)}; it must be (B, T, 2G)")
    width = hidden.shape[2]
    _check("bias", bias, (width,))
    _check_frames(frames, hidden, width, hop, offset)
    return _module("gate", hidden).gated_activation(hidden, bias, frames, hop, offset)


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
    """Dilated convolution, gate, residual and skip of one layer: `reference.residual_layer`.

    Raises:
        ValueError: shapes that do not fit; a forced backend that cannot compute these tensors.
    """
    if x.dim() != 3:
        raise ValueError(f"x is {tuple(x.shape)}; it must be (B, T, C)")
    B, T, C = x.shape
    if weight.dim() != 2 or weight.shape[0] % 2 or weight.shape[1] % C:
        raise ValueError(f"weight is {tuple(weight.shape)}; for x (B, T, {C}) it must be (2G, K * {C})")
    if out_weight.dim() != 2 or out_weight.shape[0] < C:
        raise ValueError(f"out_weight is {tuple(out_weight.shape)}; for x (B, T, {C}) it must have {C} rows or more")
    width, outs = weight.shape[0], out_weight.shape[0]
    _check("bias", bias, (width,))
    _check("out_weight", out_weight, (outs, width // 2))
    _check("out_bias", out_bias, (outs,))
    _check("skips", skips, (B, T, outs - C))
    _check_frames(frames, x, width, hop, offset)
    if dilation < 1:
        raise ValueError(f"dilation is {dilation}; it must be at least 1")
    layer = _module("layer", x).residual_layer
    return layer(x, skips, weight, bias, frames, out_weight, out_bias, dilation, hop, offset)


def logistic_mixture_log_density(
    logits: Tensor, means: Tensor, log_scales: Tensor, x: Tensor, half_bin: float
) -> Tensor:
    """Log density of mixtures of smoothed logistics, N values each: `reference.logistic_mixture_log_density`.

    Raises:
        ValueError: shapes that do not fit; a forced backend that cannot compute these tensors.
    """
    _check_mixture(logits, means, log_scales)
    _check_values("x", x, logits)
    return _module("mixture", logits).logistic_mixture_log_density(logits, means, log_scales, x, half_bin)


def logistic_mixture_cross_entropy(
    logits: Tensor, means: Tensor, log_scales: Tensor, loc: Tensor, log_scale: Tensor, draws: Tensor, half_bin: float
) -> Tensor:
    """-E[ln p(x)] of logistic variables x under mixtures p: `reference.logistic_mixture_cross_entropy`.

    Raises:
        ValueError: shapes that do not fit; a forced backend that cannot compute these tensors.
    """
    _check_mixture(logits, means, log_scales)
    for name, tensor in (("loc", loc), ("log_scale", log_scale)):
        _check(name, tensor, tuple(logits.shape[:-1]))
    _check_values("draws", draws, logits)
    if draws.shape[-1] < 1:
        raise ValueError(f"draws is {tuple(draws.shape)}; a mean needs one or more draws of each mixture")
    entropy = _module("mixture", logits).logistic_mixture_cross_entropy
    return entropy(logits, means, log_scales, loc, log_scale, draws, half_bin)


def _module(op: str, tensor: Tensor) -> ModuleType:
    """Whose implementation computes `op` on a tensor like this; the reference's where the best backend has none."""
    return sys.modules[_choice(op, tensor.device, tensor.dtype)]


def _choice(op: str, device: torch.device, dtype: torch.dtype) -> str:
    forced = forced_backend()
    backend = best_backend(device, dtype) if forced is None else forced
    if backend is Backend.reference:
        return reference.__name__
    name = f"wavenet.kernels.{'cpu' if backend is Backend.native else 'triton'}_{op}"
    if forced is None and find_spec(name) is None:
        return reference.__name__
    if device.type != ("cpu" if backend is Backend.native else "cuda"):
        raise ValueError(f"backend {backend} cannot compute on {device}: use another, or move the tensors")
    if backend is Backend.native and dtype not in native.DTYPES:
        raise ValueError(f"backend native computes float32 and bfloat16, not {dtype}: use backend reference")
    if backend is Backend.native and native.library() is None:
        raise ValueError("backend native needs a C compiler: install gcc, or use backend reference")
    return import_module(name).__name__


# A compiled function keeps the backend that it was compiled under. This is `torch.compiler.assume_constant_result`,
# which would import the compiler: a second, and most who speak never compile.
_choice._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _check(name: str, tensor: Tensor | None, shape: tuple[int, ...]) -> None:
    if tensor is not None and tuple(tensor.shape) != shape:
        raise ValueError(f"{name} is {tuple(tensor.shape)}; it must be {shape}")


def _check_mixture(logits: Tensor, means: Tensor, log_scales: Tensor) -> None:
    if logits.dim() < 1 or logits.shape[-1] < 1:
        raise ValueError(f"logits is {tuple(logits.shape)}; a mixture needs one or more components, (.., K)")
    for name, tensor in (("means", means), ("log_scales", log_scales)):
        _check(name, tensor, tuple(logits.shape))


def _check_values(name: str, values: Tensor, logits: Tensor) -> None:
    """values must be (.., N) for logits (.., K)."""
    rows = tuple(logits.shape[:-1])
    if values.dim() != logits.dim() or tuple(values.shape[:-1]) != rows:
        wanted = ", ".join([*map(str, rows), "N"])
        raise ValueError(f"{name} is {tuple(values.shape)}; it must be ({wanted})")


def _check_frames(frames: Tensor | None, x: Tensor, width: int, hop: int, offset: int) -> None:
    if frames is None:
        return
    B, T = x.shape[:2]
    L = frames.shape[1] if frames.dim() == 3 else 1
    _check("frames", frames, (B, L, width))
    if L < 1 or hop < 1:
        raise ValueError(f"{L} frames of hop {hop}: there must be one frame or more, of one sample or more")
    if L > 1 and not 0 <= offset <= offset + T <= L * hop:
        raise ValueError(f"samples {offset}..{offset + T} asked for, but {L} frames of hop {hop} span 0..{L * hop}")
