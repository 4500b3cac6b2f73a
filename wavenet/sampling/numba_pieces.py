"""What the compiled loop does to single numbers: the gate, and the way into and out of the network."""

import math

import numpy as np

from wavenet.sampling.compilation import compiled
from wavenet.sampling.packing import MOL, MULAW, Array, PackedOutput


@compiled
def gate(pre: Array, gated: Array) -> None:
    """tanh(a) * sigmoid(b) of the two halves (a, b) of pre (U, 2 Q)."""
    Q, half = gated.shape[1], np.float32(0.5)
    for u in range(gated.shape[0]):
        if gated.itemsize == 4:
            for q in range(Q):
                gated[u, q] = tanh32(pre[u, q]) * (half + half * tanh32(half * pre[u, Q + q]))
        else:
            for q in range(Q):
                gated[u, q] = math.tanh(pre[u, q]) / (1 + math.exp(-pre[u, Q + q]))


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


@compiled
def tanh32(x: np.float32) -> np.float32:
    x = min(max(x, -_LIMIT), _LIMIT)
    square = x * x
    odd = _ODD[0]
    for a in _ODD[1:]:
        odd = odd * square + a
    even = _EVEN[0]
    for b in _EVEN[1:]:
        even = even * square + b
    return x * odd / even


@compiled
def embed(output: PackedOutput, x: float) -> float:
    """`OutputDistribution.embed`"""
    if output.kind != MULAW:
        return x / output.unit
    return math.copysign(math.log1p(255.0 * abs(x)) / math.log1p(255.0), x)


@compiled
def draw(output: PackedOutput, params: Array, noise: Array) -> float:
    """`OutputDistribution.sample`; overwrites the parameters of a categorical choice."""
    if output.kind == MULAW:
        return output.levels[choose(params, noise[0])]
    if output.kind == MOL:
        K = params.shape[0] // 3
        k = choose(params[:K], noise[0])
        scale = math.exp(max(params[2 * K + k], output.log_scale_floor))
        x = output.unit * params[K + k] + scale * (math.log(noise[1]) - math.log1p(-noise[1]))
        return min(max(np.rint(x * 32768.0), -32768.0), 32767.0) / 32768.0
    return output.unit * params[0] + math.exp(max(params[1], output.log_scale_floor)) * noise[0]


@compiled
def choose(logits: Array, uniform: float) -> int:
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
