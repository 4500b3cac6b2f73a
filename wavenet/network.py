"""The autoregressive network of the teacher and of every flow of the student: what comes before t -> numbers at t."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wavenet.layers import DilatedStack, GatedResidualBlock, RingBuffer, receptive_field


@dataclass
class StackConfig:
    """Size of a dilated stack.

    Args:
        layers: in all.
        cycle: layers after which the dilation starts again at 1.
        kernel: taps of a convolution.
        residual: channels between layers.
        gate: channels before the gate, both halves together.
        skip: channels of the skip connections; 0 for none.
    """

    layers: int = 20
    cycle: int = 10
    kernel: int = 3
    residual: int = 64
    gate: int = 128
    skip: int = 64

    def __post_init__(self) -> None:
        for name, least in (("layers", 1), ("cycle", 1), ("residual", 1), ("gate", 2), ("skip", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be at least {least}")
        if self.kernel not in (2, 3):
            raise ValueError(f"kernel is {self.kernel}, but must be 2 or 3")
        if self.gate % 2:
            raise ValueError(f"gate is {self.gate}, but counts both halves and must be even")

    @property
    def receptive_field(self) -> int:
        """Samples before t that the network reads at t: those of the stack, for its input is shifted by one."""
        return receptive_field(self.layers, self.cycle, self.kernel)


@dataclass
class NetworkState:
    """Where sequential evaluation stands: `t` samples are done; `rings` hold what the convolutions still need."""

    t: int
    rings: list[RingBuffer]


class AutoregressiveNetwork(nn.Module):
    """out[t] = f(x[<t], condition). The shift by one is done here and nowhere else.

    Args:
        config: the stack.
        context: channels of the condition; 0 for none.
        outputs: P, numbers a sample.
        hop: samples per frame of the condition.
        excitation: E, channels of a condition at sample rate, which the first layer reads beside x[t - 1]; 0 for none.
    """

    def __init__(self, config: StackConfig, context: int, outputs: int, hop: int, excitation: int = 0) -> None:
        super().__init__()
        self.config = config
        self.hop = hop
        self.first = nn.Linear(1 + excitation, config.residual)
        self.stack = DilatedStack(
            config.layers, config.cycle, config.kernel, config.residual, config.gate, config.skip, context
        )
        channels = self.stack.out_channels
        self.hidden = nn.Linear(channels, channels)
        self.last = nn.Linear(channels, outputs)
        nn.init.normal_(self.last.weight, std=0.01)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor, cond: Tensor | None, offset: int = 0, excitation: Tensor | None = None) -> Tensor:
        """x (B, T), cond (B, L, context), offset of x's first sample in the condition -> (B, T, P).

        Before its first sample the signal is zero. The excitation (B, T, E) is that of x[t], which is told of t as the
        condition is: it is not shifted.
        """
        past = F.pad(x, (1, 0))[:, :-1]  # (B, T): the sample before
        hidden = self._enter(past, excitation)  # (B, T, C)
        return self._head(self.stack(hidden, self.stack.project(cond), self.hop, offset))

    @property
    def receptive_field(self) -> int:
        """Samples before t that out[t] depends on."""
        return self.config.receptive_field

    @property
    def blocks(self) -> list[GatedResidualBlock]:
        return self.stack.layers

    def project(self, cond: Tensor | None) -> list[Tensor | None]:
        """Every layer's projection of the condition, for `step`."""
        return self.stack.project(cond)

    def initial_state(self, batch: int) -> NetworkState:
        return NetworkState(0, self.stack.initial_state(batch))

    def step(
        self, previous: Tensor, frames: list[Tensor | None], state: NetworkState, excitation: Tensor | None = None
    ) -> Tensor:
        """x[t - 1] (B,), excitation[t] (B, E) -> out[t] (B, P); advances the state. x[-1] is zero."""
        hidden = self._enter(previous, excitation)  # (B, C)
        hidden = self.stack.step(hidden, frames, self.hop, state.t, state.rings)
        state.t += 1
        return self._head(hidden)

    # The waveform has 16 bits and bfloat16 has 8: the way in and the way out stay in float32 under autocast.

    def _enter(self, x: Tensor, excitation: Tensor | None) -> Tensor:
        weight = self.first.weight
        hidden = torch.addcmul(self.first.bias, x[..., None], weight[:, 0])
        if weight.shape[1] == 1:
            return hidden
        assert excitation is not None
        with torch.autocast(hidden.device.type, enabled=False):
            return hidden + F.linear(excitation.to(weight), weight[:, 1:])

    def _head(self, hidden: Tensor) -> Tensor:
        hidden = torch.relu(self.hidden(torch.relu(hidden)))
        with torch.autocast(hidden.device.type, enabled=False):
            return self.last(hidden.to(self.last.weight.dtype))
