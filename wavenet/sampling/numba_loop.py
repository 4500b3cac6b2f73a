"""The compiled loops of the numba backend: one utterance, one sample after the other, nothing allocated on the way.

Letters as in packing.py: N layers, C residual, G gate (both halves), S skip channels, H head channels, P parameters.
Arithmetic is that of the reference up to rounding; a vector's own dtype is kept throughout, for float32 that slips
into float64 halves the speed.
"""

import math
from collections.abc import Callable
from typing import NamedTuple, TypeVar, cast

import numpy as np
from numba import njit

from wavenet.sampling.packing import MOL, MULAW, Array, PackedNetwork, PackedOutput

Function = TypeVar("Function", bound=Callable[..., object])


def _compiled(function: Function) -> Function:
    """Contraction lets a product and a sum become one instruction; sums keep their order."""
    compiler = njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
    return cast(Function, compiler(function))


class _Scratch(NamedTuple):
    """What one sample needs besides weights and ring buffers."""

    frame: Array  # (N, G), the condition at this sample
    hidden: Array  # (C,)
    pre: Array  # (G,), before the gate
    gated: Array  # (G / 2,)
    out: Array  # (C + S,)
    total: Array  # (H,)
    head: Array  # (H,)


@_compiled
def generate(
    network: PackedNetwork,
    output: PackedOutput,
    frames: Array,
    hop: int,
    noise: Array,
    t: int,
    previous: float,
    rings: Array,
    x: Array,
) -> None:
    """Samples `t .. t + T` into x (T,), from frames (L, N, G), noise (T, n_noise), x[t - 1] and rings (rows, C)."""
    scratch = _scratch(network)
    params = np.empty_like(network.last_bias)
    for i in range(x.shape[0]):
        _advance(network, frames, hop, _embed(output, previous), t + i, rings, scratch, params)
        x[i] = _draw(output, params, noise[i])
        previous = x[i]


@_compiled
def score(
    network: PackedNetwork,
    output: PackedOutput,
    frames: Array,
    hop: int,
    x: Array,
    t: int,
    previous: float,
    rings: Array,
    params: Array,
) -> None:
    """Parameters (T, P) of the given samples x (T,), which are number `t .. t + T`."""
    scratch = _scratch(network)
    for i in range(x.shape[0]):
        _advance(network, frames, hop, _embed(output, previous), t + i, rings, scratch, params[i])
        previous = x[i]


@_compiled
def _scratch(network: PackedNetwork) -> _Scratch:
    N, _, C, G = network.taps.shape
    H, dtype = network.hidden_bias.shape[0], network.taps.dtype
    return _Scratch(
        np.empty((N, G), dtype),
        np.empty(C, dtype),
        np.empty(G, dtype),
        np.empty(G // 2, dtype),
        np.empty(network.out_bias.shape[1], dtype),
        np.empty(H, dtype),
        np.empty(H, dtype),
    )


@_compiled
def _embed(output: PackedOutput, x: float) -> float:
    """`OutputDistribution.embed`"""
    if output.kind != MULAW:
        return x / output.unit
    return math.copysign(math.log1p(255.0 * abs(x)) / math.log1p(255.0), x)


@_compiled
def _advance(
    network: PackedNetwork,
    frames: Array,
    hop: int,
    embedded: float,
    t: int,
    rings: Array,
    scratch: _Scratch,
    params: Array,
) -> None:
    """One column of the network: what x[t - 1] embeds to -> the parameters (P,) of x[t]."""
    N, K, C, _ = network.taps.shape
    hidden, pre, gated, out, total = scratch.hidden, scratch.pre, scratch.gated, scratch.out, scratch.total
    _interpolate(frames, hop, t, scratch.frame)
    for c in range(C):
        hidden[c] = network.first_weight[c] * embedded + network.first_bias[c]
    total[:] = 0
    for layer in range(N):
        dilation, start = network.dilations[layer], network.ring_starts[layer]
        reach = (K - 1) * dilation
        pre[:] = scratch.frame[layer]
        for k in range(K - 1):
            past = rings[start + (t - (K - 1 - k) * dilation) % reach]
            _add_product(past, network.taps[layer, k], pre)
        _add_product(hidden, network.taps[layer, K - 1], pre)
        rings[start + t % reach] = hidden
        _gate(pre, gated)
        out[:] = network.out_bias[layer]
        _add_product(gated, network.out_weight[layer], out)
        for c in range(C):
            hidden[c] += out[c]
        for c in range(C, out.shape[0]):
            total[c - C] += out[c]
    if out.shape[0] == C:  # no skip connections
        total[:] = hidden
    else:
        total *= total.dtype.type(1 / math.sqrt(N))
    _head(network, total, scratch.head, params)


@_compiled
def _head(network: PackedNetwork, total: Array, head: Array, params: Array) -> None:
    _relu(total)
    head[:] = network.hidden_bias
    _add_product(total, network.hidden_weight, head)
    _relu(head)
    params[:] = network.last_bias
    _add_product(head, network.last_weight, params)


@_compiled
def _interpolate(frames: Array, hop: int, t: int, frame: Array) -> None:
    """`interpolate_frames` for sample t: (L, N, G) -> (N, G)"""
    L = frames.shape[0]
    shift = (hop + 1) // 2
    segment = (t + shift) // hop
    left, right = frames[min(max(segment - 1, 0), L - 1)], frames[min(segment, L - 1)]
    weight = frame.dtype.type(((t + shift) % hop + (0.0 if hop % 2 else 0.5)) / hop)
    for layer in range(frame.shape[0]):
        for g in range(frame.shape[1]):
            frame[layer, g] = left[layer, g] + (right[layer, g] - left[layer, g]) * weight


@_compiled
def _add_product(x: Array, weight: Array, y: Array) -> None:
    """y += x @ weight, (in,) times (in, out); four rows at a time, so that y is loaded and stored less often."""
    n = x.shape[0] // 4 * 4
    for i in range(0, n, 4):
        a, b, c, d = x[i], x[i + 1], x[i + 2], x[i + 3]
        for o in range(y.shape[0]):
            y[o] += a * weight[i, o] + b * weight[i + 1, o] + c * weight[i + 2, o] + d * weight[i + 3, o]
    for i in range(n, x.shape[0]):
        a = x[i]
        for o in range(y.shape[0]):
            y[o] += a * weight[i, o]


@_compiled
def _relu(x: Array) -> None:
    zero = x.dtype.type(0)
    for i in range(x.shape[0]):
        x[i] = max(x[i], zero)


@_compiled
def _gate(pre: Array, gated: Array) -> None:
    """tanh(a) * sigmoid(b) of the two halves (a, b) of pre (G,)."""
    G = gated.shape[0]
    if gated.itemsize == 4:
        half = np.float32(0.5)
        for g in range(G):
            gated[g] = _tanh32(pre[g]) * (half + half * _tanh32(half * pre[G + g]))
    else:
        for g in range(G):
            gated[g] = math.tanh(pre[g]) / (1 + math.exp(-pre[G + g]))


# Eigen's rational approximation, odd over even powers from the highest, right to a few units in the last place. A loop
# over it vectorises; one over the C library's tanh and exp does not, and would take half of the time.
_LIMIT = np.float32(7.90531110763549805)
_ODD = tuple(
    np.float32(a)
    for a in (
        -2.76076847742355e-16,
        2.00018790482477e-13,
        -8.60467152213735e-11,
        5.12229709037114e-08,
        1.48572235717979e-05,
        6.37261928875436e-04,
        4.89352455891786e-03,
    )
)
_EVEN = tuple(
    np.float32(b) for b in (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03)
)


@_compiled
def _tanh32(x: np.float32) -> np.float32:
    x = min(max(x, -_LIMIT), _LIMIT)
    square = x * x
    odd = _ODD[0]
    for a in _ODD[1:]:
        odd = odd * square + a
    even = _EVEN[0]
    for b in _EVEN[1:]:
        even = even * square + b
    return x * odd / even


@_compiled
def _draw(output: PackedOutput, params: Array, noise: Array) -> float:
    """`OutputDistribution.sample`; overwrites the parameters of a categorical choice."""
    if output.kind == MULAW:
        return output.levels[_choose(params, noise[0])]
    if output.kind == MOL:
        K = params.shape[0] // 3
        k = _choose(params[:K], noise[0])
        scale = math.exp(max(params[2 * K + k], output.log_scale_floor))
        x = output.unit * params[K + k] + scale * (math.log(noise[1]) - math.log1p(-noise[1]))
        return min(max(np.rint(x * 32768.0), -32768.0), 32767.0) / 32768.0
    return output.unit * params[0] + math.exp(max(params[1], output.log_scale_floor)) * noise[0]


@_compiled
def _choose(logits: Array, uniform: float) -> int:
    """The first class whose cumulative probability exceeds the uniform; overwrites the logits."""
    K = logits.shape[0]
    peak = logits[0]
    for k in range(1, K):
        peak = max(peak, logits[k])
    total = 0.0
    for k in range(K):
        logits[k] = math.exp(logits[k] - peak)
        total += logits[k]
    cumulative = 0.0
    for k in range(K - 1):
        cumulative += logits[k]
        if cumulative > uniform * total:
            return k
    return K - 1
