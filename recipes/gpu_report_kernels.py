"""The kernels one by one: Triton's against PyTorch's operators, as they are and compiled."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor

from recipes.benchmark.flops import layer_flops
from recipes.benchmark.rows import Row, measured
from recipes.gpu_report_bench import COMPILED, COPY, EAGER, OURS, Bench, Shape, matrix
from wavenet.kernels import reference, triton_gate, triton_layer, triton_mixture

GROUP, UNIT = "GPU kernels", "ms"
FORWARD, BOTH = "forward", "forward, backward"
HOP, TAPS, DILATION, COMPONENTS, HALF_BIN = 256, 3, 16, 10, 2.0**-16

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
Outputs = Callable[[], list[Tensor]]


@dataclass(frozen=True)
class Work:
    """What a pass does at least.

    Args:
        gigabytes: read once and written once: inputs, outputs and gradients.
        tera: FLOP, of the matrix products.
    """

    gigabytes: float
    tera: float = 0.0


@dataclass(frozen=True)
class Contest:
    """An operation on tensors of one size.

    Args:
        ours, theirs: functions of the leaves, which get gradients, and the rest.
        whole: theirs as a compiler can take it, where they compute block by block.
        works: of every pass.
    """

    op: str
    shape: str
    ours: Callable[..., Any]
    theirs: Callable[..., Any]
    leaves: list[Tensor]
    rest: tuple[Any, ...]
    works: dict[str, Work]
    whole: Callable[..., Any] | None = None

    @property
    def dtype(self) -> str:
        return str(self.leaves[0].dtype).removeprefix("torch.")


def kernels(bench: Bench) -> None:
    """Milliseconds a call; gradients of every input. What takes a compiler long is compiled for one size."""
    half = DTYPES[bench.sizes.half]
    _measure(bench, _gate(bench, half), compiled=True)
    _measure(bench, _gate(bench, torch.float32), compiled=False)
    for size in bench.sizes.layers:
        _measure(bench, _layer(bench, size, half), compiled=size == bench.sizes.layers[0])
    _measure(bench, _mixture(bench), compiled=True)


def _measure(bench: Bench, contest: Contest, compiled: bool) -> None:
    ways = {OURS: contest.ours, EAGER: contest.theirs}
    if compiled:
        ways[COMPILED] = torch.compile(contest.whole or contest.theirs, dynamic=False, backend=bench.sizes.compiler)
    contestants: dict[tuple[str, str], Callable[[], object]] = {}
    for way, function in ways.items():
        outs: Outputs = partial(_outputs, function, contest.leaves, contest.rest)
        if bench.attempt(f"{contest.op} {contest.shape} {contest.dtype}, {way}", outs):
            grads = [torch.randn_like(out) for out in outs()]
            contestants[way, FORWARD] = partial(_forward, outs)
            contestants[way, BOTH] = partial(_both, outs, contest.leaves, grads)
    ran = {OURS: "triton, interpreted" if bench.dry else "triton", EAGER: "reference", COMPILED: bench.sizes.compiler}
    labels = {"op": contest.op, "shape": contest.shape, "dtype": contest.dtype}
    for (way, pass_), seconds in bench.race(contestants).items():
        milliseconds = [1000 * one for one in seconds]
        row = measured(GROUP, labels | {"pass": pass_, "way": way}, UNIT, milliseconds, path=ran[way])
        _hold_against_limits(row, contest.works[pass_], median(seconds), contest.dtype)
        bench.add([row])


def _hold_against_limits(row: Row, work: Work, seconds: float, dtype: str) -> None:
    """Of memory, as far as the least bytes tell, and where there are products also of those."""
    row.figures["GB"], row.figures["GB/s"] = work.gigabytes, work.gigabytes / seconds
    row.limit, row.reached = COPY, work.gigabytes / seconds
    if work.tera:
        row.figures["TFLOP/s"] = row.also[matrix(dtype)] = work.tera / seconds


def _outputs(function: Callable[..., Any], leaves: list[Tensor], rest: tuple[Any, ...]) -> list[Tensor]:
    outs = function(*leaves, *rest)
    return [outs] if isinstance(outs, Tensor) else [out for out in outs if out is not None]


def _forward(outs: Outputs) -> None:
    with torch.no_grad():
        outs()


def _both(outs: Outputs, leaves: list[Tensor], grads: list[Tensor]) -> None:
    torch.autograd.grad(outs(), leaves, grads)


def _leaves(bench: Bench, shapes: list[Shape], dtype: torch.dtype, scale: float = 1.0) -> list[Tensor]:
    torch.manual_seed(0)
    return [(scale * torch.randn(shape, device=bench.device)).to(dtype).requires_grad_() for shape in shapes]


def _gate(bench: Bench, dtype: torch.dtype) -> Contest:
    B, T, G = bench.sizes.gate
    leaves = _leaves(bench, [(B, T, 2 * G), (2 * G,), (B, -(-T // HOP), 2 * G)], dtype)
    elements = B * T * G * dtype.itemsize / 1e9
    works = {FORWARD: Work(3 * elements), BOTH: Work(3 * elements + 5 * elements)}

    def ours(hidden: Tensor, bias: Tensor, frames: Tensor) -> Tensor:
        return triton_gate.gated_activation(hidden, bias, frames, HOP)

    def theirs(hidden: Tensor, bias: Tensor, frames: Tensor) -> Tensor:
        return reference.gated_activation(hidden, bias, frames, HOP)

    return Contest("gated_activation", f"{B} x {T}, {G} gates", ours, theirs, leaves, (), works)


def _layer(bench: Bench, size: Shape, dtype: torch.dtype) -> Contest:
    B, T, C, S = size
    frames, samples = -(-T // HOP), B * T
    shapes = [(B, T, C), (2 * C, TAPS * C), (2 * C,), (B, frames, 2 * C), (C + S, C), (C + S,)]
    leaves = _leaves(bench, shapes, dtype, 0.1)
    tera = samples * layer_flops(C, 2 * C, S, TAPS) / 1e12
    moved = samples * (2 * C + S) * dtype.itemsize / 1e9  # x in, y and skip out
    works = {FORWARD: Work(moved, tera), BOTH: Work(moved + moved + samples * C * dtype.itemsize / 1e9, 3 * tera)}
    rest = (DILATION, HOP, 0)

    def ours(x: Tensor, *rest: Any) -> Any:
        return triton_layer.residual_layer(x, None, *rest)

    def theirs(x: Tensor, *rest: Any) -> Any:
        return reference.residual_layer(x, None, *rest)

    shape = f"{B} x {T}, {C} residual, 2 x {C} gate, {S} skip"
    return Contest("residual_layer", shape, ours, theirs, leaves, rest, works)


def _mixture(bench: Bench) -> Contest:
    """The likelihood's inputs are small beside its arithmetic: bytes say little, and no FLOP are products."""
    R, N = bench.sizes.mixture
    leaves = _leaves(bench, [(R, COMPONENTS)] * 3 + [(R,)] * 2, torch.float32)
    draws = torch.rand(R, N, device=bench.device).clamp(1e-6, 1 - 1e-6)
    inputs, drawn = 4e-9 * R * (3 * COMPONENTS + 2), 4e-9 * R * N
    works = {FORWARD: Work(inputs + drawn + 4e-9 * R), BOTH: Work(2 * inputs + drawn + 8e-9 * R)}
    rest = (draws, HALF_BIN)
    ours, theirs = triton_mixture.logistic_mixture_cross_entropy, reference.logistic_mixture_cross_entropy
    name, whole = "logistic_mixture_cross_entropy", reference._cross_entropy
    return Contest(name, f"{R} rows of {N}", ours, theirs, leaves, rest, works, whole)
