"""Sequential sampling compiled by numba: what `reference.sample` does, one utterance at a time, in float32 or float64.

The compiled loops hold no lock, so the utterances of a batch run side by side on torch's number of threads.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wavenet.model import WaveNet
from wavenet.sampling import numba_loop
from wavenet.sampling.packing import Array, PackedNetwork, PackedOutput, pack_frames, pack_network, pack_output


@dataclass
class PackedModel:
    """A model, and the condition of one batch."""

    network: PackedNetwork
    output: PackedOutput
    frames: Array  # (B, L, N, G), or (1, L, N, G) for a condition that all utterances share
    hop: int


@dataclass
class NumbaState:
    """Where the sampler stands. It is advanced in place; copy it to branch off."""

    t: int  # samples done
    previous: Array  # (B,), the sample before; zero at the start
    rings: Array  # (B, rows, C), the layers' ring buffers one after the other


def pack(model: WaveNet, cond: Tensor | None) -> PackedModel:
    """Packs a model with the condition (B, L, context) of a batch.

    Raises:
        ValueError: the model is neither float32 nor float64.
    """
    dtype = model.network.first.weight.dtype
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"the model is {dtype}, but the numba backend computes in float32 or float64: cast the model")
    return PackedModel(
        pack_network(model.network),
        pack_output(model.config.output, dtype),
        pack_frames(model.network, cond),
        model.config.hop_length,
    )


def initial_state(packed: PackedModel, batch: int) -> NumbaState:
    network = packed.network
    dtype, C = network.first_weight.dtype, len(network.first_weight)
    return NumbaState(0, np.zeros(batch, dtype), np.zeros((batch, network.ring_rows, C), dtype))


def sample(packed: PackedModel, noise: Tensor, state: NumbaState) -> Tensor:
    """The next T samples: noise (B, T, n_noise) -> (B, T), on the CPU. Advances the state by T."""
    drawn = np.ascontiguousarray(noise.double().cpu().numpy())
    x = np.empty(drawn.shape[:2], state.rings.dtype)  # (B, T)

    def run(b: int) -> None:
        frames, previous, rings = packed.frames[b % len(packed.frames)], state.previous[b], state.rings[b]
        numba_loop.generate(packed.network, packed.output, frames, packed.hop, drawn[b], state.t, previous, rings, x[b])

    _each_utterance(run, len(x))
    _advance(state, x)
    return torch.from_numpy(x)


def parameters(packed: PackedModel, x: Tensor, state: NumbaState) -> Tensor:
    """The parameters of the next T samples, which are given: x (B, T) -> (B, T, P). Advances the state by T."""
    given = np.ascontiguousarray(x.detach().cpu().numpy().astype(state.rings.dtype, copy=False))
    params = np.empty((*given.shape, len(packed.network.last_bias)), given.dtype)  # (B, T, P)

    def run(b: int) -> None:
        frames, previous, rings = packed.frames[b % len(packed.frames)], state.previous[b], state.rings[b]
        numba_loop.score(
            packed.network, packed.output, frames, packed.hop, given[b], state.t, previous, rings, params[b]
        )

    _each_utterance(run, len(given))
    _advance(state, given)
    return torch.from_numpy(params)


def _each_utterance(run: Callable[[int], None], batch: int) -> None:
    with ThreadPoolExecutor(min(batch, torch.get_num_threads())) as pool:
        list(pool.map(run, range(batch)))


def _advance(state: NumbaState, x: Array) -> None:
    state.t += x.shape[1]
    state.previous = x[:, -1].copy()
