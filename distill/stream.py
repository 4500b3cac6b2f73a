"""A chain of flows on the CPU without ever computing a sample twice: the layers' states go on from chunk to chunk.

The compiled kernels do it (`wavenet.kernels.cpu_chain`); here the modules become what they read.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from distill.flows import InverseAutoregressiveFlow
from wavenet.kernels import native
from wavenet.kernels.cpu_chain import ChainState, FlowWeights, PackedFlow, supports
from wavenet.network import AutoregressiveNetwork


def can_stream(flows: Sequence[InverseAutoregressiveFlow], like: Tensor) -> bool:
    """Whether the compiled kernels compute flows of these sizes, for tensors like this one."""
    return (
        like.device.type == "cpu"
        and like.dtype in native.DTYPES
        and all(_fits(flow.network) for flow in flows)
        and native.library() is not None
    )


class PackedChain:
    """The flows' weights as the kernels read them; any number of streams shares them.

    Args:
        flows: from the noise to the waveform.
        half: products of bfloat16, with sums and the residual path in float32; else float32 throughout.
    """

    def __init__(self, flows: Sequence[InverseAutoregressiveFlow], half: bool) -> None:
        with torch.no_grad():
            self.hop = flows[0].network.hop
            self.flows = [PackedFlow(_weights(flow), half) for flow in flows]
            self.projections = [_projection(flow.network) for flow in flows]


class ChainStream:
    """One utterance on its way through a chain; before its first sample there is silence."""

    def __init__(self, chain: PackedChain) -> None:
        self._chain = chain
        self._state = ChainState(chain.flows)
        self._samples = 0

    def window(self, length: int) -> tuple[int, int]:
        """The frames start..stop of the condition that the next `length` samples are made from; see `advance`."""
        hop = self._chain.hop
        return self._samples // hop - 1, (self._samples + length - 1) // hop + 2

    @torch.no_grad()
    def advance(self, z: Tensor, cond: Tensor | None, excitation: Tensor | None = None) -> Tensor:
        """The next T samples: noise z (T,) -> x (T,), float32.

        Args:
            cond: the frames `window(T)` of the condition, (L, context), or one frame if it is constant in time. The
                first and the last frame of an utterance go on beyond its ends: `Conditioner.window`.
            excitation: (T, E), of these samples, if the flows read one.
        """
        (start, stop), hop, x = self.window(len(z)), self._chain.hop, z.float().clone()
        with torch.autocast("cpu", enabled=False):
            frames = [_project(cond, *projection) for projection in self._chain.projections]
        assert len(frames[0]) in (1, stop - start)
        offset = 0 if len(frames[0]) == 1 else self._samples - start * hop
        self._state.advance(x, frames, hop, offset, excitation)
        self._samples += len(z)
        return x


def _project(cond: Tensor | None, weight: Tensor | None, bias: Tensor) -> Tensor:
    """(L, context) -> (L, N 2G): every layer's share of its pre-activation, bias included."""
    return bias[None] if cond is None or weight is None else F.linear(cond.float(), weight, bias)


def _projection(network: AutoregressiveNetwork) -> tuple[Tensor | None, Tensor]:
    """Weight (N 2G, context) and bias (N 2G,) of all layers' projections."""
    bias = torch.cat([block.conv.bias for block in network.blocks]).float()
    weights = [block.condition.weight for block in network.blocks if block.condition is not None]
    return torch.cat(weights).float() if weights else None, bias


def _fits(network: AutoregressiveNetwork) -> bool:
    block = network.blocks[0]
    return not network.stack.skip and supports(block.residual, block.out.in_features, block.conv.kernel_size)


def _weights(flow: InverseAutoregressiveFlow) -> FlowWeights:
    network, blocks = flow.network, flow.network.blocks
    return FlowWeights(
        dilations=[block.conv.dilation for block in blocks],
        first_weight=network.first.weight.T,
        first_bias=network.first.bias,
        conv_weight=torch.stack([block.conv.weight for block in blocks]),
        out_weight=torch.stack([block.out.weight for block in blocks]),
        out_bias=torch.stack([block.out.bias for block in blocks]),
        hidden_weight=network.hidden.weight,
        hidden_bias=network.hidden.bias,
        last_weight=network.last.weight,
        last_bias=network.last.bias,
        reads=flow.reads,
        speaks=flow.speaks,
    )
