"""A teacher's weights as contiguous arrays, in the order in which a sequential loop reads them.

Every matrix is (in, out): its product with a vector adds rows, so that the inner loop runs over outputs, in order and
without a reduction, which a compiler vectorises without changing a sum's order.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from data import mulaw
from wavenet.distributions import OutputConfig, OutputKind
from wavenet.layers import CausalConv1d, GatedResidualBlock
from wavenet.network import AutoregressiveNetwork

Array = npt.NDArray[np.floating]

MULAW, MOL, GAUSSIAN = range(3)  # compiled code compares numbers, not strings
_KINDS = {OutputKind.mulaw: MULAW, OutputKind.mol: MOL, OutputKind.gaussian: GAUSSIAN}


class PackedNetwork(NamedTuple):
    """Weights of an `AutoregressiveNetwork`. N layers, C residual, G gate (both halves), S skip channels, K taps.

    The biases of the dilated convolutions are not here: they are part of the packed frames.
    """

    dilations: npt.NDArray[np.int64]  # (N,)
    ring_starts: npt.NDArray[np.int64]  # (N,), a layer's first row of the ring buffers
    first_weight: Array  # (C,)
    first_bias: Array  # (C,)
    taps: Array  # (N, K, C, G), oldest tap first
    out_weight: Array  # (N, G / 2, C + S)
    out_bias: Array  # (N, C + S)
    hidden_weight: Array  # (H, H), where H = S, or C for a network without skip connections
    hidden_bias: Array  # (H,)
    last_weight: Array  # (H, P)
    last_bias: Array  # (P,)

    @property
    def ring_rows(self) -> int:
        """Rows of all layers' ring buffers together."""
        return int(self.ring_starts[-1] + (self.taps.shape[1] - 1) * self.dilations[-1])


class PackedOutput(NamedTuple):
    """What a loop needs to know of the `OutputDistribution`."""

    kind: int  # MULAW, MOL or GAUSSIAN
    log_scale_floor: float
    unit: float
    levels: Array  # (256,), the amplitude of every mu-law class


def pack_network(network: AutoregressiveNetwork) -> PackedNetwork:
    """The weights in their own dtype, as numpy arrays on the CPU."""
    blocks = _blocks(network)
    convs = [block.conv for block in blocks]
    reaches = np.array([conv.reach for conv in convs], dtype=np.int64)
    return PackedNetwork(
        dilations=np.array([conv.dilation for conv in convs], dtype=np.int64),
        ring_starts=np.cumsum(reaches) - reaches,
        first_weight=_array(network.first.weight[:, 0]),
        first_bias=_array(network.first.bias),
        taps=_array(torch.stack([_taps(conv) for conv in convs])),
        out_weight=_array(torch.stack([block.out.weight.T for block in blocks])),
        out_bias=_array(torch.stack([block.out.bias for block in blocks])),
        hidden_weight=_array(network.hidden.weight.T),
        hidden_bias=_array(network.hidden.bias),
        last_weight=_array(network.last.weight.T),
        last_bias=_array(network.last.bias),
    )


def pack_frames(network: AutoregressiveNetwork, cond: Tensor | None) -> Array:
    """The condition (B, L, context), projected for every layer, plus that layer's bias: (B, L, N, G).

    A constant passes through the interpolation unchanged, so the bias costs nothing there, and a network without
    condition is one whose single frame (1, 1, N, G) holds the biases.
    """
    layers = []
    for block in _blocks(network):
        frames = block.project(cond)
        bias = block.conv.bias
        layers.append(bias[None, None] if frames is None else frames + bias)  # (B, L, G)
    return _array(torch.stack(layers, dim=2))


def pack_output(config: OutputConfig, dtype: torch.dtype) -> PackedOutput:
    levels = mulaw.decode(torch.arange(mulaw.CLASSES), dtype)
    return PackedOutput(_KINDS[config.kind], config.log_scale_floor, config.unit, _array(levels))


def _blocks(network: AutoregressiveNetwork) -> list[GatedResidualBlock]:
    return [block for block in network.stack.blocks if isinstance(block, GatedResidualBlock)]


def _taps(conv: CausalConv1d) -> Tensor:
    """(out, K * in) -> (K, in, out)"""
    return conv.weight.T.reshape(conv.kernel_size, conv.in_channels, -1)


def _array(weight: Tensor) -> Array:
    return np.ascontiguousarray(weight.detach().cpu().numpy())
