"""Sequential sampling compiled by numba: what `reference.sample` does, in float32 or float64.

The compiled loops hold no lock. A batch is cut in groups of up to four utterances, which share every weight that is
read. Where there are two threads for each group, both compute one half of every layer and meet by spinning on a
counter, once a layer: with two free cores one utterance gains a factor of 1.4 (preset `small` in bfloat16) to 2.1
(`base` in float32), but loses half of its speed where somebody else wants one of them. So after a call in which the two
were often late for each other, the next ones use one thread. No bit of a sample depends on how it was computed.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from wavenet.model import WaveNet
from wavenet.sampling import numba_loop
from wavenet.sampling.packing import (
    Array,
    PackedNetwork,
    PackedOutput,
    Weights,
    pack_frames,
    pack_network,
    pack_output,
)

_GROUP = 4  # utterances whose sums fit the registers
_LATE = 0.01  # a sample: waits for a thread that has no processor, above which two threads do not pay
_CALLS_ALONE = 32  # until they are tried again


@dataclass
class PackedModel:
    """A model, and the condition of one batch."""

    network: PackedNetwork
    output: PackedOutput
    frames: Array  # (B, L, N, 2, 2 Q), or (1, ..) for a condition that all utterances share
    excitation: Array  # (B, L hop, E), or empty
    hop: int


@dataclass
class NumbaState:
    """Where the sampler stands. It is advanced in place; copy it to branch off."""

    t: int  # samples done
    previous: Array  # (B,), the sample before; zero at the start
    rings: Array  # (rows, B, C), the layers' ring buffers one after the other
    calls_alone: int = 0  # that remain before teams of two are tried again; changes the speed only


def pack(
    model: WaveNet, cond: Tensor | None, excitation: Tensor | None = None, weights: Weights = Weights.exact
) -> PackedModel:
    """Packs a model with the condition (B, L, context) of a batch, and its excitation (B, L hop, 3) if it reads one.

    Raises:
        ValueError: the model is neither float32 nor float64, or not float32 for weights in bfloat16.
    """
    dtype = model.network.first.weight.dtype
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"the model is {dtype}, but the numba backend computes in float32 or float64: cast the model")
    if weights is Weights.bfloat16 and dtype is not torch.float32:
        raise ValueError(f"the model is {dtype}, but weights in bfloat16 go with float32: cast the model")
    return PackedModel(
        pack_network(model.network, weights),
        pack_output(model.config.output, model.distribution.n_params, dtype),
        pack_frames(model.network, cond),
        np.ascontiguousarray((torch.empty(0, 0, 0) if excitation is None else excitation).to(dtype).cpu().numpy()),
        model.config.hop_length,
    )


def initial_state(packed: PackedModel, batch: int) -> NumbaState:
    network = packed.network
    dtype, C = network.first_weight.dtype, len(network.first_weight)
    rows = int(network.ring_starts[-1] + (network.kernel - 1) * network.dilations[-1])
    return NumbaState(0, np.zeros(batch, dtype), np.zeros((rows, batch, C), dtype))


def sample(packed: PackedModel, noise: Tensor, state: NumbaState) -> Tensor:
    """The next T samples: noise (B, T, n_noise) -> (B, T), on the CPU. Advances the state by T."""
    drawn = np.ascontiguousarray(noise.double().cpu().numpy())
    x = np.empty(drawn.shape[:2], state.rings.dtype)  # (B, T)
    _run(packed, drawn, x, np.empty((0, 0, 0), x.dtype), state)
    return torch.from_numpy(x)


def parameters(packed: PackedModel, x: Tensor, state: NumbaState) -> Tensor:
    """The parameters of the next T samples, which are given: x (B, T) -> (B, T, P). Advances the state by T."""
    given = np.ascontiguousarray(x.detach().cpu().numpy().astype(state.rings.dtype, copy=False))
    params = np.empty((*given.shape, packed.output.n_params), given.dtype)  # (B, T, P)
    _run(packed, np.empty((0, 0, 0)), given, params, state)
    return torch.from_numpy(params)


def _run(packed: PackedModel, noise: Array, x: Array, params: Array, state: NumbaState) -> None:
    """Groups of utterances side by side; where there are two threads for each, a group is computed by a team of two."""
    threads, batch, T = torch.get_num_threads(), *x.shape
    groups = max(-(-batch // _GROUP), min(batch, threads // 2))
    members = 2 if 2 * groups <= threads and not state.calls_alone else 1
    cuts = [batch * group // groups for group in range(groups + 1)]

    def run(first: int, shared: numba_loop.Shared, member: int) -> int:
        return numba_loop.run(
            packed.network, packed.output, packed.frames, packed.excitation, packed.hop, noise, state.t, state.previous,
            state.rings, x, params, first, shared, member, members,
        )  # fmt: skip

    with ThreadPoolExecutor(min(threads, members * groups)) as pool:
        jobs = []
        for first, last in pairwise(cuts):
            shared = numba_loop.shared(packed.network, last - first)
            jobs += [pool.submit(run, first, shared, member) for member in range(members)]
        late = max(job.result() for job in jobs)
    state.calls_alone = _CALLS_ALONE if late > _LATE * T else max(0, state.calls_alone - 1)
    state.t += T
    state.previous = x[:, -1].copy()
