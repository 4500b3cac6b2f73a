"""The compiled loop of the numba backend: some utterances, one sample after the other, nothing allocated on the way.

Letters as in packing.py, and U utterances. Arithmetic is that of the reference up to rounding, and the same for an
utterance whatever else is computed beside it; a vector's own dtype is kept throughout, for float32 that slips into
float64 halves the speed.
"""

import math
from typing import NamedTuple

import numpy as np
from numba import types

from wavenet.sampling.packing import MOL, MULAW, PARTS, Array, PackedNetwork, PackedOutput
from wavenet.sampling.vectors import Counters, add_products, compiled, observe, publish

_LINE = 16  # counters between those of two threads, so that they do not share a line of the cache
_PATIENCE = 20_000  # looks at a counter before the processor is offered to others

_yield_processor = types.ExternalFunction("sched_yield", types.int32())


class Shared(NamedTuple):
    """What the members of a team, one or two threads, exchange. Even and odd layers (samples) take turns in `residual`
    (`total`): a member may write the next while the other still reads the last."""

    residual: Array  # (2, PARTS, U, C')
    total: Array  # (2, PARTS, U, S')
    steps: Counters  # (2 _LINE,), how far each member is


class _Scratch(NamedTuple):
    """What a member needs for itself."""

    inputs: Array  # (U, K C), the taps of a layer: its past inputs, then its input
    pre: Array  # (U, 2 Q), before the gate
    gated: Array  # (U, Q)
    total: Array  # (U, H')
    head: Array  # (U, H')
    params: Array  # (U, P')
    previous: Array  # (U,)


class _Moment(NamedTuple):
    """A sample's number, and where it lies between two frames."""

    t: int
    step: int  # what a member publishes after its share of layer 0
    left: int  # frame
    right: int  # frame
    weight: float  # of the right one


def shared(network: PackedNetwork, count: int) -> Shared:
    dtype = network.first_weight.dtype
    return Shared(
        np.zeros((2, PARTS, count, network.residual_bias.shape[2]), dtype),
        np.zeros((2, PARTS, count, network.skip_bias.shape[2]), dtype),
        np.zeros(2 * _LINE, np.int64),
    )


@compiled
def run(
    network: PackedNetwork,
    output: PackedOutput,
    frames: Array,
    hop: int,
    noise: Array,
    t: int,
    previous: Array,
    rings: Array,
    x: Array,
    params: Array,
    first: int,
    shared: Shared,
    member: int,
    members: int,
) -> int:
    """Samples `t .. t + T` of the utterances `first .. first + U` of a batch, by one member of a team.

    Both members of a team of two compute what is small, a layer's sum and the head, so that they meet once a layer; the
    other part of the skip connections is computed in the meantime.

    Args:
        frames: (B or 1, L, N, 2, 2 Q)
        noise: (B, T, n_noise), or (0, 0, 0) where x is given and only its parameters are wanted.
        previous: (B,), x[t - 1].
        rings: (rows, B, C), advanced in place.
        x: (B, T), given or written.
        params: (B, T, P), written if T > 0.

    Returns:
        how often the other member was late
    """
    scratch, N = _scratch(network, frames, shared.residual.shape[2]), network.dilations.shape[0]
    scratch.previous[:] = previous[first : first + scratch.previous.shape[0]]
    other, late = (members - 1 - member) * _LINE, 0  # a team of one waits for itself
    for i in range(x.shape[1]):
        moment = _moment(t + i, 1 + i * (N + 1), hop, frames.shape[1])
        _enter(network, output, scratch)
        for part in range(member, PARTS, members):
            _start(network.skip_bias, 0, shared.total, (t + i) % 2, part)
        for layer in range(N):
            _recall(network, t + i, layer, rings, first, scratch.inputs)
            for part in range(member, PARTS, members):
                _part(network, frames, moment, layer, part, first, scratch, shared, member)
            late += _await(shared.steps, other, moment.step + layer)
            _renew(network, t + i, layer, rings, first, scratch.inputs, shared.residual, member == 0)
        publish(shared.steps, member * _LINE, moment.step + N)
        late += _await(shared.steps, other, moment.step + N)
        _head(network, shared.total, (t + i) % 2, scratch)
        _emit(output, noise, x, params, first, i, scratch, member == 0)
    return late


@compiled
def _emit(
    output: PackedOutput, noise: Array, x: Array, params: Array, first: int, i: int, scratch: _Scratch, writes: bool
) -> None:
    """x[t], drawn or given, into `scratch.previous`; one member writes what was asked for."""
    for u in range(scratch.previous.shape[0]):
        row = scratch.params[u, : output.n_params]
        if params.shape[1] and writes:
            params[first + u, i] = row
        if noise.shape[0]:
            scratch.previous[u] = _draw(output, row, noise[first + u, i])
            if writes:
                x[first + u, i] = scratch.previous[u]
        else:
            scratch.previous[u] = x[first + u, i]


@compiled
def _scratch(network: PackedNetwork, frames: Array, count: int) -> _Scratch:
    C, dtype = network.first_weight.shape[0], network.first_weight.dtype
    Q, H = frames.shape[4] // 2, network.hidden_bias.shape[0]
    return _Scratch(
        np.zeros((count, network.kernel * C), dtype),
        np.zeros((count, 2 * Q), dtype),
        np.zeros((count, Q), dtype),
        np.zeros((count, H), dtype),
        np.zeros((count, H), dtype),
        np.zeros((count, network.last_bias.shape[0]), dtype),
        np.zeros(count, dtype),
    )


@compiled
def _enter(network: PackedNetwork, output: PackedOutput, scratch: _Scratch) -> None:
    """`OutputDistribution.embed` and the first layer: x[t - 1] -> the newest input of layer 0."""
    C = network.first_weight.shape[0]
    newest = scratch.inputs.shape[1] - C
    for u in range(scratch.previous.shape[0]):
        embedded = scratch.previous[u] / output.unit
        if output.kind == MULAW:
            x = scratch.previous[u]
            embedded = math.copysign(math.log1p(255.0 * abs(x)) / math.log1p(255.0), x)
        for c in range(C):
            scratch.inputs[u, newest + c] = network.first_weight[c] * embedded + network.first_bias[c]


@compiled
def _part(
    network: PackedNetwork,
    frames: Array,
    moment: _Moment,
    layer: int,
    part: int,
    first: int,
    scratch: _Scratch,
    shared: Shared,
    member: int,
) -> None:
    """A part of a layer, from `scratch.inputs` to its shares of `residual` and `total`.

    No branch and no loop: numba then counts no references here, which would take an eighth of the time.
    """
    matrix, count = layer * PARTS + part, scratch.gated.shape[0]
    at = (layer % 2 * PARTS + part) * count * shared.residual.shape[3]
    _interpolate(frames, moment, layer, part, first, scratch.pre)
    add_products(scratch.inputs, network.taps, matrix, scratch.pre, 0, count)
    _gate(scratch.pre, scratch.gated)
    _start(network.residual_bias, layer, shared.residual, layer % 2, part)
    add_products(scratch.gated, network.residual_weight, matrix, shared.residual, at, count)
    publish(shared.steps, member * _LINE, moment.step + layer)
    at = (moment.t % 2 * PARTS + part) * count * shared.total.shape[3]
    add_products(scratch.gated, network.skip_weight, matrix, shared.total, at, count)


@compiled
def _start(bias: Array, layer: int, y: Array, turn: int, part: int) -> None:
    for u in range(y.shape[2]):
        for c in range(y.shape[3]):
            y[turn, part, u, c] = bias[part, layer, c]


@compiled
def _recall(network: PackedNetwork, t: int, layer: int, rings: Array, first: int, inputs: Array) -> None:
    """The past inputs of a layer out of its ring buffer."""
    C, dilation, start = network.first_weight.shape[0], network.dilations[layer], network.ring_starts[layer]
    taps = network.kernel - 1
    for k in range(taps):
        row = start + (t + k * dilation) % (taps * dilation)
        for u in range(inputs.shape[0]):
            for c in range(C):
                inputs[u, k * C + c] = rings[row, first + u, c]


@compiled
def _renew(
    network: PackedNetwork, t: int, layer: int, rings: Array, first: int, inputs: Array, residual: Array, writes: bool
) -> None:
    """The layer's input goes into its ring buffer, by one member, for all have read the row; and becomes its output."""
    C = network.first_weight.shape[0]
    newest = inputs.shape[1] - C
    row = network.ring_starts[layer] + t % ((network.kernel - 1) * network.dilations[layer])
    for u in range(inputs.shape[0]):
        if writes:
            for c in range(C):
                rings[row, first + u, c] = inputs[u, newest + c]
        for c in range(C):
            inputs[u, newest + c] += residual[layer % 2, 0, u, c] + residual[layer % 2, 1, u, c]


@compiled
def _await(steps: Counters, other: int, step: int) -> int:
    """1 if the other member was so late that its processor seems to be somebody else's, else 0."""
    looks = 0
    while observe(steps, other) < step:
        looks += 1
        if looks > _PATIENCE:
            _yield_processor()
    return int(looks > _PATIENCE)


@compiled
def _moment(t: int, step: int, hop: int, frames: int) -> _Moment:
    """Sample t, in the positions of `interpolate_frames`."""
    shift = (hop + 1) // 2
    segment, within = (t + shift) // hop, (t + shift) % hop + (0.0 if hop % 2 else 0.5)
    return _Moment(t, step, min(max(segment - 1, 0), frames - 1), min(segment, frames - 1), within / hop)


@compiled
def _interpolate(frames: Array, moment: _Moment, layer: int, part: int, first: int, pre: Array) -> None:
    """(B or 1, L, N, 2, 2 Q) -> (U, 2 Q)"""
    weight = pre.dtype.type(moment.weight)
    for u in range(pre.shape[0]):
        b = 0 if frames.shape[0] == 1 else first + u
        for q in range(pre.shape[1]):
            a = frames[b, moment.left, layer, part, q]
            pre[u, q] = a + (frames[b, moment.right, layer, part, q] - a) * weight


@compiled
def _head(network: PackedNetwork, shares: Array, turn: int, scratch: _Scratch) -> None:
    """The skip connections' sum, or the last layer's output -> the parameters."""
    total, head, params = scratch.total, scratch.head, scratch.params
    U, C, S = total.shape[0], network.first_weight.shape[0], shares.shape[3]
    newest, zero = scratch.inputs.shape[1] - C, total.dtype.type(0)
    scale = total.dtype.type(1 / math.sqrt(network.dilations.shape[0]))
    for u in range(U):
        for c in range(0 if S else C):
            total[u, c] = max(scratch.inputs[u, newest + c], zero)
        for s in range(S):
            total[u, s] = max((shares[turn, 0, u, s] + shares[turn, 1, u, s]) * scale, zero)
    head[:], params[:] = 0, 0
    add_products(total, network.hidden_weight, 0, head, 0, U)
    for u in range(U):
        for h in range(head.shape[1]):
            head[u, h] = max(head[u, h] + network.hidden_bias[h], zero)
    add_products(head, network.last_weight, 0, params, 0, U)
    for u in range(U):
        for p in range(params.shape[1]):
            params[u, p] += network.last_bias[p]


@compiled
def _gate(pre: Array, gated: Array) -> None:
    """tanh(a) * sigmoid(b) of the two halves (a, b) of pre (U, 2 Q)."""
    Q, half = gated.shape[1], np.float32(0.5)
    for u in range(gated.shape[0]):
        if gated.itemsize == 4:
            for q in range(Q):
                gated[u, q] = _tanh32(pre[u, q]) * (half + half * _tanh32(half * pre[u, Q + q]))
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


@compiled
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


@compiled
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
