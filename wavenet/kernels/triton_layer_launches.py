"""With which tiles the kernels of the residual layer run, and how many registers that leaves them."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from wavenet.kernels import triton_layer_kernels as kernels
from wavenet.kernels.triton_launch import Launch
from wavenet.kernels.triton_tiles import Tiles

PROGRAMS = 1024  # at most, for the gradient of a weight: several for each multiprocessor of any GPU
BLOCK = 64  # samples of a step in the sums over time
EACH = 8192  # samples x gates that eight warps sum up, 64 registers a thread for both halves; more take sixteen

_OPERANDS = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}


def forward_tiles(x: Tensor, weight: Tensor, frames: Tensor | None, hop: int, offset: int) -> Tiles:
    """For x (B, T, C): as many samples a tile as registers hold the sums of both halves of all gates of.

    64 samples are what Hopper's matrix unit takes at least, and a tile reads all weights: of fewer, those of a wide
    layer are read too often.
    """
    return _tiles(x, weight, frames, hop, offset, least_rows=64, most_rows=128)


def backward_tiles(x: Tensor, weight: Tensor, frames: Tensor | None, hop: int, offset: int) -> Tiles:
    """For a third sum, of the gradient."""
    return _tiles(x, weight, frames, hop, offset, least_rows=16, most_rows=64)


def _tiles(
    x: Tensor, weight: Tensor, frames: Tensor | None, hop: int, offset: int, least_rows: int, most_rows: int
) -> Tiles:
    gates = _block(weight.shape[0] // 2)
    if weight.dtype is torch.float32:
        return Tiles.of(x, frames, hop, offset, min(32, 4096 // gates))
    return Tiles.of(x, frames, hop, offset, max(least_rows, min(most_rows, EACH // gates)))


def forward(
    x: Tensor,
    skips: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    frames: Tensor | None,
    out_weight: Tensor,
    out_bias: Tensor,
    y: Tensor,
    skips_out: Tensor,
    dilation: int,
    tiles: Tiles,
) -> Launch:
    inputs = {"x": x, "skips": skips, "weight": weight, "bias": bias, "frames": frames, "out_weight": out_weight}
    tensors = {**inputs, "out_bias": out_bias, "y": y, "skips_out": skips_out}
    return _gated_launch(kernels.forward_kernel, tensors, x, weight, out_weight, dilation, tiles, _chunk(weight))


def pre_grad(
    y_grad: Tensor,
    skips_grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    frames: Tensor | None,
    out_weight: Tensor,
    gate_grad: Tensor,
    gated: Tensor | None,
    frame_sums: Tensor | None,
    out_sums: Tensor | None,
    dilation: int,
    tiles: Tiles,
) -> Launch:
    """gated, frame_sums and out_sums are written where they are given."""
    inputs = {"x": x, "weight": weight, "bias": bias, "frames": frames, "out_weight": out_weight}
    outputs = {"pre_grad": gate_grad, "gated": gated, "frame_sums": frame_sums, "out_sums": out_sums}
    tensors: dict[str, Tensor | None] = {"y_grad": y_grad, "skips_grad": skips_grad, **inputs, **outputs}
    return _gated_launch(kernels.pre_grad_kernel, tensors, x, weight, out_weight, dilation, tiles, _chunk(weight) // 2)


def input_grad(y_grad: Tensor, gate_grad: Tensor, weight: Tensor, x_grad: Tensor, dilation: int) -> Launch:
    B, T, C = x_grad.shape
    precise = weight.dtype is torch.float32
    rows, channels = 32 if precise else 128, min(_block(C), 64 if precise else 128)
    blocks = triton.cdiv(T, rows)
    return Launch(
        kernels.input_grad_kernel,
        (B * blocks, triton.cdiv(C, channels)),
        {"y_grad": y_grad, "pre_grad": gate_grad, "weight": weight, "x_grad": x_grad}
        | {"T": T, "blocks": blocks, "dilation": dilation},
        {"C": C, "G": weight.shape[0] // 2, "TAPS": weight.shape[1] // C}
        | {"ROWS": rows, "CHANNELS": channels, "CHUNK": min(_block(weight.shape[0]), _chunk(weight))},
        warps=8,
    )


def parts(view: Tensor, weight: Tensor) -> int:
    """In how many sums over time the gradient of a weight (M, K N) that reads view (B, T, N) is taken.

    As many as these sizes say, whatever the GPU.
    """
    return triton.cdiv(_blocks(view), _share(view, *weight.shape))


def weight_grad(grad: Tensor, view: Tensor, sums: Tensor, operand: torch.dtype, dilation: int) -> Launch:
    """Into sums (parts, M, K N), from grad (B, T, M) and view (B, T, N), with products of type `operand`."""
    (_, T, N), (count, M, columns) = view.shape, sums.shape
    numbers = {"T": T, "blocks": triton.cdiv(T, BLOCK), "count": _blocks(view), "dilation": dilation}
    blocks = {"SHARE": _share(view, M, columns), "ROWS": BLOCK, "OUTS": _width(M), "INS": _width(N)}
    return Launch(
        kernels.weight_grad_kernel,
        (triton.cdiv(M, _width(M)) * triton.cdiv(N, _width(N)), columns // N, count),
        {"grad": grad, "view": view, "sums": sums} | numbers,
        {"M": M, "N": N, "TAPS": columns // N, "OPERAND": _OPERANDS[operand]} | blocks,
        warps=8 if operand is torch.float32 else 4,
    )


def _blocks(view: Tensor) -> int:
    return view.shape[0] * triton.cdiv(view.shape[1], BLOCK)


def _share(view: Tensor, rows: int, columns: int) -> int:
    """Blocks of samples a part: a power of two, so that few kernels are compiled for many lengths."""
    N = view.shape[2]
    tiles = triton.cdiv(rows, _width(rows)) * triton.cdiv(N, _width(N)) * (columns // N)
    return triton.next_power_of_2(triton.cdiv(_blocks(view), max(1, PROGRAMS // tiles)))


def _width(channels: int) -> int:
    """Channels of a tile of a weight's gradient, on either side."""
    return min(_block(channels), 64)


def _gated_launch(
    kernel: object,
    tensors: dict[str, Tensor | None],
    x: Tensor,
    weight: Tensor,
    out_weight: Tensor,
    dilation: int,
    tiles: Tiles,
    outs: int,
) -> Launch:
    """A kernel that computes all gates of a tile, and reads or writes `outs` channels at a time."""
    C, G = x.shape[2], weight.shape[0] // 2
    S = out_weight.shape[0] - C
    blocks = {"GATES": _block(G), "CHUNK": min(_block(C), _chunk(weight)), "OUTS": min(_block(max(C, S)), outs)}
    return Launch(
        kernel,
        (tiles.count,),
        {name: None if tensor is None else tensor.contiguous() for name, tensor in tensors.items()}
        | {"dilation": dilation}
        | tiles.arguments(),
        {"C": C, "G": G, "S": S, "TAPS": weight.shape[1] // C, "ROWS": tiles.rows} | blocks,
        warps=16 if tiles.rows * blocks["GATES"] > EACH else 8,
    )


def _chunk(weight: Tensor) -> int:
    """Channels that a product takes at a time."""
    return 32 if weight.dtype is torch.float32 else 64


def _block(width: int) -> int:
    """The power of two that holds this many channels; a product takes 16 at least."""
    return max(16, triton.next_power_of_2(width))


def compile_targets() -> dict[str, Launch]:
    """The launches for narrow and wide layers, named by their channels: residual, gates, skip."""
    half = torch.bfloat16
    cases = [((64, 64, 0), half), ((128, 128, 128), half), ((512, 256, 256), half)]
    targets: dict[str, Launch] = {}
    for sizes, dtype in (*cases, ((32, 32, 0), torch.float16), ((40, 48, 24), torch.float32)):
        name = "{}-{}-{} ".format(*sizes) + str(dtype).removeprefix("torch.")
        targets |= {f"residual_layer {part} {name}": launch for part, launch in _launches(sizes, dtype).items()}
    return targets


def _launches(sizes: tuple[int, int, int], dtype: torch.dtype) -> dict[str, Launch]:
    C, G, S = sizes
    x = torch.empty(16, 65536, C, dtype=dtype, device="meta")
    skips, gated, gate_grad = (x.new_empty(*x.shape[:2], width) for width in (S, G, 2 * G))
    weight, bias, frames = x.new_empty(2 * G, 3 * C), x.new_empty(2 * G), x.new_empty(16, 256, 2 * G)
    out_weight, out_bias = x.new_empty(C + S, G), x.new_empty(C + S)
    before, after = forward_tiles(x, weight, frames, 256, 0), backward_tiles(x, weight, frames, 256, 0)
    frame_sums, out_sums, weight_sums = (
        x.new_empty(size, dtype=torch.float32)
        for size in ((after.count, 2, 2 * G), (after.count, C + S), (parts(x, weight), *weight.shape))
    )
    return {
        "forward": forward(x, skips, weight, bias, frames, out_weight, out_bias, x, skips, 512, before),
        "gate gradient": pre_grad(
            *(x, skips, x, weight, bias, frames, out_weight, gate_grad, gated, frame_sums, out_sums, 512, after)
        ),
        "gate gradient, frozen": pre_grad(
            *(x, skips, x, weight, bias, frames, out_weight, gate_grad, None, None, None, 512, after)
        ),
        "input gradient": input_grad(x, gate_grad, weight, x, 512),
        "weight gradient": weight_grad(gate_grad, x, weight_sums, dtype, 512),
    }
