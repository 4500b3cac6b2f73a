"""Chains of inverse autoregressive flows in C, for inference: any number of samples in constant memory.

Weights are packed once; what the layers carry from one call to the next is an explicit state.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wavenet.kernels.cpu_layer import pack
from wavenet.kernels.native import CLong, address, loaded

TILE = 256  # samples that go through all layers together: their activations and a flow's weights share the cache
STAGE = 10  # layers of a flow that are one task of a thread
OUTPUTS = 16  # columns of the last product, of which two are in use
WIDEST, LANES, MOST_TAPS = 256, 16, 3


@dataclass
class FlowWeights:
    """The network of one flow, as `wavenet.network` computes it. N layers, C channels, K taps, 2G before the gate, E
    channels of excitation.
    """

    dilations: list[int]
    first_weight: Tensor  # (1 + E, C)
    first_bias: Tensor  # (C,)
    conv_weight: Tensor  # (N, 2G, K C); its bias belongs to the frames
    out_weight: Tensor  # (N, C, G)
    out_bias: Tensor  # (N, C)
    hidden_weight: Tensor  # (C, C)
    hidden_bias: Tensor  # (C,)
    last_weight: Tensor  # (2, C)
    last_bias: Tensor  # (2,)
    reads: float
    speaks: float


def supports(channels: int, gate: int, taps: int) -> bool:
    """Whether flows of this size can be computed here: C, G and K of `FlowWeights`."""
    return all(0 < size <= WIDEST and size % LANES == 0 for size in (channels, gate)) and taps <= MOST_TAPS


class _Flow(ctypes.Structure):
    """`flow` of csrc/chain.c."""

    _fields_ = [
        *((name, CLong) for name in ("layers", "channels", "gate", "taps", "stage", "excited")),
        *(
            (name, ctypes.c_void_p)
            for name in (
                *("dilations", "first_weight", "first_bias", "conv", "out", "out_bias", "hidden", "last"),
                *("hidden_bias", "last_bias"),
            )
        ),
        *((name, ctypes.c_float) for name in ("reads", "speaks")),
        *((name, ctypes.c_void_p) for name in ("before", "past", "residual")),
    ]


class PackedFlow:
    """One flow's weights in the order in which the products read them."""

    def __init__(self, weights: FlowWeights, half: bool) -> None:
        N, W, KC = weights.conv_weight.shape
        E, C = len(weights.first_weight) - 1, len(weights.first_bias)
        self.layers, self.channels, self.gate, self.taps, self.excited, self.half = N, C, W // 2, KC // C, E, half
        self.reads, self.speaks = weights.reads, weights.speaks
        self.dilations = torch.tensor(weights.dilations, dtype=torch.int64)
        conv = [
            pack(w, half, self.taps, C, W, tap_stride=C, k_stride=1, n_stride=KC) for w in weights.conv_weight.float()
        ]
        out = [_transposed(w, half) for w in weights.out_weight.float()]
        last_weight = torch.zeros(OUTPUTS, C)
        last_weight[:2] = weights.last_weight
        last_bias = torch.zeros(OUTPUTS)
        last_bias[:2] = weights.last_bias
        self.tensors = {
            "dilations": self.dilations,
            "first_weight": weights.first_weight.float().contiguous(),
            "first_bias": weights.first_bias.float().contiguous(),
            "conv": torch.cat(conv),
            "out": torch.cat(out),
            "out_bias": weights.out_bias.float().contiguous(),
            "hidden": _transposed(weights.hidden_weight.float(), half),
            "last": _transposed(last_weight, half=False),
            "hidden_bias": weights.hidden_bias.float().contiguous(),
            "last_bias": last_bias,
        }


class ChainState:
    """What a chain carries from one call of `advance` to the next, for one utterance; silence before the first."""

    def __init__(self, flows: Sequence[PackedFlow]) -> None:
        self._buffers = []
        for flow in flows:
            reach = int((flow.taps - 1) * flow.dilations.sum())
            dtype = torch.bfloat16 if flow.half else torch.float32
            self._buffers.append(
                {
                    "before": torch.zeros(1),
                    "past": torch.zeros(reach + flow.layers * TILE, flow.channels, dtype=dtype),
                    "residual": torch.empty(-(-flow.layers // STAGE) * TILE, flow.channels),
                }
            )
        self._flows = (_Flow * len(flows))(
            *(
                _Flow(
                    *(flow.layers, flow.channels, flow.gate, flow.taps, STAGE, flow.excited),
                    *(address(tensor) for tensor in flow.tensors.values()),
                    *(flow.reads, flow.speaks),
                    *(address(tensor) for tensor in buffers.values()),
                )
                for flow, buffers in zip(flows, self._buffers, strict=True)
            )
        )
        self._packed = flows  # keeps the memory that `_flows` points to

    def advance(
        self, x: Tensor, frames: Sequence[Tensor], hop: int, offset: int, excitation: Tensor | None = None
    ) -> None:
        """The next T samples: noise x (T,) becomes the waveform, in place.

        Args:
            frames: for every flow, its layers' projections of the condition with their biases, (L, N 2G).
            offset: which sample of the first frame is the first of x.
            excitation: (T, E), where E is not 0.
        """
        excited = torch.empty(len(x), 0) if excitation is None else excitation.float().contiguous()
        assert all(excited.shape == (len(x), flow.excited) for flow in self._packed)
        assert all(tensor.dtype == torch.float32 for tensor in (x, *frames))
        framed = [frame.contiguous() for frame in frames]
        pointers = (ctypes.c_void_p * len(framed))(*(address(frame) for frame in framed))
        numbers = (len(framed[0]), hop, offset)
        signals = (address(tensor) for tensor in (excited, x))
        last = (len(x), TILE, int(self._packed[0].half), torch.get_num_threads())
        loaded().chain_run(self._flows, CLong(len(framed)), pointers, *map(CLong, numbers), *signals, *map(CLong, last))


def _transposed(weight: Tensor, half: bool) -> Tensor:
    """weight (n, k), packed as the right operand (k, n) of a product."""
    n, k = weight.shape
    return pack(weight.contiguous(), half, 1, k, n, tap_stride=0, k_stride=1, n_stride=k)
