"""Sequential sampling in PyTorch: the definition of right for every faster backend.

`sample` keeps what each convolution still needs (Fast WaveNet, arXiv 1611.09482) and computes one column of the network
a sample. `sample_naively` runs the network over its whole receptive field for every sample, as the first public codes
did: the same result at `receptive_field` times the work, kept as the benchmark's baseline and as a check of the cache.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from wavenet.model import WaveNet
from wavenet.network import NetworkState


@dataclass
class SamplerState:
    """Where a sampler stands. It is advanced in place; copy it to branch off."""

    network: NetworkState
    previous: Tensor  # (B,), the sample before; zero at the start

    @property
    def t(self) -> int:
        """Samples done."""
        return self.network.t


@dataclass
class History:
    """All samples so far: the state of the naive sampler."""

    x: Tensor  # (B, t)


def initial_state(model: WaveNet, batch: int) -> SamplerState:
    return SamplerState(model.network.initial_state(batch), model.network.first.bias.new_zeros(batch))


@torch.no_grad()
def sample(
    model: WaveNet,
    frames: list[Tensor | None],
    noise: Tensor,
    state: SamplerState,
    excitation: Tensor | None = None,
) -> Tensor:
    """The next T samples.

    Args:
        frames: `model.network.project(model.conditioner(mel, speaker))`, of the whole utterance.
        noise: (B, T, n_noise), of these samples.
        state: after the samples before; advanced by T.
        excitation: `model.excite(mel)`, of the whole utterance.

    Returns:
        (B, T)
    """
    samples = []
    for t in range(noise.shape[1]):
        params = _step(model, frames, state, excitation)  # (B, P)
        state.previous = model.distribution.sample(params, noise[:, t])  # (B,)
        samples.append(state.previous)
    return torch.stack(samples, dim=1)  # (B, T)


@torch.no_grad()
def parameters(
    model: WaveNet,
    frames: list[Tensor | None],
    x: Tensor,
    state: SamplerState,
    excitation: Tensor | None = None,
) -> Tensor:
    """The parameters of the next T samples, which are given: x (B, T) -> (B, T, P). Advances the state by T."""
    columns = []
    for t in range(x.shape[1]):
        columns.append(_step(model, frames, state, excitation))  # (B, P)
        state.previous = x[:, t]
    return torch.stack(columns, dim=1)  # (B, T, P)


def _step(model: WaveNet, frames: list[Tensor | None], state: SamplerState, excitation: Tensor | None) -> Tensor:
    """The parameters (B, P) of the next sample."""
    now = None if excitation is None else excitation[:, state.t]
    return model.step(state.previous, frames, state.network, now)


@torch.no_grad()
def sample_naively(
    model: WaveNet, cond: Tensor | None, noise: Tensor, history: History, excitation: Tensor | None = None
) -> Tensor:
    """The next T samples, which are added to the history: noise (B, T, n_noise) -> (B, T).

    Args:
        cond: (B, L, context) of the whole utterance; its excitation: (B, L hop, 3).
    """
    start, T = history.x.shape[1], noise.shape[1]
    x = F.pad(history.x, (0, T))
    for t in range(start, start + T):
        params = _last_parameters(model, cond, x[:, : t + 1], excitation)
        x[:, t] = model.distribution.sample(params, noise[:, t - start])
    history.x = x
    return x[:, start:]


@torch.no_grad()
def parameters_naively(model: WaveNet, cond: Tensor | None, x: Tensor, excitation: Tensor | None = None) -> Tensor:
    """The parameters of x (B, T), each by a pass over the receptive field: (B, T, P)."""
    return torch.stack([_last_parameters(model, cond, x[:, : t + 1], excitation) for t in range(x.shape[1])], dim=1)


def _last_parameters(model: WaveNet, cond: Tensor | None, x: Tensor, excitation: Tensor | None) -> Tensor:
    """The parameters (B, P) of the last sample of x (B, t + 1), which is not read itself."""
    hop = model.config.hop_length
    begin = max(0, x.shape[1] - 1 - model.receptive_field)
    offset = begin
    if cond is not None and cond.shape[1] > 1:
        # Only the frames under the window are projected; one more on each side is read by the interpolation.
        first = max(0, begin // hop - 1)
        cond = cond[:, first : (x.shape[1] - 1) // hop + 2]
        offset = begin - first * hop
    excited = None if excitation is None else excitation[:, begin : x.shape[1]]
    return model.network(model.distribution.embed(x[:, begin:]), cond, offset, excited)[:, -1]
