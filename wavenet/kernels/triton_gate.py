# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
# ruff: noqa: N803 (capital letters name tensor sizes and compile-time constants)
"""The gated activation on a GPU: one kernel forward, one backward, each at one pass over memory.

Saved for the backward pass are the inputs alone; tanh and sigmoid are computed again. The gradients of the bias and of
the frames are sums a tile (see `triton_tiles`), added up in an order that never changes: the same bits every time.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from wavenet.kernels.triton_launch import Launch, check_dtype
from wavenet.kernels.triton_tiles import NUMBERS, Tiles, condition, gate, gate_grad, locate, store_sums

TILE = 4096  # samples x channels of each half that a program computes
MOST_ROWS, MOST_CHANNELS, WARPS = 64, 128, 8


def gated_activation(hidden: Tensor, bias: Tensor | None, frames: Tensor | None, hop: int, offset: int = 0) -> Tensor:
    """`reference.gated_activation`, computed in float32."""
    check_dtype(hidden=hidden, bias=bias, frames=frames)
    return _gated_activation(hidden, bias, frames, hop, offset)


@torch.library.custom_op("wavenet::gated_activation", mutates_args=())
def _gated_activation(hidden: Tensor, bias: Tensor | None, frames: Tensor | None, hop: int, offset: int) -> Tensor:
    out = _empty_output(hidden, bias, frames, hop, offset)
    _forward(hidden, bias, frames, out, hop, offset).run()
    return out


@_gated_activation.register_fake
def _empty_output(hidden: Tensor, bias: Tensor | None, frames: Tensor | None, hop: int, offset: int) -> Tensor:
    B, T, width = hidden.shape
    return hidden.new_empty(B, T, width // 2)


@torch.library.custom_op("wavenet::gated_activation_backward", mutates_args=())
def _gated_activation_backward(
    out_grad: Tensor, hidden: Tensor, bias: Tensor | None, frames: Tensor | None, hop: int, offset: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of hidden, bias and frames; of an input that is absent, an empty tensor."""
    hidden_grad, bias_grad, frames_grad = _empty_grads(out_grad, hidden, bias, frames, hop, offset)
    tiles = Tiles.of(hidden, frames, hop, offset, MOST_ROWS)
    summed = bias is not None or frames is not None
    sums = hidden.new_empty(tiles.count, 2, hidden.shape[2], dtype=torch.float32) if summed else None
    _backward(out_grad, hidden, bias, frames, hidden_grad, sums, tiles).run()
    if sums is not None and bias is not None:
        bias_grad.copy_(sums.sum(dim=(0, 1)))
    if sums is not None and frames is not None:
        frames_grad.copy_(tiles.frames_grad(sums))
    return hidden_grad, bias_grad, frames_grad


@_gated_activation_backward.register_fake
def _empty_grads(
    out_grad: Tensor, hidden: Tensor, bias: Tensor | None, frames: Tensor | None, hop: int, offset: int
) -> tuple[Tensor, Tensor, Tensor]:
    absent = hidden.new_empty(0)
    hidden_grad, bias_grad, frames_grad = (
        absent.clone() if tensor is None else tensor.new_empty(tensor.shape) for tensor in (hidden, bias, frames)
    )
    return hidden_grad, bias_grad, frames_grad


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    hidden, bias, frames, ctx.hop, ctx.offset = inputs
    ctx.save_for_backward(hidden, bias, frames)


def _grads(ctx: Any, out_grad: Tensor) -> tuple[Tensor | None, ...]:
    hidden, bias, frames = ctx.saved_tensors
    grads = _gated_activation_backward(out_grad, hidden, bias, frames, ctx.hop, ctx.offset)
    present = (None if tensor is None else grad for tensor, grad in zip((hidden, bias, frames), grads, strict=True))
    return (*present, None, None)


_gated_activation.register_autograd(_grads, setup_context=_save)


def _forward(hidden: Tensor, bias: Tensor | None, frames: Tensor | None, out: Tensor, hop: int, offset: int) -> Launch:
    tiles = Tiles.of(hidden, frames, hop, offset, MOST_ROWS)
    return _launch(_forward_kernel, tiles, {"hidden": hidden, "bias": bias, "frames": frames, "out": out})


def _backward(
    out_grad: Tensor,
    hidden: Tensor,
    bias: Tensor | None,
    frames: Tensor | None,
    hidden_grad: Tensor,
    sums: Tensor | None,
    tiles: Tiles,
) -> Launch:
    inputs = {"out_grad": out_grad, "hidden": hidden, "bias": bias, "frames": frames}
    return _launch(_backward_kernel, tiles, {**inputs, "hidden_grad": hidden_grad, "sums": sums})


def _launch(kernel: Any, tiles: Tiles, tensors: dict[str, Tensor | None]) -> Launch:
    hidden = tensors["hidden"]
    assert hidden is not None
    G = hidden.shape[2] // 2
    channels = min(TILE // tiles.rows, MOST_CHANNELS, triton.next_power_of_2(G))
    return Launch(
        kernel,
        (tiles.count, triton.cdiv(G, channels)),
        {
            **{name: None if tensor is None else tensor.contiguous() for name, tensor in tensors.items()},
            **tiles.arguments(),
        },
        {"G": G, "ROWS": tiles.rows, "CHANNELS": channels},
        warps=WARPS,
    )


@triton.jit(do_not_specialize=NUMBERS)
def _forward_kernel(
    hidden, bias, frames, out, L, T, first, begin, hop, segments, pieces,
    G: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    clip, left, t, inside, weight = locate(tl.program_id(0), T, first, begin, hop, segments, pieces, ROWS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    exists = channel < G
    present = inside[:, None] & exists[None, :]
    row = clip.to(tl.int64) * T + t
    here = hidden + row[:, None] * (2 * G) + channel[None, :]
    filtered = tl.load(here, mask=present, other=0.0).to(tl.float32)
    gating = tl.load(here + G, mask=present, other=0.0).to(tl.float32)
    filtered += condition(bias, frames, L, clip, left, weight, channel, exists, 2 * G)
    gating += condition(bias, frames, L, clip, left, weight, G + channel, exists, 2 * G)
    tanh, sigmoid = gate(filtered, gating)
    tl.store(out + row[:, None] * G + channel[None, :], tanh * sigmoid, mask=present)


@triton.jit(do_not_specialize=NUMBERS)
def _backward_kernel(
    out_grad, hidden, bias, frames, hidden_grad, sums, L, T, first, begin, hop, segments, pieces,
    G: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    clip, left, t, inside, weight = locate(tl.program_id(0), T, first, begin, hop, segments, pieces, ROWS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    exists = channel < G
    present = inside[:, None] & exists[None, :]
    row = clip.to(tl.int64) * T + t
    here = row[:, None] * (2 * G) + channel[None, :]
    filtered = tl.load(hidden + here, mask=present, other=0.0).to(tl.float32)
    gating = tl.load(hidden + here + G, mask=present, other=0.0).to(tl.float32)
    filtered += condition(bias, frames, L, clip, left, weight, channel, exists, 2 * G)
    gating += condition(bias, frames, L, clip, left, weight, G + channel, exists, 2 * G)
    tanh, sigmoid = gate(filtered, gating)
    grad = tl.load(out_grad + row[:, None] * G + channel[None, :], mask=present, other=0.0).to(tl.float32)
    filtered_grad, gating_grad = gate_grad(grad, tanh, sigmoid)
    tl.store(hidden_grad + here, filtered_grad, mask=present)
    tl.store(hidden_grad + here + G, gating_grad, mask=present)
    if sums is not None:
        mine = sums + tl.program_id(0).to(tl.int64) * (4 * G)
        store_sums(mine, filtered_grad, weight, channel, exists, 2 * G)
        store_sums(mine, gating_grad, weight, G + channel, exists, 2 * G)


def compile_targets() -> dict[str, Launch]:
    """The launches for the paper's sizes: 64 gates, a hop of 256."""
    targets = {}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        hidden = torch.empty(16, 65536, 128, dtype=dtype, device="meta")
        bias, frames = hidden.new_empty(128), hidden.new_empty(16, 256, 128)
        out = _empty_output(hidden, bias, frames, 256, 0)
        tiles = Tiles.of(hidden, frames, 256, 0, MOST_ROWS)
        sums = hidden.new_empty(tiles.count, 2, 128, dtype=torch.float32)
        kind = str(dtype).removeprefix("torch.")
        targets[f"gated_activation {kind}"] = _forward(hidden, bias, frames, out, 256, 0)
        targets[f"gated_activation backward {kind}"] = _backward(
            out, hidden, bias, frames, torch.empty_like(hidden), sums, tiles
        )
    return targets
