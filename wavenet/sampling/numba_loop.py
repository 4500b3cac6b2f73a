"""The compiled loop of the numba backend: some utterances, one sample after the other, nothing allocated on the way.

Letters as in packing.py, and U utterances. Arithmetic is that of the reference up to rounding, and the same for an
utterance whatever else is computed beside it; a vector's own dtype is kept throughout, for float32 that slips into
float64 halves the speed.
"""

import math
from typing import NamedTuple

import numpy as np
from numba import types

from wavenet.sampling.compilation import compiled
from wavenet.sampling.numba_pieces import draw, embed, gate
from wavenet.sampling.packing import PARTS, Array, PackedNetwork, PackedOutput
from wavenet.sampling.vectors import Counters, add_products, observe, publish

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
    excitation: Array,
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
        excitation: (B, L hop, E), or empty
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
    late = 0
    for i in range(x.shape[1]):
        moment = _moment(t + i, 1 + i * (N + 1), hop, frames.shape[1])
        _enter(network, output, excitation, first, moment.t, scratch)
        late += _layers(network, frames, moment, rings, first, scratch, shared, member, members)
        _head(network, shared.total, moment.t % 2, scratch)
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
            scratch.previous[u] = draw(output, row, noise[first + u, i])
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
def _enter(
    network: PackedNetwork, output: PackedOutput, excitation: Array, first: int, t: int, scratch: _Scratch
) -> None:
    """x[t - 1] and the excitation of x[t] -> the newest input of layer 0."""
    inputs, weight, bias = scratch.inputs, network.first_weight, network.first_bias
    excitation_weight, C = network.excitation_weight, network.first_weight.shape[0]
    newest = inputs.shape[1] - C
    for u in range(scratch.previous.shape[0]):
        embedded = weight.dtype.type(embed(output, scratch.previous[u]))
        for c in range(C):
            inputs[u, newest + c] = weight[c] * embedded + bias[c]
        for e in range(excitation_weight.shape[0]):
            now = excitation[first + u, t, e]
            for c in range(C):
                inputs[u, newest + c] += excitation_weight[e, c] * now


@compiled
def _layers(
    network: PackedNetwork,
    frames: Array,
    moment: _Moment,
    rings: Array,
    first: int,
    scratch: _Scratch,
    shared: Shared,
    member: int,
    members: int,
) -> int:
    """The newest input of layer 0 -> that of the head, in `scratch.inputs` and `shared.total`; how often one was late.

    numba counts a reference wherever it takes an array out of a tuple, a fifth of the time if that were in the loop.
    """
    taps, residual_weight, skip_weight = network.taps, network.residual_weight, network.skip_weight
    residual_bias, skip_bias = network.residual_bias, network.skip_bias
    dilations, ring_starts, C = network.dilations, network.ring_starts, network.first_weight.shape[0]
    inputs, pre, gated, U = scratch.inputs, scratch.pre, scratch.gated, scratch.gated.shape[0]
    residual, total, steps = shared.residual, shared.total, shared.steps
    other, step, late = (members - 1 - member) * _LINE, moment.step, 0  # a team of one waits for itself
    for part in range(member, PARTS, members):
        _start(skip_bias, 0, total, moment.t % 2, part)
    for layer in range(dilations.shape[0]):
        start, dilation = ring_starts[layer], dilations[layer]
        _recall(rings, start, dilation, moment.t, first, inputs, C)
        for part in range(member, PARTS, members):
            matrix = layer * PARTS + part
            _interpolate(frames, moment, layer, part, first, pre)
            add_products(inputs, taps, matrix, pre, 0, U)
            gate(pre, gated)
            _start(residual_bias, layer, residual, layer % 2, part)
            at = (layer % 2 * PARTS + part) * U * residual.shape[3]
            add_products(gated, residual_weight, matrix, residual, at, U)
            publish(steps, member * _LINE, step + layer)
            at = (moment.t % 2 * PARTS + part) * U * total.shape[3]
            add_products(gated, skip_weight, matrix, total, at, U)
        late += _await(steps, other, step + layer)
        _renew(rings, start, dilation, moment.t, first, inputs, C, residual, layer % 2, member == 0)
    publish(steps, member * _LINE, step + dilations.shape[0])
    return late + _await(steps, other, step + dilations.shape[0])


@compiled
def _start(bias: Array, layer: int, y: Array, turn: int, part: int) -> None:
    for u in range(y.shape[2]):
        for c in range(y.shape[3]):
            y[turn, part, u, c] = bias[part, layer, c]


@compiled
def _recall(rings: Array, start: int, dilation: int, t: int, first: int, inputs: Array, channels: int) -> None:
    """The past inputs of a layer, out of its ring buffer."""
    taps = inputs.shape[1] // channels - 1
    for k in range(taps):
        row = start + (t + k * dilation) % (taps * dilation)
        for u in range(inputs.shape[0]):
            for c in range(channels):
                inputs[u, k * channels + c] = rings[row, first + u, c]


@compiled
def _renew(
    rings: Array,
    start: int,
    dilation: int,
    t: int,
    first: int,
    inputs: Array,
    channels: int,
    residual: Array,
    turn: int,
    writes: bool,
) -> None:
    """The layer's input goes into its ring buffer, by one member, for all have read the row; and becomes its output."""
    newest = inputs.shape[1] - channels
    row = start + t % (newest // channels * dilation)
    for u in range(inputs.shape[0]):
        if writes:
            for c in range(channels):
                rings[row, first + u, c] = inputs[u, newest + c]
        for c in range(channels):
            inputs[u, newest + c] += residual[turn, 0, u, c] + residual[turn, 1, u, c]


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
    total, head, params, inputs = scratch.total, scratch.head, scratch.params, scratch.inputs
    U, C, S = total.shape[0], network.first_weight.shape[0], shares.shape[3]
    newest, zero = inputs.shape[1] - C, total.dtype.type(0)
    scale = total.dtype.type(1 / math.sqrt(network.dilations.shape[0]))
    for u in range(U):
        for c in range(0 if S else C):
            total[u, c] = max(inputs[u, newest + c], zero)
        for s in range(S):
            total[u, s] = max((shares[turn, 0, u, s] + shares[turn, 1, u, s]) * scale, zero)
    _dense(total, network.hidden_weight, network.hidden_bias, head)
    for u in range(U):
        for h in range(head.shape[1]):
            head[u, h] = max(head[u, h], zero)
    _dense(head, network.last_weight, network.last_bias, params)


@compiled
def _dense(x: Array, weight: Array, bias: Array, y: Array) -> None:
    for u in range(y.shape[0]):
        for o in range(y.shape[1]):
            y[u, o] = bias[o]
    add_products(x, weight, 0, y, 0, y.shape[0])
