"""A teacher's weights as contiguous arrays, in the order in which a sequential loop reads them.

Every matrix is (in, out): its product with a vector adds rows, so that the inner loop runs over outputs, in order and
without a reduction, and vectorises without changing a sum's order. Panels of columns follow each other, so that memory
is read in one go, a quarter to a half faster than with the stride of a whole row. A layer is cut in two parts, of half
of the gated channels each, which two threads can compute: a part reads the whole input of the layer, and its share of
the layer's output is a sum over its own gated channels. Outputs are padded with zeros to whole vectors.
"""

from enum import StrEnum
from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from data import mulaw
from wavenet.distributions import OutputConfig, OutputKind
from wavenet.layers import GatedResidualBlock
from wavenet.network import AutoregressiveNetwork

Array = npt.NDArray[np.floating]

LANES = 16  # columns that are computed as one vector
WORD = 2 * LANES  # columns whose bfloat16 weights share a vector of 32-bit words
PANEL = 4 * LANES  # columns of a matrix that lie side by side in memory
PARTS = 2

MULAW, MOL, GAUSSIAN = range(3)  # compiled code compares numbers, not strings
_KINDS = {OutputKind.mulaw: MULAW, OutputKind.mol: MOL, OutputKind.gaussian: GAUSSIAN}


class Weights(StrEnum):
    """How the sampler keeps the matrices. All sums are in the model's own dtype.

    exact: as the model does. bfloat16: those of the layers and of the hidden layer of the head rounded to 8 bits of
    mantissa, which halves the memory to be read for every sample; the way in, the way out, biases and conditions stay.
    """

    exact = "exact"
    bfloat16 = "bfloat16"


class PackedNetwork(NamedTuple):
    """Weights of an `AutoregressiveNetwork`. N layers, C residual, G gate (both halves), S skip channels, K taps, E
    channels of excitation.

    Q is G / 4 padded, the gated channels of a part; an apostrophe means padded to a multiple of WORD. in * out stands
    for the panels of a matrix, in half as many elements if they are bfloat16. The biases of the dilated convolutions
    are not here: they are part of the packed frames.
    """

    kernel: int  # K
    dilations: npt.NDArray[np.int64]  # (N,)
    ring_starts: npt.NDArray[np.int64]  # (N,), a layer's first row of the ring buffers
    first_weight: Array  # (C,)
    excitation_weight: Array  # (E, C)
    first_bias: Array  # (C,)
    taps: Array  # (N, 2, K C * 2 Q), oldest tap first; both halves of the gate beside each other
    residual_weight: Array  # (N, 2, Q * C')
    residual_bias: Array  # (2, N, C'), zero for the second part
    skip_weight: Array  # (N, 2, Q * S')
    skip_bias: Array  # (2, 1, S'), the sum of all layers', zero for the second part
    hidden_weight: Array  # (H' * H'), where H = S, or C for a network without skip connections
    hidden_bias: Array  # (H',)
    last_weight: Array  # (H' * P')
    last_bias: Array  # (P',)


class PackedOutput(NamedTuple):
    """What a loop needs to know of the `OutputDistribution`."""

    kind: int  # MULAW, MOL or GAUSSIAN
    n_params: int  # P
    log_scale_floor: float
    unit: float
    levels: Array  # (256,), the amplitude of every mu-law class


def pack_network(network: AutoregressiveNetwork, weights: Weights) -> PackedNetwork:
    """The weights as numpy arrays on the CPU."""
    blocks = _blocks(network)
    reaches = np.array([block.conv.reach for block in blocks], dtype=np.int64)
    C = blocks[0].residual
    outs = [_parts(block.out.weight.T, dim=0) for block in blocks]  # (2, Q, C + S)
    out = torch.stack(outs)
    out_bias = torch.stack([block.out.bias for block in blocks])
    hidden = _padded(_padded(network.hidden.weight.T, 0, WORD), 1, WORD)
    return PackedNetwork(
        kernel=blocks[0].conv.kernel_size,
        dilations=np.array([block.conv.dilation for block in blocks], dtype=np.int64),
        ring_starts=np.cumsum(reaches) - reaches,
        first_weight=_array(network.first.weight[:, 0]),
        excitation_weight=_array(network.first.weight[:, 1:].T),
        first_bias=_array(network.first.bias),
        taps=_matrix(torch.stack([_gates(block.conv.weight.T) for block in blocks]), weights),
        residual_weight=_matrix(_padded(out[..., :C], -1, WORD), weights),
        residual_bias=_first_part(_padded(out_bias[:, :C], -1, WORD)),
        skip_weight=_matrix(_padded(out[..., C:], -1, WORD), weights),
        skip_bias=_first_part(_padded(out_bias[:, C:].sum(dim=0, keepdim=True), -1, WORD)),
        hidden_weight=_matrix(hidden, weights),
        hidden_bias=_array(_padded(network.hidden.bias, -1, WORD)),
        last_weight=_matrix(_padded(_padded(network.last.weight.T, 0, WORD), 1, WORD)),
        last_bias=_array(_padded(network.last.bias, -1, WORD)),
    )


def pack_frames(network: AutoregressiveNetwork, cond: Tensor | None) -> Array:
    """The condition (B, L, context), projected for every layer, plus that layer's bias: (B, L, N, 2, 2 Q).

    A constant passes through the interpolation unchanged, so the bias costs nothing there, and a network without
    condition is one whose single frame (1, 1, N, 2, 2 Q) holds the biases.
    """
    return _array(torch.cat([_frames(network, one) for one in ([None] if cond is None else cond[:, None])]))


def _frames(network: AutoregressiveNetwork, cond: Tensor | None) -> Tensor:
    """One utterance: (1, L, N, 2, 2 Q). The last bits of a matrix product depend on its number of rows."""
    layers = []
    for block in _blocks(network):
        frames = block.project(cond)
        bias = block.conv.bias
        layers.append(_gates(bias[None, None] if frames is None else frames + bias))  # (2, 1, L, 2 Q)
    return torch.stack(layers).permute(2, 3, 0, 1, 4)


def pack_output(config: OutputConfig, n_params: int, dtype: torch.dtype) -> PackedOutput:
    levels = mulaw.decode(torch.arange(mulaw.CLASSES), dtype)
    return PackedOutput(_KINDS[config.kind], n_params, config.log_scale_floor, config.unit, _array(levels))


def _blocks(network: AutoregressiveNetwork) -> list[GatedResidualBlock]:
    return [block for block in network.stack.blocks if isinstance(block, GatedResidualBlock)]


def _gates(x: Tensor) -> Tensor:
    """(.., G) -> (2, .., 2 Q): a part's channels of the tanh, then its channels of the sigmoid."""
    tanh, sigmoid = x.chunk(2, dim=-1)
    return torch.cat([_parts(tanh, dim=-1), _parts(sigmoid, dim=-1)], dim=-1)


def _parts(x: Tensor, dim: int) -> Tensor:
    """The G / 2 gated channels along `dim` as PARTS times Q: (2, ..)."""
    Q = -(-x.shape[dim] // (PARTS * LANES)) * LANES
    return torch.stack(_padded(x, dim, PARTS * Q).chunk(PARTS, dim))


def _first_part(bias: Tensor) -> Array:
    """(..) -> (2, ..): a bias is added once."""
    return _array(torch.stack([bias, torch.zeros_like(bias)]))


def _padded(x: Tensor, dim: int, multiple: int) -> Tensor:
    """Zeros up to the next multiple."""
    width = -x.shape[dim] % multiple
    return torch.cat([x, x.new_zeros(*x.shape[:dim], width, *x.shape[dim:][1:])], dim)


def _matrix(weight: Tensor, weights: Weights = Weights.exact) -> Array:
    """(.., in, out) -> (.., elements): panels of PANEL columns one after the other, each (in, PANEL) in memory.

    In bfloat16 an element is a word: of WORD columns, number j is in its lower half and LANES + j in its upper.
    """
    array: npt.NDArray[np.generic] = _array(weight)
    width = PANEL
    if weights is Weights.bfloat16:
        halves = _array(weight.to(torch.bfloat16).view(torch.int16)).view(np.uint16).astype(np.uint32)
        halves = halves.reshape(*halves.shape[:-1], -1, 2, LANES)
        words = halves[..., 0, :] | halves[..., 1, :] << 16
        array, width = words.reshape(*words.shape[:-2], -1), PANEL // 2
    starts = range(0, max(1, array.shape[-1]), width)  # skip connections may have no columns at all
    panels = [array[..., start : start + width] for start in starts]
    return cast(Array, np.concatenate([panel.reshape(*panel.shape[:-2], -1) for panel in panels], axis=-1))


def _array(weight: Tensor) -> Array:
    return np.ascontiguousarray(weight.detach().cpu().numpy())
