"""Noise as a pure function of (seed, sample index).

One pass over a clip, any chunking of it, any batch and any device must see the same noise, so noise is not drawn
from a running generator: it is cut into fixed blocks, and block `b` comes from the counter-based generator Philox
(Salmon et al. 2011) keyed with (seed, b), always on the CPU and in float64.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

BLOCK = 4096  # samples
_SMALLEST = 2.0**-54  # keeps log(u) finite; random() itself can return 0


def _blocks(
    draw: Callable[[np.random.Generator, tuple[int, int]], np.ndarray],
    seed: int,
    start: int,
    length: int,
    columns: int,
) -> Tensor:
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed is {seed}, but must lie in [0, 2**64): choose a non-negative seed")
    assert start >= 0 and length >= 0 and columns >= 1
    first, last = start // BLOCK, -(-(start + length) // BLOCK)
    keys = [np.array([seed, block], dtype=np.uint64) for block in range(first, last)]  # a list would become float64
    drawn = [draw(np.random.Generator(np.random.Philox(key=key)), (BLOCK, columns)) for key in keys]
    noise = np.concatenate(drawn) if drawn else np.empty((0, columns))
    return torch.from_numpy(noise[start - first * BLOCK :][:length].copy())


def uniform_noise(seed: int, start: int, length: int, columns: int = 1) -> Tensor:
    """Uniform noise in the open interval (0, 1) for samples `start .. start + length`: (length, columns), float64."""
    return _blocks(lambda g, shape: np.maximum(g.random(shape), _SMALLEST), seed, start, length, columns)


def normal_noise(seed: int, start: int, length: int, columns: int = 1) -> Tensor:
    """Standard normal noise for samples `start .. start + length`: (length, columns), float64."""
    return _blocks(lambda g, shape: g.standard_normal(shape), seed, start, length, columns)


def logistic_noise(seed: int, start: int, length: int, columns: int = 1) -> Tensor:
    """Standard logistic noise, ln u - ln(1 - u), for samples `start .. start + length`: (length, columns), float64."""
    return torch.logit(uniform_noise(seed, start, length, columns))
