"""What the machine can do at best: the library's matrix product, and copying memory."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from recipes.benchmark.rows import LIMITS, Row, copy_limit, matrix_limit, measured
from recipes.benchmark.timing import race, seconds_of, using_threads


@dataclass(frozen=True)
class Sizes:
    matrix: int  # rows and columns at most
    copied: int  # bytes, well beyond the caches
    repeats: int
    least: float  # seconds


FULL = Sizes(matrix=2048, copied=2**28, repeats=5, least=0.1)
QUICK = Sizes(matrix=64, copied=2**16, repeats=2, least=0.0)


def limits(threads: int, quick: bool, when: str) -> list[Row]:
    """GFLOP/s of a product of two square matrices and GB/s (read and written) of a copy, on one thread and on all."""
    sizes, rows = QUICK if quick else FULL, []
    for count in sorted({1, threads}):
        with using_threads(count):
            contestants = _contestants(count, sizes)
            seconds = race({name: one.run for name, one in contestants.items()}, sizes.repeats, sizes.least)
        for name, values in seconds.items():
            one, labels = contestants[name], {"limit": name, "when": when}
            rows.append(measured(LIMITS, labels, one.unit, [one.work / value / 1e9 for value in values]))
    return rows


@dataclass(frozen=True)
class _Contestant:
    run: Callable[[], object]
    work: int  # bytes, or floating point operations, of a call
    unit: str


def _contestants(threads: int, sizes: Sizes) -> dict[str, _Contestant]:
    source, target = torch.ones(sizes.copied, dtype=torch.uint8), torch.empty(sizes.copied, dtype=torch.uint8)
    contestants = {copy_limit(threads): _Contestant(partial(target.copy_, source), 2 * sizes.copied, "GB/s")}
    for dtype in (torch.float32, torch.bfloat16):
        a = _matrix(dtype, sizes.matrix)
        name = matrix_limit(str(dtype).removeprefix("torch."), threads)
        contestants[name] = _Contestant(partial(torch.matmul, a, a), 2 * len(a) ** 3, "GFLOP/s")
    return contestants


def _matrix(dtype: torch.dtype, most: int) -> Tensor:
    """The square matrix of `most` rows, or one whose product takes a tenth of a second: without instructions for
    bfloat16 the product of the whole takes half a minute."""
    a = torch.randn(min(256, most), min(256, most)).to(dtype)
    while len(a) < most and min(seconds_of(partial(torch.matmul, a, a)) for _ in range(2)) < 0.1:
        rows = min(2 * len(a), most)
        a = torch.randn(rows, rows).to(dtype)
    return a
