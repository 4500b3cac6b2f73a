"""Waveforms from a teacher, one sample after the other, on the backend of one's choice."""

from collections.abc import Callable
from enum import StrEnum
from functools import partial
from itertools import zip_longest

import torch
from torch import Tensor
from tqdm import tqdm

from wavenet.model import WaveNet
from wavenet.sampling import reference
from wavenet.sampling.inputs import batch_size, check_length, check_shapes
from wavenet.sampling.packing import Weights

_CHUNK = 1024  # samples between two movements of the progress bar


class Backend(StrEnum):
    """How the samples are computed; the result is the same.

    naive: the whole receptive field anew for every sample, in torch. cached: one column of the network a sample, in
    torch. numba: the same, compiled, on the CPU.
    """

    naive = "naive"
    cached = "cached"
    numba = "numba"


@torch.no_grad()
def generate(
    model: WaveNet,
    mel: Tensor | None = None,
    speaker: Tensor | None = None,
    noise: Tensor | None = None,
    seed: int = 0,
    length: int | None = None,
    backend: Backend = Backend.numba,
    weights: Weights = Weights.exact,
    progress: bool = False,
) -> Tensor:
    """Samples waveforms at the network's level.

    Args:
        mel: (B, M, L) log-mels, if the model reads one.
        speaker: (B,) indices, if the model has speakers.
        noise: (B, T, n_noise), all the randomness there is; by default utterance b takes
            `model.distribution.noise(seed + b, 0, T)`, so that it can be made again alone.
        seed: used only where noise is None.
        length: T, in samples; by default that of the noise or of the mel, L hop.
        backend: how.
        weights: how the numba backend keeps the matrices.
        progress: show a bar.

    Returns:
        (B, T), in the model's dtype and on its device

    Raises:
        ValueError: mel, speaker and noise of different batch sizes; one of the wrong shape; no length, or one that
            the mel or the noise does not cover; what the model is conditioned on is missing; an unknown speaker;
            weights that the backend does not have.
    """
    weight = model.network.first.weight
    check_shapes(model.config.n_mels, mel, speaker)
    _check_noise(model, noise)
    batch = batch_size(mel=mel, speaker=speaker, noise=noise)
    T = _length(model, mel, noise, length)
    backend, weights = _choice(backend, weights)
    if noise is None:
        noise = torch.stack([model.distribution.noise(seed + b, 0, T) for b in range(batch)])
    noise = noise.to(weight.device)
    cond, excitation = _condition(model, mel, speaker), _excitation(model, mel)
    advance = _sampler(model, cond, excitation, batch, backend, weights)
    pieces = []
    with tqdm(total=batch * T, unit="sample", unit_scale=True, disable=not progress) as bar:
        for start in range(0, T, _CHUNK):
            pieces.append(advance(noise[:, start : min(start + _CHUNK, T)]))
            bar.update(pieces[-1].numel())
    return torch.cat(pieces, dim=1).to(weight.device)


@torch.no_grad()
def parameters(
    model: WaveNet,
    x: Tensor,
    mel: Tensor | None = None,
    speaker: Tensor | None = None,
    backend: Backend = Backend.numba,
    weights: Weights = Weights.exact,
) -> Tensor:
    """What `model(x, mel, speaker)` returns, (B, T, P), computed sample by sample: backends compared on one history.

    The mel may be longer than x.

    Raises:
        ValueError: as `generate`.
    """
    check_shapes(model.config.n_mels, mel, speaker)
    batch_size(mel=mel, speaker=speaker, x=x)
    _length(model, mel, None, x.shape[1])
    backend, weights = _choice(backend, weights)
    cond, excitation, batch = _condition(model, mel, speaker), _excitation(model, mel), x.shape[0]
    match backend:
        case Backend.naive:
            return reference.parameters_naively(model, cond, x, excitation)
        case Backend.cached:
            state = reference.initial_state(model, batch)
            return reference.parameters(model, model.network.project(cond), x, state, excitation)
        case Backend.numba:
            from wavenet.sampling import numba_backend

            packed = numba_backend.pack(model, cond, excitation, weights)
            return numba_backend.parameters(packed, x, numba_backend.initial_state(packed, batch)).to(x.device)


def _choice(backend: Backend, weights: Weights) -> tuple[Backend, Weights]:
    backend, weights = Backend(backend), Weights(weights)
    if weights is not Weights.exact and backend is not Backend.numba:
        raise ValueError(
            f"weights is {weights}, but the backend {backend} keeps them exact: use the backend {Backend.numba}, or "
            f"weights {Weights.exact}"
        )
    return backend, weights


def _sampler(
    model: WaveNet, cond: Tensor | None, excitation: Tensor | None, batch: int, backend: Backend, weights: Weights
) -> Callable[[Tensor], Tensor]:
    """Noise (B, n, n_noise) of the next n samples -> these samples (B, n)."""
    match backend:
        case Backend.naive:
            history = reference.History(model.network.first.bias.new_zeros(batch, 0))
            return partial(reference.sample_naively, model, cond, history=history, excitation=excitation)
        case Backend.cached:
            state = reference.initial_state(model, batch)
            frames = model.network.project(cond)
            return partial(reference.sample, model, frames, state=state, excitation=excitation)
        case Backend.numba:
            from wavenet.sampling import numba_backend  # numba takes a second to import: only who uses it pays

            packed = numba_backend.pack(model, cond, excitation, weights)
            return partial(numba_backend.sample, packed, state=numba_backend.initial_state(packed, batch))


def _condition(model: WaveNet, mel: Tensor | None, speaker: Tensor | None) -> Tensor | None:
    """Each utterance by itself, for the last bits of a matrix product depend on its number of rows."""
    weight = model.network.first.weight
    mels = [] if mel is None else [one[None].to(weight) for one in mel]
    speakers = [] if speaker is None else [one[None].to(weight.device) for one in speaker]
    inputs = list(zip_longest(mels, speakers)) or [(None, None)]
    conditions = [cond for pair in inputs if (cond := model.conditioner(*pair)) is not None]
    return torch.cat(conditions) if conditions else None


def _excitation(model: WaveNet, mel: Tensor | None) -> Tensor | None:
    """Of the whole utterances, (B, L hop, 3); each by itself, as in `_condition`."""
    if mel is None or model.pitch is None:
        return None
    excitations = [model.excite(one[None].to(model.network.first.weight)) for one in mel]
    return torch.cat([one for one in excitations if one is not None])


def _check_noise(model: WaveNet, noise: Tensor | None) -> None:
    columns = model.distribution.n_noise
    if noise is not None and (noise.dim() != 3 or noise.shape[2] != columns):
        raise ValueError(
            f"noise has the shape {tuple(noise.shape)}, but must be (B, T, {columns}): "
            "take it from model.distribution.noise"
        )


def _length(model: WaveNet, mel: Tensor | None, noise: Tensor | None, length: int | None) -> int:
    limits = {}
    if noise is not None:
        limits["noise"] = noise.shape[1]
    if mel is not None:
        limits["mel"] = mel.shape[-1] * model.config.hop_length
    if length is None:
        if not limits:
            raise ValueError("length is not given, and there is neither mel nor noise to take it from: pass length")
        length = next(iter(limits.values()))
    check_length(length)
    for name, limit in limits.items():
        if length > limit:
            raise ValueError(
                f"length is {length}, but the {name} covers {limit} samples: shorten it, or give more {name}"
            )
    return length
