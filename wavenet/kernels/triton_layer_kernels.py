# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
# ruff: noqa: N803 (capital letters name tensor sizes and compile-time constants)
"""The kernels of `triton_layer`: a tile of samples by all gate channels in registers, sums in float32.

Products are of the weights' type; activations of another are converted as they are read. "ieee" asks for products of
float32 as such, where the tensor cores would drop 13 of their bits.
"""

import triton
import triton.language as tl

from wavenet.kernels.triton_tiles import NUMBERS, condition, gate, gate_grad, locate, store_sums


@triton.jit(do_not_specialize=[*NUMBERS, "dilation"])
def forward_kernel(
    x, skips, weight, bias, frames, out_weight, out_bias, y, skips_out,
    L, T, first, begin, hop, segments, pieces, dilation,
    C: tl.constexpr, G: tl.constexpr, S: tl.constexpr, TAPS: tl.constexpr,
    ROWS: tl.constexpr, GATES: tl.constexpr, CHUNK: tl.constexpr, OUTS: tl.constexpr,
):  # fmt: skip
    """y and skips_out of a tile."""
    clip, left, t, inside, right_weight = locate(tl.program_id(0), T, first, begin, hop, segments, pieces, ROWS)
    filtered, gating = _convolution(x, weight, clip, t, T, inside, dilation, C, G, TAPS, ROWS, GATES, CHUNK)
    channel = tl.arange(0, GATES)
    filtered += condition(bias, frames, L, clip, left, right_weight, channel, channel < G, 2 * G)
    gating += condition(bias, frames, L, clip, left, right_weight, G + channel, channel < G, 2 * G)
    tanh, sigmoid = gate(filtered, gating)
    gated = (tanh * sigmoid).to(weight.dtype.element_ty)
    row = clip.to(tl.int64) * T + t
    _add_output(gated, out_weight, out_bias, x, y, row, inside, 0, C, G, GATES, OUTS)
    if S > 0:
        _add_output(gated, out_weight, out_bias, skips, skips_out, row, inside, C, S, G, GATES, OUTS)


@triton.jit(do_not_specialize=[*NUMBERS, "dilation"])
def pre_grad_kernel(
    y_grad, skips_grad, x, weight, bias, frames, out_weight, pre_grad, gated, frame_sums, out_sums,
    L, T, first, begin, hop, segments, pieces, dilation,
    C: tl.constexpr, G: tl.constexpr, S: tl.constexpr, TAPS: tl.constexpr,
    ROWS: tl.constexpr, GATES: tl.constexpr, CHUNK: tl.constexpr, OUTS: tl.constexpr,
):  # fmt: skip
    """The gradient of what the gate reads, what the gate gave, and the sums for frames and out_bias, of a tile.

    The last three where there is a place for them.
    """
    tile = tl.program_id(0).to(tl.int64)
    clip, left, t, inside, right_weight = locate(tl.program_id(0), T, first, begin, hop, segments, pieces, ROWS)
    filtered, gating = _convolution(x, weight, clip, t, T, inside, dilation, C, G, TAPS, ROWS, GATES, CHUNK)
    channel = tl.arange(0, GATES)
    exists = channel < G
    filtered += condition(bias, frames, L, clip, left, right_weight, channel, exists, 2 * G)
    gating += condition(bias, frames, L, clip, left, right_weight, G + channel, exists, 2 * G)
    tanh, sigmoid = gate(filtered, gating)
    row = clip.to(tl.int64) * T + t
    present = inside[:, None] & exists[None, :]
    if gated is not None:
        tl.store(gated + row[:, None] * G + channel[None, :], tanh * sigmoid, mask=present)

    grad = tl.zeros([ROWS, GATES], tl.float32)
    sums = out_sums
    if out_sums is not None:
        sums = out_sums + tile * (C + S)
    grad = _output_grad(grad, out_weight, y_grad, sums, row, inside, 0, C, G, GATES, OUTS)
    if S > 0:
        grad = _output_grad(grad, out_weight, skips_grad, sums, row, inside, C, S, G, GATES, OUTS)
    filtered_grad, gating_grad = gate_grad(grad, tanh, sigmoid)
    here = pre_grad + row[:, None] * (2 * G) + channel[None, :]
    tl.store(here, filtered_grad, mask=present)
    tl.store(here + G, gating_grad, mask=present)
    if frame_sums is not None:
        store_sums(frame_sums + tile * (4 * G), filtered_grad, right_weight, channel, exists, 2 * G)
        store_sums(frame_sums + tile * (4 * G), gating_grad, right_weight, G + channel, exists, 2 * G)


@triton.jit(do_not_specialize=["T", "blocks", "dilation"])
def input_grad_kernel(
    y_grad, pre_grad, weight, x_grad,
    T, blocks, dilation,
    C: tl.constexpr, G: tl.constexpr, TAPS: tl.constexpr,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """x_grad[t] = y_grad[t] + sum_k pre_grad[t + (K - 1 - k) dilation] W_k, of a tile."""
    clip = (tl.program_id(0) // blocks).to(tl.int64)
    t = tl.program_id(0) % blocks * ROWS + tl.arange(0, ROWS)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    chunks: tl.constexpr = (2 * G + CHUNK - 1) // CHUNK
    total = tl.zeros([ROWS, CHANNELS], tl.float32)
    for step in range(TAPS * chunks):
        tap = step // chunks
        g = step % chunks * CHUNK + tl.arange(0, CHUNK)
        later = t + (TAPS - 1 - tap) * dilation
        place = pre_grad + (clip * T + later)[:, None] * (2 * G) + g[None, :]
        grad = tl.load(place, mask=(later < T)[:, None] & (g < 2 * G)[None, :], other=0.0)
        matrix = weight + g[:, None] * (TAPS * C) + (tap * C + c)[None, :]
        matrix = tl.load(matrix, mask=(g < 2 * G)[:, None] & (c < C)[None, :], other=0.0)
        total = tl.dot(grad, matrix, total, input_precision="ieee")
    here = (clip * T + t)[:, None] * C + c[None, :]
    present = (t < T)[:, None] & (c < C)[None, :]
    total += tl.load(y_grad + here, mask=present, other=0.0).to(tl.float32)
    tl.store(x_grad + here, total, mask=present)


@triton.jit(do_not_specialize=["T", "blocks", "count", "dilation"])
def weight_grad_kernel(
    grad, view, sums,
    T, blocks, count, dilation,
    M: tl.constexpr, N: tl.constexpr, TAPS: tl.constexpr,
    SHARE: tl.constexpr, ROWS: tl.constexpr, OUTS: tl.constexpr, INS: tl.constexpr, OPERAND: tl.constexpr,
):  # fmt: skip
    """sums[part, m, k N + n]: sum of grad[t, m] view[t - (K - 1 - k) dilation, n] over the part's share of blocks."""
    tap = tl.program_id(1)
    part = tl.program_id(2)
    across: tl.constexpr = (N + INS - 1) // INS
    m = tl.program_id(0) // across * OUTS + tl.arange(0, OUTS)
    n = tl.program_id(0) % across * INS + tl.arange(0, INS)
    total = tl.zeros([OUTS, INS], tl.float32)
    for step in range(SHARE):
        block = part * SHARE + step
        start = (block // blocks).to(tl.int64) * T
        t = block % blocks * ROWS + tl.arange(0, ROWS)
        inside = t < tl.where(block < count, T, 0)
        past = t - (TAPS - 1 - tap) * dilation
        left = tl.load(grad + (start + t)[:, None] * M + m[None, :], mask=inside[:, None] & (m < M)[None, :], other=0.0)
        right = tl.load(
            view + (start + past)[:, None] * N + n[None, :],
            mask=(inside & (past >= 0))[:, None] & (n < N)[None, :],
            other=0.0,
        )
        total = tl.dot(tl.trans(left.to(OPERAND)), right.to(OPERAND), total, input_precision="ieee")
    place = sums + part * (M * TAPS * N) + m[:, None] * (TAPS * N) + (tap * N + n)[None, :]
    tl.store(place, total, mask=(m < M)[:, None] & (n < N)[None, :])


@triton.jit
def _convolution(
    x, weight, clip, t, T, inside, dilation,
    C: tl.constexpr, G: tl.constexpr, TAPS: tl.constexpr,
    ROWS: tl.constexpr, GATES: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Both halves of the dilated convolution of a tile, (ROWS, GATES) each."""
    chunks: tl.constexpr = (C + CHUNK - 1) // CHUNK
    channel = tl.arange(0, GATES)
    filtered = tl.zeros([ROWS, GATES], tl.float32)
    gating = tl.zeros([ROWS, GATES], tl.float32)
    for step in range(TAPS * chunks):
        tap = step // chunks
        c = step % chunks * CHUNK + tl.arange(0, CHUNK)
        past = t - (TAPS - 1 - tap) * dilation
        place = x + (clip.to(tl.int64) * T + past)[:, None] * C + c[None, :]
        view = tl.load(place, mask=(inside & (past >= 0))[:, None] & (c < C)[None, :], other=0.0)
        view = view.to(weight.dtype.element_ty)
        matrix = weight + (tap * C + c)[:, None] + channel[None, :] * (TAPS * C)
        exists = (c < C)[:, None] & (channel < G)[None, :]
        filtered = tl.dot(view, tl.load(matrix, mask=exists, other=0.0), filtered, input_precision="ieee")
        gate_matrix = tl.load(matrix + G * TAPS * C, mask=exists, other=0.0)
        gating = tl.dot(view, gate_matrix, gating, input_precision="ieee")
    return filtered, gating


@triton.jit
def _add_output(
    gated, out_weight, out_bias, before, after, row, inside,
    FIRST: tl.constexpr, WIDTH: tl.constexpr, G: tl.constexpr, GATES: tl.constexpr, OUTS: tl.constexpr,
):  # fmt: skip
    """after = before + what the rows FIRST .. FIRST + WIDTH of out_weight make of a tile's gated units."""
    channel = tl.arange(0, GATES)
    for start in range(0, WIDTH, OUTS):
        n = start + tl.arange(0, OUTS)
        exists = n < WIDTH
        matrix = out_weight + (FIRST + n)[None, :] * G + channel[:, None]
        matrix = tl.load(matrix, mask=(channel < G)[:, None] & exists[None, :], other=0.0)
        total = tl.dot(gated, matrix, input_precision="ieee")
        total += tl.load(out_bias + FIRST + n, mask=exists, other=0.0).to(tl.float32)[None, :]
        here = row[:, None] * WIDTH + n[None, :]
        present = inside[:, None] & exists[None, :]
        if before is not None:
            total += tl.load(before + here, mask=present, other=0.0).to(tl.float32)
        tl.store(after + here, total, mask=present)


@triton.jit
def _output_grad(
    total, out_weight, grad, sums, row, inside,
    FIRST: tl.constexpr, WIDTH: tl.constexpr, G: tl.constexpr, GATES: tl.constexpr, OUTS: tl.constexpr,
):  # fmt: skip
    """Adds the share of these rows of out_weight to the gradient of the gated units; stores any sums for out_bias."""
    channel = tl.arange(0, GATES)
    for start in range(0, WIDTH, OUTS):
        n = start + tl.arange(0, OUTS)
        exists = n < WIDTH
        here = grad + row[:, None] * WIDTH + n[None, :]
        tile = tl.load(here, mask=inside[:, None] & exists[None, :], other=0.0)
        if sums is not None:
            tl.store(sums + FIRST + n, tl.sum(tile.to(tl.float32), axis=0), mask=exists)
        matrix = out_weight + (FIRST + n)[:, None] * G + channel[None, :]
        matrix = tl.load(matrix, mask=exists[:, None] & (channel < G)[None, :], other=0.0)
        total = tl.dot(tile.to(matrix.dtype), matrix, total, input_precision="ieee")
    return total
