"""The operations of the inner loops, one by one: operation x shape x pass x dtype x backend."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor

from recipes.benchmark.flops import layer_flops
from recipes.benchmark.presets import MEL, backends
from recipes.benchmark.rows import Row, copy_limit, matrix_limit, measured
from recipes.benchmark.timing import keep_memory, race
from wavenet.distributions import HALF_BIN
from wavenet.kernels import Backend, native, ops, use_backend

GROUP = "kernels"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
FORWARD, BOTH = "forward", "forward, backward"

ONE, CACHED = "1 sample", "in L2"  # shapes of the gate
LOG_DENSITY, CROSS_ENTROPY = "logistic_mixture_log_density", "logistic_mixture_cross_entropy"


@dataclass(frozen=True)
class Sizes:
    gates: dict[str, int]  # samples T of 64 gated channels
    layers: list[tuple[int, int, int, int]]  # B, T, residual (and gated) channels, skip channels
    mixtures: dict[str, tuple[int, int]]  # mixtures, and values N of each
    repeats: int
    least: float  # seconds of a repetition


FULL = Sizes(
    gates={CACHED: 2048, "out of cache": 2**18},
    layers=[(4, 8192, 64, 64), (1, 8192, 64, 0), (1, 8192, 128, 128)],
    mixtures={LOG_DENSITY: (2**15, 1), CROSS_ENTROPY: (2048, 100)},
    repeats=5,
    least=0.03,
)
QUICK = Sizes(
    gates={CACHED: 16, "out of cache": 64},
    layers=[(1, 64, 16, 16)],
    mixtures={LOG_DENSITY: (8, 1), CROSS_ENTROPY: (4, 3)},
    repeats=2,
    least=0.0,
)
GATED, DILATION, TAPS, COMPONENTS = 64, 16, 3, 10
OVER_TIME = 1  # a weight's gradient sums over samples, which do not lie side by side as tiles want them


class Case(NamedTuple):
    """One contestant."""

    shape: str
    pass_: str
    dtype: str
    backend: Backend

    def labels(self, op: str) -> dict[str, str]:
        return {"op": op, "shape": self.shape, "pass": self.pass_, "dtype": self.dtype, "backend": self.backend}

    def path(self, *summed: int) -> str:
        """Of matrix products that sum over so many numbers: `native.path`."""
        return native.path(self.dtype == "bfloat16", *summed) if self.backend is Backend.native else ""


def gates(threads: int, quick: bool) -> list[Row]:
    """Nanoseconds an output element and core, into memory that the process holds.

    In L2 the call from Python counts: `call (us)` is what one sample takes, `less the call` the figure without.
    """
    sizes = QUICK if quick else FULL
    if not quick:
        keep_memory()  # in this job's own process
    lengths = {ONE: 1, **sizes.gates}
    contestants: dict[Case, Callable[[], object]] = {}
    for shape, samples in lengths.items():
        for dtype in DTYPES:
            contestants |= _gate_cases(shape, samples, dtype)
    seconds, rows = race(contestants, sizes.repeats, sizes.least), []
    for case, values in seconds.items():
        if case.shape == ONE:
            continue
        elements = lengths[case.shape] * GATED
        moved = elements * DTYPES[case.dtype].itemsize * (3 if case.pass_ == FORWARD else 8)  # in, out, and gradients
        figures = [one * threads / elements * 1e9 for one in values]
        row = measured(
            GROUP, case.labels("gated_activation"), "ns an output element and core", figures, path=case.path()
        )
        row.figures["GB/s"] = moved / 1e9 / median(values)
        if case.shape == CACHED:
            call = median(seconds[case._replace(shape=ONE)])
            row.figures |= {"call (us)": 1e6 * call, "less the call": row.value - 1e9 * call * threads / elements}
        else:
            row.limit, row.reached = copy_limit(threads), row.figures["GB/s"]
        rows.append(row)
    return rows


def layers(threads: int, quick: bool) -> list[Row]:
    """GFLOP/s of whole residual layers; bfloat16 by autocast. Forward and backward make three times forward's FLOP."""
    sizes = QUICK if quick else FULL
    contestants: dict[Case, Callable[[], object]] = {}
    flops, widths = dict[str, int](), dict[str, int]()
    for size in sizes.layers:
        batch, samples, residual, skip = size
        shape = f"{batch} x {samples}, {residual} residual, 2 x {residual} gate, {skip} skip"
        widths[shape] = residual
        flops[shape] = batch * samples * layer_flops(residual, 2 * residual, skip, TAPS)
        for dtype in DTYPES:
            contestants |= _layer_cases(shape, size, dtype)
    rows = []
    for case, values in race(contestants, sizes.repeats, sizes.least).items():
        work = flops[case.shape] * (1 if case.pass_ == FORWARD else 3)
        figures = [work / one / 1e9 for one in values]
        summed = (widths[case.shape],) if case.pass_ == FORWARD else (widths[case.shape], OVER_TIME)
        row = measured(GROUP, case.labels("residual_layer"), "GFLOP/s", figures, path=case.path(*summed))
        row.limit, row.reached = matrix_limit(case.dtype, threads), row.value
        rows.append(row)
    return rows


def mixtures(threads: int, quick: bool) -> list[Row]:
    """Nanoseconds a component evaluation and core: rows x N x 10 of them; float32, as the losses are."""
    sizes, rows = QUICK if quick else FULL, []
    for op, (count, draws) in sizes.mixtures.items():
        evaluations = count * draws * COMPONENTS
        cases = _mixture_cases(op, count, draws)
        for case, values in race(cases, sizes.repeats, sizes.least).items():
            figures = [one * threads / evaluations * 1e9 for one in values]
            rows.append(measured(GROUP, case.labels(op), "ns a component and core", figures, path=case.path()))
    return rows


def _gate_cases(shape: str, samples: int, dtype: str) -> dict[Case, Callable[[], object]]:
    sizes = ((1, samples, 2 * GATED), (2 * GATED,), (1, -(-samples // MEL.hop_length), 2 * GATED))
    hidden, bias, frames = (torch.randn(size).to(DTYPES[dtype]).requires_grad_() for size in sizes)

    def compute() -> list[Tensor]:
        return [ops.gated_activation(hidden, bias, frames, MEL.hop_length)]

    return _cases(shape, dtype, compute, [hidden, bias, frames])


def _layer_cases(shape: str, size: tuple[int, int, int, int], dtype: str) -> dict[Case, Callable[[], object]]:
    B, T, C, S = size
    shapes = [(B, T, C), (2 * C, TAPS * C), (2 * C,), (B, -(-T // MEL.hop_length), 2 * C), (C + S, C), (C + S,)]
    inputs = [torch.randn(shape).mul_(0.1).requires_grad_() for shape in shapes]  # about a trained network's
    x, weight, bias, frames, out_weight, out_bias = inputs
    skips = torch.randn(B, T, S).requires_grad_() if S else None

    def compute() -> list[Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            y, after = ops.residual_layer(
                x, skips, weight, bias, frames, out_weight, out_bias, DILATION, MEL.hop_length
            )
        return [y] if after is None else [y, after]

    return _cases(shape, dtype, compute, inputs if skips is None else [*inputs, skips])


def _mixture_cases(op: str, count: int, draws: int) -> dict[Case, Callable[[], object]]:
    logits, means, log_scales = (torch.randn(count, COMPONENTS).requires_grad_() for _ in range(3))
    loc, log_scale = (torch.randn(count).requires_grad_() for _ in range(2))
    x, uniform = torch.randn(count, draws).requires_grad_(), torch.rand(count, draws).clamp(1e-6, 1 - 1e-6)

    def log_density() -> list[Tensor]:
        return [ops.logistic_mixture_log_density(logits, means, log_scales, x, HALF_BIN)]

    def cross_entropy() -> list[Tensor]:
        return [ops.logistic_mixture_cross_entropy(logits, means, log_scales, loc, log_scale, uniform, HALF_BIN)]

    shape, mixture = f"{count} rows of {draws}", [logits, means, log_scales]
    if op == LOG_DENSITY:
        return _cases(shape, "float32", log_density, [*mixture, x])
    return _cases(shape, "float32", cross_entropy, [*mixture, loc, log_scale])


def _cases(
    shape: str, dtype: str, compute: Callable[[], list[Tensor]], inputs: list[Tensor]
) -> dict[Case, Callable[[], object]]:
    """Both passes of a computation, by every backend."""
    grads = [torch.randn_like(out) for out in compute()]

    def forward(backend: Backend) -> None:
        with use_backend(backend), torch.no_grad():
            compute()

    def both(backend: Backend) -> None:
        with use_backend(backend):
            torch.autograd.grad(compute(), inputs, grads)

    return {
        Case(shape, pass_, dtype, backend): partial(run, backend)
        for pass_, run in ((FORWARD, forward), (BOTH, both))
        for backend in backends()
    }
