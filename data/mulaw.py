"""Mu-law companding (ITU-T G.711, mu = 255) as continuous functions, and its 8-bit codes.

`encode` cuts the companded axis y = compress(x) into 256 equal bins, code b covering [-1 + 2b/256, -1 + 2(b + 1)/256).
In linear amplitude the bins widen 245-fold from the centre outwards, which is why a density over x divides a bin's
probability by its width: `bin_edges` gives those widths.
"""

import math

import torch
from torch import Tensor

MU = 255
CLASSES = 256


def compress(x: Tensor) -> Tensor:
    """Linear amplitude to companded amplitude, any shape; [-1, 1] onto [-1, 1], and monotone beyond.

    sign(x) ln(1 + mu |x|) / ln(1 + mu). The sign is a constant for autograd, so the slope at 0 is mu / ln(1 + mu),
    where `x.sign() * x.abs().log1p()` would give 0.
    """
    sign = torch.where(x < 0, -1.0, 1.0).to(x)
    return sign * torch.log1p(MU * sign * x) / math.log1p(MU)


def expand(y: Tensor) -> Tensor:
    """The inverse of `compress`: sign(y) ((1 + mu)^|y| - 1) / mu."""
    sign = torch.where(y < 0, -1.0, 1.0).to(y)
    return sign * torch.expm1(math.log1p(MU) * sign * y) / MU


def encode(x: Tensor) -> Tensor:
    """Linear amplitude to int64 codes 0..255; what lies outside [-1, 1] gets the edge codes."""
    return ((compress(x) + 1) * (CLASSES // 2)).floor().clamp(0, CLASSES - 1).long()


def decode(code: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Codes 0..255 to the linear amplitude at the middle, in the companded domain, of their bin."""
    return expand((2 * code.to(dtype) + 1) / CLASSES - 1)


def bin_edges(dtype: torch.dtype = torch.float64) -> Tensor:
    """The 257 edges of the bins in linear amplitude, increasing from exactly -1 to exactly 1."""
    edges = expand(torch.arange(-CLASSES, CLASSES + 1, 2, dtype=torch.float64) / CLASSES)
    edges[0], edges[-1] = -1, 1  # not one rounding error off
    return edges.to(dtype)
