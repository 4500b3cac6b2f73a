"""The causal dilated stack that teacher and student share (WaveNet, arXiv 1609.03499, figures 3 and 4).

Everything is time-major: (B, T, C). A dilated causal convolution is then one matrix product on shifted views.
Every module runs over a whole sequence (`forward`) or advances by one sample (`step`) with its state passed in.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wavenet.kernels.ops import gated_activation, residual_layer
from wavenet.kernels.reference import dilated_convolution, interpolate_frames


@dataclass
class RingBuffer:
    """The last `R` inputs of a convolution: the input at time t lies in slot t mod R."""

    slots: Tensor  # (R, B, C)


class CausalConv1d(nn.Module):
    """y[t] = bias + sum_k W_k x[t - (K - 1 - k) dilation]; before the first sample x is zero.

    The weight is (out, K * in), taps from oldest to newest, as the matrix that multiplies the concatenated views.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, dilation: int = 1) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.kernel_size = kernel_size
        self.dilation = dilation
        self.weight = nn.Parameter(torch.empty(out_channels, kernel_size * in_channels))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        nn.init.kaiming_normal_(self.weight, nonlinearity="linear")

    @property
    def reach(self) -> int:
        """How many samples back the oldest tap reads."""
        return (self.kernel_size - 1) * self.dilation

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, in) -> (B, T, out)"""
        return dilated_convolution(x, self.weight, self.dilation) + self.bias

    def initial_state(self, batch: int) -> RingBuffer:
        return RingBuffer(self.weight.new_zeros(self.reach, batch, self.in_channels))

    def step(self, x: Tensor, t: int, state: RingBuffer) -> Tensor:
        """x[t] (B, in) -> y[t] (B, out); writes x[t] into the state."""
        past = [state.slots[(t - k * self.dilation) % self.reach] for k in range(self.kernel_size - 1, 0, -1)]
        y = F.linear(torch.cat([*past, x], dim=-1), self.weight, self.bias)
        if self.reach:
            state.slots[t % self.reach] = x
        return y


class GatedResidualBlock(nn.Module):
    """Dilated convolution + condition, gated activation, then residual and skip outputs (WaveNet, figure 4).

    Args:
        residual: channels in and out.
        gate: channels before the gate, both halves together.
        skip: channels of the skip output; 0 for none.
        context: channels of the condition at frame rate; 0 for none.
    """

    def __init__(self, residual: int, gate: int, skip: int, context: int, kernel_size: int, dilation: int) -> None:
        super().__init__()
        self.residual = residual
        self.conv = CausalConv1d(residual, gate, kernel_size, dilation)
        self.condition = nn.Linear(context, gate, bias=False) if context else None
        self.out = nn.Linear(gate // 2, residual + skip)
        if self.condition is not None:
            nn.init.kaiming_normal_(self.condition.weight, nonlinearity="linear")
        nn.init.kaiming_normal_(self.out.weight, nonlinearity="linear")
        nn.init.zeros_(self.out.bias)

    def project(self, cond: Tensor | None) -> Tensor | None:
        """The condition's share of the pre-activation, still at frame rate: (B, L, context) -> (B, L, gate).

        Projection and interpolation are both linear, so they commute; projecting first costs `hop` times less.
        """
        return None if self.condition is None or cond is None else self.condition(cond)

    def forward(
        self, x: Tensor, skips: Tensor | None, frames: Tensor | None, hop: int, offset: int
    ) -> tuple[Tensor, Tensor | None]:
        """x (B, T, residual), skips (B, T, skip) of the layers before, frames (B, L, gate) -> both after this layer."""
        conv, out = self.conv, self.out
        return residual_layer(
            x, skips, conv.weight, conv.bias, frames, out.weight, out.bias, conv.dilation, hop, offset
        )

    def step(self, x: Tensor, frame: Tensor | None, t: int, state: RingBuffer) -> tuple[Tensor, Tensor]:
        """x (B, residual), frame (B, gate), both of sample t -> x' (B, residual), skip (B, skip)."""
        hidden = self.conv.step(x, t, state)
        gated = gated_activation(hidden[:, None], None, None if frame is None else frame[:, None], hop=1)
        out = self.out(gated[:, 0])
        return x + out[..., : self.residual], out[..., self.residual :]


class DilatedStack(nn.Module):
    """Blocks with dilations 1, 2, 4, .., 2^(cycle - 1), 1, 2, ..

    With skip connections the output is the sum of all skips (over sqrt(layers), which keeps its variance that of one);
    without, it is the last block's residual output (the student: Parallel WaveNet, arXiv 1711.10433, section 3).
    """

    def __init__(
        self, layers: int, cycle: int, kernel_size: int, residual: int, gate: int, skip: int, context: int
    ) -> None:
        super().__init__()
        self.skip = skip
        self.blocks = nn.ModuleList(
            GatedResidualBlock(residual, gate, skip, context, kernel_size, dilation=2 ** (i % cycle))
            for i in range(layers)
        )

    @property
    def out_channels(self) -> int:
        return self.skip or self.layers[0].residual

    @property
    def layers(self) -> list[GatedResidualBlock]:
        return [block for block in self.blocks if isinstance(block, GatedResidualBlock)]

    def project(self, cond: Tensor | None) -> list[Tensor | None]:
        """Every block's projection of the condition (B, L, context), at frame rate."""
        return [block.project(cond) for block in self.layers]

    def forward(self, x: Tensor, frames: list[Tensor | None], hop: int, offset: int = 0) -> Tensor:
        """x (B, T, residual), frames from `project` -> (B, T, skip or residual)"""
        skips: Tensor | None = None
        for block, frame in zip(self.layers, frames, strict=True):
            x, skips = block(x, skips, frame, hop, offset)
        return self._output(x, skips)

    def initial_state(self, batch: int) -> list[RingBuffer]:
        return [block.conv.initial_state(batch) for block in self.layers]

    def step(self, x: Tensor, frames: list[Tensor | None], hop: int, t: int, state: list[RingBuffer]) -> Tensor:
        """x[t] (B, residual), frames from `project` -> (B, skip or residual)"""
        skips: Tensor | None = None
        for block, frame, ring in zip(self.layers, frames, state, strict=True):
            now = None if frame is None else interpolate_frames(frame, hop, 1, t)[:, 0]
            x, skip = block.step(x, now, t, ring)
            if self.skip:
                skips = skip if skips is None else skips + skip
        return self._output(x, skips)

    def _output(self, x: Tensor, skips: Tensor | None) -> Tensor:
        return x if skips is None else skips / math.sqrt(len(self.blocks))


def receptive_field(layers: int, cycle: int, kernel_size: int) -> int:
    """Samples that one output of the stack depends on, the newest included."""
    return 1 + (kernel_size - 1) * sum(2 ** (i % cycle) for i in range(layers))
