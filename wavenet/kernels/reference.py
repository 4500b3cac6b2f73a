"""The operations of the inner loops in plain PyTorch: the definition of right for every faster version."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import data.exact  # noqa: F401 -- for what its import does

_BLOCK = 2**21  # elements (rows, N, K) of one block of a Monte Carlo sum: bounds its memory


def interpolate_frames(frames: Tensor, hop: int, length: int, offset: int = 0) -> Tensor:
    """Linear interpolation from frame rate to sample rate, half-sample centres, edges clamped.

    Frame `l` is centred at sample (l + 1/2) hop, so sample `t` reads the frames at (t + 1/2) / hop - 1/2.

    Args:
        frames: (B, L, C), or (B, 1, C) for a condition that is constant in time.
        hop: samples per frame.
        length: T, samples to make.
        offset: which sample of the first frame is the first to be made.

    Returns:
        (B, T, C)
    """
    B, L, C = frames.shape
    if L == 1:
        return frames.expand(B, length, C)
    if not 0 <= offset <= offset + length <= L * hop:
        raise ValueError(
            f"samples {offset}..{offset + length} asked for, but {L} frames of hop {hop} span 0..{L * hop}"
        )
    # Between the centres of two neighbours the weight runs over the same `hop` values, so no index is gathered.
    shift = (hop + 1) // 2
    first, last = (offset + shift) // hop, (offset + length - 1 + shift) // hop
    edges = torch.cat([frames[:, :1], frames, frames[:, -1:]], dim=1)[:, first : last + 2]  # (B, segments + 1, C)
    left, right = edges[:, :-1, None], edges[:, 1:, None]  # (B, segments, 1, C)
    weight = (torch.arange(hop, dtype=torch.float64, device=frames.device) + (0.0 if hop % 2 else 0.5)) / hop
    samples = left + (right - left) * weight.to(frames.dtype)[:, None]  # (B, segments, hop, C)
    begin = offset + shift - first * hop
    return samples.flatten(1, 2)[:, begin : begin + length]  # (B, T, C)


def gated_activation(hidden: Tensor, bias: Tensor | None, frames: Tensor | None, hop: int, offset: int = 0) -> Tensor:
    """tanh(a) * sigmoid(b), where (a, b) are the two halves of hidden + bias + condition (WaveNet, eq. 5).

    Args:
        hidden: (B, T, 2G), the filter half first.
        bias: (2G,), or None.
        frames: (B, L, 2G), this layer's projection of the condition at frame rate, or None.
        hop, offset: as in `interpolate_frames`.

    Returns:
        (B, T, G), of the type of `hidden`, whatever that of bias and frames.
    """
    dtype = hidden.dtype
    if bias is not None:
        hidden = hidden + bias
    if frames is not None:
        hidden = hidden + interpolate_frames(frames, hop, hidden.shape[1], offset)
    filter_half, gate_half = hidden.chunk(2, dim=-1)
    return (torch.tanh(filter_half) * torch.sigmoid(gate_half)).to(dtype)


def dilated_convolution(x: Tensor, weight: Tensor, dilation: int) -> Tensor:
    """y[t] = sum_k W_k x[t - (K - 1 - k) dilation]; before the first sample x is zero.

    Args:
        x: (B, T, C)
        weight: (out, K C), taps from oldest to newest, as the matrix that multiplies the concatenated views.

    Returns:
        (B, T, out)
    """
    T, C = x.shape[1:]
    taps = weight.shape[1] // C
    padded = F.pad(x, (0, 0, (taps - 1) * dilation, 0))  # (B, reach + T, C)
    views = [padded[:, k * dilation : k * dilation + T] for k in range(taps)]
    return F.linear(torch.cat(views, dim=-1), weight)  # (B, T, out)


def residual_layer(
    x: Tensor,
    skips: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    frames: Tensor | None,
    out_weight: Tensor,
    out_bias: Tensor,
    dilation: int,
    hop: int,
    offset: int = 0,
) -> tuple[Tensor, Tensor | None]:
    """One gated residual layer: convolution, gate, and what it adds to the residual and the skips (WaveNet, fig. 4).

    Args:
        x: (B, T, C)
        skips: (B, T, S), the sum of the layers before, or None for the first.
        weight: (2G, K C), as in `dilated_convolution`.
        bias, frames, hop, offset: as in `gated_activation`.
        out_weight: (C + S, G), out_bias: (C + S,); the residual's rows first. S may be 0.
        dilation: samples between two taps.

    Returns:
        x + residual (B, T, C), skips + skip (B, T, S), or None where S is 0; both of the type of x, whatever that of
        the products.
    """
    C = x.shape[2]
    gated = gated_activation(dilated_convolution(x, weight, dilation), bias, frames, hop, offset)  # (B, T, G)
    out = F.linear(gated, out_weight, out_bias)  # (B, T, C + S)
    y, skip = (x + out[..., :C]).to(x.dtype), out[..., C:] if out.shape[2] > C else None
    if skip is None:
        return y, None
    return y, (skip if skips is None else skips + skip).to(x.dtype)


def logistic_mixture_log_density(
    logits: Tensor, means: Tensor, log_scales: Tensor, x: Tensor, half_bin: float
) -> Tensor:
    """Log density of a mixture of logistics, each smoothed over a bin: ln sum_k pi_k [F_k(x + h) - F_k(x - h)] / 2h.

    The difference of two sigmoids cancels in float32 where s >> h, so it is taken in log space, where it is exact:
    F(b) - F(a) = sigmoid(b) sigmoid(-a) (1 - exp(a - b)).

    Args:
        logits, means, log_scales: (..., K), the unnormalised log weights and the components.
        x: (..., N), any real numbers, N for each mixture.
        half_bin: h.

    Returns:
        (..., N), nats
    """
    inverse_scales = torch.exp(-log_scales)[..., None, :]  # (..., 1, K)
    centred = x[..., None] - means[..., None, :]  # (..., N, K)
    upper = (centred + half_bin) * inverse_scales
    lower = (centred - half_bin) * inverse_scales
    log_mass = F.logsigmoid(upper) + F.logsigmoid(-lower) + torch.log(-torch.expm1(-2 * half_bin * inverse_scales))
    log_weights = torch.log_softmax(logits, dim=-1)[..., None, :]
    return torch.logsumexp(log_weights + log_mass, dim=-1) - math.log(2 * half_bin)


def logistic_mixture_cross_entropy(
    logits: Tensor, means: Tensor, log_scales: Tensor, loc: Tensor, log_scale: Tensor, draws: Tensor, half_bin: float
) -> Tensor:
    """Cross-entropy of logistic variables with mixtures, by Monte Carlo: mean_n -ln p(loc + exp(log_scale) logit(u_n)).

    The draws are reparameterised, so that location and scale get their gradients (Parallel WaveNet, section 4).
    Computed in blocks of rows, and again in the backward pass: memory does not grow as rows N K.

    Args:
        logits, means, log_scales, half_bin: the mixtures (..., K), as in `logistic_mixture_log_density`.
        loc, log_scale: (...), the logistic variables.
        draws: (..., N), u in (0, 1); no gradient reaches them.

    Returns:
        (...), nats
    """
    K, N = logits.shape[-1], draws.shape[-1]
    rows = [tensor.reshape(-1, K) for tensor in (logits, means, log_scales)]
    rows += [loc.reshape(-1), log_scale.reshape(-1), draws.detach().reshape(-1, N)]
    count, length = loc.numel(), max(1, _BLOCK // (N * K))
    blocks = ([tensor[r : r + length] for tensor in rows] for r in range(0, max(1, count), length))
    return torch.cat(
        [
            checkpoint(_cross_entropy, *block, half_bin, use_reentrant=False, preserve_rng_state=False)
            for block in blocks
        ]
    ).view(loc.shape)


def _cross_entropy(
    logits: Tensor, means: Tensor, log_scales: Tensor, loc: Tensor, log_scale: Tensor, draws: Tensor, half_bin: float
) -> Tensor:
    x = loc[:, None] + torch.exp(log_scale)[:, None] * torch.logit(draws)  # (rows, N)
    return -logistic_mixture_log_density(logits, means, log_scales, x, half_bin).mean(dim=-1)
