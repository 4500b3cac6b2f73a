# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
# ruff: noqa: N803 (capital letters name tensor sizes and compile-time constants)
"""Mixtures of logistics: a program takes a few of them, a warp wide, and loops over the values or draws of each.

Tiles are (WIDTH, ROWS), components by mixtures. The mixtures lie across the threads, so that a sum over components
takes a shuffle or none, and a sum over values is an addition in a register: no two programs add to the same number, and
the results are the same bits every time. Their number N is 1, or the draws of a configuration: known when a kernel is
compiled, it costs no kernel more, and Triton 3.6 interprets no loop whose end is an argument.

With a = (x - mean) / s, e = exp(-|a|) and q = exp(-h / s), the mass within h of x is

    sigmoid(a + h / s) sigmoid(h / s - a) (1 - q^2) = (1 - q^2) e / D,   D = (e + q) (1 + e q).

What can leave the range of a float is e alone. It is kept as mantissa and power of two, and the greatest power is
subtracted from all: a component costs one division and no exponential but of whole powers of two.
"""

import triton
import triton.language as tl

LN2 = tl.constexpr(0.6931471805599453)
LN2_HIGH = tl.constexpr(0.693145751953125)  # 15 bits: its product with a whole number below 512 is exact
LN2_LOW = tl.constexpr(1.4286068203094173e-06)
LOG2E = tl.constexpr(1.4426950408889634)
MOST = tl.constexpr(40.0)  # of h / s: beyond it a float sees only |a| - h / s, and q must stay a number
NEVER = tl.constexpr(-1e30)  # the logit of a component that is not there

# Beyond these a distance in units of a scale leaves the range of a float, and infinity less infinity is no number: what
# lies beyond counts as what lies there, and has its gradient.
LOG_SCALE_BOUND = tl.constexpr(60.0)
PLACE_BOUND = tl.constexpr(1e11)
LEAST_DRAW = tl.constexpr(2.0**-126)
MOST_DRAW = tl.constexpr(1.0 - 2.0**-24)


@triton.jit(do_not_specialize=["R"])
def log_density_kernel(
    logits, means, log_scales, x, out, R,
    N: tl.constexpr, K: tl.constexpr, HALF_BIN: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    row, inside, given = _rows(R, ROWS)
    mixture = _mixture(logits, means, log_scales, given, K, HALF_BIN, WIDTH)
    for n in range(N):
        mantissa, power, _, _ = _terms(tl.load(x + given * N + n), mixture)
        value, _, _ = _log_density(mantissa, power)
        tl.store(out + row * N + n, value, mask=inside)


@triton.jit(do_not_specialize=["R"])
def log_density_backward_kernel(
    grad, logits, means, log_scales, x, logits_grad, means_grad, log_scales_grad, x_grad, R,
    N: tl.constexpr, K: tl.constexpr, HALF_BIN: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    row, inside, given = _rows(R, ROWS)
    mixture = _mixture(logits, means, log_scales, given, K, HALF_BIN, WIDTH)
    logit_sum = tl.zeros([WIDTH, ROWS], tl.float32)
    mean_sum, scale_sum = logit_sum, logit_sum
    total = tl.zeros([ROWS], tl.float32)
    for n in range(N):
        mantissa, power, pull, spread = _terms(tl.load(x + given * N + n), mixture)
        _, density, shares = _log_density(mantissa, power)
        up = tl.load(grad + given * N + n)
        part = (up / density)[None, :] * shares
        logit_sum += part
        mean_sum += part * pull
        scale_sum += part * spread
        total += up
        tl.store(x_grad + row * N + n, -tl.sum(part * pull, axis=0), mask=inside)
    _store_slopes(
        logits_grad, means_grad, log_scales_grad, row, inside, mixture, logit_sum, mean_sum, scale_sum, total, K, WIDTH
    )


@triton.jit(do_not_specialize=["R"])
def cross_entropy_kernel(
    logits, means, log_scales, loc, log_scale, draws, out,
    logits_grad, means_grad, log_scales_grad, loc_grad, log_scale_grad, R,
    N: tl.constexpr, K: tl.constexpr, HALF_BIN: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """The value and, where there is a place for them, its gradients."""
    row, inside, given = _rows(R, ROWS)
    mixture = _mixture(logits, means, log_scales, given, K, HALF_BIN, WIDTH)
    centre = tl.load(loc + given)
    scale = _exp(_within(-LOG_SCALE_BOUND, LOG_SCALE_BOUND, tl.load(log_scale + given)))
    logit_sum = tl.zeros([WIDTH, ROWS], tl.float32)
    mean_sum, scale_sum = logit_sum, logit_sum
    total = tl.zeros([ROWS], tl.float32)
    loc_sum, log_scale_sum = total, total
    each = -1.0 / N
    for n in range(N):
        u = _within(LEAST_DRAW, MOST_DRAW, tl.load(draws + given * N + n))
        centred = scale * tl.log(u / (1.0 - u))
        mantissa, power, pull, spread = _terms(centre + centred, mixture)
        value, density, shares = _log_density(mantissa, power)
        total += value
        if logits_grad is not None:
            part = (each / density)[None, :] * shares
            logit_sum += part
            mean_sum += part * pull
            scale_sum += part * spread
            slope = -tl.sum(part * pull, axis=0)
            loc_sum += slope
            log_scale_sum += slope * centred
    tl.store(out + row, total * each, mask=inside)
    if logits_grad is not None:
        tl.store(loc_grad + row, loc_sum, mask=inside)
        tl.store(log_scale_grad + row, log_scale_sum, mask=inside)
        ones = tl.full([ROWS], -1.0, tl.float32)
        _store_slopes(
            logits_grad, means_grad, log_scales_grad, row, inside,
            mixture, logit_sum, mean_sum, scale_sum, ones, K, WIDTH,
        )  # fmt: skip


@triton.jit
def _rows(R, ROWS: tl.constexpr):
    """This program's mixtures (ROWS,), which of them exist, and the same with the last one in place of those after it.

    Of the latter the compiler does not know that they are neighbours: tiles that are read through them keep a mixture a
    thread.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    return row.to(tl.int64), row < R, tl.minimum(row, R - 1).to(tl.int64)


@triton.jit
def _mixture(logits, means, log_scales, row, K: tl.constexpr, HALF_BIN: tl.constexpr, WIDTH: tl.constexpr):
    """What the terms need of the components (WIDTH, ROWS).

    mean; rate = log2(e) / s; decay = q; excess, what h / s has above MOST, times log2(e); weight and power: weight
    2^power = share (1 - q^2) / 2h; share, the softmax of the logits; edge = q h / s; narrow, (2h / s) /
    (e^(2h / s) - 1).
    """
    k = tl.arange(0, WIDTH)[:, None]
    here = row[None, :] * K + tl.minimum(k, K - 1)
    logit = tl.where(k < K, tl.load(logits + here), NEVER)
    logit = tl.maximum((logit - tl.max(logit, axis=0)[None, :]) * LOG2E, NEVER, propagate_nan=tl.PropagateNan.ALL)
    inverse = _exp(-_within(-LOG_SCALE_BOUND, LOG_SCALE_BOUND, tl.load(log_scales + here)))
    reach = inverse * HALF_BIN
    most = tl.minimum(reach, MOST, propagate_nan=tl.PropagateNan.ALL)
    gap = -_exp2m1(most * (-2.0 * LOG2E))  # 1 - q^2
    decay = _exp(-most)
    power = _round(logit)
    weight = _exp2m1_fraction(logit - power) + 1.0
    share = weight * tl.exp2(power)
    total = tl.sum(share, axis=0)[None, :]
    return (
        _within(-PLACE_BOUND, PLACE_BOUND, tl.load(means + here)),
        inverse * LOG2E,
        decay,
        (reach - most) * LOG2E,
        weight * gap / (2.0 * HALF_BIN * total),
        power,
        share / total,
        decay * reach,
        2.0 * most * (1.0 - gap) / gap,
    )


@triton.jit
def _terms(x, mixture):
    """The components' shares of the density at x (ROWS,), as mantissa 2^power, and the slopes of their logarithms.

    pull: in the mean, and with the other sign in x; spread: in ln s, plus `narrow`.
    """
    mean, rate, decay, excess, weight, logit, _, edge, _ = mixture
    centred = _within(-PLACE_BOUND, PLACE_BOUND, x)[None, :] - mean
    a = tl.abs(centred) * rate
    near = tl.maximum(a - excess, 0.0, propagate_nan=tl.PropagateNan.ALL)
    whole = _round(near)
    over = _exp2m1_fraction(whole - near)
    power = tl.exp2(-whole)
    e = over * power + power
    inverse = 1.0 / ((e + decay) * (e * decay + 1.0))
    less = (1.0 - power) - over * power  # 1 - e, to the last bits where e is almost 1
    pull = decay * less * (1.0 + e) * inverse
    spread = a * LN2 * pull - edge * (e * (decay + decay + e) + 1.0) * inverse
    signed = tl.where(centred < 0.0, -pull, pull) * (rate * LN2)
    return weight * (1.0 + over) * inverse, logit - whole, signed, spread


@triton.jit
def _log_density(mantissa, power):
    """Log density (ROWS,), and 2^-top times what it is the logarithm of, in all and a component."""
    top = tl.max(power, axis=0)
    shares = mantissa * tl.exp2(power - top[None, :])
    density = tl.sum(shares, axis=0)
    return top * LN2 + tl.log(density), density, shares


@triton.jit
def _store_slopes(
    logits_grad, means_grad, log_scales_grad, row, inside, mixture, logit_sum, mean_sum, scale_sum, total,
    K: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    _, _, _, _, _, _, share, _, narrow = mixture
    k = tl.arange(0, WIDTH)[:, None]
    here, present = row[None, :] * K + k, inside[None, :] & (k < K)
    tl.store(logits_grad + here, logit_sum - total[None, :] * share, mask=present)
    tl.store(means_grad + here, mean_sum, mask=present)
    tl.store(log_scales_grad + here, scale_sum - logit_sum * narrow, mask=present)


@triton.jit
def _within(low, high, x):
    """What is no number stays none."""
    at_least = tl.maximum(x, low, propagate_nan=tl.PropagateNan.ALL)
    return tl.minimum(at_least, high, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _round(x):
    return tl.floor(x + 0.5)


@triton.jit
def _exp2m1_fraction(f):
    """2^f - 1 for f in [-1/2, 1/2], to 1e-8 relative before rounding: a minimax polynomial."""
    y = 1.5403512e-4 * f + 1.33907355e-3
    y = y * f + 9.61823749e-3
    y = y * f + 5.55035743e-2
    y = y * f + 2.40226498e-1
    return (y * f + 6.93147188e-1) * f


@triton.jit
def _exp2m1(x):
    """2^x - 1, accurate to the last bits where x is small."""
    whole = _round(x)
    power = tl.exp2(whole)
    return _exp2m1_fraction(x - whole) * power + (power - 1.0)


@triton.jit
def _exp(x):
    """To the last bits, also where x is large: the multiple of ln 2 is subtracted in two parts."""
    whole = _round(x * LOG2E)
    rest = (x - whole * LN2_HIGH) - whole * LN2_LOW
    return (_exp2m1_fraction(rest * LOG2E) + 1.0) * tl.exp2(whole)
